//! A program of somebody else: two instructions, loaded and attached by hand.

// A link of a kind that the library has no use for by hand.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use vswitch::bpf::sys::{self, Instruction, ProgramKind};

const BPF_LINK_CREATE: libc::c_int = 28;
/// `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;

/// Where a program runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Where {
    Tcx,
    XdpNative,
    XdpGeneric,
}

/// Loads a program that returns `verdict` and nothing else. For XDP it takes frames in several buffers, as the classifier
/// does, so that the two can be compared.
pub(crate) fn load(at: Where, name: &str, verdict: i32) -> io::Result<OwnedFd> {
    let (kind, flags) = match at {
        Where::Tcx => (ProgramKind::SchedCls, 0),
        Where::XdpNative | Where::XdpGeneric => (ProgramKind::Xdp, sys::XDP_HAS_FRAGS),
    };
    // r0 = verdict; exit (`BPF_ALU64 | BPF_MOV | BPF_K`, `BPF_JMP | BPF_EXIT`).
    let instruction = |code, immediate| Instruction { code, registers: 0, offset: 0, immediate };
    sys::load(kind, &[instruction(0xb7, verdict), instruction(0x95, 0)], c"GPL", flags, name)
}

/// Attaches it to an interface of the calling thread's namespace, until the link is closed.
pub(crate) fn attach(program: &OwnedFd, at: Where, ifindex: u32) -> io::Result<OwnedFd> {
    match at {
        Where::Tcx => attach_tcx(program, ifindex),
        Where::XdpNative => sys::attach_xdp(program.as_fd(), ifindex, sys::XDP_DRV_MODE),
        Where::XdpGeneric => sys::attach_xdp(program.as_fd(), ifindex, sys::XDP_SKB_MODE),
    }
}

fn attach_tcx(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Link {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
        rest: [u64; 4],
    }
    let mut link =
        Link { program: program.as_raw_fd() as u32, ifindex, attach_type: BPF_TCX_INGRESS, flags: 0, rest: [0; 4] };
    // SAFETY: the kernel reads one `union bpf_attr` of the size given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw mut link, size_of::<Link>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
