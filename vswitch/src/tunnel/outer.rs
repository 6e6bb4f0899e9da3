//! The outer headers, where the switch writes and reads them itself: tunnels over an uplink that is
//! shared with the host.
//!
//! *Out.* A [`Template`] is everything that packets to one remote have in common, in the order of the
//! wire, Ethernet to VXLAN: 50 bytes over IPv4, 70 over IPv6. [`Template::encapsulate`] copies it into a
//! frame's headroom and fills in what each packet has of its own: lengths, TOS, source port. The IPv4 header
//! checksum is the template's sum and those two fields; no byte of the frame is read for it.
//!
//! The UDP checksum is zero over IPv4 (RFC 7348, section 5). Over IPv6 it is not, because Linux'
//! `vxlan` refuses packets without one unless told otherwise (RFC 6936 has more on that): it is left
//! partial, and whoever sends the frame completes it.
//!
//! A super-frame gets the headers once, for all of its segments ([`Template::encapsulate_whole`]), where the uplink's device
//! sends such frames.
//!
//! *In.* [`decapsulate`] finds the UDP payload of a tunnel packet; [`super::decap`] has the rest. Checksums
//! that are not zero, and that nobody verified, are verified (RFC 7348, section 5: "if the packet is
//! verified and the checksum is wrong it MUST be dropped").

use std::net::IpAddr;
use std::ops::Range;

use super::ecn::Ecn;
use super::inner::{self, Inner};
use super::remote::RemoteConfig;
use crate::frame::pool::HEADROOM_BYTES;
use crate::frame::{Csum, DropReason, Encapsulation, Frame, GsoKind, checksum};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{ipv4, ipv6, protocol, udp, vxlan};

/// Outer headers over IPv6, without tags.
pub const HEADERS_BYTES_MAX: usize =
    ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + udp::HEADER_BYTES + vxlan::HEADER_BYTES;
const _: () = assert!(HEADERS_BYTES_MAX <= HEADROOM_BYTES, "a frame has room for its outer headers");

const IP_OFFSET: usize = ethernet::HEADER_BYTES;

/// What all packets to one remote have in common.
#[derive(Debug, Clone)]
pub struct Template {
    config: RemoteConfig,
    bytes: [u8; HEADERS_BYTES_MAX],
    len: usize,
    /// Where the UDP header is.
    udp_offset: usize,
    /// Of IPv4: the sum of the header without TOS and length. Of IPv6: the pseudo-header's without the length.
    sum: u32,
}

impl Template {
    /// The template of packets from `source` to the remote of `config`, by way of the Ethernet addresses
    /// `macs`: the next hop's, and the interface's. Nothing when the two addresses are of different families.
    #[must_use]
    pub fn new(config: RemoteConfig, source: IpAddr, macs: ([u8; 6], [u8; 6])) -> Option<Self> {
        let mut bytes = [0; HEADERS_BYTES_MAX];
        bytes[..6].copy_from_slice(&macs.0);
        bytes[6..12].copy_from_slice(&macs.1);
        let (ip_bytes, sum) = match (source, config.remote) {
            (IpAddr::V4(source), IpAddr::V4(remote)) => {
                bytes[12..14].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
                let ip = &mut bytes[IP_OFFSET..IP_OFFSET + ipv4::HEADER_BYTES];
                // DF is set, so the identification says nothing (RFC 6864, section 4.1).
                ip[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, config.ttl, protocol::UDP]);
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&remote.octets());
                (ipv4::HEADER_BYTES, checksum::sum(ip))
            }
            (IpAddr::V6(source), IpAddr::V6(remote)) => {
                bytes[12..14].copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
                let ip = &mut bytes[IP_OFFSET..IP_OFFSET + ipv6::HEADER_BYTES];
                ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol::UDP, config.ttl]);
                ip[8..24].copy_from_slice(&source.octets());
                ip[24..40].copy_from_slice(&remote.octets());
                (ipv6::HEADER_BYTES, checksum::pseudo_header(&ip[8..40], protocol::UDP, 0))
            }
            _ => return None,
        };
        let udp_offset = IP_OFFSET + ip_bytes;
        bytes[udp_offset + 2..udp_offset + 4].copy_from_slice(&config.dst_port.to_be_bytes());
        let len = udp_offset + udp::HEADER_BYTES + vxlan::HEADER_BYTES;
        bytes[len - vxlan::HEADER_BYTES..len].copy_from_slice(&vxlan::header(config.vni));
        Some(Self { config, bytes, len, udp_offset, sum })
    }

    /// The length of the outer headers in bytes.
    #[inline]
    #[must_use]
    pub fn headers_bytes(&self) -> usize {
        self.len
    }

    /// Puts the outer headers in front of a frame whose own checksum is complete and which needs no
    /// segmentation. Over IPv6 the outer checksum is left [`Csum::Partial`]. The hash of the inner flow, by
    /// which the next hop may be chosen, comes back.
    ///
    /// # Errors
    /// [`DropReason::TooBig`] when the frame is longer than an IP packet can be, [`DropReason::TxError`]
    /// when it has no headroom left.
    #[inline]
    pub fn encapsulate(&self, frame: &mut Frame) -> Result<Inner, DropReason> {
        let inner = inner::examine(frame.data());
        let datagram_bytes = udp::HEADER_BYTES + vxlan::HEADER_BYTES + frame.len();
        let Ok(packet_bytes) = u16::try_from(self.udp_offset - IP_OFFSET + datagram_bytes) else {
            return Err(DropReason::TooBig);
        };
        if frame.headroom() < self.len {
            return Err(DropReason::TxError);
        }
        frame.push_front(self.len);
        // What is known of the inner checksum is of no use to those who look at the outer packet.
        frame.offload.csum = Csum::Unknown;
        let tos = self.config.tos(inner);
        let out = frame.data_mut();
        out[..self.len].copy_from_slice(&self.bytes[..self.len]);
        let datagram = datagram_bytes as u16;
        let udp = self.udp_offset;
        out[udp..udp + 2].copy_from_slice(&inner::source_port(inner.hash).to_be_bytes());
        out[udp + 4..udp + 6].copy_from_slice(&datagram.to_be_bytes());
        match self.config.remote {
            IpAddr::V4(_) => {
                out[IP_OFFSET + 1] = tos;
                out[IP_OFFSET + 2..IP_OFFSET + 4].copy_from_slice(&packet_bytes.to_be_bytes());
                let sum = !checksum::fold(self.sum + u32::from(tos) + u32::from(packet_bytes));
                out[IP_OFFSET + 10..IP_OFFSET + 12].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(_) => {
                out[IP_OFFSET] = 0x60 | tos >> 4;
                out[IP_OFFSET + 1] = tos << 4;
                out[IP_OFFSET + 4..IP_OFFSET + 6].copy_from_slice(&datagram.to_be_bytes());
                let pseudo = checksum::fold(self.sum + u32::from(datagram));
                out[udp + 6..udp + 8].copy_from_slice(&pseudo.to_be_bytes());
                frame.offload.csum = Csum::Partial { start: udp as u16, offset: udp::CHECKSUM_OFFSET };
            }
        }
        Ok(inner)
    }
}

impl Template {
    /// Puts the outer headers in front of a super-frame, once for all of its segments: whoever sends the frame cuts the inner
    /// packet and gives each segment a copy of the headers ([`Frame::encapsulation`]).
    ///
    /// # Errors
    /// As [`Template::encapsulate`]; [`DropReason::Unsegmentable`] for what is no super-frame, or one whose metadata
    /// contradicts it.
    #[inline]
    pub fn encapsulate_whole(&self, frame: &mut Frame) -> Result<Inner, DropReason> {
        let inner_network = ethernet::skip_tags(frame.data()).map_err(|_| DropReason::Unsegmentable)?.1;
        let (Some(gso), Csum::Partial { start, offset }) = (frame.offload.gso, frame.offload.csum) else {
            return Err(DropReason::Unsegmentable);
        };
        let ip_bytes = if gso.kind == GsoKind::Tcp6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
        if usize::from(start) < inner_network + ip_bytes {
            return Err(DropReason::Unsegmentable);
        }
        let inner = self.encapsulate(frame)?;
        frame.offload.csum = Csum::Partial { start: start + self.len as u16, offset };
        let is_v6 = self.config.remote.is_ipv6();
        frame.encapsulation = Some(Encapsulation {
            ipv6: is_v6,
            checksum: is_v6,
            transport_offset: self.udp_offset as u16,
            inner_network_offset: (self.len + inner_network) as u16,
        });
        Ok(inner)
    }
}

/// What the outer headers of a tunnel packet say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outer {
    /// Who sent it.
    pub sender: IpAddr,
    /// To which of this host's addresses.
    pub local: IpAddr,
    /// To which UDP port.
    pub port: u16,
    /// Whether a router marked congestion.
    pub ecn: Ecn,
    /// Where the UDP payload is in the frame, which a VXLAN header starts.
    pub payload: Range<usize>,
}

/// Whether a frame is a UDP packet for `local` and `port`; a fragment that is not the first one of its packet is not.
#[inline]
#[must_use]
pub fn is_for(frame: &[u8], local: IpAddr, port: u16) -> bool {
    let Ok((ethertype, at)) = ethernet::skip_tags(frame) else { return false };
    let bytes = frame.get(at..).unwrap_or_default();
    let datagram = match (ethertype, local) {
        (EtherType::IPV4, IpAddr::V4(local)) => {
            let Some(header) = bytes.first_chunk::<{ ipv4::HEADER_BYTES }>() else { return false };
            let is_first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
            if header[9] != protocol::UDP || header[16..20] != local.octets() || !is_first {
                return false;
            }
            usize::from(header[0] & 0x0f) * 4
        }
        (EtherType::IPV6, IpAddr::V6(local)) => {
            let Some(header) = bytes.first_chunk::<{ ipv6::HEADER_BYTES }>() else { return false };
            if header[24..40] != local.octets() {
                return false;
            }
            match header[6] {
                protocol::UDP => ipv6::HEADER_BYTES,
                _ => match ipv6::Packet::new_checked(bytes).and_then(|packet| packet.upper()) {
                    Ok(upper) if upper.protocol == protocol::UDP && !upper.is_later_fragment => upper.offset,
                    _ => return false,
                },
            }
        }
        _ => return false,
    };
    bytes.get(datagram + 2..datagram + 4) == Some(&port.to_be_bytes())
}

/// Reads the outer headers of a frame of which `csum` is known.
///
/// # Errors
/// [`DropReason::NotOurs`] for what is no UDP packet, [`DropReason::TunnelMalformed`] for headers that
/// contradict themselves and for fragments, [`DropReason::TunnelChecksum`] for a wrong checksum.
#[inline]
pub fn decapsulate(frame: &[u8], csum: Csum) -> Result<Outer, DropReason> {
    let malformed = |_| DropReason::TunnelMalformed;
    let (ethertype, ip_offset) = ethernet::skip_tags(frame).map_err(malformed)?;
    let bytes = frame.get(ip_offset..).unwrap_or_default();
    let (sender, local, tos, protocol, datagram_offset, datagram, pseudo) = match ethertype {
        EtherType::IPV4 => {
            let packet = ipv4::Packet::new_checked(bytes).map_err(malformed)?;
            // A VTEP must not fragment (RFC 7348, section 4.3), and a part of a packet is of no use.
            if packet.is_fragment() || !packet.is_checksum_right() {
                return Err(DropReason::TunnelMalformed);
            }
            let (payload, pseudo) = (packet.payload(), packet.pseudo_header_sum(packet.payload().len()));
            let addresses = (packet.source().into(), packet.destination().into());
            (addresses.0, addresses.1, packet.tos(), packet.protocol(), packet.header_bytes(), payload, pseudo)
        }
        EtherType::IPV6 => {
            let packet = ipv6::Packet::new_checked(bytes).map_err(malformed)?;
            let upper = packet.upper().map_err(malformed)?;
            if upper.is_fragment {
                return Err(DropReason::TunnelMalformed);
            }
            let pseudo = packet.pseudo_header_sum(protocol::UDP, upper.payload.len());
            let addresses = (IpAddr::from(packet.source()), packet.destination().into());
            let tos = packet.traffic_class();
            (addresses.0, addresses.1, tos, upper.protocol, upper.offset, upper.payload, pseudo)
        }
        _ => return Err(DropReason::NotOurs),
    };
    if protocol != protocol::UDP {
        return Err(DropReason::NotOurs);
    }
    let packet = udp::Packet::new_checked(datagram).map_err(malformed)?;
    let is_verified = packet.checksum() == 0 || csum != Csum::Unknown;
    if !is_verified && checksum::fold(pseudo + checksum::sum(datagram)) != 0xffff {
        return Err(DropReason::TunnelChecksum);
    }
    let start = ip_offset + datagram_offset + udp::HEADER_BYTES;
    let payload = start..start + packet.payload().len();
    Ok(Outer { sender, local, port: packet.destination_port(), ecn: Ecn::of_tos(tos), payload })
}

#[cfg(test)]
#[path = "outer_tests.rs"]
mod tests;
