//! Announcements: the frames by which a station that has just arrived, or whose MAC address has
//! just changed, corrects what its neighbours have cached.
//!
//! Built for the control plane, which injects them as though the station had sent them; that also
//! teaches the bridges on the way where the station is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, HardwareAddress,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use super::MacAddr;

/// All nodes on the link (RFC 4291, section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The frame that announces that `mac` has `ip`: a [gratuitous ARP](gratuitous_arp) or an
/// [unsolicited neighbour advertisement](unsolicited_na).
#[must_use]
pub fn announcement(mac: MacAddr, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => gratuitous_arp(mac, ip),
        IpAddr::V6(ip) => unsolicited_na(mac, ip),
    }
}

/// An ARP announcement (RFC 5227, section 2.3): a broadcast request whose sender and target
/// address are both `ip`. A request and not a reply, because every implementation updates an
/// existing entry from a request.
#[must_use]
pub fn gratuitous_arp(mac: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: ip,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ip,
    };
    let mut frame = ethernet(mac, MacAddr::BROADCAST, EthernetProtocol::Arp, repr.buffer_len());
    repr.emit(&mut ArpPacket::new_unchecked(EthernetFrame::new_unchecked(&mut frame[..]).payload_mut()));
    frame
}

/// An unsolicited neighbour advertisement with the override flag (RFC 4861, section 7.2.6), from
/// `ip` itself to all nodes.
#[must_use]
pub fn unsolicited_na(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: ip,
        lladdr: Some(HardwareAddress::Ethernet(EthernetAddress(mac.0)).into()),
    });
    let repr = Ipv6Repr {
        src_addr: ip,
        dst_addr: ALL_NODES,
        next_header: IpProtocol::Icmpv6,
        payload_len: advertisement.buffer_len(),
        // Neighbour discovery takes nothing that crossed a router (RFC 4861, section 7.1.2).
        hop_limit: 255,
    };
    let group = MacAddr::from_ipv6_multicast(ALL_NODES);
    let mut frame = ethernet(mac, group, EthernetProtocol::Ipv6, repr.buffer_len() + advertisement.buffer_len());
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    let mut packet = Ipv6Packet::new_unchecked(ethernet.payload_mut());
    repr.emit(&mut packet);
    advertisement.emit(
        &ip,
        &ALL_NODES,
        &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
        &ChecksumCapabilities::default(),
    );
    frame
}

/// A frame with its header written and room for the payload.
fn ethernet(source: MacAddr, destination: MacAddr, ethertype: EthernetProtocol, payload_bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; EthernetFrame::<&[u8]>::buffer_len(payload_bytes)];
    EthernetRepr { src_addr: EthernetAddress(source.0), dst_addr: EthernetAddress(destination.0), ethertype }
        .emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame
}
