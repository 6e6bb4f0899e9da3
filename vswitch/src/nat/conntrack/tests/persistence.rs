//! A process that is killed leaves its connections to the next one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;
const BOOT: [u8; 16] = *b"the first boot..";
const CONFIG: fn() -> ConntrackConfig = || ConntrackConfig { connections_max: 256, ..ConntrackConfig::default() };

fn open_file(file: &File, boot_id: [u8; 16], now_s: u32) -> (World, Restored) {
    let ports = Arc::new(HostPorts::default());
    let storage = Storage::File { file: file.try_clone().unwrap(), boot_id };
    let (table, restored) = Conntrack::open(storage, CONFIG(), ports.clone(), SECRET, now_s).unwrap();
    (World { table, ports, now_s }, restored)
}

/// What is in the file at this instant, as a process that is killed now leaves it.
pub(super) fn copy_of(file: &File) -> File {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let copy = tempfile::tempfile().unwrap();
    copy.write_all_at(&bytes, 0).unwrap();
    copy
}

/// Something of each kind.
fn populate(world: &World) {
    world.establish(&outbound(TCP, "172.17.0.2:5000", "198.51.100.7:443"));
    world.establish(&published(TCP, "198.51.100.7:4000", "192.0.2.1:8080", "172.17.0.2:80"));
    // With a changed source port.
    world.open(&published(TCP, "198.51.100.7:4000", "192.0.2.1:8081", "172.17.0.2:80"));
    world.outbound(UDP, "[fd00::2]:5000", "[2001:db8:7::7]:53");
    world.outbound(protocol::ICMP, "172.17.0.2:7", "198.51.100.7:0");
    world.outbound(47, "172.17.0.2:0", "198.51.100.7:0");
    let found = world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53");
    world.arrives(UDP, "198.51.100.7:54", &external(&found));
    let other = world.outbound(UDP, "172.17.0.4:5000", "198.51.100.7:53");
    world.hairpins(1, UDP, "172.17.0.3:5000", &external(&other));
    world.hairpins(1, UDP, "172.17.0.4:5000", &external(&found));
}

fn sorted(world: &World) -> Vec<String> {
    let mut list: Vec<_> =
        world.table.list(&Filter::default(), world.now_s).iter().map(|one| format!("{one:?}")).collect();
    list.sort();
    list
}

#[test]
fn everything_survives_a_kill() {
    let file = tempfile::tempfile().unwrap();
    let (world, restored) = open_file(&file, BOOT, START_S);
    assert_eq!(restored, Restored::default());
    populate(&world);
    let connections = world.connections();
    assert_eq!(connections, 10);
    let (next, restored) = open_file(&copy_of(&file), BOOT, START_S);
    assert_eq!(restored, Restored { connections, ..Restored::default() });
    assert_eq!(sorted(&next), sorted(&world));
    assert_eq!(next.table.counts(), world.table.counts());
    assert_eq!(*next.ports.taken.lock().unwrap(), *world.ports.taken.lock().unwrap());
    assert_eq!(next.table.connections_of(ip("172.17.0.2")), world.table.connections_of(ip("172.17.0.2")));
    // And it goes on: translated as before, with the mappings of before, and filtered as before.
    let established = next.table.find(&tuple(TCP, "172.17.0.2:5000", "198.51.100.7:443"), Place::Container).unwrap();
    assert!(established.cacheable);
    let again = next.outbound(TCP, "172.17.0.2:5000", "198.51.100.8:443");
    assert_eq!(external(&again), external(&established));
    assert_eq!(next.arrives(TCP, "198.51.100.9:443", &external(&established)), Admission::Filtered);
    let hairpins = Arc::new(AtomicU32::new(0));
    next.table.share_hairpins(ip("172.17.0.3"), Some(hairpins.clone()));
    assert_eq!(hairpins.load(Ordering::Relaxed), 1);
}

#[test]
fn times_go_on_over_a_restart() {
    let file = tempfile::tempfile().unwrap();
    let (world, _) = open_file(&file, BOOT, START_S);
    populate(&world);
    let (next, restored) = open_file(&copy_of(&file), BOOT, START_S + 300);
    assert_eq!((restored.connections, restored.expired, restored.discarded), (3, 7, 0));
    assert_eq!(next.table.list(&Filter { protocol: Some(TCP), ..Filter::default() }, START_S + 300)[0].timeout_s, 7140);
    assert_eq!(next.ports.taken(), 1);
}

#[test]
fn times_of_another_boot_mean_nothing() {
    let file = tempfile::tempfile().unwrap();
    populate(&open_file(&file, BOOT, START_S).0);
    let (next, restored) = open_file(&copy_of(&file), *b"the second boot.", 5);
    assert_eq!((restored, next.connections()), (Restored::default(), 0));
}

#[test]
fn a_held_port_is_held_over_a_restart() {
    let file = tempfile::tempfile().unwrap();
    let (mut world, _) = open_file(&file, BOOT, START_S);
    let found = world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    world.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53");
    world.pass(300);
    world.table.purge_container(ip("172.17.0.3"), world.now_s);
    assert_eq!(world.table.counts().held, 2);
    let (mut next, restored) = open_file(&copy_of(&file), BOOT, world.now_s + 60);
    assert_eq!(restored, Restored::default());
    assert_eq!((next.table.counts().held, next.ports.taken()), (2, 2));
    // Whose it is gets it back, unless he is somebody else by now.
    assert_eq!(external(&next.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53")), external(&found));
    next.outbound(UDP, "172.17.0.3:5000", "198.51.100.7:53");
    assert_eq!((next.table.counts().held, next.ports.taken()), (1, 3));
    next.pass(60);
    assert_eq!((next.table.counts().held, next.ports.taken()), (0, 2));
}

#[test]
fn a_port_that_the_host_has_taken_meanwhile_is_its_own() {
    let file = tempfile::tempfile().unwrap();
    let (world, _) = open_file(&file, BOOT, START_S);
    let found = world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    let ports = Arc::new(HostPorts::default());
    ports.busy.lock().unwrap().insert((Flow::Udp, found.translated.source_port));
    let storage = Storage::File { file: copy_of(&file), boot_id: BOOT };
    let (_, restored) = Conntrack::open(storage, CONFIG(), ports, SECRET, START_S).unwrap();
    assert_eq!(restored, Restored { discarded: 1, ..Restored::default() });
}

#[test]
fn a_table_of_another_size_keeps_what_has_room() {
    let file = tempfile::tempfile().unwrap();
    let (world, _) = open_file(&file, BOOT, START_S);
    for port in 1..=100 {
        world.outbound(UDP, "172.17.0.2:5000", &format!("198.51.100.7:{port}"));
    }
    for (connections_max, expected) in [(512, 100), (50, 50)] {
        let storage = Storage::File { file: copy_of(&file), boot_id: BOOT };
        let config = ConntrackConfig { connections_max, ..CONFIG() };
        let (_, restored) = Conntrack::open(storage, config, Arc::new(HostPorts::default()), SECRET, START_S).unwrap();
        assert_eq!(restored.connections, expected);
    }
}

#[test]
fn entries_that_contradict_one_another_are_discarded() {
    let file = tempfile::tempfile().unwrap();
    let (world, _) = open_file(&file, BOOT, START_S);
    world.outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    let slot = |at: u64| slab::HEADER_BYTES as u64 + at * slab::SLOT_BYTES as u64;
    let mut bytes = [0; slab::SLOT_BYTES];
    let copy = copy_of(&file);
    copy.read_exact_at(&mut bytes, slot(0)).unwrap();
    for at in [1, 7, 200] {
        copy.write_all_at(&bytes, slot(at)).unwrap();
    }
    // Another container that claims the same external port: the word with the first address is the sixth.
    bytes[48] ^= 1;
    copy.write_all_at(&bytes, slot(3)).unwrap();
    let (next, restored) = open_file(&copy, BOOT, START_S);
    assert_eq!(restored, Restored { connections: 1, discarded: 4, ..Restored::default() });
    assert_eq!((next.connections(), next.table.counts().mappings, next.ports.taken()), (1, 1, 1));
    // The slots are of use again.
    for port in 1..=255 {
        next.outbound(UDP, "172.17.0.2:5001", &format!("198.51.100.7:{port}"));
    }
}

#[test]
fn an_idle_tables_file_takes_no_room() {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile::tempfile().unwrap();
    let storage = Storage::File { file: file.try_clone().unwrap(), boot_id: BOOT };
    let config = ConntrackConfig::default();
    let (_table, _) = Conntrack::open(storage, config, Arc::new(HostPorts::default()), SECRET, START_S).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 <= 64 << 10);
    assert!(file.metadata().unwrap().len() > 128 << 20);
}

/// Whatever is in the file: no panic, and what is restored is consistent.
fn check_arbitrary(file: &File) {
    let (mut world, restored) = open_file(file, BOOT, START_S);
    assert_eq!(world.connections(), restored.connections);
    let list = world.table.list(&Filter::default(), START_S);
    assert_eq!(list.len(), restored.connections as usize);
    for one in list {
        let found = world.table.find(&one.original, one.origin).unwrap();
        assert_eq!(found.translated, one.reply.reversed());
        let back = world.table.find(&one.reply, one.responder).unwrap();
        assert_eq!(back.translated, one.original.reversed());
    }
    for port in 1..=40 {
        let new = outbound(UDP, &format!("172.17.0.2:{port}"), "198.51.100.7:53");
        let _ = world.table.open_connection(&new, world.now_s);
    }
    world.pass(1 << 20);
    world.pass(120);
    assert_eq!((world.connections(), world.table.counts().held, world.ports.taken()), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn damage_never_panics(damage in proptest::collection::vec((0..13 * 128u64, any::<u8>()), 1..40)) {
        let file = tempfile::tempfile().unwrap();
        populate(&open_file(&file, BOOT, START_S).0);
        let copy = copy_of(&file);
        for (at, byte) in damage {
            copy.write_all_at(&[byte], slab::HEADER_BYTES as u64 + at).unwrap();
        }
        check_arbitrary(&copy);
    }

    #[test]
    fn half_written_slots_never_panic(cut in 0..12 * 128u64, seed in any::<u64>()) {
        let file = tempfile::tempfile().unwrap();
        populate(&open_file(&file, BOOT, START_S).0);
        let copy = copy_of(&file);
        let noise: Vec<u8> = (0..256u64).map(|at| (seed.wrapping_mul(at | 1) >> 13) as u8).collect();
        copy.write_all_at(&noise, slab::HEADER_BYTES as u64 + cut).unwrap();
        check_arbitrary(&copy);
    }
}
