//! The XDP program of an interface that the switch owns.
//!
//! Five instructions, one of them of double width, assembled here: no compiler, no loader library, no pinned objects.
//! It hands every packet to the socket of the receive queue that the packet came in on, and understands packets in
//! more than one buffer.
//!
//! *And where there is no socket?* `XDP_PASS` would give the packet to the host's own stack: around the bridge, its
//! VLANs and its isolation, to a stack that answers ARP for any of the host's addresses. That must not be. So the
//! packet is dropped, but not by `XDP_DROP`, which nobody would ever notice: by `XDP_ABORTED`, which fires the
//! tracepoint `xdp:xdp_exception` with program and interface. It happens only on queues that were added after the
//! device was opened: the sockets are in the map before the program is attached, and the program is detached before
//! they are closed.
//!
//! The program is attached by a link (`BPF_LINK_CREATE`), which goes with this process, however it ends: then the
//! interface is as it was before, offloads of a veth's peer included. What comes in then is the host's: an interface that
//! is kept for a daemon to come back to should be down meanwhile, or have no use for the host's stack.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::mode::{Refused, XdpMode, why_not_attached};
use crate::bpf::sys::{self, Instruction, Map, MapKind, ProgramInfo, ProgramKind};
use crate::control::netlink::Netlink;

/// The name under which people find program and map (`bpftool prog`).
const NAME: &str = "vswitch_port";
/// Nothing of it is anybody's secret, and the kernel asks.
const LICENSE: &CStr = c"Dual MIT/GPL";

/// The offset of `rx_queue_index` in `struct xdp_md`.
const RX_QUEUE_INDEX: i16 = 16;
/// `bpf_redirect_map`. Its third argument's lowest bits are what it returns for a key without a value.
const REDIRECT_MAP: i32 = 51;
const XDP_ABORTED: i32 = 0;

/// A map from receive queues to sockets, for `queues` queues.
pub(super) fn socket_map(queues: u32) -> io::Result<Map> {
    Map::create(MapKind::Xsk, 4, 4, queues, NAME).map_err(|error| explain("create the map of sockets", &error))
}

/// Loads the program.
pub(super) fn load(sockets: &Map) -> io::Result<OwnedFd> {
    let program = assemble(sockets.as_fd().as_raw_fd());
    sys::load(ProgramKind::Xdp, &program, LICENSE, sys::XDP_HAS_FRAGS, NAME)
        .map_err(|error| explain("load the XDP program", &error))
}

fn explain(what: &str, error: &io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; CAP_BPF and CAP_NET_ADMIN are needed",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot {what}: {error}{remedy}"))
}

fn assemble(map: i32) -> [Instruction; 6] {
    const LOAD_U32: u8 = 0x61;
    const LOAD_IMMEDIATE_U64: u8 = 0x18;
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    /// The immediate of a load is a map's descriptor (`BPF_PSEUDO_MAP_FD`), in the source register's place.
    const MAP_DESCRIPTOR: u8 = 1;
    let register = |destination: u8, source: u8| destination | source << 4;
    let instruction = |code, registers, offset, immediate| Instruction { code, registers, offset, immediate };
    [
        // r2 = context->rx_queue_index
        instruction(LOAD_U32, register(2, 1), RX_QUEUE_INDEX, 0),
        // r1 = map, in two halves
        instruction(LOAD_IMMEDIATE_U64, register(1, MAP_DESCRIPTOR), 0, map),
        instruction(0, 0, 0, 0),
        // r3 = what to do without a socket
        instruction(MOVE_IMMEDIATE, register(3, 0), 0, XDP_ABORTED),
        // return bpf_redirect_map(r1, r2, r3)
        instruction(CALL, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0),
    ]
}

/// A program on an interface, until it is dropped.
#[derive(Debug)]
pub(super) struct Attached {
    link: OwnedFd,
    pub(super) mode: XdpMode,
}

impl Attached {
    /// Attaches `program` in the first of `modes` that the interface takes. What it refused goes to `refused`.
    ///
    /// # Errors
    /// `ResourceBusy` if the interface has another program, which the message names; else what the last mode met.
    pub(super) fn attach(
        program: BorrowedFd<'_>,
        interface: &str,
        ifindex: u32,
        modes: &[XdpMode],
        refused: &mut Vec<Refused>,
    ) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no mode was allowed");
        for &mode in modes {
            let flags = if mode == XdpMode::Generic { sys::XDP_SKB_MODE } else { sys::XDP_DRV_MODE };
            match sys::attach_xdp(program, ifindex, flags) {
                Ok(link) => return Ok(Self { link, mode }),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                    return Err(taken(interface, ifindex, &error));
                }
                Err(error) => {
                    refused.push(Refused { mode, why: why_not_attached(&error) });
                    last = error;
                }
            }
        }
        let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
        Err(io::Error::new(last.kind(), format!("{interface} takes no XDP program: {}", refused.join("; "))))
    }

    /// Whether the program is still on the interface: it may have been detached by somebody else.
    pub(super) fn is_attached(&self) -> bool {
        matches!(sys::xdp_link_ifindex(self.link.as_fd()), Ok(Some(_)))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // What cannot be detached goes when it is closed.
        let _ = sys::detach_link(self.link.as_fd());
    }
}

/// The error for an interface that has a program already.
fn taken(interface: &str, ifindex: u32, error: &io::Error) -> io::Error {
    let program = Netlink::open().ok().and_then(|mut netlink| netlink.xdp_program(ifindex).ok().flatten());
    let which = match program {
        // One that went meanwhile, or may not be looked at, still has its id.
        Some((_, Some(id))) => {
            sys::program_info_by_id(id).unwrap_or(ProgramInfo { id, name: String::new() }).to_string()
        }
        _ => error.to_string(),
    };
    io::Error::new(
        io::ErrorKind::ResourceBusy,
        format!("{interface} has an XDP program of somebody else: {which}; it is left alone, detach it first"),
    )
}
