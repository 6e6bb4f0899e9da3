//! Docker's published and exposed ports, and the switch's.
//!
//! Docker writes each port of a range as an entry of its own. Neighbours that lead to neighbours become one range again:
//! it costs as much as a single port then, with the switch and in its state.
//!
//! What the switch chose is answered to `EndpointOperInfo` as Docker's own drivers answer it. The engines that are known do
//! not show it, though, in `docker port` or `docker ps`: `getEndpointPortMapInfo` (`daemon/network.go`) takes the list only if
//! it is a `[]types.PortBinding`, and what came as JSON is a `[]interface{}`. `vswitchctl ports` shows it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::message::{EXPOSED_PORTS, Options, PORT_MAP, PortBinding, TransportPort};
use crate::api::{ExposeSpec, PortRange, PublishSpec, Transport};
use crate::control::desired::PublicationRecord;
use crate::control::refusal::{Result, invalid};

/// The published ports in the options of a call, as few ranges as possible.
///
/// # Errors
/// They are not what Docker sends; a protocol has no ports.
pub(super) fn published(options: &Options) -> Result<Vec<PublishSpec>> {
    let bindings: Vec<PortBinding> = list(options, PORT_MAP)?;
    let mut specs = bindings.iter().map(spec).collect::<Result<Vec<_>>>()?;
    // Named ports come first, so that none of them is chosen for somebody who takes any.
    let freedom = |spec: &PublishSpec| spec.host.map_or(usize::MAX, PortRange::count);
    specs.sort_by_key(|spec| {
        (freedom(spec), spec.protocol, spec.host_ip, spec.container.first, spec.host.map(|host| host.first))
    });
    specs.dedup();
    let mut merged: Vec<PublishSpec> = Vec::with_capacity(specs.len());
    for spec in specs {
        match merged.last_mut() {
            Some(last) if continues(last, &spec) => {
                last.container.last = spec.container.last;
                last.host =
                    last.host.zip(spec.host).map(|(last, host)| PortRange { first: last.first, last: host.last });
            }
            _ => merged.push(spec),
        }
    }
    Ok(merged)
}

/// Whether `spec`, of one port, is the next one of the range `last`, in which each port leads to its counterpart.
fn continues(last: &PublishSpec, spec: &PublishSpec) -> bool {
    let Some((last_host, host)) = last.host.zip(spec.host) else { return false };
    (last.protocol, last.host_ip) == (spec.protocol, spec.host_ip)
        && host.count() == 1
        && last_host.count() == last.container.count()
        && last_host.last.checked_add(1) == Some(host.first)
        && last.container.last.checked_add(1) == Some(spec.container.first)
}

fn spec(binding: &PortBinding) -> Result<PublishSpec> {
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| {
            invalid(
                format!("{text:?} is no address at which port {} could be published", binding.port),
                "name an address of the host",
            )
        })?),
    };
    let host = match (binding.host_port, binding.host_port_end) {
        (0, _) => None,
        (first, 0) => Some(PortRange::one(first)),
        (first, last) if first <= last => Some(PortRange { first, last }),
        (first, last) => {
            return Err(invalid(format!("the range of host ports {first}-{last} ends before it begins"), "swap them"));
        }
    };
    Ok(PublishSpec { host_ip, host, container: port(binding.port)?, protocol: protocol(binding.proto)? })
}

/// The exposed ports in the options of a call, as few ranges as possible.
///
/// # Errors
/// As [`published`].
pub(super) fn exposed(options: &Options) -> Result<Vec<ExposeSpec>> {
    let ports: Vec<TransportPort> = list(options, EXPOSED_PORTS)?;
    let one = |of: &TransportPort| Ok(ExposeSpec { protocol: protocol(of.proto)?, ports: port(of.port)? });
    let mut specs = ports.iter().map(one).collect::<Result<Vec<_>>>()?;
    specs.sort_unstable();
    let mut merged: Vec<ExposeSpec> = Vec::new();
    for spec in specs {
        match merged.last_mut() {
            Some(last) if last.protocol == spec.protocol && spec.ports.first <= last.ports.last.saturating_add(1) => {
                last.ports.last = last.ports.last.max(spec.ports.last);
            }
            _ => merged.push(spec),
        }
    }
    Ok(merged)
}

/// Published ports as Docker lists them, one by one.
pub(super) fn bindings(published: &[PublicationRecord], ips: &[IpNet]) -> Vec<PortBinding> {
    let container = |host: IpAddr| {
        ips.iter()
            .map(IpNet::addr)
            .find(|ip| ip.is_ipv4() == host.is_ipv4())
            .map(|ip| ip.to_string())
            .unwrap_or_default()
    };
    published
        .iter()
        .flat_map(|one| {
            let ip = container(one.host);
            one.host_ports().into_iter().zip(one.container_ports()).map(move |(host, port)| PortBinding {
                proto: one.protocol.number(),
                ip: ip.clone(),
                port,
                host_ip: one.host.to_string(),
                host_port: host,
                host_port_end: host,
            })
        })
        .collect()
}

/// Exposed ports as Docker lists them, one by one.
pub(super) fn transport_ports(exposed: &[ExposeSpec]) -> Vec<TransportPort> {
    let of = |one: &ExposeSpec| {
        let proto = one.protocol.number();
        one.ports.into_iter().map(move |port| TransportPort { proto, port })
    };
    exposed.iter().flat_map(of).collect()
}

/// The list under `key`; none there: empty.
fn list<T: DeserializeOwned>(options: &Options, key: &str) -> Result<Vec<T>> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => Vec::deserialize(value).map_err(|why| {
            invalid(
                format!("the option {key} is not what Docker is known to send: {why}"),
                "report it with Docker's version",
            )
        }),
    }
}

fn port(port: u16) -> Result<PortRange> {
    if port == 0 {
        return Err(invalid("0 is no port of a container", "name one from 1 to 65535"));
    }
    Ok(PortRange::one(port))
}

fn protocol(number: u8) -> Result<Transport> {
    Transport::ALL.into_iter().find(|protocol| protocol.number() == number).ok_or_else(|| {
        invalid(format!("the IP protocol {number} has no ports that could be published"), "name tcp, udp or sctp")
    })
}
