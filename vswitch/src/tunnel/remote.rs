//! How packets to one remote are made.

use std::net::IpAddr;

use super::inner::Inner;
use crate::tunnel::ecn::{ECN_MASK, Ecn};
use crate::wire::{ethernet, ipv4, ipv6, udp, vxlan};

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

/// How packets to one remote are made. There is no option to fragment: RFC 7348, section 4.3, forbids it,
/// so DF is always set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteConfig {
    /// The network identifier, 24 bits.
    pub vni: u32,
    /// The remote's address.
    pub remote: IpAddr,
    /// The remote's UDP port.
    pub dst_port: u16,
    /// The outer TTL or hop limit.
    pub ttl: u8,
    /// The outer DSCP.
    pub dscp: DscpPolicy,
    /// Whether frames with a VLAN tag may be sent (RFC 7348, section 6.1: only if configured).
    pub inner_tags: bool,
}

impl RemoteConfig {
    /// The usual: port 4789, TTL 64, DSCP 0, no tags.
    #[must_use]
    pub const fn new(vni: u32, remote: IpAddr) -> Self {
        let dscp = DscpPolicy::Fixed(0);
        Self { vni, remote, dst_port: vxlan::PORT, ttl: TTL_DEFAULT, dscp, inner_tags: false }
    }

    /// See [`overhead_bytes`].
    #[must_use]
    pub const fn overhead_bytes(&self) -> usize {
        overhead_bytes(&self.remote)
    }

    /// The outer TOS octet or traffic class for this inner packet: DSCP by the policy, ECN by RFC 6040.
    #[inline]
    #[must_use]
    pub const fn tos(&self, inner: Inner) -> u8 {
        let dscp = match self.dscp {
            DscpPolicy::Inherit => inner.tos & !ECN_MASK,
            DscpPolicy::Fixed(dscp) => dscp << 2,
        };
        dscp | Ecn::of_tos(inner.tos).encapsulate() as u8
    }
}

/// The bytes by which the outer IP packet to `remote` is longer than the inner one: inner Ethernet,
/// VXLAN, UDP and IP. The MTU of a tunnel is the underlay's less this: 1450 on 1500 over IPv4, 1430
/// over IPv6.
#[must_use]
pub const fn overhead_bytes(remote: &IpAddr) -> usize {
    let ip = match remote {
        IpAddr::V4(_) => ipv4::HEADER_BYTES,
        IpAddr::V6(_) => ipv6::HEADER_BYTES,
    };
    ip + udp::HEADER_BYTES + vxlan::HEADER_BYTES + ethernet::HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mtu_of_a_tunnel() {
        assert_eq!(overhead_bytes(&IpAddr::from([198, 18, 0, 2])), 50);
        assert_eq!(overhead_bytes(&IpAddr::from([1_u16; 8])), 70);
    }

    #[test]
    fn dscp_is_inherited_or_not_and_ecn_always_is() {
        let inner = |tos| Inner { hash: 0, tos };
        let fixed = RemoteConfig::new(1, IpAddr::from([198, 18, 0, 2]));
        let marked = RemoteConfig { dscp: DscpPolicy::Fixed(0x2e), ..fixed };
        let inherit = RemoteConfig { dscp: DscpPolicy::Inherit, ..fixed };
        for tos in 0..=0xff {
            assert_eq!(fixed.tos(inner(tos)), tos & 3);
            assert_eq!(marked.tos(inner(tos)), 0xb8 | tos & 3);
            assert_eq!(inherit.tos(inner(tos)), tos);
        }
    }
}
