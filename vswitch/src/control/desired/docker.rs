//! Docker's networks: what the engine was promised, kept with the bridges that they are.
//!
//! Theory of operation: one network of Docker's is one bridge, and its record is a part of the bridge's, so that
//! neither is ever stored without the other. An endpoint is the addresses and the MAC address that a container is
//! going to have; joined to a container's namespace it is a port of the bridge, named after the endpoint. Whether
//! it is joined is written nowhere: it is while its port is there, however that went.
//!
//! The engine keeps its own books and never reads ours. When one of the two programs is killed between a call and
//! its answer, the books differ, and the engine's are right: it does not ask for what it believes to have. So
//! what a new request cannot have beside an old one that nobody uses makes the old one *stale*, and replaces it. A
//! network that containers are attached to is never stale.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::docker_endpoint::DockerEndpoint;
use super::limits::DOCKER_ID_BYTES_MAX;
use super::{BridgeRecord, Desired, HostRoute, HostView};
use crate::api::{BridgeSpec, PortType, UplinkSpec, VxlanSpec};
use crate::control::ipam::overlaps;
use crate::control::refusal::{Result, conflict, invalid, not_found};

/// The bytes of an id that tell networks and endpoints apart for people, as in `docker ps`.
const SHORT_ID_BYTES: usize = 12;
/// What the names of bridges begin with that were given none.
const BRIDGE_PREFIX: &str = "vs-";

/// A network as Docker asked for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerNetworkSpec {
    /// Docker's id of the network.
    pub id: String,
    /// The bridge that it becomes.
    pub bridge: BridgeSpec,
    /// The networks that Docker's address management gave it; of a bare learning switch, too.
    #[serde(default)]
    pub pools: Vec<DockerPool>,
    /// What its ports have in common.
    #[serde(default)]
    pub ports: DockerPortOptions,
    /// What the names of interfaces in containers begin with.
    #[serde(default)]
    pub ifname_prefix: String,
    /// Where the containers' default routes lead, of families in which that is not the bridge's gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routers: Vec<IpAddr>,
    /// The tunnel to other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<VxlanSpec>,
    /// The physical interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<UplinkSpec>,
}

/// A network that an address management (IPAM) gave to Docker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerPool {
    /// The address space, within which it gives no address twice.
    pub space: String,
    /// The network.
    pub net: IpNet,
    /// Its addresses that are nobody's: the gateway's, and those that were set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<IpAddr>,
}

/// What a port of a Docker network is beyond its addresses; what is absent is as the network has it, or the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerPortOptions {
    /// The kind of interface.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub port_type: Option<PortType>,
    /// The VLAN of an access port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Whether the port is kept from sending as somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<bool>,
    /// The most into the switch, in bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_rate_bps: Option<u64>,
    /// The most towards the container, in bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_rate_bps: Option<u64>,
}

impl DockerPortOptions {
    /// These, and where they are silent `network`'s.
    #[must_use]
    pub fn over(&self, network: &Self) -> Self {
        Self {
            port_type: self.port_type.or(network.port_type),
            vlan: self.vlan.or(network.vlan),
            guard: self.guard.or(network.guard),
            ingress_rate_bps: self.ingress_rate_bps.or(network.ingress_rate_bps),
            egress_rate_bps: self.egress_rate_bps.or(network.egress_rate_bps),
        }
    }
}

/// A network of Docker's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerNetwork {
    /// What was asked for.
    pub spec: DockerNetworkSpec,
    /// Its endpoints by Docker's ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, DockerEndpoint>,
}

impl DockerNetworkSpec {
    /// The name of the bridge of the network `id` that was given none.
    #[must_use]
    pub fn default_bridge(id: &str) -> String {
        format!("{BRIDGE_PREFIX}{}", short_id(id))
    }
}

/// The name of the port that the endpoint `id` is while it is joined.
#[must_use]
pub fn endpoint_port(id: &str) -> &str {
    short_id(id)
}

/// As `docker ps` shows ids.
fn short_id(id: &str) -> &str {
    id.get(..SHORT_ID_BYTES).unwrap_or(id)
}

/// Checks an id of Docker's, which is 64 hexadecimal digits, and taken as it is as long as it can be a name.
pub(super) fn check_docker_id(what: &str, id: &str) -> Result<()> {
    let is_id = !id.is_empty()
        && id.len() <= DOCKER_ID_BYTES_MAX
        && !id.starts_with(['-', '.'])
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_id {
        return Ok(());
    }
    Err(invalid(
        format!("{id:?} is no {what}"),
        format!("letters, digits, '-', '_' and '.' are expected, 1 to {DOCKER_ID_BYTES_MAX}"),
    ))
}

impl Desired {
    /// The bridge of the network with Docker's id `id`, its record and the network.
    ///
    /// # Errors
    /// There is none.
    pub fn docker_network(&self, id: &str) -> Result<(&str, &BridgeRecord, &DockerNetwork)> {
        self.find_docker_network(id).ok_or_else(|| {
            not_found(
                format!("the switch has no network {:?}", short_id(id)),
                "remove it with `docker network rm` and create it again",
            )
        })
    }

    /// As [`Desired::docker_network`], where there may be none.
    #[must_use]
    pub fn find_docker_network(&self, id: &str) -> Option<(&str, &BridgeRecord, &DockerNetwork)> {
        self.bridges.iter().find_map(|(bridge, record)| {
            let network = record.docker.as_ref().filter(|network| network.spec.id == id)?;
            Some((bridge.as_str(), record, network))
        })
    }

    pub(super) fn docker_network_mut(&mut self, id: &str) -> Option<(&str, &mut BridgeRecord)> {
        self.bridges.iter_mut().find_map(|(bridge, record)| {
            record.docker.as_ref().is_some_and(|network| network.spec.id == id).then_some((bridge.as_str(), record))
        })
    }

    /// Makes the bridge of a network. What is to be attached to it, a tunnel or an uplink, is left to the caller.
    ///
    /// # Errors
    /// What [`Desired::add_bridge`] refuses; the id is bad, or a network has it that was asked for otherwise. The state
    /// is then unchanged.
    pub fn add_docker_network(&mut self, spec: &DockerNetworkSpec, host: &HostView) -> Result<()> {
        check_docker_id("network id", &spec.id)?;
        if let Some((bridge, ..)) = self.find_docker_network(&spec.id) {
            return Err(conflict(
                format!(
                    "there is a network {:?} already, the bridge {bridge:?}, and it is another one",
                    short_id(&spec.id)
                ),
                "remove it first with `docker network rm`",
            ));
        }
        self.add_bridge(&spec.bridge, &host.without_ways_to(&spec.bridge.subnets))?;
        self.bridge_mut(&spec.bridge.name)?.docker =
            Some(DockerNetwork { spec: spec.clone(), endpoints: BTreeMap::new() });
        Ok(())
    }

    /// The bridges of networks that Docker must have forgotten if it asks for `spec`: an address management gives no
    /// address of a space to two networks. Bridges with ports are not among them: somebody uses them.
    #[must_use]
    pub fn stale_docker_networks(&self, spec: &DockerNetworkSpec) -> Vec<String> {
        let is_stale = |network: &DockerNetwork| {
            network.spec.id != spec.id
                && network
                    .spec
                    .pools
                    .iter()
                    .any(|old| spec.pools.iter().any(|new| old.space == new.space && overlaps(old.net, new.net)))
        };
        let networks = self.bridges.iter().filter(|(_, record)| record.ports.is_empty());
        networks
            .filter(|(_, record)| record.docker.as_ref().is_some_and(is_stale))
            .map(|(bridge, _)| bridge.clone())
            .collect()
    }

    /// The ids of the networks without ports, with which nothing would be removed that is not Docker's.
    pub fn idle_docker_networks(&self) -> impl Iterator<Item = &str> {
        let networks = self.bridges.values().filter(|record| record.ports.is_empty());
        let ids = networks.filter_map(|record| record.docker.as_ref()).map(|network| network.spec.id.as_str());
        ids.filter(|id| self.removable_docker_network(id).is_ok())
    }

    /// The bridge of the network `id`, to be removed with its endpoints; none if there is no such network.
    ///
    /// # Errors
    /// Something that is not Docker's is attached to it.
    pub fn removable_docker_network(&self, id: &str) -> Result<Option<String>> {
        let Some((bridge, record, network)) = self.find_docker_network(id) else { return Ok(None) };
        let is_endpoint = |port: &str| network.endpoints.keys().any(|endpoint| endpoint_port(endpoint) == port);
        let vxlan = network.spec.vxlan.as_ref().and_then(|vxlan| vxlan.name.as_deref());
        let uplink = network.spec.uplink.as_ref().map(|uplink| uplink.interface.as_str());
        let port = record.ports.keys().find(|port| !is_endpoint(port));
        let tunnel = record.tunnels.keys().find(|tunnel| Some(tunnel.as_str()) != vxlan);
        let other_uplink = record.uplinks.keys().find(|name| Some(name.as_str()) != uplink);
        let attached = port
            .map(|port| ("port", port, "del-port"))
            .or(tunnel.map(|tunnel| ("tunnel", tunnel, "del-vxlan")))
            .or(other_uplink.map(|uplink| ("uplink", uplink, "del-uplink")));
        match attached {
            Some((what, name, command)) => Err(conflict(
                format!("the network's bridge {bridge:?} has the {what} {name:?}, which is not Docker's"),
                format!("detach it first with `vswitchctl {command} {bridge} {name}`"),
            )),
            None => Ok(Some(bridge.to_owned())),
        }
    }

    /// Checks what a state file says of Docker's networks.
    pub(super) fn check_docker(&self) -> Result<()> {
        let mut ids = std::collections::HashSet::new();
        for (bridge, record) in &self.bridges {
            let Some(network) = &record.docker else { continue };
            check_docker_id("network id", &network.spec.id)?;
            if !ids.insert(&network.spec.id) || network.spec.bridge.name != *bridge {
                return Err(conflict(format!("the network of bridge {bridge:?} is doubled, or another bridge's"), ""));
            }
            record.check_docker_endpoints(bridge, network)?;
        }
        self.check_docker_pools()
    }
}

impl HostView {
    /// The same without the routes that say where `nets` are only because they say it of much more: Docker gives networks out
    /// of what leads to a router (a company's 172.16.0.0/12), and the host has the better route to them then. What is
    /// on a link of the host's stays.
    pub(super) fn without_ways_to(&self, nets: &[IpNet]) -> Self {
        let is_wider = |route: &HostRoute| {
            let on_link = route.via.is_none() && !route.ifname.is_empty();
            !on_link && nets.iter().any(|net| route.dst.contains(net) && route.dst != *net)
        };
        let routes = self.routes.iter().filter(|route| !is_wider(route)).cloned().collect();
        Self { routes, interfaces: self.interfaces.clone(), random: self.random }
    }
}

impl BridgeRecord {
    /// Refuses to remove the bridge of a network that Docker knows.
    pub(super) fn check_not_dockers(&self, bridge: &str) -> Result<()> {
        match &self.docker {
            None => Ok(()),
            Some(network) => Err(conflict(
                format!("the bridge {bridge:?} is Docker's network {:?}", short_id(&network.spec.id)),
                format!(
                    "remove it with `docker network rm {}`, or with --force if Docker does not know it any more",
                    short_id(&network.spec.id)
                ),
            )),
        }
    }

    /// Refuses to choose an address that Docker may give to somebody else.
    pub(super) fn check_addresses_ours(&self, bridge: &str) -> Result<()> {
        match &self.docker {
            None => Ok(()),
            Some(network) => Err(conflict(
                format!(
                    "the addresses of bridge {bridge:?}, Docker's network {:?}, are given by Docker",
                    short_id(&network.spec.id)
                ),
                "name those that the port is to have with --ip: outside of the network's --ip-range, or set aside with \
                 --aux-address when it was created; or `--ip none`",
            )),
        }
    }
}
