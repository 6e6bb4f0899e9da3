//! Our switch, driven by its own client.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use vswitch_tests::daemon::{Daemon, DaemonConfig};
use vswitch_tests::namespace::Namespace;

use super::{Container, Setup};

/// Our switch with one choice of ports and of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// The ports.
    pub ports: Ports,
    /// The directory of its programs where that is not the default, so that two builds can be
    /// compared in one run.
    pub build: Option<PathBuf>,
}

impl fmt::Display for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ports.name())?;
        self.build.as_ref().map_or(Ok(()), |directory| write!(f, "@{}", directory.display()))
    }
}

/// Which kinds of port the containers have, and how the daemon waits for them.
///
/// Workloads send from the first container, the client, to the second, the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// TAP ports.
    Tap,
    /// AF_XDP ports.
    Xdp,
    /// AF_XDP ports, busy polled.
    XdpBusy,
    /// The client's AF_XDP, the others TAP.
    Mixed,
    /// The client's TAP, the others AF_XDP.
    MixedReverse,
    /// As [`Ports::Mixed`], without coalescing: what comes from AF_XDP goes to the TAP packet by
    /// packet.
    MixedPlain,
}

impl Ports {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Tap, Self::Xdp, Self::XdpBusy, Self::Mixed, Self::MixedReverse, Self::MixedPlain];

    /// The peer's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "vswitch",
            Self::Xdp => "vswitch-xdp",
            Self::XdpBusy => "vswitch-xdp-busy",
            Self::Mixed => "vswitch-mixed",
            Self::MixedReverse => "vswitch-mixed-r",
            Self::MixedPlain => "vswitch-mixed-plain",
        }
    }

    /// The reverse of [`Ports::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ports| ports.name() == name)
    }

    /// The type of the port of container `number`.
    fn port_type(self, number: usize) -> &'static str {
        match (self, number) {
            (Self::Tap, _) | (Self::Mixed | Self::MixedPlain, 1..) | (Self::MixedReverse, 0) => "tap",
            (Self::Xdp | Self::XdpBusy, _) | (Self::Mixed | Self::MixedPlain, 0) | (Self::MixedReverse, 1..) => "xdp",
        }
    }

    /// Further arguments of the daemon.
    fn daemon_args(self) -> &'static [&'static str] {
        match self {
            Self::XdpBusy => &["--xdp-busy-poll", "50"],
            Self::MixedPlain => &["--coalesce", "off"],
            Self::Tap | Self::Xdp | Self::Mixed | Self::MixedReverse => &[],
        }
    }
}

impl Ours {
    /// Starts a daemon in `host` and attaches `containers` to a bridge.
    pub(super) fn join(
        &self,
        host: &Namespace,
        containers: &[Container],
        setup: &Setup,
        directory: &Path,
    ) -> io::Result<Daemon> {
        let binaries = self.build.as_ref().unwrap_or(&setup.binaries);
        let mut args = setup.vswitch_args.clone();
        args.extend(self.ports.daemon_args().iter().map(|&arg| arg.to_owned()));
        let daemon = start(host, binaries, args, directory)?;
        ctl(host, &daemon, &["add-br", "br0", "--subnet", setup.family.subnet(), "--mtu", &setup.mtu.to_string()])?;
        for (number, container) in containers.iter().enumerate() {
            let address = container.address.to_string();
            let mut args = vec!["add-port", "br0", container.namespace.name(), "--ip", &address];
            let port_type = self.ports.port_type(number);
            // Builds that are older than the option have only this kind.
            if port_type != "tap" {
                args.extend(["--type", port_type]);
            }
            ctl(host, &daemon, &args)?;
        }
        Ok(daemon)
    }
}

/// Starts a daemon in `host`.
pub(super) fn start(host: &Namespace, binaries: &Path, args: Vec<String>, directory: &Path) -> io::Result<Daemon> {
    let mut config = DaemonConfig::below(directory, binaries.to_owned());
    config.args = args;
    config.log_level = "warn".to_owned();
    Daemon::start(host, config)
}

/// Runs vswitchctl.
pub(super) fn ctl(host: &Namespace, daemon: &Daemon, args: &[&str]) -> io::Result<String> {
    let output = daemon.config.ctl(host, args)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("vswitchctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr))))
}
