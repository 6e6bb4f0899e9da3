//! Packets by hand, with what is expected of each.

use std::net::IpAddr;

use vswitch::bpf::Counter;

use super::generate::{HOST4, HOST6, PEER4, PEER6};
use super::packets::{Extension, V4, ethernet, frame, icmp, ip, ipv4, ipv6, sctp, tcp, udp};
use super::{v4, v6};

/// One of each kind, and the rule that takes it.
pub(crate) fn corpus() -> Vec<(&'static str, Vec<u8>, Counter)> {
    use Counter::{EchoReply, IcmpError, Passed, Published, Translated, Vxlan};
    let mut all = Vec::new();
    for (peer, host) in [v4(), v6()] {
        let is_v6 = host.is_ipv6();
        let other: IpAddr = if is_v6 { HOST6[1].into() } else { HOST4[1].into() };
        let (icmp_number, request, reply) = if is_v6 { (58, 128, 129) } else { (1, 8, 0) };
        let unreachable = if is_v6 { 1 } else { 3 };
        let to = |protocol, payload: &[u8]| frame(&ip(peer, host, protocol, payload));
        let error = |kind, inner: &[u8]| frame(&ip(peer, host, icmp_number, &icmp(kind, 0, inner)));
        let sent = |from: IpAddr, protocol, payload: &[u8]| ip(from, peer, protocol, payload);
        all.extend([
            ("published tcp", to(6, &tcp(9, 80, b"data")), Published),
            ("published udp", to(17, &udp(9, 80, b"data")), Published),
            ("published sctp", to(132, &sctp(9, 80, b"data")), Published),
            ("a port of another address", to(6, &tcp(9, 443, &[])), Passed),
            ("a port of this address", frame(&ip(peer, other, 6, &tcp(9, 443, &[]))), Published),
            ("the same port, another protocol", frame(&ip(peer, other, 17, &udp(9, 443, &[]))), Passed),
            ("published, but not to this host", frame(&ip(peer, peer, 6, &tcp(9, 80, &[]))), Passed),
            ("the host's ssh", to(6, &tcp(9, 22, b"data")), Passed),
            ("from port 80", to(6, &tcp(80, 22, &[])), Passed),
            ("translated tcp", to(6, &tcp(80, 40000, &[])), Translated),
            ("translated udp", to(17, &udp(53, 40000, &[])), Translated),
            ("translated sctp", to(132, &sctp(53, 40000, &[])), Translated),
            ("next to translated", to(17, &udp(53, 40001, &[])), Passed),
            ("vxlan", to(17, &udp(50000, 4789, &[8, 0, 0, 0, 0, 0, 42, 0])), Vxlan),
            ("tcp at vxlan's port", to(6, &tcp(50000, 4789, &[])), Passed),
            ("echo reply", to(icmp_number, &icmp(reply, 40000, b"data")), EchoReply),
            ("echo reply to the host", to(icmp_number, &icmp(reply, 22, b"data")), Passed),
            ("echo request", to(icmp_number, &icmp(request, 40000, b"data")), Passed),
            ("gre", to(47, &tcp(9, 80, &[])), Passed),
            ("error about published", error(unreachable, &sent(host, 6, &tcp(80, 9, &[]))), IcmpError),
            ("error about translated", error(unreachable, &sent(host, 17, &udp(40000, 53, &[]))), IcmpError),
            ("error about sctp", error(unreachable, &sent(host, 132, &sctp(40000, 9, &[]))), IcmpError),
            ("error about vxlan", error(unreachable, &sent(host, 17, &udp(50000, 4789, &[1; 60]))), IcmpError),
            (
                "error about an echo",
                error(unreachable, &sent(host, icmp_number, &icmp(request, 40000, &[]))),
                IcmpError,
            ),
            ("error about a reply", error(unreachable, &sent(host, icmp_number, &icmp(reply, 40000, &[]))), Passed),
            ("error about the host's", error(unreachable, &sent(host, 6, &tcp(22, 9, &[]))), Passed),
            ("error about what came in", error(unreachable, &sent(host, 6, &tcp(9, 80, &[]))), Passed),
            ("error about another address's", error(unreachable, &sent(other, 6, &tcp(80, 9, &[]))), Passed),
            (
                "error about an error",
                error(unreachable, &sent(host, icmp_number, &icmp(unreachable, 40000, &[]))),
                Passed,
            ),
            ("error about nothing", error(unreachable, &[]), Passed),
            (
                "error, cut at eight bytes",
                {
                    let inner = sent(host, 6, &tcp(80, 9, &[1; 100]));
                    error(unreachable, &inner[..if is_v6 { 48 } else { 28 }])
                },
                IcmpError,
            ),
            (
                "error, cut at seven bytes",
                {
                    let inner = sent(host, 6, &tcp(80, 9, &[1; 100]));
                    error(unreachable, &inner[..if is_v6 { 47 } else { 27 }])
                },
                Passed,
            ),
        ]);
    }
    all.extend(corpus_routed());
    all.extend(corpus_ipv4());
    all.extend(corpus_ipv6());
    let untagged = frame(&ip(PEER4.into(), HOST4[0].into(), 6, &tcp(9, 80, &[])));
    all.push(("tagged", [&untagged[..12], &[0x81, 0, 0, 5], &untagged[12..]].concat(), Passed));
    all.push(("twice tagged", [&untagged[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &untagged[12..]].concat(), Passed));
    all.push(("padded", [&untagged[..], &[0; 6]].concat(), Published));
    all.push(("arp", ethernet([0; 6], 0x0806, &[0; 46]), Passed));
    all.push(("broadcast", [&[0xff; 6][..], &untagged[6..]].concat(), Passed));
    all.push(("for another station", [&[2, 0, 0, 0, 0, 3][..], &untagged[6..]].concat(), Passed));
    all.push(("jumbo", frame(&ip(PEER4.into(), HOST4[0].into(), 17, &udp(9, 80, &[7; 8900]))), Published));
    all.push(("super-jumbo", frame(&ip(PEER6.into(), HOST6[0].into(), 17, &udp(9, 80, &[7; 60000]))), Published));
    all
}

fn corpus_routed() -> Vec<(&'static str, Vec<u8>, Counter)> {
    use Counter::{Passed, Published, Routed};
    let ip4 = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap();
    let inside =
        V4 { source: PEER4, destination: ip4("198.51.100.2"), options: 0, identification: 7, offset: 0, more: true };
    let outside = V4 { destination: ip4("198.51.101.0"), ..inside.clone() };
    let later = V4 { offset: 9, ..inside.clone() };
    let container = "2001:db8:0:1:2::3".parse().unwrap();
    let fragment = Extension::Fragment { offset: 8, more: false, identification: 1 };
    vec![
        ("to a routed network", frame(&ipv4(&V4 { more: false, ..inside.clone() }, 6, &tcp(9, 5000, &[]))), Routed),
        ("of any protocol", frame(&ipv4(&V4 { more: false, ..inside.clone() }, 47, &[1; 20])), Routed),
        (
            "its last address",
            frame(&ipv4(&V4 { destination: ip4("198.51.100.255"), ..inside.clone() }, 17, &[])),
            Routed,
        ),
        ("behind its end", frame(&ipv4(&outside, 6, &tcp(9, 80, &[]))), Passed),
        ("a first fragment to it", frame(&ipv4(&inside, 6, &tcp(9, 5000, &[]))), Routed),
        ("a later fragment to it", frame(&ipv4(&later, 6, &[0; 40])), Routed),
        ("to the host's address in it", frame(&ip(PEER4.into(), HOST4[1].into(), 6, &tcp(9, 22, &[]))), Passed),
        ("a published port there", frame(&ip(PEER4.into(), HOST4[1].into(), 6, &tcp(9, 443, &[]))), Published),
        ("to a routed network v6", frame(&ipv6(PEER6, container, &[], 59, &[])), Routed),
        ("a later fragment to it v6", frame(&ipv6(PEER6, container, &[fragment], 6, &[1; 20])), Routed),
        (
            "behind its end v6",
            frame(&ip(PEER6.into(), "2001:db8:0:2::3".parse().unwrap(), 6, &tcp(9, 80, &[]))),
            Passed,
        ),
        ("an IPv4 address in IPv6", frame(&ipv6(PEER6, HOST4[0].to_ipv6_mapped(), &[], 6, &tcp(9, 80, &[]))), Passed),
        ("a multicast frame to it", ethernet([1, 0, 0, 0, 0, 0], 0x0800, &ipv4(&inside, 6, &tcp(9, 80, &[]))), Passed),
    ]
}

fn corpus_ipv4() -> Vec<(&'static str, Vec<u8>, Counter)> {
    use Counter::{IcmpError, Passed, Published};
    let plain = V4 { source: PEER4, destination: HOST4[0], options: 0, identification: 9, offset: 0, more: false };
    let ours = V4 { source: HOST4[0], destination: PEER4, ..plain.clone() };
    let error = |kind, inner: &[u8]| frame(&ipv4(&plain, 1, &icmp(kind, 0, inner)));
    let sent = ipv4(&ours, 6, &tcp(80, 9, &[]));
    let with_options = V4 { options: 10, ..ours.clone() };
    let mut all = vec![
        ("ipv4 options", frame(&ipv4(&V4 { options: 10, ..plain.clone() }, 6, &tcp(9, 80, &[]))), Published),
        ("time exceeded", error(11, &sent), IcmpError),
        ("parameter problem", error(12, &sent), IcmpError),
        ("source quench", error(4, &sent), Passed),
        ("redirect", error(5, &sent), Passed),
        ("error about options", error(3, &ipv4(&with_options, 6, &tcp(80, 9, &[]))), IcmpError),
        ("error, options cut off", error(3, &ipv4(&with_options, 6, &tcp(80, 9, &[]))[..40]), Passed),
        (
            "error about a first fragment",
            error(3, &ipv4(&V4 { more: true, ..ours.clone() }, 6, &tcp(80, 9, &[]))),
            IcmpError,
        ),
        (
            "error about a later fragment",
            error(3, &ipv4(&V4 { offset: 9, ..ours.clone() }, 6, &tcp(80, 9, &[]))),
            Passed,
        ),
        ("ipv6 in an icmp error", error(3, &ip(HOST6[0].into(), PEER6.into(), 6, &tcp(80, 9, &[]))), Passed),
        ("icmpv6 in ipv4", frame(&ipv4(&plain, 58, &icmp(129, 40000, &[]))), Passed),
        ("ah in ipv4", frame(&ipv4(&plain, 51, &[&[6, 0, 0, 0, 0, 0, 0, 0][..], &tcp(9, 80, &[])].concat())), Passed),
        ("tcp header too short", frame(&ipv4(&plain, 6, &tcp(9, 80, &[])[..19])), Passed),
        ("udp header too short", frame(&ipv4(&plain, 17, &udp(9, 80, &[])[..7])), Passed),
        ("sctp header too short", frame(&ipv4(&plain, 132, &sctp(9, 80, &[])[..11])), Passed),
    ];
    let good = frame(&ipv4(&plain, 6, &tcp(9, 80, &[1; 20])));
    for (name, at, value) in [
        ("version 5", 14, 0x55),
        ("header of 16 bytes", 14, 0x44),
        ("length 0", 17, 0),
        ("length below the header", 17, 19),
        ("length beyond the frame", 17, 200),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        all.push((name, bad, Passed));
    }
    // A router that returns the length in its own byte order: what counts is what is there.
    let mut swapped = sent.clone();
    swapped.swap(2, 3);
    all.push(("error, length changed", error(11, &swapped), IcmpError));
    all
}

fn corpus_ipv6() -> Vec<(&'static str, Vec<u8>, Counter)> {
    use Counter::{IcmpError, Passed, Published};
    use Extension::{Authentication, Destination, Fragment, HopByHop, Mobility, Routing};
    let to = |extensions: &[Extension]| frame(&ipv6(PEER6, HOST6[0], extensions, 6, &tcp(9, 80, &[])));
    let sent = |extensions: &[Extension]| ipv6(HOST6[0], PEER6, extensions, 6, &tcp(80, 9, &[]));
    let error = |kind, inner: &[u8]| frame(&ipv6(PEER6, HOST6[0], &[], 58, &icmp(kind, 0, inner)));
    let visited = Routing { longer: 2, segments_left: 0 };
    let atomic = Fragment { offset: 0, more: false, identification: 1 };
    let eight =
        [HopByHop(0), Destination(1), visited, atomic, Authentication(4), Destination(0), Destination(3), HopByHop(9)];
    vec![
        ("hop-by-hop", to(&[HopByHop(0)]), Published),
        ("each extension header", to(&eight[..6]), Published),
        ("eight extension headers", to(&eight), Published),
        ("nine extension headers", to(&[&eight[..], &[Destination(0)]].concat()), Passed),
        ("the longest extension header", to(&[Destination(255)]), Published),
        ("headers of 16 KB", to(&[Destination(255); 8]), Passed),
        ("headers of nearly 16 KB", to(&[Destination(255); 7]), Published),
        ("another router to visit", to(&[Routing { longer: 2, segments_left: 1 }]), Passed),
        ("atomic fragment", to(&[atomic]), Published),
        ("two fragment headers", to(&[atomic, atomic]), Passed),
        ("mobility", to(&[Mobility]), Passed),
        ("packet too big", error(2, &sent(&[])), IcmpError),
        ("time exceeded v6", error(3, &sent(&[])), IcmpError),
        ("parameter problem v6", error(4, &sent(&[])), IcmpError),
        ("type 5", error(5, &sent(&[])), Passed),
        ("error with extension headers", error(1, &sent(&eight)), IcmpError),
        ("error with nine", error(1, &sent(&[&eight[..], &[Destination(0)]].concat())), Passed),
        (
            "error about a later fragment v6",
            error(1, &sent(&[Fragment { offset: 8, more: true, identification: 1 }])),
            Passed,
        ),
        (
            "error behind extension headers",
            { frame(&ipv6(PEER6, HOST6[0], &eight, 58, &icmp(1, 0, &sent(&eight)))) },
            IcmpError,
        ),
        ("ipv4 in an icmpv6 error", error(1, &ip(HOST4[0].into(), PEER4.into(), 6, &tcp(80, 9, &[]))), Passed),
        ("icmp in ipv6", frame(&ipv6(PEER6, HOST6[0], &[], 1, &icmp(0, 40000, &[]))), Passed),
        ("no next header", frame(&ipv6(PEER6, HOST6[0], &[], 59, &tcp(9, 80, &[]))), Passed),
    ]
}
