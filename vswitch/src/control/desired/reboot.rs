//! What is left of the ports when the machine was started anew.
//!
//! The numbers of namespaces, cookies among them, begin again at each boot: to look for a port's
//! namespace by numbers of another boot finds a stranger's. What outlives a boot is a name that
//! somebody gives on purpose, so a port comes back by its name or not at all.

use std::collections::HashSet;

use super::Desired;
use crate::control::netns::{NetnsId, NetnsRef};

impl Desired {
    /// Makes this the state of the boot `boot_id`. Where it is of another one, ports with a namespace
    /// of the same name, which `resolve` looks up (its numbers and its cookie), get that, and the
    /// others are removed; their bridges' and their own names are returned.
    pub fn reboot(
        &mut self,
        boot_id: &str,
        mut resolve: impl FnMut(&NetnsRef) -> Option<(NetnsId, Option<u64>)>,
    ) -> Vec<(String, String)> {
        let before = self.boot_id.replace(boot_id.to_owned());
        if before.is_none_or(|before| before == boot_id) {
            return Vec::new();
        }
        let mut dropped = Vec::new();
        let mut interfaces = HashSet::new();
        for (bridge, record) in &mut self.bridges {
            record.ports.retain(|name, port| {
                // What a lent port's interface was in, and whoever moved it there, ended with the boot.
                let returns = |netns: &&NetnsRef| netns.outlives_boot() && port.lent.is_none();
                let found = Some(&port.netns).filter(returns).and_then(&mut resolve);
                // Two names may lead to one namespace now, which has one interface of a name.
                if let Some((id, cookie)) = found
                    && interfaces.insert((id, port.ifname.clone()))
                {
                    (port.netns_id, port.netns_cookie) = (id, cookie);
                    (port.ifindex, port.lo_raised) = (None, false);
                    port.host_end.iter_mut().for_each(|end| end.ifindex = None);
                    return true;
                }
                dropped.push((bridge.clone(), name.clone()));
                false
            });
            if let Some(network) = &mut record.docker {
                // Containers that are started again get new ones.
                network.endpoints.clear();
            }
            let ports = &record.ports;
            record.statics.retain(|entry| entry.port == *bridge || ports.contains_key(&entry.port));
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{port, target};
    use super::*;
    use crate::api::{BridgeSpec, FdbStatic, PortSpec};
    use crate::control::desired::{HostView, PortTarget};

    fn two_ports() -> Desired {
        let mut desired = Desired::default();
        let spec = BridgeSpec { name: "br0".into(), ..BridgeSpec::default() };
        desired.add_bridge(&spec, &HostView::default()).expect("a bridge");
        let spec = |name: &str| PortSpec { name: Some(name.into()), ..port() };
        desired.add_port("br0", &spec("named"), &target(1)).expect("a port");
        let by_process = PortTarget { netns: NetnsRef::Pid(77), ..target(2) };
        desired.add_port("br0", &spec("process"), &by_process).expect("a port");
        let entry = FdbStatic { mac: "02:00:00:00:00:77".into(), port: "process".into(), ..FdbStatic::default() };
        desired.add_static("br0", &entry, &crate::control::desired::UnderlayView::default()).expect("an entry");
        desired
    }

    fn now(_: &NetnsRef) -> Option<(NetnsId, Option<u64>)> {
        Some((NetnsId { dev: 4, ino: 99 }, Some(99)))
    }

    #[test]
    fn in_the_same_boot_nothing_changes() {
        let mut desired = two_ports();
        assert!(desired.reboot("a", now).is_empty(), "the boot was not known");
        let before = desired.clone();
        assert!(desired.reboot("a", now).is_empty());
        assert_eq!(desired, before);
    }

    #[test]
    fn in_another_boot_names_are_looked_up_again_and_processes_are_not() {
        let mut desired = two_ports();
        desired.reboot("a", now);
        assert_eq!(desired.reboot("b", now), [("br0".to_owned(), "process".to_owned())]);
        let bridge = desired.bridge("br0").expect("is there");
        assert_eq!(bridge.ports["named"].netns_id.ino, 99);
        assert_eq!(bridge.ports["named"].netns_cookie, Some(99));
        assert!(bridge.statics.is_empty());
        desired.check().expect("holds to the rules");
        assert_eq!(desired.reboot("c", |_| None).len(), 1, "the name is gone");
    }
}
