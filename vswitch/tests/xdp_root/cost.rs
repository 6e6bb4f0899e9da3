//! What it costs, beside the kernel's own bridge in the same run. Measurements: to be run alone, in a release build.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lab::{Namespace, Raw, Wire, address, can_run, open_with, pattern, plug};
use vswitch::frame::Pool;
use vswitch::io::xdp::{Umems, XdpConfig, XdpDevice};

/// How long one measurement takes.
const SPAN: Duration = Duration::from_millis(1500);

/// Two containers and what is between them.
struct Pair {
    _host: Namespace,
    a: Namespace,
    b: Namespace,
    _devices: Vec<XdpDevice>,
    wire: Option<Wire>,
}

fn namespaces(mtu: u32) -> (Namespace, Namespace, Namespace) {
    let (host, a, b) = (Namespace::with_loopback(), Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", mtu, 1);
    plug(&host, &b, "vb", mtu, 1);
    address(&a, 2);
    address(&b, 3);
    (host, a, b)
}

fn bridged(mtu: u32) -> Pair {
    let (host, a, b) = namespaces(mtu);
    host.ip(&["link", "add", "br0", "type", "bridge"]);
    for end in ["va", "vb"] {
        host.ip(&["link", "set", end, "master", "br0"]);
    }
    host.ip(&["link", "set", "br0", "up"]);
    Pair { _host: host, a, b, _devices: Vec::new(), wire: None }
}

fn xdp(mtu: u32, tx_checksum: bool) -> Pair {
    let (host, a, b) = namespaces(mtu);
    // As large as a worker's.
    let (pool, umems) = (Pool::with_chunks(256, 8192).unwrap(), Umems::default());
    let devices: Vec<_> = ["va", "vb"]
        .map(|interface| open_with(&host, &XdpConfig { tx_checksum, ..XdpConfig::new(interface, 0) }, &pool, &umems))
        .into();
    let wire = Wire::between(pool, &devices[0], &devices[1]);
    Pair { _host: host, a, b, _devices: devices, wire: Some(wire) }
}

impl Pair {
    /// Processor seconds of the forwarding thread per gigabyte or whatever `amount` is, if there is one.
    fn end(self, amount: f64) -> String {
        let Some(wire) = self.wire else { return String::new() };
        let totals = Arc::clone(&wire.totals);
        drop(wire.stop());
        format!(
            "{:.2} s of the forwarding thread per unit",
            totals.busy_ns.load(Ordering::Relaxed) as f64 / 1e9 / amount
        )
    }
}

/// Gigabytes over one TCP connection, and per second.
fn stream(pair: &Pair) -> (f64, f64) {
    let listener = pair.b.inside(|| TcpListener::bind(("10.9.0.3", 5001)).unwrap());
    let received = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&received);
    let receiver = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 256 << 10];
        while let Ok(bytes @ 1..) = socket.read(&mut buffer) {
            counted.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    });
    let mut socket = pair.a.inside(|| TcpStream::connect(("10.9.0.3", 5001)).unwrap());
    let buffer = vec![7; 128 << 10];
    let (start, mut mark) = (Instant::now(), None);
    while start.elapsed() < SPAN {
        socket.write_all(&buffer).unwrap();
        if mark.is_none() && start.elapsed() > SPAN / 5 {
            mark = Some((Instant::now(), received.load(Ordering::Relaxed)));
        }
    }
    let (from, before) = mark.unwrap();
    let rate = (received.load(Ordering::Relaxed) - before) as f64 / 1e9 / from.elapsed().as_secs_f64();
    drop(socket);
    receiver.join().unwrap();
    (received.load(Ordering::Relaxed) as f64 / 1e9, rate)
}

/// Packets of 60 bytes delivered, in millions, and per second.
fn flood(pair: &Pair) -> (f64, f64) {
    let delivered = || {
        let path = "/sys/class/net/eth0/statistics/rx_packets";
        pair.b.exec(&["cat", path]).trim().parse::<u64>().unwrap()
    };
    let raw = Raw::open(&pair.a);
    let frame = pattern(60, 0);
    let (start, before) = (Instant::now(), delivered());
    while start.elapsed() < SPAN {
        for _ in 0..64 {
            raw.send(&frame);
        }
    }
    let packets = (delivered() - before) as f64 / 1e6;
    (packets, packets / start.elapsed().as_secs_f64())
}

/// Round trips of a datagram of 64 bytes: how many thousand, and the median and the 99th percentile in microseconds.
fn ping_pong(pair: &Pair) -> (f64, f64, f64) {
    let server = pair.b.inside(|| UdpSocket::bind(("10.9.0.3", 5003)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((bytes, from)) = server.recv_from(&mut buffer) {
                server.send_to(&buffer[..bytes], from).unwrap();
            }
        }
    });
    let client = pair.a.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < SPAN {
        let sent = Instant::now();
        client.send_to(&[1; 64], ("10.9.0.3", 5003)).unwrap();
        client.recv(&mut [0; 100]).unwrap();
        times.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    stop.store(true, Ordering::Relaxed);
    echo.join().unwrap();
    times.sort_by(f64::total_cmp);
    (times.len() as f64 / 1e3, times[times.len() / 2], times[times.len() * 99 / 100])
}

/// `cargo test --release --test xdp_root -- --ignored --nocapture cost::`, alone.
#[test]
#[ignore = "a measurement of half a minute, to be run alone in a release build"]
fn beside_the_kernels_bridge() {
    if !can_run("beside_the_kernels_bridge") {
        return;
    }
    for mtu in [1500, 9001, 60_000] {
        for _ in 0..2 {
            for (name, make) in [("bridge", None), ("xdp, metadata", Some(true)), ("xdp, full checksum", Some(false))] {
                let pair = make.map_or_else(|| bridged(mtu), |tx_checksum| xdp(mtu, tx_checksum));
                let (bytes, rate) = stream(&pair);
                eprintln!("TCP {mtu:5} {name:20} {rate:6.2} GB/s {}", pair.end(bytes));
            }
        }
    }
    for _ in 0..2 {
        for (name, make) in [("bridge", None), ("xdp", Some(true))] {
            let pair = make.map_or_else(|| bridged(1500), |tx_checksum| xdp(1500, tx_checksum));
            let (packets, rate) = flood(&pair);
            eprintln!("60 bytes  {name:20} {rate:6.3} Mpps {}", pair.end(packets));
            let pair = make.map_or_else(|| bridged(1500), |tx_checksum| xdp(1500, tx_checksum));
            let (trips, median, tail) = ping_pong(&pair);
            eprintln!("UDP 64    {name:20} {median:6.1} us p50 {tail:6.1} us p99 {}", pair.end(trips));
        }
    }
}

/// Kilobytes of kernel memory per port, with a pool as large as a worker's.
#[test]
#[ignore = "a measurement, to be run alone"]
fn memory_of_a_port() {
    if !can_run("memory_of_a_port") {
        return;
    }
    let available = || {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find(|line| line.starts_with("MemAvailable")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
    };
    for chunks in [2048, 8192] {
        let host = Namespace::with_loopback();
        let containers: Vec<_> = (0..21).map(|_| Namespace::with_loopback()).collect();
        for (at, container) in containers.iter().enumerate() {
            plug(&host, container, &format!("v{at}"), 1500, 1);
        }
        let (mut pool, umems) = (Pool::with_chunks(256, chunks).unwrap(), Umems::default());
        let empty = available();
        let start = Instant::now();
        let open = |at| open_with(&host, &XdpConfig::new(&format!("v{at}"), 0), &pool, &umems);
        let first = open(0);
        let (one, first_time) = (available(), start.elapsed());
        let start = Instant::now();
        let rest: Vec<_> = (1..21).map(open).collect();
        let (all, rest_time) = (available(), start.elapsed());
        let rx: Vec<_> = rest
            .iter()
            .map(|device| {
                use vswitch::io::Device;
                device.open_rx(&mut pool).unwrap()
            })
            .collect();
        eprintln!(
            "{chunks} chunks, region {} KB: first port {} KB in {first_time:?}, each further {} KB in {:?}",
            pool.region().bytes() / 1024,
            empty - one,
            (one - all) / 20,
            rest_time / 20,
        );
        drop((rx, first, rest));
    }
}
