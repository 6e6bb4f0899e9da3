use proptest::prelude::*;

use super::super::test_packets::Body;
use super::super::{Tuple, Upper};
use super::*;

const PORT: PortId = PortId(3);

/// A fragment of packet `id`.
fn packet(id: u32, offset_bytes: u16, payload_bytes: u16, more: bool) -> Packet {
    let fragment = match offset_bytes {
        0 => Fragment::First { id, payload_bytes },
        _ => Fragment::Later { id, offset_bytes, payload_bytes, more },
    };
    Packet {
        is_v6: false,
        network: 14,
        transport: 34,
        end: 34 + u32::from(payload_bytes),
        protocol: 17,
        hops: 64,
        dont_fragment: false,
        fragment,
        upper: Upper::Other,
        tuple: Body::Udp.tuple([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [0, 0]),
    }
}

/// What comes of a later fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Known(char),
    Held,
    Refused(DropReason),
}
use Came::{Held, Known, Refused};

type Table = FragmentTable<char, u32>;

fn ask(table: &mut Table, packet: &Packet, token: u32, now_s: u32) -> Came {
    match table.later(packet.fragment_key(PORT), packet, now_s) {
        Later::Known(decision) => Known(decision),
        Later::Unknown(room) => room.hold(token).map_or_else(Refused, |()| Held),
        Later::Refused(reason) => Refused(reason),
    }
}

/// The same; a frame's token is its offset.
fn put(table: &mut Table, id: u32, offset: u16, bytes: u16, more: bool, now_s: u32) -> Came {
    ask(table, &packet(id, offset, bytes, more), u32::from(offset), now_s)
}

fn first(table: &mut Table, id: u32, bytes: u16, decision: char, now_s: u32) -> Result<Vec<u32>, DropReason> {
    let packet = packet(id, 0, bytes, true);
    table.first(packet.fragment_key(PORT), &packet, decision, now_s)
}

fn expired(table: &mut Table, now_s: u32) -> Vec<(u32, DropReason)> {
    let mut dropped = Vec::new();
    table.expire(now_s, |frame, reason| dropped.push((frame, reason)));
    dropped
}

#[test]
fn in_order_nothing_waits() {
    let mut table = Table::default();
    assert_eq!(first(&mut table, 1, 1480, 'a', 0), Ok(vec![]));
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), Known('a'));
    assert_eq!(put(&mut table, 1, 2960, 100, false, 0), Known('a'));
    assert!(table.is_empty(), "all of it has passed");
    // The same identification is another packet now.
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), Held);
    assert_eq!(first(&mut table, 1, 1480, 'b', 0), Ok(vec![1480]));
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), Known('b'));
}

#[test]
fn patience_ends_sooner_than_a_packet_that_is_decided() {
    let mut table = Table::with_limits(Limits { patience_s: 2, ..Limits::default() });
    assert_eq!(first(&mut table, 1, 1480, 'a', 10), Ok(vec![]));
    assert_eq!(put(&mut table, 2, 1480, 1480, true, 10), Held);
    assert_eq!(put(&mut table, 3, 1480, 1480, true, 11), Held);
    assert_eq!(expired(&mut table, 11), []);
    assert_eq!(expired(&mut table, 12), [(1480, DropReason::FragmentTimeout)]);
    assert_eq!(first(&mut table, 3, 1480, 'c', 12), Ok(vec![1480]));
    assert_eq!(put(&mut table, 3, 1480, 1480, true, 39), Known('c'));
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 39), Known('a'));
    assert_eq!(expired(&mut table, 41), []);
    assert!(table.is_empty(), "what was decided is over as well");
}

#[test]
fn what_overtakes_the_first_waits_for_it() {
    let mut table = Table::default();
    assert_eq!(put(&mut table, 1, 2960, 100, false, 0), Held);
    assert_eq!(put(&mut table, 2, 1480, 100, false, 0), Held, "another packet");
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), Held);
    assert_eq!(table.held(), 3);
    assert_eq!(first(&mut table, 1, 1480, 'a', 0), Ok(vec![2960, 1480]));
    assert_eq!((table.held(), expired(&mut table, 0)), (1, vec![]));
    assert_eq!(put(&mut table, 1, 2960, 100, false, 0), Known('a'));
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), Known('a'));
    assert_eq!(first(&mut table, 2, 1480, 'b', 0), Ok(vec![1480]));
    assert_eq!(put(&mut table, 2, 1480, 100, false, 0), Known('b'));
    assert!(table.is_empty());
}

#[test]
fn time_is_bounded() {
    let mut table = Table::default();
    put(&mut table, 1, 1480, 1480, true, 100);
    put(&mut table, 2, 1480, 1480, true, 101);
    assert_eq!(first(&mut table, 3, 1480, 'a', 101), Ok(vec![]));
    assert_eq!(expired(&mut table, 129), []);
    assert_eq!(expired(&mut table, 130), [(1480, DropReason::FragmentTimeout)]);
    // What was decided is not known for ever either.
    assert_eq!(put(&mut table, 3, 1480, 8, true, 131), Held);
    assert_eq!(expired(&mut table, 200).len(), 2);
    assert!(table.is_empty() && table.held() == 0);
}

#[test]
fn overlaps_are_refused_with_all_of_the_packet() {
    let overlap = DropReason::FragmentOverlap;
    // One octet, before and behind; the same again; within; around.
    for (offset, bytes) in [(1472, 16), (2952, 16), (1480, 1480), (1600, 8), (1000, 3000)] {
        let mut table = Table::default();
        assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), Held);
        assert_eq!(put(&mut table, 1, 8000, 8, true, 0), Held);
        assert_eq!(put(&mut table, 1, offset, bytes, true, 0), Refused(overlap));
        assert_eq!(expired(&mut table, 0), [(1480, overlap), (8000, overlap)]);
        assert_eq!(first(&mut table, 1, 1480, 'a', 1), Err(overlap), "the rest, too");
        assert_eq!(put(&mut table, 1, 4000, 8, false, 1), Refused(overlap));
        assert_eq!(expired(&mut table, 30), []);
        assert_eq!(first(&mut table, 1, 1480, 'a', 30), Ok(vec![]), "until its time is over");
    }
    // The first one, on what is held, or twice, and one on what has passed.
    let mut table = Table::default();
    put(&mut table, 1, 8, 1480, true, 0);
    assert_eq!(first(&mut table, 1, 1480, 'a', 0), Err(overlap));
    assert_eq!(expired(&mut table, 0), [(8, overlap)]);
    assert_eq!(first(&mut table, 2, 1480, 'a', 0), Ok(vec![]));
    assert_eq!(first(&mut table, 2, 1480, 'b', 0), Err(overlap));
    assert_eq!(put(&mut table, 2, 1480, 8, false, 0), Refused(overlap));
    assert_eq!(first(&mut table, 3, 1480, 'a', 0), Ok(vec![]));
    assert_eq!(put(&mut table, 3, 1480, 8, true, 0), Known('a'));
    assert_eq!(put(&mut table, 3, 1480, 8, true, 0), Refused(overlap));
    assert_eq!(put(&mut table, 3, 1488, 8, true, 0), Refused(overlap));
}

#[test]
fn there_is_one_end() {
    for (offset, bytes, more) in [(1480, 8, false), (3000, 8, true), (3000, 8, false), (1992, 8, true)] {
        let mut table = Table::default();
        assert_eq!(put(&mut table, 1, 2000, 100, false, 0), Held);
        let expected = if offset == 1992 { Held } else { Refused(DropReason::FragmentOverlap) };
        assert_eq!(put(&mut table, 1, offset, bytes, more, 0), expected, "{offset} {bytes} {more}");
    }
    let mut table = Table::default();
    assert_eq!(put(&mut table, 1, 2000, 104, true, 0), Held);
    assert_eq!(put(&mut table, 1, 1000, 100, false, 0), Refused(DropReason::FragmentOverlap), "before what was seen");
}

#[test]
fn memory_is_bounded() {
    let full = DropReason::FragmentsFull;
    let limits = Limits { packets: 4, held: 5, held_per_packet: 3, held_bytes: 4100, patience_s: TIMEOUT_S };
    let mut table = Table::with_limits(limits);
    for offset in [8, 16, 24] {
        assert_eq!(put(&mut table, 1, offset, 8, true, 0), Held);
    }
    assert_eq!(put(&mut table, 1, 32, 8, true, 0), Refused(full), "per packet");
    assert_eq!(put(&mut table, 2, 1480, 3976, true, 0), Held);
    assert_eq!(put(&mut table, 3, 1480, 8, true, 0), Refused(full), "bytes");
    assert_eq!(first(&mut table, 2, 1480, 'a', 0), Ok(vec![1480]));
    assert_eq!(put(&mut table, 3, 1480, 8, true, 0), Held);
    assert_eq!(put(&mut table, 4, 1480, 8, true, 0), Held);
    assert_eq!(put(&mut table, 4, 1488, 8, true, 0), Refused(full), "altogether");
    assert_eq!((table.held(), expired(&mut table, 0)), (5, vec![]));
    // A fifth packet: the oldest goes.
    assert_eq!(first(&mut table, 5, 1480, 'b', 0), Ok(vec![]));
    assert_eq!(expired(&mut table, 0), [(8, full), (16, full), (24, full)]);
    // Pieces with gaps between them.
    let mut table = Table::default();
    assert_eq!(first(&mut table, 1, 8, 'a', 0), Ok(vec![]));
    let passed = (1..40).filter(|n| put(&mut table, 1, n * 16, 8, true, 0) == Known('a')).count();
    assert_eq!(passed, RANGES_MAX - 1);
    assert_eq!(put(&mut table, 1, 1000, 8, true, 0), Refused(full));
    // Room that is not taken leaves nothing behind.
    let mut table = Table::default();
    let one = packet(1, 1480, 8, true);
    assert!(matches!(table.later(one.fragment_key(PORT), &one, 0), Later::Unknown(_)));
    assert!(table.is_empty());
}

#[test]
fn an_identification_comes_again() {
    let mut table = Table::default();
    put(&mut table, 0, 1480, 8, true, 0);
    for id in 1..=DISTANCE_MAX as u32 + 1 {
        assert_eq!(first(&mut table, id, 1480, 'a', 0), Ok(vec![]));
    }
    assert_eq!(first(&mut table, 0, 1488, 'b', 0), Ok(vec![]), "not an overlap with what is long over");
    assert_eq!(expired(&mut table, 0), [(1480, DropReason::FragmentTimeout)]);
}

#[test]
fn keys_tell_packets_apart() {
    let one = packet(1, 0, 8, true);
    let key = one.fragment_key(PORT);
    assert_eq!(packet(1, 8, 8, true).fragment_key(PORT), key);
    for other in [
        Packet { protocol: 6, ..one }.fragment_key(PORT),
        one.fragment_key(PortId(4)),
        Packet { tuple: one.tuple.reversed(), ..one }.fragment_key(PORT),
        packet(2, 0, 8, true).fragment_key(PORT),
    ] {
        assert_ne!(other, key);
    }
    // In IPv6 later fragments may name another header.
    let (source, destination) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let v6 = Packet { is_v6: true, tuple: Tuple { source, destination, ..one.tuple }, ..one };
    assert_eq!(v6.fragment_key(PORT), Packet { protocol: 60, ..v6 }.fragment_key(PORT));
}

proptest! {
    /// In whatever order they come: all pass, and the table is empty.
    #[test]
    fn any_order_will_do(pieces in prop::collection::vec(1..180_u16, 2..12).prop_flat_map(|sizes| {
        let mut offset = 0;
        let mut pieces = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            pieces.push((offset, size * 8, index + 1 < sizes.len()));
            offset += size * 8;
        }
        Just(pieces).prop_shuffle()
    })) {
        let mut table = Table::default();
        let mut passed = Vec::new();
        let find = |offset: u32| *pieces.iter().find(|piece| u32::from(piece.0) == offset).unwrap();
        for &(offset, bytes, more) in &pieces {
            if offset != 0 {
                if put(&mut table, 1, offset, bytes, more, 0) == Known('a') {
                    passed.push(offset);
                }
                continue;
            }
            passed.push(0);
            for held in first(&mut table, 1, bytes, 'a', 0).unwrap() {
                let (offset, bytes, more) = find(held);
                prop_assert_eq!(put(&mut table, 1, offset, bytes, more, 0), Known('a'));
                passed.push(offset);
            }
        }
        passed.sort_unstable();
        let mut expected: Vec<u16> = pieces.iter().map(|piece| piece.0).collect();
        expected.sort_unstable();
        prop_assert_eq!(passed, expected);
        prop_assert!(table.is_empty() && table.held() == 0);
    }

    /// Whatever comes, every frame that is held comes out exactly once, no octet passes twice, and bounds hold.
    #[test]
    fn every_frame_comes_back_once(
        steps in prop::collection::vec((0..3_u32, 0..12_u16, 1..6_u16, any::<bool>(), 0..12_u32), 0..200),
    ) {
        let limits = Limits { packets: 2, held: 6, held_per_packet: 4, held_bytes: 200, patience_s: TIMEOUT_S };
        let mut table = Table::with_limits(limits);
        let (mut held, mut back, mut now_s) = (Vec::new(), Vec::new(), 0);
        for (token, &(id, start, units, more, wait_s)) in steps.iter().enumerate() {
            now_s += wait_s;
            back.extend(expired(&mut table, now_s).into_iter().map(|(frame, _)| frame));
            let packet = packet(id, start * 8, units * 8, more);
            if start == 0 {
                match first(&mut table, id, units * 8, 'a', now_s) {
                    Ok(released) => back.extend(released),
                    Err(reason) => prop_assert_eq!(reason, DropReason::FragmentOverlap),
                }
            } else if ask(&mut table, &packet, token as u32, now_s) == Held {
                held.push(token as u32);
            }
            prop_assert!(table.held() <= limits.held && table.held_bytes <= limits.held_bytes);
            prop_assert!(table.packets.len() <= limits.packets && table.packets.len() == table.order.len());
            prop_assert_eq!(table.held, table.packets.values().map(|packet| packet.held.len()).sum::<usize>());
        }
        back.extend(expired(&mut table, now_s + TIMEOUT_S).into_iter().map(|(frame, _)| frame));
        back.sort_unstable();
        prop_assert_eq!(back, held);
        prop_assert!(table.is_empty());
    }
}
