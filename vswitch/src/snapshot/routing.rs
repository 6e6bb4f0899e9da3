//! What the gateway needs of the configuration: the networks of bridges, the host's addresses, what is published,
//! and the ways out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use ipnet::IpNet;

use super::PortId;
use crate::datapath::neighbours::Neighbours;
use crate::io::uplink::{NextHop, NextHops, Resolution};
use crate::nat::Services;
use crate::wire::MacAddr;

/// A container's interface as the gateway reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// Its port.
    pub port: PortId,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

/// The gateway of a bridge that has addresses.
#[derive(Debug, Clone)]
pub struct GatewayEntry {
    /// Its Ethernet address, which is that of the host's interface on the bridge.
    pub mac: [u8; 6],
    /// Its addresses, each with the prefix of its network.
    pub addresses: Vec<IpNet>,
    /// The host's port; none while the interface is not there.
    pub host: Option<PortId>,
    /// The containers by their configured addresses.
    pub stations: HashMap<IpAddr, Station>,
    /// Other stations of its networks, as they have said themselves.
    pub neighbours: Arc<Neighbours>,
    /// Whether nothing enters or leaves but through the bridge.
    pub internal: bool,
    /// Whether what leaves gets an address of the host.
    pub masquerade: bool,
    /// Whether TCP's MSS is made to fit the way out.
    pub mss_clamp: bool,
}

impl GatewayEntry {
    /// Whether `address` is in one of the bridge's networks.
    #[must_use]
    pub fn has_network_of(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|gateway| gateway.contains(&address))
    }

    /// Whether `address` is the broadcast address of one of the bridge's networks, or the network itself (RFC 919).
    #[must_use]
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        let is = |net: &IpNet| net.prefix_len() < 31 && (net.broadcast() == address || net.network() == address);
        address.is_ipv4() && self.addresses.iter().any(is)
    }

    /// Whether `address` is the gateway's own.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|gateway| gateway.addr() == address)
    }

    /// Whether `address` is the link-local one that the host's interface has made of its Ethernet address.
    #[must_use]
    pub fn is_own_link_local(&self, address: IpAddr) -> bool {
        address == IpAddr::V6(MacAddr(self.mac).link_local())
    }

    /// The gateway's address in the family of `other`.
    #[must_use]
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == other.is_ipv4())
    }
}

/// What a container may send as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its IP addresses. Where there are none (`--ip none`, `--ip dhcp`), it may use any address that is not
    /// another's.
    pub addresses: Vec<IpAddr>,
}

/// A way out of the host: a shared uplink.
#[derive(Debug, Clone)]
pub struct Outside {
    /// The port that stands for it.
    pub port: PortId,
    /// The interface's index.
    pub index: u32,
    /// The interface's addresses.
    pub addresses: Vec<IpAddr>,
}

/// What all bridges' gateways share.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// The published ports.
    pub services: Arc<Services>,
    /// The addresses of the host, loopback's included.
    pub host_addresses: Arc<HashSet<IpAddr>>,
    /// The ways out, the preferred one first.
    pub outside: Vec<Outside>,
    /// Where the host would send; without, everything leaves by the first way out.
    pub routes: Option<Arc<dyn NextHops>>,
    /// The port that stands for the host's loopback interface, through which it reaches what is published.
    pub loopback: Option<PortId>,
    /// Whether the ways are those that there shall be. At the start they come after the bridges, and until then nobody
    /// is told that there is none: a container that is told so gives up, and one that is not asks again.
    pub is_settled: bool,
}

impl Routing {
    /// The way out towards `destination`; none if the host has no route there, or none by a shared uplink.
    #[must_use]
    pub fn outside_towards(&self, destination: IpAddr) -> Option<&Outside> {
        let Some(routes) = &self.routes else { return self.outside.first() };
        let index = match routes.resolve(destination, 0) {
            Resolution::Via(NextHop { oif, .. }) | Resolution::Unresolved { oif, .. } => oif,
            Resolution::Refused(_) => return None,
        };
        self.outside.iter().find(|outside| outside.index == index)
    }

    /// Whether the host has a route to `destination`, whatever the interface.
    #[must_use]
    pub fn has_route(&self, destination: IpAddr) -> bool {
        let refused = |routes: &Arc<dyn NextHops>| matches!(routes.resolve(destination, 0), Resolution::Refused(_));
        !self.routes.as_ref().is_some_and(refused)
    }
}

/// How many connections of a container are with neighbours on its own bridge although they are translated: its
/// answers, which need no gateway, must be translated back all the same.
pub type Hairpins = Arc<AtomicU32>;
