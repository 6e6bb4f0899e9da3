//! The gateway: who reaches whom, as whom, and why not.

mod isolation;
mod packets;
mod published;
mod routes;
mod translation;
mod undecided;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use vswitch::frame::DropReason;
use vswitch::io::Caps;
use vswitch::io::mem::MemDevice;
use vswitch::nat::{Publication, Services};
use vswitch::snapshot::{BridgeId, GatewayEntry, Guard, Outside, PortId, PortKind, Routing, Station};

use crate::fixture::{Lab, Topology, mac};
use packets::{Seen, at, ip};

/// The first bridge, 10.0.0.0/24 and fd00::/64.
pub(crate) const HOST: PortId = PortId(0);
pub(crate) const A: PortId = PortId(1);
pub(crate) const B: PortId = PortId(2);
/// The second bridge, 10.1.0.0/24.
pub(crate) const OTHER_HOST: PortId = PortId(3);
pub(crate) const C: PortId = PortId(4);
/// The shared uplink, 192.0.2.1 and 2001:db8::1.
pub(crate) const UPLINK: PortId = PortId(5);
/// The host's loopback interface.
pub(crate) const LOOPBACK: PortId = PortId(6);

pub(crate) const GATEWAY: [u8; 6] = [0x02, 0x42, 10, 0, 0, 1];
pub(crate) const OTHER_GATEWAY: [u8; 6] = [0x02, 0x42, 10, 1, 0, 1];

/// Container ports 80 of A are the host's ports 8080 (TCP, UDP); 8081 is for 203.0.113.0/24 alone; 127.0.0.1:8082.
fn publications() -> Vec<Publication> {
    let publication = |protocol, host: Option<IpAddr>, first, target: &str| Publication {
        protocol,
        host,
        first,
        last: first,
        bridge: BridgeId(0),
        target: ip(target),
        target_first: 80,
        from: Arc::default(),
    };
    let mut all = Vec::new();
    for protocol in [packets::TCP, packets::UDP] {
        all.push(publication(protocol, None, 8080, "10.0.0.2"));
        all.push(publication(protocol, None, 8080, "fd00::2"));
        all.push(Publication {
            from: vec!["203.0.113.0/24".parse().unwrap()].into(),
            ..publication(protocol, None, 8081, "10.0.0.2")
        });
        all.push(publication(protocol, Some(ip("127.0.0.1")), 8082, "10.0.0.2"));
    }
    all
}

fn gateway(mac: [u8; 6], networks: &[&str], host: PortId, stations: &[(&str, PortId, [u8; 6])]) -> GatewayEntry {
    GatewayEntry {
        mac,
        addresses: networks.iter().map(|network| network.parse().unwrap()).collect(),
        host: Some(host),
        stations: stations.iter().map(|(text, port, mac)| (ip(text), Station { port: *port, mac: *mac })).collect(),
        neighbours: Arc::default(),
        internal: false,
        masquerade: true,
        mss_clamp: false,
    }
}

/// Two bridges, a way out, and the host's loopback interface.
pub(crate) fn lab_with(change: impl FnOnce(&mut Topology)) -> Lab {
    let mut topology = Topology::new(3);
    for bridge in [0, 0, 0, 1, 1, 2, 2] {
        topology.attach(bridge, MemDevice::new(Caps::ALL));
    }
    for (port, kind) in
        [(HOST, PortKind::Host), (OTHER_HOST, PortKind::Host), (UPLINK, PortKind::Routed), (LOOPBACK, PortKind::Routed)]
    {
        topology.port(port).kind = kind;
    }
    let stations: &[(&str, PortId, [u8; 6])] =
        &[("10.0.0.2", A, mac(2)), ("fd00::2", A, mac(2)), ("10.0.0.3", B, mac(3)), ("fd00::3", B, mac(3))];
    topology.bridges[0].gateway = Some(Arc::new(gateway(GATEWAY, &["10.0.0.1/24", "fd00::1/64"], HOST, stations)));
    let stations: &[(&str, PortId, [u8; 6])] = &[("10.1.0.2", C, mac(4)), ("fd01::2", C, mac(4))];
    topology.bridges[1].gateway =
        Some(Arc::new(gateway(OTHER_GATEWAY, &["10.1.0.1/24", "fd01::1/64"], OTHER_HOST, stations)));
    for (port, n, addresses) in
        [(A, 2, ["10.0.0.2", "fd00::2"]), (B, 3, ["10.0.0.3", "fd00::3"]), (C, 4, ["10.1.0.2", "fd01::2"])]
    {
        let addresses = addresses.iter().map(|text| ip(text)).collect();
        topology.port(port).guard = Some(Arc::new(Guard { mac: mac(n), addresses }));
    }
    let own = ["192.0.2.1", "2001:db8::1"].map(ip);
    let gateways = ["10.0.0.1", "fd00::1", "10.1.0.1", "fd01::1", "127.0.0.1", "::1"].map(ip);
    topology.routing = Routing {
        routes: None,
        services: Arc::new(Services::new(publications())),
        host_addresses: Arc::new(own.into_iter().chain(gateways).collect::<HashSet<_>>()),
        outside: vec![Outside { port: UPLINK, index: 2, addresses: own.to_vec() }],
        loopback: Some(LOOPBACK),
        is_settled: true,
    };
    change(&mut topology);
    Lab::with_topology(topology, 256)
}

pub(crate) fn lab() -> Lab {
    lab_with(|_| ())
}

pub(crate) fn change_gateway(topology: &mut Topology, bridge: usize, change: impl FnOnce(&mut GatewayEntry)) {
    let mut gateway = topology.bridges[bridge].gateway.as_deref().unwrap().clone();
    change(&mut gateway);
    topology.bridges[bridge].gateway = Some(Arc::new(gateway));
}

/// From `station` to the gateway of the first bridge.
pub(crate) fn to_gateway(station: u8) -> ([u8; 6], [u8; 6]) {
    (GATEWAY, mac(station))
}

/// On a routed interface nobody looks at the Ethernet addresses.
pub(crate) const NOWHERE: ([u8; 6], [u8; 6]) = ([0; 6], [0; 6]);

/// The one packet that `port` was sent since the last look.
pub(crate) fn one(lab: &Lab, port: PortId) -> Seen {
    let frames = lab.sent_bytes(port);
    assert_eq!(frames.len(), 1, "{port}: {frames:02x?}");
    Seen::of(&frames[0])
}

/// Nobody was sent anything.
pub(crate) fn nothing(lab: &Lab) {
    assert!(lab.sent_counts().iter().all(|count| *count == 0));
}

pub(crate) fn dropped(lab: &Lab, port: PortId) -> Vec<DropReason> {
    lab.drops(port).into_iter().map(|(reason, _)| reason).collect()
}

#[test]
fn address_resolution_and_ping_are_answered_inside_of_the_switch() {
    let mut lab = lab();
    // Who has 10.0.0.1? To everybody, and to the gateway alone.
    for destination in [[0xff; 6], GATEWAY] {
        let mut question =
            [&destination[..], &mac(2), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(2), &[10, 0, 0, 2]].concat();
        question.extend([0; 6]);
        question.extend([10, 0, 0, 1]);
        lab.receive(A, question);
        let answers = lab.sent_bytes(A);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][..12], [mac(2), GATEWAY].concat());
        assert_eq!(answers[0][20..32], [&[0, 2][..], &GATEWAY, &[10, 0, 0, 1]].concat());
        nothing(&lab);
    }
    for (from, to) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
        lab.receive(A, packets::echo(to_gateway(2), (ip(from), ip(to)), true, 7));
        let reply = one(&lab, A);
        assert_eq!((reply.macs, reply.from, reply.to), ((mac(2), GATEWAY), ip(to), ip(from)));
        assert!(reply.payload[0] == 0 || reply.payload[0] == 129);
        assert_eq!(reply.payload[4..], [0, 7, 0, 1, 0xde, 0xad, 0xbe, 0xef]);
        nothing(&lab);
    }
}

#[test]
fn what_is_for_the_host_is_the_hosts_as_it_is() {
    let mut lab = lab();
    for (from, to) in
        [("10.0.0.2:5000", "10.0.0.1:53"), ("10.0.0.2:5000", "192.0.2.1:53"), ("[fd00::2]:5000", "[fd00::1]:53")]
    {
        let frame = packets::udp(to_gateway(2), at(from), at(to), b"question");
        for _ in 0..2 {
            lab.receive(A, frame.clone());
            assert_eq!(lab.sent_bytes(HOST), std::slice::from_ref(&frame));
        }
    }
    nothing(&lab);
}

#[test]
fn a_packet_that_made_too_many_hops_is_told_so_by_the_gateway() {
    let mut lab = lab();
    let mut frame = packets::udp(to_gateway(2), at("10.0.0.2:5000"), at("198.51.100.9:53"), b"question");
    frame[22] = 1;
    frame[24..26].fill(0);
    let sum = vswitch::frame::checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    lab.receive(A, frame.clone());
    let told = one(&lab, A);
    assert_eq!((told.macs, told.from, told.to, told.protocol), ((mac(2), GATEWAY), ip("10.0.0.1"), ip("10.0.0.2"), 1));
    assert_eq!(told.payload[..2], [11, 0]);
    assert_eq!(told.payload[8..36], frame[14..42], "as it was sent");
    assert_eq!(dropped(&lab, A), [DropReason::TtlExceeded]);
    nothing(&lab);
}
