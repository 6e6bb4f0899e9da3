//! A host with the kernel's bridge and its `vxlan` device.

use std::io;
use std::net::IpAddr;

use super::{IFNAME, Station, Underlay, address};
use crate::namespace::{Namespace, unique_prefix};

/// See the module's documentation. Dropped in this order: the containers before their host.
#[derive(Debug)]
pub struct KernelVtep {
    /// The containers, `eth0` on the bridge `br0`.
    pub stations: Vec<Station>,
    /// The host's namespace.
    pub host: Namespace,
}

impl KernelVtep {
    /// Host `number` of `underlay`, with nothing on it but the bridge `br0`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn create(underlay: &mut Underlay, number: u8) -> io::Result<Self> {
        let host = Namespace::create(&format!("{}kernel", unique_prefix()))?;
        underlay.join(&host, number)?;
        host.ip("link add br0 type bridge mcast_snooping 0")?;
        host.ip("link set br0 up")?;
        Ok(Self { stations: Vec::new(), host })
    }

    /// A `vxlan` device on the bridge, flooding to `remotes` (head-end replication: one all-zero entry
    /// for each). `options` are further words of `ip link add`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_vxlan(&self, vni: u32, number: u8, remotes: &[IpAddr], options: &str) -> io::Result<()> {
        let local = address(number, remotes.first().is_some_and(IpAddr::is_ipv6));
        let device = format!("vx{vni}");
        self.host
            .ip(&format!("link add {device} type vxlan id {vni} local {local} dstport 4789 dev {IFNAME} {options}"))?;
        self.host.ip(&format!("link set {device} master br0 up"))?;
        for remote in remotes {
            self.host.run(&format!("bridge fdb append 00:00:00:00:00:00 dev {device} dst {remote}"))?;
        }
        Ok(())
    }

    /// A container on the bridge; the last byte of its addresses is `number`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn add_station(&mut self, number: u8, mtu: u32) -> io::Result<&Station> {
        let port = format!("k{number}");
        let station = Station::create(&self.host, &port, number, mtu)?;
        self.host.ip(&format!("link set {port} master br0"))?;
        self.stations.push(station);
        Ok(&self.stations[self.stations.len() - 1])
    }
}
