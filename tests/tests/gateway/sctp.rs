//! SCTP through the gateway: by usrsctp, a stack in a process, because not every kernel has one.

use std::net::IpAddr;
use std::time::Duration;

use vswitch_tests::lab::must;
use vswitch_tests::outside::{far, far_second, host};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::{Lab, Namespace, requirement};

use super::{finish, lab_with};

/// Where Debian's libusrsctp-examples has its programs.
const PROGRAMS: &str = "/usr/lib/usrsctp";

fn available() -> bool {
    if std::path::Path::new(PROGRAMS).join("echo_server").is_file() {
        return true;
    }
    // Says so, and fails where it must not be missing.
    requirement::program("libusrsctp-examples")
}

/// Has an association with the SCTP echo service of `target` on `port`, from the port `from` (0: any), until it was shut
/// down; whether what was said in it came back.
fn echoes(client: &Namespace, target: IpAddr, port: u16, from: u16) -> bool {
    let mut shell = client.command("sh");
    // The end of its input shuts the association down.
    let command = format!(
        "(sleep 0.5; echo through the gateway; sleep 0.5; echo and once more; sleep 1) | \
         timeout 5 {PROGRAMS}/client {target} {port} {from} 0 0"
    );
    shell.args(["-c", &command]);
    let output = must(vswitch_tests::process::run(&mut shell, Duration::from_secs(10)));
    let text = String::from_utf8_lossy(&output.stdout);
    text.contains("through the gateway") && text.contains("and once more")
}

/// The SCTP connections of `br0` that have seen the end of their association. (Others are of its paths between other
/// addresses of its hosts, of which each tells the other.)
fn ended(lab: &Lab) -> usize {
    let table = lab.ctl_json(&["conntrack", "br0"]);
    let connections = table.as_array().map(Vec::as_slice).unwrap_or_default();
    connections.iter().filter(|one| one["protocol"] == "sctp" && one["state"] == "CLOSED").count()
}

/// The shutdown is seen, and the connection forgotten long before its time.
#[track_caller]
fn assert_end(lab: &Lab) {
    must(wait_until("a shutdown", PATIENCE, || (ended(lab) > 0).then_some(())));
    must(wait_until("the end of it", PATIENCE, || (ended(lab) == 0).then_some(())));
}

fn serve(lab: &mut Lab, role: &str) {
    let mut server = lab.container(role).command(format!("{PROGRAMS}/echo_server"));
    // No encapsulation in UDP: the protocol itself.
    server.args(["0", "0"]);
    lab.start(server);
    std::thread::sleep(Duration::from_millis(500));
}

#[test]
fn a_published_port_of_sctp() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    if !available() {
        return;
    }
    lab.ctl(&["publish", "br0", "a", "7007:7/sctp"]);
    serve(&mut lab, "a");
    for ipv6 in [false, true] {
        let target = host(ipv6);
        must(wait_until("an echo", PATIENCE, || echoes(lab.far(), target, 7007, 0).then_some(())));
        assert_end(&lab);
        assert!(!echoes(lab.far(), target, 7008, 0), "another port is not published");
    }
    finish(lab);
}

#[test]
fn containers_reach_sctp_outside() {
    let Some((mut lab, _)) = lab_with(&["a", "b"]) else { return };
    if !available() {
        return;
    }
    // An association is with all addresses of a host: with more than one it is multihoming, which no translator can do
    // for it (RFC 9260 section 5.1.2).
    must(lab.far().ip(&format!("addr del {}/24 dev eth0", far_second(false))));
    must(lab.far().ip(&format!("addr del {}/64 dev eth0", far_second(true))));
    serve(&mut lab, "far");
    for ipv6 in [false, true] {
        // From the same port: one of them gets another one, and the checksum (CRC32c) has to follow.
        for role in ["a", "b"] {
            must(wait_until("an echo", PATIENCE, || echoes(lab.container(role), far(ipv6), 7, 5000).then_some(())));
        }
        assert_end(&lab);
    }
    finish(lab);
}
