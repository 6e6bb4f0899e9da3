//! A hundred containers at once.

use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

use vswitch_tests::announce;
use vswitch_tests::contact::Protocol;
use vswitch_tests::lab::must;

use crate::world::World;

const CONTAINERS: usize = 100;

#[test]
fn a_hundred_started_and_removed_at_once() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let names: Vec<String> = (0..CONTAINERS).map(|number| format!("c{number}")).collect();
    let docker = &world.docker;
    let started = Instant::now();
    thread::scope(|scope| {
        let running: Vec<_> = names
            .iter()
            .map(|name| {
                let line = format!("run -d --name {name} --network net -P --expose 80 --expose 81/udp vswitch-test");
                scope.spawn(move || docker.line(&line))
            })
            .collect();
        for one in running {
            must(one.join().expect("no panic"));
        }
    });
    let start = started.elapsed();
    let inspects = must(docker.line(&format!("inspect {}", names.join(" "))));
    let inspects: Vec<serde_json::Value> = serde_json::from_str(&inspects).expect("a list");
    let all = |get: &dyn Fn(&serde_json::Value) -> String| inspects.iter().map(get).collect::<BTreeSet<_>>().len();
    let endpoint = |one: &serde_json::Value, key: &str| one["NetworkSettings"]["Networks"]["net"][key].to_string();
    assert_eq!(all(&|one| endpoint(one, "IPAddress")), CONTAINERS, "addresses");
    assert_eq!(all(&|one| endpoint(one, "MacAddress")), CONTAINERS, "MAC addresses");
    let published = world.lab.ctl_json(&["ports"]);
    let published: BTreeSet<String> = published
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| format!("{} {} {}", one["protocol"], one["host_ip"], one["host"]["first"]))
        .collect();
    assert_eq!(published.len(), 2 * CONTAINERS, "{published:?}");
    for name in names.iter().step_by(9) {
        let container = must(docker.container(name));
        for (protocol, inside) in [(Protocol::Tcp, 80), (Protocol::Udp, 81)] {
            let outside = must(world.host_port(&container, "net", protocol, inside));
            world.assert_published(&container, protocol, outside, inside);
        }
    }
    let (first, last) = (must(docker.container("c0")), must(docker.container("c99")));
    world.assert_reaches(&first, &last, must(last.address("net", false)));
    drop((first, last));
    let started = Instant::now();
    thread::scope(|scope| {
        let removing: Vec<_> = names.iter().map(|name| scope.spawn(move || docker.remove(&[name]))).collect();
        for one in removing {
            must(one.join().expect("no panic"));
        }
    });
    let removed = started.elapsed();
    announce(&format!(
        "{CONTAINERS} containers at once: started in {:.1} s, removed in {:.1} s",
        start.as_secs_f64(),
        removed.as_secs_f64()
    ));
    assert_eq!(world.bridge("net")["ports"], 0);
    // Docker may miscount the endpoints of a network among many that come and go at once, whatever the driver
    // (`atomicIncDecEpCnt` of libnetwork), and then does not remove it. It counts anew when it starts.
    if let Err(error) = world.docker.line("network rm net") {
        announce(&format!("Docker is restarted to count anew: {error}"));
        must(world.docker.stop_daemon());
        must(world.docker.start_daemon());
    }
    world.finish();
}
