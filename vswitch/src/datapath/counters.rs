//! Counters: one writer per cell, read by anybody at any time.
//!
//! Every worker has a table of its own with a row of cells per port, so that counting is a plain
//! load and store of a line that no other thread writes. Rows exist for every possible port id and
//! cost memory only once their port carries packets. The last row counts frames that the switch
//! itself injected.

use std::sync::atomic::{AtomicU64, Ordering};

use super::zeroed;
use crate::frame::DropReason;
use crate::snapshot::{PORTS_MAX, PortId};

/// Counters of one port, of one worker or summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames received from the port; a super-frame counts once.
    pub rx_frames: u64,
    /// Bytes received from the port.
    pub rx_bytes: u64,
    /// Frames delivered to the port.
    pub tx_frames: u64,
    /// Bytes delivered to the port.
    pub tx_bytes: u64,
    /// Deliveries beyond the first of flooded frames received here.
    pub flood_copies: u64,
    /// Frames beyond the first that segmentation made on the way out.
    pub segments: u64,
    /// Frames merged into a neighbour on the way out.
    pub coalesced: u64,
    /// Drops by [`DropReason`].
    pub drops: [u64; DropReason::COUNT],
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            rx_frames: 0,
            rx_bytes: 0,
            tx_frames: 0,
            tx_bytes: 0,
            flood_copies: 0,
            segments: 0,
            coalesced: 0,
            drops: [0; DropReason::COUNT],
        }
    }
}

impl PortCounters {
    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.flood_copies += other.flood_copies;
        self.segments += other.segments;
        self.coalesced += other.coalesced;
        for (sum, more) in self.drops.iter_mut().zip(other.drops) {
            *sum += more;
        }
    }

    /// All drops.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// `received + copies + segments - sent - coalesced - dropped`: zero when every frame is
    /// accounted for.
    #[must_use]
    pub fn unexplained(&self) -> i64 {
        let made = self.rx_frames + self.flood_copies + self.segments;
        let gone = self.tx_frames + self.coalesced + self.dropped();
        made.wrapping_sub(gone) as i64
    }
}

/// The cells of a row.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum Cell {
    RxFrames,
    RxBytes,
    TxFrames,
    TxBytes,
    FloodCopies,
    Segments,
    Coalesced,
}

const FIRST_DROP: usize = 7;
const ROW_CELLS: usize = 64;
const _: () = assert!(FIRST_DROP + DropReason::COUNT <= ROW_CELLS, "a row holds all counters");

/// The row of frames that the switch itself made.
pub(super) const INJECTED_ROW: usize = PORTS_MAX;

/// One worker's table.
#[derive(Debug)]
pub(super) struct CounterTable {
    cells: Box<[AtomicU64]>,
}

impl CounterTable {
    pub(super) fn new() -> Self {
        Self { cells: zeroed::atomics_u64((PORTS_MAX + 1) * ROW_CELLS) }
    }

    #[inline]
    fn bump(&self, index: usize, by: u64) {
        if let Some(cell) = self.cells.get(index) {
            // One writer: no read-modify-write is needed.
            cell.store(cell.load(Ordering::Relaxed) + by, Ordering::Relaxed);
        }
    }

    /// Adds to a counter; only the owning worker may.
    #[inline]
    pub(super) fn add(&self, row: usize, cell: Cell, by: u64) {
        self.bump(row * ROW_CELLS + cell as usize, by);
    }

    /// Counts drops; only the owning worker may.
    #[inline]
    pub(super) fn add_drops(&self, row: usize, reason: DropReason, by: u64) {
        self.bump(row * ROW_CELLS + FIRST_DROP + reason as usize, by);
    }

    /// The present values of a row.
    pub(super) fn read(&self, row: usize) -> PortCounters {
        let cell = |at: usize| self.cells[row * ROW_CELLS + at].load(Ordering::Relaxed);
        PortCounters {
            rx_frames: cell(Cell::RxFrames as usize),
            rx_bytes: cell(Cell::RxBytes as usize),
            tx_frames: cell(Cell::TxFrames as usize),
            tx_bytes: cell(Cell::TxBytes as usize),
            flood_copies: cell(Cell::FloodCopies as usize),
            segments: cell(Cell::Segments as usize),
            coalesced: cell(Cell::Coalesced as usize),
            drops: std::array::from_fn(|reason| cell(FIRST_DROP + reason)),
        }
    }

    /// Zeroes the row of a port that no worker touches any more, and returns what it held.
    pub(super) fn take(&self, port: PortId) -> PortCounters {
        let counters = self.read(port.index());
        for cell in &self.cells[port.index() * ROW_CELLS..][..ROW_CELLS] {
            cell.store(0, Ordering::Relaxed);
        }
        counters
    }
}

/// Counters of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounters {
    /// Frames that the flow cache decided.
    pub cache_hits: u64,
    /// Frames that had to be resolved.
    pub cache_misses: u64,
    /// Bursts processed.
    pub bursts: u64,
    /// Times that the worker slept in the kernel.
    pub sleeps: u64,
    /// Nanoseconds spent on bursts, waiting and spinning not counted.
    pub busy_ns: u64,
    /// Frames of its pool in use.
    pub frames_outstanding: u64,
    /// Frames of its pool.
    pub frames_total: u64,
    /// Ports that it reads.
    pub ports: u64,
}

/// The cells behind [`WorkerCounters`], written by the worker.
#[derive(Debug, Default)]
pub(super) struct WorkerCells {
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) bursts: AtomicU64,
    pub(super) sleeps: AtomicU64,
    pub(super) busy_ns: AtomicU64,
    pub(super) frames_outstanding: AtomicU64,
    pub(super) frames_total: AtomicU64,
    pub(super) ports: AtomicU64,
}

impl WorkerCells {
    /// Adds to a cell of this worker's own.
    #[inline]
    pub(super) fn add(cell: &AtomicU64, by: u64) {
        cell.store(cell.load(Ordering::Relaxed) + by, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> WorkerCounters {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        WorkerCounters {
            cache_hits: load(&self.cache_hits),
            cache_misses: load(&self.cache_misses),
            bursts: load(&self.bursts),
            sleeps: load(&self.sleeps),
            busy_ns: load(&self.busy_ns),
            frames_outstanding: load(&self.frames_outstanding),
            frames_total: load(&self.frames_total),
            ports: load(&self.ports),
        }
    }
}
