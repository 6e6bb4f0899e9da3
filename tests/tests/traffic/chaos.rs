//! `kill -9` at random moments of random commands.
//!
//! After each new start: what a command that returned 0 did is there; what a command that was
//! interrupted did is there wholly or not at all; no interface is left over anywhere; and the next
//! command works. The seed is printed and can be given (`VSWITCH_CHAOS_SEED`), as can the number of
//! rounds (`VSWITCH_CHAOS_ROUNDS`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use vswitch_tests::lab::{assert_reaches, ipv4, must};
use vswitch_tests::process::INTERRUPTED;
use vswitch_tests::{Lab, Namespace, announce};

use super::lab;

const ROLES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const BRIDGES: [&str; 3] = ["br0", "br1", "br2"];

/// xorshift64 (Marsaglia): all that a test needs, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }
}

/// Bridges, and for each container the bridge that it is attached to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct World {
    bridges: BTreeSet<String>,
    ports: BTreeMap<String, String>,
}

impl World {
    fn observed(lab: &Lab) -> Self {
        let (bridges, ports) = lab.configuration();
        Self {
            bridges: bridges.into_iter().map(|bridge| bridge.name).collect(),
            ports: ports.into_iter().map(|port| (port.name, port.bridge)).collect(),
        }
    }

    /// The command line of a random change, and the world after it; none where it would be refused.
    fn change(&self, random: &mut Random, lab: &Lab) -> Option<(Vec<String>, Self)> {
        let mut next = self.clone();
        let bridge = random.pick(&BRIDGES).to_owned();
        let role = random.pick(&ROLES).to_owned();
        let line: Vec<String> = match random.below(6) {
            0 => {
                next.bridges.insert(bridge.clone()).then_some(())?;
                vec!["add-br".into(), bridge]
            }
            1 => {
                next.bridges.remove(&bridge).then_some(())?;
                next.ports.retain(|_, attached| *attached != bridge);
                vec!["del-br".into(), bridge, "--force".into()]
            }
            2 | 3 => {
                (self.bridges.contains(&bridge) && !self.ports.contains_key(&role)).then_some(())?;
                next.ports.insert(role.clone(), bridge.clone());
                vec!["add-port".into(), bridge, lab.netns(&role), "--name".into(), role]
            }
            4 => {
                let attached = next.ports.remove(&role)?;
                vec!["del-port".into(), attached, role]
            }
            _ => {
                self.bridges.contains(&bridge).then_some(())?;
                let mtu = (1300 + random.below(8) * 10).to_string();
                vec!["set-br".into(), bridge, "--mtu".into(), mtu]
            }
        };
        Some((line, next))
    }
}

/// The interfaces of a namespace besides the loopback.
fn interfaces(namespace: &Namespace) -> BTreeSet<String> {
    let links: serde_json::Value = serde_json::from_str(&must(namespace.ip("-j link"))).expect("JSON");
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str().map(str::to_owned));
    names.filter(|name| name != "lo").collect()
}

#[test]
fn kill_9_at_random_moments_loses_nothing_and_leaves_nothing() {
    let Some(mut lab) = lab() else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let seed = number("VSWITCH_CHAOS_SEED").unwrap_or(clock) | 1;
    let rounds = number("VSWITCH_CHAOS_ROUNDS").unwrap_or(20);
    announce(&format!("chaos: VSWITCH_CHAOS_SEED={seed} VSWITCH_CHAOS_ROUNDS={rounds}"));
    // A start after a crash may say what it put in order.
    lab.allow_log("reconcil");
    let mut random = Random(seed);
    for role in ROLES {
        lab.add_container(role);
    }
    let mut world = World::default();
    let mut done = 0;
    for round in 0..rounds {
        let pid = rustix::process::Pid::from_raw(lab.daemon().pid().cast_signed()).expect("a process id");
        let delay = Duration::from_micros(1000 + random.below(120_000) as u64);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            // The process is our child and not yet reaped: the id cannot stand for another.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
        let mut interrupted = None;
        while interrupted.is_none() && !INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed) {
            let Some((line, next)) = world.change(&mut random, &lab) else { continue };
            let output = lab.try_ctl(&line.iter().map(String::as_str).collect::<Vec<_>>());
            match output.status.code() {
                Some(0) => {
                    world = next;
                    done += 1;
                }
                Some(3) => interrupted = Some((line, next)),
                _ => panic!("round {round}: {} was refused: {output:?}", line.join(" ")),
            }
        }
        killer.join().expect("no panic");
        lab.kill_daemon();
        lab.start_daemon();

        let observed = World::observed(&lab);
        let possible = interrupted.clone().map(|(_, next)| next);
        assert!(
            observed == world || Some(&observed) == possible.as_ref(),
            "seed {seed}, round {round}, interrupted {interrupted:?}:\nexpected {world:?}\n observed {observed:?}"
        );
        world = observed;
        for role in ROLES {
            let expected: BTreeSet<String> =
                world.ports.contains_key(role).then(|| "eth0".to_owned()).into_iter().collect();
            assert_eq!(
                interfaces(lab.container(role)),
                expected,
                "seed {seed}, round {round}, interrupted {interrupted:?}: interfaces of {role}"
            );
        }
        let ports: Vec<vswitch::api::Port> = lab.get("/v1/ports");
        let host_ends = ports.iter().filter_map(|port| Some(port.xdp.as_ref()?.ifname.clone()));
        let expected: BTreeSet<String> = world.bridges.iter().cloned().chain(host_ends).collect();
        assert_eq!(interfaces(lab.host()), expected, "seed {seed}, round {round}: interfaces of the host");
        for port in ports {
            assert_reaches(lab.host(), ipv4(&port));
        }
    }
    announce(&format!("chaos: {done} commands, {rounds} times kill -9"));
    lab.finish();
}
