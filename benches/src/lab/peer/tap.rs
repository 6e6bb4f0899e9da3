//! Our switch over TAP ports, driven by its own client.

use std::io;
use std::path::Path;

use vswitch_tests::daemon::{Daemon, DaemonConfig};
use vswitch_tests::namespace::Namespace;

use super::Container;

/// Starts a daemon in `host` and attaches `containers` to a bridge.
pub(super) fn join(
    host: &Namespace,
    containers: &[Container],
    binaries: &Path,
    args: &[String],
    directory: &Path,
) -> io::Result<Daemon> {
    let daemon = start(host, binaries, args, directory)?;
    ctl(host, &daemon, &["add-br", "br0", "--subnet", "10.77.0.0/16"])?;
    for container in containers {
        let address = container.address.to_string();
        ctl(host, &daemon, &["add-port", "br0", container.namespace.name(), "--ip", &address])?;
    }
    Ok(daemon)
}

/// Starts a daemon in `host`.
pub(super) fn start(host: &Namespace, binaries: &Path, args: &[String], directory: &Path) -> io::Result<Daemon> {
    let mut config = DaemonConfig::below(directory, binaries.to_owned());
    config.args = args.to_vec();
    config.log_level = "warn".to_owned();
    Daemon::start(host, config)
}

/// Runs the client, which must succeed.
pub(super) fn ctl(host: &Namespace, daemon: &Daemon, args: &[&str]) -> io::Result<()> {
    let output = daemon.config.ctl(host, args)?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("vswitchctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr))))
}
