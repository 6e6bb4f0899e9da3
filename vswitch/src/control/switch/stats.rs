//! Counters, gathered from the datapath and from the kernel's side of each interface.
//!
//! The kernel's counters cost a visit to each namespace. That is done without holding the switch:
//! [`Switch::stats_plan`] says what to visit, [`StatsPlan::gather`] visits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Switch;
use super::identity::Lookup;
use super::interface::link_here;
use super::overlay::UnderlayKey;
use crate::api::{
    Balance, Counters, GatewayStats, NeighbourStats, PortStats, RemoteStats, Stats, TunnelStats, UnderlayStats,
    WorkerStats,
};
use crate::control::desired::PortRecord;
use crate::control::netlink::Netlink;
use crate::control::refusal::{Result, invalid};
use crate::datapath::neighbours::Neighbours;
use crate::datapath::{Datapath, PortCounters};
use crate::frame::DropReason;
use crate::nat::conntrack::{Counts, Refusal};
use crate::snapshot::PortId;

/// What counters to gather.
#[derive(Debug)]
pub struct StatsPlan {
    datapath: Arc<Datapath>,
    ports: Vec<PlannedPort>,
    tunnels: Vec<PlannedTunnel>,
    underlays: Vec<(UnderlayKey, PortId)>,
    neighbours: Vec<(String, Arc<Neighbours>)>,
}

#[derive(Debug)]
struct PlannedTunnel {
    bridge: String,
    name: String,
    vteps: Vec<(IpAddr, PortId)>,
}

#[derive(Debug)]
struct PlannedPort {
    bridge: String,
    name: String,
    /// Its ids: a routed interface has one for each direction.
    ids: Vec<PortId>,
    /// Where the interface is; none for the host's own, which is here.
    record: Option<PortRecord>,
    /// The name of an interface that is here, where it is not the port's.
    interface: Option<String>,
    /// What was dropped before the switch could read it, where not the interface but its sockets know.
    dropped: Option<u64>,
}

impl Switch {
    /// What counters to gather for the named bridge and port, or for all.
    ///
    /// # Errors
    /// There is no such bridge or port, or a port is named without its bridge.
    pub fn stats_plan(&self, bridge: Option<&str>, port: Option<&str>) -> Result<StatsPlan> {
        let port = match (bridge, port) {
            (None, Some(port)) => {
                return Err(invalid(format!("the port {port:?} was named without its bridge"), "name the bridge, too"));
            }
            (Some(bridge), port) => {
                let record = self.desired.bridge(bridge)?;
                match port {
                    Some(port) if port == bridge && !record.l2 => Some(bridge.to_owned()),
                    Some(port) if record.tunnels.contains_key(port) || record.uplinks.contains_key(port) => {
                        Some(port.to_owned())
                    }
                    Some(port) => Some(record.find_port(bridge, port)?.to_owned()),
                    None => None,
                }
            }
            (None, None) => None,
        };
        let mut ports = Vec::new();
        for (name, live) in &self.live.bridges {
            if bridge.is_some_and(|bridge| bridge != name) {
                continue;
            }
            let host = live.host.iter().map(|host| (name, host, None));
            let containers = live
                .ports
                .iter()
                .filter_map(|(port_name, port)| Some((port_name, port, Some(self.record(name, port_name)?.1.clone()))));
            ports.extend(
                host.chain(containers)
                    .filter(|(port_name, ..)| port.as_ref().is_none_or(|port| port == *port_name))
                    .map(|(port_name, live, record)| PlannedPort {
                        bridge: name.clone(),
                        name: port_name.clone(),
                        ids: vec![live.id],
                        record,
                        interface: None,
                        dropped: None,
                    }),
            );
            for (uplink_name, uplink) in &live.uplinks {
                let Ok(attachment) = &uplink.attachment else { continue };
                if port.as_ref().is_none_or(|port| port == uplink_name) {
                    ports.push(PlannedPort {
                        bridge: name.clone(),
                        name: uplink_name.clone(),
                        ids: vec![attachment.entry.id],
                        record: None,
                        interface: attachment.carry.tap().map(str::to_owned),
                        dropped: attachment.carry.dropped(),
                    });
                }
            }
        }
        if bridge.is_none() {
            ports.extend(self.gateway.routed_ports().map(|(name, ids, interface)| PlannedPort {
                bridge: String::new(),
                name: name.to_owned(),
                ids: ids.to_vec(),
                record: None,
                interface,
                dropped: None,
            }));
        }
        let overlay = &self.live.overlay;
        let mut plan = StatsPlan {
            datapath: Arc::clone(&self.datapath),
            ports,
            tunnels: Vec::new(),
            underlays: Vec::new(),
            neighbours: Vec::new(),
        };
        let mut used = BTreeSet::new();
        for ((bridge_name, name), live) in &overlay.tunnels {
            if bridge.is_some_and(|bridge| bridge != bridge_name) || port.as_ref().is_some_and(|port| port != name) {
                continue;
            }
            let record = self.desired.bridge(bridge_name)?.tunnel(bridge_name, name)?;
            used.extend(record.underlay());
            let vteps = live.vteps.iter().map(|(remote, vtep)| (*remote, vtep.entry.id)).collect();
            plan.tunnels.push(PlannedTunnel { bridge: bridge_name.clone(), name: name.clone(), vteps });
        }
        let underlays = overlay.underlays.iter().filter(|(key, _)| used.contains(*key));
        plan.underlays.extend(underlays.map(|(key, live)| (*key, live.id)));
        let shown = |bridge: &&String| plan.tunnels.iter().any(|tunnel| tunnel.bridge == **bridge);
        let neighbours: Vec<_> = overlay
            .neighbours
            .iter()
            .filter(|(bridge, _)| shown(bridge))
            .map(|(b, n)| (b.clone(), Arc::clone(n)))
            .collect();
        plan.neighbours = neighbours;
        Ok(plan)
    }
}

impl StatsPlan {
    /// Gathers the counters. A namespace that cannot be asked leaves a gap.
    #[must_use]
    pub fn gather(self) -> Stats {
        let workers = self.datapath.worker_counters();
        let totals = self.datapath.totals();
        let lookup = Lookup::default();
        Stats {
            ports: self.ports.iter().map(|port| port.gather(&self.datapath, &lookup)).collect(),
            tunnels: self.tunnels.iter().map(|tunnel| tunnel.gather(&self.datapath)).collect(),
            underlays: self
                .underlays
                .iter()
                .map(|((local, port), id)| UnderlayStats {
                    local: *local,
                    port: *port,
                    total: describe(&total(&self.datapath, *id)),
                })
                .collect(),
            neighbours: self
                .neighbours
                .iter()
                .map(|(bridge, neighbours)| NeighbourStats {
                    bridge: bridge.clone(),
                    known: neighbours.known(),
                    answered: neighbours.answered(),
                })
                .collect(),
            workers: workers
                .iter()
                .enumerate()
                .map(|(worker, counters)| WorkerStats {
                    worker,
                    cache_hits: counters.cache_hits,
                    cache_misses: counters.cache_misses,
                    bursts: counters.bursts,
                    sleeps: counters.sleeps,
                    frames_outstanding: counters.frames_outstanding,
                    frames_total: counters.frames_total,
                    ports: usize::try_from(counters.ports).unwrap_or(usize::MAX),
                })
                .collect(),
            gateway: gateway(&self.datapath.conntrack().counts()),
            balance: balance(&totals),
            drops: drops(&totals),
        }
    }
}

impl PlannedPort {
    fn gather(&self, datapath: &Datapath, lookup: &Lookup) -> PortStats {
        let mut total = PortCounters::default();
        let mut workers = BTreeMap::new();
        for worker in 0..datapath.workers() {
            let mut sum = PortCounters::default();
            for id in &self.ids {
                datapath.port_counters(*id).get(worker).into_iter().for_each(|counters| sum.add(counters));
            }
            if sum != PortCounters::default() {
                total.add(&sum);
                workers.insert(worker, describe(&sum));
            }
        }
        let kernel = self.kernel(lookup);
        PortStats {
            port: self.name.clone(),
            bridge: self.bridge.clone(),
            total: describe(&total),
            workers,
            kernel_tx_dropped: kernel.map(|(tx, _)| tx),
            kernel_rx_dropped: kernel.map(|(_, rx)| rx),
        }
    }

    /// What the kernel dropped on either side of the interface.
    fn kernel(&self, lookup: &Lookup) -> Option<(u64, u64)> {
        if let Some(dropped) = self.dropped {
            return Some((dropped, 0));
        }
        let link = match &self.record {
            None => {
                let name = self.interface.as_ref().unwrap_or(&self.name);
                Netlink::open().ok()?.link_by_name(name).ok()?
            }
            Some(record) => lookup.open(record)?.run(|| link_here(record)).ok()?.ok()?,
        };
        link.map(|link| (link.tx_dropped, link.rx_dropped))
    }
}

impl PlannedTunnel {
    fn gather(&self, datapath: &Datapath) -> TunnelStats {
        let mut sum = PortCounters::default();
        let mut remotes = Vec::with_capacity(self.vteps.len());
        for (remote, id) in &self.vteps {
            let counters = total(datapath, *id);
            sum.add(&counters);
            remotes.push(RemoteStats { remote: *remote, total: describe(&counters) });
        }
        TunnelStats { tunnel: self.name.clone(), bridge: self.bridge.clone(), total: describe(&sum), remotes }
    }
}

/// The counters of `id`, summed over the workers.
fn total(datapath: &Datapath, id: PortId) -> PortCounters {
    let mut sum = PortCounters::default();
    datapath.port_counters(id).iter().for_each(|counters| sum.add(counters));
    sum
}

fn describe(counters: &PortCounters) -> Counters {
    Counters {
        rx_frames: counters.rx_frames,
        rx_bytes: counters.rx_bytes,
        tx_frames: counters.tx_frames,
        tx_bytes: counters.tx_bytes,
        flood_copies: counters.flood_copies,
        segments: counters.segments,
        coalesced: counters.coalesced,
        drops: drops(counters),
    }
}

/// What the gateway has to do; refusals are called what the packets that met them are counted as.
fn gateway(counts: &Counts) -> GatewayStats {
    let reason = |refusal: Refusal| match refusal {
        Refusal::PortsExhausted => DropReason::PortsExhausted.name(),
        Refusal::ContainerLimit => DropReason::ConnectionLimit.name(),
        Refusal::TableFull => DropReason::ConntrackFull.name(),
        Refusal::NoConnection => DropReason::NoConnection.name(),
        Refusal::Invalid => "invalid",
    };
    let refused = Refusal::ALL.into_iter().map(|refusal| (reason(refusal).to_owned(), counts.refused_for(refusal)));
    GatewayStats {
        connections: counts.connections,
        mappings: counts.mappings,
        held: counts.held,
        refused: refused.filter(|(_, count)| *count > 0).collect(),
    }
}

/// The drops by name, reasons that never occurred left out.
fn drops(counters: &PortCounters) -> BTreeMap<String, u64> {
    DropReason::ALL
        .iter()
        .zip(&counters.drops)
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| (reason.name().to_owned(), *count))
        .collect()
}

fn balance(totals: &PortCounters) -> Balance {
    Balance {
        received: totals.rx_frames,
        copies: totals.flood_copies,
        segments: totals.segments,
        coalesced: totals.coalesced,
        sent: totals.tx_frames,
        dropped: totals.dropped(),
        unexplained: totals.unexplained(),
    }
}
