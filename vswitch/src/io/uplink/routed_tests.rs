use std::sync::Mutex;

use super::*;
use crate::frame::Burst;
use crate::io::mem::MemDevice;
use crate::io::uplink::Refusal;
use crate::io::{Arrivals, RxStatus, UnderlayReport};
use crate::snapshot::PortId;
use crate::tunnel::TunnelTable;

const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8];

#[derive(Debug)]
struct Ways(Mutex<(u64, Resolution)>);

impl NextHops for Ways {
    fn generation(&self) -> u64 {
        self.0.lock().unwrap().0
    }
    fn resolve(&self, _: IpAddr, _: u32) -> Resolution {
        self.0.lock().unwrap().1
    }
    fn solicit(&self, _: u32, _: IpAddr) {}
}

fn via(oif: u32) -> Resolution {
    let (mac, oif_mac) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]);
    Resolution::Via(NextHop { oif, oif_mac, mtu: 1500, neighbour: ROUTER, mac, source: None, confirmed: true })
}

/// An IPv4 packet that says nothing but where it goes.
fn packet() -> Vec<u8> {
    let mut bytes = [0; 60];
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes[14] = 0x45;
    bytes[30..34].copy_from_slice(&[198, 51, 100, 9]);
    bytes.to_vec()
}

struct Sender {
    wire: MemDevice,
    ways: Arc<Ways>,
    tx: Box<dyn TxQueue>,
    pool: Pool,
}

fn sender(resolution: Resolution) -> Sender {
    let (wire, mut pool) = (MemDevice::new(Caps::NONE), Pool::new(4).unwrap());
    let ways = Arc::new(Ways(Mutex::new((1, resolution))));
    let next_hops = Arc::clone(&ways) as Arc<dyn NextHops>;
    let link = RoutedLink::new(Arc::new(wire.clone()), Some(next_hops), 7);
    let tx = Device::open_tx(&*link, &mut pool).unwrap();
    Sender { wire, ways, tx, pool }
}

impl Sender {
    fn send(&mut self) -> TxReport {
        let mut burst = Burst::new();
        let mut frame = self.pool.alloc().unwrap();
        frame.copy_from(&packet());
        burst.push(frame);
        let unit = Unit { frame: 0, first_piece: 0, pieces_count: 0, offload: Offload::NONE, sole: true };
        let mut report = TxReport::default();
        self.tx.send(&mut self.pool, &mut burst, &[unit], &[], &mut report);
        self.pool.free_all(burst);
        report
    }

    fn settle(&mut self) -> TxReport {
        let mut report = TxReport::default();
        self.tx.settle(&mut self.pool, &mut report);
        report
    }
}

#[test]
fn a_packet_gets_the_addresses_of_its_next_hop() {
    let mut sender = sender(via(7));
    assert_eq!(sender.send().sent, 1);
    assert_eq!(sender.wire.take_sent()[0].bytes[..12], MACS);
    *sender.ways.0.lock().unwrap() = (2, via(8));
    assert_eq!(sender.send().drops().next(), Some((DropReason::NoRoute, 1)), "another interface leads there");
    *sender.ways.0.lock().unwrap() = (3, Resolution::Refused(Refusal::NoRoute));
    assert_eq!(sender.send().drops().next(), Some((DropReason::NoRoute, 1)));
}

#[test]
fn what_is_for_a_neighbour_that_has_yet_to_answer_waits() {
    let mut sender = sender(Resolution::Unresolved { oif: 7, neighbour: ROUTER, source: None });
    assert_eq!((sender.send().sent, sender.tx.waits()), (0, true));
    assert_eq!((sender.settle().sent, sender.tx.waits()), (0, true), "no answer yet");
    *sender.ways.0.lock().unwrap() = (2, via(7));
    assert_eq!((sender.settle().sent, sender.tx.waits()), (1, false));
    assert_eq!(sender.wire.take_sent()[0].bytes[..12], MACS);
    // More than there is room for is dropped at once.
    *sender.ways.0.lock().unwrap() = (3, Resolution::Unresolved { oif: 7, neighbour: ROUTER, source: None });
    let dropped: u32 = (0..WAITING_MAX + 3).map(|_| sender.send().drops().map(|(_, count)| count).sum::<u32>()).sum();
    assert_eq!(dropped, 3);
    *sender.ways.0.lock().unwrap() = (4, Resolution::Refused(Refusal::NoRoute));
    assert_eq!(sender.settle().drops().next(), Some((DropReason::NoRoute, WAITING_MAX as u32)));
    assert_eq!(sender.pool.outstanding(), 0);
}

#[test]
fn everything_that_comes_in_is_for_the_router() {
    let (wire, mut pool) = (MemDevice::new(Caps::NONE), Pool::new(4).unwrap());
    let link = RoutedLink::new(Arc::new(wire.clone()), None, 7);
    let mut rx = Underlay::open_rx(&*link, &mut pool).unwrap();
    wire.inject(packet());
    let (mut arrivals, mut report) = (Arrivals::default(), UnderlayReport::default());
    arrivals.routed = Some(PortId(5));
    let table = TunnelTable::new(&[]);
    while rx.recv(&mut pool, &table, &mut arrivals, 64, usize::MAX, &mut report) == RxStatus::More {}
    let arrived: Vec<_> = arrivals.drain().collect();
    assert_eq!((arrived.len(), arrived[0].0, report.dropped), (1, PortId(5), 0));
    pool.free_all(arrived.into_iter().map(|(_, frame)| frame));
}
