//! A data plane without threads: tests and benchmarks turn the crank themselves.
//!
//! It is the same code that the threads run, less the waiting, so what is measured and asserted
//! here is what the switch does.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::clock::now_s;
use super::forwarder::{Forwarder, Served, Watcher};
use super::{DatapathConfig, Event, PortCounters, Shared, WorkerCounters};
use crate::nat::conntrack::Conntrack;
use crate::snapshot::{PortId, Snapshot};

struct Nobody;

impl Watcher for Nobody {
    fn opened(&mut self, _: PortId, _: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        Ok(())
    }
    fn closed(&mut self, _: PortId, _: Option<BorrowedFd<'_>>) {}
}

/// One worker, turned by its owner.
pub struct InlineDatapath {
    shared: Arc<Shared>,
    events: crossbeam_channel::Receiver<Event>,
    forwarder: Forwarder,
}

impl InlineDatapath {
    /// A data plane with a pool of `pool_frames` frames.
    ///
    /// # Errors
    /// When the kernel grants no memory or descriptor.
    pub fn new(pool_frames: u32) -> std::io::Result<Self> {
        let conntrack = Conntrack::in_memory(now_s())?;
        let (shared, events) = Shared::new(1, Arc::new(conntrack))?;
        let config = DatapathConfig { pool_frames, pool_chunks: 0, ..DatapathConfig::default() };
        let forwarder = Forwarder::new(0, Arc::clone(&shared), &config, super::seed()?)?;
        Ok(Self { shared, events, forwarder })
    }

    /// Makes `snapshot` the configuration, and adopts it.
    pub fn publish(&mut self, snapshot: Snapshot) -> u64 {
        let generation = self.shared.publish(snapshot);
        self.forwarder.adopt(&mut Nobody);
        generation
    }

    /// Moves one burst from `port`; returns whether it may have more.
    pub fn turn(&mut self, port: PortId) -> bool {
        let served = self.forwarder.serve(port, &mut Nobody).served;
        if served == Served::Assumed {
            self.forwarder.expect_more(port);
        }
        served != Served::Drained
    }

    /// Moves everything that `port` has.
    pub fn drain(&mut self, port: PortId) {
        while self.turn(port) {}
    }

    /// Processes a frame that the switch made as though `from` had received it.
    pub fn inject(&mut self, from: PortId, bytes: &[u8]) {
        self.forwarder.inject(from, bytes, &mut Nobody);
    }

    /// The connections.
    #[must_use]
    pub fn conntrack(&self) -> &Arc<Conntrack> {
        &self.shared.conntrack
    }

    /// The next event.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// A port's counters.
    #[must_use]
    pub fn port_counters(&self, port: PortId) -> PortCounters {
        self.shared.workers[0].counters.read(port.index())
    }

    /// The worker's counters.
    #[must_use]
    pub fn worker_counters(&self) -> WorkerCounters {
        self.shared.workers[0].cells.read()
    }

    /// The sum over all ports, injected frames included.
    #[must_use]
    pub fn totals(&self) -> PortCounters {
        self.shared.totals()
    }
}
