//! The memory of a pool: one anonymous mapping, slots first, chunks behind them.
//!
//! A *slot* holds any frame, also a super-frame of 64 KB. A *chunk* is a page, the unit in which an
//! AF_XDP socket receives. Both lie in one mapping, so that one registration (a UMEM) makes every
//! frame of a worker, wherever it came from, something that an AF_XDP socket sends by descriptor.
//! Addresses that are shared with the kernel are offsets into the mapping.
//!
//! Address space costs nothing until it is touched, or registered: a UMEM's pages are pinned.

// A raw mapping.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::{FRAME_BYTES_MAX, HEADROOM_BYTES};

const PAGE_BYTES: usize = 4096;

/// The bytes of a chunk: the largest that an AF_XDP socket takes.
pub const CHUNK_BYTES: usize = PAGE_BYTES;

/// The distance between two slots: whole pages and two cache lines. With a stride of whole pages
/// the headers of all frames of a burst would compete for one set of the L1 cache.
pub(super) const SLOT_BYTES: usize = (HEADROOM_BYTES + FRAME_BYTES_MAX).next_multiple_of(PAGE_BYTES) + 128;

/// A piece of memory that a frame may be in, by its number: slots first, chunks behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffer {
    Slot(u32),
    Chunk(u32),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    slots: u32,
    chunks: u32,
}

// SAFETY: the region is plain memory; who may touch which part of it is decided by the tokens that
// the pool hands out, not by this handle.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(super) fn new(slots: u32, chunks: u32) -> std::io::Result<Self> {
        let bytes = (slots as usize * SLOT_BYTES).next_multiple_of(PAGE_BYTES) + chunks as usize * CHUNK_BYTES;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let base = NonNull::new(base.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, slots, chunks })
    }

    /// Where the mapping starts; aligned to a page.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The mapping's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.chunks_start() + self.chunks as usize * CHUNK_BYTES
    }

    fn chunks_start(&self) -> usize {
        (self.slots as usize * SLOT_BYTES).next_multiple_of(PAGE_BYTES)
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Where a buffer starts, as an offset.
    #[inline]
    pub(super) fn offset(&self, buffer: Buffer) -> usize {
        match buffer {
            Buffer::Slot(slot) => slot as usize * SLOT_BYTES,
            Buffer::Chunk(chunk) => self.chunks_start() + chunk as usize * CHUNK_BYTES,
        }
    }

    /// Where a buffer starts.
    #[inline]
    pub(super) fn pointer(&self, buffer: Buffer) -> NonNull<u8> {
        debug_assert!(self.offset(buffer) < self.bytes());
        // SAFETY: numbers of buffers come from the pool, which has only those of this region.
        unsafe { self.base.add(self.offset(buffer)) }
    }

    /// The offset of an address within the mapping.
    #[inline]
    pub(super) fn offset_of(&self, pointer: NonNull<u8>) -> usize {
        pointer.as_ptr() as usize - self.base.as_ptr() as usize
    }

    /// The buffer that holds the byte at `offset`, if one does.
    #[inline]
    pub(super) fn buffer_at(&self, offset: usize) -> Option<Buffer> {
        match offset.checked_sub(self.chunks_start()) {
            Some(beyond) => {
                let chunk = u32::try_from(beyond / CHUNK_BYTES).ok()?;
                (chunk < self.chunks).then_some(Buffer::Chunk(chunk))
            }
            None => {
                let slot = (offset / SLOT_BYTES) as u32;
                (slot < self.slots).then_some(Buffer::Slot(slot))
            }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size; whoever holds a token or a
        // registration of a part of it holds a reference, too, and the last one goes here.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes()) };
    }
}
