//! What somebody else takes away, the daemon puts back: at once while it runs, and at its start.

use vswitch_tests::Namespace;
use vswitch_tests::lab::{assert_reaches, ipv4, must};
use vswitch_tests::process::{PATIENCE, wait_until};

use super::lab;

fn has_link(namespace: &Namespace, name: &str) -> Option<()> {
    namespace.ip(&format!("link show {name}")).ok().map(|_| ())
}

#[test]
fn a_removed_interface_is_made_again() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24 --subnet fd00:1::/64", &["a", "b"]);
    let before = lab.configuration();
    for (namespace, ifname) in [(lab.container("b"), "eth0"), (lab.host(), "br0")] {
        must(namespace.ip(&format!("link del {ifname}")));
        must(wait_until(&format!("{ifname} to come back"), PATIENCE, || has_link(namespace, ifname)));
        must(wait_until("everything as before", PATIENCE, || (lab.configuration() == before).then_some(())));
        assert_reaches(lab.container("a"), ipv4(&ports[1]));
        assert_reaches(lab.host(), ipv4(&ports[1]));
    }
    lab.finish();
}

#[test]
fn what_was_removed_while_the_daemon_was_away_is_made_again() {
    let Some(mut lab) = lab() else { return };
    let ports = lab.simple("--subnet 10.1.0.0/24", &["a", "b", "c"]);
    let before = lab.configuration();
    lab.kill_daemon();
    must(lab.container("b").ip("link del eth0"));
    must(lab.container("c").ip("addr flush dev eth0"));
    must(lab.host().ip("link del br0"));
    lab.start_daemon();
    assert_eq!(lab.configuration(), before);
    for port in &ports {
        assert_reaches(lab.host(), ipv4(port));
    }
    assert_reaches(lab.container("a"), ipv4(&ports[1]));
    lab.finish();
}

#[test]
fn an_interface_that_was_there_before_is_not_taken() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    lab.add_bridge("br1", "--subnet 10.2.0.0/24");
    lab.attach("br0", "a", "");
    // A second default route would be a surprise: it is refused, and nothing is left of the attempt.
    let netns = lab.netns("a");
    let refusal = lab.ctl_refused(&["add-port", "br1", &netns, "--name", "again", "--ifname", "eth1"]);
    assert!(refusal.contains("default route") && refusal.contains("--default-route off"), "{refusal}");
    assert!(has_link(lab.container("a"), "eth1").is_none());
    assert_eq!(lab.ports("br1"), []);
    // Without it a container may be on two bridges.
    let second = lab.attach("br1", "a", "--name again --ifname eth1 --default-route off");
    assert_reaches(lab.host(), ipv4(&second));
    lab.finish();
}
