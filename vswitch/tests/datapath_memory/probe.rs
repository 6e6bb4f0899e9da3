//! A device in memory that shows which of its queues are open, and lets a test act at the moment
//! when frames are received or sent.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use vswitch::frame::{Burst, Frame, Pool};
use vswitch::io::mem::MemDevice;
use vswitch::io::{Caps, Device, Piece, RxQueue, RxReport, RxStatus, TxQueue, TxReport, Unit};

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// See the module's documentation.
#[derive(Clone)]
pub(crate) struct Probe {
    device: MemDevice,
    /// Held by the device and by every queue.
    alive: Arc<()>,
    received: Hook,
    sending: Hook,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.device.fmt(f)
    }
}

impl Probe {
    pub(crate) fn new(device: MemDevice) -> Self {
        Self { device, alive: Arc::new(()), received: Hook::default(), sending: Hook::default() }
    }

    /// A token of which, once the device itself is gone, there are as many copies as open queues,
    /// and this one.
    pub(crate) fn alive(&self) -> Arc<()> {
        Arc::clone(&self.alive)
    }

    /// Calls `hook` once, when a burst was received and before the datapath has it.
    pub(crate) fn when_received(&self, hook: impl FnOnce() + Send + 'static) {
        *self.received.lock().unwrap() = Some(Box::new(hook));
    }

    /// Calls `hook` once, before frames are sent.
    pub(crate) fn when_sending(&self, hook: impl FnOnce() + Send + 'static) {
        *self.sending.lock().unwrap() = Some(Box::new(hook));
    }
}

fn call(hook: &Hook) {
    let hook = hook.lock().unwrap().take();
    if let Some(hook) = hook {
        hook();
    }
}

impl Device for Probe {
    fn caps(&self) -> Caps {
        self.device.caps()
    }

    fn open_rx(&self, pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        Ok(Box::new(ProbeRx {
            queue: self.device.open_rx(pool)?,
            received: Arc::clone(&self.received),
            _alive: self.alive(),
        }))
    }

    fn open_tx(&self, pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        Ok(Box::new(ProbeTx {
            queue: self.device.open_tx(pool)?,
            sending: Arc::clone(&self.sending),
            _alive: self.alive(),
        }))
    }
}

struct ProbeRx {
    queue: Box<dyn RxQueue>,
    received: Hook,
    _alive: Arc<()>,
}

impl RxQueue for ProbeRx {
    fn recv(
        &mut self,
        pool: &mut Pool,
        burst: &mut Burst,
        frames_max: usize,
        bytes_max: usize,
        report: &mut RxReport,
    ) -> RxStatus {
        let status = self.queue.recv(pool, burst, frames_max, bytes_max, report);
        if !burst.is_empty() {
            call(&self.received);
        }
        status
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.queue.event_fd()
    }
}

struct ProbeTx {
    queue: Box<dyn TxQueue>,
    sending: Hook,
    _alive: Arc<()>,
}

impl TxQueue for ProbeTx {
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece], report: &mut TxReport) {
        call(&self.sending);
        self.queue.send(pool, frames, units, pieces, report);
    }
}
