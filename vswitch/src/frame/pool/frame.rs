//! The token for one frame.

// A frame hands out slices of its own buffer, which is raw memory shared with system calls.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::frame::{Encapsulation, Offload};

/// No chunk.
pub(super) const NO_CHUNK: u32 = u32::MAX;

/// A move-only token for one buffer of a [`super::Pool`], with the bytes of one frame in it.
///
/// A frame that came over AF_XDP and is longer than a chunk is *scattered*: it goes on in further
/// chunks, its tail. Then [`Frame::data`] is only its head, with all headers that the switch looks
/// at, while [`Frame::len`] is the length of the whole.
#[derive(Debug)]
pub struct Frame {
    /// The start of the buffer.
    pub(super) buffer: NonNull<u8>,
    /// The buffer's bytes.
    pub(super) capacity: u32,
    /// Where the frame starts in the buffer.
    pub(super) start: u32,
    /// The head's length in bytes.
    pub(super) head_bytes: u32,
    /// The tail's length in bytes.
    pub(super) tail_bytes: u32,
    /// The first chunk of the tail, or [`NO_CHUNK`].
    pub(super) tail: u32,
    /// Which pool the buffer belongs to.
    pub(super) pool: u32,
    /// What is still to be done to the frame.
    pub offload: Offload,
    /// The outer headers of a super-frame inside of a tunnel. Of a frame between two shared uplinks' queues only: it is set
    /// last before a frame is sent, and taken out first after it was received. Nothing keeps its offsets true.
    pub encapsulation: Option<Encapsulation>,
    /// Whether the outermost header after the addresses is an 802.1Q tag *that the switch
    /// regards as one*; set by the parser, kept by the tag operations of the egress.
    pub tagged: bool,
    /// Priority (PCP and DEI, the upper four bits of the tag's control field) of a tag that the
    /// switch removed: a flooded frame that gets a tag again for its next output keeps it.
    pub priority: u8,
    /// The identification of the fragments that an IPv6 packet may be cut into, or zero: nobody but its source may cut it
    /// (RFC 8200 section 4.5), which is this host where its own programs send to it.
    pub fragment_id: u32,
}

// SAFETY: a frame is the only handle to its buffer, and the mapping outlives it (see `Pool::drop`).
unsafe impl Send for Frame {}

impl Frame {
    pub(super) fn new(buffer: NonNull<u8>, capacity: usize, start: usize, pool: u32) -> Self {
        Self {
            buffer,
            capacity: capacity as u32,
            start: start as u32,
            head_bytes: 0,
            tail_bytes: 0,
            tail: NO_CHUNK,
            pool,
            offload: Offload::NONE,
            encapsulation: None,
            tagged: false,
            priority: 0,
            fragment_id: 0,
        }
    }

    /// The frame's bytes, from the destination MAC address on; of a scattered frame, its head.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        // SAFETY: `start + head_bytes <= capacity` always holds, and this token is the only handle to the buffer.
        unsafe { std::slice::from_raw_parts(self.buffer.as_ptr().add(self.start as usize), self.head_bytes as usize) }
    }

    /// The frame's bytes for writing; of a scattered frame, its head.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let len = self.head_bytes as usize;
        // SAFETY: as in `data`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.as_ptr().add(self.start as usize), len) }
    }

    /// The whole frame's length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.head_bytes as usize + self.tail_bytes as usize
    }

    /// Whether the frame has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether [`Frame::data`] is the whole frame.
    #[inline]
    #[must_use]
    pub fn is_linear(&self) -> bool {
        self.tail_bytes == 0
    }

    /// The free bytes in front of the frame.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// The bytes from `front` bytes before the frame's start to the end of the buffer: where a
    /// device that puts a header in front of the frame reads both in one piece.
    ///
    /// # Panics
    /// If there is less headroom than `front`.
    #[inline]
    #[must_use]
    pub fn area_mut(&mut self, front: usize) -> &mut [u8] {
        assert!(front <= self.start as usize, "no headroom");
        let start = self.start as usize - front;
        let len = self.capacity as usize - start;
        // SAFETY: `start < capacity`, the slice ends at the end of the buffer, the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.as_ptr().add(start), len) }
    }

    /// The frame with the `front` bytes before it: what a device writes that wants its header and
    /// the frame in one piece.
    ///
    /// # Panics
    /// If there is less headroom than `front`.
    #[inline]
    #[must_use]
    pub fn with_front_mut(&mut self, front: usize) -> &mut [u8] {
        let len = front + self.head_bytes as usize;
        &mut self.area_mut(front)[..len]
    }

    /// Sets the length after bytes were written through [`Frame::area_mut`]. Not for scattered frames.
    ///
    /// # Panics
    /// If the buffer is smaller than that.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        debug_assert!(self.is_linear(), "only the head's length would change");
        assert!(self.start as usize + len <= self.capacity as usize, "frame longer than its buffer");
        self.head_bytes = len as u32;
    }

    /// Replaces the frame's bytes.
    ///
    /// # Panics
    /// If the buffer is smaller than that.
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
        self.head_bytes += n as u32;
        self.offload = self.offload.shifted(n as i32);
    }

    /// Removes `n` bytes from the frame's front and keeps the offload's offsets true.
    ///
    /// # Panics
    /// If the frame's head is shorter than that.
    #[inline]
    pub fn pull_front(&mut self, n: usize) {
        assert!(n <= self.head_bytes as usize, "frame too short");
        self.start += n as u32;
        self.head_bytes -= n as u32;
        self.offload = self.offload.shifted(-(n as i32));
    }
}
