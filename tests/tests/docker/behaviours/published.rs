//! Who reaches a published port, and whom its server then sees.

use std::net::{IpAddr, SocketAddr};

use vswitch_tests::Namespace;
use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::outside::{far, host, near};

use super::findings::{Findings, Names, access};
use crate::world::World;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// From the outside, the host, and containers.
pub(crate) fn everybody(world: &World, findings: &mut Findings) {
    findings.group("published ports", |findings| {
        world.network("n1", "--subnet 10.61.1.0/24")?;
        world.network("n2", "--subnet 10.61.2.0/24")?;
        let web = world.start("web", "--network n1 -p 8080:80 -p 8080:80/udp")?;
        let peer = world.start("peer", "--network n1")?;
        let other = world.start("other", "--network n2")?;
        let (mine, lab) = (web.address("n1", false)?, &world.lab);
        let gateway = |network: u8| IpAddr::from([10, 61, network, 1]);
        let names = |itself: IpAddr| {
            Names::new(vec![
                (itself, "itself"),
                (host(false), "the host"),
                (gateway(1), "the gateway"),
                (gateway(2), "its own gateway"),
            ])
        };
        let direct = SocketAddr::new(mine, 80);
        let of_peer = names(peer.address("n1", false)?);
        findings.record("containers of one network, directly", access(&web, 80, &peer.namespace, direct, &of_peer));
        let of_other = names(other.address("n2", false)?);
        findings
            .record("a container of another network, directly", access(&web, 80, &other.namespace, direct, &of_other));
        let clients: [(&str, &Namespace, IpAddr, Names); 10] = [
            ("published port: from a machine on the host's wire", lab.near(), host(false), names(near(false))),
            ("published port: from a machine beyond a router", lab.far(), host(false), names(far(false))),
            ("published port: from the host, by its own address", lab.host(), host(false), names(host(false))),
            ("published port: from the host, by 127.0.0.1", lab.host(), LOOPBACK, names(LOOPBACK)),
            ("published port: from the host, by the network's gateway", lab.host(), gateway(1), names(gateway(1))),
            ("published port: from a container of the same network", &peer.namespace, host(false), of_peer),
            ("published port: from the container itself (hairpin)", &web.namespace, host(false), names(mine)),
            (
                "published port: from a container, by its gateway's address",
                &peer.namespace,
                gateway(1),
                names(peer.address("n1", false)?),
            ),
            ("published port: from a container of another network", &other.namespace, host(false), of_other),
            (
                "published port: from another network, by its gateway's address",
                &other.namespace,
                gateway(2),
                names(other.address("n2", false)?),
            ),
        ];
        for (behaviour, client, ip, names) in clients {
            let found = access(&web, 80, client, SocketAddr::new(ip, 8080), &names);
            findings.record(behaviour, found);
        }
        // Docker's test Proxy4To6 the other way round: the container has no IPv6.
        let target = SocketAddr::new(host(true), 8080);
        let found = access(&web, 80, lab.far(), target, &names(far(true)));
        findings.record("published port: by the host's IPv6 address, the container has IPv4 only", found);
        world.docker.remove(&["web", "peer", "other"])
    });
}

/// `-P`: a port of the host for each that is exposed.
pub(crate) fn all_exposed_ports(world: &World, findings: &mut Findings) {
    findings.group("-P", |findings| {
        let all = world.start("all", "--network n1 -P --expose 80 --expose 81/udp")?;
        let ports = [(Protocol::Tcp, 80), (Protocol::Udp, 81)];
        let mut found = Ok(());
        for (protocol, inside) in ports {
            found = found.and_then(|()| {
                let target = SocketAddr::new(host(false), world.host_port(&all, "n1", protocol, inside)?);
                Server::any(protocol, &all.namespace, false, inside)?.try_meet(world.lab.far(), target).map(drop)
            });
        }
        findings.works("-P publishes every exposed port", found);
        let shown = world.docker.line("port all")?;
        let shows = |(protocol, inside): (Protocol, u16)| shown.contains(&format!("{inside}/{} -> ", protocol.name()));
        let complete = ports.into_iter().all(shows);
        findings.works(
            "`docker port` and `docker ps` show where",
            match complete {
                true => Ok(()),
                false => Err(std::io::Error::other(format!("`docker port` shows {shown:?}"))),
            },
        );
        world.docker.remove(&["all"])
    });
}
