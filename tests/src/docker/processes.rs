//! The end of everything that a Docker started.
//!
//! Two marks find it, whoever its parent is by now: the control groups of its containers, and the mount namespace of its
//! daemons (dockerd, containerd, a shim for each container, proxies).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{PATIENCE, wait_until};

const LIMIT: Duration = PATIENCE;
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// How Docker's programs begin.
const PROGRAMS: [&str; 3] = ["docker", "containerd", "runc"];

/// Kills the processes of the containers below the control group `group`, and Docker's own in the mount namespace whose
/// inode is `mounts`; returns when they are gone, and the groups with them.
pub fn end(mounts: u64, group: &str) {
    let gone = wait_until("the end of Docker's processes", LIMIT, || {
        let left = all(mounts, group);
        for pid in &left {
            // It may have ended meanwhile.
            let _ = kill_process(*pid, Signal::KILL);
        }
        left.is_empty().then_some(())
    });
    if let Err(error) = gone {
        crate::announce(&format!("{error}: {:?}", all(mounts, group)));
    }
    for group in groups(group) {
        remove(&group);
    }
}

/// Ends the containers of Dockers whose test process was killed, and removes their control groups. What else there is
/// of such a Docker is in its host's network namespace, and goes with that ([`crate::namespace::sweep`]).
pub fn sweep() {
    let hierarchies = fs::read_dir(CONTROL_GROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from(CONTROL_GROUPS)]) {
        for group in children(&hierarchy) {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let owner = name.strip_prefix("vsw").and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
            if owner
                .and_then(|pid| pid.parse::<u32>().ok())
                .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            {
                // No mount namespace has this inode.
                end(0, &name);
            }
        }
    }
}

/// The processes of a Docker that run.
#[must_use]
pub fn all(mounts: u64, group: &str) -> Vec<Pid> {
    let mut pids = Vec::new();
    for group in groups(group) {
        members(&group, &mut pids);
    }
    pids.extend(programs(mounts).filter(|one| PROGRAMS.iter().any(|name| one.1.starts_with(name))).map(|one| one.0));
    pids
}

/// Whether a program of exactly this name runs in the mount namespace.
#[must_use]
pub(super) fn runs(mounts: u64, program: &str) -> bool {
    programs(mounts).any(|one| one.1 == program)
}

/// The processes in a mount namespace, with the names of their programs (the first 15 bytes).
fn programs(mounts: u64) -> impl Iterator<Item = (Pid, String)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(move |entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let program = fs::read_to_string(entry.path().join("comm")).ok()?;
        let its = fs::metadata(entry.path().join("ns/mnt")).is_ok_and(|namespace| namespace.ino() == mounts);
        its.then(|| (pid, program.trim_end().to_owned()))
    })
}

/// Where the control group `name` is: in the one hierarchy of version 2, or in each of version 1.
fn groups(name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(CONTROL_GROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    let places = hierarchies.chain([PathBuf::from(CONTROL_GROUPS)]).map(|hierarchy| hierarchy.join(name));
    places.filter(|place| place.is_dir()).collect()
}

fn children(group: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn members(group: &Path, pids: &mut Vec<Pid>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    for child in children(group) {
        members(&child, pids);
    }
}

fn remove(group: &Path) {
    for child in children(group) {
        remove(&child);
    }
    // A group whose processes are zombies still is busy for a moment; one that is left is empty and costs nothing.
    let _ = wait_until("an empty control group", Duration::from_secs(1), || fs::remove_dir(group).ok());
}
