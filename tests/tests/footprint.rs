//! What an idle daemon costs.

use std::time::{Duration, Instant};

use vswitch_tests::lab::must;
use vswitch_tests::process::wait_until;
use vswitch_tests::{Lab, announce};

#[test]
fn an_idle_daemon_with_a_hundred_ports_costs_next_to_nothing() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    let roles: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
    lab.add_containers(&roles);
    for role in &roles {
        lab.attach("br0", role, "");
    }
    // The kernel greets new interfaces (duplicate address detection, router solicitations) for some
    // seconds: wait until nothing has come for one.
    let mut last = (lab.stats().balance.received, Instant::now());
    let _ = wait_until("silence", Duration::from_secs(40), || {
        std::thread::sleep(Duration::from_millis(250));
        let received = lab.stats().balance.received;
        if received != last.0 {
            last = (received, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(5)).then_some(())
    });
    let before = must(lab.daemon().cpu());
    let seconds = 5;
    std::thread::sleep(Duration::from_secs(seconds));
    let used = must(lab.daemon().cpu()) - before;
    let percent = used.as_secs_f64() / seconds as f64 * 100.0;
    let megabytes = must(lab.daemon().resident_bytes()) as f64 / 1e6;
    announce(&format!("idle with 100 ports: {percent:.3} % of a core, {megabytes:.1} MB resident"));
    assert!(percent < 0.5, "{percent} % of a core");
    assert!(megabytes < 100.0, "{megabytes} MB");
    lab.finish();
}
