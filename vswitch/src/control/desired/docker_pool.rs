//! The switch as Docker's address management (IPAM): pools, and the addresses given from them.
//!
//! Theory of operation: Docker asks for a pool, for the gateway's address in it, and then for the network; for each
//! container it asks for an address, and then for the endpoint. It gives back both, and keeps no books of its own. So a
//! pool is *used* by a network and an address by a network, an endpoint or a port, and what is not used yet is a
//! *lease*: the request that it belongs to is on its way. A lease that is not used for [`LEASE_S`] seconds belongs to a
//! request that failed, and is collected; every address is with somebody, and none is lost. The same holds for an
//! endpoint that nobody has joined, whoever gave its addresses.
//!
//! The id of a pool says all that there is to say of it (`vswitch/172.18.0.0/16/172.18.5.0/24`: space, network, range).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::addresses::{check_network, ipam_refused};
use super::{Desired, HostView, endpoint_port};
use crate::control::ipam::{Allocator, Pools, Subnet, default_gateway, overlaps, validate_range};
use crate::control::refusal::{Result, conflict, invalid, limit, not_found};

/// The address space of the switch's pools: one, as a host has one routing table.
pub const DOCKER_ADDRESS_SPACE: &str = "vswitch";
/// How long a lease lasts, in seconds: the engine repeats a call for half a minute, and a request has several.
pub const LEASE_S: u32 = 120;
/// Pools there may be: each network has at most two.
const POOLS_MAX: usize = 2 * crate::snapshot::BRIDGES_MAX;

/// A pool of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerPoolRecord {
    /// The network.
    pub net: IpNet,
    /// Where addresses come from that nobody names, where that is not the whole network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
    /// The addresses that were given and not given back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub taken: BTreeSet<IpAddr>,
    /// The one that was chosen last: the next one is behind it, so that none is given again while somebody remembers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<IpAddr>,
}

/// A pool as Docker asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerPoolSpec {
    /// The address space; empty: the default one.
    pub space: String,
    /// The network; none: any that is free.
    pub net: Option<IpNet>,
    /// The part of it that addresses come from.
    pub range: Option<IpNet>,
    /// Whether an IPv6 network is wanted where none is named.
    pub ipv6: bool,
}

/// What was given, and is not used by anything that the switch knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DockerLease {
    /// A pool without a network.
    Pool(String),
    /// An address without an owner, and its pool.
    Address(String, IpAddr),
    /// An endpoint that nobody has joined, and its network.
    Endpoint(String, String),
}

impl Desired {
    /// Gives a pool; returns its id and its network. `random` makes a network of an IPv6 one that nobody names (RFC 4193).
    ///
    /// # Errors
    /// The space is not the switch's; the network is bad, or overlaps another one or a route of the host; none is free. The
    /// state is then unchanged.
    pub fn request_docker_pool(
        &mut self,
        spec: &DockerPoolSpec,
        host: &HostView,
        random: [u8; 5],
    ) -> Result<(String, IpNet)> {
        if !["", DOCKER_ADDRESS_SPACE].contains(&spec.space.as_str()) {
            return Err(invalid(
                format!("the address space {:?} is not the switch's", spec.space),
                format!("there is {DOCKER_ADDRESS_SPACE:?}"),
            ));
        }
        if self.docker_pools.len() >= POOLS_MAX {
            return Err(limit(format!("there are {POOLS_MAX} pools, which is the limit"), "remove a network first"));
        }
        let net = match spec.net {
            Some(net) => net,
            None if spec.range.is_some() => {
                return Err(invalid(
                    "an address range was named without its network",
                    "name the network with --subnet",
                ));
            }
            None if spec.ipv6 => unique_local(random),
            None => {
                let used = self.networks_in_use().chain(host.routes.iter().map(|route| route.dst));
                Pools::docker().first_free(used).map_err(|why| ipam_refused(&why))?
            }
        };
        check_network(net)?;
        if let Some(range) = spec.range {
            validate_range(net, range).map_err(|why| ipam_refused(&why))?;
        }
        if let Some((id, _)) = self.docker_pools.iter().find(|(_, pool)| overlaps(pool.net, net)) {
            return Err(conflict(
                format!("the subnet {net} overlaps the pool {id:?}"),
                "choose another with --subnet, leave it out to get a free one, or remove the network that has it",
            ));
        }
        self.check_overlap(&net, &host.without_ways_to(&[net]))?;
        let range = spec.range.map(|range| format!("/{range}")).unwrap_or_default();
        let id = format!("{DOCKER_ADDRESS_SPACE}/{net}{range}");
        let pool = DockerPoolRecord { net, range: spec.range, taken: BTreeSet::new(), last: None };
        self.docker_pools.insert(id.clone(), pool);
        Ok((id, net))
    }

    /// Takes a pool back. A network that still has it, without containers, is one whose making Docker gave up: its bridge is
    /// returned, to be removed.
    pub fn release_docker_pool(&mut self, id: &str) -> Option<String> {
        let pool = self.docker_pools.remove(id)?;
        let has = |pools: &[super::DockerPool]| {
            pools.iter().any(|one| one.space == DOCKER_ADDRESS_SPACE && one.net == pool.net)
        };
        let stale = self.bridges.iter().find(|(_, record)| {
            record.ports.is_empty() && record.docker.as_ref().is_some_and(|network| has(&network.spec.pools))
        });
        stale.map(|(bridge, _)| bridge.clone())
    }

    /// Gives an address of a pool: `ip`, or the next free one; `gateway` prefers the network's first one.
    ///
    /// # Errors
    /// There is no such pool; the address is not the pool's or taken; none is free. The state is then unchanged.
    pub fn request_docker_address(&mut self, id: &str, ip: Option<IpAddr>, gateway: bool) -> Result<IpNet> {
        let pool = self.docker_pools.get(id).ok_or_else(|| no_pool(id))?;
        let net = pool.net;
        let subnet = Subnet { net, gateway: None, range: pool.range, reserved: Vec::new() };
        let taken = pool.taken.iter().copied().chain(self.addresses_in_use(net));
        let refused = |why| ipam_refused(&why);
        let mut allocator = Allocator::restore(&subnet, taken, pool.last).map_err(refused)?;
        let first = default_gateway(net);
        let ip = match ip {
            Some(ip) => {
                allocator.take(ip).map_err(refused)?;
                ip
            }
            None if gateway && allocator.take(first).is_ok() => first,
            None => allocator.allocate().map_err(refused)?,
        };
        let last = allocator.last();
        let pool = self.docker_pools.get_mut(id).ok_or_else(|| no_pool(id))?;
        pool.taken.insert(ip);
        pool.last = last;
        // The prefix length is the network's own.
        Ok(IpNet::new(ip, net.prefix_len()).unwrap_or_else(|_| ip.into()))
    }

    /// Takes an address back; one that was not given is no error. An endpoint that has it still, and that nobody has
    /// joined, is one whose making Docker gave up.
    pub fn release_docker_address(&mut self, id: &str, ip: IpAddr) {
        let Some(pool) = self.docker_pools.get_mut(id) else { return };
        if !pool.taken.remove(&ip) {
            return;
        }
        for record in self.bridges.values_mut() {
            let (ports, network) = (&record.ports, &mut record.docker);
            if let Some(network) =
                network.as_mut().filter(|network| network.spec.pools.iter().any(|one| one.net.contains(&ip)))
            {
                network.endpoints.retain(|id, endpoint| {
                    ports.contains_key(endpoint_port(id)) || endpoint.ips.iter().all(|own| own.addr() != ip)
                });
            }
        }
    }

    /// What was given and is not used.
    #[must_use]
    pub fn docker_leases(&self) -> Vec<DockerLease> {
        let mut leases = Vec::new();
        for (id, pool) in &self.docker_pools {
            let used: BTreeSet<IpAddr> = self.addresses_in_use(pool.net).collect();
            leases.extend(pool.taken.difference(&used).map(|ip| DockerLease::Address(id.clone(), *ip)));
            let has = |record: &super::BridgeRecord| {
                record.docker.iter().flat_map(|network| &network.spec.pools).any(|one| one.net == pool.net)
            };
            if !self.bridges.values().any(has) {
                leases.push(DockerLease::Pool(id.clone()));
            }
        }
        for record in self.bridges.values() {
            if let Some(network) = &record.docker {
                let unused = network.endpoints.keys().filter(|id| !record.ports.contains_key(endpoint_port(id)));
                leases.extend(unused.map(|id| DockerLease::Endpoint(network.spec.id.clone(), id.clone())));
            }
        }
        leases
    }

    /// Collects a lease.
    pub fn drop_docker_lease(&mut self, lease: &DockerLease) {
        match lease {
            DockerLease::Pool(id) => drop(self.docker_pools.remove(id)),
            DockerLease::Address(id, ip) => self.release_docker_address(id, *ip),
            DockerLease::Endpoint(network, id) => drop(self.remove_docker_endpoint(network, id)),
        }
    }

    /// Checks what a state file says of pools.
    pub(super) fn check_docker_pools(&self) -> Result<()> {
        for (id, pool) in &self.docker_pools {
            check_network(pool.net)?;
            if let Some(range) = pool.range {
                validate_range(pool.net, range).map_err(|why| ipam_refused(&why))?;
            }
            let overlapping = self.docker_pools.iter().any(|(other, of)| other != id && overlaps(of.net, pool.net));
            if overlapping || !pool.taken.iter().chain(&pool.last).all(|ip| pool.net.contains(ip)) {
                return Err(conflict(
                    format!("the pool {id:?} overlaps another, or has an address that is not its own"),
                    "",
                ));
            }
        }
        Ok(())
    }

    /// The networks that a new pool must not overlap.
    fn networks_in_use(&self) -> impl Iterator<Item = IpNet> + '_ {
        let bridges = self.bridges.values().flat_map(|record| {
            let own = record.subnets.iter().map(|subnet| subnet.net);
            own.chain(record.docker.iter().flat_map(|network| network.spec.pools.iter().map(|pool| pool.net)))
        });
        bridges.chain(self.docker_pools.values().map(|pool| pool.net))
    }

    /// The addresses of `net` that something has, whoever gave them.
    fn addresses_in_use(&self, net: IpNet) -> impl Iterator<Item = IpAddr> + '_ {
        self.bridges
            .values()
            .flat_map(|record| {
                let ports = record.ports.values().flat_map(|port| &port.ips).map(IpNet::addr);
                let gateways = record.subnets.iter().map(|subnet| subnet.gateway);
                let reserved = record.reserve.iter().map(|one| one.ip);
                let docker = record.docker.iter().flat_map(|network| {
                    let endpoints = network.endpoints.values().flat_map(|endpoint| &endpoint.ips).map(IpNet::addr);
                    endpoints.chain(network.spec.pools.iter().flat_map(|pool| pool.held.iter().copied()))
                });
                ports.chain(gateways).chain(reserved).chain(docker)
            })
            .filter(move |ip| net.contains(ip))
    }
}

fn no_pool(id: &str) -> crate::api::Error {
    not_found(
        format!("the switch has no pool {id:?}"),
        "remove the network with `docker network rm` and create it again",
    )
}

/// A network of a unique local prefix (RFC 4193, section 3.2).
fn unique_local([a, b, c, d, e]: [u8; 5]) -> IpNet {
    let segments = [0xfd00 | u16::from(a), u16::from_be_bytes([b, c]), u16::from_be_bytes([d, e]), 0, 0, 0, 0, 0];
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(segments), 64))
}
