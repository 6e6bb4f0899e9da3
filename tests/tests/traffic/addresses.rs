//! Subnets, automatic and chosen addresses, MAC addresses, and neighbours' stale entries.

use std::net::IpAddr;
use std::time::Duration;

use vswitch::api::Port;
use vswitch_tests::lab::{assert_reaches, ipv4, ipv6, must};
use vswitch_tests::process::wait_until;

use super::{lab, lab_without_daemon};

fn texts(port: &Port) -> Vec<String> {
    port.ips.iter().map(ToString::to_string).collect()
}

#[test]
fn subnets_come_from_dockers_pools_past_what_the_host_routes() {
    let Some(mut lab) = lab_without_daemon() else { return };
    must(lab.host().ip("link add d0 type bridge"));
    must(lab.host().ip("addr add 172.18.5.1/24 dev d0"));
    must(lab.host().ip("link set d0 up"));
    lab.start_daemon();
    let subnet = |name: &str| lab.add_bridge(name, "").subnets[0].to_string();
    assert_eq!(subnet("br0"), "172.17.0.0/16");
    assert_eq!(subnet("br1"), "172.19.0.0/16", "172.18 overlaps a route of the host");
    assert_eq!(subnet("br2"), "172.20.0.0/16");
    lab.ctl(&["del-br", "br1"]);
    assert_eq!(subnet("br3"), "172.19.0.0/16", "a removed bridge's subnet is free again");
    assert_eq!(lab.bridge("br0").gateways[0].to_string(), "172.17.0.1");
    must(lab.host().ip("link del d0"));
    lab.finish();
}

#[test]
fn gateway_range_and_reservations_are_honoured() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge(
        "br0",
        "--subnet 10.1.0.0/24 --gateway 10.1.0.254 --ip-range 10.1.0.16/29 --reserve printer=10.1.0.17 --reserve 10.1.0.18",
    );
    assert!(must(lab.host().ip("-4 addr show br0")).contains("10.1.0.254/24"));
    let ports: Vec<Port> = ["a", "b", "c"].map(|role| lab.attach("br0", role, "")).into();
    for port in &ports {
        let address = ipv4(port).to_string();
        let last: u8 = address.rsplit('.').next().and_then(|last| last.parse().ok()).expect("an address");
        assert!((16..24).contains(&last) && last != 17 && last != 18, "{address}");
    }
    let routes = must(lab.container("a").ip("route"));
    assert!(routes.contains("default via 10.1.0.254"), "{routes}");
    // A reserved address may be asked for by name; it is only never given by itself.
    let chosen = lab.attach("br0", "d", "--ip 10.1.0.17");
    assert_eq!(texts(&chosen), ["10.1.0.17/24"]);
    assert_eq!(chosen.mac, "02:42:0a:01:00:11");
    lab.finish();
}

#[test]
fn chosen_addresses_of_both_families() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24 --subnet fd00:1::/64");
    let a = lab.attach("br0", "a", "--ip 10.1.0.9 --ip fd00:1::9/64");
    assert_eq!(texts(&a), ["10.1.0.9/24", "fd00:1::9/64"]);
    let b = lab.attach("br0", "b", "--ip fd00:1::77");
    assert_eq!(ipv6(&b).to_string(), "fd00:1::77");
    assert_eq!(b.ips.len(), 2, "the family that is not named gets an automatic address: {:?}", b.ips);
    let none = lab.attach("br0", "c", "--ip none --mac 02:00:00:00:00:77");
    assert!(none.ips.is_empty());
    assert_eq!(none.mac, "02:00:00:00:00:77");
    assert_reaches(lab.container("a"), ipv6(&b));
    lab.finish();
}

#[test]
fn a_small_subnet_is_used_up_and_its_addresses_come_back() {
    let Some(mut lab) = lab() else { return };
    // Six addresses, one of them the gateway's.
    lab.add_bridge("br0", "--subnet 10.1.0.0/29");
    for number in 0..5 {
        lab.attach("br0", &format!("c{number}"), "");
    }
    lab.add_container("late");
    let netns = lab.netns("late");
    let refusal = lab.ctl_refused(&["add-port", "br0", &netns]);
    assert!(refusal.contains("no free address"), "{refusal}");
    let freed = lab.ports("br0").into_iter().find(|port| port.name == "c2").expect("port c2");
    lab.ctl(&["del-port", "br0", "c2"]);
    let reused = lab.attach("br0", "late", "");
    assert_eq!(ipv4(&reused), ipv4(&freed));
    assert_reaches(lab.container("c0"), ipv4(&reused));
    lab.finish();
}

#[test]
fn an_address_is_not_given_again_at_once() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let first = lab.attach("br0", "a", "");
    lab.ctl(&["del-port", "br0", "a"]);
    let second = lab.attach("br0", "a", "");
    assert_ne!(ipv4(&first), ipv4(&second), "a stale neighbour entry would lead to the wrong container");
    lab.finish();
}

#[test]
fn neighbours_learn_at_once_that_an_address_has_moved() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24 --subnet fd00:1::/64");
    lab.attach("br0", "a", "");
    let given = "--ip 10.1.0.50 --ip fd00:1::50";
    lab.attach("br0", "b", &format!("{given} --mac 02:00:00:00:00:0b"));
    let addresses: [IpAddr; 2] = ["10.1.0.50", "fd00:1::50"].map(|text| text.parse().expect("an address"));
    for address in addresses {
        assert_reaches(lab.container("a"), address);
        assert_reaches(lab.host(), address);
    }
    lab.ctl(&["del-port", "br0", "b"]);
    lab.attach("br0", "c", &format!("{given} --mac 02:00:00:00:00:0c"));
    for address in addresses {
        for namespace in [lab.container("a"), lab.host()] {
            // Sooner than anybody would look again by himself: after fifteen seconds at least (RFC 4861 section 6.3.2).
            let found = wait_until("the address at its new place", Duration::from_secs(10), || {
                namespace.run(&format!("ping -n -q -c 1 -W 0.5 {address}")).ok()
            });
            assert!(found.is_ok(), "{} still looks for {address} at the old MAC address", namespace.name());
        }
    }
    lab.finish();
}

#[test]
fn the_mtu_of_a_bridge_reaches_its_ports() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    lab.attach("br0", "a", "");
    lab.attach("br0", "own", "--mtu 1300");
    lab.ctl(&["set-br", "br0", "--mtu", "9000"]);
    let mtu = |namespace: &vswitch_tests::Namespace, ifname: &str| {
        let links: serde_json::Value =
            serde_json::from_str(&must(namespace.ip(&format!("-j link show {ifname}")))).expect("JSON");
        links[0]["mtu"].as_u64()
    };
    assert_eq!(mtu(lab.container("a"), "eth0"), Some(9000));
    assert_eq!(mtu(lab.container("own"), "eth0"), Some(1300), "an MTU of its own stays");
    assert_eq!(mtu(lab.host(), "br0"), Some(9000));
    lab.finish();
}
