//! The host's ports as the switch shares them: made with the first need, given back at the end.

use std::sync::Arc;

use super::Switch;
use crate::control::host_ports::{self, HostPorts};
use crate::control::refusal::{Result, failed};

impl Switch {
    /// The host's ports, shared from the first call on: what the switch has is reserved against the host's programs.
    ///
    /// # Errors
    /// The kernel cannot be asked, or the classifier cannot be loaded.
    pub fn host_ports(&mut self) -> Result<Arc<HostPorts>> {
        if let Some(ports) = &self.uplinks.host_ports {
            return Ok(Arc::clone(ports));
        }
        let refused = |error: &dyn std::fmt::Display| {
            failed(format!("the ports of the host cannot be shared: {error}"), "see the daemon's log")
        };
        let directory = self.store.directory().to_owned();
        let mut means = self.uplinks.means(&self.datapath, &self.xdp);
        let classifier = means.classifier().map_err(|error| refused(&error))?;
        let ports = HostPorts::open(classifier, &directory).map_err(|error| refused(&error))?;
        Ok(Arc::clone(self.uplinks.host_ports.insert(Arc::new(ports))))
    }

    /// The host's ports, if NAT has some of them: they are to be looked at again every second.
    #[must_use]
    pub fn used_host_ports(&self) -> Option<Arc<HostPorts>> {
        self.uplinks.host_ports.as_ref().filter(|ports| ports.is_used()).cloned()
    }

    /// Puts back what an earlier daemon, which was killed, has left of the host's ports; unless this one shares them
    /// already, and has put it right.
    pub fn settle_host_ports(&self) {
        if self.uplinks.host_ports.is_some() {
            return;
        }
        if let Err(error) = host_ports::put_back(self.store.directory()) {
            tracing::warn!(%error, "ports that an earlier daemon has reserved may still be so");
        }
    }

    /// Leaves all ports to the host: at the end.
    pub fn release_host_ports(&mut self) {
        if let Some(ports) = self.uplinks.host_ports.take()
            && let Err(error) = ports.close()
        {
            tracing::warn!(%error, "reserved ports stay so until the next start");
        }
    }
}
