//! Asking the CPU for memory before it is needed.
//!
//! Theory of operation. A burst's misses of the caches are to overlap: whoever looks up a burst asks for the lines of all
//! its frames first. *A loop that asks does nothing else.* A prefetch whose page the TLB does not know waits for the walk
//! of the page tables, like any load, and instructions leave the CPU's reorder buffer in their order. Among the work on a
//! frame, two or three of them are in that buffer at a time, and the walks follow one another; in a loop of their own
//! there are fifty, and the CPU's walkers are all busy. It makes no difference for few pages, and a great one for the
//! tables of a million flows: a virtual machine may have its huge pages translated in pieces of 4 KB, because that is
//! what its host has (docs/performance.md has the measurement).

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
