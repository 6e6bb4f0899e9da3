//! The forwarding database of a bridge: shown, edited, flushed, aged.

use std::collections::HashMap;
use std::sync::Arc;

use super::Switch;
use crate::api::{FdbEntry, FdbKind, FdbStatic, Flushed};
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
        self.desired.bridge(bridge)?;
        let live = self.live_bridge(bridge)?;
        let host = live.host.iter().map(|port| (port.id, bridge));
        let uplinks = live.uplinks.iter().filter_map(|(name, uplink)| Some((uplink.entry()?.id, name.as_str())));
        let names: HashMap<PortId, &str> =
            host.chain(live.ports.iter().map(|(name, port)| (port.id, name.as_str()))).chain(uplinks).collect();
        let now = now_s();
        let mut rows = live.fdb.entries();
        rows.sort_unstable_by_key(|row| (row.vlan, row.mac));
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                Some(FdbEntry {
                    mac: MacAddr(row.mac).to_string(),
                    vlan: row.vlan,
                    // A port that was detached this very moment has no name any more.
                    port: (*names.get(&row.port)?).to_owned(),
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
        let entry = next.add_static(bridge, entry)?;
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
        Ok(FdbEntry { mac: entry.mac.to_string(), vlan: entry.vlan, port: entry.port, kind: FdbKind::Static, age_s: 0 })
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
        if statics > 0 {
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
