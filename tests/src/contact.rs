//! One short conversation between two namespaces, and whom the server saw.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::namespace::Namespace;
use crate::process::{PATIENCE, wait_until};

/// How long an answer may take. Long enough for a busy machine, and for TCP to send again what is lost.
const LIMIT: Duration = Duration::from_secs(15);
/// How long an answer may take that perhaps never comes: TCP has asked three times by then.
pub const TRIAL: Duration = Duration::from_secs(4);
/// How long to wait for what should not come.
const SILENCE: Duration = Duration::from_millis(700);

/// Binds, and waits for a while where the port is in use: a socket that was closed an instant ago may still be held by
/// a child of another thread of this process, between its fork and its exec.
pub(crate) fn patiently<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut last = None;
    let bound = wait_until("a free port", PATIENCE, || match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            last = Some(error);
            None
        }
        bound => Some(bound),
    });
    bound.unwrap_or_else(|error| Err(last.unwrap_or(error)))
}

/// A conversation's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection.
    Tcp,
    /// A UDP datagram and its answer.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The name in command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A server that has its port and waits.
#[derive(Debug)]
pub enum Server {
    /// For [`Protocol::Tcp`].
    Tcp(TcpListener),
    /// For [`Protocol::Udp`].
    Udp(UdpSocket),
}

impl Server {
    /// Binds `address` in `namespace`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(protocol: Protocol, namespace: &Namespace, address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{protocol:?} {address}: {error}"));
        namespace.enter(|| match protocol {
            Protocol::Tcp => {
                let listener = patiently(|| TcpListener::bind(address)).map_err(named)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            Protocol::Udp => Ok(Self::Udp(patiently(|| UdpSocket::bind(address)).map_err(named)?)),
        })
    }

    /// On any port of all addresses of `target`'s family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn any(protocol: Protocol, namespace: &Namespace, ipv6: bool, port: u16) -> io::Result<Self> {
        Self::bind(protocol, namespace, SocketAddr::new(unspecified(ipv6), port))
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }

    /// `client` says something to `target`, the server answers, and the client hears the answer from there. Returns
    /// whom the server saw.
    ///
    /// # Errors
    /// Something of that did not happen within fifteen seconds.
    pub fn meet(&self, client: &Namespace, target: SocketAddr) -> io::Result<SocketAddr> {
        self.meet_within(LIMIT, client, SocketAddr::new(unspecified(target.is_ipv6()), 0), target)
    }

    /// The same where it is to be found out whether that is possible: gives up after [`TRIAL`].
    ///
    /// # Errors
    /// As [`Server::meet`].
    pub fn try_meet(&self, client: &Namespace, target: SocketAddr) -> io::Result<SocketAddr> {
        self.meet_within(TRIAL, client, SocketAddr::new(unspecified(target.is_ipv6()), 0), target)
    }

    /// As [`Server::meet`] from `source`; a connection's source is always the kernel's choice.
    ///
    /// # Errors
    /// As [`Server::meet`].
    pub fn meet_from(&self, client: &Namespace, source: SocketAddr, target: SocketAddr) -> io::Result<SocketAddr> {
        self.meet_within(LIMIT, client, source, target)
    }

    fn meet_within(
        &self,
        limit: Duration,
        client: &Namespace,
        source: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{} to {target}: {error}", client.name()));
        match self {
            Self::Tcp(listener) => meet_tcp(limit, listener, client, target).map_err(named),
            Self::Udp(socket) => {
                let from = client.enter(|| UdpSocket::bind(source)).map_err(named)?;
                from.connect(target).map_err(named)?;
                meet_udp(limit, socket, &from).map_err(named)
            }
        }
    }

    /// Whether nothing of what `client` says to `target` comes here.
    pub fn misses(&self, client: &Namespace, target: SocketAddr) -> bool {
        match self {
            Self::Tcp(listener) => {
                // Whether it is refused or never answered: nobody may have come in.
                let _ = client.enter(|| TcpStream::connect_timeout(&target, SILENCE));
                listener.accept().is_err()
            }
            Self::Udp(socket) => {
                let sent = client.enter(|| {
                    let from = UdpSocket::bind(SocketAddr::new(unspecified(target.is_ipv6()), 0))?;
                    from.send_to(b"anybody", target)
                });
                let silent = socket.set_read_timeout(Some(SILENCE)).and_then(|()| socket.recv_from(&mut [0; 64]));
                sent.is_err() || silent.is_err()
            }
        }
    }
}

/// The unspecified address of a family.
#[must_use]
pub fn unspecified(ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) }
}

fn meet_tcp(limit: Duration, listener: &TcpListener, client: &Namespace, target: SocketAddr) -> io::Result<SocketAddr> {
    let mut ours = client.enter(|| TcpStream::connect_timeout(&target, limit))?;
    let (mut theirs, seen) = wait_until("the connection at its server", limit, || listener.accept().ok())?;
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(limit))?;
    }
    for (from, to) in [(true, b"question"), (false, b"answer..")] {
        let (sender, receiver) = if from { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
        sender.write_all(to)?;
        let mut heard = [0; 8];
        receiver.read_exact(&mut heard)?;
        if heard != *to {
            return Err(io::Error::other(format!("heard {heard:?}")));
        }
    }
    Ok(seen)
}

fn meet_udp(limit: Duration, server: &UdpSocket, client: &UdpSocket) -> io::Result<SocketAddr> {
    server.set_read_timeout(Some(limit))?;
    client.set_read_timeout(Some(limit))?;
    client.send(b"question")?;
    let mut heard = [0; 64];
    let (length, seen) =
        server.recv_from(&mut heard).map_err(|error| io::Error::new(error.kind(), format!("no question: {error}")))?;
    server.send_to(&heard[..length], seen)?;
    // Connected: an answer from elsewhere is not heard.
    let length =
        client.recv(&mut heard).map_err(|error| io::Error::new(error.kind(), format!("no answer: {error}")))?;
    if heard[..length] != *b"question" {
        return Err(io::Error::other(format!("heard {:?}", &heard[..length])));
    }
    Ok(seen)
}

/// A UDP socket of `namespace`, on any address of a family, with a read timeout.
///
/// # Errors
/// What the kernel says.
pub fn udp(namespace: &Namespace, ipv6: bool, port: u16) -> io::Result<UdpSocket> {
    let socket = namespace.enter(|| patiently(|| UdpSocket::bind(SocketAddr::new(unspecified(ipv6), port))))?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// The next datagram within fifteen seconds.
///
/// # Errors
/// None came.
pub fn hear(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    hear_within(socket, LIMIT)
}

/// The next datagram within `limit`, for whoever sends again what was lost.
///
/// # Errors
/// None came.
pub fn hear_within(socket: &UdpSocket, limit: Duration) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 1 << 16];
    socket.set_read_timeout(Some(limit))?;
    let (length, from) = socket.recv_from(&mut buffer)?;
    buffer.truncate(length);
    Ok((buffer, from))
}

/// Whether no datagram comes for a while.
pub fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SILENCE)).is_ok() && socket.recv_from(&mut [0; 1 << 16]).is_err()
}
