//! What each container has of the table: its connections are limited, and its hairpins are counted for its port.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many maps; a power of two.
const SHARDS: usize = 16;

#[derive(Debug, Default)]
struct Usage {
    connections: u32,
    /// Hairpins to the container.
    hairpins: u32,
    /// Who wants to know that number.
    counter: Option<Arc<AtomicU32>>,
}

impl Usage {
    /// Whether there is nothing to know: no connections, and nobody else who has the counter.
    fn is_idle(&self) -> bool {
        let is_awaited = self.counter.as_ref().is_some_and(|counter| Arc::strong_count(counter) > 1);
        self.connections == 0 && self.hairpins == 0 && !is_awaited
    }
}

type Shard = HashMap<IpAddr, Usage, foldhash::fast::RandomState>;

/// The usage of all containers, by address. No other lock is taken under one of its locks.
#[derive(Debug)]
pub(super) struct Containers {
    hasher: foldhash::fast::RandomState,
    shards: Box<[Mutex<Shard>]>,
}

impl Containers {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { hasher: foldhash::fast::RandomState::default(), shards }
    }

    fn lock(&self, container: IpAddr) -> MutexGuard<'_, Shard> {
        let shard = self.hasher.hash_one(container) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection of a container, if it may have one.
    pub(super) fn take(&self, container: IpAddr, limit: u32) -> bool {
        let mut shard = self.lock(container);
        let connections = shard.get(&container).map_or(0, |usage| usage.connections);
        if connections >= limit {
            return false;
        }
        shard.entry(container).or_default().connections = connections + 1;
        true
    }

    /// Counts one connection less.
    pub(super) fn give(&self, container: IpAddr) {
        self.change(container, |usage| usage.connections = usage.connections.saturating_sub(1));
    }

    /// Counts one more hairpin to a container.
    pub(super) fn add_hairpin(&self, container: IpAddr) {
        self.change(container, |usage| {
            usage.hairpins += 1;
            usage.counter.iter().for_each(|counter| _ = counter.fetch_add(1, Ordering::Relaxed));
        });
    }

    /// Counts one hairpin less.
    pub(super) fn remove_hairpin(&self, container: IpAddr) {
        self.change(container, |usage| {
            usage.hairpins = usage.hairpins.saturating_sub(1);
            usage.counter.iter().for_each(|counter| _ = counter.fetch_sub(1, Ordering::Relaxed));
        });
    }

    /// Adds the number of hairpins to a container, now and as it changes, to `counter`; takes it back from the one
    /// before.
    pub(super) fn share_hairpins(&self, container: IpAddr, counter: Option<Arc<AtomicU32>>) {
        self.change(container, |usage| {
            // Not even for a moment may it be zero while there are hairpins.
            if let (Some(old), Some(new)) = (&usage.counter, &counter)
                && Arc::ptr_eq(old, new)
            {
                return;
            }
            usage.counter.iter().for_each(|old| _ = old.fetch_sub(usage.hairpins, Ordering::Relaxed));
            counter.iter().for_each(|new| _ = new.fetch_add(usage.hairpins, Ordering::Relaxed));
            usage.counter = counter;
        });
    }

    /// Forgets a container that nobody asks about any more.
    pub(super) fn tidy(&self, container: IpAddr) {
        self.change(container, |_| {});
    }

    fn change(&self, container: IpAddr, change: impl FnOnce(&mut Usage)) {
        let mut shard = self.lock(container);
        let usage = shard.entry(container).or_default();
        change(usage);
        if usage.is_idle() {
            shard.remove(&container);
        }
    }

    /// The connections of a container.
    pub(super) fn connections(&self, container: IpAddr) -> u32 {
        self.lock(container).get(&container).map_or(0, |usage| usage.connections)
    }
}
