//! Segments that arrived as one train, put together again.
//!
//! A train is nearly always what a peer cut out of one super-frame: consecutive segments of one TCP
//! connection, or datagrams of one UDP flow, with headers of equal length. [`Run`] follows such a train
//! segment by segment, headers and payload apart, because a receiver that guesses the headers' length
//! has the kernel put them apart; then the payloads lie one behind the other already, and what
//! is left is to compare headers and to patch the first.
//!
//! The rules are those of [`crate::frame::gro`], for the same reason: segmenting the result gives back
//! the bytes that came in. Every segment's checksum is verified first, or known to be unfinished
//! ([`checksum::detect_partial`]); merging would hide damage.

use crate::frame::gro::{DATAGRAMS_MAX, PACKET_BYTES_MAX};
use crate::frame::{Csum, Gso, GsoKind, Offload, checksum};
use crate::wire::layers::{Layers, Network, Transport};
use crate::wire::{ethernet, ipv4, ipv6, tcp, udp, vxlan};

/// The most datagrams of one train: what every kernel since 4.18 sends (`UDP_MAX_SEGMENTS`) and receives (`UDP_GRO_CNT_MAX`).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The most bytes of one train: an IPv6 packet of 65,535 bytes without its headers, and less than IPv4's.
pub const TRAIN_BYTES_MAX: usize = 65535 - ipv6::HEADER_BYTES - udp::HEADER_BYTES;
/// What Linux keeps free of a super-frame for headers, at most (`MAX_TCP_HEADER`, and one).
const TCP_HEADERS_RESERVED: u32 = 321;

/// The `gso_max_size` with which a super-frame of an interface with the MTU `mtu` makes one train and not two: two cost twice the
/// calls and the wake-ups, and arrive as two super-frames with two acknowledgements.
#[must_use]
pub fn gso_max_size(mtu: u32) -> u32 {
    let front = (ethernet::HEADER_BYTES + vxlan::HEADER_BYTES) as u32;
    let count = (TRAIN_BYTES_MAX as u32 / (mtu + front)).clamp(1, TRAIN_DATAGRAMS_MAX as u32);
    let headers = (ipv4::HEADER_BYTES + tcp::HEADER_BYTES) as u32;
    (count * mtu.saturating_sub(headers) + TCP_HEADERS_RESERVED).min(65_536)
}

/// Control bits with which a segment travels alone.
const TCP_ALONE: tcp::Flags =
    tcp::Flags::FIN.with(tcp::Flags::SYN).with(tcp::Flags::RST).with(tcp::Flags::URG).with(tcp::Flags::CWR);

/// A segment that others may follow, and those that did.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    layers: Layers,
    /// Payload bytes of each segment but the last.
    size: usize,
    count: u16,
    payload_bytes: usize,
    /// TCP's, of the payload byte that would follow.
    next_sequence: u32,
    /// IPv4's identification of the segment that would follow.
    next_id: u16,
    /// The last segment has PSH.
    push: bool,
    /// Nothing may follow.
    complete: bool,
    /// The first segment's checksum was found right, or unfinished.
    verified: bool,
}

impl Run {
    /// A run that `frame` is the first segment of; nothing when it must travel alone.
    #[inline]
    #[must_use]
    pub fn open(frame: &[u8]) -> Option<Self> {
        let layers = Layers::parse(frame).ok()?;
        let size = layers.payload_bytes();
        let (network, transport) = (usize::from(layers.network_offset), usize::from(layers.transport_offset));
        if size == 0 || layers.end as usize != frame.len() {
            return None;
        }
        let id = match layers.network {
            Network::V4 => {
                let packet = ipv4::Packet::new_checked(&frame[network..]).ok()?;
                if packet.header_bytes() != ipv4::HEADER_BYTES || !packet.is_checksum_right() {
                    return None;
                }
                packet.id()
            }
            Network::V6 if transport - network != ipv6::HEADER_BYTES => return None,
            Network::V6 => 0,
        };
        let (sequence, push) = match layers.transport {
            Transport::Tcp => {
                let packet = tcp::Packet::new_checked(&frame[transport..]).ok()?;
                if packet.flags().any(TCP_ALONE) {
                    return None;
                }
                (packet.sequence(), packet.flags().any(tcp::Flags::PSH))
            }
            Transport::Udp => {
                let packet = udp::Packet::new_checked(&frame[transport..]).ok()?;
                // Without a checksum the segments would get one.
                if !packet.surplus().is_empty() || packet.checksum() == 0 {
                    return None;
                }
                (0, false)
            }
        };
        Some(Self {
            layers,
            size,
            count: 1,
            payload_bytes: size,
            next_sequence: sequence.wrapping_add(size as u32),
            next_id: id.wrapping_add(1),
            push,
            complete: push,
            verified: false,
        })
    }

    /// The length of a segment's headers, in bytes.
    #[inline]
    #[must_use]
    pub fn headers_bytes(&self) -> usize {
        usize::from(self.layers.payload_offset)
    }

    /// The number of segments.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The bytes of the frame that all segments make.
    #[inline]
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.headers_bytes() + self.payload_bytes
    }

    /// Takes the next segment, `headers` and `payload`, if it continues the run; `first` is the first
    /// segment's frame, whatever may follow its own payload there. If not, nothing changes.
    #[inline]
    pub fn take(&mut self, first: &[u8], headers: &[u8], payload: &[u8]) -> bool {
        let layers = self.layers;
        let transport = usize::from(layers.transport_offset);
        let transport_bytes = headers.len().saturating_sub(transport) + payload.len();
        let fits = !self.complete
            && !payload.is_empty()
            && payload.len() <= self.size
            && headers.len() == self.headers_bytes()
            && first.len() >= self.headers_bytes() + self.size
            && self.frame_bytes() + payload.len() - usize::from(layers.network_offset) <= PACKET_BYTES_MAX
            && (layers.transport == Transport::Tcp || self.count < DATAGRAMS_MAX);
        if !fits || !self.continues(&first[..headers.len()], headers, payload.len()) {
            return false;
        }
        if !self.verified {
            let own = &first[..self.headers_bytes() + self.size];
            let pseudo = layers.pseudo_header_sum(own, own.len() - transport);
            if !is_sum_plausible(pseudo, &own[transport..self.headers_bytes()], &own[self.headers_bytes()..], &layers) {
                self.complete = true;
                return false;
            }
            self.verified = true;
        }
        let pseudo = layers.pseudo_header_sum(headers, transport_bytes);
        if !is_sum_plausible(pseudo, &headers[transport..], payload, &layers) {
            return false;
        }
        self.count += 1;
        self.payload_bytes += payload.len();
        self.next_sequence = self.next_sequence.wrapping_add(payload.len() as u32);
        self.next_id = self.next_id.wrapping_add(1);
        self.push = layers.transport == Transport::Tcp && tcp::Flags(headers[transport + 13]).any(tcp::Flags::PSH);
        self.complete = self.push || payload.len() < self.size;
        true
    }

    /// Whether headers are those of the run's next segment. Both are as long as the run's.
    #[inline]
    fn continues(&self, first: &[u8], headers: &[u8], payload_bytes: usize) -> bool {
        let (network, transport) = (usize::from(self.layers.network_offset), usize::from(self.layers.transport_offset));
        let be16 = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
        let is_equal = |from: usize, to: usize| first[from..to] == headers[from..to];
        let is_network = match self.layers.network {
            // Version and TOS; flags, TTL and protocol; addresses.
            Network::V4 => {
                is_equal(0, network + 2)
                    && usize::from(be16(network + 2)) == headers.len() - network + payload_bytes
                    && be16(network + 4) == self.next_id
                    && is_equal(network + 6, network + 10)
                    && is_equal(network + 12, transport)
                    && checksum::fold(checksum::sum(&headers[network..transport])) == 0xffff
            }
            // Version, traffic class and flow label; next header, hop limit, addresses.
            Network::V6 => {
                is_equal(0, network + 4)
                    && usize::from(be16(network + 4)) == headers.len() - transport + payload_bytes
                    && is_equal(network + 6, transport)
            }
        };
        is_network
            && match self.layers.transport {
                Transport::Udp => {
                    is_equal(transport, transport + 4)
                        && usize::from(be16(transport + 4)) == headers.len() - transport + payload_bytes
                        && be16(transport + 6) != 0
                }
                Transport::Tcp => {
                    let sequence = headers[transport + 4..].first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
                    let flags = |headers: &[u8]| tcp::Flags(headers[transport + 13]).without(tcp::Flags::PSH);
                    // Ports; acknowledgement and data offset; window; urgent pointer and options.
                    is_equal(transport, transport + 4)
                        && sequence == Some(self.next_sequence)
                        && is_equal(transport + 8, transport + 13)
                        && flags(first) == flags(headers)
                        && is_equal(transport + 14, transport + 16)
                        && is_equal(transport + 18, headers.len())
                }
            }
    }

    /// Ends the run: makes the headers of `frame`, which holds the first segment and behind it the
    /// payloads of the others, those of the whole. What is still to be done to it.
    pub fn close(self, frame: &mut [u8]) -> Offload {
        let layers = self.layers;
        let (start, offset) = (layers.transport_offset, layers.transport.checksum_offset());
        if self.count == 1 {
            return Offload { csum: checksum::detect_partial(frame), gso: None };
        }
        let (network, transport) = (usize::from(layers.network_offset), usize::from(start));
        let packet_bytes = self.frame_bytes() - network;
        let transport_bytes = self.frame_bytes() - transport;
        match layers.network {
            Network::V4 => {
                if let Some(mut header) = frame.get_mut(network..).and_then(ipv4::HeaderMut::new_checked) {
                    header.set_total_bytes(packet_bytes as u16);
                    header.fill_checksum();
                }
            }
            Network::V6 => {
                if let Some(mut header) = frame.get_mut(network..).and_then(ipv6::HeaderMut::new_checked) {
                    header.set_payload_bytes((packet_bytes - ipv6::HEADER_BYTES) as u16);
                }
            }
        }
        let pseudo = checksum::fold(layers.pseudo_header_sum(frame, transport_bytes));
        let bytes = frame.get_mut(transport..).unwrap_or_default();
        let kind = match layers.transport {
            Transport::Tcp => {
                if let Some(mut header) = tcp::HeaderMut::new_checked(bytes) {
                    if self.push {
                        header.set_flags(header.flags().with(tcp::Flags::PSH));
                    }
                    header.set_checksum(pseudo);
                }
                if layers.network == Network::V4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 }
            }
            Transport::Udp => {
                if let Some(mut header) = udp::HeaderMut::new_checked(bytes) {
                    header.set_length_bytes(transport_bytes as u16);
                    header.set_checksum(pseudo);
                }
                GsoKind::Udp
            }
        };
        let gso = Gso { kind, ecn: false, size: self.size as u16 };
        Offload { csum: Csum::Partial { start, offset }, gso: Some(gso) }
    }
}

/// Whether a segment's checksum is right, or unfinished. A header is a whole number of words long, so
/// the sums of header and payload may be added.
#[inline]
fn is_sum_plausible(pseudo: u32, header: &[u8], payload: &[u8], layers: &Layers) -> bool {
    let at = usize::from(layers.transport.checksum_offset());
    let field = u16::from_be_bytes([header[at], header[at + 1]]);
    field == checksum::fold(pseudo) || checksum::fold(pseudo + checksum::sum(header) + checksum::sum(payload)) == 0xffff
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
