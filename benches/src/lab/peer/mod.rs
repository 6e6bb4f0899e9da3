//! The switches that are compared, and the topology that is the same for all of them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use vswitch_tests::namespace::Namespace;

mod bridge;
mod docker;
mod nat;
mod ours;
mod ovs;
mod redirect;
mod relay;
mod topology;
mod uplink;
mod vxlan;

pub use self::docker::{Network, PortType};
pub use self::nat::Gateway;
pub use self::ours::{Ours, Ports};
pub use self::topology::{Container, Ends, Service, Services, Topology, Way};
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
    /// No switch: a program that writes to each TAP what it reads from the other ([`super::relay`]).
    Relay,
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
    /// The same with servers that are containers of Docker.
    Docker(Network),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bridge" => return Ok(Self::Bridge),
            "bridge-plain" => return Ok(Self::BridgePlain),
            "relay" => return Ok(Self::Relay),
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
        if let Some(network) = Network::from_name(name, build.clone()) {
            return Ok(Self::Docker(network));
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
                    "no peer {text}: {ours} (each also @BIN_DIR), bridge, bridge-plain, relay, ovs, ovs-tso, {uplinks}, {overlays}, vxlan-kernel, {}",
                    [Gateway::names(), Network::names()].concat().join(", ")
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
            Self::Relay => f.write_str("relay"),
            Self::Ovs => f.write_str("ovs"),
            Self::OvsTso => f.write_str("ovs-tso"),
            Self::Uplink(uplink) => f.write_str(uplink.name()),
            Self::Vxlan(overlay) => overlay.fmt(f),
            Self::VxlanKernel => f.write_str("vxlan-kernel"),
            Self::Nat(gateway) => gateway.fmt(f),
            Self::Docker(network) => network.fmt(f),
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
            Self::Docker(network) => network.needs_binaries(),
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
    /// Processes of an HTTP server that is a container.
    pub http_workers: u16,
    /// The MTU of overlays' underlay.
    pub underlay_mtu: u32,
    /// Whether the underlay's interfaces have no segmentation offload.
    pub cuts: bool,
    /// A directory for sockets, logs and databases.
    pub directory: PathBuf,
}

/// Gives a container a veth pair: `eth0` inside, `h<number>` in `host`.
fn add_veth(host: &Namespace, container: &Container, number: usize, setup: &Setup) -> io::Result<()> {
    let Setup { mtu, family, .. } = setup;
    let inside = container.namespace.name();
    host.ip(&format!("link add h{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {inside}"))?;
    host.ip(&format!("link set h{number} up"))?;
    raise(container, *family)
}

/// Gives a container's `eth0` its address, and turns it on.
fn raise(container: &Container, family: Family) -> io::Result<()> {
    let Container { namespace, address } = container;
    namespace.ip(&format!("addr add {} dev eth0", family.assignment(*address)))?;
    namespace.ip("link set eth0 up").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_peers_read_back() {
        let ours = Ports::ALL.map(Ports::name);
        let uplinks = Uplink::ALL.map(Uplink::name);
        let gateways = Gateway::names();
        let networks = Network::names();
        let others = ["bridge", "bridge-plain", "relay", "ovs", "ovs-tso"];
        for name in ours.iter().chain(&uplinks).chain(&gateways).chain(&networks).chain(&others) {
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
