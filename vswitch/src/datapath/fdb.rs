//! The forwarding database of one bridge: which MAC address is behind which port.
//!
//! Theory of operation. The database is a slab of entries with a hash index, behind one mutex: it
//! is read and written only when a frame missed the flow cache, and by the control plane. What the
//! hit path needs is outside of the mutex:
//!
//! - the **epoch**: a number that changes whenever an answer that was given may have become wrong
//!   (an address moved, an entry was removed, the configuration changed). Flow cache entries carry
//!   the epoch they were made under and are dead when it differs. Learning a *new* address does not
//!   change the epoch, because "unknown" is never cached. Epochs come from one counter for the whole
//!   process, so that an epoch of one bridge never equals one of another.
//! - the **stamps**: when each entry's address was last seen as a source, in seconds. The hit path
//!   refreshes the stamp of the entry that its flow was resolved with; at most one store per second
//!   and address. A stamp refreshed after its entry was replaced makes another entry a little
//!   younger, which harms nobody.
//!
//! Limits and fairness: each port may have `port_mac_limit` learned addresses and the bridge
//! `mac_limit`. At the limit the port's own oldest goes, or, at the bridge's limit, the oldest of
//! the port that has the most: a port that floods the table with made-up addresses evicts its own.
//! "Oldest" is second chance (clock): each port's entries form a ring in learning order, and one
//! whose stamp is fresher than its place in the ring goes round once more, a bounded number of times.
//! Every eviction changes the epoch and so voids the bridge's cached decisions; a port that causes
//! more than [`EVICTIONS_PER_SECOND`] of them is not learned from for the rest of that second.
//!
//! Passes over the whole table (ageing, flushing, listing) let go of the lock every
//! [`CHUNK_ENTRIES`] entries: a worker with a miss waits microseconds, not milliseconds.
//!
//! Moves: an address that moves [`FLAP_MOVES`] times within [`FLAP_WINDOW_S`] is caught in a loop.
//! It is then held for [`HOLD_S`] on the port where it was before the flapping began, and frames
//! with that source from elsewhere are dropped as `loop`, which is what breaks the loop.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::table::{Entry, FREE, Table, key_of, mac_of};
use crate::snapshot::PortId;

mod table;

/// Moves of one address within [`FLAP_WINDOW_S`] that make a loop.
pub const FLAP_MOVES: u8 = 8;
/// The window of [`FLAP_MOVES`], in seconds.
pub const FLAP_WINDOW_S: u32 = 2;
/// How long a flapping address is held on its port, in seconds.
pub const HOLD_S: u32 = 10;
/// The most entries of one bridge, static ones included; bounds the limits that can be set.
pub const ENTRIES_MAX: usize = 1 << 20;
/// The most evictions that one port may cause in a second.
pub const EVICTIONS_PER_SECOND: u32 = 1000;
/// How many entries a pass over the table looks at before it lets others in.
pub const CHUNK_ENTRIES: usize = 4096;

/// One counter for all bridges: see the module's documentation.
static EPOCH: AtomicU64 = AtomicU64::new(1);

/// Limits of a bridge's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbLimits {
    /// Seconds without traffic after which a learned address is forgotten.
    pub ageing_s: u32,
    /// The most learned addresses on the bridge.
    pub mac_limit: u32,
    /// The most learned addresses on one port.
    pub port_mac_limit: u32,
}

impl Default for FdbLimits {
    fn default() -> Self {
        Self { ageing_s: 300, mac_limit: 131_072, port_mac_limit: 16_384 }
    }
}

/// What learning an address did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearnOutcome {
    /// The address is on this port; the index of its stamp.
    Here(u32),
    /// The address moved to this port.
    Moved(u32),
    /// A static entry pins the address to another port.
    Pinned,
    /// The address is held on another port because it flaps. `detected` is true once per hold.
    Loop {
        /// The port on which it is held.
        home: PortId,
        /// The other port that it was last seen on.
        elsewhere: PortId,
        /// Whether this very frame led to the detection.
        detected: bool,
    },
    /// Nothing may be learned: the limit is zero, static entries fill the table, or the port causes
    /// too many evictions.
    Full,
}

/// An entry as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbRow {
    /// The address.
    pub mac: [u8; 6],
    /// The VLAN; 0 for untagged.
    pub vlan: u16,
    /// The port.
    pub port: PortId,
    /// Whether it neither ages nor moves.
    pub is_static: bool,
    /// When it was last seen, in seconds of [`super::clock::now_s`].
    pub last_seen_s: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Fdb {
    epoch: AtomicU64,
    table: Mutex<Table>,
    stamps: Box<[AtomicU32]>,
}

impl Fdb {
    /// An empty database.
    #[must_use]
    pub fn new(limits: FdbLimits) -> Self {
        Self {
            epoch: AtomicU64::new(EPOCH.fetch_add(1, Ordering::Relaxed)),
            table: Mutex::new(Table::new(limits)),
            stamps: super::zeroed::atomics_u32(ENTRIES_MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present epoch.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Declares every answer given so far to be outdated.
    pub fn invalidate(&self) {
        // Release pairs with `epoch`: who sees the new number sees what was changed before it.
        self.epoch.store(EPOCH.fetch_add(1, Ordering::Relaxed), Ordering::Release);
    }

    /// Notes that the address of the entry with stamp `stamp` was just seen.
    #[inline]
    pub fn refresh(&self, stamp: u32, now_s: u32) {
        if let Some(stamp) = self.stamps.get(stamp as usize)
            && stamp.load(Ordering::Relaxed) != now_s
        {
            stamp.store(now_s, Ordering::Relaxed);
        }
    }

    /// Changes the limits; what is over a new limit goes when the next address is learned.
    pub fn set_limits(&self, limits: FdbLimits) {
        self.lock().limits = limits;
    }

    /// Learns the source and looks up the destination under one lock.
    pub fn resolve(
        &self,
        source: [u8; 6],
        destination: [u8; 6],
        vlan: u16,
        port: PortId,
        now_s: u32,
    ) -> (LearnOutcome, Option<PortId>) {
        let mut table = self.lock();
        let outcome = self.learn_locked(&mut table, source, vlan, port, now_s);
        let found = table.find(key_of(destination, vlan)).map(|at| table.entries[at as usize].port);
        (outcome, found)
    }

    /// Notes that `mac` was seen as a source on `port`.
    pub fn learn(&self, mac: [u8; 6], vlan: u16, port: PortId, now_s: u32) -> LearnOutcome {
        self.learn_locked(&mut self.lock(), mac, vlan, port, now_s)
    }

    fn learn_locked(&self, table: &mut Table, mac: [u8; 6], vlan: u16, port: PortId, now_s: u32) -> LearnOutcome {
        let key = key_of(mac, vlan);
        let Some(at) = table.find(key) else {
            let Some(evicted) = table.make_room(port, &self.stamps, now_s) else { return LearnOutcome::Full };
            let Some(at) = table.insert(key, port, false, now_s) else { return LearnOutcome::Full };
            table.link(at, now_s);
            self.stamps[at as usize].store(now_s, Ordering::Relaxed);
            if evicted {
                self.invalidate();
            }
            return LearnOutcome::Here(at);
        };
        let entry = &mut table.entries[at as usize];
        if entry.port == port {
            self.stamps[at as usize].store(now_s, Ordering::Relaxed);
            return LearnOutcome::Here(at);
        }
        if entry.is_static {
            return LearnOutcome::Pinned;
        }
        if now_s < entry.held_until_s {
            return LearnOutcome::Loop { home: entry.port, elsewhere: port, detected: false };
        }
        if now_s.wrapping_sub(entry.window_s) >= FLAP_WINDOW_S {
            entry.window_s = now_s;
            entry.moves = 0;
            entry.home = entry.port;
        }
        entry.moves += 1;
        let looping = entry.moves >= FLAP_MOVES;
        let target = if looping { entry.home } else { port };
        // The move that proves the loop may well be the one back home.
        let elsewhere = if port == target { entry.port } else { port };
        if looping {
            entry.held_until_s = now_s + HOLD_S;
            entry.moves = 0;
        }
        table.unlink(at);
        table.entries[at as usize].port = target;
        table.link(at, now_s);
        self.stamps[at as usize].store(now_s, Ordering::Relaxed);
        self.invalidate();
        if looping { LearnOutcome::Loop { home: target, elsewhere, detected: true } } else { LearnOutcome::Moved(at) }
    }

    /// The port behind which `mac` is.
    #[must_use]
    pub fn lookup(&self, mac: [u8; 6], vlan: u16) -> Option<PortId> {
        let table = self.lock();
        table.find(key_of(mac, vlan)).map(|at| table.entries[at as usize].port)
    }

    /// Pins `mac` to `port`, replacing what was there. Returns false when the table is full of
    /// static entries.
    pub fn insert_static(&self, mac: [u8; 6], vlan: u16, port: PortId, now_s: u32) -> bool {
        let mut table = self.lock();
        let key = key_of(mac, vlan);
        if let Some(at) = table.find(key) {
            table.remove(at);
        }
        let at = table.insert(key, port, true, now_s).or_else(|| {
            table.make_room(port, &self.stamps, now_s)?;
            table.insert(key, port, true, now_s)
        });
        self.invalidate();
        at.is_some()
    }

    /// Removes the entries of `mac`, in one VLAN or in all; returns how many.
    pub fn remove(&self, mac: [u8; 6], vlan: Option<u16>) -> usize {
        self.remove_where(|_, entry| mac_of(entry.key) == mac && vlan.is_none_or(|vlan| entry.key == key_of(mac, vlan)))
    }

    /// Removes the learned entries, of one port or of all; returns how many.
    pub fn flush(&self, port: Option<PortId>) -> usize {
        self.remove_where(|_, entry| !entry.is_static && port.is_none_or(|port| entry.port == port))
    }

    /// Removes every entry of a port that goes; returns how many.
    pub fn remove_port(&self, port: PortId) -> usize {
        self.remove_where(|_, entry| entry.port == port)
    }

    /// Removes learned entries that were not seen for the ageing time; returns how many.
    pub fn sweep(&self, now_s: u32) -> usize {
        let ageing_s = {
            let table = self.lock();
            if table.learned == 0 {
                return 0;
            }
            table.limits.ageing_s
        };
        self.remove_where(|at, entry| {
            let seen_s = self.stamps[at as usize].load(Ordering::Relaxed);
            !entry.is_static && now_s.saturating_sub(seen_s) >= ageing_s
        })
    }

    fn remove_where(&self, which: impl Fn(u32, &Entry) -> bool) -> usize {
        let mut removed = 0;
        self.visit(|table, at| {
            let doomed = which(at, &table.entries[at as usize]);
            if doomed {
                table.remove(at);
                removed += 1;
            }
            doomed
        });
        removed
    }

    /// Shows `each` every entry, in chunks; `each` says whether it outdated an answer.
    fn visit(&self, mut each: impl FnMut(&mut Table, u32) -> bool) {
        let mut next = 0;
        loop {
            let mut table = self.lock();
            let end = table.entries.len().min(next + CHUNK_ENTRIES);
            let mut outdated = false;
            for at in next..end {
                if table.entries[at].key != FREE {
                    outdated |= each(&mut table, at as u32);
                }
            }
            if outdated {
                self.invalidate();
            }
            if end == table.entries.len() {
                return;
            }
            next = end;
        }
    }

    /// All entries, in no particular order.
    #[must_use]
    pub fn entries(&self) -> Vec<FdbRow> {
        let mut rows = Vec::with_capacity(self.len());
        self.visit(|table, at| {
            let entry = &table.entries[at as usize];
            rows.push(FdbRow {
                mac: mac_of(entry.key),
                vlan: (entry.key >> 48) as u16,
                port: entry.port,
                is_static: entry.is_static,
                last_seen_s: self.stamps[at as usize].load(Ordering::Relaxed),
            });
            false
        });
        rows
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().index.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[path = "fdb_tests.rs"]
mod tests;
