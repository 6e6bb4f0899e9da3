//! Why a command failed, and the exit status that says so.
//!
//! The statuses are part of the command-line contract: 1 the daemon refused, 2 the command line is
//! wrong, 3 the daemon cannot be reached. Each failure is one sentence: what, why, what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use vswitch::api;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The daemon refused; nothing changed.
    Refused(api::Error),
    /// The daemon answered something that this client cannot read.
    Unreadable(String),
    /// The answer could not be written.
    Output(String),
    /// The command line is well-formed and yet cannot be meant.
    Usage(String),
    /// No daemon answers at the socket.
    Unreachable {
        /// The socket that was tried.
        socket: PathBuf,
        /// What happened.
        why: String,
        /// What to do about it.
        remedy: String,
    },
}

impl Failure {
    /// The exit status of the contract.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Unreadable(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
        }
    }

    /// A `connect` to the socket that failed.
    pub(crate) fn connect(socket: &Path, error: &io::Error) -> Self {
        let start = format!("start it with `vswitch --socket {}`", socket.display());
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "run as root, or as a member of the group `vswitch`".into(),
            io::ErrorKind::NotFound => format!("{start}, or name its socket with --socket or VSWITCH_SOCKET"),
            _ => start,
        };
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket".into(),
            io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
            io::ErrorKind::PermissionDenied => "permission denied".into(),
            _ => error.to_string(),
        };
        Self::Unreachable { socket: socket.into(), why, remedy }
    }

    /// A connection that broke before the answer was complete.
    pub(crate) fn broken(socket: &Path, error: &dyn fmt::Display) -> Self {
        Self::Unreachable {
            socket: socket.into(),
            why: format!("the connection broke before the answer ({error})"),
            remedy: "whether the command was carried out is not known: look with `vswitchctl show`".into(),
        }
    }

    /// Whether waiting may help: the daemon is not there yet, or a stopping one is about to go.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(error) => error.code == api::ErrorCode::Stopping,
            Self::Unreadable(_) | Self::Output(_) | Self::Usage(_) => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => {
                let message = error.message.trim_end_matches('.');
                match error.remedy.chars().next() {
                    None => f.write_str(message),
                    Some(first) if first.is_uppercase() => write!(f, "{message}. {}", error.remedy),
                    Some(_) => write!(f, "{message}; {}", error.remedy),
                }
            }
            Self::Unreadable(why) => {
                write!(f, "the daemon's answer cannot be read: {why}; compare both versions with `vswitchctl version`")
            }
            Self::Output(why) => write!(f, "cannot write to standard output: {why}"),
            Self::Usage(why) => f.write_str(why),
            Self::Unreachable { socket, why, remedy } => {
                write!(f, "cannot reach the daemon at {}: {why}; {remedy}", socket.display())
            }
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str, remedy: &str) -> String {
        let error = api::Error { code: api::ErrorCode::Conflict, message: message.into(), remedy: remedy.into() };
        Failure::Refused(error).to_string()
    }

    #[test]
    fn a_refusal_is_one_sentence() {
        assert_eq!(refused("bridge `br0` exists.", "choose another name"), "bridge `br0` exists; choose another name");
        assert_eq!(refused("bridge `br0` exists", "Choose another."), "bridge `br0` exists. Choose another.");
        assert_eq!(refused("bridge `br0` exists", ""), "bridge `br0` exists");
    }

    #[test]
    fn an_unreachable_daemon_names_the_socket_and_how_to_start_it() {
        let failure = Failure::connect(Path::new("/run/x.sock"), &io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(failure.status(), 3);
        assert_eq!(
            failure.to_string(),
            "cannot reach the daemon at /run/x.sock: there is no such socket; start it with `vswitch --socket \
             /run/x.sock`, or name its socket with --socket or VSWITCH_SOCKET"
        );
        let failure = Failure::connect(Path::new("/run/x.sock"), &io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(failure.to_string().ends_with("run as root, or as a member of the group `vswitch`"), "{failure}");
    }
}
