//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the partial checksum of
//! the kernel's offloads.
//!
//! A *sum* is the ones' complement sum of big-endian 16-bit words, kept in a `u32` so that sums
//! can be added before they are folded: each function here returns at most 0xffff, so 65,537 of
//! them fit. A sum of a part that starts at an odd offset of the whole may not be added to others.
//!
//! A *checksum* is the complement of a folded sum. A *partial* checksum field holds the folded sum
//! of the pseudo-header, not complemented; whoever completes it sums from the transport header to
//! the end of the frame, that field included, and stores the complement.

use super::Csum;
use crate::wire::Layers;
use crate::wire::layers::Transport;
use crate::wire::udp;

/// The sum of `data`; an odd last byte is the high half of a word.
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u32 {
    // Summed in the machine's byte order, two 32-bit halves at a time: the ones' complement sum is
    // the same in either order but for a swap of the result (RFC 1071, section 2 (B)), and sums of
    // 32-bit words fold to sums of 16-bit words. A `u64` takes 2^32 of them without a carry, and
    // without carries the compiler makes vector instructions of the loop.
    let (chunks, tail) = data.as_chunks::<8>();
    let mut total = 0_u64;
    for chunk in chunks {
        let word = u64::from_ne_bytes(*chunk);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let (pairs, odd) = tail.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let &[last] = odd {
        total += u64::from(u16::from_ne_bytes([last, 0]));
    }
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    u32::from(u16::from_be(fold(total as u32)))
}

/// Folds a sum into 16 bits.
#[inline]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum of `data`.
#[inline]
#[must_use]
pub fn of(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// The sum of a pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1): `addresses` are
/// source and destination as they follow one another in an IPv4 or IPv6 header, `bytes` the
/// length of transport header and payload.
#[inline]
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8, bytes: usize) -> u32 {
    let bytes = bytes as u32;
    u32::from(fold(sum(addresses) + u32::from(protocol) + (bytes >> 16) + (bytes & 0xffff)))
}

/// Completes the partial checksum of `frame`: sums from `start` to the end, and stores the result
/// at `start + offset`. Whether the place is within the frame; if not, nothing is written.
///
/// A UDP checksum that comes out as zero is stored as 0xffff, because zero says that there is none
/// (RFC 768). The place tells the protocol: no other has its checksum six bytes into the header.
#[inline]
pub fn complete_partial(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let Some(packet) = frame.get_mut(usize::from(start)..) else { return false };
    let checksum = of(packet);
    let Some(field) = packet.get_mut(usize::from(offset)..).and_then(<[u8]>::first_chunk_mut::<2>) else {
        return false;
    };
    *field = if offset == udp::CHECKSUM_OFFSET { udp_field(checksum) } else { checksum }.to_be_bytes();
    true
}

/// A UDP checksum as its field holds it.
#[inline]
#[must_use]
pub const fn udp_field(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether the transport checksum of `frame` is right. `layers` are the frame's. An absent UDP
/// checksum (zero) is not right: nothing vouches for the bytes.
#[inline]
#[must_use]
pub fn is_transport_right(frame: &[u8], layers: &Layers) -> bool {
    let (start, end) = (usize::from(layers.transport_offset), layers.end as usize);
    let Some(packet) = frame.get(start..end) else { return false };
    if layers.transport == Transport::Udp && packet.get(6..8) == Some(&[0, 0]) {
        return false;
    }
    fold(layers.pseudo_header_sum(frame, packet.len()) + sum(packet)) == 0xffff
}

/// What the checksum field of a frame that came *without metadata* says of the checksum.
///
/// A veth hands a frame over as its sender's kernel left it, with the transport checksum still to
/// be done, and where no `virtio_net_hdr` comes with it (AF_XDP, the inside of a tunnel) only the
/// field itself can tell: then it holds the folded sum of the pseudo-header. A checksum that is
/// complete has that very value once in 65,536 packets, and does no harm: completing it again
/// gives the same value, because what the sum of such a packet lacks to 0xffff is that field.
///
/// Not TCP or UDP, a fragment, or bytes behind the IP packet that are not zero (completing sums up
/// to the end of the frame): nothing is known.
#[inline]
#[must_use]
pub fn detect_partial(frame: &[u8]) -> Csum {
    let Ok(layers) = Layers::parse(frame) else { return Csum::Unknown };
    let padding = frame.get(layers.end as usize..).unwrap_or_default();
    if padding.iter().any(|&byte| byte != 0) {
        return Csum::Unknown;
    }
    detect_partial_at(frame, &layers, layers.transport_bytes())
}

/// The same where the headers were found already, and transport header and payload, of which `frame` need not
/// have everything, are `transport_bytes` long.
#[inline]
#[must_use]
pub fn detect_partial_at(frame: &[u8], layers: &Layers, transport_bytes: usize) -> Csum {
    let (start, offset) = (layers.transport_offset, layers.transport.checksum_offset());
    let at = usize::from(start) + usize::from(offset);
    let Some(field) = frame.get(at..).and_then(<[u8]>::first_chunk::<2>) else { return Csum::Unknown };
    // Never zero, which would say that there is no checksum: the protocol's number is part of the sum.
    let pseudo = fold(layers.pseudo_header_sum(frame, transport_bytes));
    if u16::from_be_bytes(*field) == pseudo { Csum::Partial { start, offset } } else { Csum::Unknown }
}

/// The checksum after a 16-bit word that it covers changed from `old` to `new` (RFC 1624,
/// equation 3).
#[inline]
#[must_use]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

/// The checksum after an aligned 32-bit word that it covers, such as an IPv4 address, changed.
#[inline]
#[must_use]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    let (old, new) = (!old, new);
    !fold(!checksum as u32 + (old >> 16) + (old & 0xffff) + (new >> 16) + (new & 0xffff))
}

/// The checksum after an IPv6 address that it covers changed.
#[inline]
#[must_use]
pub fn update_ip16(checksum: u16, old: &[u8; 16], new: &[u8; 16]) -> u16 {
    // The complement of a sum is the sum of the complements.
    !fold(u32::from(!checksum) + u32::from(!fold(sum(old))) + sum(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 word by word.
    fn reference(data: &[u8]) -> u16 {
        let mut sum = 0_u64;
        for pair in data.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071, section 3.
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn every_length_and_alignment() {
        let bytes: Vec<u8> = (0..300_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for start in 0..16 {
            for end in start..bytes.len() {
                assert_eq!(sum(&bytes[start..end]), u32::from(reference(&bytes[start..end])), "{start}..{end}");
            }
        }
        for len in [65_535, 65_536, 65_557] {
            assert_eq!(sum(&vec![0xff; len]), u32::from(reference(&vec![0xff; len])));
        }
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn udp_never_says_none() {
        let mut frame = vec![0_u8; 42];
        frame[40] = 0xff;
        frame[41] = 0xff;
        assert!(complete_partial(&mut frame, 34, 6));
        assert_eq!(frame[40..42], [0xff, 0xff], "a zero checksum of UDP is stored as its other form");
        let mut frame = vec![0_u8; 52];
        frame[50] = 0xff;
        frame[51] = 0xff;
        assert!(complete_partial(&mut frame, 34, 16));
        assert_eq!(frame[50..52], [0, 0]);
    }

    #[test]
    fn partial_outside_of_the_frame_is_refused() {
        let mut frame = [1_u8; 40];
        for (start, offset) in [(41, 0), (40, 0), (39, 0), (34, 6), (34, 5), (u16::MAX, u16::MAX)] {
            assert!(!complete_partial(&mut frame, start, offset), "{start} {offset}");
        }
        assert_eq!(frame, [1; 40]);
        assert!(complete_partial(&mut frame, 34, 4));
    }

    /// As many random packets as the profile has time for.
    #[test]
    fn incremental_equals_full() {
        let rounds = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            // xorshift64*: any spread of bits will do.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        };
        let mut packet = [0_u8; 40];
        for _ in 0..rounds {
            for chunk in packet.as_chunks_mut::<8>().0 {
                // Runs of zeros and ones are where ones' complement has its corners.
                *chunk = match random() % 8 {
                    0 => [0; 8],
                    1 => [0xff; 8],
                    _ => random().to_ne_bytes(),
                };
            }
            packet[0] = 0x45; // never all zero, as no packet is
            let before = of(&packet);
            let at = 2 * (1 + (random() % 11) as usize);
            let mut new = [0_u8; 16];
            new[..8].copy_from_slice(&random().to_ne_bytes());
            new[8..].copy_from_slice(&random().to_ne_bytes());
            if random() % 4 == 0 {
                new = [if random() % 2 == 0 { 0 } else { 0xff }; 16];
            }
            let old: [u8; 16] = packet[at..at + 16].try_into().unwrap();
            let word = |bytes: &[u8; 16]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
            let half = |bytes: &[u8; 16]| u16::from_be_bytes(bytes[..2].try_into().unwrap());
            packet[at..at + 2].copy_from_slice(&new[..2]);
            assert_eq!(update_u16(before, half(&old), half(&new)), of(&packet));
            packet[at + 2..at + 4].copy_from_slice(&new[2..4]);
            assert_eq!(update_u32(before, word(&old), word(&new)), of(&packet));
            packet[at + 4..at + 16].copy_from_slice(&new[4..]);
            assert_eq!(update_ip16(before, &old, &new), of(&packet));
        }
    }

    /// 02:..:02 from 02:..:01, IPv4 10.0.0.1 -> 10.0.0.2, `payload` behind a header of `protocol`
    /// with its checksum partial.
    fn partial_packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let (header_bytes, field) = if protocol == 6 { (20, 16) } else { (8, 6) };
        let transport_bytes = header_bytes + payload.len();
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol];
        frame[16..18].copy_from_slice(&(20 + transport_bytes as u16).to_be_bytes());
        frame.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let mut header = vec![0x12, 0x34, 0x56, 0x78];
        header.resize(header_bytes, 0);
        if protocol == 6 {
            header[12] = 0x50;
        } else {
            header[4..6].copy_from_slice(&(transport_bytes as u16).to_be_bytes());
        }
        let pseudo = fold(pseudo_header(&[10, 0, 0, 1, 10, 0, 0, 2], protocol, transport_bytes));
        header[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        frame.extend(header);
        frame.extend(payload);
        frame
    }

    #[test]
    fn an_unfinished_checksum_is_known_by_its_field() {
        for (protocol, offset) in [(6, 16), (17, 6)] {
            for payload in [&[][..], &[1], &[0xff; 1000]] {
                let mut frame = partial_packet(protocol, payload);
                let partial = Csum::Partial { start: 34, offset };
                assert_eq!(detect_partial(&frame), partial);
                frame.extend([0; 6]);
                assert_eq!(detect_partial(&frame), partial, "padding of zeros changes no sum");
                frame.push(1);
                assert_eq!(detect_partial(&frame), Csum::Unknown);
                frame.truncate(frame.len() - 7);
                assert!(complete_partial(&mut frame, 34, offset));
                assert_eq!(detect_partial(&frame), Csum::Unknown);
                for bytes in 0..frame.len() {
                    assert_eq!(detect_partial(&frame[..bytes]), Csum::Unknown);
                }
            }
        }
    }

    /// The one packet in 65,536: its right checksum looks unfinished, and finishing it changes nothing.
    #[test]
    fn a_right_checksum_that_looks_unfinished_stays_right() {
        for protocol in [6, 17] {
            let mut frame = partial_packet(protocol, &[0, 0]);
            let end = frame.len();
            let sum = sum(&frame[34..]);
            // What the segment's sum lacks to the value of which the field is the complement.
            let field = if protocol == 6 { 50 } else { 40 };
            let pseudo = u16::from_be_bytes([frame[field], frame[field + 1]]);
            let lacking = fold(u32::from(!pseudo) + u32::from(!fold(sum)));
            frame[end - 2..].copy_from_slice(&lacking.to_be_bytes());
            let layers = Layers::parse(&frame).unwrap();
            assert!(is_transport_right(&frame, &layers));
            let Csum::Partial { start, offset } = detect_partial(&frame) else { panic!("it looks unfinished") };
            let before = frame.clone();
            assert!(complete_partial(&mut frame, start, offset));
            assert_eq!(frame, before);
        }
    }

    proptest! {
        #[test]
        fn sum_equals_the_reference(data in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&data), u32::from(reference(&data)));
        }
    }
}
