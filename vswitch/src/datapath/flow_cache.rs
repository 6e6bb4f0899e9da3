//! A worker's own table of decided flows: the hit path's only table.
//!
//! Theory of operation: a power-of-two array of two-way buckets, one cache line each. A lookup
//! touches that line and nothing else; the caller prefetches the lines of a whole burst before it
//! looks the first one up, so that the misses of the CPU's caches overlap. There is no removal: an
//! entry is valid while the epoch it carries is its bridge's (see [`super::fdb`]), and dead entries
//! are overwritten. Of two living entries in a bucket the second one goes, and a hit in the second
//! place moves nothing, so a flow that keeps being hit is lost only to a newer colliding flow and
//! comes back at the cost of one resolve.
//!
//! The table is as large as [`FLOWS_MAX`]; its pages are mapped when flows touch them. That holds
//! only for allocations of ordinary alignment (for others the standard library writes the zeros), so
//! the buckets are aligned to cache lines by hand.

// Saying that zeros are dead entries.
#![allow(unsafe_code)]

use super::flow::{Actions, FlowKey};
use crate::prefetch::prefetch;

/// The number of flows that a worker remembers at most: 16 MB of address space.
pub const FLOWS_MAX: usize = 1 << 19;

const WAYS: usize = 2;
const BUCKETS: usize = FLOWS_MAX / WAYS;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Entry {
    key: FlowKey,
    /// 0 is no bridge's epoch: a zeroed entry is dead.
    epoch: u64,
    actions: Actions,
    /// The source's stamp in the bridge's forwarding database.
    stamp: u32,
}

const LINE_BYTES: usize = 64;
const _: () = assert!(size_of::<Entry>() * WAYS == LINE_BYTES, "a bucket is a cache line");

/// What a living entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// What to do with the frame.
    pub actions: Actions,
    /// The stamp to refresh.
    pub stamp: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct FlowCache {
    entries: Box<[Entry]>,
    /// The first entry that starts a cache line.
    first: usize,
    seed: u64,
}

impl FlowCache {
    /// An empty cache whose hash is mixed with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // SAFETY: all fields of an entry are integers, for which all zero bytes are valid.
        let entries = unsafe { Box::<[Entry]>::new_zeroed_slice(FLOWS_MAX + WAYS).assume_init() };
        let first = entries.as_ptr().align_offset(LINE_BYTES).min(WAYS);
        Self { entries, first, seed }
    }

    /// The index of the first entry of the flow's bucket.
    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        self.first + (hash as usize & (BUCKETS - 1)) * WAYS
    }

    /// The key's hash, for the other calls.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: FlowKey) -> u64 {
        key.hash(self.seed)
    }

    /// Asks the CPU to have the flow's line ready soon.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.entries[self.bucket(hash)]);
    }

    /// What was decided for the flow under `epoch`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, hash: u64, key: FlowKey, epoch: u64) -> Option<Hit> {
        self.entries[self.bucket(hash)..][..WAYS]
            .iter()
            .find(|entry| entry.key == key && entry.epoch == epoch)
            .map(|entry| Hit { actions: entry.actions, stamp: entry.stamp })
    }

    /// Remembers a decision made under `epoch`.
    pub fn insert(&mut self, hash: u64, key: FlowKey, epoch: u64, hit: Hit) {
        let at = self.bucket(hash);
        let [first, second] = &mut self.entries[at..][..WAYS] else { return };
        let new = Entry { key, epoch, actions: hit.actions, stamp: hit.stamp };
        // In place where it is already, so that a flow never has two entries.
        if second.key == key || (first.key != key && first.epoch == epoch) {
            *second = new;
        } else {
            *first = new;
        }
    }
}

#[cfg(test)]
#[path = "flow_cache_tests.rs"]
mod tests;
