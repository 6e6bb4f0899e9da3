//! Published ports in the control protocol.
//!
//! What is asked for is written as Docker writes it, [`PublishSpec`]; what there is then, with everything chosen, is a
//! [`Publication`]. The same text means the same for every client, because it is parsed here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Ports `first` to `last`, both included: 1 to 65535, in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// A single port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The number of ports.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last.saturating_sub(self.first)) + 1
    }

    /// Whether both have a port.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The ports that both have.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }
}

impl IntoIterator for PortRange {
    type Item = u16;
    type IntoIter = std::ops::RangeInclusive<u16>;

    fn into_iter(self) -> Self::IntoIter {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first > range.last {
            return Err(SpecError::Backwards(text.to_owned()));
        }
        Ok(range)
    }
}

/// Digits alone: `u16`'s own parser takes a sign, too.
fn port(text: &str) -> Result<u16, SpecError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| text.parse().ok()).flatten().filter(|port| *port != 0);
    port.ok_or_else(|| SpecError::Port(text.to_owned()))
}

/// Why a text says no port that could be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not a port.
    #[error("`{0}` is not a port: write 1 to 65535, or a range such as 8000-8010")]
    Port(String),
    /// A range that ends before it begins.
    #[error("the range `{0}` ends before it begins")]
    Backwards(String),
    /// Not a protocol.
    #[error("`{0}` is not a protocol: write tcp, udp or sctp")]
    Protocol(String),
    /// Not an address of the host.
    #[error("`{0}` is not an IP address: write [IP:][HOSTPORT:]PORT, IPv6 as in [::1]:8080:80")]
    Address(String),
    /// Ranges that do not fit each other.
    #[error("the ranges {host} of the host and {container} of the container differ in length")]
    Lengths {
        /// The host's.
        host: PortRange,
        /// The container's.
        container: PortRange,
    },
}

/// Which ports of the host lead to which of a container, as Docker writes it:
/// `[[IP:][HOSTPORT]:]PORT[/tcp|udp|sctp]`, where both ports may be ranges.
///
/// | text | means |
/// |---|---|
/// | `8080:80` | port 8080 of the host's addresses |
/// | `127.0.0.1:8080:80/udp`, `[::1]:8080:80` | of this address alone |
/// | `0.0.0.0:8080:80`, `[::]:8080:80` | of all IPv4, or IPv6, addresses |
/// | `80`, `192.0.2.1::80` | a free port of the switch's choice |
/// | `8000-8010:8000-8010` | each to its counterpart |
/// | `8000-8010:80` | the first free one of these |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublishSpec {
    /// The host's address; unspecified: all of its family; none: as the bridge has it.
    pub host_ip: Option<IpAddr>,
    /// The host's ports; none: of the switch's choice.
    pub host: Option<PortRange>,
    /// The container's ports: as many as the host's, or one.
    pub container: PortRange,
    /// The protocol.
    pub protocol: Transport,
}

impl FromStr for PublishSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (ports, protocol) = split_protocol(text)?;
        // From the right, because an IPv6 address has colons, too.
        let mut parts = ports.rsplitn(3, ':');
        let container: PortRange = parts.next().unwrap_or_default().parse()?;
        let host = match parts.next() {
            None | Some("") => None,
            Some(range) => Some(range.parse::<PortRange>()?),
        };
        let host_ip = match parts.next() {
            None | Some("") => None,
            Some(ip) => Some(address(ip)?),
        };
        if let Some(host) = host
            && container.count() > 1
            && host.count() != container.count()
        {
            return Err(SpecError::Lengths { host, container });
        }
        Ok(Self { host_ip, host, container, protocol })
    }
}

fn split_protocol(text: &str) -> Result<(&str, Transport), SpecError> {
    let Some((ports, name)) = text.rsplit_once('/') else { return Ok((text, Transport::Tcp)) };
    let named = Transport::ALL.into_iter().find(|protocol| name.eq_ignore_ascii_case(&protocol.to_string()));
    Ok((ports, named.ok_or_else(|| SpecError::Protocol(name.to_owned()))?))
}

fn address(text: &str) -> Result<IpAddr, SpecError> {
    let refused = || SpecError::Address(text.to_owned());
    match text.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or_else(refused)?;
            inner.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| refused())
        }
        None => text.parse().map_err(|_| refused()),
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            None => {}
        }
        match (self.host_ip, self.host) {
            (_, Some(host)) => write!(f, "{host}:")?,
            (Some(_), None) => f.write_str(":")?,
            (None, None) => {}
        }
        write!(f, "{}/{}", self.container, self.protocol)
    }
}

impl TryFrom<String> for PublishSpec {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<PublishSpec> for String {
    fn from(spec: PublishSpec) -> Self {
        spec.to_string()
    }
}

/// Ports that something in a container listens on: `80`, `53/udp`, `8000-8010/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExposeSpec {
    /// The protocol.
    pub protocol: Transport,
    /// The ports.
    pub ports: PortRange,
}

impl FromStr for ExposeSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (ports, protocol) = split_protocol(text)?;
        Ok(Self { protocol, ports: ports.parse()? })
    }
}

impl fmt::Display for ExposeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ports, self.protocol)
    }
}

impl TryFrom<String> for ExposeSpec {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<ExposeSpec> for String {
    fn from(spec: ExposeSpec) -> Self {
        spec.to_string()
    }
}

/// Ports to be published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Which ports, see [`PublishSpec`].
    #[schema(value_type = Vec<String>, example = json!(["8080:80", "127.0.0.1::53/udp"]))]
    pub specs: Vec<PublishSpec>,
    /// The networks that may use them; everybody if empty.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["192.0.2.0/24"]))]
    pub from: Vec<IpNet>,
}

/// Published ports as they are: those of the host lead to the container's, each to its counterpart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Publication {
    /// The bridge.
    pub bridge: String,
    /// The port of the bridge.
    pub port: String,
    /// What Docker calls the container whose port it is, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// The protocol.
    pub protocol: Transport,
    /// The host's address; `0.0.0.0` or `::` for all of that family.
    #[schema(value_type = String, example = "0.0.0.0")]
    pub host_ip: IpAddr,
    /// The host's ports.
    pub host: PortRange,
    /// The container's ports, as many as the host's.
    pub container: PortRange,
    /// The networks that may use it; everybody if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub from: Vec<IpNet>,
}

impl Publication {
    /// The host's side as text.
    #[must_use]
    pub fn host_port(&self) -> HostPort {
        HostPort { ip: self.host_ip, ports: self.host }
    }
}

/// Ports of an address, as text: `0.0.0.0:8080`, `[::]:8000-8010`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// The address.
    pub ip: IpAddr,
    /// The ports.
    pub ports: PortRange,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.ports.first).fmt(f)?;
        if self.ports.first == self.ports.last { Ok(()) } else { write!(f, "-{}", self.ports.last) }
    }
}

/// The address that stands for all of a family.
#[must_use]
pub const fn any_address(ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<PublishSpec, SpecError> {
        text.parse()
    }

    #[test]
    fn all_of_dockers_forms() {
        for (text, ip, host, container, protocol) in [
            ("80", None, None, "80", Transport::Tcp),
            (":80", None, None, "80", Transport::Tcp),
            ("8080:80", None, Some("8080"), "80", Transport::Tcp),
            ("8080:80/UDP", None, Some("8080"), "80", Transport::Udp),
            ("127.0.0.1:8080:80/udp", Some("127.0.0.1"), Some("8080"), "80", Transport::Udp),
            ("127.0.0.1::80/sctp", Some("127.0.0.1"), None, "80", Transport::Sctp),
            ("[::1]:8080:80", Some("::1"), Some("8080"), "80", Transport::Tcp),
            ("::1:8080:80", Some("::1"), Some("8080"), "80", Transport::Tcp),
            ("[::]::80", Some("::"), None, "80", Transport::Tcp),
            ("8000-8010:8000-8010", None, Some("8000-8010"), "8000-8010", Transport::Tcp),
            ("8000-8010:80", None, Some("8000-8010"), "80", Transport::Tcp),
            ("80-90/tcp", None, None, "80-90", Transport::Tcp),
            ("1-65535:1-65535", None, Some("1-65535"), "1-65535", Transport::Tcp),
        ] {
            let expected = PublishSpec {
                host_ip: ip.map(|ip: &str| ip.parse().expect("an address")),
                host: host.map(|range: &str| range.parse().expect("a range")),
                container: container.parse().expect("a range"),
                protocol,
            };
            assert_eq!(spec(text), Ok(expected), "{text}");
            assert_eq!(spec(&expected.to_string()), Ok(expected), "{text}: what is shown is what is read");
        }
    }

    #[test]
    fn what_says_no_port_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "+80",
            "80/",
            "80/icmp",
            "x:80",
            "80:",
            "80:0",
            "1.2.3:80:80",
            "localhost:80:80",
            "90-80",
            "80-",
            "-80",
            "80-90:80-91",
            "8000-8001:80-90",
            "[::1:80:80",
            "[127.0.0.1]:80:80",
            "80 ",
            "1:2:3:4:80",
        ] {
            assert!(spec(text).is_err(), "{text}: {:?}", spec(text));
        }
        assert!("80:80".parse::<ExposeSpec>().is_err());
        assert_eq!("53/udp".parse::<ExposeSpec>().map(|one| one.to_string()), Ok("53/udp".to_owned()));
    }

    #[test]
    fn endpoints_as_docker_port_prints_them() {
        let at = |ip: &str, ports: &str| {
            HostPort { ip: ip.parse().expect("an address"), ports: ports.parse().expect("a range") }.to_string()
        };
        assert_eq!(at("0.0.0.0", "32768"), "0.0.0.0:32768");
        assert_eq!(at("::", "32768"), "[::]:32768");
        assert_eq!(at("::1", "8000-8010"), "[::1]:8000-8010");
    }
}
