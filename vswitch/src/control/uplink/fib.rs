//! The forwarding table: which way the host would send a packet, from a [`Mirror`] of its tables.
//!
//! A [`Fib`] is immutable; a change of the host makes a new one. A lookup follows the kernel
//! (`fib_table_lookup`, `fib6_table_lookup`): the tables in the order of the policy rules, in each the
//! longest prefix, of one prefix the lowest metric and of one metric the first route that is alive; a
//! route all of whose ways are dead makes the next one, and in the end the next shorter prefix,
//! decide; `throw` ends the table. A namespace without policy rules of its own has the IPv4 tables
//! `local` and `main` in one trie (since Linux 4.1, `fib_unmerge`), where the longest prefix of both
//! decides.
//!
//! What is not followed: policy rules beyond the default ones, routes for a type of service, and
//! exceptions (redirects). Where rules exist, [`Fib::caveats`] says so.
//!
//! A prefix length is one look into a hash map, and a table has few lengths; the answer for a tunnel's
//! remote end is kept by its sender, see [`NextHops::generation`](crate::io::uplink::NextHops).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::mirror::Mirror;
use super::source;
use crate::control::netlink::monitor::{Hop, HostAddress, HostLink, HostNeighbour, HostRoute, RouteAction};
use crate::control::netlink::{TABLE_LOCAL, TABLE_MAIN};
use crate::io::uplink::{NextHop, Refusal, Resolution};

/// The table that is asked last (`RT_TABLE_DEFAULT`), by IPv4 only.
const TABLE_DEFAULT: u32 = 253;

/// The host's routes, addresses and neighbours at one moment.
#[derive(Debug, Default)]
pub struct Fib {
    routing: Arc<Routing>,
    neighbours: HashMap<(u32, IpAddr), HostNeighbour>,
}

/// What changes seldom, shared by forwarding tables that differ in their neighbours.
#[derive(Debug, Default)]
struct Routing {
    ipv4: Vec<Table>,
    ipv6: Vec<Table>,
    links: HashMap<u32, HostLink>,
    addresses: Vec<HostAddress>,
    caveats: Vec<String>,
}

/// Routes that are searched together.
#[derive(Debug, Default)]
struct Table {
    /// The prefix lengths that there are, the longest first.
    lengths: Vec<u8>,
    /// The routes of each destination, in the order in which they are tried.
    routes: HashMap<IpNet, Vec<HostRoute>>,
}

/// What the routes alone say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way<'a> {
    /// The route.
    pub route: &'a HostRoute,
    /// Which of its ways.
    pub hop: Hop,
}

impl Fib {
    /// The forwarding table of a host.
    #[must_use]
    pub fn new(mirror: &Mirror) -> Self {
        let of = |ipv6: bool, tables: &[u32]| {
            let mut table = Table::default();
            for id in tables {
                let rows = mirror.routes().filter(|route| route.table == *id && route.dst.addr().is_ipv6() == ipv6);
                rows.for_each(|route| table.push(route));
            }
            table.lengths.sort_unstable_by(|one, two| two.cmp(one));
            table
        };
        let merged = mirror.extra_rules().all(|rule| rule.ipv6);
        let ipv4 = if merged {
            vec![of(false, &[TABLE_LOCAL, TABLE_MAIN]), of(false, &[TABLE_DEFAULT])]
        } else {
            vec![of(false, &[TABLE_LOCAL]), of(false, &[TABLE_MAIN]), of(false, &[TABLE_DEFAULT])]
        };
        let routing = Routing {
            ipv4,
            ipv6: vec![of(true, &[TABLE_LOCAL]), of(true, &[TABLE_MAIN])],
            links: mirror.links().map(|link| (link.index, link.clone())).collect(),
            addresses: mirror.addresses().to_vec(),
            caveats: caveats(mirror),
        };
        Self { routing: Arc::new(routing), neighbours: neighbours(mirror) }
    }

    /// The same routes with the neighbours as they are now.
    #[must_use]
    pub fn with_neighbours(&self, mirror: &Mirror) -> Self {
        Self { routing: Arc::clone(&self.routing), neighbours: neighbours(mirror) }
    }

    /// What of the host's routing is not followed, in sentences; empty where the answers are the
    /// kernel's own.
    #[must_use]
    pub fn caveats(&self) -> &[String] {
        &self.routing.caveats
    }

    /// Where a packet to `destination` goes; `flow_hash` chooses among ways of equal cost.
    #[must_use]
    pub fn resolve(&self, destination: IpAddr, flow_hash: u32) -> Resolution {
        if is_group(destination) {
            return Resolution::Refused(Refusal::Group);
        }
        let Way { route, hop } = match self.way(destination, flow_hash) {
            Ok(way) => way,
            Err(refusal) => return Resolution::Refused(refusal),
        };
        let Some(link) = self.routing.links.get(&hop.oif) else { return Resolution::Refused(Refusal::NoRoute) };
        let Some(oif_mac) = link.mac.filter(|_| !link.loopback) else {
            return Resolution::Refused(Refusal::NotEthernet);
        };
        let neighbour = hop.via.unwrap_or(destination);
        let source = route.prefsrc.or_else(|| source::select(&self.routing.addresses, hop.oif, hop.via, destination));
        match self.neighbours.get(&(hop.oif, neighbour)) {
            Some(HostNeighbour { mac: Some(mac), confirmed, .. }) => Resolution::Via(NextHop {
                oif: hop.oif,
                oif_mac,
                mtu: link.mtu,
                neighbour,
                mac: *mac,
                source,
                confirmed: *confirmed,
            }),
            _ => Resolution::Unresolved { oif: hop.oif, neighbour, source },
        }
    }

    /// Which route a packet to `destination` takes, and which of its ways.
    ///
    /// # Errors
    /// It takes none.
    pub fn way(&self, destination: IpAddr, flow_hash: u32) -> Result<Way<'_>, Refusal> {
        let tables = if destination.is_ipv4() { &self.routing.ipv4 } else { &self.routing.ipv6 };
        for table in tables {
            match self.way_in(table, destination, flow_hash) {
                Some(answer) => return answer,
                None => continue,
            }
        }
        Err(Refusal::NoRoute)
    }

    /// What one table says; nothing if the next one is to be asked.
    fn way_in<'a>(&'a self, table: &'a Table, to: IpAddr, flow_hash: u32) -> Option<Result<Way<'a>, Refusal>> {
        for &length in &table.lengths {
            let Ok(net) = IpNet::new(to, length) else { continue };
            let Some(routes) = table.routes.get(&net.trunc()) else { continue };
            for route in routes {
                match route.action {
                    RouteAction::Unicast => {
                        if let Some(hop) = self.choose(&route.hops, flow_hash) {
                            return Some(Ok(Way { route, hop }));
                        }
                    }
                    RouteAction::Local => return Some(Err(Refusal::Local)),
                    RouteAction::Broadcast | RouteAction::Multicast => return Some(Err(Refusal::Group)),
                    RouteAction::Blackhole => return Some(Err(Refusal::Blackhole)),
                    RouteAction::Unreachable => return Some(Err(Refusal::Unreachable)),
                    RouteAction::Prohibit => return Some(Err(Refusal::Prohibit)),
                    RouteAction::Throw => return None,
                }
            }
        }
        None
    }

    /// One of the ways that are alive, each as often as its weight says.
    fn choose(&self, hops: &[Hop], flow_hash: u32) -> Option<Hop> {
        let alive = |hop: &&Hop| !hop.dead && self.routing.links.get(&hop.oif).is_some_and(|link| link.up);
        let total: u64 = hops.iter().filter(alive).map(|hop| u64::from(hop.weight)).sum();
        let mut point = (u64::from(flow_hash) * total) >> u32::BITS;
        for hop in hops.iter().filter(alive) {
            match point.checked_sub(u64::from(hop.weight)) {
                Some(rest) => point = rest,
                None => return Some(*hop),
            }
        }
        None
    }
}

impl Table {
    fn push(&mut self, route: &HostRoute) {
        // Only packets of that type of service would take it, and ours have none.
        if route.tos != 0 {
            return;
        }
        if !self.lengths.contains(&route.dst.prefix_len()) {
            self.lengths.push(route.dst.prefix_len());
        }
        self.routes.entry(route.dst).or_default().push(route.clone());
    }
}

fn neighbours(mirror: &Mirror) -> HashMap<(u32, IpAddr), HostNeighbour> {
    mirror.neighbours().map(|neighbour| ((neighbour.index, neighbour.ip), *neighbour)).collect()
}

fn is_group(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip == Ipv4Addr::BROADCAST || ip == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => ip.is_multicast() || ip == Ipv6Addr::UNSPECIFIED,
    }
}

fn caveats(mirror: &Mirror) -> Vec<String> {
    let mut caveats = Vec::new();
    let rules: Vec<_> = mirror.extra_rules().map(|rule| rule.priority.to_string()).collect();
    if !rules.is_empty() {
        caveats.push(format!(
            "the host has policy rules (ip rule: {}), which are not followed: next hops come from the tables main and \
             local alone",
            rules.join(", ")
        ));
    }
    let hidden = mirror.routes().filter(|route| route.nexthop_object.is_some() && route.hops.is_empty());
    let hidden = hidden.filter(|route| route.action == RouteAction::Unicast).count();
    if hidden > 0 {
        caveats.push(format!(
            "{hidden} routes name next-hop objects whose ways the kernel does not list \
             (sysctl net.ipv4.nexthop_compat_mode=0), and are not followed"
        ));
    }
    caveats
}

#[cfg(test)]
#[path = "fib_tests.rs"]
mod tests;
