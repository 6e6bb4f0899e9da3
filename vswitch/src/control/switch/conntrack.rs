//! The gateway's connections as the protocol describes them, and their end when what they belonged to is gone.
//!
//! The table of connections is shared with the workers and takes no lock for being read. So a request only asks the
//! switch what its bridges are called; the connections themselves are gathered a page at a time, with the switch free
//! for others, however many there are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Switch;
use super::taken::Taken;
use crate::api::{self, CONNECTION_PAGE_MAX, ConnectionEnd, ConnectionPage};
use crate::control::desired::{Desired, PortRecord};
use crate::control::refusal::Result;
use crate::datapath::clock::now_s;
use crate::nat::conntrack::{Connection, Conntrack, Filter};
use crate::nat::{Place, Tuple};
use crate::wire::protocol;

/// Whose connections are asked about.
#[derive(Debug)]
pub struct ConnectionsPlan {
    conntrack: Arc<Conntrack>,
    filter: Filter,
    /// The bridges' names by their ids.
    bridges: BTreeMap<u16, String>,
}

impl Switch {
    /// The connections of the containers of one bridge, or of all.
    ///
    /// # Errors
    /// There is no such bridge.
    pub fn connections_plan(&self, bridge: Option<&str>) -> Result<ConnectionsPlan> {
        let id = bridge.map(|bridge| self.desired.bridge(bridge).and_then(|_| self.live_bridge(bridge))).transpose()?;
        Ok(ConnectionsPlan {
            conntrack: Arc::clone(self.datapath.conntrack()),
            filter: Filter { bridge: id.map(|live| live.id.0), ..Filter::default() },
            bridges: self.live.bridges.iter().map(|(name, live)| (live.id.0, name.clone())).collect(),
        })
    }

    /// Goes on with the connections that have outlived another process: those of what is still there.
    pub(super) fn resume_connections(&self) {
        let (conntrack, now_s) = (self.datapath.conntrack(), now_s());
        if conntrack.counts().connections == 0 {
            return;
        }
        let bridges = self.live.bridges.iter().filter_map(|(name, live)| {
            let record = self.desired.bridges.get(name).filter(|record| !record.l2)?;
            Some((record.host_addresses().collect::<Vec<_>>(), live.id.0))
        });
        let bridges = bridges.collect::<Vec<_>>();
        let number_of = |ip: IpAddr| {
            let has = |(networks, _): &&(Vec<ipnet::IpNet>, u16)| networks.iter().any(|network| network.contains(&ip));
            bridges.iter().find(has).map(|(_, number)| *number)
        };
        let published = Taken::by(&self.desired);
        let ended = conntrack.retain_containers(|ip| number_of(ip).is_some(), now_s)
            + conntrack.purge_services(|protocol, host, port| !published.has(protocol, host, port), now_s);
        conntrack.number_bridges(number_of);
        tracing::debug!(ended, "connections of what went meanwhile have ended");
    }

    /// Ends the connections of what is gone. No worker may make new ones by then: it has seen a snapshot without it.
    pub(super) fn end_connections(&self, gone: &Gone) {
        if gone.containers.is_empty() && gone.unpublished.is_none() {
            return;
        }
        let (conntrack, now_s) = (self.datapath.conntrack(), now_s());
        let mut ended = 0;
        if !gone.containers.is_empty() {
            ended += conntrack.purge_containers(&gone.containers, now_s);
        }
        if let Some((before, after)) = &gone.unpublished {
            let is_gone = |protocol, host, port| before.has(protocol, host, port) && !after.has(protocol, host, port);
            ended += conntrack.purge_services(is_gone, now_s);
        }
        tracing::debug!(ended, "connections of what is gone have ended");
    }
}

impl ConnectionsPlan {
    /// The connections from `cursor` on that fit on one page, and the cursor of the next page.
    #[must_use]
    pub fn page(&self, cursor: u32) -> ConnectionPage {
        let (connections, next) = self.conntrack.page(&self.filter, cursor, CONNECTION_PAGE_MAX, now_s());
        ConnectionPage { connections: connections.iter().map(|one| self.describe(one)).collect(), next }
    }

    /// Forgets the connections; how many there were.
    #[must_use]
    pub fn flush(&self) -> usize {
        self.conntrack.flush(self.filter.bridge, now_s())
    }

    fn describe(&self, connection: &Connection) -> api::Connection {
        api::Connection {
            protocol: match connection.original.protocol {
                protocol::TCP => "tcp".to_owned(),
                protocol::UDP => "udp".to_owned(),
                protocol::SCTP => "sctp".to_owned(),
                protocol::ICMP => "icmp".to_owned(),
                protocol::ICMPV6 => "icmpv6".to_owned(),
                other => other.to_string(),
            },
            state: connection.state.name().to_owned(),
            bridge: self.bridges.get(&connection.bridge).cloned(),
            container: connection.container,
            original: tuple(&connection.original),
            reply: tuple(&connection.reply),
            origin: end(connection.origin),
            responder: end(connection.responder),
            timeout_s: connection.timeout_s,
        }
    }
}

fn tuple(tuple: &Tuple) -> api::Tuple {
    let Tuple { source, source_port, destination, destination_port, .. } = *tuple;
    api::Tuple { source, source_port, destination, destination_port }
}

fn end(place: Place) -> ConnectionEnd {
    match place {
        Place::Container => ConnectionEnd::Container,
        Place::Outside => ConnectionEnd::Outside,
        Place::Loopback => ConnectionEnd::Host,
    }
}

/// What a command takes away of what connections are made of.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Containers that are not there any more, or that may not reach the outside any more.
    containers: HashSet<IpAddr>,
    /// What containers that stay have published, before and after.
    unpublished: Option<(Taken, Taken)>,
}

impl Gone {
    /// What `before` has and `after` has not.
    pub(super) fn between(before: &Desired, after: &Desired) -> Self {
        let (then, now) = (containers(before), containers(after));
        let stays = |(ip, one): &(&IpAddr, &Container<'_>)| now.get(ip).is_some_and(|other| other.is(one));
        let differs = |(ip, one): (&IpAddr, &Container<'_>)| now[ip].port.publications != one.port.publications;
        let unpublished = then.iter().filter(stays).any(differs);
        Self {
            containers: then.iter().filter(|one| !stays(one)).map(|(ip, _)| *ip).collect(),
            unpublished: unpublished.then(|| (Taken::by(before), Taken::by(after))),
        }
    }
}

/// Who has an address.
struct Container<'a> {
    bridge: &'a str,
    name: &'a str,
    port: &'a PortRecord,
    internal: bool,
}

impl Container<'_> {
    /// Whether it is the same container, whose connections may go on.
    fn is(&self, other: &Self) -> bool {
        (self.bridge, self.name, self.internal) == (other.bridge, other.name, other.internal)
            && (self.port.netns_id == other.port.netns_id || self.port.is_lent_as(other.port))
    }
}

/// The containers by their addresses, which no two have: the networks of bridges do not overlap. Nothing of an `l2`
/// bridge passes the gateway.
fn containers(desired: &Desired) -> HashMap<IpAddr, Container<'_>> {
    let mut containers = HashMap::new();
    for (bridge, record) in desired.bridges.iter().filter(|(_, record)| !record.l2) {
        for (name, port) in &record.ports {
            let container = || Container { bridge, name, port, internal: record.internal };
            containers.extend(port.ips.iter().map(|ip| (ip.addr(), container())));
        }
    }
    containers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BridgeChange, BridgeSpec, PortRange, PortSpec};
    use crate::control::desired::{HostView, Owner, PortTarget, PublishView};
    use crate::control::netns::{NetnsId, NetnsRef};

    fn publish(desired: &mut Desired, port: &str, spec: &str) {
        let host = PublishView {
            addresses: Vec::new(),
            ephemeral: PortRange { first: 32768, last: 60999 },
            in_use: &|_, _, _| Ok(None),
        };
        desired.publish("br0", port, &[spec.parse().expect("a spec")], &[], &host).expect("publishes");
    }

    /// Two containers, 10.0.0.2 and 10.0.0.3, the first of which publishes a port.
    fn two() -> Desired {
        let mut desired = Desired::default();
        let subnets = vec!["10.0.0.0/24".parse().expect("a network")];
        let spec = BridgeSpec { name: "br0".into(), subnets, ..BridgeSpec::default() };
        desired.add_bridge(&spec, &HostView::default()).expect("a bridge");
        for n in [2, 3] {
            let target = PortTarget {
                netns: NetnsRef::Name(format!("ns{n}")),
                id: NetnsId { dev: 4, ino: n },
                cookie: None,
                owner: Owner { dev: 1, ino: 2 },
                random: [0; 4],
            };
            desired.add_port("br0", &PortSpec::default(), &target).expect("a port");
        }
        publish(&mut desired, "ns2", "8000-8010:80-90");
        desired
    }

    fn gone(change: impl FnOnce(&mut Desired)) -> Gone {
        let before = two();
        let mut after = before.clone();
        change(&mut after);
        Gone::between(&before, &after)
    }

    fn addresses(gone: &Gone) -> Vec<String> {
        let mut addresses: Vec<_> = gone.containers.iter().map(ToString::to_string).collect();
        addresses.sort();
        addresses
    }

    #[test]
    fn what_stays_keeps_its_connections() {
        let more = gone(|desired| {
            desired
                .change_bridge("br0", &BridgeChange { icc: Some(false), ..BridgeChange::default() })
                .expect("changes");
        });
        assert!(more.containers.is_empty() && more.unpublished.is_none());
        // What is new cannot have any.
        let more = gone(|desired| publish(desired, "ns3", "9000:9000"));
        assert!(more.containers.is_empty());
        let (before, after) = more.unpublished.expect("something differs");
        assert!(
            after.has(6, "192.0.2.1".parse().expect("an address"), 9000) && !before.has(6, [127, 0, 0, 1].into(), 9000)
        );
    }

    #[test]
    fn containers_that_are_gone_or_shut_in_lose_theirs() {
        let one = gone(|desired| drop(desired.remove_port("br0", "ns2")));
        assert_eq!(addresses(&one), ["10.0.0.2"]);
        assert!(one.unpublished.is_none(), "what it published goes with it");
        let all = gone(|desired| drop(desired.remove_bridge("br0", true)));
        assert_eq!(addresses(&all), ["10.0.0.2", "10.0.0.3"]);
        let internal = BridgeChange { internal: Some(true), ..BridgeChange::default() };
        let shut_in = gone(|desired| {
            desired.unpublish("br0", "ns2", &["80-90".parse().expect("a spec")]).expect("takes back");
            desired.change_bridge("br0", &internal).expect("changes");
        });
        assert_eq!(addresses(&shut_in), ["10.0.0.2", "10.0.0.3"]);
        let another = gone(|desired| {
            let port = desired.bridges.get_mut("br0").and_then(|bridge| bridge.ports.get_mut("ns3")).expect("a port");
            port.netns_id.ino = 9;
        });
        assert_eq!(addresses(&another), ["10.0.0.3"], "another namespace has its name");
    }

    #[test]
    fn ports_that_are_not_published_any_more_lose_theirs() {
        let some =
            gone(|desired| desired.unpublish("br0", "ns2", &["83-84".parse().expect("a spec")]).expect("takes back"));
        assert!(some.containers.is_empty());
        let (before, after) = some.unpublished.expect("something is gone");
        let lost = |port| before.has(6, [192, 0, 2, 1].into(), port) && !after.has(6, [192, 0, 2, 1].into(), port);
        assert_eq!((7999..8012).filter(|port| lost(*port)).collect::<Vec<u16>>(), [8003, 8004]);
        assert!(!before.has(17, [192, 0, 2, 1].into(), 8003) && !before.has(6, IpAddr::from([0u16; 8]), 8003));
    }
}
