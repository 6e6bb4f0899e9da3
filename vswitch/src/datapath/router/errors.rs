//! ICMP errors: those of others on their way through, and our own.
//!
//! An error belongs to the connection of the packet that it quotes, and goes where that came from: what is quoted
//! becomes what its sender had sent, and the sender of the error becomes the other end of the connection, if it is that
//! end who speaks. A router on the way keeps its own address (RFC 5508 section 4). Errors change nothing about the
//! connection (REQ-7) and refresh nothing (REQ-4).

use std::net::IpAddr;

use super::{Refusal, Refused, Routed, Router, decide};
use crate::datapath::pipeline::Source;
use crate::frame::{DropReason, Frame};
use crate::nat::{IcmpError, Packet, Place, Rewrite, Tuple};
use crate::wire::icmp_error::{self, Problem};

/// What a sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::datapath) struct Told {
    pub(super) problem: Problem,
    /// The length of the packet, or of a segment of it, where it is not the frame's.
    pub(super) packet_bytes: Option<usize>,
}

impl From<Problem> for Told {
    fn from(problem: Problem) -> Self {
        Self { problem, packet_bytes: None }
    }
}

/// Who tells the sender of a packet that it was refused: the gateway that it was sent to; towards the outside, the
/// address that the packet was for.
pub(super) fn speaker(source: &Source<'_>, packet: &Packet) -> Option<IpAddr> {
    let gateway = source.bridge.gateway.as_ref()?;
    gateway.address_like(packet.tuple.source)
}

impl Refused {
    /// Writes what the sender of `frame` is told to the front of `out`; the length, or nothing where it must not be
    /// told.
    pub(in crate::datapath) fn write(&self, frame: &Frame, out: &mut [u8]) -> Option<usize> {
        let packet_bytes = self
            .told
            .packet_bytes
            .unwrap_or_else(|| frame.len().saturating_sub(crate::datapath::egress::link_header_bytes(frame.data())));
        icmp_error::write(frame.data(), packet_bytes, self.told.problem, self.source, out)
    }
}

impl Router {
    pub(super) fn route_error(
        &mut self,
        source: &Source<'_>,
        frame: &mut Frame,
        packet: &Packet,
        place: Place,
    ) -> Result<Routed, Refusal> {
        let untranslatable = (DropReason::Untranslatable, None);
        let csum = frame.offload.csum;
        let error = IcmpError::parse(frame.data(), packet, &csum).map_err(|reason| (reason, None))?;
        // An answer to what is quoted would travel as the error does.
        let Some(found) = self.conntrack.find(&error.tuple.reversed(), place) else {
            return self.route_strange_error(source, packet, place);
        };
        let out = decide::output(source, &found, None, &mut self.pending.questions)?;
        if out.hop && packet.hops <= 1 {
            return Err((DropReason::TtlExceeded, None));
        }
        let translated = found.translated;
        let speaks_itself = packet.tuple.source == error.tuple.destination;
        let outer = Tuple {
            source: if speaks_itself { translated.source } else { packet.tuple.source },
            destination: translated.destination,
            ..packet.tuple
        };
        let quoted = Rewrite::new(&error.tuple, &translated.reversed()).ok_or(untranslatable)?;
        let outer = Rewrite::new(&packet.tuple, &outer).ok_or(untranslatable)?;
        let data = frame.data_mut();
        if !error.apply(data, packet, &csum, &quoted, &outer, out.hops()) {
            return Err(untranslatable);
        }
        if let Some((ethernet, macs)) = data.first_chunk_mut::<12>().zip(out.macs) {
            *ethernet = macs;
        }
        Ok(Routed::Send(out.port))
    }

    /// An error about what no connection has: from a container to the host it is the host's, who may have sent to the
    /// container; everything else is nobody's.
    fn route_strange_error(&mut self, source: &Source<'_>, packet: &Packet, place: Place) -> Result<Routed, Refusal> {
        let gateway = source.bridge.gateway.as_deref().filter(|_| place == Place::Container);
        let destination = packet.tuple.destination;
        let is_hosts = |gateway: &crate::snapshot::GatewayEntry| {
            gateway.is_own(destination) || source.snapshot.routing.host_addresses.contains(&destination)
        };
        match gateway.filter(|gateway| is_hosts(gateway)).and_then(|gateway| gateway.host) {
            Some(host) => Ok(Routed::Send(host)),
            None => Err((DropReason::NoConnection, None)),
        }
    }
}

/// A refusal that the sender is told of.
pub(super) fn tell(reason: DropReason, problem: Problem) -> Refusal {
    (reason, Some(problem.into()))
}
