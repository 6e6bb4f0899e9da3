//! The VXLAN header (RFC 7348, section 5): what is between an outer UDP header and an inner
//! Ethernet frame.
//!
//! ```text
//! offset  0                 1..4      4..7                      7
//!         flags (0x08: I)   reserved  network identifier (VNI)  reserved
//! ```
//!
//! What is reserved is sent as zero and ignored on receipt.

use super::{Error, be32, fixed};

/// The header.
pub const HEADER_BYTES: usize = 8;
/// The destination port that IANA assigned.
pub const PORT: u16 = 4789;

const NAME: &str = "VXLAN";
/// The network identifier is valid.
const FLAG_VNI: u8 = 0x08;

/// The largest network identifier: 24 bits.
pub const VNI_MAX: u32 = 0x00ff_ffff;

/// A view of a VXLAN packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    vni: u32,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A view of the payload of a UDP datagram.
    ///
    /// # Errors
    /// [`Error`] when there is no whole header or the flag I is not set (section 5: "MUST be set to 1
    /// for a valid VXLAN Network ID").
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, payload) = fixed::<HEADER_BYTES>(NAME, bytes)?;
        if header[0] & FLAG_VNI == 0 {
            return Err(Error::Malformed { header: NAME, what: "the network identifier is not valid" });
        }
        Ok(Self { vni: be32(header, 4) >> 8, payload })
    }

    /// The network identifier.
    #[inline]
    #[must_use]
    pub fn vni(&self) -> u32 {
        self.vni
    }

    /// The inner Ethernet frame.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The header of `vni`, of which the low 24 bits count.
#[inline]
#[must_use]
pub const fn header(vni: u32) -> [u8; HEADER_BYTES] {
    let [_, a, b, c] = vni.to_be_bytes();
    [FLAG_VNI, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_the_rfc() {
        assert_eq!(header(0x0012_3456), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        for vni in [0, 1, 0x00ab_cdef, VNI_MAX] {
            let bytes = [&header(vni)[..], &[1, 2, 3]].concat();
            let packet = Packet::new_checked(&bytes).unwrap();
            assert_eq!((packet.vni(), packet.payload()), (vni, &[1, 2, 3][..]));
        }
        assert_eq!(header(VNI_MAX + 1), header(0));
    }

    #[test]
    fn what_is_reserved_is_ignored_and_the_flag_is_not() {
        for flags in 0..=0xff_u8 {
            let bytes = [flags, 1, 2, 3, 0, 0, 42, 0xff];
            let vni = Packet::new_checked(&bytes).map(|packet| packet.vni());
            assert_eq!(vni.ok(), (flags & 8 != 0).then_some(42));
        }
        for bytes in 0..HEADER_BYTES {
            assert!(matches!(Packet::new_checked(&[8; 8][..bytes]), Err(Error::Truncated { need: 8, .. })));
        }
    }
}
