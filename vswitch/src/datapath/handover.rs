//! Frames that one worker has for an interface that only another worker may use.
//!
//! An AF_XDP socket works in the memory of one worker. What another worker has for such a port is
//! copied into a bounded queue, from which the port's own worker sends it. That is the slow way,
//! and rare: the AF_XDP ports of a bridge share a worker.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::Shared;
use crate::frame::{DropReason, Frame, Offload, Pool};
use crate::io::{Piece, TxQueue, TxReport, Unit};
use crate::snapshot::{PortEntry, PortId};

/// Frames that wait for one worker, at most.
const HANDOVER_MAX: usize = 1024;

/// A frame on its way from one worker to another.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) to: PortId,
    /// Which of the ports that ever had this id.
    pub(super) incarnation: u64,
    pub(super) bytes: Box<[u8]>,
    pub(super) offload: Offload,
}

/// One worker's queue.
#[derive(Debug)]
pub(super) struct Handover(ArrayQueue<Handed>);

impl Default for Handover {
    fn default() -> Self {
        Self(ArrayQueue::new(HANDOVER_MAX))
    }
}

impl Handover {
    /// The next frame.
    #[inline]
    pub(super) fn take(&self) -> Option<Handed> {
        self.0.pop()
    }
}

/// The sending side of a port whose home is another worker. What is queued is counted there, as
/// sent or dropped, when it is sent.
pub(super) struct HandoverTx {
    shared: Arc<Shared>,
    home: usize,
    to: PortId,
    incarnation: u64,
}

impl HandoverTx {
    pub(super) fn open(shared: &Arc<Shared>, home: usize, port: &PortEntry) -> Box<dyn TxQueue> {
        Box::new(Self { shared: Arc::clone(shared), home, to: port.id, incarnation: port.incarnation })
    }
}

impl TxQueue for HandoverTx {
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece], report: &mut TxReport) {
        let Some(home) = self.shared.workers.get(self.home) else {
            units.iter().for_each(|_| report.drop_unit(DropReason::PortGone));
            return;
        };
        for unit in units {
            let frame = &mut frames[usize::from(unit.frame)];
            if !pool.linearize(frame) {
                report.drop_unit(DropReason::PoolEmpty);
                continue;
            }
            let mut bytes = frame.data().to_vec();
            let first = usize::from(unit.first_piece);
            for piece in &pieces[first..first + usize::from(unit.pieces_count)] {
                bytes.extend_from_slice(&frames[usize::from(piece.frame)].data()[usize::from(piece.offset)..]);
            }
            let handed = Handed {
                to: self.to,
                incarnation: self.incarnation,
                bytes: bytes.into_boxed_slice(),
                offload: unit.offload,
            };
            if home.handover.0.push(handed).is_err() {
                report.drop_unit(DropReason::HandoverFull);
            }
        }
        home.wake();
    }
}
