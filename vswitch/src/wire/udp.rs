//! UDP (RFC 768).

use super::{Error, be16, fixed, put16};

/// The header.
pub const HEADER_BYTES: usize = 8;
/// Where the checksum is, in bytes from the start of the header.
pub const CHECKSUM_OFFSET: u16 = 6;

const NAME: &str = "UDP";

/// A view of a UDP datagram.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_BYTES],
    payload: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of the payload of an IP packet. The checksum is not verified.
    ///
    /// # Errors
    /// [`Error`] when the header is not whole, or the length is below the header's or more than
    /// there is.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = fixed::<HEADER_BYTES>(NAME, bytes)?;
        let length = usize::from(be16(header, 4));
        let Some(payload_bytes) = length.checked_sub(HEADER_BYTES) else {
            return Err(Error::Malformed { header: NAME, what: "the length is below 8 bytes" });
        };
        let Some((payload, rest)) = rest.split_at_checked(payload_bytes) else {
            return Err(Error::Truncated { header: NAME, need: length, have: bytes.len() });
        };
        Ok(Self { header, payload, rest })
    }

    /// The source port.
    #[inline]
    #[must_use]
    pub fn source_port(&self) -> u16 {
        be16(self.header, 0)
    }

    /// The destination port.
    #[inline]
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        be16(self.header, 2)
    }

    /// The length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub fn length_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The checksum; zero over IPv4: the sender computed none.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        be16(self.header, 6)
    }

    /// The payload.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Bytes of the IP packet behind the datagram: none, unless somebody plays tricks (or uses
    /// UDP options, RFC 9868).
    #[inline]
    #[must_use]
    pub fn surplus(&self) -> &'a [u8] {
        self.rest
    }
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

    /// Sets the length of header and payload, in bytes.
    #[inline]
    pub fn set_length_bytes(&mut self, bytes: u16) {
        put16(self.header, 4, bytes);
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put16(self.header, 6, checksum);
    }
}
