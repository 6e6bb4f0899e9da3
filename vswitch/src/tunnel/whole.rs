//! Super-frames that came through a tunnel whole.
//!
//! Between two network namespaces of one machine no wire cuts packets: Linux' `vxlan` device hands its
//! TCP super-frames to a veth pair in one piece, outer headers and all, and a UDP socket at the other
//! end gets 64 KB in one datagram. What the kernel knew of it, that it is to be cut and into what, a
//! socket does not tell.
//!
//! It can be told from the frame. The sender's stack left the TCP checksum unfinished, as it does for
//! whatever it leaves to others to cut, and the packet is longer than the tunnel carries. The segments
//! are then as long as the tunnel's MTU allows, which is what the sender would have sent on a wire.

use crate::frame::{Csum, Frame, Gso, GsoKind, Offload};
use crate::wire::layers::{Network, Transport};
use crate::wire::{Layers, tcp};

/// The Ethernet header and two tags: less than this beyond the MTU is not looked at.
const ETHERNET_BYTES_MAX: usize = 22;

/// Says of a frame that a tunnel with the MTU `mtu` delivered whole that it is a super-frame.
#[inline]
pub fn mark(frame: &mut Frame, mtu: u32) {
    let is_candidate = frame.offload.gso.is_none() && matches!(frame.offload.csum, Csum::Partial { .. });
    if is_candidate && frame.len() > mtu as usize + ETHERNET_BYTES_MAX {
        frame.offload = describe(frame.data(), frame.offload, mtu);
    }
}

#[cold]
fn describe(frame: &[u8], offload: Offload, mtu: u32) -> Offload {
    let Ok(layers) = Layers::parse(frame) else { return offload };
    let kind = match (layers.transport, layers.network) {
        (Transport::Tcp, Network::V4) => GsoKind::Tcp4,
        (Transport::Tcp, Network::V6) => GsoKind::Tcp6,
        // A datagram is one whole: where it was to be cut cannot be told.
        (Transport::Udp, _) => return offload,
    };
    let headers_bytes = u32::from(layers.payload_offset - layers.network_offset);
    let size = u16::try_from(mtu.saturating_sub(headers_bytes)).unwrap_or(u16::MAX);
    let Ok(header) = tcp::Packet::new_checked(&frame[usize::from(layers.transport_offset)..]) else { return offload };
    if size == 0 || layers.payload_bytes() <= usize::from(size) {
        return offload;
    }
    Offload { gso: Some(Gso { kind, ecn: header.flags().any(tcp::Flags::CWR), size }), ..offload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Pool, checksum};

    /// A TCP (or UDP) frame over IPv4 with `payload` bytes, its checksum unfinished or not.
    fn frame(pool: &mut Pool, protocol: u8, payload: u16, flags: u8, finished: bool) -> Frame {
        let transport_bytes = if protocol == 6 { 20 + payload } else { 8 + payload };
        let mut bytes = vec![2; 12];
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((20 + transport_bytes).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let start = bytes.len();
        if protocol == 6 {
            bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        } else {
            bytes.extend([0x9c, 0x40, 0, 80]);
            bytes.extend(transport_bytes.to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.resize(start + usize::from(transport_bytes), 7);
        let at = start + if protocol == 6 { 16 } else { 6 };
        let sum = checksum::fold(checksum::pseudo_header(&bytes[26..34], protocol, usize::from(transport_bytes)));
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        if finished {
            checksum::complete_partial(&mut bytes, start as u16, (at - start) as u16);
        }
        let mut frame = pool.alloc().expect("a frame");
        frame.copy_from(&bytes);
        frame.offload.csum = checksum::detect_partial(frame.data());
        frame
    }

    #[test]
    fn what_is_longer_than_the_tunnel_and_unfinished_is_a_super_frame() {
        let mut pool = Pool::new(4).expect("a pool");
        for (protocol, payload, flags, finished, expected) in [
            (6, 30_000, 0x10, false, Some(Gso { kind: GsoKind::Tcp4, ecn: false, size: 1410 })),
            (6, 30_000, 0x90, false, Some(Gso { kind: GsoKind::Tcp4, ecn: true, size: 1410 })),
            // It fits; its checksum is whole; it is a datagram.
            (6, 1410, 0x10, false, None),
            (6, 30_000, 0x10, true, None),
            (17, 30_000, 0, false, None),
        ] {
            let mut frame = frame(&mut pool, protocol, payload, flags, finished);
            let before = frame.offload.csum;
            mark(&mut frame, 1450);
            assert_eq!(frame.offload, Offload { csum: before, gso: expected }, "{protocol} {payload} {finished}");
            pool.free(frame);
        }
        // A tunnel in which not even the headers fit.
        let mut frame = frame(&mut pool, 6, 30_000, 0x10, false);
        mark(&mut frame, 40);
        assert_eq!(frame.offload.gso, None);
        pool.free(frame);
    }
}
