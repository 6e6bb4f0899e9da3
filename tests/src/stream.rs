//! Streams and datagrams whose content is checked to the byte.
//!
//! The content is a function of the offset ([`fill`]), so the receiver needs no copy of it, and a
//! difference is reported with the offset at which it begins. That says more than a digest: a
//! duplicated, lost or exchanged segment shows in where it happened.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::contact::patiently;
use crate::namespace::Namespace;
use crate::process::{PATIENCE, wait_until};

/// How long a stream may stand still before it counts as broken.
const STALL_LIMIT: Duration = PATIENCE;

/// The eight bytes of content at `8 * index`: splitmix64, whose output depends on every bit of its
/// input.
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `buffer` with the content of stream `seed` from `offset` on.
pub fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let mut at = 0;
    while at < buffer.len() {
        let position = offset + at as u64;
        let bytes = word(seed, position / 8).to_le_bytes();
        let skip = (position % 8) as usize;
        let count = (8 - skip).min(buffer.len() - at);
        buffer[at..at + count].copy_from_slice(&bytes[skip..skip + count]);
        at += count;
    }
}

/// What a [`Transfer`] moves.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Bytes from the client to the server.
    pub up_bytes: u64,
    /// Bytes from the server to the client, at the same time.
    pub down_bytes: u64,
    /// Bytes of one `write`; small ones make small segments (Nagle's algorithm is off).
    pub write_bytes: usize,
    /// A pause after each `write`, for streams that shall last.
    pub pause: Duration,
}

impl Plan {
    /// `bytes` in both directions at once, written in large pieces.
    #[must_use]
    pub fn both_ways(bytes: u64) -> Self {
        Self { up_bytes: bytes, down_bytes: bytes, write_bytes: 256 << 10, pause: Duration::ZERO }
    }
}

/// A TCP connection that carries checked content in both directions; each side closes its sending
/// half when it is done (RFC 9293 section 3.6), so the other direction goes on alone.
#[derive(Debug)]
pub struct Transfer {
    threads: Vec<JoinHandle<io::Result<()>>>,
    received: Arc<AtomicU64>,
}

impl Transfer {
    /// Connects `client` to `server` at `address` and starts to transfer.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub fn start(server: &Namespace, client: &Namespace, address: SocketAddr, plan: Plan) -> io::Result<Self> {
        let listener = server.enter(|| listen(address))?;
        let address = listener.local_addr()?;
        Self::begin(&listener, client, address, plan)
    }

    /// The same to a server that listens on `address` and is reached at `target`.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub fn start_to(
        (server, address): (&Namespace, SocketAddr),
        (client, target): (&Namespace, SocketAddr),
        plan: Plan,
    ) -> io::Result<Self> {
        let listener = server.enter(|| listen(address))?;
        Self::begin(&listener, client, target, plan)
    }

    fn begin(listener: &TcpListener, client: &Namespace, target: SocketAddr, plan: Plan) -> io::Result<Self> {
        let ours = client.enter(|| TcpStream::connect_timeout(&target, PATIENCE))?;
        let (theirs, _) = listener.accept()?;
        let received = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for (socket, sends, receives, seeds) in
            [(ours, plan.up_bytes, plan.down_bytes, (1, 2)), (theirs, plan.down_bytes, plan.up_bytes, (2, 1))]
        {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(STALL_LIMIT))?;
            socket.set_write_timeout(Some(STALL_LIMIT))?;
            let writer = socket.try_clone()?;
            let counter = Arc::clone(&received);
            threads.push(thread::spawn(move || send(writer, seeds.0, sends, plan)));
            threads.push(thread::spawn(move || receive(socket, seeds.1, receives, &counter)));
        }
        Ok(Self { threads, received })
    }

    /// The bytes that arrived so far, both directions together.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until nothing arrives for `quiet`, though not all has: somebody stopped it.
    ///
    /// # Errors
    /// It goes on ([`io::ErrorKind::TimedOut`]).
    pub fn await_standstill(&self, quiet: Duration) -> io::Result<()> {
        let mut last = (self.received_bytes(), Instant::now());
        wait_until("a standstill", PATIENCE, || {
            let bytes = self.received_bytes();
            if bytes != last.0 {
                last = (bytes, Instant::now());
            }
            (last.1.elapsed() >= quiet).then_some(())
        })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// A side could not send, stood still for thirty seconds, or received something else than was sent.
    pub fn finish(self) -> io::Result<()> {
        let mut first = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a transfer thread panicked")));
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }
}

/// Binds in the calling thread's namespace. An address that was added an instant ago is usable at
/// once (the switch skips duplicate address detection), so no retry.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    patiently(|| TcpListener::bind(address))
        .map_err(|error| io::Error::new(error.kind(), format!("listen on {address}: {error}")))
}

fn send(mut socket: TcpStream, seed: u64, bytes: u64, plan: Plan) -> io::Result<()> {
    let mut buffer = vec![0; plan.write_bytes];
    let mut offset = 0;
    while offset < bytes {
        let size = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(buffer.len());
        fill(seed, offset, &mut buffer[..size]);
        socket
            .write_all(&buffer[..size])
            .map_err(|error| io::Error::new(error.kind(), format!("sending at offset {offset} of {bytes}: {error}")))?;
        offset += size as u64;
        if !plan.pause.is_zero() {
            thread::sleep(plan.pause);
        }
    }
    socket.shutdown(Shutdown::Write)
}

fn receive(mut socket: TcpStream, seed: u64, bytes: u64, counter: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut expected = vec![0; buffer.len()];
    let mut offset = 0u64;
    loop {
        let size = socket.read(&mut buffer).map_err(|error| {
            io::Error::new(error.kind(), format!("receiving at offset {offset} of {bytes}: {error}"))
        })?;
        if size == 0 {
            break;
        }
        fill(seed, offset, &mut expected[..size]);
        if buffer[..size] != expected[..size] {
            let wrong = buffer.iter().zip(&expected).position(|(got, want)| got != want).unwrap_or(0);
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the content differs from offset {} on", offset + wrong as u64),
            ));
        }
        offset += size as u64;
        counter.fetch_add(size as u64, Ordering::Relaxed);
    }
    if offset == bytes {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{offset} of {bytes} bytes arrived before the end")))
}

/// Sends one datagram of each of `sizes` (payload bytes) and checks that it is echoed unchanged.
///
/// # Errors
/// A datagram or its echo did not arrive within [`PATIENCE`], or arrived changed; names the size.
pub fn datagrams(server: &Namespace, client: &Namespace, address: SocketAddr, sizes: &[usize]) -> io::Result<()> {
    datagrams_within(PATIENCE, server, client, address, sizes)
}

/// The same with another limit of the time for each.
///
/// # Errors
/// As [`datagrams`].
pub fn datagrams_within(
    limit: Duration,
    server: &Namespace,
    client: &Namespace,
    address: SocketAddr,
    sizes: &[usize],
) -> io::Result<()> {
    let echo = server.enter(|| patiently(|| UdpSocket::bind(address)))?;
    let target = echo.local_addr()?;
    echo.set_read_timeout(Some(Duration::from_millis(50)))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 1 << 16];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((size, from)) = echo.recv_from(&mut buffer) {
                    // A refused echo shows as a missing one below.
                    let _ = echo.send_to(&buffer[..size], from);
                }
            }
        });
        let result = client.enter(|| exchange(target, sizes, limit));
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn exchange(target: SocketAddr, sizes: &[usize], limit: Duration) -> io::Result<()> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(limit))?;
    let mut sent = vec![0; 1 << 16];
    let mut received = vec![0; 1 << 16];
    for &size in sizes {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("a datagram of {size} bytes to {target}: {error}"));
        fill(size as u64, 0, &mut sent[..size]);
        socket.send(&sent[..size]).map_err(named)?;
        let length = socket.recv(&mut received).map_err(named)?;
        if received[..length] != sent[..size] {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a datagram of {size} bytes came back changed ({length} bytes)"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn content_does_not_depend_on_how_it_is_cut() {
        let mut whole = [0; 100];
        fill(7, 3, &mut whole);
        let mut pieces = [0; 100];
        for (start, end) in [(0, 1), (1, 9), (9, 50), (50, 100)] {
            fill(7, 3 + start as u64, &mut pieces[start..end]);
        }
        assert_eq!(whole, pieces);
    }
}
