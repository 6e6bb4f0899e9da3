//! RFC 4787, "NAT Behavioral Requirements for Unicast UDP", requirement by requirement.

use super::*;

const UDP: u8 = protocol::UDP;
const A: &str = "172.17.0.2:5000";

#[test]
fn req_1_mapping_is_endpoint_independent() {
    let world = World::new();
    let first = world.outbound(UDP, A, "198.51.100.7:53");
    let second = world.outbound(UDP, A, "198.51.100.8:4000");
    assert_eq!(external(&first), external(&second));
    assert_ne!(external(&first), external(&world.outbound(UDP, "172.17.0.2:5002", "198.51.100.7:53")));
    assert_ne!(external(&first), external(&world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53")));
    assert_eq!(world.table.counts().mappings, 3);
}

#[test]
fn req_1_mapping_is_endpoint_independent_for_ipv6() {
    let world = World::new();
    let first = world.outbound(UDP, "[fd00::2]:5000", "[2001:db8:7::7]:53");
    let second = world.outbound(UDP, "[fd00::2]:5000", "[2001:db8:7::8]:53");
    assert_eq!(external(&first), external(&second));
    assert_eq!(first.translated.source, ip("2001:db8::1"));
}

#[test]
fn req_2_pooling_is_paired() {
    let world = World::new();
    for port in 1..100 {
        let found = world.outbound(UDP, &format!("172.17.0.2:{port}"), "198.51.100.7:53");
        assert_eq!(found.translated.source, ip(EXTERNAL));
    }
    // Through another of the host's addresses a container has a mapping of its own.
    let other =
        New { source: SourceNat::External(ip("192.0.2.2")), ..outbound(UDP, "172.17.0.2:50", "198.51.100.9:53") };
    assert_eq!(world.open(&other).translated.source, ip("192.0.2.2"));
    assert_eq!(world.table.counts().mappings, 100);
}

#[test]
fn req_3_ports_are_never_overloaded() {
    let world = World::new();
    world.ports.limit_to(40_000..40_100);
    let mut seen = BTreeSet::new();
    for port in 2000..2100 {
        let found = world.outbound(UDP, &format!("172.17.0.2:{port}"), &format!("198.51.100.7:{port}"));
        assert!(seen.insert(external(&found)), "{} twice", external(&found));
    }
    let more = outbound(UDP, "172.17.0.3:2000", "203.0.113.1:53");
    assert_eq!(world.table.open_connection(&more, world.now_s), Err(Refusal::PortsExhausted));
    // Who has a mapping keeps it, and goes on with it.
    world.outbound(UDP, "172.17.0.2:2000", "203.0.113.1:53");
    assert_eq!(world.table.counts().refused_for(Refusal::PortsExhausted), 1);
}

#[test]
fn req_3a_the_range_of_ports_is_kept() {
    let world = World::new();
    for number in [UDP, protocol::TCP] {
        for port in [1, 123, 500, 1023] {
            let found = world.outbound(number, &format!("172.17.0.2:{port}"), "198.51.100.7:53");
            assert!((1..=1023).contains(&found.translated.source_port), "{found:?}");
        }
        for port in [1024, 5000, 65535] {
            let found = world.outbound(number, &format!("172.17.0.2:{port}"), "198.51.100.7:53");
            assert!(found.translated.source_port >= 1024, "{found:?}");
        }
    }
    // It is a recommendation: better another range than nothing. But nobody gets a low port unasked.
    world.ports.limit_to([80, 2000]);
    assert_eq!(world.outbound(UDP, "172.17.0.4:5000", "198.51.100.7:53").translated.source_port, 2000);
    world.ports.limit_to([2002]);
    assert_eq!(world.outbound(UDP, "172.17.0.4:500", "198.51.100.7:53").translated.source_port, 2002);
    world.ports.limit_to([80]);
    let refused = world.table.open_connection(&outbound(UDP, "172.17.0.5:5000", "198.51.100.7:53"), world.now_s);
    assert_eq!(refused, Err(Refusal::PortsExhausted));
}

#[test]
fn req_4_parity_of_udp_ports_is_kept() {
    let world = World::new();
    for port in 1000..1200 {
        let found = world.outbound(UDP, &format!("172.17.0.2:{port}"), "198.51.100.7:53");
        assert_eq!(found.translated.source_port % 2, port % 2);
    }
    // Unless there is none of that parity left.
    world.ports.limit_to([41_001]);
    assert_eq!(world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53").translated.source_port, 41_001);
}

#[test]
fn req_5_the_udp_timer_is_five_minutes() {
    let mut world = World::new();
    world.outbound(UDP, A, "198.51.100.7:53");
    world.pass(299);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn req_5_the_udp_timer_is_configurable_down_to_two_minutes() {
    let with = |udp_s| ConntrackConfig {
        timeouts: Timeouts { udp_s, ..Timeouts::default() },
        connections_max: 16,
        ..ConntrackConfig::default()
    };
    let mut world = World::with(with(120));
    world.outbound(UDP, A, "198.51.100.7:53");
    world.pass(119);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
    let refused = Conntrack::open(Storage::Memory, with(119), world.ports.clone(), SECRET, START_S);
    assert!(refused.unwrap_err().to_string().contains("120 s is the least (RFC 4787 REQ-5)"));
}

#[test]
fn req_6_outbound_traffic_keeps_a_mapping_alive() {
    for inbound_refresh in [true, false] {
        let mut world =
            World::with(ConntrackConfig { inbound_refresh, connections_max: 16, ..ConntrackConfig::default() });
        let found = world.outbound(UDP, A, "198.51.100.7:53");
        for _ in 0..10 {
            world.pass(250);
            world.table.touch(found.index, world.now_s);
        }
        world.table.track(&found, Segment::default(), world.now_s);
        world.pass(299);
        assert_eq!(world.connections(), 1);
    }
}

#[test]
fn req_6a_inbound_traffic_keeps_a_mapping_alive_if_configured() {
    for inbound_refresh in [true, false] {
        let mut world =
            World::with(ConntrackConfig { inbound_refresh, connections_max: 16, ..ConntrackConfig::default() });
        let found = world.outbound(UDP, A, "198.51.100.7:53");
        let Admission::Admitted(reply) = world.arrives(UDP, "198.51.100.7:53", &external(&found)) else { panic!() };
        world.pass(250);
        world.table.touch(reply.index, world.now_s);
        world.table.track(&reply, Segment::default(), world.now_s);
        world.pass(250);
        assert_eq!(world.connections(), u32::from(inbound_refresh));
    }
}

#[test]
fn req_6_what_comes_to_a_published_port_keeps_its_connection_alive() {
    // A server that only listens, such as syslog's, has no mapping: the configuration is not about it.
    let config = ConntrackConfig { inbound_refresh: false, connections_max: 16, ..ConntrackConfig::default() };
    let mut world = World::with(config);
    let found = world.open(&published(UDP, "198.51.100.7:999", "192.0.2.1:514", "172.17.0.2:514"));
    for _ in 0..20 {
        world.pass(25);
        world.table.touch(found.index, world.now_s);
    }
    world.pass(250);
    assert_eq!(world.connections(), 1);
}

#[test]
fn req_8_filtering_is_address_dependent() {
    let world = World::new();
    let found = world.outbound(UDP, A, "198.51.100.7:53");
    let external = external(&found);
    // The same address, another port.
    let Admission::Admitted(other) = world.arrives(UDP, "198.51.100.7:9999", &external) else { panic!() };
    assert_eq!((other.to, other.translated.destination), (Place::Container, ip("172.17.0.2")));
    assert_eq!(other.translated.destination_port, 5000);
    assert_eq!(other.translated.source_port, 9999);
    // Another address.
    assert_eq!(world.arrives(UDP, "198.51.100.8:53", &external), Admission::Filtered);
    // Nobody's port.
    let nobodys = format!("{EXTERNAL}:{}", found.translated.source_port ^ 1);
    assert_eq!(world.arrives(UDP, "198.51.100.7:53", &nobodys), Admission::NoMapping);
    // And the container answers with the same external endpoint.
    let answer = world.table.find(&tuple(UDP, A, "198.51.100.7:9999"), Place::Container).unwrap();
    assert_eq!((super::external(&answer), answer.direction), (external, Direction::Reply));
}

#[test]
fn req_8_the_filter_closes_with_the_last_connection_to_an_address() {
    let mut world = World::new();
    let found = world.outbound(UDP, A, "198.51.100.7:53");
    world.pass(200);
    world.outbound(UDP, A, "198.51.100.8:53");
    world.pass(100);
    assert_eq!(world.arrives(UDP, "198.51.100.7:1", &external(&found)), Admission::Filtered);
    assert!(matches!(world.arrives(UDP, "198.51.100.8:1", &external(&found)), Admission::Admitted(_)));
}

#[test]
fn req_9_a_hairpin_has_its_own_external_source() {
    let world = World::new();
    let a = external(&world.outbound(UDP, A, "198.51.100.7:3478"));
    let b = external(&world.outbound(UDP, "172.17.0.3:6000", "198.51.100.7:3478"));
    // As from outside, neither lets the other in before it has sent there itself.
    assert_eq!(world.hairpins(1, UDP, A, &b), Admission::Filtered);
    let Admission::Admitted(found) = world.hairpins(1, UDP, "172.17.0.3:6000", &a) else { panic!() };
    assert_eq!(found.translated, tuple(UDP, &b, A));
    assert!(found.hairpin && found.to == Place::Container);
    let Admission::Admitted(answer) = world.hairpins(1, UDP, A, &b) else { panic!() };
    assert_eq!(answer.translated, tuple(UDP, &a, "172.17.0.3:6000"));
    assert_eq!(answer.direction, Direction::Reply);
    assert_eq!(world.table.counts().mappings, 2);
}

#[test]
fn req_9_a_hairpin_between_bridges_needs_no_detour_for_answers() {
    let world = World::new();
    let a = external(&world.outbound(UDP, A, "198.51.100.7:3478"));
    let b = New { bridge: 2, ..outbound(UDP, "172.18.0.3:6000", "198.51.100.7:3478") };
    let b = external(&world.open(&b));
    assert_eq!(world.hairpins(1, UDP, A, &b), Admission::Filtered);
    let Admission::Admitted(found) = world.hairpins(2, UDP, "172.18.0.3:6000", &a) else { panic!() };
    assert!(!found.hairpin);
}

#[test]
fn req_9_an_attempt_counts_as_long_as_a_connection_would() {
    let mut world = World::new();
    let (a, b) = (A, "172.17.0.3:6000");
    let external_a = external(&world.outbound(UDP, a, "198.51.100.7:3478"));
    let external_b = external(&world.outbound(UDP, b, "198.51.100.7:3478"));
    assert_eq!(world.hairpins(1, UDP, a, &external_b), Admission::Filtered);
    world.pass(299);
    assert_eq!(world.hairpins(1, UDP, a, &external_b), Admission::Filtered, "renewed");
    // Only the attempts keep the mapping alive by now.
    world.pass(299);
    assert_eq!((world.connections(), world.table.counts().mappings), (0, 1));
    world.outbound(UDP, b, "198.51.100.7:3478");
    assert!(matches!(world.hairpins(1, UDP, b, &external_a), Admission::Admitted(_)));
    world.pass(301);
    assert_eq!((world.connections(), world.table.counts().mappings), (0, 0));
}

#[test]
fn req_9_a_hairpin_to_a_published_port_keeps_the_clients_address() {
    let world = World::new();
    let new = New {
        origin: Place::Container,
        hairpin: true,
        ..published(UDP, "172.17.0.3:7000", "192.0.2.1:53", "172.17.0.2:53")
    };
    let found = world.open(&new);
    assert_eq!(found.translated, tuple(UDP, "172.17.0.3:7000", "172.17.0.2:53"));
    let answer = world.table.find(&tuple(UDP, "172.17.0.2:53", "172.17.0.3:7000"), Place::Container).unwrap();
    assert_eq!(answer.translated, tuple(UDP, "192.0.2.1:53", "172.17.0.3:7000"));
    assert!(answer.hairpin);
}

#[test]
fn req_11_the_answer_is_the_same_whatever_else_goes_on() {
    let world = World::new();
    let first = external(&world.outbound(UDP, A, "198.51.100.7:53"));
    // The range below, at and above what is in use, exhaustion included: nobody's mapping changes its kind.
    for port in 6000..6500 {
        world.outbound(UDP, &format!("172.17.0.2:{port}"), "198.51.100.7:53");
    }
    world.ports.limit_to([1]);
    assert_eq!(external(&world.outbound(UDP, A, "203.0.113.9:9")), first);
    assert_eq!(world.arrives(UDP, "203.0.113.10:9", &first), Admission::Filtered);
}

#[test]
fn req_12_icmp_errors_neither_end_nor_refresh_a_mapping() {
    let mut world = World::new();
    let found = world.outbound(UDP, A, "198.51.100.7:53");
    world.pass(299);
    // The error's embedded packet is the one that left; looked at from the other end it is a packet of the reply.
    let embedded = found.translated;
    let of = world.table.find(&embedded.reversed(), Place::Outside).unwrap();
    assert_eq!(of.translated.reversed(), tuple(UDP, A, "198.51.100.7:53"));
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn a_port_of_the_hosts_is_never_taken() {
    let world = World::new();
    world.ports.limit_to(50_000..50_010);
    world.ports.busy.lock().unwrap().extend((50_000..50_009).map(|port| (Flow::Udp, port)));
    assert_eq!(world.outbound(UDP, A, "198.51.100.7:53").translated.source_port, 50_009);
    let refused = world.table.open_connection(&outbound(UDP, "172.17.0.2:5002", "198.51.100.7:53"), world.now_s);
    assert_eq!(refused, Err(Refusal::PortsExhausted));
}

#[test]
fn a_released_port_is_kept_from_others_for_two_minutes() {
    let mut world = World::new();
    world.ports.limit_to([40_000]);
    let found = world.outbound(UDP, A, "198.51.100.7:53");
    world.pass(300);
    assert_eq!((world.connections(), world.table.counts().held, world.ports.taken()), (0, 1, 1));
    let other = outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53");
    world.pass(119);
    assert_eq!(world.table.open_connection(&other, world.now_s), Err(Refusal::PortsExhausted));
    assert_eq!(world.arrives(UDP, "198.51.100.7:53", &external(&found)), Admission::NoMapping);
    world.pass(1);
    assert_eq!((world.table.counts().held, world.ports.taken()), (0, 0));
    assert_eq!(world.open(&other).translated.source_port, 40_000);
}

#[test]
fn a_released_port_goes_back_to_its_own_endpoint_at_once() {
    let mut world = World::new();
    let found = world.outbound(UDP, A, "198.51.100.7:53");
    world.pass(300);
    assert_eq!(external(&world.outbound(UDP, A, "198.51.100.9:53")), external(&found));
    // And the time of its hold is of no concern any more.
    world.pass(120);
    assert_eq!((world.connections(), world.table.counts().held, world.ports.taken()), (1, 0, 1));
    world.pass(180 + 119);
    assert_eq!((world.connections(), world.table.counts().held, world.ports.taken()), (0, 1, 1));
    world.pass(120);
    assert_eq!((world.table.counts().held, world.ports.taken()), (0, 0));
}

#[test]
fn a_port_is_taken_once_for_all_addresses_of_the_host() {
    let mut world = World::new();
    world.ports.limit_to([40_000]);
    let at = |address: &str, source: &str| New {
        source: SourceNat::External(ip(address)),
        ..outbound(UDP, source, "198.51.100.7:53")
    };
    world.open(&at("192.0.2.1", A));
    world.open(&at("192.0.2.2", "172.17.0.3:5000"));
    assert_eq!(world.ports.taken(), 1);
    world.pass(300);
    world.pass(120);
    assert_eq!(world.ports.taken(), 0);
}

#[test]
fn ports_are_unpredictable() {
    let draw = |secret: [u8; 16]| {
        let ports = Arc::new(HostPorts::default());
        let config = ConntrackConfig { connections_max: 1024, ..ConntrackConfig::default() };
        let (table, _) = Conntrack::open(Storage::Memory, config, ports, secret, START_S).unwrap();
        let port = |port: u16| {
            let new = outbound(protocol::TCP, &format!("172.17.0.2:{port}"), "198.51.100.7:53");
            table.open_connection(&new, START_S).unwrap().translated.source_port
        };
        (2000..2512).map(port).collect::<Vec<_>>()
    };
    let (first, other) = (draw(SECRET), draw([7; 16]));
    assert_ne!(first, other, "the secret decides");
    assert!(first.iter().zip(2000..).all(|(external, own)| *external != own), "the container's own port is not told");
    let near = first.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 64).count();
    assert!(near < 10, "one tells nothing of the next: {near} of 511 are near");
    let high = first.iter().filter(|port| **port >= 32_768 + 512).count();
    assert!((180..=330).contains(&high), "all ports are drawn alike: {high} of 512 in the upper half");
}
