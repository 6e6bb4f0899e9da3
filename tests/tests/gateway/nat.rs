//! Translation as RFC 4787 and its sisters ask: mappings, filtering, ports, hairpins, limits; what the tables say.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vswitch_tests::Lab;
use vswitch_tests::contact::{Protocol, Server, hear, is_silent, udp};
use vswitch_tests::frame::{parse_mac, unpadded};
use vswitch_tests::lab::{address, assert_reaches, must};
use vswitch_tests::outside::{far, far_second, host, near, near_second};
use vswitch_tests::packet::{Header, IPV4, Seen, protocol};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;

use super::{finish, gateway, lab_with};

/// Whom `near` and `far` see when container `role` sends from `port`.
#[track_caller]
fn external(lab: &Lab, role: &str, ipv6: bool, port: u16) -> SocketAddr {
    let socket = must(udp(lab.container(role), ipv6, port));
    let server = must(udp(lab.far(), ipv6, 0));
    must(socket.send_to(b"who", SocketAddr::new(far(ipv6), must(server.local_addr()).port())).map(drop));
    must(hear(&server)).1
}

#[test]
fn one_endpoint_has_one_mapping_for_all_destinations() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    for ipv6 in [false, true] {
        let servers = [
            (must(udp(lab.near(), ipv6, 5000)), near(ipv6)),
            (must(udp(lab.near(), ipv6, 5001)), near_second(ipv6)),
            (must(udp(lab.far(), ipv6, 5000)), far(ipv6)),
            (must(udp(lab.far(), ipv6, 5002)), far_second(ipv6)),
        ];
        let socket = must(udp(lab.container("a"), ipv6, 0));
        let mut seen = BTreeSet::new();
        for (server, ip) in &servers {
            must(socket.send_to(b"x", SocketAddr::new(*ip, must(server.local_addr()).port())).map(drop));
            seen.insert(must(hear(server)).1);
        }
        assert_eq!(seen.len(), 1, "RFC 4787 REQ-1: {seen:?}");
        assert_eq!(seen.first().map(SocketAddr::ip), Some(host(ipv6)));
    }
    finish(lab);
}

#[test]
fn one_endpoint_of_tcp_too() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let outside = must(PacketSocket::open(lab.near(), "eth0"));
    let (to, from) = (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&ports[0].mac));
    let mut seen = BTreeSet::new();
    for target in [near(false), near_second(false), far(false)] {
        let syn = Header::new(address(&ports[0], false), target).tcp(40_001, 80, 1, 0, 2);
        must(inside.send(&unpadded(to, from, IPV4, &syn)));
        let frame = must(outside.recv_first(|frame| {
            Seen::parse(frame).is_some_and(|seen| seen.protocol == protocol::TCP && seen.destination == target)
        }));
        seen.insert(Seen::parse(&frame).expect("a packet").endpoints().0);
    }
    assert_eq!(seen.len(), 1, "RFC 5382 REQ-1: {seen:?}");
    finish(lab);
}

#[test]
fn who_was_talked_to_may_answer_from_any_port_and_nobody_else() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    for ipv6 in [false, true] {
        let socket = must(udp(lab.container("a"), ipv6, 0));
        let server = must(udp(lab.near(), ipv6, 0));
        must(socket.send_to(b"x", SocketAddr::new(near(ipv6), must(server.local_addr()).port())).map(drop));
        let mapped = must(hear(&server)).1;
        // Another port of the same address.
        let other_port = must(udp(lab.near(), ipv6, 0));
        must(other_port.send_to(b"another port", mapped).map(drop));
        assert_eq!(must(hear(&socket)).0, b"another port");
        // Another address, which was never sent to.
        let before = lab.dropped("filtered");
        let stranger = must(udp(lab.far(), ipv6, 0));
        must(stranger.send_to(b"stranger", mapped).map(drop));
        assert!(is_silent(&socket), "RFC 4787 REQ-8: a stranger came in");
        lab.await_dropped("filtered", before);
        // Once it was sent to, it may.
        must(socket.send_to(b"x", SocketAddr::new(far(ipv6), must(stranger.local_addr()).port())).map(drop));
        assert_eq!(must(hear(&stranger)).1, mapped);
        must(stranger.send_to(b"a friend", mapped).map(drop));
        assert_eq!(must(hear(&socket)).0, b"a friend");
    }
    finish(lab);
}

#[test]
fn ports_keep_their_parity_and_their_range_and_are_nobody_elses() {
    let Some((lab, _)) = lab_with(&["a", "b"]) else { return };
    for ipv6 in [false, true] {
        let mut taken = BTreeSet::new();
        for role in ["a", "b"] {
            for port in [500, 501, 1023, 1024, 4000, 4001, 40_000, 65_535] {
                let seen = external(&lab, role, ipv6, port);
                assert_eq!(seen.port() % 2, port % 2, "RFC 4787 REQ-4, parity: {port} became {}", seen.port());
                assert_eq!(seen.port() < 1024, port < 1024, "REQ-3, range: {port} became {}", seen.port());
                assert!(taken.insert(seen.port()), "REQ-3, two containers share {}", seen.port());
                let range = 32_768..61_000;
                assert!(!range.contains(&seen.port()), "{} is the kernel's to choose", seen.port());
            }
        }
    }
    finish(lab);
}

#[test]
fn the_hosts_own_sockets_keep_their_ports() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    // The host's program has exactly the port that the container would be given if it were kept.
    let sockets: Vec<_> = (3000..3100).map(|port| must(udp(lab.host(), false, port))).collect();
    for port in 3000..3100 {
        let seen = external(&lab, "a", false, port);
        assert!(!(3000..3100).contains(&seen.port()), "{} is a program's of the host", seen.port());
    }
    // And what comes for it comes to it.
    let friend = must(udp(lab.far(), false, 0));
    must(friend.send_to(b"to the host", SocketAddr::new(host(false), 3050)).map(drop));
    assert_eq!(must(hear(&sockets[50])).0, b"to the host");
    finish(lab);
}

#[test]
fn the_hosts_own_conversations_stay_its_own() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    for ipv6 in [false, true] {
        for protocol in Protocol::ALL {
            let server = must(Server::any(protocol, lab.far(), ipv6, 0));
            let target = SocketAddr::new(far(ipv6), must(server.address()).port());
            for _ in 0..20 {
                assert_eq!(must(server.meet(lab.host(), target)).ip(), host(ipv6));
                assert_eq!(must(server.meet(lab.container("a"), target)).ip(), host(ipv6));
            }
        }
        assert_reaches(lab.host(), far(ipv6));
        assert_reaches(lab.far(), host(ipv6));
    }
    finish(lab);
}

#[test]
fn hairpins_have_the_external_source() {
    let Some((lab, _)) = lab_with(&["a", "b"]) else { return };
    for ipv6 in [false, true] {
        let server = must(udp(lab.far(), ipv6, 0));
        let rendezvous = SocketAddr::new(far(ipv6), must(server.local_addr()).port());
        let (a, b) = (must(udp(lab.container("a"), ipv6, 0)), must(udp(lab.container("b"), ipv6, 0)));
        let seen = |socket: &std::net::UdpSocket| {
            must(socket.send_to(b"who", rendezvous).map(drop));
            must(hear(&server)).1
        };
        let (external_a, external_b) = (seen(&a), seen(&b));
        // Each opens its filter to the other's external address by sending there; the first packet of all is filtered.
        must(a.send_to(b"too early", external_b).map(drop));
        assert!(is_silent(&b));
        must(b.send_to(b"from b", external_a).map(drop));
        assert_eq!(must(hear(&a)), (b"from b".to_vec(), external_b), "RFC 4787 REQ-9: the external source");
        must(a.send_to(b"from a", external_b).map(drop));
        assert_eq!(must(hear(&b)), (b"from a".to_vec(), external_a), "RFC 4787 REQ-9: the external source");
    }
    finish(lab);
}

#[test]
fn echoes_are_told_apart_by_their_identifier() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    // Two containers with the same identifier, at the same time, to the same destination.
    let mac = parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC"));
    let sockets: Vec<PacketSocket> =
        ["a", "b"].iter().map(|role| must(PacketSocket::open(lab.container(role), "eth0"))).collect();
    for (at, socket) in sockets.iter().enumerate() {
        let echo = Header::new(address(&ports[at], false), far(false)).echo(77, at as u16);
        must(socket.send(&unpadded(mac, parse_mac(&ports[at].mac), IPV4, &echo)));
    }
    for (at, socket) in sockets.iter().enumerate() {
        let replies = must(socket.recv_expected(1, Duration::from_millis(400), |frame| {
            Seen::parse(frame).is_some_and(|seen| seen.icmp() == Some((0, 0)))
        }));
        assert_eq!(replies.len(), 1, "container {at}");
        let reply = Seen::parse(&replies[0]).expect("a packet");
        assert_eq!(reply.payload[4..8], [0, 77, 0, at as u8], "its own identifier and number");
        assert_eq!(reply.source, far(false));
    }
    finish(lab);
}

#[test]
fn an_unsolicited_syn_is_not_answered_at_once() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    // RFC 5382 REQ-4: for six seconds nothing is said to a SYN for a mapping whose container may be about to send its
    // own (simultaneous open).
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let outside = must(PacketSocket::open(lab.near(), "eth0"));
    let (gateway_mac, own) = (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&ports[0].mac));
    let syn = Header::new(address(&ports[0], false), near(false)).tcp(40_001, 80, 1, 0, 2);
    must(inside.send(&unpadded(gateway_mac, own, IPV4, &syn)));
    let frame = must(outside.recv_first(|frame| Seen::parse(frame).is_some_and(|seen| seen.protocol == protocol::TCP)));
    let mapped = Seen::parse(&frame).expect("a packet").endpoints().0;
    let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
    let answers = |limit| {
        must(outside.recv_all(limit, |frame| {
            Seen::parse(frame).is_some_and(|seen| {
                let reset = seen.protocol == protocol::TCP && seen.payload[13] & 4 != 0 && seen.endpoints().0 == mapped;
                reset || seen.icmp().is_some_and(|(kind, _)| kind == 3)
            })
        }))
        .len()
    };
    // From an address that the container has never sent to.
    let unsolicited = Header::new(far(false), mapped.ip()).tcp(81, mapped.port(), 1, 0, 2);
    must(outside.send(&unpadded(to, from, IPV4, &unsolicited)));
    assert_eq!(answers(Duration::from_secs(5)), 0, "too early");
    finish(lab);
}

#[test]
fn simultaneous_open_succeeds() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let outside = must(PacketSocket::open(lab.near(), "eth0"));
    let (gateway_mac, own) = (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&ports[0].mac));
    let container = address(&ports[0], false);
    let send_out = |flags, sequence, acknowledgement| {
        let segment = Header::new(container, near(false)).tcp(40_002, 81, sequence, acknowledgement, flags);
        must(inside.send(&unpadded(gateway_mac, own, IPV4, &segment)));
    };
    let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
    let heard = |socket: &PacketSocket, flags: u8| {
        let frame = socket.recv_first(|frame| {
            Seen::parse(frame).is_some_and(|seen| seen.protocol == protocol::TCP && seen.payload[13] == flags)
        });
        frame.ok().and_then(|frame| Seen::parse(&frame)).unwrap_or_else(|| panic!("no segment with flags {flags:#x}"))
    };
    // Crossing SYNs, then both acknowledge with SYN and ACK (RFC 9293 figure 8).
    send_out(2, 100, 0);
    let mapped = heard(&outside, 2).endpoints().0;
    let send_in = |flags, sequence, acknowledgement| {
        let segment = Header::new(near(false), mapped.ip()).tcp(81, mapped.port(), sequence, acknowledgement, flags);
        must(outside.send(&unpadded(to, from, IPV4, &segment)));
    };
    send_in(2, 300, 0);
    heard(&inside, 2);
    send_out(0x12, 100, 301);
    heard(&outside, 0x12);
    send_in(0x12, 300, 101);
    heard(&inside, 0x12);
    send_out(0x10, 101, 301);
    heard(&outside, 0x10);
    finish(lab);
}

#[test]
fn the_table_shows_connections_and_is_flushed() {
    let Some((mut lab, ports)) = lab_with(&["a"]) else { return };
    lab.add_bridge("br1", super::DUAL_SECOND);
    lab.attach("br1", "b", "");
    let server = must(Server::any(Protocol::Tcp, lab.far(), false, 8000));
    let target = SocketAddr::new(far(false), 8000);
    let seen = must(server.meet(lab.container("a"), target));
    external(&lab, "b", true, 4000);
    let text = lab.ctl(&["conntrack", "br0"]);
    let line = text.lines().find(|line| line.contains(":8000")).unwrap_or_else(|| panic!("{text}"));
    for word in ["tcp", &address(&ports[0], false).to_string(), &target.to_string(), &seen.to_string()] {
        assert!(line.contains(word), "no {word} in: {line}");
    }
    let list = lab.ctl_json(&["conntrack", "br0"]);
    let entries = list.as_array().expect("a list");
    assert!(entries.iter().any(|entry| entry.to_string().contains(&seen.port().to_string())), "{list}");
    assert!(!text.contains("10.2.0.") && !text.contains("fd00:2::"), "another bridge's: {text}");
    let all = lab.ctl(&["conntrack"]);
    assert!(all.contains("fd00:2::") && all.contains(":8000"), "{all}");
    lab.ctl(&["conntrack-flush", "br0"]);
    assert!(!lab.ctl(&["conntrack"]).contains(":8000"));
    assert!(lab.ctl(&["conntrack"]).contains("fd00:2::"), "another bridge's stay");
    lab.ctl(&["conntrack-flush"]);
    assert_eq!(lab.ctl_json(&["conntrack"]), serde_json::json!([]));
    // Everything can begin again.
    must(server.meet(lab.container("a"), target));
    finish(lab);
}

/// Lets container `role` send frames, not faster than the switch takes them; `until` says when it is enough.
fn send_slowly(lab: &Lab, role: &str, frames: impl Iterator<Item = Vec<u8>>, until: impl Fn() -> bool) -> bool {
    /// Frames on their way: fewer than any queue holds.
    const WINDOW: u64 = 512;
    let socket = must(PacketSocket::open_sender(lab.container(role), "eth0"));
    let taken = || {
        let stats = lab.port_stats("br0", role);
        stats.total.rx_frames + stats.kernel_tx_dropped.unwrap_or(0)
    };
    let (before, mut offered) = (taken(), 0);
    let mut burst = Vec::new();
    for (number, frame) in frames.enumerate() {
        burst.push(frame);
        if burst.len() == 64 {
            let mut sent = 0;
            while sent < burst.len() {
                // The queue is full: what was not taken is sent again.
                sent += socket.send_burst(&burst[sent..]).unwrap_or(0);
            }
            offered += burst.len() as u64;
            burst.clear();
            if offered % WINDOW == 0 {
                let caught_up = || (taken() + WINDOW >= before + offered).then_some(());
                must(wait_until("the switch to take what was sent", PATIENCE, caught_up));
            }
        }
        if number % 4096 == 0 && until() {
            return true;
        }
    }
    wait_until("enough", PATIENCE, || until().then_some(())).is_ok()
}

#[test]
fn exhaustion_is_said_and_counted() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    let to = parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC"));
    // What the kernel does not choose from for the host's own programs is 36,000 ports, of which a container may have
    // 28,672: the first one is at its limit, the second one finds none left.
    for (at, (role, reason)) in [("a", "connection-limit"), ("b", "nat-ports-exhausted")].into_iter().enumerate() {
        let header = Header::new(address(&ports[at], false), far(false));
        let from = parse_mac(&ports[at].mac);
        let before = lab.dropped(reason);
        let frames = (2000..64_000).map(|port| unpadded(to, from, IPV4, &header.udp(port, 9999, b"one more")));
        let exhausted = send_slowly(&lab, role, frames, || lab.dropped(reason) > before);
        assert!(exhausted, "{role}: {:?}", lab.stats().drops);
        let inside = must(PacketSocket::open(lab.container(role), "eth0"));
        for port in 1024..1200 {
            must(inside.send(&unpadded(to, from, IPV4, &header.udp(port, 9999, b"one more"))));
        }
        let error =
            must(inside.recv_first(|frame| Seen::parse(frame).is_some_and(|seen| seen.icmp() == Some((3, 13)))));
        let error = Seen::parse(&error).expect("a packet");
        assert_eq!(error.source, gateway(&lab, "br0", false), "RFC 5508 REQ-8");
        assert!(error.is_whole());
        // Other protocols have ports of their own, and so has the other family.
        assert_reaches(lab.container(role), far(false));
        for (protocol, ipv6) in [(Protocol::Tcp, false), (Protocol::Udp, true)] {
            let server = must(Server::any(protocol, lab.far(), ipv6, 0));
            let target = SocketAddr::new(far(ipv6), must(server.address()).port());
            must(server.meet(lab.container(role), target).map(drop));
        }
    }
    finish(lab);
}

#[test]
fn one_container_cannot_have_all_connections() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    let (to, from) = (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&ports[0].mac));
    // One endpoint, so that ports are not what runs out first, to very many destinations.
    let frames = (0..200_000_u32).map(|number| {
        let [_, b, c, d] = number.to_be_bytes();
        let header = Header::new(address(&ports[0], false), IpAddr::from([100, 64 | b, c, d]));
        unpadded(to, from, IPV4, &header.udp(5000, 53, b"?"))
    });
    let limited = send_slowly(&lab, "a", frames, || lab.dropped("connection-limit") > 0);
    assert!(limited, "{:?}", lab.stats().drops);
    // The other one does not notice.
    for protocol in Protocol::ALL {
        let server = must(Server::any(protocol, lab.far(), false, 0));
        must(server.meet(lab.container("b"), SocketAddr::new(far(false), must(server.address()).port())));
    }
    finish(lab);
}

#[test]
fn the_middle_of_an_unknown_connection_is_dropped() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000"]);
    let outside = must(PacketSocket::open(lab.near(), "eth0"));
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
    let before = lab.dropped("no-connection");
    // ACK, RST, FIN and ACK, SYN and FIN, nothing at all.
    for flags in [0x10, 4, 0x11, 3, 0] {
        let segment = Header::new(near(false), host(false)).tcp(999, 7000, 1, 1, flags);
        must(outside.send(&unpadded(to, from, IPV4, &segment)));
    }
    let arrived = must(inside.recv_all(Duration::from_millis(400), |frame| {
        Seen::parse(frame).is_some_and(|seen| seen.destination == address(&ports[0], false) && seen.protocol == 6)
    }));
    assert_eq!(arrived.len(), 0, "{arrived:?}");
    lab.await_dropped("no-connection", before);
    finish(lab);
}
