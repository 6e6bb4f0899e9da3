//! The checks on a tunnel packet, each with the reason of its drop.
//!
//! In order: is it VXLAN at all; is it of a known network, and from a known remote of it; is what is
//! inside a frame that the tunnel lets in. The checks read headers only. What they let pass is a
//! frame of the sender's making, and the bridge trusts it no more than one from a container.
//!
//! *Nested* packets are those inside of which is another tunnel packet, to the same UDP port and for a
//! network that this host knows: either the overlay is carried over itself, a loop that grows, or
//! somebody wants to be taken for a remote. An overlay of other networks, which containers run among
//! themselves, is traffic like any other.

use std::net::IpAddr;

use super::TunnelTable;
use super::inner;
use crate::frame::DropReason;
use crate::snapshot::PortId;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::vxlan;

/// A tunnel packet that may pass: the port that it came in through, and the inner frame.
pub type Accepted<'a> = (PortId, &'a [u8]);

/// Checks the UDP payload that `sender` sent to the tunnels' UDP port.
///
/// # Errors
/// [`DropReason::TunnelMalformed`], [`DropReason::UnknownVni`], [`DropReason::UnknownPeer`],
/// [`DropReason::Runt`], [`DropReason::TunnelTag`], [`DropReason::TunnelNested`].
#[inline]
pub fn check<'a>(
    payload: &'a [u8],
    sender: IpAddr,
    tunnel_port: u16,
    tunnels: &TunnelTable,
) -> Result<Accepted<'a>, DropReason> {
    let packet = vxlan::Packet::new_checked(payload).map_err(|_| DropReason::TunnelMalformed)?;
    let (port, may_be_tagged) = tunnels.port(packet.vni(), sender)?;
    let frame = packet.payload();
    let Some(ethertype) = frame.get(ethernet::TYPE_OFFSET..).and_then(<[u8]>::first_chunk::<2>) else {
        return Err(DropReason::Runt);
    };
    if !may_be_tagged && EtherType(u16::from_be_bytes(*ethertype)).is_tag() {
        return Err(DropReason::TunnelTag);
    }
    if let Some((port, bytes)) = inner::udp(frame)
        && port == tunnel_port
        && vxlan::Packet::new_checked(bytes).is_ok_and(|nested| tunnels.has_network(nested.vni()))
    {
        return Err(DropReason::TunnelNested);
    }
    Ok((port, frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::TunnelEntry;

    const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2));

    fn table(inner_tags: bool) -> TunnelTable {
        let remotes = vec![(REMOTE, PortId(3))];
        TunnelTable::new(&[TunnelEntry { vni: 42, inner_tags, remotes }])
    }

    fn packet(vni: u32, inner: &[u8]) -> Vec<u8> {
        [&vxlan::header(vni)[..], inner].concat()
    }

    #[test]
    fn what_is_no_tunnel_packet_or_of_nobody_is_dropped_by_name() {
        let table = table(false);
        let whole = packet(42, &[4; 60]);
        assert_eq!(check(&whole, REMOTE, 4789, &table), Ok((PortId(3), &[4; 60][..])));
        let reason = |packet: &[u8], sender| check(packet, sender, 4789, &table).unwrap_err();
        for bytes in 0..8 {
            assert_eq!(reason(&whole[..bytes], REMOTE), DropReason::TunnelMalformed);
        }
        for bytes in 8..22 {
            assert_eq!(reason(&whole[..bytes], REMOTE), DropReason::Runt);
        }
        assert_eq!(reason(&[0; 60], REMOTE), DropReason::TunnelMalformed);
        assert_eq!(reason(&whole, IpAddr::from([198, 18, 0, 3])), DropReason::UnknownPeer);
        assert_eq!(reason(&packet(43, &[4; 60]), REMOTE), DropReason::UnknownVni);
    }

    #[test]
    fn tags_pass_only_where_they_are_allowed() {
        for tag in [[0x81, 0x00], [0x88, 0xa8]] {
            let tagged = packet(42, &[&[2; 12][..], &tag, &[0, 7, 8, 6], &[0; 28]].concat());
            assert_eq!(check(&tagged, REMOTE, 4789, &table(false)), Err(DropReason::TunnelTag));
            assert!(check(&tagged, REMOTE, 4789, &table(true)).is_ok());
        }
    }

    #[test]
    fn a_tunnel_of_ours_does_not_pass_inside_of_another() {
        let udp =
            [0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0xc0, 0, 0x12, 0xb5, 0, 30, 0, 0];
        let nested = |vni| packet(42, &[&[2; 12][..], &[8, 0], &udp, &packet(vni, &[0; 14])].concat());
        assert_eq!(check(&nested(42), REMOTE, 4789, &table(false)), Err(DropReason::TunnelNested));
        assert!(check(&nested(42), REMOTE, 8472, &table(false)).is_ok(), "another port");
        assert!(check(&nested(43), REMOTE, 4789, &table(false)).is_ok(), "a network of the containers' own");
        let mut tagged = nested(42);
        tagged.splice(20..20, [0x81, 0, 0, 7]);
        assert_eq!(check(&tagged, REMOTE, 4789, &table(true)), Err(DropReason::TunnelNested));
    }
}
