//! RFC 7857, "Updates to NAT Behavioral Requirements", section by section.

use super::*;

const TCP: u8 = protocol::TCP;
const A: &str = "172.17.0.2:5000";
const SERVER: &str = "198.51.100.7:443";

fn at(tcp_flags: u8, sequence: u32) -> Segment {
    Segment { tcp_flags: Some(tcp_flags), sequence: Some(sequence), ..Segment::default() }
}

#[test]
fn section_2_1_each_phase_has_its_own_timer() {
    let timeouts = Timeouts {
        tcp_partial_open_s: 300,
        tcp_established_s: 8000,
        tcp_closing_s: 400,
        tcp_reset_s: 500,
        ..Timeouts::default()
    };
    let world = World::with(ConntrackConfig { timeouts, connections_max: 64, ..ConntrackConfig::default() });
    let timeout = |world: &World| world.table.list(&Filter::default(), world.now_s)[0].timeout_s;
    let new = outbound(TCP, A, SERVER);
    world.open(&new);
    assert_eq!(timeout(&world), 300);
    let [original, reply] = world.establish(&new);
    assert_eq!(timeout(&world), 8000);
    world.table.track(&original, flags(FIN_ACK), world.now_s);
    assert_eq!(timeout(&world), 8000, "half closed");
    world.table.track(&reply, flags(FIN_ACK), world.now_s);
    assert_eq!(timeout(&world), 400);
    world.table.flush(None, world.now_s);
    let [original, _] = world.establish(&new);
    world.table.track(&original, flags(RST), world.now_s);
    assert_eq!(timeout(&world), 500);
}

#[test]
fn section_2_2_a_reset_connection_lives_four_more_minutes() {
    for direction in [0, 1] {
        let mut world = World::new();
        let ends = world.establish(&outbound(TCP, A, SERVER));
        world.pass(100);
        let tracked = world.table.track(&ends[direction], flags(RST | ACK), world.now_s);
        assert_eq!(tracked, Tracked { state: Some(State::Reset), cacheable: false });
        // The RST, sent again, is translated too, and changes nothing.
        world.pass(100);
        world.table.track(&ends[direction], flags(RST), world.now_s);
        world.pass(139);
        assert_eq!(world.connections(), 1);
        world.pass(1);
        assert_eq!(world.connections(), 0);
    }
}

#[test]
fn section_2_2_traffic_after_a_reset_revives_the_connection() {
    for from in [0, 1] {
        let mut world = World::new();
        let ends = world.establish(&outbound(TCP, A, SERVER));
        world.table.track(&ends[0], flags(RST), world.now_s);
        world.pass(200);
        assert!(world.table.track(&ends[from], flags(ACK), world.now_s).cacheable);
        world.pass(7439);
        assert_eq!(world.connections(), 1);
    }
}

#[test]
fn section_2_2_traffic_on_the_hit_path_after_a_reset_revives_it_too() {
    let mut world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    world.table.track(&original, flags(RST), world.now_s);
    // Workers that have the flow in their caches do not show the table what they see.
    world.pass(2);
    world.table.touch(reply.index, world.now_s);
    world.pass(7439);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn section_2_2_a_reset_does_not_hasten_what_is_not_open() {
    let mut world = World::new();
    let original = world.outbound(TCP, A, SERVER);
    let Admission::Admitted(reply) = world.arrives_with(flags(RST | ACK), TCP, SERVER, &external(&original)) else {
        panic!()
    };
    assert_eq!(world.state(&reply), Some(State::SynSentOriginal));
    world.pass(239);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn section_2_a_connection_that_both_sides_closed_lives_four_more_minutes() {
    let mut world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    assert!(world.table.track(&original, flags(FIN_ACK), world.now_s).cacheable, "the other half still transfers");
    world.pass(7000);
    assert!(!world.table.track(&reply, flags(FIN_ACK), world.now_s).cacheable);
    world.pass(100);
    // The last acknowledgement does not prolong it.
    world.table.track(&original, flags(ACK), world.now_s);
    world.pass(139);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn section_2_a_closed_connections_tuple_is_opened_anew_by_a_newer_syn() {
    let world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    world.table.track(&original, at(FIN_ACK, 0xffff_fff0), world.now_s);
    world.table.track(&reply, at(FIN_ACK, 77), world.now_s);
    // A duplicate of the old connection's SYN.
    world.table.track(&original, at(SYN, 0xffff_0000), world.now_s);
    assert_eq!(world.state(&original), Some(State::Closing));
    // Beyond the FIN, also where the numbers wrap (RFC 9293 section 3.4).
    world.table.track(&original, at(SYN, 5), world.now_s);
    assert_eq!(world.state(&original), Some(State::ReopenedOriginal));
    assert!(world.table.track(&reply, at(SYN_ACK, 1), world.now_s).cacheable);
}

#[test]
fn section_2_a_connection_opened_anew_needs_nothing_that_a_cache_may_keep_from_the_table() {
    for sequence in [5, 15] {
        let mut world = World::new();
        let [original, reply] = world.establish(&published(TCP, "198.51.100.7:4000", "192.0.2.1:80", "172.17.0.2:80"));
        world.table.track(&reply, at(FIN_ACK, 10), world.now_s);
        world.table.track(&original, at(FIN_ACK, 10), world.now_s);
        // Within seconds. The server may accept also what is not newer (RFC 6191).
        world.table.track(&original, at(SYN, sequence), world.now_s);
        world.table.track(&reply, at(SYN_ACK, 1), world.now_s);
        // What acknowledges that, and all that follows, is translated on the hit path.
        world.pass(7439);
        assert_eq!(world.connections(), 1);
    }
}

#[test]
fn section_2_a_syn_that_nobody_answers_opens_nothing_for_long() {
    let mut world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    world.table.track(&original, at(FIN_ACK, 10), world.now_s);
    world.table.track(&reply, at(FIN_ACK, 20), world.now_s);
    world.table.track(&original, at(SYN, 30), world.now_s);
    world.pass(100);
    world.table.track(&original, at(ACK, 31), world.now_s);
    world.table.track(&reply, at(RST, 0), world.now_s);
    world.pass(139);
    assert_eq!(world.connections(), 1);
    world.pass(1);
    assert_eq!(world.connections(), 0);
}

#[test]
fn section_2_the_other_side_may_open_a_closed_connection_anew() {
    let world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    world.table.track(&original, at(FIN_ACK, 10), world.now_s);
    world.table.track(&reply, at(FIN_ACK, 20), world.now_s);
    world.table.track(&reply, at(SYN, 21), world.now_s);
    assert_eq!(world.state(&original), Some(State::ReopenedReply));
    world.table.track(&original, at(SYN_ACK, 1), world.now_s);
    assert_eq!(world.state(&original), Some(State::Established));
}

#[test]
fn section_2_a_reset_connections_tuple_is_opened_anew_at_once() {
    let world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    world.table.track(&reply, flags(RST), world.now_s);
    world.table.track(&original, flags(SYN), world.now_s);
    assert_eq!(world.state(&original), Some(State::ReopenedOriginal));
}

#[test]
fn forged_segments_do_not_end_a_connection_that_goes_on() {
    let mut world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    for forged in [RST, SYN, RST, SYN_ACK, FIN_ACK, RST, SYN] {
        world.table.track(&reply, at(forged, 1), world.now_s);
        world.table.track(&original, at(SYN, 1), world.now_s);
    }
    for _ in 0..2 {
        world.table.track(&original, flags(ACK), world.now_s);
        world.table.track(&reply, flags(ACK), world.now_s);
    }
    assert_eq!(world.state(&original), Some(State::Established));
    world.pass(7000);
    assert_eq!(world.connections(), 1);
}

#[test]
fn section_5_mappings_of_protocols_have_nothing_to_do_with_one_another() {
    let world = World::new();
    world.ports.limit_to([40_000]);
    let tcp = world.outbound(TCP, A, SERVER);
    let udp = world.outbound(protocol::UDP, A, SERVER);
    let other = world.outbound(protocol::SCTP, "172.17.0.3:1", SERVER);
    assert_eq!(BTreeSet::from([external(&tcp), external(&udp), external(&other)]).len(), 1);
    assert_eq!(world.table.counts().mappings, 3);
    // A filter that one protocol has opened is closed for the other.
    world.outbound(protocol::UDP, A, "203.0.113.9:9");
    assert_eq!(world.arrives(TCP, "203.0.113.9:9", &external(&tcp)), Admission::Filtered);
}

#[test]
fn section_7_1_resets_sent_in_answer_do_not_keep_a_mapping_alive() {
    let mut world = World::new();
    let [original, reply] = world.establish(&outbound(TCP, A, SERVER));
    for _ in 0..3 {
        world.pass(79);
        world.table.track(&reply, flags(RST), world.now_s);
        world.table.track(&original, flags(RST), world.now_s);
    }
    world.pass(82);
    assert_eq!(world.connections(), 0, "four minutes after the first of them");
}

#[test]
fn section_8_parity_is_kept_only_if_configured() {
    let world = World::with(ConntrackConfig { udp_parity: false, connections_max: 512, ..ConntrackConfig::default() });
    let port = |port: u16| world.outbound(protocol::UDP, &format!("172.17.0.2:{port}"), SERVER).translated.source_port;
    let same = (2000..2200).filter(|&own| port(own) % 2 == own % 2).count();
    assert!((60..=140).contains(&same), "{same} of 200");
}

#[test]
fn section_9_ports_of_tcp_are_drawn_at_random() {
    let world = World::new();
    let mut drawn: Vec<u16> = (2000..2256)
        .map(|port| world.outbound(TCP, &format!("172.17.0.2:{port}"), SERVER).translated.source_port)
        .collect();
    let ascending = drawn.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!((90..=165).contains(&ascending), "{ascending} of 255");
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 256);
}
