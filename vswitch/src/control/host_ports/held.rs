//! Sockets that do nothing but have a port, where the kernel cannot be told otherwise that it is in use: for SCTP, and
//! for all protocols where there is no cgroup to attach a program to.
//!
//! A socket takes one to two kilobytes of the kernel's memory and a descriptor, so there are not many. It receives
//! nothing, because packets to a published port never come as far as a socket.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{set_ip_freebind, set_ipv6_freebind, set_ipv6_v6only};
use rustix::net::{AddressFamily, Protocol as SocketProtocol, SocketFlags, SocketType, bind, ipproto, socket_with};

use super::Published;
use crate::bpf::{HostAddresses, Protocol};

/// The most sockets that are held.
pub(super) const HELD_MAX: usize = 2048;

/// The sockets by what they hold.
#[derive(Debug, Default)]
pub(super) struct HeldPorts(BTreeMap<(Protocol, IpAddr, u16), OwnedFd>);

impl HeldPorts {
    /// Holds `published`, and nothing else; says how many ports of it could not be held, and why the first one could
    /// not.
    pub(super) fn set<'a>(&mut self, published: impl Iterator<Item = &'a Published>) -> (usize, Option<io::Error>) {
        let wanted = published.flat_map(|one| {
            let addresses: Vec<IpAddr> = match one.at {
                HostAddresses::All => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
                HostAddresses::AllIpv4 => vec![Ipv4Addr::UNSPECIFIED.into()],
                HostAddresses::AllIpv6 => vec![Ipv6Addr::UNSPECIFIED.into()],
                HostAddresses::One(address) => vec![address],
            };
            let ports = one.ports.clone();
            addresses.into_iter().flat_map(move |ip| ports.clone().map(move |port| (one.protocol, ip, port)))
        });
        let mut before = std::mem::take(&mut self.0);
        let (mut missing, mut why) = (0, None);
        for key in wanted {
            if let Some(held) = before.remove(&key) {
                self.0.insert(key, held);
                continue;
            }
            let held = if self.0.len() < HELD_MAX {
                hold(key)
            } else {
                Err(io::Error::other(format!("{HELD_MAX} are held, which is the limit")))
            };
            match held {
                Ok(held) => {
                    self.0.insert(key, held);
                }
                // Then no program of the host can have it either.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT)) => {}
                Err(error) => {
                    missing += 1;
                    why.get_or_insert(error);
                }
            }
        }
        (missing, why)
    }
}

fn hold((protocol, address, port): (Protocol, IpAddr, u16)) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number): (_, SocketProtocol) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    // The address may come later.
    if address.is_ipv4() {
        set_ip_freebind(&socket, true)?;
    } else {
        set_ipv6_freebind(&socket, true)?;
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_held_until_it_is_not_wanted() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let at = |address: &str| HostAddresses::One(address.parse().expect("an address"));
        let mut held = HeldPorts::default();
        let ports = free.port()..=free.port();
        let one = Published { protocol: Protocol::Tcp, at: at("127.0.0.1"), ports: ports.clone() };
        let elsewhere = Published { at: at("192.0.2.77"), ..one.clone() };
        let (missing, why) = held.set([one, elsewhere.clone()].iter());
        assert_eq!((missing, why.map(|why| why.to_string())), (0, None));
        let bind = || std::net::TcpListener::bind(free).map(drop).map_err(|error| error.kind());
        assert_eq!(bind(), Err(io::ErrorKind::AddrInUse));
        held.set([elsewhere].iter());
        assert_eq!(bind(), Ok(()));
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let (missing, why) =
            held.set([Published { protocol: Protocol::Udp, at: at("127.0.0.1"), ports: port..=port }].iter());
        assert_eq!((missing, why.map(|why| why.kind())), (1, Some(io::ErrorKind::AddrInUse)));
    }
}
