//! Frames that do not fit through the port that they are for: fragmented, or answered.

use vswitch::frame::{Csum, DropReason, Gso, GsoKind, Offload};
use vswitch::io::Caps;
use vswitch::io::mem::MemFrame;
use vswitch::snapshot::VlanMode;
use vswitch::wire::ipv4;

use crate::fixture::{Lab, P0, P1, P2, mac};

/// From station 1, behind port 0, to station 2, behind port 1.
fn packet(bytes: usize, dont_fragment: bool) -> Vec<u8> {
    let mut frame = [&mac(2)[..], &mac(1), &[8, 0]].concat();
    let flags = if dont_fragment { 0x40 } else { 0 };
    frame.extend([0x45, 0, (bytes >> 8) as u8, bytes as u8, 0, 7, flags, 0, 64, 17, 0, 0]);
    frame.extend([172, 18, 0, 2, 172, 18, 0, 3]);
    frame.extend([0x9c, 0x40, 0x14, 0x51]);
    frame.extend((bytes as u16 - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(14 + bytes, 0x5a);
    frame
}

/// Two stations; port 1 takes packets of 1450 bytes.
fn lab() -> Lab {
    let mut lab = Lab::with_caps(&[Caps::ALL; 3]);
    lab.configure(|topology| topology.port(P1).mtu = 1450);
    lab.fdb().insert_static(mac(1), 0, P0, 0);
    lab.fdb().insert_static(mac(2), 0, P1, 0);
    lab
}

#[test]
fn what_fits_passes_and_what_does_not_is_answered() {
    let mut lab = lab();
    lab.receive(P0, packet(1450, true));
    assert_eq!(lab.sent_counts(), [0, 1, 0]);
    lab.receive(P0, packet(1451, true));
    assert_eq!(lab.drops(P1), [(DropReason::TooBig, 1)]);
    let answers = lab.sent_bytes(P0);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][..14], [&mac(1)[..], &mac(2), &[8, 0]].concat());
    assert_eq!(answers[0][34..36], [3, 4]);
    assert_eq!(answers[0][40..42], 1450u16.to_be_bytes());
}

#[test]
fn what_may_be_fragmented_is() {
    let mut lab = lab();
    lab.receive(P0, packet(4000, false));
    let fragments = lab.sent_bytes(P1);
    let mut whole: Vec<u8> = Vec::new();
    for fragment in &fragments {
        let packet = ipv4::Packet::new_checked(&fragment[14..]).unwrap();
        assert!(packet.total_bytes() <= 1450 && packet.fragment_offset() == whole.len());
        whole.extend(packet.payload());
    }
    assert_eq!(whole, packet(4000, false)[34..]);
    assert_eq!(fragments.len(), 3);
    assert_eq!((lab.counters(P1).segments, lab.totals().dropped()), (2, 0));
}

#[test]
fn an_unfinished_checksum_is_finished_before_fragments_are_made() {
    let mut lab = lab();
    let mut bytes = packet(2000, false);
    // The sum of the pseudo header, which is what an unfinished checksum holds.
    let pseudo = [0xac12u32, 2, 0xac12, 3, 17, 1980].iter().sum::<u32>();
    let field = ((pseudo & 0xffff) + (pseudo >> 16)) as u16;
    bytes[40..42].copy_from_slice(&field.to_be_bytes());
    let offload = Offload { csum: Csum::Partial { start: 34, offset: 6 }, gso: None };
    lab.receive(P0, MemFrame { bytes: bytes.clone(), offload });
    let whole: Vec<u8> = lab.sent_bytes(P1).iter().flat_map(|fragment| fragment[34..].to_vec()).collect();
    assert!(vswitch::frame::checksum::complete_partial(&mut bytes, 34, 6));
    assert_eq!(whole, bytes[34..]);
}

#[test]
fn a_super_frame_whose_segments_are_too_big_is_answered_with_a_segments_length() {
    let mut lab = lab();
    let mut bytes = packet(30_000, true);
    bytes[23] = 6;
    bytes[46] = 0x50;
    let gso = Gso { kind: GsoKind::Tcp4, size: 1460, ecn: false };
    let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(gso) };
    lab.receive(P0, MemFrame { bytes, offload });
    assert_eq!(lab.drops(P1), [(DropReason::TooBig, 1)]);
    assert_eq!(lab.sent_bytes(P0)[0][14 + 28 + 2..][..2], 1500u16.to_be_bytes());
}

#[test]
fn the_answer_has_the_tag_that_the_packet_came_with() {
    let mut lab = lab();
    lab.configure(|topology| {
        topology.port(P0).vlan = VlanMode::Access(7);
        topology.port(P1).vlan = VlanMode::Transparent;
    });
    lab.fdb().insert_static(mac(2), 7, P1, 0);
    lab.receive(P0, packet(1500, true));
    let answers = lab.sent_bytes(P0);
    assert_eq!(answers[0][12..14], [8, 0], "an access port has no tags");
}

#[test]
fn a_flood_and_a_stranger_are_not_answered() {
    let mut lab = lab();
    let mut unknown = packet(1500, true);
    unknown[5] = 99;
    lab.receive(P0, unknown);
    assert_eq!(lab.sent_counts(), [0, 0, 1]);
    assert_eq!(lab.drops(P1), [(DropReason::TooBig, 1)]);
    assert!(lab.sent(P2).is_empty());
}

#[test]
fn answers_are_limited() {
    let mut lab = lab();
    for _ in 0..500 {
        lab.receive(P0, packet(1500, true));
    }
    let answers = lab.sent(P0).len();
    assert!((100..400).contains(&answers), "{answers} answers at once");
}
