//! What Docker's integration tests check of its bridge driver, done with both drivers.
//!
//! Every behaviour is done and seen, not judged: a finding is a short phrase (`yes`, `no`, `yes, seen as itself`). What
//! is expected of each driver stands in [`expected`], and the test prints both as a Markdown table.

mod addresses;
mod expected;
mod families;
mod findings;
mod isolation;
mod lifetimes;
mod loopback;
mod names;
mod published;
mod rules;

use std::thread;

use vswitch_tests::announce;

use self::findings::Findings;
use crate::world::{Driver, PLAIN, World};

/// All of them, of one driver. Those that break something for others come last.
fn all(driver: Driver) -> Option<Findings> {
    // With the switch nothing else shall have a part in it; without, Docker is as it is by default.
    let args: &[&str] = if driver == Driver::Vswitch { &PLAIN } else { &[] };
    let world = World::new(driver, &[args, &["--dns", names::RESOLVER]].concat())?;
    let mut findings = Findings::new(driver);
    for behaviour in [
        published::everybody,
        published::all_exposed_ports,
        families::ipv6,
        loopback::host_addresses,
        isolation::direct_routing,
        isolation::without_nat,
        isolation::internal,
        isolation::without_icc,
        addresses::given_and_chosen,
        addresses::two_networks,
        names::resolved,
        lifetimes::restart,
        lifetimes::heir_of_an_address,
        lifetimes::heir_of_a_port,
        rules::flushed,
    ] {
        behaviour(&world, &mut findings);
    }
    world.finish();
    Some(findings)
}

#[test]
fn both_drivers() {
    let drivers = match std::env::var("VSWITCH_DOCKER_DRIVER").as_deref() {
        Ok("bridge") => vec![Driver::Bridge],
        Ok("vswitch") => vec![Driver::Vswitch],
        _ => vec![Driver::Bridge, Driver::Vswitch],
    };
    let found: Vec<Option<Findings>> = thread::scope(|scope| {
        let running: Vec<_> = drivers.into_iter().map(|driver| scope.spawn(move || all(driver))).collect();
        running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let found: Vec<Findings> = found.into_iter().flatten().collect();
    if found.is_empty() {
        return;
    }
    announce(&findings::table(&found));
    let wrong: Vec<String> = found.iter().flat_map(Findings::unexpected).collect();
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

#[test]
fn the_documentation_has_the_same_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/docker.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let expected = findings::expected_table();
    assert!(text.contains(&expected), "{} is to have this table:\n{expected}", path.display());
}
