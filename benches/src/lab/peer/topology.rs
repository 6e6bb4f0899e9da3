//! The topology: containers, the switch between them, and the ways that workloads go.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use vswitch_tests::daemon::Daemon;
use vswitch_tests::docker::Docker;
use vswitch_tests::frame::parse_mac;
use vswitch_tests::namespace::{Namespace, unique_prefix};
use vswitch_tests::process::Background;

use super::{FIRST_PORT, Gateway, PORTS, PUBLISHED_PORTS, Peer, Setup, bridge, docker, nat, ovs, relay, uplink, vxlan};

/// A container: a namespace with an `eth0`.
#[derive(Debug)]
pub struct Container {
    /// Its namespace.
    pub namespace: Namespace,
    /// The address of its `eth0`.
    pub address: IpAddr,
}

impl Container {
    /// The MAC address of its `eth0`.
    ///
    /// # Errors
    /// There is no `eth0`.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let link = self.link()?;
        let mac = link["address"].as_str().ok_or_else(|| io::Error::other("eth0 has no address"))?;
        Ok(parse_mac(mac))
    }

    /// The interface index of its `eth0`.
    pub(super) fn ifindex(&self) -> io::Result<u32> {
        let index = self.link()?["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
        index.ok_or_else(|| io::Error::other("eth0 has no index"))
    }

    /// What `ip` says of its `eth0`; `/sys` shows the namespace that it was mounted in.
    fn link(&self) -> io::Result<serde_json::Value> {
        let text = self.namespace.ip("-j link show dev eth0")?;
        let mut links: serde_json::Value = serde_json::from_str(&text)?;
        Ok(links[0].take())
    }
}

/// Which way a workload's connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the first container to the second one.
    Direct,
    /// From outside to a port of the host, which is the container's.
    Published,
    /// From the container to the outside.
    Egress,
}

/// The two ends of a workload.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// Who connects.
    pub client: &'a Container,
    /// Who is connected to.
    pub server: &'a Container,
    /// The address that the client connects to.
    pub target: IpAddr,
}

/// A server that is a container: it runs before the first workload and after the last.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// The container's number in [`Topology::containers`].
    pub container: usize,
    /// The port that it is published at.
    pub port: u16,
}

/// The servers that are containers.
#[derive(Debug, Clone, Copy)]
pub struct Services {
    /// nginx.
    pub http: Service,
    /// iperf3.
    pub iperf: Service,
}

/// Containers joined by a switch.
#[derive(Debug)]
pub struct Topology {
    /// The kind of switch.
    pub peer: Peer,
    /// The containers; workloads use the first two.
    pub containers: Vec<Container>,
    // Dropped in this order: Docker, which tells its driver that containers go, before the driver; the switch's processes
    // before the namespace that they are in.
    docker: Option<Docker>,
    daemons: Vec<Daemon>,
    /// Hold programs on interfaces.
    programs: Vec<OwnedFd>,
    background: Vec<Background>,
    host: Namespace,
    /// The other host of an overlay.
    far: Option<Namespace>,
    /// The address of a gateway's host.
    external: Option<IpAddr>,
    /// The ports that servers may have, and how many had one.
    ports: u16,
    servers: AtomicU16,
}

impl Topology {
    /// Sets up the containers and the switch, and checks that the first two containers reach each
    /// other.
    ///
    /// # Errors
    /// Something is not installed, or the kernel refuses something.
    pub fn build(peer: &Peer, setup: &Setup) -> io::Result<Self> {
        let prefix = unique_prefix();
        let directory = setup.directory.join(prefix.trim_end_matches('-'));
        std::fs::create_dir(&directory)?;
        let host = Namespace::create(&format!("{prefix}host"))?;
        let count = if let Peer::Docker(_) = peer { 3 } else { setup.ports };
        let names: Vec<String> = (0..count).map(|number| format!("{prefix}c{number}")).collect();
        let mut containers: Vec<Container> = Namespace::create_all(&names)?
            .into_iter()
            .enumerate()
            .map(|(number, namespace)| Container { namespace, address: setup.family.address(number) })
            .collect();
        let (mut external, mut ports) = (None, PORTS);
        if let Peer::Nat(_) | Peer::Docker(_) = peer {
            let [outside, host] = nat::wire_addresses(setup.family);
            containers[0].address = outside;
            (external, ports) = (Some(host), PUBLISHED_PORTS);
        }
        let far = match peer {
            Peer::Vxlan(_) | Peer::VxlanKernel => Some(Namespace::create(&format!("{prefix}far"))?),
            _ => None,
        };
        let (daemons, background) = (Vec::new(), Vec::new());
        let mut topology = Self {
            peer: peer.clone(),
            containers,
            daemons,
            programs: Vec::new(),
            background,
            docker: None,
            host,
            far,
            external,
            ports,
            servers: AtomicU16::new(0),
        };
        topology.join(setup, &directory)?;
        if external.is_some() {
            // The ways are checked before each run; the ports stay as the kernel has them, because a gateway has no
            // more of them than a host.
            return Ok(topology);
        }
        for container in &topology.containers {
            // A closed connection leaves its port in TIME_WAIT: the connection rate needs many.
            container.namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        }
        let target = topology.containers[1].address;
        topology.containers[0].namespace.run(&format!("ping -n -q -c 3 -i 0.2 -W 2 {target}"))?;
        Ok(topology)
    }

    fn join(&mut self, setup: &Setup, directory: &Path) -> io::Result<()> {
        match &self.peer {
            Peer::Vswitch(ours) => {
                self.daemons = vec![ours.join(&self.host, &self.containers, setup, directory)?];
            }
            Peer::Bridge => bridge::join(&self.host, &self.containers, setup)?,
            Peer::BridgePlain => {
                bridge::without_netfilter(&self.host)?;
                bridge::join(&self.host, &self.containers, setup)?;
            }
            Peer::Relay => self.background = vec![relay::join(&self.containers, setup, directory)?],
            Peer::Ovs | Peer::OvsTso => {
                let tso = self.peer == Peer::OvsTso;
                self.background = ovs::join(&self.host, &self.containers, tso, setup, directory)?;
            }
            Peer::Uplink(uplink) => {
                let [outside, host, ..] = &self.containers[..] else {
                    return Err(io::Error::other("a wire has two ends"));
                };
                uplink::connect(outside, host, setup)?;
                self.daemons = uplink.daemon(host, setup, directory)?.into_iter().collect();
                self.programs = uplink.empty_program(host)?.into_iter().collect();
            }
            Peer::Vxlan(overlay) => {
                self.daemons = overlay.join(self.hosts(), &self.containers, setup, directory)?;
            }
            Peer::VxlanKernel => vxlan::join_kernel(self.hosts(), &self.containers, setup)?,
            Peer::Nat(gateway) => {
                let [outside, container, ..] = &mut self.containers[..] else {
                    return Err(io::Error::other("a gateway has two sides"));
                };
                nat::wire(outside, &self.host, setup)?;
                match gateway {
                    Gateway::Relay => {
                        self.background = vec![nat::join_relay(&self.host, container, setup, directory)?];
                    }
                    Gateway::Redirect => {
                        self.programs = nat::join_redirect(&self.host, container, setup)?.into();
                    }
                    Gateway::Wire => nat::join_wire(&self.host, container, setup)?,
                    Gateway::Kernel => nat::join_kernel(&self.host, container, setup)?,
                    Gateway::Docker => self.docker = Some(docker::idle(&mut self.host, container, setup, directory)?),
                    Gateway::Vswitch(attachment, build) => {
                        let ours = (*attachment, build.as_ref());
                        self.daemons = vec![nat::join_ours(ours, &self.host, container, setup, directory)?];
                    }
                }
            }
            Peer::Docker(network) => {
                let Some(([outside], servers)) = self.containers.split_first_chunk_mut() else {
                    return Err(io::Error::other("a gateway has two sides"));
                };
                nat::wire(outside, &self.host, setup)?;
                let (docker, daemon) = network.join(&mut self.host, servers, setup, directory)?;
                (self.docker, self.daemons) = (Some(docker), daemon.into_iter().collect());
            }
        }
        Ok(())
    }

    /// The hosts of an overlay.
    fn hosts(&self) -> [&Namespace; 2] {
        [&self.host, self.far.as_ref().unwrap_or(&self.host)]
    }

    /// The ends of a workload that goes this way.
    ///
    /// # Errors
    /// The topology has no such way.
    pub fn ends(&self, way: Way) -> io::Result<Ends<'_>> {
        let [first, second, ..] = &self.containers[..] else {
            return Err(io::Error::other("a topology has at least two containers"));
        };
        match (way, self.external) {
            (Way::Direct, None) => Ok(Ends { client: first, server: second, target: second.address }),
            (Way::Published, Some(external)) => Ok(Ends { client: first, server: second, target: external }),
            (Way::Egress, Some(_)) => Ok(Ends { client: second, server: first, target: first.address }),
            _ => Err(io::Error::other(format!("{} has no such way", self.peer))),
        }
    }

    /// The servers that are containers, where they are.
    #[must_use]
    pub fn services(&self) -> Option<Services> {
        matches!(self.peer, Peer::Docker(_)).then_some(docker::SERVICES)
    }

    /// The port of the next server, see `FIRST_PORT`.
    #[must_use]
    pub fn next_port(&self) -> u16 {
        FIRST_PORT + self.servers.fetch_add(1, Ordering::Relaxed) % self.ports
    }

    /// The processes that are the switch; none for the kernel's. The database server of Open vSwitch
    /// takes no part in forwarding, but it is a part of the switch.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let background = self.background.iter().map(Background::pid);
        self.daemons
            .iter()
            .map(Daemon::pid)
            .chain(background)
            .chain(self.docker.iter().flat_map(docker::pids))
            .collect()
    }
}
