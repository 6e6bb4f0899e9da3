//! `kill -9` of the switch at any moment of what Docker does with it.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vswitch_tests::announce;
use vswitch_tests::contact::Protocol;
use vswitch_tests::docker::{Container, Interceptor, Moment};
use vswitch_tests::lab::must;
use vswitch_tests::process::{PATIENCE, wait_until};

use crate::world::World;

/// How often a container is started and removed with a kill at some moment of either.
const ROUNDS: u64 = 12;

/// Asserts that no address and no port is held by anybody but the one container that lives.
#[track_caller]
fn assert_alone(world: &World, witness: &Container) {
    world.assert_published(witness, Protocol::Tcp, 8000, 80);
    let left = || {
        let bridge = world.bridge("net");
        let stored =
            world.stored()["bridges"][bridge["name"].as_str().unwrap_or_default()]["docker"]["endpoints"].clone();
        let published = world.lab.ctl_json(&["ports"]);
        let counts = [
            bridge["ports"].as_u64().unwrap_or_default(),
            published.as_array().map_or(0, |list| list.len() as u64),
            stored.as_object().map_or(0, |map| map.len() as u64),
        ];
        (counts, format!("{bridge}\n{published}\n{stored}"))
    };
    // What Docker could not say is found out: by what the kernel tells of the sandbox's end.
    // The record of an endpoint whose answer was lost stays until somebody wants its address.
    let alone = wait_until("the others to go", PATIENCE, || matches!(left().0, [1, 1, 1 | 2]).then_some(()));
    assert!(alone.is_ok(), "ports, published ports, endpoints: {:?}\n{}", left().0, left().1);
}

/// Does something with Docker, during which the interceptor kills the switch; it is started again at once. Whether the
/// moment came.
#[track_caller]
fn survived(world: &mut World, interceptor: &Interceptor, line: &str) -> (bool, io::Result<String>) {
    let World { docker, lab, .. } = world;
    thread::scope(|scope| {
        let docker = &*docker;
        let working = scope.spawn(move || docker.line(line));
        while !working.is_finished() && !interceptor.has_killed() {
            thread::sleep(Duration::from_millis(2));
        }
        let killed = interceptor.has_killed();
        if killed {
            lab.kill_daemon();
            lab.start_daemon();
        }
        let result = working.join().expect("no panic");
        let kills = must(interceptor.kills());
        if kills && !killed {
            // After the last answer of all, which Docker may have had first.
            lab.kill_daemon();
            lab.start_daemon();
        }
        (kills, result)
    })
}

#[test]
fn killed_at_each_moment_of_each_call() {
    let Some((mut world, interceptor)) = World::intercepted() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let witness = must(world.start("witness", "--network net -p 8000:80"));
    let started = Instant::now();
    let run = "run -d --name web --network net --ip 10.71.0.50 -p 8080:80 vswitch-test";
    let mut refused = Vec::new();
    let mut kills = 0;
    for line in [run, "rm -f web"] {
        // Which calls there are, undisturbed.
        if line != run {
            must(world.docker.line(run));
        }
        interceptor.watch();
        must(world.docker.line(line));
        let calls = interceptor.calls();
        if line == run {
            must(world.docker.remove(&["web"]));
        }
        assert!(calls.len() >= 3, "{line}: {calls:?}");
        for (number, call) in calls.iter().enumerate() {
            for moment in Moment::ALL {
                if line != run {
                    must(world.docker.line(run));
                }
                must(interceptor.kill_at(number, moment, world.lab.daemon().pid()));
                let (killed, result) = survived(&mut world, &interceptor, line);
                assert!(killed, "{line}: {call} did not come");
                kills += 1;
                interceptor.watch();
                if result.is_err() {
                    refused.push(format!("{call} ({moment:?})"));
                }
                if line == run {
                    if result.is_err() {
                        // Refused and said so; the next time it is possible.
                        must(world.docker.line("start web"));
                    }
                    let web = must(world.docker.container("web"));
                    world.assert_published(&web, Protocol::Tcp, 8080, 80);
                    world.assert_reaches(&witness, &web, must(web.address("net", false)));
                    drop(web);
                    must(world.docker.remove(&["web"]));
                } else if !must(world.docker.line("ps -aq --filter name=web")).is_empty() {
                    must(world.docker.remove(&["web"]));
                }
                assert_alone(&world, &witness);
            }
        }
    }
    announce(&format!(
        "{kills} kills of the switch, before, in and after each call of `docker run` and `docker rm`, in {:.0} s; refused, \
         and then possible: {}",
        started.elapsed().as_secs_f64(),
        refused.join(", ")
    ));
    drop(witness);
    world.finish();
}

#[test]
fn killed_at_any_time() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let witness = must(world.start("witness", "--network net -p 8000:80"));
    for round in 0..ROUNDS {
        let name = format!("run{round}");
        let outside = 8100 + u16::try_from(round).expect("few");
        let World { docker, lab, .. } = &mut world;
        let ran = thread::scope(|scope| {
            let docker = &*docker;
            let line = format!("run -d --name {name} --network net -p {outside}:80 vswitch-test");
            let running = scope.spawn(move || docker.line(&line));
            // Over the half second that it takes, and in another order than that of time.
            thread::sleep(Duration::from_millis(round * 7 % ROUNDS * 50));
            lab.kill_daemon();
            lab.start_daemon();
            running.join().expect("no panic")
        });
        if ran.is_err() {
            must(world.docker.line(&format!("start {name}")));
        }
        let container = must(world.docker.container(&name));
        world.assert_published(&container, Protocol::Tcp, outside, 80);
        world.assert_reaches(&witness, &container, must(container.address("net", false)));
        drop(container);
        let World { docker, lab, .. } = &mut world;
        thread::scope(|scope| {
            let docker = &*docker;
            let name = name.clone();
            let removing = scope.spawn(move || docker.remove(&[&name]));
            thread::sleep(Duration::from_millis(round * 11 % ROUNDS * 30));
            lab.kill_daemon();
            lab.start_daemon();
            // Docker's container is gone in any case, or asked to go again.
            let _ = removing.join().expect("no panic");
        });
        if world.docker.line(&format!("ps -aq --filter name={name}")).is_ok_and(|left| !left.is_empty()) {
            must(world.docker.remove(&[&name]));
        }
    }
    assert_alone(&world, &witness);
    drop(witness);
    world.finish();
}

/// The engine forgets a network whatever it is answered, and repeats a call that was cut off without saying of which. What it
/// knows stays, though nothing uses it.
#[test]
fn a_network_goes_at_whatever_moment() {
    let Some((mut world, interceptor)) = World::intercepted() else { return };
    must(world.network("idle", "--subnet 10.72.0.0/24"));
    let idle = world.bridge("idle");
    interceptor.watch();
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let creating = interceptor.calls().len();
    interceptor.watch();
    must(world.docker.line("network rm net"));
    let removing = interceptor.calls().len();
    let alone = |world: &World| {
        wait_until("the network to go", PATIENCE, || {
            let bridges: Vec<Value> = world.lab.get("/v1/bridges");
            (bridges.len() == 1 && bridges[0]["name"] == idle["name"]).then_some(())
        })
    };
    for (line, calls) in
        [("network create -d vswitch --subnet 10.71.0.0/24 net", creating), ("network rm net", removing)]
    {
        for number in 0..calls {
            for moment in Moment::ALL {
                if line.contains("rm") {
                    must(world.network("net", "--subnet 10.71.0.0/24"));
                }
                must(interceptor.kill_at(number, moment, world.lab.daemon().pid()));
                let (killed, result) = survived(&mut world, &interceptor, line);
                assert!(killed, "{line}: call {number} did not come");
                interceptor.watch();
                if line.contains("create") {
                    if result.is_err() {
                        must(world.docker.line(line));
                    }
                    assert_eq!(world.bridge("net")["gateways"][0], "10.71.0.1");
                    must(world.docker.line("network rm net"));
                }
                let gone = alone(&world);
                assert!(gone.is_ok(), "{line}, {moment:?} call {number}: {}", world.lab.get::<Value>("/v1/bridges"));
            }
        }
    }
    must(world.docker.line("network rm idle"));
    world.assert_empty();
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
