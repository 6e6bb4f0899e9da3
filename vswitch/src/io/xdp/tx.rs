//! The sending side: frames become descriptors where they lie.
//!
//! # One call
//!
//! All units of a call are described in the transmit ring, each with all of its descriptors, and handed over with
//! one store; a packet is never split over two. Then the kernel is told. In copy mode, telling it *is* sending: the
//! system call takes descriptors one packet after another (`__xsk_generic_xmit`), and is repeated until the ring is empty:
//!
//! | it says | because | then |
//! |---|---|---|
//! | `EAGAIN` | its budget is used up, or the socket's buffer is full | again, while it gets on |
//! | `EBUSY` | the interface dropped the packet that it took last | count that one, go on |
//! | `ENETDOWN` | the interface is down | drop the rest |
//! | `ENXIO` | the interface is gone, the socket not bound any more | drop the rest, for good |
//!
//! Which packet was dropped is known by counting, because the kernel publishes its index only when it sent something.
//!
//! # Whose bytes they are
//!
//! *Copied*: what the kernel took was copied, so the frames stay the caller's. What it did not take, even asked again, is
//! given up: its descriptors are made empty, which the kernel skips. That is allowed here and only here, because in copy mode
//! it reads descriptors nowhere but in calls that this very thread makes.
//!
//! *Completed*: the device, or buffers on their way to it, read the bytes later. The frame is left to the kernel
//! ([`Pool::lend_frame`]) and comes back by the completion ring. Zero-copy works like that, and also copy mode on
//! interfaces that take scattered buffers without a linear part (`IFF_TX_SKB_NO_LINEAR`, virtio_net): there the kernel
//! references our pages instead of copying them (`xsk_build_skb_zerocopy`).
//!
//! # Checksums
//!
//! An unfinished checksum is left to whoever is next, by metadata in the 24 bytes before the frame
//! (`struct xsk_tx_metadata`). On a veth it just travels on, and nobody ever computes it.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use rustix::net::xdp::{XSK_UNALIGNED_BUF_OFFSET_SHIFT, XdpDesc, XdpDescOptions};

use super::delivery::{Delivery, Described};
use super::device::Shared;
use super::ring::{Consumer, Producer};
use super::socket::Socket;
use crate::frame::pool::{CHUNK_BYTES, TX_METADATA_BYTES};
use crate::frame::{BURST_FRAMES_MAX, Csum, DropReason, Frame, Pool};
use crate::io::{Piece, TxQueue, TxReport, Unit};

/// The most descriptors of one packet: the kernel's buffer has that many fragments (`MAX_SKB_FRAGS`).
const DESCRIPTORS_MAX: usize = 17;
/// How often the kernel is asked again while it says `EAGAIN` and takes nothing.
const STALLS_MAX: u32 = 4;
/// `XDP_TX_METADATA`: there is metadata before the first byte.
const TX_METADATA: XdpDescOptions = XdpDescOptions::from_bits_retain(libc::XDP_TX_METADATA);

/// The sending half of one socket.
#[derive(Debug)]
pub(super) struct TxSide {
    tx: Producer<XdpDesc>,
    completion: Consumer<u64>,
    socket: Arc<Socket>,
    /// Addresses that the kernel has to give back, in the order in which it got them.
    in_flight: VecDeque<u64>,
    /// Whether the interface was down when it was last asked.
    down: bool,
}

/// Who has the bytes of a frame while it is sent; see the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    Copied,
    Completed,
}

type Descriptors = ArrayVec<XdpDesc, { DESCRIPTORS_MAX }>;

impl TxSide {
    pub(super) fn new(tx: Producer<XdpDesc>, completion: Consumer<u64>, socket: Arc<Socket>) -> Self {
        Self { tx, completion, socket, in_flight: VecDeque::new(), down: false }
    }

    /// Whether the kernel has nothing of ours.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Takes back what the kernel is done with.
    fn complete(&mut self, pool: &mut Pool, ownership: Ownership) {
        let count = self.completion.acquire(u32::MAX);
        if count == 0 {
            return;
        }
        if ownership == Ownership::Completed {
            for at in 0..count {
                let Some(addr) = self.completion.get(at) else { break };
                // Nearly always the first one.
                let Some(position) = self.in_flight.iter().position(|&other| other == addr) else { continue };
                self.in_flight.remove(position);
                if is_last_of_extent(addr) {
                    pool.reclaim(addr);
                }
            }
        }
        self.completion.release(count);
    }
}

/// A descriptor's address says whether the extent goes on in another descriptor: by a distance of one byte, which the
/// kernel adds and gives back untouched.
fn goes_on(addr: u64) -> u64 {
    (addr - 1) | 1 << XSK_UNALIGNED_BUF_OFFSET_SHIFT
}

fn is_last_of_extent(addr: u64) -> bool {
    addr >> XSK_UNALIGNED_BUF_OFFSET_SHIFT == 0
}

/// The sending side of a device.
#[derive(Debug)]
pub(super) struct XdpTx {
    shared: Arc<Shared>,
    /// None once it was given back.
    side: Option<TxSide>,
    described: ArrayVec<Described, BURST_FRAMES_MAX>,
    /// Descriptors written and not handed over.
    written: u32,
}

impl XdpTx {
    pub(super) fn new(shared: Arc<Shared>, side: TxSide) -> Self {
        Self { shared, side: Some(side), described: ArrayVec::new(), written: 0 }
    }

    /// What becomes of the unit: descriptors in the ring, or a reason to drop it.
    fn describe(&mut self, pool: &mut Pool, frames: &mut [Frame], unit: &Unit) -> Result<(), Refusal> {
        let Some(side) = &mut self.side else { return Err(Refusal::Drop(DropReason::PortGone)) };
        if unit.pieces_count > 0 || unit.offload.gso.is_some() {
            // The device does not claim to take such units.
            return Err(Refusal::Drop(DropReason::Unsegmentable));
        }
        let (index, mut descs) = (usize::from(unit.frame), Descriptors::new());
        let partial = match unit.offload.csum {
            Csum::Partial { start, offset } => Some((start, offset)),
            Csum::Unknown | Csum::Valid => None,
        };
        let bytes = frames[index].len();
        let ownership = self.shared.ownership();
        if ownership == Ownership::Completed {
            if side.tx.acquire(DESCRIPTORS_MAX as u32) - self.written < DESCRIPTORS_MAX as u32 {
                return Err(Refusal::RingFull);
            }
            let mut frame = keep(pool, frames, index, unit.sole)?;
            match list(pool, &mut frame, partial, &self.shared, &mut descs) {
                Ok(()) => pool.lend_frame(frame),
                Err(reason) => {
                    pool.free(frame);
                    return Err(Refusal::Drop(reason));
                }
            }
            side.in_flight.extend(descs.iter().map(|desc| desc.addr));
        } else {
            list(pool, &mut frames[index], partial, &self.shared, &mut descs).map_err(Refusal::Drop)?;
            if side.tx.acquire(self.written + descs.len() as u32) < self.written + descs.len() as u32 {
                return Err(Refusal::RingFull);
            }
        }
        for desc in descs {
            side.tx.put(self.written, desc);
            self.written += 1;
        }
        let end = side.tx.produced().wrapping_add(self.written);
        self.described.push(Described { end, bytes: bytes as u32 });
        Ok(())
    }

    /// Hands over what was described, and accounts for it.
    fn submit(&mut self, report: &mut TxReport) {
        let Some(side) = &mut self.side else { return };
        if self.described.is_empty() {
            return;
        }
        let first = side.tx.produced();
        side.tx.release(std::mem::take(&mut self.written));
        let mut delivered = Delivery::new(&self.described, report);
        if self.shared.is_zero_copy() {
            if side.tx.needs_wakeup() {
                // Other errors say that it is down, or the driver busy: the descriptors are in the ring and are looked at
                // later.
                if side.socket.kick() == Err(Errno::NXIO) {
                    self.shared.set_gone();
                }
            }
            delivered.all();
        } else {
            let error = push(side, &mut delivered);
            let reason = match error {
                Some(Errno::NXIO) => {
                    self.shared.set_gone();
                    DropReason::PortGone
                }
                Some(Errno::NETDOWN) => {
                    side.down = true;
                    DropReason::PortDown
                }
                Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => DropReason::NoBuffer,
                _ => DropReason::TxError,
            };
            if self.shared.ownership() == Ownership::Copied {
                let from = delivered.settled_end().unwrap_or(first);
                side.tx.revise(from, |desc| *desc = XdpDesc { len: 0, options: XdpDescOptions::empty(), ..*desc });
                delivered.drop_rest(reason);
            } else if error == Some(Errno::NXIO) {
                delivered.drop_rest(reason);
            } else {
                // They are the kernel's now, and go out as soon as it can: the ring is a queue.
                delivered.all();
            }
        }
        self.described.clear();
    }
}

/// Why a unit is not in the ring.
enum Refusal {
    /// For good.
    Drop(DropReason),
    /// Until something was handed over.
    RingFull,
}

/// The frame of a unit that has to outlive the call: itself if nobody else needs it, else a copy.
fn keep(pool: &mut Pool, frames: &mut [Frame], index: usize, sole: bool) -> Result<Frame, Refusal> {
    let empty = Refusal::Drop(DropReason::PoolEmpty);
    if sole {
        let Some(other) = pool.alloc() else { return Err(empty) };
        return Ok(std::mem::replace(&mut frames[index], other));
    }
    let frame = &mut frames[index];
    if !pool.linearize(frame) {
        return Err(empty);
    }
    let Some(mut copy) = pool.alloc() else { return Err(empty) };
    copy.copy_from(frame.data());
    Ok(copy)
}

/// Lists a frame's descriptors, with metadata if its checksum is `partial`.
fn list(
    pool: &Pool,
    frame: &mut Frame,
    partial: Option<(u16, u16)>,
    shared: &Shared,
    descs: &mut Descriptors,
) -> Result<(), DropReason> {
    let mut described = 0;
    for (addr, len) in pool.extents(frame) {
        described += len as usize;
        let pieces = if shared.is_page_bound() { split_at_pages(addr, len) } else { [Some((addr, len)), None] };
        for (addr, len) in pieces.into_iter().flatten() {
            let desc = XdpDesc { addr, len, options: XdpDescOptions::XDP_PKT_CONTD };
            descs.try_push(desc).map_err(|_| DropReason::TooBig)?;
        }
    }
    let Some(last) = descs.last_mut() else { return Err(DropReason::Runt) };
    last.options = XdpDescOptions::empty();
    if descs.len() > 1 && !shared.takes_scattered() {
        return Err(DropReason::TooBig);
    }
    if described != frame.len() || descs.iter().any(|desc| desc.len == 0) {
        return Err(DropReason::Malformed);
    }
    let Some((start, offset)) = partial else { return Ok(()) };
    let first = &mut descs[0];
    // The kernel would refuse such a descriptor again and again, and with it all behind it (`xsk_skb_metadata`).
    if u32::from(start) + u32::from(offset) + 2 > first.len || frame.headroom() < TX_METADATA_BYTES {
        return Err(DropReason::Malformed);
    }
    if !shared.takes_metadata() {
        return Err(DropReason::TxError);
    }
    first.options |= TX_METADATA;
    if let Some(metadata) = frame.with_front_mut(TX_METADATA_BYTES).first_chunk_mut() {
        *metadata = checksum_request(start, offset);
    }
    Ok(())
}

/// `struct xsk_tx_metadata` that asks for a checksum: flags, where to start, where to store it from there.
fn checksum_request(start: u16, offset: u16) -> [u8; TX_METADATA_BYTES] {
    let mut bytes = [0; TX_METADATA_BYTES];
    bytes[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    bytes[8..10].copy_from_slice(&start.to_ne_bytes());
    bytes[10..12].copy_from_slice(&offset.to_ne_bytes());
    bytes
}

/// An extent as pieces of single pages: devices read by physical addresses, and neighbouring pages need not be neighbours
/// there. The extent's last piece keeps its address, by whose return the extent is given back.
fn split_at_pages(addr: u64, len: u32) -> [Option<(u64, u32)>; 2] {
    let room = (CHUNK_BYTES as u64 - addr % CHUNK_BYTES as u64) as u32;
    if len <= room {
        return [Some((addr, len)), None];
    }
    // An address of zero has no predecessor, but a frame has headroom in front of it.
    [Some((goes_on(addr), room)), Some((addr + u64::from(room), len - room))]
}

/// Makes the kernel take what is in the ring; the error at which it stopped, if it did.
fn push(side: &mut TxSide, delivered: &mut Delivery<'_, '_>) -> Option<Errno> {
    let mut stalls = 0;
    let mut consumed = side.tx.consumed();
    // Every call takes a descriptor or counts as a stall.
    let mut calls_left = side.tx.pending() + STALLS_MAX;
    loop {
        let result = side.socket.kick();
        let before = std::mem::replace(&mut consumed, side.tx.consumed());
        let news = delivered.up_to(consumed, result == Err(Errno::BUSY));
        if side.tx.pending() == 0 || delivered.are_all() {
            return None;
        }
        calls_left -= 1;
        if calls_left == 0 {
            return Some(result.err().unwrap_or(Errno::IO));
        }
        match result {
            Ok(()) | Err(Errno::INTR | Errno::BUSY) => {}
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                stalls = if consumed == before && !news { stalls + 1 } else { 0 };
                // The completion ring may be full, too: it has room as soon as its entries are taken.
                let count = side.completion.acquire(u32::MAX);
                if side.in_flight.is_empty() {
                    side.completion.release(count);
                }
                if stalls == STALLS_MAX {
                    return result.err();
                }
            }
            Err(errno) => return Some(errno),
        }
    }
}

impl TxQueue for XdpTx {
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], _: &[Piece], report: &mut TxReport) {
        let ownership = self.shared.ownership();
        let Some(side) = &mut self.side else {
            return units.iter().for_each(|_| report.drop_unit(DropReason::PortGone));
        };
        side.complete(pool, ownership);
        if self.shared.is_gone() {
            return units.iter().for_each(|_| report.drop_unit(DropReason::PortGone));
        }
        // While it is down nothing is put into the ring, to be sent when it comes up again.
        if side.down {
            side.down = side.socket.kick() == Err(Errno::NETDOWN);
            if side.down {
                return units.iter().for_each(|_| report.drop_unit(DropReason::PortDown));
            }
        }
        for unit in units {
            let mut outcome = self.describe(pool, frames, unit);
            if matches!(outcome, Err(Refusal::RingFull)) || self.described.is_full() {
                self.submit(report);
                if outcome.is_err() {
                    if let Some(side) = &mut self.side {
                        side.complete(pool, ownership);
                    }
                    outcome = self.describe(pool, frames, unit);
                }
            }
            match outcome {
                Ok(()) => {}
                Err(Refusal::Drop(reason)) => report.drop_unit(reason),
                Err(Refusal::RingFull) => report.drop_unit(DropReason::NoBuffer),
            }
        }
        self.submit(report);
    }

    /// What the kernel still has comes home when the socket is closed.
    fn close(&mut self, pool: &mut Pool) {
        let Some(mut side) = self.side.take() else { return };
        side.complete(pool, self.shared.ownership());
        let extents = side.in_flight.iter().copied().filter(|&addr| is_last_of_extent(addr)).collect::<Vec<_>>();
        if extents.is_empty() {
            self.shared.put_tx(side);
        } else {
            pool.retire_frames(extents, side.socket.closed());
        }
    }
}

impl Drop for XdpTx {
    fn drop(&mut self) {
        if let Some(side) = self.side.take()
            && side.is_idle()
        {
            self.shared.put_tx(side);
        }
    }
}
