//! The host's ports as the switch shares them: while something is published, or containers reach the outside.

use std::sync::Arc;

use super::Switch;
use crate::control::host_ports::{self, HostPorts, Published};

impl Switch {
    /// Names the ports that the host and NAT share.
    pub fn set_host_ports(&mut self, ports: Arc<HostPorts>) {
        self.uplinks.host_ports = Some(ports);
    }

    /// The host's ports, if NAT has some of them: they are to be looked at again every second.
    #[must_use]
    pub fn used_host_ports(&self) -> Option<Arc<HostPorts>> {
        self.uplinks.host_ports.as_ref().filter(|ports| ports.is_used()).cloned()
    }

    /// Shares the host's ports if `wanted`, with what is published now; or leaves them to the host.
    pub(super) fn share_host_ports(&mut self, wanted: bool, published: Vec<Published>) {
        let Some(ports) = self.uplinks.host_ports.clone() else { return };
        if !wanted {
            self.release_host_ports();
            return;
        }
        // Without a classifier nothing is the switch's that could be bound.
        let Some(classifier) = self.uplinks.classifier() else { return };
        if let Err(error) = ports.share(classifier, self.store.directory(), published) {
            tracing::warn!(%error, "programs of the host may be given ports of the switch");
        }
    }

    /// Puts back what an earlier daemon, which was killed, has left of the host's ports; unless this one shares them,
    /// and has put it right.
    pub fn settle_host_ports(&self) {
        let shares = |ports: &Arc<HostPorts>| ports.is_shared();
        if self.uplinks.host_ports.as_ref().is_none_or(|ports| !shares(ports))
            && let Err(error) = host_ports::put_back(self.store.directory())
        {
            tracing::warn!(%error, "ports that an earlier daemon has reserved may still be so");
        }
    }

    /// Leaves all ports to the host.
    pub fn release_host_ports(&mut self) {
        if let Some(Err(error)) = self.uplinks.host_ports.as_ref().map(|ports| ports.give_back()) {
            tracing::warn!(%error, "reserved ports stay so until the next start");
        }
    }
}
