//! Fragments from a shared uplink that overtook the first one of their packet, which the classifier has marked: they are
//! the switch's if their first one is, and go back to the host as they came if not.

use super::packets::{self, Seen, at};
use super::*;

/// The source address of what may be the host's.
const MARKED: ([u8; 6], [u8; 6]) = ([0; 6], [1, 0, 0, 0, 0, 0]);

/// A fragment of a datagram from outside to `port` of the host: its first 800 bytes, or the others.
fn piece(macs: ([u8; 6], [u8; 6]), id: u16, port: u16, is_first: bool) -> Vec<u8> {
    let to = at(&format!("192.0.2.1:{port}"));
    let frame = packets::udp(macs, at("198.51.100.9:53"), to, &[7; 1200]);
    let (payload, place) = if is_first { (&frame[34..834], 0x2000u16) } else { (&frame[834..], 100) };
    let mut piece = [&frame[..34], payload].concat();
    piece[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    piece[18..20].copy_from_slice(&id.to_be_bytes());
    piece[20..22].copy_from_slice(&place.to_be_bytes());
    piece[24..26].fill(0);
    let sum = vswitch::frame::checksum::of(&piece[14..34]);
    piece[24..26].copy_from_slice(&sum.to_be_bytes());
    piece
}

#[test]
fn they_follow_their_first_fragment_to_the_container() {
    let mut lab = lab();
    lab.receive(UPLINK, piece(MARKED, 1, 8080, false));
    nothing(&lab);
    lab.receive(UPLINK, piece(NOWHERE, 1, 8080, true));
    let sent = lab.sent_bytes(A);
    assert_eq!(sent.len(), 2);
    for frame in &sent {
        assert_eq!((Seen::of(frame).macs, Seen::of(frame).to), ((mac(2), GATEWAY), ip("10.0.0.2")));
    }
    nothing(&lab);
}

#[test]
fn they_go_back_to_the_host_with_their_first_fragment() {
    let mut lab = lab();
    let (first, later) = (piece(MARKED, 1, 22, true), piece(MARKED, 1, 22, false));
    lab.receive(UPLINK, later.clone());
    nothing(&lab);
    lab.receive(UPLINK, first.clone());
    assert_eq!(lab.sent_bytes(UPLINK), [later, first], "as they came");
    nothing(&lab);
    assert_eq!(dropped(&lab, UPLINK), []);
}

#[test]
fn none_is_dropped_that_may_be_the_hosts() {
    let mut lab = lab();
    // What the router does not understand.
    let mut strange = piece(MARKED, 1, 22, false);
    strange[14] = 0x44;
    lab.receive(UPLINK, strange.clone());
    assert_eq!(lab.sent_bytes(UPLINK), [strange]);
    // What it has no room for.
    let mut back = 0;
    for id in 0..200 {
        lab.receive(UPLINK, piece(MARKED, id, 22, false));
        back += lab.sent_bytes(UPLINK).len();
    }
    assert_eq!(back, 72, "128 are held");
    // A container's fragments have room of their own.
    let mut later = piece(to_gateway(2), 7, 22, false);
    later[26..34].copy_from_slice(&[10, 0, 0, 2, 198, 51, 100, 9]);
    later[24..26].fill(0);
    let sum = vswitch::frame::checksum::of(&later[14..34]);
    later[24..26].copy_from_slice(&sum.to_be_bytes());
    lab.receive(A, later);
    assert_eq!((dropped(&lab, UPLINK), dropped(&lab, A)), (vec![], vec![]));
}

#[test]
fn what_this_host_sends_to_itself_is_cut_on_its_behalf() {
    for (from, to, headers) in [("127.0.0.1:5000", "127.0.0.1:8080", 20), ("[::1]:5000", "[::1]:8080", 48)] {
        let mut lab = lab();
        lab.receive(LOOPBACK, packets::udp(NOWHERE, at(from), at(to), &[9; 20_000]));
        let sent = lab.sent_bytes(A);
        let bytes: usize = sent.iter().map(|frame| frame.len() - 14 - headers).sum();
        assert_eq!(bytes, 20_008, "{to}");
        assert!(sent.len() > 10 && sent.iter().all(|frame| frame.len() <= 1514), "{to}");
        assert_eq!(dropped(&lab, LOOPBACK), []);
    }
}
