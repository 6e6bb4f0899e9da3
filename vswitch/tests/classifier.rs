//! The classifier in the kernel, as a tc and as an XDP program, against the model of its rules. Needs root; touches no
//! interface.

#[path = "classifier/both.rs"]
mod both;
#[path = "classifier/corpus.rs"]
mod corpus;
#[path = "classifier/generate.rs"]
mod generate;
mod namespaces;
#[path = "classifier/packets.rs"]
mod packets;
#[path = "classifier/test_run.rs"]
mod test_run;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use both::Both;
use corpus::corpus;
use generate::{HOST4, HOST6, PEER4, PEER6, ROUTED4, ROUTED6};
use namespaces::can_run;
use packets::{Extension, V4, frame, ip, ipv4, ipv6, tcp, udp};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use vswitch::bpf::sys::{self, Instruction, ProgramKind};
use vswitch::bpf::{Counter, Flow, HostAddresses, Program, Protocol};

fn v4() -> (IpAddr, IpAddr) {
    (PEER4.into(), HOST4[0].into())
}

fn v6() -> (IpAddr, IpAddr) {
    (PEER6.into(), HOST6[0].into())
}

/// A host with something of everything.
fn host() -> Both {
    let mut both = Both::new();
    both.set_local_addresses(&[HOST4[0].into(), HOST4[1].into(), HOST6[0].into(), HOST6[1].into()]);
    both.publish(Protocol::Tcp, None, 80..=80);
    both.publish(Protocol::Udp, HostAddresses::AllIpv4, 80..=80);
    both.publish(Protocol::Udp, HostAddresses::AllIpv6, 80..=80);
    both.publish(Protocol::Sctp, None, 80..=80);
    both.publish(Protocol::Tcp, Some(HOST4[1].into()), 443..=443);
    both.publish(Protocol::Tcp, Some(HOST6[1].into()), 443..=443);
    both.set_routed_networks(&[ROUTED4.parse().unwrap(), ROUTED6.parse().unwrap()]);
    both.set_vxlan_ports(&[(None, 4789)]);
    for flow in Flow::ALL {
        for ipv6 in [false, true] {
            both.translate(flow, ipv6, 40000, true);
        }
    }
    both
}

#[test]
fn each_kind_of_packet_is_taken_by_its_rule() {
    if !can_run("each_kind_of_packet_is_taken_by_its_rule") {
        return;
    }
    let mut both = host();
    for (name, frame, rule) in corpus() {
        let taken = both.check(&frame).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(taken, rule, "{name}");
    }
}

#[test]
fn a_packet_cut_anywhere_is_classified_alike() {
    if !can_run("a_packet_cut_anywhere_is_classified_alike") {
        return;
    }
    let mut both = host();
    for (name, frame, _) in corpus() {
        for length in 14..frame.len().min(300) {
            both.check(&frame[..length]).unwrap_or_else(|why| panic!("{name}, {length} bytes: {why}"));
            // The same with the length field of the IP header made to fit: a packet that really ends there.
            let mut short = frame[..length].to_vec();
            let (at, bytes) =
                if short[12..14] == [0x86, 0xdd] { (18, length.wrapping_sub(54)) } else { (16, length - 14) };
            if short.len() > at + 2 {
                short[at..at + 2].copy_from_slice(&(bytes as u16).to_be_bytes());
                both.check(&short).unwrap_or_else(|why| panic!("{name}, {length} bytes, length set: {why}"));
            }
        }
    }
}

#[test]
fn fragments_follow_their_first() {
    if !can_run("fragments_follow_their_first") {
        return;
    }
    use Counter::{LaterFragment, Passed, Published};
    let mut both = host();
    let v4 = |identification, offset, more, port| {
        let header = V4 { source: PEER4, destination: HOST4[0], options: 0, identification, offset, more };
        frame(&ipv4(&header, 17, &udp(9, port, &[0; 64])))
    };
    let v6 = |identification: u16, offset, more, port| {
        let fragment = Extension::Fragment { offset, more, identification: u32::from(identification) << 8 };
        frame(&ipv6(PEER6, HOST6[0], &[Extension::Destination(0), fragment], 17, &udp(9, port, &[0; 64])))
    };
    type Make = dyn Fn(u16, u16, bool, u16) -> Vec<u8>;
    for make in [&v4 as &Make, &v6] {
        let mut step = |identification, offset, more, port, rule| {
            assert_eq!(both.check(&make(identification, offset, more, port)).unwrap(), rule);
        };
        step(1, 9, true, 80, Passed); // overtook its first
        step(1, 0, true, 80, Published);
        step(1, 9, true, 22, LaterFragment); // what looks like ports is data
        step(1, 18, false, 22, LaterFragment);
        step(2, 9, false, 80, Passed); // another packet's
        step(2, 0, true, 22, Passed); // the host's
        step(2, 9, false, 80, Passed);
        step(1, 0, true, 22, Passed); // the identification comes round again, for the host
        step(1, 9, false, 22, Passed);
        step(3, 0, true, 80, Published);
        both.pass_time(Duration::from_secs(29));
        assert_eq!(both.check(&make(3, 9, true, 0)).unwrap(), LaterFragment);
        both.pass_time(Duration::from_secs(1));
        assert_eq!(both.check(&make(3, 9, true, 0)).unwrap(), Passed);
        assert_eq!(both.check(&make(3, 0, true, 80)).unwrap(), Published);
        assert_eq!(both.check(&make(3, 9, false, 0)).unwrap(), LaterFragment);
    }
    // Of an IPv6 packet, only the first fragment's next header counts.
    let later = Extension::Fragment { offset: 4, more: false, identification: 3 << 8 };
    assert_eq!(both.check(&frame(&ipv6(PEER6, HOST6[0], &[later], 6, &[0; 40]))).unwrap(), LaterFragment);
    // Tiny first fragments (RFC 1858).
    let header = V4 { source: PEER4, destination: HOST4[0], options: 0, identification: 8, offset: 0, more: true };
    assert_eq!(both.check(&frame(&ipv4(&header, 6, &tcp(9, 80, &[])[..16]))).unwrap(), Passed);
    assert_eq!(both.check(&frame(&ipv4(&V4 { offset: 2, ..header }, 6, &[0; 40]))).unwrap(), Passed);
}

/// Each program on frames in a row, because to withhold a fragment changes what becomes of the next one.
#[test]
fn fragments_that_overtake_the_first_are_withheld() {
    if !can_run("fragments_that_overtake_the_first_are_withheld") {
        return;
    }
    use Counter::{LaterFragment, Passed, Published, Undecided};
    type Make = dyn Fn(u16, u16, bool, u16) -> Vec<u8>;
    let v4 = |identification, offset, more, port| {
        let header = V4 { source: PEER4, destination: HOST4[0], options: 0, identification, offset, more };
        frame(&ipv4(&header, 17, &udp(9, port, &[0; 64])))
    };
    let v6 = |identification: u16, offset, more, port| {
        let fragment = Extension::Fragment { offset, more, identification: u32::from(identification) << 8 };
        frame(&ipv6(PEER6, HOST6[0], &[fragment], 17, &udp(9, port, &[0; 64])))
    };
    for (program, make) in [(Program::Tc, &v4 as &Make), (Program::Tc, &v6), (Program::Xdp, &v4), (Program::Xdp, &v6)] {
        let mut both = host();
        let name = program.name();
        // Test runs come in through the loopback interface of the thread's namespace.
        both.withhold_fragments(1, 1000);
        let step = |both: &mut Both, frame: &[u8], rule| {
            let taken = both.step(program, frame).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(taken, rule, "{name}");
        };
        step(&mut both, &make(1, 18, false, 0), Undecided);
        step(&mut both, &make(1, 9, true, 0), Undecided);
        step(&mut both, &make(1, 0, true, 80), Published);
        step(&mut both, &make(1, 27, true, 0), LaterFragment);
        // The host's: the first one goes along, and nothing after it.
        step(&mut both, &make(2, 9, true, 0), Undecided);
        step(&mut both, &make(2, 0, true, 22), Undecided);
        step(&mut both, &make(2, 18, false, 0), Passed);
        step(&mut both, &make(2, 9, true, 0), Passed);
        step(&mut both, &make(2, 0, true, 22), Passed);
        // In order nothing of the host's is withheld.
        step(&mut both, &make(3, 0, true, 22), Passed);
        step(&mut both, &make(3, 9, true, 0), Passed);
        step(&mut both, &make(3, 18, false, 0), Passed);
        // The identification comes round again.
        step(&mut both, &make(3, 0, true, 80), Published);
        step(&mut both, &make(3, 9, true, 0), LaterFragment);
        step(&mut both, &make(1, 0, true, 22), Undecided);
        step(&mut both, &make(1, 0, true, 22), Passed);
        both.pass_time(Duration::from_secs(30));
        step(&mut both, &make(3, 9, true, 0), Undecided);
        // Not to others, not with the mark that the switch goes by, and not more than so many.
        let mut marked = make(4, 9, true, 0);
        marked[6] |= 1;
        step(&mut both, &marked, Passed);
        both.withhold_fragments(1, 0);
        both.model.withholds = false;
        step(&mut both, &make(7, 9, true, 0), Passed);
        both.classifier.pass_fragments(1);
        step(&mut both, &make(8, 9, true, 0), Passed);
    }
}

#[test]
fn what_is_taken_changes_with_the_maps() {
    if !can_run("what_is_taken_changes_with_the_maps") {
        return;
    }
    use Counter::{Passed, Published, Translated, Vxlan};
    let mut both = Both::new();
    let (peer, host) = v4();
    let (peer6, host6) = v6();
    let web = frame(&ip(peer, host, 6, &tcp(9, 80, &[])));
    let web6 = frame(&ip(peer6, host6, 6, &tcp(9, 80, &[])));
    let tunnel = frame(&ip(peer, host, 17, &udp(9, 4789, &[])));
    let rules = |both: &mut Both| [&web, &web6, &tunnel].map(|frame| both.check(frame).unwrap());

    both.publish(Protocol::Tcp, None, 80..=80);
    assert_eq!(rules(&mut both), [Passed; 3], "it has no address yet");
    both.set_local_addresses(&[host, host6]);
    assert_eq!(rules(&mut both), [Published, Published, Passed]);
    both.publish(Protocol::Tcp, Some(host), 80..=80);
    both.unpublish(Protocol::Tcp, None, 80..=80);
    assert_eq!(rules(&mut both), [Published, Passed, Passed]);
    both.unpublish(Protocol::Tcp, Some(HOST4[1].into()), 80..=80);
    assert_eq!(rules(&mut both), [Published, Passed, Passed], "what was not published stays");
    both.set_vxlan_ports(&[(Some(host), 4789), (None, 8472)]);
    assert_eq!(rules(&mut both), [Published, Passed, Vxlan]);
    let taken = both.classifier.publish(Protocol::Udp, None, 8472).unwrap_err().to_string();
    assert!(taken.starts_with("port 8472/udp of 0.0.0.0 is taken by another rule"), "{taken}");
    both.classifier.publish(Protocol::Udp, None, 5000).unwrap();
    assert!(both.classifier.set_vxlan_ports([(None, 9999), (None, 5000)]).is_err());
    assert_eq!(rules(&mut both), [Published, Passed, Vxlan], "what is refused changes nothing");
    both.translate(Flow::Tcp, true, 80, true);
    assert_eq!(rules(&mut both), [Published, Translated, Vxlan]);
    assert!(both.classifier.translated().is_set(Flow::Tcp, true, 80));
    both.translate(Flow::Tcp, true, 80, false);
    both.set_vxlan_ports(&[]);
    both.set_local_addresses(&[host6]);
    assert_eq!(rules(&mut both), [Passed; 3]);
    both.classifier.publish(Protocol::Udp, None, 8472).unwrap();
}

#[test]
fn ranges_are_published_at_all_addresses_of_a_family_or_at_one() {
    if !can_run("ranges_are_published_at_all_addresses_of_a_family_or_at_one") {
        return;
    }
    use Counter::{Passed, Published, Vxlan};
    let mut both = Both::new();
    let (peer, host) = v4();
    let (peer6, host6) = v6();
    let other: IpAddr = HOST4[1].into();
    both.set_local_addresses(&[host, other, host6]);
    let rule = |both: &mut Both, port: u16| {
        let frame = |from, to| frame(&ip(from, to, 17, &udp(9, port, &[])));
        [frame(peer, host), frame(peer, other), frame(peer6, host6)].map(|frame| both.check(&frame).unwrap())
    };
    both.publish(Protocol::Udp, HostAddresses::AllIpv4, 100..=300);
    both.publish(Protocol::Udp, Some(host6), 127..=128);
    both.publish(Protocol::Udp, Some(other), 301..=301);
    for (port, expected) in [
        (99, [Passed; 3]),
        (100, [Published, Published, Passed]),
        (127, [Published; 3]),
        (128, [Published; 3]),
        (129, [Published, Published, Passed]),
        (300, [Published, Published, Passed]),
        (301, [Passed, Published, Passed]),
    ] {
        assert_eq!(rule(&mut both, port), expected, "{port}");
    }
    both.unpublish(Protocol::Udp, None, 128..=200);
    assert_eq!(rule(&mut both, 128), [Passed, Passed, Published]);
    assert_eq!(rule(&mut both, 127), [Published; 3]);
    both.unpublish(Protocol::Udp, Some(host6), 0..=127);
    assert_eq!(rule(&mut both, 127), [Published, Published, Passed]);
    assert_eq!(rule(&mut both, 128), [Passed, Passed, Published]);
    // Beside a tunnel's, in the same block of ports.
    both.set_vxlan_ports(&[(None, 130)]);
    assert_eq!(rule(&mut both, 130), [Vxlan; 3]);
    for at in [HostAddresses::All, HostAddresses::AllIpv4, HostAddresses::AllIpv6] {
        let taken = both.classifier.publish_range(Protocol::Udp, at, 120..=140).unwrap_err().to_string();
        assert!(taken.starts_with("port 130/udp of "), "{taken}");
    }
    assert_eq!(rule(&mut both, 131), [Passed; 3], "all of a range, or none");
    let taken = both.classifier.set_vxlan_ports([(None, 250)]).unwrap_err().to_string();
    assert!(taken.starts_with("port 250/udp of 0.0.0.0"), "{taken}");
    both.set_vxlan_ports(&[]);
    both.publish(Protocol::Udp, None, 0..=65535);
    both.publish(Protocol::Udp, Some(host), 0..=65535);
    assert_eq!(rule(&mut both, 65535), [Published; 3]);
    both.unpublish(Protocol::Udp, None, 0..=65535);
    assert_eq!(rule(&mut both, 65535), [Published, Passed, Passed]);
}

#[test]
fn the_hosts_loopback_addresses_are_its_own() {
    if !can_run("the_hosts_loopback_addresses_are_its_own") {
        return;
    }
    use Counter::{IcmpError, Passed, Published, Routed};
    let mut both = host();
    let (_, host) = v4();
    let web = |from: IpAddr, to: IpAddr| frame(&ip(from, to, 6, &tcp(9, 80, &[])));
    let loopback = |text: &str| text.parse::<IpAddr>().unwrap();
    for address in ["127.0.0.1", "127.255.255.254", "::1"].map(loopback) {
        let frame = web(address, address);
        assert_eq!(both.check(&frame).unwrap(), Passed, "{address} from outside");
        assert_eq!(both.check_loopback(&frame).unwrap(), Published, "{address}");
    }
    assert_eq!(both.check_loopback(&web(host, host)).unwrap(), Published);
    let one = loopback("127.0.0.1");
    let error = frame(&ip(one, one, 1, &packets::icmp(3, 3, &ip(one, one, 6, &tcp(80, 9, &[])))));
    assert_eq!((both.check(&error).unwrap(), both.check_loopback(&error).unwrap()), (Passed, IcmpError));
    // Only one address is published.
    both.publish(Protocol::Tcp, Some(one), 81..=81);
    let frame = |to| frame(&ip(one, to, 6, &tcp(9, 81, &[])));
    assert_eq!(both.check_loopback(&frame(one)).unwrap(), Published);
    assert_eq!(both.check_loopback(&frame(loopback("127.0.0.2"))).unwrap(), Passed);
    // To others' networks the host has its own routes.
    let routed = web(host, loopback("198.51.100.77"));
    assert_eq!((both.check(&routed).unwrap(), both.check_loopback(&routed).unwrap()), (Routed, Passed));
    both.set_routed_networks(&[]);
    assert_eq!(both.check(&routed).unwrap(), Passed);
}

#[test]
fn the_rear_guard_stands_until_its_deadline() {
    if !can_run("the_rear_guard_stands_until_its_deadline") {
        return;
    }
    let mut both = host();
    let (peer, host) = v4();
    let frames = [(6, tcp(9, 80, &[])), (17, udp(9, 40000, &[])), (6, tcp(9, 22, &[])), (17, udp(9, 4789, &[]))];
    let frames = frames.map(|(protocol, payload)| frame(&ip(peer, host, protocol, &payload)));
    let mut dropped = |deadline: Duration| {
        both.classifier.stand_until(deadline).unwrap();
        frames.each_ref().map(|frame| {
            let program = both.classifier.program_fd(Program::Rear).unwrap();
            test_run::run(program, frame, None).unwrap().0 == both::TC_TAKEN
        })
    };
    let now = both::now();
    // Published, translated; the host's, a tunnel's.
    assert_eq!(dropped(now + Duration::from_secs(60)), [true, true, false, false]);
    assert_eq!(dropped(now), [false; 4], "its time is over");
    assert_eq!(dropped(Duration::ZERO), [false; 4], "it has not begun");
}

#[test]
fn what_the_fuzzers_found_is_classified_alike() {
    if !can_run("what_the_fuzzers_found_is_classified_alike") {
        return;
    }
    let mut both = host();
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for directory in ["classifier", "ethernet_vlan_ip", "arp_nd"] {
        for entry in std::fs::read_dir(corpus.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let frame = std::fs::read(&path).unwrap();
            if frame.len() >= 14 {
                both.check(&frame).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            }
        }
    }
}

#[test]
fn any_packet_is_classified_alike() {
    if !can_run("any_packet_is_classified_alike") {
        return;
    }
    let mut both = host();
    let mut seen = std::collections::BTreeMap::new();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(4000);
    let shared = std::cell::RefCell::new((&mut both, &mut seen));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&generate::any_frame(), |frame| {
        if frame.len() < 14 {
            return Ok(());
        }
        let (both, seen) = &mut *shared.borrow_mut();
        let rule = both.check(&frame).map_err(TestCaseError::fail)?;
        *seen.entry(rule).or_insert(0) += 1;
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // The packets are such that every rule has had its share.
    use Counter::{EchoReply, IcmpError, Published, Routed, Translated, Vxlan};
    for rule in [Published, Translated, Vxlan, EchoReply, IcmpError, Routed] {
        assert!(seen.get(&rule).is_some_and(|&count| count >= 10), "{rule:?}: {seen:?}");
    }
    assert!(seen.contains_key(&Counter::LaterFragment), "{seen:?}");
}

/// `cargo test --test classifier -- --ignored --nocapture what_a_packet_of_the_host_costs`.
#[test]
#[ignore = "a measurement"]
fn what_a_packet_of_the_host_costs() {
    if !can_run("what_a_packet_of_the_host_costs") {
        return;
    }
    // r0 = verdict; exit (`BPF_ALU64 | BPF_MOV | BPF_K`, `BPF_JMP | BPF_EXIT`).
    let empty = |kind, flags, verdict| {
        let instruction = |code, immediate| Instruction { code, registers: 0, offset: 0, immediate };
        sys::load(kind, &[instruction(0xb7, verdict), instruction(0x95, 0)], c"GPL", flags, "empty").unwrap()
    };
    let empty_tc = empty(ProgramKind::SchedCls, 0, -1);
    let empty_xdp = empty(ProgramKind::Xdp, sys::XDP_HAS_FRAGS, 2);
    let mut both = host();
    eprintln!("nanoseconds for a packet that passes, beyond an empty program (the least of ten)");
    for (name, (peer, host)) in [("IPv4", v4()), ("IPv6", v6())] {
        let frame = frame(&ip(peer, host, 6, &tcp(9, 22, &[1; 1400])));
        let least = |program: BorrowedFd<'_>| {
            (0..10).map(|_| test_run::run_often(program, &frame, None, 200_000).unwrap().2).min().unwrap()
        };
        let (tc, xdp) = (least(empty_tc.as_fd()), least(empty_xdp.as_fd()));
        let ours_tc = least(both.classifier.program_fd(Program::Tc).unwrap());
        let ours_xdp = least(both.classifier.program_fd(Program::Xdp).unwrap());
        eprintln!("{name}: tc {} (of {ours_tc}), XDP {} (of {ours_xdp})", ours_tc - tc, ours_xdp - xdp);
    }
}
