//! Remote ends of tunnels as ports: learning behind a remote, head-end replication, split horizon.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use vswitch::datapath::neighbours::Neighbours;
use vswitch::frame::{DropReason, Pool};
use vswitch::io::{Arrivals, Caps, RxStatus, Underlay, UnderlayReport, UnderlayRx};
use vswitch::snapshot::{PortId, PortKind, UnderlayEntry};
use vswitch::tunnel::{TunnelEntry, TunnelTable};
use vswitch::wire::announce::announcement;
use vswitch::wire::{MacAddr, arp, ethernet};

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
            routed: None,
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

/// The same with a table of neighbours.
fn overlay_with_neighbours() -> (Lab, Memory, Arc<Neighbours>) {
    let (mut lab, memory) = overlay();
    let neighbours = Arc::new(Neighbours::default());
    lab.configure(|topology| topology.bridges[0].neighbours = Some(Arc::clone(&neighbours)));
    (lab, memory, neighbours)
}

/// `arp who-has 10.0.0.target tell 10.0.0.asker`, of station `asker`.
fn who_has(target: u8, asker: u8) -> Vec<u8> {
    let mut frame = announcement(MacAddr(mac(asker)), IpAddr::from([10, 0, 0, asker]));
    frame[41] = target;
    frame
}

/// The announcement of station `n`.
fn announce(n: u8) -> Vec<u8> {
    announcement(MacAddr(mac(n)), IpAddr::from([10, 0, 0, n]))
}

#[test]
fn a_question_for_a_known_remote_station_is_answered_and_not_flooded() {
    let (mut lab, memory, neighbours) = overlay_with_neighbours();
    lab.receive(P0, who_has(3, 1));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 1, 1], "not known yet");
    arrive(&mut lab, &memory, [(VNI, peer(3), announce(3))]);
    lab.sent_counts();
    lab.receive(P0, who_has(3, 1));
    assert_eq!((neighbours.known(), neighbours.answered(), lab.drops(P0)), (1, 1, vec![]));
    let answers = lab.sent_bytes(P0);
    assert_eq!(answers.len(), 1);
    assert_eq!(lab.sent_counts(), [0; 5]);
    let answer = ethernet::Frame::new_checked(&answers[0]).expect("a frame");
    let reply = arp::Packet::new_checked(answer.payload()).expect("ARP");
    assert_eq!((answer.destination(), reply.operation()), (MacAddr(mac(1)), arp::Operation::Reply));
    assert_eq!((reply.sender_mac(), reply.sender_ip().octets()), (MacAddr(mac(3)), [10, 0, 0, 3]));
    assert_eq!((neighbours.answered(), lab.totals().unexplained()), (1, 0));
    // A unicast answer teaches, too: it is one that nobody floods.
    let mut reply = announce(4);
    reply[..6].copy_from_slice(&mac(1));
    arrive(&mut lab, &memory, [(VNI, peer(4), reply)]);
    lab.sent_counts();
    lab.receive(P1, who_has(4, 2));
    assert_eq!(lab.sent_counts(), [0, 1, 0, 0, 0]);
}

#[test]
fn what_is_flooded_as_ever() {
    let (mut lab, memory, neighbours) = overlay_with_neighbours();
    arrive(&mut lab, &memory, [(VNI, peer(3), announce(3)), (VNI, peer(4), announce(4))]);
    lab.sent_counts();
    // A question out of a tunnel is for local stations: the others were asked by the asker itself.
    arrive(&mut lab, &memory, [(VNI, peer(4), who_has(3, 4))]);
    assert_eq!(lab.sent_counts(), [1, 1, 0, 0, 0]);
    // An announcement, and a question for somebody unknown.
    lab.receive(P0, announce(1));
    lab.receive(P0, who_has(77, 1));
    assert_eq!(lab.sent_counts(), [0, 2, 2, 2, 2]);
    // The station's address is forgotten: nobody says where it is.
    lab.fdb().remove(mac(3), None);
    lab.receive(P0, who_has(3, 1));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 1, 1]);
    // It is here now.
    lab.receive(P1, announce(4));
    lab.sent_counts();
    lab.receive(P0, who_has(4, 1));
    assert_eq!(lab.sent_counts(), [0, 1, 1, 1, 1]);
    assert_eq!(neighbours.answered(), 0);
}

#[test]
fn isolated_containers_are_not_told_of_stations_that_they_cannot_reach() {
    let (mut lab, memory, neighbours) = overlay_with_neighbours();
    lab.configure(|topology| topology.bridges[0].icc = false);
    arrive(&mut lab, &memory, [(VNI, peer(3), announce(3))]);
    lab.sent_counts();
    lab.receive(P0, who_has(3, 1));
    assert_eq!(lab.sent_counts(), [0; 5]);
    assert_eq!(neighbours.answered(), 0);
}

#[test]
fn without_learning_neighbours_are_not_learned_either() {
    let (mut lab, memory, neighbours) = overlay_with_neighbours();
    lab.configure(|topology| topology.port(P3).learning = false);
    arrive(&mut lab, &memory, [(VNI, peer(3), announce(3))]);
    assert_eq!(neighbours.known(), 0);
}
