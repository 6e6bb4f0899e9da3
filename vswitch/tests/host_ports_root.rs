//! The host's ports: what is the switch's cannot be bound, and what is a program's is not given to NAT. Needs root; in
//! namespaces of its own. The programs are attached to the root of the cgroups, and look at sockets of these namespaces
//! only.

mod namespaces;

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use namespaces::{Namespace, can_run, eventually_ok};
use vswitch::bpf::{Classifier, Flow, HostAddresses, Protocol};
use vswitch::control::host_ports::{HostPorts, Published, in_use, put_back};
use vswitch::nat::ExternalPorts;

const HOST: &str = "192.0.2.1";
const HOST6: &str = "2001:db8::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host() -> Namespace {
    let host = Namespace::new();
    host.exec(&["ip", "link", "set", "lo", "up"]);
    host.exec(&["ip", "address", "add", &format!("{HOST}/32"), "dev", "lo"]);
    host.exec(&["ip", "address", "add", &format!("{HOST6}/128"), "dev", "lo", "nodad"]);
    host
}

fn share(host: &Namespace, state: &Path) -> (Classifier, HostPorts) {
    host.inside(|| {
        let mut classifier = Classifier::load().unwrap();
        let ports = HostPorts::new().unwrap();
        ports.share(&mut classifier, state).unwrap();
        ports.settle().unwrap();
        (classifier, ports)
    })
}

fn bind(host: &Namespace, protocol: Protocol, address: &str, port: u16) -> Result<(), ErrorKind> {
    let address = (ip(address), port);
    let bound = host.inside(|| match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        _ => UdpSocket::bind(address).map(drop),
    });
    bound.map_err(|error| error.kind())
}

/// Asserts that a program may have the port.
#[track_caller]
fn assert_free(host: &Namespace, protocol: Protocol, address: &str, port: u16) {
    eventually_ok(&format!("{protocol} {address} {port}"), || bind(host, protocol, address, port));
}

fn reserved(host: &Namespace) -> String {
    host.exec(&["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]).trim().to_owned()
}

const TAKEN: Result<(), ErrorKind> = Err(ErrorKind::AddrInUse);

#[test]
fn programs_cannot_bind_what_is_the_switchs() {
    if !can_run("programs_cannot_bind_what_is_the_switchs") {
        return;
    }
    use Protocol::{Tcp, Udp};
    let (one, other) = (host(), host());
    let state = tempfile::tempdir().unwrap();
    let (mut classifier, ports) = share(&one, state.path());
    assert_free(&one, Tcp, "0.0.0.0", 8080);
    classifier.publish_range(Tcp, HostAddresses::AllIpv4, 8080..=8081).unwrap();
    classifier.publish_range(Udp, Some(ip(HOST)), 53..=53).unwrap();
    classifier.publish_range(Tcp, HostAddresses::AllIpv6, 9000..=9000).unwrap();
    for (protocol, address, port, expected) in [
        (Tcp, "0.0.0.0", 8080, TAKEN),
        (Tcp, HOST, 8080, TAKEN),
        (Tcp, "127.0.0.1", 8081, TAKEN),
        (Tcp, "::ffff:127.0.0.1", 8080, TAKEN),
        (Tcp, "::", 8080, TAKEN),
        (Tcp, HOST6, 8080, Ok(())),
        (Tcp, "0.0.0.0", 8082, Ok(())),
        (Udp, "0.0.0.0", 8080, Ok(())),
        (Udp, HOST, 53, TAKEN),
        (Udp, "0.0.0.0", 53, TAKEN),
        (Udp, "::", 53, TAKEN),
        (Udp, "127.0.0.1", 53, Ok(())),
        (Udp, HOST6, 53, Ok(())),
        (Tcp, "::1", 9000, TAKEN),
        (Tcp, "::", 9000, TAKEN),
        (Tcp, "0.0.0.0", 9000, Ok(())),
    ] {
        match expected {
            Ok(()) => assert_free(&one, protocol, address, port),
            taken => assert_eq!(bind(&one, protocol, address, port), taken, "{protocol} {address} {port}"),
        }
        // In another namespace anything.
        assert_free(&other, protocol, address, port);
    }
    // What lets several programs have one port does not let them have ours.
    let script = "import socket; s = socket.socket()
for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT): s.setsockopt(socket.SOL_SOCKET, option, 1)
s.bind(('0.0.0.0', 8080))";
    let output = one.try_exec(&["python3", "-c", script]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Address already in use"), "{output:?}");
    // A refused socket can be bound to another port.
    let script = "import socket; s = socket.socket()
try: s.bind(('', 8080)); raise SystemExit('bound')
except OSError: s.bind(('', 8090)); s.listen()";
    one.exec(&["python3", "-c", script]);

    ports.take(Flow::Udp, false, 40);
    assert_eq!(bind(&one, Udp, HOST, 40), TAKEN);
    assert_free(&one, Udp, HOST6, 40);
    assert_free(&one, Tcp, HOST, 40);
    ports.release(Flow::Udp, false, 40);
    assert_free(&one, Udp, HOST, 40);
    classifier.unpublish_range(Tcp, HostAddresses::AllIpv4, 8080..=8080).unwrap();
    assert_free(&one, Tcp, "0.0.0.0", 8080);
    one.inside(|| ports.give_back()).unwrap();
    assert_free(&one, Udp, "0.0.0.0", 53);
}

#[test]
fn nat_gets_no_port_that_somebody_has() {
    if !can_run("nat_gets_no_port_that_somebody_has") {
        return;
    }
    let host = host();
    host.exec(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 50000"]);
    host.exec(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 0"]);
    let before = host.inside(|| TcpListener::bind((HOST, 2000)).unwrap());
    let both = host.inside(|| UdpSocket::bind(("::", 2001)).unwrap());
    let state = tempfile::tempdir().unwrap();
    let (mut classifier, ports) = share(&host, state.path());
    let free = |flow, port| [false, true].map(|ipv6| ports.is_free(flow, ipv6, port));
    assert_eq!((free(Flow::Tcp, 2000), free(Flow::Udp, 2000)), ([false, true], [true, true]));
    assert_eq!(free(Flow::Udp, 2001), [false, false], "a socket of both families");
    assert_eq!(free(Flow::Tcp, 39_999), [true, true]);
    assert_eq!(free(Flow::Tcp, 40_000), [false, false], "the kernel's");
    assert_eq!(free(Flow::Udp, 50_000), [false, false]);
    assert_eq!(free(Flow::Icmp, 45_000), [true, true], "identifiers are no ports");
    // What is bound from now on is known at once, without being listed.
    let after = host.inside(|| UdpSocket::bind((HOST6, 2002)).unwrap());
    assert_eq!(free(Flow::Udp, 2002), [true, false]);
    host.inside(|| ports.refresh()).unwrap();
    assert_eq!(free(Flow::Udp, 2002), [true, false]);
    drop((before, both, after));
    assert_eq!(free(Flow::Tcp, 2000), [false, true], "until they are listed again");
    classifier.publish_range(Protocol::Tcp, None, 3000..=3001).unwrap();
    classifier.publish_range(Protocol::Sctp, Some(ip(HOST)), 3002..=3002).unwrap();
    assert_eq!((free(Flow::Tcp, 3001), free(Flow::Sctp, 3002)), ([false, false], [false, true]));
    let ping = "import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); s.bind(('', 777))
print('bound', flush=True); time.sleep(20)";
    let mut ping = std::process::Command::new("ip")
        .args(["netns", "exec", &host.name, "python3", "-c", ping])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(ping.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    host.exec(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=30000 39999"]);
    host.inside(|| ports.refresh()).unwrap();
    assert_eq!(free(Flow::Icmp, 777), [false, true]);
    assert_eq!((free(Flow::Tcp, 39_999), free(Flow::Tcp, 40_000)), ([false, false], [true, true]), "the range moved");
    assert_eq!((free(Flow::Tcp, 2000), free(Flow::Udp, 2002)), ([true, true], [true, true]));
    ping.kill().unwrap();
    ping.wait().unwrap();
    assert!(!ports.is_used());
    ports.take(Flow::Tcp, false, 2000);
    assert!(ports.is_used() && classifier.translated().is_set(Flow::Tcp, false, 2000));
    ports.release(Flow::Tcp, false, 2000);
    assert!(!ports.is_used() && !classifier.translated().is_set(Flow::Tcp, false, 2000));
}

#[test]
fn what_was_taken_before_the_ports_are_shared_is_told_then() {
    if !can_run("what_was_taken_before_the_ports_are_shared_is_told_then") {
        return;
    }
    let host = host();
    let state = tempfile::tempdir().unwrap();
    let ports = host.inside(|| HostPorts::new().unwrap());
    ports.take(Flow::Tcp, false, 2000);
    ports.take(Flow::Udp, true, 2000);
    ports.take(Flow::Tcp, true, 2001);
    ports.release(Flow::Tcp, true, 2001);
    let mut classifier = Classifier::load().unwrap();
    for _ in 0..2 {
        host.inside(|| ports.share(&mut classifier, state.path()).unwrap());
        let told = |port| {
            let all = Flow::ALL.into_iter().flat_map(|flow| [(flow, false), (flow, true)]);
            all.filter(|&(flow, ipv6)| classifier.translated().is_set(flow, ipv6, port)).collect::<Vec<_>>()
        };
        assert_eq!((told(2000), told(2001)), (vec![(Flow::Tcp, false), (Flow::Udp, true)], vec![]));
        assert_eq!(bind(&host, Protocol::Tcp, HOST, 2000), TAKEN);
        // Leaving the ports to the host and sharing them anew.
        host.inside(|| ports.give_back()).unwrap();
        assert!(!ports.is_shared());
        assert_free(&host, Protocol::Tcp, HOST, 2000);
    }
}

#[test]
fn the_kernel_keeps_off_what_is_published_and_gets_it_back() {
    if !can_run("the_kernel_keeps_off_what_is_published_and_gets_it_back") {
        return;
    }
    let host = host();
    host.exec(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=50000 50009"]);
    host.exec(&["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=50009,60000"]);
    let state = tempfile::tempdir().unwrap();
    let (mut classifier, ports) = share(&host, state.path());
    let published = |ports| Published { protocol: Protocol::Tcp, at: HostAddresses::AllIpv4, ports };
    classifier.publish_range(Protocol::Tcp, HostAddresses::AllIpv4, 50_000..=50_007).unwrap();
    host.inside(|| ports.set_published(vec![published(50_000..=50_007), published(80..=80)])).unwrap();
    assert_eq!(reserved(&host), "50000-50007,50009,60000");
    // One port is left to choose, for a bind that names none and for a connection.
    let listener = host.inside(|| TcpListener::bind((HOST, 0)).unwrap());
    assert_eq!(listener.local_addr().unwrap().port(), 50_008);
    let client = host.inside(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap_err());
    assert_eq!(client.kind(), ErrorKind::AddrNotAvailable, "the listener has it");
    drop(listener);
    host.inside(|| ports.set_published(vec![published(50_001..=50_002)])).unwrap();
    assert_eq!(reserved(&host), "50001-50002,50009,60000");
    // Killed: the next one puts it right, or back.
    drop((classifier, ports));
    assert_eq!(reserved(&host), "50001-50002,50009,60000");
    let (mut classifier, ports) = (Classifier::load().unwrap(), host.inside(|| HostPorts::new().unwrap()));
    host.inside(|| ports.share(&mut classifier, state.path())).unwrap();
    assert_eq!(reserved(&host), "50001-50002,50009,60000", "until it is known what is published");
    host.inside(|| ports.set_published(vec![published(50_002..=50_003)])).unwrap();
    assert_eq!(reserved(&host), "50002-50003,50009,60000");
    drop(ports);
    host.inside(|| put_back(state.path())).unwrap();
    assert_eq!(reserved(&host), "50009,60000");
    assert!(state.path().read_dir().unwrap().next().is_none(), "nothing is left to be put back");
    // As many ranges as there can be, which the kernel takes in several pieces.
    host.exec(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 60999"]);
    let (_classifier, ports) = share(&host, state.path());
    let odd = (1025..=60_999).step_by(2).map(|port| published(port..=port)).collect();
    host.inside(|| ports.set_published(odd)).unwrap();
    let text = reserved(&host);
    assert!(
        text.starts_with("1025,1027,") && text.contains(",59999-60001,") && text.ends_with(",60999"),
        "{} bytes: {} {}",
        text.len(),
        &text[..40],
        &text[text.len() - 40..]
    );
    host.inside(|| ports.give_back()).unwrap();
    assert_eq!(reserved(&host), "50009,60000");
}

#[test]
fn where_the_kernel_chooses_from_everything_nat_gets_a_half() {
    if !can_run("where_the_kernel_chooses_from_everything_nat_gets_a_half") {
        return;
    }
    let host = host();
    host.exec(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"]);
    let state = tempfile::tempdir().unwrap();
    let (_classifier, ports) = share(&host, state.path());
    assert_eq!(reserved(&host), "33280-65535");
    assert!(!ports.is_free(Flow::Tcp, false, 33_279) && ports.is_free(Flow::Tcp, false, 33_280));
    host.inside(|| ports.give_back()).unwrap();
    assert_eq!(reserved(&host), "");
}

#[test]
fn a_port_in_use_is_told_with_its_owner() {
    if !can_run("a_port_in_use_is_told_with_its_owner") {
        return;
    }
    let (host, other) = (host(), host());
    let script = "import socket, time
s = socket.socket(); s.bind(('127.0.0.1', 8080)); s.listen()
t = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); t.bind(('::', 53))
print('bound', flush=True); time.sleep(20)";
    let mut program = std::process::Command::new("ip")
        .args(["netns", "exec", &host.name, "python3", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(program.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
    let told = |at: &Namespace, protocol, address: HostAddresses, ports| {
        let uses = at.inside(|| in_use(protocol, address, ports)).unwrap();
        uses.iter().map(|one| format!("{}: {one}", one.port)).collect::<Vec<_>>()
    };
    let us = format!("python3 (process {})", program.id());
    let ours = |text: &str| vec![format!("{text}: {us}")];
    assert_eq!(told(&host, Protocol::Tcp, HostAddresses::All, 8000..=8100), [format!("8080: {us}, at 127.0.0.1")]);
    assert_eq!(told(&host, Protocol::Udp, HostAddresses::AllIpv4, 53..=53), ours("53"));
    assert_eq!(told(&host, Protocol::Udp, HostAddresses::One(ip(HOST)), 53..=53), ours("53"));
    assert_eq!(told(&host, Protocol::Tcp, HostAddresses::One(ip(HOST)), 8080..=8080), Vec::<String>::new());
    assert_eq!(told(&other, Protocol::Tcp, HostAddresses::All, 0..=65535), Vec::<String>::new());
    program.kill().unwrap();
    program.wait().unwrap();
}
