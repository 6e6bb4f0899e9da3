//! Fragmentation of IPv4 packets (RFC 791 section 3.2), for those that allow it and do not fit
//! through the port that they are for; and of IPv6 packets that this host has sent (RFC 8200 section 4.5).
//!
//! A bridge between segments of different MTU has to do what a router does, or the packets vanish.
//! Packets with DF set, and IPv6 of others, are for [`crate::wire::too_big`].

use arrayvec::ArrayVec;

use super::checksum;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{ipv4, ipv6};

/// An option that every fragment carries (RFC 791: the copied flag).
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MORE_FRAGMENTS: u16 = 0x2000;
/// The same in an IPv6 fragment header, and the header's length and type.
const MORE_FRAGMENTS_V6: u16 = 1;
const FRAGMENT_HEADER_BYTES: usize = 8;
const FRAGMENT_HEADER: u8 = 44;
/// Headers for hops on the way, which every fragment would have to repeat: hop-by-hop options and routing.
const PER_HOP: [u8; 2] = [0, 43];

/// A packet that is ready to be cut.
#[derive(Debug, Clone)]
pub struct Fragmenter<'a> {
    /// Ethernet and tags.
    link: &'a [u8],
    /// The IP header of the first fragment.
    first: &'a [u8],
    /// The IPv4 header of the others: only some options are repeated. Empty in IPv6.
    later: ArrayVec<u8, { ipv4::HEADER_BYTES_MAX }>,
    payload: &'a [u8],
    /// Payload bytes of each fragment but the last; a multiple of eight.
    size: usize,
    /// Where the payload is in the original packet, in bytes: what is cut may be a fragment itself.
    offset: usize,
    /// Whether fragments follow after the last of these.
    more: bool,
    /// What the fragments of an IPv6 packet have in common; none in IPv4.
    v6_id: Option<u32>,
}

impl<'a> Fragmenter<'a> {
    /// Examines a frame whose packet is to fit through `mtu`, in bytes. Nothing if it must not be
    /// fragmented, or cannot be: no IPv4, DF set, no room for a payload.
    #[must_use]
    pub fn new(frame: &'a [u8], mtu: u32) -> Option<Self> {
        let (ethertype, link_bytes) = ethernet::skip_tags(frame).ok()?;
        let (link, bytes) = frame.split_at_checked(link_bytes)?;
        if ethertype != EtherType::IPV4 {
            return None;
        }
        let packet = ipv4::Packet::new_checked(bytes).ok()?;
        if packet.dont_fragment() {
            return None;
        }
        let first = &bytes[..packet.header_bytes()];
        let size = (mtu as usize).checked_sub(first.len())? & !7;
        if size == 0 {
            return None;
        }
        let more = u16::from_be_bytes([first[6], first[7]]) & MORE_FRAGMENTS != 0;
        let (later, offset) = (later_header(first, packet.options()), packet.fragment_offset());
        Some(Self { link, first, later, payload: packet.payload(), size, offset, more, v6_id: None })
    }

    /// The same for an IPv6 packet, on behalf of its source: `id` is for no other packet of the same addresses for a while.
    /// Nothing if it cannot be fragmented: no IPv6, a fragment already, headers for hops on the way.
    #[must_use]
    pub fn of_source(frame: &'a [u8], mtu: u32, id: u32) -> Option<Self> {
        let (ethertype, link_bytes) = ethernet::skip_tags(frame).ok()?;
        let (link, bytes) = frame.split_at_checked(link_bytes)?;
        if ethertype != EtherType::IPV6 {
            return None;
        }
        let packet = ipv6::Packet::new_checked(bytes).ok()?;
        let next = packet.next_header();
        let size = (mtu as usize).checked_sub(ipv6::HEADER_BYTES + FRAGMENT_HEADER_BYTES)? & !7;
        if size == 0 || next == FRAGMENT_HEADER || PER_HOP.contains(&next) {
            return None;
        }
        let (first, later) = (&bytes[..ipv6::HEADER_BYTES], ArrayVec::new());
        Some(Self { link, first, later, payload: packet.payload(), size, offset: 0, more: false, v6_id: Some(id) })
    }

    /// The number of fragments.
    #[must_use]
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Writes fragment `index` to the front of `out` and returns its length in bytes; zero when there
    /// is no such fragment or `out` is shorter than it.
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        let start = index * self.size;
        let Some(payload) = self.payload.get(start..(start + self.size).min(self.payload.len())) else { return 0 };
        let link_bytes = self.link.len();
        if let Some(id) = self.v6_id {
            return self.write_v6(start, payload, id, out);
        }
        let header = if index == 0 { self.first } else { &self.later };
        let bytes = link_bytes + header.len() + payload.len();
        let Some(fragment) = out.get_mut(..bytes) else { return 0 };
        let (link, packet) = fragment.split_at_mut(link_bytes);
        link.copy_from_slice(self.link);
        let packet_bytes = packet.len() as u16;
        let (ip, body) = packet.split_at_mut(header.len());
        ip.copy_from_slice(header);
        body.copy_from_slice(payload);
        let more = self.more || start + payload.len() < self.payload.len();
        let place = ((self.offset + start) / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
        ip[2..4].copy_from_slice(&packet_bytes.to_be_bytes());
        ip[6..8].copy_from_slice(&place.to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum::of(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn write_v6(&self, start: usize, payload: &[u8], id: u32, out: &mut [u8]) -> usize {
        let headers = self.link.len() + ipv6::HEADER_BYTES;
        let bytes = headers + FRAGMENT_HEADER_BYTES + payload.len();
        let Some(fragment) = out.get_mut(..bytes) else { return 0 };
        let (front, rest) = fragment.split_at_mut(headers);
        let (link, ip) = front.split_at_mut(self.link.len());
        link.copy_from_slice(self.link);
        ip.copy_from_slice(self.first);
        ip[4..6].copy_from_slice(&((FRAGMENT_HEADER_BYTES + payload.len()) as u16).to_be_bytes());
        let next = std::mem::replace(&mut ip[6], FRAGMENT_HEADER);
        let more = start + payload.len() < self.payload.len();
        // A multiple of eight, in the upper 13 bits as it is.
        let place = start as u16 | if more { MORE_FRAGMENTS_V6 } else { 0 };
        let (header, body) = rest.split_at_mut(FRAGMENT_HEADER_BYTES);
        header[..2].copy_from_slice(&[next, 0]);
        header[2..4].copy_from_slice(&place.to_be_bytes());
        header[4..].copy_from_slice(&id.to_be_bytes());
        body.copy_from_slice(payload);
        bytes
    }
}

/// The header with those options only that every fragment carries.
fn later_header(first: &[u8], mut options: &[u8]) -> ArrayVec<u8, { ipv4::HEADER_BYTES_MAX }> {
    let mut header: ArrayVec<u8, { ipv4::HEADER_BYTES_MAX }> = first[..ipv4::HEADER_BYTES].iter().copied().collect();
    while let Some(&kind) = options.first() {
        let bytes = match kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => 1,
            _ => usize::from(*options.get(1).unwrap_or(&0)),
        };
        // A length that contradicts itself ends the options.
        let Some((option, rest)) = options.split_at_checked(bytes).filter(|_| bytes > 0) else { break };
        if kind & COPIED != 0 {
            header.extend(option.iter().copied());
        }
        options = rest;
    }
    while !header.len().is_multiple_of(4) {
        header.push(END_OF_OPTIONS);
    }
    header[0] = 0x40 | (header.len() / 4) as u8;
    header
}

#[cfg(test)]
#[path = "fragment_tests.rs"]
mod tests;
