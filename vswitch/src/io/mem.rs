//! Devices in memory: the whole datapath without a kernel, for tests and benchmarks.
//!
//! Two kinds of source, two kinds of sink:
//!
//! * [`MemDevice::new`] receives what a test injects, one frame at a time, and records what was
//!   sent, as it would have gone out.
//! * [`MemDevice::replaying`] receives the same frames over and over at full speed, one copy into
//!   the pool per frame as a TAP would make, and only counts what was sent. It neither allocates
//!   nor locks per frame.
//!
//! Both have whatever capabilities they are given, and can have an eventfd, so that a worker can
//! sleep on them as it does on a TAP.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::{Caps, Device, Piece, RxQueue, RxReport, RxStatus, TxQueue, TxReport, Unit};
use crate::frame::{Burst, DropReason, Frame, Offload, Pool};
use crate::wire::ethernet;

/// A frame outside of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemFrame {
    /// From the destination address on.
    pub bytes: Vec<u8>,
    /// What is still to be done to it.
    pub offload: Offload,
}

impl From<Vec<u8>> for MemFrame {
    /// A finished frame.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::NONE }
    }
}

/// A device in memory. Clones are the same device.
#[derive(Debug, Clone)]
pub struct MemDevice {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    caps: Caps,
    source: Source,
    sink: Mutex<Sink>,
    records: bool,
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    gone: AtomicBool,
    event: Option<OwnedFd>,
    home: Option<u16>,
}

#[derive(Debug)]
enum Source {
    Injected(Mutex<VecDeque<MemFrame>>),
    Replayed { frames: Vec<MemFrame>, left: AtomicU64 },
}

#[derive(Debug, Default)]
struct Sink {
    sent: Vec<MemFrame>,
    refusal: Option<DropReason>,
}

impl MemDevice {
    /// A device that receives what [`MemDevice::inject`] is given and records what is sent.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        Self::with(caps, Source::Injected(Mutex::default()), true)
    }

    /// A device that receives `frames` in turn, `count` frames altogether (`u64::MAX` for
    /// benchmarks that stop by the clock), and counts what is sent.
    ///
    /// # Panics
    /// If `frames` is empty.
    #[must_use]
    pub fn replaying(caps: Caps, frames: Vec<MemFrame>, count: u64) -> Self {
        assert!(!frames.is_empty(), "nothing to replay");
        Self::with(caps, Source::Replayed { frames, left: AtomicU64::new(count) }, false)
    }

    fn with(caps: Caps, source: Source, records: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                caps,
                source,
                sink: Mutex::default(),
                records,
                sent_frames: AtomicU64::new(0),
                sent_bytes: AtomicU64::new(0),
                gone: AtomicBool::new(false),
                event: None,
                home: None,
            }),
        }
    }

    /// The same with an eventfd that is readable while frames wait.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    ///
    /// # Panics
    /// If queues of the device are open, or it was cloned.
    pub fn with_event_fd(mut self) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::get_mut(&mut self.shared).expect("the device is not in use yet");
        shared.event = Some(event);
        if let Source::Replayed { .. } = shared.source {
            shared.signal();
        }
        Ok(self)
    }

    /// The same for one worker only.
    ///
    /// # Panics
    /// If queues of the device are open, or it was cloned.
    #[must_use]
    pub fn with_home(mut self, worker: u16) -> Self {
        Arc::get_mut(&mut self.shared).expect("the device is not in use yet").home = Some(worker);
        self
    }

    /// Lets the device receive a frame.
    ///
    /// # Panics
    /// If the device replays.
    pub fn inject(&self, frame: impl Into<MemFrame>) {
        let Source::Injected(queue) = &self.shared.source else { panic!("this device replays") };
        let mut queue = lock(queue);
        queue.push_back(frame.into());
        // Under the lock, or the reader could clear it again without having seen the frame.
        self.shared.signal();
    }

    /// What was sent since the last call, in order, each unit as one frame.
    #[must_use]
    pub fn take_sent(&self) -> Vec<MemFrame> {
        std::mem::take(&mut lock(&self.shared.sink).sent)
    }

    /// The number of frames that were sent altogether.
    #[must_use]
    pub fn sent_frames(&self) -> u64 {
        self.shared.sent_frames.load(Ordering::Relaxed)
    }

    /// Their bytes.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }

    /// From now on drops everything that is to be sent for this reason, or for none nothing.
    /// Devices that replay do not.
    pub fn refuse(&self, reason: Option<DropReason>) {
        lock(&self.shared.sink).refusal = reason;
    }

    /// The device disappears, as a TAP does with its namespace: frames that wait are lost.
    pub fn vanish(&self) {
        self.shared.gone.store(true, Ordering::Relaxed);
        self.shared.signal();
    }
}

impl Shared {
    fn signal(&self) {
        if let Some(event) = &self.event {
            // Fails only when 2^64 - 2 signals wait.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    fn unsignal(&self) {
        if let Some(event) = &self.event {
            // Fails when nothing was signalled.
            let _ = rustix::io::read(event, &mut [0u8; 8]);
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Device for MemDevice {
    fn caps(&self) -> Caps {
        self.shared.caps
    }

    fn home(&self) -> Option<u16> {
        self.shared.home
    }

    fn open_rx(&self, _pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        Ok(Box::new(MemRx { shared: Arc::clone(&self.shared), next: 0 }))
    }

    fn open_tx(&self, _pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        Ok(Box::new(MemTx { shared: Arc::clone(&self.shared) }))
    }
}

#[derive(Debug)]
struct MemRx {
    shared: Arc<Shared>,
    /// The frame to be replayed next.
    next: usize,
}

impl RxQueue for MemRx {
    fn recv(
        &mut self,
        pool: &mut Pool,
        burst: &mut Burst,
        frames_max: usize,
        bytes_max: usize,
        report: &mut RxReport,
    ) -> RxStatus {
        if self.shared.is_gone() {
            return RxStatus::Gone;
        }
        let frames_max = frames_max.min(burst.remaining_capacity());
        let mut bytes_left = bytes_max;
        match &self.shared.source {
            Source::Injected(queue) => {
                let mut queue = lock(queue);
                for _ in 0..frames_max {
                    if queue.is_empty() {
                        break;
                    }
                    let Some(slot) = pool.alloc() else { return RxStatus::More };
                    // Not empty: the lock was held since.
                    let Some(frame) = queue.pop_front() else { break };
                    bytes_left = bytes_left.saturating_sub(frame.bytes.len());
                    if frame.bytes.len() < ethernet::HEADER_BYTES {
                        report.runt += 1;
                        pool.free(slot);
                    } else {
                        burst.push(filled(slot, &frame));
                    }
                    if bytes_left == 0 {
                        break;
                    }
                }
                if queue.is_empty() {
                    self.shared.unsignal();
                    return RxStatus::Drained;
                }
            }
            Source::Replayed { frames, left } => {
                let count = left.load(Ordering::Relaxed);
                let mut taken = 0;
                while taken < frames_max as u64 && taken < count && bytes_left > 0 {
                    let Some(slot) = pool.alloc() else { break };
                    let frame = &frames[self.next];
                    self.next = if self.next + 1 == frames.len() { 0 } else { self.next + 1 };
                    bytes_left = bytes_left.saturating_sub(frame.bytes.len());
                    burst.push(filled(slot, frame));
                    taken += 1;
                }
                // One reader at a time, so nobody else has counted meanwhile.
                left.store(count - taken, Ordering::Relaxed);
                if count == taken {
                    self.shared.unsignal();
                    return RxStatus::Drained;
                }
            }
        }
        RxStatus::More
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.shared.event.as_ref().map(AsFd::as_fd)
    }
}

#[inline]
fn filled(mut slot: Frame, frame: &MemFrame) -> Frame {
    slot.copy_from(&frame.bytes);
    slot.offload = frame.offload;
    slot
}

#[derive(Debug)]
struct MemTx {
    shared: Arc<Shared>,
}

impl TxQueue for MemTx {
    fn send(
        &mut self,
        _pool: &mut Pool,
        frames: &mut [Frame],
        units: &[Unit],
        pieces: &[Piece],
        report: &mut TxReport,
    ) {
        if self.shared.is_gone() {
            units.iter().for_each(|_| report.drop_unit(DropReason::PortGone));
            return;
        }
        let mut bytes = 0;
        if self.shared.records {
            let mut sink = lock(&self.shared.sink);
            if let Some(reason) = sink.refusal {
                units.iter().for_each(|_| report.drop_unit(reason));
                return;
            }
            for unit in units {
                let sent = gathered(frames, unit, pieces);
                bytes += sent.bytes.len() as u64;
                sink.sent.push(sent);
            }
        } else {
            for unit in units {
                bytes += frames[usize::from(unit.frame)].len() as u64;
                for piece in pieces_of(unit, pieces) {
                    bytes += (frames[usize::from(piece.frame)].len() - usize::from(piece.offset)) as u64;
                }
            }
        }
        report.sent += units.len() as u32;
        report.bytes += bytes;
        self.shared.sent_frames.fetch_add(units.len() as u64, Ordering::Relaxed);
        self.shared.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A unit as it goes out.
fn gathered(frames: &[Frame], unit: &Unit, pieces: &[Piece]) -> MemFrame {
    let mut bytes = frames[usize::from(unit.frame)].data().to_vec();
    for piece in pieces_of(unit, pieces) {
        bytes.extend_from_slice(&frames[usize::from(piece.frame)].data()[usize::from(piece.offset)..]);
    }
    MemFrame { bytes, offload: unit.offload }
}

fn pieces_of<'a>(unit: &Unit, pieces: &'a [Piece]) -> &'a [Piece] {
    let first = usize::from(unit.first_piece);
    &pieces[first..first + usize::from(unit.pieces_count)]
}

/// What is behind these locks is whole whenever they are free, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "mem_tests.rs"]
mod tests;
