//! Containers by name, in both directions: what Docker made shows its names, and `container:NAME` is a namespace.

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::lab::{assert_reaches, must};
use vswitch_tests::process::{PATIENCE, wait_until};

use crate::world::World;

#[test]
fn names_of_dockers_in_the_switch() {
    let Some(world) = World::vswitch() else { return };
    must(world.network("shopfront", "--subnet 10.71.0.0/24"));
    let web = must(world.start("webshop", "--network shopfront -p 8080:80"));
    let bridge = world.bridge("shopfront")["name"].as_str().unwrap_or_default().to_owned();
    let show = world.lab.ctl(&["show"]);
    for text in ["shopfront", "container:webshop", "80/tcp -> 0.0.0.0:8080", "10.71.0.2", &bridge] {
        assert!(show.contains(text), "{text} is not in\n{show}");
    }
    // A port of Docker's, by its container: more of it is published, and it is looked into.
    world.lab.ctl(&["publish", &bridge, "container:webshop", "8081:81"]);
    world.assert_published(&web, Protocol::Tcp, 8081, 81);
    let listed = world.lab.ctl(&["ports", &bridge, "container:webshop"]);
    assert!(listed.contains("81/tcp -> 0.0.0.0:8081") && listed.contains("80/tcp -> 0.0.0.0:8080"), "{listed}");
    world.lab.ctl(&["unpublish", &bridge, "container:webshop", "8081:81"]);
    let said = world.lab.ctl_refused(&["del-port", &bridge, "container:webshop"]);
    assert!(said.contains("docker network disconnect"), "{said}");
    // After a restart of either the names are the same.
    drop(web);
    must(world.docker.line("rename webshop kiosk"));
    must(wait_until("the new name", PATIENCE, || world.lab.ctl(&["show"]).contains("container:kiosk").then_some(())));
    world.finish();
}

#[test]
fn a_container_without_a_network_of_docker() {
    let Some(world) = World::vswitch() else { return };
    world.lab.add_bridge("br0", "--subnet 198.18.7.0/24");
    let bare = must(world.start("bare", "--network none"));
    let other = must(world.start("other", "--network none"));
    world.lab.ctl(&["add-port", "br0", "container:bare", "--ip", "198.18.7.5/24", "--publish", "8080:80"]);
    world.lab.ctl(&["add-port", "br0", "container:other"]);
    assert_reaches(&other.namespace, "198.18.7.5".parse().expect("an address"));
    world.assert_published(&bare, Protocol::Tcp, 8080, 80);
    let own = must(world.docker.exec("bare", "ip -4 -o addr show dev eth0"));
    assert!(own.contains("198.18.7.5/24"), "{own}");
    // By the beginning of its id, too.
    let id = bare.inspect["Id"].as_str().unwrap_or_default().get(..12).unwrap_or_default().to_owned();
    world.lab.ctl(&["del-port", "br0", &format!("container:{id}")]);
    assert!(bare.namespace.ip("link show dev eth0").is_err());
    for (name, word) in [("nobody", "nobody"), ("..", "name")] {
        let said = world.lab.ctl_refused(&["add-port", "br0", &format!("container:{name}")]);
        assert!(said.contains(word), "{said}");
    }
    must(world.docker.line("stop other"));
    let said = world.lab.ctl_refused(&["add-port", "br0", "container:other"]);
    assert!(said.contains("other"), "{said}");
    // Beside a network of Docker's: what pipework did.
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let both = must(world.start("both", "--network net -p 8081:80"));
    world.lab.ctl(&["add-port", "br0", "container:both", "--ip", "198.18.7.9/24"]);
    world.assert_published(&both, Protocol::Tcp, 8081, 80);
    let server = must(Server::any(Protocol::Tcp, &both.namespace, false, 82));
    must(server.meet(world.lab.host(), "198.18.7.9:82".parse().expect("an endpoint")).map(drop));
    // The port has the container's name.
    let show = world.lab.ctl(&["show", "br0"]);
    assert!(show.contains("both  eth1"), "{show}");
    drop((bare, other, both, server));
    must(world.docker.remove_all());
    world.lab.ctl(&["del-br", "br0", "--force"]);
    world.finish();
}
