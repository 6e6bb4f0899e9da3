//! How many chunks a socket has to receive into.
//!
//! Few are better for the cache: the kernel writes into them in turn, and 64 chunks are 256 KB, 1024 are 4 MB. Many are
//! better in a burst, because a frame that finds none is dropped. So a quiet port has 64, and the number doubles
//! whenever more than half of them had been written when the worker came to look: next time it could have been all.
//! It halves when a while has passed in which an eighth would have done, and what comes home then is simply not
//! lent again.

/// The chunks of a quiet port.
pub(super) const CHUNKS_MIN: u32 = 64;
/// The most chunks of a port.
pub(super) const CHUNKS_MAX: u32 = super::socket::RX_RING;
/// Looks after which the number may shrink.
const WINDOW_LOOKS: u32 = 1024;

/// The number of chunks that a socket should have.
#[derive(Debug)]
pub(super) struct FillLevel {
    chunks: u32,
    /// The most that had been written at any look of this window.
    peak: u32,
    looks: u32,
}

impl Default for FillLevel {
    fn default() -> Self {
        Self { chunks: CHUNKS_MIN, peak: 0, looks: 0 }
    }
}

impl FillLevel {
    /// The number.
    #[inline]
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The worker looked and found `written` chunks with frames in them.
    #[inline]
    pub(super) fn looked(&mut self, written: u32) {
        if written * 2 > self.chunks {
            self.chunks = (self.chunks * 2).min(CHUNKS_MAX);
        }
        self.peak = self.peak.max(written);
        self.looks += 1;
        if self.looks == WINDOW_LOOKS {
            if self.peak * 8 <= self.chunks {
                self.chunks = (self.chunks / 2).max(CHUNKS_MIN);
            }
            (self.peak, self.looks) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_at_once_and_shrinks_slowly() {
        let mut level = FillLevel::default();
        assert_eq!(level.chunks(), 64);
        level.looked(32);
        assert_eq!(level.chunks(), 64);
        for expected in [128, 256, 512, 1024, 1024] {
            level.looked(level.chunks());
            assert_eq!(level.chunks(), expected);
        }
        for _ in 0..WINDOW_LOOKS - 6 {
            level.looked(1);
        }
        assert_eq!(level.chunks(), 1024, "the window still knows the burst");
        for expected in [512, 256, 128, 64, 64] {
            for _ in 0..WINDOW_LOOKS {
                level.looked(8);
            }
            assert_eq!(level.chunks(), expected);
        }
    }
}
