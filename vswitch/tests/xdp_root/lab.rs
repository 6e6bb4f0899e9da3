//! The laboratory: namespaces, veth pairs, raw sockets, and threads that forward between ports.

// AF_PACKET has no safe wrapper here.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitch::frame::{Burst, Csum, Frame, Pool, checksum};
use vswitch::io::xdp::{Umems, XdpConfig, XdpDevice};
use vswitch::io::{Device, RxQueue, RxReport, RxStatus, TxQueue, TxReport, Unit};

pub(crate) use crate::namespaces::{Namespace, PATIENCE, can_run, command, eventually, run};

/// An EtherType for experiments (IEEE 802): nobody else sends it.
pub(crate) const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A veth pair: `eth0` in the container, and the host's end, which the switch is to own.
pub(crate) fn plug(host: &Namespace, container: &Namespace, host_end: &str, mtu: u32, queues: u32) {
    let (mtu, queues) = (mtu.to_string(), queues.to_string());
    let end = ["mtu", &mtu, "numrxqueues", &queues, "numtxqueues", &queues];
    let peer = ["type", "veth", "peer", "name", "eth0", "netns", &container.name];
    host.ip(&[&["link", "add", host_end], &end[..], &peer[..], &end[..]].concat());
    // Nothing of the hosts' own on the wire but what a test sends.
    for (namespace, interface) in [(host, host_end), (container, "eth0")] {
        namespace.ip(&["link", "set", interface, "addrgenmode", "none"]);
        namespace.ip(&["link", "set", interface, "up"]);
    }
}

pub(crate) fn address(container: &Namespace, number: u8) {
    for net in [format!("10.9.0.{number}/24"), format!("fd09::{number}/64")] {
        container.ip(&["address", "add", &net, "dev", "eth0", "nodad"]);
    }
}

/// Opens the host's end of a veth pair.
pub(crate) fn open(host: &Namespace, interface: &str, pool: &Pool, umems: &Umems) -> XdpDevice {
    open_with(host, &XdpConfig::new(interface, 0), pool, umems)
}

pub(crate) fn open_with(host: &Namespace, config: &XdpConfig, pool: &Pool, umems: &Umems) -> XdpDevice {
    host.inside(|| XdpDevice::open(config, pool.region(), umems)).unwrap()
}

/// A raw socket on `eth0` of a container.
pub(crate) struct Raw(OwnedFd);

impl Raw {
    pub(crate) fn open(container: &Namespace) -> Self {
        let protocol = u16::from_be_bytes(ETHERTYPE).to_be();
        let fd = container.inside(|| {
            // SAFETY: plain system calls; the address is a whole `sockaddr_ll`.
            unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
                assert!(fd >= 0, "{}", std::io::Error::last_os_error());
                let fd = OwnedFd::from_raw_fd(fd);
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = protocol;
                address.sll_ifindex = libc::if_nametoindex(c"eth0".as_ptr()) as i32;
                let bytes = size_of::<libc::sockaddr_ll>() as u32;
                assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), bytes), 0);
                fd
            }
        });
        for (option, bytes) in [(libc::SO_RCVBUFFORCE, 64 << 20), (libc::SO_SNDBUFFORCE, 16 << 20)] {
            let bytes: i32 = bytes;
            // SAFETY: both options read one int.
            let result =
                unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const bytes).cast(), 4) };
            assert_eq!(result, 0);
        }
        Self(fd)
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty()), Ok(frame.len()));
    }

    /// The next frame, or nothing within `limit`.
    pub(crate) fn recv(&self, limit: Duration) -> Option<Vec<u8>> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap() == 0 {
            return None;
        }
        let mut bytes = vec![0; 70_000];
        let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], rustix::net::RecvFlags::empty()).unwrap();
        bytes.truncate(length);
        Some(bytes)
    }
}

/// A frame of `len` bytes that is like no other.
pub(crate) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9];
    frame.extend(ETHERTYPE);
    frame.extend((0..len.saturating_sub(14)).map(|at| (at ^ (at >> 8) ^ seed.wrapping_mul(31)) as u8));
    frame.truncate(len);
    frame
}

/// What a forwarding thread saw.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) partial: AtomicU64,
    pub(crate) scattered: AtomicU64,
    pub(crate) overrun: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// Processor time of the thread, in nanoseconds; set when it ends.
    pub(crate) busy_ns: AtomicU64,
}

/// Forwards between two ports on a thread of its own, until stopped.
pub(crate) struct Wire {
    stop: Arc<AtomicBool>,
    pub(crate) totals: Arc<Totals>,
    thread: Option<std::thread::JoinHandle<Pool>>,
}

impl Wire {
    pub(crate) fn between(mut pool: Pool, a: &dyn Device, b: &dyn Device) -> Self {
        let (stop, totals) = (Arc::new(AtomicBool::new(false)), Arc::new(Totals::default()));
        let mut rx = [a.open_rx(&mut pool).unwrap(), b.open_rx(&mut pool).unwrap()];
        let mut tx = [b.open_tx(&mut pool).unwrap(), a.open_tx(&mut pool).unwrap()];
        let caps = [b.caps(), a.caps()];
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&totals));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                wait_readable(&rx, Duration::from_millis(20));
                for ((rx, tx), caps) in rx.iter_mut().zip(&mut tx).zip(&caps) {
                    while forward(&mut pool, rx.as_mut(), tx.as_mut(), caps.csum, &counted) == RxStatus::More {}
                }
            }
            let busy = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            counted.busy_ns.store((busy.tv_sec * 1_000_000_000 + busy.tv_nsec) as u64, Ordering::Relaxed);
            rx.iter_mut().for_each(|rx| rx.close(&mut pool));
            tx.iter_mut().for_each(|tx| tx.close(&mut pool));
            pool
        });
        Self { stop, totals, thread: Some(thread) }
    }

    /// Stops it; the accounts must balance. Gives the pool back.
    pub(crate) fn stop(mut self) -> Pool {
        self.stop.store(true, Ordering::Relaxed);
        let pool = self.thread.take().unwrap().join().unwrap();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(get(&self.totals.received), get(&self.totals.sent) + get(&self.totals.dropped));
        pool
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

/// Moves one burst, as the datapath does: checksums are completed for outputs that cannot take them unfinished.
fn forward(pool: &mut Pool, rx: &mut dyn RxQueue, tx: &mut dyn TxQueue, csum: bool, totals: &Totals) -> RxStatus {
    let (mut burst, mut report) = (Burst::new(), RxReport::default());
    let status = rx.recv(pool, &mut burst, 64, 65536, &mut report);
    let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
    for frame in &mut burst {
        add(&totals.scattered, u64::from(!frame.is_linear()));
        if let Csum::Partial { start, offset } = frame.offload.csum {
            add(&totals.partial, 1);
            if !csum {
                assert!(pool.linearize(frame));
                assert!(checksum::complete_partial(frame.data_mut(), start, offset));
                frame.offload.csum = Csum::Valid;
            }
        }
    }
    let sent = send(pool, tx, &mut burst, true);
    add(&totals.received, burst.len() as u64);
    add(&totals.sent, u64::from(sent.sent));
    add(&totals.dropped, sent.drops().map(|(_, count)| u64::from(count)).sum());
    add(&totals.overrun, u64::from(report.overrun));
    add(&totals.rejected, u64::from(report.malformed + report.runt));
    pool.free_all(burst);
    status
}

/// Sends frames, each as a unit.
pub(crate) fn send(pool: &mut Pool, tx: &mut dyn TxQueue, frames: &mut [Frame], sole: bool) -> TxReport {
    let whole = |(at, frame): (usize, &Frame)| Unit {
        frame: at as u16,
        first_piece: 0,
        pieces_count: 0,
        offload: frame.offload,
        sole,
    };
    let units: Vec<_> = frames.iter().enumerate().map(whole).collect();
    let mut report = TxReport::default();
    tx.send(pool, frames, &units, &[], &mut report);
    report
}

/// Waits until a queue has something, and says what poll said of each.
pub(crate) fn wait_readable(queues: &[Box<dyn RxQueue>], limit: Duration) -> Vec<PollFlags> {
    let mut fds: Vec<_> =
        queues.iter().map(|queue| PollFd::from_borrowed_fd(queue.event_fd().unwrap(), PollFlags::IN)).collect();
    poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap();
    fds.iter().map(PollFd::revents).collect()
}

/// A pool as a worker has it.
pub(crate) fn pool() -> Pool {
    Pool::with_chunks(192, 2560).unwrap()
}

/// Everything is home: nothing outstanding, nothing lent.
pub(crate) fn assert_all_home(pool: &mut Pool) {
    assert_eq!((pool.outstanding(), pool.lent()), (0, 0));
    assert_eq!(pool.free_chunks_left(), pool.chunks());
}
