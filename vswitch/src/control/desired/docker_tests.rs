//! The rules of Docker's networks and endpoints, without root.

use super::tests::{host, ip, net, port, refused, target};
use super::*;
use crate::api::{BridgeSpec, ErrorCode, PortSpec, PublishSpec};

const NET: &str = "0123456789abcdef0123456789abcdef";
const ONE: &str = "aaaaaaaaaaaa1111";
const TWO: &str = "bbbbbbbbbbbb2222";

fn network(id: &str, subnet: &str) -> DockerNetworkSpec {
    DockerNetworkSpec {
        id: id.into(),
        bridge: BridgeSpec {
            name: format!("vs-{}", &id[..12]),
            subnets: vec![net(subnet), net("fd00:18::/64")],
            ..BridgeSpec::default()
        },
        pools: vec![DockerPool { space: "LocalDefault".into(), net: net(subnet), held: Vec::new() }],
        ifname_prefix: "eth".into(),
        ..DockerNetworkSpec::default()
    }
}

/// A network with one endpoint that nobody has joined.
fn one_endpoint() -> Desired {
    let mut desired = Desired::default();
    desired.add_docker_network(&network(NET, "172.18.0.0/16"), &host()).expect("a network");
    desired.add_docker_endpoint(NET, ONE, &endpoint(&["172.18.0.2/16"]), [1, 2, 3, 4]).expect("an endpoint");
    desired
}

fn endpoint(ips: &[&str]) -> DockerEndpointSpec {
    DockerEndpointSpec { ips: ips.iter().map(|text| net_of(text)).collect(), ..DockerEndpointSpec::default() }
}

/// An address with its prefix length.
fn net_of(text: &str) -> IpNet {
    text.parse().expect("an address")
}

const BRIDGE: &str = "vs-0123456789ab";

/// Gives the endpoint a port, as joining does.
fn join(desired: &mut Desired, id: &str, ips: &[&str]) {
    let spec = PortSpec {
        name: Some(endpoint_port(id).into()),
        ips: ips.iter().map(|&ip| ip.to_owned()).chain(["none".to_owned()]).collect(),
        ..port()
    };
    desired.add_port(BRIDGE, &spec, &target(id.len() as u64 + u64::from(id.as_bytes()[0]))).expect("a port");
}

#[test]
fn a_network_is_a_bridge_and_the_state_file_keeps_both() {
    let desired = one_endpoint();
    desired.check().expect("holds to the rules");
    let text = serde_json::to_string(&desired).expect("JSON");
    assert_eq!(serde_json::from_str::<Desired>(&text).expect("the same"), desired);
    let (bridge, record, known) = desired.docker_network(NET).expect("is there");
    assert_eq!((bridge, record.subnets.len(), known.endpoints.len()), (BRIDGE, 2, 1));
    assert_eq!(known.endpoints[ONE].mac.to_string(), "02:42:ac:12:00:02");
    assert!(desired.docker_network("another").is_err_and(|error| error.remedy.contains("docker network")));
}

#[test]
fn another_network_of_the_same_id_or_name_is_refused() {
    let desired = one_endpoint();
    refused(&desired, ErrorCode::Conflict, "already", |d| {
        d.add_docker_network(&network(NET, "172.19.0.0/16"), &host())
    });
    let mut named = network("fedcba9876543210", "172.19.0.0/16");
    named.bridge.subnets.truncate(1);
    named.bridge.name = BRIDGE.into();
    refused(&desired, ErrorCode::Conflict, "already", |d| d.add_docker_network(&named, &host()));
    for id in ["", "../../etc", "-x", "a b", &"x".repeat(129)] {
        let mut bad = network("fedcba9876543210", "172.19.0.0/16");
        bad.id = id.into();
        refused(&desired, ErrorCode::Invalid, "network id", |d| d.add_docker_network(&bad, &host()));
    }
}

#[test]
fn a_network_whose_addresses_are_given_anew_is_stale_unless_somebody_uses_it() {
    let mut desired = one_endpoint();
    let new = |subnet: &str, space: &str| {
        let mut spec = network("fedcba9876543210", subnet);
        spec.pools[0].space = space.into();
        spec
    };
    assert_eq!(desired.stale_docker_networks(&new("172.18.0.0/16", "LocalDefault")), [BRIDGE]);
    assert_eq!(desired.stale_docker_networks(&new("172.16.0.0/12", "LocalDefault")), [BRIDGE]);
    assert!(desired.stale_docker_networks(&new("172.19.0.0/16", "LocalDefault")).is_empty());
    assert!(desired.stale_docker_networks(&new("172.18.0.0/16", "another")).is_empty(), "another book-keeper");
    assert!(desired.stale_docker_networks(&network(NET, "172.18.0.0/16")).is_empty(), "itself");
    join(&mut desired, ONE, &["172.18.0.2"]);
    assert!(desired.stale_docker_networks(&new("172.18.0.0/16", "LocalDefault")).is_empty(), "it is in use");
}

#[test]
fn a_bridge_of_dockers_is_dockers_to_remove() {
    let mut desired = one_endpoint();
    let error = refused(&desired, ErrorCode::Conflict, "Docker's network", |d| d.remove_bridge(BRIDGE, false));
    assert!(error.remedy.contains("docker network rm 0123456789ab"), "{error:?}");
    assert_eq!(desired.removable_docker_network("gone").expect("no error"), None);
    assert_eq!(desired.idle_docker_networks().collect::<Vec<_>>(), [NET]);
    join(&mut desired, ONE, &["172.18.0.2"]);
    assert_eq!(desired.idle_docker_networks().next(), None, "a container is attached");
    assert_eq!(desired.removable_docker_network(NET).expect("its own ports go with it").as_deref(), Some(BRIDGE));
    let foreign = PortSpec { name: Some("pc".into()), ips: vec!["172.18.9.9".into(), "none".into()], ..port() };
    desired.add_port(BRIDGE, &foreign, &target(77)).expect("a port");
    let error = desired.removable_docker_network(NET).expect_err("somebody else is on it");
    assert!(error.message.contains("\"pc\"") && error.remedy.contains("del-port"), "{error:?}");
    desired.remove_bridge(BRIDGE, true).expect("forced");
    assert!(desired.find_docker_network(NET).is_none());
}

#[test]
fn addresses_that_docker_gives_are_not_given_by_us() {
    let desired = one_endpoint();
    let spec = |ips: &[&str]| PortSpec { ips: ips.iter().map(|&ip| ip.into()).collect(), ..port() };
    let error =
        refused(&desired, ErrorCode::Conflict, "given by Docker", |d| d.add_port(BRIDGE, &spec(&[]), &target(5)));
    assert!(error.remedy.contains("--ip-range") && error.remedy.contains("--aux-address"), "{error:?}");
    refused(&desired, ErrorCode::Conflict, "given by Docker", |d| {
        d.add_port(BRIDGE, &spec(&["172.18.9.9"]), &target(5))
    });
    refused(&desired, ErrorCode::Conflict, "Docker's endpoint \"aaaaaaaaaaaa\"", |d| {
        d.add_port(BRIDGE, &spec(&["172.18.0.2", "none"]), &target(5))
    });
    let mut with_mac = spec(&["172.18.9.9", "none"]);
    with_mac.mac = Some("02:42:ac:12:00:02".into());
    refused(&desired, ErrorCode::Conflict, "Docker's endpoint", |d| d.add_port(BRIDGE, &with_mac, &target(5)));
    let mut desired = desired;
    desired.add_port(BRIDGE, &spec(&["172.18.9.9", "none"]), &target(5)).expect("a named address");
}

#[test]
fn endpoints_may_be_made_again_and_replace_what_docker_has_forgotten() {
    let mut desired = one_endpoint();
    let before = desired.clone();
    let again = desired.add_docker_endpoint(NET, ONE, &endpoint(&["172.18.0.2/16"]), [0; 4]).expect("the same");
    assert_eq!((&desired, again.mac.to_string().as_str()), (&before, "02:42:ac:12:00:02"));
    // Docker gives an address to one endpoint at a time.
    desired.add_docker_endpoint(NET, TWO, &endpoint(&["172.18.0.2/16"]), [0; 4]).expect("the address is free again");
    assert!(desired.docker_endpoint(NET, ONE).is_err());
    join(&mut desired, TWO, &["172.18.0.2"]);
    refused(&desired, ErrorCode::Conflict, "by port \"bbbbbbbbbbbb\"", |d| {
        d.add_docker_endpoint(NET, ONE, &endpoint(&["172.18.0.2/16"]), [0; 4])
    });
    refused(&desired, ErrorCode::Conflict, "a container has it", |d| {
        d.add_docker_endpoint(NET, TWO, &endpoint(&["172.18.0.3/16"]), [0; 4])
    });
    desired.check().expect("holds to the rules");
}

#[test]
fn addresses_and_mac_addresses_of_endpoints() {
    let mut desired = one_endpoint();
    let mac =
        |text: &str| DockerEndpointSpec { mac: Some(text.parse().expect("a MAC")), ..endpoint(&["172.18.0.9/16"]) };
    refused(&desired, ErrorCode::Invalid, "group address", |d| {
        d.add_docker_endpoint(NET, TWO, &mac("01:00:00:00:00:01"), [0; 4])
    });
    refused(&desired, ErrorCode::Conflict, "gateway", |d| {
        d.add_docker_endpoint(NET, TWO, &endpoint(&["172.18.0.1/16"]), [0; 4])
    });
    refused(&desired, ErrorCode::Invalid, "outside", |d| {
        d.add_docker_endpoint(NET, TWO, &endpoint(&["172.19.0.5/16"]), [0; 4])
    });
    let gateway = desired.bridges[BRIDGE].mac.expect("a MAC").to_string();
    refused(&desired, ErrorCode::Conflict, "the host's interface", |d| {
        d.add_docker_endpoint(NET, TWO, &mac(&gateway), [0; 4])
    });
    let ipv6 = desired.add_docker_endpoint(NET, TWO, &endpoint(&["fd00:18::9/64"]), [1, 2, 3, 4]).expect("an endpoint");
    assert_eq!(ipv6.mac.to_string(), "02:42:01:02:03:04");
    // What goes with the address is taken by somebody who asked for it.
    let taken =
        DockerEndpointSpec { mac: Some("02:42:ac:12:00:07".parse().expect("a MAC")), ..endpoint(&["172.18.0.9/16"]) };
    desired.add_docker_endpoint(NET, "cccccccccccc3333", &taken, [0; 4]).expect("an endpoint");
    let other =
        desired.add_docker_endpoint(NET, "dddddddddddd4444", &endpoint(&["172.18.0.7/16"]), [9, 9, 9, 9]).expect("one");
    assert_eq!(other.mac.to_string(), "02:42:09:09:09:09");
    desired.check().expect("holds to the rules");
}

#[test]
fn an_endpoint_goes_with_the_container_that_had_joined_it_and_at_a_reboot() {
    let mut desired = one_endpoint();
    join(&mut desired, ONE, &["172.18.0.2"]);
    desired.remove_port(BRIDGE, endpoint_port(ONE)).expect("its namespace is gone");
    desired.forget_docker_endpoint(BRIDGE, endpoint_port(ONE));
    assert!(desired.docker_endpoint(NET, ONE).is_err());
    assert!(!desired.remove_docker_endpoint(NET, ONE), "gone is gone");
    let mut desired = one_endpoint();
    desired.boot_id = Some("before".into());
    desired.reboot("after", |_| None);
    assert!(desired.docker_network(NET).expect("networks stay").2.endpoints.is_empty());
}

#[test]
fn what_docker_published_is_taken_back_and_what_people_published_stays() {
    let mut desired = one_endpoint();
    let view = PublishView {
        addresses: vec![ip("192.0.2.1")],
        ephemeral: crate::api::PortRange { first: 40000, last: 40010 },
        in_use: &|_, _, _| Ok(None),
    };
    let specs = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a port")).collect::<Vec<PublishSpec>>();
    refused(&desired, ErrorCode::NotFound, "no port", |d| d.publish_docker(NET, ONE, &specs(&["8080:80"]), &view));
    join(&mut desired, ONE, &["172.18.0.2"]);
    desired.publish(BRIDGE, endpoint_port(ONE), &specs(&["9090:80"]), &[], &view).expect("by hand");
    let docker = specs(&["8080:80", "8000-8010:8000-8010", "81/udp"]);
    let published = desired.publish_docker(NET, ONE, &docker, &view).expect("by Docker");
    assert_eq!(published.iter().map(|one| one.first).collect::<Vec<_>>(), [8080, 8000, 40000]);
    let before = desired.clone();
    desired.publish_docker(NET, ONE, &docker, &view).expect("again");
    assert_eq!(desired, before, "the same ports again");
    let text = serde_json::to_string(&desired).expect("JSON");
    desired = serde_json::from_str(&text).expect("the same");
    desired.revoke_docker(NET, ONE);
    desired.revoke_docker(NET, ONE);
    desired.revoke_docker(NET, "unknown");
    let left = &desired.bridges[BRIDGE].ports[endpoint_port(ONE)].publications;
    assert_eq!(left.iter().map(|one| one.first).collect::<Vec<_>>(), [9090]);
    desired.check().expect("holds to the rules");
}

fn pool(net: &str, range: Option<&str>) -> DockerPoolSpec {
    DockerPoolSpec {
        space: DOCKER_ADDRESS_SPACE.into(),
        net: Some(super::tests::net(net)),
        range: range.map(super::tests::net),
        ipv6: false,
    }
}

/// A network of Docker's with an address management of our own, as Docker makes one.
fn own_addresses() -> (Desired, String) {
    let mut desired = Desired::default();
    let (id, net) = desired.request_docker_pool(&pool("10.5.0.0/24", None), &host(), [0; 5]).expect("a pool");
    let gateway = desired.request_docker_address(&id, None, true).expect("an address");
    assert_eq!((id.as_str(), gateway.to_string().as_str()), ("vswitch/10.5.0.0/24", "10.5.0.1/24"));
    let mut spec = network(NET, "10.5.0.0/24");
    spec.pools = vec![DockerPool { space: DOCKER_ADDRESS_SPACE.into(), net, held: vec![gateway.addr()] }];
    desired.add_docker_network(&spec, &host()).expect("a network");
    (desired, id)
}

#[test]
fn addresses_come_from_the_range_and_none_twice() {
    let (mut desired, id) = own_addresses();
    let take = |d: &mut Desired, ip: Option<&str>| {
        d.request_docker_address(&id, ip.map(super::tests::ip), false).map(|ip| ip.to_string())
    };
    assert_eq!(take(&mut desired, None).expect("free"), "10.5.0.2/24");
    assert_eq!(take(&mut desired, Some("10.5.0.3")).expect("free"), "10.5.0.3/24");
    assert_eq!(take(&mut desired, None).expect("free"), "10.5.0.4/24");
    refused(&desired, ErrorCode::Conflict, "10.5.0.3", |d| take(d, Some("10.5.0.3")));
    refused(&desired, ErrorCode::Conflict, "10.5.0.1", |d| take(d, Some("10.5.0.1")));
    refused(&desired, ErrorCode::Invalid, "outside", |d| take(d, Some("10.6.0.1")));
    refused(&desired, ErrorCode::Invalid, "network address", |d| take(d, Some("10.5.0.0")));
    refused(&desired, ErrorCode::NotFound, "no pool", |d| d.request_docker_address("vswitch/x", None, false));
    // What was given back is not given again at once, and what a person's port has is taken, too.
    desired.release_docker_address(&id, ip("10.5.0.4"));
    desired.release_docker_address(&id, ip("10.5.0.4"));
    let pc = PortSpec { ips: vec!["10.5.0.5".into(), "none".into()], ..port() };
    desired.add_port(BRIDGE, &pc, &target(3)).expect("a port");
    assert_eq!(take(&mut desired, None).expect("free"), "10.5.0.6/24");
    let text = serde_json::to_string(&desired).expect("JSON");
    let mut desired: Desired = serde_json::from_str(&text).expect("the same");
    assert_eq!(take(&mut desired, None).expect("free"), "10.5.0.7/24", "the daemon was started anew");
    desired.check().expect("holds to the rules");
    let mut all = 0;
    while take(&mut desired, None).is_ok() {
        all += 1;
    }
    // All but the network's, the broadcast's and the gateway's address and those taken above (2, 3, 5, 6, 7).
    assert_eq!(all, 256 - 3 - 5);
    refused(&desired, ErrorCode::Limit, "no free address", |d| take(d, None));
}

#[test]
fn pools_do_not_overlap_anything() {
    let (mut desired, id) = own_addresses();
    let mut ask = |spec: &DockerPoolSpec| desired.request_docker_pool(spec, &host(), [1, 2, 3, 4, 5]);
    for (net, says) in [
        ("10.5.0.0/25", "overlaps the pool"),
        ("10.0.0.0/8", "overlaps the pool"),
        ("192.168.0.0/16", "the host's route"),
        ("127.0.0.0/8", "loopback"),
        ("fd00:18::/64", "overlaps"),
    ] {
        let error = ask(&pool(net, None)).expect_err("refused");
        assert!(error.message.contains(says), "{error:?}");
    }
    assert!(ask(&DockerPoolSpec { space: "elsewhere".into(), ..pool("10.6.0.0/24", None) }).is_err());
    assert!(ask(&pool("10.6.0.0/24", Some("10.7.0.0/24"))).is_err());
    let any = DockerPoolSpec { net: None, ..pool("10.6.0.0/24", None) };
    assert_eq!(ask(&any).expect("a pool").1.to_string(), "172.17.0.0/16");
    assert_eq!(ask(&any).expect("a pool").1.to_string(), "172.18.0.0/16", "one that has no network yet counts");
    let ipv6 = DockerPoolSpec { ipv6: true, ..any };
    assert_eq!(ask(&ipv6).expect("a pool").1.to_string(), "fd01:203:405::/64");
    let (ranged, _) = ask(&pool("10.6.0.0/16", Some("10.6.7.0/24"))).expect("a pool");
    assert_eq!(ranged, "vswitch/10.6.0.0/16/10.6.7.0/24");
    let mut take = |gateway| desired.request_docker_address(&ranged, None, gateway).expect("an address").to_string();
    assert_eq!((take(true), take(false)), ("10.6.0.1/16".to_owned(), "10.6.7.0/16".to_owned()));
    assert_eq!(desired.release_docker_pool(&ranged), None);
    assert_eq!(desired.release_docker_pool(&ranged), None, "gone is gone");
    assert_eq!(desired.release_docker_pool(&id).as_deref(), Some(BRIDGE), "Docker gave up the network");
}

#[test]
fn what_is_given_and_not_used_is_a_lease() {
    let (mut desired, id) = own_addresses();
    assert!(desired.docker_leases().is_empty(), "the gateway is the network's");
    let address = desired.request_docker_address(&id, None, false).expect("an address");
    let lease = DockerLease::Address(id.clone(), address.addr());
    assert_eq!(desired.docker_leases(), std::slice::from_ref(&lease));
    let spec = DockerEndpointSpec { ips: vec![address], ..DockerEndpointSpec::default() };
    desired.add_docker_endpoint(NET, ONE, &spec, [0; 4]).expect("an endpoint");
    assert_eq!(desired.docker_leases(), [DockerLease::Endpoint(NET.into(), ONE.into())]);
    join(&mut desired, ONE, &["10.5.0.2"]);
    assert!(desired.docker_leases().is_empty());
    let mut given_up = desired.clone();
    given_up.remove_port(BRIDGE, endpoint_port(ONE)).expect("a port");
    given_up.release_docker_address(&id, address.addr());
    assert!(given_up.docker_endpoint(NET, ONE).is_err(), "its address was given back, and nobody has joined it");
    desired.release_docker_address(&id, address.addr());
    assert!(desired.docker_endpoint(NET, ONE).is_ok(), "somebody has");
    let (other, _) = desired.request_docker_pool(&pool("10.6.0.0/24", None), &host(), [0; 5]).expect("a pool");
    assert_eq!(desired.docker_leases(), [DockerLease::Pool(other.clone())]);
    desired.drop_docker_lease(&DockerLease::Pool(other));
    desired.drop_docker_lease(&lease);
    assert!(desired.docker_leases().is_empty());
    desired.check().expect("holds to the rules");
}

#[test]
fn a_network_may_be_a_part_of_what_a_router_is_the_way_to() {
    let mut view = host();
    let route = |dst: &str, ifname: &str, via: Option<&str>| HostRoute {
        dst: net(dst),
        ifname: ifname.into(),
        via: via.map(ip),
    };
    view.routes.push(route("172.16.0.0/12", "eno1", Some("192.168.1.1")));
    view.routes.push(route("10.0.0.0/8", "", None));
    let mut desired = Desired::default();
    desired.add_docker_network(&network(NET, "172.18.0.0/16"), &view).expect("a better route");
    desired.request_docker_pool(&pool("10.1.0.0/16", None), &view, [0; 5]).expect("a better route than none");
    let ask = |subnet: &str, route: HostRoute| {
        let mut view = host();
        view.routes.push(route);
        Desired::default().add_docker_network(&network(NET, subnet), &view).expect_err("refused").message
    };
    assert!(ask("172.18.0.0/16", route("172.16.0.0/12", "vpn0", None)).contains("by vpn0"), "on the link");
    assert!(ask("172.18.0.0/16", route("172.18.0.0/16", "eno1", Some("192.168.1.1"))).contains("172.18.0.0/16"));
    assert!(ask("172.18.0.0/16", route("172.18.5.0/24", "eno1", Some("192.168.1.1"))).contains("172.18.5.0/24"));
}
