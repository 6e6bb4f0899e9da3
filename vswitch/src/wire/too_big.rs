//! "Too big": what a sender is told whose packet does not fit through (RFC 1191, RFC 8201).
//!
//! A bridge has no address of its own in the network, so it answers as Linux does for its tunnels
//! (`iptunnel_pmtud_build_icmp`, `net/ipv4/ip_tunnel_core.c`): with the addresses exchanged, as though
//! the destination had answered. Senders look at what is quoted, not at who says it.
//!
//! Never answered (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4): ICMP errors, fragments but the
//! first, what was not sent to one station, and what comes from no single address. IPv4 without DF
//! gets no answer either: it can be fragmented.

use super::ethernet::{self, EtherType};
use super::{be16, ipv4, ipv6, protocol};
use crate::frame::checksum;

/// The longest frame that [`too_big`] writes: Ethernet with two tags, and IPv6's minimum MTU.
pub const BYTES_MAX: usize = ethernet::HEADER_BYTES + 8 + 1280;

/// An ICMP error about an IPv4 packet is at most this long (RFC 1812 section 4.3.2.3).
const ERROR_V4_BYTES_MAX: usize = 576;
/// An ICMPv6 error is at most IPv6's minimum MTU (RFC 4443 section 2.4 c).
const ERROR_V6_BYTES_MAX: usize = 1280;
const ICMP_BYTES: usize = 8;
/// Internetwork control (RFC 1812 section 4.3.2.5).
const TOS_CONTROL: u8 = 0xc0;
const HOPS: u8 = 64;
/// The smallest MTU that is believed by hosts (RFC 1191 section 3 allows 68; Linux takes 552 for less).
const MTU_V4_MIN: u32 = 68;

/// Writes the answer to `frame`, whose IP packet (or each segment of it) is `packet_bytes` long and
/// does not fit through an `mtu`; both in bytes. `frame` may be a prefix of the frame. Returns the
/// length of what was written to the front of `out`; nothing if there must be no answer.
#[must_use]
pub fn too_big(frame: &[u8], packet_bytes: usize, mtu: u32, out: &mut [u8]) -> Option<usize> {
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
    let answer_bytes = match ethertype {
        EtherType::IPV4 => too_big_v4(packet, packet_bytes, mtu, answer)?,
        EtherType::IPV6 => too_big_v6(packet, packet_bytes, mtu, answer)?,
        _ => return None,
    };
    Some(link_bytes + answer_bytes)
}

fn too_big_v4(packet: &[u8], packet_bytes: usize, mtu: u32, out: &mut [u8]) -> Option<usize> {
    let header: &[u8; ipv4::HEADER_BYTES] = packet.first_chunk()?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let fragment = be16(header, 6);
    let (source, destination) = (&header[12..16], &header[16..20]);
    let is_station = |address: &[u8]| address[0] != 0 && address[0] != 127 && address[0] < 224;
    let quotable = header[0] >> 4 == 4
        && header_bytes >= ipv4::HEADER_BYTES
        && packet.len() >= header_bytes + ICMP_BYTES
        && fragment & 0x4000 != 0
        && fragment & 0x1fff == 0
        && is_station(source)
        && is_station(destination);
    let is_error = header[9] == protocol::ICMP && matches!(packet.get(header_bytes)?, 3..=5 | 11 | 12);
    if !quotable || is_error || mtu < MTU_V4_MIN {
        return None;
    }
    let quote_bytes = packet_bytes.min(packet.len()).min(ERROR_V4_BYTES_MAX - ipv4::HEADER_BYTES - ICMP_BYTES);
    let bytes = ipv4::HEADER_BYTES + ICMP_BYTES + quote_bytes;
    let out = out.get_mut(..bytes)?;
    let (ip, icmp) = out.split_at_mut(ipv4::HEADER_BYTES);
    ip.copy_from_slice(&[0x45, TOS_CONTROL, 0, 0, 0, 0, 0, 0, HOPS, protocol::ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[12..16].copy_from_slice(destination);
    ip[16..20].copy_from_slice(source);
    finish_v4(ip, bytes);
    // Destination unreachable, fragmentation needed and DF set; the next hop's MTU (RFC 1191 section 4).
    icmp[..ICMP_BYTES].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
    icmp[6..8].copy_from_slice(&u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes());
    let quote = &mut icmp[ICMP_BYTES..];
    quote.copy_from_slice(&packet[..quote_bytes]);
    // What would have been sent is a segment, and not the super-frame that it is a part of.
    finish_v4(&mut quote[..header_bytes], packet_bytes);
    let sum = checksum::of(icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(bytes)
}

/// Sets an IPv4 header's total length and checksum.
fn finish_v4(header: &mut [u8], total_bytes: usize) {
    header[2..4].copy_from_slice(&(total_bytes as u16).to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn too_big_v6(packet: &[u8], packet_bytes: usize, mtu: u32, out: &mut [u8]) -> Option<usize> {
    let header: &[u8; ipv6::HEADER_BYTES] = packet.first_chunk()?;
    let (source, destination) = (&header[8..24], &header[24..40]);
    let is_station = |address: &[u8]| address[0] != 0xff && address[..15] != [0; 15];
    // Errors (below 128) and redirects are not answered. Behind extension headers an error is not
    // recognised; the rate limit of whoever sends the answers bounds what can come of that.
    let is_error = header[6] == protocol::ICMPV6 && matches!(packet.get(ipv6::HEADER_BYTES)?, 0..128 | 137);
    if header[0] >> 4 != 6 || is_error || !is_station(source) || !is_station(destination) {
        return None;
    }
    let quote_bytes = packet_bytes.min(packet.len()).min(ERROR_V6_BYTES_MAX - ipv6::HEADER_BYTES - ICMP_BYTES);
    let icmp_bytes = ICMP_BYTES + quote_bytes;
    let out = out.get_mut(..ipv6::HEADER_BYTES + icmp_bytes)?;
    let (ip, icmp) = out.split_at_mut(ipv6::HEADER_BYTES);
    ip[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    ip[4..6].copy_from_slice(&(icmp_bytes as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&[protocol::ICMPV6, HOPS]);
    ip[8..24].copy_from_slice(destination);
    ip[24..40].copy_from_slice(source);
    // Packet too big, and the MTU (RFC 4443 section 3.2).
    icmp[..4].copy_from_slice(&[2, 0, 0, 0]);
    icmp[4..8].copy_from_slice(&mtu.to_be_bytes());
    let quote = &mut icmp[ICMP_BYTES..];
    quote.copy_from_slice(&packet[..quote_bytes]);
    let payload_bytes = packet_bytes.saturating_sub(ipv6::HEADER_BYTES) as u16;
    quote[4..6].copy_from_slice(&payload_bytes.to_be_bytes());
    let pseudo = checksum::pseudo_header(&ip[8..40], protocol::ICMPV6, icmp_bytes);
    let sum = !checksum::fold(pseudo + checksum::sum(icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(ipv6::HEADER_BYTES + icmp_bytes)
}

#[cfg(test)]
#[path = "too_big_tests.rs"]
mod tests;
