//! What goes in comes out.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::lab::{Namespace, PATIENCE, Raw, Wire, address, assert_all_home, can_run, open_with, pattern, plug, pool};
use vswitch::io::Device;
use vswitch::io::xdp::{BusyPoll, Steering, Umems, XdpConfig, XdpMode};

/// Two containers, each behind an AF_XDP port, and a wire between the ports.
struct Pair {
    a: Namespace,
    b: Namespace,
    devices: [vswitch::io::xdp::XdpDevice; 2],
    wire: Wire,
    _host: Namespace,
}

impl Pair {
    fn new(mtu: u32, queues: u32, adjust: impl Fn(&mut XdpConfig)) -> Self {
        let (host, a, b) = (Namespace::with_loopback(), Namespace::with_loopback(), Namespace::with_loopback());
        plug(&host, &a, "va", mtu, queues);
        plug(&host, &b, "vb", mtu, queues);
        address(&a, 2);
        address(&b, 3);
        let (pool, umems) = (pool(), Umems::default());
        let devices = ["va", "vb"].map(|interface| {
            let mut config = XdpConfig::new(interface, 0);
            adjust(&mut config);
            open_with(&host, &config, &pool, &umems)
        });
        let wire = Wire::between(pool, &devices[0], &devices[1]);
        Self { a, b, devices, wire, _host: host }
    }

    /// Ends it; nothing may have been copied between the ports if `uncopied`, and everything comes home.
    fn end(self, uncopied: bool) {
        let mut pool = self.wire.stop();
        if uncopied {
            assert_eq!(pool.linearized(), 0);
        }
        for device in &self.devices {
            assert_eq!(device.statistics().tx_invalid, 0, "{:?}", device.statistics());
        }
        drop(self.devices);
        assert_all_home(&mut pool);
    }
}

/// The sizes at which something changes (a chunk's end in either direction), and others between them.
fn sizes(mtu: usize) -> Vec<usize> {
    let largest = mtu + 14;
    if largest < 10_000 {
        return (60..=largest).collect();
    }
    let edges = [3840, 4072, 4096].into_iter().flat_map(|step| (1..=largest / step).map(move |n| n * step));
    let mut sizes: Vec<_> =
        edges.flat_map(|edge| edge - 2..=edge + 2).chain((60..largest).step_by(211)).chain([largest]).collect();
    sizes.retain(|&size| size <= largest);
    sizes
}

fn every_size(mtu: u32, adjust: impl Fn(&mut XdpConfig)) {
    let pair = Pair::new(mtu, 1, adjust);
    let (a, b) = (Raw::open(&pair.a), Raw::open(&pair.b));
    for (at, size) in sizes(mtu as usize).into_iter().enumerate() {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let frame = pattern(size, at);
            from.send(&frame);
            let got = to.recv(PATIENCE).unwrap_or_else(|| panic!("{size} bytes did not arrive"));
            assert!(got == frame, "{size} bytes arrived as {} others", got.len());
        }
    }
    let scattered = pair.wire.totals.scattered.load(Ordering::Relaxed);
    assert_eq!(scattered > 0, mtu > 3826, "{scattered}");
    assert_eq!(pair.wire.totals.rejected.load(Ordering::Relaxed), 0);
    pair.end(true);
}

#[test]
fn frames_of_every_size_cross_unchanged_and_uncopied() {
    if can_run("frames_of_every_size_cross_unchanged_and_uncopied") {
        for mtu in [1500, 9001, 60_000] {
            every_size(mtu, |_| ());
        }
    }
}

#[test]
fn frames_cross_unchanged_when_the_kernel_keeps_them_until_they_are_sent() {
    if can_run("frames_cross_unchanged_when_the_kernel_keeps_them_until_they_are_sent") {
        for tx_checksum in [true, false] {
            // Without metadata descriptors end at pages, as zero-copy needs it.
            every_size(9001, |config| {
                config.always_complete = true;
                config.tx_checksum = tx_checksum;
            });
        }
    }
}

#[test]
fn frames_cross_unchanged_in_generic_mode() {
    if can_run("frames_cross_unchanged_in_generic_mode") {
        for mtu in [1500, 9001] {
            every_size(mtu, |config| config.steering = Steering::GENERIC);
        }
    }
}

/// Sends `bytes` patterned bytes from `a` to `to` in `b`, and checks every one of them.
pub(crate) fn stream(a: &Namespace, b: &Namespace, to: &str, bytes: usize) {
    let to: IpAddr = to.parse().unwrap();
    let listener = b.inside(|| TcpListener::bind((to, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let receiver = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).unwrap();
        received
    });
    let mut socket = a.inside(|| TcpStream::connect_timeout(&(to, port).into(), PATIENCE).unwrap());
    let sent: Vec<u8> = (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    socket.write_all(&sent).unwrap();
    drop(socket);
    assert!(receiver.join().unwrap() == sent, "the stream to {to} arrived changed");
}

fn datagrams(a: &Namespace, b: &Namespace, to: &str, sizes: &[usize]) {
    let to: IpAddr = to.parse().unwrap();
    let receiver = b.inside(|| UdpSocket::bind((to, 5002)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = a.inside(|| UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap());
    for &size in sizes {
        let sent: Vec<u8> = (0..size).map(|i| (i ^ size) as u8).collect();
        sender.send_to(&sent, (to, 5002)).unwrap();
        let mut received = vec![0; 70_000];
        let length = receiver.recv(&mut received).unwrap();
        assert!(received[..length] == sent);
    }
}

#[test]
fn kernels_talk_through_us_whatever_their_offloads_are() {
    if !can_run("kernels_talk_through_us_whatever_their_offloads_are") {
        return;
    }
    for (mtu, tx_checksum, always_complete) in [
        (1500, true, false),
        (1500, false, false),
        (60_000, true, false),
        (60_000, false, false),
        (9001, true, true),
        (1500, false, true),
    ] {
        let pair = Pair::new(mtu, 1, |config| {
            config.tx_checksum = tx_checksum;
            config.always_complete = always_complete;
        });
        assert_eq!(pair.devices[0].caps().csum, tx_checksum);
        for offload in ["on", "off"] {
            for container in [&pair.a, &pair.b] {
                container.exec(&["ethtool", "-K", "eth0", "tx", offload]);
            }
            let before = pair.wire.totals.partial.load(Ordering::Relaxed);
            for to in ["10.9.0.3", "fd09::3"] {
                pair.a.exec(&["ping", "-c", "1", "-W", "2", to]);
                stream(&pair.a, &pair.b, to, 4 << 20);
                datagrams(&pair.a, &pair.b, to, &[0, 1, 100, 1400, mtu as usize - 100]);
            }
            let partial = pair.wire.totals.partial.load(Ordering::Relaxed) - before;
            assert_eq!(partial > 50, offload == "on", "{partial} with tx {offload}");
        }
        // Completing a checksum of a scattered frame takes a copy.
        pair.end(tx_checksum || mtu == 1500);
    }
}

#[test]
fn busy_polling_carries_the_same() {
    if !can_run("busy_polling_carries_the_same") {
        return;
    }
    let pair = Pair::new(1500, 1, |config| config.busy_poll = Some(BusyPoll { us: 20, budget: 64 }));
    for to in ["10.9.0.3", "fd09::3"] {
        stream(&pair.a, &pair.b, to, 4 << 20);
    }
    pair.end(true);
}

#[test]
fn several_queues_are_one_port() {
    if !can_run("several_queues_are_one_port") {
        return;
    }
    let pair = Pair::new(1500, 2, |_| ());
    assert_eq!((pair.devices[0].queues(), pair.devices[0].mode()), (2, XdpMode::Native));
    for to in ["10.9.0.3", "fd09::3"] {
        for _ in 0..4 {
            stream(&pair.a, &pair.b, to, 1 << 20);
        }
    }
    pair.end(true);
}

#[test]
fn bursts_larger_than_what_was_lent_are_counted_and_the_fill_level_follows() {
    if !can_run("bursts_larger_than_what_was_lent_are_counted_and_the_fill_level_follows") {
        return;
    }
    let pair = Pair::new(1500, 1, |_| ());
    let (a, b) = (Raw::open(&pair.a), Raw::open(&pair.b));
    let count = 20_000;
    for at in 0..count {
        a.send(&pattern(60, at));
    }
    let mut arrived = 0;
    while b.recv(Duration::from_millis(300)).is_some() {
        arrived += 1;
    }
    let overrun = pair.devices[0].statistics().rx_no_chunk;
    // Whatever was not dropped for want of chunks arrived, or was counted on the way out.
    let dropped = pair.wire.totals.dropped.load(Ordering::Relaxed);
    // The container's own kernel may have said something, too.
    let sent: u64 = pair.a.exec(&["cat", "/sys/class/net/eth0/statistics/tx_packets"]).trim().parse().unwrap();
    assert!((count as u64..=sent).contains(&(arrived + overrun + dropped)), "{arrived} {overrun} {dropped} of {sent}");
    assert_eq!(pair.wire.totals.overrun.load(Ordering::Relaxed), overrun, "reported to whoever reads");
    pair.end(true);
}
