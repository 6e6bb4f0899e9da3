//! Firewalls of the host come and go; containers and published ports are not theirs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::lab::{any_port, assert_reaches, must};
use vswitch_tests::outside::{far, host};
use vswitch_tests::process::{PATIENCE, run_ok, wait_until};
use vswitch_tests::stream::{Plan, Transfer};
use vswitch_tests::{Lab, announce, requirement};

use super::{finish, lab_with};

/// Nothing passes: what a host has between `default deny` and its first rule. Neighbour discovery is left to IPv6,
/// as every firewall does, because without it there is no link.
const NOTHING_PASSES: &str = "flush ruleset\n\
    table inet wall {\n\
    chain prerouting { type filter hook prerouting priority -400; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }\n\
    chain input { type filter hook input priority -400; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }\n\
    chain forward { type filter hook forward priority -400; policy drop; }\n\
    chain output { type filter hook output priority -400; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }\n\
    chain postrouting { type filter hook postrouting priority -400; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }\n\
    }\n";

fn load(lab: &Lab, rules: &str) {
    let path = lab.path("rules.nft");
    must(std::fs::write(&path, rules));
    must(run_ok(lab.host().command("nft").arg("-f").arg(&path), Duration::from_secs(10)));
}

#[test]
fn nothing_of_ours_passes_a_firewall() {
    let Some((lab, _)) = lab_with(&["a", "b"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000/tcp", "7000:7000/udp"]);
    load(&lab, NOTHING_PASSES);
    let refused = must(lab.host().command("ping").args(["-c", "1", "-W", "1", &far(false).to_string()]).output());
    assert!(!refused.status.success(), "the firewall is up: the host itself is cut off");
    for ipv6 in [false, true] {
        assert_reaches(lab.container("a"), far(ipv6));
        for protocol in Protocol::ALL {
            let server = must(Server::any(protocol, lab.container("a"), ipv6, 7000));
            for client in [lab.near(), lab.far(), lab.container("b"), lab.container("a")] {
                must(server.meet(client, SocketAddr::new(host(ipv6), 7000)).map(drop));
            }
            let outside = must(Server::any(protocol, lab.far(), ipv6, 0));
            let target = SocketAddr::new(far(ipv6), must(outside.address()).port());
            must(outside.meet(lab.container("a"), target).map(drop));
        }
    }
    load(&lab, "flush ruleset\n");
    finish(lab);
}

#[test]
fn rules_that_come_and_go_harm_nothing() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000"]);
    let mut streams = Vec::new();
    for ipv6 in [false, true] {
        let plan = Plan { write_bytes: 64 << 10, pause: Duration::from_millis(4), ..Plan::both_ways(32 << 20) };
        let inside = super::at(&ports[0], ipv6, 7000);
        let published = SocketAddr::new(host(ipv6), 7000);
        streams.push(must(Transfer::start_to((lab.container("a"), inside), (lab.far(), published), plan)));
        streams.push(must(Transfer::start(lab.far(), lab.container("b"), any_port(far(ipv6)), plan)));
    }
    let stop = AtomicBool::new(false);
    let mut flushes = 0;
    thread::scope(|scope| {
        let loader = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                load(&lab, NOTHING_PASSES);
                load(&lab, "flush ruleset\n");
                must(lab.host().run("nft flush ruleset"));
                count += 1;
            }
            count
        });
        let ends: Vec<_> = streams.into_iter().map(Transfer::finish).collect();
        stop.store(true, Ordering::Relaxed);
        flushes = loader.join().expect("no panic");
        ends.into_iter().for_each(must);
    });
    announce(&format!("four streams through {flushes} changes of the host's firewall"));
    assert!(flushes > 5);
    finish(lab);
}

#[test]
fn iperf3_does_not_notice_a_firewall() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    if !requirement::program("iperf3") {
        return;
    }
    lab.ctl(&["publish", "br0", "a", "5201:5201"]);
    let mut server = lab.container("a").command("iperf3");
    server.arg("-s");
    lab.start(server);
    let measure = || {
        must(wait_until("iperf3", PATIENCE, || {
            let mut client = lab.far().command("iperf3");
            client.args(["-J", "-t", "2", "-c", &host(false).to_string()]);
            let report: serde_json::Value = serde_json::from_str(&run_ok(&mut client, PATIENCE).ok()?).ok()?;
            Some(report["end"]["sum_received"]["bits_per_second"].as_f64()? / 1e9)
        }))
    };
    let without = measure();
    let stop = AtomicBool::new(false);
    let with = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                load(&lab, NOTHING_PASSES);
                load(&lab, "flush ruleset\n");
                thread::sleep(Duration::from_millis(50));
            }
        });
        let with = measure();
        stop.store(true, Ordering::Relaxed);
        with
    });
    announce(&format!("iperf3 to a published port: {without:.2} Gbit/s, under changing rules {with:.2} Gbit/s"));
    // How fast is told, not demanded: on a busy machine the changes themselves take their share of it.
    assert!(with > 0.0);
    finish(lab);
}
