//! Random sequences of commands against the invariants of the state.

use std::collections::HashSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::tests::{host, net, port, target};
use super::*;
use crate::api::{BridgeChange, BridgeSpec, FdbStatic, PortRange, PortSpec, PublishSpec, Transport};

/// A command, as random numbers make it.
#[derive(Debug, Clone)]
enum Command {
    AddBridge { name: u8, subnet: Option<u8>, l2: bool },
    RemoveBridge { name: u8, force: bool },
    Change { name: u8, mtu: u32 },
    AddPort { bridge: u8, netns: u64, name: Option<u8>, ip: Option<u8>, mac: Option<u8>, ifname: Option<u8> },
    RemovePort { bridge: u8, key: u8 },
    AddStatic { bridge: u8, mac: u8, port: u8, vlan: u16 },
    RemoveStatic { bridge: u8, mac: u8 },
    Publish { bridge: u8, key: u8, specs: Vec<PublishSpec>, from: bool, taken: Option<u16> },
    PublishExposed { bridge: u8, key: u8 },
    Unpublish { bridge: u8, key: u8, spec: PublishSpec },
    Internal { name: u8, on: bool },
}

/// Few ports, so that they meet.
fn spec() -> impl Strategy<Value = PublishSpec> {
    use proptest::option::of;
    let ip = prop::sample::select(vec!["127.0.0.1", "192.0.2.1", "0.0.0.0", "::1", "::"]);
    let protocol = prop::sample::select(vec![Transport::Tcp, Transport::Udp]);
    (of(ip), of(1u16..20), 1u16..12, 0u16..4, any::<bool>(), protocol).prop_map(
        |(host_ip, host, container, more, first_free, protocol)| PublishSpec {
            host_ip: host_ip.map(super::tests::ip),
            host: host.map(|first| PortRange { first, last: first + more }),
            container: PortRange { first: container, last: if first_free { container } else { container + more } },
            protocol,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    use proptest::option::of;
    prop_oneof![
        (0u8..4, of(0u8..4), prop::bool::weighted(0.2)).prop_map(|(name, subnet, l2)| Command::AddBridge {
            name,
            subnet,
            l2
        }),
        (0u8..4, any::<bool>()).prop_map(|(name, force)| Command::RemoveBridge { name, force }),
        (0u8..4, 1000u32..70000).prop_map(|(name, mtu)| Command::Change { name, mtu }),
        (0u8..4, 0u64..12, of(0u8..12), of(0u8..20), of(0u8..6), of(0u8..2)).prop_map(
            |(bridge, netns, name, ip, mac, ifname)| Command::AddPort { bridge, netns, name, ip, mac, ifname }
        ),
        (0u8..4, 0u8..12).prop_map(|(bridge, key)| Command::RemovePort { bridge, key }),
        (0u8..4, 0u8..6, 0u8..12, 0u16..3).prop_map(|(bridge, mac, port, vlan)| Command::AddStatic {
            bridge,
            mac,
            port,
            vlan
        }),
        (0u8..4, 0u8..6).prop_map(|(bridge, mac)| Command::RemoveStatic { bridge, mac }),
        (0u8..2, 0u8..12, prop::collection::vec(spec(), 1..4), any::<bool>(), of(1u16..20))
            .prop_map(|(bridge, key, specs, from, taken)| Command::Publish { bridge, key, specs, from, taken }),
        (0u8..2, 0u8..12).prop_map(|(bridge, key)| Command::PublishExposed { bridge, key }),
        (0u8..2, 0u8..12, spec()).prop_map(|(bridge, key, spec)| Command::Unpublish { bridge, key, spec }),
        (0u8..4, prop::bool::weighted(0.3)).prop_map(|(name, on)| Command::Internal { name, on }),
    ]
}

fn run(desired: &mut Desired, command: &Command) -> Result<()> {
    let br = |n: &u8| format!("br{n}");
    let mac = |n: &u8| format!("02:42:0a:00:00:{n:02x}");
    match command {
        Command::AddBridge { name, subnet, l2 } => {
            // Some have IPv6, too.
            let six = subnet.filter(|n| n % 2 == 1).map(|n| net(&format!("fd00:{n}::/64")));
            let subnets = subnet.iter().map(|n| net(&format!("10.{}.0.0/28", n / 2))).chain(six).collect();
            desired.add_bridge(&BridgeSpec { name: br(name), subnets, l2: *l2, ..BridgeSpec::default() }, &host())
        }
        Command::RemoveBridge { name, force } => desired.remove_bridge(&br(name), *force).map(|_| ()),
        Command::Change { name, mtu } => {
            desired.change_bridge(&br(name), &BridgeChange { mtu: Some(*mtu), ..BridgeChange::default() })
        }
        Command::AddPort { bridge, netns, name, ip, mac: own, ifname } => {
            let spec = PortSpec {
                name: name.map(|n| format!("ns{n}")),
                ips: ip.map(|n| format!("10.0.0.{n}")).into_iter().collect(),
                mac: own.as_ref().map(mac),
                ifname: ifname.map(|n| format!("eth{n}")),
                expose: vec!["3".parse().expect("a port"), "5-9/udp".parse().expect("a range")],
                ..port()
            };
            desired.add_port(&br(bridge), &spec, &target(*netns)).map(|_| ())
        }
        Command::RemovePort { bridge, key } => desired.remove_port(&br(bridge), &format!("ns{key}")).map(|_| ()),
        Command::AddStatic { bridge, mac: of, port, vlan } => {
            let entry = FdbStatic { mac: mac(of), port: format!("ns{port}"), vlan: *vlan, ..FdbStatic::default() };
            desired.add_static(&br(bridge), &entry, &UnderlayView::default()).map(|_| ())
        }
        Command::RemoveStatic { bridge, mac: of } => {
            let mac = mac(of).parse().expect("a MAC address");
            desired.remove_static(&br(bridge), mac, None).map(|_| ())
        }
        Command::Publish { bridge, key, specs, from, taken } => {
            let from: Vec<_> = from.then(|| net("198.51.100.0/24")).into_iter().collect();
            let in_use = |_, _, ports: PortRange| {
                let port = taken.filter(|port| (ports.first..=ports.last).contains(port));
                Ok(port.map(|port| TakenPort { address: super::tests::ip("0.0.0.0"), port, owner: None }))
            };
            desired.publish(&br(bridge), &format!("ns{key}"), specs, &from, &view(&in_use)).map(|_| ())
        }
        Command::PublishExposed { bridge, key } => {
            desired.publish_exposed(&br(bridge), &format!("ns{key}"), &view(&|_, _, _| Ok(None))).map(|_| ())
        }
        Command::Unpublish { bridge, key, spec } => {
            desired.unpublish(&br(bridge), &format!("ns{key}"), std::slice::from_ref(spec))
        }
        Command::Internal { name, on } => {
            desired.change_bridge(&br(name), &BridgeChange { internal: Some(*on), ..BridgeChange::default() })
        }
    }
}

type InUse<'a> = &'a dyn Fn(Transport, IpAddr, PortRange) -> Result<Option<TakenPort>>;

fn view(in_use: InUse<'_>) -> PublishView<'_> {
    let addresses = ["127.0.0.1", "192.0.2.1", "::1"].map(super::tests::ip).to_vec();
    PublishView { addresses, ephemeral: PortRange { first: 10, last: 22 }, in_use }
}

/// What is published, port by port: no two have one endpoint, and each leads to a container that has the family.
fn endpoints(desired: &Desired) -> HashSet<(Transport, IpAddr, u16)> {
    let mut endpoints = HashSet::new();
    for bridge in desired.bridges.values() {
        for port in bridge.ports.values() {
            for one in &port.publications {
                assert!(!bridge.internal && !bridge.l2);
                assert!(port.ips.iter().any(|ip| ip.addr().is_ipv4() == one.host.is_ipv4()));
                for port in one.first..=one.last {
                    assert!(endpoints.insert((one.protocol, one.host, port)), "{one:?}");
                }
            }
        }
    }
    for (protocol, host, port) in &endpoints {
        let any = crate::api::any_address(host.is_ipv6());
        assert!(*host == any || !endpoints.contains(&(*protocol, any, *port)), "{host} and all: {port}");
    }
    endpoints
}

/// The invariants, written down a second time and independently of `Desired::check`.
fn invariants(desired: &Desired) {
    let mut interfaces = HashSet::new();
    for (name, bridge) in &desired.bridges {
        let mut addresses: HashSet<IpAddr> = bridge.subnets.iter().map(|subnet| subnet.gateway).collect();
        let mut macs: HashSet<_> = bridge.mac.into_iter().collect();
        for (port_name, port) in &bridge.ports {
            assert_ne!(port_name, name);
            assert!(macs.insert(port.mac), "{}", port.mac);
            assert!(interfaces.insert((port.netns_id, port.ifname.clone())));
            for ip in &port.ips {
                assert!(addresses.insert(ip.addr()), "{ip}");
                assert!(bridge.subnets.iter().any(|subnet| subnet.net.contains(ip)), "{ip}");
            }
        }
        assert!(bridge.statics.iter().all(|entry| entry.port == *name || bridge.ports.contains_key(&entry.port)));
    }
}

proptest! {
    #[test]
    fn any_sequence_of_commands_keeps_the_invariants(commands in prop::collection::vec(command(), 1..60)) {
        let mut desired = Desired::default();
        for command in &commands {
            let before = desired.clone();
            match run(&mut desired, command) {
                Ok(()) => {
                    invariants(&desired);
                    let (now, then) = (endpoints(&desired), endpoints(&before));
                    match command {
                        Command::Publish { taken, .. } => {
                            prop_assert!(then.is_subset(&now), "publishing took something back");
                            let new = now.difference(&then).find(|(_, _, port)| Some(*port) == *taken);
                            prop_assert_eq!(new, None, "a program of the host has it");
                        }
                        Command::PublishExposed { .. } => prop_assert!(then.is_subset(&now)),
                        Command::Unpublish { .. } => {
                            prop_assert!(now.is_subset(&then) && now.len() < then.len(), "nothing was taken back");
                        }
                        Command::RemovePort { .. } | Command::RemoveBridge { .. } => prop_assert!(now.is_subset(&then)),
                        _ => prop_assert_eq!(now, then),
                    }
                    prop_assert_eq!(desired.check(), Ok(()));
                }
                Err(_) => prop_assert_eq!(&desired, &before, "{:?} was refused and changed the state", command),
            }
        }
        // What is stored is what is loaded.
        let json = serde_json::to_string(&desired).expect("serialises");
        prop_assert_eq!(serde_json::from_str::<Desired>(&json).expect("parses"), desired);
    }
}
