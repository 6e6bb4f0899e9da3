//! Frames at random, most of them nearly right: addresses and ports from small sets, so that rules meet.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::select;

use super::packets::{self, Bytes, Extension, V4};

pub(crate) const HOST4: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];
pub(crate) const PEER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const HOST6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1)];
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
/// Networks behind the switch; the host has an address of its own in each, as a bridge's gateway.
pub(crate) const ROUTED4: &str = "198.51.100.0/24";
pub(crate) const ROUTED6: &str = "2001:db8:0:1::/64";
const CONTAINER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const CONTAINER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x77);
/// What no packet from a wire may have.
const LOOPBACK4: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LOOPBACK6: Ipv6Addr = Ipv6Addr::LOCALHOST;
/// An IPv4 address in an IPv6 packet.
const MAPPED: Ipv6Addr = HOST4[0].to_ipv6_mapped();
/// Ports, of which some are published, translated, tunnels', and some are the host's.
pub(crate) const PORTS: [u16; 10] = [80, 80, 443, 4789, 40000, 40000, 40001, 22, 0, 65535];

/// Mostly the host's.
fn near4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![12 => Just(HOST4[0]), 4 => Just(HOST4[1]), 2 => Just(PEER4), 2 => Just(CONTAINER4), 1 => Just(LOOPBACK4)]
}

fn near6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        12 => Just(HOST6[0]), 4 => Just(HOST6[1]), 2 => Just(PEER6), 2 => Just(CONTAINER6), 1 => Just(LOOPBACK6),
        1 => Just(MAPPED),
    ]
}

/// Mostly not.
fn far4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![6 => Just(PEER4), 1 => Just(HOST4[0])]
}

fn far6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![6 => Just(PEER6), 1 => Just(HOST6[0])]
}

fn transport(ipv6: bool) -> impl Strategy<Value = (u8, Bytes)> {
    let data = proptest::collection::vec(any::<u8>(), 0..40);
    (select(&PORTS[..]), select(&PORTS[..]), data, 0..12u8).prop_map(move |(from, to, data, kind)| match kind {
        0 | 1 => (6, packets::tcp(from, to, &data)),
        2..=4 => (17, packets::udp(from, to, &data)),
        5 => (132, packets::sctp(from, to, &data)),
        6 | 7 => (if ipv6 { 58 } else { 1 }, packets::icmp(if ipv6 { 128 } else { 8 }, to, &data)),
        8 | 9 => (if ipv6 { 58 } else { 1 }, packets::icmp(if ipv6 { 129 } else { 0 }, to, &data)),
        // The other family's ICMP, and something without ports.
        10 => (if ipv6 { 1 } else { 58 }, packets::icmp(0, to, &data)),
        _ => (47, data),
    })
}

fn extension() -> impl Strategy<Value = Extension> {
    let longer = prop_oneof![4 => 0..3u8, 1 => any::<u8>()];
    (0..16u8, longer, any::<bool>(), 0..3u32).prop_map(|(kind, longer, more, identification)| match kind {
        0..=3 => Extension::HopByHop(longer),
        4..=6 => Extension::Destination(longer),
        7 | 8 => Extension::Routing { longer, segments_left: 0 },
        9 => Extension::Routing { longer, segments_left: 1 },
        10 | 11 => Extension::Authentication(longer),
        12 | 13 => Extension::Fragment { offset: 0, more, identification },
        14 => Extension::Fragment { offset: u16::from(longer) + 1, more, identification },
        _ => Extension::Mobility,
    })
}

/// A packet to the host, or (`sent`) from it.
fn packet_of(ipv6: bool, sent: bool, payload: BoxedStrategy<(u8, Bytes)>) -> BoxedStrategy<Bytes> {
    if ipv6 {
        let extensions = prop_oneof![5 => Just(0usize), 3 => 1..4usize, 1 => 4..11usize]
            .prop_flat_map(|count| proptest::collection::vec(extension(), count));
        (far6(), near6(), extensions, payload)
            .prop_map(move |(far, near, extensions, (protocol, payload))| {
                let (source, destination) = if sent { (near, far) } else { (far, near) };
                packets::ipv6(source, destination, &extensions, protocol, &payload)
            })
            .boxed()
    } else {
        let options = prop_oneof![3 => Just(0u8), 1 => 1..11u8];
        let fragment = prop_oneof![
            4 => Just((0u16, false)),
            1 => Just((0, true)),
            1 => (1..100u16, any::<bool>()),
        ];
        (far4(), near4(), options, 0..3u16, fragment, payload)
            .prop_map(move |(far, near, options, identification, (offset, more), (protocol, payload))| {
                let (source, destination) = if sent { (near, far) } else { (far, near) };
                let header = V4 { source, destination, options, identification, offset, more };
                packets::ipv4(&header, protocol, &payload)
            })
            .boxed()
    }
}

/// An ICMP error about a packet of ours, or of somebody; cut short, as routers do.
fn error(ipv6: bool) -> BoxedStrategy<(u8, Bytes)> {
    let kinds: &[u8] = if ipv6 { &[1, 2, 3, 4, 0, 5] } else { &[3, 11, 12, 4, 5] };
    // Sometimes of the other family, which is nonsense.
    let inner = prop_oneof![19 => Just(ipv6), 1 => Just(!ipv6)]
        .prop_flat_map(|ipv6| packet_of(ipv6, true, transport(ipv6).boxed()));
    (select(kinds), inner, prop_oneof![Just(usize::MAX), Just(28), 0..80usize])
        .prop_map(move |(kind, inner, keep)| {
            let keep = keep.min(inner.len());
            (if ipv6 { 58 } else { 1 }, packets::icmp(kind, 0, &inner[..keep]))
        })
        .boxed()
}

/// One frame.
pub(crate) fn any_frame() -> impl Strategy<Value = Bytes> {
    let packet = any::<bool>().prop_flat_map(|ipv6| {
        prop_oneof![3 => packet_of(ipv6, false, transport(ipv6).boxed()), 2 => packet_of(ipv6, false, error(ipv6))]
    });
    let framed = (packet, 0..40u8).prop_map(|(packet, kind)| match kind {
        0 => packets::ethernet([1, 0, 0x5e, 0, 0, 1], 0x0800, &packet),
        1 => packets::ethernet([2, 0, 0, 0, 0, 7], if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 }, &packet),
        2 => packets::ethernet(packets::TO_HOST, 0x8100, &[&[0, 5, 8, 0][..], &packet].concat()),
        3 => packets::ethernet(packets::TO_HOST, 0x0806, &packet),
        4 => packets::ethernet(packets::TO_HOST, if packet[0] >> 4 == 6 { 0x0800 } else { 0x86dd }, &packet),
        // Ethernet padding.
        5 | 6 => [packets::frame(&packet), vec![0; 30]].concat(),
        _ => packets::frame(&packet),
    });
    // Then sometimes bytes change, or the end is cut off.
    let bytes = proptest::collection::vec((0..100usize, any::<u8>()), 1..3);
    let damage = prop_oneof![6 => Just(vec![]), 1 => bytes];
    (framed, damage, prop_oneof![6 => Just(usize::MAX), 1 => 14..200usize]).prop_map(|(mut frame, damage, keep)| {
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(keep);
        frame
    })
}
