//! A frame as a segment of a flow: what its headers say, whether it may be merged at all, and
//! whether it agrees with another.

use super::{Accept, DATAGRAMS_MAX};
use crate::frame::{Csum, GsoKind, Offload};
use crate::wire::layers::{Layers, Network, NoLayers, Transport};
use crate::wire::{ipv4, ipv6, tcp, udp};

/// Control bits with which a segment travels alone.
const TCP_ALONE: tcp::Flags =
    tcp::Flags::FIN.with(tcp::Flags::SYN).with(tcp::Flags::RST).with(tcp::Flags::URG).with(tcp::Flags::CWR);

/// What merging needs to know of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) layers: Layers,
    pub(super) kind: GsoKind,
    /// Tells most flows apart without looking at their headers.
    pub(super) tag: u32,
    /// TCP's, of the first payload byte.
    pub(super) sequence: u32,
    /// IPv4's identification.
    pub(super) id: u16,
    /// Payload bytes of each segment but the last.
    pub(super) size: u16,
    /// The number of segments the frame stands for.
    pub(super) count: u16,
    /// The segment has PSH.
    pub(super) push: bool,
    /// Nobody vouched for the checksum.
    pub(super) unverified: bool,
    /// May be merged as far as the frame itself goes.
    pub(super) mergeable: bool,
}

/// Whether a frame takes part in merging, and in which flow's order.
pub(super) enum Class {
    /// Neither TCP nor UDP: no flow whose order it could disturb.
    Other,
    /// May belong to any flow.
    Ambiguous,
    /// Belongs to a flow.
    Flow(Segment),
}

/// Looks at a frame by itself.
#[inline]
pub(super) fn classify(data: &[u8], offload: &Offload, accept: Accept) -> Class {
    let layers = match Layers::parse(data) {
        Ok(layers) => layers,
        Err(NoLayers::NotIp | NoLayers::OtherTransport) => return Class::Other,
        Err(NoLayers::Fragment | NoLayers::Malformed(_)) => return Class::Ambiguous,
    };
    let kind = match (layers.transport, layers.network) {
        (Transport::Tcp, Network::V4) => GsoKind::Tcp4,
        (Transport::Tcp, Network::V6) => GsoKind::Tcp6,
        (Transport::Udp, _) => GsoKind::Udp,
    };
    let payload_bytes = layers.payload_bytes();
    // A payload of one frame is below 65,536, and so is the number of its segments.
    let (size, count) = match offload.gso {
        Some(gso) if gso.size > 0 => (gso.size, payload_bytes.div_ceil(usize::from(gso.size)) as u16),
        _ => (payload_bytes as u16, 1),
    };
    let mut segment = Segment {
        layers,
        kind,
        tag: tag(data, &layers),
        sequence: 0,
        id: 0,
        size,
        count,
        push: false,
        unverified: offload.csum == Csum::Unknown,
        mergeable: payload_bytes > 0
            && accept.takes(kind)
            && layers.end as usize == data.len()
            && is_offload_plain(offload, &layers, kind),
    };
    segment.mergeable = segment.mergeable && read_network(data, &mut segment) && read_transport(data, &mut segment);
    Class::Flow(segment)
}

/// Whether the metadata is such that it could have been made here.
#[inline]
fn is_offload_plain(offload: &Offload, layers: &Layers, kind: GsoKind) -> bool {
    let is_partial = match offload.csum {
        Csum::Partial { start, offset } => {
            if start != layers.transport_offset || offset != layers.transport.checksum_offset() {
                return false;
            }
            true
        }
        Csum::Valid | Csum::Unknown => false,
    };
    offload.gso.is_none_or(|gso| is_partial && gso.kind == kind && !gso.ecn && gso.size > 0)
}

/// Reads what merging needs of the IP header; whether the header allows it.
#[inline]
fn read_network(data: &[u8], segment: &mut Segment) -> bool {
    let layers = &segment.layers;
    let header_bytes = usize::from(layers.transport_offset - layers.network_offset);
    match layers.network {
        Network::V6 => header_bytes == ipv6::HEADER_BYTES,
        Network::V4 => {
            let packet = data.get(usize::from(layers.network_offset)..).map(ipv4::Packet::new_checked);
            let Some(Ok(packet)) = packet else { return false };
            segment.id = packet.id();
            header_bytes == ipv4::HEADER_BYTES && packet.is_checksum_right()
        }
    }
}

/// Reads what merging needs of the transport header; whether the header allows it.
#[inline]
fn read_transport(data: &[u8], segment: &mut Segment) -> bool {
    let Some(bytes) = data.get(usize::from(segment.layers.transport_offset)..) else { return false };
    match segment.layers.transport {
        Transport::Tcp => {
            let Ok(packet) = tcp::Packet::new_checked(bytes) else { return false };
            segment.sequence = packet.sequence();
            segment.push = packet.flags().any(tcp::Flags::PSH);
            !packet.flags().any(TCP_ALONE)
        }
        Transport::Udp => {
            let Ok(packet) = udp::Packet::new_checked(bytes) else { return false };
            // Without a checksum the segments would get one.
            packet.surplus().is_empty() && packet.checksum() != 0 && segment.count <= DATAGRAMS_MAX
        }
    }
}

/// The ports of the frame that `layers` were found in.
#[inline]
fn ports<'a>(data: &'a [u8], layers: &Layers) -> &'a [u8] {
    let start = usize::from(layers.transport_offset);
    data.get(start..start + 4).unwrap_or_default()
}

#[inline]
fn tag(data: &[u8], layers: &Layers) -> u32 {
    let word = |bytes: &[u8]| bytes.last_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let addresses = layers.addresses(data);
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    word(ports(data, layers)) ^ word(source).rotate_left(7) ^ word(destination).rotate_left(13)
}

/// Whether two frames belong to one flow: equal addresses, ports and protocols.
#[inline]
pub(super) fn is_same_flow(head: &[u8], head_segment: &Segment, data: &[u8], segment: &Segment) -> bool {
    head_segment.kind == segment.kind
        && head_segment.layers.network == segment.layers.network
        && ports(head, &head_segment.layers) == ports(data, &segment.layers)
        && head_segment.layers.addresses(head) == segment.layers.addresses(data)
}

/// Whether the headers of two mergeable frames of one flow are equal but for what each segment has
/// of its own: lengths, checksums, identification, sequence number, PSH.
#[inline]
pub(super) fn are_headers_equal(head: &[u8], head_segment: &Segment, data: &[u8], segment: &Segment) -> bool {
    let (a, b) = (&head_segment.layers, &segment.layers);
    if (a.network_offset, a.transport_offset, a.payload_offset)
        != (b.network_offset, b.transport_offset, b.payload_offset)
    {
        return false;
    }
    let (network, transport) = (usize::from(a.network_offset), usize::from(a.transport_offset));
    let is_equal = |from: usize, to: usize| head.get(from..to) == data.get(from..to);
    let is_network_equal = match a.network {
        // Version and TOS; flags and fragment offset, TTL, protocol. The addresses were compared.
        Network::V4 => is_equal(network, network + 2) && is_equal(network + 6, network + 10),
        // Version, traffic class and flow label; next header and hop limit.
        Network::V6 => is_equal(network, network + 4) && is_equal(network + 6, network + 8),
    };
    let is_transport_equal = match a.transport {
        Transport::Udp => true,
        Transport::Tcp => {
            let flags = |data: &[u8]| data.get(transport + 13).map(|&flags| tcp::Flags(flags).without(tcp::Flags::PSH));
            // Acknowledgement and data offset; flags; window; urgent pointer and options.
            is_equal(transport + 8, transport + 13)
                && flags(head) == flags(data)
                && is_equal(transport + 14, transport + 16)
                && is_equal(transport + 18, usize::from(a.payload_offset))
        }
    };
    is_equal(0, network) && is_network_equal && is_transport_equal
}
