//! Who has which ports of the host's addresses: published ports and tunnels.
//!
//! A port of all addresses of a family and the same port of one of them exclude each other, as they do for sockets: the
//! one would take what the other was promised. The index is made for one command and answers in the logarithm of
//! what there is, so that ten thousand ports are published in a moment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use super::Desired;
use crate::api::{HostPort, PortRange, Transport, any_address};
use crate::control::refusal::{Result, conflict};

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A port of a bridge, which publishes it.
    Port { bridge: String, port: String },
    /// A tunnel, which receives there.
    Tunnel { bridge: String, tunnel: String },
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { bridge, port } => write!(f, "port {port:?} of bridge {bridge:?}"),
            Self::Tunnel { bridge, tunnel } => write!(f, "tunnel {tunnel:?} of bridge {bridge:?}"),
        }
    }
}

/// Ranges of one address that do not overlap, by their first ports.
type Ranges = BTreeMap<u16, (u16, Rc<Owner>)>;

/// The index.
#[derive(Debug, Default)]
pub(super) struct Endpoints(BTreeMap<(Transport, IpAddr), Ranges>);

impl Endpoints {
    /// All of `desired`.
    pub(super) fn of(desired: &Desired) -> Self {
        let mut endpoints = Self::default();
        for (bridge, record) in &desired.bridges {
            for (port, port_record) in &record.ports {
                let owner = Rc::new(Owner::Port { bridge: bridge.clone(), port: port.clone() });
                for one in &port_record.publications {
                    endpoints.insert(one.protocol, one.host, one.host_ports(), &owner);
                }
            }
            for (tunnel, tunnel_record) in &record.tunnels {
                let Some((local, port)) = tunnel_record.underlay() else { continue };
                let owner = Rc::new(Owner::Tunnel { bridge: bridge.clone(), tunnel: tunnel.clone() });
                endpoints.insert(Transport::Udp, local, PortRange::one(port), &owner);
            }
        }
        endpoints
    }

    /// Notes that `owner` has these ports.
    pub(super) fn insert(&mut self, protocol: Transport, host: IpAddr, ports: PortRange, owner: &Rc<Owner>) {
        self.0.entry((protocol, host)).or_default().insert(ports.first, (ports.last, Rc::clone(owner)));
    }

    /// Notes that nobody has the range that begins at `first` any more.
    pub(super) fn remove(&mut self, protocol: Transport, host: IpAddr, first: u16) {
        if let Some(ranges) = self.0.get_mut(&(protocol, host)) {
            ranges.remove(&first);
        }
    }

    /// A range that has some of `ports` of `host`, and whose it is: the one with the highest ports.
    pub(super) fn taken(&self, protocol: Transport, host: IpAddr, ports: PortRange) -> Option<(HostPort, &Owner)> {
        let any = any_address(host.is_ipv6());
        // The order of the index is protocol, IPv4 before IPv6, address; the unspecified address is the first one.
        let family = if host == any { Some(self.0.range((protocol, any)..)) } else { None };
        let family = family.into_iter().flatten();
        let family = family.take_while(|((of, ip), _)| *of == protocol && ip.is_ipv6() == any.is_ipv6());
        let own = if host == any { None } else { Some([host, any]) };
        let own = own.into_iter().flatten().filter_map(|ip| self.0.get_key_value(&(protocol, ip)));
        let overlapping = family.chain(own).filter_map(|((_, ip), ranges)| {
            let (first, (last, owner)) = ranges.range(..=ports.last).next_back()?;
            let taken = HostPort { ip: *ip, ports: PortRange { first: *first, last: *last } };
            (*last >= ports.first).then_some((taken, &**owner))
        });
        overlapping.max_by_key(|(taken, _)| taken.ports.last)
    }

    /// Refuses ports that somebody has.
    pub(super) fn check_free(&self, protocol: Transport, host: IpAddr, ports: PortRange) -> Result<()> {
        match self.taken(protocol, host, ports) {
            None => Ok(()),
            Some((taken, owner)) => Err(conflict(
                format!(
                    "{}/{protocol} cannot be published: {owner} has {taken}/{protocol}",
                    HostPort { ip: host, ports }
                ),
                "choose another port of the host, or leave it out to get a free one",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ip;
    use super::*;

    #[test]
    fn all_addresses_and_one_of_them_exclude_each_other() {
        let owner = |name: &str| Rc::new(Owner::Port { bridge: "br0".into(), port: name.into() });
        let range = |first, last| PortRange { first, last };
        let mut endpoints = Endpoints::default();
        endpoints.insert(Transport::Tcp, ip("192.0.2.1"), range(80, 90), &owner("a"));
        endpoints.insert(Transport::Tcp, ip("0.0.0.0"), range(443, 443), &owner("b"));
        let taken = |protocol, host: &str, first, last| {
            endpoints.taken(protocol, ip(host), range(first, last)).map(|(taken, _)| taken.to_string())
        };
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(taken(Transport::Tcp, "0.0.0.0", 90, 100), at("192.0.2.1:80-90"));
        assert_eq!(taken(Transport::Tcp, "192.0.2.1", 1, 80), at("192.0.2.1:80-90"));
        assert_eq!(taken(Transport::Tcp, "192.0.2.1", 1, 65535), at("0.0.0.0:443"));
        assert_eq!(taken(Transport::Tcp, "192.0.2.2", 443, 443), at("0.0.0.0:443"));
        for (protocol, host, first, last) in [
            (Transport::Tcp, "192.0.2.2", 80, 90),
            (Transport::Tcp, "192.0.2.1", 91, 442),
            (Transport::Udp, "0.0.0.0", 1, 65535),
            (Transport::Tcp, "::", 1, 65535),
        ] {
            assert_eq!(taken(protocol, host, first, last), None, "{host} {first}-{last}");
        }
        endpoints.remove(Transport::Tcp, ip("192.0.2.1"), 80);
        assert_eq!(endpoints.taken(Transport::Tcp, ip("192.0.2.1"), range(80, 80)), None);
    }
}
