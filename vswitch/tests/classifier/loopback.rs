//! The loopback carry: programs of a host reach the switch at the host's own addresses, without any setting of the host.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use vswitch::bpf::{Attachment, Classifier, Counter, GuardOwner, Protocol, RearGuard, TcHook, attached_programs};
use vswitch::frame::{Burst, Pool};
use vswitch::io::tap::TapDevice;
use vswitch::io::{Device, RxReport, TxReport};

use super::lab::{Namespace, can_run, wait_readable, whole};
use super::namespaces::{PATIENCE, eventually};
use super::uplink::{HOST4, HOST6, carry_tap};
use super::{PORT, SSH, counted, ip};

/// Every kind of address that a host has.
const OWN: [&str; 5] = ["127.0.0.1", "127.9.9.9", HOST4, "::1", HOST6];

/// Sends back whatever it receives, addresses and ports swapped, which changes no checksum. A TCP connection opened to
/// such a peer is one with itself (RFC 9293 section 3.5, simultaneous open), and receives what it sends.
struct Mirror {
    stop: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Mirror {
    fn of(tap: &TapDevice) -> Self {
        let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut pool = Pool::new(64).unwrap();
        let (mut rx, mut tx) = (tap.open_rx(&mut pool).unwrap(), tap.open_tx(&mut pool).unwrap());
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&longest));
        let thread = std::thread::spawn(move || {
            let mut reflected = 0;
            while !stopped.load(Ordering::Relaxed) {
                wait_readable([rx.as_ref()].into_iter(), Duration::from_millis(20));
                let mut burst = Burst::new();
                rx.recv(&mut pool, &mut burst, 64, 65536, &mut RxReport::default());
                for frame in &mut burst {
                    seen.fetch_max(frame.len() as u64, Ordering::Relaxed);
                    swap(frame.data_mut());
                }
                let units: Vec<_> = (0..burst.len()).map(|i| whole(i, &burst)).collect();
                let mut report = TxReport::default();
                tx.send(&mut pool, &mut burst, &units, &[], &mut report);
                reflected += u64::from(report.sent);
                pool.free_all(burst);
            }
            reflected
        });
        Self { stop, longest, thread: Some(thread) }
    }

    /// Stops it; how many it has sent back.
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn swap(frame: &mut [u8]) {
    let (source, bytes, ports) = if frame[12..14] == [0x86, 0xdd] { (22, 16, 54) } else { (26, 4, 34) };
    for (at, bytes) in [(source, bytes), (ports, 2)] {
        let (one, two) = frame[at..at + 2 * bytes].split_at_mut(bytes);
        one.swap_with_slice(two);
    }
}

/// A host with addresses at an interface besides `lo`, and filters that a packet of the wire with such a source or
/// destination would not get through.
fn host() -> (Namespace, TapDevice) {
    let host = Namespace::new();
    host.exec(&["ip", "link", "set", "lo", "up"]);
    host.exec(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    host.exec(&["ip", "link", "set", "up1", "up"]);
    host.exec(&["ip", "link", "set", "up0", "up"]);
    host.exec(&["ip", "address", "add", &format!("{HOST4}/24"), "dev", "up0"]);
    host.exec(&["ip", "address", "add", &format!("{HOST6}/64"), "dev", "up0", "nodad"]);
    for interface in ["all", "lo"] {
        for (setting, value) in [("rp_filter", 1), ("route_localnet", 0), ("accept_local", 0)] {
            host.exec(&["sysctl", "-qw", &format!("net.ipv4.conf.{interface}.{setting}={value}")]);
        }
    }
    let carry = carry_tap(&host);
    host.exec(&["ip", "link", "set", "carry", "mtu", "65521"]);
    (host, carry)
}

/// With a rear guard behind it, which has to leave alone what comes from the switch.
fn attach(host: &Namespace, hook: TcHook) -> (Classifier, Attachment, RearGuard) {
    let mut classifier = Classifier::load().unwrap();
    classifier.set_local_addresses([HOST4, HOST6].map(ip)).unwrap();
    for protocol in Protocol::ALL {
        classifier.publish_range(protocol, None, PORT..=PORT + 1).unwrap();
    }
    let guard = host.inside(|| classifier.guard_lo("lo", GuardOwner(1))).unwrap();
    let attachment = host.inside(|| classifier.attach_lo("lo", "carry", hook)).unwrap();
    classifier.stand_until(Duration::from_secs(u32::MAX.into())).unwrap();
    (classifier, attachment, guard)
}

fn settings(host: &Namespace) -> String {
    host.exec(&["sysctl", "net.ipv4.conf", "net.ipv6.conf"])
}

/// What a datagram from `from` to the port `PORT` of `to` brings back.
fn datagram(host: &Namespace, to: IpAddr, from: u16, data: &[u8]) -> std::io::Result<Vec<u8>> {
    host.inside(|| {
        let unspecified: IpAddr = if to.is_ipv6() { ip("::") } else { ip("0.0.0.0") };
        let socket = UdpSocket::bind((unspecified, from))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((to, PORT))?;
        socket.send(data)?;
        let mut received = vec![0; 65536];
        let bytes = socket.recv(&mut received)?;
        received.truncate(bytes);
        Ok(received)
    })
}

/// How often a stream is begun.
const STREAMS_TRIED: usize = 4;

/// Sends a stream to the mirror behind `to`, which must come back as it was.
fn stream(to: IpAddr) -> std::io::Result<()> {
    const STALL: Option<Duration> = Some(Duration::from_secs(8));
    let mut socket = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), Duration::from_secs(8))?;
    socket.set_read_timeout(STALL)?;
    socket.set_write_timeout(STALL)?;
    let data: Vec<u8> = (0..2 << 20).map(|i: u32| (i ^ (i >> 9)) as u8).collect();
    let mut writer = socket.try_clone()?;
    std::thread::scope(|scope| {
        let written = scope.spawn(|| writer.write_all(&data));
        let mut received = vec![0; data.len()];
        socket.read_exact(&mut received)?;
        assert!(received == data, "the stream with {to} came back changed");
        written.join().expect("no panic")
    })
}

#[test]
fn a_host_reaches_the_switch_at_its_own_addresses() {
    if !can_run("a_host_reaches_the_switch_at_its_own_addresses") {
        return;
    }
    for hook in [TcHook::Tcx, TcHook::Clsact] {
        let (host, carry) = host();
        let before = settings(&host);
        let (classifier, attachment, guard) = attach(&host, hook);
        let mirror = Mirror::of(&carry);
        let mut datagrams = 0;
        for to in OWN.map(ip) {
            // One packet of the largest MTU there is.
            let longest = 65_535 - if to.is_ipv6() { 48 } else { 28 };
            for (from, bytes) in [(0, 1), (0, 1400), (0, longest), (PORT + 1, 9), (PORT, 9)] {
                let data = vec![bytes as u8; bytes];
                let back = datagram(&host, to, from, &data).unwrap_or_else(|why| panic!("{to} {from} {bytes}: {why}"));
                assert!(back == data, "{to}: {bytes} bytes came back changed");
                datagrams += 1;
            }
        }
        assert_eq!(counted(&classifier, Counter::Published), datagrams, "what was sent back is not taken again");
        for to in OWN.map(ip) {
            // A connection with itself may stall when it has to repeat a segment, which both of its ends then wait for:
            // a matter of the mirror, not of the way there and back.
            let arrived = (0..STREAMS_TRIED).any(|_| host.inside(|| stream(to)).is_ok());
            assert!(arrived, "no stream with {to} came to its end");
        }
        assert!(mirror.longest.load(Ordering::Relaxed) > 60_000, "super-frames and long datagrams cross whole");
        // The last segments of the connections may still be on their way round.
        let accounts = || (counted(&classifier, Counter::Published), counted(&classifier, Counter::Carried));
        eventually("what was taken came to the mirror", || {
            std::thread::sleep(Duration::from_millis(20));
            accounts().0 == accounts().1
        });
        assert_eq!(accounts().1, mirror.stop(), "nothing was taken twice");
        // The host's own business is its own.
        for to in OWN.map(ip) {
            host.inside(|| {
                let listener = TcpListener::bind((to, SSH)).unwrap();
                let mut client = TcpStream::connect((to, SSH)).unwrap();
                client.write_all(b"hello").unwrap();
                let mut greeting = [0; 5];
                listener.accept().unwrap().0.read_exact(&mut greeting).unwrap();
            });
        }
        assert_eq!(settings(&host), before);

        host.inside(|| drop(attachment));
        let silent = host
            .inside(|| TcpStream::connect_timeout(&SocketAddr::new(ip("127.0.0.1"), PORT), Duration::from_millis(200)));
        assert_eq!(silent.unwrap_err().kind(), ErrorKind::TimedOut, "the rear guard stands");
        host.inside(|| drop(guard));
        assert_eq!(host.inside(|| attached_programs("lo")).unwrap(), []);
        let refused = host.inside(|| TcpStream::connect(("127.0.0.1", PORT))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "the host answers again");
    }
}
