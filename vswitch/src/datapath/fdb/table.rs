//! The table of a forwarding database: a slab of entries, an index by hash, and a ring of learned entries for each port, oldest
//! first. Everything here happens under the database's lock.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashTable;

use super::{ENTRIES_MAX, EVICTIONS_PER_SECOND, FdbLimits};
use crate::snapshot::PortId;

/// How many entries the eviction looks at before it takes one that was seen recently.
const SECOND_CHANCES: usize = 8;

/// No entry.
const NIL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// VLAN in bits 48 to 59, address below.
    pub(super) key: u64,
    pub(super) port: PortId,
    pub(super) is_static: bool,
    /// Moves since `window_s`.
    pub(super) moves: u8,
    pub(super) window_s: u32,
    /// Where the address was when the window began.
    pub(super) home: PortId,
    pub(super) held_until_s: u32,
    /// When the entry took its place in its port's ring.
    placed_s: u32,
    /// Neighbours in the ring of its port; `NIL` in free and static entries.
    prev: u32,
    next: u32,
}

/// The learned entries of one port, oldest first.
#[derive(Debug, Clone, Copy)]
struct Ring {
    head: u32,
    tail: u32,
    count: u32,
    /// Evictions that learning on this port caused in second `evictions_s`.
    evictions: u32,
    evictions_s: u32,
}

const EMPTY_RING: Ring = Ring { head: NIL, tail: NIL, count: 0, evictions: 0, evictions_s: 0 };

/// The key of a free entry, which no address has.
pub(super) const FREE: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Table {
    pub(super) limits: FdbLimits,
    pub(super) entries: Vec<Entry>,
    free: Vec<u32>,
    pub(super) index: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    /// By port id.
    rings: Vec<Ring>,
    pub(super) learned: u32,
}

/// The VLAN and the address as one word.
#[inline]
pub(super) fn key_of(mac: [u8; 6], vlan: u16) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | (u64::from(vlan & 0xfff) << 48)
}

pub(super) fn mac_of(key: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = key.to_be_bytes();
    [a, b, c, d, e, f]
}

impl Table {
    /// An empty one.
    pub(super) fn new(limits: FdbLimits) -> Self {
        Self {
            limits,
            entries: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            rings: Vec::new(),
            learned: 0,
        }
    }

    /// The entry of `key`.
    pub(super) fn find(&self, key: u64) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&at| self.entries[at as usize].key == key).copied()
    }

    fn ring(&mut self, port: PortId) -> &mut Ring {
        if self.rings.len() <= port.index() {
            self.rings.resize(port.index() + 1, EMPTY_RING);
        }
        &mut self.rings[port.index()]
    }

    /// Puts an entry at the end of its port's ring.
    pub(super) fn link(&mut self, at: u32, now_s: u32) {
        let port = self.entries[at as usize].port;
        let ring = self.ring(port);
        let tail = ring.tail;
        ring.tail = at;
        ring.count += 1;
        if tail == NIL {
            ring.head = at;
        } else {
            self.entries[tail as usize].next = at;
        }
        let entry = &mut self.entries[at as usize];
        entry.prev = tail;
        entry.next = NIL;
        entry.placed_s = now_s;
        self.learned += 1;
    }

    /// Takes an entry out of its port's ring.
    pub(super) fn unlink(&mut self, at: u32) {
        let Entry { port, prev, next, .. } = self.entries[at as usize];
        if prev == NIL {
            self.ring(port).head = next;
        } else {
            self.entries[prev as usize].next = next;
        }
        if next == NIL {
            self.ring(port).tail = prev;
        } else {
            self.entries[next as usize].prev = prev;
        }
        self.ring(port).count -= 1;
        self.learned -= 1;
    }

    /// Adds an entry that is in no ring yet; nothing when the slab is full.
    pub(super) fn insert(&mut self, key: u64, port: PortId, is_static: bool, now_s: u32) -> Option<u32> {
        let entry = Entry {
            key,
            port,
            is_static,
            moves: 0,
            window_s: now_s,
            home: port,
            held_until_s: 0,
            placed_s: now_s,
            prev: NIL,
            next: NIL,
        };
        let at = if let Some(at) = self.free.pop() {
            self.entries[at as usize] = entry;
            at
        } else if self.entries.len() < ENTRIES_MAX {
            self.entries.push(entry);
            self.entries.len() as u32 - 1
        } else {
            return None;
        };
        let (hash, entries, hasher) = (self.hasher.hash_one(key), &self.entries, &self.hasher);
        self.index.insert_unique(hash, at, |&at| hasher.hash_one(entries[at as usize].key));
        Some(at)
    }

    /// Removes an entry, from its ring, too.
    pub(super) fn remove(&mut self, at: u32) {
        let Entry { key, is_static, .. } = self.entries[at as usize];
        if !is_static {
            self.unlink(at);
        }
        let hash = self.hasher.hash_one(key);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        self.entries[at as usize].key = FREE;
        self.free.push(at);
    }

    /// Counts an eviction that learning on `port` wants; whether it may.
    fn may_evict(&mut self, port: PortId, now_s: u32) -> bool {
        let ring = self.ring(port);
        if ring.evictions_s != now_s {
            ring.evictions_s = now_s;
            ring.evictions = 0;
        }
        ring.evictions += 1;
        ring.evictions <= EVICTIONS_PER_SECOND
    }

    /// Removes the oldest entry of `port`, recently seen ones passed over a few times.
    fn evict_from(&mut self, port: PortId, stamps: &[AtomicU32], now_s: u32) {
        for chance in 0..=SECOND_CHANCES {
            let at = self.ring(port).head;
            if at == NIL {
                return;
            }
            let seen_s = stamps[at as usize].load(Ordering::Relaxed);
            if seen_s > self.entries[at as usize].placed_s && chance < SECOND_CHANCES {
                self.unlink(at);
                self.link(at, now_s.min(seen_s));
            } else {
                self.remove(at);
                return;
            }
        }
    }

    /// Makes room for one more address on `port`; returns whether an entry had to go, or nothing
    /// when no room can be made.
    pub(super) fn make_room(&mut self, port: PortId, stamps: &[AtomicU32], now_s: u32) -> Option<bool> {
        let limits = self.limits;
        if self.ring(port).count >= limits.port_mac_limit {
            if limits.port_mac_limit == 0 || !self.may_evict(port, now_s) {
                return None;
            }
            self.evict_from(port, stamps, now_s);
            return Some(true);
        }
        let full = self.free.is_empty() && self.entries.len() >= ENTRIES_MAX;
        if self.learned >= limits.mac_limit || full {
            let largest = (0..self.rings.len()).max_by_key(|&port| self.rings[port].count)?;
            if self.rings[largest].count == 0 || !self.may_evict(port, now_s) {
                return None;
            }
            self.evict_from(PortId(largest as u16), stamps, now_s);
            return Some(true);
        }
        Some(false)
    }
}
