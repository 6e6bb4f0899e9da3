//! Tunnel packets that nobody should accept, from whoever reaches the UDP port: each is dropped by
//! name, and the tunnel beside carries what it did.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use vswitch_tests::frame::{ethernet, mac, tagged};
use vswitch_tests::lab::{assert_reaches, must};
use vswitch_tests::overlay::{Underlay, address};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::stream::fill;
use vswitch_tests::{Lab, Namespace, requirement};

const LIMIT: Duration = PATIENCE;

/// Flags, VNI and what is inside (RFC 7348 section 5).
fn vxlan(flags: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[flags, 0, 0, 0, a, b, c, 0][..], inner].concat()
}

/// An Ethernet frame that carries a UDP datagram to port 4789 of 10.1.0.9.
fn nested(payload: &[u8]) -> Vec<u8> {
    let (total, udp) = ((28 + payload.len()) as u16, (8 + payload.len()) as u16);
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 8, 10, 1, 0, 9, 0xc0, 0, 0x12, 0xb5]);
    packet.extend(udp.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    ethernet(mac(9), mac(8), 0x0800, &packet)
}

struct Attacker {
    socket: UdpSocket,
}

impl Attacker {
    /// Somebody who is host `number` of the underlay, and may send what it likes.
    fn at(host: &Namespace, number: u8) -> Self {
        let socket = must(host.enter(|| UdpSocket::bind(SocketAddr::new(address(number, false), 0))));
        must(socket.connect(SocketAddr::new(address(1, false), 4789)));
        Self { socket }
    }

    fn send(&self, payload: &[u8]) {
        // An answer of ICMP to an earlier packet would be reported here: there must be none.
        must(self.socket.send(payload));
    }
}

#[test]
fn hostile_packets_are_dropped_by_name_and_harm_nobody() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let Some(mut lab) = Lab::on(&mut underlay, 1, "") else { return };
    let Some(mut good) = Lab::on(&mut underlay, 2, "") else { return };
    lab.add_vxlan(42, &[2, 3], false, "");
    good.add_vxlan(42, &[1], false, "");
    lab.attach_numbered("a", 11);
    good.attach_numbered("b", 12);
    let peer = must(Namespace::create(&lab.netns("peer")));
    must(underlay.join(&peer, 3));
    let stranger = must(Namespace::create(&lab.netns("strange")));
    must(underlay.join(&stranger, 9));
    let (known, unknown) = (Attacker::at(&peer, 3), Attacker::at(&stranger, 9));
    let inner = ethernet(mac(1), mac(2), 0x88b5, &[7; 60]);

    let cases: Vec<(&str, &Attacker, Vec<u8>)> = vec![
        ("unknown-vni", &known, vxlan(8, 43, &inner)),
        ("unknown-vni", &known, vxlan(8, 0xff_ffff, &inner)),
        ("unknown-peer", &unknown, vxlan(8, 42, &inner)),
        ("unknown-vni", &unknown, vxlan(8, 1, &inner)),
        ("tunnel-malformed", &known, Vec::new()),
        ("tunnel-malformed", &known, vec![8]),
        ("tunnel-malformed", &known, vxlan(8, 42, &[])[..7].to_vec()),
        // The I flag says that the VNI is valid.
        ("tunnel-malformed", &known, vxlan(0, 42, &inner)),
        ("runt", &known, vxlan(8, 42, &[])),
        ("runt", &known, vxlan(8, 42, &inner[..13])),
        ("tunnel-tag", &known, vxlan(8, 42, &tagged(7, &inner))),
        ("tunnel-nested", &known, vxlan(8, 42, &nested(&vxlan(8, 42, &inner)))),
    ];
    for (at, (reason, attacker, packet)) in cases.iter().enumerate() {
        let before = lab.underlay_drops(reason);
        attacker.send(packet);
        let counted = wait_until(reason, LIMIT, || (lab.underlay_drops(reason) > before).then_some(()));
        assert!(counted.is_ok(), "case {at}, {reason}: {:?}", lab.stats().underlays);
    }
    let text = lab.ctl(&["stats", "br0"]);
    assert!(text.contains("198.18.0.1:4789") && text.contains("tunnel-nested"), "{text}");
    assert_eq!(lab.fdb_of("0a:00:00:00:00:02"), None, "nothing was learned from any of it");

    // Noise of every size, with and without a header in front, from both.
    let mut noise = vec![0; 1400];
    for round in 0..4000usize {
        let bytes = round * 7 % 1400;
        fill(round as u64, 0, &mut noise[..bytes]);
        let packet = if round % 2 == 0 { vxlan(8, 42, &noise[..bytes]) } else { noise[..bytes].to_vec() };
        for attacker in [&known, &unknown] {
            // What overruns the socket's buffer is lost, which is as well.
            attacker.send(&packet);
        }
    }
    // A whole frame is let in from a remote: it is a member of the network.
    known.send(&vxlan(8, 42, &inner));
    must(wait_until("a good frame", LIMIT, || lab.fdb_of("0a:00:00:00:00:02").map(drop)));
    assert_reaches(lab.container("a"), "10.1.0.12".parse().expect("an address"));
    assert_reaches(good.container("b"), "fd01::b".parse().expect("an address"));
    for lab in [&lab, &good] {
        lab.assert_accounted();
    }
    must(underlay.dismantle());
    lab.finish();
    good.finish();
}
