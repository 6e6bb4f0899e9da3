//! What somebody wants gone is gone at once, and caches are told.

use super::*;

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;

#[test]
fn a_containers_connections_go_with_it_and_the_next_owner_of_its_address_begins_anew() {
    let world = World::new();
    let old = world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    world.open(&published(UDP, "198.51.100.7:4000", "192.0.2.1:53", "172.17.0.2:53"));
    // As an end of somebody else's, too.
    let hairpin = New {
        origin: Place::Container,
        container: ip("172.17.0.3"),
        ..published(UDP, "172.17.0.3:4000", "192.0.2.1:53", "172.17.0.2:53")
    };
    world.open(&hairpin);
    let other = world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53");
    let epoch = world.table.epoch();
    assert_eq!(world.table.purge_container(ip("172.17.0.2"), world.now_s), 3);
    assert_ne!(world.table.epoch(), epoch);
    assert_eq!(world.connections(), 1);
    assert!(world.table.find(&other.translated.reversed(), Place::Outside).is_some());
    assert!(world.table.find(&old.translated.reversed(), Place::Outside).is_none());
    assert_eq!(world.table.track(&old, Segment::default(), world.now_s).state, None);
    // The next datagram makes a new connection, to the new target, and the old mapping is nobody's.
    let found = world.open(&published(UDP, "198.51.100.7:4000", "192.0.2.1:53", "172.17.0.4:53"));
    assert_eq!(found.translated.destination, ip("172.17.0.4"));
    let new = world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    assert_ne!(external(&new), external(&old));
    assert_eq!(world.arrives(UDP, "198.51.100.7:53", &external(&old)), Admission::NoMapping);
}

#[test]
fn a_containers_attempts_go_with_it() {
    let world = World::new();
    let b = external(&world.outbound(UDP, "172.17.0.3:6000", "198.51.100.7:3478"));
    assert_eq!(world.hairpins(1, UDP, "172.17.0.2:5000", &b), Admission::Filtered);
    assert_eq!(world.table.counts().mappings, 2);
    world.table.purge_container(ip("172.17.0.2"), world.now_s);
    assert_eq!((world.table.counts().mappings, world.table.counts().held), (1, 1));
}

#[test]
fn what_went_while_no_process_looked_is_forgotten() {
    let world = World::new();
    world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    let gone = external(&world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53"));
    world.open(&published(UDP, "198.51.100.7:4000", "192.0.2.1:53", "172.17.0.2:53"));
    assert_eq!(world.table.retain_containers(|address| address == ip("172.17.0.2"), world.now_s), 1);
    assert_eq!(world.connections(), 2);
    assert_ne!(external(&world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53")), gone);
}

#[test]
fn connections_to_a_port_that_is_not_published_any_more_go() {
    let world = World::new();
    for port in 8080..8090 {
        world.open(&published(TCP, "198.51.100.7:4000", &format!("192.0.2.1:{port}"), &format!("172.17.0.2:{port}")));
    }
    world.open(&published(UDP, "198.51.100.7:4000", "192.0.2.1:8080", "172.17.0.2:8080"));
    world.open(&published(TCP, "198.51.100.7:4000", "192.0.2.2:8080", "172.17.0.3:8080"));
    // Nobody's published port, but the same numbers.
    world.outbound(TCP, "172.17.0.2:5000", "192.0.2.1:8080");
    let purge = |host, first, last| world.table.purge_service(TCP, host, first, last, world.now_s);
    assert_eq!(purge(Some(ip("192.0.2.1")), 8080, 8084), 5);
    assert_eq!(purge(Some(ip("192.0.2.1")), 8080, 8084), 0);
    assert_eq!(purge(None, 8080, 8085), 2);
    assert_eq!(world.connections(), 6);
}

#[test]
fn several_containers_and_ports_go_in_one_round() {
    let world = World::new();
    for n in 2..6 {
        world.outbound(UDP, &format!("172.17.0.{n}:5000"), "198.51.100.7:53");
        world.open(&published(TCP, "198.51.100.7:4000", &format!("192.0.2.1:808{n}"), &format!("172.17.0.{n}:80")));
        world.open(&published(TCP, "198.51.100.7:4000", &format!("192.0.2.2:808{n}"), &format!("172.17.0.{n}:80")));
    }
    let gone = [ip("172.17.0.2"), ip("172.17.0.3"), ip("172.17.0.9")].into();
    assert_eq!(world.table.purge_containers(&gone, world.now_s), 6);
    let is_gone = |number, host, port| (number, host) == (TCP, ip("192.0.2.2")) && [8084, 5000, 53].contains(&port);
    assert_eq!(world.table.purge_services(is_gone, world.now_s), 1);
    assert_eq!(world.table.purge_services(|_, _, _| true, world.now_s), 3, "what is not published stays");
    assert_eq!(world.connections(), 2);
}

#[test]
fn pages_are_the_list() {
    let world = World::new();
    for port in 5000..5050 {
        world.open(&New { bridge: port % 2, ..outbound(UDP, &format!("172.17.0.2:{port}"), "198.51.100.7:53") });
    }
    world.table.purge_services(|_, _, _| true, world.now_s);
    let filter = Filter { bridge: Some(1), ..Filter::default() };
    for (max, pages) in [(1, 25), (7, 4), (25, 1), (1000, 1)] {
        let (mut all, mut cursor, mut count) = (Vec::new(), Some(0), 0);
        while let Some(at) = cursor {
            let (page, next) = world.table.page(&filter, at, max, world.now_s);
            assert!(page.len() <= max);
            all.extend(page);
            (cursor, count) = (next, count + 1);
        }
        assert_eq!(all, world.table.list(&filter, world.now_s), "{max}");
        assert_eq!(all.len(), 25);
        assert!((pages..=pages + 1).contains(&count), "{max}: {count}");
    }
    assert_eq!(world.table.page(&filter, u32::MAX, 9, world.now_s), (vec![], None));
}

#[test]
fn a_page_looks_at_so_much_and_no_more() {
    let table = Conntrack::in_memory(START_S).unwrap();
    for number in 0..150_000u32 {
        // None has more than 65,536.
        let source = format!("172.17.0.{}:5000", 2 + number % 3);
        let target = format!("198.51.{}.{}:{}", number >> 8 & 0xff, number & 0xff, 1 + (number >> 16));
        let bridge = if number == 149_999 { 9 } else { 1 };
        let new = New { source: SourceNat::Keep, bridge, ..outbound(UDP, &source, &target) };
        table.open_connection(&new, START_S).unwrap();
    }
    let filter = Filter { bridge: Some(9), ..Filter::default() };
    let (mut found, mut empty, mut cursor) = (0, 0, Some(0));
    while let Some(at) = cursor {
        let (page, next) = table.page(&filter, at, 4096, START_S);
        found += page.len();
        empty += usize::from(page.is_empty());
        assert!(next.is_none_or(|next| next > at));
        cursor = next;
    }
    assert_eq!((found, empty), (1, 2));
}

#[test]
fn connections_at_an_address_that_the_host_has_lost_go() {
    let world = World::new();
    world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    world.open(&published(TCP, "198.51.100.7:4000", "192.0.2.1:8080", "172.17.0.2:80"));
    world.open(&published(TCP, "198.51.100.7:4000", "192.0.2.2:8080", "172.17.0.3:80"));
    let other =
        New { source: SourceNat::External(ip("192.0.2.2")), ..outbound(UDP, "172.17.0.2:50", "198.51.100.9:53") };
    world.open(&other);
    assert_eq!(world.table.purge_external(ip("192.0.2.1"), world.now_s), 2);
    assert_eq!(world.connections(), 2);
}

#[test]
fn a_bridges_connections_can_be_flushed() {
    let world = World::new();
    world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    world.open(&New { bridge: 2, ..outbound(UDP, "172.18.0.2:5000", "198.51.100.7:53") });
    assert_eq!(world.table.flush(Some(2), world.now_s), 1);
    let left = world.table.list(&Filter::default(), world.now_s);
    assert_eq!((left.len(), left[0].bridge, left[0].state.name(), left[0].timeout_s), (1, 1, "UNREPLIED", 300));
    assert_eq!(world.table.flush(None, world.now_s), 1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn only_a_purge_changes_the_epoch() {
    let mut world = World::new();
    let epoch = world.table.epoch();
    world.establish(&outbound(TCP, "172.17.0.2:5000", "198.51.100.7:53"));
    world.pass(10_000);
    assert_eq!((world.connections(), world.table.epoch()), (0, epoch));
}

#[test]
fn the_list_shows_what_the_filter_has() {
    let world = World::new();
    world.establish(&outbound(TCP, "172.17.0.2:5000", "198.51.100.7:53"));
    world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53");
    let list = |filter: Filter| world.table.list(&filter, world.now_s);
    assert_eq!(list(Filter::default()).len(), 2);
    assert_eq!(list(Filter { bridge: Some(7), ..Filter::default() }), []);
    let tcp = list(Filter { protocol: Some(TCP), ..Filter::default() });
    assert_eq!((tcp.len(), tcp[0].state.name(), tcp[0].timeout_s), (1, "ESTABLISHED", 7440));
    let of = list(Filter { container: Some(ip("172.17.0.3")), ..Filter::default() });
    assert_eq!((of.len(), of[0].original), (1, tuple(UDP, "172.17.0.3:5000", "198.51.100.7:53")));
}

#[test]
fn a_sweep_costs_no_more_than_it_may() {
    let world = World::new();
    for port in 1..=100 {
        world.outbound(UDP, "172.17.0.2:5000", &format!("198.51.100.7:{port}"));
    }
    let later = world.now_s + 300;
    let swept: Vec<_> = (0..5).map(|_| world.table.sweep(later, 30)).collect();
    assert!(swept.iter().all(|swept| swept.visited <= 30));
    assert_eq!(swept.iter().map(|swept| swept.expired).collect::<Vec<_>>(), [30, 30, 30, 10, 0]);
    assert_eq!(World::new().table.sweep(later, 1000), Swept::default(), "an idle table costs nothing");
}
