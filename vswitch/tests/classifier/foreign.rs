//! A program of somebody else: two instructions, loaded and attached by hand.

// System calls with structures of their own.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;

/// Where a program runs: `enum bpf_prog_type` and `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Where {
    Tcx,
    XdpNative,
    XdpGeneric,
}

impl Where {
    fn is_xdp(self) -> bool {
        !matches!(self, Self::Tcx)
    }
}

/// `struct bpf_prog_load_attr` of `union bpf_attr`, up to the attach type.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

#[repr(C)]
struct Link {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 4],
}

/// Loads a program that returns `verdict` and nothing else.
pub(crate) fn load(at: Where, name: &str, verdict: u8) -> io::Result<OwnedFd> {
    // r0 = verdict; exit (`BPF_ALU64 | BPF_MOV | BPF_K`, `BPF_JMP | BPF_EXIT`).
    let code: [u8; 16] = [0xb7, 0, 0, 0, verdict, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut load = Load {
        kind: if at.is_xdp() { 6 } else { 3 },
        instructions: 2,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        // `BPF_F_XDP_HAS_FRAGS`: what the classifier has too, so that the two can be compared.
        flags: if at.is_xdp() { 1 << 5 } else { 0 },
        name: [0; 16],
        ifindex: 0,
        attach_type: if at.is_xdp() { 37 } else { 46 },
    };
    for (to, from) in load.name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    call(BPF_PROG_LOAD, &mut load)
}

/// Attaches it to an interface of the calling thread's namespace, until the link is closed.
pub(crate) fn attach(program: &OwnedFd, at: Where, ifindex: u32) -> io::Result<OwnedFd> {
    let mut link = Link {
        program: program.as_raw_fd() as u32,
        ifindex,
        attach_type: if at.is_xdp() { 37 } else { 46 },
        // `XDP_FLAGS_SKB_MODE`, `XDP_FLAGS_DRV_MODE`
        flags: match at {
            Where::Tcx => 0,
            Where::XdpGeneric => 1 << 1,
            Where::XdpNative => 1 << 2,
        },
        rest: [0; 4],
    };
    call(BPF_LINK_CREATE, &mut link)
}

fn call<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads one `union bpf_attr` of the size given, and what it points to, which outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
