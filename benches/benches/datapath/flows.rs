//! A device that sends the packets of very many flows, without reading as much memory as they have headers.
//!
//! Replaying a million stored frames measures the generator's misses of the CPU's caches. Here a flow is 16 bytes, read
//! one after the other, that are written into a template, and those of the next burst are asked for in advance: a network
//! interface, too, leaves packets in the cache. The first time each flow sends in the order in which they were
//! given; from then on in a random one, so that no table in the switch is walked in the order of its insertion.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use vswitch::frame::{Burst, Frame, Offload, Pool, checksum};
use vswitch::io::{Caps, Device, Piece, RxQueue, RxReport, RxStatus, TxQueue, TxReport, Unit};

/// The bytes of a frame.
const FRAME_BYTES: usize = 64;
/// The flows of a cache line.
const LINE_FLOWS: usize = 64 / size_of::<Flow>();

/// Source and destination of a UDP packet, and both of its checksums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    addresses: [u8; 8],
    ports: [u8; 4],
    checksums: [u16; 2],
}

impl Flow {
    pub(crate) fn new(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), template: &Template) -> Self {
        let mut addresses = [0; 8];
        addresses[..4].copy_from_slice(&source.0.octets());
        addresses[4..].copy_from_slice(&destination.0.octets());
        let mut ports = [0; 4];
        ports[..2].copy_from_slice(&source.1.to_be_bytes());
        ports[2..].copy_from_slice(&destination.1.to_be_bytes());
        let mut flow = Self { addresses, ports, checksums: [0; 2] };
        let frame = flow.frame(template);
        let udp = &frame[34..];
        let pseudo_header = checksum::pseudo_header(&addresses, 17, udp.len());
        flow.checksums = [checksum::of(&frame[14..34]), !checksum::fold(pseudo_header + checksum::sum(udp))];
        flow
    }

    #[inline]
    fn frame(&self, template: &Template) -> [u8; FRAME_BYTES] {
        let mut frame = template.0;
        frame[24..26].copy_from_slice(&self.checksums[0].to_be_bytes());
        frame[26..34].copy_from_slice(&self.addresses);
        frame[34..38].copy_from_slice(&self.ports);
        frame[40..42].copy_from_slice(&self.checksums[1].to_be_bytes());
        frame
    }
}

/// What all packets of a device have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template([u8; FRAME_BYTES]);

impl Template {
    pub(crate) fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let mut frame = [0; FRAME_BYTES];
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14..24].copy_from_slice(&[0x45, 0, 0, (FRAME_BYTES - 14) as u8, 0, 0, 0x40, 0, 64, 17]);
        frame[38..40].copy_from_slice(&((FRAME_BYTES - 34) as u16).to_be_bytes());
        Self(frame)
    }
}

/// See the module's documentation. Clones are the same device.
#[derive(Debug, Clone)]
pub(crate) struct FlowDevice(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    template: Template,
    flows: OnceLock<Vec<Flow>>,
    shuffled: OnceLock<Vec<Flow>>,
    sent: AtomicU64,
}

impl FlowDevice {
    pub(crate) fn new(template: Template) -> Self {
        let shared = Shared { template, flows: OnceLock::new(), shuffled: OnceLock::new(), sent: AtomicU64::new(0) };
        Self(Arc::new(shared))
    }

    /// What it sends from now on; before that, nothing.
    pub(crate) fn send(&self, flows: Vec<Flow>) {
        assert!(!flows.is_empty());
        let mut shuffled = flows.clone();
        // Fisher and Yates, with a generator of no pretension (Knuth's MMIX).
        let mut state = 1u64;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(at, (state >> 33) as usize % (at + 1));
        }
        self.0.shuffled.set(shuffled).expect("flows are given once");
        self.0.flows.set(flows).expect("flows are given once");
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
        Ok(Box::new(FlowRx { shared: Arc::clone(&self.0), next: 0, is_shuffled: false }))
    }

    fn open_tx(&self, _pool: &mut Pool) -> std::io::Result<Box<dyn TxQueue>> {
        Ok(Box::new(FlowTx(Arc::clone(&self.0))))
    }
}

struct FlowRx {
    shared: Arc<Shared>,
    next: usize,
    is_shuffled: bool,
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
        let list = if self.is_shuffled { &self.shared.shuffled } else { &self.shared.flows };
        let Some(flows) = list.get() else { return RxStatus::Drained };
        let count = frames_max.min(burst.remaining_capacity()).min(bytes_max.div_ceil(FRAME_BYTES));
        for _ in 0..count {
            let Some(mut slot) = pool.alloc() else { break };
            slot.copy_from(&flows[self.next].frame(&self.shared.template));
            slot.offload = Offload::NONE;
            burst.push(slot);
            self.next += 1;
            if self.next == flows.len() {
                (self.next, self.is_shuffled) = (0, true);
                break;
            }
        }
        let end = flows.len().min(self.next + count);
        for line in flows[self.next..end].iter().step_by(LINE_FLOWS) {
            prefetch(line);
        }
        RxStatus::More
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Asks the CPU to have a flow ready soon.
#[inline]
fn prefetch(flow: &Flow) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on the cache, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(flow).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = flow;
}

struct FlowTx(Arc<Shared>);

impl TxQueue for FlowTx {
    fn send(&mut self, _: &mut Pool, frames: &mut [Frame], units: &[Unit], _: &[Piece], report: &mut TxReport) {
        report.sent += units.len() as u32;
        report.bytes += units.iter().map(|unit| frames[usize::from(unit.frame)].len() as u64).sum::<u64>();
        self.0.sent.fetch_add(units.len() as u64, Ordering::Relaxed);
    }
}
