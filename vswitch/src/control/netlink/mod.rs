//! Rtnetlink: links, addresses, routes and neighbours of one network namespace.
//!
//! A socket belongs to the namespace of the thread that opened it, for good: open one inside
//! `Netns::run` and it can be used from anywhere. Calls are synchronous, because the kernel
//! answers an rtnetlink request before `send` returns; the wait is for the kernel's one lock.
//!
//! Requests are built from `netlink-packet-route`'s types. Of the answers only the attributes that
//! are asked for here are read, one by one: the kernel adds attributes and lengthens old ones in every other
//! release, and an interface of some newer kind on the host must not keep the switch from working.
//!
//! Refusals carry the kernel's own sentence where it gives one (extended acknowledgement).

mod address;
mod link;
mod link_monitor;
pub mod monitor;
mod neighbour;
mod path;
mod programs;
mod route;
mod veth;
mod vxlan;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

pub use self::address::Address;
pub use self::link::{IPV6_MTU_MIN, Link, LinkChange};
pub use self::link_monitor::{ChangedLinks, LinkMonitor};
pub use self::path::{Changes, Path};
pub use self::programs::{Filter, XdpAttached};
pub use self::route::{NewRoute, Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
pub use self::veth::NewVeth;
pub use self::vxlan::VxlanLink;

/// As large as the kernel ever makes one part of a dump (`NLMSG_GOODSIZE` up to 32 KB), and more
/// than a single link's answer.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A dump that something else changed underneath is taken again, this often at most.
const DUMP_ATTEMPTS: usize = 8;

/// `NLMSGERR_ATTR_MSG` (`include/uapi/linux/netlink.h`).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `struct nlmsgerr` without the request's payload, which `NETLINK_CAP_ACK` leaves out: the error
/// and the request's header.
const NLMSGERR_BYTES: usize = 4 + 16;

/// Why a netlink operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("cannot {what}: {errno}{}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// What was asked of it.
        what: String,
        /// Its error number.
        errno: Errno,
        /// Its own words, where it gave any.
        detail: Option<String>,
    },
    /// The socket failed.
    #[error("cannot {what}: netlink socket: {source}")]
    Socket {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer made no sense.
    #[error("cannot {what}: unexpected answer of the kernel: {why}")]
    Protocol {
        /// What was being done.
        what: String,
        /// What was wrong with the answer.
        why: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket { .. } | Self::Protocol { .. } => None,
        }
    }

    fn protocol(what: &str, why: &dyn std::fmt::Display) -> Self {
        Self::Protocol { what: what.to_owned(), why: why.to_string() }
    }
}

impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> Self {
        let kind = match &error {
            NetlinkError::Refused { errno, .. } => io::Error::from(*errno).kind(),
            NetlinkError::Socket { source, .. } => source.kind(),
            NetlinkError::Protocol { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, NetlinkError>;

/// A socket for the network namespace in which it was opened.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Netlink {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Errors in words, without the request sent back; dumps filtered by the kernel. All
            // are younger than the rest and only make things better.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_netlink_get_strict_chk(true);
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Socket { what: "talk to the kernel".to_owned(), source })?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends a request that is answered by yes or no.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16, what: &str) -> Result<()> {
        let sequence = self.send(message, NLM_F_ACK | flags, what)?;
        self.receive(sequence, what, |_, _| Ok(())).map(|_| ())
    }

    /// Asks for one object; nothing if there is no such.
    fn get<T>(
        &mut self,
        message: RouteNetlinkMessage,
        what: &str,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let sequence = self.send(message, NLM_F_ACK, what)?;
        let mut found = None;
        let outcome = self.receive(sequence, what, |_, payload| {
            found = Some(parse(payload).ok_or("an answer that cannot be read")?);
            Ok(())
        });
        match outcome {
            Ok(_) => Ok(found),
            Err(error) if matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for all objects of a kind. `parse` gives nothing for those that are not wanted.
    fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        what: &str,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut rows = Vec::new();
            let sequence = self.send(message.clone(), NLM_F_DUMP, what)?;
            let interrupted = self.receive(sequence, what, |_, payload| {
                rows.extend(parse(payload));
                Ok(())
            })?;
            if !interrupted {
                return Ok(rows);
            }
        }
        Err(NetlinkError::protocol(what, &"the table kept changing while it was read"))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16, what: &str) -> Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry(|| self.socket.send(&bytes, 0)).map_err(|source| socket_error(what, source))?;
        Ok(self.sequence)
    }

    /// Reads the answer to `sequence` to its end. Whether the kernel says that a dump is not
    /// consistent.
    fn receive(
        &mut self,
        sequence: u32,
        what: &str,
        mut each: impl FnMut(u16, &[u8]) -> std::result::Result<(), &'static str>,
    ) -> Result<bool> {
        let mut interrupted = false;
        loop {
            let bytes = retry(|| self.socket.recv(&mut self.buffer.as_mut_slice(), libc::MSG_TRUNC))
                .map_err(|source| socket_error(what, source))?;
            let Some(mut rest) = self.buffer.get(..bytes) else {
                return Err(NetlinkError::protocol(what, &format_args!("{bytes} bytes in one datagram")));
            };
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(|why| NetlinkError::protocol(what, &why))?;
                let length = message.length() as usize;
                // What is left of an earlier request that failed halfway.
                if message.sequence_number() == sequence {
                    interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                    match message.message_type() {
                        NLMSG_ERROR | NLMSG_DONE => {
                            return acknowledgement(message.payload(), message.flags(), what).map(|()| interrupted);
                        }
                        kind => {
                            each(kind, message.payload()).map_err(|why| NetlinkError::protocol(what, &why))?;
                        }
                    }
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Reads an `NLMSG_ERROR` or `NLMSG_DONE`: zero for yes, a negative error number for no.
fn acknowledgement(payload: &[u8], flags: u16, what: &str) -> Result<()> {
    let Some(code) = payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) else {
        return Err(NetlinkError::protocol(what, &"a short acknowledgement"));
    };
    if code == 0 {
        return Ok(());
    }
    // Anything else would be no error number (`MAX_ERRNO`).
    let Some(errno) = code.checked_neg().filter(|errno| (1..=4095).contains(errno)) else {
        return Err(NetlinkError::protocol(what, &format_args!("error number {code}")));
    };
    let detail = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| payload.get(NLMSGERR_BYTES..))
        .flatten()
        .and_then(|attributes| NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == NLMSGERR_ATTR_MSG))
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned());
    Err(NetlinkError::Refused { what: what.to_owned(), errno: Errno::from_raw_os_error(errno), detail })
}

fn socket_error(what: &str, source: io::Error) -> NetlinkError {
    NetlinkError::Socket { what: what.to_owned(), source }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Attribute values as they come: the kernel's byte order, no alignment, any length.
mod value {
    use std::net::IpAddr;

    pub(super) fn u32(value: &[u8]) -> Option<u32> {
        Some(u32::from_ne_bytes(*value.first_chunk()?))
    }

    pub(super) fn u64_at(value: &[u8], at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(*value.get(at..)?.first_chunk()?))
    }

    pub(super) fn string(value: &[u8]) -> String {
        String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
    }

    pub(super) fn ip(value: &[u8]) -> Option<IpAddr> {
        match value.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_speaks_the_kernels_words() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        payload.extend(12u16.to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(b"is why\0\0");
        let error = acknowledgement(&payload, NLM_F_ACK_TLVS, "add it").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EXIST));
        let text = error.to_string();
        assert!(text.starts_with("cannot add it: ") && text.ends_with("(is why)"), "{text}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn short_and_strange_acknowledgements_do_not_panic() {
        assert!(acknowledgement(&[], NLM_F_ACK_TLVS, "x").is_err());
        assert!(acknowledgement(&[0, 0, 0, 0], 0, "x").is_ok());
        assert!(acknowledgement(&i32::MIN.to_ne_bytes(), NLM_F_ACK_TLVS, "x").is_err());
        assert!(
            acknowledgement(&[&(-1i32).to_ne_bytes()[..], &[0; 16], &[255; 3]].concat(), NLM_F_ACK_TLVS, "x").is_err()
        );
    }
}
