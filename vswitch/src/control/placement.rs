//! Which worker reads which port: pure decisions, from samples of what the workers do.
//!
//! A port is read by exactly one worker, which keeps the order of its flows without any lock. As
//! few workers as can do the work is also the fastest: a packet then never changes core inside of
//! the switch, and the other cores belong to the applications. Measured on two cores, with two
//! readers against one, as ratios to the kernel's bridge: one TCP stream 0.84 against 0.90, new
//! connections 0.82 against 0.86, round trips' p99 1.06 against 0.85 (less is better there). So
//! every port begins at the first worker, and ports *spread* to another one only while a worker has
//! more work than a core can do, and *gather* again when the work of two fits one easily.
//!
//! Both look at several samples in a row, and the thresholds lie far apart: what was spread from
//! one full worker is about 45 % for each of two, and gathers only below 40 % for both together.
//! After a move the samples begin anew, which leaves at least [`HOT_SAMPLES`] of them, a second,
//! until the next.

use std::collections::HashMap;
use std::time::Duration;

use crate::datapath::{PortCounters, WorkerCounters};
use crate::snapshot::PortId;

/// The time between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// A worker that is busier than this has too much to do, in percent of a core.
const HOT_PERCENT: u32 = 85;
/// A worker that is less busy than this takes ports of a hot one; two that are so together gather.
const ROOM_PERCENT: u32 = 40;
/// For how many samples a worker is hot before its ports spread.
pub const HOT_SAMPLES: usize = 4;
/// For how many samples two workers have little to do before their ports gather.
const QUIET_SAMPLES: usize = 8;
/// The most ports that are moved at one time, because each waits for the workers.
pub const MOVED_MAX: usize = 64;
/// What is moved is at least one part in so many of what its worker receives: less does not relieve
/// it, and the acknowledgements of one bulk stream had better stay on the stream's core.
const MOVED_SHARE_MIN: u64 = 4;
/// A frame costs about as much as this many bytes.
const BYTES_PER_FRAME: u64 = 16_384;

/// The worker that reads a new port, out of `workers`; none where there is no worker. A port whose
/// device has a `home` is read there.
#[must_use]
pub fn reader_of_new_port(workers: usize, home: Option<u16>) -> Option<u16> {
    home.or((workers > 0).then_some(0))
}

/// The worker that all AF_XDP devices of a new bridge belong to for good, out of `workers`: they
/// share its memory, so that frames between them are not copied. Bridges take turns where there
/// are more workers than the one that reads new ports and the one that takes over what is too much for it.
#[must_use]
pub fn home_of_new_bridge(workers: usize, bridge: usize) -> u16 {
    let homes = if workers > 2 { workers } else { 1 };
    u16::try_from(bridge % homes).unwrap_or(0)
}

/// What a worker did during one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Time spent serving, in percent.
    pub busy_percent: u32,
    /// Ports that it reads.
    pub ports: u64,
}

impl WorkerLoad {
    /// What the worker did between two readings of its counters.
    #[must_use]
    pub fn between(before: &WorkerCounters, after: &WorkerCounters, elapsed: Duration) -> Self {
        let busy = u128::from(after.busy_ns.saturating_sub(before.busy_ns));
        // Busy time is counted when it ends: who has served without any end was busy throughout.
        let endless = busy == 0 && after.bursts != before.bursts;
        let percent = if endless { 100 } else { (busy * 100 / elapsed.as_nanos().max(1)).min(100) };
        Self { busy_percent: u32::try_from(percent).unwrap_or(100), ports: after.ports }
    }
}

/// Ports should move between these workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The worker that gives.
    pub from: u16,
    /// The worker that takes.
    pub to: u16,
}

/// The last samples, the newest at the end; each has the same workers.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Vec<WorkerLoad>>);

impl Samples {
    /// Adds the newest sample.
    pub fn push(&mut self, sample: Vec<WorkerLoad>) {
        if self.0.len() == QUIET_SAMPLES {
            self.0.remove(0);
        }
        self.0.push(sample);
    }

    /// Begins anew, because ports have moved.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The last `count` samples, if there are so many.
    fn last(&self, count: usize) -> Option<&[Vec<WorkerLoad>]> {
        self.0.len().checked_sub(count).map(|start| &self.0[start..])
    }

    /// Whether the newest sample alone asks for [`Samples::spread`].
    #[must_use]
    pub fn may_spread(&self) -> bool {
        self.spread_over(1).is_some()
    }

    /// The busiest worker is hot, has more than one port, and another one has room.
    #[must_use]
    pub fn spread(&self) -> Option<Move> {
        self.spread_over(HOT_SAMPLES)
    }

    fn spread_over(&self, samples: usize) -> Option<Move> {
        let samples = self.last(samples)?;
        let now = samples.last()?;
        // The lowest of those that are equal.
        let from = (0..now.len()).rev().max_by_key(|&worker| now[worker].busy_percent)?;
        let to = (0..now.len()).filter(|&worker| worker != from).min_by_key(|&worker| now[worker].busy_percent)?;
        let hot = samples.iter().all(|sample| sample[from].busy_percent > HOT_PERCENT);
        let wanted = hot && now[from].ports > 1 && now[to].busy_percent < ROOM_PERCENT;
        wanted.then_some(Move { from: u16::try_from(from).ok()?, to: u16::try_from(to).ok()? })
    }

    /// Two workers have had so little to do that one is enough: the lower one.
    #[must_use]
    pub fn gather(&self) -> Option<Move> {
        let samples = self.last(QUIET_SAMPLES)?;
        let now = samples.last()?;
        let quiet = |a: usize, b: usize| {
            samples.iter().all(|sample| sample[a].busy_percent + sample[b].busy_percent < ROOM_PERCENT)
        };
        let mut pairs = (0..now.len()).flat_map(|to| (to + 1..now.len()).map(move |from| (from, to)));
        let (from, to) = pairs.find(|&(from, to)| now[from].ports > 0 && quiet(from, to))?;
        Some(Move { from: u16::try_from(from).ok()?, to: u16::try_from(to).ok()? })
    }
}

/// A port that ever was: its id and incarnation.
pub type PortKey = (PortId, u64);

/// A port, who reads it, and what it received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortLoad {
    /// The port.
    pub port: PortKey,
    /// The worker that reads it.
    pub reader: u16,
    /// What it received, since it was made or since an earlier reading.
    pub weight: u64,
    /// Whether it stays with its reader, which is its device's home.
    pub pinned: bool,
}

impl PortLoad {
    /// What a port with these counters, one of each worker, received since it was made.
    #[must_use]
    pub fn new(port: PortKey, reader: u16, pinned: bool, counters: &[PortCounters]) -> Self {
        let received = |counters: &PortCounters| counters.rx_frames + counters.rx_bytes / BYTES_PER_FRAME;
        Self { port, reader, weight: counters.iter().map(received).sum(), pinned }
    }
}

/// What ports received between two readings; a port that is new has no weight yet.
#[must_use]
pub fn received_between(before: &[PortLoad], after: &[PortLoad]) -> Vec<PortLoad> {
    let before: HashMap<PortKey, u64> = before.iter().map(|load| (load.port, load.weight)).collect();
    let since = |load: &PortLoad| load.weight.saturating_sub(*before.get(&load.port).unwrap_or(&load.weight));
    after.iter().map(|load| PortLoad { weight: since(load), ..*load }).collect()
}

/// The ports to move so that both workers come nearest to receiving the same; the heaviest stays
/// where it is, and with it the order and the caches of what is most. Pinned ones stay, too.
#[must_use]
pub fn ports_to_spread(loads: &[PortLoad], Move { from, to }: Move) -> Vec<PortKey> {
    let of = |worker: u16| loads.iter().filter(move |load| load.reader == worker && load.weight > 0);
    let total = |worker: u16| of(worker).map(|load| load.weight).sum::<u64>();
    let mut ports: Vec<_> = of(from).collect();
    ports.sort_unstable_by_key(|load| (std::cmp::Reverse(load.weight), load.port));
    let mut gap = i128::from(total(from)) - i128::from(total(to));
    let mut moved = 0;
    let mut chosen = Vec::new();
    for load in ports.into_iter().skip(1).filter(|load| !load.pinned) {
        // Moving a port takes its weight from one side and adds it to the other.
        let then = gap - 2 * i128::from(load.weight);
        if chosen.len() < MOVED_MAX && then.abs() < gap.abs() {
            gap = then;
            moved += load.weight;
            chosen.push(load.port);
        }
    }
    let worthwhile = chosen.len() == MOVED_MAX || moved * MOVED_SHARE_MIN >= total(from);
    if worthwhile { chosen } else { Vec::new() }
}

/// The ports to move so that `from` comes to rest.
#[must_use]
pub fn ports_to_gather(loads: &[PortLoad], Move { from, .. }: Move) -> Vec<PortKey> {
    loads.iter().filter(|load| load.reader == from && !load.pinned).map(|load| load.port).take(MOVED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[Vec<u32>]) -> Samples {
        let mut samples = Samples::default();
        for row in rows {
            samples.push(row.iter().map(|&busy_percent| WorkerLoad { busy_percent, ports: 2 }).collect());
        }
        samples
    }

    #[test]
    fn ports_spread_and_gather_only_after_several_samples() {
        let spread = |from, to| (Some(Move { from, to }), None);
        let gather = |from, to| (None, Some(Move { from, to }));
        let table = [
            (vec![], (None, None)),
            (vec![vec![100, 0]; 3], (None, None)),
            (vec![vec![100, 0]; 4], spread(0, 1)),
            (vec![vec![86, 39]; 4], spread(0, 1)),
            (vec![vec![85, 0]; 4], (None, None)),
            (vec![vec![100, 40]; 4], (None, None)),
            (vec![vec![100, 0], vec![100, 0], vec![80, 0], vec![100, 0]], (None, None)),
            (vec![vec![0, 100]; 4], spread(1, 0)),
            (vec![vec![90, 10, 5], vec![90, 10, 5], vec![90, 5, 10], vec![90, 5, 10]], spread(0, 1)),
            // Hot by turns is not hot.
            (vec![vec![100, 10], vec![10, 100], vec![100, 10], vec![10, 100]], (None, None)),
            (vec![vec![19, 20]; 7], (None, None)),
            (vec![vec![19, 20]; 8], gather(1, 0)),
            (vec![vec![20, 20]; 8], (None, None)),
            (vec![vec![0, 0, 0]; 8], gather(1, 0)),
            (vec![vec![90, 10, 10]; 8], (Some(Move { from: 0, to: 1 }), Some(Move { from: 2, to: 1 }))),
        ];
        for (rows, expected) in table {
            let samples = samples(&rows);
            assert_eq!((samples.spread(), samples.gather()), expected, "{rows:?}");
        }
    }

    #[test]
    fn a_worker_without_ports_to_give_gives_none() {
        let ports = |ports: [u64; 2], busy: [u32; 2]| {
            let mut samples = Samples::default();
            let load = |worker: usize| WorkerLoad { busy_percent: busy[worker], ports: ports[worker] };
            (0..QUIET_SAMPLES).for_each(|_| samples.push(vec![load(0), load(1)]));
            samples
        };
        assert_eq!(ports([1, 0], [100, 0]).spread(), None);
        assert_eq!(ports([5, 0], [0, 0]).gather(), None);
        assert_eq!(ports([0, 5], [0, 0]).gather(), Some(Move { from: 1, to: 0 }));
    }

    #[test]
    fn after_a_move_it_takes_a_second_to_the_next() {
        let mut samples = samples(&vec![vec![100, 0]; 8]);
        assert!(samples.spread().is_some());
        samples.clear();
        for _ in 1..HOT_SAMPLES {
            samples.push(vec![WorkerLoad { busy_percent: 100, ports: 2 }, WorkerLoad { busy_percent: 0, ports: 2 }]);
            assert!(samples.may_spread() && samples.spread().is_none());
        }
        assert!(SAMPLE_INTERVAL * u32::try_from(HOT_SAMPLES).unwrap() >= Duration::from_secs(1));
    }

    /// Ports with these weights at worker 0, and one with `other` at worker 1: the weights that move.
    fn moved(weights: &[u64], other: u64) -> Vec<u64> {
        let key = |index: usize| (PortId(u16::try_from(index).unwrap()), 1);
        let mut loads: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| PortLoad { port: key(index), reader: 0, weight, pinned: false })
            .collect();
        loads.push(PortLoad { port: key(weights.len()), reader: 1, weight: other, pinned: false });
        let chosen = ports_to_spread(&loads, Move { from: 0, to: 1 });
        chosen.iter().map(|&(id, _)| weights[id.index()]).collect()
    }

    #[test]
    fn what_moves_makes_both_sides_equal_and_the_heaviest_stays() {
        let nothing: &[u64] = &[];
        assert_eq!(moved(&[10, 10], 0), [10]);
        assert_eq!(moved(&[10, 9, 1], 0), [9, 1]);
        assert_eq!(moved(&[1, 8, 10, 6], 0), [8, 6]);
        assert_eq!(moved(&[10, 10, 10, 10], 20), [10]);
        assert_eq!(moved(&[10, 10], 20), nothing, "they are equal");
        assert_eq!(moved(&[10, 10], 30), nothing, "the other one has more");
        assert_eq!(moved(&[10, 0, 0], 0), nothing, "one port with traffic");
        assert_eq!(moved(&[90, 10], 0), nothing, "the acknowledgements of a stream");
        assert_eq!(moved(&[10; 1000], 0).len(), MOVED_MAX, "more in the next round");
    }

    #[test]
    fn pinned_ports_stay_and_weigh() {
        let load = |id, reader, weight, pinned| PortLoad { port: (PortId(id), 1), reader, weight, pinned };
        let loads = [load(0, 0, 10, false), load(1, 0, 8, true), load(2, 0, 6, false), load(3, 1, 4, true)];
        assert_eq!(ports_to_spread(&loads, Move { from: 0, to: 1 }), [(PortId(2), 1)]);
        assert_eq!(ports_to_gather(&loads, Move { from: 1, to: 0 }), []);
        assert_eq!(reader_of_new_port(4, Some(3)), Some(3));
    }

    #[test]
    fn bridges_take_turns_only_where_there_are_workers_to_spare() {
        let homes = |workers| (0..4).map(|bridge| home_of_new_bridge(workers, bridge)).collect::<Vec<_>>();
        assert_eq!(homes(1), [0, 0, 0, 0]);
        assert_eq!(homes(2), [0, 0, 0, 0]);
        assert_eq!(homes(3), [0, 1, 2, 0]);
    }

    #[test]
    fn weights_are_what_came_between_two_readings() {
        let load =
            |id, incarnation, weight| PortLoad { port: (PortId(id), incarnation), reader: 0, weight, pinned: false };
        let counters = PortCounters { rx_frames: 10, rx_bytes: 10 * 65_536, ..PortCounters::default() };
        assert_eq!(PortLoad::new((PortId(1), 1), 0, false, &[counters, counters]), load(1, 1, 100));
        let between = received_between(&[load(1, 1, 70), load(2, 1, 5)], &[load(1, 1, 100), load(2, 2, 9)]);
        assert_eq!(between, [load(1, 1, 30), load(2, 2, 0)]);
    }

    #[test]
    fn a_worker_that_never_waits_is_busy() {
        let after = |busy_ns, bursts| WorkerCounters { busy_ns, bursts, ..WorkerCounters::default() };
        let load =
            |after| WorkerLoad::between(&WorkerCounters::default(), &after, Duration::from_nanos(1000)).busy_percent;
        assert_eq!(
            [load(after(0, 0)), load(after(250, 3)), load(after(5000, 3)), load(after(0, 3))],
            [0, 25, 100, 100]
        );
    }
}
