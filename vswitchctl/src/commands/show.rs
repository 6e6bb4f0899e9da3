//! `show`: bridges, ports, addresses and published ports as a tree.

use clap::Args;
use serde::Serialize;
use vswitch::api::{Bridge, Port, PortState, PortType, Uplink, Uplinks, Vxlan};

use super::{bridge, on_off, port, publish, uplink, vxlan};
use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, Table, count, join, visible};
use crate::units;

/// Show bridges, ports, addresses and published ports as a tree
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl show
  vswitchctl show br0
  vswitchctl show --json | jq '.[] | .bridge.name, .ports[].name'")]
pub(crate) struct Show {
    /// Only this bridge
    #[arg(value_name = "BR")]
    bridge: Option<String>,
}

/// A bridge with its ports; the element of `show --json`.
#[derive(Debug, Serialize)]
struct Tree {
    bridge: Bridge,
    ports: Vec<Port>,
    tunnels: Vec<Vxlan>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uplinks: Vec<Uplink>,
}

impl Show {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let bridges = Target::v1().segment("bridges");
        let mut section = String::new();
        let uplinks = uplink::get(client).await?;
        let trees = match self.bridge {
            Some(name) => {
                let target = bridges.segment(&name);
                let bridges = vec![client.get(&target).await?];
                let ports = client.get(&target.clone().segment("ports")).await?;
                group(bridges, ports, client.get(&target.segment("vxlans")).await?, uplinks)
            }
            None => {
                let bridges: Vec<Bridge> = client.get(&bridges).await?;
                let ports = client.get(&Target::v1().segment("ports")).await?;
                section = uplink::section(&uplinks);
                group(bridges, ports, client.get(&Target::v1().segment("vxlans")).await?, uplinks)
            }
        };
        let mut parts: Vec<String> = trees.iter().map(render).collect();
        parts.extend((!section.is_empty()).then_some(section));
        Output::new(parts.join("\n"), &trees)
    }
}

/// Gives each bridge its ports, tunnels and uplinks. What belongs to a bridge that was made between the questions has no
/// place and is left out, as though all had been asked before.
fn group(bridges: Vec<Bridge>, ports: Vec<Port>, tunnels: Vec<Vxlan>, uplinks: Uplinks) -> Vec<Tree> {
    let tree = |bridge| Tree { bridge, ports: Vec::new(), tunnels: Vec::new(), uplinks: Vec::new() };
    let mut trees: Vec<Tree> = bridges.into_iter().map(tree).collect();
    let mut place = |bridge: &str, put: &mut dyn FnMut(&mut Tree)| {
        trees.iter_mut().filter(|tree| tree.bridge.name == bridge).for_each(put);
    };
    for tunnel in tunnels {
        place(&tunnel.bridge.clone(), &mut |tree| tree.tunnels.push(tunnel.clone()));
    }
    for uplink in uplinks.l2 {
        place(&uplink.bridge.clone(), &mut |tree| tree.uplinks.push(uplink.clone()));
    }
    for port in ports {
        place(&port.bridge.clone(), &mut |tree| tree.ports.push(port.clone()));
    }
    trees
}

fn render(tree: &Tree) -> String {
    let Tree { bridge, ports, tunnels, uplinks } = tree;
    let mut text = format!("{}\n", bridge.name);
    for (key, value) in facts(bridge) {
        text.push_str(&format!("├─ {key:<8}  {}\n", visible(&value)));
    }
    for uplink in uplinks {
        text.push_str(&format!("├─ {:<8}  {}\n", "uplink", visible(&uplink::line(uplink))));
    }
    if !tunnels.is_empty() {
        text.push_str(&format!("├─ {:<8}  {}\n", "tunnels", count(tunnels.len(), "tunnel", "tunnels")));
        let mut table = Table::new(&["", ""]);
        for tunnel in tunnels {
            table.row([tunnel.name.clone(), vxlan::line(tunnel)]);
        }
        for (index, line) in table.render("").lines().skip(1).enumerate() {
            let branch = if index + 1 == tunnels.len() { "└─" } else { "├─" };
            text.push_str(&format!("│  {branch} {line}\n"));
        }
    }
    text.push_str(&format!("└─ {:<8}  {}\n", "ports", count(ports.len(), "port", "ports")));
    if ports.is_empty() {
        return text;
    }
    let mut table = Table::new(&["", "", "", "", ""]);
    for port in ports {
        table.row([
            port.name.clone(),
            format!("{} in {}", port.ifname, port::netns_of(port)),
            join(&port.ips, " "),
            port.mac.clone(),
            details(bridge, port),
        ]);
    }
    let table = table.render("");
    // The first line is the empty headings'.
    for (index, (line, port)) in table.lines().skip(1).zip(ports).enumerate() {
        let (branch, trunk) = if index + 1 == ports.len() { ("└─", " ") } else { ("├─", "│") };
        text.push_str(&format!("   {branch} {line}\n"));
        for (index, published) in port.publications.iter().enumerate() {
            let branch = if index + 1 == port.publications.len() { "└─" } else { "├─" };
            text.push_str(&format!("   {trunk}  {branch} {}\n", publish::line(published)));
        }
    }
    text
}

/// What there is to say about a bridge, one line each.
fn facts(bridge: &Bridge) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(network) = &bridge.network {
        facts.push(("docker", format!("network {network}")));
    }
    if bridge.l2 {
        facts.push(("network", "none, a bare learning switch".to_owned()));
    } else {
        let mac = bridge.mac.as_deref().unwrap_or("-");
        facts.push(("network", join(&bridge.subnets, " ")));
        facts.push(("gateway", format!("{} on the host's {}  {mac}", join(&bridge.gateways, " "), bridge.name)));
    }
    if !bridge.ip_ranges.is_empty() {
        facts.push(("range", join(&bridge.ip_ranges, " ")));
    }
    if !bridge.reserve.is_empty() {
        let reserved: Vec<String> = bridge
            .reserve
            .iter()
            .map(|r| r.name.as_ref().map_or_else(|| r.ip.to_string(), |name| format!("{} ({name})", r.ip)))
            .collect();
        facts.push(("reserved", reserved.join(" ")));
    }
    let mut options = vec![
        format!("mtu {}", bridge.mtu),
        format!("icc {}", on_off(bridge.icc)),
        format!("ageing {}", units::show_seconds(bridge.ageing_s.into())),
    ];
    options.extend(bridge::options(bridge));
    facts.push(("options", options.join(", ")));
    let storm = match bridge.storm_limit {
        0 => "flooding unlimited".into(),
        limit => format!("{limit} flooded frames/s per port"),
    };
    facts.push((
        "macs",
        format!("{} of {} known (at most {} per port), {storm}", bridge.macs, bridge.mac_limit, bridge.port_mac_limit),
    ));
    if !bridge.labels.is_empty() {
        let labels: Vec<String> = bridge.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        facts.push(("labels", labels.join(" ")));
    }
    facts.extend(bridge.warnings.iter().map(|warning| ("WARNING", warning.clone())));
    facts
}

/// The kind of a port's interface, and why it is not served in a better way.
fn kind(port: &Port) -> String {
    let mut text = port::kind(port);
    if let Some(xdp) = &port.xdp {
        text.push_str(&format!(" on {}", xdp.ifname));
        if !xdp.refused.is_empty() {
            text.push_str(&format!(" (refused: {})", xdp.refused.join("; ")));
        }
    }
    text
}

/// What is particular about a port: only what differs from the ordinary is said.
fn details(bridge: &Bridge, port: &Port) -> String {
    let mut details = Vec::new();
    if port.state != PortState::Up {
        details.push(port::state(port.state).to_uppercase());
    }
    if port.port_type != PortType::Tap {
        details.push(kind(port));
    }
    if port.mtu != bridge.mtu {
        details.push(format!("mtu {}", port.mtu));
    }
    match (port.vlan, port::vlan(port)) {
        (Some(vlan), _) => details.push(format!("vlan {vlan}")),
        (None, trunk) if !trunk.is_empty() => details.push(trunk),
        _ => {}
    }
    if !port.guard && !bridge.l2 {
        details.push("no guard".into());
    }
    if !port.exposed.is_empty() {
        details.push(format!("exposes {}", join(&port.exposed, " ")));
    }
    if !port.default_route && !bridge.l2 && !bridge.internal {
        details.push("no default route".into());
    }
    if !port.aliases.is_empty() {
        details.push(format!("alias {}", port.aliases.join(" ")));
    }
    if let Some(rate) = port.ingress_rate_bps {
        details.push(format!("ingress {}", units::show_rate(rate)));
    }
    if let Some(rate) = port.egress_rate_bps {
        details.push(format!("egress {}", units::show_rate(rate)));
    }
    if let Some(worker) = port.worker {
        details.push(format!("worker {worker}"));
    }
    let offloads = if port.offloads.is_empty() { "no offloads".into() } else { port.offloads.join(" ") };
    details.push(offloads);
    details.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_bridge() {
        let tree = Tree {
            bridge: bridge::tests::example(),
            ports: vec![
                Port {
                    publications: vec![
                        publish::tests::example("web", "0.0.0.0", 8080),
                        publish::tests::example("web", "::", 8080),
                    ],
                    ..port::tests::example("web", 2)
                },
                port::tests::example("database", 3),
            ],
            tunnels: vec![],
            uplinks: vec![],
        };
        assert_eq!(
            render(&tree),
            "\
br0
├─ network   172.17.0.0/16 fd00:17::/64
├─ gateway   172.17.0.1 fd00:17::1 on the host's br0  02:42:ac:11:00:01
├─ options   mtu 1500, icc on, ageing 5m
├─ macs      3 of 131072 known (at most 16384 per port), 50000 flooded frames/s per port
└─ ports     2 ports
   ├─ web       eth0 in web       172.17.0.2/16 fd00:17::2/64  02:42:ac:11:00:02  worker 0, csum tso4 tso6
   │  ├─ 80/tcp -> 0.0.0.0:8080
   │  └─ 80/tcp -> [::]:8080
   └─ database  eth0 in database  172.17.0.3/16 fd00:17::3/64  02:42:ac:11:00:03  worker 0, csum tso4 tso6
"
        );
    }

    #[test]
    fn what_is_particular_is_said() {
        let mut bridge = bridge::tests::example();
        bridge.ip_ranges = vec!["172.17.4.0/24".parse().unwrap()];
        bridge.reserve = vec![
            vswitch::api::Reservation { name: Some("printer".into()), ip: "172.17.4.7".parse().unwrap() },
            vswitch::api::Reservation { name: None, ip: "172.17.4.8".parse().unwrap() },
        ];
        bridge.labels = [("owner".to_owned(), "ops".to_owned())].into();
        bridge.warnings = vec!["loop: 02:00:00:00:00:01 moves between web and db".into()];
        bridge.storm_limit = 0;
        (bridge.internal, bridge.masquerade, bridge.mss_clamp) = (true, false, true);
        bridge.host_ips = vec!["192.0.2.1".parse().unwrap()];
        let mut port = port::tests::example("web", 2);
        port.state = PortState::Failed;
        port.mtu = 9000;
        port.trunk = vec![10, 20];
        port.guard = false;
        port.exposed = vec!["80".parse().unwrap(), "53/udp".parse().unwrap()];
        port.default_route = false;
        port.aliases = vec!["www".into()];
        port.ingress_rate_bps = Some(100_000_000);
        port.egress_rate_bps = Some(1_500_000_000);
        port.worker = None;
        port.offloads.clear();
        assert_eq!(
            render(&Tree {
                bridge,
                ports: vec![port],
                tunnels: vec![vxlan::tests::example()],
                uplinks: vec![uplink::tests::example()],
            }),
            "\
br0
├─ network   172.17.0.0/16 fd00:17::/64
├─ gateway   172.17.0.1 fd00:17::1 on the host's br0  02:42:ac:11:00:01
├─ range     172.17.4.0/24
├─ reserved  172.17.4.7 (printer) 172.17.4.8
├─ options   mtu 1500, icc on, ageing 5m, internal, masquerade off, mss-clamp on, host-ip 192.0.2.1
├─ macs      3 of 131072 known (at most 16384 per port), flooding unlimited
├─ labels    owner=ops
├─ WARNING   loop: 02:00:00:00:00:01 moves between web and db
├─ uplink    eth1, tc (tcx), mtu 1500, worker 0, csum tso4
├─ tunnels   1 tunnel
│  └─ vxlan42  vni 42 198.18.0.1 to 198.18.0.2 198.18.0.3 port 4789 mtu 1450, worker 0
└─ ports     1 port
   └─ web  eth0 in web  172.17.0.2/16 fd00:17::2/64  02:42:ac:11:00:02  FAILED, mtu 9000, trunk 10,20, no guard, \
             exposes 80/tcp 53/udp, alias www, ingress 100mbit, egress 1.5gbit, no offloads
"
        );
    }

    #[test]
    fn how_an_xdp_port_is_served_and_why_not_better() {
        let mut port = port::tests::xdp_example("web", 2);
        let bridge = bridge::tests::example();
        assert_eq!(
            details(&bridge, &port),
            "xdp native, copy on vsxk3f97qpl2mzd (refused: zero-copy: the driver has none (Operation not \
             supported)), worker 0, csum"
        );
        (port.state, port.worker) = (PortState::Failed, None);
        port.xdp.iter_mut().for_each(|xdp| (xdp.mode, xdp.refused) = (None, vec![]));
        assert_eq!(details(&bridge, &port), "FAILED, xdp on vsxk3f97qpl2mzd, csum");
    }

    #[test]
    fn a_bare_switch_without_ports() {
        let mut bridge = bridge::tests::example();
        bridge.l2 = true;
        assert!(
            render(&Tree { bridge: bridge.clone(), ports: vec![], tunnels: vec![], uplinks: vec![] })
                .contains("├─ network   none, a bare")
        );
        let trees = group(
            vec![bridge],
            vec![port::tests::example("web", 2)],
            vec![vxlan::tests::example()],
            Uplinks { l2: vec![uplink::tests::example()], ..Uplinks::default() },
        );
        let tree = &trees[0];
        assert_eq!((tree.ports.len(), tree.tunnels.len(), tree.uplinks.len()), (1, 1, 1));
    }
}
