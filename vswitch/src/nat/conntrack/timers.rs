//! How long a connection lives without traffic.
//!
//! All times are whole seconds of a clock that also runs while the machine sleeps (`CLOCK_BOOTTIME`), so that they
//! continue over a restart of the daemon. A deadline is never stored: it follows from the state, from when the state
//! was entered, and from when the connection was last seen, so that a packet on the hit path costs one store.

use std::io;

use super::super::cache::VALID_S;
use super::state::State;
use crate::wire::protocol;

/// RFC 4787 REQ-5: a UDP mapping lives two minutes at least, five minutes by default.
pub const UDP_S: u32 = 300;
/// RFC 4787 REQ-5: what no configuration may go below.
pub const UDP_MIN_S: u32 = 120;
/// A question to a published port and its answer, over UDP. Its external port is no mapping that could expire, so RFC
/// 4787 asks nothing; as Linux has it (`nf_conntrack_udp_timeout`). Otherwise a name server that is asked from a new port
/// each time would have all its connections in use with two hundred questions per second.
pub const UDP_QUERY_S: u32 = 30;
/// Longer than workers keep a flow in their caches that is not used.
pub const UDP_QUERY_MIN_S: u32 = 2 * VALID_S;
/// RFC 5508 REQ-2: an ICMP query session lives 60 seconds at least.
pub const ICMP_QUERY_S: u32 = 60;
/// RFC 5382 REQ-5, "established connection idle-timeout": two hours and four minutes at least, which is longer than the
/// time after which hosts probe an idle connection (RFC 9293 section 3.8.4) plus four minutes.
pub const TCP_ESTABLISHED_S: u32 = 7440;
/// RFC 5382 REQ-5, "transitory connection idle-timeout": four minutes, twice the maximum segment lifetime; RFC 7857
/// sections 2.1 and 2.2 apply it to connections that are partially open, that are closing, and that were reset.
pub const TCP_TRANSITORY_S: u32 = 240;
/// No requirement names SCTP's; as UDP's. Hosts probe every 30 seconds (RFC 9260 section 16).
pub const SCTP_S: u32 = 300;
/// SCTP after the end of its association, if nothing else comes; as Linux has it (`nf_conntrack_sctp_timeout_closed`).
pub const SCTP_ENDED_S: u32 = 10;
/// Other protocols have no requirement; as Linux has it (`nf_conntrack_generic_timeout`).
pub const OTHER_S: u32 = 600;
/// How long a released external port is kept from others: RFC 6888 REQ-8 (120 seconds, the maximum segment lifetime).
pub const HOLD_S: u32 = 120;

/// Idle times, in seconds, after which connections are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP; at least [`UDP_MIN_S`].
    pub udp_s: u32,
    /// UDP to a published port, as long as it is no more than a question and an answer; at least [`UDP_QUERY_MIN_S`].
    pub udp_query_s: u32,
    /// ICMP and ICMPv6 queries; at least [`ICMP_QUERY_S`].
    pub icmp_s: u32,
    /// TCP before both sides have agreed to talk; at least [`TCP_TRANSITORY_S`].
    pub tcp_partial_open_s: u32,
    /// TCP in between; at least [`TCP_ESTABLISHED_S`].
    pub tcp_established_s: u32,
    /// TCP when both sides have sent FIN; at least [`TCP_TRANSITORY_S`].
    pub tcp_closing_s: u32,
    /// TCP after RST, if nothing else comes; at least [`TCP_TRANSITORY_S`].
    pub tcp_reset_s: u32,
    /// SCTP; at least [`UDP_MIN_S`].
    pub sctp_s: u32,
    /// Every other protocol; at least [`ICMP_QUERY_S`].
    pub other_s: u32,
    /// How long an external port that is not used any more is kept from others.
    pub hold_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp_s: UDP_S,
            udp_query_s: UDP_QUERY_S,
            icmp_s: ICMP_QUERY_S,
            tcp_partial_open_s: TCP_TRANSITORY_S,
            tcp_established_s: TCP_ESTABLISHED_S,
            tcp_closing_s: TCP_TRANSITORY_S,
            tcp_reset_s: TCP_TRANSITORY_S,
            sctp_s: SCTP_S,
            other_s: OTHER_S,
            hold_s: HOLD_S,
        }
    }
}

/// When a connection was last seen and when it got into its state, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) since_s: u32,
    pub(super) last_seen_s: u32,
}

impl Timeouts {
    /// Refuses times below those of the RFCs.
    ///
    /// # Errors
    /// `InvalidInput`, naming the time and its minimum.
    pub fn check(&self) -> io::Result<()> {
        let floors = [
            ("UDP", self.udp_s, UDP_MIN_S, "RFC 4787 REQ-5"),
            ("UDP query", self.udp_query_s, UDP_QUERY_MIN_S, "longer than flows are cached"),
            ("ICMP", self.icmp_s, ICMP_QUERY_S, "RFC 5508 REQ-2"),
            ("partially open TCP", self.tcp_partial_open_s, TCP_TRANSITORY_S, "RFC 5382 REQ-5"),
            ("established TCP", self.tcp_established_s, TCP_ESTABLISHED_S, "RFC 5382 REQ-5"),
            ("closing TCP", self.tcp_closing_s, TCP_TRANSITORY_S, "RFC 5382 REQ-5"),
            ("reset TCP", self.tcp_reset_s, TCP_TRANSITORY_S, "RFC 7857 section 2.2"),
            ("SCTP", self.sctp_s, UDP_MIN_S, "as UDP's"),
            ("other protocols'", self.other_s, ICMP_QUERY_S, "as ICMP's"),
        ];
        for (name, value, floor, why) in floors {
            if value < floor {
                let text = format!("the {name} timeout of {value} s is too short: {floor} s is the least ({why})");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        Ok(())
    }

    /// When a connection ends unless something happens, in seconds; `is_published` is whether it came to a published
    /// port.
    pub(super) fn deadline_s(&self, number: u8, is_published: bool, state: State, times: Times) -> u32 {
        // Seen again after the second in which it was new, or was answered: it is not only a question. What comes within
        // the few seconds for which workers' caches say nothing is a part of it.
        let goes_on = times.last_seen_s > times.since_s.saturating_add(1);
        let (from_s, timeout_s) = match state {
            State::Unreplied | State::Replied if number == protocol::UDP && is_published && !goes_on => {
                (times.last_seen_s, self.udp_query_s)
            }
            State::Unreplied | State::Replied => (times.last_seen_s, self.idle_s(number)),
            State::Ended => (times.since_s, SCTP_ENDED_S),
            // Only another SYN prolongs these: RFC 6146 section 3.5.2.2, INIT.
            State::SynSentOriginal
            | State::SynSentReply
            | State::SynReceivedOriginal
            | State::SynReceivedReply
            | State::ReopenedOriginal
            | State::ReopenedReply => (times.since_s, self.tcp_partial_open_s),
            State::PickedUpOriginal | State::PickedUpReply => (times.last_seen_s, self.tcp_partial_open_s),
            State::Established | State::FinOriginal | State::FinReply => (times.last_seen_s, self.tcp_established_s),
            State::Closing => (times.since_s, self.tcp_closing_s),
            // Traffic after the RST that was seen on the hit path only: the connection lives (RFC 7857 section 2.2).
            // What was under way when the RST was seen is of the same second or of the next one.
            State::Reset if goes_on => (times.last_seen_s, self.tcp_established_s),
            State::Reset => (times.since_s, self.tcp_reset_s),
        };
        from_s.saturating_add(timeout_s)
    }

    fn idle_s(&self, number: u8) -> u32 {
        match number {
            protocol::UDP => self.udp_s,
            protocol::ICMP | protocol::ICMPV6 => self.icmp_s,
            protocol::SCTP => self.sctp_s,
            _ => self.other_s,
        }
    }
}
