//! New connections: asked for by a container or a client, or admitted through a mapping.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::super::{Place, Tuple};
use super::connection::{Admission, Arrival, Direction, Found, New, Refusal, Segment, SourceNat};
use super::entry::{Entry, Progress, arrives_as};
use super::index::Handle;
use super::mapping::{Closed, Endpoint, Owner};
use super::slab::{Kind, NIL};
use super::state::{self, State};
use super::timers::Times;
use super::{Conntrack, found_of};
use crate::wire::protocol;

/// How many source ports are tried for a client whose own is taken by another of its connections.
const SOURCE_PORTS_TRIED: u16 = 32;

/// Whether connections of a protocol have ports, or identifiers in their place.
pub(super) const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6)
}

/// Why a connection could not be put into the index.
enum Clash {
    /// It is there already.
    Same(Found),
    /// Another one has the tuple of its replies.
    Reply,
    /// Something else has the tuple of its initiator.
    Original,
}

impl Conntrack {
    /// Makes a connection; returns the one that another worker has made meanwhile.
    ///
    /// # Errors
    /// See [`Refusal`]; each is counted.
    pub fn open_connection(&self, new: &New, now_s: u32) -> Result<Found, Refusal> {
        self.try_open(new, now_s).inspect_err(|&refusal| self.count(refusal))
    }

    fn count(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn try_open(&self, new: &New, now_s: u32) -> Result<Found, Refusal> {
        check(new)?;
        // A host that has forgotten connections, because it was started anew, lets those of its containers go on;
        // whoever is outside must begin at the beginning.
        let in_its_middle = new.origin == Place::Container && new.destination.is_none();
        let state = first_state(new.tuple.protocol, new.segment, in_its_middle)?;
        if let Some(found) = self.find(&new.tuple, new.origin) {
            return Ok(found);
        }
        let (target, target_port) = new.destination.unwrap_or((new.tuple.destination, new.tuple.destination_port));
        let mut entry = Entry {
            original: new.tuple,
            reply: Tuple { destination: target, destination_port: target_port, ..new.tuple }.reversed(),
            origin: new.origin,
            responder: new.responder,
            is_source_mapped: false,
            is_destination_mapped: false,
            is_published: new.destination.is_some(),
            is_hairpin: new.hairpin,
            bridge: new.bridge,
            container: new.container,
        };
        let reserved = self.reserve(new.container, now_s)?;
        if let SourceNat::External(address) = new.source
            && let Err(refusal) = self.map_source(&mut entry, address, new.bridge, now_s)
        {
            self.unreserve(new.container, reserved.0);
            return Err(refusal);
        }
        self.insert_or_undo(entry, state, new.segment, reserved, now_s)
    }

    /// Gives the source of a connection its external endpoint at `address`.
    fn map_source(&self, entry: &mut Entry, address: IpAddr, bridge: u16, now_s: u32) -> Result<(), Refusal> {
        entry.is_source_mapped = true;
        entry.reply.destination = address;
        let Tuple { protocol, source, source_port, .. } = entry.original;
        let Some(mut mappings) = self.mappings_of(protocol, address.is_ipv6()) else { return Ok(()) };
        let internal = Endpoint { address: source, port: source_port };
        let owner = Owner { internal, place: entry.origin, bridge };
        let acquired = mappings.acquire(owner, address, entry.sent_to(), &*self.external_ports, now_s);
        drop(mappings);
        let acquired = acquired?;
        entry.reply.destination_port = acquired.external.port;
        if let Some(slot) = acquired.no_longer_kept_by {
            self.slab.release(slot);
        }
        Ok(())
    }

    /// Lets a packet in to an external endpoint, if a container has it and has sent to the packet's source before.
    pub fn admit(&self, arrival: &Arrival, now_s: u32) -> Admission {
        let tuple = &arrival.tuple;
        if let Some(found) = self.find(tuple, arrival.from) {
            return Admission::Admitted(found);
        }
        match self.try_admit(arrival, now_s) {
            Ok(found) => Admission::Admitted(found),
            Err(Denied::Closed(Closed::NoMapping)) => Admission::NoMapping,
            Err(Denied::Closed(Closed::Filtered)) => Admission::Filtered,
            Err(Denied::Refusal(refusal)) => {
                self.count(refusal);
                Admission::Refused(refusal)
            }
        }
    }

    fn try_admit(&self, arrival: &Arrival, now_s: u32) -> Result<Found, Denied> {
        let Arrival { tuple, from, bridge, segment } = *arrival;
        let external = Endpoint { address: tuple.destination, port: tuple.destination_port };
        let is_v6 = tuple.destination.is_ipv6();
        if tuple.source.is_ipv6() != is_v6 {
            return Err(Refusal::Invalid.into());
        }
        // A container appears with its own external address, also to its neighbours (RFC 4787 REQ-9).
        let remote = if from == Place::Container { external.address } else { tuple.source };
        let admitted = match self.mappings_of(tuple.protocol, is_v6) {
            Some(mut mappings) => mappings.admit(external, remote),
            None => Err(Closed::NoMapping),
        };
        if from == Place::Container && admitted == Err(Closed::Filtered) {
            self.attempt(arrival, now_s);
        }
        let owner = admitted.map_err(Denied::Closed)?;
        let mut entry = Entry {
            original: tuple,
            reply: Tuple { source: owner.internal.address, source_port: owner.internal.port, ..tuple.reversed() },
            origin: from,
            responder: Place::Container,
            is_source_mapped: false,
            is_destination_mapped: true,
            is_published: false,
            is_hairpin: from == Place::Container && bridge == owner.bridge,
            bridge: owner.bridge,
            container: owner.internal.address,
        };
        let release = |refusal: Refusal| {
            if let Some(mut mappings) = self.mappings_of(tuple.protocol, is_v6) {
                mappings.release(external, remote, NIL, self.held_until_s(now_s));
            }
            Denied::Refusal(refusal)
        };
        let state = first_state(tuple.protocol, segment, false).map_err(release)?;
        let reserved = self.reserve(entry.container, now_s).map_err(release)?;
        if from == Place::Container
            && let Err(refusal) = self.map_source(&mut entry, external.address, bridge, now_s)
        {
            self.unreserve(entry.container, reserved.0);
            return Err(release(refusal));
        }
        Ok(self.insert_or_undo(entry, state, segment, reserved, now_s)?)
    }

    /// Opens the filter of a container that was not let in by its neighbour's: see `filtering`.
    fn attempt(&self, arrival: &Arrival, now_s: u32) {
        let Tuple { protocol: number, source, source_port, destination, .. } = arrival.tuple;
        let state = if number == protocol::TCP { State::SynSentOriginal } else { State::Unreplied };
        let until_s =
            self.config.timeouts.deadline_s(number, false, state, Times { since_s: now_s, last_seen_s: now_s });
        let internal = Endpoint { address: source, port: source_port };
        let owner = Owner { internal, place: arrival.from, bridge: arrival.bridge };
        let Some(mut mappings) = self.mappings_of(number, destination.is_ipv6()) else { return };
        let attempt = (destination, until_s);
        let acquired = mappings.attempt(owner, destination, attempt, &*self.external_ports, now_s);
        drop(mappings);
        if let Some(slot) = acquired.and_then(|acquired| acquired.no_longer_kept_by) {
            self.slab.release(slot);
        }
    }

    /// A slot for one more connection of a container, if need be that of another one which may be nothing.
    fn reserve(&self, container: IpAddr, now_s: u32) -> Result<(u32, u32), Refusal> {
        let take = || self.containers.take(container, self.config.per_container_max);
        let has_room = take() || (self.evict(Some(container), now_s) && take());
        if !has_room {
            return Err(Refusal::ContainerLimit);
        }
        let slot = self.slab.allocate();
        let slot = slot.or_else(|| if self.evict(None, now_s) { self.slab.allocate() } else { None });
        slot.ok_or_else(|| {
            self.containers.give(container);
            Refusal::TableFull
        })
    }

    fn unreserve(&self, container: IpAddr, slot: u32) {
        self.slab.release(slot);
        self.containers.give(container);
    }

    fn insert_or_undo(
        &self,
        mut entry: Entry,
        state: State,
        segment: Segment,
        reserved: (u32, u32),
        now_s: u32,
    ) -> Result<Found, Refusal> {
        let (at, generation) = reserved;
        let mut outcome = self.insert(&entry, state, segment, reserved, now_s);
        if matches!(outcome, Err(Clash::Reply)) && may_change_source_port(&entry) {
            let own = entry.original.source_port;
            for step in 1..=SOURCE_PORTS_TRIED {
                // Odd, so that all of them differ; mixed with the slot, so that two workers seldom try the same one.
                let other = own.wrapping_add(step.wrapping_mul(0x9e35) ^ at as u16);
                entry.reply.destination_port = if own < 1024 { other % 1023 + 1 } else { other.max(1024) };
                outcome = self.insert(&entry, state, segment, (at, generation), now_s);
                if !matches!(outcome, Err(Clash::Reply)) {
                    break;
                }
            }
        }
        let clash = match outcome {
            Ok(found) => return Ok(found),
            Err(clash) => clash,
        };
        self.containers.give(entry.container);
        self.unmap(&entry, reserved, now_s);
        match clash {
            Clash::Same(found) => Ok(found),
            // Without ports there is nothing else to tell the two apart by.
            Clash::Reply if entry.is_source_mapped => Err(Refusal::PortsExhausted),
            Clash::Reply | Clash::Original => Err(Refusal::Invalid),
        }
    }

    /// Fills the slot and puts the connection into the index.
    fn insert(
        &self,
        entry: &Entry,
        state: State,
        segment: Segment,
        (at, generation): (u32, u32),
        now_s: u32,
    ) -> Result<Found, Clash> {
        let slot = self.slab.slot(at);
        entry.write(slot);
        slot.progress.store(Progress { state, since_s: now_s }.word(generation), Ordering::Relaxed);
        slot.last_seen_s.store(now_s, Ordering::Relaxed);
        if state == State::Closing {
            slot.fins[0].store(segment.sequence.unwrap_or(0), Ordering::Relaxed);
        }
        let tuples = [&entry.original, &entry.reply];
        let mut both = self.index.lock_both(self.index.hash(tuples[0]), self.index.hash(tuples[1]));
        let is = |direction: Direction| {
            move |handle: Handle| {
                arrives_as(self.slab.slot(handle.slot()), handle.direction(), tuples[direction as usize])
            }
        };
        if let Some(handle) = both.find(Direction::Original, is(Direction::Original)) {
            return Err(self.found(handle, entry.origin).map_or(Clash::Original, Clash::Same));
        }
        if both.find(Direction::Reply, is(Direction::Reply)).is_some() {
            return Err(Clash::Reply);
        }
        slot.publish(entry.tag(Kind::Live, generation));
        both.insert(at);
        drop(both);
        self.connections.fetch_add(1, Ordering::Relaxed);
        if entry.is_hairpin {
            self.containers.add_hairpin(entry.reply.source);
        }
        Ok(found_of(Handle::new(at, Direction::Original), entry, generation, state))
    }

    /// Takes a connection that is not in the index any more out of its mappings, and frees its slot, unless a mapping
    /// is held from now on: then the slot keeps it over a restart.
    pub(super) fn unmap(&self, entry: &Entry, (at, generation): (u32, u32), now_s: u32) {
        let slot = self.slab.slot(at);
        let until_s = self.held_until_s(now_s);
        let mut is_kept = false;
        for (end, external, remote) in entry.mapped().into_iter().flatten() {
            let is_v6 = external.address.is_ipv6();
            let Some(mut mappings) = self.mappings_of(entry.original.protocol, is_v6) else { continue };
            if is_kept {
                mappings.release(external, remote, NIL, until_s);
                continue;
            }
            // The slot is the mapping's as soon as this is done, and the mapping anybody's as soon as it is unlocked.
            slot.retract();
            slot.progress.store(Progress { state: State::Closing, since_s: now_s }.word(generation), Ordering::Relaxed);
            slot.publish(entry.of_end(end).tag(Kind::Held, generation));
            is_kept = mappings.release(external, remote, at, until_s);
        }
        if !is_kept {
            self.slab.release(at);
        }
    }

    pub(super) fn held_until_s(&self, now_s: u32) -> u32 {
        // Never zero, which stands for a mapping that is not held.
        now_s.saturating_add(self.config.timeouts.hold_s).max(1)
    }
}

/// Why nothing came in.
enum Denied {
    Closed(Closed),
    Refusal(Refusal),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

/// Whether a connection can be told from others by another source port.
fn may_change_source_port(entry: &Entry) -> bool {
    let is_free_to = !entry.is_source_mapped && entry.is_published;
    is_free_to && matches!(entry.original.protocol, protocol::TCP | protocol::UDP)
}

/// The state that a connection begins in.
fn first_state(number: u8, segment: Segment, in_its_middle: bool) -> Result<State, Refusal> {
    if number != protocol::TCP {
        return Ok(State::Unreplied);
    }
    let flags = segment.tcp_flags.ok_or(Refusal::Invalid)?;
    state::first(flags, in_its_middle).ok_or(Refusal::NoConnection)
}

fn check(new: &New) -> Result<(), Refusal> {
    let Tuple { protocol, source, source_port, destination, destination_port } = new.tuple;
    let is_v4 = source.is_ipv4();
    let is_like = |address: IpAddr| address.is_ipv4() == is_v4;
    let external = match new.source {
        SourceNat::Keep => None,
        SourceNat::External(address) => Some(address),
    };
    let addresses = [Some(destination), new.destination.map(|(address, _)| address), external, Some(new.container)];
    let ports = [source_port, destination_port, new.destination.map_or(0, |(_, port)| port)];
    let is_valid = addresses.into_iter().flatten().all(is_like)
        && new.tuple.reversed() != new.tuple
        && (has_ports(protocol) || ports == [0; 3]);
    if is_valid { Ok(()) } else { Err(Refusal::Invalid) }
}
