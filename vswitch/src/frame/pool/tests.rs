use super::*;
use crate::frame::Csum;
use std::sync::atomic::AtomicBool;

#[test]
fn the_last_freed_slot_is_handed_out_first() {
    let mut pool = Pool::new(4).unwrap();
    let a = pool.alloc().unwrap();
    let b = pool.alloc().unwrap();
    let (pa, pb) = (a.data().as_ptr(), b.data().as_ptr());
    pool.free(b);
    pool.free(a);
    let again = pool.alloc().unwrap();
    assert_eq!(again.data().as_ptr(), pa);
    assert_ne!(pa, pb);
    assert_eq!(pool.outstanding(), 1);
    pool.free(again);
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn fronts_move_with_their_offloads() {
    let mut pool = Pool::new(1).unwrap();
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(&[7; 100]);
    frame.offload.csum = Csum::Partial { start: 34, offset: 16 };
    frame.push_front(4);
    assert_eq!(frame.len(), 104);
    assert_eq!(frame.offload.csum, Csum::Partial { start: 38, offset: 16 });
    frame.pull_front(4);
    assert_eq!(frame.data(), &[7; 100]);
    assert!(pool.alloc().is_none());
    pool.free(frame);
}

#[test]
fn the_largest_frame_fits() {
    let mut pool = Pool::new(2).unwrap();
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(&vec![1; FRAME_BYTES_MAX]);
    frame.push_front(HEADROOM_BYTES);
    pool.free(frame);
}

/// Receives `bytes` as a kernel would: chunk by chunk, behind `XDP_PACKET_HEADROOM`.
fn receive(pool: &mut Pool, lender: Lender, bytes: &[u8]) -> Frame {
    let mut frame = None;
    for part in bytes.chunks(CHUNK_BYTES - 256) {
        let addr = pool.lend_chunk(lender).unwrap() + 256;
        let mut written = pool.receive(addr, part.len() as u32).unwrap();
        written.data_mut().copy_from_slice(part);
        match &mut frame {
            None => frame = Some(written),
            Some(frame) => {
                // Lend the chunk again, with the bytes in it, so that it can be appended.
                pool.free(written);
                let addr = pool.lend_chunk(lender).unwrap() + 256;
                assert!(pool.append(frame, addr, part.len() as u32));
            }
        }
    }
    frame.unwrap()
}

#[test]
fn scattered_frames_become_whole_with_one_copy() {
    let mut pool = Pool::with_chunks(1, 32).unwrap();
    let lender = pool.new_lender();
    let bytes: Vec<u8> = (0..60_014u32).map(|at| (at % 251) as u8).collect();
    let mut frame = receive(&mut pool, lender, &bytes);
    assert_eq!((frame.len(), frame.is_linear()), (bytes.len(), false));
    assert_eq!(pool.outstanding(), 16);
    frame.tagged = true;
    assert!(pool.linearize(&mut frame));
    assert_eq!(frame.data(), bytes);
    assert!(frame.tagged);
    assert_eq!((pool.outstanding(), pool.linearized()), (1, 1));
    let mut other = receive(&mut pool, lender, &bytes);
    assert!(!pool.linearize(&mut other), "no slot is left");
    pool.free(other);
    pool.free(frame);
    assert_eq!((pool.outstanding(), pool.lent()), (0, 0));
}

#[test]
fn extents_cover_a_frame_in_order() {
    let mut pool = Pool::with_chunks(2, 32).unwrap();
    let lender = pool.new_lender();
    let bytes: Vec<u8> = (0..60_014u32).map(|at| (at % 253) as u8).collect();
    let mut linear = pool.alloc().unwrap();
    linear.copy_from(&bytes);
    let scattered = receive(&mut pool, lender, &bytes);
    for frame in [linear, scattered] {
        let mut read = Vec::new();
        for (addr, len) in pool.extents(&frame) {
            assert!(len as usize <= EXTENT_BYTES_MAX);
            let mut part = vec![0; len as usize];
            pool.copy_out(addr as usize, &mut part);
            read.extend(part);
        }
        assert!(read == bytes);
        let extents: Vec<_> = pool.extents(&frame).collect();
        assert!(extents.len() <= 17, "what the kernel takes as one packet (MAX_SKB_FRAGS)");
        let before = pool.outstanding();
        pool.lend_frame(frame);
        assert_eq!(pool.outstanding(), before, "on its way is in use");
        for (addr, _) in extents {
            assert!(pool.reclaim(addr));
        }
    }
    assert_eq!(pool.outstanding(), 0);
    assert!(!pool.reclaim(0), "nothing is claimed any more");
}

#[test]
fn only_what_was_lent_can_be_received() {
    let mut pool = Pool::with_chunks(1, 2).unwrap();
    let lender = pool.new_lender();
    let addr = pool.lend_chunk(lender).unwrap();
    let end = pool.region().bytes() as u64;
    for (addr, len) in [(0, 60), (addr, CHUNK_BYTES as u32 + 1), (addr + 4000, 97), (end, 1), (u64::MAX, 1)] {
        assert!(pool.receive(addr, len).is_none(), "{addr} {len}");
    }
    let frame = pool.receive(addr + 256, 60).unwrap();
    assert_eq!(frame.headroom(), 256);
    assert!(pool.receive(addr + 256, 60).is_none(), "received once");
    pool.free(frame);
    let addr = pool.lend_chunk(lender).unwrap();
    assert!(pool.return_chunk(addr) && !pool.return_chunk(addr));
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn chunks_of_a_closed_socket_come_home() {
    let mut pool = Pool::with_chunks(0, 8).unwrap();
    let (lender, other) = (pool.new_lender(), pool.new_lender());
    while pool.lend_chunk(lender).is_some() {}
    let closed = Arc::new(AtomicBool::new(false));
    pool.retire_lender(lender, Arc::clone(&closed));
    assert!(pool.lend_chunk(other).is_none(), "the kernel may still write into them");
    closed.store(true, Ordering::Release);
    assert!(pool.lend_chunk(other).is_some());
    assert_eq!(pool.lent(), 1);
}

#[test]
fn frames_that_a_closed_socket_had_come_home() {
    let mut pool = Pool::with_chunks(1, 0).unwrap();
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(&[1; 9000]);
    let extents: Vec<_> = pool.extents(&frame).map(|(addr, _)| addr).collect();
    assert_eq!(extents.len(), 3);
    pool.lend_frame(frame);
    let closed = Arc::new(AtomicBool::new(false));
    pool.retire_frames(extents, Arc::clone(&closed));
    assert!(pool.alloc().is_none(), "the kernel may still read it");
    closed.store(true, Ordering::Release);
    let frame = pool.alloc().unwrap();
    pool.free(frame);
    assert_eq!(pool.outstanding(), 0);
}
