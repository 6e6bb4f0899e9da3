//! The mirror of the host's routes against the kernel's own answers (`ip route get`).

use std::net::IpAddr;
use std::time::Duration;

use vswitch::control::uplink::fib::Fib;
use vswitch::control::uplink::watch::HostWatch;
use vswitch::io::uplink::{Refusal, Resolution};
use vswitch_tests::lab::must;
use vswitch_tests::namespace::{Namespace, unique_prefix};
use vswitch_tests::process::{PATIENCE, wait_until};
use vswitch_tests::requirement;

/// A host with two interfaces, `up0` and `up1`, whose other ends are in another namespace.
struct World {
    host: Namespace,
    peer: Namespace,
}

impl World {
    fn new() -> Option<Self> {
        if !requirement::system() {
            return None;
        }
        let prefix = unique_prefix();
        let host = must(Namespace::create(&format!("{prefix}host")));
        let peer = must(Namespace::create(&format!("{prefix}peer")));
        for n in 0..2 {
            must(host.ip(&format!("link add up{n} type veth peer name p{n} netns {}", peer.name())));
            // Addresses without duplicate address detection, so that the test need not wait for it.
            must(host.ip(&format!("addr add 10.{n}.0.1/24 dev up{n}")));
            must(host.ip(&format!("addr add fd00:{n}::1/64 dev up{n} nodad")));
            must(peer.ip(&format!("addr add 10.{n}.0.2/24 dev p{n}")));
            must(peer.ip(&format!("addr add fd00:{n}::2/64 dev p{n} nodad")));
            must(host.ip(&format!("link set up{n} up")));
            must(peer.ip(&format!("link set p{n} up")));
        }
        Some(Self { host, peer })
    }

    fn watch(&self) -> HostWatch {
        self.host.enter(|| must(HostWatch::start(Default::default())))
    }

    /// What the kernel answers, in the form of [`ours`].
    fn kernel(&self, destination: &str) -> String {
        let output = self.host.command("ip").args(["-j", "route", "get", destination]).output().expect("ip runs");
        let Ok(rows) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return match text.as_str() {
                text if text.contains("Invalid argument") => "blackhole".to_owned(),
                text if text.contains("Permission denied") => "prohibit".to_owned(),
                text if text.contains("No route to host") => "unreachable".to_owned(),
                text if text.contains("Network is unreachable") => "no route".to_owned(),
                _ => text,
            };
        };
        let row = &rows[0];
        match row["type"].as_str() {
            Some("local") => return "local".to_owned(),
            Some("blackhole" | "prohibit" | "unreachable") if row["dev"] == "lo" => {
                return row["type"].as_str().unwrap_or_default().to_owned();
            }
            _ => {}
        }
        let via = row["gateway"].as_str().or(row["via"]["host"].as_str()).unwrap_or(destination);
        let source = row["prefsrc"].as_str().unwrap_or_default();
        format!("dev {} via {via} src {source}", row["dev"].as_str().unwrap_or_default())
    }

    fn ours(&self, watch: &HostWatch, destination: &str) -> String {
        let fib = watch.look(Fib::new);
        let to: IpAddr = destination.parse().expect("an address");
        let (oif, neighbour, source) = match fib.resolve(to, 0) {
            Resolution::Via(hop) => (hop.oif, hop.neighbour, hop.source),
            Resolution::Unresolved { oif, neighbour, source } => (oif, neighbour, source),
            Resolution::Refused(refusal) => {
                return match refusal {
                    Refusal::Blackhole => "blackhole",
                    Refusal::Prohibit => "prohibit",
                    Refusal::Unreachable => "unreachable",
                    Refusal::NoRoute => "no route",
                    Refusal::Local => "local",
                    Refusal::Group | Refusal::NotEthernet => "other",
                }
                .to_owned();
            }
        };
        let dev = watch.look(|mirror| mirror.link(oif).map(|link| link.name.clone())).unwrap_or_default();
        let source = source.map(|source| source.to_string()).unwrap_or_default();
        format!("dev {dev} via {neighbour} src {source}")
    }

    /// Asserts that both give the same answers, once the watch has heard of the last change.
    #[track_caller]
    fn assert_agrees(&self, watch: &HostWatch, destinations: &[&str], when: &str) {
        let mut differ = Vec::new();
        let agreed = wait_until("the same answers", PATIENCE, || {
            differ = destinations
                .iter()
                .map(|to| (*to, self.kernel(to), self.ours(watch, to)))
                .filter(|(_, kernel, ours)| kernel != ours)
                .collect();
            differ.is_empty().then_some(())
        });
        assert!(agreed.is_ok(), "{when}: (destination, kernel, ours): {differ:#?}");
    }
}

const DESTINATIONS: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.77",
    "10.1.0.2",
    "10.2.0.1",
    "10.2.1.1",
    "10.2.1.200",
    "10.3.0.1",
    "10.4.0.1",
    "10.5.0.1",
    "10.6.0.1",
    "10.7.0.1",
    "10.8.0.1",
    "8.8.8.8",
    "127.0.0.5",
    "fd00::1",
    "fd00::2",
    "fd00:1::77",
    "fd00:2::1",
    "fd00:2:1::1",
    "fd00:3::1",
    "fd00:4::1",
    "fd00:5::1",
    "fd00:6::1",
    "2001:db8::1",
    "::1",
];

#[test]
fn every_kind_of_route_gives_the_kernels_answer() {
    let Some(world) = World::new() else { return };
    let watch = world.watch();
    world.assert_agrees(&watch, DESTINATIONS, "at the start");
    let steps = [
        "route add default via 10.0.0.2",
        "route add default via 10.1.0.2 metric 50",
        "route add 10.2.0.0/16 via 10.0.0.2",
        "route add 10.2.1.0/24 via 10.1.0.2",
        "route add 10.2.1.128/25 dev up0",
        "route add blackhole 10.3.0.0/16",
        "route add unreachable 10.4.0.0/16",
        "route add prohibit 10.5.0.0/16",
        "route add throw 10.6.0.0/16",
        "route add 10.7.0.0/16 via 192.0.2.9 dev up1 onlink",
        "route add 10.8.0.0/16 via inet6 fe80::99 dev up1",
        "route add 10.8.0.0/16 via 10.0.0.9 metric 7 src 10.1.0.1",
        "-6 route add default via fd00::2",
        "-6 route add fd00:2::/32 via fd00::2 metric 5",
        "-6 route add fd00:2:1::/48 via fe80::7 dev up1",
        "-6 route add blackhole fd00:3::/32",
        "-6 route add unreachable fd00:4::/32",
        "-6 route add prohibit fd00:5::/32",
        "-6 route add fd00:6::/32 dev up1",
        "route replace 10.2.0.0/16 via 10.1.0.2",
        "route prepend 10.2.0.0/16 via 10.0.0.7",
        "route append 10.2.0.0/16 via 10.0.0.8",
        "route del 10.2.0.0/16 via 10.0.0.7",
        "route del default",
        "-6 route replace fd00:2::/32 via fd00:1::2 metric 5",
        "addr add 10.0.0.9/24 dev up0",
        "addr add 192.0.2.1/24 dev up1",
        "route add 10.3.0.0/24 dev up1 src 192.0.2.1",
        "addr del 192.0.2.1/24 dev up1",
        "link set up0 down",
        "link set up0 up",
        "route add default via 10.0.0.2",
        "addr del 10.0.0.1/24 dev up0",
        "link set up1 name uplink1",
        "link del uplink1",
    ];
    for step in steps {
        must(world.host.ip(step));
        world.assert_agrees(&watch, DESTINATIONS, step);
    }
    assert!(watch.look(Fib::new).caveats().is_empty());
    must(world.host.ip("rule add fwmark 7 lookup 100"));
    must(wait_until("the rule", PATIENCE, || (!watch.look(Fib::new).caveats().is_empty()).then_some(())));
}

#[test]
fn multipath_routes_lead_where_the_kernel_may_send() {
    let Some(world) = World::new() else { return };
    let watch = world.watch();
    for line in [
        "route add default nexthop via 10.0.0.2 weight 3 nexthop via 10.1.0.2",
        "-6 route add default nexthop via fd00::2 nexthop via fd00:1::2 weight 2",
        "-6 route append default via fd00:1::3",
    ] {
        must(world.host.ip(line));
    }
    let ways = |to: &str| {
        let fib = watch.look(Fib::new);
        let to: IpAddr = to.parse().expect("an address");
        let mut ways: Vec<IpAddr> = (0..64u32).filter_map(|n| fib.way(to, n << 26).ok()?.hop.via).collect();
        ways.sort_unstable();
        ways.dedup();
        ways.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let becomes = |to: &str, expected: &[&str]| {
        let mut seen = Vec::new();
        let same = wait_until("the ways", PATIENCE, || {
            seen = ways(to);
            (seen == expected).then_some(())
        });
        assert!(same.is_ok(), "{to}: {seen:?} and not {expected:?}");
    };
    becomes("8.8.8.8", &["10.0.0.2", "10.1.0.2"]);
    becomes("2001:db8::1", &["fd00::2", "fd00:1::2", "fd00:1::3"]);
    must(world.host.ip("-6 route del default via fd00:1::3"));
    becomes("2001:db8::1", &["fd00::2", "fd00:1::2"]);
    must(world.host.ip("link set up1 down"));
    becomes("8.8.8.8", &["10.0.0.2"]);
    becomes("2001:db8::1", &["fd00::2"]);
    must(world.host.ip("link set up1 up"));
    // Next-hop objects are spelled out by the kernel.
    must(world.host.ip("nexthop add id 7 via 10.1.0.2 dev up1"));
    must(world.host.ip("route replace default nhid 7"));
    becomes("8.8.8.8", &["10.1.0.2"]);
}

#[test]
fn neighbours_are_found_out_and_followed() {
    let Some(world) = World::new() else { return };
    let watch = world.watch();
    let next_hops = watch.next_hops();
    must(world.host.ip("route add default via 10.0.0.2"));
    must(world.host.ip("-6 route add default via fd00::2"));
    for (to, router) in [("8.8.8.8", "10.0.0.2"), ("2001:db8::1", "fd00::2")] {
        let to: IpAddr = to.parse().expect("an address");
        let router: IpAddr = router.parse().expect("an address");
        must(wait_until("the route", PATIENCE, || {
            matches!(next_hops.resolve(to, 0), Resolution::Unresolved { neighbour, .. } if neighbour == router)
                .then_some(())
        }));
        let Resolution::Unresolved { oif, neighbour, .. } = next_hops.resolve(to, 0) else { panic!("{to}") };
        next_hops.solicit(oif, neighbour);
        let links = must(world.peer.ip("-j link show p0"));
        let links: serde_json::Value = serde_json::from_str(&links).expect("JSON");
        let mac = links[0]["address"].as_str().expect("an address").to_owned();
        let known = |expected: &str| {
            wait_until("the neighbour", PATIENCE, || match next_hops.resolve(to, 0) {
                Resolution::Via(hop) => (vswitch::wire::MacAddr(hop.mac).to_string() == expected).then_some(hop),
                _ => None,
            })
        };
        let hop = must(known(&mac));
        assert!(hop.confirmed && hop.mtu == 1500);
        let generation = next_hops.generation();
        must(world.host.ip(&format!("neigh replace {router} dev up0 lladdr 02:00:00:00:00:77 nud reachable")));
        must(known("02:00:00:00:00:77"));
        assert!(next_hops.generation() > generation);
        must(world.host.ip(&format!("neigh del {router} dev up0")));
        must(wait_until("the loss", PATIENCE, || {
            matches!(next_hops.resolve(to, 0), Resolution::Unresolved { .. }).then_some(())
        }));
    }
}

#[test]
fn an_overrun_is_recovered_from() {
    let Some(world) = World::new() else { return };
    let watch = world.watch();
    // Far more messages than the socket takes while the thread applies them.
    let batch = world.host.enter(|| {
        let mut text = String::new();
        for round in 0..3 {
            for n in 0..20_000u32 {
                let verb = if round == 1 { "del" } else { "add" };
                text.push_str(&format!(
                    "route {verb} 10.{}.{}.{}/32 dev up0\n",
                    100 + n / 65536,
                    n / 256 % 256,
                    n % 256
                ));
            }
        }
        text
    });
    let path = std::env::temp_dir().join(format!("vswitch-routes-{}", std::process::id()));
    must(std::fs::write(&path, batch));
    let done =
        vswitch_tests::process::run_ok(world.host.command("ip").args(["-batch"]).arg(&path), Duration::from_secs(60));
    let _ = std::fs::remove_file(&path);
    must(done);
    must(wait_until("all routes", PATIENCE, || {
        let count = watch
            .look(|mirror| mirror.routes().filter(|route| route.dst.prefix_len() == 32 && route.table == 254).count());
        (count == 20_000).then_some(())
    }));
    world.assert_agrees(&watch, &["10.100.0.5", "10.100.77.1", "8.8.8.8"], "after the storm");
}
