//! The calls of `IpamDriver`: the switch as the address management of Docker's networks (`--ipam-driver vswitch`).

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::message::{Done, or_default};
use super::values::address;
use crate::control::desired::{DOCKER_ADDRESS_SPACE, DockerPoolSpec};
use crate::control::refusal::{Result, invalid};
use crate::control::switch::Switch;

/// Under this key of a request's options is what the address is for.
const ADDRESS_TYPE: &str = "RequestAddressType";
/// That it is the gateway's.
const GATEWAY: &str = "com.docker.network.gateway";

/// `IpamDriver.GetCapabilities`.
#[derive(Debug, Serialize)]
pub(super) struct Capabilities {
    #[serde(rename = "RequiresMACAddress")]
    mac_address: bool,
    #[serde(rename = "RequiresRequestReplay")]
    replay: bool,
}

/// `IpamDriver.GetDefaultAddressSpaces`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AddressSpaces {
    local_default_address_space: &'static str,
    global_default_address_space: &'static str,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    #[serde(deserialize_with = "or_default")]
    address_space: String,
    #[serde(deserialize_with = "or_default")]
    pool: String,
    #[serde(deserialize_with = "or_default")]
    sub_pool: String,
    #[serde(deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    v6: bool,
}

/// The answer to [`RequestPool`].
#[derive(Debug, Serialize)]
pub(super) struct RequestedPool {
    #[serde(rename = "PoolID")]
    id: String,
    #[serde(rename = "Pool")]
    pool: IpNet,
    #[serde(rename = "Data")]
    data: BTreeMap<String, String>,
}

/// `IpamDriver.ReleasePool`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReleasePool {
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    id: String,
}

/// `IpamDriver.RequestAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RequestAddress {
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    id: String,
    #[serde(rename = "Address", deserialize_with = "or_default")]
    address: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
}

/// The answer to [`RequestAddress`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RequestedAddress {
    address: IpNet,
    data: BTreeMap<String, String>,
}

/// `IpamDriver.ReleaseAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReleaseAddress {
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    id: String,
    #[serde(rename = "Address", deserialize_with = "or_default")]
    address: String,
}

/// What the address management needs: nothing. Addresses do not depend on MAC addresses, and what was given is remembered.
pub(super) fn capabilities() -> Capabilities {
    Capabilities { mac_address: false, replay: false }
}

pub(super) fn address_spaces() -> AddressSpaces {
    AddressSpaces {
        local_default_address_space: DOCKER_ADDRESS_SPACE,
        global_default_address_space: DOCKER_ADDRESS_SPACE,
    }
}

pub(super) fn request_pool(switch: &mut Switch, request: &RequestPool) -> Result<RequestedPool> {
    if let Some(key) = request.options.keys().next() {
        return Err(invalid(format!("the option {key} is unknown to the address management"), "leave out --ipam-opt"));
    }
    let net = |what: &str, text: &str| match text {
        "" => Ok(None),
        text => text
            .parse::<IpNet>()
            .map(Some)
            .map_err(|_| invalid(format!("the {what} {text:?} is no network"), "write it as 172.18.0.0/16")),
    };
    let spec = DockerPoolSpec {
        space: request.address_space.clone(),
        net: net("subnet", &request.pool)?,
        range: net("address range", &request.sub_pool)?,
        ipv6: request.v6,
    };
    let (id, pool) = switch.request_docker_pool(&spec)?;
    Ok(RequestedPool { id, pool, data: BTreeMap::new() })
}

pub(super) fn release_pool(switch: &mut Switch, request: &ReleasePool) -> Result<Done> {
    switch.release_docker_pool(&request.id).map(|()| Done {})
}

pub(super) fn request_address(switch: &mut Switch, request: &RequestAddress) -> Result<RequestedAddress> {
    let ip = match request.address.as_str() {
        "" => None,
        text => Some(address("the address", text)?),
    };
    let gateway = request.options.get(ADDRESS_TYPE).is_some_and(|what| what == GATEWAY);
    let address = switch.request_docker_address(&request.id, ip, gateway)?;
    Ok(RequestedAddress { address, data: BTreeMap::new() })
}

pub(super) fn release_address(switch: &mut Switch, request: &ReleaseAddress) -> Result<Done> {
    // An empty one is what an engine gives back that got none.
    if request.address.is_empty() {
        return Ok(Done {});
    }
    switch.release_docker_address(&request.id, address("the address", &request.address)?).map(|()| Done {})
}
