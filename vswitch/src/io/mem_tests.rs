use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::frame::{Csum, Gso, GsoKind};

const PARTIAL: Offload = Offload {
    csum: Csum::Partial { start: 34, offset: 16 },
    gso: Some(Gso { kind: GsoKind::Tcp4, ecn: false, size: 1448 }),
};

fn readable(rx: &dyn RxQueue) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(rx.event_fd().unwrap(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn what_is_injected_comes_in_and_what_is_sent_is_recorded() {
    let device = MemDevice::new(Caps::ALL).with_event_fd().unwrap();
    let mut pool = Pool::new(4).unwrap();
    let (mut rx, mut tx) = (device.open_rx(&mut pool).unwrap(), device.open_tx(&mut pool).unwrap());
    assert!(!readable(rx.as_ref()));
    device.inject(vec![1; 60]);
    device.inject(MemFrame { bytes: vec![2; 100], offload: PARTIAL });
    device.inject(vec![3; 13]);
    assert!(readable(rx.as_ref()));

    let (mut burst, mut report) = (Burst::new(), RxReport::default());
    assert_eq!(rx.recv(&mut pool, &mut burst, 1, usize::MAX, &mut report), RxStatus::More);
    assert!(readable(rx.as_ref()));
    assert_eq!(rx.recv(&mut pool, &mut burst, 64, usize::MAX, &mut report), RxStatus::Drained);
    assert!(!readable(rx.as_ref()));
    assert_eq!((burst.len(), report.runt), (2, 1));
    assert_eq!(burst[1].offload, PARTIAL);

    let pieces = [Piece { frame: 1, offset: 98 }];
    let units = [
        Unit { frame: 1, first_piece: 0, pieces_count: 0, offload: PARTIAL, sole: true },
        Unit { frame: 0, first_piece: 0, pieces_count: 1, offload: Offload::NONE, sole: true },
    ];
    let mut report = TxReport::default();
    tx.send(&mut pool, &mut burst, &units, &pieces, &mut report);
    assert_eq!((report.sent, report.bytes), (2, 162));
    let sent = device.take_sent();
    assert_eq!(sent[0], MemFrame { bytes: vec![2; 100], offload: PARTIAL });
    assert_eq!(sent[1].bytes, [&[1; 60][..], &[2; 2]].concat());
    assert!(device.take_sent().is_empty());
    assert_eq!((device.sent_frames(), device.sent_bytes()), (2, 162));

    device.refuse(Some(DropReason::NoBuffer));
    let mut report = TxReport::default();
    tx.send(&mut pool, &mut burst, &units, &pieces, &mut report);
    assert_eq!(report.drops().collect::<Vec<_>>(), [(DropReason::NoBuffer, 2)]);
    device.vanish();
    assert!(readable(rx.as_ref()));
    assert_eq!(rx.recv(&mut pool, &mut burst, 64, usize::MAX, &mut RxReport::default()), RxStatus::Gone);
    let mut report = TxReport::default();
    tx.send(&mut pool, &mut burst, &units[..1], &[], &mut report);
    assert_eq!(report.drops().collect::<Vec<_>>(), [(DropReason::PortGone, 1)]);
    pool.free_all(burst);
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn replaying_goes_round_and_ends_at_its_count() {
    let frames = vec![vec![1; 60].into(), vec![2; 70].into(), vec![3; 80].into()];
    let device = MemDevice::replaying(Caps::NONE, frames, 70).with_event_fd().unwrap();
    let mut pool = Pool::new(64).unwrap();
    let mut rx = device.open_rx(&mut pool).unwrap();
    let mut take = |frames_max, bytes_max| {
        let mut burst = Burst::new();
        let status = rx.recv(&mut pool, &mut burst, frames_max, bytes_max, &mut RxReport::default());
        let lens: Vec<_> = burst.iter().map(Frame::len).collect();
        pool.free_all(burst);
        (status, lens, readable(rx.as_ref()))
    };
    assert_eq!(take(4, usize::MAX), (RxStatus::More, vec![60, 70, 80, 60], true));
    assert_eq!(take(64, 100), (RxStatus::More, vec![70, 80], true), "the frame that crosses the limit is kept");
    assert_eq!(take(64, usize::MAX).1.len(), 64);
    assert_eq!(take(64, usize::MAX), (RxStatus::Drained, vec![], false));
}

#[test]
fn an_empty_pool_loses_nothing() {
    let device = MemDevice::new(Caps::NONE);
    device.inject(vec![1; 60]);
    device.inject(vec![2; 60]);
    let (mut pool, mut burst) = (Pool::new(1).unwrap(), Burst::new());
    let mut rx = device.open_rx(&mut pool).unwrap();
    assert_eq!(rx.recv(&mut pool, &mut burst, 64, usize::MAX, &mut RxReport::default()), RxStatus::More);
    assert_eq!(burst.len(), 1);
    pool.free_all(burst.drain(..));
    assert_eq!(rx.recv(&mut pool, &mut burst, 64, usize::MAX, &mut RxReport::default()), RxStatus::Drained);
    assert_eq!(burst[0].data(), [2; 60]);
    pool.free_all(burst);
}
