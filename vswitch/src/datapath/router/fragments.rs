//! Fragments: what was decided for the first one of a packet holds for the others.

use super::decide::Out;
use super::{Pending, Refusal, Routed, Router, apply, check_size, may_be_fragmented, place_of};
use crate::datapath::pipeline::Source;
use crate::frame::{DropReason, Frame, Offload};
use crate::nat::{FragmentTable, Later, Packet, Place, Rewrite};
use crate::snapshot::PortId;
use crate::wire::ethernet;

/// For how many seconds later fragments from outside wait for their first one: what was reordered on the way comes at once,
/// and of these anybody may send as many as he likes.
pub(super) const PATIENCE_S: u32 = 2;

/// A fragment that waits for the first one of its packet.
#[derive(Debug)]
pub(in crate::datapath) struct HeldFragment {
    pub(in crate::datapath) from: PortId,
    pub(in crate::datapath) incarnation: u64,
    pub(in crate::datapath) bytes: Vec<u8>,
    pub(in crate::datapath) offload: Offload,
}

impl HeldFragment {
    /// Whether it is the host's if nobody knows better; of those from outside.
    fn is_undecided(&self) -> bool {
        ethernet::has_group_source(&self.bytes)
    }
}

/// What the later fragments of a packet have in common with the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct FragmentAction {
    pub(super) rewrite: Rewrite,
    pub(super) out: Out,
    pub(super) index: Option<u32>,
}

/// What is done with the fragments of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum FragmentDecision {
    Send(FragmentAction),
    Drop(DropReason),
    /// They are the host's.
    GiveBack,
}

impl Router {
    /// Remembers what is done to the packet whose first fragment this is, and lets go those that overtook it.
    pub(super) fn decide_fragments(
        &mut self,
        source: &Source<'_>,
        packet: &Packet,
        decision: FragmentDecision,
    ) -> Result<(), DropReason> {
        let key = packet.fragment_key(source.port.id);
        let waiting = self.fragments_of(source).first(key, packet, decision, source.now.s)?;
        self.pending.released.extend(waiting);
        Ok(())
    }

    fn fragments_of(&mut self, source: &Source<'_>) -> &mut FragmentTable<FragmentDecision, HeldFragment> {
        match place_of(source) {
            Place::Outside => &mut self.outside_fragments,
            Place::Container | Place::Loopback => &mut self.fragments,
        }
    }

    /// The first fragment of a packet of the host's, which is here because others of its packet are: all of them go back.
    /// One after the other, since the host's stack gives up a packet that many fragments of others come between
    /// (`ipfrag_max_dist`).
    pub(super) fn give_back(&mut self, source: &Source<'_>, frame: &Frame, packet: &Packet) -> Routed {
        let key = packet.fragment_key(source.port.id);
        // If they overlap, the host will see.
        let waiting = self.outside_fragments.first(key, packet, FragmentDecision::GiveBack, source.now.s);
        self.pending.given_back.extend(waiting.unwrap_or_default());
        if !frame.is_linear() {
            return Routed::Send(source.port.id);
        }
        self.pending.given_back.push(held_of(source, frame));
        Routed::Held
    }

    pub(super) fn route_later_fragment(
        &mut self,
        source: &Source<'_>,
        frame: &mut Frame,
        packet: &Packet,
    ) -> Result<Routed, Refusal> {
        let key = packet.fragment_key(source.port.id);
        let kept = match self.fragments_of(source).later(key, packet, source.now.s) {
            Later::Known(decision) => Ok(decision),
            Later::Unknown(room) if frame.is_linear() => match room.hold(held_of(source, frame)) {
                Ok(()) => return Ok(Routed::Held),
                Err(reason) => Err(reason),
            },
            Later::Unknown(_) => Err(DropReason::FragmentsFull),
            Later::Refused(reason) => Err(reason),
        };
        let FragmentAction { rewrite, out, index } = match kept {
            Ok(FragmentDecision::Send(action)) => action,
            Ok(FragmentDecision::GiveBack) => return Ok(Routed::Send(source.port.id)),
            Err(_) if is_undecided(source, frame) => return Ok(Routed::Send(source.port.id)),
            Ok(FragmentDecision::Drop(reason)) | Err(reason) => return Err((reason, None)),
        };
        if out.hop && packet.hops <= 1 {
            return Err((DropReason::TtlExceeded, None));
        }
        if let Some(index) = index {
            self.conntrack.touch(index, source.now.s);
        }
        check_size(source, &out, frame, may_be_fragmented(packet, place_of(source)))?;
        apply(frame, packet, &rewrite, &out)?;
        Ok(Routed::Send(out.port))
    }

    /// Whether fragments wait for their first one.
    #[inline]
    pub(in crate::datapath) fn holds_fragments(&self) -> bool {
        self.fragments.held() + self.outside_fragments.held() > 0
    }

    /// Gives up the packets whose fragments did not come in time.
    pub(in crate::datapath) fn expire_fragments(&mut self, now_s: u32) {
        let Pending { given_back, given_up, .. } = &mut self.pending;
        if !self.fragments.is_empty() {
            self.fragments.expire(now_s, |held, reason| given_up.push((held, reason)));
        }
        if !self.outside_fragments.is_empty() {
            self.outside_fragments.expire(now_s, |held, reason| match held.is_undecided() {
                true => given_back.push(held),
                false => given_up.push((held, reason)),
            });
        }
    }
}

/// A linear frame, to be kept.
fn held_of(source: &Source<'_>, frame: &Frame) -> HeldFragment {
    HeldFragment {
        from: source.port.id,
        incarnation: source.port.incarnation,
        bytes: frame.data().to_vec(),
        offload: frame.offload,
    }
}

/// Whether a frame from outside is the host's if nobody knows better.
pub(super) fn is_undecided(source: &Source<'_>, frame: &Frame) -> bool {
    ethernet::has_group_source(frame.data()) && place_of(source) == Place::Outside
}
