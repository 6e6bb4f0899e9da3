//! Compose files, as they are written for Docker's bridge, with another driver.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use vswitch_tests::contact::Protocol;
use vswitch_tests::lab::must;
use vswitch_tests::process::run_ok;
use vswitch_tests::requirement;

use crate::world::World;

const FILE: &str = r#"
version: "2.4"
services:
  web:
    image: vswitch-test
    ports: ["8080:80", "127.0.0.1:8081:81", "5353:53/udp"]
    networks:
      front: { aliases: [www] }
      back: { ipv4_address: 10.71.2.80 }
  db:
    image: vswitch-test
    networks: [back]
  cache:
    image: vswitch-test
    # The project's default network.
networks:
  default:
    driver: vswitch
  front:
    driver: vswitch
    driver_opts:
      com.docker.network.bridge.name: front0
      com.docker.network.driver.mtu: "1400"
      com.docker.network.bridge.enable_icc: "true"
  back:
    driver: vswitch
    internal: true
    labels: { tier: data }
    ipam:
      config: [{ subnet: 10.71.2.0/24, gateway: 10.71.2.254 }]
"#;

fn compose(world: &World, file: &Path, args: &str) -> String {
    let mut command = world.docker.command("docker-compose");
    command.arg("-f").arg(file).args(["-p", "shop", "--no-ansi"]).args(args.split_whitespace());
    must(run_ok(&mut command, Duration::from_secs(120)))
}

#[test]
fn a_project_of_three_networks() {
    if !requirement::program("docker-compose") {
        return;
    }
    let Some(world) = World::vswitch() else { return };
    let file = world.lab.path("compose.yaml");
    must(std::fs::write(&file, FILE));
    compose(&world, &file, "up -d");
    let names = must(world.docker.line("ps --format {{.Names}}"));
    let name = |service: &str| {
        let found = names.lines().find(|name| name.contains(service));
        found.unwrap_or_else(|| panic!("{service} is not in {names}")).to_owned()
    };
    let container = |service: &str| must(world.docker.container(&name(service)));
    let (web, db) = (container("web"), container("db"));
    assert_eq!(must(web.address("shop_back", false)).to_string(), "10.71.2.80");
    assert_eq!(world.bridge("shop_front")["name"], "front0");
    assert_eq!(world.bridge("shop_front")["mtu"], 1400);
    assert_eq!(world.bridge("shop_back")["internal"], true);
    world.assert_published(&web, Protocol::Tcp, 8080, 80);
    world.assert_published(&web, Protocol::Udp, 5353, 53);
    world.assert_reaches(&db, &web, must(web.address("shop_back", false)));
    let found = must(world.docker.exec(&name("db"), "nslookup -type=a web 127.0.0.11"));
    assert!(found.contains("10.71.2.80"), "{found}");
    // The internal network's member has no way out, the other has.
    let out = |from: &vswitch_tests::docker::Container| {
        let server = must(vswitch_tests::contact::Server::any(Protocol::Tcp, world.lab.far(), false, 7000));
        server.meet(&from.namespace, SocketAddr::new(vswitch_tests::outside::far(false), 7000)).is_ok()
    };
    assert!(out(&web) && !out(&db) && out(&container("cache")));
    // Again is nothing to do; one service more, one less.
    compose(&world, &file, "up -d");
    compose(&world, &file, "up -d --scale db=3");
    assert_eq!(world.bridge("shop_back")["ports"], 4);
    compose(&world, &file, "restart");
    let web = container("web");
    world.assert_published(&web, Protocol::Tcp, 8080, 80);
    drop((web, db));
    compose(&world, &file, "down");
    world.finish();
}
