//! The forwarding database of a bridge: shown, edited, flushed, aged.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Switch;
use super::tunnels::underlay_view;
use crate::api::{FdbEntry, FdbKind, FdbStatic, Flushed};
use crate::control::desired::{StaticRecord, UnderlayView};
use crate::control::refusal::{Result, failed, invalid, limit, not_found};
use crate::datapath::clock::now_s;
use crate::datapath::fdb::Fdb;
use crate::snapshot::PortId;
use crate::wire::MacAddr;

impl Switch {
    /// All entries of a bridge, ordered by VLAN and MAC address.
    ///
    /// # Errors
    /// There is no such bridge.
    pub fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>> {
        let record = self.desired.bridge(bridge)?;
        let live = self.live_bridge(bridge)?;
        let host = live.host.iter().map(|port| (port.id, bridge));
        let ports = live.ports.iter().map(|(name, port)| (port.id, name.as_str()));
        let uplinks = live.uplinks.iter().filter_map(|(name, uplink)| Some((uplink.entry()?.id, name.as_str())));
        let mut names: HashMap<PortId, (&str, Option<IpAddr>)> =
            host.chain(ports).chain(uplinks).map(|(id, name)| (id, (name, None))).collect();
        for (name, tunnel) in self.live.overlay.of_bridge(bridge) {
            names.extend(tunnel.vteps.iter().map(|(remote, vtep)| (vtep.entry.id, (name, Some(*remote)))));
        }
        let now = now_s();
        let mut rows = live.fdb.entries();
        rows.sort_unstable_by_key(|row| (row.vlan, row.mac));
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                // A port that was detached this very moment has no name any more.
                let (port, remote) = *names.get(&row.port)?;
                let mac = MacAddr(row.mac);
                let pinned = record.statics.iter().find(|entry| entry.mac == mac && entry.vlan == row.vlan);
                Some(FdbEntry {
                    mac: mac.to_string(),
                    vlan: row.vlan,
                    port: port.to_owned(),
                    remote,
                    ips: pinned.map(|entry| entry.ips.clone()).unwrap_or_default(),
                    kind: if row.is_static { FdbKind::Static } else { FdbKind::Learned },
                    age_s: if row.is_static { 0 } else { now.saturating_sub(row.last_seen_s) },
                })
            })
            .collect())
    }

    /// Adds a static entry.
    ///
    /// # Errors
    /// What [`Desired::add_static`](crate::control::desired::Desired::add_static) refuses; the
    /// state cannot be stored. Nothing has changed then.
    pub fn add_fdb(&mut self, bridge: &str, entry: &FdbStatic) -> Result<FdbEntry> {
        let mut next = self.desired.clone();
        let is_tunnel = self.desired.bridge(bridge)?.tunnels.contains_key(&entry.port);
        let view = if is_tunnel { underlay_view(entry.remote)? } else { UnderlayView::default() };
        let entry = next.add_static(bridge, entry, &view)?;
        let described = FdbEntry {
            mac: entry.mac.to_string(),
            vlan: entry.vlan,
            port: entry.port.clone(),
            kind: FdbKind::Static,
            age_s: 0,
            remote: entry.remote,
            ips: entry.ips.clone(),
        };
        if let Some(remote) = entry.remote {
            // It may be the first entry behind this remote, which becomes a port with it.
            self.carry_overlay(bridge, Some(&entry.port), next)?;
            let tunnel = self.live.overlay.tunnel(bridge, &entry.port);
            if let Some(vtep) = tunnel.and_then(|tunnel| tunnel.vteps.get(&remote)) {
                self.live_bridge(bridge)?.fdb.insert_static(entry.mac.0, entry.vlan, vtep.entry.id, now_s());
            }
            return Ok(described);
        }
        let port = self.port_id(bridge, &entry.port)?;
        let fdb = Arc::clone(&self.live_bridge(bridge)?.fdb);
        // Last, because it replaces what was learned, which could not be put back.
        let before = self.desired.clone();
        self.commit(next)?;
        if !fdb.insert_static(entry.mac.0, entry.vlan, port, now_s()) {
            self.revert(before);
            return Err(limit(
                format!("the forwarding database of bridge {bridge:?} is full"),
                "raise the limit with `vswitchctl set-br`, or remove entries",
            ));
        }
        Ok(described)
    }

    /// Removes the entries of a MAC address, static and learned ones.
    ///
    /// # Errors
    /// There is no such bridge or entry; the entry is the switch's own; the state cannot be stored.
    pub fn remove_fdb(&mut self, bridge: &str, mac: &str, vlan: Option<u16>) -> Result<Flushed> {
        let mac: MacAddr = mac.parse().map_err(|why: crate::wire::mac::ParseMacError| invalid(why.to_string(), ""))?;
        let mut next = self.desired.clone();
        let statics = next.remove_static(bridge, mac, vlan)?;
        let fdb = Arc::clone(&self.live_bridge(bridge)?.fdb);
        let has_remote = |entry: &&StaticRecord| {
            entry.mac == mac && vlan.is_none_or(|vlan| vlan == entry.vlan) && entry.remote.is_some()
        };
        if self.desired.bridge(bridge)?.statics.iter().any(|entry| has_remote(&entry)) {
            // Perhaps the last entry behind its remote, which is no port without it.
            self.carry_overlay(bridge, None, next)?;
        } else if statics > 0 {
            self.commit(next)?;
        }
        let removed = fdb.remove(mac.0, vlan);
        if removed == 0 && statics == 0 {
            return Err(not_found(
                format!("the bridge {bridge:?} has no entry for {mac}"),
                format!("`vswitchctl fdb {bridge}` lists its entries"),
            ));
        }
        Ok(Flushed { removed: removed.max(statics) })
    }

    /// Forgets the learned entries of a bridge, or of one port.
    ///
    /// # Errors
    /// There is no such bridge or port.
    pub fn flush_fdb(&self, bridge: &str, port: Option<&str>) -> Result<Flushed> {
        let record = self.desired.bridge(bridge)?;
        if let Some(name) = port.filter(|name| record.tunnels.contains_key(*name)) {
            let fdb = &self.live_bridge(bridge)?.fdb;
            let vteps = self.live.overlay.tunnel(bridge, name).into_iter().flat_map(|tunnel| tunnel.vteps.values());
            return Ok(Flushed { removed: vteps.map(|vtep| fdb.flush(Some(vtep.entry.id))).sum() });
        }
        let port = match port {
            None => None,
            Some(port) if port == bridge && !record.l2 => Some(self.port_id(bridge, bridge)?),
            Some(port) if record.uplinks.contains_key(port) => Some(self.port_id(bridge, port)?),
            Some(port) => Some(self.port_id(bridge, record.find_port(bridge, port)?)?),
        };
        Ok(Flushed { removed: self.live_bridge(bridge)?.fdb.flush(port) })
    }

    fn port_id(&self, bridge: &str, port: &str) -> Result<PortId> {
        let live = self.live_bridge(bridge)?;
        if let Some(uplink) = live.uplinks.get(port) {
            return uplink.entry().map(|entry| entry.id).ok_or_else(|| {
                failed(
                    format!("the uplink {port:?} is not attached"),
                    "`vswitchctl show` says why; repeat the command when it is",
                )
            });
        }
        let found = if port == bridge { live.host.as_ref() } else { live.ports.get(port) };
        found.map(|port| port.id).ok_or_else(|| {
            failed(format!("port {port:?} does not exist in the datapath"), "restart the daemon and report this")
        })
    }

    /// The databases that have something to age.
    #[must_use]
    pub fn databases(&self) -> Vec<Arc<Fdb>> {
        self.live
            .bridges
            .values()
            .filter(|bridge| !bridge.fdb.is_empty())
            .map(|bridge| Arc::clone(&bridge.fdb))
            .collect()
    }
}
