//! Docker's endpoints: what a container is going to have on a network.

use std::collections::HashSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::docker::{DockerNetwork, DockerPortOptions, check_docker_id, endpoint_port};
use super::limits::{EXPOSED_MAX, PORT_ADDRESSES_MAX};
use super::port::{check_rate, check_vlans};
use super::{BridgeRecord, Desired, PublicationRecord, PublishView};
use crate::api::{ExposeSpec, PublishSpec};
use crate::control::refusal::{Result, conflict, invalid, limit, not_found};
use crate::wire::MacAddr;

/// An endpoint as Docker asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerEndpointSpec {
    /// The addresses that the address management gave it, with their networks' prefix lengths.
    pub ips: Vec<IpNet>,
    /// The MAC address; none: to be chosen.
    pub mac: Option<MacAddr>,
    /// What differs from the network's.
    pub port: DockerPortOptions,
    /// The ports that the container's image says it listens on.
    pub exposed: Vec<ExposeSpec>,
}

/// An endpoint of Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerEndpoint {
    /// The addresses with their prefix lengths.
    pub ips: Vec<IpNet>,
    /// The MAC address.
    pub mac: MacAddr,
    /// What differs from the network's.
    #[serde(default)]
    pub port: DockerPortOptions,
    /// See [`DockerEndpointSpec::exposed`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ExposeSpec>,
    /// What Docker had published, nothing left open; people may have published more by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishSpec>,
}

impl Desired {
    /// Makes an endpoint of the network `network`. One that was made before with the same content is left as it is; of
    /// others that nobody has joined, those go that have one of its addresses.
    ///
    /// # Errors
    /// There is no such network; an address is not of its subnets, or taken, by whom is said; the MAC address is taken;
    /// a value is out of its range. The state is then unchanged.
    pub fn add_docker_endpoint(
        &mut self,
        network: &str,
        id: &str,
        spec: &DockerEndpointSpec,
        random: [u8; 4],
    ) -> Result<DockerEndpoint> {
        check_docker_id("endpoint id", id)?;
        let (bridge, record, known) = self.docker_network(network)?;
        let name = endpoint_port(id);
        if let Some(same) = known.endpoints.get(id) {
            if same.ips == spec.ips && spec.mac.is_none_or(|mac| mac == same.mac) {
                return Ok(same.clone());
            }
            if record.ports.contains_key(name) {
                return Err(conflict(
                    format!(
                        "there is an endpoint {name:?} on bridge {bridge:?} with other addresses, and a container has it"
                    ),
                    "stop that container first",
                ));
            }
        }
        if spec.ips.len() > PORT_ADDRESSES_MAX || spec.exposed.len() > EXPOSED_MAX {
            return Err(limit(
                format!(
                    "the endpoint {name:?} would have more than {PORT_ADDRESSES_MAX} addresses or {EXPOSED_MAX} exposed ports and ranges"
                ),
                "use fewer",
            ));
        }
        check_vlans(spec.port.vlan, &[])?;
        check_rate("ingress rate", spec.port.ingress_rate_bps)?;
        check_rate("egress rate", spec.port.egress_rate_bps)?;
        for ip in &spec.ips {
            record.explicit_address(bridge, ip.addr(), Some(ip.prefix_len()))?;
            let has = |other: &[IpNet]| other.iter().any(|other| other.addr() == ip.addr());
            if let Some((port, _)) = record.ports.iter().find(|(port, of)| *port != name && has(&of.ips)) {
                return Err(conflict(
                    format!("the address {} is taken on bridge {bridge:?} by port {port:?}", ip.addr()),
                    "detach that port, or attach it again with an --ip that Docker does not give",
                ));
            }
        }
        let joined = |other: &str| other != id && record.ports.contains_key(endpoint_port(other));
        let stale: Vec<String> = known
            .endpoints
            .iter()
            .filter(|(other, of)| {
                let shares = of.ips.iter().any(|ip| spec.ips.iter().any(|new| new.addr() == ip.addr()));
                *other != id && !joined(other) && (shares || Some(of.mac) == spec.mac)
            })
            .map(|(other, _)| other.clone())
            .collect();
        let taken = |mac: MacAddr| {
            let port =
                record.mac_owner(bridge, mac).filter(|_| record.ports.get(name).is_none_or(|port| port.mac != mac));
            port.or_else(|| {
                let others = known.endpoints.iter().filter(|(other, _)| *other != id && !stale.contains(other));
                let mut others = others.filter(|(_, of)| of.mac == mac);
                others.next().map(|(other, _)| format!("endpoint {:?}", endpoint_port(other)))
            })
        };
        let mac = match spec.mac {
            Some(mac) => {
                if !mac.is_unicast() {
                    return Err(invalid(
                        format!("{mac} is a group address or all zero, which no interface may have"),
                        "choose one whose first byte is even with --mac-address",
                    ));
                }
                if let Some(owner) = taken(mac) {
                    return Err(conflict(
                        format!("the MAC address {mac} is taken on bridge {bridge:?} by {owner}"),
                        "choose another with --mac-address, or leave it out",
                    ));
                }
                mac
            }
            None => BridgeRecord::free_mac(&spec.ips, random, |mac| taken(mac).is_none()),
        };
        let endpoint = DockerEndpoint {
            ips: spec.ips.clone(),
            mac,
            port: spec.port.clone(),
            exposed: spec.exposed.clone(),
            published: Vec::new(),
        };
        if let Some(network) = self.docker_network_mut(network).and_then(|(_, record)| record.docker.as_mut()) {
            for old in &stale {
                network.endpoints.remove(old);
            }
            network.endpoints.insert(id.to_owned(), endpoint.clone());
        }
        Ok(endpoint)
    }

    /// The endpoint `id` of the network `network`, with its bridge.
    ///
    /// # Errors
    /// There is no such network or endpoint.
    pub fn docker_endpoint(
        &self,
        network: &str,
        id: &str,
    ) -> Result<(&str, &BridgeRecord, &DockerNetwork, &DockerEndpoint)> {
        let (bridge, record, known) = self.docker_network(network)?;
        let endpoint = known.endpoints.get(id).ok_or_else(|| {
            not_found(
                format!("the bridge {bridge:?} has no endpoint {:?}", endpoint_port(id)),
                "stop the container and start it again",
            )
        })?;
        Ok((bridge, record, known, endpoint))
    }

    /// Forgets an endpoint; its port, which the caller has removed, is not looked at. Whether there was one.
    pub fn remove_docker_endpoint(&mut self, network: &str, id: &str) -> bool {
        let network = self.docker_network_mut(network).and_then(|(_, record)| record.docker.as_mut());
        network.is_some_and(|network| network.endpoints.remove(id).is_some())
    }

    /// Forgets the endpoint whose port `port` was on `bridge`: the container that had joined it is gone.
    pub fn forget_docker_endpoint(&mut self, bridge: &str, port: &str) {
        if let Some(network) = self.bridges.get_mut(bridge).and_then(|record| record.docker.as_mut()) {
            network.endpoints.retain(|id, _| endpoint_port(id) != port);
        }
    }

    /// Publishes `specs` of an endpoint, for Docker; returns what they come to.
    ///
    /// # Errors
    /// There is no such endpoint, or no container has joined it; what [`Desired::publish`] refuses. The state is then
    /// unchanged.
    pub fn publish_docker(
        &mut self,
        network: &str,
        id: &str,
        specs: &[PublishSpec],
        host: &PublishView<'_>,
    ) -> Result<Vec<PublicationRecord>> {
        let (bridge, ..) = self.docker_endpoint(network, id)?;
        let bridge = bridge.to_owned();
        let published = self.publish(&bridge, endpoint_port(id), specs, &[], host)?;
        if let Some(endpoint) = self.docker_endpoint_mut(network, id) {
            for one in published.iter().map(PublicationRecord::spec) {
                if !endpoint.published.contains(&one) {
                    endpoint.published.push(one);
                }
            }
        }
        Ok(published)
    }

    /// Takes back what Docker had published of an endpoint; what is gone already is no error.
    pub fn revoke_docker(&mut self, network: &str, id: &str) {
        let Some(endpoint) = self.docker_endpoint_mut(network, id) else { return };
        let specs = std::mem::take(&mut endpoint.published);
        if let Some((_, record)) = self.docker_network_mut(network)
            && let Some(port) = record.ports.get_mut(endpoint_port(id))
        {
            for spec in &specs {
                port.take_back(spec);
            }
        }
    }

    fn docker_endpoint_mut(&mut self, network: &str, id: &str) -> Option<&mut DockerEndpoint> {
        self.docker_network_mut(network)?.1.docker.as_mut()?.endpoints.get_mut(id)
    }
}

impl BridgeRecord {
    /// The endpoint, for a sentence, for which `has` holds, other than the one that becomes the port `port`.
    pub(super) fn docker_endpoint_with(&self, port: &str, has: impl Fn(&DockerEndpoint) -> bool) -> Option<String> {
        let endpoints = self.docker.iter().flat_map(|network| &network.endpoints);
        let mut others = endpoints.filter(|(id, endpoint)| endpoint_port(id) != port && has(endpoint));
        others.next().map(|(id, _)| format!("Docker's endpoint {:?}", endpoint_port(id)))
    }

    pub(super) fn check_docker_endpoints(&self, bridge: &str, network: &DockerNetwork) -> Result<()> {
        let mut addresses = HashSet::new();
        let mut names = HashSet::new();
        for (id, endpoint) in &network.endpoints {
            check_docker_id("endpoint id", id)?;
            let name = endpoint_port(id);
            for ip in &endpoint.ips {
                self.explicit_address(bridge, ip.addr(), Some(ip.prefix_len()))?;
            }
            let bad = !names.insert(name)
                || !endpoint.mac.is_unicast()
                || endpoint.exposed.len() > EXPOSED_MAX
                || !endpoint.ips.iter().all(|ip| addresses.insert(ip.addr()));
            if bad {
                return Err(conflict(format!("the endpoint {name:?} of bridge {bridge:?} is bad or doubled"), ""));
            }
            check_vlans(endpoint.port.vlan, &[])?;
            check_rate("ingress rate", endpoint.port.ingress_rate_bps)?;
            check_rate("egress rate", endpoint.port.egress_rate_bps)?;
        }
        Ok(())
    }
}
