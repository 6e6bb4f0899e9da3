//! The sockets, and what is set on them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::sys;
use crate::tunnel::TTL_DEFAULT;
use crate::tunnel::inner::{SOURCE_PORT_FIRST, SOURCE_PORTS as PORTS_OF_THE_RANGE};

/// The number of source ports, and so of ways through a network that balances by them.
pub const SOURCE_PORTS: usize = 16;

/// Bytes that may wait in the receiving socket: a window of one fast TCP connection. The kernel's
/// default of 208 KB overflows within three trains.
const RECEIVE_BUFFER_BYTES: i32 = 8 << 20;
/// Bytes that may wait in a sending socket until the interface has sent them.
const SEND_BUFFER_BYTES: i32 = 4 << 20;
/// Random source ports that are tried before giving up.
const BIND_ATTEMPTS_MAX: u32 = 256;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4 = 0,
    V6 = 1,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn open(self) -> io::Result<OwnedFd> {
        let family = match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?)
    }
}

/// The socket on which tunnel packets arrive.
pub(super) fn open_receiver(local: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let both_families = local == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let socket = match Family::of(local).open() {
        // A kernel without IPv6 has all its addresses in the other family.
        Err(error) if both_families && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            return open_receiver(Ipv4Addr::UNSPECIFIED.into(), port);
        }
        socket => socket?,
    };
    let fd = socket.as_fd();
    set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES)?;
    // What the socket had to drop is reported with the next packet.
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    if local.is_ipv6() {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(!both_families))?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        // RFC 6935: a tunnel may accept packets without a checksum over IPv6.
        sys::set_option(fd, libc::SOL_UDP, sys::UDP_NO_CHECK6_RX, 1)?;
    }
    if local.is_ipv4() || both_families {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
    }
    // Since Linux 5.0. Without it packets arrive one by one, which is slower and nothing else.
    let _ = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    rustix::net::bind(&socket, &SocketAddr::new(local, port))?;
    Ok(socket)
}

/// The sockets of one family from which packets leave.
#[derive(Debug)]
pub(super) struct Senders {
    family: Family,
    ports: Vec<Port>,
    /// Asks what a path carries: only a connected socket is answered, and the others are not connected,
    /// so that one serves all remotes.
    prober: Mutex<OwnedFd>,
}

/// The sockets of one source port.
#[derive(Debug)]
struct Port {
    /// For trains, which have a checksum.
    checked: OwnedFd,
    /// For single packets over IPv4, which have none.
    unchecked: Option<OwnedFd>,
}

impl Senders {
    pub(super) fn open(local: IpAddr, family: Family) -> io::Result<Self> {
        let local = if local.is_unspecified() { family.unspecified() } else { local };
        let ports = (0..SOURCE_PORTS).map(|_| Port::open(local, family)).collect::<io::Result<_>>()?;
        let prober = family.open()?;
        sys::drop_everything_received(prober.as_fd())?;
        // Its address is theirs, because the route may depend on that.
        rustix::net::bind(&prober, &SocketAddr::new(local, 0))?;
        Ok(Self { family, ports, prober: Mutex::new(prober) })
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// Which source port a flow has: an index below [`SOURCE_PORTS`].
    #[inline]
    pub(super) fn index_of(hash: u32) -> u8 {
        const { assert!(SOURCE_PORTS == 16) };
        (hash >> 28) as u8
    }

    /// The socket for a train, or for a single packet, of a source port.
    #[inline]
    pub(super) fn socket(&self, index: u8, is_train: bool) -> RawFd {
        let port = &self.ports[usize::from(index) % SOURCE_PORTS];
        match &port.unchecked {
            Some(unchecked) if !is_train => unchecked.as_raw_fd(),
            _ => port.checked.as_raw_fd(),
        }
    }

    /// What the kernel holds the path to `remote` to carry now, in bytes of an IP packet.
    pub(super) fn path_mtu(&self, remote: SocketAddr) -> io::Result<u32> {
        let prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::net::connect(&*prober, &remote)?;
        let (level, option) = match self.family {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        Ok(u32::try_from(sys::option(prober.as_fd(), level, option)?).unwrap_or(0))
    }
}

impl Port {
    /// A pair of sockets on a source port that nobody has.
    fn open(local: IpAddr, family: Family) -> io::Result<Self> {
        let mut attempts = 0;
        loop {
            let mut random = [0; 2];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let port = SOURCE_PORT_FIRST + u16::from_ne_bytes(random) % PORTS_OF_THE_RANGE;
            match Self::bind(SocketAddr::new(local, port), family) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < BIND_ATTEMPTS_MAX => attempts += 1,
                result => return result,
            }
        }
    }

    fn bind(local: SocketAddr, family: Family) -> io::Result<Self> {
        let checked = open_sender(family)?;
        // Alone on the port first: sharing is asked for afterwards, so that it is shared with nobody else.
        rustix::net::bind(&checked, &local)?;
        let unchecked = match family {
            Family::V6 => None,
            Family::V4 => {
                let socket = open_sender(family)?;
                for fd in [checked.as_fd(), socket.as_fd()] {
                    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
                }
                sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
                rustix::net::bind(&socket, &local)?;
                for fd in [checked.as_fd(), socket.as_fd()] {
                    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0)?;
                }
                Some(socket)
            }
        };
        Ok(Self { checked, unchecked })
    }
}

fn open_sender(family: Family) -> io::Result<OwnedFd> {
    let socket = family.open()?;
    let fd = socket.as_fd();
    sys::drop_everything_received(fd)?;
    set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER_BYTES)?;
    match family {
        Family::V4 => {
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_TTL, i32::from(TTL_DEFAULT))?;
        }
        Family::V6 => {
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, i32::from(TTL_DEFAULT))?;
        }
    }
    Ok(socket)
}

/// Sets a buffer's size, beyond the limit of the system where that is allowed.
fn set_buffer(fd: BorrowedFd<'_>, force: i32, plain: i32, bytes: i32) -> io::Result<()> {
    sys::set_option(fd, libc::SOL_SOCKET, force, bytes).or_else(|_| sys::set_option(fd, libc::SOL_SOCKET, plain, bytes))
}
