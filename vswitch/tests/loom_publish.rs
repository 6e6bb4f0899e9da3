//! The publication protocol under loom: every interleaving of a publisher and its readers.
//!
//! The source of `snapshot/publish.rs` is built here a second time, over loom's types.

#![allow(dead_code, unreachable_pub, missing_docs)]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use loom::sync::{Arc, Condvar, Mutex};
}

#[path = "../src/snapshot/publish.rs"]
mod publish;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use publish::Publisher;

/// A reader that adopts what it finds, `times` times, as a worker does between bursts.
fn reader(publisher: &Publisher<u64>, number: usize, times: usize) {
    let mut have = 0;
    for _ in 0..times {
        if publisher.generation() != have {
            let (value, generation) = publisher.load();
            assert_eq!(*value, generation, "value and generation always match");
            assert!(generation > have, "generations only grow");
            have = generation;
            publisher.acknowledge(number, generation);
        }
        thread::yield_now();
    }
}

#[test]
fn readers_see_matching_values_in_order() {
    loom::model(|| {
        let publisher = Arc::new(Publisher::new(1, 1));
        let worker = {
            let publisher = Arc::clone(&publisher);
            thread::spawn(move || reader(&publisher, 0, 2))
        };
        assert_eq!(publisher.publish(2), 2);
        assert_eq!(publisher.publish(3), 3);
        worker.join().unwrap();
    });
}

/// Removal: a device may be closed when `wait_seen` returns, because no reader uses it any more.
#[test]
fn nothing_is_used_after_it_was_seen_to_be_gone() {
    loom::model(|| {
        let publisher = Arc::new(Publisher::new(1u64, 1));
        let closed = Arc::new(AtomicBool::new(false));
        let worker = {
            let (publisher, closed) = (Arc::clone(&publisher), Arc::clone(&closed));
            thread::spawn(move || {
                let mut have = 0;
                while have < 2 {
                    if publisher.generation() != have {
                        have = publisher.load().1;
                        // Generation 1 has the device, generation 2 does not.
                        if have >= 2 {
                            publisher.acknowledge(0, have);
                            break;
                        }
                        publisher.acknowledge(0, have);
                    }
                    assert!(!closed.load(Ordering::Acquire), "used a closed device");
                    thread::yield_now();
                }
            })
        };
        let generation = publisher.publish(2);
        publisher.wait_seen(generation);
        closed.store(true, Ordering::Release);
        worker.join().unwrap();
    });
}

/// The rule of the flow cache: who reads the epoch first and then finds the generation unchanged
/// never tags a decision of the old configuration with the new epoch.
#[test]
fn no_old_decision_gets_a_new_epoch() {
    loom::model(|| {
        let publisher = Arc::new(Publisher::new(1u64, 1));
        let epoch = Arc::new(AtomicU64::new(1));
        let worker = {
            let (publisher, epoch) = (Arc::clone(&publisher), Arc::clone(&epoch));
            thread::spawn(move || {
                let (_, mut have) = publisher.load();
                let tagged = loop {
                    let tagged = epoch.load(Ordering::Acquire);
                    if publisher.generation() == have {
                        break tagged;
                    }
                    have = publisher.load().1;
                };
                assert!(have >= tagged, "decided with configuration {have} under epoch {tagged}");
            })
        };
        // The order of `Datapath::publish`.
        publisher.publish(2);
        epoch.store(2, Ordering::Release);
        worker.join().unwrap();
    });
}
