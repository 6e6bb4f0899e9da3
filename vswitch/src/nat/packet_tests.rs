use proptest::prelude::*;

use super::super::test_packets::{Body, Recipe, recipe};
use super::*;
use crate::frame::checksum;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn parse(frame: &[u8]) -> Result<Packet, DropReason> {
    Packet::parse(frame, frame.len())
}

/// 172.18.0.2:1000 -> 198.51.100.7:80 with a payload of 100 bytes.
fn v4(body: Body, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let tuple = body.tuple(ip("172.18.0.2"), ip("198.51.100.7"), [1000, 80]);
    let mut made = Recipe::plain(body, tuple, &[0xaa; 100]).make();
    change(&mut made.data[14..]);
    let header_bytes = usize::from(made.data[14] & 0xf) * 4;
    let header = &mut made.data[14..14 + header_bytes];
    header[10..12].fill(0);
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    made.data
}

fn v6(body: Body, extensions: &[u8], first: u8) -> Vec<u8> {
    let tuple = body.tuple(ip("fd00::2"), ip("2001:db8::7"), [1000, 80]);
    let mut data = Recipe::plain(body, tuple, &[0xaa; 100]).make().data;
    data.splice(54..54, extensions.iter().copied());
    data[20] = first;
    let bytes = (data.len() - 54) as u16;
    data[18..20].copy_from_slice(&bytes.to_be_bytes());
    data
}

proptest! {
    #[test]
    fn what_was_put_in_is_found((recipe, _) in recipe()) {
        let made = recipe.make();
        let packet = parse(&made.data).unwrap();
        prop_assert_eq!(packet.tuple, recipe.tuple);
        prop_assert_eq!((packet.is_v6, packet.hops), (made.is_v6, recipe.hops));
        prop_assert_eq!((packet.network, packet.transport), (made.network as u16, made.transport as u16));
        prop_assert_eq!(packet.end as usize, made.data.len());
        prop_assert_eq!(packet.fragment, Fragment::None);
        prop_assert_eq!(packet.protocol, recipe.body.protocol(made.is_v6));
        // Padding is no part of the packet, and a scattered frame's payload need not be there.
        let mut padded = made.data.clone();
        padded.extend([0; 10]);
        prop_assert_eq!(parse(&padded), Ok(packet));
        if matches!(recipe.body, Body::Tcp | Body::Udp) {
            let head = &made.data[..made.transport + 20.min(made.data.len() - made.transport)];
            prop_assert_eq!(Packet::parse(head, made.data.len()), Ok(packet));
        }
        // Headers that are not whole are not looked at.
        for cut in 0..made.data.len() {
            prop_assert!(parse(&made.data[..cut]).is_err());
        }
    }

    #[test]
    fn any_bytes_give_a_packet_within_them_or_a_reason(
        mut data in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0..3,
    ) {
        if let (Some(header), true) = (data.get_mut(12..16), kind < 2) {
            header[..3].copy_from_slice(if kind == 0 { &[8, 0, 0x45] } else { &[0x86, 0xdd, 0x60] });
        }
        if let Ok(packet) = parse(&data) {
            prop_assert!(packet.network < packet.transport);
            prop_assert!(u32::from(packet.transport) <= packet.end && packet.end as usize <= data.len());
        }
    }
}

#[test]
fn tcp_says_what_conntrack_needs() {
    let packet = parse(&v4(Body::Tcp, |p| p[33] = 0x12)).unwrap();
    let Upper::Tcp { flags, sequence, acknowledgement, window, header_bytes, payload_bytes } = packet.upper else {
        panic!("{packet:?}")
    };
    assert_eq!(flags, Flags::SYN.with(Flags::ACK));
    assert_eq!((sequence, acknowledgement, window, header_bytes, payload_bytes), (1, 2, 256, 20, 100));
    let packet = parse(&v4(Body::Sctp, |_| ())).unwrap();
    assert_eq!(packet.upper, Upper::Sctp { tag: 0x0102_0304, chunk: 0, chunk_flags: 3 });
}

#[test]
fn fragments_are_told_apart() {
    let udp = |high: u8, low: u8| {
        move |p: &mut [u8]| {
            p[2..4].copy_from_slice(&124_u16.to_be_bytes()); // a multiple of eight behind the header
            (p[6], p[7]) = (high, low);
        }
    };
    let packet = parse(&v4(Body::Udp, udp(0x20, 0))).unwrap();
    assert_eq!(packet.fragment, Fragment::First { id: 0xabcd, payload_bytes: 104 });
    assert_eq!((packet.tuple.source_port, packet.upper), (1000, Upper::Udp));
    let packet = parse(&v4(Body::Udp, udp(0x20, 185))).unwrap();
    let later = Fragment::Later { id: 0xabcd, offset_bytes: 1480, payload_bytes: 104, more: true };
    assert_eq!((packet.fragment, packet.upper), (later, Upper::Other));
    assert_eq!((packet.tuple.source_port, packet.tuple.destination_port), (0, 0));
    let packet = parse(&v4(Body::Udp, |p| p[7] = 185)).unwrap();
    assert!(matches!(packet.fragment, Fragment::Later { payload_bytes: 108, more: false, .. }));

    let header = |offset: u16, more: u16| {
        let [high, low] = (offset | more).to_be_bytes();
        [17, 0, high, low, 0, 0, 0, 9]
    };
    // 108 bytes of UDP: not a multiple of eight, so the last one.
    let packet = parse(&v6(Body::Udp, &header(1448, 0), 44)).unwrap();
    let later = Fragment::Later { id: 9, offset_bytes: 1448, payload_bytes: 108, more: false };
    assert_eq!((packet.fragment, packet.protocol), (later, 17));
    assert_eq!(parse(&v6(Body::Udp, &header(1448, 1), 44)), Err(DropReason::Malformed));
    // An atomic fragment is a whole packet (RFC 6946).
    let packet = parse(&v6(Body::Udp, &header(0, 0), 44)).unwrap();
    assert_eq!((packet.fragment, packet.tuple.source_port), (Fragment::None, 1000));
}

#[test]
fn fragments_that_make_no_packet_are_refused() {
    for (what, frame) in [
        ("not a multiple of eight", v4(Body::Udp, |p| p[6] = 0x20)),
        ("beyond the longest packet", v4(Body::Udp, |p| (p[6], p[7]) = (0x1f, 0xff))),
        ("nothing", v4(Body::Udp, |p| (p[3], p[7]) = (20, 1))),
        ("tiny", v4(Body::Tcp, |p| (p[3], p[6]) = (36, 0x20))),
        ("two fragment headers", v6(Body::Udp, &[44, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 1, 0, 0, 0, 9], 44)),
    ] {
        assert_eq!(parse(&frame), Err(DropReason::Malformed), "{what}");
    }
}

#[test]
fn icmp_is_told_apart() {
    let icmp = |kind: u8, code: u8| parse(&v4(Body::EchoRequest, |p| (p[20], p[21]) = (kind, code))).unwrap();
    assert_eq!((icmp(8, 0).upper, icmp(8, 0).tuple.source_port), (Upper::EchoRequest, 1000));
    assert_eq!((icmp(0, 0).upper, icmp(0, 0).tuple.destination_port), (Upper::EchoReply, 1000));
    for kind in [3, 11, 12] {
        assert_eq!(icmp(kind, 1).upper, Upper::IcmpError);
        assert_eq!(icmp(kind, 1).tuple.source_port, 0);
    }
    for (kind, code) in [(4, 0), (5, 1), (8, 1), (0, 1), (13, 0), (255, 0)] {
        assert_eq!(icmp(kind, code).upper, Upper::OtherIcmp);
    }
    let icmpv6 = |kind: u8| {
        let mut frame = v6(Body::EchoRequest, &[], 58);
        frame[54] = kind;
        parse(&frame).unwrap().upper
    };
    assert_eq!((icmpv6(128), icmpv6(129)), (Upper::EchoRequest, Upper::EchoReply));
    for kind in 1..=4 {
        assert_eq!(icmpv6(kind), Upper::IcmpError);
    }
    for kind in [0, 5, 127, 130, 133, 134, 135, 136, 137, 143] {
        assert_eq!(icmpv6(kind), Upper::OtherIcmp);
    }
    // Each in its own family.
    assert_eq!(parse(&v4(Body::Gre, |p| p[9] = 58)).unwrap().upper, Upper::Other);
    assert_eq!(parse(&v6(Body::Gre, &[], 1)).unwrap().upper, Upper::Other);
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (what, frame) in [
        ("a header length below 20", v4(Body::Udp, |p| p[0] = 0x44)),
        ("a total length below the header's", v4(Body::Udp, |p| p[3] = 19)),
        ("a total length beyond the frame", v4(Body::Udp, |p| p[3] += 1)),
        ("a version", v4(Body::Udp, |p| p[0] = 0x55)),
        ("a data offset below 20", v4(Body::Tcp, |p| p[32] = 0x40)),
        ("a data offset beyond the segment", v4(Body::Tcp, |p| (p[3], p[32]) = (56, 0xa0))),
        ("a UDP length below 8", v4(Body::Udp, |p| (p[24], p[25]) = (0, 7))),
        ("a UDP length beyond the packet", v4(Body::Udp, |p| p[25] += 1)),
        ("SCTP without a chunk", v4(Body::Sctp, |p| p[3] = 32)),
        ("an echo that is not whole", v4(Body::EchoRequest, |p| p[3] = 27)),
        ("an option of length zero", v4(Body::Udp, |p| (p[0], p[20], p[21]) = (0x46, 7, 0))),
        ("an option beyond the header", v4(Body::Udp, |p| (p[0], p[20], p[21]) = (0x46, 7, 5))),
    ] {
        assert_eq!(parse(&frame), Err(DropReason::Malformed), "{what}");
    }
    let mut frame = v4(Body::Udp, |_| ());
    frame[14 + 8] -= 1;
    assert_eq!(parse(&frame), Err(DropReason::Malformed), "a header checksum");
    assert_eq!(parse(&frame[..13]), Err(DropReason::Runt));
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(parse(&arp), Err(DropReason::Untranslatable));
}

#[test]
fn source_routes_are_refused() {
    for kind in [131, 137] {
        let frame = v4(Body::Udp, |p| {
            p[0] = 0x47;
            p[20..28].copy_from_slice(&[1, kind, 7, 4, 10, 0, 0, 1]);
        });
        assert_eq!(parse(&frame), Err(DropReason::Untranslatable));
    }
    let routing = |left: u8| [17, 2, 0, left, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(parse(&v6(Body::Udp, &routing(1), 43)), Err(DropReason::Untranslatable));
    assert_eq!(parse(&v6(Body::Udp, &routing(0), 43)).unwrap().tuple.source_port, 1000, "it has arrived");
}

#[test]
fn a_super_frame_is_as_long_as_it_says() {
    let tuple = Body::Tcp.tuple(ip("172.18.0.2"), ip("198.51.100.7"), [1000, 80]);
    let frame = Recipe::plain(Body::Tcp, tuple, &vec![0; 65_535 - 40]).make().data;
    let packet = parse(&frame).unwrap();
    assert_eq!((packet.packet_bytes(), packet.transport_bytes()), (65_535, 65_515));
    assert_eq!(Packet::parse(&frame[..54], frame.len()), Ok(packet), "scattered");
}
