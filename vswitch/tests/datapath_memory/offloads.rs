//! What is converted at egress, and what is not: checksums, segmentation, coalescing.
//!
//! That finished frames are right is asserted against an independent library.

use vswitch::frame::{Csum, DropReason, Gso, Offload, checksum};
use vswitch::io::Caps;
use vswitch::io::mem::{MemDevice, MemFrame};

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, P3, P4, Topology, frame, mac};
use crate::wire_packets::{Spec, assert_finished, payload};

/// The frame as a sender with checksum offload leaves it: the field holds the pseudo-header's sum.
fn partial(spec: &Spec) -> MemFrame {
    let mut bytes = spec.build();
    let Csum::Partial { start, offset } = spec.partial() else { unreachable!() };
    let layers = vswitch::wire::Layers::parse(&bytes).unwrap();
    let pseudo = checksum::fold(layers.pseudo_header_sum(&bytes, layers.transport_bytes()));
    let field = usize::from(start + offset);
    bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    MemFrame { bytes, offload: Offload { csum: spec.partial(), gso: None } }
}

/// The frame as one that is to be cut into segments of `size` bytes of payload.
fn super_frame(spec: &Spec, size: u16) -> MemFrame {
    let mut frame = partial(spec);
    frame.offload.gso = Some(Gso { kind: spec.kind(), ecn: spec.tcp && spec.flags & CWR != 0, size });
    frame
}

/// The finished frames that a super-frame stands for.
fn segments(spec: &Spec, size: usize) -> Vec<Spec> {
    let count = spec.payload.len().div_ceil(size);
    let segment = |(index, payload): (usize, &[u8])| {
        let mut flags = spec.flags;
        if spec.tcp && index > 0 {
            flags &= !CWR;
        }
        if spec.tcp && index + 1 < count {
            flags &= !(FIN | PSH);
        }
        let sequence = spec.sequence.wrapping_add((index * size) as u32);
        let id = spec.id.wrapping_add(index as u16);
        Spec { flags, sequence, id, payload: payload.to_vec(), ..spec.clone() }
    };
    spec.payload.chunks(size).enumerate().map(segment).collect()
}

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// TCP and UDP over both IP versions.
fn specs() -> [Spec; 4] {
    [(false, true), (true, true), (false, false), (true, false)].map(|(v6, tcp)| Spec { v6, tcp, ..Spec::default() })
}

/// Ports with these capabilities; the destination of all packets here is known to be behind port 1.
fn lab(caps: &[Caps]) -> Lab {
    let lab = Lab::with_caps(caps);
    assert!(lab.fdb().insert_static([0x02, 0x42, 172, 18, 0, 3], 0, P1, 0));
    lab
}

#[test]
fn each_capability_decides_what_is_converted() {
    for bits in 0..32 {
        let has = |bit: u32| bits & 1 << bit != 0;
        let caps = Caps { csum: has(0), tso4: has(1), tso6: has(2), ecn: has(3), uso: has(4), ..Caps::NONE };
        for spec in specs() {
            for flags in [0x10, 0x10 | CWR | PSH | FIN] {
                let mut lab = lab(&[Caps::ALL, caps]);
                // An unfinished checksum.
                let small = Spec { payload: payload(333), flags, ..spec.clone() };
                lab.receive(P0, partial(&small));
                if caps.csum {
                    assert_eq!(lab.sent(P1), [partial(&small)]);
                } else {
                    let sent = lab.sent(P1);
                    assert_eq!(sent[0].bytes, small.build());
                    assert_eq!(sent[0].offload, Offload { csum: Csum::Valid, gso: None });
                    assert_finished(&sent[0].bytes, &small);
                }
                // A super-frame.
                let large = Spec { payload: payload(4321), flags, ..spec.clone() };
                lab.receive(P0, super_frame(&large, 1000));
                let takes = match (spec.tcp, spec.v6) {
                    (true, false) => caps.tso4,
                    (true, true) => caps.tso6,
                    (false, _) => caps.uso,
                };
                let ecn = spec.tcp && flags & CWR != 0;
                let sent = lab.sent(P1);
                if caps.csum && takes && (!ecn || caps.ecn) {
                    assert_eq!(sent, [super_frame(&large, 1000)], "{caps:?}");
                    assert_eq!(lab.counters(P1).segments, 0);
                } else {
                    let expected = segments(&large, 1000);
                    assert_eq!(sent.len(), expected.len(), "{caps:?}");
                    for (sent, expected) in sent.iter().zip(&expected) {
                        if caps.csum {
                            // The output completes the checksum of a segment, too.
                            assert_eq!(*sent, partial(expected));
                            continue;
                        }
                        assert_eq!(sent.bytes, expected.build(), "{caps:?}");
                        assert_finished(&sent.bytes, expected);
                        assert_eq!(sent.offload, Offload { csum: Csum::Valid, gso: None });
                    }
                    assert_eq!(lab.counters(P1).segments, 4);
                }
                assert_eq!(lab.counters(P1).tx_frames, 1 + sent.len() as u64);
                assert_eq!(lab.counters(P0).rx_frames, 2, "a super-frame is one frame");
                assert_eq!(lab.totals().dropped(), 0);
            }
        }
    }
}

#[test]
fn order_is_kept_around_segmentation() {
    let mut lab = lab(&[Caps::ALL, Caps::NONE]);
    // One stream: small, super, small, small, super. What leaves is the stream, in order.
    let stream = payload(9000);
    let mut at = 0;
    let mut burst = Vec::new();
    for (index, bytes) in [500, 3500, 400, 600, 4000].into_iter().enumerate() {
        let part = stream[at..at + bytes].to_vec();
        let spec = Spec { sequence: at as u32, payload: part, id: 100 * index as u16, ..Spec::default() };
        burst.push(if bytes > 1000 { super_frame(&spec, 1000) } else { partial(&spec) });
        at += bytes;
    }
    lab.receive_as_one_burst(P0, burst);
    let sent = lab.sent_bytes(P1);
    assert_eq!(sent.len(), 1 + 4 + 1 + 1 + 4);
    let got: Vec<u8> = sent.iter().flat_map(|frame| frame[54..].iter().copied()).collect();
    assert_eq!(got, stream);
    assert_eq!(lab.counters(P1).segments, 6);
}

#[test]
fn neighbours_of_a_flow_leave_as_one() {
    for spec in specs() {
        let whole = Spec { payload: payload(9300), ..spec };
        let mut lab = lab(&[Caps::ALL, Caps::ALL]);
        lab.receive_as_one_burst(P0, segments(&whole, 1000).iter().map(Spec::build));
        let sent = lab.sent(P1);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0], super_frame(&whole, 1000), "as though the sender had made it");
        let counters = lab.counters(P1);
        assert_eq!((counters.tx_frames, counters.coalesced), (1, 9));
        assert_eq!(counters.tx_bytes, whole.build().len() as u64);
        assert_eq!(lab.counters(P0).rx_frames, 10);
    }
}

#[test]
fn unfinished_segments_and_super_frames_are_merged_too() {
    let whole = Spec { payload: payload(8000), ..Spec::default() };
    let parts = segments(&whole, 4000);
    let mut burst = vec![super_frame(&parts[0], 1000)];
    // The second half one by one; identifications go on where the super-frame's segments end.
    let rest = Spec { id: whole.id + 4, ..parts[1].clone() };
    burst.extend(segments(&rest, 1000).iter().map(partial));
    let mut lab = lab(&[Caps::ALL, Caps::ALL]);
    lab.receive_as_one_burst(P0, burst);
    assert_eq!(lab.sent(P1), [super_frame(&whole, 1000)]);
    assert_eq!(lab.counters(P1).coalesced, 4);
}

#[test]
fn flows_are_not_mixed_and_nothing_is_reordered() {
    let mut lab = lab(&[Caps::ALL, Caps::ALL]);
    let flow = |ports| Spec { ports, payload: payload(3000), ..Spec::default() };
    let (a, b) = (flow((1, 2)), flow((3, 4)));
    let interleaved = segments(&a, 1000).into_iter().zip(segments(&b, 1000)).flat_map(|(a, b)| [a.build(), b.build()]);
    lab.receive_as_one_burst(P0, interleaved);
    assert_eq!(lab.sent(P1), [super_frame(&a, 1000), super_frame(&b, 1000)]);
    assert_eq!(lab.counters(P1).coalesced, 4);
    // Out of order: as they came, and the part that is in order as one.
    let parts = segments(&a, 500);
    let burst = [0, 2, 1, 3, 4, 5].map(|index: usize| parts[index].build());
    lab.receive_as_one_burst(P0, burst);
    let sent = lab.sent(P1);
    let starts: Vec<u32> = sent.iter().map(|f| u32::from_be_bytes(f.bytes[38..42].try_into().unwrap()) - 1).collect();
    assert_eq!(starts, [0, 1000, 500, 1500]);
    assert_eq!(sent[3].bytes[54..], a.payload[1500..]);
}

#[test]
fn nothing_is_merged_for_an_output_that_could_not_take_it() {
    let whole = Spec { payload: payload(4000), ..Spec::default() };
    for caps in [Caps::NONE, Caps { csum: true, ..Caps::NONE }, Caps { tso4: false, ..Caps::ALL }] {
        let mut lab = lab(&[Caps::ALL, caps]);
        let parts: Vec<_> = segments(&whole, 1000).iter().map(Spec::build).collect();
        lab.receive_as_one_burst(P0, parts.clone());
        assert_eq!(lab.sent_bytes(P1), parts);
        assert_eq!(lab.counters(P1).coalesced, 0);
    }
}

#[test]
fn a_damaged_segment_is_delivered_as_damaged_as_it_came() {
    let whole = Spec { payload: payload(3000), ..Spec::default() };
    let mut parts: Vec<_> = segments(&whole, 1000).iter().map(Spec::build).collect();
    parts[1][200] ^= 1;
    let mut lab = lab(&[Caps::ALL, Caps::ALL]);
    lab.receive_as_one_burst(P0, parts.clone());
    assert_eq!(lab.sent_bytes(P1), parts);
    assert_eq!(lab.counters(P1).coalesced, 0);
}

#[test]
fn a_flooded_super_frame_suits_every_output() {
    let caps = [Caps::ALL, Caps::ALL, Caps::NONE, Caps { csum: true, ..Caps::NONE }, Caps::ALL];
    let mut lab = Lab::with_caps(&caps);
    let spec = Spec { payload: payload(5000), ..Spec::default() };
    lab.receive(P0, super_frame(&spec, 1000));
    let whole = [super_frame(&spec, 1000)];
    assert_eq!(lab.sent(P1), whole);
    assert_eq!(lab.sent(P4), whole, "not touched by the outputs before");
    let expected = segments(&spec, 1000);
    assert_eq!(lab.sent_bytes(P2), expected.iter().map(Spec::build).collect::<Vec<_>>());
    assert_eq!(lab.sent(P3), expected.iter().map(partial).collect::<Vec<_>>());
    for port in [P2, P3] {
        assert_eq!(lab.counters(port).segments, 4);
    }
    assert_eq!(lab.counters(P0).flood_copies, 3);
    // A checksum that is finished for one output is finished for those after it.
    let small = Spec { payload: payload(500), ..Spec::default() };
    lab.receive(P0, partial(&small));
    assert_eq!(lab.sent(P1), [partial(&small)]);
    for port in [P2, P3, P4] {
        assert_eq!(lab.sent_bytes(port), [small.build()]);
    }
}

#[test]
fn a_flooded_stream_is_merged_for_nobody() {
    let mut lab = Lab::with_caps(&[Caps::ALL; 3]);
    let whole = Spec { payload: payload(4000), ..Spec::default() };
    let parts: Vec<_> = segments(&whole, 1000).iter().map(Spec::build).collect();
    lab.receive_as_one_burst(P0, parts.clone());
    assert_eq!((lab.sent_bytes(P1), lab.sent_bytes(P2)), (parts.clone(), parts));
}

#[test]
fn segments_for_which_there_is_no_frame_are_counted() {
    let mut topology = Topology::new(1);
    topology.attach(0, MemDevice::new(Caps::ALL));
    topology.attach(0, MemDevice::new(Caps::NONE));
    let mut lab = Lab::with_topology(topology, 8);
    // 100 segments are made in two batches; beside the super-frame seven frames are free for each.
    let spec = Spec { payload: payload(10_000), ..Spec::default() };
    lab.receive(P0, super_frame(&spec, 100));
    let sent = lab.sent_bytes(P1);
    let expected: Vec<_> = segments(&spec, 100).iter().map(Spec::build).collect();
    assert_eq!(sent, [&expected[..7], &expected[64..71]].concat());
    assert_eq!(lab.counters(P1).segments, 99);
    assert_eq!(lab.drops(P1), [(DropReason::PoolEmpty, 86)]);
    // With room for them, all pass: the pool lost nothing.
    let spec = Spec { payload: payload(700), ..Spec::default() };
    lab.receive(P0, super_frame(&spec, 100));
    assert_eq!(lab.sent(P1).len(), 7);
}

#[test]
fn a_pool_smaller_than_the_queue_loses_nothing() {
    let mut topology = Topology::new(1);
    for _ in 0..2 {
        topology.attach(0, MemDevice::new(Caps::ALL));
    }
    let mut lab = Lab::with_topology(topology, 2);
    for _ in 0..99 {
        lab.topology.device(P0).inject(frame(BROADCAST, mac(1)));
    }
    lab.datapath.drain(P0);
    assert_eq!(lab.sent(P1).len(), 99);
}

#[test]
fn metadata_that_lies_is_a_counted_drop_where_it_matters() {
    let mut lab = Lab::with_caps(&[Caps::ALL, Caps::NONE]);
    let spec = Spec { payload: payload(3000), ..Spec::default() };
    // A super-frame that is no TCP packet.
    let mut not_tcp = super_frame(&spec, 1000);
    not_tcp.bytes[12..].fill(0xee);
    lab.receive(P0, not_tcp);
    assert_eq!(lab.drops(P1), [(DropReason::Unsegmentable, 1)]);
    // A checksum field beyond the end of the frame.
    let small = Spec { payload: payload(10), ..Spec::default() };
    let csum = Csum::Partial { start: 60, offset: 16 };
    lab.receive(P0, MemFrame { bytes: small.build(), offload: Offload { csum, gso: None } });
    assert_eq!(lab.drops(P1), [(DropReason::Malformed, 1), (DropReason::Unsegmentable, 1)]);
    assert_eq!(lab.sent(P1), []);
}
