//! By which means frames get between an interface and our memory: a ladder of three rungs.
//!
//! | rung | program runs | frames are |
//! |---|---|---|
//! | zero-copy | in the driver | received into and sent from our memory by the device itself |
//! | native | in the driver, before the kernel makes a buffer of its own | copied once each way |
//! | generic | in the stack, on the kernel's own buffers | copied once each way |
//!
//! A device starts on the highest rung that the kernel, the driver and its settings allow, and remembers why
//! not higher: people want to know, and may be able to change it.

use std::fmt;
use std::io;

/// A rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpMode {
    /// The program runs in the stack (`XDP_FLAGS_SKB_MODE`).
    Generic,
    /// The program runs in the driver, frames are copied.
    Native,
    /// The program runs in the driver, and the device itself reads and writes our memory.
    ZeroCopy,
}

impl XdpMode {
    /// The name that people see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Native => "native",
            Self::ZeroCopy => "zero-copy",
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rung that was tried and refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which one.
    pub mode: XdpMode,
    /// Why, in words.
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.mode, self.why)
    }
}

/// Why a driver does not take an XDP program, as far as an error number tells.
pub(super) fn why_not_attached(error: &io::Error) -> String {
    let guess = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver runs no XDP programs",
        Some(libc::ENOSPC) => "the peer has more transmit queues than this interface has receive queues",
        Some(libc::ERANGE) => "the peer's MTU is too large",
        Some(libc::EINVAL) => "the driver does not like a setting of the interface, such as its MTU or its offloads",
        Some(libc::ENOMEM | libc::ENOBUFS) => "the driver has no memory for it",
        _ => return error.to_string(),
    };
    format!("{guess} ({error})")
}

/// Why a socket is not bound in zero-copy mode.
pub(super) fn why_not_zero_copy(error: &io::Error) -> String {
    let guess = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has none, or not for packets in more than one buffer",
        Some(libc::EINVAL) => "the MTU needs more buffers than the driver chains, or the queue has no ring",
        _ => return error.to_string(),
    };
    format!("{guess} ({error})")
}
