//! Who may come in through a mapping: address-dependent filtering (RFC 4787 REQ-8, RFC 5382 REQ-3).
//!
//! Theory of operation. A remote address may use a mapping while some connection of the mapping is with it, so
//! connections are counted by mapping and remote address, in many small tables: one that has a million entries would
//! keep everybody waiting for tens of milliseconds when it grows.
//!
//! An *attempt* counts as one for a while: a container has sent to a neighbour's external endpoint, and was not let in
//! because the neighbour had not sent to it yet. Outside, such a packet would have opened the sender's own filter before
//! it was lost at the other one's; without that, two containers behind one address could never reach each other in the
//! way that hosts behind two NATs do (RFC 4787 REQ-9, RFC 5382 REQ-2 and REQ-8).

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::HashTable;

/// How many tables; a power of two.
const TABLES: usize = 64;

/// How many connections of a mapping are with a remote address.
#[derive(Debug, Clone, Copy)]
struct Peer {
    mapping: u32,
    connections: u32,
    remote: IpAddr,
}

/// See the module's documentation. Mappings are numbers here.
#[derive(Debug)]
pub(super) struct Filtering {
    hasher: foldhash::fast::RandomState,
    peers: [HashTable<Peer>; TABLES],
    /// Until when an attempt counts, in seconds.
    attempts: HashMap<(u32, IpAddr), u32>,
    /// The attempts in the order in which their time is over, or was before they were renewed.
    order: VecDeque<(u32, u32, IpAddr)>,
}

/// The table of a hash, by bits that the table itself does not look at.
fn table_of(hash: u64) -> usize {
    (hash >> 48) as usize % TABLES
}

impl Filtering {
    pub(super) fn new() -> Self {
        Self {
            hasher: foldhash::fast::RandomState::default(),
            peers: [const { HashTable::new() }; TABLES],
            attempts: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn hash(&self, mapping: u32, remote: IpAddr) -> u64 {
        self.hasher.hash_one((mapping, remote))
    }

    /// Whether `remote` may come in.
    pub(super) fn has(&self, mapping: u32, remote: IpAddr) -> bool {
        let is_it = |peer: &Peer| peer.mapping == mapping && peer.remote == remote;
        let hash = self.hash(mapping, remote);
        self.peers[table_of(hash)].find(hash, is_it).is_some()
    }

    /// Counts one more connection.
    pub(super) fn add(&mut self, mapping: u32, remote: IpAddr) {
        let hash = self.hash(mapping, remote);
        let peers = &mut self.peers[table_of(hash)];
        match peers.find_mut(hash, |peer| peer.mapping == mapping && peer.remote == remote) {
            Some(peer) => peer.connections += 1,
            None => {
                let hasher = &self.hasher;
                let rehash = |peer: &Peer| hasher.hash_one((peer.mapping, peer.remote));
                peers.insert_unique(hash, Peer { mapping, connections: 1, remote }, rehash);
            }
        }
    }

    /// Counts one connection less.
    pub(super) fn remove(&mut self, mapping: u32, remote: IpAddr) {
        let hash = self.hash(mapping, remote);
        let is_it = |peer: &Peer| peer.mapping == mapping && peer.remote == remote;
        if let Ok(mut found) = self.peers[table_of(hash)].find_entry(hash, is_it) {
            found.get_mut().connections -= 1;
            if found.get().connections == 0 {
                found.remove();
            }
        }
    }

    /// Notes an attempt; whether it is a new one, which is to be counted.
    pub(super) fn attempt(&mut self, mapping: u32, remote: IpAddr, until_s: u32) -> bool {
        let is_new = self.attempts.insert((mapping, remote), until_s).is_none();
        if is_new {
            self.order.push_back((until_s, mapping, remote));
        }
        is_new
    }

    /// An attempt whose time is over, which is to be counted no longer.
    pub(super) fn expired_attempt(&mut self, now_s: u32) -> Option<(u32, IpAddr)> {
        loop {
            let &(_, mapping, remote) = self.order.front().filter(|(until_s, ..)| *until_s <= now_s)?;
            self.order.pop_front();
            match self.attempts.get(&(mapping, remote)) {
                Some(&until_s) if until_s > now_s => self.order.push_back((until_s, mapping, remote)),
                Some(_) => {
                    self.attempts.remove(&(mapping, remote));
                    return Some((mapping, remote));
                }
                None => {}
            }
        }
    }

    /// Ends all attempts of the mappings that `is_gone` names, and lists them.
    pub(super) fn end_attempts(&mut self, is_gone: impl Fn(u32) -> bool) -> Vec<(u32, IpAddr)> {
        self.attempts.extract_if(|(mapping, _), _| is_gone(*mapping)).map(|(attempt, _)| attempt).collect()
    }
}
