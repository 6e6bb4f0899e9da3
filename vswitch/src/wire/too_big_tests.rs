use super::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, Icmpv6Repr, Ipv4Packet, Ipv6Packet};

const LINK: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];

/// A frame with an IPv4 packet of `bytes` bytes.
fn v4(bytes: usize, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = vec![0xaa; bytes];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0, 172, 18, 0, 2, 172, 18, 0, 3, //
    ]);
    packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
    change(&mut packet);
    [&LINK[..], &packet].concat()
}

fn v6(bytes: usize, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = vec![0xaa; bytes];
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 6, 64]);
    packet[4..6].copy_from_slice(&(bytes as u16 - 40).to_be_bytes());
    packet[8..40].copy_from_slice(&[[0xfd; 15].as_slice(), &[2], &[0xfd; 15], &[3]].concat());
    change(&mut packet);
    let mut link = LINK;
    link[12..].copy_from_slice(&[0x86, 0xdd]);
    [&link[..], &packet].concat()
}

fn answer(frame: &[u8], packet_bytes: usize, mtu: u32) -> Option<Vec<u8>> {
    let mut out = [0; BYTES_MAX];
    too_big(frame, packet_bytes, mtu, &mut out).map(|bytes| out[..bytes].to_vec())
}

#[test]
fn a_sender_is_told_the_mtu() {
    let frame = v4(1500, |_| ());
    let answer = answer(&frame, 1500, 1450).unwrap();
    assert_eq!(answer[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let ip = Ipv4Packet::new_checked(&answer[14..]).unwrap();
    assert!(ip.verify_checksum() && ip.total_len() == 576);
    assert_eq!((ip.src_addr().octets(), ip.dst_addr().octets()), ([172, 18, 0, 3], [172, 18, 0, 2]));
    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!(ip.payload()[..2], [3, 4]);
    assert_eq!(ip.payload()[6..8], 1450u16.to_be_bytes());
    let quoted = Ipv4Packet::new_unchecked(&ip.payload()[8..]);
    assert_eq!((quoted.total_len(), quoted.ident()), (1500, 7));
    assert!(quoted.verify_checksum());
    assert_eq!(ip.payload()[28..], frame[34..34 + 528]);
}

#[test]
fn the_same_in_ipv6() {
    let frame = v6(1500, |_| ());
    let answer = answer(&frame, 1500, 1430).unwrap();
    let ip = Ipv6Packet::new_checked(&answer[14..]).unwrap();
    assert_eq!(ip.total_len(), 1280);
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &ChecksumCapabilities::default()).unwrap();
    let Icmpv6Repr::PktTooBig { mtu, header, .. } = repr else { panic!("{repr:?}") };
    assert_eq!((mtu, header.payload_len), (1430, 1460));
}

#[test]
fn a_super_frame_is_quoted_as_the_segment_it_would_become() {
    let answer = answer(&v4(40_000, |_| ()), 1500, 1450).unwrap();
    assert_eq!(answer[14 + 28 + 2..14 + 28 + 4], 1500u16.to_be_bytes());
}

#[test]
fn tags_stay() {
    let mut frame = v4(1500, |_| ());
    frame.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
    assert_eq!(answer(&frame, 1500, 1450).unwrap()[12..18], [0x81, 0x00, 0x20, 0x64, 8, 0]);
}

#[test]
fn some_things_are_never_answered() {
    let silent: [(&str, Vec<u8>); 12] = [
        ("DF clear", v4(1500, |p| p[6] = 0)),
        ("a later fragment", v4(1500, |p| p[7] = 1)),
        ("an ICMP error", v4(1500, |p| (p[9], p[20]) = (1, 3))),
        ("from a group", v4(1500, |p| p[12] = 224)),
        ("to a group", v4(1500, |p| p[16] = 239)),
        ("from nowhere", v4(1500, |p| p[12..16].fill(0))),
        ("from the loopback", v4(1500, |p| p[12] = 127)),
        ("not version 4", v4(1500, |p| p[0] = 0x65)),
        ("an ICMPv6 error", v6(1500, |p| (p[6], p[40]) = (58, 1))),
        ("a redirect", v6(1500, |p| (p[6], p[40]) = (58, 137))),
        ("from the unspecified address", v6(1500, |p| p[8..24].fill(0))),
        ("to a group", v6(1500, |p| p[24] = 0xff)),
    ];
    for (what, frame) in silent {
        assert!(answer(&frame, 1500, 1450).is_none(), "{what}");
    }
    let mut flooded = v4(1500, |_| ());
    flooded[0] = 0xff;
    assert!(answer(&flooded, 1500, 1450).is_none());
    assert!(answer(&v4(1500, |p| (p[9], p[20]) = (1, 8)), 1500, 1450).is_some(), "an echo request is answered");
    assert!(answer(&v6(1500, |p| (p[6], p[40]) = (58, 128)), 1500, 1450).is_some());
}

#[test]
fn no_prefix_panics() {
    for frame in [v4(1500, |_| ()), v6(1500, |_| ()), v4(1500, |p| p[0] = 0x4f)] {
        for len in 0..200 {
            let _ = answer(&frame[..len], 1500, 1450);
        }
        let mut out = [0; BYTES_MAX];
        for len in 0..BYTES_MAX {
            let _ = too_big(&frame, 1500, 1450, &mut out[..len]);
        }
    }
}
