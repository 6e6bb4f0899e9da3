//! Uplinks in the control protocol.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the packets of a host's interface get to the switch and back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkCarry {
    /// Redirected at the tc hook to a TAP of the switch, and back: super-frames and checksum
    /// offloads survive.
    #[default]
    Tc,
    /// AF_XDP sockets, filled by a program in the interface's driver.
    XdpNative,
    /// AF_XDP sockets, filled by a program behind the driver: with every interface, and slower.
    XdpGeneric,
}

/// A physical interface that is to become a port of a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UplinkSpec {
    /// The interface's name.
    pub interface: String,
    /// How its packets get to the switch; default `tc`.
    #[serde(default)]
    pub carry: UplinkCarry,
    /// Access port: the interface's untagged frames belong to this VLAN (1 to 4094). Without it the
    /// interface carries every VLAN, tagged as the frames are.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// Also take an interface that has IP addresses, which the host cannot use meanwhile.
    #[serde(default)]
    pub force: bool,
}

/// What an uplink is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UplinkState {
    /// Attached, and the interface has a carrier.
    Up,
    /// Attached, but the interface is down or has no carrier.
    Down,
    /// The interface is not there; it is attached when it appears.
    Waiting,
    /// It could not be attached, for the reason in `detail`; it is tried again.
    Failed,
    /// Nothing needs it, so nothing is attached to the host's interface.
    Idle,
}

/// A physical interface that is a port of a bridge (an L2 uplink), as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Uplink {
    /// The port's name: the interface's when it was added.
    pub name: String,
    /// The bridge.
    pub bridge: String,
    /// The interface's name now; absent while it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What it is doing.
    pub state: UplinkState,
    /// How its packets get to the switch.
    pub carry: UplinkCarry,
    /// How that was attached, for people: `tcx`, `clsact`, `zero-copy`, `copy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// What a person should know, such as why it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// The VLAN of an access port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The interface's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The interface's MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The offloads that the way to the interface grants.
    pub offloads: Vec<String>,
    /// The datapath thread that reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
}

/// An interface of the host that stays the host's, and through which the switch's packets leave, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedUplink {
    /// As the daemon was told: an interface's name, or `auto` for that of the default route.
    pub asked: String,
    /// The interface's name now; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What it is doing.
    pub state: UplinkState,
    /// How the switch's packets are taken and given back.
    pub carry: UplinkCarry,
    /// How that was attached, for people: `tcx`, `clsact`, `zero-copy`, `copy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The interface on the host that the packets are carried by, with `tc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// What needs it.
    pub needed_by: Vec<String>,
    /// The interface's addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// What a person should know: why it failed, programs of others, policy rules of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// The answer of `GET /v1/uplinks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Uplinks {
    /// The interfaces that are shared with the host.
    pub shared: Vec<SharedUplink>,
    /// The interfaces that are ports of bridges.
    pub l2: Vec<Uplink>,
    /// What the classifier of the shared uplinks took, by rule, and what it had to drop.
    pub counters: BTreeMap<String, u64>,
}
