//! The way back to the host, of an interface that is shared by AF_XDP.
//!
//! What an AF_XDP socket sends goes out of the interface, and never to the host. But the classifier gives the switch
//! fragments that may be the host's ([`crate::bpf`]), and the switch gives back those that are. They are written to a
//! TAP, of which the kernel has them as though the interface had received them; everything else is sent.

use std::io;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::frame::{BURST_FRAMES_MAX, DropReason, Frame, Pool};
use crate::io::{Caps, Device, Piece, RxQueue, TxQueue, TxReport, Unit};
use crate::wire::ethernet;

/// A device whose frames that are marked as the host's leave by another one.
#[derive(Debug)]
pub struct WayBack {
    device: Arc<dyn Device>,
    to_host: Arc<dyn Device>,
}

impl WayBack {
    /// `device` with `to_host`, which any worker may use.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, to_host: Arc<dyn Device>) -> Self {
        Self { device, to_host }
    }
}

impl Device for WayBack {
    fn caps(&self) -> Caps {
        self.device.caps()
    }

    fn home(&self) -> Option<u16> {
        self.device.home()
    }

    fn path_mtu(&self) -> Option<u32> {
        self.device.path_mtu()
    }

    fn super_frame_bytes_max(&self) -> usize {
        self.device.super_frame_bytes_max()
    }

    fn merges(&self) -> bool {
        self.device.merges()
    }

    fn open_rx(&self, pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        self.device.open_rx(pool)
    }

    fn open_tx(&self, pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        let queue = self.device.open_tx(pool)?;
        match self.to_host.open_tx(pool) {
            Ok(to_host) => Ok(Box::new(Parting { queue, to_host })),
            Err(error) => {
                let mut queue = queue;
                queue.close(pool);
                Err(error)
            }
        }
    }
}

struct Parting {
    queue: Box<dyn TxQueue>,
    to_host: Box<dyn TxQueue>,
}

impl TxQueue for Parting {
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece], report: &mut TxReport) {
        let is_hosts =
            |frames: &[Frame], unit: &Unit| ethernet::has_group_source(frames[usize::from(unit.frame)].data());
        if !units.iter().any(|unit| is_hosts(frames, unit)) {
            self.queue.send(pool, frames, units, pieces, report);
            return;
        }
        // In order, as they are: seldom more than a few.
        let mut run = ArrayVec::<Unit, BURST_FRAMES_MAX>::new();
        for unit in units {
            if !is_hosts(frames, unit) {
                if run.is_full() {
                    self.queue.send(pool, frames, &run, pieces, report);
                    run.clear();
                }
                run.push(*unit);
                continue;
            }
            if pool.linearize(&mut frames[usize::from(unit.frame)]) {
                self.to_host.send(pool, frames, std::slice::from_ref(unit), pieces, report);
            } else {
                report.drop_unit(DropReason::PoolEmpty);
            }
        }
        self.queue.send(pool, frames, &run, pieces, report);
    }

    fn waits(&self) -> bool {
        self.queue.waits()
    }

    fn settle(&mut self, pool: &mut Pool, report: &mut TxReport) {
        self.queue.settle(pool, report);
    }

    fn close(&mut self, pool: &mut Pool) {
        self.to_host.close(pool);
        self.queue.close(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Offload;
    use crate::io::mem::MemDevice;

    #[test]
    fn what_is_marked_as_the_hosts_goes_to_the_host() {
        let [wire, host] = [(); 2].map(|()| Arc::new(MemDevice::new(Caps::NONE)));
        let way_back = WayBack::new(Arc::clone(&wire) as Arc<dyn Device>, Arc::clone(&host) as Arc<dyn Device>);
        let mut pool = Pool::new(4).expect("memory");
        let mut frames: Vec<Frame> = [0, 1, 0]
            .map(|first_of_source| {
                let mut frame = pool.alloc().expect("a frame");
                frame.copy_from(&[2, 0, 0, 0, 0, 1, 2 | first_of_source, 0, 0, 0, 0, 2, 8, 0, 0, 0]);
                frame
            })
            .into();
        let unit = |frame| Unit { frame, first_piece: 0, pieces_count: 0, offload: Offload::NONE, sole: false };
        let mut tx = way_back.open_tx(&mut pool).expect("opens");
        let mut report = TxReport::default();
        tx.send(&mut pool, &mut frames, &[unit(0), unit(1), unit(2)], &[], &mut report);
        assert_eq!((report.sent, wire.sent_frames(), host.sent_frames()), (3, 2, 1));
        tx.send(&mut pool, &mut frames, &[unit(0)], &[], &mut report);
        assert_eq!((report.sent, wire.sent_frames(), host.sent_frames()), (4, 3, 1));
        tx.close(&mut pool);
        pool.free_all(frames);
    }
}
