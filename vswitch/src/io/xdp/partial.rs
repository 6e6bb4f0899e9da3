//! Which received frames still lack their checksum.
//!
//! The kernel lets a packet that goes from one namespace to another travel with an unfinished checksum: the field
//! holds the folded sum of the pseudo-header, and metadata beside the packet says so. AF_XDP has no place for that
//! metadata, so it is recovered from the packet: *the field equals the folded sum of the pseudo-header*.
//!
//! The test is [`checksum::detect_partial`]'s, which says why it is safe. What is particular here are frames that are
//! scattered over several chunks: only their heads are at hand.

use crate::frame::{Csum, checksum};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{Layers, ipv6};

/// As many bytes of a frame as headers are looked for in, where the frame goes on elsewhere.
const HEAD_BYTES: usize = 512;

/// What is known of the checksum of a received frame of `frame_bytes` bytes that starts with `head`.
#[inline]
pub(super) fn detect(head: &[u8], frame_bytes: usize) -> Csum {
    if head.len() == frame_bytes { checksum::detect_partial(head) } else { scattered(head, frame_bytes) }
}

/// The headers' lengths reach beyond the head: they are found in a copy that says otherwise.
#[cold]
fn scattered(head: &[u8], frame_bytes: usize) -> Csum {
    let mut copy = [0; HEAD_BYTES];
    let Some(copy) = copy.get_mut(..head.len().min(HEAD_BYTES)) else { return Csum::Unknown };
    copy.copy_from_slice(&head[..copy.len()]);
    let Ok((ethertype, network)) = ethernet::skip_tags(copy) else { return Csum::Unknown };
    let visible = copy.len() - network;
    // Where the length is, and what it does not count.
    let (at, uncounted) = match ethertype {
        EtherType::IPV4 => (network + 2, 0),
        EtherType::IPV6 => (network + 4, ipv6::HEADER_BYTES),
        _ => return Csum::Unknown,
    };
    let Some(field) = copy.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) else { return Csum::Unknown };
    let packet_bytes = usize::from(u16::from_be_bytes(*field)) + uncounted;
    let Some(pretended) = visible.checked_sub(uncounted) else { return Csum::Unknown };
    *field = (pretended as u16).to_be_bytes();
    let Ok(layers) = Layers::parse(copy) else { return Csum::Unknown };
    if network + packet_bytes != frame_bytes {
        return Csum::Unknown;
    }
    checksum::detect_partial_at(copy, &layers, frame_bytes - usize::from(layers.transport_offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::checksum::fold;
    use proptest::prelude::*;

    /// A frame of a transport header and payload over IPv4 or IPv6, behind `tags` VLAN tags, with the field unfinished.
    fn frame(v6: bool, protocol: u8, tags: usize, payload: &[u8]) -> (Vec<u8>, u16, u16) {
        let (header, offset) = if protocol == 6 { (20, 16) } else { (8, 6) };
        let mut transport = vec![0; header];
        transport[0] = 0x12;
        if protocol == 6 {
            transport[12] = 0x50;
        } else {
            transport[4..6].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
        }
        transport.extend_from_slice(payload);
        let mut bytes = vec![2; 12];
        for _ in 0..tags {
            bytes.extend([0x81, 0, 0, 7]);
        }
        let len = transport.len();
        let addresses: Vec<u8> = (1..if v6 { 33 } else { 9 }).collect();
        if v6 {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((len as u16).to_be_bytes());
            bytes.extend([protocol, 64]);
        } else {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend(((len + 20) as u16).to_be_bytes());
            bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        }
        bytes.extend(&addresses);
        let start = bytes.len();
        let sum = fold(checksum::pseudo_header(&addresses, protocol, len));
        transport[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(transport);
        (bytes, start as u16, offset as u16)
    }

    #[test]
    fn unfinished_checksums_are_found_and_finished_ones_are_not() {
        for (v6, protocol, tags) in [(false, 6, 0), (true, 6, 1), (false, 17, 2), (true, 17, 0)] {
            let (mut bytes, start, offset) = frame(v6, protocol, tags, b"some payload");
            assert_eq!(detect(&bytes, bytes.len()), Csum::Partial { start, offset });
            assert!(checksum::complete_partial(&mut bytes, start, offset));
            assert_eq!(detect(&bytes, bytes.len()), Csum::Unknown, "{v6} {protocol}");
            let at = usize::from(start + offset);
            bytes[at..at + 2].fill(0);
            assert_eq!(detect(&bytes, bytes.len()), Csum::Unknown, "none is none");
        }
    }

    #[test]
    fn scattered_frames_are_judged_by_their_whole_length() {
        for (v6, protocol) in [(false, 6), (true, 6), (false, 17), (true, 17)] {
            let (bytes, start, offset) = frame(v6, protocol, 1, &vec![5; 59_000]);
            assert_eq!(detect(&bytes[..3840], bytes.len()), Csum::Partial { start, offset });
            assert_eq!(detect(&bytes[..3840], bytes.len() - 1), Csum::Unknown);
            assert_eq!(detect(&bytes[..20], bytes.len()), Csum::Unknown);
        }
    }

    #[test]
    fn padding_is_no_obstacle_but_a_trailer_is() {
        let (mut bytes, start, offset) = frame(false, 17, 0, b"x");
        bytes.resize(60, 0);
        assert_eq!(detect(&bytes, 60), Csum::Partial { start, offset });
        bytes[59] = 1;
        assert_eq!(detect(&bytes, 60), Csum::Unknown);
    }

    proptest! {
        /// Whatever comes, valid checksums stay valid, and nothing panics.
        #[test]
        fn completing_what_was_valid_changes_nothing(
            v6 in any::<bool>(), tcp in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let (mut bytes, start, offset) = frame(v6, if tcp { 6 } else { 17 }, 0, &payload);
            // Aim for the field to be its own pseudo-header sum: two more bytes decide.
            checksum::complete_partial(&mut bytes, start, offset);
            let before = bytes.clone();
            if let Csum::Partial { start, offset } = detect(&bytes, bytes.len()) {
                checksum::complete_partial(&mut bytes, start, offset);
            }
            prop_assert_eq!(bytes, before);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), more in 0..70_000_usize) {
            detect(&bytes, bytes.len());
            detect(&bytes, bytes.len() + more);
        }
    }
}
