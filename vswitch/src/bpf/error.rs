//! Why a program could not be loaded or attached.

use std::error::Error;
use std::io;

use rustix::io::Errno;

use super::programs::AttachedProgram;

/// Why an operation of the classifier failed.
#[derive(Debug, thiserror::Error)]
pub enum ClassifierError {
    /// The kernel, or the loader before it, refused.
    #[error("cannot {what}: {why}{remedy}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The whole chain of reasons.
        why: String,
        /// What to do, where that is known; starts with a semicolon.
        remedy: &'static str,
        /// The kernel's error number, if it was the kernel.
        errno: Option<Errno>,
    },
    /// A program of somebody else is where only one can be.
    #[error(
        "interface {interface} has a program of somebody else: {}; detach it, or use the interface without XDP",
        programs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// What is attached to it.
        programs: Vec<AttachedProgram>,
    },
    /// The port is in use by another rule.
    #[error("{service} is taken by another rule of the switch; choose another port")]
    PortTaken {
        /// Protocol, address and port.
        service: String,
    },
}

impl ClassifierError {
    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Foreign { .. } | Self::PortTaken { .. } => None,
        }
    }

    /// Tells an error of aya, or of the operating system, in full.
    pub(super) fn refused(what: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut why = String::new();
        let mut errno = None;
        let mut next = Some(error);
        while let Some(error) = next {
            // Some of aya's errors show their source, and a program's shows the verifier's log: its end says why.
            let text = error.to_string();
            let text: Vec<&str> = text.lines().rev().take(4).filter(|line| !line.trim().is_empty()).collect();
            let text = text.into_iter().rev().collect::<Vec<_>>().join(" / ");
            if !why.contains(&text) {
                why = if why.is_empty() { text } else { format!("{why}: {text}") };
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                errno = Errno::from_io_error(io).or(errno);
            }
            next = error.source();
        }
        let remedy = match errno {
            Some(Errno::PERM | Errno::ACCESS) => "; run as root, or with CAP_BPF and CAP_NET_ADMIN",
            Some(Errno::NOSYS) => "; this kernel is built without eBPF",
            _ => "",
        };
        Self::Refused { what: what.into(), why, remedy, errno }
    }
}
