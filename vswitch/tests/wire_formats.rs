//! Every wire format against an independent library, and against random bytes.

mod wire_packets;

use std::net::{Ipv4Addr, Ipv6Addr};

use pnet_packet::Packet as _;
use proptest::prelude::*;
use smoltcp::wire as smol;
use vswitch::frame::checksum;
use vswitch::wire::layers::{Network, NoLayers, Transport};
use vswitch::wire::{Error, EtherType, Layers, MacAddr, announce, arp, ethernet, icmpv6, ipv4, ipv6, tcp, udp};
use wire_packets::{Spec, any_spec, payload};

proptest! {
    #[test]
    fn layers_are_where_the_builder_put_them(spec in any_spec(300), padding in 0_usize..20) {
        let mut frame = spec.build();
        let end = frame.len();
        frame.resize(end + padding, 0);
        let layers = Layers::parse(&frame).unwrap();
        prop_assert_eq!(usize::from(layers.network_offset), spec.network_offset());
        prop_assert_eq!(usize::from(layers.transport_offset), spec.transport_offset());
        prop_assert_eq!(usize::from(layers.payload_offset), spec.header_bytes());
        prop_assert_eq!(layers.end as usize, end);
        prop_assert_eq!(layers.network, if spec.v6 { Network::V6 } else { Network::V4 });
        prop_assert_eq!(layers.transport, if spec.tcp { Transport::Tcp } else { Transport::Udp });
        prop_assert!(checksum::is_transport_right(&frame, &layers));
        if let Some(last) = end.checked_sub(1).filter(|_| !spec.payload.is_empty()) {
            frame[last] ^= 0x10;
            prop_assert!(!checksum::is_transport_right(&frame, &layers));
        }
    }

    #[test]
    fn a_cut_packet_has_no_layers(spec in any_spec(50), cut in any::<prop::sample::Index>()) {
        let frame = spec.build();
        let cut = cut.index(frame.len());
        let as_expected = matches!(Layers::parse(&frame[..cut]), Err(NoLayers::Malformed(Error::Truncated { .. })));
        prop_assert!(as_expected);
    }

    #[test]
    fn ethernet_agrees(frame in prop::collection::vec(any::<u8>(), 14..80), tags in prop::collection::vec(any::<u16>(), 0..4)) {
        let theirs = pnet_packet::ethernet::EthernetPacket::new(&frame).unwrap();
        let ours = ethernet::Frame::new_checked(&frame).unwrap();
        prop_assert_eq!(ours.destination().0, theirs.get_destination().octets());
        prop_assert_eq!(ours.source().0, theirs.get_source().octets());
        prop_assert_eq!(ours.ethertype().0, theirs.get_ethertype().0);
        prop_assert_eq!(ours.payload(), theirs.payload());

        let mut tagged = frame[..12].to_vec();
        for tag in &tags {
            tagged.extend([0x81, 0]);
            tagged.extend(tag.to_be_bytes());
        }
        tagged.extend([8, 0]);
        let (ethertype, offset) = ethernet::skip_tags(&tagged).unwrap();
        prop_assert_eq!(offset, 14 + 4 * tags.len().min(2));
        prop_assert_eq!(ethertype, if tags.len() > 2 { EtherType::VLAN } else { EtherType::IPV4 });
        if let Some(&tag) = tags.first() {
            let theirs = pnet_packet::vlan::VlanPacket::new(&tagged[14..]).unwrap();
            let ours = ethernet::Tagged::new_checked(&tagged[14..]).unwrap();
            prop_assert_eq!(ours.tag().0, tag);
            prop_assert_eq!(ours.tag().vid(), theirs.get_vlan_identifier());
            prop_assert_eq!(ours.tag().pcp(), theirs.get_priority_code_point().0);
            prop_assert_eq!(u8::from(ours.tag().dei()), theirs.get_drop_eligible_indicator());
            prop_assert_eq!(ours.ethertype().0, theirs.get_ethertype().0);
        }
    }

    #[test]
    fn ipv4_agrees(mut bytes in prop::collection::vec(any::<u8>(), 60..200), words in 5_u8..=15, beyond in 0_usize..40) {
        let header_bytes = usize::from(words) * 4;
        let total = (bytes.len() - beyond).max(header_bytes);
        bytes[0] = 0x40 | words;
        bytes[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        let ours = ipv4::Packet::new_checked(&bytes).unwrap();
        let theirs = pnet_packet::ipv4::Ipv4Packet::new(&bytes[..total]).unwrap();
        let second = smol::Ipv4Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(ours.header_bytes(), header_bytes);
        prop_assert_eq!(ours.total_bytes(), total);
        prop_assert_eq!(ours.options(), &bytes[20..header_bytes]);
        prop_assert_eq!(ours.payload(), theirs.payload());
        prop_assert_eq!(ours.tos(), bytes[1]);
        prop_assert_eq!(ours.id(), theirs.get_identification());
        prop_assert_eq!(ours.dont_fragment(), theirs.get_flags() & 2 != 0);
        prop_assert_eq!(ours.is_fragment(), second.more_frags() || second.frag_offset() != 0);
        prop_assert_eq!(ours.fragment_offset(), usize::from(second.frag_offset()));
        prop_assert_eq!(ours.ttl(), theirs.get_ttl());
        prop_assert_eq!(ours.protocol(), theirs.get_next_level_protocol().0);
        prop_assert_eq!(ours.source(), theirs.get_source());
        prop_assert_eq!(ours.destination(), theirs.get_destination());
        prop_assert_eq!(ours.is_checksum_right(), second.verify_checksum());

        let mut copy = bytes.clone();
        let mut header = ipv4::HeaderMut::new_checked(&mut copy).unwrap();
        header.set_total_bytes(header_bytes as u16);
        header.set_id(0x1234);
        header.fill_checksum();
        let second = smol::Ipv4Packet::new_checked(&copy[..]).unwrap();
        prop_assert_eq!((usize::from(second.total_len()), second.ident()), (header_bytes, 0x1234));
        prop_assert!(second.verify_checksum());
        prop_assert_eq!(&copy[header_bytes..], &bytes[header_bytes..]);
    }

    #[test]
    fn ipv6_agrees(mut bytes in prop::collection::vec(any::<u8>(), 40..200), beyond in 0_usize..40) {
        let payload_bytes = (bytes.len() - 40).saturating_sub(beyond);
        bytes[0] = 0x60 | bytes[0] & 0xf;
        bytes[4..6].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
        let ours = ipv6::Packet::new_checked(&bytes).unwrap();
        let theirs = pnet_packet::ipv6::Ipv6Packet::new(&bytes).unwrap();
        prop_assert_eq!(ours.traffic_class(), theirs.get_traffic_class());
        prop_assert_eq!(ours.flow_label(), theirs.get_flow_label());
        prop_assert_eq!(ours.next_header(), theirs.get_next_header().0);
        prop_assert_eq!(ours.hop_limit(), theirs.get_hop_limit());
        prop_assert_eq!(ours.source(), theirs.get_source());
        prop_assert_eq!(ours.destination(), theirs.get_destination());
        prop_assert_eq!(ours.payload(), theirs.payload());
        let _ = ours.upper();
    }

    #[test]
    fn tcp_agrees(mut bytes in prop::collection::vec(any::<u8>(), 60..200), words in 5_u8..=15) {
        bytes[12] = words << 4 | bytes[12] & 0xf;
        let ours = tcp::Packet::new_checked(&bytes).unwrap();
        let theirs = pnet_packet::tcp::TcpPacket::new(&bytes).unwrap();
        prop_assert_eq!(ours.source_port(), theirs.get_source());
        prop_assert_eq!(ours.destination_port(), theirs.get_destination());
        prop_assert_eq!(ours.sequence(), theirs.get_sequence());
        prop_assert_eq!(ours.acknowledgement(), theirs.get_acknowledgement());
        prop_assert_eq!(ours.flags().0, theirs.get_flags());
        prop_assert_eq!(ours.window(), theirs.get_window());
        prop_assert_eq!(ours.checksum(), theirs.get_checksum());
        prop_assert_eq!(ours.header_bytes(), usize::from(words) * 4);
        prop_assert_eq!(ours.options(), &bytes[20..usize::from(words) * 4]);
        prop_assert_eq!(ours.payload(), theirs.payload());

        let mut copy = bytes.clone();
        let mut header = tcp::HeaderMut::new_checked(&mut copy).unwrap();
        header.set_sequence(0x0102_0304);
        header.set_flags(tcp::Flags::PSH.with(tcp::Flags::ACK));
        header.set_checksum(0xabcd);
        let theirs = pnet_packet::tcp::TcpPacket::new(&copy).unwrap();
        prop_assert_eq!((theirs.get_sequence(), theirs.get_flags(), theirs.get_checksum()), (0x0102_0304, 0x18, 0xabcd));
    }

    #[test]
    fn udp_agrees(mut bytes in prop::collection::vec(any::<u8>(), 8..100), beyond in 0_usize..40) {
        let length = (bytes.len() - beyond.min(bytes.len())).max(8);
        bytes[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        let ours = udp::Packet::new_checked(&bytes).unwrap();
        let theirs = smol::UdpPacket::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(ours.source_port(), theirs.src_port());
        prop_assert_eq!(ours.destination_port(), theirs.dst_port());
        prop_assert_eq!(ours.length_bytes(), usize::from(theirs.len()));
        prop_assert_eq!(ours.checksum(), theirs.checksum());
        prop_assert_eq!(ours.payload(), theirs.payload());
        prop_assert_eq!(ours.surplus().len(), bytes.len() - length);
    }

    #[test]
    fn arp_agrees(mut bytes in prop::collection::vec(any::<u8>(), 28..60)) {
        bytes[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        let ours = arp::Packet::new_checked(&bytes).unwrap();
        let theirs = pnet_packet::arp::ArpPacket::new(&bytes).unwrap();
        prop_assert_eq!(ours.sender_mac().0, theirs.get_sender_hw_addr().octets());
        prop_assert_eq!(ours.sender_ip(), theirs.get_sender_proto_addr());
        prop_assert_eq!(ours.target_mac().0, theirs.get_target_hw_addr().octets());
        prop_assert_eq!(ours.target_ip(), theirs.get_target_proto_addr());
        let number = theirs.get_operation().0;
        let operation = match number { 1 => arp::Operation::Request, 2 => arp::Operation::Reply, n => arp::Operation::Other(n) };
        prop_assert_eq!(ours.operation(), operation);
    }

    #[test]
    fn neighbour_discovery_agrees(target in any::<[u8; 16]>(), mac in any::<[u8; 6]>(), flags in 0_u8..8, solicit in any::<bool>(), with_mac in any::<bool>()) {
        let (target, source) = (Ipv6Addr::from(target), Ipv6Addr::LOCALHOST);
        let lladdr = with_mac.then(|| smol::HardwareAddress::Ethernet(smol::EthernetAddress(mac)).into());
        let flags = smol::NdiscNeighborFlags::from_bits_truncate(flags << 5);
        let ndisc = if solicit {
            smol::NdiscRepr::NeighborSolicit { target_addr: target, lladdr }
        } else {
            smol::NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr }
        };
        let repr = smol::Icmpv6Repr::Ndisc(ndisc);
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&source, &source, &mut smol::Icmpv6Packet::new_unchecked(&mut bytes[..]), &Default::default());
        let ours = icmpv6::Packet::new_checked(&bytes).unwrap();
        prop_assert_eq!(ours.checksum(), smol::Icmpv6Packet::new_unchecked(&bytes[..]).checksum());
        let neighbor = ours.neighbor().unwrap().unwrap();
        prop_assert_eq!(neighbor.is_advertisement(), !solicit);
        prop_assert_eq!(neighbor.target(), target);
        prop_assert_eq!(neighbor.link_layer_address(), with_mac.then_some(MacAddr(mac)));
        if !solicit {
            prop_assert_eq!(neighbor.is_router(), flags.contains(smol::NdiscNeighborFlags::ROUTER));
            prop_assert_eq!(neighbor.is_solicited(), flags.contains(smol::NdiscNeighborFlags::SOLICITED));
            prop_assert_eq!(neighbor.is_override(), flags.contains(smol::NdiscNeighborFlags::OVERRIDE));
        }
        for cut in 0..bytes.len() {
            let _ = icmpv6::Packet::new_checked(&bytes[..cut]).map(|packet| packet.neighbor().map(|n| n.map(|n| n.link_layer_address())));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (_, target) in vswitch::fuzzing::TARGETS {
            target(&bytes);
        }
    }

    #[test]
    fn almost_right_packets_never_panic(
        spec in any_spec(60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = spec.build();
        for (index, byte) in damage {
            let at = index.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(cut.index(frame.len() + 1));
        vswitch::fuzzing::ethernet_vlan_ip(&frame);
        let mut input = vec![1, 1, 0, 0, 40, 0, 34, 0, 16, 0];
        input.extend_from_slice(&frame);
        vswitch::fuzzing::vnet_hdr_decode(&input);
        vswitch::fuzzing::gso_segment(&input);
    }

    #[test]
    fn mac_text_and_back(mac in any::<[u8; 6]>(), text in ".{0,20}") {
        prop_assert_eq!(MacAddr(mac).to_string().parse(), Ok(MacAddr(mac)));
        prop_assert_eq!(MacAddr(mac).to_string(), pnet_base_text(mac));
        let _ = text.parse::<MacAddr>();
    }
}

fn pnet_base_text(mac: [u8; 6]) -> String {
    smol::EthernetAddress(mac).to_string().replace('-', ":").to_lowercase()
}

#[test]
fn the_walk_over_extension_headers_is_bounded() {
    let with = |extensions: usize| Spec { v6: true, extensions, payload: payload(9), ..Spec::default() };
    let upper_of = |spec: &Spec| {
        let frame = spec.build();
        ipv6::Packet::new_checked(&frame[14..]).unwrap().upper().map(|upper| (upper.protocol, upper.offset))
    };
    for extensions in 0..=ipv6::EXTENSIONS_MAX {
        assert_eq!(upper_of(&with(extensions)), Ok((6, 40 + 8 * extensions)));
    }
    assert!(matches!(upper_of(&with(ipv6::EXTENSIONS_MAX + 1)), Err(Error::Malformed { .. })));
}

#[test]
fn fragments_have_no_layers() {
    let mut frame = Spec { payload: payload(64), ..Spec::default() }.build();
    frame[20] = 0x20;
    assert_eq!(Layers::parse(&frame), Err(NoLayers::Fragment));

    let mut frame = Spec { v6: true, extensions: 1, payload: payload(64), ..Spec::default() }.build();
    frame[20] = 44;
    frame[54..62].copy_from_slice(&[6, 0, 0, 1, 0, 0, 0, 9]);
    assert_eq!(Layers::parse(&frame), Err(NoLayers::Fragment));
    let upper = ipv6::Packet::new_checked(&frame[14..]).unwrap().upper().unwrap();
    assert!(upper.is_fragment && !upper.is_later_fragment);
    frame[57] = 8;
    let upper = ipv6::Packet::new_checked(&frame[14..]).unwrap().upper().unwrap();
    assert!(upper.is_fragment && upper.is_later_fragment);
    assert_eq!(upper.offset, 48);
}

#[test]
fn contradictions_are_named() {
    let frame = Spec { payload: payload(10), ..Spec::default() }.build();
    let message = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[at] = byte;
        Layers::parse(&frame).unwrap_err().to_string()
    };
    assert_eq!(message(14, 0x65), "IPv4: the version is not 4");
    assert_eq!(message(14, 0x44), "IPv4: the header length is below 20 bytes");
    assert_eq!(message(17, 19), "IPv4: the total length is below the header length");
    assert_eq!(message(16, 1), "IPv4: 50 bytes where at least 306 are needed");
    assert_eq!(message(46, 0x40), "TCP: the data offset is below 20 bytes");
    assert_eq!(message(13, 6), "not an IP packet");
    assert_eq!(message(23, 1), "neither TCP nor UDP");
}

#[test]
fn announcements_are_what_the_neighbours_expect() {
    let mac = MacAddr::from_ipv4(Ipv4Addr::new(172, 18, 0, 2));
    let frame = announce::announcement(mac, Ipv4Addr::new(172, 18, 0, 2).into());
    let ethernet = ethernet::Frame::new_checked(&frame).unwrap();
    assert!(ethernet.destination().is_broadcast());
    assert_eq!((ethernet.source(), ethernet.ethertype()), (mac, EtherType::ARP));
    let packet = arp::Packet::new_checked(ethernet.payload()).unwrap();
    assert_eq!(packet.operation(), arp::Operation::Request);
    assert_eq!((packet.sender_mac(), packet.target_mac()), (mac, MacAddr::ZERO));
    assert_eq!(packet.sender_ip(), Ipv4Addr::new(172, 18, 0, 2));
    assert!(packet.is_gratuitous());

    let ip: Ipv6Addr = "fd00::2".parse().unwrap();
    let frame = announce::announcement(mac, ip.into());
    let ethernet = ethernet::Frame::new_checked(&frame).unwrap();
    assert_eq!(ethernet.destination().to_string(), "33:33:00:00:00:01");
    assert_eq!((ethernet.source(), ethernet.ethertype()), (mac, EtherType::IPV6));
    let packet = ipv6::Packet::new_checked(ethernet.payload()).unwrap();
    assert_eq!((packet.source(), packet.destination()), (ip, "ff02::1".parse().unwrap()));
    assert_eq!((packet.hop_limit(), packet.next_header()), (255, 58));
    let message = icmpv6::Packet::new_checked(packet.payload()).unwrap();
    let neighbor = message.neighbor().unwrap().unwrap();
    assert!(neighbor.is_advertisement() && neighbor.is_override());
    assert!(!neighbor.is_solicited() && !neighbor.is_router());
    assert_eq!((neighbor.target(), neighbor.link_layer_address()), (ip, Some(mac)));
    let sum = packet.pseudo_header_sum(58, packet.payload().len()) + checksum::sum(packet.payload());
    assert_eq!(checksum::fold(sum), 0xffff);
    let theirs = pnet_packet::icmpv6::Icmpv6Packet::new(packet.payload()).unwrap();
    assert_eq!(theirs.get_checksum(), pnet_packet::icmpv6::checksum(&theirs, &ip, &"ff02::1".parse().unwrap()));
}
