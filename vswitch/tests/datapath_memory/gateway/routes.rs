//! The host's routes decide, also for connections that exist.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vswitch::io::uplink::{NextHop, NextHops, Refusal, Resolution};

use super::packets::{self, at};
use super::*;

/// A default route by the uplink that can be taken away.
#[derive(Debug, Default)]
struct DefaultRoute {
    gone: AtomicBool,
    routes: AtomicU64,
    neighbours: AtomicU64,
    asked: AtomicU64,
}

impl DefaultRoute {
    fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::Relaxed);
        self.routes.fetch_add(1, Ordering::Release);
    }
}

impl NextHops for DefaultRoute {
    fn generation(&self) -> u64 {
        self.routes_generation() + self.neighbours.load(Ordering::Acquire)
    }

    fn routes_generation(&self) -> u64 {
        self.routes.load(Ordering::Acquire)
    }

    fn resolve(&self, destination: IpAddr, _: u32) -> Resolution {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.gone.load(Ordering::Acquire) {
            return Resolution::Refused(Refusal::NoRoute);
        }
        Resolution::Via(NextHop {
            oif: 2,
            oif_mac: mac(20),
            mtu: 1500,
            neighbour: destination,
            mac: mac(21),
            source: None,
            confirmed: true,
        })
    }

    fn solicit(&self, _: u32, _: IpAddr) {}
}

#[test]
fn a_route_that_goes_ends_what_used_it_and_one_that_comes_back_begins_it_again() {
    let routes = Arc::new(DefaultRoute::default());
    let mut lab = lab_with(|topology| topology.routing.routes = Some(Arc::clone(&routes) as _));
    for (inside, outside, unreachable) in
        [("10.0.0.2:5000", "198.51.100.9:53", (3, 0)), ("[fd00::2]:5000", "[2001:db8:9::9]:53", (1, 0))]
    {
        let frame = packets::udp(to_gateway(2), at(inside), at(outside), b"out");
        lab.receive(A, frame.clone());
        let source = one(&lab, UPLINK).source();
        let hits = lab.datapath.worker_counters().cache_hits;
        // A neighbour's change is no reason to decide anew.
        routes.neighbours.fetch_add(1, Ordering::Release);
        lab.receive(A, frame.clone());
        assert_eq!(one(&lab, UPLINK).source(), source);
        assert_eq!(lab.datapath.worker_counters().cache_hits, hits + 1);

        routes.set_gone(true);
        lab.receive(A, frame.clone());
        let told = one(&lab, A);
        assert_eq!((told.payload[0], told.payload[1]), unreachable);
        nothing(&lab);

        routes.set_gone(false);
        lab.receive(A, frame);
        assert_eq!(one(&lab, UPLINK).source(), source, "the mapping is as it was");
    }
    assert_eq!(dropped(&lab, A), [DropReason::NoRoute]);
}

#[test]
fn a_packet_asks_for_its_route_once() {
    let routes = Arc::new(DefaultRoute::default());
    let mut lab = lab_with(|topology| topology.routing.routes = Some(Arc::clone(&routes) as _));
    let asked = |lab: &mut Lab, frame: Vec<u8>| {
        let before = routes.asked.load(Ordering::Relaxed);
        lab.receive(A, frame);
        one(lab, UPLINK);
        routes.asked.load(Ordering::Relaxed) - before
    };
    for (inside, outside) in [("10.0.0.2:5000", "198.51.100.9:53"), ("[fd00::2]:5000", "[2001:db8:9::9]:53")] {
        let frame = packets::udp(to_gateway(2), at(inside), at(outside), b"out");
        assert_eq!(asked(&mut lab, frame.clone()), 1, "a new connection");
        assert_eq!(asked(&mut lab, frame.clone()), 0, "a hit of the cache");
        routes.set_gone(false);
        assert_eq!(asked(&mut lab, frame), 1, "a connection that is decided anew");
    }
}
