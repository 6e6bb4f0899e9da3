//! The UDP underlay against the real kernel: another of ours, and the kernel's own `vxlan` interface.
//! Needs root; everything happens in namespaces that each test makes and removes.

mod lab;
#[path = "../namespaces/mod.rs"]
mod namespaces;
mod streams;

use std::net::IpAddr;
use std::time::Duration;

use lab::{Host, VNI, can_run, kernel_vxlan, two_hosts, words};
use streams::{datagrams, stream};
use vswitch::frame::DropReason;
use vswitch::io::udp::UdpUnderlay;
use vswitch::tunnel::RemoteConfig;

fn to(remote: &str) -> RemoteConfig {
    RemoteConfig::new(VNI, remote.parse().unwrap())
}

/// Underlay addresses of both hosts, and the MTU inside on 1500 outside.
const FAMILIES: [(&str, &str, u32); 2] = [("198.18.0.1", "198.18.0.2", 1450), ("2001:db8::1", "2001:db8::2", 1430)];

#[test]
fn containers_of_two_hosts_talk_and_super_frames_arrive() {
    if !can_run("containers_of_two_hosts_talk_and_super_frames_arrive") {
        return;
    }
    for (first, second, mtu) in FAMILIES {
        let (a, b) = two_hosts(1500);
        let here = Host::start(&a, 1, mtu, first, to(second));
        let there = Host::start(&b, 2, mtu, second, to(first));
        for (address, back) in [("10.42.0.2", "10.42.0.1"), ("fd42::2", "fd42::1")] {
            here.container.exec(&words(&format!("ping -c 2 -i 0.1 -W 2 {address}")));
            stream(&here.container, &there.container, address, 32 << 20);
            stream(&there.container, &here.container, back, 8 << 20);
            datagrams(&here.container, &there.container, address, mtu as usize);
        }
        assert!(here.underlay.sends_trains());
        let (here, there) = (here.stop(), there.stop());
        assert!(there.longest > 20_000, "trains became super-frames again: {there:?}");
        assert!(here.dropped.is_empty() && there.dropped.is_empty(), "{here:?} {there:?}");
    }
}

#[test]
fn the_kernels_vxlan_understands_us_and_we_it() {
    if !can_run("the_kernels_vxlan_understands_us_and_we_it") {
        return;
    }
    for (first, second, mtu) in FAMILIES {
        let (a, b) = two_hosts(1500);
        let here = Host::start(&a, 1, mtu, first, to(second));
        kernel_vxlan(&b, second, first, mtu, "");
        for address in ["10.42.0.2", "fd42::2"] {
            here.container.exec(&words(&format!("ping -c 2 -i 0.1 -W 2 {address}")));
            stream(&here.container, &b, address, 16 << 20);
            datagrams(&here.container, &b, address, mtu as usize);
        }
        for address in ["10.42.0.1", "fd42::1"] {
            b.exec(&words(&format!("ping -c 2 -i 0.1 -W 2 {address}")));
            stream(&b, &here.container, address, 16 << 20);
            datagrams(&b, &here.container, address, mtu as usize);
        }
        let totals = here.stop();
        assert!(totals.dropped.is_empty(), "{totals:?}");
    }
}

#[test]
fn every_size_passes_and_none_is_fragmented() {
    if !can_run("every_size_passes_and_none_is_fragmented") {
        return;
    }
    for (under, inner) in [(1500, 1450), (9000, 8950)] {
        let (a, b) = two_hosts(under);
        let here = Host::start(&a, 1, inner, "198.18.0.1", to("198.18.0.2"));
        kernel_vxlan(&b, "198.18.0.2", "198.18.0.1", inner, "");
        here.container.exec(&words("ping -c 1 -W 2 10.42.0.2"));
        for bytes in [0, 1, 17, 18, 19, 100, 512, 1421, 1422, inner - 28] {
            here.container.exec(&words(&format!("ping -c 1 -W 2 -M do -s {bytes} 10.42.0.2")));
        }
        stream(&here.container, &b, "10.42.0.2", 16 << 20);
        stream(&b, &here.container, "10.42.0.1", 16 << 20);
        let fragments = b.exec(&words("nstat -az IpReasmReqds"));
        assert!(fragments.contains("IpReasmReqds                    0"), "{fragments}");
        assert!(here.stop().dropped.is_empty());
    }
}

/// The switch's host may send 1500 bytes, but the next network carries 1300.
#[test]
fn a_narrow_path_is_learned() {
    if !can_run("a_narrow_path_is_learned") {
        return;
    }
    let (a, b) = two_hosts(1500);
    a.ip(&words("route add 203.0.113.0/24 via 198.18.0.2 mtu lock 1300"));
    b.ip(&words("addr add 203.0.113.2/32 dev lo"));
    let here = Host::start(&a, 1, 1450, "198.18.0.1", to("203.0.113.2"));
    kernel_vxlan(&b, "203.0.113.2", "198.18.0.1", 1250, "");
    here.container.exec(&words("ping -c 1 -W 2 -s 1000 10.42.0.2"));
    assert_eq!(here.remote.path_mtu(), None);
    here.container.try_exec(&words("ping -c 1 -W 1 -s 1400 -M do 10.42.0.2"));
    assert_eq!(here.remote.path_mtu(), Some(1250));
    here.container.exec(&words("ping -c 1 -W 2 -s 1222 -M do 10.42.0.2"));
    let totals = here.stop();
    assert_eq!(totals.dropped, [(DropReason::TooBig, 1)]);
}

#[test]
fn a_remote_without_a_route_is_a_named_drop() {
    if !can_run("a_remote_without_a_route_is_a_named_drop") {
        return;
    }
    let (a, _b) = two_hosts(1500);
    let here = Host::start(&a, 1, 1450, "198.18.0.1", to("203.0.113.2"));
    here.container.try_exec(&words("ping -c 1 -W 1 10.42.0.2"));
    let totals = here.stop();
    assert_eq!(totals.sent, 0);
    assert!(totals.dropped.iter().all(|(reason, _)| *reason == DropReason::NoRoute), "{totals:?}");
    assert!(!totals.dropped.is_empty());
}

#[test]
fn what_cannot_be_bound_is_refused_by_name() {
    if !can_run("what_cannot_be_bound_is_refused_by_name") {
        return;
    }
    let (a, _b) = two_hosts(1500);
    a.inside(|| {
        let any: IpAddr = "::".parse().unwrap();
        let underlay = UdpUnderlay::bind(any, 4789).unwrap();
        for taken in ["::", "0.0.0.0", "198.18.0.1", "2001:db8::1"] {
            let error = UdpUnderlay::bind(taken.parse().unwrap(), 4789).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains("4789"), "{error}");
        }
        assert!(underlay.remote(to("198.18.0.2")).is_ok() && underlay.remote(to("2001:db8::2")).is_ok());
        drop(underlay);
        let error = UdpUnderlay::bind("203.0.113.9".parse().unwrap(), 4789).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
        let underlay = namespaces::eventually_ok("the port", || UdpUnderlay::bind("198.18.0.1".parse().unwrap(), 4789));
        let error = underlay.remote(to("2001:db8::2")).unwrap_err();
        assert!(error.to_string().contains("one family"), "{error}");
    });
}

/// What is on the wire, read by somebody else: with the interface's offloads off, so that everything is
/// finished there.
#[test]
fn tshark_finds_nothing_wrong() {
    if !can_run("tshark_finds_nothing_wrong") {
        return;
    }
    for (first, second, mtu) in FAMILIES {
        let (a, b) = two_hosts(1500);
        for host in [&a, &b] {
            host.exec(&words("ethtool -K under0 tx off gro off"));
        }
        let here = Host::start(&a, 1, mtu, first, to(second));
        let there = Host::start(&b, 2, mtu, second, to(first));
        let file = tempfile::Builder::new().suffix(".pcap").tempfile().unwrap();
        let path = file.path().to_str().unwrap();
        // Root's own, so that tcpdump does not have to give up its rights to write it.
        let mut capture = a.spawn(&words(&format!("tcpdump -Z root -U -s 0 -i under0 -w {path} udp")));
        // It writes the file's header when it listens.
        namespaces::eventually("tcpdump", || file.path().metadata().is_ok_and(|about| about.len() >= 24));
        for address in ["10.42.0.2", "fd42::2"] {
            here.container.exec(&words(&format!("ping -c 2 -i 0.1 -W 2 {address}")));
            stream(&here.container, &there.container, address, 1 << 20);
            datagrams(&here.container, &there.container, address, mtu as usize);
        }
        std::thread::sleep(Duration::from_millis(300));
        capture.kill().unwrap();
        capture.wait().unwrap();
        let read = |filter: &str| {
            let check = ["ip", "tcp", "udp"].map(|layer| format!("{layer}.check_checksum:TRUE"));
            let mut args = vec!["-r", path, "-Y", filter];
            check.iter().for_each(|check| args.extend(["-o", check]));
            namespaces::run("tshark", &args)
        };
        assert!(read("vxlan && tcp").lines().count() > 1000);
        let is_bad = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 \
                      || icmp.checksum.status == 0 || icmpv6.checksum.status == 0";
        let bad = read(is_bad);
        assert!(bad.is_empty(), "{}", &bad[..bad.len().min(2000)]);
        assert_eq!(read(&format!("vxlan.vni != {VNI} || !vxlan.flag_i || udp.dstport != 4789")).lines().count(), 0);
        assert_eq!(read("udp.port < 49152 && udp.port != 4789 && udp.dstport == 4789").lines().count(), 0);
        if first == "198.18.0.1" {
            assert!(read("vxlan && icmp && udp.checksum == 0").lines().count() > 0, "single packets have no checksum");
            assert_eq!(read("vxlan && ip.flags.df#1 == 0").lines().count(), 0, "the outer packet is never fragmented");
        }
    }
}
