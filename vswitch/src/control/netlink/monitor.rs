//! Watching a namespace's links, addresses, routes, neighbours and policy rules.
//!
//! A [`Monitor`] is a socket that has joined rtnetlink's multicast groups: the kernel says there
//! what changes. It says so without waiting for us, and when the socket's buffer overflows it drops
//! what does not fit and reports `ENOBUFS` once: then everything has to be asked for anew
//! ([`Received::Overrun`], [`Netlink::host_table`]). Whoever mirrors the namespace opens the monitor
//! *first* and asks for the tables then: what changes in between is seen twice, never missed.
//!
//! The kernel does not announce everything. IPv4 routes that go because their interface or their
//! source address went are removed without a word (`fib_flush`), so a mirror asks for the
//! routes again after such a change; [`crate::control::uplink::mirror`] knows when.

mod change;
mod message;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NLM_F_APPEND;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use super::{Netlink, RECEIVE_BYTES, Result, socket_error};
pub use change::{Hop, HostAddress, HostChange, HostLink, HostNeighbour, HostRoute, HostRule, Position, RouteAction};
pub use message::parse_datagram;

/// The receive buffer that is asked for, in bytes: a flap of an interface with a thousand routes fits.
const SOCKET_BYTES: usize = 1 << 20;
/// Datagrams that are read at one time, so that a storm of changes cannot hold the reader.
const DATAGRAMS_MAX: usize = 4096;

/// A table of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTable {
    /// The interfaces.
    Links,
    /// Their addresses.
    Addresses,
    /// The routes of both families, all tables.
    Routes,
    /// The neighbours of both families.
    Neighbours,
    /// The policy rules of both families.
    Rules,
}

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Everything that was there was read.
    Drained,
    /// There may be more.
    More,
    /// The kernel dropped messages: every table has to be asked for anew.
    Overrun,
}

/// A socket on which the kernel says what changes in the namespace in which it was opened.
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Watches links, addresses, routes and rules of the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket or refuses a group.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            // What is refused here is only less room.
            let _ = socket.set_rx_buf_sz(SOCKET_BYTES);
            for group in [
                libc::RTNLGRP_LINK,
                libc::RTNLGRP_IPV4_IFADDR,
                libc::RTNLGRP_IPV6_IFADDR,
                libc::RTNLGRP_IPV4_ROUTE,
                libc::RTNLGRP_IPV6_ROUTE,
                libc::RTNLGRP_IPV4_RULE,
                libc::RTNLGRP_IPV6_RULE,
            ] {
                socket.add_membership(group)?;
            }
            Ok(socket)
        };
        let socket = open().map_err(|source| socket_error("watch the host's interfaces and routes", source))?;
        Ok(Self { socket, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Watches the neighbours, too. They change all the time, so only who uses them watches them.
    ///
    /// # Errors
    /// When the kernel refuses the group.
    pub fn watch_neighbours(&mut self) -> Result<()> {
        self.socket
            .add_membership(libc::RTNLGRP_NEIGH)
            .map_err(|source| socket_error("watch the host's neighbours", source))
    }

    /// Reads what has changed, without waiting.
    ///
    /// # Errors
    /// When the socket fails for another reason than a full buffer.
    pub fn receive(&mut self, changes: &mut Vec<HostChange>) -> Result<Received> {
        for _ in 0..DATAGRAMS_MAX {
            match self.socket.recv(&mut self.buffer.as_mut_slice(), libc::MSG_TRUNC) {
                // A datagram that is longer than any that the kernel makes cannot be trusted.
                Ok(bytes) if bytes > self.buffer.len() => return Ok(Received::Overrun),
                Ok(bytes) => parse_datagram(&self.buffer[..bytes], changes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Received::Overrun),
                Err(source) => return Err(socket_error("watch the host's interfaces and routes", source)),
            }
        }
        Ok(Received::More)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netlink {
    /// A table of the namespace as it is now, in the words of a [`Monitor`].
    ///
    /// # Errors
    /// When the kernel cannot be asked. A family that it does not have is empty.
    pub fn host_table(&mut self, table: HostTable) -> Result<Vec<HostChange>> {
        let mut rows = Vec::new();
        if table == HostTable::Links {
            let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
            return self
                .dump(&message, "list interfaces", |payload| message::parse(libc::RTM_NEWLINK, NLM_F_APPEND, payload));
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let (message, kind, what) = match table {
                HostTable::Links | HostTable::Addresses => {
                    let mut message = AddressMessage::default();
                    message.header.family = family;
                    (RouteNetlinkMessage::GetAddress(message), libc::RTM_NEWADDR, "list addresses")
                }
                HostTable::Routes => {
                    let mut message = RouteMessage::default();
                    message.header.address_family = family;
                    (RouteNetlinkMessage::GetRoute(message), libc::RTM_NEWROUTE, "list routes")
                }
                HostTable::Neighbours => {
                    let mut message = NeighbourMessage::default();
                    message.header.family = family;
                    (RouteNetlinkMessage::GetNeighbour(message), libc::RTM_NEWNEIGH, "list neighbours")
                }
                HostTable::Rules => {
                    let mut message = RuleMessage::default();
                    message.header.family = family;
                    (RouteNetlinkMessage::GetRule(message), libc::RTM_NEWRULE, "list policy rules")
                }
            };
            match self.dump(&message, what, |payload| message::parse(kind, NLM_F_APPEND, payload)) {
                Ok(found) => rows.extend(found),
                Err(error) if matches!(error.errno(), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    /// Has the kernel find out or confirm the link-layer address of a neighbour, as though a packet
    /// for it were sent (`NTF_USE`). The answer comes to a [`Monitor`] that watches neighbours.
    ///
    /// # Errors
    /// When the kernel refuses: `ENODEV` for an interface that is gone, `EINVAL` for one that has
    /// no neighbours.
    pub fn use_neighbour(&mut self, index: u32, ip: std::net::IpAddr) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(match ip {
            std::net::IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            std::net::IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        let flags = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewNeighbour(message), flags, &format!("resolve neighbour {ip}"))
    }
}
