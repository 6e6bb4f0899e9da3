//! Published ports as the outside has to know them: at which endpoints of the host, whatever they lead to.
//!
//! What the classifier takes and what is reserved against the host's programs are kept as this, next to what is wanted; the
//! difference is what has to be done. Ranges are merged first, so that a range of which a part was taken out is not
//! given back and taken again: for a moment its packets would be the host's, which would reset their connections.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api::{PortRange, Transport, any_address};
use crate::bpf::{HostAddresses, Protocol};
use crate::control::desired::Desired;
use crate::control::host_ports::Published;

/// Ports of one protocol at one address; unspecified: at all of its family.
pub(super) type Endpoint = (Transport, IpAddr);
/// Ranges that neither overlap nor touch, in order.
type Ranges = Vec<PortRange>;

/// See the module's documentation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken(BTreeMap<Endpoint, Ranges>);

impl Taken {
    /// What `desired` publishes.
    pub(super) fn by(desired: &Desired) -> Self {
        let mut taken = Self::default();
        let ports = desired.bridges.values().flat_map(|record| record.ports.values());
        for one in ports.flat_map(|port| &port.publications) {
            taken.0.entry((one.protocol, one.host)).or_default().push(one.host_ports());
        }
        taken.0.values_mut().for_each(|ranges| *ranges = merged(std::mem::take(ranges)));
        taken
    }

    /// Whether `port` of `host` is among them.
    pub(super) fn has(&self, protocol: u8, host: IpAddr, port: u16) -> bool {
        let Some(protocol) = Transport::ALL.into_iter().find(|one| one.number() == protocol) else { return false };
        [host, any_address(host.is_ipv6())].into_iter().any(|ip| {
            let ranges = self.at((protocol, ip));
            let behind = ranges.partition_point(|range| range.last < port);
            ranges.get(behind).is_some_and(|range| range.first <= port)
        })
    }

    /// As the host's ports are told.
    pub(super) fn published(&self) -> Vec<Published> {
        let one = |(&(protocol, host), ranges): (&Endpoint, &Ranges)| {
            let (protocol, at) = (kernel_protocol(protocol), kernel_addresses(host));
            let of = |ports: &PortRange| Published { protocol, at, ports: ports.first..=ports.last };
            ranges.iter().map(of).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(one).collect()
    }

    /// Whether nothing is published.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What these have and `others` have not.
    pub(super) fn without<'a>(&'a self, others: &'a Self) -> impl Iterator<Item = (Endpoint, PortRange)> + 'a {
        self.0.iter().flat_map(|(&endpoint, ranges)| {
            difference(ranges, others.at(endpoint)).into_iter().map(move |ports| (endpoint, ports))
        })
    }

    pub(super) fn insert(&mut self, endpoint: Endpoint, ports: PortRange) {
        let there = self.0.entry(endpoint).or_default();
        *there = merged(there.iter().copied().chain([ports]));
    }

    pub(super) fn remove(&mut self, endpoint: Endpoint, ports: PortRange) {
        if let Some(there) = self.0.get_mut(&endpoint) {
            *there = difference(there, &[ports]);
            if there.is_empty() {
                self.0.remove(&endpoint);
            }
        }
    }

    fn at(&self, endpoint: Endpoint) -> &[PortRange] {
        self.0.get(&endpoint).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The same ports in as few ranges as possible, in order.
fn merged(ranges: impl IntoIterator<Item = PortRange>) -> Ranges {
    let mut ranges: Vec<_> = ranges.into_iter().collect();
    ranges.sort_unstable();
    let mut merged: Ranges = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}

/// The ports of `ranges` that are not in `others`; both in order and without overlaps.
fn difference(ranges: &[PortRange], others: &[PortRange]) -> Ranges {
    let mut left = Vec::new();
    let mut at = 0;
    for range in ranges {
        // What ends before this range ends before the next ones, too.
        at += others[at..].iter().take_while(|other| other.last < range.first).count();
        let mut first = Some(range.first);
        for other in others[at..].iter().take_while(|other| other.first <= range.last) {
            let Some(begin) = first else { break };
            if other.first > begin {
                left.push(PortRange { first: begin, last: other.first - 1 });
            }
            first = other.last.checked_add(1).filter(|next| *next <= range.last);
        }
        left.extend(first.map(|first| PortRange { first, last: range.last }));
    }
    left
}

/// An address as the kernel's side of the switch names it.
pub(super) fn kernel_addresses(host: IpAddr) -> HostAddresses {
    match host {
        IpAddr::V4(ip) if ip.is_unspecified() => HostAddresses::AllIpv4,
        IpAddr::V6(ip) if ip.is_unspecified() => HostAddresses::AllIpv6,
        one => HostAddresses::One(one),
    }
}

/// A protocol as the kernel's side of the switch names it.
pub(super) fn kernel_protocol(protocol: Transport) -> Protocol {
    match protocol {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp => Protocol::Sctp,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(merged([range(5, 6), range(1, 2), range(3, 4), range(9, 9)]), [range(1, 6), range(9, 9)]);
        assert_eq!(merged([range(65535, 65535), range(1, 65535)]), [range(1, 65535)]);
    }

    fn ranges() -> impl Strategy<Value = Ranges> {
        let one = (1u16..60, 0u16..8).prop_map(|(first, more)| range(first, first + more));
        prop::collection::vec(one, 0..8).prop_map(merged)
    }

    proptest! {
        #[test]
        fn a_difference_has_what_only_one_side_has(a in ranges(), b in ranges()) {
            let has = |ranges: &[PortRange], port| ranges.iter().any(|r| (r.first..=r.last).contains(&port));
            let left = difference(&a, &b);
            prop_assert_eq!(&merged(left.clone()), &left, "in order and without overlaps");
            for port in 1..80 {
                prop_assert_eq!(has(&left, port), has(&a, port) && !has(&b, port), "{}", port);
            }
        }
    }
}
