//! Commands about tunnels, and what follows from the host's own network: the MTU that is left.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::identity::Lookup;
use super::overlay::{Mtus, assumed_mtu};
use super::{Switch, interface, netlink_failed};
use crate::api::{PortState, Vxlan, VxlanSpec};
use crate::control::desired::{BridgeRecord, Desired, PortRecord, UnderlayView, overhead};
use crate::control::netlink::{Changes, Netlink, NetlinkError};
use crate::control::refusal::Result;
use crate::datapath::clock::now_s;
use crate::tunnel::train;

/// How often the way to the remotes is looked up even if nothing about the host seems to have changed:
/// rules and some routes change without a notification. A tunnel that failed is tried again, too.
const PATH_INTERVAL_S: u32 = 30;

/// What interfaces have of their own (`GSO_LEGACY_MAX_SIZE`).
const GSO_MAX_SIZE_DEFAULT: u32 = 65_536;

/// The longest super-frame that the interface of `port` is to send, where the tunnels of its bridge want shorter ones than
/// usual: those over sockets send a super-frame as a train, and an interface sends few super-frames elsewhere.
pub(super) fn gso_max_size(bridge: &BridgeRecord, port: &PortRecord) -> Option<u32> {
    let by_socket = bridge.tunnels.values().any(|tunnel| tunnel.carrier == crate::api::Carrier::Socket);
    (by_socket && port.host_end.is_none()).then(|| train::gso_max_size(bridge.port_mtu(port)))
}

/// When to look at the host's network again.
#[derive(Debug, Default)]
pub(super) struct OverlayWatch {
    changes: Option<Changes>,
    looked_s: u32,
}

impl Switch {
    /// Adds a tunnel to a bridge, carrying packets, durable.
    ///
    /// # Errors
    /// What [`Desired::add_tunnel`] refuses; the UDP port cannot be had; the state cannot be stored.
    /// Nothing has changed then.
    pub fn add_vxlan(&mut self, bridge: &str, spec: &VxlanSpec) -> Result<Vxlan> {
        let mut next = self.desired.clone();
        let name = next.add_tunnel(bridge, spec, &underlay_view(spec.remotes.first().copied())?)?;
        let warning = self.carry_overlay(bridge, Some(&name), next)?;
        self.describe_changed(bridge, &name, warning)
    }

    /// Removes a tunnel.
    ///
    /// # Errors
    /// There is no such tunnel, or the state cannot be stored. The tunnel is then as it was.
    pub fn remove_vxlan(&mut self, bridge: &str, name: &str) -> Result<()> {
        let mut next = self.desired.clone();
        next.remove_tunnel(bridge, name)?;
        self.carry_overlay(bridge, None, next).map(|_| ())
    }

    /// Adds a VTEP that flooded frames are replicated to.
    ///
    /// # Errors
    /// What [`Desired::add_remote`] refuses; the UDP port cannot be had; the state cannot be stored.
    /// Nothing has changed then.
    pub fn add_remote(&mut self, bridge: &str, name: &str, remote: IpAddr) -> Result<Vxlan> {
        let mut next = self.desired.clone();
        next.add_remote(bridge, name, remote, &underlay_view(Some(remote))?)?;
        let warning = self.carry_overlay(bridge, Some(name), next)?;
        self.describe_changed(bridge, name, warning)
    }

    /// Removes a VTEP from those that flooded frames are replicated to.
    ///
    /// # Errors
    /// There is no such remote, or the state cannot be stored. Nothing has changed then.
    pub fn remove_remote(&mut self, bridge: &str, name: &str, remote: IpAddr) -> Result<Vxlan> {
        let mut next = self.desired.clone();
        next.remove_remote(bridge, name, remote)?;
        let warning = self.carry_overlay(bridge, None, next)?;
        if let Some(live) = self.live.bridges.get(bridge)
            && let Some(vtep) = self.live.overlay.tunnel(bridge, name).and_then(|tunnel| tunnel.vteps.get(&remote))
        {
            // It stays for what is pinned behind it, and for nothing else.
            live.fdb.flush(Some(vtep.entry.id));
        }
        self.describe_changed(bridge, name, warning)
    }

    /// Makes `next` the state, whose tunnels of `bridge` differ; or nothing of it. The tunnel `strict`
    /// must be carried. The bridge's MTU follows its tunnels; what became of it, in words.
    pub(super) fn carry_overlay(
        &mut self,
        bridge: &str,
        strict: Option<&str>,
        mut next: Desired,
    ) -> Result<Option<String>> {
        let mtus = derive_mtus(&next);
        let before = self.live.overlay.clone();
        let unused = match self.apply_overlay(&next, &mtus, strict.map(|name| (bridge, name))) {
            Ok(unused) => unused,
            Err(error) => {
                self.put_back(before);
                return Err(error);
            }
        };
        let before_record = self.desired.bridge(bridge)?.clone();
        let old_mtu = next.bridge(bridge)?.mtu;
        let follows = next.follow_tunnels(bridge, self.smallest_mtu(bridge));
        let after = next.bridge(bridge)?.clone();
        let outcome = if follows { self.apply_mtu(bridge, &after) } else { Ok(()) };
        let outcome = outcome.and_then(|()| {
            self.publish(&next);
            self.commit(next)
        });
        if let Err(error) = outcome {
            if follows && let Ok(record) = self.desired.bridge(bridge).cloned() {
                self.restore_mtu(bridge, &record);
            }
            self.put_back(before);
            return Err(error);
        }
        self.forget_overlay(unused);
        self.fit_super_frames(bridge, &before_record, &after);
        Ok(follows.then(|| {
            format!(
                "the MTU of bridge {bridge:?} was {old_mtu} and is {}, to fit into its tunnels; \
                 `vswitchctl set-br {bridge} --mtu N` chooses another",
                after.mtu
            )
        }))
    }

    /// Has the interfaces of ports send super-frames of the length that suits the tunnels of their bridge, after those
    /// changed. It only is faster so: what is refused is no error.
    fn fit_super_frames(&self, bridge: &str, before: &BridgeRecord, after: &BridgeRecord) {
        let lookup = Lookup::default();
        for (name, port) in &after.ports {
            let wanted = gso_max_size(after, port);
            if wanted == gso_max_size(before, port) {
                continue;
            }
            let Some(netns) = lookup.open(port) else { continue };
            let bytes = wanted.unwrap_or(GSO_MAX_SIZE_DEFAULT);
            let changed = netns.run(|| interface::set_gso_max_size_here(port, bytes));
            let error = match changed {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(bridge, port = name, error, "the interface's super-frames do not fit the tunnels");
        }
    }

    fn put_back(&mut self, before: super::overlay::Overlay) {
        let unused = self.restore_overlay(before);
        self.publish(&self.desired);
        self.forget_overlay(unused);
    }

    /// The smallest MTU of the live tunnels of `bridge`.
    fn smallest_mtu(&self, bridge: &str) -> Option<u32> {
        self.live.overlay.of_bridge(bridge).map(|(_, tunnel)| tunnel.mtu).min()
    }

    /// Looks again whether tunnels that failed can be had, and what the underlay carries; every
    /// second while there are tunnels, and in earnest only when something changed.
    pub fn refresh_overlay(&mut self) {
        if self.live.overlay.tunnels.is_empty() {
            self.overlay_watch = OverlayWatch::default();
            return;
        }
        let now = now_s();
        self.live.overlay.neighbours.values().for_each(|neighbours| neighbours.expire(now));
        let watch = &mut self.overlay_watch;
        let is_new = watch.changes.is_none();
        if is_new {
            watch.changes = Changes::watch().map_err(|error| tracing::warn!(%error, "the host is not watched")).ok();
        }
        let changed = watch.changes.as_mut().is_none_or(Changes::take);
        let due = changed || is_new || now.saturating_sub(watch.looked_s) >= PATH_INTERVAL_S;
        if due {
            watch.looked_s = now;
        }
        let stranded = self.take_stranded();
        if !stranded.is_empty() {
            self.reapply_overlay(&derive_mtus(&self.desired));
            self.forget_overlay(stranded);
            return;
        }
        if !due {
            return;
        }
        let mtus = derive_mtus(&self.desired);
        let stale = |((bridge, name), live): (&(String, String), &super::overlay::LiveTunnel)| {
            let record = self.desired.bridges.get(bridge).and_then(|record| record.tunnels.get(name));
            live.failure.is_some()
                || record.is_some_and(|record| live.mtu != mtus.of(&(bridge.clone(), name.clone()), record, Some(live)))
        };
        if self.live.overlay.tunnels.iter().any(stale) {
            self.reapply_overlay(&mtus);
        }
    }

    /// Brings the overlay up to date with the host's network, whatever of it can be had.
    pub(super) fn reapply_overlay(&mut self, mtus: &Mtus) {
        let mut next = self.desired.clone();
        let unused = match self.apply_overlay(&next, mtus, None) {
            Ok(unused) => unused,
            Err(error) => {
                tracing::error!(error = %error.message, "the tunnels cannot be brought up to date");
                return;
            }
        };
        let bridges: Vec<_> = self.live.overlay.neighbours.keys().cloned().collect();
        for bridge in bridges {
            if !next.follow_tunnels(&bridge, self.smallest_mtu(&bridge)) {
                continue;
            }
            let Ok(record) = next.bridge(&bridge).cloned() else { continue };
            tracing::info!(%bridge, mtu = record.mtu, "the bridge's MTU follows its tunnels");
            if let Err(error) = self.apply_mtu(&bridge, &record) {
                tracing::warn!(%bridge, error = %error.message, "not every interface has the bridge's new MTU");
            }
        }
        self.publish(&next);
        if next != self.desired
            && let Err(error) = self.commit(next.clone())
        {
            tracing::error!(error = %error.message, "the bridges' new MTUs are not in the state file for now");
            self.desired = next;
        }
        self.forget_overlay(unused);
    }

    /// The tunnels of one bridge, or of all.
    ///
    /// # Errors
    /// There is no such bridge.
    pub fn vxlans(&self, bridge: Option<&str>) -> Result<Vec<Vxlan>> {
        if let Some(bridge) = bridge {
            self.desired.bridge(bridge)?;
        }
        let bridges = self.desired.bridges.iter().filter(|(name, _)| bridge.is_none_or(|bridge| bridge == *name));
        let tunnels = bridges.flat_map(|(bridge, record)| record.tunnels.keys().map(move |name| (bridge, name)));
        tunnels.map(|(bridge, name)| self.describe_vxlan(bridge, name)).collect()
    }

    fn describe_changed(&self, bridge: &str, name: &str, warning: Option<String>) -> Result<Vxlan> {
        let mut vxlan = self.describe_vxlan(bridge, name)?;
        vxlan.warnings.extend(warning);
        Ok(vxlan)
    }

    fn describe_vxlan(&self, bridge: &str, name: &str) -> Result<Vxlan> {
        let bridge_record = self.desired.bridge(bridge)?;
        let record = bridge_record.tunnel(bridge, name)?;
        let live = self.live.overlay.tunnel(bridge, name);
        let underlay = record.underlay().and_then(|key| self.live.overlay.underlays.get(&key));
        let mtu = live.map_or_else(|| assumed_mtu(record), |live| live.mtu);
        let failure = live.and_then(|live| live.failure.clone());
        let state = if failure.is_none() { PortState::Up } else { PortState::Failed };
        let mut warnings: Vec<_> = failure.into_iter().collect();
        if bridge_record.mtu > mtu {
            warnings.push(format!(
                "the MTU of bridge {bridge:?} is {}, the tunnel carries {mtu}: senders of larger packets are told by ICMP",
                bridge_record.mtu
            ));
        }
        Ok(Vxlan {
            name: name.to_owned(),
            bridge: bridge.to_owned(),
            vni: record.vni,
            local: record.local,
            remotes: record.remotes.clone(),
            unicast_remotes: bridge_record.unicast_remotes(name).into_iter().collect(),
            dst_port: record.dst_port,
            carrier: record.carrier,
            learning: record.learning,
            ttl: record.ttl,
            dscp: record.dscp,
            mtu,
            mtu_derived: record.mtu.is_none(),
            vlan: record.vlan,
            trunk: record.trunk.clone(),
            state,
            worker: underlay.and_then(|underlay| underlay.reader).map(usize::from),
            warnings,
        })
    }
}

/// What decisions about a tunnel need to know of the host, `remote` being the VTEP in question.
pub(super) fn underlay_view(remote: Option<IpAddr>) -> Result<UnderlayView> {
    let look = || -> std::result::Result<UnderlayView, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let addresses = netlink.addrs(None)?.iter().map(|address| address.net.addr()).collect();
        let path = match remote.filter(|remote| !remote.is_multicast() && !remote.is_unspecified()) {
            Some(remote) => netlink.path_to(remote, None)?,
            None => None,
        };
        Ok(UnderlayView { addresses, source: path.and_then(|path| path.source) })
    };
    look().map_err(|error| netlink_failed("the host's addresses and routes cannot be read", &error))
}

/// The MTUs that the underlay leaves to the tunnels of `desired` that have none of their own: the
/// smallest on the way to any of its VTEPs. One without a route to any is left out.
pub(super) fn derive_mtus(desired: &Desired) -> Mtus {
    let mut mtus = BTreeMap::new();
    let tunnels = desired.bridges.iter().flat_map(|(bridge, record)| {
        record.tunnels.iter().filter(|(_, tunnel)| tunnel.mtu.is_none()).map(move |(name, t)| (bridge, record, name, t))
    });
    let mut netlink = None;
    let mut paths: BTreeMap<(IpAddr, IpAddr), Option<u32>> = BTreeMap::new();
    for (bridge, record, name, tunnel) in tunnels {
        let Some(local) = tunnel.local else { continue };
        for (remote, _) in record.vteps(name) {
            let mtu = *paths.entry((local, remote)).or_insert_with(|| path_mtu(&mut netlink, local, remote));
            if let Some(mtu) = mtu {
                let inner = mtu.saturating_sub(overhead(local.is_ipv6())).max(crate::control::desired::MTU_MIN);
                let smallest = mtus.entry((bridge.clone(), name.clone())).or_insert(inner);
                *smallest = inner.min(*smallest);
            }
        }
    }
    Mtus(mtus)
}

fn path_mtu(netlink: &mut Option<Netlink>, local: IpAddr, remote: IpAddr) -> Option<u32> {
    if netlink.is_none() {
        *netlink = Netlink::open().map_err(|error| tracing::warn!(%error, "the host's routes cannot be asked")).ok();
    }
    netlink.as_mut()?.path_to(remote, Some(local)).ok().flatten().map(|path| path.mtu)
}
