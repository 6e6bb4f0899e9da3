//! Translation of ICMP errors (RFC 5508 section 4, RFC 4443): of the packet that they quote, and of themselves.
//!
//! Theory of operation. An error comes back to where a packet seemed to come from, and quotes the beginning of that
//! packet as it was after its translation. The quoted tuple names the connection; the sender, to whom the error goes
//! on, must find the packet in it that he sent. So the quoted packet is translated back, addresses and ports and, as
//! far as they are quoted, checksums; the error gets new addresses; and its own checksum follows by what changed of
//! the quotation. No sum is over the whole, so an error may be cut short, or be a fragment, or have extensions behind
//! the quotation (RFC 4884), which all stay as they are.
//!
//! Refused are errors about errors (RFC 1122 section 3.2.2), about fragments other than the first, which have no ports
//! to be known by, and those with a wrong checksum outside, or a wrong header checksum inside (RFC 5508 REQ-3). The
//! transport checksum inside is not verified (REQ-3 c).

use std::net::IpAddr;

use super::rewrite::{Family, Transport, plus, transport_header};
use super::{Fragment, Hops, Packet, Rewrite, Tuple, Upper};
use crate::frame::checksum::{fold, pseudo_header, sum};
use crate::frame::{Csum, DropReason};
use crate::wire::{icmp, icmpv6, ipv4, ipv6, protocol};

/// The least that is quoted of a transport header (RFC 792).
const QUOTED_BYTES_MIN: usize = 8;
/// A checksum lies in this many bytes of any transport header.
const CHANGED_BYTES_MAX: usize = 20;

/// A quoted packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// The tuple of the packet that the error is about, as it was on the wire where the error came from.
    pub tuple: Tuple,
    /// Where the quoted IP header is, in bytes from the start of the frame.
    network: u16,
    /// Where the quoted transport header is.
    transport: u16,
    /// Where what may change ends.
    end: u32,
    kind: Transport,
}

impl IcmpError {
    /// Looks at the error in `data`, a frame or its head, that was parsed as `packet`.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] with a wrong checksum or a quotation that contradicts itself,
    /// [`DropReason::Untranslatable`] for what is no error, or quotes too little or nothing that has a tuple.
    pub fn parse(data: &[u8], packet: &Packet, csum: &Csum) -> Result<Self, DropReason> {
        if packet.upper != Upper::IcmpError {
            return Err(DropReason::Untranslatable);
        }
        let start = usize::from(packet.transport);
        let end = (packet.end as usize).min(data.len());
        let message = data.get(start..end).ok_or(DropReason::Malformed)?;
        // What is not whole, or not finished, cannot be verified.
        let is_whole = end == packet.end as usize && packet.fragment == Fragment::None;
        if is_whole && *csum == Csum::Unknown && !is_checksum_right(data, message, packet) {
            return Err(DropReason::Malformed);
        }
        let quoted = message.get(icmp::HEADER_BYTES..).ok_or(DropReason::Malformed)?;
        let (offset, segment, kind, tuple) = if packet.is_v6 { quoted_v6(quoted)? } else { quoted_v4(quoted)? };
        let network = start + icmp::HEADER_BYTES;
        let transport = network + offset;
        Ok(Self {
            tuple,
            network: network as u16,
            transport: transport as u16,
            end: (transport + segment.len().min(CHANGED_BYTES_MAX)) as u32,
            kind,
        })
    }

    /// Rewrites the error in `data`, which was parsed as `packet` and as this: `quoted` makes the quoted packet what
    /// its sender had sent, `outer` gives the error its addresses.
    ///
    /// False, and nothing is changed, if that cannot be: rewrites of another family, or other data.
    #[must_use]
    pub fn apply(
        &self,
        data: &mut [u8],
        packet: &Packet,
        csum: &Csum,
        quoted: &Rewrite,
        outer: &Rewrite,
        hops: Hops,
    ) -> bool {
        let (network, transport, end) = (usize::from(self.network), usize::from(self.transport), self.end as usize);
        let is_v6 = matches!(quoted.0, Family::V6(_));
        if is_v6 != packet.is_v6 || data.len() < end || !outer.apply(data, packet, csum, hops) {
            return false;
        }
        let Some(region) = data.get_mut(network..end) else { return false };
        let before = fold(sum(region));
        let Some((headers, segment)) = region.split_at_mut_checked(transport - network) else { return false };
        let (ports, deltas) = match &quoted.0 {
            Family::V4(rewrite) => {
                let Some(header) = headers.first_chunk_mut() else { return false };
                rewrite.network(header, Hops::Keep);
                (rewrite.ports, rewrite.deltas)
            }
            Family::V6(rewrite) => {
                let Some(header) = headers.first_chunk_mut() else { return false };
                rewrite.network(header, Hops::Keep);
                (rewrite.ports, rewrite.deltas)
            }
        };
        match (self.kind, segment.first_chunk_mut::<4>()) {
            // Of a fragment the checksum cannot follow; that of a quotation is nobody's concern.
            (Transport::Sctp(None), Some(quoted_ports)) => *quoted_ports = ports,
            _ => transport_header(segment, self.kind, ports, deltas, false),
        }
        let after = fold(sum(region));
        // A checksum that is still to be computed will be over what is there then.
        if !matches!(*csum, Csum::Partial { start, .. } if start == packet.transport) {
            let at = usize::from(packet.transport) + usize::from(icmp::CHECKSUM_OFFSET);
            if let Some(field) = data.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) {
                let checksum = !u16::from_be_bytes(*field);
                *field = (!fold(u32::from(checksum) + u32::from(plus(!before, after)))).to_be_bytes();
            }
        }
        true
    }
}

/// Whether the checksum of the whole error is right.
fn is_checksum_right(data: &[u8], message: &[u8], packet: &Packet) -> bool {
    let pseudo = if packet.is_v6 {
        let at = usize::from(packet.network) + 8;
        let Some(addresses) = data.get(at..at + 32) else { return false };
        pseudo_header(addresses, protocol::ICMPV6, message.len())
    } else {
        0
    };
    fold(pseudo + sum(message)) == 0xffff
}

/// Where the transport header is, as much as there is of it, how it changes, and the tuple.
type Quoted<'a> = Result<(usize, &'a [u8], Transport, Tuple), DropReason>;

fn quoted_v4(bytes: &[u8]) -> Quoted<'_> {
    let packet = ipv4::Packet::new_prefix(bytes).map_err(|_| DropReason::Untranslatable)?;
    if !packet.is_checksum_right() {
        return Err(DropReason::Malformed);
    }
    if packet.fragment_offset() != 0 {
        return Err(DropReason::Untranslatable);
    }
    let tuple = Tuple {
        protocol: packet.protocol(),
        source: IpAddr::V4(packet.source()),
        source_port: 0,
        destination: IpAddr::V4(packet.destination()),
        destination_port: 0,
    };
    let whole_bytes = (!packet.more_fragments()).then(|| (packet.claimed_bytes() - packet.header_bytes()) as u32);
    let (kind, ports) = quoted_transport(packet.payload(), packet.protocol(), false, whole_bytes)?;
    Ok((packet.header_bytes(), packet.payload(), kind, with_ports(tuple, ports)))
}

fn quoted_v6(bytes: &[u8]) -> Quoted<'_> {
    let packet = ipv6::Packet::new_prefix(bytes).map_err(|_| DropReason::Untranslatable)?;
    let upper = packet.upper().map_err(|_| DropReason::Untranslatable)?;
    if upper.is_later_fragment || upper.is_source_routed {
        return Err(DropReason::Untranslatable);
    }
    let tuple = Tuple {
        protocol: upper.protocol,
        source: IpAddr::V6(packet.source()),
        source_port: 0,
        destination: IpAddr::V6(packet.destination()),
        destination_port: 0,
    };
    let is_whole = upper.fragment.is_none_or(|fragment| !fragment.more);
    let whole_bytes = is_whole.then(|| (packet.claimed_bytes() - upper.offset) as u32);
    let (kind, ports) = quoted_transport(upper.payload, upper.protocol, true, whole_bytes)?;
    Ok((upper.offset, upper.payload, kind, with_ports(tuple, ports)))
}

fn with_ports(tuple: Tuple, [source_port, destination_port]: [u16; 2]) -> Tuple {
    Tuple { source_port, destination_port, ..tuple }
}

/// How the transport header that `segment` begins with changes, and its ports.
fn quoted_transport(
    segment: &[u8],
    number: u8,
    is_v6: bool,
    whole_bytes: Option<u32>,
) -> Result<(Transport, [u16; 2]), DropReason> {
    let header: &[u8; QUOTED_BYTES_MIN] = segment.first_chunk().ok_or(DropReason::Untranslatable)?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let ports = [field(0), field(2)];
    let identifier = field(icmp::IDENTIFIER_OFFSET);
    Ok(match (number, is_v6) {
        (protocol::TCP, _) => (Transport::Tcp, ports),
        (protocol::UDP, _) => (Transport::Udp, ports),
        (protocol::SCTP, _) => (Transport::Sctp(whole_bytes), ports),
        (protocol::ICMP, false) | (protocol::ICMPV6, true) => {
            let ports = match (header[0], is_v6) {
                (icmp::ECHO_REQUEST, false) | (icmpv6::ECHO_REQUEST, true) => [identifier, 0],
                (icmp::ECHO_REPLY, false) | (icmpv6::ECHO_REPLY, true) => [0, identifier],
                // Errors above all: about those there must be none.
                _ => return Err(DropReason::Untranslatable),
            };
            (Transport::Echo { is_v6 }, ports)
        }
        _ => (Transport::Opaque, [0; 2]),
    })
}

#[cfg(test)]
#[path = "icmp_error_tests.rs"]
mod tests;
