//! Two questions to a driver (`include/uapi/linux/ethtool.h`): who are you, and how many receive queues?

// An ioctl whose argument is a pointer inside of a structure.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`
#[derive(Default)]
#[repr(C)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// The name of the interface's driver, in the calling thread's network namespace.
///
/// # Errors
/// `ENODEV` without such an interface, `EOPNOTSUPP` if nobody answers for it.
pub(super) fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: ETHTOOL_GDRVINFO writes one `struct ethtool_drvinfo`, whose size `DriverInfo` has.
    unsafe { ethtool(interface, (&raw mut info).cast()) }?;
    let end = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

/// The number of receive queues in use. One for drivers that do not say.
///
/// # Errors
/// `ENODEV` without such an interface.
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    // SAFETY: ETHTOOL_GCHANNELS writes one `struct ethtool_channels`, which `Channels` is.
    match unsafe { ethtool(interface, (&raw mut channels).cast()) } {
        Ok(()) => Ok((channels.rx + channels.combined).max(1)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(error),
    }
}

/// # Safety
/// `argument` points to the structure that the command in its first field reads and writes.
unsafe fn ethtool(interface: &str, argument: *mut c_void) -> io::Result<()> {
    /// `struct ifreq` with the member of its union that ethtool uses.
    #[repr(C)]
    struct IfReq {
        name: [c_char; libc::IFNAMSIZ],
        argument: *mut c_void,
        rest: [u8; 16],
    }
    const { assert!(size_of::<IfReq>() == size_of::<libc::ifreq>()) };
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], argument, rest: [0; 16] };
    for (to, from) in request.name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: SIOCETHTOOL reads one `struct ifreq`; what it points to is the caller's promise.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
