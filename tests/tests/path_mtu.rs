//! Ports of different MTU on one bridge: no packet vanishes, its sender is told, or it is fragmented.

use std::net::IpAddr;

use vswitch_tests::Lab;
use vswitch_tests::lab::{ipv4, ipv6, must};
use vswitch_tests::namespace::Namespace;

const DUAL: &str = "--subnet 10.1.0.0/24 --subnet fd00:1::/64";

/// Sends pings with `payload` bytes; what ping says, whether or not it was answered.
fn ping(from: &Namespace, to: IpAddr, args: &str) -> String {
    let mut command = from.command("ping");
    command.args(["-n", "-c", "3", "-i", "0.2", "-W", "2"]).args(args.split_whitespace()).arg(to.to_string());
    let output = must(command.output());
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_sender_learns_the_mtu_of_the_other_port() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", DUAL);
    let wide = lab.attach("br0", "wide", "--mtu 1500");
    let narrow = lab.attach("br0", "narrow", "--mtu 1400");
    let told = ping(lab.container("wide"), ipv4(&narrow), "-M do -s 1472");
    assert!(told.contains("mtu = 1400") || told.contains("mtu=1400"), "{told}");
    let route = must(lab.container("wide").ip(&format!("route get {}", ipv4(&narrow))));
    assert!(route.contains("mtu 1400"), "{route}");
    let exact = ping(lab.container("wide"), ipv4(&narrow), "-M do -s 1372");
    assert!(exact.contains("3 received"), "{exact}");
    // The answers of the narrow one fit everywhere.
    let back = ping(lab.container("narrow"), ipv4(&wide), "-M do -s 1372");
    assert!(back.contains("3 received"), "{back}");
    assert!(lab.drops("br0", "narrow", "too-big") >= 1);
    lab.finish();
}

#[test]
fn a_packet_that_may_be_fragmented_arrives() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", DUAL);
    lab.attach("br0", "wide", "--mtu 9000");
    let narrow = lab.attach("br0", "narrow", "--mtu 1300");
    let whole = ping(lab.container("wide"), ipv4(&narrow), "-M dont -s 8000");
    assert!(whole.contains("3 received"), "{whole}");
    assert_eq!(lab.drops("br0", "narrow", "too-big"), 0);
    lab.finish();
}

#[test]
fn ipv6_senders_fragment_once_they_know() {
    let Some(mut lab) = Lab::new() else { return };
    lab.add_bridge("br0", DUAL);
    lab.attach("br0", "wide", "--mtu 9000");
    let narrow = lab.attach("br0", "narrow", "--mtu 1300");
    let first = ping(lab.container("wide"), ipv6(&narrow), "-s 8000");
    let then = ping(lab.container("wide"), ipv6(&narrow), "-s 8000");
    assert!(then.contains("3 received"), "first {first}\nthen {then}");
    lab.finish();
}
