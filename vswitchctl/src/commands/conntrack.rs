//! `conntrack`, `conntrack-flush`: the connections that pass the gateway.

use std::net::SocketAddr;

use clap::Args;
use vswitch::api::{Connection, ConnectionPage, Flushed, Tuple};

use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Listing, Output, Printer, Table, count};
use crate::units;

fn target(bridge: Option<&str>) -> Target {
    Target::v1().segment("conntrack").query("bridge", bridge)
}

/// Show the connections that pass the gateway, of one bridge's containers or of all
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl conntrack
  vswitchctl conntrack br0
  vswitchctl conntrack br0 --json | jq '.[] | select(.state == \"ESTABLISHED\")'

ORIGINAL is what the initiator sends; REPLY what the answers are before they are translated back, `same` where nothing
is translated. The list comes in pages: what begins or ends meanwhile may be in it or not.")]
pub(crate) struct List {
    /// Only those of this bridge's containers
    #[arg(value_name = "BR")]
    bridge: Option<String>,
}

impl List {
    /// A million connections are too many to be kept before the first one is printed.
    pub(super) async fn exec(self, client: &Client, printer: &mut Printer) -> Result<Output, Failure> {
        let mut listing = Listing::new(printer);
        let (mut cursor, mut with_headings) = (Some(0), true);
        while let Some(at) = cursor {
            let from = (at > 0).then(|| at.to_string());
            let target = target(self.bridge.as_deref()).query("cursor", from.as_deref());
            let page: ConnectionPage = client.get(&target).await?;
            if !listing.page(&page.connections, |page| render(page, with_headings))? {
                return Ok(Output::printed());
            }
            with_headings &= page.connections.is_empty();
            cursor = page.next;
        }
        listing.end()?;
        Ok(Output::printed())
    }
}

fn render(connections: &[Connection], with_headings: bool) -> String {
    if connections.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["PROTO", "STATE", "ORIGINAL", "REPLY", ">TIMEOUT", "BRIDGE"]);
    for one in connections {
        table.row([
            one.protocol.clone(),
            one.state.clone(),
            direction(&one.original),
            if is_reversed(&one.original, &one.reply) { "same".into() } else { direction(&one.reply) },
            units::show_seconds(one.timeout_s.into()),
            one.bridge.clone().unwrap_or_default(),
        ]);
    }
    let text = table.render("");
    if with_headings { text } else { text.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned()) }
}

fn direction(tuple: &Tuple) -> String {
    let Tuple { source, source_port, destination, destination_port } = *tuple;
    if source_port == 0 && destination_port == 0 {
        return format!("{source} > {destination}");
    }
    format!("{} > {}", SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port))
}

fn is_reversed(original: &Tuple, reply: &Tuple) -> bool {
    (reply.source, reply.source_port) == (original.destination, original.destination_port)
        && (reply.destination, reply.destination_port) == (original.source, original.source_port)
}

/// Forget the connections that pass the gateway, of one bridge's containers or of all
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl conntrack-flush br0
  vswitchctl conntrack-flush          all of them

TCP connections that were translated break: their next packet is of no connection that is known.")]
pub(crate) struct Flush {
    /// Only those of this bridge's containers
    #[arg(value_name = "BR")]
    bridge: Option<String>,
}

impl Flush {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let flushed: Flushed = client.delete(&target(self.bridge.as_deref())).await?;
        Output::new(format!("{} removed", count(flushed.removed, "connection", "connections")), &flushed)
    }
}

#[cfg(test)]
mod tests {
    use vswitch::api::ConnectionEnd;

    use super::*;

    fn tuple(source: &str, destination: &str) -> Tuple {
        let [source, destination] = [source, destination].map(|text| text.parse::<SocketAddr>().unwrap());
        Tuple {
            source: source.ip(),
            source_port: source.port(),
            destination: destination.ip(),
            destination_port: destination.port(),
        }
    }

    fn connection(protocol: &str, state: &str, original: Tuple, reply: Tuple) -> Connection {
        Connection {
            protocol: protocol.into(),
            state: state.into(),
            bridge: Some("br0".into()),
            container: "172.17.0.2".parse().unwrap(),
            original,
            reply,
            origin: ConnectionEnd::Container,
            responder: ConnectionEnd::Outside,
            timeout_s: 300,
        }
    }

    #[test]
    fn connections_as_a_table() {
        let out = connection(
            "tcp",
            "ESTABLISHED",
            tuple("172.17.0.2:40000", "192.0.2.9:443"),
            tuple("192.0.2.9:443", "198.18.0.1:40000"),
        );
        let routed = connection(
            "udp",
            "UNREPLIED",
            tuple("[fd00::2]:5353", "[2001:db8::9]:53"),
            tuple("[2001:db8::9]:53", "[fd00::2]:5353"),
        );
        let other = Connection {
            bridge: None,
            timeout_s: 90,
            ..connection("47", "REPLIED", tuple("172.17.0.2:0", "192.0.2.9:0"), tuple("192.0.2.9:0", "198.18.0.1:0"))
        };
        let connections = [out, routed, other];
        assert_eq!(
            render(&connections, true),
            "\
PROTO  STATE        ORIGINAL                           REPLY                             TIMEOUT  BRIDGE
tcp    ESTABLISHED  172.17.0.2:40000 > 192.0.2.9:443   192.0.2.9:443 > 198.18.0.1:40000       5m  br0
udp    UNREPLIED    [fd00::2]:5353 > [2001:db8::9]:53  same                                   5m  br0
47     REPLIED      172.17.0.2 > 192.0.2.9             192.0.2.9 > 198.18.0.1                90s  -
"
        );
        let rows = render(&connections, false);
        assert!(rows.starts_with("tcp ") && rows.lines().count() == 3, "{rows}");
        assert_eq!(render(&[], true), "");
    }
}
