//! A small switch of devices in memory, and frames for it.

use std::sync::Arc;

use vswitch::datapath::fdb::{Fdb, FdbLimits};
use vswitch::datapath::inline::InlineDatapath;
use vswitch::datapath::{Event, PortCounters};
use vswitch::frame::{Csum, DropReason};
use vswitch::io::Caps;
use vswitch::io::mem::{MemDevice, MemFrame};
use vswitch::snapshot::{
    BridgeEntry, BridgeId, PortEntry, PortId, PortKind, Routing, Snapshot, UnderlayEntry, VlanMode,
};

pub(crate) const P0: PortId = PortId(0);
pub(crate) const P1: PortId = PortId(1);
pub(crate) const P2: PortId = PortId(2);
pub(crate) const P3: PortId = PortId(3);
pub(crate) const P4: PortId = PortId(4);

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// Frames that [`Lab::receive_as_one_burst`] sends ahead: a port is first asked for one frame, then for
/// two, four, and so on up to a full burst.
const WARM_UP_FRAMES: usize = 63;

/// The address of station `n`.
pub(crate) fn mac(n: u8) -> [u8; 6] {
    [0x02, 0, 0, 0, 0, n]
}

/// A frame of an ethertype for experiments, which nobody segments or merges.
pub(crate) fn frame(destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    frame_of(destination, source, None, b"payload of a frame that is just long enough ..")
}

/// The same with an 802.1Q tag whose control field is `control` (priority and VLAN id).
pub(crate) fn tagged(destination: [u8; 6], source: [u8; 6], control: u16) -> Vec<u8> {
    frame_of(destination, source, Some(control), b"payload of a frame that is just long enough ..")
}

/// A frame with or without a tag.
pub(crate) fn frame_of(destination: [u8; 6], source: [u8; 6], control: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [destination, source].concat();
    if let Some(control) = control {
        bytes.extend([0x81, 0x00]);
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend([0x88, 0xb5]);
    bytes.extend(payload);
    bytes
}

/// The configuration of the switch under test.
pub(crate) struct Topology {
    pub(crate) ports: Vec<Option<PortEntry>>,
    pub(crate) bridges: Vec<BridgeEntry>,
    devices: Vec<MemDevice>,
    pub(crate) underlays: Vec<Arc<UnderlayEntry>>,
    pub(crate) routing: Routing,
    incarnations: u64,
}

impl Topology {
    /// Bridges without ports.
    pub(crate) fn new(bridges: u16) -> Self {
        let bridge = |id| BridgeEntry {
            id: BridgeId(id),
            name: format!("bridge{id}"),
            fdb: Arc::new(Fdb::new(FdbLimits::default())),
            icc: true,
            storm_limit: None,
            ports: Vec::new(),
            neighbours: None,
            vlan_aware: false,
            gateway: None,
        };
        Self {
            ports: Vec::new(),
            bridges: (0..bridges).map(bridge).collect(),
            devices: Vec::new(),
            underlays: Vec::new(),
            routing: Routing::default(),
            incarnations: 0,
        }
    }

    /// Adds a port with a new device to a bridge, under the next id.
    pub(crate) fn attach(&mut self, bridge: u16, device: MemDevice) -> PortId {
        let port = PortId(self.ports.len() as u16);
        self.ports.push(None);
        self.devices.push(device.clone());
        self.replace(port, bridge, device);
        port
    }

    /// Puts a new port under an id that was used before.
    pub(crate) fn replace(&mut self, port: PortId, bridge: u16, device: MemDevice) {
        self.incarnations += 1;
        self.devices[port.index()] = device.clone();
        self.ports[port.index()] = Some(PortEntry {
            id: port,
            incarnation: self.incarnations,
            name: format!("port{port}"),
            bridge: BridgeId(bridge),
            kind: PortKind::Container,
            group: None,
            learning: true,
            flooding: true,
            vlan: VlanMode::Transparent,
            mtu: 1500,
            ingress_rate_bps: None,
            egress_bucket: None,
            guard: None,
            hairpins: Arc::default(),
            reader: Some(0),
            device: Arc::new(device),
        });
    }

    /// Removes a port.
    pub(crate) fn detach(&mut self, port: PortId) {
        self.ports[port.index()] = None;
    }

    pub(crate) fn port(&mut self, port: PortId) -> &mut PortEntry {
        self.ports[port.index()].as_mut().expect("the port is attached")
    }

    /// The device that was last attached under the id.
    pub(crate) fn device(&self, port: PortId) -> &MemDevice {
        &self.devices[port.index()]
    }

    /// What the control plane would publish.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let bridge = |bridge: &BridgeEntry| {
            let ports = || self.ports.iter().flatten().filter(|port| port.bridge == bridge.id);
            Some(Arc::new(BridgeEntry {
                ports: ports().map(|port| port.id).collect(),
                vlan_aware: ports().any(|port| port.vlan != VlanMode::Transparent),
                ..bridge.clone()
            }))
        };
        Snapshot {
            ports: self.ports.iter().map(|port| port.clone().map(Arc::new)).collect(),
            bridges: self.bridges.iter().map(bridge).collect(),
            underlays: self.underlays.clone(),
            routing: Arc::new(self.routing.clone()),
        }
    }
}

/// A switch under test. When it goes, every frame must be accounted for.
pub(crate) struct Lab {
    pub(crate) datapath: InlineDatapath,
    pub(crate) topology: Topology,
    /// Warm-up frames, by port: they are no part of the scenario's counters.
    warm_ups: Vec<u64>,
}

impl Lab {
    /// One bridge with `ports` ports that take everything.
    pub(crate) fn new(ports: usize) -> Self {
        Self::with_caps(&vec![Caps::ALL; ports])
    }

    /// One bridge with a port for each of `caps`.
    pub(crate) fn with_caps(caps: &[Caps]) -> Self {
        let mut topology = Topology::new(1);
        for &caps in caps {
            topology.attach(0, MemDevice::new(caps));
        }
        Self::with_topology(topology, 256)
    }

    /// Any switch, with a pool of `pool_frames`.
    pub(crate) fn with_topology(topology: Topology, pool_frames: u32) -> Self {
        let mut datapath = InlineDatapath::new(pool_frames).unwrap();
        datapath.publish(topology.snapshot());
        let warm_ups = vec![0; topology.ports.len()];
        Self { datapath, topology, warm_ups }
    }

    /// Changes the configuration and publishes it.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Topology)) {
        change(&mut self.topology);
        self.datapath.publish(self.topology.snapshot());
        self.warm_ups.resize(self.topology.ports.len(), 0);
    }

    pub(crate) fn fdb(&self) -> &Fdb {
        &self.topology.bridges[0].fdb
    }

    /// Lets a port receive a frame, and forwards it.
    pub(crate) fn receive(&mut self, port: PortId, frame: impl Into<MemFrame>) {
        self.topology.device(port).inject(frame);
        self.datapath.drain(port);
    }

    /// Lets a port receive frames that all go through the datapath as one burst.
    pub(crate) fn receive_as_one_burst<F: Into<MemFrame>>(
        &mut self,
        port: PortId,
        frames: impl IntoIterator<Item = F>,
    ) {
        let device = self.topology.device(port);
        for _ in 0..WARM_UP_FRAMES {
            device.inject(frame([0x01, 0x80, 0xc2, 0, 0, 0x0e], mac(0)));
        }
        frames.into_iter().for_each(|frame| device.inject(frame));
        self.warm_ups[port.index()] += WARM_UP_FRAMES as u64;
        self.datapath.drain(port);
    }

    /// What a port was sent since the last look.
    pub(crate) fn sent(&self, port: PortId) -> Vec<MemFrame> {
        self.topology.device(port).take_sent()
    }

    /// The same as bytes; all frames must be finished.
    pub(crate) fn sent_bytes(&self, port: PortId) -> Vec<Vec<u8>> {
        let finished = |frame: MemFrame| {
            assert_eq!(frame.offload.gso, None);
            assert!(!matches!(frame.offload.csum, Csum::Partial { .. }), "{:?}", frame.offload);
            frame.bytes
        };
        self.sent(port).into_iter().map(finished).collect()
    }

    /// How many frames each port was sent since the last look.
    pub(crate) fn sent_counts(&self) -> Vec<usize> {
        (0..self.topology.ports.len()).map(|port| self.sent(PortId(port as u16)).len()).collect()
    }

    /// A port's counters of the scenario.
    pub(crate) fn counters(&self, port: PortId) -> PortCounters {
        let mut counters = self.datapath.port_counters(port);
        let warm_ups = self.warm_ups[port.index()];
        counters.rx_frames -= warm_ups;
        counters.drops[DropReason::LinkLocal as usize] -= warm_ups;
        counters
    }

    /// A port's drops with their reasons.
    pub(crate) fn drops(&self, port: PortId) -> Vec<(DropReason, u64)> {
        let counts = self.counters(port).drops;
        DropReason::ALL.iter().copied().zip(counts).filter(|&(_, count)| count > 0).collect()
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.datapath.event()).collect()
    }

    /// Everything that was ever counted, ports that are gone included.
    pub(crate) fn totals(&self) -> PortCounters {
        self.datapath.totals()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.totals().unexplained(), 0, "a frame is not accounted for: {:?}", self.totals());
            let frames = self.datapath.worker_counters();
            assert_eq!(frames.frames_outstanding, 0, "a frame leaked");
        }
    }
}
