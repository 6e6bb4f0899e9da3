use super::*;
use crate::frame::gso::Segmenter;

/// A TCP super-frame with a partial checksum: `payload` bytes, timestamps, PSH on the last segment.
fn super_frame(v6: bool, udp: bool, payload: usize, size: u16) -> (Vec<u8>, Offload) {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    let header_bytes = if udp { 8 } else { 32 };
    let transport_bytes = header_bytes + payload;
    let protocol = if udp { 17 } else { 6 };
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((transport_bytes as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend([1; 16]);
        frame.extend([2; 16]);
    } else {
        let ip = frame.len() + 2;
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + transport_bytes as u16).to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum::of(&frame[ip..]);
        frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let start = frame.len();
    if udp {
        frame.extend([0x30, 0x39, 0x1b, 0x58]);
        frame.extend((transport_bytes as u16).to_be_bytes());
        frame.extend([0, 0]);
    } else {
        frame.extend([0x30, 0x39, 0x1b, 0x58, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 9, 0x80, 0x18, 1, 0, 0, 0, 0, 0]);
        frame.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    frame.extend((0..payload).map(|at| (at * 7 % 251) as u8));
    let layers = Layers::parse(&frame).unwrap();
    let offset = layers.transport.checksum_offset();
    let field = start + usize::from(offset);
    let pseudo = checksum::fold(layers.pseudo_header_sum(&frame, transport_bytes));
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    let kind = match (udp, v6) {
        (true, _) => GsoKind::Udp,
        (false, false) => GsoKind::Tcp4,
        (false, true) => GsoKind::Tcp6,
    };
    let csum = Csum::Partial { start: start as u16, offset };
    (frame, Offload { csum, gso: Some(Gso { kind, ecn: false, size }) })
}

fn segments(frame: &[u8], offload: &Offload, partial: bool) -> Vec<Vec<u8>> {
    let segmenter = Segmenter::new(frame, offload).unwrap();
    let segmenter = if partial { segmenter.leave_checksum_partial() } else { segmenter };
    let write = |index| {
        let mut out = vec![0; segmenter.segment_bytes_max()];
        let bytes = segmenter.write(index, &mut out);
        out.truncate(bytes);
        out
    };
    (0..segmenter.count()).map(write).collect()
}

/// What the segments make, and how many of them were taken.
fn put_together(segments: &[Vec<u8>]) -> (Vec<u8>, Offload, usize) {
    let Some(mut run) = Run::open(&segments[0]) else { return (segments[0].clone(), Offload::NONE, 1) };
    let mut frame = segments[0].clone();
    let mut taken = 1;
    for segment in &segments[1..] {
        let (headers, payload) = segment.split_at(run.headers_bytes().min(segment.len()));
        if !run.take(&frame, headers, payload) {
            break;
        }
        frame.extend(payload);
        taken += 1;
    }
    assert_eq!((frame.len(), usize::from(run.count())), (run.frame_bytes(), taken));
    let offload = run.close(&mut frame);
    (frame, offload, taken)
}

#[test]
fn what_was_cut_is_put_together_to_the_same_bytes() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        for payload in [1000, 1001, 1398, 1399, 10_000, 60_000] {
            let (frame, offload) = super_frame(v6, udp, payload, 1398);
            for partial in [false, true] {
                let segments = segments(&frame, &offload, partial);
                let (whole, now, taken) = put_together(&segments);
                assert_eq!(taken, segments.len());
                assert_eq!(whole.len(), frame.len());
                if taken > 1 {
                    assert_eq!((&whole, now), (&frame, offload), "v6 {v6}, udp {udp}, {payload} bytes");
                } else {
                    assert_eq!(now.csum == Csum::Unknown, !partial);
                }
            }
        }
    }
}

/// Changes one byte of the second of four segments and sees whether it is still taken.
#[test]
fn a_segment_that_differs_is_not_taken() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        let (frame, offload) = super_frame(v6, udp, 4000, 1000);
        let pristine = segments(&frame, &offload, false);
        for at in 0..pristine[1].len() {
            for flip in [1, 0x80] {
                let mut segments = pristine.clone();
                segments[1][at] ^= flip;
                let (whole, _, taken) = put_together(&segments);
                assert_eq!(taken, 1, "byte {at} of a segment, v6 {v6}, udp {udp}");
                assert_eq!(whole, segments[0], "what is not merged is not changed");
            }
        }
        let mut damaged = pristine.clone();
        *damaged[0].last_mut().unwrap() ^= 1;
        assert_eq!(put_together(&damaged).2, 1, "damage in the first is not hidden either");
    }
}

#[test]
fn order_ends_and_control_bits_are_respected() {
    let (frame, offload) = super_frame(false, false, 5500, 1000);
    let all = segments(&frame, &offload, false);
    assert_eq!(all.len(), 6);
    let skipped = [all[0].clone(), all[2].clone()];
    assert_eq!(put_together(&skipped).2, 1);
    let beyond_the_end = [all[4].clone(), all[5].clone(), all[0].clone()];
    assert_eq!(put_together(&beyond_the_end).2, 2);
    for (flags, merged) in [(0x19, 1), (0x12, 1), (0x14, 1), (0x30, 1), (0x90, 1), (0x18, 1), (0x10, 6), (0x50, 1)] {
        let mut segments = all.clone();
        let first = &mut segments[0];
        first[47] = flags;
        first[50..52].fill(0);
        let layers = Layers::parse(first).unwrap();
        let pseudo = checksum::fold(layers.pseudo_header_sum(first, layers.transport_bytes()));
        first[50..52].copy_from_slice(&pseudo.to_be_bytes());
        assert!(checksum::complete_partial(first, 34, 16));
        assert_eq!(put_together(&segments).2, merged, "flags {flags:#x}");
    }
    // Other lengths of headers are not even compared.
    let mut run = Run::open(&all[0]).unwrap();
    for bytes in 0..run.headers_bytes() {
        assert!(!run.take(&all[0], &all[1][..bytes], &all[1][66..]));
    }
    assert!(!run.take(&all[0][..100], &all[1][..66], &all[1][66..]), "the first one must be whole");
    assert!(!run.take(&all[0], &all[1][..66], &[]));
}

/// What TCP makes of an interface's `gso_max_size` with as much of it kept free for headers as there may be (`tcp_tso_autosize`).
#[test]
fn super_frames_are_sized_to_make_one_train() {
    for mtu in [1280, 1430, 1450, 1500, 8930, 8950, 65_521] {
        let size = gso_max_size(mtu);
        assert!(size <= 65_536);
        for (reserved, options) in [(193, 0), (193, 12), (321, 0), (321, 12)] {
            let payload = mtu - 40 - options;
            let segments = ((size - reserved) / payload).max(1);
            let datagram = mtu as usize + 22;
            let fits = TRAIN_BYTES_MAX / datagram;
            assert!(segments as usize <= fits.max(1), "MTU {mtu}: {segments} of {fits}");
            assert!(segments as usize + 1 >= fits.min(TRAIN_DATAGRAMS_MAX), "MTU {mtu}: {segments} of {fits}");
        }
    }
    assert_eq!(gso_max_size(1450), 44 * 1410 + 321);
}
