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

/// Says something to the SCTP echo service of `target` on `port`; whether it came back.
fn echoes(client: &Namespace, target: IpAddr, port: u16) -> bool {
    let mut shell = client.command("sh");
    let command =
        format!("(sleep 0.5; echo through the gateway; sleep 1.5) | timeout 4 {PROGRAMS}/client {target} {port} 0 0 0");
    shell.args(["-c", &command]);
    let output = must(vswitch_tests::process::run(&mut shell, Duration::from_secs(10)));
    String::from_utf8_lossy(&output.stdout).contains("through the gateway")
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
    must(wait_until("an echo", PATIENCE, || echoes(lab.far(), host(false), 7007).then_some(())));
    let table = lab.ctl(&["conntrack", "br0"]);
    assert!(table.contains("sctp"), "{table}");
    assert!(!echoes(lab.far(), host(false), 7008), "another port is not published");
    finish(lab);
}

#[test]
fn containers_reach_sctp_outside() {
    let Some((mut lab, _)) = lab_with(&["a", "b"]) else { return };
    if !available() {
        return;
    }
    // An association is with all addresses of a host: with more than one it is multihoming, which no translator can do
    // for it (RFC 4960 section 3.3.2.1).
    must(lab.far().ip(&format!("addr del {}/24 dev eth0", far_second(false))));
    serve(&mut lab, "far");
    for role in ["a", "b"] {
        must(wait_until("an echo", PATIENCE, || echoes(lab.container(role), far(false), 7).then_some(())));
    }
    finish(lab);
}
