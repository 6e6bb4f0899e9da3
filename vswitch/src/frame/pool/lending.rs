//! Buffers that the kernel has: chunks to receive into, and frames on their way out.
//!
//! An AF_XDP socket is given chunks by address (its fill ring) and gives them back as descriptors
//! of received frames; a receive queue is their *lender*. A frame that is sent by descriptor may
//! have to stay untouched until the device is done: then its token is given up, its buffers are
//! *claimed* by as many descriptors as were made of them, and come back as the descriptors do.
//!
//! Chunks that a socket still has when it is closed come back once the socket is really gone,
//! because until then the kernel may write into them. Sockets are closed by another thread, which
//! says so through a flag.

// Copies out of buffers whose tokens are held by the caller.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;

use super::{Buffer, CHUNK_BYTES, FRAME_BYTES_MAX, Frame, NO_CHUNK, Pool, SLOT_BYTES};

/// Bytes that an AF_XDP socket may want immediately in front of a packet (`struct xsk_tx_metadata`,
/// `include/uapi/linux/if_xdp.h`), a multiple of 8.
pub const TX_METADATA_BYTES: usize = 24;

/// The most bytes of one descriptor: the kernel takes a chunk's worth, and counts the metadata
/// before every descriptor (`xp_unaligned_validate_desc`).
pub const EXTENT_BYTES_MAX: usize = CHUNK_BYTES - TX_METADATA_BYTES;

/// Who lent chunks: a receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lender(u32);

/// Nobody: the chunk is free or in use by a frame.
const NOBODY: u32 = 0;

/// Where a scattered frame goes on.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// The next chunk of the frame, or [`NO_CHUNK`].
    next: u32,
    /// The last chunk of the frame; only true in the tail's first chunk.
    last: u32,
    /// Where in the chunk the bytes start.
    offset: u16,
    /// How many there are.
    len: u16,
}

/// What is known of every chunk, and of the slots that are claimed.
#[derive(Debug)]
pub(super) struct Ledger {
    free: Vec<u32>,
    links: Vec<Link>,
    lent_to: Vec<u32>,
    lent: usize,
    /// Descriptors per buffer that the kernel has; slots first.
    claims: Vec<u8>,
    lenders: u32,
    /// What comes home when a socket is closed.
    retiring: Vec<(Retired, Arc<AtomicBool>)>,
}

/// What a socket had when its queues were closed.
#[derive(Debug)]
enum Retired {
    /// Chunks to receive into.
    Lender(Lender),
    /// Extents of frames on their way out.
    Extents(Vec<u64>),
}

impl Ledger {
    pub(super) fn new(slots: u32, chunks: u32) -> Self {
        let link = Link { next: NO_CHUNK, last: NO_CHUNK, offset: 0, len: 0 };
        Self {
            free: (0..chunks).rev().collect(),
            links: vec![link; chunks as usize],
            lent_to: vec![NOBODY; chunks as usize],
            lent: 0,
            claims: vec![0; (slots + chunks) as usize],
            lenders: NOBODY,
            retiring: Vec::new(),
        }
    }

    pub(super) fn chunks_in_use(&self) -> usize {
        self.links.len() - self.free.len() - self.lent
    }

    /// Takes home what was lent by one lender.
    fn collect(&mut self, lender: Lender) {
        for (chunk, to) in self.lent_to.iter_mut().enumerate().filter(|(_, to)| **to == lender.0) {
            *to = NOBODY;
            self.lent -= 1;
            self.free.push(chunk as u32);
        }
    }
}

impl Pool {
    /// A new lender.
    pub fn new_lender(&mut self) -> Lender {
        self.ledger.lenders = self.ledger.lenders.checked_add(1).unwrap_or(NOBODY + 1);
        Lender(self.ledger.lenders)
    }

    /// Lends a chunk to be received into; its address, or nothing if all are in use.
    #[inline]
    pub fn lend_chunk(&mut self, lender: Lender) -> Option<u64> {
        if self.ledger.free.is_empty() {
            self.collect_retired();
        }
        let chunk = self.ledger.free.pop()?;
        self.ledger.lent_to[chunk as usize] = lender.0;
        self.ledger.lent += 1;
        Some(self.region.offset(Buffer::Chunk(chunk)) as u64)
    }

    /// Takes a chunk from its lender, if `len` bytes at `addr` lie inside of a chunk that is lent.
    #[inline]
    fn take_lent(&mut self, addr: u64, len: u32) -> Option<(u32, usize)> {
        let addr = usize::try_from(addr).ok()?;
        let Some(Buffer::Chunk(chunk)) = self.region.buffer_at(addr) else { return None };
        let within = addr - self.region.offset(Buffer::Chunk(chunk));
        if self.ledger.lent_to[chunk as usize] == NOBODY || within + len as usize > CHUNK_BYTES {
            return None;
        }
        self.ledger.lent_to[chunk as usize] = NOBODY;
        self.ledger.lent -= 1;
        Some((chunk, within))
    }

    /// The frame whose bytes were received at `addr`, which is the address of its first byte.
    /// Nothing if that is not inside of a chunk that was lent.
    #[inline]
    pub fn receive(&mut self, addr: u64, len: u32) -> Option<Frame> {
        let (chunk, within) = self.take_lent(addr, len)?;
        let mut frame = Frame::new(self.region.pointer(Buffer::Chunk(chunk)), CHUNK_BYTES, within, self.id);
        frame.set_len(len as usize);
        Some(frame)
    }

    /// Appends what was received at `addr` to a received frame. False if it is not inside of a
    /// chunk that was lent, or the frame becomes longer than any frame is; then the chunk is free.
    pub fn append(&mut self, frame: &mut Frame, addr: u64, len: u32) -> bool {
        let Some((chunk, within)) = self.take_lent(addr, len) else { return false };
        if frame.capacity as usize != CHUNK_BYTES || frame.len() + len as usize > FRAME_BYTES_MAX || len == 0 {
            self.ledger.free.push(chunk);
            return len == 0;
        }
        let links = &mut self.ledger.links;
        links[chunk as usize] = Link { next: NO_CHUNK, last: chunk, offset: within as u16, len: len as u16 };
        if frame.tail == NO_CHUNK {
            frame.tail = chunk;
        } else {
            let last = std::mem::replace(&mut links[frame.tail as usize].last, chunk);
            links[last as usize].next = chunk;
        }
        frame.tail_bytes += len;
        true
    }

    /// Gives a chunk back that was lent and not used.
    pub fn return_chunk(&mut self, addr: u64) -> bool {
        let taken = self.take_lent(addr, 0);
        self.ledger.free.extend(taken.map(|(chunk, _)| chunk));
        taken.is_some()
    }

    /// What was lent by `lender` comes home once `closed` is true: set it when the socket is closed.
    pub fn retire_lender(&mut self, lender: Lender, closed: Arc<AtomicBool>) {
        self.ledger.retiring.push((Retired::Lender(lender), closed));
    }

    /// Extents of frames that were lent and that no device will give back any more come home once `closed` is true.
    pub fn retire_frames(&mut self, extents: Vec<u64>, closed: Arc<AtomicBool>) {
        self.ledger.retiring.push((Retired::Extents(extents), closed));
    }

    /// Takes home what sockets had that are closed by now.
    #[cold]
    pub(super) fn collect_retired(&mut self) {
        let is_closed = |(_, closed): &mut (Retired, Arc<AtomicBool>)| closed.load(Ordering::Acquire);
        let home: Vec<_> = self.ledger.retiring.extract_if(.., is_closed).collect();
        for (retired, _) in home {
            match retired {
                Retired::Lender(lender) => self.ledger.collect(lender),
                Retired::Extents(extents) => {
                    for addr in extents {
                        self.reclaim(addr);
                    }
                }
            }
        }
    }

    /// The number of chunks that are lent, after those of closed sockets came home.
    pub fn lent(&mut self) -> usize {
        self.collect_retired();
        self.ledger.lent
    }

    /// The number of chunks that are free.
    #[must_use]
    pub fn free_chunks_left(&self) -> usize {
        self.ledger.free.len()
    }

    /// The number of chunks altogether.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.ledger.links.len()
    }

    /// Frees the chunk at `offset` and those of the tail.
    pub(super) fn free_chunks(&mut self, offset: usize, tail: u32) {
        if let Some(Buffer::Chunk(chunk)) = self.region.buffer_at(offset) {
            self.ledger.free.push(chunk);
        }
        let mut at = tail;
        while at != NO_CHUNK {
            self.ledger.free.push(at);
            at = self.ledger.links[at as usize].next;
        }
    }

    /// The frame's bytes as they lie in memory: offset in the region and length of each part.
    pub(super) fn parts(&self, frame: &Frame) -> impl Iterator<Item = (usize, usize)> + use<> {
        let mut parts = ArrayVec::<(usize, usize), { FRAME_BYTES_MAX / 1024 }>::new();
        parts.push((self.region.offset_of(frame.buffer) + frame.start as usize, frame.head_bytes as usize));
        let mut at = frame.tail;
        while at != NO_CHUNK {
            let link = self.ledger.links[at as usize];
            // More parts than that would be parts of a few bytes each, which no kernel makes: what
            // does not fit is not lost silently, the frame is shorter than it says and is dropped.
            if parts
                .try_push((self.region.offset(Buffer::Chunk(at)) + usize::from(link.offset), usize::from(link.len)))
                .is_err()
            {
                break;
            }
            at = link.next;
        }
        parts.into_iter()
    }

    /// The frame's bytes as descriptors have them: address and length, each at most
    /// [`EXTENT_BYTES_MAX`], in order.
    pub fn extents(&self, frame: &Frame) -> impl Iterator<Item = (u64, u32)> + use<> {
        self.parts(frame).flat_map(|(offset, len)| {
            let end = offset + len;
            (offset..end).step_by(EXTENT_BYTES_MAX).map(move |at| (at as u64, (end - at).min(EXTENT_BYTES_MAX) as u32))
        })
    }

    /// Leaves a frame to the kernel, one claim for each of its extents.
    #[expect(clippy::needless_pass_by_value, reason = "consuming the token is the point")]
    pub fn lend_frame(&mut self, frame: Frame) {
        assert_eq!(frame.pool, self.id, "frame lent by a pool that it is not from");
        for (addr, _) in self.extents(&frame) {
            if let Some(claims) = self.claims_at(addr) {
                *claims += 1;
            }
        }
    }

    fn claims_at(&mut self, addr: u64) -> Option<&mut u8> {
        let index = match self.region.buffer_at(usize::try_from(addr).ok()?)? {
            Buffer::Slot(slot) => slot,
            Buffer::Chunk(chunk) => self.region.slots() + chunk,
        };
        self.ledger.claims.get_mut(index as usize)
    }

    /// Takes back one extent of a frame that was lent; its buffer is free when all have come back.
    /// False if the kernel has no claim on that buffer.
    pub fn reclaim(&mut self, addr: u64) -> bool {
        let Some(claims) = self.claims_at(addr).filter(|claims| **claims > 0) else { return false };
        *claims -= 1;
        if *claims == 0 {
            match self.region.buffer_at(addr as usize) {
                Some(Buffer::Slot(slot)) => self.free.push(slot),
                Some(Buffer::Chunk(chunk)) => self.ledger.free.push(chunk),
                None => {}
            }
        }
        true
    }

    /// Copies bytes of a frame that the caller holds.
    pub(super) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.region.bytes());
        // SAFETY: within the mapping (asserted); the caller holds the token of the frame that the
        // bytes belong to, so nobody writes them; `to` is another frame's buffer or none of ours.
        unsafe { std::ptr::copy_nonoverlapping(self.region.base().add(offset), to.as_mut_ptr(), to.len()) }
    }
}

const _: () = assert!(SLOT_BYTES / EXTENT_BYTES_MAX < u8::MAX as usize, "claims fit their counter");
