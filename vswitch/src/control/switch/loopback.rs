//! The loopback carry: how programs of the host reach what is published at the host's own addresses.
//!
//! Theory of operation: what a program sends to 127.0.0.1, to ::1 or to any other address of its host never sees an
//! uplink; it loops through the host's loopback interface. That interface is carried in the manner of a shared uplink
//! ([`Carry::loopback`]), and only while something is published. It stays the host's: what
//! is not published passes, and when the daemon ends, by whatever signal, its TAP and its programs are gone, but for the
//! rear guard.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Switch;
use super::live::Detached;
use crate::control::netlink::monitor::HostLink;
use crate::control::uplink::carry::Carry;
use crate::io::Device;

/// The host's loopback interface as whoever sends and receives through it needs it.
#[derive(Debug, Clone)]
pub struct LoopbackCarry {
    /// The interface's index.
    pub index: u32,
    /// Its name, which is `lo` unless somebody changed it.
    pub name: String,
    /// Its MTU: the largest IP packet, in bytes.
    pub mtu: u32,
    /// Where packets come from and go to. What stands in the Ethernet header does not matter.
    pub device: Arc<dyn Device>,
    /// The TAP that carries it.
    pub tap: Option<String>,
}

/// Whether the loopback interface is carried, and for whom.
#[derive(Debug)]
pub(super) struct LiveLoopback {
    claims: BTreeSet<String>,
    attachment: std::result::Result<(Carry, HostLink), Detached>,
}

impl Default for LiveLoopback {
    fn default() -> Self {
        Self { claims: BTreeSet::new(), attachment: Err(Detached::Missing) }
    }
}

impl LiveLoopback {
    pub(super) fn claim(&mut self, who: Option<&str>) {
        self.claims.extend(who.map(str::to_owned));
    }

    pub(super) fn is_attached(&self) -> bool {
        self.attachment.is_ok()
    }

    pub(super) fn carry_mut(&mut self) -> Option<&mut Carry> {
        self.attachment.as_mut().ok().map(|(carry, _)| carry)
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.attachment, Err(Detached::Failed(_)))
    }
}

impl Switch {
    /// Says that `who` does not need it any more. What was taken from the device must be out of the datapath by then.
    pub fn release_loopback(&mut self, who: &str) {
        if self.uplinks.loopback.claims.remove(who) {
            self.follow_shared();
        }
    }

    /// The loopback interface as it is carried now.
    #[must_use]
    pub fn loopback_carry(&self) -> Option<LoopbackCarry> {
        let (carry, link) = self.uplinks.loopback.attachment.as_ref().ok()?;
        let tap = carry.tap().map(str::to_owned);
        Some(LoopbackCarry { index: link.index, name: link.name.clone(), mtu: link.mtu, device: carry.device(), tap })
    }

    /// Makes the loopback carry what it should be now.
    pub(super) fn follow_loopback(&mut self) {
        let lo = self.uplinks.look(|mirror| mirror.links().find(|link| link.loopback).cloned()).flatten();
        let lo = lo.filter(|_| !self.uplinks.loopback.claims.is_empty());
        if let (Ok((carry, attached)), Some(lo)) = (&mut self.uplinks.loopback.attachment, &lo)
            && attached.index == lo.index
            && carry.is_whole()
        {
            attached.clone_from(lo);
            return;
        }
        let before = std::mem::replace(&mut self.uplinks.loopback.attachment, Err(Detached::Missing)).err();
        let Some(lo) = lo else { return };
        let attachment = match Carry::loopback(&mut self.uplinks.means(&self.datapath, &self.xdp), &lo) {
            Ok(carry) => {
                if let Some(why) = carry.unguarded() {
                    tracing::warn!(%why, "the host will reset its own connections to published ports while no daemon runs");
                }
                Ok((carry, lo))
            }
            Err(error) => Err(Detached::Failed(error.to_string())),
        };
        if let Err(Detached::Failed(why)) = &attachment
            && before.as_ref() != attachment.as_ref().err()
        {
            tracing::warn!(%why, "programs of the host do not reach what is published, trying again");
        }
        self.uplinks.loopback.attachment = attachment;
    }
}
