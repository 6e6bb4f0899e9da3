//! "Too big": what a sender is told by a bridge whose packet does not fit through (RFC 1191, RFC 8201).
//!
//! A bridge has no address of its own in the network, so it answers as Linux does for its tunnels
//! (`iptunnel_pmtud_build_icmp`, `net/ipv4/ip_tunnel_core.c`): with the addresses exchanged, as though
//! the destination had answered. Senders look at what is quoted, not at who says it.
//!
//! What is never answered is [`icmp_error`]'s to say. IPv4 without DF gets no answer either: it can be fragmented.

use super::icmp_error::{self, Problem};

pub use super::icmp_error::BYTES_MAX;

/// Writes the answer to `frame`, whose IP packet (or each segment of it) is `packet_bytes` long and
/// does not fit through an `mtu`; both in bytes. `frame` may be a prefix of the frame. Returns the
/// length of what was written to the front of `out`; nothing if there must be no answer.
#[must_use]
pub fn too_big(frame: &[u8], packet_bytes: usize, mtu: u32, out: &mut [u8]) -> Option<usize> {
    icmp_error::write(frame, packet_bytes, Problem::TooBig(mtu), None, out)
}

#[cfg(test)]
#[path = "too_big_tests.rs"]
mod tests;
