//! IP packets built and read by hand: for what no socket would send, and to see what no socket shows.

use std::net::{IpAddr, SocketAddr};

/// The ethertypes of both families.
pub const IPV4: u16 = 0x0800;
/// See [`IPV4`].
pub const IPV6: u16 = 0x86dd;
/// The ethertype of ARP.
pub const ARP: u16 = 0x0806;

/// The IP protocol numbers that tests use.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// The fragment header of IPv6.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// What stands in an IP header beside what follows from the rest.
#[derive(Debug, Clone)]
pub struct Header {
    /// Who sends.
    pub source: IpAddr,
    /// Who is sent to.
    pub destination: IpAddr,
    /// Hops that are left.
    pub ttl: u8,
    /// IPv4's identification.
    pub id: u16,
    /// IPv4's options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Header {
    /// An ordinary one.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self { source, destination, ttl: 64, id: 0x1234, options: Vec::new() }
    }

    /// The same with other hops left.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// The packet with `payload` of `protocol`.
    ///
    /// # Panics
    /// When the addresses are of different families.
    #[must_use]
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_bytes = 20 + self.options.len();
                let mut packet = vec![0; header_bytes];
                packet[0] = 0x40 | (header_bytes / 4) as u8;
                packet[2..4].copy_from_slice(&((header_bytes + payload.len()) as u16).to_be_bytes());
                packet[4..6].copy_from_slice(&self.id.to_be_bytes());
                packet[8] = self.ttl;
                packet[9] = protocol;
                packet[12..16].copy_from_slice(&source.octets());
                packet[16..20].copy_from_slice(&destination.octets());
                packet[20..].copy_from_slice(&self.options);
                finish_ipv4_header(&mut packet);
                packet.extend_from_slice(payload);
                packet
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut packet = vec![0; 40];
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
                packet[6] = protocol;
                packet[7] = self.ttl;
                packet[8..24].copy_from_slice(&source.octets());
                packet[24..40].copy_from_slice(&destination.octets());
                packet.extend_from_slice(payload);
                packet
            }
            _ => panic!("{} and {} are of different families", self.source, self.destination),
        }
    }

    /// The packet with a payload whose checksum is at `offset`, computed with the pseudo-header.
    fn checked(&self, protocol: u8, mut payload: Vec<u8>, offset: usize) -> Vec<u8> {
        let sum = match protocol {
            protocol::ICMP => 0,
            _ => {
                let octets = |address| match address {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                sum(&octets(self.source)) + sum(&octets(self.destination)) + u64::from(protocol) + payload.len() as u64
            }
        };
        payload[offset..offset + 2].fill(0);
        let checksum = fold(sum + self::sum(&payload));
        let checksum = if protocol == protocol::UDP && checksum == 0 { 0xffff } else { checksum };
        payload[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
        self.packet(protocol, &payload)
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, source_port: u16, destination_port: u16, data: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        for field in [source_port, destination_port, 8 + data.len() as u16, 0] {
            payload.extend_from_slice(&field.to_be_bytes());
        }
        payload.extend_from_slice(data);
        self.checked(protocol::UDP, payload, 6)
    }

    /// A TCP segment without payload; `flags` as in the header: FIN 1, SYN 2, RST 4, ACK 16.
    #[must_use]
    pub fn tcp(
        &self,
        source_port: u16,
        destination_port: u16,
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
    ) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&source_port.to_be_bytes());
        payload.extend_from_slice(&destination_port.to_be_bytes());
        payload.extend_from_slice(&sequence.to_be_bytes());
        payload.extend_from_slice(&acknowledgement.to_be_bytes());
        payload.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.checked(protocol::TCP, payload, 16)
    }

    /// An ICMP or ICMPv6 message; `rest` is the word after the checksum.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
        let mut payload = vec![kind, code, 0, 0];
        payload.extend_from_slice(&rest);
        payload.extend_from_slice(data);
        let protocol = if self.source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        self.checked(protocol, payload, 2)
    }

    /// An echo request.
    #[must_use]
    pub fn echo(&self, id: u16, sequence: u16) -> Vec<u8> {
        let kind = if self.source.is_ipv4() { 8 } else { 128 };
        let [a, b] = id.to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        self.icmp(kind, 0, [a, b, c, d], b"0123456789abcdef")
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Computes an IPv4 header's checksum anew.
fn finish_ipv4_header(packet: &mut [u8]) {
    let length = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let checksum = fold(sum(&packet[..length]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Cuts `packet` into fragments of at most `payload_bytes` bytes, a multiple of eight.
///
/// # Panics
/// When `payload_bytes` is no multiple of eight.
#[must_use]
pub fn fragments(packet: &[u8], payload_bytes: usize) -> Vec<Vec<u8>> {
    assert_eq!(payload_bytes % 8, 0);
    let ipv4 = packet[0] >> 4 == 4;
    let header_bytes = if ipv4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let payload = &packet[header_bytes..];
    let pieces = payload.chunks(payload_bytes).count();
    payload
        .chunks(payload_bytes)
        .enumerate()
        .map(|(at, piece)| fragment(packet, header_bytes, at * payload_bytes, piece, at + 1 < pieces))
        .collect()
}

/// One fragment of `packet`: `piece` at `offset` of its payload, and whether more follow.
#[must_use]
pub fn fragment(packet: &[u8], header_bytes: usize, offset: usize, piece: &[u8], more: bool) -> Vec<u8> {
    let mut fragment = packet[..header_bytes].to_vec();
    if packet[0] >> 4 == 4 {
        let place = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        fragment[2..4].copy_from_slice(&((header_bytes + piece.len()) as u16).to_be_bytes());
        fragment[6..8].copy_from_slice(&place.to_be_bytes());
        finish_ipv4_header(&mut fragment);
    } else {
        let place = offset as u16 | u16::from(more);
        fragment[4..6].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
        fragment[6] = protocol::FRAGMENT;
        fragment.extend_from_slice(&[packet[6], 0]);
        fragment.extend_from_slice(&place.to_be_bytes());
        fragment.extend_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    }
    fragment.extend_from_slice(piece);
    fragment
}

/// An ARP packet: `operation` 1 asks, 2 answers.
#[must_use]
pub fn arp(operation: u8, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, ip) in [sender, target] {
        packet.extend_from_slice(&mac);
        packet.extend_from_slice(&ip);
    }
    packet
}

/// What can be read off a frame without VLAN tag that carries an IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// The IP protocol, behind a fragment header.
    pub protocol: u8,
    /// Hops that are left.
    pub ttl: u8,
    /// What follows the IP headers.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Reads `frame`; none if it carries no IP packet.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
            IPV4 => {
                let header_bytes = usize::from(packet.first()? & 15) * 4;
                let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
                Some(Self {
                    source: <[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into(),
                    destination: <[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into(),
                    protocol: *packet.get(9)?,
                    ttl: *packet.get(8)?,
                    payload: packet.get(header_bytes..total)?.to_vec(),
                })
            }
            IPV6 => {
                let (protocol, start) =
                    if *packet.get(6)? == protocol::FRAGMENT { (*packet.get(40)?, 48) } else { (packet[6], 40) };
                let total = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                Some(Self {
                    source: <[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into(),
                    destination: <[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into(),
                    protocol,
                    ttl: packet[7],
                    payload: packet.get(start..total)?.to_vec(),
                })
            }
            _ => None,
        }
    }

    /// Source and destination with the ports of TCP or UDP.
    ///
    /// # Panics
    /// When there is no transport header.
    #[must_use]
    pub fn endpoints(&self) -> (SocketAddr, SocketAddr) {
        let port = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        (SocketAddr::new(self.source, port(0)), SocketAddr::new(self.destination, port(2)))
    }

    /// Type and code of an ICMP or ICMPv6 message.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let is_icmp = [protocol::ICMP, protocol::ICMPV6].contains(&self.protocol);
        (is_icmp && self.payload.len() >= 8).then(|| (self.payload[0], self.payload[1]))
    }

    /// Whether the checksum of TCP, UDP or ICMP is right.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let offset = match self.protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => 2,
        };
        let rebuilt = Header::new(self.source, self.destination).checked(self.protocol, self.payload.clone(), offset);
        let start = rebuilt.len() - self.payload.len();
        rebuilt[start..] == self.payload[..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(ipv6: bool) -> Header {
        if ipv6 {
            Header::new([0xfd00, 0, 0, 0, 0, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 2].into())
        } else {
            Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        }
    }

    #[test]
    fn what_is_built_reads_back() {
        for ipv6 in [false, true] {
            let ethertype = if ipv6 { IPV6 } else { IPV4 };
            let packet = header(ipv6).ttl(3).udp(7, 8, b"odd");
            let seen = Seen::parse(&crate::frame::ethernet([1; 6], [2; 6], ethertype, &packet)).expect("a packet");
            assert_eq!((seen.ttl, seen.protocol, seen.endpoints().0.port()), (3, protocol::UDP, 7));
            assert!(seen.is_whole() && seen.payload.ends_with(b"odd"), "{seen:?}");
            let echo = header(ipv6).echo(1, 2);
            let seen = Seen::parse(&crate::frame::ethernet([1; 6], [2; 6], ethertype, &echo)).expect("a packet");
            assert_eq!(seen.icmp(), Some((if ipv6 { 128 } else { 8 }, 0)));
            assert!(seen.is_whole());
        }
    }

    #[test]
    fn fragments_hold_the_whole() {
        for ipv6 in [false, true] {
            let packet = header(ipv6).udp(7, 8, &[9; 100]);
            let payload: Vec<u8> = fragments(&packet, 40)
                .iter()
                .flat_map(|piece| {
                    let ethertype = if ipv6 { IPV6 } else { IPV4 };
                    Seen::parse(&crate::frame::unpadded([1; 6], [2; 6], ethertype, piece)).expect("a fragment").payload
                })
                .collect();
            assert_eq!(payload, packet[if ipv6 { 40 } else { 20 }..]);
        }
    }
}
