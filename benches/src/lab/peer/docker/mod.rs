//! Docker itself, in the host's namespaces ([`vswitch_tests::docker`]). Debian: docker.io, of which nothing needs to be
//! enabled or running.
//!
//! Two questions are asked of it. [`idle`] is one of the gateways ([`super::Gateway::Docker`]): its default
//! bridge, with one container that waits; what is measured is started in that container's network namespace, as it is
//! with the other gateways. [`Network::join`] is the peer of `lab --docker`: the servers are what the containers
//! run, `docker run -p` is what publishes them, and the only difference between the peers is the driver that
//! `docker network create` names.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vswitch_tests::daemon::Daemon;
use vswitch_tests::docker::{Docker, image};
use vswitch_tests::namespace::Namespace;

use super::{Container, FIRST_PORT, Family, PUBLISHED_PORTS, Service, Services, Setup, ours};

mod servers;

/// The network of the containers.
const NETWORK: &str = "lab";
/// Their image.
const IMAGE: &str = "vswitch-lab";
/// Where the servers of [`Network::join`] are: the first container is the outside.
pub(super) const SERVICES: Services = Services {
    http: Service { container: 1, port: FIRST_PORT + 1 },
    iperf: Service { container: 2, port: FIRST_PORT },
};

/// A Docker network with the servers in containers, by its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Docker's own bridge.
    Bridge,
    /// Our switch, serving as Docker's network driver.
    Vswitch(PortType, Option<PathBuf>),
}

/// The kind of the containers' interfaces, and of what attaches the switch to the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortType {
    /// TAP, and the uplink at tc.
    Tap,
    /// AF_XDP, and the uplink by AF_XDP.
    Xdp,
}

impl PortType {
    const ALL: [Self; 2] = [Self::Tap, Self::Xdp];

    fn name(self) -> &'static str {
        match self {
            Self::Tap => "docker-vswitch-tap",
            Self::Xdp => "docker-vswitch-xdp",
        }
    }

    /// The value of the network's option `type`.
    fn option(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Xdp => "xdp",
        }
    }

    fn uplink(self) -> &'static str {
        match self {
            Self::Tap => "u0,tc",
            Self::Xdp => "u0,xdp=native",
        }
    }
}

impl Network {
    /// The peers of a comparison.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        [Self::Bridge].into_iter().chain(PortType::ALL.map(|kind| Self::Vswitch(kind, None))).collect()
    }

    /// The names of all of them.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ["docker-bridge"].into_iter().chain(PortType::ALL.map(PortType::name)).collect()
    }

    /// The one of this name; `build` is the directory of the programs where that is not the default.
    #[must_use]
    pub fn from_name(name: &str, build: Option<PathBuf>) -> Option<Self> {
        if (name, &build) == ("docker-bridge", &None) {
            return Some(Self::Bridge);
        }
        let kind = PortType::ALL.into_iter().find(|kind| kind.name() == name)?;
        Some(Self::Vswitch(kind, build))
    }

    /// Whether it needs our programs where they are by default.
    #[must_use]
    pub fn needs_binaries(&self) -> bool {
        matches!(self, Self::Vswitch(_, None))
    }

    /// Starts Docker in `host`, and the servers in containers, which take the places of `containers`: nginx, iperf3.
    pub(super) fn join(
        &self,
        host: &mut Namespace,
        containers: &mut [Container],
        setup: &Setup,
        directory: &Path,
    ) -> io::Result<(Docker, Option<Daemon>)> {
        if setup.family == Family::Ipv6 {
            return Err(io::Error::other("Docker's bridge has no IPv6 NAT by default; leave --ipv6 out"));
        }
        // The engine as it comes: iptables, and a proxy for each published port.
        let docker = Docker::start(host, directory, &[])?;
        let (driver, port_type, daemon) = match self {
            Self::Bridge => ("bridge", None, None),
            Self::Vswitch(kind, build) => {
                let mut args = setup.vswitch_args.clone();
                args.extend(["--docker".to_owned(), "--uplink".to_owned(), kind.uplink().to_owned()]);
                let daemon = ours::start(host, build.as_ref().unwrap_or(&setup.binaries), args, directory)?;
                ("vswitch", Some(format!("type={}", kind.option())), Some(daemon))
            }
        };
        // Dropped before the switch, should anything fail.
        let docker = docker;
        // The name of the MTU that both drivers know.
        let mtu = format!("com.docker.network.driver.mtu={}", setup.mtu);
        let mut create = vec!["network", "create", "--driver", driver, "--subnet", setup.family.subnet(), "-o", &mtu];
        create.extend(port_type.iter().flat_map(|option| ["-o", option]));
        create.push(NETWORK);
        docker.run(&create)?;
        docker.import(&servers::archive(directory, setup.http_workers)?, IMAGE)?;
        let (http, iperf) = (SERVICES.http.port.to_string(), SERVICES.iperf.port.to_string());
        let inside = servers::NGINX_PORT;
        let nginx = format!("-p {http}:{inside} {IMAGE} /nginx -c {}/nginx.conf", servers::NGINX_PREFIX);
        let iperf = format!("-p {iperf}:{iperf} -p {iperf}:{iperf}/udp {IMAGE} /iperf3 -s -p {iperf}");
        for (container, (name, run)) in containers.iter_mut().zip([("web", nginx), ("iperf", iperf)]) {
            docker.line(&format!("run --detach --network {NETWORK} --name {name} {run}"))?;
            let started = docker.container(name)?;
            container.address = started.address(NETWORK, false)?;
            container.namespace = started.namespace;
        }
        Ok((docker, daemon))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge => f.write_str("docker-bridge"),
            Self::Vswitch(kind, None) => f.write_str(kind.name()),
            Self::Vswitch(kind, Some(build)) => write!(f, "{}@{}", kind.name(), build.display()),
        }
    }
}

/// Starts Docker in `host`, and a container on its default bridge, which takes the place of `container`.
pub(super) fn idle(
    host: &mut Namespace,
    container: &mut Container,
    setup: &Setup,
    directory: &Path,
) -> io::Result<Docker> {
    if setup.family == Family::Ipv6 {
        return Err(io::Error::other("docker0 has no IPv6 NAT by default; leave it out with --peers"));
    }
    let (gateway, mtu) = (format!("{}/16", setup.family.gateway()), setup.mtu.to_string());
    let docker = Docker::start(host, directory, &["--bip", &gateway, "--mtu", &mtu])?;
    docker.import(&image::pause(directory)?, image::NAME)?;
    let range = format!("{FIRST_PORT}-{}", FIRST_PORT + PUBLISHED_PORTS - 1);
    let started = docker.start_container("server", &format!("-p {range}:{range}/tcp -p {range}:{range}/udp"))?;
    container.address = started.address("bridge", false)?;
    container.namespace = started.namespace;
    Ok(docker)
}

/// The processes that are Docker's share of the switch: the daemon and its children, the proxies. `containerd` is one of
/// these children, too; it forwards nothing.
pub(super) fn pids(docker: &Docker) -> Vec<u32> {
    let children = |pid: u32| -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists.flat_map(|list| list.split_whitespace().map(str::parse).collect::<Vec<_>>()).flatten().collect()
    };
    docker.pid().into_iter().flat_map(|pid| [vec![pid], children(pid)].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ours_may_be_another_build() {
        assert_eq!(Network::from_name("docker-bridge", None), Some(Network::Bridge));
        assert_eq!(Network::from_name("docker-bridge", Some("/tmp".into())), None);
        let other = Network::from_name("docker-vswitch-xdp", Some("/tmp/old".into())).expect("a peer");
        assert_eq!(other.to_string(), "docker-vswitch-xdp@/tmp/old");
        assert!(!other.needs_binaries());
    }
}
