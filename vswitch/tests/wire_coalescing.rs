//! Coalescing: what is merged, what is not, and that segmenting gives back what came in.

mod wire_packets;

use proptest::prelude::*;
use vswitch::frame::gro::{Accept, Coalescer, Company, FLOWS_MAX};
use vswitch::frame::gso::Segmenter;
use vswitch::frame::{Csum, Frame, Gso, Offload, Pool, checksum};
use wire_packets::{Spec, assert_finished, frames_of, payload};

type Sent = (Vec<u8>, Offload);

/// A unit: which frames, the bytes of the whole, what is still to be done.
type Whole = (Vec<u16>, Vec<u8>, Offload);

/// The units of a burst.
fn coalesce(accept: Accept, contents: &[Sent]) -> Vec<Whole> {
    coalesce_some(accept, contents, |_| u64::MAX)
}

/// The units of a burst of which only those frames are looked at that `company` has a bit for.
fn coalesce_some(accept: Accept, contents: &[Sent], company: impl FnOnce(&[Frame]) -> u64) -> Vec<Whole> {
    let mut pool = Pool::new(64).unwrap();
    let mut frames = frames_of(&mut pool, contents);
    let company = company(&frames);
    let mut coalescer = Coalescer::default();
    coalescer.begin(accept);
    for index in 0..frames.len() as u16 {
        if company & 1 << index != 0 {
            coalescer.push(&frames, index);
        } else {
            coalescer.push_alone(index);
        }
    }
    let mut units = Vec::new();
    coalescer.finish(&mut frames, |unit| units.push((unit.frame, unit.offload, unit.pieces.collect::<Vec<_>>())));
    let whole = |(head, offload, pieces): (u16, Offload, Vec<(u16, u16)>)| {
        let mut bytes = frames[usize::from(head)].data().to_vec();
        let mut members = vec![head];
        for (frame, offset) in pieces {
            bytes.extend_from_slice(&frames[usize::from(frame)].data()[usize::from(offset)..]);
            members.push(frame);
        }
        (members, bytes, offload)
    };
    let units = units.into_iter().map(whole).collect();
    pool.free_all(frames);
    units
}

fn members(accept: Accept, contents: &[Sent]) -> Vec<Vec<u16>> {
    coalesce(accept, contents).into_iter().map(|unit| unit.0).collect()
}

fn split(bytes: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    if offload.gso.is_none() {
        let mut bytes = bytes.to_vec();
        if let Csum::Partial { start, offset } = offload.csum {
            assert!(checksum::complete_partial(&mut bytes, start, offset));
        }
        return vec![bytes];
    }
    let segmenter = Segmenter::new(bytes, offload).unwrap();
    let mut out = vec![0; segmenter.segment_bytes_max()];
    (0..segmenter.count())
        .map(|index| {
            let bytes = segmenter.write(index, &mut out);
            out[..bytes].to_vec()
        })
        .collect()
}

/// The segments of a stream, each complete.
fn stream(spec: &Spec, sizes: &[usize]) -> Vec<Spec> {
    let (mut sequence, mut id) = (spec.sequence, spec.id);
    let mut segments = Vec::new();
    for &size in sizes {
        segments.push(Spec { sequence, id, payload: payload(size), ..spec.clone() });
        sequence = sequence.wrapping_add(size as u32);
        id = id.wrapping_add(1);
    }
    segments
}

fn unknown(specs: &[Spec]) -> Vec<Sent> {
    specs.iter().map(|spec| (spec.build(), Offload::NONE)).collect()
}

/// The same segment as a sender with checksum offload leaves it.
fn partial(spec: &Spec) -> Sent {
    let mut bytes = spec.build();
    let Csum::Partial { start, offset } = spec.partial() else { unreachable!() };
    let layers = vswitch::wire::Layers::parse(&bytes).unwrap();
    let pseudo = checksum::fold(layers.pseudo_header_sum(&bytes, layers.transport_bytes()));
    let field = usize::from(start + offset);
    bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    (bytes, Offload { csum: spec.partial(), gso: None })
}

#[test]
fn a_stream_becomes_one_unit_of_the_right_shape() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let spec = Spec { v6, tcp, tags: vec![42], ..Spec::default() };
        let contents = unknown(&stream(&spec, &[1000, 1000, 1000, 300]));
        let units = coalesce(Accept::ALL, &contents);
        let [(members, bytes, offload)] = &units[..] else { panic!("{units:?}") };
        assert_eq!(members, &[0, 1, 2, 3]);
        assert_eq!(offload.csum, spec.partial());
        assert_eq!(offload.gso, Some(Gso { kind: spec.kind(), ecn: false, size: 1000 }));
        let mut complete = bytes.clone();
        let Csum::Partial { start, offset } = offload.csum else { unreachable!() };
        assert!(checksum::complete_partial(&mut complete, start, offset));
        assert_finished(&complete, &spec);
        let back: Vec<Vec<u8>> = contents.iter().map(|sent| sent.0.clone()).collect();
        assert_eq!(split(bytes, offload), back);
    }
}

#[test]
fn what_is_merged_into_what() {
    let spec = Spec { tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], ..Spec::default() };
    let base = stream(&spec, &[500, 500, 500, 500]);
    let changed = |index: usize, change: &dyn Fn(&mut Spec)| {
        let mut specs = base.clone();
        change(&mut specs[index]);
        members(Accept::ALL, &unknown(&specs))
    };
    let all = vec![vec![0, 1, 2, 3]];
    let apart_at_2 = vec![vec![0, 1], vec![2], vec![3]];
    let split_at_2 = vec![vec![0, 1], vec![2, 3]];

    assert_eq!(changed(3, &|_| {}), all);
    // PSH ends a unit, wherever it is.
    assert_eq!(changed(3, &|s| s.flags |= 0x08), all);
    assert_eq!(changed(1, &|s| s.flags |= 0x08), split_at_2);
    assert_eq!(changed(0, &|s| s.flags |= 0x08), vec![vec![0], vec![1, 2, 3]]);
    // FIN, SYN, RST, URG and CWR travel alone.
    for flag in [0x01, 0x02, 0x04, 0x20, 0x80] {
        assert_eq!(changed(2, &|s| s.flags |= flag), apart_at_2, "{flag:#x}");
    }
    // A different header begins a new unit, which the fourth, like the first ones, cannot join.
    assert_eq!(changed(2, &|s| s.flags |= 0x40), apart_at_2);
    assert_eq!(changed(2, &|s| s.acknowledgement += 1), apart_at_2);
    assert_eq!(changed(2, &|s| s.window += 1), apart_at_2);
    assert_eq!(changed(2, &|s| s.ttl -= 1), apart_at_2);
    assert_eq!(changed(2, &|s| s.tcp_options[7] += 1), apart_at_2);
    assert_eq!(changed(2, &|s| s.tcp_options.clear()), apart_at_2);
    assert_eq!(changed(2, &|s| s.tags = vec![3]), apart_at_2);
    assert_eq!(changed(2, &|s| s.ip_options = 4), apart_at_2);
    // A gap in what counts up.
    assert_eq!(changed(2, &|s| s.sequence += 1), apart_at_2);
    assert_eq!(changed(2, &|s| s.id += 9), apart_at_2);
    // Nothing to merge: a bare acknowledgement. It still ends the unit.
    assert_eq!(changed(2, &|s| s.payload.clear()), apart_at_2);
    // A longer one begins anew, a shorter one is the last.
    assert_eq!(changed(2, &|s| s.payload = payload(501)), apart_at_2);
    assert_eq!(changed(2, &|s| s.payload = payload(499)), vec![vec![0, 1, 2], vec![3]]);
}

#[test]
fn flows_do_not_disturb_one_another_but_are_bounded() {
    let flow = |port: u16| stream(&Spec { ports: (port, 80), ..Spec::default() }, &[700, 700]);
    let interleaved = |flows: u16| -> Vec<Spec> {
        let flows: Vec<Vec<Spec>> = (0..flows).map(|index| flow(1000 + index)).collect();
        (0..2).flat_map(|segment| flows.iter().map(move |flow| flow[segment].clone())).collect()
    };
    let count = FLOWS_MAX as u16;
    let merged = members(Accept::ALL, &unknown(&interleaved(count)));
    assert_eq!(merged, (0..count).map(|index| vec![index, index + count]).collect::<Vec<_>>());
    // One flow too many: every flow is closed before its second segment comes.
    assert_eq!(members(Accept::ALL, &unknown(&interleaved(count + 1))).len(), 2 * FLOWS_MAX + 2);
}

#[test]
fn what_may_belong_to_any_flow_closes_all() {
    let specs = stream(&Spec::default(), &[700, 700, 700]);
    let mut contents = unknown(&specs);
    let mut fragment = contents[0].0.clone();
    fragment[20..22].copy_from_slice(&[0x20, 0x10]);
    contents.insert(1, (fragment, Offload::NONE));
    assert_eq!(members(Accept::ALL, &contents), [vec![0], vec![1], vec![2, 3]]);
    // ARP belongs to none.
    let arp = vswitch::wire::announce::gratuitous_arp([2, 0, 0, 0, 0, 1].into(), [10, 0, 0, 1].into());
    contents[1] = (arp, Offload::NONE);
    assert_eq!(members(Accept::ALL, &contents), [vec![0, 2, 3], vec![1]]);
}

#[test]
fn checksums_are_trusted_or_verified() {
    let specs = stream(&Spec::default(), &[700, 700, 700]);
    let whole = vec![vec![0, 1, 2]];
    let valid = Offload { csum: Csum::Valid, gso: None };
    let flip = |sent: &mut Sent| *sent.0.last_mut().unwrap() ^= 1;

    for damaged in 0..3 {
        let mut contents = unknown(&specs);
        flip(&mut contents[damaged]);
        let expected = [vec![vec![0], vec![1, 2]], vec![vec![0], vec![1], vec![2]], vec![vec![0, 1], vec![2]]];
        assert_eq!(members(Accept::ALL, &contents), expected[damaged]);
        // Somebody else vouched for it.
        contents[damaged].1 = valid;
        assert_eq!(members(Accept::ALL, &contents), whole);
    }
    let contents: Vec<Sent> = specs.iter().map(partial).collect();
    let units = coalesce(Accept::ALL, &contents);
    assert_eq!(units.len(), 1);
    let complete: Vec<Vec<u8>> = specs.iter().map(Spec::build).collect();
    assert_eq!(split(&units[0].1, &units[0].2), complete);
    // Metadata about another place than the transport checksum is passed on, not merged.
    let mut odd = contents.clone();
    odd[1].1.csum = Csum::Partial { start: 34, offset: 18 };
    assert_eq!(members(Accept::ALL, &odd), [vec![0], vec![1], vec![2]]);
    // A damaged IP header is not healed.
    let mut damaged = contents;
    damaged[1].0[24] ^= 1;
    assert_eq!(members(Accept::ALL, &damaged), [vec![0], vec![1], vec![2]]);
}

#[test]
fn the_output_decides() {
    for spec in [
        Spec::default(),
        Spec { v6: true, ..Spec::default() },
        Spec { tcp: false, ..Spec::default() },
        Spec { tcp: false, v6: true, ..Spec::default() },
    ] {
        let contents = unknown(&stream(&spec, &[100, 100]));
        let accepts = [
            Accept { tcp4: true, ..Accept::default() },
            Accept { tcp6: true, ..Accept::default() },
            Accept { udp: true, ..Accept::default() },
        ];
        let kinds = [vswitch::frame::GsoKind::Tcp4, vswitch::frame::GsoKind::Tcp6, vswitch::frame::GsoKind::Udp];
        for (accept, kind) in accepts.into_iter().zip(kinds) {
            assert_eq!(members(accept, &contents).len(), if kind == spec.kind() { 1 } else { 2 });
        }
    }
    let udp = Spec { tcp: false, ..Spec::default() };
    let mut contents = unknown(&stream(&udp, &[100, 100]));
    contents[1].0[40..42].fill(0); // no checksum
    assert_eq!(members(Accept::ALL, &contents).len(), 2);
    contents[1].1.csum = Csum::Valid; // nor does it help to vouch for it
    assert_eq!(members(Accept::ALL, &contents).len(), 2);
}

#[test]
fn differences_in_the_ip_header_keep_frames_apart() {
    let apart = |spec: &Spec, at: usize, bit: u8| {
        let mut contents = unknown(&stream(spec, &[100, 100]));
        assert_eq!(members(Accept::ALL, &contents).len(), 1);
        contents[1].0[14 + at] ^= bit;
        if let Some(mut header) = vswitch::wire::ipv4::HeaderMut::new_checked(&mut contents[1].0[14..])
            && !spec.v6
        {
            header.fill_checksum();
        }
        contents[1].1.csum = Csum::Valid;
        members(Accept::ALL, &contents).len() == 2
    };
    for tcp in [false, true] {
        let v4 = Spec { tcp, ..Spec::default() };
        // TOS, identification, reserved bit, DF, TTL, each address.
        for (at, bit) in [(1, 1), (5, 1), (6, 0x80), (6, 0x40), (8, 1), (15, 1), (19, 1)] {
            assert!(apart(&v4, at, bit), "IPv4 {at} {bit:#x}");
        }
        let v6 = Spec { tcp, v6: true, ..Spec::default() };
        // Traffic class, flow label, hop limit, each address.
        for (at, bit) in [(0, 1), (1, 0x10), (1, 1), (2, 1), (3, 1), (7, 1), (8, 1), (23, 1), (39, 1)] {
            assert!(apart(&v6, at, bit), "IPv6 {at} {bit:#x}");
        }
    }
}

#[test]
fn flooded_frames_stay_apart() {
    let contents = unknown(&stream(&Spec::default(), &[700, 700, 700, 700]));
    let mut pool = Pool::new(4).unwrap();
    let mut frames = frames_of(&mut pool, &contents);
    let mut coalescer = Coalescer::default();
    coalescer.begin(Accept::ALL);
    assert!(!coalescer.push(&frames, 0));
    coalescer.push_apart(1);
    assert!(!coalescer.push(&frames, 2));
    assert!(coalescer.push(&frames, 3));
    let mut units = Vec::new();
    coalescer.finish(&mut frames, |unit| units.push((unit.frame, unit.pieces.count())));
    assert_eq!(units, [(0, 0), (1, 0), (2, 1)]);
    for (index, (bytes, offload)) in contents.iter().enumerate().take(2) {
        assert_eq!((frames[index].data(), &frames[index].offload), (&bytes[..], offload), "left as it was");
    }
    pool.free_all(frames);
}

#[test]
fn super_frames_join_up_to_the_largest_packet() {
    let spec = Spec::default();
    let super_frame = |segments: usize, before: usize| {
        let spec = Spec {
            payload: payload(segments * 1448),
            sequence: spec.sequence.wrapping_add((before * 1448) as u32),
            id: spec.id.wrapping_add(before as u16),
            ..spec.clone()
        };
        let (bytes, mut offload) = partial(&spec);
        if segments > 1 {
            offload.gso = Some(Gso { kind: spec.kind(), ecn: false, size: 1448 });
        }
        (bytes, offload)
    };
    // 45 segments of 1448 bytes fit in a packet, 46 do not.
    let contents = [super_frame(20, 0), super_frame(1, 20), super_frame(24, 21), super_frame(1, 45)];
    assert_eq!(members(Accept::ALL, &contents), [vec![0, 1, 2], vec![3]]);
    let mut other_size = contents.to_vec();
    other_size[2].1.gso = Some(Gso { kind: spec.kind(), ecn: false, size: 1449 });
    assert_eq!(members(Accept::ALL, &other_size), [vec![0, 1], vec![2], vec![3]]);
    let mut ecn = contents.to_vec();
    ecn[2].1.gso = Some(Gso { kind: spec.kind(), ecn: true, size: 1448 });
    assert_eq!(members(Accept::ALL, &ecn), [vec![0, 1], vec![2], vec![3]]);
}

prop_compose! {
    /// A burst of a few flows, mostly consecutive, with all that disturbs merging thrown in.
    fn any_burst()(
        steps in prop::collection::vec(
            (0_usize..4, 0_u8..20, 0_u8..12, 0_u8..3, prop::sample::select(vec![1_usize, 64, 500, 501, 1448])),
            1..64,
        ),
    ) -> Vec<Sent> {
        let mut flows: Vec<Spec> = [(false, true), (true, true), (false, false), (true, false)]
            .into_iter()
            .map(|(v6, tcp)| Spec { v6, tcp, sequence: u32::MAX - 2000, id: u16::MAX - 3, ..Spec::default() })
            .collect();
        let mut contents = Vec::new();
        for (flow, event, segments, csum, size) in steps {
            let spec = &mut flows[flow];
            spec.flags = 0x10;
            match event {
                0 => spec.flags = 0x18,
                1 => spec.flags = 0x11,
                2 => spec.acknowledgement += 1,
                3 => spec.sequence = spec.sequence.wrapping_add(1),
                4 => spec.ttl -= 1,
                5 => spec.tags = vec![u16::from(csum)],
                6 => spec.flags = 0x98,
                _ => {}
            }
            // Mostly whole segments, now and then a super-frame with a short end.
            let bytes = if event == 7 { 0 } else if segments > 8 { size * 2 + size / 2 } else { size };
            spec.payload = payload(bytes);
            let count = if bytes > size { 3 } else { 1 };
            let (mut bytes, mut offload) = match csum {
                0 => (spec.build(), Offload::NONE),
                1 => (spec.build(), Offload { csum: Csum::Valid, gso: None }),
                _ => partial(spec),
            };
            if count > 1 {
                (bytes, offload) = partial(spec);
                offload.gso = Some(Gso { kind: spec.kind(), ecn: spec.flags & 0x80 != 0, size: size as u16 });
            }
            contents.push((bytes, offload));
            spec.sequence = spec.sequence.wrapping_add(spec.payload.len() as u32);
            spec.id = spec.id.wrapping_add(count);
        }
        contents
    }
}

fn company(accept: Accept, frames: &[Frame]) -> u64 {
    let all = u64::MAX >> (64 - frames.len());
    Company::default().find(accept, all, |place| &frames[place])
}

#[test]
fn frames_with_nothing_to_follow_are_alone() {
    let flow = |port: u16| Spec { ports: (port, 80), payload: payload(100), ..Spec::default() };
    let of = |specs: &[Spec]| {
        let mut pool = Pool::new(64).unwrap();
        let frames = frames_of(&mut pool, &unknown(specs));
        let company = company(Accept::ALL, &frames);
        pool.free_all(frames);
        company
    };
    for (v6, tcp) in [(false, true), (false, false), (true, true)] {
        let flow = |port| Spec { v6, tcp, ..flow(port) };
        let mut next = stream(&flow(1), &[100, 100]).remove(1);
        assert_eq!(of(&[flow(1), flow(2), flow(3)]), 0, "flows of their own");
        assert_eq!(of(&[flow(1), flow(2), flow(1)]), 0, "the same once more does not continue it");
        assert_eq!(of(&[flow(1), flow(2), next.clone()]), 0b101);
        assert_eq!(of(&[flow(1), flow(2), next.clone(), flow(1)]), 0b1101, "whatever comes later closes the unit");
        next.payload.clear();
        assert_eq!(of(&[flow(1), flow(2), next.clone()]), 0, "an acknowledgement");
        next.tags = vec![7, 8];
        assert_eq!(of(&[flow(1), flow(2), next]), 0b111, "may be of any flow");
    }
}

proptest! {
    /// A cheap look that leaves nothing out: what it says is alone would not have been merged.
    #[test]
    fn company_loses_nothing(contents in any_burst(), (tcp4, tcp6, udp) in any::<(bool, bool, bool)>()) {
        let accept = Accept { tcp4, tcp6, udp };
        let units = coalesce_some(accept, &contents, |frames| company(accept, frames));
        prop_assert_eq!(units, coalesce(accept, &contents));
    }

    #[test]
    fn coalesce_then_segment_gives_the_same_bytes(contents in any_burst()) {
        let units = coalesce(Accept::ALL, &contents);
        let mut seen: Vec<u16> = units.iter().flat_map(|unit| unit.0.clone()).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..contents.len() as u16).collect::<Vec<_>>());
        for (members, bytes, offload) in units {
            let came_in: Vec<Vec<u8>> = members
                .iter()
                .flat_map(|&member| split(&contents[usize::from(member)].0, &contents[usize::from(member)].1))
                .collect();
            prop_assert_eq!(split(&bytes, &offload), came_in);
        }
    }

    #[test]
    fn segment_then_coalesce_then_segment(
        (v6, tcp) in any::<(bool, bool)>(),
        tags in prop::collection::vec(any::<u16>(), 0..=2),
        tcp_options in (0_usize..=10).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4)),
        push in any::<bool>(),
        (sequence, id) in any::<(u32, u16)>(),
        size in 100_u16..1460,
        payload_bytes in 1_usize..6000,
    ) {
        let flags = if push { 0x18 } else { 0x10 };
        let spec = Spec { v6, tcp, tags, tcp_options, flags, sequence, id, payload: payload(payload_bytes), ..Spec::default() };
        let (super_frame, _) = partial(&spec);
        let offload = Offload { csum: spec.partial(), gso: Some(Gso { kind: spec.kind(), ecn: false, size }) };
        let segments = split(&super_frame, &offload);
        let contents: Vec<Sent> = segments.iter().map(|bytes| (bytes.clone(), Offload::NONE)).collect();
        let units = coalesce(Accept::ALL, &contents);
        prop_assert_eq!(units.len(), 1);
        if segments.len() > 1 {
            prop_assert_eq!(&units[0].1, &super_frame, "even the super-frame is the same");
            prop_assert_eq!(units[0].2, offload);
        }
        prop_assert_eq!(split(&units[0].1, &units[0].2), segments);
    }
}
