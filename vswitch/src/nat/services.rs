//! The published ports: which endpoint of the host is which container's.
//!
//! Publications are ranges, so all ports of a protocol may be one of them. For looking one up, the ports of each protocol
//! and family are cut where a publication begins or ends: within such a section, the same few publications apply, for
//! different addresses of the host. That is a binary search among sections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
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

impl Publication {
    /// The container's port for a port of the host.
    fn target_port(&self, port: u16) -> u16 {
        self.target_first.saturating_add(port.saturating_sub(self.first))
    }

    /// Whether `port` of the container is one that the publication leads to.
    fn leads_to(&self, port: u16) -> bool {
        (self.target_first..=self.target_port(self.last)).contains(&port)
    }
}

/// Ports that the same publications apply to.
#[derive(Debug)]
struct Section {
    first: u16,
    last: u16,
    /// Into [`Services::applying`].
    publications: Range<u32>,
}

/// Where a publication begins, or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    /// The first port that it applies to, or the first one behind it.
    at: u32,
    begins: bool,
    publication: u32,
}

/// All published ports.
#[derive(Debug, Default)]
pub struct Services {
    publications: Vec<Publication>,
    /// By protocol and family, each in ascending order.
    sections: HashMap<(u8, bool), Vec<Section>>,
    /// The publications of each section, those for one address of the host first.
    applying: Vec<u32>,
    /// The publications of each protocol that lead to a container's address.
    targets: HashMap<(u8, IpAddr), Vec<u32>>,
}

impl Services {
    /// The services of `publications`, of which no two have the same endpoint.
    #[must_use]
    pub fn new(publications: Vec<Publication>) -> Self {
        let mut services = Self::default();
        // By protocol and family.
        let mut edges: HashMap<(u8, bool), Vec<Edge>> = HashMap::new();
        for (number, one) in (0u32..).zip(&publications) {
            let edges = edges.entry((one.protocol, one.target.is_ipv6())).or_default();
            edges.push(Edge { at: u32::from(one.first), begins: true, publication: number });
            edges.push(Edge { at: u32::from(one.last) + 1, begins: false, publication: number });
            services.targets.entry((one.protocol, one.target)).or_default().push(number);
        }
        for (key, mut edges) in edges {
            edges.sort_unstable();
            let sections = services.sections.entry(key).or_default();
            let (mut open, mut since): (Vec<u32>, u32) = (Vec::new(), 0);
            for Edge { at, begins, publication: number } in edges {
                if at > since && !open.is_empty() {
                    let begin = services.applying.len() as u32;
                    services.applying.extend(&open);
                    let end = services.applying.len() as u32;
                    // Below 65,536: something begins before it, or ends behind it.
                    sections.push(Section { first: since as u16, last: (at - 1) as u16, publications: begin..end });
                }
                since = at;
                if begins {
                    let is_specific = publications[number as usize].host.is_some();
                    open.insert(if is_specific { 0 } else { open.len() }, number);
                } else {
                    open.retain(|other| *other != number);
                }
            }
        }
        services.publications = publications;
        services
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
        let sections = self.sections.get(&(protocol, address.is_ipv6()))?;
        let section = sections.get(sections.partition_point(|section| section.last < port))?;
        if section.first > port {
            return None;
        }
        let applying = &self.applying[section.publications.start as usize..section.publications.end as usize];
        let publications = applying.iter().map(|number| &self.publications[*number as usize]);
        let found = publications.into_iter().find(|one| one.host.is_none_or(|host| host == address))?;
        Some((found, found.target_port(port)))
    }

    /// A publication that leads to `port` of the container with the address `target`.
    #[must_use]
    pub fn find_target(&self, protocol: u8, target: IpAddr, port: u16) -> Option<&Publication> {
        let numbers = self.targets.get(&(protocol, target))?;
        numbers.iter().map(|number| &self.publications[*number as usize]).find(|one| one.leads_to(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ADDRESSES: [[u8; 4]; 3] = [[192, 0, 2, 1], [192, 0, 2, 2], [127, 0, 0, 1]];

    fn publication(protocol: u8, host: Option<usize>, first: u16, last: u16, target: u8) -> Publication {
        Publication {
            protocol,
            host: host.map(|host| ADDRESSES[host].into()),
            first,
            last,
            bridge: BridgeId(0),
            target: [10, 0, 0, target].into(),
            target_first: first / 2,
            from: Arc::default(),
        }
    }

    #[test]
    fn the_very_address_goes_before_all_addresses() {
        let services = Services::new(vec![
            publication(6, None, 1, 65_535, 2),
            publication(6, Some(1), 100, 200, 3),
            publication(17, Some(0), 65_535, 65_535, 4),
        ]);
        let find = |protocol, address: usize, port| {
            let found = services.find(protocol, ADDRESSES[address].into(), port);
            found.map(|(found, port)| (found.target.to_string(), port))
        };
        let to = |last: u8, port| Some((format!("10.0.0.{last}"), port));
        assert_eq!([find(6, 1, 99), find(6, 1, 100)], [to(2, 98), to(3, 50)]);
        assert_eq!([find(6, 1, 200), find(6, 1, 201)], [to(3, 150), to(2, 200)]);
        assert_eq!([find(6, 0, 150), find(6, 0, 65_535), find(6, 0, 0)], [to(2, 149), to(2, 65_534), None]);
        assert_eq!([find(17, 0, 65_535), find(17, 1, 65_535), find(132, 0, 1)], [to(4, 32_767), None, None]);
        assert!(services.find(6, "::1".parse().unwrap(), 80).is_none(), "of the other family");
        let target = |port| services.find_target(6, [10, 0, 0, 3].into(), port).is_some();
        assert_eq!([target(49), target(50), target(150), target(151)], [false, true, true, false]);
    }

    proptest! {
        #[test]
        fn sections_say_what_a_search_through_all_would(
            ranges in proptest::collection::vec((any::<bool>(), 0usize..4, 0u16..40, 0u16..40), 0..12),
            port in 0u16..45,
            address in 0usize..3,
        ) {
            let publications: Vec<_> = ranges
                .iter()
                .zip(1..)
                .map(|((tcp, host, a, b), target)| {
                    let host = host.checked_sub(1);
                    publication(if *tcp { 6 } else { 17 }, host, *a.min(b), *a.max(b), target)
                })
                .collect();
            let services = Services::new(publications.clone());
            let address = IpAddr::from(ADDRESSES[address]);
            let applies = |one: &&Publication| one.protocol == 6 && (one.first..=one.last).contains(&port);
            let mut specific = publications.iter().filter(applies).filter(|one| one.host == Some(address)).peekable();
            let mut general = publications.iter().filter(applies).filter(|one| one.host.is_none()).peekable();
            let found = services.find(6, address, port).map(|(found, _)| found.clone());
            match (specific.peek(), general.peek()) {
                (Some(_), _) => prop_assert!(specific.any(|one| Some(one) == found.as_ref())),
                (None, Some(_)) => prop_assert!(general.any(|one| Some(one) == found.as_ref())),
                (None, None) => prop_assert_eq!(found, None),
            }
        }
    }
}
