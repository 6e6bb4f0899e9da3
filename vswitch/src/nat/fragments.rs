//! Fragments: what was decided for the first one of a packet holds for the others, which have no ports.
//!
//! Theory of operation. Nothing is put together: fragments are translated one by one, in their addresses, and the
//! destination reassembles them. A table per worker (all fragments of a packet come in through one port, and a port is
//! read by one worker) follows each packet from its first fragment to be seen until all were. Those that overtake the
//! first are held until it comes, since only it says which connection they belong to.
//!
//! *Bounds.* The number of packets that are followed, of fragments that are held, of them for one packet, their bytes,
//! the pieces that a packet may be in while some are missing, and the time: [`TIMEOUT_S`] seconds from the first to be
//! seen. Of too many packets the oldest is given up. What is dropped comes back with its reason, to be freed and
//! counted ([`FragmentTable::dropped`]).
//!
//! *Overlaps.* Fragments that overlap serve attacks only, as do several that claim to be the last one. The packet is
//! refused: what is held of it, and what is still to come (RFC 5722, RFC 8200 section 4.5; RFC 1858 for IPv4). First
//! fragments without a whole transport header do not get here: they are malformed.
//!
//! *Identifications that come again.* IPv4 has 65,536 of them per pair of addresses, less than a second's worth at a
//! high rate (RFC 4963), so a packet that lost a fragment on the way meets another with its identification. A packet
//! that is behind more than [`DISTANCE_MAX`] others is therefore over, as in Linux (`ipfrag_max_dist`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::vec::Drain;

use arrayvec::ArrayVec;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{Fragment, Packet};
use crate::frame::DropReason;
use crate::snapshot::PortId;

/// For how many seconds a packet is followed: less than the 60 that RFC 8200 section 4.5 gives to a destination, and
/// Linux's `ipfrag_time`.
pub const TIMEOUT_S: u32 = 30;
/// A packet is over when so many others began after it, and its identification comes again.
pub const DISTANCE_MAX: u64 = 256;
/// The pieces that a packet may be in while some between them are missing.
const RANGES_MAX: usize = 16;

/// What fragments of a packet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    /// Zero in IPv6, whose fragments name the header behind the fragment header, each as it likes.
    protocol: u8,
    port: PortId,
}

impl FragmentKey {
    /// Of a packet that came in through `port`; nothing for a whole one.
    #[must_use]
    pub fn of(packet: &Packet, port: PortId) -> Option<Self> {
        let id = match packet.fragment {
            Fragment::None => return None,
            Fragment::First { id, .. } | Fragment::Later { id, .. } => id,
        };
        Some(Self {
            source: packet.tuple.source,
            destination: packet.tuple.destination,
            id,
            protocol: if packet.is_v6 { 0 } else { packet.protocol },
            port,
        })
    }
}

/// How much a table takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Packets that are followed.
    pub packets: usize,
    /// Fragments that are held.
    pub held: usize,
    /// Fragments of one packet that are held.
    pub held_per_packet: usize,
    /// Bytes of all fragments that are held.
    pub held_bytes: usize,
}

impl Default for Limits {
    /// The longest packet in pieces of 1,500 bytes is 45 fragments.
    fn default() -> Self {
        Self { packets: 4096, held: 128, held_per_packet: 48, held_bytes: 256 << 10 }
    }
}

/// A part of a packet's payload, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: u32,
    end: u32,
    more: bool,
}

impl Piece {
    fn of(fragment: Fragment) -> Option<Self> {
        let (start, bytes, more) = match fragment {
            Fragment::None => return None,
            Fragment::First { payload_bytes, .. } => (0, payload_bytes, true),
            Fragment::Later { offset_bytes, payload_bytes, more, .. } => (offset_bytes, payload_bytes, more),
        };
        Some(Self { start: u32::from(start), end: u32::from(start) + u32::from(bytes), more })
    }
}

#[derive(Debug)]
struct Followed<A, H> {
    /// Which packet it is of those that were ever followed.
    number: u64,
    born_s: u32,
    decision: Option<A>,
    is_refused: bool,
    /// The length of the whole, once the last fragment was seen.
    total: Option<u32>,
    /// What was seen, from start to end, in order; neighbours are one.
    seen: ArrayVec<(u32, u32), RANGES_MAX>,
    /// With their lengths.
    held: Vec<(H, usize)>,
}

impl<A, H> Followed<A, H> {
    /// Notes a piece.
    fn see(&mut self, piece: Piece) -> Result<(), DropReason> {
        let Piece { start, end, more } = piece;
        let is_contradiction = match (more, self.total) {
            (true, Some(total)) => end >= total,
            (false, Some(_)) => true,
            (false, None) => self.seen.last().is_some_and(|&(_, last)| last > end),
            (true, None) => false,
        };
        let at = self.seen.partition_point(|&(_, seen_end)| seen_end < start);
        // The first that ends at the start or behind it.
        let mut next = at;
        let mut merged = (start, end);
        if let Some(&(seen_start, seen_end)) = self.seen.get(next)
            && seen_end == start
        {
            merged.0 = seen_start;
            next += 1;
        }
        if is_contradiction || self.seen.get(next).is_some_and(|&(seen_start, _)| seen_start < end) {
            self.is_refused = true;
            return Err(DropReason::FragmentOverlap);
        }
        if let Some(&(seen_start, seen_end)) = self.seen.get(next)
            && seen_start == end
        {
            merged.1 = seen_end;
            next += 1;
        }
        if next == at {
            self.seen.try_insert(at, merged).map_err(|_| DropReason::FragmentsFull)?;
        } else {
            self.seen.drain(at + 1..next);
            self.seen[at] = merged;
        }
        if !more {
            self.total = Some(end);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.seen.as_slice() == [(0, total)])
    }
}

/// See the module's documentation. `A` is what was decided, which may well be to drop; `H` is a token for a frame.
#[derive(Debug)]
pub struct FragmentTable<A, H> {
    packets: HashMap<FragmentKey, Followed<A, H>, RandomState>,
    /// The same by their numbers: the oldest first.
    order: BTreeMap<u64, FragmentKey>,
    /// How many packets were ever followed.
    begun: u64,
    held: usize,
    held_bytes: usize,
    dropped: Vec<(H, DropReason)>,
    limits: Limits,
}

impl<A, H> Default for FragmentTable<A, H> {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl<A, H> FragmentTable<A, H> {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            packets: HashMap::with_hasher(RandomState::default()),
            order: BTreeMap::new(),
            begun: 0,
            held: 0,
            held_bytes: 0,
            dropped: Vec::new(),
            limits,
        }
    }

    /// Whether nothing is followed.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.dropped.is_empty()
    }

    /// Whether something was decided for the packet, so that its next fragment is not held.
    #[must_use]
    pub fn knows(&self, key: &FragmentKey) -> bool {
        self.packets.get(key).is_some_and(|packet| packet.decision.is_some())
    }

    /// How many fragments are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// The time at which [`expire`](Self::expire) will have something to do.
    #[must_use]
    pub fn deadline_s(&self) -> Option<u32> {
        let (_, key) = self.order.first_key_value()?;
        self.packets.get(key).map(|packet| packet.born_s.saturating_add(TIMEOUT_S))
    }

    /// What was dropped since the last call, and why: fragments that were held, and those that [`later`](Self::later)
    /// refused.
    pub fn dropped(&mut self) -> Drain<'_, (H, DropReason)> {
        self.dropped.drain(..)
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, now_s: u32) {
        while self.deadline_s().is_some_and(|deadline_s| deadline_s <= now_s) {
            self.give_up_oldest(DropReason::FragmentTimeout);
        }
    }

    /// Gives everything up, for instance because the port or the worker goes.
    pub fn clear(&mut self, reason: DropReason) {
        while !self.order.is_empty() {
            self.give_up_oldest(reason);
        }
    }

    fn give_up_oldest(&mut self, reason: DropReason) {
        if let Some((_, key)) = self.order.pop_first()
            && let Some(mut packet) = self.packets.remove(&key)
        {
            self.drop_held(&mut packet, reason);
        }
    }

    /// What a packet holds, to be dropped.
    fn drop_held(&mut self, packet: &mut Followed<A, H>, reason: DropReason) {
        let (held, bytes) = release(&mut packet.held);
        (self.held, self.held_bytes) = (self.held - held.len(), self.held_bytes - bytes);
        self.dropped.extend(held.into_iter().map(|frame| (frame, reason)));
    }

    /// Takes the packet out of the table, or begins a new one.
    fn take(&mut self, key: &FragmentKey, now_s: u32) -> Followed<A, H> {
        if let Some(mut packet) = self.packets.remove(key) {
            self.order.remove(&packet.number);
            if self.begun - packet.number <= DISTANCE_MAX && packet.born_s.saturating_add(TIMEOUT_S) > now_s {
                return packet;
            }
            self.drop_held(&mut packet, DropReason::FragmentTimeout);
        }
        self.begun += 1;
        Followed {
            number: self.begun,
            born_s: now_s,
            decision: None,
            is_refused: false,
            total: None,
            seen: ArrayVec::new(),
            held: Vec::new(),
        }
    }

    /// Puts it back, unless all of it was seen.
    fn put(&mut self, key: FragmentKey, packet: Followed<A, H>) {
        if packet.is_complete() && packet.decision.is_some() && !packet.is_refused {
            return;
        }
        while self.packets.len() >= self.limits.packets.max(1) {
            self.give_up_oldest(DropReason::FragmentsFull);
        }
        self.order.insert(packet.number, key);
        self.packets.insert(key, packet);
    }

    /// Notes what was decided for the packet whose first fragment this is. Returns the fragments that were held, in
    /// the order in which they came: they are to go now, behind this one.
    ///
    /// # Errors
    /// [`DropReason::FragmentOverlap`] when the fragment is to be dropped, and its packet refused.
    pub fn first(
        &mut self,
        key: FragmentKey,
        fragment: Fragment,
        decision: A,
        now_s: u32,
    ) -> Result<Vec<H>, DropReason> {
        let Some(piece) = Piece::of(fragment) else { return Ok(Vec::new()) };
        let mut packet = self.take(&key, now_s);
        if packet.is_refused {
            self.put(key, packet);
            return Err(DropReason::FragmentOverlap);
        }
        if let Err(reason) = packet.see(piece) {
            self.drop_held(&mut packet, reason);
            self.put(key, packet);
            return Err(reason);
        }
        packet.decision = Some(decision);
        let (held, bytes) = release(&mut packet.held);
        (self.held, self.held_bytes) = (self.held - held.len(), self.held_bytes - bytes);
        self.put(key, packet);
        Ok(held)
    }
}

/// Takes what is held, and its length in bytes.
fn release<H>(held: &mut Vec<(H, usize)>) -> (Vec<H>, usize) {
    let bytes = held.iter().map(|(_, bytes)| bytes).sum();
    (std::mem::take(held).into_iter().map(|(frame, _)| frame).collect(), bytes)
}

impl<A: Copy, H> FragmentTable<A, H> {
    /// What was decided for the packet of a later fragment, of `frame_bytes` bytes, and the fragment itself. Nothing
    /// if it is held now, or was [dropped](Self::dropped).
    pub fn later(
        &mut self,
        key: FragmentKey,
        fragment: Fragment,
        frame: H,
        frame_bytes: usize,
        now_s: u32,
    ) -> Option<(A, H)> {
        let piece = Piece::of(fragment)?;
        let mut packet = self.take(&key, now_s);
        let has_room = packet.decision.is_some()
            || (self.held < self.limits.held
                && packet.held.len() < self.limits.held_per_packet
                && self.held_bytes + frame_bytes <= self.limits.held_bytes);
        let seen = if packet.is_refused {
            Err(DropReason::FragmentOverlap)
        } else if has_room {
            packet.see(piece)
        } else {
            Err(DropReason::FragmentsFull)
        };
        let decided = match (seen, packet.decision) {
            (Ok(()), Some(decision)) => Some((decision, frame)),
            (Ok(()), None) => {
                packet.held.push((frame, frame_bytes));
                (self.held, self.held_bytes) = (self.held + 1, self.held_bytes + frame_bytes);
                None
            }
            (Err(reason), _) => {
                if packet.is_refused {
                    self.drop_held(&mut packet, reason);
                }
                self.dropped.push((frame, reason));
                None
            }
        };
        self.put(key, packet);
        decided
    }
}

#[cfg(test)]
#[path = "fragments_tests.rs"]
mod tests;
