//! TAP interfaces (`Documentation/networking/tuntap.rst`): the container's `eth0` is the other end
//! of one of our descriptors.
//!
//! # Life
//!
//! A TAP is *created* in the namespace where it is to be. The other way, to create it in the host's
//! and to move it, costs a wait in `rcu_barrier` with the kernel's rtnetlink lock held, 16 to 24 ms at
//! 250 Hz against less than one.
//!
//! After a restart of the daemon a persistent TAP is *attached* by name, and the name is looked up
//! in the namespace where the descriptor was opened, which is the container's again.
//!
//! The price of both: an open descriptor of `/dev/net/tun` holds the namespace in which it was
//! **opened**. Such a namespace ends only when we let go, so the control plane asks
//! `control::netns::census` whether anybody else still has it. When the interface is removed, poll
//! reports an error at once and reads fail with `EBADFD`, which is [`RxStatus::Gone`].
//!
//! A TAP is not persistent when it is created, so that a crash halfway leaves nothing behind.
//!
//! # Frames
//!
//! One queue, non-blocking, no packet information, a 10-byte `virtio_net_hdr` in front of each
//! frame; 24 bytes where tunnels are carried. The 12-byte form only adds `num_buffers`, which tun writes as zero and never reads. Header and
//! frame are read in one piece into the frame's headroom and body, so reception neither copies nor
//! gathers. `O_NONBLOCK` is also what lets the kernel build a small frame's skb around one page
//! fragment (`tun_can_build_skb`), which is half of the cost of a small write.
//!
//! # Offloads
//!
//! What the kernel may leave unfinished is asked for from the richest set downward. A promise may
//! turn out empty: some kernels refuse a kind of super-frame at the write. Then that capability is
//! switched off for this device, for good, and the egress segments from then on. A kind that the
//! device has taken before is not switched off: there the frame is at fault, and one container's bad frames
//! must not slow down another.
//!
//! [`RxStatus::Gone`]: super::RxStatus::Gone

mod ioctl;
mod offload;
mod queue;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use self::offload::LiveCaps;
use super::{Caps, Device, RxQueue, TxQueue};
use crate::frame::Pool;
use crate::wire::vnet_hdr;

/// The transmit queue of a TAP in frames (`IFLA_TXQLEN`): what the container has sent and the
/// switch has not read yet. The kernel's default of 1000 overflows, silently, in a burst of small
/// frames while the worker sleeps. Set over netlink, before the interface is up.
pub const TX_QUEUE_LEN: u32 = 4096;

/// The longest interface name in bytes.
pub const NAME_BYTES_MAX: usize = ioctl::IFNAMSIZ - 1;

/// A TAP interface of which this process has the one queue.
#[derive(Debug)]
pub struct TapDevice {
    name: String,
    shared: Arc<Shared>,
}

/// What the device and its queues have in common; the descriptor closes with the last of them.
#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    caps: LiveCaps,
    /// The bytes of the header in front of each frame.
    header_bytes: usize,
}

impl TapDevice {
    /// Creates the interface `name` in the calling thread's network namespace. It goes with its
    /// last descriptor until [`TapDevice::set_persistent`] says otherwise.
    ///
    /// # Errors
    /// `InvalidInput` for a name that the kernel would not take literally, `AlreadyExists`,
    /// `PermissionDenied` without `CAP_NET_ADMIN`, `NotFound` without `/dev/net/tun`.
    pub fn create(name: &str) -> io::Result<Self> {
        Self::create_with(name, false)
    }

    /// The same, for an interface that carries tunnels: super-frames inside of UDP tunnels are read and written whole
    /// ([`Frame::encapsulation`]), if the kernel grants it (Linux 6.17 does).
    ///
    /// # Errors
    /// As [`TapDevice::create`].
    ///
    /// [`Frame::encapsulation`]: crate::frame::Frame::encapsulation
    pub fn create_for_tunnels(name: &str) -> io::Result<Self> {
        Self::create_with(name, true)
    }

    fn create_with(name: &str, tunnels: bool) -> io::Result<Self> {
        let fd = open()?;
        check_name(name)?;
        ioctl::set_iff(fd.as_fd(), name, ioctl::TAP_FLAGS | ioctl::EXCLUSIVE).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::BUSY | Errno::EXIST) => io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("interface {name} exists already; remove it or choose another name"),
                ),
                _ => explain(&error, "create", name),
            }
        })?;
        Self::configure(name, fd, tunnels)
    }

    /// Takes the existing persistent TAP `name` of the calling thread's network namespace, which
    /// the descriptor holds from now on.
    ///
    /// # Errors
    /// `NotFound` if there is no such interface, `ResourceBusy` if another process has its queue,
    /// `InvalidInput` if it is no single-queue TAP, `PermissionDenied`.
    pub fn attach(name: &str) -> io::Result<Self> {
        let fd = open()?;
        check_name(name)?;
        // TUNSETIFF would create what it does not find.
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        if let Err(error) = rustix::net::netdevice::name_to_index(&socket, name) {
            return Err(match error {
                Errno::NODEV | Errno::NXIO => not_found(name),
                _ => error.into(),
            });
        }
        ioctl::set_iff(fd.as_fd(), name, ioctl::TAP_FLAGS).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("interface {name} is in use: another process, perhaps a second daemon, has its queue"),
            ),
            Some(Errno::INVAL) => io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("interface {name} is not a single-queue TAP, so it is not one that the switch made"),
            ),
            _ => explain(&error, "attach to", name),
        })?;
        // It may have gone between the look and the grab: then the grab made a new one, which is
        // not persistent and goes again with `fd`.
        if ioctl::get_flags(fd.as_fd())? & ioctl::PERSISTENT == 0 {
            return Err(not_found(name));
        }
        Self::configure(name, fd, false)
    }

    fn configure(name: &str, fd: OwnedFd, tunnels: bool) -> io::Result<Self> {
        // The kernel takes the promise in headers of any size, and keeps it in those of this one only: so the
        // promise decides, and the size follows.
        let granted = if tunnels { offload::probe_tunnels(fd.as_fd()) } else { None };
        let (caps, header_bytes) = match granted {
            Some(caps) => (caps, vnet_hdr::HEADER_BYTES_TUNNEL),
            None => (offload::probe(fd.as_fd())?, vnet_hdr::HEADER_BYTES),
        };
        ioctl::set_vnet_hdr_size(fd.as_fd(), header_bytes)?;
        Ok(Self { name: name.to_owned(), shared: Arc::new(Shared { fd, caps: LiveCaps::new(caps), header_bytes }) })
    }

    /// The name under which the interface was created or attached; it may have been renamed since.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the interface, with its addresses and routes, stays when its descriptor is closed.
    ///
    /// # Errors
    /// `EBADFD` when the interface is gone.
    pub fn set_persistent(&self, on: bool) -> io::Result<()> {
        ioctl::set_persistent(self.shared.fd.as_fd(), on)
    }
}

impl AsFd for TapDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }
}

impl Device for TapDevice {
    fn caps(&self) -> Caps {
        self.shared.caps.get()
    }

    fn open_rx(&self, _pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        Ok(Box::new(queue::TapRx::new(Arc::clone(&self.shared))))
    }

    fn open_tx(&self, _pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        Ok(Box::new(queue::TapTx::new(Arc::clone(&self.shared))))
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|error| {
        let remedy = match error {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => "load the kernel module tun (modprobe tun)",
            Errno::PERM | Errno::ACCESS => "run as root, or allow the device to this container",
            _ => "see the kernel log",
        };
        io::Error::new(io::Error::from(error).kind(), format!("cannot open /dev/net/tun: {error}; {remedy}"))
    })
}

/// What the kernel's `dev_valid_name` refuses, and `%`, which it would expand.
fn check_name(name: &str) -> io::Result<()> {
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("it has {} bytes and an interface name has at most {NAME_BYTES_MAX}", name.len())
    } else if name == "." || name == ".." {
        "it is reserved".to_owned()
    } else if name.bytes().any(|b| b == 0 || b == b'/' || b == b':' || b == b'%' || b.is_ascii_whitespace()) {
        "it contains '/', ':', '%' or white space".to_owned()
    } else {
        return Ok(());
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("invalid interface name {name:?}: {why}; choose another one"),
    ))
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("there is no persistent TAP named {name} in this network namespace"),
    )
}

fn explain(error: &io::Error, verb: &str, name: &str) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; CAP_NET_ADMIN is needed in the network namespace's user namespace",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot {verb} TAP {name}: {error}{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_expand_or_refuse_are_refused_with_the_reason() {
        for (name, why) in [
            ("", "empty"),
            ("sixteen-bytes-xx", "at most 15"),
            ("..", "reserved"),
            ("a/b", "'/'"),
            ("tap%d", "'%'"),
            ("a b", "white space"),
        ] {
            let error = check_name(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(check_name("eth0").is_ok());
        assert!(check_name("fifteen-bytes-x").is_ok());
    }
}
