//! Frames with and without VLAN tags, on a shared uplink and on an L2 uplink.

use std::sync::atomic::Ordering;

use vswitch::bpf::{Classifier, Counter, TcHook};

use super::lab::can_run;
use super::uplink::{Lab, PEER4, PEER6, carry_tap, receive, send};
use super::{PORT, counted, publish, stream};

/// UDP to the published port, with a VLAN tag or without.
pub(crate) fn udp_frame(tag: &[u8]) -> Vec<u8> {
    let (to, from) = ([2, 0, 0, 0, 2, 1], FROM);
    let mut header = [0x45, 0, 0, 60, 0, 7, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    header[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let [high, low] = PORT.to_be_bytes();
    let udp = [0x23, 0x28, high, low, 0, 40, 0, 0];
    [&to[..], &from, tag, &[8, 0], &header, &udp, &[7; 32]].concat()
}

const FROM: [u8; 6] = [2, 0, 0, 0, 9, 9];
/// IEEE 802.1Q: VLAN 5, priority 6.
const TAG: &[u8] = &[0x81, 0, 0xc0, 5];
/// IEEE 802.1ad around it.
const TWO_TAGS: &[u8] = &[0x88, 0xa8, 0, 9, 0x81, 0, 0xc0, 5];

#[test]
fn other_networks_on_the_same_wire_stay_the_hosts() {
    if !can_run("other_networks_on_the_same_wire_stay_the_hosts") {
        return;
    }
    let lab = Lab::new();
    let mut classifier = Lab::classifier();
    publish(&mut classifier);
    let _attachment = lab.host.inside(|| classifier.attach_tc("up0", "carry", TcHook::of_kernel())).unwrap();
    // What is written to a TAP of the peer leaves its eth0 as it is.
    let tap = carry_tap(&lab.peer);
    let mut of_peer = Classifier::load().unwrap();
    let _l2 = lab.peer.inside(|| of_peer.attach_l2("eth0", "carry", TcHook::of_kernel())).unwrap();
    for tags in [&[], TAG, TWO_TAGS] {
        send(&tap, &udp_frame(tags));
        let came = receive(&lab.carry, FROM);
        let expected = if tags.is_empty() { vec![udp_frame(&[])] } else { vec![] };
        assert_eq!(came, expected, "{tags:?}");
    }
    assert_eq!(counted(&classifier, Counter::Published), 1);
}

#[test]
fn tags_cross_an_l2_uplink_in_both_directions() {
    if !can_run("tags_cross_an_l2_uplink_in_both_directions") {
        return;
    }
    let lab = Lab::new();
    let (here, there) = (&lab.carry, &carry_tap(&lab.peer));
    let mut classifier = Classifier::load().unwrap();
    let _host = lab.host.inside(|| classifier.attach_l2("up0", "carry", TcHook::of_kernel())).unwrap();
    // A second one: indices are of a namespace, and these programs are attached in two.
    let mut of_peer = Classifier::load().unwrap();
    let _peer = lab.peer.inside(|| of_peer.attach_l2("eth0", "carry", TcHook::of_kernel())).unwrap();
    for tags in [&[], TAG, TWO_TAGS] {
        let frame = udp_frame(tags);
        let broadcast = [&[0xff; 6][..], &frame[6..]].concat();
        let foreign = [&[2, 0, 0, 0, 7, 7][..], &frame[6..]].concat();
        for (from, to) in [(here, there), (there, here)] {
            for frame in [&frame, &broadcast, &foreign] {
                send(from, frame);
                assert_eq!(receive(to, FROM), std::slice::from_ref(frame), "{tags:?}");
            }
        }
    }
}

#[test]
fn an_l2_uplink_carries_every_frame_unchanged() {
    if !can_run("an_l2_uplink_carries_every_frame_unchanged") {
        return;
    }
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        let lab = Lab::new();
        lab.host.exec(&["ip", "address", "flush", "dev", "up0"]);
        let before = lab.host_state();
        // Now the container is on the wire itself, with an address of its own.
        lab.container.exec(&["ip", "neighbour", "flush", "nud", "permanent", "dev", "eth0"]);
        lab.container.exec(&["ip", "address", "flush", "dev", "eth0"]);
        lab.container.exec(&["ip", "link", "set", "eth0", "address", "02:00:00:00:02:07"]);
        lab.container.exec(&["ip", "address", "add", "192.0.2.7/24", "dev", "eth0"]);
        lab.container.exec(&["ip", "address", "add", "2001:db8::7/64", "dev", "eth0", "nodad"]);
        let mut classifier = Classifier::load().unwrap();
        let attachment = lab.host.inside(|| classifier.attach_l2("up0", "carry", hook)).unwrap();
        let wire = lab.switch();
        for (peer, container) in [(PEER4, "192.0.2.7"), (PEER6, "2001:db8::7")] {
            lab.container.exec(&["ping", "-q", "-c", "2", "-i", "0.05", "-W", "2", peer]);
            stream(&lab.container, &lab.peer, peer, 7000, 8 << 20);
            stream(&lab.peer, &lab.container, container, 7001, 8 << 20);
        }
        let longest = wire.longest_frame.load(Ordering::Relaxed);
        assert!(longest > 60_000, "super-frames crossed whole: {longest}");
        assert_eq!(wire.stop().dropped, 0);
        lab.host.inside(|| drop(attachment));
        lab.assert_untouched(&before);
    }
}
