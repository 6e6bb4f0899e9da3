//! "Packet too big": the ICMP errors with which a switch answers in place of a packet that is larger
//! than what carries it, so that its sender makes smaller ones (RFC 1191, RFC 8201).
//!
//! A bridge is no router and has no say in IP, but where it drops for size alone, silence would be a
//! black hole: connections open, and hang with the first full segment. Linux' tunnels answer for bridged
//! frames, too (`skb_tunnel_check_pmtu`), and this is the same answer: to the sender's MAC address from the
//! one that it wrote to, and, unless the bridge has an address, from the IP address that it wrote to.
//!
//! IPv4 packets without DF are answered as well. A router would fragment them; a bridge cannot, and
//! who is told fragments by himself from then on. (Linux sends such a packet on and has the outer one
//! fragmented, which RFC 7348, section 4.3, forbids.)
//!
//! Whether to answer at all is limited by RFC 1812, section 4.3.2.7, and RFC 4443, section 2.4 (e); how often
//! is the caller's (sections 4.3.2.8 and 2.4 (f)).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ethernet::{self, EtherType};
use super::{MacAddr, ipv4, ipv6, protocol};
use crate::frame::checksum;

/// The longest answer: IPv6's, behind two tags.
pub const ANSWER_BYTES_MAX: usize =
    ethernet::HEADER_BYTES + ethernet::TAGS_MAX * ethernet::TAG_BYTES + IPV6_ANSWER_BYTES;

/// RFC 1812, section 4.3.2.3: as much of the packet as fits without the answer exceeding this.
const IPV4_ANSWER_BYTES: usize = 576;
/// RFC 4443, section 2.4 (c): as much as fits into the minimum IPv6 MTU.
const IPV6_ANSWER_BYTES: usize = 1280;
/// RFC 791: what every link carries.
const IPV4_MTU_MIN: u32 = 68;
/// RFC 8200, section 5.
const IPV6_MTU_MIN: u32 = 1280;
/// Type, code, checksum, and the four bytes that hold the MTU.
const ICMP_BYTES: usize = 8;
const TTL: u8 = 64;

const ICMP_UNREACHABLE: u8 = 3;
const ICMP_FRAGMENTATION_NEEDED: u8 = 4;
const ICMPV6_PACKET_TOO_BIG: u8 = 2;
/// Informational messages start here (RFC 4443, section 2.1).
const ICMPV6_INFORMATIONAL: u8 = 128;
const ICMPV6_REDIRECT: u8 = 137;

/// The addresses that errors come from: the bridge's own, where it has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// Of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Not an IP packet, or not a whole header.
    #[error("not an IP packet")]
    NotIp,
    /// To a group: every member would be answered for.
    #[error("the packet was for a group")]
    Group,
    /// From an address that is nobody's.
    #[error("the packet's source is no single host")]
    Source,
    /// An error about an error would have no end.
    #[error("the packet is an ICMP error itself")]
    AboutError,
    /// Only the first fragment is answered, which has the ports.
    #[error("a later fragment")]
    LaterFragment,
    /// Less than what the protocol asks of a link: nobody could obey.
    #[error("an MTU below the protocol's minimum")]
    Mtu,
    /// The buffer is shorter than the answer.
    #[error("no room for the answer")]
    NoRoom,
}

/// Writes the answer to `frame`, which was larger than `mtu` bytes of IP packet, to the front of `out`,
/// with all checksums. Returns its length in bytes. The frame may be a super-frame, and its checksum
/// unfinished.
///
/// # Errors
/// [`Silence`] says why there is none.
pub fn packet_too_big(frame: &[u8], mtu: u32, origin: Origin, out: &mut [u8]) -> Result<usize, Silence> {
    let (ethertype, offset) = ethernet::skip_tags(frame).map_err(|_| Silence::NotIp)?;
    let link = ethernet::Frame::new_checked(frame).map_err(|_| Silence::NotIp)?;
    let packet = frame.get(offset..).unwrap_or_default();
    let body = out.get_mut(offset..).ok_or(Silence::NoRoom)?;
    let bytes = match ethertype {
        EtherType::IPV4 => answer_ipv4(link.destination(), packet, mtu, origin, body),
        EtherType::IPV6 => answer_ipv6(packet, mtu, origin, body),
        _ => Err(Silence::NotIp),
    }?;
    if is_group(link.source()) {
        return Err(Silence::Source);
    }
    // Back the way it came: the addresses change places, tags stay.
    out[..offset].copy_from_slice(&frame[..offset]);
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    if is_group(link.destination()) {
        // Only IPv6 multicast comes this far. A source must be an individual: the sender's own will do,
        // for the answer is delivered to the sender alone.
        out[6..12].copy_from_slice(&frame[6..12]);
    }
    Ok(offset + bytes)
}

fn is_group(mac: MacAddr) -> bool {
    mac.0[0] & 1 != 0
}

fn answer_ipv4(link: MacAddr, packet: &[u8], mtu: u32, origin: Origin, out: &mut [u8]) -> Result<usize, Silence> {
    let view = ipv4::Packet::new_checked(packet).map_err(|_| Silence::NotIp)?;
    let (source, destination) = (view.source(), view.destination());
    let is_single = |ip: Ipv4Addr| !ip.is_multicast() && !ip.is_broadcast() && !ip.is_loopback() && ip.octets()[0] != 0;
    // Class E but for the broadcast address is nobody's, either.
    if !is_single(source) || source.octets()[0] >= 240 {
        return Err(Silence::Source);
    }
    if is_group(link) || !is_single(destination) {
        return Err(Silence::Group);
    }
    if view.fragment_offset() != 0 {
        return Err(Silence::LaterFragment);
    }
    // RFC 1122, section 3.2.2: destination unreachable, source quench, redirect, time exceeded, parameter problem.
    if view.protocol() == protocol::ICMP && matches!(view.payload().first(), None | Some(3 | 4 | 5 | 11 | 12)) {
        return Err(Silence::AboutError);
    }
    if mtu < IPV4_MTU_MIN {
        return Err(Silence::Mtu);
    }
    let quoted = view.total_bytes().min(IPV4_ANSWER_BYTES - ipv4::HEADER_BYTES - ICMP_BYTES);
    let total = ipv4::HEADER_BYTES + ICMP_BYTES + quoted;
    let out = out.get_mut(..total).ok_or(Silence::NoRoom)?;
    let (header, icmp) = out.split_at_mut(ipv4::HEADER_BYTES);
    // RFC 1812, section 4.3.2.5: precedence of internetwork control is for routers; ECN not capable, DF set.
    header.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, protocol::ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header[12..16].copy_from_slice(&origin.v4.unwrap_or(destination).octets());
    header[16..20].copy_from_slice(&source.octets());
    if let Some(mut header) = ipv4::HeaderMut::new_checked(header) {
        header.set_total_bytes(total as u16);
        header.fill_checksum();
    }
    let mtu = mtu.min(u32::from(u16::MAX)).to_be_bytes();
    icmp[..ICMP_BYTES].copy_from_slice(&[ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, 0, 0, 0, 0, mtu[2], mtu[3]]);
    icmp[ICMP_BYTES..].copy_from_slice(&packet[..quoted]);
    let sum = checksum::of(icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(total)
}

fn answer_ipv6(packet: &[u8], mtu: u32, origin: Origin, out: &mut [u8]) -> Result<usize, Silence> {
    let view = ipv6::Packet::new_checked(packet).map_err(|_| Silence::NotIp)?;
    let (source, destination) = (view.source(), view.destination());
    if source.is_unspecified() || source.is_multicast() || source.is_loopback() {
        return Err(Silence::Source);
    }
    // Too big is the one error that multicast is answered with (RFC 4443, section 2.4 (e.3)), but nobody can
    // be a group's address.
    let from = if destination.is_multicast() { origin.v6 } else { Some(origin.v6.unwrap_or(destination)) };
    let from = from.ok_or(Silence::Group)?;
    let upper = view.upper().map_err(|_| Silence::NotIp)?;
    if upper.is_later_fragment {
        return Err(Silence::LaterFragment);
    }
    let is_error = |kind: Option<&u8>| kind.is_none_or(|&kind| kind < ICMPV6_INFORMATIONAL || kind == ICMPV6_REDIRECT);
    if upper.protocol == protocol::ICMPV6 && is_error(upper.payload.first()) {
        return Err(Silence::AboutError);
    }
    if mtu < IPV6_MTU_MIN {
        return Err(Silence::Mtu);
    }
    let quoted = (ipv6::HEADER_BYTES + view.payload().len()).min(IPV6_ANSWER_BYTES - ipv6::HEADER_BYTES - ICMP_BYTES);
    let icmp_bytes = ICMP_BYTES + quoted;
    let out = out.get_mut(..ipv6::HEADER_BYTES + icmp_bytes).ok_or(Silence::NoRoom)?;
    let (header, icmp) = out.split_at_mut(ipv6::HEADER_BYTES);
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol::ICMPV6, TTL]);
    header[4..6].copy_from_slice(&(icmp_bytes as u16).to_be_bytes());
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&source.octets());
    icmp[..4].copy_from_slice(&[ICMPV6_PACKET_TOO_BIG, 0, 0, 0]);
    icmp[4..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[ICMP_BYTES..].copy_from_slice(&packet[..quoted]);
    let pseudo = checksum::pseudo_header(&header[8..40], protocol::ICMPV6, icmp_bytes);
    let sum = !checksum::fold(pseudo + checksum::sum(icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(ipv6::HEADER_BYTES + icmp_bytes)
}

#[cfg(test)]
#[path = "icmp_error_tests.rs"]
mod tests;
