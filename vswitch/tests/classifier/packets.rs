//! Frames, written down layer by layer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame is built from the inside out: `ipv4(..., &udp(1, 2, &[]))`.
pub(crate) type Bytes = Vec<u8>;

/// To the interface that `BPF_PROG_TEST_RUN` pretends: the loopback, whose address is zero.
pub(crate) const TO_HOST: [u8; 6] = [0; 6];

pub(crate) fn ethernet(to: [u8; 6], ethertype: u16, payload: &[u8]) -> Bytes {
    [&to[..], &[2, 0, 0, 0, 0, 9], &ethertype.to_be_bytes(), payload].concat()
}

/// The frame around an IP packet.
pub(crate) fn frame(packet: &[u8]) -> Bytes {
    let ethertype = if packet.first().is_some_and(|byte| byte >> 4 == 6) { 0x86dd } else { 0x0800 };
    ethernet(TO_HOST, ethertype, packet)
}

/// The parts of an IPv4 header that matter here.
#[derive(Debug, Clone)]
pub(crate) struct V4 {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    /// In units of four bytes.
    pub(crate) options: u8,
    pub(crate) identification: u16,
    /// In units of eight bytes.
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

pub(crate) fn ipv4(header: &V4, protocol: u8, payload: &[u8]) -> Bytes {
    let options = vec![1; usize::from(header.options) * 4];
    let total = (20 + options.len() + payload.len()) as u16;
    let flags = header.offset | if header.more { 0x2000 } else { 0 };
    [
        &[0x45 + header.options, 0],
        &total.to_be_bytes()[..],
        &header.identification.to_be_bytes(),
        &flags.to_be_bytes(),
        &[64, protocol, 0, 0],
        &header.source.octets(),
        &header.destination.octets(),
        &options,
        payload,
    ]
    .concat()
}

/// An extension header: its type, what it says, and how many times eight (authentication: four) bytes it is longer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Extension {
    HopByHop(u8),
    Routing {
        longer: u8,
        segments_left: u8,
    },
    Destination(u8),
    Authentication(u8),
    Fragment {
        offset: u16,
        more: bool,
        identification: u32,
    },
    /// One that nobody walks over (mobility, RFC 6275).
    Mobility,
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing { .. } => 43,
            Self::Fragment { .. } => 44,
            Self::Authentication(_) => 51,
            Self::Destination(_) => 60,
            Self::Mobility => 135,
        }
    }

    fn write(self, next: u8) -> Bytes {
        match self {
            Self::Fragment { offset, more, identification } => {
                let field = offset << 3 | u16::from(more);
                [&[next, 0][..], &field.to_be_bytes(), &identification.to_be_bytes()].concat()
            }
            Self::Routing { longer, segments_left } => {
                let mut bytes = vec![0; (usize::from(longer) + 1) * 8];
                bytes[..4].copy_from_slice(&[next, longer, 4, segments_left]);
                bytes
            }
            Self::Authentication(longer) => {
                let mut bytes = vec![0; (usize::from(longer) + 2) * 4];
                bytes[..2].copy_from_slice(&[next, longer]);
                bytes
            }
            Self::HopByHop(longer) | Self::Destination(longer) => {
                let mut bytes = vec![0; (usize::from(longer) + 1) * 8];
                bytes[..2].copy_from_slice(&[next, longer]);
                bytes
            }
            Self::Mobility => vec![next, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

pub(crate) fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    extensions: &[Extension],
    protocol: u8,
    payload: &[u8],
) -> Bytes {
    let mut rest = payload.to_vec();
    let mut next = protocol;
    for extension in extensions.iter().rev() {
        rest = [extension.write(next), rest].concat();
        next = extension.number();
    }
    let length = (rest.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 64], &source.octets(), &destination.octets(), &rest].concat()
}

/// A plain packet of either family.
pub(crate) fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Bytes {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = V4 { source, destination, options: 0, identification: 7, offset: 0, more: false };
            ipv4(&header, protocol, payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, &[], protocol, payload),
        _ => panic!("{source} and {destination} are not of one family"),
    }
}

pub(crate) fn tcp(source: u16, destination: u16, data: &[u8]) -> Bytes {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0], data].concat()
}

pub(crate) fn udp(source: u16, destination: u16, data: &[u8]) -> Bytes {
    let length = (8 + data.len() as u16).to_be_bytes();
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length, &[0, 0], data].concat()
}

pub(crate) fn sctp(source: u16, destination: u16, data: &[u8]) -> Bytes {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 8], data].concat()
}

pub(crate) fn icmp(kind: u8, identifier: u16, data: &[u8]) -> Bytes {
    [&[kind, 0, 0, 0][..], &identifier.to_be_bytes(), &[0, 1], data].concat()
}
