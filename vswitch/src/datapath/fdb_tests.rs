//! The forwarding database: the rules one by one, then random histories against a simple model.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

fn mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [2, 1, a, b, c, d]
}

fn limited(mac_limit: u32, port_mac_limit: u32) -> Fdb {
    Fdb::new(FdbLimits { ageing_s: 300, mac_limit, port_mac_limit })
}

#[test]
fn learning_moving_and_ageing() {
    let fdb = Fdb::new(FdbLimits::default());
    let epoch = fdb.epoch();
    assert!(matches!(fdb.learn(A, 0, PortId(1), 10), LearnOutcome::Here(_)));
    assert_eq!(fdb.lookup(A, 0), Some(PortId(1)));
    assert_eq!(fdb.lookup(A, 7), None, "another VLAN is another address");
    assert_eq!(fdb.epoch(), epoch, "a new address outdates no answer");
    assert!(matches!(fdb.learn(A, 0, PortId(2), 11), LearnOutcome::Moved(_)));
    assert_ne!(fdb.epoch(), epoch, "a move does");
    assert_eq!(fdb.lookup(A, 0), Some(PortId(2)));
    assert_eq!(fdb.sweep(310), 0);
    assert_eq!(fdb.sweep(311), 1);
    assert!(fdb.is_empty());
}

#[test]
fn a_refreshed_stamp_keeps_an_address_alive() {
    let fdb = Fdb::new(FdbLimits::default());
    let LearnOutcome::Here(stamp) = fdb.learn(A, 0, PortId(1), 0) else { panic!("not learned") };
    fdb.refresh(stamp, 299);
    fdb.refresh(u32::MAX, 299);
    assert_eq!(fdb.sweep(598), 0);
    assert_eq!(fdb.sweep(599), 1);
}

#[test]
fn static_entries_neither_move_nor_age_nor_flush() {
    let fdb = Fdb::new(FdbLimits::default());
    fdb.learn(A, 0, PortId(1), 0);
    assert!(fdb.insert_static(A, 0, PortId(2), 0));
    assert_eq!(fdb.learn(A, 0, PortId(1), 1), LearnOutcome::Pinned);
    assert!(matches!(fdb.learn(A, 0, PortId(2), 1), LearnOutcome::Here(_)));
    assert_eq!((fdb.sweep(1_000_000), fdb.flush(None)), (0, 0));
    assert_eq!(fdb.lookup(A, 0), Some(PortId(2)));
    assert_eq!(fdb.remove(A, Some(1)), 0);
    assert_eq!(fdb.remove(A, None), 1);
    assert_eq!(fdb.remove_port(PortId(2)), 0);
}

#[test]
fn a_flapping_address_is_held_where_it_was() {
    let fdb = Fdb::new(FdbLimits::default());
    fdb.learn(A, 0, PortId(1), 100);
    let mut detected = 0;
    for round in 0..20 {
        let port = PortId(2 - round % 2);
        if let LearnOutcome::Loop { home, elsewhere, detected: now } = fdb.learn(A, 0, port, 100) {
            assert_eq!((home, elsewhere), (PortId(1), PortId(2)));
            detected += usize::from(now);
        }
    }
    assert_eq!(detected, 1);
    assert_eq!(fdb.lookup(A, 0), Some(PortId(1)));
    assert!(matches!(fdb.learn(A, 0, PortId(1), 101), LearnOutcome::Here(_)), "its own port may go on");
    assert!(matches!(fdb.learn(A, 0, PortId(2), 100 + HOLD_S), LearnOutcome::Moved(_)), "the hold ends");
}

#[test]
fn slow_moves_are_no_loop() {
    let fdb = Fdb::new(FdbLimits::default());
    for round in 0..100 {
        let outcome = fdb.learn(A, 0, PortId(round % 2), u32::from(round));
        assert!(!matches!(outcome, LearnOutcome::Loop { .. }), "round {round}");
    }
}

#[test]
fn a_port_over_its_limit_evicts_its_own() {
    let fdb = limited(1000, 4);
    fdb.learn(B, 0, PortId(2), 0);
    for number in 0..10 {
        fdb.learn(mac(number), 0, PortId(1), number);
    }
    assert_eq!(fdb.len(), 5);
    assert_eq!(fdb.lookup(B, 0), Some(PortId(2)));
    for number in 6..10 {
        assert_eq!(fdb.lookup(mac(number), 0), Some(PortId(1)));
    }
}

#[test]
fn a_full_bridge_evicts_from_the_greediest_port() {
    let fdb = limited(10, 1000);
    fdb.learn(A, 0, PortId(1), 0);
    fdb.learn(B, 0, PortId(2), 0);
    for number in 0..1000 {
        fdb.learn(mac(number), 0, PortId(3), 1);
    }
    assert_eq!(fdb.len(), 10);
    assert_eq!((fdb.lookup(A, 0), fdb.lookup(B, 0)), (Some(PortId(1)), Some(PortId(2))));
    for number in 0..1000 {
        fdb.learn(mac(number + 5000), 0, PortId(4), 2);
    }
    assert_eq!((fdb.lookup(A, 0), fdb.lookup(B, 0)), (Some(PortId(1)), Some(PortId(2))));
}

#[test]
fn an_address_in_use_gets_a_second_chance() {
    let fdb = limited(1000, 3);
    let LearnOutcome::Here(stamp) = fdb.learn(A, 0, PortId(1), 0) else { panic!("not learned") };
    for number in 0..20 {
        fdb.refresh(stamp, number + 1);
        fdb.learn(mac(number), 0, PortId(1), number + 1);
    }
    assert_eq!(fdb.lookup(A, 0), Some(PortId(1)));
}

#[test]
fn limits_of_zero_learn_nothing() {
    assert_eq!(limited(0, 10).learn(A, 0, PortId(1), 0), LearnOutcome::Full);
    assert_eq!(limited(10, 0).learn(A, 0, PortId(1), 0), LearnOutcome::Full);
}

#[test]
fn epochs_of_bridges_never_meet() {
    let (one, two) = (Fdb::new(FdbLimits::default()), Fdb::new(FdbLimits::default()));
    for _ in 0..10 {
        assert_ne!(one.epoch(), two.epoch());
        one.invalidate();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Learn(u32, u16),
    Pin(u32, u16),
    Remove(u32),
    FlushPort(u16),
    FlushAll,
    RemovePort(u16),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u32..12, 0u16..4).prop_map(|(mac, port)| Step::Learn(mac, port)),
        1 => (0u32..12, 0u16..4).prop_map(|(mac, port)| Step::Pin(mac, port)),
        1 => (0u32..12).prop_map(Step::Remove),
        1 => (0u16..4).prop_map(Step::FlushPort),
        1 => Just(Step::FlushAll),
        1 => (0u16..4).prop_map(Step::RemovePort),
        2 => (1u32..200).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn random_histories_agree_with_a_map(steps in prop::collection::vec(step(), 1..300)) {
        let fdb = Fdb::new(FdbLimits::default());
        // (port, static, last seen)
        let mut model: HashMap<[u8; 6], (PortId, bool, u32)> = HashMap::new();
        let mut now_s = 1000;
        for step in steps {
            let before = fdb.epoch();
            let answers: HashMap<_, _> = model.iter().map(|(&mac, &(port, ..))| (mac, port)).collect();
            match step {
                Step::Learn(number, port) => {
                    let (mac, port) = (mac(number), PortId(port));
                    match fdb.learn(mac, 0, port, now_s) {
                        LearnOutcome::Here(_) | LearnOutcome::Moved(_) => {
                            let entry = model.entry(mac).or_insert((port, false, now_s));
                            prop_assert!(!entry.1 || entry.0 == port);
                            *entry = (port, entry.1, now_s);
                        }
                        LearnOutcome::Pinned => prop_assert!(model[&mac].1 && model[&mac].0 != port),
                        LearnOutcome::Loop { home, .. } => {
                            let seen_s = if model[&mac].0 == home { model[&mac].2 } else { now_s };
                            model.insert(mac, (home, false, fdb_seen(&fdb, mac).unwrap_or(seen_s)));
                        }
                        LearnOutcome::Full => prop_assert!(false, "far below the limits"),
                    }
                }
                Step::Pin(number, port) => {
                    prop_assert!(fdb.insert_static(mac(number), 0, PortId(port), now_s));
                    model.insert(mac(number), (PortId(port), true, now_s));
                }
                Step::Remove(number) => {
                    let removed = usize::from(model.remove(&mac(number)).is_some());
                    prop_assert_eq!(fdb.remove(mac(number), None), removed);
                }
                Step::FlushPort(port) => {
                    fdb.flush(Some(PortId(port)));
                    model.retain(|_, &mut (at, pinned, _)| pinned || at != PortId(port));
                }
                Step::FlushAll => {
                    fdb.flush(None);
                    model.retain(|_, &mut (_, pinned, _)| pinned);
                }
                Step::RemovePort(port) => {
                    fdb.remove_port(PortId(port));
                    model.retain(|_, &mut (at, ..)| at != PortId(port));
                }
                Step::Pass(seconds) => {
                    now_s += seconds;
                    fdb.sweep(now_s);
                    model.retain(|_, &mut (_, pinned, seen_s)| pinned || now_s - seen_s < 300);
                }
            }
            prop_assert_eq!(fdb.len(), model.len());
            for (&mac, &(port, pinned, _)) in &model {
                prop_assert_eq!(fdb.lookup(mac, 0), Some(port));
                prop_assert!(fdb.entries().iter().any(|row| row.mac == mac && row.is_static == pinned));
            }
            // Whoever cached an answer must notice when it changed.
            if answers.iter().any(|(mac, port)| model.get(mac).map(|entry| entry.0) != Some(*port)) {
                prop_assert_ne!(fdb.epoch(), before);
            }
        }
    }
}

fn fdb_seen(fdb: &Fdb, mac: [u8; 6]) -> Option<u32> {
    fdb.entries().iter().find(|row| row.mac == mac).map(|row| row.last_seen_s)
}
