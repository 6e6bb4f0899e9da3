//! Addresses: which subnet a bridge gets, and which address a port gets. Pure, no I/O.
//!
//! * [`Pools`] finds the first free subnet, from the pools that Docker uses.
//! * [`Allocator`] gives out the addresses of one subnet one after the other, as Docker does: an
//!   address that was just released is not given to the next container while its neighbours still
//!   remember the last owner's MAC address.
//! * [`validate_subnet`], [`validate_gateway`] and [`validate_range`] say what is wrong with what a
//!   person asked for.
//!
//! # What is never given out
//!
//! In IPv4 a subnet's first address (the network, RFC 1122 section 3.2.1.3) and its last (broadcast); a /31 has
//! neither (RFC 3021). In IPv6 the first, the subnet-router anycast address (RFC 4291 section
//! 2.6.1), but for /127, where routers do not have it (RFC 6164). Then the gateway and what was reserved.

mod allocator;
mod pools;
mod validate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use self::allocator::{Allocator, Subnet};
pub use self::pools::{Pools, overlaps};
pub use self::validate::{validate_gateway, validate_range, validate_subnet};

/// Why an address or a subnet is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// No subnet of the pools is free.
    #[error(
        "no free subnet: all {count} subnets of the default pools overlap a network that is in use; \
         name one with --subnet, or remove a bridge"
    )]
    NoFreeSubnet {
        /// How many were tried.
        count: usize,
    },
    /// The subnet cannot be one.
    #[error("invalid subnet {subnet}: {why}")]
    Subnet {
        /// What was asked for.
        subnet: IpNet,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The gateway cannot be one.
    #[error("invalid gateway {gateway}: {why}")]
    Gateway {
        /// What was asked for.
        gateway: IpAddr,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The range cannot be one.
    #[error("invalid ip-range {range}: {why}")]
    Range {
        /// What was asked for.
        range: IpNet,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The address cannot be reserved.
    #[error("cannot reserve {ip}: {why}")]
    Reservation {
        /// What was asked for.
        ip: IpAddr,
        /// What is wrong and what would be right.
        why: String,
    },
    /// All addresses are given out.
    #[error(
        "no free address in {range}: all of its addresses are in use or reserved; \
         remove a port, or make the bridge anew with a larger subnet or ip-range"
    )]
    Exhausted {
        /// What addresses are given from.
        range: IpNet,
    },
    /// The address is not the subnet's.
    #[error("address {ip} is outside of the subnet {subnet}; choose one inside, or leave --ip out")]
    Outside {
        /// What was asked for.
        ip: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// The address has another use.
    #[error("address {ip} cannot be given to a port: it is {use_}; choose another one, or leave --ip out")]
    Unusable {
        /// What was asked for.
        ip: IpAddr,
        /// What it is used for.
        use_: String,
    },
    /// The address is somebody else's.
    #[error("address {ip} is in use by another port; choose another one, or leave --ip out")]
    Taken {
        /// What was asked for.
        ip: IpAddr,
    },
    /// The address was not given out, so it cannot come back.
    #[error("address {ip} is not in use")]
    NotTaken {
        /// What was to be released.
        ip: IpAddr,
    },
}

/// The address that the gateway has if none was named: the subnet's first usable one.
#[must_use]
pub fn default_gateway(subnet: IpNet) -> IpAddr {
    let network = number(subnet.network());
    let first = if network_use(subnet).is_some() { network + 1 } else { network };
    address(first, subnet)
}

/// What the subnet's first address is, if it is no port's.
fn network_use(subnet: IpNet) -> Option<&'static str> {
    match subnet {
        IpNet::V4(net) if net.prefix_len() <= 30 => Some("the subnet's network address"),
        IpNet::V6(net) if net.prefix_len() <= 126 => Some("the subnet-router anycast address"),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// What the subnet's last address is, if it is no port's.
fn broadcast_use(subnet: IpNet) -> Option<&'static str> {
    match subnet {
        IpNet::V4(net) if net.prefix_len() <= 30 => Some("the subnet's broadcast address"),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

/// An address as a number, so that both families are counted alike.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address of `subnet`'s family with that number.
fn address(number: u128, subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_gateway_is_the_first_usable_address() {
        for (subnet, gateway) in [
            ("172.17.0.0/16", "172.17.0.1"),
            ("10.0.0.4/31", "10.0.0.4"),
            ("10.0.0.4/32", "10.0.0.4"),
            ("fd00:1::/64", "fd00:1::1"),
            ("fd00:1::2/127", "fd00:1::2"),
        ] {
            assert_eq!(default_gateway(subnet.parse().unwrap()), gateway.parse::<IpAddr>().unwrap());
        }
    }
}
