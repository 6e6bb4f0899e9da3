//! The connections: who talks with whom, and what their packets become.
//!
//! Theory of operation. All workers and the control plane share one [`Conntrack`]. A worker asks it when its own cache
//! does not know a flow, and shows it every packet that may change a connection's state; the packets of an established
//! flow cost it one relaxed store per second ([`Conntrack::touch`]).
//!
//! - `slab`: the connections themselves, fixed-size slots in one mapping, which may be a file;
//! - `index`: finds them by the tuple of either direction;
//! - `mapping`, `filtering`, `ports`: external endpoints, who may come in through them, and which one is next;
//! - `containers`: limits and hairpins;
//! - `state`, `timers`: what TCP's segments do, and how long connections live without traffic;
//! - `sweep`: a hand that goes round the slab and removes what has expired, and the removals that somebody asks for;
//! - `restore`: makes index, mappings and limits anew from the slab of a process that is gone.
//!
//! Locks. A connection is made and removed step by step, each under the lock of what is changed: container, free list,
//! mappings, index. Only the index takes two locks at a time, in the order of its shards; no other lock is taken while one
//! is held, so nothing can deadlock. A connection exists while it is in the index, whose locks decide between two
//! workers that make the same one; it is made last there, and removed first.
//!
//! Removal against the rest. [`Conntrack::find`] copies what it found under the index's lock. What it returned may be
//! removed right after, by expiry or because somebody wants it gone. Against the former, [`Conntrack::track`] says
//! whether the connection is still there *after* it was refreshed, while the removal looks at it once more after it said
//! that it is about to happen: one of the two sees the other. Against the latter, the *epoch* changes when the removal
//! is complete: a worker that reads the epoch before it asks, and keeps both, keeps nothing that is gone.

mod connection;
mod containers;
mod entry;
mod filtering;
mod index;
mod list;
mod mapping;
mod open;
mod ports;
mod restore;
mod slab;
pub mod state;
mod sweep;
pub mod timers;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use connection::{Admission, Arrival, Direction, Found, New, Refusal, Segment, SourceNat, Tracked};
pub use list::{Connection, Counts, Filter};
pub use restore::Restored;
pub use slab::{HEADER_BYTES as FILE_HEADER_BYTES, Storage};
pub use sweep::{SWEEP_BUDGET, Swept};
pub use timers::Timeouts;

use self::containers::Containers;
use self::entry::{Entry, Progress, arrives_as};
use self::index::{Handle, Index};
use self::mapping::Mappings;
use self::ports::Chooser;
use self::slab::{Kind, Slab, Slot, Tag};
use self::state::State;
use super::{ExternalPorts, NobodysPorts, Place, Tuple};
use crate::bpf::Flow;
use crate::prefetch::prefetch;
use crate::wire::protocol;

/// Limits and times of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// The most connections, ports that are kept from reuse included; 128 bytes each when it was used once.
    pub connections_max: u32,
    /// The most connections of one container, so that none exhausts the host (RFC 6888 REQ-4). Those that come to its
    /// published ports count.
    pub per_container_max: u32,
    /// The most external ports that one internal address has of a protocol, held ones included. All ports that a Linux
    /// container chooses by itself (`net.ipv4.ip_local_port_range`, 28,232) have room in it.
    pub per_container_ports_max: u32,
    /// How long connections live.
    pub timeouts: Timeouts,
    /// Whether what comes in to a mapping keeps it alive, as what goes out always does (RFC 4787 REQ-6a).
    pub inbound_refresh: bool,
    /// Whether UDP's external ports are even where the container's are (RFC 4787 REQ-4, RFC 7857 section 8).
    pub udp_parity: bool,
}

impl Default for ConntrackConfig {
    fn default() -> Self {
        Self {
            // A million, and the 65,535 ports of an address that may be held beside them.
            connections_max: (1 << 20) + (1 << 16),
            per_container_max: 65_536,
            per_container_ports_max: 28_672,
            timeouts: Timeouts::default(),
            inbound_refresh: true,
            udp_parity: true,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Conntrack {
    config: ConntrackConfig,
    external_ports: Arc<dyn ExternalPorts>,
    slab: Slab,
    index: Index,
    /// By flow and family: see [`Self::mappings_of`].
    mappings: Box<[Mutex<Mappings>]>,
    containers: Containers,
    connections: AtomicU32,
    refused: [AtomicU64; Refusal::ALL.len()],
    evicted: AtomicU64,
    epoch: AtomicU64,
    /// Where the sweep goes on.
    hand: Mutex<u32>,
    /// Where the next victim of an eviction is looked for.
    victim: AtomicU32,
}

impl Conntrack {
    /// A table with what is left in `storage`. `secret` makes the choice of ports unpredictable; `now_s` is seconds of a
    /// clock that goes on over a restart, as all times are.
    ///
    /// # Errors
    /// A configuration below what the RFCs allow; a file that cannot be mapped or made large enough.
    pub fn open(
        storage: Storage,
        config: ConntrackConfig,
        external_ports: Arc<dyn ExternalPorts>,
        secret: [u8; 16],
        now_s: u32,
    ) -> io::Result<(Self, Restored)> {
        config.timeouts.check()?;
        let capacity = config.connections_max.clamp(1, slab::SLOTS_MAX);
        let (slab, used) = Slab::open(storage, capacity)?;
        let mappings = |flow, is_v6| {
            Mappings::new(flow, is_v6, config.per_container_ports_max, Chooser::new(secret, config.udp_parity))
        };
        let flows = Flow::ALL.into_iter().flat_map(|flow| [(flow, false), (flow, true)]);
        let table = Self {
            config,
            external_ports,
            slab,
            index: Index::new(),
            mappings: flows.map(|(flow, is_v6)| Mutex::new(mappings(flow, is_v6))).collect(),
            containers: Containers::new(),
            connections: AtomicU32::new(0),
            refused: Default::default(),
            evicted: AtomicU64::new(0),
            epoch: AtomicU64::new(1),
            hand: Mutex::new(0),
            victim: AtomicU32::new(0),
        };
        let restored = table.restore(used, now_s);
        Ok((table, restored))
    }

    /// An empty table in memory on a host without programs: for tests and benchmarks.
    ///
    /// # Errors
    /// The kernel grants no memory, or no random numbers.
    pub fn in_memory(now_s: u32) -> io::Result<Self> {
        let mut secret = [0; 16];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
        let (table, _) =
            Self::open(Storage::Memory, ConntrackConfig::default(), Arc::new(NobodysPorts), secret, now_s)?;
        Ok(table)
    }

    /// The connection that a packet from `from` belongs to, in either direction; none if it comes from another place
    /// than that direction's packets do. Nothing is refreshed: an ICMP error's embedded packet is found by it too
    /// (RFC 5508 REQ-4, RFC 4787 REQ-12).
    #[inline]
    #[must_use]
    pub fn find(&self, tuple: &Tuple, from: Place) -> Option<Found> {
        let is_it = |handle: Handle| arrives_as(self.slab.slot(handle.slot()), handle.direction(), tuple);
        self.index.find(self.index.hash(tuple), is_it, |handle| self.found(handle, from)).flatten()
    }

    /// What is behind a handle, under the index's lock.
    #[inline]
    fn found(&self, handle: Handle, from: Place) -> Option<Found> {
        let slot = self.slab.slot(handle.slot());
        let tag = slot.tag();
        let entry = Entry::read(slot, tag)?;
        let direction = handle.direction();
        let state = Progress::read(slot, tag.generation)?.state;
        (entry.from(direction) == from).then(|| found_of(handle, &entry, tag.generation, state))
    }

    /// Shows the table a packet of a connection that was found: TCP's state, and its timers.
    pub fn track(&self, found: &Found, segment: Segment, now_s: u32) -> Tracked {
        const GONE: Tracked = Tracked { state: None, cacheable: false };
        let handle = Handle::from_number(found.index);
        let Some(slot) = self.slab.get(handle.slot()) else { return GONE };
        let tag = slot.tag();
        if tag.kind != Kind::Live || tag.generation != found.generation {
            return GONE;
        }
        let Some((state, refreshes)) = advance(slot, tag, handle.direction(), segment, now_s) else { return GONE };
        let keeps = tag.protocol == protocol::TCP
            || Entry::refreshes(tag.flags, handle.direction(), self.config.inbound_refresh);
        if refreshes && keeps {
            slot.last_seen_s.store(now_s, Ordering::Relaxed);
        }
        // Against `sweep`: see the module's documentation.
        fence(Ordering::SeqCst);
        if slot.tag() == tag { Tracked { state: Some(state), cacheable: state.is_cacheable() } } else { GONE }
    }

    /// Asks the CPU for what [`Self::touch`] will write.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        if let Some(slot) = self.slab.get(Handle::from_number(index).slot()) {
            prefetch(&slot.last_seen_s);
        }
    }

    /// A packet of a cacheable flow was handled without a look at the table. An index whose connection has ended makes
    /// another connection a little younger, which harms nobody.
    #[inline]
    pub fn touch(&self, index: u32, now_s: u32) {
        let handle = Handle::from_number(index);
        let Some(slot) = self.slab.get(handle.slot()) else { return };
        if self.config.inbound_refresh || {
            let tag = slot.tag();
            tag.protocol == protocol::TCP || Entry::refreshes(tag.flags, handle.direction(), false)
        } {
            slot.last_seen_s.store(now_s, Ordering::Relaxed);
        }
    }

    /// A number that changes after something was purged: what was found before it changed may be wrong.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The mappings of a protocol; none if it has no ports.
    fn mappings_of(&self, number: u8, is_v6: bool) -> Option<MutexGuard<'_, Mappings>> {
        let flow = match number {
            protocol::TCP => Flow::Tcp,
            protocol::UDP => Flow::Udp,
            protocol::SCTP => Flow::Sctp,
            protocol::ICMP | protocol::ICMPV6 => Flow::Icmp,
            _ => return None,
        };
        let at = Flow::ALL.iter().position(|&one| one == flow)? * 2 + usize::from(is_v6);
        Some(self.mappings[at].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn deadline_s(&self, slot: &Slot, tag: Tag, progress: Progress) -> u32 {
        let is_published = Entry::has_published(tag.flags);
        self.config.timeouts.deadline_s(tag.protocol, is_published, progress.state, progress.times(slot))
    }
}

fn found_of(handle: Handle, entry: &Entry, generation: u32, state: State) -> Found {
    let direction = handle.direction();
    Found {
        index: handle.number(),
        generation,
        direction,
        translated: entry.arrives(direction.reversed()).reversed(),
        to: entry.from(direction.reversed()),
        hairpin: entry.is_hairpin,
        cacheable: state.is_cacheable(),
        bridge: entry.bridge,
    }
}

/// Takes the state of a connection one packet further: the new state and whether the packet counts as traffic; nothing
/// if the connection is another one by now.
fn advance(slot: &Slot, tag: Tag, from: Direction, segment: Segment, now_s: u32) -> Option<(State, bool)> {
    loop {
        let word = slot.progress.load(Ordering::Relaxed);
        let progress = Progress::from_word(word, tag.generation)?;
        let (state, restarts, refreshes) = match (progress.state, segment.tcp_flags) {
            (State::Unreplied | State::Replied, _) if segment.ends_association => (State::Ended, true, false),
            (State::Unreplied, _) if from == Direction::Reply => (State::Replied, true, true),
            (State::Unreplied | State::Replied, _) => (progress.state, false, true),
            (State::Ended, _) if segment.ends_association => (State::Ended, false, false),
            // The ports are used again, or whoever ended it was not a part of it: tags are not verified.
            (State::Ended, _) => (State::Replied, true, true),
            (_, None) => (progress.state, false, false),
            (_, Some(flags)) => {
                let step = state::next(progress.state, from, flags, is_newer(slot, from, segment));
                (step.state, step.restarts, step.refreshes)
            }
        };
        let since_s = if restarts { now_s } else { progress.since_s };
        let next = Progress { state, since_s }.word(tag.generation);
        if next == word || slot.progress.compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            remember_fin(slot, from, segment, state);
            return Some((state, refreshes));
        }
    }
}

/// Whether a SYN is beyond the FIN of its direction, or that cannot be told.
fn is_newer(slot: &Slot, from: Direction, segment: Segment) -> bool {
    let fin = slot.fins[from as usize].load(Ordering::Relaxed);
    // Sequence numbers are compared modulo 2^32 (RFC 9293 section 3.4).
    segment.sequence.is_none_or(|sequence| fin == 0 || sequence.wrapping_sub(fin).cast_signed() > 0)
}

/// Keeps the sequence number of a FIN for [`is_newer`], and forgets that of a connection before this one.
fn remember_fin(slot: &Slot, from: Direction, segment: Segment, state: State) {
    let Some(flags) = segment.tcp_flags else { return };
    if flags & state::FIN != 0 && flags & (state::SYN | state::RST) == 0 {
        slot.fins[from as usize].store(segment.sequence.unwrap_or(0), Ordering::Relaxed);
    } else if matches!(state, State::ReopenedOriginal | State::ReopenedReply) {
        slot.fins.iter().for_each(|fin| fin.store(0, Ordering::Relaxed));
    }
}
