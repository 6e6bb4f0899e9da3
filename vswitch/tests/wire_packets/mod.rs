//! Packets built and examined by an independent library (`pnet_packet`), for the tests of the wire
//! formats, of segmentation and of coalescing.
#![allow(dead_code, reason = "each test crate uses its part")]

use std::net::{Ipv4Addr, Ipv6Addr};

use pnet_packet::ethernet::{EtherType, MutableEthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocol;
use pnet_packet::ipv4::{Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::tcp::{MutableTcpPacket, TcpPacket};
use pnet_packet::udp::{MutableUdpPacket, UdpPacket};
use pnet_packet::{Packet, tcp, udp};
use proptest::prelude::*;
use vswitch::frame::{Frame, GsoKind, Offload, Pool};

pub(crate) const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
pub(crate) const DESTINATION_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);
pub(crate) const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const DESTINATION_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);

/// A packet to be built.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) tags: Vec<u16>,
    pub(crate) v6: bool,
    /// IPv4 options, in bytes: a multiple of four, at most 40.
    pub(crate) ip_options: usize,
    /// IPv6 destination-option headers of eight bytes.
    pub(crate) extensions: usize,
    pub(crate) tcp: bool,
    /// A multiple of four, at most 40 bytes.
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) id: u16,
    pub(crate) ttl: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) payload: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            v6: false,
            ip_options: 0,
            extensions: 0,
            tcp: true,
            tcp_options: Vec::new(),
            flags: 0x10,
            sequence: 1,
            acknowledgement: 7,
            window: 501,
            id: 100,
            ttl: 64,
            ports: (40000, 5201),
            payload: Vec::new(),
        }
    }
}

impl Spec {
    pub(crate) fn kind(&self) -> GsoKind {
        match (self.tcp, self.v6) {
            (true, false) => GsoKind::Tcp4,
            (true, true) => GsoKind::Tcp6,
            (false, _) => GsoKind::Udp,
        }
    }

    /// Where the IP header is.
    pub(crate) fn network_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the transport header is.
    pub(crate) fn transport_offset(&self) -> usize {
        self.network_offset() + if self.v6 { 40 + 8 * self.extensions } else { 20 + self.ip_options }
    }

    /// The length of all headers.
    pub(crate) fn header_bytes(&self) -> usize {
        self.transport_offset() + if self.tcp { 20 + self.tcp_options.len() } else { 8 }
    }

    /// The partial checksum as the kernel would describe it.
    pub(crate) fn partial(&self) -> vswitch::frame::Csum {
        vswitch::frame::Csum::Partial { start: self.transport_offset() as u16, offset: if self.tcp { 16 } else { 6 } }
    }

    /// The frame, with all checksums complete.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut frame = vec![0; self.header_bytes() + self.payload.len()];
        let ethertype = if self.v6 { 0x86dd } else { 0x0800 };
        {
            let mut ethernet = MutableEthernetPacket::new(&mut frame).unwrap();
            ethernet.set_destination([0x02, 0x42, 172, 18, 0, 3].into());
            ethernet.set_source([0x02, 0x42, 172, 18, 0, 2].into());
            ethernet.set_ethertype(EtherType(ethertype));
        }
        for (index, tag) in self.tags.iter().enumerate() {
            let at = 12 + 4 * index;
            frame[at..at + 2].copy_from_slice(&[0x81, 0x00]);
            frame[at + 2..at + 4].copy_from_slice(&tag.to_be_bytes());
            frame[at + 4..at + 6].copy_from_slice(&ethertype.to_be_bytes());
        }
        let (network, transport) = (self.network_offset(), self.transport_offset());
        self.build_transport(&mut frame[transport..]);
        let protocol = IpNextHeaderProtocol(if self.tcp { 6 } else { 17 });
        let packet = &mut frame[network..];
        if self.v6 {
            let payload_bytes = packet.len() - 40;
            for index in 0..self.extensions {
                let last = index + 1 == self.extensions;
                packet[40 + 8 * index] = if last { protocol.0 } else { 60 };
                packet[42 + 8 * index..48 + 8 * index].copy_from_slice(&[1, 4, 0, 0, 0, 0]);
            }
            let mut ip = MutableIpv6Packet::new(packet).unwrap();
            ip.set_version(6);
            ip.set_flow_label(0x12345);
            ip.set_payload_length(payload_bytes as u16);
            ip.set_next_header(if self.extensions > 0 { IpNextHeaderProtocol(60) } else { protocol });
            ip.set_hop_limit(self.ttl);
            ip.set_source(SOURCE_V6);
            ip.set_destination(DESTINATION_V6);
        } else {
            packet[20..20 + self.ip_options].fill(1); // no operation
            let total_bytes = packet.len();
            let mut ip = MutableIpv4Packet::new(packet).unwrap();
            ip.set_version(4);
            ip.set_header_length((5 + self.ip_options / 4) as u8);
            ip.set_total_length(total_bytes as u16);
            ip.set_identification(self.id);
            ip.set_flags(2);
            ip.set_ttl(self.ttl);
            ip.set_next_level_protocol(protocol);
            ip.set_source(SOURCE_V4);
            ip.set_destination(DESTINATION_V4);
            let checksum = pnet_packet::ipv4::checksum(&ip.to_immutable());
            ip.set_checksum(checksum);
        }
        frame
    }

    fn build_transport(&self, bytes: &mut [u8]) {
        let length = bytes.len();
        if self.tcp {
            bytes[20..20 + self.tcp_options.len()].copy_from_slice(&self.tcp_options);
            bytes[20 + self.tcp_options.len()..].copy_from_slice(&self.payload);
            let mut packet = MutableTcpPacket::new(bytes).unwrap();
            packet.set_source(self.ports.0);
            packet.set_destination(self.ports.1);
            packet.set_sequence(self.sequence);
            packet.set_acknowledgement(self.acknowledgement);
            packet.set_data_offset((5 + self.tcp_options.len() / 4) as u8);
            packet.set_flags(self.flags);
            packet.set_window(self.window);
            let checksum = tcp_checksum(&packet.to_immutable(), self.v6);
            packet.set_checksum(checksum);
        } else {
            bytes[8..].copy_from_slice(&self.payload);
            let mut packet = MutableUdpPacket::new(bytes).unwrap();
            packet.set_source(self.ports.0);
            packet.set_destination(self.ports.1);
            packet.set_length(length as u16);
            let checksum = udp_checksum(&packet.to_immutable(), self.v6);
            packet.set_checksum(checksum);
        }
    }
}

fn tcp_checksum(packet: &TcpPacket<'_>, v6: bool) -> u16 {
    if v6 {
        tcp::ipv6_checksum(packet, &SOURCE_V6, &DESTINATION_V6)
    } else {
        tcp::ipv4_checksum(packet, &SOURCE_V4, &DESTINATION_V4)
    }
}

fn udp_checksum(packet: &UdpPacket<'_>, v6: bool) -> u16 {
    let checksum = if v6 {
        udp::ipv6_checksum(packet, &SOURCE_V6, &DESTINATION_V6)
    } else {
        udp::ipv4_checksum(packet, &SOURCE_V4, &DESTINATION_V4)
    };
    if checksum == 0 { 0xffff } else { checksum }
}

/// Asserts, with the independent library, that lengths and checksums of a finished frame are right.
pub(crate) fn assert_finished(frame: &[u8], spec: &Spec) {
    let packet = &frame[spec.network_offset()..];
    if spec.v6 {
        let ip = Ipv6Packet::new(packet).unwrap();
        assert_eq!(usize::from(ip.get_payload_length()), packet.len() - 40);
    } else {
        let ip = Ipv4Packet::new(packet).unwrap();
        assert_eq!(usize::from(ip.get_total_length()), packet.len());
        assert_eq!(ip.get_checksum(), pnet_packet::ipv4::checksum(&ip));
    }
    let transport = &frame[spec.transport_offset()..];
    if spec.tcp {
        let packet = TcpPacket::new(transport).unwrap();
        assert_eq!(packet.get_checksum(), tcp_checksum(&packet, spec.v6));
    } else {
        let packet = UdpPacket::new(transport).unwrap();
        assert_eq!(usize::from(packet.get_length()), packet.packet().len());
        assert_eq!(packet.get_checksum(), udp_checksum(&packet, spec.v6));
    }
}

/// Bytes that differ from place to place.
pub(crate) fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index.wrapping_mul(31) ^ (index >> 8)) as u8).collect()
}

/// Frames of a pool with these contents.
pub(crate) fn frames_of(pool: &mut Pool, contents: &[(Vec<u8>, Offload)]) -> Vec<Frame> {
    let frame = |(bytes, offload): &(Vec<u8>, Offload)| {
        let mut frame = pool.alloc().expect("the pool is large enough");
        frame.copy_from(bytes);
        frame.offload = *offload;
        frame
    };
    contents.iter().map(frame).collect()
}

prop_compose! {
    /// Any packet that the builder can make, with up to `payload_max` bytes of payload.
    pub(crate) fn any_spec(payload_max: usize)(
        tags in prop::collection::vec(any::<u16>(), 0..=2),
        (v6, tcp) in any::<(bool, bool)>(),
        ip_options in (0_usize..=10).prop_map(|words| words * 4),
        extensions in 0_usize..=3,
        tcp_options in (0_usize..=10).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4)),
        (flags, sequence, acknowledgement, window) in any::<(u8, u32, u32, u16)>(),
        (id, ttl, ports) in any::<(u16, u8, (u16, u16))>(),
        payload in prop::collection::vec(any::<u8>(), 0..=payload_max),
    ) -> Spec {
        Spec {
            tags, v6, ip_options, extensions, tcp, tcp_options, flags, sequence, acknowledgement, window, id, ttl,
            ports, payload,
        }
    }
}
