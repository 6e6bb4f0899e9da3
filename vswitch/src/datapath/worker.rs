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
//! [`super::idle`]. Ports whose frames come through memory (AF_XDP) are looked at there meanwhile, because a look through
//! epoll costs a hundred times as much. So are the few other ports that had frames since the worker last slept, as those
//! of a request and its answers: there the look is the read itself, which is one system call less for a frame than
//! asking epoll first. All others are asked for now and then. Nothing is polled that has no traffic: an idle
//! switch makes no system calls.
//!
//! *Order.* A flow enters through one port, a port has one reader, a reader keeps the order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use crossbeam_channel::Receiver;
use rustix::event::epoll;
use rustix::time::Timespec;

use super::counters::WorkerCells;
use super::forwarder::{Forwarder, Served, Watcher};
use super::idle::{Idle, Wait};
use super::{DatapathConfig, Shared};
use crate::snapshot::PortId;

/// The token of the wake-up descriptor in epoll; ports have theirs below.
const WAKE_TOKEN: u64 = u64::MAX;
/// Work after which a busy worker looks for other ports that became ready: so many bursts, frames and blocks of
/// [`BLOCK_BYTES`]. Some 100 us, whether it goes in many bursts of few frames or in a few of super-frames.
const WORK_PER_POLL: usize = 72;
/// Bytes that are as much work as a frame.
const BLOCK_BYTES: usize = 4096;
/// Looks into memory after which a spinning worker asks epoll once: about a microsecond.
const LOOKS_PER_POLL: u32 = 16;
/// The same where a look is a read of every port in [`Ready::recent`].
const READS_PER_POLL: u32 = 8;
/// The most ports that a spinning worker looks at.
const RINGS_MAX: usize = 16;
/// The most ports that a spinning worker reads without having been told that there is something.
const RECENT_MAX: usize = 3;
/// How many injected frames are processed before ports are served again.
const INJECTIONS_PER_ROUND: usize = 2;
/// How long a worker sleeps that has something which waits for a neighbour's address, or for a fragment.
const WAITING_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
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
    /// Ports whose frames come through memory, and that had some since the worker last slept.
    rings: Vec<PortId>,
    /// Ports whose frames have to be read to be seen, and that had some since the worker last slept. One more than
    /// [`RECENT_MAX`] are too many to be read in turn.
    recent: ArrayVec<PortId, { RECENT_MAX + 1 }>,
    /// Ports that want to be looked at all the time.
    busy: Vec<PortId>,
}

impl Ready {
    /// A port that had frames, and has no more for now.
    fn note_pause(&mut self, port: PortId, in_memory: bool) {
        if in_memory {
            self.note_rings(port);
        } else if !self.recent.is_full() && !self.recent.contains(&port) {
            self.recent.push(port);
        }
    }

    /// The ports to be read without having been told that there is something.
    fn recent(&self) -> &[PortId] {
        if self.recent.len() > RECENT_MAX { &[] } else { &self.recent }
    }

    /// A port without more frames, for now, whose frames come through memory.
    fn note_rings(&mut self, port: PortId) {
        if self.rings.len() < RINGS_MAX && !self.rings.contains(&port) && !self.busy.contains(&port) {
            self.rings.push(port);
        }
    }

    /// How many looks at the ports that had frames of late stand between two questions to epoll.
    fn looks_per_poll(&self) -> u32 {
        if !self.recent().is_empty() {
            READS_PER_POLL
        } else if self.rings.is_empty() && self.busy.is_empty() {
            0
        } else {
            LOOKS_PER_POLL
        }
    }

    /// Puts the ports with frames in memory on the active list; returns whether there were any.
    fn look_at_rings(&mut self, forwarder: &mut Forwarder) -> bool {
        let Self { active, rings, busy, .. } = self;
        let before = active.len();
        for &port in rings.iter().chain(busy.iter()) {
            if !active.contains(&port) && forwarder.has_frames(port) {
                active.push(port);
            }
        }
        active.len() > before
    }
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
        self.rings.retain(|&other| other != port);
        self.recent.retain(|&mut other| other != port);
        self.busy.retain(|&other| other != port);
    }
}

pub(super) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    injections: Option<Receiver<Injection>>,
    forwarder: Forwarder,
    ready: Ready,
    idle: Idle,
    /// Looks at ports since epoll was asked last.
    looks: u32,
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
        let ready = Ready {
            epoll,
            active: Vec::new(),
            assumed: Vec::new(),
            rings: Vec::new(),
            recent: ArrayVec::new(),
            busy: Vec::new(),
        };
        Ok(Self { number, shared, injections, forwarder, ready, idle: Idle::default(), looks: 0 })
    }

    /// Runs until the datapath is stopped.
    pub(super) fn run(mut self) {
        // Made here because the kernel's event structure cannot be sent between threads.
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut work_since_poll = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.forwarder.is_outdated() {
                self.adopt();
            }
            let injects_more = self.inject();
            self.forwarder.take_handover();
            if self.forwarder.is_waiting() {
                self.forwarder.settle(&mut self.ready);
            }
            if injects_more {
                self.poll(&mut events);
                work_since_poll = 0;
            } else if self.ready.active.is_empty() {
                self.wait(&mut events);
                work_since_poll = 0;
            } else if work_since_poll >= WORK_PER_POLL {
                // A worker that never waits is busy, too.
                let busy_ns = self.idle.busy_ns();
                WorkerCells::add(&self.shared.workers[self.number].cells.busy_ns, busy_ns);
                self.poll(&mut events);
                work_since_poll = 0;
            } else {
                self.ready.look_at_rings(&mut self.forwarder);
            }
            work_since_poll += self.serve_round();
        }
        self.forwarder.close(&mut self.ready);
    }

    /// Injects some of what waits for it; whether there is more. Announcements are floods: a thousand ports that were
    /// just added announce themselves with a million copies, which must not keep traffic waiting.
    fn inject(&mut self) -> bool {
        let Some(channel) = &self.injections else { return false };
        for _ in 0..INJECTIONS_PER_ROUND {
            let Ok(injection) = channel.try_recv() else { return false };
            self.forwarder.inject(injection.from, &injection.bytes, &mut self.ready);
        }
        !channel.is_empty()
    }

    /// Takes over a newer snapshot.
    fn adopt(&mut self) {
        self.forwarder.adopt(&mut self.ready);
        self.ready.busy.clear();
        self.ready.busy.extend(self.forwarder.busy_polled());
        self.idle.set_busy(!self.ready.busy.is_empty());
    }

    /// Serves each active port once; returns how much work that was.
    fn serve_round(&mut self) -> usize {
        let mut work = 0;
        let mut at = 0;
        while let Some(&port) = self.ready.active.get(at) {
            let turn = self.forwarder.serve(port, &mut self.ready);
            work += 1 + turn.frames + turn.bytes / BLOCK_BYTES;
            if turn.frames > 0 {
                self.idle.note_burst(turn.bytes);
            }
            // Serving may adopt a snapshot without the port, and so change the list.
            if self.ready.active.get(at) != Some(&port) {
                continue;
            }
            if turn.served == Served::Again {
                at += 1;
                continue;
            }
            self.ready.active.swap_remove(at);
            if turn.frames > 0 {
                self.ready.note_pause(port, turn.in_memory);
            }
            if turn.served == Served::Assumed {
                self.ready.assumed.push(port);
            }
        }
        work
    }

    /// Reads the few ports that had frames of late; whether one has some again, which are on their way then.
    fn look_at_recent(&mut self) -> bool {
        let mut found = false;
        let mut at = 0;
        while let Some(&port) = self.ready.recent().get(at) {
            at += 1;
            let assumed = self.ready.assumed.contains(&port);
            self.ready.assumed.retain(|&other| other != port);
            let turn = self.forwarder.serve(port, &mut self.ready);
            if turn.frames == 0 {
                continue;
            }
            found = true;
            self.idle.note_burst(turn.bytes);
            if assumed {
                self.forwarder.expect_more(port);
            }
            // Serving may adopt a snapshot without the port.
            if self.forwarder.reads(port) {
                match turn.served {
                    Served::Again => self.ready.active.push(port),
                    Served::Assumed => self.ready.assumed.push(port),
                    Served::Drained => {}
                }
            }
        }
        // What is found takes its time, in which others wait.
        self.looks += if found { READS_PER_POLL / 2 } else { 1 };
        found
    }

    /// Waits until a port has frames or somebody wakes the worker: spinning first, if that pays.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) {
        let mut waited = self.idle.begin();
        WorkerCells::add(&self.shared.workers[self.number].cells.busy_ns, waited.busy_ns);
        loop {
            match self.idle.next(&mut waited) {
                Wait::Spin => {
                    if self.ready.look_at_rings(&mut self.forwarder) || self.forwarder.is_outdated() {
                        break;
                    }
                    if self.looks >= self.ready.looks_per_poll() {
                        if self.poll(events) || self.shared.stop.load(Ordering::Relaxed) {
                            break;
                        }
                    } else if self.look_at_recent() {
                        self.idle.end_with_look(waited);
                        return;
                    } else {
                        std::hint::spin_loop();
                    }
                }
                Wait::Sleep => {
                    WorkerCells::add(&self.shared.workers[self.number].cells.sleeps, 1);
                    self.ready.rings.clear();
                    self.ready.recent.clear();
                    let limit = self.forwarder.is_waiting().then_some(&WAITING_LOOK);
                    self.sleep(events, limit);
                    break;
                }
            }
        }
        self.idle.end(waited);
    }

    /// Asks the kernel which ports are ready and puts them on the active list. Returns whether anything was ready.
    fn poll(&mut self, events: &mut Vec<epoll::Event>) -> bool {
        self.sleep(events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// The same, sleeping until a port is ready, or `limit` has passed.
    fn sleep(&mut self, events: &mut Vec<epoll::Event>, limit: Option<&Timespec>) -> bool {
        self.looks = 0;
        events.clear();
        let space = rustix::buffer::spare_capacity(events);
        // EINTR is the only error that a valid descriptor gives: then there is nothing this time.
        let _ = epoll::wait(&self.ready.epoll, space, limit);
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
