//! The host's ports as the switch shares them: while something is published, or containers reach the outside.

use std::sync::Arc;

use super::Switch;
use crate::control::host_ports::{self, HostPorts};
use crate::control::refusal::{Result, failed};

impl Switch {
    /// Names the ports that the host and NAT share.
    pub fn set_host_ports(&mut self, ports: Arc<HostPorts>) {
        self.uplinks.host_ports = Some(ports);
    }

    /// The host's ports, shared from now on: what the switch has is reserved against the host's programs.
    ///
    /// # Errors
    /// The kernel cannot be asked, or the classifier cannot be loaded.
    pub fn host_ports(&mut self) -> Result<Arc<HostPorts>> {
        let refused = |error: &dyn std::fmt::Display| {
            failed(format!("the ports of the host cannot be shared: {error}"), "see the daemon's log")
        };
        let ports = match &self.uplinks.host_ports {
            Some(ports) => Arc::clone(ports),
            None => Arc::new(HostPorts::new().map_err(|error| refused(&error))?),
        };
        self.uplinks.host_ports = Some(Arc::clone(&ports));
        if !ports.is_shared() {
            let mut means = self.uplinks.means(&self.datapath, &self.xdp);
            let classifier = means.classifier().map_err(|error| refused(&error))?;
            ports.share(classifier, self.store.directory()).map_err(|error| refused(&error))?;
        }
        Ok(ports)
    }

    /// The host's ports, if NAT has some of them: they are to be looked at again every second.
    #[must_use]
    pub fn used_host_ports(&self) -> Option<Arc<HostPorts>> {
        self.uplinks.host_ports.as_ref().filter(|ports| ports.is_used()).cloned()
    }

    /// Shares the host's ports while there is a way to the outside or something is published, and leaves them to the
    /// host otherwise. To be called before anything goes that way, so that the kernel knows which ports it has.
    pub(super) fn follow_host_ports(&mut self, outside: bool, published: bool) {
        if !outside && !published {
            self.release_host_ports();
            return;
        }
        if let Err(error) = self
            .host_ports()
            .and_then(|ports| ports.settle().map_err(|error| failed(error.to_string(), "see the daemon's log")))
        {
            tracing::warn!(error = %error.message, "programs of the host may be given ports of the switch");
        }
    }

    /// Puts back what an earlier daemon, which was killed, has left of the host's ports; unless this one shares them,
    /// and has put it right.
    pub fn settle_host_ports(&self) {
        if self.uplinks.host_ports.as_ref().is_none_or(|ports| !ports.is_shared())
            && let Err(error) = host_ports::put_back(self.store.directory())
        {
            tracing::warn!(%error, "ports that an earlier daemon has reserved may still be so");
        }
    }

    /// Leaves all ports to the host.
    pub fn release_host_ports(&mut self) {
        let Some(ports) = self.uplinks.host_ports.clone().filter(|ports| ports.is_shared()) else { return };
        self.forget_reserved();
        if let Err(error) = ports.give_back() {
            tracing::warn!(%error, "reserved ports stay so until the next start");
        }
    }
}
