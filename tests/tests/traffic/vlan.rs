//! VLAN access and trunk ports (IEEE 802.1Q).

use std::net::IpAddr;
use std::time::Duration;

use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, VLAN, ethernet, mac, mac_text, tagged};
use vswitch_tests::lab::{PortTypes, any_port, assert_no_reach, assert_reaches, must};
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{Lab, announce};

use super::raw_lab;

/// Ports in namespaces that send nothing by themselves, with a raw socket each.
fn wires<const N: usize>(lab: &mut Lab, ports: [(&str, &str); N]) -> [PacketSocket; N] {
    lab.add_bridge("br0", "--l2");
    ports.map(|(role, args)| {
        must(lab.add_container(role).sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
        lab.attach("br0", role, args);
        must(PacketSocket::open(lab.container(role), "eth0"))
    })
}

/// Our frames that arrived, tagged or not, when `expected` of them did: waits for those, and for what should not come.
fn received(socket: &PacketSocket, expected: usize) -> Vec<Vec<u8>> {
    let ours = EXPERIMENTAL.to_be_bytes();
    must(socket.recv_expected(expected, Duration::from_millis(150), |frame| {
        frame.len() >= 18 && (frame[12..14] == ours || (frame[12..14] == VLAN.to_be_bytes() && frame[16..18] == ours))
    }))
}

fn plain(number: u32) -> Vec<u8> {
    ethernet(BROADCAST, mac(number), EXPERIMENTAL, b"vswitch")
}

#[test]
fn access_ports_of_one_vlan_hear_each_other_and_nobody_else() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, c] = wires(&mut lab, [("a", "--vlan 10"), ("b", "--vlan 10"), ("c", "--vlan 20")]);
    must(a.send(&plain(1)));
    assert_eq!(received(&b, 1), [plain(1)], "untagged in, untagged out");
    assert_eq!(received(&c, 0), Vec::<Vec<u8>>::new());
    // A container on an access port cannot reach another VLAN by tagging its frames.
    must(a.send(&tagged(20, &plain(1))));
    lab.await_drops("br0", "a", "vlan-ingress", 1);
    assert_eq!((received(&b, 0).len(), received(&c, 0).len()), (0, 0));
    let learned: Vec<u16> =
        lab.fdb("br0").iter().filter(|entry| entry.mac == mac_text(mac(1))).map(|entry| entry.vlan).collect();
    assert_eq!(learned, [10]);
    lab.finish();
}

#[test]
fn trunk_ports_carry_their_vlans_tagged() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, t] = wires(&mut lab, [("a", "--vlan 10"), ("b", "--vlan 20"), ("t", "--trunk 10,20")]);
    // Access to trunk: the tag is pushed.
    must(a.send(&plain(1)));
    assert_eq!(received(&t, 1), [tagged(10, &plain(1))]);
    assert_eq!(received(&b, 0).len(), 0);
    // Trunk to access: it is popped.
    must(t.send(&tagged(20, &plain(3))));
    assert_eq!(received(&b, 1), [plain(3)]);
    assert_eq!(received(&a, 0).len(), 0);
    // What the trunk does not carry is not let in.
    must(t.send(&plain(3)));
    must(t.send(&tagged(30, &plain(3))));
    lab.await_drops("br0", "t", "vlan-ingress", 2);
    assert_eq!((received(&a, 0).len(), received(&b, 0).len()), (0, 0));
    lab.finish();
}

#[test]
fn one_address_lives_in_two_vlans() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, t] = wires(&mut lab, [("a", "--vlan 10"), ("b", "--vlan 20"), ("t", "--trunk 10,20")]);
    must(a.send(&plain(1)));
    must(b.send(&plain(1)));
    let _ = received(&t, 2);
    // Independent learning: the same address is behind another port in each VLAN.
    must(t.send(&tagged(10, &ethernet(mac(1), mac(3), EXPERIMENTAL, b"x"))));
    assert_eq!((received(&a, 1).len(), received(&b, 0).len()), (1, 0));
    must(t.send(&tagged(20, &ethernet(mac(1), mac(3), EXPERIMENTAL, b"x"))));
    assert_eq!((received(&a, 0).len(), received(&b, 1).len()), (0, 1));
    lab.finish();
}

#[test]
fn a_trunk_may_carry_untagged_frames_too() {
    let Some(mut lab) = raw_lab() else { return };
    let [t, u, p] = wires(&mut lab, [("t", "--trunk 0,10"), ("u", "--trunk 0,10"), ("p", "")]);
    must(t.send(&plain(1)));
    assert_eq!((received(&u, 1), received(&p, 1)), (vec![plain(1)], vec![plain(1)]));
    must(t.send(&tagged(10, &plain(1))));
    assert_eq!(received(&u, 1), [tagged(10, &plain(1))]);
    assert_eq!(received(&p, 1), [tagged(10, &plain(1))], "a port without VLAN settings carries every VLAN");
    lab.finish();
}

#[test]
fn tagged_super_frames_cross_between_access_and_trunk_whole() {
    let Some(mut lab) = raw_lab() else { return };
    // a and b on br0, u and w on br1; in between, in the namespace t, a bridge of the kernel joins a
    // trunk port of each. So every stream from one side to the other is tagged on its way through
    // the kernel, and tags are pushed and popped around it.
    lab.add_bridge("br0", "--l2");
    lab.add_bridge("br1", "--l2");
    lab.attach("br0", "a", "--vlan 10 --ip 10.9.0.1/24 --ip fd00:9::1/64");
    lab.attach("br0", "b", "--vlan 20 --ip 10.9.0.2/24");
    lab.attach("br0", "t", "--name t0 --ifname eth0 --trunk 10,20");
    lab.attach("br1", "t", "--name t1 --ifname eth1 --trunk 10,20");
    lab.attach("br1", "u", "--vlan 10 --ip 10.9.0.3/24 --ip fd00:9::3/64");
    lab.attach("br1", "w", "--vlan 20 --ip 10.9.0.4/24");
    must(lab.container("t").ip("link add inner type bridge"));
    for link in ["eth0 master inner", "eth1 master inner", "inner up"] {
        must(lab.container("t").ip(&format!("link set {link}")));
    }
    let (a, b, u, w) = (lab.container("a"), lab.container("b"), lab.container("u"), lab.container("w"));
    let address = |last: u8| IpAddr::from([10, 9, 0, last]);
    assert_reaches(a, address(3));
    assert_reaches(b, address(4));
    assert_no_reach(a, address(2));
    assert_no_reach(a, address(4));
    let v6 = "fd00:9::3".parse().expect("an address");
    let cut_before = lab.stats().balance.segments;
    for (server, client, at) in [(u, a, address(3)), (a, u, address(1)), (w, b, address(4)), (u, a, v6)] {
        must(must(Transfer::start(server, client, any_port(at), Plan::both_ways(16 << 20))).finish());
        must(datagrams(server, client, any_port(at), &[1, 1000, 1452, 1472, 1473, 20_000]));
    }
    if crate::PORTS == PortTypes::Tap {
        assert_eq!(lab.stats().balance.segments, cut_before, "a tag is no reason to cut a super-frame");
    }
    let trunk = lab.port_stats("br0", "t0").total;
    let mean = trunk.tx_bytes / trunk.tx_frames.max(1);
    announce(&format!("mean length of a tagged frame: {mean} bytes"));
    // An AF_XDP port's container sends none, and is sent none.
    assert!(mean > 1518 || crate::PORTS != PortTypes::Tap, "tagged super-frames travel whole: {trunk:?}");
    must(lab.container("t").ip("link del inner"));
    lab.finish();
}

#[test]
fn the_kernels_vlan_interfaces_speak_with_a_trunk_port() {
    let Some(mut lab) = raw_lab() else { return };
    lab.add_bridge("br0", "--l2");
    lab.attach("br0", "a", "--vlan 10 --ip 10.9.10.1/24");
    lab.attach("br0", "t", "--trunk 10,20");
    let t = lab.container("t");
    if let Err(error) = t.ip("link add link eth0 name eth0.10 type vlan id 10") {
        // A kernel without 802.1Q interfaces; tagged traffic is tested above without them.
        assert!(error.to_string().contains("Unknown device type"), "{error}");
        announce("NOT RUN: this kernel has no VLAN interfaces (CONFIG_VLAN_8021Q)");
        return lab.finish();
    }
    must(t.ip("addr add 10.9.10.3/24 dev eth0.10"));
    must(t.ip("link set eth0.10 up"));
    let at = any_port(IpAddr::from([10, 9, 10, 1]));
    must(must(Transfer::start(lab.container("a"), t, at, Plan::both_ways(16 << 20))).finish());
    must(t.ip("link del eth0.10"));
    lab.finish();
}
