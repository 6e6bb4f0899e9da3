//! The rear guard: what the host does not get while nobody takes it, and how the guard comes and goes.

use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use rustix::time::ClockId;
use vswitch::bpf::{Classifier, Flow, GuardOwner, RearGuard, TcHook, XdpMode, attached_programs, relieve};

use super::lab::can_run;
use super::uplink::{HOST4, HOST6, Lab, PEER4, PEER6};
use super::{PORT, SSH, ip, publish, stream};

const OURS: GuardOwner = GuardOwner(1);
const OTHERS: GuardOwner = GuardOwner(2);
const LONG: Duration = Duration::from_secs(60);

fn now() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A classifier with something published, and its guard on `up0`.
fn guarded(lab: &Lab, owner: GuardOwner) -> (Classifier, RearGuard) {
    let mut classifier = Lab::classifier();
    publish(&mut classifier);
    let guard = lab.host.inside(|| classifier.guard_uplink("up0", owner)).unwrap();
    (classifier, guard)
}

/// What the peer finds at a port of the host where nobody listens: `ConnectionRefused` if the host answers, else
/// `TimedOut`. Datagrams must find the same.
fn at_port(lab: &Lab, host: &str, port: u16) -> ErrorKind {
    let wait = Duration::from_millis(200);
    let tcp = lab.peer.inside(|| TcpStream::connect_timeout(&(ip(host), port).into(), wait)).unwrap_err().kind();
    let from = if host == HOST4 { PEER4 } else { PEER6 };
    let socket = lab.peer.inside(|| UdpSocket::bind((ip(from), 0))).unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.connect((ip(host), port)).unwrap();
    socket.send(b"anybody?").unwrap();
    let udp = socket.recv(&mut [0; 9]).unwrap_err().kind();
    assert_eq!(udp == ErrorKind::ConnectionRefused, tcp == ErrorKind::ConnectionRefused, "{host} port {port}");
    tcp
}

fn names(lab: &Lab) -> Vec<String> {
    lab.host.inside(|| attached_programs("up0")).unwrap().into_iter().map(|program| program.name).collect()
}

#[test]
fn a_guard_keeps_what_is_not_taken_from_the_host_for_a_while() {
    if !can_run("a_guard_keeps_what_is_not_taken_from_the_host_for_a_while") {
        return;
    }
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        let lab = Lab::new();
        let before = lab.host_state();
        let (mut classifier, guard) = guarded(&lab, OURS);
        let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", hook)).unwrap();
        classifier.stand_until(now() + LONG).unwrap();
        let wire = lab.switch();
        for to in [HOST4, HOST6] {
            stream(&lab.peer, &lab.container, to, PORT, 1 << 20);
            stream(&lab.peer, &lab.host, to, SSH, 1 << 20);
        }
        drop(wire);
        lab.host.inside(|| drop(attachment));
        classifier.translated().set(Flow::Tcp, false, 40000);
        classifier.translated().set(Flow::Udp, false, 40000);
        for to in [HOST4, HOST6] {
            assert_eq!(at_port(&lab, to, PORT), ErrorKind::TimedOut, "{hook:?} {to}");
            assert_eq!(at_port(&lab, to, SSH), ErrorKind::ConnectionRefused, "{hook:?} {to}, the host's own");
            stream(&lab.peer, &lab.host, to, SSH, 1 << 20);
        }
        assert_eq!(at_port(&lab, HOST4, 40000), ErrorKind::TimedOut);
        assert_eq!(at_port(&lab, HOST6, 40000), ErrorKind::ConnectionRefused);
        classifier.stand_until(now()).unwrap();
        for to in [HOST4, HOST6] {
            assert_eq!(at_port(&lab, to, PORT), ErrorKind::ConnectionRefused, "{hook:?} {to}, its time is over");
        }
        lab.host.inside(|| drop(guard));
        lab.assert_untouched(&before);
    }
}

#[test]
fn a_guard_stands_behind_xdp_as_well() {
    if !can_run("a_guard_stands_behind_xdp_as_well") {
        return;
    }
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let lab = Lab::new();
        let before = lab.host_state();
        let (mut classifier, guard) = guarded(&lab, OURS);
        let mut uplink = lab.host.inside(|| classifier.reserve_xdp("up0", 1)).unwrap();
        lab.host.inside(|| classifier.attach_xdp(&mut uplink, mode)).unwrap();
        classifier.stand_until(now() + LONG).unwrap();
        stream(&lab.peer, &lab.host, HOST4, SSH, 1 << 20);
        lab.host.inside(|| drop(uplink));
        assert_eq!(at_port(&lab, HOST4, PORT), ErrorKind::TimedOut, "{mode:?}");
        stream(&lab.peer, &lab.host, HOST6, SSH, 1 << 20);
        lab.host.inside(|| drop(guard));
        lab.assert_untouched(&before);
        assert_eq!(at_port(&lab, HOST4, PORT), ErrorKind::ConnectionRefused, "{mode:?}");
    }
}

#[test]
fn a_guard_is_relieved_by_the_next_one_of_its_owner() {
    if !can_run("a_guard_is_relieved_by_the_next_one_of_its_owner") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    let relieve = |owner, classifier: Option<&Classifier>| lab.host.inside(|| relieve(owner, classifier)).unwrap();
    let (first, guard) = guarded(&lab, OURS);
    first.stand_until(now() + LONG).unwrap();
    first.leave_guards();
    lab.host.inside(|| drop(guard));
    drop(first);
    assert_eq!(names(&lab), ["vswitch_rear"], "it stays");
    assert_eq!(at_port(&lab, HOST4, PORT), ErrorKind::TimedOut);

    // The next one knows nothing yet, and passes everything: the first stands on behind it.
    let mut second = Lab::classifier();
    let guard = lab.host.inside(|| second.guard_uplink("up0", OURS)).unwrap();
    let attachment = lab.host.inside(|| second.attach_tc("up0", "carry", TcHook::of_kernel())).unwrap();
    assert_eq!(at_port(&lab, HOST4, PORT), ErrorKind::TimedOut);
    publish(&mut second);
    second.stand_until(now() + LONG).unwrap();
    assert_eq!(relieve(OTHERS, None), 0, "it is not theirs");
    assert_eq!(relieve(OURS, Some(&second)), 1);
    assert_eq!(relieve(OURS, Some(&second)), 0);
    lab.host.inside(|| drop(attachment));
    assert_eq!(at_port(&lab, HOST4, PORT), ErrorKind::TimedOut);

    // Another daemon's stands beside it, and goes by itself.
    let (_theirs, their_guard) = guarded(&lab, OTHERS);
    assert_eq!(names(&lab).len(), 2);
    assert_eq!(relieve(OTHERS, None), 1);
    assert_eq!(names(&lab), ["vswitch_rear"]);
    lab.host.inside(|| drop(guard));
    lab.host.inside(|| drop(their_guard));
    lab.assert_untouched(&before);
}

#[test]
fn a_guard_leaves_the_hook_to_others() {
    if !can_run("a_guard_leaves_the_hook_to_others") {
        return;
    }
    let lab = Lab::new();
    let (classifier, guard) = guarded(&lab, OURS);
    let theirs =
        ["filter", "add", "dev", "up0", "ingress", "prio", "7", "bpf", "bytecode", "1,6 0 0 0,", "classid", "1:1"];
    lab.host.exec(&[&["tc"][..], &theirs].concat());
    lab.host.inside(|| drop(guard));
    let filters = lab.host.exec(&["tc", "filter", "show", "dev", "up0", "ingress"]);
    assert!(filters.contains("bytecode") && !filters.contains("vswitch"), "{filters}");
    drop(classifier);
}
