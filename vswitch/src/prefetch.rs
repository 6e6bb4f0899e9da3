//! Asking the CPU for memory before it is needed.
//!
//! Theory of operation. A burst's misses of the caches are to overlap, with one another and with work. *A loop that asks
//! does nothing else, and asks for a few frames only.* A prefetch whose page the TLB does not know waits for the walk of
//! the page tables, like any load, and instructions leave the CPU's reorder buffer in their order. Among the work on a
//! frame, two or three of them are in that buffer at a time, and the walks follow one another; in a loop of their own all
//! of the CPU's walkers are busy. But a CPU has four to six walkers, and from ten line fill buffers on: a loop that asks for
//! a whole burst stands still when they are, while there is work to be done. So bursts are worked on in groups
//! (`crate::datapath::pipeline`).
//!
//! Walks cost more than memory does, which can be waited for while other frames are worked on. A virtual machine may have its huge pages translated in pieces of 4 KB, because that
//! is what its host has, and then 2,000 entries of a TLB are 8 MB. What is looked up together lies in one such page
//! (`crate::nat`'s cache), so that it costs one walk. docs/performance.md has the measurements.

// A prefetch takes a raw address.
#![allow(unsafe_code)]

/// The bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks the CPU to have all lines of `value` ready soon, for one that starts with a line or fits into one.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<T>().div_ceil(LINE_BYTES) {
        // SAFETY: a prefetch has no effect but on the cache, whatever the address.
        unsafe {
            std::arch::x86_64::_mm_prefetch(
                std::ptr::from_ref(value).cast::<i8>().wrapping_add(line * LINE_BYTES),
                std::arch::x86_64::_MM_HINT_T0,
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
