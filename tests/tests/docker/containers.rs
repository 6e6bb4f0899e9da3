//! `docker run`, and what may become of a container.

use std::net::SocketAddr;

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::lab::must;
use vswitch_tests::outside::{far, host};
use vswitch_tests::process::{PATIENCE, wait_until};

use crate::world::World;

#[test]
fn ports_in_every_form() {
    let Some(world) = World::vswitch() else { return };
    let docker = &world.docker;
    must(world.network("net", "--subnet 10.71.0.0/24 --ipv6 --subnet fd71::/64"));
    let wire = host(false);
    let web = must(world.start(
        "web",
        &format!(
            "--network net -p 8080:80 -p 8081:81/udp -p 127.0.0.1:8082:82 -p 9000-9003:9000-9003 -p {wire}::84 -p 85 \
             -p 9100-9110:86 -p [::1]:8087:87 -p 0.0.0.0:8088:88 -p 127.0.0.1::89/udp -p 7777:7777/sctp"
        ),
    ));
    let listed = world.lab.ctl(&["ports"]);
    for line in [
        "80/tcp -> 0.0.0.0:8080",
        "80/tcp -> [::]:8080",
        "81/udp -> 0.0.0.0:8081",
        "82/tcp -> 127.0.0.1:8082",
        "9000-9003/tcp -> 0.0.0.0:9000-9003",
        "84/tcp -> 198.18.0.2:",
        "87/tcp -> [::1]:8087",
        "88/tcp -> 0.0.0.0:8088",
        "7777/sctp -> 0.0.0.0:7777",
    ] {
        assert!(listed.contains(line), "{line} is not in\n{listed}");
    }
    let chosen = |protocol, inside| must(world.host_port(&web, "net", protocol, inside));
    for (protocol, outside, inside) in [
        (Protocol::Tcp, 8080, 80),
        (Protocol::Udp, 8081, 81),
        (Protocol::Tcp, 9000, 9000),
        (Protocol::Tcp, 9003, 9003),
        (Protocol::Tcp, chosen(Protocol::Tcp, 84), 84),
        (Protocol::Tcp, chosen(Protocol::Tcp, 85), 85),
        (Protocol::Tcp, chosen(Protocol::Tcp, 86), 86),
        (Protocol::Tcp, 8088, 88),
    ] {
        world.assert_published(&web, protocol, outside, inside);
    }
    assert!((9100..=9110).contains(&chosen(Protocol::Tcp, 86)), "{}", chosen(Protocol::Tcp, 86));
    let six = must(Server::any(Protocol::Tcp, &web.namespace, true, 80));
    assert_eq!(must(six.meet(world.lab.far(), SocketAddr::new(host(true), 8080))).ip(), far(true));
    for (protocol, target, inside) in [
        (Protocol::Tcp, "127.0.0.1:8082".to_owned(), 82),
        (Protocol::Tcp, "[::1]:8087".to_owned(), 87),
        (Protocol::Udp, format!("127.0.0.1:{}", chosen(Protocol::Udp, 89)), 89),
    ] {
        let target: SocketAddr = target.parse().expect("an endpoint");
        let server = must(Server::any(protocol, &web.namespace, target.is_ipv6(), inside));
        must(server.meet(world.lab.host(), target).map(drop));
    }
    drop((web, six));
    // With the container all of them go.
    must(docker.remove(&["web"]));
    assert_eq!(world.lab.ctl(&["ports"]).trim(), "");
    world.finish();
}

#[test]
fn a_port_that_is_taken() {
    let Some(world) = World::vswitch() else { return };
    let docker = &world.docker;
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let first = must(world.start("first", "--network net -p 8080:80"));
    let said = world.start("second", "--network net -p 8080:80").expect_err("the port is taken").to_string();
    assert!(said.contains("8080"), "{said}");
    world.assert_published(&first, Protocol::Tcp, 8080, 80);
    // By a program of the host's.
    let own = must(Server::any(Protocol::Tcp, world.lab.host(), false, 8090));
    let said = world.start("third", "--network net -p 8090:80").expect_err("the host has it").to_string();
    assert!(said.contains("8090"), "{said}");
    drop(own);
    // What failed left no address and no port with the switch; Docker's container can be started now.
    assert_eq!(world.bridge("net")["ports"], 1);
    must(docker.line("start third"));
    world.assert_published(&must(docker.container("third")), Protocol::Tcp, 8090, 80);
    drop(first);
    must(docker.line("stop first"));
    must(docker.line("start second"));
    world.assert_published(&must(docker.container("second")), Protocol::Tcp, 8080, 80);
    assert!(docker.line("start first").is_err(), "now it is the first that comes too late");
    world.finish();
}

#[test]
fn connect_and_disconnect() {
    let Some(world) = World::vswitch() else { return };
    let docker = &world.docker;
    must(world.network("one", "--subnet 10.71.1.0/24"));
    must(world.network("two", "--subnet 10.71.2.0/24"));
    must(world.start("web", "--network one -p 8080:80"));
    let peer = must(world.start("peer", "--network two"));
    for round in 0..3 {
        must(docker.line("network connect --ip 10.71.2.77 --alias www two web"));
        let web = must(docker.container("web"));
        assert_eq!(must(web.address("two", false)).to_string(), "10.71.2.77");
        // Docker counts on with every connection: eth1, eth2…
        let ifname = format!("eth{}", round + 1);
        let addresses = || must(web.namespace.ip("-o -4 addr show"));
        assert!(addresses().contains(&format!("{ifname}    inet 10.71.2.77/24")), "{}", addresses());
        world.assert_reaches(&peer, &web, must(web.address("two", false)));
        world.assert_reaches(&web, &peer, must(peer.address("two", false)));
        assert!(must(docker.exec("peer", "nslookup -type=a www 127.0.0.11")).contains("10.71.2.77"));
        world.assert_published(&web, Protocol::Tcp, 8080, 80);
        must(docker.line("network disconnect two web"));
        let links = must(web.namespace.ip("-o link show"));
        assert_eq!(links.lines().count(), 2, "round {round}: loopback and eth0 alone: {links}");
        assert_eq!(world.bridge("two")["ports"], 1, "round {round}");
    }
    // Not running, and with force.
    must(docker.line("network connect two web"));
    must(docker.line("network disconnect -f one web"));
    let web = must(docker.container("web"));
    world.assert_reaches(&peer, &web, must(web.address("two", false)));
    drop(web);
    must(docker.line("stop web"));
    must(docker.line("network connect one web"));
    must(docker.line("start web"));
    let web = must(docker.container("web"));
    world.assert_published(&web, Protocol::Tcp, 8080, 80);
    drop((web, peer));
    world.finish();
}

#[test]
fn what_becomes_of_a_container() {
    let Some(world) = World::vswitch() else { return };
    let docker = &world.docker;
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let web = must(world.start("web", "--network net --restart always -p 8080:80"));
    let before = (must(web.address("net", false)), web.mac("net"));
    // Its first process dies, and Docker starts another one.
    let pid = web.inspect["State"]["Pid"].clone();
    drop(web);
    must(vswitch_tests::process::run_ok(std::process::Command::new("kill").args(["-9", &pid.to_string()]), PATIENCE));
    let web = must(wait_until("another process", PATIENCE, || {
        docker.container("web").ok().filter(|web| web.inspect["State"]["Pid"] != pid)
    }));
    assert_eq!((must(web.address("net", false)), web.mac("net")), before);
    world.assert_published(&web, Protocol::Tcp, 8080, 80);
    drop(web);
    for command in ["restart web", "stop web", "start web", "pause web", "unpause web", "kill web", "start web"] {
        must(docker.line(command));
    }
    let web = must(docker.container("web"));
    world.assert_published(&web, Protocol::Tcp, 8080, 80);
    // One that shares its namespace has no endpoint of its own.
    let guest = must(world.start("guest", "--network container:web"));
    let server = must(Server::any(Protocol::Tcp, &guest.namespace, false, 80));
    must(server.meet(world.lab.far(), SocketAddr::new(host(false), 8080)).map(drop));
    assert_eq!(world.bridge("net")["ports"], 1);
    drop((web, guest, server));
    must(docker.remove(&["guest", "web"]));
    // Nothing but a short life.
    for _ in 0..3 {
        must(docker.line("run --rm --network net -p 8080:80 vswitch-test /bin/true"));
    }
    let shown =
        must(docker.line("run --rm --network net --ip 10.71.0.77 vswitch-test /bin/ip -4 -o addr show dev eth0"));
    assert!(shown.contains("10.71.0.77/24"), "{shown}");
    assert_eq!(world.bridge("net")["ports"], 0);
    world.finish();
}
