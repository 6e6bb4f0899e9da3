//! One worker's ports and what moves frames between them: everything of a worker but the waiting.
//!
//! A forwarder has a *lane* for every port of its snapshot, with the sending side of the port, and
//! the receiving side where it is the port's reader. [`Forwarder::serve`] moves one burst. The
//! thread around it ([`super::worker`]) decides which port to serve and when to sleep; tests and
//! benchmarks turn the crank themselves ([`super::inline`]).

mod aftermath;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clock::Now;
use super::counters::{Cell, CounterTable, INJECTED_ROW, WorkerCells};
use super::egress::{Egress, Output, send};
use super::handover::HandoverTx;
use super::pipeline::{Ingress, Pipeline, Source, Tally};
use super::rate::Bucket;
use super::resolve::Loop;
use super::scatter::Scatter;
use super::underlay::Underlays;
use super::{DatapathConfig, Event, Shared, WorkerShared};
use crate::frame::{BURST_FRAMES_MAX, Burst, DropReason, Frame, Pool};
use crate::io::{RxQueue, RxReport, RxStatus, TxQueue, UnderlayReport, Unit};
use crate::snapshot::{BridgeEntry, PortEntry, PortId, Snapshot};

/// Bytes after which a burst is full: a second super-frame would push the first one out of the
/// cache before it is sent.
const BURST_BYTES_MAX: usize = 64 * 1024;

/// Loops that are reported per second and worker.
const LOOP_REPORTS_PER_SECOND: u32 = 10;

/// "Too big" answers per second and worker (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
const ANSWERS_PER_SECOND: u32 = 1000;

/// Who wants to know which receiving sides a forwarder opens and closes.
pub(super) trait Watcher {
    /// The port is read from now on; `fd` is readable when it has frames. An error means that it
    /// cannot be.
    fn opened(&mut self, port: PortId, fd: Option<BorrowedFd<'_>>) -> std::io::Result<()>;
    /// The port is not read any more.
    fn closed(&mut self, port: PortId, fd: Option<BorrowedFd<'_>>);
}

/// What serving a port gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Whether to serve it again.
    pub(super) served: Served,
    /// The frames of the burst.
    pub(super) frames: usize,
    /// The bytes of the burst.
    pub(super) bytes: usize,
    /// Whether a further look costs no system call.
    pub(super) in_memory: bool,
}

/// Whether a port has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// It has more.
    Again,
    /// It has nothing more.
    Drained,
    /// It gave all that it was expected to have, and was not asked for more.
    Assumed,
}

/// One port as one worker has it.
struct Lane {
    entry: Arc<PortEntry>,
    bridge: Arc<BridgeEntry>,
    tx: Box<dyn TxQueue>,
    rx: Option<Box<dyn RxQueue>>,
    ingress: Ingress,
    /// How many frames the port is expected to have when it is ready.
    expected: usize,
    /// Whether the interface disappeared under the reader.
    gone: bool,
}

/// See the module's documentation.
pub(super) struct Forwarder {
    number: usize,
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    generation: u64,
    /// The generation that was acknowledged last.
    acknowledged: u64,
    lanes: Vec<Option<Lane>>,
    pipeline: Pipeline,
    scatter: Scatter,
    egress: Egress,
    pool: Pool,
    burst: Burst,
    underlays: Underlays,
    /// Whoever sends can make loops up: only so many are told of.
    loop_reports: Bucket,
    /// Nor can they make us answer more often than this.
    answers: Bucket,
    /// Whether packets wait in some sending side.
    tx_waits: bool,
}

impl Forwarder {
    pub(super) fn new(number: usize, shared: Arc<Shared>, config: &DatapathConfig, seed: u64) -> std::io::Result<Self> {
        let pool = Pool::with_chunks(config.pool_frames, config.pool_chunks)?;
        let pipeline = Pipeline::new(seed, Arc::clone(&shared.conntrack))?;
        // Nobody else sets it.
        let _ = shared.workers[number].region.set(Arc::clone(pool.region()));
        shared.workers[number].cells.frames_total.store(pool.slots() as u64, Ordering::Relaxed);
        Ok(Self {
            number,
            shared,
            snapshot: Arc::default(),
            generation: 0,
            acknowledged: 0,
            lanes: Vec::new(),
            pipeline,
            scatter: Scatter::default(),
            egress: Egress::new(config.coalesce),
            pool,
            burst: Burst::new(),
            underlays: Underlays::default(),
            loop_reports: Bucket::frames(LOOP_REPORTS_PER_SECOND),
            answers: Bucket::frames(ANSWERS_PER_SECOND),
            tx_waits: false,
        })
    }

    fn lane(&mut self, port: PortId) -> Option<&mut Lane> {
        self.lanes.get_mut(port.index())?.as_mut()
    }

    /// Whether the port is read here.
    pub(super) fn reads(&self, port: PortId) -> bool {
        self.lanes.get(port.index()).and_then(Option::as_ref).is_some_and(|lane| lane.rx.is_some())
            || self.underlays.reads(port)
    }

    /// Whether the port, whose frames come through memory, has any.
    pub(super) fn has_frames(&mut self, port: PortId) -> bool {
        self.lane(port).and_then(|lane| lane.rx.as_mut()).is_some_and(|rx| rx.has_frames())
    }

    /// The ports that are read here and want to be looked at all the time.
    pub(super) fn busy_polled(&self) -> impl Iterator<Item = PortId> {
        let busy = self.lanes.iter().flatten().filter(|lane| lane.rx.as_ref().is_some_and(|rx| rx.polls_busily()));
        busy.map(|lane| lane.entry.id)
    }

    /// The port had more than it was expected to have: ask for more from now on.
    pub(super) fn expect_more(&mut self, port: PortId) {
        if let Some(lane) = self.lane(port) {
            lane.expected = (lane.expected * 2).min(BURST_FRAMES_MAX);
        }
    }

    /// Whether a newer snapshot was published than the one in use.
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        self.shared.publisher.generation() != self.generation
    }

    /// Moves one burst from a port, or an underlay, to where it goes.
    pub(super) fn serve(&mut self, port: PortId, watcher: &mut dyn Watcher) -> Turn {
        let nothing = Turn { served: Served::Drained, frames: 0, bytes: 0, in_memory: false };
        let Some(lane) = self.lanes.get_mut(port.index()).and_then(Option::as_mut) else {
            return if self.underlays.reads(port) { self.serve_underlay(port, watcher) } else { nothing };
        };
        let Some(rx) = &mut lane.rx else { return nothing };
        let mut report = RxReport::default();
        let in_memory = rx.polls_memory();
        let expected = if in_memory { BURST_FRAMES_MAX } else { lane.expected };
        let status = rx.recv(&mut self.pool, &mut self.burst, expected, BURST_BYTES_MAX, &mut report);
        let got = self.burst.len();
        let served = match status {
            RxStatus::Drained => {
                lane.expected = got.max(1);
                Served::Drained
            }
            RxStatus::More if got >= expected && expected < BURST_FRAMES_MAX => Served::Assumed,
            RxStatus::More => Served::Again,
            RxStatus::Gone => {
                self.close_reader(port, watcher);
                Served::Drained
            }
        };
        let rejected = report.malformed + report.runt + report.overrun;
        if rejected > 0 {
            let row = port.index();
            let counters = &self.shared.workers[self.number].counters;
            counters.add(row, Cell::RxFrames, u64::from(rejected));
            counters.add_drops(row, DropReason::Malformed, u64::from(report.malformed));
            counters.add_drops(row, DropReason::Runt, u64::from(report.runt));
            counters.add_drops(row, DropReason::RxOverrun, u64::from(report.overrun));
        }
        let bytes = if got > 0 { self.process_burst(port, port.index(), watcher) } else { 0 };
        self.acknowledge();
        Turn { served, frames: got, bytes, in_memory }
    }

    /// Takes one burst of tunnel packets, and processes each run of frames of one tunnel as a burst
    /// of the tunnel's port.
    fn serve_underlay(&mut self, id: PortId, watcher: &mut dyn Watcher) -> Turn {
        let mut arrivals = std::mem::take(&mut self.underlays.arrivals);
        let mut report = UnderlayReport::default();
        let status = self.underlays.recv(id, &mut self.pool, &mut arrivals, BURST_BYTES_MAX, &mut report);
        if report.dropped > 0 {
            let row = id.index();
            let counters = &self.shared.workers[self.number].counters;
            counters.add(row, Cell::RxFrames, u64::from(report.dropped));
            counters.add(row, Cell::RxBytes, report.bytes);
            for (&reason, &count) in DropReason::ALL.iter().zip(&report.drops).filter(|(_, count)| **count > 0) {
                counters.add_drops(row, reason, u64::from(count));
            }
        }
        let (mut run, mut frames, mut bytes) = (None, 0, 0);
        let generation = self.generation;
        for (port, frame) in arrivals.drain() {
            if run != Some(port)
                && let Some(before) = run.replace(port)
            {
                bytes += self.process_run(before, generation, watcher);
            }
            self.burst.push(frame);
            frames += 1;
        }
        if let Some(port) = run {
            bytes += self.process_run(port, generation, watcher);
        }
        self.underlays.arrivals = arrivals;
        if status == RxStatus::Gone {
            self.underlays.close(id, &mut self.pool, watcher);
        }
        self.acknowledge();
        let served = if status == RxStatus::More { Served::Again } else { Served::Drained };
        Turn { served, frames, bytes, in_memory: false }
    }

    /// Processes the burst as frames of a tunnel's port, whose id they were given under `generation`.
    fn process_run(&mut self, port: PortId, generation: u64, watcher: &mut dyn Watcher) -> usize {
        if self.generation == generation {
            return self.process_burst(port, port.index(), watcher);
        }
        // A run before this one took over another snapshot, where the id may be another port.
        let counters = &self.shared.workers[self.number].counters;
        counters.add(INJECTED_ROW, Cell::RxFrames, self.burst.len() as u64);
        counters.add_drops(INJECTED_ROW, DropReason::PortDetached, self.burst.len() as u64);
        self.pool.free_all(self.burst.drain(..));
        0
    }

    /// Sends what other workers have for interfaces that only this one may use.
    pub(super) fn take_handover(&mut self) {
        let shared = Arc::clone(&self.shared);
        let WorkerShared { counters, handover, .. } = &shared.workers[self.number];
        while let Some(handed) = handover.take() {
            let row = handed.to.index();
            let lane = self.lanes.get_mut(row).and_then(Option::as_mut);
            let lane = lane.filter(|lane| lane.entry.incarnation == handed.incarnation);
            let (Some(lane), Some(mut frame)) = (lane, self.pool.alloc()) else {
                counters.add_drops(row, DropReason::PortGone, 1);
                continue;
            };
            frame.copy_from(&handed.bytes);
            frame.offload = handed.offload;
            lane.send_alone(frame, row, counters, &mut self.pool);
            self.tx_waits |= lane.tx.waits();
        }
    }

    /// Processes a frame that the switch made as though `from` had received it.
    pub(super) fn inject(&mut self, from: PortId, bytes: &[u8], watcher: &mut dyn Watcher) {
        // An empty pool is impossible between two bursts; the frame would not have existed.
        let Some(mut frame) = self.pool.alloc() else { return };
        frame.copy_from(bytes);
        self.burst.push(frame);
        self.process_burst(from, INJECTED_ROW, watcher);
        self.acknowledge();
    }

    /// Takes the frames in `self.burst` through the pipeline as though `port` had received them,
    /// and counts them in `row`. Returns their bytes. A snapshot that is adopted on the way is left
    /// to be acknowledged: until the burst is sent, the port's next reader must not start, or it
    /// could overtake, and the port's counters are not final.
    fn process_burst(&mut self, port: PortId, row: usize, watcher: &mut dyn Watcher) -> usize {
        let now = Now::read();
        let incarnation = self.lane(port).map(|lane| lane.entry.incarnation);
        // The epoch first, then the check that the snapshot is still the newest: a decision made
        // with an old snapshot is then never cached under a new epoch.
        let (epoch, nat_epoch) = loop {
            let epoch = self.lane(port).map(|lane| lane.bridge.fdb.epoch());
            let nat_epoch = self.pipeline.router.epoch(self.generation, &self.snapshot.routing);
            if !self.is_outdated() {
                break (epoch, nat_epoch);
            }
            self.take_over(watcher);
        };
        let shared = &*self.shared;
        let WorkerShared { counters, .. } = &shared.workers[self.number];
        let bytes = self.burst.iter().map(Frame::len).sum();
        counters.add(row, Cell::RxBytes, bytes as u64);
        // The same id may be another port by now, whose frames these are not.
        let lane = self.lanes.get_mut(port.index()).and_then(Option::as_mut);
        let lane = lane.filter(|lane| Some(lane.entry.incarnation) == incarnation || row == INJECTED_ROW);
        let (Some(epoch), Some(lane)) = (epoch, lane) else {
            counters.add(row, Cell::RxFrames, self.burst.len() as u64);
            counters.add_drops(row, DropReason::PortDetached, self.burst.len() as u64);
            self.pool.free_all(self.burst.drain(..));
            return bytes;
        };
        let source =
            Source { snapshot: &self.snapshot, port: &lane.entry, bridge: &lane.bridge, epoch, nat_epoch, now };
        let tally = self.pipeline.process(&source, &mut lane.ingress, &mut self.burst, &mut self.scatter);
        // Fragments that wait for their first one are received when it comes, or does not.
        counters.add(row, Cell::RxFrames, self.burst.len() as u64 - u64::from(tally.held));
        if let Some(Loop { mac, vlan, ports }) = tally.looped
            && self.loop_reports.admit_frame(now.ns)
        {
            let event = Event::Loop { bridge: lane.bridge.id, mac, vlan, ports };
            // Nobody reads events while the daemon stops.
            let _ = shared.events.send(event);
        }
        count_tally(counters, row, &tally);
        for &to in self.scatter.outputs() {
            let Some(lane) = self.lanes.get_mut(to.index()).and_then(Option::as_mut) else {
                counters.add_drops(row, DropReason::PortGone, self.scatter.items(to).count() as u64);
                continue;
            };
            let mut output = Output { port: &lane.entry, queue: lane.tx.as_mut(), counters, now };
            self.egress.serve(&mut output, &mut self.burst, &self.scatter, &mut self.pool);
            self.tx_waits |= lane.tx.waits();
        }
        self.scatter.clear();
        if self.egress.has_too_big() {
            self.answer_too_big(port, now);
        }
        self.pipeline.router.note_uses(now.s);
        self.pipeline.router.expire_fragments(now.s);
        if !self.pipeline.router.pending.is_empty() {
            self.finish_routing(port, now, watcher);
        }
        self.pool.free_all(self.burst.drain(..));
        let WorkerShared { cells, .. } = &self.shared.workers[self.number];
        WorkerCells::add(&cells.bursts, 1);
        WorkerCells::add(&cells.cache_hits, u64::from(tally.hits));
        WorkerCells::add(&cells.cache_misses, u64::from(tally.misses));
        cells.frames_outstanding.store(self.pool.outstanding() as u64, Ordering::Relaxed);
        bytes
    }

    /// Stops reading a port whose interface is gone, and says so.
    fn close_reader(&mut self, port: PortId, watcher: &mut dyn Watcher) {
        let Some(lane) = self.lanes.get_mut(port.index()).and_then(Option::as_mut) else { return };
        if let Some(mut rx) = lane.rx.take() {
            watcher.closed(port, rx.event_fd());
            rx.close(&mut self.pool);
            lane.gone = true;
            let event = Event::PortGone { port, incarnation: lane.entry.incarnation };
            let _ = self.shared.events.send(event);
        }
    }

    /// Takes over the newest snapshot, and acknowledges it when nothing older is in use.
    pub(super) fn adopt(&mut self, watcher: &mut dyn Watcher) {
        self.take_over(watcher);
        self.acknowledge();
    }

    /// Acknowledges the snapshot in use. Only between two bursts.
    #[inline]
    fn acknowledge(&mut self) {
        if self.acknowledged != self.generation {
            self.acknowledged = self.generation;
            self.shared.publisher.acknowledge(self.number, self.generation);
        }
    }

    /// Takes over the newest snapshot.
    fn take_over(&mut self, watcher: &mut dyn Watcher) {
        let (snapshot, generation) = self.shared.publisher.load();
        self.lanes.resize_with(snapshot.ports.len().max(self.lanes.len()), || None);
        for (at, slot) in self.lanes.iter_mut().enumerate() {
            let wanted = snapshot.ports.get(at).and_then(Option::as_ref);
            if let Some(lane) = slot
                && wanted.is_none_or(|entry| entry.incarnation != lane.entry.incarnation)
            {
                lane.close(&mut self.pool, watcher);
                *slot = None;
            }
            if let Some(entry) = wanted
                && let Some(bridge) = snapshot.bridge(entry.bridge)
                && let Err(error) =
                    adopt_port(slot, entry, bridge, (self.number, &self.shared), &mut self.pool, watcher)
            {
                tracing::error!(port = entry.name, %error, "cannot open the port");
            }
        }
        self.underlays.adopt(&snapshot.underlays, self.number, &mut self.pool, watcher);
        let reading = self.lanes.iter().flatten().filter(|lane| lane.rx.is_some()).count() + self.underlays.len();
        self.shared.workers[self.number].cells.ports.store(reading as u64, Ordering::Relaxed);
        // The old snapshot's devices close here, if it was the last to have them.
        self.snapshot = snapshot;
        self.generation = generation;
    }

    /// Lets go of everything, for good.
    pub(super) fn close(&mut self, watcher: &mut dyn Watcher) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.close(&mut self.pool, watcher);
        }
        self.lanes.clear();
        self.underlays.adopt(&[], self.number, &mut self.pool, watcher);
        self.snapshot = Arc::default();
        self.shared.publisher.acknowledge(self.number, u64::MAX);
    }
}

fn adopt_port(
    slot: &mut Option<Lane>,
    entry: &Arc<PortEntry>,
    bridge: &Arc<BridgeEntry>,
    (number, shared): (usize, &Arc<Shared>),
    pool: &mut Pool,
    watcher: &mut dyn Watcher,
) -> std::io::Result<()> {
    let lane = match slot {
        Some(lane) => lane,
        None => {
            let tx = match entry.device.home() {
                Some(home) if usize::from(home) != number => HandoverTx::open(shared, usize::from(home), entry),
                _ => entry.device.open_tx(pool)?,
            };
            slot.insert(Lane::new(Arc::clone(entry), Arc::clone(bridge), tx))
        }
    };
    lane.update(entry, bridge);
    let reads = entry.reader.is_some_and(|reader| usize::from(reader) == number);
    if reads && lane.rx.is_none() && !lane.gone {
        let rx = entry.device.open_rx(pool)?;
        watcher.opened(entry.id, rx.event_fd())?;
        lane.rx = Some(rx);
    } else if !reads && let Some(mut rx) = lane.rx.take() {
        watcher.closed(entry.id, rx.event_fd());
        rx.close(pool);
    }
    Ok(())
}

impl Lane {
    fn new(entry: Arc<PortEntry>, bridge: Arc<BridgeEntry>, tx: Box<dyn TxQueue>) -> Self {
        let ingress =
            Ingress { rate: entry.ingress_rate_bps.map(Bucket::bits), storm: bridge.storm_limit.map(Bucket::frames) };
        Self { entry, bridge, tx, rx: None, ingress, expected: 1, gone: false }
    }

    /// Sends a frame that came in no burst, counts in `row` what became of it, and frees it.
    fn send_alone(&mut self, frame: Frame, row: usize, counters: &CounterTable, pool: &mut Pool) {
        let unit = Unit { frame: 0, first_piece: 0, pieces_count: 0, offload: frame.offload, sole: true };
        let mut frames = [frame];
        send(self.tx.as_mut(), row, counters, pool, &mut frames, &[unit], &[]);
        pool.free_all(frames);
    }

    /// Gives everything back, before the lane goes.
    fn close(&mut self, pool: &mut Pool, watcher: &mut dyn Watcher) {
        if let Some(mut rx) = self.rx.take() {
            watcher.closed(self.entry.id, rx.event_fd());
            rx.close(pool);
        }
        self.tx.close(pool);
    }

    /// Takes over what a newer snapshot says of the port; buckets keep their state unless their
    /// limit changed.
    fn update(&mut self, entry: &Arc<PortEntry>, bridge: &Arc<BridgeEntry>) {
        if self.entry.ingress_rate_bps != entry.ingress_rate_bps {
            self.ingress.rate = entry.ingress_rate_bps.map(Bucket::bits);
        }
        if self.bridge.storm_limit != bridge.storm_limit {
            self.ingress.storm = bridge.storm_limit.map(Bucket::frames);
        }
        self.entry = Arc::clone(entry);
        self.bridge = Arc::clone(bridge);
    }
}

fn count_tally(counters: &CounterTable, row: usize, tally: &Tally) {
    if tally.flood_copies > 0 {
        counters.add(row, Cell::FloodCopies, tally.flood_copies);
    }
    if tally.any_drop {
        for (&reason, &count) in DropReason::ALL.iter().zip(&tally.drops) {
            if count > 0 {
                counters.add_drops(row, reason, u64::from(count));
            }
        }
    }
}
