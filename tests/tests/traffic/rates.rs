//! Ingress and egress rate limits: approximately, with generous bounds.

use std::time::{Duration, Instant};

use vswitch_tests::frame::{EXPERIMENTAL, ethernet, mac};
use vswitch_tests::lab::{any_port, ipv4, must};
use vswitch_tests::process::PATIENCE;
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::stream::{Plan, Transfer};
use vswitch_tests::{Lab, announce};

use super::raw_lab;

/// Sends 1000-byte frames from a to b for a second, five times as fast as 40 Mbit/s, and returns
/// what arrived, in Mbit/s.
fn offered_200_mbit(lab: &Lab) -> f64 {
    let a = must(PacketSocket::open_sender(lab.container("a"), "eth0"));
    let frame = ethernet(mac(2), mac(1), EXPERIMENTAL, &[0; 986]);
    let before = must(lab.container("b").link_counter("eth0", "rx_bytes"));
    let started = Instant::now();
    let mut sent = 0u32;
    while started.elapsed() < Duration::from_secs(1) {
        let due = (started.elapsed().as_secs_f64() * 25_000.0) as u32;
        while sent < due {
            must(a.send(&frame));
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let lasted = started.elapsed();
    lab.assert_accounted();
    let arrived = must(lab.container("b").link_counter("eth0", "rx_bytes")) - before;
    arrived as f64 * 8.0 / 1e6 / lasted.as_secs_f64()
}

#[test]
fn a_senders_rate_is_limited_at_ingress() {
    let Some(mut lab) = raw_lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24 --storm-limit 0");
    lab.attach("br0", "a", "--ingress-rate 40mbit");
    let b = lab.attach("br0", "b", "");
    assert_limited(&lab, "ingress");
    assert!(lab.drops("br0", "a", "ingress-rate") > 0);
    assert_tcp_near(&lab, ipv4(&b));
    lab.finish();
}

#[test]
fn a_receivers_rate_is_limited_at_egress() {
    let Some(mut lab) = raw_lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24 --storm-limit 0");
    lab.attach("br0", "a", "");
    let b = lab.attach("br0", "b", "--egress-rate 40mbit");
    assert_limited(&lab, "egress");
    assert!(lab.drops("br0", "b", "egress-rate") > 0);
    assert_tcp_near(&lab, ipv4(&b));
    lab.finish();
}

/// Of 200 Mbit/s about 40 arrive. On a busy machine the sender may not have its second: it tries again.
#[track_caller]
fn assert_limited(lab: &Lab, what: &str) {
    let mut attempts = Vec::new();
    let limited = (0..5).any(|_| {
        let arrived = offered_200_mbit(lab);
        attempts.push(arrived);
        (20.0..=80.0).contains(&arrived)
    });
    announce(&format!("{what} limit 40 Mbit/s, 200 offered: {attempts:.1?} Mbit/s arrived"));
    assert!(limited, "{attempts:?} Mbit/s arrived at a limit of 40");
}

/// TCP gets through at a rate of the limit's order: 4 MB take 0.8 s at 40 Mbit/s.
#[track_caller]
fn assert_tcp_near(lab: &Lab, address: std::net::IpAddr) {
    let plan = Plan { down_bytes: 0, ..Plan::both_ways(4 << 20) };
    let started = Instant::now();
    must(must(Transfer::start(lab.container("b"), lab.container("a"), any_port(address), plan)).finish());
    let took = started.elapsed();
    announce(&format!("TCP through a limit of 40 Mbit/s: {:.1} Mbit/s", 33.5 / took.as_secs_f64()));
    assert!(took > Duration::from_millis(300), "4 MB in {took:?}: the limit has no effect");
    assert!(took < PATIENCE, "4 MB in {took:?}: TCP starves at the limit");
}
