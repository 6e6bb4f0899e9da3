//! Bridges are separate networks, and only what is published is reachable from outside.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vswitch_tests::Lab;
use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::frame::{parse_mac, tagged, unpadded};
use vswitch_tests::lab::{address, assert_no_reach, assert_reaches, must};
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::packet::{Header, IPV4, IPV6, fragments};
use vswitch_tests::raw::PacketSocket;

use super::{DUAL, DUAL_SECOND, finish, gateway, lab, lab_with};

/// The payload by which tests find their packets.
const MARK: &[u8] = b"who let this through";
const QUIET: Duration = Duration::from_millis(300);

/// Asserts that `from` sends `frames` out of its `eth0`, and that none with [`MARK`] comes to any of `witnesses`.
#[track_caller]
fn assert_nobody_hears(lab: &Lab, from: &str, witnesses: &[&str], frames: &[(&str, Vec<u8>)]) {
    let socket = must(PacketSocket::open_sender(lab.container(from), "eth0"));
    let hearers = |frames: &[(&str, Vec<u8>)]| -> Vec<String> {
        let ears: Vec<(&str, PacketSocket)> =
            witnesses.iter().map(|role| (*role, must(PacketSocket::open(lab.container(role), "eth0")))).collect();
        frames.iter().for_each(|(_, frame)| must(socket.send(frame)));
        // One wait for all of them: what came to the others came meanwhile.
        let heard = |ear: &PacketSocket, quiet| {
            must(ear.recv_all(quiet, |heard| heard.windows(MARK.len()).any(|bytes| bytes == MARK)))
        };
        let quiets = [QUIET].into_iter().chain(std::iter::repeat(Duration::ZERO));
        ears.iter()
            .zip(quiets)
            .flat_map(|((role, ear), quiet)| {
                heard(ear, quiet).into_iter().map(move |bytes| format!("{role}: {bytes:02x?}"))
            })
            .collect()
    };
    let heard = hearers(frames);
    if !heard.is_empty() {
        // Which of them it was, is seen one by one.
        for one in frames {
            assert_eq!(hearers(std::slice::from_ref(one)), Vec::<String>::new(), "{} from {from}", one.0);
        }
        panic!("one of these from {from} was heard by {heard:?}");
    }
}

fn ethertype(ipv6: bool) -> u16 {
    if ipv6 { IPV6 } else { IPV4 }
}

#[test]
fn bridges_do_not_reach_each_others_containers() {
    let Some((mut lab, ports)) = lab_with(&["a"]) else { return };
    lab.add_bridge("br1", DUAL_SECOND);
    let c = lab.attach("br1", "c", "");
    let before = lab.dropped("other-network");
    let mac = |bridge: &str| parse_mac(lab.bridge(bridge).mac.as_deref().expect("a MAC"));
    for ipv6 in [false, true] {
        assert_no_reach(lab.container("a"), address(&c, ipv6));
        assert_no_reach(lab.container("c"), address(&ports[0], ipv6));
        for protocol in Protocol::ALL {
            let server = must(Server::any(protocol, lab.container("c"), ipv6, 80));
            assert!(server.misses(lab.container("a"), SocketAddr::new(address(&c, ipv6), 80)), "{protocol:?}");
        }
        let (own, other) = (address(&ports[0], ipv6), address(&c, ipv6));
        let packet = Header::new(own, other).udp(1, 2, MARK);
        let answer = Header::new(own, other).tcp(80, 5000, 1, 1, 0x12);
        let (from, kind) = (parse_mac(&ports[0].mac), ethertype(ipv6));
        let frames = [
            ("by the gateway", unpadded(mac("br0"), from, kind, &packet)),
            ("an answer that nobody asked for", unpadded(mac("br0"), from, kind, &answer)),
            ("by the other bridge's gateway", unpadded(mac("br1"), from, kind, &packet)),
            ("by its MAC address", unpadded(parse_mac(&c.mac), from, kind, &packet)),
            ("by broadcast", unpadded([0xff; 6], from, kind, &packet)),
            ("tagged, by the gateway", tagged(1, &unpadded(mac("br0"), from, kind, &packet))),
            ("tagged 0, by the gateway", tagged(0, &unpadded(mac("br0"), from, kind, &packet))),
        ];
        assert_nobody_hears(&lab, "a", &["c", "near"], &frames);
        let fragmented = Header::new(own, other).udp(1, 2, &MARK.repeat(4));
        let pieces = fragments(&fragmented, 40).into_iter();
        let pieces: Vec<_> = pieces.map(|piece| ("a fragment", unpadded(mac("br0"), from, kind, &piece))).collect();
        assert_nobody_hears(&lab, "a", &["c", "near"], &pieces);
    }
    lab.await_dropped("other-network", before);
    finish(lab);
}

#[test]
fn bridges_of_one_subnet_are_kept_apart_too() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.add_bridge("flat", "--l2");
    lab.attach("flat", "l", "--ip 10.1.0.77/24");
    assert_no_reach(lab.container("a"), "10.1.0.77".parse().expect("an address"));
    assert_no_reach(lab.container("l"), gateway(&lab, "br0", false));
    finish(lab);
}

#[test]
fn without_icc_the_gateway_is_no_way_round() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", &format!("{DUAL} --icc off"));
    let (a, b) = (lab.attach("br0", "a", ""), lab.attach("br0", "b", ""));
    let mac = parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC"));
    for ipv6 in [false, true] {
        assert_reaches(lab.container("a"), gateway(&lab, "br0", ipv6));
        assert_reaches(lab.container("a"), far(ipv6));
        assert_reaches(lab.host(), address(&a, ipv6));
        assert_no_reach(lab.container("a"), address(&b, ipv6));
        // What a host with ip_forward would do: take it in and send it out again.
        let gateway = gateway(&lab, "br0", ipv6);
        must(lab.container("a").ip(&format!("route replace {} via {gateway}", address(&b, ipv6))));
        assert_no_reach(lab.container("a"), address(&b, ipv6));
        let packet = Header::new(address(&a, ipv6), address(&b, ipv6)).udp(1, 2, MARK);
        let (from, kind) = (parse_mac(&a.mac), ethertype(ipv6));
        let frames = [
            ("by the gateway", unpadded(mac, from, kind, &packet)),
            ("directly", unpadded(parse_mac(&b.mac), from, kind, &packet)),
            ("tagged 0", tagged(0, &unpadded(mac, from, kind, &packet))),
            ("tagged", tagged(7, &unpadded(parse_mac(&b.mac), from, kind, &packet))),
        ];
        assert_nobody_hears(&lab, "a", &["b", "near"], &frames);
    }
    finish(lab);
}

#[test]
fn an_internal_bridge_is_an_island() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", DUAL);
    lab.add_bridge("back", "--subnet 10.3.0.0/24 --subnet fd00:3::/64 --internal");
    let a = lab.attach("br0", "a", "--publish 7000:80");
    let (i, j) = (lab.attach("back", "i", ""), lab.attach("back", "j", ""));
    let mac = parse_mac(lab.bridge("back").mac.as_deref().expect("a MAC"));
    for ipv6 in [false, true] {
        let family = if ipv6 { 6 } else { 4 };
        assert!(!must(lab.container("i").ip(&format!("-{family} route"))).contains("default"));
        assert_reaches(lab.container("i"), address(&j, ipv6));
        assert_reaches(lab.container("i"), gateway(&lab, "back", ipv6));
        // With a way out of its own making.
        must(lab.container("i").ip(&format!("route add default via {}", gateway(&lab, "back", ipv6))));
        for target in [near(ipv6), far(ipv6), address(&a, ipv6)] {
            assert_no_reach(lab.container("i"), target);
        }
        let server = must(Server::any(Protocol::Tcp, lab.container("a"), ipv6, 80));
        assert!(server.misses(lab.container("i"), SocketAddr::new(host(ipv6), 7000)), "a published port is outside");
        assert_no_reach(lab.container("a"), address(&i, ipv6));
        let network = if ipv6 { "fd00:3::/64" } else { "10.3.0.0/24" };
        must(lab.near().ip(&format!("route add {network} via {}", host(ipv6))));
        assert_no_reach(lab.near(), address(&i, ipv6));
        let from = parse_mac(&i.mac);
        let packet = Header::new(address(&i, ipv6), near(ipv6)).udp(1, 2, MARK);
        let published = Header::new(address(&i, ipv6), host(ipv6)).udp(1, 7000, MARK);
        let frames = [
            ("out", unpadded(mac, from, ethertype(ipv6), &packet)),
            ("to a published port", unpadded(mac, from, ethertype(ipv6), &published)),
        ];
        assert_nobody_hears(&lab, "i", &["a", "near"], &frames);
    }
    finish(lab);
}

#[test]
fn who_routes_the_subnet_to_the_host_reaches_what_is_published_and_nothing_else() {
    // Also on a host that forwards, for other reasons.
    for forwarding in ["0", "1"] {
        let Some((mut lab, ports)) = lab_with(&["a"]) else { return };
        lab.expect_changes("host");
        lab.ctl(&["publish", "br0", "a", "7000:80"]);
        must(lab.host().sysctl("net.ipv4.ip_forward", forwarding));
        must(lab.host().sysctl("net.ipv6.conf.all.forwarding", forwarding));
        for ipv6 in [false, true] {
            let network = if ipv6 { "fd00:1::/64" } else { "10.1.0.0/24" };
            must(lab.near().ip(&format!("route add {network} via {}", host(ipv6))));
            let container = address(&ports[0], ipv6);
            let (published, closed) = (
                must(Server::any(Protocol::Tcp, lab.container("a"), ipv6, 80)),
                must(Server::any(Protocol::Tcp, lab.container("a"), ipv6, 81)),
            );
            let datagrams = must(Server::any(Protocol::Udp, lab.container("a"), ipv6, 80));
            for client in [lab.near(), lab.far()] {
                // Published means at the host's address, not at the container's own.
                let unreached = [(&closed, 81), (&datagrams, 80), (&published, 80)];
                std::thread::scope(|scope| {
                    for (server, port) in unreached {
                        scope.spawn(move || {
                            assert!(server.misses(client, SocketAddr::new(container, port)), "forwarding {forwarding}");
                        });
                    }
                    assert_no_reach(client, container);
                });
                must(published.meet(client, SocketAddr::new(host(ipv6), 7000)).map(drop));
            }
            let kind = ethertype(ipv6);
            let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
            let header = Header::new(far(ipv6), container);
            let answer = Header::new(far(ipv6), container).icmp(if ipv6 { 129 } else { 0 }, 0, [0, 1, 0, 1], MARK);
            let frames = [
                ("a datagram", unpadded(to, from, kind, &header.udp(53, 5000, MARK))),
                ("an echo's answer", unpadded(to, from, kind, &answer)),
                ("tagged", tagged(0, &unpadded(to, from, kind, &header.udp(53, 5000, MARK)))),
            ];
            assert_nobody_hears(&lab, "near", &["a"], &frames);
        }
        must(lab.host().sysctl("net.ipv4.ip_forward", "0"));
        must(lab.host().sysctl("net.ipv6.conf.all.forwarding", "0"));
        finish(lab);
    }
}

#[test]
fn a_port_of_loopback_is_not_reached_from_outside() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    lab.ctl(&["publish", "br0", "a", "127.0.0.1:7000:7000/udp", "[::1]:7000:7000/udp"]);
    for ipv6 in [false, true] {
        let server = must(Server::any(Protocol::Udp, lab.container("a"), ipv6, 7000));
        must(server.meet(lab.host(), SocketAddr::new(super::loopback(ipv6), 7000)).map(drop));
        drop(server);
        let kind = ethertype(ipv6);
        // Frames for the host's interface, packets for its loopback address.
        let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
        for source in [near(ipv6), super::loopback(ipv6)] {
            let packet = Header::new(source, super::loopback(ipv6)).udp(1, 7000, MARK);
            assert_nobody_hears(&lab, "near", &["a"], &[("from outside", unpadded(to, from, kind, &packet))]);
        }
        // And from a neighbour on the bridge.
        let gateway = parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC"));
        let packet = Header::new(address(&ports[1], ipv6), super::loopback(ipv6)).udp(1, 7000, MARK);
        let frame = unpadded(gateway, parse_mac(&ports[1].mac), kind, &packet);
        assert_nobody_hears(&lab, "b", &["a", "near"], &[("from a container", frame)]);
    }
    finish(lab);
}

#[test]
fn martians_are_not_forwarded() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    // Without a guard, so that it is the gateway who refuses.
    let a = lab.attach("br0", "a", "--no-guard");
    lab.attach("br0", "b", "--publish 7000:7000/udp");
    let before = lab.dropped("martian");
    let (to, from) = (parse_mac(lab.bridge("br0").mac.as_deref().expect("a MAC")), parse_mac(&a.mac));
    let own = address(&a, false);
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut frames = Vec::new();
    for source in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", "10.1.0.255", "198.18.0.2"] {
        for target in [far(false), host(false)] {
            let packet = Header::new(ip(source), target).udp(1, 7000, MARK);
            frames.push((source, unpadded(to, from, IPV4, &packet)));
        }
    }
    for target in
        ["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.251", "239.1.1.1", "255.255.255.255", "240.0.0.1", "169.254.1.1"]
    {
        frames.push((target, unpadded(to, from, IPV4, &Header::new(own, ip(target)).udp(1, 7000, MARK))));
    }
    // Loose and strict source routes (RFC 7126 section 4.3: dropped by default), by way of the gateway and of a neighbour.
    for (name, kind) in [("loose source route", 0x83), ("strict source route", 0x89)] {
        for hop in [[10, 1, 0, 1], [198, 18, 0, 1]] {
            let mut options = vec![kind, 7, 4];
            options.extend(hop);
            options.push(0);
            let header = Header { options, ..Header::new(own, far(false)) };
            frames.push((name, unpadded(to, from, IPV4, &header.udp(1, 7000, MARK))));
        }
    }
    // From this network's neighbours nothing is heard either: broadcasts and multicasts at layer 2 are theirs, these are not.
    assert_nobody_hears(&lab, "a", &["near"], &frames);
    lab.await_dropped("martian", before);
    finish(lab);
}

#[test]
fn nobody_outside_speaks_as_a_container_or_as_the_host() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000/udp"]);
    let (to, from) = (must(lab.host().mac("u0")), must(lab.near().mac("eth0")));
    for ipv6 in [false, true] {
        let sources = [
            address(&ports[1], ipv6),
            address(&ports[0], ipv6),
            gateway(&lab, "br0", ipv6),
            host(ipv6),
            super::loopback(ipv6),
        ];
        let frames: Vec<(&str, Vec<u8>)> = sources
            .iter()
            .map(|source| {
                let packet = Header::new(*source, host(ipv6)).udp(9, 7000, MARK);
                ("a forged source", unpadded(to, from, ethertype(ipv6), &packet))
            })
            .collect();
        assert_nobody_hears(&lab, "near", &["a", "b"], &frames);
        // The same from an honest source arrives: the test can see.
        let honest = Header::new(near(ipv6), host(ipv6)).udp(9, 7000, MARK);
        let ear = must(PacketSocket::open(lab.container("a"), "eth0"));
        let mouth = must(PacketSocket::open_sender(lab.near(), "eth0"));
        must(mouth.send(&unpadded(to, from, ethertype(ipv6), &honest)));
        let heard = must(ear.recv_expected(1, QUIET, |frame| frame.windows(MARK.len()).any(|bytes| bytes == MARK)));
        assert_eq!(heard.len(), 1);
    }
    finish(lab);
}
