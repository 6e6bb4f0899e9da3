//! `docker network`: each option of `create`, and the other verbs.

use serde_json::{Value, json};
use vswitch_tests::contact::Protocol;
use vswitch_tests::lab::must;
use vswitch_tests::outside::host;

use crate::world::World;

#[test]
fn flags_and_what_they_come_to() {
    let Some(world) = World::vswitch() else { return };
    must(world.network(
        "net",
        "--subnet 10.71.0.0/16 --ip-range 10.71.5.0/24 --gateway 10.71.0.254 --aux-address router=10.71.5.0 \
         --aux-address printer=10.71.5.1 --ipv6 --subnet fd71::/64 --gateway fd71::fe --label team=net --label empty \
         -o com.docker.network.bridge.name=vsbr7 -o com.docker.network.driver.mtu=1400",
    ));
    let inspect = must(world.docker.inspect("network", "net"));
    assert_eq!(inspect["Driver"], "vswitch");
    assert_eq!(inspect["Labels"], json!({"team": "net", "empty": ""}));
    assert_eq!(inspect["Options"]["com.docker.network.driver.mtu"], "1400");
    assert_eq!(inspect["EnableIPv6"], true);
    let configuration = &inspect["IPAM"]["Config"];
    assert_eq!(configuration[0]["Gateway"], "10.71.0.254");
    assert_eq!(configuration[0]["AuxiliaryAddresses"]["printer"], "10.71.5.1");
    assert_eq!(configuration[1]["Gateway"], "fd71::fe");
    let bridge = world.bridge("net");
    assert_eq!(bridge["name"], "vsbr7");
    assert_eq!(bridge["mtu"], 1400);
    assert_eq!(bridge["subnets"], json!(["10.71.0.0/16", "fd71::/64"]));
    assert_eq!(bridge["gateways"], json!(["10.71.0.254", "fd71::fe"]));
    let addresses = must(world.lab.host().ip("-o addr show dev vsbr7"));
    assert!(addresses.contains("10.71.0.254/16") && addresses.contains("fd71::fe/64"), "{addresses}");
    // The container's side of the same.
    let web = must(world.start("web", "--network net"));
    let link = must(web.namespace.ip("-o link show dev eth0"));
    assert!(link.contains("mtu 1400"), "{link}");
    assert_eq!(must(web.address("net", false)).to_string(), "10.71.5.2", "neither of those set aside");
    assert!(must(web.address("net", true)).to_string().starts_with("fd71::"));
    let routes = must(web.namespace.ip("route")) + &must(web.namespace.ip("-6 route"));
    assert!(routes.contains("default via 10.71.0.254") && routes.contains("default via fd71::fe"), "{routes}");
    // A process in the container sees it, too.
    let own = must(world.docker.exec("web", "ip addr show dev eth0"));
    assert!(own.contains("10.71.5.2/16") && own.contains("fd71::"), "{own}");
    // The network lists its containers.
    let inspect = must(world.docker.inspect("network", "net"));
    let members: Vec<&Value> = inspect["Containers"].as_object().into_iter().flat_map(|map| map.values()).collect();
    assert_eq!(members.len(), 1, "{inspect}");
    assert_eq!(members[0]["Name"], "web");
    assert_eq!(members[0]["IPv4Address"], "10.71.5.2/16");
    assert_eq!(members[0]["MacAddress"], web.mac("net").as_str());
    drop(web);
    world.finish();
}

#[test]
fn options_by_either_name() {
    let Some(world) = World::vswitch() else { return };
    let options = [
        ("com.docker.network.driver.mtu=1300", "mtu", json!(1300)),
        ("mtu=1300", "mtu", json!(1300)),
        ("com.docker.network.bridge.enable_icc=false", "icc", json!(false)),
        ("icc=off", "icc", json!(false)),
        ("com.docker.network.bridge.enable_ip_masquerade=false", "masquerade", json!(false)),
        ("masquerade=off", "masquerade", json!(false)),
        ("com.docker.network.bridge.gateway_mode_ipv4=routed", "masquerade", json!(false)),
        ("com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "host_ips", json!(["127.0.0.1"])),
        ("host-ip=198.18.0.2", "host_ips", json!(["198.18.0.2"])),
        ("com.docker.network.bridge.name=other0", "name", json!("other0")),
        ("name=other0", "name", json!("other0")),
        ("mss-clamp=off", "mss_clamp", json!(false)),
        ("ageing=60s", "ageing_s", json!(60)),
        ("storm-limit=500", "storm_limit", json!(500)),
        ("l2=true", "l2", json!(true)),
    ];
    for (option, field, value) in options {
        must(world.network("one", &format!("-o {option}")));
        assert_eq!(world.bridge("one")[field], value, "{option}");
        must(world.docker.line("network rm one"));
    }
    must(world.network("inside", "--internal"));
    assert_eq!(world.bridge("inside")["internal"], true);
    assert!(world.bridge("inside")["name"].as_str().is_some_and(|name| name.starts_with("vs-")));
    world.finish();
}

#[test]
fn what_is_refused_and_by_which_name() {
    let Some(world) = World::vswitch() else { return };
    must(world.network("net", "--subnet 10.71.0.0/24"));
    let before = must(world.docker.line("network ls"));
    for (args, words) in [
        ("-o mtus=1300", vec!["mtus", "mtu"]),
        ("-o com.docker.network.bridge.enable_ic=false", vec!["enable_ic ", "enable_icc"]),
        ("-o com.example.nonsense=1", vec!["com.example.nonsense"]),
        ("-o mtu=much", vec!["mtu", "much"]),
        ("-o mtu=1300 -o com.docker.network.driver.mtu=1400", vec!["mtu", "contradict"]),
        ("-o com.docker.network.bridge.enable_icc=perhaps", vec!["enable_icc", "perhaps"]),
        ("-o com.docker.network.host_ipv4=198.18.0.2", vec!["com.docker.network.host_ipv4"]),
        ("-o type=veth", vec!["type", "veth"]),
        ("-o vxlan-remotes=198.18.0.1", vec!["vxlan-remotes", "vxlan-vni"]),
        ("-o host-ip=nowhere", vec!["host-ip", "nowhere"]),
        // The host's own wire, which Docker does not look at when the subnet is named.
        ("--subnet 198.18.0.0/24", vec!["198.18.0.0/24"]),
        ("--subnet 10.71.0.128/25", vec![""]),
    ] {
        let said = world.network_refused(args);
        for word in words {
            assert!(said.contains(word), "{args}: {word:?} is not in {said:?}");
        }
        assert!(said.trim_end().lines().count() == 1, "{args}: one sentence: {said:?}");
    }
    assert_eq!(must(world.docker.line("network ls")), before, "a refused network is not there");
    assert_eq!(world.bridges(), 1, "nor is a bridge");
    world.finish();
}

#[test]
fn list_remove_prune() {
    let Some(world) = World::vswitch() else { return };
    let docker = &world.docker;
    for network in ["one", "two", "three"] {
        must(world.network(network, "--label suite=1"));
    }
    let listed = must(docker.line("network ls --filter driver=vswitch --format {{.Name}}"));
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["one", "three", "two"]);
    let web = must(world.start("web", "--network two"));
    let refused = docker.line("network rm two").expect_err("it has an endpoint").to_string();
    assert!(refused.contains("active endpoints"), "{refused}");
    // Of the switch, too: Docker would not know of it.
    let name = world.bridge("two")["name"].as_str().unwrap_or_default().to_owned();
    let said = world.lab.ctl_refused(&["del-br", &name]);
    assert!(said.contains("docker network rm"), "{said}");
    must(docker.line("network prune -f"));
    let listed = must(docker.line("network ls --filter driver=vswitch --format {{.Name}}"));
    assert_eq!(listed, "two", "the one in use");
    must(
        docker.line("network rm two").or_else(|_| docker.line("rm -f web").and_then(|_| docker.line("network rm two"))),
    );
    drop(web);
    world.assert_empty();
    // The same name and the same addresses again.
    must(world.network("two", "--subnet 10.71.0.0/24"));
    must(docker.line("network rm two"));
    must(world.network("two", "--subnet 10.71.0.0/24"));
    world.finish();
}

#[test]
fn ports_of_both_types_and_a_tunnel() {
    let Some(world) = World::vswitch() else { return };
    must(world.network("tap", "--subnet 10.71.1.0/24"));
    must(world.network("xdp", "--subnet 10.71.2.0/24 -o type=xdp"));
    must(world.network("rate", "--subnet 10.71.3.0/24 -o ingress-rate=100mbit -o egress-rate=50mbit"));
    must(world.network("prefix", "--subnet 10.71.4.0/24 -o com.docker.network.container_iface_prefix=lan"));
    must(world.network("overlay", "--subnet 10.71.5.0/24 -o vxlan-vni=42 -o vxlan-remotes=198.18.0.1,198.18.0.9"));
    for (network, outside) in [("tap", 8001), ("xdp", 8002), ("rate", 8003), ("prefix", 8004), ("overlay", 8005)] {
        let one = must(world.start(&format!("{network}-1"), &format!("--network {network} -p {outside}:80")));
        let two = must(world.start(&format!("{network}-2"), &format!("--network {network}")));
        world.assert_reaches(&two, &one, must(one.address(network, false)));
        world.assert_published(&one, Protocol::Tcp, outside, 80);
        let bridge = world.bridge(network)["name"].as_str().unwrap_or_default().to_owned();
        let ports = world.lab.ports(&bridge);
        assert_eq!(ports.len(), 2, "{ports:?}");
        let wanted = if network == "xdp" { "xdp" } else { "tap" };
        assert!(ports.iter().all(|port| port.port_type.to_string() == wanted && port.lent), "{ports:?}");
        let ifname = if network == "prefix" { "lan0" } else { "eth0" };
        must(one.namespace.ip(&format!("link show dev {ifname}")));
        if network == "rate" {
            let shown = world.lab.ctl(&["list-ports", &bridge, "--json"]);
            assert!(shown.contains("100000000") && shown.contains("50000000"), "{shown}");
        }
        if network == "overlay" {
            let tunnels: Value = world.lab.get(&format!("/v1/bridges/{bridge}/vxlans"));
            let text = tunnels.to_string();
            assert!(
                text.contains("42") && text.contains("198.18.0.9") && text.contains(&host(false).to_string()),
                "{text}"
            );
        }
    }
    world.finish();
}
