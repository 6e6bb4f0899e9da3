//! Every refusal, and what commands do to the state, without root.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use super::*;
use crate::api::{BridgeChange, BridgeSpec, Error, ErrorCode, FdbStatic, PortSpec};
use ipnet::IpNet;

pub(super) fn host() -> HostView {
    HostView {
        routes: vec![HostRoute { dst: net("192.168.1.0/24"), ifname: "eno1".into(), via: None }],
        interfaces: BTreeSet::from(["lo".into(), "eno1".into()]),
        random: [1, 2, 3, 4],
    }
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn target(n: u64) -> PortTarget {
    PortTarget {
        netns: NetnsRef::Name(format!("ns{n}")),
        id: NetnsId { dev: 4, ino: n },
        cookie: Some(n),
        owner: Owner { dev: 1, ino: 2 },
        random: [9, 9, 9, 9],
    }
}

pub(super) fn bridge(name: &str, subnets: &[&str]) -> BridgeSpec {
    BridgeSpec { name: name.into(), subnets: subnets.iter().map(|text| net(text)).collect(), ..BridgeSpec::default() }
}

pub(super) fn port() -> PortSpec {
    PortSpec { netns: "ignored".into(), ..PortSpec::default() }
}

fn ips(texts: &[&str]) -> PortSpec {
    PortSpec { ips: texts.iter().map(|&text| text.into()).collect(), ..port() }
}

/// A dual-stack bridge `br0`.
pub(super) fn dual() -> Desired {
    let mut desired = Desired::default();
    desired.add_bridge(&bridge("br0", &["10.0.0.0/24", "fd00::/64"]), &host()).expect("a bridge");
    desired
}

/// Refused with this code, with words and a remedy; and nothing changed.
#[track_caller]
pub(super) fn refused<T: std::fmt::Debug>(
    desired: &Desired,
    code: ErrorCode,
    says: &str,
    command: impl FnOnce(&mut Desired) -> Result<T>,
) -> Error {
    let mut copy = desired.clone();
    let error = command(&mut copy).expect_err("must be refused");
    assert_eq!(error.code, code, "{error:?}");
    assert!(error.message.contains(says), "{error:?} does not say {says:?}");
    assert!(!error.remedy.is_empty(), "{error:?} has no remedy");
    assert_eq!(copy, *desired, "a refusal changed the state");
    error
}

#[test]
fn a_bridge_gets_dockers_defaults() {
    let mut desired = Desired::default();
    desired.add_bridge(&bridge("br0", &[]), &host()).expect("a bridge");
    let br0 = &desired.bridges["br0"];
    assert_eq!(br0.subnets[0].net, net("172.17.0.0/16"));
    assert_eq!(br0.subnets[0].gateway, ip("172.17.0.1"));
    assert_eq!(br0.mac.expect("a MAC address").to_string(), "02:42:ac:11:00:01");
    assert_eq!((br0.mtu, br0.icc, br0.ageing_s), (1500, true, 300));
    desired.add_bridge(&bridge("br1", &[]), &host()).expect("another");
    assert_eq!(desired.bridges["br1"].subnets[0].net, net("172.18.0.0/16"));
    desired.check().expect("valid");
}

#[test]
fn automatic_networks_skip_what_the_host_routes() {
    let mut view = host();
    view.routes.push(HostRoute { dst: net("172.16.0.0/14"), ifname: "vpn0".into(), via: None });
    let mut desired = Desired::default();
    desired.add_bridge(&bridge("br0", &[]), &view).expect("a bridge");
    assert_eq!(desired.bridges["br0"].subnets[0].net, net("172.20.0.0/16"));
}

#[test]
fn bad_bridge_names_are_refused() {
    let names = [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "a\tb",
        "sixteen-bytes-xx",
        "br:0",
        "br%d",
        "br\u{e9}",
        "br\0",
        "lo",
        "all",
        "default",
    ];
    for name in names {
        refused(&Desired::default(), ErrorCode::Invalid, "bridge name", |desired| {
            desired.add_bridge(&bridge(name, &[]), &HostView::default())
        });
    }
    let mut desired = Desired::default();
    desired.add_bridge(&bridge("fifteen-bytes-x", &[]), &host()).expect("15 bytes are fine");
}

#[test]
fn taken_bridge_names_are_refused() {
    refused(&dual(), ErrorCode::Conflict, "\"br0\"", |desired| desired.add_bridge(&bridge("br0", &[]), &host()));
    refused(&dual(), ErrorCode::Conflict, "\"eno1\"", |desired| desired.add_bridge(&bridge("eno1", &[]), &host()));
}

#[test]
fn overlapping_networks_are_refused_by_name() {
    for subnet in ["10.0.0.0/25", "10.0.0.0/16", "10.0.0.0/24"] {
        refused(&dual(), ErrorCode::Conflict, "\"br0\"", |desired| {
            desired.add_bridge(&bridge("br1", &[subnet]), &host())
        });
    }
    refused(&dual(), ErrorCode::Conflict, "\"br0\"", |desired| {
        desired.add_bridge(&bridge("br1", &["fd00::/48"]), &host())
    });
    let error = refused(&dual(), ErrorCode::Conflict, "192.168.1.0/24", |desired| {
        desired.add_bridge(&bridge("br1", &["192.168.0.0/16"]), &host())
    });
    assert!(error.message.contains("eno1"), "{error:?}");
}

#[test]
fn bad_networks_are_refused() {
    for subnet in [
        "10.0.0.5/24",
        "127.0.0.0/8",
        "224.0.0.0/8",
        "0.0.0.0/8",
        "0.0.0.0/0",
        "fe80::/64",
        "ff00::/8",
        "::/0",
        "10.0.0.0/32",
        "240.0.0.0/8",
    ] {
        refused(&Desired::default(), ErrorCode::Invalid, subnet.split('/').next().unwrap_or(subnet), |desired| {
            desired.add_bridge(&bridge("br0", &[subnet]), &HostView::default())
        });
    }
    refused(&Desired::default(), ErrorCode::Invalid, "second", |desired| {
        desired.add_bridge(&bridge("br0", &["10.0.0.0/24", "10.0.1.0/24"]), &host())
    });
}

#[test]
fn gateways_ranges_and_reservations_belong_to_a_subnet() {
    let base = bridge("br0", &["10.0.0.0/24"]);
    let with = |edit: &dyn Fn(&mut BridgeSpec)| {
        let mut spec = base.clone();
        edit(&mut spec);
        spec
    };
    let reserve = |text: &str| vec![Reservation { name: None, ip: ip(text) }];
    let cases: [(BridgeSpec, ErrorCode, &str); 13] = [
        (with(&|s| s.gateways = vec![ip("10.0.1.1")]), ErrorCode::Invalid, "10.0.1.1"),
        (with(&|s| s.gateways = vec![ip("10.0.0.0")]), ErrorCode::Invalid, "network"),
        (with(&|s| s.gateways = vec![ip("10.0.0.255")]), ErrorCode::Invalid, "broadcast"),
        (with(&|s| s.gateways = vec![ip("10.0.0.1"), ip("10.0.0.2")]), ErrorCode::Invalid, "second"),
        (with(&|s| s.gateways = vec![ip("fd00::1")]), ErrorCode::Invalid, "IPv6"),
        (with(&|s| s.ip_ranges = vec![net("10.0.1.0/25")]), ErrorCode::Invalid, "10.0.1.0/25"),
        (with(&|s| s.ip_ranges = vec![net("10.0.0.0/16")]), ErrorCode::Invalid, "not inside"),
        (with(&|s| s.ip_ranges = vec![net("10.0.0.9/25")]), ErrorCode::Invalid, "beyond the prefix"),
        (with(&|s| s.reserve = reserve("10.9.0.1")), ErrorCode::Invalid, "10.9.0.1"),
        (with(&|s| s.reserve = reserve("10.0.0.1")), ErrorCode::Conflict, "gateway"),
        (with(&|s| s.reserve = [reserve("10.0.0.9"), reserve("10.0.0.9")].concat()), ErrorCode::Invalid, "twice"),
        (BridgeSpec { gateways: vec![ip("10.0.0.1")], ..bridge("br0", &[]) }, ErrorCode::Invalid, "without a subnet"),
        (BridgeSpec { l2: true, ..base.clone() }, ErrorCode::Invalid, "l2"),
    ];
    for (spec, code, says) in cases {
        refused(&Desired::default(), code, says, |desired| desired.add_bridge(&spec, &host()));
    }
}

#[test]
fn mtus_and_other_numbers_have_ranges() {
    for (subnet, mtu, says) in [
        ("10.0.0.0/24", 67, "67"),
        ("10.0.0.0/24", 65522, "65522"),
        ("10.0.0.0/24", u32::MAX, "range"),
        ("fd00::/64", 1279, "IPv6"),
    ] {
        let spec = BridgeSpec { mtu: Some(mtu), ..bridge("br0", &[subnet]) };
        refused(&Desired::default(), ErrorCode::Invalid, says, |desired| desired.add_bridge(&spec, &host()));
    }
    for mtu in [68, 65521] {
        let spec = BridgeSpec { mtu: Some(mtu), ..bridge("br0", &["10.0.0.0/24"]) };
        Desired::default().add_bridge(&spec, &host()).expect("in range");
    }
    for change in [
        BridgeChange { mtu: Some(1000), ..BridgeChange::default() },
        BridgeChange { ageing_s: Some(0), ..BridgeChange::default() },
        BridgeChange { mac_limit: Some(0), ..BridgeChange::default() },
        BridgeChange { port_mac_limit: Some(u32::MAX), ..BridgeChange::default() },
    ] {
        refused(&dual(), ErrorCode::Invalid, "", |desired| desired.change_bridge("br0", &change));
    }
}

#[test]
fn changes_touch_what_they_name() {
    let mut desired = dual();
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let change =
        BridgeChange { icc: Some(false), labels: labels(&[("a", "1"), ("b", "2")]), ..BridgeChange::default() };
    desired.change_bridge("br0", &change).expect("changes");
    let change = BridgeChange { mtu: Some(9000), labels: labels(&[("a", "")]), ..BridgeChange::default() };
    desired.change_bridge("br0", &change).expect("changes");
    let br0 = &desired.bridges["br0"];
    assert_eq!((br0.mtu, br0.icc, br0.ageing_s), (9000, false, 300));
    assert_eq!(br0.labels, labels(&[("b", "2")]));
}

#[test]
fn a_port_gets_dockers_defaults() {
    let mut desired = dual();
    let name = desired.add_port("br0", &port(), &target(1)).expect("a port");
    let first = desired.bridges["br0"].ports[&name].clone();
    assert_eq!((name.as_str(), first.ifname.as_str()), ("ns1", "eth0"));
    assert_eq!(first.ips, [net("10.0.0.2/24"), net("fd00::2/64")]);
    assert_eq!(first.mac.to_string(), "02:42:0a:00:00:02");
    assert!(first.default_route);
    desired.add_port("br0", &port(), &target(2)).expect("a second port");
    desired.remove_port("br0", "ns2").expect("removes");
    desired.add_port("br0", &port(), &target(3)).expect("a third port");
    // The address that was just released rests for a while.
    assert_eq!(desired.bridges["br0"].ports["ns3"].ips[0], net("10.0.0.4/24"));
    desired.check().expect("valid");
}

#[test]
fn addresses_of_ports_are_as_asked() {
    let mut desired = dual();
    let mut add = |n, spec: &PortSpec| {
        let name = desired.add_port("br0", spec, &target(n)).expect("a port");
        desired.bridges["br0"].ports[&name].ips.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(add(1, &ips(&["none"])), [""; 0]);
    assert_eq!(add(2, &ips(&["10.0.0.9"])), ["10.0.0.9/24", "fd00::2/64"]);
    assert_eq!(add(3, &ips(&["10.0.0.10/24", "none"])), ["10.0.0.10/24"]);
    assert_eq!(add(4, &ips(&["10.0.0.11", "10.0.0.12", "fd00::99"])), ["10.0.0.11/24", "10.0.0.12/24", "fd00::99/64"]);
    desired.check().expect("valid");
    // IPv6 alone: no IPv4 address that would make the MAC address.
    let mut desired = Desired::default();
    desired.add_bridge(&bridge("br6", &["fd01::/64"]), &host()).expect("a bridge");
    desired.add_port("br6", &port(), &target(1)).expect("a port");
    desired.add_port("br6", &port(), &target(2)).expect("a port");
    let macs: Vec<_> = desired.bridges["br6"].ports.values().map(|port| port.mac.to_string()).collect();
    assert_eq!(macs, ["02:42:09:09:09:09", "02:42:09:09:09:0a"]);
}

#[test]
fn bad_and_taken_addresses_are_refused() {
    let mut desired = dual();
    desired.add_port("br0", &ips(&["10.0.0.9"]), &target(1)).expect("a port");
    let cases = [
        ("10.0.1.9", ErrorCode::Invalid, "outside"),
        ("10.0.0.0", ErrorCode::Invalid, "network"),
        ("10.0.0.255", ErrorCode::Invalid, "broadcast"),
        ("10.0.0.1", ErrorCode::Conflict, "gateway"),
        ("10.0.0.9", ErrorCode::Conflict, "\"ns1\""),
        ("10.0.0.7/16", ErrorCode::Invalid, "prefix"),
        ("fd01::1", ErrorCode::Invalid, "outside"),
        ("fd00::", ErrorCode::Invalid, "anycast"),
        ("dhcp", ErrorCode::Invalid, "uplinks"),
        ("nonsense", ErrorCode::Invalid, "nonsense"),
        ("10.0.0.300", ErrorCode::Invalid, "10.0.0.300"),
        ("", ErrorCode::Invalid, "not an address"),
    ];
    for (text, code, says) in cases {
        refused(&desired, code, says, |desired| desired.add_port("br0", &ips(&[text]), &target(2)));
    }
    refused(&desired, ErrorCode::Invalid, "twice", |desired| {
        desired.add_port("br0", &ips(&["10.0.0.5", "10.0.0.5/24"]), &target(2))
    });
    let mut v4 = Desired::default();
    v4.add_bridge(&bridge("br4", &["10.0.0.0/24"]), &host()).expect("a bridge");
    refused(&v4, ErrorCode::Invalid, "no IPv6", |desired| desired.add_port("br4", &ips(&["fd00::5"]), &target(1)));
}

#[test]
fn reserved_addresses_and_ranges_are_honoured() {
    let mut desired = Desired::default();
    let mut spec = bridge("br0", &["10.0.0.0/24"]);
    spec.ip_ranges = vec![net("10.0.0.128/30")];
    spec.reserve = vec![Reservation { name: Some("printer".into()), ip: ip("10.0.0.129") }];
    desired.add_bridge(&spec, &host()).expect("a bridge");
    let mut given = HashSet::new();
    let error = loop {
        match desired.add_port("br0", &port(), &target(given.len() as u64)) {
            Ok(name) => assert!(given.insert(desired.bridges["br0"].ports[&name].ips[0].addr())),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::Limit, "{error:?}");
    assert!(given.iter().all(|ip| net("10.0.0.128/30").contains(ip)), "{given:?}");
    assert!(!given.contains(&ip("10.0.0.129")), "{given:?}");
    // Outside of the range, and reserved: by name they can be had.
    desired.add_port("br0", &ips(&["10.0.0.7"]), &target(90)).expect("by name");
    desired.add_port("br0", &ips(&["10.0.0.129"]), &target(91)).expect("by name");
}

#[test]
fn bare_switches_have_no_addresses_of_their_own() {
    let mut desired = Desired::default();
    let spec = BridgeSpec { l2: true, ..bridge("sw0", &[]) };
    desired.add_bridge(&spec, &host()).expect("a bridge");
    assert_eq!((desired.bridges["sw0"].mac, desired.ports_count()), (None, 0));
    desired.add_port("sw0", &port(), &target(1)).expect("a port");
    assert!(desired.bridges["sw0"].ports["ns1"].ips.is_empty());
    desired.add_port("sw0", &ips(&["10.0.0.2/24"]), &target(2)).expect("with an address of its own");
    refused(&desired, ErrorCode::Invalid, "prefix", |desired| desired.add_port("sw0", &ips(&["10.0.0.3"]), &target(3)));
    refused(&desired, ErrorCode::Conflict, "taken", |desired| {
        desired.add_port("sw0", &ips(&["10.0.0.2/24"]), &target(3))
    });
    refused(&desired, ErrorCode::Invalid, "gateway", |desired| {
        desired.add_port("sw0", &PortSpec { default_route: Some(true), ..port() }, &target(3))
    });
    desired.check().expect("valid");
}

#[test]
fn names_of_ports_are_unique_on_their_bridge() {
    let mut desired = dual();
    let aliases = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    desired.add_port("br0", &PortSpec { aliases: aliases(&["www"]), ..port() }, &target(1)).expect("a port");
    let named = |name: &str| PortSpec { name: Some(name.into()), ..port() };
    for taken in ["ns1", "www", "br0"] {
        refused(&desired, ErrorCode::Conflict, taken, |desired| desired.add_port("br0", &named(taken), &target(2)));
        let spec = PortSpec { aliases: aliases(&[taken]), ..port() };
        refused(&desired, ErrorCode::Conflict, taken, |desired| desired.add_port("br0", &spec, &target(2)));
    }
    for bad in ["", "a b", "a/b", "-x", ".x", "x\n", &"x".repeat(129)] {
        refused(&desired, ErrorCode::Invalid, "port name", |desired| desired.add_port("br0", &named(bad), &target(2)));
    }
    refused(&desired, ErrorCode::Invalid, "twice", |desired| {
        desired.add_port("br0", &PortSpec { aliases: aliases(&["x", "x"]), ..port() }, &target(2))
    });
}

#[test]
fn interfaces_are_unique_in_their_namespace() {
    let mut desired = dual();
    desired.add_bridge(&bridge("br1", &["10.1.0.0/24"]), &host()).expect("a bridge");
    desired.add_port("br0", &port(), &target(1)).expect("a port");
    let named = PortSpec { name: Some("second".into()), ..port() };
    let error = refused(&desired, ErrorCode::Conflict, "eth0", |desired| desired.add_port("br1", &named, &target(1)));
    assert!(error.message.contains("\"ns1\"") && error.message.contains("\"br0\""), "{error:?}");
    desired.add_port("br1", &PortSpec { ifname: Some("eth1".into()), ..named }, &target(1)).expect("another interface");
    for bad in ["sixteen-bytes-xx", "", "..", "lo", "a b"] {
        let spec = PortSpec { ifname: Some(bad.into()), ..port() };
        refused(&desired, ErrorCode::Invalid, "interface name", |desired| desired.add_port("br0", &spec, &target(2)));
    }
}

#[test]
fn ports_are_found_by_name_alias_and_namespace() {
    let mut desired = dual();
    let spec = PortSpec { name: Some("one".into()), aliases: vec!["uno".into()], ..port() };
    let spec = PortSpec { container: Some("shop".into()), ..spec };
    desired.add_port("br0", &spec, &target(1)).expect("a port");
    let br0 = desired.bridges["br0"].clone();
    for key in ["one", "uno", "ns1", "shop"] {
        assert_eq!(br0.find_port("br0", key).expect("found"), "one");
    }
    let PortTarget { id, cookie, .. } = target(1);
    let found = |cookie| br0.find_port_in("br0", "/run/netns/ns1", id, cookie).map_err(|error| error.code);
    assert_eq!(found(cookie), Ok("one"));
    assert_eq!(found(None), Ok("one"), "a kernel without cookies");
    assert_eq!(found(Some(2)), Err(ErrorCode::NotFound), "another namespace was given the same numbers");
    refused(&desired, ErrorCode::NotFound, "\"two\"", |desired| desired.remove_port("br0", "two"));
    refused(&desired, ErrorCode::NotFound, "\"br9\"", |desired| desired.remove_port("br9", "one"));
    let second = PortSpec { name: Some("two".into()), ifname: Some("eth1".into()), ..port() };
    desired.add_port("br0", &second, &target(1)).expect("a second port");
    refused(&desired, ErrorCode::Conflict, "several", |desired| desired.remove_port("br0", "ns1"));
    desired.remove_port("br0", "uno").expect("by its alias");
    assert_eq!(desired.remove_port("br0", "ns1").expect("by its namespace"), "two");
}

#[test]
fn bad_and_taken_mac_addresses_are_refused() {
    let mut desired = dual();
    let mac = |text: &str| PortSpec { mac: Some(text.into()), ..port() };
    desired.add_port("br0", &mac("02:00:00:00:00:01"), &target(1)).expect("a port");
    for (text, code, says) in [
        ("nonsense", ErrorCode::Invalid, "nonsense"),
        ("01:00:5e:00:00:01", ErrorCode::Invalid, "group"),
        ("ff:ff:ff:ff:ff:ff", ErrorCode::Invalid, "group"),
        ("00:00:00:00:00:00", ErrorCode::Invalid, "zero"),
        ("02:00:00:00:00:01", ErrorCode::Conflict, "\"ns1\""),
        ("02:42:0a:00:00:01", ErrorCode::Conflict, "host"),
    ] {
        refused(&desired, code, says, |desired| desired.add_port("br0", &mac(text), &target(2)));
    }
    // Somebody has the address that would go with the next IPv4 address.
    desired.add_port("br0", &mac("02:42:0a:00:00:04"), &target(3)).expect("a port");
    refused(&desired, ErrorCode::Conflict, "02:42:0a:00:00:04", |desired| desired.add_port("br0", &port(), &target(4)));
}

#[test]
fn vlans_and_rates_have_ranges() {
    let desired = dual();
    let cases = [
        (PortSpec { vlan: Some(0), ..port() }, "range"),
        (PortSpec { vlan: Some(4095), ..port() }, "4095"),
        (PortSpec { trunk: vec![1, 4095], ..port() }, "4095"),
        (PortSpec { vlan: Some(1), trunk: vec![2], ..port() }, "not both"),
        (PortSpec { ingress_rate_bps: Some(0), ..port() }, "ingress"),
        (PortSpec { egress_rate_bps: Some(0), ..port() }, "egress"),
        (PortSpec { egress_rate_bps: Some(u64::MAX), ..port() }, "egress"),
        (PortSpec { mtu: Some(1000), ..port() }, "IPv6"),
        (PortSpec { mtu: Some(65522), ..port() }, "65522"),
    ];
    for (spec, says) in cases {
        refused(&desired, ErrorCode::Invalid, says, |desired| desired.add_port("br0", &spec, &target(1)));
    }
    let mut desired = desired;
    desired.add_port("br0", &PortSpec { trunk: vec![30, 0, 20, 30], ..port() }, &target(1)).expect("a trunk");
    assert_eq!(desired.bridges["br0"].ports["ns1"].trunk, [0, 20, 30]);
}

#[test]
fn static_entries_belong_to_ports() {
    let mut desired = dual();
    desired.add_port("br0", &port(), &target(1)).expect("a port");
    desired.add_port("br0", &port(), &target(2)).expect("a port");
    let entry =
        |mac: &str, port: &str, vlan| FdbStatic { mac: mac.into(), port: port.into(), vlan, ..FdbStatic::default() };
    desired.add_static("br0", &entry("02:00:00:00:00:01", "ns1", 0), &UnderlayView::default()).expect("an entry");
    desired
        .add_static("br0", &entry("02:00:00:00:00:01", "ns2", 7), &UnderlayView::default())
        .expect("in another VLAN");
    desired.add_static("br0", &entry("02:00:00:00:00:02", "br0", 0), &UnderlayView::default()).expect("for the host");
    for (bad, code, says) in [
        (entry("02:00:00:00:00:01", "ns2", 0), ErrorCode::Conflict, "\"ns1\""),
        (entry("02:00:00:00:00:03", "ns9", 0), ErrorCode::NotFound, "ns9"),
        (entry("02:00:00:00:00:03", "ns1", 4095), ErrorCode::Invalid, "4095"),
        (entry("01:00:00:00:00:03", "ns1", 0), ErrorCode::Invalid, "group"),
        (entry("02:42:0a:00:00:01", "ns1", 0), ErrorCode::Conflict, "host"),
        (entry("02:42:0a:00:00:03", "ns1", 0), ErrorCode::Conflict, "\"ns2\""),
    ] {
        refused(&desired, code, says, |desired| desired.add_static("br0", &bad, &UnderlayView::default()));
    }
    desired.check().expect("valid");
    let mac = "02:00:00:00:00:01".parse().expect("a MAC address");
    assert_eq!(desired.remove_static("br0", mac, Some(7)), Ok(1));
    assert_eq!(desired.remove_static("br0", mac, None), Ok(1));
    assert_eq!(desired.remove_static("br0", mac, None), Ok(0));
    desired.add_static("br0", &entry("02:00:00:00:00:01", "ns1", 0), &UnderlayView::default()).expect("an entry");
    desired.remove_port("br0", "ns1").expect("removes");
    assert!(desired.bridges["br0"].statics.iter().all(|entry| entry.port != "ns1"));
}

#[test]
fn bridges_with_ports_are_removed_only_by_force() {
    let mut desired = dual();
    desired.add_port("br0", &port(), &target(1)).expect("a port");
    refused(&desired, ErrorCode::Conflict, "1 port", |desired| desired.remove_bridge("br0", false));
    refused(&desired, ErrorCode::NotFound, "br9", |desired| desired.remove_bridge("br9", true));
    desired.remove_bridge("br0", true).expect("removes");
    assert_eq!(desired, Desired::default());
}

#[test]
fn limits_are_kept() {
    use crate::snapshot::{BRIDGES_MAX, PORTS_MAX};
    let l2 = |name: String| BridgeSpec { l2: true, name, ..BridgeSpec::default() };
    let mut desired = Desired::default();
    for n in 0..BRIDGES_MAX {
        desired.add_bridge(&l2(format!("sw{n}")), &host()).expect("a bridge");
    }
    refused(&desired, ErrorCode::Limit, "bridges", |desired| desired.add_bridge(&l2("one-more".into()), &host()));

    let mut desired = Desired::default();
    desired.add_bridge(&l2("sw0".into()), &host()).expect("a bridge");
    desired.add_port("sw0", &port(), &target(0)).expect("a port");
    let sw0 = desired.bridges.get_mut("sw0").expect("there");
    let one = sw0.ports["ns0"].clone();
    for n in 1..PORTS_MAX {
        sw0.ports.insert(format!("ns{n}"), PortRecord { netns_id: target(n as u64).id, ..one.clone() });
    }
    refused(&desired, ErrorCode::Limit, "ports", |desired| desired.add_port("sw0", &port(), &target(9999)));
    // A bridge with a host interface needs a port, too.
    refused(&desired, ErrorCode::Limit, "ports", |desired| desired.add_bridge(&bridge("br0", &[]), &host()));
}

#[test]
fn a_renamed_interface_keeps_its_port_unless_the_name_is_another_ports() {
    let mut desired = dual();
    let spec = |ifname: &str| PortSpec { name: Some(ifname.into()), ifname: Some(ifname.into()), ..port() };
    let bridge = desired.bridges.keys().next().expect("a bridge").clone();
    desired.add_port(&bridge, &spec("eth0"), &target(1)).expect("a port");
    desired.add_port(&bridge, &spec("eth1"), &target(1)).expect("a port");
    let found = |ifname: &str| FoundInterface {
        ifname: ifname.into(),
        ifindex: Some(7),
        lo_raised: false,
        host_end: None,
        netns: None,
    };
    desired.note_interface(&bridge, "eth0", found("net0"));
    desired.note_interface(&bridge, "eth1", found("net0"));
    let ports = &desired.bridges[&bridge].ports;
    assert_eq!((ports["eth0"].ifname.as_str(), ports["eth0"].ifindex), ("net0", Some(7)));
    assert_eq!((ports["eth1"].ifname.as_str(), ports["eth1"].ifindex), ("eth1", Some(7)));
    desired.check().expect("holds to the rules");
}

#[test]
fn a_state_of_an_older_version_is_understood() {
    let mut desired = dual();
    let bridge = desired.bridges.keys().next().expect("a bridge").clone();
    desired.add_port(&bridge, &port(), &target(1)).expect("a port");
    let text = serde_json::to_string(&desired).expect("text");
    for field in ["boot_id", "ifindex", "lo_raised"] {
        assert!(!text.contains(field), "{field} is written although there is nothing to say");
    }
    assert_eq!(serde_json::from_str::<Desired>(&text).expect("understood"), desired);
}
