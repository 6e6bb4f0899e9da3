//! IP packets for the gateway's scenarios, and what is read of them.

use std::net::{IpAddr, SocketAddr};

use vswitch::frame::checksum;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An Ethernet frame around an IP packet, with all checksums.
pub(crate) fn ip_frame(
    (destination, source): ([u8; 6], [u8; 6]),
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    mut payload: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    let pseudo = |addresses: &[u8]| checksum::pseudo_header(addresses, protocol, payload.len());
    let (header, sum) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum::of(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let sum = if protocol == ICMP { 0 } else { pseudo(&header[12..20]) };
            (header, sum)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd]);
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = pseudo(&header[8..40]);
            (header, sum)
        }
        _ => panic!("two families"),
    };
    payload[checksum_at..checksum_at + 2].fill(0);
    let sum = !checksum::fold(sum + checksum::sum(&payload));
    payload[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(payload);
    frame
}

pub(crate) fn udp(macs: ([u8; 6], [u8; 6]), from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut payload = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    payload.extend((8 + data.len() as u16).to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(data);
    ip_frame(macs, (from.ip(), to.ip()), UDP, payload, 6)
}

pub(crate) fn tcp(macs: ([u8; 6], [u8; 6]), from: SocketAddr, to: SocketAddr, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut payload = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    payload.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    payload.extend(data);
    ip_frame(macs, (from.ip(), to.ip()), TCP, payload, 16)
}

pub(crate) fn echo(macs: ([u8; 6], [u8; 6]), (from, to): (IpAddr, IpAddr), request: bool, id: u16) -> Vec<u8> {
    let (protocol, kind) = match (from.is_ipv4(), request) {
        (true, true) => (ICMP, 8),
        (true, false) => (ICMP, 0),
        (false, true) => (ICMPV6, 128),
        (false, false) => (ICMPV6, 129),
    };
    let mut payload = vec![kind, 0, 0, 0];
    payload.extend(id.to_be_bytes());
    payload.extend([0, 1, 0xde, 0xad, 0xbe, 0xef]);
    ip_frame(macs, (from, to), protocol, payload, 2)
}

/// An ICMP error about the packet in `frame`.
pub(crate) fn error(
    macs: ([u8; 6], [u8; 6]),
    (from, to): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    rest: [u8; 4],
    frame: &[u8],
) -> Vec<u8> {
    let mut payload = vec![kind, code, 0, 0];
    payload.extend(rest);
    payload.extend(&frame[14..frame.len().min(14 + 48)]);
    ip_frame(macs, (from, to), if from.is_ipv4() { ICMP } else { ICMPV6 }, payload, 2)
}

/// What a test wants to know of a packet; made only if all of its checksums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) macs: ([u8; 6], [u8; 6]),
    pub(crate) protocol: u8,
    pub(crate) hops: u8,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Transport header and data.
    pub(crate) payload: Vec<u8>,
}

impl Seen {
    pub(crate) fn of(frame: &[u8]) -> Self {
        let macs = (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap());
        let packet = &frame[14..];
        let (from, to, protocol, hops, payload, addresses) = match frame[12..14] {
            [0x08, 0x00] => {
                assert_eq!(checksum::fold(checksum::sum(&packet[..20])), 0xffff, "the IPv4 header's checksum");
                let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                (v4(12), v4(16), packet[9], packet[8], packet[20..total].to_vec(), &packet[12..20])
            }
            [0x86, 0xdd] => {
                let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
                (v6(8), v6(24), packet[6], packet[7], packet[40..].to_vec(), &packet[8..40])
            }
            ref other => panic!("not IP: {other:02x?}"),
        };
        let is_fragment = frame[12..14] == [0x08, 0x00] && packet[6] & 0x3f != 0 || packet[7] != 0 && packet[0] == 0x45;
        if !is_fragment {
            let pseudo = if protocol == ICMP { 0 } else { checksum::pseudo_header(addresses, protocol, payload.len()) };
            assert_eq!(checksum::fold(pseudo + checksum::sum(&payload)), 0xffff, "the transport's checksum");
        }
        Self { macs, protocol, hops, from, to, payload }
    }

    pub(crate) fn source(&self) -> SocketAddr {
        SocketAddr::new(self.from, u16::from_be_bytes([self.payload[0], self.payload[1]]))
    }

    pub(crate) fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.to, u16::from_be_bytes([self.payload[2], self.payload[3]]))
    }
}
