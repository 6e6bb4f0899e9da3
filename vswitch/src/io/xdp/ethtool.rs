//! What ethtool(8) asks and tells a driver (`include/uapi/linux/ethtool.h`): who it is, how many receive queues it has,
//! and which features to leave to the kernel.

// An ioctl whose argument is a pointer inside of a structure.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
/// `ETH_SS_FEATURES`: the set of strings with the features' names.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN`
const NAME_BYTES: usize = 32;
/// More features than any kernel has (64 of 6.18 are in use).
const FEATURES_MAX: usize = 1024;

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

/// Turns off those of `features` that are on and may be turned off, by the names that `ethtool -k` prints them
/// under where it is told no other. Which they were.
///
/// # Errors
/// `ENODEV` without such an interface in the calling thread's network namespace, `EPERM`.
pub fn turn_off_features<'a>(interface: &str, features: &[&'a str]) -> io::Result<Vec<&'a str>> {
    let names = feature_names(interface)?;
    let blocks = names.len().div_ceil(32);
    // `struct ethtool_gfeatures`: per 32 features what is available, wanted, active and never changed.
    let mut now = vec![0; 2 + 4 * blocks];
    (now[0], now[1]) = (ETHTOOL_GFEATURES, blocks as u32);
    // SAFETY: ETHTOOL_GFEATURES writes as many blocks as the second field says, which are there.
    unsafe { ethtool(interface, now.as_mut_ptr().cast()) }?;
    // `struct ethtool_sfeatures`: per 32 features which ones to change, and to what.
    let mut change = vec![0; 2 + 2 * blocks];
    (change[0], change[1]) = (ETHTOOL_SFEATURES, blocks as u32);
    let mut off = Vec::new();
    for &feature in features {
        let Some(bit) = names.iter().position(|name| name == feature) else { continue };
        let (block, mask) = (bit / 32, 1 << (bit % 32));
        let [available, _, active, _] = [0, 1, 2, 3].map(|field| now[2 + 4 * block + field] & mask != 0);
        if available && active {
            change[2 + 2 * block] |= mask;
            off.push(feature);
        }
    }
    if !off.is_empty() {
        // SAFETY: ETHTOOL_SFEATURES reads as many blocks as the second field says, which are there.
        unsafe { ethtool(interface, change.as_mut_ptr().cast()) }?;
    }
    Ok(off)
}

/// The features' names, in the order of their bits.
fn feature_names(interface: &str) -> io::Result<Vec<String>> {
    // `struct ethtool_sset_info`: the mask is of 64 bits, and the one set of it has one number behind it.
    let mut info = [u64::from(ETHTOOL_GSSET_INFO), 1 << FEATURE_NAMES, 0];
    if cfg!(target_endian = "big") {
        info[0] <<= 32;
    }
    // SAFETY: ETHTOOL_GSSET_INFO writes a number for each bit of the mask, which has one.
    unsafe { ethtool(interface, info.as_mut_ptr().cast()) }?;
    let count = info[2].to_ne_bytes().first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)) as usize;
    if info[1] == 0 || count > FEATURES_MAX {
        return Ok(Vec::new());
    }
    // `struct ethtool_gstrings`
    const HEADER_WORDS: usize = 3;
    let mut strings = vec![0u32; HEADER_WORDS + count * NAME_BYTES / 4];
    strings[..HEADER_WORDS].copy_from_slice(&[ETHTOOL_GSTRINGS, FEATURE_NAMES, count as u32]);
    // SAFETY: ETHTOOL_GSTRINGS writes as many strings as the set has, for which there is room.
    unsafe { ethtool(interface, strings.as_mut_ptr().cast()) }?;
    let bytes: Vec<u8> = strings[HEADER_WORDS..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    Ok(bytes.chunks_exact(NAME_BYTES).map(name).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_features_and_none_of_made_up_names() {
        let names = feature_names("lo").expect("lo");
        assert!(names.iter().any(|name| name == "tx-scatter-gather"), "{names:?}");
        assert!(turn_off_features("lo", &["no-such-feature"]).expect("lo").is_empty());
        assert!(turn_off_features("no-such-link", &[]).is_err());
    }
}
