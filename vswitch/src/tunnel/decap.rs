//! The checks on a tunnel packet, each with the reason of its drop.
//!
//! In order: is it VXLAN at all; is it from a known remote of a known network; is what is inside a
//! frame that the tunnel lets in. The checks read headers only. What they let pass is a frame of
//! the sender's making, and the bridge trusts it no more than one from a container.

use std::net::IpAddr;

use super::inner;
use super::table::{Admission, Origin, TunnelTable};
use crate::frame::DropReason;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::vxlan;

/// Which port a UDP payload from `sender` came in on, and what it carries.
///
/// # Errors
/// [`DropReason::TunnelMalformed`], [`DropReason::UnknownVni`], [`DropReason::UnknownPeer`].
#[inline]
pub fn origin<'a>(payload: &'a [u8], sender: IpAddr, tunnels: &TunnelTable) -> Result<(Origin, &'a [u8]), DropReason> {
    let packet = vxlan::Packet::new_checked(payload).map_err(|_| DropReason::TunnelMalformed)?;
    Ok((tunnels.origin(packet.vni(), sender)?, packet.payload()))
}

/// Whether a tunnel with the UDP port `tunnel_port` lets the inner frame in.
///
/// # Errors
/// [`DropReason::Runt`], [`DropReason::InnerTag`], [`DropReason::NestedTunnel`].
#[inline]
pub fn admit(frame: &[u8], admission: Admission, tunnel_port: u16) -> Result<(), DropReason> {
    let Some(ethertype) = frame.get(ethernet::TYPE_OFFSET..).and_then(<[u8]>::first_chunk::<2>) else {
        return Err(DropReason::Runt);
    };
    if !admission.tagged && EtherType(u16::from_be_bytes(*ethertype)).is_tag() {
        return Err(DropReason::InnerTag);
    }
    if !admission.nested && inner::examine(frame).udp_port == Some(tunnel_port) {
        return Err(DropReason::NestedTunnel);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::PortId;
    use crate::tunnel::TunnelEntry;
    use crate::wire::vxlan::Vni;

    const OPEN: Admission = Admission { tagged: true, nested: true };
    const SHUT: Admission = Admission { tagged: false, nested: false };

    #[test]
    fn what_is_no_tunnel_packet_or_of_nobody_is_dropped_by_name() {
        let vni = Vni::new(42).unwrap();
        let remote = IpAddr::from([198, 18, 0, 2]);
        let table = TunnelTable::new([TunnelEntry { vni, remote, port: PortId(3), admission: SHUT }]);
        let packet = [&vxlan::header(vni)[..], &[5; 60]].concat();
        let (origin_of, frame) = origin(&packet, remote, &table).unwrap();
        assert_eq!((origin_of.port, frame), (PortId(3), &[5; 60][..]));
        let reason = |packet: &[u8], sender| origin(packet, sender, &table).unwrap_err();
        for bytes in 0..8 {
            assert_eq!(reason(&packet[..bytes], remote), DropReason::TunnelMalformed);
        }
        assert_eq!(reason(&[0; 60], remote), DropReason::TunnelMalformed);
        assert_eq!(reason(&packet, IpAddr::from([198, 18, 0, 3])), DropReason::UnknownPeer);
        let other = vxlan::header(Vni::new(43).unwrap());
        assert_eq!(reason(&other, remote), DropReason::UnknownVni);
    }

    #[test]
    fn what_is_inside_is_dropped_by_name() {
        let plain = [&[2; 12][..], &[8, 6], &[0; 28]].concat();
        let tagged = [&[2; 12][..], &[0x81, 0, 0, 7, 8, 6], &[0; 28]].concat();
        let provider = [&[2; 12][..], &[0x88, 0xa8, 0, 7, 8, 6], &[0; 28]].concat();
        let udp = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0xc0, 0, 0x12, 0xb5, 0, 8, 0, 0];
        let nested = [&[2; 12][..], &[8, 0], &udp].concat();
        for (frame, reason) in [
            (&plain[..13], DropReason::Runt),
            (&[], DropReason::Runt),
            (&tagged, DropReason::InnerTag),
            (&provider, DropReason::InnerTag),
            (&nested, DropReason::NestedTunnel),
        ] {
            assert_eq!(admit(frame, SHUT, 4789), Err(reason));
        }
        assert_eq!(admit(&plain, SHUT, 4789), Ok(()));
        assert_eq!(admit(&nested, SHUT, 8472), Ok(()));
        for frame in [&plain, &tagged, &provider, &nested] {
            assert_eq!(admit(frame, OPEN, 4789), Ok(()));
        }
        assert_eq!(admit(&[], OPEN, 4789), Err(DropReason::Runt));
    }
}
