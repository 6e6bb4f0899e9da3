//! The table: medians, and ratios to the reference of the same round.

use std::fmt::Write as _;

use super::run::Run;
use super::workload::{Metric, Outcome, Workload};

/// Above this share of stolen time a run is flagged.
const STEAL_LIMIT_PERCENT: f64 = 5.0;

/// The table of `runs` for people; ratios are to the peer `reference` where it took part.
#[must_use]
pub fn table(runs: &[Run], reference: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<22} {:<14} {:>12} {:>6} {:>15} {:>9} {:>9} {:>7}  remarks",
        "workload", "peer", "median", "ratio", "min..max", "switch", "machine", "retrans"
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
        "\nratio: to {reference} in the same round, median of the rounds. switch, machine: CPU seconds per gigabyte of\n\
         the switch's process and of all cores, or CPU microseconds per frame, request or round trip.\n"
    );
    text
}

fn row(runs: &[Run], workload: Workload, name: &str, peer: &str, reference: &str) -> String {
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
    let ratios: Vec<f64> = own
        .iter()
        .filter_map(|(round, outcome)| {
            let (_, paired) = base.iter().find(|(other, _)| other == round)?;
            Some(metric(outcome, name)?.value / metric(paired, name)?.value)
        })
        .collect();
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
    format!(
        "{:<22} {:<14} {:>12} {:>6} {:>15} {:>9} {:>9} {:>7}  {}",
        format!("{workload} {name}"),
        shortened(peer),
        format!("{} {unit}", number(median(&values))),
        number(median(&ratios)),
        match (minimum(&ratios), maximum(&ratios)) {
            (Some(low), Some(high)) => format!("{low:.2}..{high:.2}"),
            _ => "-".to_owned(),
        },
        per(|outcome| outcome.cost.switch_s),
        per(|outcome| outcome.cost.machine_s),
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
    let head = format!("round {} {:<6} {:<14}", run.round + 1, run.workload.to_string(), shortened(&run.peer));
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
    let excess = peer.chars().count().saturating_sub(14);
    if excess == 0 { peer.to_owned() } else { format!("…{}", peer.chars().skip(excess + 1).collect::<String>()) }
}

fn metric<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a Metric> {
    outcome.metrics.iter().find(|metric| metric.name == name)
}

fn metric_names(runs: &[Run], workload: Workload) -> Vec<&'static str> {
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

    fn run(round: usize, peer: &str, value: f64) -> Run {
        let outcome = Outcome {
            metrics: vec![Metric { name: "throughput", value, unit: "Gbit/s" }],
            cost: Cost { wall_s: 1.0, switch_s: 0.5, machine_s: 1.5, steal_percent: 0.0 },
            gigabytes: Some(2.0),
            operations: None,
            retransmits: Some(3),
            note: None,
        };
        Run { round, peer: peer.to_owned(), workload: Workload::Tcp1, outcome: Some(outcome), error: None }
    }

    #[test]
    fn ratios_are_paired_within_a_round() {
        // The machine was twice as fast in the second round: the ratio is the same in both.
        let runs = [run(0, "bridge", 10.0), run(0, "vswitch", 9.0), run(1, "vswitch", 18.0), run(1, "bridge", 20.0)];
        let line = row(&runs, Workload::Tcp1, "throughput", "vswitch", "bridge");
        let cells: Vec<&str> = line.split_whitespace().collect();
        // 0.5 and 1.5 CPU seconds for two gigabytes.
        let expected = ["tcp1", "throughput", "vswitch", "13.50", "Gbit/s", "0.90", "0.90..0.90", "0.25", "0.75", "3"];
        assert_eq!(cells, expected);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_failed_run_is_told() {
        let mut failed = run(0, "vswitch", 1.0);
        failed.outcome = None;
        let line = row(&[failed], Workload::Tcp1, "throughput", "vswitch", "bridge");
        assert!(line.contains("1 runs failed"), "{line}");
    }
}
