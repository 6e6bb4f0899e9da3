//! ICMP errors: those of others on their way through, and our own.

use std::net::IpAddr;

use super::{Refusal, Refused, Routed, Router};
use crate::datapath::pipeline::Source;
use crate::frame::{DropReason, Frame};
use crate::nat::{Packet, Place};

/// What a sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::datapath) enum ErrorKind {
    /// Too many hops.
    TimeExceeded,
    /// Larger than what fits.
    TooBig {
        /// What fits, in bytes.
        mtu: u32,
        /// The length of the packet, or of a segment of it.
        packet_bytes: usize,
    },
    /// There is no way.
    NoRoute,
    /// The station does not answer.
    HostUnreachable,
    /// Against the rules.
    Prohibited,
}

/// Who tells the sender of a packet that it was refused: the gateway that it was sent to, or the address that the
/// packet was for.
pub(super) fn speaker(source: &Source<'_>, packet: &Packet) -> Option<IpAddr> {
    match &source.bridge.gateway {
        Some(gateway) => gateway.address_like(packet.tuple.source),
        None => Some(packet.tuple.destination),
    }
}

impl Refused {
    /// Writes what the sender of `frame` is told to the front of `out`; the length, or nothing where it must not be
    /// told.
    pub(in crate::datapath) fn write(&self, _frame: &Frame, _out: &mut [u8]) -> Option<usize> {
        None
    }
}

impl Router {
    pub(super) fn route_error(
        &mut self,
        _source: &Source<'_>,
        _frame: &mut Frame,
        _packet: &Packet,
        _place: Place,
    ) -> Result<Routed, Refusal> {
        Err((DropReason::Untranslatable, None))
    }
}
