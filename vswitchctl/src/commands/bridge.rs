//! `add-br`, `del-br`, `list-br`, `set-br`: bridges.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;
use vswitch::api::{Bridge, BridgeChange, BridgeSpec, Reservation};

use super::{OnOff, on_off};
use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, Table, join};
use crate::units;

fn target(bridge: &str) -> Target {
    Target::v1().segment("bridges").segment(bridge)
}

/// What may be given to a new bridge and changed on a living one.
#[derive(Debug, Args)]
struct Tuning {
    /// The MTU of the bridge's interfaces in bytes (1500, 9k)
    #[arg(long, value_name = "N", value_parser = units::size)]
    mtu: Option<u32>,
    /// Whether ports reach one another; `off`: only the gateway
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    icc: Option<OnOff>,
    /// Whether what leaves gets an address of the host [default: on]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    masquerade: Option<OnOff>,
    /// Where ports are published that name no address, at most one IPv4 and one IPv6 (repeatable) [default: 0.0.0.0
    /// and ::, all of the host's]
    #[arg(long = "host-ip", value_name = "IP")]
    host_ips: Vec<IpAddr>,
    /// Whether TCP's maximum segment size is made to fit the way out [default: off]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    mss_clamp: Option<OnOff>,
    /// Forget a learned MAC address after this long without traffic [default: 300s]
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    ageing: Option<u32>,
    /// The most MAC addresses learned on the bridge [default: 131072]
    #[arg(long, value_name = "N", value_parser = units::size)]
    mac_limit: Option<u32>,
    /// The most MAC addresses learned on one port [default: 16384]
    #[arg(long, value_name = "N", value_parser = units::size)]
    port_mac_limit: Option<u32>,
    /// The most flooded frames per second from one port; 0: no limit [default: 50000]
    #[arg(long, value_name = "N", value_parser = units::size)]
    storm_limit: Option<u32>,
    /// A label, for people and programs (repeatable)
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl Tuning {
    fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }

    fn change(&self) -> BridgeChange {
        BridgeChange {
            mtu: self.mtu,
            icc: self.icc.map(bool::from),
            internal: None,
            masquerade: self.masquerade.map(bool::from),
            host_ips: (!self.host_ips.is_empty()).then(|| self.host_ips.clone()),
            mss_clamp: self.mss_clamp.map(bool::from),
            ageing_s: self.ageing,
            mac_limit: self.mac_limit,
            port_mac_limit: self.port_mac_limit,
            storm_limit: self.storm_limit,
            labels: self.labels(),
        }
    }
}

/// Make a bridge: a switch of its own, with a network and a gateway on the host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl add-br br0                                       the first free network of Docker's pools
  vswitchctl add-br br0 --subnet 172.30.0.0/16 --subnet fd00:30::/64
  vswitchctl add-br br0 --subnet 10.1.0.0/16 --ip-range 10.1.4.0/24 --reserve printer=10.1.4.7
  vswitchctl add-br back --internal                           no way in or out but through the bridge
  vswitchctl add-br front --host-ip 192.0.2.1                 ports are published there unless they say otherwise
  vswitchctl add-br lab --l2 --mtu 9k                         a bare learning switch, no addresses")]
pub(crate) struct AddBr {
    /// The bridge's name, and that of the host's interface on it
    #[arg(value_name = "BR")]
    bridge: String,
    /// A network, at most one IPv4 and one IPv6 (repeatable)
    #[arg(long = "subnet", value_name = "CIDR")]
    subnets: Vec<IpNet>,
    /// The host's address on the bridge, by default the first of each subnet (repeatable)
    #[arg(long = "gateway", value_name = "IP")]
    gateways: Vec<IpAddr>,
    /// Take automatic addresses from this part of the subnet (repeatable)
    #[arg(long = "ip-range", value_name = "CIDR")]
    ip_ranges: Vec<IpNet>,
    /// An address that is never given automatically (repeatable)
    #[arg(long, value_name = "[NAME=]IP", value_parser = reservation)]
    reserve: Vec<Reservation>,
    /// No addresses and no interface on the host: a bare learning switch
    #[arg(long, conflicts_with_all = ["subnets", "gateways", "ip_ranges", "reserve", "internal", "masquerade", "host_ips", "mss_clamp"])]
    l2: bool,
    /// Nothing enters or leaves but through the bridge: no outside, no other bridges, no default route
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    tuning: Tuning,
}

impl AddBr {
    fn spec(self) -> BridgeSpec {
        let labels = self.tuning.labels();
        BridgeSpec {
            name: self.bridge,
            subnets: self.subnets,
            gateways: self.gateways,
            ip_ranges: self.ip_ranges,
            reserve: self.reserve,
            mtu: self.tuning.mtu,
            icc: self.tuning.icc.map(bool::from),
            l2: self.l2,
            internal: self.internal,
            masquerade: self.tuning.masquerade.map(bool::from),
            host_ips: self.tuning.host_ips,
            mss_clamp: self.tuning.mss_clamp.map(bool::from),
            ageing_s: self.tuning.ageing,
            mac_limit: self.tuning.mac_limit,
            port_mac_limit: self.tuning.port_mac_limit,
            storm_limit: self.tuning.storm_limit,
            labels,
        }
    }

    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let bridge: Bridge = client.post(&Target::v1().segment("bridges"), &self.spec()).await?;
        Output::new(line(&bridge), &bridge)
    }
}

/// One line about a bridge that was just made or changed.
fn line(bridge: &Bridge) -> String {
    let addresses = if bridge.l2 {
        "l2".into()
    } else {
        format!("{} gateway {}", join(&bridge.subnets, ","), join(&bridge.gateways, ","))
    };
    let gateway = options(bridge).into_iter().map(|option| format!(" {option}")).collect::<String>();
    format!("{} {addresses} mtu {} icc {}{gateway}", bridge.name, bridge.mtu, on_off(bridge.icc))
}

/// What the gateway does otherwise than it would by default.
pub(super) fn options(bridge: &Bridge) -> Vec<String> {
    let mut options = Vec::new();
    if bridge.internal {
        options.push("internal".to_owned());
    }
    if !bridge.masquerade && !bridge.l2 {
        options.push("masquerade off".to_owned());
    }
    if bridge.mss_clamp {
        options.push("mss-clamp on".to_owned());
    }
    if !bridge.host_ips.is_empty() {
        options.push(format!("host-ip {}", join(&bridge.host_ips, " ")));
    }
    options
}

/// Remove a bridge
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl del-br br0             refused while ports or tunnels are attached
  vswitchctl del-br br0 --force     with its ports and tunnels")]
pub(crate) struct DelBr {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// Detach its ports and remove its tunnels as well
    #[arg(long)]
    force: bool,
}

impl DelBr {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        client.delete::<()>(&target(&self.bridge).query("force", self.force.then_some("true"))).await?;
        Ok(Output::silent())
    }
}

/// List the bridges
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl list-br
  vswitchctl list-br --json | jq '.[].subnets'")]
pub(crate) struct ListBr {}

impl ListBr {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let bridges: Vec<Bridge> = client.get(&Target::v1().segment("bridges")).await?;
        Output::new(render(&bridges), &bridges)
    }
}

fn render(bridges: &[Bridge]) -> String {
    if bridges.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["BRIDGE", "SUBNETS", "GATEWAYS", ">MTU", "ICC", ">PORTS", ">MACS", "WARNINGS"]);
    for bridge in bridges {
        table.row([
            bridge.name.clone(),
            if bridge.l2 { "(l2)".into() } else { join(&bridge.subnets, ",") },
            join(&bridge.gateways, ","),
            bridge.mtu.to_string(),
            on_off(bridge.icc).into(),
            bridge.ports.to_string(),
            bridge.macs.to_string(),
            bridge.warnings.join("; "),
        ]);
    }
    table.render("")
}

/// Change a living bridge; what is not named stays
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl set-br br0 --icc off
  vswitchctl set-br br0 --mtu 9000 --ageing 5m
  vswitchctl set-br br0 --internal on --masquerade off
  vswitchctl set-br br0 --host-ip 0.0.0.0 --host-ip ::    publish at all addresses again
  vswitchctl set-br br0 --label owner=ops --label tmp=    set one label, remove another")]
pub(crate) struct SetBr {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// Whether nothing enters or leaves but through the bridge; refused while ports are published
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    internal: Option<OnOff>,
    #[command(flatten)]
    tuning: Tuning,
}

impl SetBr {
    fn change(&self) -> BridgeChange {
        BridgeChange { internal: self.internal.map(bool::from), ..self.tuning.change() }
    }

    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let change = self.change();
        if change == BridgeChange::default() {
            return Err(Failure::Usage(
                "nothing to change: name at least one option, see `vswitchctl set-br --help`".into(),
            ));
        }
        let bridge: Bridge = client.patch(&target(&self.bridge), &change).await?;
        Output::new(line(&bridge), &bridge)
    }
}

fn reservation(text: &str) -> Result<Reservation, String> {
    let (name, ip) = match text.rsplit_once('=') {
        Some(("", _)) => return Err("the name before `=` is empty".into()),
        Some((name, ip)) => (Some(name.to_owned()), ip),
        None => (None, text),
    };
    let ip = ip.parse().map_err(|_| format!("`{ip}` is not an IP address: write [NAME=]IP"))?;
    Ok(Reservation { name, ip })
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write K=V".into()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Add {
        #[command(flatten)]
        add: AddBr,
    }

    fn parse(line: &str) -> Result<BridgeSpec, clap::Error> {
        Add::try_parse_from(std::iter::once("add-br").chain(line.split_whitespace())).map(|parsed| parsed.add.spec())
    }

    /// A bridge as the daemon would describe it.
    pub(in crate::commands) fn example() -> Bridge {
        Bridge {
            name: "br0".into(),
            subnets: vec!["172.17.0.0/16".parse().unwrap(), "fd00:17::/64".parse().unwrap()],
            gateways: vec!["172.17.0.1".parse().unwrap(), "fd00:17::1".parse().unwrap()],
            ip_ranges: vec![],
            reserve: vec![],
            mtu: 1500,
            icc: true,
            l2: false,
            internal: false,
            masquerade: true,
            host_ips: vec![],
            mss_clamp: false,
            mac: Some("02:42:ac:11:00:01".into()),
            ageing_s: 300,
            mac_limit: 131_072,
            port_mac_limit: 16_384,
            storm_limit: 50_000,
            docker_network: None,
            labels: BTreeMap::new(),
            network: None,
            ports: 2,
            tunnels: 0,
            macs: 3,
            warnings: vec![],
        }
    }

    #[test]
    fn every_option_reaches_the_request() {
        let spec = parse(
            "br0 --subnet 10.1.0.0/16 --subnet fd00::/64 --gateway 10.1.0.9 --ip-range 10.1.4.0/24 --reserve 10.1.4.1 \
             --reserve printer=fd00::7 --mtu 9k --icc off --internal --masquerade off --host-ip 192.0.2.1 --host-ip :: --mss-clamp on --label a=b --label c==d --ageing 5m --mac-limit 1k \
             --port-mac-limit 100 --storm-limit 0",
        )
        .unwrap();
        let json = serde_json::to_value(&spec).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "name": "br0", "subnets": ["10.1.0.0/16", "fd00::/64"], "gateways": ["10.1.0.9"],
                "ip_ranges": ["10.1.4.0/24"], "reserve": [{"ip": "10.1.4.1"}, {"name": "printer", "ip": "fd00::7"}],
                "mtu": 9000, "icc": false, "l2": false, "internal": true, "masquerade": false,
                "host_ips": ["192.0.2.1", "::"], "mss_clamp": true, "ageing_s": 300, "mac_limit": 1000, "port_mac_limit": 100,
                "storm_limit": 0, "labels": {"a": "b", "c": "=d"}
            })
        );
    }

    #[test]
    fn what_is_not_well_formed_is_refused_here() {
        for line in [
            "br0 --subnet 10.1.0.0/33",
            "br0 --subnet ten",
            "br0 --gateway 10.1.0.0/16",
            "br0 --reserve =10.1.0.1",
            "br0 --reserve x=y",
            "br0 --mtu big",
            "br0 --icc maybe",
            "br0 --label novalue",
            "br0 --ageing 500ms",
            "br0 --l2 --subnet 10.1.0.0/16",
            "br0 --l2 --internal",
            "br0 --l2 --masquerade off",
            "br0 --internal on",
            "br0 --host-ip web",
            "",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn bridges_as_a_table() {
        let mut bare = example();
        bare.name = "lab".into();
        bare.l2 = true;
        bare.icc = false;
        bare.subnets.clear();
        bare.gateways.clear();
        bare.warnings = vec!["loop: 02:00:00:00:00:01 moves between a and b".into()];
        assert_eq!(
            render(&[example(), bare]),
            "\
BRIDGE  SUBNETS                     GATEWAYS                MTU  ICC  PORTS  MACS  WARNINGS
br0     172.17.0.0/16,fd00:17::/64  172.17.0.1,fd00:17::1  1500  on       2     3  -
lab     (l2)                        -                      1500  off      2     3  loop: 02:00:00:00:00:01 moves between a and b
"
        );
        assert_eq!(line(&example()), "br0 172.17.0.0/16,fd00:17::/64 gateway 172.17.0.1,fd00:17::1 mtu 1500 icc on");
    }
}
