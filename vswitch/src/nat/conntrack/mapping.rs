//! The mappings of one protocol and family: which external endpoint stands for which internal one.
//!
//! Theory of operation. A mapping lives as long as a connection uses it. It is found by its internal endpoint, so that
//! all connections from there share it (endpoint-independent mapping: RFC 4787 REQ-1, RFC 5382 REQ-1), and by its
//! external one, for what comes in. The external address is the caller's choice, the same for all of a container's
//! endpoints ("paired" pooling, REQ-2). Two mappings never have the same external endpoint (no overloading, REQ-3).
//!
//! Who may come in through a mapping is counted by remote address: whoever some connection of the mapping is with
//! (address-dependent filtering, REQ-8).
//!
//! When the last connection of a mapping ends, the mapping is *held*: its own internal endpoint gets it back, and
//! nobody else gets its port, until the time of RFC 6888 REQ-8 is over. Mappings of UDP, TCP, SCTP and ICMP, of IPv4
//! and IPv6, have nothing to do with one another (RFC 7857 section 5): each has its own [`Mappings`] and lock, under
//! which no other lock is taken.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::HashTable;

use super::super::{ExternalPorts, Place};
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

/// How many connections of a mapping are with a remote address.
#[derive(Debug, Clone, Copy)]
struct Peer {
    mapping: u32,
    connections: u32,
    remote: IpAddr,
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
    peers: HashTable<Peer>,
    /// Mappings that were held, in the order in which their time is over.
    held: VecDeque<(u32, u32)>,
    /// How many external addresses use a port: what [`ExternalPorts`] is told once.
    uses: HashMap<u16, u32>,
    chooser: Chooser,
    live: u32,
}

impl Mappings {
    pub(super) fn new(flow: Flow, is_v6: bool, chooser: Chooser) -> Self {
        Self {
            flow,
            is_v6,
            hasher: foldhash::fast::RandomState::default(),
            slab: Vec::new(),
            free: Vec::new(),
            by_internal: HashTable::new(),
            by_external: HashTable::new(),
            peers: HashTable::new(),
            held: VecDeque::new(),
            uses: HashMap::new(),
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
    /// none; nothing if there is no port for it.
    pub(super) fn acquire(
        &mut self,
        owner: Owner,
        address: IpAddr,
        remote: IpAddr,
        ports: &dyn ExternalPorts,
        now_s: u32,
    ) -> Option<Acquired> {
        let id = match self.find_internal(owner.internal, address) {
            Some(id) => id,
            None => {
                let port = self.choose(owner.internal, address, ports, now_s)?;
                self.make(owner, Endpoint { address, port }, ports)
            }
        };
        self.slab[id as usize].owner = Some(owner);
        Some(self.join(id, remote))
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

    /// Keeps a restored mapping from others until `until_s`; whether that is possible.
    pub(super) fn restore_held(
        &mut self,
        owner: Owner,
        external: Endpoint,
        kept_by: u32,
        until_s: u32,
        ports: &dyn ExternalPorts,
    ) -> bool {
        if self.find_external(external).is_some() || self.find_internal(owner.internal, external.address).is_some() {
            return false;
        }
        let Some(id) = self.restored(owner, external, ports) else { return false };
        self.hold(id, kept_by, until_s);
        true
    }

    fn restored(&mut self, owner: Owner, external: Endpoint, ports: &dyn ExternalPorts) -> Option<u32> {
        let (by_external, by_internal) =
            (self.find_external(external), self.find_internal(owner.internal, external.address));
        match (by_external, by_internal) {
            (Some(one), Some(other)) if one == other => Some(one),
            (None, None) if external.port != 0 && ports.is_free(self.flow, self.is_v6, external.port) => {
                Some(self.make(owner, external, ports))
            }
            _ => None,
        }
    }

    /// Lets a connection from `remote` come in at `external`: who it is for.
    pub(super) fn admit(&mut self, external: Endpoint, remote: IpAddr) -> Result<Owner, Closed> {
        let id = self.find_external(external).ok_or(Closed::NoMapping)?;
        let Mapping { owner, connections, .. } = self.slab[id as usize];
        let owner = owner.filter(|owner| owner.place == Place::Container && connections > 0);
        let owner = owner.ok_or(Closed::NoMapping)?;
        if self.find_peer(id, remote).is_none() {
            return Err(Closed::Filtered);
        }
        self.join(id, remote);
        Ok(owner)
    }

    /// A connection with `remote` ends. `kept_by` is its slot, which keeps the mapping over a restart if it was the
    /// last one: returns whether it does.
    pub(super) fn release(&mut self, external: Endpoint, remote: IpAddr, kept_by: u32, until_s: u32) -> bool {
        let Some(id) = self.find_external(external) else { return false };
        let hash = self.hash_peer(id, remote);
        if let Ok(mut found) = self.peers.find_entry(hash, |peer| peer.mapping == id && peer.remote == remote) {
            found.get_mut().connections -= 1;
            if found.get().connections == 0 {
                found.remove();
            }
        }
        let mapping = &mut self.slab[id as usize];
        mapping.connections = mapping.connections.saturating_sub(1);
        if mapping.connections > 0 {
            return false;
        }
        self.live -= 1;
        self.hold(id, kept_by, until_s);
        true
    }

    fn hold(&mut self, id: u32, kept_by: u32, until_s: u32) {
        let mapping = &mut self.slab[id as usize];
        mapping.held_until_s = until_s;
        mapping.kept_by = kept_by;
        self.held.push_back((id, until_s));
    }

    /// The owner of all mappings at `address` is gone: whoever has the address next is somebody else.
    pub(super) fn disown(&mut self, address: IpAddr) {
        for id in 0..self.slab.len() as u32 {
            let mapping = self.slab[id as usize];
            let Some(owner) = mapping.owner.filter(|owner| owner.internal.address == address) else { continue };
            if mapping.connections == 0 {
                let hash = self.hash_internal(owner.internal, mapping.external.address);
                if let Ok(found) = self.by_internal.find_entry(hash, |&other| other == id) {
                    found.remove();
                }
                self.slab[id as usize].owner = None;
            }
        }
    }

    /// Frees the ports whose time is over, at most `budget` of them; `freed` gets the slots that kept them.
    pub(super) fn expire(&mut self, now_s: u32, budget: usize, ports: &dyn ExternalPorts, mut freed: impl FnMut(u32)) {
        for _ in 0..budget {
            let Some(&(id, until_s)) = self.held.front().filter(|(_, until_s)| *until_s <= now_s) else { return };
            self.held.pop_front();
            let mapping = self.slab[id as usize];
            // Otherwise it came back to life, and may have been held again since, or it is another one.
            if mapping.connections == 0 && mapping.held_until_s == until_s && until_s != 0 {
                if mapping.kept_by != NIL {
                    freed(mapping.kept_by);
                }
                self.unmake(id, ports);
            }
        }
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
        let hash = self.hash_peer(id, remote);
        match self.peers.find_mut(hash, |peer| peer.mapping == id && peer.remote == remote) {
            Some(peer) => peer.connections += 1,
            None => {
                let hasher = &self.hasher;
                let rehash = |peer: &Peer| hasher.hash_one((peer.mapping, peer.remote));
                self.peers.insert_unique(hash, Peer { mapping: id, connections: 1, remote }, rehash);
            }
        }
        Acquired { external, no_longer_kept_by: (kept_by != NIL).then_some(kept_by) }
    }

    fn make(&mut self, owner: Owner, external: Endpoint, ports: &dyn ExternalPorts) -> u32 {
        let mapping = Mapping { owner: Some(owner), external, connections: 0, held_until_s: 0, kept_by: NIL };
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
        let hash = hasher.hash_one((Some(owner.internal), external.address));
        self.by_internal.insert_unique(hash, id, rehash_internal);
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
            let hash = self.hash_internal(owner.internal, external.address);
            if let Ok(found) = self.by_internal.find_entry(hash, |&other| other == id) {
                found.remove();
            }
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

    fn hash_peer(&self, mapping: u32, remote: IpAddr) -> u64 {
        self.hasher.hash_one((mapping, remote))
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

    fn find_peer(&self, mapping: u32, remote: IpAddr) -> Option<&Peer> {
        self.peers.find(self.hash_peer(mapping, remote), |peer| peer.mapping == mapping && peer.remote == remote)
    }
}
