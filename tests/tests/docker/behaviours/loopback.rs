//! Ports published on one address of the host, or several.

use std::io;
use std::net::{IpAddr, SocketAddr};

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::docker::Container;
use vswitch_tests::outside::{host, near};
use vswitch_tests::{Lab, Namespace};

use super::findings::Findings;
use crate::world::World;

const LOOPBACK: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)), IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2))];

fn meet(container: &Container, client: &Namespace, ip: IpAddr, port: u16) -> io::Result<SocketAddr> {
    Server::any(Protocol::Tcp, &container.namespace, false, 80)?.try_meet(client, SocketAddr::new(ip, port))
}

/// Loopback addresses, one of the host's, and all.
pub(crate) fn host_addresses(world: &World, findings: &mut Findings) {
    findings.group("publishing on addresses", |findings| {
        let one = world.start("one", "--network n1 -p 127.0.0.1:8082:80 -p 127.0.0.1:8083:80")?;
        let two = world.start("two", "--network n1 -p 127.0.0.2:8082:80")?;
        let three = world.start("three", &format!("--network n1 -p {}:8082:80", host(false)))?;
        let lab = &world.lab;
        findings.works("published on 127.0.0.1: from the host", meet(&one, lab.host(), LOOPBACK[0], 8082));
        findings.works("published on 127.0.0.1: from outside, by the host's address", {
            meet(&one, lab.near(), host(false), 8083)
        });
        findings.works("published on 127.0.0.1: from a container, by the host's address", {
            meet(&one, &two.namespace, host(false), 8083)
        });
        findings.works("published on 127.0.0.1: from a neighbour that sends to 127.0.0.1 on the wire", {
            from_the_wire(lab, &one)
        });
        findings.works(
            "the same port published on 127.0.0.1, 127.0.0.2 and the host's address by three containers",
            meet(&one, lab.host(), LOOPBACK[0], 8082)
                .and_then(|_| meet(&two, lab.host(), LOOPBACK[1], 8082))
                .and_then(|_| meet(&three, lab.near(), host(false), 8082)),
        );
        // A failed `docker run` leaves a container that was made and not started.
        let taken = world.start("four", "--network n1 -p 8082:80");
        findings.works("the same port published on all addresses beside them", taken);
        world.docker.remove(&["one", "two", "three", "four"])
    });
}

/// A neighbour for whom 127.0.0.1 is the host's: the packets are such as no router passes on, but no router is between.
fn from_the_wire(lab: &Lab, container: &Container) -> io::Result<SocketAddr> {
    let neighbour = lab.near();
    neighbour.sysctl("net.ipv4.conf.eth0.route_localnet", "1")?;
    neighbour.ip("addr del 127.0.0.1/8 dev lo")?;
    neighbour.ip(&format!("route add 127.0.0.1/32 via {} dev eth0 src {}", host(false), near(false)))?;
    let met = meet(container, neighbour, LOOPBACK[0], 8083);
    neighbour.ip("route del 127.0.0.1/32")?;
    neighbour.ip("addr add 127.0.0.1/8 dev lo")?;
    met
}
