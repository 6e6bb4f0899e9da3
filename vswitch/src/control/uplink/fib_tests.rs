//! The forwarding table against a naive model of it.

use proptest::prelude::*;

use super::*;
use crate::control::netlink::monitor::{HostChange, HostRule, Position};

fn link(index: u32, up: bool) -> HostLink {
    HostLink {
        index,
        name: format!("eth{index}"),
        mac: Some([2, 0, 0, 0, 0, index as u8]),
        mtu: 1500,
        up,
        running: up,
        loopback: false,
        master: None,
        kind: None,
    }
}

fn route(table: u32, dst: IpNet, metric: u32, action: RouteAction, hops: Vec<Hop>) -> HostRoute {
    HostRoute { dst, tos: 0, table, metric, action, prefsrc: None, hops, nexthop_object: None }
}

fn hop(oif: u32, via: Option<&str>) -> Hop {
    Hop { oif, via: via.map(|via| via.parse().expect("an address")), weight: 1, dead: false }
}

fn mirror(routes: impl IntoIterator<Item = HostRoute>) -> Mirror {
    let mut mirror = Mirror::default();
    for index in 1..=4 {
        mirror.apply(HostChange::Link(link(index, index != 4)));
    }
    for route in routes {
        mirror.apply(HostChange::Route(route, Position::Last));
    }
    mirror
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn neighbours_complete_the_answer() {
    let unicast = RouteAction::Unicast;
    let mut mirror = mirror([
        route(254, net("0.0.0.0/0"), 0, unicast, vec![hop(1, Some("10.0.0.1"))]),
        route(254, net("10.0.0.0/24"), 0, unicast, vec![hop(1, None)]),
        route(254, net("10.9.0.0/24"), 0, unicast, vec![hop(2, Some("fe80::1"))]),
        route(255, net("10.0.0.7/32"), 0, RouteAction::Local, vec![hop(1, None)]),
        route(254, net("10.4.0.0/24"), 0, unicast, vec![hop(4, None)]),
    ]);
    let unresolved = |oif, neighbour: &str| Resolution::Unresolved { oif, neighbour: ip(neighbour), source: None };
    let fib = Fib::new(&mirror);
    assert_eq!(fib.resolve(ip("8.8.8.8"), 0), unresolved(1, "10.0.0.1"));
    assert_eq!(fib.resolve(ip("10.0.0.9"), 0), unresolved(1, "10.0.0.9"));
    assert_eq!(fib.resolve(ip("10.9.0.9"), 0), unresolved(2, "fe80::1"), "a router of the other family");
    assert_eq!(fib.resolve(ip("10.0.0.7"), 0), Resolution::Refused(Refusal::Local));
    assert_eq!(fib.resolve(ip("224.0.0.1"), 0), Resolution::Refused(Refusal::Group));
    assert_eq!(fib.resolve(ip("fd00::1"), 0), Resolution::Refused(Refusal::NoRoute));
    assert_eq!(fib.resolve(ip("10.4.0.1"), 0), unresolved(1, "10.0.0.1"), "eth4 is down");

    let neighbour = |mac, confirmed| HostNeighbour { index: 1, ip: ip("10.0.0.1"), mac, confirmed };
    for confirmed in [true, false] {
        mirror.apply(HostChange::Neighbour(neighbour(Some([6; 6]), confirmed)));
        let expected = NextHop {
            oif: 1,
            oif_mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            neighbour: ip("10.0.0.1"),
            mac: [6; 6],
            source: None,
            confirmed,
        };
        assert_eq!(Fib::new(&mirror).resolve(ip("8.8.8.8"), 0), Resolution::Via(expected));
    }
    mirror.apply(HostChange::Neighbour(neighbour(None, false)));
    assert_eq!(Fib::new(&mirror).resolve(ip("8.8.8.8"), 0), unresolved(1, "10.0.0.1"), "it did not answer");
}

#[test]
fn ways_of_equal_cost_are_chosen_by_weight_and_kept_by_a_flow() {
    let hops = vec![Hop { weight: 3, ..hop(1, Some("10.0.0.1")) }, hop(2, Some("10.0.0.2")), hop(4, None)];
    let fib = Fib::new(&mirror([route(254, net("0.0.0.0/0"), 0, RouteAction::Unicast, hops)]));
    let mut taken = [0; 5];
    for hash in (0..=u32::MAX).step_by(1 << 22) {
        let way = fib.way(ip("8.8.8.8"), hash).expect("a way");
        assert_eq!(Ok(way), fib.way(ip("8.8.8.8"), hash));
        taken[way.hop.oif as usize] += 1;
    }
    assert_eq!(taken, [0, 768, 256, 0, 0]);
}

#[test]
fn policy_rules_are_named() {
    let mut mirror = mirror([]);
    for (priority, table) in [(0, 255), (32766, 254), (32767, 253)] {
        mirror.apply(HostChange::Rule(HostRule { ipv6: false, priority, table, plain: true }));
    }
    assert!(Fib::new(&mirror).caveats().is_empty());
    mirror.apply(HostChange::Rule(HostRule { ipv6: false, priority: 100, table: 254, plain: false }));
    assert!(Fib::new(&mirror).caveats()[0].contains("ip rule: 100"));
}

fn any_action() -> impl Strategy<Value = RouteAction> {
    prop_oneof![
        6 => Just(RouteAction::Unicast),
        1 => Just(RouteAction::Local),
        1 => Just(RouteAction::Blackhole),
        1 => Just(RouteAction::Unreachable),
        1 => Just(RouteAction::Prohibit),
        1 => Just(RouteAction::Throw),
    ]
}

/// Few addresses, so that prefixes nest.
fn any_ip(ipv6: bool) -> impl Strategy<Value = IpAddr> {
    (any::<u8>(), any::<u8>()).prop_map(move |(high, low)| {
        let (high, low) = (high & 0xc3, low & 0x81);
        if ipv6 { ip(&format!("fd00:{high:x}::{low:x}")) } else { IpAddr::from([10, high, 0, low]) }
    })
}

fn any_route(ipv6: bool) -> impl Strategy<Value = HostRoute> {
    let lengths: &[u8] = if ipv6 { &[0, 8, 18, 24, 32, 64, 121, 128] } else { &[0, 8, 9, 10, 16, 24, 25, 32] };
    let hop = (1u32..=5, 1u16..4, any::<bool>());
    (
        any_ip(ipv6),
        proptest::sample::select(lengths),
        0u32..3,
        any_action(),
        prop_oneof![4 => Just(254u32), 2 => Just(255), 1 => Just(253), 1 => Just(100)],
        proptest::collection::vec(hop, 1..3),
    )
        .prop_map(|(ip, length, metric, action, table, hops)| {
            let hops = hops.into_iter().map(|(oif, weight, dead)| Hop { oif, via: None, weight, dead }).collect();
            route(table, IpNet::new(ip, length).expect("a network").trunc(), metric, action, hops)
        })
}

/// All ways that are right, and the refusal where there is none: by looking at every route.
fn model(routes: &[HostRoute], tables: &[&[u32]], to: IpAddr) -> Result<Vec<u32>, Refusal> {
    for table in tables {
        let mut rows: Vec<_> = routes
            .iter()
            .filter(|route| table.contains(&route.table) && route.dst.contains(&to))
            .enumerate()
            .map(|(order, route)| {
                let within = table.iter().position(|id| *id == route.table);
                ((std::cmp::Reverse(route.dst.prefix_len()), within, route.metric, order), route)
            })
            .collect();
        rows.sort_by_key(|(key, _)| *key);
        for (_, route) in rows {
            // Of the links, eth4 is down and eth5 does not exist.
            let alive = route.hops.iter().filter(|hop| !hop.dead && hop.oif < 4).map(|hop| hop.oif).collect::<Vec<_>>();
            match route.action {
                RouteAction::Unicast if alive.is_empty() => {}
                RouteAction::Unicast => return Ok(alive),
                RouteAction::Local => return Err(Refusal::Local),
                RouteAction::Blackhole => return Err(Refusal::Blackhole),
                RouteAction::Unreachable => return Err(Refusal::Unreachable),
                RouteAction::Prohibit => return Err(Refusal::Prohibit),
                RouteAction::Throw => break,
                RouteAction::Broadcast | RouteAction::Multicast => return Err(Refusal::Group),
            }
        }
    }
    Err(Refusal::NoRoute)
}

proptest! {
    #[test]
    fn lookups_agree_with_looking_at_every_route(
        (ipv6, routes, targets) in any::<bool>().prop_flat_map(|ipv6| (
            Just(ipv6),
            proptest::collection::vec(any_route(ipv6), 0..24),
            proptest::collection::vec((any_ip(ipv6), any::<u32>()), 1..16),
        )),
    ) {
        let fib = Fib::new(&mirror(routes.clone()));
        let mut unique: Vec<HostRoute> = Vec::new();
        for route in routes {
            if !unique.contains(&route) {
                unique.push(route);
            }
        }
        let tables: &[&[u32]] = if ipv6 { &[&[255], &[254]] } else { &[&[255, 254], &[253]] };
        for (target, hash) in targets {
            match (fib.way(target, hash), model(&unique, tables, target)) {
                (Ok(way), Ok(alive)) => prop_assert!(alive.contains(&way.hop.oif), "{way:?} {alive:?}"),
                (got, expected) => prop_assert_eq!(got.err(), expected.err(), "{}", target),
            }
        }
    }
}
