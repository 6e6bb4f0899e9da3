//! A mount namespace in which Docker finds its directories empty and its own.
//!
//! Of the machine's mounts it has a copy that hears of later changes and tells nobody of its own (a slave, see
//! mount_namespaces(7)), so that namespaces which `ip netns` makes and deletes meanwhile are seen, and not held.
//!
//! - `/run` is empty but for the named network namespaces: sockets, pid files, plugins, sandboxes and locks are made anew
//!   in it, and of what runs on the machine (another dockerd or containerd, systemd) nothing is found.
//! - `/etc` can be written to, which changes nothing outside, and has no configuration of Docker's.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::process::{Background, PATIENCE, wait_until};

const LIMIT: Duration = PATIENCE;
const READY: &str = "the mounts are ready";
/// `$1` is an empty directory of the lab.
const SCRIPT: &str = "set -e
mkdir -p /run/netns \"$1\"
mount --rbind /run/netns \"$1\"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/.etc/upper /run/.etc/work
mount --move \"$1\" /run/netns
mount -t overlay -o lowerdir=/etc,upperdir=/run/.etc/upper,workdir=/run/.etc/work overlay /etc
mkdir -p /etc/docker
mount -t tmpfs -o mode=755 tmpfs /etc/docker
echo $2
exec sleep infinity
";

/// Makes the mount namespace, which lives as long as the file, and whoever is in it, does.
///
/// # Errors
/// Something of it cannot be mounted.
pub fn create(host: &Namespace, directory: &Path) -> io::Result<File> {
    let mut command = host.command("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", SCRIPT, "sh"]);
    command.arg(directory.join("netns")).arg(READY);
    // It is there until the file is open.
    let mut holder = Background::start(&mut command, &directory.join("mounts.log"))?;
    let ready = wait_until("the mounts", LIMIT, || {
        (holder.output().contains(READY) || holder.has_ended()).then_some(holder.output())
    })?;
    if !ready.contains(READY) {
        return Err(io::Error::other(format!("private mounts for Docker: {}", ready.trim())));
    }
    File::open(format!("/proc/{}/ns/mnt", holder.pid()))
}
