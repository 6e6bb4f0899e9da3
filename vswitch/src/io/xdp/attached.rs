//! Which XDP programs an interface has, whoever attached them (`IFLA_XDP` of rtnetlink).

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::bpf::sys::{self, ProgramInfo};

/// `struct ifinfomsg`
const IFINFOMSG_BYTES: usize = 16;
const IFLA_XDP: u16 = 43;
/// One program, in either mode.
const IFLA_XDP_PROG_ID: u16 = 4;
/// Programs by mode, where there are several.
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;

const ANSWER_BYTES: usize = 64 * 1024;

/// The programs of the interface `ifindex` of the calling thread's network namespace.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn programs(ifindex: u32) -> io::Result<Vec<ProgramInfo>> {
    let mut ids: Vec<u32> = Vec::new();
    let answer = ask(ifindex)?;
    let message = NetlinkBuffer::new_checked(answer.as_slice()).map_err(io::Error::other)?;
    if message.message_type() == NLMSG_ERROR {
        return Err(io::Error::other("the kernel does not know the interface"));
    }
    let attributes = message.payload().get(IFINFOMSG_BYTES..).unwrap_or_default();
    for xdp in NlasIterator::new(attributes).flatten().filter(|nla| nla.kind() & !NESTED == IFLA_XDP) {
        for nla in NlasIterator::new(xdp.value()).flatten() {
            let is_id = matches!(
                nla.kind(),
                IFLA_XDP_PROG_ID | IFLA_XDP_DRV_PROG_ID | IFLA_XDP_SKB_PROG_ID | IFLA_XDP_HW_PROG_ID
            );
            if let Some(id) = nla.value().first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
                && is_id
                && id != 0
                && !ids.contains(&id)
            {
                ids.push(id);
            }
        }
    }
    // One that went meanwhile, or may not be looked at, still has its id.
    let info = |id| sys::program_info_by_id(id).unwrap_or(ProgramInfo { id, name: String::new() });
    Ok(ids.into_iter().map(info).collect())
}

/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;

fn ask(ifindex: u32) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = vec![0; ANSWER_BYTES];
    let length = socket.recv(&mut answer.as_mut_slice(), 0)?;
    answer.truncate(length);
    Ok(answer)
}
