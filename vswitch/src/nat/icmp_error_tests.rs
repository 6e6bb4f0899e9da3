use proptest::prelude::*;

use super::super::test_packets::{Body, Recipe, address, recipe, rewrite};
use super::*;
use crate::frame::checksum;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An error of `kind` from `source` to `destination` that quotes what is in `quoted`.
fn error(kind: u8, source: IpAddr, destination: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (message_bytes, mut data) = ((8 + quoted.len()) as u16, vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
    let mut message = [&[kind, 1, 0, 0, 0, 0, 5, 0xdc], quoted].concat();
    let pseudo = if source.is_ipv6() {
        data.extend([0x86, 0xdd, 0x60, 0, 0, 0, (message_bytes >> 8) as u8, message_bytes as u8, 58, 61]);
        data.extend(octets(source));
        data.extend(octets(destination));
        pseudo_header(&data[22..54], 58, message.len())
    } else {
        let total_bytes = 20 + message_bytes;
        data.extend([8, 0, 0x45, 0xc0, (total_bytes >> 8) as u8, total_bytes as u8, 0, 5, 0, 0, 61, 1, 0, 0]);
        data.extend(octets(source));
        data.extend(octets(destination));
        let sum = checksum::of(&data[14..34]);
        data[24..26].copy_from_slice(&sum.to_be_bytes());
        0
    };
    let sum = !fold(pseudo + sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    data.extend(message);
    data
}

/// The tuple of an error.
fn outer(is_v6: bool, source: IpAddr, destination: IpAddr) -> Tuple {
    let protocol = if is_v6 { protocol::ICMPV6 } else { protocol::ICMP };
    Tuple { protocol, source, source_port: 0, destination, destination_port: 0 }
}

fn kind(is_v6: bool) -> u8 {
    if is_v6 { icmpv6::UNREACHABLE } else { icmp::UNREACHABLE }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn as_though_it_were_about_what_was_sent(
        (mut recipe, translated) in recipe(),
        quoted_bytes in 0..300_usize,
        routers in any::<bool>().prop_flat_map(|_| (address(false), address(true))),
        extension in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        (recipe.tags, recipe.is_partial) = (0, false);
        let sent = recipe.make();
        let seen = Recipe { tuple: translated, ..recipe.clone() }.make();
        let router = if sent.is_v6 { routers.1 } else { routers.0 };
        let headers_bytes = sent.transport - sent.network;
        let quote = |packet: &[u8]| {
            // Not in the middle of a checksum, of which no half could be put right.
            let bytes = (quoted_bytes & !3).max(headers_bytes + 8).min(packet.len());
            // Extensions are behind a whole quotation only.
            let rest = if bytes == packet.len() { &extension[..] } else { &[] };
            [&packet[..bytes], rest].concat()
        };
        let mut data = error(kind(sent.is_v6), router, translated.source, &quote(&seen.data[seen.network..]));
        let packet = Packet::parse(&data, data.len()).unwrap();
        if sent.data.len() - sent.transport < 8 {
            prop_assert_eq!(IcmpError::parse(&data, &packet, &Csum::Unknown), Err(DropReason::Untranslatable));
            return Ok(());
        }
        let parsed = IcmpError::parse(&data, &packet, &Csum::Unknown).unwrap();
        prop_assert_eq!(parsed.tuple, translated);
        let (back, to) = (rewrite(&translated, &recipe.tuple), outer(sent.is_v6, router, recipe.tuple.source));
        prop_assert!(parsed.apply(
            &mut data, &packet, &Csum::Unknown, &back, &rewrite(&packet.tuple, &to), Hops::Keep,
        ));
        let expected = error(kind(sent.is_v6), router, recipe.tuple.source, &quote(&sent.data[sent.network..]));
        prop_assert_eq!(data, expected);
    }

    #[test]
    fn any_quotation_gives_an_error_within_the_frame_or_a_reason(
        (recipe, translated) in recipe(),
        bytes in 0..120_usize,
        changes in prop::collection::vec((0..120_usize, any::<u8>()), 0..4),
    ) {
        let made = recipe.make();
        let mut quoted = made.data[made.network..][..bytes.min(made.data.len() - made.network)].to_vec();
        for (at, byte) in changes {
            if let Some(old) = quoted.get_mut(at) {
                *old = byte;
            }
        }
        let mut data = error(kind(made.is_v6), recipe.tuple.destination, recipe.tuple.source, &quoted);
        let before = data.clone();
        let packet = Packet::parse(&data, data.len()).unwrap();
        if let Ok(parsed) = IcmpError::parse(&data, &packet, &Csum::Unknown) {
            let there = Rewrite::new(&parsed.tuple, &Tuple { protocol: parsed.tuple.protocol, ..translated }).unwrap();
            let back = Rewrite::new(&Tuple { protocol: parsed.tuple.protocol, ..translated }, &parsed.tuple).unwrap();
            let keep = rewrite(&packet.tuple, &packet.tuple);
            for step in [there, back] {
                prop_assert!(parsed.apply(&mut data, &packet, &Csum::Unknown, &step, &keep, Hops::Keep));
                let (start, whole) = (usize::from(packet.transport), &data[usize::from(packet.transport)..]);
                prop_assert!(start > 0 && is_checksum_right(&data, whole, &packet));
            }
            prop_assert_eq!(data.len(), before.len());
        }
    }
}

#[test]
fn what_has_no_tuple_is_refused() {
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let tuple = Body::Udp.tuple(ip("203.0.113.9"), ip("198.51.100.7"), [1000, 53]);
    let parse = |change: Change<'_>| {
        let mut quoted = Recipe::plain(Body::Udp, tuple, &[0; 100]).make().data[14..].to_vec();
        change(&mut quoted);
        quoted[10..12].fill(0);
        let sum = checksum::of(&quoted[..20]);
        quoted[10..12].copy_from_slice(&sum.to_be_bytes());
        let data = error(3, ip("198.51.100.1"), ip("203.0.113.9"), &quoted);
        IcmpError::parse(&data, &Packet::parse(&data, data.len()).unwrap(), &Csum::Unknown).map(|error| error.tuple)
    };
    assert_eq!(parse(&|_| ()), Ok(tuple));
    assert_eq!(parse(&|quoted| quoted.truncate(28)), Ok(tuple));
    assert_eq!(parse(&|quoted| quoted[6] = 0x20), Ok(tuple), "a first fragment");
    let refused: [(&str, Change<'_>); 5] = [
        ("a later fragment", &|quoted| quoted[7] = 1),
        ("seven bytes", &|quoted| quoted.truncate(27)),
        ("an error", &|quoted| (quoted[9], quoted[20]) = (1, 3)),
        ("a redirect", &|quoted| (quoted[9], quoted[20]) = (1, 5)),
        ("another family", &|quoted| quoted[0] = 0x65),
    ];
    for (what, change) in refused {
        assert_eq!(parse(change), Err(DropReason::Untranslatable), "{what}");
    }
    // What is no error at all.
    let echo = Body::EchoRequest.tuple(ip("203.0.113.9"), ip("198.51.100.7"), [1000, 0]);
    let data = Recipe::plain(Body::EchoRequest, echo, &[0; 100]).make().data;
    let packet = Packet::parse(&data, data.len()).unwrap();
    assert_eq!(IcmpError::parse(&data, &packet, &Csum::Unknown), Err(DropReason::Untranslatable));
}

/// RFC 5508, REQ-3 and REQ-3 a.
#[test]
fn wrong_checksums_are_refused() {
    let tuple = Body::Udp.tuple(ip("203.0.113.9"), ip("198.51.100.7"), [1000, 53]);
    let mut quoted = Recipe::plain(Body::Udp, tuple, &[0; 100]).make().data[14..].to_vec();
    let parse = |data: &[u8], csum: Csum| IcmpError::parse(data, &Packet::parse(data, data.len()).unwrap(), &csum);
    let mut data = error(3, ip("198.51.100.1"), ip("203.0.113.9"), &quoted);
    *data.last_mut().unwrap() ^= 1;
    assert_eq!(parse(&data, Csum::Unknown), Err(DropReason::Malformed));
    assert!(parse(&data, Csum::Valid).is_ok(), "somebody trusted says so");
    quoted[8] ^= 1;
    let data = error(3, ip("198.51.100.1"), ip("203.0.113.9"), &quoted);
    assert_eq!(parse(&data, Csum::Unknown), Err(DropReason::Malformed));
}
