//! The control protocol's types: what travels as JSON over the daemon's unix socket.
//!
//! This module imports no other module of the switch, so that a client needs nothing but these
//! types. Unknown fields in requests are refused: a misspelt option must not be silently ignored.
//! The OpenAPI document that the daemon serves is generated from these types.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/ping` | | [`Pong`] |
//! | `GET /v1/version` | | [`Version`] |
//! | `GET /v1/openapi.json` | | the OpenAPI document |
//! | `GET /v1/bridges` | | `[`[`Bridge`]`]` |
//! | `POST /v1/bridges` | [`BridgeSpec`] | [`Bridge`] |
//! | `GET /v1/bridges/{bridge}` | | [`Bridge`] |
//! | `PATCH /v1/bridges/{bridge}` | [`BridgeChange`] | [`Bridge`] |
//! | `DELETE /v1/bridges/{bridge}?force=true` | | 204 |
//! | `GET /v1/ports` | | `[`[`Port`]`]` |
//! | `GET /v1/bridges/{bridge}/ports` | | `[`[`Port`]`]` |
//! | `POST /v1/bridges/{bridge}/ports` | [`PortSpec`] | [`Port`] |
//! | `DELETE /v1/bridges/{bridge}/ports/{port}` | | 204 |
//! | `GET /v1/publications?bridge=NAME&port=NAME` | | `[`[`Publication`]`]` |
//! | `POST /v1/bridges/{bridge}/ports/{port}/publications` | [`Publish`] | `[`[`Publication`]`]` |
//! | `DELETE /v1/bridges/{bridge}/ports/{port}/publications?specs=SPEC,SPEC` | | [`Flushed`] |
//! | `GET /v1/vxlans` | | `[`[`Vxlan`]`]` |
//! | `GET /v1/bridges/{bridge}/vxlans` | | `[`[`Vxlan`]`]` |
//! | `POST /v1/bridges/{bridge}/vxlans` | [`VxlanSpec`] | [`Vxlan`] |
//! | `DELETE /v1/bridges/{bridge}/vxlans/{tunnel}` | | 204 |
//! | `POST /v1/bridges/{bridge}/vxlans/{tunnel}/remotes` | [`RemoteSpec`] | [`Vxlan`] |
//! | `DELETE /v1/bridges/{bridge}/vxlans/{tunnel}/remotes/{ip}` | | [`Vxlan`] |
//! | `POST /v1/bridges/{bridge}/uplinks` | [`UplinkSpec`] | [`Uplink`] |
//! | `DELETE /v1/bridges/{bridge}/uplinks/{interface}` | | 204 |
//! | `GET /v1/uplinks` | | [`Uplinks`] |
//! | `GET /v1/bridges/{bridge}/fdb` | | `[`[`FdbEntry`]`]` |
//! | `POST /v1/bridges/{bridge}/fdb` | [`FdbStatic`] | [`FdbEntry`] |
//! | `DELETE /v1/bridges/{bridge}/fdb/{mac}?vlan=N` | | [`Flushed`] |
//! | `DELETE /v1/bridges/{bridge}/fdb?port=NAME` | | [`Flushed`] |
//! | `GET /v1/conntrack?bridge=NAME&cursor=N` | | [`ConnectionPage`] |
//! | `DELETE /v1/conntrack?bridge=NAME` | | [`Flushed`] |
//! | `GET /v1/stats?bridge=NAME&port=NAME` | | [`Stats`] |
//! | `POST /v1/shutdown` | [`Shutdown`] | 202 |
//!
//! A refused request is answered with a 4xx or 5xx status and an [`Error`]; it changed nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod conntrack;
mod overlay;
mod publish;
mod stats;
mod uplink;

pub use conntrack::{CONNECTION_PAGE_MAX, Connection, ConnectionEnd, ConnectionPage, GatewayStats, Tuple};
pub use overlay::*;
pub use publish::{
    ExposeSpec, HostPort, PortRange, Publication, Publish, PublishSpec, SpecError, Transport, any_address,
};
pub use stats::{Balance, Counters, PortStats, Stats, WorkerStats};
pub use uplink::{SharedUplink, Uplink, UplinkCarry, UplinkSpec, UplinkState, Uplinks};

/// The largest request body that the daemon reads, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The version of this protocol, in [`Version::api`]; grows with every incompatible change.
pub const API_VERSION: u32 = 1;

/// Why a request was refused: one sentence for a person, one word for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Error {
    /// The kind of refusal.
    pub code: ErrorCode,
    /// What was refused and why, naming the object.
    pub message: String,
    /// What to do about it; may be empty where there is nothing to add.
    #[serde(default)]
    pub remedy: String,
}

/// The kinds of refusal. A program may match on these; they only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request could not be understood, or a value is out of its range (400).
    Invalid,
    /// The caller may not use the socket (403).
    Forbidden,
    /// The named object does not exist (404).
    NotFound,
    /// The name, the address or the interface is taken, or the object is in use (409).
    Conflict,
    /// A limit was reached (429).
    Limit,
    /// The request body is larger than [`REQUEST_BYTES_MAX`] (413).
    TooLarge,
    /// The kernel refused something, or the daemon failed (500).
    Failed,
    /// The daemon is stopping (503).
    Stopping,
}

/// The answer of `GET /v1/ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pong {
    /// The daemon's process id.
    pub pid: u32,
}

/// The answer of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// The version of this protocol; grows with every incompatible change.
    pub api: u32,
    /// The daemon's process id.
    pub pid: u32,
    /// The number of datapath threads.
    pub workers: usize,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
}

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

/// How a port joins the network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortType {
    /// A TAP interface; super-frames travel whole.
    #[default]
    Tap,
    /// One end of a veth pair, whose other end the switch reads and writes through AF_XDP: for small
    /// packets and short round trips.
    Xdp,
}

impl std::fmt::Display for PortType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tap => "tap",
            Self::Xdp => "xdp",
        })
    }
}

/// How packets get between an interface and the switch through AF_XDP, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// The device itself reads and writes the switch's memory.
    ZeroCopy,
    /// The XDP program runs in the interface's driver; the kernel copies each packet once.
    Native,
    /// The program runs behind the driver: with every interface, and slower.
    Generic,
}

/// How an interface is served through AF_XDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct XdpStatus {
    /// The interface in the host's namespace that is served.
    pub ifname: String,
    /// How; absent while the interface is not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<XdpMode>,
    /// What would have been better, and why it was refused; the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// A port to be attached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The network namespace: a name known to `ip netns`, `container:NAME` for a container of Docker's or Podman's,
    /// `pid:N` or a bare number, or a path.
    pub netns: String,
    /// What the container is called whose namespace it is, for people; default: the name in `container:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The port's name; default: the namespace's name (`pid-N` for a process, the last part of a path).
    #[serde(default)]
    pub name: Option<String>,
    /// The interface's name in the namespace; default `eth0`.
    #[serde(default)]
    pub ifname: Option<String>,
    /// The kind of interface.
    #[serde(default, rename = "type")]
    pub port_type: PortType,
    /// Addresses: `A.B.C.D`, `A.B.C.D/N`, the same for IPv6, or `none`; default: one automatic
    /// address per subnet. A family that is not named gets an automatic one too, unless `none` is named.
    #[serde(default)]
    pub ips: Vec<String>,
    /// The MAC address; default `02:42:` and the four bytes of the IPv4 address.
    #[serde(default)]
    pub mac: Option<String>,
    /// The MTU in bytes; default: the bridge's.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Whether the namespace gets default routes through the bridge's gateways; default true.
    #[serde(default)]
    pub default_route: Option<bool>,
    /// Access port: untagged frames belong to this VLAN (1 to 4094).
    #[serde(default)]
    pub vlan: Option<u16>,
    /// Trunk port: tagged frames of these VLANs only (0 stands for untagged frames). A port with
    /// neither `vlan` nor `trunk` carries every VLAN.
    #[serde(default)]
    pub trunk: Vec<u16>,
    /// Further names of the port.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The ports to publish.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["8080:80", "127.0.0.1::53/udp"]))]
    pub publish: Vec<PublishSpec>,
    /// The ports that something listens on: what `publish_all` publishes, `80`, `8000-8010/udp`.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["80", "53/udp"]))]
    pub expose: Vec<ExposeSpec>,
    /// Publish the exposed ports that `publish` does not name, at ports of the switch's choice.
    #[serde(default)]
    pub publish_all: bool,
    /// Whether the port is kept from sending as somebody else: from another MAC address than its own, or from
    /// other IP addresses where it has configured ones. Default true; an `l2` bridge has no guards.
    #[serde(default)]
    pub guard: Option<bool>,
    /// The most that the port may send into the switch, in bits per second.
    #[serde(default)]
    pub ingress_rate_bps: Option<u64>,
    /// The most that the switch delivers to the port, in bits per second.
    #[serde(default)]
    pub egress_rate_bps: Option<u64>,
}

/// The state of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// Attached and carrying packets.
    Up,
    /// Its interface could not be opened; see the daemon's log.
    Failed,
}

/// A port as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// The port's name, unique on its bridge.
    pub name: String,
    /// The bridge.
    pub bridge: String,
    /// The network namespace, as it was named.
    pub netns: String,
    /// The interface's name in the namespace; of a lent one that nobody has moved there yet, in the host's.
    pub ifname: String,
    /// Whether somebody else, such as Docker, moves the interface to the namespace and configures it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lent: bool,
    /// What the container is called whose port it is, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The kind of interface.
    #[serde(rename = "type")]
    pub port_type: PortType,
    /// How an `xdp` port is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<XdpStatus>,
    /// Whether it carries packets.
    pub state: PortState,
    /// The addresses with their prefix lengths.
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpNet>,
    /// The MAC address.
    pub mac: String,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether the namespace has default routes through the bridge.
    pub default_route: bool,
    /// The VLAN of an access port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The VLANs of a trunk port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<u16>,
    /// Further names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Publication>,
    /// The ports that something listens on, as it was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub exposed: Vec<ExposeSpec>,
    /// Whether the port is kept from sending as somebody else.
    #[serde(default)]
    pub guard: bool,
    /// The most into the switch, in bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_rate_bps: Option<u64>,
    /// The most towards the port, in bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_rate_bps: Option<u64>,
    /// The offloads that the kernel granted, such as `csum`, `tso4`, `tso6`, `ecn`, `uso`.
    pub offloads: Vec<String>,
    /// The datapath thread that reads the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
}

/// How an entry came into the forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FdbKind {
    /// Learned from traffic; ages and moves.
    Learned,
    /// Made by a person or by the switch itself (the gateway); neither ages nor moves.
    Static,
}

/// An entry of the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbEntry {
    /// The MAC address.
    pub mac: String,
    /// The VLAN; 0 for untagged.
    pub vlan: u16,
    /// The port behind which the address is; the bridge's own name for the host.
    pub port: String,
    /// Learned or static.
    pub kind: FdbKind,
    /// Seconds since the address was last seen; 0 for static entries.
    pub age_s: u32,
    /// The VTEP behind which the address is, where the port is a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// The IP addresses that the switch answers for, of a static entry that has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpAddr>,
}

/// A static entry to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbStatic {
    /// The MAC address (unicast).
    pub mac: String,
    /// The port or tunnel; the bridge's own name for the host.
    pub port: String,
    /// The VLAN; 0 for untagged.
    #[serde(default)]
    pub vlan: u16,
    /// The VTEP behind which the address is, where the port is a tunnel; default: its only remote.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// IP addresses of a station behind a tunnel: ARP requests and neighbour solicitations for them
    /// are answered by the switch instead of being flooded.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpAddr>,
}

/// How many entries were removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// The number of entries removed.
    pub removed: usize,
}

/// The body of `POST /v1/shutdown`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// Also remove every interface that the switch made; the configuration is kept.
    #[serde(default)]
    pub cleanup: bool,
}
