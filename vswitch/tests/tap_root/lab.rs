//! Namespaces of the tests' own, a port as the control plane makes it, and a switch of two ports.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitch::control::netlink::LinkChange;
use vswitch::frame::{Burst, Pool};
use vswitch::io::tap::{TX_QUEUE_LEN, TapDevice};
use vswitch::io::{Device, RxQueue, RxReport, RxStatus, TxReport, Unit};

pub(crate) use crate::namespaces::{Namespace, can_run};

/// Makes a TAP the `eth0` of `container`, as `add-port` does.
pub(crate) fn add_port(container: &Namespace, nets: &[&str], gateway: Option<&str>) -> TapDevice {
    let tap = container.inside(|| TapDevice::create("eth0").expect("create"));
    let mut inside = container.netlink();
    let index = inside.link_by_name("eth0").unwrap().expect("just created").index;
    let change = LinkChange {
        mtu: Some(1500),
        txqlen: Some(TX_QUEUE_LEN),
        ipv6_link_local: Some(nets.iter().any(|net| net.contains(':'))),
        ..LinkChange::default()
    };
    inside.change_link(index, &change).unwrap();
    for net in nets {
        inside.add_addr(index, net.parse::<IpNet>().unwrap()).unwrap();
    }
    inside.set_up(index).unwrap();
    if let Some(gateway) = gateway {
        inside.add_default_route(gateway.parse::<IpAddr>().unwrap(), index).unwrap();
    }
    tap
}

/// Forwards between two ports on a thread of its own, until dropped.
pub(crate) struct Wire {
    stop: Arc<AtomicBool>,
    pub(crate) longest_frame: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<(Totals, usize)>>,
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
}

impl Wire {
    pub(crate) fn between(a: &TapDevice, b: &TapDevice) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let longest_frame = Arc::new(AtomicU64::new(0));
        let mut pool = Pool::new(128).unwrap();
        let mut rx = [a.open_rx(&mut pool).unwrap(), b.open_rx(&mut pool).unwrap()];
        let mut tx = [b.open_tx(&mut pool).unwrap(), a.open_tx(&mut pool).unwrap()];
        let (stopped, longest) = (Arc::clone(&stop), Arc::clone(&longest_frame));
        let thread = std::thread::spawn(move || {
            let mut totals = Totals::default();
            while !stopped.load(Ordering::Relaxed) {
                wait_readable(rx.iter().map(AsRef::as_ref), Duration::from_millis(50));
                for (rx, tx) in rx.iter_mut().zip(&mut tx) {
                    let mut burst = Burst::new();
                    rx.recv(&mut pool, &mut burst, 64, 65536, &mut RxReport::default());
                    let longest_here = burst.iter().map(|frame| frame.len() as u64).max().unwrap_or(0);
                    longest.fetch_max(longest_here, Ordering::Relaxed);
                    let units: Vec<_> = (0..burst.len()).map(|i| whole(i, &burst)).collect();
                    let mut report = TxReport::default();
                    tx.send(&mut pool, &mut burst, &units, &[], &mut report);
                    totals.received += burst.len() as u64;
                    totals.sent += u64::from(report.sent);
                    totals.dropped += report.drops().map(|(_, count)| u64::from(count)).sum::<u64>();
                    pool.free_all(burst);
                }
            }
            (totals, pool.outstanding())
        });
        Self { stop, longest_frame, thread: Some(thread) }
    }

    /// Stops it and gives its accounts, which must balance.
    pub(crate) fn stop(mut self) -> Totals {
        self.stop.store(true, Ordering::Relaxed);
        let (totals, outstanding) = self.thread.take().unwrap().join().unwrap();
        assert_eq!(totals.received, totals.sent + totals.dropped);
        assert_eq!(outstanding, 0);
        totals
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The unit that is frame `i` of `burst` and nothing else.
pub(crate) fn whole(i: usize, burst: &[vswitch::frame::Frame]) -> Unit {
    Unit { frame: i as u16, first_piece: 0, pieces_count: 0, offload: burst[i].offload, sole: true }
}

/// Waits until a queue has something, and says what poll said of each.
pub(crate) fn wait_readable<'a>(queues: impl Iterator<Item = &'a dyn RxQueue>, limit: Duration) -> Vec<PollFlags> {
    let queues: Vec<_> = queues.collect();
    let mut fds: Vec<_> =
        queues.iter().map(|queue| PollFd::from_borrowed_fd(queue.event_fd().unwrap(), PollFlags::IN)).collect();
    poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap();
    fds.iter().map(PollFd::revents).collect()
}

/// Receives once, frees everything, gives how it ended.
pub(crate) fn drain(rx: &mut dyn RxQueue) -> (RxStatus, usize) {
    let mut pool = Pool::new(64).unwrap();
    let mut burst = Burst::new();
    let status = rx.recv(&mut pool, &mut burst, 64, usize::MAX, &mut RxReport::default());
    let count = burst.len();
    pool.free_all(burst);
    assert_eq!(pool.outstanding(), 0);
    (status, count)
}
