//! What a connection has come to, and what a TCP segment makes of it.
//!
//! The states are those of RFC 7857 section 2 (which has them from RFC 6146 section 3.5.2), with three refinements:
//!
//! - Both SYNs do not make a connection established, the acknowledgement of the second one does: a flood of SYNs with
//!   invented addresses, which the server answers, must not fill the table for two hours (RFC 5382 section 5 has
//!   connections partially open until the handshake is complete).
//! - A connection that is met in its middle (*picked up*) is established when segments of both directions were seen.
//! - A new SYN on the tuple of a connection that was closed or reset opens it anew; after FINs only with a higher
//!   sequence number, as a host in TIME-WAIT has it (RFC 9293 section 3.6.1), or if the other side accepts it, which may
//!   know better from the time stamps (RFC 6191). It is established by the answer alone: a client that makes many
//!   connections uses its ports again within seconds, when the workers still have the flow in their caches and show the
//!   table no plain acknowledgement.
//!
//! Sequence numbers of data are not followed, because established connections are translated on the hit path, which
//! looks at none. So a forged RST can not be told from a true one; it does no harm, because whatever the true
//! endpoints send afterwards revives the connection, and a forged SYN does none for the same reason.

use super::Direction;

/// TCP's flags that matter here (RFC 9293 section 3.1).
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

/// What a connection has come to. "Original" and "reply" are the direction that the state has seen more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Not TCP; nothing came back yet.
    Unreplied = 0,
    /// Not TCP; both have sent.
    Replied = 1,
    /// A SYN was seen.
    SynSentOriginal = 2,
    /// As above, sent by the responder: it reuses the tuple of an old connection.
    SynSentReply = 3,
    /// Both SYNs were seen; the original direction's was first.
    SynReceivedOriginal = 4,
    /// As above, the reply direction's was first.
    SynReceivedReply = 5,
    /// Met in the middle; only the original direction was seen.
    PickedUpOriginal = 6,
    /// Met in the middle; only the reply direction was seen.
    PickedUpReply = 7,
    /// Both talk.
    Established = 8,
    /// The original direction has sent FIN.
    FinOriginal = 9,
    /// The reply direction has sent FIN.
    FinReply = 10,
    /// Both have sent FIN.
    Closing = 11,
    /// RST was seen, and nothing since.
    Reset = 12,
    /// The original direction has sent a SYN after the connection was closed or reset.
    ReopenedOriginal = 13,
    /// As above, the reply direction.
    ReopenedReply = 14,
    /// SCTP; the association was shut down or aborted, and nothing came since.
    Ended = 15,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Unreplied,
        Self::Replied,
        Self::SynSentOriginal,
        Self::SynSentReply,
        Self::SynReceivedOriginal,
        Self::SynReceivedReply,
        Self::PickedUpOriginal,
        Self::PickedUpReply,
        Self::Established,
        Self::FinOriginal,
        Self::FinReply,
        Self::Closing,
        Self::Reset,
        Self::ReopenedOriginal,
        Self::ReopenedReply,
        Self::Ended,
    ];

    /// The state with this number, for what is stored.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name under which it is listed: conntrack's, where conntrack has one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreplied => "UNREPLIED",
            Self::Replied => "REPLIED",
            Self::SynSentOriginal | Self::SynSentReply | Self::ReopenedOriginal | Self::ReopenedReply => "SYN_SENT",
            Self::SynReceivedOriginal | Self::SynReceivedReply => "SYN_RECV",
            Self::PickedUpOriginal | Self::PickedUpReply => "PICKED_UP",
            Self::Established => "ESTABLISHED",
            Self::FinOriginal | Self::FinReply => "FIN_WAIT",
            Self::Closing => "TIME_WAIT",
            Self::Reset => "CLOSE",
            Self::Ended => "CLOSED",
        }
    }

    /// Whether it is one of TCP's.
    #[must_use]
    pub const fn is_tcp(self) -> bool {
        !matches!(self, Self::Unreplied | Self::Replied | Self::Ended)
    }

    /// Whether the initiator has not shown yet that it gets the responder's answers.
    #[must_use]
    pub const fn is_unproven(self) -> bool {
        matches!(self, Self::Unreplied | Self::SynSentOriginal | Self::SynReceivedOriginal)
    }

    /// Whether packets without SYN, FIN and RST change nothing, so that a worker need not show them to the table.
    #[must_use]
    pub const fn is_cacheable(self) -> bool {
        matches!(self, Self::Unreplied | Self::Replied | Self::Established | Self::FinOriginal | Self::FinReply)
    }
}

/// What a segment does, flags that contradict one another taken as the least harmful of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rst,
    Syn,
    SynAck,
    Fin,
    Ack,
    /// None of these: no TCP sends it on a connection, and it changes nothing.
    Nothing,
}

fn kind_of(flags: u8) -> Kind {
    match flags {
        _ if flags & RST != 0 => Kind::Rst,
        _ if flags & (SYN | ACK) == SYN | ACK => Kind::SynAck,
        _ if flags & SYN != 0 => Kind::Syn,
        _ if flags & FIN != 0 => Kind::Fin,
        _ if flags & ACK != 0 => Kind::Ack,
        _ => Kind::Nothing,
    }
}

/// Whether a segment asks for a new connection.
#[must_use]
pub const fn is_opening(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// What is done about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The state from now on.
    pub state: State,
    /// Whether the time in the state begins anew.
    pub restarts: bool,
    /// Whether the connection counts as seen: errors and RST do not keep it alive (RFC 7857 section 7.1).
    pub refreshes: bool,
}

const fn syn_sent(direction: Direction) -> State {
    match direction {
        Direction::Original => State::SynSentOriginal,
        Direction::Reply => State::SynSentReply,
    }
}

const fn syn_received(direction: Direction) -> State {
    match direction {
        Direction::Original => State::SynReceivedOriginal,
        Direction::Reply => State::SynReceivedReply,
    }
}

const fn picked_up(direction: Direction) -> State {
    match direction {
        Direction::Original => State::PickedUpOriginal,
        Direction::Reply => State::PickedUpReply,
    }
}

const fn reopened(direction: Direction) -> State {
    match direction {
        Direction::Original => State::ReopenedOriginal,
        Direction::Reply => State::ReopenedReply,
    }
}

const fn fin(direction: Direction) -> State {
    match direction {
        Direction::Original => State::FinOriginal,
        Direction::Reply => State::FinReply,
    }
}

/// The state of a connection whose first segment, of the original direction, has these flags; none if no connection
/// begins with it. `in_its_middle` allows one that begins without a SYN.
#[must_use]
pub fn first(flags: u8, in_its_middle: bool) -> Option<State> {
    match kind_of(flags) {
        Kind::Syn if is_opening(flags) => Some(State::SynSentOriginal),
        Kind::Ack if in_its_middle => Some(State::PickedUpOriginal),
        // The end of a connection that was forgotten: let it end.
        Kind::Fin if in_its_middle && flags & ACK != 0 => Some(State::Closing),
        _ => None,
    }
}

/// What a segment makes of a TCP connection. `is_newer` is whether a SYN's sequence number is beyond the FIN that was
/// seen in its direction; also when that is not known.
#[must_use]
pub fn next(state: State, from: Direction, flags: u8, is_newer: bool) -> Step {
    let kind = kind_of(flags);
    let stays = Step { state, restarts: false, refreshes: !matches!(kind, Kind::Rst | Kind::Nothing) };
    let enters = |state| Step { state, restarts: true, refreshes: true };
    match (state, kind) {
        (_, Kind::Nothing) | (State::Unreplied | State::Replied | State::Ended, _) => stays,

        (State::Established | State::FinOriginal | State::FinReply, Kind::Rst) => {
            Step { state: State::Reset, restarts: true, refreshes: false }
        }
        // It was never open, or is closing already: nothing to hasten.
        (_, Kind::Rst) => stays,

        (State::SynSentOriginal | State::SynSentReply, Kind::Syn | Kind::SynAck) => {
            let (opener, peer) = match state {
                State::SynSentOriginal => (Direction::Original, Direction::Reply),
                _ => (Direction::Reply, Direction::Original),
            };
            match kind {
                // SYN against SYN is a simultaneous open.
                _ if from == peer => enters(syn_received(opener)),
                Kind::Syn => enters(state),
                _ => stays,
            }
        }
        // An answer without a SYN: the responder has an older connection with this tuple.
        (State::SynSentOriginal, Kind::Ack) if from == Direction::Reply => enters(picked_up(from)),
        (State::SynSentReply, Kind::Ack) if from == Direction::Original => enters(picked_up(from)),
        (State::SynSentOriginal | State::SynSentReply, _) => stays,

        (State::SynReceivedOriginal | State::SynReceivedReply, _) => {
            let opener = if state == State::SynReceivedOriginal { Direction::Original } else { Direction::Reply };
            match kind {
                Kind::Fin => enters(fin(from)),
                Kind::Ack | Kind::SynAck if from == opener => enters(State::Established),
                Kind::Syn | Kind::SynAck => enters(state),
                _ => stays,
            }
        }

        (State::PickedUpOriginal | State::PickedUpReply, _) => {
            let seen = if state == State::PickedUpOriginal { Direction::Original } else { Direction::Reply };
            match kind {
                Kind::Syn => enters(syn_sent(from)),
                Kind::Fin if from == seen => enters(State::Closing),
                Kind::Fin => enters(fin(from)),
                Kind::Ack if from != seen => enters(State::Established),
                _ => stays,
            }
        }

        (State::Established, Kind::Fin) => enters(fin(from)),
        (State::Established, _) => stays,

        // The other side has accepted a new connection.
        (State::FinOriginal | State::FinReply | State::Closing, Kind::SynAck) => enters(State::Established),
        (State::FinOriginal | State::FinReply, _) => {
            let closed = if state == State::FinOriginal { Direction::Original } else { Direction::Reply };
            match kind {
                Kind::Fin if from != closed => enters(State::Closing),
                // Who has closed its direction and opens it anew has forgotten the connection.
                Kind::Syn if from == closed && is_newer => enters(reopened(from)),
                _ => stays,
            }
        }

        (State::Closing, Kind::Syn) if is_newer => enters(reopened(from)),
        (State::Closing, _) => stays,

        (State::Reset, Kind::Syn) => enters(reopened(from)),
        (State::Reset, Kind::Fin) => enters(fin(from)),
        // RFC 7857 section 2.2: it was not for this connection, or it was lost.
        (State::Reset, _) => enters(State::Established),

        (State::ReopenedOriginal | State::ReopenedReply, _) => {
            let opener = if state == State::ReopenedOriginal { Direction::Original } else { Direction::Reply };
            match kind {
                Kind::Fin => enters(fin(from)),
                // Also without a SYN: the old connection goes on.
                _ if from != opener => enters(State::Established),
                Kind::Syn => enters(state),
                _ => stays,
            }
        }
    }
}
