//! Explicit congestion notification through a tunnel (RFC 6040).
//!
//! At encapsulation the *normal mode* (section 4.1): the outer field is a copy of the inner one, so
//! that routers of the underlay can mark instead of drop. At decapsulation what arrived outside is
//! combined with what is inside (section 4.2, figure 4), and one combination is a loss: a router marked
//! congestion (CE) on a packet whose sender does not understand the mark. The packet is dropped
//! then, which is the signal that such a sender does understand.
//!
//! The field is the low two bits of the former TOS octet or traffic class (RFC 3168, section 5).

use crate::frame::{DropReason, checksum};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{ipv4, ipv6};

/// The field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The sender does not understand congestion marks.
    NotEct = 0b00,
    /// The sender does; the one of two code points that RFC 9331 gives to scalable congestion control.
    Ect1 = 0b01,
    /// The sender does.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

/// The bits of the field in a TOS octet or traffic class.
pub const ECN_MASK: u8 = 0b11;

impl Ecn {
    /// The field of a TOS octet or traffic class.
    #[inline]
    #[must_use]
    pub const fn of_tos(tos: u8) -> Self {
        match tos & ECN_MASK {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The outer field for this inner one: normal mode (section 4.1, figure 3).
    #[inline]
    #[must_use]
    pub const fn encapsulate(self) -> Self {
        self
    }

    /// The inner field after decapsulation, from this inner one and the `outer` one (section 4.2, figure
    /// 4); nothing where the packet is to be dropped.
    #[inline]
    #[must_use]
    pub const fn decapsulate(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Some(Self::Ce),
            // Outer ECT(1) overrides ECT(0): it may be a mark of a lesser degree of congestion.
            (Self::Ect0 | Self::Ect1, Self::Ect1) => Some(Self::Ect1),
            (inner, Self::NotEct | Self::Ect0) => Some(inner),
        }
    }
}

/// Carries the mark of an outer packet over to the inner frame, which is changed if it must be: the
/// field itself, and the header checksum of IPv4. What is not IP has nothing to be marked, and
/// nobody who would react: it passes, as Linux has it (`IP_ECN_decapsulate`).
///
/// # Errors
/// [`DropReason::TunnelEcn`] when the inner packet cannot carry the mark.
#[inline]
pub fn decapsulate(frame: &mut [u8], outer: Ecn) -> Result<(), DropReason> {
    // Nothing an unmarked packet says changes an inner field.
    if matches!(outer, Ecn::NotEct | Ecn::Ect0) {
        return Ok(());
    }
    let Ok((ethertype, offset)) = ethernet::skip_tags(frame) else { return Ok(()) };
    let Some(packet) = frame.get_mut(offset..) else { return Ok(()) };
    match ethertype {
        EtherType::IPV4 => {
            let Some(header) = packet.first_chunk_mut::<{ ipv4::HEADER_BYTES }>() else { return Ok(()) };
            let inner = Ecn::of_tos(header[1]);
            let new = inner.decapsulate(outer).ok_or(DropReason::TunnelEcn)?;
            if new != inner {
                let old = u16::from_be_bytes([header[0], header[1]]);
                header[1] = header[1] & !ECN_MASK | new as u8;
                let now = u16::from_be_bytes([header[0], header[1]]);
                let sum = u16::from_be_bytes([header[10], header[11]]);
                [header[10], header[11]] = checksum::update_u16(sum, old, now).to_be_bytes();
            }
        }
        EtherType::IPV6 => {
            let Some(header) = packet.first_chunk_mut::<{ ipv6::HEADER_BYTES }>() else { return Ok(()) };
            // The traffic class is the low half of the first octet and the high half of the second.
            let inner = Ecn::of_tos(header[1] >> 4);
            let new = inner.decapsulate(outer).ok_or(DropReason::TunnelEcn)?;
            header[1] = header[1] & !(ECN_MASK << 4) | (new as u8) << 4;
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ecn::{Ce, Ect0, Ect1, NotEct};

    const ALL: [Ecn; 4] = [NotEct, Ect0, Ect1, Ce];

    /// RFC 6040, figure 4: rows are the inner field, columns the outer one in the order of `ALL`.
    const FIGURE_4: [(Ecn, [Option<Ecn>; 4]); 4] = [
        (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
        (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
        (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
        (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
    ];

    #[test]
    fn the_table_of_the_rfc() {
        for (inner, row) in FIGURE_4 {
            assert_eq!(inner.encapsulate(), inner);
            for (outer, expected) in ALL.into_iter().zip(row) {
                assert_eq!(inner.decapsulate(outer), expected, "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn frames_are_marked_and_stay_right() {
        for (inner, row) in FIGURE_4 {
            for (outer, expected) in ALL.into_iter().zip(row) {
                for dscp in [0, 0x2e, 0x3f] {
                    let tos = dscp << 2 | inner as u8;
                    let mut v4 = vec![0; 12];
                    v4.extend([8, 0, 0x45, tos, 0, 20, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
                    let sum = checksum::of(&v4[14..]);
                    v4[24..26].copy_from_slice(&sum.to_be_bytes());
                    let mut v6 = vec![0; 12];
                    v6.extend([0x81, 0, 0, 5, 0x86, 0xdd, 0x60 | tos >> 4, tos << 4 | 0xa, 0xbb, 0xcc, 0, 0, 59, 64]);
                    v6.extend([1; 32]);
                    let before = v6.clone();
                    assert_eq!(decapsulate(&mut v4, outer).is_ok(), expected.is_some());
                    assert_eq!(decapsulate(&mut v6, outer).is_ok(), expected.is_some());
                    let Some(expected) = expected else {
                        assert_eq!(v6, before, "what is dropped is not changed");
                        continue;
                    };
                    let v4 = ipv4::Packet::new_checked(&v4[14..]).unwrap();
                    assert_eq!(v4.tos(), dscp << 2 | expected as u8);
                    assert!(v4.is_checksum_right());
                    let v6 = ipv6::Packet::new_checked(&v6[18..]).unwrap();
                    assert_eq!(v6.traffic_class(), dscp << 2 | expected as u8);
                    assert_eq!(v6.flow_label(), 0xa_bbcc);
                }
            }
        }
    }

    #[test]
    fn what_is_not_ip_passes_as_it_is() {
        let arp = [&[0xff; 6][..], &[2; 6], &[8, 6], &[0x55; 28]].concat();
        for bytes in 0..arp.len() {
            let mut frame = arp[..bytes].to_vec();
            assert_eq!(decapsulate(&mut frame, Ce), Ok(()));
            assert_eq!(frame, arp[..bytes]);
        }
    }
}
