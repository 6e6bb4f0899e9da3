//! Who reaches a published port, by which address, and whom its server then sees.

use std::net::{IpAddr, SocketAddr};

use vswitch_tests::Namespace;
use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::lab::{address, must};
use vswitch_tests::outside::{far, host, near};

use super::{DUAL_SECOND, finish, gateway, lab_with, loopback};

#[test]
fn everybody_reaches_it_and_is_seen_as_himself() {
    let Some((mut lab, ports)) = lab_with(&["a", "b"]) else { return };
    lab.add_bridge("br1", DUAL_SECOND);
    let c = lab.attach("br1", "c", "");
    lab.ctl(&["publish", "br0", "a", "7000:80/tcp", "7000:80/udp"]);
    for ipv6 in [false, true] {
        let (own, second) = (gateway(&lab, "br0", ipv6), gateway(&lab, "br1", ipv6));
        // Who, at which address of the host, and whom the server sees.
        let cases: Vec<(&Namespace, IpAddr, IpAddr)> = vec![
            (lab.near(), host(ipv6), near(ipv6)),
            (lab.far(), host(ipv6), far(ipv6)),
            // The host, by each of its addresses: as that address, as the kernel chooses for itself.
            (lab.host(), host(ipv6), host(ipv6)),
            (lab.host(), own, own),
            (lab.host(), second, second),
            // By loopback: nobody could answer 127.0.0.1, so it is the gateway.
            (lab.host(), loopback(ipv6), own),
            // Other containers, by any address of the host: as themselves.
            (lab.container("b"), host(ipv6), address(&ports[1], ipv6)),
            (lab.container("b"), own, address(&ports[1], ipv6)),
            (lab.container("c"), host(ipv6), address(&c, ipv6)),
            (lab.container("c"), second, address(&c, ipv6)),
            (lab.container("c"), own, address(&c, ipv6)),
            // Itself: as the gateway, because its own stack would not take its own address from outside.
            (lab.container("a"), host(ipv6), own),
            (lab.container("a"), own, own),
        ];
        for protocol in Protocol::ALL {
            let server = must(Server::any(protocol, lab.container("a"), ipv6, 80));
            for (client, ip, wanted) in &cases {
                let target = SocketAddr::new(*ip, 7000);
                // Twice: what the first packet has set up serves the second client, too.
                for _ in 0..2 {
                    match server.meet(client, target) {
                        Ok(seen) => assert_eq!(seen.ip(), *wanted, "{protocol:?}: {} by {target}", client.name()),
                        Err(error) => panic!("{protocol:?}: {error}"),
                    }
                }
            }
        }
    }
    finish(lab);
}

#[test]
fn the_same_port_inside_and_outside_and_other_ports_beside_it() {
    let Some((lab, ports)) = lab_with(&["a", "b"]) else { return };
    lab.ctl(&["publish", "br0", "a", "80:80"]);
    lab.ctl(&["publish", "br0", "b", "81:80"]);
    for ipv6 in [false, true] {
        let (a, b) = (
            must(Server::any(Protocol::Tcp, lab.container("a"), ipv6, 80)),
            must(Server::any(Protocol::Tcp, lab.container("b"), ipv6, 80)),
        );
        must(a.meet(lab.far(), SocketAddr::new(host(ipv6), 80)).map(drop));
        must(b.meet(lab.far(), SocketAddr::new(host(ipv6), 81)).map(drop));
        // Container to container, past the gateway, as on any bridge.
        let direct = must(a.meet(lab.container("b"), SocketAddr::new(address(&ports[0], ipv6), 80)));
        assert_eq!(direct.ip(), address(&ports[1], ipv6));
        // And through the host's address at the same time: both ways at once are not confused.
        assert_eq!(must(a.meet(lab.container("b"), SocketAddr::new(host(ipv6), 80))).ip(), address(&ports[1], ipv6));
        let again = must(a.meet(lab.container("b"), SocketAddr::new(address(&ports[0], ipv6), 80)));
        assert_eq!(again.ip(), direct.ip());
        // The host's own programs keep all other ports.
        let own = must(Server::any(Protocol::Tcp, lab.host(), ipv6, 82));
        for client in [lab.near(), lab.far(), lab.container("a"), lab.container("b"), lab.host()] {
            must(own.meet(client, SocketAddr::new(host(ipv6), 82)).map(drop));
        }
    }
    finish(lab);
}

#[test]
fn a_family_that_the_container_does_not_have_is_not_published() {
    let Some((mut lab, _)) = lab_with(&[]) else { return };
    lab.add_bridge("br4", "--subnet 10.4.0.0/24");
    lab.attach("br4", "four", "--publish 7000:80");
    let lines = lab.ctl(&["ports", "br4"]);
    assert!(lines.contains("0.0.0.0:7000") && !lines.contains("[::]"), "{lines}");
    let server = must(Server::any(Protocol::Tcp, lab.container("four"), false, 80));
    must(server.meet(lab.far(), SocketAddr::new(host(false), 7000)).map(drop));
    assert!(server.misses(lab.far(), SocketAddr::new(host(true), 7000)));
    // That port is still the host's in the other family.
    let own = must(Server::bind(Protocol::Tcp, lab.host(), SocketAddr::new(host(true), 7000)));
    must(own.meet(lab.far(), SocketAddr::new(host(true), 7000)).map(drop));
    finish(lab);
}

#[test]
fn the_host_needs_no_uplink_for_its_own_containers() {
    let Some((mut lab, _)) = lab_with(&["a", "b"]) else { return };
    lab.expect_changes("host");
    lab.allow_log("uplink");
    lab.ctl(&["publish", "br0", "a", "7000:80/tcp", "7000:80/udp"]);
    must(lab.host().ip("link set u0 down"));
    for protocol in Protocol::ALL {
        let server = must(Server::any(protocol, lab.container("a"), false, 80));
        for ip in [loopback(false), gateway(&lab, "br0", false)] {
            let seen = must(server.meet(lab.host(), SocketAddr::new(ip, 7000)));
            assert_eq!(seen.ip(), gateway(&lab, "br0", false));
        }
        let own = SocketAddr::new(gateway(&lab, "br0", false), 7000);
        must(server.meet(lab.container("b"), own).map(drop));
        must(server.meet(lab.container("a"), own).map(drop));
    }
    finish(lab);
}
