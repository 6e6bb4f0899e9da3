//! Random histories of traffic and changes, against a reference switch that remembers nothing but
//! its forwarding database: whatever the datapath caches must never show.
//!
//! The reference is written from IEEE 802.1Q and the rules of the database, frame by frame, without
//! the datapath's code. It knows no time: a history takes milliseconds, and one that a busy machine
//! stretches over the seconds of the loop detection's window proves nothing and is passed over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vswitch::datapath::fdb::FLAP_MOVES;
use vswitch::io::Caps;
use vswitch::io::mem::MemDevice;
use vswitch::snapshot::{BridgeId, PortId, PortKind, VlanMode, VlanSet};

use crate::fixture::{BROADCAST, Lab, Topology, frame_of, mac};

const PORTS: usize = 5;
const BRIDGES: usize = 2;
const STATIONS: u8 = 4;
/// The station number that stands for broadcast.
const ALL_STATIONS: u8 = STATIONS;

/// A frame in short: destination, source, the tag's control field.
type Short = (u8, u8, Option<u16>);

fn address(station: u8) -> [u8; 6] {
    if station == ALL_STATIONS { BROADCAST } else { mac(station + 1) }
}

fn bytes_of((destination, source, control): Short) -> Vec<u8> {
    frame_of(address(destination), address(source), control, &[destination, source, 3, 4, 5, 6, 7, 8])
}

#[derive(Debug, Clone)]
enum Step {
    Traffic(usize, Vec<Short>),
    Flush(usize, Option<usize>),
    Remove(usize, u8, Option<u16>),
    Pin(usize, u8, u16, usize),
    RemovePort(usize, usize),
    Mode(usize, VlanMode),
    Move(usize, usize),
    Kind(usize, PortKind),
    Isolate(usize, bool),
    Detach(usize),
    Replace(usize, usize),
}

fn any_mode() -> impl Strategy<Value = VlanMode> {
    prop_oneof![
        2 => Just(VlanMode::Transparent),
        1 => prop::sample::select(vec![10, 20]).prop_map(VlanMode::Access),
        1 => prop::sample::subsequence(vec![0, 10, 20], 1..=3).prop_map(|vids| VlanMode::Trunk(VlanSet::new(vids))),
    ]
}

fn any_frame() -> impl Strategy<Value = Short> {
    let control =
        prop::sample::select(vec![None, None, None, Some(0x6000), Some(0xa00a), Some(10), Some(20), Some(30)]);
    // Mostly the station is where one expects it, or nothing would ever stay cached.
    (0..=ALL_STATIONS, 0..STATIONS, control)
}

fn any_step() -> impl Strategy<Value = Step> {
    let (port, bridge) = (0..PORTS, 0..BRIDGES);
    let vlan = || prop::sample::select(vec![0_u16, 10, 20]);
    let traffic = |station: bool| {
        (0..PORTS, prop::collection::vec(any_frame(), 1..8)).prop_map(move |(port, mut frames)| {
            if station {
                frames.iter_mut().for_each(|frame| frame.1 = port as u8 % STATIONS);
            }
            Step::Traffic(port, frames)
        })
    };
    prop_oneof![
        16 => traffic(true),
        6 => traffic(false),
        1 => (bridge.clone(), prop::option::of(port.clone())).prop_map(|(b, p)| Step::Flush(b, p)),
        1 => (bridge.clone(), 0..STATIONS, prop::option::of(vlan())).prop_map(|(b, s, v)| Step::Remove(b, s, v)),
        1 => (bridge.clone(), 0..STATIONS, vlan(), port.clone()).prop_map(|(b, s, v, p)| Step::Pin(b, s, v, p)),
        1 => (bridge.clone(), port.clone()).prop_map(|(b, p)| Step::RemovePort(b, p)),
        2 => (port.clone(), any_mode()).prop_map(|(p, mode)| Step::Mode(p, mode)),
        1 => (port.clone(), bridge.clone()).prop_map(|(p, b)| Step::Move(p, b)),
        1 => (port.clone(), prop::sample::select(vec![PortKind::Host, PortKind::Container]))
            .prop_map(|(p, kind)| Step::Kind(p, kind)),
        1 => (bridge.clone(), any::<bool>()).prop_map(|(b, on)| Step::Isolate(b, on)),
        1 => port.clone().prop_map(Step::Detach),
        1 => (port, bridge).prop_map(|(p, b)| Step::Replace(p, b)),
    ]
}

#[derive(Debug, Clone)]
struct Port {
    bridge: usize,
    mode: VlanMode,
    kind: PortKind,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    port: usize,
    pinned: bool,
    moves: u8,
    home: usize,
    held: bool,
}

#[derive(Debug)]
struct Reference {
    ports: Vec<Option<Port>>,
    isolated: [bool; BRIDGES],
    stations: [HashMap<(u8, u16), Entry>; BRIDGES],
}

impl Reference {
    fn new() -> Self {
        let port = Port { bridge: 0, mode: VlanMode::Transparent, kind: PortKind::Container };
        Self { ports: vec![Some(port); PORTS], isolated: [false; BRIDGES], stations: Default::default() }
    }

    /// The VLAN of a frame that comes in, if it may.
    fn classify(mode: &VlanMode, control: Option<u16>) -> Option<u16> {
        let vid = control.map_or(0, |control| control & 0xfff);
        match mode {
            VlanMode::Access(access) => (vid == 0).then_some(*access),
            VlanMode::Transparent => Some(vid),
            VlanMode::Trunk(set) => set.contains(vid).then_some(vid),
        }
    }

    /// The tag of a frame of `vlan` that goes out, if it may.
    fn dress(mode: &VlanMode, vlan: u16, control: Option<u16>) -> Option<Option<u16>> {
        let priority = control.unwrap_or(0) & 0xf000;
        let tagged = if vlan == 0 { control } else { Some(priority | vlan) };
        match mode {
            VlanMode::Access(access) => (*access == vlan).then_some(None),
            VlanMode::Transparent => Some(tagged),
            VlanMode::Trunk(set) => set.contains(vlan).then_some(tagged),
        }
    }

    /// Learns the source; whether the frame may go on.
    fn learn(&mut self, bridge: usize, source: u8, vlan: u16, port: usize) -> bool {
        let new = Entry { port, pinned: false, moves: 0, home: port, held: false };
        let entry = self.stations[bridge].entry((source, vlan)).or_insert(new);
        if entry.port == port {
            return true;
        }
        if entry.pinned || entry.held {
            return false;
        }
        entry.moves += 1;
        entry.held = entry.moves == FLAP_MOVES;
        entry.port = if entry.held { entry.home } else { port };
        !entry.held
    }

    /// Who gets a frame, and with which tag.
    fn forward(&mut self, from: usize, (destination, source, control): Short) -> Vec<(usize, Option<u16>)> {
        let Some(port) = self.ports[from].clone() else { return Vec::new() };
        let Some(vlan) = Self::classify(&port.mode, control) else { return Vec::new() };
        if !self.learn(port.bridge, source, vlan, from) {
            return Vec::new();
        }
        // An entry may name a port that is gone, or is on another bridge by now: then it is unknown.
        let known = self.stations[port.bridge].get(&(destination, vlan)).map(|entry| entry.port);
        let on_bridge = |at: usize| self.ports[at].as_ref().is_some_and(|other| other.bridge == port.bridge);
        let outputs: Vec<usize> = match known.filter(|&at| on_bridge(at)) {
            Some(at) => vec![at],
            None => (0..PORTS).filter(|&at| on_bridge(at)).collect(),
        };
        let mut got = Vec::new();
        for at in outputs.into_iter().filter(|&at| at != from) {
            let other = self.ports[at].as_ref().unwrap();
            let apart = port.kind == PortKind::Container && other.kind == PortKind::Container;
            if self.isolated[port.bridge] && apart {
                continue;
            }
            got.extend(Self::dress(&other.mode, vlan, control).map(|control| (at, control)));
        }
        got
    }
}

/// Does the same to both.
fn apply(step: &Step, lab: &mut Lab, reference: &mut Reference) {
    let id = |port: usize| PortId(port as u16);
    match *step {
        Step::Traffic(..) => {}
        Step::Flush(bridge, port) => {
            lab.topology.bridges[bridge].fdb.flush(port.map(id));
            reference.stations[bridge].retain(|_, e| e.pinned || port.is_some_and(|port| e.port != port));
        }
        Step::Remove(bridge, station, vlan) => {
            lab.topology.bridges[bridge].fdb.remove(address(station), vlan);
            reference.stations[bridge].retain(|&(s, v), _| s != station || vlan.is_some_and(|vlan| v != vlan));
        }
        Step::Pin(bridge, station, vlan, port) => {
            lab.topology.bridges[bridge].fdb.insert_static(address(station), vlan, id(port), 0);
            let entry = Entry { port, pinned: true, moves: 0, home: port, held: false };
            reference.stations[bridge].insert((station, vlan), entry);
        }
        Step::RemovePort(bridge, port) => {
            lab.topology.bridges[bridge].fdb.remove_port(id(port));
            reference.stations[bridge].retain(|_, entry| entry.port != port);
        }
        Step::Isolate(bridge, on) => {
            lab.configure(|topology| topology.bridges[bridge].icc = !on);
            reference.isolated[bridge] = on;
        }
        Step::Detach(port) => {
            lab.configure(|topology| topology.detach(id(port)));
            reference.ports[port] = None;
        }
        Step::Replace(port, bridge) => {
            lab.configure(|topology| topology.replace(id(port), bridge as u16, MemDevice::new(Caps::ALL)));
            reference.ports[port] = Some(Port { bridge, mode: VlanMode::Transparent, kind: PortKind::Container });
        }
        Step::Mode(port, _) | Step::Move(port, _) | Step::Kind(port, _) => {
            let Some(known) = &mut reference.ports[port] else { return };
            match step {
                Step::Mode(_, mode) => known.mode = mode.clone(),
                Step::Move(_, bridge) => known.bridge = *bridge,
                Step::Kind(_, kind) => known.kind = *kind,
                _ => unreachable!(),
            }
            let known = known.clone();
            lab.configure(|topology| {
                let entry = topology.port(id(port));
                (entry.vlan, entry.bridge, entry.kind) = (known.mode, BridgeId(known.bridge as u16), known.kind);
            });
        }
    }
}

/// Lets the history happen; the first difference, if there is one.
fn replay(history: &[Step], lab: &mut Lab) -> Option<String> {
    let mut reference = Reference::new();
    for (number, step) in history.iter().enumerate() {
        apply(step, lab, &mut reference);
        let Step::Traffic(from, frames) = step else { continue };
        if reference.ports[*from].is_none() {
            continue;
        }
        let mut expected = vec![Vec::new(); PORTS];
        for &frame in frames {
            for (to, control) in reference.forward(*from, frame) {
                expected[to].push(bytes_of((frame.0, frame.1, control)));
            }
        }
        lab.receive_as_one_burst(PortId(*from as u16), frames.iter().map(|&frame| bytes_of(frame)));
        for (to, expected) in expected.iter().enumerate() {
            let sent = lab.sent_bytes(PortId(to as u16));
            if sent != *expected {
                return Some(format!("step {number}, {step:?}: port {to} got {sent:x?} instead of {expected:x?}"));
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn the_datapath_does_what_a_switch_without_a_cache_does(
        history in prop::collection::vec(any_step(), 1..120),
    ) {
        let mut topology = Topology::new(BRIDGES as u16);
        for _ in 0..PORTS {
            topology.attach(0, MemDevice::new(Caps::ALL));
        }
        let mut lab = Lab::with_topology(topology, 256);
        let since = Instant::now();
        let difference = replay(&history, &mut lab);
        if since.elapsed() < Duration::from_secs(1) {
            prop_assert_eq!(difference, None);
        }
    }
}
