//! Addresses of containers: chosen, given, kept.

use std::io;
use std::net::SocketAddr;

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::docker::Container;
use vswitch_tests::outside::{far, host};

use super::findings::Findings;
use crate::world::World;

/// The MAC address that the container's interface in fact has, if Docker shows the same.
fn mac(container: &Container, network: &str) -> io::Result<String> {
    let octets = container.namespace.mac("eth0")?.map(|octet| format!("{octet:02x}"));
    let (seen, shown) = (octets.join(":"), container.mac(network));
    if seen == shown { Ok(seen) } else { Ok(format!("{seen}, and Docker shows {shown}")) }
}

/// The default gateway of a container, and by which interface.
fn default_route(container: &Container) -> io::Result<String> {
    let text = container.namespace.ip("-4 route show default")?;
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["default", "via", gateway, ..] => Ok(gateway.to_owned()),
        _ => Err(io::Error::other(format!("no default route: {text}"))),
    }
}

/// `--ip-range`, `--gateway`, `--aux-address`, `--ip`, `--mac-address`, restarts.
pub(crate) fn given_and_chosen(world: &World, findings: &mut Findings) {
    findings.group("addresses", |findings| {
        world.network(
            "n7",
            "--subnet 10.61.7.0/24 --ip-range 10.61.7.128/28 --gateway 10.61.7.254 --aux-address printer=10.61.7.128",
        )?;
        let docker = &world.docker;
        let chosen = world.start("chosen", "--network n7")?;
        let address = |container: &Container| Ok(container.address("n7", false)?.to_string());
        findings.record("the first address of --ip-range that --aux-address leaves", address(&chosen));
        findings.record("the default route leads to --gateway", default_route(&chosen));
        findings.record("the MAC address, when none is given", mac(&chosen, "n7").map(|mac| mac[..5].to_owned()));
        let given = world.start("given", "--network n7 --ip 10.61.7.9 --mac-address 02:00:5e:00:53:09")?;
        findings.record("--ip, outside of --ip-range", address(&given));
        findings.record("--mac-address", mac(&given, "n7"));
        let before = mac(&chosen, "n7")?;
        drop((chosen, given));
        docker.line("restart chosen given")?;
        let (chosen, given) = (docker.container("chosen")?, docker.container("given")?);
        findings.record("after `docker restart`: the chosen MAC address", {
            mac(&chosen, "n7").map(|mac| if mac == before { "the same".to_owned() } else { mac })
        });
        findings.record("after `docker restart`: the given MAC address", mac(&given, "n7"));
        findings.record("after `docker restart`: the given address", address(&given));
        let taken = world.start("taken", "--network n7 --ip 10.61.7.9");
        findings.works("--ip that another container has", taken);
        world.network("pool", "")?;
        let refused = world.start("refused", "--network pool --ip 10.99.99.99");
        findings.works("--ip where the network was made without --subnet", refused);
        docker.remove(&["chosen", "given", "taken", "refused"])?;
        docker.line("network rm n7 pool").map(drop)
    });
}

/// One container in two networks.
pub(crate) fn two_networks(world: &World, findings: &mut Findings) {
    findings.group("two networks", |findings| {
        let docker = &world.docker;
        world.network("nz", "--subnet 10.61.9.0/24")?;
        world.network("na", "--subnet 10.61.8.0/24")?;
        world.start("both", "--network nz -p 8085:80")?;
        docker.line("network connect na both")?;
        let both = docker.container("both")?;
        let name = |gateway: &str| match gateway {
            "10.61.8.1" => "the first network by name".to_owned(),
            "10.61.9.1" => "the network that it was started with".to_owned(),
            other => other.to_owned(),
        };
        let published = |both: &Container| {
            let server = Server::any(Protocol::Tcp, &both.namespace, false, 80)?;
            server.try_meet(world.lab.far(), SocketAddr::new(host(false), 8085)).map(|seen| seen.ip() == far(false))
        };
        findings.record("two networks: the default route", default_route(&both).map(|route| name(&route)));
        findings.works("two networks: a published port from outside", published(&both));
        for network in ["nz", "na"] {
            let peer = world.start(&format!("peer-{network}"), &format!("--network {network}"))?;
            let server = Server::any(Protocol::Tcp, &both.namespace, false, 81)?;
            let met = server.try_meet(&peer.namespace, SocketAddr::new(both.address(network, false)?, 81));
            let behaviour = if network == "nz" {
                "two networks: reached in the first"
            } else {
                "two networks: reached in the one that was connected later"
            };
            findings.works(behaviour, met);
        }
        docker.line("network disconnect na both")?;
        let both = docker.container("both")?;
        findings.record("disconnected again: the default route", default_route(&both).map(|route| name(&route)));
        findings.works("disconnected again: a published port from outside", published(&both));
        docker.remove(&["both", "peer-nz", "peer-na"])?;
        docker.line("network rm na nz").map(drop)
    });
}
