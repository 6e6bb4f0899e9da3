//! Docker's network driver, spoken to as Docker's engine speaks: the requests of `libnetwork/drivers/remote` (20.10 and
//! 28), their order, and what goes wrong in between. What Docker itself does with the interface, the test does in its
//! place: it moves it into the container, names it, and gives it addresses and routes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use vswitch::api::{Port, Publication};
use vswitch_tests::http::{self, connect, read_answer};
use vswitch_tests::lab::must;
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::{Lab, Options};

const NET: &str = "d2d1f7a3b1c94e5f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f";
const BRIDGE: &str = "vs-d2d1f7a3b1c9";
const WEB: &str = "11112222333344445555666677778888999900001111222233334444555566667";
const DB: &str = "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999";
const WEB_PORT: &str = "111122223333";

/// A lab whose daemon is Docker's network driver, and the engine's side of it.
struct World {
    lab: Lab,
    socket: PathBuf,
    _directory: TempDir,
}

impl World {
    fn new() -> Option<Self> {
        let directory = must(tempfile::tempdir());
        let socket = directory.path().join("plugins/vswitch.sock");
        let args = vec![format!("--docker={}", socket.display())];
        let lab = Lab::with(Options { args, ..Options::default() })?;
        Some(Self { lab, socket, _directory: directory })
    }

    /// One call; the status and the answer.
    #[track_caller]
    fn raw(&self, call: &str, body: &str) -> (u16, Value) {
        let answer = must(http::request(&self.socket, "POST", &format!("/{call}"), Some(body)));
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{call}: {}", answer.body)))
    }

    /// A call of the network driver that must be done.
    #[track_caller]
    fn call(&self, call: &str, request: &Value) -> Value {
        let (status, answer) = self.raw(&format!("NetworkDriver.{call}"), &request.to_string());
        assert_eq!(status, 200, "{call}: {answer}");
        assert_eq!(answer.get("Err"), None, "{call} {request}");
        answer
    }

    /// A call of the network driver that must be refused, in words.
    #[track_caller]
    fn refused(&self, call: &str, request: &Value, says: &str) {
        let (status, answer) = self.raw(&format!("NetworkDriver.{call}"), &request.to_string());
        assert_eq!(status, 200, "a refusal is shown as it is only with status 200: {answer}");
        let error = answer["Err"].as_str().unwrap_or_else(|| panic!("{call} was not refused: {answer}"));
        assert!(error.contains(says), "{call}: {error:?} does not say {says:?}");
    }

    /// `docker run` up to the started container: its interface is in the container's namespace, configured.
    #[track_caller]
    fn run(&mut self, endpoint: &str, role: &str, ip: &str, portmap: &Value) -> Value {
        self.call("CreateEndpoint", &create_endpoint(endpoint, ip));
        self.lab.add_container(role);
        let joined = self.call("Join", &self.join(endpoint, role, portmap));
        self.enter(&joined, role, ip);
        self.call("ProgramExternalConnectivity", &labels(endpoint, portmap));
        joined
    }

    fn join(&self, endpoint: &str, role: &str, portmap: &Value) -> Value {
        let mut join = labels(endpoint, portmap);
        join["SandboxKey"] = json!(format!("/run/netns/{}", self.lab.netns(role)));
        join
    }

    /// What Docker does with what it was told.
    #[track_caller]
    fn enter(&self, joined: &Value, role: &str, ip: &str) {
        let name = joined["InterfaceName"]["SrcName"].as_str().expect("a name");
        let netns = self.lab.netns(role);
        must(self.lab.host().ip(&format!("link set {name} netns {netns}")));
        let container = self.lab.container(role);
        must(
            container
                .ip(&format!("link set {name} name {}0", joined["InterfaceName"]["DstPrefix"].as_str().expect("one"))),
        );
        must(container.ip(&format!("address add {ip}/16 dev eth0")));
        must(container.ip("link set eth0 up"));
        if let Some(gateway) = joined["Gateway"].as_str() {
            must(container.ip(&format!("route add default via {gateway}")));
        }
    }

    /// `docker stop`.
    #[track_caller]
    fn stop(&self, endpoint: &str) {
        for call in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"] {
            assert_eq!(self.call(call, &ids(endpoint)), json!({}));
        }
    }

    fn published(&self) -> Vec<String> {
        let all: Vec<Publication> = self.lab.get("/v1/publications");
        all.iter().map(|one| format!("{}:{}/{}", one.host_ip, one.host, one.protocol)).collect()
    }

    #[track_caller]
    fn finish(self) {
        self.lab.finish();
    }
}

fn ids(endpoint: &str) -> Value {
    json!({"NetworkID": NET, "EndpointID": endpoint})
}

/// As engine 20.10 asks for a network, with one key that no engine sends.
fn create_network(generic: &Value) -> Value {
    json!({
        "NetworkID": NET,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": generic, "com.docker.future": [1]},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Gateway": "172.18.0.1/16", "Pool": "172.18.0.0/16"}],
        "IPv6Data": [],
        "Future": null,
    })
}

fn create_endpoint(endpoint: &str, ip: &str) -> Value {
    json!({
        "NetworkID": NET, "EndpointID": endpoint,
        "Interface": {"Address": format!("{ip}/16"), "AddressIPv6": "", "MacAddress": ""},
        "Options": {
            "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}],
            "com.docker.network.portmap": [],
        },
    })
}

/// A container's labels, which come with `Join` and with `ProgramExternalConnectivity`.
fn labels(endpoint: &str, portmap: &Value) -> Value {
    json!({
        "NetworkID": NET, "EndpointID": endpoint,
        "Options": {
            "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}, {"Proto": 17, "Port": 53}],
            "com.docker.network.portmap": portmap,
            "com.docker.network.driver.private.no_proxy_6to4": true,
        },
    })
}

fn binding(proto: u8, port: u16, host_ip: &str, first: u16, last: u16) -> Value {
    json!({"Proto": proto, "IP": "", "Port": port, "HostIP": host_ip, "HostPort": first, "HostPortEnd": last})
}

#[test]
fn the_handshake_is_what_the_engine_expects() {
    let Some(world) = World::new() else { return };
    let mode = must(std::fs::metadata(&world.socket)).permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "root's alone");
    // As pkg/plugins sends it: no contents, its own media type.
    let mut stream = must(connect(&world.socket));
    let head = "POST /Plugin.Activate HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
                Content-Length: 0\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
                Content-Type: application/vnd.docker.plugins.v1.2+json\r\nAccept-Encoding: gzip\r\n\r\n";
    must(std::io::Write::write_all(&mut stream, head.as_bytes()));
    // The connection is not kept: the answer ends with it.
    let answer = must(read_answer(&mut stream));
    assert!(
        answer.json()["Implements"].as_array().is_some_and(|all| all.contains(&json!("NetworkDriver"))),
        "{answer:?}"
    );
    let (_, capabilities) = world.raw("NetworkDriver.GetCapabilities", "");
    assert_eq!(capabilities, json!({"Scope": "local", "ConnectivityScope": "local", "GwAllocChecker": true}));
    let check = |options: Value| world.call("GwAllocCheck", &json!({"Options": options}));
    assert_eq!(check(json!({})), json!({"SkipIPv4": false, "SkipIPv6": false}));
    let l2 = json!({"com.docker.network.generic": {"l2": "true"}});
    assert_eq!(check(l2), json!({"SkipIPv4": true, "SkipIPv6": true}));
    for call in ["DiscoverNew", "DiscoverDelete"] {
        let data = json!({"DiscoveryType": 1, "DiscoveryData": {"Address": "192.0.2.9", "self": false}});
        assert_eq!(world.call(call, &data), json!({}));
    }
    world.refused("AllocateNetwork", &json!({"NetworkID": NET, "Options": null}), "swarm");
    assert_eq!(world.call("FreeNetwork", &json!({"NetworkID": NET})), json!({}));
    let (status, answer) = world.raw("NetworkDriver.Teleport", "{}");
    assert_eq!(status, 404, "{answer}");
    assert!(answer["Err"].as_str().is_some_and(|error| error.contains("Teleport")), "{answer}");
    for bad in ["", " ", "{", "[]", "{\"NetworkID\": 7}"] {
        let (status, answer) = world.raw("NetworkDriver.CreateNetwork", bad);
        assert_eq!(status, 200, "{bad}: {answer}");
        assert!(answer["Err"].is_string(), "{bad}: {answer}");
    }
    // What was cut off and is repeated comes without contents; what ends something must not be refused for ever.
    for call in ["DeleteNetwork", "DeleteEndpoint", "Leave", "RevokeExternalConnectivity"] {
        assert_eq!(world.raw(&format!("NetworkDriver.{call}"), ""), (200, json!({})));
    }
    for call in ["CreateEndpoint", "Join", "ProgramExternalConnectivity"] {
        let (status, answer) = world.raw(&format!("NetworkDriver.{call}"), "");
        assert!(status == 200 && answer["Err"].as_str().is_some_and(|error| error.contains("repeat")), "{answer}");
    }
    let socket = world.socket.clone();
    world.finish();
    assert!(!socket.exists(), "the socket's file goes with the daemon");
}

#[test]
fn a_container_runs_and_stops() {
    let Some(mut world) = World::new() else { return };
    assert_eq!(world.call("CreateNetwork", &create_network(&json!({}))), json!({}));
    let bridge = world.lab.bridge(BRIDGE);
    assert_eq!(bridge.docker_network.as_deref(), Some(NET));
    assert_eq!(bridge.gateways[0].to_string(), "172.18.0.1");

    let created = world.call("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2"));
    assert_eq!(created, json!({"Interface": {"MacAddress": "02:42:ac:12:00:02"}}), "only what was empty is answered");
    let portmap =
        json!([binding(6, 80, "", 8080, 8080), binding(17, 53, "127.0.0.1", 0, 0), binding(6, 81, "", 9000, 9010)]);
    let joined = world.run(WEB, "web", "172.18.0.2", &portmap.clone());
    assert_eq!((&joined["Gateway"], &joined["DisableGatewayService"]), (&json!("172.18.0.1"), &json!(false)));
    assert_eq!(joined["InterfaceName"]["DstPrefix"], "eth");
    assert!(joined.get("StaticRoutes").is_none() && joined.get("GatewayIPv6").is_none(), "{joined}");
    world.run(DB, "db", "172.18.0.3", &json!([]));
    must(world.lab.container("web").run("ping -c 1 -W 2 172.18.0.1"));
    must(world.lab.container("web").run("ping -c 1 -W 2 172.18.0.3"));
    let ports: Vec<Port> = world.lab.ports(BRIDGE);
    assert_eq!(ports.len(), 2);
    assert!(ports.iter().all(|port| port.guard && port.lent), "{ports:?}");

    let info = world.call("EndpointOperInfo", &ids(WEB));
    let shown = info["Value"]["com.docker.network.portmap"].as_array().expect("a list");
    let at =
        |proto: u8, port: u16| shown.iter().find(|one| one["Proto"] == proto && one["Port"] == port).expect("is shown");
    assert_eq!(at(6, 80)["HostPort"], 8080);
    assert_eq!(at(6, 80)["HostIP"], "0.0.0.0");
    assert_eq!((&at(6, 81)["HostPort"], &at(6, 81)["IP"]), (&json!(9000), &json!("172.18.0.2")));
    assert_eq!(at(17, 53)["HostIP"], "127.0.0.1");
    assert!(at(17, 53)["HostPort"].as_u64().is_some_and(|port| port > 1023), "{shown:?}");
    assert_eq!(info["Value"]["com.docker.network.endpoint.exposedports"].as_array().map(Vec::len), Some(2));
    // A port that is taken names its owner.
    world.refused("ProgramExternalConnectivity", &labels(DB, &json!([binding(6, 80, "", 8080, 8080)])), WEB_PORT);

    world.stop(WEB);
    assert!(world.published().is_empty());
    assert_eq!(must(world.lab.container("web").ip("-o link show")).lines().count(), 1, "the interface is gone");
    world.stop(DB);
    assert_eq!(world.call("DeleteNetwork", &json!({"NetworkID": NET})), json!({}));
    assert!(world.lab.get::<Vec<vswitch::api::Bridge>>("/v1/bridges").is_empty());
    world.finish();
}

#[test]
fn calls_may_be_repeated_and_what_is_gone_is_gone() {
    let Some(mut world) = World::new() else { return };
    // Of what nobody knows everything that ends succeeds, and the rest says so.
    for call in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint", "DeleteNetwork"] {
        assert_eq!(world.call(call, &ids(WEB)), json!({}));
    }
    world.refused("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2"), "no network \"d2d1f7a3b1c9\"");
    for call in ["Join", "EndpointOperInfo", "ProgramExternalConnectivity"] {
        world.refused(call, &ids(WEB), "no network");
    }
    for _ in 0..2 {
        world.call("CreateNetwork", &create_network(&json!({"icc": "false"})));
    }
    world.refused("CreateNetwork", &create_network(&json!({"icc": "true"})), "another one");
    for call in ["Join", "EndpointOperInfo", "ProgramExternalConnectivity"] {
        world.refused(call, &ids(WEB), "no endpoint");
    }
    let endpoint = create_endpoint(WEB, "172.18.0.2");
    assert_eq!(world.call("CreateEndpoint", &endpoint), world.call("CreateEndpoint", &endpoint));
    world.refused("ProgramExternalConnectivity", &labels(WEB, &json!([binding(6, 80, "", 80, 80)])), "no port");
    world.lab.add_container("web");
    let join = world.join(WEB, "web", &json!([]));
    let joined = world.call("Join", &join);
    assert_eq!(world.call("Join", &join), joined);
    world.enter(&joined, "web", "172.18.0.2");
    assert_eq!(world.call("Join", &join), joined, "also when it was taken");
    let publish = labels(WEB, &json!([binding(6, 80, "", 0, 0)]));
    world.call("ProgramExternalConnectivity", &publish);
    let published = world.published();
    world.call("ProgramExternalConnectivity", &publish);
    assert_eq!(world.published(), published, "what was chosen stays");
    world.stop(WEB);
    world.stop(WEB);
    for _ in 0..2 {
        world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    }
    world.finish();
}

#[test]
fn a_kill_between_any_two_calls_leaves_nothing_behind() {
    let Some(mut world) = World::new() else { return };
    world.lab.add_container("web");
    let again = |world: &mut World| {
        world.lab.kill_daemon();
        world.lab.start_daemon();
    };
    world.call("CreateNetwork", &create_network(&json!({})));
    again(&mut world);
    let created = world.call("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2"));
    again(&mut world);
    assert_eq!(world.call("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2")), created);
    let portmap = json!([binding(6, 80, "", 0, 0)]);
    let join = world.join(WEB, "web", &portmap.clone());
    let joined = world.call("Join", &join);
    again(&mut world);
    assert_eq!(world.call("Join", &join), joined);
    world.enter(&joined, "web", "172.18.0.2");
    world.call("ProgramExternalConnectivity", &labels(WEB, &portmap));
    let published = world.published();
    let info = world.call("EndpointOperInfo", &ids(WEB));
    again(&mut world);
    assert_eq!((world.published(), world.call("EndpointOperInfo", &ids(WEB))), (published, info));
    must(world.lab.container("web").run("ping -c 1 -W 2 172.18.0.1"));
    for call in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"] {
        world.call(call, &ids(WEB));
        again(&mut world);
        world.call(call, &ids(WEB));
    }
    assert!(world.lab.ports(BRIDGE).is_empty());
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    again(&mut world);
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    assert!(world.lab.get::<Vec<vswitch::api::Bridge>>("/v1/bridges").is_empty());
    world.finish();
}

#[test]
fn what_docker_never_heard_of_gives_way() {
    let Some(mut world) = World::new() else { return };
    // Both were made, and the answers were lost with the daemon: Docker gives their addresses to others.
    world.call("CreateNetwork", &create_network(&json!({})));
    let mut other = create_network(&json!({}));
    other["NetworkID"] = json!("ffff000000000000");
    world.call("CreateNetwork", &other);
    let bridges: Vec<vswitch::api::Bridge> = world.lab.get("/v1/bridges");
    assert_eq!(bridges.iter().map(|bridge| bridge.name.as_str()).collect::<Vec<_>>(), ["vs-ffff00000000"]);
    world.call("CreateNetwork", &create_network(&json!({})));
    world.call("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2"));
    world.run(DB, "db", "172.18.0.2", &json!([]));
    // What somebody uses does not give way.
    world.refused("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2"), "taken");
    world.refused("CreateNetwork", &other, "overlaps");
    // The container ends with nobody there to say so.
    drop(world.lab.take_container("db"));
    must(wait_until("the port goes with its container", PATIENCE, || world.lab.ports(BRIDGE).is_empty().then_some(())));
    world.call("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2"));
    for endpoint in [WEB, DB] {
        world.stop(endpoint);
    }
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    world.finish();
}

#[test]
fn dockers_networks_are_dockers_and_shared_with_people() {
    let Some(mut world) = World::new() else { return };
    world.call("CreateNetwork", &create_network(&json!({"com.docker.network.bridge.name": "lan0"})));
    world.lab.add_container("pc");
    let pc = world.lab.netns("pc");
    let error = world.lab.ctl_refused(&["add-port", "lan0", &pc]);
    assert!(error.contains("given by Docker") && error.contains("--ip"), "{error}");
    world.lab.ctl(&["add-port", "lan0", &pc, "--ip", "172.18.200.1"]);
    world.refused("CreateEndpoint", &create_endpoint(WEB, "172.18.200.1"), "taken");
    let error = world.lab.ctl_refused(&["del-br", "lan0"]);
    assert!(error.contains("docker network rm d2d1f7a3b1c9"), "{error}");
    world.refused("DeleteNetwork", &json!({"NetworkID": NET}), "not Docker's");
    world.run(WEB, "web", "172.18.0.2", &json!([]));
    must(world.lab.container("web").run("ping -c 1 -W 2 172.18.200.1"));
    world.stop(WEB);
    world.lab.ctl(&["del-br", "lan0", "--force"]);
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    world.finish();
}

#[test]
fn internal_and_learning_networks_have_no_gateway() {
    let Some(mut world) = World::new() else { return };
    let mut internal = create_network(&json!({}));
    internal["Options"]["com.docker.network.internal"] = json!(true);
    world.call("CreateNetwork", &internal);
    let joined = world.run(WEB, "web", "172.18.0.2", &json!([]));
    assert_eq!((joined.get("Gateway"), &joined["DisableGatewayService"]), (None, &json!(true)));
    world.stop(WEB);
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    // With vxlan, on a bare switch.
    let mut l2 = create_network(
        &json!({"l2": "true", "vxlan-vni": "7", "vxlan-local": "127.0.0.1", "vxlan-remotes": "127.0.0.2"}),
    );
    l2["IPv4Data"][0]["AuxAddresses"] = json!({"DefaultGatewayIPv4": "172.18.0.9/16"});
    world.call("CreateNetwork", &l2);
    world.call("CreateNetwork", &l2);
    assert_eq!(world.lab.bridge(BRIDGE).tunnels, 1);
    let joined = world.run(DB, "db", "172.18.0.3", &json!([]));
    assert_eq!(joined["Gateway"], "172.18.0.9", "the router that was named");
    world.stop(DB);
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    // What cannot be attached leaves nothing behind.
    world.refused("CreateNetwork", &create_network(&json!({"uplink": "nosuchlink0"})), "nosuchlink0");
    assert!(world.lab.get::<Vec<vswitch::api::Bridge>>("/v1/bridges").is_empty());
    world.finish();
}

#[test]
fn a_hundred_containers_at_once_and_a_container_with_all_ports() {
    let Some(world) = World::new() else { return };
    world.call("CreateNetwork", &create_network(&json!({})));
    let id = |n: usize| format!("{n:012x}{}", "0".repeat(52));
    thread::scope(|scope| {
        for n in 0..100 {
            let (world, id) = (&world, id(n));
            scope.spawn(move || {
                let ip = format!("172.18.1.{}", n + 1);
                world.call("CreateEndpoint", &create_endpoint(&id, &ip));
                let mut join = labels(&id, &json!([]));
                join["SandboxKey"] = json!(format!("/var/run/docker/netns/none-{n}"));
                let joined = world.call("Join", &join);
                assert!(joined["InterfaceName"]["SrcName"].is_string());
                let port = 20000 + u16::try_from(n).expect("small");
                world.call("ProgramExternalConnectivity", &labels(&id, &json!([binding(6, 80, "", port, port)])));
                if n % 2 == 0 {
                    world.stop(&id);
                }
            });
        }
    });
    assert_eq!((world.lab.ports(BRIDGE).len(), world.published().len()), (50, 50));
    (0..100).for_each(|n| world.stop(&id(n)));
    assert!(world.lab.ports(BRIDGE).is_empty());

    world.call("CreateEndpoint", &create_endpoint(WEB, "172.18.0.2"));
    let mut join = labels(WEB, &json!([]));
    join["SandboxKey"] = json!("/var/run/docker/netns/none");
    world.call("Join", &join);
    let all: Vec<Value> = (1..=u16::MAX).map(|port| binding(17, port, "127.0.0.1", port, port)).collect();
    world.call("ProgramExternalConnectivity", &labels(WEB, &Value::Array(all)));
    assert_eq!(world.published(), ["127.0.0.1:1-65535/udp"]);
    let info = world.call("EndpointOperInfo", &ids(WEB));
    assert_eq!(info["Value"]["com.docker.network.portmap"].as_array().map(Vec::len), Some(65535));
    world.stop(WEB);
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    world.finish();
}

#[test]
fn the_switch_manages_addresses_too() {
    let Some(mut world) = World::new() else { return };
    let ipam = |world: &World, call: &str, request: Value| {
        let (status, answer) = world.raw(&format!("IpamDriver.{call}"), &request.to_string());
        assert_eq!(status, 200, "{call}: {answer}");
        answer
    };
    let none = world.raw("IpamDriver.GetCapabilities", "").1;
    assert_eq!(none, json!({"RequiresMACAddress": false, "RequiresRequestReplay": false}));
    let spaces = world.raw("IpamDriver.GetDefaultAddressSpaces", "").1;
    assert_eq!(spaces["LocalDefaultAddressSpace"], "vswitch");
    let ask = json!({"AddressSpace": "vswitch", "Pool": "", "SubPool": "", "Options": null, "V6": false});
    let pool = ipam(&world, "RequestPool", ask.clone());
    assert_eq!((&pool["Pool"], &pool["PoolID"]), (&json!("172.17.0.0/16"), &json!("vswitch/172.17.0.0/16")));
    let id = pool["PoolID"].clone();
    let address = |world: &World, ip: &str, options: Value| {
        ipam(world, "RequestAddress", json!({"PoolID": id, "Address": ip, "Options": options}))
    };
    let gateway = address(&world, "", json!({"RequestAddressType": "com.docker.network.gateway"}));
    assert_eq!(gateway["Address"], "172.17.0.1/16");
    let mut create = create_network(&json!({}));
    create["IPv4Data"] = json!([{"AddressSpace": "vswitch", "Gateway": "172.17.0.1/16", "Pool": "172.17.0.0/16"}]);
    world.call("CreateNetwork", &create);
    assert_eq!(address(&world, "", Value::Null)["Address"], "172.17.0.2/16");
    assert!(address(&world, "172.17.0.2", Value::Null)["Error"].as_str().is_some_and(|error| error.contains("in use")));
    world.run(WEB, "web", "172.17.0.2", &json!([]));
    // Nothing is forgotten, and nothing given twice, whatever ends in between.
    world.lab.kill_daemon();
    world.lab.start_daemon();
    assert_eq!(address(&world, "", Value::Null)["Address"], "172.17.0.3/16");
    assert!(ipam(&world, "RequestPool", json!({"Pool": "172.17.4.0/24"}))["Error"].is_string());
    world.stop(WEB);
    for ip in ["172.17.0.2", "172.17.0.3", "172.17.0.9", ""] {
        assert_eq!(ipam(&world, "ReleaseAddress", json!({"PoolID": id, "Address": ip})), json!({}));
    }
    world.call("DeleteNetwork", &json!({"NetworkID": NET}));
    for _ in 0..2 {
        assert_eq!(ipam(&world, "ReleasePool", json!({"PoolID": id})), json!({}));
    }
    assert_eq!(ipam(&world, "RequestPool", ask)["Pool"], "172.17.0.0/16");
    ipam(&world, "ReleasePool", json!({"PoolID": id}));
    world.finish();
}

/// A socket that the service manager holds: calls wait in it while there is no daemon, and its file is nobody's to remove.
#[test]
fn a_passed_socket_is_served_and_outlives_the_daemon() {
    let Some(world) = World::new() else { return };
    let directory = must(tempfile::tempdir());
    let socket = directory.path().join("docker.sock");
    let listener = must(std::os::unix::net::UnixListener::bind(&socket));
    let config = world.lab.config().clone();
    let mut command = Command::new("sh");
    // A shell puts the descriptor where the protocol wants it, and becomes the daemon.
    command
        .arg("-c")
        .arg(format!(
            "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_FDNAMES=docker LISTEN_PID=$$ exec {} --socket {} --state-dir {} --uplink none",
            config.binaries.join("vswitch").display(),
            directory.path().join("ctl.sock").display(),
            directory.path().join("state").display(),
        ))
        .stdin(std::os::fd::OwnedFd::from(must(listener.try_clone())))
        .stderr(must(std::fs::File::create(directory.path().join("log"))));
    let mut child = must(world.lab.host().enter(|| command.spawn()));
    // Nobody has accepted yet, perhaps.
    let answer = http::request(&socket, "POST", "/Plugin.Activate", Some(""));
    must(
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
            .map_err(Into::into),
    );
    let status = must(child.wait());
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(answer.is_ok_and(|answer| answer.body.contains("NetworkDriver")), "{log}");
    assert!(status.success(), "{status}: {log}");
    assert!(socket.exists(), "the file is the service manager's");
    drop(listener);
    world.finish();
}
