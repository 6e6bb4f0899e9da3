//! Segmentation in software, against an independent library.

mod wire_packets;

use proptest::prelude::*;
use vswitch::frame::gso::{GsoError, Segmenter};
use vswitch::frame::{Csum, Gso, GsoKind, Offload, checksum};
use wire_packets::{Spec, any_spec, assert_finished, payload};

fn offload(spec: &Spec, size: u16) -> Offload {
    Offload { csum: spec.partial(), gso: Some(Gso { kind: spec.kind(), ecn: false, size }) }
}

fn segments(frame: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    let segmenter = Segmenter::new(frame, offload).unwrap();
    (0..segmenter.count())
        .map(|index| {
            let mut out = vec![0xee; segmenter.segment_bytes_max() + 7];
            let bytes = segmenter.write(index, &mut out);
            assert!(out[bytes..].iter().all(|&byte| byte == 0xee), "wrote behind the segment");
            out.truncate(bytes);
            out
        })
        .collect()
}

/// What each segment must be, built from scratch by the independent library.
fn expected(spec: &Spec, size: usize) -> Vec<Vec<u8>> {
    let chunks: Vec<&[u8]> = if spec.payload.is_empty() { vec![&[]] } else { spec.payload.chunks(size).collect() };
    let build = |(index, chunk): (usize, &&[u8])| {
        let mut flags = spec.flags;
        if index > 0 {
            flags &= !0x80;
        }
        if index + 1 < chunks.len() {
            flags &= !0x09;
        }
        Spec {
            payload: chunk.to_vec(),
            flags,
            sequence: spec.sequence.wrapping_add((index * size) as u32),
            id: spec.id.wrapping_add(index as u16),
            ..spec.clone()
        }
        .build()
    };
    chunks.iter().enumerate().map(build).collect()
}

proptest! {
    #[test]
    fn segments_are_what_the_sender_would_have_sent(spec in any_spec(5000), size in 1_u16..2000) {
        let frame = spec.build();
        let segments = segments(&frame, &offload(&spec, size));
        for segment in &segments {
            assert_finished(segment, &spec);
        }
        prop_assert_eq!(segments, expected(&spec, usize::from(size)));
    }

    #[test]
    fn partial_segments_complete_to_the_same(spec in any_spec(3000), size in 100_u16..2000) {
        let frame = spec.build();
        let offload = offload(&spec, size);
        let segmenter = Segmenter::new(&frame, &offload).unwrap().leave_checksum_partial();
        prop_assert_eq!(segmenter.segment_offload().csum, spec.partial());
        for (index, whole) in segments(&frame, &offload).into_iter().enumerate() {
            let mut out = vec![0; segmenter.segment_bytes_max()];
            let bytes = segmenter.write(index, &mut out);
            let Csum::Partial { start, offset } = segmenter.segment_offload().csum else { unreachable!() };
            prop_assert!(checksum::complete_partial(&mut out[..bytes], start, offset));
            prop_assert_eq!(&out[..bytes], &whole[..]);
        }
    }

    #[test]
    fn padding_is_left_out(spec in any_spec(100), padding in 1_usize..60) {
        let frame = spec.build();
        let mut padded = frame.clone();
        padded.resize(frame.len() + padding, 0xaa);
        let offload = offload(&spec, 40);
        prop_assert_eq!(segments(&padded, &offload), segments(&frame, &offload));
    }

    #[test]
    fn garbage_never_panics(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        ethertype in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100]),
        first in prop::sample::select(vec![0x45_u8, 0x60, 0x4f]),
        kind in prop::sample::select(vec![GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp]),
        size in any::<u16>(),
    ) {
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            frame[14] = first;
        }
        let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(Gso { kind, ecn: false, size }) };
        if let Ok(segmenter) = Segmenter::new(&frame, &offload) {
            let mut out = vec![0; segmenter.segment_bytes_max()];
            for index in 0..=segmenter.count() {
                segmenter.write(index, &mut out);
            }
        }
    }
}

#[test]
fn the_largest_packets() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for tags in [vec![], vec![5], vec![7, 9]] {
            let mut spec = Spec { v6, tcp, tags, ..Spec::default() };
            let headers = spec.header_bytes() - spec.network_offset() - if v6 { 40 } else { 0 };
            spec.payload = payload(65535 - headers);
            let frame = spec.build();
            let segments = segments(&frame, &offload(&spec, 1448));
            assert_eq!(segments, expected(&spec, 1448));
        }
    }
}

#[test]
fn refusals() {
    let spec = Spec { payload: payload(20_000), ..Spec::default() };
    let frame = spec.build();
    let with = |kind, size| Offload { csum: spec.partial(), gso: Some(Gso { kind, ecn: false, size }) };
    let refusal = |frame: &[u8], offload: &Offload| Segmenter::new(frame, offload).unwrap_err();
    assert_eq!(refusal(&frame, &Offload::NONE), GsoError::NotSuper);
    assert_eq!(refusal(&frame, &with(GsoKind::Tcp4, 0)), GsoError::SizeZero);
    assert_eq!(refusal(&frame, &with(GsoKind::Tcp6, 9)), GsoError::Kind { expected: GsoKind::Tcp6 });
    assert_eq!(refusal(&frame, &with(GsoKind::Udp, 9)), GsoError::Kind { expected: GsoKind::Udp });
    assert_eq!(refusal(&frame, &with(GsoKind::Tcp4, 2)), GsoError::TooMany(10_000));
    assert!(matches!(refusal(&frame[..1000], &with(GsoKind::Tcp4, 9)), GsoError::Layers(_)));
    let mut fragment = frame.clone();
    fragment[20] = 0x20;
    assert_eq!(refusal(&fragment, &with(GsoKind::Tcp4, 9)).to_string(), "no TCP or UDP packet to segment: a fragment");
    assert!(matches!(refusal(&[], &with(GsoKind::Tcp4, 9)), GsoError::Layers(_)));
}
