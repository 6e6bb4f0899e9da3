//! Which frames of a list could be merged at all: a cheap look before the thorough one.
//!
//! Theory of operation. Packets of many flows have nothing to merge, and most of what the [`Coalescer`] would find out
//! about each is in vain. So each frame is first read at fixed offsets only, without a check of any header: its flow is
//! a number of a few bits, and a table says which frame of the list had that number last. If the two cannot be
//! consecutive segments of one flow, which IPv4's identification or TCP's sequence number tells at once, neither needs
//! to be known any better. A frame that has *company*, one before or behind it that it may be merged with, takes the
//! thorough look.
//!
//! *Order.* A frame without company is none that a unit is open for: once a frame of a number has had company, all later
//! ones of that number have it, too. If there is a frame that may be of any flow (a fragment, options, extension
//! headers, more than one tag), everything has company. A header that contradicts itself belongs to the flow that it
//! names.
//!
//! [`Coalescer`]: super::Coalescer

use super::Accept;
use crate::bits::Bits;
use crate::frame::{BURST_FRAMES_MAX, Frame};
use crate::hash::folded_multiply;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{ipv4, ipv6, protocol, tcp};

/// The bits of a flow's number. Two flows with the same number cost a thorough look at both.
const NUMBER_BITS: u32 = 10;
/// No frame.
const NONE: u8 = u8::MAX;

const _: () = assert!(BURST_FRAMES_MAX < NONE as usize, "a frame's place in the list fits");

/// What a look at fixed offsets tells of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing that is ever merged, and of no flow whose order merging could disturb.
    Other,
    /// May belong to any flow.
    Ambiguous,
    /// Belongs to a flow.
    Flow(Glance),
}

/// What of a flow's frame is compared with the next one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Glance {
    /// All of addresses and ports, folded.
    hash: u64,
    /// What the next frame's `own` is if it continues this one; nothing if that cannot be told.
    next: Option<u32>,
    /// TCP's sequence number, or IPv4's identification.
    own: u32,
    has_payload: bool,
}

/// See the module's documentation. Its memory is reused from list to list.
#[derive(Debug)]
pub struct Company {
    /// By a flow's number, the list's last frame that had it. Empty between two lists.
    last: Box<[u8; 1 << NUMBER_BITS]>,
    /// By the places of those that have one.
    glances: Box<[Glance; BURST_FRAMES_MAX]>,
}

impl Default for Company {
    fn default() -> Self {
        let glances = Box::new([Glance::default(); BURST_FRAMES_MAX]);
        Self { last: Box::new([NONE; 1 << NUMBER_BITS]), glances }
    }
}

impl Company {
    /// The frames that have company, by a bit for each place in the list: those that [`Coalescer::push`] is to be given.
    /// `places` has a bit for each frame that may be merged, `frame` gives the frame of a place.
    ///
    /// [`Coalescer::push`]: super::Coalescer::push
    pub fn find<'a>(&mut self, accept: Accept, places: u64, frame: impl Fn(usize) -> &'a Frame) -> u64 {
        let (mut company, mut seen, mut is_ambiguous) = (0, 0, false);
        for place in Bits(places) {
            let glance = match look(frame(place), accept) {
                Look::Other => continue,
                Look::Ambiguous => {
                    is_ambiguous = true;
                    break;
                }
                Look::Flow(glance) => glance,
            };
            let last = std::mem::replace(&mut self.last[number(glance.hash)], place as u8);
            if last != NONE {
                let (last, bit) = (usize::from(last), 1 << last);
                if company & bit != 0 || self.glances[last].may_be_continued_by(&glance) {
                    company |= bit | 1 << place;
                }
            }
            self.glances[place] = glance;
            seen |= 1 << place;
        }
        for place in Bits(seen) {
            self.last[number(self.glances[place].hash)] = NONE;
        }
        if is_ambiguous { places } else { company }
    }
}

impl Glance {
    #[inline]
    fn may_be_continued_by(&self, other: &Self) -> bool {
        // Of another flow that has the same number by chance: nothing is known of the frames before it.
        self.hash != other.hash
            || (self.has_payload && other.has_payload && self.next.is_none_or(|next| next == other.own))
    }
}

#[inline]
fn number(hash: u64) -> usize {
    (hash >> (u64::BITS - NUMBER_BITS)) as usize
}

/// Looks at a frame by itself.
#[inline]
fn look(frame: &Frame, accept: Accept) -> Look {
    let data = frame.data();
    let Some(header) = data.first_chunk::<{ ethernet::HEADER_BYTES + ethernet::TAG_BYTES }>() else {
        return Look::Other;
    };
    let ethertype = |at: usize| EtherType(u16::from_be_bytes([header[at], header[at + 1]]));
    let (mut at, mut kind) = (ethernet::HEADER_BYTES, ethertype(ethernet::TYPE_OFFSET));
    if kind == EtherType::VLAN {
        kind = ethertype(ethernet::TYPE_OFFSET + ethernet::TAG_BYTES);
        at += ethernet::TAG_BYTES;
    }
    let packet = &data[at..];
    let is_super_frame = frame.offload.gso.is_some();
    match kind {
        EtherType::IPV4 => look_v4(packet, is_super_frame, accept),
        EtherType::IPV6 => look_v6(packet, is_super_frame, accept),
        _ if kind.is_tag() => Look::Ambiguous,
        _ => Look::Other,
    }
}

#[inline]
fn look_v4(packet: &[u8], is_super_frame: bool, accept: Accept) -> Look {
    /// "More fragments", and the offset (RFC 791 section 3.1).
    const FRAGMENT: u16 = 0x3fff;
    const PORTS: usize = ipv4::HEADER_BYTES;
    let Some(fixed) = packet.first_chunk::<{ PORTS + 8 }>() else { return Look::Ambiguous };
    let be16 = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    if fixed[0] != 0x45 || be16(6) & FRAGMENT != 0 {
        return Look::Ambiguous;
    }
    let header_bytes = match fixed[9] {
        protocol::TCP if accept.tcp4 => match packet.get(PORTS + 12) {
            Some(offset) => usize::from(offset >> 4) * 4,
            None => return Look::Ambiguous,
        },
        protocol::UDP if accept.udp => 8,
        _ => return Look::Other,
    };
    let id = be16(4);
    Look::Flow(Glance {
        hash: hash(word(fixed, 12), half(fixed, PORTS), fixed[9]),
        next: (!is_super_frame).then(|| u32::from(id.wrapping_add(1))),
        own: u32::from(id),
        has_payload: usize::from(be16(2)) > PORTS + header_bytes,
    })
}

#[inline]
fn look_v6(packet: &[u8], is_super_frame: bool, accept: Accept) -> Look {
    const PORTS: usize = ipv6::HEADER_BYTES;
    let Some(fixed) = packet.first_chunk::<{ PORTS + 8 }>() else { return Look::Ambiguous };
    let payload_bytes = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let [a, b, c, d] = [8, 16, 24, 32].map(|at| word(fixed, at));
    let addresses =
        folded_multiply(a ^ c.rotate_left(32) ^ MIXED_IN[0], b.rotate_left(16) ^ d.rotate_left(48) ^ MIXED_IN[1]);
    let hash = hash(addresses, half(fixed, PORTS), fixed[6]);
    match fixed[6] {
        protocol::TCP if accept.tcp6 => {
            let Some(header) = packet[PORTS..].first_chunk::<{ tcp::HEADER_BYTES }>() else { return Look::Ambiguous };
            let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let payload_bytes = payload_bytes.saturating_sub(u32::from(header[12] >> 4) * 4);
            Look::Flow(Glance {
                hash,
                next: (!is_super_frame).then(|| sequence.wrapping_add(payload_bytes)),
                own: sequence,
                has_payload: payload_bytes > 0,
            })
        }
        protocol::UDP if accept.udp => Look::Flow(Glance { hash, next: None, own: 0, has_payload: payload_bytes > 8 }),
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => Look::Other,
        _ => Look::Ambiguous,
    }
}

/// No secret: who chooses flows with the same number has them looked at twice.
const MIXED_IN: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f];

#[inline]
fn hash(addresses: u64, ports: u32, protocol: u8) -> u64 {
    folded_multiply(addresses ^ MIXED_IN[0], (u64::from(ports) | u64::from(protocol) << 32) ^ MIXED_IN[1])
}

/// The eight bytes at `at`.
#[inline]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// The four bytes at `at`.
#[inline]
fn half<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
