//! Packets for tests: of any protocol and family, with checksums computed from scratch.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{Rewrite, Tuple};
use crate::frame::Csum;
use crate::frame::checksum::{self, fold, sum};
use crate::wire::{protocol, sctp};

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Tcp,
    Udp,
    /// With a checksum of zero.
    UdpWithout,
    Sctp,
    EchoRequest,
    EchoReply,
    /// Protocol 47, which has no ports and no checksum.
    Gre,
}

impl Body {
    pub(super) const ALL: [Self; 7] =
        [Self::Tcp, Self::Udp, Self::UdpWithout, Self::Sctp, Self::EchoRequest, Self::EchoReply, Self::Gre];

    pub(super) fn protocol(self, is_v6: bool) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp | Self::UdpWithout => protocol::UDP,
            Self::Sctp => protocol::SCTP,
            Self::EchoRequest | Self::EchoReply if is_v6 => protocol::ICMPV6,
            Self::EchoRequest | Self::EchoReply => protocol::ICMP,
            Self::Gre => 47,
        }
    }

    /// Where the checksum is.
    fn checksum_at(self) -> Option<usize> {
        match self {
            Self::Tcp => Some(16),
            Self::Udp => Some(6),
            Self::EchoRequest | Self::EchoReply => Some(2),
            Self::UdpWithout | Self::Sctp | Self::Gre => None,
        }
    }

    /// The tuple with the ports that such a packet has.
    pub(super) fn tuple(self, source: IpAddr, destination: IpAddr, ports: [u16; 2]) -> Tuple {
        let [source_port, destination_port] = match self {
            Self::Tcp | Self::Udp | Self::UdpWithout | Self::Sctp => ports,
            Self::EchoRequest => [ports[0], 0],
            Self::EchoReply => [0, ports[0]],
            Self::Gre => [0; 2],
        };
        let protocol = self.protocol(source.is_ipv6());
        Tuple { protocol, source, source_port, destination, destination_port }
    }
}

/// A frame, and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) data: Vec<u8>,
    pub(super) network: usize,
    pub(super) transport: usize,
    pub(super) is_v6: bool,
    pub(super) body: Body,
    pub(super) is_partial: bool,
}

/// How a frame is made.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) body: Body,
    pub(super) tuple: Tuple,
    /// VLAN tags.
    pub(super) tags: usize,
    /// Whether there are options or an extension header.
    pub(super) options: bool,
    pub(super) hops: u8,
    pub(super) is_partial: bool,
    pub(super) payload: Vec<u8>,
}

impl Recipe {
    pub(super) fn plain(body: Body, tuple: Tuple, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self { body, tuple, tags: 0, options: false, hops: 64, is_partial: false, payload }
    }

    pub(super) fn make(&self) -> Made {
        let is_v6 = self.tuple.source.is_ipv6();
        let number = self.body.protocol(is_v6);
        let mut data = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
        for _ in 0..self.tags {
            data.extend([0x81, 0, 0, 7]);
        }
        let segment = self.segment();
        data.extend(if is_v6 { [0x86, 0xdd] } else { [8, 0] });
        let network = data.len();
        if is_v6 {
            // Destination options with padding.
            let extension = if self.options { &[number, 0, 1, 4, 0, 0, 0, 0][..] } else { &[] };
            let next = if self.options { 60 } else { number };
            let bytes = (segment.len() + extension.len()) as u16;
            data.extend([0x60, 0, 0, 0, (bytes >> 8) as u8, bytes as u8, next, self.hops]);
            data.extend(octets(self.tuple.source));
            data.extend(octets(self.tuple.destination));
            data.extend(extension);
        } else {
            // Router alert and no-operations.
            let options = if self.options { &[148, 4, 0, 0, 1, 1, 1, 0][..] } else { &[] };
            let bytes = (20 + options.len() + segment.len()) as u16;
            let version = 0x45 + (options.len() / 4) as u8;
            data.extend([version, 0, (bytes >> 8) as u8, bytes as u8, 0xab, 0xcd, 0x40, 0, self.hops, number, 0, 0]);
            data.extend(octets(self.tuple.source));
            data.extend(octets(self.tuple.destination));
            data.extend(options);
        }
        let transport = data.len();
        data.extend(segment);
        let is_partial = self.is_partial && self.body.checksum_at().is_some_and(|at| at > 2);
        let mut made = Made { data, network, transport, is_v6, body: self.body, is_partial };
        made.seal();
        made
    }

    fn segment(&self) -> Vec<u8> {
        let (source, destination) = (self.tuple.source_port.to_be_bytes(), self.tuple.destination_port.to_be_bytes());
        let mut segment = [source, destination].concat();
        match self.body {
            Body::Tcp => segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]),
            Body::Udp | Body::UdpWithout => {
                segment.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                segment.extend([0, 0]);
            }
            Body::Sctp => segment.extend([1, 2, 3, 4, 0, 0, 0, 0, 0, 3, 0, 16]),
            Body::EchoRequest | Body::EchoReply => {
                let is_v6 = self.tuple.source.is_ipv6();
                let (kind, identifier) = match self.body {
                    Body::EchoRequest => (if is_v6 { 128 } else { 8 }, source),
                    _ => (if is_v6 { 129 } else { 0 }, destination),
                };
                segment = vec![kind, 0, 0, 0, identifier[0], identifier[1], 0, 1];
            }
            Body::Gre => segment = vec![0, 0, 8, 0],
        }
        segment.extend(&self.payload);
        segment
    }
}

impl Made {
    pub(super) fn csum(&self) -> Csum {
        match self.body.checksum_at().filter(|_| self.is_partial) {
            Some(offset) => Csum::Partial { start: self.transport as u16, offset: offset as u16 },
            None => Csum::Unknown,
        }
    }

    /// Computes all checksums from scratch.
    pub(super) fn seal(&mut self) {
        let number = self.body.protocol(self.is_v6);
        if !self.is_v6 {
            let header = &mut self.data[self.network..self.transport];
            header[10..12].fill(0);
            let checksum = checksum::of(header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        let (headers, segment) = self.data.split_at_mut(self.transport);
        let addresses = &headers[self.network..][if self.is_v6 { 8..40 } else { 12..20 }];
        if self.body == Body::Sctp {
            segment[8..12].fill(0);
            let crc = sctp::crc32c(segment);
            segment[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        let Some(at) = self.body.checksum_at() else { return };
        segment[at..at + 2].fill(0);
        let mut pseudo = checksum::pseudo_header(addresses, number, segment.len());
        if number == protocol::ICMP {
            pseudo = 0;
        }
        let field = if self.is_partial {
            fold(pseudo)
        } else {
            match !fold(pseudo + sum(segment)) {
                0 if self.body == Body::Udp => 0xffff,
                checksum => checksum,
            }
        };
        segment[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Any address of the family; zeros and ones, where ones' complement has its corners, more often than by chance.
pub(super) fn address(is_v6: bool) -> impl Strategy<Value = IpAddr> {
    let word = prop_oneof![1 => Just(0), 1 => Just(u16::MAX), 6 => any::<u16>()];
    prop::collection::vec(word, 8).prop_map(move |words| {
        let words: [u16; 8] = words.try_into().unwrap();
        if is_v6 {
            IpAddr::from(words)
        } else {
            IpAddr::from((u32::from(words[0]) << 16 | u32::from(words[1])).to_be_bytes())
        }
    })
}

/// A recipe, and another tuple that its packet can be given.
pub(super) fn recipe() -> impl Strategy<Value = (Recipe, Tuple)> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(prop_oneof![Just(0), Just(0xff)], 0..64),
    ];
    let port = || prop_oneof![1 => Just(0), 1 => Just(u16::MAX), 6 => any::<u16>()];
    let addresses = any::<bool>().prop_flat_map(|is_v6| prop::collection::vec(address(is_v6), 4));
    let ports = [port(), port(), port(), port()];
    (prop::sample::select(&Body::ALL[..]), addresses, ports, 0..3_usize, any::<(bool, bool)>(), 2..=255_u8, payload)
        .prop_map(|(body, addresses, ports, tags, (options, is_partial), hops, payload)| {
            let tuple = body.tuple(addresses[0], addresses[1], [ports[0], ports[1]]);
            let other = body.tuple(addresses[2], addresses[3], [ports[2], ports[3]]);
            (Recipe { body, tuple, tags, options, hops, is_partial, payload }, other)
        })
}

/// What makes the one tuple the other.
pub(super) fn rewrite(from: &Tuple, to: &Tuple) -> Rewrite {
    Rewrite::new(from, to).expect("one family and protocol")
}
