//! Rate limits: the generic cell rate algorithm (ITU-T I.371), one word of state per bucket.
//!
//! The word is the *theoretical arrival time* (TAT): when the bucket would be empty of debt. A
//! frame passes while TAT is not more than the burst tolerance ahead of now, and then moves TAT on
//! by its cost. A frame that is allowed may overdraw the bucket, because a 64 KB super-frame must
//! pass a slow limit too; the debt delays what follows, so the average holds.

use std::sync::atomic::{AtomicU64, Ordering};

/// The shortest burst that a bit rate tolerates, in bytes: two super-frames, or TCP would never
/// get a window through.
const BURST_BYTES_MIN: u64 = 128 * 1024;
/// The burst that a bit rate tolerates, in milliseconds of that rate. TCP answers a lost super-frame
/// with a time-out of at least 200 ms (RFC 6298 and Linux's minimum); the credit of that silence must
/// not be lost, or a stream gets a tenth of the rate. Open vSwitch advises 800 ms.
const BURST_MS: u64 = 300;
const NS_PER_S: u64 = 1_000_000_000;

/// What a limit costs and tolerates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    /// Cost of one unit (a bit or a frame), in 2^-16 nanoseconds.
    unit_cost: u64,
    /// How far TAT may be ahead of now, in nanoseconds.
    tolerance_ns: u64,
}

impl Limit {
    fn units_per_second(units: u64, tolerance_ns: u64) -> Self {
        Self { unit_cost: (NS_PER_S << 16) / units.max(1), tolerance_ns }
    }

    fn bits_per_second(bps: u64) -> Self {
        let bps = bps.max(1);
        let smallest = u128::from(BURST_BYTES_MIN) * 8 * u128::from(NS_PER_S) / u128::from(bps);
        Self::units_per_second(bps, (BURST_MS * 1_000_000).max(u64::try_from(smallest).unwrap_or(u64::MAX / 4)))
    }

    /// The TAT after `units` pass at `now_ns`, or nothing when they must not.
    #[inline]
    fn admit(self, tat: u64, units: u64, now_ns: u64) -> Option<u64> {
        let tat = tat.max(now_ns);
        if tat - now_ns > self.tolerance_ns {
            return None;
        }
        let cost = (u128::from(self.unit_cost) * u128::from(units)) >> 16;
        Some(tat + cost as u64)
    }
}

/// A bucket of one thread.
#[derive(Debug, Clone)]
pub struct Bucket {
    limit: Limit,
    tat: u64,
}

impl Bucket {
    /// Limits bits to `bps` per second.
    #[must_use]
    pub fn bits(bps: u64) -> Self {
        Self { limit: Limit::bits_per_second(bps), tat: 0 }
    }

    /// Limits frames to `fps` per second, with a tenth of a second's worth at once.
    #[must_use]
    pub fn frames(fps: u32) -> Self {
        Self { limit: Limit::units_per_second(u64::from(fps), NS_PER_S / 10), tat: 0 }
    }

    /// Whether a frame of `bytes` may pass a bucket of bits.
    #[inline]
    pub fn admit_bytes(&mut self, bytes: usize, now_ns: u64) -> bool {
        self.admit(bytes as u64 * 8, now_ns)
    }

    /// Whether one frame may pass a bucket of frames.
    #[inline]
    pub fn admit_frame(&mut self, now_ns: u64) -> bool {
        self.admit(1, now_ns)
    }

    #[inline]
    fn admit(&mut self, units: u64, now_ns: u64) -> bool {
        match self.limit.admit(self.tat, units, now_ns) {
            Some(tat) => {
                self.tat = tat;
                true
            }
            None => false,
        }
    }
}

/// A bucket of bits that several threads draw from: what is delivered to one port.
#[derive(Debug)]
pub struct SharedBucket {
    limit: Limit,
    bits_per_second: u64,
    tat: AtomicU64,
}

impl SharedBucket {
    /// Limits bits to `bits_per_second`.
    #[must_use]
    pub fn new(bits_per_second: u64) -> Self {
        Self { limit: Limit::bits_per_second(bits_per_second), bits_per_second, tat: AtomicU64::new(0) }
    }

    /// The limit.
    #[must_use]
    pub fn bits_per_second(&self) -> u64 {
        self.bits_per_second
    }

    /// Whether a frame of `bytes` may pass.
    #[inline]
    pub fn admit_bytes(&self, bytes: usize, now_ns: u64) -> bool {
        // Relaxed: the word guards nothing but itself.
        self.tat
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tat| self.limit.admit(tat, bytes as u64 * 8, now_ns))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers `bytes` every `gap_ns` for a second of fake time; returns the bits that passed.
    fn offered(mut admit: impl FnMut(usize, u64) -> bool, bytes: usize, gap_ns: u64) -> u64 {
        let mut bits = 0;
        for now in (0..10 * NS_PER_S).step_by(gap_ns as usize) {
            if admit(bytes, now) {
                bits += bytes as u64 * 8;
            }
        }
        bits / 10
    }

    #[test]
    fn the_average_holds_for_small_and_for_super_frames() {
        for bps in [1_000_000, 100_000_000, 5_000_000_000] {
            for bytes in [64, 1514, 65_550] {
                let gap_ns = (bytes as u64 * 8 * NS_PER_S / bps / 3).max(10);
                let slack = bps / 20 + BURST_BYTES_MIN * 8 / 5 + bytes as u64;
                let mut bucket = Bucket::bits(bps);
                let got = offered(|bytes, now| bucket.admit_bytes(bytes, now), bytes, gap_ns);
                assert!(got.abs_diff(bps) < slack, "{bps} bit/s in {bytes} byte frames gave {got}");
                let shared = SharedBucket::new(bps);
                assert_eq!(offered(|bytes, now| shared.admit_bytes(bytes, now), bytes, gap_ns), got);
            }
        }
    }

    #[test]
    fn less_than_the_rate_passes_whole() {
        let mut bucket = Bucket::bits(100_000_000);
        assert_eq!(offered(|bytes, now| bucket.admit_bytes(bytes, now), 1000, 100_000), 80_000_000);
    }

    #[test]
    fn frames_are_limited_to_their_number() {
        let mut bucket = Bucket::frames(1000);
        let passed = (0..NS_PER_S).step_by(10_000).filter(|&now| bucket.admit_frame(now)).count();
        assert!((1000..=1102).contains(&passed), "{passed}");
    }
}
