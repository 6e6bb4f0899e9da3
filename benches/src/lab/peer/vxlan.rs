//! Overlays: two hosts, each with half of the containers, and VXLAN between them over a veth pair.
//!
//! The underlay is the same for all: `u0` in both hosts, MTU 1500 or what was asked for. A veth pair carries
//! super-frames whole, which flatters whoever makes some: the kernel's tunnels hand theirs over with all
//! headers in front of 64 KB, ours a train of datagrams. With [`Setup::cuts`] the interfaces have no
//! segmentation offload, so that all is cut before it crosses, as with a plain network card.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use vswitch_tests::daemon::Daemon;
use vswitch_tests::namespace::Namespace;

use super::{Container, Setup, add_veth, ours};

/// The network identifier.
const VNI: &str = "42";
/// What VXLAN over IPv4 takes of the underlay's MTU.
const OVERHEAD: u32 = 50;

/// Puts an interface `u0` into each of two hosts, the two ends of a wire.
fn wire(hosts: [&Namespace; 2], setup: &Setup) -> io::Result<()> {
    let mtu = setup.underlay_mtu;
    hosts[0].ip(&format!("link add u0 mtu {mtu} type veth peer name u0 mtu {mtu} netns {}", hosts[1].name()))?;
    for (host, address) in hosts.into_iter().zip(ADDRESSES) {
        if setup.cuts {
            host.run("ethtool -K u0 tso off gso off tx-udp-segmentation off tx-udp_tnl-segmentation off")?;
        }
        host.ip(&format!("addr add {address}/24 dev u0"))?;
        host.ip("link set u0 up")?;
    }
    Ok(())
}

/// RFC 2544's network for measurements.
const ADDRESSES: [&str; 2] = ["198.18.0.1", "198.18.0.2"];

/// The containers of host `index`: every other one, so that the first two are on different hosts.
fn of_host(containers: &[Container], index: usize) -> impl Iterator<Item = (usize, &Container)> {
    containers.iter().enumerate().skip(index).step_by(2)
}

/// Our switch on both hosts, with one choice of what carries the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// What carries it.
    pub carry: Carry,
    /// The directory of the programs where that is not the default.
    pub build: Option<PathBuf>,
}

/// What carries a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    /// UDP sockets of the kernel.
    Socket,
    /// The shared uplink, by tc.
    UplinkTc,
    /// The shared uplink, by AF_XDP.
    UplinkXdp,
}

impl Carry {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Socket, Self::UplinkTc, Self::UplinkXdp];

    /// The peer's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "vxlan",
            Self::UplinkTc => "vxlan-tc",
            Self::UplinkXdp => "vxlan-xdp",
        }
    }

    /// The reverse of [`Carry::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|carry| carry.name() == name)
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.carry.name())?;
        self.build.as_ref().map_or(Ok(()), |directory| write!(f, "@{}", directory.display()))
    }
}

impl Overlay {
    /// Starts a daemon on both hosts, and joins their bridges.
    pub(super) fn join(
        &self,
        hosts: [&Namespace; 2],
        containers: &[Container],
        setup: &Setup,
        directory: &Path,
    ) -> io::Result<Vec<Daemon>> {
        wire(hosts, setup)?;
        let binaries = self.build.as_ref().unwrap_or(&setup.binaries);
        let mut args = setup.vswitch_args.clone();
        let carrier: &[&str] = match self.carry {
            Carry::Socket => &[],
            Carry::UplinkTc | Carry::UplinkXdp => &["--carrier", "uplink"],
        };
        match self.carry {
            Carry::Socket => {}
            Carry::UplinkTc => args.extend(["--uplink".to_owned(), "u0,tc".to_owned()]),
            Carry::UplinkXdp => args.extend(["--uplink".to_owned(), "u0,xdp=native".to_owned()]),
        }
        let mut daemons = Vec::new();
        for (index, host) in hosts.into_iter().enumerate() {
            let directory = directory.join(format!("host{index}"));
            std::fs::create_dir(&directory)?;
            let gateway = format!("10.77.255.{}", index + 1);
            let network = ["--subnet", "10.77.0.0/16", "--gateway", &gateway];
            let mtu = (setup.underlay_mtu - OVERHEAD).to_string();
            let daemon = ours::start(host, binaries, args.clone(), &directory)?;
            ours::ctl(host, &daemon, &[&["add-br", "br0"][..], &network, &["--mtu", &mtu]].concat())?;
            let tunnel = ["add-vxlan", "br0", "--vni", VNI, "--remote", ADDRESSES[1 - index]];
            ours::ctl(host, &daemon, &[&tunnel[..], carrier].concat())?;
            for (_, container) in of_host(containers, index) {
                let address = container.address.to_string();
                ours::ctl(host, &daemon, &["add-port", "br0", container.namespace.name(), "--ip", &address])?;
            }
            daemons.push(daemon);
        }
        Ok(daemons)
    }
}

/// The kernel's bridge and `vxlan` device on both hosts.
pub(super) fn join_kernel(hosts: [&Namespace; 2], containers: &[Container], setup: &Setup) -> io::Result<()> {
    wire(hosts, setup)?;
    let mtu = setup.underlay_mtu - OVERHEAD;
    for (index, host) in hosts.into_iter().enumerate() {
        let (local, remote) = (ADDRESSES[index], ADDRESSES[1 - index]);
        host.ip("link add br0 type bridge")?;
        host.ip("link set br0 up")?;
        host.ip(&format!("link add vx0 type vxlan id {VNI} local {local} remote {remote} dstport 4789 dev u0"))?;
        host.ip("link set vx0 master br0 up")?;
        for (number, container) in of_host(containers, index) {
            add_veth(host, container, number, setup)?;
            container.namespace.ip(&format!("link set eth0 mtu {mtu}"))?;
            host.ip(&format!("link set h{number} mtu {mtu} master br0"))?;
        }
    }
    Ok(())
}
