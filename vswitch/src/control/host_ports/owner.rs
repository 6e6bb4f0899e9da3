//! Which process has a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A process that has a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its number; of several that share the socket, the lowest.
    pub pid: u32,
    /// The name of its program, at most 15 bytes.
    pub name: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The owners of sockets by their inodes. Sockets of the kernel have none, nor have those of processes that this one
/// may not look at, or that it does not see in its namespace of processes.
pub(super) fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, Owner> {
    let mut found = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    let mut pids: Vec<u32> = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // It may end while it is looked at.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Some(inode) = fs::read_link(descriptor.path()).ok().and_then(|link| socket_inode(link.to_str()?))
            else {
                continue;
            };
            if inodes.contains(&inode) && !found.contains_key(&inode) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                found.insert(inode, Owner { pid, name: name.trim_end().to_owned() });
            }
        }
        if found.len() == inodes.len() {
            break;
        }
    }
    found
}

/// `socket:[4711]`
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_ours_is_found() {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("our own");
        let inode = socket_inode(link.to_str().expect("text")).expect("a socket");
        let owners = owners(&BTreeSet::from([inode]));
        assert_eq!(owners.get(&inode).map(|owner| owner.pid), Some(std::process::id()));
        assert!(!owners[&inode].name.is_empty());
    }

    #[test]
    fn links_of_other_kinds_are_no_sockets() {
        assert_eq!(socket_inode("socket:[4711]"), Some(4711));
        for link in ["pipe:[4711]", "/dev/null", "socket:[]", "socket:[12", "anon_inode:[eventfd]"] {
            assert_eq!(socket_inode(link), None, "{link}");
        }
    }
}
