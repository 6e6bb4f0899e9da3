//! What the kernel says of a namespace, as plain data.

use std::net::IpAddr;

use ipnet::IpNet;

/// An interface, as far as an uplink cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// Its index, which a new name does not change.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, if it is an Ethernet interface.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is up and has a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// The index of the interface that it is a part of (a bond, a kernel bridge), if it is.
    pub master: Option<u32>,
    /// The kind of virtual interface, if it is one.
    pub kind: Option<String>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddress {
    /// The interface's index.
    pub index: u32,
    /// The address and its prefix.
    pub net: IpNet,
    /// Whether it is usable: neither tentative nor a duplicate (RFC 4862 section 5.4).
    pub usable: bool,
    /// Whether no new connections should use it (RFC 4862 section 5.5.4).
    pub deprecated: bool,
    /// Whether it is a further address of a network that has another one (IPv4).
    pub secondary: bool,
    /// Whether it is one of those that come and go for the sake of privacy (IPv6, RFC 8981).
    pub temporary: bool,
    /// Whether it is valid beyond the link; an IPv6 link-local address is not.
    pub global: bool,
}

/// What a route does with packets (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAction {
    /// Sends them on.
    Unicast,
    /// They are for this host (also anycast).
    Local,
    /// They are for everybody on a link.
    Broadcast,
    /// They are for a group.
    Multicast,
    /// Drops them without a word.
    Blackhole,
    /// Refuses them: host unreachable.
    Unreachable,
    /// Refuses them: forbidden.
    Prohibit,
    /// The next policy rule decides.
    Throw,
}

/// One of the ways that a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// The index of the interface that packets leave by; 0 if the route names none.
    pub oif: u32,
    /// The router, which may be of the other family (RFC 5549); none for what is on the link.
    pub via: Option<IpAddr>,
    /// Its share of the flows, 1 to 256.
    pub weight: u16,
    /// Whether the kernel has given it up: its interface is down (`RTNH_F_DEAD`).
    pub dead: bool,
}

/// A route, with all that decides whether it is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads; the whole address space for a default route.
    pub dst: IpNet,
    /// The type of service that it is for; 0 for all (IPv4 only).
    pub tos: u8,
    /// The routing table.
    pub table: u32,
    /// The lower, the better.
    pub metric: u32,
    /// What it does.
    pub action: RouteAction,
    /// The address that packets of the host's own carry, where the route says so.
    pub prefsrc: Option<IpAddr>,
    /// The ways that it leads: several for equal-cost multipath; none for what it refuses.
    pub hops: Vec<Hop>,
    /// The next-hop object that it names, if it does (`ip nexthop`).
    pub nexthop_object: Option<u32>,
}

/// The link-layer address of a neighbour, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNeighbour {
    /// The interface's index.
    pub index: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its Ethernet address, where that is known and may be used.
    pub mac: Option<[u8; 6]>,
    /// Whether it answered lately; an entry in state STALE is usable, but wants to be confirmed.
    pub confirmed: bool,
}

/// A policy rule (`ip rule`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRule {
    /// Whether it is for IPv6.
    pub ipv6: bool,
    /// The lower, the earlier it is asked.
    pub priority: u32,
    /// The table that it leads to.
    pub table: u32,
    /// Whether it holds for every packet and leads to a table: then its priority and table say all.
    pub plain: bool,
}

impl HostRule {
    /// Whether it is one of those that every namespace has (`fib_default_rules_init`, `fib6_rules_net_init`).
    #[must_use]
    pub fn is_default(&self) -> bool {
        const TABLE_DEFAULT: u32 = 253;
        self.plain
            && match (self.priority, self.table) {
                (0, crate::control::netlink::TABLE_LOCAL) | (32766, crate::control::netlink::TABLE_MAIN) => true,
                (32767, TABLE_DEFAULT) => !self.ipv6,
                _ => false,
            }
    }
}

/// How a route that was added stands to those of the same destination and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Before them: `ip route add` and `prepend`.
    First,
    /// Behind them: `ip route append`, and what a dump lists.
    Last,
    /// In the place of the first of them: `ip route replace`.
    Replace,
}

/// One thing that the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostChange {
    /// A link is there, new or changed.
    Link(HostLink),
    /// A link is gone.
    LinkGone(u32),
    /// An interface has an address.
    Address(HostAddress),
    /// An interface lost an address.
    AddressGone(HostAddress),
    /// A route is there.
    Route(HostRoute, Position),
    /// A route is gone.
    RouteGone(HostRoute),
    /// A neighbour is known, or known not to answer.
    Neighbour(HostNeighbour),
    /// A neighbour is forgotten.
    NeighbourGone(HostNeighbour),
    /// A policy rule is there.
    Rule(HostRule),
    /// A policy rule is gone.
    RuleGone(HostRule),
}
