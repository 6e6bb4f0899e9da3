//! Micro-benchmarks of the pure datapath, from memory: no kernel, no threads, no root.
//!
//! `cargo bench -p vswitch-benches --bench datapath` measures with criterion, and first prints a
//! table of packets per second, cycles per packet and allocations per packet of the whole hit path
//! (receive, parse, look up, scatter, egress, send), which it asserts not to allocate.

// Reading the time-stamp counter is unsafe.
#![allow(unsafe_code, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use vswitch::datapath::clock;
use vswitch::datapath::fdb::{Fdb, FdbLimits};
use vswitch::datapath::flow::{Actions, FlowKey, TagOp, Verdict};
use vswitch::datapath::flow_cache::{FlowCache, Hit};
use vswitch::datapath::inline::InlineDatapath;
use vswitch::frame::gro::{Accept, Coalescer};
use vswitch::frame::gso::Segmenter;
use vswitch::frame::{BURST_FRAMES_MAX, Burst, Csum, Gso, GsoKind, Offload, Pool, checksum};
use vswitch::io::Caps;
use vswitch::io::mem::{MemDevice, MemFrame};
use vswitch::snapshot::{BridgeEntry, BridgeId, PortEntry, PortId, PortKind, Snapshot, VlanMode};
use vswitch_benches::allocations::{self, Counting};

#[path = "datapath/flows.rs"]
mod flows;
#[path = "datapath/nat.rs"]
mod nat;

use nat::{Direction, NatBench};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The address of the port that sends.
const SENDER: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 1];

fn mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x02, 0x55, a, b, c, d]
}

/// A UDP packet of `bytes` bytes altogether, checksums right.
fn packet(destination: [u8; 6], bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes];
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&SENDER);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut frame[14..34];
    ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    ip[2..4].copy_from_slice(&(bytes as u16 - 14).to_be_bytes());
    let sum = checksum::of(ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    frame[34..38].copy_from_slice(&[0x10, 0, 0x20, 0]);
    frame[38..40].copy_from_slice(&(bytes as u16 - 34).to_be_bytes());
    frame
}

/// A TCP packet with `payload` bytes of payload from sequence number `seq`.
fn tcp_packet(seq: u32, payload: usize) -> Vec<u8> {
    let mut frame = packet(mac(0), 54 + payload);
    frame[23] = 6;
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame[34..54].fill(0);
    frame[34..38].copy_from_slice(&[0x10, 0, 0x20, 0]);
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    frame
}

const PARTIAL_TCP: Csum = Csum::Partial { start: 34, offset: 16 };

/// A bridge of `ports` ports that knows `macs` addresses behind all ports but the first, which
/// sends frames of `bytes` bytes to all of them.
struct Bench {
    datapath: InlineDatapath,
    sinks: Vec<MemDevice>,
}

impl Bench {
    fn new(ports: usize, macs: u32, template: impl Fn([u8; 6]) -> MemFrame) -> Self {
        let receivers = ports - 1;
        // A stride that is coprime to every size used: neighbours in the burst share nothing.
        let order = (0..macs).map(|number| ((u64::from(number) * 7919) % u64::from(macs)) as u32);
        let frames: Vec<MemFrame> = order.map(|number| template(mac(number))).collect();
        let fdb = Arc::new(Fdb::new(FdbLimits { ageing_s: 300, mac_limit: 1 << 18, port_mac_limit: 1 << 18 }));
        let now_s = clock::now_s();
        fdb.learn(SENDER, 0, PortId(0), now_s);
        for number in 0..macs {
            fdb.learn(mac(number), 0, PortId(1 + (number as usize % receivers) as u16), now_s);
        }
        let mut devices = vec![MemDevice::replaying(Caps::ALL, frames, u64::MAX)];
        devices.extend((0..receivers).map(|_| MemDevice::replaying(Caps::ALL, vec![template(SENDER)], 0)));
        let entry = |(at, device): (usize, &MemDevice)| {
            Some(Arc::new(PortEntry {
                id: PortId(at as u16),
                incarnation: at as u64,
                name: format!("port{at}"),
                bridge: BridgeId(0),
                kind: PortKind::Container,
                group: None,
                learning: true,
                flooding: true,
                vlan: VlanMode::Transparent,
                mtu: 1500,
                ingress_rate_bps: None,
                egress_bucket: None,
                guard: None,
                hairpins: Arc::default(),
                reader: Some(0),
                device: Arc::new(device.clone()),
            }))
        };
        let bridge = BridgeEntry {
            id: BridgeId(0),
            name: "br0".to_owned(),
            fdb,
            icc: true,
            storm_limit: None,
            ports: (0..ports).map(|at| PortId(at as u16)).collect(),
            neighbours: None,
            vlan_aware: false,
            gateway: None,
        };
        let mut datapath = InlineDatapath::new(256).expect("memory");
        datapath.publish(Snapshot {
            ports: devices.iter().enumerate().map(entry).collect(),
            bridges: vec![Some(Arc::new(bridge))],
            underlays: Vec::new(),
            routing: Arc::default(),
        });
        let mut bench = Self { datapath, sinks: devices.split_off(1) };
        // Every flow is resolved, and the burst size has grown to its largest.
        for _ in 0..2 * macs as usize / BURST_FRAMES_MAX + 64 {
            bench.turn();
        }
        bench
    }

    fn plain(ports: usize, macs: u32, bytes: usize) -> Self {
        Self::new(ports, macs, |destination| MemFrame::from(packet(destination, bytes)))
    }

    fn super_frames() -> Self {
        Self::new(2, 1, |destination| {
            let mut bytes = tcp_packet(1, 65_000);
            bytes[..6].copy_from_slice(&destination);
            let offload = Offload { csum: PARTIAL_TCP, gso: Some(Gso { kind: GsoKind::Tcp4, ecn: false, size: 1448 }) };
            MemFrame { bytes, offload }
        })
    }
}

/// A data plane that is turned by hand.
trait Turned {
    /// Moves a burst.
    fn turn(&mut self);
    /// Frames that left.
    fn sent(&self) -> u64;
    /// The data plane.
    fn datapath(&self) -> &InlineDatapath;
}

impl Turned for Bench {
    #[inline]
    fn turn(&mut self) {
        black_box(self.datapath.turn(PortId(0)));
    }

    fn sent(&self) -> u64 {
        self.sinks.iter().map(MemDevice::sent_frames).sum()
    }

    fn datapath(&self) -> &InlineDatapath {
        &self.datapath
    }
}

/// Time stamp counter cycles; on another architecture nanoseconds.
fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reading the counter has no effect.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    clock::now_ns()
}

/// What a packet cost in one run.
struct Cost {
    mpps: f64,
    cycles: f64,
}

/// Many short runs rather than few long ones: on a shared machine half a core may be gone for a second, and what is
/// compared must have been lucky or unlucky together. They add up to seconds, so that what happens once in four
/// seconds to each flow is in some of them.
const RUNS: usize = 15;
/// Time in which caches become what they are in the long run, and which is not measured.
const WARM_UP: Duration = Duration::from_millis(200);
const RUN: Duration = Duration::from_millis(200);

fn turn_for(bench: &mut impl Turned, time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        for _ in 0..64 {
            bench.turn();
        }
    }
}

/// One run.
fn run(bench: &mut impl Turned) -> Cost {
    turn_for(bench, WARM_UP);
    let (sent, started, began) = (bench.sent(), Instant::now(), cycles());
    turn_for(bench, RUN);
    let (took, spent, packets) = (started.elapsed(), cycles() - began, (bench.sent() - sent) as f64);
    Cost { mpps: packets / took.as_secs_f64() / 1e6, cycles: spent as f64 / packets }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs the benches in turn, so that a slower minute of the machine is a slower minute for all of them; prints a line
/// for each, and returns the cycles of each run of each.
fn rows<B: Turned>(benches: &mut [(String, B)]) -> Vec<Vec<f64>> {
    let before: Vec<(u64, u64, u64)> = benches.iter().map(|(_, bench)| counts(bench)).collect();
    let mut costs: Vec<Vec<Cost>> = benches.iter().map(|_| Vec::with_capacity(RUNS)).collect();
    let allocations = allocations::count();
    for _ in 0..RUNS {
        for ((_, bench), costs) in benches.iter_mut().zip(&mut costs) {
            costs.push(run(bench));
        }
    }
    let allocated = allocations::count() - allocations;
    for (((name, bench), costs), before) in benches.iter().zip(&costs).zip(before) {
        let after = counts(bench);
        let (hits, misses) = (after.1 - before.1, after.2 - before.2);
        let mpps = median(costs.iter().map(|cost| cost.mpps));
        let cycles = median(costs.iter().map(|cost| cost.cycles));
        let least = costs.iter().map(|cost| cost.cycles).fold(f64::INFINITY, f64::min);
        let hits = hits as f64 * 100.0 / (hits + misses).max(1) as f64;
        println!(
            "{name:<46} {mpps:>9.2} {cycles:>13.1} {least:>8.1} {:>11.3} {hits:>7.1}%",
            allocated as f64 / after.0 as f64
        );
        assert!(allocated == 0, "{name}: the hit path allocates");
        assert_eq!(bench.datapath().totals().unexplained(), 0, "{name}: a frame is unaccounted for");
        assert_eq!(bench.datapath().worker_counters().frames_outstanding, 0, "{name}: a frame leaked");
    }
    costs.into_iter().map(|costs| costs.into_iter().map(|cost| cost.cycles).collect()).collect()
}

/// Packets sent, and those that a cache decided or did not.
fn counts(bench: &impl Turned) -> (u64, u64, u64) {
    let counters = bench.datapath().worker_counters();
    (bench.sent(), counters.cache_hits, counters.cache_misses)
}

/// Above what [`rows`] prints: medians, and the least cycles of all runs.
fn heading() {
    println!("{:<46} {:>9} {:>13} {:>8} {:>11} {:>8}", "", "Mpps", "cycles/packet", "least", "allocs/pkt", "hits");
}

fn row(name: &str, bench: impl Turned) {
    rows(&mut [(name.to_owned(), bench)]);
}

fn table() {
    println!("memory to memory, one core, whole hit path (receive, parse, look up, scatter, egress, send)");
    heading();
    for ports in [2, 10, 100, 1000] {
        row(&format!("64 B, {ports} ports, 1 MAC each"), Bench::plain(ports, ports as u32 - 1, 64));
    }
    for macs in [10, 1000, 10_000, 100_000] {
        row(&format!("64 B, 2 ports, {macs} MACs"), Bench::plain(2, macs, 64));
    }
    row("1514 B, 2 ports", Bench::plain(2, 1, 1514));
    row("65 KB super-frames, 2 ports", Bench::super_frames());
}

/// The gateway, with few connections and with very many. What is compared runs in turn.
fn nat_table(only: Option<&str>) {
    heading();
    let (only, active) = only.map_or((None, None), |only| match only.split_once('/') {
        Some((direction, active)) => (Some(direction), active.parse().ok()),
        None => (Some(only), None),
    });
    for direction in Direction::ALL.into_iter().filter(|direction| only.is_none_or(|only| only == direction.name())) {
        let sizes = [(1000, 1000), (10_000, 10_000), (100_000, 100_000), (1_000_000, 1_000_000), (1_000_000, 1000)];
        let sizes = sizes.into_iter().filter(|sizes| active.is_none_or(|active| *sizes == (active, active)));
        let mut benches: Vec<(String, NatBench)> = Vec::new();
        for (connections, active) in sizes {
            let name = match connections == active {
                true => format!("NAT 64 B, {}, {connections}", direction.name()),
                false => format!("NAT 64 B, {}, {active} active of {connections}", direction.name()),
            };
            benches.push((name, NatBench::new(direction, connections, active)));
        }
        let cycles = rows(&mut benches);
        let rise = |of: &[f64]| median(of.iter().zip(&cycles[0]).map(|(more, few)| (more / few - 1.0) * 100.0));
        let rises: Vec<String> = cycles[1..].iter().map(|of| format!("{:+.1} %", rise(of))).collect();
        println!("{:<46} {:>9}", "    cycles per packet against 1000", rises.join(", "));
    }
}

fn stages(c: &mut Criterion) {
    let mut pool = Pool::new(64).expect("memory");
    let mut burst = Burst::new();
    for number in 0..64 {
        let mut frame = pool.alloc().expect("a frame");
        frame.copy_from(&packet(mac(number), 64));
        burst.push(frame);
    }
    let mut group = c.benchmark_group("stage");
    group.throughput(Throughput::Elements(64));
    group.bench_function("parse", |b| {
        b.iter(|| {
            for frame in &mut burst {
                let _ = black_box(FlowKey::parse(frame, PortId(1)));
            }
        });
    });
    for flows in [64u32, 100_000] {
        let mut cache = FlowCache::new(7);
        let keys: Vec<FlowKey> = (0..flows)
            .map(|number| {
                burst[0].copy_from(&packet(mac(number), 64));
                FlowKey::parse(&mut burst[0], PortId(1)).expect("a packet")
            })
            .collect();
        let hit = Hit { actions: Actions::pack(Verdict::Forward(PortId(2), TagOp::Keep)), stamp: 0 };
        for &key in &keys {
            cache.insert(cache.hash(key), key, 1, hit);
        }
        let mut at = 0;
        group.bench_function(BenchmarkId::new("lookup", flows), |b| {
            b.iter(|| {
                at = (at + 64) % (keys.len() - 63);
                for &key in &keys[at..at + 64] {
                    cache.prefetch(cache.hash(key));
                }
                for &key in &keys[at..at + 64] {
                    black_box(cache.lookup(cache.hash(key), key, 1));
                }
            });
        });
    }
    let fdb = Fdb::new(FdbLimits::default());
    for number in 0..100_000 {
        fdb.learn(mac(number), 0, PortId(1 + (number / 10_000) as u16), 1);
    }
    let mut number = 0;
    group.bench_function("resolve (miss, 100000 MACs)", |b| {
        b.iter(|| {
            for _ in 0..64 {
                number = (number + 7919) % 100_000;
                let port = PortId(1 + (number / 10_000) as u16);
                black_box(fdb.resolve(mac(number), mac((number + 50_000) % 100_000), 0, port, 1));
            }
        });
    });
    group.finish();
    pool.free_all(burst.drain(..));
}

fn switching(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch");
    group.throughput(Throughput::Elements(64));
    for (ports, macs) in [(2, 1), (1000, 999), (2, 100_000)] {
        let mut bench = Bench::plain(ports, macs, 64);
        group.bench_function(format!("64 B, {ports} ports, {macs} MACs"), |b| b.iter(|| bench.turn()));
    }
    for direction in Direction::ALL {
        let mut bench = NatBench::new(direction, 10_000, 10_000);
        group.bench_function(format!("NAT, {}, 10000 connections", direction.name()), |b| b.iter(|| bench.turn()));
    }
    group.throughput(Throughput::Bytes(65_054));
    let mut bench = Bench::super_frames();
    group.bench_function("65 KB super-frame", |b| b.iter(|| bench.turn()));
    group.finish();
}

fn offloads(c: &mut Criterion) {
    let mut group = c.benchmark_group("offload");
    let bytes = tcp_packet(1, 65_000);
    let offload = Offload { csum: PARTIAL_TCP, gso: Some(Gso { kind: GsoKind::Tcp4, ecn: false, size: 1448 }) };
    let mut out = vec![0; 2048];
    group.throughput(Throughput::Bytes(65_000));
    group.bench_function("segment 65 KB into 1448", |b| {
        b.iter(|| {
            let segmenter = Segmenter::new(&bytes, &offload).expect("a super-frame");
            for index in 0..segmenter.count() {
                black_box(segmenter.write(index, &mut out));
            }
        });
    });
    let mut pool = Pool::new(64).expect("memory");
    let mut frames = Burst::new();
    for number in 0..44u32 {
        let mut frame = pool.alloc().expect("a frame");
        frame.copy_from(&tcp_packet(1 + number * 1448, 1448));
        frame.offload.csum = PARTIAL_TCP;
        frames.push(frame);
    }
    let mut coalescer = Coalescer::default();
    group.throughput(Throughput::Bytes(44 * 1448));
    group.bench_function("coalesce 44 segments", |b| {
        b.iter(|| {
            coalescer.begin(Accept::ALL);
            for index in 0..44 {
                black_box(coalescer.push(&frames, index));
            }
        });
    });
    group.finish();
    pool.free_all(frames.drain(..));
}

criterion_group!(benches, stages, switching, offloads);

fn main() {
    // `cargo test --benches` only wants to see that it runs.
    let args: Vec<String> = std::env::args().collect();
    if !args.iter().any(|argument| argument == "--test") {
        // `VSWITCH_BENCH_ONLY=nat` leaves out what has nothing to do with the gateway, `nat/published` all but that
        // direction of it, and `nat/published/1000000` all but one line, for a profiler.
        let only = std::env::var("VSWITCH_BENCH_ONLY").unwrap_or_default();
        if !only.starts_with("nat") {
            table();
        }
        nat_table(only.strip_prefix("nat/"));
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
