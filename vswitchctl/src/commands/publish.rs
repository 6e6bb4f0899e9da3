//! `publish`, `unpublish`, `ports`: ports of containers at the host's addresses.

use clap::Args;
use ipnet::IpNet;
use vswitch::api::{Flushed, Publication, Publish, PublishSpec};

use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::output::{Output, count, join};

fn target(bridge: &str, port: &str) -> Target {
    Target::v1().segment("bridges").segment(bridge).segment("ports").segment(port).segment("publications")
}

/// Publish ports of a container at the host's addresses
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl publish br0 web 8080:80                       port 8080 of the host leads to port 80
  vswitchctl publish br0 dns 53:53/udp 127.0.0.1:5353:53   UDP; and TCP for the host alone
  vswitchctl publish br0 web 80                            at a free port of the host
  vswitchctl publish br0 web 192.0.2.1::80 [::1]:8080:80   at one address
  vswitchctl publish br0 ftp 8000-8010:8000-8010 9000-9010:21
  vswitchctl publish br0 db 5432:5432 --from 192.0.2.0/24 --from fd00::/8

SPEC is [[IP:][HOSTPORT]:]PORT[/tcp|udp|sctp]. Ranges of one length lead port to port; a range to a single port
means the first free one. Without an address it is the bridge's --host-ip, or all of the host's, IPv4 and IPv6
as far as the container has an address. The client's address is what the server sees. What is published
already stays, and gets the allow-list of this command.

Prints where these ports are published, as `ports` does.")]
pub(crate) struct Add {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The port of the bridge: its name, or the namespace it is in
    port: String,
    /// What to publish
    #[arg(value_name = "SPEC", required = true)]
    specs: Vec<PublishSpec>,
    /// Only clients of this network may use it (repeatable) [default: everybody]
    #[arg(long, value_name = "CIDR", value_parser = network)]
    from: Vec<IpNet>,
}

impl Add {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let body = Publish { specs: self.specs, from: self.from };
        let published: Vec<Publication> = client.post(&target(&self.bridge, &self.port), &body).await?;
        Output::new(of_one(&published), &published)
    }
}

/// Take back published ports
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl unpublish br0 web 8080:80
  vswitchctl unpublish br0 web 80/tcp          wherever port 80 is published
  vswitchctl unpublish br0 ftp 8003:8003       out of the middle of a range

SPEC is written as for `publish`; what it leaves out may be anything. Connections through these ports end.")]
pub(crate) struct Del {
    /// The bridge
    #[arg(value_name = "BR")]
    bridge: String,
    /// The port of the bridge: its name, or the namespace it is in
    port: String,
    /// What to take back
    #[arg(value_name = "SPEC", required = true)]
    specs: Vec<PublishSpec>,
}

impl Del {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let target = target(&self.bridge, &self.port).query("specs", Some(&join(&self.specs, ",")));
        let flushed: Flushed = client.delete(&target).await?;
        Output::new(format!("{} removed", count(flushed.removed, "port", "ports")), &flushed)
    }
}

/// List the published ports, of one port, of a bridge or of all
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl ports
  vswitchctl ports br0
  vswitchctl ports br0 web                     80/tcp -> 0.0.0.0:32768, as `docker port` prints it
  vswitchctl ports br0 web --json | jq '.[].host.first'")]
pub(crate) struct List {
    /// Only this bridge's
    #[arg(value_name = "BR")]
    bridge: Option<String>,
    /// Only this port's: its name, or the namespace it is in
    port: Option<String>,
}

impl List {
    pub(super) async fn exec(self, client: &Client) -> Result<Output, Failure> {
        let target = Target::v1()
            .segment("publications")
            .query("bridge", self.bridge.as_deref())
            .query("port", self.port.as_deref());
        let published: Vec<Publication> = client.get(&target).await?;
        Output::new(if self.port.is_some() { of_one(&published) } else { of_many(&published) }, &published)
    }
}

/// One publication: `80/tcp -> 0.0.0.0:32768`, and who may use it.
pub(super) fn line(one: &Publication) -> String {
    let from = if one.from.is_empty() { String::new() } else { format!(" from {}", join(&one.from, " ")) };
    format!("{}/{} -> {}{from}", one.container, one.protocol, one.host_port())
}

fn of_one(published: &[Publication]) -> String {
    published.iter().map(|one| line(one) + "\n").collect()
}

fn of_many(published: &[Publication]) -> String {
    let name = |one: &Publication| one.container_name.clone().unwrap_or_else(|| one.port.clone());
    published.iter().map(|one| format!("{} {} {}\n", one.bridge, name(one), line(one))).collect()
}

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map_err(|_| "write a network such as 192.0.2.0/24, or an address".into())
}

#[cfg(test)]
pub(super) mod tests {
    use vswitch::api::{PortRange, Transport};

    use super::*;

    /// A published port as the daemon would describe it.
    pub(in crate::commands) fn example(port: &str, host_ip: &str, first: u16) -> Publication {
        Publication {
            bridge: "br0".into(),
            port: port.into(),
            container_name: None,
            protocol: Transport::Tcp,
            host_ip: host_ip.parse().unwrap(),
            host: PortRange::one(first),
            container: PortRange::one(80),
            from: vec![],
        }
    }

    #[test]
    fn as_docker_port_prints_it() {
        let mut range = example("web", "192.0.2.1", 8000);
        (range.host.last, range.container.last) = (8010, 90);
        range.from = vec!["192.0.2.0/24".parse().unwrap(), "198.18.0.7/32".parse().unwrap()];
        let published = [example("web", "0.0.0.0", 32768), example("web", "::", 32768), range];
        assert_eq!(
            of_one(&published),
            "\
80/tcp -> 0.0.0.0:32768
80/tcp -> [::]:32768
80-90/tcp -> 192.0.2.1:8000-8010 from 192.0.2.0/24 198.18.0.7/32
"
        );
        assert!(of_many(&published).starts_with("br0 web 80/tcp -> 0.0.0.0:32768\nbr0 web 80/tcp -> [::]:32768\n"));
        assert_eq!(of_many(&[]), "");
    }

    #[test]
    fn clients_are_networks_or_addresses() {
        assert_eq!(network("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(network("everybody").is_err());
    }
}
