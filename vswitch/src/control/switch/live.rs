//! What exists now: the bridges and ports that the datapath knows, and the snapshot made of them.
//!
//! Ids are small indices and are reused, the lowest free one first, so that the datapath's tables
//! stay dense. An id is released only after every worker has seen the snapshot without it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::gateway_entries::{gateway, guard, services};
use super::overlay::Overlay;
use super::port_link::PortLink;
use crate::control::desired::{BridgeRecord, PortRecord, UplinkRecord};
use crate::control::placement;
use crate::control::uplink::carry::Carry;
use crate::datapath::fdb::{Fdb, FdbLimits};
use crate::datapath::neighbours::Neighbours;
use crate::datapath::rate::SharedBucket;
use crate::io::Device;
use crate::snapshot::{BridgeEntry, BridgeId, PortEntry, PortId, PortKind, Routing, Snapshot, VlanMode, VlanSet};

/// Small indices in use.
#[derive(Debug, Default)]
pub(super) struct Ids {
    used: Vec<bool>,
}

impl Ids {
    /// The lowest free index below `limit`.
    pub(super) fn allocate(&mut self, limit: usize) -> Option<u16> {
        let index = self.used.iter().position(|used| !used).unwrap_or(self.used.len());
        if index >= limit {
            return None;
        }
        if index == self.used.len() {
            self.used.push(true);
        } else {
            self.used[index] = true;
        }
        u16::try_from(index).ok()
    }

    pub(super) fn release(&mut self, id: u16) {
        if let Some(used) = self.used.get_mut(usize::from(id)) {
            *used = false;
        }
    }
}

/// A port as it is now.
#[derive(Debug)]
pub(super) struct LivePort {
    pub(super) id: PortId,
    pub(super) incarnation: u64,
    /// Its interface, and what the datapath knows of it; or why there is none.
    pub(super) attachment: Result<Attachment, String>,
}

/// A port's open interface.
#[derive(Debug, Clone)]
pub(super) struct Attachment {
    /// Declared, and so dropped, before the link: the datapath's devices close before the
    /// interface goes.
    pub(super) entry: Arc<PortEntry>,
    pub(super) link: PortLink,
}

impl LivePort {
    pub(super) fn entry(&self) -> Option<&Arc<PortEntry>> {
        self.attachment.as_ref().ok().map(|attachment| &attachment.entry)
    }

    pub(super) fn link(&self) -> Option<&PortLink> {
        self.attachment.as_ref().ok().map(|attachment| &attachment.link)
    }
}

/// An L2 uplink as it is now.
#[derive(Debug)]
pub(super) struct LiveUplink {
    pub(super) attachment: Result<UplinkAttachment, Detached>,
}

impl LiveUplink {
    pub(super) fn entry(&self) -> Option<&Arc<PortEntry>> {
        self.attachment.as_ref().ok().map(|attachment| &attachment.entry)
    }
}

/// An interface of the host that is carried to the switch.
#[derive(Debug)]
pub(super) struct UplinkAttachment {
    pub(super) carry: Carry,
    pub(super) entry: Arc<PortEntry>,
    /// The interface's index.
    pub(super) index: u32,
}

/// Why an uplink is not attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Detached {
    /// There is no such interface, or nothing needs it.
    Missing,
    /// It was tried.
    Failed(String),
}

impl std::fmt::Display for Detached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no such interface"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A bridge as it is now.
#[derive(Debug)]
pub(super) struct LiveBridge {
    pub(super) id: BridgeId,
    pub(super) fdb: Arc<Fdb>,
    /// The worker that all AF_XDP devices of the bridge belong to.
    pub(super) home: u16,
    /// The host's port; none on an `l2` bridge.
    pub(super) host: Option<LivePort>,
    pub(super) ports: BTreeMap<String, LivePort>,
    /// The physical interfaces.
    pub(super) uplinks: BTreeMap<String, LiveUplink>,
    /// What the gateway has heard of stations that were not given addresses here. A new port may have the address
    /// of an old one, and goes before it.
    pub(super) stations: Arc<Neighbours>,
    /// The last loop that the datapath noticed, for people.
    pub(super) last_loop: Option<(String, Instant)>,
}

impl LiveBridge {
    /// All ports by name, the host's first, which has the name of its bridge, `bridge`.
    pub(super) fn named_ports<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = (&'a str, &'a LivePort)> {
        let host = self.host.iter().map(move |port| (bridge, port));
        host.chain(self.ports.iter().map(|(name, port)| (name.as_str(), port)))
    }

    /// All ports, the host's first.
    pub(super) fn all_ports(&self) -> impl Iterator<Item = &LivePort> {
        self.host.iter().chain(self.ports.values())
    }
}

/// Everything that exists now.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) bridges: BTreeMap<String, LiveBridge>,
    pub(super) port_ids: Ids,
    pub(super) bridge_ids: Ids,
    pub(super) overlay: Overlay,
    /// The groups of split horizon.
    pub(super) group_ids: Ids,
    pub(super) incarnation: u64,
}

impl Live {
    /// A number that no port ever had.
    pub(super) fn next_incarnation(&mut self) -> u64 {
        self.incarnation += 1;
        self.incarnation
    }

    /// The bridge's and the port's name of a port that still is; the host's port has the bridge's name.
    pub(super) fn find(&self, id: PortId, incarnation: u64) -> Option<(String, String)> {
        let is = |port: &LivePort| port.id == id && port.incarnation == incarnation;
        self.bridges.iter().find_map(|(bridge, live)| {
            if live.host.as_ref().is_some_and(is) {
                return Some((bridge.clone(), bridge.clone()));
            }
            live.ports.iter().find(|(_, port)| is(port)).map(|(name, _)| (bridge.clone(), name.clone()))
        })
    }

    /// What the datapath is to know: the ports that have an interface, and all bridges.
    pub(super) fn snapshot(&self, records: &BTreeMap<String, BridgeRecord>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, live) in &self.bridges {
            let Some(record) = records.get(name) else { continue };
            let uplinks = live.uplinks.values().filter_map(LiveUplink::entry);
            let entries: Vec<_> =
                live.all_ports().filter_map(LivePort::entry).chain(uplinks).chain(self.overlay.entries(name)).collect();
            for entry in &entries {
                put(&mut snapshot.ports, entry.id.index(), Arc::clone(entry));
            }
            let bridge = BridgeEntry {
                id: live.id,
                name: name.clone(),
                fdb: Arc::clone(&live.fdb),
                icc: record.icc,
                storm_limit: (record.storm_limit > 0).then_some(record.storm_limit),
                ports: entries.iter().map(|entry| entry.id).collect(),
                neighbours: self.overlay.neighbours.get(name).cloned(),
                vlan_aware: entries.iter().any(|entry| entry.vlan != VlanMode::Transparent),
                gateway: gateway(record, live),
            };
            put(&mut snapshot.bridges, live.id.index(), Arc::new(bridge));
        }
        snapshot.underlays = self.overlay.underlay_entries(records);
        snapshot.routing = Arc::new(Routing { services: services(records, &self.bridges), ..Routing::default() });
        snapshot
    }
}

pub(super) fn put<T>(table: &mut Vec<Option<Arc<T>>>, index: usize, value: Arc<T>) {
    if table.len() <= index {
        table.resize(index + 1, None);
    }
    table[index] = Some(value);
}

/// The limits of a bridge's forwarding database.
pub(super) fn fdb_limits(record: &BridgeRecord) -> FdbLimits {
    FdbLimits { ageing_s: record.ageing_s, mac_limit: record.mac_limit, port_mac_limit: record.port_mac_limit }
}

/// The VLAN that a port's own untagged frames belong to; none where it may send none.
pub(super) fn untagged_vlan(port: &PortRecord) -> Option<u16> {
    match port.vlan {
        Some(vid) => Some(vid),
        None if port.trunk.is_empty() || port.trunk.contains(&0) => Some(0),
        None => None,
    }
}

/// What the datapath is to know of a container's port.
pub(super) fn port_entry(
    (id, incarnation): (PortId, u64),
    name: &str,
    (bridge, record): (BridgeId, &BridgeRecord),
    port: &PortRecord,
    link: &PortLink,
    workers: usize,
) -> PortEntry {
    let vlan = match port.vlan {
        Some(vid) => VlanMode::Access(vid),
        None if port.trunk.is_empty() => VlanMode::Transparent,
        None => VlanMode::Trunk(VlanSet::new(port.trunk.iter().copied())),
    };
    let device = link.device();
    PortEntry {
        id,
        incarnation,
        name: name.to_owned(),
        bridge,
        kind: PortKind::Container,
        group: None,
        learning: true,
        flooding: true,
        vlan,
        mtu: record.port_mtu(port),
        ingress_rate_bps: port.ingress_rate_bps,
        egress_bucket: port.egress_rate_bps.map(|rate| Arc::new(SharedBucket::new(rate))),
        guard: guard(record, port),
        hairpins: Arc::default(),
        reader: placement::reader_of_new_port(workers, device.home()),
        device,
    }
}

/// What the datapath is to know of an L2 uplink.
pub(super) fn uplink_entry(
    (id, incarnation): (PortId, u64),
    name: &str,
    bridge: BridgeId,
    uplink: &UplinkRecord,
    mtu: u32,
    device: Arc<dyn Device>,
    workers: usize,
) -> PortEntry {
    PortEntry {
        id,
        incarnation,
        name: name.to_owned(),
        bridge,
        kind: PortKind::Uplink,
        group: None,
        learning: true,
        flooding: true,
        vlan: uplink.vlan.map_or(VlanMode::Transparent, VlanMode::Access),
        mtu,
        ingress_rate_bps: None,
        egress_bucket: None,
        guard: None,
        hairpins: Arc::default(),
        reader: placement::reader_of_new_port(workers, device.home()),
        device,
    }
}

/// What the datapath is to know of the host's port.
pub(super) fn host_entry(
    (id, incarnation): (PortId, u64),
    bridge_name: &str,
    bridge: BridgeId,
    mtu: u32,
    link: &PortLink,
    workers: usize,
) -> PortEntry {
    let device = link.device();
    PortEntry {
        id,
        incarnation,
        name: bridge_name.to_owned(),
        bridge,
        kind: PortKind::Host,
        group: None,
        learning: true,
        flooding: true,
        vlan: VlanMode::Transparent,
        mtu,
        ingress_rate_bps: None,
        egress_bucket: None,
        guard: None,
        hairpins: Arc::default(),
        reader: placement::reader_of_new_port(workers, device.home()),
        device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_is_given() {
        let mut ids = Ids::default();
        assert_eq!(
            [ids.allocate(3), ids.allocate(3), ids.allocate(3), ids.allocate(3)],
            [Some(0), Some(1), Some(2), None]
        );
        ids.release(1);
        ids.release(0);
        assert_eq!([ids.allocate(3), ids.allocate(3), ids.allocate(3)], [Some(0), Some(1), None]);
    }
}
