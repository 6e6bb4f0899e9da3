use super::*;
use proptest::prelude::*;

const HOST: [u8; 6] = [2, 66, 10, 0, 0, 1];
const PEER: [u8; 6] = [2, 66, 10, 0, 0, 2];
const NOBODY: Origin = Origin { v4: None, v6: None };

/// From 10.0.0.1 to `to`, `payload` of `protocol` behind a header with `flags`.
fn v4(to: [u8; 4], protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&PEER[..], &HOST, &[8, 0, 0x45, 0]].concat();
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(flags.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 10, 0, 0, 1]);
    frame.extend(to);
    frame.extend(payload);
    frame
}

/// From fd00::1 to `to`.
fn v6(to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&PEER[..], &HOST, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next, 64]);
    frame.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend(to.octets());
    frame.extend(payload);
    frame
}

fn answer(frame: &[u8], mtu: u32, origin: Origin) -> Result<Vec<u8>, Silence> {
    let mut out = vec![0xee; ANSWER_BYTES_MAX];
    let bytes = packet_too_big(frame, mtu, origin, &mut out)?;
    out.truncate(bytes);
    Ok(out)
}

fn peer6() -> Ipv6Addr {
    "fd00::2".parse().unwrap()
}

#[test]
fn the_sender_is_told_by_whom_it_wrote_to() {
    for (payload, total) in [(100, 56 + 92), (1480, 576), (65_000, 576)] {
        let frame = v4([10, 0, 0, 2], 6, 0x4000, &vec![7; payload]);
        let told = answer(&frame, 1450, NOBODY).unwrap();
        assert_eq!(told[..14], [&HOST[..], &PEER, &[8, 0]].concat());
        let packet = ipv4::Packet::new_checked(&told[14..]).unwrap();
        assert!(packet.is_checksum_right());
        assert_eq!((packet.total_bytes(), packet.protocol()), (total, 1));
        assert_eq!((packet.source(), packet.destination()), ([10, 0, 0, 2].into(), [10, 0, 0, 1].into()));
        let icmp = packet.payload();
        assert_eq!(icmp[..2], [3, 4]);
        assert_eq!(icmp[4..8], [0, 0, 0x05, 0xaa], "1450");
        assert_eq!(checksum::of(icmp), 0);
        assert_eq!(icmp[8..], frame[14..14 + icmp.len() - 8]);
    }
    for (payload, total) in [(100, 188), (1480, 1280), (65_000, 1280)] {
        let frame = v6(peer6(), 6, &vec![7; payload]);
        let told = answer(&frame, 1430, NOBODY).unwrap();
        let packet = ipv6::Packet::new_checked(&told[14..]).unwrap();
        assert_eq!(told.len() - 14, total);
        assert_eq!((packet.source(), packet.destination()), (peer6(), "fd00::1".parse().unwrap()));
        let icmp = packet.payload();
        assert_eq!((icmp[0], icmp[1], &icmp[4..8]), (2, 0, &[0, 0, 0x05, 0x96][..]));
        assert_eq!(checksum::fold(packet.pseudo_header_sum(58, icmp.len()) + checksum::sum(icmp)), 0xffff);
        assert_eq!(icmp[8..], frame[14..14 + icmp.len() - 8]);
    }
}

#[test]
fn a_bridge_with_addresses_answers_itself_and_tags_stay() {
    let origin = Origin { v4: Some([10, 0, 0, 254].into()), v6: Some("fd00::ff".parse().unwrap()) };
    let mut frame = v4([10, 0, 0, 2], 17, 0, &[7; 1480]);
    frame.splice(12..12, [0x81, 0, 0, 5]);
    let told = answer(&frame, 1450, origin).unwrap();
    assert_eq!(told[12..18], [0x81, 0, 0, 5, 8, 0]);
    assert_eq!(ipv4::Packet::new_checked(&told[18..]).unwrap().source(), Ipv4Addr::from([10, 0, 0, 254]));
    let told = answer(&v6(peer6(), 17, &[7; 1480]), 1430, origin).unwrap();
    assert_eq!(ipv6::Packet::new_checked(&told[14..]).unwrap().source(), origin.v6.unwrap());
    // Path MTU discovery of a multicast sender: answered, by an individual.
    let mut frame = v6("ff0e::1".parse().unwrap(), 17, &[7; 1480]);
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(answer(&frame, 1430, origin).unwrap()[..12], [HOST, HOST].concat());
    assert_eq!(answer(&frame, 1430, NOBODY), Err(Silence::Group));
}

#[test]
fn some_packets_are_never_answered() {
    let big = [7; 1480];
    let silent = |frame: &[u8], why| assert_eq!(answer(frame, 1450, NOBODY), Err(why));
    for to in [[255; 4], [224, 0, 0, 1], [239, 1, 1, 1]] {
        silent(&v4(to, 17, 0, &big), Silence::Group);
    }
    let mut flooded = v4([10, 0, 0, 2], 17, 0, &big);
    flooded[0] = 0xff;
    silent(&flooded, Silence::Group);
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [240, 0, 0, 1]] {
        let mut frame = v4([10, 0, 0, 2], 17, 0, &big);
        frame[26..30].copy_from_slice(&source);
        silent(&frame, Silence::Source);
    }
    let mut group_source = v4([10, 0, 0, 2], 17, 0, &big);
    group_source[6] |= 1;
    silent(&group_source, Silence::Source);
    for kind in 0..=18 {
        let frame = v4([10, 0, 0, 2], 1, 0, &[&[kind][..], &big].concat());
        let is_error = matches!(kind, 3 | 4 | 5 | 11 | 12);
        assert_eq!(answer(&frame, 1450, NOBODY).is_err(), is_error, "ICMP {kind}");
    }
    for kind in 0..=255 {
        let frame = v6(peer6(), 58, &[&[kind][..], &big].concat());
        let is_error = kind < 128 || kind == 137;
        assert_eq!(answer(&frame, 1430, NOBODY) == Err(Silence::AboutError), is_error, "ICMPv6 {kind}");
    }
    silent(&v4([10, 0, 0, 2], 17, 0x2001, &big), Silence::LaterFragment);
    assert!(answer(&v4([10, 0, 0, 2], 17, 0x2000, &big), 1450, NOBODY).is_ok(), "the first fragment");
    silent(&v6(peer6(), 44, &[&[17, 0, 0, 0x81, 0, 0, 0, 1][..], &big].concat()), Silence::LaterFragment);
    silent(&[&PEER[..], &HOST, &[8, 6], &big].concat(), Silence::NotIp);
    assert_eq!(answer(&v4([10, 0, 0, 2], 17, 0, &big), 67, NOBODY), Err(Silence::Mtu));
    assert_eq!(answer(&v6(peer6(), 17, &big), 1279, NOBODY), Err(Silence::Mtu));
    let frame = v4([10, 0, 0, 2], 17, 0, &big);
    for room in [0, 13, 14, 34, 14 + 575] {
        assert_eq!(packet_too_big(&frame, 1450, NOBODY, &mut vec![0; room]), Err(Silence::NoRoom));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_by_a_right_packet_or_not_at_all(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        kind in 0..3_usize,
        mtu in 0..70_000_u32,
    ) {
        let mut frame = bytes;
        if let Some(space) = frame.get_mut(12..15) {
            space.copy_from_slice(&[[8, 0, 0x45], [0x86, 0xdd, 0x60], [0x81, 0, 0]][kind]);
        }
        if let Ok(told) = answer(&frame, mtu, NOBODY) {
            prop_assert!(told.len() <= ANSWER_BYTES_MAX);
            // An error is not answered: this cannot go on.
            prop_assert_eq!(answer(&told, mtu, NOBODY), Err(Silence::AboutError));
        }
    }
}
