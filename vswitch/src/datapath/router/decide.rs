//! Where a packet goes that belongs to no connection yet, and where the packets of a connection go.
//!
//! From a container: to the host, to a published port, or out. From outside: to a published port, or to the mapping
//! of a container that has sent there before. From the host's loopback: to a published port. Nothing else is routed:
//! bridges are separate networks, and a container that is not published is not there.
//!
//! The client's address is what a published server sees. There are three exceptions, and there the gateway stands in:
//! for a client on the loopback network, whose address means another host to the container; for the container itself,
//! which would take its own address for a forgery; and for a neighbour under `icc off`, whom the server could not
//! answer.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::errors::tell;
use super::{QUESTIONS_MAX, Question, Refusal};
use crate::datapath::pipeline::Source;
use crate::frame::DropReason;
use crate::nat::conntrack::{self, Admission, Arrival, Conntrack, Found, New, Segment, SourceNat};
use crate::nat::{Hops, Packet, Place, Publication, Upper};
use crate::snapshot::{BridgeEntry, GatewayEntry, PortId};
use crate::wire::icmp_error::Problem;

/// The way out of the switch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    pub(super) port: PortId,
    /// The frame's new Ethernet addresses, destination first; none for those that it has.
    pub(super) macs: Option<[u8; 12]>,
    /// Whether the packet makes a hop, and not merely a detour to the host itself.
    pub(super) hop: bool,
}

impl Out {
    pub(super) fn hops(&self) -> Hops {
        if self.hop { Hops::Decrement } else { Hops::Keep }
    }
}

/// What is done with a packet.
#[derive(Debug)]
pub(super) enum Decision {
    /// It belongs to this connection.
    Connection {
        found: Found,
        /// A destination that the host was just found to have a route to, so that it need not be asked again.
        routed: Option<IpAddr>,
    },
    /// It goes there as it is.
    Forward(Out),
}

impl From<Found> for Decision {
    fn from(found: Found) -> Self {
        Self::Connection { found, routed: None }
    }
}

/// Decides for a packet that is of no connection yet.
pub(super) fn decide(
    source: &Source<'_>,
    conntrack: &Conntrack,
    packet: &Packet,
    place: Place,
    segment: &Segment,
    questions: &mut ArrayVec<Question, QUESTIONS_MAX>,
) -> Result<Decision, Refusal> {
    let tuple = &packet.tuple;
    let is_strange = is_martian(tuple.source, place) || is_martian(tuple.destination, place);
    if is_strange || is_impostor(source, tuple.source, place) {
        return Err((DropReason::Martian, None));
    }
    match place {
        Place::Container => from_container(source, conntrack, packet, segment, questions),
        Place::Outside | Place::Loopback => {
            from_host_side(source, conntrack, packet, place, segment).map(Decision::from)
        }
    }
}

/// Addresses that nothing may be routed from or to (RFC 1812 sections 5.3.7 and 4.2.2.11, RFC 4291 section 2.5).
fn is_martian(address: IpAddr, place: Place) -> bool {
    match address {
        IpAddr::V4(v4) => {
            (v4.is_loopback() && place != Place::Loopback)
                || v4.is_multicast()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => {
            (v6.is_loopback() && place != Place::Loopback)
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

/// Whether nobody at `place` can have the source address: outside, nobody is this host or one of its containers; and
/// nobody at all has a network's broadcast address.
fn is_impostor(source: &Source<'_>, address: IpAddr, place: Place) -> bool {
    let mut gateways = source.snapshot.bridges.iter().flatten().filter_map(|bridge| bridge.gateway.as_ref());
    match place {
        Place::Container => {
            source.snapshot.routing.host_addresses.contains(&address)
                || source.bridge.gateway.as_ref().is_some_and(|gateway| gateway.is_broadcast(address))
        }
        Place::Outside => {
            source.snapshot.routing.host_addresses.contains(&address)
                || gateways.any(|gateway| gateway.has_network_of(address))
        }
        Place::Loopback => false,
    }
}

fn from_container(
    source: &Source<'_>,
    conntrack: &Conntrack,
    packet: &Packet,
    segment: &Segment,
    questions: &mut ArrayVec<Question, QUESTIONS_MAX>,
) -> Result<Decision, Refusal> {
    let gateway = source.bridge.gateway.as_deref().ok_or((DropReason::NoConnection, None))?;
    let (tuple, routing) = (&packet.tuple, &source.snapshot.routing);
    let destination = tuple.destination;
    let is_gateways = gateway.is_own(destination);
    if is_gateways || routing.host_addresses.contains(&destination) {
        if gateway.internal {
            // The gateway itself is on the bridge.
            return if is_gateways { to_host(gateway) } else { Err(prohibited()) };
        }
        if has_ports(packet)
            && let Some((publication, port)) =
                routing.services.find(tuple.protocol, destination, tuple.destination_port)
        {
            let found = published(source, conntrack, packet, Place::Container, segment, publication, port);
            return found.map(Decision::from);
        }
        return match admit(source, conntrack, packet, Place::Container, segment) {
            Some(admitted) => admitted.map(Decision::from),
            None => to_host(gateway),
        };
    }
    if gateway.is_broadcast(destination) {
        return Err((DropReason::Martian, None));
    }
    if gateway.has_network_of(destination) {
        // Sent to the gateway although it is a neighbour: on link all the same, where neighbours may talk.
        if !source.bridge.icc {
            return Err(tell(DropReason::Isolated, Problem::Prohibited));
        }
        return station(source, source.bridge, destination, questions).map(Decision::Forward);
    }
    let elsewhere = |other: &BridgeEntry| other.gateway.as_ref().is_some_and(|other| other.has_network_of(destination));
    let bridges = source.snapshot.bridges.iter().flatten();
    if gateway.internal || bridges.into_iter().any(|other| elsewhere(other)) || is_link_local(destination) {
        return Err(prohibited());
    }
    let no_route = no_route(source);
    let outside = routing.outside_towards(destination).ok_or(no_route)?;
    let external = outside.addresses.iter().find(|address| address.is_ipv4() == destination.is_ipv4());
    let source_nat = match (gateway.masquerade, external) {
        (false, _) => SourceNat::Keep,
        (true, Some(external)) => SourceNat::External(*external),
        (true, None) => return Err(no_route),
    };
    let new = New {
        tuple: *tuple,
        origin: Place::Container,
        responder: Place::Outside,
        destination: None,
        source: source_nat,
        container: tuple.source,
        bridge: source.bridge.id.0,
        segment: *segment,
        hairpin: false,
    };
    open(conntrack, &new, source).map(|found| Decision::Connection { found, routed: Some(destination) })
}

fn from_host_side(
    source: &Source<'_>,
    conntrack: &Conntrack,
    packet: &Packet,
    place: Place,
    segment: &Segment,
) -> Result<Found, Refusal> {
    let (tuple, routing) = (&packet.tuple, &source.snapshot.routing);
    if has_ports(packet)
        && let Some((publication, port)) =
            routing.services.find(tuple.protocol, tuple.destination, tuple.destination_port)
    {
        return published(source, conntrack, packet, place, segment, publication, port);
    }
    if !routing.host_addresses.contains(&tuple.destination) {
        // Somebody outside routes a bridge's network to this host: what is published there can be reached directly.
        return directly(source, conntrack, packet, place, segment);
    }
    let admitted = admit(source, conntrack, packet, place, segment);
    admitted.unwrap_or(Err((DropReason::NotPublished, None)))
}

/// What may come in to the mapping that the packet is for; none if there is no such mapping.
fn admit(
    source: &Source<'_>,
    conntrack: &Conntrack,
    packet: &Packet,
    from: Place,
    segment: &Segment,
) -> Option<Result<Found, Refusal>> {
    let arrival = Arrival { tuple: packet.tuple, from, bridge: source.bridge.id.0, segment: *segment };
    match conntrack.admit(&arrival, source.now.s) {
        Admission::Admitted(found) => Some(Ok(found)),
        Admission::Filtered => Some(Err((DropReason::Filtered, None))),
        Admission::Refused(refusal) => Some(Err(explain(refusal))),
        Admission::NoMapping => None,
    }
}

/// A connection from outside to the very address of a container, on a port that it has published.
fn directly(
    source: &Source<'_>,
    conntrack: &Conntrack,
    packet: &Packet,
    place: Place,
    segment: &Segment,
) -> Result<Found, Refusal> {
    let (tuple, refused) = (&packet.tuple, (DropReason::NotPublished, None));
    let services = &source.snapshot.routing.services;
    if place != Place::Outside || !has_ports(packet) {
        return Err(refused);
    }
    let publication = services.find_target(tuple.protocol, tuple.destination, tuple.destination_port).ok_or(refused)?;
    let bridge = source.snapshot.bridge(publication.bridge).ok_or(refused)?;
    // With masquerading, a container has no address that anybody outside should know.
    if bridge.gateway.as_ref().is_none_or(|gateway| gateway.masquerade) {
        return Err(refused);
    }
    check_from(publication, tuple.source)?;
    let new = New {
        tuple: *tuple,
        origin: place,
        responder: Place::Container,
        destination: None,
        source: SourceNat::Keep,
        container: tuple.destination,
        bridge: publication.bridge.0,
        segment: *segment,
        hairpin: false,
    };
    open(conntrack, &new, source)
}

/// A connection to a published port.
fn published(
    source: &Source<'_>,
    conntrack: &Conntrack,
    packet: &Packet,
    place: Place,
    segment: &Segment,
    publication: &Publication,
    port: u16,
) -> Result<Found, Refusal> {
    let tuple = &packet.tuple;
    check_from(publication, tuple.source)?;
    let gone = (DropReason::NotPublished, None);
    let bridge = source.snapshot.bridge(publication.bridge).ok_or(gone)?;
    let gateway = bridge.gateway.as_deref().ok_or(gone)?;
    let is_neighbour = place == Place::Container && bridge.id == source.bridge.id;
    let stands_in = tuple.source.is_loopback() || tuple.source == publication.target || (is_neighbour && !bridge.icc);
    let source_nat =
        if stands_in { SourceNat::External(gateway.address_like(tuple.source).ok_or(gone)?) } else { SourceNat::Keep };
    let new = New {
        tuple: *tuple,
        origin: place,
        responder: Place::Container,
        destination: Some((publication.target, port)),
        source: source_nat,
        container: publication.target,
        bridge: publication.bridge.0,
        segment: *segment,
        hairpin: is_neighbour && !stands_in,
    };
    open(conntrack, &new, source)
}

fn check_from(publication: &Publication, client: IpAddr) -> Result<(), Refusal> {
    // The host is always allowed to use what it publishes.
    if publication.from.is_empty() || client.is_loopback() || publication.from.iter().any(|net| net.contains(&client)) {
        Ok(())
    } else {
        Err((DropReason::NotAllowed, None))
    }
}

fn open(conntrack: &Conntrack, new: &New, source: &Source<'_>) -> Result<Found, Refusal> {
    conntrack.open_connection(new, source.now.s).map_err(explain)
}

/// What is dropped has a name, and its sender is told that it is policy, and not the way (RFC 1812 section 5.2.7.1,
/// code 13), where there is a limit.
fn explain(refusal: conntrack::Refusal) -> Refusal {
    match refusal {
        conntrack::Refusal::PortsExhausted => tell(DropReason::PortsExhausted, Problem::Prohibited),
        conntrack::Refusal::ContainerLimit => tell(DropReason::ConnectionLimit, Problem::Prohibited),
        conntrack::Refusal::TableFull => tell(DropReason::ConntrackFull, Problem::Prohibited),
        conntrack::Refusal::NoConnection => (DropReason::NoConnection, None),
        conntrack::Refusal::Invalid => (DropReason::Untranslatable, None),
    }
}

/// There is no way out; nobody is told so before it is certain.
fn no_route(source: &Source<'_>) -> Refusal {
    if source.snapshot.routing.is_settled {
        tell(DropReason::NoRoute, Problem::NetworkUnreachable)
    } else {
        (DropReason::NoRoute, None)
    }
}

fn prohibited() -> Refusal {
    tell(DropReason::OtherNetwork, Problem::Prohibited)
}

fn has_ports(packet: &Packet) -> bool {
    matches!(packet.upper, Upper::Tcp { .. } | Upper::Udp | Upper::Sctp { .. })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// To the host's own interface on the bridge, as it is.
fn to_host(gateway: &GatewayEntry) -> Result<Decision, Refusal> {
    let port = gateway.host.ok_or((DropReason::PortGone, None))?;
    Ok(Decision::Forward(Out { port, macs: None, hop: false }))
}

/// Where the packets of a connection's direction go. The host has a route to `routed`, and is not asked for it.
pub(super) fn output(
    source: &Source<'_>,
    found: &Found,
    routed: Option<IpAddr>,
    questions: &mut ArrayVec<Question, QUESTIONS_MAX>,
) -> Result<Out, Refusal> {
    let (routing, translated) = (&source.snapshot.routing, &found.translated);
    // The way out and the host's loopback have their Ethernet addresses from whoever sends there.
    let plain = |port| Out { port, macs: Some([0; 12]), hop: true };
    match found.to {
        Place::Loopback => routing.loopback.map(plain).ok_or((DropReason::PortGone, None)),
        Place::Outside => {
            if routed != Some(translated.destination) && !routing.has_route(translated.destination) {
                return Err(no_route(source));
            }
            let same = routing.outside.iter().find(|outside| outside.addresses.contains(&translated.source));
            Ok(plain(same.or(routing.outside.first()).ok_or_else(|| no_route(source))?.port))
        }
        Place::Container => {
            let has = |bridge: &&std::sync::Arc<BridgeEntry>| {
                bridge.gateway.as_ref().is_some_and(|gateway| gateway.has_network_of(translated.destination))
            };
            let bridge = source.snapshot.bridges.iter().flatten().find(has);
            station(source, bridge.ok_or((DropReason::NoRoute, None))?, translated.destination, questions)
        }
    }
}

/// To a station of a bridge.
fn station(
    source: &Source<'_>,
    bridge: &BridgeEntry,
    address: IpAddr,
    questions: &mut ArrayVec<Question, QUESTIONS_MAX>,
) -> Result<Out, Refusal> {
    let gone = tell(DropReason::NoRoute, Problem::HostUnreachable);
    let gateway = bridge.gateway.as_deref().ok_or(gone)?;
    let to = |port: PortId, mac: [u8; 6]| {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&mac);
        macs[6..].copy_from_slice(&gateway.mac);
        Out { port, macs: Some(macs), hop: true }
    };
    if let Some(station) = gateway.stations.get(&address) {
        return Ok(to(station.port, station.mac));
    }
    let neighbour = gateway.neighbours.lookup(0, address, source.now.s);
    if let Some(mac) = neighbour
        && let Some(port) = bridge.fdb.lookup(mac.0, 0)
    {
        return Ok(to(port, mac.0));
    }
    let _ = questions.try_push(Question { bridge: bridge.id, station: address });
    Err((DropReason::NoNeighbour, None))
}
