//! The switches that are compared, and the topology that is the same for all of them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use vswitch_tests::daemon::Daemon;
use vswitch_tests::frame::parse_mac;
use vswitch_tests::namespace::{Namespace, unique_prefix};
use vswitch_tests::process::Background;

mod bridge;
mod ovs;
mod tap;
mod vxlan;

/// A kind of switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Ours, over TAP ports; with the directory of its programs where that is not the default, so
    /// that two builds can be compared in one run.
    Vswitch(Option<PathBuf>),
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
    /// Two hosts with ours, over TAP ports, and VXLAN between them.
    Vxlan(Option<PathBuf>),
    /// Two hosts with the kernel's bridge over veth pairs and its `vxlan` device.
    VxlanKernel,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vswitch" => Ok(Self::Vswitch(None)),
            "bridge" => Ok(Self::Bridge),
            "bridge-plain" => Ok(Self::BridgePlain),
            "ovs" => Ok(Self::Ovs),
            "ovs-tso" => Ok(Self::OvsTso),
            "vxlan" => Ok(Self::Vxlan(None)),
            "vxlan-kernel" => Ok(Self::VxlanKernel),
            _ => match text.split_once('@') {
                Some(("vswitch", directory)) => Ok(Self::Vswitch(Some(directory.into()))),
                Some(("vxlan", directory)) => Ok(Self::Vxlan(Some(directory.into()))),
                _ => Err(format!(
                    "no peer {text}: vswitch, vswitch@BIN_DIR, bridge, bridge-plain, ovs, ovs-tso, vxlan, \
                     vxlan@BIN_DIR or vxlan-kernel"
                )),
            },
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vswitch(None) => f.write_str("vswitch"),
            Self::Vswitch(Some(directory)) => write!(f, "vswitch@{}", directory.display()),
            Self::Bridge => f.write_str("bridge"),
            Self::BridgePlain => f.write_str("bridge-plain"),
            Self::Ovs => f.write_str("ovs"),
            Self::OvsTso => f.write_str("ovs-tso"),
            Self::Vxlan(None) => f.write_str("vxlan"),
            Self::Vxlan(Some(directory)) => write!(f, "vxlan@{}", directory.display()),
            Self::VxlanKernel => f.write_str("vxlan-kernel"),
        }
    }
}

/// How topologies are made.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The number of containers, at least two.
    pub ports: usize,
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
        // `/sys` shows the namespace it was mounted in, so ask `ip`.
        let text = self.namespace.ip("-j link show dev eth0")?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let mac = links[0]["address"].as_str().ok_or_else(|| io::Error::other("eth0 has no address"))?;
        Ok(parse_mac(mac))
    }
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
    background: Vec<Background>,
    host: Namespace,
    /// The other host of an overlay.
    far: Option<Namespace>,
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
        let containers: Vec<Container> = Namespace::create_all(&names)?
            .into_iter()
            .enumerate()
            .map(|(number, namespace)| Container { namespace, address: address(number) })
            .collect();
        let far = match peer {
            Peer::Vxlan(_) | Peer::VxlanKernel => Some(Namespace::create(&format!("{prefix}far"))?),
            _ => None,
        };
        let (daemons, background) = (Vec::new(), Vec::new());
        let mut topology = Self { peer: peer.clone(), containers, daemons, background, host, far };
        topology.join(setup, &directory)?;
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
            Peer::Vswitch(binaries) => {
                let binaries = binaries.as_ref().unwrap_or(&setup.binaries);
                self.daemons = vec![tap::join(&self.host, &self.containers, binaries, &setup.vswitch_args, directory)?];
            }
            Peer::Bridge => bridge::join(&self.host, &self.containers)?,
            Peer::BridgePlain => {
                bridge::without_netfilter(&self.host)?;
                bridge::join(&self.host, &self.containers)?;
            }
            Peer::Ovs | Peer::OvsTso => {
                let tso = self.peer == Peer::OvsTso;
                self.background = ovs::join(&self.host, &self.containers, tso, directory)?;
            }
            Peer::Vxlan(binaries) => {
                let binaries = binaries.as_ref().unwrap_or(&setup.binaries);
                self.daemons = vxlan::join(self.hosts(), &self.containers, binaries, setup, directory)?;
            }
            Peer::VxlanKernel => vxlan::join_kernel(self.hosts(), &self.containers, setup)?,
        }
        Ok(())
    }

    /// The hosts of an overlay.
    fn hosts(&self) -> [&Namespace; 2] {
        [&self.host, self.far.as_ref().unwrap_or(&self.host)]
    }

    /// The processes that are the switch; none for the kernel's. The database server of Open vSwitch
    /// takes no part in forwarding, but it is a part of the switch.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.daemons.iter().map(Daemon::pid).chain(self.background.iter().map(Background::pid)).collect()
    }
}

/// The address of the container `number`, the same in every topology.
fn address(number: usize) -> IpAddr {
    let [_, _, high, low] = (number as u32 + 2).to_be_bytes();
    Ipv4Addr::new(10, 77, high, low).into()
}

/// Gives a container a veth pair: `eth0` inside, `h<number>` in `host`.
fn add_veth(host: &Namespace, container: &Container, number: usize) -> io::Result<()> {
    let inside = container.namespace.name();
    host.ip(&format!("link add h{number} type veth peer name eth0 netns {inside}"))?;
    host.ip(&format!("link set h{number} up"))?;
    container.namespace.ip(&format!("addr add {}/16 dev eth0", container.address))?;
    container.namespace.ip("link set eth0 up")?;
    Ok(())
}
