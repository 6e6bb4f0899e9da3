//! Who of the host's programs has which port.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::owner::{self, Owner};
use super::{proc_net, sock_diag};
use crate::bpf::{HostAddresses, Protocol};

/// A socket with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BoundSocket {
    pub(super) port: u16,
    pub(super) address: IpAddr,
    /// Whether it is bound to all addresses of both families.
    pub(super) both: bool,
    /// Zero when no process has it any more.
    pub(super) inode: u64,
}

impl BoundSocket {
    /// The families whose packets it receives; `true` is IPv6.
    pub(super) fn families(&self) -> impl Iterator<Item = bool> {
        let other = self.both.then_some(false);
        [Some(self.address.is_ipv6()), other].into_iter().flatten()
    }

    /// Whether it receives packets to `at`.
    fn receives_at(&self, at: HostAddresses) -> bool {
        match at {
            HostAddresses::All => true,
            HostAddresses::AllIpv4 => self.families().any(|ipv6| !ipv6),
            HostAddresses::AllIpv6 => self.families().any(|ipv6| ipv6),
            HostAddresses::One(address) if self.address.is_unspecified() => {
                self.families().any(|ipv6| ipv6 == address.is_ipv6())
            }
            HostAddresses::One(address) => self.address == address,
        }
    }
}

/// A port that a program of the host uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The port.
    pub port: u16,
    /// The address it is used at; unspecified: all.
    pub address: IpAddr,
    /// The program, where that can be known: the kernel has sockets, too, and in a container with the host's network
    /// the host's processes may not be seen.
    pub owner: Option<Owner>,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.owner, self.address.is_unspecified()) {
            (Some(owner), true) => write!(f, "{owner}"),
            (Some(owner), false) => write!(f, "{owner}, at {}", self.address),
            (None, true) => f.write_str("the kernel or a process that cannot be seen"),
            (None, false) => write!(f, "the kernel or a process that cannot be seen, at {}", self.address),
        }
    }
}

/// Which ports of `ports` programs of the host use at `at`, the lowest first, each once for each address; in the network
/// namespace of the calling thread. A connection's own port counts as well; what a program has closed does not, though
/// the kernel may keep it for a minute.
///
/// # Errors
/// The kernel cannot be asked.
pub fn in_use(protocol: Protocol, at: impl Into<HostAddresses>, ports: RangeInclusive<u16>) -> io::Result<Vec<Use>> {
    let at = at.into();
    let mut sockets = sockets(protocol, &ports)?;
    sockets.retain(|socket| socket.inode != 0 && ports.contains(&socket.port) && socket.receives_at(at));
    sockets.sort_by_key(|socket| (socket.port, socket.address, socket.inode));
    sockets.dedup_by_key(|socket| (socket.port, socket.address));
    let owners = owner::owners(&sockets.iter().map(|socket| socket.inode).collect::<BTreeSet<_>>());
    let describe = |socket: &BoundSocket| Use {
        port: socket.port,
        address: socket.address,
        owner: owners.get(&socket.inode).cloned(),
    };
    Ok(sockets.iter().map(describe).collect())
}

/// All ports for which [`in_use`] would name somebody, in one question to the kernel, and without the look for their
/// owners: for who has many ports to ask about.
///
/// # Errors
/// The kernel cannot be asked.
pub fn ports_in_use(protocol: Protocol, at: impl Into<HostAddresses>) -> io::Result<BTreeSet<u16>> {
    let at = at.into();
    let sockets = sockets(protocol, &(0..=u16::MAX))?;
    let sockets = sockets.iter().filter(|socket| socket.inode != 0 && socket.receives_at(at));
    Ok(sockets.map(|socket| socket.port).collect())
}

/// Who uses a port of the host: the first of [`in_use`] that can be named.
///
/// # Errors
/// The kernel cannot be asked.
pub fn owner_of(protocol: Protocol, at: impl Into<HostAddresses>, port: u16) -> io::Result<Option<Owner>> {
    Ok(in_use(protocol, at, port..=port)?.into_iter().find_map(|one| one.owner))
}

/// The sockets of a protocol with a port of `ports`. A protocol that the kernel does not have has none.
pub(super) fn sockets(protocol: Protocol, ports: &RangeInclusive<u16>) -> io::Result<Vec<BoundSocket>> {
    if let Some(sockets) = sock_diag::list(protocol.number(), ports)? {
        return Ok(sockets);
    }
    let sockets = match protocol {
        Protocol::Tcp => proc_net::list("tcp")?,
        Protocol::Udp => proc_net::list("udp")?,
        Protocol::Sctp => None,
    };
    Ok(sockets.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str, both: bool) -> BoundSocket {
        BoundSocket { port: 80, address: address.parse().expect("an address"), both, inode: 1 }
    }

    #[test]
    fn wildcards_of_both_kinds_meet_everything_of_their_families() {
        use HostAddresses::{All, AllIpv4, AllIpv6, One};
        let one = |text: &str| One(text.parse().expect("an address"));
        let at = [All, AllIpv4, AllIpv6, one("192.0.2.1"), one("127.0.0.1"), one("2001:db8::1")];
        for (address, both, expected) in [
            ("0.0.0.0", false, [true, true, false, true, true, false]),
            ("::", true, [true, true, true, true, true, true]),
            ("::", false, [true, false, true, false, false, true]),
            ("192.0.2.1", false, [true, true, false, true, false, false]),
            ("127.0.0.1", false, [true, true, false, false, true, false]),
            ("2001:db8::1", false, [true, false, true, false, false, true]),
        ] {
            assert_eq!(at.map(|at| socket(address, both).receives_at(at)), expected, "{address} {both}");
        }
    }

    #[test]
    fn a_listener_is_found_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let ports = address.port()..=address.port();
        let us = std::process::id();
        let owner = owner_of(Protocol::Tcp, Some(address.ip()), address.port()).expect("the kernel answers");
        assert_eq!(owner.map(|owner| owner.pid), Some(us));
        for at in [HostAddresses::All, HostAddresses::AllIpv4, HostAddresses::One(address.ip())] {
            let found = in_use(Protocol::Tcp, at, ports.clone()).expect("the kernel answers");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(ports_in_use(Protocol::Tcp, at).expect("the kernel answers").contains(&address.port()));
            assert!(found[0].to_string().ends_with(&format!("(process {us}), at 127.0.0.1")), "{}", found[0]);
        }
        for at in [HostAddresses::AllIpv6, HostAddresses::One("127.0.0.2".parse().expect("an address"))] {
            assert_eq!(in_use(Protocol::Tcp, at, ports.clone()).expect("the kernel answers"), []);
            assert!(!ports_in_use(Protocol::Tcp, at).expect("the kernel answers").contains(&address.port()));
        }
        assert_eq!(in_use(Protocol::Udp, None, ports.clone()).expect("the kernel answers"), []);
        drop(listener);
        // A child of another test, between its fork and its exec, may still have it.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !in_use(Protocol::Tcp, None, ports.clone()).expect("the kernel answers").is_empty() {
            assert!(std::time::Instant::now() < deadline, "nobody has it any more");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
