//! What the classifier costs the host's own traffic: TCP throughput and round trip through the interface, without it
//! and with it, interleaved. An empty XDP program tells what the kernel's hook costs apart from what ours does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use vswitch::bpf::{Attachment, Classifier, TcHook, XdpMode, XdpUplink};

use super::foreign::{self, Where};
use super::lab::{Namespace, can_run};
use super::uplink::{HOST4, Lab, PEER4};
use super::{ip, publish};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Without,
    Tc,
    NativeEmpty,
    Native,
    GenericEmpty,
    Generic,
}

const VARIANTS: [Variant; 6] =
    [Variant::Without, Variant::Tc, Variant::NativeEmpty, Variant::Native, Variant::GenericEmpty, Variant::Generic];

/// Keeps a program attached.
#[expect(dead_code, reason = "held, not read")]
enum Held {
    Nothing,
    Tc(Attachment),
    Xdp(XdpUplink),
    Empty(std::os::fd::OwnedFd),
}

/// What to measure: the stream into the host, out of it, or the round trip. All over one connection for all variants,
/// which are changed underneath it: a new connection's luck with cores and windows weighs more than what is measured.
#[derive(Debug, Clone, Copy)]
enum Load {
    Inward,
    Outward,
    RoundTrip,
}

/// `ROUNDS=40 WINDOW_MS=100 VARIANTS=Without,Tc cargo test --test classifier_root -- --ignored --nocapture
/// what_the_classifier_costs`.
#[test]
#[ignore = "a measurement of a minute, to be run alone"]
fn what_the_classifier_costs_the_host() {
    if !can_run("what_the_classifier_costs_the_host") {
        return;
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rounds, window) = (number("ROUNDS", 20), Duration::from_millis(number("WINDOW_MS", 100)));
    let only = std::env::var("VARIANTS").unwrap_or_default();
    let variants: Vec<_> =
        VARIANTS.into_iter().filter(|v| only.is_empty() || only.split(',').any(|o| format!("{v:?}") == o)).collect();
    let lab = Lab::new();
    let mut classifier = Lab::classifier();
    publish(&mut classifier);
    let index = Lab::link(&lab.host, "up0").index;
    let empty = [Where::XdpNative, Where::XdpGeneric].map(|at| (at, foreign::load(at, "empty", 2).unwrap()));
    let mut switch_to = |variant| {
        lab.host.inside(|| match variant {
            Variant::Without => Held::Nothing,
            Variant::Tc => Held::Tc(classifier.attach_tc("up0", "carry", TcHook::of_kernel()).unwrap()),
            Variant::NativeEmpty => Held::Empty(foreign::attach(&empty[0].1, empty[0].0, index).unwrap()),
            Variant::GenericEmpty => Held::Empty(foreign::attach(&empty[1].1, empty[1].0, index).unwrap()),
            Variant::Native => Held::Xdp(attach(&mut classifier, XdpMode::Native)),
            Variant::Generic => Held::Xdp(attach(&mut classifier, XdpMode::Generic)),
        })
    };
    for load in [Load::Inward, Load::Outward, Load::RoundTrip] {
        let mut results = vec![vec![]; variants.len()];
        let mut probe = match load {
            Load::Inward => stream(&lab.peer, &lab.host, HOST4),
            Load::Outward => stream(&lab.host, &lab.peer, PEER4),
            Load::RoundTrip => round_trip(&lab.peer, &lab.host, HOST4),
        };
        for round in 0..rounds as usize {
            for place in 0..variants.len() {
                // Forwards and backwards, so that a drift weighs on all alike.
                let which = if round % 2 == 0 { place } else { variants.len() - 1 - place };
                let held = switch_to(variants[which]);
                probe(Duration::from_millis(40));
                results[which].push(probe(window));
                lab.host.inside(|| drop(held));
            }
        }
        let unit = if matches!(load, Load::RoundTrip) { "us" } else { "Gbit/s" };
        eprintln!("{load:?}: median of {rounds} in {unit}, and of the ratios to the first of the same round");
        for (variant, values) in variants.iter().zip(&results) {
            let mut ratios: Vec<_> = values.iter().zip(&results[0]).map(|(value, base)| value / base).collect();
            ratios.sort_by(f64::total_cmp);
            let (low, high) = (ratios[ratios.len() / 4], ratios[ratios.len() * 3 / 4]);
            let (value, ratio) = (median(values.iter().copied()), median(ratios.into_iter()));
            eprintln!("    {:14}{value:>8.2}{ratio:>8.3} (half of them {low:.3} to {high:.3})", format!("{variant:?}"));
        }
    }
}

fn attach(classifier: &mut Classifier, mode: XdpMode) -> XdpUplink {
    let mut uplink = classifier.reserve_xdp("up0", 2).unwrap();
    classifier.attach_xdp(&mut uplink, mode).unwrap();
    uplink
}

fn connect(client: &Namespace, server: &Namespace, to: &str) -> (TcpStream, TcpStream) {
    let listener = server.inside(|| TcpListener::bind((ip(to), 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let client = client.inside(|| TcpStream::connect(address).unwrap());
    let server = listener.accept().unwrap().0;
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

/// Measures for a while: Gbit/s, or microseconds.
type Probe = Box<dyn FnMut(Duration) -> f64>;

/// Gbit/s of one stream from `client` to `server`, at the receiver. Ends when it is dropped.
fn stream(client: &Namespace, server: &Namespace, to: &str) -> Probe {
    let (mut sender, mut receiver) = connect(client, server, to);
    std::thread::spawn(move || {
        let data = vec![7; 128 << 10];
        while sender.write_all(&data).is_ok() {}
    });
    let mut buffer = vec![0; 1 << 20];
    Box::new(move |time| {
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < time {
            bytes += receiver.read(&mut buffer).unwrap();
        }
        bytes as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64()
    })
}

/// The median of a byte there and a byte back, in microseconds.
fn round_trip(client: &Namespace, server: &Namespace, to: &str) -> Probe {
    let (mut client, mut server) = connect(client, server, to);
    std::thread::spawn(move || {
        let mut byte = [0];
        while server.read(&mut byte).is_ok_and(|count| count == 1) && server.write_all(&byte).is_ok() {}
    });
    Box::new(move |time| {
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time {
            let sent = Instant::now();
            client.write_all(&[1]).unwrap();
            client.read_exact(&mut [0]).unwrap();
            times.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        median(times.into_iter())
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
