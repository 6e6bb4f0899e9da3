//! The host's ports: published ones are reserved, who has one is named, and the host gets back what was changed.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::process::Stdio;

use vswitch_tests::Lab;
use vswitch_tests::inventory::Inventory;
use vswitch_tests::lab::must;

/// A port's owner among the host's programs, until it is dropped.
struct Program(std::process::Child);

impl Program {
    /// A process of the host that runs `script` until it says that it is ready, and then sleeps.
    fn start(lab: &Lab, script: &str) -> Self {
        use std::io::Read as _;
        let script = format!("import socket, time\n{script}\nprint('ready', flush=True)\ntime.sleep(60)");
        let mut command = lab.host().command("python3");
        let mut child = must(command.args(["-c", &script]).stdout(Stdio::piped()).spawn());
        let mut ready = [0; 5];
        must(child.stdout.as_mut().expect("a pipe").read_exact(&mut ready));
        Self(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn reserved(lab: &Lab) -> String {
    must(lab.host().run("sysctl -n net.ipv4.ip_local_reserved_ports")).trim().to_owned()
}

/// A host whose kernel chooses ports from 40000 on, and keeps off 45000; with a bridge and a container `web`.
fn lab() -> Option<Lab> {
    let mut lab = Lab::without_daemon(vswitch_tests::lab::Options::default())?;
    must(lab.host().sysctl("net.ipv4.ip_local_port_range", "40000 50000"));
    must(lab.host().sysctl("net.ipv4.ip_local_reserved_ports", "45000"));
    must(lab.host().ip("link set lo up"));
    lab.found_now("host");
    lab.start_daemon();
    lab.simple("--subnet 172.30.0.0/24", &["web"]);
    Some(lab)
}

fn bind(lab: &Lab, protocol: &str, address: &str, port: u16) -> Result<(), ErrorKind> {
    let address: (IpAddr, u16) = (address.parse().expect("an address"), port);
    let bound = lab.host().enter(|| match protocol {
        "tcp" => TcpListener::bind(address).map(drop),
        _ => UdpSocket::bind(address).map(drop),
    });
    bound.map_err(|error| error.kind())
}

const TAKEN: Result<(), ErrorKind> = Err(ErrorKind::AddrInUse);

#[test]
fn published_ports_are_reserved_against_the_hosts_programs() {
    let Some(mut lab) = lab() else { return };
    let web = lab.netns("web");
    lab.ctl(&["publish", "br0", &web, "8080:80", "127.0.0.1:5353:53/udp", "9000-9010:9000-9010"]);
    let check = |lab: &Lab, expected| {
        assert_eq!(bind(lab, "tcp", "0.0.0.0", 8080), expected);
        assert_eq!(bind(lab, "tcp", "127.0.0.1", 8080), expected);
        assert_eq!(bind(lab, "udp", "127.0.0.1", 5353), expected);
        assert_eq!(bind(lab, "udp", "0.0.0.0", 5353), expected);
        assert_eq!(bind(lab, "tcp", "172.30.0.1", 9005), expected);
        for (protocol, address, port) in
            [("udp", "0.0.0.0", 8080), ("udp", "172.30.0.1", 5353), ("tcp", "0.0.0.0", 9011)]
        {
            assert_eq!(bind(lab, protocol, address, port), Ok(()), "{protocol} {address} {port}");
        }
    };
    check(&lab, TAKEN);
    lab.kill_daemon();
    check(&lab, Ok(()));
    lab.start_daemon();
    check(&lab, TAKEN);
    lab.stop_daemon();
    check(&lab, Ok(()));
    lab.start_daemon();
    check(&lab, TAKEN);
    lab.ctl(&["unpublish", "br0", &web, "8080:80", "127.0.0.1:5353:53/udp", "9000-9010:9000-9010"]);
    check(&lab, Ok(()));
    lab.finish();
}

#[test]
fn a_port_in_use_is_refused_with_its_owners_name() {
    let Some(lab) = lab() else { return };
    let web = lab.netns("web");
    let program = Program::start(
        &lab,
        "s = socket.socket(); s.bind(('127.0.0.1', 8080)); s.listen()
t = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); t.bind(('::', 53))",
    );
    let owner = format!("python3 (process {})", program.0.id());
    for spec in ["8080:80", "127.0.0.1:8080:80", "8000-8100:8000-8100", "53:53/udp"] {
        let refused = lab.ctl_refused(&["publish", "br0", &web, spec]);
        assert!(refused.contains(&owner), "{spec}: {refused}");
    }
    // The same port elsewhere is free: at another address, for another protocol.
    lab.ctl(&["publish", "br0", &web, "172.30.0.1:8080:80", "8080:80/udp", "53:53/tcp"]);
    drop(program);
    lab.ctl(&["publish", "br0", &web, "8081:80", "127.0.0.1:8080:80", "53:53/udp"]);
    lab.finish();
}

#[test]
fn the_kernel_keeps_off_published_ports_and_gets_them_back() {
    let Some(mut lab) = lab() else { return };
    let before = must(Inventory::take(lab.host()));
    let web = lab.netns("web");
    lab.ctl(&["publish", "br0", &web, "40000-44999:40000-44999", "45001-50000:45001-50000", "8080:80"]);
    assert_eq!(reserved(&lab), "40000-50000");
    assert_eq!(bind(&lab, "tcp", "0.0.0.0", 0), TAKEN, "the kernel has none left to choose from");
    lab.ctl(&["unpublish", "br0", &web, "45001-50000:45001-50000"]);
    assert_eq!(reserved(&lab), "40000-45000");
    assert_eq!(bind(&lab, "tcp", "0.0.0.0", 0), Ok(()));

    // Killed: the next start puts it right.
    lab.kill_daemon();
    assert_eq!(reserved(&lab), "40000-45000");
    lab.start_daemon();
    assert_eq!(reserved(&lab), "40000-45000");
    // Stopped: as it was.
    lab.stop_daemon();
    assert_eq!(reserved(&lab), "45000");
    let differences = before.differences(&must(Inventory::take(lab.host())));
    let settings: Vec<_> = differences.iter().filter(|line| line.starts_with("sysctl")).collect();
    assert!(settings.is_empty(), "{settings:#?}");
    lab.start_daemon();
    assert_eq!(reserved(&lab), "40000-45000");
    // Killed, and nothing is published when it is started again.
    lab.kill_daemon();
    let state = lab.config().state_dir.join("state.json");
    let aside = state.with_extension("aside");
    must(std::fs::rename(&state, &aside));
    lab.start_daemon();
    assert_eq!(reserved(&lab), "45000");
    lab.kill_daemon();
    must(std::fs::rename(&aside, &state));
    lab.start_daemon();
    assert_eq!(reserved(&lab), "40000-45000");
    lab.finish();
}

/// `cargo test -p vswitch-tests --test host_ports -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_all_ports_cost() {
    let Some(lab) = lab() else { return };
    let web = lab.netns("web");
    let own = || {
        let status = must(std::fs::read_to_string(format!("/proc/{}/status", lab.daemon().pid())));
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a line");
        line.split_whitespace().nth(1).and_then(|number| number.parse::<i64>().ok()).expect("a number")
    };
    let kernel = || {
        let directory = must(std::fs::read_dir(format!("/proc/{}/fdinfo", lab.daemon().pid())));
        let infos = directory.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
        let locked = |info: String| {
            let line = info.lines().find_map(|line| line.strip_prefix("memlock:").map(str::to_owned));
            info.contains("map_id").then_some(line).flatten().and_then(|bytes| bytes.trim().parse::<i64>().ok())
        };
        infos.filter_map(locked).sum::<i64>() / 1024
    };
    let (idle, idle_kernel) = (own(), kernel());
    lab.ctl(&["publish", "br0", &web, "1:1"]);
    let (one, one_kernel) = (own(), kernel());
    eprintln!("KB of the daemon, KB of maps: nothing published {idle} {idle_kernel}, one port {one} {one_kernel}");
    for spec in ["2-65535:2-65535", "1-65535:1-65535/udp", "127.0.0.1:1-65535:1-65535/sctp"] {
        lab.ctl(&["publish", "br0", &web, spec]);
        eprintln!("with {spec}: {} more, {} more", own() - one, kernel() - one_kernel);
    }
    assert!(own() - idle < 10_000, "ten megabytes are the limit");
    lab.finish();
}
