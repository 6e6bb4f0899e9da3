//! Connections outlive the daemon.

use std::net::SocketAddr;
use std::time::Duration;

use vswitch_tests::contact::{hear, hear_within, udp};
use vswitch_tests::lab::{any_port, must};
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::process::{Background, PATIENCE, wait_until};
use vswitch_tests::requirement;
use vswitch_tests::stream::{Plan, Transfer};
use vswitch_tests::{Lab, announce};

use super::{finish, lab_with};

const ENDS: [fn(&mut Lab); 2] = [Lab::stop_daemon, Lab::kill_daemon];

/// Streams of ten seconds and more, were it not for the end of the daemon in between.
const SLOW: Plan =
    Plan { up_bytes: 12 << 20, down_bytes: 12 << 20, write_bytes: 8 << 10, pause: Duration::from_millis(10) };

#[test]
fn streams_run_through_restarts() {
    let Some((mut lab, _)) = lab_with(&["a", "b"]) else { return };
    lab.ctl(&["publish", "br0", "b", "7000:7000", "7001:7001"]);
    let mut streams = Vec::new();
    for (at, ipv6) in [(0, false), (1, true)] {
        streams.push(must(Transfer::start(lab.far(), lab.container("a"), any_port(far(ipv6)), SLOW)));
        let port = 7000 + at;
        let inside = SocketAddr::new(vswitch_tests::contact::unspecified(ipv6), port);
        let published = SocketAddr::new(host(ipv6), port);
        streams.push(must(Transfer::start_to((lab.container("b"), inside), (lab.far(), published), SLOW)));
    }
    for end in ENDS {
        let before: Vec<u64> = streams.iter().map(Transfer::received_bytes).collect();
        must(wait_until("the streams", PATIENCE, || {
            let moved = streams.iter().zip(&before).all(|(stream, before)| stream.received_bytes() > before + 200_000);
            moved.then_some(())
        }));
        end(&mut lab);
        std::thread::sleep(Duration::from_millis(300));
        lab.start_daemon();
    }
    for stream in streams {
        must(stream.finish());
    }
    finish(lab);
}

#[test]
fn mappings_stay_as_they_were() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp"]);
    let sockets: Vec<_> = [false, true]
        .into_iter()
        .map(|ipv6| {
            let (inside, outside) = (must(udp(lab.container("a"), ipv6, 0)), must(udp(lab.far(), ipv6, 0)));
            must(inside.connect(SocketAddr::new(far(ipv6), must(outside.local_addr()).port())));
            must(inside.send(b"first").map(drop));
            let mapped = must(hear(&outside)).1;
            (inside, outside, mapped)
        })
        .collect();
    let table = lab.ctl(&["conntrack"]).lines().count();
    for (round, end) in ENDS.into_iter().enumerate() {
        end(&mut lab);
        lab.start_daemon();
        assert!(lab.ctl(&["conntrack"]).lines().count() >= table);
        for (inside, outside, mapped) in &sockets {
            // The first packet after the start is one from outside: nothing but what was kept lets it in.
            let word = format!("back {round}");
            must(wait_until("an answer", PATIENCE, || {
                outside.send_to(word.as_bytes(), *mapped).ok()?;
                // What comes late was said before.
                std::iter::from_fn(|| hear_within(inside, Duration::from_millis(500)).ok())
                    .find(|(heard, _)| heard == word.as_bytes())
            }));
            must(inside.send(b"again").map(drop));
            assert_eq!(must(hear(outside)).1, *mapped, "the same external port");
        }
    }
    finish(lab);
}

#[test]
fn iperf3_survives_a_kill() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    if !requirement::program("iperf3") {
        return;
    }
    lab.ctl(&["publish", "br0", "a", "5201:5201"]);
    let mut server = lab.container("a").command("iperf3");
    server.args(["-s", "-1"]);
    lab.start(server);
    let mut client = lab.far().command("iperf3");
    client.args(["-J", "-t", "8", "-c", &host(false).to_string()]);
    // It has no patience with a server that is not there yet.
    must(wait_until("the server", PATIENCE, || {
        let sockets = lab.container("a").run("ss -Hltn").ok()?;
        sockets.contains(":5201").then_some(())
    }));
    let mut running = must(Background::start(&mut client, &lab.path("iperf3.json")));
    std::thread::sleep(Duration::from_secs(2));
    assert!(!running.has_ended(), "{}", running.output());
    lab.kill_daemon();
    lab.start_daemon();
    let status = must(running.wait(2 * PATIENCE));
    let report: serde_json::Value = serde_json::from_str(&running.output()).unwrap_or_default();
    let gbit = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9;
    announce(&format!("iperf3 from outside to a published port, with a kill -9 in between: {gbit:.2} Gbit/s"));
    assert!(status.success() && gbit > 0.0, "{}", running.output());
    // Bytes arrived in the last second, too.
    let last = report["intervals"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
    assert!(last["sum"]["bytes"].as_f64().unwrap_or(0.0) > 0.0, "{last}");
    finish(lab);
}

#[test]
fn what_was_flushed_does_not_come_back() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    let socket = must(udp(lab.container("a"), false, 0));
    let server = must(udp(lab.near(), false, 0));
    must(socket.send_to(b"x", SocketAddr::new(near(false), must(server.local_addr()).port())).map(drop));
    let mapped = must(hear(&server)).1;
    lab.ctl(&["conntrack-flush"]);
    lab.kill_daemon();
    lab.start_daemon();
    assert_eq!(lab.ctl_json(&["conntrack"]), serde_json::json!([]));
    must(server.send_to(b"late", mapped).map(drop));
    assert!(vswitch_tests::contact::is_silent(&socket));
    finish(lab);
}

#[test]
fn a_damaged_table_is_no_reason_not_to_start() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    let server = must(udp(lab.near(), false, 0));
    let target = SocketAddr::new(near(false), must(server.local_addr()).port());
    let say = |lab: &Lab| {
        let socket = must(udp(lab.container("a"), false, 0));
        must(socket.send_to(b"x", target).map(drop));
        must(hear(&server));
    };
    say(&lab);
    lab.kill_daemon();
    let directory = lab.socket().parent().expect("a directory").to_owned();
    let mut found = 0;
    for entry in must(std::fs::read_dir(directory)) {
        let path = must(entry).path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains("conn")) && path.is_file() {
            must(std::fs::write(&path, b"nonsense"));
            found += 1;
        }
    }
    assert!(found > 0, "no file of connections beside the socket");
    lab.allow_log("connections");
    lab.allow_log("conntrack");
    lab.start_daemon();
    say(&lab);
    finish(lab);
}
