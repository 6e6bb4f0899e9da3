//! The mappings of one protocol and family: which external endpoint stands for which internal one.
//!
//! Theory of operation. A mapping lives as long as a connection uses it. It is found by its internal endpoint, so that
//! all connections from there share it (endpoint-independent mapping: RFC 4787 REQ-1, RFC 5382 REQ-1), and by its
//! external one, for what comes in. The external address is the caller's choice, the same for all of a container's
//! endpoints ("paired" pooling, REQ-2). Two mappings never have the same external endpoint (no overloading, REQ-3).
//!
//! Who may come in through a mapping is in `filtering`.
//!
//! When the last connection of a mapping ends, the mapping is *held*: its own internal endpoint gets it back, and
//! nobody else gets its port, until the time of RFC 6888 REQ-8 is over; only TCP's, whose sessions are tracked, are given
//! out before when there are no others (REQ-8a).
//!
//! Mappings of UDP, TCP, SCTP and ICMP, of IPv4
//! and IPv6, have nothing to do with one another (RFC 7857 section 5): each has its own [`Mappings`] and lock, under
//! which no other lock is taken.

mod held;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::HashTable;

use super::super::{ExternalPorts, Place};
use super::connection::Refusal;
use super::filtering::Filtering;
use super::ports::{Choice, Chooser};
use super::slab::NIL;
use crate::bpf::Flow;

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// Who has a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) internal: Endpoint,
    pub(super) place: Place,
    pub(super) bridge: u16,
}

#[derive(Debug, Clone, Copy)]
struct Mapping {
    /// None for a held mapping whose owner is gone for good.
    owner: Option<Owner>,
    external: Endpoint,
    connections: u32,
    /// While held: until when, in seconds.
    held_until_s: u32,
    /// While held: the slot that keeps it over a restart.
    kept_by: u32,
}

/// Why nothing may come in through an external endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Nobody has it.
    NoMapping,
    /// Who has it never sent to that address.
    Filtered,
}

/// What taking part in a mapping gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acquired {
    pub(super) external: Endpoint,
    /// The slot that kept the mapping while it was held, which nobody needs any more.
    pub(super) no_longer_kept_by: Option<u32>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Mappings {
    flow: Flow,
    is_v6: bool,
    hasher: foldhash::fast::RandomState,
    slab: Vec<Mapping>,
    free: Vec<u32>,
    by_internal: HashTable<u32>,
    by_external: HashTable<u32>,
    filtering: Filtering,
    /// Mappings that were held, in the order in which their time is over.
    held: VecDeque<(u32, u32)>,
    /// How many external addresses use a port: what [`ExternalPorts`] is told once.
    uses: HashMap<u16, u32>,
    /// How many mappings an internal address has, held ones included.
    owned: HashMap<IpAddr, u32>,
    owned_max: u32,
    chooser: Chooser,
    live: u32,
}

impl Mappings {
    pub(super) fn new(flow: Flow, is_v6: bool, owned_max: u32, chooser: Chooser) -> Self {
        Self {
            flow,
            is_v6,
            hasher: foldhash::fast::RandomState::default(),
            slab: Vec::new(),
            free: Vec::new(),
            by_internal: HashTable::new(),
            by_external: HashTable::new(),
            filtering: Filtering::new(),
            held: VecDeque::new(),
            uses: HashMap::new(),
            owned: HashMap::new(),
            owned_max,
            chooser,
            live: 0,
        }
    }

    /// Mappings that connections use.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Mappings that nobody uses, but whose ports are kept.
    pub(super) fn held(&self) -> u32 {
        (self.slab.len() - self.free.len()) as u32 - self.live
    }

    /// Lets a connection with `remote` take part in the mapping of `owner` at `address`, which is made if there is
    /// none.
    pub(super) fn acquire(
        &mut self,
        owner: Owner,
        address: IpAddr,
        remote: IpAddr,
        ports: &dyn ExternalPorts,
        now_s: u32,
    ) -> Result<Acquired, Refusal> {
        let (id, reclaimed) = self.find_or_make(owner, address, ports, now_s)?;
        let acquired = self.join(id, remote);
        Ok(Acquired { no_longer_kept_by: acquired.no_longer_kept_by.or(reclaimed), ..acquired })
    }

    /// Lets `remote` use the mapping of `owner` until `until_s`, because it was sent to: see `filtering`.
    pub(super) fn attempt(
        &mut self,
        owner: Owner,
        address: IpAddr,
        (remote, until_s): (IpAddr, u32),
        ports: &dyn ExternalPorts,
        now_s: u32,
    ) -> Option<Acquired> {
        let (id, reclaimed) = self.find_or_make(owner, address, ports, now_s).ok()?;
        if !self.filtering.attempt(id, remote, until_s) {
            return None;
        }
        let acquired = self.join(id, remote);
        Some(Acquired { no_longer_kept_by: acquired.no_longer_kept_by.or(reclaimed), ..acquired })
    }

    /// The mapping of `owner`, and the slot that kept the one whose port it got.
    fn find_or_make(
        &mut self,
        owner: Owner,
        address: IpAddr,
        ports: &dyn ExternalPorts,
        now_s: u32,
    ) -> Result<(u32, Option<u32>), Refusal> {
        if let Some(id) = self.find_internal(owner.internal, address) {
            self.slab[id as usize].owner = Some(owner);
            return Ok((id, None));
        }
        if self.owned.get(&owner.internal.address).is_some_and(|&owned| owned >= self.owned_max) {
            return Err(Refusal::ContainerLimit);
        }
        let chosen = self.choose(owner.internal, address, ports, now_s).map(|port| (port, None));
        let (port, reclaimed) = chosen.or_else(|| self.reclaim(address, ports)).ok_or(Refusal::PortsExhausted)?;
        Ok((self.make(Some(owner), Endpoint { address, port }, ports), reclaimed))
    }

    /// As [`Self::acquire`], with the external port of a connection that was restored; nothing if that contradicts
    /// what is there or the port is not free.
    pub(super) fn restore(
        &mut self,
        owner: Owner,
        external: Endpoint,
        remote: IpAddr,
        ports: &dyn ExternalPorts,
    ) -> Option<Acquired> {
        let id = self.restored(owner, external, ports)?;
        Some(self.join(id, remote))
    }

    fn restored(&mut self, owner: Owner, external: Endpoint, ports: &dyn ExternalPorts) -> Option<u32> {
        let by_internal = self.find_internal(owner.internal, external.address);
        match (self.find_external(external), by_internal) {
            (Some(one), Some(other)) if one == other => Some(one),
            (None, None) if self.may_take(external.port, ports) => Some(self.make(Some(owner), external, ports)),
            _ => None,
        }
    }

    /// Whether a port is one that this or another address uses already, or may use.
    fn may_take(&self, port: u16, ports: &dyn ExternalPorts) -> bool {
        port != 0 && (self.uses.contains_key(&port) || ports.is_free(self.flow, self.is_v6, port))
    }

    /// Lets a connection from `remote` come in at `external`: who it is for.
    pub(super) fn admit(&mut self, external: Endpoint, remote: IpAddr) -> Result<Owner, Closed> {
        let id = self.find_external(external).ok_or(Closed::NoMapping)?;
        let Mapping { owner, connections, .. } = self.slab[id as usize];
        let owner = owner.filter(|owner| owner.place == Place::Container && connections > 0);
        let owner = owner.ok_or(Closed::NoMapping)?;
        if !self.filtering.has(id, remote) {
            return Err(Closed::Filtered);
        }
        self.join(id, remote);
        Ok(owner)
    }

    /// A connection with `remote` ends. `kept_by` is its slot, which keeps the mapping over a restart if it was the
    /// last one: returns whether it does.
    pub(super) fn release(&mut self, external: Endpoint, remote: IpAddr, kept_by: u32, until_s: u32) -> bool {
        let Some(id) = self.find_external(external) else { return false };
        self.leave(id, remote, kept_by, until_s)
    }

    fn leave(&mut self, id: u32, remote: IpAddr, kept_by: u32, until_s: u32) -> bool {
        self.filtering.remove(id, remote);
        let mapping = &mut self.slab[id as usize];
        mapping.connections = mapping.connections.saturating_sub(1);
        if mapping.connections > 0 {
            return false;
        }
        self.live -= 1;
        self.hold(id, kept_by, until_s);
        true
    }

    fn join(&mut self, id: u32, remote: IpAddr) -> Acquired {
        let mapping = &mut self.slab[id as usize];
        let kept_by = std::mem::replace(&mut mapping.kept_by, NIL);
        mapping.held_until_s = 0;
        if mapping.connections == 0 {
            self.live += 1;
        }
        mapping.connections += 1;
        let external = mapping.external;
        self.filtering.add(id, remote);
        Acquired { external, no_longer_kept_by: (kept_by != NIL).then_some(kept_by) }
    }

    fn make(&mut self, owner: Option<Owner>, external: Endpoint, ports: &dyn ExternalPorts) -> u32 {
        let mapping = Mapping { owner, external, connections: 0, held_until_s: 0, kept_by: NIL };
        let id = match self.free.pop() {
            Some(id) => {
                self.slab[id as usize] = mapping;
                id
            }
            None => {
                self.slab.push(mapping);
                self.slab.len() as u32 - 1
            }
        };
        let (slab, hasher) = (&self.slab, &self.hasher);
        let rehash_external = |&id: &u32| hasher.hash_one(slab[id as usize].external);
        self.by_external.insert_unique(hasher.hash_one(external), id, rehash_external);
        let rehash_internal = |&id: &u32| {
            let mapping = &slab[id as usize];
            // Only mappings with an owner are in this table.
            hasher.hash_one((mapping.owner.map(|owner| owner.internal), mapping.external.address))
        };
        if let Some(owner) = owner {
            let hash = hasher.hash_one((Some(owner.internal), external.address));
            self.by_internal.insert_unique(hash, id, rehash_internal);
            *self.owned.entry(owner.internal.address).or_default() += 1;
        }
        let uses = self.uses.entry(external.port).or_default();
        *uses += 1;
        if *uses == 1 {
            ports.take(self.flow, self.is_v6, external.port);
        }
        id
    }

    fn unmake(&mut self, id: u32, ports: &dyn ExternalPorts) {
        let Mapping { owner, external, .. } = self.slab[id as usize];
        if let Ok(found) = self.by_external.find_entry(self.hasher.hash_one(external), |&other| other == id) {
            found.remove();
        }
        if let Some(owner) = owner {
            self.forget_internal(id, owner, external.address);
        }
        self.slab[id as usize].held_until_s = 0;
        self.free.push(id);
        self.chooser.freed();
        if let Some(uses) = self.uses.get_mut(&external.port) {
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&external.port);
                ports.release(self.flow, self.is_v6, external.port);
            }
        }
    }

    fn forget_internal(&mut self, id: u32, owner: Owner, address: IpAddr) {
        let hash = self.hash_internal(owner.internal, address);
        if let Ok(found) = self.by_internal.find_entry(hash, |&other| other == id) {
            found.remove();
        }
        if let Some(owned) = self.owned.get_mut(&owner.internal.address) {
            *owned -= 1;
            if *owned == 0 {
                self.owned.remove(&owner.internal.address);
            }
        }
    }

    fn choose(&mut self, internal: Endpoint, address: IpAddr, ports: &dyn ExternalPorts, now_s: u32) -> Option<u16> {
        let (flow, is_v6) = (self.flow, self.is_v6);
        let (by_external, slab, hasher) = (&self.by_external, &self.slab, &self.hasher);
        let is_unused = |port: u16| {
            let external = Endpoint { address, port };
            let hash = hasher.hash_one(external);
            by_external.find(hash, |&id| slab[id as usize].external == external).is_none()
                && ports.is_free(flow, is_v6, port)
        };
        self.chooser.choose(&Choice { flow, internal, address, now_s }, is_unused)
    }

    fn hash_internal(&self, internal: Endpoint, address: IpAddr) -> u64 {
        self.hasher.hash_one((Some(internal), address))
    }

    fn find_internal(&self, internal: Endpoint, address: IpAddr) -> Option<u32> {
        let is_it = |&id: &u32| {
            let mapping = &self.slab[id as usize];
            mapping.external.address == address && mapping.owner.is_some_and(|owner| owner.internal == internal)
        };
        self.by_internal.find(self.hash_internal(internal, address), is_it).copied()
    }

    fn find_external(&self, external: Endpoint) -> Option<u32> {
        let is_it = |&id: &u32| self.slab[id as usize].external == external;
        self.by_external.find(self.hasher.hash_one(external), is_it).copied()
    }
}
