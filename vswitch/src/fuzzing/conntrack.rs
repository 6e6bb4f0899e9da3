//! The targets of the connection table: TCP's states, and files that anybody may have written.

use std::collections::HashSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::bpf::Flow;
use crate::nat::conntrack::state::{self, State};
use crate::nat::conntrack::{
    Conntrack, ConntrackConfig, FILE_HEADER_BYTES, Filter, Found, New, Segment, SourceNat, Storage,
};
use crate::nat::{ExternalPorts, Place, Tuple};
use crate::wire::protocol;

const NOW_S: u32 = 1_000_000;
const BOOT_ID: [u8; 16] = *b"this very boot..";
const SECRET: [u8; 16] = *b"a secret of ours";

/// Ports that are taken and released by turns.
#[derive(Debug, Default)]
struct Ports(Mutex<HashSet<(Flow, bool, u16)>>);

impl Ports {
    fn taken(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl ExternalPorts for Ports {
    fn is_free(&self, _flow: Flow, _ipv6: bool, port: u16) -> bool {
        port != 0
    }

    fn take(&self, flow: Flow, ipv6: bool, port: u16) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(port != 0 && taken.insert((flow, ipv6, port)), "{port} was taken before");
    }

    fn release(&self, flow: Flow, ipv6: bool, port: u16) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(taken.remove(&(flow, ipv6, port)), "{port} was not taken");
    }
}

fn open(storage: Storage) -> (Conntrack, Arc<Ports>, u32) {
    let ports = Arc::<Ports>::default();
    let config = ConntrackConfig { connections_max: 64, ..ConntrackConfig::default() };
    let (table, restored) = Conntrack::open(storage, config, Arc::clone(&ports) as _, SECRET, NOW_S).expect("memory");
    (table, ports, restored.connections)
}

fn outbound(number: u8, port: u16) -> New {
    let container = IpAddr::from([172, 17, 0, 2]);
    New {
        tuple: Tuple {
            protocol: number,
            source: container,
            source_port: port,
            destination: IpAddr::from([198, 51, 100, 7]),
            destination_port: 443,
        },
        origin: Place::Container,
        responder: Place::Outside,
        destination: None,
        source: SourceNat::External(IpAddr::from([192, 0, 2, 1])),
        container,
        bridge: 1,
        segment: Segment {
            tcp_flags: (number == protocol::TCP).then_some(state::SYN),
            sequence: Some(0),
            ..Segment::default()
        },
        hairpin: false,
    }
}

/// Segments of four bytes: seconds that pass and, in the highest bit, the direction; flags; the upper half of the
/// sequence number. A connection lives as long as the RFCs have it, and whoever goes on talking is not cut off.
pub fn conntrack_states(data: &[u8]) {
    let (table, _, _) = open(Storage::Memory);
    let mut now_s = NOW_S;
    let original = table.open_connection(&outbound(protocol::TCP, 5000), now_s).expect("there is room");
    let reply = table.find(&original.translated.reversed(), Place::Outside).expect("it was made");
    let (mut has_sent, mut has_closed, mut was_open) = ([true, false], false, false);
    let mut ends_s = now_s + 240;
    for segment in data.chunks_exact(4) {
        let (is_reply, flags) = (segment[0] & 0x80 != 0, segment[1]);
        now_s += u32::from(segment[0] & 0x7f);
        table.sweep(now_s, 64);
        let list = table.list(&Filter::default(), now_s);
        assert_eq!(list.is_empty(), now_s >= ends_s, "at {now_s}, and it ends at {ends_s}");
        let Some(before) = list.first() else { return };
        let found = if is_reply { reply } else { original };
        let sequence = Some(u32::from_be_bytes([segment[2], segment[3], 0, 0]));
        let tracked = table.track(&found, Segment { tcp_flags: Some(flags), sequence, ..Segment::default() }, now_s);
        let state = tracked.state.expect("it was there");
        assert_eq!(tracked.cacheable, state.is_cacheable());
        assert_eq!(State::from_number(state as u8), Some(state));

        let talks = flags & state::RST == 0 && flags & (state::SYN | state::ACK | state::FIN) != 0;
        has_sent[usize::from(is_reply)] |= talks;
        has_closed |= talks && flags & state::FIN != 0;
        was_open |= state.is_cacheable();
        assert!(!was_open || has_sent == [true; 2], "nobody is open alone");
        assert!(state != State::Closing || has_closed);
        let after = table.list(&Filter::default(), now_s)[0];
        assert_eq!(after.state, state);
        match after.timeout_s {
            timeout_s if state.is_cacheable() && talks => assert_eq!(timeout_s, 7440),
            timeout_s if state != before.state => assert!([240, 7440].contains(&timeout_s)),
            timeout_s if !talks => assert_eq!(timeout_s, before.timeout_s),
            timeout_s => assert!((1..=240).contains(&timeout_s)),
        }
        ends_s = now_s + after.timeout_s;
    }
    // Whatever was forged: endpoints that go on with an open connection go on.
    if was_open {
        let ends = [original, reply, original, reply, original];
        let acknowledge =
            |found: Found| table.track(&found, Segment { tcp_flags: Some(state::ACK), ..Segment::default() }, now_s);
        let state = ends.map(acknowledge)[4].state.expect("it is there");
        assert!(state.is_cacheable() || state == State::Closing, "{state:?}");
    }
}

/// The first byte is whether the rest replaces a file's slots, or the whole file: what is made of it is consistent, and
/// ends.
pub fn conntrack_restore(data: &[u8]) {
    let Some((&from_the_start, bytes)) = data.split_first() else { return };
    let file = File::from(memfd_create("conntrack", MemfdFlags::CLOEXEC).expect("memory"));
    let storage = || Storage::File { file: file.try_clone().expect("a descriptor"), boot_id: BOOT_ID };
    drop(open(storage()));
    let offset = if from_the_start & 1 == 1 { 0 } else { FILE_HEADER_BYTES as u64 };
    file.write_all_at(bytes, offset).expect("memory");

    let (table, ports, restored) = open(storage());
    let list = table.list(&Filter::default(), NOW_S);
    assert_eq!((list.len(), table.counts().connections), (restored as usize, restored));
    for one in &list {
        let there = table.find(&one.original, one.origin).expect("it is listed");
        assert_eq!(there.translated, one.reply.reversed());
        let back = table.find(&one.reply, one.responder).expect("it is listed");
        assert_eq!((back.translated, back.to), (one.original.reversed(), one.origin));
        table.track(&back, Segment { tcp_flags: Some(state::ACK), sequence: Some(1), ..Segment::default() }, NOW_S);
    }
    for port in 1..80 {
        // As far as there is room.
        let _ = table.open_connection(&outbound(protocol::UDP, port), NOW_S);
    }
    // The next process finds what this one has.
    let (next, _, again) = open(storage());
    assert_eq!((again, next.counts().held), (table.counts().connections, table.counts().held));
    assert_eq!(next.counts().mappings, table.counts().mappings);
    drop(next);
    table.sweep(u32::MAX, 64);
    table.sweep(u32::MAX, 64);
    assert_eq!((table.counts().connections, table.counts().held, ports.taken()), (0, 0, 0));
}
