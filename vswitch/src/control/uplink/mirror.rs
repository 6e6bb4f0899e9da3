//! A mirror of the host's links, addresses, routes, neighbours and policy rules.
//!
//! Pure state: it is fed with what a [`Monitor`](crate::control::netlink::monitor::Monitor) reads and
//! with whole tables, and says when it can no longer be sure and a table has to be asked for again
//! ([`Mirror::take_stale`]). That is so after changes that the kernel makes without saying so:
//!
//! - IPv4 routes vanish with their interface, or with the address that they name as their source
//!   (`fib_sync_down_dev`, `fib_sync_down_addr`), and come to life or die with the link's state;
//! - the ways of an IPv6 multipath route come and go one by one, in messages of several shapes.
//!
//! Everything else is followed message by message, in the kernel's own order: of IPv4 routes with one
//! destination, type of service and metric, the one that stands first is used.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::source;
use crate::control::netlink::monitor::{
    HostAddress, HostChange, HostLink, HostNeighbour, HostRoute, HostRule, HostTable, Position,
};

/// Destinations that only a default route leads to: of these, what is chosen depends on the host alone (RFC 5737 and
/// RFC 3849 reserve them for examples).
const ANYWHERE_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const ANYWHERE_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The host's network configuration as it was last heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    links: BTreeMap<u32, HostLink>,
    addresses: Vec<HostAddress>,
    /// By table and destination; those of one destination in the order in which they are tried.
    routes: BTreeMap<(u32, IpNet), Vec<HostRoute>>,
    neighbours: HashMap<(u32, IpAddr), HostNeighbour>,
    rules: Vec<HostRule>,
    routes_stale: bool,
}

/// What a change was about, for those who follow only a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Touched {
    /// Links, addresses, routes or rules.
    pub configuration: bool,
    /// Neighbours.
    pub neighbours: bool,
}

impl Mirror {
    /// Takes one change in; says what it was about, nothing if it was known already.
    pub fn apply(&mut self, change: HostChange) -> Touched {
        let changed = match change {
            HostChange::Neighbour(neighbour) => return self.set_neighbour(neighbour),
            HostChange::NeighbourGone(neighbour) => {
                let neighbours = self.neighbours.remove(&(neighbour.index, neighbour.ip)).is_some();
                return Touched { configuration: false, neighbours };
            }
            HostChange::Link(link) => self.set_link(link),
            HostChange::LinkGone(index) => self.remove_link(index),
            HostChange::Address(address) => self.set_address(address),
            HostChange::AddressGone(address) => self.remove_address(&address),
            HostChange::Route(route, position) => self.add_route(route, position),
            HostChange::RouteGone(route) => self.remove_route(&route),
            HostChange::Rule(rule) => {
                let new = !self.rules.contains(&rule);
                if new {
                    self.rules.push(rule);
                    self.rules.sort_unstable();
                }
                new
            }
            HostChange::RuleGone(rule) => {
                let before = self.rules.len();
                self.rules.retain(|other| *other != rule);
                self.rules.len() != before
            }
        };
        Touched { configuration: changed, neighbours: false }
    }

    /// Replaces a table by what the kernel lists; says whether that changed anything.
    pub fn replace(&mut self, table: HostTable, rows: impl IntoIterator<Item = HostChange>) -> Touched {
        let mut fresh = Self::default();
        for row in rows {
            fresh.apply(row);
        }
        let mut touched = Touched::default();
        let swapped = |changed: bool| Touched { configuration: changed, neighbours: false };
        match table {
            HostTable::Links => touched = swapped(swap(&mut self.links, fresh.links)),
            HostTable::Addresses => touched = swapped(swap(&mut self.addresses, fresh.addresses)),
            HostTable::Routes => {
                touched = swapped(swap(&mut self.routes, fresh.routes));
                self.routes_stale = false;
            }
            HostTable::Rules => touched = swapped(swap(&mut self.rules, fresh.rules)),
            HostTable::Neighbours => touched.neighbours = swap(&mut self.neighbours, fresh.neighbours),
        }
        touched
    }

    /// Whether the routes have to be asked for again; asking resets the answer.
    pub fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.routes_stale)
    }

    fn set_neighbour(&mut self, neighbour: HostNeighbour) -> Touched {
        let before = self.neighbours.insert((neighbour.index, neighbour.ip), neighbour);
        Touched { configuration: false, neighbours: before != Some(neighbour) }
    }

    fn set_link(&mut self, link: HostLink) -> bool {
        let before = self.links.get(&link.index);
        if before == Some(&link) {
            return false;
        }
        if before.is_none_or(|before| (before.up, before.running) != (link.up, link.running)) {
            self.routes_stale = true;
        }
        self.links.insert(link.index, link);
        true
    }

    fn remove_link(&mut self, index: u32) -> bool {
        self.routes_stale = true;
        self.addresses.retain(|address| address.index != index);
        self.neighbours.retain(|(oif, _), _| *oif != index);
        self.links.remove(&index).is_some()
    }

    fn set_address(&mut self, address: HostAddress) -> bool {
        match self.addresses.iter_mut().find(|other| (other.index, other.net) == (address.index, address.net)) {
            Some(other) if *other == address => false,
            Some(other) => {
                *other = address;
                true
            }
            None => {
                self.addresses.push(address);
                true
            }
        }
    }

    fn remove_address(&mut self, address: &HostAddress) -> bool {
        let before = self.addresses.len();
        self.addresses.retain(|other| (other.index, other.net) != (address.index, address.net));
        self.routes_stale = true;
        self.addresses.len() != before
    }

    fn add_route(&mut self, route: HostRoute, position: Position) -> bool {
        let ipv6 = route.dst.addr().is_ipv6();
        let rows = self.routes.entry((route.table, route.dst)).or_default();
        if rows.contains(&route) {
            return false;
        }
        let rank = (route.tos, route.metric);
        let equal = rows.iter().position(|other| (other.tos, other.metric) == rank);
        if ipv6 && equal.is_some() {
            // A further way of a multipath route, or the replacement of one.
            self.routes_stale = true;
        }
        match (position, equal) {
            (Position::Replace, Some(at)) => rows[at] = route,
            (Position::First, Some(at)) => rows.insert(at, route),
            _ => {
                let at = rows.iter().position(|other| other.metric > route.metric).unwrap_or(rows.len());
                rows.insert(at, route);
            }
        }
        true
    }

    fn remove_route(&mut self, route: &HostRoute) -> bool {
        let key = (route.table, route.dst);
        let Some(rows) = self.routes.get_mut(&key) else { return false };
        // What the message says of the route's life is not what identifies it.
        let same = |other: &HostRoute| {
            (other.tos, other.metric, other.action) == (route.tos, route.metric, route.action)
                && other.hops.len() == route.hops.len()
                && other.hops.iter().zip(&route.hops).all(|(one, two)| (one.oif, one.via) == (two.oif, two.via))
        };
        match rows.iter().position(same) {
            Some(at) => {
                rows.remove(at);
                if rows.is_empty() {
                    self.routes.remove(&key);
                }
            }
            // One way of several, or something that was never heard of.
            None => self.routes_stale = true,
        }
        true
    }

    /// The links.
    pub fn links(&self) -> impl Iterator<Item = &HostLink> {
        self.links.values()
    }

    /// The link with this index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&HostLink> {
        self.links.get(&index)
    }

    /// The link with this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&HostLink> {
        self.links.values().find(|link| link.name == name)
    }

    /// The addresses of all interfaces, in the order in which they were given.
    #[must_use]
    pub fn addresses(&self) -> &[HostAddress] {
        &self.addresses
    }

    /// The addresses of one interface.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = &HostAddress> {
        self.addresses.iter().filter(move |address| address.index == index)
    }

    /// The routes by table and destination.
    pub fn routes(&self) -> impl Iterator<Item = &HostRoute> {
        self.routes.values().flatten()
    }

    /// The neighbours.
    pub fn neighbours(&self) -> impl Iterator<Item = &HostNeighbour> {
        self.neighbours.values()
    }

    /// The policy rules that a namespace does not have from the beginning: with them, routing depends
    /// on more than the destination.
    pub fn extra_rules(&self) -> impl Iterator<Item = &HostRule> {
        self.rules.iter().filter(|rule| !rule.is_default())
    }

    /// The index of the interface that the default route leads over: IPv4's, or IPv6's where there
    /// is none; the one with the lowest metric, and not one that is down where another is up.
    #[must_use]
    pub fn default_route_interface(&self) -> Option<u32> {
        let of_family = |ipv6: bool| {
            self.defaults(ipv6)
                .flat_map(|route| route.hops.iter().map(|hop| (hop.dead, route.metric, hop.oif)))
                .filter(|(_, _, oif)| self.links.get(oif).is_some_and(|link| !link.loopback && link.mac.is_some()))
                .min()
                .map(|(_, _, oif)| oif)
        };
        of_family(false).or_else(|| of_family(true))
    }

    /// All addresses of the host, those of its loopback interface included: what is sent to one of them stays here. Of
    /// 127.0.0.0/8, all of which is the host's, only those that an interface has are listed.
    #[must_use]
    pub fn host_addresses(&self) -> HashSet<IpAddr> {
        self.addresses.iter().map(|address| address.net.addr()).collect()
    }

    /// The addresses that packets may have which leave by the interface `oif`: those that the host would send from,
    /// IPv4 and IPv6, each family's best one first.
    ///
    /// That is the source that the default route by this interface names, else the address that the host chooses
    /// itself (`source`); the interface's others follow. Of IPv6, temporary addresses stand behind lasting ones:
    /// connections may outlive them. An interface without an address of its own lends one of another interface, as the
    /// host does. Link-local addresses are none to send from beyond the link, nor are loopback addresses, nor such that
    /// are not usable yet.
    #[must_use]
    pub fn source_addresses(&self, oif: u32) -> Vec<IpAddr> {
        [false, true].into_iter().flat_map(|ipv6| self.source_addresses_of(oif, ipv6)).collect()
    }

    fn source_addresses_of(&self, oif: u32, ipv6: bool) -> Vec<IpAddr> {
        let may_leave = |address: &&HostAddress| {
            let ip = address.net.addr();
            ip.is_ipv6() == ipv6 && address.usable && address.global && !ip.is_loopback()
        };
        let default = self.default_route(oif, ipv6);
        let via = default.and_then(|(_, via)| via);
        let named = default.and_then(|(route, _)| route.prefsrc);
        let named = self.addresses.iter().filter(may_leave).find(|address| Some(address.net.addr()) == named);
        let lasting: Vec<_> = self.addresses.iter().filter(may_leave).filter(|one| !one.temporary).copied().collect();
        let chosen = source::select(&lasting, oif, via, if ipv6 { ANYWHERE_IPV6 } else { ANYWHERE_IPV4 });
        let mut own: Vec<_> = self.addresses_of(oif).filter(may_leave).collect();
        own.sort_by_key(|address| (address.deprecated, address.temporary, address.secondary));
        let mut all = Vec::new();
        for ip in
            named.map(|named| named.net.addr()).into_iter().chain(chosen).chain(own.iter().map(|own| own.net.addr()))
        {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all
    }

    /// The default route of a family that leads over this interface, and its router there.
    fn default_route(&self, oif: u32, ipv6: bool) -> Option<(&HostRoute, Option<IpAddr>)> {
        self.defaults(ipv6)
            .filter_map(|route| Some((route, route.hops.iter().find(|hop| hop.oif == oif)?)))
            .min_by_key(|(route, hop)| (hop.dead, route.metric))
            .map(|(route, hop)| (route, hop.via))
    }

    /// The default routes of a family.
    fn defaults(&self, ipv6: bool) -> impl Iterator<Item = &HostRoute> {
        use crate::control::netlink::TABLE_MAIN;
        use crate::control::netlink::monitor::RouteAction;
        let rows = self.routes.range((TABLE_MAIN, IpNet::default())..).flat_map(|(_, rows)| rows);
        rows.filter(move |route| {
            route.table == TABLE_MAIN
                && route.dst.prefix_len() == 0
                && route.dst.addr().is_ipv6() == ipv6
                && route.action == RouteAction::Unicast
                && route.tos == 0
        })
    }
}

fn swap<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::netlink::monitor::{Hop, RouteAction};

    fn route(dst: &str, metric: u32, oif: u32) -> HostRoute {
        HostRoute {
            dst: dst.parse().expect("a network"),
            tos: 0,
            table: 254,
            metric,
            action: RouteAction::Unicast,
            prefsrc: None,
            hops: vec![Hop { oif, via: None, weight: 1, dead: false }],
            nexthop_object: None,
        }
    }

    fn link(index: u32, up: bool) -> HostLink {
        HostLink {
            index,
            name: format!("eth{index}"),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up,
            running: up,
            loopback: false,
            master: None,
            kind: None,
        }
    }

    fn oifs(mirror: &Mirror) -> Vec<u32> {
        mirror.routes().flat_map(|route| route.hops.iter().map(|hop| hop.oif)).collect()
    }

    #[test]
    fn routes_of_one_destination_keep_the_kernels_order() {
        let mut mirror = Mirror::default();
        for (oif, metric, position) in [
            (1, 10, Position::First),
            (2, 5, Position::First),
            (3, 10, Position::Last),
            (4, 10, Position::First),
            (5, 20, Position::First),
            (6, 10, Position::Replace),
        ] {
            assert!(mirror.apply(HostChange::Route(route("10.0.0.0/8", metric, oif), position)).configuration);
        }
        assert_eq!(oifs(&mirror), [2, 6, 1, 3, 5]);
        mirror.apply(HostChange::RouteGone(route("10.0.0.0/8", 10, 1)));
        assert_eq!(oifs(&mirror), [2, 6, 3, 5]);
        assert!(!mirror.take_stale());
        assert!(!mirror.apply(HostChange::Route(route("10.0.0.0/8", 20, 5), Position::Last)).configuration);
    }

    #[test]
    fn what_the_kernel_does_not_say_is_asked_for() {
        let mut mirror = Mirror::default();
        let mut stale = |change| {
            mirror.apply(change);
            mirror.take_stale()
        };
        assert!(stale(HostChange::Link(link(1, true))));
        assert!(!stale(HostChange::Link(HostLink { mtu: 9000, ..link(1, true) })));
        assert!(stale(HostChange::Link(link(1, false))), "IPv4 routes went silently");
        assert!(!stale(HostChange::Route(route("fd00::/64", 256, 1), Position::First)));
        assert!(stale(HostChange::Route(route("fd00::/64", 256, 2), Position::Last)), "multipath");
        assert!(stale(HostChange::RouteGone(route("fd00::/64", 1, 1))), "not known");
        assert!(stale(HostChange::LinkGone(1)));
    }

    #[test]
    fn the_default_route_decides_the_interface() {
        let mut mirror = Mirror::default();
        mirror.apply(HostChange::Link(link(1, true)));
        mirror.apply(HostChange::Link(link(2, true)));
        assert_eq!(mirror.default_route_interface(), None);
        mirror.apply(HostChange::Route(route("::/0", 1024, 2), Position::First));
        assert_eq!(mirror.default_route_interface(), Some(2));
        mirror.apply(HostChange::Route(route("0.0.0.0/0", 100, 2), Position::First));
        mirror.apply(HostChange::Route(route("0.0.0.0/0", 50, 1), Position::First));
        assert_eq!(mirror.default_route_interface(), Some(1));
        mirror.apply(HostChange::RouteGone(route("0.0.0.0/0", 50, 1)));
        assert_eq!(mirror.default_route_interface(), Some(2));
    }

    fn address(index: u32, net: &str) -> HostAddress {
        let net: IpNet = net.parse().expect("a network");
        let ip = net.addr();
        let global = !ip.is_loopback() && !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        HostAddress { index, net, usable: true, deprecated: false, secondary: false, temporary: false, global }
    }

    fn texts(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<String> {
        addresses.into_iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn the_hosts_addresses_follow_the_changes() {
        let mut mirror = Mirror::default();
        for net in ["127.0.0.1/8", "::1/128"] {
            mirror.apply(HostChange::Address(address(1, net)));
        }
        mirror.apply(HostChange::Address(address(2, "192.0.2.1/24")));
        let mut all = texts(mirror.host_addresses());
        all.sort_unstable();
        assert_eq!(all, ["127.0.0.1", "192.0.2.1", "::1"]);
        mirror.apply(HostChange::AddressGone(address(2, "192.0.2.1/24")));
        assert_eq!(mirror.host_addresses().len(), 2);
    }

    #[test]
    fn packets_leave_with_the_address_that_the_host_would_choose() {
        let mut mirror = Mirror::default();
        let sources = |mirror: &Mirror, oif| texts(mirror.source_addresses(oif));
        assert_eq!(sources(&mirror, 2), Vec::<String>::new());
        let add = |mirror: &mut Mirror, address| mirror.apply(HostChange::Address(address));
        add(&mut mirror, address(1, "127.0.0.1/8"));
        add(&mut mirror, address(1, "::1/128"));
        add(&mut mirror, address(3, "198.51.100.1/24"));
        assert_eq!(sources(&mirror, 2), ["198.51.100.1"], "another interface's, where there is none");
        add(&mut mirror, address(2, "10.0.0.1/24"));
        add(&mut mirror, HostAddress { secondary: true, ..address(2, "10.0.0.2/24") });
        add(&mut mirror, address(2, "192.0.2.1/24"));
        add(&mut mirror, address(2, "fe80::1/64"));
        assert_eq!(sources(&mirror, 2), ["10.0.0.1", "192.0.2.1", "10.0.0.2"]);
        let default = |via: Option<&str>, prefsrc: Option<&str>| {
            let ip = |text: &str| text.parse().expect("an address");
            let hops = vec![Hop { oif: 2, via: via.map(ip), weight: 1, dead: false }];
            HostRoute { prefsrc: prefsrc.map(ip), hops, ..route("0.0.0.0/0", 0, 2) }
        };
        mirror.apply(HostChange::Route(default(Some("192.0.2.254"), None), Position::First));
        assert_eq!(sources(&mirror, 2), ["192.0.2.1", "10.0.0.1", "10.0.0.2"], "of the router's network");
        assert_eq!(sources(&mirror, 3), ["198.51.100.1"]);
        mirror.apply(HostChange::Route(default(Some("192.0.2.254"), Some("10.0.0.2")), Position::Replace));
        assert_eq!(sources(&mirror, 2), ["10.0.0.2", "192.0.2.1", "10.0.0.1"], "the route names one");

        let mut mirror = Mirror::default();
        add(&mut mirror, address(2, "fe80::1/64"));
        add(&mut mirror, HostAddress { temporary: true, ..address(2, "2001:db8:0:1::7/64") });
        add(&mut mirror, HostAddress { deprecated: true, ..address(2, "2001:db8:0:1::8/64") });
        add(&mut mirror, HostAddress { usable: false, ..address(2, "2001:db8:0:1::9/64") });
        add(&mut mirror, address(2, "fd00::1/64"));
        add(&mut mirror, address(2, "2001:db8:0:1::1/64"));
        assert_eq!(
            sources(&mirror, 2),
            ["2001:db8:0:1::1", "fd00::1", "2001:db8:0:1::7", "2001:db8:0:1::8"],
            "lasting before temporary, and those before deprecated ones"
        );
    }
}
