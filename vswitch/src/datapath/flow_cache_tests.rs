//! The cache against a map: it may forget, it must never lie.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::datapath::flow::{TagOp, Verdict};
use crate::frame::Pool;
use crate::snapshot::PortId;

fn key(number: u32, port: u16) -> FlowKey {
    let mut pool = Pool::new(1).unwrap();
    let mut frame = pool.alloc().unwrap();
    let mut bytes = [0; 14];
    bytes[2..6].copy_from_slice(&number.to_be_bytes());
    bytes[6] = 2;
    frame.copy_from(&bytes);
    let key = FlowKey::parse(&mut frame, PortId(port)).unwrap();
    pool.free(frame);
    key
}

fn hit(port: u16) -> Hit {
    Hit { actions: Actions::pack(Verdict::Forward(PortId(port), TagOp::Keep)), stamp: u32::from(port) }
}

#[test]
fn a_changed_epoch_kills_every_entry() {
    let mut cache = FlowCache::new(1);
    let key = key(7, 1);
    let hash = cache.hash(key);
    assert_eq!(cache.lookup(hash, key, 5), None);
    cache.insert(hash, key, 5, hit(3));
    assert_eq!(cache.lookup(hash, key, 5), Some(hit(3)));
    assert_eq!(cache.lookup(hash, key, 6), None);
    cache.insert(hash, key, 6, hit(4));
    assert_eq!(cache.lookup(hash, key, 6), Some(hit(4)));
    assert_eq!(cache.lookup(hash, key, 5), None);
}

/// How many of `keys` a cache still has after it was told of all of them.
fn kept(seed: u64, keys: &[FlowKey]) -> usize {
    let mut cache = FlowCache::new(seed);
    for &key in keys {
        cache.insert(cache.hash(key), key, 1, hit(1));
    }
    keys.iter().filter(|&&key| cache.lookup(cache.hash(key), key, 1).is_some()).count()
}

#[test]
fn numbered_addresses_spread_under_every_seed() {
    let keys: Vec<FlowKey> = (0..10_000).map(|number| key(number, 1)).collect();
    for seed in 0..100u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let kept = kept(seed, &keys);
        assert!(kept > 9_950, "{kept} of 10000 with seed {seed:#x}");
    }
}

#[test]
fn a_hundred_thousand_flows_mostly_stay() {
    let keys: Vec<FlowKey> = (0..100_000).map(|number| key(number, 1)).collect();
    let kept = kept(2, &keys);
    assert!(kept > 97_000, "{kept}");
}

proptest! {
    #[test]
    fn what_is_found_is_what_was_last_said(
        steps in prop::collection::vec((0u32..40, 0u16..3, 1u64..4, 0u16..9, any::<bool>()), 1..400)
    ) {
        let mut cache = FlowCache::new(3);
        let mut said = HashMap::new();
        for (number, port, epoch, answer, insert) in steps {
            let key = key(number, port);
            let hash = cache.hash(key);
            if insert {
                cache.insert(hash, key, epoch, hit(answer));
                said.insert((number, port), (epoch, answer));
            }
            if let Some(found) = cache.lookup(hash, key, epoch) {
                let &(said_epoch, said_answer) = said.get(&(number, port)).expect("never said");
                // An older answer of another epoch may live on in the other way, for that epoch.
                if said_epoch == epoch {
                    prop_assert_eq!(found, hit(said_answer));
                }
            }
        }
    }
}
