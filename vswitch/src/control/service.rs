//! The switch as a service to concurrent clients: one command at a time, on a thread that may block.
//!
//! A command that has begun runs to its end even if its client goes away: half a command would be
//! worse than one that nobody waits for.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;

use super::containers::Containers;
use super::refusal::{Result, failed, stopping};
use super::switch::Switch;
use crate::datapath::clock::now_s;
use crate::nat::conntrack::SWEEP_BUDGET;

/// How the daemon is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopRequest {
    /// Also remove every interface that the switch made.
    pub cleanup: bool,
}

/// A handle of the switch, cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    switch: Arc<Mutex<Switch>>,
    workers: usize,
    containers: Containers,
    started: Instant,
    stop: watch::Sender<Option<StopRequest>>,
    /// Counts up when the watch of namespaces has to look again.
    watch_epoch: watch::Sender<u64>,
}

/// An answer in JSON, as it goes over the wire.
#[derive(Debug)]
pub struct Encoded(pub Vec<u8>);

impl Encoded {
    fn new(value: &impl Serialize) -> Result<Self> {
        serde_json::to_vec(value)
            .map(Self)
            .map_err(|error| failed(format!("the answer cannot be written: {error}"), "report it"))
    }
}

/// Runs `f` on a thread that may block.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(f).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a command failed in a way that it must not");
        Err(failed("the command failed in a way that it must not", "see the daemon's log, and report it"))
    })
}

impl Service {
    /// A service around `switch`, whose datapath has `workers` threads.
    #[must_use]
    pub fn new(switch: Switch, workers: usize) -> Self {
        Self::with_containers(switch, workers, Containers::default())
    }

    /// The same, with the container engines that are asked for names.
    #[must_use]
    pub fn with_containers(switch: Switch, workers: usize, containers: Containers) -> Self {
        let shared = Shared {
            switch: Arc::new(Mutex::new(switch)),
            workers,
            containers,
            started: Instant::now(),
            stop: watch::Sender::new(None),
            watch_epoch: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `f` with the switch, after those that came before, on a thread that may block.
    ///
    /// # Errors
    /// What `f` refuses, or that it panicked.
    pub async fn with<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Switch) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let switch = Arc::clone(&self.shared.switch).lock_owned().await;
        self.run(switch, f).await
    }

    /// As [`Service::with`], for what changes the switch: refused once the daemon is stopping.
    ///
    /// # Errors
    /// As [`Service::with`], or that the daemon is stopping.
    pub async fn change<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Switch) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let switch = Arc::clone(&self.shared.switch).lock_owned().await;
        if self.shared.stop.borrow().is_some() {
            return Err(stopping());
        }
        self.run(switch, |switch| {
            let result = f(switch);
            switch.settle_gateway();
            result
        })
        .await
    }

    /// As [`Service::with`], for what may be large: `f` runs with the switch, and what it returns is
    /// written as JSON after the switch is free for others, still on the thread that may block.
    ///
    /// # Errors
    /// As [`Service::with`].
    pub async fn show<T: Serialize>(
        &self,
        f: impl FnOnce(&mut Switch) -> Result<T> + Send + 'static,
    ) -> Result<Encoded> {
        let mut switch = Arc::clone(&self.shared.switch).lock_owned().await;
        blocking(move || {
            let shown = f(&mut switch)?;
            drop(switch);
            Encoded::new(&shown)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        mut switch: OwnedMutexGuard<Switch>,
        f: impl FnOnce(&mut Switch) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let result = f(&mut switch);
            if switch.take_watch_changed() {
                shared.watch_epoch.send_modify(|epoch| *epoch += 1);
            }
            result
        })
        .await
    }

    /// Gathers counters; the switch is free for others meanwhile.
    ///
    /// # Errors
    /// There is no such bridge or port.
    pub async fn stats(&self, bridge: Option<String>, port: Option<String>) -> Result<Encoded> {
        let plan = self.with(move |switch| switch.stats_plan(bridge.as_deref(), port.as_deref())).await?;
        blocking(move || Encoded::new(&plan.gather())).await
    }

    /// One page of the gateway's connections; the switch is free for others meanwhile.
    ///
    /// # Errors
    /// There is no such bridge.
    pub async fn connections(&self, bridge: Option<String>, cursor: u32) -> Result<Encoded> {
        let plan = self.with(move |switch| switch.connections_plan(bridge.as_deref())).await?;
        blocking(move || Encoded::new(&plan.page(cursor))).await
    }

    /// Forgets the gateway's connections; the switch is free for others meanwhile.
    ///
    /// # Errors
    /// There is no such bridge, or the daemon is stopping.
    pub async fn flush_connections(&self, bridge: Option<String>) -> Result<usize> {
        let plan = self.change(move |switch| switch.connections_plan(bridge.as_deref())).await?;
        blocking(move || Ok(plan.flush())).await
    }

    /// Ages the forwarding databases and repeats announcements: what happens every second.
    pub async fn tick(&self) {
        // Who is busy with a command does not wait for this; the next second does as well.
        let Ok(mut switch) = Arc::clone(&self.shared.switch).try_lock_owned() else { return };
        // A database has a lock that the workers take, and one of 100,000 addresses takes a
        // millisecond or two: nothing for the thread that everybody's answers come from.
        let aged = spawn_blocking(move || {
            let now = now_s();
            switch.keep_watch();
            switch.repeat_announcements(now);
            switch.follow_lent(now);
            switch.expire_stations(now);
            switch.refresh_overlay();
            switch.collect_docker_leases(now);
            let databases = switch.databases();
            let conntrack = switch.conntrack();
            let ports = switch.used_host_ports();
            drop(switch);
            conntrack.sweep(now, SWEEP_BUDGET);
            if let Some(Err(error)) = ports.map(|ports| ports.refresh()) {
                tracing::warn!(%error, "the ports of the host's programs cannot be looked at; NAT may take one of them");
            }
            databases.iter().map(|fdb| fdb.sweep(now)).sum::<usize>()
        });
        match aged.await {
            Ok(0) => {}
            Ok(aged) => tracing::debug!(aged, "addresses were forgotten"),
            Err(error) => tracing::error!(%error, "the forwarding databases could not be aged"),
        }
    }

    /// Asks the daemon to stop.
    pub fn request_stop(&self, cleanup: bool) {
        self.shared.stop.send_replace(Some(StopRequest { cleanup }));
    }

    /// Waits until somebody asks the daemon to stop.
    pub async fn stop_requested(&self) -> StopRequest {
        let mut stop = self.shared.stop.subscribe();
        // The sender lives as long as `self`.
        match stop.wait_for(Option::is_some).await {
            Ok(request) => request.unwrap_or(StopRequest { cleanup: false }),
            Err(_) => StopRequest { cleanup: false },
        }
    }

    /// Tells when the watch of namespaces has to look again.
    #[must_use]
    pub fn watch_epoch(&self) -> watch::Receiver<u64> {
        self.shared.watch_epoch.subscribe()
    }

    /// The container engines of this host.
    #[must_use]
    pub fn containers(&self) -> &Containers {
        &self.shared.containers
    }

    /// The number of datapath threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers
    }

    /// Seconds since the daemon started.
    #[must_use]
    pub fn uptime_s(&self) -> u64 {
        self.shared.started.elapsed().as_secs()
    }
}
