//! One sending side for several senders.
//!
//! An AF_XDP interface has one sending side, and a worker takes it once. Over a shared uplink many
//! send: each remote of each tunnel. They are all of one worker, the device's home, so that the lock
//! around the queue is never waited for.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::frame::{DropReason, Frame, Pool};
use crate::io::{Caps, Device, Piece, RxQueue, TxQueue, TxReport, Unit};

/// A device whose sending side is opened with the first who asks for it and closed with the last.
#[derive(Debug)]
pub struct SharedTx {
    device: Arc<dyn Device>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    queue: Option<Box<dyn TxQueue>>,
    users: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("users", &self.users).finish_non_exhaustive()
    }
}

impl SharedTx {
    /// Shares the sending side of `device`, which has a home.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device, shared: Arc::default() }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for SharedTx {
    fn caps(&self) -> Caps {
        self.device.caps()
    }

    fn home(&self) -> Option<u16> {
        self.device.home()
    }

    fn path_mtu(&self) -> Option<u32> {
        self.device.path_mtu()
    }

    fn merges(&self) -> bool {
        self.device.merges()
    }

    fn open_rx(&self, pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        self.device.open_rx(pool)
    }

    fn open_tx(&self, pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        let mut shared = lock(&self.shared);
        if shared.queue.is_none() {
            shared.queue = Some(self.device.open_tx(pool)?);
        }
        shared.users += 1;
        Ok(Box::new(Sender { shared: Arc::clone(&self.shared) }))
    }
}

struct Sender {
    shared: Arc<Mutex<Shared>>,
}

impl TxQueue for Sender {
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece], report: &mut TxReport) {
        match &mut lock(&self.shared).queue {
            Some(queue) => queue.send(pool, frames, units, pieces, report),
            // Only one that was closed gets here.
            None => units.iter().for_each(|_| report.drop_unit(DropReason::PortGone)),
        }
    }

    fn close(&mut self, pool: &mut Pool) {
        let mut shared = lock(&self.shared);
        shared.users = shared.users.saturating_sub(1);
        if shared.users == 0
            && let Some(mut queue) = shared.queue.take()
        {
            queue.close(pool);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Offload;
    use crate::io::mem::MemDevice;

    #[test]
    fn several_send_and_the_last_closes() {
        let device = Arc::new(MemDevice::new(Caps::NONE).with_home(0));
        let shared = SharedTx::new(Arc::clone(&device) as Arc<dyn Device>);
        let mut pool = Pool::new(4).expect("memory");
        let mut frame = pool.alloc().expect("a frame");
        frame.copy_from(&[9; 60]);
        let unit = Unit { frame: 0, first_piece: 0, pieces_count: 0, offload: Offload::NONE, sole: false };
        let mut send = |tx: &mut dyn TxQueue, pool: &mut Pool| {
            let mut report = TxReport::default();
            tx.send(pool, std::slice::from_mut(&mut frame), &[unit], &[], &mut report);
            report.sent
        };
        let [mut one, mut two] = [(); 2].map(|()| shared.open_tx(&mut pool).expect("opens"));
        assert_eq!((send(one.as_mut(), &mut pool), send(two.as_mut(), &mut pool)), (1, 1));
        one.close(&mut pool);
        assert_eq!(send(two.as_mut(), &mut pool), 1);
        two.close(&mut pool);
        assert_eq!(send(two.as_mut(), &mut pool), 0);
        // Opened again, it works again.
        let mut three = shared.open_tx(&mut pool).expect("opens");
        assert_eq!(send(three.as_mut(), &mut pool), 1);
        assert_eq!(device.sent_frames(), 4);
    }
}
