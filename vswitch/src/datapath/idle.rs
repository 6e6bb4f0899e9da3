//! How a worker waits: spin a short budget first, if that pays, then sleep in the kernel.
//!
//! Waking a sleeping thread costs the sender a few microseconds and the packet tens of them. A
//! worker that polls instead answers at once, but burns a core; on a busy machine it burns the core
//! that the packet's receiver needs. Measured on two cores, a spin shortens a TCP round trip by a
//! tenth and slows bulk TCP down by as much. So a worker spins only while
//!
//! - the gaps between its bursts are, on average, shorter than the budget: a spin that is shorter
//!   than the gap is pure waste; and
//! - the frames are small: bulk traffic keeps the cores busy with copying, and its packets can wait;
//! - nobody else wants its core: it yields between two looks, and a yield that takes long means
//!   that somebody did.

use super::clock::now_ns;

/// The longest spin.
const SPIN_NS_MAX: u64 = 50_000;
/// Gaps are averaged over this many bursts (a power of two).
const GAP_WEIGHT: u64 = 8;

/// What to do next while waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Look once more, without sleeping.
    Spin,
    /// Sleep until something happens.
    Sleep,
}

/// One wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waited {
    since_ns: u64,
    spins: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Idle {
    /// The moving average of the gaps, each counted as at most four budgets.
    gap_ns: u64,
}

impl Default for Idle {
    fn default() -> Self {
        Self { gap_ns: 4 * SPIN_NS_MAX }
    }
}

impl Idle {
    pub(super) fn begin(&self) -> Waited {
        Waited { since_ns: now_ns(), spins: 0 }
    }

    pub(super) fn next(&self, waited: &mut Waited) -> Wait {
        waited.spins += 1;
        if self.gap_ns < SPIN_NS_MAX && (waited.spins == 1 || now_ns() - waited.since_ns < SPIN_NS_MAX) {
            Wait::Spin
        } else {
            Wait::Sleep
        }
    }

    pub(super) fn end(&mut self, waited: Waited) {
        let gap_ns = (now_ns() - waited.since_ns).min(4 * SPIN_NS_MAX);
        self.gap_ns = (self.gap_ns * (GAP_WEIGHT - 1) + gap_ns) / GAP_WEIGHT;
    }
}
