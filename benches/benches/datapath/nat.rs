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

    /// The direction of the first packets of its connections.
    fn initiated(self) -> Self {
        if self.is_out() { Self::Out } else { Self::In }
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

/// The ports of a container's programs, each of which has as many peers as it takes; of a peer of a published port.
const PORTS: u32 = 250;
const FIRST_PORT: u16 = 10_000;
const SERVICE_PORT: u16 = 53;

fn container(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0002 + number)
}

/// The connections of the containers, by their numbers: the packets that initiators send, and their answers.
#[derive(Debug, Clone)]
struct Connections {
    direction: Direction,
    /// How far the flows that send are from one another.
    stride: u32,
    /// The external ports of the containers' ports, as the table of connections has given them.
    mapped: Arc<Vec<u16>>,
}

impl Connections {
    /// The flow of the connection `at` of container `number`.
    #[inline]
    fn flow(&self, number: u32, at: u32) -> Flow {
        let at = at * self.stride;
        let (port, peer) = (at % PORTS, Ipv4Addr::from(0x6440_0000 + (number << 12) + at / PORTS));
        let own = FIRST_PORT + port as u16;
        let published = 8000 + number as u16;
        match self.direction {
            Direction::Out => Flow::new((container(number), own), (peer, 443)),
            Direction::OutAnswers => Flow::new((peer, 443), (EXTERNAL, self.mapped[(number * PORTS + port) as usize])),
            Direction::In => Flow::new((peer, own), (EXTERNAL, published)),
            Direction::InAnswers => Flow::new((container(number), SERVICE_PORT), (peer, own)),
        }
    }

    /// Lets the devices send `each` flows of every container; returns the ports that do.
    fn send(&self, devices: &[FlowDevice], each: u32) -> Vec<PortId> {
        if self.direction.leaves_containers() {
            for number in 0..CONTAINERS {
                let connections = self.clone();
                devices[number as usize].send(each, Box::new(move |at| connections.flow(number, at)));
            }
            return (0..CONTAINERS as u16).map(PortId).collect();
        }
        let connections = self.clone();
        let flow = move |number| connections.flow(number % CONTAINERS, number / CONTAINERS);
        devices[usize::from(OUTSIDE.0)].send(each * CONTAINERS, Box::new(flow));
        vec![OUTSIDE]
    }
}

impl NatBench {
    /// `connections` connections, of which `active` send.
    pub(crate) fn new(direction: Direction, connections: u32, active: u32) -> Self {
        let each = connections / CONTAINERS;
        let wanted = each * CONTAINERS;
        // One device to make the connections, another one to be measured, so that both begin at their beginning.
        let (makers, devices) = (devices(), devices());
        let mut datapath = InlineDatapath::new(256).expect("memory");
        datapath.publish(snapshot(&makers, 0));
        let made = |datapath: &InlineDatapath| datapath.conntrack().counts().connections;
        let initiators = Connections { direction: direction.initiated(), stride: 1, mapped: Arc::default() };
        let ports = initiators.send(&makers, each);
        for turn in 0.. {
            datapath.turn(ports[turn % ports.len()]);
            if turn % 1024 == 0 && made(&datapath) == wanted {
                break;
            }
            assert!(turn < 40_000_000, "{} of {wanted} connections: {:?}", made(&datapath), datapath.totals());
        }
        let mut mapped = vec![0; (CONTAINERS * PORTS) as usize];
        if direction.is_out() {
            datapath.conntrack().for_each(&Filter::default(), clock::now_s(), |connection| {
                let IpAddr::V4(source) = connection.original.source else { return };
                let (number, port) = (u32::from(source) - u32::from(container(0)), connection.original.source_port);
                let at = number * PORTS + u32::from(port - FIRST_PORT);
                mapped[at as usize] = connection.reply.destination_port;
            });
        }
        let stride = connections / active;
        let ports = Connections { direction, stride, mapped: Arc::new(mapped) }.send(&devices, each / stride);
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

/// A device for each container, and one for the way out.
fn devices() -> Vec<FlowDevice> {
    let inward = Template::new([0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2]);
    let outward = (0..CONTAINERS).map(|number| Template::new(GATEWAY, mac(number)));
    outward.chain([inward]).map(FlowDevice::new).collect()
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
        target_first: SERVICE_PORT,
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
