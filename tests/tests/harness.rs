//! The harness is tested before it is believed: over veth pairs, without the switch.

use std::time::Duration;

use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, ethernet, mac, tagged};
use vswitch_tests::inventory::Inventory;
use vswitch_tests::lab::must;
use vswitch_tests::namespace::{Namespace, unique_prefix};
use vswitch_tests::process::{Background, run, run_ok};
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::requirement;
use vswitch_tests::stream::{Plan, Transfer, datagrams, datagrams_within};

/// Two namespaces joined by a veth pair, 10.0.0.1 and 10.0.0.2.
fn pair() -> Option<(Namespace, Namespace)> {
    if !requirement::system() {
        return None;
    }
    let prefix = unique_prefix();
    let (a, b) = (must(Namespace::create(&format!("{prefix}a"))), must(Namespace::create(&format!("{prefix}b"))));
    must(a.ip(&format!("link add eth0 type veth peer name eth0 netns {}", b.name())));
    for (namespace, address) in [(&a, "10.0.0.1/24"), (&b, "10.0.0.2/24")] {
        must(namespace.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1"));
        must(namespace.ip(&format!("addr add {address} dev eth0")));
        must(namespace.ip("link set eth0 up"));
    }
    // A veth pair has its carrier, and with it its queues, when a worker of the kernel has got round to it.
    for namespace in [&a, &b] {
        must(vswitch_tests::process::wait_until("the carrier", vswitch_tests::process::PATIENCE, || {
            namespace.ip("link show eth0").ok()?.contains("state UP").then_some(())
        }));
    }
    Some((a, b))
}

#[test]
fn streams_and_datagrams_are_checked_end_to_end() {
    let Some((a, b)) = pair() else { return };
    let address = ([10, 0, 0, 2], 0).into();
    must(must(Transfer::start(&b, &a, address, Plan::both_ways(8 << 20))).finish());
    let one_way = Plan { down_bytes: 0, write_bytes: 7, ..Plan::both_ways(10_000) };
    must(must(Transfer::start(&b, &a, address, one_way)).finish());
    must(datagrams(&b, &a, address, &[0, 1, 1472, 1473, 65_507]));
    // Nobody is there: the error says so instead of waiting for ever.
    must(b.ip("link set eth0 down"));
    assert!(datagrams_within(Duration::from_secs(1), &b, &a, ([10, 0, 0, 2], 0).into(), &[1]).is_err());
}

#[test]
fn raw_frames_keep_their_tags() {
    let Some((a, b)) = pair() else { return };
    let (from, to) = (must(PacketSocket::open(&a, "eth0")), must(PacketSocket::open(&b, "eth0")));
    let plain = ethernet(BROADCAST, mac(1), EXPERIMENTAL, b"x");
    let frames = [plain.clone(), tagged(100, &plain)];
    assert_eq!(must(from.send_burst(&frames)), 2);
    let quiet = Duration::from_millis(200);
    assert_eq!(must(to.recv_expected(2, quiet, |frame| frame[6..12] == mac(1))), frames);
    assert_eq!(must(from.recv_all(quiet, |frame| frame[6..12] == mac(1))), Vec::<Vec<u8>>::new(), "not its own");
    assert_eq!(must(b.link_counter("eth0", "rx_packets")), 2);
}

#[test]
fn an_inventory_sees_what_changed_and_nothing_else() {
    let Some((a, _b)) = pair() else { return };
    let before = must(Inventory::take(&a));
    must(a.run("ping -n -q -c 1 -W 1 10.0.0.2"));
    assert_eq!(before.differences(&must(Inventory::take(&a))), Vec::<String>::new());
    for (change, undo, place) in [
        ("ip addr add 10.0.0.9/24 dev eth0", "ip addr del 10.0.0.9/24 dev eth0", "addr"),
        ("ip route add 10.9.0.0/24 dev eth0", "ip route del 10.9.0.0/24 dev eth0", "route"),
        ("ethtool -K eth0 tso off", "ethtool -K eth0 tso on", "ethtool"),
        ("ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500", "link"),
    ] {
        must(a.run(change));
        let differences = before.differences(&must(Inventory::take(&a)));
        assert!(differences.iter().any(|line| line.contains(place)), "{change}: {differences:?}");
        must(a.run(undo));
    }
    assert_eq!(before.differences(&must(Inventory::take(&a))), Vec::<String>::new());
}

#[test]
fn programs_are_bounded_and_do_not_outlive_their_owner() {
    let Some((a, _b)) = pair() else { return };
    let error = run(a.command("sleep").arg("100"), Duration::from_millis(100)).expect_err("a limit");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let error = run(&mut a.command("no-such-program"), Duration::from_secs(1)).expect_err("an error");
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let error = run_ok(a.command("sh").args(["-c", "echo why >&2; exit 3"]), Duration::from_secs(5)).expect_err("3");
    assert!(error.to_string().contains("why"), "{error}");
    let directory = must(tempfile::tempdir());
    let mut command = a.command("sh");
    command.args(["-c", "sleep 100 & sleep 100"]);
    drop(must(Background::start(&mut command, &directory.path().join("log"))));
    must(vswitch_tests::process::wait_until("no process", vswitch_tests::process::PATIENCE, || {
        vswitch_tests::namespace::pids(a.name()).is_empty().then_some(())
    }));
}

#[test]
fn a_dropped_namespace_is_gone() {
    let Some((a, b)) = pair() else { return };
    let path = a.path();
    assert!(path.exists());
    drop(a);
    assert!(!path.exists());
    // Its end of the veth pair went with it, and so did ours.
    must(vswitch_tests::process::wait_until("the pair to go", vswitch_tests::process::PATIENCE, || {
        b.ip("link show eth0").is_err().then_some(())
    }));
}
