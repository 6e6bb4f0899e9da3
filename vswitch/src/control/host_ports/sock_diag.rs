//! The sockets of this network namespace, from the kernel (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::BoundSocket;

// include/uapi/linux/sock_diag.h and inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_BC_S_GE: u8 = 2;
const INET_DIAG_BC_S_LE: u8 = 3;
/// `struct inet_diag_msg`: four bytes, the addresses (48), five numbers.
const MESSAGE_BYTES: usize = 4 + 48 + 20;
/// Every state there is.
const ALL_STATES: u32 = u32::MAX;
/// A part of a dump is a page or a few (`NLMSG_GOODSIZE`, and 32 KB at most).
const RECEIVE_BYTES: usize = 64 * 1024;

/// The sockets of a protocol that have a local port of `ports`; none where the kernel has no such protocol, or no way to
/// list its sockets.
///
/// # Errors
/// The kernel cannot be asked.
pub(super) fn list(protocol: u8, ports: &RangeInclusive<u16>) -> io::Result<Option<Vec<BoundSocket>>> {
    let mut socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut sockets = Vec::new();
    for (sequence, family) in (1..).zip([libc::AF_INET, libc::AF_INET6]) {
        socket.send(&request(family as u8, protocol, ports, sequence), 0)?;
        match receive(&socket, sequence, &mut sockets) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPROTONOSUPPORT)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(sockets))
}

/// `struct inet_diag_req_v2`, and a program for the kernel that selects by the local port. It is not used for all
/// ports.
fn request(family: u8, protocol: u8, ports: &RangeInclusive<u16>, sequence: u32) -> Vec<u8> {
    let mut message = vec![0; 16];
    message.extend([family, protocol, 0, 0]);
    message.extend(ALL_STATES.to_ne_bytes());
    message.extend([0; 40]);
    // No cookie: any socket.
    message.extend([0xff; 8]);
    if *ports != (0..=u16::MAX) {
        // A test of the port is two `struct inet_diag_bc_op`. It goes on behind itself, or beyond the program's end, which
        // is a no.
        let test = |code: u8, left: u16, port: u16| {
            let [no_low, no_high] = (left + 4).to_ne_bytes();
            let [port_low, port_high] = port.to_ne_bytes();
            [code, 8, no_low, no_high, 0, 0, port_low, port_high]
        };
        message.extend([20u16.to_ne_bytes(), INET_DIAG_REQ_BYTECODE.to_ne_bytes()].as_flattened());
        message.extend(test(INET_DIAG_BC_S_GE, 16, *ports.start()));
        message.extend(test(INET_DIAG_BC_S_LE, 8, *ports.end()));
    }
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    message
}

fn receive(socket: &NetlinkSocket, sequence: u32, sockets: &mut Vec<BoundSocket>) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let bytes = match socket.recv(&mut buffer.as_mut_slice(), libc::MSG_TRUNC) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut rest = buffer.get(..bytes).ok_or_else(|| io::Error::other(format!("{bytes} bytes in one datagram")))?;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(|why| io::Error::other(why.to_string()))?;
            let length = message.length() as usize;
            if message.sequence_number() == sequence {
                match message.message_type() {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = message.payload().first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.wrapping_neg())) };
                    }
                    _ => sockets.extend(parse(message.payload())),
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `struct inet_diag_msg` and its attributes.
fn parse(payload: &[u8]) -> Option<BoundSocket> {
    let message: &[u8; MESSAGE_BYTES] = payload.first_chunk()?;
    let family = message[0];
    let port = u16::from_be_bytes([message[4], message[5]]);
    let source: [u8; 16] = message[8..24].try_into().ok()?;
    let inode = u32::from_ne_bytes(message[68..72].try_into().ok()?);
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::from([source[0], source[1], source[2], source[3]]),
        libc::AF_INET6 => Ipv6Addr::from(source).to_canonical(),
        _ => return None,
    };
    let v6only = NlasIterator::new(payload.get(MESSAGE_BYTES..)?)
        .flatten()
        .any(|nla| nla.kind() == INET_DIAG_SKV6ONLY && nla.value().first() == Some(&1));
    // Of ::ffff:0.0.0.0 the kernel makes 0.0.0.0 as well.
    let both = address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !v6only;
    Some(BoundSocket { port, address, both, inode: u64::from(inode) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, port: u16, source: [u8; 16], inode: u32) -> Vec<u8> {
        let mut bytes = vec![0; MESSAGE_BYTES];
        bytes[0] = family as u8;
        bytes[4..6].copy_from_slice(&port.to_be_bytes());
        bytes[8..24].copy_from_slice(&source);
        bytes[68..72].copy_from_slice(&inode.to_ne_bytes());
        bytes
    }

    #[test]
    fn addresses_are_what_they_are_on_the_wire() {
        let of = |family, source: IpAddr, v6only: Option<u8>| {
            let source = match source {
                IpAddr::V4(ip) => {
                    let mut bytes = [0; 16];
                    bytes[..4].copy_from_slice(&ip.octets());
                    bytes
                }
                IpAddr::V6(ip) => ip.octets(),
            };
            let mut bytes = message(family, 80, source, 7);
            if let Some(v6only) = v6only {
                bytes.extend([5u16.to_ne_bytes(), INET_DIAG_SKV6ONLY.to_ne_bytes()].as_flattened());
                bytes.extend([v6only, 0, 0, 0]);
            }
            let socket = parse(&bytes).expect("a socket");
            assert_eq!((socket.port, socket.inode), (80, 7));
            (socket.address.to_string(), socket.both)
        };
        let ip = |text: &str| text.parse().expect("an address");
        assert_eq!(of(libc::AF_INET, ip("192.0.2.1"), None), ("192.0.2.1".to_owned(), false));
        assert_eq!(of(libc::AF_INET6, ip("::ffff:192.0.2.1"), Some(0)), ("192.0.2.1".to_owned(), false));
        assert_eq!(of(libc::AF_INET6, ip("::"), Some(0)), ("::".to_owned(), true));
        assert_eq!(of(libc::AF_INET6, ip("::"), Some(1)), ("::".to_owned(), false));
        assert_eq!(of(libc::AF_INET6, ip("2001:db8::1"), None), ("2001:db8::1".to_owned(), false));
    }

    #[test]
    fn nothing_that_arrives_panics() {
        let whole = message(libc::AF_INET, 80, [0; 16], 7);
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None);
        }
        assert_eq!(parse(&message(libc::AF_UNIX, 80, [0; 16], 7)), None);
        let attribute_without_end = [whole.as_slice(), &[0xff; 7]].concat();
        assert!(parse(&attribute_without_end).is_some());
    }

    #[test]
    fn our_own_sockets_are_listed() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let udp = std::net::UdpSocket::bind("[::]:0").expect("a port");
        let (tcp, udp) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
        let all = |protocol, ports| list(protocol, &ports).expect("the kernel answers").unwrap_or_default();
        for ports in [0..=u16::MAX, tcp.port()..=tcp.port()] {
            let found = all(6, ports);
            assert!(
                found.iter().any(|socket| (socket.address, socket.port) == (tcp.ip(), tcp.port()) && socket.inode > 0)
            );
        }
        assert!(all(17, udp.port()..=udp.port()).iter().any(|socket| socket.address == udp.ip()));
        assert!(all(6, tcp.port()..=tcp.port()).iter().all(|socket| socket.port == tcp.port()));
        #[expect(clippy::reversed_empty_ranges, reason = "nothing is asked for")]
        let nothing = all(6, 2..=1);
        assert_eq!(nothing, []);
    }
}
