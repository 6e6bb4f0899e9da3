//! A device that sends the packets of very many flows, without reading memory for them.
//!
//! A network interface leaves its packets in the cache of the CPU. Frames that are replayed from memory are misses of the
//! generator's, not of the switch's, and so are lists of flows: sixteen bytes for each of a million cost as much as the
//! switch's own tables do. Here a flow is a number, and what it sends is computed from that: addresses and ports by the
//! caller's function, checksums from their sums. The first time each flow sends in the order of the numbers; from then
//! on they are drawn at random, so that no table in the switch is walked in the order of its insertion.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use vswitch::frame::{Burst, Frame, Offload, Pool, checksum};
use vswitch::io::{Caps, Device, Piece, RxQueue, RxReport, RxStatus, TxQueue, TxReport, Unit};

/// The bytes of a frame.
const FRAME_BYTES: usize = 64;
/// Where its IPv4 header starts, and where its UDP header does.
const IP: usize = 14;
const UDP: usize = 34;

/// Source and destination of a UDP packet, as they are in its headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    addresses: [u8; 8],
    ports: [u8; 4],
}

impl Flow {
    #[inline]
    pub(crate) fn new(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (source.0.octets(), destination.0.octets());
        let ([i, j], [k, l]) = (source.1.to_be_bytes(), destination.1.to_be_bytes());
        Self { addresses: [a, b, c, d, e, f, g, h], ports: [i, j, k, l] }
    }
}

/// What all packets of a device have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template {
    frame: [u8; FRAME_BYTES],
    /// Of the IPv4 header without addresses, and of the pseudo header and the datagram without addresses and ports.
    sums: [u32; 2],
}

impl Template {
    pub(crate) fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let mut frame = [0; FRAME_BYTES];
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[IP..24].copy_from_slice(&[0x45, 0, 0, (FRAME_BYTES - IP) as u8, 0, 0, 0x40, 0, 64, 17]);
        frame[38..40].copy_from_slice(&((FRAME_BYTES - UDP) as u16).to_be_bytes());
        let pseudo_header = checksum::pseudo_header(&[0; 8], 17, FRAME_BYTES - UDP);
        let datagram = pseudo_header + checksum::sum(&frame[UDP..]);
        let sums = [checksum::sum(&frame[IP..UDP]), datagram].map(|sum| u32::from(checksum::fold(sum)));
        Self { frame, sums }
    }

    #[inline]
    fn frame(&self, flow: Flow) -> [u8; FRAME_BYTES] {
        let mut frame = self.frame;
        let [a, b, c, d, e, f, g, h] = flow.addresses;
        let [i, j, k, l] = flow.ports;
        let word = |high, low| u32::from(u16::from_be_bytes([high, low]));
        let addresses = word(a, b) + word(c, d) + word(e, f) + word(g, h);
        let sums = [self.sums[0] + addresses, self.sums[1] + addresses + word(i, j) + word(k, l)];
        let [header, datagram] = sums.map(|sum| !checksum::fold(sum));
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[26..34].copy_from_slice(&flow.addresses);
        frame[34..38].copy_from_slice(&flow.ports);
        frame[40..42].copy_from_slice(&datagram.to_be_bytes());
        frame
    }
}

/// What a flow's number means.
pub(crate) type FlowOf = Box<dyn Fn(u32) -> Flow + Send + Sync>;

/// See the module's documentation. Clones are the same device.
#[derive(Debug, Clone)]
pub(crate) struct FlowDevice(Arc<Shared>);

struct Shared {
    template: Template,
    /// How many flows there are, and what they are.
    flows: OnceLock<(u32, FlowOf)>,
    sent: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl FlowDevice {
    pub(crate) fn new(template: Template) -> Self {
        Self(Arc::new(Shared { template, flows: OnceLock::new(), sent: AtomicU64::new(0) }))
    }

    /// What it sends from now on; before that, nothing.
    pub(crate) fn send(&self, count: u32, flow: FlowOf) {
        let frame = self.0.template.frame(flow(0));
        let (header, datagram) = frame[IP..].split_at(UDP - IP);
        let pseudo_header = checksum::pseudo_header(&header[12..], 17, datagram.len());
        let sums = [checksum::sum(header), pseudo_header + checksum::sum(datagram)];
        assert_eq!(sums.map(checksum::fold), [0xffff; 2], "checksums are right");
        assert!(count != 0 && self.0.flows.set((count, flow)).is_ok(), "flows are given once");
    }

    /// Frames that were sent to it.
    pub(crate) fn sent_frames(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }
}

impl Device for FlowDevice {
    fn caps(&self) -> Caps {
        Caps::ALL
    }

    fn open_rx(&self, _pool: &mut Pool) -> std::io::Result<Box<dyn RxQueue>> {
        Ok(Box::new(FlowRx { shared: Arc::clone(&self.0), draw: Draw { first: 0, random: 1 } }))
    }

    fn open_tx(&self, _pool: &mut Pool) -> std::io::Result<Box<dyn TxQueue>> {
        Ok(Box::new(FlowTx(Arc::clone(&self.0))))
    }
}

struct FlowRx {
    shared: Arc<Shared>,
    draw: Draw,
}

/// Which flow sends next.
#[derive(Debug)]
struct Draw {
    /// The next flow that sends for the first time.
    first: u32,
    /// The state of the random numbers: Knuth's MMIX, of which the upper half is used.
    random: u64,
}

impl Draw {
    #[inline]
    fn next(&mut self, count: u32) -> u32 {
        if self.first < count {
            self.first += 1;
            return self.first - 1;
        }
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((self.random >> 32) * u64::from(count)) >> 32) as u32
    }
}

impl RxQueue for FlowRx {
    fn recv(
        &mut self,
        pool: &mut Pool,
        burst: &mut Burst,
        frames_max: usize,
        bytes_max: usize,
        _report: &mut RxReport,
    ) -> RxStatus {
        let Shared { template, flows, .. } = &*self.shared;
        let Some((count, flow)) = flows.get() else { return RxStatus::Drained };
        for _ in 0..frames_max.min(burst.remaining_capacity()).min(bytes_max.div_ceil(FRAME_BYTES)) {
            let Some(mut slot) = pool.alloc() else { break };
            slot.copy_from(&template.frame(flow(self.draw.next(*count))));
            slot.offload = Offload::NONE;
            burst.push(slot);
        }
        RxStatus::More
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct FlowTx(Arc<Shared>);

impl TxQueue for FlowTx {
    fn send(&mut self, _: &mut Pool, frames: &mut [Frame], units: &[Unit], _: &[Piece], report: &mut TxReport) {
        report.sent += units.len() as u32;
        report.bytes += units.iter().map(|unit| frames[usize::from(unit.frame)].len() as u64).sum::<u64>();
        self.0.sent.fetch_add(units.len() as u64, Ordering::Relaxed);
    }
}
