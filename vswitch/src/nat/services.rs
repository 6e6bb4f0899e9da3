//! The published ports: which endpoint of the host is which container's.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::snapshot::BridgeId;

/// A range of the host's ports that leads to a container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The host's address; none for all of the target's family.
    pub host: Option<IpAddr>,
    /// The host's first port.
    pub first: u16,
    /// The host's last port.
    pub last: u16,
    /// The container's bridge.
    pub bridge: BridgeId,
    /// The container's address.
    pub target: IpAddr,
    /// The container's port for `first`; the next ones follow.
    pub target_first: u16,
    /// Who may use it; everybody if empty.
    pub from: Arc<[IpNet]>,
}

/// All published ports.
#[derive(Debug, Default)]
pub struct Services {
    publications: Vec<Publication>,
}

impl Services {
    /// The services of `publications`, of which no two have the same endpoint.
    #[must_use]
    pub fn new(publications: Vec<Publication>) -> Self {
        Self { publications }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    /// What is published at `address` and `port` of the host, and the container's port. One at the very address
    /// goes before one at all addresses.
    #[must_use]
    pub fn find(&self, protocol: u8, address: IpAddr, port: u16) -> Option<(&Publication, u16)> {
        let at = |one: &&Publication| {
            one.protocol == protocol
                && (one.first..=one.last).contains(&port)
                && one.target.is_ipv4() == address.is_ipv4()
                && one.host.is_none_or(|host| host == address)
        };
        let mut found = self.publications.iter().filter(at);
        let first = found.next()?;
        let best = if first.host.is_some() { first } else { found.find(|one| one.host.is_some()).unwrap_or(first) };
        Some((best, best.target_first + (port - best.first)))
    }
}
