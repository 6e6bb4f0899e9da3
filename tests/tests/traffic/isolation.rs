//! `--icc off`: ports reach the gateway, not one another.

use std::time::Duration;

use vswitch_tests::lab::{any_port, assert_no_reach, assert_reaches, ipv4, ipv6, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::stream::{Plan, Transfer};

use super::lab;

#[test]
fn ports_reach_the_gateway_and_not_one_another() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24 --subnet fd00:1::/64 --icc off", &["a", "b"]);
    for gateway in lab.bridge("br0").gateways {
        assert_reaches(lab.container("a"), gateway);
        assert_reaches(lab.container("b"), gateway);
    }
    assert_reaches(lab.host(), ipv4(&ports[0]));
    assert_no_reach(lab.container("a"), ipv4(&ports[1]));
    assert_no_reach(lab.container("b"), ipv6(&ports[0]));
    // Knowing the neighbour's MAC address does not help.
    let (address, neighbour) = (ipv4(&ports[1]), &ports[1].mac);
    must(lab.container("a").ip(&format!("neigh replace {address} lladdr {neighbour} dev eth0")));
    assert_no_reach(lab.container("a"), address);
    assert!(lab.drops("br0", "a", "isolated") > 0);
    lab.finish();
}

#[test]
fn isolation_is_switched_on_and_off_under_traffic() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24", &["a", "b"]);
    let plan = Plan { up_bytes: 4 << 20, down_bytes: 4 << 20, write_bytes: 16 << 10, pause: Duration::from_millis(10) };
    let stream = must(Transfer::start(lab.container("b"), lab.container("a"), any_port(ipv4(&ports[1])), plan));
    must(wait_until("the stream", PATIENCE, || (stream.received_bytes() > 100_000).then_some(())));
    lab.ctl(&["set-br", "br0", "--icc", "off"]);
    must(stream.await_standstill(Duration::from_millis(500)));
    assert!(stream.received_bytes() < 8 << 20, "a running connection is cut too, cached flows or not");
    lab.ctl(&["set-br", "br0", "--icc", "on"]);
    must(stream.finish());
    lab.finish();
}
