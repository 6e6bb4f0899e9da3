//! Super-frames inside of tunnels.

use crate::frame::{Csum, checksum};
use crate::tunnel::cut::Cutter;
use crate::tunnel::outer;
use crate::wire::vnet_hdr::{self, HEADER_BYTES_TUNNEL};
use crate::wire::{Layers, ethernet};

/// A `virtio_net_hdr` of the form for tunnels and the frame behind it: what decodes encodes again, to the same meaning; what can
/// be cut is cut into segments that are no longer than the whole, whose outer and inner headers are right.
pub fn tunnel_whole(data: &[u8]) {
    let (header, frame) = data.split_at(data.len().min(HEADER_BYTES_TUNNEL));
    let Ok((offload, encapsulation)) = vnet_hdr::decode_tunnel(header, frame) else { return };
    let mut again = [0xff; HEADER_BYTES_TUNNEL];
    match encapsulation {
        Some(encapsulation) => vnet_hdr::encode_tunnel(&offload, &encapsulation, frame, &mut again),
        None => vnet_hdr::encode(&offload, frame, &mut again),
    }
    assert_eq!(vnet_hdr::decode_tunnel(&again, frame), Ok((offload, encapsulation)));
    // What the kernel refuses: a linear part longer than the frame (`tun_get_user`).
    assert!(usize::from(u16::from_ne_bytes([again[2], again[3]])) <= frame.len());
    let Some(encapsulation) = encapsulation else { return };
    let Ok(cutter) = Cutter::new(frame, &offload, encapsulation) else { return };
    let front = usize::from(encapsulation.inner_network_offset) - ethernet::HEADER_BYTES;
    let is_outer_sane = outer::decapsulate(frame, Csum::Valid).is_ok();
    let mut out = vec![0; frame.len()];
    for index in 0..cutter.count() {
        let bytes = cutter.write(index, &mut out);
        assert!(bytes > front && bytes <= frame.len());
        let inner = &out[front..bytes];
        let layers = Layers::parse(inner).expect("a segment is a packet");
        assert!(checksum::is_transport_right(inner, &layers));
        if is_outer_sane && let Ok(packet) = outer::decapsulate(&out[..bytes], Csum::Unknown) {
            assert!(packet.payload.end <= bytes);
        }
    }
    assert_eq!(cutter.write(cutter.count(), &mut out), 0);
    assert_eq!(cutter.write(0, &mut []), 0);
}
