//! Super-frames inside of a tunnel, cut in software: for those who cannot take one whole, because they look at the outer
//! packet only.
//!
//! Each segment gets a copy of everything in front of the inner packet, with outer lengths, IPv4 identification and checksums
//! of its own, as `__skb_udp_tunnel_segment` (`net/ipv4/udp_offload.c`) has it. The inner packet must be inside of an
//! Ethernet frame, as that of VXLAN and Geneve is.

use crate::frame::gso::{GsoError, Segmenter};
use crate::frame::{Encapsulation, Offload, checksum};
use crate::wire::layers::NoLayers;
use crate::wire::{ethernet, ipv4, ipv6, protocol, udp};

/// A super-frame inside of a tunnel that is ready to be cut.
#[derive(Debug)]
pub struct Cutter<'a> {
    /// What stands in front of the inner frame.
    front: &'a [u8],
    inner: Segmenter<'a>,
    /// Where the outer IP header is.
    network_offset: usize,
    encapsulation: Encapsulation,
}

impl<'a> Cutter<'a> {
    /// Examines a super-frame with the outer headers that `encapsulation` describes.
    ///
    /// # Errors
    /// [`GsoError`] says why the frame cannot be cut.
    pub fn new(frame: &'a [u8], offload: &Offload, encapsulation: Encapsulation) -> Result<Self, GsoError> {
        let not_ip = GsoError::Layers(NoLayers::NotIp);
        let at = usize::from(encapsulation.inner_network_offset).saturating_sub(ethernet::HEADER_BYTES);
        let (_, network_offset) = ethernet::skip_tags(frame).map_err(|_| NoLayers::NotIp)?;
        let ip_bytes = if encapsulation.ipv6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
        let udp = usize::from(encapsulation.transport_offset);
        if udp < network_offset + ip_bytes || at < udp + udp::HEADER_BYTES {
            return Err(not_ip);
        }
        let (front, inner) = frame.split_at_checked(at).ok_or(not_ip)?;
        let inner = Segmenter::new(inner, &offload.shifted(-(at as i32)))?;
        Ok(Self { front, inner, network_offset, encapsulation })
    }

    /// The number of segments.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.count()
    }

    /// Writes segment `index` to the front of `out`, outer headers and all, and returns its length in bytes: zero when there is
    /// no such segment, or no room for it.
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        let Some((front, rest)) = out.split_at_mut_checked(self.front.len()) else { return 0 };
        let inner_bytes = self.inner.write(index, rest);
        if inner_bytes == 0 {
            return 0;
        }
        front.copy_from_slice(self.front);
        let bytes = front.len() + inner_bytes;
        self.finish(index, &mut out[..bytes]);
        bytes
    }

    /// Makes the outer headers those of the segment.
    fn finish(&self, index: usize, segment: &mut [u8]) {
        let (ip, udp) = (self.network_offset, usize::from(self.encapsulation.transport_offset));
        // Less than the super-frame's own, which fitted their fields.
        let datagram_bytes = (segment.len() - udp) as u16;
        let pseudo = if self.encapsulation.ipv6 {
            if let Some(mut header) = ipv6::HeaderMut::new_checked(&mut segment[ip..]) {
                header.set_payload_bytes((udp - ip - ipv6::HEADER_BYTES) as u16 + datagram_bytes);
            }
            checksum::pseudo_header(&segment[ip + 8..ip + 40], protocol::UDP, datagram_bytes.into())
        } else {
            let packet_bytes = (udp - ip) as u16 + datagram_bytes;
            if let Some(mut header) = ipv4::HeaderMut::new_checked(&mut segment[ip..]) {
                let id = u16::from_be_bytes([self.front[ip + 4], self.front[ip + 5]]);
                header.set_total_bytes(packet_bytes);
                header.set_id(id.wrapping_add(index as u16));
                header.fill_checksum();
            }
            checksum::pseudo_header(&segment[ip + 12..ip + 20], protocol::UDP, datagram_bytes.into())
        };
        segment[udp + 4..udp + 6].copy_from_slice(&datagram_bytes.to_be_bytes());
        segment[udp + 6..udp + 8].fill(0);
        if self.encapsulation.checksum {
            let sum = checksum::udp_field(!checksum::fold(pseudo + checksum::sum(&segment[udp..])));
            segment[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::frame::{Csum, Frame, Gso, GsoKind, Pool};
    use crate::tunnel::RemoteConfig;
    use crate::tunnel::outer::{self, Template};

    /// A super-frame of TCP over IPv4 with `payload` bytes.
    fn inner(payload: usize) -> (Vec<u8>, Offload) {
        let mut bytes = vec![2; 12];
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((40 + payload as u16).to_be_bytes());
        bytes.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum::of(&bytes[14..]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        bytes.extend((0..payload).map(|at| at as u8));
        let pseudo = checksum::fold(checksum::pseudo_header(&bytes[26..34], 6, 20 + payload));
        bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
        let gso = Some(Gso { kind: GsoKind::Tcp4, ecn: false, size: 1000 });
        (bytes, Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso })
    }

    fn encapsulated(pool: &mut Pool, ends: (IpAddr, IpAddr), payload: usize) -> Frame {
        let template = Template::new(RemoteConfig::new(42, ends.1), ends.0, ([4; 6], [6; 6])).unwrap();
        let (bytes, offload) = inner(payload);
        let mut frame = pool.alloc().unwrap();
        frame.copy_from(&bytes);
        frame.offload = offload;
        template.encapsulate_whole(&mut frame).unwrap();
        frame
    }

    #[test]
    fn the_segments_are_tunnel_packets_of_the_inner_segments() {
        let v6 = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let v4 = |last| IpAddr::from([198, 18, 0, last]);
        let mut pool = Pool::new(2).unwrap();
        for ends in [(v4(1), v4(2)), (v6(1), v6(2))] {
            let frame = encapsulated(&mut pool, ends, 2500);
            let encapsulation = frame.encapsulation.unwrap();
            assert_eq!(encapsulation.checksum, ends.0.is_ipv6());
            let cutter = Cutter::new(frame.data(), &frame.offload, encapsulation).unwrap();
            assert_eq!(cutter.count(), 3);
            let (bytes, offload) = inner(2500);
            let inner = Segmenter::new(&bytes, &offload).unwrap();
            for index in 0..3 {
                let (mut out, mut expected) = ([0; 2000], [0; 2000]);
                let len = cutter.write(index, &mut out);
                let packet = outer::decapsulate(&out[..len], Csum::Unknown).unwrap();
                let expected_bytes = inner.write(index, &mut expected);
                assert_eq!((packet.sender, packet.local, packet.port), (ends.0, ends.1, 4789));
                assert_eq!(out[packet.payload.clone()][8..], expected[..expected_bytes]);
            }
            assert_eq!(cutter.write(3, &mut [0; 2000]), 0);
            assert_eq!(cutter.write(0, &mut [0; 1000]), 0);
            pool.free(frame);
        }
    }

    #[test]
    fn offsets_that_lie_are_refused() {
        let mut pool = Pool::new(1).unwrap();
        let ends = (IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2]));
        let frame = encapsulated(&mut pool, ends, 2500);
        let right = frame.encapsulation.unwrap();
        for (transport_offset, inner_network_offset) in [(0, 64), (20, 64), (34, 40), (34, 0xffff), (0xffff, 0xffff)] {
            let encapsulation = Encapsulation { transport_offset, inner_network_offset, ..right };
            assert!(Cutter::new(frame.data(), &frame.offload, encapsulation).is_err());
        }
        assert!(Cutter::new(&frame.data()[..10], &frame.offload, right).is_err());
        pool.free(frame);
    }
}
