//! What the daemon asks of the C library's allocator.
//!
//! Theory of operation. A command works on a copy of all that was configured, and the control plane's larger pieces live
//! no longer than that: the copy, indices made of it, the text of the state file. By default glibc raises the size from
//! which an allocation is a mapping of its own (`M_MMAP_THRESHOLD`) to that of the largest mapping that was ever freed, and with it
//! how much free memory stays at a heap's top: after a few commands all of it comes from heaps, between what stays, and
//! is never given back. With ten thousand publications that was four fifths of the daemon's memory. A limit that is set does
//! not move any more.
//!
//! The number of heaps is left alone: with one for all, a worker that opens a connection could wait for a command.

// `mallopt` is a function of C.
#![allow(unsafe_code)]

/// From how many bytes on an allocation is a mapping of its own, and how many free bytes a heap keeps at its top: what
/// glibc begins with.
#[cfg(target_env = "gnu")]
const THRESHOLD_BYTES: i32 = 128 * 1024;

/// Makes freed memory go back to the kernel. For the first thread, before there are others.
pub(crate) fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it sets a number in the allocator, under the allocator's lock. Refused, it costs memory and nothing
        // else, as with another C library.
        unsafe { libc::mallopt(option, THRESHOLD_BYTES) };
    }
}
