//! `kill -9` of the switch at any moment of what Docker does with it.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use vswitch_tests::announce;
use vswitch_tests::contact::Protocol;
use vswitch_tests::lab::must;

use crate::world::World;

/// A `docker run` is about half a second of work, most of its calls to the driver in the first half of it.
const MOMENTS: u64 = 24;

#[test]
fn killed_between_any_two_calls() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let witness = must(world.start("witness", "--network net -p 8000:80"));
    let started = Instant::now();
    let (mut came, mut failed) = (0, 0);
    for moment in 0..MOMENTS {
        let name = format!("run{moment}");
        let outside = 8100 + u16::try_from(moment).expect("few");
        let World { docker, lab, .. } = &mut world;
        let ran = thread::scope(|scope| {
            let docker = &*docker;
            let line = format!("run -d --name {name} --network net -p {outside}:80 vswitch-test");
            let running = scope.spawn(move || docker.line(&line));
            // Every fortieth of a second of it, and in another order than that of time.
            thread::sleep(Duration::from_millis(moment * 7 % MOMENTS * 25));
            lab.kill_daemon();
            lab.start_daemon();
            running.join().expect("no panic")
        });
        match ran {
            Ok(_) => {
                came += 1;
                let container = must(world.docker.container(&name));
                world.assert_published(&container, Protocol::Tcp, outside, 80);
                world.assert_reaches(&witness, &container, must(container.address("net", false)));
            }
            // Refused and said so; it must be possible the next time.
            Err(_) => {
                failed += 1;
                must(world.docker.line(&format!("start {name}")));
                world.assert_published(&must(world.docker.container(&name)), Protocol::Tcp, outside, 80);
            }
        }
        // And on its way out.
        let World { docker, lab, .. } = &mut world;
        thread::scope(|scope| {
            let docker = &*docker;
            let name = name.clone();
            let removing = scope.spawn(move || docker.remove(&[&name]));
            thread::sleep(Duration::from_millis(moment * 11 % MOMENTS * 15));
            lab.kill_daemon();
            lab.start_daemon();
            // Docker's container is gone in any case.
            let _ = removing.join().expect("no panic");
        });
        if world.docker.line(&format!("ps -aq --filter name={name}")).is_ok_and(|left| !left.is_empty()) {
            must(world.docker.remove(&[&name]));
        }
    }
    announce(&format!(
        "{} kills of the switch during {MOMENTS} `docker run` and `docker rm`: {came} came through, {failed} were \
         refused and started later; {:.0} s",
        2 * MOMENTS,
        started.elapsed().as_secs_f64()
    ));
    // No address and no port is held by anybody but the one that lives.
    world.assert_published(&witness, Protocol::Tcp, 8000, 80);
    let bridge = world.bridge("net");
    assert_eq!(bridge["ports"], 1, "{bridge}");
    assert_eq!(world.lab.ctl_json(&["ports"]).as_array().map(Vec::len), Some(1));
    let name = bridge["name"].as_str().unwrap_or_default();
    let endpoints = world.stored()["bridges"][name]["docker"]["endpoints"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!(endpoints, 1, "{}", world.stored());
    drop(witness);
    world.finish();
}

#[test]
fn killed_while_networks_come_and_go() {
    let Some(mut world) = World::vswitch() else { return };
    for moment in 0..10u64 {
        let World { docker, lab, .. } = &mut world;
        let made = thread::scope(|scope| {
            let docker = &*docker;
            let making = scope.spawn(move || docker.line("network create -d vswitch --subnet 10.71.0.0/24 net"));
            thread::sleep(Duration::from_millis(moment * 12));
            lab.kill_daemon();
            lab.start_daemon();
            making.join().expect("no panic")
        });
        if made.is_err() {
            must(world.network("net", "--subnet 10.71.0.0/24"));
        }
        assert_eq!(world.bridge("net")["gateways"][0], "10.71.0.1");
        let World { docker, lab, .. } = &mut world;
        let removed = thread::scope(|scope| {
            let docker = &*docker;
            let removing = scope.spawn(move || docker.line("network rm net"));
            thread::sleep(Duration::from_millis(moment * 9));
            lab.kill_daemon();
            lab.start_daemon();
            removing.join().expect("no panic")
        });
        let known: BTreeSet<String> =
            must(world.docker.line("network ls --format {{.Name}}")).lines().map(str::to_owned).collect();
        if known.contains("net") {
            must(world.docker.line("network rm net"));
        } else {
            must(removed);
        }
        world.assert_empty();
    }
    world.finish();
}
