//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use super::{Error, be16, fixed, put16};
use crate::frame::checksum;

/// A header without options.
pub const HEADER_BYTES: usize = 20;
/// A header with as many options as fit.
pub const HEADER_BYTES_MAX: usize = 60;

const NAME: &str = "IPv4";
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A view of an IPv4 packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_BYTES],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of the packet that `bytes` start with; what is beyond its total length is Ethernet
    /// padding and not part of the view. The header checksum is not verified.
    ///
    /// # Errors
    /// [`Error`] when the bytes are too few, the version is not 4, or a length contradicts.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, _) = fixed::<HEADER_BYTES>(NAME, bytes)?;
        if header[0] >> 4 != 4 {
            return Err(Error::Malformed { header: NAME, what: "the version is not 4" });
        }
        let header_bytes = usize::from(header[0] & 0x0f) * 4;
        let total_bytes = usize::from(be16(header, 2));
        if header_bytes < HEADER_BYTES {
            return Err(Error::Malformed { header: NAME, what: "the header length is below 20 bytes" });
        }
        if total_bytes < header_bytes {
            return Err(Error::Malformed { header: NAME, what: "the total length is below the header length" });
        }
        let packet =
            bytes.get(..total_bytes).ok_or(Error::Truncated { header: NAME, need: total_bytes, have: bytes.len() })?;
        let (options, payload) = (&packet[HEADER_BYTES..header_bytes], &packet[header_bytes..]);
        Ok(Self { header, options, payload })
    }

    /// A view of the packet that `bytes` start with, of which only a part need be there: what an ICMP error quotes,
    /// or the head of a scattered frame. The header is whole; the payload ends where the bytes do.
    ///
    /// # Errors
    /// [`Error`] when the header is not whole, the version is not 4, or a length contradicts.
    #[inline]
    pub fn new_prefix(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = fixed::<HEADER_BYTES>(NAME, bytes)?;
        if header[0] >> 4 != 4 {
            return Err(Error::Malformed { header: NAME, what: "the version is not 4" });
        }
        let header_bytes = usize::from(header[0] & 0x0f) * 4;
        let Some(options_bytes) = header_bytes.checked_sub(HEADER_BYTES) else {
            return Err(Error::Malformed { header: NAME, what: "the header length is below 20 bytes" });
        };
        let Some(payload_bytes) = usize::from(be16(header, 2)).checked_sub(header_bytes) else {
            return Err(Error::Malformed { header: NAME, what: "the total length is below the header length" });
        };
        let Some((options, payload)) = rest.split_at_checked(options_bytes) else {
            return Err(Error::Truncated { header: NAME, need: header_bytes, have: bytes.len() });
        };
        Ok(Self { header, options, payload: &payload[..payload_bytes.min(payload.len())] })
    }

    /// The total length that the header claims, in bytes: more than is there in a view of a
    /// [prefix](Self::new_prefix).
    #[inline]
    #[must_use]
    pub fn claimed_bytes(&self) -> usize {
        usize::from(be16(self.header, 2))
    }

    /// The header's length with options, in bytes.
    #[inline]
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        HEADER_BYTES + self.options.len()
    }

    /// The options.
    #[inline]
    #[must_use]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What follows the header, up to the total length.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.header_bytes() + self.payload.len()
    }

    /// Type of service: DSCP and ECN.
    #[inline]
    #[must_use]
    pub fn tos(&self) -> u8 {
        self.header[1]
    }

    /// The identification that fragments share.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u16 {
        be16(self.header, 4)
    }

    /// Whether routers must not fragment the packet.
    #[inline]
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        be16(self.header, 6) & DONT_FRAGMENT != 0
    }

    /// Whether the packet is a fragment of another, the first one included.
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        be16(self.header, 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether fragments of the same packet follow behind this one.
    #[inline]
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        be16(self.header, 6) & MORE_FRAGMENTS != 0
    }

    /// Where in the whole packet the fragment's payload is, in bytes.
    #[inline]
    #[must_use]
    pub fn fragment_offset(&self) -> usize {
        usize::from(be16(self.header, 6) & FRAGMENT_OFFSET) * 8
    }

    /// Time to live.
    #[inline]
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// The payload's protocol.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }

    /// Whether the header checksum is right.
    #[inline]
    #[must_use]
    pub fn is_checksum_right(&self) -> bool {
        checksum::fold(checksum::sum(self.header) + checksum::sum(self.options)) == 0xffff
    }

    /// The sum of the pseudo-header for `payload_bytes` bytes of transport header and payload.
    #[inline]
    #[must_use]
    pub fn pseudo_header_sum(&self, payload_bytes: usize) -> u32 {
        checksum::pseudo_header(&self.header[12..20], self.protocol(), payload_bytes)
    }
}

/// The fields of a header that the switch writes.
#[derive(Debug)]
pub struct HeaderMut<'a> {
    header: &'a mut [u8; HEADER_BYTES],
    options: &'a [u8],
}

impl<'a> HeaderMut<'a> {
    /// The header at the start of `bytes`, or nothing when there is no whole header.
    #[inline]
    #[must_use]
    pub fn new_checked(bytes: &'a mut [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk_mut::<HEADER_BYTES>()?;
        let options_bytes = (usize::from(header[0] & 0x0f) * 4).checked_sub(HEADER_BYTES)?;
        Some(Self { header, options: rest.get(..options_bytes)? })
    }

    /// Sets the total length, in bytes.
    #[inline]
    pub fn set_total_bytes(&mut self, bytes: u16) {
        put16(self.header, 2, bytes);
    }

    /// Sets the identification.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        put16(self.header, 4, id);
    }

    /// Computes the header checksum, options included.
    #[inline]
    pub fn fill_checksum(&mut self) {
        put16(self.header, 10, 0);
        let sum = checksum::sum(self.header) + checksum::sum(self.options);
        put16(self.header, 10, !checksum::fold(sum));
    }
}
