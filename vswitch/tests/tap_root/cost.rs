//! What each step of making a port costs, with none and with many ports there.

use std::time::{Duration, Instant};

use vswitch::control::netlink::{LinkChange, Netlink};
use vswitch::control::netns::census;
use vswitch::io::tap::{TX_QUEUE_LEN, TapDevice};

use super::lab::{Namespace, can_run};

/// Steps by name and their duration.
type Steps = Vec<(&'static str, Duration)>;

/// `PORTS=1000 cargo test --test tap_root -- --ignored --nocapture making_a_port`.
#[test]
#[ignore = "a measurement of up to a minute, to be run alone"]
fn making_a_port_where_it_belongs_is_cheap() {
    if can_run("making_a_port_where_it_belongs_is_cheap") {
        measure();
    }
}

fn measure() {
    let ports = std::env::var("PORTS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut made = Vec::new();
    let mut all = Vec::new();
    for i in 0..ports {
        let container = Namespace::new();
        let (tap, steps) = make_one(&container, i);
        all.push(steps);
        made.push((tap, container));
    }
    eprintln!("median of 20 in us: {:>51} {:>12}", "first", format!("at {ports}"));
    let (first, last) = (&all[..20], &all[ports - 20..]);
    for step in 0..first[0].len() {
        let of = |all: &[Steps]| median(all.iter().map(|steps| steps[step].1));
        eprintln!("{:58} {:12.0} {:12.0}", first[0][step].0, of(first), of(last));
    }
    let total = |all: &[Steps]| median(all.iter().map(|steps| steps.iter().map(|(_, time)| *time).sum()));
    eprintln!("{:58} {:12.0} {:12.0}", "total", total(first), total(last));
    let start = Instant::now();
    eprintln!("census of {} namespaces: {:?}", census().unwrap().len(), start.elapsed());

    let start = Instant::now();
    for (tap, container) in made {
        container.remove();
        tap.set_persistent(false).unwrap();
    }
    eprintln!("removal of all namespaces: {:?}", start.elapsed());
}

fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Times what lies between two calls of `lap`.
struct Stopwatch {
    mark: Instant,
    steps: Steps,
}

impl Stopwatch {
    fn start() -> Self {
        Self { mark: Instant::now(), steps: Vec::new() }
    }

    fn lap(&mut self, name: &'static str) {
        self.steps.push((name, self.mark.elapsed()));
        self.mark = Instant::now();
    }
}

fn make_one(container: &Namespace, i: usize) -> (TapDevice, Steps) {
    let mut watch = Stopwatch::start();
    let (tap, mut inside) = container.inside(|| (TapDevice::create("eth0").unwrap(), Netlink::open().unwrap()));
    watch.lap("create, open inside");
    let index = inside.link_by_name("eth0").unwrap().unwrap().index;
    watch.lap("find inside");
    inside.change_link(index, &change(i)).unwrap();
    watch.lap("mac, mtu, txqlen");
    configure(&tap, &mut inside, index, i, &mut watch);
    (tap, watch.steps)
}

fn change<'a>(i: usize) -> LinkChange<'a> {
    let [.., a, b] = (i as u32 + 2).to_be_bytes();
    LinkChange {
        mac: Some([2, 66, 10, 9, a, b]),
        mtu: Some(1450),
        txqlen: Some(TX_QUEUE_LEN),
        ipv6_link_local: Some(false),
        ..LinkChange::default()
    }
}

fn configure(tap: &TapDevice, inside: &mut Netlink, index: u32, i: usize, watch: &mut Stopwatch) {
    let [.., a, b] = (i as u32 + 2).to_be_bytes();
    inside.add_addr(index, format!("10.9.{a}.{b}/16").parse().unwrap()).unwrap();
    watch.lap("address");
    inside.set_up(index).unwrap();
    watch.lap("up");
    inside.add_default_route("10.9.0.1".parse().unwrap(), index).unwrap();
    watch.lap("default route");
    tap.set_persistent(true).unwrap();
    watch.lap("persistent");
}
