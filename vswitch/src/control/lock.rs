//! One daemon per state directory: two would undo each other's work.
//!
//! The lock is the kernel's (`flock`) and goes with the process, however that ends; the file only
//! tells people whose it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The name of the lock file in the state directory.
pub const LOCK_FILE: &str = "lock";

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("the state directory {dir} is in use by another vswitch daemon{}; stop it, or choose another --state-dir", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), dir = dir.display())]
    Taken {
        /// The state directory.
        dir: PathBuf,
        /// The other daemon's process, where the file tells.
        pid: Option<u32>,
    },
    /// The kernel refused something.
    #[error("the lock file {path} cannot be used: {source}; correct that, or choose another --state-dir", path = path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// The lock of a state directory, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `dir`, which exists.
    ///
    /// # Errors
    /// Another daemon has it, or what the kernel says.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path);
        let mut file = open().map_err(|source| LockError::Io { path: path.clone(), source })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Who has it is for people; without it the refusal stands all the same.
                let pid = (&mut file).take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Taken { dir: dir.to_owned(), pid });
            }
            Err(error) => return Err(LockError::Io { path, source: error.into() }),
        }
        let write = || -> io::Result<()> {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())
        };
        let mut write = write;
        write().map_err(|source| LockError::Io { path: path.clone(), source })?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = Lock::take(dir.path()).expect("free");
        let error = Lock::take(dir.path()).expect_err("taken");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        Lock::take(dir.path()).expect("free again");
    }
}
