//! The receiving side: descriptors become frames where they lie.
//!
//! Every look takes what the receive rings hold, up to the burst's limits, and then lends as many chunks as the socket
//! should have ([`super::fill`]). A frame of several buffers becomes a scattered frame; its descriptors are always
//! in the ring together, because the kernel moves its index past whole packets only (`xsk_flush`).
//!
//! In unaligned mode a descriptor's address is the chunk's in its lower 48 bits and the distance to the first byte in the
//! upper 16 (`XSK_UNALIGNED_BUF_OFFSET_SHIFT`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::xdp::{XSK_UNALIGNED_BUF_ADDR_MASK, XSK_UNALIGNED_BUF_OFFSET_SHIFT, XdpDesc, XdpDescOptions};

use super::device::Shared;
use super::fill::FillLevel;
use super::partial;
use super::ring::{Consumer, Producer};
use super::socket::Socket;
use crate::frame::pool::Lender;
use crate::frame::{Burst, Frame, Offload, Pool};
use crate::io::{RxQueue, RxReport, RxStatus};
use crate::wire::ethernet;

/// The receiving half of one socket.
#[derive(Debug)]
pub(super) struct RxSide {
    fill: Producer<u64>,
    rx: Consumer<XdpDesc>,
    socket: Arc<Socket>,
    level: FillLevel,
    /// Chunks that the kernel has, written or not.
    lent: u32,
    /// Frames that the kernel has dropped, as far as they were reported.
    overrun: u64,
    /// Whether the kernel may have dropped more: it had no chunks at some moment since it was asked, such as before the
    /// first ones were lent.
    was_dry: bool,
}

impl RxSide {
    pub(super) fn new(fill: Producer<u64>, rx: Consumer<XdpDesc>, socket: Arc<Socket>) -> Self {
        Self { fill, rx, socket, level: FillLevel::default(), lent: 0, overrun: 0, was_dry: false }
    }

    /// Lends chunks until the socket has as many as it should, or there are no more.
    fn refill(&mut self, pool: &mut Pool, lender: Lender) {
        let wanted = self.level.chunks().saturating_sub(self.lent);
        let room = self.fill.acquire(wanted).min(wanted);
        let mut count = 0;
        while count < room
            && let Some(addr) = pool.lend_chunk(lender)
        {
            self.fill.put(count, addr);
            count += 1;
        }
        if count > 0 {
            let before = self.fill.produced();
            self.fill.release(count);
            self.lent += count;
            // A frame that comes when the kernel has taken all chunks is dropped. It may take the last one up to the
            // release, so its index is looked at after that; what it drops later, the next release finds out.
            self.was_dry |= before.wrapping_sub(self.fill.consumed()).cast_signed() <= 0;
            if self.fill.needs_wakeup() {
                // An error says that the interface is down or gone, which shows elsewhere.
                let _ = self.socket.poll();
            }
        }
    }

    /// Reports what the kernel dropped since the last time. Asked for only after it had run out of chunks, because it
    /// is a system call, and frames are dropped only then: the receive ring has room for all chunks.
    #[cold]
    fn report_overrun(&mut self, report: &mut RxReport) {
        let Ok(counted) = self.socket.statistics() else { return };
        let overrun = counted.rx_no_chunk + counted.rx_ring_full;
        report.overrun += overrun.saturating_sub(self.overrun) as u32;
        (self.overrun, self.was_dry) = (overrun, false);
    }

    /// Takes frames until the ring is empty or a limit is reached; whether it has more.
    fn take(
        &mut self,
        pool: &mut Pool,
        lender: Lender,
        burst: &mut Burst,
        limits: &mut Limits,
        report: &mut RxReport,
    ) -> bool {
        let written = self.rx.acquire(u32::MAX);
        self.level.looked(written);
        let mut taken = 0;
        while !limits.are_reached()
            && let Some(first) = self.rx.get(taken)
        {
            let Some(end) = self.end_of_packet(taken, first) else { break };
            limits.frames -= 1;
            let (mut frame, mut malformed) = (receive(pool, first), false);
            for at in taken + 1..end {
                let Some(desc) = self.rx.get(at) else { break };
                let (addr, len) = place(desc);
                match &mut frame {
                    Some(frame) if !malformed => malformed = !pool.append(frame, addr, len),
                    _ => {
                        pool.return_chunk(addr);
                    }
                }
            }
            taken = end;
            match frame {
                Some(frame) if malformed => {
                    report.malformed += 1;
                    pool.free(frame);
                }
                None => report.malformed += 1,
                Some(frame) if frame.len() < ethernet::HEADER_BYTES => {
                    report.runt += 1;
                    pool.free(frame);
                }
                Some(mut frame) => {
                    limits.bytes = limits.bytes.saturating_sub(frame.len());
                    frame.offload = Offload { csum: partial::detect(frame.data(), frame.len()), gso: None };
                    burst.push(frame);
                }
            }
        }
        self.rx.release(taken);
        self.lent -= taken;
        self.refill(pool, lender);
        if self.was_dry || self.lent == 0 {
            self.report_overrun(report);
        }
        // A port that has no chunks at all hears of nothing: it has to ask again.
        taken < written || self.lent == 0
    }

    /// The place after the last descriptor of the packet that starts with `first`, if all of it is there.
    #[inline]
    fn end_of_packet(&self, at: u32, first: XdpDesc) -> Option<u32> {
        let (mut end, mut desc) = (at + 1, first);
        while desc.options.contains(XdpDescOptions::XDP_PKT_CONTD) {
            desc = self.rx.get(end)?;
            end += 1;
        }
        Some(end)
    }
}

/// Where a received descriptor's bytes are: their address in the region, and how many.
#[inline]
fn place(desc: XdpDesc) -> (u64, u32) {
    let addr = (desc.addr & XSK_UNALIGNED_BUF_ADDR_MASK) + (desc.addr >> XSK_UNALIGNED_BUF_OFFSET_SHIFT);
    (addr, desc.len)
}

#[inline]
fn receive(pool: &mut Pool, desc: XdpDesc) -> Option<Frame> {
    let (addr, len) = place(desc);
    pool.receive(addr, len)
}

/// What a burst may still take.
struct Limits {
    frames: usize,
    bytes: usize,
}

impl Limits {
    fn are_reached(&self) -> bool {
        self.frames == 0 || self.bytes == 0
    }
}

/// The receiving side of a device: the sockets of all its queues.
#[derive(Debug)]
pub(super) struct XdpRx {
    shared: Arc<Shared>,
    sides: Vec<RxSide>,
    /// Who lends to each of `sides`.
    lenders: Vec<Lender>,
    /// The queue to be looked at first.
    next: usize,
    /// What waits for several sockets at once; one socket waits for itself.
    epoll: Option<OwnedFd>,
}

impl XdpRx {
    /// Lends the first chunks. The sides go back to `shared` if that fails.
    pub(super) fn open(shared: Arc<Shared>, mut sides: Vec<RxSide>, pool: &mut Pool) -> std::io::Result<Self> {
        let lenders: Vec<_> = sides.iter().map(|_| pool.new_lender()).collect();
        for (side, &lender) in sides.iter_mut().zip(&lenders) {
            side.refill(pool, lender);
        }
        let starved = sides.iter().any(|side| side.lent == 0);
        let mut opened = Self { shared, sides, lenders, next: 0, epoll: None };
        if starved {
            opened.close(pool);
            return Err(std::io::Error::new(
                std::io::ErrorKind::OutOfMemory,
                "all of the worker's chunks are in use by other AF_XDP ports; give the workers more",
            ));
        }
        if opened.sides.len() > 1 {
            opened.epoll = Some(watch(&opened.sides)?);
        }
        Ok(opened)
    }

    fn give_back(&mut self) {
        if !self.sides.is_empty() {
            self.shared.put_rx(std::mem::take(&mut self.sides));
        }
    }
}

fn watch(sides: &[RxSide]) -> std::io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for side in sides {
        epoll::add(&epoll, &*side.socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(epoll)
}

impl RxQueue for XdpRx {
    fn recv(
        &mut self,
        pool: &mut Pool,
        burst: &mut Burst,
        frames_max: usize,
        bytes_max: usize,
        report: &mut RxReport,
    ) -> RxStatus {
        let mut limits = Limits { frames: frames_max.min(burst.remaining_capacity()), bytes: bytes_max };
        let before = burst.len();
        let mut more = false;
        for _ in 0..self.sides.len() {
            let at = self.next;
            self.next = if at + 1 == self.sides.len() { 0 } else { at + 1 };
            let side = &mut self.sides[at];
            more |= side.take(pool, self.lenders[at], burst, &mut limits, report);
        }
        if burst.len() == before && !more {
            // Woken, and nothing there: perhaps because the interface went, which the kernel tells only who asks.
            if self.sides.iter().any(|side| side.socket.poll() == Err(Errno::NXIO)) {
                self.shared.set_gone();
            }
            if self.shared.is_gone() {
                return RxStatus::Gone;
            }
        }
        if more { RxStatus::More } else { RxStatus::Drained }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.epoll {
            Some(epoll) => Some(epoll.as_fd()),
            None => self.sides.first().map(|side| side.socket.as_fd()),
        }
    }

    fn polls_memory(&self) -> bool {
        true
    }

    fn has_frames(&mut self) -> bool {
        let busily = self.shared.polls_busily();
        self.sides.iter_mut().any(|side| {
            if busily && side.rx.acquire(1) == 0 {
                // Errors show where the worker receives.
                let _ = side.socket.poll();
            }
            side.rx.acquire(1) > 0
        })
    }

    fn polls_busily(&self) -> bool {
        self.shared.polls_busily()
    }

    /// The chunks come home when the sockets are closed: until then the kernel may write into them.
    fn close(&mut self, pool: &mut Pool) {
        for (side, lender) in self.sides.iter_mut().zip(self.lenders.drain(..)) {
            pool.retire_lender(lender, side.socket.closed());
        }
        self.give_back();
    }
}

impl Drop for XdpRx {
    fn drop(&mut self) {
        self.give_back();
    }
}
