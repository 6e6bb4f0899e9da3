//! Runs a program on a frame (`BPF_PROG_TEST_RUN`, `Documentation/bpf/bpf_prog_run.rst`).

// A system call with a structure of its own.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// The part of `union bpf_attr` for this command.
#[repr(C)]
#[derive(Default)]
struct Attr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Runs the program once; gives what it returned and the frame afterwards.
///
/// `linear`: of an XDP program's frame, only so many bytes are in its first buffer (kernel 6.18).
pub(crate) fn run(program: BorrowedFd<'_>, frame: &[u8], linear: Option<usize>) -> io::Result<(u32, Vec<u8>)> {
    run_often(program, frame, linear, 1).map(|(returned, after, _)| (returned, after))
}

/// The same `repeat` times; gives besides how long a run takes, in nanoseconds. That includes the kernel's loop around it.
pub(crate) fn run_often(
    program: BorrowedFd<'_>,
    frame: &[u8],
    linear: Option<usize>,
    repeat: u32,
) -> io::Result<(u32, Vec<u8>, u32)> {
    let mut out = vec![0; frame.len() + 256];
    let context = XdpMd { data_end: linear.unwrap_or_default() as u32, ..XdpMd::default() };
    let mut attr = Attr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ..Attr::default()
    };
    if linear.is_some() {
        attr.ctx_in = &raw const context as u64;
        attr.ctx_size_in = size_of::<XdpMd>() as u32;
    }
    // SAFETY: the kernel reads and writes one `union bpf_attr` of the size given, reads `frame` and `context`, and
    // writes at most `data_size_out` bytes to `out`; all outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<Attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out, attr.duration_ns))
}
