//! What a packet of a connection is known by.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Protocol, addresses and ports of one direction of a connection.
///
/// The echoes of ICMP and ICMPv6 have an identifier in place of ports: it is the source port of a request and the
/// destination port of a reply, and the other port is zero, so that a reply's tuple is the request's reversed. Other
/// protocols have no ports: both are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// The IP protocol number.
    pub protocol: u8,
    /// Who sends.
    pub source: IpAddr,
    /// The sender's port, or zero.
    pub source_port: u16,
    /// Who is sent to; of the source's family.
    pub destination: IpAddr,
    /// The receiver's port, or zero.
    pub destination_port: u16,
}

impl Tuple {
    /// The other direction.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = SocketAddr::new(self.source, self.source_port);
        let destination = SocketAddr::new(self.destination, self.destination_port);
        write!(f, "protocol {} {source} -> {destination}", self.protocol)
    }
}

/// Where packets of a direction come from. A packet from another place is of no connection: nobody can answer for
/// somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Place {
    /// A container on a bridge of the switch.
    Container = 0,
    /// Another machine, through a shared uplink.
    Outside = 1,
    /// A program of this host, through its loopback interface.
    Loopback = 2,
}

impl Place {
    /// The place with this number, for what is stored.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Container),
            1 => Some(Self::Outside),
            2 => Some(Self::Loopback),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_reversed_is_the_same() {
        let tuple = Tuple {
            protocol: 6,
            source: IpAddr::from([192, 0, 2, 1]),
            source_port: 1,
            destination: IpAddr::from([192, 0, 2, 2]),
            destination_port: 2,
        };
        assert_eq!(tuple.reversed().reversed(), tuple);
        assert_eq!(tuple.to_string(), "protocol 6 192.0.2.1:1 -> 192.0.2.2:2");
    }
}
