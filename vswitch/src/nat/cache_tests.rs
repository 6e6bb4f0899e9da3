use std::net::IpAddr;

use proptest::prelude::*;

use super::super::test_packets::{Body, Recipe, recipe, rewrite};
use super::super::{Packet, Tuple};
use super::*;
use crate::frame::{Gso, Offload, Pool};

const IN: PortId = PortId(3);
const OUT: PortId = PortId(7);
const EPOCH: u64 = 5;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn action(from: &Tuple, to: &Tuple) -> Action {
    Action {
        rewrite: rewrite(from, to),
        hops: Hops::Decrement,
        destination: [2, 0xaa, 0, 0, 0, 1],
        source: [2, 0xbb, 0, 0, 0, 1],
        out: OUT,
        mtu: 1500,
        connection: Some(42),
    }
}

/// Flow `number`: a container sends to the outside.
fn flow(is_v6: bool, number: u32) -> Tuple {
    let addresses = if is_v6 { [ip("fd00::2"), ip("2001:db8::1")] } else { [ip("172.18.0.2"), ip("198.51.100.1")] };
    let [high, low] = [(number >> 16) as u16, number as u16];
    Body::Udp.tuple(addresses[0], addresses[1], [high + 1024, low])
}

fn outside(from: &Tuple) -> Tuple {
    Tuple { source: if from.source.is_ipv6() { ip("2001:db8::9") } else { ip("203.0.113.9") }, ..*from }
}

fn look(frame: &[u8], port: PortId) -> Quick {
    Quick::read(frame, frame.len(), port, 1)
}

fn quick_of(tuple: Tuple) -> Quick {
    look(&Recipe::plain(Body::Udp, tuple, &[]).make().data, IN)
}

/// The three steps, as for a burst.
fn lookup<'a>(cache: &'a mut NatCache, quick: &Quick, now_s: u32) -> Option<Hit<'a>> {
    let mut quick = *quick;
    cache.prefetch_tags(&quick);
    cache.prefetch_entry(&mut quick);
    cache.lookup(&quick, EPOCH, now_s)
}

proptest! {
    #[test]
    fn a_hit_does_what_the_slow_path_does((mut recipe, to) in recipe()) {
        (recipe.tags, recipe.options) = (0, false);
        let made = recipe.make();
        let mut pool = Pool::new(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        frame.copy_from(&made.data);
        frame.offload.csum = made.csum();
        let mut cache = NatCache::new(9).unwrap();
        let quick = cache.read(&frame, IN);
        let is_plain = !matches!(recipe.body, Body::Sctp | Body::Gre);
        prop_assert_eq!(quick.is_slow(), !is_plain);
        let action = action(&recipe.tuple, &to);
        cache.insert(&quick, EPOCH, 1, &action);
        if is_plain {
            let hit = lookup(&mut cache, &quick, 1).expect("it was inserted");
            prop_assert_eq!((hit.out(), hit.touch, hit.fits(&frame)), (OUT, None, true));
            hit.apply(&mut frame);
            let mut expected = made.clone();
            let packet = Packet::parse(&made.data, made.data.len()).unwrap();
            prop_assert!(action.rewrite.apply(&mut expected.data, &packet, &made.csum(), Hops::Decrement));
            expected.data[..6].copy_from_slice(&action.destination);
            expected.data[6..12].copy_from_slice(&action.source);
            prop_assert_eq!(frame.data(), &expected.data[..]);
        } else {
            prop_assert!(lookup(&mut cache, &quick, 1).is_none());
        }
        pool.free(frame);
    }

    /// Whatever the hit path takes, the slow path would take, too, for a whole packet without options.
    #[test]
    fn plain_is_plain(
        (recipe, _) in recipe(),
        changes in prop::collection::vec((12..80_usize, any::<u8>()), 0..3),
        frame_bytes in 0..400_usize,
    ) {
        let mut made = recipe.make();
        for (at, byte) in changes {
            if let Some(old) = made.data.get_mut(at) {
                *old = byte;
            }
        }
        made.data.truncate(frame_bytes);
        if !look(&made.data, IN).is_slow() {
            let packet = Packet::parse(&made.data, made.data.len()).expect("a packet");
            prop_assert_eq!((packet.network, packet.fragment), (14, super::super::Fragment::None));
            prop_assert!(packet.hops > 1);
        }
    }
}

#[test]
fn what_is_not_plain_is_slow() {
    let tuple = Body::Tcp.tuple(ip("172.18.0.2"), ip("198.51.100.7"), [1000, 80]);
    let tcp = Recipe::plain(Body::Tcp, tuple, &[1; 10]);
    let change = |change: &dyn Fn(&mut [u8])| {
        let mut made = tcp.make();
        change(&mut made.data[14..]);
        made.seal();
        look(&made.data, IN).is_slow()
    };
    assert!(!change(&|_| ()));
    for flags in 0..=255_u8 {
        let is_plain = flags & 0x10 != 0 && flags & 0x07 == 0;
        assert_eq!(change(&|p| p[33] = flags), !is_plain, "{flags:02x}");
    }
    assert!(change(&|p| p[6] = 0x20) && change(&|p| p[7] = 1) && change(&|p| p[6] = 0x80), "fragments");
    assert!(!change(&|p| p[6] = 0), "DF or not");
    assert!(change(&|p| p[8] = 1) && !change(&|p| p[8] = 2), "hops");
    assert!(change(&|p| p[32] = 0x40) && change(&|p| p[32] = 0xf0), "data offset");
    assert!(change(&|p| p[3] += 1), "a length beyond the frame");
    assert!(Recipe { tags: 1, ..tcp.clone() }.make().data.len() > 60);
    assert!(look(&Recipe { tags: 1, ..tcp.clone() }.make().data, IN).is_slow());
    assert!(look(&Recipe { options: true, ..tcp.clone() }.make().data, IN).is_slow());
    let mut made = tcp.make();
    made.data[24] ^= 1;
    assert!(look(&made.data, IN).is_slow(), "header checksum");
    let made = tcp.make();
    for cut in 0..made.data.len() {
        assert!(look(&made.data[..cut], IN).is_slow());
    }
    assert!(!Quick::read(&made.data[..54], made.data.len(), IN, 1).is_slow(), "scattered");
}

#[test]
fn every_part_of_the_key_counts() {
    for is_v6 in [false, true] {
        let tuple = flow(is_v6, 1);
        let mut seen = vec![quick_of(tuple)];
        let other = if is_v6 { ip("fd00::3") } else { ip("172.18.0.3") };
        for tuple in [
            Tuple { source: other, ..tuple },
            Tuple { destination: other, ..tuple },
            Tuple { source_port: 1, ..tuple },
            Tuple { destination_port: 5, ..tuple },
            tuple.reversed(),
        ] {
            seen.push(quick_of(tuple));
        }
        seen.push(look(&Recipe::plain(Body::Udp, tuple, &[]).make().data, PortId(4)));
        seen.push(look(&Recipe::plain(Body::Tcp, tuple, &[]).make().data, IN));
        // An echo's request and reply differ in nothing else when the identifier is zero.
        for body in [Body::EchoRequest, Body::EchoReply] {
            let tuple = body.tuple(tuple.source, tuple.destination, [0, 0]);
            seen.push(look(&Recipe::plain(body, tuple, &[]).make().data, IN));
        }
        for (index, quick) in seen.iter().enumerate() {
            assert!(!quick.is_slow() && !seen[..index].contains(quick), "{quick:?}");
        }
    }
}

#[test]
fn an_entry_lives_as_long_as_it_is_hit_and_its_epoch() {
    for is_v6 in [false, true] {
        let mut cache = NatCache::new(1).unwrap();
        let (tuple, mut now) = (flow(is_v6, 1), 1000);
        let quick = quick_of(tuple);
        assert!(lookup(&mut cache, &quick, now).is_none());
        cache.insert(&quick, EPOCH, now, &action(&tuple, &outside(&tuple)));
        assert_eq!(lookup(&mut cache, &quick, now).unwrap().touch, None);
        for _ in 0..5 {
            now += VALID_S;
            assert_eq!(lookup(&mut cache, &quick, now).unwrap().touch, Some(42));
            for later in [0, NOTE_S - 1] {
                assert_eq!(lookup(&mut cache, &quick, now + later).unwrap().touch, None, "not with every packet");
            }
        }
        assert!(cache.lookup(&quick, EPOCH + 1, now).is_none());
        assert!(lookup(&mut cache, &quick, now + VALID_S + 1).is_none());
        // Without a connection there is nothing to touch.
        cache.insert(&quick, EPOCH, now, &Action { connection: None, ..action(&tuple, &tuple) });
        assert_eq!(lookup(&mut cache, &quick, now + NOTE_S).unwrap().touch, None);
        assert_eq!(cache.flows(), 1, "in place");
    }
}

#[test]
fn dead_places_are_used_again() {
    let mut cache = NatCache::new(1).unwrap();
    for (round, now) in [(0, 100), (1, 200), (2, 300), (3, 400), (4, 500)] {
        for number in 0..1000 {
            let tuple = flow(false, round * 1000 + number);
            cache.insert(&quick_of(tuple), EPOCH, now, &action(&tuple, &outside(&tuple)));
        }
        for number in 0..1000 {
            assert!(lookup(&mut cache, &quick_of(flow(false, round * 1000 + number)), now).is_some());
        }
        assert!(cache.v4.buckets() <= 1000 / 20, "{}", cache.v4.buckets());
    }
}

fn probe(number: u32) -> quick::Probe<quick::KeyV4> {
    let Quick(Kind::V4(probe)) = quick_of(flow(false, number)) else { panic!("slow") };
    probe
}

fn insert(table: &mut Table<EntryV4>, number: u32) {
    let (probe, tuple) = (probe(number), flow(false, number));
    let Family::V4(rewrite) = rewrite(&tuple, &tuple).0 else { panic!("IPv4") };
    let common = Common::new(&action(&tuple, &tuple), EPOCH, 1);
    table.insert(&probe, EntryV4 { key: probe.key, rewrite, common }, EPOCH, 1);
}

#[test]
fn more_flows_than_places() {
    // A small table shows what a large one does; nothing in it depends on its size.
    let mut table = Table::<EntryV4>::new(16, 1).unwrap();
    for number in 0..10_000 {
        insert(&mut table, number);
        assert!(table.find(&probe(number)).is_some(), "the newest is always there");
    }
    let found = (0..10_000).filter(|&number| table.find(&probe(number)).is_some()).count();
    assert_eq!((table.buckets(), found, table.entries()), (16, 16 * 63, 16 * 63), "all are in use");
}

#[test]
fn the_tags_name_every_flow_first() {
    let mut table = Table::<EntryV4>::new(512, 1).unwrap();
    let is_first = |table: &Table<EntryV4>, number| {
        let mut asked = probe(number);
        table.prefetch_entry(&mut asked);
        table.find(&asked) == Some(asked.entry as usize)
    };
    for number in 0..10_000 {
        insert(&mut table, number);
    }
    // With one salt for all buckets it would be a hundred.
    let seconds = (0..10_000).filter(|&number| !is_first(&table, number)).count();
    assert!(seconds <= 5, "{seconds}");
}

#[test]
fn no_flow_is_forgotten_while_buckets_are_split() {
    let mut cache = NatCache::new(1).unwrap();
    let to = |number: u32| Action { out: PortId(number as u16), ..action(&flow(false, number), &flow(false, number)) };
    let known = |cache: &mut NatCache, number| {
        let hit = lookup(cache, &quick_of(flow(false, number)), 1).map(|hit| hit.out());
        hit.inspect(|&out| assert_eq!(out, PortId(number as u16))).is_some()
    };
    for number in 0..40_000 {
        cache.insert(&quick_of(flow(false, number)), EPOCH, 1, &to(number));
        assert!(known(&mut cache, number), "the newest is always there");
    }
    assert!((0..40_000).all(|number| known(&mut cache, number)));
    assert_eq!(cache.flows(), 40_000);
    let places = cache.v4.buckets() * 63;
    assert!(places * 6 / 10 < 40_000, "{places} places");
}

#[test]
fn an_entry_that_was_asked_for_may_be_moved_meanwhile() {
    let mut table = Table::<EntryV4>::new(64, 1).unwrap();
    insert(&mut table, 0);
    let mut asked = probe(0);
    table.prefetch_entry(&mut asked);
    let before = asked.entry;
    for number in 1..2000 {
        insert(&mut table, number);
        let found = table.find(&asked).expect("it is there");
        let mut again = probe(0);
        table.prefetch_entry(&mut again);
        assert_eq!(found, again.entry as usize, "and where the tags say that it is");
    }
    assert_ne!(table.find(&asked), Some(before as usize), "this one was moved");
}

#[test]
fn what_does_not_fit_is_said() {
    let tuple = Body::Tcp.tuple(ip("172.18.0.2"), ip("198.51.100.7"), [1000, 80]);
    let mut pool = Pool::new(1).unwrap();
    let mut frame = pool.alloc().unwrap();
    let mut cache = NatCache::new(1).unwrap();
    frame.copy_from(&Recipe::plain(Body::Tcp, tuple, &[0; 5000]).make().data);
    let quick = cache.read(&frame, IN);
    for (mtu, size, fits) in
        [(5039, None, false), (5040, None, true), (1500, Some(1460), true), (1499, Some(1460), false)]
    {
        frame.offload = match size {
            Some(size) => Offload {
                csum: Csum::Partial { start: 34, offset: 16 },
                gso: Some(Gso { kind: GsoKind::Tcp4, ecn: false, size }),
            },
            None => Offload::NONE,
        };
        cache.insert(&quick, EPOCH, 1, &Action { mtu, ..action(&tuple, &tuple) });
        assert_eq!(lookup(&mut cache, &quick, 1).unwrap().fits(&frame), fits, "{mtu} {size:?}");
    }
    pool.free(frame);
}
