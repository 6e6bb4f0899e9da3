//! One world for one test: a host, a daemon, containers; and the questions at the end.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use rustix::process::Signal;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;
use vswitch::api::{Bridge, FdbEntry, Port, PortStats, Stats};

use crate::daemon::{Daemon, DaemonConfig, PassedSocket, binaries};
use crate::http;
use crate::inventory::Inventory;
use crate::namespace::{Namespace, unique_prefix};
use crate::process::{Background, PATIENCE, wait_until};
pub use crate::reach::{address, any_port, assert_no_reach, assert_reaches, ipv4, ipv6};
use crate::requirement;

mod conclude;

/// What a lab is made with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further arguments of the daemon.
    pub args: Vec<String>,
    /// `RUST_LOG` of the daemon; empty for `info`.
    pub log_level: String,
    /// Further environment variables of the daemon.
    pub env: Vec<(String, String)>,
    /// A socket that the daemon gets from whoever starts it.
    pub passed: Option<PassedSocket>,
    /// Of which type ports are where `add-port` is not told.
    pub ports: PortTypes,
    /// Whether containers may send as anybody, where `add-port` is not told: for tests that make frames up.
    pub unguarded: bool,
}

/// Of which type the ports of a lab are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PortTypes {
    /// TAP interfaces.
    #[default]
    Tap,
    /// Veth pairs, served through AF_XDP.
    Xdp,
    /// One and the other by turns: the ports of a container are all of one type, so that it keeps it
    /// when it is attached again.
    Mixed,
}

/// A host namespace with a running daemon, and container namespaces by role.
///
/// All methods panic with the whole story when something fails: a lab is for tests.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    daemon: Option<Daemon>,
    config: DaemonConfig,
    host: Namespace,
    containers: BTreeMap<String, Namespace>,
    before: BTreeMap<String, Inventory>,
    allowed: Vec<String>,
    background: Vec<Background>,
    directory: TempDir,
    ports: PortTypes,
    unguarded: bool,
    /// The containers that were attached, by the words that named them, in the order of their first time.
    attached: Mutex<Vec<String>>,
    finished: bool,
}

impl Lab {
    /// A lab with a daemon of default options; none, loudly, where system tests cannot run.
    #[must_use]
    #[track_caller]
    pub fn new() -> Option<Self> {
        Self::with(Options::default())
    }

    /// A lab with a daemon; none, loudly, where system tests cannot run.
    #[must_use]
    #[track_caller]
    pub fn with(options: Options) -> Option<Self> {
        let mut lab = Self::without_daemon(options)?;
        lab.start_daemon();
        Some(lab)
    }

    /// A lab whose daemon is not started yet.
    #[must_use]
    #[track_caller]
    pub fn without_daemon(options: Options) -> Option<Self> {
        if !requirement::system() {
            return None;
        }
        let prefix = unique_prefix();
        // Other users may look in: tests of permissions want the socket to be what stops them.
        let open = std::fs::Permissions::from_mode(0o755);
        let directory = must(tempfile::Builder::new().prefix("vswitch-lab-").permissions(open).tempdir());
        let mut config = DaemonConfig::below(directory.path(), must(binaries()));
        config.args = options.args;
        config.env = options.env;
        config.passed = options.passed;
        if !options.log_level.is_empty() {
            config.log_level = options.log_level;
        }
        let host = must(Namespace::create(&format!("{prefix}host")));
        let before = BTreeMap::from([("host".to_owned(), must(Inventory::take(&host)))]);
        Some(Self {
            prefix,
            daemon: None,
            config,
            host,
            containers: BTreeMap::new(),
            before,
            allowed: Vec::new(),
            background: Vec::new(),
            directory,
            ports: options.ports,
            unguarded: options.unguarded,
            attached: Mutex::default(),
            finished: false,
        })
    }

    // ---- the daemon -------------------------------------------------------------------------

    /// Starts the daemon, again if it was stopped.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.daemon = Some(must(Daemon::start(&self.host, self.config.clone())));
    }

    /// SIGKILL to the daemon.
    #[track_caller]
    pub fn kill_daemon(&mut self) {
        self.daemon.take().expect("a running daemon").kill();
    }

    /// SIGTERM to the daemon, which must end with status 0.
    #[track_caller]
    pub fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        let status = must(daemon.terminate(Signal::TERM));
        assert!(status.success(), "the daemon ended with {status} on SIGTERM; its log:\n{}", daemon.log());
    }

    /// The daemon.
    #[must_use]
    #[track_caller]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a running daemon")
    }

    /// How the daemon is started.
    #[must_use]
    pub fn config(&self) -> &DaemonConfig {
        &self.config
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.config.socket
    }

    /// A path in the lab's own temporary directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Announces that the daemon may log lines at WARN or above that contain `text`.
    pub fn allow_log(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    // ---- the client -------------------------------------------------------------------------

    /// Runs `vswitchctl` and returns what it did, whatever its exit status. `add-port` without a type
    /// gets the lab's.
    #[track_caller]
    pub fn try_ctl(&self, args: &[&str]) -> Output {
        let mut args = args.to_vec();
        if let ["add-port", _, netns, ..] = args[..]
            && !args.contains(&"--type")
        {
            args.extend(["--type", self.port_type(netns)]);
        }
        if self.unguarded && matches!(args[..], ["add-port", ..]) && !args.contains(&"--no-guard") {
            args.push("--no-guard");
        }
        must(self.config.ctl(&self.host, &args))
    }

    /// The type of ports in the container that `netns` names.
    fn port_type(&self, netns: &str) -> &'static str {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = attached.iter().position(|one| one == netns).unwrap_or_else(|| {
            attached.push(netns.to_owned());
            attached.len() - 1
        });
        match self.ports {
            PortTypes::Tap => "tap",
            PortTypes::Xdp => "xdp",
            PortTypes::Mixed => ["tap", "xdp"][turn % 2],
        }
    }

    /// Runs `vswitchctl`, which must succeed, and returns its standard output.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = self.try_ctl(args);
        assert!(
            output.status.success(),
            "vswitchctl {}: {}\n{}{}\nthe daemon's log:\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            tail(&self.log()),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `vswitchctl … --json`, which must print one JSON document and nothing else.
    #[track_caller]
    pub fn ctl_json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let text = self.ctl(&args);
        match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => panic!("vswitchctl {} did not print one JSON document ({error}):\n{text}", args.join(" ")),
        }
    }

    /// Runs `vswitchctl`, which must refuse: status 1 and one sentence on standard error, which is
    /// returned.
    #[track_caller]
    pub fn ctl_refused(&self, args: &[&str]) -> String {
        let output = self.try_ctl(args);
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert_eq!(
            output.status.code(),
            Some(1),
            "vswitchctl {} was to be refused: {}{stderr}",
            args.join(" "),
            String::from_utf8_lossy(&output.stdout),
        );
        assert!(output.stdout.is_empty(), "a refusal prints nothing on standard output: {output:?}");
        assert!(!stderr.is_empty() && stderr.lines().count() == 1, "a refusal is one sentence: {stderr:?}");
        stderr
    }

    /// Asks the daemon directly, over its socket.
    #[track_caller]
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = must(http::request(self.socket(), "GET", path, None));
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        match serde_json::from_str(&answer.body) {
            Ok(value) => value,
            Err(error) => panic!("GET {path}: {error}: {}", answer.body),
        }
    }

    /// The bridge `name` as it is.
    #[track_caller]
    pub fn bridge(&self, name: &str) -> Bridge {
        self.get(&format!("/v1/bridges/{name}"))
    }

    /// The ports of `bridge`.
    #[track_caller]
    pub fn ports(&self, bridge: &str) -> Vec<Port> {
        self.get(&format!("/v1/bridges/{bridge}/ports"))
    }

    /// All bridges and ports, for comparisons before and after.
    #[track_caller]
    pub fn configuration(&self) -> (Vec<Bridge>, Vec<Port>) {
        let mut bridges: Vec<Bridge> = self.get("/v1/bridges");
        for bridge in &mut bridges {
            // Learned by traffic, not configured.
            bridge.macs = 0;
            bridge.warnings.clear();
        }
        let mut ports: Vec<Port> = self.get("/v1/ports");
        for port in &mut ports {
            // A placement of the moment, not a setting.
            port.worker = None;
        }
        (bridges, ports)
    }

    /// The forwarding database of `bridge`.
    #[track_caller]
    pub fn fdb(&self, bridge: &str) -> Vec<FdbEntry> {
        self.get(&format!("/v1/bridges/{bridge}/fdb"))
    }

    /// All counters.
    #[track_caller]
    pub fn stats(&self) -> Stats {
        self.get("/v1/stats")
    }

    /// The counters of one port.
    #[track_caller]
    pub fn port_stats(&self, bridge: &str, port: &str) -> PortStats {
        let mut stats: Stats = self.get(&format!("/v1/stats?bridge={bridge}&port={port}"));
        stats.ports.pop().unwrap_or_else(|| panic!("no counters of {bridge}/{port}"))
    }

    /// How often frames were dropped for `reason` on `port`.
    #[track_caller]
    pub fn drops(&self, bridge: &str, port: &str, reason: &str) -> u64 {
        self.port_stats(bridge, port).total.drops.get(reason).copied().unwrap_or(0)
    }

    /// Waits until frames were dropped for `reason` on `port` as often as they should be, and asserts that it was not
    /// oftener.
    #[track_caller]
    pub fn await_drops(&self, bridge: &str, port: &str, reason: &str, count: u64) {
        let counted = || self.drops(bridge, port, reason);
        // What has not come in time shows below.
        let _ = wait_until(reason, PATIENCE, || (counted() >= count).then_some(()));
        assert_eq!(counted(), count, "{reason} of {port}");
    }

    // ---- the world --------------------------------------------------------------------------

    /// The namespace that plays the host.
    #[must_use]
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The same, to start a Docker in it.
    pub fn host_mut(&mut self) -> &mut Namespace {
        &mut self.host
    }

    /// The name that the namespace of `role` has or would have.
    #[must_use]
    pub fn netns(&self, role: &str) -> String {
        format!("{}{role}", self.prefix)
    }

    /// Makes a container's namespace.
    #[track_caller]
    pub fn add_container(&mut self, role: &str) -> &Namespace {
        let namespace = must(Namespace::create(&self.netns(role)));
        self.before.insert(role.to_owned(), must(Inventory::take(&namespace)));
        self.containers.insert(role.to_owned(), namespace);
        self.container(role)
    }

    /// Makes many containers' namespaces, quickly: their loopback interfaces stay down, and they are
    /// not compared before and after.
    #[track_caller]
    pub fn add_containers<S: AsRef<str>>(&mut self, roles: &[S]) {
        let names: Vec<String> = roles.iter().map(|role| self.netns(role.as_ref())).collect();
        let made = must(Namespace::create_all(&names));
        self.containers.extend(roles.iter().map(|role| role.as_ref().to_owned()).zip(made));
    }

    /// The namespace of a container.
    #[must_use]
    #[track_caller]
    pub fn container(&self, role: &str) -> &Namespace {
        self.containers.get(role).unwrap_or_else(|| panic!("no container {role}"))
    }

    /// Takes a container out of the lab, for tests that end its namespace.
    #[track_caller]
    pub fn take_container(&mut self, role: &str) -> Namespace {
        self.before.remove(role);
        self.containers.remove(role).unwrap_or_else(|| panic!("no container {role}"))
    }

    /// Takes a container out of the comparison before and after, because the test changes it.
    pub fn expect_changes(&mut self, role: &str) {
        self.before.remove(role);
    }

    /// What the namespace of `role` (`host`, or a container's) is like now is how it is to be found at the end.
    #[track_caller]
    pub fn found_now(&mut self, role: &str) {
        let namespace = if role == "host" { &self.host } else { self.container(role) };
        let inventory = must(Inventory::take(namespace));
        self.before.insert(role.to_owned(), inventory);
    }

    /// `add-br` with the words of `args`.
    #[track_caller]
    pub fn add_bridge(&self, bridge: &str, args: &str) -> Bridge {
        let mut words = vec!["add-br", bridge];
        words.extend(args.split_whitespace());
        self.ctl(&words);
        self.bridge(bridge)
    }

    /// Attaches container `role` to `bridge` as the port named `role`, with the words of `args`;
    /// makes the container if there is none.
    #[track_caller]
    pub fn attach(&mut self, bridge: &str, role: &str, args: &str) -> Port {
        if !self.containers.contains_key(role) {
            self.add_container(role);
        }
        let netns = self.netns(role);
        let mut words = vec!["add-port", bridge, &netns];
        if !args.contains("--name") {
            words.extend(["--name", role]);
        }
        words.extend(args.split_whitespace());
        let value = self.ctl_json(&words);
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("add-port printed {value}: {error}"))
    }

    /// A bridge `br0` with the containers `roles`, all with addresses of their own.
    #[track_caller]
    pub fn simple(&mut self, bridge_args: &str, roles: &[&str]) -> Vec<Port> {
        self.add_bridge("br0", bridge_args);
        roles.iter().map(|role| self.attach("br0", role, "")).collect()
    }

    /// Starts a program in the background until the end of the lab; returns its process id.
    #[track_caller]
    pub fn start(&mut self, mut command: Command) -> u32 {
        let output = self.path(&format!("background-{}.log", self.background.len()));
        let process = must(Background::start(&mut command, &output));
        let pid = process.pid();
        self.background.push(process);
        pid
    }

    /// What the daemons of this lab logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.config.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// The value, or a panic with the whole error.
#[track_caller]
pub fn must<T>(result: std::io::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}
