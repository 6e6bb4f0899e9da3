//! The protocol's messages, under the names of `libnetwork/drivers/remote/api/api.go`.
//!
//! Unknown keys are ignored, as the protocol asks for: newer engines add some. What an engine leaves out, or sends as
//! `null`, is empty. Ports, protocols and addresses are what Go's `encoding/json` makes of them: an address that is not
//! set is an empty string.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The options of a call: a free-form map.
pub(super) type Options = Map<String, Value>;

/// Under this key of a network's options are those of `docker network create -o`.
pub(super) const GENERIC: &str = "com.docker.network.generic";
/// Whether the network leads nowhere.
pub(super) const INTERNAL: &str = "com.docker.network.internal";
/// The published ports of a container.
pub(super) const PORT_MAP: &str = "com.docker.network.portmap";
/// The exposed ports of a container.
pub(super) const EXPOSED_PORTS: &str = "com.docker.network.endpoint.exposedports";
/// The MAC address of an endpoint.
pub(super) const MAC_ADDRESS: &str = "com.docker.network.endpoint.macaddress";

/// Go encodes what is not set as `null`.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `Plugin.Activate`.
#[derive(Debug, Serialize)]
pub(super) struct Activation {
    #[serde(rename = "Implements")]
    pub(super) implements: [&'static str; 2],
}

/// `NetworkDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Capabilities {
    /// Whether networks are shared by a swarm.
    pub(super) scope: &'static str,
    /// Whether containers of one network reach each other across hosts by the driver's own doing.
    pub(super) connectivity_scope: &'static str,
    /// Whether the driver is asked if a network needs a gateway address.
    pub(super) gw_alloc_checker: bool,
}

/// `NetworkDriver.GwAllocCheck`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct GatewayCheck {
    #[serde(deserialize_with = "or_default")]
    pub(super) options: Options,
}

/// The answer to [`GatewayCheck`]: in which families no gateway address is wanted.
#[derive(Debug, Serialize)]
pub(super) struct GatewaySkipped {
    #[serde(rename = "SkipIPv4")]
    pub(super) ipv4: bool,
    #[serde(rename = "SkipIPv6")]
    pub(super) ipv6: bool,
}

/// A network that the address management gave, and who has which of its addresses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamData {
    #[serde(deserialize_with = "or_default")]
    pub(super) address_space: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) gateway: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) aux_addresses: BTreeMap<String, String>,
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Options,
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub(super) ipv4: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "or_default")]
    pub(super) ipv6: Vec<IpamData>,
}

/// The calls that only name a network: `DeleteNetwork`, `FreeNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkName {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network: String,
}

/// The calls that only name an endpoint: `EndpointOperInfo`, `DeleteEndpoint`, `Leave`,
/// `RevokeExternalConnectivity`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EndpointName {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint: String,
}

/// The addresses of an endpoint; what is empty is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EndpointInterface {
    #[serde(rename = "Address", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) address_ipv6: String,
    #[serde(rename = "MacAddress", deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) mac_address: String,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint: String,
    #[serde(rename = "Interface", deserialize_with = "or_default")]
    pub(super) interface: EndpointInterface,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Options,
}

/// The answer to [`CreateEndpoint`]: what was not set in the request, and nothing else.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreatedEndpoint {
    pub(super) interface: EndpointInterface,
}

/// The answer to `EndpointOperInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointInfo {
    pub(super) value: Options,
}

/// `NetworkDriver.Join`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Join {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint: String,
    #[serde(rename = "SandboxKey", deserialize_with = "or_default")]
    pub(super) sandbox: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Options,
}

/// The answer to [`Join`].
#[derive(Debug, Serialize)]
pub(super) struct Joined {
    #[serde(rename = "InterfaceName")]
    pub(super) interface: InterfaceName,
    #[serde(rename = "Gateway", skip_serializing_if = "String::is_empty")]
    pub(super) gateway: String,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "String::is_empty")]
    pub(super) gateway_ipv6: String,
    /// Without a gateway, and without this, Docker attaches the container to its own `docker_gwbridge` as well.
    #[serde(rename = "DisableGatewayService")]
    pub(super) disable_gateway_service: bool,
}

/// An interface on its way into a container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    /// Its name in the host's namespace.
    pub(super) src_name: String,
    /// Its name in the container, which Docker completes by a number.
    pub(super) dst_prefix: String,
}

/// `NetworkDriver.ProgramExternalConnectivity`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProgramConnectivity {
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub(super) network: String,
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub(super) endpoint: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Options,
}

/// One published port (`types.PortBinding`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PortBinding {
    /// The protocol's number.
    #[serde(deserialize_with = "or_default")]
    pub(super) proto: u8,
    /// The container's address; of answers only.
    #[serde(rename = "IP", deserialize_with = "or_default")]
    pub(super) ip: String,
    /// The container's port.
    #[serde(deserialize_with = "or_default")]
    pub(super) port: u16,
    /// The host's address; empty: all.
    #[serde(rename = "HostIP", deserialize_with = "or_default")]
    pub(super) host_ip: String,
    /// The host's port, or the first of those to choose from; 0: any.
    #[serde(deserialize_with = "or_default")]
    pub(super) host_port: u16,
    /// The last of those to choose from.
    #[serde(deserialize_with = "or_default")]
    pub(super) host_port_end: u16,
}

/// One exposed port (`types.TransportPort`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct TransportPort {
    /// The protocol's number.
    pub(super) proto: u8,
    /// The port.
    pub(super) port: u16,
}

/// An answer that says no more than that it was done.
#[derive(Debug, Serialize)]
pub(super) struct Done {}
