//! Published ports: all forms of writing them, what is listed, allow-lists, and how quickly they change hands.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use vswitch_tests::contact::{Protocol, Server, hear, is_silent, udp};
use vswitch_tests::lab::{any_port, must};
use vswitch_tests::outside::{far, host, near};
use vswitch_tests::process::{PATIENCE, run_ok, wait_until};
use vswitch_tests::stream::{Plan, Transfer};
use vswitch_tests::{Lab, announce, requirement};

use super::{at, finish, lab, lab_with};

/// The lines of `ports`, as a set.
#[track_caller]
fn listed(lab: &Lab, port: &str) -> Vec<String> {
    let mut lines: Vec<String> = lab.ctl(&["ports", "br0", port]).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// That `far` reaches container port `inside` of `role` through port `outside` of the host.
#[track_caller]
fn assert_published(lab: &Lab, role: &str, protocol: Protocol, ipv6: bool, outside: u16, inside: u16) {
    let server = must(Server::any(protocol, lab.container(role), ipv6, inside));
    let target = SocketAddr::new(host(ipv6), outside);
    let seen =
        server.meet(lab.far(), target).unwrap_or_else(|error| panic!("{protocol:?} {target} to {inside}: {error}"));
    assert_eq!(seen.ip(), far(ipv6), "the client's own address");
}

#[test]
fn every_form_of_docker() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let wire = host(false);
    for (spec, lines) in [
        ("8080:80", vec!["80/tcp -> 0.0.0.0:8080".to_owned(), "80/tcp -> [::]:8080".to_owned()]),
        ("8081:81/tcp", vec!["81/tcp -> 0.0.0.0:8081".to_owned(), "81/tcp -> [::]:8081".to_owned()]),
        ("5353:53/udp", vec!["53/udp -> 0.0.0.0:5353".to_owned(), "53/udp -> [::]:5353".to_owned()]),
        ("127.0.0.1:8082:82", vec!["82/tcp -> 127.0.0.1:8082".to_owned()]),
        ("[::1]:8082:82", vec!["82/tcp -> [::1]:8082".to_owned()]),
        ("0.0.0.0:8083:83", vec!["83/tcp -> 0.0.0.0:8083".to_owned()]),
        ("[::]:8084:84", vec!["84/tcp -> [::]:8084".to_owned()]),
        (&format!("{wire}:8085:85"), vec![format!("85/tcp -> {wire}:8085")]),
        (
            "9000-9003:90-93",
            vec!["90-93/tcp -> 0.0.0.0:9000-9003".to_owned(), "90-93/tcp -> [::]:9000-9003".to_owned()],
        ),
        ("7777:7777/sctp", vec!["7777/sctp -> 0.0.0.0:7777".to_owned(), "7777/sctp -> [::]:7777".to_owned()]),
    ] {
        lab.ctl(&["publish", "br0", "a", spec]);
        assert_eq!(listed(&lab, "a"), lines, "{spec}");
        let json = lab.ctl_json(&["ports", "br0", "a"]);
        assert_eq!(json.as_array().map(Vec::len), Some(lines.len()), "{spec}: {json}");
        lab.ctl(&["unpublish", "br0", "a", spec]);
        assert_eq!(listed(&lab, "a"), Vec::<String>::new(), "{spec}");
    }
    // Where the host's port is not named, the switch chooses, the same for both families.
    for spec in ["80", "80/udp", &format!("{wire}::80"), "127.0.0.1::80"] {
        lab.ctl(&["publish", "br0", "a", spec]);
        let json = lab.ctl_json(&["ports", "br0", "a"]);
        let chosen: Vec<u64> =
            json.as_array().expect("a list").iter().map(|one| one["host"]["first"].as_u64().expect("a port")).collect();
        assert!(!chosen.is_empty() && chosen.iter().all(|port| *port == chosen[0] && *port >= 1024), "{spec}: {json}");
        lab.ctl(&["unpublish", "br0", "a", spec]);
    }
    finish(lab);
}

#[test]
fn published_with_the_port_itself() {
    let Some(mut lab) = lab() else { return };
    lab.add_bridge("br0", super::DUAL);
    lab.attach("br0", "a", "--publish 8080:80 --publish 5353:53/udp --expose 90 --expose 91-92/udp --publish-all");
    let lines = listed(&lab, "a");
    let show = lab.ctl(&["show"]);
    for wanted in ["80/tcp -> 0.0.0.0:8080", "53/udp -> 0.0.0.0:5353", "90/tcp -> 0.0.0.0:", "91", "92"] {
        assert!(lines.iter().any(|line| line.contains(wanted)), "{wanted}: {lines:?}");
    }
    assert!(show.contains("80/tcp -> 0.0.0.0:8080"), "{show}");
    for ipv6 in [false, true] {
        assert_published(&lab, "a", Protocol::Tcp, ipv6, 8080, 80);
        assert_published(&lab, "a", Protocol::Udp, ipv6, 5353, 53);
    }
    let json = lab.ctl_json(&["ports", "br0", "a"]);
    for one in json.as_array().expect("a list") {
        let number =
            |side: &str| one[side]["first"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let protocol = if one["protocol"] == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        let ipv6 = one["host_ip"].as_str().is_some_and(|ip| ip.contains(':'));
        assert_published(&lab, "a", protocol, ipv6, number("host"), number("container"));
    }
    finish(lab);
}

#[test]
fn ranges_lead_port_to_port() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    lab.ctl(&["publish", "br0", "a", "9000-9010:8000-8010", "9000-9010:7000-7010/udp"]);
    for ipv6 in [false, true] {
        for offset in [0, 1, 5, 10] {
            assert_published(&lab, "a", Protocol::Tcp, ipv6, 9000 + offset, 8000 + offset);
            assert_published(&lab, "a", Protocol::Udp, ipv6, 9000 + offset, 7000 + offset);
        }
        for outside in [8999, 9011] {
            let server = must(Server::any(Protocol::Tcp, lab.container("a"), ipv6, outside - 1000));
            assert!(server.misses(lab.far(), SocketAddr::new(host(ipv6), outside)), "{outside}");
        }
    }
    // Out of the middle.
    lab.ctl(&["unpublish", "br0", "a", "9005:8005"]);
    let server = must(Server::any(Protocol::Tcp, lab.container("a"), false, 8005));
    assert!(server.misses(lab.far(), SocketAddr::new(host(false), 9005)));
    assert_published(&lab, "a", Protocol::Tcp, false, 9004, 8004);
    assert_published(&lab, "a", Protocol::Tcp, false, 9006, 8006);
    // The first free one of a range.
    lab.ctl(&["publish", "br0", "a", "9000-9010:99"]);
    assert_published(&lab, "a", Protocol::Tcp, false, 9005, 99);
    finish(lab);
}

#[test]
fn only_the_address_that_was_named() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.expect_changes("host");
    must(lab.host().ip("addr add 198.18.0.20/24 dev u0"));
    must(wait_until("the address", PATIENCE, || {
        lab.ctl(&["publish", "br0", "a", "198.18.0.20:8080:80"]);
        Some(())
    }));
    let server = must(Server::any(Protocol::Tcp, lab.container("a"), false, 80));
    let [first, second] = [host(false), "198.18.0.20".parse().expect("an address")].map(|ip| SocketAddr::new(ip, 8080));
    for client in [lab.near(), lab.far(), lab.host(), lab.container("a")] {
        must(server.meet(client, second).map(drop));
        assert!(server.misses(client, first), "{}", client.name());
    }
    // For the host alone.
    lab.ctl(&["publish", "br0", "a", "127.0.0.1:8081:80"]);
    must(server.meet(lab.host(), "127.0.0.1:8081".parse().expect("an endpoint")).map(drop));
    for ip in [first.ip(), second.ip()] {
        for client in [lab.near(), lab.far(), lab.host(), lab.container("a")] {
            assert!(server.misses(client, SocketAddr::new(ip, 8081)), "{} reaches {ip}:8081", client.name());
        }
    }
    finish(lab);
}

#[test]
fn allow_lists() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.add_bridge("br1", super::DUAL_SECOND);
    lab.attach("br1", "b", "");
    let from = ["--from", "198.18.0.0/24", "--from", "fd18::/64"];
    lab.ctl(&[&["publish", "br0", "a", "7000:7000/udp", "7000:7000/tcp"][..], &from].concat());
    assert!(listed(&lab, "a").iter().all(|line| line.contains("from 198.18.0.0/24 fd18::/64")));
    for ipv6 in [false, true] {
        let target = SocketAddr::new(host(ipv6), 7000);
        for protocol in Protocol::ALL {
            let server = must(Server::any(protocol, lab.container("a"), ipv6, 7000));
            assert_eq!(must(server.meet(lab.near(), target)).ip(), near(ipv6), "{protocol:?}");
            let before = lab.dropped("not-allowed");
            assert!(server.misses(lab.far(), target), "{protocol:?}");
            lab.await_dropped("not-allowed", before);
            assert!(server.misses(lab.container("b"), target), "{protocol:?}: another bridge's container is not in it");
        }
    }
    finish(lab);
}

#[test]
fn what_is_taken_back_is_closed_at_once() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    lab.ctl(&["publish", "br0", "a", "7000:7000", "7001:7001/udp"]);
    let plan = Plan { write_bytes: 1000, pause: Duration::from_millis(5), ..Plan::both_ways(50 << 20) };
    let stream = must(Transfer::start_to(
        (lab.container("a"), "0.0.0.0:7000".parse().expect("an endpoint")),
        (lab.far(), SocketAddr::new(host(false), 7000)),
        plan,
    ));
    let (inside, outside) = (must(udp(lab.container("a"), false, 7001)), must(udp(lab.far(), false, 0)));
    must(outside.connect(SocketAddr::new(host(false), 7001)));
    must(outside.send(b"open").map(drop));
    must(hear(&inside));
    must(wait_until("the stream", PATIENCE, || (stream.received_bytes() > 50_000).then_some(())));
    lab.ctl(&["unpublish", "br0", "a", "7000:7000", "7001:7001/udp"]);
    if let Err(error) = stream.await_standstill(Duration::from_millis(700)) {
        panic!("a connection outlives what it came through: {error}");
    }
    must(outside.send(b"closed").map(drop));
    assert!(is_silent(&inside));
    // Both ends get resets, or stand still; the threads of the stream are left to their time-outs.
    drop(stream);
    finish(lab);
}

#[test]
fn the_next_owner_has_the_very_next_datagram() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    // One client, one source port, before and after: what a stale connection of the kernel's sends to the dead.
    let client = must(udp(lab.far(), false, 0));
    must(client.connect(SocketAddr::new(host(false), 5353)));
    let ask = |lab: &Lab, role: &str, number: u8| {
        let server = must(udp(lab.container(role), false, 53));
        must(client.send(&[number]).map(drop));
        let (heard, from) = must(hear(&server));
        assert_eq!(heard, [number], "the very datagram");
        must(server.send_to(&[number], from).map(drop));
        assert_eq!(must(hear(&client)).0, [number]);
    };
    lab.ctl(&["publish", "br0", "a", "5353:53/udp"]);
    ask(&lab, "a", 1);
    // Taken from one and given to another.
    lab.attach("br0", "b", "");
    lab.ctl(&["unpublish", "br0", "a", "5353:53/udp"]);
    lab.ctl(&["publish", "br0", "b", "5353:53/udp"]);
    ask(&lab, "b", 2);
    // The owner goes, another one comes.
    lab.ctl(&["del-port", "br0", "b"]);
    lab.attach("br0", "c", "--publish 5353:53/udp");
    ask(&lab, "c", 3);
    // A new owner of the same address.
    let address = at(&lab.ports("br0").into_iter().find(|port| port.name == "c").expect("c"), false, 0).ip();
    lab.ctl(&["del-port", "br0", "c"]);
    lab.attach("br0", "d", &format!("--ip {address} --publish 5353:53/udp"));
    ask(&lab, "d", 4);
    // A namespace that dies takes its published ports with it.
    drop(lab.take_container("d"));
    must(wait_until("the port to go", PATIENCE, || (!lab.ctl(&["ports"]).contains("5353")).then_some(())));
    lab.attach("br0", "e", "--publish 5353:53/udp");
    ask(&lab, "e", 5);
    finish(lab);
}

#[test]
fn an_outbound_mapping_goes_with_its_container() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    let server = must(udp(lab.near(), false, 0));
    let target = SocketAddr::new(near(false), must(server.local_addr()).port());
    let socket = must(udp(lab.container("a"), false, 4000));
    must(socket.send_to(b"x", target).map(drop));
    let mapped = must(hear(&server)).1;
    let address = at(&lab.ports("br0")[0], false, 0).ip();
    lab.ctl(&["del-port", "br0", "a"]);
    assert_eq!(lab.ctl_json(&["conntrack"]), serde_json::json!([]), "nothing of it is left");
    lab.attach("br0", "b", &format!("--ip {address}"));
    let heir = must(udp(lab.container("b"), false, 4000));
    must(server.send_to(b"for the dead", mapped).map(drop));
    assert!(is_silent(&heir), "the new owner of the address heard what was for the old one");
    // Its port is not given to anybody for two minutes (RFC 6888 section 4), so that late packets reach nobody.
    for port in 4001..4040 {
        let other = must(udp(lab.container("b"), false, port));
        must(other.send_to(b"x", target).map(drop));
        assert_ne!(must(hear(&server)).1, mapped);
    }
    finish(lab);
}

#[test]
fn publications_survive_a_kill() {
    let Some((mut lab, _)) = lab_with(&["a"]) else { return };
    lab.ctl(&["publish", "br0", "a", "8080:80", "5353:53/udp"]);
    lab.ctl(&["publish", "br0", "a", "80"]);
    let before = listed(&lab, "a");
    lab.kill_daemon();
    lab.start_daemon();
    assert_eq!(listed(&lab, "a"), before);
    must(wait_until("the way in", PATIENCE, || {
        let server = Server::any(Protocol::Tcp, lab.container("a"), false, 80).ok()?;
        server.meet(lab.far(), SocketAddr::new(host(false), 8080)).ok()
    }));
    assert_published(&lab, "a", Protocol::Udp, true, 5353, 53);
    finish(lab);
}

#[test]
fn sixty_five_thousand_ports_cost_no_process_and_little_memory() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let processes = |lab: &Lab| vswitch_tests::namespace::pids(&lab.netns("host")).len();
    let before = (processes(&lab), must(lab.daemon().resident_bytes()), must(lab.daemon().descriptors()));
    let started = Instant::now();
    lab.ctl(&["publish", "br0", "a", "1-65535:1-65535"]);
    let took = started.elapsed();
    assert_published(&lab, "a", Protocol::Tcp, false, 1, 1);
    assert_published(&lab, "a", Protocol::Tcp, true, 65_535, 65_535);
    assert_published(&lab, "a", Protocol::Tcp, false, 31_234, 31_234);
    let after = (processes(&lab), must(lab.daemon().resident_bytes()), must(lab.daemon().descriptors()));
    assert_eq!(after.0, before.0, "a process");
    let grown = after.1.saturating_sub(before.1);
    announce(&format!(
        "65,535 published ports: {} KB, {} descriptors, {took:?}",
        grown / 1024,
        after.2.saturating_sub(before.2)
    ));
    assert!(grown < 10 << 20, "{grown} bytes");
    assert!(after.2 < before.2 + 20, "{} descriptors", after.2);
    finish(lab);
}

#[test]
fn ten_thousand_separate_publications() {
    let Some((lab, _)) = lab_with(&["a"]) else { return };
    let before = must(lab.daemon().resident_bytes());
    // Not one is the other's neighbour: every one is a record of its own.
    for chunk in 0..40 {
        let specs: Vec<String> =
            (0..250).map(|at| 10_000 + chunk * 500 + at * 2).map(|port| format!("{port}:80")).collect();
        let words: Vec<&str> = ["publish", "br0", "a"].into_iter().chain(specs.iter().map(String::as_str)).collect();
        lab.ctl(&words);
    }
    assert_published(&lab, "a", Protocol::Tcp, false, 29_998, 80);
    assert_published(&lab, "a", Protocol::Tcp, false, 10_000, 80);
    let grown = must(lab.daemon().resident_bytes()).saturating_sub(before);
    announce(&format!("10,000 separate publications: {} KB", grown / 1024));
    // A record of its own for each, in both families; a range is one record.
    assert!(grown < 10 << 20, "{grown} bytes");
    finish(lab);
}

#[test]
fn nginx_is_reached_by_curl() {
    let Some((mut lab, _)) = lab_with(&["a", "b"]) else { return };
    if !requirement::program("nginx") || !requirement::program("curl") {
        return;
    }
    lab.ctl(&["publish", "br0", "a", "8080:80"]);
    let directory = lab.path("nginx");
    must(std::fs::create_dir(&directory));
    // What it answers is whom it saw.
    let prefix = directory.display();
    let configuration = format!(
        "daemon off; user root; worker_processes 1; pid {prefix}/pid; error_log stderr warn; events {{}}\n\
         http {{ access_log off; client_body_temp_path {prefix}/a; proxy_temp_path {prefix}/b;\n\
         fastcgi_temp_path {prefix}/c; uwsgi_temp_path {prefix}/d; scgi_temp_path {prefix}/e;\n\
         server {{ listen 80; listen [::]:80; location / {{ return 200 \"$remote_addr\\n\"; }} }} }}\n"
    );
    must(std::fs::write(directory.join("nginx.conf"), configuration));
    let mut nginx = lab.container("a").command("nginx");
    nginx.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf")).args(["-e", "stderr"]);
    lab.start(nginx);
    let ask = |client: &vswitch_tests::Namespace, url: &str| {
        let mut curl = client.command("curl");
        curl.args(["-sS", "--max-time", "5", "--retry", "10", "--retry-delay", "1", "--retry-connrefused", url]);
        must(run_ok(&mut curl, Duration::from_secs(30))).trim().to_owned()
    };
    for ipv6 in [false, true] {
        let url = |ip: std::net::IpAddr| format!("http://{}/", SocketAddr::new(ip, 8080));
        assert_eq!(ask(lab.far(), &url(host(ipv6))), far(ipv6).to_string());
        assert_eq!(ask(lab.host(), &url(host(ipv6))), host(ipv6).to_string());
        assert_eq!(ask(lab.host(), &url(super::loopback(ipv6))), super::gateway(&lab, "br0", ipv6).to_string());
        let b = lab.ports("br0").into_iter().find(|port| port.name == "b").expect("b");
        assert_eq!(ask(lab.container("b"), &url(host(ipv6))), at(&b, ipv6, 0).ip().to_string());
    }
    finish(lab);
}

#[test]
fn streams_of_all_clients_arrive_to_the_byte() {
    let Some((mut lab, _)) = lab_with(&["a", "b"]) else { return };
    lab.add_bridge("br1", super::DUAL_SECOND);
    lab.attach("br1", "c", "");
    lab.ctl(&["publish", "br0", "a", "7000:7000"]);
    for ipv6 in [false, true] {
        let inside = SocketAddr::new(vswitch_tests::contact::unspecified(ipv6), 7000);
        let clients = [
            (lab.far(), host(ipv6)),
            (lab.near(), host(ipv6)),
            (lab.host(), host(ipv6)),
            (lab.host(), super::loopback(ipv6)),
            (lab.container("a"), host(ipv6)),
            (lab.container("b"), host(ipv6)),
            (lab.container("c"), host(ipv6)),
        ];
        for (client, ip) in clients {
            let target = SocketAddr::new(ip, 7000);
            let transfer =
                must(Transfer::start_to((lab.container("a"), inside), (client, target), Plan::both_ways(8 << 20)));
            if let Err(error) = transfer.finish() {
                panic!("{} to {target}: {error}", client.name());
            }
        }
    }
    // And past it all, the container's own way out.
    must(must(Transfer::start(lab.far(), lab.container("a"), any_port(far(false)), Plan::both_ways(1 << 20))).finish());
    finish(lab);
}
