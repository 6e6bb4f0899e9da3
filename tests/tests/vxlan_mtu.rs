//! Packets that do not fit into the tunnel: their senders are told, and nothing disappears silently.

use std::net::IpAddr;
use std::time::Duration;

use vswitch_tests::lab::{any_port, ipv4, ipv6, must};
use vswitch_tests::overlay::Underlay;
use vswitch_tests::process::run;
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{Lab, Namespace, requirement};

/// What `ping` prints for one echo of `bytes` of ICMP payload with DF set, whatever comes of it.
fn ping_df(from: &Namespace, to: IpAddr, bytes: usize) -> String {
    let mut command = from.command("ping");
    command.args(["-n", "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", &bytes.to_string(), &to.to_string()]);
    let output = must(run(&mut command, Duration::from_secs(10)));
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_sender_of_packets_that_are_too_large_is_told() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    // Somebody insists on 1500 inside: then containers send what the tunnel cannot carry.
    let Some(mut one) = Lab::on(&mut underlay, 1, "--mtu 1500") else { return };
    let Some(mut two) = Lab::on(&mut underlay, 2, "--mtu 1500") else { return };
    let made = one.add_vxlan(42, &[2], false, "");
    assert!(made.warnings.iter().any(|warning| warning.contains("ICMP")), "{:?}", made.warnings);
    assert_eq!((made.mtu, one.bridge("br0").mtu), (1450, 1500));
    two.add_vxlan(42, &[1], false, "");
    let own = one.attach_numbered("a", 11);
    let port = two.attach_numbered("b", 12);
    let (a, b) = (one.container("a"), two.container("b"));
    for (target, headers) in [(ipv4(&port), 28), (ipv6(&port), 48)] {
        let fits = ping_df(a, target, 1450 - headers);
        assert!(fits.contains(" 0% packet loss"), "{fits}");
        let told = ping_df(a, target, 1451 - headers);
        assert!(told.contains("mtu = 1450") || told.contains("mtu=1450"), "{told}");
        // The kernel of the container has learned it, and so has TCP.
        let route = must(a.ip(&format!("route get {target}")));
        assert!(route.contains("mtu 1450"), "{route}");
        must(must(Transfer::start(b, a, any_port(target), Plan::both_ways(4 << 20))).finish());
        // Without DF a container fragments by itself once it knows, and so does the one that answers.
        let back = ping_df(b, if target.is_ipv4() { ipv4(&own) } else { ipv6(&own) }, 1451 - headers);
        assert!(back.contains("1450"), "{back}");
        must(datagrams(b, a, any_port(target), &[1400, 1500, 4000, 20_000]));
    }
    // A new connection that nobody has told anything: it begins with the MSS of 1500.
    for namespace in [a, b] {
        must(namespace.ip("route flush cache"));
        must(namespace.ip("-6 route flush cache"));
    }
    for target in [ipv4(&port), ipv6(&port)] {
        must(must(Transfer::start(b, a, any_port(target), Plan::both_ways(2 << 20))).finish());
    }
    for lab in [&one, &two] {
        lab.assert_accounted();
    }
    must(underlay.dismantle());
    one.finish();
    two.finish();
}

#[test]
fn with_the_mtu_that_was_derived_nobody_has_to_be_told() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let Some(mut one) = Lab::on(&mut underlay, 1, "") else { return };
    let Some(mut two) = Lab::on(&mut underlay, 2, "") else { return };
    let told = one.ctl(&["add-vxlan", "br0", "--vni", "42", "--remote", "198.18.0.2"]);
    assert!(told.contains("was 1500 and is 1450"), "{told}");
    two.add_vxlan(42, &[1], false, "");
    one.attach_numbered("a", 11);
    let port = two.attach_numbered("b", 12);
    let fits = ping_df(one.container("a"), ipv4(&port), 1422);
    assert!(fits.contains(" 0% packet loss"), "{fits}");
    let local = ping_df(one.container("a"), ipv4(&port), 1423);
    assert!(local.contains("message too long, mtu"), "the container's own interface says it: {local}");
    must(
        must(Transfer::start(two.container("b"), one.container("a"), any_port(ipv4(&port)), Plan::both_ways(4 << 20)))
            .finish(),
    );
    for lab in [&one, &two] {
        lab.assert_accounted();
    }
    must(underlay.dismantle());
    one.finish();
    two.finish();
}
