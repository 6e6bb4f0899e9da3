//! bpf(2), as far as it is used here: maps, programs, links, and what the kernel says of them.
//!
//! Each call fills the member of `union bpf_attr` (`include/uapi/linux/bpf.h`) that its command reads. The
//! kernel takes a shorter union than its own for one that is zero beyond, so these structures end after the last
//! field in use. They have no implicit padding, which would have to be zero.

// A system call with pointers in its argument: each wrapper pairs one command with its structure.
#![allow(unsafe_code)]

mod link;
mod map;
mod program;

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub use self::link::{XDP_DRV_MODE, XDP_SKB_MODE, attach_tcx_ingress, attach_xdp, detach_link, xdp_link_ifindex};
pub use self::map::{Map, MapKind};
pub use self::program::{
    Instruction, ProgramInfo, ProgramKind, TestRun, XDP_HAS_FRAGS, load, program_info, program_info_by_id, test_run,
};

const MAP_CREATE: c_int = 0;
const MAP_LOOKUP_ELEM: c_int = 1;
const MAP_UPDATE_ELEM: c_int = 2;
const MAP_DELETE_ELEM: c_int = 3;
const PROG_LOAD: c_int = 5;
const PROG_TEST_RUN: c_int = 10;
const PROG_GET_FD_BY_ID: c_int = 13;
const OBJ_GET_INFO_BY_FD: c_int = 15;
const LINK_CREATE: c_int = 28;
const LINK_DETACH: c_int = 34;

/// `BPF_OBJ_NAME_LEN`, the terminating zero included.
const NAME_BYTES: usize = 16;
/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_TYPE_XDP: u32 = 37;
/// `BPF_TCX_INGRESS` of the same.
const ATTACH_TYPE_TCX_INGRESS: u32 = 46;
/// How often a call is repeated that a signal interrupted, or for which the kernel had no time.
const ATTEMPTS: u32 = 16;

/// # Safety
/// Every value of `T` is sound, and `T` is a prefix of what the kernel writes for the descriptor's kind.
unsafe fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        object: u32,
        info_bytes: u32,
        info: u64,
    }
    let mut attr = Attr {
        object: object.as_raw_fd() as u32,
        info_bytes: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the kernel writes at most `info_bytes` bytes to `info`; the rest is the caller's promise.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attr) }.map(|_| ())
}

/// # Safety
/// `attr` is what `command` reads, its pointers are valid for that, and the command returns a descriptor.
unsafe fn call_for_fd<T>(command: c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, attr) }?;
    // SAFETY: the kernel just made the descriptor (with O_CLOEXEC), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` is what `command` reads, and its pointers are valid for that.
unsafe fn call<T>(command: c_int, attr: &mut T) -> io::Result<c_int> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes of `attr`; the rest is the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
        if result >= 0 {
            return Ok(result as c_int);
        }
        let error = io::Error::last_os_error();
        // The verifier gives up when a signal comes.
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) || attempts == ATTEMPTS {
            return Err(error);
        }
    }
}

/// A name as the kernel takes it: letters, digits, `_` and `.`, at most 15.
fn object_name(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    for (to, from) in bytes[..NAME_BYTES - 1].iter_mut().zip(name.bytes().filter(allowed)) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_acceptable() {
        assert_eq!(&object_name("vswitch-port"), b"vswitchport\0\0\0\0\0");
        assert_eq!(&object_name("a_much_too_long_name"), b"a_much_too_long\0");
    }

    #[test]
    fn an_instruction_has_eight_bytes() {
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
