//! A packet as the gateway sees it: where its headers are, whether it is a fragment, and its tuple.
//!
//! This is the slow path's parser. It looks through VLAN tags, IPv4 options and IPv6 extension headers, takes
//! super-frames for what they say they are, and trusts no length: whatever it says of a frame lies within it. Of a
//! frame that is scattered over several buffers only the head is at hand; then the headers, but not the payload, must
//! be in it.
//!
//! Refused as malformed is what a stateful translator must not guess about: headers that are not whole (also in a
//! first fragment, RFC 1858 section 3.1), a wrong IPv4 header checksum, fragments that cannot be put together. Source
//! routes are refused, too: what they translate to depends on stations that are still to be visited (RFC 7126 section
//! 4.3, RFC 5095). Transport checksums are for the receiver to verify: a delta keeps a wrong one wrong.

use std::net::IpAddr;

use super::Tuple;
use crate::frame::DropReason;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::tcp::Flags;
use crate::wire::{icmp, icmpv6, ipv4, ipv6, protocol, sctp, tcp, udp};

/// The longest IP packet that fragments can make.
const PACKET_BYTES_MAX: usize = 65535;

/// Loose and strict source and record route (RFC 791): the kinds of the options.
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// Which part of a packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// A whole packet. IPv6's atomic fragments are whole, too (RFC 6946).
    None,
    /// The first fragment, with the transport header.
    First {
        /// What the packet's fragments share.
        id: u32,
        /// The length of its part of the packet's payload.
        payload_bytes: u16,
    },
    /// Another one; it has no transport header.
    Later {
        /// What the packet's fragments share.
        id: u32,
        /// Where in the packet's payload its part is.
        offset_bytes: u16,
        /// The length of its part.
        payload_bytes: u16,
        /// Whether there are fragments behind it.
        more: bool,
    },
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upper {
    /// TCP.
    Tcp {
        /// The control bits.
        flags: Flags,
        /// The sequence number of the first byte.
        sequence: u32,
        /// The next sequence number that the sender expects.
        acknowledgement: u32,
        /// The window, unscaled.
        window: u16,
        /// The header's length with options.
        header_bytes: u8,
        /// The payload's length; of a first fragment, that of its part.
        payload_bytes: u32,
    },
    /// UDP.
    Udp,
    /// SCTP.
    Sctp {
        /// The verification tag.
        tag: u32,
        /// The type of the first chunk.
        chunk: u8,
        /// The flags of the first chunk.
        chunk_flags: u8,
    },
    /// ICMP or ICMPv6 echo request.
    EchoRequest,
    /// ICMP or ICMPv6 echo reply.
    EchoReply,
    /// An error about another packet, which it quotes: unreachable, too big, time exceeded, parameter problem. Not
    /// source quench, which is no more (RFC 6633), and not redirects, which are for neighbours only.
    IcmpError,
    /// Another message of ICMP or ICMPv6.
    OtherIcmp,
    /// Another protocol, or a later fragment of any.
    Other,
}

/// See the module's documentation. Offsets are in bytes from the start of the frame, and
/// `network < transport <= end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whether it is IPv6.
    pub is_v6: bool,
    /// Where the IP header is.
    pub network: u16,
    /// Where the transport header is; of a later fragment, its payload.
    pub transport: u16,
    /// Where the IP packet ends; Ethernet padding may follow.
    pub end: u32,
    /// The transport protocol.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub hops: u8,
    /// Whether it must not be fragmented by a router. IPv6 never is.
    pub dont_fragment: bool,
    /// Which part of a packet it is.
    pub fragment: Fragment,
    /// What it carries.
    pub upper: Upper,
    /// Protocol, addresses and ports. A later fragment has no ports, and neither has an ICMP error.
    pub tuple: Tuple,
}

impl Packet {
    /// Looks at a frame of `frame_bytes` bytes that starts with `head`, which is all of it unless it is scattered.
    ///
    /// # Errors
    /// [`DropReason::Runt`] without an Ethernet header, [`DropReason::Malformed`] for what contradicts itself or is
    /// not whole, [`DropReason::Untranslatable`] for what is not IP or has a source route.
    pub fn parse(head: &[u8], frame_bytes: usize) -> Result<Self, DropReason> {
        if head.len() < ethernet::HEADER_BYTES {
            return Err(DropReason::Runt);
        }
        let (ethertype, network) = ethernet::skip_tags(head).map_err(|_| DropReason::Malformed)?;
        let bytes = head.get(network..).ok_or(DropReason::Malformed)?;
        let packet_bytes = frame_bytes.max(head.len()) - network;
        let mut packet = match ethertype {
            EtherType::IPV4 => Self::parse_v4(bytes, packet_bytes),
            EtherType::IPV6 => Self::parse_v6(bytes, packet_bytes),
            _ => Err(DropReason::Untranslatable),
        }?;
        // At most 22 bytes to the IP header, and eight extension headers of 2 KiB: far below 65,536.
        packet.network = network as u16;
        packet.transport += network as u16;
        packet.end += network as u32;
        Ok(packet)
    }

    /// With offsets from the start of the IP header, as below.
    fn parse_v4(bytes: &[u8], have_bytes: usize) -> Result<Self, DropReason> {
        let packet = ipv4::Packet::new_prefix(bytes).map_err(|_| DropReason::Malformed)?;
        let (total_bytes, header_bytes) = (packet.claimed_bytes(), packet.header_bytes());
        if total_bytes > have_bytes || !packet.is_checksum_right() {
            return Err(DropReason::Malformed);
        }
        check_options(packet.options())?;
        let payload_bytes = total_bytes - header_bytes;
        let fragment = fragment(
            u32::from(packet.id()),
            packet.fragment_offset(),
            packet.more_fragments(),
            payload_bytes,
            PACKET_BYTES_MAX - header_bytes,
        )?;
        Self {
            is_v6: false,
            network: 0,
            transport: header_bytes as u16,
            end: total_bytes as u32,
            protocol: packet.protocol(),
            hops: packet.ttl(),
            dont_fragment: packet.dont_fragment(),
            fragment,
            upper: Upper::Other,
            tuple: Tuple {
                protocol: packet.protocol(),
                source: IpAddr::V4(packet.source()),
                source_port: 0,
                destination: IpAddr::V4(packet.destination()),
                destination_port: 0,
            },
        }
        .with_upper(packet.payload(), payload_bytes)
    }

    fn parse_v6(bytes: &[u8], have_bytes: usize) -> Result<Self, DropReason> {
        let packet = ipv6::Packet::new_prefix(bytes).map_err(|_| DropReason::Malformed)?;
        let total_bytes = packet.claimed_bytes();
        let upper = packet.upper().map_err(|_| DropReason::Malformed)?;
        if total_bytes > have_bytes {
            return Err(DropReason::Malformed);
        }
        if upper.is_source_routed {
            return Err(DropReason::Untranslatable);
        }
        // The walk over the extension headers did not leave the packet.
        let payload_bytes = total_bytes - upper.offset;
        let fragment = match upper.fragment {
            Some(header) => fragment(header.id, header.offset_bytes, header.more, payload_bytes, PACKET_BYTES_MAX)?,
            None => Fragment::None,
        };
        Self {
            is_v6: true,
            network: 0,
            transport: upper.offset as u16,
            end: total_bytes as u32,
            protocol: upper.protocol,
            hops: packet.hop_limit(),
            dont_fragment: true,
            fragment,
            upper: Upper::Other,
            tuple: Tuple {
                protocol: upper.protocol,
                source: IpAddr::V6(packet.source()),
                source_port: 0,
                destination: IpAddr::V6(packet.destination()),
                destination_port: 0,
            },
        }
        .with_upper(upper.payload, payload_bytes)
    }

    /// Looks at the transport header: `segment` is what is at hand of it and its payload, which are `bytes` long.
    fn with_upper(mut self, segment: &[u8], bytes: usize) -> Result<Self, DropReason> {
        if matches!(self.fragment, Fragment::Later { .. }) {
            return Ok(self);
        }
        let whole = self.fragment == Fragment::None;
        let (upper, ports) = match (self.protocol, self.is_v6) {
            (protocol::TCP, _) => parse_tcp(segment, bytes)?,
            (protocol::UDP, _) => parse_udp(segment, bytes, whole)?,
            (protocol::SCTP, _) => parse_sctp(segment)?,
            (protocol::ICMP, false) => parse_icmp(segment)?,
            (protocol::ICMPV6, true) => parse_icmpv6(segment)?,
            _ => (Upper::Other, [0; 2]),
        };
        self.upper = upper;
        [self.tuple.source_port, self.tuple.destination_port] = ports;
        Ok(self)
    }

    /// The length of transport header and payload.
    #[inline]
    #[must_use]
    pub const fn transport_bytes(&self) -> usize {
        self.end as usize - self.transport as usize
    }

    /// The length of the IP packet.
    #[inline]
    #[must_use]
    pub const fn packet_bytes(&self) -> usize {
        self.end as usize - self.network as usize
    }

    /// Whether it is a later fragment.
    #[inline]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::Later { .. })
    }
}

/// Walks over IPv4 options, of which no source route may be one.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    while let Some((&kind, rest)) = options.split_first() {
        options = match kind {
            END => return Ok(()),
            NO_OPERATION => rest,
            _ if SOURCE_ROUTES.contains(&kind) => return Err(DropReason::Untranslatable),
            _ => {
                let bytes = usize::from(*rest.first().ok_or(DropReason::Malformed)?);
                options.get(bytes..).filter(|_| bytes >= 2).ok_or(DropReason::Malformed)?
            }
        };
    }
    Ok(())
}

/// What fields say of a fragment. All but the last are multiples of eight bytes long, none is empty, and none ends
/// beyond the longest packet.
fn fragment(id: u32, offset: usize, more: bool, bytes: usize, bytes_max: usize) -> Result<Fragment, DropReason> {
    if offset == 0 && !more {
        return Ok(Fragment::None);
    }
    if bytes == 0 || (more && !bytes.is_multiple_of(8)) || offset + bytes > bytes_max {
        return Err(DropReason::Malformed);
    }
    let payload_bytes = bytes as u16;
    Ok(if offset == 0 {
        Fragment::First { id, payload_bytes }
    } else {
        Fragment::Later { id, offset_bytes: offset as u16, payload_bytes, more }
    })
}

/// What a transport header says, and its ports.
type Parsed = Result<(Upper, [u16; 2]), DropReason>;

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u16::from_be_bytes(*field))
}

fn parse_tcp(segment: &[u8], bytes: usize) -> Parsed {
    let packet = tcp::Packet::new_checked(segment).map_err(|_| DropReason::Malformed)?;
    let payload_bytes = bytes.checked_sub(packet.header_bytes()).ok_or(DropReason::Malformed)?;
    let upper = Upper::Tcp {
        flags: packet.flags(),
        sequence: packet.sequence(),
        acknowledgement: packet.acknowledgement(),
        window: packet.window(),
        header_bytes: packet.header_bytes() as u8,
        payload_bytes: payload_bytes as u32,
    };
    Ok((upper, [packet.source_port(), packet.destination_port()]))
}

fn parse_udp(segment: &[u8], bytes: usize, whole: bool) -> Parsed {
    let header: &[u8; udp::HEADER_BYTES] = segment.first_chunk().ok_or(DropReason::Malformed)?;
    let length = usize::from(be16(header, 4));
    // A fragment's length is that of the packet that it is a part of.
    if length < udp::HEADER_BYTES || (whole && length > bytes) {
        return Err(DropReason::Malformed);
    }
    Ok((Upper::Udp, [be16(header, 0), be16(header, 2)]))
}

fn parse_sctp(segment: &[u8]) -> Parsed {
    // With the header of the first chunk, without which there is no packet (RFC 9260 section 3).
    let header: &[u8; sctp::HEADER_BYTES + 4] = segment.first_chunk().ok_or(DropReason::Malformed)?;
    let tag = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Ok((Upper::Sctp { tag, chunk: header[12], chunk_flags: header[13] }, [be16(header, 0), be16(header, 2)]))
}

fn parse_icmp(message: &[u8]) -> Parsed {
    let header: &[u8; icmp::HEADER_BYTES] = message.first_chunk().ok_or(DropReason::Malformed)?;
    let identifier = be16(header, 4);
    Ok(match (header[0], header[1]) {
        (icmp::ECHO_REQUEST, 0) => (Upper::EchoRequest, [identifier, 0]),
        (icmp::ECHO_REPLY, 0) => (Upper::EchoReply, [0, identifier]),
        (icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM, _) => (Upper::IcmpError, [0; 2]),
        _ => (Upper::OtherIcmp, [0; 2]),
    })
}

fn parse_icmpv6(message: &[u8]) -> Parsed {
    let header: &[u8; icmp::HEADER_BYTES] = message.first_chunk().ok_or(DropReason::Malformed)?;
    let identifier = be16(header, 4);
    Ok(match (header[0], header[1]) {
        (icmpv6::ECHO_REQUEST, 0) => (Upper::EchoRequest, [identifier, 0]),
        (icmpv6::ECHO_REPLY, 0) => (Upper::EchoReply, [0, identifier]),
        (icmpv6::UNREACHABLE..=icmpv6::PARAMETER_PROBLEM, _) => (Upper::IcmpError, [0; 2]),
        _ => (Upper::OtherIcmp, [0; 2]),
    })
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
