//! Isolation, storm limit, rates and MTU.
//!
//! Rates are so low that a bucket does not fill again while a test runs: what passes is exactly
//! what the bucket tolerates at once.

use std::sync::Arc;

use vswitch::datapath::rate::SharedBucket;
use vswitch::frame::{DropReason, Gso, Offload};
use vswitch::io::mem::MemFrame;
use vswitch::snapshot::PortKind;

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, P3, frame, frame_of, mac};
use crate::wire_packets::{Spec, payload};

/// In bits per second: ten bytes.
const SLOW_BPS: u64 = 80;
/// The burst that such a rate tolerates, in bytes; the frame that exceeds it still passes.
const TOLERATED_BYTES: usize = 128 * 1024;

fn kilobyte(destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    frame_of(destination, source, None, &[7; 1000 - 14])
}

const PASSING_KILOBYTES: usize = TOLERATED_BYTES / 1000 + 1;

#[test]
fn isolated_containers_reach_the_host_only() {
    let mut lab = Lab::new(4);
    lab.configure(|topology| {
        topology.bridges[0].icc = false;
        topology.port(P0).kind = PortKind::Host;
    });
    lab.receive(P1, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [1, 0, 0, 0]);
    lab.receive(P2, frame(BROADCAST, mac(2)));
    lab.receive(P0, frame(BROADCAST, mac(9)));
    assert_eq!(lab.sent_counts(), [1, 1, 1, 1], "the host reaches everybody");
    for _ in 0..3 {
        lab.receive(P1, frame(mac(2), mac(1)));
    }
    assert_eq!(lab.drops(P1), [(DropReason::Isolated, 3)]);
    lab.receive(P1, frame(mac(9), mac(1)));
    lab.receive(P0, frame(mac(1), mac(9)));
    assert_eq!(lab.sent_counts(), [1, 1, 0, 0]);
    // Unknown to the bridge: to the host as well, and to nobody else.
    lab.receive(P3, frame(mac(77), mac(3)));
    assert_eq!(lab.sent_counts(), [1, 0, 0, 0]);
    // Without isolation the very next frame passes.
    lab.configure(|topology| topology.bridges[0].icc = true);
    lab.receive(P1, frame(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 1, 0]);
}

#[test]
fn an_isolated_container_without_a_host_talks_to_nobody() {
    let mut lab = Lab::new(2);
    lab.configure(|topology| topology.bridges[0].icc = false);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.drops(P0), [(DropReason::NoDestination, 1)]);
}

#[test]
fn a_storm_is_limited_by_port_and_leaves_unicast_alone() {
    let mut lab = Lab::new(3);
    lab.configure(|topology| topology.bridges[0].storm_limit = Some(1));
    lab.receive(P2, frame(BROADCAST, mac(3)));
    lab.sent_counts();
    // Broadcast, multicast and unknown unicast draw on the same limit.
    for destination in [BROADCAST, [0x33, 0x33, 0, 0, 0, 1], mac(99), BROADCAST] {
        lab.receive(P0, frame(destination, mac(1)));
    }
    assert_eq!(lab.sent_counts(), [0, 1, 1]);
    assert_eq!(lab.drops(P0), [(DropReason::Storm, 3)]);
    for _ in 0..10 {
        lab.receive(P0, frame(mac(3), mac(1)));
    }
    assert_eq!(lab.sent_counts(), [0, 0, 10]);
    lab.receive(P1, frame(BROADCAST, mac(2)));
    assert_eq!(lab.sent_counts(), [1, 0, 1], "each port has its own");
    // A publication that does not concern the limit does not give anybody a new one.
    lab.configure(|topology| topology.port(P1).mtu = 9000);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.drops(P0), [(DropReason::Storm, 4)]);
    lab.configure(|topology| topology.bridges[0].storm_limit = None);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1]);
}

#[test]
fn an_ingress_rate_lets_its_burst_through_and_no_more() {
    let mut lab = Lab::new(2);
    lab.configure(|topology| topology.port(P0).ingress_rate_bps = Some(SLOW_BPS));
    lab.receive(P1, frame(BROADCAST, mac(2)));
    lab.sent_counts();
    for _ in 0..PASSING_KILOBYTES + 20 {
        lab.receive(P0, kilobyte(mac(2), mac(1)));
    }
    assert_eq!(lab.sent_counts(), [0, PASSING_KILOBYTES]);
    assert_eq!(lab.drops(P0), [(DropReason::IngressRate, 20)]);
    // The other direction is not limited, and a publication does not fill the bucket.
    lab.configure(|topology| topology.port(P1).mtu = 9000);
    lab.receive(P0, kilobyte(mac(2), mac(1)));
    lab.receive(P1, kilobyte(mac(1), mac(2)));
    assert_eq!(lab.sent_counts(), [1, 0]);
    assert_eq!(lab.drops(P0), [(DropReason::IngressRate, 21)]);
    lab.configure(|topology| topology.port(P0).ingress_rate_bps = None);
    lab.receive(P0, kilobyte(mac(2), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1]);
}

#[test]
fn an_egress_rate_limits_what_all_others_send_to_a_port() {
    let mut lab = Lab::new(3);
    let bucket = Arc::new(SharedBucket::new(SLOW_BPS));
    lab.configure(|topology| topology.port(P2).egress_bucket = Some(Arc::clone(&bucket)));
    lab.receive(P2, frame(BROADCAST, mac(3)));
    lab.sent_counts();
    for _ in 0..PASSING_KILOBYTES / 2 {
        lab.receive(P0, kilobyte(mac(3), mac(1)));
        lab.receive(P1, kilobyte(mac(3), mac(2)));
    }
    assert_eq!(PASSING_KILOBYTES % 2, 0);
    assert_eq!(lab.sent_counts(), [0, 0, PASSING_KILOBYTES]);
    lab.receive(P0, kilobyte(mac(3), mac(1)));
    lab.receive(P1, kilobyte(mac(3), mac(2)));
    // A flood is limited towards that port alone.
    lab.receive(P0, kilobyte(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 0]);
    assert_eq!(lab.drops(P2), [(DropReason::EgressRate, 3)], "counted where the frames should have gone");
    assert_eq!((lab.drops(P0), lab.drops(P1)), (vec![], vec![]));
    // The bucket survives a publication.
    lab.configure(|topology| topology.port(P0).mtu = 9000);
    lab.receive(P0, kilobyte(mac(3), mac(1)));
    assert_eq!(lab.drops(P2), [(DropReason::EgressRate, 4)]);
}

#[test]
fn a_super_frame_passes_a_slow_rate_and_is_paid_back() {
    let mut lab = Lab::new(2);
    lab.configure(|topology| topology.port(P0).ingress_rate_bps = Some(SLOW_BPS));
    let spec = Spec { payload: payload(60_000), ..Spec::default() };
    let super_frame = MemFrame {
        bytes: spec.build(),
        offload: Offload { csum: spec.partial(), gso: Some(Gso { kind: spec.kind(), ecn: false, size: 1448 }) },
    };
    for _ in 0..4 {
        lab.receive(P0, super_frame.clone());
    }
    assert_eq!(lab.sent_counts(), [0, 3], "the third overdraws what is tolerated");
    assert_eq!(lab.drops(P0), [(DropReason::IngressRate, 1)]);
}

#[test]
fn the_mtu_is_that_of_the_ip_packet() {
    let mut lab = Lab::new(3);
    lab.configure(|topology| {
        topology.port(P1).mtu = 1000;
        topology.port(P2).mtu = 1001;
    });
    let packet = |bytes: usize, control| frame_of(BROADCAST, mac(1), control, &vec![0; bytes]);
    for control in [None, Some(0xa00a)] {
        lab.receive(P0, packet(1000, control));
        assert_eq!(lab.sent_counts(), [0, 1, 1], "tag {control:x?}");
        lab.receive(P0, packet(1001, control));
        assert_eq!(lab.sent_counts(), [0, 0, 1]);
        lab.receive(P0, packet(1002, control));
        assert_eq!(lab.sent_counts(), [0, 0, 0]);
    }
    assert_eq!(lab.drops(P1), [(DropReason::TooBig, 4)]);
    assert_eq!(lab.drops(P2), [(DropReason::TooBig, 2)]);
    assert_eq!(lab.drops(P0), []);
    // Two tags are no part of the packet either.
    let mut double = packet(1000, Some(10));
    double.splice(12..12, [0x88, 0xa8, 0x00, 0x63]);
    lab.receive(P0, double);
    assert_eq!(lab.sent_counts(), [0, 1, 1]);
}

#[test]
fn a_super_frame_is_as_large_as_its_segments() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for tags in [vec![], vec![5]] {
            let spec = Spec {
                v6,
                tcp,
                tags,
                payload: payload(20_000),
                tcp_options: if tcp { vec![1; 12] } else { vec![] },
                ..Spec::default()
            };
            let headers = spec.header_bytes() - spec.network_offset();
            let super_frame = |size: usize| MemFrame {
                bytes: spec.build(),
                offload: Offload {
                    csum: spec.partial(),
                    gso: Some(Gso { kind: spec.kind(), ecn: false, size: size as u16 }),
                },
            };
            let mut lab = Lab::new(2);
            lab.receive(P0, super_frame(1500 - headers));
            assert_eq!(lab.sent(P1).len(), 1, "{spec:?}");
            lab.receive(P0, super_frame(1501 - headers));
            assert_eq!(lab.sent(P1).len(), 0);
            assert_eq!(lab.drops(P1), [(DropReason::TooBig, 1)]);
        }
    }
}
