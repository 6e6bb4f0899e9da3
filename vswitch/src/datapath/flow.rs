//! What a bridged decision depends on, and what it says: flow keys and actions.
//!
//! The key holds the addresses, the outermost VLAN tag and the ingress port, and nothing else,
//! because a learning bridge looks at nothing else: all connections between two interfaces share
//! one entry. (Open vSwitch would call it a megaflow.) Both fit into registers: a key is 16 bytes,
//! actions are 4.

use std::fmt;

use crate::frame::{DropReason, Frame};
use crate::hash::folded_multiply;
use crate::snapshot::PortId;

/// The shortest frame that is looked at: an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
/// The bytes of an 802.1Q tag.
pub const TAG_BYTES: usize = 4;
/// The ethertype of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;

/// From the most significant bit: destination (48), source (48), VLAN id (12), padding (3),
/// tagged (1), ingress port (16).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct FlowKey(u128);

impl FlowKey {
    /// Reads the key of a frame, and notes in the frame whether it is tagged. Total: any bytes
    /// give a key or a reason.
    ///
    /// # Errors
    /// [`DropReason::Runt`] without a whole Ethernet header, [`DropReason::Malformed`] with a
    /// truncated VLAN tag.
    #[inline]
    pub fn parse(frame: &mut Frame, port: PortId) -> Result<Self, DropReason> {
        let data = frame.data();
        let Some(header) = data.first_chunk::<ETHERNET_BYTES>() else { return Err(DropReason::Runt) };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let mut low = u32::from(port.0);
        let tagged = u16::from_be_bytes([t0, t1]) == ETHERTYPE_VLAN;
        if tagged {
            let Some(&[_, _, c0, c1]) = data.get(12..).and_then(|rest| rest.first_chunk::<4>()) else {
                return Err(DropReason::Malformed);
            };
            if data.len() < ETHERNET_BYTES + TAG_BYTES {
                return Err(DropReason::Malformed);
            }
            low |= 1 << 16 | u32::from(u16::from_be_bytes([c0, c1]) & 0xfff) << 20;
        }
        frame.tagged = tagged;
        let [l0, l1, l2, l3] = low.to_be_bytes();
        Ok(Self(u128::from_be_bytes([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, l0, l1, l2, l3])))
    }

    /// The destination address.
    #[must_use]
    pub fn destination(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// The source address.
    #[must_use]
    pub fn source(self) -> [u8; 6] {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// The VLAN id of the tag; nothing without one. 0 is a priority tag.
    #[must_use]
    pub fn tag(self) -> Option<u16> {
        (self.0 & 1 << 16 != 0).then_some((self.0 >> 20) as u16 & 0xfff)
    }

    /// A hash whose low bits are well mixed. `seed` keeps senders from choosing collisions.
    #[inline]
    #[must_use]
    pub fn hash(self, seed: u64) -> u64 {
        // Twice: numbered addresses make arithmetic progressions, which survive a single multiplication
        // and crowd into few buckets under unlucky seeds. The constants are those of splitmix64 and wyhash.
        let low = self.0 as u64 ^ seed ^ 0x9e37_79b9_7f4a_7c15;
        let high = (self.0 >> 64) as u64 ^ seed.rotate_left(32) ^ 0xa076_1d64_78bd_642f;
        folded_multiply(folded_multiply(low, high), 0xe703_7ed1_a0b4_28db)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?} -> {:02x?} tag {:?} in {}", self.source(), self.destination(), self.tag(), self.0 as u16)
    }
}

/// The tag that a frame must have when it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagOp {
    /// As it came.
    Keep,
    /// None: the tag is removed if there is one.
    Untag,
    /// This VLAN id: a tag is added, or the id in it replaced and its priority kept.
    Tag(u16),
}

/// What happens to the frames of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To one port.
    Forward(PortId, TagOp),
    /// To all other ports of the VLAN that may have it.
    Flood,
    /// Nowhere.
    Drop(DropReason),
}

/// A [`Verdict`] in 4 bytes, as the flow cache keeps it: the argument (port or reason) in the low
/// 16 bits, the VLAN id in the next 12, the tag operation in 2, the kind in the top 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions(u32);

impl Actions {
    const FLOOD: u32 = 1 << 30;
    const DROP: u32 = 2 << 30;
    const UNTAG: u32 = 1 << 28;
    const TAG: u32 = 2 << 28;

    /// Packs a verdict.
    #[must_use]
    pub fn pack(verdict: Verdict) -> Self {
        Self(match verdict {
            Verdict::Forward(port, tag) => {
                u32::from(port.0)
                    | match tag {
                        TagOp::Keep => 0,
                        TagOp::Untag => Self::UNTAG,
                        TagOp::Tag(vid) => Self::TAG | u32::from(vid & 0xfff) << 16,
                    }
            }
            Verdict::Flood => Self::FLOOD,
            Verdict::Drop(reason) => Self::DROP | reason as u32,
        })
    }

    /// The verdict.
    #[inline]
    #[must_use]
    pub fn unpack(self) -> Verdict {
        match self.0 >> 30 {
            0 => Verdict::Forward(
                PortId(self.0 as u16),
                match self.0 >> 28 & 3 {
                    0 => TagOp::Keep,
                    1 => TagOp::Untag,
                    _ => TagOp::Tag((self.0 >> 16) as u16 & 0xfff),
                },
            ),
            1 => Verdict::Flood,
            _ => Verdict::Drop(DropReason::ALL[self.0 as u16 as usize % DropReason::COUNT]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Pool;

    #[test]
    fn actions_survive_packing() {
        let mut verdicts = vec![Verdict::Flood];
        verdicts.extend(DropReason::ALL.iter().map(|&reason| Verdict::Drop(reason)));
        for port in [0, 1, 8191, u16::MAX] {
            for tag in [TagOp::Keep, TagOp::Untag, TagOp::Tag(0), TagOp::Tag(1), TagOp::Tag(4095)] {
                verdicts.push(Verdict::Forward(PortId(port), tag));
            }
        }
        for verdict in verdicts {
            assert_eq!(Actions::pack(verdict).unpack(), verdict);
        }
    }

    #[test]
    fn keys_tell_tags_and_ports_apart() {
        let mut pool = Pool::new(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        let mut keys = Vec::new();
        let mut bytes = *b"\x02dest\x01\x02sour\x02\x08\x00payload-";
        for ethertype in [[0x08, 0x00], [0x81, 0x00]] {
            bytes[12..14].copy_from_slice(&ethertype);
            for vid in [0, 1, 4095] {
                bytes[14..16].copy_from_slice(&u16::to_be_bytes(0xe000 | vid));
                frame.copy_from(&bytes);
                for port in [0, 1, 65535] {
                    let key = FlowKey::parse(&mut frame, PortId(port)).unwrap();
                    assert_eq!(key.destination(), *b"\x02dest\x01");
                    assert_eq!(key.source(), *b"\x02sour\x02");
                    assert_eq!(key.tag(), (ethertype[0] == 0x81).then_some(vid));
                    keys.push(key);
                }
            }
        }
        // The untagged ones do not depend on what follows the ethertype: three keys of nine.
        let distinct = keys.iter().enumerate().filter(|(i, key)| !keys[..*i].contains(key)).count();
        assert_eq!(distinct, 3 + 9);
        for len in 0..18 {
            bytes[12..14].copy_from_slice(&[0x81, 0x00]);
            frame.copy_from(&bytes[..len]);
            let expected = if len < 14 { DropReason::Runt } else { DropReason::Malformed };
            assert_eq!(FlowKey::parse(&mut frame, PortId(1)), Err(expected));
        }
        pool.free(frame);
    }
}
