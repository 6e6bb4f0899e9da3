//! RFC 5508, "NAT Behavioral Requirements for ICMP": what concerns the table.

use super::*;

const ICMP: u8 = protocol::ICMP;

#[test]
fn req_1_identifiers_are_mapped_endpoint_independently() {
    let world = World::new();
    let first = world.outbound(ICMP, "172.17.0.2:77", "198.51.100.7:0");
    let second = world.outbound(ICMP, "172.17.0.2:77", "198.51.100.8:0");
    let other = world.outbound(ICMP, "172.17.0.3:77", "198.51.100.7:0");
    assert_eq!(external(&first), external(&second));
    assert_ne!(external(&first), external(&other));
    let reply = tuple(ICMP, "198.51.100.7:0", &external(&first));
    let found = world.table.find(&reply, Place::Outside).unwrap();
    assert_eq!(found.translated, tuple(ICMP, "198.51.100.7:0", "172.17.0.2:77"));
    assert!(found.cacheable);
}

#[test]
fn req_1_identifiers_of_icmpv6_are_mapped_too() {
    let world = World::new();
    let found = world.outbound(protocol::ICMPV6, "[fd00::2]:77", "[2001:db8:7::7]:0");
    let reply = tuple(protocol::ICMPV6, "[2001:db8:7::7]:0", &external(&found));
    assert_eq!(world.table.find(&reply, Place::Outside).unwrap().translated.destination_port, 77);
}

#[test]
fn req_2_a_query_lives_sixty_seconds() {
    let mut world = World::new();
    let found = world.outbound(ICMP, "172.17.0.2:77", "198.51.100.7:0");
    world.pass(50);
    world.table.touch(found.index, world.now_s);
    world.pass(59);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
    let short = Timeouts { icmp_s: 59, ..Timeouts::default() };
    assert!(short.check().unwrap_err().to_string().contains("RFC 5508 REQ-2"));
}

#[test]
fn req_3_nobody_comes_in_unasked() {
    let world = World::new();
    let found = world.outbound(ICMP, "172.17.0.2:77", "198.51.100.7:0");
    assert_eq!(world.arrives(ICMP, "198.51.100.8:0", &external(&found)), Admission::Filtered);
    // A request of theirs has its own identifier, which is nobody's mapping.
    assert_eq!(world.arrives(ICMP, "198.51.100.7:5", "192.0.2.1:0"), Admission::NoMapping);
}

#[test]
fn req_4_5_an_errors_embedded_packet_finds_its_connection_from_either_side() {
    let world = World::new();
    let found = world.outbound(ICMP, "172.17.0.2:77", "198.51.100.7:0");
    // From outside about the request, which is embedded as it left.
    let of = world.table.find(&found.translated.reversed(), Place::Outside).unwrap();
    assert_eq!(of.translated.reversed(), tuple(ICMP, "172.17.0.2:77", "198.51.100.7:0"));
    // From the container about the reply, which is embedded as it got it.
    let of = world.table.find(&tuple(ICMP, "172.17.0.2:77", "198.51.100.7:0"), Place::Container).unwrap();
    assert_eq!(of.translated, found.translated);
}

#[test]
fn req_6_errors_do_not_refresh_a_connection() {
    let mut world = World::new();
    let found = world.outbound(ICMP, "172.17.0.2:77", "198.51.100.7:0");
    world.pass(59);
    assert!(world.table.find(&found.translated.reversed(), Place::Outside).is_some());
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn req_8_identifiers_run_out_with_a_reason_that_can_be_told() {
    let world = World::new();
    world.ports.limit_to([1, 2]);
    world.outbound(ICMP, "172.17.0.2:77", "198.51.100.7:0");
    world.outbound(ICMP, "172.17.0.2:78", "198.51.100.7:0");
    let more = outbound(ICMP, "172.17.0.2:79", "198.51.100.7:0");
    assert_eq!(world.table.open_connection(&more, world.now_s), Err(Refusal::PortsExhausted));
}
