//! `add-uplink`, `del-uplink`, `uplinks`: the host's own interfaces.

use clap::{Args, ValueEnum};
use vswitch::api::{SharedUplink, Uplink, UplinkCarry, UplinkSpec, UplinkState, Uplinks};

use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, Table, join, visible};

fn target(bridge: &str) -> Target {
    Target::v1().segment("bridges").segment(bridge).segment("uplinks")
}

/// Put a physical interface on a bridge: the bridge's ports are on its network
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl add-uplink lan eth1                 containers of `lan` are on the network of eth1
  vswitchctl add-uplink lan eth1 --vlan 10       the wire's untagged frames are VLAN 10 of the bridge
  vswitchctl add-uplink lan eth1 --xdp native    by AF_XDP: for small packets

The bridge has the whole interface: the host itself reaches that network no more by it. Without --vlan
the interface is a trunk and carries every VLAN, tagged. `del-uplink` leaves the interface as it was.")]
pub(crate) struct AddUplink {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The interface
    #[arg(value_name = "IFACE")]
    interface: String,
    /// Take the packets by AF_XDP, in the driver (native) or behind it (generic) [default: at the tc hook]
    #[arg(long, value_name = "native|generic", hide_possible_values = true)]
    xdp: Option<Xdp>,
    /// Access port: the wire's untagged frames belong to this VLAN
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Also take an interface that has IP addresses, which the host cannot use meanwhile
    #[arg(long)]
    force: bool,
}

/// Where an XDP program runs.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Xdp {
    Native,
    Generic,
}

impl AddUplink {
    fn spec(self) -> (String, UplinkSpec) {
        let carry = match self.xdp {
            None => UplinkCarry::Tc,
            Some(Xdp::Native) => UplinkCarry::XdpNative,
            Some(Xdp::Generic) => UplinkCarry::XdpGeneric,
        };
        (self.bridge, UplinkSpec { interface: self.interface, carry, vlan: self.vlan, force: self.force })
    }

    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let (bridge, spec) = self.spec();
        let uplink: Uplink = client.post(&target(&bridge), &spec).await?;
        Output::new(
            format!("{} {} {}", uplink.name, way(uplink.carry, uplink.hook.as_deref()), text(uplink.state)),
            &uplink,
        )
    }
}

/// Give a physical interface back to the host, as it was
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl del-uplink lan eth1
  vswitchctl del-uplink lan eth1 --json")]
pub(crate) struct DelUplink {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The interface, by the name that it had when it was added
    #[arg(value_name = "IFACE")]
    interface: String,
}

impl DelUplink {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        client.delete::<()>(&target(&self.bridge).segment(&self.interface)).await?;
        Ok(Output::silent())
    }
}

/// List the uplinks: interfaces on bridges, and those that are shared with the host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl uplinks
  vswitchctl uplinks --json | jq '.shared[0].interface, .counters'")]
pub(crate) struct List {}

impl List {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let uplinks = get(client).await?;
        Output::new(render(&uplinks), &uplinks)
    }
}

/// All uplinks.
pub(super) async fn get(client: &Client) -> Result<Uplinks, Failure> {
    client.get(&Target::v1().segment("uplinks")).await
}

fn render(uplinks: &Uplinks) -> String {
    let mut text = String::new();
    if !uplinks.l2.is_empty() || !uplinks.shared.is_empty() {
        let mut table =
            Table::new(&["UPLINK", "BRIDGE", "INTERFACE", "STATE", "CARRY", "VLAN", "ADDRESSES", "DETAILS"]);
        for uplink in &uplinks.l2 {
            table.row([
                uplink.name.clone(),
                uplink.bridge.clone(),
                uplink.interface.clone().unwrap_or_default(),
                self::text(uplink.state).to_owned(),
                way(uplink.carry, uplink.hook.as_deref()),
                uplink.vlan.map(|vlan| vlan.to_string()).unwrap_or_default(),
                String::new(),
                uplink.details.join("; "),
            ]);
        }
        for uplink in &uplinks.shared {
            table.row([
                uplink.asked.clone(),
                "shared".to_owned(),
                uplink.interface.clone().unwrap_or_default(),
                self::text(uplink.state).to_owned(),
                way(uplink.carry, uplink.hook.as_deref()),
                String::new(),
                join(&uplink.addresses, ","),
                uplink.details.join("; "),
            ]);
        }
        text = table.render("");
    }
    text.push_str(&counters(uplinks, ""));
    text
}

/// The section of `show` about the interfaces that are shared; empty where there is nothing to say.
pub(super) fn section(uplinks: &Uplinks) -> String {
    // A host without a default route, where nothing needs one, is an ordinary laboratory.
    let worth_saying = |uplink: &&SharedUplink| {
        uplink.state != UplinkState::Waiting || uplink.asked != "auto" || !uplink.needed_by.is_empty()
    };
    let shared: Vec<_> = uplinks.shared.iter().filter(worth_saying).collect();
    if shared.is_empty() {
        return String::new();
    }
    let mut text = "uplinks:\n".to_owned();
    for uplink in shared {
        let interface = match &uplink.interface {
            Some(interface) if *interface == uplink.asked => interface.clone(),
            Some(interface) => format!("{interface} ({})", uplink.asked),
            None => uplink.asked.clone(),
        };
        let mut line =
            format!("  {interface}  {}, {}", self::text(uplink.state), way(uplink.carry, uplink.hook.as_deref()));
        if let Some(tap) = &uplink.tap {
            line.push_str(&format!(" through {tap}"));
        }
        if !uplink.addresses.is_empty() {
            line.push_str(&format!("  {}", join(&uplink.addresses, " ")));
        }
        if !uplink.needed_by.is_empty() {
            line.push_str(&format!("  for {}", uplink.needed_by.join(", ")));
        }
        text.push_str(&visible(&line));
        text.push('\n');
        for detail in &uplink.details {
            text.push_str(&format!("    {}\n", visible(detail)));
        }
    }
    text.push_str(&counters(uplinks, "  "));
    text
}

fn counters(uplinks: &Uplinks, indent: &str) -> String {
    if uplinks.counters.is_empty() {
        return String::new();
    }
    let all: Vec<_> = uplinks.counters.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
    format!("{indent}packets: {}\n", all.join(", "))
}

/// What `show` says of an L2 uplink.
pub(super) fn line(uplink: &Uplink) -> String {
    let mut parts = vec![uplink.name.clone()];
    if uplink.state != UplinkState::Up {
        parts.push(text(uplink.state).to_uppercase());
    }
    parts.push(way(uplink.carry, uplink.hook.as_deref()));
    parts.extend(uplink.vlan.map(|vlan| format!("vlan {vlan}")));
    parts.extend(uplink.mtu.map(|mtu| format!("mtu {mtu}")));
    parts.extend(uplink.worker.map(|worker| format!("worker {worker}")));
    if !uplink.offloads.is_empty() {
        parts.push(uplink.offloads.join(" "));
    }
    parts.extend(uplink.details.iter().cloned());
    parts.join(", ")
}

fn way(carry: UplinkCarry, hook: Option<&str>) -> String {
    let carry = match carry {
        UplinkCarry::Tc => "tc",
        UplinkCarry::XdpNative => "xdp native",
        UplinkCarry::XdpGeneric => "xdp generic",
    };
    hook.map_or_else(|| carry.to_owned(), |hook| format!("{carry} ({hook})"))
}

fn text(state: UplinkState) -> &'static str {
    match state {
        UplinkState::Up => "up",
        UplinkState::Down => "down",
        UplinkState::Waiting => "waiting",
        UplinkState::Failed => "failed",
        UplinkState::Idle => "idle",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Add {
        #[command(flatten)]
        add: AddUplink,
    }

    fn parse(line: &str) -> Result<UplinkSpec, clap::Error> {
        Add::try_parse_from(std::iter::once("add-uplink").chain(line.split_whitespace()))
            .map(|parsed| parsed.add.spec().1)
    }

    pub(in crate::commands) fn example() -> Uplink {
        Uplink {
            name: "eth1".into(),
            bridge: "br0".into(),
            interface: Some("eth1".into()),
            state: UplinkState::Up,
            carry: UplinkCarry::Tc,
            hook: Some("tcx".into()),
            details: vec![],
            vlan: None,
            mac: Some("02:00:00:00:00:01".into()),
            mtu: Some(1500),
            offloads: vec!["csum".into(), "tso4".into()],
            worker: Some(0),
        }
    }

    fn shared() -> SharedUplink {
        SharedUplink {
            asked: "auto".into(),
            interface: Some("eth0".into()),
            state: UplinkState::Idle,
            carry: UplinkCarry::Tc,
            hook: None,
            tap: None,
            needed_by: vec![],
            addresses: vec!["192.0.2.1".parse().unwrap()],
            details: vec!["nothing needs it, so the interface is left alone".into()],
        }
    }

    #[test]
    fn every_option_reaches_the_request() {
        let spec = parse("br0 eth1 --xdp generic --vlan 10 --force").unwrap();
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            serde_json::json!({"interface": "eth1", "carry": "xdp-generic", "vlan": 10, "force": true})
        );
        assert_eq!(parse("br0 eth1").unwrap(), UplinkSpec { interface: "eth1".into(), ..UplinkSpec::default() });
        for line in ["br0", "br0 eth1 --xdp", "br0 eth1 --xdp fast", "br0 eth1 --vlan 0", "br0 eth1 --vlan 4095"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn uplinks_are_shown_with_their_state() {
        let idle = Uplinks { shared: vec![shared()], ..Uplinks::default() };
        assert_eq!(
            section(&idle),
            "uplinks:\n  eth0 (auto)  idle, tc  192.0.2.1\n    nothing needs it, so the interface is left alone\n"
        );
        let attached = SharedUplink {
            state: UplinkState::Up,
            hook: Some("tcx".into()),
            tap: Some("vsw-eth0".into()),
            needed_by: vec!["vxlan lan.vx0".into()],
            details: vec![],
            ..shared()
        };
        let busy = Uplinks { shared: vec![attached], l2: vec![example()], counters: [("vxlan".into(), 7)].into() };
        assert_eq!(
            section(&busy),
            "uplinks:\n  eth0 (auto)  up, tc (tcx) through vsw-eth0  192.0.2.1  for vxlan lan.vx0\n  packets: vxlan 7\n"
        );
        let waiting = SharedUplink { state: UplinkState::Waiting, interface: None, ..shared() };
        assert_eq!(section(&Uplinks { shared: vec![waiting], ..Uplinks::default() }), "");
        assert_eq!(line(&example()), "eth1, tc (tcx), mtu 1500, worker 0, csum tso4");
        assert!(render(&busy).starts_with("UPLINK  BRIDGE  INTERFACE  STATE  CARRY"), "{}", render(&busy));
    }
}
