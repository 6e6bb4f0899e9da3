//! Bridges in the control protocol.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An address that automatic allocation leaves alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Who has it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address.
    #[schema(value_type = String, example = "172.18.0.5")]
    pub ip: IpAddr,
}

/// A bridge to be made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeSpec {
    /// The bridge's name, which is also the name of the host's interface on it (at most 15 bytes).
    pub name: String,
    /// The networks, at most one per family; none: the first free one of Docker's pools.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["172.18.0.0/16"]))]
    pub subnets: Vec<IpNet>,
    /// The gateway addresses, at most one per subnet; default the first address of each.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// Automatic addresses come from here, a part of the subnet of the same family.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub ip_ranges: Vec<IpNet>,
    /// Addresses that are never given automatically.
    #[serde(default)]
    pub reserve: Vec<Reservation>,
    /// The MTU of the bridge's interfaces in bytes, 68 to 65535. With IPv6 at least 1280. Default 1500,
    /// or what the smallest of the bridge's tunnels carries, where that is less.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Whether ports reach one another (inter-container communication); default true.
    #[serde(default)]
    pub icc: Option<bool>,
    /// No addresses and no host interface: a bare learning switch.
    #[serde(default)]
    pub l2: bool,
    /// Whether nothing enters or leaves but through the bridge: its ports reach one another and the gateway, and
    /// neither the outside nor other bridges; default false.
    #[serde(default)]
    pub internal: bool,
    /// Whether what leaves gets an address of the host; default true. Without it the outside must have a route to
    /// the bridge's subnets.
    #[serde(default)]
    pub masquerade: Option<bool>,
    /// Where ports are published that name no address of the host, at most one per family: an address of the
    /// host, or `0.0.0.0` and `::` for all of a family. Families that are not named are not published then.
    /// Default: all addresses of both.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["192.0.2.1"]))]
    pub host_ips: Vec<IpAddr>,
    /// Whether TCP's maximum segment size is made to fit the way out; default false.
    #[serde(default)]
    pub mss_clamp: Option<bool>,
    /// Seconds without traffic after which a learned MAC address is forgotten; default 300.
    #[serde(default)]
    pub ageing_s: Option<u32>,
    /// The most MAC addresses that are learned on the bridge; default 131072.
    #[serde(default)]
    pub mac_limit: Option<u32>,
    /// The most MAC addresses that are learned on one port; default 16384.
    #[serde(default)]
    pub port_mac_limit: Option<u32>,
    /// The most flooded frames per second that one port may cause (broadcast, multicast, unknown
    /// unicast); 0 for no limit; default 50000.
    #[serde(default)]
    pub storm_limit: Option<u32>,
    /// Free-form labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What may change on a living bridge; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeChange {
    /// See [`BridgeSpec::mtu`]; applied to the host's interface and to every port that has no MTU of its own.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// See [`BridgeSpec::icc`].
    #[serde(default)]
    pub icc: Option<bool>,
    /// See [`BridgeSpec::internal`]; refused while ports are published.
    #[serde(default)]
    pub internal: Option<bool>,
    /// See [`BridgeSpec::masquerade`].
    #[serde(default)]
    pub masquerade: Option<bool>,
    /// See [`BridgeSpec::host_ips`]; an empty list is the default. What is published already stays as it is.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub host_ips: Option<Vec<IpAddr>>,
    /// See [`BridgeSpec::mss_clamp`].
    #[serde(default)]
    pub mss_clamp: Option<bool>,
    /// See [`BridgeSpec::ageing_s`].
    #[serde(default)]
    pub ageing_s: Option<u32>,
    /// See [`BridgeSpec::mac_limit`].
    #[serde(default)]
    pub mac_limit: Option<u32>,
    /// See [`BridgeSpec::port_mac_limit`].
    #[serde(default)]
    pub port_mac_limit: Option<u32>,
    /// See [`BridgeSpec::storm_limit`].
    #[serde(default)]
    pub storm_limit: Option<u32>,
    /// Labels to set; an empty value removes the label.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A bridge as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Bridge {
    /// The bridge's name.
    pub name: String,
    /// The networks.
    #[schema(value_type = Vec<String>)]
    pub subnets: Vec<IpNet>,
    /// The gateway of each subnet, in the same order.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// Where automatic addresses come from, where that is not the whole subnet.
    #[schema(value_type = Vec<String>)]
    pub ip_ranges: Vec<IpNet>,
    /// Addresses that are never given automatically.
    pub reserve: Vec<Reservation>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether ports reach one another.
    pub icc: bool,
    /// Whether the bridge is a bare learning switch.
    pub l2: bool,
    /// Whether nothing enters or leaves but through the bridge.
    #[serde(default)]
    pub internal: bool,
    /// Whether what leaves gets an address of the host.
    #[serde(default)]
    pub masquerade: bool,
    /// Where ports are published that name no address; empty: at all addresses of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub host_ips: Vec<IpAddr>,
    /// Whether TCP's maximum segment size is made to fit the way out.
    #[serde(default)]
    pub mss_clamp: bool,
    /// The MAC address of the host's interface; absent on an `l2` bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Seconds until a silent MAC address is forgotten.
    pub ageing_s: u32,
    /// The most MAC addresses on the bridge.
    pub mac_limit: u32,
    /// The most MAC addresses on one port.
    pub port_mac_limit: u32,
    /// The most flooded frames per second from one port; 0: no limit.
    pub storm_limit: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Docker's id of the network that the bridge is, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_network: Option<String>,
    /// What Docker calls the network that the bridge is, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The number of attached ports, the host's own not counted.
    pub ports: usize,
    /// The number of tunnels.
    #[serde(default)]
    pub tunnels: usize,
    /// The number of MAC addresses known now.
    pub macs: usize,
    /// Conditions that a person should look at, such as a loop; empty when all is well.
    pub warnings: Vec<String>,
}
