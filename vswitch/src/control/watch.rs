//! Watching namespaces that our own descriptors keep alive.
//!
//! A descriptor of `/dev/net/tun` holds the namespace in which it was opened, and a TAP is found
//! and made only in that namespace. So a container's namespace that has a port cannot end on its
//! own, and we look whether anybody else still has it: processes that live in it and mounts of it.
//! When nobody has, the port is dropped, our descriptor closes, and the kernel ends the namespace.
//!
//! Looking is cheap but not free (a pass over `/proc`), so it happens when there is a reason: the
//! mount table changed (`poll` of `mountinfo`, proc_pid_mountinfo(5)), or a process ended that was
//! the last known holder of a namespace without a mount (`pidfd`). While there is no port, nothing
//! is watched.

// tokio wants it promised that a registered descriptor stays open.
#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

use super::netlink::LinkMonitor;
use super::netns::{Holders, NetnsId, census};
use super::service::Service;
use super::switch::Suspect;

/// The least time between two looks: a host that starts containers mounts all the time.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Where looks take long, so long as this many of them lie between two: they use at most a
/// twentieth of a core.
const LOOK_SHARE: u32 = 20;
/// How long to wait before another look where somebody has a namespace who is not seen.
const UNSEEN_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait after a look that failed.
const FAILURE_INTERVAL: Duration = Duration::from_secs(5);

/// Watches until the task is dropped.
pub async fn watch(service: Service) {
    let mut epoch = service.watch_epoch();
    let mounts = Mounts::open();
    let mut doubted = HashSet::new();
    let mut next_look = Instant::now();
    loop {
        epoch.mark_unchanged();
        let suspects = service.with(|switch| Ok(switch.suspects())).await.unwrap_or_default();
        if suspects.is_empty() {
            if epoch.changed().await.is_err() {
                return;
            }
            continue;
        }
        // Bounded in its share of the time, but a reason after a quiet time is looked into at once.
        tokio::time::sleep_until(next_look.into()).await;
        let began = Instant::now();
        let holders = match spawn_blocking(census).await.map_err(io::Error::other).and_then(|census| census) {
            Ok(holders) => holders,
            Err(error) => {
                tracing::warn!(%error, "the holders of namespaces cannot be found");
                tokio::time::sleep(FAILURE_INTERVAL).await;
                continue;
            }
        };
        next_look = Instant::now() + LOOK_INTERVAL.max(began.elapsed() * LOOK_SHARE);
        let orphans: Vec<_> =
            suspects.iter().filter(|one| holders.get(&one.netns).is_none_or(Holders::is_empty)).copied().collect();
        // A look is not one instant: who went from a process to a mount meanwhile was seen as
        // neither. So nobody is given up before the second look.
        let (confirmed, doubtful): (Vec<_>, Vec<_>) =
            orphans.iter().copied().partition(|one: &Suspect| doubted.contains(one));
        doubted = orphans.into_iter().collect();
        if !confirmed.is_empty() {
            // A refusal means that the daemon is stopping.
            let all_dropped = service.change(move |switch| Ok(switch.drop_orphans(&confirmed))).await;
            if all_dropped == Ok(false) {
                tokio::time::sleep(UNSEEN_INTERVAL).await;
            }
        } else if doubtful.is_empty() {
            reason_to_look(&mounts, witnesses(&suspects, &holders), &mut epoch).await;
        } else {
            next_look = Instant::now() + LOOK_INTERVAL;
        }
    }
}

/// One process for each suspect namespace that is mounted nowhere: when it ends, the namespace may.
fn witnesses(suspects: &[Suspect], holders: &HashMap<NetnsId, Holders>) -> Vec<u32> {
    let mut witnesses: Vec<u32> = suspects
        .iter()
        .filter_map(|suspect| holders.get(&suspect.netns))
        .filter(|holders| holders.mounts.is_empty())
        .filter_map(|holders| holders.processes.first().copied())
        .collect();
    witnesses.sort_unstable();
    witnesses.dedup();
    witnesses
}

/// Waits until the mount table changes, a witness ends, or the set of ports changes.
async fn reason_to_look(mounts: &Mounts, witnesses: Vec<u32>, epoch: &mut watch::Receiver<u64>) {
    let mut ends = JoinSet::new();
    for pid in witnesses {
        match open_pidfd(pid) {
            Ok(pidfd) => {
                ends.spawn(async move { pidfd.readable().await.map(|_| ()) });
            }
            // It has ended already.
            Err(_) => return,
        }
    }
    tokio::select! {
        () = mounts.changed() => {}
        Some(_) = ends.join_next() => {}
        _ = epoch.changed() => {}
    }
}

fn open_pidfd(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(register(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)?)
}

/// Registers a descriptor with the runtime.
pub(super) fn register<T: AsRawFd + OwnsFd>(
    file: T,
    interest: Interest,
) -> Result<AsyncFd<T>, AsyncFdRegisterError<T>> {
    // SAFETY: `T` owns its descriptor (see `OwnsFd`), which stays the same and open while the
    // `AsyncFd` has it.
    unsafe { AsyncFd::register_with_interest(file, interest) }
}

/// Types that are one descriptor and own it.
pub(super) trait OwnsFd {}
impl OwnsFd for LinkMonitor {}
impl OwnsFd for OwnedFd {}
impl OwnsFd for File {}

/// The mount tables that namespaces are looked for in: our own and that of the host's first
/// process, see [`census`].
#[derive(Debug)]
struct Mounts {
    tables: Vec<AsyncFd<File>>,
}

impl Mounts {
    fn open() -> Self {
        let tables = ["/proc/self/mountinfo", "/proc/1/mountinfo"];
        let open = |path| register(File::open(path).ok()?, Interest::PRIORITY).ok();
        Self { tables: tables.into_iter().filter_map(open).collect() }
    }

    /// Waits for a change; one that happened since the last call counts.
    async fn changed(&self) {
        match self.tables.as_slice() {
            [] => std::future::pending().await,
            [one] => change(one).await,
            [one, two, ..] => tokio::select! {
                () = change(one) => {}
                () = change(two) => {}
            },
        }
    }
}

/// Waits for a change of one mount table; one that happened since the last call counts.
async fn change(table: &AsyncFd<File>) {
    match table.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        // The runtime is shutting down.
        Err(_) => std::future::pending().await,
    }
}
