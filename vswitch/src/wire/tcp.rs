//! TCP (RFC 9293): the header.

use super::{Error, be16, be32, fixed, put16};

/// A header without options.
pub const HEADER_BYTES: usize = 20;
/// A header with as many options as fit.
pub const HEADER_BYTES_MAX: usize = 60;
/// Where the checksum is, in bytes from the start of the header.
pub const CHECKSUM_OFFSET: u16 = 16;

const NAME: &str = "TCP";
const FLAGS_OFFSET: usize = 13;

/// The control bits in the second byte of the flags (RFC 9293, section 3.1; CWR and ECE: RFC 3168).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push function.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// Both sets together.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the other.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether any bit of the other set is in this one.
    #[inline]
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A view of a TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_BYTES],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of the payload of an IP packet. The checksum is not verified.
    ///
    /// # Errors
    /// [`Error`] when the header is not whole or its length contradicts.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = fixed::<HEADER_BYTES>(NAME, bytes)?;
        let header_bytes = usize::from(header[12] >> 4) * 4;
        let Some(options_bytes) = header_bytes.checked_sub(HEADER_BYTES) else {
            return Err(Error::Malformed { header: NAME, what: "the data offset is below 20 bytes" });
        };
        let Some((options, payload)) = rest.split_at_checked(options_bytes) else {
            return Err(Error::Truncated { header: NAME, need: header_bytes, have: bytes.len() });
        };
        Ok(Self { header, options, payload })
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

    /// The sequence number of the first payload byte.
    #[inline]
    #[must_use]
    pub fn sequence(&self) -> u32 {
        be32(self.header, 4)
    }

    /// The next sequence number expected from the other side.
    #[inline]
    #[must_use]
    pub fn acknowledgement(&self) -> u32 {
        be32(self.header, 8)
    }

    /// The control bits.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags(self.header[FLAGS_OFFSET])
    }

    /// The window, unscaled.
    #[inline]
    #[must_use]
    pub fn window(&self) -> u16 {
        be16(self.header, 14)
    }

    /// The checksum.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        be16(self.header, 16)
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

    /// The payload.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
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

    /// Sets the sequence number.
    #[inline]
    pub fn set_sequence(&mut self, sequence: u32) {
        let [a, b, c, d] = sequence.to_be_bytes();
        (self.header[4], self.header[5], self.header[6], self.header[7]) = (a, b, c, d);
    }

    /// The control bits.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags(self.header[FLAGS_OFFSET])
    }

    /// Sets the control bits.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        self.header[FLAGS_OFFSET] = flags.0;
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put16(self.header, 16, checksum);
    }
}
