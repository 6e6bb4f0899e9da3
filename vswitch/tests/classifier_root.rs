//! The classifier on a real interface, in namespaces. Needs root.

// What these tests do not use of the laboratory, others do.
#[allow(dead_code)]
#[path = "tap_root/lab.rs"]
mod lab;

#[path = "classifier/cost.rs"]
mod cost;
#[path = "classifier/foreign.rs"]
mod foreign;
#[path = "classifier/uplink.rs"]
mod uplink;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foreign::Where;
use lab::{Namespace, can_run};
use uplink::{HOST4, HOST6, Lab, PEER4, PEER6, carry_tap, datagram, receive, send};
use vswitch::bpf::{
    AttachedProgram, Classifier, ClassifierError, Counter, Flow, Protocol, TcHook, XdpMode, attached_programs,
    remove_leftovers,
};

const PORT: u16 = 8080;
/// One that is the host's.
const SSH: u16 = 22;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn counted(classifier: &Classifier, counter: Counter) -> u64 {
    classifier.counters().unwrap().into_iter().find(|(which, _)| *which == counter).unwrap().1
}

/// Sends `bytes` patterned bytes over TCP, each way, and checks every one of them.
fn stream(client: &Namespace, server: &Namespace, to: &str, port: u16, bytes: usize) {
    let listener = server.inside(|| TcpListener::bind((ip(to), port)).unwrap());
    let pattern: Vec<u8> = (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    let exchange = |mut socket: TcpStream, first: bool| {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let send = |socket: &mut TcpStream| socket.write_all(&pattern).unwrap();
        if first {
            send(&mut socket);
        }
        let mut received = vec![0; bytes];
        socket.read_exact(&mut received).unwrap();
        assert!(received == pattern, "the stream with {to} arrived changed");
        if !first {
            send(&mut socket);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(listener.accept().unwrap().0, false));
        let socket = client.inside(|| TcpStream::connect_timeout(&(ip(to), port).into(), Duration::from_secs(5)));
        exchange(socket.unwrap_or_else(|why| panic!("connect to {to} port {port}: {why}")), true);
    });
}

fn publish(classifier: &mut Classifier) {
    for protocol in Protocol::ALL {
        classifier.publish(protocol, None, PORT).unwrap();
    }
}

#[test]
fn a_shared_uplink_carries_super_frames_both_ways_and_the_host_keeps_its_traffic() {
    if !can_run("a_shared_uplink_carries_super_frames_both_ways_and_the_host_keeps_its_traffic") {
        return;
    }
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        let lab = Lab::new();
        let before = lab.host_state();
        let mut classifier = Lab::classifier();
        publish(&mut classifier);
        let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", hook)).unwrap();
        assert_eq!(attachment.hook(), hook);
        let wire = lab.switch();
        for to in [HOST4, HOST6] {
            // The container answers at the published port, the host itself at its own.
            stream(&lab.peer, &lab.container, to, PORT, 8 << 20);
            stream(&lab.peer, &lab.host, to, SSH, 4 << 20);
        }
        for to in [PEER4, PEER6] {
            stream(&lab.host, &lab.peer, to, 7000, 4 << 20);
            lab.host.exec(&["ping", "-q", "-c", "2", "-i", "0.05", "-W", "2", to]);
        }
        let longest = wire.longest_frame.load(Ordering::Relaxed);
        assert!(longest > 60_000, "super-frames crossed whole: {longest}");
        let (published, carried) = (counted(&classifier, Counter::Published), counted(&classifier, Counter::Carried));
        // 16 MB each way in frames of 1500 bytes would be eleven thousand.
        assert!((300..5000).contains(&published) && (300..5000).contains(&carried), "{published} {carried}");
        let totals = wire.stop();
        // The container also says what needs no answer (multicast listener reports, RFC 3810).
        let not_ip = counted(&classifier, Counter::NotIp);
        assert_eq!((totals.dropped, totals.sent), (0, published + carried + not_ip), "{:?}", classifier.counters());
        assert_eq!(counted(&classifier, Counter::NoTarget), 0);

        lab.host.inside(|| drop(attachment));
        lab.assert_untouched(&before);
        let refused = lab.peer.inside(|| TcpStream::connect((ip(HOST4), PORT))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "the host answers again");
    }
}

#[test]
fn datagrams_fragments_errors_and_echoes_find_their_way() {
    if !can_run("datagrams_fragments_errors_and_echoes_find_their_way") {
        return;
    }
    let lab = Lab::new();
    let mut classifier = Lab::classifier();
    publish(&mut classifier);
    let _attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::of_kernel())).unwrap();
    let _wire = lab.switch();
    let limit = Duration::from_secs(5);
    for (host, peer) in [(HOST4, PEER4), (HOST6, PEER6)] {
        let inside = lab.container.inside(|| UdpSocket::bind((ip(host), PORT)).unwrap());
        let of_host = lab.host.inside(|| UdpSocket::bind((ip(host), SSH)).unwrap());
        let outside = lab.peer.inside(|| UdpSocket::bind((ip(peer), 9000)).unwrap());
        // One packet, and fragments; to us, and to the host.
        for bytes in [100, 5000, 60_000] {
            let data: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
            for (at, port) in [(&inside, PORT), (&of_host, SSH)] {
                let arrived = datagram(&outside, (ip(host), port), at, &data, limit);
                assert!(arrived.as_ref() == Some(&data), "{bytes} bytes to {host} port {port}");
            }
            let back = datagram(&inside, (ip(peer), 9000), &outside, &data, limit);
            assert!(back.as_ref() == Some(&data), "{bytes} bytes from the container to {peer}");
        }
        // Nobody listens there: the peer's answer is an ICMP error about a packet of the container's.
        for (socket, name) in [(&inside, "container"), (&of_host, "host")] {
            socket.connect((ip(peer), 9)).unwrap();
            socket.send(b"anybody?").unwrap();
            socket.set_read_timeout(Some(limit)).unwrap();
            let error = socket.recv(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{name}, {peer}");
        }
        // Echo identifiers: the container's is known to be translated, the host's is not.
        classifier.translated().set(Flow::Icmp, host.contains(':'), 40000);
        lab.container.exec(&["ping", "-q", "-e", "40000", "-c", "2", "-i", "0.05", "-W", "2", peer]);
        lab.host.exec(&["ping", "-q", "-e", "40001", "-c", "2", "-i", "0.05", "-W", "2", peer]);
        lab.peer.exec(&["ping", "-q", "-c", "2", "-i", "0.05", "-W", "2", host]);
    }
    for counter in [Counter::Published, Counter::LaterFragment, Counter::IcmpError, Counter::EchoReply] {
        assert!(counted(&classifier, counter) > 0, "{counter:?}");
    }
    assert_eq!(counted(&classifier, Counter::EchoReply), 4);
    assert_eq!(counted(&classifier, Counter::IcmpError), 2);
    assert_eq!(counted(&classifier, Counter::NotIp), 0);
}

/// UDP to the published port, with a VLAN tag or without.
fn udp_frame(tag: &[u8]) -> Vec<u8> {
    let (to, from) = ([2, 0, 0, 0, 2, 1], FROM);
    let mut header = [0x45, 0, 0, 60, 0, 7, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let [high, low] = PORT.to_be_bytes();
    let udp = [0x23, 0x28, high, low, 0, 40, 0, 0];
    [&to[..], &from, tag, &[8, 0], &header, &udp, &[7; 32]].concat()
}

const FROM: [u8; 6] = [2, 0, 0, 0, 9, 9];
/// IEEE 802.1Q: VLAN 5, priority 6.
const TAG: &[u8] = &[0x81, 0, 0xc0, 5];
/// IEEE 802.1ad around it.
const TWO_TAGS: &[u8] = &[0x88, 0xa8, 0, 9, 0x81, 0, 0xc0, 5];

#[test]
fn other_networks_on_the_same_wire_stay_the_hosts() {
    if !can_run("other_networks_on_the_same_wire_stay_the_hosts") {
        return;
    }
    let lab = Lab::new();
    let mut classifier = Lab::classifier();
    publish(&mut classifier);
    let _attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::of_kernel())).unwrap();
    // What is written to a TAP of the peer leaves its eth0 as it is.
    let tap = carry_tap(&lab.peer);
    let mut of_peer = Classifier::load().unwrap();
    let _l2 = lab.peer.inside(|| of_peer.attach_l2("eth0", "carry", TcHook::of_kernel())).unwrap();
    for tags in [&[], TAG, TWO_TAGS] {
        send(&tap, &udp_frame(tags));
        let came = receive(&lab.carry, FROM);
        let expected = if tags.is_empty() { vec![udp_frame(&[])] } else { vec![] };
        assert_eq!(came, expected, "{tags:?}");
    }
    assert_eq!(counted(&classifier, Counter::Published), 1);
}

#[test]
fn tags_cross_an_l2_uplink_in_both_directions() {
    if !can_run("tags_cross_an_l2_uplink_in_both_directions") {
        return;
    }
    let lab = Lab::new();
    let (here, there) = (&lab.carry, &carry_tap(&lab.peer));
    let mut classifier = Classifier::load().unwrap();
    let _host = lab.host.inside(|| classifier.attach_l2("up0", "carry", TcHook::of_kernel())).unwrap();
    // A second one: indices are of a namespace, and these programs are attached in two.
    let mut of_peer = Classifier::load().unwrap();
    let _peer = lab.peer.inside(|| of_peer.attach_l2("eth0", "carry", TcHook::of_kernel())).unwrap();
    for tags in [&[], TAG, TWO_TAGS] {
        let frame = udp_frame(tags);
        let broadcast = [&[0xff; 6][..], &frame[6..]].concat();
        let foreign = [&[2, 0, 0, 0, 7, 7][..], &frame[6..]].concat();
        for (from, to) in [(here, there), (there, here)] {
            for frame in [&frame, &broadcast, &foreign] {
                send(from, frame);
                assert_eq!(receive(to, FROM), std::slice::from_ref(frame), "{tags:?}");
            }
        }
    }
}

#[test]
fn an_l2_uplink_carries_every_frame_unchanged() {
    if !can_run("an_l2_uplink_carries_every_frame_unchanged") {
        return;
    }
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        let lab = Lab::new();
        lab.host.exec(&["ip", "address", "flush", "dev", "up0"]);
        let before = lab.host_state();
        // Now the container is on the wire itself, with an address of its own.
        lab.container.exec(&["ip", "neighbour", "flush", "nud", "permanent", "dev", "eth0"]);
        lab.container.exec(&["ip", "address", "flush", "dev", "eth0"]);
        lab.container.exec(&["ip", "link", "set", "eth0", "address", "02:00:00:00:02:07"]);
        lab.container.exec(&["ip", "address", "add", "192.0.2.7/24", "dev", "eth0"]);
        lab.container.exec(&["ip", "address", "add", "2001:db8::7/64", "dev", "eth0", "nodad"]);
        let mut classifier = Classifier::load().unwrap();
        let attachment = lab.host.inside(|| classifier.attach_l2("up0", "carry", hook)).unwrap();
        let wire = lab.switch();
        for (peer, container) in [(PEER4, "192.0.2.7"), (PEER6, "2001:db8::7")] {
            lab.container.exec(&["ping", "-q", "-c", "2", "-i", "0.05", "-W", "2", peer]);
            stream(&lab.container, &lab.peer, peer, 7000, 8 << 20);
            stream(&lab.peer, &lab.container, container, 7001, 8 << 20);
        }
        let longest = wire.longest_frame.load(Ordering::Relaxed);
        assert!(longest > 60_000, "super-frames crossed whole: {longest}");
        assert_eq!(wire.stop().dropped, 0);
        lab.host.inside(|| drop(attachment));
        lab.assert_untouched(&before);
    }
}

#[test]
fn programs_of_others_are_named_and_stay() {
    if !can_run("programs_of_others_are_named_and_stay") {
        return;
    }
    let lab = Lab::new();
    let index = Lab::link(&lab.host, "up0").index;
    // `TCX_NEXT`, and one that would end the chain: `TCX_PASS`.
    for verdict in [255, 0] {
        let program = foreign::load(Where::Tcx, "somebodys_tc", verdict).unwrap();
        let link = lab.host.inside(|| foreign::attach(&program, Where::Tcx, index)).unwrap();
        let mut classifier = Lab::classifier();
        publish(&mut classifier);
        let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::Tcx)).unwrap();
        let wire = lab.switch();
        stream(&lab.peer, &lab.container, HOST4, PORT, 1 << 20);
        stream(&lab.peer, &lab.host, HOST4, SSH, 1 << 20);
        let names = |programs: Vec<AttachedProgram>| {
            programs.into_iter().map(|program| (program.hook, program.name)).collect::<Vec<_>>()
        };
        let (ours, theirs) = (("tcx ingress", "vswitch_tc".to_owned()), ("tcx ingress", "somebodys_tc".to_owned()));
        let attached = || names(lab.host.inside(|| attached_programs("up0")).unwrap());
        assert_eq!(attached(), [ours, theirs.clone()]);
        drop(wire);
        lab.host.inside(|| drop(attachment));
        assert_eq!(attached(), [theirs]);
        drop(link);
        assert_eq!(attached(), []);
    }
    for at in [Where::XdpNative, Where::XdpGeneric] {
        let program = foreign::load(at, "somebodys_xdp", 2).unwrap();
        let link = lab.host.inside(|| foreign::attach(&program, at, index)).unwrap();
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let mut classifier = Lab::classifier();
            let mut uplink = lab.host.inside(|| classifier.reserve_xdp("up0", 1)).unwrap();
            let error = lab.host.inside(|| classifier.attach_xdp(&mut uplink, mode)).unwrap_err();
            assert!(matches!(&error, ClassifierError::Foreign { programs, .. } if programs.len() == 1), "{error}");
            let text = error.to_string();
            assert!(text.contains("interface up0") && text.contains("somebodys_xdp (id "), "{text}");
            assert!(!uplink.is_attached());
        }
        let attached = lab.host.inside(|| attached_programs("up0")).unwrap();
        assert_eq!(attached.iter().map(|program| &*program.name).collect::<Vec<_>>(), ["somebodys_xdp"]);
        drop(link);
    }
}

#[test]
fn xdp_passes_the_hosts_packets_and_keeps_ours_from_it() {
    if !can_run("xdp_passes_the_hosts_packets_and_keeps_ours_from_it") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let mut classifier = Lab::classifier();
        publish(&mut classifier);
        let mut uplink = lab.host.inside(|| classifier.reserve_xdp("up0", 1)).unwrap();
        lab.host.inside(|| classifier.attach_xdp(&mut uplink, mode)).unwrap();
        for (host, peer) in [(HOST4, PEER4), (HOST6, PEER6)] {
            stream(&lab.peer, &lab.host, host, SSH, 1 << 20);
            lab.host.exec(&["ping", "-q", "-c", "2", "-i", "0.05", "-W", "2", peer]);
            // There is no socket for them, and the host must not refuse what is not its own.
            let outside = lab.peer.inside(|| UdpSocket::bind((ip(peer), 0)).unwrap());
            outside.connect((ip(host), PORT)).unwrap();
            outside.send(b"for the switch").unwrap();
            outside.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            assert_eq!(outside.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        assert_eq!(counted(&classifier, Counter::Published), 2);
        assert_eq!(counted(&classifier, Counter::NoSocket), 2);
        drop(uplink);
        lab.assert_untouched(&before);
        let mut again = lab.host.inside(|| classifier.reserve_xdp("up0", 4096)).unwrap();
        assert!(lab.host.inside(|| classifier.reserve_xdp("carry", 1)).is_err(), "all places are taken");
        lab.host.inside(|| classifier.attach_xdp(&mut again, mode)).unwrap();
    }
}

#[test]
fn what_cannot_be_attached_is_refused_and_leaves_nothing() {
    if !can_run("what_cannot_be_attached_is_refused_and_leaves_nothing") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    let mut classifier = Lab::classifier();
    let error = lab.host.inside(|| classifier.attach_tc("up0", "nothing", TcHook::Tcx)).unwrap_err().to_string();
    assert_eq!(error, "cannot find interface nothing: there is none of that name");
    assert!(lab.host.inside(|| classifier.reserve_xdp("up1", 1)).is_err());
    assert!(lab.host.inside(|| attached_programs("up1")).is_err());
    let mut loopback = lab.host.inside(|| classifier.reserve_xdp("lo", 1)).unwrap();
    let error = lab.host.inside(|| classifier.attach_xdp(&mut loopback, XdpMode::Native)).unwrap_err().to_string();
    assert!(error.starts_with("cannot attach the program vswitch_xdp to interface lo (xdp native): "), "{error}");
    lab.assert_untouched(&before);
}

#[test]
fn filters_left_on_an_old_hook_are_recognized_and_removed() {
    if !can_run("filters_left_on_an_old_hook_are_recognized_and_removed") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    let leave = |classifier: &mut Classifier| {
        let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::Clsact)).unwrap();
        // As after `kill -9`.
        std::mem::forget(attachment);
    };
    let clean = || ["up0", "carry"].map(|name| lab.host.inside(|| remove_leftovers(name)).unwrap());
    leave(&mut Lab::classifier());
    assert_eq!(lab.host.inside(|| attached_programs("up0")).unwrap()[0].hook, "clsact ingress");
    assert_eq!(clean(), [1, 1]);
    assert_eq!(clean(), [0, 0]);
    lab.assert_untouched(&before);

    // Twice is not one too many, and somebody else's filter keeps its hook.
    leave(&mut Lab::classifier());
    let theirs =
        ["filter", "add", "dev", "up0", "ingress", "prio", "7", "bpf", "bytecode", "1,6 0 0 0,", "classid", "1:1"];
    lab.host.exec(&[&["tc"][..], &theirs].concat());
    let mut classifier = Lab::classifier();
    let attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::Clsact)).unwrap();
    let hooks = lab.host.inside(|| attached_programs("up0")).unwrap();
    assert_eq!(hooks.iter().filter(|program| program.name == "vswitch_tc").count(), 1, "{hooks:?}");
    assert_eq!(hooks.len(), 2, "{hooks:?}");
    lab.host.inside(|| drop(attachment));
    let filters = lab.host.exec(&["tc", "filter", "show", "dev", "up0", "ingress"]);
    assert!(filters.contains("bytecode") && !filters.contains("vswitch"), "{filters}");
    assert_eq!(clean(), [0, 0]);
}

/// The other half of the next test: attaches everything in the namespace that it was started in, and waits to be killed.
#[test]
#[ignore = "started by after_a_kill_nothing_is_left"]
fn a_process_to_be_killed() {
    let mut classifier = Classifier::load().unwrap();
    let _attachment = classifier.attach_tc("up0", "carry", TcHook::Tcx).unwrap();
    let mut uplink = classifier.reserve_xdp("up0", 1).unwrap();
    classifier.attach_xdp(&mut uplink, XdpMode::Native).unwrap();
    println!("attached");
    std::thread::sleep(Duration::from_secs(30));
}

#[test]
fn after_a_kill_nothing_is_left() {
    if !can_run("after_a_kill_nothing_is_left") {
        return;
    }
    let lab = Lab::new();
    let before = lab.host_state();
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.host.name])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let attached = || lab.host.inside(|| attached_programs("up0")).unwrap().len();
    let wait_for = |count| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while attached() != count {
            assert!(Instant::now() < deadline, "{} programs instead of {count}", attached());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for(2);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(0);
    lab.assert_untouched(&before);
}
