//! Ports whose interface or namespace went away, and loops: what the outside does to the switch.

use std::sync::Arc;

use super::conntrack::Gone;
use super::identity::Lookup;
use super::{Switch, identity};
use crate::control::netns::NetnsId;
use crate::snapshot::{BridgeId, PortId};
use crate::wire::MacAddr;

/// A port whose descriptor keeps its namespace alive (see [`crate::control::watch`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suspect {
    id: PortId,
    incarnation: u64,
    /// The namespace.
    pub netns: NetnsId,
}

impl Switch {
    /// The interfaces of these ports are gone. A port whose namespace is gone, too, is dropped, and so is a lent one,
    /// which nobody but the borrower could configure again; one whose interface somebody removed is made again in a
    /// moment.
    pub fn interfaces_gone(&mut self, ports: &[(PortId, u64)]) {
        let ports = self.uplinks_gone(ports);
        let mut dropped = Vec::new();
        let lookup = Lookup::default();
        let names: Vec<_> = ports.iter().filter_map(|&(id, incarnation)| self.live.find(id, incarnation)).collect();
        for (bridge, name) in names {
            match self.record(&bridge, &name) {
                Some((_, record)) if lookup.is_gone(record) => dropped.push((bridge, name)),
                _ => {
                    tracing::info!(%bridge, port = %name, "the interface was removed by somebody; it is made again");
                    self.fail(&bridge, &name, "its interface was removed".to_owned());
                }
            }
        }
        self.publish(&self.desired);
        self.drop_ports(&dropped);
    }

    /// The ports whose descriptors keep their namespaces alive.
    #[must_use]
    pub fn suspects(&self) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for live in self.live.bridges.values() {
            for port in live.ports.values() {
                if let Some(netns) = port.link().and_then(super::port_link::PortLink::holds_netns) {
                    suspects.push(Suspect { id: port.id, incarnation: port.incarnation, netns });
                }
            }
        }
        suspects
    }

    /// Drops ports whose namespace nobody but us seems to hold: letting go of it lets it end. Where
    /// the name that the port was given still leads there, somebody has it who is not seen otherwise,
    /// and the port stays. Whether all were dropped.
    pub fn drop_orphans(&mut self, orphans: &[Suspect]) -> bool {
        let ports: Vec<_> = orphans.iter().filter_map(|one| self.live.find(one.id, one.incarnation)).collect();
        let is_gone = |(bridge, name): &(String, String)| {
            self.record(bridge, name).is_some_and(|(_, record)| identity::open_named(record).is_none())
        };
        let gone: Vec<_> = ports.iter().filter(|port| is_gone(port)).cloned().collect();
        self.drop_ports(&gone);
        gone.len() == ports.len()
    }

    /// Drops ports whose namespace is gone, all at once: their addresses and names become free.
    pub(super) fn drop_ports(&mut self, ports: &[(String, String)]) {
        if ports.is_empty() {
            return;
        }
        let mut next = self.desired.clone();
        let mut gone = Vec::new();
        for (bridge, name) in ports {
            if next.remove_port(bridge, name).is_err() {
                continue;
            }
            next.forget_docker_endpoint(bridge, name);
            if let Some(live) = self.live.bridges.get_mut(bridge)
                && let Some(port) = live.ports.remove(name)
            {
                super::ports::set_persistent(name, &port, false);
                gone.push((Some(Arc::clone(&live.fdb)), port));
            }
            tracing::info!(%bridge, port = %name, "the namespace or what was in it is gone, the port is detached");
        }
        let ended = Gone::between(&self.desired, &next);
        self.publish(&next);
        if let Err(error) = self.commit(next.clone()) {
            // What is gone is gone. The stored record is dropped by the next command that can
            // store, or at the next start.
            tracing::error!(error = %error.message, "ports that are gone stay in the state file for now");
            self.desired = next;
        }
        self.release_gone(&ended);
        self.forget(gone);
        self.watch_changed = true;
    }

    /// Marks a port as failed, and lets go of its interface. The caller publishes before the
    /// descriptor may be closed, which the workers' own references see to.
    fn fail(&mut self, bridge: &str, name: &str, why: String) {
        let Some(live) = self.live.bridges.get_mut(bridge) else { return };
        let port = if name == bridge { live.host.as_mut() } else { live.ports.get_mut(name) };
        if let Some(port) = port {
            port.attachment = Err(why);
        }
        self.watch_changed = true;
    }

    /// The datapath noticed an address that flaps between two ports.
    pub fn loop_noticed(&mut self, bridge: BridgeId, mac: [u8; 6], vlan: u16, ports: [PortId; 2]) {
        let overlay = &self.live.overlay;
        let Some((name, live)) = self.live.bridges.iter_mut().find(|(_, live)| live.id == bridge) else { return };
        let port_name = |id: PortId| {
            if live.host.as_ref().is_some_and(|host| host.id == id) {
                return name.clone();
            }
            let port = live.ports.iter().find(|(_, port)| port.id == id).map(|(name, _)| name.clone());
            let is_uplink = |uplink: &super::live::LiveUplink| uplink.entry().is_some_and(|entry| entry.id == id);
            let uplink = || live.uplinks.iter().find(|(_, uplink)| is_uplink(uplink)).map(|(name, _)| name.clone());
            let vtep = || overlay.find(id).map(|((_, tunnel), remote)| format!("{tunnel} ({remote})"));
            port.or_else(uplink).or_else(vtep).unwrap_or_else(|| "a port that is gone".to_owned())
        };
        let vlan = if vlan == 0 { String::new() } else { format!(" in VLAN {vlan}") };
        let text = format!(
            "loop: {}{vlan} flaps between ports {} and {}; is there a second path between them?",
            MacAddr(mac),
            port_name(ports[0]),
            port_name(ports[1])
        );
        if live.last_loop.as_ref().is_none_or(|(last, at)| *last != text || at.elapsed() > LOOP_LOG_INTERVAL) {
            tracing::warn!(bridge = %name, "{text}");
        }
        live.note_loop(text);
    }
}

/// How often one and the same loop is logged.
const LOOP_LOG_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);
