//! Docker itself: `dockerd` by hand in the host's namespace, everything of it (images, sockets, control groups) below
//! names of our own, with its default bridge, iptables and userland proxies. Debian: docker.io, of which nothing needs
//! to be enabled or running.
//!
//! The image is one static program that waits; what is measured is started in the container's network namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vswitch_tests::namespace::Namespace;
use vswitch_tests::process::{Background, run_ok, wait_until};

use super::{Container, FIRST_PORT, Family, PUBLISHED_PORTS, Setup};

const LIMIT: Duration = Duration::from_secs(60);
/// Pauses until it is told to end.
const PAUSE: &str = "#include <signal.h>\n#include <unistd.h>\n\
    static void end(int s) { (void)s; _exit(0); }\n\
    int main(void) { signal(SIGTERM, end); for (;;) pause(); }\n";

/// A running Docker with one container; it stops on drop.
#[derive(Debug)]
pub(super) struct Docker {
    daemon: Background,
    socket: String,
    /// The parent of its control groups.
    group: String,
}

impl Docker {
    /// Starts Docker in `host`, and a container, which takes the place of `container`.
    pub(super) fn join(
        host: &Namespace,
        container: &mut Container,
        setup: &Setup,
        directory: &Path,
    ) -> io::Result<Self> {
        if setup.family == Family::Ipv6 {
            return Err(io::Error::other("docker0 has no IPv6 NAT by default; leave it out with --peers"));
        }
        let below = |name: &str| directory.join(name);
        let socket = format!("unix://{}", below("docker.sock").display());
        let group = host.name().to_owned();
        // The daemon restarts what it starts: it must not be asked to end before its container has.
        let mut command = private_mounts(host, "dockerd", directory)?;
        command.arg("--data-root").arg(below("data")).arg("--exec-root").arg(below("exec"));
        command.arg("--pidfile").arg(below("docker.pid")).args(["-H", &socket]);
        command.args(["--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.args(["--cgroup-parent", &group, "--bip", &format!("{}/16", setup.family.gateway())]);
        command.args(["--mtu", &setup.mtu.to_string()]);
        let daemon = Background::start(&mut command, &below("dockerd.log"))?;
        let mut docker = Self { daemon, socket, group };
        wait_until("dockerd", LIMIT, || docker.client(&["version"]).is_ok().then_some(()))
            .map_err(|error| io::Error::new(error.kind(), format!("{error}: {}", docker.daemon.output())))?;
        docker.client(&["import", &image(directory)?.display().to_string(), "pause"])?;
        let range = format!("{FIRST_PORT}-{}", FIRST_PORT + PUBLISHED_PORTS - 1);
        let publish = ["tcp", "udp"].map(|protocol| format!("{range}:{range}/{protocol}"));
        docker.client(&["run", "-d", "--name", "server", "-p", &publish[0], "-p", &publish[1], "pause", "/pause"])?;
        let inspect =
            |format: &str| Ok::<_, io::Error>(docker.client(&["inspect", "-f", format, "server"])?.trim().to_owned());
        let pid = inspect("{{.State.Pid}}")?;
        let address = inspect("{{.NetworkSettings.IPAddress}}")?;
        let name = container.namespace.name().to_owned();
        // Its name is free before another namespace gets it.
        container.namespace.unname()?;
        container.namespace = Namespace::attach(&name, &pid)?;
        container.address = address.parse().map_err(|_| io::Error::other(format!("no address: {address}")))?;
        docker.daemon.has_ended();
        Ok(docker)
    }

    /// The process id of the daemon.
    pub(super) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    fn client(&self, args: &[&str]) -> io::Result<String> {
        run_ok(Command::new("docker").args(["-H", &self.socket]).args(args), LIMIT)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Best effort, and what is left dies with its namespace's processes.
        let _ = self.client(&["rm", "-f", "server"]);
        self.daemon.stop();
        let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for parent in groups.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
            let _ = fs::remove_dir(parent.join(&self.group));
        }
    }
}

/// `program` in `host`, its mounts unseen by others: Docker mounts what its containers see.
fn private_mounts(host: &Namespace, program: &str, directory: &Path) -> io::Result<Command> {
    fs::create_dir_all(directory)?;
    let mut command = host.command("unshare");
    command.args(["--mount", "--propagation", "slave", program]);
    Ok(command)
}

/// An archive with one static program.
fn image(directory: &Path) -> io::Result<PathBuf> {
    let root = directory.join("image");
    fs::create_dir_all(&root)?;
    let (source, archive) = (directory.join("pause.c"), directory.join("image.tar"));
    fs::write(&source, PAUSE)?;
    run_ok(Command::new("cc").args(["-static", "-Os", "-o"]).arg(root.join("pause")).arg(&source), LIMIT)?;
    run_ok(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("pause"), LIMIT)?;
    Ok(archive)
}
