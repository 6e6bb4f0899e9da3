//! The switches that are compared, and the topology that is the same for all of them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};

use vswitch_tests::daemon::Daemon;
use vswitch_tests::frame::parse_mac;
use vswitch_tests::namespace::{Namespace, unique_prefix};
use vswitch_tests::process::Background;

mod bridge;
mod docker;
mod nat;
mod ours;
mod ovs;
mod uplink;
mod vxlan;

use self::docker::Docker;
pub use self::nat::Gateway;
pub use self::ours::{Ours, Ports};
pub use self::uplink::Uplink;
pub use self::vxlan::{Carry, Overlay};

/// The port of the first server. Every server of a topology gets another one: the connections of its predecessor
/// are still in TIME_WAIT, and not every server program sets SO_REUSEADDR.
const FIRST_PORT: u16 = 5201;
/// How many ports a gateway publishes: by the time that the first one's turn comes again, it is free.
const PUBLISHED_PORTS: u16 = 16;
/// How many ports are used where none has to be published.
const PORTS: u16 = 10_000;

/// A kind of switch, or, for [`Peer::Uplink`], a kind of wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Ours.
    Vswitch(Ours),
    /// The kernel's bridge over veth pairs with the kernel's defaults: what `docker0` is. Where the
    /// module `br_netfilter` is present, as on every host that runs Docker, bridged packets pass
    /// the netfilter hooks (without any rules here).
    Bridge,
    /// The same, but explicitly without the netfilter hooks.
    BridgePlain,
    /// Open vSwitch in userspace (`datapath_type=netdev`) over veth pairs.
    Ovs,
    /// The same with its experimental segmentation offload (`userspace-tso-enable`).
    OvsTso,
    /// No switch between the two: the host's own traffic through an interface that a switch shares.
    Uplink(Uplink),
    /// Two hosts with ours, over TAP ports, and VXLAN between them.
    Vxlan(Overlay),
    /// Two hosts with the kernel's bridge over veth pairs and its `vxlan` device.
    VxlanKernel,
    /// A host between its container and the world outside.
    Nat(Gateway),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bridge" => return Ok(Self::Bridge),
            "bridge-plain" => return Ok(Self::BridgePlain),
            "ovs" => return Ok(Self::Ovs),
            "ovs-tso" => return Ok(Self::OvsTso),
            "vxlan-kernel" => return Ok(Self::VxlanKernel),
            _ => {}
        }
        if let Some(uplink) = Uplink::from_name(text) {
            return Ok(Self::Uplink(uplink));
        }
        let (name, build) = match text.split_once('@') {
            None => (text, None),
            Some((name, directory)) => (name, Some(directory.into())),
        };
        if let Some(gateway) = Gateway::from_name(name, build.clone()) {
            return Ok(Self::Nat(gateway));
        }
        if let Some(carry) = Carry::from_name(name) {
            return Ok(Self::Vxlan(Overlay { carry, build }));
        }
        match Ports::from_name(name) {
            Some(ports) => Ok(Self::Vswitch(Ours { ports, build })),
            None => {
                let ours = Ports::ALL.map(Ports::name).join(", ");
                let uplinks = Uplink::ALL.map(Uplink::name).join(", ");
                let overlays = Carry::ALL.map(Carry::name).join(", ");
                Err(format!(
                    "no peer {text}: {ours} (each also @BIN_DIR), bridge, bridge-plain, ovs, ovs-tso, {uplinks}, {overlays}, vxlan-kernel, {}",
                    Gateway::names().join(", ")
                ))
            }
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vswitch(ours) => ours.fmt(f),
            Self::Bridge => f.write_str("bridge"),
            Self::BridgePlain => f.write_str("bridge-plain"),
            Self::Ovs => f.write_str("ovs"),
            Self::OvsTso => f.write_str("ovs-tso"),
            Self::Uplink(uplink) => f.write_str(uplink.name()),
            Self::Vxlan(overlay) => overlay.fmt(f),
            Self::VxlanKernel => f.write_str("vxlan-kernel"),
            Self::Nat(gateway) => gateway.fmt(f),
        }
    }
}

impl Peer {
    /// Whether it needs our programs where they are by default.
    #[must_use]
    pub fn needs_binaries(&self) -> bool {
        match self {
            Self::Vswitch(ours) => ours.build.is_none(),
            Self::Vxlan(overlay) => overlay.build.is_none(),
            Self::Nat(gateway) => gateway.needs_binaries(),
            Self::Uplink(uplink) => uplink.daemon_option("").is_some(),
            _ => false,
        }
    }
}

/// The family of the containers' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 10.77.0.0/16
    Ipv4,
    /// fd77::/64
    Ipv6,
}

impl Family {
    fn subnet(self) -> &'static str {
        match self {
            Self::Ipv4 => "10.77.0.0/16",
            Self::Ipv6 => "fd77::/64",
        }
    }

    /// The first address of the subnet, where it is a gateway's.
    fn gateway(self) -> IpAddr {
        match self {
            Self::Ipv4 => [10, 77, 0, 1].into(),
            Self::Ipv6 => [0xfd77, 0, 0, 0, 0, 0, 0, 1].into(),
        }
    }

    /// The address of the container `number`, the same in every topology.
    fn address(self, number: usize) -> IpAddr {
        let host = number as u32 + 2;
        match self {
            Self::Ipv4 => Ipv4Addr::from(0x0a4d_0000 + host).into(),
            Self::Ipv6 => Ipv6Addr::from((0xfd77 << 112) + u128::from(host)).into(),
        }
    }

    /// What follows `ip addr add` for `address`.
    fn assignment(self, address: IpAddr) -> String {
        match self {
            Self::Ipv4 => format!("{address}/16"),
            // Nobody else is there who could have the address.
            Self::Ipv6 => format!("{address}/64 nodad"),
        }
    }
}

/// How topologies are made.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The number of containers, at least two.
    pub ports: usize,
    /// The MTU of every interface, in bytes.
    pub mtu: u32,
    /// The containers' addresses.
    pub family: Family,
    /// Uplinks: whether the far end cuts what it sends into packets, as a network does, and the host
    /// joins them again (GRO). Otherwise veth carries super-frames whole.
    pub wire: bool,
    /// Where our programs are.
    pub binaries: PathBuf,
    /// Further arguments of our daemon.
    pub vswitch_args: Vec<String>,
    /// The MTU of overlays' underlay.
    pub underlay_mtu: u32,
    /// Whether the underlay's interfaces have no segmentation offload.
    pub cuts: bool,
    /// A directory for sockets, logs and databases.
    pub directory: PathBuf,
}

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
    fn ifindex(&self) -> io::Result<u32> {
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

/// Containers joined by a switch.
#[derive(Debug)]
pub struct Topology {
    /// The kind of switch.
    pub peer: Peer,
    /// The containers; workloads use the first two.
    pub containers: Vec<Container>,
    // Dropped in this order: the switch's processes before the namespace that they are in.
    daemons: Vec<Daemon>,
    /// Holds a program on an uplink.
    program: Option<OwnedFd>,
    background: Vec<Background>,
    docker: Option<Docker>,
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
        let names: Vec<String> = (0..setup.ports).map(|number| format!("{prefix}c{number}")).collect();
        let mut containers: Vec<Container> = Namespace::create_all(&names)?
            .into_iter()
            .enumerate()
            .map(|(number, namespace)| Container { namespace, address: setup.family.address(number) })
            .collect();
        let (mut external, mut ports) = (None, PORTS);
        if let Peer::Nat(_) = peer {
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
            program: None,
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
                self.program = uplink.empty_program(host)?;
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
                    Gateway::Kernel => nat::join_kernel(&self.host, container, setup)?,
                    Gateway::Docker => self.docker = Some(Docker::join(&self.host, container, setup, directory)?),
                    Gateway::Vswitch(attachment, build) => {
                        let ours = (*attachment, build.as_ref());
                        self.daemons = vec![nat::join_ours(ours, &self.host, container, setup, directory)?];
                    }
                }
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
        self.daemons.iter().map(Daemon::pid).chain(background).chain(self.docker.iter().map(Docker::pid)).collect()
    }
}

/// Gives a container a veth pair: `eth0` inside, `h<number>` in `host`.
fn add_veth(host: &Namespace, container: &Container, number: usize, setup: &Setup) -> io::Result<()> {
    let Setup { mtu, family, .. } = setup;
    let inside = container.namespace.name();
    host.ip(&format!("link add h{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {inside}"))?;
    host.ip(&format!("link set h{number} up"))?;
    container.namespace.ip(&format!("addr add {} dev eth0", family.assignment(container.address)))?;
    container.namespace.ip("link set eth0 up")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_peers_read_back() {
        let ours = Ports::ALL.map(Ports::name);
        let uplinks = Uplink::ALL.map(Uplink::name);
        let gateways = Gateway::names();
        let others = ["bridge", "bridge-plain", "ovs", "ovs-tso"];
        for name in ours.iter().chain(&uplinks).chain(&gateways).chain(&others) {
            assert_eq!(name.parse::<Peer>().expect(name).to_string(), *name);
        }
        assert_eq!("vswitch-xdp@/tmp/old".parse::<Peer>().expect("a build").to_string(), "vswitch-xdp@/tmp/old");
        assert_eq!("nat-vswitch-tap@/tmp".parse::<Peer>().expect("a build").to_string(), "nat-vswitch-tap@/tmp");
        assert!("nat-kernel@/tmp".parse::<Peer>().is_err());
        assert!("vswitch-udp".parse::<Peer>().is_err());
    }

    #[test]
    fn addresses_are_in_the_subnet() {
        assert_eq!(Family::Ipv4.address(0).to_string(), "10.77.0.2");
        assert_eq!(Family::Ipv4.address(300).to_string(), "10.77.1.46");
        assert_eq!(Family::Ipv6.address(1).to_string(), "fd77::3");
    }
}
