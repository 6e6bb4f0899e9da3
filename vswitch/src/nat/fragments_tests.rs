use proptest::prelude::*;

use super::super::Tuple;
use super::super::test_packets::Body;
use super::*;

const PORT: PortId = PortId(3);

fn key(id: u32) -> FragmentKey {
    let [source, destination] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
    FragmentKey { source, destination, id, protocol: 17, port: PORT }
}

fn first(bytes: u16) -> Fragment {
    Fragment::First { id: 1, payload_bytes: bytes }
}

fn later(offset: u16, bytes: u16, more: bool) -> Fragment {
    Fragment::Later { id: 1, offset_bytes: offset, payload_bytes: bytes, more }
}

type Table = FragmentTable<char, u32>;

/// A frame's token is its offset.
fn put(table: &mut Table, id: u32, offset: u16, bytes: u16, more: bool, now_s: u32) -> Option<(char, u32)> {
    table.later(key(id), later(offset, bytes, more), u32::from(offset), usize::from(bytes), now_s)
}

fn dropped(table: &mut Table) -> Vec<(u32, DropReason)> {
    table.dropped().collect()
}

#[test]
fn in_order_nothing_waits() {
    let mut table = Table::default();
    assert_eq!(table.first(key(1), first(1480), 'a', 0), Ok(vec![]));
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), Some(('a', 1480)));
    assert_eq!(put(&mut table, 1, 2960, 100, false, 0), Some(('a', 2960)));
    assert!(table.is_empty(), "all of it was seen");
    // The same identification is another packet now.
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), None);
    assert_eq!(table.first(key(1), first(1480), 'b', 0), Ok(vec![1480]));
}

#[test]
fn what_overtakes_the_first_waits_for_it() {
    let mut table = Table::default();
    assert_eq!(put(&mut table, 1, 2960, 100, false, 0), None);
    assert_eq!(put(&mut table, 2, 1480, 100, false, 0), None, "another packet");
    assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), None);
    assert_eq!(table.held(), 3);
    assert_eq!(table.first(key(1), first(1480), 'a', 0), Ok(vec![2960, 1480]));
    assert_eq!((table.held(), dropped(&mut table)), (1, vec![]));
}

#[test]
fn time_is_bounded() {
    let mut table = Table::default();
    put(&mut table, 1, 1480, 1480, true, 100);
    put(&mut table, 2, 1480, 1480, true, 101);
    assert_eq!(table.first(key(3), first(1480), 'a', 101), Ok(vec![]));
    assert_eq!(table.deadline_s(), Some(130));
    table.expire(129);
    assert_eq!(dropped(&mut table), []);
    table.expire(130);
    assert_eq!(dropped(&mut table), [(1480, DropReason::FragmentTimeout)]);
    // What was decided is not known for ever either.
    assert_eq!(put(&mut table, 3, 1480, 8, true, 131), None);
    table.expire(200);
    assert_eq!(dropped(&mut table).len(), 2);
    assert!(table.is_empty() && table.held() == 0 && table.deadline_s().is_none());
}

#[test]
fn overlaps_are_refused_with_all_of_the_packet() {
    let overlap = DropReason::FragmentOverlap;
    // One octet, before and behind; the same again; within; around.
    for (offset, bytes) in [(1472, 16), (2952, 16), (1480, 1480), (1600, 8), (1000, 3000)] {
        let mut table = Table::default();
        assert_eq!(put(&mut table, 1, 1480, 1480, true, 0), None);
        assert_eq!(put(&mut table, 1, 8000, 8, true, 0), None);
        assert_eq!(put(&mut table, 1, offset, bytes, true, 0), None);
        assert_eq!(dropped(&mut table), [(1480, overlap), (8000, overlap), (u32::from(offset), overlap)]);
        assert_eq!(table.first(key(1), first(1480), 'a', 1), Err(overlap), "the rest, too");
        assert_eq!(put(&mut table, 1, 4000, 8, false, 1), None);
        assert_eq!(dropped(&mut table), [(4000, overlap)]);
        table.expire(30);
        assert_eq!(table.first(key(1), first(1480), 'a', 30), Ok(vec![]), "until its time is over");
    }
    // The first one, on what is held, or twice.
    let mut table = Table::default();
    put(&mut table, 1, 8, 1480, true, 0);
    assert_eq!(table.first(key(1), first(1480), 'a', 0), Err(overlap));
    assert_eq!(dropped(&mut table), [(8, overlap)]);
    assert_eq!(table.first(key(2), first(1480), 'a', 0), Ok(vec![]));
    assert_eq!(table.first(key(2), first(1480), 'b', 0), Err(overlap));
    assert_eq!(put(&mut table, 2, 1480, 8, false, 0), None);
}

#[test]
fn there_is_one_end() {
    for (offset, bytes, more) in [(1480, 8, false), (3000, 8, true), (3000, 8, false), (1992, 8, true)] {
        let mut table = Table::default();
        assert_eq!(put(&mut table, 1, 2000, 100, false, 0), None);
        assert_eq!(put(&mut table, 1, offset, bytes, more, 0), None);
        let refused = offset != 1992;
        assert_eq!(dropped(&mut table).len(), if refused { 2 } else { 0 }, "{offset} {bytes} {more}");
    }
    let mut table = Table::default();
    assert_eq!(put(&mut table, 1, 2000, 104, true, 0), None);
    assert_eq!(put(&mut table, 1, 1000, 100, false, 0), None, "before what was seen");
    assert_eq!(dropped(&mut table).len(), 2);
}

#[test]
fn memory_is_bounded() {
    let full = DropReason::FragmentsFull;
    let limits = Limits { packets: 4, held: 5, held_per_packet: 3, held_bytes: 4000 };
    let mut table = Table::new(limits);
    for offset in [8, 16, 24, 32] {
        assert_eq!(put(&mut table, 1, offset, 8, true, 0), None);
    }
    assert_eq!(dropped(&mut table), [(32, full)], "per packet");
    assert_eq!(put(&mut table, 2, 1480, 3976, true, 0), None);
    assert_eq!(put(&mut table, 3, 1480, 8, true, 0), None);
    assert_eq!(dropped(&mut table), [(1480, full)], "bytes");
    assert_eq!(table.first(key(2), first(1480), 'a', 0), Ok(vec![1480]));
    assert_eq!(put(&mut table, 3, 1480, 8, true, 0), None);
    assert_eq!(put(&mut table, 4, 1480, 8, true, 0), None);
    assert_eq!(put(&mut table, 4, 1488, 8, true, 0), None);
    assert_eq!(dropped(&mut table), [(1488, full)], "altogether");
    assert_eq!((table.held(), dropped(&mut table)), (5, vec![]));
    // A fifth packet: the oldest goes.
    assert_eq!(table.first(key(5), first(1480), 'b', 0), Ok(vec![]));
    assert_eq!(dropped(&mut table), [(8, full), (16, full), (24, full)]);
    table.clear(DropReason::PortGone);
    assert_eq!((dropped(&mut table).len(), table.held(), table.is_empty()), (2, 0, true));
    // Pieces with gaps between them.
    let mut table = Table::default();
    assert_eq!(table.first(key(1), first(8), 'a', 0), Ok(vec![]));
    let passed = (1..40).filter(|n| put(&mut table, 1, n * 16, 8, true, 0).is_some()).count();
    assert_eq!((passed, dropped(&mut table).len()), (RANGES_MAX - 1, 39 - (RANGES_MAX - 1)));
}

#[test]
fn an_identification_comes_again() {
    let mut table = Table::default();
    put(&mut table, 0, 1480, 8, true, 0);
    for id in 1..=DISTANCE_MAX as u32 + 1 {
        assert_eq!(table.first(key(id), first(1480), 'a', 0), Ok(vec![]));
    }
    assert_eq!(table.first(key(0), first(1488), 'b', 0), Ok(vec![]), "not an overlap with what is long over");
    assert_eq!(dropped(&mut table), [(1480, DropReason::FragmentTimeout)]);
}

#[test]
fn keys_tell_packets_apart() {
    let tuple = Body::Udp.tuple([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [0, 0]);
    let packet = Packet {
        is_v6: false,
        network: 14,
        transport: 34,
        end: 100,
        protocol: 17,
        hops: 64,
        dont_fragment: false,
        fragment: first(64),
        upper: super::super::Upper::Other,
        tuple,
    };
    let one = FragmentKey::of(&packet, PORT).unwrap();
    assert_eq!(FragmentKey::of(&Packet { fragment: later(8, 8, true), ..packet }, PORT), Some(one));
    assert_eq!(FragmentKey::of(&Packet { fragment: Fragment::None, ..packet }, PORT), None);
    for other in [
        FragmentKey::of(&Packet { protocol: 6, ..packet }, PORT),
        FragmentKey::of(&packet, PortId(4)),
        FragmentKey::of(&Packet { tuple: tuple.reversed(), ..packet }, PORT),
        FragmentKey::of(&Packet { fragment: Fragment::First { id: 2, payload_bytes: 8 }, ..packet }, PORT),
    ] {
        assert_ne!(other, Some(one));
    }
    // In IPv6 later fragments may name another header.
    let v6 = Tuple { source: "fd00::1".parse().unwrap(), destination: "fd00::2".parse().unwrap(), ..tuple };
    let v6 = Packet { is_v6: true, tuple: v6, ..packet };
    assert_eq!(FragmentKey::of(&v6, PORT), FragmentKey::of(&Packet { protocol: 60, ..v6 }, PORT));
}

proptest! {
    /// In whatever order they come: all pass, and the table is empty.
    #[test]
    fn any_order_will_do(
        sizes in prop::collection::vec(1..180_u16, 2..12),
        order in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let mut offset = 0;
        let mut pieces: Vec<(u16, u16, bool)> = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            pieces.push((offset, size * 8, index + 1 < sizes.len()));
            offset += size * 8;
        }
        let mut state = seed | 1;
        for index in (1..pieces.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(order.index(1000) as u64 * 2 + 1);
            pieces.swap(index, (state >> 33) as usize % (index + 1));
        }
        let mut table = Table::default();
        let mut passed = Vec::new();
        for &(offset, bytes, more) in &pieces {
            if offset == 0 {
                passed.push(0);
                passed.extend(table.first(key(1), first(bytes), 'a', 0).unwrap());
            } else {
                passed.extend(put(&mut table, 1, offset, bytes, more, 0).map(|(_, frame)| frame));
            }
        }
        passed.sort_unstable();
        let mut expected: Vec<u32> = pieces.iter().map(|piece| u32::from(piece.0)).collect();
        expected.sort_unstable();
        prop_assert_eq!(passed, expected);
        prop_assert!(table.is_empty() && table.held() == 0);
    }

    /// Against a list of octets: nothing passes twice, every frame comes out exactly once, and bounds hold.
    #[test]
    fn every_frame_comes_back_once(
        steps in prop::collection::vec((0..3_u32, 0..12_u16, 1..6_u16, any::<bool>(), 0..12_u32), 0..200),
    ) {
        let limits = Limits { packets: 2, held: 6, held_per_packet: 4, held_bytes: 200 };
        let mut table: FragmentTable<(), u32> = FragmentTable::new(limits);
        let (mut out, mut now_s) = (Vec::new(), 0);
        for (token, &(id, start, bytes, more, wait_s)) in steps.iter().enumerate() {
            now_s += wait_s;
            table.expire(now_s);
            let token = token as u32;
            if start == 0 {
                match table.first(key(id), first(bytes * 8), (), now_s) {
                    Ok(held) => out.extend(held),
                    Err(reason) => prop_assert_eq!(reason, DropReason::FragmentOverlap),
                }
                out.push(token);
            } else if let Some(((), frame)) =
                table.later(key(id), later(start * 8, bytes * 8, more), token, usize::from(bytes) * 8, now_s)
            {
                out.push(frame);
            }
            prop_assert!(table.held() <= limits.held && table.held_bytes <= limits.held_bytes);
            prop_assert!(table.packets.len() <= limits.packets && table.packets.len() == table.order.len());
            prop_assert_eq!(table.held, table.packets.values().map(|packet| packet.held.len()).sum::<usize>());
            out.extend(table.dropped().map(|(frame, _)| frame));
        }
        table.clear(DropReason::PortGone);
        out.extend(table.dropped().map(|(frame, _)| frame));
        out.sort_unstable();
        prop_assert_eq!(out, (0..steps.len() as u32).collect::<Vec<_>>());
    }
}
