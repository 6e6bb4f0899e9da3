//! Who may use the socket: root, the daemon's own user, and the group `vswitch`.
//!
//! The file's mode keeps others out already; the check of the peer's credentials holds even where
//! somebody loosened the mode. The credentials are those that the kernel noted at `connect`, so
//! nothing that the peer does later changes the verdict.

// `getgrnam_r` and `SO_PEERGROUPS` have no safe wrapper among our dependencies.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;
use std::ptr;

use tokio::net::UnixStream;

/// The group whose members may use the socket.
pub const GROUP: &CStr = c"vswitch";
/// The most supplementary groups of a process (`NGROUPS_MAX` of `linux/limits.h`).
const GROUPS_MAX: usize = 65536;

/// Who may use the socket.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// The daemon's own effective user.
    uid: u32,
    /// The group `vswitch`, where there is one.
    gid: Option<u32>,
}

impl Allowed {
    /// Looks up the group `vswitch`, once: a group that is made later counts from the next start.
    ///
    /// # Errors
    /// The group database cannot be read.
    pub fn look_up() -> io::Result<Self> {
        Ok(Self { uid: rustix::process::geteuid().as_raw(), gid: group_id(GROUP)? })
    }

    /// The group that the socket belongs to.
    #[must_use]
    pub fn gid(&self) -> Option<u32> {
        self.gid
    }

    /// Whether the process at the other end of `stream` may use the socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn admits(&self, stream: &UnixStream) -> io::Result<bool> {
        let peer = stream.peer_cred()?;
        if peer.uid() == 0 || peer.uid() == self.uid {
            return Ok(true);
        }
        let Some(gid) = self.gid else { return Ok(false) };
        Ok(peer.gid() == gid || peer_groups(stream)?.contains(&gid))
    }
}

/// The supplementary groups of the peer (`SO_PEERGROUPS`, unix(7), Linux 4.13).
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * size_of::<u32>()).map_err(io::Error::other)?;
        // SAFETY: `groups` has `bytes` writable bytes, any of which may be any value.
        let status = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if status == 0 {
            groups.truncate(bytes as usize / size_of::<u32>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || groups.len() >= GROUPS_MAX {
            return Err(error);
        }
        groups.resize(GROUPS_MAX, 0);
    }
}

/// The id of a group, where it exists.
fn group_id(name: &CStr) -> io::Result<Option<u32>> {
    let mut strings: Vec<c_char> = vec![0; 1024];
    loop {
        let mut group = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `strings` has the length that is told.
        let status = unsafe {
            libc::getgrnam_r(name.as_ptr(), group.as_mut_ptr(), strings.as_mut_ptr(), strings.len(), &raw mut found)
        };
        match status {
            // SAFETY: a result that is not null points to `group`, which is then initialised.
            0 => return Ok((!found.is_null()).then(|| unsafe { (*found).gr_gid })),
            // getgrnam(3): these mean "not found" with some name services.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::ERANGE if strings.len() < 1 << 20 => strings.resize(strings.len() * 4, 0),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(group_id(c"root").expect("looks up"), Some(0));
        assert_eq!(group_id(c"no-such-group-here").expect("looks up"), None);
    }

    #[tokio::test]
    async fn a_peer_is_judged_by_its_credentials() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let own = rustix::process::geteuid().as_raw();
        assert!(Allowed { uid: own, gid: None }.admits(&ours).expect("credentials"));
        let gid = rustix::process::getegid().as_raw();
        // Root is admitted whatever the rest says.
        let stranger = Allowed { uid: own.wrapping_add(1), gid: None };
        assert_eq!(stranger.admits(&ours).expect("credentials"), own == 0);
        let member = Allowed { uid: own.wrapping_add(1), gid: Some(gid) };
        assert!(member.admits(&ours).expect("credentials"));
        peer_groups(&theirs).expect("groups");
    }
}
