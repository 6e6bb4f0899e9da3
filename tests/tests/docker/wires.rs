//! A physical network as a network of Docker's, which macvlan and pipework were for; and what one endpoint asks for itself.

use std::time::Duration;

use vswitch_tests::frame::{BROADCAST, parse_mac, tagged, unpadded};
use vswitch_tests::lab::{assert_reaches, must};
use vswitch_tests::packet::{ARP, arp};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;

use crate::world::World;

/// The router on the wire, and a container.
const ROUTER: [u8; 4] = [192, 0, 2, 1];
const CONTAINER: [u8; 4] = [192, 0, 2, 5];
const LIMIT: Duration = PATIENCE;

/// Joins the host to the machine `near` by a second wire, `lan0` at both ends.
fn plug(world: &mut World) {
    world.lab.expect_changes("host");
    let near = world.lab.near().name().to_owned();
    must(world.lab.host().ip(&format!("link add lan0 type veth peer name lan0 netns {near}")));
    must(world.lab.host().ip("link set lan0 up"));
    must(world.lab.near().ip("addr add 192.0.2.1/24 dev lan0"));
    must(world.lab.near().ip("link set lan0 up"));
}

#[test]
fn containers_on_the_physical_network() {
    let Some(mut world) = World::vswitch() else { return };
    plug(&mut world);
    must(world.network(
        "lan",
        "--subnet 192.0.2.0/24 --ip-range 192.0.2.64/26 --aux-address DefaultGatewayIPv4=192.0.2.1 -o l2=true -o uplink=lan0",
    ));
    let web = must(world.start("web", "--network lan --ip 192.0.2.5"));
    let db = must(world.start("db", "--network lan"));
    // With addresses of that network, as machines on it; the router leads to the world.
    assert_reaches(&web.namespace, ROUTER.into());
    assert_reaches(world.lab.near(), CONTAINER.into());
    assert_reaches(world.lab.near(), must(db.address("lan", false)));
    let routes = must(web.namespace.ip("route"));
    assert!(routes.contains("default via 192.0.2.1"), "{routes}");
    let neighbours = must(world.lab.near().ip("neigh show dev lan0"));
    assert!(neighbours.contains(&web.mac("lan")), "the container's own MAC address is on the wire: {neighbours}");
    drop((web, db));
    must(world.docker.remove_all());

    // The same wire, and a VLAN of it.
    must(world.network("blue", "--subnet 192.0.2.0/24 -o l2=true -o uplink=lan0 -o vlan=100"));
    let web = must(world.start("web", "--network blue --ip 192.0.2.5"));
    let ear = must(PacketSocket::open(world.lab.near(), "lan0"));
    let (own, router) = (parse_mac(&web.mac("blue")), must(world.lab.near().mac("lan0")));
    let question = tagged(100, &unpadded(BROADCAST, own, ARP, &arp(1, (own, CONTAINER), ([0; 6], ROUTER))));
    let answer = unpadded(own, router, ARP, &arp(2, (router, ROUTER), (own, CONTAINER)));
    let mouth = must(PacketSocket::open_sender(world.lab.near(), "lan0"));
    let knows = || must(web.namespace.ip("neigh show 192.0.2.1")).contains("lladdr");
    std::thread::scope(|scope| {
        // Nobody answers the pings themselves: the machine has no interface of that VLAN.
        scope.spawn(|| web.namespace.run("ping -n -q -c 12 -i 0.5 -W 1 192.0.2.1"));
        must(wait_until("the question, tagged", LIMIT, || {
            must(ear.recv(Duration::from_millis(300))).filter(|frame| frame.starts_with(&question)).map(drop)
        }));
        // An untagged answer is another network's; a tagged one is heard.
        must(mouth.send(&answer));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!knows(), "an answer from outside of the VLAN");
        must(wait_until("the answer", LIMIT, || {
            must(mouth.send(&tagged(100, &answer)));
            std::thread::sleep(Duration::from_millis(100));
            knows().then_some(())
        }));
    });
    drop(web);
    must(world.docker.remove_all());
    must(world.lab.host().ip("link del lan0"));
    world.finish();
}

#[test]
fn what_one_endpoint_asks_for() {
    let Some(world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    must(world.network("open", "--subnet 10.71.1.0/24 -o guard=off"));
    let web = must(world.start("web", "--network net"));
    must(world.docker.line("network connect --driver-opt type=xdp --driver-opt egress-rate=50mbit open web"));
    let bridge = |network: &str| world.bridge(network)["name"].as_str().unwrap_or_default().to_owned();
    let (guarded, open) = (world.lab.ports(&bridge("net")), world.lab.ports(&bridge("open")));
    assert!(guarded[0].guard && guarded[0].port_type.to_string() == "tap", "{guarded:?}");
    assert!(!open[0].guard && open[0].port_type.to_string() == "xdp", "{open:?}");
    assert_eq!(open[0].egress_rate_bps, Some(50_000_000), "{open:?}");
    let refused = world
        .docker
        .line("network create -d vswitch other")
        .and_then(|_| world.docker.line("network connect --driver-opt egres-rate=50mbit other web"));
    let said = refused.expect_err("a misspelt option").to_string();
    assert!(said.contains("egres-rate") && said.contains("egress-rate"), "{said}");
    drop(web);
    world.finish();
}
