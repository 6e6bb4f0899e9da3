//! Routes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMessageBuffer, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{Netlink, Result, value};

/// The table that ordinary routes are in (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;
/// The table of the host's own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;

/// What a route does with packets (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends them on (`RTN_UNICAST`).
    Unicast,
    /// They are for this host (`RTN_LOCAL`).
    Local,
    /// Refuses or drops them (`RTN_BLACKHOLE`, `RTN_UNREACHABLE`, `RTN_PROHIBIT`).
    Refuse,
    /// Broadcast, anycast, multicast and the rest.
    Other,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; the whole address space for a default route.
    pub dst: IpNet,
    /// What it does with packets.
    pub kind: RouteKind,
    /// The next hop, if it is not on the link.
    pub gateway: Option<IpAddr>,
    /// The index of the interface that packets leave by.
    pub oif: Option<u32>,
    /// The routing table.
    pub table: u32,
    /// The lower, the better.
    pub metric: u32,
}

impl Route {
    /// Whether it leads everywhere.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.dst.prefix_len() == 0
    }

    /// Whether its destination is spoken for, so that no bridge can have a subnet there: every
    /// route to some network in the tables that all packets consult, whatever it does with them.
    #[must_use]
    pub fn reserves(&self) -> bool {
        !self.is_default()
            && matches!(self.table, TABLE_MAIN | TABLE_LOCAL)
            && matches!(self.kind, RouteKind::Unicast | RouteKind::Local | RouteKind::Refuse)
    }
}

/// A route to be added to the main table.
#[derive(Debug, Clone, Copy)]
pub struct NewRoute {
    /// Where it leads.
    pub dst: IpNet,
    /// The next hop; none for what is on the link.
    pub gateway: Option<IpAddr>,
    /// The index of the interface that packets leave by.
    pub oif: u32,
    /// The lower, the better; none for the kernel's default.
    pub metric: Option<u32>,
}

impl Netlink {
    /// Adds the default route of the gateway's address family. The interface must be up.
    ///
    /// # Errors
    /// `EEXIST` if there is one already, `ENETUNREACH` if the gateway is in no network of the
    /// interface, `ENETDOWN` if that is down.
    pub fn add_default_route(&mut self, gateway: IpAddr, oif: u32) -> Result<()> {
        let dst = match gateway {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        self.add_route(&NewRoute { dst, gateway: Some(gateway), oif, metric: None })
    }

    /// Adds a route.
    ///
    /// # Errors
    /// As [`Netlink::add_default_route`].
    pub fn add_route(&mut self, route: &NewRoute) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.dst);
        message.header.destination_prefix_length = route.dst.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope =
            if route.gateway.is_some() || route.dst.addr().is_ipv6() { RouteScope::Universe } else { RouteScope::Link };
        if route.dst.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(route.dst.network().into()));
        }
        message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        message.attributes.push(RouteAttribute::Oif(route.oif));
        message.attributes.extend(route.metric.map(RouteAttribute::Priority));

        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let what = format!("add route to {}{via} on interface {}", route.dst, route.oif);
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL, &what)
    }

    /// All routes of all tables, IPv4 first. [`Route::reserves`] tells those that a new subnet
    /// must not overlap.
    ///
    /// # Errors
    /// When the kernel cannot be asked; a kernel without IPv6 has no IPv6 routes.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            match self.dump(&RouteNetlinkMessage::GetRoute(message), "list routes", parse) {
                Ok(rows) => routes.extend(rows),
                Err(error) if matches!(error.errno(), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }
}

fn family(net: IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

fn parse(payload: &[u8]) -> Option<Route> {
    let message = RouteMessageBuffer::new_checked(payload).ok()?;
    let everything = match AddressFamily::from(message.address_family()) {
        AddressFamily::Inet => IpNet::V4(Ipv4Net::default()),
        AddressFamily::Inet6 => IpNet::V6(Ipv6Net::default()),
        // A kernel without one family answers for another.
        _ => return None,
    };
    let kind = match RouteType::from(message.kind()) {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Refuse,
        _ => RouteKind::Other,
    };
    let table = u32::from(message.table());
    let mut route = Route { dst: everything, kind, gateway: None, oif: None, table, metric: 0 };
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::RTA_DST => {
                route.dst = IpNet::new(value::ip(nla.value())?, message.destination_prefix_length()).ok()?;
            }
            libc::RTA_GATEWAY => route.gateway = value::ip(nla.value()),
            libc::RTA_OIF => route.oif = value::u32(nla.value()),
            libc::RTA_TABLE => route.table = value::u32(nla.value())?,
            libc::RTA_PRIORITY => route.metric = value::u32(nla.value())?,
            _ => {}
        }
    }
    Some(route)
}
