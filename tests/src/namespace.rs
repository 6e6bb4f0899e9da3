//! Network namespaces with names of our own.
//!
//! Names are `vsw<pid>-<n>-<role>`: the process id makes them unique among test processes, and lets
//! [`sweep`] recognise what a killed process left behind.
// `Command::pre_exec` is unsafe: it runs code between fork and exec.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{PATIENCE, run_ok, wait_until};

/// Where `ip netns` keeps the named namespaces.
pub const DIRECTORY: &str = "/run/netns";

/// A prefix that no other lab uses: `vsw<pid>-<n>-`.
#[must_use]
pub fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("vsw{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    /// Whether the name still stands for this namespace.
    named: bool,
    /// The mount namespace that commands enter, too.
    mounts: Option<File>,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up.
    ///
    /// # Errors
    /// What `ip netns` says.
    pub fn create(name: &str) -> io::Result<Self> {
        let mut made = Self::create_all(std::slice::from_ref(&name))?;
        let namespace = made.pop().ok_or_else(|| io::Error::other("no namespace was made"))?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Makes many namespaces, quicker than one by one; their loopback interfaces stay down.
    ///
    /// # Errors
    /// What `ip netns` says; those made before the failure are deleted again.
    pub fn create_all(names: &[impl AsRef<str>]) -> io::Result<Vec<Self>> {
        let adds: String = names.iter().map(|name| format!("netns add {}\n", name.as_ref())).collect();
        ip_batch(&adds)?;
        let mut made = Vec::with_capacity(names.len());
        for name in names {
            let name = name.as_ref().to_owned();
            let file = File::open(Path::new(DIRECTORY).join(&name))?;
            made.push(Self { name, file, named: true, mounts: None });
        }
        Ok(made)
    }

    /// Gives the namespace of the process `pid`, which somebody else has made, the name `name`.
    ///
    /// # Errors
    /// What `ip netns` says.
    pub fn attach(name: &str, pid: &str) -> io::Result<Self> {
        ip_batch(&format!("netns attach {name} {pid}\n"))?;
        let file = File::open(Path::new(DIRECTORY).join(name))?;
        Ok(Self { name: name.to_owned(), file, named: true, mounts: None })
    }

    /// The namespace of the process `pid`, which somebody else has made and ends: `name` is for messages alone.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of_process(name: &str, pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/ns/net")).map_err(|error| {
            io::Error::new(error.kind(), format!("the namespace of {name}, process {pid}: {error}"))
        })?;
        Ok(Self { name: name.to_owned(), file, named: false, mounts: None })
    }

    /// The same namespace once more, whose name others care for, with a mount namespace.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn another(&self, mounts: File) -> io::Result<Self> {
        Ok(Self { name: self.name.clone(), file: self.file.try_clone()?, named: false, mounts: Some(mounts) })
    }

    /// Commands see `mounts` from now on.
    pub fn set_mounts(&mut self, mounts: File) {
        self.mounts = Some(mounts);
    }

    /// The name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the namespace's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `f` in a thread that has entered the namespace.
    ///
    /// # Panics
    /// When the namespace cannot be entered, and with the panic of `f`.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let handle = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap_or_else(|error| panic!("cannot enter the namespace {}: {error}", self.name));
                f()
            });
            match handle.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run in the namespace, and be sent SIGTERM should the calling thread end.
    ///
    /// # Panics
    /// When there is no descriptor left.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let duplicate =
            |file: &File| file.try_clone().unwrap_or_else(|error| panic!("cannot duplicate a descriptor: {error}"));
        let file = duplicate(&self.file);
        let mounts = self.mounts.as_ref().map(duplicate);
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        // SAFETY: between fork and exec only system calls are made; none of them allocates or locks.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                if let Some(mounts) = &mounts {
                    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
                }
                set_parent_process_death_signal(Some(Signal::TERM))?;
                Ok(())
            });
        }
        command
    }

    /// Runs a command line, split at white space, in the namespace; for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// See [`run_ok`].
    pub fn run(&self, line: &str) -> io::Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().ok_or_else(|| io::Error::other("an empty command line"))?;
        run_ok(self.command(program).args(words), PATIENCE)
    }

    /// Runs `ip` with the arguments of `line` in the namespace.
    ///
    /// # Errors
    /// See [`run_ok`].
    pub fn ip(&self, line: &str) -> io::Result<String> {
        self.run(&format!("ip {line}"))
    }

    /// Sets a sysctl of the namespace, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// The value cannot be written.
    pub fn sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        // `/proc/sys/net` shows the namespace of the thread that opens it.
        self.enter(|| fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value))
            .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))
    }

    /// A counter of an interface of the namespace, such as `rx_packets`.
    ///
    /// # Errors
    /// The interface does not exist, or has no such counter.
    pub fn link_counter(&self, ifname: &str, counter: &str) -> io::Result<u64> {
        let text = self.ip(&format!("-j -s link show dev {ifname}"))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let (side, what) = counter.split_once('_').unwrap_or(("", counter));
        links[0]["stats64"][side][what]
            .as_u64()
            .ok_or_else(|| io::Error::other(format!("{ifname} has no counter {counter}: {text}")))
    }

    /// The MAC address of an interface of the namespace.
    ///
    /// # Errors
    /// The interface does not exist.
    pub fn mac(&self, ifname: &str) -> io::Result<[u8; 6]> {
        let links: serde_json::Value = serde_json::from_str(&self.ip(&format!("-j link show dev {ifname}"))?)?;
        links[0]["address"].as_str().map(crate::frame::parse_mac).ok_or_else(|| io::Error::other("no address"))
    }

    /// Deletes the name now; the namespace itself lives until its last user is gone, and this value
    /// holds it by a descriptor, so use [`Namespace::destroy`] where its end matters.
    ///
    /// # Errors
    /// What `ip netns` says.
    pub fn unname(&mut self) -> io::Result<()> {
        self.named = false;
        ip_batch(&format!("netns del {}\n", self.name))
    }

    /// Ends the namespace: no process and no descriptor of ours keeps it.
    ///
    /// # Errors
    /// What `ip netns` says.
    pub fn destroy(mut self) -> io::Result<()> {
        self.unname()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.named {
            // Best effort: the sweep of a later process finds what could not be deleted.
            let _ = self.unname();
        }
    }
}

/// Deletes many namespaces, quicker than one by one.
///
/// # Errors
/// What `ip netns` says.
pub fn destroy_all(mut namespaces: Vec<Namespace>) -> io::Result<()> {
    let deletes: String =
        namespaces.iter().filter(|one| one.named).map(|one| format!("netns del {}\n", one.name)).collect();
    for namespace in &mut namespaces {
        namespace.named = false;
    }
    drop(namespaces);
    ip_batch(&deletes)
}

/// Feeds `commands`, one a line, to one `ip` process.
fn ip_batch(commands: &str) -> io::Result<()> {
    let mut child = Command::new("ip")
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim_end())))
}

/// Removes what killed processes left behind: every namespace named `vsw<pid>-…` whose process no
/// longer exists, with the processes in it. Returns the names.
///
/// # Errors
/// The directory of the named namespaces cannot be read.
pub fn sweep() -> io::Result<Vec<String>> {
    let mut swept = Vec::new();
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("vsw").and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if Path::new(&format!("/proc/{owner}")).exists() {
            continue;
        }
        // Another process may sweep at the same time: what is gone meanwhile is no error.
        for pid in pids(&name) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = wait_until("the end of leftover processes", PATIENCE, || pids(&name).is_empty().then_some(()));
        if ip_batch(&format!("netns del {name}\n")).is_ok() {
            swept.push(name);
        }
    }
    Ok(swept)
}

/// The processes in the namespace `name`.
#[must_use]
pub fn pids(name: &str) -> Vec<i32> {
    run_ok(Command::new("ip").args(["netns", "pids", name]), PATIENCE)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
