//! Which external port a new mapping gets.
//!
//! Theory of operation. Ports are drawn at random from a keyed hash of a secret, the internal endpoint and a counter
//! (RFC 6056 section 3.3; RFC 7857 section 9 asks for it), so that nobody outside can tell the next one. The container's
//! own port is *not* kept: hosts differ in how well they choose, and it would tell which of them speaks. What is kept
//! is the range, 0 to 1023 or 1024 to 65535 (RFC 4787 REQ-3a), and UDP's parity (REQ-4; RFC 7857 section 8 would have it
//! configurable, which it is). SCTP's port is kept if it is free, because its checksum is dear to change.
//!
//! When a number of draws finds nothing, all ports are tried in turn. If that finds nothing either, the answer is
//! remembered until a port is freed or the second is over, so that a host without ports is not kept busy by whoever
//! uses them up.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::mapping::Endpoint;
use crate::bpf::Flow;

/// Draws before all ports are tried in turn: with nine of ten ports in use one mapping in a million gets there.
const DRAWS: u32 = 128;
/// RFC 4787 REQ-3a.
const LOW: RangeInclusive<u16> = 1..=1023;
/// RFC 4787 REQ-3a.
const HIGH: RangeInclusive<u16> = 1024..=65535;
/// Identifiers of echoes have no ranges.
const ALL: RangeInclusive<u16> = 1..=65535;

/// What a port is chosen for.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) flow: Flow,
    pub(super) internal: Endpoint,
    pub(super) address: IpAddr,
    pub(super) now_s: u32,
}

/// A range without a free port: of which address, from where, how far apart, seen when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exhausted {
    address: IpAddr,
    first: u16,
    step: u16,
    at_s: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Chooser {
    secret: [u8; 16],
    counter: u64,
    keeps_parity: bool,
    exhausted: Vec<Exhausted>,
}

impl Chooser {
    pub(super) fn new(secret: [u8; 16], keeps_parity: bool) -> Self {
        Self { secret, counter: 0, keeps_parity, exhausted: Vec::new() }
    }

    /// A port was freed.
    pub(super) fn freed(&mut self) {
        self.exhausted.clear();
    }

    /// A port for which `is_unused` holds.
    pub(super) fn choose(&mut self, choice: &Choice, is_unused: impl Fn(u16) -> bool) -> Option<u16> {
        let own = choice.internal.port;
        let parity = choice.flow == Flow::Udp && self.keeps_parity;
        match choice.flow {
            Flow::Icmp => self.draw(choice, ALL, 1, &is_unused),
            Flow::Sctp if own != 0 && is_unused(own) => Some(own),
            _ => {
                let like_own = |range: &RangeInclusive<u16>| range.start() + (own ^ range.start()) % 2;
                let mut from = |range: RangeInclusive<u16>| {
                    let paired = parity.then(|| self.draw(choice, like_own(&range)..=*range.end(), 2, &is_unused));
                    paired.flatten().or_else(|| self.draw(choice, range, 1, &is_unused))
                };
                let low = if LOW.contains(&own) || own == 0 { from(LOW) } else { None };
                low.or_else(|| from(HIGH))
            }
        }
    }

    /// One of every `step`th port of `range`.
    fn draw(
        &mut self,
        choice: &Choice,
        range: RangeInclusive<u16>,
        step: u16,
        is_unused: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let (first, now_s) = (*range.start(), choice.now_s);
        let exhausted = Exhausted { address: choice.address, first, step, at_s: now_s };
        if self.exhausted.contains(&exhausted) {
            return None;
        }
        let count = u64::from((range.end() - first) / step) + 1;
        let port = |nth: u64| first + (nth % count) as u16 * step;
        for _ in 0..DRAWS {
            let drawn = port(self.random(choice));
            if is_unused(drawn) {
                return Some(drawn);
            }
        }
        let start = self.random(choice) % count;
        let found = (0..count).map(|nth| port(start + nth)).find(|&port| is_unused(port));
        if found.is_none() {
            self.exhausted.retain(|one| one.at_s == now_s);
            self.exhausted.push(exhausted);
        }
        found
    }

    fn random(&mut self, choice: &Choice) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        // SipHash-1-3. Its key is fixed, so the secret comes first: it is part of the state that all else is mixed into.
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        (choice.internal, self.counter).hash(&mut hasher);
        hasher.finish()
    }
}
