//! The configuration as the datapath sees it: immutable, dense, indexed by id.
//!
//! The control plane compiles its desired state into a [`Snapshot`] and publishes it; each worker
//! adopts the newest one between two bursts. Nothing in a snapshot ever changes, except what it
//! deliberately shares with its successors: a bridge's forwarding database and a port's egress
//! rate bucket, which must survive a publication, are `Arc`s that the next snapshot holds too.
//!
//! Ids are small and reused; a port's *incarnation* is not, so that a worker can tell a port that
//! was replaced under the same id.

use std::fmt;
use std::sync::Arc;

use crate::datapath::fdb::Fdb;
use crate::datapath::neighbours::Neighbours;
use crate::datapath::rate::SharedBucket;
use crate::io::{Device, Underlay};
use crate::tunnel::TunnelTable;

pub mod publish;
mod routing;
mod sync;

pub use routing::{GatewayEntry, Guard, Hairpins, Outside, Routing, Station};

/// The most ports of one daemon, host ports included.
pub const PORTS_MAX: usize = 8192;
/// The most bridges of one daemon.
pub const BRIDGES_MAX: usize = 1024;

/// A port's index into [`Snapshot::ports`]; smaller than [`PORTS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

impl PortId {
    /// As an index.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A bridge's index into [`Snapshot::bridges`]; smaller than [`BRIDGES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BridgeId(pub u16);

impl BridgeId {
    /// As an index.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// The host's own interface on the bridge: reachable also under `icc off`.
    Host,
    /// A container.
    Container,
    /// A physical interface on the bridge: the outside, reachable also under `icc off`.
    Uplink,
    /// A remote end of a tunnel: containers elsewhere. Each remote is a port of its own, so that
    /// learning an address *behind a remote*, and flooding to all of them, need nothing special.
    Tunnel,
    /// An interface of the host that packets are routed to and from: a shared uplink, or loopback. It is on no
    /// bridge but a nameless one of its own.
    Routed,
}

/// A set of VLAN ids, 0 to 4095; 0 stands for untagged frames.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// The set of `vids`.
    pub fn new(vids: impl IntoIterator<Item = u16>) -> Self {
        let mut bits = Box::new([0; 64]);
        for vid in vids {
            bits[usize::from(vid & 0xfff) / 64] |= 1 << (vid % 64);
        }
        Self(bits)
    }

    /// Whether the set has `vid`.
    #[inline]
    #[must_use]
    pub fn contains(&self, vid: u16) -> bool {
        self.0[usize::from(vid & 0xfff) / 64] & (1 << (vid % 64)) != 0
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..4096).filter(|&vid| self.contains(vid))).finish()
    }
}

/// Which VLANs a port carries, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VlanMode {
    /// Every VLAN, tagged; untagged frames are VLAN 0. A port without VLAN configuration.
    Transparent,
    /// Untagged frames only, which belong to this VLAN.
    Access(u16),
    /// Tagged frames of these VLANs only; untagged frames if the set has 0.
    Trunk(VlanSet),
}

/// A port as the datapath sees it.
#[derive(Debug, Clone)]
pub struct PortEntry {
    /// The port's index.
    pub id: PortId,
    /// Different for every port that ever was, also under a reused id.
    pub incarnation: u64,
    /// The port's name, for logs.
    pub name: String,
    /// Its bridge.
    pub bridge: BridgeId,
    /// What it is for.
    pub kind: PortKind,
    /// Ports of one group never reach each other: the remotes of one tunnel (split horizon).
    pub group: Option<u16>,
    /// Whether source addresses are learned from what the port sends.
    pub learning: bool,
    /// Whether frames to unknown and group addresses go to the port.
    pub flooding: bool,
    /// Its VLANs.
    pub vlan: VlanMode,
    /// The largest IP packet that the port takes, in bytes.
    pub mtu: u32,
    /// The most that the port may send into the switch, in bits per second.
    pub ingress_rate_bps: Option<u64>,
    /// The bucket that limits what is delivered to the port, shared by all workers.
    pub egress_bucket: Option<Arc<SharedBucket>>,
    /// The worker that reads the port; none while it moves from one to another.
    pub reader: Option<u16>,
    /// What it may send as; none for whoever may send anything.
    pub guard: Option<Arc<Guard>>,
    /// See [`Hairpins`].
    pub hairpins: Hairpins,
    /// Where its frames come from and go to.
    pub device: Arc<dyn Device>,
}

/// A bridge as the datapath sees it.
#[derive(Debug, Clone)]
pub struct BridgeEntry {
    /// The bridge's index.
    pub id: BridgeId,
    /// The bridge's name, for logs.
    pub name: String,
    /// What it learned; shared with the bridge's other snapshots.
    pub fdb: Arc<Fdb>,
    /// Whether containers reach one another.
    pub icc: bool,
    /// The most flooded frames per second that one port may cause; none for no limit.
    pub storm_limit: Option<u32>,
    /// The bridge's ports, the order of flooding.
    pub ports: Vec<PortId>,
    /// What is known of stations behind the bridge's tunnels; none without tunnels.
    pub neighbours: Option<Arc<Neighbours>>,
    /// Whether some port has a VLAN mode other than [`VlanMode::Transparent`].
    pub vlan_aware: bool,
    /// Its gateway; none on an `l2` bridge.
    pub gateway: Option<Arc<GatewayEntry>>,
}

/// Where tunnels arrive: one source of frames for many ports.
#[derive(Debug, Clone)]
pub struct UnderlayEntry {
    /// Its id among the ports: it is no port, but is counted and read like one.
    pub id: PortId,
    /// Different for every port and underlay that ever was, also under a reused id.
    pub incarnation: u64,
    /// Its name, for logs.
    pub name: String,
    /// The worker that reads it; none while it moves from one to another.
    pub reader: Option<u16>,
    /// Where its frames come from.
    pub device: Arc<dyn Underlay>,
    /// Which of them is for which port.
    pub tunnels: Arc<TunnelTable>,
    /// The port that everything else came in through; none where nothing else is expected.
    pub routed: Option<PortId>,
}

/// Everything that the datapath knows of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The ports by id.
    pub ports: Vec<Option<Arc<PortEntry>>>,
    /// The bridges by id.
    pub bridges: Vec<Option<Arc<BridgeEntry>>>,
    /// The underlays.
    pub underlays: Vec<Arc<UnderlayEntry>>,
    /// What is routed where.
    pub routing: Arc<Routing>,
}

impl Snapshot {
    /// The port `id`, if there is one.
    #[inline]
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Arc<PortEntry>> {
        self.ports.get(id.index())?.as_ref()
    }

    /// The bridge `id`, if there is one.
    #[inline]
    #[must_use]
    pub fn bridge(&self, id: BridgeId) -> Option<&Arc<BridgeEntry>> {
        self.bridges.get(id.index())?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlan_sets_hold_what_they_were_given() {
        let set = VlanSet::new([0, 1, 63, 64, 4094]);
        for vid in 0..4096 {
            assert_eq!(set.contains(vid), [0, 1, 63, 64, 4094].contains(&vid), "{vid}");
        }
    }
}
