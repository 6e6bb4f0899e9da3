//! Limits, protocols without a requirement of their own, and tuples that clash.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;
/// Generic routing encapsulation: a protocol without ports.
const GRE: u8 = 47;

#[test]
fn a_container_has_no_more_than_its_share_of_connections() {
    let mut world = World::with(ConntrackConfig { per_container_max: 10, connections_max: 64, ..Default::default() });
    for port in 1..=10 {
        world.outbound(UDP, "172.17.0.2:5000", &format!("198.51.100.7:{port}"));
    }
    let more = outbound(UDP, "172.17.0.2:5000", "198.51.100.7:11");
    assert_eq!(world.table.open_connection(&more, world.now_s), Err(Refusal::ContainerLimit));
    assert_eq!(world.table.connections_of(ip("172.17.0.2")), 10);
    assert!(!matches!(world.arrives(UDP, "198.51.100.7:99", "192.0.2.1:1"), Admission::Admitted(_)));
    world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:11");
    world.pass(300);
    world.open(&more);
    assert_eq!(world.table.counts().refused_for(Refusal::ContainerLimit), 1);
}

#[test]
fn a_flood_from_invented_addresses_does_not_shut_out_others() {
    let config = ConntrackConfig { per_container_max: 50, connections_max: 256, ..Default::default() };
    let world = World::with(config);
    let syn =
        |client: u32| published(TCP, &format!("203.0.113.{}:{client}", client % 200), "192.0.2.1:80", "172.17.0.2:80");
    let first = world.establish(&syn(1));
    for client in 2..500 {
        world.open(&syn(client));
        assert!(world.table.connections_of(ip("172.17.0.2")) <= 50);
    }
    // The container's own, too.
    world.outbound(TCP, "172.17.0.2:5000", "198.51.100.7:80");
    assert_eq!(world.state(&first[0]), Some(State::Established));
    assert_eq!(world.table.counts().evicted, 500 - 50);
    // Nobody loses what is in use.
    let world = World::with(config);
    for client in 1..=50 {
        world.establish(&syn(client));
    }
    assert_eq!(world.table.open_connection(&syn(51), world.now_s), Err(Refusal::ContainerLimit));
}

#[test]
fn connections_that_have_ended_give_way_to_new_ones() {
    let config = ConntrackConfig { per_container_max: 50, connections_max: 256, ..Default::default() };
    let world = World::with(config);
    let fin = flags(state::FIN | state::ACK);
    let end = |world: &World, [original, reply]: &[Found; 2]| {
        world.table.track(reply, fin, world.now_s);
        world.table.track(original, fin, world.now_s);
    };
    // A server that is asked once per connection, much faster than connections are forgotten by time.
    let stays = world.establish(&published(TCP, "203.0.113.1:9", "192.0.2.1:80", "172.17.0.2:80"));
    let ask = |world: &World, client: u32| {
        let client = format!("203.0.113.{}:{client}", client % 200);
        let connection = world.establish(&published(TCP, &client, "192.0.2.1:80", "172.17.0.2:80"));
        end(world, &connection);
        connection
    };
    let first = ask(&world, 1000);
    for client in 1001..1048 {
        ask(&world, client);
    }
    let last = ask(&world, 1048);
    assert_eq!(world.table.counts().evicted, 0);
    ask(&world, 1049);
    assert_eq!((world.state(&first[0]), world.state(&last[0])), (None, Some(State::Closing)), "the oldest goes first");
    for client in 1050..1500 {
        ask(&world, client);
    }
    assert_eq!(world.table.counts().refused_for(Refusal::ContainerLimit), 0);
    assert_eq!(world.state(&stays[0]), Some(State::Established));
    // Where the external port is a mapping, workers may have the old translation for a while.
    let mut world = World::with(config);
    for port in 1..=50 {
        let connection = world.establish(&outbound(TCP, &format!("172.17.0.2:{port}"), "198.51.100.7:80"));
        end(&world, &connection);
    }
    let more = outbound(TCP, "172.17.0.2:51", "198.51.100.7:80");
    world.pass(11);
    assert_eq!(world.table.open_connection(&more, world.now_s), Err(Refusal::ContainerLimit));
    world.pass(1);
    world.open(&more);
    assert_eq!(world.connections(), 50);
}

#[test]
fn a_question_to_a_published_port_does_not_count_for_long() {
    let mut world = World::new();
    let ask = |world: &World, port: u16| {
        let new = published(UDP, &format!("198.51.100.7:{port}"), "192.0.2.1:53", "172.17.0.2:53");
        let found = world.open(&new);
        let answer = world.table.find(&found.translated.reversed(), Place::Container).unwrap();
        world.table.track(&answer, Segment::default(), world.now_s);
        found
    };
    ask(&world, 1);
    let goes_on = ask(&world, 2);
    world.pass(2);
    world.table.touch(goes_on.index, world.now_s);
    world.pass(27);
    assert_eq!(world.connections(), 2);
    world.pass(1);
    assert_eq!(world.connections(), 1);
    world.pass(271);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
    let short = Timeouts { udp_query_s: 10, ..Timeouts::default() };
    assert!(short.check().unwrap_err().to_string().contains("UDP query"));
}

#[test]
fn a_container_has_no_more_than_its_share_of_ports() {
    let config = ConntrackConfig { per_container_ports_max: 10, connections_max: 64, ..Default::default() };
    let mut world = World::with(config);
    for port in 1..=10 {
        world.outbound(UDP, &format!("172.17.0.2:{port}"), "198.51.100.7:1");
    }
    let more = outbound(UDP, "172.17.0.2:11", "198.51.100.7:1");
    assert_eq!(world.table.open_connection(&more, world.now_s), Err(Refusal::ContainerLimit));
    assert_eq!(world.table.connections_of(ip("172.17.0.2")), 10);
    world.outbound(UDP, "172.17.0.2:10", "198.51.100.7:2");
    world.outbound(UDP, "172.17.0.3:11", "198.51.100.7:1");
    world.pass(300);
    world.pass(120);
    world.open(&more);
}

#[test]
fn a_full_table_refuses_and_is_not_full_for_ever() {
    let mut world = World::with(ConntrackConfig { connections_max: 3, ..Default::default() });
    for port in 1..=3 {
        world.outbound(UDP, "172.17.0.2:5000", &format!("198.51.100.7:{port}"));
    }
    let more = outbound(UDP, "172.17.0.3:5000", "198.51.100.7:11");
    assert_eq!(world.table.open_connection(&more, world.now_s), Err(Refusal::TableFull));
    assert_eq!((world.table.counts().mappings, world.table.connections_of(ip("172.17.0.3"))), (1, 0));
    world.pass(300);
    world.open(&more);
}

#[test]
fn exhausted_ports_of_tcp_are_taken_from_those_that_are_held() {
    let mut world = World::new();
    world.ports.limit_to([40_000, 40_001]);
    for port in [5000, 5001] {
        world.outbound(TCP, &format!("172.17.0.2:{port}"), "198.51.100.7:80");
        world.pass(100);
    }
    world.pass(150);
    assert_eq!((world.connections(), world.table.counts().held), (0, 2));
    let first = world.outbound(TCP, "172.17.0.3:5000", "198.51.100.7:80");
    assert_eq!((world.table.counts().mappings, world.table.counts().held), (1, 1));
    let own = world.outbound(TCP, "172.17.0.2:5001", "198.51.100.7:80");
    assert_ne!(external(&first), external(&own), "the one that was held for longer went");
    world.pass(240);
    world.pass(120);
    assert_eq!(world.ports.taken(), 0);
}

#[test]
fn a_search_for_ports_that_found_none_is_not_repeated_within_the_second() {
    #[derive(Debug, Default)]
    struct None(AtomicU32);
    impl ExternalPorts for None {
        fn is_free(&self, _: Flow, _: bool, _: u16) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            false
        }
        fn take(&self, _: Flow, _: bool, _: u16) {}
        fn release(&self, _: Flow, _: bool, _: u16) {}
    }
    let ports = Arc::new(None::default());
    let config = ConntrackConfig { connections_max: 16, ..Default::default() };
    let (table, _) = Conntrack::open(Storage::Memory, config, ports.clone(), SECRET, START_S).unwrap();
    let try_at = |port: u16, now_s: u32| {
        let new = outbound(TCP, &format!("172.17.0.2:{port}"), "198.51.100.7:80");
        assert_eq!(table.open_connection(&new, now_s), Err(Refusal::PortsExhausted));
        ports.0.swap(0, Ordering::Relaxed)
    };
    assert!(try_at(5000, START_S) > 64_000);
    assert_eq!(try_at(5001, START_S), 0);
    assert!(try_at(5001, START_S + 1) > 64_000);
}

#[test]
fn sctp_keeps_its_port_if_it_can() {
    let world = World::new();
    let first = world.outbound(protocol::SCTP, "172.17.0.2:5000", "198.51.100.7:36412");
    assert_eq!(first.translated.source_port, 5000);
    let second = world.outbound(protocol::SCTP, "172.17.0.3:5000", "198.51.100.7:36412");
    assert_ne!(second.translated.source_port, 5000);
    assert!(first.cacheable);
}

#[test]
fn an_sctp_association_that_was_shut_down_is_forgotten() {
    let mut world = World::new();
    let end = Segment { ends_association: true, ..Segment::default() };
    let state = |world: &World, found: &Found, segment| world.table.track(found, segment, world.now_s).state;
    let found = world.outbound(protocol::SCTP, "172.17.0.2:5000", "198.51.100.7:36412");
    let answer = world.table.find(&found.translated.reversed(), Place::Outside).unwrap();
    assert_eq!(state(&world, &answer, Segment::default()), Some(State::Replied));
    assert_eq!(state(&world, &answer, end), Some(State::Ended));
    // It was somebody else's idea: the association goes on.
    world.pass(9);
    assert_eq!(state(&world, &found, Segment::default()), Some(State::Replied));
    world.pass(60);
    assert_eq!(world.connections(), 1);
    assert_eq!(state(&world, &found, end), Some(State::Ended));
    world.pass(5);
    assert_eq!(state(&world, &answer, end), Some(State::Ended), "repeated, it does not live longer");
    world.pass(5);
    assert_eq!(world.connections(), 0);
}

#[test]
fn a_protocol_without_ports_is_one_containers_per_remote_address() {
    let mut world = World::new();
    let found = world.outbound(GRE, "172.17.0.2:0", "198.51.100.7:0");
    assert_eq!(found.translated, tuple(GRE, "192.0.2.1:0", "198.51.100.7:0"));
    let reply = world.table.find(&tuple(GRE, "198.51.100.7:0", "192.0.2.1:0"), Place::Outside).unwrap();
    assert_eq!(reply.translated, tuple(GRE, "198.51.100.7:0", "172.17.0.2:0"));
    let other = outbound(GRE, "172.17.0.3:0", "198.51.100.7:0");
    assert_eq!(world.table.open_connection(&other, world.now_s), Err(Refusal::PortsExhausted));
    world.outbound(GRE, "172.17.0.3:0", "198.51.100.8:0");
    assert_eq!(world.arrives(GRE, "198.51.100.9:0", "192.0.2.1:0"), Admission::NoMapping);
    world.pass(600);
    world.open(&other);
    let with_port = outbound(GRE, "172.17.0.3:1", "198.51.100.7:0");
    assert_eq!(world.table.open_connection(&with_port, world.now_s), Err(Refusal::Invalid));
}

#[test]
fn a_packet_from_another_place_is_of_no_connection() {
    let world = World::new();
    let found = world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    let (out, back) = (tuple(UDP, "172.17.0.2:5000", "198.51.100.7:53"), found.translated.reversed());
    for place in [Place::Container, Place::Outside, Place::Loopback] {
        assert_eq!(world.table.find(&out, place).is_some(), place == Place::Container);
        assert_eq!(world.table.find(&back, place).is_some(), place == Place::Outside);
    }
    let forged = New { origin: Place::Outside, ..outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53") };
    assert_eq!(world.table.open_connection(&forged, world.now_s), Err(Refusal::Invalid));
}

#[test]
fn what_no_connection_can_be_is_refused() {
    let world = World::new();
    let new = outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    for wrong in [
        New { tuple: Tuple { destination: ip("2001:db8::7"), ..new.tuple }, ..new },
        New { destination: Some((ip("fd00::2"), 1)), ..new },
        New { source: SourceNat::External(ip("2001:db8::1")), ..new },
        New { container: ip("fd00::2"), ..new },
        New { tuple: tuple(UDP, "172.17.0.2:5000", "172.17.0.2:5000"), ..new },
    ] {
        assert_eq!(world.table.open_connection(&wrong, world.now_s), Err(Refusal::Invalid), "{wrong:?}");
    }
    assert_eq!((world.connections(), world.table.counts().mappings), (0, 0));
}

#[test]
fn the_same_connection_made_twice_is_one() {
    let world = World::new();
    let new = outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    assert_eq!(world.open(&new), world.open(&new));
    assert_eq!(world.connections(), 1);
}

#[test]
fn workers_that_make_the_same_connection_at_once_make_one() {
    let world = World::with(ConntrackConfig { connections_max: 100_000, ..Default::default() });
    let make = || {
        (0..2000u16)
            .map(|port| {
                world.outbound(UDP, &format!("172.17.0.2:{}", 1000 + port % 500), &format!("198.51.100.7:{port}"))
            })
            .collect::<Vec<_>>()
    };
    let all = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(all.iter().all(|found| *found == all[0]));
    assert_eq!((world.connections(), world.table.counts().mappings), (2000, 500));
    assert_eq!(world.table.connections_of(ip("172.17.0.2")), 2000);
}

#[test]
fn a_client_that_uses_one_port_with_two_published_ports_of_one_target_reaches_it_twice() {
    let world = World::new();
    let first = world.open(&published(TCP, "198.51.100.7:4000", "192.0.2.1:8080", "172.17.0.2:80"));
    let second = world.open(&published(TCP, "198.51.100.7:4000", "192.0.2.1:8081", "172.17.0.2:80"));
    assert_eq!(first.translated.source_port, 4000);
    assert_ne!(second.translated.source_port, 4000);
    assert_eq!(second.translated.source, ip("198.51.100.7"));
    let answer = world.table.find(&second.translated.reversed(), Place::Container).unwrap();
    assert_eq!(answer.translated, tuple(TCP, "192.0.2.1:8081", "198.51.100.7:4000"));
}

#[test]
fn a_client_on_loopback_appears_with_the_gateways_address() {
    let world = World::new();
    let new = New {
        origin: Place::Loopback,
        source: SourceNat::External(ip(GATEWAY)),
        ..published(TCP, "127.0.0.1:40000", "127.0.0.1:8080", "172.17.0.2:80")
    };
    let found = world.open(&new);
    assert_eq!((found.translated.source, found.to), (ip(GATEWAY), Place::Container));
    let answer = world.table.find(&found.translated.reversed(), Place::Container).unwrap();
    assert_eq!((answer.translated, answer.to), (new.tuple.reversed(), Place::Loopback));
    // It is nobody's way to the host's program.
    assert_eq!(world.hairpins(1, TCP, "172.17.0.2:99", &external(&found)), Admission::NoMapping);
}

#[test]
fn a_container_reaches_its_own_published_port() {
    let world = World::new();
    let new = New {
        origin: Place::Container,
        source: SourceNat::External(ip(GATEWAY)),
        hairpin: true,
        ..published(TCP, "172.17.0.2:4000", "192.0.2.1:8080", "172.17.0.2:80")
    };
    let found = world.open(&new);
    assert_eq!(found.translated.source, ip(GATEWAY));
    let answer = world.table.find(&found.translated.reversed(), Place::Container).unwrap();
    assert_eq!(answer.translated, tuple(TCP, "192.0.2.1:8080", "172.17.0.2:4000"));
    // Which is no way for its neighbours to reach it, not even in answer to what they are sent.
    assert_eq!(world.hairpins(1, TCP, "172.17.0.3:99", &external(&found)), Admission::Filtered);
    assert_eq!(world.arrives(TCP, "192.0.2.1:8080", &external(&found)), Admission::Filtered);
}

#[test]
fn hairpins_are_counted_for_the_port_of_the_container_that_answers() {
    let mut world = World::new();
    let new = New {
        origin: Place::Container,
        hairpin: true,
        ..published(UDP, "172.17.0.3:7000", "192.0.2.1:53", "172.17.0.2:53")
    };
    world.open(&new);
    let (one, other) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let now = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
    world.table.share_hairpins(ip("172.17.0.2"), Some(one.clone()));
    world.table.share_hairpins(ip("172.17.0.3"), Some(other.clone()));
    world.open(&New { tuple: tuple(UDP, "172.17.0.3:7001", "192.0.2.1:53"), ..new });
    assert_eq!((now(&one), now(&other)), (2, 0));
    let next = Arc::new(AtomicU32::new(0));
    world.table.share_hairpins(ip("172.17.0.2"), Some(next.clone()));
    assert_eq!((now(&one), now(&next)), (0, 2));
    world.pass(300);
    assert_eq!(now(&next), 0);
    // The next container with that address has its counter before the one before it is purged.
    world.table.share_hairpins(ip("172.17.0.2"), Some(one.clone()));
    world.table.purge_container(ip("172.17.0.2"), world.now_s);
    world.open(&new);
    assert_eq!((now(&one), now(&next)), (1, 0));
}
