//! `dockerd` by hand, with nothing of it in the machine's own places.
//!
//! Images, sockets and control groups are below names of our own. What has a fixed place gets a file system of its own
//! in a mount namespace that only this engine, and the switch that serves it, are in: `/run/docker`, where plugins'
//! sockets are looked for, `/etc/docker`, where a key is written at the first start, and `/run/containerd`, where a
//! containerd that runs already would be taken for ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vswitch_tests::namespace::Namespace;
use vswitch_tests::process::{Background, run_ok, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// The directories that get a file system of their own.
const PRIVATE: [&str; 3] = ["/etc/docker", "/run/docker", "/run/containerd"];

/// A running `dockerd`; it stops on drop, after its containers.
#[derive(Debug)]
pub(super) struct Engine {
    daemon: Background,
    socket: String,
    /// The parent of its control groups.
    group: String,
    /// What it has put on the machine's file systems: mount points that did not exist.
    made: Vec<PathBuf>,
}

impl Engine {
    /// Starts it in `host`, all of its files below `directory`, with further arguments.
    ///
    /// # Errors
    /// A program is not installed, or it does not come up; with its log.
    pub(super) fn start(host: &Namespace, directory: &Path, args: &[&str]) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let missing = PRIVATE.iter().map(PathBuf::from).filter(|path| !path.exists());
        let made = missing.map(|path| fs::create_dir(&path).map(|()| path)).collect::<io::Result<Vec<_>>>()?;
        let below = |name: &str| directory.join(name);
        let socket = format!("unix://{}", below("docker.sock").display());
        let group = host.name().to_owned();
        let mounts: String = PRIVATE.iter().map(|path| format!("mount -t tmpfs vswitch-lab {path} && ")).collect();
        let mut command = host.command("unshare");
        // Named namespaces that are made later are still seen: mounts come in, and none goes out.
        command.args(["--mount", "--propagation", "slave", "sh", "-c", &format!("{mounts} exec \"$@\""), "sh"]);
        command.arg("dockerd").arg("--data-root").arg(below("data")).arg("--exec-root").arg(below("exec"));
        command.arg("--pidfile").arg(below("docker.pid")).args(["-H", &socket]);
        command.args(["--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.args(["--cgroup-parent", &group]).args(args);
        let daemon = Background::start(&mut command, &below("dockerd.log"))?;
        let mut engine = Self { daemon, socket, group, made };
        let answer = wait_until("dockerd", LIMIT, || {
            if engine.daemon.has_ended() {
                return Some(Err(io::Error::other("dockerd ended")));
            }
            engine.client(&["version"]).is_ok().then_some(Ok(()))
        });
        match answer {
            Ok(Ok(())) => Ok(engine),
            Ok(Err(error)) | Err(error) => {
                Err(io::Error::new(error.kind(), format!("{error}: {}", engine.daemon.output())))
            }
        }
    }

    /// Runs `docker`.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn client(&self, args: &[&str]) -> io::Result<String> {
        run_ok(Command::new("docker").args(["-H", &self.socket]).args(args), LIMIT)
    }

    /// Gives the network namespace of the container `name` the name that `namespace` has, in its place.
    ///
    /// # Errors
    /// There is no such container.
    pub(super) fn rename(&self, name: &str, namespace: &mut Namespace) -> io::Result<()> {
        let pid = self.inspect("{{.State.Pid}}", name)?;
        let label = namespace.name().to_owned();
        // The name is free before another namespace gets it.
        namespace.unname()?;
        *namespace = Namespace::attach(&label, &pid)?;
        Ok(())
    }

    /// What `docker inspect` says of `name`, by `format`.
    ///
    /// # Errors
    /// There is no such thing.
    pub(super) fn inspect(&self, format: &str, name: &str) -> io::Result<String> {
        Ok(self.client(&["inspect", "-f", format, name])?.trim().to_owned())
    }

    /// The processes that are Docker's share of the switch: the daemon, and its proxies. `containerd` is among the
    /// daemon's children too; it forwards nothing.
    pub(super) fn pids(&self) -> Vec<u32> {
        let daemon = self.pid();
        let tasks = fs::read_dir(format!("/proc/{daemon}/task")).into_iter().flatten().flatten();
        let children: Vec<u32> = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        std::iter::once(daemon).chain(children).collect()
    }

    /// The process that the mount namespace can be entered by.
    pub(super) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Removes all containers.
    fn clear(&self) -> io::Result<()> {
        let all = self.client(&["ps", "--all", "--quiet"])?;
        let containers: Vec<&str> = all.split_whitespace().collect();
        if !containers.is_empty() {
            self.client(&[&["rm", "--force"], &containers[..]].concat())?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Best effort: what is left dies with the processes of its namespace, at the latest by the next sweep.
        // Containers first: a shim outlives the daemon.
        let _ = self.clear();
        self.daemon.stop();
        let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for parent in groups.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
            let _ = fs::remove_dir(parent.join(&self.group));
        }
        for path in &self.made {
            let _ = fs::remove_dir(path);
        }
    }
}
