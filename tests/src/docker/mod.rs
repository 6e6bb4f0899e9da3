//! A real Docker for one host of a lab: `dockerd` and what it starts, with nothing of the machine's own in sight.
//!
//! # Theory of operation
//!
//! [`Docker`] runs in a host's network namespace and in a mount namespace that belongs to that host alone
//! ([`mounts`]): its sockets, its plugin directory and its sandboxes are where Docker always has them (`/run/docker…`),
//! but only its host sees them; images and containers are in the lab's temporary directory, control groups below a name
//! of the lab's. So its iptables rules, its `docker0` and its sysctls are that namespace's, and any number of Dockers
//! run side by side, whether or not the machine has one of its own.
//!
//! The images are made of local static programs ([`image`]); nothing is pulled.
//!
//! Docker starts programs that outlive it (a shim for each container). Whatever happens, a panicking test included, all
//! of them have ended when a [`Docker`] is dropped ([`processes`]).

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::http;
use crate::namespace::Namespace;
use crate::process::{Background, run, run_ok, wait_until};

pub mod container;
pub mod image;
pub mod interceptor;
pub mod mounts;
pub mod processes;

pub use container::Container;
pub use interceptor::{Interceptor, Moment};

/// How long `dockerd` may take until it answers; longer than it waits for a plugin that does not.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// How long `dockerd` may take to end: it gives containers fifteen seconds.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Where Docker's API is, as its host sees it.
const SOCKET: &str = "/run/docker.sock";

/// A running Docker; it and all that it started ends on drop.
#[derive(Debug)]
pub struct Docker {
    /// The host's namespaces, those of mounts included.
    host: Namespace,
    /// The mount namespace's inode, by which processes in it are told from others.
    mounts: u64,
    daemon: Option<Background>,
    directory: PathBuf,
    args: Vec<String>,
    /// The parent of its control groups.
    group: String,
}

impl Docker {
    /// Starts Docker in `host`, which gets a mount namespace of its own if it has none, with all its files below
    /// `directory`, and waits until it answers. `args` are further arguments of `dockerd`.
    ///
    /// # Errors
    /// The mounts cannot be made, or `dockerd` does not start; with what it logged.
    pub fn start(host: &mut Namespace, directory: &Path, args: &[&str]) -> io::Result<Self> {
        processes::sweep();
        std::fs::create_dir_all(directory)?;
        let mounts = mounts::create(host, directory)?;
        let inode = mounts.metadata()?.ino();
        host.set_mounts(mounts.try_clone()?);
        let mut docker = Self {
            host: host.another(mounts)?,
            mounts: inode,
            daemon: None,
            directory: directory.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            group: host.name().to_owned(),
        };
        docker.start_daemon()?;
        Ok(docker)
    }

    /// Starts `dockerd`, again if it was stopped, and waits until it answers.
    ///
    /// # Errors
    /// It does not start; with what it logged.
    pub fn start_daemon(&mut self) -> io::Result<()> {
        self.spawn_daemon()?;
        self.await_daemon()
    }

    /// Starts `dockerd` without waiting for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_daemon(&mut self) -> io::Result<()> {
        let mut command = self.host.command("dockerd");
        command.arg("--data-root").arg(self.directory.join("data"));
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", &format!("/{}", self.group)]);
        command.args(&self.args);
        self.daemon = Some(Background::start(&mut command, &self.directory.join("dockerd.log"))?);
        Ok(())
    }

    /// Waits until `dockerd` answers.
    ///
    /// # Errors
    /// It does not, or it has ended; with what it logged.
    pub fn await_daemon(&mut self) -> io::Result<()> {
        let Some(daemon) = &mut self.daemon else { return Err(io::Error::other("dockerd was not started")) };
        // Asked through its own root directory: its socket is in a directory that only its host sees.
        let socket = PathBuf::from(format!("/proc/{}/root{SOCKET}", daemon.pid()));
        let answer = wait_until("dockerd's first answer", START_LIMIT, || {
            let answers = http::request(&socket, "GET", "/_ping", None).is_ok_and(|answer| answer.status == 200);
            (answers || daemon.has_ended()).then_some(answers)
        });
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::other(format!("dockerd ended: {}", self.complaints()))),
            Err(error) => Err(io::Error::new(error.kind(), format!("{error}: {}", self.complaints()))),
        }
    }

    /// SIGTERM to `dockerd`, and waits for its end. Containers are stopped by it, unless it was started with
    /// `--live-restore`.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn stop_daemon(&mut self) -> io::Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.signal(Signal::TERM);
        daemon.wait(END_LIMIT).map(drop)
    }

    /// SIGKILL to `dockerd`; its containers run on. Its containerd ends with it, which is waited for: a new one would
    /// take it for its own, and wait for it in vain.
    ///
    /// # Errors
    /// It did not end.
    pub fn kill_daemon(&mut self) -> io::Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.signal(Signal::KILL);
        daemon.wait(END_LIMIT)?;
        wait_until("the end of containerd", END_LIMIT, || (!processes::runs(self.mounts, "containerd")).then_some(()))?;
        // Its parent is process 1 by now. Until that has reaped it, the next dockerd takes it for a living one.
        run_ok(self.host.command("rm").args(["-f", "/run/docker/containerd/containerd.pid"]), COMMAND_LIMIT).map(drop)
    }

    /// SIGKILL to everything at once, as when the power goes: `dockerd`, its containers, whatever it started.
    pub fn kill_everything(&mut self) {
        self.daemon = None;
        processes::end(self.mounts, &self.group);
    }

    /// Removes what a machine does not have when it has just been switched on: all that is in `/run/docker…`, sandboxes
    /// included. To be used when nothing of it runs.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear_run(&self) -> io::Result<()> {
        const SCRIPT: &str =
            "for sandbox in /run/docker/netns/*; do umount \"$sandbox\" 2>/dev/null; done; rm -rf /run/docker*";
        run_ok(self.host.command("sh").args(["-c", SCRIPT]), COMMAND_LIMIT).map(drop)
    }

    /// The process id of `dockerd`.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Background::pid)
    }

    /// A path of the host's, such as `/run/docker/plugins`, as everybody else sees it while `dockerd` runs.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let pid = self.pid().unwrap_or_default();
        PathBuf::from(format!("/proc/{pid}/root{path}"))
    }

    /// What `dockerd` logged.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(self.directory.join("dockerd.log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The last lines of the log that are no mere information.
    fn complaints(&self) -> String {
        let log = self.log();
        let mut lines: Vec<&str> = log.lines().rev().filter(|line| !line.contains("level=info")).take(15).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// A command that uses this Docker by its default socket: `docker`, `docker-compose`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.host.command(program);
        // The client that came with the daemon, should another one have been installed beside it.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{path}"));
        command.env("DOCKER_CONFIG", self.directory.join("client")).env("HOME", &self.directory);
        for variable in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs `docker` with `args`; returns its standard output without white space at its ends.
    ///
    /// # Errors
    /// It fails, with what it printed on standard error, or does not end in time.
    pub fn run(&self, args: &[&str]) -> io::Result<String> {
        let output = run(self.command("docker").args(args), COMMAND_LIMIT)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(io::Error::other(format!("docker {}: {}{}", args.join(" "), text(&output.stderr), text(&output.stdout))))
    }

    /// Runs `docker` with the words of `line`.
    ///
    /// # Errors
    /// As [`Docker::run`].
    pub fn line(&self, line: &str) -> io::Result<String> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `docker` with the words of `line` and returns what it did, whatever its exit status.
    ///
    /// # Errors
    /// It does not start, or does not end in time.
    pub fn output(&self, line: &str) -> io::Result<Output> {
        run(self.command("docker").args(line.split_whitespace()), COMMAND_LIMIT)
    }

    /// `docker inspect` of one thing of a `kind`: `container`, `network`, `image`.
    ///
    /// # Errors
    /// There is none.
    pub fn inspect(&self, kind: &str, name: &str) -> io::Result<Value> {
        let list: Value = serde_json::from_str(&self.run(&["inspect", "--type", kind, name])?)?;
        Ok(list[0].clone())
    }

    /// Imports the archive of an image ([`image`]) as `name`.
    ///
    /// # Errors
    /// Docker does not take it.
    pub fn import(&self, archive: &Path, name: &str) -> io::Result<()> {
        let archive = archive.display().to_string();
        self.run(&["import", "--change", "CMD [\"/pause\"]", &archive, name]).map(drop)
    }

    /// `docker run -d` with the words of `args` of the image [`image::NAME`].
    ///
    /// # Errors
    /// It fails, or the container has ended at once.
    pub fn start_container(&self, name: &str, args: &str) -> io::Result<Container> {
        let mut words = vec!["run", "-d", "--name", name];
        words.extend(args.split_whitespace());
        words.push(image::NAME);
        self.run(&words)?;
        self.container(name)
    }

    /// A running container.
    ///
    /// # Errors
    /// There is none of that name that runs.
    pub fn container(&self, name: &str) -> io::Result<Container> {
        Container::new(name, self.inspect("container", name)?)
    }

    /// `docker exec` of the words of `line`.
    ///
    /// # Errors
    /// It fails.
    pub fn exec(&self, container: &str, line: &str) -> io::Result<String> {
        self.line(&format!("exec {container} {line}"))
    }

    /// `docker rm -f`.
    ///
    /// # Errors
    /// One of them does not exist, or does not go.
    pub fn remove(&self, containers: &[&str]) -> io::Result<()> {
        self.run(&[&["rm", "-f"], containers].concat()).map(drop)
    }

    /// Removes all containers and all networks that somebody has made.
    ///
    /// # Errors
    /// One of them does not go.
    pub fn remove_all(&self) -> io::Result<()> {
        let containers = self.line("ps -aq")?;
        if !containers.is_empty() {
            self.line(&format!("rm -f {}", containers.replace('\n', " ")))?;
        }
        let networks = self.line("network ls -q --filter type=custom")?;
        if !networks.is_empty() {
            self.line(&format!("network rm {}", networks.replace('\n', " ")))?;
        }
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::announce(&format!("what dockerd complained of:\n{}", self.complaints()));
        }
        // Best effort, in the order of politeness: asked to end, told to end, ended.
        let _ = self.stop_daemon();
        processes::end(self.mounts, &self.group);
    }
}
