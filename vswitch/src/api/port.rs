//! Ports in the control protocol.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ExposeSpec, Publication, PublishSpec};

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
