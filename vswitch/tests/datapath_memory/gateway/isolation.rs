//! Bridges are separate networks, and a container is itself.

use vswitch::frame::DropReason;

use super::packets::{self, SYN, at, ip};
use super::*;

#[test]
fn another_bridges_container_is_not_there() {
    let mut lab = lab();
    for (frame, code) in [
        (packets::tcp(to_gateway(2), at("10.0.0.2:3000"), at("10.1.0.2:80"), SYN, b""), (3, 13)),
        (packets::tcp(to_gateway(2), at("[fd00::2]:3000"), at("[fd01::2]:80"), SYN, b""), (1, 1)),
    ] {
        lab.receive(A, frame);
        let told = one(&lab, A);
        assert_eq!((told.payload[0], told.payload[1]), code, "prohibited");
        nothing(&lab);
    }
    assert_eq!(dropped(&lab, A), [DropReason::OtherNetwork]);
}

#[test]
fn an_internal_network_has_no_outside() {
    let mut lab = lab_with(|topology| super::change_gateway(topology, 0, |gateway| gateway.internal = true));
    for to in ["198.51.100.9:80", "192.0.2.1:8080", "192.0.2.1:22"] {
        lab.receive(A, packets::tcp(to_gateway(2), at("10.0.0.2:3000"), at(to), SYN, b""));
        let told = one(&lab, A);
        assert_eq!((told.payload[0], told.payload[1]), (3, 13));
        nothing(&lab);
    }
    // The gateway is on the bridge.
    lab.receive(A, packets::tcp(to_gateway(2), at("10.0.0.2:3000"), at("10.0.0.1:53"), SYN, b""));
    assert_eq!(one(&lab, HOST).source(), at("10.0.0.2:3000"));
}

#[test]
fn addresses_of_nobody_are_not_routed() {
    let mut lab = lab();
    for to in ["127.0.0.1:80", "0.0.0.1:80", "240.0.0.1:80", "224.0.0.1:80"] {
        lab.receive(A, packets::tcp(to_gateway(2), at("10.0.0.2:3000"), at(to), SYN, b""));
    }
    nothing(&lab);
    assert_eq!(dropped(&lab, A), [DropReason::Martian]);
    lab.receive(A, packets::tcp(to_gateway(2), at("10.0.0.2:3000"), at("169.254.169.254:80"), SYN, b""));
    assert_eq!(one(&lab, A).payload[..2], [3, 13]);
}

#[test]
fn a_container_that_speaks_as_another_is_not_heard() {
    let mut lab = lab();
    lab.receive(A, packets::udp(to_gateway(2), at("10.0.0.3:5000"), at("198.51.100.9:53"), b"as B"));
    lab.receive(A, packets::udp((mac(3), mac(2)), at("10.0.0.1:5000"), at("10.0.0.3:53"), b"as the gateway"));
    nothing(&lab);
    assert_eq!(dropped(&lab, A), [DropReason::SpoofedAddress]);
    lab.receive(B, packets::udp(to_gateway(2), at("10.0.0.2:5000"), at("198.51.100.9:53"), b"as A"));
    nothing(&lab);
    assert_eq!(dropped(&lab, B), [DropReason::SpoofedMac]);
}

#[test]
fn the_host_forwards_nothing_into_a_bridge() {
    let mut lab = lab();
    lab.receive(HOST, packets::tcp((mac(2), GATEWAY), at("198.51.100.9:3000"), at("10.0.0.2:80"), SYN, b""));
    assert_eq!(dropped(&lab, HOST), [DropReason::NotPublished]);
    nothing(&lab);
    lab.receive(HOST, packets::tcp((mac(2), GATEWAY), at("10.0.0.1:3000"), at("10.0.0.2:80"), SYN, b""));
    assert_eq!(lab.sent_bytes(A).len() + lab.sent_bytes(B).len(), 2, "flooded, as A was not heard yet");
}

#[test]
fn a_station_that_was_not_configured_is_asked_for() {
    let mut lab = lab();
    let question = packets::udp(to_gateway(2), at("10.0.0.2:5000"), at("10.0.0.99:53"), b"to a stranger");
    lab.receive(A, question.clone());
    assert_eq!(dropped(&lab, A), [DropReason::NoNeighbour]);
    let asked = lab.sent_bytes(B);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0][..14], [&[0xff; 6][..], &GATEWAY, &[8, 6]].concat());
    assert_eq!(asked[0][38..42], [10, 0, 0, 99]);
    let _ = lab.sent_counts();
    lab.configure(|topology| topology.port(B).guard = None);
    let answer =
        [&GATEWAY[..], &mac(9), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac(9), &[10, 0, 0, 99], &GATEWAY, &[10, 0, 0, 1]]
            .concat();
    lab.receive(B, answer);
    let _ = lab.sent_counts();
    lab.receive(A, question);
    let delivered = one(&lab, B);
    assert_eq!((delivered.macs, delivered.to), ((mac(9), GATEWAY), ip("10.0.0.99")));
}
