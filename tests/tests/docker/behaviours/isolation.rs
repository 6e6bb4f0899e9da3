//! What stays apart, and what is let through without being translated.

use std::io;
use std::net::{IpAddr, SocketAddr};

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::docker::Container;
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::{Lab, Namespace};

use super::findings::{Findings, Names};
use crate::world::World;

fn meet(container: &Container, port: u16, client: &Namespace, target: SocketAddr) -> io::Result<IpAddr> {
    Ok(Server::any(Protocol::Tcp, &container.namespace, false, port)?.try_meet(client, target)?.ip())
}

/// Whom a server of the `machine` outside sees when `container` connects to it.
fn out(container: &Container, machine: &Namespace, address: IpAddr, names: &Names) -> io::Result<String> {
    let server = Server::any(Protocol::Tcp, machine, false, 7000)?;
    let seen = server.try_meet(&container.namespace, SocketAddr::new(address, 7000))?;
    Ok(format!("yes, seen as {}", names.of(seen.ip())))
}

/// The neighbour sends to a network of containers by the host, while `f` runs.
fn routed<T>(lab: &Lab, subnet: &str, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    lab.near().ip(&format!("route add {subnet} via {}", host(false)))?;
    let result = f();
    lab.near().ip(&format!("route del {subnet}"))?;
    result
}

/// A machine that has a route to the containers' addresses.
pub(crate) fn direct_routing(world: &World, findings: &mut Findings) {
    findings.group("direct routing", |findings| {
        let open = world.start("open", "--network n1 -p 8087:80")?;
        let (address, lab) = (open.address("n1", false)?, &world.lab);
        routed(lab, "10.61.1.0/24", || {
            findings.works("from outside to a container's own address: a port that is published", {
                meet(&open, 80, lab.near(), SocketAddr::new(address, 80))
            });
            findings.works("from outside to a container's own address: a port that is not published", {
                meet(&open, 90, lab.near(), SocketAddr::new(address, 90))
            });
            findings.works("from outside to a container's own address: ping", {
                lab.near().run(&format!("ping -n -q -c 1 -W 1 {address}"))
            });
            Ok(())
        })?;
        let names = Names::new(vec![(address, "itself"), (host(false), "the host")]);
        findings.record("out, to a machine beyond a router", out(&open, lab.far(), far(false), &names));
        world.docker.remove(&["open"])
    });
}

/// Masquerading switched off.
pub(crate) fn without_nat(world: &World, findings: &mut Findings) {
    findings.group("no masquerading", |findings| {
        world.network("n3", "--subnet 10.61.3.0/24 -o com.docker.network.bridge.enable_ip_masquerade=false")?;
        let bare = world.start("bare", "--network n3 -p 8088:80")?;
        let (address, lab) = (bare.address("n3", false)?, &world.lab);
        let names = Names::new(vec![(address, "itself"), (host(false), "the host"), (near(false), "itself")]);
        routed(lab, "10.61.3.0/24", || {
            findings.record("enable_ip_masquerade=false: out, to a machine with a route back", {
                out(&bare, lab.near(), near(false), &names)
            });
            findings.record("enable_ip_masquerade=false: a published port from outside", {
                meet(&bare, 80, lab.near(), SocketAddr::new(host(false), 8088))
                    .map(|seen| format!("yes, seen as {}", names.of(seen)))
            });
            Ok(())
        })?;
        world.docker.remove(&["bare"])?;
        world.docker.line("network rm n3").map(drop)
    });
}

/// `--internal`.
pub(crate) fn internal(world: &World, findings: &mut Findings) {
    findings.group("--internal", |findings| {
        world.network("n4", "--internal --subnet 10.61.4.0/24")?;
        let a = world.start("inside", "--network n4 -p 8084:80")?;
        let b = world.start("between", "--network n4")?;
        let (address, lab) = (a.address("n4", false)?, &world.lab);
        let direct = SocketAddr::new(address, 80);
        findings.works("--internal: its containers, each other", meet(&a, 80, &b.namespace, direct));
        findings.works("--internal: out", out(&a, lab.near(), near(false), &Names::new(Vec::new())));
        findings.works("--internal: the host to a container", meet(&a, 80, lab.host(), direct));
        findings.works("--internal: from outside, a published port", {
            meet(&a, 80, lab.near(), SocketAddr::new(host(false), 8084))
        });
        findings.works("--internal: from outside, to a container's own address", {
            routed(lab, "10.61.4.0/24", || meet(&a, 80, lab.near(), direct))
        });
        // A container with a foot in each.
        world.docker.line("network connect n1 between")?;
        let c = world.start("without", "--network n1")?;
        let b = world.docker.container("between")?;
        findings.works("--internal and another network in one container: reached by the other", {
            meet(&b, 80, &c.namespace, SocketAddr::new(b.address("n1", false)?, 80))
        });
        findings.works("--internal and another network in one container: out", {
            out(&b, lab.far(), far(false), &Names::new(Vec::new()))
        });
        world.docker.remove(&["inside", "between", "without"])?;
        world.docker.line("network rm n4").map(drop)
    });
}

/// `enable_icc=false`.
pub(crate) fn without_icc(world: &World, findings: &mut Findings) {
    findings.group("no ICC", |findings| {
        world.network("n5", "--subnet 10.61.5.0/24 -o com.docker.network.bridge.enable_icc=false")?;
        let x = world.start("first", "--network n5 -p 8089:80")?;
        let y = world.start("second", "--network n5")?;
        let (address, lab) = (x.address("n5", false)?, &world.lab);
        let names = Names::new(vec![(host(false), "the host")]);
        findings.works("enable_icc=false: containers of the network, directly", {
            meet(&x, 80, &y.namespace, SocketAddr::new(address, 80))
        });
        findings.works("enable_icc=false: by the published port", {
            meet(&x, 80, &y.namespace, SocketAddr::new(host(false), 8089))
        });
        findings.record("enable_icc=false: out", out(&y, lab.far(), far(false), &names));
        findings.works("enable_icc=false: from outside, a published port", {
            meet(&x, 80, lab.far(), SocketAddr::new(host(false), 8089))
        });
        world.docker.remove(&["first", "second"])?;
        world.docker.line("network rm n5").map(drop)
    });
}
