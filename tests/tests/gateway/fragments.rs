//! Fragments through the gateway, in and out of order, both ways; overlapping ones go nowhere.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use vswitch::api::Uplinks;
use vswitch_tests::Lab;
use vswitch_tests::contact::{hear, hear_within, is_silent, udp};
use vswitch_tests::frame::{parse_mac, unpadded};
use vswitch_tests::lab::{address, any_port, must};
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::packet::{Header, IPV4, IPV6, fragment, fragments};
use vswitch_tests::process::wait_until;
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::stream::{datagrams, fill};

use super::{finish, lab_with};

const SIZES: [usize; 9] = [1472, 1473, 2000, 2953, 4500, 9000, 20_000, 40_000, 65_000];

#[test]
fn datagrams_larger_than_the_mtu_go_out_and_their_echoes_come_back() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    for ipv6 in [false, true] {
        for (namespace, target) in [(lab.near(), near(ipv6)), (lab.far(), far(ipv6))] {
            must(datagrams(namespace, lab.container("a"), any_port(target), &SIZES));
        }
    }
    finish(lab);
}

#[test]
fn pings_larger_than_the_mtu() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    for ipv6 in [false, true] {
        for size in [1473, 3000, 20_000] {
            let text = must(lab.container("a").run(&format!("ping -n -c 2 -i 0.1 -W 2 -s {size} {}", far(ipv6))));
            assert!(text.contains("2 received"), "{size}: {text}");
        }
    }
    finish(lab);
}

#[test]
fn datagrams_larger_than_the_mtu_come_in_to_a_published_port() {
    let Some((lab, _)) = lab_with(&["a", "b"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp"]);
    for ipv6 in [false, true] {
        let server = must(udp(lab.container("a"), ipv6, 7000));
        for client in [lab.near(), lab.far(), lab.host(), lab.container("b"), lab.container("a")] {
            let socket = must(udp(client, ipv6, 0));
            must(socket.connect(SocketAddr::new(host(ipv6), 7000)));
            let is_host = client.name() == lab.host().name();
            for size in SIZES {
                let mut sent = vec![0; size];
                fill(size as u64, 0, &mut sent);
                let attempts = if is_host { 10 } else { 1 };
                let arrived = (0..attempts).find_map(|_| {
                    let _ = socket.send(&sent);
                    if is_host { hear_within(&server, Duration::from_secs(1)).ok() } else { hear(&server).ok() }
                });
                let (heard, from) =
                    arrived.unwrap_or_else(|| panic!("{size} bytes from {}, IPv6 {ipv6}", client.name()));
                assert!(heard == sent, "{size} bytes from {} arrive as {}", client.name(), heard.len());
                must(server.send_to(&heard, from).map(drop));
                assert!(must(hear(&socket)).0 == sent, "{size} bytes back to {}", client.name());
            }
        }
        drop(server);
    }
    finish(lab);
}

/// In this time, and somewhat less (`WITHHOLDING_WINDOW_NS`), an uplink gives the switch at least 32 fragments whose packets
/// are not known yet.
const WINDOW: Duration = Duration::from_millis(50);

/// Two directions of raw fragments: from `near` to the published UDP port 7000 of container `a`, and from `a` to `near`.
struct Ends {
    socket: PacketSocket,
    macs: ([u8; 6], [u8; 6]),
    server: UdpSocket,
    header: Header,
}

impl Ends {
    fn inward(lab: &Lab, ipv6: bool) -> Self {
        Self {
            socket: must(PacketSocket::open_sender(lab.near(), "eth0")),
            macs: (must(lab.host().mac("u0")), must(lab.near().mac("eth0"))),
            server: must(udp(lab.container("a"), ipv6, 7000)),
            header: Header::new(near(ipv6), host(ipv6)),
        }
    }

    /// The same to a program of the host.
    fn to_host(lab: &Lab, ipv6: bool) -> Self {
        Self { server: must(udp(lab.host(), ipv6, 7000)), ..Self::inward(lab, ipv6) }
    }

    fn outward(lab: &Lab, ipv6: bool) -> Self {
        let port = &lab.ports("br0")[0];
        Self {
            socket: must(PacketSocket::open_sender(lab.container("a"), "eth0")),
            macs: (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&port.mac)),
            server: must(udp(lab.near(), ipv6, 7000)),
            header: Header::new(address(port, ipv6), near(ipv6)),
        }
    }

    fn send(&self, packet: &[u8]) {
        let ethertype = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        must(self.socket.send(&unpadded(self.macs.0, self.macs.1, ethertype, packet)));
    }

    /// A datagram whose identification and content are those of `number`.
    fn datagram(&self, number: u16, bytes: usize) -> (Vec<u8>, Vec<u8>) {
        let mut data = vec![0; bytes];
        fill(number.into(), 0, &mut data);
        let packet = Header { id: number, ..self.header.clone() }.udp(4444, 7000, &data);
        (packet, data)
    }

    /// The fragments of a datagram of one number, in IPv6 too.
    fn cut(&self, number: u16, bytes: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (packet, data) = self.datagram(number, bytes);
        let mut pieces = fragments(&packet, 1000);
        for piece in pieces.iter_mut().filter(|piece| piece[0] >> 4 == 6) {
            piece[46..48].copy_from_slice(&number.to_be_bytes());
        }
        (pieces, data)
    }
}

/// How many fragments the classifier gave the switch although they might be the host's, and how many it gave back.
fn counted(lab: &Lab) -> [u64; 2] {
    let counters = lab.get::<Uplinks>("/v1/uplinks").counters;
    ["undecided", "given-back"].map(|name| counters.get(name).copied().unwrap_or(0))
}

fn both_ways(lab: &Lab, mut test: impl FnMut(&Ends, &str)) {
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp"]);
    for ipv6 in [false, true] {
        test(&Ends::inward(lab, ipv6), if ipv6 { "IPv6 in" } else { "IPv4 in" });
        test(&Ends::outward(lab, ipv6), if ipv6 { "IPv6 out" } else { "IPv4 out" });
    }
}

#[track_caller]
fn assert_every_order_arrives(ends: &Ends, label: &str) {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (number, order) in orders.iter().enumerate() {
        let (pieces, data) = ends.cut(100 + number as u16, 2800);
        assert_eq!(pieces.len(), 3);
        order.iter().for_each(|&at| ends.send(&pieces[at]));
        let (heard, _) = hear(&ends.server).unwrap_or_else(|error| panic!("{label} in the order {order:?}: {error}"));
        assert!(heard == data, "{label} in the order {order:?}: {} bytes", heard.len());
    }
}

/// The last pieces of many packets, then the middle ones, then the first ones.
#[track_caller]
fn assert_many_at_once_arrive(ends: &Ends, label: &str) {
    std::thread::sleep(WINDOW);
    let packets: Vec<_> = (0..15).map(|number| ends.cut(500 + number, 2800)).collect();
    for at in [2, 1, 0] {
        packets.iter().for_each(|(pieces, _)| ends.send(&pieces[at]));
    }
    let mut heard: Vec<Vec<u8>> = (0..15)
        .map(|number| hear(&ends.server).unwrap_or_else(|error| panic!("{label}, packet {number}: {error}")).0)
        .collect();
    heard.sort();
    let mut sent: Vec<Vec<u8>> = packets.into_iter().map(|(_, data)| data).collect();
    sent.sort();
    assert!(heard == sent, "{label}");
}

#[test]
fn every_order_of_fragments_arrives() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    both_ways(&lab, assert_every_order_arrives);
    finish(lab);
}

#[test]
fn fragments_of_many_packets_at_once() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    both_ways(&lab, assert_many_at_once_arrive);
    finish(lab);
}

/// What is the switch's is not known before the first fragment comes, and the host's are to arrive as if there were no
/// switch.
#[test]
fn the_hosts_own_fragments_arrive_in_any_order() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    // Something is published, and something translated.
    lab.ctl(&["publish", "br0", "a", "7001:7000/udp"]);
    must(datagrams(lab.near(), lab.container("a"), any_port(near(false)), &[100]));
    let before = counted(&lab);
    for ipv6 in [false, true] {
        let ends = Ends::to_host(&lab, ipv6);
        let label = format!("IPv6 {ipv6}");
        assert_every_order_arrives(&ends, &label);
        // The first one comes so late that the others were given back on suspicion.
        let (pieces, data) = ends.cut(200, 2800);
        [2, 1].iter().for_each(|&at| ends.send(&pieces[at]));
        std::thread::sleep(Duration::from_secs(4));
        ends.send(&pieces[0]);
        assert!(must(hear(&ends.server)).0 == data, "IPv6 {ipv6}: a late first fragment");
        // Many at once. (The kernel gives up a packet that more than 64 fragments of its sender come between.)
        assert_many_at_once_arrive(&ends, &label);
        // More pieces than are withheld, or held of one packet.
        std::thread::sleep(WINDOW);
        let (pieces, data) = ends.cut(700, 60_000);
        pieces.iter().rev().for_each(|piece| ends.send(piece));
        assert!(must(hear(&ends.server)).0 == data, "IPv6 {ipv6}: {} pieces", pieces.len());
    }
    let last = must(wait_until("all to come back", Duration::from_secs(5), || {
        let now = counted(&lab);
        (now[0] - before[0] == now[1] - before[1]).then_some(now)
    }));
    assert!(last[0] - before[0] > 100, "{before:?}, {last:?}");
    finish(lab);
}

#[test]
fn overlapping_fragments_go_nowhere() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let dropped = lab.dropped("fragment-overlap");
    both_ways(&lab, |ends, label| {
        for (number, tail_first) in [(900, false), (901, true)] {
            let (packet, data) = ends.datagram(number, 2000);
            let header_bytes = packet.len() - 8 - data.len();
            let payload = &packet[header_bytes..];
            // The second one begins eight bytes before the first one's end.
            let mut pieces = [
                fragment(&packet, header_bytes, 0, &payload[..1000], true),
                fragment(&packet, header_bytes, 992, &payload[992..], false),
            ];
            for piece in pieces.iter_mut().filter(|piece| piece[0] >> 4 == 6) {
                piece[46..48].copy_from_slice(&number.to_be_bytes());
            }
            if tail_first {
                pieces.reverse();
            }
            pieces.iter().for_each(|piece| ends.send(piece));
            assert!(is_silent(&ends.server), "{label}: an overlap arrived, tail first {tail_first}");
        }
        // What comes after them is not held up.
        let (pieces, data) = ends.cut(902, 2000);
        pieces.iter().for_each(|piece| ends.send(piece));
        assert!(must(hear(&ends.server)).0 == data, "{label}");
    });
    assert!(lab.dropped("fragment-overlap") > dropped);
    finish(lab);
}

#[test]
fn the_same_fragment_twice_is_no_overlap_that_hurts() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    both_ways(&lab, |ends, label| {
        // A duplicate of the first piece, which a network may make: the packet arrives, or is dropped whole, and the
        // next one arrives in any case.
        let (pieces, first) = ends.cut(1000, 1800);
        [0, 0, 1].iter().for_each(|&at| ends.send(&pieces[at]));
        let (pieces, second) = ends.cut(1001, 1800);
        pieces.iter().for_each(|piece| ends.send(piece));
        let mut heard = must(hear(&ends.server)).0;
        if heard == first {
            heard = must(hear(&ends.server)).0;
        }
        assert!(heard == second, "{label}");
    });
    finish(lab);
}

#[test]
fn fragments_without_a_first_one_are_bounded() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let memory = must(lab.daemon().resident_bytes());
    both_ways(&lab, |ends, label| {
        for number in 2000..22_000 {
            let mut piece = ends.cut(number, 1100).0.remove(1);
            if piece[0] >> 4 == 6 {
                piece[46..48].copy_from_slice(&number.to_be_bytes());
            }
            ends.send(&piece);
        }
        // Whoever floods does not stop the others for longer than fragments are waited for; whole packets never.
        // (The kernel's own queues may still be full of the flood when the first of them comes.)
        let (packet, data) = ends.datagram(30_000, 100);
        let heard = (0..3).find_map(|_| {
            ends.send(&packet);
            hear(&ends.server).ok()
        });
        assert!(heard.is_some_and(|(heard, _)| heard == data), "{label}");
    });
    let grown = must(lab.daemon().resident_bytes()).saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes");
    assert!(lab.dropped("fragments-full") > 0);
    // They all come home in time, which the accounting waits for.
    finish(lab);
}
