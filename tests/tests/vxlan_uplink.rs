//! Tunnels over the uplink that is shared with the host: by tc and by AF_XDP, beside the host's own traffic.

use std::time::Duration;

use vswitch::api::{Carrier, PortState};
use vswitch_tests::lab::{any_port, assert_reaches, ipv4, ipv6, must};
use vswitch_tests::overlay::{IFNAME, Underlay, address};
use vswitch_tests::process::wait_until;
use vswitch_tests::requirement;
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{Lab, Options};

const LIMIT: Duration = Duration::from_secs(10);

/// Hosts 1 to `count`, each with a container, and a tunnel between all of them over the uplink by `carry`.
fn hosts(count: u8, carry: &str, over_ipv6: bool) -> Option<(Underlay, Vec<Lab>)> {
    if !requirement::system() {
        return None;
    }
    let mut underlay = must(Underlay::create(1500));
    let mut labs = Vec::new();
    for number in 1..=count {
        let args = vec!["--uplink".to_owned(), format!("{IFNAME},{carry}")];
        let mut lab = Lab::on_with(&mut underlay, number, "", Options { args, ..Options::default() })?;
        // The interface came after the daemon.
        must(wait_until("the uplink is shared", LIMIT, || lab.ctl(&["uplinks"]).contains(" up").then_some(())));
        let others: Vec<u8> = (1..=count).filter(|other| *other != number).collect();
        let tunnel = lab.add_vxlan(42, &others, over_ipv6, "--carrier uplink");
        assert_eq!((tunnel.carrier, tunnel.state), (Carrier::Uplink, PortState::Up), "{tunnel:?}");
        lab.attach_numbered("c", 10 + number);
        labs.push(lab);
    }
    Some((underlay, labs))
}

/// The hosts leave the wire, and with it their uplinks go, which their daemons say.
fn finish(underlay: Underlay, mut labs: Vec<Lab>) {
    for lab in &mut labs {
        lab.assert_accounted();
        lab.allow_log("carries nothing");
        // Attached anew in the moment in which the interface goes.
        lab.allow_log("the uplink cannot be shared");
    }
    must(underlay.dismantle());
    labs.into_iter().for_each(Lab::finish);
}

#[test]
fn containers_of_three_hosts_are_on_one_network() {
    for (carry, over_ipv6) in [("tc", false), ("tc", true), ("xdp=native", false), ("xdp=native", true)] {
        let Some((underlay, labs)) = hosts(3, carry, over_ipv6) else { return };
        for from in 0..3usize {
            for to in (0..3usize).filter(|to| *to != from) {
                let port = &labs[to].ports("br0")[0];
                assert_reaches(labs[from].container("c"), ipv4(port));
                assert_reaches(labs[from].container("c"), ipv6(port));
            }
        }
        let port = &labs[1].ports("br0")[0];
        let (a, b) = (labs[0].container("c"), labs[1].container("c"));
        for target in [ipv4(port), ipv6(port)] {
            must(must(Transfer::start(b, a, any_port(target), Plan::both_ways(4 << 20))).finish());
            must(datagrams(b, a, any_port(target), &[0, 1, 18, 1000, 1380, 3000, 9000]));
        }
        // The hosts' own packets go on as ever.
        assert_reaches(labs[0].host(), address(2, over_ipv6));
        // Not so `not-ours`: a host whose tunnel was not up yet has told by ICMP that nobody listens.
        assert_eq!(labs[0].underlay_drops("unknown-peer"), 0, "{carry}");
        finish(underlay, labs);
    }
}

#[test]
fn a_tunnel_comes_back_with_its_uplink_and_after_a_kill() {
    let Some((underlay, mut labs)) = hosts(2, "tc", false) else { return };
    let target = ipv4(&labs[1].ports("br0")[0]);
    assert_reaches(labs[0].container("c"), target);
    labs[0].kill_daemon();
    labs[0].start_daemon();
    let is_up = || (labs[0].vxlan("vxlan42").state == PortState::Up).then_some(());
    must(wait_until("the tunnel is up", LIMIT, is_up));
    assert_reaches(labs[0].container("c"), target);
    // The TAP that carries the uplink is deleted by hand: the uplink is attached anew, the tunnel follows.
    labs[0].allow_log("the uplink");
    labs[0].allow_log("carries nothing");
    must(labs[0].host().ip(&format!("link del vsw-{IFNAME}")));
    let passes = || {
        let mut ping = labs[0].container("c").command("ping");
        ping.args(["-c", "1", "-W", "1", &target.to_string()]);
        ping.output().ok()?.status.success().then_some(())
    };
    must(wait_until("packets pass again", LIMIT, passes));
    finish(underlay, labs);
}

#[test]
fn what_cannot_be_carried_is_refused_with_the_remedy() {
    let Some((underlay, labs)) = hosts(2, "tc", false) else { return };
    let lab = &labs[0];
    let remote = address(2, false).to_string();
    let add = |extra: &[&str]| {
        let words = [&["add-vxlan", "br0", "--vni", "43", "--remote", &remote][..], extra].concat();
        lab.ctl_refused(&words)
    };
    let refusal = add(&["--carrier", "uplink", "--dst-port", "4790"]);
    assert!(refusal.contains("share both"), "{refusal}");
    let refusal = add(&["--carrier", "socket"]);
    assert!(refusal.contains("--carrier"), "{refusal}");
    finish(underlay, labs);
}

#[test]
fn without_a_shared_uplink_the_tunnel_says_what_is_missing() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let args = vec!["--uplink".to_owned(), "none".to_owned()];
    let Some(lab) = Lab::on_with(&mut underlay, 1, "", Options { args, ..Options::default() }) else { return };
    let remote = address(2, false).to_string();
    let refusal = lab.ctl_refused(&["add-vxlan", "br0", "--vni", "1", "--remote", &remote, "--carrier", "uplink"]);
    assert!(refusal.contains("--uplink IFACE"), "{refusal}");
    finish(underlay, vec![lab]);
}
