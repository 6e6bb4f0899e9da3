//! The switch as Docker's address management: its calls, and the collection of what nobody came for.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Switch, host_view};
use crate::control::desired::{DockerLease, DockerPoolSpec, LEASE_S};
use crate::control::refusal::{Result, failed};

/// Since when each lease was seen, in seconds of the datapath's clock. A daemon that was started anew gives all of
/// them their whole time again.
pub(super) type Leases = HashMap<DockerLease, u32>;

impl Switch {
    /// Gives a pool; returns its id and its network.
    ///
    /// # Errors
    /// What [`Desired::request_docker_pool`](crate::control::desired::Desired::request_docker_pool) refuses, or the state
    /// cannot be stored. Nothing has changed then.
    pub fn request_docker_pool(&mut self, spec: &DockerPoolSpec) -> Result<(String, IpNet)> {
        let mut random = [0; 5];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| failed(format!("the kernel gives no random numbers: {error}"), ""))?;
        let mut next = self.desired.clone();
        let given = next.request_docker_pool(spec, &host_view()?, random)?;
        self.commit(next)?;
        Ok(given)
    }

    /// Takes a pool back, and with it a network that Docker gave up before it had containers.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub fn release_docker_pool(&mut self, id: &str) -> Result<()> {
        let mut next = self.desired.clone();
        let stale = next.release_docker_pool(id);
        if next != self.desired {
            self.commit(next)?;
        }
        match stale {
            Some(bridge) => {
                tracing::info!(%bridge, "Docker gave up this network's addresses, so it is gone");
                self.remove_bridge(&bridge, true)
            }
            None => Ok(()),
        }
    }

    /// Gives an address of a pool.
    ///
    /// # Errors
    /// What [`Desired::request_docker_address`](crate::control::desired::Desired::request_docker_address) refuses, or the
    /// state cannot be stored. Nothing has changed then.
    pub fn request_docker_address(&mut self, id: &str, ip: Option<IpAddr>, gateway: bool) -> Result<IpNet> {
        let mut next = self.desired.clone();
        let given = next.request_docker_address(id, ip, gateway)?;
        self.commit(next)?;
        Ok(given)
    }

    /// Takes an address back.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub fn release_docker_address(&mut self, id: &str, ip: IpAddr) -> Result<()> {
        let mut next = self.desired.clone();
        next.release_docker_address(id, ip);
        if next == self.desired { Ok(()) } else { self.commit(next) }
    }

    /// Collects, at `now_s`, the leases that nobody came for.
    pub fn collect_docker_leases(&mut self, now_s: u32) {
        let leases = self.desired.docker_leases();
        if leases.is_empty() && self.docker_leases.is_empty() {
            return;
        }
        let before = std::mem::take(&mut self.docker_leases);
        let since = |lease: DockerLease| (before.get(&lease).copied().unwrap_or(now_s), lease);
        self.docker_leases = leases.into_iter().map(since).map(|(since, lease)| (lease, since)).collect();
        let is_over = |since: &u32| now_s.saturating_sub(*since) >= LEASE_S;
        let over: Vec<_> =
            self.docker_leases.iter().filter(|(_, since)| is_over(since)).map(|(lease, _)| lease.clone()).collect();
        if over.is_empty() {
            return;
        }
        let mut next = self.desired.clone();
        for lease in &over {
            tracing::info!(?lease, "Docker asked for this and never used it");
            next.drop_docker_lease(lease);
        }
        if let Err(error) = self.commit(next) {
            tracing::warn!(error = %error.message, "what Docker asked for and never used stays for now");
        }
    }
}
