//! Where the driver's socket comes from: the service manager, or the daemon makes it.
//!
//! An engine that starts while its networks' driver is not there yet waits for it, container by container. A socket that
//! systemd holds is always there: the engine's first call starts the daemon, and waits in the socket's queue meanwhile.
//! So a passed socket is preferred to `--docker`'s path, and its file is never touched.

// A descriptor that the service manager passed is known by its number alone.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};

use crate::control::server::socket::{Socket, SocketError};

/// The name of the descriptor in `LISTEN_FDNAMES` (`FileDescriptorName=` of systemd.socket(5)).
pub const DESCRIPTOR_NAME: &str = "docker";
/// Root's alone: the engine is all that uses it.
const MODE: u32 = 0o600;

/// A listening socket of the driver's.
#[derive(Debug)]
pub enum DriverSocket {
    /// The service manager passed it.
    Passed(UnixListener),
    /// The daemon made it; the file is removed with it.
    Made(Socket, UnixListener),
}

/// The socket that the service manager passed, if it did. To be asked once: it belongs to whoever asks first.
///
/// # Errors
/// What it passed is no listening unix socket, or its environment makes no sense.
pub fn passed() -> io::Result<Option<UnixListener>> {
    // Variables that were inherited from another process's environment say nothing to this one (sd_listen_fds(3)).
    if !std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id())) {
        return Ok(None);
    }
    let mut found = None;
    for (fd, name) in sd_notify::listen_fds_with_names(false)? {
        if name != DESCRIPTOR_NAME || found.is_some() {
            continue;
        }
        // SAFETY: the service manager opened the descriptor for this process, which is the one in LISTEN_PID, and nothing
        // else in it knows the number.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if socket_domain(&fd)? != AddressFamily::UNIX || !socket_acceptconn(&fd)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket that was passed is no listening unix socket",
            ));
        }
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        found = Some(listener);
    }
    Ok(found)
}

/// Makes the socket at `path`, mode 0600.
///
/// # Errors
/// See [`SocketError`].
pub fn make(path: &Path) -> Result<DriverSocket, SocketError> {
    let (socket, listener) = Socket::bind_as(path, MODE, None, "--docker")?;
    Ok(DriverSocket::Made(socket, listener))
}
