//! Messages as the kernel scatters them, from memory.

use std::net::UdpSocket;

use proptest::prelude::*;

use super::*;
use crate::frame::gso::Segmenter;
use crate::frame::{Csum, Gso, GsoKind};
use crate::tunnel::TunnelEntry;
use crate::wire::layers::Layers;

const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
const PORT: PortId = PortId(9);

/// The segments of a TCP stream of `payload` bytes, `mss` in each, from sequence number `first`.
fn segments(first: u32, payload: usize, mss: usize) -> Vec<Vec<u8>> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((40 + payload as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80]);
    frame.extend(first.to_be_bytes());
    frame.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|at| (at * 7 % 251) as u8));
    let gso = Some(Gso { kind: GsoKind::Tcp4, ecn: false, size: mss as u16 });
    finished(&frame, &Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso })
}

/// What a wire would carry.
fn finished(frame: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    if offload.gso.is_none() {
        return vec![frame.to_vec()];
    }
    let segmenter = Segmenter::new(frame, offload).unwrap();
    let write = |index| {
        let mut out = vec![0; segmenter.segment_bytes_max()];
        let bytes = segmenter.write(index, &mut out);
        out.truncate(bytes);
        out
    };
    (0..segmenter.count()).map(write).collect()
}

fn datagram(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&vxlan::header(vni)[..], frame].concat()
}

/// A receiver, and what it hands on.
struct Bench {
    rx: UdpRx,
    pool: Pool,
    tunnels: TunnelTable,
    report: UnderlayReport,
    arrived: Vec<(Vec<u8>, Offload)>,
}

impl Bench {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let remotes = vec![(REMOTE, PORT)];
        Self {
            rx: UdpRx::new(Arc::new(socket.into()), 4789, Arc::default()),
            pool: Pool::new(256).unwrap(),
            tunnels: TunnelTable::new(&[TunnelEntry { vni: 42, inner_tags: false, remotes }]),
            report: UnderlayReport::default(),
            arrived: Vec::new(),
        }
    }

    /// A message of datagrams of `size` bytes, scattered as `guess` has it; then whatever waits.
    fn land(&mut self, train: &[u8], size: usize, guess: Option<Guess>) {
        let mut frame = self.pool.alloc().unwrap();
        match guess {
            None => frame.area_mut(FRONT_BYTES)[..train.len()].copy_from_slice(train),
            Some(guess) => {
                let mut rest = train;
                for (place, bytes) in guess.parts() {
                    let (part, others) = rest.split_at(bytes.min(rest.len()));
                    match place {
                        Place::Frame(at) => frame.area_mut(FRONT_BYTES)[at..at + part.len()].copy_from_slice(part),
                        Place::Headers(at) => self.rx.landing.of(1)[at..at + part.len()].copy_from_slice(part),
                    }
                    rest = others;
                }
                assert!(rest.is_empty(), "a guess has room for any message");
            }
        }
        let message = Message { bytes: train.len(), size: size.min(train.len()), sender: REMOTE, outer: Ecn::NotEct };
        let mut arrivals = Arrivals::default();
        let Self { rx, pool, tunnels, report, .. } = self;
        rx.land(&mut Call { pool, tunnels, arrivals: &mut arrivals, report }, frame, 1, guess, message);
        loop {
            for (port, frame) in arrivals.drain() {
                assert_eq!(port, PORT);
                self.arrived.push((frame.data().to_vec(), frame.offload));
                self.pool.free(frame);
            }
            if self.rx.pending.is_empty() {
                break;
            }
            let Self { rx, pool, tunnels, report, .. } = self;
            rx.recv(pool, tunnels, &mut arrivals, 64, 1, report);
        }
        assert_eq!(self.pool.outstanding(), 0);
    }

    fn segments_arrived(&self) -> Vec<Vec<u8>> {
        self.arrived.iter().flat_map(|(frame, offload)| finished(frame, offload)).collect()
    }
}

fn train(segments: &[Vec<u8>]) -> (Vec<u8>, usize) {
    let datagrams: Vec<_> = segments.iter().map(|segment| datagram(42, segment)).collect();
    (datagrams.concat(), datagrams[0].len())
}

#[test]
fn a_right_guess_is_a_super_frame_at_once_and_a_wrong_one_is_corrected() {
    let segments = segments(1000, 30_000, 1400);
    let (bytes, size) = train(&segments);
    let mut bench = Bench::new();
    bench.land(&bytes, size, None);
    assert_eq!(bench.arrived.len(), 1, "put together from one piece, too");
    let guess = bench.rx.guess;
    assert_eq!(guess, Some(Guess { size: 8 + 54 + 1400, headers: 8 + 54 }));
    let wrong = [(1000, 62), (1462, 70), (1462, 30), (1463, 62), (1461, 62), (60_000, 100), (320, 8)];
    for guess in wrong.map(|(size, headers)| Guess { size, headers }).into_iter().chain(guess) {
        bench.arrived.clear();
        bench.land(&bytes, size, Some(guess));
        assert_eq!(bench.arrived.len(), 1, "{guess:?}");
        assert_eq!(bench.segments_arrived(), segments, "{guess:?}");
    }
    assert_eq!(bench.report.dropped, 0);
}

#[test]
fn a_run_that_ends_within_the_train_is_followed_by_another() {
    // A gap after the third segment, then seventy small ones: more than a burst has room for.
    let mut segments = segments(1000, 3 * 500, 500);
    segments.extend(self::segments(9000, 61 * 500, 500));
    let (bytes, size) = train(&segments);
    for guess in [None, Guess::new(size, 62), Guess::new(700, 62)] {
        let mut bench = Bench::new();
        bench.land(&bytes, size, guess);
        assert_eq!(bench.arrived.len(), 2, "{guess:?}");
        assert_eq!(bench.segments_arrived(), segments);
    }
}

#[test]
fn what_must_not_pass_is_counted_one_by_one() {
    let segments = segments(1000, 10_000, 1000);
    let datagrams = segments.iter().enumerate().map(|(at, segment)| datagram(if at == 4 { 43 } else { 42 }, segment));
    let bytes = datagrams.collect::<Vec<_>>().concat();
    for guess in [None, Guess::new(1062, 62)] {
        let mut bench = Bench::new();
        bench.land(&bytes, 1062, guess);
        assert_eq!(bench.report.drops[DropReason::UnknownVni as usize], 1);
        assert_eq!((bench.report.dropped, bench.report.bytes), (1, 1062));
        assert_eq!(bench.segments_arrived(), [&segments[..4], &segments[5..]].concat());
    }
}

#[test]
fn more_than_there_is_room_for_waits() {
    // Datagrams that nothing is merged with: 64 fill the arrivals, the others come with the next call.
    let frames: Vec<_> = (0..100).map(|at| [&[2; 12][..], &[8, 6, at], &[0; 40]].concat()).collect();
    let (bytes, size) = train(&frames);
    let mut bench = Bench::new();
    bench.land(&bytes, size, None);
    assert_eq!(bench.segments_arrived(), frames);
}

#[test]
fn every_guess_lays_out_any_message() {
    for (size, headers) in [(264, 8), (1472, 74), (9000, 100), (32_000, 74), (65_535, 74)] {
        let guess = Guess::new(size, headers).unwrap();
        assert_eq!(guess.parts().map(|part| part.1).sum::<usize>(), MESSAGE_BYTES_MAX);
        assert!(guess.parts().count() <= SLICES_MAX);
        let ends = guess.parts().map(|(place, bytes)| match place {
            Place::Frame(at) => at + bytes,
            Place::Headers(at) => at % HEADERS_BYTES_MAX + bytes + MESSAGE_BYTES_MAX - HEADERS_BYTES_MAX,
        });
        assert!(ends.max().unwrap() <= MESSAGE_BYTES_MAX);
    }
    assert_eq!(Guess::new(300, 100), None, "scattering costs more than copying");
    assert_eq!(Guess::new(2000, HEADERS_BYTES_MAX + 1), None);
}

proptest! {
    /// Whatever arrives, as whatever was expected: what is handed on is what was sent, in order.
    #[test]
    fn all_arrive_in_order(
        parts in prop::collection::vec((any::<u16>(), 1..8_usize), 1..8),
        mss in 1..1500_usize,
        guess in prop::option::of((264..3000_usize, 8..160_usize)),
    ) {
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for (first, count) in parts {
            sent.extend(segments(u32::from(first), mss * count, mss));
        }
        sent.truncate(60_000 / (mss + 62));
        prop_assume!(!sent.is_empty());
        let (bytes, size) = train(&sent);
        let mut bench = Bench::new();
        bench.land(&bytes, size, guess.and_then(|(size, headers)| Guess::new(size, headers)));
        let guess = bench.rx.guess;
        bench.land(&bytes, size, guess);
        let arrived = bench.segments_arrived();
        prop_assert_eq!(arrived.len(), 2 * sent.len());
        prop_assert!(arrived == [&sent[..], &sent[..]].concat());
        let is_right = |(frame, offload): &(Vec<u8>, Offload)| {
            offload.gso.is_some() || checksum::is_transport_right(frame, &Layers::parse(frame).unwrap())
        };
        prop_assert!(bench.arrived.iter().all(is_right));
    }
}
