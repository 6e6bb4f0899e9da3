//! Learning and forwarding, and the frames that a bridge never forwards.

use vswitch::frame::DropReason;

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, P3, frame, frame_of, mac};

#[test]
fn a_broadcast_reaches_every_other_port_once() {
    let mut lab = Lab::new(5);
    let bytes = frame(BROADCAST, mac(1));
    lab.receive(P1, bytes.clone());
    for port in [P0, P2, P3] {
        assert_eq!(lab.sent_bytes(port), [bytes.as_slice()]);
        assert_eq!((lab.counters(port).tx_frames, lab.counters(port).tx_bytes), (1, bytes.len() as u64));
    }
    assert!(lab.sent(P1).is_empty(), "nothing comes back");
    let counters = lab.counters(P1);
    assert_eq!((counters.rx_frames, counters.rx_bytes), (1, bytes.len() as u64));
    assert_eq!(counters.flood_copies, 3, "four deliveries are the frame and three copies");
    assert_eq!(lab.totals().dropped(), 0);
}

#[test]
fn a_multicast_stays_a_flood_from_the_cache_too() {
    let mut lab = Lab::new(3);
    for _ in 0..4 {
        lab.receive(P0, frame([0x33, 0x33, 0, 0, 0, 1], mac(1)));
    }
    assert_eq!(lab.sent_counts(), [0, 4, 4]);
    assert_eq!(lab.counters(P0).flood_copies, 4);
    let worker = lab.datapath.worker_counters();
    assert_eq!((worker.cache_misses, worker.cache_hits), (1, 3));
}

#[test]
fn an_unknown_destination_is_flooded_until_it_is_learned() {
    let mut lab = Lab::new(3);
    lab.receive(P0, frame(mac(2), mac(1)));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 2, 2]);
    lab.receive(P1, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [1, 0, 0], "station 1 was learned from its own frames");
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 0], "the flood ended with the first frame of station 2");
    assert_eq!(lab.counters(P0).flood_copies, 2);
    assert_eq!(lab.fdb().len(), 2);
}

#[test]
fn the_flood_ends_within_the_burst_that_follows() {
    let mut lab = Lab::new(3);
    lab.receive(P1, frame(BROADCAST, mac(2)));
    lab.sent_counts();
    lab.receive_as_one_burst(P0, (0..40).map(|_| frame(mac(2), mac(1))));
    assert_eq!(lab.sent_counts(), [0, 40, 0]);
    let worker = lab.datapath.worker_counters();
    // The broadcast, the warm-up's flow (whose drop is cached) and the first of the burst.
    assert_eq!(worker.cache_misses, 3);
}

#[test]
fn a_station_that_moves_is_followed_at_once() {
    let mut lab = Lab::new(4);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    lab.receive(P1, frame(mac(1), mac(2)));
    lab.receive(P1, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [2, 1, 1, 1]);
    // Station 1 appears on port 2: the cached decision towards port 0 is void.
    lab.receive(P2, frame(BROADCAST, mac(1)));
    lab.sent_counts();
    lab.receive(P1, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [0, 0, 1, 0]);
    assert_eq!(lab.fdb().lookup(mac(1), 0), Some(P2));
}

#[test]
fn a_move_counts_for_the_next_frame_of_the_same_burst() {
    let mut lab = Lab::new(3);
    lab.receive(P1, frame(BROADCAST, mac(1)));
    lab.receive(P0, frame(mac(1), mac(2)));
    lab.sent_counts();
    // Station 1 moves to port 0, in the burst in which station 2 on port 0 talks to it.
    lab.receive_as_one_burst(P0, [frame(mac(1), mac(2)), frame(BROADCAST, mac(1)), frame(mac(1), mac(2))]);
    assert_eq!(lab.sent_counts(), [0, 2, 1], "the first frame and the broadcast");
    assert_eq!(lab.drops(P0), [(DropReason::SamePort, 1)], "the last one");
}

#[test]
fn a_pinned_address_neither_moves_nor_is_flushed() {
    let mut lab = Lab::new(3);
    assert!(lab.fdb().insert_static(mac(1), 0, P1, 0));
    lab.receive(P0, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [0, 1, 0], "known before it ever spoke");
    for _ in 0..3 {
        lab.receive(P2, frame(BROADCAST, mac(1)));
    }
    assert_eq!(lab.sent_counts(), [0, 0, 0]);
    assert_eq!(lab.drops(P2), [(DropReason::StaticMove, 3)]);
    lab.fdb().flush(None);
    lab.receive(P0, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [0, 1, 0]);
    // Unpinned, it may live where it likes.
    assert_eq!(lab.fdb().remove(mac(1), None), 1);
    lab.receive(P2, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [1, 1, 0]);
    assert_eq!(lab.drops(P2), [(DropReason::StaticMove, 3)]);
}

#[test]
fn a_destination_behind_the_same_port_gets_nothing() {
    let mut lab = Lab::new(2);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    lab.sent_counts();
    lab.receive(P0, frame(mac(1), mac(2)));
    lab.receive(P0, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [0, 0]);
    assert_eq!(lab.drops(P0), [(DropReason::SamePort, 2)]);
}

#[test]
fn link_local_addresses_are_never_forwarded() {
    let mut lab = Lab::new(2);
    for last in 0..0x10 {
        lab.receive(P0, frame([0x01, 0x80, 0xc2, 0, 0, last], mac(1)));
    }
    assert_eq!(lab.sent_counts(), [0, 0]);
    assert_eq!(lab.drops(P0), [(DropReason::LinkLocal, 16)]);
    assert!(lab.fdb().is_empty(), "nothing is learned from them");
    // The next addresses are ordinary groups.
    lab.receive(P0, frame([0x01, 0x80, 0xc2, 0, 0, 0x10], mac(1)));
    lab.receive(P0, frame([0x01, 0x80, 0xc2, 0, 1, 0], mac(1)));
    assert_eq!(lab.sent_counts(), [0, 2]);
}

#[test]
fn a_group_source_is_malformed() {
    let mut lab = Lab::new(2);
    lab.receive(P0, frame(mac(1), BROADCAST));
    lab.receive(P0, frame(BROADCAST, [0x01, 0, 0x5e, 0, 0, 1]));
    assert_eq!(lab.sent_counts(), [0, 0]);
    assert_eq!(lab.drops(P0), [(DropReason::Malformed, 2)]);
    assert!(lab.fdb().is_empty());
}

#[test]
fn runts_and_truncated_tags_are_counted_and_end_there() {
    let mut lab = Lab::new(2);
    let whole = frame_of(BROADCAST, mac(1), Some(0), b"");
    for len in 0..14 {
        lab.receive(P0, whole[..len].to_vec());
    }
    assert_eq!(lab.drops(P0), [(DropReason::Runt, 14)]);
    for len in 14..18 {
        lab.receive(P0, whole[..len].to_vec());
    }
    assert_eq!(lab.drops(P0), [(DropReason::Runt, 14), (DropReason::Malformed, 4)]);
    assert_eq!(lab.sent_counts(), [0, 0]);
    // The shortest frames that are frames: a bare header, without and with a tag.
    lab.receive(P0, frame_of(BROADCAST, mac(1), None, b""));
    lab.receive(P0, whole.clone());
    assert_eq!(lab.sent_bytes(P1), [frame_of(BROADCAST, mac(1), None, b""), whole]);
    // What the switch itself says is looked at in the same way.
    lab.datapath.inject(P0, &[0xff; 13]);
    assert_eq!(lab.datapath.totals().drops[DropReason::Runt as usize], 15);
}

#[test]
fn bad_frames_do_not_disturb_their_neighbours() {
    let mut lab = Lab::new(2);
    let good = |n| frame_of(BROADCAST, mac(1), None, &[n; 46]);
    let truncated = frame_of(BROADCAST, mac(1), Some(0), b"")[..16].to_vec();
    let burst = [good(1), vec![0; 5], truncated, good(2), frame(mac(2), BROADCAST), good(3)];
    lab.receive_as_one_burst(P0, burst);
    assert_eq!(lab.sent_bytes(P1), [good(1), good(2), good(3)]);
    assert_eq!(lab.drops(P0), [(DropReason::Runt, 1), (DropReason::Malformed, 2)]);
}

#[test]
fn a_bridge_with_one_port_has_no_destination() {
    let mut lab = Lab::new(1);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.drops(P0), [(DropReason::NoDestination, 2)]);
    assert_eq!(lab.counters(P0).flood_copies, 0);
}

#[test]
fn what_the_switch_injects_is_forwarded_and_learned() {
    let mut lab = Lab::new(3);
    lab.datapath.inject(P1, &frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [1, 0, 1]);
    assert_eq!(lab.fdb().lookup(mac(1), 0), Some(P1));
    assert_eq!(lab.counters(P1).rx_frames, 0, "the port received nothing");
    let totals = lab.totals();
    assert_eq!((totals.rx_frames, totals.flood_copies, totals.tx_frames), (1, 1, 2));
    // From a port that is not there.
    lab.datapath.inject(P3, &frame(BROADCAST, mac(1)));
    assert_eq!(lab.totals().drops[DropReason::PortDetached as usize], 1);
    assert_eq!(lab.sent_counts(), [0, 0, 0]);
}
