//! Configuration that changes while there is traffic: the next frame follows the new one.

use vswitch::frame::DropReason;
use vswitch::io::Caps;
use vswitch::io::mem::MemDevice;
use vswitch::snapshot::{BridgeId, PortId};

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, P3, Topology, frame, mac};

/// Two bridges: ports 0, 1 and 2 on the first, port 3 on the second.
fn two_bridges() -> Lab {
    let mut topology = Topology::new(2);
    for bridge in [0, 0, 0, 1] {
        topology.attach(bridge, MemDevice::new(Caps::ALL));
    }
    Lab::with_topology(topology, 256)
}

/// Makes the decision from station 1 on port 0 to station 2 on port 1 a cached one.
fn converse(lab: &mut Lab) {
    lab.receive(P1, frame(BROADCAST, mac(2)));
    for _ in 0..2 {
        lab.receive(P0, frame(mac(2), mac(1)));
    }
    lab.sent_counts();
}

#[test]
fn bridges_do_not_see_one_another() {
    let mut lab = two_bridges();
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 0]);
    lab.receive(P3, frame(mac(1), mac(4)));
    assert_eq!(lab.sent_counts(), [0, 0, 0, 0]);
    assert_eq!(lab.drops(P3), [(DropReason::NoDestination, 1)]);
}

#[test]
fn a_port_that_is_removed_neither_gets_nor_gives() {
    let mut lab = two_bridges();
    converse(&mut lab);
    lab.topology.device(P1).inject(frame(BROADCAST, mac(2)));
    lab.configure(|topology| topology.detach(P1));
    lab.datapath.drain(P1);
    assert_eq!(lab.sent_counts(), [0, 0, 0, 0], "what waits in a port that is gone is not received");
    // The address is still known, but nobody is there: unknown, and so flooded.
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 1, 0]);
    assert_eq!(lab.datapath.worker_counters().ports, 3);
    assert_eq!(lab.totals().dropped(), 0);
}

#[test]
fn a_port_under_a_reused_id_is_another_port() {
    let mut lab = two_bridges();
    converse(&mut lab);
    let old = lab.topology.device(P1).clone();
    old.inject(frame(BROADCAST, mac(2)));
    lab.configure(|topology| topology.replace(P1, 1, MemDevice::new(Caps::ALL)));
    lab.datapath.drain(P1);
    lab.receive(P0, frame(mac(2), mac(1)));
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 2, 0], "the new port is on another bridge");
    lab.receive(P1, frame(BROADCAST, mac(5)));
    assert_eq!(lab.sent_counts(), [0, 0, 0, 1]);
    assert!(old.take_sent().is_empty());
}

#[test]
fn a_port_that_changes_its_bridge_takes_nothing_along() {
    let mut lab = two_bridges();
    converse(&mut lab);
    lab.configure(|topology| topology.port(P1).bridge = BridgeId(1));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 1, 0]);
    lab.receive(P1, frame(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [0, 0, 0, 1], "station 1 is unknown there");
    lab.configure(|topology| topology.port(P1).bridge = BridgeId(0));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 0, 0]);
}

#[test]
fn what_the_control_plane_does_to_the_database_holds_at_once() {
    let mut lab = two_bridges();
    converse(&mut lab);
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 0, 0]);
    assert_eq!(lab.fdb().flush(Some(P1)), 1);
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 0]);
    converse(&mut lab);
    assert_eq!(lab.fdb().remove(mac(2), Some(0)), 1);
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 0]);
    converse(&mut lab);
    assert!(lab.fdb().insert_static(mac(2), 0, P2, 0));
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 1, 0]);
    assert_eq!(lab.fdb().remove_port(P2), 1);
    converse(&mut lab);
    // Ageing: in a time when everything is old.
    assert_eq!(lab.fdb().sweep(u32::MAX), 2);
    lab.receive(P0, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 0]);
}

#[test]
fn a_publication_that_changes_nothing_costs_one_miss_per_flow() {
    let mut lab = two_bridges();
    converse(&mut lab);
    for _ in 0..5 {
        lab.configure(|_| {});
        let before = lab.datapath.worker_counters();
        for _ in 0..10 {
            lab.receive(P0, frame(mac(2), mac(1)));
        }
        let after = lab.datapath.worker_counters();
        assert_eq!((after.cache_misses - before.cache_misses, after.cache_hits - before.cache_hits), (1, 9));
        assert_eq!(lab.sent_counts(), [0, 10, 0, 0]);
    }
}

#[test]
fn a_port_without_reader_is_still_sent_to() {
    let mut lab = two_bridges();
    lab.configure(|topology| topology.port(P1).reader = None);
    lab.topology.device(P1).inject(frame(BROADCAST, mac(2)));
    lab.datapath.drain(P1);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 0]);
    // What waited is received when it is read again.
    lab.configure(|topology| topology.port(P1).reader = Some(0));
    lab.datapath.drain(P1);
    assert_eq!(lab.sent_counts(), [1, 0, 1, 0]);
}

#[test]
fn an_injection_goes_by_the_newest_snapshot() {
    let mut lab = two_bridges();
    lab.configure(|topology| topology.detach(P1));
    lab.datapath.inject(P1, &frame(BROADCAST, mac(2)));
    assert_eq!(lab.totals().drops[DropReason::PortDetached as usize], 1);
    lab.datapath.inject(PortId(999), &frame(BROADCAST, mac(2)));
    assert_eq!(lab.totals().drops[DropReason::PortDetached as usize], 2);
    assert_eq!(lab.sent_counts(), [0, 0, 0, 0]);
}
