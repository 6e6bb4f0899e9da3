//! `add-port`, `del-port`, `list-ports`: interfaces in network namespaces.

use std::path;

use clap::{Args, ValueEnum};
use vswitch::api::{self, ExposeSpec, Port, PortSpec, PortState, PortType, PublishSpec, XdpMode};

use super::OnOff;
use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, Table, join};
use crate::units;

fn target(bridge: &str) -> Target {
    Target::v1().segment("bridges").segment(bridge).segment("ports")
}

/// Attach a network namespace: gives it a working interface on the bridge
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl add-port br0 web                              a namespace of `ip netns`
  vswitchctl add-port br0 container:web                    a container of Docker's or Podman's
  vswitchctl add-port br0 pid:1234 --name web --ip 172.17.0.10
  vswitchctl add-port br0 /proc/1234/ns/net --mac 02:00:00:00:00:07 --egress-rate 100mbit
  vswitchctl add-port br0 web --type xdp                   for small packets and short round trips
  vswitchctl add-port br0 web --publish 8080:80 --publish 127.0.0.1::53/udp
  vswitchctl add-port br0 web --expose 80 --expose 443 --publish-all
  vswitchctl add-port lab web --ifname eth1 --ip none --trunk 10,20 --default-route off

Prints one line: port name, interface, addresses, MAC address.

A container that has interfaces already keeps them: the port is named eth1 or whatever is free, and gets no default
route where there is one, unless --ifname and --default-route say otherwise. A port goes with the namespace, so a
container that is restarted has to be attached again.")]
pub(crate) struct AddPort {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The namespace: a name known to `ip netns`, `container:NAME`, `pid:N` or a bare number, or a path
    #[arg(value_parser = netns)]
    netns: String,
    /// The port's name [default: the namespace's]
    #[arg(long, value_name = "PORT")]
    name: Option<String>,
    /// The interface's name in the namespace [default: eth0]
    #[arg(long)]
    ifname: Option<String>,
    /// The kind of interface: `tap`, or `xdp`: a veth pair, served through AF_XDP
    #[arg(long = "type", value_name = "tap|xdp", default_value = "tap", hide_possible_values = true)]
    port_type: Type,
    /// An address, by default a free one of each subnet; `none`: no address (repeatable)
    #[arg(long = "ip", value_name = "CIDR|IP|none")]
    ips: Vec<String>,
    /// The MAC address [default: 02:42: and the IPv4 address]
    #[arg(long)]
    mac: Option<String>,
    /// The MTU in bytes [default: the bridge's]
    #[arg(long, value_name = "N", value_parser = units::size)]
    mtu: Option<u32>,
    /// Whether the namespace's default route leads through the bridge [default: on]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    default_route: Option<OnOff>,
    /// Access port: its untagged frames belong to this VLAN
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(1..=4094), conflicts_with = "trunk")]
    vlan: Option<u16>,
    /// Trunk port: carries these VLANs tagged and nothing else; 0 stands for untagged frames
    #[arg(long, value_name = "VID,VID…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(0..=4094))]
    trunk: Vec<u16>,
    /// A further name of the port (repeatable)
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// Publish a port at the host's addresses, see `vswitchctl publish --help` (repeatable)
    #[arg(long, value_name = "SPEC")]
    publish: Vec<PublishSpec>,
    /// A port or range that something listens on, for --publish-all (repeatable)
    #[arg(long, value_name = "PORT[/PROTO]")]
    expose: Vec<ExposeSpec>,
    /// Publish the exposed ports at free ports of the host
    #[arg(long)]
    publish_all: bool,
    /// Let the port send from any MAC and IP address; without it only from its own
    #[arg(long)]
    no_guard: bool,
    /// The most that the port may send (64kbit, 100mbit, 1gbit)
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    ingress_rate: Option<u64>,
    /// The most that the port is sent
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    egress_rate: Option<u64>,
}

/// The kinds of interface on offer.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    Tap,
    Xdp,
}

impl AddPort {
    fn spec(self) -> (String, PortSpec) {
        let spec = PortSpec {
            netns: self.netns,
            container: None,
            name: self.name,
            ifname: self.ifname,
            port_type: match self.port_type {
                Type::Tap => PortType::Tap,
                Type::Xdp => PortType::Xdp,
            },
            ips: self.ips,
            mac: self.mac,
            mtu: self.mtu,
            default_route: self.default_route.map(bool::from),
            vlan: self.vlan,
            trunk: self.trunk,
            aliases: self.aliases,
            publish: self.publish,
            expose: self.expose,
            publish_all: self.publish_all,
            guard: self.no_guard.then_some(false),
            ingress_rate_bps: self.ingress_rate,
            egress_rate_bps: self.egress_rate,
        };
        (self.bridge, spec)
    }

    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let (bridge, spec) = self.spec();
        let port: Port = client.post(&target(&bridge), &spec).await?;
        let addresses = if port.ips.is_empty() { "-".into() } else { join(&port.ips, ",") };
        Output::new(format!("{} {} {addresses} {}", port.name, port.ifname, port.mac), &port)
    }
}

/// Detach a port: its interface disappears from the namespace
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl del-port br0 web
  vswitchctl del-port br0 pid:1234       by the namespace it is in

A port that Docker made goes with `docker network disconnect` or with its container. With --force it goes
at once, and the container is without that network until it is restarted.")]
pub(crate) struct DelPort {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The port's name, or the namespace it is in
    #[arg(value_parser = netns)]
    port: String,
    /// Also a port that Docker made and counts on
    #[arg(long)]
    force: bool,
}

impl DelPort {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let target = target(&self.bridge).segment(&self.port);
        client.delete::<()>(&target.query("force", self.force.then_some("true"))).await?;
        Ok(Output::silent())
    }
}

/// List the ports, of one bridge or of all
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl list-ports
  vswitchctl list-ports br0
  vswitchctl list-ports br0 --json | jq -r '.[] | .name + \" \" + .ips[0]'")]
pub(crate) struct ListPorts {
    /// Only this bridge's
    #[arg(value_name = "BR")]
    bridge: Option<String>,
}

impl ListPorts {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let target = self.bridge.as_deref().map_or_else(|| Target::v1().segment("ports"), target);
        let ports: Vec<Port> = client.get(&target).await?;
        Output::new(render(&ports), &ports)
    }
}

fn render(ports: &[Port]) -> String {
    if ports.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "BRIDGE",
        "PORT",
        "NETNS",
        "INTERFACE",
        "TYPE",
        "ADDRESSES",
        "MAC",
        ">MTU",
        "VLAN",
        "WORKER",
        "STATE",
    ]);
    for port in ports {
        table.row([
            port.bridge.clone(),
            port.name.clone(),
            netns_of(port),
            port.ifname.clone(),
            kind(port),
            join(&port.ips, ","),
            port.mac.clone(),
            port.mtu.to_string(),
            vlan(port),
            port.worker.map(|worker| worker.to_string()).unwrap_or_default(),
            state(port.state).into(),
        ]);
    }
    table.render("")
}

/// Where a port's interface is, by the name that people know.
pub(super) fn netns_of(port: &Port) -> String {
    port.container.as_ref().map_or_else(|| port.netns.clone(), |name| format!("container:{name}"))
}

/// The VLANs of a port, empty where it carries all.
pub(super) fn vlan(port: &Port) -> String {
    match port.vlan {
        Some(vlan) => vlan.to_string(),
        None if port.trunk.is_empty() => String::new(),
        None => format!("trunk {}", join(&port.trunk, ",")),
    }
}

/// The kind of a port's interface, and how it is served where there are several ways.
pub(super) fn kind(port: &Port) -> String {
    match port.xdp.as_ref().and_then(|xdp| xdp.mode) {
        None => port.port_type.to_string(),
        Some(XdpMode::ZeroCopy) => format!("{} zero-copy", port.port_type),
        Some(XdpMode::Native) => format!("{} native, copy", port.port_type),
        Some(XdpMode::Generic) => format!("{} generic, copy", port.port_type),
    }
}

pub(super) fn state(state: PortState) -> &'static str {
    match state {
        api::PortState::Up => "up",
        api::PortState::Failed => "failed",
    }
}

/// A namespace as the daemon will understand it. The daemon's working directory is not ours, so a
/// relative path is made absolute here.
fn netns(text: &str) -> Result<String, String> {
    if !text.contains('/') || text.starts_with('/') {
        return Ok(text.to_owned());
    }
    let path = path::absolute(text).map_err(|e| format!("cannot be made an absolute path: {e}"))?;
    path.into_os_string().into_string().map_err(|_| "the path is not UTF-8".into())
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;
    use vswitch::api::XdpStatus;

    use super::*;

    #[derive(Debug, Parser)]
    struct Add {
        #[command(flatten)]
        add: AddPort,
    }

    fn parse(line: &str) -> Result<PortSpec, clap::Error> {
        Add::try_parse_from(std::iter::once("add-port").chain(line.split_whitespace()))
            .map(|parsed| parsed.add.spec().1)
    }

    /// A port as the daemon would describe it.
    pub(in crate::commands) fn example(name: &str, last: u8) -> Port {
        Port {
            name: name.into(),
            bridge: "br0".into(),
            netns: name.into(),
            ifname: "eth0".into(),
            lent: false,
            container: None,
            port_type: PortType::Tap,
            xdp: None,
            state: PortState::Up,
            ips: vec![format!("172.17.0.{last}/16").parse().unwrap(), format!("fd00:17::{last}/64").parse().unwrap()],
            mac: format!("02:42:ac:11:00:{last:02x}"),
            mtu: 1500,
            default_route: true,
            vlan: None,
            trunk: vec![],
            aliases: vec![],
            publications: vec![],
            exposed: vec![],
            guard: true,
            ingress_rate_bps: None,
            egress_rate_bps: None,
            offloads: vec!["csum".into(), "tso4".into(), "tso6".into()],
            worker: Some(0),
        }
    }

    #[test]
    fn every_option_reaches_the_request() {
        let spec = parse(
            "br0 web --name w --ifname eth7 --type tap --ip 10.0.0.7/16 --ip fd00::7 --mac 02:00:00:00:00:07 --mtu 9000 \
             --default-route off --trunk 10,20 --trunk 0 --alias a --alias b --publish 8080:80 \
             --publish [::1]::53/udp --expose 80-90 --expose 53/udp --publish-all --no-guard --ingress-rate 100mbit --egress-rate 1gbit",
        )
        .unwrap();
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            serde_json::json!({
                "netns": "web", "name": "w", "ifname": "eth7", "type": "tap", "ips": ["10.0.0.7/16", "fd00::7"],
                "mac": "02:00:00:00:00:07", "mtu": 9000, "default_route": false, "vlan": null, "trunk": [10, 20, 0],
                "aliases": ["a", "b"], "publish": ["8080:80/tcp", "[::1]::53/udp"], "expose": ["80-90/tcp", "53/udp"],
                "publish_all": true, "guard": false, "ingress_rate_bps": 100_000_000, "egress_rate_bps": 1_000_000_000,
            })
        );
        assert_eq!(parse("br0 web --vlan 10").unwrap().vlan, Some(10));
        assert_eq!(parse("br0 web").unwrap().port_type, PortType::Tap);
        assert_eq!(parse("br0 web --type xdp").unwrap().port_type, PortType::Xdp);
    }

    #[test]
    fn what_is_not_well_formed_is_refused_here() {
        for line in [
            "br0",
            "br0 web --vlan 0",
            "br0 web --vlan 4095",
            "br0 web --vlan 1 --trunk 2",
            "br0 web --trunk 1,x",
            "br0 web --type veth",
            "br0 web --ingress-rate 5kbps",
            "br0 web --mtu 1x",
            "br0 web --publish 80:0",
            "br0 web --publish web:80:80",
            "br0 web --publish 80-90:80-91",
            "br0 web --expose 80:80",
            "br0 web extra",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn relative_paths_become_absolute_and_names_stay() {
        for text in ["web", "1234", "pid:1234", "/run/netns/web"] {
            assert_eq!(netns(text).as_deref(), Ok(text));
        }
        let expected = std::env::current_dir().unwrap().join("ns/web");
        assert_eq!(netns("./ns/web").unwrap(), expected.to_str().unwrap());
    }

    /// The same, of type `xdp`.
    pub(in crate::commands) fn xdp_example(name: &str, last: u8) -> Port {
        let xdp = XdpStatus {
            ifname: "vsxk3f97qpl2mzd".into(),
            mode: Some(XdpMode::Native),
            refused: vec!["zero-copy: the driver has none (Operation not supported)".into()],
        };
        Port { port_type: PortType::Xdp, xdp: Some(xdp), offloads: vec!["csum".into()], ..example(name, last) }
    }

    #[test]
    fn ports_as_a_table() {
        let mut trunk = example("db", 3);
        trunk.trunk = vec![10, 20];
        trunk.ips.pop();
        trunk.state = PortState::Failed;
        trunk.worker = None;
        let mut xdp = xdp_example("fast", 4);
        xdp.ips.pop();
        assert_eq!(
            render(&[example("web", 2), trunk, xdp]),
            "\
BRIDGE  PORT  NETNS  INTERFACE  TYPE              ADDRESSES                    MAC                 MTU  VLAN         WORKER  STATE
br0     web   web    eth0       tap               172.17.0.2/16,fd00:17::2/64  02:42:ac:11:00:02  1500  -            0       up
br0     db    db     eth0       tap               172.17.0.3/16                02:42:ac:11:00:03  1500  trunk 10,20  -       failed
br0     fast  fast   eth0       xdp native, copy  172.17.0.4/16                02:42:ac:11:00:04  1500  -            0       up
"
        );
    }
}
