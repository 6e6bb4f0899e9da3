//! More ports on one bridge than a kernel bridge takes (about 1,000).

use std::time::{Duration, Instant};

use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, ethernet, mac};
use vswitch_tests::lab::{assert_reaches, ipv4, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::{Lab, Options, announce};

const PORTS: usize = 1100;

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn eleven_hundred_ports_on_one_bridge() {
    // A broadcast of an address that is made up is to come to everybody.
    let Some(mut lab) = Lab::with(Options { unguarded: true, ..Options::default() }) else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/16 --storm-limit 0");
    let roles: Vec<String> = (0..PORTS).map(|number| format!("c{number}")).collect();
    let started = Instant::now();
    lab.add_containers(&roles);
    for role in &roles {
        // Eleven hundred greetings of IPv6, each flooded to eleven hundred ports, test nothing here.
        must(lab.container(role).sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
    }
    announce(&format!("{PORTS} namespaces made in {:.1} s", started.elapsed().as_secs_f64()));

    let mut times = Vec::with_capacity(PORTS);
    for role in &roles {
        let netns = lab.netns(role);
        let started = Instant::now();
        lab.ctl(&["add-port", "br0", &netns, "--name", role]);
        times.push(started.elapsed());
    }
    let total: Duration = times.iter().sum();
    announce(&format!(
        "{PORTS} ports added in {:.1} s; median of one command: first hundred {:.1} ms, last hundred {:.1} ms",
        total.as_secs_f64(),
        median(&mut times[..100]).as_secs_f64() * 1e3,
        median(&mut times[PORTS - 100..]).as_secs_f64() * 1e3,
    ));
    let ports = lab.ports("br0");
    assert_eq!(ports.len(), PORTS);

    let of = |role: &str| ports.iter().find(|port| port.name == role).map(ipv4).expect("the port");
    let last = format!("c{}", PORTS - 1);
    assert_reaches(lab.container("c0"), of(&last));
    assert_reaches(lab.container(&last), of("c0"));
    assert_reaches(lab.host(), of("c500"));

    // One broadcast, one delivery to everybody else.
    lab.assert_accounted();
    let delivered = |lab: &Lab| -> Vec<(String, u64)> {
        lab.stats().ports.into_iter().map(|port| (port.port, port.total.tx_frames)).collect()
    };
    let before = delivered(&lab);
    let socket = must(PacketSocket::open_sender(lab.container("c0"), "eth0"));
    must(socket.send(&ethernet(BROADCAST, mac(1), EXPERIMENTAL, b"everybody")));
    let missed =
        || delivered(&lab).iter().zip(&before).filter(|((port, now), (_, then))| port != "c0" && now == then).count();
    if wait_until("a delivery to every port", PATIENCE, || (missed() == 0).then_some(())).is_err() {
        let stats = lab.stats();
        panic!("{} ports did not get the broadcast: {:?}, {:?}", missed(), stats.balance, stats.drops);
    }
    let megabytes = must(lab.daemon().resident_bytes()) as f64 / 1e6;
    announce(&format!("with {PORTS} ports: {megabytes:.1} MB resident"));

    let started = Instant::now();
    lab.kill_daemon();
    lab.start_daemon();
    announce(&format!("kill -9 and a new start with {PORTS} ports: {:.2} s", started.elapsed().as_secs_f64()));
    assert_reaches(lab.container("c0"), of(&last));
    let started = Instant::now();
    lab.ctl(&["del-br", "br0", "--force"]);
    announce(&format!("all of them removed in {:.2} s", started.elapsed().as_secs_f64()));
    lab.finish();
}
