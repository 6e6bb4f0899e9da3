//! Address resolution: ARP (RFC 826) and neighbour discovery (RFC 4861) as questions and statements.
//!
//! A bridge that knows where a station is can answer a broadcast question in its name (RFC 9161).
//! That takes two things of a message, whichever protocol it is of: what it *says*, that some
//! station has some address, and what it *asks*. [`read`] finds both, [`answer`] turns a question
//! into its answer in place, because both are of one length.
//!
//! Read strictly: what is odd in any way says and asks nothing, and takes the ordinary way.

use std::net::IpAddr;

use super::icmpv6::{self, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_BYTES, NEIGHBOR_SOLICITATION};
use super::{EtherType, MacAddr, arp, ethernet, ipv6, protocol};
use crate::frame::checksum;

/// A neighbour message with a single link-layer address option.
const NEIGHBOR_WITH_OPTION_BYTES: usize = NEIGHBOR_BYTES + 8;
/// Of neighbour messages; less means that a router passed them on (RFC 4861, section 7.1).
const HOP_LIMIT: u8 = 255;

/// That a station has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The address.
    pub ip: IpAddr,
    /// The station's MAC address, which is also the frame's source.
    pub mac: MacAddr,
    /// Whether the station is a router, as far as the message tells: an answer must not get it
    /// wrong, or hosts drop their default route (RFC 4861, section 7.2.5).
    pub router: Option<bool>,
}

/// What a message says and asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Message {
    /// What it says about its sender.
    pub says: Option<Binding>,
    /// The address that it asks everybody for. Nothing for messages that everybody has to hear:
    /// probes for duplicates (RFC 5227, section 2.1.1; RFC 4862, section 5.4) and announcements.
    pub asks: Option<IpAddr>,
}

/// Whether [`read`] may find something: cheap, for every frame.
#[inline]
#[must_use]
pub fn is_candidate(frame: &[u8]) -> bool {
    let type_at = |at: usize| frame.get(at..at + 2).map(|bytes| EtherType(u16::from_be_bytes([bytes[0], bytes[1]])));
    let (ethertype, at) = match type_at(ethernet::TYPE_OFFSET) {
        Some(EtherType::VLAN) => {
            (type_at(ethernet::TYPE_OFFSET + ethernet::TAG_BYTES), ethernet::HEADER_BYTES + ethernet::TAG_BYTES)
        }
        ethertype => (ethertype, ethernet::HEADER_BYTES),
    };
    match ethertype {
        Some(EtherType::ARP) => true,
        Some(EtherType::IPV6) => frame.get(at + 6) == Some(&protocol::ICMPV6),
        _ => false,
    }
}

/// What the message in `frame` says and asks.
#[must_use]
pub fn read(frame: &[u8]) -> Message {
    let nothing = Message::default();
    let Ok(header) = ethernet::Frame::new_checked(frame) else { return nothing };
    let (source, to_all) = (header.source(), header.destination().is_group());
    if !source.is_unicast() {
        return nothing;
    }
    let Ok((ethertype, at)) = ethernet::skip_tags(frame) else { return nothing };
    let payload = frame.get(at..).unwrap_or_default();
    match ethertype {
        EtherType::ARP => read_arp(source, to_all, payload),
        EtherType::IPV6 => read_neighbor(source, to_all, payload),
        _ => nothing,
    }
}

fn read_arp(source: MacAddr, to_all: bool, payload: &[u8]) -> Message {
    let Ok(packet) = arp::Packet::new_checked(payload) else { return Message::default() };
    let (sender, target) = (IpAddr::V4(packet.sender_ip()), IpAddr::V4(packet.target_ip()));
    if packet.sender_mac() != source {
        return Message::default();
    }
    let is_known = matches!(packet.operation(), arp::Operation::Request | arp::Operation::Reply);
    let says = (is_known && is_station(sender)).then_some(Binding { ip: sender, mac: source, router: Some(false) });
    let asks = to_all && packet.operation() == arp::Operation::Request && says.is_some() && sender != target;
    Message { says, asks: (asks && is_station(target)).then_some(target) }
}

fn read_neighbor(source: MacAddr, to_all: bool, payload: &[u8]) -> Message {
    let nothing = Message::default();
    let Some(header) = payload.first_chunk::<{ ipv6::HEADER_BYTES }>() else { return nothing };
    let body_bytes = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let Some(body) = payload[ipv6::HEADER_BYTES..].get(..body_bytes) else { return nothing };
    if header[0] >> 4 != 6 || header[6] != protocol::ICMPV6 || header[7] != HOP_LIMIT {
        return nothing;
    }
    let Ok(Some(message)) = icmpv6::Packet::new_checked(body).and_then(|packet| packet.neighbor()) else {
        return nothing;
    };
    let target = IpAddr::V6(message.target());
    // Without the option it is the frame's own, which an advertisement may leave out (section 4.4).
    let mac = message.link_layer_address().unwrap_or(source);
    if mac != source || !is_station(target) {
        return nothing;
    }
    if message.is_advertisement() {
        let says = Binding { ip: target, mac, router: Some(message.is_router()) };
        return Message { says: Some(says), asks: None };
    }
    let sender = address_at(header, 8);
    let says = is_station(sender).then_some(Binding { ip: sender, mac, router: None });
    // With other options (a nonce, RFC 7527) the answer would be of another length.
    let asks = to_all && says.is_some() && sender != target && body.len() == NEIGHBOR_WITH_OPTION_BYTES;
    Message { says, asks: (asks && message.link_layer_address().is_some()).then_some(target) }
}

/// Turns the question in `frame`, which [`read`] found, into the answer that the asked-for station
/// with the address `mac` would give. False, and nothing done, if it is none.
pub fn answer(frame: &mut [u8], mac: MacAddr, router: bool) -> bool {
    let Message { asks: Some(_), says: Some(asker) } = read(frame) else { return false };
    let Ok((ethertype, at)) = ethernet::skip_tags(frame) else { return false };
    let Some((ethernet, payload)) = frame.split_at_mut_checked(at) else { return false };
    let written = match ethertype {
        EtherType::ARP => answer_arp(payload, mac),
        _ => answer_neighbor(payload, mac, router),
    };
    if written {
        ethernet[..6].copy_from_slice(&asker.mac.0);
        ethernet[6..12].copy_from_slice(&mac.0);
    }
    written
}

fn answer_arp(payload: &mut [u8], mac: MacAddr) -> bool {
    let Some(packet) = payload.first_chunk_mut::<{ arp::PACKET_BYTES }>() else { return false };
    // Sender (MAC, IP) becomes target; the asked-for IP becomes the sender's.
    let asked: [u8; 4] = [packet[24], packet[25], packet[26], packet[27]];
    packet.copy_within(8..18, 18);
    packet[8..14].copy_from_slice(&mac.0);
    packet[14..18].copy_from_slice(&asked);
    // Reply.
    packet[6..8].copy_from_slice(&[0, 2]);
    true
}

fn answer_neighbor(payload: &mut [u8], mac: MacAddr, router: bool) -> bool {
    const BYTES: usize = ipv6::HEADER_BYTES + NEIGHBOR_WITH_OPTION_BYTES;
    let Some(packet) = payload.first_chunk_mut::<BYTES>() else { return false };
    let (header, body) = packet.split_at_mut(ipv6::HEADER_BYTES);
    debug_assert_eq!(body[0], NEIGHBOR_SOLICITATION);
    // From the target, to the asker.
    header.copy_within(8..24, 24);
    header[8..24].copy_from_slice(&body[8..24]);
    header[7] = HOP_LIMIT;
    // Solicited and override, as Linux answers for its neighbours (`vxlan_na_create`).
    body[..8].copy_from_slice(&[NEIGHBOR_ADVERTISEMENT, 0, 0, 0, 0x60 | u8::from(router) << 7, 0, 0, 0]);
    // The target's link-layer address, in units of 8 bytes.
    body[24..26].copy_from_slice(&[2, 1]);
    body[26..32].copy_from_slice(&mac.0);
    let pseudo = checksum::pseudo_header(&header[8..40], protocol::ICMPV6, NEIGHBOR_WITH_OPTION_BYTES);
    let checksum = !checksum::fold(pseudo + checksum::sum(body));
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// Whether one station can have `ip`.
fn is_station(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || is_broadcast)
}

fn address_at(header: &[u8; ipv6::HEADER_BYTES], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    IpAddr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::announce::announcement;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// `arp who-has 10.0.0.9 tell 10.0.0.1`.
    fn who_has() -> Vec<u8> {
        let mut frame = announcement(ASKER, ip("10.0.0.1"));
        frame[38..42].copy_from_slice(&[10, 0, 0, 9]);
        frame
    }

    /// A neighbour solicitation for fd00::9 from fd00::1.
    fn solicitation() -> Vec<u8> {
        let mut frame = announcement(ASKER, ip("fd00::1"));
        let target: std::net::Ipv6Addr = "fd00::9".parse().unwrap();
        frame[14 + 40] = NEIGHBOR_SOLICITATION;
        frame[14 + 44] = 0;
        frame[14 + 48..14 + 64].copy_from_slice(&target.octets());
        frame[14 + 64] = 1;
        frame
    }

    #[test]
    fn announcements_say_and_ask_nothing() {
        for (text, router) in [("10.0.0.1", false), ("fd00::1", false)] {
            let frame = announcement(STATION, ip(text));
            assert!(is_candidate(&frame));
            let says = Some(Binding { ip: ip(text), mac: STATION, router: Some(router) });
            assert_eq!(read(&frame), Message { says, asks: None });
        }
    }

    #[test]
    fn a_question_becomes_the_answer_of_the_station() {
        for (mut frame, asked, asker) in
            [(who_has(), ip("10.0.0.9"), ip("10.0.0.1")), (solicitation(), ip("fd00::9"), ip("fd00::1"))]
        {
            let message = read(&frame);
            assert_eq!((message.asks, message.says.map(|says| says.ip)), (Some(asked), Some(asker)));
            assert!(answer(&mut frame, STATION, true));
            let header = ethernet::Frame::new_checked(&frame).unwrap();
            assert_eq!((header.destination(), header.source()), (ASKER, STATION));
            let router = Some(asked.is_ipv6());
            assert_eq!(read(&frame), Message { says: Some(Binding { ip: asked, mac: STATION, router }), asks: None });
            if let IpAddr::V4(asker) = asker {
                let reply = arp::Packet::new_checked(header.payload()).unwrap();
                assert_eq!((reply.operation(), reply.target_ip()), (arp::Operation::Reply, asker));
                assert_eq!(reply.target_mac(), ASKER);
            } else {
                let pseudo = checksum::pseudo_header(&frame[22..54], protocol::ICMPV6, 32);
                assert_eq!(checksum::fold(pseudo + checksum::sum(&frame[54..86])), 0xffff);
                assert_eq!(frame[38..54], "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
            }
            assert!(!answer(&mut frame, STATION, true), "an answer is no question");
        }
    }

    #[test]
    fn the_tag_stays_where_it_is() {
        let mut frame = who_has();
        frame.splice(12..12, [0x81, 0, 0, 7]);
        assert!(is_candidate(&frame) && answer(&mut frame, STATION, false));
        assert_eq!(frame[12..18], [0x81, 0, 0, 7, 0x08, 0x06]);
    }

    #[test]
    fn what_everybody_has_to_hear_is_no_question() {
        // A probe: the sender has no address yet.
        let mut probe = who_has();
        probe[28..32].fill(0);
        assert_eq!(read(&probe), Message::default());
        // A reply to nobody, and a request to one station alone.
        let mut reply = who_has();
        reply[21] = 2;
        assert_eq!(read(&reply).asks, None);
        let mut unicast = who_has();
        unicast[..6].copy_from_slice(&STATION.0);
        assert_eq!(read(&unicast).asks, None);
        // Duplicate address detection.
        let mut probe = solicitation();
        probe[22..38].fill(0);
        assert_eq!(read(&probe), Message::default());
    }

    #[test]
    fn what_is_odd_says_nothing() {
        let edit = |frame: &[u8], at: usize, byte: u8| {
            let mut frame = frame.to_vec();
            frame[at] = byte;
            frame
        };
        let (arp, nd) = (who_has(), solicitation());
        for frame in [
            // Another sender than the frame's, another hardware, a group as source, loopback.
            edit(&arp, 27, 0x77),
            edit(&arp, 15, 9),
            edit(&arp, 6, 3),
            edit(&arp, 28, 127),
            // Through a router, another code, another sender, a target that is a group, a length beyond the end.
            edit(&nd, 21, 254),
            edit(&nd, 55, 1),
            edit(&nd, 85, 0x77),
            edit(&nd, 62, 0xff),
            edit(&nd, 19, 33),
        ] {
            assert_eq!(read(&frame), Message::default(), "{frame:02x?}");
        }
        for frame in [arp, nd] {
            for cut in 0..frame.len() {
                let mut frame = frame[..cut].to_vec();
                let _ = is_candidate(&frame);
                assert!(!answer(&mut frame, STATION, false) || cut == frame.len());
            }
        }
    }
}
