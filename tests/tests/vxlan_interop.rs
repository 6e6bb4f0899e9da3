//! Our switch, the kernel's bridge and `vxlan` device, and Open vSwitch: three hosts of one overlay.

use std::net::IpAddr;
use std::time::Duration;

use vswitch_tests::lab::{any_port, assert_no_reach, assert_reaches, must};
use vswitch_tests::overlay::{Capture, Captured, KernelVtep, OvsVtep, Underlay, address};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{Lab, Namespace, requirement};

const LIMIT: Duration = PATIENCE;
const VNI: u32 = 42;
const OURS: u8 = 1;
const KERNEL: u8 = 2;
const OVS: u8 = 3;

/// Three hosts with a container each: 10.1.0.11 and so on, fd01::b and so on.
struct World {
    underlay: Underlay,
    lab: Lab,
    kernel: KernelVtep,
    ovs: OvsVtep,
}

impl World {
    /// None, loudly, where something is missing.
    fn new(underlay_mtu: u32, over_ipv6: bool) -> Option<Self> {
        if !requirement::system() || !requirement::program("ovs-vswitchd") {
            return None;
        }
        let inner_mtu = underlay_mtu - if over_ipv6 { 70 } else { 50 };
        let remotes = |of: u8| -> Vec<IpAddr> {
            [OURS, KERNEL, OVS].into_iter().filter(|host| *host != of).map(|host| address(host, over_ipv6)).collect()
        };
        let mut underlay = must(Underlay::create(underlay_mtu));
        let bridge_args = if underlay_mtu > 1500 { format!("--mtu {inner_mtu}") } else { String::new() };
        let mut lab = Lab::on(&mut underlay, OURS, &bridge_args)?;
        lab.add_vxlan(VNI, &[KERNEL, OVS], over_ipv6, "");
        assert_eq!(lab.bridge("br0").mtu, inner_mtu);
        lab.attach_numbered("a", 11);
        let mut kernel = must(KernelVtep::create(&mut underlay, KERNEL));
        must(kernel.add_vxlan(VNI, KERNEL, &remotes(KERNEL), ""));
        must(kernel.add_station(12, inner_mtu));
        let mut ovs = must(OvsVtep::create(&mut underlay, OVS, &lab.path("ovs")));
        // Linux refuses UDP over IPv6 without a checksum unless it is told otherwise (RFC 6935).
        must(ovs.add_vxlan(VNI, OVS, &remotes(OVS), if over_ipv6 { "options:csum=true" } else { "" }));
        must(ovs.add_station(13, inner_mtu));
        // Open vSwitch in userspace takes neither super-frames nor unfinished checksums from an interface.
        for host in [lab.host(), &kernel.host] {
            must(Underlay::finish_packets(host));
        }
        let world = Self { underlay, lab, kernel, ovs };
        // Its routes and neighbours take a moment.
        must(wait_until("Open vSwitch", LIMIT, || world.ours().run("ping -n -q -c 1 -W 1 10.1.0.13").ok().map(drop)));
        Some(world)
    }

    fn ours(&self) -> &Namespace {
        self.lab.container("a")
    }

    fn stations(&self) -> [(&Namespace, u8); 3] {
        [(self.ours(), 11), (&self.kernel.stations[0].namespace, 12), (&self.ovs.stations[0].namespace, 13)]
    }

    fn finish(self) {
        let Self { underlay, lab, kernel, ovs } = self;
        lab.assert_accounted();
        drop((kernel, ovs));
        // The peers' namespaces end with their links, some time later.
        let _ = underlay.dismantle();
        lab.finish();
    }
}

fn addresses(number: u8) -> [IpAddr; 2] {
    [format!("10.1.0.{number}"), format!("fd01::{number:x}")].map(|text| text.parse().expect("an address"))
}

#[test]
fn three_implementations_are_one_network() {
    for (mtu, over_ipv6) in [(1500, false), (1500, true), (9000, false)] {
        let Some(world) = World::new(mtu, over_ipv6) else { return };
        let file = world.lab.path("wire.pcap");
        let capture = must(Capture::start(world.underlay.wire(), "h1", &file));
        for (from, of) in world.stations() {
            for (_, to) in world.stations().into_iter().filter(|(_, to)| *to != of) {
                addresses(to).into_iter().for_each(|target| assert_reaches(from, target));
            }
        }
        // Learned behind the right one, by all three.
        for (number, host) in [(12u8, KERNEL), (13, OVS)] {
            let namespace = world.stations()[usize::from(number) - 11].0;
            let mac = must(link_address(namespace));
            let entry = world.lab.fdb_of(&mac).unwrap_or_else(|| panic!("{mac} is not known"));
            assert_eq!((entry.port.as_str(), entry.remote), ("vxlan42", Some(address(host, over_ipv6))));
        }
        let mac = must(link_address(world.ours()));
        let learned = must(world.kernel.host.run("bridge fdb show dev vx42"));
        assert!(learned.contains(&format!("{mac} dst {} ", address(OURS, over_ipv6))), "{learned}");
        assert!(must(world.ovs.fdb()).contains(&mac), "{}", must(world.ovs.fdb()));
        // Content, in both directions at once: with us, and between the others beside us.
        let inner = usize::try_from(mtu).expect("small") - if over_ipv6 { 70 } else { 50 };
        let stations = world.stations();
        for (server, client) in [(1, 0), (0, 1), (2, 0), (0, 2)] {
            let ((server, number), (client, _)) = (stations[server], stations[client]);
            for target in addresses(number) {
                must(must(Transfer::start(server, client, any_port(target), Plan::both_ways(2 << 20))).finish());
                let small = Plan { write_bytes: 37, ..Plan::both_ways(20_000) };
                must(must(Transfer::start(server, client, any_port(target), small)).finish());
                let largest = inner - if target.is_ipv4() { 28 } else { 48 };
                must(datagrams(server, client, any_port(target), &[0, 1, 17, 500, largest - 1, largest, largest + 1]));
            }
        }
        let captured = must(capture.stop());
        // Once in 65,536 packets Open vSwitch's own updates leave the checksum's other zero (RFC 1624), which is right, and
        // which tshark remarks upon.
        let ovs = format!(" {},", address(OVS, over_ipv6));
        let other_zero = |line: &String| line.contains("CHECKSUM 0xFFFF") && line.contains(&ovs);
        let faults: Vec<_> = must(captured.faults()).into_iter().filter(|line| !other_zero(line)).collect();
        assert!(
            faults.is_empty(),
            "underlay of {mtu}, IPv6 {over_ipv6}: {} faults\n{}",
            faults.len(),
            faults[..faults.len().min(20)].join("\n")
        );
        check_headers(&captured, over_ipv6, mtu);
        world.finish();
    }
}

/// What RFC 7348 says about the outer headers of what we send.
fn check_headers(captured: &Captured, over_ipv6: bool, mtu: u32) {
    let source = address(OURS, over_ipv6);
    let (family, length) = if over_ipv6 { ("ipv6.src", "ipv6.plen") } else { ("ip.src", "ip.len") };
    let ours = format!("{family} == {source} && udp.dstport == 4789 && vxlan");
    let fields = ["udp.srcport", "udp.checksum", length, "vxlan.vni", "vxlan.flags"];
    let rows = must(captured.select(&ours, &fields));
    assert!(rows.len() > 1000, "{} packets of ours", rows.len());
    let first = |text: &str| text.split(',').next().unwrap_or_default().to_owned();
    let mut ports = std::collections::BTreeSet::new();
    for row in &rows {
        let port: u16 = first(&row[0]).parse().expect("a port");
        assert!(port >= 49152, "{row:?}");
        ports.insert(port);
        let bytes: u32 = first(&row[2]).parse().expect("a length");
        assert!(bytes + if over_ipv6 { 40 } else { 0 } <= mtu, "{row:?}");
        assert_eq!(first(&row[3]), "42", "{row:?}");
    }
    assert!(ports.len() > 1, "flows have source ports of their own: {ports:?}");
    if !over_ipv6 {
        assert_eq!(must(captured.count(&format!("{ours} && ip.flags.df#1 == 0"))), 0, "never fragmented");
    }
    // The first header of each packet is the outer one.
    let fragments = if over_ipv6 { "ipv6.nxt#1 == 44" } else { "ip.flags.mf#1 == 1 || ip.frag_offset#1 > 0" };
    assert_eq!(must(captured.count(&format!("{family}#1 == {source} && ({fragments})"))), 0);
}

#[test]
fn a_station_that_moves_between_implementations_is_found() {
    let Some(mut world) = World::new(1500, false) else { return };
    let target: IpAddr = "10.1.0.44".parse().expect("an address");
    let mac = "02:42:0a:01:00:2c";
    let attach = |lab: &mut Lab| lab.attach("br0", "mover", "--ip 10.1.0.44 --mac 02:42:0a:01:00:2c");
    attach(&mut world.lab);
    for (from, _) in world.stations() {
        assert_reaches(from, target);
    }
    // To the kernel's host, under the same addresses.
    world.lab.ctl(&["del-port", "br0", "mover"]);
    let station = must(world.kernel.add_station(44, 1450));
    must(station.namespace.ip(&format!("link set eth0 address {mac}")));
    // It says so, as Linux does not by itself.
    let announce = || world.kernel.stations[1].namespace.run("ping -n -q -c 1 -W 1 10.1.0.12");
    let _ = announce();
    must(wait_until("the move to the kernel's host", LIMIT, || {
        let known = world.lab.fdb_of(mac).is_some_and(|entry| entry.remote == Some(address(KERNEL, false)));
        if !known {
            // A broadcast of any kind tells where it is.
            let _ = world.kernel.stations[1].namespace.run("ping -n -q -c 1 -W 1 10.1.0.98");
        }
        known.then_some(())
    }));
    assert_reaches(world.ours(), target);
    // And back: our announcement corrects both of the others at once.
    must(world.kernel.stations[1].namespace.ip("link set eth0 down"));
    world.lab.take_container("mover");
    attach(&mut world.lab);
    for (from, _) in world.stations() {
        // Announcements are repeated, because one can be lost.
        let reaches = || from.run(&format!("ping -n -q -c 1 -W 1 {target}")).ok();
        must(wait_until("the move back", LIMIT, || reaches().map(drop)));
    }
    world.finish();
}

#[test]
fn static_entries_on_both_sides_need_no_learning() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let Some(mut lab) = Lab::on(&mut underlay, OURS, "") else { return };
    lab.add_vxlan(VNI, &[KERNEL], false, "--learning off");
    lab.attach_numbered("a", 11);
    let mut kernel = must(KernelVtep::create(&mut underlay, KERNEL));
    must(kernel.add_vxlan(VNI, KERNEL, &[], "nolearning"));
    must(kernel.add_station(12, 1450));
    let station = &kernel.stations[0].namespace;
    let target: IpAddr = "10.1.0.12".parse().expect("an address");
    // The kernel floods to nobody: it hears the question, and its answer has nowhere to go.
    assert_no_reach(lab.container("a"), target);
    must(
        kernel.host.run(&format!("bridge fdb add 02:42:0a:01:00:0b dev vx42 dst {} self static", address(OURS, false))),
    );
    assert_reaches(lab.container("a"), target);
    assert!(lab.fdb("br0").iter().all(|entry| entry.remote.is_none()), "nothing is learned");
    // Pinned: now what is for it goes there as unicast.
    let mac = must(link_address(station));
    lab.ctl(&["fdb-add", "br0", &mac, "vxlan42"]);
    assert_reaches(lab.container("a"), target);
    lab.assert_accounted();
    drop(kernel);
    let _ = underlay.dismantle();
    lab.finish();
}

#[test]
fn packets_without_a_udp_checksum_over_ipv6_are_taken() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let Some(mut lab) = Lab::on(&mut underlay, OURS, "") else { return };
    lab.add_vxlan(VNI, &[KERNEL], true, "");
    lab.attach_numbered("a", 11);
    let mut kernel = must(KernelVtep::create(&mut underlay, KERNEL));
    // RFC 6935: tunnels may do without, and this one is told to.
    must(kernel.add_vxlan(VNI, KERNEL, &[address(OURS, true)], "udp6zerocsumtx"));
    must(kernel.add_station(12, 1430));
    let capture = must(Capture::start(underlay.wire(), "h1", &lab.path("wire.pcap")));
    let [ipv4, ipv6] = addresses(12);
    assert_reaches(lab.container("a"), ipv4);
    let station = &kernel.stations[0].namespace;
    must(
        must(Transfer::start(lab.container("a"), station, any_port(addresses(11)[1]), Plan::both_ways(4 << 20)))
            .finish(),
    );
    assert_reaches(lab.container("a"), ipv6);
    let captured = must(capture.stop());
    let theirs = format!("ipv6.src == {} && vxlan && udp.checksum == 0", address(KERNEL, true));
    assert!(must(captured.count(&theirs)) > 100, "the kernel sent checksums after all");
    lab.assert_accounted();
    drop(kernel);
    let _ = underlay.dismantle();
    lab.finish();
}

/// On one machine nothing cuts the kernel's super-frames on their way, nor finishes their checksums.
#[test]
fn super_frames_of_the_kernel_cross_a_veth_pair_whole() {
    if !requirement::system() {
        return;
    }
    for over_ipv6 in [false, true] {
        let mut underlay = must(Underlay::create(1500));
        let Some(mut lab) = Lab::on(&mut underlay, OURS, "") else { return };
        lab.add_vxlan(VNI, &[KERNEL], over_ipv6, "");
        lab.attach_numbered("a", 11);
        let mut kernel = must(KernelVtep::create(&mut underlay, KERNEL));
        must(kernel.add_vxlan(VNI, KERNEL, &[address(OURS, over_ipv6)], ""));
        must(kernel.add_station(12, lab.bridge("br0").mtu));
        let (ours, station) = (lab.container("a"), &kernel.stations[0].namespace);
        for target in addresses(11) {
            must(must(Transfer::start(ours, station, any_port(target), Plan::both_ways(32 << 20))).finish());
        }
        for target in addresses(12) {
            must(must(Transfer::start(station, ours, any_port(target), Plan::both_ways(8 << 20))).finish());
            must(datagrams(station, ours, any_port(target), &[0, 1, 100, 1300, 1500, 9000, 30_000]));
        }
        assert_eq!(lab.drops("br0", "a", "too-big"), 0, "{:?}", lab.stats().ports);
        lab.assert_accounted();
        drop(kernel);
        let _ = underlay.dismantle();
        lab.finish();
    }
}

fn link_address(namespace: &Namespace) -> std::io::Result<String> {
    let links: serde_json::Value = serde_json::from_str(&namespace.ip("-j link show dev eth0")?)?;
    links[0]["address"].as_str().map(str::to_owned).ok_or_else(|| std::io::Error::other("eth0 has no address"))
}
