//! The overlay: VXLAN tunnels (RFC 7348) of a bridge, and the VTEPs at their other ends.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counters, PortState};

/// The DSCP of the outer header (RFC 2983); its ECN bits follow RFC 6040 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dscp {
    /// A copy of the inner packet's: containers choose their treatment in the underlay.
    Inherit,
    /// Always this one, 0 to 63.
    Fixed(u8),
}

impl Default for Dscp {
    /// What Linux and Open vSwitch send unless they are told otherwise: containers have no say.
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// What carries a tunnel's packets between hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// UDP sockets of the kernel: its routes, neighbours and firewall apply. Works everywhere.
    #[default]
    Socket,
    /// The uplink that is shared with the host: packets are told apart before the kernel's IP stack.
    Uplink,
}

/// A VXLAN tunnel to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VxlanSpec {
    /// The tunnel's name, unique among the ports of its bridge; default `vxlan` and the VNI.
    #[serde(default)]
    pub name: Option<String>,
    /// The VXLAN network identifier, 0 to 16777215.
    #[schema(maximum = 16_777_215)]
    pub vni: u32,
    /// The host's own address in the underlay; default: the one that the host sends from to the
    /// first remote.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "198.18.0.1")]
    pub local: Option<IpAddr>,
    /// The VTEPs that flooded frames are replicated to, all of one address family.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["198.18.0.2"]))]
    pub remotes: Vec<IpAddr>,
    /// The UDP port of the VTEPs, the own one included; default 4789.
    #[serde(default)]
    pub dst_port: Option<u16>,
    /// What carries it; default sockets.
    #[serde(default)]
    pub carrier: Option<Carrier>,
    /// Whether MAC addresses behind remotes are learned from traffic; default true.
    #[serde(default)]
    pub learning: Option<bool>,
    /// The outer time to live (hop limit), 1 to 255; default 64.
    #[serde(default)]
    pub ttl: Option<u8>,
    /// The outer DSCP; default 0.
    #[serde(default)]
    pub dscp: Option<Dscp>,
    /// The largest inner IP packet in bytes; default: what the underlay carries less the tunnel's
    /// headers, followed when the underlay changes.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The VLAN of the bridge that the tunnel's untagged frames belong to (1 to 4094).
    #[serde(default)]
    pub vlan: Option<u16>,
    /// The VLANs that the tunnel carries with their tags; 0 stands for untagged frames. A tunnel with
    /// neither `vlan` nor `trunk` carries untagged frames only (RFC 7348, section 6.1).
    #[serde(default)]
    pub trunk: Vec<u16>,
}

/// A VXLAN tunnel as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vxlan {
    /// The tunnel's name.
    pub name: String,
    /// The bridge.
    pub bridge: String,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The host's own address in the underlay; absent while there is neither that nor a remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub local: Option<IpAddr>,
    /// The VTEPs that flooded frames are replicated to.
    #[schema(value_type = Vec<String>)]
    pub remotes: Vec<IpAddr>,
    /// VTEPs that are sent only what static entries put behind them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub unicast_remotes: Vec<IpAddr>,
    /// The UDP port.
    pub dst_port: u16,
    /// What carries it.
    pub carrier: Carrier,
    /// Whether MAC addresses behind remotes are learned.
    pub learning: bool,
    /// The outer time to live.
    pub ttl: u8,
    /// The outer DSCP.
    pub dscp: Dscp,
    /// The largest inner IP packet in bytes.
    pub mtu: u32,
    /// Whether the MTU is derived from the underlay, and follows it.
    pub mtu_derived: bool,
    /// The VLAN of untagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The VLANs that are carried with their tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<u16>,
    /// Whether it carries packets.
    pub state: PortState,
    /// The datapath thread that receives from the underlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
    /// What a person should know: why it carries nothing, what became of the bridge's MTU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One more VTEP that flooded frames are replicated to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteSpec {
    /// The VTEP's address.
    #[schema(value_type = String, example = "198.18.0.3")]
    pub ip: IpAddr,
}

/// Counters of one tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TunnelStats {
    /// The tunnel.
    pub tunnel: String,
    /// The bridge.
    pub bridge: String,
    /// The sum over all remotes. A flooded frame is sent once to each of them.
    pub total: Counters,
    /// Each remote's share.
    pub remotes: Vec<RemoteStats>,
}

/// Counters of one VTEP of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoteStats {
    /// The VTEP's address.
    #[schema(value_type = String)]
    pub remote: IpAddr,
    /// Inner frames and bytes, and drops by named reason.
    pub total: Counters,
}

/// Counters of one underlay: what the tunnels of one local address and UDP port receive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnderlayStats {
    /// The local address.
    #[schema(value_type = String)]
    pub local: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// Packets that belonged to no tunnel or were malformed are in `drops`, by named reason.
    pub total: Counters,
}

/// How often the switch answered for stations behind tunnels instead of flooding the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NeighbourStats {
    /// The bridge.
    pub bridge: String,
    /// IP addresses of stations behind tunnels that are known now.
    pub known: usize,
    /// ARP requests and neighbour solicitations answered by the switch.
    pub answered: u64,
}
