//! The ways in and out of the gateway: routed ports for the shared uplinks and for the host's loopback interface,
//! and the host's own addresses.
//!
//! Theory of operation: [`Switch::settle_gateway`] makes what exists what it should be, and is called after every
//! command and whenever the host changed. A shared uplink is claimed while a bridge that may reach the outside has
//! a container; loopback while something is published. Each of them is a port without a bridge of its own
//! ([`PortKind::Routed`]), whose packets come through an underlay, which tunnels may share with it.
//!
//! What is gone is taken out of the datapath first, and closed when no worker uses it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::Switch;
use super::live::put;
use super::loopback::LoopbackCarry;
use super::overlay::Overlay;
use super::shared_uplinks::SharedCarry;
use crate::control::desired::BridgeRecord;
use crate::control::placement;
use crate::control::refusal::{Result, limit};
use crate::control::uplink::mirror::Mirror;
use crate::datapath::clock::now_s;
use crate::datapath::fdb::{Fdb, FdbLimits};
use crate::io::uplink::{NextHops, RoutedLink};
use crate::io::{Device, Underlay};
use crate::nat::conntrack::Conntrack;
use crate::snapshot::{
    BRIDGES_MAX, BridgeEntry, BridgeId, Outside, PortEntry, PortId, PortKind, Routing, Snapshot, UnderlayEntry,
    VlanMode,
};
use crate::tunnel::TunnelTable;

/// Who needs the shared uplink.
const UPLINK_CLAIM: &str = "containers that reach the outside";
/// Who needs the host's loopback interface.
const LOOPBACK_CLAIM: &str = "published ports";

/// How many fragments that overtook their first one an uplink gives the switch in a 32nd of a second: as many as a worker
/// holds.
const WITHHELD_TC: u32 = 128;
/// The same by AF_XDP: with the first fragments that follow, no more than a quiet socket has chunks for.
const WITHHELD_XDP: u32 = 32;

/// What exists of the gateway beyond its bridges.
#[derive(Debug, Default)]
pub(super) struct GatewayPlane {
    /// The nameless bridge that routed ports are on.
    bridge: Option<BridgeId>,
    outside: Vec<RoutedPort>,
    loopback: Option<RoutedPort>,
    host_addresses: Arc<HashSet<IpAddr>>,
    /// Where the host would send what leaves.
    routes: Option<Arc<dyn NextHops>>,
    /// Whether [`Switch::settle_gateway`] was done once.
    is_settled: bool,
}

/// An interface of the host that is routed to and from.
#[derive(Debug, Clone)]
struct RoutedPort {
    entry: Arc<PortEntry>,
    /// The id and incarnation of its receiving side, where no tunnel's underlay is that.
    underlay: (PortId, u64),
    link: Arc<RoutedLink>,
    way: Way,
}

/// How an interface of the host is carried.
#[derive(Debug, Clone)]
struct Way {
    index: u32,
    name: String,
    mtu: u32,
    /// The addresses that packets leave with, the preferred one first.
    addresses: Vec<IpAddr>,
    device: Arc<dyn Device>,
    next_hops: Option<Arc<dyn NextHops>>,
    /// The TAP that carries it, if one does.
    tap: Option<String>,
}

impl From<LoopbackCarry> for Way {
    fn from(LoopbackCarry { index, name, mtu, device, tap }: LoopbackCarry) -> Self {
        Self { index, name, mtu, addresses: Vec::new(), device, next_hops: None, tap }
    }
}

impl RoutedPort {
    fn is(&self, way: &Way) -> bool {
        Arc::ptr_eq(&self.way.device, &way.device) && self.way.mtu == way.mtu
    }
}

impl GatewayPlane {
    /// The interfaces by name, with their ids and with the interface that has the kernel's counters, if there is one.
    pub(super) fn routed_ports(&self) -> impl Iterator<Item = (&str, [PortId; 2], Option<String>)> {
        let ports = self.outside.iter().chain(&self.loopback);
        ports.map(|port| (port.entry.name.as_str(), [port.entry.id, port.underlay.0], port.way.tap.clone()))
    }

    /// Adds the routed ports to `snapshot`, which has everything else.
    pub(super) fn complete(&self, snapshot: &mut Snapshot, overlay: &Overlay, workers: usize) {
        let outside = |port: &RoutedPort| Outside {
            port: port.entry.id,
            index: port.way.index,
            addresses: port.way.addresses.clone(),
        };
        snapshot.routing = Arc::new(Routing {
            host_addresses: Arc::clone(&self.host_addresses),
            outside: self.outside.iter().map(outside).collect(),
            routes: self.routes.clone(),
            loopback: self.loopback.as_ref().map(|port| port.entry.id),
            services: Arc::clone(&snapshot.routing.services),
            is_settled: self.is_settled,
        });
        let Some(id) = self.bridge else { return };
        let ports = || self.outside.iter().chain(&self.loopback);
        for port in ports() {
            put(&mut snapshot.ports, port.entry.id.index(), Arc::clone(&port.entry));
            let tunnels = overlay.underlay_over(&port.way.device);
            match tunnels.and_then(|id| snapshot.underlays.iter_mut().find(|entry| entry.id == id)) {
                Some(entry) => {
                    *entry = Arc::new(UnderlayEntry { routed: Some(port.entry.id), ..UnderlayEntry::clone(entry) });
                }
                None => snapshot.underlays.push(Arc::new(UnderlayEntry {
                    id: port.underlay.0,
                    incarnation: port.underlay.1,
                    name: port.entry.name.clone(),
                    reader: placement::reader_of_new_port(workers, Underlay::home(&*port.link)),
                    device: Arc::clone(&port.link) as Arc<dyn Underlay>,
                    tunnels: Arc::new(TunnelTable::new(&[])),
                    routed: Some(port.entry.id),
                })),
            }
        }
        let bridge = BridgeEntry {
            id,
            name: String::new(),
            fdb: Arc::new(Fdb::new(FdbLimits { ageing_s: 1, mac_limit: 0, port_mac_limit: 0 })),
            icc: false,
            storm_limit: None,
            ports: ports().map(|port| port.entry.id).collect(),
            neighbours: None,
            vlan_aware: false,
            gateway: None,
        };
        put(&mut snapshot.bridges, id.index(), Arc::new(bridge));
    }
}

impl Switch {
    /// Makes the ways in and out what they should be now, and publishes if that changed anything.
    pub fn settle_gateway(&mut self) {
        let has_gateway = self.desired.bridges.values().any(|bridge| !bridge.l2);
        if has_gateway && let Err(error) = self.uplinks.watch() {
            tracing::warn!(error = %error.message, "the host's addresses are not known");
        }
        let outside_wanted = self.is_outside_wanted();
        let loopback_wanted = self.is_loopback_wanted();
        if outside_wanted || loopback_wanted {
            self.claim_ways(outside_wanted, loopback_wanted);
        }
        let outside = if outside_wanted { self.ways_out() } else { Vec::new() };
        let loopback = self.loopback_carry().filter(|_| loopback_wanted).map(Way::from);
        self.follow_host_ports(!outside.is_empty(), loopback_wanted);
        if !outside.is_empty() && self.gateway.routes.is_none() {
            self.gateway.routes = self.uplinks.watch().ok().map(|watch| watch.next_hops());
        }
        let mut changed = self.follow_addresses();
        let is_gone = |port: &mut RoutedPort| !outside.iter().chain(&loopback).any(|way| port.is(way));
        let mut gone: Vec<_> = self.gateway.outside.extract_if(.., is_gone).collect();
        gone.extend(self.gateway.loopback.take_if(is_gone));
        changed |= !gone.is_empty();
        if let Some(classifier) = self.uplinks.classifier() {
            // Nobody will be there to give them back.
            gone.iter().for_each(|port| classifier.pass_fragments(port.way.index));
        }
        for way in outside {
            if let Some(port) = self.gateway.outside.iter_mut().find(|port| port.is(&way)) {
                changed |= port.way.addresses != way.addresses;
                port.way = way;
            } else if let Some(port) = self.routed_port(way) {
                self.gateway.outside.push(port);
                changed = true;
            }
        }
        if let Some(way) = loopback.filter(|_| self.gateway.loopback.is_none()) {
            self.gateway.loopback = self.routed_port(way);
            changed |= self.gateway.loopback.is_some();
        }
        changed |= !std::mem::replace(&mut self.gateway.is_settled, true);
        if changed {
            self.publish(&self.desired);
            self.withhold_fragments();
        }
        for port in gone {
            self.forget_routed(&port);
        }
        self.release_ways();
    }

    /// Has the classifier give the datapath what may be the host's and may be not, now that it gives that back.
    fn withhold_fragments(&mut self) {
        let Some(classifier) = self.uplinks.classifier() else { return };
        for port in &self.gateway.outside {
            let withheld = if port.way.tap.is_some() { WITHHELD_TC } else { WITHHELD_XDP };
            if let Err(error) = classifier.withhold_fragments(port.way.index, withheld) {
                tracing::warn!(%error, "packets whose fragments come out of order do not reach containers");
            }
        }
    }

    /// The connections.
    #[must_use]
    pub fn conntrack(&self) -> Arc<Conntrack> {
        Arc::clone(self.datapath.conntrack())
    }

    fn is_outside_wanted(&self) -> bool {
        let reaches_outside = |bridge: &BridgeRecord| !bridge.l2 && !bridge.internal && !bridge.ports.is_empty();
        self.desired.bridges.values().any(reaches_outside)
    }

    fn is_loopback_wanted(&self) -> bool {
        let ports = self.desired.bridges.values().flat_map(|bridge| bridge.ports.values());
        ports.into_iter().any(|port| !port.publications.is_empty())
    }

    /// Says what is needed, and has the host's interfaces looked at once for both.
    fn claim_ways(&mut self, outside: bool, loopback: bool) {
        if let Err(error) = self.uplinks.watch() {
            tracing::warn!(error = %error.message, "nothing leaves the host, and the host does not reach what is published");
            return;
        }
        self.uplinks.claim(outside.then_some(UPLINK_CLAIM), loopback.then_some(LOOPBACK_CLAIM));
        self.follow_shared();
    }

    /// The shared uplinks as packets leave by them.
    fn ways_out(&self) -> Vec<Way> {
        let way = |carry: SharedCarry| {
            let addresses = self.uplinks.look(|mirror| mirror.source_addresses(carry.index)).unwrap_or_default();
            let SharedCarry { index, name, mtu, device, next_hops, tap, .. } = carry;
            Way { index, name, mtu, addresses, device, next_hops, tap }
        };
        self.shared_carries().into_iter().map(way).collect()
    }

    /// Leaves interfaces of the host alone that nothing needs any more, and that the datapath does not have.
    fn release_ways(&mut self) {
        if !self.is_outside_wanted() {
            self.release_uplink(UPLINK_CLAIM);
        }
        if !self.is_loopback_wanted() {
            self.release_loopback(LOOPBACK_CLAIM);
        }
    }

    /// Brings the set of the host's addresses up to date; whether it changed.
    fn follow_addresses(&mut self) -> bool {
        let addresses = self.uplinks.look(Mirror::host_addresses);
        match addresses.filter(|addresses| *addresses != *self.gateway.host_addresses) {
            Some(addresses) => {
                let conntrack = self.datapath.conntrack();
                for gone in self.gateway.host_addresses.difference(&addresses) {
                    // Nothing that comes for it comes here any more.
                    conntrack.purge_external(*gone, now_s());
                }
                self.gateway.host_addresses = Arc::new(addresses);
                true
            }
            None => false,
        }
    }

    /// A routed port over what carries an interface.
    fn routed_port(&mut self, way: Way) -> Option<RoutedPort> {
        let ids = self.routed_ids();
        let ids = ids.map_err(|error| {
            tracing::warn!(interface = %way.name, error = %error.message, "nothing is routed to and from it");
        });
        let (bridge, [(id, incarnation), underlay]) = ids.ok()?;
        let link = RoutedLink::new(Arc::clone(&way.device), way.next_hops.clone(), way.index);
        let entry = PortEntry {
            id,
            incarnation,
            name: way.name.clone(),
            bridge,
            kind: PortKind::Routed,
            group: None,
            learning: false,
            flooding: false,
            vlan: VlanMode::Transparent,
            mtu: way.mtu,
            ingress_rate_bps: None,
            egress_bucket: None,
            guard: None,
            hairpins: Arc::default(),
            // Its underlay is read.
            reader: None,
            device: Arc::clone(&link) as Arc<dyn Device>,
        };
        Some(RoutedPort { entry: Arc::new(entry), underlay, link, way })
    }

    /// The bridge of routed ports, and ids for one and its receiving side.
    fn routed_ids(&mut self) -> Result<(BridgeId, [(PortId, u64); 2])> {
        let bridge = match self.gateway.bridge {
            Some(bridge) => bridge,
            None => {
                let id = self.live.bridge_ids.allocate(BRIDGES_MAX);
                let id = id.ok_or_else(|| limit("there are as many bridges as there can be", "remove one first"))?;
                *self.gateway.bridge.insert(BridgeId(id))
            }
        };
        Ok((bridge, [self.new_port_id()?, self.new_port_id()?]))
    }

    /// Lets go of a routed port that no worker uses any more.
    fn forget_routed(&mut self, port: &RoutedPort) {
        for id in [port.entry.id, port.underlay.0] {
            self.datapath.retire_port_counters(id);
            self.live.port_ids.release(id.0);
        }
    }
}
