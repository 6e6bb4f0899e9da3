//! The connections as people see them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use super::super::{Place, Tuple};
use super::Conntrack;
use super::connection::Refusal;
use super::entry::{Entry, Progress};
use super::slab::Kind;
use super::state::State;

/// The slots that one [page](Conntrack::page) looks at: 8 MB of memory, so that a page is made in a few milliseconds
/// however few connections a filter has.
const PAGE_SLOTS: u32 = 1 << 16;

/// Which connections are shown; all by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only those of this bridge's containers.
    pub bridge: Option<u16>,
    /// Only those that have this container at either end.
    pub container: Option<IpAddr>,
    /// Only those of this IP protocol.
    pub protocol: Option<u8>,
}

impl Filter {
    fn has(&self, entry: &Entry) -> bool {
        let ends = [entry.container, entry.original.source, entry.reply.source];
        self.bridge.is_none_or(|bridge| bridge == entry.bridge)
            && self.container.is_none_or(|container| ends.contains(&container))
            && self.protocol.is_none_or(|protocol| protocol == entry.original.protocol)
    }
}

/// A connection as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// As the initiator sends.
    pub original: Tuple,
    /// As the responder answers.
    pub reply: Tuple,
    /// Where the initiator is.
    pub origin: Place,
    /// Where the responder is.
    pub responder: Place,
    /// Whose connection it is.
    pub container: IpAddr,
    /// The container's bridge.
    pub bridge: u16,
    /// What it has come to.
    pub state: State,
    /// When it ends unless something happens, in seconds from now.
    pub timeout_s: u32,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections, those included whose time is over and that were not swept yet.
    pub connections: u32,
    /// External ports that connections use.
    pub mappings: u32,
    /// External ports that are kept from others after their use.
    pub held: u32,
    /// Connections that gave way to others: to published ports, from addresses that may be invented.
    pub evicted: u64,
    /// What was refused, by the refusal's number.
    pub refused: [u64; Refusal::ALL.len()],
}

impl Counts {
    /// How often something was refused for this reason.
    #[must_use]
    pub fn refused_for(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize]
    }
}

impl Conntrack {
    /// Calls `each` with the connections that `filter` has. It takes no lock: what is made or removed meanwhile may be
    /// among them or not.
    pub fn for_each(&self, filter: &Filter, now_s: u32, each: impl FnMut(Connection)) {
        (0..self.slab.fresh()).filter_map(|at| self.shown(at, filter, now_s)).for_each(each);
    }

    /// At most `max` of the connections that `filter` has, from `cursor` on, which is 0 for the first ones; and the
    /// cursor of the others, none at the end. A page may have fewer, or none, and not be the last one. A connection
    /// that stays is met once, however long that takes.
    #[must_use]
    pub fn page(&self, filter: &Filter, cursor: u32, max: usize, now_s: u32) -> (Vec<Connection>, Option<u32>) {
        let mut page = Vec::new();
        for at in cursor..self.slab.fresh() {
            if page.len() >= max || at - cursor >= PAGE_SLOTS {
                return (page, Some(at));
            }
            page.extend(self.shown(at, filter, now_s));
        }
        (page, None)
    }

    /// The connection in a slot, if there is one that `filter` has.
    fn shown(&self, at: u32, filter: &Filter, now_s: u32) -> Option<Connection> {
        let slot = self.slab.slot(at);
        let tag = slot.tag();
        if tag.kind != Kind::Live {
            return None;
        }
        let entry = Entry::read(slot, tag)?;
        let progress = Progress::read(slot, tag.generation)?;
        let deadline_s = self.deadline_s(slot, tag, progress);
        if deadline_s <= now_s || !slot.is_still(tag) || !filter.has(&entry) {
            return None;
        }
        let Entry { original, reply, origin, responder, container, bridge, .. } = entry;
        let (state, timeout_s) = (progress.state, deadline_s - now_s);
        Some(Connection { original, reply, origin, responder, container, bridge, state, timeout_s })
    }

    /// The connections that `filter` has, in no order.
    #[must_use]
    pub fn list(&self, filter: &Filter, now_s: u32) -> Vec<Connection> {
        let mut list = Vec::new();
        self.for_each(filter, now_s, |connection| list.push(connection));
        list
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { connections: self.connections.load(Ordering::Relaxed), ..Counts::default() };
        for mappings in &self.mappings {
            let mappings = mappings.lock().unwrap_or_else(PoisonError::into_inner);
            counts.mappings += mappings.live();
            counts.held += mappings.held();
        }
        counts.evicted = self.evicted.load(Ordering::Relaxed);
        for (count, refused) in counts.refused.iter_mut().zip(&self.refused) {
            *count = refused.load(Ordering::Relaxed);
        }
        counts
    }

    /// How many connections a container has.
    #[must_use]
    pub fn connections_of(&self, container: IpAddr) -> u32 {
        self.containers.connections(container)
    }

    /// Adds the number of hairpin connections to a container, now and as it changes, to `counter`, until another
    /// counter or none takes its place. One counter may stand for all addresses of a port.
    pub fn share_hairpins(&self, container: IpAddr, counter: Option<Arc<AtomicU32>>) {
        self.containers.share_hairpins(container, counter);
    }
}
