use proptest::prelude::*;

use super::*;
use crate::frame::Pool;
use crate::snapshot::PortId;
use crate::tunnel::{DscpPolicy, TTL_DEFAULT, TunnelEntry, TunnelTable, decap};

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 0xb], [2, 0, 0, 0, 0, 0xa]);

fn addresses(v6: bool) -> (IpAddr, IpAddr) {
    let parse = |text: &str| text.parse().unwrap();
    if v6 { (parse("2001:db8::1"), parse("2001:db8::2")) } else { (parse("198.18.0.1"), parse("198.18.0.2")) }
}

fn template(v6: bool, dscp: DscpPolicy) -> Template {
    let (local, remote) = addresses(v6);
    let config = RemoteConfig { dscp, ..RemoteConfig::new(0x00ab_cdef, remote) };
    Template::new(config, local, MACS).unwrap()
}

/// An IPv4 packet with `tos` in an Ethernet frame.
fn inner_frame(tos: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&[2; 12][..], &[8, 0, 0x45, tos]].concat();
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(payload);
    frame
}

/// The frame with its outer headers, all checksums complete, and what was left to be done.
fn encapsulated(template: &Template, inner: &[u8]) -> (Vec<u8>, Csum) {
    let mut pool = Pool::new(1).unwrap();
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(inner);
    template.encapsulate(&mut frame).unwrap();
    let left = frame.offload.csum;
    if let Csum::Partial { start, offset } = left {
        assert!(checksum::complete_partial(frame.data_mut(), start, offset));
    }
    let bytes = frame.data().to_vec();
    pool.free(frame);
    (bytes, left)
}

#[test]
fn headers_are_those_of_the_rfc() {
    let inner = inner_frame(0xb9, &[1, 2, 3, 4, 0, 8, 0, 0]);
    let (v4, left) = encapsulated(&template(false, DscpPolicy::Inherit), &inner);
    assert_eq!((v4.len(), left), (50 + inner.len(), Csum::Unknown));
    let ip = ipv4::Packet::new_checked(&v4[14..]).unwrap();
    assert!(ip.is_checksum_right() && ip.dont_fragment() && !ip.is_fragment());
    assert_eq!((ip.ttl(), ip.tos(), ip.total_bytes()), (TTL_DEFAULT, 0xb9, v4.len() - 14));
    let udp = udp::Packet::new_checked(ip.payload()).unwrap();
    assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
    assert!(udp.source_port() >= 49152);
    assert_eq!(udp.payload(), [&vxlan::header(0x00ab_cdef)[..], &inner].concat());

    let (v6, left) = encapsulated(&template(true, DscpPolicy::Fixed(8)), &inner);
    assert_eq!((v6.len(), left), (70 + inner.len(), Csum::Partial { start: 54, offset: 6 }));
    assert_eq!((&v6[..6], &v6[6..12]), (&MACS.0[..], &MACS.1[..]));
    let ip = ipv6::Packet::new_checked(&v6[14..]).unwrap();
    assert_eq!((ip.hop_limit(), ip.traffic_class(), ip.flow_label()), (TTL_DEFAULT, 8 << 2 | 1, 0));
    let sum = ip.pseudo_header_sum(17, ip.payload().len()) + checksum::sum(ip.payload());
    assert_eq!(checksum::fold(sum), 0xffff);
    assert!(Template::new(RemoteConfig::new(1, addresses(true).1), addresses(false).0, MACS).is_none());
}

#[test]
fn what_is_damaged_is_dropped_by_name() {
    let inner = inner_frame(0, &[7; 100]);
    for v6 in [false, true] {
        let (whole, _) = encapsulated(&template(v6, DscpPolicy::Inherit), &inner);
        assert!(decapsulate(&whole, Csum::Unknown).is_ok());
        for bytes in 0..whole.len() {
            assert!(decapsulate(&whole[..bytes], Csum::Unknown).is_err(), "{bytes} of {}", whole.len());
        }
        let mut other = whole.clone();
        other[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(decapsulate(&other, Csum::Unknown), Err(DropReason::NotOurs));
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let outcome = decapsulate(&damaged, Csum::Unknown);
        assert_eq!(outcome.is_err(), v6, "over IPv4 there is no checksum");
        if v6 {
            assert_eq!(outcome, Err(DropReason::TunnelChecksum));
            assert!(decapsulate(&damaged, Csum::Valid).is_ok(), "somebody vouches for it");
        } else {
            damaged[14 + 8] ^= 1;
            assert_eq!(decapsulate(&damaged, Csum::Valid), Err(DropReason::TunnelMalformed), "the IPv4 header");
            // More fragments, with a right header checksum.
            let mut fragment = whole.clone();
            fragment[14 + 6] = 0x20;
            let sum = checksum::update_u16(u16::from_be_bytes([whole[24], whole[25]]), 0x4000, 0x2000);
            fragment[24..26].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(decapsulate(&fragment, Csum::Unknown), Err(DropReason::TunnelMalformed));
        }
    }
}

proptest! {
    #[test]
    fn what_was_encapsulated_comes_out_again(
        inner in prop::collection::vec(any::<u8>(), 14..2000),
        v6: bool,
        inherit: bool,
    ) {
        let dscp = if inherit { DscpPolicy::Inherit } else { DscpPolicy::Fixed(0x2e) };
        let (bytes, _) = encapsulated(&template(v6, dscp), &inner);
        let outer = decapsulate(&bytes, Csum::Unknown).unwrap();
        let (local, remote) = addresses(v6);
        prop_assert_eq!((outer.sender, outer.local, outer.port), (local, remote, 4789));
        prop_assert_eq!(outer.ecn, Ecn::of_tos(super::super::inner::examine(&inner).tos));
        let remotes = vec![(local, PortId(5))];
        let tunnels = TunnelTable::new(&[TunnelEntry { vni: 0x00ab_cdef, inner_tags: true, remotes }]);
        let accepted = decap::check(&bytes[outer.payload], outer.sender, outer.port, &tunnels);
        prop_assert_eq!(accepted, Ok((PortId(5), &inner[..])));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3_usize) {
        let mut frame = bytes;
        if let Some(space) = frame.get_mut(12..15) {
            space.copy_from_slice(&[[8, 0, 0x45], [0x86, 0xdd, 0x60], [0x81, 0, 0]][kind]);
        }
        if let Ok(outer) = decapsulate(&frame, Csum::Valid) {
            prop_assert!(outer.payload.end <= frame.len());
        }
    }
}
