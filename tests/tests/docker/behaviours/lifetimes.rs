//! What has just been somebody's, and is somebody else's now.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use vswitch_tests::Namespace;
use vswitch_tests::contact::{Protocol, Server, TRIAL, hear_within, udp};
use vswitch_tests::docker::Container;
use vswitch_tests::outside::{far, host};

use super::findings::Findings;
use crate::world::World;

/// `docker restart` right after a connection: its port is not held for two maximum segment lifetimes.
pub(crate) fn restart(world: &World, findings: &mut Findings) {
    findings.group("restart", |findings| {
        world.start("again", "--network n1 -p 8090:80")?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let clients: [(&Namespace, IpAddr); 3] =
            [(world.lab.far(), host(false)), (world.lab.host(), host(false)), (world.lab.host(), loopback)];
        let meet = |container: &Container| {
            for (client, ip) in clients {
                // The server's side is closed first: TIME-WAIT is on the container's side, or the proxy's.
                Server::any(Protocol::Tcp, &container.namespace, false, 80)?
                    .try_meet(client, SocketAddr::new(ip, 8090))?;
            }
            Ok::<_, io::Error>(())
        };
        meet(&world.docker.container("again")?)?;
        world.docker.line("restart again")?;
        findings.works("`docker restart` right after a connection: reached at once", {
            world.docker.container("again").and_then(|container| meet(&container))
        });
        world.docker.remove(&["again"])
    });
}

/// A new container with an address that a neighbour knows by another's MAC address.
pub(crate) fn heir_of_an_address(world: &World, findings: &mut Findings) {
    findings.group("an heir of an address", |findings| {
        let peer = world.start("neighbour", "--network n1")?;
        let reach = || peer.namespace.run("ping -n -q -c 1 -W 1 10.61.1.77");
        world.start("old", "--network n1 --ip 10.61.1.77 --mac-address 02:00:5e:00:53:01")?;
        reach()?;
        world.docker.remove(&["old"])?;
        world.start("new", "--network n1 --ip 10.61.1.77 --mac-address 02:00:5e:00:53:02")?;
        findings.works("a container with the address of an earlier one, another MAC address: reached at once", reach());
        world.docker.remove(&["neighbour", "new"])
    });
}

/// A second container on the same port of the host.
pub(crate) fn heir_of_a_port(world: &World, findings: &mut Findings) {
    findings.group("an heir of a port", |findings| {
        let client = udp(world.lab.far(), false, 0)?;
        let target = SocketAddr::new(host(false), 8091);
        let ask = |container: &Container| {
            let server = udp(&container.namespace, false, 53)?;
            client.send_to(b"who", target)?;
            let (_, from) = hear_within(&server, TRIAL)?;
            server.send_to(b"me", from)?;
            hear_within(&client, TRIAL)?;
            Ok::<_, io::Error>(from.ip() == far(false))
        };
        ask(&world.start("first", "--network n1 -p 8091:53/udp")?)?;
        world.docker.remove(&["first"])?;
        // While nobody has it, too: whatever is remembered of these must not last either.
        client.send_to(b"nobody", target)?;
        let second = world.start("second", "--network n1 -p 8091:53/udp")?;
        findings.works("UDP: the next container on a port gets the very next datagram of an old client", ask(&second));
        drop(second);
        world.docker.remove(&["second"])
    });
}
