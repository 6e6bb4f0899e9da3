//! The questions that every lab ends with; see the crate's documentation.

use std::time::Duration;

use vswitch::api::Stats;

use super::{Lab, must, tail};
use crate::http;
use crate::inventory::Inventory;
use crate::namespace;
use crate::process::{PATIENCE, wait_until};

/// How long the switch may take to come to rest once a test has stopped sending.
const REST_LIMIT: Duration = PATIENCE;
/// The switch is at rest when nothing came for this long.
const QUIET: Duration = Duration::from_millis(50);

impl Lab {
    /// Waits until the switch is at rest (nothing came for 50 ms, so the interfaces' queues are
    /// empty too) and every frame is accounted for.
    #[track_caller]
    pub fn assert_accounted(&self) {
        let mut last = self.stats();
        let rest = wait_until("rest", REST_LIMIT, || {
            std::thread::sleep(QUIET);
            let before = std::mem::replace(&mut last, self.stats());
            let outstanding: u64 = last.workers.iter().map(|worker| worker.frames_outstanding).sum();
            let quiet = before.balance == last.balance;
            (quiet && last.balance.unexplained == 0 && outstanding == 0).then_some(())
        });
        assert!(
            rest.is_ok(),
            "frames are not accounted for: {:?}; outstanding: {:?}",
            last.balance,
            last.workers.iter().map(|worker| worker.frames_outstanding).collect::<Vec<_>>(),
        );
    }

    /// Ends the lab and asks the questions; see the crate's documentation.
    #[track_caller]
    pub fn finish(mut self) {
        self.conclude();
    }

    #[track_caller]
    fn conclude(&mut self) {
        self.finished = true;
        self.background.clear();
        let cleaned = self.daemon.is_some();
        if cleaned {
            self.assert_accounted();
            self.ctl(&["shutdown", "--cleanup"]);
        }
        if let Some(mut daemon) = self.daemon.take() {
            let status = must(daemon.wait());
            assert!(status.success(), "the daemon ended with {status}; its log:\n{}", tail(&daemon.log()));
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "the daemon's log has lines that no test announced:\n{}", complaints.join("\n"));
        if cleaned {
            let hooks = must(self.host.run("tc qdisc show"));
            assert!(!hooks.contains("clsact"), "the host has hooks that it did not have:\n{hooks}");
        }
        for (role, before) in &self.before {
            let namespace = if role == "host" { &self.host } else { &self.containers[role] };
            let differences = before.differences(&must(Inventory::take(namespace)));
            assert!(differences.is_empty(), "the namespace {role} is not as it was found:\n{}", differences.join("\n"));
        }
    }

    /// The balance, and the ports that dropped anything, for whoever reads why a test failed.
    fn counters_in_brief(&self) -> String {
        let Ok(answer) = http::request(self.socket(), "GET", "/v1/stats", None) else {
            return "the daemon does not answer".to_owned();
        };
        let Ok(stats) = serde_json::from_str::<Stats>(&answer.body) else { return answer.body };
        let mut text = format!("{:?}", stats.balance);
        for port in &stats.ports {
            let kernel = (port.kernel_tx_dropped.unwrap_or(0), port.kernel_rx_dropped.unwrap_or(0));
            if !port.total.drops.is_empty() || kernel != (0, 0) {
                text.push_str(&format!(
                    "\n{}: drops {:?}, the kernel's (tx, rx) {kernel:?}",
                    port.port, port.total.drops
                ));
            }
        }
        text
    }

    /// The lines of the log at WARN or above, and panics, that were not announced.
    fn complaints(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked at"))
            .filter(|line| !self.allowed.iter().any(|allowed| line.contains(allowed.as_str())))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::announce(&format!(
                "the daemon's log of {}:\n{}\nits counters: {}",
                self.prefix,
                tail(&self.log()),
                self.counters_in_brief()
            ));
        } else if !self.finished {
            self.conclude();
        }
        self.background.clear();
        self.daemon = None;
        // The next process sweeps what cannot be deleted now.
        let _ = namespace::destroy_all(std::mem::take(&mut self.containers).into_values().collect());
    }
}
