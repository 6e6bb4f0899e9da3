//! Making, changing and removing bridges.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::conntrack::Gone;
use super::identity::Lookup;
use super::live::{Attachment, LiveBridge, LivePort, fdb_limits, host_entry};
use super::port_link::PortLink;
use super::tunnels::derive_mtus;
use super::{Switch, host_interface, host_view, interface, netlink_failed};
use crate::api::{Bridge, BridgeChange, BridgeSpec};
use crate::control::desired::{BridgeRecord, Desired};
use crate::control::placement;
use crate::control::refusal::{Result, failed, limit};
use crate::datapath::clock::now_s;
use crate::datapath::fdb::Fdb;
use crate::snapshot::{BRIDGES_MAX, BridgeId, PortEntry};

impl Switch {
    /// Makes a bridge, with the host's interface on it.
    ///
    /// # Errors
    /// What [`Desired::add_bridge`] refuses; the interface cannot be had; the state cannot be
    /// stored. Nothing has changed then.
    pub fn add_bridge(&mut self, spec: &BridgeSpec) -> Result<Bridge> {
        let mut next = self.desired.clone();
        next.add_bridge(spec, &host_view()?)?;
        self.make_bridge(&spec.name, next)?;
        self.describe_bridge(&spec.name)
    }

    /// Makes the bridge `name` of `next` exist, and `next` the state; or nothing of it.
    pub(super) fn make_bridge(&mut self, name: &str, next: Desired) -> Result<()> {
        let record = next.bridge(name)?;
        let link = match host_interface(name, record) {
            Some(interface) => Some(interface.create_here()?.link),
            None => None,
        };
        self.insert_bridge(name, record)?;
        if let Some(link) = &link
            && let Err(error) = self.attach_host(name, record, link.clone())
        {
            self.withdraw_bridge(name);
            return Err(error);
        }
        self.publish(&next);
        let before = self.desired.clone();
        if let Err(error) = self.commit(next) {
            self.withdraw_bridge(name);
            return Err(error);
        }
        if let Some(link) = link
            && let Err(error) = link.set_persistent(true)
        {
            self.revert(before);
            self.withdraw_bridge(name);
            return Err(failed(
                format!("the interface {name:?} went away while it was made: {error}"),
                "repeat the command",
            ));
        }
        Ok(())
    }

    /// Makes a bridge live, without its host port. The caller publishes.
    pub(super) fn insert_bridge(&mut self, name: &str, record: &BridgeRecord) -> Result<()> {
        let id = self.live.bridge_ids.allocate(BRIDGES_MAX);
        let id =
            id.ok_or_else(|| limit(format!("there are {BRIDGES_MAX} bridges, which is the limit"), "remove one"))?;
        let bridge = LiveBridge {
            id: BridgeId(id),
            fdb: Arc::new(Fdb::new(fdb_limits(record))),
            home: placement::home_of_new_bridge(self.datapath.workers(), usize::from(id)),
            host: None,
            ports: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            stations: Arc::default(),
            last_loop: None,
        };
        self.live.bridges.insert(name.to_owned(), bridge);
        Ok(())
    }

    /// Makes the host's port live. The caller publishes.
    pub(super) fn attach_host(&mut self, name: &str, record: &BridgeRecord, link: PortLink) -> Result<()> {
        let ids = self.new_port_id()?;
        let workers = self.datapath.workers();
        let live = self.live_bridge_mut(name)?;
        let entry = Arc::new(host_entry(ids, name, live.id, record.mtu, &link, workers));
        if let Some(mac) = record.mac {
            live.fdb.insert_static(mac.0, 0, ids.0, now_s());
        }
        for entry in record.statics.iter().filter(|entry| entry.port == name) {
            live.fdb.insert_static(entry.mac.0, entry.vlan, ids.0, now_s());
        }
        let attachment = Attachment { entry, link };
        live.host = Some(LivePort { id: ids.0, incarnation: ids.1, attachment: Ok(attachment) });
        Ok(())
    }

    /// Forgets what gateways heard of stations a while ago.
    pub fn expire_stations(&self, now_s: u32) {
        self.live.bridges.values().for_each(|live| live.stations.expire(now_s));
    }

    /// Takes a bridge that is not in the state out of the datapath again.
    fn withdraw_bridge(&mut self, name: &str) {
        let bridge = self.live.bridges.remove(name);
        self.publish(&self.desired);
        if let Some(bridge) = bridge {
            self.forget_bridge(bridge);
        }
    }

    fn forget_bridge(&mut self, bridge: LiveBridge) {
        self.forget(bridge.host.into_iter().chain(bridge.ports.into_values()).map(|port| (None, port)));
        self.live.bridge_ids.release(bridge.id.0);
    }

    /// Removes a bridge and the host's interface on it; with `force` also its ports.
    ///
    /// # Errors
    /// There is no such bridge, it has ports and `force` is not given, or the state cannot be
    /// stored. The bridge is then as it was.
    pub fn remove_bridge(&mut self, name: &str, force: bool) -> Result<()> {
        let mut next = self.desired.clone();
        next.remove_bridge(name, force)?;
        let record = self.desired.bridge(name)?.clone();
        self.live_bridge(name)?;
        if !record.uplinks.is_empty() {
            return self.remove_bridge_with_uplinks(name, &record);
        }
        let Some(bridge) = self.live.bridges.remove(name) else { return Ok(()) };
        let gone = Gone::between(&self.desired, &next);
        let overlay = self.live.overlay.clone();
        let unused = self.apply_overlay(&next, &derive_mtus(&next), None)?;
        let persist = |bridge: &LiveBridge, on| {
            bridge.all_ports().for_each(|port| super::ports::set_persistent(name, port, on));
        };
        persist(&bridge, false);
        self.publish(&next);
        if let Err(error) = self.commit(next) {
            persist(&bridge, true);
            self.live.bridges.insert(name.to_owned(), bridge);
            let unused = self.restore_overlay(overlay);
            self.publish(&self.desired);
            self.forget_overlay(unused);
            return Err(error);
        }
        self.release_gone(&gone);
        self.discard_failed(name, &record, bridge.named_ports(name));
        self.forget_bridge(bridge);
        self.forget_overlay(unused);
        self.watch_changed = true;
        Ok(())
    }

    /// Changes a living bridge. A new MTU reaches the host's interface and every port that has no
    /// MTU of its own.
    ///
    /// # Errors
    /// What [`Desired::change_bridge`] refuses; the MTU cannot be set; the state cannot be stored.
    /// Nothing has changed then.
    pub fn change_bridge(&mut self, name: &str, change: &BridgeChange) -> Result<Bridge> {
        let mut next = self.desired.clone();
        next.change_bridge(name, change)?;
        let before = self.desired.bridge(name)?.clone();
        let after = next.bridge(name)?.clone();
        if after.mtu != before.mtu
            && let Err(error) = self.apply_mtu(name, &after)
        {
            self.restore_mtu(name, &before);
            return Err(error);
        }
        self.live_bridge(name)?.fdb.set_limits(fdb_limits(&after));
        let gone = Gone::between(&self.desired, &next);
        self.publish(&next);
        if let Err(error) = self.commit(next) {
            self.live_bridge(name)?.fdb.set_limits(fdb_limits(&before));
            if after.mtu != before.mtu {
                self.restore_mtu(name, &before);
            }
            self.publish(&self.desired);
            return Err(error);
        }
        self.release_gone(&gone);
        self.describe_bridge(name)
    }

    /// Gives the host's interface and the ports without an MTU of their own the bridge's MTU.
    pub(super) fn apply_mtu(&mut self, name: &str, record: &BridgeRecord) -> Result<()> {
        if !record.l2 {
            interface::set_host_mtu(name, record.mtu)
                .map_err(|error| netlink_failed(&format!("the MTU of {name:?} cannot be changed"), &error))?;
        }
        let lookup = Lookup::default();
        for (port_name, port) in record.ports.iter().filter(|(_, port)| port.mtu.is_none()) {
            let Some(netns) = lookup.open(port) else {
                // It is being deleted; its port goes with it in a moment.
                tracing::info!(port = %port_name, "the namespace of the port is gone, its MTU stays");
                continue;
            };
            netns
                .run(|| interface::set_port_mtu_here(port, record.mtu))
                .map_err(|error| interface::enter_error(&error))?
                .and_then(|()| match self.live_port(name, port_name).and_then(|live| live.link()?.pair()) {
                    Some(pair) => pair.set_mtu(record.mtu),
                    None => Ok(()),
                })
                .map_err(|error| netlink_failed(&format!("the MTU of port {port_name:?} cannot be changed"), &error))?;
        }
        let live = self.live_bridge_mut(name)?;
        let ports =
            live.ports.iter_mut().filter(|(name, _)| record.ports.get(*name).is_some_and(|port| port.mtu.is_none()));
        for port in live.host.iter_mut().chain(ports.map(|(_, port)| port)) {
            if let Ok(attachment) = &mut port.attachment {
                attachment.entry = Arc::new(PortEntry { mtu: record.mtu, ..(*attachment.entry).clone() });
            }
        }
        Ok(())
    }

    pub(super) fn restore_mtu(&mut self, name: &str, before: &BridgeRecord) {
        if let Err(error) = self.apply_mtu(name, before) {
            tracing::error!(bridge = name, %error.message, "an MTU that was changed could not be changed back");
        }
    }
}
