//! Shared uplinks: the host keeps its interface, its addresses and its traffic.
//!
//! `phy0` is an interface of the host whose other end is in another namespace, the outside.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use vswitch::api::{SharedUplink, UplinkState, Uplinks};
use vswitch::bpf::sys::{self, Instruction};
use vswitch_tests::Lab;
use vswitch_tests::inventory::Inventory;
use vswitch_tests::lab::{Options, any_port, assert_reaches, must};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::stream::{Plan, Transfer};

const HOST: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.2";
const OUTSIDE6: &str = "2001:db8::2";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A host with `phy0` and a default route over it; the daemon, with these arguments, is not started yet.
fn host(args: &[&str]) -> Option<Lab> {
    let options = Options { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..Options::default() };
    let mut lab = Lab::without_daemon(options)?;
    lab.add_container("outside");
    lab.expect_changes("outside");
    lab.expect_changes("host");
    must(lab.host().sysctl("net.ipv6.conf.default.accept_dad", "0"));
    wire(&lab, "phy0");
    Some(lab)
}

fn wire(lab: &Lab, name: &str) {
    let outside = lab.container("outside");
    must(lab.host().ip(&format!("link add {name} type veth peer name {name}-far netns {}", outside.name())));
    must(outside.ip(&format!("addr add {OUTSIDE}/24 dev {name}-far")));
    must(outside.ip(&format!("addr add {OUTSIDE6}/64 dev {name}-far nodad")));
    must(outside.ip(&format!("link set {name}-far up")));
    address(lab, name);
}

fn address(lab: &Lab, name: &str) {
    for line in [
        format!("addr add {HOST}/24 dev {name}"),
        format!("addr add 2001:db8::1/64 dev {name} nodad"),
        format!("link set {name} up"),
        format!("route replace default via {OUTSIDE}"),
    ] {
        must(lab.host().ip(&line));
    }
    // Until the link has settled, the host is not what it will be found to be.
    must(wait_until("the link", PATIENCE, || {
        let text = lab.host().ip(&format!("addr show dev {name}")).ok()?;
        (text.contains("state UP") && text.contains("inet6 fe80:") && !text.contains("tentative")).then_some(())
    }));
}

fn shared(lab: &Lab) -> SharedUplink {
    let uplinks: Uplinks = lab.get("/v1/uplinks");
    uplinks.shared.into_iter().next().expect("an uplink")
}

#[track_caller]
fn becomes(lab: &Lab, what: impl Fn(&SharedUplink) -> bool) -> SharedUplink {
    let mut last = None;
    let reached = wait_until("the uplink's state", PATIENCE, || {
        let uplink = shared(lab);
        let is = what(&uplink);
        last = Some(uplink.clone());
        is.then_some(uplink)
    });
    reached.unwrap_or_else(|_| panic!("the uplink is {last:?}"))
}

/// The host's own traffic, both families, to the byte.
#[track_caller]
fn assert_the_hosts_traffic_passes(lab: &Lab) {
    let (host, outside) = (lab.host(), lab.container("outside"));
    assert_reaches(host, ip(OUTSIDE));
    assert_reaches(outside, ip(HOST));
    for address in [ip(OUTSIDE), ip(OUTSIDE6)] {
        must(must(Transfer::start(outside, host, any_port(address), Plan::both_ways(8 << 20))).finish());
    }
}

/// What is on the hook that outlives the daemon: a rear guard, one and no more.
#[track_caller]
fn assert_one_guard(lab: &Lab) {
    let one = wait_until("one guard", PATIENCE, || {
        let filters = lab.host().run("tc filter show dev phy0 ingress").ok()?;
        (filters.matches(" handle ").count() == 1 && filters.contains(" name vswitch_rear ")).then_some(())
    });
    assert!(one.is_ok(), "{}", must(lab.host().run("tc filter show dev phy0 ingress")));
}

fn links(lab: &Lab) -> String {
    must(lab.host().ip("-d link"))
}

#[test]
fn nothing_is_attached_in_vain() {
    let Some(mut lab) = host(&[]) else { return };
    let before = must(Inventory::take(lab.host()));
    lab.start_daemon();
    let uplink = shared(&lab);
    assert_eq!(
        (uplink.asked.as_str(), uplink.interface.as_deref(), uplink.state),
        ("auto", Some("phy0"), UplinkState::Idle)
    );
    let show = lab.ctl(&["show"]);
    assert!(show.contains("phy0 (auto)  idle") && show.contains("nothing needs it"), "{show}");
    let differences = before.differences(&must(Inventory::take(lab.host())));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let tasks = must(std::fs::read_dir(format!("/proc/{}/task", lab.daemon().pid())));
    let names = tasks.map(|task| must(std::fs::read_to_string(must(task).path().join("comm"))));
    assert!(!names.into_iter().any(|name| name.trim() == "host-watch"), "nor is anything watched");
    must(lab.host().ip("route del default"));
    assert_eq!(shared(&lab).state, UplinkState::Waiting);
    assert_eq!(lab.ctl(&["show"]), "");
    lab.finish();
}

#[test]
fn a_named_interface_is_shared_and_given_back_by_every_end() {
    for (option, hook) in [("phy0", "tcx"), ("phy0,xdp=native", "copy, 1 queue"), ("phy0,xdp=generic", "copy, 1 queue")]
    {
        let Some(mut lab) = host(&["--uplink", option]) else { return };
        let before = must(Inventory::take(lab.host()));
        lab.start_daemon();
        let uplink = becomes(&lab, |uplink| uplink.state == UplinkState::Up);
        assert_eq!(uplink.hook.as_deref(), Some(hook), "{option}");
        assert!(uplink.addresses.contains(&ip(HOST)), "{uplink:?}");
        let show = lab.ctl(&["show"]);
        assert!(show.starts_with("uplinks:\n  phy0"), "{show}");
        assert_the_hosts_traffic_passes(&lab);
        for end in [Lab::kill_daemon, Lab::stop_daemon] {
            end(&mut lab);
            let differences = before.differences(&must(Inventory::take(lab.host())));
            assert!(differences.is_empty(), "{option}: {}", differences.join("\n"));
            assert_one_guard(&lab);
            assert_the_hosts_traffic_passes(&lab);
            lab.start_daemon();
            becomes(&lab, |uplink| uplink.state == UplinkState::Up);
            assert_one_guard(&lab);
        }
        lab.finish();
    }
}

#[test]
fn the_shared_interface_is_followed() {
    let Some(mut lab) = host(&["--uplink", "phy0"]) else { return };
    lab.start_daemon();
    becomes(&lab, |uplink| uplink.state == UplinkState::Up);
    must(lab.host().ip("link set phy0 down"));
    becomes(&lab, |uplink| uplink.state == UplinkState::Down);
    must(lab.host().ip("link set phy0 up"));
    becomes(&lab, |uplink| uplink.state == UplinkState::Up);

    must(lab.host().ip("addr add 192.0.2.77/24 dev phy0"));
    becomes(&lab, |uplink| uplink.addresses.contains(&ip("192.0.2.77")));
    must(lab.host().ip("addr del 192.0.2.77/24 dev phy0"));
    becomes(&lab, |uplink| !uplink.addresses.contains(&ip("192.0.2.77")));

    must(lab.host().ip("link set phy0 name wire9"));
    becomes(&lab, |uplink| uplink.interface.as_deref() == Some("wire9") && uplink.state == UplinkState::Up);
    assert_reaches(lab.host(), ip(OUTSIDE));
    must(lab.host().ip("link del wire9"));
    let uplink = becomes(&lab, |uplink| uplink.state == UplinkState::Waiting);
    assert!(uplink.details[0].contains("no such interface"), "{uplink:?}");
    assert!(!links(&lab).contains("vsw-"), "the TAP goes with its interface");
    wire(&lab, "phy0");
    becomes(&lab, |uplink| uplink.state == UplinkState::Up && uplink.interface.as_deref() == Some("phy0"));
    assert_the_hosts_traffic_passes(&lab);

    // The TAP is taken away by hand.
    must(lab.host().ip("link del vsw-phy0"));
    becomes(&lab, |uplink| uplink.state == UplinkState::Up && links(&lab).contains("vsw-phy0"));
    assert_reaches(lab.host(), ip(OUTSIDE));
    lab.finish();
}

#[test]
fn several_interfaces_are_shared() {
    let Some(mut lab) = host(&["--uplink", "phy0", "--uplink", "phy1,xdp=generic", "--uplink", "auto"]) else { return };
    must(lab.host().ip("link add phy1 type veth peer name phy1b"));
    must(lab.host().ip("link set phy1b up"));
    must(lab.host().ip("link set phy1 up"));
    lab.start_daemon();
    let uplinks: Uplinks = lab.get("/v1/uplinks");
    let states: Vec<_> = uplinks.shared.iter().map(|uplink| (uplink.asked.as_str(), uplink.state)).collect();
    let up = UplinkState::Up;
    assert_eq!(states, [("phy0", up), ("phy1,xdp=generic", up), ("auto", UplinkState::Idle)], "{uplinks:?}");
    let table = lab.ctl(&["uplinks"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    lab.finish();
}

/// An XDP program that passes everything on, attached to `phy0` of the host for as long as it lives.
fn somebody_elses_program(lab: &Lab) -> OwnedFd {
    // r0 = XDP_PASS; exit
    let instructions = [
        Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 2 },
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ];
    let program = must(sys::load(sys::ProgramKind::Xdp, &instructions, c"GPL", 0, "other"));
    let links: serde_json::Value = serde_json::from_str(&must(lab.host().ip("-j link show phy0"))).expect("JSON");
    let index = u32::try_from(links[0]["ifindex"].as_u64().expect("an index")).expect("an index");
    lab.host().enter(|| must(sys::attach_xdp(program.as_fd(), index, sys::XDP_SKB_MODE)))
}

#[test]
fn somebody_elses_programs_are_named_and_left_alone() {
    let Some(mut lab) = host(&["--uplink", "phy0"]) else { return };
    let theirs = somebody_elses_program(&lab);
    lab.start_daemon();
    let uplink = becomes(&lab, |uplink| uplink.state == UplinkState::Up);
    assert!(uplink.details.iter().any(|detail| detail.contains("other (id ")), "{uplink:?}");
    assert_the_hosts_traffic_passes(&lab);
    assert!(links(&lab).contains("name other"));
    drop(theirs);
    lab.finish();
}

#[test]
fn one_xdp_program_has_an_interface_alone() {
    let Some(mut lab) = host(&["--uplink", "phy0,xdp=generic"]) else { return };
    lab.allow_log("the uplink cannot be shared");
    let theirs = somebody_elses_program(&lab);
    lab.start_daemon();
    let uplink = becomes(&lab, |uplink| uplink.state == UplinkState::Failed);
    assert!(uplink.details[0].contains("other (id "), "{uplink:?}");
    assert!(links(&lab).contains("name other"), "it is not replaced");
    assert_the_hosts_traffic_passes(&lab);
    drop(theirs);
    becomes(&lab, |uplink| uplink.state == UplinkState::Up);
    assert_the_hosts_traffic_passes(&lab);
    lab.finish();
}

#[test]
fn an_interface_cannot_be_shared_and_a_bridges() {
    let Some(mut lab) = host(&["--uplink", "phy0"]) else { return };
    lab.start_daemon();
    lab.add_bridge("br0", "--l2");
    let refused = lab.ctl_refused(&["add-uplink", "br0", "phy0", "--force"]);
    assert!(refused.contains("shared with the host"), "{refused}");
    lab.finish();
}

#[test]
fn the_command_line_is_checked() {
    let Some(lab) = host(&[]) else { return };
    let daemon = lab.config().binaries.join("vswitch");
    for args in [
        &["--uplink", "none", "--uplink", "phy0"][..],
        &["--uplink", "phy0", "--uplink", "phy0"],
        &["--uplink", "phy0,xdp=fast"],
    ] {
        let output = must(lab.host().command(&daemon).args(args).output());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
}
