//! Networks with IPv6.

use std::net::SocketAddr;

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::outside::{far, host};

use super::findings::{Findings, Names, access};
use crate::world::World;

/// Addresses of both families, and the ways in and out by IPv6.
pub(crate) fn ipv6(world: &World, findings: &mut Findings) {
    findings.group("IPv6", |findings| {
        world.network("n6", "--ipv6 --subnet 10.61.6.0/24 --subnet fd61:6::/64")?;
        let six = world.start("six", "--network n6 --ip6 fd61:6::66 -p 8081:81 -p 8081:81/udp")?;
        let seven = world.start("seven", "--network n6")?;
        findings
            .record("--ipv6 --ip6: the address that was asked for", six.address("n6", true).map(|ip| ip.to_string()));
        let names = |itself| {
            Names::new(vec![
                (itself, "itself"),
                (host(true), "the host"),
                ("10.61.6.1".parse().unwrap_or(itself), "the gateway's IPv4 address"),
                ("fd61:6::1".parse().unwrap_or(itself), "the gateway"),
            ])
        };
        let (mine, others) = (six.address("n6", true)?, seven.address("n6", true)?);
        findings.record(
            "containers of one network by IPv6",
            access(&six, 81, &seven.namespace, SocketAddr::new(mine, 81), &names(others)),
        );
        let outside = Server::any(Protocol::Tcp, world.lab.far(), true, 7000)?;
        let out = outside.try_meet(&six.namespace, SocketAddr::new(far(true), 7000));
        findings.record("out by IPv6", out.map(|seen| format!("yes, seen as {}", names(mine).of(seen.ip()))));
        let target = SocketAddr::new(host(true), 8081);
        findings.record(
            "published port: by the host's IPv6 address, the container has both",
            access(&six, 81, world.lab.far(), target, &names(far(true))),
        );
        let target = SocketAddr::new(host(false), 8081);
        findings.record(
            "published port: by the host's IPv4 address, the container has both",
            access(&six, 81, world.lab.far(), target, &names(far(false))),
        );
        world.docker.remove(&["six", "seven"])?;
        world.docker.line("network rm n6").map(drop)
    });
}
