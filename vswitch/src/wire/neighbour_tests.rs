use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscNeighborFlags, NdiscRepr};

use super::*;
use crate::wire::resolution::{self, Binding};

const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the station asks.
fn asked(from: &str, for_whom: &str, known: Option<MacAddr>) -> Vec<u8> {
    let mut out = [0; BYTES_MAX];
    let bytes = question(STATION, ip(from), ip(for_whom), known, &mut out).unwrap();
    out[..bytes].to_vec()
}

/// What the gateway answers, that has 172.18.0.1 and fd00::1.
fn answered(frame: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = [&[0; BYTES_MAX][..], &[0; 2048]].concat();
    buffer[..frame.len()].copy_from_slice(frame);
    let is_own = |address| address == ip("172.18.0.1") || address == ip("fd00::1");
    let Some(bytes) = answer(&mut buffer, frame.len(), GATEWAY, is_own) else {
        assert_eq!(&buffer[..frame.len()], frame, "nothing is changed");
        return None;
    };
    Some(buffer[..bytes].to_vec())
}

/// Computes the checksum of an ICMPv6 message behind a plain IPv6 header.
fn seal(frame: &mut [u8]) {
    frame[56..58].fill(0);
    let pseudo = checksum::pseudo_header(&frame[22..54], protocol::ICMPV6, frame.len() - 54);
    let sum = !fold(pseudo + checksum::sum(&frame[54..]));
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn whoever_asks_for_the_gateway_is_answered() {
    for (from, own, router) in [("172.18.0.2", "172.18.0.1", false), ("fd00::2", "fd00::1", true)] {
        for known in [None, Some(GATEWAY)] {
            let frame = asked(from, own, known);
            let heard = resolution::read(&frame);
            assert_eq!(heard.says.map(|says| (says.ip, says.mac)), Some((ip(from), STATION)));
            let reply = answered(&frame).unwrap();
            assert_eq!((&reply[..6], &reply[6..12]), (&STATION.0[..], &GATEWAY.0[..]));
            let says = Binding { ip: ip(own), mac: GATEWAY, router: Some(router) };
            assert_eq!(resolution::read(&reply).says, Some(says));
            assert_eq!(answered(&reply), None, "an answer is no question");
        }
        assert_eq!(answered(&asked(from, from, None)), None, "another's address");
    }
    assert_eq!(asked("172.18.0.2", "172.18.0.1", None)[..6], [0xff; 6]);
    assert_eq!(asked("fd00::2", "fd00::aa:bbcc", None)[..6], [0x33, 0x33, 0xff, 0xaa, 0xbb, 0xcc]);
    assert_eq!(asked("fd00::2", "fd00::1", Some(GATEWAY))[..6], GATEWAY.0);
}

#[test]
fn an_advertisement_is_what_the_rfc_says() {
    let parse = |frame: &[u8]| {
        let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let parsed = Icmpv6Repr::parse(&source, &destination, &message, &ChecksumCapabilities::default()).unwrap();
        let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) = parsed else { panic!() };
        assert_eq!((packet.hop_limit(), lladdr.unwrap().as_bytes()), (255, &GATEWAY.0[..]));
        assert_eq!((IpAddr::V6(source), IpAddr::V6(target_addr)), (ip("fd00::1"), ip("fd00::1")));
        (IpAddr::V6(destination), flags)
    };
    let reply = answered(&asked("fd00::2", "fd00::1", None)).unwrap();
    let all = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::SOLICITED;
    assert_eq!(parse(&reply), (ip("fd00::2"), all));
    // A probe for duplicates: without an address, without an option.
    let mut probe = asked("fd00::2", "fd00::1", None);
    probe.truncate(78);
    probe[22..38].fill(0);
    probe[19] = 24;
    seal(&mut probe);
    let reply = answered(&probe).unwrap();
    assert_eq!(reply[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(parse(&reply), (ip("ff02::1"), NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE));
}

#[test]
fn options_and_tags_are_tolerated() {
    // A nonce (RFC 7527) and no link-layer address.
    let mut frame = asked("fd00::2", "fd00::1", None);
    frame[78..86].copy_from_slice(&[14, 1, 1, 2, 3, 4, 5, 6]);
    seal(&mut frame);
    assert!(answered(&frame).is_some());
    // Not computed yet.
    let pseudo = fold(checksum::pseudo_header(&frame[22..54], 58, 32));
    frame[56..58].copy_from_slice(&pseudo.to_be_bytes());
    assert!(answered(&frame).is_some());
    for mut frame in [asked("fd00::2", "fd00::1", None), asked("172.18.0.2", "172.18.0.1", None)] {
        frame.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(answered(&frame).unwrap()[12..16], [0x81, 0, 0, 7]);
    }
    // A probe of RFC 5227, and Ethernet padding.
    let mut frame = asked("0.0.0.0", "172.18.0.1", None);
    frame.resize(60, 0);
    assert_eq!(answered(&frame).unwrap().len(), 42);
}

#[test]
fn what_is_not_valid_is_not_answered() {
    let (arp, nd) = (asked("172.18.0.2", "172.18.0.1", None), asked("fd00::2", "fd00::1", None));
    for (what, at, byte) in [("a reply", 21, 2), ("another sender", 27, 9), ("other hardware", 15, 9)] {
        let mut frame = arp.clone();
        frame[at] = byte;
        assert_eq!(answered(&frame), None, "{what}");
    }
    for (what, at, byte) in [
        ("through a router", 21, 254),
        ("a code", 55, 1),
        ("an option of length zero", 79, 0),
        ("an option beyond the end", 79, 2),
        ("to another group", 53, 2),
        ("from a group", 22, 0xff),
        ("a sender of frames that is a group", 6, 3),
    ] {
        let mut frame = nd.clone();
        frame[at] = byte;
        seal(&mut frame);
        assert_eq!(answered(&frame), None, "{what}");
    }
    let mut frame = nd.clone();
    frame[57] ^= 1;
    assert_eq!(answered(&frame), None, "a checksum");
    let mut frame = nd.clone();
    frame[22..38].fill(0);
    seal(&mut frame);
    assert_eq!(answered(&frame), None, "a probe that says whose it is");
    for frame in [arp, nd] {
        for bytes in 0..frame.len() {
            assert_eq!(answered(&frame[..bytes]), None);
            assert_eq!(answer(&mut frame[..bytes].to_vec(), frame.len(), GATEWAY, |_| true), None);
        }
        for bytes in 0..BYTES_MAX {
            let _ = question(STATION, ip("fd00::2"), ip("fd00::1"), None, &mut vec![0; bytes]);
            let _ = question(STATION, ip("10.0.0.1"), ip("10.0.0.2"), None, &mut vec![0; bytes]);
        }
    }
}
