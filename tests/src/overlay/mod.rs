//! Several hosts on one underlay, for tests of tunnels.
//!
//! An [`Underlay`] is a namespace with a kernel bridge, the wire. Each host has a veth pair to it:
//! `u0` in the host's namespace with the addresses 198.18.0.N and fd18::N (RFC 2544's network, and a
//! unique local one). Hosts are labs with our daemon, or peers that are known to be right: the
//! kernel's bridge and `vxlan` device ([`KernelVtep`]), and Open vSwitch ([`OvsVtep`]).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::namespace::{Namespace, unique_prefix};

mod capture;
mod host;
mod kernel;
mod ovs;

pub use capture::{Capture, Captured};
pub use kernel::KernelVtep;
pub use ovs::OvsVtep;

/// The interface of each host on the underlay.
pub const IFNAME: &str = "u0";

/// The address of host `number` on the underlay.
#[must_use]
pub fn address(number: u8, ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(198, 18, 0, number).into()
    }
}

/// The network between hosts.
#[derive(Debug)]
pub struct Underlay {
    wire: Namespace,
    hosts: Vec<u8>,
}

impl Underlay {
    /// A wire with the MTU `mtu` and nobody on it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn create(mtu: u32) -> io::Result<Self> {
        let wire = Namespace::create(&format!("{}wire", unique_prefix()))?;
        // Nothing but hosts may be on it that would learn or answer.
        wire.ip("link add wire type bridge mcast_snooping 0")?;
        wire.ip(&format!("link set wire mtu {mtu} up"))?;
        Ok(Self { wire, hosts: Vec::new() })
    }

    /// Puts `host` on the wire as number `number`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn join(&mut self, host: &Namespace, number: u8) -> io::Result<()> {
        let mtu = self.mtu()?;
        self.wire.ip(&format!(
            "link add h{number} mtu {mtu} type veth peer name {IFNAME} mtu {mtu} netns {}",
            host.name()
        ))?;
        self.wire.ip(&format!("link set h{number} master wire up"))?;
        host.ip(&format!("addr add {}/24 dev {IFNAME}", address(number, false)))?;
        host.ip(&format!("addr add {}/64 dev {IFNAME} nodad", address(number, true)))?;
        host.ip(&format!("link set {IFNAME} up"))?;
        self.hosts.push(number);
        Ok(())
    }

    /// Takes host `number` off the wire: its `u0` disappears.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn leave(&mut self, number: u8) -> io::Result<()> {
        self.hosts.retain(|host| *host != number);
        self.wire.ip(&format!("link del h{number}")).map(drop)
    }

    /// Takes everybody off the wire.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn dismantle(mut self) -> io::Result<()> {
        for number in self.hosts.clone() {
            self.leave(number)?;
        }
        Ok(())
    }

    /// Gives the wire, and every host's interface to it, another MTU. `namespaces` are the hosts'.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn set_mtu(&self, mtu: u32, namespaces: &[&Namespace]) -> io::Result<()> {
        for number in &self.hosts {
            self.wire.ip(&format!("link set h{number} mtu {mtu}"))?;
        }
        self.wire.ip(&format!("link set wire mtu {mtu}"))?;
        for host in namespaces {
            host.ip(&format!("link set {IFNAME} mtu {mtu}"))?;
        }
        Ok(())
    }

    /// Makes every packet on the wire finished: no checksum and no segmentation is left to whoever
    /// receives it, so that a capture shows what a cable would carry.
    ///
    /// # Errors
    /// What `ethtool` says.
    pub fn finish_packets(host: &Namespace) -> io::Result<()> {
        host.run(&format!("ethtool -K {IFNAME} tx off tso off gso off gro off")).map(drop)
    }

    /// The namespace of the wire, in which the interface `h<number>` sees all that host `number` sends.
    #[must_use]
    pub fn wire(&self) -> &Namespace {
        &self.wire
    }

    fn mtu(&self) -> io::Result<u32> {
        let links: serde_json::Value = serde_json::from_str(&self.wire.ip("-j link show dev wire")?)?;
        let mtu = links[0]["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok());
        mtu.ok_or_else(|| io::Error::other("the wire has no MTU"))
    }
}

/// A container of a peer: a namespace with an `eth0` that the peer joins to its bridge.
#[derive(Debug)]
pub struct Station {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its IPv4 address.
    pub ipv4: IpAddr,
    /// Its IPv6 address.
    pub ipv6: IpAddr,
}

impl Station {
    /// A container behind `host`, whose end of the veth pair is `port`; 10.1.0.`number` and fd01::`number`.
    fn create(host: &Namespace, port: &str, number: u8, mtu: u32) -> io::Result<Self> {
        let namespace = Namespace::create(&format!("{}{port}", unique_prefix()))?;
        host.ip(&format!("link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", namespace.name()))?;
        host.ip(&format!("link set {port} up"))?;
        let ipv4 = IpAddr::from(Ipv4Addr::new(10, 1, 0, number));
        let ipv6 = IpAddr::from(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, number.into()));
        namespace.ip(&format!("addr add {ipv4}/24 dev eth0"))?;
        namespace.ip(&format!("addr add {ipv6}/64 dev eth0 nodad"))?;
        namespace.ip("link set eth0 up")?;
        Ok(Self { namespace, ipv4, ipv6 })
    }
}
