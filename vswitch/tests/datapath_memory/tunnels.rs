//! Remote ends of tunnels as ports: learning behind a remote, head-end replication, split horizon.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use vswitch::frame::{DropReason, Pool};
use vswitch::io::{Arrivals, Caps, RxStatus, Underlay, UnderlayReport, UnderlayRx};
use vswitch::snapshot::{PortId, PortKind, UnderlayEntry};
use vswitch::tunnel::{TunnelEntry, TunnelTable};

use crate::fixture::{BROADCAST, Lab, P0, P1, P2, P3, P4, frame, mac};

const VNI: u32 = 42;
/// The underlay's id, beyond those of the ports.
const UNDERLAY: PortId = PortId(20);

/// What peers sent: network identifier, sender, frame.
type Packets = Arc<Mutex<VecDeque<(u32, IpAddr, Vec<u8>)>>>;

/// An underlay in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Packets);

impl Underlay for Memory {
    fn open_rx(&self, _pool: &mut Pool) -> io::Result<Box<dyn UnderlayRx>> {
        Ok(Box::new(self.clone()))
    }
}

impl UnderlayRx for Memory {
    fn recv(
        &mut self,
        pool: &mut Pool,
        tunnels: &TunnelTable,
        arrivals: &mut Arrivals,
        frames_max: usize,
        _bytes_max: usize,
        report: &mut UnderlayReport,
    ) -> RxStatus {
        let mut packets = self.0.lock().unwrap();
        for _ in 0..frames_max.min(arrivals.room()) {
            let Some((vni, peer, bytes)) = packets.pop_front() else { return RxStatus::Drained };
            match tunnels.port(vni, peer) {
                Ok((port, _)) => {
                    let mut frame = pool.alloc().unwrap();
                    frame.copy_from(&bytes);
                    arrivals.push(frame, port);
                }
                Err(reason) => report.drop_packet(reason, bytes.len()),
            }
        }
        RxStatus::More
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn peer(n: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, n])
}

/// Two containers (ports 0 and 1) and a tunnel with three remotes (2, 3, 4), which are peers 2, 3, 4.
fn overlay() -> (Lab, Memory) {
    let memory = Memory::default();
    let mut lab = Lab::with_caps(&[Caps::ALL; 5]);
    lab.configure(|topology| {
        for port in [P2, P3, P4] {
            let port = topology.port(port);
            (port.kind, port.group, port.reader) = (PortKind::Tunnel, Some(0), None);
        }
        let remotes = [(peer(2), P2), (peer(3), P3), (peer(4), P4)].to_vec();
        topology.underlays = vec![Arc::new(UnderlayEntry {
            id: UNDERLAY,
            incarnation: 1000,
            name: "memory".into(),
            reader: Some(0),
            device: Arc::new(memory.clone()),
            tunnels: Arc::new(TunnelTable::new(&[TunnelEntry { vni: VNI, inner_tags: false, remotes }])),
        })];
    });
    (lab, memory)
}

fn arrive(lab: &mut Lab, memory: &Memory, packets: impl IntoIterator<Item = (u32, IpAddr, Vec<u8>)>) {
    memory.0.lock().unwrap().extend(packets);
    lab.datapath.drain(UNDERLAY);
}

#[test]
fn a_broadcast_goes_to_every_remote_and_comes_back_from_none() {
    let (mut lab, memory) = overlay();
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 1, 1], "head-end replication");
    arrive(&mut lab, &memory, [(VNI, peer(3), frame(BROADCAST, mac(3)))]);
    assert_eq!(lab.sent_counts(), [1, 1, 0, 0, 0], "the other remotes have it from the sender");
    assert_eq!(lab.totals().dropped(), 0);
}

#[test]
fn an_address_is_learned_behind_its_remote_and_moves_with_it() {
    let (mut lab, memory) = overlay();
    arrive(&mut lab, &memory, [(VNI, peer(3), frame(mac(1), mac(3)))]);
    lab.sent_counts();
    lab.receive(P0, frame(mac(3), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 0, 1, 0]);
    arrive(&mut lab, &memory, [(VNI, peer(4), frame(mac(1), mac(3)))]);
    assert_eq!(lab.sent_counts(), [1, 0, 0, 0, 0]);
    lab.receive(P0, frame(mac(3), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 0, 0, 1]);
}

#[test]
fn remotes_of_one_tunnel_do_not_reach_each_other_through_us() {
    let (mut lab, memory) = overlay();
    arrive(&mut lab, &memory, [(VNI, peer(3), frame(mac(1), mac(3)))]);
    lab.sent_counts();
    arrive(&mut lab, &memory, [(VNI, peer(4), frame(mac(3), mac(4)))]);
    assert_eq!(lab.sent_counts(), [0; 5]);
    assert_eq!(lab.drops(P4), [(DropReason::SplitHorizon, 1)]);
}

#[test]
fn what_belongs_to_no_tunnel_is_counted_on_the_underlay() {
    let (mut lab, memory) = overlay();
    let bytes = frame(BROADCAST, mac(3));
    arrive(&mut lab, &memory, [(7, peer(3), bytes.clone()), (VNI, peer(9), bytes.clone()), (VNI, peer(3), bytes)]);
    let counters = lab.datapath.port_counters(UNDERLAY);
    let drops = [DropReason::UnknownVni, DropReason::UnknownPeer].map(|reason| counters.drops[reason as usize]);
    assert_eq!((counters.rx_frames, drops), (2, [1, 1]));
    assert_eq!(lab.sent_counts(), [1, 1, 0, 0, 0]);
}

#[test]
fn interleaved_remotes_keep_their_order() {
    let (mut lab, memory) = overlay();
    lab.receive(P0, frame(BROADCAST, mac(1)));
    lab.sent_counts();
    let packets = (0..60u8).map(|n| (VNI, peer(2 + n / 3 % 3), frame(mac(1), mac(10 + n))));
    arrive(&mut lab, &memory, packets);
    let sources: Vec<u8> = lab.sent_bytes(P0).iter().map(|bytes| bytes[11]).collect();
    assert_eq!(sources, (10..70).collect::<Vec<_>>());
}

#[test]
fn without_learning_only_static_entries_lead_to_a_remote() {
    let (mut lab, memory) = overlay();
    lab.configure(|topology| {
        for port in [P2, P3, P4] {
            topology.port(port).learning = false;
        }
    });
    arrive(&mut lab, &memory, [(VNI, peer(3), frame(mac(1), mac(3)))]);
    assert_eq!(lab.fdb().len(), 0);
    lab.sent_counts();
    lab.fdb().insert_static(mac(3), 0, P3, 0);
    lab.receive(P0, frame(mac(3), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 0, 1, 0]);
}

#[test]
fn a_unicast_only_remote_is_not_flooded_to() {
    let (mut lab, _) = overlay();
    lab.configure(|topology| topology.port(P4).flooding = false);
    lab.receive(P0, frame(BROADCAST, mac(1)));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 1, 0]);
    lab.fdb().insert_static(mac(4), 0, P4, 0);
    lab.receive(P0, frame(mac(4), mac(1)));
    assert_eq!(lab.sent_counts(), [0, 0, 0, 0, 1]);
}

#[test]
fn containers_of_other_hosts_are_isolated_like_those_of_this_one() {
    let (mut lab, memory) = overlay();
    lab.configure(|topology| {
        topology.bridges[0].icc = false;
        topology.port(P1).kind = PortKind::Uplink;
    });
    arrive(&mut lab, &memory, [(VNI, peer(3), frame(BROADCAST, mac(3)))]);
    assert_eq!(lab.sent_counts(), [0, 1, 0, 0, 0], "the outside, and no container");
}

#[test]
fn an_underlay_that_goes_is_read_no_more() {
    let (mut lab, memory) = overlay();
    lab.configure(|topology| topology.underlays.clear());
    arrive(&mut lab, &memory, [(VNI, peer(3), frame(BROADCAST, mac(3)))]);
    assert_eq!(lab.sent_counts(), [0; 5]);
    assert_eq!(memory.0.lock().unwrap().len(), 1);
}
