use super::*;
use crate::frame::{Burst, Offload};
use crate::io::mem::MemDevice;
use crate::io::uplink::Refusal;
use crate::io::{Arrivals, RxStatus, UnderlayReport};
use crate::snapshot::PortId;
use crate::tunnel::TunnelEntry;
use crate::tunnel::TunnelTable;
use std::sync::Mutex;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1));
const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2));

fn v6(last: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])
}

/// Both ends of a tunnel over one device in memory, whose output is put back as its input.
fn ends(
    caps: Caps,
    (local, remote): (IpAddr, IpAddr),
) -> (MemDevice, Arc<dyn Device>, Arc<UplinkTunnels>, TunnelTable) {
    let wire = MemDevice::new(caps);
    let device: Arc<dyn Device> = Arc::new(wire.clone());
    let here = UplinkTunnels::new(Arc::clone(&device), None, (7, 1500), (local, 4789));
    let there = UplinkTunnels::new(device, None, (7, 1500), (remote, 4789));
    let table = TunnelTable::new(&[TunnelEntry { vni: 42, inner_tags: false, remotes: vec![(local, PortId(3))] }]);
    (wire, here.remote(RemoteConfig::new(42, remote)).unwrap(), there, table)
}

fn inner(bytes: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.resize(bytes, 0x77);
    frame
}

fn receive(there: &UplinkTunnels, pool: &mut Pool, table: &TunnelTable) -> (Vec<(PortId, Vec<u8>)>, UnderlayReport) {
    let mut rx = Underlay::open_rx(there, pool).unwrap();
    let (mut arrivals, mut report) = (Arrivals::default(), UnderlayReport::default());
    while rx.recv(pool, table, &mut arrivals, 64, usize::MAX, &mut report) == RxStatus::More {}
    let mut out = Vec::new();
    for (port, frame) in arrivals.drain() {
        out.push((port, frame.data().to_vec()));
        pool.free(frame);
    }
    (out, report)
}

#[test]
fn what_one_end_sends_the_other_receives() {
    for (caps, ends_of) in [
        (Caps::NONE, (LOCAL, REMOTE)),
        (Caps::ALL, (LOCAL, REMOTE)),
        (Caps::NONE, (v6(1), v6(2))),
        (Caps::ALL, (v6(1), v6(2))),
    ] {
        let (wire, remote, there, table) = ends(caps, ends_of);
        let mut pool = Pool::new(8).unwrap();
        let mut tx = remote.open_tx(&mut pool).unwrap();
        let mut burst = Burst::new();
        for bytes in [60, 1514] {
            let mut frame = pool.alloc().unwrap();
            frame.copy_from(&inner(bytes));
            burst.push(frame);
        }
        let unit = |frame| Unit { frame, first_piece: 0, pieces_count: 0, offload: Offload::NONE, sole: false };
        let mut report = TxReport::default();
        tx.send(&mut pool, &mut burst, &[unit(0), unit(1)], &[], &mut report);
        assert_eq!(report.sent, 2);
        assert_eq!([burst[0].data(), burst[1].data()], [inner(60), inner(1514)], "left as they were");
        pool.free_all(burst);
        wire.take_sent().into_iter().for_each(|frame| wire.inject(frame));
        let (arrived, report) = receive(&there, &mut pool, &table);
        assert_eq!(arrived, [(PortId(3), inner(60)), (PortId(3), inner(1514))]);
        assert_eq!((report.dropped, pool.outstanding()), (0, 0));
    }
}

#[test]
fn what_is_not_for_a_tunnel_is_dropped_by_name() {
    let (wire, _, there, table) = ends(Caps::NONE, (LOCAL, REMOTE));
    let mut pool = Pool::new(8).unwrap();
    let template = |source, config| Template::new(config, source, ([0; 6], [0; 6])).unwrap();
    let stranger = IpAddr::from([198, 18, 0, 9]);
    let config = RemoteConfig::new(42, REMOTE);
    for template in [
        template(stranger, config),
        template(LOCAL, RemoteConfig { vni: 43, ..config }),
        template(LOCAL, RemoteConfig { dst_port: 4790, ..config }),
        template(LOCAL, RemoteConfig { remote: stranger, ..config }),
    ] {
        let mut frame = pool.alloc().unwrap();
        frame.copy_from(&inner(60));
        template.encapsulate(&mut frame).unwrap();
        wire.inject(frame.data().to_vec());
        pool.free(frame);
    }
    let (arrived, report) = receive(&there, &mut pool, &table);
    assert_eq!((arrived.len(), report.dropped, pool.outstanding()), (0, 4, 0));
    for (reason, count) in [(DropReason::UnknownPeer, 1), (DropReason::UnknownVni, 1), (DropReason::NotOurs, 2)] {
        assert_eq!(report.drops[reason as usize], count, "{reason:?}");
    }
}

#[derive(Debug)]
struct Ways(Mutex<(u64, Resolution)>, Mutex<Vec<IpAddr>>);

impl NextHops for Ways {
    fn generation(&self) -> u64 {
        self.0.lock().unwrap().0
    }
    fn resolve(&self, _: IpAddr, _: u32) -> Resolution {
        self.0.lock().unwrap().1
    }
    fn solicit(&self, _: u32, neighbour: IpAddr) {
        self.1.lock().unwrap().push(neighbour);
    }
}

#[test]
fn the_next_hop_is_asked_for_again_when_it_may_have_changed() {
    let wire = MemDevice::new(Caps::NONE);
    let router = IpAddr::from([198, 18, 0, 254]);
    let unresolved = Resolution::Unresolved { oif: 7, neighbour: router, source: None };
    let ways = Arc::new(Ways(Mutex::new((1, unresolved)), Mutex::default()));
    let next_hops = Arc::clone(&ways) as Arc<dyn NextHops>;
    let here = UplinkTunnels::new(Arc::new(wire.clone()), Some(next_hops), (7, 1500), (LOCAL, 4789));
    let mut pool = Pool::new(2).unwrap();
    let mut tx = here.remote(RemoteConfig::new(42, REMOTE)).unwrap().open_tx(&mut pool).unwrap();
    let mut send = || {
        let mut frame = pool.alloc().unwrap();
        frame.copy_from(&inner(60));
        let mut frames = [frame];
        let unit = Unit { frame: 0, first_piece: 0, pieces_count: 0, offload: Offload::NONE, sole: true };
        let mut report = TxReport::default();
        tx.send(&mut pool, &mut frames, &[unit], &[], &mut report);
        pool.free_all(frames);
        report.drops().next().map(|(reason, _)| reason)
    };
    assert_eq!(send(), Some(DropReason::NoNeighbour));
    assert_eq!(*ways.1.lock().unwrap(), [router], "the kernel was asked to find it");
    let via = |oif| {
        let (mac, oif_mac) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]);
        Resolution::Via(NextHop { oif, oif_mac, mtu: 1500, neighbour: router, mac, source: None, confirmed: true })
    };
    *ways.0.lock().unwrap() = (2, via(7));
    assert_eq!(send(), None);
    assert_eq!(wire.take_sent()[0].bytes[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8]);
    *ways.0.lock().unwrap() = (3, via(8));
    assert_eq!(send(), Some(DropReason::NoRoute), "another interface leads there");
    *ways.0.lock().unwrap() = (4, Resolution::Refused(Refusal::Blackhole));
    assert_eq!(send(), Some(DropReason::NoRoute));
}
