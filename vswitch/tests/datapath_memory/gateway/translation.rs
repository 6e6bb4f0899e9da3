//! Out into the world and back.

use std::net::SocketAddr;

use vswitch::frame::{Csum, DropReason, Gso, GsoKind, Offload};
use vswitch::io::mem::MemFrame;

use super::packets::{self, ACK, SYN, Seen, at, ip};
use super::*;

/// The external endpoint of what A sends from `from` to `to`.
fn external(lab: &mut Lab, from: &str, to: &str) -> SocketAddr {
    lab.receive(A, packets::udp(to_gateway(2), at(from), at(to), b"out"));
    let out = one(lab, UPLINK);
    assert_eq!((out.destination(), out.hops), (at(to), 63));
    out.source()
}

#[test]
fn what_leaves_has_the_hosts_address_and_the_answer_finds_its_way() {
    for (inside, outside, host) in
        [("10.0.0.2:5000", "198.51.100.9:53", "192.0.2.1"), ("[fd00::2]:5000", "[2001:db8:9::9]:53", "2001:db8::1")]
    {
        let mut lab = lab();
        let source = external(&mut lab, inside, outside);
        assert_eq!(source.ip(), ip(host));
        assert_eq!(external(&mut lab, inside, outside), source, "from the cache");
        for round in 0..3 {
            lab.receive(UPLINK, packets::udp(NOWHERE, at(outside), source, b"back"));
            let back = one(&lab, A);
            assert_eq!((back.source(), back.destination()), (at(outside), at(inside)), "round {round}");
            assert_eq!((back.macs, back.hops), ((mac(2), GATEWAY), 63));
        }
        let worker = lab.datapath.worker_counters();
        assert!(worker.cache_hits >= 3, "{worker:?}");
        nothing(&lab);
    }
}

#[test]
fn the_mapping_is_the_same_for_all_and_open_to_whom_it_was_used_with() {
    let mut lab = lab();
    let source = external(&mut lab, "10.0.0.2:5000", "198.51.100.9:53");
    assert_eq!(external(&mut lab, "10.0.0.2:5000", "203.0.113.7:99"), source);
    assert_eq!(source.port() % 2, 0, "parity");
    // Another port of somebody who was sent to may answer; a stranger may not.
    lab.receive(UPLINK, packets::udp(NOWHERE, at("203.0.113.7:1000"), source, b"in"));
    assert_eq!(one(&lab, A).destination(), at("10.0.0.2:5000"));
    lab.receive(UPLINK, packets::udp(NOWHERE, at("203.0.113.8:99"), source, b"in"));
    nothing(&lab);
    assert_eq!(dropped(&lab, UPLINK), [DropReason::Filtered]);
}

#[test]
fn echoes_and_errors_are_translated() {
    for (inside, outside, router, error) in [
        ("10.0.0.2", "198.51.100.9", "198.51.100.254", (3, 1)),
        ("fd00::2", "2001:db8:9::9", "2001:db8:9::254", (1, 3)),
    ] {
        let mut lab = lab();
        lab.receive(A, packets::echo(to_gateway(2), (ip(inside), ip(outside)), true, 77));
        let frames = lab.sent_bytes(UPLINK);
        let out = Seen::of(&frames[0]);
        let id = u16::from_be_bytes([out.payload[4], out.payload[5]]);
        lab.receive(UPLINK, packets::echo(NOWHERE, (ip(outside), out.from), false, id));
        let reply = one(&lab, A);
        assert_eq!((reply.to, &reply.payload[4..6]), (ip(inside), &77u16.to_be_bytes()[..]));
        // A router on the way says that there is no such host.
        lab.receive(UPLINK, packets::error(NOWHERE, (ip(router), out.from), error, [0; 4], &frames[0]));
        let told = one(&lab, A);
        assert_eq!((told.from, told.to), (ip(router), ip(inside)));
        let quoted = &told.payload[8..];
        let (source, identifier) = if ip(inside).is_ipv4() { (12..16, 24..26) } else { (8..24, 44..46) };
        let own: Vec<u8> = match ip(inside) {
            std::net::IpAddr::V4(own) => own.octets().to_vec(),
            std::net::IpAddr::V6(own) => own.octets().to_vec(),
        };
        assert_eq!(quoted[source], own);
        assert_eq!(quoted[identifier], 77u16.to_be_bytes());
        // About a connection that nobody has.
        let strange = packets::echo(NOWHERE, (out.from, ip(outside)), true, id ^ 1);
        lab.receive(UPLINK, packets::error(NOWHERE, (ip(router), out.from), error, [0; 4], &strange));
        nothing(&lab);
    }
}

#[test]
fn a_super_frame_leaves_whole_and_only_its_pseudo_header_changes() {
    let mut lab = lab();
    let (from, to) = (at("10.0.0.2:5000"), at("198.51.100.9:80"));
    for (flags, in_port, frame) in [
        (SYN, A, packets::tcp(to_gateway(2), from, to, SYN, b"")),
        (ACK, A, packets::tcp(to_gateway(2), from, to, ACK, b"")),
    ] {
        lab.receive(in_port, frame);
        if flags == SYN {
            let syn = one(&lab, UPLINK);
            lab.receive(UPLINK, packets::tcp(NOWHERE, to, syn.source(), SYN | ACK, b""));
            one(&lab, A);
        } else {
            one(&lab, UPLINK);
        }
    }
    let mut bytes = packets::tcp(to_gateway(2), from, to, ACK, &[0x55; 20_000]);
    let pseudo = vswitch::frame::checksum::fold(vswitch::frame::checksum::pseudo_header(&bytes[26..34], 6, 20_020));
    bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
    let gso = Gso { kind: GsoKind::Tcp4, size: 1460, ecn: false };
    let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(gso) };
    for _ in 0..2 {
        lab.receive(A, MemFrame { bytes: bytes.clone(), offload });
        let sent = lab.sent(UPLINK);
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].bytes.len(), sent[0].offload), (bytes.len(), offload));
        let addresses = &sent[0].bytes[26..34];
        let pseudo = vswitch::frame::checksum::fold(vswitch::frame::checksum::pseudo_header(addresses, 6, 20_020));
        assert_eq!(sent[0].bytes[50..52], pseudo.to_be_bytes());
    }
}

#[test]
fn what_does_not_fit_is_told_by_the_gateway_in_the_senders_words() {
    let mut lab = lab_with(|topology| topology.port(UPLINK).mtu = 1400);
    let frame = packets::udp(to_gateway(2), at("10.0.0.2:5000"), at("198.51.100.9:53"), &[0x33; 1450]);
    lab.receive(A, frame.clone());
    let told = one(&lab, A);
    assert_eq!((told.from, told.to), (ip("10.0.0.1"), ip("10.0.0.2")));
    assert_eq!((told.payload[0], told.payload[1], &told.payload[6..8]), (3, 4, &1400u16.to_be_bytes()[..]));
    assert_eq!(told.payload[20..28], frame[26..34], "the addresses that it was sent with");
    assert_eq!(dropped(&lab, A), [DropReason::TooBig]);
    nothing(&lab);
}

/// The first `at` bytes of a UDP packet's payload, and the rest, as fragments.
fn fragments(frame: &[u8], at: usize) -> [Vec<u8>; 2] {
    let part = |range: std::ops::Range<usize>, more: bool| {
        let payload = &frame[34..][range.clone()];
        let mut out = frame[..34].to_vec();
        out[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        let field = (range.start / 8) as u16 | if more { 0x2000 } else { 0 };
        out[20..22].copy_from_slice(&field.to_be_bytes());
        out[24..26].fill(0);
        let sum = vswitch::frame::checksum::of(&out[14..34]);
        out[24..26].copy_from_slice(&sum.to_be_bytes());
        out.extend(payload);
        out
    };
    [part(0..at, true), part(at..frame.len() - 34, false)]
}

#[test]
fn fragments_follow_their_first_one_also_when_they_overtake_it() {
    let frame = packets::udp(to_gateway(2), at("10.0.0.2:5000"), at("198.51.100.9:53"), &[0x33; 1000]);
    let [first, second] = fragments(&frame, 504);
    for (order, held) in [([&first, &second], false), ([&second, &first], true)] {
        let mut lab = lab();
        lab.receive(A, order[0].clone());
        assert_eq!(lab.sent(UPLINK).len(), usize::from(!held));
        lab.receive(A, order[1].clone());
        let sent = lab.sent_bytes(UPLINK);
        assert_eq!(sent.len(), if held { 2 } else { 1 });
        for frame in &sent {
            assert_eq!(Seen::of(frame).from, ip("192.0.2.1"));
        }
    }
    // One that overlaps is not let through.
    let mut lab = lab();
    lab.receive(A, first);
    let [_, overlapping] = fragments(&frame, 496);
    lab.receive(A, overlapping);
    assert_eq!(lab.sent(UPLINK).len(), 1);
    assert_eq!(dropped(&lab, A), [DropReason::FragmentOverlap]);
}

#[test]
fn a_connection_that_nobody_knows_is_not_let_in() {
    let mut lab = lab();
    lab.receive(UPLINK, packets::tcp(NOWHERE, at("198.51.100.9:80"), at("192.0.2.1:40000"), ACK, b"data"));
    lab.receive(UPLINK, packets::udp(NOWHERE, at("198.51.100.9:80"), at("192.0.2.1:40000"), b"data"));
    nothing(&lab);
    assert_eq!(dropped(&lab, UPLINK), [DropReason::NotPublished]);
}

#[test]
fn that_there_is_no_way_out_is_said_only_when_it_is_certain() {
    for is_settled in [false, true] {
        let mut lab = lab_with(|topology| {
            topology.routing.outside.clear();
            topology.routing.is_settled = is_settled;
        });
        lab.receive(A, packets::udp(to_gateway(2), at("10.0.0.2:5000"), at("198.51.100.9:53"), b"question"));
        assert_eq!(dropped(&lab, A), [DropReason::NoRoute]);
        if is_settled {
            assert_eq!(one(&lab, A).payload[..2], [3, 0]);
        }
        nothing(&lab);
    }
}
