//! The socket's life in the file system.
//!
//! The socket is bound under a temporary name, given its owner and mode, and only then renamed to
//! its place: who sees it can use it. A socket file that nobody listens on, left by a daemon that
//! was killed, is replaced; one that answers is somebody else's.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::peer::Allowed;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another daemon answers on the socket {path}; stop it, or choose another {option}", path = path.display())]
    Live {
        /// The socket's path.
        path: PathBuf,
        /// The daemon's option that chose it.
        option: &'static str,
    },
    /// There is something else.
    #[error("{path} exists and is not a socket; remove it, or choose another {option}", path = path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
        /// The daemon's option that chose it.
        option: &'static str,
    },
    /// The kernel refused something.
    #[error("the socket {path} cannot be made: {source}; correct that, or choose another {option}", path = path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The daemon's option that chose it.
        option: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// The listening socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Device and inode of our file: another daemon may have put its own in the same place.
    identity: (u64, u64),
}

/// Refuses a path, which `option` of the command line chose, where a daemon answers, or where something else than a
/// socket is.
///
/// # Errors
/// As said.
pub fn check_free(path: &Path, option: &'static str) -> Result<(), SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), option, source };
    let live = || SocketError::Live { path: path.to_owned(), option };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io(error)),
        Ok(meta) if !meta.file_type().is_socket() => Err(SocketError::NotASocket { path: path.to_owned(), option }),
        Ok(_) => match probe(path) {
            Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
            // A full backlog (EAGAIN) is a daemon, too.
            Ok(()) | Err(Errno::AGAIN) => Err(live()),
            Err(error) => Err(io(error.into())),
        },
    }
}

/// Connects without waiting: the queue of a daemon that is busy or stopped may stay full for ever.
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

impl Socket {
    /// Makes the socket, mode 0660, owned by root and the group `vswitch` where that exists.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path, allowed: &Allowed) -> Result<(Self, UnixListener), SocketError> {
        Self::bind_as(path, 0o660, allowed.gid(), "--socket")
    }

    /// Makes a socket, which `option` of the command line asked for, with this mode, and of this group.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind_as(
        path: &Path,
        mode: u32,
        gid: Option<u32>,
        option: &'static str,
    ) -> Result<(Self, UnixListener), SocketError> {
        check_free(path, option)?;
        let io = |source| SocketError::Io { path: path.to_owned(), option, source };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let make = || {
            let listener = UnixListener::bind(&temporary)?;
            if let Some(gid) = gid {
                std::os::unix::fs::chown(&temporary, None, Some(gid))?;
            }
            fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
            listener.set_nonblocking(true)?;
            let meta = fs::symlink_metadata(&temporary)?;
            fs::rename(&temporary, path)?;
            Ok((Self { path: path.to_owned(), identity: (meta.dev(), meta.ino()) }, listener))
        };
        make().map_err(|error| {
            // Best effort: it may not have come into being.
            let _ = fs::remove_file(&temporary);
            io(error)
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Allowed {
        Allowed::look_up().expect("the group database")
    }

    #[test]
    fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let (socket, listener) = Socket::bind(&path, &allowed()).expect("binds");
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o660);
        assert!(matches!(Socket::bind(&path, &allowed()), Err(SocketError::Live { .. })));
        drop(listener);
        let (_second, _listener) = Socket::bind(&path, &allowed()).expect("replaces the dead one");
        drop(socket);
        assert!(path.exists(), "the first daemon removed the second one's socket");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_daemon_that_accepts_nobody_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let (_socket, _listener) = Socket::bind(&path, &allowed()).expect("binds");
        let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None);
        let mut waiting = Vec::new();
        let full = loop {
            let client = socket().expect("a socket");
            match connect(&client, &SocketAddrUnix::new(&path).expect("an address")) {
                Ok(()) => waiting.push(client),
                Err(error) => break error,
            }
        };
        assert_eq!(full, Errno::AGAIN, "after {} connections", waiting.len());
        assert!(matches!(check_free(&path, "--socket"), Err(SocketError::Live { .. })));
    }

    #[test]
    fn the_file_goes_with_the_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/er/s");
        drop(Socket::bind(&path, &allowed()).expect("binds"));
        assert!(!path.exists());
    }

    #[test]
    fn another_kind_of_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        fs::write(&path, "precious").expect("writes");
        assert!(matches!(Socket::bind(&path, &allowed()), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).expect("reads"), "precious");
    }
}
