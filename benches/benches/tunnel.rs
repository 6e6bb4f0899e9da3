//! Micro-benchmarks of tunnels: encapsulation and decapsulation from memory, no kernel, no root.
//!
//! `cargo bench -p vswitch-benches --bench tunnel`. What the pure functions cost per packet, and per
//! super-frame of 64 KB that is cut into a train or put together from one; and that they do not allocate.

#![allow(missing_docs)]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use vswitch::frame::gso::Segmenter;
use vswitch::frame::{Csum, Gso, GsoKind, Offload, Pool, checksum};
use vswitch::snapshot::PortId;
use vswitch::tunnel::ecn::{self, Ecn};
use vswitch::tunnel::outer::{self, Template};
use vswitch::tunnel::train::Run;
use vswitch::tunnel::{RemoteConfig, TunnelEntry, TunnelTable, decap, inner};
use vswitch::wire::vxlan;
use vswitch_benches::allocations::{self, Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const VNI: u32 = 42;
/// Of TCP with timestamps in a tunnel with an MTU of 1450.
const MSS: u16 = 1398;
const SUPER_FRAME_PAYLOAD: usize = 65_160;

fn local() -> IpAddr {
    IpAddr::from([198, 18, 0, 1])
}

fn remote() -> IpAddr {
    IpAddr::from([198, 18, 0, 2])
}

fn tunnels() -> TunnelTable {
    let remotes = (1..=100).map(|host| (IpAddr::from([198, 18, 0, host]), PortId(u16::from(host)))).collect();
    TunnelTable::new(&[TunnelEntry { vni: VNI, inner_tags: false, remotes }])
}

/// TCP with timestamps over IPv4, checksum partial.
fn tcp_frame(payload: usize) -> (Vec<u8>, Offload) {
    let mut frame = vec![0x02, 0x42, 10, 0, 0, 2, 0x02, 0x42, 10, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((52 + payload as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    let pseudo = checksum::fold(checksum::pseudo_header(&frame[26..34], 6, 32 + payload));
    frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
    frame.extend((0..payload).map(|at| (at % 251) as u8));
    let gso = (payload > usize::from(MSS)).then_some(Gso { kind: GsoKind::Tcp4, ecn: false, size: MSS });
    (frame, Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso })
}

/// One packet: what is looked at, written, checked.
fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tunnel/packet");
    group.throughput(Throughput::Elements(1));
    let template = Template::new(RemoteConfig::new(VNI, remote()), local(), ([2; 6], [4; 6])).expect("one family");
    let tunnels = tunnels();
    let mut pool = Pool::new(1).expect("address space");
    for payload in [0, 1398] {
        let (bytes, _) = tcp_frame(payload);
        let mut frame = pool.alloc().expect("the only one");
        frame.copy_from(&bytes);
        group.bench_function(BenchmarkId::new("examine", bytes.len()), |bencher| {
            bencher.iter(|| inner::examine(black_box(&bytes)));
        });
        group.bench_function(BenchmarkId::new("encapsulate", bytes.len()), |bencher| {
            bencher.iter(|| {
                let inner = template.encapsulate(&mut frame);
                frame.pull_front(template.headers_bytes());
                inner
            });
        });
        template.encapsulate(&mut frame).expect("it fits");
        let outer = frame.data().to_vec();
        group.bench_function(BenchmarkId::new("decapsulate", bytes.len()), |bencher| {
            bencher.iter(|| {
                let headers = outer::decapsulate(black_box(&outer), Csum::Unknown).expect("it is right");
                let (port, frame) =
                    decap::check(&outer[headers.payload], headers.sender, headers.port, &tunnels).expect("it is known");
                (port, checksum::detect_partial(frame))
            });
        });
        let mut copy = bytes.clone();
        group.bench_function(BenchmarkId::new("mark", bytes.len()), |bencher| {
            bencher.iter(|| ecn::decapsulate(black_box(&mut copy), Ecn::Ect1));
        });
        pool.free(frame);
    }
    group.finish();
}

/// A super-frame: cut into a train's headers, and put together again.
fn trains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tunnel/train");
    group.throughput(Throughput::Bytes(SUPER_FRAME_PAYLOAD as u64));
    let (frame, offload) = tcp_frame(SUPER_FRAME_PAYLOAD);
    let mut scratch = vec![0; 256];
    group.bench_function("cut", |bencher| {
        bencher.iter(|| {
            let segmenter = Segmenter::new(black_box(&frame), &offload).expect("a super-frame");
            for index in 0..segmenter.count() {
                scratch[..8].copy_from_slice(&vxlan::header(VNI));
                black_box(segmenter.write_headers(index, &mut scratch[8..]));
            }
        });
    });
    let segmenter = Segmenter::new(&frame, &offload).expect("a super-frame");
    let headers_bytes = segmenter.headers_bytes();
    // As the kernel scatters it: the first segment whole, further payloads behind it, headers apart.
    let mut whole = vec![0; segmenter.segment_bytes_max()];
    segmenter.write(0, &mut whole);
    let mut headers = vec![vec![0; headers_bytes]; segmenter.count()];
    for (index, headers) in headers.iter_mut().enumerate().skip(1) {
        let (_, payload) = segmenter.write_headers(index, headers).expect("a segment");
        whole.extend_from_slice(payload);
    }
    let pristine = whole[..headers_bytes].to_vec();
    group.bench_function("put together", |bencher| {
        bencher.iter(|| {
            whole[..headers_bytes].copy_from_slice(&pristine);
            let mut run = Run::open(&whole[..headers_bytes + usize::from(MSS)]).expect("it may be continued");
            let mut at = headers_bytes + usize::from(MSS);
            for headers in &headers[1..] {
                let end = (at + usize::from(MSS)).min(whole.len());
                assert!(run.take(&whole, headers, &whole[at..end]));
                at = end;
            }
            run.close(&mut whole)
        });
    });
    group.finish();
}

/// The same once more, counting allocations.
fn assert_no_allocations() {
    let (frame, offload) = tcp_frame(SUPER_FRAME_PAYLOAD);
    let (tunnels, mut scratch) = (tunnels(), [0; 256]);
    let packet = [&vxlan::header(VNI)[..], &frame[..200]].concat();
    let before = allocations::count();
    let segmenter = Segmenter::new(&frame, &offload).expect("a super-frame");
    for index in 0..segmenter.count() {
        black_box(segmenter.write_headers(index, &mut scratch));
    }
    let _ = black_box(decap::check(&packet, remote(), vxlan::PORT, &tunnels));
    let allocated = allocations::count() - before;
    assert_eq!(allocated, 0, "tunnels must not allocate per packet");
}

criterion_group!(benches, packets, trains);

fn main() {
    assert_no_allocations();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
