//! What the kernel says about a namespace's links, addresses, routes, neighbours and policy rules:
//! one datagram of rtnetlink in, plain data out.
//!
//! Only what a forwarding decision or a person needs is read, attribute by attribute; what is not
//! understood is left out rather than refused, because the kernel adds attributes in every other
//! release (`include/uapi/linux/rtnetlink.h`, `neighbour.h`, `fib_rules.h`).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NLMSG_ERROR, NetlinkBuffer, NlasIterator};
use netlink_packet_route::address::AddressMessageBuffer;
use netlink_packet_route::link::{LinkFlags, LinkMessageBuffer};
use netlink_packet_route::neighbour::NeighbourMessageBuffer;
use netlink_packet_route::route::RouteMessageBuffer;

use super::change::{
    Hop, HostAddress, HostChange, HostLink, HostNeighbour, HostRoute, HostRule, Position, RouteAction,
};
use crate::control::netlink::value;

/// The states in which a neighbour's link-layer address may be used (`NUD_VALID`).
const NUD_VALID: u16 =
    libc::NUD_PERMANENT | libc::NUD_NOARP | libc::NUD_REACHABLE | libc::NUD_PROBE | libc::NUD_STALE | libc::NUD_DELAY;
/// A copy that the kernel keeps of a route for one destination (path MTU, redirect); `RTM_F_CLONED`.
const RTM_F_CLONED: u32 = 0x200;
/// `RTA_NH_ID`: the route names a next-hop object.
const RTA_NH_ID: u16 = 30;
/// `struct fib_rule_hdr` without attributes.
const RULE_HEADER_BYTES: usize = 12;
/// `RTNH_F_DEAD`: the way leads over an interface that is down.
const RTNH_F_DEAD: u8 = 1;
/// Attributes of a policy rule (`include/uapi/linux/fib_rules.h`).
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;
/// `FR_ACT_TO_TBL` and `FIB_RULE_INVERT`.
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;

/// What a datagram says. A message that makes no sense ends it: what follows could not be found.
pub fn parse_datagram(mut rest: &[u8], changes: &mut Vec<HostChange>) {
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        if message.message_type() > NLMSG_ERROR {
            changes.extend(parse(message.message_type(), message.flags(), message.payload()));
        }
        rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
}

/// One message; nothing for what no forwarding decision depends on.
pub(in crate::control::netlink) fn parse(kind: u16, flags: u16, payload: &[u8]) -> Option<HostChange> {
    match kind {
        libc::RTM_NEWLINK => link(payload).map(HostChange::Link),
        libc::RTM_DELLINK => {
            // A kernel bridge announces with the same message that it lets go of a port.
            let header = LinkMessageBuffer::new_checked(payload).ok()?;
            (header.interface_family() == libc::AF_UNSPEC as u8).then(|| HostChange::LinkGone(header.link_index()))
        }
        libc::RTM_NEWADDR => address(payload).map(HostChange::Address),
        libc::RTM_DELADDR => address(payload).map(HostChange::AddressGone),
        libc::RTM_NEWROUTE => {
            let position = if flags & NLM_F_REPLACE != 0 {
                Position::Replace
            } else if flags & NLM_F_APPEND != 0 {
                Position::Last
            } else {
                Position::First
            };
            route(payload).map(|route| HostChange::Route(route, position))
        }
        libc::RTM_DELROUTE => route(payload).map(HostChange::RouteGone),
        libc::RTM_NEWNEIGH => neighbour(payload).map(HostChange::Neighbour),
        libc::RTM_DELNEIGH => neighbour(payload).map(HostChange::NeighbourGone),
        libc::RTM_NEWRULE => rule(payload).map(HostChange::Rule),
        libc::RTM_DELRULE => rule(payload).map(HostChange::RuleGone),
        _ => None,
    }
}

fn link(payload: &[u8]) -> Option<HostLink> {
    let message = LinkMessageBuffer::new_checked(payload).ok()?;
    // `AF_BRIDGE` messages of the same kind describe a port of a kernel bridge.
    if message.interface_family() != libc::AF_UNSPEC as u8 {
        return None;
    }
    let flags = LinkFlags::from_bits_retain(message.flags());
    let mut link = HostLink {
        index: message.link_index(),
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::Running),
        loopback: flags.contains(LinkFlags::Loopback),
        master: None,
        kind: None,
    };
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::IFLA_IFNAME => link.name = value::string(nla.value()),
            libc::IFLA_ADDRESS => link.mac = nla.value().try_into().ok(),
            libc::IFLA_MTU => link.mtu = value::u32(nla.value())?,
            libc::IFLA_MASTER => link.master = value::u32(nla.value()),
            libc::IFLA_LINKINFO => {
                link.kind = NlasIterator::new(nla.value())
                    .flatten()
                    .find(|nla| nla.kind() == libc::IFLA_INFO_KIND)
                    .map(|nla| value::string(nla.value()));
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn address(payload: &[u8]) -> Option<HostAddress> {
    let message = AddressMessageBuffer::new_checked(payload).ok()?;
    let (mut local, mut address) = (None, None);
    let mut flags = u32::from(message.flags());
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::IFA_LOCAL => local = value::ip(nla.value()),
            libc::IFA_ADDRESS => address = value::ip(nla.value()),
            libc::IFA_FLAGS => flags = value::u32(nla.value())?,
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end; IPv6 has no IFA_LOCAL otherwise.
    let net = IpNet::new(local.or(address)?, message.prefix_len()).ok()?;
    Some(HostAddress {
        index: message.index(),
        net,
        usable: flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) == 0 || flags & libc::IFA_F_OPTIMISTIC != 0,
        deprecated: flags & libc::IFA_F_DEPRECATED != 0,
        // One flag of two names (`include/uapi/linux/if_addr.h`).
        secondary: net.addr().is_ipv4() && flags & libc::IFA_F_SECONDARY != 0,
        temporary: net.addr().is_ipv6() && flags & libc::IFA_F_TEMPORARY != 0,
        global: message.scope() < libc::RT_SCOPE_LINK,
    })
}

fn route(payload: &[u8]) -> Option<HostRoute> {
    let message = RouteMessageBuffer::new_checked(payload).ok()?;
    if message.flags() & RTM_F_CLONED != 0 {
        return None;
    }
    let everything = match i32::from(message.address_family()) {
        libc::AF_INET => IpNet::V4(Ipv4Net::default()),
        libc::AF_INET6 => IpNet::V6(Ipv6Net::default()),
        _ => return None,
    };
    let action = match message.kind() {
        libc::RTN_UNICAST => RouteAction::Unicast,
        libc::RTN_LOCAL | libc::RTN_ANYCAST => RouteAction::Local,
        libc::RTN_BROADCAST => RouteAction::Broadcast,
        libc::RTN_MULTICAST => RouteAction::Multicast,
        libc::RTN_BLACKHOLE => RouteAction::Blackhole,
        libc::RTN_UNREACHABLE => RouteAction::Unreachable,
        libc::RTN_PROHIBIT => RouteAction::Prohibit,
        libc::RTN_THROW => RouteAction::Throw,
        _ => return None,
    };
    // A route for certain sources only (`ip -6 route add … from …`) is for nothing that we ask.
    if message.source_prefix_length() != 0 {
        return None;
    }
    let mut route = HostRoute {
        dst: everything,
        tos: if everything.addr().is_ipv4() { message.tos() } else { 0 },
        table: u32::from(message.table()),
        metric: 0,
        action,
        prefsrc: None,
        hops: Vec::new(),
        nexthop_object: None,
    };
    let (mut oif, mut via) = (0, None);
    for nla in message.attributes().flatten() {
        let bytes = nla.value();
        match nla.kind() {
            libc::RTA_DST => {
                route.dst = IpNet::new(value::ip(bytes)?, message.destination_prefix_length()).ok()?.trunc();
            }
            libc::RTA_TABLE => route.table = value::u32(bytes)?,
            libc::RTA_PRIORITY => route.metric = value::u32(bytes)?,
            libc::RTA_PREFSRC => route.prefsrc = value::ip(bytes),
            libc::RTA_OIF => oif = value::u32(bytes)?,
            libc::RTA_GATEWAY => via = value::ip(bytes),
            libc::RTA_VIA => via = via_address(bytes),
            libc::RTA_MULTIPATH => hops(bytes, &mut route.hops),
            RTA_NH_ID => route.nexthop_object = value::u32(bytes),
            _ => {}
        }
    }
    if route.hops.is_empty() && (oif != 0 || via.is_some()) {
        let dead = message.flags() & u32::from(RTNH_F_DEAD) != 0;
        route.hops.push(Hop { oif, via, weight: 1, dead });
    }
    Some(route)
}

/// `struct rtvia`: the family and the address.
fn via_address(bytes: &[u8]) -> Option<IpAddr> {
    value::ip(bytes.get(2..)?)
}

/// A sequence of `struct rtnexthop`, each with attributes.
fn hops(mut rest: &[u8], hops: &mut Vec<Hop>) {
    const HEADER_BYTES: usize = 8;
    while let Some((header, _)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(attributes) = rest.get(HEADER_BYTES..length) else { return };
        let mut via = None;
        for nla in NlasIterator::new(attributes).flatten() {
            match nla.kind() {
                libc::RTA_GATEWAY => via = value::ip(nla.value()),
                libc::RTA_VIA => via = via_address(nla.value()),
                _ => {}
            }
        }
        hops.push(Hop {
            oif: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
            via,
            weight: u16::from(header[3]) + 1,
            dead: header[2] & RTNH_F_DEAD != 0,
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn neighbour(payload: &[u8]) -> Option<HostNeighbour> {
    let message = NeighbourMessageBuffer::new_checked(payload).ok()?;
    if !matches!(i32::from(message.family()), libc::AF_INET | libc::AF_INET6) {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::NDA_DST => ip = value::ip(nla.value()),
            libc::NDA_LLADDR => mac = <[u8; 6]>::try_from(nla.value()).ok(),
            _ => {}
        }
    }
    let state = message.state();
    Some(HostNeighbour {
        index: message.ifindex(),
        ip: ip?,
        mac: mac.filter(|_| state & NUD_VALID != 0),
        confirmed: state & libc::NUD_STALE == 0,
    })
}

fn rule(payload: &[u8]) -> Option<HostRule> {
    let (header, attributes) = payload.split_first_chunk::<RULE_HEADER_BYTES>()?;
    let ipv6 = match i32::from(header[0]) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return None,
    };
    let [_, dst_len, src_len, tos, table, _, _, action, flags @ ..] = *header;
    let mut rule = HostRule {
        ipv6,
        priority: 0,
        table: u32::from(table),
        plain: dst_len == 0
            && src_len == 0
            && tos == 0
            && action == FR_ACT_TO_TBL
            && u32::from_ne_bytes(flags) & FIB_RULE_INVERT == 0,
    };
    for nla in NlasIterator::new(attributes).flatten() {
        match nla.kind() {
            FRA_TABLE => rule.table = value::u32(nla.value())?,
            FRA_PRIORITY => rule.priority = value::u32(nla.value())?,
            // Without a limit they are all ones.
            FRA_SUPPRESS_PREFIXLEN | FRA_SUPPRESS_IFGROUP => {
                rule.plain &= value::u32(nla.value()) == Some(u32::MAX);
            }
            // Who made it, and padding.
            FRA_PROTOCOL | FRA_PAD => {}
            // Whatever else there is narrows it.
            _ => rule.plain = false,
        }
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An attribute with its padding.
    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn hop(length: u16, flags: u8, hops: u8, oif: u32, attributes: &[u8]) -> Vec<u8> {
        [&length.to_ne_bytes()[..], &[flags, hops], &oif.to_ne_bytes(), attributes].concat()
    }

    #[test]
    fn a_multipath_route_has_all_its_ways() {
        let gateway = nla(libc::RTA_GATEWAY, &[10, 0, 0, 1]);
        let via = nla(libc::RTA_VIA, &[&(libc::AF_INET6 as u16).to_ne_bytes()[..], &[0xfe; 16]].concat());
        let multipath = [hop(16, 0, 0, 2, &gateway), hop(8 + 4 + 2 + 16 + 2, 1, 9, 3, &via)].concat();
        let mut payload = vec![libc::AF_INET as u8, 8, 0, 0, 254, 3, 0, libc::RTN_UNICAST, 0, 0, 0, 0];
        payload.extend(nla(libc::RTA_DST, &[10, 1, 2, 3]));
        payload.extend(nla(libc::RTA_TABLE, &1000u32.to_ne_bytes()));
        payload.extend(nla(libc::RTA_PRIORITY, &7u32.to_ne_bytes()));
        payload.extend(nla(libc::RTA_MULTIPATH, &multipath));
        let route = route(&payload).expect("a route");
        assert_eq!((route.dst.to_string().as_str(), route.table, route.metric), ("10.0.0.0/8", 1000, 7));
        assert_eq!(
            route.hops,
            [
                Hop { oif: 2, via: Some([10, 0, 0, 1].into()), weight: 1, dead: false },
                Hop { oif: 3, via: Some([0xfe; 16].into()), weight: 10, dead: true },
            ]
        );
    }

    #[test]
    fn the_rules_of_every_namespace_are_told_from_others() {
        let rule_of = |family: i32, table: u8, priority: u32, more: &[u8]| {
            let mut payload = vec![family as u8, 0, 0, 0, table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
            payload.extend(nla(FRA_TABLE, &u32::from(table).to_ne_bytes()));
            payload.extend(nla(FRA_SUPPRESS_PREFIXLEN, &u32::MAX.to_ne_bytes()));
            payload.extend(nla(FRA_PRIORITY, &priority.to_ne_bytes()));
            payload.extend(more);
            rule(&payload).expect("a rule").is_default()
        };
        let mark = nla(10 /* FRA_FWMARK */, &1u32.to_ne_bytes());
        assert!(rule_of(libc::AF_INET, 255, 0, &[]));
        assert!(rule_of(libc::AF_INET, 254, 32766, &[]));
        assert!(rule_of(libc::AF_INET, 253, 32767, &[]));
        assert!(rule_of(libc::AF_INET6, 254, 32766, &[]));
        assert!(!rule_of(libc::AF_INET6, 253, 32767, &[]));
        assert!(!rule_of(libc::AF_INET, 254, 100, &[]));
        assert!(!rule_of(libc::AF_INET, 254, 32766, &mark));
    }

    proptest! {
        #[test]
        fn nothing_that_arrives_panics(
            kind in prop_oneof![16u16..36, any::<u16>()],
            flags in any::<u16>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let _ = parse(kind, flags, &bytes);
            let mut changes = Vec::new();
            parse_datagram(&bytes, &mut changes);
            let length = u32::try_from(16 + bytes.len()).unwrap();
            let datagram = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], &bytes].concat();
            parse_datagram(&datagram, &mut changes);
        }
    }
}
