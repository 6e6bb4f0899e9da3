//! The ioctls of `/dev/net/tun` (`include/uapi/linux/if_tun.h`), typed.

// An ioctl's argument is whatever its number says: each wrapper here pairs one number with its type.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_short};
use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};

const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<c_int>(b'T', 203);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_int>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<c_int>(b'T', 210);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<c_int>(b'T', 216);

/// The longest interface name, its terminating zero included (`IFNAMSIZ`).
pub(super) const IFNAMSIZ: usize = 16;

/// Ethernet frames, no packet information, offloads in front of each frame.
pub(super) const TAP_FLAGS: c_short = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short;
/// Refuse a name that exists (`IFF_TUN_EXCL`).
pub(super) const EXCLUSIVE: c_short = libc::IFF_TUN_EXCL as u16 as c_short;
/// The interface outlives its descriptors; reported only (`IFF_PERSIST`).
pub(super) const PERSISTENT: c_short = libc::IFF_PERSIST as c_short;

/// `struct ifreq` with the member of its union that tun uses.
#[repr(C)]
struct IfReq {
    name: [c_char; IFNAMSIZ],
    flags: c_short,
    /// The union's other members reach further.
    rest: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

impl IfReq {
    fn new(name: &str, flags: c_short) -> Self {
        let mut req = Self { name: [0; IFNAMSIZ], flags, rest: [0; 22] };
        // The last byte stays zero whatever the length.
        for (to, from) in req.name[..IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
            *to = from as c_char;
        }
        req
    }
}

/// Makes `fd` the queue of the interface `name`, and creates that if it does not exist.
pub(super) fn set_iff(fd: BorrowedFd<'_>, name: &str, flags: c_short) -> io::Result<()> {
    let mut req = IfReq::new(name, flags);
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size and layout `IfReq` has.
    unsafe { ioctl(fd, Updater::<TUNSETIFF, IfReq>::new(&mut req)) }?;
    Ok(())
}

/// The flags of the interface that `fd` is a queue of.
pub(super) fn get_flags(fd: BorrowedFd<'_>) -> io::Result<c_short> {
    let mut req = IfReq::new("", 0);
    // SAFETY: TUNGETIFF writes one `struct ifreq`, whose size and layout `IfReq` has.
    unsafe { ioctl(fd, Updater::<TUNGETIFF, IfReq>::new(&mut req)) }?;
    Ok(req.flags)
}

/// Whether the interface stays when its last descriptor is closed.
pub(super) fn set_persistent(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes an integer by value.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETPERSIST>::new_usize(usize::from(on))) }?;
    Ok(())
}

/// Which unfinished frames (`TUN_F_*`) the kernel may hand over; fails if it does not know one.
pub(super) fn set_offload(fd: BorrowedFd<'_>, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes an integer by value.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(bits as usize)) }?;
    Ok(())
}

/// The size of the header in front of each frame, in bytes.
pub(super) fn set_vnet_hdr_size(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(fd, Setter::<TUNSETVNETHDRSZ, c_int>::new(bytes as c_int)) }?;
    Ok(())
}
