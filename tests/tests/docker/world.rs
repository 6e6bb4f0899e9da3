//! A host with Docker, and with one driver or the other.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::docker::{Container, Docker, Interceptor, image};
use vswitch_tests::lab::must;
use vswitch_tests::outside::{far, host};
use vswitch_tests::process::{PATIENCE, wait_until};
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
    /// The host's interfaces while there are no networks.
    links: BTreeSet<String>,
}

/// How `dockerd` is started where nothing but the driver under test shall have a part in anything: no `docker0`, no
/// rules, no forwarding.
pub(crate) const PLAIN: [&str; 4] =
    ["--bridge=none", "--iptables=false", "--ip-forward=false", "--userland-proxy=false"];

impl World {
    /// Docker as it is by default, and the switch. None, loudly, where it cannot run.
    #[track_caller]
    pub(crate) fn vswitch() -> Option<Self> {
        Self::new(Driver::Vswitch, &[])
    }

    /// The same, and every call of Docker's to the switch is seen.
    #[track_caller]
    pub(crate) fn intercepted() -> Option<(Self, Interceptor)> {
        const SWITCH: &str = "/run/docker/switch.sock";
        let world = Self::build(Driver::Vswitch, &[], &format!("--docker={SWITCH}"))?;
        let socket = world.docker.path("/run/docker/plugins/vswitch.sock");
        let interceptor = must(Interceptor::start(&socket, &world.docker.path(SWITCH)));
        Some((world, interceptor))
    }

    /// The same with `args` for `dockerd`.
    #[track_caller]
    pub(crate) fn new(driver: Driver, args: &[&str]) -> Option<Self> {
        Self::build(driver, args, "--docker")
    }

    #[track_caller]
    fn build(driver: Driver, args: &[&str], option: &str) -> Option<Self> {
        let programs = ["dockerd", "containerd", "runc", "docker", "busybox", "cc"];
        if !requirement::system() || !programs.into_iter().all(requirement::program) {
            return None;
        }
        let mut options = Options::default();
        if driver == Driver::Vswitch {
            options.args.push(option.to_owned());
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
        let mut world = Self { driver, docker, lab, links: BTreeSet::new() };
        world.links = world.links();
        Some(world)
    }

    /// Removes what there is of containers and networks, and asserts that nothing of them is left behind.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        must(self.docker.remove_all());
        if self.driver == Driver::Vswitch {
            self.assert_empty();
        }
        self.lab.finish();
        must(self.docker.stop_daemon());
    }

    /// Asserts that with the last network all has gone that there was of networks and containers.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        // What the kernel has yet to tell may take a moment, and so may asking Docker what it has forgotten.
        let left = || {
            let mut left = Vec::new();
            for what in ["bridges", "ports", "published"] {
                let list = match what {
                    "published" => self.lab.ctl_json(&["ports"]),
                    what => self.lab.get::<Value>(&format!("/v1/{what}")),
                };
                if list != json!([]) {
                    left.push(format!("{what}: {list}"));
                }
            }
            let connections = self.lab.ctl_json(&["conntrack"]);
            if connections != json!([]) {
                left.push(format!("connections: {connections}"));
            }
            let stored = self.stored();
            if stored["bridges"].as_object().is_some_and(|bridges| !bridges.is_empty()) {
                left.push(format!("the state file: {stored}"));
            }
            let links: Vec<String> = self.links().difference(&self.links).cloned().collect();
            if !links.is_empty() {
                left.push(format!("interfaces: {links:?}"));
            }
            left
        };
        let gone = wait_until("nothing", PATIENCE, || left().is_empty().then_some(()));
        assert!(gone.is_ok(), "left behind:\n{}", left().join("\n"));
    }

    /// The state file as it is.
    pub(crate) fn stored(&self) -> Value {
        let text = must(std::fs::read_to_string(self.lab.config().state_dir.join("state.json")));
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The names of the host's interfaces.
    fn links(&self) -> BTreeSet<String> {
        let links: Value = serde_json::from_str(&must(self.lab.host().ip("-j link"))).unwrap_or_default();
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        names.map(str::to_owned).collect()
    }

    /// Deletes the host's interfaces that are there because of networks, as the power's end does. To be used while the
    /// switch does not run.
    pub(crate) fn forget_interfaces(&self) {
        for link in self.links().difference(&self.links) {
            // With one end of a pair the other has gone.
            let _ = self.lab.host().ip(&format!("link del {link}"));
        }
        let _ = self.lab.host().run("tc qdisc del dev u0 clsact");
    }

    /// `docker network create` with the driver and the words of `args`.
    pub(crate) fn network(&self, name: &str, args: &str) -> io::Result<()> {
        self.docker.line(&format!("network create -d {} {args} {name}", self.driver.name())).map(drop)
    }

    /// The same, which is refused; returns what is said.
    #[track_caller]
    pub(crate) fn network_refused(&self, args: &str) -> String {
        match self.network("refused", args) {
            Ok(()) => panic!("network create {args} was to be refused"),
            Err(error) => error.to_string(),
        }
    }

    /// How many bridges the switch has.
    #[track_caller]
    pub(crate) fn bridges(&self) -> usize {
        self.lab.get::<Vec<Value>>("/v1/bridges").len()
    }

    /// The bridge that a network is, as the switch shows it.
    #[track_caller]
    pub(crate) fn bridge(&self, network: &str) -> Value {
        let inspect = must(self.docker.inspect("network", network));
        let named = ["com.docker.network.bridge.name", "name"].map(|key| inspect["Options"][key].as_str());
        let name = named.into_iter().flatten().next().map_or_else(
            || format!("vs-{}", inspect["Id"].as_str().and_then(|id| id.get(..12)).unwrap_or_default()),
            str::to_owned,
        );
        self.lab.get(&format!("/v1/bridges/{name}"))
    }

    /// Waits until `network` has as many ports as it should: what was left behind by a kill goes in its own time.
    #[track_caller]
    pub(crate) fn await_ports(&self, network: &str, count: u64) {
        let ports = || self.bridge(network)["ports"].as_u64();
        // What has not come in time shows below.
        let _ = wait_until("the ports", PATIENCE, || (ports() == Some(count)).then_some(()));
        assert_eq!(ports(), Some(count), "{network}: {}", self.bridge(network));
    }

    /// Starts a container; `args` of `docker run`.
    pub(crate) fn start(&self, name: &str, args: &str) -> io::Result<Container> {
        self.docker.start_container(name, args)
    }

    /// The host's port, of all its addresses or of those that were named, that leads to port `inside` of a container.
    ///
    /// Docker itself cannot say it of another driver than its own: what a plugin tells it of published ports
    /// (`EndpointOperInfo`) it reads back as another type than it asks for (`getEndpointPortMapInfo` in
    /// `daemon/network.go`, 2015 to this day).
    pub(crate) fn host_port(
        &self,
        container: &Container,
        network: &str,
        protocol: Protocol,
        inside: u16,
    ) -> io::Result<u16> {
        let none = || io::Error::other(format!("port {inside} of {} is not published", container.name));
        if self.driver == Driver::Bridge {
            let key = format!("{inside}/{}", protocol.name());
            return container.published(&key).first().map(|one| one.1).ok_or_else(none);
        }
        let endpoint = container.endpoint(network)["EndpointID"].as_str().unwrap_or_default().to_owned();
        let list = self.lab.ctl_json(&["ports"]);
        let mut its = list.as_array().into_iter().flatten().filter(|one| {
            one["port"].as_str().is_some_and(|port| endpoint.starts_with(port))
                && one["protocol"] == protocol.name()
                && one["container"]["first"] == inside
        });
        its.find_map(|one| u16::try_from(one["host"]["first"].as_u64()?).ok()).ok_or_else(none)
    }

    /// Asserts that the machine `far` reaches port `inside` of `container` by port `outside` of the host, as itself.
    #[track_caller]
    pub(crate) fn assert_published(&self, container: &Container, protocol: Protocol, outside: u16, inside: u16) {
        let target = SocketAddr::new(host(false), outside);
        let server = must(Server::any(protocol, &container.namespace, false, inside));
        match server.meet(self.lab.far(), target) {
            Ok(seen) => assert_eq!(seen.ip(), far(false), "{protocol:?} {target} to {}", container.name),
            Err(error) => panic!("{protocol:?} {target} to port {inside} of {}: {error}", container.name),
        }
    }

    /// Asserts that `from` reaches `to` at `ip`.
    #[track_caller]
    pub(crate) fn assert_reaches(&self, from: &Container, to: &Container, ip: IpAddr) {
        for protocol in Protocol::ALL {
            let server = must(Server::any(protocol, &to.namespace, ip.is_ipv6(), 4000));
            if let Err(error) = server.meet(&from.namespace, SocketAddr::new(ip, 4000)) {
                panic!("{protocol:?}: {} to {} at {ip}: {error}", from.name, to.name);
            }
        }
    }
}
