//! Publication of an immutable value to a fixed set of readers, and waiting until all have it.
//!
//! Theory of operation: the newest value sits in a mutex, its generation beside it in an atomic.
//! A reader compares the generation with the one it has, which costs one load of a line that only
//! a publication writes; only when it differs does the reader take the mutex and clone the `Arc`.
//! When a reader has let go of everything that belonged to the old value (closed the queues of
//! ports that are gone), it acknowledges the generation. [`Publisher::wait_seen`] returns when all
//! readers have acknowledged: this is the quiescent state after which a device may be closed.
//!
//! A reader that sleeps in the kernel must be woken by its own means after a publication.

use crossbeam_utils::CachePadded;

use super::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering};

/// See the module's documentation.
#[derive(Debug)]
pub struct Publisher<T> {
    generation: CachePadded<AtomicU64>,
    current: Mutex<Arc<T>>,
    seen: Box<[CachePadded<AtomicU64>]>,
    /// Guards nothing but the condition variable's own protocol: acknowledgements are rare.
    acknowledged: Mutex<()>,
    progress: Condvar,
}

impl<T> Publisher<T> {
    /// A publisher of generation 1 for `readers` readers, numbered from 0.
    pub fn new(first: T, readers: usize) -> Self {
        Self {
            generation: CachePadded::new(AtomicU64::new(1)),
            current: Mutex::new(Arc::new(first)),
            seen: (0..readers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
            acknowledged: Mutex::new(()),
            progress: Condvar::new(),
        }
    }

    /// Makes `value` the newest and returns its generation.
    pub fn publish(&self, value: T) -> u64 {
        let value = Arc::new(value);
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *current = value;
        // Under the mutex, so that generation and value always match for whoever holds it.
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        self.generation.store(generation, Ordering::Release);
        generation
    }

    /// The newest generation; a reader compares it with the one it has.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The newest value and its generation.
    pub fn load(&self) -> (Arc<T>, u64) {
        let current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (Arc::clone(&current), self.generation.load(Ordering::Relaxed))
    }

    /// Reader `reader` uses nothing older than `generation` any more.
    pub fn acknowledge(&self, reader: usize, generation: u64) {
        self.seen[reader].store(generation, Ordering::Release);
        drop(self.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.progress.notify_all();
    }

    /// Whether every reader has acknowledged `generation`.
    pub fn is_seen(&self, generation: u64) -> bool {
        self.seen.iter().all(|seen| seen.load(Ordering::Acquire) >= generation)
    }

    /// Waits until every reader has acknowledged `generation`.
    pub fn wait_seen(&self, generation: u64) {
        let mut guard = self.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !self.is_seen(generation) {
            guard = self.progress.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}
