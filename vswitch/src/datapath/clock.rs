//! The datapath's clock: monotonic, read once per burst and handed down as an argument.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock.
#[inline]
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whole seconds of the monotonic clock: the unit of the forwarding database's ageing.
#[must_use]
pub fn now_s() -> u32 {
    (now_ns() / 1_000_000_000) as u32
}

/// One reading of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds.
    pub ns: u64,
    /// The same in whole seconds.
    pub s: u32,
}

impl Now {
    /// Reads the clock.
    #[inline]
    #[must_use]
    pub fn read() -> Self {
        Self::from_ns(now_ns())
    }

    /// A reading made up by a test.
    #[inline]
    #[must_use]
    pub fn from_ns(ns: u64) -> Self {
        Self { ns, s: (ns / 1_000_000_000) as u32 }
    }
}
