use super::*;
use proptest::prelude::*;

/// A frame with an IPv4 packet: options, payload, and the upper half of the fragment field.
fn frame(options: &[u8], payload: &[u8], place: u16) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let header_bytes = 20 + options.len();
    bytes.push(0x40 | (header_bytes / 4) as u8);
    bytes.push(0);
    bytes.extend(((header_bytes + payload.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(place.to_be_bytes());
    bytes.extend([64, 17, 0, 0, 172, 18, 0, 2, 172, 18, 0, 3]);
    bytes.extend(options);
    let sum = checksum::of(&bytes[14..]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn fragments(frame: &[u8], mtu: u32) -> Vec<Vec<u8>> {
    let fragmenter = Fragmenter::new(frame, mtu).unwrap();
    let one = |index| {
        let mut out = vec![0; 70_000];
        let bytes = fragmenter.write(index, &mut out);
        out.truncate(bytes);
        out
    };
    (0..fragmenter.count()).map(one).collect()
}

proptest! {
    #[test]
    fn the_fragments_are_the_packet(
        payload in proptest::collection::vec(any::<u8>(), 0..9000),
        mtu in 68u32..3000,
        place in prop_oneof![Just(0u16), Just(MORE_FRAGMENTS), (1u16..500), (1u16..500).prop_map(|at| at | MORE_FRAGMENTS)],
    ) {
        let original = frame(&[], &payload, place);
        let mut at = usize::from(place & 0x1fff) * 8;
        let mut whole: Vec<u8> = Vec::new();
        let all = fragments(&original, mtu);
        for (index, fragment) in all.iter().enumerate() {
            let packet = ipv4::Packet::new_checked(&fragment[14..]).unwrap();
            prop_assert!(packet.is_checksum_right());
            prop_assert!(fragment.len() - 14 <= mtu as usize);
            prop_assert_eq!(packet.fragment_offset(), at);
            let more = u16::from_be_bytes([fragment[20], fragment[21]]) & MORE_FRAGMENTS != 0;
            prop_assert_eq!(more, place & MORE_FRAGMENTS != 0 || index + 1 < all.len());
            prop_assert_eq!((packet.id(), &fragment[..14]), (0x1234, &original[..14]));
            at += packet.payload().len();
            whole.extend(packet.payload());
        }
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn any_bytes_give_fragments_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), mtu in 0u32..200) {
        let mut bytes = bytes;
        if let Some(ethertype) = bytes.get_mut(12..15) {
            ethertype.copy_from_slice(&[8, 0, 0x4f]);
        }
        if let Some(fragmenter) = Fragmenter::new(&bytes, mtu) {
            for index in 0..=fragmenter.count() {
                fragmenter.write(index, &mut [0; 300]);
            }
        }
    }
}

proptest! {
    #[test]
    fn the_fragments_of_an_ipv6_packet_are_the_packet(
        payload in proptest::collection::vec(any::<u8>(), 1300..9000),
        mtu in 1280u32..3000,
        id in any::<u32>(),
    ) {
        let mut original = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0];
        original.extend((payload.len() as u16).to_be_bytes());
        original.extend([17, 64]);
        original.extend([0xfd; 32]);
        original.extend(&payload);
        prop_assert!(Fragmenter::new(&original, mtu).is_none(), "that is for its source");
        let fragmenter = Fragmenter::of_source(&original, mtu, id).unwrap();
        let mut whole: Vec<u8> = Vec::new();
        for index in 0..fragmenter.count() {
            let mut out = vec![0; 10_000];
            let bytes = fragmenter.write(index, &mut out);
            prop_assert!(bytes - 14 <= mtu as usize);
            let packet = ipv6::Packet::new_checked(&out[14..bytes]).unwrap();
            let upper = packet.upper().unwrap();
            let header = upper.fragment.unwrap();
            prop_assert_eq!((header.id, header.offset_bytes), (id, whole.len()));
            prop_assert_eq!(header.more, index + 1 < fragmenter.count());
            prop_assert_eq!((upper.protocol, &out[..14], packet.hop_limit()), (17, &original[..14], 64));
            whole.extend(upper.payload);
        }
        prop_assert_eq!(whole, payload);
        for per_hop in [0, 43, 44] {
            original[20] = per_hop;
            prop_assert!(Fragmenter::of_source(&original, mtu, id).is_none());
        }
    }

    #[test]
    fn any_bytes_of_ipv6_give_fragments_or_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        mtu in 0u32..200,
    ) {
        let mut bytes = bytes;
        if let Some(ethertype) = bytes.get_mut(12..15) {
            ethertype.copy_from_slice(&[0x86, 0xdd, 0x60]);
        }
        if let Some(fragmenter) = Fragmenter::of_source(&bytes, mtu, 1) {
            for index in 0..=fragmenter.count() {
                fragmenter.write(index, &mut [0; 300]);
            }
        }
    }
}

#[test]
fn only_some_options_are_repeated() {
    // Loose source route (copied) between a record route and a no-operation (not copied).
    let options = [7, 7, 4, 0, 0, 0, 0, 131, 7, 4, 1, 2, 3, 4, 1, 0];
    let all = fragments(&frame(&options, &[9; 200], 0), 100);
    assert_eq!(all[0][34..50], options);
    assert_eq!(all[1][34..42], [131, 7, 4, 1, 2, 3, 4, 0]);
    assert_eq!((all[0][14], all[1][14]), (0x49, 0x47));
}

#[test]
fn some_frames_must_not_be_fragmented() {
    assert!(Fragmenter::new(&frame(&[], &[0; 100], 0x4000), 68).is_none(), "DF");
    assert!(Fragmenter::new(&frame(&[], &[0; 100], 0), 27).is_none(), "no room for eight bytes");
    let mut v6 = frame(&[], &[0; 100], 0);
    v6[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert!(Fragmenter::new(&v6, 1500).is_none());
}
