//! A host with two containers' worth of addresses, and a clock that only tests move.

mod concurrency;
mod kill;
mod limits;
mod model;
mod persistence;
mod purge;
mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc7857;
mod state_model;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::*;
use crate::nat::ExternalPorts;

/// The host's address.
const EXTERNAL: &str = "192.0.2.1";
const GATEWAY: &str = "172.17.0.1";
const START_S: u32 = 1_000_000;
const SECRET: [u8; 16] = *b"a secret of ours";

const SYN: u8 = state::SYN;
const SYN_ACK: u8 = state::SYN | state::ACK;
const ACK: u8 = state::ACK;
const FIN_ACK: u8 = state::FIN | state::ACK;
const RST: u8 = state::RST;

/// The host's ports. Whatever is taken twice, or released without having been taken, fails the test.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    /// Of the host's own programs.
    busy: Mutex<BTreeSet<(Flow, u16)>>,
    /// Only these exist, if there are any.
    only: Mutex<BTreeSet<u16>>,
    taken: Mutex<BTreeSet<(Flow, bool, u16)>>,
}

impl ExternalPorts for HostPorts {
    fn is_free(&self, flow: Flow, _ipv6: bool, port: u16) -> bool {
        let only = self.only.lock().unwrap();
        (only.is_empty() || only.contains(&port)) && !self.busy.lock().unwrap().contains(&(flow, port))
    }

    fn take(&self, flow: Flow, ipv6: bool, port: u16) {
        assert!(self.is_free(flow, ipv6, port), "{port} is the host's");
        assert!(self.taken.lock().unwrap().insert((flow, ipv6, port)), "{port} was taken before");
    }

    fn release(&self, flow: Flow, ipv6: bool, port: u16) {
        assert!(self.taken.lock().unwrap().remove(&(flow, ipv6, port)), "{port} was not taken");
    }
}

impl HostPorts {
    fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    fn limit_to(&self, ports: impl IntoIterator<Item = u16>) {
        *self.only.lock().unwrap() = ports.into_iter().collect();
    }
}

/// A table and what is around it.
struct World {
    table: Conntrack,
    ports: Arc<HostPorts>,
    now_s: u32,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tuple(number: u8, source: &str, destination: &str) -> Tuple {
    let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    Tuple {
        protocol: number,
        source: source.ip(),
        source_port: source.port(),
        destination: destination.ip(),
        destination_port: destination.port(),
    }
}

fn flags(tcp_flags: u8) -> Segment {
    Segment { tcp_flags: Some(tcp_flags), ..Segment::default() }
}

/// The first segment of a connection of this protocol.
fn opening(number: u8) -> Segment {
    if number == protocol::TCP { flags(SYN) } else { Segment::default() }
}

/// A container's connection to the outside.
fn outbound(number: u8, source: &str, destination: &str) -> New {
    let tuple = tuple(number, source, destination);
    let external = if tuple.source.is_ipv4() { ip(EXTERNAL) } else { ip("2001:db8::1") };
    New {
        tuple,
        origin: Place::Container,
        responder: Place::Outside,
        destination: None,
        source: SourceNat::External(external),
        container: tuple.source,
        bridge: 1,
        segment: opening(number),
        hairpin: false,
    }
}

/// A client's connection from outside to a published port of the host.
fn published(number: u8, source: &str, host: &str, target: &str) -> New {
    let target: SocketAddr = target.parse().unwrap();
    New {
        tuple: tuple(number, source, host),
        origin: Place::Outside,
        responder: Place::Container,
        destination: Some((target.ip(), target.port())),
        source: SourceNat::Keep,
        container: target.ip(),
        bridge: 1,
        segment: opening(number),
        hairpin: false,
    }
}

impl World {
    fn new() -> Self {
        Self::with(ConntrackConfig { connections_max: 4096, ..ConntrackConfig::default() })
    }

    fn with(config: ConntrackConfig) -> Self {
        let ports = Arc::new(HostPorts::default());
        let (table, restored) = Conntrack::open(Storage::Memory, config, ports.clone(), SECRET, START_S).unwrap();
        assert_eq!(restored, Restored::default());
        Self { table, ports, now_s: START_S }
    }

    fn open(&self, new: &New) -> Found {
        self.table.open_connection(new, self.now_s).unwrap()
    }

    fn outbound(&self, number: u8, source: &str, destination: &str) -> Found {
        self.open(&outbound(number, source, destination))
    }

    /// A packet from outside, as the router handles it.
    fn arrives(&self, number: u8, source: &str, destination: &str) -> Admission {
        self.arrives_with(opening(number), number, source, destination)
    }

    fn arrives_with(&self, segment: Segment, number: u8, source: &str, destination: &str) -> Admission {
        let tuple = tuple(number, source, destination);
        match self.table.find(&tuple, Place::Outside) {
            Some(found) => {
                self.table.track(&found, segment, self.now_s);
                Admission::Admitted(found)
            }
            None => {
                let arrival = Arrival { tuple, from: Place::Outside, bridge: 0, segment };
                self.table.admit(&arrival, self.now_s)
            }
        }
    }

    /// A packet of a container to a neighbour's external endpoint.
    fn hairpins(&self, bridge: u16, number: u8, source: &str, destination: &str) -> Admission {
        let (tuple, segment) = (tuple(number, source, destination), opening(number));
        match self.table.find(&tuple, Place::Container) {
            Some(found) => {
                self.table.track(&found, segment, self.now_s);
                Admission::Admitted(found)
            }
            None => {
                let arrival = Arrival { tuple, from: Place::Container, bridge, segment };
                self.table.admit(&arrival, self.now_s)
            }
        }
    }

    /// Time passes, and the sweep with it.
    fn pass(&mut self, seconds: u32) {
        self.now_s += seconds;
        self.table.sweep(self.now_s, usize::MAX);
    }

    fn connections(&self) -> u32 {
        self.table.counts().connections
    }

    /// Walks a TCP connection through its handshake and returns both directions.
    fn establish(&self, new: &New) -> [Found; 2] {
        let original = self.open(new);
        let reply = self.table.find(&original.translated.reversed(), new.responder).unwrap();
        self.table.track(&reply, flags(SYN_ACK), self.now_s);
        assert!(self.table.track(&original, flags(ACK), self.now_s).cacheable);
        [original, reply]
    }

    fn state(&self, found: &Found) -> Option<State> {
        let of =
            |connection: &Connection| [connection.original, connection.reply].contains(&found.translated.reversed());
        self.table.list(&Filter::default(), self.now_s).iter().find(|one| of(one)).map(|one| one.state)
    }
}

/// Host and port of an endpoint that a connection was given.
fn external(found: &Found) -> String {
    SocketAddr::new(found.translated.source, found.translated.source_port).to_string()
}
