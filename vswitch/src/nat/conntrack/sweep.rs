//! The end of connections: those that have expired, and those that somebody wants gone.
//!
//! Theory of operation. Nothing is kept in order of its deadline, because deadlines move with each packet. A hand goes
//! round the slab instead, a bounded number of slots at a time, and looks at when each connection was last seen. The
//! cost per second is the same however many connections there are; what grows is the time of one round, by which a
//! connection may outlive its deadline: 17 seconds at a million, with [`SWEEP_BUDGET`] once per second. The times of the
//! RFCs are minima.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::PoisonError;
use std::sync::atomic::{Ordering, fence};

use super::super::cache::VALID_S;
use super::super::{Place, Tuple};
use super::Conntrack;
use super::entry::{Entry, Progress};
use super::mapping::{Endpoint, Owner};
use super::slab::{Kind, Slot, Tag};
use super::state::State;
use crate::wire::protocol;

/// Slots per second that make a round over a million connections short against the shortest of the timeouts.
pub const SWEEP_BUDGET: usize = 1 << 16;

/// Slots that are looked at for one that may be evicted.
const EVICTION_SLOTS: u32 = 64;

/// Seconds after which no worker has a flow in its cache that it has not seen: those of the cache, which begin with what
/// it says last of the flow, one in which it says so, and one because clocks are read at different times.
const UNCACHED_S: u32 = VALID_S + 2;

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Slots that were looked at.
    pub visited: usize,
    /// Connections that had expired.
    pub expired: usize,
}

/// Whether no worker translates packets of the connection without a look at the table.
fn is_uncached(slot: &Slot, tag: Tag, now_s: u32) -> bool {
    // With TCP, whose flows are cached when they are established, it follows from the state.
    let idle_s = now_s.saturating_sub(slot.last_seen_s.load(Ordering::Relaxed));
    tag.protocol == protocol::TCP || idle_s >= UNCACHED_S
}

/// Whether a connection may be forgotten before its time where there is no room for a new one: that is worse than what
/// its time is for.
///
/// - One that came from somebody who may have invented his address: to a published port, and not answered for.
///   Otherwise a flood of such ones would shut out everybody else for minutes.
/// - One of TCP that both sides have ended, or that was reset and has been silent since. It stays for four minutes (RFC
///   7857 section 2) in which a busy server would otherwise have no more than 273 connections per second, as Linux
///   lets such connections go early, too (`tcp_can_early_drop`). Where the external port is a mapping, only after no
///   worker has its old translation any more: the next connection from the same port may have another one.
fn gives_way(slot: &Slot, tag: Tag, progress: Progress, now_s: u32) -> bool {
    let is_silent = || now_s.saturating_sub(slot.last_seen_s.load(Ordering::Relaxed)) >= UNCACHED_S;
    match progress.state {
        State::Closing => !Entry::has_mapping(tag.flags) || is_silent(),
        State::Reset => is_silent(),
        state => Entry::has_published(tag.flags) && state.is_unproven() && is_uncached(slot, tag, now_s),
    }
}

impl Conntrack {
    /// Removes what has expired of the next `budget` slots, and frees at most as many external ports. For one caller at
    /// a time, who is the control plane.
    pub fn sweep(&self, now_s: u32, budget: usize) -> Swept {
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.slab.fresh();
        let visited = budget.min(fresh as usize);
        let mut expired = 0;
        for _ in 0..visited {
            if *hand >= fresh {
                *hand = 0;
            }
            expired += usize::from(self.expire(*hand, now_s));
            *hand += 1;
        }
        drop(hand);
        self.expire_held(now_s, budget);
        Swept { visited, expired }
    }

    pub(super) fn expire_held(&self, now_s: u32, budget: usize) {
        for mappings in &self.mappings {
            let mut mappings = mappings.lock().unwrap_or_else(PoisonError::into_inner);
            let until_s = self.held_until_s(now_s);
            mappings.expire(now_s, (budget, until_s), &*self.external_ports, |slot| self.slab.release(slot));
        }
    }

    /// Removes the connection in a slot if it has expired.
    fn expire(&self, at: u32, now_s: u32) -> bool {
        let tag = self.slab.slot(at).tag();
        tag.kind == Kind::Live && self.has_expired(at, tag, now_s) && self.remove(at, tag, Some(now_s), now_s)
    }

    fn has_expired(&self, at: u32, tag: Tag, now_s: u32) -> bool {
        let slot = self.slab.slot(at);
        Progress::read(slot, tag.generation).is_some_and(|progress| self.deadline_s(slot, tag, progress) <= now_s)
    }

    /// Removes the connection that a slot had when its tag was read; with `only_expired_at_s`, only if nobody has seen it
    /// since. Whether it was removed.
    pub(super) fn remove(&self, at: u32, tag: Tag, only_expired_at_s: Option<u32>, now_s: u32) -> bool {
        let slot = self.slab.slot(at);
        let Some(entry) = Entry::read(slot, tag).filter(|_| slot.is_still(tag)) else { return false };
        let hash = |tuple| self.index.hash(tuple);
        let mut both = self.index.lock_both(hash(&entry.original), hash(&entry.reply));
        if slot.tag() != tag {
            return false;
        }
        if let Some(now_s) = only_expired_at_s {
            slot.publish(Tag { kind: Kind::Dying, ..tag });
            // Against `track`: see the parent module's documentation.
            fence(Ordering::SeqCst);
            if !self.has_expired(at, tag, now_s) {
                slot.publish(tag);
                return false;
            }
        }
        both.remove(at);
        slot.retract();
        drop(both);
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.containers.give(entry.container);
        if entry.is_hairpin {
            self.containers.remove_hairpin(entry.reply.source);
        }
        self.unmap(&entry, (at, tag.generation), now_s);
        true
    }

    /// Makes room for a connection, of a container or of any, at the cost of one that [`gives_way`]. It is found among a
    /// bounded number of slots. The search goes on where the last one ended, so that of connections that come and go in
    /// great number those give way that were made first.
    pub(super) fn evict(&self, container: Option<IpAddr>, now_s: u32) -> bool {
        let fresh = self.slab.fresh().max(1);
        let start = self.victim.load(Ordering::Relaxed);
        let steps = EVICTION_SLOTS.min(fresh);
        let evicted = (0..steps).find(|step| {
            let at = start.wrapping_add(*step) % fresh;
            let Some(slot) = self.slab.get(at) else { return false };
            let tag = slot.tag();
            tag.kind == Kind::Live
                && Progress::read(slot, tag.generation).is_some_and(|progress| gives_way(slot, tag, progress, now_s))
                && Entry::read(slot, tag).is_some_and(|entry| container.is_none_or(|wanted| wanted == entry.container))
                && self.remove(at, tag, None, now_s)
        });
        // Two that search at the same time may begin at the same place, which costs them nothing but time.
        self.victim.store(start.wrapping_add(evicted.map_or(steps, |step| step + 1)), Ordering::Relaxed);
        self.evicted.fetch_add(u64::from(evicted.is_some()), Ordering::Relaxed);
        evicted.is_some()
    }

    /// Removes all connections for which `is_wanted_gone` holds; how many. What is made meanwhile may be passed over: by
    /// then nobody may want to make such connections any more, because every worker has seen the new configuration.
    fn purge(&self, now_s: u32, is_wanted_gone: impl Fn(&Entry) -> bool) -> usize {
        // A connection that the sweep is about to remove and then keeps must not be passed over.
        let _hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        let mut purged = 0;
        for at in 0..self.slab.fresh() {
            let slot = self.slab.slot(at);
            let tag = slot.tag();
            if tag.kind != Kind::Live {
                continue;
            }
            if Entry::read(slot, tag).is_some_and(|entry| is_wanted_gone(&entry)) {
                purged += usize::from(self.remove(at, tag, None, now_s));
            }
        }
        // Also when there was nothing: a connection may have been found by a worker and have expired since.
        self.epoch.fetch_add(1, Ordering::Release);
        purged
    }

    /// A container is gone: so are its connections, at either end, and nobody gets its mappings back.
    pub fn purge_container(&self, address: IpAddr, now_s: u32) -> usize {
        self.purge_containers(&HashSet::from([address]), now_s)
    }

    /// The same for several, in one round over the connections.
    pub fn purge_containers(&self, addresses: &HashSet<IpAddr>, now_s: u32) -> usize {
        let purged = self.purge(now_s, |entry| {
            [entry.container, entry.original.source, entry.reply.source].iter().any(|end| addresses.contains(end))
        });
        self.disown(now_s, |owner| addresses.contains(&owner.internal.address));
        addresses.iter().for_each(|address| self.containers.tidy(*address));
        purged
    }

    /// Forgets the connections of containers that are not there: those that went while no process looked after them.
    pub fn retain_containers(&self, is_there: impl Fn(IpAddr) -> bool, now_s: u32) -> usize {
        let purged = self.purge(now_s, |entry| !is_there(entry.container));
        self.disown(now_s, |owner| owner.place == Place::Container && !is_there(owner.internal.address));
        purged
    }

    /// Bridges have other numbers than when the connections were made: another process has given them.
    pub fn number_bridges(&self, number_of: impl Fn(IpAddr) -> Option<u16>) {
        for at in 0..self.slab.fresh() {
            let slot = self.slab.slot(at);
            let tag = slot.tag();
            if tag.kind == Kind::Live
                && let Some(number) = Entry::read(slot, tag).and_then(|entry| number_of(entry.container))
            {
                slot.bridge.store(u32::from(number), Ordering::Relaxed);
            }
        }
    }

    fn disown(&self, now_s: u32, is_gone: impl Fn(&Owner) -> bool) {
        for mappings in &self.mappings {
            let mut mappings = mappings.lock().unwrap_or_else(PoisonError::into_inner);
            mappings.disown(&is_gone, self.held_until_s(now_s), |slot| Entry::disown(self.slab.slot(slot)));
        }
    }

    /// Ports are not published any more: `first` to `last` of the host's address, or of all of them.
    pub fn purge_service(&self, protocol: u8, host: Option<IpAddr>, first: u16, last: u16, now_s: u32) -> usize {
        self.purge(now_s, |entry| {
            entry.is_published
                && entry.original.protocol == protocol
                && host.is_none_or(|host| host == entry.original.destination)
                && (first..=last).contains(&entry.original.destination_port)
        })
    }

    /// The same for all published ports for which `is_gone` holds, by protocol, host's address and port.
    pub fn purge_services(&self, is_gone: impl Fn(u8, IpAddr, u16) -> bool, now_s: u32) -> usize {
        self.purge(now_s, |entry| {
            let Tuple { protocol, destination, destination_port, .. } = entry.original;
            entry.is_published && is_gone(protocol, destination, destination_port)
        })
    }

    /// The host has lost an address.
    pub fn purge_external(&self, address: IpAddr, now_s: u32) -> usize {
        self.purge(now_s, |entry| {
            let is_mapped_to =
                |end: Option<(_, Endpoint, _)>| end.is_some_and(|(_, external, _)| external.address == address);
            let is_published_at = entry.is_published && entry.original.destination == address;
            is_published_at || entry.mapped().into_iter().any(is_mapped_to)
        })
    }

    /// Forgets the connections of a bridge's containers, or all; how many there were.
    pub fn flush(&self, bridge: Option<u16>, now_s: u32) -> usize {
        self.purge(now_s, |entry| bridge.is_none_or(|bridge| bridge == entry.bridge))
    }
}
