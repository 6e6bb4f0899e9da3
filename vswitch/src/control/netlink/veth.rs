//! Virtual Ethernet pairs (`veth(4)`): two interfaces, each of which receives what the other sends.
//!
//! A pair is made by one request, each end in its place. The end for another namespace is *made*
//! there (`VETH_INFO_PEER` with `IFLA_NET_NS_FD`) and not moved: 0.4 ms against 16 ms, most of which are
//! grace periods of RCU that a move waits out (two cores, Linux 6.18). Who asks does not matter; the
//! caller's namespace does, because there nobody has to enter another one.
//!
//! The ends have one life: when one of them is removed, or its namespace ends, the other one goes.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::{Netlink, Result};

/// Transmit and receive queues of each end. To run an XDP program natively, an end needs as many
/// receive queues as the other one has transmit queues (`veth_xdp_set`, `drivers/net/veth.c`), and
/// the default of both has been one per core at times.
const QUEUES: u32 = 1;

/// A pair to be made; both ends are down.
#[derive(Debug, Clone, Copy)]
pub struct NewVeth<'a> {
    /// The name of the near end, in the socket's namespace. It speaks no ARP (`IFF_NOARP`).
    pub name: &'a str,
    /// The name of the far end.
    pub peer_name: &'a str,
    /// The Ethernet address of the far end.
    pub peer_mac: [u8; 6],
    /// The largest IP packet of both, in bytes: an end drops what is larger than its own.
    pub mtu: u32,
}

impl Netlink {
    /// Makes a pair, with its far end in `peer_netns`.
    ///
    /// # Errors
    /// What the kernel refuses: `EEXIST` for a name that is taken at either end, `EOPNOTSUPP` from a
    /// kernel without veth, `EINVAL` for an MTU that they cannot have.
    pub fn add_veth(&mut self, veth: &NewVeth<'_>, peer_netns: impl AsFd) -> Result<()> {
        let mut peer = end(veth.peer_name, veth.mtu);
        peer.attributes.push(LinkAttribute::Address(veth.peer_mac.to_vec()));
        peer.attributes.push(LinkAttribute::NetNsFd(peer_netns.as_fd().as_raw_fd()));
        let mut message = end(veth.name, veth.mtu);
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let what = format!("make the interfaces {} and {}", veth.name, veth.peer_name);
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, &what)
    }
}

fn end(name: &str, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.extend([
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(QUEUES),
        LinkAttribute::NumRxQueues(QUEUES),
    ]);
    message
}
