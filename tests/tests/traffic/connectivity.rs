//! Containers, the host and one another: addresses, routes, both families, streams to the byte.

use std::net::IpAddr;

use vswitch_tests::lab::{PortTypes, any_port, assert_no_reach, assert_reaches, ipv4, ipv6, must};
use vswitch_tests::process::run_ok;
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{announce, requirement};

use super::lab;

/// What the kernel lets a TAP have: 65535 less an Ethernet header (`drivers/net/tun.c`, `MAX_MTU`); and
/// what goes through AF_XDP: 17 chunks of 3840 bytes, less an Ethernet header and a VLAN tag.
const LARGEST_MTU: usize = if matches!(crate::PORTS, PortTypes::Tap) { 65_521 } else { 65_262 };
const DUAL: &str = "--subnet 10.1.0.0/24 --subnet fd00:1::/64";

#[test]
fn containers_and_host_reach_one_another_in_both_families() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple(DUAL, &["a", "b"]);
    let bridge = lab.bridge("br0");
    for v6 in [false, true] {
        let address = |port| if v6 { ipv6(port) } else { ipv4(port) };
        assert_reaches(lab.container("a"), address(&ports[1]));
        assert_reaches(lab.container("b"), address(&ports[0]));
        for port in &ports {
            assert_reaches(lab.host(), address(port));
        }
        let gateway = bridge.gateways.iter().find(|gateway| gateway.is_ipv6() == v6).copied().expect("a gateway");
        assert_reaches(lab.container("a"), gateway);
    }
    lab.finish();
}

#[test]
fn the_container_finds_a_working_eth0_with_a_default_route() {
    let Some(mut lab) = lab() else { return };
    let port = lab.simple("--subnet 10.1.0.0/24 --mtu 1400", &["a"]).remove(0);
    let link: serde_json::Value =
        serde_json::from_str(&must(lab.container("a").ip("-j link show eth0"))).expect("JSON");
    assert_eq!(link[0]["mtu"], 1400);
    assert_eq!(link[0]["address"], port.mac.as_str());
    assert!(link[0]["flags"].to_string().contains("LOWER_UP"), "{link}");
    // Docker's rule: 02:42 and the four bytes of the IPv4 address.
    assert_eq!(port.mac, "02:42:0a:01:00:02");
    let routes = must(lab.container("a").ip("route"));
    assert!(routes.contains("default via 10.1.0.1 dev eth0"), "{routes}");
    // The host routes what is not its own: an address on its loopback stands for the world outside.
    must(lab.host().ip("addr add 192.0.2.1/32 dev lo"));
    assert_reaches(lab.container("a"), IpAddr::from([192, 0, 2, 1]));
    must(lab.host().ip("addr del 192.0.2.1/32 dev lo"));
    lab.finish();
}

#[test]
fn without_a_default_route_there_is_none() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", DUAL);
    lab.attach("br0", "a", "--default-route off");
    for family in ["-4", "-6"] {
        let routes = must(lab.container("a").ip(&format!("{family} route")));
        assert!(!routes.contains("default"), "{routes}");
    }
    lab.finish();
}

#[test]
fn bridges_are_worlds_of_their_own() {
    let Some(mut lab) = lab() else { return };
    // Two l2 bridges with the same addresses: only the bridge tells their containers apart.
    lab.add_bridge("br0", "--l2");
    lab.add_bridge("br1", "--l2");
    lab.attach("br0", "a", "--ip 10.9.0.1/24");
    lab.attach("br0", "b", "--ip 10.9.0.2/24");
    lab.attach("br1", "c", "--ip 10.9.0.1/24");
    lab.attach("br1", "d", "--ip 10.9.0.3/24");
    assert_reaches(lab.container("a"), IpAddr::from([10, 9, 0, 2]));
    assert_reaches(lab.container("c"), IpAddr::from([10, 9, 0, 3]));
    assert_no_reach(lab.container("a"), IpAddr::from([10, 9, 0, 3]));
    assert_no_reach(lab.container("d"), IpAddr::from([10, 9, 0, 2]));
    assert!(lab.fdb("br0").iter().all(|entry| entry.port == "a" || entry.port == "b"));
    assert!(lab.fdb("br1").iter().all(|entry| entry.port == "c" || entry.port == "d"));
    lab.finish();
}

#[test]
fn every_mtu_carries_its_largest_packet_and_not_one_byte_more() {
    let Some(mut lab) = lab() else { return };
    for (number, mtu) in [68usize, 1280, 1500, 9000, LARGEST_MTU].into_iter().enumerate() {
        let bridge = format!("br{number}");
        let v6 = if mtu >= 1280 { format!("--subnet fd00:{number}::/64") } else { String::new() };
        lab.add_bridge(&bridge, &format!("--subnet 10.{number}.0.0/24 {v6} --mtu {mtu}"));
        let (one, two) = (format!("a{number}"), format!("b{number}"));
        lab.attach(&bridge, &one, "");
        let peer = lab.attach(&bridge, &two, "");
        let ping = |address: IpAddr, size: usize| {
            lab.container(&one).run(&format!("ping -n -q -M do -c 2 -i 0.05 -W 2 -s {size} {address}"))
        };
        // Headers of IPv4 (20) or IPv6 (40), and of ICMP (8).
        must(ping(ipv4(&peer), mtu - 28));
        assert!(ping(ipv4(&peer), mtu - 27).is_err(), "mtu {mtu}: one byte more went through");
        if mtu >= 1280 {
            must(ping(ipv6(&peer), mtu - 48));
        }
        let transfer = Transfer::start(
            lab.container(&two),
            lab.container(&one),
            any_port(ipv4(&peer)),
            // At the smallest, a whole window in segments of 28 bytes is more than an AF_XDP socket holds.
            Plan::both_ways(if mtu < 512 { 8 << 10 } else { 256 << 10 }),
        );
        must(must(transfer).finish());
    }
    lab.finish();
}

#[test]
fn streams_arrive_to_the_byte() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple(DUAL, &["a", "b"]);
    let (a, b) = (lab.container("a"), lab.container("b"));
    for address in [ipv4(&ports[1]), ipv6(&ports[1])] {
        // 64 MB each way at once, in large pieces: super-frames.
        must(must(Transfer::start(b, a, any_port(address), Plan::both_ways(64 << 20))).finish());
        // Many small writes without Nagle's algorithm: small segments of odd sizes.
        let small = Plan { write_bytes: 37, ..Plan::both_ways(200_000) };
        must(must(Transfer::start(b, a, any_port(address), small)).finish());
        // One side closes its half at once, the other goes on.
        let half = Plan { up_bytes: 0, ..Plan::both_ways(8 << 20) };
        must(must(Transfer::start(b, a, any_port(address), half)).finish());
    }
    // Host and container.
    must(must(Transfer::start(b, lab.host(), any_port(ipv4(&ports[1])), Plan::both_ways(16 << 20))).finish());
    let gateway = lab.bridge("br0").gateways[0];
    must(must(Transfer::start(lab.host(), a, any_port(gateway), Plan::both_ways(16 << 20))).finish());
    lab.finish();
}

#[test]
fn datagrams_of_every_size_arrive_unchanged() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple(DUAL, &["a", "b"]);
    let mut sizes: Vec<usize> = (0..100).chain([1000, 1447, 1448, 1449]).collect();
    // Around the largest unfragmented one of both families, and fragmented up to the largest of all.
    sizes.extend([1451, 1452, 1453, 1471, 1472, 1473, 2944, 9000, 40_000, 65_000]);
    for address in [ipv4(&ports[1]), ipv6(&ports[1])] {
        must(datagrams(lab.container("b"), lab.container("a"), any_port(address), &sizes));
    }
    must(datagrams(lab.container("b"), lab.container("a"), any_port(ipv4(&ports[1])), &[65_507]));
    lab.finish();
}

#[test]
fn iperf3_agrees() {
    let Some(mut lab) = lab() else { return };
    if !requirement::program("iperf3") {
        return;
    }
    let ports = lab.simple(DUAL, &["a", "b"]);
    let mut server = lab.container("b").command("iperf3");
    server.args(["-s", "-1"]);
    lab.start(server);
    let gbit = must(vswitch_tests::process::wait_until("iperf3", vswitch_tests::process::PATIENCE, || {
        let mut client = lab.container("a").command("iperf3");
        client.args(["-J", "-t", "2", "-P", "4", "-c", &ipv4(&ports[1]).to_string()]);
        // The server may not listen yet: iperf3 then says so in its report.
        let report: serde_json::Value =
            serde_json::from_str(&run_ok(&mut client, vswitch_tests::process::PATIENCE).ok()?).ok()?;
        Some(report["end"]["sum_received"]["bits_per_second"].as_f64()? / 1e9)
    }));
    announce(&format!("iperf3, four streams over {:?} ports in the test build: {gbit:.2} Gbit/s", crate::PORTS));
    assert!(gbit > 0.0, "{gbit} Gbit/s");
    lab.finish();
}

#[test]
fn the_kernels_counters_and_ours_agree() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24", &["a", "b"]);
    let plan = Plan::both_ways(8 << 20);
    must(must(Transfer::start(lab.container("b"), lab.container("a"), any_port(ipv4(&ports[1])), plan)).finish());
    lab.assert_accounted();
    for role in ["a", "b"] {
        // What the container sent we received, and the other way round; super-frames count once on
        // both sides. Background traffic of the kernel may come in between two readings: retry.
        must(vswitch_tests::process::wait_until("equal counters", vswitch_tests::process::PATIENCE, || {
            let total = lab.port_stats("br0", role).total;
            let counter = |name| must(lab.container(role).link_counter("eth0", name));
            let frames = (counter("tx_packets"), counter("rx_packets")) == (total.rx_frames, total.tx_frames);
            // A veth does not count the Ethernet headers of what a program takes from it, and what an
            // AF_XDP socket had no room for is known by its number alone.
            let headers =
                if lab.ports("br0").iter().any(|port| port.name == role && port.xdp.is_some()) { 14 } else { 0 };
            let sent_bytes = counter("tx_bytes") + headers * counter("tx_packets");
            let sent = total.drops.contains_key("rx-overrun") || sent_bytes == total.rx_bytes;
            (frames && sent && counter("rx_bytes") == total.tx_bytes).then_some(())
        }));
    }
    lab.finish();
}
