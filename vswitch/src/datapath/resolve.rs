//! The slow path: what to do with a frame whose flow is not in the cache.
//!
//! The order is that of IEEE 802.1Q: is the frame allowed in, learn its source, find its
//! destination, is it allowed out. Everything that a decision depends on is either in the flow's
//! key or changes the bridge's epoch when it changes, so a decision may be cached under the epoch
//! that was read *before* it was made. Not cached are floods to unknown destinations, which must
//! end the moment the destination is learned, and drops that end with time alone.

use super::clock::Now;
use super::fdb::LearnOutcome;
use super::flow::{FlowKey, TagOp, Verdict};
use crate::frame::DropReason;
use crate::snapshot::{BridgeEntry, PortEntry, PortId, PortKind, Snapshot, VlanMode};

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// What to do.
    pub verdict: Verdict,
    /// The stamp of the source in the forwarding database, if the decision may be cached.
    pub cache: Option<u32>,
    /// A loop that this frame revealed.
    pub looped: Option<Loop>,
}

/// A loop: a source address that flaps between ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loop {
    /// The address.
    pub mac: [u8; 6],
    /// The VLAN that it flaps in, or 0.
    pub vlan: u16,
    /// The port that it is now held on, and the other one that it was last seen on.
    pub ports: [PortId; 2],
}

impl Resolution {
    fn once(verdict: Verdict) -> Self {
        Self { verdict, cache: None, looped: None }
    }
}

/// A stamp that refreshes nothing: for cached decisions about frames that teach nothing.
const NO_STAMP: u32 = u32::MAX;

/// Whether the address is a group address (broadcast and multicast).
#[inline]
fn is_group(mac: [u8; 6]) -> bool {
    mac[0] & 1 != 0
}

/// IEEE 802.1Q table 8-1: addresses that a bridge never forwards.
#[inline]
fn is_link_local(mac: [u8; 6]) -> bool {
    mac[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && mac[5] < 0x10
}

/// The VLAN that a frame with `tag` belongs to when it comes in through a port, if it may.
#[must_use]
pub fn ingress_vlan(mode: &VlanMode, tag: Option<u16>) -> Option<u16> {
    match mode {
        VlanMode::Transparent => Some(tag.unwrap_or(0)),
        VlanMode::Access(vid) => tag.is_none_or(|tag| tag == 0).then_some(*vid),
        VlanMode::Trunk(set) => Some(tag.unwrap_or(0)).filter(|&vid| set.contains(vid)),
    }
}

/// How a frame of `vlan` that came with `tag` leaves through a port, if it may.
#[must_use]
pub fn egress_tag(mode: &VlanMode, vlan: u16, tag: Option<u16>) -> Option<TagOp> {
    let tagged_as = |vid: u16| match tag {
        Some(tag) if tag == vid => TagOp::Keep,
        // A priority tag (VID 0) is no VLAN: a port that carries the VLAN untagged may keep it.
        None if vid == 0 => TagOp::Keep,
        _ if vid == 0 => TagOp::Untag,
        _ => TagOp::Tag(vid),
    };
    match mode {
        VlanMode::Transparent => Some(tagged_as(vlan)),
        VlanMode::Access(vid) if *vid == vlan => Some(if tag.is_some() { TagOp::Untag } else { TagOp::Keep }),
        VlanMode::Access(_) => None,
        VlanMode::Trunk(set) => set.contains(vlan).then(|| tagged_as(vlan)),
    }
}

/// Whether isolation lets the two ports talk.
#[inline]
#[must_use]
pub fn may_talk(bridge: &BridgeEntry, from: &PortEntry, to: &PortEntry) -> bool {
    let outside = |port: &PortEntry| matches!(port.kind, PortKind::Host | PortKind::Uplink);
    bridge.icc || outside(from) || outside(to)
}

/// Whether the two ports are remotes of one tunnel, which reach each other without us.
#[inline]
#[must_use]
pub fn same_group(from: &PortEntry, to: &PortEntry) -> bool {
    from.group.is_some() && from.group == to.group
}

/// Decides for a frame with `key` that came in through `port`.
#[must_use]
pub fn resolve(snapshot: &Snapshot, bridge: &BridgeEntry, port: &PortEntry, key: FlowKey, now: Now) -> Resolution {
    let (source, destination, tag) = (key.source(), key.destination(), key.tag());
    let drop = |reason| Resolution { verdict: Verdict::Drop(reason), cache: Some(NO_STAMP), looped: None };
    if is_group(source) {
        return drop(DropReason::Malformed);
    }
    if is_link_local(destination) {
        return drop(DropReason::LinkLocal);
    }
    let Some(vlan) = ingress_vlan(&port.vlan, tag) else { return drop(DropReason::VlanIngress) };
    let (learned, found) = if port.learning {
        bridge.fdb.resolve(source, destination, vlan, port.id, now.s)
    } else {
        (LearnOutcome::Here(NO_STAMP), bridge.fdb.lookup(destination, vlan))
    };
    let stamp = match learned {
        LearnOutcome::Here(stamp) | LearnOutcome::Moved(stamp) => Some(stamp),
        // The frame may pass all the same; only nothing was learned from it.
        LearnOutcome::Full => None,
        LearnOutcome::Pinned => return drop(DropReason::StaticMove),
        LearnOutcome::Loop { home, elsewhere, detected } => {
            return Resolution {
                looped: detected.then_some(Loop { mac: source, vlan, ports: [home, elsewhere] }),
                ..Resolution::once(Verdict::Drop(DropReason::Loop))
            };
        }
    };
    if is_group(destination) {
        return Resolution { verdict: Verdict::Flood, cache: stamp, looped: None };
    }
    let Some(out) = found.and_then(|out| snapshot.port(out)).filter(|out| out.bridge == bridge.id) else {
        return Resolution::once(Verdict::Flood);
    };
    let verdict = if out.id == port.id {
        Verdict::Drop(DropReason::SamePort)
    } else if same_group(port, out) {
        Verdict::Drop(DropReason::SplitHorizon)
    } else if !may_talk(bridge, port, out) {
        Verdict::Drop(DropReason::Isolated)
    } else if let Some(tag) = egress_tag(&out.vlan, vlan, tag) {
        Verdict::Forward(out.id, tag)
    } else {
        Verdict::Drop(DropReason::VlanEgress)
    };
    Resolution { verdict, cache: stamp, looped: None }
}
