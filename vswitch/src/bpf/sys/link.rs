//! Links: programs on interfaces, as long as somebody has the link's descriptor.

// The commands' structures have pointers; see the parent module.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{ATTACH_TYPE_TCX_INGRESS, ATTACH_TYPE_XDP, LINK_CREATE, LINK_DETACH, call, call_for_fd, object_info};

/// `XDP_FLAGS_SKB_MODE`: run an XDP program in the stack, on the kernel's packet buffers (generic).
pub const XDP_SKB_MODE: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`: run an XDP program in the driver (native).
pub const XDP_DRV_MODE: u32 = 1 << 2;

/// Attaches an XDP program to an interface of the calling thread's network namespace, until the link's last
/// descriptor is closed. `flags` are [`XDP_DRV_MODE`] or [`XDP_SKB_MODE`].
///
/// # Errors
/// `EBUSY` when there is a program already, `EEXIST` when there is one in the other mode, `EOPNOTSUPP` when the
/// driver runs none, and what the driver says.
pub fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    create(program, ifindex, ATTACH_TYPE_XDP, flags)
}

/// Attaches a tc program to what an interface of the calling thread's network namespace receives, behind those that are
/// there, until the link's last descriptor is closed.
///
/// # Errors
/// `EINVAL` before kernel 6.6, `ENODEV`.
pub fn attach_tcx_ingress(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    create(program, ifindex, ATTACH_TYPE_TCX_INGRESS, 0)
}

fn create(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = Attr { program: program.as_raw_fd() as u32, ifindex, attach_type, flags };
    // SAFETY: BPF_LINK_CREATE reads these fields and returns a new descriptor.
    unsafe { call_for_fd(LINK_CREATE, &mut attr) }
}

/// Takes a link's program off its interface, whoever else has a descriptor of the link. A child of this process has one
/// between its fork and its exec: a link that is merely closed goes on until then.
///
/// # Errors
/// `EOPNOTSUPP` if links of this kind cannot be detached, `EINVAL` before kernel 5.9.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
    }
    let mut attr = Attr { link: link.as_raw_fd() as u32 };
    // SAFETY: BPF_LINK_DETACH reads this field.
    unsafe { call(LINK_DETACH, &mut attr) }.map(drop)
}

/// The interface that an XDP link is attached to; none once it was detached or the interface is gone.
///
/// # Errors
/// `EINVAL` if the descriptor is not a link's.
pub fn xdp_link_ifindex(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    /// The beginning of `struct bpf_link_info`, with the union's member for XDP.
    #[derive(Default)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        ifindex: u32,
        rest: u32,
    }
    let mut info = Info::default();
    // SAFETY: of a link the kernel writes a prefix of `struct bpf_link_info`, at most the size that is passed.
    unsafe { object_info(link, &mut info) }?;
    Ok((info.ifindex != 0).then_some(info.ifindex))
}
