//! IPv6 (RFC 8200) and the walk over its extension headers.

use std::net::Ipv6Addr;

use super::{Error, be16, be32, fixed, put16};
use crate::frame::checksum;

/// The fixed header.
pub const HEADER_BYTES: usize = 40;
/// The most extension headers that are looked through. RFC 8200 lets each occur once, destination
/// options twice; whoever sends more wants to keep a parser busy.
pub const EXTENSIONS_MAX: usize = 8;

const NAME: &str = "IPv6";
const EXTENSION: &str = "IPv6 extension header";

/// Next-header values of extension headers (IANA "IPv6 Extension Header Types").
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HIP: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// A fragment header (RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// The identification that fragments share.
    pub id: u32,
    /// Where in the whole packet the fragment's payload is, in bytes.
    pub offset_bytes: usize,
    /// Whether fragments of the same packet follow behind this one.
    pub more: bool,
}

/// What is behind the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper<'a> {
    /// The protocol.
    pub protocol: u8,
    /// Where it starts, in bytes from the start of the IPv6 header.
    pub offset: usize,
    /// Whether a fragment header was among them. Then the payload is a part of something.
    pub is_fragment: bool,
    /// Whether this is a later fragment, whose payload does not start with a transport header.
    pub is_later_fragment: bool,
    /// The fragment header, if there was one.
    pub fragment: Option<FragmentHeader>,
    /// Whether a routing header names further stations: then the destination of the packet is not where it is to
    /// end, and not what transport checksums cover.
    pub is_source_routed: bool,
    /// The bytes from there to the end of the packet.
    pub payload: &'a [u8],
}

/// A view of an IPv6 packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_BYTES],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of the packet that `bytes` start with; what is beyond its payload length is Ethernet
    /// padding and not part of the view.
    ///
    /// A payload length of zero with a hop-by-hop header would be a jumbogram (RFC 2675), which no
    /// link of this switch can carry; it is taken literally.
    ///
    /// # Errors
    /// [`Error`] when the bytes are too few or the version is not 6.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = fixed::<HEADER_BYTES>(NAME, bytes)?;
        if header[0] >> 4 != 6 {
            return Err(Error::Malformed { header: NAME, what: "the version is not 6" });
        }
        let payload_bytes = usize::from(be16(header, 4));
        let payload = rest.get(..payload_bytes).ok_or(Error::Truncated {
            header: NAME,
            need: HEADER_BYTES + payload_bytes,
            have: bytes.len(),
        })?;
        Ok(Self { header, payload })
    }

    /// A view of the packet that `bytes` start with, of which only a part need be there: what an ICMP error quotes,
    /// or the head of a scattered frame. The fixed header is whole; the payload ends where the bytes do.
    ///
    /// # Errors
    /// [`Error`] when the fixed header is not whole or the version is not 6.
    #[inline]
    pub fn new_prefix(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = fixed::<HEADER_BYTES>(NAME, bytes)?;
        if header[0] >> 4 != 6 {
            return Err(Error::Malformed { header: NAME, what: "the version is not 6" });
        }
        let payload_bytes = usize::from(be16(header, 4));
        Ok(Self { header, payload: &rest[..payload_bytes.min(rest.len())] })
    }

    /// The length of header and payload that the header claims, in bytes: more than is there in a view of a
    /// [prefix](Self::new_prefix).
    #[inline]
    #[must_use]
    pub fn claimed_bytes(&self) -> usize {
        HEADER_BYTES + usize::from(be16(self.header, 4))
    }

    /// DSCP and ECN.
    #[inline]
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        (be16(self.header, 0) >> 4) as u8
    }

    /// The flow label, 20 bits.
    #[inline]
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        be32(self.header, 0) & 0x000f_ffff
    }

    /// The type of the first header behind this one.
    #[inline]
    #[must_use]
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    #[inline]
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        self.address::<8>()
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        self.address::<24>()
    }

    #[inline]
    fn address<const AT: usize>(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.header[AT..AT + 16]);
        Ipv6Addr::from(octets)
    }

    /// What follows the fixed header, up to the payload length: extension headers included.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Walks over the extension headers.
    ///
    /// # Errors
    /// [`Error`] when one is truncated, or there are more than [`EXTENSIONS_MAX`] or two fragment headers.
    #[inline]
    pub fn upper(&self) -> Result<Upper<'a>, Error> {
        let (mut next, mut rest) = (self.next_header(), self.payload);
        let (mut fragment, mut is_source_routed) = (None::<FragmentHeader>, false);
        for _ in 0..=EXTENSIONS_MAX {
            let bytes = match next {
                extension::ROUTING => {
                    is_source_routed |= extension_field(rest, 3)? != 0;
                    (usize::from(extension_field(rest, 1)?) + 1) * 8
                }
                // In units of 8 bytes, the first not counted (RFC 8200, RFC 6275, RFC 7401, RFC 5533).
                extension::HOP_BY_HOP
                | extension::DESTINATION
                | extension::MOBILITY
                | extension::HIP
                | extension::SHIM6 => (usize::from(extension_field(rest, 1)?) + 1) * 8,
                // In units of 4 bytes, the first two not counted (RFC 4302).
                extension::AUTHENTICATION => (usize::from(extension_field(rest, 1)?) + 2) * 4,
                extension::FRAGMENT => {
                    if fragment.is_some() {
                        return Err(Error::Malformed { header: NAME, what: "more than one fragment header" });
                    }
                    let fields: &[u8; 8] =
                        rest.first_chunk().ok_or(Error::Truncated { header: EXTENSION, need: 8, have: rest.len() })?;
                    let offset_bytes = usize::from(be16(fields, 2) & 0xfff8);
                    fragment = Some(FragmentHeader { id: be32(fields, 4), offset_bytes, more: fields[3] & 1 != 0 });
                    8
                }
                protocol => return Ok(self.found(protocol, rest, fragment, is_source_routed)),
            };
            next = extension_field(rest, 0)?;
            rest = rest.get(bytes..).ok_or(Error::Truncated { header: EXTENSION, need: bytes, have: rest.len() })?;
            if fragment.is_some_and(|fragment| fragment.offset_bytes != 0) {
                // What follows is the middle of something, whatever `next` says it begins with.
                return Ok(self.found(next, rest, fragment, is_source_routed));
            }
        }
        Err(Error::Malformed { header: NAME, what: "more than eight extension headers" })
    }

    #[inline]
    fn found(
        &self,
        protocol: u8,
        payload: &'a [u8],
        fragment: Option<FragmentHeader>,
        is_source_routed: bool,
    ) -> Upper<'a> {
        Upper {
            protocol,
            offset: HEADER_BYTES + (self.payload.len() - payload.len()),
            is_fragment: fragment.is_some(),
            is_later_fragment: fragment.is_some_and(|fragment| fragment.offset_bytes != 0),
            fragment,
            is_source_routed,
            payload,
        }
    }

    /// The sum of the pseudo-header for `payload_bytes` bytes of transport header and payload.
    #[inline]
    #[must_use]
    pub fn pseudo_header_sum(&self, protocol: u8, payload_bytes: usize) -> u32 {
        checksum::pseudo_header(&self.header[8..40], protocol, payload_bytes)
    }
}

#[inline]
fn extension_field(rest: &[u8], at: usize) -> Result<u8, Error> {
    rest.get(at).copied().ok_or(Error::Truncated { header: EXTENSION, need: 8, have: rest.len() })
}

/// The fields of a header that the switch writes.
#[derive(Debug)]
pub struct HeaderMut<'a> {
    header: &'a mut [u8; HEADER_BYTES],
}

impl<'a> HeaderMut<'a> {
    /// The header at the start of `bytes`, or nothing when there is no whole header.
    #[inline]
    #[must_use]
    pub fn new_checked(bytes: &'a mut [u8]) -> Option<Self> {
        Some(Self { header: bytes.first_chunk_mut()? })
    }

    /// Sets the length of everything behind the fixed header, in bytes.
    #[inline]
    pub fn set_payload_bytes(&mut self, bytes: u16) {
        put16(self.header, 4, bytes);
    }
}
