//! `fdb`, `fdb-add`, `fdb-del`, `fdb-flush`: a bridge's forwarding database.

use std::net::IpAddr;

use clap::Args;
use vswitch::api::{FdbEntry, FdbKind, FdbStatic, Flushed};

use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, Table, count};
use crate::units;

fn target(bridge: &str) -> Target {
    Target::v1().segment("bridges").segment(bridge).segment("fdb")
}

/// Show a bridge's forwarding database: which MAC address is behind which port or remote host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl fdb br0
  vswitchctl fdb br0 --json | jq '.[] | select(.kind == \"static\")'")]
pub(crate) struct List {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
}

impl List {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let entries: Vec<FdbEntry> = client.get(&target(&self.bridge)).await?;
        Output::new(render(&entries), &entries)
    }
}

fn render(entries: &[FdbEntry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["MAC", ">VLAN", "PORT", "KIND", ">AGE"]);
    for entry in entries {
        let (kind, age) = match entry.kind {
            FdbKind::Learned => ("learned", units::show_seconds(entry.age_s.into())),
            FdbKind::Static => ("static", String::new()),
        };
        let vlan = if entry.vlan == 0 { String::new() } else { entry.vlan.to_string() };
        let place = match entry.remote {
            Some(remote) => format!("{} behind {remote}", entry.port),
            None => entry.port.clone(),
        };
        table.row([entry.mac.clone(), vlan, place, kind.into(), age]);
    }
    table.render("")
}

/// Pin a MAC address to a port: the entry neither ages nor moves
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl fdb-add br0 02:00:00:00:00:01 web
  vswitchctl fdb-add br0 02:00:00:00:00:01 web --vlan 10
  vswitchctl fdb-add br0 02:00:00:00:00:02 br0    behind the host's own port
  vswitchctl fdb-add br0 02:00:00:00:00:03 vxlan42 --remote 198.18.0.3 --ip 172.17.0.9

Behind a tunnel, frames for the address go to that host alone, which need not be a remote that flooded
frames go to. With --ip, questions for those IP addresses (ARP, ND) are answered at once instead of
being sent to every host.")]
pub(crate) struct Add {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The MAC address
    mac: String,
    /// The port or tunnel; the bridge's own name for the host
    port: String,
    /// The host that the address is behind, where the port is a tunnel [default: its only remote]
    #[arg(long, value_name = "IP")]
    remote: Option<IpAddr>,
    /// An IP address of a station behind a tunnel, answered for (repeatable)
    #[arg(long = "ip", value_name = "IP")]
    ips: Vec<IpAddr>,
    /// The VLAN of the entry; without it, untagged
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
}

impl Add {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let body = FdbStatic {
            mac: self.mac,
            port: self.port,
            vlan: self.vlan.unwrap_or(0),
            remote: self.remote,
            ips: self.ips,
        };
        let entry: FdbEntry = client.post(&target(&self.bridge), &body).await?;
        Output::new("", &entry)
    }
}

/// Remove a MAC address, learned or pinned
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl fdb-del br0 02:00:00:00:00:01             in every VLAN
  vswitchctl fdb-del br0 02:00:00:00:00:01 --vlan 10")]
pub(crate) struct Del {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The MAC address
    mac: String,
    /// Only in this VLAN (0: untagged)
    #[arg(long, value_name = "VID", value_parser = clap::value_parser!(u16).range(0..=4094))]
    vlan: Option<u16>,
}

impl Del {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let vlan = self.vlan.map(|vlan| vlan.to_string());
        removed(client.delete(&target(&self.bridge).segment(&self.mac).query("vlan", vlan.as_deref())).await?)
    }
}

/// Forget the learned MAC addresses of a bridge, or of one of its ports
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl fdb-flush br0
  vswitchctl fdb-flush br0 web")]
pub(crate) struct Flush {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// Only what is behind this port
    port: Option<String>,
}

impl Flush {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        removed(client.delete(&target(&self.bridge).query("port", self.port.as_deref())).await?)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the end of a call chain reads better by value")]
fn removed(flushed: Flushed) -> Result<Output, Failure> {
    Output::new(format!("{} removed", count(flushed.removed, "entry", "entries")), &flushed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_as_a_table() {
        let entry = |mac: &str, vlan, port: &str, kind, age_s| FdbEntry {
            mac: mac.into(),
            vlan,
            port: port.into(),
            kind,
            age_s,
            remote: None,
            ips: vec![],
        };
        let entries = [
            entry("02:42:ac:11:00:01", 0, "br0", FdbKind::Static, 0),
            entry("02:42:ac:11:00:02", 0, "web", FdbKind::Learned, 3),
            FdbEntry {
                remote: Some("198.18.0.2".parse().unwrap()),
                ..entry("02:42:ac:11:00:02", 10, "vxlan42", FdbKind::Learned, 120)
            },
        ];
        assert_eq!(
            render(&entries),
            "\
MAC                VLAN  PORT                       KIND     AGE
02:42:ac:11:00:01     -  br0                        static     -
02:42:ac:11:00:02     -  web                        learned   3s
02:42:ac:11:00:02    10  vxlan42 behind 198.18.0.2  learned   2m
"
        );
        assert_eq!(render(&[]), "");
    }
}
