//! What exists of the overlay now: underlays, and a port for every VTEP of every tunnel.
//!
//! One function, [`Switch::apply_overlay`], makes what exists equal to what a desired state asks for,
//! whatever the difference is: a command, its undoing, the start of the daemon, an address of the host
//! that came back. It closes nothing: what is not wanted any more is handed to the caller, who lets it
//! go after the workers have seen a snapshot without it, or puts it back.
//!
//! A tunnel whose underlay cannot be had (its local address is gone, say) has no ports. It is *failed*,
//! keeps its record, and is tried again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Switch;
use super::carrier::{self, Carrier};
use crate::api;
use crate::control::desired::{BridgeRecord, Desired, TunnelRecord};
use crate::control::placement;
use crate::control::refusal::{Result, limit};
use crate::datapath::clock::now_s;
use crate::datapath::neighbours::Neighbours;
use crate::io::Device;
use crate::snapshot::{BridgeId, PortEntry, PortId, PortKind, UnderlayEntry, VlanMode, VlanSet};
use crate::tunnel::{TunnelEntry, TunnelTable};

/// Who needs the shared uplink.
const UPLINK_CLAIM: &str = "VXLAN tunnels";
/// The groups of split horizon, one per tunnel.
const GROUPS_MAX: usize = u16::MAX as usize;
/// What is assumed of an underlay that the host has no route to: Ethernet's MTU.
const UNDERLAY_MTU_DEFAULT: u32 = 1500;

/// A local address and UDP port: what tunnels share a socket by.
pub(super) type UnderlayKey = (IpAddr, u16);
/// A tunnel by its bridge's and its own name.
pub(super) type TunnelKey = (String, String);

/// Everything of the overlay that exists now. Cloned before a command, so that it can be put back.
#[derive(Debug, Clone, Default)]
pub(super) struct Overlay {
    pub(super) underlays: BTreeMap<UnderlayKey, LiveUnderlay>,
    pub(super) tunnels: BTreeMap<TunnelKey, LiveTunnel>,
    /// What is known of stations behind tunnels, by bridge.
    pub(super) neighbours: BTreeMap<String, Arc<Neighbours>>,
}

/// An open underlay.
#[derive(Debug, Clone)]
pub(super) struct LiveUnderlay {
    pub(super) id: PortId,
    pub(super) incarnation: u64,
    pub(super) reader: Option<u16>,
    carrier: Carrier,
}

/// A tunnel as it is now.
#[derive(Debug, Clone)]
pub(super) struct LiveTunnel {
    group: u16,
    /// The largest inner IP packet, in bytes.
    pub(super) mtu: u32,
    pub(super) vteps: BTreeMap<IpAddr, LiveVtep>,
    /// Why it carries nothing, if it does not.
    pub(super) failure: Option<String>,
}

/// A VTEP at the other end of a tunnel, as the datapath knows it.
#[derive(Debug, Clone)]
pub(super) struct LiveVtep {
    underlay: UnderlayKey,
    pub(super) entry: Arc<PortEntry>,
}

/// What a new state does not have any more: to be let go once no worker uses it.
#[derive(Debug, Default)]
pub(super) struct Unused {
    vteps: Vec<(String, LiveVtep)>,
    underlays: Vec<LiveUnderlay>,
    groups: Vec<u16>,
}

impl Unused {
    pub(super) fn is_empty(&self) -> bool {
        self.vteps.is_empty() && self.underlays.is_empty()
    }
}

impl Overlay {
    /// The tunnel and the VTEP that the port `id` stands for.
    pub(super) fn find(&self, id: PortId) -> Option<(&TunnelKey, IpAddr)> {
        self.tunnels.iter().find_map(|(key, tunnel)| {
            let (remote, _) = tunnel.vteps.iter().find(|(_, vtep)| vtep.entry.id == id)?;
            Some((key, *remote))
        })
    }

    /// The tunnels of `bridge` by name.
    pub(super) fn of_bridge<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = (&'a str, &'a LiveTunnel)> {
        let tunnels = self.tunnels.iter().filter(move |((of, _), _)| of == bridge);
        tunnels.map(|((_, name), tunnel)| (name.as_str(), tunnel))
    }

    pub(super) fn tunnel(&self, bridge: &str, name: &str) -> Option<&LiveTunnel> {
        self.tunnels.get(&(bridge.to_owned(), name.to_owned()))
    }

    /// The ports of the VTEPs behind `bridge`.
    pub(super) fn entries<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = &'a Arc<PortEntry>> {
        self.of_bridge(bridge).flat_map(|(_, tunnel)| tunnel.vteps.values().map(|vtep| &vtep.entry))
    }

    /// The underlay of the tunnels that an uplink's device carries.
    pub(super) fn underlay_over(&self, device: &Arc<dyn Device>) -> Option<PortId> {
        let over = |live: &&LiveUnderlay| live.carrier.uplink().is_some_and(|carrier| Arc::ptr_eq(carrier, device));
        self.underlays.values().find(over).map(|live| live.id)
    }

    /// The underlays that any worker may read, with the ports of the VTEPs whose packets arrive there. An uplink's has one
    /// reader with everything else that the uplink carries, and stays.
    pub(super) fn movable(&self) -> impl Iterator<Item = (&LiveUnderlay, Vec<PortId>)> {
        let movable = self.underlays.iter().filter(|(_, live)| live.carrier.uplink().is_none());
        movable.map(|(key, live)| {
            let vteps = self.tunnels.values().flat_map(|tunnel| tunnel.vteps.values());
            (live, vteps.filter(|vtep| vtep.underlay == *key).map(|vtep| vtep.entry.id).collect())
        })
    }

    /// The underlays as the datapath is to know them.
    pub(super) fn underlay_entries(&self, records: &BTreeMap<String, BridgeRecord>) -> Vec<Arc<UnderlayEntry>> {
        let entry = |(key, live): (&UnderlayKey, &LiveUnderlay)| {
            Arc::new(UnderlayEntry {
                id: live.id,
                incarnation: live.incarnation,
                name: format!("{}, UDP port {}", key.0, key.1),
                reader: live.reader,
                device: live.carrier.underlay(),
                tunnels: Arc::new(self.table(*key, records)),
                routed: None,
            })
        };
        self.underlays.iter().map(entry).collect()
    }

    fn table(&self, key: UnderlayKey, records: &BTreeMap<String, BridgeRecord>) -> TunnelTable {
        let mut entries = Vec::new();
        for ((bridge, name), live) in &self.tunnels {
            let Some(record) = records.get(bridge).and_then(|record| record.tunnels.get(name)) else { continue };
            if record.underlay() == Some(key) {
                entries.push(TunnelEntry {
                    vni: record.vni,
                    inner_tags: record.carries_tags(),
                    remotes: live.vteps.iter().map(|(remote, vtep)| (*remote, vtep.entry.id)).collect(),
                });
            }
        }
        TunnelTable::new(&entries)
    }
}

impl Switch {
    /// Makes the overlay that exists the one that `next` asks for, with the MTUs `mtus`; the caller
    /// publishes. What exists is changed in any case, also if something is refused.
    ///
    /// # Errors
    /// The tunnel `strict` cannot be carried, if one is named. Others are failed then.
    pub(super) fn apply_overlay(
        &mut self,
        next: &Desired,
        mtus: &Mtus,
        strict: Option<(&str, &str)>,
    ) -> Result<Unused> {
        let mut unused = Unused::default();
        let wanted = |(bridge, name): &TunnelKey| {
            let record = next.bridges.get(bridge)?;
            Some((record, record.tunnels.get(name)?))
        };
        // What goes, first: a tunnel may take the place of another.
        let overlay = &mut self.live.overlay;
        overlay.tunnels.retain(|key, live| {
            let record = wanted(key);
            let vteps = record.map(|(record, _)| record.vteps(&key.1)).unwrap_or_default();
            let underlay = record.and_then(|(_, tunnel)| tunnel.underlay());
            let goes = |remote: &IpAddr, vtep: &LiveVtep| {
                Some(vtep.underlay) != underlay || !vteps.iter().any(|(wanted, _)| wanted == remote)
            };
            let gone = live.vteps.extract_if(.., |remote, vtep| goes(remote, vtep));
            unused.vteps.extend(gone.map(|(_, vtep)| (key.0.clone(), vtep)));
            if record.is_none() {
                unused.groups.push(live.group);
            }
            record.is_some()
        });
        let tunnels = || next.bridges.values().flat_map(|record| record.tunnels.values());
        let used = |key: &UnderlayKey| tunnels().any(|tunnel| tunnel.underlay() == Some(*key));
        unused.underlays.extend(overlay.underlays.extract_if(.., |key, _| !used(key)).map(|(_, underlay)| underlay));
        overlay.neighbours.retain(|bridge, _| next.bridges.get(bridge).is_some_and(|b| !b.tunnels.is_empty()));

        for (bridge, record) in next.bridges.iter().filter(|(_, record)| !record.tunnels.is_empty()) {
            for (name, tunnel) in &record.tunnels {
                match self.apply_tunnel((bridge, name), record, tunnel, mtus) {
                    Err(error) if strict == Some((bridge, name)) => return Err(error),
                    outcome => self.note_outcome(bridge, name, outcome),
                }
            }
            self.live.overlay.neighbours.entry(bridge.clone()).or_default();
        }
        self.pin_neighbours(next);
        Ok(unused)
    }

    /// Tells the tables of neighbours what is pinned behind tunnels.
    fn pin_neighbours(&self, desired: &Desired) {
        for (bridge, neighbours) in &self.live.overlay.neighbours {
            let Some(record) = desired.bridges.get(bridge) else { continue };
            let pinned = record.statics.iter().filter(|entry| record.tunnels.contains_key(&entry.port));
            neighbours.pin(pinned.flat_map(|entry| entry.ips.iter().map(|ip| (entry.vlan, *ip, entry.mac))));
        }
    }

    fn apply_tunnel(
        &mut self,
        (bridge, name): (&str, &str),
        record: &BridgeRecord,
        tunnel: &TunnelRecord,
        mtus: &Mtus,
    ) -> Result<()> {
        let key = (bridge.to_owned(), name.to_owned());
        let bridge_id = self.live_bridge(bridge)?.id;
        let mtu = mtus.of(&key, tunnel, self.live.overlay.tunnels.get(&key));
        let group = match self.live.overlay.tunnels.get(&key) {
            Some(live) => live.group,
            None => {
                let refused = || limit("there are as many tunnels as there can be", "remove one first");
                let group = self.live.group_ids.allocate(GROUPS_MAX).ok_or_else(refused)?;
                let live = LiveTunnel { group, mtu, vteps: BTreeMap::new(), failure: None };
                self.live.overlay.tunnels.insert(key.clone(), live);
                group
            }
        };
        let Some(underlay) = tunnel.underlay() else { return Ok(()) };
        let carrier = self.carrier(underlay, tunnel.carrier)?;
        for (remote, floods) in record.vteps(name) {
            let before = self.live.overlay.tunnels.get(&key).and_then(|live| live.vteps.get(&remote)).cloned();
            let (ids, device) = match &before {
                Some(vtep) => ((vtep.entry.id, vtep.entry.incarnation), Arc::clone(&vtep.entry.device)),
                None => {
                    let device = carrier.remote(tunnel, remote)?;
                    (self.new_port_id()?, device)
                }
            };
            let entry = vtep_entry(ids, (name, remote, floods), (bridge_id, group, mtu), tunnel, device);
            let vtep = LiveVtep { underlay, entry: Arc::new(entry) };
            if let Some(live) = self.live.overlay.tunnels.get_mut(&key) {
                live.mtu = mtu;
                live.vteps.insert(remote, vtep);
            }
            let fdb = &self.live_bridge(bridge)?.fdb;
            let pinned = record.statics.iter().filter(|entry| entry.port == name && entry.remote == Some(remote));
            for entry in pinned.filter(|_| before.is_none()) {
                fdb.insert_static(entry.mac.0, entry.vlan, ids.0, now_s());
            }
        }
        Ok(())
    }

    /// The underlay of `key`, opened if it is not yet.
    fn carrier(&mut self, key: UnderlayKey, kind: api::Carrier) -> Result<Carrier> {
        if let Some(live) = self.live.overlay.underlays.get(&key) {
            return Ok(live.carrier.clone());
        }
        let carrier = match kind {
            api::Carrier::Socket => carrier::open(key)?,
            api::Carrier::Uplink => carrier::over_uplink(key, &self.claim_uplink(UPLINK_CLAIM)?)?,
        };
        let (id, incarnation) = self.new_port_id()?;
        let reader = placement::reader_of_new_port(self.datapath.workers(), carrier.underlay().home());
        let live = LiveUnderlay { id, incarnation, reader, carrier: carrier.clone() };
        self.live.overlay.underlays.insert(key, live);
        Ok(carrier)
    }

    fn note_outcome(&mut self, bridge: &str, name: &str, outcome: Result<()>) {
        let Some(live) = self.live.overlay.tunnels.get_mut(&(bridge.to_owned(), name.to_owned())) else { return };
        let failure = outcome.err().map(|error| error.message);
        match (&failure, &live.failure) {
            (Some(why), before) if before.as_ref() != Some(why) => {
                tracing::warn!(%bridge, tunnel = %name, error = %why, "the tunnel carries nothing, trying again");
            }
            (None, Some(_)) => tracing::info!(%bridge, tunnel = %name, "the tunnel is back"),
            _ => {}
        }
        live.failure = failure;
    }

    /// Puts `before` back in place of what exists; what exists beyond it is to be let go.
    pub(super) fn restore_overlay(&mut self, before: Overlay) -> Unused {
        let now = std::mem::replace(&mut self.live.overlay, before);
        let before = &self.live.overlay;
        let mut unused = Unused::default();
        for (key, tunnel) in now.tunnels {
            let old = before.tunnels.get(&key);
            if old.is_none() {
                unused.groups.push(tunnel.group);
            }
            let kept = |vtep: &LiveVtep| {
                old.is_some_and(|old| old.vteps.values().any(|old| old.entry.incarnation == vtep.entry.incarnation))
            };
            let new = tunnel.vteps.into_values().filter(|vtep| !kept(vtep));
            unused.vteps.extend(new.map(|vtep| (key.0.clone(), vtep)));
        }
        let new = now.underlays.into_iter().filter(|(key, _)| !before.underlays.contains_key(key));
        unused.underlays.extend(new.map(|(_, underlay)| underlay));
        self.pin_neighbours(&self.desired);
        unused
    }

    /// Lets go of what no worker uses any more.
    pub(super) fn forget_overlay(&mut self, unused: Unused) {
        for (bridge, vtep) in &unused.vteps {
            if let Some(live) = self.live.bridges.get(bridge) {
                live.fdb.remove_port(vtep.entry.id);
            }
        }
        let ids = unused.vteps.iter().map(|(_, vtep)| vtep.entry.id);
        for id in ids.chain(unused.underlays.iter().map(|underlay| underlay.id)) {
            self.datapath.retire_port_counters(id);
            self.live.port_ids.release(id.0);
        }
        for group in &unused.groups {
            self.live.group_ids.release(*group);
        }
        // The sockets close here, with the last reference to them.
        drop(unused);
        self.settle_uplink();
    }

    /// Takes out what is carried by an uplink that is not attached any more, or is attached anew: it is made again
    /// with the next application. The caller publishes.
    pub(super) fn take_stranded(&mut self) -> Unused {
        let mut unused = Unused::default();
        let attached: Vec<_> = self.shared_carries().into_iter().map(|carry| carry.device).collect();
        let is_stranded = |live: &LiveUnderlay| {
            live.carrier.uplink().is_some_and(|device| !attached.iter().any(|other| Arc::ptr_eq(other, device)))
        };
        let overlay = &mut self.live.overlay;
        let stranded: Vec<_> = overlay.underlays.extract_if(.., |_, live| is_stranded(live)).collect();
        for ((bridge, _), tunnel) in &mut overlay.tunnels {
            let gone = |_: &IpAddr, vtep: &mut LiveVtep| stranded.iter().any(|(key, _)| *key == vtep.underlay);
            let before = tunnel.vteps.len();
            unused.vteps.extend(tunnel.vteps.extract_if(.., gone).map(|(_, vtep)| (bridge.clone(), vtep)));
            if tunnel.vteps.len() < before {
                tunnel.failure = Some("the uplink is not attached".to_owned());
            }
        }
        unused.underlays.extend(stranded.into_iter().map(|(_, live)| live));
        unused
    }

    /// Tells the classifier which UDP ports are the tunnels', and lets go of the uplink if none is.
    fn settle_uplink(&mut self) {
        let underlays = self.live.overlay.underlays.iter().filter(|(_, live)| live.carrier.uplink().is_some());
        let ports: Vec<_> = underlays.map(|((local, port), _)| (Some(*local), *port)).collect();
        let waits = self.desired.bridges.values().flat_map(|bridge| bridge.tunnels.values());
        let wanted = waits.into_iter().any(|tunnel| tunnel.carrier == api::Carrier::Uplink);
        let idle = ports.is_empty();
        if let Some(classifier) = self.classifier()
            && let Err(error) = classifier.set_vxlan_ports(ports)
        {
            tracing::warn!(%error, "the packets of tunnels are not told apart");
        }
        if idle && !wanted {
            self.release_uplink(UPLINK_CLAIM);
        }
    }
}

/// The MTUs of tunnels, as the underlay gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mtus(pub(super) BTreeMap<TunnelKey, u32>);

impl Mtus {
    /// The MTU of a tunnel: the one that was asked for, what the underlay gives now, or what it gave last
    /// (an interface may be down for a moment).
    pub(super) fn of(&self, key: &TunnelKey, tunnel: &TunnelRecord, live: Option<&LiveTunnel>) -> u32 {
        let last = || live.filter(|live| !live.vteps.is_empty()).map(|live| live.mtu);
        tunnel.mtu.or_else(|| self.0.get(key).copied()).or_else(last).unwrap_or_else(|| assumed_mtu(tunnel))
    }
}

/// The MTU of a tunnel through an underlay of which nothing is known.
pub(super) fn assumed_mtu(tunnel: &TunnelRecord) -> u32 {
    UNDERLAY_MTU_DEFAULT - crate::control::desired::overhead(tunnel.local.is_some_and(|local| local.is_ipv6()))
}

/// The VLANs of a tunnel. Where nobody asked for tags, there are none (RFC 7348, section 6.1).
fn vlan_mode(tunnel: &TunnelRecord) -> VlanMode {
    match tunnel.vlan {
        Some(vid) => VlanMode::Access(vid),
        None if tunnel.trunk.is_empty() => VlanMode::Trunk(VlanSet::new([0])),
        None => VlanMode::Trunk(VlanSet::new(tunnel.trunk.iter().copied())),
    }
}

/// What the datapath is to know of a VTEP.
fn vtep_entry(
    (id, incarnation): (PortId, u64),
    (name, remote, floods): (&str, IpAddr, bool),
    (bridge, group, mtu): (BridgeId, u16, u32),
    tunnel: &TunnelRecord,
    device: Arc<dyn Device>,
) -> PortEntry {
    PortEntry {
        id,
        incarnation,
        name: format!("{name} to {remote}"),
        bridge,
        kind: PortKind::Tunnel,
        group: Some(group),
        learning: tunnel.learning,
        flooding: floods,
        vlan: vlan_mode(tunnel),
        mtu,
        ingress_rate_bps: None,
        egress_bucket: None,
        guard: None,
        hairpins: Arc::default(),
        // What arrives comes through the underlay.
        reader: None,
        device,
    }
}
