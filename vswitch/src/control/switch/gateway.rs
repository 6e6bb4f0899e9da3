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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Switch;
use super::live::put;
use super::overlay::Overlay;
use super::shared_uplinks::SharedCarry;
use crate::control::desired::BridgeRecord;
use crate::control::placement;
use crate::datapath::fdb::{Fdb, FdbLimits};
use crate::io::uplink::RoutedLink;
use crate::io::{Device, Underlay};
use crate::snapshot::{
    BRIDGES_MAX, BridgeEntry, BridgeId, Outside, PortEntry, PortId, PortKind, Routing, Snapshot, UnderlayEntry,
    VlanMode,
};
use crate::tunnel::TunnelTable;

/// Who needs the shared uplink.
const UPLINK_CLAIM: &str = "containers that reach the outside";

/// What exists of the gateway beyond its bridges.
#[derive(Debug, Default)]
pub(super) struct GatewayPlane {
    /// The nameless bridge that routed ports are on.
    bridge: Option<BridgeId>,
    outside: Vec<RoutedPort>,
    loopback: Option<RoutedPort>,
    host_addresses: Arc<HashSet<IpAddr>>,
}

/// An interface of the host that is routed to and from.
#[derive(Debug, Clone)]
struct RoutedPort {
    entry: Arc<PortEntry>,
    /// The id and incarnation of its receiving side, where no tunnel's underlay is that.
    underlay: (PortId, u64),
    link: Arc<RoutedLink>,
    carry: SharedCarry,
}

impl RoutedPort {
    fn is(&self, carry: &SharedCarry) -> bool {
        Arc::ptr_eq(&self.carry.device, &carry.device) && self.carry.mtu == carry.mtu
    }
}

impl GatewayPlane {
    /// The ports by name, for counters.
    pub(super) fn named_ports(&self) -> impl Iterator<Item = (&str, PortId)> {
        self.outside.iter().chain(&self.loopback).flat_map(|port| {
            let name = port.entry.name.as_str();
            [(name, port.entry.id), (name, port.underlay.0)]
        })
    }

    /// Adds the routed ports to `snapshot`, which has everything else.
    pub(super) fn complete(&self, snapshot: &mut Snapshot, overlay: &Overlay, workers: usize) {
        let outside = |port: &RoutedPort| Outside { port: port.entry.id, addresses: port.carry.addresses.clone() };
        snapshot.routing = Arc::new(Routing {
            host_addresses: Arc::clone(&self.host_addresses),
            outside: self.outside.iter().map(outside).collect(),
            loopback: self.loopback.as_ref().map(|port| port.entry.id),
            services: Arc::clone(&snapshot.routing.services),
        });
        let Some(id) = self.bridge else { return };
        let ports = || self.outside.iter().chain(&self.loopback);
        for port in ports() {
            put(&mut snapshot.ports, port.entry.id.index(), Arc::clone(&port.entry));
            let tunnels = overlay.underlay_over(&port.carry.device);
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
        let reaches_outside = |bridge: &BridgeRecord| !bridge.l2 && !bridge.internal && !bridge.ports.is_empty();
        let has_gateway = self.desired.bridges.values().any(|bridge| !bridge.l2);
        let carries = if self.desired.bridges.values().any(reaches_outside) {
            self.claim_uplink(UPLINK_CLAIM).unwrap_or_else(|error| {
                tracing::warn!(error = %error.message, "nothing leaves the host");
                Vec::new()
            })
        } else {
            Vec::new()
        };
        if has_gateway && let Err(error) = self.uplinks.watch() {
            tracing::warn!(error = %error.message, "the host's addresses are not known");
        }
        let mut changed = self.follow_addresses();
        let gone: Vec<_> = self
            .gateway
            .outside
            .extract_if(.., |port| !carries.iter().any(|carry| port.is(carry)))
            .collect();
        changed |= !gone.is_empty();
        for carry in &carries {
            if let Some(port) = self.gateway.outside.iter_mut().find(|port| port.is(carry)) {
                changed |= port.carry.addresses != carry.addresses;
                port.carry.addresses.clone_from(&carry.addresses);
                continue;
            }
            match self.routed_port(carry) {
                Ok(port) => {
                    self.gateway.outside.push(port);
                    changed = true;
                }
                Err(error) => tracing::warn!(uplink = %carry.name, error = %error.message, "nothing leaves by it"),
            }
        }
        if changed {
            self.publish(&self.desired);
        }
        for port in gone {
            self.forget_routed(port);
        }
        if carries.is_empty() {
            self.release_uplink(UPLINK_CLAIM);
        }
    }

    /// Brings the set of the host's addresses up to date; whether it changed.
    fn follow_addresses(&mut self) -> bool {
        let addresses = self.uplinks.look(|mirror| {
            let own = mirror.addresses().iter().map(|address| address.net.addr());
            own.chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect::<HashSet<_>>()
        });
        let Some(addresses) = addresses.filter(|addresses| *addresses != *self.gateway.host_addresses) else {
            return false;
        };
        self.gateway.host_addresses = Arc::new(addresses);
        true
    }

    /// A routed port over what carries an interface.
    fn routed_port(&mut self, carry: &SharedCarry) -> crate::control::refusal::Result<RoutedPort> {
        let bridge = match self.gateway.bridge {
            Some(bridge) => bridge,
            None => {
                let id = self.live.bridge_ids.allocate(BRIDGES_MAX).ok_or_else(|| {
                    crate::control::refusal::limit("there are as many bridges as there can be", "remove one first")
                })?;
                *self.gateway.bridge.insert(BridgeId(id))
            }
        };
        let (id, incarnation) = self.new_port_id()?;
        let underlay = self.new_port_id()?;
        let link = RoutedLink::new(Arc::clone(&carry.device), carry.next_hops.clone(), carry.index);
        let entry = PortEntry {
            id,
            incarnation,
            name: carry.name.clone(),
            bridge,
            kind: PortKind::Routed,
            group: None,
            learning: false,
            flooding: false,
            vlan: VlanMode::Transparent,
            mtu: carry.mtu,
            ingress_rate_bps: None,
            egress_bucket: None,
            guard: None,
            hairpins: Arc::default(),
            // Its underlay is read.
            reader: None,
            device: Arc::clone(&link) as Arc<dyn Device>,
        };
        Ok(RoutedPort { entry: Arc::new(entry), underlay, link, carry: carry.clone() })
    }

    /// Lets go of a routed port that no worker uses any more.
    fn forget_routed(&mut self, port: RoutedPort) {
        for id in [port.entry.id, port.underlay.0] {
            self.datapath.retire_port_counters(id);
            self.live.port_ids.release(id.0);
        }
    }
}
