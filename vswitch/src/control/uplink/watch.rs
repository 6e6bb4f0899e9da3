//! The thread that keeps the mirror of the host, and what others see of it.
//!
//! Theory of operation: one thread sleeps in poll on the monitor's socket and on an eventfd. What the
//! kernel says goes into the [`Mirror`]; when that is no longer sure of the routes, they are asked
//! for again. After an overrun of the socket everything is. Whoever follows the host is told by a
//! counter ([`HostWatch::start`]) and looks for itself ([`HostWatch::look`]).
//!
//! The forwarding table ([`Fib`]) is made only once somebody wants next hops ([`HostWatch::next_hops`]),
//! because it needs the neighbours, which change all the time. A new one is published when something
//! changed, but not more often than so that making it takes a tenth of the thread's time: a table of
//! a hundred thousand routes that flaps does not cost a core.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::watch;

use super::fib::Fib;
use super::mirror::{Mirror, Touched};
use crate::control::netlink::monitor::{HostTable, Monitor, Received};
use crate::control::netlink::{Netlink, NetlinkError};
use crate::io::uplink::{NextHops, Resolution};

/// The least time between two forwarding tables, and the share of the time that making them takes.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(5);
const PUBLISH_SHARE: u32 = 10;
/// How long to wait after the kernel could not be asked.
const FAILURE_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two requests for one neighbour: the kernel repeats its own.
const SOLICIT_INTERVAL: Duration = Duration::from_secs(1);
/// Neighbours that are remembered as asked for; beyond that the oldest are asked for again.
const SOLICITED_MAX: usize = 4096;

/// The host as it is now, read once.
///
/// # Errors
/// The kernel cannot be asked.
pub fn read_host() -> Result<Mirror, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let mut mirror = Mirror::default();
    for table in CONFIGURATION {
        mirror.replace(table, netlink.host_table(table)?);
    }
    Ok(mirror)
}

/// The tables that are always followed.
const CONFIGURATION: [HostTable; 4] = [HostTable::Links, HostTable::Addresses, HostTable::Rules, HostTable::Routes];

/// A handle of the watch; the thread ends with the last of them.
#[derive(Debug, Clone)]
pub struct HostWatch {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.requests().stop = true;
        self.shared.wake();
    }
}

#[derive(Debug)]
struct Shared {
    mirror: Mutex<Mirror>,
    fib: Mutex<Arc<Fib>>,
    generation: AtomicU64,
    /// Counts the changes of anything but neighbours.
    routes_generation: AtomicU64,
    requests: Mutex<Requests>,
    wake: OwnedFd,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Requests {
    stop: bool,
    /// Whether somebody wants next hops.
    next_hops: bool,
    /// Neighbours to be asked for.
    solicit: Vec<(u32, IpAddr)>,
    /// When neighbours were asked for last.
    solicited: HashMap<(u32, IpAddr), Instant>,
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fib(&self) -> MutexGuard<'_, Arc<Fib>> {
        self.fib.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // The only failure is a counter that is full, and then the thread wakes up anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl HostWatch {
    /// Begins to watch the namespace of the calling thread; returns when everything was read once.
    /// `changes` counts up with every change of links, addresses, routes and rules.
    ///
    /// # Errors
    /// The kernel gives no socket or no thread, or cannot be asked.
    pub fn start(changes: watch::Sender<u64>) -> std::io::Result<Self> {
        let mut watcher = Watcher {
            monitor: Monitor::open()?,
            netlink: Netlink::open()?,
            shared: Arc::new(Shared {
                mirror: Mutex::default(),
                fib: Mutex::default(),
                generation: AtomicU64::new(1),
                routes_generation: AtomicU64::new(1),
                requests: Mutex::default(),
                wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                changes,
            }),
            pending: Touched::default(),
            neighbours: false,
            resync: false,
            not_before: Instant::now(),
        };
        watcher.resync()?;
        let shared = Arc::clone(&watcher.shared);
        std::thread::Builder::new().name("host-watch".to_owned()).spawn(move || watcher.run())?;
        Ok(Self { owner: Arc::new(Owner { shared }) })
    }

    /// Looks at the host as it is now.
    pub fn look<T>(&self, f: impl FnOnce(&Mirror) -> T) -> T {
        f(&self.owner.shared.mirror())
    }

    /// Answers where packets go; from the first call on the neighbours are watched, too.
    #[must_use]
    pub fn next_hops(&self) -> Arc<dyn NextHops> {
        let shared = &self.owner.shared;
        let first = !std::mem::replace(&mut shared.requests().next_hops, true);
        if first {
            // Until the thread has read the neighbours: nobody is without an answer, only without MACs.
            *shared.fib() = Arc::new(Fib::new(&shared.mirror()));
            shared.routes_generation.fetch_add(1, Ordering::Release);
            shared.generation.fetch_add(1, Ordering::Release);
            shared.wake();
        }
        Arc::new(HostRoutes { owner: Arc::clone(&self.owner) })
    }

    /// The forwarding table; empty until somebody wanted next hops.
    #[must_use]
    pub fn fib(&self) -> Arc<Fib> {
        Arc::clone(&self.owner.shared.fib())
    }
}

/// [`NextHops`] from the mirror.
#[derive(Debug)]
struct HostRoutes {
    owner: Arc<Owner>,
}

impl NextHops for HostRoutes {
    fn generation(&self) -> u64 {
        self.owner.shared.generation.load(Ordering::Acquire)
    }

    fn routes_generation(&self) -> u64 {
        self.owner.shared.routes_generation.load(Ordering::Acquire)
    }

    fn resolve(&self, destination: IpAddr, flow_hash: u32) -> Resolution {
        let fib = Arc::clone(&self.owner.shared.fib());
        fib.resolve(destination, flow_hash)
    }

    fn solicit(&self, oif: u32, neighbour: IpAddr) {
        let shared = &self.owner.shared;
        let mut requests = shared.requests();
        let now = Instant::now();
        let key = (oif, neighbour);
        if requests.solicited.get(&key).is_some_and(|at| now.duration_since(*at) < SOLICIT_INTERVAL) {
            return;
        }
        if requests.solicited.len() >= SOLICITED_MAX {
            requests.solicited.clear();
        }
        requests.solicited.insert(key, now);
        requests.solicit.push(key);
        drop(requests);
        shared.wake();
    }
}

/// The thread's own.
struct Watcher {
    monitor: Monitor,
    netlink: Netlink,
    shared: Arc<Shared>,
    /// What changed since the last publication.
    pending: Touched,
    /// Whether neighbours are watched.
    neighbours: bool,
    /// Whether everything has to be asked for again.
    resync: bool,
    /// When the next forwarding table may be made.
    not_before: Instant,
}

impl Watcher {
    fn run(mut self) {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "the host's routes cannot be followed for a moment");
                    std::thread::sleep(FAILURE_INTERVAL);
                    self.resync = true;
                }
            }
        }
    }

    /// Sleeps until there is something to do, and does it. Whether to go on.
    fn turn(&mut self) -> Result<bool, NetlinkError> {
        if !self.resync {
            self.sleep();
        }
        if !self.serve_requests()? {
            return Ok(false);
        }
        let mut changes = Vec::new();
        self.resync |= self.monitor.receive(&mut changes)? == Received::Overrun;
        let stale = {
            let mut mirror = self.shared.mirror();
            for change in changes {
                self.pending = merge(self.pending, mirror.apply(change));
            }
            mirror.take_stale()
        };
        if std::mem::take(&mut self.resync) {
            tracing::debug!("the host is read anew");
            // What fails is tried again from the beginning.
            self.resync = true;
            self.resync()?;
            self.resync = false;
        } else if stale {
            self.reload(HostTable::Routes)?;
        }
        self.publish();
        Ok(true)
    }

    fn sleep(&self) {
        let waiting = self.pending != Touched::default();
        let left = self.not_before.saturating_duration_since(Instant::now());
        let timeout =
            waiting.then(|| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
        let mut fds = [
            PollFd::from_borrowed_fd(self.monitor.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.wake.as_fd(), PollFlags::IN),
        ];
        // An interrupted sleep is a short one.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Does what others asked for. Whether to go on.
    fn serve_requests(&mut self) -> Result<bool, NetlinkError> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        let (stop, next_hops, solicit) = {
            let mut requests = self.shared.requests();
            (requests.stop, requests.next_hops, std::mem::take(&mut requests.solicit))
        };
        if stop {
            return Ok(false);
        }
        if next_hops && !self.neighbours {
            self.monitor.watch_neighbours()?;
            self.neighbours = true;
            self.reload(HostTable::Neighbours)?;
            self.pending.configuration = true;
        }
        for (oif, neighbour) in solicit {
            if let Err(error) = self.netlink.use_neighbour(oif, neighbour) {
                tracing::debug!(%error, "a neighbour cannot be asked for");
            }
        }
        Ok(true)
    }

    /// Reads everything.
    fn resync(&mut self) -> Result<(), NetlinkError> {
        for table in CONFIGURATION {
            self.reload(table)?;
        }
        if self.neighbours {
            self.reload(HostTable::Neighbours)?;
        }
        Ok(())
    }

    fn reload(&mut self, table: HostTable) -> Result<(), NetlinkError> {
        let rows = self.netlink.host_table(table)?;
        let touched = self.shared.mirror().replace(table, rows);
        self.pending = merge(self.pending, touched);
        Ok(())
    }

    /// Lets others see what changed, if it is time.
    fn publish(&mut self) {
        let now = Instant::now();
        if self.pending == Touched::default() || now < self.not_before {
            return;
        }
        let Touched { configuration, .. } = std::mem::take(&mut self.pending);
        if self.neighbours {
            let fib = {
                let mirror = self.shared.mirror();
                if configuration { Fib::new(&mirror) } else { self.shared.fib().with_neighbours(&mirror) }
            };
            *self.shared.fib() = Arc::new(fib);
            if configuration {
                self.shared.routes_generation.fetch_add(1, Ordering::Release);
            }
            self.shared.generation.fetch_add(1, Ordering::Release);
        }
        if configuration {
            self.shared.changes.send_modify(|count| *count += 1);
        }
        self.not_before = Instant::now() + PUBLISH_INTERVAL.max(now.elapsed() * PUBLISH_SHARE);
    }
}

fn merge(one: Touched, two: Touched) -> Touched {
    Touched { configuration: one.configuration || two.configuration, neighbours: one.neighbours || two.neighbours }
}
