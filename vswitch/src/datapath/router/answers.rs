//! What the gateway answers itself: address resolution and ping.

use std::net::IpAddr;

use super::Routed;
use crate::datapath::pipeline::Source;
use crate::frame::{Frame, Offload};
use crate::snapshot::GatewayEntry;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{MacAddr, resolution};

/// Answers a question to everybody on the bridge, in place, if it is for one of the gateway's addresses.
pub(in crate::datapath) fn to_all(gateway: &GatewayEntry, frame: &mut Frame) -> bool {
    if !resolution::is_candidate(frame.data()) {
        return false;
    }
    let asked = resolution::read(frame.data()).asks;
    let answered = asked.is_some_and(|asked| gateway.is_own(asked))
        && resolution::answer(frame.data_mut(), MacAddr(gateway.mac), true);
    if answered {
        // It was written anew, checksum and all.
        frame.offload = Offload::NONE;
    }
    answered
}

/// What is to the gateway itself and needs no router.
pub(super) fn to_gateway(source: &Source<'_>, frame: &mut Frame) -> Option<Routed> {
    let gateway = source.bridge.gateway.as_deref()?;
    if !resolution::is_candidate(frame.data()) {
        return None;
    }
    gateway.neighbours.hear(frame.data(), 0, source.now.s);
    if to_all(gateway, frame) {
        return Some(Routed::Send(source.port.id));
    }
    // An answer to the host, which has the gateway's address, too; or a message of ICMPv6 that is no question.
    let (ethertype, _) = ethernet::skip_tags(frame.data()).ok()?;
    let is_resolution = ethertype == EtherType::ARP || resolution::read(frame.data()).says.is_some();
    gateway.host.filter(|_| is_resolution).map(Routed::Send)
}

/// The question for a station, as the gateway asks it.
pub(in crate::datapath) fn question(_gateway: &GatewayEntry, _station: IpAddr) -> Option<Vec<u8>> {
    None
}
