//! Large tables of atomics that cost memory only where they are touched.

// `new_zeroed_slice` maps zero pages instead of writing zeros; saying that zero bytes are a valid
// atomic is the one thing the compiler cannot check.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64};

/// `count` zeroed counters of 32 bits.
pub(crate) fn atomics_u32(count: usize) -> Box<[AtomicU32]> {
    // SAFETY: `AtomicU32` has the representation of `u32`, for which all zero bytes are valid.
    unsafe { Box::new_zeroed_slice(count).assume_init() }
}

/// `count` zeroed counters of 64 bits.
pub(crate) fn atomics_u64(count: usize) -> Box<[AtomicU64]> {
    // SAFETY: `AtomicU64` has the representation of `u64`, for which all zero bytes are valid.
    unsafe { Box::new_zeroed_slice(count).assume_init() }
}
