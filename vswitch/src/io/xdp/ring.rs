//! The rings that an AF_XDP socket shares with the kernel (`net/xdp/xsk_queue.h`): one side produces, the
//! other consumes, each alone.
//!
//! # Theory of operation
//!
//! A ring is a power of two of entries and two free-running `u32` indices, which wrap: entry `i` is at
//! `i % capacity`, `producer - consumer` entries are the consumer's, all others the producer's. Either side
//! works in three verbs:
//!
//! 1. *acquire*: how many entries are mine? Looks at the other side's index, in shared memory, only when
//!    those known from the last look are too few.
//! 2. *data*: those entries, as two slices, because they may reach around the end of the ring.
//! 3. *release*: hands the first `n` of them over, with one store.
//!
//! Entries that were released are never taken back: the kernel keeps a copy of the producer's index
//! (`cached_prod`) and would not see it move backwards.
//!
//! The release store of one side pairs with the acquire load of the other, so the entries are seen as they
//! were before the index moved. Nothing else orders them.

// The rings are memory shared with the kernel, reached through pointers.
#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel wants a system call before it looks at the ring again (`XDP_RING_NEED_WAKEUP`).
const NEED_WAKEUP: u32 = libc::XDP_RING_NEED_WAKEUP;

/// Where the parts of a ring are, and what keeps them mapped.
pub(super) struct Parts<T> {
    pub(super) producer: NonNull<AtomicU32>,
    pub(super) consumer: NonNull<AtomicU32>,
    pub(super) flags: Option<NonNull<AtomicU32>>,
    pub(super) entries: NonNull<T>,
    /// The number of entries: a power of two.
    pub(super) capacity: u32,
    /// Whoever unmaps the memory when it is dropped.
    pub(super) _owner: Arc<dyn Any + Send + Sync>,
}

/// The memory of a ring, as both sides see it.
struct Ring<T> {
    parts: Parts<T>,
}

// SAFETY: the indices are atomic; the entries are reached only through the one `Producer` or `Consumer`
// that a ring is made for, which are used by one thread at a time (`&mut self`).
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid and aligned as long as `_owner` lives (contract of `Producer::new` and `Consumer::new`).
        unsafe { self.parts.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.parts.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        self.parts.flags.is_some_and(|flags| unsafe { flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0)
    }

    /// Where entries `from..from + count` are: one or two runs of (first slot, length).
    fn runs(&self, from: u32, count: u32) -> [(usize, usize); 2] {
        let capacity = self.parts.capacity;
        debug_assert!(count <= capacity);
        let first = from & (capacity - 1);
        let straight = count.min(capacity - first);
        [(first as usize, straight as usize), (0, (count - straight) as usize)]
    }
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("capacity", &self.parts.capacity).finish_non_exhaustive()
    }
}

/// The side that fills a ring: a socket's fill and transmit rings.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// The index of the next entry to be handed over.
    next: u32,
    /// The index of the first entry that is not ours, as known from the last look.
    limit: u32,
}

impl<T: Copy> Producer<T> {
    /// The producing side of the ring at `parts`.
    ///
    /// # Safety
    /// The pointers are valid, aligned and not mutated by others of this process but through a matching
    /// [`Consumer`] as long as `parts._owner` lives; the ring has no other producer; `capacity` is a power of
    /// two and the entries are that many and initialized.
    pub(super) unsafe fn new(parts: Parts<T>) -> Self {
        let ring = Ring { parts };
        let next = ring.producer().load(Ordering::Relaxed);
        let limit = ring.consumer().load(Ordering::Acquire).wrapping_add(ring.parts.capacity);
        Self { ring, next, limit }
    }

    /// How many entries may be written now; looks for more only if fewer than `want` are known.
    #[inline]
    pub(super) fn acquire(&mut self, want: u32) -> u32 {
        if self.limit.wrapping_sub(self.next) < want {
            self.limit = self.ring.consumer().load(Ordering::Acquire).wrapping_add(self.ring.parts.capacity);
        }
        self.limit.wrapping_sub(self.next).min(self.ring.parts.capacity)
    }

    /// The entries that were acquired and not released yet.
    #[inline]
    pub(super) fn data(&mut self) -> (&mut [T], &mut [T]) {
        let count = self.limit.wrapping_sub(self.next).min(self.ring.parts.capacity);
        let [(first, straight), (_, rest)] = self.ring.runs(self.next, count);
        let entries = self.ring.parts.entries;
        // SAFETY: both runs lie within the ring, do not overlap, and are the producer's until released:
        // nobody reads them, and the borrow of `self` keeps everybody else from writing them.
        unsafe {
            (
                std::slice::from_raw_parts_mut(entries.add(first).as_ptr(), straight),
                std::slice::from_raw_parts_mut(entries.as_ptr(), rest),
            )
        }
    }

    /// Writes the entry `at` places after the next one to be released.
    ///
    /// # Panics
    /// If fewer entries were acquired.
    #[inline]
    pub(super) fn put(&mut self, at: u32, entry: T) {
        let (first, rest) = self.data();
        let at = at as usize;
        match at.checked_sub(first.len()) {
            None => first[at] = entry,
            Some(at) => rest[at] = entry,
        }
    }

    /// Hands the first `count` acquired entries to the consumer.
    ///
    /// # Panics
    /// If fewer were acquired.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        assert!(count <= self.limit.wrapping_sub(self.next), "released more entries than were acquired");
        self.next = self.next.wrapping_add(count);
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Changes entries that were handed over, from the one with the index `from` on. Only for a consumer that reads
    /// entries nowhere but in calls that this thread makes, which is not now.
    ///
    /// # Panics
    /// If that is more than the ring holds.
    #[inline]
    pub(super) fn revise(&mut self, from: u32, mut change: impl FnMut(&mut T)) {
        let count = self.next.wrapping_sub(from);
        assert!(count <= self.ring.parts.capacity, "revised more entries than there are");
        for (first, len) in self.ring.runs(from, count) {
            // SAFETY: within the ring; the consumer does not read now, as the caller promises, and if it did it would
            // find an entry half changed: plain numbers, which it checks.
            let run = unsafe { std::slice::from_raw_parts_mut(self.ring.parts.entries.add(first).as_ptr(), len) };
            run.iter_mut().for_each(&mut change);
        }
    }

    /// The index of the next entry to be released: those before it were handed over.
    #[inline]
    pub(super) fn produced(&self) -> u32 {
        self.next
    }

    /// The consumer's index: it is done with the entries before it.
    #[inline]
    pub(super) fn consumed(&self) -> u32 {
        self.ring.consumer().load(Ordering::Acquire)
    }

    /// The entries handed over that the consumer has not taken.
    #[inline]
    pub(super) fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.consumed())
    }

    /// Whether the kernel looks at the ring only after a system call.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The side that empties a ring: a socket's receive and completion rings.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// The index of the next entry to be given back.
    next: u32,
    /// The index of the first entry that is not ours, as known from the last look.
    limit: u32,
}

impl<T: Copy> Consumer<T> {
    /// The consuming side of the ring at `parts`.
    ///
    /// # Safety
    /// As for [`Producer::new`], with the sides exchanged.
    pub(super) unsafe fn new(parts: Parts<T>) -> Self {
        let ring = Ring { parts };
        let next = ring.consumer().load(Ordering::Relaxed);
        let limit = ring.producer().load(Ordering::Acquire);
        Self { ring, next, limit }
    }

    /// How many entries may be read now; looks for more only if fewer than `want` are known.
    #[inline]
    pub(super) fn acquire(&mut self, want: u32) -> u32 {
        if self.limit.wrapping_sub(self.next) < want {
            self.limit = self.ring.producer().load(Ordering::Acquire);
        }
        self.limit.wrapping_sub(self.next).min(self.ring.parts.capacity)
    }

    /// The entries that were acquired and not released yet, oldest first.
    #[inline]
    pub(super) fn data(&self) -> (&[T], &[T]) {
        let count = self.limit.wrapping_sub(self.next).min(self.ring.parts.capacity);
        let [(first, straight), (_, rest)] = self.ring.runs(self.next, count);
        let entries = self.ring.parts.entries;
        // SAFETY: both runs lie within the ring and were released to us by the producer, which does not
        // write them again before we release them; that takes `&mut self`.
        unsafe {
            (
                std::slice::from_raw_parts(entries.add(first).as_ptr(), straight),
                std::slice::from_raw_parts(entries.as_ptr(), rest),
            )
        }
    }

    /// The entry `at` places after the oldest one, if that many were acquired.
    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<T> {
        let (first, rest) = self.data();
        let at = at as usize;
        first.get(at).or_else(|| rest.get(at.checked_sub(first.len())?)).copied()
    }

    /// Gives the first `count` acquired entries back to the producer.
    ///
    /// # Panics
    /// If fewer were acquired.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        assert!(count <= self.limit.wrapping_sub(self.next), "released more entries than were acquired");
        self.next = self.next.wrapping_add(count);
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

/// Rings without a kernel.
#[cfg(test)]
pub(super) mod memory {
    use std::cell::UnsafeCell;

    use super::*;

    struct Heap<T> {
        producer: AtomicU32,
        consumer: AtomicU32,
        flags: AtomicU32,
        entries: Box<[UnsafeCell<T>]>,
    }

    // SAFETY: the entries are reached through the one `Producer` and the one `Consumer` of `pair` only.
    unsafe impl<T: Send> Sync for Heap<T> {}

    /// Both sides of one ring whose indices start at `start`.
    pub(in super::super) fn pair<T: Copy + Send + 'static>(
        capacity: u32,
        start: u32,
        empty: T,
    ) -> (Producer<T>, Consumer<T>) {
        assert!(capacity.is_power_of_two());
        let heap = Arc::new(Heap {
            producer: AtomicU32::new(start),
            consumer: AtomicU32::new(start),
            flags: AtomicU32::new(0),
            entries: (0..capacity).map(|_| UnsafeCell::new(empty)).collect(),
        });
        let parts = || Parts {
            producer: NonNull::from(&heap.producer),
            consumer: NonNull::from(&heap.consumer),
            flags: Some(NonNull::from(&heap.flags)),
            entries: NonNull::new(heap.entries.as_ptr().cast_mut().cast::<T>()).unwrap(),
            capacity,
            _owner: Arc::clone(&heap) as Arc<dyn Any + Send + Sync>,
        };
        // SAFETY: the heap lives as long as either side, which are the only two; `UnsafeCell<T>` is laid out as `T`.
        unsafe { (Producer::new(parts()), Consumer::new(parts())) }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
