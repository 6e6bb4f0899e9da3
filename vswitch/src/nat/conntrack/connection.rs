//! What the table is asked, and what it answers.

use std::fmt;
use std::net::IpAddr;

use super::super::{Place, Tuple};
use super::state::State;

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// As the initiator sends.
    Original = 0,
    /// As the responder answers.
    Reply = 1,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// What the table looks at beyond the tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// TCP's flags (RFC 9293 section 3.1, the low eight); none for other protocols.
    pub tcp_flags: Option<u8>,
    /// TCP's sequence number, if it is known. Without it a SYN always counts as newer than a FIN before it.
    pub sequence: Option<u32>,
    /// Whether an SCTP packet ends its association: SHUTDOWN COMPLETE or ABORT.
    pub ends_association: bool,
}

/// What is done about the source of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceNat {
    /// It stays. Only where two published ports lead to the same target, and a client uses one port of its own with
    /// both, its port (never its address) is replaced.
    Keep,
    /// It gets an external endpoint at this address of the host: that of its mapping, if it has one.
    External(IpAddr),
}

/// A connection to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct New {
    /// As the initiator sent it.
    pub tuple: Tuple,
    /// Where the initiator is.
    pub origin: Place,
    /// Where the responder is.
    pub responder: Place,
    /// Whom it is really for, if it came to a published port.
    pub destination: Option<(IpAddr, u16)>,
    /// What is done about the source.
    pub source: SourceNat,
    /// Whose connection it is: whose limit counts, and with whom it goes. One end of the connection.
    pub container: IpAddr,
    /// The container's bridge.
    pub bridge: u16,
    /// Of the first packet.
    pub segment: Segment,
    /// Whether both ends are neighbours on one bridge, so that answers must be brought to the gateway.
    pub hairpin: bool,
}

/// A packet from somewhere to an external endpoint, of no connection and for nothing that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// As it arrived.
    pub tuple: Tuple,
    /// Where it came from.
    pub from: Place,
    /// The sender's bridge, if it came from a container.
    pub bridge: u16,
    /// Of the packet.
    pub segment: Segment,
}

/// A connection, as one direction of it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The connection and the direction, for [`super::Conntrack::touch`].
    pub index: u32,
    /// Tells the connection from others that had or will have its index.
    pub generation: u32,
    /// The direction of the packet.
    pub direction: Direction,
    /// What the packet must become.
    pub translated: Tuple,
    /// Where it goes.
    pub to: Place,
    /// See [`New::hairpin`].
    pub hairpin: bool,
    /// Whether packets of this direction may be handled without a look at the table. With TCP this is so for segments
    /// without SYN, FIN and RST only.
    pub cacheable: bool,
    /// The bridge of the connection's container.
    pub bridge: u16,
}

/// What [`super::Conntrack::track`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// The connection's state; none if it has ended in between.
    pub state: Option<State>,
    /// See [`Found::cacheable`].
    pub cacheable: bool,
}

/// Why there is no new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// No external port is free.
    PortsExhausted = 0,
    /// The container has as many connections as it may have.
    ContainerLimit = 1,
    /// The table has as many connections as it may have, or there is no memory.
    TableFull = 2,
    /// It is the middle of a connection that nobody knows.
    NoConnection = 3,
    /// Families that do not match, a packet to itself, TCP without flags, or a tuple that another connection has.
    Invalid = 4,
}

impl Refusal {
    /// All refusals, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::PortsExhausted, Self::ContainerLimit, Self::TableFull, Self::NoConnection, Self::Invalid];
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortsExhausted => "no external port is free",
            Self::ContainerLimit => "the container has as many connections as it may have",
            Self::TableFull => "the table of connections is full",
            Self::NoConnection => "the middle of a connection that is not known",
            Self::Invalid => "no connection can have such addresses",
        })
    }
}

impl std::error::Error for Refusal {}

/// Whether a packet may come in to an external endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Nobody has that endpoint.
    NoMapping,
    /// Who has it never sent to that address. Nothing is answered (RFC 5382 REQ-4: not within six seconds, in which the
    /// container may open the connection from its side; RFC 4787 REQ-8).
    Filtered,
    /// There is a connection now.
    Admitted(Found),
    /// It may, but there is no connection.
    Refused(Refusal),
}
