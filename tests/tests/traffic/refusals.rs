//! Every refusal names what, why and the remedy, and changes nothing.

use vswitch_tests::Lab;
use vswitch_tests::lab::must;

use super::lab;

/// A world in which much is taken: bridge `br0` with port `a`, bridge `v6` with IPv6, bridge `l2`.
fn world() -> Option<Lab> {
    let mut lab = lab()?;
    lab.add_bridge("br0", "--subnet 10.1.0.0/24");
    lab.add_bridge("v6", "--subnet 10.6.0.0/24 --subnet fd00:6::/64");
    lab.add_bridge("flat", "--l2");
    lab.attach("br0", "a", "--ip 10.1.0.10 --mac 02:00:00:00:00:0a --alias web");
    lab.add_container("free");
    must(lab.container("free").ip("link add taken type bridge"));
    must(lab.host().ip("link add d0 type bridge"));
    must(lab.host().ip("addr add 10.200.0.1/24 dev d0"));
    must(lab.host().ip("link set d0 up"));
    Some(lab)
}

/// Runs each command line, in which `FREE` and `A` stand for the namespaces, and asserts that it is
/// refused, that the refusal has the words, and that nothing changed.
#[track_caller]
fn assert_refused(lab: &Lab, table: &[(&str, &[&str])]) {
    let before = lab.configuration();
    let shown = lab.ctl_json(&["show"]);
    for (line, words) in table {
        let (free, a) = (lab.netns("free"), lab.netns("a"));
        let args: Vec<&str> = line
            .split_whitespace()
            .map(|word| match word {
                "FREE" => free.as_str(),
                "A" => a.as_str(),
                word => word,
            })
            .collect();
        let refusal = lab.ctl_refused(&args);
        for word in *words {
            assert!(refusal.to_lowercase().contains(&word.to_lowercase()), "`{line}`: no {word:?} in: {refusal}");
        }
        // What and why, and behind a mark of punctuation the remedy.
        let sentence = refusal.strip_prefix("vswitchctl: ").unwrap_or(&refusal);
        assert!(["; ", ". ", ": "].iter().any(|mark| sentence.contains(mark)), "`{line}`: no remedy in: {refusal}");
        assert_eq!(lab.configuration(), before, "`{line}` was refused and yet changed something");
    }
    let after = lab.ctl_json(&["show"]);
    assert_eq!(strip_macs(shown), strip_macs(after));
}

/// Without the number of learned addresses, which traffic changes.
fn strip_macs(mut value: serde_json::Value) -> serde_json::Value {
    match &mut value {
        serde_json::Value::Array(items) => {
            for item in items {
                *item = strip_macs(item.take());
            }
        }
        serde_json::Value::Object(fields) => {
            fields.remove("macs");
            for field in fields.values_mut() {
                *field = strip_macs(field.take());
            }
        }
        _ => {}
    }
    value
}

#[track_caller]
fn conclude(lab: Lab) {
    must(lab.host().ip("link del d0"));
    must(lab.container("free").ip("link del taken"));
    lab.finish();
}

#[test]
fn bridges() {
    let Some(lab) = world() else { return };
    assert_refused(
        &lab,
        &[
            ("add-br br0", &["br0", "already"]),
            ("add-br sixteen-letters-", &["sixteen-letters-", "15"]),
            ("add-br d0 --subnet 10.9.0.0/24", &["d0", "interface"]),
            ("add-br a/b", &["a/b"]),
            ("add-br x --subnet 10.1.0.128/25", &["10.1.0.128/25", "br0"]),
            ("add-br x --subnet 10.200.0.0/16", &["10.200.0.0/16", "route", "d0"]),
            ("add-br x --subnet 10.9.0.1/24", &["10.9.0.1/24", "10.9.0.0/24"]),
            ("add-br x --subnet 10.9.0.0/32", &["10.9.0.0/32", "container"]),
            ("add-br x --subnet 127.0.0.0/8", &["127.0.0.0/8"]),
            ("add-br x --subnet 224.0.0.0/8", &["224.0.0.0/8"]),
            ("add-br x --subnet 10.9.0.0/24 --subnet 10.10.0.0/24", &["second", "IPv4"]),
            ("add-br x --subnet 10.9.0.0/24 --gateway 10.8.0.1", &["10.8.0.1"]),
            ("add-br x --subnet 10.9.0.0/24 --gateway 10.9.0.0", &["10.9.0.0"]),
            ("add-br x --subnet 10.9.0.0/24 --gateway 10.9.0.255", &["10.9.0.255", "broadcast"]),
            ("add-br x --subnet 10.9.0.0/24 --ip-range 10.8.0.0/28", &["10.8.0.0/28"]),
            ("add-br x --subnet 10.9.0.0/24 --reserve 10.8.0.7", &["10.8.0.7"]),
            ("add-br x --mtu 67", &["67", "68"]),
            ("add-br x --mtu 65522", &["65522", "65521"]),
            ("add-br x --subnet fd00:9::/64 --mtu 1279", &["1279", "1280"]),
            ("del-br nope", &["nope", "no bridge"]),
            ("del-br br0", &["br0", "port", "--force"]),
            ("set-br nope --mtu 1400", &["nope"]),
            ("set-br br0 --mtu 10", &["10"]),
            ("set-br v6 --mtu 1000", &["1000", "IPv6"]),
            ("show nope", &["nope"]),
            ("list-ports nope", &["nope"]),
            ("stats nope", &["nope"]),
            ("fdb nope", &["nope"]),
        ],
    );
    conclude(lab);
}

#[test]
fn ports() {
    let Some(lab) = world() else { return };
    assert_refused(
        &lab,
        &[
            ("add-port nope FREE", &["nope", "no bridge"]),
            ("add-port br0 no-such-namespace", &["no-such-namespace"]),
            ("add-port br0 pid:999999999", &["999999999"]),
            ("add-port br0 /nowhere/ns/net", &["/nowhere/ns/net"]),
            ("add-port br0 /etc/passwd --name x", &["/etc/passwd"]),
            ("add-port br0 FREE --name a", &["\"a\"", "already"]),
            ("add-port br0 FREE --name web", &["web"]),
            ("add-port br0 FREE --name br0", &["br0"]),
            ("add-port br0 FREE --name x --ifname taken", &["taken"]),
            ("add-port br0 FREE --name x --ifname lo", &["lo"]),
            ("add-port br0 FREE --name x --ifname sixteen-letters-", &["sixteen-letters-", "15"]),
            ("add-port br0 FREE --name x --ifname a/b", &["a/b"]),
            ("add-port br0 A --name x", &["eth0"]),
            ("add-port br0 FREE --name x --ip 10.1.0.10", &["10.1.0.10", "taken", "a"]),
            ("add-port br0 FREE --name x --ip 10.1.0.1", &["10.1.0.1", "gateway"]),
            ("add-port br0 FREE --name x --ip 10.1.0.0", &["10.1.0.0"]),
            ("add-port br0 FREE --name x --ip 10.1.0.255", &["10.1.0.255"]),
            ("add-port br0 FREE --name x --ip 10.2.0.5", &["10.2.0.5", "outside"]),
            ("add-port br0 FREE --name x --ip 10.1.0.5/16", &["10.1.0.5/16", "/24"]),
            ("add-port br0 FREE --name x --ip fd00::5", &["fd00::5", "IPv6"]),
            ("add-port br0 FREE --name x --ip nonsense", &["nonsense"]),
            ("add-port br0 FREE --name x --ip 10.1.0.5 --ip 10.1.0.5", &["10.1.0.5", "twice"]),
            ("add-port flat FREE --name x --ip 10.1.0.5", &["10.1.0.5"]),
            ("add-port br0 FREE --name x --mac 02:00:00:00:00:0a", &["02:00:00:00:00:0a", "taken"]),
            ("add-port br0 FREE --name x --mac 01:00:00:00:00:01", &["01:00:00:00:00:01", "group"]),
            ("add-port br0 FREE --name x --mac ff:ff:ff:ff:ff:ff", &["ff:ff:ff:ff:ff:ff"]),
            ("add-port br0 FREE --name x --mac 00:00:00:00:00:00", &["00:00:00:00:00:00"]),
            ("add-port br0 FREE --name x --mac 02:00:00", &["02:00:00"]),
            ("add-port br0 FREE --name x --mtu 67", &["67"]),
            ("add-port br0 FREE --name x --mtu 65522", &["65522"]),
            ("add-port v6 FREE --name x --mtu 1200", &["1200", "IPv6"]),
            ("del-port br0 nope", &["nope", "no port"]),
            ("del-port nope a", &["nope"]),
            ("stats br0 nope", &["nope"]),
        ],
    );
    let links = must(lab.container("free").ip("-br link"));
    assert!(links.lines().count() == 2, "a refused port left an interface: {links}");
    conclude(lab);
}

#[test]
fn forwarding_database() {
    let Some(lab) = world() else { return };
    assert_refused(
        &lab,
        &[
            ("fdb-add br0 02:00:00:00:00:99 nope", &["nope"]),
            ("fdb-add nope 02:00:00:00:00:99 a", &["nope"]),
            ("fdb-add br0 03:00:00:00:00:99 a", &["03:00:00:00:00:99"]),
            ("fdb-add br0 nonsense a", &["nonsense"]),
            ("fdb-del br0 02:00:00:00:00:99", &["02:00:00:00:00:99"]),
            ("fdb-flush br0 nope", &["nope"]),
        ],
    );
    conclude(lab);
}

#[test]
fn a_wrong_command_line_is_status_2_and_an_absent_daemon_3() {
    let Some(lab) = lab() else { return };
    for line in ["nonsense", "add-br", "add-br x --subnet nonsense", "add-port br0", "add-port br0 x --vlan 4095"] {
        let output = lab.try_ctl(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "`{line}`: {output:?}");
    }
    let nowhere = lab.path("nowhere.sock");
    let output = lab.try_ctl(&["--socket", &nowhere.display().to_string(), "list-br"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("nowhere.sock"), "the socket is named: {stderr}");
    lab.finish();
}

#[test]
fn limits() {
    let Some(lab) = world() else { return };
    let many = |option: &str, count: usize, value: &dyn Fn(usize) -> String| -> String {
        (0..count).map(|number| format!(" {option} {}", value(number))).collect()
    };
    let labels = format!("set-br br0{}", many("--label", 65, &|number| format!("k{number}=v")));
    let aliases = format!("add-port br0 FREE --name x{}", many("--alias", 65, &|number| format!("n{number}")));
    let addresses =
        format!("add-port br0 FREE --name x{}", many("--ip", 17, &|number| format!("10.1.0.{}", 100 + number)));
    let reservations = format!(
        "add-br x --subnet 10.9.0.0/16{}",
        many("--reserve", 1025, &|number| format!("10.9.{}.{}", 1 + number / 256, number % 256))
    );
    assert_refused(&lab, &[(&labels, &["64"]), (&aliases, &["64"]), (&addresses, &["16"]), (&reservations, &["1024"])]);
    conclude(lab);
}
