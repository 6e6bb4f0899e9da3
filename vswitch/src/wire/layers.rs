//! Where a frame's headers are: Ethernet, tags, IP, TCP or UDP.
//!
//! What segmentation, coalescing and checksums need to know of a frame. The offsets come from the
//! packet itself and never from the metadata beside it.

use super::ethernet::{self, EtherType};
use super::{Error, ipv4, ipv6, protocol, tcp, udp};
use crate::frame::checksum;

/// The network protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The IP protocol number.
    #[inline]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// Where the checksum is, in bytes from the start of the transport header.
    #[inline]
    #[must_use]
    pub const fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp => tcp::CHECKSUM_OFFSET,
            Self::Udp => udp::CHECKSUM_OFFSET,
        }
    }
}

/// Why a frame has no [`Layers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLayers {
    /// A header contradicts itself.
    #[error(transparent)]
    Malformed(#[from] Error),
    /// Not IP, or behind more tags than are looked through.
    #[error("not an IP packet")]
    NotIp,
    /// IP, but neither TCP nor UDP.
    #[error("neither TCP nor UDP")]
    OtherTransport,
    /// A fragment: its payload is a part of something.
    #[error("a fragment")]
    Fragment,
}

/// The offsets of the headers, in bytes from the start of the frame, each within the frame:
/// `14 <= network < transport < payload <= end <= frame.len()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Where the IP header is.
    pub network_offset: u16,
    /// Where the transport header is.
    pub transport_offset: u16,
    /// Where the payload is.
    pub payload_offset: u16,
    /// Where the IP packet ends; Ethernet padding may follow.
    pub end: u32,
    /// The network protocol.
    pub network: Network,
    /// The transport protocol.
    pub transport: Transport,
}

impl Layers {
    /// Finds the headers of a TCP or UDP packet that is not a fragment.
    ///
    /// A UDP header's own length is not compared: of a super-frame it may be anything.
    ///
    /// # Errors
    /// [`NoLayers`] says why there are none.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, NoLayers> {
        let (ethertype, network_offset) = ethernet::skip_tags(frame)?;
        let bytes = frame.get(network_offset..).unwrap_or_default();
        let (network, protocol, header_bytes, payload) = match ethertype {
            EtherType::IPV4 => {
                let packet = ipv4::Packet::new_checked(bytes)?;
                if packet.is_fragment() {
                    return Err(NoLayers::Fragment);
                }
                (Network::V4, packet.protocol(), packet.header_bytes(), packet.payload())
            }
            EtherType::IPV6 => {
                let upper = ipv6::Packet::new_checked(bytes)?.upper()?;
                if upper.is_fragment {
                    return Err(NoLayers::Fragment);
                }
                (Network::V6, upper.protocol, upper.offset, upper.payload)
            }
            _ => return Err(NoLayers::NotIp),
        };
        let (transport, transport_bytes) = match protocol {
            protocol::TCP => (Transport::Tcp, tcp::Packet::new_checked(payload)?.header_bytes()),
            protocol::UDP if payload.len() < udp::HEADER_BYTES => {
                return Err(Error::Truncated { header: "UDP", need: udp::HEADER_BYTES, have: payload.len() }.into());
            }
            protocol::UDP => (Transport::Udp, udp::HEADER_BYTES),
            _ => return Err(NoLayers::OtherTransport),
        };
        // At most 22 bytes to the IP header, and eight extension headers of 2 KiB: far below 65,536.
        let transport_offset = network_offset + header_bytes;
        Ok(Self {
            network_offset: network_offset as u16,
            transport_offset: transport_offset as u16,
            payload_offset: (transport_offset + transport_bytes) as u16,
            end: (transport_offset + payload.len()) as u32,
            network,
            transport,
        })
    }

    /// The number of payload bytes.
    #[inline]
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.end as usize - usize::from(self.payload_offset)
    }

    /// The number of bytes of transport header and payload.
    #[inline]
    #[must_use]
    pub fn transport_bytes(&self) -> usize {
        self.end as usize - usize::from(self.transport_offset)
    }

    /// The source and destination addresses of `frame`, the one these layers were found in.
    #[inline]
    #[must_use]
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let network = usize::from(self.network_offset);
        let range = match self.network {
            Network::V4 => network + 12..network + 20,
            Network::V6 => network + 8..network + 40,
        };
        frame.get(range).unwrap_or_default()
    }

    /// The sum of the pseudo-header of `frame` for a transport header and payload of
    /// `transport_bytes` bytes.
    #[inline]
    #[must_use]
    pub fn pseudo_header_sum(&self, frame: &[u8], transport_bytes: usize) -> u32 {
        checksum::pseudo_header(self.addresses(frame), self.transport.protocol(), transport_bytes)
    }
}
