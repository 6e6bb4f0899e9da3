//! How a worker waits: spin a short budget first, if that pays, then sleep in the kernel.
//!
//! Waking a sleeping thread costs the sender a few microseconds and the packet tens of them. A
//! worker that polls instead answers at once, but burns a core, and on a busy machine it burns the
//! core that the packet's receiver needs. Measured on two cores, a spin takes a quarter off a TCP
//! round trip and a tenth off bulk TCP. So a worker spins only while
//!
//! - the gaps between its bursts are, on average, shorter than the budget: a spin that is shorter
//!   than the gap is pure waste;
//! - its bursts are small: bulk traffic keeps the cores busy with copying, and can wait;
//! - nobody else wants its core. Every few spins the thread's CPU time is compared with the time
//!   that passed; what is missing was somebody else's, and then there is no spinning for a while.
//!
//! A worker with a port that is polled busily does not sleep until there was nothing to do for a while: that is what
//! busy polling was asked for, and a switch without traffic costs nothing all the same.

use rustix::time::{ClockId, clock_gettime};

use super::clock::now_ns;

/// The longest spin, but for workers that poll busily.
const SPIN_NS_MAX: u64 = 50_000;
/// How long a worker that polls busily goes on without any traffic.
const LINGER_NS: u64 = 100_000_000;
/// Averages forget by this (a power of two of bursts).
const WEIGHT: u64 = 8;
/// Bursts of more bytes than this, on average, are bulk traffic.
const BULK_BURST_BYTES: u64 = 8192;
/// One spin in so many is checked for lost time.
const CHECK_INTERVAL: u32 = 8;
/// Time lost in one spin that means that somebody else wants the core.
const LOST_NS_MAX: u64 = SPIN_NS_MAX / 4;
/// For how long there is no spinning then.
const BACKOFF_NS: u64 = 10_000_000;

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
    /// Nanoseconds between the last wait and this one.
    pub(super) busy_ns: u64,
    /// Whether to spin at all.
    spin: bool,
    /// When it was looked last; the first look is free.
    looked_ns: Option<u64>,
    /// The thread's CPU time at the beginning, if this wait is checked.
    cpu_ns: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Idle {
    /// The moving average of the gaps, each counted as at most four budgets.
    gap_ns: u64,
    /// The moving average of the bursts' sizes.
    burst_bytes: u64,
    spins: u32,
    backoff_until_ns: u64,
    /// When the last wait ended.
    ended_ns: u64,
    /// Whether the worker polls busily.
    busy: bool,
}

impl Default for Idle {
    fn default() -> Self {
        Self { gap_ns: 4 * SPIN_NS_MAX, burst_bytes: 0, spins: 0, backoff_until_ns: 0, ended_ns: now_ns(), busy: false }
    }
}

fn average(old: u64, new: u64) -> u64 {
    (old * (WEIGHT - 1) + new) / WEIGHT
}

/// CPU time of the calling thread.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Idle {
    /// Whether the worker polls busily from now on.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Notes the size of a burst.
    #[inline]
    pub(super) fn note_burst(&mut self, bytes: usize) {
        self.burst_bytes = average(self.burst_bytes, bytes as u64);
    }

    /// Nanoseconds of work since this was asked last, or since the last wait.
    pub(super) fn busy_ns(&mut self) -> u64 {
        let now_ns = now_ns();
        now_ns.saturating_sub(std::mem::replace(&mut self.ended_ns, now_ns))
    }

    /// Begins to wait.
    pub(super) fn begin(&mut self) -> Waited {
        let since_ns = now_ns();
        let spin =
            self.gap_ns < SPIN_NS_MAX && self.burst_bytes < BULK_BURST_BYTES && since_ns >= self.backoff_until_ns;
        self.spins = self.spins.wrapping_add(u32::from(spin));
        let checked = spin && self.spins.is_multiple_of(CHECK_INTERVAL);
        Waited {
            since_ns,
            busy_ns: since_ns.saturating_sub(self.ended_ns),
            spin,
            looked_ns: None,
            cpu_ns: checked.then(thread_ns),
        }
    }

    /// What to do now.
    pub(super) fn next(&self, waited: &mut Waited) -> Wait {
        if self.busy || waited.spin {
            let limit_ns = if self.busy { LINGER_NS } else { SPIN_NS_MAX };
            let now_ns = now_ns();
            if waited.looked_ns.is_none() || now_ns - waited.since_ns < limit_ns {
                waited.looked_ns = Some(now_ns);
                return Wait::Spin;
            }
        }
        // What is slept is not lost.
        waited.cpu_ns = None;
        Wait::Sleep
    }

    /// Something happened.
    pub(super) fn end(&mut self, waited: Waited) {
        self.end_at(waited, now_ns());
    }

    /// The last look was work already: the wait ended when it began.
    pub(super) fn end_with_look(&mut self, waited: Waited) {
        self.end_at(waited, waited.looked_ns.unwrap_or(waited.since_ns));
    }

    fn end_at(&mut self, waited: Waited, ended_ns: u64) {
        self.ended_ns = ended_ns;
        if let Some(cpu_ns) = waited.cpu_ns {
            let now_ns = now_ns();
            let passed_ns = now_ns - waited.since_ns;
            if passed_ns.saturating_sub(thread_ns() - cpu_ns) > LOST_NS_MAX {
                self.backoff_until_ns = now_ns + BACKOFF_NS;
            }
        }
        self.gap_ns = average(self.gap_ns, (ended_ns - waited.since_ns).min(4 * SPIN_NS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    const WORK: Duration = Duration::from_millis(20);

    /// A worker that spins.
    fn spinning() -> Idle {
        Idle { gap_ns: 0, ..Idle::default() }
    }

    #[test]
    fn what_follows_a_look_that_found_something_is_work_and_no_gap() {
        let mut idle = spinning();
        let mut waited = idle.begin();
        assert_eq!(idle.next(&mut waited), Wait::Spin, "the first look is free");
        let looked_ns = waited.looked_ns.expect("it was looked");
        sleep(WORK);
        idle.end_with_look(waited);
        assert_eq!(idle.ended_ns, looked_ns);
        assert_eq!(idle.gap_ns, average(0, (looked_ns - waited.since_ns).min(4 * SPIN_NS_MAX)));
        assert!(idle.begin().busy_ns >= WORK.as_nanos() as u64);
    }

    #[test]
    fn a_spin_ends_with_its_budget() {
        let mut idle = spinning();
        let mut waited = idle.begin();
        assert_eq!(idle.next(&mut waited), Wait::Spin);
        sleep(WORK);
        assert_eq!(idle.next(&mut waited), Wait::Sleep);
    }
}
