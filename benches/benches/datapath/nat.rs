//! The gateway's hit path: packets of established connections, translated in both directions.
//!
//! Sixteen guarded containers on one bridge, and a way out. UDP, 64 bytes, with checksums. The connections are made
//! first, one after the other, and then used in random order: what is measured is the worst that many flows do to the
//! CPU's caches. The line "of them 1,000 are active" has as many connections in the tables, and traffic on some.

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vswitch::datapath::clock;
use vswitch::datapath::fdb::{Fdb, FdbLimits};
use vswitch::datapath::inline::InlineDatapath;
use vswitch::nat::conntrack::Filter;
use vswitch::nat::{Publication, Services};
use vswitch::snapshot::{
    BridgeEntry, BridgeId, GatewayEntry, Guard, Outside, PortEntry, PortId, PortKind, Routing, Snapshot, Station,
    VlanMode,
};

use super::flows::{Flow, FlowDevice, Template};
use super::{Turned, mac};

const CONTAINERS: u32 = 16;
const GATEWAY: [u8; 6] = [0x02, 0x42, 10, 0, 0, 1];
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: PortId = PortId(CONTAINERS as u16);

/// Who makes the connections, and whose packets are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From containers, masqueraded: what they send.
    Out,
    /// The same: what they are answered.
    OutAnswers,
    /// From outside to published ports: what is asked.
    In,
    /// The same: the answers.
    InAnswers,
}

impl Direction {
    pub(crate) const ALL: [Self; 4] = [Self::Out, Self::OutAnswers, Self::In, Self::InAnswers];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Out => "masquerade",
            Self::OutAnswers => "masquerade, answers",
            Self::In => "published",
            Self::InAnswers => "published, answers",
        }
    }

    fn is_out(self) -> bool {
        matches!(self, Self::Out | Self::OutAnswers)
    }

    /// Whether the packets that are measured come from containers.
    fn leaves_containers(self) -> bool {
        matches!(self, Self::Out | Self::InAnswers)
    }
}

/// The gateway with connections, of which some or all are active.
pub(crate) struct NatBench {
    datapath: InlineDatapath,
    ports: Vec<PortId>,
    /// The port that is turned next.
    at: usize,
    sinks: Vec<FlowDevice>,
}

fn container(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0002 + number)
}

/// What the initiators send: container `number` and its peers.
fn initiated(direction: Direction, number: u32, count: u32, template: &Template) -> Vec<Flow> {
    (0..count)
        .map(|at| {
            // 250 ports of a container, and as many peers as it takes; or many clients of one published port.
            let (port, peer) = ((at % 250) as u16, at / 250);
            let peer = Ipv4Addr::from(0x6440_0000 + (number << 12) + peer);
            if direction.is_out() {
                Flow::new((container(number), 10_000 + port), (peer, 443), template)
            } else {
                Flow::new((peer, 10_000 + port), (EXTERNAL, 8000 + number as u16), template)
            }
        })
        .collect()
}

impl NatBench {
    /// `connections` connections, of which `active` send.
    pub(crate) fn new(direction: Direction, connections: u32, active: u32) -> Self {
        let each = connections / CONTAINERS;
        let inward = Template::new([0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2]);
        let outward: Vec<Template> = (0..CONTAINERS).map(|number| Template::new(GATEWAY, mac(number))).collect();
        // One device to make the connections, another one to be measured, so that both begin at their beginning.
        let makers: Vec<FlowDevice> =
            outward.iter().copied().map(FlowDevice::new).chain([FlowDevice::new(inward)]).collect();
        let mut datapath = InlineDatapath::new(256).expect("memory");
        datapath.publish(snapshot(&makers, 0));
        let containers: Vec<u32> = (0..CONTAINERS).collect();
        let outside = usize::from(OUTSIDE.0);
        let mut initiators: Vec<PortId> = Vec::new();
        if direction.is_out() {
            for &number in &containers {
                makers[number as usize].send(initiated(direction, number, each, &outward[number as usize]));
                initiators.push(PortId(number as u16));
            }
        } else {
            let flows = containers.iter().flat_map(|&number| initiated(direction, number, each, &inward)).collect();
            makers[outside].send(flows);
            initiators.push(OUTSIDE);
        }
        let made = |datapath: &InlineDatapath| datapath.conntrack().counts().connections;
        let wanted = each * CONTAINERS;
        for turn in 0.. {
            datapath.turn(initiators[turn % initiators.len()]);
            if turn % 1024 == 0 && made(&datapath) == wanted {
                break;
            }
            assert!(turn < 40_000_000, "{} of {wanted} connections: {:?}", made(&datapath), datapath.totals());
        }
        // The other direction is what the table says that it is.
        let mut answers: Vec<Vec<Flow>> = vec![Vec::new(); makers.len()];
        datapath.conntrack().for_each(&Filter::default(), clock::now_s(), |connection| {
            let endpoints = |tuple: vswitch::nat::Tuple| match (tuple.source, tuple.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    ((source, tuple.source_port), (destination, tuple.destination_port))
                }
                _ => unreachable!("all connections are IPv4"),
            };
            let tuple = if matches!(direction, Direction::Out | Direction::In) {
                connection.original
            } else {
                connection.reply
            };
            let (source, destination) = endpoints(tuple);
            let (port, template) = if direction.leaves_containers() {
                let number = (u32::from(source.0) - u32::from(container(0))) as usize;
                (number, &outward[number])
            } else {
                (outside, &inward)
            };
            answers[port].push(Flow::new(source, destination, template));
        });
        let devices: Vec<FlowDevice> =
            outward.into_iter().map(FlowDevice::new).chain([FlowDevice::new(inward)]).collect();
        let senders = answers.iter().filter(|flows| !flows.is_empty()).count() as u32;
        let mut ports = Vec::new();
        for (at, mut flows) in answers.into_iter().enumerate().filter(|(_, flows)| !flows.is_empty()) {
            flows.truncate((active / senders).max(1) as usize);
            devices[at].send(flows);
            ports.push(PortId(at as u16));
        }
        datapath.publish(snapshot(&devices, 1));
        let mut bench = Self { datapath, ports, at: 0, sinks: devices };
        // Every flow is known to the worker, and the burst size has grown to its largest.
        for _ in 0..3 * active as usize / 64 + 2048 {
            bench.turn();
        }
        bench
    }
}

impl Turned for NatBench {
    #[inline]
    fn turn(&mut self) {
        self.at = if self.at + 1 == self.ports.len() { 0 } else { self.at + 1 };
        black_box(self.datapath.turn(self.ports[self.at]));
    }

    fn sent(&self) -> u64 {
        self.sinks.iter().map(FlowDevice::sent_frames).sum()
    }

    fn datapath(&self) -> &InlineDatapath {
        &self.datapath
    }
}

fn snapshot(devices: &[FlowDevice], incarnation: u64) -> Snapshot {
    let entry = |(at, device): (usize, &FlowDevice)| {
        let is_outside = at == usize::from(OUTSIDE.0);
        let guard = Guard { mac: mac(at as u32), addresses: vec![container(at as u32).into()] };
        Some(Arc::new(PortEntry {
            id: PortId(at as u16),
            incarnation: incarnation << 32 | at as u64,
            name: format!("port{at}"),
            bridge: BridgeId(u16::from(is_outside)),
            kind: if is_outside { PortKind::Routed } else { PortKind::Container },
            group: None,
            learning: true,
            flooding: true,
            vlan: VlanMode::Transparent,
            mtu: 1500,
            ingress_rate_bps: None,
            egress_bucket: None,
            guard: (!is_outside).then(|| Arc::new(guard)),
            hairpins: Arc::default(),
            reader: Some(0),
            device: Arc::new(device.clone()),
        }))
    };
    let containers: Vec<u32> = (0..CONTAINERS).collect();
    let stations: HashMap<IpAddr, Station> = containers
        .iter()
        .map(|&number| (container(number).into(), Station { port: PortId(number as u16), mac: mac(number) }))
        .collect();
    let gateway = GatewayEntry {
        mac: GATEWAY,
        addresses: vec!["10.0.0.1/24".parse().expect("a network")],
        host: None,
        stations,
        neighbours: Arc::default(),
        internal: false,
        masquerade: true,
        mss_clamp: false,
    };
    let bridge = |id: u16, ports: Vec<PortId>, gateway| {
        Some(Arc::new(BridgeEntry {
            id: BridgeId(id),
            name: format!("br{id}"),
            fdb: Arc::new(Fdb::new(FdbLimits::default())),
            icc: true,
            storm_limit: None,
            ports,
            neighbours: None,
            vlan_aware: false,
            gateway,
        }))
    };
    let publication = |&number: &u32| Publication {
        protocol: 17,
        host: None,
        first: 8000 + number as u16,
        last: 8000 + number as u16,
        bridge: BridgeId(0),
        target: container(number).into(),
        target_first: 53,
        from: Arc::default(),
    };
    let own = [EXTERNAL.into(), "10.0.0.1".parse().expect("an address")];
    Snapshot {
        ports: devices.iter().enumerate().map(entry).collect(),
        bridges: vec![
            bridge(0, (0..CONTAINERS as u16).map(PortId).collect(), Some(Arc::new(gateway))),
            bridge(1, vec![OUTSIDE], None),
        ],
        underlays: Vec::new(),
        routing: Arc::new(Routing {
            services: Arc::new(Services::new(containers.iter().map(publication).collect())),
            host_addresses: Arc::new(HashSet::from(own)),
            routes: None,
            outside: vec![Outside { port: OUTSIDE, index: 2, addresses: vec![EXTERNAL.into()] }],
            loopback: None,
            is_settled: true,
        }),
    }
}
