//! How devices begin and end.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::lab::{
    Namespace, PATIENCE, Raw, Wire, address, assert_all_home, can_run, command, eventually, open, open_with, pattern,
    plug, pool, run, send, wait_readable,
};
use crate::traffic::stream;
use vswitch::bpf::sys::{self, Instruction, Map, MapKind, ProgramKind};
use vswitch::frame::{Burst, DropReason, Frame, Pool};
use vswitch::io::xdp::{Steering, Umems, XdpConfig, XdpDevice, XdpMode};
use vswitch::io::{Device, RxQueue, RxReport, RxStatus, TxQueue, TxReport};

/// What `ip` says of an interface's XDP program.
fn has_program(host: &Namespace, interface: &str) -> bool {
    host.ip(&["-d", "link", "show", interface]).contains("prog/xdp")
}

fn drain(rx: &mut dyn RxQueue, pool: &mut Pool) -> (RxStatus, usize) {
    let mut burst = Burst::new();
    let status = rx.recv(pool, &mut burst, 64, usize::MAX, &mut RxReport::default());
    let count = burst.len();
    pool.free_all(burst);
    (status, count)
}

/// Drains until `count` frames came, which the kernel may hand over a moment after they were sent.
#[track_caller]
fn drain_all(rx: &mut dyn RxQueue, pool: &mut Pool, count: usize) {
    let mut drained = 0;
    eventually("the frames arrive", || {
        drained += drain(rx, pool).1;
        drained >= count
    });
    assert_eq!(drained, count);
}

fn send_patterns(pool: &mut Pool, tx: &mut dyn TxQueue, count: usize, size: usize, sole: bool) -> TxReport {
    let mut frames: Vec<Frame> = (0..count)
        .map(|at| {
            let mut frame = pool.alloc().unwrap();
            frame.copy_from(&pattern(size, at));
            frame
        })
        .collect();
    let report = send(pool, tx, &mut frames, sole);
    pool.free_all(frames);
    assert_eq!(report.sent + report.drops().map(|(_, count)| count).sum::<u32>(), count as u32);
    report
}

#[test]
fn the_program_goes_with_the_device_and_the_interface_is_as_before() {
    if !can_run("the_program_goes_with_the_device_and_the_interface_is_as_before") {
        return;
    }
    let (host, a) = (Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 1500, 1);
    let features = || a.exec(&["ethtool", "-k", "eth0"]);
    let before = features();
    assert!(before.contains("tcp-segmentation-offload: on"));
    let (mut pool, umems) = (pool(), Umems::default());
    let device = open(&host, "va", &pool, &umems);
    assert_eq!((device.mode(), device.home(), device.queues()), (XdpMode::Native, Some(0), 1));
    let refused: Vec<_> = device.refused().iter().map(ToString::to_string).collect();
    assert!(refused.len() == 1 && refused[0].starts_with("zero-copy: the driver has none"), "{refused:?}");
    assert!(has_program(&host, "va") && device.is_attached() && !device.is_gone());
    assert!(features().contains("tcp-segmentation-offload: off"), "the peer sends no super-frames");
    let (rx, tx) = (device.open_rx(&mut pool).unwrap(), device.open_tx(&mut pool).unwrap());
    assert_eq!(device.open_rx(&mut pool).err().map(|error| error.kind()), Some(ErrorKind::ResourceBusy));
    drop((rx, tx, device));
    assert!(!has_program(&host, "va"));
    assert_eq!(features(), before);
}

/// Not a test: the process that [`nothing_is_left_after_kill_9`] kills.
#[test]
fn held_open_by_another_process() {
    let Ok(interface) = std::env::var("XDP_ROOT_HOLD") else { return };
    let pool = pool();
    let device = XdpDevice::open(&XdpConfig::new(&interface, 0), pool.region(), &Umems::default()).unwrap();
    println!("open {}", device.mode());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn nothing_is_left_after_kill_9() {
    if !can_run("nothing_is_left_after_kill_9") {
        return;
    }
    let (host, a) = (Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 9001, 1);
    let before = a.exec(&["ethtool", "-k", "eth0"]);
    let mut child = Command::new("ip")
        .args(["netns", "exec", &host.name])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "life::held_open_by_another_process", "--nocapture"])
        .env("XDP_ROOT_HOLD", "va")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the child opens the port", || has_program(&host, "va"));
    let (mut pool, umems) = (pool(), Umems::default());
    let config = XdpConfig::new("va", 0);
    // The queue is taken, even before the program would be.
    let error = host.inside(|| XdpDevice::open(&config, pool.region(), &umems)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
    assert!(error.to_string().contains("AF_XDP socket of another process"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the program goes", || !has_program(&host, "va"));
    assert_eq!(a.exec(&["ethtool", "-k", "eth0"]), before);
    // The next one takes over, as a daemon that was started again does.
    let device = open(&host, "va", &pool, &umems);
    assert_eq!(device.mode(), XdpMode::Native);
    drop(device);
    assert_all_home(&mut pool);
}

/// A program of somebody else: `instructions` after which it returns what they left in register 0.
fn load(name: &str, instructions: &[(u8, u8, i16, i32)]) -> OwnedFd {
    let instructions: Vec<_> = instructions
        .iter()
        .chain(&[(0x95, 0, 0, 0)])
        .map(|&(code, registers, offset, immediate)| Instruction { code, registers, offset, immediate })
        .collect();
    sys::load(ProgramKind::Xdp, &instructions, c"GPL", sys::XDP_HAS_FRAGS, name).unwrap()
}

/// r0 = XDP_PASS
const PASS: (u8, u8, i16, i32) = (0xb7, 0, 0, 2);

#[test]
fn a_program_of_somebody_else_is_named_and_left_alone() {
    if !can_run("a_program_of_somebody_else_is_named_and_left_alone") {
        return;
    }
    let (host, a) = (Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 1500, 1);
    let (mut pool, umems) = (pool(), Umems::default());
    let program = load("passes_all", &[PASS]);
    assert_eq!(sys::test_run(program.as_fd(), &pattern(60, 0)).unwrap().verdict, 2);
    let info = sys::program_info(program.as_fd()).unwrap();
    for flags in [sys::XDP_DRV_MODE, sys::XDP_SKB_MODE] {
        let link = host.inside(|| {
            let index = rustix::net::netdevice::name_to_index(datagram_socket(), "va");
            sys::attach_xdp(program.as_fd(), index.unwrap(), flags).unwrap()
        });
        for steering in [Steering::NATIVE, Steering::GENERIC, Steering::AUTO] {
            let config = XdpConfig { steering, ..XdpConfig::new("va", 0) };
            let error = host.inside(|| XdpDevice::open(&config, pool.region(), &umems)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
            assert!(error.to_string().contains(&format!("passes_all (id {})", info.id)), "{error}");
            assert!(has_program(&host, "va"));
        }
        drop(link);
    }
    drop(open(&host, "va", &pool, &umems));
    assert_all_home(&mut pool);
}

#[test]
fn a_program_of_somebody_else_can_redirect_to_us() {
    if !can_run("a_program_of_somebody_else_can_redirect_to_us") {
        return;
    }
    let (host, a) = (Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 1500, 1);
    let (mut pool, umems) = (pool(), Umems::default());
    let map = Map::create(MapKind::Xsk, 4, 4, 1, "elsewhere").unwrap();
    let descriptor = map.as_fd().as_raw_fd();
    // bpf_redirect_map(map, context->rx_queue_index, XDP_PASS)
    let program = load(
        "picks_ours",
        &[(0x61, 0x12, 16, 0), (0x18, 0x11, 0, descriptor), (0, 0, 0, 0), (0xb7, 3, 0, 2), (0x85, 0, 0, 51)],
    );
    let index = |name| host.inside(|| rustix::net::netdevice::name_to_index(datagram_socket(), name).unwrap());
    let at = index("va");
    let _link = host.inside(|| sys::attach_xdp(program.as_fd(), at, sys::XDP_DRV_MODE)).unwrap();
    let steering = Steering::Elsewhere { mode: XdpMode::Native };
    let device = open_with(&host, &XdpConfig { steering, ..XdpConfig::new("va", 0) }, &pool, &umems);
    for (queue, socket) in (0_u32..).zip(device.sockets()) {
        map.update(&queue.to_ne_bytes(), &(socket.as_raw_fd() as u32).to_ne_bytes()).unwrap();
    }
    assert!(device.is_attached());
    let (mut rx, raw) = (device.open_rx(&mut pool).unwrap(), Raw::open(&a));
    for at in 0..10 {
        raw.send(&pattern(200, at));
    }
    drain_all(rx.as_mut(), &mut pool, 10);
    rx.close(&mut pool);
    drop((rx, device));
    assert!(has_program(&host, "va"), "theirs stays");
    assert_all_home(&mut pool);
}

fn datagram_socket() -> OwnedFd {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap()
}

#[test]
fn a_detached_program_is_noticed_and_attached_again() {
    if !can_run("a_detached_program_is_noticed_and_attached_again") {
        return;
    }
    if command("bpftool", &["version"]).status.code() != Some(0) {
        eprintln!("a_detached_program_is_noticed_and_attached_again NOT RUN: needs bpftool");
        return;
    }
    let (host, a, b) = (Namespace::with_loopback(), Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 1500, 1);
    plug(&host, &b, "vb", 1500, 1);
    address(&a, 2);
    address(&b, 3);
    let (pool, umems) = (pool(), Umems::default());
    let (one, two) = (open(&host, "va", &pool, &umems), open(&host, "vb", &pool, &umems));
    let wire = Wire::between(pool, &one, &two);
    stream(&a, &b, "10.9.0.3", 1 << 20);

    // The program's id by the interface, the link's by the program.
    let shown = host.ip(&["-d", "link", "show", "va"]);
    let program = shown.split_once("prog/xdp id ").unwrap().1.split_whitespace().next().unwrap().to_owned();
    let links = run("bpftool", &["link", "show"]);
    let link = links.lines().find(|line| line.trim_end().ends_with(&format!("xdp  prog {program}")));
    let id = link.and_then(|line| line.split(':').next()).unwrap_or_else(|| panic!("{links}"));
    run("bpftool", &["link", "detach", "id", id]);
    assert!(!one.is_attached() && two.is_attached() && !has_program(&host, "va"));
    host.inside(|| one.reattach()).unwrap();
    assert!(one.is_attached());
    stream(&a, &b, "fd09::3", 1 << 20);
    let mut pool = wire.stop();
    drop((one, two));
    assert_all_home(&mut pool);
}

#[test]
fn a_removed_interface_is_gone_and_its_memory_comes_home() {
    if !can_run("a_removed_interface_is_gone_and_its_memory_comes_home") {
        return;
    }
    for always_complete in [false, true] {
        let (host, a, b) = (Namespace::with_loopback(), Namespace::with_loopback(), Namespace::with_loopback());
        plug(&host, &a, "va", 1500, 1);
        plug(&host, &b, "vb", 1500, 1);
        let (mut pool, umems) = (pool(), Umems::default());
        let config = XdpConfig { always_complete, ..XdpConfig::new("va", 0) };
        let device = open_with(&host, &config, &pool, &umems);
        let (rx, mut tx) = (device.open_rx(&mut pool).unwrap(), device.open_tx(&mut pool).unwrap());
        let mut rx = [rx];
        assert_eq!(send_patterns(&mut pool, tx.as_mut(), 8, 300, true).sent, 8);
        assert_eq!(drain(rx[0].as_mut(), &mut pool), (RxStatus::Drained, 0));

        host.ip(&["link", "delete", "va"]);
        // The kernel wakes who waits, and then has nothing to tell: poll says nothing of a socket that is not bound.
        assert_eq!(wait_readable(&rx, Duration::from_millis(50)), [PollFlags::empty()]);
        assert!(device.is_gone() && !device.is_attached());
        assert_eq!(drain(rx[0].as_mut(), &mut pool), (RxStatus::Gone, 0));
        let report = send_patterns(&mut pool, tx.as_mut(), 3, 60, true);
        assert_eq!(report.drops().collect::<Vec<_>>(), [(DropReason::PortGone, 3)]);

        // Its socket is not bound any more, so it cannot lend its registration: the next one registers anew.
        let next = open(&host, "vb", &pool, &umems);
        assert_eq!(next.mode(), XdpMode::Native);
        for rx in &mut rx {
            rx.close(&mut pool);
        }
        tx.close(&mut pool);
        drop((rx, tx, device, next));
        assert_all_home(&mut pool);
    }
}

#[test]
fn an_interface_that_is_down_refuses_by_that_reason_and_sends_nothing_later() {
    if !can_run("an_interface_that_is_down_refuses_by_that_reason_and_sends_nothing_later") {
        return;
    }
    let (host, a) = (Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 9001, 1);
    let (mut pool, umems) = (pool(), Umems::default());
    let device = open(&host, "va", &pool, &umems);
    let (mut rx, mut tx) = (device.open_rx(&mut pool).unwrap(), device.open_tx(&mut pool).unwrap());
    let raw = Raw::open(&a);
    assert_eq!(send_patterns(&mut pool, tx.as_mut(), 2, 8000, true).sent, 2);
    for at in 0..2 {
        assert_eq!(raw.recv(PATIENCE), Some(pattern(8000, at)));
    }
    host.ip(&["link", "set", "va", "down"]);
    for sole in [true, false] {
        let report = send_patterns(&mut pool, tx.as_mut(), 40, 8000, sole);
        assert_eq!(report.drops().collect::<Vec<_>>(), [(DropReason::PortDown, 40)]);
    }
    assert_eq!(drain(rx.as_mut(), &mut pool), (RxStatus::Drained, 0), "down is not gone");
    host.ip(&["link", "set", "va", "up"]);
    // The peer without carrier: the kernel takes each packet and drops it.
    a.ip(&["link", "set", "eth0", "down"]);
    let report = send_patterns(&mut pool, tx.as_mut(), 5, 60, true);
    assert_eq!((report.sent, report.drops().collect::<Vec<_>>()), (0, vec![(DropReason::NoBuffer, 5)]));
    a.ip(&["link", "set", "eth0", "up"]);
    let raw = Raw::open(&a);
    assert_eq!(send_patterns(&mut pool, tx.as_mut(), 64, 8000, true).sent, 64);
    for at in 0..64 {
        assert_eq!(raw.recv(PATIENCE), Some(pattern(8000, at)));
    }
    assert_eq!(raw.recv(Duration::from_millis(100)), None, "what was given up did not go out");
    assert_eq!(pool.outstanding(), 0);
    rx.close(&mut pool);
    tx.close(&mut pool);
    drop((rx, tx, device));
    assert_all_home(&mut pool);
}

#[test]
fn queues_are_opened_again_with_what_they_had() {
    if !can_run("queues_are_opened_again_with_what_they_had") {
        return;
    }
    let (host, a) = (Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 1500, 1);
    let (mut pool, umems) = (pool(), Umems::default());
    let device = open(&host, "va", &pool, &umems);
    let raw = Raw::open(&a);
    for round in 0..20 {
        let (mut rx, mut tx) = (device.open_rx(&mut pool).unwrap(), device.open_tx(&mut pool).unwrap());
        for at in 0..30 {
            raw.send(&pattern(60 + at, round));
        }
        drain_all(rx.as_mut(), &mut pool, 30);
        assert_eq!(send_patterns(&mut pool, tx.as_mut(), 30, 700, false).sent, 30);
        assert_eq!(pool.outstanding(), 0);
        rx.close(&mut pool);
        tx.close(&mut pool);
    }
    let mut stranger = Pool::with_chunks(1, 100).unwrap();
    assert_eq!(device.open_rx(&mut stranger).err().map(|error| error.kind()), Some(ErrorKind::InvalidInput));
    drop(device);
    assert_all_home(&mut pool);
}

#[test]
fn ports_come_and_go_under_load() {
    if !can_run("ports_come_and_go_under_load") {
        return;
    }
    let (host, a, b) = (Namespace::with_loopback(), Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 1500, 1);
    plug(&host, &b, "vb", 1500, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let senders = [&a, &b].map(|container| {
        let (raw, stop) = (Raw::open(container), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                raw.send(&pattern(400, 1));
                std::thread::sleep(Duration::from_micros(20));
            }
        })
    });
    let (mut pool, umems) = (pool(), Umems::default());
    let mut received = 0;
    for round in 0..20 {
        let config = |interface| XdpConfig { always_complete: round % 2 == 1, ..XdpConfig::new(interface, 0) };
        let one = open_with(&host, &config("va"), &pool, &umems);
        let two = open_with(&host, &config("vb"), &pool, &umems);
        let wire = Wire::between(pool, &one, &two);
        std::thread::sleep(Duration::from_millis(20));
        let seen = || wire.totals.received.load(Ordering::Relaxed);
        eventually("frames pass", || seen() > 50);
        received += seen();
        // Either device may go first, and before what it lent comes home.
        drop(if round % 3 == 0 { (one, two) } else { (two, one) });
        pool = wire.stop();
        assert_all_home(&mut pool);
    }
    stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(received > 1000, "{received}");
}

#[test]
fn what_the_caller_keeps_is_copied_when_the_kernel_keeps_it_too() {
    if !can_run("what_the_caller_keeps_is_copied_when_the_kernel_keeps_it_too") {
        return;
    }
    let (host, a) = (Namespace::with_loopback(), Namespace::with_loopback());
    plug(&host, &a, "va", 60_000, 1);
    let (mut pool, umems) = (pool(), Umems::default());
    let config = XdpConfig { always_complete: true, ..XdpConfig::new("va", 0) };
    let device = open_with(&host, &config, &pool, &umems);
    let mut tx = device.open_tx(&mut pool).unwrap();
    let raw = Raw::open(&a);
    for sole in [true, false] {
        let mut frames = Vec::new();
        for at in 0..20 {
            let mut frame = pool.alloc().unwrap();
            frame.copy_from(&pattern(50_000, at));
            frames.push(frame);
        }
        assert_eq!(send(&mut pool, tx.as_mut(), &mut frames, sole).sent, 20);
        // Another output of the same frames does what it likes with what it was left.
        for frame in &mut frames {
            frame.data_mut().fill(0xee);
        }
        pool.free_all(frames);
        for at in 0..20 {
            assert!(raw.recv(PATIENCE) == Some(pattern(50_000, at)), "{at}");
        }
    }
    tx.close(&mut pool);
    drop((tx, device));
    assert_all_home(&mut pool);
}

#[test]
fn many_ports_share_one_memory() {
    if !can_run("many_ports_share_one_memory") {
        return;
    }
    let host = Namespace::with_loopback();
    let containers: Vec<_> = (0..24).map(|_| Namespace::with_loopback()).collect();
    let (mut pool, umems) = (pool(), Umems::default());
    for _ in 0..2 {
        let mut devices = Vec::new();
        for (at, container) in containers.iter().enumerate() {
            let name = format!("v{at}");
            if command("ip", &["-n", &host.name, "link", "show", &name]).status.success() {
                host.ip(&["link", "delete", &name]);
            }
            plug(&host, container, &name, 1500, 1);
            devices.push(open(&host, &name, &pool, &umems));
        }
        let mut rx: Vec<_> = devices.iter().map(|device| device.open_rx(&mut pool).unwrap()).collect();
        let mut tx: Vec<_> = devices.iter().map(|device| device.open_tx(&mut pool).unwrap()).collect();
        // From each to the next, in descriptors.
        for at in 0..containers.len() {
            let to = (at + 1) % containers.len();
            let (sender, receiver) = (Raw::open(&containers[at]), Raw::open(&containers[to]));
            sender.send(&pattern(1000, at));
            let mut burst = Burst::new();
            eventually("the frame arrives", || {
                rx[at].recv(&mut pool, &mut burst, 64, usize::MAX, &mut RxReport::default());
                !burst.is_empty()
            });
            assert_eq!(send(&mut pool, tx[to].as_mut(), &mut burst, true).sent, 1);
            assert_eq!(receiver.recv(PATIENCE), Some(pattern(1000, at)));
            pool.free_all(burst);
        }
        // The first one, which registered the memory, goes first.
        for (at, device) in devices.into_iter().enumerate() {
            rx[at].close(&mut pool);
            tx[at].close(&mut pool);
            drop(device);
        }
        drop((rx, tx));
        assert_all_home(&mut pool);
    }
}
