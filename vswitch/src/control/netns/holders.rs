//! Who else holds a namespace.
//!
//! A TAP keeps the namespace in which it was opened alive through our descriptor, so
//! the kernel never tells us that the container is gone. This looks for anybody else: processes
//! that live in the namespace and bind mounts of its nsfs file.
//!
//! Not seen are threads that left their process's namespace, and descriptors and sockets that
//! processes elsewhere keep without a mount; finding those would mean reading every descriptor of every
//! process. Container engines and `ip netns` always mount or run a process.
//!
//! Cost: one `stat` per process and one read of the mount table, about a millisecond on a host with a few hundred
//! processes. It is for triggers, and one [`census`] serves any number of namespaces.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, statat};

use super::NetnsId;

/// Who holds a namespace, this process aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// Processes that live in it.
    pub processes: Vec<u32>,
    /// Where its nsfs file is mounted, as seen by this process or by the host's first.
    pub mounts: Vec<PathBuf>,
}

impl Holders {
    /// Whether nobody was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.mounts.is_empty()
    }
}

/// Who holds the namespace `id`, this process aside.
///
/// # Errors
/// When `/proc` cannot be read. A process that ends during the scan is no error.
pub fn holders(id: NetnsId) -> io::Result<Holders> {
    Ok(census()?.remove(&id).unwrap_or_default())
}

/// The holders of all namespaces that have any, this process aside.
///
/// # Errors
/// As [`holders`].
pub fn census() -> io::Result<HashMap<NetnsId, Holders>> {
    let mut census = HashMap::<NetnsId, Holders>::new();
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        // Fails for a process that has just ended: it holds nothing any more.
        if let Ok(stat) = statat(CWD, format!("/proc/{pid}/ns/net"), AtFlags::empty()) {
            #[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
            let id = NetnsId { dev: stat.st_dev as u64, ino: stat.st_ino as u64 };
            census.entry(id).or_default().processes.push(pid);
        }
    }

    add_mounts(&std::fs::read("/proc/self/mountinfo")?, &mut census);
    // A service with private mounts does not see names that were made after it started. Where
    // process 1 is none of our business, its mounts are not either.
    if let Ok(mountinfo) = std::fs::read("/proc/1/mountinfo") {
        add_mounts(&mountinfo, &mut census);
    }
    Ok(census)
}

/// Adds the mounts of network namespaces in a `mountinfo` (proc_pid_mountinfo(5)):
/// `36 35 0:4 net:[4026531840] /run/netns/web rw - nsfs nsfs rw`.
fn add_mounts(mountinfo: &[u8], census: &mut HashMap<NetnsId, Holders>) {
    for line in mountinfo.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b' ').skip(2);
        let (Some(dev), Some(root), Some(mount)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let Some((dev, ino)) = parse_dev(dev).zip(parse_root(root)) else { continue };
        let mounts = &mut census.entry(NetnsId { dev, ino }).or_default().mounts;
        let mount = unescape(mount);
        if !mounts.contains(&mount) {
            mounts.push(mount);
        }
    }
}

fn parse_dev(field: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn parse_root(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Undoes the kernel's octal escapes of blanks and backslashes (`mangle` in `fs/proc_namespace.c`).
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'\\', &[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ref tail @ ..]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => path.push(first),
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_network_namespaces_are_found_among_others() {
        let mountinfo = b"22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
            36 35 0:4 net:[4026531840] /run/netns/web rw shared:5 - nsfs nsfs rw\n\
            37 35 0:4 mnt:[4026531841] /run/other rw - nsfs nsfs rw\n\
            38 35 0:4 net:[4026531840] /run/two\\040words\\134 rw - nsfs nsfs rw\n\
            cut 3";
        let mut census = HashMap::new();
        add_mounts(mountinfo, &mut census);
        add_mounts(mountinfo, &mut census);
        assert_eq!(census.len(), 1);
        let holders = &census[&NetnsId { dev: 4, ino: 4_026_531_840 }];
        assert_eq!(holders.mounts, [PathBuf::from("/run/netns/web"), PathBuf::from("/run/two words\\")]);
        assert!(holders.processes.is_empty() && !holders.is_empty());
    }

    #[test]
    fn a_child_is_found_in_our_namespace_and_we_are_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = holders(super::super::Netns::current().unwrap().id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.processes.contains(&child.id()), "{found:?}");
        assert!(!found.processes.contains(&std::process::id()));
    }
}
