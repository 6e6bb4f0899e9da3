//! The host's ends of `xdp` ports: what somebody else did to them is put right.

use std::collections::HashSet;

use super::Switch;
use super::interface::Changes;
use crate::control::netlink::Netlink;

impl Switch {
    /// The indices of the open `xdp` ports' interfaces in the host's namespace.
    #[must_use]
    pub fn host_ends(&self) -> HashSet<u32> {
        let ports = self.live.bridges.values().flat_map(|live| live.ports.values());
        ports.filter_map(|port| Some(port.link()?.pair()?.index())).collect()
    }

    /// Looks at those of them that are named: one that is gone takes its port with it, or is made again
    /// ([`Switch::interfaces_gone`]); what else was changed is changed back.
    pub fn look_at_host_ends(&mut self, indices: &HashSet<u32>) {
        let mut netlink = match Netlink::open() {
            Ok(netlink) => netlink,
            Err(error) => {
                tracing::warn!(%error, "the interfaces of AF_XDP ports cannot be looked at");
                return;
            }
        };
        let mut gone = Vec::new();
        for (bridge, live) in &self.live.bridges {
            for (name, port) in &live.ports {
                let Some(xdp) = port.link().and_then(|link| link.xdp()) else { continue };
                let Some((record, _)) = self.record(bridge, name) else { continue };
                if !indices.contains(&xdp.pair().index()) {
                    continue;
                }
                match netlink.link_by_index(xdp.pair().index()) {
                    Ok(None) => gone.push((port.id, port.incarnation)),
                    Ok(Some(link)) => {
                        let interface = self.port_interface(bridge, record, name);
                        let mut changes = Changes::lenient();
                        if let Err(error) = interface.restore_host_end(&mut netlink, &link, &mut changes) {
                            changes.refused.push(error.message);
                        }
                        match xdp.reattach() {
                            Ok(true) => changes.done.push("XDP program attached".to_owned()),
                            Ok(false) => {}
                            Err(error) => changes.refused.push(error.to_string()),
                        }
                        super::reconcile::log_changes(name, &changes);
                    }
                    Err(error) => tracing::warn!(port = %name, %error, "the port's interface cannot be looked at"),
                }
            }
        }
        if !gone.is_empty() {
            self.interfaces_gone(&gone);
        }
    }
}
