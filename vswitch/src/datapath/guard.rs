//! What a container may send as: nobody but itself.
//!
//! A guarded port's frames carry its own Ethernet address, and in IP, ARP and neighbour discovery its own
//! addresses. Without that, a container could take another's connections, or be everybody's router. What a host
//! says before it has an address (`0.0.0.0`, `::`) passes, and so do link-local addresses that are not made of
//! somebody else's Ethernet address (RFC 4291 appendix A). Router advertisements and redirects are the gateway's.
//!
//! Looked at per packet, because the flow cache knows nothing of IP: a few bytes that parsing has fetched anyway.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flow::FlowKey;
use crate::frame::DropReason;
use crate::snapshot::{GatewayEntry, Guard};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::icmpv6::{NEIGHBOR_ADVERTISEMENT, REDIRECT, ROUTER_ADVERTISEMENT};
use crate::wire::{MacAddr, arp, ipv4, ipv6, protocol};

/// Whether the container behind `guard` may send `frame`.
///
/// # Errors
/// [`DropReason::SpoofedMac`] or [`DropReason::SpoofedAddress`].
#[inline]
pub(super) fn check(
    guard: &Guard,
    gateway: Option<&GatewayEntry>,
    key: FlowKey,
    frame: &[u8],
) -> Result<(), DropReason> {
    if key.source() != guard.mac {
        return Err(DropReason::SpoofedMac);
    }
    // The usual case at fixed offsets.
    if let Some(header) = frame.first_chunk::<{ ethernet::HEADER_BYTES + ipv4::HEADER_BYTES }>()
        && header[12..14] == [0x08, 0x00]
    {
        let source = Ipv4Addr::new(header[26], header[27], header[28], header[29]);
        return may_use(guard, gateway, IpAddr::V4(source));
    }
    check_others(guard, gateway, frame)
}

#[inline(never)]
fn check_others(guard: &Guard, gateway: Option<&GatewayEntry>, frame: &[u8]) -> Result<(), DropReason> {
    // Not even a whole header: nobody takes an address from that.
    let Ok((ethertype, at)) = ethernet::skip_tags(frame) else { return Ok(()) };
    let payload = frame.get(at..).unwrap_or_default();
    match ethertype {
        EtherType::IPV4 => ipv4_source(payload).map_or(Ok(()), |source| may_use(guard, gateway, source)),
        EtherType::IPV6 => check_ipv6(guard, gateway, payload),
        EtherType::ARP => {
            let Ok(packet) = arp::Packet::new_checked(payload) else { return Ok(()) };
            if packet.sender_mac().0 != guard.mac {
                return Err(DropReason::SpoofedMac);
            }
            may_use(guard, gateway, IpAddr::V4(packet.sender_ip()))
        }
        // A tag behind more tags than anybody looks through.
        EtherType::VLAN => Err(DropReason::SpoofedAddress),
        _ => Ok(()),
    }
}

fn check_ipv6(guard: &Guard, gateway: Option<&GatewayEntry>, payload: &[u8]) -> Result<(), DropReason> {
    let Some(source) = address_at(payload, 8) else { return Ok(()) };
    may_use(guard, gateway, source)?;
    // Extension headers are looked through, so that they hide nothing.
    let upper = match payload[6] {
        protocol::ICMPV6 => payload.get(ipv6::HEADER_BYTES..),
        protocol::TCP | protocol::UDP => None,
        _ => match ipv6::Packet::new_checked(payload).and_then(|packet| packet.upper()) {
            Ok(upper) if upper.protocol == protocol::ICMPV6 && upper.is_fragment => {
                // Neighbour discovery is never fragmented (RFC 6980), and what cannot be read is not believed.
                return match upper.payload.first() {
                    Some(133..=137) if !upper.is_later_fragment => Err(DropReason::SpoofedAddress),
                    _ => Ok(()),
                };
            }
            Ok(upper) if upper.protocol == protocol::ICMPV6 => payload.get(upper.offset..),
            _ => None,
        },
    };
    let Some(message) = upper else { return Ok(()) };
    match message.first() {
        Some(&(ROUTER_ADVERTISEMENT | REDIRECT)) => Err(DropReason::SpoofedAddress),
        Some(&NEIGHBOR_ADVERTISEMENT) => match address_at(message, 8) {
            Some(target) => may_use(guard, gateway, target),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn ipv4_source(packet: &[u8]) -> Option<IpAddr> {
    packet.get(12..).and_then(<[u8]>::first_chunk::<4>).map(|octets| IpAddr::from(*octets))
}

fn address_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.get(at..).and_then(<[u8]>::first_chunk::<16>).map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)))
}

#[inline]
fn may_use(guard: &Guard, gateway: Option<&GatewayEntry>, address: IpAddr) -> Result<(), DropReason> {
    if guard.addresses.contains(&address) || address.is_unspecified() {
        return Ok(());
    }
    let allowed = match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => is_not_anothers(address, guard.mac),
        // Without addresses of its own it may have any that is nobody's.
        _ if guard.addresses.is_empty() => {
            gateway.is_none_or(|gateway| !gateway.is_own(address) && !gateway.stations.contains_key(&address))
        }
        _ => false,
    };
    if allowed { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Whether a link-local address is not that of an Ethernet address other than `mac`.
fn is_not_anothers(address: Ipv6Addr, mac: [u8; 6]) -> bool {
    let is_made_of_one = address.octets()[11..13] == [0xff, 0xfe];
    let own = MacAddr(mac).link_local();
    !is_made_of_one || address.octets()[8..] == own.octets()[8..]
}

/// Whether the host may send `frame` into a bridge with a gateway: only as itself. What comes from elsewhere was
/// forwarded by the host, past every published port.
///
/// # Errors
/// [`DropReason::NotPublished`].
pub(super) fn check_host(gateway: &GatewayEntry, own: &HashSet<IpAddr>, frame: &[u8]) -> Result<(), DropReason> {
    let Ok((ethertype, at)) = ethernet::skip_tags(frame) else { return Ok(()) };
    let payload = frame.get(at..).unwrap_or_default();
    let source = match ethertype {
        EtherType::IPV4 => ipv4_source(payload),
        EtherType::IPV6 => address_at(payload, 8),
        _ => None,
    };
    match source {
        None => Ok(()),
        Some(source) if gateway.is_own(source) || own.contains(&source) || source.is_unspecified() => Ok(()),
        // Link-local addresses are never forwarded (RFC 4291 section 2.5.6): it is the host that says so.
        Some(IpAddr::V6(source)) if source.is_unicast_link_local() => Ok(()),
        Some(_) => Err(DropReason::NotPublished),
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
