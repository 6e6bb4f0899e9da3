//! The table: medians, and ratios to the reference of the same round.

use std::fmt::Write as _;

use super::run::Run;
use super::workload::{Job, Metric, Outcome};

/// Above this share of stolen time a run is flagged.
const STEAL_LIMIT_PERCENT: f64 = 5.0;
/// Room for a peer's name.
const PEER_CHARS: usize = 19;

/// The table of `runs` for people; ratios are to the peer `reference` where it took part.
#[must_use]
pub fn table(runs: &[Run], reference: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<20} {:<PEER_CHARS$} {:>13} {:>6} {:>10} {:>12} {:>8} {:>8} {:>6} {:>7}  remarks",
        "workload", "peer", "median", "ratio", "min..max", "95 %", "switch", "machine", "ratio", "retrans"
    );
    for workload in distinct(runs.iter().map(|run| run.workload)) {
        for name in metric_names(runs, workload) {
            for peer in distinct(runs.iter().map(|run| run.peer.as_str())) {
                let _ = writeln!(text, "{}", row(runs, workload, name, peer, reference));
            }
        }
    }
    let _ = write!(
        text,
        "\nratio: to {reference} in the same round, median of the rounds; 95 %: where that median lies with 95 % confidence.\n\
         switch, machine: CPU seconds per gigabyte of the switch's process and of all cores (with the ratio of the latter),\n\
         or CPU microseconds per frame, request or round trip.\n"
    );
    text
}

fn row(runs: &[Run], workload: Job, name: &str, peer: &str, reference: &str) -> String {
    let of = |peer: &str| -> Vec<(usize, &Outcome)> {
        runs.iter()
            .filter(|run| run.workload == workload && run.peer == peer)
            .filter_map(|run| Some((run.round, run.outcome.as_ref()?)))
            .collect()
    };
    let own = of(peer);
    let base = of(reference);
    let failed =
        runs.iter().filter(|run| run.workload == workload && run.peer == peer && run.outcome.is_none()).count();
    let values: Vec<f64> = own.iter().filter_map(|(_, outcome)| Some(metric(outcome, name)?.value)).collect();
    let unit = own.iter().find_map(|(_, outcome)| metric(outcome, name)).map_or("", |metric| metric.unit);
    let ratios_of = |value: &dyn Fn(&Outcome) -> Option<f64>| -> Vec<f64> {
        own.iter()
            .filter_map(|(round, outcome)| {
                let (_, paired) = base.iter().find(|(other, _)| other == round)?;
                Some(value(outcome)? / value(paired)?)
            })
            .collect()
    };
    let ratios = ratios_of(&|outcome| Some(metric(outcome, name)?.value));
    let machine_ratios = ratios_of(&|outcome| per_unit(outcome, outcome.cost.machine_s));
    let per = |cpu: fn(&Outcome) -> f64| -> String {
        let values: Vec<f64> = own.iter().filter_map(|(_, outcome)| per_unit(outcome, cpu(outcome))).collect();
        median(&values).map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
    };
    let retransmits: Vec<f64> =
        own.iter().filter_map(|(_, outcome)| outcome.retransmits).map(|count| count as f64).collect();
    let mut remarks = Vec::new();
    if failed > 0 {
        remarks.push(format!("{failed} runs failed"));
    }
    let stolen = own.iter().filter(|(_, outcome)| outcome.cost.steal_percent > STEAL_LIMIT_PERCENT).count();
    if stolen > 0 {
        remarks.push(format!("{stolen} runs with steal > {STEAL_LIMIT_PERCENT} %"));
    }
    if let Some(note) = own.iter().rev().find_map(|(_, outcome)| outcome.note.clone()) {
        remarks.push(note);
    }
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let range = |limits: Option<(f64, f64)>| {
        limits.map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:.2}..{high:.2}"))
    };
    let interval =
        median_interval(&ratios).map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:.3}..{high:.3}"));
    format!(
        "{:<20} {:<PEER_CHARS$} {:>13} {:>6} {:>10} {:>12} {:>8} {:>8} {:>6} {:>7}  {}",
        format!("{workload} {name}"),
        shortened(peer),
        format!("{} {unit}", number(median(&values))),
        number(median(&ratios)),
        range(minimum(&ratios).zip(maximum(&ratios))),
        interval,
        per(|outcome| outcome.cost.switch_s),
        per(|outcome| outcome.cost.machine_s),
        number(median(&machine_ratios)),
        median(&retransmits).map_or_else(|| "-".to_owned(), |value| format!("{value:.0}")),
        remarks.join("; "),
    )
}

/// CPU seconds per gigabyte, or microseconds per operation.
fn per_unit(outcome: &Outcome, cpu_s: f64) -> Option<f64> {
    match (outcome.gigabytes, outcome.operations) {
        (Some(gigabytes), _) if gigabytes > 0.0 => Some(cpu_s / gigabytes),
        (None, Some(operations)) if operations > 0.0 => Some(cpu_s * 1e6 / operations),
        _ => None,
    }
}

/// One line about one run, for those who watch.
#[must_use]
pub fn line(run: &Run) -> String {
    let head = format!("round {} {:<9} {:<PEER_CHARS$}", run.round + 1, run.workload.to_string(), shortened(&run.peer));
    let Some(outcome) = &run.outcome else {
        return format!("{head} FAILED: {}", run.error.as_deref().unwrap_or("unknown"));
    };
    let numbers: Vec<String> =
        outcome.metrics.iter().map(|metric| format!("{} {:.2} {}", metric.name, metric.value, metric.unit)).collect();
    let mut text = format!(
        "{head} {}; cores: switch {:.2}, machine {:.2}; steal {:.1} %",
        numbers.join(", "),
        outcome.cost.switch_s / outcome.cost.wall_s,
        outcome.cost.machine_s / outcome.cost.wall_s,
        outcome.cost.steal_percent,
    );
    if let Some(count) = outcome.retransmits {
        let _ = write!(text, "; {count} retransmits");
    }
    if let Some(note) = &outcome.note {
        let _ = write!(text, "; {note}");
    }
    text
}

/// The end of a long peer name, which is where builds differ.
fn shortened(peer: &str) -> String {
    let excess = peer.chars().count().saturating_sub(PEER_CHARS);
    if excess == 0 { peer.to_owned() } else { format!("…{}", peer.chars().skip(excess + 1).collect::<String>()) }
}

fn metric<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a Metric> {
    outcome.metrics.iter().find(|metric| metric.name == name)
}

fn metric_names(runs: &[Run], workload: Job) -> Vec<&'static str> {
    distinct(
        runs.iter()
            .filter(|run| run.workload == workload)
            .filter_map(|run| run.outcome.as_ref())
            .flat_map(|outcome| outcome.metrics.iter().map(|metric| metric.name)),
    )
}

/// The items without repetition, in the order of their first appearance.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Between which two of `values` the median of what they were drawn from lies with a confidence of
/// 95 %, whatever its distribution: order statistics, by the binomial distribution. Fewer than six
/// values cannot tell.
fn median_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    // The probability that fewer than `rank` of `count` values lie below the median, up to 2.5 %.
    let (mut rank, mut below, mut term) = (0, 0.0, 0.5_f64.powi(i32::try_from(count).ok()?));
    while rank < count && below + term <= 0.025 {
        below += term;
        term *= (count - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    (rank > 0).then(|| (sorted[rank - 1], sorted[count - rank]))
}

fn minimum(values: &[f64]) -> Option<f64> {
    values.iter().copied().min_by(f64::total_cmp)
}

fn maximum(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::meter::Cost;
    use crate::lab::peer::Way;
    use crate::lab::workload::Workload;

    const TCP1: Job = Job { way: Way::Direct, workload: Workload::Tcp1 };

    fn run(round: usize, peer: &str, value: f64) -> Run {
        let outcome = Outcome {
            metrics: vec![Metric { name: "throughput", value, unit: "Gbit/s" }],
            cost: Cost { wall_s: 1.0, switch_s: 0.5, machine_s: 1.5, steal_percent: 0.0 },
            gigabytes: Some(2.0),
            operations: None,
            retransmits: Some(3),
            note: None,
        };
        Run { round, peer: peer.to_owned(), workload: TCP1, outcome: Some(outcome), error: None }
    }

    #[test]
    fn ratios_are_paired_within_a_round() {
        // The machine was twice as fast in the second round: the ratio is the same in both.
        let runs = [run(0, "bridge", 10.0), run(0, "vswitch", 9.0), run(1, "vswitch", 18.0), run(1, "bridge", 20.0)];
        let line = row(&runs, TCP1, "throughput", "vswitch", "bridge");
        let cells: Vec<&str> = line.split_whitespace().collect();
        // 0.5 and 1.5 CPU seconds for two gigabytes, as much as the bridge.
        let expected = [
            "tcp1",
            "throughput",
            "vswitch",
            "13.50",
            "Gbit/s",
            "0.90",
            "0.90..0.90",
            "-",
            "0.25",
            "0.75",
            "1.00",
            "3",
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_interval_of_a_median_is_that_of_the_tables() {
        let values = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        // Such as in Conover, Practical Nonparametric Statistics: ranks for 95 %.
        assert_eq!(median_interval(&values(5)), None);
        assert_eq!(median_interval(&values(6)), Some((1.0, 6.0)));
        assert_eq!(median_interval(&values(10)), Some((2.0, 9.0)));
        assert_eq!(median_interval(&values(15)), Some((4.0, 12.0)));
        assert_eq!(median_interval(&values(25)), Some((8.0, 18.0)));
    }

    #[test]
    fn a_failed_run_is_told() {
        let mut failed = run(0, "vswitch", 1.0);
        failed.outcome = None;
        let line = row(&[failed], TCP1, "throughput", "vswitch", "bridge");
        assert!(line.contains("1 runs failed"), "{line}");
    }
}
