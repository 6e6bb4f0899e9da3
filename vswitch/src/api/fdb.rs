//! The forwarding database in the control protocol.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
