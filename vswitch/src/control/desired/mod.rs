//! The desired state: what the switch was told to be. The truth of the control plane.
//!
//! Theory of operation: [`Desired`] is plain data, edited by pure functions. A command clones it,
//! edits the copy and either gets a refusal, which changed nothing because the copy is thrown
//! away, or a copy that the daemon then makes real, publishes and stores. Whatever of the outside
//! world a decision needs (the host's routes, the interface names in use, a random number) comes
//! in as an argument, so that every refusal is tested without root.
//!
//! What was *learned* (MAC addresses) and what is *observed* (counters, offloads) is not here.
//!
//! The same types are the state file. They refuse unknown fields: a file that a newer version
//! wrote must not lose what this version does not understand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::api::{Carrier, Dscp, ExposeSpec, PortType, Reservation};
use crate::control::netns::{NetnsId, NetnsRef};
use crate::control::refusal::{Result, not_found};
use crate::wire::MacAddr;

mod addresses;
mod bridge;
mod check;
mod docker;
mod docker_endpoint;
mod docker_pool;
#[cfg(test)]
mod docker_tests;
mod endpoints;
mod fdb;
mod host_end;
mod lent;
mod limits;
#[cfg(test)]
mod model_tests;
mod names;
mod port;
mod publication;
mod publish;
#[cfg(test)]
mod publish_tests;
mod publish_view;
mod reboot;
#[cfg(test)]
mod tests;
mod tunnel;
#[cfg(test)]
mod tunnel_tests;
mod uplink;

pub use docker::{DockerNetwork, DockerNetworkSpec, DockerPool, DockerPortOptions, endpoint_port};
pub use docker_endpoint::{DockerEndpoint, DockerEndpointSpec};
pub use docker_pool::{DOCKER_ADDRESS_SPACE, DockerLease, DockerPoolRecord, DockerPoolSpec, LEASE_S};
pub use host_end::{HostEnd, Owner};
pub use lent::LentRecord;
pub use limits::*;
pub use names::{INTERFACE_NAME_BYTES_MAX, NAME_BYTES_MAX};
pub use publication::PublicationRecord;
pub use publish_view::{PublishView, TakenPort};
pub use tunnel::overhead;
pub use uplink::{UplinkRecord, UplinkTarget};

/// Everything that the switch was told to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// The boot of the kernel (`/proc/sys/kernel/random/boot_id`) in which the ports' namespaces had
    /// their numbers; see [`Desired::reboot`]. Not known in a state file of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The bridges by name.
    pub bridges: BTreeMap<String, BridgeRecord>,
    /// The pools that addresses of Docker's networks are given from, where the switch does that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub docker_pools: BTreeMap<String, DockerPoolRecord>,
}

/// A bridge as it was asked for, defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeRecord {
    /// The networks, at most one per family; none on an `l2` bridge.
    pub subnets: Vec<SubnetRecord>,
    /// Addresses that are never given automatically.
    pub reserve: Vec<Reservation>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether somebody chose that MTU; otherwise it follows the bridge's tunnels.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mtu_chosen: bool,
    /// Whether ports reach one another.
    pub icc: bool,
    /// Whether the bridge is a bare learning switch without a host interface.
    pub l2: bool,
    /// Whether nothing enters or leaves but through the bridge.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Whether what leaves gets an address of the host.
    #[serde(default = "on")]
    pub masquerade: bool,
    /// Where ports are published that name no address, at most one per family; empty: at all addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ips: Vec<IpAddr>,
    /// Whether TCP's maximum segment size is made to fit the way out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mss_clamp: bool,
    /// The MAC address of the host's interface; none on an `l2` bridge.
    pub mac: Option<MacAddr>,
    /// Seconds until a silent MAC address is forgotten.
    pub ageing_s: u32,
    /// The most MAC addresses learned on the bridge.
    pub mac_limit: u32,
    /// The most MAC addresses learned on one port.
    pub port_mac_limit: u32,
    /// The most flooded frames per second from one port; 0: no limit.
    pub storm_limit: u32,
    /// Free-form labels.
    pub labels: BTreeMap<String, String>,
    /// The network that it is for Docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<DockerNetwork>,
    /// The attached ports by name.
    pub ports: BTreeMap<String, PortRecord>,
    /// The tunnels by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tunnels: BTreeMap<String, TunnelRecord>,
    /// The physical interfaces that are ports, by the names that they had when they were added.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub uplinks: BTreeMap<String, UplinkRecord>,
    /// Static entries of the forwarding database, without those that the switch makes itself.
    pub statics: Vec<StaticRecord>,
}

/// One network of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetRecord {
    /// The network, host bits zero.
    pub net: IpNet,
    /// The host's own address in it.
    pub gateway: IpAddr,
    /// Where automatic addresses come from, where that is not the whole network.
    pub ip_range: Option<IpNet>,
    /// The address that was given last: allocation goes on behind it, so that an address that was
    /// just released is not given to somebody else while neighbours still remember it.
    pub last: Option<IpAddr>,
}

/// A port as it was asked for, defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRecord {
    /// The network namespace, as it was named.
    pub netns: NetnsRef,
    /// What the container was called whose namespace it is, where it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Which namespace that was: a name may lead to another one tomorrow. Of a lent port: where its interface was
    /// last seen, which is the host's namespace until somebody borrows it.
    pub netns_id: NetnsId,
    /// The same without doubt: a number that no other namespace has between two boots, where the
    /// kernel gives one.
    pub netns_cookie: Option<u64>,
    /// The interface's name in the namespace.
    pub ifname: String,
    /// The interface's index in the namespace, by which it is found when somebody renames it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Whether the namespace's loopback interface was down before the port came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lo_raised: bool,
    /// The kind of interface; a TAP in a state file of a version that knew no other.
    #[serde(default, rename = "type")]
    pub port_type: PortType,
    /// The other end of the interface, where that is a veth pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_end: Option<HostEnd>,
    /// What a port's interface is found by that somebody else moves and configures; see [`Desired::lend_port`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent: Option<LentRecord>,
    /// The addresses with their prefix lengths.
    pub ips: Vec<IpNet>,
    /// The MAC address.
    pub mac: MacAddr,
    /// The MTU in bytes, where it is not the bridge's.
    pub mtu: Option<u32>,
    /// Whether the namespace gets default routes through the bridge's gateways.
    pub default_route: bool,
    /// The VLAN of an access port.
    pub vlan: Option<u16>,
    /// The VLANs of a trunk port; empty otherwise.
    pub trunk: Vec<u16>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<PublicationRecord>,
    /// The ports that something in it listens on, as it was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ExposeSpec>,
    /// Whether it may send as somebody else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unguarded: bool,
    /// The most into the switch, in bits per second.
    pub ingress_rate_bps: Option<u64>,
    /// The most towards the port, in bits per second.
    pub egress_rate_bps: Option<u64>,
}

/// A static entry of the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRecord {
    /// The MAC address.
    pub mac: MacAddr,
    /// The VLAN; 0 for untagged.
    pub vlan: u16,
    /// The port or tunnel; the bridge's own name for the host.
    pub port: String,
    /// The VTEP, where the port is a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// The IP addresses that the switch answers for; of stations behind tunnels only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
}

/// A VXLAN tunnel as it was asked for, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelRecord {
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The host's own address in the underlay; none until there is a remote that decides it.
    pub local: Option<IpAddr>,
    /// The UDP port.
    pub dst_port: u16,
    /// What carries it.
    #[serde(default)]
    pub carrier: Carrier,
    /// The VTEPs that flooded frames are replicated to, in the order in which they were named.
    pub remotes: Vec<IpAddr>,
    /// Whether MAC addresses behind remotes are learned.
    pub learning: bool,
    /// The outer time to live.
    pub ttl: u8,
    /// The outer DSCP.
    pub dscp: Dscp,
    /// The largest inner IP packet in bytes, where it is not derived from the underlay.
    pub mtu: Option<u32>,
    /// The VLAN that untagged frames belong to.
    pub vlan: Option<u16>,
    /// The VLANs that are carried with their tags; neither this nor a VLAN: untagged frames only.
    pub trunk: Vec<u16>,
}

/// What decisions about tunnels need to know of the host's side of the underlay.
#[derive(Debug, Clone, Default)]
pub struct UnderlayView {
    /// The host's own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The address that the host sends from to the first of the named remotes, if it has a route.
    pub source: Option<IpAddr>,
}

/// A route of the host, as far as address decisions care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where the route leads.
    pub dst: IpNet,
    /// The interface that it leaves by; empty where there is none.
    pub ifname: String,
    /// The next hop, if it is not on the link.
    pub via: Option<IpAddr>,
}

/// What decisions need to know of the host.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// The host's routes, default routes left out.
    pub routes: Vec<HostRoute>,
    /// The names of the host's interfaces.
    pub interfaces: BTreeSet<String>,
    /// Four random bytes, for a MAC address that no IPv4 address determines.
    pub random: [u8; 4],
}

/// What a port's interface turned out to be when it was made or taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundInterface {
    /// Its name.
    pub ifname: String,
    /// Its index, where that is known.
    pub ifindex: Option<u32>,
    /// See [`PortRecord::lo_raised`].
    pub lo_raised: bool,
    /// See [`PortRecord::host_end`].
    pub host_end: Option<HostEnd>,
    /// The namespace that it is in and its cookie, where that is not known already: of a lent port.
    pub netns: Option<(NetnsId, Option<u64>)>,
}

/// The namespace that a port is to be attached to.
#[derive(Debug, Clone)]
pub struct PortTarget {
    /// As it was named.
    pub netns: NetnsRef,
    /// Which one it is.
    pub id: NetnsId,
    /// Its cookie; see [`PortRecord::netns_cookie`].
    pub cookie: Option<u64>,
    /// Whose interfaces the port's are.
    pub owner: Owner,
    /// Four random bytes, for a MAC address that no IPv4 address determines.
    pub random: [u8; 4],
}

impl Desired {
    /// The bridge `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn bridge(&self, name: &str) -> Result<&BridgeRecord> {
        self.bridges.get(name).ok_or_else(|| no_bridge(name))
    }

    /// The bridge `name`, to be edited.
    fn bridge_mut(&mut self, name: &str) -> Result<&mut BridgeRecord> {
        self.bridges.get_mut(name).ok_or_else(|| no_bridge(name))
    }

    /// The number of ports, the hosts' own, the tunnels' VTEPs and what carries them included: what
    /// counts against [`crate::snapshot::PORTS_MAX`].
    #[must_use]
    pub fn ports_count(&self) -> usize {
        let ports =
            self.bridges.values().map(|bridge| bridge.ports.len() + bridge.uplinks.len() + usize::from(!bridge.l2));
        ports.sum::<usize>() + self.vteps_count()
    }
}

/// What masquerading was before it could be turned off.
fn on() -> bool {
    true
}

fn no_bridge(name: &str) -> crate::api::Error {
    not_found(format!("there is no bridge {name:?}"), "`vswitchctl list-br` lists the bridges")
}

impl BridgeRecord {
    /// The MTU of `port` on this bridge, in bytes.
    #[must_use]
    pub fn port_mtu(&self, port: &PortRecord) -> u32 {
        port.mtu.unwrap_or(self.mtu)
    }

    /// The gateway addresses with the prefix lengths of their networks: the host interface's own.
    pub fn host_addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.subnets.iter().filter_map(|subnet| IpNet::new(subnet.gateway, subnet.net.prefix_len()).ok())
    }
}
