//! The keys of the maps, and which services there are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::counters::Counter;
use super::error::ClassifierError;
use super::ports::{Flow, bit};
use crate::wire::protocol;

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp => 132,
        }
    }

    pub(super) fn flow(self) -> Flow {
        match self {
            Self::Tcp => Flow::Tcp,
            Self::Udp => Flow::Udp,
            Self::Sctp => Flow::Sctp,
        }
    }
}

/// `struct address`: an IPv4 address is `::ffff:a.b.c.d`.
pub(super) fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// `struct service`.
pub(super) type ServiceKey = [u8; 20];

fn service_key(protocol: Protocol, address: IpAddr, port: u16) -> ServiceKey {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address_key(address));
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key[18] = protocol.number();
    key
}

/// One entry of the map: a port of one address, or (unspecified) of any address of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    protocol: Protocol,
    port: u16,
    address: IpAddr,
}

impl Service {
    /// What `address` means in the map: one, or any of both families.
    pub(super) fn each(protocol: Protocol, address: Option<IpAddr>, port: u16) -> impl Iterator<Item = Self> {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let (one, any) = match address {
            Some(address) => (Some(address), None),
            None => (None, Some(any)),
        };
        one.into_iter().chain(any.into_iter().flatten()).map(move |address| Self { protocol, port, address })
    }

    pub(super) fn key(&self) -> ServiceKey {
        service_key(self.protocol, self.address, self.port)
    }

    /// The index and the bit in the array that says whether there is any.
    pub(super) fn filter(&self) -> (u16, u8) {
        (self.port, bit(self.protocol.flow(), self.address.is_ipv6()))
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "port {}/{protocol} of {}", self.port, self.address)
    }
}

/// All services, as the map has them.
#[derive(Debug, Default)]
pub(super) struct Services(BTreeMap<Service, Counter>);

impl Services {
    /// Whether `service` can get this rule, and does not have it already.
    pub(super) fn is_new(&self, service: &Service, rule: Counter) -> Result<bool, ClassifierError> {
        match self.0.get(service) {
            None => Ok(true),
            Some(&other) if other == rule => Ok(false),
            Some(_) => Err(ClassifierError::PortTaken { service: service.to_string() }),
        }
    }

    pub(super) fn has(&self, service: &Service, rule: Counter) -> bool {
        self.0.get(service) == Some(&rule)
    }

    pub(super) fn insert(&mut self, service: Service, rule: Counter) {
        self.0.insert(service, rule);
    }

    /// Takes one away; whether it was the last with its filter.
    pub(super) fn remove(&mut self, service: &Service) -> bool {
        self.0.remove(service);
        let of_port = |address| Service { address, ..*service };
        // The order is protocol, port, address; IPv4 addresses before IPv6's.
        let (first, last) = match service.address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from([0xff; 16]).into()),
        };
        self.0.range(of_port(first)..=of_port(last)).next().is_none()
    }

    pub(super) fn with_rule(&self, rule: Counter) -> Vec<Service> {
        self.0.iter().filter(|(_, r)| **r == rule).map(|(service, _)| *service).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_goes_with_the_last_service_of_its_protocol_port_and_family() {
        let mut services = Services::default();
        let of =
            |address: &str, port| Service::each(Protocol::Tcp, Some(address.parse().unwrap()), port).next().unwrap();
        let any: Vec<_> = Service::each(Protocol::Tcp, None, 80).collect();
        for service in any.iter().copied().chain([of("192.0.2.1", 80), of("192.0.2.1", 81), of("2001:db8::1", 81)]) {
            assert!(services.is_new(&service, Counter::Published).unwrap());
            services.insert(service, Counter::Published);
        }
        assert!(!services.is_new(&any[0], Counter::Published).unwrap());
        let taken = services.is_new(&any[0], Counter::Vxlan).unwrap_err().to_string();
        assert!(taken.starts_with("port 80/tcp of 0.0.0.0 is taken"), "{taken}");
        assert!(!services.remove(&any[0]), "192.0.2.1 has it too");
        assert!(services.remove(&any[1]), "no other of IPv6 has port 80");
        assert!(services.remove(&of("192.0.2.1", 80)));
        assert!(services.remove(&of("2001:db8::1", 81)));
        assert_eq!(services.with_rule(Counter::Published), [of("192.0.2.1", 81)]);
    }
}
