use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, Ipv4Packet,
    Ipv6Packet,
};

use super::*;

const LINK: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// UDP from 172.18.0.2, without DF.
fn v4(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = vec![0xaa; 100];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 100, 0, 7, 0, 0, 1, 17, 0, 0, 172, 18, 0, 2, 198, 51, 100, 7, //
    ]);
    change(&mut packet);
    [&LINK[..], &packet].concat()
}

fn v6(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = vec![0xaa; 2000];
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0x07, 0xa8, 17, 1]);
    packet[8..40].copy_from_slice(&[[0xfd; 15].as_slice(), &[2], &[0x20; 15], &[3]].concat());
    change(&mut packet);
    let mut link = LINK;
    link[12..].copy_from_slice(&[0x86, 0xdd]);
    [&link[..], &packet].concat()
}

fn error(frame: &[u8], problem: Problem, from: &str) -> Option<Vec<u8>> {
    let mut out = [0; BYTES_MAX];
    write(frame, frame.len() - 14, problem, Some(ip(from)), &mut out).map(|bytes| out[..bytes].to_vec())
}

#[test]
fn every_problem_has_its_numbers() {
    use Icmpv4DstUnreachable as V4;
    use Icmpv6DstUnreachable as V6;
    let frame = v4(|_| ());
    for (problem, reason) in [
        (Problem::NetworkUnreachable, V4::NetUnreachable),
        (Problem::HostUnreachable, V4::HostUnreachable),
        (Problem::PortUnreachable, V4::PortUnreachable),
        (Problem::Prohibited, V4::CommProhibited),
    ] {
        let answer = error(&frame, problem, "172.18.0.1").unwrap();
        assert_eq!(answer[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        let packet = Ipv4Packet::new_checked(&answer[14..]).unwrap();
        assert!(packet.verify_checksum());
        assert_eq!((packet.src_addr().octets(), packet.dst_addr().octets()), ([172, 18, 0, 1], [172, 18, 0, 2]));
        let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        let Ok(Icmpv4Repr::DstUnreachable { reason: said, header, data }) =
            Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default())
        else {
            panic!("{problem:?}")
        };
        assert_eq!((said, header.dst_addr.octets(), header.payload_len), (reason, [198, 51, 100, 7], 80));
        assert_eq!(data, &frame[34..]);
    }
    let answer = error(&frame, Problem::TimeExceeded, "172.18.0.1").unwrap();
    assert_eq!(answer[34..36], [11, 0]);
    let frame = v6(|_| ());
    for (problem, reason) in [
        (Problem::NetworkUnreachable, V6::NoRoute),
        (Problem::HostUnreachable, V6::AddrUnreachable),
        (Problem::PortUnreachable, V6::PortUnreachable),
        (Problem::Prohibited, V6::AdminProhibit),
    ] {
        let answer = error(&frame, problem, "fd00::1").unwrap();
        let packet = Ipv6Packet::new_checked(&answer[14..]).unwrap();
        assert_eq!((packet.total_len(), IpAddr::V6(packet.src_addr())), (1280, ip("fd00::1")));
        let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let capabilities = ChecksumCapabilities::default();
        let Ok(Icmpv6Repr::DstUnreachable { reason: said, header, .. }) =
            Icmpv6Repr::parse(&packet.src_addr(), &packet.dst_addr(), &icmp, &capabilities)
        else {
            panic!("{problem:?}")
        };
        assert_eq!((said, header.payload_len), (reason, 1960));
    }
    let answer = error(&frame, Problem::TimeExceeded, "fd00::1").unwrap();
    assert_eq!(answer[54..56], [3, 0]);
}

#[test]
fn some_things_are_never_answered() {
    let silent: [(&str, Vec<u8>); 14] = [
        ("a later fragment", v4(|p| p[7] = 1)),
        ("an ICMP error", v4(|p| (p[9], p[20]) = (1, 11))),
        ("a redirect", v4(|p| (p[9], p[20]) = (1, 5))),
        ("from a group", v4(|p| p[12] = 224)),
        ("to a group", v4(|p| p[16] = 239)),
        ("to everybody", v4(|p| p[16..20].fill(255))),
        ("from nowhere", v4(|p| p[12..16].fill(0))),
        ("in a broadcast frame", [&[0xff; 6], &v4(|_| ())[6..]].concat()),
        ("an ICMPv6 error", v6(|p| (p[6], p[40]) = (58, 1))),
        ("a redirect", v6(|p| (p[6], p[40]) = (58, 137))),
        ("an error behind a header", v6(|p| (p[6], p[40], p[41], p[48]) = (60, 58, 0, 1))),
        ("a later fragment", v6(|p| (p[6], p[40], p[42]) = (44, 58, 1))),
        ("from the unspecified address", v6(|p| p[8..24].fill(0))),
        ("to a group", v6(|p| p[24] = 0xff)),
    ];
    for (what, frame) in silent {
        let from = if frame[12] == 8 { "172.18.0.1" } else { "fd00::1" };
        assert_eq!(error(&frame, Problem::TimeExceeded, from), None, "{what}");
    }
    assert!(error(&v4(|_| ()), Problem::TimeExceeded, "172.18.0.1").is_some());
    assert!(error(&v4(|_| ()), Problem::TooBig(1400), "172.18.0.1").is_none(), "without DF");
    assert!(error(&v4(|p| p[6] = 0x40), Problem::TooBig(1400), "172.18.0.1").is_some());
    assert!(error(&v4(|_| ()), Problem::TimeExceeded, "fd00::1").is_none(), "another family");
    // The only one of its packet that is too big.
    assert!(error(&v6(|p| (p[6], p[40], p[42]) = (44, 58, 1)), Problem::TooBig(1400), "fd00::1").is_some());
    assert!(error(&v6(|p| (p[6], p[40]) = (58, 128)), Problem::TimeExceeded, "fd00::1").is_some(), "an echo");
}

#[test]
fn no_prefix_panics() {
    for frame in [v4(|_| ()), v6(|_| ()), v4(|p| p[0] = 0x4f)] {
        for bytes in 0..200.min(frame.len()) {
            let _ = write(&frame[..bytes], 100, Problem::TimeExceeded, None, &mut [0; BYTES_MAX]);
        }
        for bytes in 0..BYTES_MAX {
            let _ = write(&frame, 100, Problem::TimeExceeded, None, &mut vec![0; bytes]);
        }
        for packet_bytes in 0..100 {
            let _ = write(&frame, packet_bytes, Problem::TimeExceeded, None, &mut [0; BYTES_MAX]);
        }
    }
}
