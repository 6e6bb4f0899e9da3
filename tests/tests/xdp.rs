//! AF_XDP ports: what is particular about them. What all ports have in common is in `traffic`.

use std::net::IpAddr;
use std::time::Duration;

use vswitch::api::{Port, PortState, PortType, XdpMode};
use vswitch_tests::lab::{any_port, assert_no_reach, assert_reaches, ipv4, ipv6, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{Lab, Namespace, announce};

const DUAL: &str = "--subnet 10.1.0.0/24 --subnet fd00:1::/64";

/// The host's end of an `xdp` port.
#[track_caller]
fn host_end(port: &Port) -> String {
    port.xdp.as_ref().unwrap_or_else(|| panic!("{} is no AF_XDP port: {port:?}", port.name)).ifname.clone()
}

fn transfer(server: &Namespace, client: &Namespace, address: IpAddr, plan: Plan) -> Result<(), String> {
    let run = || Transfer::start(server, client, any_port(address), plan)?.finish();
    run().map_err(|error| format!("TCP to {address}: {error}"))
}

/// The interfaces of the lab's host, with their XDP programs.
fn host_links(lab: &Lab) -> serde_json::Value {
    serde_json::from_str(&must(lab.host().ip("-d -j link"))).expect("JSON")
}

fn programs(lab: &Lab) -> usize {
    host_links(lab).as_array().into_iter().flatten().filter(|link| link["xdp"].is_object()).count()
}

#[test]
fn every_combination_of_the_containers_offloads_carries_every_byte() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", DUAL);
    lab.attach("br0", "a", "--type xdp");
    let peers = [lab.attach("br0", "b", "--type xdp"), lab.attach("br0", "c", "--type tap")];
    for combination in 0..16u8 {
        let word = |bit: u8| if combination & (1 << bit) == 0 { "on" } else { "off" };
        let what = format!("tx {} tso {} gso {} gro {}", word(0), word(1), word(2), word(3));
        for setting in what.split_whitespace().collect::<Vec<_>>().chunks(2) {
            let set = lab.container("a").run(&format!("ethtool -K eth0 {}", setting.join(" ")));
            // The kernel notes the wish for super-frames, and grants it once no program is attached.
            assert!(set.is_ok() || matches!(setting, ["tso" | "gso", "on"]), "{what}: {set:?}");
        }
        for peer in &peers {
            let (a, b) = (lab.container("a"), lab.container(&peer.name));
            for address in [ipv4(peer), ipv6(peer)] {
                transfer(b, a, address, Plan::both_ways(512 << 10))
                    .unwrap_or_else(|error| panic!("{what}, to {}: {error}", peer.name));
                datagrams(b, a, any_port(address), &[0, 1, 1452, 1472, 1473, 8000])
                    .unwrap_or_else(|error| panic!("{what}, to {}: {error}", peer.name));
            }
        }
    }
    lab.finish();
}

#[test]
fn every_mtu_between_every_pair_of_types() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24 --mtu 512");
    lab.add_bridge("br1", "--subnet 10.2.0.0/24 --subnet fd00:2::/64 --mtu 1280");
    let roles = [("a", "tap"), ("b", "tap"), ("c", "xdp"), ("d", "xdp")];
    for (bridge, mtus) in [("br0", &[512usize, 576][..]), ("br1", &[1280, 1500, 3498, 3520, 9000, 9001, 60_000])] {
        let ports = roles.map(|(role, kind)| {
            let role = format!("{role}{}", &bridge[2..]);
            lab.attach(bridge, &role, &format!("--type {kind}"))
        });
        for &mtu in mtus {
            // A living bridge, both ends of each pair included.
            lab.ctl(&["set-br", bridge, "--mtu", &mtu.to_string()]);
            for (one, two) in [(0, 1), (2, 3), (0, 2)] {
                let (a, b) = (lab.container(&ports[one].name), lab.container(&ports[two].name));
                let mut addresses = vec![ipv4(&ports[two])];
                if bridge == "br1" {
                    addresses.push(ipv6(&ports[two]));
                }
                for address in addresses {
                    let what = format!("mtu {mtu}, {} to {}", roles[one].1, roles[two].1);
                    // Headers of IPv4 (20) or IPv6 (40), and of ICMP (8).
                    let largest = mtu - if address.is_ipv4() { 28 } else { 48 };
                    must(a.run(&format!("ping -n -q -M do -c 2 -i 0.05 -W 2 -s {largest} {address}")));
                    let plan = Plan::both_ways(512 << 10);
                    transfer(b, a, address, plan).unwrap_or_else(|error| panic!("{what}: {error}"));
                    datagrams(b, a, any_port(address), &[0, 1, largest - 1, largest, largest + 1, 65_000 - 80])
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
            }
        }
    }
    lab.finish();
}

#[test]
fn a_port_says_how_it_is_served_and_why_not_better() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let port = lab.attach("br0", "a", "--type xdp");
    assert_eq!(port.port_type, PortType::Xdp);
    let xdp = port.xdp.clone().expect("how it is served");
    assert_eq!(xdp.mode, Some(XdpMode::Native));
    assert!(xdp.refused.iter().any(|why| why.contains("zero-copy")), "{xdp:?}");
    let (shown, listed) = (lab.ctl(&["show"]), lab.ctl(&["list-ports"]));
    assert!(shown.contains("xdp native, copy") && shown.contains("zero-copy: "), "{shown}");
    assert!(shown.contains(&xdp.ifname) && listed.contains("xdp native, copy"), "{shown}{listed}");
    let links = must(lab.host().ip("link show"));
    assert!(links.contains(&xdp.ifname) && links.contains("br0 a"), "the interface says whose it is: {links}");

    // A port keeps its type.
    let netns = lab.netns("a");
    let refusal = lab.ctl_refused(&["add-port", "br0", &netns, "--name", "a", "--type", "tap"]);
    assert!(refusal.contains("type xdp") && refusal.contains("del-port br0 a"), "{refusal}");
    lab.ctl(&["del-port", "br0", "a"]);
    assert_eq!(lab.attach("br0", "a", "--type tap").xdp, None);
    lab.finish();
}

#[test]
fn kill_9_leaves_no_program_and_a_host_that_does_not_hear_the_container() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", DUAL);
    let ports = ["a", "b"].map(|role| lab.attach("br0", role, "--type xdp"));
    assert_reaches(lab.container("a"), ipv4(&ports[1]));
    assert_eq!(programs(&lab), 2);
    lab.kill_daemon();
    assert_eq!(programs(&lab), 0, "{}", host_links(&lab));
    let end = host_end(&ports[0]);
    let features = must(lab.container("a").run("ethtool -k eth0"));
    assert!(features.contains("tcp-segmentation-offload: on"), "as without a program: {features}");

    // The host has an address at the other end of the wire, and would answer there, or route.
    must(lab.host().sysctl("net.ipv4.ip_forward", "1"));
    let links = host_links(&lab);
    let link = links.as_array().into_iter().flatten().find(|link| link["ifname"] == end.as_str()).expect("the link");
    let mac = link["address"].as_str().expect("a MAC address");
    assert_no_reach(lab.container("a"), IpAddr::from([10, 1, 0, 1]));
    must(lab.container("a").ip(&format!("neigh replace 10.1.0.1 lladdr {mac} dev eth0")));
    must(lab.container("a").ip(&format!("neigh replace fd00:1::1 lladdr {mac} dev eth0")));
    assert_no_reach(lab.container("a"), IpAddr::from([10, 1, 0, 1]));
    assert_no_reach(lab.container("a"), "fd00:1::1".parse().expect("an address"));
    for address in ["10.1.0.1", "fd00:1::1"] {
        must(lab.container("a").ip(&format!("neigh del {address} dev eth0")));
    }
    must(lab.host().sysctl("net.ipv4.ip_forward", "0"));

    lab.start_daemon();
    assert_eq!(programs(&lab), 2);
    assert_reaches(lab.container("a"), ipv4(&ports[1]));
    assert_reaches(lab.container("a"), ipv6(&ports[1]));
    assert_eq!(host_end(&lab.ports("br0")[0]), end, "the same interface");
    lab.finish();
}

#[test]
fn what_somebody_does_to_the_hosts_end_is_put_right() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let ports = ["a", "b"].map(|role| lab.attach("br0", role, "--type xdp"));
    let (a, address, end) = (lab.container("a"), ipv4(&ports[1]), host_end(&ports[1]));
    let host = |line: &str| must(lab.host().ip(line));
    let again = |what: &str| {
        must(wait_until(what, PATIENCE, || {
            let up = lab.ports("br0").iter().all(|port| port.state == PortState::Up);
            (up && host_links(&lab).to_string().contains(&end)).then_some(())
        }));
        must(wait_until("packets again", PATIENCE, || a.run(&format!("ping -n -q -c 1 -W 0.3 {address}")).ok()));
    };
    host(&format!("link set {end} down"));
    again("the interface to be up");
    host(&format!("link set {end} mtu 1000"));
    must(wait_until("its MTU", PATIENCE, || (!host("link").contains("mtu 1000")).then_some(())));
    host(&format!("link set {end} name other0"));
    again("its name");
    host(&format!("link del {end}"));
    again("a new interface");
    assert_reaches(lab.host(), address);
    lab.finish();
}

#[test]
fn what_a_crash_left_behind_is_removed_and_nothing_else() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let end = host_end(&lab.attach("br0", "a", "--type xdp"));
    lab.add_container("b");
    let netns = lab.netns("b");
    lab.kill_daemon();
    // A pair of an add-port that never came to its end, and somebody else's.
    let leftover = format!("{}leftover", &end[..7]);
    for name in [&leftover, "veth0"] {
        must(lab.host().ip(&format!("link add {name} type veth peer name {name} netns {netns}")));
    }
    lab.start_daemon();
    let links = must(lab.host().ip("-br link"));
    assert!(!links.contains(&leftover) && links.contains("veth0") && links.contains(&end), "{links}");
    must(lab.host().ip("link del veth0"));
    lab.ctl(&["del-port", "br0", "a"]);
    assert_eq!(must(lab.host().ip("-br link")).lines().count(), 2);
    lab.finish();
}

#[test]
fn links_that_flap_under_load_lose_packets_and_nothing_else() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let ports = ["a", "b", "c"].map(|role| lab.attach("br0", role, "--type xdp"));
    let plan = Plan { write_bytes: 64 << 10, pause: Duration::from_millis(8), ..Plan::both_ways(16 << 20) };
    let stream = must(Transfer::start(lab.container("b"), lab.container("a"), any_port(ipv4(&ports[1])), plan));
    let end = host_end(&ports[2]);
    let mut flaps = 0;
    while stream.received_bytes() < 24 << 20 {
        // The container's own, the host's of a bystander, and once in a while that of the stream.
        for direction in ["down", "up"] {
            must(lab.container("c").ip(&format!("link set eth0 {direction}")));
        }
        must(lab.host().ip(&format!("link set {end} down")));
        if flaps % 4 == 0 {
            must(lab.host().ip(&format!("link set {} down", host_end(&ports[1]))));
        }
        std::thread::sleep(Duration::from_millis(200));
        flaps += 1;
    }
    must(stream.finish());
    announce(&format!("a stream went on through {flaps} rounds of links that went down and up"));
    must(wait_until("the bystander", PATIENCE, || {
        lab.container("a").run(&format!("ping -n -q -c 1 -W 0.3 {}", ipv4(&ports[2]))).ok()
    }));
    lab.finish();
}

#[test]
fn ports_that_come_and_go_under_traffic_leave_no_frame_behind() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    lab.attach("br0", "a", "--type xdp");
    let b = lab.attach("br0", "b", "--type tap");
    lab.add_container("x");
    let netns = lab.netns("x");
    let plan = Plan { write_bytes: 64 << 10, pause: Duration::from_millis(8), ..Plan::both_ways(12 << 20) };
    let stream = must(Transfer::start(lab.container("b"), lab.container("a"), any_port(ipv4(&b)), plan));
    let descriptors = must(lab.daemon().descriptors());
    let mut rounds = 0;
    while stream.received_bytes() < 20 << 20 || rounds < 10 {
        lab.ctl(&["add-port", "br0", &netns, "--name", "x", "--type", "xdp", "--ip", "10.1.0.99"]);
        // Half a burst of it is under way when the port goes.
        let _ = lab.container("x").run("ping -n -q -f -c 200 -W 0.1 10.1.0.3");
        lab.ctl(&["del-port", "br0", "x"]);
        rounds += 1;
    }
    must(stream.finish());
    // Received is sent and dropped, and no chunk is lent to a socket that is gone.
    lab.assert_accounted();
    assert_eq!(must(lab.host().ip("-br link")).lines().count(), 3);
    must(wait_until("as many descriptors as before", PATIENCE, || {
        (must(lab.daemon().descriptors()) <= descriptors).then_some(())
    }));
    announce(&format!("{rounds} times a port came and went under traffic"));
    lab.finish();
}

#[test]
fn a_hundred_ports_and_what_they_cost() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let roles: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
    lab.add_containers(&roles);
    let megabytes = |lab: &Lab| must(lab.daemon().resident_bytes()) as f64 / 1e6;
    let none = megabytes(&lab);
    let mut ports = Vec::new();
    let mut one = 0.0;
    let started = std::time::Instant::now();
    for role in &roles {
        ports.push(lab.attach("br0", role, "--type xdp"));
        if ports.len() == 1 {
            one = megabytes(&lab);
        }
    }
    let each = started.elapsed().as_secs_f64() * 10.0;
    let hundred = megabytes(&lab);
    announce(&format!(
        "resident: {none:.1} MB without ports, {one:.1} MB with one AF_XDP port (its worker's memory is pinned), \
         {hundred:.1} MB with a hundred; {each:.0} ms for an add-port"
    ));
    assert!(one - none < 80.0, "the pool is 17 MB of slots and 32 MB of chunks");
    assert!(hundred - one < 40.0, "a port has rings of 130 KB");
    assert_reaches(lab.container("c0"), ipv4(&ports[99]));
    lab.kill_daemon();
    let started = std::time::Instant::now();
    lab.start_daemon();
    announce(&format!("a new start with a hundred AF_XDP ports took {:?}", started.elapsed()));
    assert_reaches(lab.container("c99"), ipv4(&ports[0]));
    lab.finish();
}
