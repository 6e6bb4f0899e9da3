//! Network namespaces of a test's own, commands in them, and what the kernel does there in its own time. What a test makes
//! here is gone with it, however it ends.

// Each test uses a part of this.
#![allow(dead_code)]

use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use vswitch::control::netlink::Netlink;
use vswitch::control::netns::{Netns, NetnsRef};

/// Whether this test can run; says so loudly if not, and fails where it must.
pub(crate) fn can_run(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("VSWITCH_REQUIRE_SYSTEM").is_none_or(|value| value != "1"),
        "{test} NOT RUN: it needs root, and VSWITCH_REQUIRE_SYSTEM=1 forbids to leave it out"
    );
    eprintln!("{test} NOT RUN: needs root");
    false
}

/// Runs a command for 30 seconds at most.
pub(crate) fn command(program: &str, args: &[&str]) -> Output {
    Command::new("timeout").arg("30").arg(program).args(args).output().expect("coreutils' timeout starts")
}

/// The same, which must succeed: what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = command(program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// How long to wait for what must come, on however busy a machine: success ends it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something holds that the kernel, or another thread, does in its own time.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    eventually_ok(what, || holds().then_some(()).ok_or("not so"));
}

/// What `attempt` gives as soon as it succeeds. For what needs something that was just closed, too: a child of another
/// test, between its fork and its exec, still has every descriptor.
#[track_caller]
pub(crate) fn eventually_ok<T, E: std::fmt::Debug>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{what}: {error:?}, for {PATIENCE:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The words of a command.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A namespace known to `ip netns`, removed at the end of the test.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// A namespace whose loopback interface is down, as the kernel makes it.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vnt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        Self { name }
    }

    /// A namespace whose loopback interface is up.
    pub(crate) fn with_loopback() -> Self {
        let namespace = Self::new();
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::open(&NetnsRef::Name(self.name.clone())).expect("the namespace was just made")
    }

    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns().run(f).expect("root may enter")
    }

    pub(crate) fn netlink(&self) -> Netlink {
        self.inside(|| Netlink::open().expect("a socket"))
    }

    /// `ip` in the namespace.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        run("ip", &[&["-n", &self.name], args].concat())
    }

    pub(crate) fn exec(&self, args: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.name], args].concat())
    }

    pub(crate) fn try_exec(&self, args: &[&str]) -> Output {
        command("ip", &[&["netns", "exec", &self.name], args].concat())
    }

    /// Starts a command whose output nobody wants.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("ip starts")
    }

    /// Everything that a test could leave behind.
    pub(crate) fn state(&self) -> String {
        ["link", "address", "route", "neighbour"].map(|what| self.ip(&[what, "show"])).concat()
    }

    pub(crate) fn remove(&self) {
        run("ip", &["netns", "del", &self.name]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Removed already is as well.
        command("ip", &["netns", "del", &self.name]);
    }
}
