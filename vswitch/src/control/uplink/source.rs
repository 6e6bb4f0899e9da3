//! The address that the host itself would send from.
//!
//! IPv4 as the kernel's `inet_select_addr` has it: of the interface's first addresses the one in the
//! router's network, else the first, else any that is valid beyond its link. IPv6 by RFC 6724 section
//! 5, without the rules about mobile and temporary addresses.

use std::net::{IpAddr, Ipv6Addr};

use crate::control::netlink::monitor::HostAddress;

/// The source for packets to `destination` that leave by `oif`, through the router `via` or directly.
pub(super) fn select(addresses: &[HostAddress], oif: u32, via: Option<IpAddr>, destination: IpAddr) -> Option<IpAddr> {
    match destination {
        IpAddr::V4(_) => select_ipv4(addresses, oif, via),
        IpAddr::V6(destination) => select_ipv6(addresses, oif, destination).map(IpAddr::V6),
    }
}

fn select_ipv4(addresses: &[HostAddress], oif: u32, via: Option<IpAddr>) -> Option<IpAddr> {
    let primary = || addresses.iter().filter(|address| address.net.addr().is_ipv4() && !address.secondary);
    let own = || primary().filter(|address| address.index == oif);
    own()
        .find(|address| via.is_some_and(|via| address.net.contains(&via)))
        .or_else(|| own().next())
        .or_else(|| primary().find(|address| address.global))
        .map(|address| address.net.addr())
}

fn select_ipv6(addresses: &[HostAddress], oif: u32, destination: Ipv6Addr) -> Option<Ipv6Addr> {
    let scope = scope_of(destination);
    let candidates = addresses.iter().filter_map(|address| match address.net.addr() {
        IpAddr::V6(ip) if address.usable && !ip.is_loopback() => Some((address, ip)),
        _ => None,
    });
    // A link-local address means something on its own link only.
    let candidates = candidates.filter(|(address, ip)| address.index == oif || scope_of(*ip) == GLOBAL);
    let candidates = candidates.filter(|(address, _)| address.index == oif || scope == GLOBAL);
    let rank = |(address, ip): &(&HostAddress, Ipv6Addr)| {
        let own = scope_of(*ip);
        (
            // Rule 2: the smallest scope that is large enough, or else the largest.
            if own >= scope { (1, GLOBAL - own) } else { (0, own) },
            !address.deprecated,
            address.index == oif,
            label(*ip) == label(destination),
            common_prefix(*ip, destination).min(u32::from(address.net.prefix_len())),
        )
    };
    // The first of those that are equal.
    candidates.rev_max_by_key(rank).map(|(_, ip)| ip)
}

/// `max_by_key` that keeps the first of equal items.
trait FirstMax: Iterator + Sized {
    fn rev_max_by_key<K: Ord>(self, key: impl Fn(&Self::Item) -> K) -> Option<Self::Item> {
        self.fold(None, |best: Option<(K, Self::Item)>, item| {
            let rank = key(&item);
            match best {
                Some((top, kept)) if top >= rank => Some((top, kept)),
                _ => Some((rank, item)),
            }
        })
        .map(|(_, item)| item)
    }
}

impl<I: Iterator> FirstMax for I {}

/// The scopes that unicast addresses have (RFC 4291 section 2.4).
const LINK_LOCAL: u8 = 2;
const GLOBAL: u8 = 14;

fn scope_of(ip: Ipv6Addr) -> u8 {
    if ip.is_unicast_link_local() { LINK_LOCAL } else { GLOBAL }
}

/// The label of the default policy table (RFC 6724 section 2.1).
fn label(ip: Ipv6Addr) -> u8 {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] => 4,
        [0x2002, ..] => 2,
        [0x2001, 0, ..] => 5,
        [first, ..] if first & 0xfe00 == 0xfc00 => 13,
        [first, ..] if first & 0xffc0 == 0xfec0 => 11,
        [0x3ffe, ..] => 12,
        _ => 1,
    }
}

fn common_prefix(one: Ipv6Addr, two: Ipv6Addr) -> u32 {
    (one.to_bits() ^ two.to_bits()).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: u32, net: &str) -> HostAddress {
        let net: ipnet::IpNet = net.parse().expect("a network");
        let global = !matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        HostAddress { index, net, usable: true, deprecated: false, secondary: false, temporary: false, global }
    }

    fn selected(addresses: &[HostAddress], oif: u32, via: Option<&str>, destination: &str) -> Option<String> {
        let parse = |text: &str| text.parse().expect("an address");
        select(addresses, oif, via.map(parse), parse(destination)).map(|ip| ip.to_string())
    }

    #[test]
    fn ipv4_takes_the_routers_network_then_the_interface_then_any() {
        let addresses = [address(1, "10.0.0.1/24"), address(2, "10.1.0.1/24"), address(2, "10.2.0.1/24")];
        let of = |oif, via| selected(&addresses, oif, via, "8.8.8.8");
        assert_eq!(of(2, Some("10.2.0.9")).as_deref(), Some("10.2.0.1"));
        assert_eq!(of(2, Some("10.9.0.9")).as_deref(), Some("10.1.0.1"));
        assert_eq!(of(2, None).as_deref(), Some("10.1.0.1"));
        assert_eq!(of(3, None).as_deref(), Some("10.0.0.1"));
        assert_eq!(selected(&[], 1, None, "8.8.8.8"), None);
    }

    #[test]
    fn ipv6_follows_the_rfc() {
        let mut addresses = vec![
            address(1, "fe80::1/64"),
            address(1, "fd00::1/64"),
            address(1, "2001:db8::1/64"),
            address(2, "fe80::2/64"),
            address(2, "2001:db8:1::2/64"),
        ];
        let of = |addresses: &[HostAddress], oif, to| selected(addresses, oif, None, to).expect("an address");
        assert_eq!(of(&addresses, 1, "fe80::9"), "fe80::1");
        assert_eq!(of(&addresses, 2, "fe80::9"), "fe80::2");
        assert_eq!(of(&addresses, 1, "fd00:1::9"), "fd00::1", "the label");
        assert_eq!(of(&addresses, 1, "2001:db8::9"), "2001:db8::1");
        assert_eq!(of(&addresses, 1, "2600::9"), "2001:db8::1");
        assert_eq!(of(&addresses, 3, "2001:db8:1::9"), "2001:db8:1::2", "the longest prefix");
        addresses[2].deprecated = true;
        assert_eq!(of(&addresses, 1, "2600::9"), "fd00::1", "rather than a deprecated one");
        addresses[2].usable = false;
        assert_eq!(of(&addresses, 1, "2600::9"), "fd00::1");
    }
}
