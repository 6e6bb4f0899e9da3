//! `struct virtio_net_hdr` (`include/uapi/linux/virtio_net.h`): what travels in front of each
//! frame on a TAP with `IFF_VNET_HDR`, as plain data ([`Offload`]).
//!
//! ```text
//! offset  0      1         2        4         6           8            10 (12-byte form only)
//!         flags  gso_type  hdr_len  gso_size  csum_start  csum_offset  num_buffers
//! ```
//!
//! The form for tunnels (`struct virtio_net_hdr_v1_hash_tunnel`, Linux 6.17) goes on; it says where the headers of a UDP
//! tunnel are around a super-frame, whose own numbers are then those of the inner packet. These two are always little endian:
//!
//! ```text
//! offset  12          16           18       20               22               24
//!         hash_value  hash_report  padding  outer_th_offset  inner_nh_offset
//! ```
//!
//! The other numbers are in the machine's byte order: the legacy format, which the kernel speaks on a
//! TAP until it is told otherwise (`TUNSETVNETLE`, `TUNSETVNETBE`), and it never is. On x86 and on
//! little-endian ARM that is little endian, the same as virtio 1.0.
//!
//! Decoding trusts nothing: every offset must lie within the frame, and `hdr_len`, which is a hint
//! that some senders get wrong, is not read at all. Encoding computes `hdr_len` from the frame,
//! because the kernel sizes the linear part of its buffer from it (`tun_get_user`): with zero it
//! would allocate 64 contiguous kilobytes for a super-frame.

use super::{ethernet, tcp, udp};
use super::{ipv4, ipv6};
use crate::frame::{Csum, Encapsulation, Gso, GsoKind, Offload};

/// The legacy form (`struct virtio_net_hdr`).
pub const HEADER_BYTES: usize = 10;
/// The form with `num_buffers` (`struct virtio_net_hdr_mrg_rxbuf`).
pub const HEADER_BYTES_V1: usize = 12;

/// The form for tunnels (`struct virtio_net_hdr_v1_hash_tunnel`).
pub const HEADER_BYTES_TUNNEL: usize = 24;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
/// Each segment gets an outer checksum, too.
const F_UDP_TUNNEL_CSUM: u8 = 8;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
const GSO_UDP_TUNNEL: u8 = GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6;
const GSO_ECN: u8 = 0x80;

const OUTER_TRANSPORT_AT: usize = 20;
const INNER_NETWORK_AT: usize = 22;

/// Metadata that contradicts itself or the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no whole header.
    #[error("virtio_net_hdr: {0} bytes where at least 10 are needed")]
    Truncated(usize),
    /// The checksum is to start or to be stored outside of the frame, or in the MAC addresses.
    #[error("virtio_net_hdr: checksum from {start} stored at +{offset} in a frame of {frame_bytes} bytes")]
    CsumOutside {
        /// Where summing starts.
        start: u16,
        /// Where the field is, from there.
        offset: u16,
        /// The frame's length in bytes.
        frame_bytes: usize,
    },
    /// A super-frame whose checksum field is not its protocol's.
    #[error("virtio_net_hdr: a super-frame of type {gso_type} with its checksum at +{offset}")]
    CsumOffset {
        /// The type.
        gso_type: u8,
        /// The checksum field's offset from where summing starts.
        offset: u16,
    },
    /// A super-frame whose checksum is not partial (virtio 1.2, section 5.1.6.2 asks for it).
    #[error("virtio_net_hdr: a super-frame without a partial checksum")]
    GsoWithoutCsum,
    /// Segments of no bytes.
    #[error("virtio_net_hdr: a super-frame with gso_size 0")]
    GsoSizeZero,
    /// A segmentation type that the switch never asked for (or ECN for what is not TCP).
    #[error("virtio_net_hdr: unknown gso_type {0}")]
    GsoType(u8),
    /// The headers of a tunnel that are not one behind the other, or a tunnel around what is no super-frame.
    #[error("virtio_net_hdr: a tunnel with UDP at {transport}, an inner packet at {inner}, its checksum from {start}")]
    Tunnel {
        /// Where the outer UDP header is said to be.
        transport: u16,
        /// Where the inner IP header is said to be.
        inner: u16,
        /// Where the inner transport header is said to be.
        start: u16,
    },
}

#[inline]
fn ne16(header: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_ne_bytes([header[at], header[at + 1]])
}

/// What the header in front of `frame` says. Both forms are taken: of the longer one the rest is
/// not looked at, and flags that were never negotiated are ignored (virtio 1.2, section 5.1.6.4).
///
/// # Errors
/// [`Error`] names the contradiction. Nothing is an error about a plain frame.
#[inline]
pub fn decode(header: &[u8], frame: &[u8]) -> Result<Offload, Error> {
    let Some(header) = header.first_chunk::<HEADER_BYTES>() else { return Err(Error::Truncated(header.len())) };
    // Most small frames: no flags, no segmentation; the other fields mean nothing then.
    if header[0] == 0 && header[1] == GSO_NONE {
        return Ok(Offload::NONE);
    }
    decode_offloads(header, frame)
}

/// What the form for tunnels says: as [`decode`], and the outer headers of a super-frame inside of a tunnel.
///
/// # Errors
/// As [`decode`]; [`Error::Tunnel`].
#[inline]
pub fn decode_tunnel(header: &[u8], frame: &[u8]) -> Result<(Offload, Option<Encapsulation>), Error> {
    let Some(whole) = header.first_chunk::<HEADER_BYTES_TUNNEL>() else { return Err(Error::Truncated(header.len())) };
    match whole[1] & GSO_UDP_TUNNEL {
        0 => decode(header, frame).map(|offload| (offload, None)),
        GSO_UDP_TUNNEL => Err(Error::GsoType(whole[1])),
        family => {
            let mut plain = [0; HEADER_BYTES];
            plain.copy_from_slice(&whole[..HEADER_BYTES]);
            plain[1] &= !GSO_UDP_TUNNEL;
            let offload = decode_offloads(&plain, frame)?;
            let le16 = |at: usize| u16::from_le_bytes([whole[at], whole[at + 1]]);
            let encapsulation = Encapsulation {
                ipv6: family == GSO_UDP_TUNNEL_IPV6,
                checksum: whole[0] & F_UDP_TUNNEL_CSUM != 0,
                transport_offset: le16(OUTER_TRANSPORT_AT),
                inner_network_offset: le16(INNER_NETWORK_AT),
            };
            check_tunnel(&offload, &encapsulation)?;
            Ok((offload, Some(encapsulation)))
        }
    }
}

/// What the kernel asks for, too (`virtio_net_hdr_tnl_to_skb`): headers that follow one another, around a super-frame.
fn check_tunnel(offload: &Offload, encapsulation: &Encapsulation) -> Result<(), Error> {
    let &Encapsulation { ipv6, transport_offset: transport, inner_network_offset: inner, .. } = encapsulation;
    let start = match offload.csum {
        Csum::Partial { start, .. } => start,
        Csum::Unknown | Csum::Valid => 0,
    };
    let outer_ip_bytes = if ipv6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
    let inner_ip_bytes = match offload.gso.map(|gso| gso.kind) {
        Some(GsoKind::Tcp6) => ipv6::HEADER_BYTES,
        Some(GsoKind::Tcp4 | GsoKind::Udp) => ipv4::HEADER_BYTES,
        None => return Err(Error::Tunnel { transport, inner, start }),
    };
    let is_ordered = usize::from(transport) >= ethernet::HEADER_BYTES + outer_ip_bytes
        && usize::from(inner) >= usize::from(transport) + udp::HEADER_BYTES
        && usize::from(start) >= usize::from(inner) + inner_ip_bytes;
    if is_ordered { Ok(()) } else { Err(Error::Tunnel { transport, inner, start }) }
}

fn decode_offloads(header: &[u8; HEADER_BYTES], frame: &[u8]) -> Result<Offload, Error> {
    let csum = if header[0] & F_NEEDS_CSUM != 0 {
        let (start, offset) = (ne16(header, 6), ne16(header, 8));
        let field_end = usize::from(start) + usize::from(offset) + 2;
        // Within the addresses it would change whom the frame is for after that was decided.
        if field_end > frame.len() || usize::from(start) < ethernet::HEADER_BYTES {
            return Err(Error::CsumOutside { start, offset, frame_bytes: frame.len() });
        }
        Csum::Partial { start, offset }
    } else if header[0] & F_DATA_VALID != 0 {
        Csum::Valid
    } else {
        Csum::Unknown
    };
    let gso_type = header[1];
    let (kind, field) = match gso_type & !GSO_ECN {
        GSO_NONE if gso_type == GSO_NONE => return Ok(Offload { csum, gso: None }),
        GSO_TCPV4 => (GsoKind::Tcp4, tcp::CHECKSUM_OFFSET),
        GSO_TCPV6 => (GsoKind::Tcp6, tcp::CHECKSUM_OFFSET),
        GSO_UDP_L4 if gso_type == GSO_UDP_L4 => (GsoKind::Udp, udp::CHECKSUM_OFFSET),
        _ => return Err(Error::GsoType(gso_type)),
    };
    let size = ne16(header, 4);
    match csum {
        Csum::Partial { offset, .. } if offset != field => return Err(Error::CsumOffset { gso_type, offset }),
        Csum::Partial { .. } if size == 0 => return Err(Error::GsoSizeZero),
        Csum::Partial { .. } => {}
        Csum::Unknown | Csum::Valid => return Err(Error::GsoWithoutCsum),
    }
    Ok(Offload { csum, gso: Some(Gso { kind, ecn: gso_type & GSO_ECN != 0, size }) })
}

/// Writes the header for a frame, or for a unit that starts with `frame`'s headers and goes on in
/// other pieces. `N` is the size of one of the forms; `num_buffers` is zero, nobody reads it on a TAP.
#[inline]
pub fn encode<const N: usize>(offload: &Offload, frame: &[u8], header: &mut [u8; N]) {
    const {
        assert!(
            N == HEADER_BYTES || N == HEADER_BYTES_V1 || N == HEADER_BYTES_TUNNEL,
            "virtio_net_hdr has 10, 12 or 24 bytes"
        );
    };
    *header = [0; N];
    if *offload != Offload::NONE {
        encode_offloads(offload, frame, header);
    }
}

/// Writes the form for tunnels, for a super-frame inside of one.
#[inline]
pub fn encode_tunnel(
    offload: &Offload,
    encapsulation: &Encapsulation,
    frame: &[u8],
    header: &mut [u8; HEADER_BYTES_TUNNEL],
) {
    encode(offload, frame, header);
    header[0] |= if encapsulation.checksum { F_UDP_TUNNEL_CSUM } else { 0 };
    header[1] |= if encapsulation.ipv6 { GSO_UDP_TUNNEL_IPV6 } else { GSO_UDP_TUNNEL_IPV4 };
    for (at, offset) in
        [(OUTER_TRANSPORT_AT, encapsulation.transport_offset), (INNER_NETWORK_AT, encapsulation.inner_network_offset)]
    {
        header[at..at + 2].copy_from_slice(&offset.to_le_bytes());
    }
}

fn encode_offloads(offload: &Offload, frame: &[u8], header: &mut [u8]) {
    let mut put = |at: usize, value: u16| {
        if let Some(field) = header.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    };
    let flags = match offload.csum {
        Csum::Unknown => 0,
        Csum::Valid => F_DATA_VALID,
        Csum::Partial { start, offset } => {
            put(2, header_bytes(frame, start, offset));
            put(6, start);
            put(8, offset);
            F_NEEDS_CSUM
        }
    };
    let gso_type = offload.gso.map_or(GSO_NONE, |gso| {
        put(4, gso.size);
        let kind = match gso.kind {
            GsoKind::Tcp4 => GSO_TCPV4,
            GsoKind::Tcp6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP_L4,
        };
        if gso.ecn { kind | GSO_ECN } else { kind }
    });
    put(0, u16::from_ne_bytes([flags, gso_type]));
}

/// The length of all headers. A partial checksum starts where the transport header does, and its
/// offset tells which one it is; that spares the walk over tags and IP headers.
///
/// Never more than the frame, which the kernel would refuse.
#[inline]
fn header_bytes(frame: &[u8], start: u16, offset: u16) -> u16 {
    let start_bytes = usize::from(start);
    let transport_bytes = match offset {
        tcp::CHECKSUM_OFFSET => {
            frame.get(start_bytes + 12).map_or(tcp::HEADER_BYTES, |byte| usize::from(byte >> 4) * 4)
        }
        udp::CHECKSUM_OFFSET => udp::HEADER_BYTES,
        _ => 0,
    };
    let needed = transport_bytes.max(usize::from(offset) + 2);
    (start_bytes + needed).min(frame.len()).min(usize::from(u16::MAX)) as u16
}
