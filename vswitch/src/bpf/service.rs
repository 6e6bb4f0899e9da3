//! What is published and where tunnels receive, as the maps have it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

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

    /// The protocol with this number in an IP header.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// What a port of it is to the programs.
    #[must_use]
    pub fn flow(self) -> Flow {
        match self {
            Self::Tcp => Flow::Tcp,
            Self::Udp => Flow::Udp,
            Self::Sctp => Flow::Sctp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Which of the host's addresses a port is published at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostAddresses {
    /// All, those that it will have later included.
    All,
    /// All IPv4 addresses.
    AllIpv4,
    /// All IPv6 addresses.
    AllIpv6,
    /// This one.
    One(IpAddr),
}

impl HostAddresses {
    /// What is published at `address`, of which the unspecified one stands for all of its family.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(ip) if ip.is_unspecified() => Self::AllIpv4,
            IpAddr::V6(ip) if ip.is_unspecified() => Self::AllIpv6,
            address => Self::One(address),
        }
    }

    /// The families of which all addresses are meant; `true` is IPv6.
    pub(super) fn families(self) -> &'static [bool] {
        match self {
            Self::All => &[false, true],
            Self::AllIpv4 => &[false],
            Self::AllIpv6 => &[true],
            Self::One(_) => &[],
        }
    }
}

impl From<Option<IpAddr>> for HostAddresses {
    fn from(address: Option<IpAddr>) -> Self {
        address.map_or(Self::All, Self::of)
    }
}

/// `struct address`: an IPv4 address is `::ffff:a.b.c.d`.
pub(super) fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address that stands for all of a family.
fn any(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// How many ports one entry of the map has (`SERVICE_BLOCK`).
const BLOCK: u16 = 64;

/// `struct service_key`.
pub(super) type BlockKey = [u8; 20];
/// `struct service_block`.
pub(super) type BlockValue = [u64; 2];

/// A block of ports of one address, or (unspecified) of all of its family. The order is that of a search for all blocks
/// of the same ports: IPv4 addresses stand before IPv6's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    protocol: Protocol,
    number: u16,
    address: IpAddr,
}

impl Block {
    fn key(&self) -> BlockKey {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&address_key(self.address));
        key[16..18].copy_from_slice(&self.number.to_ne_bytes());
        key[18] = self.protocol.number();
        key
    }
}

/// The ports of a block by their rules, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rules {
    published: u64,
    vxlan: u64,
}

impl Rules {
    fn of(&mut self, rule: Counter) -> &mut u64 {
        if rule == Counter::Vxlan { &mut self.vxlan } else { &mut self.published }
    }

    fn all(self) -> u64 {
        self.published | self.vxlan
    }

    fn value(self) -> BlockValue {
        [self.published, self.vxlan]
    }
}

/// What is to be done to the maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Entries of `services`, and what they are to be; none: removed.
    pub(super) blocks: Vec<(BlockKey, Option<BlockValue>)>,
    /// Ports of `service_ports` and whether this bit is to be set.
    pub(super) filter: Vec<(u16, u8, bool)>,
    /// The same for `published_at_one`.
    pub(super) published: Vec<(u16, u8, bool)>,
    /// What [`Services`] had before.
    before: Vec<(Block, Option<Rules>)>,
}

/// The ports of one address that have a rule, and the ports of tunnels.
#[derive(Debug, Default)]
pub(super) struct Services(BTreeMap<Block, Rules>);

impl Services {
    /// The first port of `ports` that has another rule than `rule` at `address`.
    pub(super) fn other_rule(
        &self,
        protocol: Protocol,
        address: IpAddr,
        ports: &RangeInclusive<u16>,
        rule: Counter,
    ) -> Option<u16> {
        blocks(ports).find_map(|(number, bits)| {
            let mut rules = *self.0.get(&Block { protocol, number, address })?;
            *rules.of(rule) = 0;
            let taken = rules.all() & bits;
            (taken != 0).then(|| number * BLOCK + taken.trailing_zeros() as u16)
        })
    }

    /// The same at all addresses of a family.
    pub(super) fn other_rule_at_all(
        &self,
        protocol: Protocol,
        ipv6: bool,
        ports: &RangeInclusive<u16>,
        rule: Counter,
    ) -> Option<u16> {
        self.other_rule(protocol, any(ipv6), ports, rule)
    }

    /// Gives `ports` of `address` a rule, or takes it from them; those that have it or do not have it stay as they are.
    pub(super) fn set(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        ports: &RangeInclusive<u16>,
        rule: Counter,
        on: bool,
    ) -> Change {
        let mut change = Change::default();
        for (number, bits) in blocks(ports) {
            let block = Block { protocol, number, address };
            let before = self.0.get(&block).copied().unwrap_or_default();
            let mut after = before;
            if on {
                *after.of(rule) |= bits;
            } else {
                *after.of(rule) &= !bits;
            }
            if after == before {
                continue;
            }
            let known = if after == Rules::default() { self.0.remove(&block) } else { self.0.insert(block, after) };
            change.before.push((block, known));
            if after == Rules::default() {
                change.blocks.push((block.key(), None));
            } else {
                change.blocks.push((block.key(), Some(after.value())));
            }
            let flag = bit(protocol.flow(), address.is_ipv6());
            let flags = |changed: u64, now: u64| {
                let changed = (0..BLOCK).filter(move |at| changed >> at & 1 == 1);
                changed.map(move |at| (number * BLOCK + at, flag, now >> at & 1 == 1))
            };
            let at_all = self.at_any_address(block);
            change.filter.extend(flags(before.all() ^ after.all(), at_all.all()));
            change.published.extend(flags(before.published ^ after.published, at_all.published));
        }
        change
    }

    /// Takes a change back; gives the entries as they were.
    pub(super) fn undo(&mut self, change: &Change) -> Vec<(BlockKey, Option<BlockValue>)> {
        let restore = |(block, rules): &(Block, Option<Rules>)| {
            match rules {
                Some(rules) => self.0.insert(*block, *rules),
                None => self.0.remove(block),
            };
            (block.key(), rules.map(Rules::value))
        };
        change.before.iter().map(restore).collect()
    }

    /// The rules that the ports of a block have at some address of the family.
    fn at_any_address(&self, block: Block) -> Rules {
        let (first, last) = match block.address {
            IpAddr::V4(_) => (any(false), Ipv4Addr::BROADCAST.into()),
            IpAddr::V6(_) => (any(true), Ipv6Addr::from([0xff; 16]).into()),
        };
        let blocks = self.0.range(Block { address: first, ..block }..=Block { address: last, ..block });
        blocks.fold(Rules::default(), |all, (_, rules)| Rules {
            published: all.published | rules.published,
            vxlan: all.vxlan | rules.vxlan,
        })
    }

    /// The ports that have `rule`, with their addresses; the unspecified one stands for all of its family.
    pub(super) fn with_rule(&self, rule: Counter) -> Vec<(Protocol, IpAddr, u16)> {
        let ports = |(block, rules): (&Block, &Rules)| {
            let (block, bits) = (*block, *{ *rules }.of(rule));
            (0..BLOCK)
                .filter(move |at| bits >> at & 1 == 1)
                .map(move |at| (block.protocol, block.address, block.number * BLOCK + at))
        };
        self.0.iter().flat_map(ports).collect()
    }

    /// The addresses that `address` means in this map: itself, or those that stand for both families.
    pub(super) fn each(address: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let all = if address.is_none() { [Some(any(false)), Some(any(true))] } else { [address, None] };
        all.into_iter().flatten()
    }
}

/// The blocks that a range touches, each with the bits of its ports in there.
fn blocks(ports: &RangeInclusive<u16>) -> impl Iterator<Item = (u16, u64)> {
    let (first, last) = (*ports.start(), *ports.end());
    let numbers = (first <= last).then_some(first / BLOCK..=last / BLOCK).into_iter().flatten();
    numbers.map(move |number| {
        let from = if number == first / BLOCK { first % BLOCK } else { 0 };
        let to = if number == last / BLOCK { last % BLOCK } else { BLOCK - 1 };
        (number, (u64::MAX >> (BLOCK - 1 - (to - from))) << from)
    })
}

/// The refusal of a port that has another rule.
pub(super) fn taken(protocol: Protocol, address: IpAddr, port: u16) -> ClassifierError {
    ClassifierError::PortTaken { service: format!("port {port}/{protocol} of {address}") }
}

/// The refusal of a port that has another rule at all addresses of a family.
pub(super) fn taken_at_all(protocol: Protocol, ipv6: bool, port: u16) -> ClassifierError {
    taken(protocol, any(ipv6), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: Counter = Counter::Published;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_range_is_cut_into_blocks() {
        let all = |ports| blocks(&ports).collect::<Vec<_>>();
        assert_eq!(all(80..=80), [(1, 1 << 16)]);
        assert_eq!(all(63..=65), [(0, 1 << 63), (1, 3)]);
        assert_eq!(all(0..=127), [(0, u64::MAX), (1, u64::MAX)]);
        assert_eq!(all(65535..=65535), [(1023, 1 << 63)]);
        let everything = all(0..=65535);
        assert_eq!((everything.len(), everything.iter().all(|(_, bits)| *bits == u64::MAX)), (1024, true));
        #[expect(clippy::reversed_empty_ranges, reason = "nothing is asked for")]
        let nothing = all(2..=1);
        assert_eq!(nothing, []);
    }

    #[test]
    fn the_filter_goes_with_the_last_service_of_its_protocol_port_and_family() {
        let mut services = Services::default();
        let mut set = |address, ports: RangeInclusive<u16>, on| {
            services.set(Protocol::Tcp, ip(address), &ports, PUBLISHED, on).filter
        };
        let (v4, v6) = (bit(Flow::Tcp, false), bit(Flow::Tcp, true));
        assert_eq!(set("192.0.2.1", 80..=81, true), [(80, v4, true), (81, v4, true)]);
        assert_eq!(set("192.0.2.1", 80..=81, true), [], "once is enough");
        assert_eq!(set("2001:db8::1", 80..=80, true), [(80, v6, true)]);
        assert_eq!(set("192.0.2.2", 80..=80, true), [(80, v4, true)]);
        assert_eq!(set("192.0.2.1", 80..=80, false), [(80, v4, true)], "192.0.2.2 has it, too");
        assert_eq!(set("192.0.2.2", 80..=80, false), [(80, v4, false)]);
        assert_eq!(set("192.0.2.2", 80..=80, false), [], "what is not there stays as it is");
        assert_eq!(set("2001:db8::1", 0..=65535, false), [(80, v6, false)]);
        assert_eq!(services.with_rule(PUBLISHED), [(Protocol::Tcp, ip("192.0.2.1"), 81)]);
    }

    #[test]
    fn one_port_has_one_rule() {
        let mut services = Services::default();
        let any = Services::each(None).collect::<Vec<_>>();
        assert_eq!(any, [ip("0.0.0.0"), ip("::")]);
        for address in any {
            services.set(Protocol::Udp, address, &(4789..=4789), Counter::Vxlan, true);
        }
        let other = |rule| services.other_rule_at_all(Protocol::Udp, false, &(4000..=5000), rule);
        assert_eq!((other(PUBLISHED), other(Counter::Vxlan)), (Some(4789), None));
        assert_eq!(services.other_rule(Protocol::Udp, ip("192.0.2.1"), &(4789..=4789), PUBLISHED), None);
        assert_eq!(services.other_rule(Protocol::Tcp, ip("::"), &(4789..=4789), PUBLISHED), None);
        let change = services.set(Protocol::Udp, ip("::"), &(4788..=4789), Counter::Vxlan, false);
        assert_eq!(services.with_rule(Counter::Vxlan).len(), 1);
        assert_eq!(services.undo(&change).len(), 1);
        assert_eq!(services.with_rule(Counter::Vxlan).len(), 2);
        let refusal = taken_at_all(Protocol::Udp, false, 4789).to_string();
        assert!(refusal.starts_with("port 4789/udp of 0.0.0.0 is taken"), "{refusal}");
    }
}
