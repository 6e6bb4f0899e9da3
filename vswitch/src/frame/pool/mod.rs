//! A worker's frames: one mapping, cut into equal slots and chunks, handed out last in, first out.
//!
//! Every slot can hold a super-frame. That costs address space, not memory: a slot's pages are
//! touched only as far as frames reach into it, and because the most recently freed slot is handed
//! out first, bulk traffic keeps using the one slot whose 64 KB are hot in the cache. Chunks are
//! what AF_XDP sockets receive into (`lending`).
//!
//! A pool and its frames belong to one thread. A frame returned to another pool is a bug and
//! panics in [`Pool::free`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

mod frame;
mod lending;
mod region;

pub use frame::Frame;
pub use lending::{EXTENT_BYTES_MAX, Lender, TX_METADATA_BYTES};
pub use region::{CHUNK_BYTES, Region};

use frame::NO_CHUNK;
use lending::Ledger;
use region::{Buffer, SLOT_BYTES};

/// Bytes in front of a received frame: room for a `virtio_net_hdr`, a VLAN tag, an outer VXLAN
/// header (70 bytes over IPv6) and AF_XDP metadata.
///
/// 254 and the 66 bytes of Ethernet, IPv4 and TCP with timestamps make 320, so that the payload of a
/// super-frame starts on a cache line: the kernel's copies of it run faster (3 to 5 % of a worker's
/// time per gigabyte). AF_XDP leaves 256 bytes by itself (`XDP_PACKET_HEADROOM`).
pub const HEADROOM_BYTES: usize = 254;

/// The longest frame that a slot holds: the largest IP packet, an Ethernet header and two VLAN
/// tags, and slack for lying headers to be detected in.
pub const FRAME_BYTES_MAX: usize = 65535 + 14 + 8;

/// A thread's supply of frames.
#[derive(Debug)]
pub struct Pool {
    region: Arc<Region>,
    /// Free slots; the last one is the hottest.
    free: Vec<u32>,
    ledger: Ledger,
    /// Frames that were copied to make them linear.
    linearized: u64,
    id: u32,
}

impl Pool {
    /// A pool of `slots` frames.
    ///
    /// # Errors
    /// When the kernel refuses the address space.
    pub fn new(slots: u32) -> std::io::Result<Self> {
        Self::with_chunks(slots, 0)
    }

    /// A pool of `slots` frames, and `chunks` chunks to receive into by AF_XDP.
    ///
    /// # Errors
    /// When the kernel refuses the address space.
    pub fn with_chunks(slots: u32, chunks: u32) -> std::io::Result<Self> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        Ok(Self {
            region: Arc::new(Region::new(slots, chunks)?),
            free: (0..slots).rev().collect(),
            ledger: Ledger::new(slots, chunks),
            linearized: 0,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The memory that all frames of the pool are in.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// An empty frame with full headroom, or nothing when all slots are in use.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.collect_retired();
        }
        let slot = self.free.pop()?;
        Some(Frame::new(self.region.pointer(Buffer::Slot(slot)), SLOT_BYTES, HEADROOM_BYTES, self.id))
    }

    /// Takes a frame back.
    ///
    /// # Panics
    /// If the frame belongs to another pool.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "consuming the token is the point")]
    pub fn free(&mut self, frame: Frame) {
        assert_eq!(frame.pool, self.id, "frame returned to a pool that it is not from");
        let offset = self.region.offset_of(frame.buffer);
        if frame.capacity as usize == SLOT_BYTES {
            self.free.push((offset / SLOT_BYTES) as u32);
        } else {
            self.free_chunks(offset, frame.tail);
        }
    }

    /// Takes all frames of a burst back.
    #[inline]
    pub fn free_all(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for frame in frames {
            self.free(frame);
        }
    }

    /// Makes a scattered frame whole, in a slot: a copy, which is counted. False, and the frame as
    /// it was, if there is no slot, or it has more parts than any kernel makes.
    pub fn linearize(&mut self, frame: &mut Frame) -> bool {
        if frame.is_linear() {
            return true;
        }
        let Some(mut whole) = self.alloc() else { return false };
        let mut at = 0;
        whole.set_len(frame.len());
        for (offset, len) in self.parts(frame) {
            self.copy_out(offset, &mut whole.data_mut()[at..at + len]);
            at += len;
        }
        whole.offload = frame.offload;
        whole.tagged = frame.tagged;
        whole.priority = frame.priority;
        whole.fragment_id = frame.fragment_id;
        if at != whole.len() {
            self.free(whole);
            return false;
        }
        self.linearized += 1;
        self.free(std::mem::replace(frame, whole));
        true
    }

    /// How many frames were copied by [`Pool::linearize`].
    #[must_use]
    pub fn linearized(&self) -> u64 {
        self.linearized
    }

    /// The number of buffers in use by frames, here or on their way through the kernel. What is lent for
    /// receiving is not in use.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots() - self.free.len() + self.ledger.chunks_in_use()
    }

    /// The number of slots altogether.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.region.slots() as usize
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Frames that are still out point into the mapping: then it is left to the process's end.
        if self.outstanding() != 0 {
            std::mem::forget(Arc::clone(&self.region));
        }
    }
}

#[cfg(test)]
mod tests;
