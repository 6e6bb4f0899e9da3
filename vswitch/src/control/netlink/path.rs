//! Paths: how the host would send to an address, as tunnels need to know.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::NlasIterator;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMessageBuffer};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use super::{Netlink, NetlinkError, Result, value};

/// `RTAX_MTU` (`include/uapi/linux/rtnetlink.h`).
const RTAX_MTU: u16 = 2;
/// `rta_expires` in `struct rta_cacheinfo`: when the kernel will forget what a router told.
const EXPIRES_OFFSET: usize = 8;

/// How the host sends to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The index of the interface that packets leave by.
    pub oif: u32,
    /// The address that the host sends from where nobody says otherwise.
    pub source: Option<IpAddr>,
    /// The largest IP packet that leaves the host this way, in bytes: the interface's MTU, or the route's
    /// where that is smaller. What routers on the way told (RFC 1191, RFC 8201) is left out: it is for a
    /// while only, and anybody who guesses a port can send it.
    pub mtu: u32,
}

impl Netlink {
    /// How the host would send to `to`, from the address `from` if that is given; nothing if it has
    /// no route.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn path_to(&mut self, to: IpAddr, from: Option<IpAddr>) -> Result<Option<Path>> {
        let bits = IpNet::from(to).max_prefix_len();
        let mut message = RouteMessage::default();
        message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(to.into()));
        if let Some(from) = from {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(from.into()));
        }
        let found = self.get(RouteNetlinkMessage::GetRoute(message), &format!("find the route to {to}"), parse);
        let (oif, source, mtu) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // No route, one that refuses, or no such source address any more.
            Err(error) if error.errno().is_some_and(is_unreachable) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(link) = self.link_by_index(oif)? else { return Ok(None) };
        Ok(Some(Path { oif, source, mtu: mtu.unwrap_or(link.mtu).min(link.mtu) }))
    }
}

fn is_unreachable(errno: Errno) -> bool {
    matches!(errno, Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::INVAL | Errno::ADDRNOTAVAIL)
}

fn parse(payload: &[u8]) -> Option<(u32, Option<IpAddr>, Option<u32>)> {
    let message = RouteMessageBuffer::new_checked(payload).ok()?;
    let (mut oif, mut source, mut mtu, mut is_told) = (None, None, None, false);
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::RTA_OIF => oif = value::u32(nla.value()),
            libc::RTA_PREFSRC => source = value::ip(nla.value()),
            libc::RTA_METRICS => {
                let metrics = NlasIterator::new(nla.value()).flatten();
                mtu = metrics.filter(|metric| metric.kind() == RTAX_MTU).find_map(|metric| value::u32(metric.value()));
            }
            libc::RTA_CACHEINFO => is_told = value::u32(nla.value().get(EXPIRES_OFFSET..)?)? != 0,
            _ => {}
        }
    }
    Some((oif?, source, mtu.filter(|mtu| *mtu > 0 && !is_told)))
}

/// Tells that something about the namespace's links, addresses or routes changed since the last look.
pub struct Changes {
    socket: Socket,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// Begins to watch the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn watch() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in [
                libc::RTNLGRP_LINK,
                libc::RTNLGRP_IPV4_IFADDR,
                libc::RTNLGRP_IPV6_IFADDR,
                libc::RTNLGRP_IPV4_ROUTE,
                libc::RTNLGRP_IPV6_ROUTE,
            ] {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let what = "watch links, addresses and routes".to_owned();
        open().map(|socket| Self { socket }).map_err(|source| NetlinkError::Socket { what, source })
    }

    /// Whether something changed since the last call.
    pub fn take(&mut self) -> bool {
        let mut changed = false;
        // What it was is not read: everything is looked at again. Enough is enough for one look.
        for _ in 0..1024 {
            match self.socket.recv(&mut &mut [0u8; 16][..], libc::MSG_TRUNC) {
                Ok(_) => changed = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Too much happened for the socket's buffer (`ENOBUFS`): a change indeed.
                Err(_) => {
                    changed = true;
                }
            }
        }
        changed
    }
}
