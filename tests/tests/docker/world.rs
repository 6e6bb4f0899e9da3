//! A host with Docker, and with one driver or the other.

use std::io;

use vswitch_tests::docker::{Container, Docker, image};
use vswitch_tests::lab::must;
use vswitch_tests::{Lab, Options, requirement};

/// Docker's network driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Docker's own: a bridge of the kernel, iptables, a proxy for each published port.
    Bridge,
    /// The switch.
    Vswitch,
}

impl Driver {
    /// Its name for `docker network create -d`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vswitch => "vswitch",
        }
    }
}

/// A host with a running Docker, its image imported; with [`Driver::Vswitch`] the daemon, too.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) driver: Driver,
    // Before the lab: containers end while their switch is there.
    pub(crate) docker: Docker,
    pub(crate) lab: Lab,
}

/// How `dockerd` is started where nothing but the driver under test shall have a part in anything: no `docker0`, no
/// rules, no forwarding.
pub(crate) const PLAIN: [&str; 4] =
    ["--bridge=none", "--iptables=false", "--ip-forward=false", "--userland-proxy=false"];

impl World {
    /// None, loudly, where it cannot run. `dockerd` gets `args`.
    #[track_caller]
    pub(crate) fn new(driver: Driver, args: &[&str]) -> Option<Self> {
        let programs = ["dockerd", "containerd", "runc", "docker", "busybox", "cc"];
        if !requirement::system() || !programs.into_iter().all(requirement::program) {
            return None;
        }
        let mut options = Options::default();
        if driver == Driver::Vswitch {
            options.args.push("--docker".to_owned());
        }
        let mut lab = Lab::outside_without_daemon("tc", options)?;
        let directory = lab.path("docker");
        let docker = must(Docker::start(lab.host_mut(), &directory, args));
        must(image::busybox(&directory).and_then(|archive| docker.import(&archive, image::NAME)));
        match driver {
            Driver::Bridge => lab.expect_changes("host"),
            Driver::Vswitch => {
                lab.found_now("host");
                lab.start_daemon();
            }
        }
        Some(Self { driver, docker, lab })
    }

    /// Removes what there is of containers and networks, and asserts that nothing of them is left behind.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        must(self.docker.remove_all());
        self.lab.finish();
        must(self.docker.stop_daemon());
    }

    /// `docker network create` with the driver and the words of `args`.
    pub(crate) fn network(&self, name: &str, args: &str) -> io::Result<()> {
        self.docker.line(&format!("network create -d {} {args} {name}", self.driver.name())).map(drop)
    }

    /// Starts a container; `args` of `docker run`.
    pub(crate) fn start(&self, name: &str, args: &str) -> io::Result<Container> {
        self.docker.start_container(name, args)
    }
}
