//! `virtio_net_hdr`: the two forms, what is refused, what is recomputed.

mod wire_packets;

use proptest::prelude::*;
use vswitch::frame::{Csum, Gso, GsoKind, Offload};
use vswitch::wire::vnet_hdr::{Error, HEADER_BYTES, HEADER_BYTES_V1, decode, encode};
use wire_packets::{Spec, any_spec, payload};

/// `struct virtio_net_hdr`, field by field.
fn header(flags: u8, gso_type: u8, hdr_len: u16, gso_size: u16, csum_start: u16, csum_offset: u16) -> [u8; 10] {
    let mut header = [0; 10];
    header[0] = flags;
    header[1] = gso_type;
    for (at, value) in [(2, hdr_len), (4, gso_size), (6, csum_start), (8, csum_offset)] {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

fn any_offload(spec: &Spec, csum: u8, gso: Option<(bool, u16)>) -> Offload {
    match (csum, gso) {
        (0, None) => Offload::NONE,
        (1, None) => Offload { csum: Csum::Valid, gso: None },
        (_, None) => Offload { csum: spec.partial(), gso: None },
        (_, Some((ecn, size))) => {
            Offload { csum: spec.partial(), gso: Some(Gso { kind: spec.kind(), ecn: ecn && spec.tcp, size }) }
        }
    }
}

proptest! {
    #[test]
    fn decodes_what_was_encoded(spec in any_spec(200), csum in 0_u8..3, gso in prop::option::of((any::<bool>(), 1_u16..))) {
        let frame = spec.build();
        let offload = any_offload(&spec, csum, gso);
        let (mut short, mut long) = ([0xff; HEADER_BYTES], [0xff; HEADER_BYTES_V1]);
        encode(&offload, &frame, &mut short);
        encode(&offload, &frame, &mut long);
        prop_assert_eq!(decode(&short, &frame), Ok(offload));
        prop_assert_eq!(decode(&long, &frame), Ok(offload));
        prop_assert_eq!(&long[..10], &short);
        prop_assert_eq!(&long[10..], &[0, 0]);
        let hdr_len = usize::from(u16::from_ne_bytes([short[2], short[3]]));
        if matches!(offload.csum, Csum::Partial { .. }) {
            prop_assert_eq!(hdr_len, spec.header_bytes(), "the length of all headers");
        } else {
            prop_assert_eq!(short, header(u8::from(offload.csum == Csum::Valid) * 2, 0, 0, 0, 0, 0));
        }
    }

    #[test]
    fn hdr_len_is_never_believed(spec in any_spec(200), hdr_len in any::<u16>()) {
        let frame = spec.build();
        let offload = any_offload(&spec, 2, Some((false, 40)));
        let mut bytes = [0; 10];
        encode(&offload, &frame, &mut bytes);
        bytes[2..4].copy_from_slice(&hdr_len.to_ne_bytes());
        prop_assert_eq!(decode(&bytes, &frame), Ok(offload));
    }

    #[test]
    fn any_header_is_refused_or_lies_within_the_frame(bytes in any::<[u8; 12]>(), frame_bytes in 0_usize..300) {
        let frame = vec![0; frame_bytes];
        if let Ok(offload) = decode(&bytes, &frame) {
            if let Csum::Partial { start, offset } = offload.csum {
                prop_assert!(usize::from(start) + usize::from(offset) + 2 <= frame_bytes);
            }
            if let Some(gso) = offload.gso {
                prop_assert!(gso.size > 0);
                let as_expected = matches!(offload.csum, Csum::Partial { .. });
        prop_assert!(as_expected);
            }
        }
    }
}

#[test]
fn known_headers() {
    let frame = Spec { payload: payload(3000), ..Spec::default() }.build();
    assert_eq!(decode(&[0; 10], &frame), Ok(Offload::NONE));
    // Without flags the other fields mean nothing.
    assert_eq!(decode(&header(0, 0, 9, 9, 9, 9), &frame), Ok(Offload::NONE));
    assert_eq!(decode(&header(2, 0, 0, 0, 0, 0), &frame), Ok(Offload { csum: Csum::Valid, gso: None }));
    let partial = Csum::Partial { start: 34, offset: 16 };
    assert_eq!(decode(&header(1, 0, 0, 0, 34, 16), &frame), Ok(Offload { csum: partial, gso: None }));
    let gso = |kind, ecn| Ok(Offload { csum: partial, gso: Some(Gso { kind, ecn, size: 1448 }) });
    assert_eq!(decode(&header(1, 1, 54, 1448, 34, 16), &frame), gso(GsoKind::Tcp4, false));
    assert_eq!(decode(&header(1, 0x81, 54, 1448, 34, 16), &frame), gso(GsoKind::Tcp4, true));
    assert_eq!(decode(&header(1, 4, 54, 1448, 34, 16), &frame), gso(GsoKind::Tcp6, false));
    let udp = Offload {
        csum: Csum::Partial { start: 34, offset: 6 },
        gso: Some(Gso { kind: GsoKind::Udp, ecn: false, size: 1400 }),
    };
    assert_eq!(decode(&header(1, 5, 42, 1400, 34, 6), &frame), Ok(udp));
    // Flags that were never negotiated are ignored.
    assert_eq!(decode(&header(0xf4, 0, 0, 0, 0, 0), &frame), Ok(Offload::NONE));
}

#[test]
fn refusals() {
    let frame = [0; 100];
    assert_eq!(decode(&[0; 9], &frame), Err(Error::Truncated(9)));
    let outside = |start, offset| Err(Error::CsumOutside { start, offset, frame_bytes: 100 });
    assert_eq!(decode(&header(1, 0, 0, 0, 100, 0), &frame), outside(100, 0));
    assert_eq!(decode(&header(1, 0, 0, 0, 34, 65), &frame), outside(34, 65));
    assert!(decode(&header(1, 0, 0, 0, 34, 64), &frame).is_ok());
    assert_eq!(decode(&header(1, 0, 0, 0, u16::MAX, u16::MAX), &frame), outside(u16::MAX, u16::MAX));
    // A checksum stored in the MAC addresses would change whom the frame is for.
    assert_eq!(decode(&header(1, 0, 0, 0, 0, 0), &frame), outside(0, 0));
    assert_eq!(decode(&header(1, 1, 0, 0, 34, 16), &frame), Err(Error::GsoSizeZero));
    assert_eq!(decode(&header(1, 1, 0, 9, 34, 6), &frame), Err(Error::CsumOffset { gso_type: 1, offset: 6 }));
    assert_eq!(decode(&header(1, 5, 0, 9, 34, 16), &frame), Err(Error::CsumOffset { gso_type: 5, offset: 16 }));
    assert_eq!(decode(&header(0, 1, 0, 9, 34, 16), &frame), Err(Error::GsoWithoutCsum));
    assert_eq!(decode(&header(2, 1, 0, 9, 34, 16), &frame), Err(Error::GsoWithoutCsum));
    // UDP fragmentation offload, which no kernel since 4.14 has; ECN without TCP; what comes next.
    for gso_type in [2, 3, 0x80, 0x85, 0x25, 0x45, 0x7f] {
        assert_eq!(decode(&header(1, gso_type, 0, 9, 34, 16), &frame), Err(Error::GsoType(gso_type)));
    }
    assert!(Error::GsoType(3).to_string().contains("gso_type 3"));
}

#[test]
fn hdr_len_never_exceeds_the_frame() {
    // A head whose TCP header claims more options than there are bytes.
    let mut frame = Spec::default().build();
    frame[46] = 0xf0;
    let mut bytes = [0; 10];
    encode(&Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: None }, &frame, &mut bytes);
    assert_eq!(u16::from_ne_bytes([bytes[2], bytes[3]]), 54);
}
