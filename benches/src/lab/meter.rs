//! What a run costs: CPU time, and time that the hypervisor took away.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use vswitch_tests::daemon::cpu_time;

/// A reading of all clocks.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    machine: MachineTicks,
    switch: Duration,
    pids: Vec<u32>,
}

/// What passed between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Wall-clock time in seconds.
    pub wall_s: f64,
    /// CPU time of the switch's own processes in seconds; 0 for a switch in the kernel.
    pub switch_s: f64,
    /// Busy time of all of the machine's cores in seconds.
    pub machine_s: f64,
    /// Time that the hypervisor took away, in per cent of all cores' time.
    pub steal_percent: f64,
}

/// The first line of `/proc/stat`, in ticks of 10 ms (USER_HZ, proc_stat(5)).
#[derive(Debug, Clone, Copy)]
struct MachineTicks {
    busy: u64,
    steal: u64,
    total: u64,
}

impl MachineTicks {
    fn read() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let fields: Vec<u64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal (guest times are part of user and nice)
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = fields[..] else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/stat has an unknown shape"));
        };
        let busy = user + nice + system + irq + softirq;
        Ok(Self { busy, steal, total: busy + idle + iowait + steal })
    }
}

impl Meter {
    /// Starts to measure the machine and the processes `pids`.
    ///
    /// # Errors
    /// A process is gone.
    pub fn start(pids: &[u32]) -> io::Result<Self> {
        Ok(Self { machine: MachineTicks::read()?, switch: total(pids)?, pids: pids.to_vec(), started: Instant::now() })
    }

    /// What passed since the start.
    ///
    /// # Errors
    /// A process is gone.
    pub fn stop(&self) -> io::Result<Cost> {
        let wall_s = self.started.elapsed().as_secs_f64();
        let switch = total(&self.pids)?;
        let now = MachineTicks::read()?;
        let total_ticks = now.total.saturating_sub(self.machine.total).max(1);
        Ok(Cost {
            wall_s,
            switch_s: switch.saturating_sub(self.switch).as_secs_f64(),
            machine_s: now.busy.saturating_sub(self.machine.busy) as f64 / 100.0,
            steal_percent: now.steal.saturating_sub(self.machine.steal) as f64 * 100.0 / total_ticks as f64,
        })
    }
}

fn total(pids: &[u32]) -> io::Result<Duration> {
    pids.iter().map(|&pid| cpu_time(pid)).sum()
}
