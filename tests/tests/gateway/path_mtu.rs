//! Path MTU discovery through every hop: no size is a black hole.

use std::net::SocketAddr;
use std::time::Duration;

use vswitch_tests::Lab;
use vswitch_tests::contact::{hear, hear_within, udp};
use vswitch_tests::lab::{any_port, must};
use vswitch_tests::namespace::Namespace;
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::process::run_ok;
use vswitch_tests::requirement;
use vswitch_tests::stream::{Plan, Transfer};

use super::{DUAL, finish, lab};

/// Sends datagrams of many sizes around every MTU in use; each is to arrive, at the latest when its sender has
/// learned what the path carries.
#[track_caller]
fn assert_no_black_hole(from: &Namespace, to: &Namespace, target: SocketAddr, label: &str) {
    let server = must(udp(to, target.is_ipv6(), target.port()));
    let target = SocketAddr::new(target.ip(), must(server.local_addr()).port());
    let socket = must(udp(from, target.is_ipv6(), 0));
    must(socket.connect(target));
    let around = |mtu: usize| mtu - 60..mtu + 8;
    let sizes = (1200..9000).step_by(200).chain(around(1280)).chain(around(1400)).chain(around(1500));
    for size in sizes {
        let sent = vec![(size % 251) as u8; size];
        let arrives = (0..10).any(|_| {
            // EMSGSIZE: the kernel has just learned of a smaller path.
            let _ = socket.send(&sent);
            // What comes late was sent before.
            std::iter::from_fn(|| hear_within(&server, Duration::from_millis(500)).ok()).any(|(heard, _)| heard == sent)
        });
        assert!(arrives, "{label}: {size} bytes to {target} never arrive");
    }
}

/// What the kernel of `from` has learned of the path to `target`.
fn learned(from: &Namespace, target: std::net::IpAddr) -> Option<u32> {
    let text = must(from.ip(&format!("route get {target}")));
    text.split_once("mtu ")?.1.split_whitespace().next()?.parse().ok()
}

fn bridge(lab: &mut Lab, mtu: u32) {
    lab.add_bridge("br0", &format!("{DUAL} --mtu {mtu}"));
    lab.attach("br0", "a", "");
}

#[test]
fn containers_learn_of_narrow_hops_outside() {
    for far_mtu in [1400, 1280] {
        let Some(mut lab) = lab() else { return };
        bridge(&mut lab, 1500);
        lab.set_far_mtu(far_mtu);
        let a = lab.container("a");
        for ipv6 in [false, true] {
            assert_no_black_hole(a, lab.far(), any_port(far(ipv6)), &format!("a hop of {far_mtu}"));
            assert_eq!(learned(a, far(ipv6)), Some(far_mtu), "IPv6 {ipv6}");
            must(must(Transfer::start(lab.far(), a, any_port(far(ipv6)), Plan::both_ways(2 << 20))).finish());
            if requirement::program("tracepath") {
                let mut trace = a.command("tracepath");
                trace.args(["-n", "-m", "6", if ipv6 { "-6" } else { "-4" }, &far(ipv6).to_string()]);
                let text = must(run_ok(&mut trace, Duration::from_secs(30)));
                assert!(text.contains(&format!("pmtu {far_mtu}")), "{text}");
            }
        }
        finish(lab);
    }
}

#[test]
fn streams_through_a_narrow_hop_that_nobody_knew() {
    let Some(mut lab) = lab() else { return };
    bridge(&mut lab, 1500);
    for ipv6 in [false, true] {
        // The hop narrows under a running connection, whose segments are full by then.
        let plan = Plan { write_bytes: 32 << 10, pause: Duration::from_millis(2), ..Plan::both_ways(4 << 20) };
        let stream = must(Transfer::start(lab.far(), lab.container("a"), any_port(far(ipv6)), plan));
        std::thread::sleep(Duration::from_millis(60));
        lab.set_far_mtu(1300);
        must(stream.finish());
        lab.set_far_mtu(1500);
    }
    finish(lab);
}

#[test]
fn a_wide_bridge_behind_a_narrow_uplink() {
    let Some(mut lab) = lab() else { return };
    bridge(&mut lab, 9000);
    let a = lab.container("a");
    for ipv6 in [false, true] {
        assert_no_black_hole(a, lab.near(), any_port(near(ipv6)), "out of a bridge of 9000");
        assert_eq!(learned(a, near(ipv6)), Some(1500), "IPv6 {ipv6}");
        must(must(Transfer::start(lab.near(), a, any_port(near(ipv6)), Plan::both_ways(4 << 20))).finish());
    }
    finish(lab);
}

#[test]
fn a_narrow_bridge_behind_a_wide_uplink() {
    let Some(mut lab) = lab() else { return };
    lab.expect_changes("host");
    lab.set_wire_mtu(9000);
    bridge(&mut lab, 1400);
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp", "7000:7000/tcp"]);
    let a = lab.container("a");
    for ipv6 in [false, true] {
        let target = SocketAddr::new(host(ipv6), 7000);
        assert_no_black_hole(lab.near(), a, target, "into a bridge of 1400");
        assert_eq!(learned(lab.near(), host(ipv6)), Some(1400), "IPv6 {ipv6}");
        must(must(Transfer::start(lab.near(), a, any_port(near(ipv6)), Plan::both_ways(4 << 20))).finish());
    }
    finish(lab);
}

#[test]
fn two_bridges_of_different_width_and_a_published_port() {
    let Some(mut lab) = lab() else { return };
    bridge(&mut lab, 9000);
    lab.add_bridge("br1", &format!("{} --mtu 1300", super::DUAL_SECOND));
    lab.attach("br1", "b", "");
    lab.ctl(&["publish", "br1", "b", "7000:7000/udp"]);
    for ipv6 in [false, true] {
        let target = SocketAddr::new(host(ipv6), 7000);
        assert_no_black_hole(lab.container("a"), lab.container("b"), target, "from 9000 to 1300");
    }
    finish(lab);
}

#[test]
fn a_packet_that_may_be_fragmented_is() {
    let Some(mut lab) = lab() else { return };
    bridge(&mut lab, 9000);
    let a = lab.container("a");
    // IPv4 without DF: the gateway cuts it for the uplink, and nobody is told anything.
    let text = must(a.run(&format!("ping -n -c 2 -i 0.2 -W 2 -M dont -s 8000 {}", near(false))));
    assert!(text.contains("2 received"), "{text}");
    assert_eq!(learned(a, near(false)), None);
    let server = must(udp(lab.near(), false, 0));
    let socket = must(udp(a, false, 0));
    must(socket.send_to(b"x", SocketAddr::new(near(false), must(server.local_addr()).port())).map(drop));
    must(hear(&server));
    finish(lab);
}
