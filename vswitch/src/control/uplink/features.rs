//! What has to be different about an interface while the switch has it: its receive offloads, and
//! that it takes every frame.
//!
//! *Promiscuous* is a membership of a packet socket (packet(7)), which the kernel counts and takes
//! back when the socket closes, however the process ends. The flag of `ip link set promisc on` would
//! stay behind.
//!
//! *Large receive offload* merges packets in a way that cannot be taken apart again, so nothing that
//! forwards can live with it; the kernel's own bridge turns it off, too (`dev_disable_lro`). *Receive
//! VLAN offload* takes the tag out of the frame, where an XDP program cannot see it. Both are
//! settings of the interface that outlive the process, so who turned them off is written down.

// Socket options and ioctls that no crate offers.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// `ETHTOOL_GFLAGS` and `ETHTOOL_SFLAGS` (`include/uapi/linux/ethtool.h`).
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;

/// A receive offload (`ETH_FLAG_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Large receive offload.
    Lro,
    /// The VLAN tag is taken out of the frame.
    RxVlan,
}

impl Offload {
    fn flag(self) -> u32 {
        match self {
            Self::Lro => 1 << 15,
            Self::RxVlan => 1 << 8,
        }
    }

    /// Whether it is on, for an interface of the calling thread's namespace. A driver that does not
    /// say has none.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface.
    pub fn is_on(self, interface: &str) -> io::Result<bool> {
        flags(interface).map(|flags| flags & self.flag() != 0)
    }

    /// Turns it on or off.
    ///
    /// # Errors
    /// What the driver says; `EOPNOTSUPP` if it cannot be changed.
    pub fn set(self, interface: &str, on: bool) -> io::Result<()> {
        let before = flags(interface)?;
        let after = if on { before | self.flag() } else { before & !self.flag() };
        if before == after {
            return Ok(());
        }
        let mut value = Value { command: ETHTOOL_SFLAGS, data: after };
        ethtool(interface, &mut value)
    }
}

fn flags(interface: &str) -> io::Result<u32> {
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    match ethtool(interface, &mut value) {
        Ok(()) => Ok(value.data),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(0),
        Err(error) => Err(error),
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq` with the member of its union that ethtool uses.
#[repr(C)]
struct IfReq {
    name: [c_char; libc::IFNAMSIZ],
    value: *mut Value,
    rest: [u8; 16],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

fn ethtool(interface: &str, value: &mut Value) -> io::Result<()> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], value, rest: [0; 16] };
    for (to, from) in request.name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: SIOCETHTOOL reads one `struct ifreq`, which `IfReq` is, and for these two commands reads
    // and writes one `struct ethtool_value` that it points to; both live until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// As long as this lives, an interface takes every frame on its wire.
#[derive(Debug)]
pub struct Promiscuous {
    _socket: OwnedFd,
}

impl Promiscuous {
    /// Makes the interface with this index, of the calling thread's namespace, promiscuous.
    ///
    /// # Errors
    /// `ENODEV` if there is none, `EPERM` without `CAP_NET_RAW`.
    pub fn on(index: u32) -> io::Result<Self> {
        // Without a protocol the socket receives nothing.
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let membership = libc::packet_mreq {
            mr_ifindex: c_int::try_from(index).map_err(io::Error::other)?,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: PACKET_ADD_MEMBERSHIP reads one `struct packet_mreq`, which is passed with its size.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast::<c_void>(),
                size_of_val(&membership) as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { _socket: socket }) }
    }
}
