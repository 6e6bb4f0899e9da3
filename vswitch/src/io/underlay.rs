//! Underlays: what carries tunnels. One receiving side for the frames of many ports.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use super::RxStatus;
use crate::frame::{BURST_FRAMES_MAX, Burst, DropReason, Frame, Pool};
use crate::snapshot::PortId;
use crate::tunnel::TunnelTable;

/// Frames out of their tunnels, and what came in beside them, in order of arrival, each with the port that it came
/// in through.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// The port of what comes in beside tunnels, if that is expected.
    pub routed: Option<PortId>,
    frames: Burst,
    ports: ArrayVec<PortId, BURST_FRAMES_MAX>,
}

impl Arrivals {
    /// How many more frames fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.frames.remaining_capacity()
    }

    /// The number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Appends a frame that came in through `port`.
    ///
    /// # Panics
    /// If there is no room.
    #[inline]
    pub fn push(&mut self, frame: Frame, port: PortId) {
        self.frames.push(frame);
        self.ports.push(port);
    }

    /// Takes everything out, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = (PortId, Frame)> + '_ {
        self.ports.drain(..).zip(self.frames.drain(..))
    }
}

/// What became of packets that are no arrivals.
#[derive(Debug, Clone)]
pub struct UnderlayReport {
    /// Dropped packets.
    pub dropped: u32,
    /// Their bytes.
    pub bytes: u64,
    /// The same by reason.
    pub drops: [u32; DropReason::COUNT],
}

impl Default for UnderlayReport {
    fn default() -> Self {
        Self { dropped: 0, bytes: 0, drops: [0; DropReason::COUNT] }
    }
}

impl UnderlayReport {
    /// Counts a dropped packet of `bytes` bytes.
    pub fn drop_packet(&mut self, reason: DropReason, bytes: usize) {
        self.dropped += 1;
        self.bytes += bytes as u64;
        self.drops[reason as usize] += 1;
    }
}

/// One underlay.
pub trait Underlay: Send + Sync + std::fmt::Debug {
    /// The only worker that may read it, if there is such; see [`super::Device::home`].
    fn home(&self) -> Option<u16> {
        None
    }

    /// Opens the receiving side.
    ///
    /// # Errors
    /// What the kernel says.
    fn open_rx(&self, pool: &mut Pool) -> std::io::Result<Box<dyn UnderlayRx>>;
}

/// The receiving side of an underlay, used by one worker at a time.
pub trait UnderlayRx: Send {
    /// Appends up to `frames_max` frames to `arrivals`, decapsulated, with the ports that `tunnels`
    /// gives them; stops early once `bytes_max` bytes were received. What has no port is counted in
    /// `report` and dropped.
    fn recv(
        &mut self,
        pool: &mut Pool,
        tunnels: &TunnelTable,
        arrivals: &mut Arrivals,
        frames_max: usize,
        bytes_max: usize,
        report: &mut UnderlayReport,
    ) -> RxStatus;

    /// The descriptor that is readable when packets wait; none for underlays in memory.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Gives back what the queue has of the pool, before it is dropped.
    fn close(&mut self, _pool: &mut Pool) {}
}
