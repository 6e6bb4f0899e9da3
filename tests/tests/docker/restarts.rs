//! Each of the two programs ends and comes back, while the other goes on; and the machine does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use vswitch_tests::announce;
use vswitch_tests::contact::{Protocol, unspecified};
use vswitch_tests::docker::Container;
use vswitch_tests::lab::must;
use vswitch_tests::outside::host;
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::stream::{Plan, Transfer};

use crate::world::{Driver, World};

/// A stream that lasts some seconds.
const SLOW: Plan =
    Plan { up_bytes: 8 << 20, down_bytes: 8 << 20, write_bytes: 8 << 10, pause: Duration::from_millis(8) };
const LIMIT: Duration = PATIENCE;

/// A stream from `far` to a published port.
#[track_caller]
fn stream(world: &World, to: &Container, outside: u16, inside: u16) -> Transfer {
    let server = (&to.namespace, SocketAddr::new(unspecified(false), inside));
    must(Transfer::start_to(server, (world.lab.far(), SocketAddr::new(host(false), outside)), SLOW))
}

/// Waits until a stream goes on.
#[track_caller]
fn goes_on(stream: &Transfer) {
    let before = stream.received_bytes();
    must(wait_until("the stream", LIMIT, || (stream.received_bytes() > before + 200_000).then_some(())));
}

#[track_caller]
fn running(world: &World, name: &str) -> Container {
    must(wait_until(name, LIMIT, || world.docker.container(name).ok()))
}

#[test]
fn the_switch_restarts_under_running_containers() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let web = must(world.start("web", "--network net -p 8080:80 -p 8081:81"));
    let peer = must(world.start("peer", "--network net"));
    let stream = stream(&world, &web, 8080, 80);
    // Docker says nobody when it has moved an interface: it is seen a moment later.
    let before = must(wait_until("both in their containers", LIMIT, || {
        let configuration = world.lab.configuration();
        configuration.1.iter().all(|port| port.ifname == "eth0").then_some(configuration)
    }));
    goes_on(&stream);
    world.lab.stop_daemon();
    std::thread::sleep(Duration::from_millis(300));
    world.lab.start_daemon();
    goes_on(&stream);
    world.lab.kill_daemon();
    std::thread::sleep(Duration::from_millis(300));
    world.lab.start_daemon();
    goes_on(&stream);
    assert_eq!(world.lab.configuration(), before);
    must(stream.finish());
    world.assert_published(&web, Protocol::Tcp, 8081, 81);
    world.assert_reaches(&peer, &web, must(web.address("net", false)));
    // And Docker goes on with it as if nothing had been.
    drop((web, peer));
    must(world.docker.line("restart web"));
    let web = running(&world, "web");
    world.assert_published(&web, Protocol::Tcp, 8080, 80);
    let third = must(world.start("third", "--network net"));
    world.assert_reaches(&third, &web, must(web.address("net", false)));
    drop((web, third));
    must(world.docker.line("stop web"));
    // While the switch is away, what Docker asks of it waits (for half a minute at most).
    world.lab.stop_daemon();
    let docker = &world.docker;
    let lab = &mut world.lab;
    std::thread::scope(|scope| {
        let start = scope.spawn(|| docker.line("start web"));
        std::thread::sleep(Duration::from_secs(2));
        lab.start_daemon();
        must(start.join().expect("no panic"));
    });
    let web = running(&world, "web");
    world.assert_published(&web, Protocol::Tcp, 8080, 80);
    drop(web);
    world.finish();
}

#[test]
fn docker_restarts_and_containers_with_it() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    drop(must(world.start("always", "--network net --ip 10.71.0.50 --restart always -p 8080:80")));
    drop(must(world.start("once", "--network net -p 8081:80")));
    must(world.docker.stop_daemon());
    assert_eq!(world.lab.ctl(&["ports"]).trim(), "", "stopped containers hold no ports");
    must(world.docker.start_daemon());
    let always = running(&world, "always");
    assert_eq!(must(always.address("net", false)).to_string(), "10.71.0.50");
    world.assert_published(&always, Protocol::Tcp, 8080, 80);
    assert!(world.docker.container("once").is_err());
    must(world.docker.line("start once"));
    let once = running(&world, "once");
    world.assert_published(&once, Protocol::Tcp, 8081, 80);
    world.assert_reaches(&once, &always, must(always.address("net", false)));
    drop((always, once));
    // Killed: the containers run on until it comes back, and are then started anew.
    must(world.docker.kill_daemon());
    must(world.docker.start_daemon());
    let always = must(wait_until("the restarted container", LIMIT, || {
        let container = world.docker.container("always").ok()?;
        vswitch_tests::contact::Server::any(Protocol::Tcp, &container.namespace, false, 80).ok()?;
        Some(container)
    }));
    assert_eq!(must(always.address("net", false)).to_string(), "10.71.0.50");
    world.assert_published(&always, Protocol::Tcp, 8080, 80);
    world.await_ports("net", 1);
    must(world.docker.line("start once"));
    world.assert_published(&running(&world, "once"), Protocol::Tcp, 8081, 80);
    drop(always);
    world.finish();
}

#[test]
fn docker_restarts_and_containers_live_on() {
    let Some(mut world) = World::new(Driver::Vswitch, &["--live-restore"]) else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let web = must(world.start("web", "--network net -p 8080:80 -p 8081:81"));
    let stream = stream(&world, &web, 8080, 80);
    goes_on(&stream);
    must(world.docker.stop_daemon());
    goes_on(&stream);
    must(world.docker.start_daemon());
    goes_on(&stream);
    must(world.docker.kill_daemon());
    goes_on(&stream);
    must(world.docker.start_daemon());
    goes_on(&stream);
    // The switch, too, and then both.
    world.lab.kill_daemon();
    world.lab.start_daemon();
    goes_on(&stream);
    must(world.docker.kill_daemon());
    world.lab.kill_daemon();
    world.lab.start_daemon();
    must(world.docker.start_daemon());
    must(stream.finish());
    let now = running(&world, "web");
    assert_eq!(now.inspect["State"]["Pid"], web.inspect["State"]["Pid"], "it is the same one");
    world.assert_published(&now, Protocol::Tcp, 8081, 81);
    assert_eq!(must(now.address("net", false)), must(web.address("net", false)));
    // A new one beside it gets neither its address nor its port.
    let other = must(world.start("other", "--network net"));
    world.assert_reaches(&other, &now, must(now.address("net", false)));
    assert!(world.start("taken", "--network net -p 8080:80").is_err());
    drop((web, now, other));
    must(world.docker.line("restart web"));
    world.assert_published(&running(&world, "web"), Protocol::Tcp, 8080, 80);
    world.finish();
}

#[test]
fn either_starts_without_the_other() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    drop(must(world.start("web", "--network net --restart always -p 8080:80")));
    // Docker first. It has a container to start, and nobody to ask for its network.
    must(world.docker.stop_daemon());
    world.lab.stop_daemon();
    let started = Instant::now();
    must(world.docker.start_daemon());
    announce(&format!("dockerd without the switch: answers after {:.1} s", started.elapsed().as_secs_f64()));
    world.lab.start_daemon();
    if world.docker.container("web").is_err() {
        must(world.docker.line("start web"));
    }
    world.assert_published(&running(&world, "web"), Protocol::Tcp, 8080, 80);
    // The switch first, with the memory of a container that died with Docker. Its sandbox is still mounted: that
    // nobody will use it again is what Docker knows alone, and says when it is back.
    world.lab.stop_daemon();
    must(world.docker.kill_daemon());
    world.docker.kill_everything();
    world.lab.start_daemon();
    must(world.docker.start_daemon());
    world.assert_published(&running(&world, "web"), Protocol::Tcp, 8080, 80);
    world.await_ports("net", 1);
    world.finish();
}

#[test]
fn the_machine_is_switched_off_and_on() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24 --ipv6 --subnet fd71::/64"));
    must(world.network("second", "--subnet 10.72.0.0/24 -o com.docker.network.bridge.name=second0"));
    drop(must(world.start("always", "--network net --restart always -p 8080:80")));
    for number in 0..4 {
        drop(must(world.start(&format!("c{number}"), &format!("--network second -p 900{number}:80"))));
    }
    // Everything at once, and of what the kernel had, nothing is left.
    world.lab.kill_daemon();
    world.docker.kill_everything();
    world.forget_interfaces();
    must(world.docker.clear_run());
    world.lab.start_daemon();
    assert_eq!(world.bridges(), 2, "the networks are back");
    must(wait_until("the dead to go", LIMIT, || (world.lab.ctl(&["ports"]).trim().is_empty()).then_some(())));
    must(world.docker.start_daemon());
    let always = running(&world, "always");
    world.assert_published(&always, Protocol::Tcp, 8080, 80);
    for number in 0..4 {
        must(world.docker.line(&format!("start c{number}")));
        world.assert_published(&running(&world, &format!("c{number}")), Protocol::Tcp, 9000 + number, 80);
    }
    drop(always);
    world.finish();
}
