//! The whole table against one that is slow and plain: lists that are searched from end to end.

use std::fs::File;

use proptest::prelude::*;

use super::persistence::copy_of;
use super::*;

const UDP: u8 = protocol::UDP;
const BOOT: [u8; 16] = *b"the only boot...";
const HOST_PORTS: std::ops::Range<u16> = 40_000..40_006;

#[derive(Debug, Clone)]
enum Action {
    /// A container sends to the outside.
    Out {
        container: u8,
        port: u16,
        remote: u8,
        remote_port: u16,
    },
    /// A client sends to a published port.
    In {
        remote: u8,
        remote_port: u16,
        service: u8,
    },
    /// Somebody outside sends to one of the external ports.
    Arrive {
        remote: u8,
        remote_port: u16,
        port: u16,
    },
    /// A packet of one of the connections.
    Touch {
        nth: usize,
        reply: bool,
        on_hit_path: bool,
    },
    Pass {
        seconds: u32,
    },
    PurgeContainer {
        container: u8,
    },
    PurgeService {
        service: u8,
    },
    Flush {
        bridge: u16,
    },
    /// The process is killed, and started again.
    Kill,
}

fn action() -> impl Strategy<Value = Action> {
    let (container, remote, remote_port) = (2..5u8, 1..4u8, 1..4u16);
    let out = (container.clone(), 5000..5003u16, remote.clone(), remote_port.clone());
    prop_oneof![
        8 => out.prop_map(|(container, port, remote, remote_port)| Action::Out { container, port, remote, remote_port }),
        4 => (remote.clone(), remote_port.clone(), 0..3u8)
            .prop_map(|(remote, remote_port, service)| Action::In { remote, remote_port, service }),
        6 => (remote, remote_port, HOST_PORTS)
            .prop_map(|(remote, remote_port, port)| Action::Arrive { remote, remote_port, port }),
        6 => (0..20usize, any::<bool>(), any::<bool>())
            .prop_map(|(nth, reply, on_hit_path)| Action::Touch { nth, reply, on_hit_path }),
        6 => (1..200u32).prop_map(|seconds| Action::Pass { seconds }),
        1 => container.prop_map(|container| Action::PurgeContainer { container }),
        1 => (0..3u8).prop_map(|service| Action::PurgeService { service }),
        1 => (0..6u16).prop_map(|bridge| Action::Flush { bridge }),
        2 => Just(Action::Kill),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct One {
    original: Tuple,
    reply: Tuple,
    origin: Place,
    responder: Place,
    container: IpAddr,
    bridge: u16,
    since_s: u32,
    is_answered: bool,
    seen_s: u32,
    /// The external port that it uses; none if it came to a published one.
    port: Option<u16>,
}

impl One {
    /// RFC 4787 REQ-5 for mappings; a published port's connection is short until it goes on.
    fn ends_s(&self) -> u32 {
        let is_query = self.port.is_none() && self.seen_s <= self.since_s + 1;
        self.seen_s + if is_query { 30 } else { 300 }
    }
}

/// An external port that somebody has, or had.
#[derive(Debug, Clone, PartialEq)]
struct Port {
    owner: Option<(IpAddr, u16)>,
    port: u16,
    held_until_s: Option<u32>,
}

#[derive(Debug, Default)]
struct Model {
    ones: Vec<One>,
    ports: Vec<Port>,
    now_s: u32,
}

const PER_CONTAINER: usize = 8;

impl Model {
    fn is_full(&self, container: IpAddr) -> bool {
        self.ones.iter().filter(|one| one.container == container).count() >= PER_CONTAINER
    }

    /// Whether a connection may give way to another one of its container.
    fn may_go(&self, one: &One, container: IpAddr) -> bool {
        one.container == container && one.port.is_none() && !one.is_answered && one.seen_s + 12 <= self.now_s
    }

    /// Whether the container may have no more connections, whatever gives way.
    fn is_refused(&self, container: IpAddr) -> bool {
        self.is_full(container) && !self.ones.iter().any(|one| self.may_go(one, container))
    }

    /// Learns from the table which of a container's connections gave way to another one, if one had to.
    fn evict(&mut self, container: IpAddr, table: &Conntrack) {
        if self.is_full(container) {
            let is_gone = |one: &One| self.may_go(one, container) && table.find(&one.original, one.origin).is_none();
            let gone: Vec<One> = self.ones.iter().filter(|one| is_gone(one)).cloned().collect();
            assert_eq!(gone.len(), 1);
            self.ones.retain(|one| *one != gone[0]);
        }
    }

    /// Removes connections, and holds the ports that nobody uses any more.
    fn remove(&mut self, is_gone: impl Fn(&One) -> bool) -> usize {
        let before = self.ones.len();
        self.ones.retain(|one| !is_gone(one));
        for port in &mut self.ports {
            if port.held_until_s.is_none() && self.ones.iter().all(|one| one.port != Some(port.port)) {
                port.held_until_s = Some(self.now_s + 120);
            }
        }
        before - self.ones.len()
    }

    fn pass(&mut self, seconds: u32) {
        self.now_s += seconds;
        let now_s = self.now_s;
        self.remove(|one| one.ends_s() <= now_s);
        self.ports.retain(|port| port.held_until_s.is_none_or(|until_s| until_s > now_s));
    }

    /// What a mapping of `owner` may be: its own port, or one that nobody has.
    fn may_map(&self, owner: (IpAddr, u16)) -> Vec<u16> {
        match self.ports.iter().find(|port| port.owner == Some(owner)) {
            Some(own) => vec![own.port],
            None => HOST_PORTS.filter(|&port| self.ports.iter().all(|one| one.port != port)).collect(),
        }
    }

    fn map(&mut self, owner: (IpAddr, u16), port: u16) {
        self.ports.retain(|one| one.port != port);
        self.ports.push(Port { owner: Some(owner), port, held_until_s: None });
    }
}

struct Run {
    file: File,
    world: World,
    model: Model,
}

fn reopen(file: &File, now_s: u32) -> (World, Restored) {
    let ports = Arc::new(HostPorts::default());
    ports.limit_to(HOST_PORTS);
    let storage = Storage::File { file: file.try_clone().unwrap(), boot_id: BOOT };
    let config =
        ConntrackConfig { connections_max: 256, per_container_max: PER_CONTAINER as u32, ..ConntrackConfig::default() };
    let (table, restored) = Conntrack::open(storage, config, ports.clone(), SECRET, now_s).unwrap();
    (World { table, ports, now_s }, restored)
}

impl Run {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        let (world, _) = reopen(&file, START_S);
        Self { file, world, model: Model { now_s: START_S, ..Model::default() } }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Out { container, port, remote, remote_port } => self.out(container, port, remote, remote_port),
            Action::In { remote, remote_port, service } => self.come_in(remote, remote_port, service),
            Action::Arrive { remote, remote_port, port } => self.arrive(remote, remote_port, port),
            Action::Touch { nth, reply, on_hit_path } => self.touch(nth, reply, on_hit_path),
            Action::Pass { seconds } => {
                self.world.pass(seconds);
                self.model.pass(seconds);
            }
            Action::PurgeContainer { container } => {
                let address = ip(&format!("172.17.0.{container}"));
                let purged = self.world.table.purge_container(address, self.world.now_s);
                let is_end = |one: &One| [one.original.source, one.reply.source].contains(&address);
                assert_eq!(purged, self.model.remove(is_end));
                let of = |port: &&mut Port| port.owner.is_some_and(|owner| owner.0 == address);
                self.model.ports.iter_mut().filter(of).for_each(|port| port.owner = None);
            }
            Action::PurgeService { service } => {
                let port = 8080 + u16::from(service);
                let purged = self.world.table.purge_service(UDP, Some(ip(EXTERNAL)), port, port, self.world.now_s);
                assert_eq!(purged, self.model.remove(|one| one.original.destination_port == port));
            }
            Action::Flush { bridge } => {
                let purged = self.world.table.flush(Some(bridge), self.world.now_s);
                assert_eq!(purged, self.model.remove(|one| one.bridge == bridge));
            }
            Action::Kill => {
                let file = copy_of(&self.file);
                let (world, restored) = reopen(&file, self.world.now_s);
                let connections = self.model.ones.len() as u32;
                assert_eq!(restored, Restored { connections, ..Restored::default() });
                (self.file, self.world) = (file, world);
            }
        }
        self.check();
    }

    fn out(&mut self, container: u8, port: u16, remote: u8, remote_port: u16) {
        let source = format!("172.17.0.{container}:{port}");
        let bridge = u16::from(container);
        let new = New { bridge, ..outbound(UDP, &source, &format!("198.51.100.{remote}:{remote_port}")) };
        let owner = (new.tuple.source, port);
        let known = self.model.ones.iter().any(|one| [one.original, one.reply].contains(&new.tuple));
        let outcome = self.world.table.open_connection(&new, self.world.now_s);
        if known {
            assert!(outcome.is_ok());
            return;
        }
        let may = self.model.may_map(owner);
        match outcome {
            Err(Refusal::ContainerLimit) => assert!(self.model.is_refused(new.container)),
            Err(refusal) => {
                // Room was made for it before it was found to have no port.
                self.model.evict(new.container, &self.world.table);
                assert_eq!((refusal, may), (Refusal::PortsExhausted, vec![]));
            }
            Ok(found) => {
                let port = found.translated.source_port;
                self.model.evict(new.container, &self.world.table);
                assert!(may.contains(&port));
                let reply = found.translated.reversed();
                assert_eq!(reply, Tuple { destination: ip(EXTERNAL), destination_port: port, ..new.tuple.reversed() });
                self.model.map(owner, port);
                self.add(&new, reply, Some(port));
            }
        }
    }

    fn come_in(&mut self, remote: u8, remote_port: u16, service: u8) {
        let (client, port) = (format!("198.51.100.{remote}:{remote_port}"), 8080 + u16::from(service));
        let target = format!("172.17.0.{}:{port}", 2 + service);
        let new =
            New { bridge: 2 + u16::from(service), ..published(UDP, &client, &format!("{EXTERNAL}:{port}"), &target) };
        let known = self.model.ones.iter().any(|one| one.original == new.tuple);
        match self.world.table.open_connection(&new, self.world.now_s) {
            Err(refusal) => assert!(refusal == Refusal::ContainerLimit && self.model.is_refused(new.container)),
            Ok(found) if known => assert_eq!(found.translated, tuple(UDP, &client, &target)),
            Ok(found) => {
                self.model.evict(new.container, &self.world.table);
                self.add(&new, found.translated.reversed(), None);
            }
        }
    }

    fn arrive(&mut self, remote: u8, remote_port: u16, port: u16) {
        let arrived = tuple(UDP, &format!("198.51.100.{remote}:{remote_port}"), &format!("{EXTERNAL}:{port}"));
        let known = self.model.ones.iter().any(|one| [one.original, one.reply].contains(&arrived));
        let mapping = self.model.ports.iter().find(|one| one.port == port && one.held_until_s.is_none()).cloned();
        let arrival = Arrival { tuple: arrived, from: Place::Outside, bridge: 0, segment: Segment::default() };
        let has_sent = |one: &One| {
            one.port == Some(port) && [one.original.source, one.original.destination].contains(&arrived.source)
        };
        let may = self.model.ones.iter().any(has_sent);
        let admission = self.world.table.admit(&arrival, self.world.now_s);
        let Some(owner) = mapping.and_then(|mapping| mapping.owner) else {
            assert_eq!(admission, Admission::NoMapping);
            return;
        };
        match admission {
            Admission::Admitted(_) if known => {}
            Admission::Filtered => assert!(!may),
            Admission::Refused(refusal) => {
                assert!(may && refusal == Refusal::ContainerLimit && self.model.is_refused(owner.0));
            }
            Admission::Admitted(found) => {
                self.model.evict(owner.0, &self.world.table);
                assert!(may);
                let inside = Tuple { destination: owner.0, destination_port: owner.1, ..arrived };
                assert_eq!(found.translated, inside);
                let IpAddr::V4(address) = owner.0 else { panic!() };
                let one = One {
                    original: arrived,
                    reply: inside.reversed(),
                    origin: Place::Outside,
                    responder: Place::Container,
                    container: owner.0,
                    bridge: address.octets()[3].into(),
                    since_s: self.model.now_s,
                    is_answered: false,
                    seen_s: self.model.now_s,
                    port: Some(port),
                };
                self.model.ones.push(one);
            }
            Admission::NoMapping => panic!("{owner:?} has it"),
        }
    }

    fn add(&mut self, new: &New, reply: Tuple, port: Option<u16>) {
        let New { tuple: original, origin, responder, container, bridge, .. } = *new;
        let (since_s, seen_s, is_answered) = (self.model.now_s, self.model.now_s, false);
        let one = One { original, reply, origin, responder, container, bridge, since_s, is_answered, seen_s, port };
        self.model.ones.push(one);
    }

    fn touch(&mut self, nth: usize, reply: bool, on_hit_path: bool) {
        let count = self.model.ones.len();
        let Some(one) = self.model.ones.get_mut(nth % count.max(1)) else { return };
        let (tuple, place) = if reply { (one.reply, one.responder) } else { (one.original, one.origin) };
        let found = self.world.table.find(&tuple, place).unwrap();
        if on_hit_path {
            self.world.table.touch(found.index, self.world.now_s);
        } else {
            assert!(self.world.table.track(&found, Segment::default(), self.world.now_s).cacheable);
        }
        one.seen_s = self.model.now_s;
        if reply && !on_hit_path && !one.is_answered {
            (one.is_answered, one.since_s) = (true, self.model.now_s);
        }
    }

    fn check(&self) {
        let World { table, ports, now_s } = &self.world;
        let shown = |one: &Connection| {
            (one.original, one.reply, one.origin as u8, one.responder as u8, one.container, one.bridge, one.timeout_s)
        };
        let expected = |one: &One| {
            let timeout_s = one.ends_s() - now_s;
            (one.original, one.reply, one.origin as u8, one.responder as u8, one.container, one.bridge, timeout_s)
        };
        let mut listed: Vec<_> = table.list(&Filter::default(), *now_s).iter().map(shown).collect();
        let mut model: Vec<_> = self.model.ones.iter().map(expected).collect();
        listed.sort_unstable();
        model.sort_unstable();
        assert_eq!(listed, model);
        for one in &self.model.ones {
            // Translated and translated back is what it was.
            let there = table.find(&one.original, one.origin).unwrap();
            let back = table.find(&there.translated.reversed(), there.to).unwrap();
            assert_eq!((back.translated.reversed(), back.to), (one.original, one.origin));
        }
        let held = self.model.ports.iter().filter(|port| port.held_until_s.is_some()).count() as u32;
        let counts = table.counts();
        assert_eq!((counts.connections, counts.held), (self.model.ones.len() as u32, held));
        assert_eq!(counts.mappings, self.model.ports.len() as u32 - held);
        let taken: BTreeSet<u16> = ports.taken.lock().unwrap().iter().map(|(_, _, port)| *port).collect();
        assert_eq!(taken, self.model.ports.iter().map(|port| port.port).collect());
        for container in (2..5).map(|number| ip(&format!("172.17.0.{number}"))) {
            let count = self.model.ones.iter().filter(|one| one.container == container).count();
            assert_eq!(table.connections_of(container), count as u32);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn the_table_is_as_the_model_has_it(actions in proptest::collection::vec(action(), 1..120)) {
        let mut run = Run::new();
        for action in &actions {
            run.act(action);
        }
    }
}
