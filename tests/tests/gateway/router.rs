//! The gateway as a router: it answers for itself, and packets find their way out and back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::frame::{mac_text, parse_mac, unpadded};
use vswitch_tests::lab::{address, any_port, assert_reaches, must};
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::overlay::Capture;
use vswitch_tests::packet::{Header, IPV4, IPV6, Seen};
use vswitch_tests::process::run_ok;
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::requirement;
use vswitch_tests::stream::{Plan, Transfer, datagrams};

use super::{DUAL, finish, gateway, lab, lab_with};

#[test]
fn the_gateway_answers_inside_of_the_switch() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.expect_changes("host");
    // The host's own stack says nothing any more: whoever answers is the switch.
    for (sysctl, value) in [
        ("net.ipv4.icmp_echo_ignore_all", "1"),
        ("net.ipv6.icmp.echo_ignore_all", "1"),
        ("net.ipv4.conf.br0.arp_ignore", "8"),
    ] {
        must(lab.host().sysctl(sysctl, value));
    }
    let mac = mac_text(parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC address")));
    for ipv6 in [false, true] {
        let gateway = gateway(&lab, "br0", ipv6);
        must(lab.container("a").ip("neigh flush all"));
        assert_reaches(lab.container("a"), gateway);
        let neighbours = must(lab.container("a").ip(&format!("neigh show {gateway}")));
        assert!(neighbours.contains(&mac), "{neighbours}");
        for size in [0, 1, 1400, 1452] {
            must(lab.container("a").run(&format!("ping -n -q -c 1 -W 2 -s {size} {gateway}")));
        }
    }
    // What comes in fragments is put together by the host, which has the address, too.
    must(lab.host().sysctl("net.ipv4.icmp_echo_ignore_all", "0"));
    must(lab.host().sysctl("net.ipv6.icmp.echo_ignore_all", "0"));
    for ipv6 in [false, true] {
        let gateway = gateway(&lab, "br0", ipv6);
        must(lab.container("a").run(&format!("ping -n -q -c 1 -W 2 -s 8000 {gateway}")));
    }
    finish(lab);
}

#[test]
fn the_host_and_its_containers_reach_each_other_as_ever() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    for ipv6 in [false, true] {
        let (gateway, container) = (gateway(&lab, "br0", ipv6), address(&ports[0], ipv6));
        for protocol in Protocol::ALL {
            // A program of the host, by the gateway's address and by the host's own.
            for target in [gateway, host(ipv6)] {
                let server = must(Server::bind(protocol, lab.host(), any_port(target)));
                let target = must(server.address());
                let seen = must(server.meet(lab.container("a"), target));
                assert_eq!(seen.ip(), container, "{protocol:?} to the host's {target}: as itself");
            }
            let server = must(Server::any(protocol, lab.container("a"), ipv6, 0));
            let target = SocketAddr::new(container, must(server.address()).port());
            assert_eq!(must(server.meet(lab.host(), target)).ip(), gateway, "{protocol:?} from the host");
        }
        must(
            must(Transfer::start(lab.host(), lab.container("a"), any_port(gateway), Plan::both_ways(4 << 20))).finish(),
        );
    }
    finish(lab);
}

#[test]
fn containers_reach_the_outside_and_answers_come_back() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let a = lab.container("a");
    for ipv6 in [false, true] {
        for (namespace, target) in [(lab.near(), near(ipv6)), (lab.far(), far(ipv6))] {
            assert_reaches(a, target);
            for protocol in Protocol::ALL {
                let server = must(Server::any(protocol, namespace, ipv6, 0));
                let seen = must(server.meet(a, SocketAddr::new(target, must(server.address()).port())));
                assert_eq!(seen.ip(), host(ipv6), "{protocol:?}: the outside sees the host");
            }
            must(must(Transfer::start(namespace, a, any_port(target), Plan::both_ways(16 << 20))).finish());
            must(datagrams(namespace, a, any_port(target), &[0, 1, 2, 18, 100, 512, 1400, 1472]));
        }
    }
    finish(lab);
}

#[test]
fn many_connections_at_once_are_kept_apart() {
    let Some((lab, _)) = lab_with(&["a", "b", "c"]) else { return };
    for ipv6 in [false, true] {
        let target = any_port(far(ipv6));
        let plan = Plan { write_bytes: 1000, ..Plan::both_ways(300_000) };
        let roles = ["a", "b", "c"].into_iter().cycle().take(30);
        let transfers: Vec<Transfer> =
            roles.map(|role| must(Transfer::start(lab.far(), lab.container(role), target, plan))).collect();
        for transfer in transfers {
            must(transfer.finish());
        }
    }
    finish(lab);
}

#[test]
fn without_masquerade_the_container_speaks_as_itself() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", &format!("{DUAL} --masquerade off"));
    let port = lab.attach("br0", "a", "");
    for ipv6 in [false, true] {
        let network = if ipv6 { "fd00:1::/64" } else { "10.1.0.0/24" };
        must(lab.near().ip(&format!("route add {network} via {}", host(ipv6))));
        for protocol in Protocol::ALL {
            let server = must(Server::any(protocol, lab.far(), ipv6, 0));
            let target = SocketAddr::new(far(ipv6), must(server.address()).port());
            assert_eq!(must(server.meet(lab.container("a"), target)).ip(), address(&port, ipv6), "{protocol:?}");
        }
        assert_reaches(lab.container("a"), far(ipv6));
    }
    finish(lab);
}

#[test]
fn the_gateway_is_a_hop() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let a = lab.container("a");
    for ipv6 in [false, true] {
        let (gateway, router) = (gateway(&lab, "br0", ipv6), near(ipv6));
        for (ttl, hop) in [(1, gateway), (2, router)] {
            let mut ping = a.command("ping");
            ping.args(["-n", "-c", "1", "-W", "2", "-t", &ttl.to_string(), &far(ipv6).to_string()]);
            let text = String::from_utf8_lossy(&must(ping.output()).stdout).to_lowercase();
            let from = text.contains(&format!("from {hop}"));
            assert!(from && (text.contains("time to live") || text.contains("hop limit")), "TTL {ttl}: {text}");
        }
        // What arrives has made two hops, and so has its answer.
        let text = must(a.run(&format!("ping -n -c 1 -W 2 {}", far(ipv6))));
        assert!(text.contains("ttl=62"), "{text}");
        let text = must(a.run(&format!("ping -n -c 1 -W 2 {}", near(ipv6))));
        assert!(text.contains("ttl=63"), "{text}");
        if requirement::program("tracepath") {
            let mut trace = a.command("tracepath");
            trace.args(["-n", "-m", "6", if ipv6 { "-6" } else { "-4" }, &far(ipv6).to_string()]);
            let text = must(run_ok(&mut trace, Duration::from_secs(30)));
            let line = |number: u8, hop: IpAddr| {
                text.lines()
                    .any(|line| line.trim().starts_with(&format!("{number}:")) && line.contains(&hop.to_string()))
            };
            assert!(line(1, gateway) && line(2, router) && line(3, far(ipv6)), "{text}");
            assert!(text.contains("pmtu 1500") && text.contains("reached"), "{text}");
        }
    }
    assert!(lab.dropped("ttl-exceeded") >= 2);
    finish(lab);
}

#[test]
fn hops_count_on_the_way_in_too() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp"]);
    let server = must(Server::any(Protocol::Udp, lab.container("a"), false, 7000));
    assert!(must(server.meet(lab.far(), SocketAddr::new(host(false), 7000))).ip() == far(false));
    let (socket, inside) =
        (must(PacketSocket::open(lab.near(), "eth0")), must(PacketSocket::open(lab.container("a"), "eth0")));
    let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
    for ttl in [1, 2] {
        let packet = Header::new(near(false), host(false)).ttl(ttl).udp(9, 7000, b"hop");
        must(socket.send(&unpadded(to, from, IPV4, &packet)));
    }
    let quiet = Duration::from_millis(500);
    let errors = must(
        socket.recv_expected(1, quiet, |frame| Seen::parse(frame).is_some_and(|seen| seen.icmp() == Some((11, 0)))),
    );
    let error = Seen::parse(errors.first().expect("time exceeded")).expect("a packet");
    assert_eq!((errors.len(), error.source, error.destination), (1, host(false), near(false)));
    assert!(error.is_whole());
    // The sender finds its own packet in it.
    assert_eq!(error.payload[24..28], [198, 18, 0, 2], "{:?}", error.payload);
    assert_eq!(error.payload[28..32], [0, 9, 0x1b, 0x58]);
    let arrived = must(
        inside.recv_expected(1, quiet, |frame| Seen::parse(frame).is_some_and(|seen| seen.payload.ends_with(b"hop"))),
    );
    let arrived: Vec<Seen> = arrived.iter().filter_map(|frame| Seen::parse(frame)).collect();
    assert_eq!(arrived.len(), 1);
    assert_eq!((arrived[0].ttl, arrived[0].destination), (1, address(&ports[0], false)));
    finish(lab);
}

#[test]
fn what_the_header_says_beside_addresses_stays() {
    let Some((lab, ports)) = lab_with(&["a"]) else { return };
    let outside = must(PacketSocket::open(lab.near(), "eth0"));
    let inside = must(PacketSocket::open(lab.container("a"), "eth0"));
    let bridge = lab.bridge("br0");
    let (to, from) = (parse_mac(bridge.mac.as_deref().expect("a MAC")), parse_mac(&ports[0].mac));
    for ipv6 in [false, true] {
        let header = Header::new(address(&ports[0], ipv6), near(ipv6));
        let mut packet = header.udp(4000, 4000, b"marked");
        if ipv6 {
            // Traffic class 0xb9 (expedited, ECT(1)) and a flow label.
            packet[..4].copy_from_slice(&[0x6b, 0x91, 0x23, 0x45]);
        } else {
            packet[1] = 0xb9;
            packet[10..12].fill(0);
            let sum = vswitch::frame::checksum::of(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        must(inside.send(&unpadded(to, from, if ipv6 { IPV6 } else { IPV4 }, &packet)));
        let frames = must(outside.recv_expected(1, Duration::from_millis(500), |frame| frame.ends_with(b"marked")));
        assert_eq!(frames.len(), 1, "IPv6 {ipv6}");
        let frame = &frames[0];
        if ipv6 {
            assert_eq!(frame[14..18], [0x6b, 0x91, 0x23, 0x45]);
        } else {
            assert_eq!((frame[15], &frame[18..20]), (0xb9, &packet[4..6]), "DSCP, ECN and identification");
            assert_eq!(vswitch::frame::checksum::of(&frame[14..34]), 0, "the header's checksum");
        }
        assert!(Seen::parse(frame).is_some_and(|seen| seen.is_whole()));
    }
    finish(lab);
}

#[test]
fn every_packet_on_the_wire_is_well_formed() {
    let Some((mut lab, ports)) = lab_with(&["a"]) else { return };
    if !requirement::program("tshark") || !requirement::program("tcpdump") {
        return;
    }
    lab.expect_changes("host");
    lab.ctl(&["publish", "br0", "a", "7000-7100:7000-7100/tcp", "7000-7100:7000-7100/udp"]);
    // Nothing is left to the receiver to finish: a capture shows what a cable would carry.
    must(lab.host().run("ethtool -K u0 tx off tso off gso off gro off"));
    let capture = must(Capture::start(lab.near(), "eth0", &lab.path("wire.pcap")));
    for (ipv6, first) in [(false, 7000), (true, 7050)] {
        let out = any_port(near(ipv6));
        must(must(Transfer::start(lab.near(), lab.container("a"), out, Plan::both_ways(200_000))).finish());
        must(datagrams(lab.near(), lab.container("a"), out, &[0, 1, 500, 1472, 4000]));
        assert_reaches(lab.container("a"), near(ipv6));
        for (at, protocol) in Protocol::ALL.into_iter().enumerate() {
            let number = first + at as u16;
            let server = must(Server::bind(protocol, lab.container("a"), super::at(&ports[0], ipv6, number)));
            must(server.meet(lab.near(), SocketAddr::new(host(ipv6), number)));
        }
    }
    let captured = must(capture.stop());
    // What `near` sends itself has unfinished checksums there.
    let mac = mac_text(must(lab.host().mac("u0")));
    let faults = must(captured.faults_of(&format!("eth.src == {mac}")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(must(captured.count(&format!("eth.src == {mac} && tcp"))) > 100);
    for network in ["10.1.0.0/24", "fd00:1::/64"] {
        let field = if network.contains(':') { "ipv6.addr" } else { "ip.addr" };
        assert_eq!(must(captured.count(&format!("{field} == {network}"))), 0, "{network} is nobody's business");
    }
    finish(lab);
}

#[test]
fn the_segment_size_fits_the_way_out_if_asked() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", &format!("{DUAL} --mtu 9000 --mss-clamp on"));
    lab.attach("br0", "a", "");
    let wire = must(PacketSocket::open(lab.near(), "eth0"));
    for ipv6 in [false, true] {
        let mss_of = |wanted: u16| {
            let server = must(Server::any(Protocol::Tcp, lab.near(), ipv6, 0));
            must(server.meet(lab.container("a"), SocketAddr::new(near(ipv6), must(server.address()).port())));
            let syns = must(wire.recv_expected(1, Duration::from_millis(200), |frame| {
                Seen::parse(frame).is_some_and(|seen| seen.protocol == 6 && seen.payload[13] & 0x12 == 2)
            }));
            let seen = Seen::parse(syns.last().expect("a SYN")).expect("a packet");
            // The first option of Linux's SYN is the segment size.
            assert_eq!(seen.payload[20..22], [2, 4], "{:?}", seen.payload);
            assert_eq!(u16::from_be_bytes([seen.payload[22], seen.payload[23]]), wanted, "IPv6 {ipv6}");
        };
        let headers = if ipv6 { 60 } else { 40 };
        mss_of(1500 - headers);
        lab.ctl(&["set-br", "br0", "--mss-clamp", "off"]);
        mss_of(9000 - headers);
        lab.ctl(&["set-br", "br0", "--mss-clamp", "on"]);
    }
    finish(lab);
}
