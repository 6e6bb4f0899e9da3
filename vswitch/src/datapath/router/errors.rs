//! ICMP errors: those of others on their way through, and our own.

use std::net::IpAddr;

use super::{Refusal, Routed, Router, apply_error, decide};
use crate::datapath::pipeline::Source;
use crate::frame::{DropReason, Frame};
use crate::nat::{Packet, Place, icmp_error};

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
