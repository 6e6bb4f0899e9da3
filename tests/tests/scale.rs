//! More ports on one bridge than a kernel bridge takes (about 1,000).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vswitch::control::connections;
use vswitch::datapath::clock::now_s;
use vswitch::nat::conntrack::{New, Segment, SourceNat};
use vswitch::nat::{NobodysPorts, Place, Tuple};
use vswitch_tests::contact::{hear, udp};
use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, ethernet, mac};
use vswitch_tests::lab::{assert_reaches, ipv4, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::{Lab, Options, announce};

const PORTS: usize = 1100;
const CONNECTIONS: usize = 1_000_000;

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

/// Fills the table of a daemon that does not run with UDP connections of 16 containers.
fn fill_table(socket: &Path) {
    let path = connections::path_beside(socket);
    let (table, _) = must(connections::open(&path, Arc::new(NobodysPorts)));
    let now_s = now_s();
    for number in 0..CONNECTIONS as u32 {
        // None has more than 65,536.
        let container = IpAddr::from(Ipv4Addr::new(10, 1, 1, (number % 16) as u8 + 1));
        let new = New {
            tuple: Tuple {
                protocol: 17,
                source: container,
                source_port: 5000,
                destination: Ipv4Addr::from(0xc612_0000 + number / 16).into(),
                destination_port: 53,
            },
            origin: Place::Container,
            responder: Place::Outside,
            destination: None,
            source: SourceNat::Keep,
            container,
            bridge: 0,
            segment: Segment::default(),
            hairpin: false,
        };
        table.open_connection(&new, now_s).expect("room for it");
    }
}

/// Runs the client with standard output in a file; how long it took, and the most memory that it had, in bytes.
fn listed(lab: &Lab, args: &[&str], into: &Path) -> (Duration, u64) {
    let mut command = Command::new(lab.config().binaries.join("vswitchctl"));
    command.args(args).env("VSWITCH_SOCKET", lab.socket()).stdout(must(std::fs::File::create(into)));
    let started = Instant::now();
    let mut client = must(command.stdin(Stdio::null()).spawn());
    let status = format!("/proc/{}/status", client.id());
    let mut high_water = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        high_water = line.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0).max(high_water);
        if let Some(ended) = must(client.try_wait()) {
            assert!(ended.success(), "{args:?}: {ended}");
            return (started.elapsed(), high_water * 1024);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_million_connections_are_listed_while_packets_pass() {
    let Some(mut lab) = Lab::new() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/16", &["a", "b"]);
    lab.stop_daemon();
    let started = Instant::now();
    fill_table(lab.socket());
    announce(&format!("{CONNECTIONS} connections made in {:.1} s", started.elapsed().as_secs_f64()));
    let started = Instant::now();
    lab.start_daemon();
    announce(&format!("a start with {CONNECTIONS} connections: {:.2} s", started.elapsed().as_secs_f64()));

    // Somebody whose packets pass all the while.
    let (asks, answers) = (must(udp(lab.container("a"), false, 0)), must(udp(lab.container("b"), false, 0)));
    let target = SocketAddr::new(ipv4(&ports[1]), must(answers.local_addr()).port());
    let done = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&done);
    let passing = std::thread::spawn(move || {
        let mut times = Vec::new();
        while !until.load(Ordering::Relaxed) {
            let started = Instant::now();
            must(asks.send_to(b"passes", target).map(drop));
            must(hear(&answers));
            times.push(started.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        times.sort();
        times
    });

    let before = must(lab.daemon().resident_bytes());
    let (text, json) = (lab.path("list.txt"), lab.path("list.json"));
    let mut client_bytes = 0;
    for (args, into) in [(&["conntrack"][..], &text), (&["conntrack", "br0", "--json"][..], &json)] {
        let (took, bytes) = listed(&lab, args, into);
        client_bytes = bytes.max(client_bytes);
        let length = must(std::fs::metadata(into)).len();
        announce(&format!(
            "{args:?} with {CONNECTIONS} connections: {:.2} s, {} MB, client {} KB",
            took.as_secs_f64(),
            length / 1_000_000,
            bytes / 1024
        ));
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
    let grown = must(lab.daemon().resident_bytes()).saturating_sub(before);
    done.store(true, Ordering::Relaxed);
    let times = passing.join().expect("packets passed");
    let (p99, worst) = (times[times.len() * 99 / 100], times[times.len() - 1]);
    announce(&format!("daemon {} KB more; {} packets passed, p99 {p99:?}, worst {worst:?}", grown / 1024, times.len()));
    // A heading, and a line for each; of JSON a bracket before and after.
    let lines = |path: &Path| std::io::BufRead::lines(std::io::BufReader::new(must(std::fs::File::open(path)))).count();
    assert_eq!((lines(&text), lines(&json)), (1 + CONNECTIONS, 2 + CONNECTIONS));
    assert!(client_bytes < 64 << 20, "the client had {client_bytes} bytes");
    assert!(grown < 32 << 20, "the daemon has {grown} bytes more");
    // Both cores have somebody to run, but nobody waits for the list.
    assert!(p99 < Duration::from_millis(100), "{p99:?}");
    lab.ctl(&["conntrack-flush"]);
    lab.finish();
}
