//! Publishing ports, and keeping what stands outside of the snapshot in line with what is published.
//!
//! Theory of operation. The desired state says what is published. Three things outside of the snapshot follow from it:
//! the classifier of the shared uplinks, which takes the packets from the host's interface, the reservation
//! against the host's programs, and the connections that began through a published port. They are brought in line by
//! what is *wanted* and what is *there*, whatever the command was, so that every way in which a port comes or goes (a
//! command, its undoing, a namespace that ends, an uplink that is attached anew) is served by the same few lines.
//!
//! The order is that of all commands. What comes: the classifier first, so that no packet that the snapshot has a
//! service for is still the host's, and no program can bind the port any more; then the snapshot, then the store. What
//! goes: the snapshot first, until no worker makes connections any more; the store; then the classifier and the
//! reservation; and last the connections, so that whoever has the address or the port next gets the very next datagram.
//!
//! What is wanted follows from the records alone and not from which ports have an interface: the ports of a container
//! whose interface is gone for a moment are nobody else's meanwhile.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::conntrack::Gone;
use super::describe::{describe_publication, describe_publications};
use super::{Switch, netlink_failed};
use crate::api::{self, Flushed, PortRange, Publish, PublishSpec, Transport};
use crate::bpf::{Classifier, ClassifierError, HostAddresses, Protocol};
use crate::control::desired::{Desired, PublishView, TakenPort};
use crate::control::host_ports::{Published, Use, in_use, ports_in_use};
use crate::control::netlink::{Netlink, NetlinkError};
use crate::control::refusal::{Result, failed, from_sentence, invalid};

/// The range of `net.ipv4.ip_local_port_range` where it cannot be read: the kernel's default.
const EPHEMERAL_DEFAULT: PortRange = PortRange { first: 32768, last: 60999 };
/// Where it is read. It is that of the reader's network namespace.
const EPHEMERAL_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ports of one protocol at one address; unspecified: at all of its family.
type Endpoint = (Transport, IpAddr);
/// Ranges that neither overlap nor touch, in order.
type Ranges = Vec<PortRange>;

/// Published ports as the classifier knows them: where, whatever they lead to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken(BTreeMap<Endpoint, Ranges>);

/// What was told to whom.
#[derive(Debug, Default)]
pub(super) struct ServicePlane {
    /// What the classifier takes.
    taken: Taken,
    /// What is reserved against the host's programs.
    reserved: Taken,
}

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
        [host, api::any_address(host.is_ipv6())].into_iter().any(|ip| {
            let ranges = self.at((protocol, ip));
            let behind = ranges.partition_point(|range| range.last < port);
            ranges.get(behind).is_some_and(|range| range.first <= port)
        })
    }

    /// As the host's ports are told.
    fn published(&self) -> Vec<Published> {
        let one = |(&(protocol, host), ranges): (&Endpoint, &Ranges)| {
            let (protocol, at) = (kernel_protocol(protocol), kernel_addresses(host));
            let of = |ports: &PortRange| Published { protocol, at, ports: ports.first..=ports.last };
            ranges.iter().map(of).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(one).collect()
    }

    fn at(&self, endpoint: Endpoint) -> &[PortRange] {
        self.0.get(&endpoint).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Switch {
    /// Publishes ports of the port that `key` names, durably; returns what was asked for, with what was chosen.
    ///
    /// # Errors
    /// What [`Desired::publish`] refuses; the classifier or the store fails. Nothing has changed then.
    pub fn publish_ports(&mut self, bridge: &str, key: &str, request: &Publish) -> Result<Vec<api::Publication>> {
        if request.specs.is_empty() {
            return Err(invalid("nothing to publish was named", "name at least one port, such as 8080:80"));
        }
        let name = self.resolve_port(bridge, key)?;
        let mut next = self.desired.clone();
        let published = self.with_host(|host| next.publish(bridge, &name, &request.specs, &request.from, host))?;
        self.change_services(next)?;
        Ok(published.iter().map(|one| describe_publication(bridge, &name, one)).collect())
    }

    /// Takes back published ports of the port that `key` names; returns how many.
    ///
    /// # Errors
    /// What [`Desired::unpublish`] refuses; the store fails. Nothing has changed then.
    pub fn unpublish_ports(&mut self, bridge: &str, key: &str, specs: &[PublishSpec]) -> Result<Flushed> {
        if specs.is_empty() {
            return Err(invalid("nothing to take back was named", "name at least one port, such as 8080:80"));
        }
        let name = self.resolve_port(bridge, key)?;
        let mut next = self.desired.clone();
        next.unpublish(bridge, &name, specs)?;
        let count = |desired: &Desired| -> usize {
            let port = desired.bridges.get(bridge).and_then(|record| record.ports.get(&name));
            port.map_or(0, |port| port.publications.iter().map(|one| one.host_ports().count()).sum())
        };
        let removed = count(&self.desired).saturating_sub(count(&next));
        self.change_services(next)?;
        Ok(Flushed { removed })
    }

    /// What is published, by one port, by the ports of one bridge, or by all.
    ///
    /// # Errors
    /// There is no such bridge or port, or a port is named without its bridge.
    pub fn publications(&self, bridge: Option<&str>, port: Option<&str>) -> Result<Vec<api::Publication>> {
        let port = match (bridge, port) {
            (Some(bridge), Some(key)) => Some(self.resolve_port(bridge, key)?),
            (None, Some(key)) => {
                return Err(invalid(format!("the port {key:?} was named without its bridge"), "name the bridge, too"));
            }
            (Some(bridge), None) => self.desired.bridge(bridge).map(|_| None)?,
            (None, None) => None,
        };
        let bridges = self.desired.bridges.iter().filter(|(name, _)| bridge.is_none_or(|bridge| bridge == *name));
        let ports = bridges.flat_map(|(name, record)| record.ports.iter().map(move |(port, of)| (name, port, of)));
        let ports = ports.filter(|(_, name, _)| port.as_ref().is_none_or(|port| port == *name));
        Ok(ports.flat_map(|(bridge, name, of)| describe_publications(bridge, name, of)).collect())
    }

    /// Runs `decide` with what decisions about published ports need to know of the host.
    pub(super) fn with_host<T>(&self, decide: impl FnOnce(&PublishView<'_>) -> Result<T>) -> Result<T> {
        let look = || -> std::result::Result<Vec<IpAddr>, NetlinkError> {
            Ok(Netlink::open()?.addrs(None)?.iter().map(|address| address.net.addr()).collect())
        };
        let addresses = look().map_err(|error| netlink_failed("the host's addresses cannot be read", &error))?;
        let programs = Programs::default();
        let in_use = |protocol, host, ports| programs.lowest(protocol, host, ports);
        decide(&PublishView { addresses, ephemeral: ephemeral_ports(), in_use: &in_use })
    }

    /// Makes `next`, which differs in what is published, the state.
    fn change_services(&mut self, next: Desired) -> Result<()> {
        if next == self.desired {
            return Ok(());
        }
        let gone = Gone::between(&self.desired, &next);
        let outcome = self.take_services(&Taken::by(&next)).and_then(|()| {
            self.publish(&next);
            self.commit(next)
        });
        match outcome {
            Ok(()) => self.release_gone(&gone),
            Err(_) => {
                self.publish(&self.desired);
                self.release_services();
            }
        }
        outcome
    }

    /// Makes the classifier take `wanted`; what else it takes stays.
    ///
    /// # Errors
    /// The kernel refuses, or a tunnel receives there. Everything else is taken then; it is the caller's to have it
    /// taken back, by [`Switch::release_services`].
    pub(super) fn take_services(&mut self, wanted: &Taken) -> Result<()> {
        if !wanted.0.is_empty() {
            // With the first published port the classifier is loaded.
            self.host_ports()?;
        }
        let Some(classifier) = self.uplinks.classifier() else { return Ok(()) };
        let mut outcome = Ok(());
        for (&endpoint, ranges) in &wanted.0 {
            for ports in difference(ranges, self.services.taken.at(endpoint)) {
                match take(classifier, endpoint, ports) {
                    Ok(()) => {
                        let there = self.services.taken.0.entry(endpoint).or_default();
                        *there = merged(there.iter().copied().chain([ports]));
                    }
                    Err(error) => outcome = Err(from_sentence(api::ErrorCode::Conflict, &error)),
                }
            }
        }
        outcome
    }

    /// Leaves to the host and to its programs what the state does not publish, and nothing else.
    pub(super) fn release_services(&mut self) {
        let wanted = Taken::by(&self.desired);
        self.release_taken(&wanted);
        self.reserve(wanted);
    }

    fn release_taken(&mut self, wanted: &Taken) {
        let Some(classifier) = self.uplinks.classifier() else { return };
        for (&endpoint, there) in &mut self.services.taken.0 {
            for ports in difference(there, wanted.at(endpoint)) {
                match release(classifier, endpoint, ports) {
                    Ok(()) => *there = difference(there, &[ports]),
                    Err(error) => {
                        tracing::warn!(%error, "packets of ports that are not published any more are taken from the host");
                    }
                }
            }
        }
        self.services.taken.0.retain(|_, ranges| !ranges.is_empty());
    }

    /// Makes `wanted` what the kernel does not choose for the host's programs.
    fn reserve(&mut self, wanted: Taken) {
        if wanted == self.services.reserved {
            return;
        }
        let published = wanted.published();
        let reserved = self.host_ports().and_then(|ports| {
            ports.set_published(published).map_err(|error| failed(error.to_string(), "see the daemon's log"))
        });
        match reserved {
            Ok(()) => self.services.reserved = wanted,
            Err(error) => {
                tracing::warn!(error = %error.message, "programs of the host may be given ports that are published");
            }
        }
    }

    /// What is published, as the host's ports are told.
    pub(super) fn published_ports(&self) -> Vec<Published> {
        Taken::by(&self.desired).published()
    }

    /// Gives to the next owner what is gone from the state: ports of the host, and containers' addresses. No worker may
    /// know of it any more.
    pub(super) fn release_gone(&mut self, gone: &Gone) {
        self.release_services();
        self.end_connections(gone);
    }

    /// Brings the classifier in line with what is published: at the start, and when an uplink was attached.
    pub(super) fn program_services(&mut self) {
        if let Err(error) = self.take_services(&Taken::by(&self.desired)) {
            tracing::error!(error = %error.message, "some published ports cannot be reached from outside");
        }
        self.release_services();
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

/// What programs of the host have, as it is found during one command.
#[derive(Default)]
struct Programs(RefCell<BTreeMap<Endpoint, BTreeSet<u16>>>);

impl Programs {
    /// The lowest of `ports` that a program has at `host`. The switch's own sockets, which hold ports for it or carry
    /// its tunnels, are known from its state.
    fn lowest(&self, protocol: Transport, host: IpAddr, ports: PortRange) -> Result<Option<TakenPort>> {
        let refused = |error: std::io::Error| failed(format!("the sockets of the host cannot be listed: {error}"), "");
        let (kernels, at) = (kernel_protocol(protocol), kernel_addresses(host));
        let mut known = self.0.borrow_mut();
        // Listing sockets takes the kernel a while, however few ports are asked for: that is done once.
        let used = match known.entry((protocol, host)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(ports_in_use(kernels, at).map_err(refused)?),
        };
        let us = std::process::id();
        for &port in used.range(ports.first..=ports.last) {
            let uses = in_use(kernels, at, port..=port).map_err(refused)?;
            let foreign = uses.into_iter().find(|one| one.owner.as_ref().is_none_or(|owner| owner.pid != us));
            if let Some(Use { port, address, owner }) = foreign {
                return Ok(Some(TakenPort { address, port, owner: owner.map(|owner| owner.to_string()) }));
            }
        }
        Ok(None)
    }
}

fn take(
    classifier: &mut Classifier,
    (protocol, host): Endpoint,
    ports: PortRange,
) -> std::result::Result<(), ClassifierError> {
    classifier.publish_range(kernel_protocol(protocol), kernel_addresses(host), ports.first..=ports.last)
}

fn release(
    classifier: &mut Classifier,
    (protocol, host): Endpoint,
    ports: PortRange,
) -> std::result::Result<(), ClassifierError> {
    classifier.unpublish_range(kernel_protocol(protocol), kernel_addresses(host), ports.first..=ports.last)
}

fn kernel_addresses(host: IpAddr) -> HostAddresses {
    match host {
        IpAddr::V4(ip) if ip.is_unspecified() => HostAddresses::AllIpv4,
        IpAddr::V6(ip) if ip.is_unspecified() => HostAddresses::AllIpv6,
        one => HostAddresses::One(one),
    }
}

fn kernel_protocol(protocol: Transport) -> Protocol {
    match protocol {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp => Protocol::Sctp,
    }
}

/// The ports that the kernel chooses from for the host's programs.
fn ephemeral_ports() -> PortRange {
    let range = std::fs::read_to_string(EPHEMERAL_FILE).ok().and_then(|text| parse_ephemeral(&text));
    range.unwrap_or(EPHEMERAL_DEFAULT)
}

fn parse_ephemeral(text: &str) -> Option<PortRange> {
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    let range = PortRange { first: numbers.next()?.ok()?, last: numbers.next()?.ok()? };
    (range.first > 0 && range.first <= range.last).then_some(range)
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

    #[test]
    fn the_kernels_own_range_is_read() {
        assert_eq!(parse_ephemeral("32768\t60999\n"), Some(range(32768, 60999)));
        for text in ["", "1", "0 5", "9 8", "x y", "1 65536"] {
            assert_eq!(parse_ephemeral(text), None, "{text:?}");
        }
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
