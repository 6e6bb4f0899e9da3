//! Fragments: what was decided for the first one of a packet holds for the others, which have no ports.
//!
//! Theory of operation. Nothing is put together: fragments are translated one by one, in their addresses, and the
//! destination reassembles them. A table per worker (all fragments of a packet come in through one port, and a port is
//! read by one worker) follows each packet from its first fragment to be seen until all were. Those that overtake the
//! first are held until it comes, since only it says which connection they belong to; then they are asked for again,
//! as though they came only now.
//!
//! *Bounds.* The number of packets that are followed, of fragments that are held, of them for one packet, their bytes,
//! the pieces that a packet may be in while some are missing, and the time: [`TIMEOUT_S`] seconds from the first to be
//! seen, and [`Limits::patience_s`] while that which decides is missing. Of too many packets the one whose time is over
//! first is given up. What is dropped comes back with its reason, to be freed and
//! counted ([`FragmentTable::expire`]).
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

impl Packet {
    /// What the packet, which came in through `port`, shares with the other fragments of its own, if it is one.
    #[must_use]
    pub fn fragment_key(&self, port: PortId) -> FragmentKey {
        let id = match self.fragment {
            Fragment::None => 0,
            Fragment::First { id, .. } | Fragment::Later { id, .. } => id,
        };
        FragmentKey {
            source: self.tuple.source,
            destination: self.tuple.destination,
            id,
            protocol: if self.is_v6 { 0 } else { self.protocol },
            port,
        }
    }
}

/// What is known of a later fragment's packet.
#[derive(Debug)]
pub enum Later<'a, A, H> {
    /// What was decided for its first fragment.
    Known(A),
    /// The first one has not come yet: there is room to wait for it.
    Unknown(Room<'a, A, H>),
    /// It is to be dropped.
    Refused(DropReason),
}

/// Room for a fragment to wait in.
#[derive(Debug)]
pub struct Room<'a, A, H> {
    table: &'a mut FragmentTable<A, H>,
    key: FragmentKey,
    piece: Piece,
    bytes: usize,
    now_s: u32,
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
    /// Bytes of all packets that are held.
    pub held_bytes: usize,
    /// For how many seconds the others wait for the first one.
    pub patience_s: u32,
}

impl Default for Limits {
    /// The longest packet in pieces of 1,500 bytes is 45 fragments.
    fn default() -> Self {
        Self { packets: 4096, held: 128, held_per_packet: 48, held_bytes: 256 << 10, patience_s: TIMEOUT_S }
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
    /// Notes a piece; that of a packet which is refused, or is now, is to be dropped.
    fn see(&mut self, piece: Piece) -> Result<(), DropReason> {
        if self.is_refused {
            return Err(DropReason::FragmentOverlap);
        }
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

    /// When it is given up.
    fn deadline_s(&self, patience_s: u32) -> u32 {
        self.born_s.saturating_add(if self.decision.is_some() { TIMEOUT_S } else { patience_s })
    }

    fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.seen.as_slice() == [(0, total)])
    }
}

/// See the module's documentation. `A` is what was decided, which may well be to drop; `H` is a token for a frame.
#[derive(Debug)]
pub struct FragmentTable<A, H> {
    packets: HashMap<FragmentKey, Followed<A, H>, RandomState>,
    /// The same by their deadlines and numbers.
    order: BTreeMap<(u32, u64), FragmentKey>,
    /// How many packets were ever followed.
    begun: u64,
    held: usize,
    held_bytes: usize,
    dropped: Vec<(H, DropReason)>,
    limits: Limits,
}

impl<A, H> Default for FragmentTable<A, H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A, H> FragmentTable<A, H> {
    /// An empty table with ordinary limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty table.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
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

    /// Whether nothing is followed, and [`expire`](Self::expire) has nothing to do now or later.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.dropped.is_empty()
    }

    /// How many fragments are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Gives up what has waited too long, and gives back all that was held and dropped since the last call, with the
    /// reason.
    pub fn expire(&mut self, now_s: u32, mut dropped: impl FnMut(H, DropReason)) {
        while let Some(((deadline_s, _), _)) = self.order.first_key_value()
            && *deadline_s <= now_s
        {
            self.give_up_first(DropReason::FragmentTimeout);
        }
        for (frame, reason) in self.dropped.drain(..) {
            dropped(frame, reason);
        }
    }

    fn give_up_first(&mut self, reason: DropReason) {
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
            let deadline_s = packet.deadline_s(self.limits.patience_s);
            self.order.remove(&(deadline_s, packet.number));
            if self.begun - packet.number <= DISTANCE_MAX && now_s < deadline_s {
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

    /// Puts it back, unless all of it has passed, or nothing of it was seen.
    fn put(&mut self, key: FragmentKey, packet: Followed<A, H>) {
        let has_passed = packet.is_complete() && packet.decision.is_some();
        if !packet.is_refused && (has_passed || packet.seen.is_empty()) {
            return;
        }
        while self.packets.len() >= self.limits.packets.max(1) {
            self.give_up_first(DropReason::FragmentsFull);
        }
        self.order.insert((packet.deadline_s(self.limits.patience_s), packet.number), key);
        self.packets.insert(key, packet);
    }

    /// Whether one more may be held.
    fn has_room(&self, packet: &Followed<A, H>, bytes: usize) -> bool {
        self.held < self.limits.held
            && packet.held.len() < self.limits.held_per_packet
            && self.held_bytes + bytes <= self.limits.held_bytes
    }
}

impl<A: Copy, H> FragmentTable<A, H> {
    /// Notes what was decided for `packet`, the first fragment of its own. Returns those that were held, in the order
    /// in which they came: [`later`](Self::later) is to be asked for them again.
    ///
    /// # Errors
    /// [`DropReason::FragmentOverlap`] when the fragment is to be dropped, and all of its packet refused.
    pub fn first(&mut self, key: FragmentKey, packet: &Packet, decision: A, now_s: u32) -> Result<Vec<H>, DropReason> {
        let Some(piece) = Piece::of(packet.fragment) else { return Ok(Vec::new()) };
        let mut packet = self.take(&key, now_s);
        if let Err(reason) = packet.see(piece) {
            self.drop_held(&mut packet, reason);
            self.put(key, packet);
            return Err(reason);
        }
        packet.decision = Some(decision);
        let (held, bytes) = release(&mut packet.held);
        (self.held, self.held_bytes) = (self.held - held.len(), self.held_bytes - bytes);
        // What was held will be seen when it comes again.
        packet.seen.clear();
        packet.seen.push((piece.start, piece.end));
        packet.total = None;
        self.put(key, packet);
        Ok(held)
    }

    /// What is known of the packet that `packet` is a later fragment of.
    pub fn later(&mut self, key: FragmentKey, packet: &Packet, now_s: u32) -> Later<'_, A, H> {
        let bytes = packet.packet_bytes();
        let Some(piece) = Piece::of(packet.fragment) else { return Later::Refused(DropReason::Malformed) };
        let mut packet = self.take(&key, now_s);
        let answer = match packet.decision {
            Some(decision) => packet.see(piece).map(|()| Some(decision)),
            None if packet.is_refused => Err(DropReason::FragmentOverlap),
            None if self.has_room(&packet, bytes) => Ok(None),
            None => Err(DropReason::FragmentsFull),
        };
        self.put(key, packet);
        match answer {
            Ok(Some(decision)) => Later::Known(decision),
            Ok(None) => Later::Unknown(Room { table: self, key, piece, bytes, now_s }),
            Err(reason) => Later::Refused(reason),
        }
    }
}

impl<A: Copy, H> Room<'_, A, H> {
    /// Holds the fragment.
    ///
    /// # Errors
    /// When it is to be dropped: it overlaps another one, or there are too many gaps between those that wait.
    pub fn hold(self, frame: H) -> Result<(), DropReason> {
        let Self { table, key, piece, bytes, now_s } = self;
        let mut packet = table.take(&key, now_s);
        let seen = packet.see(piece);
        if seen.is_ok() {
            packet.held.push((frame, bytes));
            (table.held, table.held_bytes) = (table.held + 1, table.held_bytes + bytes);
        } else if packet.is_refused {
            table.drop_held(&mut packet, DropReason::FragmentOverlap);
        }
        table.put(key, packet);
        seen
    }
}

/// Takes what is held, and its length in bytes.
fn release<H>(held: &mut Vec<(H, usize)>) -> (Vec<H>, usize) {
    let bytes = held.iter().map(|(_, bytes)| bytes).sum();
    (std::mem::take(held).into_iter().map(|(frame, _)| frame).collect(), bytes)
}

#[cfg(test)]
#[path = "fragments_tests.rs"]
mod tests;
