//! A connection as its slot holds it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{Place, Tuple};
use super::Direction;
use super::mapping::{Endpoint, Owner};
use super::slab::{Kind, Slot, Tag};
use super::state::State;
use super::timers::Times;

/// What does not change while a connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
    pub(super) origin: Place,
    pub(super) responder: Place,
    /// The original source has a mapping: it appears as the reply's destination.
    pub(super) is_source_mapped: bool,
    /// The reply's source has a mapping: it appears as the original destination.
    pub(super) is_destination_mapped: bool,
    /// The original destination is a published port.
    pub(super) is_published: bool,
    pub(super) is_hairpin: bool,
    pub(super) bridge: u16,
    pub(super) container: IpAddr,
}

const V6: u16 = 1 << 0;
const SOURCE_MAPPED: u16 = 1 << 1;
const DESTINATION_MAPPED: u16 = 1 << 2;
const PUBLISHED: u16 = 1 << 3;
const HAIRPIN: u16 = 1 << 4;
/// In a slot that keeps a mapping: nobody gets it back.
const DISOWNED: u16 = 1 << 5;
const ORIGIN_SHIFT: u32 = 8;
const RESPONDER_SHIFT: u32 = 10;
const KNOWN: u16 = V6 | SOURCE_MAPPED | DESTINATION_MAPPED | PUBLISHED | HAIRPIN | DISOWNED | 0b1111 << ORIGIN_SHIFT;

/// An address as two words; which family it is of is known elsewhere.
fn words_of(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [u64::from(address.to_bits()), 0],
        IpAddr::V6(address) => [(address.to_bits() >> 64) as u64, address.to_bits() as u64],
    }
}

#[inline]
fn address_of(v6: bool, words: [u64; 2]) -> Option<IpAddr> {
    if v6 {
        Some(Ipv6Addr::from_bits(u128::from(words[0]) << 64 | u128::from(words[1])).into())
    } else if words[1] == 0 {
        Some(Ipv4Addr::from_bits(u32::try_from(words[0]).ok()?).into())
    } else {
        None
    }
}

#[inline]
fn load(words: &[AtomicU64]) -> [u64; 2] {
    [words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed)]
}

impl Entry {
    /// The tuple that packets of a direction have when they arrive.
    pub(super) fn arrives(&self, direction: Direction) -> &Tuple {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// Where packets of a direction come from.
    pub(super) fn from(&self, direction: Direction) -> Place {
        match direction {
            Direction::Original => self.origin,
            Direction::Reply => self.responder,
        }
    }

    /// Its mappings: the end that has one, the external endpoint, and the remote address as the mapping's owner has
    /// it.
    pub(super) fn mapped(&self) -> [Option<(Direction, Endpoint, IpAddr)>; 2] {
        let (original, reply) = (&self.original, &self.reply);
        let source = Endpoint { address: reply.destination, port: reply.destination_port };
        let destination = Endpoint { address: original.destination, port: original.destination_port };
        [
            self.is_source_mapped.then_some((Direction::Original, source, self.sent_to())),
            self.is_destination_mapped.then_some((Direction::Reply, destination, reply.destination)),
        ]
    }

    /// The address that the initiator's mapping is open to. A mapping that only hides a client from a published port's
    /// server is open to nobody: it is no way around what keeps neighbours apart.
    pub(super) fn sent_to(&self) -> IpAddr {
        match self.original.destination {
            address if !self.is_published => address,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// What is left of it when only the mapping of one end is.
    pub(super) fn of_end(&self, end: Direction) -> Self {
        Self { is_source_mapped: end == Direction::Original, is_destination_mapped: end == Direction::Reply, ..*self }
    }

    /// Notes that nobody gets back the mapping that a slot keeps.
    pub(super) fn disown(slot: &Slot) {
        let tag = slot.tag();
        slot.publish(Tag { flags: tag.flags | DISOWNED, ..tag });
    }

    /// Whether [`Self::disown`] was called.
    pub(super) fn is_disowned(tag: Tag) -> bool {
        tag.flags & DISOWNED != 0
    }

    /// Who has the mapping of an end.
    pub(super) fn owner(&self, end: Direction) -> Owner {
        let (tuple, place) = match end {
            Direction::Original => (&self.original, self.origin),
            Direction::Reply => (&self.reply, self.responder),
        };
        let internal = Endpoint { address: tuple.source, port: tuple.source_port };
        Owner { internal, place, bridge: self.bridge }
    }

    /// Whether a slot with these flags has a connection to a published port.
    pub(super) fn has_published(flags: u16) -> bool {
        flags & PUBLISHED != 0
    }

    /// Whether a slot with these flags has a connection with an external port of its own at either end.
    pub(super) fn has_mapping(flags: u16) -> bool {
        flags & (SOURCE_MAPPED | DESTINATION_MAPPED) != 0
    }

    /// Whether packets of a direction keep the connection alive: those from behind a mapping do, and so do all of a
    /// connection without one; what comes in to a mapping does as configured (RFC 4787 REQ-6).
    pub(super) fn refreshes(flags: u16, direction: Direction, inbound_refresh: bool) -> bool {
        let mapped = match direction {
            Direction::Original => SOURCE_MAPPED,
            Direction::Reply => DESTINATION_MAPPED,
        };
        inbound_refresh || flags & mapped != 0 || flags & (SOURCE_MAPPED | DESTINATION_MAPPED) == 0
    }

    fn flags(&self) -> u16 {
        let bit = |is: bool, bit: u16| if is { bit } else { 0 };
        bit(self.original.source.is_ipv6(), V6)
            | bit(self.is_source_mapped, SOURCE_MAPPED)
            | bit(self.is_destination_mapped, DESTINATION_MAPPED)
            | bit(self.is_published, PUBLISHED)
            | bit(self.is_hairpin, HAIRPIN)
            | (self.origin as u16) << ORIGIN_SHIFT
            | (self.responder as u16) << RESPONDER_SHIFT
    }

    pub(super) fn tag(&self, kind: Kind, generation: u32) -> Tag {
        Tag { kind, protocol: self.original.protocol, flags: self.flags(), generation }
    }

    /// Fills a free slot; it is not valid yet.
    pub(super) fn write(&self, slot: &Slot) {
        let tuples = [&self.original, &self.reply];
        let ports = tuples.iter().flat_map(|tuple| [tuple.source_port, tuple.destination_port]);
        let ports = ports.fold(0, |word, port| word << 16 | u64::from(port));
        slot.ports.store(ports, Ordering::Relaxed);
        let addresses = tuples.iter().flat_map(|tuple| [tuple.source, tuple.destination]).flat_map(words_of);
        for (word, address) in slot.addresses.iter().zip(addresses) {
            word.store(address, Ordering::Relaxed);
        }
        for (word, address) in slot.container.iter().zip(words_of(self.container)) {
            word.store(address, Ordering::Relaxed);
        }
        slot.bridge.store(u32::from(self.bridge), Ordering::Relaxed);
        slot.fins.iter().for_each(|fin| fin.store(0, Ordering::Relaxed));
    }

    /// What a slot holds; nothing if no connection could be so.
    pub(super) fn read(slot: &Slot, tag: Tag) -> Option<Self> {
        if tag.flags & !KNOWN != 0 {
            return None;
        }
        let has = |bit: u16| tag.flags & bit != 0;
        let place = |shift: u32| Place::from_number((tag.flags >> shift & 0b11) as u8);
        let original = tuple(slot, tag, Direction::Original)?;
        let reply = tuple(slot, tag, Direction::Reply)?;
        Some(Self {
            original,
            reply,
            origin: place(ORIGIN_SHIFT)?,
            responder: place(RESPONDER_SHIFT)?,
            is_source_mapped: has(SOURCE_MAPPED),
            is_destination_mapped: has(DESTINATION_MAPPED),
            is_published: has(PUBLISHED),
            is_hairpin: has(HAIRPIN),
            bridge: u16::try_from(slot.bridge.load(Ordering::Relaxed)).ok()?,
            container: address_of(has(V6), load(&slot.container))?,
        })
    }
}

/// The tuple of one direction of what a slot holds.
#[inline]
fn tuple(slot: &Slot, tag: Tag, direction: Direction) -> Option<Tuple> {
    let at = 4 * direction as usize;
    let ports = slot.ports.load(Ordering::Relaxed) >> (32 * (1 - direction as u32));
    Some(Tuple {
        protocol: tag.protocol,
        source: address_of(tag.flags & V6 != 0, load(&slot.addresses[at..at + 2]))?,
        source_port: (ports >> 16) as u16,
        destination: address_of(tag.flags & V6 != 0, load(&slot.addresses[at + 2..at + 4]))?,
        destination_port: ports as u16,
    })
}

/// Whether packets of a direction of what a slot holds arrive with `wanted`.
#[inline]
pub(super) fn arrives_as(slot: &Slot, direction: Direction, wanted: &Tuple) -> bool {
    tuple(slot, slot.tag(), direction).is_some_and(|tuple| tuple == *wanted)
}

/// A connection's state and when it got there, in one word, with as much of the generation as fits: whoever changes
/// the state of a connection that was replaced in between fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) state: State,
    pub(super) since_s: u32,
}

impl Progress {
    pub(super) fn word(self, generation: u32) -> u64 {
        self.state as u64 | u64::from(generation & 0xff_ffff) << 8 | u64::from(self.since_s) << 32
    }

    /// What the word says of this generation.
    pub(super) fn from_word(word: u64, generation: u32) -> Option<Self> {
        let is_same = (word >> 8) as u32 & 0xff_ffff == generation & 0xff_ffff;
        let state = State::from_number(word as u8)?;
        is_same.then_some(Self { state, since_s: (word >> 32) as u32 })
    }

    pub(super) fn read(slot: &Slot, generation: u32) -> Option<Self> {
        Self::from_word(slot.progress.load(Ordering::Relaxed), generation)
    }

    pub(super) fn times(self, slot: &Slot) -> Times {
        Times { since_s: self.since_s, last_seen_s: slot.last_seen_s.load(Ordering::Relaxed) }
    }
}
