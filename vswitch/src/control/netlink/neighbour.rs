//! Neighbours: the host's ARP and NDP entries.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourMessageBuffer};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{Netlink, Result, value};

/// Entries that somebody configured, which nobody else may remove (`include/uapi/linux/neighbour.h`).
const NUD_PERMANENT_OR_NOARP: u16 = libc::NUD_PERMANENT | libc::NUD_NOARP;

impl Netlink {
    /// Forgets the link-layer address that was learned for `ip` on an interface, so that the next
    /// packet asks anew. Entries that somebody configured stay. Whether there was one.
    ///
    /// # Errors
    /// When the kernel cannot be asked or refuses.
    pub fn flush_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<bool> {
        let what = format!("forget neighbour {ip} of interface {index}");
        let mut message = NeighbourMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let mut filter = message.clone();
        filter.attributes.push(NeighbourAttribute::IfIndex(index));
        let learned = self.dump(&RouteNetlinkMessage::GetNeighbour(filter), &what, |payload| {
            let row = NeighbourMessageBuffer::new_checked(payload).ok()?;
            let dst = row.attributes().flatten().find(|nla| nla.kind() == libc::NDA_DST)?;
            let same = row.ifindex() == index && value::ip(dst.value()) == Some(ip);
            (same && row.state() & NUD_PERMANENT_OR_NOARP == 0).then_some(())
        })?;
        if learned.is_empty() {
            return Ok(false);
        }

        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        match self.request(RouteNetlinkMessage::DelNeighbour(message), 0, &what) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
