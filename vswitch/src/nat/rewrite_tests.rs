use proptest::prelude::*;

use super::super::test_packets::{Body, Made, Recipe, recipe, rewrite};
use super::*;
use crate::frame::fragment::Fragmenter;
use crate::frame::{Csum, checksum};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn apply(made: &mut Made, from: &Tuple, to: &Tuple, hops: Hops) -> bool {
    let packet = Packet::parse(&made.data, made.data.len()).expect("it is a packet");
    assert_eq!(packet.tuple, *from);
    let csum = made.csum();
    rewrite(from, to).apply(&mut made.data, &packet, &csum, hops)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 4096 } else { 1_000_000 }))]

    #[test]
    fn as_though_everything_were_computed_anew((recipe, to) in recipe()) {
        let (mut made, hops) = (recipe.make(), recipe.hops);
        prop_assert!(apply(&mut made, &recipe.tuple, &to, Hops::Decrement));
        let expected = Recipe { tuple: to, hops: hops - 1, ..recipe }.make();
        prop_assert_eq!(made, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn translated_back_is_as_it_was((recipe, to) in recipe()) {
        let before = recipe.make();
        let mut made = before.clone();
        prop_assert!(apply(&mut made, &recipe.tuple, &to, Hops::Keep));
        prop_assert!(apply(&mut made, &to, &recipe.tuple, Hops::Keep));
        prop_assert_eq!(made, before);
    }

    /// Whatever a checksum is, right or wrong or in an odd form.
    #[test]
    fn to_itself_changes_nothing((recipe, _) in recipe(), field in any::<[u8; 2]>()) {
        let mut before = recipe.make();
        if let Some(at) = match recipe.body { Body::Tcp => Some(16), Body::Udp => Some(6), _ => None } {
            before.data[before.transport + at..][..2].copy_from_slice(&field);
        }
        let mut made = before.clone();
        prop_assert!(apply(&mut made, &recipe.tuple, &recipe.tuple, Hops::Keep));
        prop_assert_eq!(made, before);
    }

    /// Damage on the way to us must be seen by the receiver.
    #[test]
    fn what_is_wrong_stays_wrong((mut recipe, to) in recipe(), damage in 1..=255_u8) {
        if matches!(recipe.body, Body::Gre | Body::UdpWithout) {
            return Ok(());
        }
        recipe.is_partial = false;
        recipe.payload.push(0);
        let mut made = recipe.make();
        *made.data.last_mut().unwrap() ^= damage;
        prop_assert!(apply(&mut made, &recipe.tuple, &to, Hops::Keep));
        let mut resealed = made.clone();
        resealed.seal();
        prop_assert_ne!(made, resealed);
    }
}

#[test]
fn the_pieces_of_a_packet_make_the_translated_packet() {
    let from = Body::Udp.tuple(ip("172.18.0.2"), ip("198.51.100.7"), [1000, 53]);
    let to = Body::Udp.tuple(ip("203.0.113.9"), ip("198.51.100.7"), [40_001, 53]);
    let payload: Vec<u8> = (0..5000_u32).map(|n| (n * 7) as u8).collect();
    let mut whole = Recipe::plain(Body::Udp, from, &payload).make();
    whole.data[whole.network + 6] = 0; // may be fragmented
    whole.seal();
    let fragmenter = Fragmenter::new(&whole.data, 1500).unwrap();
    let mut payload = Vec::<u8>::new();
    for index in 0..fragmenter.count() {
        let mut piece = vec![0; 1514];
        let bytes = fragmenter.write(index, &mut piece);
        piece.truncate(bytes);
        let packet = Packet::parse(&piece, piece.len()).unwrap();
        assert_eq!(packet.is_later_fragment(), index > 0);
        assert!(rewrite(&from, &to).apply(&mut piece, &packet, &Csum::Unknown, Hops::Keep));
        let packet = Packet::parse(&piece, piece.len()).expect("the header checksum is right");
        assert_eq!((packet.tuple.source, packet.tuple.destination), (to.source, to.destination));
        payload.extend(&piece[34..]);
    }
    let expected = Recipe::plain(Body::Udp, to, &whole.data[42..]).make();
    assert_eq!(payload, expected.data[34..]);
}

#[test]
fn what_cannot_be_done_is_refused_and_not_begun() {
    let (client, server, other) = (ip("172.18.0.2"), ip("198.51.100.7"), ip("203.0.113.9"));
    // SCTP's checksum is over all fragments together.
    let from = Body::Sctp.tuple(client, server, [1000, 80]);
    let mut made = Recipe::plain(Body::Sctp, from, &[1; 104]).make();
    made.data[made.network + 6] = 0x20;
    made.seal();
    let before = made.data.clone();
    assert!(!apply(&mut made, &from, &Tuple { source_port: 1001, ..from }, Hops::Keep));
    assert_eq!(made.data, before);
    assert!(apply(&mut made, &from, &Tuple { source: other, ..from }, Hops::Keep), "but not over addresses");
    // UDP-Lite has a pseudo-header, and its checksum is not where UDP's is.
    let from = Body::Gre.tuple(client, server, [0; 2]);
    let mut made = Recipe::plain(Body::Gre, from, &[1; 100]).make();
    made.data[made.network + 9] = 136;
    let header = &mut made.data[14..34];
    header[10..12].fill(0);
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let from = Tuple { protocol: 136, ..from };
    let before = made.data.clone();
    assert!(!apply(&mut made, &from, &Tuple { source: other, ..from }, Hops::Keep));
    assert_eq!(made.data, before);
    assert!(apply(&mut made, &from, &from, Hops::Keep));
    // Another family, another protocol, another frame.
    let v6 = Body::Udp.tuple(ip("fd00::1"), ip("fd00::2"), [1, 2]);
    let v4 = Body::Udp.tuple(client, server, [1, 2]);
    assert_eq!(Rewrite::new(&v4, &v6), None);
    assert_eq!(Rewrite::new(&v4, &Tuple { protocol: 6, ..v4 }), None);
    let mut made = Recipe::plain(Body::Udp, v4, &[]).make();
    let packet = Packet::parse(&made.data, made.data.len()).unwrap();
    assert!(!rewrite(&v6, &v6).apply(&mut made.data, &packet, &Csum::Unknown, Hops::Keep));
    assert!(!rewrite(&v4, &v4).apply(&mut made.data[..20], &packet, &Csum::Unknown, Hops::Keep));
}

/// A packet inside of a tunnel that its sender made has the unfinished checksum, and the outer one is complete.
#[test]
fn an_unfinished_checksum_elsewhere_is_not_ours() {
    let from = Body::Udp.tuple(ip("172.18.0.2"), ip("198.51.100.7"), [1000, 4789]);
    let to = Body::Udp.tuple(ip("203.0.113.9"), ip("198.51.100.7"), [40_001, 4789]);
    let mut made = Recipe::plain(Body::Udp, from, &[0; 100]).make();
    let packet = Packet::parse(&made.data, made.data.len()).unwrap();
    let inner = Csum::Partial { start: made.transport as u16 + 50, offset: 6 };
    assert!(rewrite(&from, &to).apply(&mut made.data, &packet, &inner, Hops::Keep));
    assert_eq!(made, Recipe::plain(Body::Udp, to, &[0; 100]).make());
}

#[test]
fn hops_do_not_wrap() {
    let tuple = Body::Udp.tuple(ip("172.18.0.2"), ip("198.51.100.7"), [1000, 53]);
    for address in ["fd00::1", "172.18.0.2"] {
        let tuple = Tuple { source: ip(address), destination: ip(address), ..tuple };
        let mut made = Recipe { hops: 0, ..Recipe::plain(Body::Udp, tuple, &[]) }.make();
        let before = made.clone();
        assert!(apply(&mut made, &tuple, &tuple, Hops::Decrement));
        assert_eq!(made, before);
    }
}
