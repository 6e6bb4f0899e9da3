//! `--ipam-driver vswitch`: addresses of the switch's own choice.

use std::collections::BTreeSet;

use vswitch_tests::contact::Protocol;
use vswitch_tests::lab::must;

use crate::world::World;

const OURS: &str = "--ipam-driver vswitch";

#[test]
fn networks_and_addresses_of_the_switch() {
    let Some(world) = World::vswitch() else { return };
    let docker = &world.docker;
    // Without a word about addresses: networks that nobody has.
    let mut subnets = BTreeSet::new();
    for network in ["one", "two", "three"] {
        must(world.network(network, OURS));
        let inspect = must(docker.inspect("network", network));
        let subnet = inspect["IPAM"]["Config"][0]["Subnet"].as_str().unwrap_or_default().to_owned();
        assert!(subnets.insert(subnet.clone()) && !subnet.is_empty(), "{network}: {inspect}");
    }
    let a = must(world.start("aa", "--network one -p 8080:80"));
    let b = must(world.start("bb", "--network one"));
    world.assert_reaches(&a, &b, must(b.address("one", false)));
    world.assert_published(&a, Protocol::Tcp, 8080, 80);
    drop((a, b));
    // Restarted with what it had, or another address; never one that somebody has.
    must(docker.line("restart aa bb"));
    let (a, b) = (must(docker.container("aa")), must(docker.container("bb")));
    assert_ne!(must(a.address("one", false)), must(b.address("one", false)));
    drop((a, b));
    world.finish();
}

#[test]
fn chosen_ones_and_both_families() {
    let Some(world) = World::vswitch() else { return };
    let docker = &world.docker;
    must(world.network(
        "net",
        &format!(
            "{OURS} --subnet 10.71.0.0/24 --ip-range 10.71.0.64/30 --gateway 10.71.0.254 --aux-address other=10.71.0.65 \
             --ipv6 --subnet fd71::/64"
        ),
    ));
    let mut seen = BTreeSet::new();
    for name in ["c1", "c2", "c3"] {
        let container = must(world.start(name, "--network net"));
        let address = must(container.address("net", false)).to_string();
        assert!(["10.71.0.64", "10.71.0.66", "10.71.0.67"].contains(&address.as_str()), "{address}");
        assert!(seen.insert(address));
        assert!(seen.insert(must(container.address("net", true)).to_string()));
    }
    // The range is used up; what is outside of it can be asked for.
    let said = world.start("c4", "--network net").expect_err("no address is left").to_string();
    assert!(!said.is_empty());
    must(docker.remove(&["c4"]));
    let chosen = must(world.start("chosen", "--network net --ip 10.71.0.9 --ip6 fd71::99"));
    assert_eq!(must(chosen.address("net", false)).to_string(), "10.71.0.9");
    assert_eq!(must(chosen.address("net", true)).to_string(), "fd71::99");
    let said = world.start("same", "--network net --ip 10.71.0.9").expect_err("the address is taken").to_string();
    assert!(said.contains("10.71.0.9"), "{said}");
    drop(chosen);
    must(docker.remove(&["c1"]));
    must(world.start("heir", "--network net"));
    // The engine forgets what it does not write down; the switch does not.
    must(docker.remove(&["heir", "c2", "c3", "chosen", "same"]));
    let said = world.network_refused(&format!("{OURS} --subnet 10.71.0.128/25"));
    assert!(said.contains("10.71.0"), "{said}");
    world.finish();
}

#[test]
fn they_survive_both_programs() {
    let Some(mut world) = World::vswitch() else { return };
    must(world.network("net", &format!("{OURS} --subnet 10.71.0.0/24")));
    let kept = must(world.start("kept", "--network net --restart always"));
    let address = must(kept.address("net", false));
    drop(kept);
    world.lab.kill_daemon();
    world.lab.start_daemon();
    let other = must(world.start("other", "--network net"));
    assert_ne!(must(other.address("net", false)), address, "given twice");
    drop(other);
    must(world.docker.stop_daemon());
    must(world.docker.start_daemon());
    let kept = must(vswitch_tests::process::wait_until("the container", vswitch_tests::process::PATIENCE, || {
        world.docker.container("kept").ok()
    }));
    let third = must(world.start("third", "--network net"));
    assert_ne!(must(third.address("net", false)), must(kept.address("net", false)), "given twice");
    world.assert_reaches(&third, &kept, must(kept.address("net", false)));
    drop((kept, third));
    world.finish();
}
