//! ICMP errors that the switch itself sends: what a sender is told whose packet does not get through.
//!
//! One function for all of them, because what they have in common is most of it: about what there must be no error at
//! all, how much of the packet is quoted, and how the frame goes back. The answer is an Ethernet frame with the
//! addresses exchanged, written into a buffer of the caller's, who also bounds their rate.
//!
//! Never answered (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e): ICMP errors and
//! redirects, fragments but the first, what was not sent to one station in both layers, and what comes from no single
//! address. In IPv6 a packet of several fragments of which only a later one is too big would not be heard of
//! otherwise, so that is answered. The broadcast address of a network looks like any other: whoever knows the network
//! has to look.
//!
//! Quoted is as much as fits (RFC 1812 section 4.3.2.3: 576 bytes; RFC 4443 section 2.4 c: IPv6's minimum MTU), of the
//! packet as its sender knows it: a translated packet must be translated back before.

use std::net::IpAddr;

use super::ethernet::{self, EtherType};
use super::{be16, icmp, icmpv6, ipv4, ipv6, protocol};
use crate::frame::checksum;

/// The longest frame that [`write()`] writes: Ethernet with two tags, and IPv6's minimum MTU.
pub const BYTES_MAX: usize = ethernet::HEADER_BYTES + 8 + 1280;

const ERROR_V4_BYTES_MAX: usize = 576;
const ERROR_V6_BYTES_MAX: usize = 1280;
/// Internetwork control (RFC 1812 section 4.3.2.5).
const TOS_CONTROL: u8 = 0xc0;
const HOPS: u8 = 64;
/// The smallest MTU that is believed by hosts (RFC 1191 section 3 allows 68; Linux takes 552 for less).
const MTU_V4_MIN: u32 = 68;
const DONT_FRAGMENT: u16 = 0x4000;

/// What is wrong. IANA's "ICMP Parameters" and "ICMPv6 Parameters" have the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The packet has made too many hops.
    TimeExceeded,
    /// There is no route.
    NetworkUnreachable,
    /// The station does not answer.
    HostUnreachable,
    /// Nobody listens there.
    PortUnreachable,
    /// A rule forbids it, or a resource for it is exhausted (RFC 5508 REQ-8): code 13, in IPv6 1.
    Prohibited,
    /// The packet does not fit through an MTU of so many bytes (RFC 1191, RFC 8201).
    TooBig(u32),
}

impl Problem {
    /// Type, code, and the four bytes behind the checksum.
    const fn v4(self) -> (u8, u8, [u8; 4]) {
        match self {
            Self::TimeExceeded => (icmp::TIME_EXCEEDED, 0, [0; 4]),
            Self::NetworkUnreachable => (icmp::UNREACHABLE, 0, [0; 4]),
            Self::HostUnreachable => (icmp::UNREACHABLE, 1, [0; 4]),
            Self::PortUnreachable => (icmp::UNREACHABLE, 3, [0; 4]),
            Self::Prohibited => (icmp::UNREACHABLE, 13, [0; 4]),
            Self::TooBig(mtu) => {
                // The field has 16 bits (RFC 1191 section 4).
                let [high, low] = if mtu > 0xffff { [0xff; 2] } else { (mtu as u16).to_be_bytes() };
                (icmp::UNREACHABLE, 4, [0, 0, high, low])
            }
        }
    }

    /// The same for ICMPv6.
    const fn v6(self) -> (u8, u8, [u8; 4]) {
        match self {
            Self::TimeExceeded => (icmpv6::TIME_EXCEEDED, 0, [0; 4]),
            Self::NetworkUnreachable => (icmpv6::UNREACHABLE, 0, [0; 4]),
            Self::HostUnreachable => (icmpv6::UNREACHABLE, 3, [0; 4]),
            Self::PortUnreachable => (icmpv6::UNREACHABLE, 4, [0; 4]),
            Self::Prohibited => (icmpv6::UNREACHABLE, 1, [0; 4]),
            Self::TooBig(mtu) => (icmpv6::PACKET_TOO_BIG, 0, mtu.to_be_bytes()),
        }
    }
}

/// Writes the error about `frame`, whose IP packet (or each segment of it) is `packet_bytes` long. `frame` may be a
/// prefix of the frame. It comes from the address `from`; without one, from the packet's destination. Returns the
/// length of what was written to the front of `out`; nothing if there must be no answer, or `from` is of the other
/// family.
#[must_use]
pub fn write(
    frame: &[u8],
    packet_bytes: usize,
    problem: Problem,
    from: Option<IpAddr>,
    out: &mut [u8],
) -> Option<usize> {
    let (ethertype, link_bytes) = ethernet::skip_tags(frame).ok()?;
    let packet = frame.get(link_bytes..)?;
    let (link, answer) = out.split_at_mut_checked(link_bytes)?;
    link.copy_from_slice(&frame[..link_bytes]);
    let (destination, source) = link[..12].split_at_mut(6);
    // A group cannot answer, and an answer to a group would be an amplifier.
    if (destination[0] | source[0]) & 1 != 0 {
        return None;
    }
    destination.swap_with_slice(source);
    let answer_bytes = match (ethertype, from) {
        (EtherType::IPV4, None) => write_v4(packet, packet_bytes, problem, None, answer)?,
        (EtherType::IPV4, Some(IpAddr::V4(from))) => {
            write_v4(packet, packet_bytes, problem, Some(from.octets()), answer)?
        }
        (EtherType::IPV6, None) => write_v6(packet, packet_bytes, problem, None, answer)?,
        (EtherType::IPV6, Some(IpAddr::V6(from))) => {
            write_v6(packet, packet_bytes, problem, Some(from.octets()), answer)?
        }
        _ => return None,
    };
    Some(link_bytes + answer_bytes)
}

fn write_v4(
    packet: &[u8],
    packet_bytes: usize,
    problem: Problem,
    from: Option<[u8; 4]>,
    out: &mut [u8],
) -> Option<usize> {
    let header: &[u8; ipv4::HEADER_BYTES] = packet.first_chunk()?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let fragment = be16(header, 6);
    let (source, destination) = (&header[12..16], &header[16..20]);
    let is_station = |address: &[u8]| address[0] != 0 && address[0] != 127 && address[0] < 224;
    let quotable = header[0] >> 4 == 4
        && header_bytes >= ipv4::HEADER_BYTES
        && packet.len() >= header_bytes + icmp::HEADER_BYTES
        && fragment & 0x1fff == 0
        && is_station(source)
        && is_station(destination);
    let is_error = header[9] == protocol::ICMP && icmp::is_error(*packet.get(header_bytes)?);
    if !quotable || is_error {
        return None;
    }
    // Without DF it can be fragmented, and need not be heard of.
    if let Problem::TooBig(mtu) = problem
        && (fragment & DONT_FRAGMENT == 0 || mtu < MTU_V4_MIN)
    {
        return None;
    }
    let quote_bytes = packet_bytes.min(packet.len()).min(ERROR_V4_BYTES_MAX - ipv4::HEADER_BYTES - icmp::HEADER_BYTES);
    let bytes = ipv4::HEADER_BYTES + icmp::HEADER_BYTES + quote_bytes;
    let (ip, message) = out.get_mut(..bytes)?.split_at_mut(ipv4::HEADER_BYTES);
    ip.copy_from_slice(&[0x45, TOS_CONTROL, 0, 0, 0, 0, 0, 0, HOPS, protocol::ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[12..16].copy_from_slice(from.as_ref().map_or(destination, |from| from));
    ip[16..20].copy_from_slice(source);
    finish_v4(ip, bytes);
    let (kind, code, rest) = problem.v4();
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&rest);
    let quote = &mut message[icmp::HEADER_BYTES..];
    quote.copy_from_slice(packet.get(..quote_bytes)?);
    // What would have been sent is a segment, and not the super-frame that it is a part of.
    finish_v4(quote.get_mut(..header_bytes)?, packet_bytes);
    let sum = checksum::of(message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(bytes)
}

/// Sets an IPv4 header's total length and checksum.
fn finish_v4(header: &mut [u8], total_bytes: usize) {
    header[2..4].copy_from_slice(&(total_bytes as u16).to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn write_v6(
    packet: &[u8],
    packet_bytes: usize,
    problem: Problem,
    from: Option<[u8; 16]>,
    out: &mut [u8],
) -> Option<usize> {
    let header: &[u8; ipv6::HEADER_BYTES] = packet.first_chunk()?;
    let (source, destination) = (&header[8..24], &header[24..40]);
    let is_station = |address: &[u8]| address[0] != 0xff && address[..15] != [0; 15];
    // What cannot be looked through may be an error, too.
    let upper = ipv6::Packet::new_prefix(packet).ok()?.upper().ok()?;
    let is_error = upper.protocol == protocol::ICMPV6
        && !upper.is_later_fragment
        && upper.payload.first().is_none_or(|kind| icmpv6::is_error(*kind));
    let is_silent = upper.is_later_fragment && !matches!(problem, Problem::TooBig(_));
    if is_error || is_silent || !is_station(source) || !is_station(destination) {
        return None;
    }
    let quote_bytes = packet_bytes.min(packet.len()).min(ERROR_V6_BYTES_MAX - ipv6::HEADER_BYTES - icmp::HEADER_BYTES);
    let message_bytes = icmp::HEADER_BYTES + quote_bytes;
    let (ip, message) = out.get_mut(..ipv6::HEADER_BYTES + message_bytes)?.split_at_mut(ipv6::HEADER_BYTES);
    ip[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    ip[4..6].copy_from_slice(&(message_bytes as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&[protocol::ICMPV6, HOPS]);
    ip[8..24].copy_from_slice(from.as_ref().map_or(destination, |from| from));
    ip[24..40].copy_from_slice(source);
    let (kind, code, rest) = problem.v6();
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&rest);
    let quote = &mut message[icmp::HEADER_BYTES..];
    quote.copy_from_slice(packet.get(..quote_bytes)?);
    let payload_bytes = packet_bytes.saturating_sub(ipv6::HEADER_BYTES) as u16;
    quote.get_mut(4..6)?.copy_from_slice(&payload_bytes.to_be_bytes());
    let pseudo = checksum::pseudo_header(&ip[8..40], protocol::ICMPV6, message_bytes);
    let sum = !checksum::fold(pseudo + checksum::sum(message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(ipv6::HEADER_BYTES + message_bytes)
}

#[cfg(test)]
#[path = "icmp_error_tests.rs"]
mod tests;
