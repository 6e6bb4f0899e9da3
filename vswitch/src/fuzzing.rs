//! The bodies of the fuzz targets: each takes arbitrary bytes and asserts what must hold for any.
//!
//! They are part of the library, and not of `fuzz/`, so that the ordinary test command replays the
//! committed corpus through them (`tests/fuzz_corpus.rs`) with no special compiler. Nothing in the
//! switch calls them.
//!
//! # Panics
//! All of them, when an invariant does not hold. That is what they are for.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::api;
use crate::bpf::model::{Arrival, Maps};
use crate::bpf::{Counter, Flow, Protocol};
use crate::frame::gro::{Accept, Coalescer, Company};
use crate::frame::gso::Segmenter;
use crate::frame::{BURST_FRAMES_MAX, Csum, Frame, Offload, Pool, checksum};
use crate::snapshot::PortId;
use crate::tunnel::ecn::{self, Ecn};
use crate::tunnel::train::Run;
use crate::tunnel::{TunnelEntry, TunnelTable, decap, inner};
use crate::wire::layers::Layers;
use crate::wire::{EtherType, arp, ethernet, icmpv6, ipv4, ipv6, protocol, tcp, too_big, udp, vnet_hdr, vxlan};

mod conntrack;
mod gateway;
mod tunnel;

pub use conntrack::{conntrack_restore, conntrack_states};
pub use gateway::{gateway_answers, nat_fragments, nat_icmp_error, nat_packet};
pub use tunnel::tunnel_whole;

/// A target: its name, which is also its corpus's directory, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("ethernet_vlan_ip", ethernet_vlan_ip),
    ("vnet_hdr", vnet_hdr_decode),
    ("gso_segment", gso_segment),
    ("gro_coalesce", gro_coalesce),
    ("arp_nd", arp_nd),
    ("control_json", control_json),
    ("docker_json", docker_json),
    ("classifier", classifier),
    ("vxlan_train", vxlan_train),
    ("tunnel_whole", tunnel::tunnel_whole),
    ("too_big", too_big),
    ("nat_packet", gateway::nat_packet),
    ("nat_icmp_error", gateway::nat_icmp_error),
    ("nat_fragments", gateway::nat_fragments),
    ("gateway_answers", gateway::gateway_answers),
    ("conntrack_states", conntrack::conntrack_states),
    ("conntrack_restore", conntrack::conntrack_restore),
];

/// A frame through every view there is; the [`Layers`] lie within it and in order.
pub fn ethernet_vlan_ip(data: &[u8]) {
    if let Ok((ethertype, offset)) = ethernet::skip_tags(data) {
        let bytes = &data[offset..];
        match ethertype {
            EtherType::IPV4 => {
                if let Ok(packet) = ipv4::Packet::new_checked(bytes) {
                    assert!(packet.total_bytes() <= bytes.len());
                    assert!(packet.header_bytes() <= ipv4::HEADER_BYTES_MAX);
                    let _ = (packet.is_checksum_right(), packet.fragment_offset(), packet.source());
                    transport(packet.protocol(), packet.payload());
                }
            }
            EtherType::IPV6 => {
                if let Ok(Ok(upper)) = ipv6::Packet::new_checked(bytes).map(|packet| packet.upper()) {
                    assert!(upper.offset + upper.payload.len() <= bytes.len());
                    assert!(upper.is_fragment || !upper.is_later_fragment);
                    transport(upper.protocol, upper.payload);
                }
            }
            _ => {}
        }
    }
    if let Ok(layers) = Layers::parse(data) {
        let offsets = [
            ethernet::HEADER_BYTES,
            usize::from(layers.network_offset),
            usize::from(layers.transport_offset),
            usize::from(layers.payload_offset),
            layers.end as usize,
            data.len(),
        ];
        assert!(offsets.is_sorted(), "{offsets:?}");
        // Completing the checksum makes it right, unless UDP says that it has none.
        let mut copy = data[..layers.end as usize].to_vec();
        let pseudo = checksum::fold(layers.pseudo_header_sum(&copy, layers.transport_bytes()));
        let field = usize::from(layers.transport_offset + layers.transport.checksum_offset());
        copy[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        assert!(checksum::complete_partial(&mut copy, layers.transport_offset, layers.transport.checksum_offset()));
        assert!(checksum::is_transport_right(&copy, &layers));
    }
}

fn transport(number: u8, bytes: &[u8]) {
    match number {
        protocol::TCP => {
            if let Ok(packet) = tcp::Packet::new_checked(bytes) {
                assert_eq!(packet.header_bytes() + packet.payload().len(), bytes.len());
            }
        }
        protocol::UDP => {
            if let Ok(packet) = udp::Packet::new_checked(bytes) {
                assert_eq!(packet.length_bytes() + packet.surplus().len(), bytes.len());
            }
        }
        _ => {}
    }
}

/// A `virtio_net_hdr` and the frame behind it: what decodes encodes again, to the same meaning.
pub fn vnet_hdr_decode(data: &[u8]) {
    let (header, frame) = data.split_at(data.len().min(vnet_hdr::HEADER_BYTES));
    let Ok(offload) = vnet_hdr::decode(header, frame) else { return };
    let mut short = [0xff; vnet_hdr::HEADER_BYTES];
    let mut long = [0xff; vnet_hdr::HEADER_BYTES_V1];
    vnet_hdr::encode(&offload, frame, &mut short);
    vnet_hdr::encode(&offload, frame, &mut long);
    assert_eq!(short, long[..vnet_hdr::HEADER_BYTES]);
    assert_eq!(vnet_hdr::decode(&short, frame), Ok(offload));
    // What the kernel refuses: a linear part longer than the frame (`tun_get_user`).
    assert!(usize::from(u16::from_ne_bytes([short[2], short[3]])) <= frame.len());
}

/// A `virtio_net_hdr` and a frame: every segment fits its size and has right checksums.
pub fn gso_segment(data: &[u8]) {
    let (header, frame) = data.split_at(data.len().min(vnet_hdr::HEADER_BYTES));
    let Ok(offload) = vnet_hdr::decode(header, frame) else { return };
    let Ok(segmenter) = Segmenter::new(frame, &offload) else { return };
    let mut out = vec![0; segmenter.segment_bytes_max()];
    let mut payload_bytes = 0;
    for index in 0..segmenter.count() {
        let bytes = segmenter.write(index, &mut out);
        assert!(bytes > 0 && bytes <= frame.len());
        let layers = Layers::parse(&out[..bytes]).expect("a segment is a packet");
        assert_eq!(layers.end as usize, bytes);
        assert!(checksum::is_transport_right(&out[..bytes], &layers));
        payload_bytes += layers.payload_bytes();
    }
    assert_eq!(payload_bytes, Layers::parse(frame).expect("it was segmented").payload_bytes());
    assert_eq!(segmenter.write(segmenter.count(), &mut out), 0);
    assert_eq!(segmenter.write(0, &mut []), 0);
}

/// Frames, each behind a two-byte big-endian length and a `virtio_net_hdr`: coalescing loses none,
/// reorders none of a flow, and segmenting the result gives back the bytes that came in, whether all are looked at
/// or those that have company.
pub fn gro_coalesce(data: &[u8]) {
    coalesce(data, |_| u64::MAX);
    coalesce(data, |frames| {
        let all = (0..frames.len()).fold(0, |all, at| all | 1 << at);
        Company::default().find(Accept::ALL, all, |at| &frames[at])
    });
}

fn coalesce(data: &[u8], company: impl FnOnce(&[Frame]) -> u64) {
    let mut pool = Pool::new(BURST_FRAMES_MAX as u32).expect("address space");
    let mut frames = frames_of(&mut pool, data);
    let before: Vec<(Vec<u8>, Offload)> = frames.iter().map(|frame| (frame.data().to_vec(), frame.offload)).collect();
    let mut coalescer = Coalescer::default();
    coalescer.begin(Accept::ALL);
    let indices = 0..frames.len() as u16;
    let company = company(&frames);
    let mut merged = 0;
    for index in indices {
        if company & 1 << index != 0 {
            merged += usize::from(coalescer.push(&frames, index));
        } else {
            coalescer.push_alone(index);
        }
    }

    let mut units = Vec::new();
    coalescer.finish(&mut frames, |unit| units.push((unit.frame, unit.offload, unit.pieces.collect::<Vec<_>>())));
    assert_eq!(units.len() + merged, before.len(), "every frame leaves once");
    assert!(units.is_sorted_by_key(|unit| unit.0), "units leave in the order of their heads");
    let mut seen = vec![false; before.len()];
    let mut newest_of_flow = std::collections::HashMap::new();
    for (head, offload, pieces) in units {
        let mut whole = frames[usize::from(head)].data().to_vec();
        let mut expected = Vec::new();
        let members = std::iter::once(head).chain(pieces.iter().map(|piece| piece.0));
        for member in members {
            assert!(!std::mem::replace(&mut seen[usize::from(member)], true), "no frame leaves twice");
            let (bytes, offload) = &before[usize::from(member)];
            if let Some(flow) = flow_of(bytes) {
                let newest = newest_of_flow.insert(flow, member);
                assert!(newest.is_none_or(|newest| newest < member), "no frame overtakes another of its flow");
            }
            if !pieces.is_empty() && offload.csum == Csum::Unknown {
                let layers = Layers::parse(bytes).expect("it was merged");
                assert!(checksum::is_transport_right(bytes, &layers), "no damage is hidden");
            }
            expected.extend(finished(bytes, offload));
        }
        if pieces.is_empty() {
            assert_eq!((&whole, &offload), (&before[usize::from(head)].0, &before[usize::from(head)].1));
            continue;
        }
        for (frame, offset) in pieces {
            whole.extend_from_slice(&frames[usize::from(frame)].data()[usize::from(offset)..]);
        }
        assert_eq!(finished(&whole, &offload), expected);
    }
    assert!(seen.iter().all(|&seen| seen));
    pool.free_all(frames);
    assert_eq!(pool.outstanding(), 0);
}

/// Addresses, protocol and ports.
fn flow_of(frame: &[u8]) -> Option<(Vec<u8>, u8, [u8; 4])> {
    let layers = Layers::parse(frame).ok()?;
    let ports = frame[usize::from(layers.transport_offset)..].first_chunk::<4>()?;
    Some((layers.addresses(frame).to_vec(), layers.transport.protocol(), *ports))
}

/// Cuts the input into frames; what has contradictory metadata is left out, as a device does it.
fn frames_of(pool: &mut Pool, mut data: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let Some((header, rest)) = rest.split_first_chunk::<{ vnet_hdr::HEADER_BYTES }>() else { break };
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
        data = rest;
        let Ok(offload) = vnet_hdr::decode(header, bytes) else { continue };
        let Some(mut frame) = pool.alloc() else { break };
        frame.copy_from(bytes);
        frame.offload = offload;
        frames.push(frame);
    }
    frames
}

/// The frames that a wire would carry: segmented, and with their checksums complete in the form
/// in which a checksum has only one value.
fn finished(bytes: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    if offload.gso.is_some() {
        let Ok(segmenter) = Segmenter::new(bytes, offload) else { return vec![bytes.to_vec()] };
        let write = |index| {
            let mut out = vec![0; segmenter.segment_bytes_max()];
            let bytes = segmenter.write(index, &mut out);
            out.truncate(bytes);
            out
        };
        return (0..segmenter.count()).map(write).collect();
    }
    let mut bytes = bytes.to_vec();
    if let Ok(layers) = Layers::parse(&bytes) {
        let pseudo = checksum::fold(layers.pseudo_header_sum(&bytes, layers.transport_bytes()));
        let field = usize::from(layers.transport_offset + layers.transport.checksum_offset());
        bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        let end = layers.end as usize;
        checksum::complete_partial(&mut bytes[..end], layers.transport_offset, layers.transport.checksum_offset());
    }
    vec![bytes]
}

/// The payload of an ARP frame or of an ICMPv6 packet.
pub fn arp_nd(data: &[u8]) {
    if let Ok(packet) = arp::Packet::new_checked(data) {
        let _ = (packet.operation(), packet.sender_mac(), packet.target_mac());
        assert!(!packet.is_gratuitous() || packet.sender_ip() == packet.target_ip());
    }
    if let Ok(packet) = icmpv6::Packet::new_checked(data) {
        assert_eq!(packet.body().len() + icmpv6::HEADER_BYTES, data.len());
        if let Ok(Some(neighbor)) = packet.neighbor() {
            let _ = (neighbor.target(), neighbor.is_override(), neighbor.is_solicited(), neighbor.is_router());
            let address = neighbor.link_layer_address();
            assert!(address.is_none_or(|mac| data.windows(6).any(|window| window == mac.0)));
        }
    }
}

/// A frame from an uplink, against the rules that say whose it is: nothing but a whole packet to one of the host's
/// addresses is ever the switch's.
pub fn classifier(data: &[u8]) {
    let now = Duration::from_secs(60);
    let host: [IpAddr; 2] = [[192, 0, 2, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()];
    let any: [IpAddr; 2] = [[0; 4].into(), [0; 16].into()];
    let routed: [IpNet; 2] = [([192, 0, 2, 0].into(), 25), ([0x2001, 0xdb8, 7, 0, 0, 0, 0, 0].into(), 64)]
        .map(|(address, bits): (IpAddr, u8)| IpNet::new_assert(address, bits));
    let mut maps = Maps { local: host.into(), routed: routed.into(), ..Maps::default() };
    for (protocol, ipv6) in Protocol::ALL.into_iter().flat_map(|protocol| [false, true].map(|ipv6| (protocol, ipv6))) {
        maps.published.insert((protocol, ipv6, 80));
        maps.services.insert((protocol, host[usize::from(ipv6)], 443), Counter::Published);
        maps.services.insert((Protocol::Udp, any[usize::from(ipv6)], 4789), Counter::Vxlan);
    }
    maps.translated.extend(Flow::ALL.into_iter().flat_map(|flow| [(flow, false, 40000), (flow, true, 40000)]));
    let rule = |frame: &[u8]| maps.clone().classify(Arrival::Uplink, frame, true, now);
    let looped = maps.clone().classify(Arrival::Loopback, data, true, now);

    let taken_by = rule(data);
    assert_eq!(maps.clone().classify(Arrival::Uplink, data, false, now), Counter::Passed, "it is for another station");
    let mut strangers = Maps { local: [].into(), routed: [].into(), ..maps.clone() };
    assert_eq!(strangers.classify(Arrival::Uplink, data, true, now), Counter::Passed, "the host has no address");
    assert_ne!(looped, Counter::Routed, "the host reaches those networks by itself");
    if ![Counter::Passed, Counter::Routed].contains(&taken_by) {
        assert_eq!(looped, taken_by, "the host's own addresses are its own from everywhere");
    }
    if taken_by == Counter::Passed {
        return;
    }
    assert_ne!(taken_by, Counter::LaterFragment, "no first fragment came");
    let (ethertype, at) = ethernet::skip_tags(data).expect("it was taken");
    assert_eq!(at, ethernet::HEADER_BYTES, "tagged frames are the host's");
    let (bytes, destination) = match ethertype {
        EtherType::IPV4 => {
            let packet = ipv4::Packet::new_checked(&data[at..]).expect("it was taken");
            (packet.total_bytes(), IpAddr::V4(packet.destination()))
        }
        _ => {
            let packet = ipv6::Packet::new_checked(&data[at..]).expect("it was taken");
            (ipv6::HEADER_BYTES + packet.payload().len(), IpAddr::V6(packet.destination()))
        }
    };
    match taken_by {
        Counter::Routed => {
            assert!(!host.contains(&destination), "{destination}");
            assert!(routed.iter().any(|network| network.contains(&destination)), "{destination}");
        }
        _ => assert!(host.contains(&destination), "{destination}"),
    }
    assert_eq!(rule(&data[..at + bytes]), taken_by, "padding is no part of the packet");
    assert_eq!(rule(&data[..at + bytes - 1]), Counter::Passed, "a packet that is cut short");
}

/// A two-byte big-endian size and the datagrams of a train: what passes the checks is a frame, marks of
/// congestion keep its checksum as it was, and what is put together segments into the bytes that came in.
pub fn vxlan_train(data: &[u8]) {
    let Some((size, train)) = data.split_first_chunk::<2>() else { return };
    let size = usize::from(u16::from_be_bytes(*size)).max(1);
    let remote = IpAddr::from([198, 18, 0, 2]);
    let tunnel = |vni, inner_tags| TunnelEntry { vni, inner_tags, remotes: vec![(remote, PortId(1))] };
    let tunnels = TunnelTable::new(&[tunnel(42, false), tunnel(43, true)]);
    let passes = |datagram| decap::check(datagram, remote, vxlan::PORT, &tunnels).ok().map(|(_, frame)| frame);
    let mut frames = train.chunks(size).map_while(passes).peekable();
    while let Some(first) = frames.next() {
        assert!(first.len() >= ethernet::HEADER_BYTES);
        let _ = inner::examine(first);
        marked_and_right(first);
        let Some(mut run) = Run::open(first) else { continue };
        let (mut whole, mut expected) = (first.to_vec(), vec![first]);
        while let Some(next) = frames.peek()
            && let Some((headers, payload)) = next.split_at_checked(run.headers_bytes())
            && run.take(&whole, headers, payload)
        {
            whole.extend(payload);
            expected.extend(frames.next());
        }
        assert_eq!((whole.len(), usize::from(run.count())), (run.frame_bytes(), expected.len()));
        let offload = run.close(&mut whole);
        if expected.len() > 1 {
            let expected: Vec<_> = expected.iter().flat_map(|frame| finished(frame, &Offload::NONE)).collect();
            assert_eq!(finished(&whole, &offload), expected);
        }
    }
}

/// Whatever mark the outer packet has: the length is the same, and so is whether the header is right.
fn marked_and_right(frame: &[u8]) {
    let is_right = |frame: &[u8]| {
        let (ethertype, offset) = ethernet::skip_tags(frame).ok()?;
        let packet = ipv4::Packet::new_checked(&frame[offset..]).ok()?;
        (ethertype == EtherType::IPV4).then(|| packet.is_checksum_right())
    };
    for tos in 0..4 {
        let mut marked = frame.to_vec();
        if ecn::decapsulate(&mut marked, Ecn::of_tos(tos)).is_ok() {
            assert_eq!(is_right(&marked), is_right(frame));
        } else {
            assert_eq!(marked, frame);
        }
    }
}

/// A two-byte big-endian MTU and a frame: the answer is a whole packet to the sender, and not answered.
pub fn too_big(data: &[u8]) {
    let Some((mtu, frame)) = data.split_first_chunk::<2>() else { return };
    let mtu = u32::from(u16::from_be_bytes(*mtu));
    let answer = |frame: &[u8], told: &mut [u8]| {
        // As the egress has it: only what is larger than the MTU is too big.
        let packet_bytes = frame.len().max(mtu as usize + 1);
        too_big::too_big(frame, packet_bytes, mtu, told)
    };
    let mut told = [0; too_big::BYTES_MAX];
    let Some(bytes) = answer(frame, &mut told) else { return };
    let told = &told[..bytes];
    assert_eq!(told[..6], frame[6..12]);
    let (ethertype, offset) = ethernet::skip_tags(told).expect("it is a frame");
    match ethertype {
        EtherType::IPV4 => {
            let packet = ipv4::Packet::new_checked(&told[offset..]).expect("it is a packet");
            assert!(packet.is_checksum_right() && checksum::of(packet.payload()) == 0);
        }
        _ => {
            let packet = ipv6::Packet::new_checked(&told[offset..]).expect("it is a packet");
            let sum = packet.pseudo_header_sum(protocol::ICMPV6, packet.payload().len());
            assert_eq!(checksum::fold(sum + checksum::sum(packet.payload())), 0xffff);
        }
    }
    assert_eq!(answer(told, &mut [0; too_big::BYTES_MAX]), None, "an error about an error would have no end");
}

/// A request's body, as every type that the control socket reads: what is understood survives
/// being written and read again.
pub fn control_json(data: &[u8]) {
    fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
        let Ok(value) = serde_json::from_slice::<T>(data) else { return };
        let text = serde_json::to_vec(&value).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<T>(&text).expect("what was written can be read"), value);
    }
    round_trip::<api::BridgeSpec>(data);
    round_trip::<api::BridgeChange>(data);
    round_trip::<api::PortSpec>(data);
    round_trip::<api::FdbStatic>(data);
    round_trip::<api::Shutdown>(data);
    // Answers, which the client reads from a daemon that may be of another version.
    round_trip::<api::Error>(data);
    round_trip::<api::Bridge>(data);
    round_trip::<api::Port>(data);
    round_trip::<api::Stats>(data);
}

/// The JSON that Docker's network driver reads.
pub fn docker_json(data: &[u8]) {
    crate::control::docker::fuzzing::messages(data);
}
