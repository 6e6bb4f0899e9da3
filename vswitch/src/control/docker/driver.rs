//! The calls of `NetworkDriver`: each translates between the protocol and [`Switch`], and decides nothing.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::message::{
    Capabilities, CreateEndpoint, CreateNetwork, CreatedEndpoint, Done, EXPOSED_PORTS, EndpointInfo, EndpointInterface,
    EndpointName, GatewayCheck, GatewaySkipped, InterfaceName, Join, Joined, MAC_ADDRESS, NetworkName, Options,
    PORT_MAP, ProgramConnectivity,
};
use super::{options, ports};
use crate::control::desired::DockerEndpointSpec;
use crate::control::refusal::{Result, failed, invalid};
use crate::control::switch::Switch;
use crate::wire::MacAddr;

/// What the driver can do.
pub(super) fn capabilities() -> Capabilities {
    // A tunnel connects networks of several hosts without the engines' knowledge: to each it is a local one.
    Capabilities { scope: "local", connectivity_scope: "local", gw_alloc_checker: true }
}

pub(super) fn check_gateway(request: &GatewayCheck) -> Result<GatewaySkipped> {
    let skip = options::needs_no_gateway(&request.options)?;
    Ok(GatewaySkipped { ipv4: skip, ipv6: skip })
}

pub(super) fn allocate_network(request: &NetworkName) -> Result<Done> {
    Err(invalid(
        format!(
            "the network {:?} cannot belong to a swarm: networks of this driver are local to their hosts",
            request.network
        ),
        "create it on each host without --scope swarm, and connect them with -o vxlan-vni=N -o vxlan-remotes=IP,IP",
    ))
}

pub(super) fn create_network(switch: &mut Switch, request: &CreateNetwork) -> Result<Done> {
    let spec = options::network(request)?;
    switch.create_docker_network(&spec)?;
    tracing::info!(network = %spec.id, bridge = %spec.bridge.name, "Docker's network is there");
    Ok(Done {})
}

pub(super) fn delete_network(switch: &mut Switch, request: &NetworkName) -> Result<Done> {
    switch.delete_docker_network(&request.network)?;
    tracing::info!(network = %request.network, "Docker's network is gone");
    Ok(Done {})
}

pub(super) fn create_endpoint(switch: &mut Switch, request: &CreateEndpoint) -> Result<CreatedEndpoint> {
    let EndpointInterface { address, address_ipv6, mac_address } = &request.interface;
    let net = |text: &String| {
        text.parse::<IpNet>()
            .map_err(|_| invalid(format!("{text:?} is no address with a prefix length"), "write 172.18.0.5/16"))
    };
    let ips =
        [address, address_ipv6].into_iter().filter(|text| !text.is_empty()).map(net).collect::<Result<Vec<_>>>()?;
    let mac = match mac_address.as_str() {
        "" => None,
        text => Some(
            text.parse::<MacAddr>()
                .map_err(|why| invalid(why.to_string(), "correct --mac-address, or leave it out"))?,
        ),
    };
    let spec = DockerEndpointSpec {
        ips,
        mac,
        port: options::endpoint(&request.options)?,
        exposed: ports::exposed(&request.options)?,
    };
    // What would be refused later is refused here, before there is anything to clean up.
    ports::published(&request.options)?;
    let endpoint = switch.create_docker_endpoint(&request.network, &request.endpoint, &spec)?;
    let chosen = mac.is_none().then(|| endpoint.mac.to_string());
    let interface = EndpointInterface { mac_address: chosen.unwrap_or_default(), ..EndpointInterface::default() };
    Ok(CreatedEndpoint { interface })
}

pub(super) fn endpoint_info(switch: &mut Switch, request: &EndpointName) -> Result<EndpointInfo> {
    let endpoint = switch.docker_endpoint(&request.network, &request.endpoint)?;
    let encode = |value: serde_json::Result<Value>| {
        value.map_err(|error| failed(format!("the answer cannot be written: {error}"), "report it"))
    };
    let mut value = Options::new();
    value.insert(MAC_ADDRESS.to_owned(), Value::String(endpoint.mac.to_string()));
    let exposed = ports::transport_ports(&endpoint.exposed);
    value.insert(EXPOSED_PORTS.to_owned(), encode(serde_json::to_value(exposed))?);
    let published = ports::bindings(&endpoint.published, &endpoint.ips);
    value.insert(PORT_MAP.to_owned(), encode(serde_json::to_value(published))?);
    Ok(EndpointInfo { value })
}

pub(super) fn delete_endpoint(switch: &mut Switch, request: &EndpointName) -> Result<Done> {
    switch.delete_docker_endpoint(&request.network, &request.endpoint).map(|()| Done {})
}

pub(super) fn join(switch: &mut Switch, request: &Join) -> Result<Joined> {
    let exposed = ports::exposed(&request.options)?;
    let joined = switch.join_docker(&request.network, &request.endpoint, &request.sandbox, &exposed)?;
    let gateway = |ipv6: bool| {
        let of_family = joined.gateways.iter().find(|gateway| gateway.is_ipv6() == ipv6);
        of_family.map(IpAddr::to_string).unwrap_or_default()
    };
    Ok(Joined {
        gateway: gateway(false),
        gateway_ipv6: gateway(true),
        disable_gateway_service: joined.gateways.is_empty(),
        interface: InterfaceName { src_name: joined.ifname, dst_prefix: joined.prefix },
    })
}

pub(super) fn leave(switch: &mut Switch, request: &EndpointName) -> Result<Done> {
    switch.leave_docker(&request.network, &request.endpoint).map(|()| Done {})
}

pub(super) fn program_connectivity(switch: &mut Switch, request: &ProgramConnectivity) -> Result<Done> {
    let specs = ports::published(&request.options)?;
    switch.publish_docker(&request.network, &request.endpoint, &specs).map(|()| Done {})
}

pub(super) fn revoke_connectivity(switch: &mut Switch, request: &EndpointName) -> Result<Done> {
    switch.revoke_docker(&request.network, &request.endpoint).map(|()| Done {})
}
