//! Mappings that nobody uses, but whose ports are kept from others.
//!
//! Theory of operation. All are held for the same time, so the queue of them is in the order of their ends. A mapping
//! that comes back to life stays in the queue, and is recognised when its turn comes.

use std::net::IpAddr;

use super::super::super::ExternalPorts;
use super::super::slab::NIL;
use super::{Endpoint, Mapping, Mappings, Owner};
use crate::bpf::Flow;

impl Mappings {
    /// Nobody uses the mapping any more.
    pub(super) fn hold(&mut self, id: u32, kept_by: u32, until_s: u32) {
        let mapping = &mut self.slab[id as usize];
        mapping.held_until_s = until_s;
        mapping.kept_by = kept_by;
        self.held.push_back((id, until_s));
    }

    /// Keeps a restored mapping from others, except for its owner if it still has one, until `until_s`; whether that is
    /// possible.
    pub(in super::super) fn restore_held(
        &mut self,
        owner: Option<Owner>,
        external: Endpoint,
        (kept_by, until_s): (u32, u32),
        ports: &dyn ExternalPorts,
    ) -> bool {
        let has_another = owner.is_some_and(|owner| self.find_internal(owner.internal, external.address).is_some());
        if has_another || self.find_external(external).is_some() || !self.may_take(external.port, ports) {
            return false;
        }
        let id = self.make(owner, external, ports);
        self.hold(id, kept_by, until_s);
        true
    }

    /// All is restored: what is held is put in the order of its ends.
    pub(in super::super) fn sort_held(&mut self) {
        self.held.make_contiguous().sort_unstable_by_key(|(_, until_s)| *until_s);
    }

    /// Takes the TCP port that has been held for the longest time, although its time is not over.
    pub(super) fn reclaim(&mut self, address: IpAddr, ports: &dyn ExternalPorts) -> Option<(u16, Option<u32>)> {
        while self.flow == Flow::Tcp {
            let &(id, until_s) = self.held.front()?;
            let Mapping { connections, held_until_s, external, .. } = self.slab[id as usize];
            let is_held = connections == 0 && held_until_s == until_s;
            if is_held && (external.address != address || external.port < 1024) {
                return None;
            }
            let mut reclaimed = None;
            if self.free_oldest(ports, &mut |slot| reclaimed = Some(slot)).is_some() {
                return ports.is_free(self.flow, self.is_v6, external.port).then_some((external.port, reclaimed));
            }
        }
        None
    }

    /// The owners for whom `is_gone` holds are gone: whoever has their addresses next is somebody else. `kept` gets the
    /// slots that keep their mappings, which must know it too.
    pub(in super::super) fn disown(
        &mut self,
        is_gone: impl Fn(&Owner) -> bool,
        until_s: u32,
        mut kept: impl FnMut(u32),
    ) {
        let slab = &self.slab;
        let is_ownerless = |id: u32| slab[id as usize].owner.as_ref().is_some_and(&is_gone);
        for (id, remote) in self.filtering.end_attempts(is_ownerless) {
            self.leave(id, remote, NIL, until_s);
        }
        for id in 0..self.slab.len() as u32 {
            let mapping = self.slab[id as usize];
            let Some(owner) = mapping.owner.filter(&is_gone) else { continue };
            if mapping.connections == 0 && mapping.held_until_s != 0 {
                self.forget_internal(id, owner, mapping.external.address);
                self.slab[id as usize].owner = None;
                if mapping.kept_by != NIL {
                    kept(mapping.kept_by);
                }
            }
        }
    }

    /// Ends attempts whose time is over, and frees the ports that nobody used until now, at most `budget` of each;
    /// `freed` gets the slots that kept them.
    pub(in super::super) fn expire(
        &mut self,
        now_s: u32,
        (budget, until_s): (usize, u32),
        ports: &dyn ExternalPorts,
        mut freed: impl FnMut(u32),
    ) {
        for _ in 0..budget {
            let Some((id, remote)) = self.filtering.expired_attempt(now_s) else { break };
            self.leave(id, remote, NIL, until_s);
        }
        for _ in 0..budget {
            if self.held.front().is_none_or(|(_, until_s)| *until_s > now_s) {
                return;
            }
            self.free_oldest(ports, &mut freed);
        }
    }

    /// Frees the mapping that has been held for the longest time; its external endpoint, or nothing if it came back to
    /// life.
    fn free_oldest(&mut self, ports: &dyn ExternalPorts, freed: &mut impl FnMut(u32)) -> Option<Endpoint> {
        let (id, until_s) = self.held.pop_front()?;
        let mapping = self.slab[id as usize];
        // Otherwise it came back to life, and may have been held again since, or it is another one.
        if mapping.connections != 0 || mapping.held_until_s != until_s {
            return None;
        }
        if mapping.kept_by != NIL {
            freed(mapping.kept_by);
        }
        self.unmake(id, ports);
        Some(mapping.external)
    }
}
