//! ICMP errors: those of the world outside reach the container that caused them, those of the gateway their sender.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use vswitch_tests::contact::{Protocol, Server, udp, unspecified};
use vswitch_tests::frame::{parse_mac, unpadded};
use vswitch_tests::lab::{address, must};
use vswitch_tests::namespace::Namespace;
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::packet::{Header, IPV4, IPV6, Seen};
use vswitch_tests::process::PATIENCE;
use vswitch_tests::raw::PacketSocket;

use super::{finish, gateway, lab_with};

/// What a connected UDP socket of `from` hears of `target`: the error that came back.
fn told(from: &Namespace, target: SocketAddr) -> Option<i32> {
    let socket = must(from.enter(|| UdpSocket::bind(SocketAddr::new(unspecified(target.is_ipv6()), 0))));
    must(socket.connect(target));
    must(socket.set_read_timeout(Some(PATIENCE)));
    must(socket.send(b"hello").map(drop));
    socket.recv(&mut [0; 8]).err().and_then(|error| error.raw_os_error())
}

/// What ping of `from` says of `target`, in lower case.
fn pinged(from: &Namespace, target: &str) -> String {
    let output = must(from.command("ping").args(["-n", "-c", "1", "-W", "10", target]).output());
    String::from_utf8_lossy(&output.stdout).to_lowercase()
}

#[test]
fn errors_from_outside_reach_the_container() {
    const REFUSED: i32 = 111;
    let Some((lab, _)) = lab_with(&["a", "b"]) else { return };
    for (route, networks) in [
        ("unreachable", ["203.0.114.0/24", "2001:db8:114::/64"]),
        ("prohibit", ["203.0.115.0/24", "2001:db8:115::/64"]),
    ] {
        for network in networks {
            must(lab.near().ip(&format!("route add {route} {network}")));
        }
    }
    for role in ["a", "b"] {
        let container = lab.container(role);
        for ipv6 in [false, true] {
            for target in [near(ipv6), far(ipv6)] {
                assert_eq!(told(container, SocketAddr::new(target, 9)), Some(REFUSED), "nobody has port 9 of {target}");
                let refused = container.enter(|| TcpStream::connect(SocketAddr::new(target, 9)));
                assert_eq!(refused.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
            }
        }
        // Those of a router on the way, which the error is not about.
        for (target, words) in [
            ("203.0.114.1", &["destination host unreachable"][..]),
            ("203.0.115.1", &["packet filtered", "prohibited"]),
            ("2001:db8:114::1", &["unreachable", "no route"]),
            ("2001:db8:115::1", &["prohibited"]),
        ] {
            let text = pinged(container, target);
            let router = near(target.contains(':')).to_string();
            let says = words.iter().any(|word| text.contains(word)) && text.contains(&format!("from {router}"));
            assert!(says, "{target}: {text}");
        }
    }
    finish(lab);
}

#[test]
fn an_error_ends_no_mapping() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    // One socket: to somebody who is not there, and then to somebody who is.
    let socket = must(udp(lab.container("a"), false, 0));
    let server = must(udp(lab.far(), false, 0));
    let target = SocketAddr::new(far(false), must(server.local_addr()).port());
    must(socket.send_to(b"1", target).map(drop));
    let (_, first) = must(vswitch_tests::contact::hear(&server));
    must(socket.send_to(b"2", SocketAddr::new(far(false), 9)).map(drop));
    std::thread::sleep(Duration::from_millis(300));
    must(server.send_to(b"back", first).map(drop));
    assert_eq!(must(vswitch_tests::contact::hear(&socket)).0, b"back");
    must(socket.send_to(b"3", target).map(drop));
    assert_eq!(must(vswitch_tests::contact::hear(&server)).1, first, "the same mapping");
    finish(lab);
}

#[test]
fn a_published_ports_errors_reach_the_client() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    // Published, but nobody listens in the container: its refusal comes from the address that was asked.
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp", "7000:7000/tcp"]);
    for ipv6 in [false, true] {
        let target = SocketAddr::new(host(ipv6), 7000);
        for client in [lab.near(), lab.far(), lab.container("a"), lab.host()] {
            assert_eq!(told(client, target), Some(111), "{} asks {target}", client.name());
            let refused = client.enter(|| TcpStream::connect_timeout(&target, PATIENCE));
            assert_eq!(refused.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused, "{}", client.name());
        }
    }
    finish(lab);
}

#[test]
fn the_embedded_packet_is_the_one_that_was_sent() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let (to, from) = (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&ports[0].mac));
    for ipv6 in [false, true] {
        let header = Header::new(address(&ports[0], ipv6), far(ipv6));
        let packet = header.udp(4321, 9, b"is anybody there");
        must(inside.send(&unpadded(to, from, if ipv6 { IPV6 } else { IPV4 }, &packet)));
        let wanted = if ipv6 { (1, 4) } else { (3, 3) };
        let errors = must(inside.recv_expected(1, Duration::from_millis(500), |frame| {
            Seen::parse(frame).is_some_and(|seen| seen.icmp() == Some(wanted))
        }));
        assert_eq!(errors.len(), 1);
        let error = Seen::parse(&errors[0]).expect("a packet");
        assert_eq!((error.source, error.destination), (far(ipv6), address(&ports[0], ipv6)));
        assert!(error.is_whole(), "its checksum");
        // All of it but what the hops have counted down, in IPv4 with its checksum.
        let embedded = &error.payload[8..];
        let same = if ipv6 { 8..packet.len() } else { 12..packet.len() };
        assert_eq!(
            embedded[same.clone()],
            packet[same],
            "IPv6 {ipv6}: addresses, ports and checksum as they were sent"
        );
        if !ipv6 {
            assert_eq!(vswitch::frame::checksum::of(&embedded[..20]), 0, "the embedded header's checksum");
        }
    }
    finish(lab);
}

#[test]
fn the_gateway_says_what_it_cannot_reach() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.expect_changes("host");
    for ipv6 in [false, true] {
        must(lab.host().ip(&format!("-{} route del default", if ipv6 { 6 } else { 4 })));
        let mut ping = lab.container("a").command("ping");
        // The switch hears of it a moment later.
        ping.args(["-n", "-c", "6", "-i", "0.5", "-W", "2", &far(ipv6).to_string()]);
        let text = String::from_utf8_lossy(&must(ping.output()).stdout).into_owned();
        let gateway = gateway(&lab, "br0", ipv6);
        assert!(text.to_lowercase().contains(&format!("from {gateway}")), "{text}");
        let word = if ipv6 { "no route" } else { "net unreachable" };
        assert!(text.to_lowercase().contains(word), "{text}");
    }
    finish(lab);
}

#[test]
fn errors_are_limited_and_never_answer_errors() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let (to, from) = (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&ports[0].mac));
    let own = address(&ports[0], false);
    let exceeded = |frame: &[u8]| Seen::parse(frame).is_some_and(|seen| seen.icmp() == Some((11, 0)));
    // RFC 1122 section 3.2.2: nothing is said of errors, of other fragments than the first, of broadcasts.
    let header = Header::new(own, far(false)).ttl(1);
    let error = header.icmp(3, 1, [0; 4], &Header::new(far(false), own).udp(1, 2, b"12345678"));
    let later = vswitch_tests::packet::fragments(&header.udp(1, 2, &[0; 64]), 32).remove(1);
    for packet in [error, later] {
        must(inside.send(&unpadded(to, from, IPV4, &packet)));
    }
    assert_eq!(must(inside.recv_all(Duration::from_millis(400), exceeded)).len(), 0);
    // A flood gets some answers, and not as many as it has packets (RFC 1812 section 4.3.2.8).
    let frame = unpadded(to, from, IPV4, &header.udp(1, 2, b"flood"));
    for _ in 0..40 {
        must(inside.send_burst(&vec![&frame; 50]).map(drop));
    }
    let answers = must(inside.recv_expected(1, Duration::from_millis(400), exceeded)).len();
    assert!((1..1000).contains(&answers), "{answers} answers to 2000 packets");
    finish(lab);
}

#[test]
fn an_error_of_somebody_elses_reaches_nobody() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    let server = must(Server::any(Protocol::Udp, lab.far(), false, 0));
    let target = SocketAddr::new(far(false), must(server.address()).port());
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let seen = must(server.meet(lab.container("a"), target));
    let outside = must(PacketSocket::open(lab.near(), "eth0"));
    let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
    // About a packet that nobody sent: another destination than any that the container has talked to.
    let never = Header::new(host(false), IpAddr::from([203, 0, 113, 77])).udp(seen.port(), 5, b"12345678");
    let forged = Header::new(near(false), host(false)).icmp(3, 1, [0; 4], &never);
    must(outside.send(&unpadded(to, from, IPV4, &forged)));
    // And one about the connection, from a router on its way: that one is real.
    let sent = Header::new(host(false), far(false)).udp(seen.port(), target.port(), b"question");
    let real = Header::new(near(false), host(false)).icmp(3, 1, [0; 4], &sent);
    must(outside.send(&unpadded(to, from, IPV4, &real)));
    // The forged one was sent first: nothing of it comes once the other one is there.
    let errors = must(inside.recv_expected(1, Duration::from_millis(500), |frame| {
        Seen::parse(frame).is_some_and(|seen| seen.icmp() == Some((3, 1)))
    }));
    assert_eq!(errors.len(), 1, "{errors:?}");
    let error = Seen::parse(&errors[0]).expect("a packet");
    assert_eq!((error.source, error.destination), (near(false), address(&ports[0], false)));
    finish(lab);
}
