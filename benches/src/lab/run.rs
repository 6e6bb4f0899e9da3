//! Rounds: every workload over every peer, one straight after the other, in a rotating order.

use std::io;
use std::sync::atomic::Ordering;

use serde::Serialize;
use vswitch_tests::process::INTERRUPTED;

use super::peer::{Peer, Setup, Topology};
use super::workload::{self, Job, Load, Outcome};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The switches.
    pub peers: Vec<Peer>,
    /// The workloads, and the ways that they go.
    pub jobs: Vec<Job>,
    /// How often each is run over each.
    pub rounds: usize,
    /// How long and how hard each run is.
    pub load: Load,
    /// How the topologies are made.
    pub setup: Setup,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The round, from 0.
    pub round: usize,
    /// The switch.
    pub peer: String,
    /// The workload, with its way.
    pub workload: Job,
    /// What it gave; none when it failed.
    pub outcome: Option<Outcome>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Measures all of `plan`; `progress` is called after each run.
///
/// A run that fails is recorded and does not end the measurement; it may be the very thing that the
/// comparison shows.
///
/// # Errors
/// A topology cannot be set up, or the measurement was interrupted.
pub fn measure(plan: &Plan, mut progress: impl FnMut(&Run)) -> io::Result<Vec<Run>> {
    let mut topologies = Vec::with_capacity(plan.peers.len());
    for peer in &plan.peers {
        let topology = Topology::build(peer, &plan.setup)
            .map_err(|error| io::Error::new(error.kind(), format!("setting up {peer}: {error}")))?;
        topologies.push(topology);
    }
    let mut runs = Vec::new();
    for round in 0..plan.rounds {
        for &workload in &plan.jobs {
            for turn in 0..topologies.len() {
                let topology = &topologies[(round + turn) % topologies.len()];
                let result = workload::run(workload, topology, plan.load, &plan.setup.directory);
                if INTERRUPTED.load(Ordering::Relaxed) {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
                }
                let (outcome, error) = match result {
                    Ok(outcome) => (Some(outcome), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                let run = Run { round, peer: topology.peer.to_string(), workload, outcome, error };
                progress(&run);
                runs.push(run);
            }
        }
    }
    Ok(runs)
}
