//! TCP MSS clamping: making the segments of a connection fit a path whose MTU its ends do not know.
//!
//! Path MTU discovery does the same where errors arrive, so this is an option for networks that swallow them. It
//! lowers the option in a segment with SYN, never raises it, and adds none: without the option a sender takes the
//! smallest segments there are (RFC 9293 section 3.7.1).

use crate::frame::Csum;
use crate::frame::checksum::{fold, sum};
use crate::wire::tcp::{CHECKSUM_OFFSET, Flags, HEADER_BYTES};
use crate::wire::{ipv4, ipv6};

use super::rewrite::plus;
use super::{Packet, Upper};

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// The MSS of segments that fit through an MTU, in bytes: headers without options (RFC 6691).
#[must_use]
pub const fn of_mtu(mtu: u32, is_v6: bool) -> u16 {
    let headers_bytes = if is_v6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES } + HEADER_BYTES;
    let mss = mtu.saturating_sub(headers_bytes as u32);
    if mss > u16::MAX as u32 { u16::MAX } else { mss as u16 }
}

/// Lowers the MSS option in `data`, a frame or its head that was parsed as `packet`, to what fits through an `mtu`, if
/// it is a segment with SYN and has a larger one. Whether it was lowered.
pub fn clamp(data: &mut [u8], packet: &Packet, csum: Csum, mtu: u32) -> bool {
    let mss = of_mtu(mtu, packet.is_v6);
    let Upper::Tcp { flags, header_bytes, .. } = packet.upper else { return false };
    if !flags.any(Flags::SYN) {
        return false;
    }
    let start = usize::from(packet.transport);
    let Some(header) = data.get_mut(start..start + usize::from(header_bytes)) else { return false };
    let Some(at) = option(header) else { return false };
    if u16::from_be_bytes([header[at], header[at + 1]]) <= mss {
        return false;
    }
    // The option may begin at an odd offset: then each byte is the other half of a word.
    let (first, last) = (at & !1, (at + 3) & !1);
    let before = fold(sum(&header[first..last]));
    header[at..at + 2].copy_from_slice(&mss.to_be_bytes());
    let after = fold(sum(&header[first..last]));
    // A checksum that is still to be computed will be over what is there then.
    if !matches!(csum, Csum::Partial { start: at, .. } if at == packet.transport) {
        let at = usize::from(CHECKSUM_OFFSET);
        let checksum = !u16::from_be_bytes([header[at], header[at + 1]]);
        let checksum = !fold(u32::from(checksum) + u32::from(plus(!before, after)));
        header[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    true
}

/// Where the value of the MSS option is in a TCP header.
fn option(header: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        at += match *header.get(at)? {
            END_OF_OPTIONS => return None,
            NO_OPERATION => 1,
            kind => {
                let bytes = usize::from(*header.get(at + 1)?);
                if kind == MAXIMUM_SEGMENT_SIZE {
                    return (bytes == 4 && at + 4 <= header.len()).then_some(at + 2);
                }
                // Less than kind and length would never end.
                bytes.max(2)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::test_packets::{Body, Made, Recipe, address};
    use super::*;

    /// A segment with these flags and options, which are a multiple of four.
    fn segment(source: IpAddr, flags: u8, options: &[u8], payload: &[u8], is_partial: bool) -> Made {
        let tuple = Body::Tcp.tuple(source, source, [1000, 80]);
        let payload = [options, payload].concat();
        let mut made = Recipe { is_partial, ..Recipe::plain(Body::Tcp, tuple, &payload) }.make();
        made.data[made.transport + 12] = 0x50 + ((options.len() / 4) as u8) * 16;
        made.data[made.transport + 13] = flags;
        made.seal();
        made
    }

    fn clamped(made: &mut Made, mss: u16) -> bool {
        let packet = Packet::parse(&made.data, made.data.len()).unwrap();
        let (csum, mtu) = (made.csum(), u32::from(mss) + if made.is_v6 { 60 } else { 40 });
        clamp(&mut made.data, &packet, csum, mtu)
    }

    proptest! {
        #[test]
        fn as_though_it_had_been_smaller(
            source in any::<bool>().prop_flat_map(address),
            noops in 0..8_usize,
            (old, new) in any::<(u16, u16)>(),
            is_partial in any::<bool>(),
            payload in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let options = |mss: u16| {
                let [high, low] = mss.to_be_bytes();
                let mut options = [&[1; 8][..noops], &[2, 4, high, low]].concat();
                options.resize(12, 0);
                options
            };
            let mut made = segment(source, 2, &options(old), &payload, is_partial);
            let is_lowered = clamped(&mut made, new);
            prop_assert_eq!(is_lowered, new < old);
            prop_assert_eq!(made, segment(source, 2, &options(old.min(new)), &payload, is_partial));
        }

        #[test]
        fn any_options_are_walked_through(mut options in prop::collection::vec(any::<u8>(), 0..40), mss in any::<u16>()) {
            options.truncate(options.len() & !3);
            let mut made = segment([10, 0, 0, 1].into(), 2, &options, &[], false);
            let bytes = made.data.len();
            clamped(&mut made, mss);
            let mut sealed = made.clone();
            sealed.seal();
            prop_assert_eq!((made.data.len(), &made), (bytes, &sealed));
        }
    }

    #[test]
    fn only_segments_with_syn() {
        let option = [2, 4, 0x05, 0xb4];
        for (flags, is_lowered) in [(0x02, true), (0x12, true), (0x10, false), (0x04, false)] {
            let mut made = segment([10, 0, 0, 1].into(), flags, &option, &[], false);
            assert_eq!(clamped(&mut made, 1400), is_lowered);
        }
        let mut made = segment([10, 0, 0, 1].into(), 2, &[], &option, false);
        assert!(!clamped(&mut made, 1400), "payload");
        assert_eq!((of_mtu(1500, false), of_mtu(1500, true)), (1460, 1440));
        assert_eq!((of_mtu(10, true), of_mtu(u32::MAX, false)), (0, u16::MAX));
    }
}
