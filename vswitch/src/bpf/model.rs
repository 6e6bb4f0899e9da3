//! The classifier's rules once more, as a function of plain Rust: what the programs in the kernel are compared with,
//! and what is fuzzed.
//!
//! It is written to be obviously right and knows nothing of how the C text goes about it: every header is a slice,
//! every refusal is a `None`, and no look-up is saved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::counters::Counter;
use super::ports::Flow;
use super::service::Protocol;

/// How long after its first fragment a later one belongs to it.
pub const FRAGMENT_FRESH: Duration = Duration::from_secs(30);
/// The most extension headers that are looked through.
pub const EXTENSIONS_MAX: usize = 8;
/// How far into a frame a header may start.
pub const REACH_BYTES: usize = 0x3fff;

/// What the maps hold.
#[derive(Debug, Clone, Default)]
pub struct Maps {
    /// The host's addresses.
    pub local: BTreeSet<IpAddr>,
    /// Ports that are published at all addresses; `true` for IPv6.
    pub published: BTreeSet<(Protocol, bool, u16)>,
    /// Ports published at one address, and tunnels' ports: the rule, by protocol, address and port. Unspecified: any of
    /// its family.
    pub services: BTreeMap<(Protocol, IpAddr, u16), Counter>,
    /// Ports and identifiers of translated flows; `true` for IPv6.
    pub translated: BTreeSet<(Flow, bool, u16)>,
    /// Networks behind the switch to which others route.
    pub routed: BTreeSet<IpNet>,
    /// When the first fragment of a packet was taken.
    pub fragments: BTreeMap<Fragments, Duration>,
    /// Whether fragments that overtake their first one at an uplink are withheld from the host. (How many they may be is
    /// not modelled.)
    pub withholds: bool,
    /// Packets in fragments that were not taken: since when that is known, and whether they are the host's.
    pub host_fragments: BTreeMap<Fragments, (Duration, bool)>,
}

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// From outside, through a shared uplink.
    Uplink,
    /// From the host itself, through its loopback interface.
    Loopback,
}

/// What the fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fragments {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// IPv4 only: fragments of one IPv6 packet need not agree on it.
    protocol: Option<u8>,
}

/// What a header says about fragmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Later,
}

/// An IP packet, up to its transport header.
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    part: Part,
    identification: u32,
    /// From the transport header to the packet's end.
    payload: Bytes<'a>,
}

/// A part of the frame that knows where in the frame it is.
#[derive(Debug, Clone, Copy)]
struct Bytes<'a> {
    at: usize,
    bytes: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn skip(self, count: usize) -> Option<Self> {
        Some(Self { at: self.at + count, bytes: self.bytes.get(count..)? })
    }

    fn cut(self, count: usize) -> Option<Self> {
        Some(Self { at: self.at, bytes: self.bytes.get(..count)? })
    }

    /// The header that starts here, if it is whole and within reach.
    fn header<const N: usize>(self) -> Option<&'a [u8; N]> {
        if self.at > REACH_BYTES { None } else { self.bytes.first_chunk() }
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// `whole`: the packet is all there, and its length field counts.
fn ipv4(bytes: Bytes<'_>, whole: bool) -> Option<Ip<'_>> {
    let header = bytes.header::<20>()?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_bytes < 20 {
        return None;
    }
    let bytes = if whole { bytes.cut(usize::from(be16(header, 2)))? } else { bytes };
    let payload = match bytes.skip(header_bytes) {
        Some(payload) => payload,
        None if whole => return None,
        // Its options are cut off: there is nothing behind them.
        None => Bytes { at: bytes.at + header_bytes, bytes: &[] },
    };
    let flags = be16(header, 6);
    let part = match (flags & 0x1fff, flags & 0x2000) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    Some(Ip {
        source: address(12),
        destination: address(16),
        protocol: header[9],
        part,
        identification: u32::from(be16(header, 4)),
        payload,
    })
}

fn ipv6(bytes: Bytes<'_>, whole: bool) -> Option<Ip<'_>> {
    let header = bytes.header::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut rest = bytes.skip(40)?;
    if whole {
        rest = rest.cut(usize::from(be16(header, 4)))?;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = std::array::from_fn(|i| header[at + i]);
        // One that stands for an IPv4 address is none for a packet.
        Some(Ipv6Addr::from(octets)).filter(|address| address.to_ipv4_mapped().is_none()).map(IpAddr::V6)
    };
    let mut ip = Ip {
        source: address(8)?,
        destination: address(24)?,
        protocol: header[6],
        part: Part::Whole,
        identification: 0,
        payload: rest,
    };
    let mut fragment_headers = 0;
    let mut extensions = 0;
    while matches!(ip.protocol, 0 | 43 | 44 | 51 | 60) {
        extensions += 1;
        let extension = ip.payload.header::<8>()?;
        if extensions > EXTENSIONS_MAX {
            return None;
        }
        let length = usize::from(extension[1]);
        let bytes = match ip.protocol {
            44 => {
                fragment_headers += 1;
                if fragment_headers > 1 {
                    return None;
                }
                ip.identification = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                let offset_and_flag = be16(extension, 2);
                if offset_and_flag >> 3 != 0 {
                    ip.part = Part::Later;
                    return Some(ip);
                }
                if offset_and_flag & 1 == 1 {
                    ip.part = Part::First;
                }
                8
            }
            51 => (length + 2) * 4,
            43 if extension[3] != 0 => return None,
            _ => (length + 1) * 8,
        };
        ip.protocol = extension[0];
        ip.payload = match ip.payload.skip(bytes) {
            Some(payload) => payload,
            None => Bytes { at: ip.payload.at + bytes, bytes: &[] },
        };
    }
    Some(ip)
}

impl Ip<'_> {
    fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// The protocol, if it is one with ports, and the bytes of its fixed header.
    fn with_ports(&self) -> Option<(Protocol, usize)> {
        match self.protocol {
            6 => Some((Protocol::Tcp, 20)),
            17 => Some((Protocol::Udp, 8)),
            132 => Some((Protocol::Sctp, 12)),
            _ => None,
        }
    }

    fn is_icmp(&self) -> bool {
        self.protocol == if self.is_ipv6() { 58 } else { 1 }
    }
}

impl Maps {
    /// Which rule takes `frame`, if any. `to_host`: what tc knows besides the bytes, that the frame is for this host's
    /// Ethernet address and had no VLAN tag; of XDP, always true.
    pub fn classify(&mut self, arrival: Arrival, frame: &[u8], to_host: bool, now: Duration) -> Counter {
        if to_host { self.take(arrival, frame, now).unwrap_or(Counter::Passed) } else { Counter::Passed }
    }

    /// Whether the rear guard, while it stands, drops `frame`, which no classifier has passed: what is the switch's, but
    /// for its tunnels.
    pub fn guard(&mut self, arrival: Arrival, frame: &[u8], to_host: bool, now: Duration) -> bool {
        let (services, withholds) = (self.services.clone(), std::mem::take(&mut self.withholds));
        self.services.retain(|_, rule| *rule != Counter::Vxlan);
        let rule = self.classify(arrival, frame, to_host, now);
        (self.services, self.withholds) = (services, withholds);
        rule != Counter::Passed
    }

    fn take(&mut self, arrival: Arrival, frame: &[u8], now: Duration) -> Option<Counter> {
        let bytes = Bytes { at: 0, bytes: frame };
        let ethernet = bytes.header::<14>()?;
        if ethernet[0] & 1 == 1 {
            return None;
        }
        let ip = match be16(ethernet, 12) {
            0x0800 => ipv4(bytes.skip(14)?, true)?,
            0x86dd => ipv6(bytes.skip(14)?, true)?,
            _ => return None,
        };
        let has_group_source = ethernet[6] & 1 == 1;
        if arrival == Arrival::Uplink && self.is_routed(ip.destination) {
            return Some(Counter::Routed);
        }
        let fragments = Fragments {
            source: ip.source,
            destination: ip.destination,
            identification: ip.identification,
            protocol: (!ip.is_ipv6()).then_some(ip.protocol),
        };
        let is_fresh = |since: Duration| now.saturating_sub(since) < FRAGMENT_FRESH;
        let may_withhold = self.withholds && arrival == Arrival::Uplink && self.is_local(arrival, ip.destination);
        let known = self.host_fragments.get(&fragments).copied().filter(|(since, _)| is_fresh(*since));
        match ip.part {
            Part::Whole => self.transport(arrival, &ip),
            Part::First | Part::Later if has_group_source => None,
            Part::First => {
                let rule = self.transport(arrival, &ip);
                if rule.is_some() {
                    self.fragments.insert(fragments, now);
                    return rule;
                }
                self.fragments.remove(&fragments);
                if !may_withhold {
                    return None;
                }
                self.host_fragments.insert(fragments, (now, true));
                known.is_some_and(|(_, is_hosts)| !is_hosts).then_some(Counter::Undecided)
            }
            Part::Later if self.fragments.get(&fragments).is_some_and(|first| is_fresh(*first)) => {
                Some(Counter::LaterFragment)
            }
            Part::Later => match known {
                Some((_, is_hosts)) => (may_withhold && !is_hosts).then_some(Counter::Undecided),
                None => may_withhold.then(|| {
                    self.host_fragments.insert(fragments, (now, false));
                    Counter::Undecided
                }),
            },
        }
    }

    /// Whether the host has this address, as far as packets from there are concerned.
    fn is_local(&self, arrival: Arrival, address: IpAddr) -> bool {
        if address.is_loopback() { arrival == Arrival::Loopback } else { self.local.contains(&address) }
    }

    fn is_routed(&self, address: IpAddr) -> bool {
        self.routed.iter().any(|network| network.contains(&address)) && !self.is_local(Arrival::Loopback, address)
    }

    fn transport(&self, arrival: Arrival, ip: &Ip<'_>) -> Option<Counter> {
        if !self.is_local(arrival, ip.destination) {
            return None;
        }
        if let Some((protocol, header_bytes)) = ip.with_ports() {
            let ports = ip.payload.header::<4>()?;
            ip.payload.cut(header_bytes)?;
            return self.port(protocol, ip.destination, be16(ports, 2));
        }
        if !ip.is_icmp() {
            return None;
        }
        let icmp = ip.payload.header::<8>()?;
        let (reply, is_error) = match ip.is_ipv6() {
            false => (0, matches!(icmp[0], 3 | 11 | 12)),
            true => (129, matches!(icmp[0], 1..=4)),
        };
        if icmp[0] == reply {
            let ours = self.translated.contains(&(Flow::Icmp, ip.is_ipv6(), be16(icmp, 4)));
            return ours.then_some(Counter::EchoReply);
        }
        (is_error && self.sent(ip)).then_some(Counter::IcmpError)
    }

    /// The rule for packets to a port of one of the host's addresses.
    fn port(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<Counter> {
        let any = if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let service = |address| self.services.get(&(protocol, address, port)).copied();
        let published = || {
            let ours = self.published.contains(&(protocol, address.is_ipv6(), port));
            ours.then_some(Counter::Published)
        };
        let translated = || {
            let ours = self.translated.contains(&(protocol.flow(), address.is_ipv6(), port));
            ours.then_some(Counter::Translated)
        };
        service(address).or_else(|| service(any)).or_else(published).or_else(translated)
    }

    /// Whether the packet inside of an ICMP error is one that the switch sent from the address that the error came to.
    fn sent(&self, error: &Ip<'_>) -> bool {
        let inner = |bytes| if error.is_ipv6() { ipv6(bytes, false) } else { ipv4(bytes, false) };
        let Some(ip) = error.payload.skip(8).and_then(inner) else { return false };
        let Some(header) = ip.payload.header::<8>() else { return false };
        if ip.part == Part::Later || ip.source != error.destination {
            return false;
        }
        if let Some((protocol, _)) = ip.with_ports() {
            let (from, to) = (be16(header, 0), be16(header, 2));
            return self.port(protocol, ip.source, from).is_some()
                || self.port(protocol, ip.source, to) == Some(Counter::Vxlan);
        }
        let request = if ip.is_ipv6() { 128 } else { 8 };
        ip.is_icmp() && header[0] == request && self.translated.contains(&(Flow::Icmp, ip.is_ipv6(), be16(header, 4)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_taken_and_its_neighbours_pass() {
        let host = Ipv4Addr::new(192, 0, 2, 1);
        let mut maps = Maps { local: BTreeSet::from([host.into()]), ..Maps::default() };
        maps.services.insert((Protocol::Udp, Ipv4Addr::UNSPECIFIED.into(), 53), Counter::Published);
        let mut frame = vec![0; 14 + 20 + 8];
        frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        frame[16..18].copy_from_slice(&28u16.to_be_bytes());
        frame[23] = 17;
        frame[30..34].copy_from_slice(&host.octets());
        for (port, rule) in [(53u16, Counter::Published), (52, Counter::Passed), (54, Counter::Passed)] {
            frame[36..38].copy_from_slice(&port.to_be_bytes());
            let mut classify = |frame: &[u8], to_host| maps.classify(Arrival::Uplink, frame, to_host, Duration::ZERO);
            assert_eq!(classify(&frame, true), rule);
            assert_eq!(classify(&frame, false), Counter::Passed);
            assert_eq!(classify(&frame[..41], true), Counter::Passed, "cut short");
        }
    }
}
