//! What the outer headers take from the inner frame: which flow it belongs to, and its TOS.

use crate::wire::ethernet::{self, EtherType};
use crate::wire::layers::{Layers, Transport};
use crate::wire::{ipv4, ipv6, protocol, udp};

/// What the outer headers need to know of an inner frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// A hash of the flow: equal for all packets of one, spread over all 32 bits.
    pub hash: u32,
    /// TOS octet or traffic class of the inner IP packet; zero for what is not IP.
    pub tos: u8,
}

/// The first port of the dynamic range, which RFC 7348, section 5, recommends for sources.
pub const SOURCE_PORT_FIRST: u16 = 49152;
/// The ports of the dynamic range.
pub const SOURCE_PORTS: u16 = u16::MAX - SOURCE_PORT_FIRST + 1;

/// The outer source port of a flow.
#[inline]
#[must_use]
pub const fn source_port(hash: u32) -> u16 {
    // The high bits, scaled: no division, no bias.
    SOURCE_PORT_FIRST + ((hash as u64 * SOURCE_PORTS as u64) >> 32) as u16
}

/// Looks at an inner frame. Total: of what is truncated or unknown, the addresses are what counts.
#[inline]
#[must_use]
pub fn examine(frame: &[u8]) -> Inner {
    let link = Inner { hash: hash(frame.get(..12).unwrap_or(frame), 0), tos: 0 };
    let Ok((ethertype, offset)) = ethernet::skip_tags(frame) else { return link };
    let bytes = frame.get(offset..).unwrap_or_default();
    match ethertype {
        EtherType::IPV4 => match bytes.first_chunk::<{ ipv4::HEADER_BYTES }>() {
            Some(header) => of_ipv4(header, bytes),
            None => link,
        },
        EtherType::IPV6 => match ipv6::Packet::new_checked(bytes) {
            Ok(packet) => of_ipv6(&packet, bytes),
            Err(_) => link,
        },
        _ => link,
    }
}

#[inline]
fn of_ipv4(header: &[u8; ipv4::HEADER_BYTES], bytes: &[u8]) -> Inner {
    // Fragments have the ports in the first one only: without them all take the same way.
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let transport = usize::from(header[0] & 0xf) * 4;
    let ports = if is_fragment { None } else { ports(header[9], bytes.get(transport..).unwrap_or_default()) };
    Inner { hash: hash(&header[12..20], u64::from(header[9]) << 32 | u64::from(ports.unwrap_or(0))), tos: header[1] }
}

#[inline]
fn of_ipv6(packet: &ipv6::Packet<'_>, bytes: &[u8]) -> Inner {
    let (protocol, ports) = match packet.upper() {
        Ok(upper) if !upper.is_fragment => (upper.protocol, ports(upper.protocol, upper.payload)),
        _ => (0, None),
    };
    Inner {
        hash: hash(&bytes[8..40], u64::from(protocol) << 32 | u64::from(ports.unwrap_or(0))),
        tos: packet.traffic_class(),
    }
}

/// The destination port and the payload of a frame that is a UDP datagram, and no fragment.
#[inline]
#[must_use]
pub fn udp(frame: &[u8]) -> Option<(u16, &[u8])> {
    let layers = Layers::parse(frame).ok().filter(|layers| layers.transport == Transport::Udp)?;
    let packet = udp::Packet::new_checked(frame.get(usize::from(layers.transport_offset)..)?).ok()?;
    Some((packet.destination_port(), packet.payload()))
}

/// Both ports, of protocols that start with them.
#[inline]
fn ports(protocol: u8, transport: &[u8]) -> Option<u32> {
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    transport.first_chunk::<4>().filter(|_| has_ports).map(|ports| u32::from_be_bytes(*ports))
}

/// Multiplies and folds, eight bytes at a time. Whoever finds collisions gains nothing but a worse
/// balance of his own flows; so the keys are constants, and all hosts draw the same port for a flow.
#[inline]
fn hash(addresses: &[u8], ports: u64) -> u32 {
    const KEYS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = fold(ports ^ KEYS[0], KEYS[1]);
    let (chunks, tail) = addresses.as_chunks::<8>();
    for chunk in chunks {
        state = fold(state ^ u64::from_be_bytes(*chunk), KEYS[0]);
    }
    for byte in tail {
        state = (state ^ u64::from(*byte)).wrapping_mul(KEYS[1]);
    }
    (fold(state ^ KEYS[1], KEYS[0]) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp4(tos: u8, flags: u16, ports: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, tos, 0, 0, 0, 7];
        frame.extend(flags.to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(ports);
        frame.extend([0, 0, 0, 0]);
        frame.extend(payload);
        let bytes = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&bytes.to_be_bytes());
        frame
    }

    #[test]
    fn a_flow_keeps_its_port_and_flows_are_spread() {
        let of = |ports, payload: &[u8]| examine(&udp4(0, 0x4000, ports, payload));
        assert_eq!(of([1, 2, 3, 4], &[]), of([1, 2, 3, 4], &[9; 100]));
        assert_eq!(udp(&udp4(0, 0, [1, 2, 3, 4], &[])), None, "its length is that of nothing");
        let mut per_sixteenth = [0; 16];
        for port in 0..4096_u16 {
            let [a, b] = port.to_be_bytes();
            let hash = of([a, b, 0, 80], &[]).hash;
            per_sixteenth[(hash >> 28) as usize] += 1;
        }
        assert!(per_sixteenth.iter().all(|count| (160..=352).contains(count)), "{per_sixteenth:?}");
    }

    #[test]
    fn fragments_of_one_packet_take_one_way() {
        let first = examine(&udp4(0, 0x2000, [1, 2, 3, 4], &[0; 8]));
        let later = examine(&udp4(0, 0x0001, [0xaa; 4], &[0; 8]));
        assert_eq!(first, later);
        assert_eq!(udp(&udp4(0, 0x2000, [1, 2, 3, 4], &[0; 8])), None);
    }

    #[test]
    fn the_tos_of_both_protocols_and_behind_tags() {
        let v4 = udp4(0xb9, 0, [0; 4], &[]);
        assert_eq!(examine(&v4).tos, 0xb9);
        let tagged = [&v4[..12], &[0x81, 0, 0, 5], &v4[12..]].concat();
        assert_eq!(examine(&tagged), examine(&v4));
        let mut v6 = vec![0; 12];
        v6.extend([0x86, 0xdd, 0x6b, 0x90, 0, 0, 0, 8, 17, 64]);
        v6.extend([3; 32]);
        v6.extend([0, 1, 0x12, 0xb5, 0, 8, 0, 0]);
        assert_eq!((examine(&v6).tos, udp(&v6)), (0xb9, Some((4789, &[][..]))));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_port_of_the_range(frame in prop::collection::vec(any::<u8>(), 0..100), hash: u32) {
            let port = source_port(examine(&frame).hash);
            prop_assert!(port >= SOURCE_PORT_FIRST);
            prop_assert!(source_port(hash) >= SOURCE_PORT_FIRST);
        }
    }
}
