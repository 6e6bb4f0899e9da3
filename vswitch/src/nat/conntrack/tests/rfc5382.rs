//! RFC 5382, "NAT Behavioral Requirements for TCP", requirement by requirement.

use super::*;

const TCP: u8 = protocol::TCP;
const A: &str = "172.17.0.2:5000";
const SERVER: &str = "198.51.100.7:443";

#[test]
fn req_1_mapping_is_endpoint_independent() {
    let world = World::new();
    let first = world.outbound(TCP, A, SERVER);
    assert_eq!(external(&first), external(&world.outbound(TCP, A, "203.0.113.4:80")));
    assert_ne!(external(&first), external(&world.outbound(TCP, "172.17.0.2:5001", SERVER)));
}

#[test]
fn req_2_the_three_way_handshake_establishes_a_connection() {
    let world = World::new();
    let original = world.outbound(TCP, A, SERVER);
    assert!(!original.cacheable);
    assert_eq!(world.state(&original), Some(State::SynSentOriginal));
    let reply = world.table.find(&tuple(TCP, SERVER, &external(&original)), Place::Outside).unwrap();
    assert_eq!(reply.translated, tuple(TCP, SERVER, A));
    let tracked = world.table.track(&reply, flags(SYN_ACK), world.now_s);
    assert_eq!(tracked, Tracked { state: Some(State::SynReceivedOriginal), cacheable: false });
    let tracked = world.table.track(&original, flags(ACK), world.now_s);
    assert_eq!(tracked, Tracked { state: Some(State::Established), cacheable: true });
    assert!(world.table.find(&tuple(TCP, A, SERVER), Place::Container).unwrap().cacheable);
}

#[test]
fn req_2_a_simultaneous_open_establishes_a_connection() {
    let world = World::new();
    let original = world.outbound(TCP, A, SERVER);
    let Admission::Admitted(reply) = world.arrives_with(flags(SYN), TCP, SERVER, &external(&original)) else {
        panic!()
    };
    assert_eq!(reply.direction, Direction::Reply);
    assert_eq!(world.state(&original), Some(State::SynReceivedOriginal));
    world.table.track(&reply, flags(SYN_ACK), world.now_s);
    assert_eq!(world.state(&original), Some(State::SynReceivedOriginal));
    world.table.track(&original, flags(SYN_ACK), world.now_s);
    assert_eq!(world.state(&original), Some(State::Established));
}

#[test]
fn req_3_filtering_is_address_dependent() {
    let world = World::new();
    let found = world.outbound(TCP, A, SERVER);
    let external = external(&found);
    let Admission::Admitted(other) = world.arrives(TCP, "198.51.100.7:8000", &external) else { panic!() };
    assert_eq!(other.translated, tuple(TCP, "198.51.100.7:8000", A));
    assert_eq!(world.state(&other), Some(State::SynSentOriginal));
    assert_eq!(world.arrives(TCP, "198.51.100.8:443", &external), Admission::Filtered);
}

#[test]
fn req_4_an_unsolicited_syn_is_dropped_in_silence_and_the_containers_own_goes_through() {
    let mut world = World::new();
    // Known from a connection with somebody else.
    let external = external(&world.outbound(TCP, A, "203.0.113.4:80"));
    assert_eq!(world.arrives(TCP, SERVER, &external), Admission::Filtered);
    assert_eq!(world.connections(), 1, "it leaves nothing behind");
    // Within six seconds the container opens the connection from its side.
    world.pass(5);
    let original = world.outbound(TCP, A, SERVER);
    assert_eq!(super::external(&original), external);
    let Admission::Admitted(reply) = world.arrives(TCP, SERVER, &external) else { panic!() };
    assert_eq!((reply.direction, world.state(&original)), (Direction::Reply, Some(State::SynReceivedOriginal)));
}

#[test]
fn req_5_an_established_connection_lives_two_hours_and_four_minutes() {
    let mut world = World::new();
    world.establish(&outbound(TCP, A, SERVER));
    world.pass(7439);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn req_5_traffic_in_either_direction_keeps_an_established_connection_alive() {
    let mut world = World::with(ConntrackConfig { inbound_refresh: false, connections_max: 16, ..Default::default() });
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    for found in [original, reply] {
        world.pass(7000);
        world.table.touch(found.index, world.now_s);
    }
    world.pass(7439);
    assert_eq!(world.connections(), 1);
}

#[test]
fn req_5_a_partially_open_connection_lives_four_minutes() {
    let mut world = World::new();
    let original = world.outbound(TCP, A, SERVER);
    world.pass(200);
    // Nothing but another SYN prolongs it.
    world.table.track(&original, flags(ACK), world.now_s);
    world.table.touch(original.index, world.now_s);
    world.pass(39);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
    let original = world.outbound(TCP, A, SERVER);
    world.pass(200);
    world.table.track(&original, flags(SYN), world.now_s);
    world.pass(239);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn req_5_a_flood_of_syns_does_not_fill_the_table_for_hours() {
    let mut world = World::new();
    let new = published(TCP, "198.51.100.7:4000", "192.0.2.1:8080", "172.17.0.2:80");
    world.open(&new);
    // The server answers, and the invented client does not.
    let reply = world.table.find(&tuple(TCP, "172.17.0.2:80", "198.51.100.7:4000"), Place::Container).unwrap();
    assert!(!world.table.track(&reply, flags(SYN_ACK), world.now_s).cacheable);
    world.pass(240);
    assert_eq!(world.connections(), 0);
}

#[test]
fn req_5_timers_below_the_requirements_are_refused() {
    for (timeouts, name) in [
        (Timeouts { tcp_established_s: 7439, ..Timeouts::default() }, "established"),
        (Timeouts { tcp_partial_open_s: 239, ..Timeouts::default() }, "partially open"),
        (Timeouts { tcp_closing_s: 239, ..Timeouts::default() }, "closing"),
        (Timeouts { tcp_reset_s: 239, ..Timeouts::default() }, "reset"),
    ] {
        assert!(timeouts.check().unwrap_err().to_string().contains(name));
    }
}

#[test]
fn req_7_ports_are_never_overloaded() {
    let world = World::new();
    world.ports.limit_to(40_000..40_050);
    let mut seen = BTreeSet::new();
    for port in 2000..2050 {
        // Different servers each: the external port would do for all of them, but it must not.
        let found = world.outbound(TCP, &format!("172.17.0.2:{port}"), &format!("203.0.113.1:{port}"));
        assert!(seen.insert(found.translated.source_port));
    }
    let more = outbound(TCP, A, "203.0.113.2:1");
    assert_eq!(world.table.open_connection(&more, world.now_s), Err(Refusal::PortsExhausted));
}

#[test]
fn req_8_a_hairpin_has_its_own_external_source() {
    let world = World::new();
    let a = external(&world.outbound(TCP, A, SERVER));
    let b = external(&world.outbound(TCP, "172.17.0.3:6000", SERVER));
    assert_eq!(world.hairpins(1, TCP, A, &b), Admission::Filtered);
    let Admission::Admitted(found) = world.hairpins(1, TCP, "172.17.0.3:6000", &a) else { panic!() };
    assert_eq!(found.translated, tuple(TCP, &b, A));
    // The other side's SYN, sent again, is a simultaneous open.
    let Admission::Admitted(answer) = world.hairpins(1, TCP, A, &b) else { panic!() };
    assert_eq!((answer.direction, world.state(&found)), (Direction::Reply, Some(State::SynReceivedOriginal)));
}

#[test]
fn req_9_10_icmp_errors_find_their_connection_and_do_not_end_it() {
    let mut world = World::new();
    let [original, _] = world.establish(&outbound(TCP, A, SERVER));
    world.pass(7439);
    // From outside about what the container sent, and from the container about what it received.
    let embedded = original.translated.reversed();
    assert_eq!(world.table.find(&embedded, Place::Outside).unwrap().translated.reversed(), tuple(TCP, A, SERVER));
    let embedded = tuple(TCP, SERVER, A).reversed();
    assert_eq!(world.table.find(&embedded, Place::Container).unwrap().translated, original.translated);
    assert_eq!(world.state(&original), Some(State::Established));
    world.pass(1);
    assert_eq!(world.connections(), 0, "and neither did they refresh it");
}

#[test]
fn a_container_goes_on_with_a_connection_that_was_forgotten() {
    let mut world = World::new();
    let middle = New { segment: flags(ACK), ..outbound(TCP, A, SERVER) };
    let original = world.open(&middle);
    assert!(!original.cacheable);
    world.pass(239);
    world.table.track(&original, flags(ACK), world.now_s);
    world.pass(239);
    assert_eq!(world.connections(), 1);
    let Admission::Admitted(reply) = world.arrives_with(flags(ACK), TCP, SERVER, &external(&original)) else {
        panic!()
    };
    assert!(world.table.track(&reply, flags(ACK), world.now_s).cacheable);
    world.pass(7000);
    assert_eq!(world.connections(), 1);
}

#[test]
fn nobody_outside_begins_in_the_middle_of_a_connection() {
    let world = World::new();
    let found = world.outbound(TCP, A, SERVER);
    for middle in [ACK, SYN_ACK, FIN_ACK, RST, 0, state::SYN | state::FIN, state::SYN | state::RST] {
        let refused = Admission::Refused(Refusal::NoConnection);
        assert_eq!(world.arrives_with(flags(middle), TCP, "198.51.100.7:99", &external(&found)), refused);
        let new = published(TCP, "198.51.100.7:4000", "192.0.2.1:8080", "172.17.0.2:80");
        let new = New { segment: flags(middle), ..new };
        assert_eq!(world.table.open_connection(&new, world.now_s), Err(Refusal::NoConnection));
    }
    let hairpin =
        New { origin: Place::Container, ..published(TCP, "172.17.0.3:4000", "192.0.2.1:8080", "172.17.0.2:80") };
    let hairpin = New { segment: flags(ACK), ..hairpin };
    assert_eq!(world.table.open_connection(&hairpin, world.now_s), Err(Refusal::NoConnection));
    assert_eq!((world.connections(), world.table.connections_of(ip("172.17.0.2"))), (1, 1));
    assert_eq!(world.table.counts().refused_for(Refusal::NoConnection), 15);
}

#[test]
fn what_cannot_be_a_first_segment_opens_nothing() {
    let world = World::new();
    for strange in [SYN_ACK, RST, RST | ACK, 0, state::FIN, state::SYN | state::FIN] {
        let new = New { segment: flags(strange), ..outbound(TCP, A, SERVER) };
        assert_eq!(world.table.open_connection(&new, world.now_s), Err(Refusal::NoConnection), "{strange:#x}");
    }
    let new = New { segment: Segment::default(), ..outbound(TCP, A, SERVER) };
    assert_eq!(world.table.open_connection(&new, world.now_s), Err(Refusal::Invalid));
    assert_eq!((world.connections(), world.table.counts().held, world.ports.taken()), (0, 0, 0));
}
