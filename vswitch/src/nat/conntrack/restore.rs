//! What a process that is gone has left: its slots become connections again.
//!
//! Theory of operation. The file may hold anything: it is checked as if an enemy had written it. A slot is taken if a
//! connection could be so, if it has not expired, and if it contradicts no slot before it: nobody else has its tuples,
//! its mappings or their ports. Index, mappings, limits, and the bits of the host's ports follow from the slots.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::super::{Place, Tuple};
use super::connection::Direction;
use super::entry::{Entry, Progress, arrives_as};
use super::index::Handle;
use super::open::has_ports;
use super::slab::{Kind, NIL, Slot, Tag};
use super::{Conntrack, slab};
use crate::wire::protocol;

/// How much later than now a connection may have been seen: workers read their clocks at different times.
const CLOCK_SKEW_S: u32 = 2;

/// What became of what was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Connections that go on.
    pub connections: u32,
    /// Connections whose time was over.
    pub expired: u32,
    /// Entries that no connection could have, or that contradict others.
    pub discarded: u32,
}

impl Conntrack {
    /// Takes the first `used` slots as they are; before anybody else knows the table.
    pub(super) fn restore(&self, used: u32, now_s: u32) -> Restored {
        let mut restored = Restored::default();
        // From the last one, so that the first ones are used first.
        for at in (0..used).rev() {
            let slot = self.slab.slot(at);
            let tag = slot.tag();
            let is_kept = match tag.kind {
                // What was about to expire when the process ended is looked at as any other.
                Kind::Live | Kind::Dying => {
                    let outcome = self.restore_connection(at, tag, now_s);
                    match outcome {
                        Outcome::Kept => restored.connections += 1,
                        Outcome::Expired => restored.expired += 1,
                        Outcome::Implausible => restored.discarded += 1,
                    }
                    outcome == Outcome::Kept
                }
                Kind::Held => self.restore_held(at, tag, now_s),
                Kind::Free => false,
            };
            if !is_kept && at + 1 == self.slab.fresh() {
                self.slab.trim();
            } else if !is_kept {
                self.slab.release(at);
            }
        }
        for mappings in &self.mappings {
            mappings.lock().unwrap_or_else(PoisonError::into_inner).sort_held();
        }
        self.expire_held(now_s.max(1), usize::MAX);
        self.connections.store(restored.connections, Ordering::Relaxed);
        restored
    }

    fn restore_connection(&self, at: u32, tag: Tag, now_s: u32) -> Outcome {
        let slot = self.slab.slot(at);
        let Some((entry, progress)) = plausible(slot, tag, now_s) else { return Outcome::Implausible };
        if progress.state.is_tcp() != (tag.protocol == protocol::TCP) || Entry::is_disowned(tag) {
            return Outcome::Implausible;
        }
        if self.deadline_s(slot, tag, progress) <= now_s {
            return Outcome::Expired;
        }
        let hash = |tuple| self.index.hash(tuple);
        let mut both = self.index.lock_both(hash(&entry.original), hash(&entry.reply));
        let is_taken = [Direction::Original, Direction::Reply].into_iter().any(|direction| {
            let tuple = entry.arrives(direction);
            let is_it = |handle: Handle| arrives_as(self.slab.slot(handle.slot()), handle.direction(), tuple);
            both.find(direction, is_it).is_some()
        });
        if is_taken || !self.restore_mappings(&entry, now_s) {
            return Outcome::Implausible;
        }
        slot.publish(Tag { kind: Kind::Live, ..tag });
        both.insert(at);
        drop(both);
        self.containers.take(entry.container, u32::MAX);
        if entry.is_hairpin {
            self.containers.add_hairpin(entry.reply.source);
        }
        Outcome::Kept
    }

    fn restore_mappings(&self, entry: &Entry, now_s: u32) -> bool {
        let mut done: Option<(_, _)> = None;
        for (end, external, remote) in entry.mapped().into_iter().flatten() {
            let Some(mut mappings) = self.mappings_of(entry.original.protocol, external.address.is_ipv6()) else {
                continue;
            };
            match mappings.restore(entry.owner(end), external, remote, &*self.external_ports) {
                Some(acquired) => {
                    drop(mappings);
                    if let Some(slot) = acquired.no_longer_kept_by {
                        self.slab.release(slot);
                    }
                }
                None => {
                    // It was never anybody's: nothing to be kept from others.
                    if let Some((external, remote)) = done {
                        mappings.release(external, remote, NIL, now_s.max(1));
                    }
                    return false;
                }
            }
            done = Some((external, remote));
        }
        true
    }

    /// Keeps a port from others again, unless its time is over, or a connection uses it: a process may have been killed
    /// before it had freed the one, or while it removed one of two connections of a mapping.
    fn restore_held(&self, at: u32, tag: Tag, now_s: u32) -> bool {
        let Some((entry, progress)) = plausible(self.slab.slot(at), tag, now_s) else { return false };
        let until_s = self.held_until_s(progress.since_s);
        let [source, destination] = entry.mapped();
        let Some((end, external, _)) = source.xor(destination).filter(|_| until_s > now_s) else { return false };
        let Some(mut mappings) = self.mappings_of(tag.protocol, external.address.is_ipv6()) else { return false };
        let owner = (!Entry::is_disowned(tag)).then(|| entry.owner(end));
        mappings.restore_held(owner, external, (at, until_s), &*self.external_ports)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Kept,
    Expired,
    Implausible,
}

/// What a slot holds, if a connection could be so at this time.
fn plausible(slot: &Slot, tag: Tag, now_s: u32) -> Option<(Entry, Progress)> {
    let entry = Entry::read(slot, tag)?;
    let progress = Progress::read(slot, tag.generation)?;
    let times = progress.times(slot);
    let latest_s = now_s.saturating_add(CLOCK_SKEW_S);
    let is_past = times.since_s <= latest_s && times.last_seen_s <= latest_s;
    (is_past && is_consistent(&entry, tag.kind)).then_some((entry, progress))
}

/// Whether the parts of an entry agree with one another.
fn is_consistent(entry: &Entry, kind: Kind) -> bool {
    let Entry { original, reply, .. } = entry;
    let source = (original.source, original.source_port);
    let translated_source = (reply.destination, reply.destination_port);
    let destination = (original.destination, original.destination_port);
    let translated_destination = (reply.source, reply.source_port);
    let (tcp, udp) = (protocol::TCP, protocol::UDP);
    // A published port's client may have got another port: see `SourceNat::Keep`.
    let is_port_changed = entry.is_published && source.0 == translated_source.0 && [tcp, udp].contains(&reply.protocol);
    let is_source_right = entry.is_source_mapped || source == translated_source || is_port_changed;
    let is_destination_right =
        entry.is_destination_mapped || entry.is_published || destination == translated_destination;
    let ports = [source.1, translated_source.1, destination.1, translated_destination.1];
    let is_portless_right = has_ports(original.protocol) || ports == [0; 4];
    let is_published_or_admitted = !(entry.is_published && entry.is_destination_mapped);
    // Only one end is left of these.
    let ends_agree = kind == Kind::Held || (is_source_right && is_destination_right);
    ends_agree && is_portless_right && is_published_or_admitted && original != reply && is_whole(original, reply)
}

/// Whether no tuple is its own reverse, which no connection can be told by.
fn is_whole(original: &Tuple, reply: &Tuple) -> bool {
    original.reversed() != *original && reply.reversed() != *reply
}

const _: () = assert!(slab::SLOT_BYTES == 128 && Place::Container as u8 == 0, "the layout of entries has a version");
