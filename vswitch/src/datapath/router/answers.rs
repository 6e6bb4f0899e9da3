//! What the gateway answers itself: address resolution and ping.
//!
//! The host's interface on the bridge has the same addresses, so what is an answer to the host's own questions goes
//! on to it.

use std::net::IpAddr;

use super::Routed;
use crate::datapath::pipeline::Source;
use crate::frame::{Frame, Offload};
use crate::nat::{Fragment, Packet, Upper};
use crate::snapshot::GatewayEntry;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{MacAddr, echo, neighbour, resolution};

/// Answers a question to everybody on the bridge, in place, if it is for one of the gateway's addresses.
pub(in crate::datapath) fn to_all(gateway: &GatewayEntry, frame: &mut Frame) -> bool {
    let bytes = frame.len();
    if !resolution::is_candidate(frame.data()) || bytes > QUESTION_BYTES_MAX {
        return false;
    }
    // An advertisement may be longer than its solicitation.
    let mut buffer = [0; QUESTION_BYTES_MAX + neighbour::BYTES_MAX];
    buffer[..bytes].copy_from_slice(frame.data());
    let is_own = |ip| gateway.is_own(ip) || gateway.is_own_link_local(ip);
    let Some(bytes) = neighbour::answer(&mut buffer, bytes, MacAddr(gateway.mac), is_own) else { return false };
    frame.copy_from(&buffer[..bytes]);
    // It was written anew, checksum and all.
    frame.offload = Offload::NONE;
    true
}

/// Questions are not longer than this, with all their options.
const QUESTION_BYTES_MAX: usize = 256;

/// What is to the gateway itself and needs no router.
pub(super) fn to_gateway(source: &Source<'_>, gateway: &GatewayEntry, frame: &mut Frame) -> Option<Routed> {
    if !resolution::is_candidate(frame.data()) {
        return None;
    }
    gateway.neighbours.hear(frame.data(), 0, source.now.s);
    if to_all(gateway, frame) {
        return Some(Routed::Send(source.port.id));
    }
    let (ethertype, _) = ethernet::skip_tags(frame.data()).ok()?;
    let is_resolution = ethertype == EtherType::ARP || resolution::read(frame.data()).says.is_some();
    gateway.host.filter(|_| is_resolution).map(Routed::Send)
}

/// Turns an echo request for one of the gateway's addresses into its reply, in place.
pub(super) fn echo(gateway: &GatewayEntry, frame: &mut Frame, packet: &Packet) -> bool {
    let destination = packet.tuple.destination;
    if packet.upper != Upper::EchoRequest
        || packet.fragment != Fragment::None
        || !(gateway.is_own(destination) || gateway.is_own_link_local(destination))
    {
        return false;
    }
    let csum = frame.offload.csum;
    echo::reply(frame.data_mut(), usize::from(packet.network), Some(usize::from(packet.transport)), &csum)
}

/// The question for a station, as the gateway asks it.
pub(in crate::datapath) fn question(gateway: &GatewayEntry, station: IpAddr) -> Option<Vec<u8>> {
    let mut frame = vec![0; neighbour::BYTES_MAX];
    let own = gateway.address_like(station)?;
    let bytes = neighbour::question(MacAddr(gateway.mac), own, station, None, &mut frame)?;
    frame.truncate(bytes);
    Some(frame)
}
