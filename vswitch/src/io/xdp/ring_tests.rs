use super::memory::pair;
use proptest::prelude::*;

#[test]
fn entries_cross_the_end_of_the_ring_and_of_the_index() {
    let (mut producer, mut consumer) = pair(8, u32::MAX - 2, 0_u64);
    for round in 0..40_u64 {
        assert_eq!(producer.acquire(5), 8);
        for at in 0..5 {
            producer.put(at, round * 5 + u64::from(at));
        }
        producer.release(5);
        assert_eq!(producer.pending(), 5);
        assert_eq!(consumer.acquire(1), 5);
        let (first, rest) = consumer.data();
        let got: Vec<_> = first.iter().chain(rest).copied().collect();
        assert_eq!(got, (round * 5..round * 5 + 5).collect::<Vec<_>>());
        assert_eq!(consumer.get(4), Some(round * 5 + 4));
        assert_eq!(consumer.get(5), None);
        consumer.release(5);
        assert_eq!(producer.pending(), 0);
    }
}

#[test]
fn a_full_ring_has_no_room_and_an_empty_one_no_entries() {
    let (mut producer, mut consumer) = pair(4, u32::MAX, 0_u64);
    assert_eq!(consumer.acquire(1), 0);
    assert_eq!(producer.acquire(4), 4);
    producer.release(4);
    assert_eq!(producer.acquire(1), 0);
    assert_eq!(producer.data().0.len() + producer.data().1.len(), 0);
    assert_eq!(consumer.acquire(9), 4, "never more than there are");
    consumer.release(1);
    assert_eq!(producer.acquire(1), 1);
    assert_eq!((producer.produced(), producer.consumed()), (3, 0));
}

#[test]
fn acquire_looks_for_more_only_when_it_knows_of_too_few() {
    let (mut producer, mut consumer) = pair(8, 0, 0_u64);
    producer.acquire(4);
    producer.release(2);
    assert_eq!(consumer.acquire(1), 2);
    producer.release(2);
    assert_eq!(consumer.acquire(2), 2, "two are known and enough");
    assert_eq!(consumer.acquire(3), 4);
}

#[test]
#[should_panic(expected = "released more entries")]
fn releasing_what_was_not_acquired_is_a_bug() {
    let (_producer, mut consumer) = pair(8, 0, 0_u64);
    consumer.release(1);
}

#[test]
fn two_threads_hand_over_every_entry_once_and_in_order() {
    const COUNT: u64 = 200_000;
    let (mut producer, mut consumer) = pair(64, u32::MAX - 1000, 0_u64);
    let thread = std::thread::spawn(move || {
        let mut next = 0;
        while next < COUNT {
            let room = producer.acquire(1).min((COUNT - next) as u32);
            if room == 0 {
                std::thread::yield_now();
            }
            for at in 0..room {
                producer.put(at, next);
                next += 1;
            }
            producer.release(room);
        }
    });
    let mut expected = 0;
    while expected < COUNT {
        let count = consumer.acquire(1);
        if count == 0 {
            std::thread::yield_now();
        }
        for at in 0..count {
            assert_eq!(consumer.get(at), Some(expected));
            expected += 1;
        }
        consumer.release(count);
    }
    thread.join().unwrap();
}

proptest! {
    /// Against a queue, for any interleaving of partial hand-overs and any start.
    #[test]
    fn equals_a_queue(start in any::<u32>(), steps in prop::collection::vec((0..20_u32, 0..20_u32), 1..200)) {
        let (mut producer, mut consumer) = pair(16, start, 0_u64);
        let mut queue = std::collections::VecDeque::new();
        let mut next = 0_u64;
        for (put, take) in steps {
            let room = producer.acquire(put);
            prop_assert!(room as usize <= 16 - queue.len());
            let put = put.min(room);
            for at in 0..put {
                producer.put(at, next);
                queue.push_back(next);
                next += 1;
            }
            producer.release(put);
            let take = take.min(consumer.acquire(take));
            for at in 0..take {
                prop_assert_eq!(consumer.get(at), queue.pop_front());
            }
            consumer.release(take);
        }
        prop_assert_eq!(producer.pending() as usize, queue.len());
    }
}
