//! The threads: traffic in all directions while the configuration changes under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vswitch::datapath::{Datapath, DatapathConfig, Event};
use vswitch::frame::DropReason;
use vswitch::io::Caps;
use vswitch::io::mem::MemDevice;
use vswitch::nat::conntrack::Conntrack;
use vswitch::snapshot::PortId;

use crate::fixture::{BROADCAST, P0, P1, P2, Topology, frame, frame_of, mac};
use crate::probe::Probe;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn start(workers: usize) -> Arc<Datapath> {
    let config = DatapathConfig { workers, pool_frames: 128, ..DatapathConfig::default() };
    Arc::new(Datapath::start(config, Arc::new(Conntrack::in_memory(0).unwrap())).unwrap())
}

fn device() -> MemDevice {
    MemDevice::new(Caps::ALL).with_event_fd().unwrap()
}

/// Waits until something holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Stops the threads and asserts that every frame is accounted for.
fn stop(datapath: &Datapath) {
    datapath.stop();
    assert_eq!(datapath.totals().unexplained(), 0, "{:?}", datapath.totals());
    for worker in datapath.worker_counters() {
        assert_eq!(worker.frames_outstanding, 0);
    }
}

/// A linear congruential generator: the same history every time, as far as threads allow.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// The stations that stay, one on each of the first ports.
const STATIONS: u16 = 4;
/// How many frames each of them sends to each other one.
const FLOW_FRAMES: u32 = 4000;

fn station(port: u16) -> [u8; 6] {
    mac(port as u8 + 1)
}

/// Sends what every station has for every other one, in order.
fn send_all(devices: &[MemDevice]) {
    for number in 0..FLOW_FRAMES {
        for from in 0..STATIONS {
            for to in (0..STATIONS).filter(|&to| to != from) {
                let mut payload = [0; 46];
                payload[..4].copy_from_slice(&number.to_be_bytes());
                devices[usize::from(from)].inject(frame_of(station(to), station(from), None, &payload));
            }
        }
        // Roughly as fast as they are forwarded, so that the traffic lasts as long as the changes.
        if number % 16 == 0 {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Adds and removes a port, time and again; its queues must be closed when that is said to be seen.
struct Churn {
    port: PortId,
    attached: Option<(MemDevice, Arc<()>)>,
    removals: u32,
}

impl Churn {
    fn turn(&mut self, datapath: &Datapath, topology: &mut Topology, dice: &mut Dice) {
        if let Some((device, alive)) = self.attached.take() {
            topology.detach(self.port);
            datapath.wait_seen(datapath.publish(topology.snapshot()));
            assert_eq!(Arc::strong_count(&alive), 1, "a queue of the removed port is still open");
            datapath.retire_port_counters(self.port);
            assert_eq!(datapath.port_counters(self.port), vec![Default::default(); 2]);
            // Nobody reads it any more.
            device.inject(frame(BROADCAST, mac(200)));
            self.removals += 1;
        } else {
            let device = device();
            let probe = Probe::new(device.clone());
            topology.replace(self.port, 0, device.clone());
            let alive = probe.alive();
            let entry = topology.port(self.port);
            entry.reader = Some(dice.below(2) as u16);
            entry.device = Arc::new(probe);
            datapath.publish(topology.snapshot());
            for _ in 0..dice.below(20) {
                device.inject(frame(BROADCAST, mac(100 + self.port.0 as u8)));
            }
            self.attached = Some((device, alive));
        }
    }
}

#[test]
fn changes_under_traffic_lose_and_reorder_nothing() {
    let datapath = start(2);
    assert_eq!(datapath.workers(), 2);
    let mut topology = Topology::new(1);
    let devices: Vec<_> = (0..STATIONS + 2).map(|_| device()).collect();
    for device in &devices {
        topology.attach(0, device.clone());
    }
    for port in 0..STATIONS {
        topology.bridges[0].fdb.insert_static(station(port), 0, PortId(port), 0);
        topology.port(PortId(port)).reader = Some(port % 2);
    }
    let mut churns: Vec<_> =
        (STATIONS..STATIONS + 2).map(|port| Churn { port: PortId(port), attached: None, removals: 0 }).collect();
    churns.iter().for_each(|churn| topology.detach(churn.port));
    datapath.wait_seen(datapath.publish(topology.snapshot()));

    let done = Arc::new(AtomicBool::new(false));
    let sender = {
        let (devices, done) = (devices.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            send_all(&devices);
            done.store(true, Ordering::Relaxed);
        })
    };
    let (mut dice, mut moves) = (Dice(42), 0);
    while !done.load(Ordering::Relaxed) {
        match dice.below(4) {
            0 => churns[dice.below(2)].turn(&datapath, &mut topology, &mut dice),
            1 => {
                // Nothing of the datapath changes, but every decision must be made again.
                datapath.publish(topology.snapshot());
            }
            _ => {
                let port = PortId(dice.below(usize::from(STATIONS)) as u16);
                let reader = topology.port(port).reader.unwrap();
                topology.port(port).reader = None;
                datapath.wait_seen(datapath.publish(topology.snapshot()));
                topology.port(port).reader = Some(1 - reader);
                datapath.publish(topology.snapshot());
                moves += 1;
            }
        }
    }
    sender.join().unwrap();
    for churn in &mut churns {
        if churn.attached.is_some() {
            churn.turn(&datapath, &mut topology, &mut dice);
        }
    }
    assert!(moves > 20 && churns.iter().all(|churn| churn.removals > 2), "{moves} moves: too few to show anything");

    // Every frame of every flow, once and in order.
    let expected = u64::from(STATIONS * (STATIONS - 1)) * u64::from(FLOW_FRAMES);
    let mut sent: Vec<Vec<Vec<u8>>> = vec![Vec::new(); usize::from(STATIONS)];
    wait_for("all frames forwarded", || {
        for (sent, device) in sent.iter_mut().zip(&devices) {
            let unicast = device.take_sent().into_iter().map(|frame| frame.bytes).filter(|bytes| bytes[0] & 1 == 0);
            sent.extend(unicast);
        }
        sent.iter().map(Vec::len).sum::<usize>() as u64 >= expected
    });
    for (to, sent) in sent.iter().enumerate() {
        for from in (0..STATIONS).filter(|&from| usize::from(from) != to) {
            let of_flow = sent.iter().filter(|bytes| bytes[6..12] == station(from));
            let numbers = of_flow.map(|bytes| u32::from_be_bytes(bytes[14..18].try_into().unwrap()));
            assert!(numbers.eq(0..FLOW_FRAMES), "from {from} to {to}: lost, doubled or out of order");
        }
    }
    stop(&datapath);
    let totals = datapath.totals();
    assert!(totals.rx_frames >= expected);
    // Only the port that comes and goes can have lost anything: frames that were on their way.
    for (&reason, count) in DropReason::ALL.iter().zip(totals.drops) {
        assert!(count == 0 || reason == DropReason::PortDetached, "{count} drops: {}", reason.name());
    }
}

#[test]
fn frames_of_a_port_that_was_replaced_do_not_reach_its_successors_bridge() {
    let datapath = start(1);
    let mut topology = Topology::new(2);
    let old = device();
    let probe = Probe::new(old.clone());
    for (bridge, device) in [(0, old.clone()), (0, device()), (1, device())] {
        topology.attach(bridge, device);
    }
    topology.port(P0).device = Arc::new(probe.clone());
    datapath.wait_seen(datapath.publish(topology.snapshot()));

    // Between reception and processing the id becomes a port of the other bridge.
    topology.replace(P0, 1, device());
    let (snapshot, publisher) = (topology.snapshot(), Arc::downgrade(&datapath));
    probe.when_received(move || {
        publisher.upgrade().unwrap().publish(snapshot);
    });
    old.inject(frame(BROADCAST, mac(1)));
    wait_for("the frame processed", || datapath.totals().dropped() == 1);
    assert_eq!(datapath.totals().drops[DropReason::PortDetached as usize], 1);
    for port in [P0, P1, P2] {
        assert!(topology.device(port).take_sent().is_empty(), "port {port} got it");
    }
    assert!(topology.bridges.iter().all(|bridge| bridge.fdb.is_empty()), "and nothing was learned");
    stop(&datapath);
}

#[test]
fn a_snapshot_is_seen_only_when_the_burst_in_hand_is_sent() {
    let datapath = start(1);
    let mut topology = Topology::new(1);
    topology.attach(0, device());
    topology.attach(0, device());
    let source = device();
    let (from, to) = (Probe::new(source.clone()), Probe::new(device()));
    topology.port(P0).device = Arc::new(from.clone());
    topology.port(P1).device = Arc::new(to.clone());
    datapath.wait_seen(datapath.publish(topology.snapshot()));

    // The reader is to change between reception and processing; whoever waits for that to be seen
    // would start the next reader.
    topology.port(P0).reader = None;
    let (snapshot, publisher) = (topology.snapshot(), Arc::clone(&datapath));
    let seen = Arc::new(AtomicBool::new(false));
    let (waiter, seen_by_waiter) = crossbeam_channel::bounded(1);
    let flag = Arc::clone(&seen);
    from.when_received(move || {
        let generation = publisher.publish(snapshot);
        let thread = std::thread::spawn(move || {
            publisher.wait_seen(generation);
            flag.store(true, Ordering::Relaxed);
        });
        waiter.send(thread).unwrap();
    });
    let (flag, sent_before) = (Arc::clone(&seen), Arc::new(AtomicBool::new(false)));
    let outcome = Arc::clone(&sent_before);
    to.when_sending(move || {
        std::thread::sleep(Duration::from_millis(100));
        outcome.store(!flag.load(Ordering::Relaxed), Ordering::Relaxed);
    });
    source.inject(frame(BROADCAST, mac(1)));
    seen_by_waiter.recv_timeout(DEADLINE).unwrap().join().unwrap();
    assert!(sent_before.load(Ordering::Relaxed), "the next reader could have overtaken");
    assert_eq!(datapath.totals().tx_frames, 1);
    stop(&datapath);
}

#[test]
fn a_reader_that_disappears_is_told_by_the_thread() {
    let datapath = start(2);
    let mut topology = Topology::new(1);
    let devices = [device(), device()];
    for (reader, device) in devices.iter().enumerate() {
        let port = topology.attach(0, device.clone());
        topology.port(port).reader = Some(reader as u16);
    }
    datapath.wait_seen(datapath.publish(topology.snapshot()));
    assert_eq!(datapath.worker_counters().iter().map(|worker| worker.ports).collect::<Vec<_>>(), [1, 1]);
    let events = datapath.events();
    devices[1].vanish();
    assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::PortGone { port: P1, incarnation: 2 }));
    devices[0].inject(frame(BROADCAST, mac(1)));
    wait_for("the frame dropped", || datapath.totals().drops[DropReason::PortGone as usize] == 1);
    assert_eq!(datapath.port_counters(P1)[0].drops[DropReason::PortGone as usize], 1, "by the worker that had it");
    stop(&datapath);
    assert!(events.try_recv().is_err(), "told once");
}

#[test]
fn injected_frames_reach_the_ports_and_the_totals() {
    let datapath = start(2);
    let mut topology = Topology::new(1);
    for _ in 0..3 {
        topology.attach(0, device());
    }
    datapath.wait_seen(datapath.publish(topology.snapshot()));
    datapath.inject(P0, frame(BROADCAST, mac(1)));
    wait_for("the frame forwarded", || datapath.totals().tx_frames == 2);
    assert_eq!(topology.device(P1).take_sent().len(), 1);
    assert_eq!(topology.bridges[0].fdb.lookup(mac(1), 0), Some(P0));
    stop(&datapath);
    assert_eq!(datapath.totals().rx_frames, 1);
}

#[test]
fn an_idle_switch_sleeps_and_a_stopped_one_lets_go() {
    let datapath = start(2);
    let mut topology = Topology::new(1);
    let probe = Probe::new(device());
    let alive = probe.alive();
    topology.attach(0, device());
    topology.port(P0).device = Arc::new(probe);
    datapath.wait_seen(datapath.publish(topology.snapshot()));
    let sleeps = || datapath.worker_counters().iter().map(|worker| worker.sleeps).sum::<u64>();
    // Once they sleep they stay asleep: the count does not change until somebody wakes them.
    wait_for("asleep", || {
        let before = sleeps();
        std::thread::sleep(Duration::from_millis(50));
        before >= 2 && sleeps() == before
    });
    drop(topology);
    stop(&datapath);
    stop(&datapath);
    // A stopped datapath has seen everything, so nobody waits for it in vain.
    let generation = datapath.publish(Default::default());
    datapath.wait_seen(generation);
    assert_eq!(Arc::strong_count(&alive), 1, "all queues are closed");
}

#[test]
fn frames_for_another_workers_device_are_handed_over() {
    let datapath = start(2);
    let mut topology = Topology::new(1);
    let source = device();
    let home = MemDevice::new(Caps::ALL).with_event_fd().unwrap().with_home(1);
    topology.attach(0, source.clone());
    topology.attach(0, home.clone());
    topology.port(P1).reader = Some(1);
    datapath.wait_seen(datapath.publish(topology.snapshot()));
    // Learned, so that frames to it are not floods.
    home.inject(frame(BROADCAST, mac(2)));
    wait_for("the broadcast", || source.sent_frames() == 1);
    for number in 0..500u16 {
        source.inject(frame_of(mac(2), mac(1), None, &number.to_be_bytes().repeat(23)));
    }
    wait_for("all frames at their home, in order", || home.sent_frames() == 500);
    let sent = home.take_sent();
    assert!(sent.iter().zip(0u16..).all(|(frame, number)| frame.bytes[14..16] == number.to_be_bytes()));
    assert_eq!(datapath.worker_counters()[0].ports + datapath.worker_counters()[1].ports, 2);
    stop(&datapath);
}
