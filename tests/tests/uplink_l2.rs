//! L2 uplinks: containers on the network of a physical interface.
//!
//! A veth pair plays the wire: `phy0` is in the host's namespace and is given to the bridge, the other
//! end is in a namespace that plays the LAN, on a kernel bridge.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use vswitch::api::{UplinkState, Uplinks};
use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, VLAN, ethernet, mac, tagged};
use vswitch_tests::inventory::Inventory;
use vswitch_tests::lab::{any_port, assert_no_reach, assert_reaches, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::stream::{Plan, Transfer};
use vswitch_tests::{Lab, announce};

/// The LAN's own host.
const LAN: &str = "192.168.7.1";
const LAN6: &str = "fd00:7::1";

/// A lab whose host has `phy0`, and a namespace `lan` behind it with the addresses of [`LAN`].
fn lan() -> Option<Lab> {
    let mut lab = Lab::new()?;
    lab.add_container("lan");
    lab.expect_changes("lan");
    // Or its address is a tentative one for a second, and the host not as it was found.
    must(lab.host().sysctl("net.ipv6.conf.default.accept_dad", "0"));
    wire(&lab, "phy0");
    let lan = lab.container("lan");
    for line in [
        "link add lan0 type bridge mcast_snooping 0",
        "link set phy0-lan master lan0",
        "link set lan0 up",
        "addr add 192.168.7.1/24 dev lan0",
        "addr add fd00:7::1/64 dev lan0 nodad",
    ] {
        must(lan.ip(line));
    }
    Some(lab)
}

/// Makes a wire between `name` in the host's namespace and `name-lan` in the LAN's.
fn wire(lab: &Lab, name: &str) {
    let lan = lab.container("lan");
    must(lab.host().ip(&format!("link add {name} type veth peer name {name}-lan netns {}", lan.name())));
    must(lab.host().ip(&format!("link set {name} up")));
    must(lan.ip(&format!("link set {name}-lan up")));
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn uplinks(lab: &Lab) -> Uplinks {
    lab.get("/v1/uplinks")
}

#[track_caller]
fn becomes(lab: &Lab, state: UplinkState) {
    let reached =
        wait_until("the uplink's state", PATIENCE, || (uplinks(lab).l2.first()?.state == state).then_some(()));
    assert!(reached.is_ok(), "the uplink is not {state:?}: {:?}", uplinks(lab).l2);
}

/// Takes the wire away and asks the questions of [`Lab::finish`].
fn finish(lab: Lab) {
    must(lab.host().ip("link del phy0"));
    lab.finish();
}

/// Traffic between a container and the LAN, both families, to the byte, and datagrams of every size.
#[track_caller]
fn assert_carries(lab: &Lab, role: &str, container: IpAddr) {
    let (container_ns, lan) = (lab.container(role), lab.container("lan"));
    assert_reaches(container_ns, ip(LAN));
    assert_reaches(lan, container);
    for (server, client, address) in
        [(lan, container_ns, ip(LAN)), (container_ns, lan, container), (lan, container_ns, ip(LAN6))]
    {
        let plan = Plan::both_ways(8 << 20);
        must(must(Transfer::start(server, client, any_port(address), plan)).finish());
    }
}

fn container_on_lan(lab: &mut Lab, role: &str, last: u8) -> IpAddr {
    lab.attach("br0", role, "");
    let ns = lab.container(role);
    must(ns.ip(&format!("addr add 192.168.7.{last}/24 dev eth0")));
    must(ns.ip(&format!("addr add fd00:7::{last}/64 dev eth0 nodad")));
    ip(&format!("192.168.7.{last}"))
}

#[test]
fn containers_are_on_the_lan() {
    let Some(mut lab) = lan() else { return };
    let before = must(Inventory::take(lab.host()));
    lab.add_bridge("br0", "--l2");
    let a = container_on_lan(&mut lab, "a", 10);
    let b = container_on_lan(&mut lab, "b", 11);
    let line = lab.ctl(&["add-uplink", "br0", "phy0"]);
    assert!(line.starts_with("phy0 tc (") && line.trim_end().ends_with(" up"), "{line}");
    assert_carries(&lab, "a", a);
    assert_carries(&lab, "b", b);
    assert_reaches(lab.container("a"), b);
    let learned = lab.fdb("br0");
    assert!(learned.iter().any(|entry| entry.port == "phy0"), "{learned:?}");
    let show = lab.ctl(&["show"]);
    assert!(show.contains("uplink    phy0, tc ("), "{show}");
    let tree = lab.ctl_json(&["show", "br0"]);
    assert_eq!(tree[0]["uplinks"][0]["name"], "phy0", "{tree}");
    assert!(lab.port_stats("br0", "phy0").total.rx_frames > 0);
    lab.ctl(&["del-uplink", "br0", "phy0"]);
    assert_no_reach(lab.container("a"), ip(LAN));
    assert_reaches(lab.container("a"), b);
    let differences = before.differences(&must(Inventory::take(lab.host())));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    finish(lab);
}

/// The same by AF_XDP, in the driver and behind it; and to a container on an ordinary port.
fn containers_are_on_the_lan_by_xdp(mode: &str) {
    let Some(mut lab) = lan() else { return };
    // No wire carries super-frames. A veth's driver sees to it while it has an XDP program; behind the
    // driver it does not.
    must(lab.container("lan").run("ethtool -K phy0-lan tso off gso off"));
    let before = must(Inventory::take(lab.host()));
    lab.add_bridge("br0", "--l2");
    let a = container_on_lan(&mut lab, "a", 10);
    let line = lab.ctl(&["add-uplink", "br0", "phy0", "--xdp", mode]);
    assert!(line.starts_with(&format!("phy0 xdp {mode} (copy, 1 queue")), "{line}");
    assert_carries(&lab, "a", a);
    lab.kill_daemon();
    let differences = before.differences(&must(Inventory::take(lab.host())));
    // Whether the interface takes VLAN tags out of frames is written down, and put back at the end.
    assert!(differences.iter().all(|one| one.starts_with("ethtool -k phy0")), "{}", differences.join("\n"));
    lab.start_daemon();
    becomes(&lab, UplinkState::Up);
    assert_carries(&lab, "a", a);
    must(lab.host().ip("link set phy0 down"));
    becomes(&lab, UplinkState::Down);
    must(lab.host().ip("link set phy0 up"));
    becomes(&lab, UplinkState::Up);
    assert_reaches(lab.container("a"), ip(LAN));
    lab.ctl(&["del-uplink", "br0", "phy0"]);
    let differences = before.differences(&must(Inventory::take(lab.host())));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    finish(lab);
}

#[test]
fn containers_are_on_the_lan_by_native_xdp() {
    containers_are_on_the_lan_by_xdp("native");
}

#[test]
fn containers_are_on_the_lan_by_generic_xdp() {
    containers_are_on_the_lan_by_xdp("generic");
}

#[test]
fn containers_have_addresses_from_the_lan() {
    let Some(mut lab) = lan() else { return };
    lab.add_bridge("br0", "--subnet 192.168.7.0/24 --gateway 192.168.7.2 --ip-range 192.168.7.128/25");
    lab.ctl(&["add-uplink", "br0", "phy0"]);
    let port = lab.attach("br0", "a", "--ip 192.168.7.200");
    assert_reaches(lab.container("a"), ip(LAN));
    assert_reaches(lab.container("lan"), vswitch_tests::lab::ipv4(&port));
    // The host is on the LAN by the bridge's own interface.
    assert_reaches(lab.host(), ip(LAN));
    lab.ctl(&["set-br", "br0", "--icc", "off"]);
    assert_reaches(lab.container("a"), ip(LAN));
    finish(lab);
}

#[test]
fn super_frames_survive_the_way_to_the_wire() {
    let Some(mut lab) = lan() else { return };
    lab.add_bridge("br0", "--l2");
    let a = container_on_lan(&mut lab, "a", 10);
    lab.ctl(&["add-uplink", "br0", "phy0"]);
    let bytes = 32 << 20;
    let before = lab.port_stats("br0", "phy0").total;
    must(
        must(Transfer::start(lab.container("lan"), lab.container("a"), any_port(ip(LAN)), Plan::both_ways(bytes)))
            .finish(),
    );
    let after = lab.port_stats("br0", "phy0").total;
    let mean = |frames: u64, bytes: u64| bytes / frames.max(1);
    let out = mean(after.tx_frames - before.tx_frames, after.tx_bytes - before.tx_bytes);
    let back = mean(after.rx_frames - before.rx_frames, after.rx_bytes - before.rx_bytes);
    announce(&format!("frames on the uplink have {out} bytes on the way out and {back} on the way in"));
    assert!(out > 3000 && back > 3000, "out {out}, in {back} bytes per frame");
    assert_eq!(after.segments, before.segments, "nothing was cut by the switch");
    assert_reaches(lab.container("lan"), a);
    finish(lab);
}

#[test]
fn vlans_are_tags_on_the_wire() {
    let Some(mut lab) = Lab::new() else { return };
    must(lab.host().sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
    must(lab.add_container("lan").sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
    lab.expect_changes("lan");
    lab.expect_changes("host");
    wire(&lab, "phy0");
    let outside = must(PacketSocket::open(lab.container("lan"), "phy0-lan"));
    lab.add_bridge("br0", "--l2");
    let [a, b] = [("a", "--vlan 10"), ("b", "--vlan 20")].map(|(role, args)| {
        must(lab.add_container(role).sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
        lab.attach("br0", role, args);
        must(PacketSocket::open(lab.container(role), "eth0"))
    });
    let plain = |number: u32| ethernet(BROADCAST, mac(number), EXPERIMENTAL, b"vswitch");
    let nothing = Vec::<Vec<u8>>::new();

    lab.ctl(&["add-uplink", "br0", "phy0"]);
    must(a.send(&plain(1)));
    assert_eq!((received(&outside, 1), received(&b, 0)), (vec![tagged(10, &plain(1))], nothing.clone()), "a trunk");
    must(outside.send(&tagged(20, &plain(9))));
    assert_eq!((received(&a, 0), received(&b, 1)), (nothing.clone(), vec![plain(9)]));
    must(outside.send(&plain(9)));
    assert_eq!((received(&a, 0), received(&b, 0)), (nothing.clone(), nothing.clone()), "untagged is neither VLAN");
    lab.ctl(&["del-uplink", "br0", "phy0"]);

    lab.ctl(&["add-uplink", "br0", "phy0", "--vlan", "10"]);
    must(a.send(&plain(1)));
    assert_eq!(received(&outside, 1), [plain(1)], "an access port");
    must(outside.send(&plain(9)));
    assert_eq!((received(&a, 1), received(&b, 0)), (vec![plain(9)], nothing.clone()));
    must(outside.send(&tagged(20, &plain(9))));
    lab.await_drops("br0", "phy0", "vlan-ingress", 1);
    assert_eq!((received(&a, 0), received(&b, 0)), (nothing.clone(), nothing));
    finish(lab);
}

#[test]
fn two_hosts_share_vlans_over_one_wire() {
    let (Some(mut one), Some(mut two)) = (Lab::new(), Lab::new()) else { return };
    must(one.host().ip(&format!("link add phy0 type veth peer name phy0 netns {}", two.host().name())));
    for lab in [&one, &two] {
        must(lab.host().ip("link set phy0 up"));
    }
    for (number, lab) in [(1, &mut one), (2, &mut two)] {
        lab.add_bridge("br0", "--l2");
        for (role, vlan) in [("a", 10), ("b", 20)] {
            lab.attach("br0", role, &format!("--vlan {vlan}"));
            must(lab.container(role).ip(&format!("addr add 10.{vlan}.0.{number}/24 dev eth0")));
        }
        lab.ctl(&["add-uplink", "br0", "phy0"]);
    }
    for (role, vlan, other) in [("a", 10, 20), ("b", 20, 10)] {
        let server = ip(&format!("10.{vlan}.0.2"));
        assert_reaches(one.container(role), server);
        let plan = Plan::both_ways(8 << 20);
        must(must(Transfer::start(two.container(role), one.container(role), any_port(server), plan)).finish());
        must(one.container(role).ip(&format!("addr add 10.{other}.0.9/24 dev eth0")));
        assert_no_reach(one.container(role), ip(&format!("10.{other}.0.2")));
    }
    must(one.host().ip("link del phy0"));
    one.finish();
    two.finish();
}

/// Our frames that arrived, tagged or not, when `expected` of them did: waits for those, and for what should not come.
fn received(socket: &PacketSocket, expected: usize) -> Vec<Vec<u8>> {
    let ours = EXPERIMENTAL.to_be_bytes();
    must(socket.recv_expected(expected, Duration::from_millis(150), |frame| {
        frame.len() >= 18 && (frame[12..14] == ours || (frame[12..14] == VLAN.to_be_bytes() && frame[16..18] == ours))
    }))
}

#[test]
fn an_uplink_survives_every_end_of_the_daemon() {
    let Some(mut lab) = lan() else { return };
    let before = must(Inventory::take(lab.host()));
    lab.add_bridge("br0", "--l2");
    let a = container_on_lan(&mut lab, "a", 10);
    lab.ctl(&["add-uplink", "br0", "phy0"]);
    assert_reaches(lab.container("a"), ip(LAN));
    for end in [Lab::kill_daemon, Lab::stop_daemon] {
        end(&mut lab);
        let differences = before.differences(&must(Inventory::take(lab.host())));
        assert!(differences.is_empty(), "the host without the daemon: {}", differences.join("\n"));
        // The host has its interface back meanwhile.
        must(lab.host().ip("addr add 192.168.7.77/24 dev phy0"));
        assert_reaches(lab.host(), ip(LAN));
        must(lab.host().ip("addr del 192.168.7.77/24 dev phy0"));
        lab.start_daemon();
        becomes(&lab, UplinkState::Up);
        assert_carries(&lab, "a", a);
    }
    lab.ctl(&["del-br", "br0", "--force"]);
    let differences = before.differences(&must(Inventory::take(lab.host())));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    finish(lab);
}

#[test]
fn the_interface_is_followed() {
    let Some(mut lab) = lan() else { return };
    lab.add_bridge("br0", "--l2");
    let a = container_on_lan(&mut lab, "a", 10);
    lab.ctl(&["add-uplink", "br0", "phy0"]);

    must(lab.host().ip("link set phy0 down"));
    becomes(&lab, UplinkState::Down);
    must(lab.host().ip("link set phy0 up"));
    becomes(&lab, UplinkState::Up);
    assert_reaches(lab.container("a"), ip(LAN));

    // Under another name, across a restart, too.
    must(lab.host().ip("link set phy0 name wire9"));
    for restart in [false, true] {
        if restart {
            lab.kill_daemon();
            lab.start_daemon();
        }
        let renamed = wait_until("the new name", PATIENCE, || {
            (uplinks(&lab).l2[0].interface.as_deref() == Some("wire9")).then_some(())
        });
        assert!(renamed.is_ok(), "{:?}", uplinks(&lab).l2);
        assert_reaches(lab.container("a"), ip(LAN));
    }
    must(lab.host().ip("link set wire9 name phy0"));

    // The TAP is taken away by hand.
    let tap = "vsw-phy0";
    must(lab.host().ip(&format!("link del {tap}")).or_else(|_| lab.host().ip("link del vsw-wire9")));
    let started = Instant::now();
    must(wait_until("the TAP", PATIENCE, || {
        lab.host().ip("link show type tun").ok().filter(|text| text.contains("vsw-"))
    }));
    becomes(&lab, UplinkState::Up);
    announce(&format!("a removed carry TAP was there again after {:?}", started.elapsed()));
    assert_reaches(lab.container("a"), ip(LAN));

    // The interface goes and comes back, as another one of the same name.
    must(lab.host().ip("link del phy0"));
    becomes(&lab, UplinkState::Waiting);
    assert!(!must(lab.host().ip("link")).contains("vsw-"), "the TAP goes with its interface");
    lab.kill_daemon();
    lab.start_daemon();
    becomes(&lab, UplinkState::Waiting);
    wire(&lab, "phy0");
    must(lab.container("lan").ip("link set phy0-lan master lan0"));
    becomes(&lab, UplinkState::Up);
    assert_carries(&lab, "a", a);

    // A larger MTU is followed.
    must(lab.host().ip("link set phy0 mtu 9000"));
    must(wait_until("the MTU", PATIENCE, || (uplinks(&lab).l2[0].mtu == Some(9000)).then_some(())));
    finish(lab);
}

#[test]
fn interfaces_that_would_be_missed_are_refused() {
    let Some(lab) = lan() else { return };
    lab.add_bridge("br0", "--l2");
    lab.add_bridge("br1", "--subnet 10.99.0.0/24");
    let refused = |args: &[&str], why: &str| {
        let text = lab.ctl_refused(args);
        assert!(text.contains(why), "{args:?}: {text}");
    };
    refused(&["add-uplink", "br9", "phy0"], "there is no bridge");
    refused(&["add-uplink", "br0", "nope"], "no interface \"nope\"");
    refused(&["add-uplink", "br0", "lo"], "lo");
    refused(&["add-uplink", "br0", "br1"], "belongs to the switch");
    refused(&["del-uplink", "br0", "phy0"], "no uplink");
    must(lab.host().ip("addr add 192.168.7.77/24 dev phy0"));
    must(lab.host().ip("route add default via 192.168.7.1"));
    refused(&["add-uplink", "br0", "phy0"], "default route");
    assert_reaches(lab.host(), ip(LAN));
    lab.ctl(&["add-uplink", "br0", "phy0", "--force"]);
    refused(&["add-uplink", "br1", "phy0"], "uplink of bridge \"br0\"");
    refused(&["del-br", "br0"], "has 1 uplink");
    lab.ctl(&["del-uplink", "br0", "phy0"]);
    assert_reaches(lab.host(), ip(LAN));
    must(lab.host().ip("link add dummybr type bridge"));
    must(lab.host().ip("addr flush dev phy0"));
    must(lab.host().ip("link set phy0 master dummybr"));
    refused(&["add-uplink", "br0", "phy0"], "part of \"dummybr\"");
    must(lab.host().ip("link del dummybr"));
    finish(lab);
}

#[test]
fn every_mtu_passes() {
    let Some(mut lab) = lan() else { return };
    for mtu in [1280, 1500, 9000] {
        must(lab.host().ip(&format!("link set phy0 mtu {mtu}")));
        must(lab.container("lan").ip(&format!("link set phy0-lan mtu {mtu}")));
        must(lab.container("lan").ip(&format!("link set lan0 mtu {mtu}")));
        lab.add_bridge("br0", &format!("--l2 --mtu {mtu}"));
        let role = format!("m{mtu}");
        let a = container_on_lan(&mut lab, &role, 10);
        lab.ctl(&["add-uplink", "br0", "phy0"]);
        assert_carries(&lab, &role, a);
        for from in [lab.container(&role), lab.container("lan")] {
            let to = if from.name() == lab.container("lan").name() { a } else { ip(LAN) };
            must(from.run(&format!("ping -n -q -M do -s {} -c 1 -W 2 {to}", mtu - 28)));
        }
        lab.ctl(&["del-br", "br0", "--force"]);
    }
    finish(lab);
}
