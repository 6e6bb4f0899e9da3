//! Address resolution as a station of its own: ARP (RFC 826) and neighbour discovery (RFC 4861) of the gateway.
//!
//! [`super::resolution`] answers in the name of others and is silent about what is odd, because it may leave a
//! question to whoever knows better. A station that is asked for its own address has to answer all that is valid:
//! questions to it alone (neighbours ask so whether it is still there), probes for duplicates, with whatever options.
//! What the answers say is read by [`super::resolution::read`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::icmpv6::{self, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_BYTES, NEIGHBOR_SOLICITATION};
use super::{EtherType, MacAddr, arp, ethernet, ipv6, protocol};
use crate::frame::checksum::{self, fold};

/// The longest answer or question: Ethernet with two tags, IPv6, and a message with an option.
pub const BYTES_MAX: usize = ethernet::HEADER_BYTES + 8 + ipv6::HEADER_BYTES + MESSAGE_BYTES;

/// A neighbour message with a link-layer address.
const MESSAGE_BYTES: usize = NEIGHBOR_BYTES + 8;
/// Of neighbour messages; less means that a router passed them on (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
/// All nodes on the link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// Flags of an advertisement (RFC 4861 section 4.4).
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Turns the question in the first `frame_bytes` bytes of `buffer`, if it is for an address that `is_own`, into the
/// answer of a router with the address `mac`, and returns the answer's length. The buffer has room for
/// [`BYTES_MAX`] bytes: an advertisement may be longer than the solicitation. Nothing, and nothing is changed, if it
/// is no question, or not for us.
pub fn answer(
    buffer: &mut [u8],
    frame_bytes: usize,
    mac: MacAddr,
    is_own: impl FnOnce(IpAddr) -> bool,
) -> Option<usize> {
    let frame = buffer.get(..frame_bytes)?;
    let asker = ethernet::Frame::new_checked(frame).ok()?.source();
    if !asker.is_unicast() {
        return None;
    }
    let (ethertype, at) = ethernet::skip_tags(frame).ok()?;
    match ethertype {
        EtherType::ARP => {
            let packet = arp::Packet::new_checked(frame.get(at..)?).ok()?;
            let (target, sender) = (packet.target_ip(), packet.sender_ip());
            let is_question = packet.operation() == arp::Operation::Request && packet.sender_mac() == asker;
            if !is_question || !is_own(IpAddr::V4(target)) {
                return None;
            }
            write_arp(buffer.get_mut(at..)?, arp::Operation::Reply, (mac, target), (asker, sender))?;
            address(buffer, asker, mac);
            Some(at + arp::PACKET_BYTES)
        }
        EtherType::IPV6 => {
            let (asker_ip, target) = solicitation(frame.get(at..)?)?;
            if !is_own(IpAddr::V6(target)) {
                return None;
            }
            // To a station that has no address yet, and to all that might have the same (RFC 4861 section 7.2.4).
            let (to_mac, to, solicited) = if asker_ip.is_unspecified() {
                (MacAddr::from_ipv6_multicast(ALL_NODES), ALL_NODES, 0)
            } else {
                (asker, asker_ip, SOLICITED)
            };
            let flags = ROUTER | OVERRIDE | solicited;
            let kind = (NEIGHBOR_ADVERTISEMENT, flags, TARGET_LINK_LAYER_ADDRESS);
            write_neighbor(buffer.get_mut(at..)?, kind, (mac, target), to, target)?;
            address(buffer, to_mac, mac);
            Some(at + ipv6::HEADER_BYTES + MESSAGE_BYTES)
        }
        _ => None,
    }
}

/// Writes the question who has `target`, from the station that has `mac` and `ip`, to the front of `out`: to everybody,
/// or to the solicited-node group of IPv6, or, to see whether it is still there, to the one station `known`. Returns
/// its length; nothing if the two are of different families, or there is no room.
pub fn question(mac: MacAddr, ip: IpAddr, target: IpAddr, known: Option<MacAddr>, out: &mut [u8]) -> Option<usize> {
    let at = ethernet::HEADER_BYTES;
    let (to, ethertype, bytes) = match (ip, target) {
        (IpAddr::V4(ip), IpAddr::V4(target)) => {
            write_arp(out.get_mut(at..)?, arp::Operation::Request, (mac, ip), (MacAddr::ZERO, target))?;
            (MacAddr::BROADCAST, EtherType::ARP, arp::PACKET_BYTES)
        }
        (IpAddr::V6(ip), IpAddr::V6(target)) => {
            let group = solicited_node(target);
            let to = if known.is_some() { target } else { group };
            let kind = (NEIGHBOR_SOLICITATION, 0, SOURCE_LINK_LAYER_ADDRESS);
            write_neighbor(out.get_mut(at..)?, kind, (mac, ip), to, target)?;
            (MacAddr::from_ipv6_multicast(group), EtherType::IPV6, ipv6::HEADER_BYTES + MESSAGE_BYTES)
        }
        _ => return None,
    };
    address(out, known.unwrap_or(to), mac);
    out[ethernet::TYPE_OFFSET..at].copy_from_slice(&ethertype.0.to_be_bytes());
    Some(at + bytes)
}

/// The group in which a station listens for questions for its address (RFC 4291 section 2.7.1).
const fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16)
}

/// Stores the Ethernet addresses.
fn address(frame: &mut [u8], destination: MacAddr, source: MacAddr) {
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
}

/// Who asks, and for whom, where a packet is a valid solicitation (RFC 4861 section 7.1.1).
fn solicitation(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let packet = ipv6::Packet::new_checked(packet).ok()?;
    if packet.next_header() != protocol::ICMPV6 || packet.hop_limit() != HOP_LIMIT {
        return None;
    }
    let body = packet.payload();
    let message =
        icmpv6::Packet::new_checked(body).ok()?.neighbor().ok()?.filter(|message| !message.is_advertisement())?;
    // From the same host the checksum may still have to be computed: then the field is the pseudo-header's sum.
    let pseudo = packet.pseudo_header_sum(protocol::ICMPV6, body.len());
    let field = u16::from_be_bytes([body[2], body[3]]);
    if fold(pseudo + checksum::sum(body)) != 0xffff && field != fold(pseudo) {
        return None;
    }
    let (source, target) = (packet.source(), message.target());
    let is_probe = source.is_unspecified();
    let to_group = packet.destination() == solicited_node(target);
    if target.is_multicast() || source.is_multicast() || !are_options_whole(&body[NEIGHBOR_BYTES..]) {
        return None;
    }
    // A probe goes to the group, and does not say whose it is.
    let is_valid = if is_probe {
        to_group && message.link_layer_address().is_none()
    } else {
        to_group || packet.destination() == target
    };
    is_valid.then_some((source, target))
}

/// Whether options have lengths that are not zero and within the message.
fn are_options_whole(mut options: &[u8]) -> bool {
    while let [_, length, ..] = options {
        match options.get(usize::from(*length) * 8..) {
            Some(rest) if *length != 0 => options = rest,
            _ => return false,
        }
    }
    options.is_empty()
}

fn write_arp(
    out: &mut [u8],
    operation: arp::Operation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> Option<()> {
    let packet = out.first_chunk_mut::<{ arp::PACKET_BYTES }>()?;
    let operation = if operation == arp::Operation::Reply { 2 } else { 1 };
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    packet[8..14].copy_from_slice(&sender.0.0);
    packet[14..18].copy_from_slice(&sender.1.octets());
    packet[18..24].copy_from_slice(&target.0.0);
    packet[24..28].copy_from_slice(&target.1.octets());
    Some(())
}

/// Type, flags and option; who sends; to whom, about which address.
fn write_neighbor(
    out: &mut [u8],
    (kind, flags, option): (u8, u8, u8),
    (mac, source): (MacAddr, Ipv6Addr),
    destination: Ipv6Addr,
    target: Ipv6Addr,
) -> Option<()> {
    let packet = out.first_chunk_mut::<{ ipv6::HEADER_BYTES + MESSAGE_BYTES }>()?;
    let (header, body) = packet.split_at_mut(ipv6::HEADER_BYTES);
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, MESSAGE_BYTES as u8, protocol::ICMPV6, HOP_LIMIT]);
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    body[..8].copy_from_slice(&[kind, 0, 0, 0, flags, 0, 0, 0]);
    body[8..24].copy_from_slice(&target.octets());
    // In units of 8 bytes.
    body[24..26].copy_from_slice(&[option, 1]);
    body[26..32].copy_from_slice(&mac.0);
    let pseudo = checksum::pseudo_header(&header[8..40], protocol::ICMPV6, MESSAGE_BYTES);
    let checksum = !fold(pseudo + checksum::sum(body));
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
