//! Ethernet II frames (IEEE 802.3) and VLAN tags (IEEE 802.1Q).

use super::{Error, MacAddr, be16, fixed};

/// Destination, source and type.
pub const HEADER_BYTES: usize = 14;
/// Tag protocol identifier and tag control information.
pub const TAG_BYTES: usize = 4;
/// Where the type, or the first tag, is.
pub const TYPE_OFFSET: usize = 12;
/// The most tags in front of a network header that are looked through: 802.1ad in 802.1Q.
pub const TAGS_MAX: usize = 2;

/// What a frame carries (IANA "IEEE 802 Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// A customer's VLAN tag (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
    /// A provider's VLAN tag (IEEE 802.1ad).
    pub const PROVIDER_VLAN: Self = Self(0x88a8);

    /// Whether a VLAN tag follows.
    #[inline]
    #[must_use]
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::PROVIDER_VLAN)
    }
}

/// The tag control information of a VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub u16);

impl Tag {
    /// The VLAN identifier, 0 to 4095; 0 means that the tag carries a priority only.
    #[inline]
    #[must_use]
    pub const fn vid(self) -> u16 {
        self.0 & 0x0fff
    }

    /// The priority code point, 0 to 7.
    #[inline]
    #[must_use]
    pub const fn pcp(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// Whether the frame may be dropped first under congestion (drop eligible indicator).
    #[inline]
    #[must_use]
    pub const fn dei(self) -> bool {
        self.0 & 0x1000 != 0
    }
}

/// A view of an Ethernet frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER_BYTES],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A view of `bytes`, which start with the destination address and have no FCS.
    ///
    /// # Errors
    /// [`Error::Truncated`] when there is no whole header.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, payload) = fixed("Ethernet", bytes)?;
        Ok(Self { header, payload })
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// The type; of the tag, if the frame is tagged.
    #[inline]
    #[must_use]
    pub fn ethertype(&self) -> EtherType {
        EtherType(be16(self.header, TYPE_OFFSET))
    }

    /// What follows the type.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A view of what follows a tag protocol identifier: the tag control information and a type.
#[derive(Debug, Clone, Copy)]
pub struct Tagged<'a> {
    header: &'a [u8; TAG_BYTES],
    payload: &'a [u8],
}

impl<'a> Tagged<'a> {
    /// A view of the payload of a frame, or of another tag, whose type [is a tag](EtherType::is_tag).
    ///
    /// # Errors
    /// [`Error::Truncated`] when there is no whole tag.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, payload) = fixed("VLAN tag", bytes)?;
        Ok(Self { header, payload })
    }

    /// The tag control information.
    #[inline]
    #[must_use]
    pub fn tag(&self) -> Tag {
        Tag(be16(self.header, 0))
    }

    /// The type of what follows.
    #[inline]
    #[must_use]
    pub fn ethertype(&self) -> EtherType {
        EtherType(be16(self.header, 2))
    }

    /// What follows the type.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Whether the source address of `frame` is a group's, which is nobody's on any wire (IEEE 802.3 section 3.2.3): how
/// frames are marked on the way between a shared uplink and the switch that may be the host's, or are
/// ([`crate::bpf`]).
#[inline]
#[must_use]
pub fn has_group_source(frame: &[u8]) -> bool {
    frame.get(6).is_some_and(|first| first & 1 == 1)
}

/// The type behind up to [`TAGS_MAX`] tags, and where what it names starts, in bytes from the
/// start of the frame. With more tags than that the type is the next tag's.
///
/// # Errors
/// [`Error::Truncated`] when a header is not whole.
#[inline]
pub fn skip_tags(frame: &[u8]) -> Result<(EtherType, usize), Error> {
    let ethernet = Frame::new_checked(frame)?;
    let (mut ethertype, mut rest, mut offset) = (ethernet.ethertype(), ethernet.payload(), HEADER_BYTES);
    for _ in 0..TAGS_MAX {
        if !ethertype.is_tag() {
            break;
        }
        let tagged = Tagged::new_checked(rest)?;
        (ethertype, rest, offset) = (tagged.ethertype(), tagged.payload(), offset + TAG_BYTES);
    }
    Ok((ethertype, offset))
}
