//! Watching the host's ends of `xdp` ports.
//!
//! A veth pair goes when its container's namespace ends, when somebody deletes one of the ends, and
//! an AF_XDP socket does not say so by way of poll. Nor does it say that somebody took the host's
//! end down or renamed it. The kernel tells whoever listens to its interfaces ([`LinkMonitor`]), so
//! nobody has to look every so often. While there is no such port, nothing is listened to.

use std::collections::HashSet;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::netlink::{ChangedLinks, LinkMonitor};
use super::service::Service;
use super::watch::register;

/// The time between two looks: what comes in pieces is looked at once, and somebody who changes an
/// interface back whenever we put it right cannot keep us busy.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long to wait after a failure to listen.
const FAILURE_INTERVAL: Duration = Duration::from_secs(5);

/// Watches until the task is dropped.
pub async fn watch(service: Service) {
    let mut epoch = service.watch_epoch();
    loop {
        epoch.mark_unchanged();
        let watched = service.with(|switch| Ok(switch.host_ends())).await.unwrap_or_default();
        if watched.is_empty() {
            if epoch.changed().await.is_err() {
                return;
            }
            continue;
        }
        match LinkMonitor::open().and_then(|monitor| Ok(register(monitor, Interest::READABLE)?)) {
            Ok(monitor) => listen(&service, &monitor).await,
            Err(error) => {
                tracing::warn!(%error, "the interfaces of AF_XDP ports cannot be watched");
                sleep(FAILURE_INTERVAL).await;
            }
        }
    }
}

/// Looks at what changed until there is no such port any more, or the socket fails.
async fn listen(service: &Service, monitor: &AsyncFd<LinkMonitor>) {
    let mut epoch = service.watch_epoch();
    let mut known = HashSet::new();
    let mut changed = ChangedLinks::default();
    loop {
        epoch.mark_unchanged();
        let watched = service.with(|switch| Ok(switch.host_ends())).await.unwrap_or_default();
        if watched.is_empty() {
            return;
        }
        // New ones are looked at once: what became of them before was heard by nobody, or thought
        // to be of no concern.
        let look: HashSet<u32> = watched
            .iter()
            .filter(|&index| changed.overrun || changed.indices.contains(index) || !known.contains(index))
            .copied()
            .collect();
        known = watched;
        changed = ChangedLinks::default();
        if !look.is_empty() {
            // A refusal means that the daemon is stopping, a panic was logged by the service.
            let _ = service
                .change(move |switch| {
                    switch.look_at_host_ends(&look);
                    Ok(())
                })
                .await;
            sleep(LOOK_INTERVAL).await;
        }
        tokio::select! {
            ready = monitor.readable() => {
                // The runtime is shutting down.
                let Ok(mut ready) = ready else { return };
                if let Err(error) = monitor.get_ref().drain(&mut changed) {
                    tracing::warn!(%error, "the interfaces of AF_XDP ports are watched anew");
                    return;
                }
                ready.clear_ready();
            }
            changed = epoch.changed() => if changed.is_err() { return },
        }
    }
}
