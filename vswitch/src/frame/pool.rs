//! A worker's frames: one anonymous mapping, cut into equal slots, handed out last in, first out.
//!
//! Every slot can hold a super-frame. That costs address space, not memory: a slot's pages are
//! touched only as far as frames reach into it, and because the most recently freed slot is handed
//! out first, bulk traffic keeps using the one slot whose 64 KB are hot in the cache.
//!
//! The slot's stride is a multiple of the page size plus two cache lines. With a stride of whole
//! pages the headers of all frames of a burst would compete for one set of the L1 cache.
//!
//! A pool and its frames belong to one thread. A frame returned to another pool is a bug and
//! panics in [`Pool::free`].

// The slots are raw memory shared with system calls; `Frame` hands out slices of its own slot.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::Offload;

/// Bytes in front of a received frame: room for a `virtio_net_hdr`, a VLAN tag, an outer VXLAN
/// header (70 bytes over IPv6) and AF_XDP metadata.
///
/// 254 and the 66 bytes of Ethernet, IPv4 and TCP with timestamps make 320, so that the payload of a
/// super-frame starts on a cache line: the kernel's copies of it run faster (3 to 5 % of a worker's
/// time per gigabyte).
pub const HEADROOM_BYTES: usize = 254;

/// The longest frame that a slot holds: the largest IP packet, an Ethernet header and two VLAN
/// tags, and slack for lying headers to be detected in.
pub const FRAME_BYTES_MAX: usize = 65535 + 14 + 8;

const PAGE_BYTES: usize = 4096;
const SLOT_BYTES: usize = (HEADROOM_BYTES + FRAME_BYTES_MAX).next_multiple_of(PAGE_BYTES) + 128;

/// A move-only token for one slot of a [`Pool`], with the bytes of one frame in it.
#[derive(Debug)]
pub struct Frame {
    /// The start of the slot.
    slot: NonNull<u8>,
    /// Where the frame starts in the slot.
    start: u32,
    /// The frame's length in bytes.
    len: u32,
    /// What is still to be done to the frame.
    pub offload: Offload,
    /// Whether the outermost header after the addresses is an 802.1Q tag *that the switch
    /// regards as one*; set by the parser, kept by the tag operations of the egress.
    pub tagged: bool,
    /// Priority (PCP and DEI, the upper four bits of the tag's control field) of a tag that the
    /// switch removed: a flooded frame that gets a tag again for its next output keeps it.
    pub priority: u8,
    /// Which pool the slot belongs to.
    pool: u32,
}

// SAFETY: a frame is the only handle to its slot, and the mapping outlives it (see `Pool::drop`).
unsafe impl Send for Frame {}

impl Frame {
    /// The frame's bytes, from the destination MAC address on.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        // SAFETY: `start + len <= SLOT_BYTES` always holds, and this token is the only handle to the slot.
        unsafe { std::slice::from_raw_parts(self.slot.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The frame's bytes for writing.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.slot.as_ptr().add(self.start as usize), self.len as usize) }
    }

    /// The frame's length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the frame has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The free bytes in front of the frame.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// The bytes from `front` bytes before the frame's start to the end of the slot: where a
    /// device that puts a header in front of the frame reads both in one piece.
    ///
    /// # Panics
    /// If there is less headroom than `front`.
    #[inline]
    #[must_use]
    pub fn area_mut(&mut self, front: usize) -> &mut [u8] {
        assert!(front <= self.start as usize, "no headroom");
        let start = self.start as usize - front;
        // SAFETY: `start < SLOT_BYTES`, the slice ends at the end of the slot, the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.slot.as_ptr().add(start), SLOT_BYTES - start) }
    }

    /// The frame with the `front` bytes before it: what a device writes that wants its header and
    /// the frame in one piece.
    ///
    /// # Panics
    /// If there is less headroom than `front`.
    #[inline]
    #[must_use]
    pub fn with_front_mut(&mut self, front: usize) -> &mut [u8] {
        let len = front + self.len as usize;
        &mut self.area_mut(front)[..len]
    }

    /// Sets the length after bytes were written through [`Frame::area_mut`].
    ///
    /// # Panics
    /// If the slot is smaller than that.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        assert!(self.start as usize + len <= SLOT_BYTES, "frame longer than its slot");
        self.len = len as u32;
    }

    /// Replaces the frame's bytes.
    ///
    /// # Panics
    /// If the slot is smaller than that.
    #[inline]
    pub fn copy_from(&mut self, bytes: &[u8]) {
        self.set_len(bytes.len());
        self.data_mut().copy_from_slice(bytes);
    }

    /// Grows the frame at its front by `n` bytes, whose content is undefined, and keeps the
    /// offload's offsets true.
    ///
    /// # Panics
    /// If there is less headroom than that.
    #[inline]
    pub fn push_front(&mut self, n: usize) {
        assert!(n <= self.start as usize, "no headroom");
        self.start -= n as u32;
        self.len += n as u32;
        self.offload = self.offload.shifted(n as i32);
    }

    /// Removes `n` bytes from the frame's front and keeps the offload's offsets true.
    ///
    /// # Panics
    /// If the frame is shorter than that.
    #[inline]
    pub fn pull_front(&mut self, n: usize) {
        assert!(n <= self.len as usize, "frame too short");
        self.start += n as u32;
        self.len -= n as u32;
        self.offload = self.offload.shifted(-(n as i32));
    }
}

/// A thread's supply of frames.
#[derive(Debug)]
pub struct Pool {
    region: NonNull<u8>,
    /// Free slots; the last one is the hottest.
    free: Vec<u32>,
    slots: u32,
    id: u32,
}

// SAFETY: the pool owns its mapping; nothing in it is tied to the thread that made it.
unsafe impl Send for Pool {}

impl Pool {
    /// A pool of `slots` frames.
    ///
    /// # Errors
    /// When the kernel refuses the address space.
    pub fn new(slots: u32) -> std::io::Result<Self> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let bytes = slots as usize * SLOT_BYTES;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let region = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        Ok(Self {
            region: NonNull::new(region.cast()).expect("mmap never returns null without MAP_FIXED"),
            free: (0..slots).rev().collect(),
            slots,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// An empty frame with full headroom, or nothing when all are in use.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let slot = self.free.pop()?;
        // SAFETY: `slot < self.slots`, so the slot lies within the mapping; it was free, so no other token exists.
        let slot = unsafe { self.region.add(slot as usize * SLOT_BYTES) };
        Some(Frame {
            slot,
            start: HEADROOM_BYTES as u32,
            len: 0,
            offload: Offload::NONE,
            tagged: false,
            priority: 0,
            pool: self.id,
        })
    }

    /// Takes a frame back.
    ///
    /// # Panics
    /// If the frame belongs to another pool.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "consuming the token is the point")]
    pub fn free(&mut self, frame: Frame) {
        assert_eq!(frame.pool, self.id, "frame returned to a pool that it is not from");
        let offset = frame.slot.as_ptr() as usize - self.region.as_ptr() as usize;
        self.free.push((offset / SLOT_BYTES) as u32);
    }

    /// Takes all frames of a burst back.
    #[inline]
    pub fn free_all(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for frame in frames {
            self.free(frame);
        }
    }

    /// The number of frames in use.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots as usize - self.free.len()
    }

    /// The number of frames altogether.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots as usize
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Frames that are still out point into the mapping: then it is left to the process's end.
        if self.outstanding() == 0 {
            // SAFETY: the mapping was made in `new` with this size, and no token of it exists any more.
            let _ = unsafe { munmap(self.region.as_ptr().cast(), self.slots as usize * SLOT_BYTES) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        frame.offload.csum = super::super::Csum::Partial { start: 34, offset: 16 };
        frame.push_front(4);
        assert_eq!(frame.len(), 104);
        assert_eq!(frame.offload.csum, super::super::Csum::Partial { start: 38, offset: 16 });
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
}
