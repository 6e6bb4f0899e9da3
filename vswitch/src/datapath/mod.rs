//! The data plane: plain named threads that move bursts of frames between ports.
//!
//! A frame has three speeds here, all of them counted: a *hit* in the flow cache costs one cache
//! line; a *miss* is resolved against the bridge's forwarding database, under a lock; everything
//! else (ports, limits, ageing) is the control plane's and reaches the workers as a new snapshot.
//! Nothing here knows tokio, serde or a configuration file.
//!
//! [`Datapath`] is the control plane's handle. [`pipeline`] is the pure part: it can be driven from
//! memory, without threads or devices, and is what the benchmarks and the model tests drive.

pub mod clock;
mod counters;
mod egress;
pub mod fdb;
pub mod flow;
pub mod flow_cache;
mod forwarder;
mod guard;
mod handover;
mod idle;
pub mod inline;
pub mod neighbours;
pub mod pipeline;
pub mod rate;
pub mod resolve;
mod router;
pub mod scatter;
mod tag;
mod underlay;
mod worker;
mod zeroed;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use rustix::event::{EventfdFlags, eventfd};

use crate::frame::pool::Region;
use crate::nat::conntrack::Conntrack;
use crate::snapshot::publish::Publisher;
use crate::snapshot::{BridgeId, PORTS_MAX, PortId, Snapshot};
use counters::{CounterTable, INJECTED_ROW, WorkerCells};
pub use counters::{PortCounters, WorkerCounters};
use worker::{Injection, Worker};

/// Frames that wait to be injected, at most.
const INJECTIONS_MAX: usize = 4096;

/// How the data plane is built.
#[derive(Debug, Clone, Copy)]
pub struct DatapathConfig {
    /// The number of threads.
    pub workers: usize,
    /// The frames of each thread's pool.
    pub pool_frames: u32,
    /// The chunks of each thread's pool, 4 KB each, for AF_XDP ports to receive into. They cost
    /// nothing until the thread has such a port.
    pub pool_chunks: u32,
    /// Whether neighbours of one flow are merged towards outputs that take super-frames.
    pub coalesce: bool,
}

impl Default for DatapathConfig {
    fn default() -> Self {
        // A burst, the segments of one super-frame of tiny segments in batches, and slack.
        Self { workers: 1, pool_frames: 256, pool_chunks: 8192, coalesce: true }
    }
}

/// What the data plane tells the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A port's interface is gone, usually with its namespace.
    PortGone {
        /// The port.
        port: PortId,
        /// Which of the ports that ever had this id.
        incarnation: u64,
    },
    /// An address flaps between ports and is now held on the first of them.
    Loop {
        /// The bridge.
        bridge: BridgeId,
        /// The address.
        mac: [u8; 6],
        /// The VLAN that it flaps in, or 0.
        vlan: u16,
        /// The port that it is held on, and the other one that it was last seen on.
        ports: [PortId; 2],
    },
}

#[derive(Debug)]
struct WorkerShared {
    /// An eventfd: written to end a worker's sleep.
    wake: OwnedFd,
    counters: CounterTable,
    cells: WorkerCells,
    /// What other workers have for interfaces that only this one may use.
    handover: handover::Handover,
    /// The memory of the thread's pool; set once the thread's forwarder exists.
    region: OnceLock<Arc<Region>>,
}

impl WorkerShared {
    /// Ends the worker's sleep.
    fn wake(&self) {
        // The only error is a full counter, and then the worker is being woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

#[derive(Debug)]
struct Shared {
    publisher: Publisher<Snapshot>,
    workers: Vec<WorkerShared>,
    stop: AtomicBool,
    /// Unbounded, because what it carries is bounded: a port goes once, loops are rate-limited.
    events: Sender<Event>,
    /// One more than the largest port id that ever was.
    ports_high: AtomicUsize,
    /// The connections of all workers.
    conntrack: Arc<Conntrack>,
}

impl Shared {
    fn new(workers: usize, conntrack: Arc<Conntrack>) -> std::io::Result<(Arc<Self>, Receiver<Event>)> {
        let workers = (0..workers)
            .map(|_| {
                Ok(WorkerShared {
                    wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                    counters: CounterTable::new(),
                    cells: WorkerCells::default(),
                    handover: handover::Handover::default(),
                    region: OnceLock::new(),
                })
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        let (sender, events) = crossbeam_channel::unbounded();
        let publisher = Publisher::new(Snapshot::default(), workers.len());
        Ok((
            Arc::new(Self {
                publisher,
                workers,
                stop: AtomicBool::new(false),
                events: sender,
                ports_high: AtomicUsize::new(0),
                conntrack,
            }),
            events,
        ))
    }

    fn publish(&self, snapshot: Snapshot) -> u64 {
        let bridges: Vec<_> = snapshot.bridges.iter().flatten().map(|bridge| Arc::clone(&bridge.fdb)).collect();
        let underlays = snapshot.underlays.iter().map(|underlay| underlay.id.index() + 1).max();
        let high = snapshot.ports.len().max(underlays.unwrap_or(0));
        self.ports_high.fetch_max(high, Ordering::Relaxed);
        for gateway in snapshot.bridges.iter().flatten().filter_map(|bridge| bridge.gateway.as_ref()) {
            for (address, station) in &gateway.stations {
                let port = snapshot.ports.get(station.port.index()).and_then(Option::as_ref);
                self.conntrack.share_hairpins(*address, port.map(|port| Arc::clone(&port.hairpins)));
            }
        }
        let generation = self.publisher.publish(snapshot);
        // After the publication: a worker that reads a new epoch finds the new generation too.
        for fdb in bridges {
            fdb.invalidate();
        }
        generation
    }

    fn totals(&self) -> PortCounters {
        let mut sum = PortCounters::default();
        // Every row, also of a port that is between removal and retirement.
        for worker in &self.workers {
            for row in 0..self.ports_high.load(Ordering::Relaxed).min(PORTS_MAX) {
                sum.add(&worker.counters.read(row));
            }
            sum.add(&worker.counters.read(INJECTED_ROW));
        }
        sum
    }
}

/// The control plane's handle of the data plane.
#[derive(Debug)]
pub struct Datapath {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    injections: Sender<Injection>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What ports that are gone had counted.
    retired: Mutex<PortCounters>,
}

impl Datapath {
    /// Starts the threads, with an empty configuration, and with connections that were known before.
    ///
    /// # Errors
    /// When the kernel grants no thread, descriptor or memory.
    pub fn start(config: DatapathConfig, conntrack: Arc<Conntrack>) -> std::io::Result<Self> {
        let count = config.workers.max(1);
        let (shared, events) = Shared::new(count, conntrack)?;
        let (injections, injected) = crossbeam_channel::bounded(INJECTIONS_MAX);
        let this = Self {
            shared: Arc::clone(&shared),
            events,
            injections,
            threads: Mutex::new(Vec::new()),
            retired: Mutex::new(PortCounters::default()),
        };
        for number in 0..count {
            // One worker processes what is injected: injected frames have no order among ports.
            let injected = (number == 0).then(|| injected.clone());
            let worker = Worker::new(number, Arc::clone(&shared), injected, &config, seed()?)?;
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let _guard = AbortOnPanic;
                worker.run();
            })?;
            this.threads().push(thread);
        }
        Ok(this)
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections.
    #[must_use]
    pub fn conntrack(&self) -> &Arc<Conntrack> {
        &self.shared.conntrack
    }

    /// The number of threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers.len()
    }

    /// The memory of a worker's pool, for AF_XDP sockets that are to be that worker's.
    #[must_use]
    pub fn region(&self, worker: u16) -> Option<Arc<Region>> {
        self.shared.workers.get(usize::from(worker))?.region.get().map(Arc::clone)
    }

    fn wake(&self) {
        self.shared.workers.iter().for_each(WorkerShared::wake);
    }

    /// Makes `snapshot` the configuration and returns its generation. The threads adopt it
    /// between two bursts.
    pub fn publish(&self, snapshot: Snapshot) -> u64 {
        let generation = self.shared.publish(snapshot);
        self.wake();
        generation
    }

    /// Waits until every thread uses nothing older than `generation`.
    pub fn wait_seen(&self, generation: u64) {
        self.shared.publisher.wait_seen(generation);
    }

    /// Processes a frame as though `from` had received it. Frames beyond a generous queue are not
    /// injected: what the switch says of itself is repeated anyway.
    pub fn inject(&self, from: PortId, frame: Vec<u8>) {
        if frame.len() <= crate::frame::pool::FRAME_BYTES_MAX
            && self.injections.try_send(Injection { from, bytes: frame }).is_ok()
        {
            self.wake();
        }
    }

    /// Where the threads' events are read.
    #[must_use]
    pub fn events(&self) -> Receiver<Event> {
        self.events.clone()
    }

    /// A port's counters, one per worker.
    #[must_use]
    pub fn port_counters(&self, port: PortId) -> Vec<PortCounters> {
        if port.index() >= PORTS_MAX {
            return Vec::new();
        }
        self.shared.workers.iter().map(|worker| worker.counters.read(port.index())).collect()
    }

    /// Folds the counters of a port that is gone into the totals and frees its row. Only after
    /// [`Datapath::wait_seen`] of the snapshot without it.
    pub fn retire_port_counters(&self, port: PortId) {
        if port.index() >= PORTS_MAX {
            return;
        }
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in &self.shared.workers {
            retired.add(&worker.counters.take(port));
        }
    }

    /// The workers' own counters.
    #[must_use]
    pub fn worker_counters(&self) -> Vec<WorkerCounters> {
        self.shared.workers.iter().map(|worker| worker.cells.read()).collect()
    }

    /// The sum over all ports, those that are gone and injected frames included.
    #[must_use]
    pub fn totals(&self) -> PortCounters {
        // Locked over the whole sum: a row that is retired meanwhile would count twice or never.
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = *retired;
        sum.add(&self.shared.totals());
        sum
    }

    /// Stops the threads and waits for them.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wake();
        for thread in self.threads().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a datapath thread panicked");
            }
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends the process when a datapath thread panics: a switch that answers commands and carries no
/// packets is the worst of all. The interfaces are persistent, so whoever restarts the daemon brings
/// everything back.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a datapath thread panicked; the daemon ends, the interfaces stay");
            std::process::abort();
        }
    }
}

/// A number that senders cannot guess.
fn seed() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
