//! ICMPv6 (RFC 4443): the header, and neighbour discovery's two messages (RFC 4861).

use std::net::Ipv6Addr;

use super::{Error, MacAddr, be16, fixed};

/// Type, code and checksum.
pub const HEADER_BYTES: usize = 4;
/// A neighbour solicitation or advertisement without options.
pub const NEIGHBOR_BYTES: usize = 24;
/// The most options of a message that are looked at.
pub const OPTIONS_MAX: usize = 16;

/// The type of "destination unreachable".
pub const UNREACHABLE: u8 = 1;
/// The type of "packet too big".
pub const PACKET_TOO_BIG: u8 = 2;
/// The type of "time exceeded".
pub const TIME_EXCEEDED: u8 = 3;
/// The type of "parameter problem".
pub const PARAMETER_PROBLEM: u8 = 4;
/// The type of an echo request.
pub const ECHO_REQUEST: u8 = 128;
/// The type of an echo reply.
pub const ECHO_REPLY: u8 = 129;
/// A router and its prefixes (RFC 4861 section 4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// The type of a neighbour solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// The type of a neighbour advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// The type of a redirect.
pub const REDIRECT: u8 = 137;

const NAME: &str = "ICMPv6";
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// Whether a type is one of an error or a redirect: never answered by an error (RFC 4443 section 2.4 e).
#[inline]
#[must_use]
pub const fn is_error(message_type: u8) -> bool {
    message_type < 128 || message_type == REDIRECT
}

/// A view of an ICMPv6 message.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_BYTES],
    body: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of the payload of an IPv6 packet. The checksum is not verified.
    ///
    /// # Errors
    /// [`Error::Truncated`] when the header is not whole.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, body) = fixed(NAME, bytes)?;
        Ok(Self { header, body, bytes })
    }

    /// The message's type.
    #[inline]
    #[must_use]
    pub fn message_type(&self) -> u8 {
        self.header[0]
    }

    /// The message's code.
    #[inline]
    #[must_use]
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The checksum.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        be16(self.header, 2)
    }

    /// What follows the checksum.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The message as neighbour discovery, or nothing when it is another type or code.
    ///
    /// # Errors
    /// [`Error`] when it is one of the two but not whole.
    #[inline]
    pub fn neighbor(&self) -> Result<Option<Neighbor<'a>>, Error> {
        match (self.message_type(), self.code()) {
            (NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT, 0) => Neighbor::new_checked(self.bytes).map(Some),
            _ => Ok(None),
        }
    }
}

/// A view of a neighbour solicitation or advertisement.
#[derive(Debug, Clone, Copy)]
pub struct Neighbor<'a> {
    message: &'a [u8; NEIGHBOR_BYTES],
    options: &'a [u8],
}

impl<'a> Neighbor<'a> {
    fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (message, options) = fixed("neighbour discovery", bytes)?;
        Ok(Self { message, options })
    }

    /// Whether this is an advertisement.
    #[inline]
    #[must_use]
    pub fn is_advertisement(&self) -> bool {
        self.message[0] == NEIGHBOR_ADVERTISEMENT
    }

    /// The address that is asked for, or advertised.
    #[inline]
    #[must_use]
    pub fn target(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.message[8..24]);
        Ipv6Addr::from(octets)
    }

    /// An advertisement's router flag.
    #[inline]
    #[must_use]
    pub fn is_router(&self) -> bool {
        self.message[4] & 0x80 != 0
    }

    /// Whether an advertisement answers a solicitation.
    #[inline]
    #[must_use]
    pub fn is_solicited(&self) -> bool {
        self.message[4] & 0x40 != 0
    }

    /// Whether an advertisement replaces what a neighbour has cached.
    #[inline]
    #[must_use]
    pub fn is_override(&self) -> bool {
        self.message[4] & 0x20 != 0
    }

    /// The MAC address in the option that belongs to the message: the sender's in a solicitation,
    /// the target's in an advertisement.
    ///
    /// Options that are truncated, of length zero or beyond [`OPTIONS_MAX`] end the search.
    #[must_use]
    pub fn link_layer_address(&self) -> Option<MacAddr> {
        let wanted = if self.is_advertisement() { TARGET_LINK_LAYER_ADDRESS } else { SOURCE_LINK_LAYER_ADDRESS };
        let mut rest = self.options;
        for _ in 0..OPTIONS_MAX {
            // Length in units of 8 bytes; zero would never end (RFC 4861, section 4.6).
            let &[kind, length, ..] = rest else { return None };
            let option = rest.get(..usize::from(length) * 8).filter(|option| !option.is_empty())?;
            if let (true, Some(&[_, _, a, b, c, d, e, f])) = (kind == wanted, option.first_chunk::<8>()) {
                return Some(MacAddr([a, b, c, d, e, f]));
            }
            rest = &rest[option.len()..];
        }
        None
    }
}
