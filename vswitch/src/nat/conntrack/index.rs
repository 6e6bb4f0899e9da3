//! Where the connections are found: by the tuple of either direction.
//!
//! Theory of operation. Each connection is in the index twice, once per direction. The index is cut into
//! [`SHARDS`] hash tables, each behind its own mutex; a direction's shard is chosen by the tuple's hash, so that the two
//! directions of a connection are in two shards as a rule. Finding takes one lock; adding and removing a connection
//! takes the locks of both directions, **the lower shard first**, and no other lock is taken under them.
//!
//! An entry has half of the tuple's hash beside the connection's handle: tables grow without a look at the slots, and
//! few slots are looked at in vain.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use super::super::Tuple;
use super::Direction;

/// How many tables; a power of two.
const SHARDS: usize = 256;

/// A slot and a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(u32);

impl Handle {
    #[inline]
    pub(super) fn new(slot: u32, direction: Direction) -> Self {
        Self(slot << 1 | direction as u32)
    }

    #[inline]
    pub(super) fn from_number(number: u32) -> Self {
        Self(number)
    }

    #[inline]
    pub(super) fn number(self) -> u32 {
        self.0
    }

    #[inline]
    pub(super) fn slot(self) -> u32 {
        self.0 >> 1
    }

    #[inline]
    pub(super) fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }
}

/// The hash of a tuple: one half chooses the shard, the other is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash {
    shard: u16,
    kept: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    handle: Handle,
    hash: u32,
}

/// Spreads the kept half over the bits that the hash table looks at: the lowest and the highest.
#[inline]
fn spread(kept: u32) -> u64 {
    u64::from(kept).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(kept)
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Index {
    hasher: foldhash::fast::RandomState,
    shards: Box<[CachePadded<Mutex<HashTable<Entry>>>]>,
}

impl Index {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| CachePadded::default()).collect();
        Self { hasher: foldhash::fast::RandomState::default(), shards }
    }

    #[inline]
    pub(super) fn hash(&self, tuple: &Tuple) -> Hash {
        let mut hasher = self.hasher.build_hasher();
        let rest = u64::from(tuple.source_port) << 24 | u64::from(tuple.destination_port) << 8;
        match (tuple.source, tuple.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                hasher.write_u64(u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()));
            }
            (source, destination) => {
                for address in [source, destination] {
                    let bits = match address {
                        IpAddr::V4(address) => u128::from(address.to_bits()),
                        IpAddr::V6(address) => address.to_bits(),
                    };
                    hasher.write_u64((bits >> 64) as u64);
                    hasher.write_u64(bits as u64);
                }
            }
        }
        hasher.write_u64(rest | u64::from(tuple.protocol));
        let hash = hasher.finish();
        Hash { shard: (hash >> 32) as u16 % SHARDS as u16, kept: hash as u32 ^ (hash >> 40) as u32 }
    }

    /// Runs `use_it` with the handle for which `is_it` holds, under the lock that keeps the connection in place.
    #[inline]
    pub(super) fn find<T>(
        &self,
        hash: Hash,
        mut is_it: impl FnMut(Handle) -> bool,
        use_it: impl FnOnce(Handle) -> T,
    ) -> Option<T> {
        let shard = self.lock(hash.shard);
        let found = shard.find(spread(hash.kept), |entry| entry.hash == hash.kept && is_it(entry.handle))?;
        Some(use_it(found.handle))
    }

    fn lock(&self, shard: u16) -> MutexGuard<'_, HashTable<Entry>> {
        self.shards[usize::from(shard)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the shards of both directions of a connection.
    pub(super) fn lock_both(&self, original: Hash, reply: Hash) -> Both<'_> {
        let low = self.lock(original.shard.min(reply.shard));
        let high = (original.shard != reply.shard).then(|| self.lock(original.shard.max(reply.shard)));
        Both { hashes: [original, reply], is_original_high: original.shard > reply.shard, low, high }
    }
}

/// The shards of both directions of a connection, locked.
pub(super) struct Both<'a> {
    hashes: [Hash; 2],
    is_original_high: bool,
    low: MutexGuard<'a, HashTable<Entry>>,
    high: Option<MutexGuard<'a, HashTable<Entry>>>,
}

impl Both<'_> {
    fn shard(&mut self, direction: Direction) -> (&mut HashTable<Entry>, Hash) {
        let is_high = (direction == Direction::Original) == self.is_original_high;
        let hash = self.hashes[direction as usize];
        match &mut self.high {
            Some(high) if is_high => (high, hash),
            _ => (&mut self.low, hash),
        }
    }

    /// The handle in the direction's shard for which `is_it` holds.
    pub(super) fn find(&mut self, direction: Direction, mut is_it: impl FnMut(Handle) -> bool) -> Option<Handle> {
        let (shard, hash) = self.shard(direction);
        let found = shard.find(spread(hash.kept), |entry| entry.hash == hash.kept && is_it(entry.handle))?;
        Some(found.handle)
    }

    /// Adds both directions of `slot`.
    pub(super) fn insert(&mut self, slot: u32) {
        for direction in [Direction::Original, Direction::Reply] {
            let (shard, hash) = self.shard(direction);
            let entry = Entry { handle: Handle::new(slot, direction), hash: hash.kept };
            shard.insert_unique(spread(hash.kept), entry, |entry| spread(entry.hash));
        }
    }

    /// Removes both directions of `slot`.
    pub(super) fn remove(&mut self, slot: u32) {
        for direction in [Direction::Original, Direction::Reply] {
            let (shard, hash) = self.shard(direction);
            let handle = Handle::new(slot, direction);
            if let Ok(found) = shard.find_entry(spread(hash.kept), |entry| entry.handle == handle) {
                found.remove();
            }
        }
    }
}
