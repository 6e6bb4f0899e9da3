//! What options come to, and which are refused.

use serde_json::{Value, json};

use super::message::CreateNetwork;
use super::*;
use crate::api::{Carrier, PortType, UplinkCarry};
use crate::control::desired::DockerNetworkSpec;
use crate::control::refusal::Result;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// As engine 20.10 asks for a network with Docker's own address management.
fn request(generic: &Value) -> CreateNetwork {
    serde_json::from_value(json!({
        "NetworkID": ID,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": generic},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "172.18.0.0/16", "Gateway": "172.18.0.1/16"}],
        "IPv6Data": null,
        "FutureKey": {"a": 1},
    }))
    .expect("a request")
}

fn parse(generic: &Value) -> Result<DockerNetworkSpec> {
    options::network(&request(generic))
}

#[track_caller]
fn refused(generic: &Value, says: &str) {
    let error = parse(generic).expect_err("must be refused");
    let all = format!("{}; {}", error.message, error.remedy);
    assert!(all.contains(says), "{generic}: {all:?} does not say {says:?}");
    assert!(!error.remedy.is_empty(), "{error:?} has no remedy");
}

#[test]
fn a_network_without_options_is_a_bridge_of_dockers_addresses() {
    for generic in [json!({}), Value::Null] {
        let spec = parse(&generic).expect("a network");
        assert_eq!(spec.bridge.name, "vs-0123456789ab");
        assert_eq!(spec.bridge.subnets, ["172.18.0.0/16".parse().expect("a network")]);
        assert_eq!(spec.bridge.gateways, ["172.18.0.1".parse::<std::net::IpAddr>().expect("an address")]);
        assert_eq!(spec.pools[0].space, "LocalDefault");
        assert_eq!((spec.ifname_prefix.as_str(), spec.bridge.internal), ("eth", false));
    }
}

#[test]
fn what_engines_leave_out_is_empty() {
    let mut request = request(&json!({}));
    request.options.remove("com.docker.network.generic");
    options::network(&request).expect("a network");
    let request: CreateNetwork = serde_json::from_value(json!({"NetworkID": ID, "Options": null})).expect("a request");
    let error = options::network(&request).expect_err("there are no addresses");
    assert!(error.remedy.contains("-o l2=true"), "{error:?}");
}

#[test]
fn flags_and_aux_addresses_arrive() {
    let request: CreateNetwork = serde_json::from_value(json!({
        "NetworkID": ID,
        "Options": {"com.docker.network.internal": true, "com.docker.network.enable_ipv6": true},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "10.1.0.0/24", "Gateway": "10.1.0.254/24",
            "AuxAddresses": {"printer": "10.1.0.9/24", "DefaultGatewayIPv4": "10.1.0.1/24"}}],
        "IPv6Data": [{"AddressSpace": "LocalDefault", "Pool": "fd00:1::/64", "Gateway": "fd00:1::1/64"}],
    }))
    .expect("a request");
    let spec = options::network(&request).expect("a network");
    assert!(spec.bridge.internal);
    assert_eq!(spec.bridge.subnets.len(), 2);
    assert_eq!(spec.bridge.gateways[1].to_string(), "fd00:1::1");
    assert_eq!(spec.routers, ["10.1.0.1".parse::<std::net::IpAddr>().expect("an address")]);
    let reserved: Vec<_> = spec.bridge.reserve.iter().map(|one| one.ip.to_string()).collect();
    assert_eq!(reserved, ["10.1.0.1", "10.1.0.9"]);
    // The router of a bare learning switch is the only gateway that there is.
    let mut request = request;
    request.options.insert("com.docker.network.generic".into(), json!({"l2": "on"}));
    let spec = options::network(&request).expect("a network");
    assert_eq!((spec.routers.len(), spec.pools[0].held.len()), (1, 3));
    assert!(spec.bridge.reserve.is_empty());
}

#[test]
fn own_names_and_dockers_names_mean_the_same() {
    let ours = json!({"name": "web0", "mtu": "9000", "icc": "off", "masquerade": "off", "host-ip": "127.0.0.1"});
    let dockers = json!({
        "com.docker.network.bridge.name": "web0",
        "com.docker.network.driver.mtu": "9000",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "0",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
    });
    let spec = parse(&ours).expect("a network");
    assert_eq!(parse(&dockers).expect("a network"), spec);
    assert_eq!((spec.bridge.mtu, spec.bridge.icc, spec.bridge.masquerade), (Some(9000), Some(false), Some(false)));
    // Twice the same is no contradiction.
    parse(&json!({"mtu": "1400", "com.docker.network.driver.mtu": 1400})).expect("a network");
    let everywhere = parse(&json!({"com.docker.network.bridge.host_binding_ipv4": "0.0.0.0"})).expect("a network");
    assert!(everywhere.bridge.host_ips.is_empty());
}

#[test]
fn everything_that_add_br_can() {
    let spec = parse(&json!({
        "l2": "true", "type": "xdp", "vlan": "100", "uplink": "eth1,xdp=native", "guard": "off",
        "vxlan-vni": "42", "vxlan-remotes": "198.18.0.2,198.18.0.3", "vxlan-local": "198.18.0.1", "vxlan-port": "8472",
        "vxlan-learning": "off", "vxlan-carrier": "uplink", "ageing": "5m", "mac-limit": "1k", "port-mac-limit": "16",
        "storm-limit": "0", "ingress-rate": "100mbit", "egress-rate": "1gbit",
        "com.docker.network.container_iface_prefix": "lan",
        "com.docker.network.bridge.inhibit_ipv4": "false", "com.docker.network.bridge.default_bridge": "false",
        "com.docker.network.advertise_addr_ms": "100",
    }))
    .expect("a network");
    assert!(spec.bridge.l2 && spec.bridge.subnets.is_empty() && spec.bridge.gateways.is_empty());
    assert_eq!(spec.pools.len(), 1, "what Docker gives is known all the same");
    assert_eq!(
        (spec.ports.port_type, spec.ports.vlan, spec.ports.guard),
        (Some(PortType::Xdp), Some(100), Some(false))
    );
    assert_eq!((spec.ports.ingress_rate_bps, spec.ports.egress_rate_bps), (Some(100_000_000), Some(1_000_000_000)));
    assert_eq!(
        (spec.bridge.ageing_s, spec.bridge.mac_limit, spec.bridge.storm_limit),
        (Some(300), Some(1000), Some(0))
    );
    let vxlan = spec.vxlan.expect("a tunnel");
    assert_eq!((vxlan.vni, vxlan.remotes.len(), vxlan.dst_port, vxlan.vlan), (42, 2, Some(8472), Some(100)));
    assert_eq!(
        (vxlan.learning, vxlan.carrier, vxlan.name.as_deref()),
        (Some(false), Some(Carrier::Uplink), Some("vxlan42"))
    );
    let uplink = spec.uplink.expect("an uplink");
    assert_eq!((uplink.interface.as_str(), uplink.carry, uplink.vlan), ("eth1", UplinkCarry::XdpNative, None));
    assert_eq!(spec.ifname_prefix, "lan");
}

#[test]
fn unknown_options_are_refused_with_the_nearest_that_there_is() {
    refused(&json!({"mtuu": "1400"}), "did you mean mtu?");
    refused(&json!({"vxlan-remote": "198.18.0.2"}), "did you mean vxlan-remotes?");
    refused(&json!({"com.docker.network.bridge.enable_ic": "false"}), "com.docker.network.bridge.enable_icc");
    refused(&json!({"com.docker.network.driver.mut": "1400"}), "mtu");
    refused(&json!({"com.example.colour": "blue"}), "\"com.example.colour\"".trim_matches('"'));
    refused(&json!({"parent": "eth0"}), "there are name, mtu,");
}

#[test]
fn contradictions_and_what_cannot_be_had_are_refused() {
    refused(&json!({"mtu": "1400", "com.docker.network.driver.mtu": "9000"}), "contradict each other");
    refused(&json!({"icc": "on", "com.docker.network.bridge.enable_icc": "false"}), "contradict");
    refused(
        &json!({"masquerade": "on", "com.docker.network.bridge.gateway_mode_ipv4": "routed"}),
        "masquerade and com.docker.network.bridge.gateway_mode_ipv4 contradict",
    );
    refused(
        &json!({
            "com.docker.network.bridge.gateway_mode_ipv4": "nat",
            "com.docker.network.bridge.gateway_mode_ipv6": "routed"
        }),
        "one gateway for both families",
    );
    refused(&json!({"com.docker.network.bridge.gateway_mode_ipv4": "nat-unprotected"}), "nat, routed or isolated");
    refused(&json!({"com.docker.network.bridge.inhibit_ipv4": "true"}), "DefaultGatewayIPv4");
    refused(&json!({"com.docker.network.bridge.default_bridge": "true"}), "default network");
    refused(&json!({"com.docker.network.host_ipv4": "192.0.2.1"}), "leave it out");
    refused(&json!({"vxlan-remotes": "198.18.0.2"}), "vxlan-vni");
    refused(&json!({"vlan": "100"}), "-o l2=true");
    for (key, value) in [
        ("mtu", "big"),
        ("icc", "maybe"),
        ("type", "veth"),
        ("host-ip", "localhost"),
        ("vlan", "x"),
        ("uplink", "auto"),
        ("uplink", "eth1,fast"),
        ("ageing", "5 parsecs"),
        ("egress-rate", "1mbps"),
        ("vxlan-vni", "-1"),
        ("com.docker.network.container_iface_prefix", "a/b"),
        ("com.docker.network.container_iface_prefix", "thirteenbytes"),
    ] {
        refused(&json!({ key: value }), key);
    }
    refused(&json!({"mtu": {"a": 1}}), "neither text nor a number");
    refused(&json!([]), "no map of options");
}

#[test]
fn gateway_modes() {
    let mode =
        |mode: &str| parse(&json!({"com.docker.network.bridge.gateway_mode_ipv4": mode})).expect("a network").bridge;
    assert_eq!(mode("nat").masquerade, Some(true));
    assert_eq!(mode("routed").masquerade, Some(false));
    assert!(mode("isolated").l2);
    let options = |generic: Value| request(&generic).options;
    assert!(options::needs_no_gateway(&options(json!({"l2": "on"}))).expect("options"));
    assert!(!options::needs_no_gateway(&options(json!({}))).expect("options"));
    options::needs_no_gateway(&options(json!({"l3": "on"}))).expect_err("refused");
}

#[test]
fn options_of_endpoints() {
    let options = |value: Value| options::endpoint(value.as_object().expect("a map"));
    let known = json!({
        "com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": null,
        "com.docker.network.endpoint.macaddress": "AkKsEQAC", "com.docker.network.driver.private.no_proxy_6to4": true,
        "egress-rate": "10mbit", "guard": "off",
    });
    let port = options(known).expect("known");
    assert_eq!((port.egress_rate_bps, port.guard, port.vlan), (Some(10_000_000), Some(false), None));
    let error = options(json!({"egress-rat": "10mbit"})).expect_err("refused");
    assert_eq!(error.remedy, "did you mean egress-rate?");
    let error = options(json!({"com.docker.network.endpoint.ifname": "lan0"})).expect_err("refused");
    assert!(error.remedy.contains("container_iface_prefix"), "{error:?}");
}

#[test]
fn published_ports_become_few_ranges_and_choices_come_last() {
    let binding = |port: u16, first: u16, last: u16, ip: &str| json!({"Proto": 6, "IP": "", "Port": port, "HostIP": ip, "HostPort": first, "HostPortEnd": last});
    let mut bindings: Vec<Value> = (8000..9000).rev().map(|port| binding(port, port, port, "")).collect();
    bindings.extend([
        binding(80, 0, 0, ""),
        binding(81, 7000, 7010, ""),
        binding(443, 8443, 0, "127.0.0.1"),
        binding(444, 8444, 8444, "127.0.0.1"),
        binding(445, 8446, 8446, "127.0.0.1"),
        binding(445, 8446, 8446, "127.0.0.1"),
        json!({"Proto": 17, "IP": null, "Port": 53, "HostIP": "::1", "HostPort": 53, "HostPortEnd": 53, "New": 1}),
    ]);
    let options = json!({"com.docker.network.portmap": bindings, "other": 1});
    let specs = ports::published(options.as_object().expect("a map")).expect("ports");
    let mut shown: Vec<_> = specs.iter().map(ToString::to_string).collect();
    assert_eq!(&shown[shown.len() - 2..], ["7000-7010:81/tcp", "80/tcp"]);
    shown.sort();
    assert_eq!(
        shown,
        [
            "127.0.0.1:8443-8444:443-444/tcp",
            "127.0.0.1:8446:445/tcp",
            "7000-7010:81/tcp",
            "80/tcp",
            "8000-8999:8000-8999/tcp",
            "[::1]:53:53/udp",
        ]
    );
    for bad in [
        json!([binding(0, 80, 80, "")]),
        json!([binding(80, 90, 80, "")]),
        json!([binding(80, 80, 80, "localhost")]),
        json!([{"Proto": 1, "Port": 80}]),
        json!({"80": 1}),
        json!([{"Proto": 6, "Port": 70000}]),
    ] {
        let options = json!({"com.docker.network.portmap": bad});
        ports::published(options.as_object().expect("a map")).expect_err("refused");
    }
}

#[test]
fn exposed_ports_become_ranges_and_are_listed_one_by_one() {
    let options = json!({"com.docker.network.endpoint.exposedports":
        [{"Proto": 6, "Port": 81}, {"Proto": 17, "Port": 53}, {"Proto": 6, "Port": 80}, {"Proto": 6, "Port": 80}]});
    let exposed = ports::exposed(options.as_object().expect("a map")).expect("ports");
    let shown: Vec<_> = exposed.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["80-81/tcp", "53/udp"]);
    assert_eq!(ports::transport_ports(&exposed).len(), 3);
}
