//! Ping: turning an echo request into its reply, in place (RFC 792, RFC 4443 section 4.2).
//!
//! A request in fragments is answered fragment by fragment, which makes the fragments of the reply: they keep their
//! identification, and nothing but addresses changes in the later ones.

use super::{ethernet, icmp, icmpv6, ipv4, ipv6};
use crate::frame::Csum;
use crate::frame::checksum::update_u16;

/// Of the reply, whatever the request had left.
const HOPS: u8 = 64;

/// Turns the echo request in `frame`, whose IP header is at `network` and whose message at `transport`, into its
/// reply. Of a later fragment of one there is no message. `csum` is what is known of the message's checksum.
///
/// False, and nothing is changed, if it is none, or was sent to a group.
pub fn reply(frame: &mut [u8], network: usize, transport: Option<usize>, csum: &Csum) -> bool {
    let Some((link, packet)) = frame.split_at_mut_checked(network) else { return false };
    let Some((destination, source)) = link.split_at_mut_checked(6) else { return false };
    let Some(source) = source.get_mut(..6) else { return false };
    let version = packet.first().map_or(0, |byte| byte >> 4);
    if network < ethernet::HEADER_BYTES || (destination[0] | source[0]) & 1 != 0 {
        return false;
    }
    let (request, answer, header_bytes) = match version {
        4 => (icmp::ECHO_REQUEST, icmp::ECHO_REPLY, ipv4::HEADER_BYTES),
        6 => (icmpv6::ECHO_REQUEST, icmpv6::ECHO_REPLY, ipv6::HEADER_BYTES),
        _ => return false,
    };
    let Some((headers, message)) =
        packet.split_at_mut_checked(transport.map_or(header_bytes, |at| at.wrapping_sub(network)))
    else {
        return false;
    };
    // Checked before anything is changed.
    let is_possible = match (transport, message.first_chunk::<{ icmp::HEADER_BYTES }>()) {
        (Some(_), Some(message)) => message[0] == request && message[1] == 0,
        (Some(_), None) => false,
        (None, _) => true,
    };
    let is_reversed = is_possible && if version == 4 { reverse_v4(headers) } else { reverse_v6(headers) };
    if !is_reversed {
        return false;
    }
    destination.swap_with_slice(source);
    if let (Some(start), Some(message)) = (transport, message.first_chunk_mut::<{ icmp::HEADER_BYTES }>()) {
        message[0] = answer;
        // A pseudo-header's sum does not know source from destination. An unfinished checksum is that sum, or nothing.
        if !matches!(*csum, Csum::Partial { start: at, .. } if usize::from(at) == start) {
            let checksum = u16::from_be_bytes([message[2], message[3]]);
            let updated = update_u16(checksum, u16::from(request) << 8, u16::from(answer) << 8);
            [message[2], message[3]] = updated.to_be_bytes();
        }
    }
    true
}

fn reverse_v4(headers: &mut [u8]) -> bool {
    let Some(header) = headers.first_chunk_mut::<{ ipv4::HEADER_BYTES }>() else { return false };
    let old = u16::from_be_bytes([header[8], header[9]]);
    header[8] = HOPS;
    let new = u16::from_be_bytes([header[8], header[9]]);
    let checksum = update_u16(u16::from_be_bytes([header[10], header[11]]), old, new);
    [header[10], header[11]] = checksum.to_be_bytes();
    let (source, destination) = header[12..].split_at_mut(4);
    source.swap_with_slice(destination);
    true
}

fn reverse_v6(headers: &mut [u8]) -> bool {
    let Some(header) = headers.first_chunk_mut::<{ ipv6::HEADER_BYTES }>() else { return false };
    header[7] = HOPS;
    let (source, destination) = header[8..].split_at_mut(16);
    source.swap_with_slice(destination);
    true
}

#[cfg(test)]
mod tests {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, Ipv4Packet, Ipv6Packet};

    use super::*;
    use crate::frame::checksum::{self, fold};

    fn request(is_v6: bool) -> Vec<u8> {
        let mut message = vec![if is_v6 { 128 } else { 8 }, 0, 0, 0, 0x12, 0x34, 0, 1, 0xde, 0xad];
        let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
        let pseudo = if is_v6 {
            data.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 10, 58, 7]);
            data.extend([[0xfd; 16], [0xfc; 16]].concat());
            checksum::pseudo_header(&data[22..54], 58, message.len())
        } else {
            data.extend([8, 0, 0x45, 0, 0, 30, 0, 9, 0, 0, 7, 1, 0, 0, 172, 18, 0, 2, 172, 18, 0, 1]);
            let sum = checksum::of(&data[14..34]);
            data[24..26].copy_from_slice(&sum.to_be_bytes());
            0
        };
        let sum = !fold(pseudo + checksum::sum(&message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        data.extend(message);
        data
    }

    #[test]
    fn a_request_becomes_its_reply() {
        let capabilities = ChecksumCapabilities::default();
        let mut frame = request(false);
        assert!(reply(&mut frame, 14, Some(34), &Csum::Unknown));
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
        let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(packet.verify_checksum() && packet.hop_limit() == 64);
        assert_eq!((packet.src_addr().octets(), packet.dst_addr().octets()), ([172, 18, 0, 1], [172, 18, 0, 2]));
        let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        let echo = Icmpv4Repr::EchoReply { ident: 0x1234, seq_no: 1, data: &[0xde, 0xad] };
        assert_eq!(Icmpv4Repr::parse(&message, &capabilities), Ok(echo));
        assert!(!reply(&mut frame, 14, Some(34), &Csum::Unknown), "a reply is none");

        let mut frame = request(true);
        assert!(reply(&mut frame, 14, Some(54), &Csum::Unknown));
        let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        assert_eq!((source.octets(), destination.octets(), packet.hop_limit()), ([0xfc; 16], [0xfd; 16], 64));
        let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let echo = Icmpv6Repr::EchoReply { ident: 0x1234, seq_no: 1, data: &[0xde, 0xad] };
        assert_eq!(Icmpv6Repr::parse(&source, &destination, &message, &capabilities), Ok(echo));
    }

    #[test]
    fn an_unfinished_checksum_stays_unfinished() {
        for (is_v6, start) in [(false, 34), (true, 54)] {
            let mut frame = request(is_v6);
            let at = usize::from(start);
            let pseudo = if is_v6 { fold(checksum::pseudo_header(&frame[22..54], 58, 10)) } else { 0 };
            frame[at + 2..at + 4].copy_from_slice(&pseudo.to_be_bytes());
            assert!(reply(&mut frame, 14, Some(at), &Csum::Partial { start, offset: 2 }));
            assert!(checksum::complete_partial(&mut frame, start, 2));
            let mut expected = request(is_v6);
            assert!(reply(&mut expected, 14, Some(at), &Csum::Unknown));
            assert_eq!(frame, expected);
        }
    }

    #[test]
    fn of_a_later_fragment_the_addresses_change() {
        let mut frame = request(false);
        let before = frame.clone();
        assert!(reply(&mut frame, 14, None, &Csum::Unknown));
        assert_eq!((&frame[26..34], &frame[34..]), (&[172, 18, 0, 1, 172, 18, 0, 2][..], &before[34..]));
        assert_eq!(checksum::of(&frame[14..34]), 0);
    }

    #[test]
    fn what_is_none_stays_as_it_is() {
        for is_v6 in [false, true] {
            let frame = request(is_v6);
            let transport = if is_v6 { 54 } else { 34 };
            for change in [(0, 0xff), (14, 0), (transport, 3), (transport + 1, 1)] {
                let mut frame = frame.clone();
                frame[change.0] = change.1;
                let before = frame.clone();
                assert!(!reply(&mut frame, 14, Some(transport), &Csum::Unknown));
                assert_eq!(frame, before);
            }
            for bytes in 0..transport + 8 {
                let mut frame = frame[..bytes].to_vec();
                assert!(!reply(&mut frame, 14, Some(transport), &Csum::Unknown));
                assert!(!reply(&mut frame, transport, Some(14), &Csum::Unknown));
            }
        }
    }
}
