//! Docker's networks and endpoints on the switch: what its calls come to.
//!
//! Theory of operation: each call is a command like those of the control socket, with one difference: it may be
//! repeated, and it may be about what is gone. The engine repeats a call whose answer was lost, and cleans up what it
//! may have left behind without knowing. So what is there already is answered as it was the first time, and what is
//! gone is removed successfully.
//!
//! A network is made in steps, each of which is durable: the bridge with its record first, then what is attached to
//! it. A step that fails takes the network back; a crash between two steps leaves a network that the engine does not
//! know, which its next request of the same addresses replaces (see [`Desired::stale_docker_networks`]).
//!
//! [`Desired::stale_docker_networks`]: crate::control::desired::Desired::stale_docker_networks

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Switch, host_view, random_tail};
use crate::api::{ExposeSpec, PortSpec, PublishSpec};
use crate::control::desired::{
    BridgeRecord, DockerEndpoint, DockerEndpointSpec, DockerNetwork, DockerNetworkSpec, PublicationRecord,
    endpoint_port,
};
use crate::control::refusal::Result;
use crate::wire::MacAddr;

/// What a container finds that has joined an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerJoin {
    /// The interface's name in the host's namespace, from where Docker takes it.
    pub ifname: String,
    /// What its name in the container begins with.
    pub prefix: String,
    /// Where the default routes lead, at most one per family; none: there are none.
    pub gateways: Vec<IpAddr>,
}

/// What is known of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerEndpointInfo {
    /// Its addresses.
    pub ips: Vec<IpNet>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The ports that something in the container listens on, as Docker was told.
    pub exposed: Vec<ExposeSpec>,
    /// Its published ports, whoever published them.
    pub published: Vec<PublicationRecord>,
}

impl Switch {
    /// Makes a network. One that was made before from the same request is completed where it has to be.
    ///
    /// # Errors
    /// What [`Desired::add_docker_network`](crate::control::desired::Desired::add_docker_network) refuses; the bridge,
    /// its tunnel or its uplink cannot be had; the state cannot be stored. There is no such network then.
    pub fn create_docker_network(&mut self, spec: &DockerNetworkSpec) -> Result<()> {
        let bridge = spec.bridge.name.as_str();
        let is_there = self.desired.find_docker_network(&spec.id).is_some_and(|(.., network)| network.spec == *spec);
        if !is_there {
            for stale in self.desired.stale_docker_networks(spec) {
                tracing::info!(bridge = %stale, "Docker gave the addresses of this network to another one, so it is gone");
                self.remove_bridge(&stale, true)?;
            }
            let mut next = self.desired.clone();
            next.add_docker_network(spec, &host_view()?)?;
            self.make_bridge(bridge, next)?;
        }
        self.attach_docker_network(spec).inspect_err(|_| {
            if let Err(error) = self.remove_bridge(bridge, true) {
                tracing::error!(bridge, error = %error.message, "a network that could not be made is left behind");
            }
        })
    }

    /// Attaches what connects the network to others, where it is not attached yet.
    fn attach_docker_network(&mut self, spec: &DockerNetworkSpec) -> Result<()> {
        let bridge = spec.bridge.name.as_str();
        if let Some(vxlan) = &spec.vxlan {
            let is_there = |name: &String| self.desired.bridges[bridge].tunnels.contains_key(name);
            if !vxlan.name.as_ref().is_some_and(is_there) {
                self.add_vxlan(bridge, vxlan)?;
            }
        }
        if let Some(uplink) = &spec.uplink
            && !self.desired.bridge(bridge)?.uplinks.contains_key(&uplink.interface)
        {
            self.add_uplink(bridge, uplink)?;
        }
        Ok(())
    }

    /// Removes a network with its endpoints; one that is gone is no error.
    ///
    /// # Errors
    /// Something that is not Docker's is attached to its bridge, or the state cannot be stored.
    pub fn delete_docker_network(&mut self, id: &str) -> Result<()> {
        match self.desired.removable_docker_network(id)? {
            Some(bridge) => self.remove_bridge(&bridge, true),
            None => Ok(()),
        }
    }

    /// The ids of the networks that nothing is attached to but what was made with them.
    #[must_use]
    pub fn idle_docker_networks(&self) -> BTreeSet<String> {
        self.desired.idle_docker_networks().map(str::to_owned).collect()
    }

    /// Removes those networks of `ids` that still nothing is attached to.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub fn forget_docker_networks(&mut self, ids: &BTreeSet<String>) -> Result<()> {
        for id in self.idle_docker_networks().intersection(ids) {
            tracing::info!(network = %id, "Docker does not know this network any more, so it is gone");
            self.delete_docker_network(id)?;
        }
        Ok(())
    }

    /// Makes an endpoint.
    ///
    /// # Errors
    /// What [`Desired::add_docker_endpoint`](crate::control::desired::Desired::add_docker_endpoint) refuses, or the
    /// state cannot be stored. Nothing has changed then.
    pub fn create_docker_endpoint(
        &mut self,
        network: &str,
        id: &str,
        spec: &DockerEndpointSpec,
    ) -> Result<DockerEndpoint> {
        let mut next = self.desired.clone();
        let endpoint = next.add_docker_endpoint(network, id, spec, random_tail()?)?;
        if next != self.desired {
            self.commit(next)?;
        }
        Ok(endpoint)
    }

    /// Removes an endpoint, with its port if it still has one; one that is gone is no error.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub fn delete_docker_endpoint(&mut self, network: &str, id: &str) -> Result<()> {
        self.leave_docker(network, id)?;
        let mut next = self.desired.clone();
        if next.remove_docker_endpoint(network, id) { self.commit(next) } else { Ok(()) }
    }

    /// Makes the port of an endpoint, whose interface Docker moves to the namespace with the path `sandbox`.
    ///
    /// # Errors
    /// There is no such network or endpoint; what [`Switch::lend_port`] refuses. Nothing has changed then.
    pub fn join_docker(
        &mut self,
        network: &str,
        id: &str,
        sandbox: &str,
        exposed: &[ExposeSpec],
    ) -> Result<DockerJoin> {
        let (bridge, record, known, endpoint) = self.desired.docker_endpoint(network, id)?;
        let bridge = bridge.to_owned();
        let name = endpoint_port(id);
        let mut joined = DockerJoin {
            ifname: String::new(),
            prefix: known.spec.ifname_prefix.clone(),
            gateways: gateways(record, known, endpoint),
        };
        let options = endpoint.port.over(&known.spec.ports);
        let spec = PortSpec {
            netns: sandbox.to_owned(),
            name: Some(name.to_owned()),
            port_type: options.port_type.unwrap_or_default(),
            ips: match endpoint.ips.as_slice() {
                [] => vec!["none".to_owned()],
                ips => ips.iter().map(ToString::to_string).chain(["none".to_owned()]).collect(),
            },
            mac: Some(endpoint.mac.to_string()),
            vlan: options.vlan,
            expose: if exposed.is_empty() { endpoint.exposed.clone() } else { exposed.to_vec() },
            guard: options.guard,
            ingress_rate_bps: options.ingress_rate_bps,
            egress_rate_bps: options.egress_rate_bps,
            ..PortSpec::default()
        };
        if let Some(port) = record.ports.get(name) {
            if let Some(lent) = port.lent.as_ref().filter(|_| port.netns.to_string() == sandbox) {
                joined.ifname = lent.ifname.clone();
                return Ok(joined);
            }
            // Docker attaches an endpoint to one sandbox at a time: whatever has it, that is over.
            tracing::info!(%bridge, port = name, sandbox, "the container is attached anew");
            self.remove_port(&bridge, name)?;
        }
        joined.ifname = self.lend_port(&bridge, &spec)?.ifname;
        Ok(joined)
    }

    /// Removes the port of an endpoint; one that is gone is no error.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub fn leave_docker(&mut self, network: &str, id: &str) -> Result<()> {
        let port = endpoint_port(id);
        let endpoint = self.desired.docker_endpoint(network, id).ok();
        let joined = endpoint.filter(|(_, record, ..)| record.ports.contains_key(port));
        match joined.map(|(bridge, ..)| bridge.to_owned()) {
            Some(bridge) => self.remove_port(&bridge, port),
            None => Ok(()),
        }
    }

    /// Publishes ports of an endpoint.
    ///
    /// # Errors
    /// What [`Desired::publish_docker`](crate::control::desired::Desired::publish_docker) refuses; the classifier or the
    /// store fails. Nothing has changed then.
    pub fn publish_docker(&mut self, network: &str, id: &str, specs: &[PublishSpec]) -> Result<()> {
        let mut next = self.desired.clone();
        self.with_host(|host| next.publish_docker(network, id, specs, host))?;
        self.change_services(next)
    }

    /// Takes back what was published by [`Switch::publish_docker`]; what is gone is no error.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub fn revoke_docker(&mut self, network: &str, id: &str) -> Result<()> {
        let mut next = self.desired.clone();
        next.revoke_docker(network, id);
        self.change_services(next)
    }

    /// What is known of an endpoint.
    ///
    /// # Errors
    /// There is no such network or endpoint.
    pub fn docker_endpoint(&self, network: &str, id: &str) -> Result<DockerEndpointInfo> {
        let (_, record, _, endpoint) = self.desired.docker_endpoint(network, id)?;
        let port = record.ports.get(endpoint_port(id));
        Ok(DockerEndpointInfo {
            ips: endpoint.ips.clone(),
            mac: endpoint.mac,
            exposed: port.map_or_else(|| endpoint.exposed.clone(), |port| port.exposed.clone()),
            published: port.map(|port| port.publications.clone()).unwrap_or_default(),
        })
    }
}

/// Where the default routes of an endpoint lead, one per family in which it has an address: to the router that was named when
/// the network was created, or to the bridge's gateway. A bare learning switch has none of its own.
fn gateways(record: &BridgeRecord, network: &DockerNetwork, endpoint: &DockerEndpoint) -> Vec<IpAddr> {
    if record.internal {
        return Vec::new();
    }
    let own = record.subnets.iter().map(|subnet| subnet.gateway);
    let mut gateways: Vec<IpAddr> = Vec::new();
    for gateway in network.spec.routers.iter().copied().chain(own) {
        let has_address = endpoint.ips.iter().any(|ip| ip.addr().is_ipv4() == gateway.is_ipv4());
        if has_address && !gateways.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            gateways.push(gateway);
        }
    }
    gateways
}
