//! VLAN access and trunk ports (IEEE 802.1Q).

use std::net::IpAddr;
use std::time::Duration;

use vswitch_tests::Lab;
use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, VLAN, ethernet, mac, tagged};
use vswitch_tests::lab::{any_port, assert_no_reach, assert_reaches, must};
use vswitch_tests::process::wait_until;
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::stream::{Plan, Transfer, datagrams};

/// Ports in namespaces that send nothing by themselves, with a raw socket each.
fn wires<const N: usize>(lab: &mut Lab, ports: [(&str, &str); N]) -> [PacketSocket; N] {
    lab.add_bridge("br0", "--l2");
    ports.map(|(role, args)| {
        must(lab.add_container(role).sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
        lab.attach("br0", role, args);
        must(PacketSocket::open(lab.container(role), "eth0"))
    })
}

/// Our frames that arrived, tagged or not.
fn received(socket: &PacketSocket) -> Vec<Vec<u8>> {
    let ours = EXPERIMENTAL.to_be_bytes();
    must(socket.recv_all(Duration::from_millis(150), |frame| {
        frame.len() >= 18 && (frame[12..14] == ours || (frame[12..14] == VLAN.to_be_bytes() && frame[16..18] == ours))
    }))
}

fn plain(number: u32) -> Vec<u8> {
    ethernet(BROADCAST, mac(number), EXPERIMENTAL, b"vswitch")
}

#[test]
fn access_ports_of_one_vlan_hear_each_other_and_nobody_else() {
    let Some(mut lab) = Lab::new() else { return };
    let [a, b, c] = wires(&mut lab, [("a", "--vlan 10"), ("b", "--vlan 10"), ("c", "--vlan 20")]);
    must(a.send(&plain(1)));
    assert_eq!(received(&b), [plain(1)], "untagged in, untagged out");
    assert_eq!(received(&c), Vec::<Vec<u8>>::new());
    // A container on an access port cannot reach another VLAN by tagging its frames.
    must(a.send(&tagged(20, &plain(1))));
    assert_eq!((received(&b).len(), received(&c).len()), (0, 0));
    assert_eq!(lab.drops("br0", "a", "vlan-ingress"), 1);
    assert!(lab.fdb("br0").iter().all(|entry| entry.vlan == 10), "{:?}", lab.fdb("br0"));
    lab.finish();
}

#[test]
fn trunk_ports_carry_their_vlans_tagged() {
    let Some(mut lab) = Lab::new() else { return };
    let [a, b, t] = wires(&mut lab, [("a", "--vlan 10"), ("b", "--vlan 20"), ("t", "--trunk 10,20")]);
    // Access to trunk: the tag is pushed.
    must(a.send(&plain(1)));
    assert_eq!(received(&t), [tagged(10, &plain(1))]);
    assert_eq!(received(&b).len(), 0);
    // Trunk to access: it is popped.
    must(t.send(&tagged(20, &plain(3))));
    assert_eq!(received(&b), [plain(3)]);
    assert_eq!(received(&a).len(), 0);
    // What the trunk does not carry is not let in.
    must(t.send(&plain(3)));
    must(t.send(&tagged(30, &plain(3))));
    assert_eq!((received(&a).len(), received(&b).len()), (0, 0));
    assert_eq!(lab.drops("br0", "t", "vlan-ingress"), 2);
    lab.finish();
}

#[test]
fn one_address_lives_in_two_vlans() {
    let Some(mut lab) = Lab::new() else { return };
    let [a, b, t] = wires(&mut lab, [("a", "--vlan 10"), ("b", "--vlan 20"), ("t", "--trunk 10,20")]);
    must(a.send(&plain(1)));
    must(b.send(&plain(1)));
    let _ = received(&t);
    // Independent learning: the same address is behind another port in each VLAN.
    must(t.send(&tagged(10, &ethernet(mac(1), mac(3), EXPERIMENTAL, b"x"))));
    assert_eq!((received(&a).len(), received(&b).len()), (1, 0));
    must(t.send(&tagged(20, &ethernet(mac(1), mac(3), EXPERIMENTAL, b"x"))));
    assert_eq!((received(&a).len(), received(&b).len()), (0, 1));
    lab.finish();
}

#[test]
fn a_trunk_may_carry_untagged_frames_too() {
    let Some(mut lab) = Lab::new() else { return };
    let [t, u, p] = wires(&mut lab, [("t", "--trunk 0,10"), ("u", "--trunk 0,10"), ("p", "")]);
    must(t.send(&plain(1)));
    assert_eq!((received(&u), received(&p)), (vec![plain(1)], vec![plain(1)]));
    must(t.send(&tagged(10, &plain(1))));
    assert_eq!(received(&u), [tagged(10, &plain(1))]);
    assert_eq!(received(&p), [tagged(10, &plain(1))], "a port without VLAN settings carries every VLAN");
    lab.finish();
}

#[test]
fn streams_cross_between_access_and_trunk_whole() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--l2");
    lab.attach("br0", "a", "--vlan 10 --ip 10.9.10.1/24");
    lab.attach("br0", "b", "--vlan 20 --ip 10.9.10.2/24");
    for role in ["t", "u"] {
        lab.attach("br0", role, "--trunk 10,20 --ip none");
        let last = if role == "t" { 3 } else { 4 };
        for vid in [10, 20] {
            let namespace = lab.container(role);
            must(namespace.ip(&format!("link add link eth0 name eth0.{vid} type vlan id {vid}")));
            must(namespace.ip(&format!("addr add 10.9.{vid}.{last}/24 dev eth0.{vid}")));
            must(namespace.ip(&format!("link set eth0.{vid} up")));
        }
    }
    let (a, t, u) = (lab.container("a"), lab.container("t"), lab.container("u"));
    let address = |vid: u8, last: u8| IpAddr::from([10, 9, vid, last]);
    assert_reaches(t, address(10, 1));
    assert_no_reach(t, address(10, 2));
    assert_reaches(t, address(20, 4));
    // Super-frames with a tag: pushed, popped, and whole from trunk to trunk.
    for (server, client, at) in [(a, t, address(10, 1)), (t, a, address(10, 3)), (u, t, address(20, 4))] {
        must(must(Transfer::start(server, client, any_port(at), Plan::both_ways(16 << 20))).finish());
        must(datagrams(server, client, any_port(at), &[1, 1000, 1472, 1473, 20_000]));
    }
    must(wait_until("the subinterfaces' end", Duration::from_secs(5), || {
        for vid in [10, 20] {
            must(t.ip(&format!("link del eth0.{vid}")));
            must(u.ip(&format!("link del eth0.{vid}")));
        }
        Some(())
    }));
    lab.finish();
}
