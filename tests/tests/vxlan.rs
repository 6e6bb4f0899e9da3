//! Tunnels between hosts that all run our daemon: one network over several hosts.

use std::time::Duration;

use vswitch::api::{FdbKind, PortState};
use vswitch_tests::frame::{BROADCAST, EXPERIMENTAL, ethernet, mac};
use vswitch_tests::lab::{any_port, assert_no_reach, assert_reaches, ipv4, ipv6, must};
use vswitch_tests::overlay::{Underlay, address};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::raw::PacketSocket;
use vswitch_tests::requirement;
use vswitch_tests::stream::{Plan, Transfer, datagrams};
use vswitch_tests::{Lab, Options};

const LIMIT: Duration = PATIENCE;

/// Two hosts with a tunnel of VNI 42 between them, and the containers `a` and `b`.
fn pair(underlay_mtu: u32, over_ipv6: bool, args: &str) -> Option<(Underlay, Lab, Lab)> {
    if !requirement::system() {
        return None;
    }
    let mut underlay = must(Underlay::create(underlay_mtu));
    let mut one = Lab::on(&mut underlay, 1, args)?;
    let mut two = Lab::on(&mut underlay, 2, args)?;
    one.add_vxlan(42, &[2], over_ipv6, "");
    two.add_vxlan(42, &[1], over_ipv6, "");
    one.attach_numbered("a", 11);
    two.attach_numbered("b", 12);
    Some((underlay, one, two))
}

/// The hosts leave the wire before their labs compare them with what they were.
fn finish(underlay: Underlay, labs: Vec<Lab>) {
    for lab in &labs {
        lab.assert_accounted();
    }
    must(underlay.dismantle());
    labs.into_iter().for_each(Lab::finish);
}

#[test]
fn containers_of_two_hosts_are_on_one_network() {
    for (mtu, over_ipv6, bridge_args, carried) in
        [(1500, false, "", 1450), (1500, true, "", 1430), (9000, false, "--mtu 8950", 8950)]
    {
        let Some((underlay, one, two)) = pair(mtu, over_ipv6, bridge_args) else { return };
        assert_eq!((one.vxlan("vxlan42").mtu, one.bridge("br0").mtu), (carried, carried), "underlay of {mtu}");
        let (a, b) = (one.container("a"), two.container("b"));
        let port = &two.ports("br0")[0];
        for target in [ipv4(port), ipv6(port)] {
            assert_reaches(a, target);
            // 16 MB each way at once, then many small segments.
            must(must(Transfer::start(b, a, any_port(target), Plan::both_ways(16 << 20))).finish());
            let small = Plan { write_bytes: 37, ..Plan::both_ways(100_000) };
            must(must(Transfer::start(b, a, any_port(target), small)).finish());
            let largest = carried as usize - if target.is_ipv4() { 28 } else { 48 };
            let sizes = [0, 1, 17, 18, 100, 1000, largest - 1, largest, largest + 1, 3000, 9000, 40_000, 65_000];
            must(datagrams(b, a, any_port(target), &sizes));
        }
        // Each knows where the other is.
        let known = one.fdb_of(&port.mac).expect("learned");
        assert_eq!((known.port.as_str(), known.remote), ("vxlan42", Some(address(2, over_ipv6))));
        assert_eq!(known.kind, FdbKind::Learned);
        let text = one.ctl(&["fdb", "br0"]);
        assert!(text.contains(&format!("behind {}", address(2, over_ipv6))), "{text}");
        // The hosts themselves, too: each has its own address on the bridge.
        assert_reaches(one.host(), "10.1.0.2".parse().expect("an address"));
        finish(underlay, vec![one, two]);
    }
}

#[test]
fn a_tunnel_is_shown_everywhere() {
    let Some((underlay, one, two)) = pair(1500, false, "") else { return };
    let text = one.ctl(&["show", "br0"]);
    assert!(text.contains("vxlan42  vni 42 198.18.0.1 to 198.18.0.2 port 4789 mtu 1450"), "{text}");
    assert_eq!(one.ctl_json(&["show"])[0]["tunnels"][0]["vni"], 42);
    assert_reaches(one.container("a"), "10.1.0.12".parse().expect("an address"));
    let stats = one.ctl_json(&["stats", "br0", "vxlan42"]);
    assert_eq!(stats["tunnels"][0]["remotes"][0]["remote"], "198.18.0.2");
    assert!(stats["tunnels"][0]["total"]["tx_frames"].as_u64() > Some(2), "{stats}");
    assert_eq!(stats["underlays"][0]["port"], 4789);
    assert!(one.ctl(&["stats", "br0"]).contains("vxlan42  198.18.0.2"));
    assert!(one.ctl_refused(&["del-br", "br0"]).contains("1 port and 1 tunnel"));
    one.ctl(&["del-vxlan", "br0", "vxlan42"]);
    assert_no_reach(one.container("a"), "10.1.0.12".parse().expect("an address"));
    assert_eq!(one.bridge("br0").mtu, 1500, "the bridge's MTU was the tunnel's alone");
    finish(underlay, vec![one, two]);
}

#[test]
fn three_hosts_flood_once_to_each_and_never_on() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let mut labs = Vec::new();
    for number in 1..=3u8 {
        let options = Options { unguarded: true, ..Options::default() };
        let Some(mut lab) = Lab::on_with(&mut underlay, number, "", options) else { return };
        let others: Vec<u8> = (1..=3).filter(|other| *other != number).collect();
        lab.add_vxlan(7, &others, false, "");
        lab.attach_numbered("c", 10 + number);
        labs.push(lab);
    }
    for from in 0..3u8 {
        for to in (0..3).filter(|to| *to != from) {
            let target = format!("10.1.0.{}", 11 + to).parse().expect("an address");
            assert_reaches(labs[usize::from(from)].container("c"), target);
        }
    }
    // A broadcast that nobody answers arrives once at each of the others. No loop was noticed.
    for lab in &labs {
        assert!(lab.bridge("br0").warnings.is_empty(), "{:?}", lab.bridge("br0").warnings);
        lab.assert_accounted();
    }
    let sockets: Vec<_> = labs.iter().map(|lab| must(PacketSocket::open(lab.container("c"), "eth0"))).collect();
    let frame = ethernet(BROADCAST, mac(77), EXPERIMENTAL, &[7; 46]);
    must(sockets[0].send(&frame));
    for socket in &sockets[1..] {
        let came =
            must(socket.recv_expected(1, Duration::from_millis(300), |got| got[12..14] == EXPERIMENTAL.to_be_bytes()));
        assert_eq!(came, std::slice::from_ref(&frame));
    }
    finish(underlay, labs);
}

#[test]
fn remotes_come_and_go_while_packets_flow() {
    let Some((underlay, mut one, mut two)) = pair(1500, false, "") else { return };
    let target = "10.1.0.12".parse().expect("an address");
    let plan = Plan { up_bytes: 4 << 20, down_bytes: 0, write_bytes: 16 << 10, pause: Duration::from_millis(8) };
    let transfer = must(Transfer::start(two.container("b"), one.container("a"), any_port(target), plan));
    for _ in 0..5 {
        one.ctl(&["add-remote", "br0", "vxlan42", "198.18.0.77"]);
        one.ctl(&["add-vxlan", "br0", "--vni", "43", "--remote", "198.18.0.2"]);
        one.ctl(&["del-remote", "br0", "vxlan42", "198.18.0.77"]);
        one.ctl(&["del-vxlan", "br0", "vxlan43"]);
    }
    must(transfer.finish());
    // Without its remote the tunnel is silent in both directions; with it all is as before.
    one.ctl(&["del-remote", "br0", "vxlan42", "198.18.0.2"]);
    assert_no_reach(one.container("a"), target);
    assert_no_reach(two.container("b"), "10.1.0.11".parse().expect("an address"));
    assert!(one.underlay_drops("unknown-peer") > 0, "what the removed host sends is refused by name");
    one.ctl(&["add-remote", "br0", "vxlan42", "198.18.0.2"]);
    assert_reaches(one.container("a"), target);
    // A tunnel without anybody waits for its first remote.
    let none = one.add_vxlan(44, &[], false, "--name later");
    assert_eq!((none.local, none.state), (None, PortState::Up));
    one.ctl(&["add-remote", "br0", "later", "198.18.0.2"]);
    assert_eq!(one.vxlan("later").local, Some(address(1, false)));
    one.attach_numbered("c", 21);
    two.attach_numbered("d", 22);
    assert_reaches(one.container("c"), "10.1.0.22".parse().expect("an address"));
    finish(underlay, vec![one, two]);
}

#[test]
fn networks_with_different_vnis_do_not_meet() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let mut labs = Vec::new();
    for number in 1..=2u8 {
        let Some(mut lab) = Lab::on(&mut underlay, number, "") else { return };
        let other = address(3 - number, false).to_string();
        lab.add_bridge("l2", "--l2");
        lab.ctl(&["add-vxlan", "br0", "--vni", "100", "--remote", &other]);
        lab.ctl(&["add-vxlan", "l2", "--vni", "200", "--remote", &other]);
        lab.attach_numbered("red", 10 + number);
        // The same addresses in the other network.
        lab.attach("l2", "blue", &format!("--ip 10.1.0.{}/24", 10 + number));
        labs.push(lab);
    }
    for role in ["red", "blue"] {
        assert_reaches(labs[0].container(role), "10.1.0.12".parse().expect("an address"));
    }
    // Blue alone on the second host moves: red is not where blue was.
    labs[1].ctl(&["del-port", "l2", "blue"]);
    assert_no_reach(labs[0].container("blue"), "10.1.0.12".parse().expect("an address"));
    assert_reaches(labs[0].container("red"), "10.1.0.12".parse().expect("an address"));
    assert!(labs[0].ctl_refused(&["add-vxlan", "l2", "--vni", "100", "--remote", "198.18.0.9"]).contains("VNI 100"));
    finish(underlay, labs);
}

#[test]
fn a_container_that_moves_to_another_host_is_found_there() {
    let Some((underlay, mut one, mut two)) = pair(1500, false, "") else { return };
    let mover = two.attach_numbered("mover", 33);
    let target = ipv4(&mover);
    assert_reaches(one.container("a"), target);
    assert_eq!(one.fdb_of(&mover.mac).expect("known").remote, Some(address(2, false)));
    // It comes here under the same addresses: its announcement tells the other host.
    two.ctl(&["del-port", "br0", "mover"]);
    let moved = one.attach_numbered("mover", 33);
    assert_eq!(moved.mac, mover.mac);
    must(wait_until("the move", LIMIT, || {
        let here = one.fdb_of(&moved.mac)?.port == "mover";
        let there = two.fdb_of(&moved.mac)?.remote == Some(address(1, false));
        (here && there).then_some(())
    }));
    assert_reaches(one.container("a"), target);
    assert_reaches(two.container("b"), target);
    finish(underlay, vec![one, two]);
}

#[test]
fn static_entries_need_neither_flooding_nor_learning() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let mut labs = Vec::new();
    for number in 1..=2u8 {
        let Some(mut lab) = Lab::on(&mut underlay, number, "") else { return };
        // Nobody is flooded to.
        lab.add_vxlan(5, &[], false, &format!("--local {} --learning off", address(number, false)));
        lab.attach_numbered("c", 10 + number);
        labs.push(lab);
    }
    let target = "10.1.0.12".parse().expect("an address");
    assert_no_reach(labs[0].container("c"), target);
    for (at, lab) in labs.iter().enumerate() {
        let (other, number) = (2 - at, 12 - at);
        let (mac, ip) = (format!("02:42:0a:01:00:{number:02x}"), format!("10.1.0.{number}"));
        let remote = format!("198.18.0.{other}");
        let entry = lab.ctl_json(&["fdb-add", "br0", &mac, "vxlan5", "--remote", &remote, "--ip", &ip]);
        assert_eq!((entry["remote"].as_str(), entry["kind"].as_str()), (Some(remote.as_str()), Some("static")));
    }
    // The question is answered by the switch, the rest is unicast.
    assert_reaches(labs[0].container("c"), target);
    assert!(labs[0].stats().neighbours[0].answered >= 1);
    let vxlan = labs[0].vxlan("vxlan5");
    assert_eq!((vxlan.remotes.len(), vxlan.unicast_remotes.as_slice()), (0, &[address(2, false)][..]));
    assert!(labs[0].fdb("br0").iter().filter(|entry| entry.remote.is_some()).all(|e| e.kind == FdbKind::Static));
    // All of that survives.
    labs[0].kill_daemon();
    labs[0].start_daemon();
    assert_reaches(labs[0].container("c"), target);
    labs[0].ctl(&["fdb-del", "br0", "02:42:0a:01:00:0c"]);
    assert!(labs[0].vxlan("vxlan5").unicast_remotes.is_empty());
    assert_no_reach(labs[1].container("c"), "10.1.0.11".parse().expect("an address"));
    finish(underlay, labs);
}

#[test]
fn questions_for_known_neighbours_stay_on_their_host() {
    let Some((underlay, mut one, two)) = pair(1500, false, "") else { return };
    let port = &two.ports("br0")[0];
    for target in [ipv4(port), ipv6(port)] {
        assert_reaches(one.container("a"), target);
    }
    // Another container asks for the same: the switch answers, nothing is flooded.
    one.attach_numbered("late", 21);
    one.assert_accounted();
    let answered = one.stats().neighbours[0].answered;
    for target in [ipv4(port), ipv6(port)] {
        assert_reaches(one.container("late"), target);
    }
    assert!(one.stats().neighbours[0].answered >= answered + 2, "{:?}", one.stats().neighbours);
    let neighbours = must(one.container("late").run("ip neigh show"));
    assert_eq!(neighbours.matches(&port.mac).count(), 2, "{neighbours}");
    // Duplicate address detection is flooded as ever, and finds the duplicate over there.
    let late = one.container("late");
    must(late.run("sysctl -qw net.ipv6.conf.eth0.accept_dad=1"));
    must(late.ip(&format!("addr add {}/64 dev eth0", ipv6(port))));
    must(wait_until("the duplicate is found", LIMIT, || {
        must(late.ip("-6 addr show dev eth0")).contains("dadfailed").then_some(())
    }));
    one.expect_changes("late");
    finish(underlay, vec![one, two]);
}

#[test]
fn kill_9_and_a_restart_bring_every_tunnel_back() {
    let Some((underlay, mut one, two)) = pair(1500, false, "") else { return };
    one.add_vxlan(43, &[2], true, "--name six --ttl 9 --dscp 46 --mtu 1400 --learning off --dst-port 8472");
    one.ctl(&["fdb-add", "br0", "02:00:00:00:00:07", "vxlan42", "--remote", "198.18.0.9", "--ip", "10.1.0.77"]);
    let configuration = one.configuration();
    let tunnels = one.ctl_json(&["show", "br0"])[0]["tunnels"].clone();
    let target = ipv4(&two.ports("br0")[0]);
    let plan = Plan { up_bytes: 6 << 20, down_bytes: 0, write_bytes: 16 << 10, pause: Duration::from_millis(8) };
    let transfer = must(Transfer::start(two.container("b"), one.container("a"), any_port(target), plan));
    for _ in 0..2 {
        one.kill_daemon();
        one.start_daemon();
        assert_eq!(one.configuration(), configuration);
        assert_eq!(one.ctl_json(&["show", "br0"])[0]["tunnels"], tunnels);
    }
    one.stop_daemon();
    one.start_daemon();
    must(transfer.finish());
    assert_reaches(one.container("a"), target);
    let pinned = one.fdb_of("02:00:00:00:00:07").expect("pinned");
    assert_eq!((pinned.remote, pinned.ips.len()), (Some("198.18.0.9".parse().expect("an address")), 1));
    finish(underlay, vec![one, two]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let Some(lab) = Lab::on(&mut underlay, 1, "") else { return };
    for (args, says) in [
        ("--vni 1 --remote 198.18.0.1", "this host itself"),
        ("--vni 1 --remote 239.1.1.1", "multicast"),
        ("--vni 1 --remote 198.18.0.2 --remote fd18::2", "famil"),
        ("--vni 1 --remote 203.0.113.1", "no route"),
        ("--vni 1 --local 198.18.0.99 --remote 198.18.0.2", "not an address of this host"),
        ("--vni 1 --remote 198.18.0.2 --name br0", "br0"),
    ] {
        let mut words = vec!["add-vxlan", "br0"];
        words.extend(args.split_whitespace());
        let refusal = lab.ctl_refused(&words);
        assert!(refusal.contains(says), "{refusal}");
    }
    assert!(lab.ctl_refused(&["add-remote", "br0", "none", "198.18.0.2"]).contains("no tunnel"));
    assert!(lab.ctl_refused(&["del-vxlan", "br0", "none"]).contains("no tunnel"));
    // The kernel's own device has the port: it is named.
    must(lab.host().ip("link add kvx type vxlan id 9 dstport 4789 dev u0"));
    must(lab.host().ip("link set kvx up"));
    let refusal = lab.ctl_refused(&["add-vxlan", "br0", "--vni", "1", "--remote", "198.18.0.2"]);
    assert!(refusal.contains("kvx") && refusal.contains("4789"), "{refusal}");
    assert!(lab.ctl_json(&["show"])[0]["tunnels"].as_array().expect("a list").is_empty());
    assert_eq!(lab.bridge("br0").mtu, 1500);
    must(lab.host().ip("link del kvx"));
    lab.add_vxlan(1, &[2], false, "");
    assert_eq!(lab.bridge("br0").mtu, 1450);
    finish(underlay, vec![lab]);
}

#[test]
fn the_mtu_follows_the_underlay() {
    let Some((underlay, one, two)) = pair(1500, false, "") else { return };
    let mtu_inside = |lab: &Lab, role: &str| {
        let links: serde_json::Value =
            serde_json::from_str(&must(lab.container(role).ip("-j link show dev eth0"))).expect("JSON");
        links[0]["mtu"].as_u64()
    };
    assert_eq!((mtu_inside(&one, "a"), one.bridge("br0").mtu), (Some(1450), 1450));
    must(underlay.set_mtu(1400, &[one.host(), two.host()]));
    for (lab, role) in [(&one, "a"), (&two, "b")] {
        must(wait_until("the tunnel's new MTU", LIMIT, || (lab.vxlan("vxlan42").mtu == 1350).then_some(())));
        must(wait_until("the container's new MTU", LIMIT, || (mtu_inside(lab, role) == Some(1350)).then_some(())));
    }
    assert_reaches(one.container("a"), "10.1.0.12".parse().expect("an address"));
    must(underlay.set_mtu(9000, &[one.host(), two.host()]));
    // Never beyond Docker's default, unless somebody asks for it.
    must(wait_until("the bridge's MTU", LIMIT, || (one.bridge("br0").mtu == 1500).then_some(())));
    assert_eq!(one.vxlan("vxlan42").mtu, 8950);
    let text = one.ctl(&["set-br", "br0", "--mtu", "8950"]);
    assert!(text.contains("mtu 8950"), "{text}");
    finish(underlay, vec![one, two]);
}

#[test]
fn an_address_that_is_gone_at_the_start_is_waited_for() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let Some(mut one) = Lab::on(&mut underlay, 1, "") else { return };
    let Some(mut two) = Lab::on(&mut underlay, 2, "") else { return };
    one.add_vxlan(42, &[2], false, "");
    two.add_vxlan(42, &[1], false, "");
    one.attach_numbered("a", 11);
    two.attach_numbered("b", 12);
    one.allow_log("the tunnel carries nothing");
    one.stop_daemon();
    must(one.host().ip("addr del 198.18.0.1/24 dev u0"));
    one.start_daemon();
    assert_eq!(one.vxlan("vxlan42").state, PortState::Failed);
    assert!(one.bridge("br0").warnings.iter().any(|warning| warning.contains("vxlan42")));
    must(one.host().ip("addr add 198.18.0.1/24 dev u0"));
    must(wait_until("the tunnel", LIMIT, || (one.vxlan("vxlan42").state == PortState::Up).then_some(())));
    assert_reaches(one.container("a"), "10.1.0.12".parse().expect("an address"));
    finish(underlay, vec![one, two]);
}

#[test]
fn with_one_worker_or_several_the_content_is_the_same() {
    if !requirement::system() {
        return;
    }
    let mut underlay = must(Underlay::create(1500));
    let options = || Options { args: vec!["--workers".into(), "2".into()], ..Options::default() };
    let mut labs = Vec::new();
    for number in 1..=2u8 {
        let Some(mut lab) = Lab::with(options()) else { return };
        must(underlay.join(lab.host(), number));
        lab.add_bridge("br0", &format!("--subnet 10.1.0.0/24 --gateway 10.1.0.{number}"));
        lab.add_vxlan(42, &[3 - number], false, "");
        lab.attach("br0", "c", &format!("--ip 10.1.0.{}", 10 + number));
        labs.push(lab);
    }
    let target = "10.1.0.12".parse().expect("an address");
    let transfers: Vec<_> = (0..4)
        .map(|_| {
            let plan = Plan::both_ways(8 << 20);
            must(Transfer::start(labs[1].container("c"), labs[0].container("c"), any_port(target), plan))
        })
        .collect();
    for transfer in transfers {
        must(transfer.finish());
    }
    finish(underlay, labs);
}
