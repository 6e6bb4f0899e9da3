//! `add-vxlan`, `del-vxlan`, `add-remote`, `del-remote`: a bridge over several hosts.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use vswitch::api::{Carrier, Dscp, PortState, RemoteSpec, Vxlan, VxlanSpec};

use super::{OnOff, on_off};
use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, join};
use crate::units;

fn target(bridge: &str) -> Target {
    Target::v1().segment("bridges").segment(bridge).segment("vxlans")
}

/// Make a VXLAN tunnel: containers of other hosts join the bridge
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl add-vxlan br0 --vni 42 --remote 198.18.0.2 --remote 198.18.0.3
  vswitchctl add-vxlan br0 --vni 42 --local fd18::1 --remote fd18::2
  vswitchctl add-vxlan br0 --vni 7 --remote 198.18.0.2 --learning off      only what fdb-add says
  vswitchctl add-vxlan br0 --vni 7 --remote 198.18.0.2 --carrier uplink    needs vswitch --uplink IFACE
  vswitchctl add-vxlan lab --vni 7 --remote 198.18.0.2 --trunk 0,10,20     with VLAN tags inside

Flooded frames are sent once to each remote; packets of other senders are dropped. Prints one line,
and what became of the bridge's MTU.")]
pub(crate) struct AddVxlan {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The VXLAN network identifier, 0 to 16777215
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=0xff_ffff))]
    vni: u32,
    /// The host's own address in the underlay [default: what it sends from to the first remote]
    #[arg(long, value_name = "IP")]
    local: Option<IpAddr>,
    /// The address of another host (repeatable)
    #[arg(long = "remote", value_name = "IP")]
    remotes: Vec<IpAddr>,
    /// The UDP port of all hosts [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    dst_port: Option<u16>,
    /// What carries it: sockets of the kernel, or the uplink shared with the host [default: socket]
    #[arg(long, value_name = "socket|uplink", value_enum, hide_possible_values = true)]
    carrier: Option<CarrierName>,
    /// Whether MAC addresses behind remotes are learned from traffic [default: on]
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    learning: Option<OnOff>,
    /// The tunnel's name [default: vxlan and the VNI]
    #[arg(long, value_name = "PORT")]
    name: Option<String>,
    /// The time to live of outer packets [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    ttl: Option<u8>,
    /// The DSCP of outer packets; `inherit`: the inner packet's [default: 0]
    #[arg(long, value_name = "inherit|N", value_parser = dscp)]
    dscp: Option<Dscp>,
    /// The largest inner IP packet in bytes [default: what the underlay leaves, 1450 of 1500]
    #[arg(long, value_name = "N", value_parser = units::size)]
    mtu: Option<u32>,
    /// The VLAN of the bridge that the tunnel carries, without tags
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(1..=4094), conflicts_with = "trunk")]
    vlan: Option<u16>,
    /// The VLANs that the tunnel carries with their tags; 0 stands for untagged frames
    #[arg(long, value_name = "VID,VID…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(0..=4094))]
    trunk: Vec<u16>,
}

/// The names of [`Carrier`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum CarrierName {
    Socket,
    Uplink,
}

impl From<CarrierName> for Carrier {
    fn from(name: CarrierName) -> Self {
        match name {
            CarrierName::Socket => Self::Socket,
            CarrierName::Uplink => Self::Uplink,
        }
    }
}

impl AddVxlan {
    fn spec(self) -> (String, VxlanSpec) {
        let spec = VxlanSpec {
            name: self.name,
            vni: self.vni,
            local: self.local,
            remotes: self.remotes,
            dst_port: self.dst_port,
            carrier: self.carrier.map(Carrier::from),
            learning: self.learning.map(bool::from),
            ttl: self.ttl,
            dscp: self.dscp,
            mtu: self.mtu,
            vlan: self.vlan,
            trunk: self.trunk,
        };
        (self.bridge, spec)
    }

    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let (bridge, spec) = self.spec();
        changed(client.post(&target(&bridge), &spec).await?)
    }
}

/// Remove a VXLAN tunnel
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl del-vxlan br0 vxlan42
  vswitchctl del-vxlan lab to-berlin")]
pub(crate) struct DelVxlan {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The tunnel
    #[arg(value_name = "PORT")]
    tunnel: String,
}

impl DelVxlan {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        client.delete::<()>(&target(&self.bridge).segment(&self.tunnel)).await?;
        Ok(Output::silent())
    }
}

/// Add a host to a tunnel: flooded frames are sent to it, and its packets are accepted
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl add-remote br0 vxlan42 198.18.0.3
  vswitchctl add-remote br0 vxlan42 fd18::3")]
pub(crate) struct AddRemote {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The tunnel
    #[arg(value_name = "PORT")]
    tunnel: String,
    /// The host's address in the underlay
    ip: IpAddr,
}

impl AddRemote {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let target = target(&self.bridge).segment(&self.tunnel).segment("remotes");
        changed(client.post(&target, &RemoteSpec { ip: self.ip }).await?)
    }
}

/// Remove a host from a tunnel; what `fdb-add` pinned behind it stays
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl del-remote br0 vxlan42 198.18.0.3
  vswitchctl del-remote br0 vxlan42 fd18::3")]
pub(crate) struct DelRemote {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The tunnel
    #[arg(value_name = "PORT")]
    tunnel: String,
    /// The host's address in the underlay
    ip: IpAddr,
}

impl DelRemote {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let target = target(&self.bridge).segment(&self.tunnel).segment("remotes").segment(&self.ip.to_string());
        changed(client.delete(&target).await?)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the end of a call chain reads better by value")]
fn changed(vxlan: Vxlan) -> Result<Output, Failure> {
    let mut text = format!("{} {}\n", vxlan.name, ends(&vxlan));
    for warning in &vxlan.warnings {
        text.push_str(&format!("note: {warning}\n"));
    }
    Output::new(text, &vxlan)
}

/// `vni 42 198.18.0.1 to 198.18.0.2 198.18.0.3 port 4789 mtu 1450`.
fn ends(vxlan: &Vxlan) -> String {
    let local = vxlan.local.map_or_else(|| "-".to_owned(), |local| local.to_string());
    let remotes = if vxlan.remotes.is_empty() { "nobody".to_owned() } else { join(&vxlan.remotes, " ") };
    format!("vni {} {local} to {remotes} port {} mtu {}", vxlan.vni, vxlan.dst_port, vxlan.mtu)
}

/// What there is to say about a tunnel in the tree: only what differs from the ordinary after its ends.
pub(super) fn line(vxlan: &Vxlan) -> String {
    let mut details = vec![ends(vxlan)];
    if vxlan.state != PortState::Up {
        details.insert(0, "FAILED".into());
    }
    if vxlan.carrier == Carrier::Uplink {
        details.push("over the uplink".into());
    }
    if !vxlan.mtu_derived {
        details.push("mtu chosen".into());
    }
    if !vxlan.unicast_remotes.is_empty() {
        details.push(format!("pinned behind {}", join(&vxlan.unicast_remotes, " ")));
    }
    if !vxlan.learning {
        details.push(format!("learning {}", on_off(false)));
    }
    if let Some(vlan) = vxlan.vlan {
        details.push(format!("vlan {vlan}"));
    }
    if !vxlan.trunk.is_empty() {
        details.push(format!("trunk {}", join(&vxlan.trunk, ",")));
    }
    if vxlan.ttl != 64 {
        details.push(format!("ttl {}", vxlan.ttl));
    }
    match vxlan.dscp {
        Dscp::Fixed(0) => {}
        Dscp::Fixed(dscp) => details.push(format!("dscp {dscp}")),
        Dscp::Inherit => details.push("dscp inherit".into()),
    }
    if let Some(worker) = vxlan.worker {
        details.push(format!("worker {worker}"));
    }
    details.join(", ")
}

fn dscp(text: &str) -> Result<Dscp, String> {
    if text == "inherit" {
        return Ok(Dscp::Inherit);
    }
    match text.parse() {
        Ok(dscp @ 0..=63) => Ok(Dscp::Fixed(dscp)),
        _ => Err("write `inherit`, or a number from 0 to 63".into()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Add {
        #[command(flatten)]
        add: AddVxlan,
    }

    fn parse(line: &str) -> Result<(String, VxlanSpec), clap::Error> {
        Add::try_parse_from(std::iter::once("add-vxlan").chain(line.split_whitespace())).map(|parsed| parsed.add.spec())
    }

    /// A tunnel as the daemon would describe it.
    pub(in crate::commands) fn example() -> Vxlan {
        Vxlan {
            name: "vxlan42".into(),
            bridge: "br0".into(),
            vni: 42,
            local: Some("198.18.0.1".parse().unwrap()),
            remotes: vec!["198.18.0.2".parse().unwrap(), "198.18.0.3".parse().unwrap()],
            unicast_remotes: vec![],
            dst_port: 4789,
            carrier: Carrier::Socket,
            learning: true,
            ttl: 64,
            dscp: Dscp::Fixed(0),
            mtu: 1450,
            mtu_derived: true,
            vlan: None,
            trunk: vec![],
            state: PortState::Up,
            worker: Some(0),
            warnings: vec![],
        }
    }

    #[test]
    fn every_option_reaches_the_request() {
        let (bridge, spec) = parse(
            "br0 --vni 42 --local 198.18.0.1 --remote 198.18.0.2 --remote 198.18.0.3 --dst-port 8472 --carrier uplink \
             --learning off --name wan --ttl 9 --dscp inherit --mtu 9k --trunk 0,10",
        )
        .unwrap();
        assert_eq!(bridge, "br0");
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            serde_json::json!({
                "name": "wan", "vni": 42, "local": "198.18.0.1", "remotes": ["198.18.0.2", "198.18.0.3"],
                "dst_port": 8472, "carrier": "uplink", "learning": false, "ttl": 9, "dscp": "inherit", "mtu": 9000, "vlan": null,
                "trunk": [0, 10]
            })
        );
        let (_, spec) = parse("br0 --vni 0 --dscp 46 --vlan 7").unwrap();
        assert_eq!((spec.vni, spec.dscp, spec.vlan), (0, Some(Dscp::Fixed(46)), Some(7)));
        assert_eq!(serde_json::to_value(spec.dscp).unwrap(), serde_json::json!({"fixed": 46}));
    }

    #[test]
    fn what_is_not_well_formed_is_refused_here() {
        for line in [
            "br0",
            "br0 --vni 16777216",
            "br0 --vni -1",
            "br0 --vni 1 --remote host",
            "br0 --vni 1 --remote 198.18.0.0/24",
            "br0 --vni 1 --dst-port 0",
            "br0 --vni 1 --ttl 0",
            "br0 --vni 1 --dscp 64",
            "br0 --vni 1 --dscp copy",
            "br0 --vni 1 --vlan 1 --trunk 2",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_line_about_a_tunnel() {
        assert_eq!(line(&example()), "vni 42 198.18.0.1 to 198.18.0.2 198.18.0.3 port 4789 mtu 1450, worker 0");
        let odd = Vxlan {
            local: None,
            remotes: vec![],
            unicast_remotes: vec!["198.18.0.9".parse().unwrap()],
            carrier: Carrier::Uplink,
            learning: false,
            ttl: 9,
            dscp: Dscp::Inherit,
            mtu_derived: false,
            vlan: Some(7),
            state: PortState::Failed,
            worker: None,
            ..example()
        };
        assert_eq!(
            line(&odd),
            "FAILED, vni 42 - to nobody port 4789 mtu 1450, over the uplink, mtu chosen, pinned behind 198.18.0.9, \
             learning off, vlan 7, ttl 9, dscp inherit"
        );
    }
}
