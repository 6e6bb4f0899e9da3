//! TAP devices, namespaces and netlink against the real kernel. Needs root; everything happens in
//! namespaces that each test makes and removes, the "host" being one of them.

#[path = "tap_root/cost.rs"]
mod cost;
#[path = "tap_root/lab.rs"]
mod lab;
mod namespaces;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Instant;

use lab::{Namespace, Wire, add_port, can_run, drain, wait_readable, whole};
use namespaces::{PATIENCE, eventually};
use rustix::event::PollFlags;
use rustix::io::Errno;
use vswitch::control::netlink::{LinkChange, Netlink, NewRoute};
use vswitch::control::netns::{census, holders};
use vswitch::frame::{Burst, DropReason, Pool};
use vswitch::io::tap::{TX_QUEUE_LEN, TapDevice};
use vswitch::io::{Caps, Device, Piece, RxReport, RxStatus, TxReport, Unit};

#[test]
fn two_containers_talk_and_super_frames_cross_whole() {
    if !can_run("two_containers_talk_and_super_frames_cross_whole") {
        return;
    }
    let (host, a, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    let before = host.state();
    let tap_a = add_port(&a, &["10.9.0.2/24", "fd09::2/64"], Some("10.9.0.1"));
    let tap_b = add_port(&b, &["10.9.0.3/24", "fd09::3/64"], Some("10.9.0.1"));
    assert_eq!(tap_a.caps(), Caps::ALL, "this kernel grants all since 6.2");
    let wire = Wire::between(&tap_a, &tap_b);

    a.exec(&["ping", "-c", "2", "-i", "0.1", "-W", "2", "10.9.0.3"]);
    a.exec(&["ping", "-c", "2", "-i", "0.1", "-W", "2", "fd09::3"]);
    for to in ["10.9.0.3", "fd09::3"] {
        stream(&a, &b, to, 16 << 20);
    }
    assert!(wire.longest_frame.load(Ordering::Relaxed) > 32_000, "super-frames crossed whole");

    let (at_a, at_b) = (link(&mut a.netlink()), link(&mut b.netlink()));
    assert!(at_a.up && at_a.carrier);
    assert_eq!(at_a.kind.as_deref(), Some("tun"));
    assert_eq!((at_a.mtu, at_a.txqlen), (1500, TX_QUEUE_LEN));
    let totals = wire.stop();
    assert_eq!(totals.dropped, 0, "{totals:?}");
    assert!(at_b.rx_packets + at_a.rx_packets <= totals.sent);
    assert!(at_b.rx_bytes > 32 << 20, "{at_b:?}");
    assert_eq!((at_a.tx_dropped, at_b.tx_dropped), (0, 0));

    drop((tap_a, tap_b));
    assert!(a.netlink().link_by_name("eth0").unwrap().is_none(), "a TAP that is not persistent goes with its owner");
    assert_eq!(host.state(), before);
}

/// Sends `bytes` patterned bytes from `a` to `to` in `b`, and checks every one of them.
fn stream(a: &Namespace, b: &Namespace, to: &str, bytes: usize) {
    let to: IpAddr = to.parse().unwrap();
    let listener = b.inside(|| TcpListener::bind((to, 5001)).unwrap());
    let receiver = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).unwrap();
        received
    });
    let mut socket = a.inside(|| TcpStream::connect_timeout(&(to, 5001).into(), PATIENCE).unwrap());
    let sent: Vec<u8> = (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    socket.write_all(&sent).unwrap();
    drop(socket);
    assert!(receiver.join().unwrap() == sent, "the stream to {to} arrived changed");
}

fn link(netlink: &mut Netlink) -> vswitch::control::netlink::Link {
    netlink.link_by_name("eth0").unwrap().unwrap()
}

#[test]
fn a_removed_interface_is_noticed_at_once() {
    if !can_run("a_removed_interface_is_noticed_at_once") {
        return;
    }
    let a = Namespace::new();
    let tap = add_port(&a, &["10.9.0.2/24"], None);
    tap.set_persistent(true).unwrap();
    let (mut rx, mut tx) =
        (tap.open_rx(&mut Pool::new(1).unwrap()).unwrap(), tap.open_tx(&mut Pool::new(1).unwrap()).unwrap());
    while drain(rx.as_mut()).1 > 0 {}

    let start = Instant::now();
    let mut netlink = a.netlink();
    let index = link(&mut netlink).index;
    netlink.delete_link(index).unwrap();
    let events = wait_readable([rx.as_ref()].into_iter(), PATIENCE);
    assert!(events[0].contains(PollFlags::ERR), "{events:?}");
    assert!(start.elapsed() < PATIENCE / 3, "woken by the removal, not by the end of the wait: {:?}", start.elapsed());
    assert_eq!(drain(rx.as_mut()), (RxStatus::Gone, 0));
    let (report, _) = send_plain(tx.as_mut());
    assert_eq!(report.drops().collect::<Vec<_>>(), [(DropReason::PortGone, 1)]);
    assert!(tap.set_persistent(false).is_err());
}

#[test]
fn a_persistent_port_survives_its_owner_and_is_attached_again() {
    if !can_run("a_persistent_port_survives_its_owner_and_is_attached_again") {
        return;
    }
    let a = Namespace::new();
    let tap = add_port(&a, &["10.9.0.2/24"], Some("10.9.0.1"));
    tap.set_persistent(true).unwrap();
    let busy = a.inside(|| TapDevice::attach("eth0")).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::ResourceBusy, "{busy}");
    drop(tap);

    let mut netlink = a.netlink();
    let orphan = link(&mut netlink);
    assert!(orphan.up && !orphan.carrier);
    let before = netlink.addrs(Some(orphan.index)).unwrap();

    let tap = a.inside(|| TapDevice::attach("eth0")).unwrap();
    assert!(link(&mut netlink).carrier);
    assert_eq!(tap.caps(), Caps::ALL);
    assert_eq!(netlink.addrs(Some(orphan.index)).unwrap(), before);
    assert!(netlink.routes().unwrap().iter().any(|route| route.is_default() && route.oif == Some(orphan.index)));

    // Attached, the descriptor keeps the namespace: only the census can tell that it is over.
    let id = a.netns().id();
    assert_eq!(holders(id).unwrap().mounts.len(), 1);
    let mut sleeper = std::process::Command::new("ip").args(["netns", "exec", &a.name, "sleep", "30"]).spawn().unwrap();
    eventually("the process is in its namespace", || holders(id).unwrap().processes == [sleeper.id()]);
    drop(netlink);
    a.remove();
    assert_eq!(holders(id).unwrap().processes, [sleeper.id()]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(holders(id).unwrap().is_empty());
    assert!(!census().unwrap().contains_key(&id));
    let mut rx = tap.open_rx(&mut Pool::new(1).unwrap()).unwrap();
    while drain(rx.as_mut()).1 > 0 {}
    assert_eq!(drain(rx.as_mut()).0, RxStatus::Drained, "we keep it alive ourselves");
    tap.set_persistent(false).unwrap();
}

#[test]
fn what_cannot_be_created_or_attached_is_refused_by_name() {
    if !can_run("what_cannot_be_created_or_attached_is_refused_by_name") {
        return;
    }
    let host = Namespace::new();
    let before = host.state();
    host.inside(|| {
        let tap = TapDevice::create("tap0").unwrap();
        tap.set_persistent(true).unwrap();
        let kind = |result: std::io::Result<TapDevice>| result.map(|_| ()).unwrap_err().kind();
        assert_eq!(kind(TapDevice::create("tap0")), ErrorKind::AlreadyExists);
        assert_eq!(kind(TapDevice::create("lo")), ErrorKind::AlreadyExists);
        assert_eq!(kind(TapDevice::create("much-too-long-a-name")), ErrorKind::InvalidInput);
        assert_eq!(kind(TapDevice::attach("tap0")), ErrorKind::ResourceBusy);
        drop(tap);
        assert_eq!(kind(TapDevice::create("tap0")), ErrorKind::AlreadyExists, "a persistent one that nobody has");
        assert_eq!(kind(TapDevice::attach("lo")), ErrorKind::InvalidInput);
        assert_eq!(kind(TapDevice::attach("nothing")), ErrorKind::NotFound);
        let tap = TapDevice::attach("tap0").unwrap();
        tap.set_persistent(false).unwrap();
    });
    assert_eq!(host.state(), before);
}

fn send_plain(tx: &mut dyn vswitch::io::TxQueue) -> (TxReport, usize) {
    let mut pool = Pool::new(1).unwrap();
    let mut burst = Burst::new();
    let mut frame = pool.alloc().unwrap();
    frame.copy_from(&[&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], &[0; 46]].concat());
    burst.push(frame);
    let mut report = TxReport::default();
    let units = [whole(0, &burst)];
    tx.send(&mut pool, &mut burst, &units, &[], &mut report);
    pool.free_all(burst);
    (report, pool.outstanding())
}

#[test]
fn an_interface_that_is_down_refuses_by_that_reason() {
    if !can_run("an_interface_that_is_down_refuses_by_that_reason") {
        return;
    }
    let a = Namespace::new();
    let tap = add_port(&a, &["10.9.0.2/24"], None);
    let (mut rx, mut tx) =
        (tap.open_rx(&mut Pool::new(1).unwrap()).unwrap(), tap.open_tx(&mut Pool::new(1).unwrap()).unwrap());
    let (report, _) = send_plain(tx.as_mut());
    assert_eq!((report.sent, report.bytes), (1, 60));
    let mut netlink = a.netlink();
    let index = link(&mut netlink).index;
    netlink.set_down(index).unwrap();
    let (report, _) = send_plain(tx.as_mut());
    assert_eq!(report.drops().collect::<Vec<_>>(), [(DropReason::PortDown, 1)]);
    assert_eq!(drain(rx.as_mut()).0, RxStatus::Drained);
    netlink.set_up(index).unwrap();
    assert_eq!(send_plain(tx.as_mut()).0.sent, 1);
    assert_eq!(tap.caps(), Caps::ALL);
}

#[test]
fn bursts_end_at_their_limits_and_at_an_empty_pool() {
    if !can_run("bursts_end_at_their_limits_and_at_an_empty_pool") {
        return;
    }
    let a = Namespace::new();
    let tap = add_port(&a, &["10.9.0.2/24"], None);
    let mut rx = tap.open_rx(&mut Pool::new(1).unwrap()).unwrap();
    while drain(rx.as_mut()).1 > 0 {}
    // Nobody answers ARP for it, so give the kernel a neighbour: 12 echo requests of 1042 bytes.
    a.exec(&["ip", "neighbour", "add", "10.9.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0"]);
    a.try_exec(&["ping", "-q", "-c", "12", "-i", "0.002", "-W", "1", "-s", "1000", "10.9.0.9"]);

    let mut pool = Pool::new(6).unwrap();
    let mut report = RxReport::default();
    let mut take = |frames_max, bytes_max| {
        let mut burst = Burst::new();
        let status = rx.recv(&mut pool, &mut burst, frames_max, bytes_max, &mut report);
        let count = burst.len();
        assert!(burst.iter().all(|frame| frame.len() == 1042));
        pool.free_all(burst);
        (status, count)
    };
    assert_eq!(take(3, usize::MAX), (RxStatus::More, 3));
    assert_eq!(take(64, 1500), (RxStatus::More, 2), "the frame that crosses the limit is kept");
    assert_eq!(take(64, usize::MAX), (RxStatus::More, 6), "the pool is empty");
    assert_eq!(take(64, usize::MAX), (RxStatus::Drained, 1));
    assert_eq!((report.malformed, report.runt), (0, 0));
}

#[test]
fn a_unit_of_pieces_arrives_as_one_frame() {
    if !can_run("a_unit_of_pieces_arrives_as_one_frame") {
        return;
    }
    let a = Namespace::new();
    let tap = add_port(&a, &["10.9.0.2/24"], None);
    let socket = a.inside(|| UdpSocket::bind("10.9.0.2:7000").unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();

    // 224 bytes of UDP from 10.9.0.9: without a UDP checksum, with the IPv4 header's.
    let mut mac = [0; 6];
    mac.copy_from_slice(&link(&mut a.netlink()).mac.unwrap());
    let mut ip = [0x45, 0, 0, 238, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 9, 10, 9, 0, 2];
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let udp = [0x1f, 0x40, 0x1b, 0x58, 0, 218, 0, 0];
    let head = [&mac[..], &[2, 0, 0, 0, 0, 9], &[8, 0], &ip, &udp, &[7; 100]].concat();

    let (mut pool, mut burst) = (Pool::new(3).unwrap(), Burst::new());
    for bytes in [head, vec![8; 50], vec![9; 70]] {
        let mut frame = pool.alloc().unwrap();
        frame.copy_from(&bytes);
        burst.push(frame);
    }
    let pieces = [Piece { frame: 9, offset: 9 }, Piece { frame: 1, offset: 10 }, Piece { frame: 2, offset: 0 }];
    let unit = Unit { frame: 0, first_piece: 1, pieces_count: 2, offload: burst[0].offload, sole: true };
    let mut report = TxReport::default();
    tap.open_tx(&mut Pool::new(1).unwrap()).unwrap().send(&mut pool, &mut burst, &[unit], &pieces, &mut report);
    assert_eq!((report.sent, report.bytes), (1, 14 + 20 + 8 + 100 + 40 + 70));
    pool.free_all(burst);
    let mut received = [0; 300];
    let bytes = socket.recv(&mut received).unwrap();
    assert_eq!(received[..bytes], [&[7; 100][..], &[8; 40], &[9; 70]].concat());
}

#[test]
fn netlink_sees_and_changes_what_ip_sees() {
    if !can_run("netlink_sees_and_changes_what_ip_sees") {
        return;
    }
    let a = Namespace::new();
    let tap = add_port(&a, &["10.9.0.2/24"], Some("10.9.0.1"));
    let mut netlink = a.netlink();
    let index = link(&mut netlink).index;

    // No IPv6 address was asked for: the kernel must not make one up and announce it.
    let addrs = netlink.addrs(Some(index)).unwrap();
    assert_eq!(addrs.iter().map(|a| a.net.to_string()).collect::<Vec<_>>(), ["10.9.0.2/24"]);
    let mut rx = tap.open_rx(&mut Pool::new(1).unwrap()).unwrap();
    assert_eq!(drain(rx.as_mut()), (RxStatus::Drained, 0), "and it says nothing of its own accord");

    // Also not where the interface comes up in the same breath.
    let bring_up = |on| LinkChange { up: Some(true), ipv6_link_local: Some(on), ..LinkChange::default() };
    netlink.set_down(index).unwrap();
    netlink.change_link(index, &bring_up(false)).unwrap();
    assert_eq!(netlink.addrs(Some(index)).unwrap().len(), 1);
    netlink.set_down(index).unwrap();
    netlink.change_link(index, &bring_up(true)).unwrap();
    assert!(netlink.addrs(Some(index)).unwrap().iter().any(|a| a.net.to_string().starts_with("fe80::")));

    netlink.set_mac(index, [2, 66, 10, 9, 0, 2]).unwrap();
    netlink.set_mtu(index, 9000).unwrap();
    netlink.set_txqlen(index, 77).unwrap();
    netlink.rename(index, "web0").unwrap();
    let shown = a.exec(&["ip", "link", "show", "dev", "web0"]);
    for text in ["02:42:0a:09:00:02", "mtu 9000", "qlen 77"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    assert!(netlink.links().unwrap().iter().any(|link| link.name == "web0" && link.mtu == 9000));
    assert_eq!(netlink.link_by_index(index).unwrap().unwrap().name, "web0");
    assert_eq!(netlink.link_by_name("eth0").unwrap(), None);

    let net = "10.77.0.0/16".parse().unwrap();
    netlink
        .add_route(&NewRoute { dst: net, gateway: Some("10.9.0.7".parse().unwrap()), oif: index, metric: None })
        .unwrap();
    let on_link = "10.78.0.0/16".parse().unwrap();
    netlink.add_route(&NewRoute { dst: on_link, gateway: None, oif: index, metric: Some(5) }).unwrap();
    let again =
        netlink.add_route(&NewRoute { dst: net, gateway: Some("10.9.0.7".parse().unwrap()), oif: index, metric: None });
    assert_eq!(again.unwrap_err().errno(), Some(Errno::EXIST));
    let reserved: Vec<_> = netlink.routes().unwrap().iter().filter(|r| r.reserves()).map(|r| r.dst).collect();
    for net in ["10.77.0.0/16", "10.78.0.0/16", "10.9.0.0/24", "10.9.0.2/32"] {
        assert!(reserved.contains(&net.parse().unwrap()), "{net}: {reserved:?}");
    }
    assert!(reserved.iter().all(|net| net.prefix_len() > 0));

    let neighbour: IpAddr = "10.9.0.50".parse().unwrap();
    a.exec(&["ip", "neighbour", "add", "10.9.0.50", "lladdr", "02:00:00:00:00:50", "dev", "web0", "nud", "stale"]);
    a.exec(&["ip", "neighbour", "add", "10.9.0.51", "lladdr", "02:00:00:00:00:51", "dev", "web0", "nud", "permanent"]);
    assert!(netlink.flush_neighbour(index, neighbour).unwrap());
    assert!(!netlink.flush_neighbour(index, neighbour).unwrap());
    assert!(!netlink.flush_neighbour(index, "10.9.0.51".parse().unwrap()).unwrap(), "configured entries stay");
    assert!(a.exec(&["ip", "neighbour", "show"]).contains("10.9.0.51"));

    let dup = netlink.add_addr(index, "10.9.0.2/24".parse().unwrap()).unwrap_err();
    assert_eq!(dup.errno(), Some(Errno::EXIST), "{dup}");
    let mtu = netlink.set_mtu(index, 100_000).unwrap_err();
    assert!(mtu.to_string().contains("mtu 100000") && mtu.to_string().contains("maximum"), "the kernel's words: {mtu}");
    netlink.del_addr(index, "10.9.0.2/24".parse().unwrap()).unwrap();
    assert!(netlink.addrs(Some(index)).unwrap().iter().all(|address| address.net.addr().is_ipv6()));
    let small = LinkChange { mtu: Some(576), ipv6_link_local: Some(false), ..LinkChange::default() };
    netlink.change_link(index, &small).unwrap();
    netlink.change_link(index, &LinkChange { ipv6_link_local: Some(false), ..LinkChange::default() }).unwrap();
    netlink.delete_link(index).unwrap();
    assert_eq!(netlink.delete_link(index).unwrap_err().errno(), Some(Errno::NODEV));
    assert_eq!(drain(rx.as_mut()).0, RxStatus::Gone);
}
