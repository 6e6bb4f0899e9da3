//! Restarts, namespaces that come and go, and the host as it was found.

use std::time::{Duration, Instant};

use vswitch::api::PortState;
use vswitch_tests::lab::{any_port, assert_reaches, ipv4, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::stream::{Plan, Transfer};
use vswitch_tests::{Lab, announce};

use super::lab;

/// A stream that lasts two seconds and more, and is checked to the byte.
const LASTING: Plan =
    Plan { up_bytes: 4 << 20, down_bytes: 4 << 20, write_bytes: 32 << 10, pause: Duration::from_millis(16) };

/// Ends the daemon with `end` in the middle of a stream, starts another, and checks that nothing
/// has changed for anybody.
fn survives(end: fn(&mut Lab)) {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24 --subnet fd00:1::/64 --label team=blue", &["a", "b"]);
    lab.attach("br0", "v", "--vlan 7 --ip none --egress-rate 10mbit --alias other");
    lab.ctl(&["fdb-add", "br0", "02:00:00:00:00:99", "v", "--vlan", "7"]);
    let before = lab.configuration();
    let statics = |lab: &Lab| {
        let mut entries = lab.fdb("br0");
        entries.retain(|entry| entry.kind == vswitch::api::FdbKind::Static);
        entries.sort_by(|one, other| one.mac.cmp(&other.mac));
        entries
    };
    let statics_before = statics(&lab);
    // The kernel is done with its link-local address.
    let links = must(wait_until("the addresses", PATIENCE, || {
        lab.container("a").ip("-o addr show eth0").ok().filter(|text| !text.contains("tentative"))
    }));
    let stream = must(Transfer::start(lab.container("b"), lab.container("a"), any_port(ipv4(&ports[1])), LASTING));
    must(wait_until("the stream", PATIENCE, || (stream.received_bytes() > 500_000).then_some(())));
    end(&mut lab);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(must(lab.container("a").ip("-o addr show eth0")), links.replace("UP,LOWER_UP", "UP"), "eth0 stays");
    lab.start_daemon();
    must(stream.finish());
    assert_eq!(lab.configuration(), before);
    assert_eq!(statics(&lab), statics_before);
    assert!(lab.ports("br0").iter().all(|port| port.state == PortState::Up));
    assert_reaches(lab.host(), ipv4(&ports[0]));
    lab.finish();
}

#[test]
fn a_stream_survives_kill_9_and_a_new_start() {
    survives(Lab::kill_daemon);
}

#[test]
fn a_stream_survives_sigterm_and_a_new_start() {
    survives(Lab::stop_daemon);
}

#[test]
fn a_command_that_returned_is_durable() {
    let Some(mut lab) = lab() else { return };
    for round in 0..5u8 {
        let bridge = format!("br{round}");
        lab.ctl(&["add-br", &bridge, "--subnet", &format!("10.{round}.0.0/24")]);
        lab.kill_daemon();
        lab.start_daemon();
        assert_eq!(lab.bridge(&bridge).name, bridge);
        let port = lab.attach(&bridge, &format!("c{round}"), "");
        lab.kill_daemon();
        lab.start_daemon();
        assert_reaches(lab.host(), ipv4(&port));
        lab.ctl(&["set-br", &bridge, "--icc", "off"]);
        lab.kill_daemon();
        lab.start_daemon();
        assert!(!lab.bridge(&bridge).icc);
    }
    lab.ctl(&["del-br", "br0", "--force"]);
    lab.kill_daemon();
    lab.start_daemon();
    assert_eq!(lab.configuration().0.len(), 4, "a removal is durable too");
    lab.finish();
}

#[test]
fn a_namespace_that_is_deleted_takes_its_port_with_it() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24", &["a", "b", "c"]);
    let descriptors = must(lab.daemon().descriptors());
    for restarted in [false, true] {
        if restarted {
            lab.kill_daemon();
            lab.start_daemon();
        }
        let role = if restarted { "b" } else { "a" };
        must(lab.take_container(role).destroy());
        let started = Instant::now();
        must(wait_until("the port to go", PATIENCE, || {
            lab.ports("br0").iter().all(|port| port.name != role).then_some(())
        }));
        announce(&format!("a deleted namespace's port was gone after {:?}", started.elapsed()));
    }
    assert_reaches(lab.host(), ipv4(&ports[2]));
    assert!(must(lab.daemon().descriptors()) < descriptors, "the ports' descriptors are closed");
    // Address and name are free again.
    let again = lab.attach("br0", "d", &format!("--name a --ip {}", ipv4(&ports[0])));
    assert_reaches(lab.container("c"), ipv4(&again));
    lab.finish();
}

#[test]
fn a_namespace_that_is_deleted_while_the_daemon_is_away_is_noticed() {
    let Some(mut lab) = lab() else { return };
    // A port could not be brought back: a person should be told.
    lab.allow_log("namespace");
    let ports = lab.simple("--subnet 10.1.0.0/24", &["a", "b"]);
    lab.kill_daemon();
    must(lab.take_container("a").destroy());
    lab.start_daemon();
    must(wait_until("the port to go", PATIENCE, || lab.ports("br0").iter().all(|port| port.name != "a").then_some(())));
    assert_reaches(lab.host(), ipv4(&ports[1]));
    lab.finish();
}

#[test]
fn namespaces_are_named_in_every_form() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let mut processes = Vec::new();
    for role in ["a", "b", "c"] {
        let mut command = lab.add_container(role).command("sleep");
        command.arg("300");
        processes.push(lab.start(command));
    }
    lab.add_container("d");
    let forms = [
        format!("pid:{}", processes[0]),
        processes[1].to_string(),
        format!("/proc/{}/ns/net", processes[2]),
        lab.container("d").path().display().to_string(),
    ];
    for (form, role) in forms.iter().zip(["a", "b", "c", "d"]) {
        lab.ctl(&["add-port", "br0", form, "--name", role]);
    }
    for port in lab.ports("br0") {
        assert_reaches(lab.host(), ipv4(&port));
    }
    // A port is also removed by its namespace.
    lab.ctl(&["del-port", "br0", &forms[0]]);
    assert!(must(lab.container("a").ip("-br link")).lines().count() == 1);
    // The namespaces of processes are found again after a restart.
    lab.kill_daemon();
    lab.start_daemon();
    for port in lab.ports("br0") {
        assert_reaches(lab.host(), ipv4(&port));
    }
    lab.finish();
}

#[test]
fn cleanup_removes_everything_and_the_next_start_brings_it_back() {
    let Some(mut lab) = lab() else { return };
    lab.simple("--subnet 10.1.0.0/24 --subnet fd00:1::/64", &["a", "b"]);
    let before = lab.configuration();
    for _ in 0..2 {
        lab.ctl(&["shutdown", "--cleanup"]);
        // The daemon has ended by itself: nothing is left to stop.
        lab.stop_daemon();
        for namespace in [lab.host(), lab.container("a"), lab.container("b")] {
            let links = must(namespace.ip("-br link"));
            assert_eq!(links.lines().count(), 1, "only the loopback interface stays: {links}");
        }
        lab.start_daemon();
        assert_eq!(lab.configuration(), before);
        let ports = lab.ports("br0");
        assert_reaches(lab.container("a"), ipv4(&ports[1]));
    }
    lab.finish();
}

#[test]
fn nothing_leaks_over_many_ports() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    lab.attach("br0", "a", "");
    lab.attach("br0", "b", "");
    lab.ctl(&["del-port", "br0", "b"]);
    let netns = lab.netns("b");
    // What watches interfaces is opened once, a moment after the first that needs it.
    std::thread::sleep(Duration::from_secs(2));
    let descriptors = must(lab.daemon().descriptors());
    for _ in 0..30 {
        lab.ctl(&["add-port", "br0", &netns, "--name", "b"]);
        lab.ctl(&["del-port", "br0", "b"]);
    }
    for round in 0..10 {
        let bridge = format!("x{round}");
        lab.ctl(&["add-br", &bridge]);
        lab.ctl(&["del-br", &bridge]);
    }
    must(wait_until("as many descriptors as before", PATIENCE, || {
        (must(lab.daemon().descriptors()) == descriptors).then_some(())
    }));
    lab.finish();
}

#[test]
fn a_bridge_is_removed_by_force_with_its_ports() {
    let Some(mut lab) = lab() else { return };
    lab.simple("", &["a", "b"]);
    assert!(lab.ctl_refused(&["del-br", "br0"]).contains("--force"));
    lab.ctl(&["del-br", "br0", "--force"]);
    assert_eq!(lab.configuration(), (vec![], vec![]));
    assert_eq!(must(lab.host().ip("-br link")).lines().count(), 1);
    assert_eq!(must(lab.container("a").ip("-br link")).lines().count(), 1);
    lab.finish();
}

#[test]
fn an_interface_may_go_down_and_up_again() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24", &["a", "b"]);
    must(lab.container("b").ip("link set eth0 down"));
    must(lab.container("a").run("sleep 0.1"));
    vswitch_tests::lab::assert_no_reach(lab.container("a"), ipv4(&ports[1]));
    must(lab.container("b").ip("link set eth0 up"));
    assert_reaches(lab.container("a"), ipv4(&ports[1]));
    lab.finish();
}

#[test]
fn unrelated_streams_do_not_notice_reconfiguration() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24", &["a", "b"]);
    lab.add_container("x");
    let netns = lab.netns("x");
    let stream = must(Transfer::start(lab.container("b"), lab.container("a"), any_port(ipv4(&ports[1])), LASTING));
    let mut changes = 0;
    while stream.received_bytes() < 8 << 20 {
        lab.ctl(&["add-port", "br0", &netns, "--name", "x"]);
        lab.ctl(&["fdb-flush", "br0"]);
        lab.ctl(&["set-br", "br0", "--label", "round=x"]);
        lab.ctl(&["del-port", "br0", "x"]);
        changes += 4;
    }
    must(stream.finish());
    announce(&format!("a stream went on through {changes} changes"));
    assert!(changes >= 8);
    lab.finish();
}
