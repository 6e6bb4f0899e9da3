//! `ping`, `version` and `shutdown`: the daemon itself.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use vswitch::api;

use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::Output;
use crate::units;

/// How often a daemon that is not there yet is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The longest wait for a daemon that agreed to stop: it writes its state and takes down at most
/// some thousands of interfaces.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

fn ping_target() -> Target {
    Target::v1().segment("ping")
}

/// Ask whether the daemon is ready; with --timeout, wait for it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl ping
  vswitchctl ping --timeout 5s && vswitchctl show   # in scripts, after starting the daemon")]
pub(crate) struct Ping {
    /// Wait up to this long for the daemon (500ms, 5s, 1m)
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    timeout: Option<Duration>,
}

impl Ping {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let attempt = match deadline {
                None => client.get::<api::Pong>(&ping_target()).await,
                Some(deadline) => {
                    // At least one real attempt, even with `--timeout 0`.
                    let left = deadline.saturating_duration_since(Instant::now()).max(RETRY_INTERVAL);
                    client.with_timeout(left).get(&ping_target()).await
                }
            };
            match attempt {
                Ok(pong) => return Output::new(format!("vswitch is ready (pid {})", pong.pid), &pong),
                Err(failure) => {
                    let in_time = deadline.is_some_and(|deadline| Instant::now() + RETRY_INTERVAL < deadline);
                    if !(failure.is_passing() && in_time) {
                        return Err(failure);
                    }
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

/// Show the versions of this client and of the daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl version
  vswitchctl version --json | jq .daemon.uptime_s")]
pub(crate) struct Version {}

impl Version {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let own = env!("CARGO_PKG_VERSION");
        match client.get::<api::Version>(&Target::v1().segment("version")).await {
            Ok(daemon) => {
                let text = format!(
                    "vswitchctl {own}\nvswitch    {} (protocol {}, pid {}, {} workers, up {})\n",
                    daemon.version,
                    daemon.api,
                    daemon.pid,
                    daemon.workers,
                    units::show_seconds(daemon.uptime_s),
                );
                Output::new(text, &json!({ "client": own, "daemon": daemon }))
            }
            // The client's own version is known all the same.
            Err(failure) => {
                let output = Output::new(format!("vswitchctl {own}"), &json!({ "client": own, "daemon": null }))?;
                Ok(output.and_failure(failure))
            }
        }
    }
}

/// Stop the daemon; returns when it has stopped. The containers' interfaces stay, unless --cleanup
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl shutdown             interfaces and connections stay, for a restart or an upgrade
  vswitchctl shutdown --cleanup   host and namespaces as they were before; the configuration is kept")]
pub(crate) struct Shutdown {
    /// Also remove every interface that the switch made; the configuration is kept
    #[arg(long)]
    cleanup: bool,
}

impl Shutdown {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let before: api::Pong = client.get(&ping_target()).await?;
        let body = api::Shutdown { cleanup: self.cleanup };
        client.post::<serde::de::IgnoredAny>(&Target::v1().segment("shutdown"), &body).await?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match client.with_timeout(Duration::from_secs(1)).get::<api::Pong>(&ping_target()).await {
                // A supervisor may have started the next one already.
                Ok(pong) if pong.pid != before.pid => return Ok(Output::silent()),
                Err(Failure::Unreachable { .. }) => return Ok(Output::silent()),
                Ok(_) | Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
        Err(Failure::Unreachable {
            socket: client.socket().into(),
            why: format!("it agreed to stop and still answers after {} s", STOP_TIMEOUT.as_secs()),
            remedy: "look at its log".into(),
        })
    }
}
