//! A datapath thread: which port to serve next, and when to sleep.
//!
//! Theory of operation. A worker reads the ports whose reader it is, and sends to any port; the
//! [`Forwarder`] does both. Between two bursts it looks whether a newer snapshot was published.
//!
//! *Which port next.* Ports that are known to have more are on the active list and are served round
//! robin, one burst each; level-triggered epoll finds the others. How many frames a read asks for
//! follows what the port had the last times: a port that sends one frame and waits for the answer
//! costs one read, and not a second one that fails.
//!
//! *When idle.* A worker whose frames keep coming at short distance spins before it sleeps, see
//! [`super::idle`]. Nothing is polled that has no traffic: an idle switch makes no system calls.
//!
//! *Order.* A flow enters through one port, a port has one reader, a reader keeps the order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use rustix::event::epoll;

use super::counters::WorkerCells;
use super::forwarder::{Forwarder, Served, Watcher};
use super::idle::{Idle, Wait};
use super::{DatapathConfig, Shared};
use crate::snapshot::PortId;

/// The token of the wake-up descriptor in epoll; ports have theirs below.
const WAKE_TOKEN: u64 = u64::MAX;
/// Bursts after which a busy worker looks for other ports that became ready.
const POLL_INTERVAL: u32 = 4;
/// The most descriptors that one wait reports.
const EVENTS_MAX: usize = 64;

/// A frame to be processed as though a port had received it.
pub(super) struct Injection {
    pub(super) from: PortId,
    pub(super) bytes: Vec<u8>,
}

/// The ports that have, or may have, frames.
struct Ready {
    epoll: OwnedFd,
    /// Ports to be served, round robin.
    active: Vec<PortId>,
    /// Ports of the last round that gave what was expected and were not asked for more.
    assumed: Vec<PortId>,
}

impl Watcher for Ready {
    fn opened(&mut self, port: PortId, fd: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        match fd {
            Some(fd) => {
                let token = epoll::EventData::new_u64(u64::from(port.0));
                epoll::add(&self.epoll, fd, token, epoll::EventFlags::IN)?;
            }
            // A device without a descriptor is looked at until it is drained, and never again.
            None => self.active.push(port),
        }
        Ok(())
    }

    fn closed(&mut self, port: PortId, fd: Option<BorrowedFd<'_>>) {
        if let Some(fd) = fd {
            // Explicitly, because a duplicate of the descriptor may stay open elsewhere.
            let _ = epoll::delete(&self.epoll, fd);
        }
        self.active.retain(|&other| other != port);
        self.assumed.retain(|&other| other != port);
    }
}

pub(super) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    injections: Option<Receiver<Injection>>,
    forwarder: Forwarder,
    ready: Ready,
    idle: Idle,
}

impl Worker {
    pub(super) fn new(
        number: usize,
        shared: Arc<Shared>,
        injections: Option<Receiver<Injection>>,
        config: &DatapathConfig,
        seed: u64,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = shared.workers[number].wake.as_fd();
        epoll::add(&epoll, wake, epoll::EventData::new_u64(WAKE_TOKEN), epoll::EventFlags::IN)?;
        let forwarder = Forwarder::new(number, Arc::clone(&shared), config, seed)?;
        let ready = Ready { epoll, active: Vec::new(), assumed: Vec::new() };
        Ok(Self { number, shared, injections, forwarder, ready, idle: Idle::default() })
    }

    /// Runs until the datapath is stopped.
    pub(super) fn run(mut self) {
        // Made here because the kernel's event structure cannot be sent between threads.
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut bursts_since_poll = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.forwarder.is_outdated() {
                self.forwarder.adopt(&mut self.ready);
            }
            while let Some(injection) = self.injections.as_ref().and_then(|channel| channel.try_recv().ok()) {
                self.forwarder.inject(injection.from, &injection.bytes, &mut self.ready);
            }
            self.forwarder.take_handover();
            if self.ready.active.is_empty() {
                self.wait(&mut events);
                bursts_since_poll = 0;
            } else if bursts_since_poll >= POLL_INTERVAL {
                // A worker that never waits is busy, too.
                let busy_ns = self.idle.busy_ns();
                WorkerCells::add(&self.shared.workers[self.number].cells.busy_ns, busy_ns);
                self.poll(&mut events, true);
                bursts_since_poll = 0;
            }
            bursts_since_poll += self.serve_round();
        }
        self.forwarder.close(&mut self.ready);
    }

    /// Serves each active port once; returns the number of bursts.
    fn serve_round(&mut self) -> u32 {
        let mut bursts = 0;
        let mut at = 0;
        while let Some(&port) = self.ready.active.get(at) {
            bursts += 1;
            let turn = self.forwarder.serve(port, &mut self.ready);
            if turn.bytes > 0 {
                self.idle.note_burst(turn.bytes);
            }
            // Serving may adopt a snapshot without the port, and so change the list.
            if self.ready.active.get(at) != Some(&port) {
                continue;
            }
            match turn.served {
                Served::Again => at += 1,
                Served::Drained => {
                    self.ready.active.swap_remove(at);
                }
                Served::Assumed => {
                    self.ready.active.swap_remove(at);
                    self.ready.assumed.push(port);
                }
            }
        }
        bursts
    }

    /// Waits until a port has frames or somebody wakes the worker: spinning first, if that pays.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) {
        let mut waited = self.idle.begin();
        WorkerCells::add(&self.shared.workers[self.number].cells.busy_ns, waited.busy_ns);
        loop {
            match self.idle.next(&mut waited) {
                Wait::Spin => {
                    if self.poll(events, true) || self.forwarder.is_outdated() {
                        break;
                    }
                }
                Wait::Sleep => {
                    WorkerCells::add(&self.shared.workers[self.number].cells.sleeps, 1);
                    self.poll(events, false);
                    break;
                }
            }
        }
        self.idle.end(waited);
    }

    /// Asks the kernel which ports are ready and puts them on the active list; unless `at_once`,
    /// sleeps until one is. Returns whether anything was ready.
    fn poll(&mut self, events: &mut Vec<epoll::Event>, at_once: bool) -> bool {
        let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        let space = rustix::buffer::spare_capacity(events);
        // EINTR is the only error that a valid descriptor gives: then there is nothing this time.
        let _ = epoll::wait(&self.ready.epoll, space, at_once.then_some(&zero));
        for event in events.iter() {
            let token = event.data.u64();
            if token == WAKE_TOKEN {
                let _ = rustix::io::read(&self.shared.workers[self.number].wake, &mut [0u8; 8]);
                continue;
            }
            let port = PortId(token as u16);
            if self.forwarder.reads(port) && !self.ready.active.contains(&port) {
                if self.ready.assumed.contains(&port) {
                    self.forwarder.expect_more(port);
                }
                self.ready.active.push(port);
            }
        }
        self.ready.assumed.clear();
        !events.is_empty()
    }
}
