//! Published ports: who reaches them, and as whom.

use std::net::SocketAddr;

use vswitch::frame::DropReason;

use super::packets::{self, ACK, SYN, at, ip};
use super::*;

/// A connection from a client on `from`, whose frames have `macs`, to `to`; what the server at A sees as the client,
/// and what the client sees of the answer.
fn connect(lab: &mut Lab, from: PortId, macs: ([u8; 6], [u8; 6]), client: &str, to: &str) -> SocketAddr {
    lab.receive(from, packets::tcp(macs, at(client), at(to), SYN, b""));
    let syn = one(lab, A);
    assert_eq!(syn.destination().port(), 80);
    assert_eq!(syn.macs, (mac(2), GATEWAY));
    // The server answers the address that it saw: a neighbour directly, others through the gateway.
    let neighbour = syn.source().ip() == ip("10.0.0.3");
    let to_client = (if neighbour { mac(3) } else { GATEWAY }, mac(2));
    for (flags, data) in [(SYN | ACK, &b""[..]), (ACK, b"hello"), (ACK, b"again")] {
        lab.receive(A, packets::tcp(to_client, syn.destination(), syn.source(), flags, data));
        let answer = one(lab, from);
        assert_eq!((answer.source(), answer.destination()), (at(to), at(client)), "flags {flags:02x}");
        lab.receive(from, packets::tcp(macs, at(client), at(to), ACK, b""));
        assert_eq!(one(lab, A).source(), syn.source());
        nothing(lab);
    }
    syn.source()
}

#[test]
fn a_server_sees_its_clients_addresses() {
    let mut lab = lab();
    // From another machine; from the host by one of its own addresses; from a neighbour; from another bridge.
    for (from, macs, client, to) in [
        (UPLINK, NOWHERE, "198.51.100.9:3000", "192.0.2.1:8080"),
        (UPLINK, NOWHERE, "[2001:db8:9::9]:3000", "[2001:db8::1]:8080"),
        (LOOPBACK, NOWHERE, "192.0.2.1:3000", "192.0.2.1:8080"),
        (B, to_gateway(3), "10.0.0.3:3000", "192.0.2.1:8080"),
        (B, to_gateway(3), "10.0.0.3:3001", "10.0.0.1:8080"),
        (C, (OTHER_GATEWAY, mac(4)), "10.1.0.2:3000", "192.0.2.1:8080"),
    ] {
        assert_eq!(connect(&mut lab, from, macs, client, to), at(client), "{client} to {to}");
    }
}

#[test]
fn the_gateway_stands_in_for_loopback_and_for_the_container_itself() {
    let mut lab = lab();
    for (to, client) in [("127.0.0.1:8080", "127.0.0.1:3000"), ("127.0.0.1:8082", "127.0.0.1:3001")] {
        assert_eq!(connect(&mut lab, LOOPBACK, NOWHERE, client, to).ip(), ip("10.0.0.1"));
    }
    assert_eq!(connect(&mut lab, LOOPBACK, NOWHERE, "[::1]:3000", "[::1]:8080").ip(), ip("fd00::1"));
    // The container itself.
    lab.receive(A, packets::udp(to_gateway(2), at("10.0.0.2:3000"), at("192.0.2.1:8080"), b"me"));
    let seen = one(&lab, A);
    assert_eq!((seen.from, seen.destination()), (ip("10.0.0.1"), at("10.0.0.2:80")));
    lab.receive(A, packets::udp(to_gateway(2), at("10.0.0.2:80"), seen.source(), b"myself"));
    let answer = one(&lab, A);
    assert_eq!((answer.source(), answer.destination()), (at("192.0.2.1:8080"), at("10.0.0.2:3000")));
}

#[test]
fn only_what_is_published_is_reachable_and_only_by_whom_it_is_for() {
    let mut lab = lab();
    for (client, to, reason) in [
        ("198.51.100.9:3000", "192.0.2.1:8081", DropReason::NotAllowed),
        // For the loopback address alone; the container's own port; the container itself.
        ("198.51.100.9:3000", "192.0.2.1:8082", DropReason::NotPublished),
        ("198.51.100.9:3000", "192.0.2.1:80", DropReason::NotPublished),
        ("198.51.100.9:3000", "10.0.0.2:80", DropReason::NotPublished),
        ("198.51.100.9:3000", "127.0.0.1:8080", DropReason::Martian),
        ("127.0.0.1:3000", "192.0.2.1:8080", DropReason::Martian),
    ] {
        let before = lab.counters(UPLINK).drops[reason as usize];
        lab.receive(UPLINK, packets::tcp(NOWHERE, at(client), at(to), SYN, b""));
        assert_eq!(lab.counters(UPLINK).drops[reason as usize], before + 1, "{client} to {to}");
        nothing(&lab);
    }
    assert_eq!(connect(&mut lab, UPLINK, NOWHERE, "203.0.113.9:3000", "192.0.2.1:8081"), at("203.0.113.9:3000"));
}

#[test]
fn without_icc_a_neighbour_reaches_what_is_published_and_nothing_else() {
    let mut lab = lab_with(|topology| topology.bridges[0].icc = false);
    lab.receive(B, packets::tcp(to_gateway(3), at("10.0.0.3:3000"), at("10.0.0.2:80"), SYN, b""));
    assert_eq!(dropped(&lab, B), [DropReason::Isolated]);
    let _ = lab.sent_counts();
    assert_eq!(connect(&mut lab, B, to_gateway(3), "10.0.0.3:3000", "192.0.2.1:8080").ip(), ip("10.0.0.1"));
}

#[test]
fn routed_networks_are_reached_directly_where_they_are_published() {
    let mut lab = lab_with(|topology| super::change_gateway(topology, 0, |gateway| gateway.masquerade = false));
    assert_eq!(connect(&mut lab, UPLINK, NOWHERE, "198.51.100.9:3000", "10.0.0.2:80"), at("198.51.100.9:3000"));
    lab.receive(UPLINK, packets::tcp(NOWHERE, at("198.51.100.9:3000"), at("10.0.0.2:81"), SYN, b""));
    assert_eq!(dropped(&lab, UPLINK), [DropReason::NotPublished]);
    // What the container starts keeps its address.
    lab.receive(A, packets::udp(to_gateway(2), at("10.0.0.2:5000"), at("198.51.100.9:53"), b"out"));
    assert_eq!(one(&lab, UPLINK).source(), at("10.0.0.2:5000"));
    lab.receive(UPLINK, packets::udp(NOWHERE, at("198.51.100.9:53"), at("10.0.0.2:5000"), b"in"));
    assert_eq!(one(&lab, A).destination(), at("10.0.0.2:5000"));
}
