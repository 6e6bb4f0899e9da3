//! Workers, the sweep and purges, all at once.

use std::sync::atomic::AtomicBool;

use super::*;

const UDP: u8 = protocol::UDP;

/// Runs `worker` in two threads while `control` runs in this one.
fn beside(worker: impl Fn(usize) + Sync, control: impl FnOnce()) {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..2 {
            let (worker, is_done) = (&worker, &is_done);
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    worker(number);
                }
            });
        }
        control();
        is_done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_connection_that_is_refreshed_in_time_is_never_removed_unnoticed() {
    let world = World::with(ConntrackConfig { connections_max: 64, ..ConntrackConfig::default() });
    let clock = AtomicU32::new(START_S);
    let out = outbound(UDP, "172.17.0.2:5000", "198.51.100.7:53");
    let worker = |_| {
        let now_s = clock.load(Ordering::SeqCst);
        let Ok(found) = world.table.open_connection(&out, now_s) else { return };
        if world.table.track(&found, Segment::default(), now_s).cacheable {
            // It was there after it was refreshed, so it is there for as long as it lives.
            if clock.load(Ordering::SeqCst) < now_s + 300 {
                let found_again = world.table.find(&out.tuple, Place::Container);
                let is_there = found_again.is_some_and(|again| again.generation == found.generation);
                assert!(is_there || clock.load(Ordering::SeqCst) >= now_s + 300);
            }
        }
    };
    beside(worker, || {
        for _ in 0..20_000 {
            let now_s = clock.fetch_add(300, Ordering::SeqCst) + 300;
            world.table.sweep(now_s, 64);
        }
    });
}

#[test]
fn what_was_purged_is_found_under_no_later_epoch() {
    let world = World::with(ConntrackConfig { connections_max: 4096, ..ConntrackConfig::default() });
    let old: Vec<Found> =
        (1..=1000).map(|port| world.outbound(UDP, "172.17.0.2:5000", &format!("198.51.100.7:{port}"))).collect();
    let before = world.table.epoch();
    let worker = |number: usize| {
        for found in old.iter().skip(number).step_by(2) {
            let epoch = world.table.epoch();
            let again = world.table.find(&found.translated.reversed(), Place::Outside);
            assert!(again.is_none() || epoch == before);
        }
    };
    beside(worker, || {
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(world.table.purge_container(ip("172.17.0.2"), START_S), 1000);
        std::thread::sleep(std::time::Duration::from_millis(5));
    });
    assert_eq!(world.connections(), 0);
}

#[test]
fn counts_are_right_after_a_tumult() {
    let mut world = World::with(ConntrackConfig { connections_max: 512, ..ConntrackConfig::default() });
    world.ports.limit_to(40_000..40_064);
    let clock = AtomicU32::new(START_S);
    let worker = |number: usize| {
        for step in 0..200u16 {
            let now_s = clock.load(Ordering::Relaxed);
            let source = format!("172.17.0.{}:{}", 2 + (number as u16 + step) % 3, 5000 + step % 23);
            let new = outbound(UDP, &source, &format!("198.51.100.{}:{}", 1 + step % 5, 1 + step % 31));
            let Ok(found) = world.table.open_connection(&new, now_s) else { continue };
            let arrival = Arrival {
                tuple: Tuple { source_port: 7, ..found.translated.reversed() },
                from: Place::Outside,
                bridge: 0,
                segment: Segment::default(),
            };
            if let Admission::Admitted(other) = world.table.admit(&arrival, now_s) {
                world.table.track(&other, Segment::default(), now_s);
            }
        }
    };
    beside(worker, || {
        for step in 0..400 {
            let now_s = clock.fetch_add(37, Ordering::Relaxed);
            world.table.sweep(now_s, 100);
            if step % 20 == 0 {
                world.table.purge_container(ip("172.17.0.3"), now_s);
            }
        }
    });
    world.now_s = clock.load(Ordering::Relaxed);
    let list = world.table.list(&Filter::default(), 0);
    assert_eq!(list.len(), world.connections() as usize);
    let of: u32 = (2..5).map(|number| world.table.connections_of(ip(&format!("172.17.0.{number}")))).sum();
    assert_eq!(of, world.connections());
    world.pass(1000);
    world.pass(120);
    assert_eq!((world.connections(), world.table.counts().held, world.ports.taken()), (0, 0, 0));
}
