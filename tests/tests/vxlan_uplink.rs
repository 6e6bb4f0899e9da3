//! Tunnels over the uplink that is shared with the host: by tc and by AF_XDP, beside the host's own traffic.

use std::time::Duration;

use vswitch::api::{Carrier, PortState};
use vswitch_tests::lab::{any_port, assert_reaches, ipv4, ipv6, must};
use vswitch_tests::overlay::{Capture, IFNAME, KernelVtep, Underlay, address};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::requirement;
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{Lab, Options};

const LIMIT: Duration = PATIENCE;

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

/// Bytes per frame of what `lab` sent to `remote` and received from it; both are counted in whole frames.
fn frame_bytes(lab: &Lab, remote: std::net::IpAddr) -> [u64; 2] {
    let stats = lab.stats();
    let remotes = stats.tunnels.iter().flat_map(|tunnel| &tunnel.remotes).filter(|one| one.remote == remote);
    let [mut sent, mut received] = [(0, 0); 2];
    for total in remotes.map(|one| &one.total) {
        sent = (sent.0 + total.tx_bytes, sent.1 + total.tx_frames);
        received = (received.0 + total.rx_bytes, received.1 + total.rx_frames);
    }
    [sent, received].map(|(bytes, frames)| bytes / frames.max(1))
}

/// Whether the kernel is new enough to hand super-frames inside of tunnels to a TAP.
fn grants_tunnels() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next(), numbers.next());
    if version < (Some(6), Some(17)) {
        eprintln!("tunnels are not whole before Linux 6.17: only the content is looked at");
    }
    version >= (Some(6), Some(17))
}

#[test]
fn super_frames_cross_the_uplink_whole() {
    for over_ipv6 in [false, true] {
        let Some((underlay, labs)) = hosts(2, "tc", over_ipv6) else { return };
        let (a, b) = (labs[0].container("c"), labs[1].container("c"));
        let port = &labs[1].ports("br0")[0];
        for target in [ipv4(port), ipv6(port)] {
            must(must(Transfer::start(b, a, any_port(target), Plan::both_ways(32 << 20))).finish());
            let largest = 65_535 - if target.is_ipv4() { 28 } else { 48 };
            must(datagrams(b, a, any_port(target), &[0, 1, 1380, 3000, 40_000, largest]));
        }
        if grants_tunnels() {
            let bytes = frame_bytes(&labs[0], address(2, over_ipv6));
            assert!(bytes.iter().all(|bytes| *bytes > 4000), "bytes per frame sent and received: {bytes:?}");
        }
        finish(underlay, labs);
    }
}

/// The kernel cuts what the interface does not: then every packet on the wire is whole and right.
#[test]
fn super_frames_are_cut_before_a_wire() {
    for over_ipv6 in [false, true] {
        let Some((underlay, labs)) = hosts(2, "tc", over_ipv6) else { return };
        for lab in &labs {
            must(Underlay::finish_packets(lab.host()));
        }
        let capture = must(Capture::start(underlay.wire(), "h1", &labs[0].path("wire.pcap")));
        let (a, b) = (labs[0].container("c"), labs[1].container("c"));
        let port = &labs[1].ports("br0")[0];
        for target in [ipv4(port), ipv6(port)] {
            must(must(Transfer::start(b, a, any_port(target), Plan::both_ways(2 << 20))).finish());
            must(datagrams(b, a, any_port(target), &[1, 1380, 3000, 9000]));
        }
        let captured = must(capture.stop());
        let faults = must(captured.faults());
        assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults[..faults.len().min(20)].join("\n"));
        assert!(must(captured.count("vxlan && tcp")) > 1000);
        assert_eq!(must(captured.count("frame.len > 1514")), 0, "longer than the wire carries");
        let unfit = if over_ipv6 { "ipv6.nxt#1 == 44" } else { "vxlan && ip.flags.df#1 == 0" };
        assert_eq!(must(captured.count(unfit)), 0, "never fragmented");
        finish(underlay, labs);
    }
}

#[test]
fn super_frames_of_the_kernel_arrive_whole_and_ours_with_it() {
    if !requirement::system() {
        return;
    }
    for over_ipv6 in [false, true] {
        let mut underlay = must(Underlay::create(1500));
        let args = vec!["--uplink".to_owned(), format!("{IFNAME},tc")];
        let Some(mut lab) = Lab::on_with(&mut underlay, 1, "", Options { args, ..Options::default() }) else { return };
        must(wait_until("the uplink is shared", LIMIT, || lab.ctl(&["uplinks"]).contains(" up").then_some(())));
        lab.add_vxlan(42, &[2], over_ipv6, "--carrier uplink");
        let ours = lab.attach_numbered("c", 11);
        let mut kernel = must(KernelVtep::create(&mut underlay, 2));
        must(kernel.add_vxlan(42, 2, &[address(1, over_ipv6)], ""));
        must(kernel.add_station(12, lab.bridge("br0").mtu));
        let (container, station) = (lab.container("c"), &kernel.stations[0].namespace);
        for target in [ipv4(&ours), ipv6(&ours)] {
            must(must(Transfer::start(container, station, any_port(target), Plan::both_ways(16 << 20))).finish());
        }
        for target in [kernel.stations[0].ipv4, kernel.stations[0].ipv6] {
            must(must(Transfer::start(station, container, any_port(target), Plan::both_ways(16 << 20))).finish());
            must(datagrams(station, container, any_port(target), &[0, 1, 100, 1300, 1500, 9000, 30_000]));
        }
        if grants_tunnels() {
            let bytes = frame_bytes(&lab, address(2, over_ipv6));
            assert!(bytes.iter().all(|bytes| *bytes > 4000), "bytes per frame sent and received: {bytes:?}");
        }
        lab.assert_accounted();
        lab.allow_log("carries nothing");
        lab.allow_log("the uplink cannot be shared");
        // The kernel's host takes its link along.
        drop(kernel);
        let _ = underlay.dismantle();
        lab.finish();
    }
}
