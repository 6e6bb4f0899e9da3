//! MAC addresses (IEEE 802, EUI-48).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A MAC address in transmission order. Serialised as its text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, nobody's address.
    pub const ZERO: Self = Self([0; 6]);

    /// The address that Docker gives a container: `02:42:` and the four bytes of its IPv4 address,
    /// so that an address that comes back brings its MAC along and no neighbour entry goes stale.
    #[inline]
    #[must_use]
    pub const fn from_ipv4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The multicast group of an IPv6 multicast address (RFC 2464, section 7).
    #[inline]
    #[must_use]
    pub const fn from_ipv6_multicast(ip: std::net::Ipv6Addr) -> Self {
        let o = ip.octets();
        Self([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }

    /// The link-local address that hosts make of it (RFC 4291 appendix A, modified EUI-64).
    #[must_use]
    pub const fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        std::net::Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// Whether the address is a group's: broadcast or multicast (the I/G bit).
    #[inline]
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is the broadcast address.
    #[inline]
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }

    /// Whether one station can have the address: neither a group's nor all zero.
    #[inline]
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Whether the address is one of `01:80:c2:00:00:00` to `0f`, which a bridge never forwards
    /// (IEEE 802.1Q table 8-1: spanning tree, pause, LACP, 802.1X, LLDP).
    #[inline]
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }

    /// Whether the address was not assigned by a manufacturer (the U/L bit).
    #[inline]
    #[must_use]
    pub const fn is_locally_administered(self) -> bool {
        self.0[0] & 2 != 0
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl From<MacAddr> for [u8; 6] {
    fn from(mac: MacAddr) -> Self {
        mac.0
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, ParseMacError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: {0:?}; write six pairs of hexadecimal digits, such as 02:42:ac:12:00:02")]
pub struct ParseMacError(String);

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        // Cut: an error message is no place for a megabyte of somebody's input.
        let refuse = || ParseMacError(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or_else(refuse)?;
            // `from_str_radix` alone would take "+f".
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        if pairs.next().is_some() { Err(refuse()) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac: MacAddr = "02:42:AC:12:00:02".parse().unwrap();
        assert_eq!(mac, MacAddr::from_ipv4(Ipv4Addr::new(172, 18, 0, 2)));
        assert_eq!(mac.to_string(), "02:42:ac:12:00:02");
        for bad in
            ["", "02", "02:42:ac:12:00", "02:42:ac:12:00:02:03", "2:42:ac:12:00:02", "02:42:ac:12:00:+2", "é2:42"]
        {
            assert!(bad.parse::<MacAddr>().unwrap_err().to_string().contains("six pairs"), "{bad}");
        }
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_group() && MacAddr::BROADCAST.is_broadcast());
        assert!(!MacAddr::ZERO.is_unicast() && !MacAddr::ZERO.is_group());
        assert!(MacAddr([0x02, 0x42, 0, 0, 0, 1]).is_unicast());
        assert!(MacAddr([0x02, 0x42, 0, 0, 0, 1]).is_locally_administered());
        assert!(MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]).is_link_local());
        assert!(!MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x10]).is_link_local());
        let all_nodes = "ff02::1".parse().unwrap();
        assert_eq!(MacAddr::from_ipv6_multicast(all_nodes).to_string(), "33:33:00:00:00:01");
    }
}
