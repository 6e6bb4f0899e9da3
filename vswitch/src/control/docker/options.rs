//! What `docker network create -o` and its flags mean to the switch.
//!
//! Each option has the name of `vswitchctl add-br`'s, and where Docker's bridge driver has one for the same, that name,
//! too, so that compose files work as they are. Docker's own driver ignores an option that it does not know, and with it
//! every misspelt one; here it is refused, and so is one that contradicts another or asks for what the switch does not do.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde_json::Value;

use super::message::{CreateNetwork, GENERIC, INTERNAL, IpamData, Options};
use super::values::{
    GatewayMode, address, carrier, gateway_mode, list, parse, port_type, prefix, switch, text, unit, unknown, uplink,
};
use crate::api::{BridgeSpec, Carrier, PortType, Reservation, UplinkSpec, VxlanSpec};
use crate::control::desired::{DockerNetworkSpec, DockerPool, DockerPortOptions};
use crate::control::refusal::{Result, conflict, invalid};
use crate::units;

/// What the names of interfaces in containers begin with, as with Docker's bridge.
const IFNAME_PREFIX: &str = "eth";
/// With this name Docker sets aside the address of a router that is not the bridge (`--aux-address`).
const ROUTER_IPV4: &str = "DefaultGatewayIPv4";
/// The same for IPv6.
const ROUTER_IPV6: &str = "DefaultGatewayIPv6";

/// Every option there is, for suggestions.
const NETWORK_OPTIONS: &[&str] = &[
    "name",
    "mtu",
    "icc",
    "masquerade",
    "host-ip",
    "mss-clamp",
    "l2",
    "type",
    "guard",
    "vlan",
    "uplink",
    "vxlan-vni",
    "vxlan-remotes",
    "vxlan-local",
    "vxlan-port",
    "vxlan-learning",
    "vxlan-carrier",
    "ageing",
    "mac-limit",
    "port-mac-limit",
    "storm-limit",
    "ingress-rate",
    "egress-rate",
    "com.docker.network.bridge.name",
    "com.docker.network.bridge.enable_icc",
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.bridge.host_binding_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
    "com.docker.network.bridge.inhibit_ipv4",
    "com.docker.network.bridge.default_bridge",
    "com.docker.network.driver.mtu",
    "com.docker.network.container_iface_prefix",
];

/// Every option of an endpoint (`--network name=NET,driver-opt=KEY=VALUE`).
const ENDPOINT_OPTIONS: &[&str] = &["type", "guard", "vlan", "ingress-rate", "egress-rate"];

/// Options that Docker sees to itself, whatever the driver is.
const DOCKERS_OWN: &[&str] = &["com.docker.network.advertise_addr_nmsgs", "com.docker.network.advertise_addr_ms"];

/// Options of Docker's bridge driver that ask for what the switch does not do, and why.
const REFUSED: &[(&str, &str)] = &[
    ("com.docker.network.host_ipv4", "what leaves has the address of the interface that it leaves by; leave it out"),
    ("com.docker.network.host_ipv6", "what leaves has the address of the interface that it leaves by; leave it out"),
    (
        "com.docker.network.bridge.trusted_host_interfaces",
        "containers are reached from outside at published ports alone; publish what is to be reached",
    ),
    ("com.docker.network.endpoint.sysctls", "Docker does not let other drivers set them; use `docker run --sysctl`"),
    (
        "com.docker.network.endpoint.ifname",
        "Docker does not let other drivers choose it; use the network's com.docker.network.container_iface_prefix",
    ),
];

/// A value that was given, and under which name.
type Given<T> = Option<(String, T)>;

/// What was given so far.
#[derive(Debug, Default)]
struct Draft {
    name: Given<String>,
    mtu: Given<u32>,
    icc: Given<bool>,
    masquerade: Given<bool>,
    host_ips: Given<Vec<IpAddr>>,
    mss_clamp: Given<bool>,
    l2: Given<bool>,
    ports: PortDraft,
    uplink: Given<UplinkSpec>,
    vni: Given<u32>,
    remotes: Given<Vec<IpAddr>>,
    local: Given<IpAddr>,
    dst_port: Given<u16>,
    learning: Given<bool>,
    carrier: Given<Carrier>,
    ageing_s: Given<u32>,
    mac_limit: Given<u32>,
    port_mac_limit: Given<u32>,
    storm_limit: Given<u32>,
    prefix: Given<String>,
}

#[derive(Debug, Default)]
struct PortDraft {
    port_type: Given<PortType>,
    vlan: Given<u16>,
    guard: Given<bool>,
    ingress_rate: Given<u64>,
    egress_rate: Given<u64>,
}

/// Notes a value; refused if another one was given under another name.
fn give<T: PartialEq>(slot: &mut Given<T>, key: &str, value: T) -> Result<()> {
    match slot {
        Some((other, known)) if *known != value => {
            Err(conflict(format!("the options {other} and {key} contradict each other"), "leave one of them out"))
        }
        Some(_) => Ok(()),
        None => {
            *slot = Some((key.to_owned(), value));
            Ok(())
        }
    }
}

fn value<T>(given: &Given<T>) -> Option<T>
where
    T: Clone,
{
    given.as_ref().map(|(_, value)| value.clone())
}

impl PortDraft {
    /// Takes an option that is about ports; whether it is one.
    fn take(&mut self, key: &str, text: &str) -> Result<bool> {
        match key {
            "type" => give(&mut self.port_type, key, port_type(key, text)?)?,
            "vlan" => give(&mut self.vlan, key, parse(key, text, "a VLAN from 1 to 4094")?)?,
            "guard" => give(&mut self.guard, key, switch(key, text)?)?,
            "ingress-rate" => give(&mut self.ingress_rate, key, unit(key, text, units::rate)?)?,
            "egress-rate" => give(&mut self.egress_rate, key, unit(key, text, units::rate)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn options(&self) -> DockerPortOptions {
        DockerPortOptions {
            port_type: value(&self.port_type),
            vlan: value(&self.vlan),
            guard: value(&self.guard),
            ingress_rate_bps: value(&self.ingress_rate),
            egress_rate_bps: value(&self.egress_rate),
        }
    }
}

/// The network that a request of Docker's asks for.
///
/// # Errors
/// An option is unknown, contradicts another, or asks for what the switch does not do; a value cannot be understood; an
/// address management gave no addresses, and the network is not a bare learning switch.
pub(super) fn network(request: &CreateNetwork) -> Result<DockerNetworkSpec> {
    let draft = draft(&request.options)?;
    let l2 = value(&draft.l2).unwrap_or(false);
    let internal = match request.options.get(INTERNAL) {
        None | Some(Value::Null) => false,
        Some(on) => switch(INTERNAL, &text(INTERNAL, on)?)?,
    };
    let mut spec = DockerNetworkSpec {
        id: request.network.clone(),
        bridge: BridgeSpec {
            name: value(&draft.name).unwrap_or_else(|| DockerNetworkSpec::default_bridge(&request.network)),
            mtu: value(&draft.mtu),
            icc: value(&draft.icc),
            l2,
            // Nothing leaves a learning switch but by what is attached to it.
            internal: internal && !l2,
            masquerade: value(&draft.masquerade),
            host_ips: value(&draft.host_ips).unwrap_or_default(),
            mss_clamp: value(&draft.mss_clamp),
            ageing_s: value(&draft.ageing_s),
            mac_limit: value(&draft.mac_limit),
            port_mac_limit: value(&draft.port_mac_limit),
            storm_limit: value(&draft.storm_limit),
            ..BridgeSpec::default()
        },
        ports: draft.ports.options(),
        ifname_prefix: value(&draft.prefix).unwrap_or_else(|| IFNAME_PREFIX.to_owned()),
        vxlan: draft.vxlan()?,
        uplink: value(&draft.uplink),
        ..DockerNetworkSpec::default()
    };
    for data in request.ipv4.iter().chain(&request.ipv6) {
        add_pool(&mut spec, data)?;
    }
    if spec.bridge.subnets.is_empty() && !l2 {
        return Err(invalid(
            "the network has no subnet: its address management gives no addresses",
            "leave out --ipam-driver, or make a bare learning switch of it with -o l2=true",
        ));
    }
    if let Some(key) = spec.ports.vlan.filter(|_| !l2).map(|_| "vlan") {
        return Err(conflict(
            format!("the option {key} would keep the containers from the network's gateway, which is in no VLAN"),
            "add -o l2=true, so that the gateway is whoever is on that VLAN, or leave it out",
        ));
    }
    Ok(spec)
}

/// Whether the network that these options ask for has no use for a gateway address.
///
/// # Errors
/// As [`network`].
pub(super) fn needs_no_gateway(options: &Options) -> Result<bool> {
    Ok(value(&draft(options)?.l2).unwrap_or(false))
}

/// What `--network name=NET,driver-opt=KEY=VALUE` asks for.
///
/// # Errors
/// An option is unknown or asks for what the switch does not do, or its value cannot be understood.
pub(super) fn endpoint(options: &Options) -> Result<DockerPortOptions> {
    let mut draft = PortDraft::default();
    for (key, value) in options {
        refuse_known(key)?;
        // What Docker itself says is under its own names.
        if key.starts_with("com.docker.") {
            continue;
        }
        if !draft.take(key, &text(key, value)?)? {
            return Err(unknown("endpoint", key, ENDPOINT_OPTIONS));
        }
    }
    Ok(draft.options())
}

fn draft(options: &Options) -> Result<Draft> {
    let mut draft = Draft::default();
    match options.get(GENERIC) {
        None | Some(Value::Null) => {}
        Some(Value::Object(generic)) => {
            let mut modes = [None, None];
            for (key, value) in generic {
                draft.take(key, &text(key, value)?, &mut modes)?;
            }
            draft.take_modes(modes)?;
        }
        Some(other) => {
            return Err(invalid(
                format!("{GENERIC} is {other}, and no map of options"),
                "report it with Docker's version",
            ));
        }
    }
    Ok(draft)
}

impl Draft {
    fn take(&mut self, key: &str, text: &str, modes: &mut [Option<GatewayMode>; 2]) -> Result<()> {
        refuse_known(key)?;
        if self.ports.take(key, text)? || DOCKERS_OWN.contains(&key) {
            return Ok(());
        }
        match key {
            "name" | "com.docker.network.bridge.name" => give(&mut self.name, key, text.to_owned()),
            "mtu" | "com.docker.network.driver.mtu" => give(&mut self.mtu, key, unit(key, text, units::size)?),
            "icc" | "com.docker.network.bridge.enable_icc" => give(&mut self.icc, key, switch(key, text)?),
            "masquerade" | "com.docker.network.bridge.enable_ip_masquerade" => {
                give(&mut self.masquerade, key, switch(key, text)?)
            }
            "host-ip" => give(&mut self.host_ips, key, list(key, text, "addresses of the host")?),
            "com.docker.network.bridge.host_binding_ipv4" => {
                let ip: Ipv4Addr = parse(key, text, "an IPv4 address of the host")?;
                // All addresses of IPv4 are also Docker's word for all of both families.
                give(&mut self.host_ips, key, if ip.is_unspecified() { Vec::new() } else { vec![ip.into()] })
            }
            "mss-clamp" => give(&mut self.mss_clamp, key, switch(key, text)?),
            "l2" => give(&mut self.l2, key, switch(key, text)?),
            "uplink" => give(&mut self.uplink, key, uplink(key, text)?),
            "vxlan-vni" => give(&mut self.vni, key, parse(key, text, "a number from 0 to 16777215")?),
            "vxlan-remotes" => give(&mut self.remotes, key, list(key, text, "addresses of other hosts")?),
            "vxlan-local" => give(&mut self.local, key, parse(key, text, "an address of the host")?),
            "vxlan-port" => give(&mut self.dst_port, key, parse(key, text, "a port from 1 to 65535")?),
            "vxlan-learning" => give(&mut self.learning, key, switch(key, text)?),
            "vxlan-carrier" => give(&mut self.carrier, key, carrier(key, text)?),
            "ageing" => give(&mut self.ageing_s, key, unit(key, text, units::seconds)?),
            "mac-limit" => give(&mut self.mac_limit, key, unit(key, text, units::size)?),
            "port-mac-limit" => give(&mut self.port_mac_limit, key, unit(key, text, units::size)?),
            "storm-limit" => give(&mut self.storm_limit, key, unit(key, text, units::size)?),
            "com.docker.network.container_iface_prefix" => give(&mut self.prefix, key, prefix(key, text)?),
            "com.docker.network.bridge.gateway_mode_ipv4" => {
                modes[0] = Some(gateway_mode(key, text)?);
                Ok(())
            }
            "com.docker.network.bridge.gateway_mode_ipv6" => {
                modes[1] = Some(gateway_mode(key, text)?);
                Ok(())
            }
            "com.docker.network.bridge.inhibit_ipv4" if switch(key, text)? => Err(invalid(
                format!("the option {key} asks for a bridge without an address but with a gateway"),
                "name the gateway with --aux-address DefaultGatewayIPv4=IP, or make a bare learning switch with -o l2=true",
            )),
            "com.docker.network.bridge.default_bridge" if switch(key, text)? => Err(invalid(
                format!("the option {key} is for Docker's own default network"),
                "leave it out, and attach containers to this network with --network",
            )),
            "com.docker.network.bridge.inhibit_ipv4" | "com.docker.network.bridge.default_bridge" => Ok(()),
            _ => Err(unknown("network", key, NETWORK_OPTIONS)),
        }
    }

    /// What Docker's gateway modes are here: one of both families, because the switch has one setting for both.
    fn take_modes(&mut self, modes: [Option<GatewayMode>; 2]) -> Result<()> {
        const KEYS: [&str; 2] =
            ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
        if let [Some(ipv4), Some(ipv6)] = modes
            && ipv4 != ipv6
        {
            return Err(conflict(
                format!("{} and {} differ, and the switch has one gateway for both families", KEYS[0], KEYS[1]),
                "give both the same mode, or make two networks",
            ));
        }
        for (key, mode) in KEYS.into_iter().zip(modes) {
            match mode {
                None => {}
                Some(GatewayMode::Nat) => give(&mut self.masquerade, key, true)?,
                Some(GatewayMode::Routed) => give(&mut self.masquerade, key, false)?,
                Some(GatewayMode::Isolated) => give(&mut self.l2, key, true)?,
            }
        }
        Ok(())
    }

    fn vxlan(&self) -> Result<Option<VxlanSpec>> {
        let Some(vni) = value(&self.vni) else {
            let others = [
                self.remotes.as_ref().map(|(key, _)| key),
                self.local.as_ref().map(|(key, _)| key),
                self.dst_port.as_ref().map(|(key, _)| key),
                self.learning.as_ref().map(|(key, _)| key),
                self.carrier.as_ref().map(|(key, _)| key),
            ];
            return match others.into_iter().flatten().next() {
                Some(key) => {
                    Err(invalid(format!("the option {key} is about a tunnel, and there is none"), "add -o vxlan-vni=N"))
                }
                None => Ok(None),
            };
        };
        Ok(Some(VxlanSpec {
            name: Some(format!("vxlan{vni}")),
            vni,
            local: value(&self.local),
            remotes: value(&self.remotes).unwrap_or_default(),
            dst_port: value(&self.dst_port),
            carrier: value(&self.carrier),
            learning: value(&self.learning),
            // What the containers send untagged travels untagged, whatever their VLAN is here.
            vlan: value(&self.ports.vlan),
            ..VxlanSpec::default()
        }))
    }
}

/// Adds what an address management gave.
fn add_pool(spec: &mut DockerNetworkSpec, data: &IpamData) -> Result<()> {
    let net: IpNet = parse("Pool", &data.pool, "a network such as 172.18.0.0/16")?;
    // What `--ipam-driver null` gives.
    if net.prefix_len() == 0 {
        return Ok(());
    }
    let gateway = match data.gateway.as_str() {
        "" => None,
        text => Some(address("the gateway", text)?),
    };
    let aux =
        data.aux_addresses.iter().map(|(name, text)| Ok((name, address(name, text)?))).collect::<Result<Vec<_>>>()?;
    let held = gateway.into_iter().chain(aux.iter().map(|(_, ip)| *ip)).collect();
    spec.pools.push(DockerPool { space: data.address_space.clone(), net: net.trunc(), held });
    let is_router = |name: &str| [ROUTER_IPV4, ROUTER_IPV6].contains(&name);
    spec.routers.extend(aux.iter().filter(|(name, _)| is_router(name)).map(|(_, ip)| *ip));
    if spec.bridge.l2 {
        return Ok(());
    }
    spec.bridge.subnets.push(net.trunc());
    spec.bridge.gateways.extend(gateway);
    let reserve = aux.into_iter().map(|(name, ip)| Reservation { name: Some(name.clone()), ip });
    spec.bridge.reserve.extend(reserve);
    Ok(())
}

fn refuse_known(key: &str) -> Result<()> {
    match REFUSED.iter().find(|(name, _)| *name == key) {
        None => Ok(()),
        Some((_, why)) => {
            let (why, remedy) = why.split_once("; ").unwrap_or((why, ""));
            Err(invalid(format!("the option {key} cannot be had: {why}"), remedy))
        }
    }
}
