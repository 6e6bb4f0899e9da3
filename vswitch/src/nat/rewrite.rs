//! What is done to the packets of one direction of a connection, as plain stores and additions.
//!
//! Theory of operation. Where a packet's tuple is known and so is the one it shall have, everything about the
//! translation is known: what goes into the address and port fields, and by how much the checksums change. Checksums
//! are sums in ones' complement, so a change of what they cover is a constant to be added (RFC 1624), whatever else
//! is in the packet. A rewrite holds those constants; IPv4's is small enough for a line of the worker's cache.
//!
//! Conventions. A delta is the folded sum of the new words and the complements of the old ones; one that changes
//! nothing is zero. A complete checksum `C` becomes `!(!C + delta)`. A partial one ([`Csum::Partial`]) is the sum of the
//! pseudo-header itself and not its complement: it becomes `P + delta`, and ports are no part of it. What came with a
//! checksum in the one form in which senders compute it leaves with the very value that computing it anew would give,
//! and translating back restores the packet byte by byte.
//!
//! | | addresses | ports |
//! |---|---|---|
//! | IPv4 header | yes | |
//! | TCP, UDP | yes, by the pseudo-header | yes; a UDP checksum of zero means none, and stays |
//! | SCTP | no | yes, but by a CRC, which is updated as such; not possible in a fragment |
//! | ICMP echo | no | the identifier |
//! | ICMPv6 echo | yes, by the pseudo-header | the identifier |
//! | other protocols, later fragments | | have none |

use std::net::IpAddr;

use super::{Fragment, Packet, Tuple, Upper};
use crate::frame::Csum;
use crate::frame::checksum::{fold, sum, udp_field};
use crate::wire::{icmp, ipv4, ipv6, protocol, sctp, tcp, udp};

/// What happens to the time to live or hop limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hops {
    /// Nothing: the packet is for the host itself, or only translated back on its own link.
    Keep,
    /// One less, as every router does. The caller has refused packets with less than two.
    Decrement,
}

/// By how much checksums change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(super) struct Deltas {
    /// What the change of addresses adds.
    addresses: u16,
    /// What the transport checksum changes by.
    transport: u16,
}

/// A [`Rewrite`] for IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RewriteV4 {
    /// Source and destination.
    pub(super) addresses: [u8; 8],
    /// Source and destination.
    pub(super) ports: [u8; 4],
    pub(super) deltas: Deltas,
}

/// A [`Rewrite`] for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RewriteV6 {
    /// Source and destination.
    pub(super) addresses: [u8; 32],
    /// Source and destination.
    pub(super) ports: [u8; 4],
    pub(super) deltas: Deltas,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4(RewriteV4),
    V6(RewriteV6),
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite(pub(super) Family);

/// Where ports and checksum are in what follows the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    /// With the length of header and payload; nothing where it is not known.
    Sctp(Option<u32>),
    /// ICMP's is not over a pseudo-header, ICMPv6's is.
    Echo {
        is_v6: bool,
    },
    /// ICMPv6, but no echo: there are no ports.
    Icmpv6,
    /// Nothing that could be changed.
    Opaque,
}

impl Transport {
    fn of(packet: &Packet) -> Self {
        match packet.upper {
            Upper::Tcp { .. } => Self::Tcp,
            Upper::Udp => Self::Udp,
            Upper::Sctp { .. } => {
                Self::Sctp((packet.fragment == Fragment::None).then_some(packet.transport_bytes() as u32))
            }
            Upper::EchoRequest | Upper::EchoReply => Self::Echo { is_v6: packet.is_v6 },
            Upper::IcmpError | Upper::OtherIcmp if packet.is_v6 => Self::Icmpv6,
            Upper::IcmpError | Upper::OtherIcmp | Upper::Other => Self::Opaque,
        }
    }
}

impl Rewrite {
    /// What makes a packet of the tuple `from` one of the tuple `to`. Nothing if they are not of one protocol and
    /// family.
    #[must_use]
    pub fn new(from: &Tuple, to: &Tuple) -> Option<Self> {
        if from.protocol != to.protocol {
            return None;
        }
        let (old_ports, ports) = (ports(from), ports(to));
        let ports_delta = delta(&old_ports, &ports);
        let family = match (addresses(from)?, addresses(to)?) {
            (Addresses::V4(old), Addresses::V4(new)) => {
                let addresses = delta(&old, &new);
                // ICMP's checksum covers no addresses.
                let pseudo = if from.protocol == protocol::ICMP { 0 } else { addresses };
                let deltas = Deltas { addresses, transport: plus(pseudo, ports_delta) };
                Family::V4(RewriteV4 { addresses: new, ports, deltas })
            }
            (Addresses::V6(old), Addresses::V6(new)) => {
                let addresses = delta(&old, &new);
                let deltas = Deltas { addresses, transport: plus(addresses, ports_delta) };
                Family::V6(RewriteV6 { addresses: new, ports, deltas })
            }
            _ => return None,
        };
        Some(Self(family))
    }

    /// Rewrites the packet in `data`, a frame or its head, that was parsed as `packet`, and whose checksum `csum` says
    /// is known or not.
    ///
    /// False, and nothing is changed, where it cannot be done: SCTP in fragments whose ports were to change; a
    /// protocol whose checksum covers addresses in a way that is not known here; another family; a packet that is not
    /// in `data`.
    #[must_use]
    pub fn apply(&self, data: &mut [u8], packet: &Packet, csum: &Csum, hops: Hops) -> bool {
        let (network, transport) = (usize::from(packet.network), usize::from(packet.transport));
        let Some((link, segment)) = data.split_at_mut_checked(transport) else { return false };
        let Some(header) = link.get_mut(network..) else { return false };
        let is_partial = matches!(*csum, Csum::Partial { start, .. } if start == packet.transport);
        let kind = if packet.is_later_fragment() { Transport::Opaque } else { Transport::of(packet) };
        if !self.is_possible(header, segment, kind, packet.protocol) {
            return false;
        }
        match &self.0 {
            Family::V4(rewrite) => {
                let Some(header) = header.first_chunk_mut().filter(|_| !packet.is_v6) else { return false };
                rewrite.network(header, hops);
                transport_header(segment, kind, rewrite.ports, rewrite.deltas, is_partial);
            }
            Family::V6(rewrite) => {
                let Some(header) = header.first_chunk_mut().filter(|_| packet.is_v6) else { return false };
                rewrite.network(header, hops);
                transport_header(segment, kind, rewrite.ports, rewrite.deltas, is_partial);
            }
        }
        true
    }

    /// Whether the checksum can follow.
    fn is_possible(&self, header: &[u8], segment: &[u8], kind: Transport, number: u8) -> bool {
        /// Datagram congestion control and UDP-Lite: their checksums are over a pseudo-header.
        const PSEUDO_HEADERS: [u8; 2] = [33, 136];
        let (new_addresses, new_ports) = match &self.0 {
            Family::V4(rewrite) => (&rewrite.addresses[..], rewrite.ports),
            Family::V6(rewrite) => (&rewrite.addresses[..], rewrite.ports),
        };
        match kind {
            Transport::Sctp(None) => segment.get(..4) == Some(&new_ports[..]),
            Transport::Opaque if PSEUDO_HEADERS.contains(&number) => {
                let at = if matches!(self.0, Family::V4(_)) { 12 } else { 8 };
                header.get(at..at + new_addresses.len()) == Some(new_addresses)
            }
            _ => true,
        }
    }
}

impl RewriteV4 {
    /// Stores the addresses, and what becomes of the hops and the header checksum.
    #[inline]
    pub(super) fn network(&self, header: &mut [u8; ipv4::HEADER_BYTES], hops: Hops) {
        // A time to live of zero stays what it is: it is none that a packet could arrive with.
        let fewer = u8::from(hops == Hops::Decrement).min(header[8]);
        header[8] -= fewer;
        header[12..20].copy_from_slice(&self.addresses);
        // One hop is 0x0100 of the word that it is the high half of.
        let hops_delta = if fewer == 0 { 0 } else { !0x0100_u16 };
        let sum = !u16::from_be_bytes([header[10], header[11]]);
        let sum = fold(u32::from(sum) + u32::from(self.deltas.addresses) + u32::from(hops_delta));
        [header[10], header[11]] = (!sum).to_be_bytes();
    }
}

impl RewriteV6 {
    /// Stores the addresses, and what becomes of the hops.
    #[inline]
    pub(super) fn network(&self, header: &mut [u8; ipv6::HEADER_BYTES], hops: Hops) {
        header[7] -= u8::from(hops == Hops::Decrement).min(header[7]);
        header[8..40].copy_from_slice(&self.addresses);
    }
}

/// Stores the ports, or the identifier, and what becomes of the checksum. What is beyond the end of `segment` stays
/// as it is.
#[inline]
pub(super) fn transport_header(segment: &mut [u8], kind: Transport, ports: [u8; 4], deltas: Deltas, is_partial: bool) {
    match kind {
        Transport::Tcp => {
            put(segment, 0, ports);
            add(segment, tcp::CHECKSUM_OFFSET, deltas, is_partial);
        }
        Transport::Udp => {
            put(segment, 0, ports);
            add_udp(segment, deltas, is_partial);
        }
        Transport::Echo { is_v6 } => {
            // One of the two is zero.
            put(segment, icmp::IDENTIFIER_OFFSET, [ports[0] | ports[2], ports[1] | ports[3]]);
            if is_v6 || !is_partial {
                add(segment, icmp::CHECKSUM_OFFSET, deltas, is_partial);
            }
        }
        Transport::Icmpv6 => add(segment, icmp::CHECKSUM_OFFSET, deltas, is_partial),
        Transport::Sctp(bytes) => sctp_header(segment, ports, bytes),
        Transport::Opaque => {}
    }
}

#[inline]
fn put<const N: usize>(segment: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(field) = segment.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = bytes;
    }
}

/// Adds the change to the checksum field at `at`.
#[inline]
fn add(segment: &mut [u8], at: u16, deltas: Deltas, is_partial: bool) {
    let Some(field) = segment.get_mut(usize::from(at)..).and_then(<[u8]>::first_chunk_mut::<2>) else { return };
    *field = changed(u16::from_be_bytes(*field), deltas, is_partial).to_be_bytes();
}

/// The same for UDP, which has a special zero.
#[inline]
fn add_udp(segment: &mut [u8], deltas: Deltas, is_partial: bool) {
    let field = segment.get_mut(usize::from(udp::CHECKSUM_OFFSET)..).and_then(<[u8]>::first_chunk_mut::<2>);
    let Some(field) = field.filter(|field| **field != [0, 0]) else { return };
    *field = udp_field(changed(u16::from_be_bytes(*field), deltas, is_partial)).to_be_bytes();
}

#[inline]
fn changed(field: u16, deltas: Deltas, is_partial: bool) -> u16 {
    // Without branches: the complement is an exclusive or with all ones.
    let (flip, delta) = if is_partial { (0, deltas.addresses) } else { (0xffff, deltas.transport) };
    fold(u32::from(field ^ flip) + u32::from(delta)) ^ flip
}

#[cold]
fn sctp_header(segment: &mut [u8], ports: [u8; 4], bytes: Option<u32>) {
    let (Some(&old), Some(bytes)) = (segment.first_chunk(), bytes) else { return };
    if old == ports {
        return;
    }
    put(segment, 0, ports);
    if let Some(field) = segment.get_mut(sctp::CHECKSUM_OFFSET..).and_then(<[u8]>::first_chunk_mut) {
        *field = sctp::update_checksum(*field, old, ports, bytes.saturating_sub(4));
    }
}

enum Addresses {
    V4([u8; 8]),
    V6([u8; 32]),
}

/// Source and destination as they follow one another in a header.
fn addresses(tuple: &Tuple) -> Option<Addresses> {
    match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut octets = [0; 8];
            octets[..4].copy_from_slice(&source.octets());
            octets[4..].copy_from_slice(&destination.octets());
            Some(Addresses::V4(octets))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut octets = [0; 32];
            octets[..16].copy_from_slice(&source.octets());
            octets[16..].copy_from_slice(&destination.octets());
            Some(Addresses::V6(octets))
        }
        _ => None,
    }
}

/// Source and destination as they follow one another in a header.
fn ports(tuple: &Tuple) -> [u8; 4] {
    let ([a, b], [c, d]) = (tuple.source_port.to_be_bytes(), tuple.destination_port.to_be_bytes());
    [a, b, c, d]
}

/// By how much a sum changes when words that it covers do; zero if it does not.
pub(super) fn delta(old: &[u8], new: &[u8]) -> u16 {
    // The complement of a sum is the sum of the complements.
    plus(!fold(sum(old)), fold(sum(new)))
}

/// The sum of two deltas. Ones' complement has two zeros, and only one of them leaves every value as it is.
pub(super) fn plus(one: u16, other: u16) -> u16 {
    match fold(u32::from(one) + u32::from(other)) {
        0xffff => 0,
        delta => delta,
    }
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
