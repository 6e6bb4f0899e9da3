//! The README's first example with a real nginx, and compose files as they are written for Docker's bridge.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::docker::{Container, image};
use vswitch_tests::lab::must;
use vswitch_tests::outside::{far, host};
use vswitch_tests::process::run_ok;
use vswitch_tests::{Namespace, requirement};

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
    let out = |from: &Container| {
        let server = must(Server::any(Protocol::Tcp, world.lab.far(), false, 7000));
        server.meet(&from.namespace, SocketAddr::new(far(false), 7000)).is_ok()
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

#[test]
fn nginx_in_a_minute() {
    if !requirement::program("nginx") || !requirement::program("curl") {
        return;
    }
    let Some(world) = World::vswitch() else { return };
    let context = must(image::nginx(&world.lab.path("docker")));
    must(world.docker.run(&["build", "-q", "-t", "nginx", &context.display().to_string()]));
    must(world.docker.line("network create -d vswitch net1"));
    must(world.docker.line("run -d --name web --network net1 -p 8080:80 nginx"));
    must(world.docker.line("run -d --name all --network net1 -P nginx"));
    let ask = |client: &Namespace, url: &str| {
        let mut curl = client.command("curl");
        curl.args(["-sS", "--max-time", "5", "--retry", "10", "--retry-delay", "1", "--retry-connrefused", url]);
        must(run_ok(&mut curl, Duration::from_secs(30))).trim().to_owned()
    };
    let published = format!("http://{}:8080/", host(false));
    assert_eq!(ask(world.lab.far(), &published), far(false).to_string());
    assert_eq!(ask(world.lab.host(), &published), host(false).to_string());
    let gateway = world.bridge("net1")["gateways"][0].as_str().unwrap_or_default().to_owned();
    assert_eq!(ask(world.lab.host(), "http://127.0.0.1:8080/"), gateway);
    // EXPOSE of the image, published by -P.
    let all = must(world.docker.container("all"));
    let port = must(world.host_port(&all, "net1", Protocol::Tcp, 80));
    assert_eq!(ask(world.lab.far(), &format!("http://{}:{port}/", host(false))), far(false).to_string());
    // By its name, from another container.
    let peer = must(world.start("peer", "--network net1"));
    let answer = must(world.docker.exec("peer", "wget -q -O - http://web/"));
    assert_eq!(answer, must(peer.address("net1", false)).to_string());
    world.finish();
}
