//! VXLAN (RFC 7348): containers of several hosts on one L2 network.
//!
//! # Theory of operation
//! A remote VTEP of a tunnel is a *port* of the bridge. The fdb learns which addresses are behind
//! it, flooding reaches it (head-end replication), the flow cache and the counters treat it as any
//! other. To send to it is to encapsulate: the port's device does that. What arrives comes through
//! an *underlay* that all tunnels of a UDP port share: it decapsulates, and [`TunnelTable`] says
//! which port each frame came in on.
//!
//! There are two underlays. [`crate::io::udp`] is a socket of the kernel, with its routes, neighbours
//! and firewall; the other is an uplink that is shared with the host, where the switch writes the
//! outer headers itself.
//!
//! This module is what both have in common, pure functions over bytes:
//!
//! - [`table`]: from network and sender to the port;
//! - [`inner`]: what the outer headers take from the inner frame: hash of the flow, DSCP, ECN;
//! - [`ecn`]: RFC 6040, at both ends;
//! - [`decap`]: the checks on a received packet, each with the reason of its drop.
//!
//! # What is written into the outer headers
//! The source port is drawn from the inner flow's hash, out of 49152 to 65535 (RFC 7348, section 5), so
//! that networks which balance by ports spread flows and keep each in order. The UDP checksum is zero
//! where nothing needs it. IPv4 has DF set and no packet is ever fragmented (section 4.3): an inner
//! sender whose packets are too large is told so.

pub mod decap;
pub mod ecn;
pub mod inner;
pub mod table;

use std::net::IpAddr;

pub use table::{Admission, TunnelEntry, TunnelTable};

use crate::wire::vxlan::{self, Vni};

/// The hop limit of outer packets where nothing else is configured.
pub const TTL_DEFAULT: u8 = 64;

/// The differentiated services code point of outer packets (RFC 2983).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DscpPolicy {
    /// The inner packet's; zero for what is not IP (the uniform model).
    Inherit,
    /// Always this one, 0 to 63 (the pipe model).
    Fixed(u8),
}

impl Default for DscpPolicy {
    /// What Linux does without `tos inherit`.
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// How packets to one remote are made. DF is always set: RFC 7348, section 4.3, forbids to fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteConfig {
    /// The virtual network.
    pub vni: Vni,
    /// The remote VTEP's address.
    pub remote: IpAddr,
    /// The remote's UDP port.
    pub dst_port: u16,
    /// The outer TTL or hop limit.
    pub ttl: u8,
    /// The outer DSCP.
    pub dscp: DscpPolicy,
}

impl RemoteConfig {
    /// The usual: port 4789, TTL 64, DSCP 0.
    #[must_use]
    pub const fn new(vni: Vni, remote: IpAddr) -> Self {
        Self { vni, remote, dst_port: vxlan::PORT, ttl: TTL_DEFAULT, dscp: DscpPolicy::Fixed(0) }
    }

    /// The bytes by which an outer IP packet is longer than the inner one: inner Ethernet, VXLAN, UDP
    /// and IP. The MTU of a tunnel is the underlay's less this: 1450 on 1500 over IPv4.
    #[must_use]
    pub const fn overhead_bytes(&self) -> usize {
        overhead_bytes(&self.remote)
    }
}

/// See [`RemoteConfig::overhead_bytes`].
#[must_use]
pub const fn overhead_bytes(remote: &IpAddr) -> usize {
    use crate::wire::{ethernet, ipv4, ipv6, udp};
    let ip = match remote {
        IpAddr::V4(_) => ipv4::HEADER_BYTES,
        IpAddr::V6(_) => ipv6::HEADER_BYTES,
    };
    ip + udp::HEADER_BYTES + vxlan::HEADER_BYTES + ethernet::HEADER_BYTES
}
