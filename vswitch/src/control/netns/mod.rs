//! Network namespaces: how a person names one, how to open it, how to work inside it, and who else
//! still has it.
//!
//! A namespace exists as long as somebody holds it: a process that lives in it, a bind mount of its
//! nsfs file (`ip netns add`, Docker's `/run/docker/netns`), an open descriptor, a socket. A
//! [`Netns`] is such a descriptor, so it is opened for the length of an operation and not kept.
//!
//! A thread changes its namespace for itself alone. Work inside another namespace runs on a fresh
//! thread that ends with it ([`Netns::run`]), so that no thread that lives on can ever be left in
//! the wrong one.

// One ioctl, whose result is its return value.
#![allow(unsafe_code)]

mod holders;
mod reference;

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, fstatfs};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

pub use self::holders::{Holders, census, holders};
pub use self::reference::NetnsRef;

/// The identity of a namespace while it exists: the device and inode numbers of its nsfs file. The
/// kernel may give a later namespace the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetnsId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As the links in /proc/PID/ns read.
        write!(f, "net:[{}]", self.ino)
    }
}

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The words do not name a namespace.
    #[error("invalid network namespace {input:?}: {why}")]
    Invalid {
        /// What was given.
        input: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// No namespace of that name.
    #[error("network namespace {name} not found: there is no {}; create it with `ip netns add {name}`", path.display())]
    NameNotFound {
        /// The name.
        name: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// No such file.
    #[error("network namespace not found: there is no {}; check the path, or whether what it belonged to has ended", .0.display())]
    PathNotFound(PathBuf),
    /// No such process.
    #[error("there is no process {0}; it may have ended, check with `ps -p {0}`")]
    ProcessGone(u32),
    /// A file, but no network namespace.
    #[error("{} is not a network namespace: {why}", path.display())]
    NotNetns {
        /// The file.
        path: PathBuf,
        /// What it is instead, and the remedy.
        why: String,
    },
    /// The kernel refused for another reason.
    #[error("cannot open the network namespace {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open network namespace, which exists at least as long as this.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// Opens the namespace that `reference` names.
    ///
    /// # Errors
    /// [`NetnsError`], which names what, why and the remedy.
    pub fn open(reference: &NetnsRef) -> Result<Self, NetnsError> {
        let path = reference.path();
        let error = match Self::open_path(&path) {
            Ok(netns) => return Ok(netns),
            Err(error) => error,
        };
        // The same failure means something else to whoever used another form.
        Err(match (reference, error) {
            (NetnsRef::Name(name), NetnsError::PathNotFound(path)) => {
                NetnsError::NameNotFound { name: name.clone(), path }
            }
            (NetnsRef::Name(name), NetnsError::NotNetns { path, .. }) => NetnsError::NotNetns {
                path,
                why: format!(
                    "a leftover of a namespace that is gone; \
                     remove it with `ip netns del {name}` and create it anew with `ip netns add {name}`"
                ),
            },
            (NetnsRef::Pid(pid), NetnsError::PathNotFound(_)) => NetnsError::ProcessGone(*pid),
            (_, error) => error,
        })
    }

    fn open_path(path: &Path) -> Result<Self, NetnsError> {
        let failed = |error: Errno| match error {
            // ESRCH: the process's directory exists, but it is a zombie without namespaces.
            Errno::NOENT | Errno::NOTDIR | Errno::SRCH => NetnsError::PathNotFound(path.to_owned()),
            _ => NetnsError::Io { path: path.to_owned(), source: error.into() },
        };
        let other = || NetnsError::NotNetns {
            path: path.to_owned(),
            why: "give a file such as /proc/PID/ns/net or /run/netns/NAME".to_owned(),
        };
        // The path is anybody's, and to open a device or a FIFO has effects of its own: so it is
        // only located first, and opened once it is known to be a namespace.
        let located = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        if !is_nsfs(&located).map_err(failed)? {
            return Err(other());
        }
        let again = format!("/proc/self/fd/{}", located.as_raw_fd());
        let fd = rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        Self::from_fd(fd).map_err(|error| match error {
            Some(source) => NetnsError::Io { path: path.to_owned(), source },
            None => other(),
        })
    }

    /// `None` as the error says that `fd` is something else.
    fn from_fd(fd: OwnedFd) -> Result<Self, Option<io::Error>> {
        if !is_nsfs(&fd).map_err(|error| Some(error.into()))? {
            return Err(None);
        }
        // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours.
        let kind = unsafe { ioctl(&fd, GetNsType) }.map_err(|error| Some(error.into()))?;
        if kind != libc::CLONE_NEWNET {
            return Err(None);
        }
        let stat = fstat(&fd).map_err(|error| Some(error.into()))?;
        #[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
        let id = NetnsId { dev: stat.st_dev as u64, ino: stat.st_ino as u64 };
        Ok(Self { fd, id })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says, `NotFound` where `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open_path(Path::new("/proc/thread-self/ns/net")).map_err(|error| match error {
            NetnsError::Io { source, .. } => source,
            error => io::Error::new(io::ErrorKind::NotFound, error),
        })
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `f` inside the namespace, on a thread of its own, and waits for it. A panic in `f`
    /// goes on in the caller.
    ///
    /// # Errors
    /// When no thread can be made or the kernel does not let it in (`PermissionDenied` without
    /// `CAP_SYS_ADMIN`); `f` has not run then.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(f())
            })?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a file, which need not be open for anything, is a namespace of whatever kind.
fn is_nsfs(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let kind = fstatfs(fd)?.f_type;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
    Ok(kind as i64 == libc::NSFS_MAGIC as i64)
}

/// `NS_GET_NSTYPE` (`include/uapi/linux/nsfs.h`): the `CLONE_NEW*` flag of the namespace's kind.
struct GetNsType;

// SAFETY: the opcode takes no argument, and the output is read from the return value alone.
unsafe impl Ioctl for GetNsType {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 0x3)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_found_by_every_form_and_is_one_and_the_same() {
        let pid = std::process::id();
        let current = Netns::current().unwrap().id();
        for form in [format!("pid:{pid}"), pid.to_string(), format!("/proc/{pid}/ns/net")] {
            let netns = Netns::open(&form.parse().unwrap()).unwrap();
            assert_eq!(netns.id(), current, "{form}");
        }
    }

    #[test]
    fn a_file_that_is_no_namespace_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = Netns::open(&NetnsRef::Path(fifo)).unwrap_err();
        assert!(matches!(error, NetnsError::NotNetns { .. }), "{error}");
        // To open a socket is an error of its own (ENXIO); it can be located all the same.
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = Netns::open(&NetnsRef::Path(socket)).unwrap_err();
        assert!(matches!(error, NetnsError::NotNetns { .. }), "{error}");
    }

    #[test]
    fn what_is_no_network_namespace_is_refused_by_name() {
        for (form, says) in [
            ("/proc/self/ns/mnt", "not a network namespace"),
            ("/dev/null", "not a network namespace"),
            ("/nowhere/at/all", "there is no /nowhere/at/all"),
            ("no-such-namespace", "ip netns add no-such-namespace"),
            ("pid:4294967295", "no process 4294967295"),
        ] {
            let error = Netns::open(&form.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
