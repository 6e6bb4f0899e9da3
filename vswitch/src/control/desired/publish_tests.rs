//! Publishing: every form, every refusal, without root.

use super::tests::{bridge, dual, host, ip, net, port, refused, target};
use super::*;
use crate::api::{BridgeChange, BridgeSpec, ErrorCode, PortRange, PortSpec, PublishSpec, Transport, VxlanSpec};

/// What a program of the host has: `(protocol, address, port, owner)`.
type Programs = &'static [(Transport, &'static str, u16, &'static str)];

/// A host with these programs, and with ten ports to choose from.
fn with_programs<T>(programs: Programs, decide: impl FnOnce(&PublishView<'_>) -> T) -> T {
    let in_use = |protocol: Transport, at: IpAddr, ports: PortRange| {
        let overlaps = |address: IpAddr| {
            address.is_ipv6() == at.is_ipv6() && (address == at || address.is_unspecified() || at.is_unspecified())
        };
        let taken = programs.iter().filter(|(of, address, port, _)| {
            *of == protocol && overlaps(ip(address)) && (ports.first..=ports.last).contains(port)
        });
        let lowest = taken.min_by_key(|(_, _, port, _)| *port);
        let describe = |(_, address, port, owner): &(Transport, &str, u16, &str)| TakenPort {
            address: ip(address),
            port: *port,
            owner: Some((*owner).to_owned()),
        };
        Ok(lowest.map(describe))
    };
    let addresses = vec![ip("127.0.0.1"), ip("::1"), ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")];
    decide(&PublishView { addresses, ephemeral: PortRange { first: 32768, last: 32777 }, in_use: &in_use })
}

fn specs(texts: &[&str]) -> Vec<PublishSpec> {
    texts.iter().map(|text| text.parse().expect("a spec")).collect()
}

fn publish_from(desired: &mut Desired, of: &str, texts: &[&str], from: &[&str]) -> Result<()> {
    let from: Vec<_> = from.iter().map(|text| net(text)).collect();
    with_programs(&[], |host| desired.publish("br0", of, &specs(texts), &from, host)).map(|_| ())
}

fn publish(desired: &mut Desired, of: &str, texts: &[&str]) -> Result<()> {
    publish_from(desired, of, texts, &[])
}

fn unpublish(desired: &mut Desired, of: &str, texts: &[&str]) -> Result<()> {
    desired.unpublish("br0", of, &specs(texts))
}

/// A dual-stack bridge with the ports `a` and `b`, and `four` with an IPv4 address alone.
fn ports() -> Desired {
    let mut desired = dual();
    for (n, name) in [(1, "a"), (2, "b")] {
        desired.add_port("br0", &PortSpec { name: Some(name.into()), ..port() }, &target(n)).expect("a port");
    }
    let four = PortSpec { name: Some("four".into()), ips: vec!["10.0.0.44".into(), "none".into()], ..port() };
    desired.add_port("br0", &four, &target(3)).expect("a port");
    desired
}

/// What `of` publishes, as text: `0.0.0.0:8080 80/tcp`.
fn published(desired: &Desired, of: &str) -> Vec<String> {
    let port = &desired.bridges["br0"].ports[of];
    let text = |one: &PublicationRecord| {
        let host = crate::api::HostPort { ip: one.host, ports: one.host_ports() };
        let from: String = one.from.iter().map(|from| format!(" {from}")).collect();
        format!("{host} {}/{}{from}", one.container_ports(), one.protocol)
    };
    port.publications.iter().map(text).collect()
}

#[test]
fn each_form_is_what_docker_makes_of_it() {
    for (of, form, expected) in [
        ("a", "8080:80", &["0.0.0.0:8080 80/tcp", "[::]:8080 80/tcp"][..]),
        ("four", "8080:80", &["0.0.0.0:8080 80/tcp"]),
        ("a", "127.0.0.1:8080:80/udp", &["127.0.0.1:8080 80/udp"]),
        ("a", "[::1]:8080:80/sctp", &["[::1]:8080 80/sctp"]),
        ("a", "0.0.0.0:8080:80", &["0.0.0.0:8080 80/tcp"]),
        ("a", "80", &["0.0.0.0:32768 80/tcp", "[::]:32768 80/tcp"]),
        ("a", "192.0.2.1::80", &["192.0.2.1:32768 80/tcp"]),
        ("four", "8000-8010:9000-9010", &["0.0.0.0:8000-8010 9000-9010/tcp"]),
        ("four", "8000-8010:80", &["0.0.0.0:8000 80/tcp"]),
        ("four", "80-82", &["0.0.0.0:32768-32770 80-82/tcp"]),
        ("four", "1-65535:1-65535", &["0.0.0.0:1-65535 1-65535/tcp"]),
    ] {
        let mut desired = ports();
        publish(&mut desired, of, &[form]).unwrap_or_else(|error| panic!("{form}: {error:?}"));
        assert_eq!(published(&desired, of), expected, "{form}");
        desired.check().expect("valid");
        unpublish(&mut desired, of, &[form]).unwrap_or_else(|error| panic!("{form}: {error:?}"));
        assert_eq!(desired, ports(), "{form}: what is taken back is gone");
    }
}

#[test]
fn what_is_left_out_is_chosen_around_what_is_taken() {
    let programs: Programs = &[(Transport::Tcp, "0.0.0.0", 32768, "sshd"), (Transport::Tcp, "::1", 32770, "cupsd")];
    let mut desired = ports();
    publish(&mut desired, "b", &["32769:1", "127.0.0.1:32772:2"]).expect("publishes");
    with_programs(programs, |host| desired.publish("br0", "a", &specs(&["80"]), &[], host)).expect("publishes");
    assert_eq!(published(&desired, "a"), ["0.0.0.0:32771 80/tcp", "[::]:32771 80/tcp"]);
    let at = specs(&["192.0.2.1::81", "[2001:db8::1]::82", "32768-32770:83/udp", "84-86"]);
    with_programs(programs, |host| desired.publish("br0", "a", &at, &[], host)).expect("publishes");
    assert_eq!(
        published(&desired, "a")[2..],
        [
            "192.0.2.1:32770 81/tcp",
            "[2001:db8::1]:32768 82/tcp",
            "0.0.0.0:32768 83/udp",
            "[::]:32768 83/udp",
            "0.0.0.0:32773-32775 84-86/tcp",
            "[::]:32773-32775 84-86/tcp",
        ]
    );
    let mut full = ports();
    publish(&mut full, "a", &["32768-32776:1-9"]).expect("publishes");
    let error = refused(&full, ErrorCode::Limit, "no row of 2 ports of 32768-32777/tcp is free", |desired| {
        publish(desired, "b", &["80-81"])
    });
    assert!(error.message.contains("port \"a\" of bridge \"br0\" has 0.0.0.0:32768-32776/tcp"), "{error:?}");
    refused(&full, ErrorCode::Limit, "no port of 32770-32772/tcp", |desired| {
        publish(desired, "b", &["32770-32772:80"])
    });
    publish(&mut full, "b", &["80"]).expect("one is left");
}

#[test]
fn taken_ports_are_refused_with_the_name_of_who_has_them() {
    let mut desired = ports();
    publish(&mut desired, "a", &["8080:80", "127.0.0.1:9000-9010:1-11/udp"]).expect("publishes");
    for (form, says) in [
        ("8080:80", "port \"a\" of bridge \"br0\" has 0.0.0.0:8080/tcp"),
        ("192.0.2.1:8080:80", "port \"a\" of bridge \"br0\" has 0.0.0.0:8080/tcp"),
        ("[::1]:8080:80", "has [::]:8080/tcp"),
        ("8000-8100:8000-8100", "has 0.0.0.0:8080/tcp"),
        ("9005:1/udp", "has 127.0.0.1:9000-9010/udp"),
        ("0.0.0.0:1-9000:1-9000/udp", "has 127.0.0.1:9000-9010/udp"),
    ] {
        refused(&desired, ErrorCode::Conflict, says, |desired| publish(desired, "b", &[form]));
    }
    for form in ["8080:80/udp", "192.0.2.1:9005:1/udp", "[::1]:9005:1/udp", "8079:80", "8081:80"] {
        publish(&mut desired, "b", &[form]).unwrap_or_else(|error| panic!("{form}: {error:?}"));
    }
    desired.check().expect("valid");
    // Another bridge's port is no less in the way.
    desired.add_bridge(&bridge("br1", &["10.1.0.0/24"]), &host()).expect("a bridge");
    desired.add_port("br1", &port(), &target(9)).expect("a port");
    refused(&desired, ErrorCode::Conflict, "port \"a\" of bridge \"br0\"", |desired| {
        with_programs(&[], |host| desired.publish("br1", "ns9", &specs(&["8080:80"]), &[], host))
    });
    // A container's own other port, too.
    refused(&desired, ErrorCode::Conflict, "port \"a\" of", |desired| publish(desired, "a", &["8080:81"]));
}

#[test]
fn programs_of_the_host_are_in_the_way_by_name() {
    let programs: Programs = &[(Transport::Tcp, "0.0.0.0", 22, "sshd"), (Transport::Udp, "192.0.2.1", 53, "unbound")];
    for (form, says) in [
        ("22:22", "sshd uses port 22/tcp"),
        ("127.0.0.1:22:22", "sshd"),
        ("1-100:1-100/udp", "unbound uses 192.0.2.1:53/udp"),
    ] {
        let error = refused(&ports(), ErrorCode::Conflict, says, |desired| {
            with_programs(programs, |host| desired.publish("br0", "a", &specs(&[form]), &[], host))
        });
        assert!(error.remedy.contains("stop the program"), "{error:?}");
    }
    let free = specs(&["[::]:22:22", "192.0.2.2:53:53/udp", "53:53"]);
    with_programs(programs, |host| ports().publish("br0", "a", &free, &[], host)).expect("others are free");
}

#[test]
fn publishing_twice_changes_nothing_but_the_allow_list() {
    let mut desired = ports();
    publish(&mut desired, "a", &["8000-8010:80-90", "443", "9000-9010:21"]).expect("publishes");
    let before = desired.clone();
    publish(&mut desired, "a", &["8000-8010:80-90", "8003:83", "443", "9000-9010:21"]).expect("publishes");
    assert_eq!(desired, before);
    publish_from(&mut desired, "a", &["0.0.0.0:8003:83"], &["192.0.2.9/24", "fd00::/8"]).expect("publishes");
    let of = published(&desired, "a");
    for one in [
        "0.0.0.0:8000-8002 80-82/tcp",
        "0.0.0.0:8003 83/tcp 192.0.2.0/24 fd00::/8",
        "0.0.0.0:8004-8010 84-90/tcp",
        "[::]:8000-8010 80-90/tcp",
    ] {
        assert!(of.iter().any(|other| other == one), "{one}: {of:?}");
    }
    desired.check().expect("valid");
    publish_from(&mut desired, "a", &["443"], &["192.0.2.9/32"]).expect("publishes");
    assert_eq!(published(&desired, "a").iter().filter(|one| one.ends_with(" 443/tcp 192.0.2.9/32")).count(), 2);
    refused(&desired, ErrorCode::Limit, "networks", |desired| {
        publish_from(desired, "a", &["1:1"], &["10.0.0.0/8"; 257])
    });
}

#[test]
fn ports_are_taken_back_one_by_one_and_by_what_they_lead_to() {
    let mut desired = ports();
    publish(&mut desired, "four", &["8000-8010:80-90", "192.0.2.1:9000:80", "443:80/udp"]).expect("publishes");
    for form in ["8000:81", "8011:91", "127.0.0.1:8000:80", "79", "8000-8010:81-91", "9000:80/sctp"] {
        refused(&desired, ErrorCode::NotFound, form, |desired| unpublish(desired, "four", &[form]));
    }
    // One that means something does not carry one that does not.
    refused(&desired, ErrorCode::NotFound, "79/tcp", |desired| unpublish(desired, "four", &["8000:80", "79"]));
    unpublish(&mut desired, "four", &["8003-8004:83-84"]).expect("takes back");
    assert_eq!(published(&desired, "four")[..2], ["0.0.0.0:8000-8002 80-82/tcp", "0.0.0.0:8005-8010 85-90/tcp"]);
    unpublish(&mut desired, "four", &["80", "90/tcp", "8001-8002:82"]).expect("takes back");
    assert_eq!(
        published(&desired, "four"),
        ["0.0.0.0:8001 81/tcp", "0.0.0.0:8005-8009 85-89/tcp", "0.0.0.0:443 80/udp"]
    );
    desired.check().expect("valid");
    desired.remove_port("br0", "four").expect("removes");
    publish(&mut desired, "a", &["8001:81", "443:80/udp"]).expect("published ports go with their port");
}

#[test]
fn what_nobody_could_reach_is_refused() {
    let mut desired = ports();
    let none = PortSpec { name: Some("none".into()), ips: vec!["none".into()], ..port() };
    desired.add_port("br0", &none, &target(4)).expect("a port");
    refused(&desired, ErrorCode::Conflict, "no address", |desired| publish(desired, "none", &["80:80"]));
    refused(&desired, ErrorCode::Conflict, "no IPv6 address", |desired| publish(desired, "four", &["[::]:80:80"]));
    refused(&desired, ErrorCode::Invalid, "192.0.2.77 is no address of the host", |desired| {
        publish(desired, "a", &["192.0.2.77:80:80"])
    });
    refused(&desired, ErrorCode::NotFound, "no port \"ghost\"", |desired| publish(desired, "ghost", &["80:80"]));
    publish(&mut desired, "a", &["127.0.0.53:53:53/udp"]).expect("all of 127.0.0.0/8 is the host's");

    let l2 = BridgeSpec { l2: true, ..bridge("sw0", &[]) };
    desired.add_bridge(&l2, &host()).expect("a bridge");
    desired.add_port("sw0", &PortSpec { ips: vec!["10.9.0.2/24".into()], ..port() }, &target(5)).expect("a port");
    refused(&desired, ErrorCode::Conflict, "l2", |desired| {
        with_programs(&[], |host| desired.publish("sw0", "ns5", &specs(&["80:80"]), &[], host))
    });

    let internal = |on| BridgeChange { internal: Some(on), ..BridgeChange::default() };
    let error = refused(&desired, ErrorCode::Conflict, "\"a\" has published", |desired| {
        desired.change_bridge("br0", &internal(true))
    });
    assert!(error.remedy.contains("vswitchctl ports br0"), "{error:?}");
    unpublish(&mut desired, "a", &["53/udp"]).expect("takes back");
    desired.change_bridge("br0", &internal(true)).expect("changes");
    refused(&desired, ErrorCode::Conflict, "internal", |desired| publish(desired, "a", &["80:80"]));
    let spec = PortSpec { name: Some("inside".into()), ..port() };
    desired.add_port("br0", &spec, &target(6)).expect("a port");
    assert!(!desired.bridges["br0"].ports["inside"].default_route, "it leads nowhere");
}

#[test]
fn the_bridges_own_address_is_where_ports_are_published() {
    let mut desired = ports();
    let at = |ips: &[&str]| BridgeChange {
        host_ips: Some(ips.iter().map(|text| ip(text)).collect()),
        ..BridgeChange::default()
    };
    desired.change_bridge("br0", &at(&["192.0.2.1"])).expect("changes");
    publish(&mut desired, "a", &["80:80", "127.0.0.1:81:81"]).expect("publishes");
    assert_eq!(published(&desired, "a"), ["192.0.2.1:80 80/tcp", "127.0.0.1:81 81/tcp"]);
    desired.change_bridge("br0", &at(&["192.0.2.2", "2001:db8::1"])).expect("changes");
    publish(&mut desired, "b", &["80"]).expect("publishes");
    assert_eq!(published(&desired, "b"), ["192.0.2.2:32768 80/tcp", "[2001:db8::1]:32768 80/tcp"]);
    desired.change_bridge("br0", &at(&[])).expect("changes");
    publish(&mut desired, "four", &["82:82"]).expect("publishes");
    assert_eq!(published(&desired, "four"), ["0.0.0.0:82 82/tcp"]);
    for (ips, says) in [(&["10.0.0.1", "10.0.0.2"][..], "second IPv4"), (&["224.0.0.1"], "224.0.0.1")] {
        refused(&desired, ErrorCode::Invalid, says, |desired| desired.change_bridge("br0", &at(ips)));
    }
    let four = BridgeSpec { host_ips: vec![ip("::1")], ..bridge("br1", &["10.1.0.0/24"]) };
    refused(&desired, ErrorCode::Invalid, "no IPv6 subnet", |desired| desired.add_bridge(&four, &host()));
    for spec in [
        BridgeSpec { host_ips: vec![ip("192.0.2.1")], ..BridgeSpec::default() },
        BridgeSpec { internal: true, ..BridgeSpec::default() },
        BridgeSpec { masquerade: Some(false), ..BridgeSpec::default() },
        BridgeSpec { mss_clamp: Some(true), ..BridgeSpec::default() },
    ] {
        let l2 = BridgeSpec { name: "sw0".into(), l2: true, ..spec };
        refused(&desired, ErrorCode::Invalid, "no gateway", |desired| desired.add_bridge(&l2, &host()));
    }
}

#[test]
fn exposed_ports_are_published_unless_they_are_already() {
    let mut desired = dual();
    let expose = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("ports")).collect();
    let spec = PortSpec {
        expose: expose(&["80", "8000-8004", "53/udp"]),
        ips: vec!["10.0.0.9".into(), "none".into()],
        ..port()
    };
    desired.add_port("br0", &spec, &target(1)).expect("a port");
    publish(&mut desired, "ns1", &["8080:80", "9000:8002"]).expect("publishes");
    for _ in 0..2 {
        with_programs(&[], |host| desired.publish_exposed("br0", "ns1", host)).expect("publishes");
        assert_eq!(
            published(&desired, "ns1"),
            [
                "0.0.0.0:8080 80/tcp",
                "0.0.0.0:9000 8002/tcp",
                "0.0.0.0:32768-32769 8000-8001/tcp",
                "0.0.0.0:32770-32771 8003-8004/tcp",
                "0.0.0.0:32768 53/udp",
            ]
        );
    }
    let many = PortSpec { expose: vec![expose(&["80"]).pop().expect("one"); 1025], ..port() };
    refused(&desired, ErrorCode::Limit, "exposed", |desired| desired.add_port("br0", &many, &target(2)));
}

#[test]
fn tunnels_and_published_ports_keep_apart() {
    let mut desired = ports();
    let view = UnderlayView { addresses: [ip("192.0.2.1")].into(), source: None };
    let tunnel = VxlanSpec { vni: 7, local: Some(ip("192.0.2.1")), ..VxlanSpec::default() };
    let mut with_tunnel = desired.clone();
    with_tunnel.add_tunnel("br0", &tunnel, &view).expect("a tunnel");
    for form in ["4789:1/udp", "192.0.2.1:4000-5000:4000-5000/udp"] {
        refused(
            &with_tunnel,
            ErrorCode::Conflict,
            "tunnel \"vxlan7\" of bridge \"br0\" has 192.0.2.1:4789/udp",
            |desired| publish(desired, "a", &[form]),
        );
    }
    publish(&mut with_tunnel, "a", &["127.0.0.1:4789:1/udp", "4789:1"]).expect("others are free");
    publish(&mut desired, "a", &["4780-4790:1-11/udp"]).expect("publishes");
    refused(&desired, ErrorCode::Conflict, "has published 0.0.0.0:4780-4790/udp", |desired| {
        desired.add_tunnel("br0", &tunnel, &view)
    });
}

#[test]
fn a_state_file_of_before_has_gateways_and_guards() {
    let mut value = serde_json::to_value(ports()).expect("serialises");
    let br0 = &mut value["bridges"]["br0"];
    br0.as_object_mut().expect("a bridge").remove("masquerade");
    let text = value.to_string();
    for new in ["internal", "host_ips", "mss_clamp", "publications", "exposed", "unguarded"] {
        assert!(!text.contains(new), "{new} is written although it says nothing");
    }
    assert_eq!(serde_json::from_str::<Desired>(&text).expect("parses"), ports());
}

#[test]
fn a_state_file_that_contradicts_itself_is_refused() {
    let mut desired = ports();
    publish(&mut desired, "four", &["8000-8010:80-90"]).expect("publishes");
    let broken: [fn(&mut Desired, PublicationRecord); 6] = [
        |desired, one| desired.port_record("a").publications.push(one),
        |desired, one| desired.port_record("four").publications = vec![PublicationRecord { first: 9000, ..one }],
        |desired, one| desired.port_record("four").publications = vec![PublicationRecord { target: 65530, ..one }],
        |desired, one| desired.port_record("four").publications = vec![PublicationRecord { target: 0, ..one }],
        |desired, one| desired.port_record("four").publications = vec![PublicationRecord { host: ip("::"), ..one }],
        |desired, _| desired.bridges.get_mut("br0").expect("a bridge").internal = true,
    ];
    for (at, contradict) in broken.into_iter().enumerate() {
        let mut copy = desired.clone();
        let one = copy.port_record("four").publications[0].clone();
        contradict(&mut copy, one);
        assert!(copy.check().is_err(), "{at}");
    }
}

#[test]
fn ten_thousand_ports_are_published_in_a_moment() {
    let mut desired = ports();
    let began = std::time::Instant::now();
    let every = (1..=10_000).map(|port| format!("{port}:80")).collect::<Vec<_>>();
    let every: Vec<_> = every.iter().map(String::as_str).collect();
    publish(&mut desired, "a", &every).expect("publishes");
    assert_eq!(desired.bridges["br0"].ports["a"].publications.len(), 20_000);
    refused(&desired, ErrorCode::Conflict, "has 0.0.0.0:9999/tcp", |desired| publish(desired, "b", &["9999:80"]));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

impl Desired {
    fn port_record(&mut self, name: &str) -> &mut PortRecord {
        self.bridges.get_mut("br0").and_then(|bridge| bridge.ports.get_mut(name)).expect("a port")
    }
}
