//! `stats`: what passed, what was dropped and why, and whether every frame is accounted for.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use clap::Args;
use vswitch::api::{self, Balance, Counters, GatewayStats, PortStats, TunnelStats, UnderlayStats, WorkerStats};

use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, Table, count};

/// Show frames, bytes and drops by named reason, per port and per worker
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl stats
  vswitchctl stats br0
  vswitchctl stats br0 web
  vswitchctl stats --json | jq .balance.unexplained

The balance is of the whole switch since it started. A frame on its way at the moment of asking makes
`unexplained` differ from zero for that moment.")]
pub(crate) struct Stats {
    /// Only this bridge
    #[arg(value_name = "BR")]
    bridge: Option<String>,
    /// Only this port or tunnel; the bridge's own name for the host's
    port: Option<String>,
}

impl Stats {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let target =
            Target::v1().segment("stats").query("bridge", self.bridge.as_deref()).query("port", self.port.as_deref());
        let stats: api::Stats = client.get(&target).await?;
        Output::new(render(&stats), &stats)
    }
}

fn render(stats: &api::Stats) -> String {
    let mut sections = Vec::new();
    if !stats.ports.is_empty() {
        sections.push(ports(&stats.ports));
        sections.push(drops(&stats.ports));
    }
    if !stats.tunnels.is_empty() {
        sections.push(tunnels(&stats.tunnels));
        sections.push(underlays(&stats.underlays));
        sections.push(tunnel_drops(stats));
        sections.extend(stats.neighbours.iter().filter(|one| one.known > 0 || one.answered > 0).map(|one| {
            format!(
                "{}: {} known behind tunnels, {} answered for them\n",
                one.bridge,
                count(one.known, "neighbour", "neighbours"),
                one.answered
            )
        }));
    }
    sections.push(workers(&stats.workers));
    sections.push(gateway(&stats.gateway));
    sections.push(balance(&stats.balance, &stats.drops));
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

/// One row per port, and one per worker below a port that several workers touched.
fn ports(ports: &[PortStats]) -> String {
    let mut table = Table::new(&[
        "BRIDGE",
        "PORT",
        ">RX FRAMES",
        ">RX BYTES",
        ">TX FRAMES",
        ">TX BYTES",
        ">FLOODED",
        ">SEGMENTED",
        ">COALESCED",
        ">DROPPED",
    ]);
    for port in ports {
        table.row(row(port.bridge.clone(), port.port.clone(), &port.total));
        if port.workers.len() > 1 {
            for (worker, counters) in &port.workers {
                table.row(row(port.bridge.clone(), format!("· worker {worker}"), counters));
            }
        }
    }
    table.render("")
}

fn row(bridge: String, name: String, counters: &Counters) -> [String; 10] {
    [
        bridge,
        name,
        counters.rx_frames.to_string(),
        counters.rx_bytes.to_string(),
        counters.tx_frames.to_string(),
        counters.tx_bytes.to_string(),
        counters.flood_copies.to_string(),
        counters.segments.to_string(),
        counters.coalesced.to_string(),
        counters.drops.values().sum::<u64>().to_string(),
    ]
}

/// The named drops, only of ports that have any, and what the kernel dropped beside the switch.
fn drops(ports: &[PortStats]) -> String {
    let mut table = Table::new(&["DROPPED AT", "REASON", ">FRAMES"]);
    let mut any = false;
    for port in ports {
        let kernel = [
            ("kernel: the switch did not take them in time", port.kernel_tx_dropped),
            ("kernel: lost after the switch delivered them", port.kernel_rx_dropped),
        ];
        let named = port.total.drops.iter().map(|(reason, frames)| (reason.as_str(), *frames));
        let kernel = kernel.into_iter().map(|(reason, frames)| (reason, frames.unwrap_or(0)));
        for (reason, frames) in named.chain(kernel).filter(|(_, frames)| *frames > 0) {
            any = true;
            table.row([format!("{}/{}", port.bridge, port.port), reason.into(), frames.to_string()]);
        }
    }
    if any { table.render("") } else { String::new() }
}

/// One row per remote host of a tunnel: inner frames, super-frames counting once.
fn tunnels(tunnels: &[TunnelStats]) -> String {
    let mut table =
        Table::new(&["BRIDGE", "TUNNEL", "REMOTE", ">RX FRAMES", ">RX BYTES", ">TX FRAMES", ">TX BYTES", ">DROPPED"]);
    for tunnel in tunnels {
        let none = [("-".to_owned(), &tunnel.total)];
        let remotes: Vec<_> = tunnel.remotes.iter().map(|remote| (remote.remote.to_string(), &remote.total)).collect();
        for (remote, counters) in if remotes.is_empty() { &none[..] } else { &remotes[..] } {
            table.row([
                tunnel.bridge.clone(),
                tunnel.tunnel.clone(),
                remote.clone(),
                counters.rx_frames.to_string(),
                counters.rx_bytes.to_string(),
                counters.tx_frames.to_string(),
                counters.tx_bytes.to_string(),
                counters.drops.values().sum::<u64>().to_string(),
            ]);
        }
    }
    table.render("")
}

/// What arrived for no tunnel.
fn underlays(underlays: &[UnderlayStats]) -> String {
    let mut table = Table::new(&["UNDERLAY", ">REFUSED", ">BYTES"]);
    let refused = |underlay: &&UnderlayStats| underlay.total.rx_frames > 0;
    for underlay in underlays.iter().filter(refused) {
        table.row([name(underlay), underlay.total.rx_frames.to_string(), underlay.total.rx_bytes.to_string()]);
    }
    if underlays.iter().any(|underlay| refused(&underlay)) { table.render("") } else { String::new() }
}

fn tunnel_drops(stats: &api::Stats) -> String {
    let mut table = Table::new(&["DROPPED AT", "REASON", ">FRAMES"]);
    let remotes = stats.tunnels.iter().flat_map(|tunnel| {
        let place = |remote| format!("{}/{} ({remote})", tunnel.bridge, tunnel.tunnel);
        tunnel.remotes.iter().map(move |remote| (place(remote.remote), &remote.total.drops))
    });
    let underlays = stats.underlays.iter().map(|underlay| (name(underlay), &underlay.total.drops));
    let mut any = false;
    for (place, drops) in remotes.chain(underlays) {
        for (reason, frames) in drops {
            any = true;
            table.row([place.clone(), reason.clone(), frames.to_string()]);
        }
    }
    if any { table.render("") } else { String::new() }
}

/// `198.18.0.1:4789`.
fn name(underlay: &UnderlayStats) -> String {
    SocketAddr::new(underlay.local, underlay.port).to_string()
}

fn workers(workers: &[WorkerStats]) -> String {
    let mut table =
        Table::new(&["WORKER", ">PORTS", ">CACHE HITS", ">RESOLVED", ">BURSTS", ">SLEEPS", ">FRAMES IN USE"]);
    for worker in workers {
        table.row([
            worker.worker.to_string(),
            worker.ports.to_string(),
            worker.cache_hits.to_string(),
            worker.cache_misses.to_string(),
            worker.bursts.to_string(),
            worker.sleeps.to_string(),
            format!("{}/{}", worker.frames_outstanding, worker.frames_total),
        ]);
    }
    if workers.is_empty() { String::new() } else { table.render("") }
}

/// What the gateway has to do; nothing where it has never done anything.
fn gateway(gateway: &GatewayStats) -> String {
    if *gateway == GatewayStats::default() {
        return String::new();
    }
    let GatewayStats { connections, mappings, held, refused } = gateway;
    let mut text = format!("gateway: connections {connections}, external ports in use {mappings}, held {held}\n");
    if !refused.is_empty() {
        let named: Vec<String> = refused.iter().map(|(reason, times)| format!("{reason} {times}")).collect();
        text.push_str(&format!("connections refused since the start: {}\n", named.join(", ")));
    }
    text
}

fn balance(balance: &Balance, drops: &BTreeMap<String, u64>) -> String {
    let Balance { received, copies, segments, coalesced, sent, dropped, unexplained } = balance;
    let mut text = format!(
        "balance: received {received} + copies {copies} + segments {segments} = sent {sent} + coalesced {coalesced} + \
         dropped {dropped}; unexplained {unexplained}\n"
    );
    let named: Vec<String> =
        drops.iter().filter(|(_, frames)| **frames > 0).map(|(reason, frames)| format!("{reason} {frames}")).collect();
    if !named.is_empty() {
        text.push_str(&format!("dropped since the start: {}\n", named.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(rx_frames: u64, drops: &[(&str, u64)]) -> Counters {
        Counters {
            rx_frames,
            rx_bytes: rx_frames * 100,
            tx_frames: 7,
            tx_bytes: 700,
            drops: drops.iter().map(|(reason, frames)| ((*reason).to_owned(), *frames)).collect(),
            ..Counters::default()
        }
    }

    #[test]
    fn ports_drops_workers_and_the_balance() {
        let web = PortStats {
            port: "web".into(),
            bridge: "br0".into(),
            total: counters(1000, &[("storm", 4), ("too-big", 0)]),
            workers: [(0, counters(600, &[("storm", 4)])), (1, counters(400, &[]))].into(),
            kernel_tx_dropped: Some(2),
            kernel_rx_dropped: None,
        };
        let host = PortStats {
            port: "br0".into(),
            bridge: "br0".into(),
            total: counters(5, &[]),
            workers: [(0, counters(5, &[]))].into(),
            kernel_tx_dropped: Some(0),
            kernel_rx_dropped: Some(0),
        };
        let stats = api::Stats {
            ports: vec![host, web],
            workers: vec![WorkerStats {
                worker: 0,
                cache_hits: 1000,
                cache_misses: 5,
                bursts: 40,
                sleeps: 3,
                frames_outstanding: 0,
                frames_total: 256,
                ports: 2,
            }],
            balance: Balance { received: 1005, copies: 3, sent: 1004, dropped: 4, ..Balance::default() },
            drops: [("storm".to_owned(), 4), ("runt".to_owned(), 0)].into(),
            ..api::Stats::default()
        };
        assert_eq!(
            render(&stats),
            "\
BRIDGE  PORT        RX FRAMES  RX BYTES  TX FRAMES  TX BYTES  FLOODED  SEGMENTED  COALESCED  DROPPED
br0     br0                 5       500          7       700        0          0          0        0
br0     web              1000    100000          7       700        0          0          0        4
br0     · worker 0        600     60000          7       700        0          0          0        4
br0     · worker 1        400     40000          7       700        0          0          0        0

DROPPED AT  REASON                                        FRAMES
br0/web     storm                                              4
br0/web     kernel: the switch did not take them in time       2

WORKER  PORTS  CACHE HITS  RESOLVED  BURSTS  SLEEPS  FRAMES IN USE
0           2        1000         5      40       3          0/256

balance: received 1005 + copies 3 + segments 0 = sent 1004 + coalesced 0 + dropped 4; unexplained 0
dropped since the start: storm 4
"
        );
    }

    #[test]
    fn tunnels_and_what_arrived_for_none() {
        let remote = |text: &str, drops| api::RemoteStats { remote: text.parse().unwrap(), total: counters(10, drops) };
        let stats = api::Stats {
            tunnels: vec![TunnelStats {
                tunnel: "vxlan42".into(),
                bridge: "br0".into(),
                total: counters(20, &[]),
                remotes: vec![remote("198.18.0.2", &[]), remote("198.18.0.3", &[("too-big", 2)])],
            }],
            underlays: vec![UnderlayStats {
                local: "198.18.0.1".parse().unwrap(),
                port: 4789,
                total: counters(3, &[("unknown-vni", 3)]),
            }],
            neighbours: vec![api::NeighbourStats { bridge: "br0".into(), known: 2, answered: 5 }],
            ..api::Stats::default()
        };
        assert_eq!(
            render(&stats),
            "\
BRIDGE  TUNNEL   REMOTE      RX FRAMES  RX BYTES  TX FRAMES  TX BYTES  DROPPED
br0     vxlan42  198.18.0.2         10      1000          7       700        0
br0     vxlan42  198.18.0.3         10      1000          7       700        2

UNDERLAY         REFUSED  BYTES
198.18.0.1:4789        3    300

DROPPED AT                REASON       FRAMES
br0/vxlan42 (198.18.0.3)  too-big           2
198.18.0.1:4789           unknown-vni       3

br0: 2 neighbours known behind tunnels, 5 answered for them

balance: received 0 + copies 0 + segments 0 = sent 0 + coalesced 0 + dropped 0; unexplained 0
"
        );
    }

    #[test]
    fn the_gateway_says_what_it_has_to_do_and_what_it_refused() {
        let refused = [("nat-ports-exhausted".to_owned(), 7), ("connection-limit".to_owned(), 2)].into();
        assert_eq!(
            gateway(&GatewayStats { connections: 12, mappings: 9, held: 3, refused }),
            "\
gateway: connections 12, external ports in use 9, held 3
connections refused since the start: connection-limit 2, nat-ports-exhausted 7
"
        );
    }

    #[test]
    fn an_idle_switch_has_a_balance_and_nothing_else() {
        assert_eq!(
            render(&api::Stats::default()),
            "balance: received 0 + copies 0 + segments 0 = sent 0 + coalesced 0 + dropped 0; unexplained 0\n"
        );
    }
}
