//! The targets of the gateway: packets, translations, fragments, and what it answers itself.

use std::net::IpAddr;

use crate::frame::pool::FRAME_BYTES_MAX;
use crate::frame::{Csum, Pool, checksum};
use crate::nat::{
    Action, Fragment, FragmentTable, Hops, IcmpError, Later, NatCache, Packet, Quick, Rewrite, Tuple, Upper, fragments,
    mss,
};
use crate::snapshot::PortId;
use crate::wire::icmp_error::{self, Problem};
use crate::wire::layers::Layers;
use crate::wire::{MacAddr, echo, ipv4, neighbour, protocol};

/// Addresses and ports of another tuple (36 bytes) and a frame: what is parsed lies within the frame, a translation
/// gives it the other tuple, keeps it as right or wrong as it was, and can be undone; and what the hit path takes is
/// what the slow path would do.
pub fn nat_packet(data: &[u8]) {
    let Some((other, frame)) = data.split_first_chunk::<36>() else { return };
    if frame.len() > FRAME_BYTES_MAX {
        return;
    }
    let packet = Packet::parse(frame, frame.len());
    let quick = Quick::read(frame, frame.len(), PortId(1), 1);
    let Ok(packet) = packet else {
        assert!(quick.is_slow(), "the hit path takes what is {packet:?}");
        return;
    };
    let offsets = [14, packet.network.into(), packet.transport.into(), packet.end as usize, frame.len()];
    assert!(offsets.is_sorted() && packet.network < packet.transport, "{offsets:?}");
    let to = other_tuple(other, &packet);
    let there = Rewrite::new(&packet.tuple, &to).expect("of one family");
    let back = Rewrite::new(&to, &packet.tuple).expect("of one family");
    let mut translated = frame.to_vec();
    if !there.apply(&mut translated, &packet, &Csum::Unknown, Hops::Keep) {
        assert_eq!(translated, frame, "refused, and begun");
        return;
    }
    let seen = Packet::parse(&translated, translated.len()).expect("a translated packet is a packet");
    assert_eq!(seen, Packet { tuple: to, ..packet });
    let is_right = |frame: &[u8]| Layers::parse(frame).ok().map(|at| checksum::is_transport_right(frame, &at));
    assert_eq!(is_right(&translated), is_right(frame));
    hit_path(frame, &packet, &quick, there);
    assert!(back.apply(&mut translated, &seen, &Csum::Unknown, Hops::Keep));
    assert_eq!(Packet::parse(&translated, translated.len()), Ok(packet));
    assert_eq!(is_right(&translated), is_right(frame));
}

fn hit_path(frame: &[u8], packet: &Packet, quick: &Quick, rewrite: Rewrite) {
    if quick.is_slow() {
        return;
    }
    assert!(packet.network == 14 && packet.fragment == Fragment::None && packet.hops > 1);
    let (mut cache, mut pool) = (NatCache::new(1).expect("address space"), Pool::new(1).expect("address space"));
    let mut hit = pool.alloc().expect("a frame");
    hit.copy_from(frame);
    let action = Action {
        rewrite,
        hops: Hops::Decrement,
        destination: [2; 6],
        source: [4; 6],
        out: PortId(2),
        mtu: u16::MAX,
        connection: None,
    };
    cache.insert(quick, 1, 1, &action);
    cache.lookup(quick, 1, 1).expect("it was inserted").apply(&mut hit);
    let mut expected = frame.to_vec();
    assert!(rewrite.apply(&mut expected, packet, &Csum::Unknown, Hops::Decrement));
    assert_eq!((&hit.data()[..12], &hit.data()[12..]), (&[2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4][..], &expected[12..]));
    pool.free(hit);
}

/// A tuple that the packet can be given.
fn other_tuple(bytes: &[u8; 36], packet: &Packet) -> Tuple {
    let address = |at: usize| {
        let octets: [u8; 16] = std::array::from_fn(|index| bytes[at + index]);
        if packet.is_v6 { IpAddr::from(octets) } else { IpAddr::from([octets[0], octets[1], octets[2], octets[3]]) }
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let [source_port, destination_port] = match packet.upper {
        _ if packet.is_later_fragment() => [0; 2],
        Upper::Tcp { .. } | Upper::Udp | Upper::Sctp { .. } => [port(32), port(34)],
        Upper::EchoRequest => [port(32), 0],
        Upper::EchoReply => [0, port(34)],
        Upper::IcmpError | Upper::OtherIcmp | Upper::Other => [0; 2],
    };
    Tuple { protocol: packet.protocol, source: address(0), source_port, destination: address(16), destination_port }
}

/// A byte that says which family, addresses and ports of another tuple (36 bytes), and what an ICMP error quotes: the
/// tuple is found again after a translation, and the error's checksum is right after every one.
pub fn nat_icmp_error(data: &[u8]) {
    let Some((&[family], rest)) = data.split_first_chunk::<1>() else { return };
    let Some((other, quoted)) = rest.split_first_chunk::<36>() else { return };
    let mut quoted = quoted[..quoted.len().min(1200)].to_vec();
    let is_v6 = family & 1 != 0;
    if !is_v6 && let Some(mut header) = ipv4::HeaderMut::new_checked(&mut quoted) {
        // No fuzzer finds a right checksum.
        header.fill_checksum();
    }
    let mut frame = if is_v6 { error_v6(&quoted) } else { error_v4(&quoted) };
    let packet = Packet::parse(&frame, frame.len()).expect("it is a packet");
    let Ok(error) = IcmpError::parse(&frame, &packet, &Csum::Unknown) else { return };
    let (tuple, bytes) = (error.tuple, frame.len());
    let fake = Packet { protocol: tuple.protocol, upper: Upper::Udp, ..packet };
    let mut to = other_tuple(other, &fake);
    match (tuple.protocol, tuple.source_port, tuple.destination_port) {
        (protocol::TCP | protocol::UDP | protocol::SCTP, _, _) => {}
        (protocol::ICMP, _, _) if is_v6 => (to.source_port, to.destination_port) = (0, 0),
        (protocol::ICMPV6, _, _) if !is_v6 => (to.source_port, to.destination_port) = (0, 0),
        (protocol::ICMP | protocol::ICMPV6, _, 0) => to.destination_port = 0,
        (protocol::ICMP | protocol::ICMPV6, _, _) => to.source_port = 0,
        _ => (to.source_port, to.destination_port) = (0, 0),
    }
    let keep = Rewrite::new(&packet.tuple, &packet.tuple).expect("of one family");
    for (from, to) in [(tuple, to), (to, tuple)] {
        let step = Rewrite::new(&from, &to).expect("of one family");
        assert!(error.apply(&mut frame, &packet, &Csum::Unknown, &step, &keep, Hops::Keep));
        // Which verifies both checksums. An echo with the identifier zero has the tuple of the other kind, too.
        let seen = IcmpError::parse(&frame, &packet, &Csum::Unknown).expect("it is as right as it was");
        let is_same = seen.tuple == to || (seen.tuple.source_port, seen.tuple.destination_port) == (0, to.source_port);
        assert!(is_same, "{} is not {to}", seen.tuple);
        assert_eq!(frame.len(), bytes);
    }
}

fn error_v4(quoted: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, protocol::ICMP];
    frame.extend([0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    frame.extend([3, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend(quoted);
    let total_bytes = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total_bytes.to_be_bytes());
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let sum = checksum::of(&frame[34..]);
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn error_v6(quoted: &[u8]) -> Vec<u8> {
    let bytes = ((quoted.len() + 8) as u16).to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, bytes[0], bytes[1]];
    frame.extend([protocol::ICMPV6, 64]);
    frame.extend([[0x20; 16], [0xfd; 16]].concat());
    frame.extend([1, 3, 0, 0, 0, 0, 0, 0]);
    frame.extend(quoted);
    let pseudo = checksum::pseudo_header(&frame[22..54], protocol::ICMPV6, frame.len() - 54);
    let sum = !checksum::fold(pseudo + checksum::sum(&frame[54..]));
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Fragments, four bytes each: seconds since the last one (the upper half) and packet (the lower half), offset and
/// length in units of eight bytes, whether more follow. What is held comes back exactly once, nothing is told of another
/// packet, and the bounds hold.
pub fn nat_fragments(data: &[u8]) {
    let limits = fragments::Limits { packets: 4, held: 8, held_per_packet: 6, held_bytes: 4000, patience_s: 2 };
    let mut table: FragmentTable<u32, usize> = FragmentTable::with_limits(limits);
    let (mut held, mut back, mut now_s) = (Vec::new(), Vec::new(), 0);
    for (token, &[head, offset, units, more]) in data.as_chunks::<4>().0.iter().enumerate() {
        now_s += u32::from(head >> 4);
        table.expire(now_s, |frame, _| back.push(frame));
        let (id, payload_bytes) = (u32::from(head & 0xf), (u16::from(units) + 1) * 8);
        let packet = fragment(id, u16::from(offset) * 8, payload_bytes, more & 1 != 0);
        let key = packet.fragment_key(PortId(1));
        if offset == 0 {
            back.extend(table.first(key, &packet, id, now_s).unwrap_or_default());
            continue;
        }
        match table.later(key, &packet, now_s) {
            Later::Known(decided) => assert_eq!(decided, id, "another packet's"),
            Later::Unknown(room) => held.extend(room.hold(token).ok().map(|()| token)),
            Later::Refused(_) => {}
        }
        assert!(table.held() <= limits.held);
    }
    table.expire(now_s + fragments::TIMEOUT_S, |frame, _| back.push(frame));
    back.sort_unstable();
    assert_eq!(back, held);
    assert!(table.is_empty());
}

fn fragment(id: u32, offset_bytes: u16, payload_bytes: u16, more: bool) -> Packet {
    let fragment = match offset_bytes {
        0 => Fragment::First { id, payload_bytes },
        _ => Fragment::Later { id, offset_bytes, payload_bytes, more },
    };
    Packet {
        is_v6: false,
        network: 14,
        transport: 34,
        end: 34 + u32::from(payload_bytes),
        protocol: protocol::UDP,
        hops: 64,
        dont_fragment: false,
        fragment,
        upper: Upper::Other,
        tuple: Tuple {
            protocol: protocol::UDP,
            source: IpAddr::from([192, 0, 2, 1]),
            source_port: 0,
            destination: IpAddr::from([192, 0, 2, 2]),
            destination_port: 0,
        },
    }
}

/// A frame that the gateway may have to answer itself: errors are whole packets and get no errors, the reply to an
/// echo is one, an answered question is none, and a smaller MSS keeps the checksum.
pub fn gateway_answers(data: &[u8]) {
    for problem in [
        Problem::TimeExceeded,
        Problem::NetworkUnreachable,
        Problem::HostUnreachable,
        Problem::PortUnreachable,
        Problem::Prohibited,
        Problem::TooBig(1280),
    ] {
        let mut out = [0; icmp_error::BYTES_MAX];
        let Some(bytes) = icmp_error::write(data, data.len(), problem, None, &mut out) else { continue };
        let error = Packet::parse(&out[..bytes], bytes).expect("it is a packet");
        assert_eq!((error.upper, error.end as usize), (Upper::IcmpError, bytes));
        let next = icmp_error::write(&out[..bytes], bytes, problem, None, &mut [0; icmp_error::BYTES_MAX]);
        assert_eq!(next, None, "an error about an error would have no end");
    }
    if let Ok(packet) = Packet::parse(data, data.len()) {
        let mut frame = data.to_vec();
        let is_reply = echo::reply(&mut frame, packet.network.into(), Some(packet.transport.into()), &Csum::Unknown);
        if is_reply && packet.upper == Upper::EchoRequest {
            let reply = Packet::parse(&frame, frame.len()).expect("it is a packet");
            assert_eq!((reply.upper, reply.tuple), (Upper::EchoReply, packet.tuple.reversed()));
        }
        let mut frame = data.to_vec();
        mss::clamp(&mut frame, &packet, Csum::Unknown, 1000);
        assert_eq!(Packet::parse(&frame, frame.len()), Ok(packet));
        let is_right = |frame: &[u8]| Layers::parse(frame).ok().map(|at| checksum::is_transport_right(frame, &at));
        assert_eq!(is_right(&frame), is_right(data));
    }
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let mut buffer = [data, &[0; neighbour::BYTES_MAX]].concat();
    if let Some(bytes) = neighbour::answer(&mut buffer, data.len(), mac, |_| true) {
        assert_eq!(buffer[6..12], mac.0);
        let mut answer = buffer[..bytes].to_vec();
        answer.resize(bytes + neighbour::BYTES_MAX, 0);
        assert_eq!(neighbour::answer(&mut answer, bytes, mac, |_| true), None, "an answer is no question");
    }
}
