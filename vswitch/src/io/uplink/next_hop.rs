//! The way to a destination, as whoever builds an Ethernet header needs it.
//!
//! The kernel's own routing decides; this is only the shape of the answer. The control plane
//! mirrors routes and neighbours and implements [`NextHops`]; a worker keeps an answer for as long
//! as [`NextHops::generation`] does not change, which is one load from memory per burst.

use std::fmt;
use std::net::IpAddr;

/// The next hop towards a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The index of the interface that the packet leaves by.
    pub oif: u32,
    /// That interface's Ethernet address: the frame's source.
    pub oif_mac: [u8; 6],
    /// That interface's MTU: the largest IP packet, in bytes.
    pub mtu: u32,
    /// The router, or the destination itself where that is on the link.
    pub neighbour: IpAddr,
    /// The neighbour's Ethernet address: the frame's destination.
    pub mac: [u8; 6],
    /// The address that the host itself would send from.
    pub source: Option<IpAddr>,
    /// Whether the neighbour answered lately. Where not, the address may be used, and
    /// [`NextHops::solicit`] has the kernel confirm it.
    pub confirmed: bool,
}

/// Why packets to a destination go nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A `blackhole` route: dropped without a word.
    Blackhole,
    /// An `unreachable` route.
    Unreachable,
    /// A `prohibit` route.
    Prohibit,
    /// No route leads there, or only over interfaces that are down.
    NoRoute,
    /// It is this host's own address.
    Local,
    /// It is a broadcast or multicast address.
    Group,
    /// The way leads over an interface without Ethernet addresses.
    NotEthernet,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blackhole => "a blackhole route",
            Self::Unreachable => "an unreachable route",
            Self::Prohibit => "a prohibit route",
            Self::NoRoute => "no route",
            Self::Local => "this host's own address",
            Self::Group => "a broadcast or multicast address",
            Self::NotEthernet => "a way over an interface without Ethernet addresses",
        })
    }
}

/// The answer to "where does a packet to this destination go?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// There.
    Via(NextHop),
    /// To this neighbour, whose Ethernet address is not known: [`NextHops::solicit`] it, and drop or
    /// hold the packet.
    Unresolved {
        /// The index of the interface that the packet would leave by.
        oif: u32,
        /// The neighbour whose address is wanted.
        neighbour: IpAddr,
        /// The address that the host itself would send from.
        source: Option<IpAddr>,
    },
    /// Nowhere.
    Refused(Refusal),
}

/// Answers where packets go, from a mirror of the host's routes and neighbours.
pub trait NextHops: Send + Sync + fmt::Debug {
    /// Changes whenever any answer may have changed.
    fn generation(&self) -> u64;

    /// Changes whenever a route may have changed, and not with every neighbour; it never goes back.
    fn routes_generation(&self) -> u64 {
        self.generation()
    }

    /// Where a packet to `destination` goes. `flow_hash` chooses among ways of equal cost, so that
    /// one flow keeps to one of them.
    fn resolve(&self, destination: IpAddr, flow_hash: u32) -> Resolution;

    /// Asks the kernel to find out or to confirm a neighbour's address. Never waits; asking again
    /// before the answer came costs nothing but the call.
    fn solicit(&self, oif: u32, neighbour: IpAddr);
}
