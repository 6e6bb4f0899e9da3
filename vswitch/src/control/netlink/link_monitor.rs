//! Being told when interfaces change (`RTNLGRP_LINK` of rtnetlink(7)).

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::link::LinkMessageBuffer;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::RECEIVE_BYTES;

/// The group's bit (`RTMGRP_LINK`, `include/uapi/linux/rtnetlink.h`).
const GROUP_LINK: u32 = 1;
/// `RTM_NEWLINK`: an interface is new or has changed.
const NEW_LINK: u16 = libc::RTM_NEWLINK;
/// `RTM_DELLINK`: an interface is gone.
const DEL_LINK: u16 = libc::RTM_DELLINK;

/// A socket that becomes readable when an interface of its namespace changes.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: OwnedFd,
}

/// Which interfaces changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedLinks {
    /// Their indices.
    pub indices: HashSet<u32>,
    /// Whether there were more than the socket could hold: any may have changed.
    pub overrun: bool,
}

impl LinkMonitor {
    /// A socket in the calling thread's network namespace, which hears of what changes from now on.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol stands for 0, which is `NETLINK_ROUTE`.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP_LINK))?;
        Ok(Self { socket })
    }

    /// Adds what was heard since the last call to `changed`.
    ///
    /// # Errors
    /// The socket failed.
    pub fn drain(&self, changed: &mut ChangedLinks) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((_, bytes)) => parse(buffer.get(..bytes).unwrap_or_default(), &mut changed.indices),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => changed.overrun = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LinkMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Adds the indices in a datagram's messages.
fn parse(mut datagram: &[u8], indices: &mut HashSet<u32>) {
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        if matches!(message.message_type(), NEW_LINK | DEL_LINK)
            && let Ok(link) = LinkMessageBuffer::new_checked(message.payload())
        {
            indices.insert(link.link_index());
        }
        datagram = datagram.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[0..4].copy_from_slice(&32u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[20..24].copy_from_slice(&index.to_ne_bytes());
        bytes
    }

    #[test]
    fn indices_come_from_messages_about_links_alone() {
        let mut indices = HashSet::new();
        let datagram = [message(NEW_LINK, 7), message(libc::RTM_NEWADDR, 8), message(DEL_LINK, 9)].concat();
        parse(&datagram, &mut indices);
        assert_eq!(indices, HashSet::from([7, 9]));
        // Cut anywhere, nothing is made up and nothing panics.
        for length in 0..datagram.len() {
            parse(&datagram[..length], &mut indices);
            assert_eq!(indices, HashSet::from([7, 9]));
        }
    }
}
