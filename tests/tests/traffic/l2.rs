//! The learning switch, with frames made by hand: who receives what, and what is counted.

use std::thread;
use std::time::{Duration, Instant};

use vswitch::api::{FdbEntry, FdbKind};
use vswitch_tests::Lab;
use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, ethernet, mac, mac_text, unpadded};
use vswitch_tests::lab::must;
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;

use super::raw_lab;
use vswitch_tests::lab::PortTypes;

const QUIET: Duration = Duration::from_millis(150);

/// A bridge without addresses and, for each role, a port and a raw socket in its namespace. The
/// namespaces speak no IPv6, so nothing is on the wire but what a test sends.
fn wires<const N: usize>(lab: &mut Lab, bridge_args: &str, roles: [&str; N]) -> [PacketSocket; N] {
    lab.add_bridge("br0", &format!("--l2 {bridge_args}"));
    roles.map(|role| {
        must(lab.add_container(role).sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
        lab.attach("br0", role, "");
        must(PacketSocket::open(lab.container(role), "eth0"))
    })
}

/// The entries of addresses that a test made up; the switch announces its ports' own ones itself.
fn made_up(lab: &Lab) -> Vec<FdbEntry> {
    lab.fdb("br0").into_iter().filter(|entry| entry.mac.starts_with("0a:00:")).collect()
}

/// The frames of our ethertype that arrived, when `expected` of them did: waits for those, and for what should not come.
fn received(socket: &PacketSocket, expected: usize) -> Vec<Vec<u8>> {
    must(
        socket.recv_expected(expected, QUIET, |frame| frame.len() >= 14 && frame[12..14] == EXPERIMENTAL.to_be_bytes()),
    )
}

fn test_frame(dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    ethernet(dst, src, EXPERIMENTAL, b"vswitch")
}

fn entry(lab: &Lab, address: [u8; 6]) -> Option<FdbEntry> {
    lab.fdb("br0").into_iter().find(|entry| entry.mac == mac_text(address))
}

#[test]
fn frames_are_flooded_until_the_destination_is_learned() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, c] = wires(&mut lab, "", ["a", "b", "c"]);
    let before = lab.port_stats("br0", "a").total;

    // Broadcast, unknown unicast, multicast: everybody else has one.
    for dst in [BROADCAST, mac(99), [0x01, 0x00, 0x5e, 0, 0, 1]] {
        let frame = test_frame(dst, mac(1));
        must(a.send(&frame));
        assert_eq!(received(&b, 1), std::slice::from_ref(&frame));
        assert_eq!(received(&c, 1), [frame]);
    }
    assert_eq!(received(&a, 0), Vec::<Vec<u8>>::new(), "a frame never goes back to where it came from");
    let after = lab.port_stats("br0", "a").total;
    assert_eq!(after.rx_frames - before.rx_frames, 3);
    assert_eq!(after.flood_copies - before.flood_copies, 3, "two deliveries of each are one copy of each");

    // Known unicast: only the one.
    let answer = test_frame(mac(1), mac(2));
    must(b.send(&answer));
    assert_eq!(received(&a, 1), [answer]);
    assert_eq!(received(&c, 0), Vec::<Vec<u8>>::new());
    assert_eq!(entry(&lab, mac(1)).map(|entry| (entry.port, entry.kind)), Some(("a".to_owned(), FdbKind::Learned)));
    assert_eq!(entry(&lab, mac(2)).map(|entry| entry.port), Some("b".to_owned()));
    lab.finish();
}

#[test]
fn an_address_that_moves_is_followed_at_once() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, c] = wires(&mut lab, "", ["a", "b", "c"]);
    must(a.send(&test_frame(BROADCAST, mac(1))));
    must(c.send(&test_frame(mac(1), mac(3))));
    assert_eq!(received(&a, 1).len(), 1);
    must(b.send(&test_frame(BROADCAST, mac(1))));
    let _ = (received(&a, 1), received(&b, 1), received(&c, 2));
    must(c.send(&test_frame(mac(1), mac(3))));
    assert_eq!(received(&b, 1).len(), 1, "the flow cache must not remember the old place");
    assert_eq!(received(&a, 0).len(), 0);
    assert_eq!(entry(&lab, mac(1)).map(|entry| entry.port), Some("b".to_owned()));
    lab.finish();
}

#[test]
fn the_forwarding_database_is_shown_edited_and_flushed() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, c] = wires(&mut lab, "", ["a", "b", "c"]);
    must(a.send(&test_frame(BROADCAST, mac(1))));
    must(b.send(&test_frame(BROADCAST, mac(2))));
    let _ = (received(&a, 1), received(&b, 1), received(&c, 2));

    lab.ctl(&["fdb-add", "br0", &mac_text(mac(7)), "c"]);
    let shown = lab.ctl_json(&["fdb", "br0"]).to_string();
    assert!([1, 2, 7].iter().all(|&number| shown.contains(&mac_text(mac(number)))), "{shown}");
    let text = lab.ctl(&["fdb", "br0"]);
    assert!(text.contains(&mac_text(mac(7))) && text.contains("static"), "{text}");
    must(a.send(&test_frame(mac(7), mac(1))));
    assert_eq!(
        (received(&b, 0).len(), received(&c, 1).len()),
        (0, 1),
        "a static entry forwards without ever having been seen"
    );

    lab.ctl(&["fdb-flush", "br0", "b"]);
    assert!(entry(&lab, mac(2)).is_none() && entry(&lab, mac(1)).is_some());
    lab.ctl(&["fdb-flush", "br0"]);
    assert_eq!(made_up(&lab).len(), 1, "only the static entry stays");
    lab.ctl(&["fdb-del", "br0", &mac_text(mac(7))]);
    assert_eq!(made_up(&lab), []);
    must(a.send(&test_frame(mac(7), mac(1))));
    assert_eq!((received(&b, 1).len(), received(&c, 1).len()), (1, 1), "unknown again");
    lab.finish();
}

#[test]
fn a_static_entry_refuses_to_move() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, c] = wires(&mut lab, "", ["a", "b", "c"]);
    lab.ctl(&["fdb-add", "br0", &mac_text(mac(1)), "a"]);
    must(b.send(&test_frame(BROADCAST, mac(1))));
    lab.await_drops("br0", "b", "static-move", 1);
    assert_eq!((received(&a, 0).len(), received(&c, 0).len()), (0, 0), "an impostor is not heard");
    assert_eq!(entry(&lab, mac(1)).map(|entry| entry.port), Some("a".to_owned()));
    drop(c);
    lab.finish();
}

#[test]
fn silent_addresses_are_forgotten() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, c] = wires(&mut lab, "--ageing 2s", ["a", "b", "c"]);
    must(a.send(&test_frame(BROADCAST, mac(1))));
    lab.ctl(&["fdb-add", "br0", &mac_text(mac(7)), "c"]);
    assert!(wait_until("learning", PATIENCE, || entry(&lab, mac(1))).is_ok());
    must(wait_until("ageing", PATIENCE, || entry(&lab, mac(1)).is_none().then_some(())));
    assert!(entry(&lab, mac(7)).is_some(), "static entries do not age");
    let _ = (received(&b, 1), received(&c, 1));
    must(b.send(&test_frame(mac(1), mac(2))));
    assert_eq!((received(&a, 1).len(), received(&c, 1).len()), (1, 1), "unknown again: flooded");
    lab.finish();
}

#[test]
fn traffic_keeps_an_address_young() {
    let Some(mut lab) = raw_lab() else { return };
    let ageing = Duration::from_secs(4);
    let [a, _b] = wires(&mut lab, "--ageing 4s", ["a", "b"]);
    let (began, mut last) = (Instant::now(), Instant::now());
    while began.elapsed() < ageing + Duration::from_secs(2) {
        let before = std::mem::replace(&mut last, Instant::now());
        must(a.send(&test_frame(mac(9), mac(1))));
        thread::sleep(Duration::from_millis(200));
        // Ages are whole seconds. A machine that stands still for longer than that has let it grow old indeed.
        let is_old = before.elapsed() > ageing - Duration::from_secs(1);
        assert!(entry(&lab, mac(1)).is_some() || is_old, "an address that is in use was forgotten");
    }
    lab.finish();
}

#[test]
fn a_port_that_floods_addresses_evicts_its_own() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b, c] = wires(&mut lab, "--mac-limit 64 --port-mac-limit 48 --storm-limit 0", ["a", "b", "c"]);
    for number in 0..10 {
        must(b.send(&test_frame(BROADCAST, mac(1000 + number))));
        must(c.send(&test_frame(BROADCAST, mac(2000 + number))));
    }
    must(wait_until("learning", PATIENCE, || (made_up(&lab).len() == 20).then_some(())));
    for number in 0..2000 {
        must(a.send(&test_frame(BROADCAST, mac(10_000 + number))));
    }
    lab.assert_accounted();
    let entries = made_up(&lab);
    let of = |port: &str| entries.iter().filter(|entry| entry.port == port).count();
    assert_eq!((of("b"), of("c")), (10, 10), "the quiet ports' addresses are untouched");
    // 64 less the quiet ports' 20 and, until they age, the three that the ports announced.
    assert!((41..=44).contains(&of("a")), "the flood fills what is left of the limit: {}", of("a"));
    lab.finish();
}

#[test]
fn the_limit_of_a_port_holds() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, _b] = wires(&mut lab, "--port-mac-limit 8 --storm-limit 0", ["a", "b"]);
    for number in 0..200 {
        must(a.send(&test_frame(BROADCAST, mac(number))));
    }
    lab.assert_accounted();
    // AF_XDP drops what comes faster than it is taken, perhaps the last frame of all: it is sent until it is known.
    let known = || {
        must(a.send(&test_frame(BROADCAST, mac(199))));
        entry(&lab, mac(199)).map(|_| ())
    };
    must(wait_until("the newest is known", PATIENCE, known));
    assert_eq!(made_up(&lab).len(), 8);
    lab.finish();
}

#[test]
fn a_broadcast_storm_is_limited_and_counted() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b] = wires(&mut lab, "--storm-limit 100", ["a", "b"]);
    // What overruns the kernel's own queue between a veth pair was never received.
    let refused = || must(lab.container("a").link_counter("eth0", "tx_dropped"));
    let before = (lab.port_stats("br0", "a").total.rx_frames, refused());
    let started = Instant::now();
    for _ in 0..1000 {
        must(a.send(&test_frame(BROADCAST, mac(1))));
    }
    lab.assert_accounted();
    let lasted = started.elapsed().as_secs();
    let delivered = received(&b, 1).len() as u64;
    // A burst may be more than an AF_XDP socket holds.
    let (overrun, storm) = (lab.drops("br0", "a", "rx-overrun"), lab.drops("br0", "a", "storm"));
    let dropped = storm + overrun;
    let arrived = lab.port_stats("br0", "a").total.rx_frames - before.0;
    let lost = refused() - before.1;
    assert_eq!(arrived + lost, 1000, "{arrived} of 1000 arrived, the kernel dropped {lost}");
    assert!(lost == 0 || crate::PORTS != PortTypes::Tap, "the queue of a TAP holds them all");
    assert_eq!(delivered + dropped, arrived);
    let limit = 400 + 100 * lasted;
    assert!((1..=limit).contains(&delivered), "{delivered} delivered at a limit of 100 per second, in {lasted} s");
    // Known unicast is no storm.
    must(b.send(&test_frame(mac(1), mac(2))));
    let _ = received(&a, 1);
    for _ in 0..500 {
        must(a.send(&test_frame(mac(2), mac(1))));
    }
    lab.assert_accounted();
    let accounted =
        received(&b, 1).len() as u64 + lab.drops("br0", "a", "rx-overrun") - overrun + refused() - before.1 - lost;
    assert_eq!(accounted, 500, "known unicast arrives, or is accounted for");
    assert_eq!(lab.drops("br0", "a", "storm"), storm, "known unicast is no storm");
    lab.finish();
}

#[test]
fn a_loop_is_detected_and_named() {
    let Some(mut lab) = raw_lab() else { return };
    lab.allow_log("loop");
    let [a, _b] = wires(&mut lab, "--storm-limit 2000", ["a", "b"]);
    // Two ports of the same namespace, joined inside by a bridge of the kernel.
    must(lab.add_container("c").sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
    lab.attach("br0", "c", "--name c1 --ifname eth0");
    lab.attach("br0", "c", "--name c2 --ifname eth1");
    must(lab.container("c").ip("link add inner type bridge"));
    for link in ["eth0 master inner", "eth1 master inner", "inner up"] {
        must(lab.container("c").ip(&format!("link set {link}")));
    }
    must(wait_until("the loop's warning", PATIENCE, || {
        must(a.send(&test_frame(BROADCAST, mac(1))));
        // The containers' own addresses go around, too.
        lab.bridge("br0").warnings.iter().any(|warning| warning.contains(&mac_text(mac(1)))).then_some(())
    }));
    let warnings = lab.bridge("br0").warnings.join(" ");
    assert!(warnings.contains("loop"), "{warnings}");
    assert!(warnings.contains("c1") || warnings.contains("c2"), "the ports are named: {warnings}");
    assert!(lab.ctl(&["show"]).contains("loop"), "a person sees it");
    assert!(lab.log().lines().any(|line| line.contains(" WARN ") && line.contains("loop")), "the log has it");
    assert!(lab.stats().drops.get("loop").copied().unwrap_or(0) > 0, "the loop is cut");
    // Without the inner bridge the frames die out, and the accounting comes to rest.
    must(lab.container("c").ip("link del inner"));
    lab.finish();
}

#[test]
fn bad_frames_are_dropped_by_named_reason() {
    let Some(mut lab) = raw_lab() else { return };
    let [a, b] = wires(&mut lab, "--mtu 1500", ["a", "b"]);
    // A group address cannot be a source (IEEE 802.3 clause 3.2.5).
    must(a.send(&test_frame(BROADCAST, [0x03, 0, 0, 0, 0, 1])));
    must(a.send(&test_frame(mac(2), BROADCAST)));
    // A tag that ends before its own ethertype.
    must(a.send(&unpadded(BROADCAST, mac(1), 0x8100, &[0, 10])));
    lab.await_drops("br0", "a", "malformed", 3);
    assert_eq!(received(&b, 0).len(), 0);
    assert!(lab.fdb("br0").iter().all(|entry| entry.mac != mac_text(BROADCAST)), "nothing was learned from them");

    // Link-local control frames stay on their link (IEEE 802.1Q table 8-1); the block's neighbours pass.
    for last in 0..=0x0f {
        must(a.send(&test_frame([0x01, 0x80, 0xc2, 0, 0, last], mac(1))));
    }
    must(a.send(&test_frame([0x01, 0x80, 0xc2, 0, 0, 0x10], mac(1))));
    assert_eq!(received(&b, 1).len(), 1);
    lab.await_drops("br0", "a", "link-local", 16);

    // The destination is where the frame came from.
    must(a.send(&test_frame(mac(1), mac(5))));
    lab.await_drops("br0", "a", "same-port", 1);
    assert_eq!(received(&b, 0).len(), 0);
    lab.finish();
}

#[test]
fn a_frame_too_big_for_its_port_is_dropped_there() {
    let Some(mut lab) = raw_lab() else { return };
    let [a] = wires(&mut lab, "--mtu 1500", ["a"]);
    must(lab.add_container("b").sysctl("net.ipv6.conf.default.disable_ipv6", "1"));
    lab.attach("br0", "b", "--mtu 1000");
    let b = must(PacketSocket::open(lab.container("b"), "eth0"));
    for (payload, arrives) in [(1000, 1), (1001, 0), (1400, 0)] {
        must(a.send(&ethernet(BROADCAST, mac(1), EXPERIMENTAL, &vec![7; payload])));
        assert_eq!(received(&b, arrives).len(), arrives, "{payload} bytes to an MTU of 1000");
    }
    lab.await_drops("br0", "b", "too-big", 2);
    lab.finish();
}

#[test]
fn a_lone_port_has_nobody_to_talk_to() {
    let Some(mut lab) = raw_lab() else { return };
    let [a] = wires(&mut lab, "", ["a"]);
    must(a.send(&test_frame(BROADCAST, mac(1))));
    lab.await_drops("br0", "a", "no-destination", 1);
    lab.finish();
}
