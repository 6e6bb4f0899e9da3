//! Random sequences of commands against the invariants of the state.

use std::collections::HashSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::tests::{host, net, port, target};
use super::*;
use crate::api::{BridgeChange, BridgeSpec, FdbStatic, PortSpec};

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
    ]
}

fn run(desired: &mut Desired, command: &Command) -> Result<()> {
    let br = |n: &u8| format!("br{n}");
    let mac = |n: &u8| format!("02:42:0a:00:00:{n:02x}");
    match command {
        Command::AddBridge { name, subnet, l2 } => {
            let subnets = subnet.iter().map(|n| net(&format!("10.{}.0.0/28", n / 2))).collect();
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
    }
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
