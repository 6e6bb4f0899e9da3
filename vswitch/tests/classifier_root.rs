//! The classifier on a real interface, in namespaces. Needs root.

// What these tests do not use of the laboratory, others do.
#[allow(dead_code)]
#[path = "tap_root/lab.rs"]
mod lab;
mod namespaces;

#[path = "classifier/cost.rs"]
mod cost;
#[path = "classifier/foreign.rs"]
mod foreign;
#[path = "classifier/layer2.rs"]
mod layer2;
#[path = "classifier/life.rs"]
mod life;
#[path = "classifier/loopback.rs"]
mod loopback;
#[path = "classifier/rear.rs"]
mod rear;
#[path = "classifier/uplink.rs"]
mod uplink;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use lab::{Namespace, can_run};
use namespaces::PATIENCE;
use uplink::{HOST4, HOST6, Lab, PEER4, PEER6, datagram, send};
use vswitch::bpf::{Classifier, Counter, Flow, Protocol, TcHook, XdpMode};

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
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
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
        let socket = client.inside(|| TcpStream::connect_timeout(&(ip(to), port).into(), PATIENCE));
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
    let limit = PATIENCE;
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
fn what_is_not_ip_is_not_carried() {
    if !can_run("what_is_not_ip_is_not_carried") {
        return;
    }
    let lab = Lab::new();
    let mut classifier = Lab::classifier();
    let _attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::of_kernel())).unwrap();
    send(&lab.carry, &[&[0xff; 6][..], &[2, 0, 0, 0, 9, 9], &[8, 6], &[0; 46]].concat());
    assert_eq!((counted(&classifier, Counter::NotIp), counted(&classifier, Counter::Carried)), (1, 0));
    send(&lab.carry, &layer2::udp_frame(&[]));
    assert_eq!((counted(&classifier, Counter::NotIp), counted(&classifier, Counter::Carried)), (1, 1));
}
