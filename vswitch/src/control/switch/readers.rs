//! Moving ports, and the sockets of tunnels, from one worker to another.
//!
//! The order of a flow is the order in which its port's reader serves it, so there must never be
//! two: a snapshot in which nobody reads the port is published and seen by every worker, which have
//! then sent all that they had received, and only then the one with the new reader. What arrives
//! meanwhile waits in the interface's queue.

use std::collections::HashSet;
use std::sync::Arc;

use super::Switch;
use super::live::{LiveBridge, LivePort, LiveUplink};
use crate::control::placement::{PortKey, PortLoad};
use crate::snapshot::PortEntry;

impl Switch {
    /// Every port that has a reader, and what it received since it was made.
    #[must_use]
    pub fn port_loads(&self) -> Vec<PortLoad> {
        let ports = self.live.bridges.values().flat_map(LiveBridge::all_ports).filter_map(LivePort::entry);
        let uplinks = self.live.bridges.values().flat_map(|bridge| bridge.uplinks.values());
        let uplinks = uplinks.filter_map(LiveUplink::entry);
        // A device that belongs to one worker stays with it.
        let entries = ports.chain(uplinks).filter(|entry| entry.device.home().is_none());
        let load = |entry: &Arc<PortEntry>| {
            let counters = self.datapath.port_counters(entry.id);
            let pinned = entry.device.home().is_some();
            Some(PortLoad::new((entry.id, entry.incarnation), entry.reader?, pinned, &counters))
        };
        entries.filter_map(load).chain(self.underlay_loads()).collect()
    }

    /// The same of underlays that may move: what arrived in their tunnels.
    fn underlay_loads(&self) -> impl Iterator<Item = PortLoad> {
        self.live.overlay.movable().filter_map(|(live, ports)| {
            let counters: Vec<_> = ports.iter().flat_map(|port| self.datapath.port_counters(*port)).collect();
            Some(PortLoad::new((live.id, live.incarnation), live.reader?, false, &counters))
        })
    }

    /// Gives ports another reader; those that are gone by now are left out.
    pub fn move_ports(&mut self, ports: &[PortKey], to: u16) {
        let ports: HashSet<_> = ports.iter().copied().collect();
        for reader in [None, Some(to)] {
            for bridge in self.live.bridges.values_mut() {
                for attachment in bridge.uplinks.values_mut().filter_map(|uplink| uplink.attachment.as_mut().ok()) {
                    if ports.contains(&(attachment.entry.id, attachment.entry.incarnation)) {
                        attachment.entry = Arc::new(PortEntry { reader, ..(*attachment.entry).clone() });
                    }
                }
                for port in bridge.host.iter_mut().chain(bridge.ports.values_mut()) {
                    if ports.contains(&(port.id, port.incarnation))
                        && let Ok(attachment) = &mut port.attachment
                    {
                        attachment.entry = Arc::new(PortEntry { reader, ..(*attachment.entry).clone() });
                    }
                }
            }
            for live in self.live.overlay.underlays.values_mut() {
                if ports.contains(&(live.id, live.incarnation)) {
                    live.reader = reader;
                }
            }
            // Waits until every worker has seen it.
            self.publish(&self.desired);
        }
    }
}
