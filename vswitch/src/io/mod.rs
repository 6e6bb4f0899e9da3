//! Devices: where frames come from and go to.
//!
//! A [`Device`] is one interface. A worker that reads it opens its [`RxQueue`]; every worker opens
//! a [`TxQueue`] of its own, because any worker may have a frame for any port. Every call moves a
//! burst and returns what it moved; moving only a part is normal. What a device can carry is plain
//! data ([`Caps`]); the datapath's egress brings each frame into a shape that the device can take,
//! so devices never segment or compute checksums themselves.

use std::os::fd::BorrowedFd;

use crate::frame::{Burst, DropReason, Frame, Offload, Pool};

pub mod mem;
pub mod tap;
pub mod udp;
mod underlay;
pub mod uplink;
pub mod xdp;

pub use underlay::{Arrivals, Underlay, UnderlayReport, UnderlayRx};

/// What a device can take on the way out, and promises on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// Frames with an unfinished checksum ([`crate::frame::Csum::Partial`]).
    pub csum: bool,
    /// TCP over IPv4 super-frames.
    pub tso4: bool,
    /// TCP over IPv6 super-frames.
    pub tso6: bool,
    /// TCP super-frames with CWR.
    pub ecn: bool,
    /// UDP super-frames.
    pub uso: bool,
    /// Frames that are scattered over several chunks ([`Frame::is_linear`]).
    pub scatter: bool,
    /// Super-frames inside of a UDP tunnel ([`Frame::encapsulation`]), of the kinds above. A tunnel's remote has this if its
    /// uplink does: then it takes super-frames, but frames with an unfinished checksum only if it has `csum`, too.
    pub tunnel: bool,
}

impl Caps {
    /// Nothing: plain finished frames only.
    pub const NONE: Self =
        Self { csum: false, tso4: false, tso6: false, ecn: false, uso: false, scatter: false, tunnel: false };
    /// Every offload of plain frames, what a TAP of a new kernel has.
    pub const ALL: Self =
        Self { csum: true, tso4: true, tso6: true, ecn: true, uso: true, scatter: false, tunnel: false };

    /// The names of the granted offloads, for people.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        [
            ("csum", self.csum),
            ("tso4", self.tso4),
            ("tso6", self.tso6),
            ("ecn", self.ecn),
            ("uso", self.uso),
            ("tunnel", self.tunnel),
        ]
        .into_iter()
        .filter_map(|(name, granted)| granted.then_some(name))
        .collect()
    }
}

/// One interface.
pub trait Device: Send + Sync + std::fmt::Debug {
    /// What the device can take now; may shrink in its life when the kernel takes back a promise.
    fn caps(&self) -> Caps;

    /// The only worker that may open queues, because the device works in that worker's memory; none
    /// if any may. The other workers hand it what they have for the device.
    fn home(&self) -> Option<u16> {
        None
    }

    /// The largest IP packet in bytes that the way behind the device was found to carry, where that is
    /// less than it was taken for: a tunnel whose underlay has a narrow link. It may widen again.
    fn path_mtu(&self) -> Option<u32> {
        None
    }

    /// The longest super-frame that the device takes, in bytes; longer ones are segmented first.
    fn super_frame_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Whether neighbours of one flow are better merged into super-frames before they are sent. Not
    /// where the device would cut them again.
    fn merges(&self) -> bool {
        true
    }

    /// Opens the receiving side. A worker calls it with its pool when it becomes the port's reader.
    ///
    /// # Errors
    /// What the kernel says.
    fn open_rx(&self, pool: &mut Pool) -> std::io::Result<Box<dyn RxQueue>>;

    /// Opens a sending side for the worker whose pool this is.
    ///
    /// # Errors
    /// What the kernel says.
    fn open_tx(&self, pool: &mut Pool) -> std::io::Result<Box<dyn TxQueue>>;
}

/// How a receive call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxStatus {
    /// The device has nothing more now.
    Drained,
    /// The burst, the pool or the budget is full: there may be more.
    More,
    /// The interface is gone for good.
    Gone,
}

/// Frames that a device had to drop while receiving, before they became frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct RxReport {
    /// Received, but with metadata that contradicts the bytes.
    pub malformed: u32,
    /// Received, but shorter than an Ethernet header.
    pub runt: u32,
    /// Not received: the interface had no room for them.
    pub overrun: u32,
}

/// The receiving side of a device, used by one worker at a time.
pub trait RxQueue: Send {
    /// Appends up to `frames_max` frames to `burst`, and stops early once `bytes_max` bytes were
    /// received (the frame that crosses the limit is kept).
    fn recv(
        &mut self,
        pool: &mut Pool,
        burst: &mut Burst,
        frames_max: usize,
        bytes_max: usize,
        report: &mut RxReport,
    ) -> RxStatus;

    /// The descriptor that is readable when frames wait; none for devices in memory.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether a look for frames costs no system call, so that a worker need not be sparing with how many it asks for.
    fn polls_memory(&self) -> bool {
        false
    }

    /// Whether frames wait, for queues that poll memory: what a spinning worker asks.
    fn has_frames(&mut self) -> bool {
        false
    }

    /// Whether frames come only, or sooner, if [`RxQueue::has_frames`] is asked again and again. A worker with such a
    /// queue does not sleep while there is traffic.
    fn polls_busily(&self) -> bool {
        false
    }

    /// Gives back what the queue has of the pool, before it is dropped.
    fn close(&mut self, _pool: &mut Pool) {}
}

/// A part of a unit's payload beyond its head: the bytes of `frame` from `offset` on.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Index into the frames of the call.
    pub frame: u16,
    /// Where in the frame the piece starts, in bytes.
    pub offset: u16,
}

/// What goes out as one frame: a head and, if neighbours were coalesced, further pieces of payload.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    /// Index of the head into the frames of the call.
    pub frame: u16,
    /// The unit's pieces: `pieces[first_piece..first_piece + pieces_count]` of the call.
    pub first_piece: u16,
    /// The number of pieces; zero for an ordinary frame.
    pub pieces_count: u16,
    /// What is still to be done to the unit (the head frame's own offload where nothing was coalesced).
    pub offload: Offload,
    /// Whether the frame goes to this output alone, so that the device may keep it.
    pub sole: bool,
}

/// What became of a send.
#[derive(Debug, Clone, Copy, Default)]
pub struct TxReport {
    /// Units delivered.
    pub sent: u32,
    /// Bytes delivered, Ethernet headers included.
    pub bytes: u64,
    /// Units dropped, by reason.
    pub dropped: [(Option<DropReason>, u32); 4],
}

impl TxReport {
    /// Counts one dropped unit.
    pub fn drop_unit(&mut self, reason: DropReason) {
        for (slot, count) in &mut self.dropped {
            if slot.is_none() || *slot == Some(reason) {
                *slot = Some(reason);
                *count += 1;
                return;
            }
        }
        // More than four reasons in one call: the last slot takes it rather than losing it.
        self.dropped[3].1 += 1;
    }

    /// The drops of this call.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u32)> + '_ {
        self.dropped.iter().filter_map(|&(reason, count)| Some((reason?, count)))
    }
}

/// The sending side of a device, owned by one worker.
pub trait TxQueue: Send {
    /// Sends `units` in order and accounts for each of them in `report`: sent or dropped, never
    /// neither. The device may write to the frames' headroom, and to nothing else. The frames stay
    /// the caller's; a device that still needs the bytes of a frame when it returns puts another
    /// frame of `pool` in its place (a *sole* unit), or sends a copy.
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece], report: &mut TxReport);

    /// Whether units wait in the queue for something else than room, such as a neighbour's address. They are not
    /// accounted for yet.
    fn waits(&self) -> bool {
        false
    }

    /// Sends of what waits what can be sent by now, and gives up what has waited too long; accounts for both.
    fn settle(&mut self, _pool: &mut Pool, _report: &mut TxReport) {}

    /// Gives back what the queue has of the pool, before it is dropped.
    fn close(&mut self, _pool: &mut Pool) {}
}
