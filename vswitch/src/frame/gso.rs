//! Segmentation in software: what the kernel or a network card does for the ports that can take a
//! super-frame, for those that cannot.
//!
//! [`Segmenter::new`] examines a super-frame once, [`Segmenter::write`] builds any one of its
//! segments in the caller's buffer. Neither trusts the metadata for where headers are; both are
//! total: whatever the bytes say, the answer is segments or a [`GsoError`].
//!
//! The segments are those of the kernel (`net/ipv4/tcp_offload.c`, `net/ipv4/udp_offload.c`,
//! `inet_gso_segment`): each repeats all headers; IPv4 identifications count up; TCP sequence
//! numbers advance by the payload; FIN and PSH stay with the last segment, CWR with the first;
//! lengths and checksums are each segment's own. Ethernet padding behind the IP packet is left out.

use super::checksum;
use super::{Csum, GsoKind, Offload};
use crate::wire::layers::{Layers, Network, NoLayers, Transport};
use crate::wire::{ipv4, ipv6, tcp, udp};

/// The most segments of one super-frame: 64 KB in segments of 8 bytes, Linux's smallest
/// (`TCP_MIN_GSO_SIZE`). Beyond that a frame is an attack on whoever has to segment it.
pub const SEGMENTS_MAX: usize = 8192;

/// Why a frame cannot be segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GsoError {
    /// The frame is not a super-frame.
    #[error("the frame needs no segmentation")]
    NotSuper,
    /// The segments would have no bytes.
    #[error("segments of no bytes")]
    SizeZero,
    /// There is no packet that could be segmented.
    #[error("no TCP or UDP packet to segment: {0}")]
    Layers(#[from] NoLayers),
    /// The packet is not of the protocol that the metadata says.
    #[error("the packet is not {expected:?}")]
    Kind {
        /// What the metadata says.
        expected: GsoKind,
    },
    /// More than [`SEGMENTS_MAX`] segments.
    #[error("{0} segments, more than {SEGMENTS_MAX}")]
    TooMany(usize),
}

/// A super-frame that is ready to be cut.
#[derive(Debug, Clone)]
pub struct Segmenter<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    layers: Layers,
    /// Payload bytes of each segment but the last.
    size: usize,
    count: usize,
    /// Whether checksums are left to whoever takes the segments.
    partial: bool,
    /// Of the super-frame, which are the first segment's.
    id: u16,
    sequence: u32,
    flags: tcp::Flags,
}

impl<'a> Segmenter<'a> {
    /// Examines a super-frame.
    ///
    /// # Errors
    /// [`GsoError`] says why the frame cannot be segmented.
    pub fn new(frame: &'a [u8], offload: &Offload) -> Result<Self, GsoError> {
        let gso = offload.gso.ok_or(GsoError::NotSuper)?;
        let layers = Layers::parse(frame)?;
        let matches = match gso.kind {
            GsoKind::Tcp4 => layers.network == Network::V4 && layers.transport == Transport::Tcp,
            GsoKind::Tcp6 => layers.network == Network::V6 && layers.transport == Transport::Tcp,
            GsoKind::Udp => layers.transport == Transport::Udp,
        };
        if !matches {
            return Err(GsoError::Kind { expected: gso.kind });
        }
        let size = usize::from(gso.size);
        if size == 0 {
            return Err(GsoError::SizeZero);
        }
        let (headers, payload) = frame[..layers.end as usize].split_at(usize::from(layers.payload_offset));
        let count = payload.len().div_ceil(size).max(1);
        if count > SEGMENTS_MAX {
            return Err(GsoError::TooMany(count));
        }
        let network = &frame[usize::from(layers.network_offset)..];
        let id = match layers.network {
            Network::V4 => ipv4::Packet::new_checked(network).map_err(NoLayers::from)?.id(),
            Network::V6 => 0,
        };
        let (sequence, flags) = match layers.transport {
            Transport::Tcp => {
                let packet = tcp::Packet::new_checked(&headers[usize::from(layers.transport_offset)..]);
                let packet = packet.map_err(NoLayers::from)?;
                (packet.sequence(), packet.flags())
            }
            Transport::Udp => (0, tcp::Flags(0)),
        };
        Ok(Self { headers, payload, layers, size, count, partial: false, id, sequence, flags })
    }

    /// Leaves the transport checksums of the segments partial, for an output that completes them.
    #[must_use]
    pub fn leave_checksum_partial(self) -> Self {
        Self { partial: true, ..self }
    }

    /// The number of segments; at least one, at most [`SEGMENTS_MAX`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The length of the longest segment, headers included, in bytes.
    #[must_use]
    pub fn segment_bytes_max(&self) -> usize {
        self.headers.len() + self.size.min(self.payload.len())
    }

    /// The length of each segment's headers in bytes.
    #[must_use]
    pub fn headers_bytes(&self) -> usize {
        self.headers.len()
    }

    /// What is still to be done to each segment: nothing, or its checksum.
    #[must_use]
    pub fn segment_offload(&self) -> Offload {
        let csum = if self.partial {
            Csum::Partial { start: self.layers.transport_offset, offset: self.layers.transport.checksum_offset() }
        } else {
            // Computed here and now: as good as verified.
            Csum::Valid
        };
        Offload { csum, gso: None }
    }

    /// Writes segment `index` to the front of `out` and returns its length in bytes: zero, and
    /// nothing useful written, when there is no such segment or `out` is shorter than it.
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        let Some(payload) = self.payload_of(index) else { return 0 };
        let bytes = self.headers.len() + payload.len();
        let Some(segment) = out.get_mut(..bytes) else { return 0 };
        let (headers, body) = segment.split_at_mut(self.headers.len());
        body.copy_from_slice(payload);
        self.fill_headers(index, payload, headers);
        bytes
    }

    /// Writes the headers of segment `index` to the front of `out`, for an output that gathers them and
    /// the payload, which is not copied. Returns the headers' length in bytes and the payload; nothing
    /// when there is no such segment or `out` is shorter than the headers.
    pub fn write_headers(&self, index: usize, out: &mut [u8]) -> Option<(usize, &'a [u8])> {
        let payload = self.payload_of(index)?;
        let headers = out.get_mut(..self.headers.len())?;
        self.fill_headers(index, payload, headers);
        Some((headers.len(), payload))
    }

    fn payload_of(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.count {
            return None;
        }
        let start = index * self.size;
        self.payload.get(start..(start + self.size).min(self.payload.len()))
    }

    fn fill_headers(&self, index: usize, payload: &[u8], headers: &mut [u8]) {
        headers.copy_from_slice(self.headers);
        self.write_network(headers, payload.len(), index);
        self.write_transport(headers, payload, index);
    }

    fn write_network(&self, headers: &mut [u8], payload_bytes: usize, index: usize) {
        let offset = usize::from(self.layers.network_offset);
        // Below 65,536: the super-frame's own length fitted its field.
        let packet_bytes = headers.len() - offset + payload_bytes;
        let network = &mut headers[offset..];
        match self.layers.network {
            Network::V4 => {
                if let Some(mut header) = ipv4::HeaderMut::new_checked(network) {
                    header.set_total_bytes(packet_bytes as u16);
                    header.set_id(self.id.wrapping_add(index as u16));
                    header.fill_checksum();
                }
            }
            Network::V6 => {
                if let Some(mut header) = ipv6::HeaderMut::new_checked(network) {
                    header.set_payload_bytes((packet_bytes - ipv6::HEADER_BYTES) as u16);
                }
            }
        }
    }

    fn write_transport(&self, headers: &mut [u8], payload: &[u8], index: usize) {
        let offset = usize::from(self.layers.transport_offset);
        let transport_bytes = headers.len() - offset + payload.len();
        let pseudo = checksum::fold(self.layers.pseudo_header_sum(headers, transport_bytes));
        let transport = &mut headers[offset..];
        match self.layers.transport {
            Transport::Tcp => {
                if let Some(mut header) = tcp::HeaderMut::new_checked(transport) {
                    header.set_sequence(self.sequence.wrapping_add((index * self.size) as u32));
                    header.set_flags(self.flags_of(index));
                    header.set_checksum(pseudo);
                }
            }
            Transport::Udp => {
                if let Some(mut header) = udp::HeaderMut::new_checked(transport) {
                    header.set_length_bytes(transport_bytes as u16);
                    header.set_checksum(pseudo);
                }
            }
        }
        if !self.partial {
            // Both headers are a whole number of 16-bit words long, so the sums may be added.
            let checksum = !checksum::fold(checksum::sum(transport) + checksum::sum(payload));
            let (field, checksum) = match self.layers.transport {
                Transport::Tcp => (usize::from(tcp::CHECKSUM_OFFSET), checksum),
                Transport::Udp => (usize::from(udp::CHECKSUM_OFFSET), checksum::udp_field(checksum)),
            };
            transport[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    fn flags_of(&self, index: usize) -> tcp::Flags {
        let mut flags = self.flags;
        if index > 0 {
            flags = flags.without(tcp::Flags::CWR);
        }
        if index + 1 < self.count {
            flags = flags.without(tcp::Flags::FIN.with(tcp::Flags::PSH));
        }
        flags
    }
}
