//! TCP's state machine against a table that says the same in the words of the RFCs.
//!
//! The table is read by a few lines that know nothing of the machine. In a row, `d` is the direction that a state is
//! named after, and `e` the other one; where a state has none, `d` is either. Whatever is in no row changes nothing.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// State, sender and segment, next state. `SYN>` is a SYN beyond the sender's FIN, `SYN<` one that is not.
const TABLE: &str = "
    # RFC 6146 section 3.5.2.2, V4 INIT and V6 INIT; RFC 5382 REQ-2: simultaneous open.
    SYN_SENT/d     d SYN>     SYN_SENT/d
    SYN_SENT/d     d SYN<     SYN_SENT/d
    SYN_SENT/d     e SYN>     SYN_RECV/d
    SYN_SENT/d     e SYN<     SYN_RECV/d
    SYN_SENT/d     e SYN+ACK  SYN_RECV/d
    # RFC 9293 section 3.5.1: the peer still has the connection before this one.
    SYN_SENT/d     e ACK      PICKED_UP/e

    # RFC 5382 section 5: partially open until the handshake is complete.
    SYN_RECV/d     d ACK      ESTABLISHED
    SYN_RECV/d     d SYN+ACK  ESTABLISHED
    SYN_RECV/d     e SYN+ACK  SYN_RECV/d
    SYN_RECV/d     d SYN>     SYN_RECV/d
    SYN_RECV/d     d SYN<     SYN_RECV/d
    SYN_RECV/d     e SYN>     SYN_RECV/d
    SYN_RECV/d     e SYN<     SYN_RECV/d
    SYN_RECV/d     d FIN      FIN_WAIT/d
    SYN_RECV/d     e FIN      FIN_WAIT/e

    # Met in the middle.
    PICKED_UP/d    e ACK      ESTABLISHED
    PICKED_UP/d    d FIN      TIME_WAIT
    PICKED_UP/d    e FIN      FIN_WAIT/e
    PICKED_UP/d    d SYN>     SYN_SENT/d
    PICKED_UP/d    d SYN<     SYN_SENT/d
    PICKED_UP/d    e SYN>     SYN_SENT/e
    PICKED_UP/d    e SYN<     SYN_SENT/e

    # RFC 6146 section 3.5.2.2, ESTABLISHED; RFC 7857 section 2.
    ESTABLISHED    d FIN      FIN_WAIT/d
    ESTABLISHED    d RST      CLOSE

    # RFC 6146 section 3.5.2.2, V4 FIN RCV and V6 FIN RCV; RFC 7857 section 2.2.
    FIN_WAIT/d     e FIN      TIME_WAIT
    FIN_WAIT/d     d RST      CLOSE
    FIN_WAIT/d     e RST      CLOSE
    FIN_WAIT/d     d SYN>     REOPENED/d

    # RFC 9293 section 3.6.1: TIME-WAIT ends with a newer SYN; RFC 6191: or one with a newer time stamp, and the peer says.
    TIME_WAIT      d SYN>     REOPENED/d
    TIME_WAIT      d SYN+ACK  ESTABLISHED
    FIN_WAIT/d     d SYN+ACK  ESTABLISHED
    FIN_WAIT/d     e SYN+ACK  ESTABLISHED
    REOPENED/d     d SYN>     REOPENED/d
    REOPENED/d     d SYN<     REOPENED/d
    REOPENED/d     e SYN>     ESTABLISHED
    REOPENED/d     e SYN<     ESTABLISHED
    REOPENED/d     e SYN+ACK  ESTABLISHED
    REOPENED/d     e ACK      ESTABLISHED
    REOPENED/d     d FIN      FIN_WAIT/d
    REOPENED/d     e FIN      FIN_WAIT/e

    # RFC 6146 section 3.5.2.2, TRANS; RFC 7857 section 2.2.
    CLOSE          d ACK      ESTABLISHED
    CLOSE          d SYN+ACK  ESTABLISHED
    CLOSE          d FIN      FIN_WAIT/d
    CLOSE          d SYN>     REOPENED/d
    CLOSE          d SYN<     REOPENED/d
";

/// A state's name, with the direction if it has one.
fn name(state: State) -> String {
    let suffix = match state {
        State::SynSentOriginal | State::SynReceivedOriginal | State::PickedUpOriginal | State::FinOriginal => "/o",
        State::SynSentReply | State::SynReceivedReply | State::PickedUpReply | State::FinReply => "/r",
        State::ReopenedOriginal => return "REOPENED/o".to_owned(),
        State::ReopenedReply => return "REOPENED/r".to_owned(),
        _ => "",
    };
    format!("{}{suffix}", state.name())
}

/// The table with its directions filled in: by state, sender and segment.
fn rules() -> HashMap<(String, char, String), String> {
    let mut rules = HashMap::new();
    for row in TABLE.lines().map(str::trim).filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let [state, sender, segment, next] = row.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{row}") };
        for (d, e) in [('o', 'r'), ('r', 'o')] {
            let fill = |text: &str| match text.split_once('/') {
                Some((name, direction)) => format!("{name}/{}", if direction == "d" { d } else { e }),
                None => text.to_owned(),
            };
            let sender = if sender == "d" { d } else { e };
            let rule = rules.insert((fill(state), sender, segment.to_owned()), fill(next));
            assert_eq!(rule, None, "twice: {row}");
        }
    }
    rules
}

/// What a segment counts as: a RST is nothing else, a SYN is no FIN.
fn segment_name(flags: u8, is_newer: bool) -> &'static str {
    let has = |flag: u8| flags & flag != 0;
    match () {
        () if has(state::RST) => "RST",
        () if has(state::SYN) && has(state::ACK) => "SYN+ACK",
        () if has(state::SYN) && is_newer => "SYN>",
        () if has(state::SYN) => "SYN<",
        () if has(state::FIN) => "FIN",
        () if has(state::ACK) => "ACK",
        () => "none",
    }
}

#[test]
fn every_state_and_segment_is_as_the_table_has_it() {
    let rules = rules();
    let mut used = std::collections::HashSet::new();
    for state in State::ALL.into_iter().filter(|state| state.is_tcp()) {
        for (direction, sender) in [(Direction::Original, 'o'), (Direction::Reply, 'r')] {
            for (flags, is_newer) in (0..=255).flat_map(|flags| [(flags, false), (flags, true)]) {
                let segment = segment_name(flags, is_newer);
                let step = state::next(state, direction, flags, is_newer);
                let key = (name(state), sender, segment.to_owned());
                let expected = rules.get(&key).cloned().unwrap_or(name(state));
                assert_eq!(name(step.state), expected, "{key:?}");
                // A rule restarts the time of a state; without one, it goes on.
                assert_eq!(step.restarts, rules.contains_key(&key), "{key:?}");
                // RFC 7857 section 7.1.
                assert_eq!(step.refreshes, !["RST", "none"].contains(&segment), "{key:?}");
                used.insert(key);
            }
        }
    }
    assert!(rules.keys().all(|key| used.contains(key)), "no row is idle");
}

/// What the RFCs say of one connection, from the table and the timers.
struct Model {
    rules: HashMap<(String, char, String), String>,
    state: String,
    since_s: u32,
    seen_s: u32,
    fins: HashMap<char, u32>,
}

impl Model {
    fn new(now_s: u32) -> Self {
        Self { rules: rules(), state: "SYN_SENT/o".into(), since_s: now_s, seen_s: now_s, fins: HashMap::new() }
    }

    fn sees(&mut self, sender: char, flags: u8, sequence: u32, now_s: u32) {
        let is_newer = self.fins.get(&sender).is_none_or(|fin| sequence.wrapping_sub(*fin).cast_signed() > 0);
        let segment = segment_name(flags, is_newer);
        if let Some(next) = self.rules.get(&(self.state.clone(), sender, segment.to_owned())) {
            self.state = next.clone();
            self.since_s = now_s;
        }
        if segment == "FIN" {
            self.fins.insert(sender, sequence);
        } else if self.state.starts_with("REOPENED") {
            self.fins.clear();
        }
        if !["RST", "none"].contains(&segment) {
            self.seen_s = now_s;
        }
    }

    /// RFC 5382 REQ-5, RFC 7857 section 2.
    fn ends_s(&self) -> u32 {
        match self.state.split('/').next().unwrap() {
            "ESTABLISHED" | "FIN_WAIT" => self.seen_s + 2 * 3600 + 4 * 60,
            "PICKED_UP" => self.seen_s + 4 * 60,
            _ => self.since_s + 4 * 60,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_connection_is_as_the_model_has_it(
        segments in proptest::collection::vec(
            (any::<bool>(), prop::sample::select(vec![SYN, SYN_ACK, ACK, FIN_ACK, RST, 0]), 1..100u32, 0..300u32),
            1..40,
        )
    ) {
        let mut world = World::with(ConntrackConfig { connections_max: 4, ..ConntrackConfig::default() });
        let original = world.outbound(protocol::TCP, "172.17.0.2:5000", "198.51.100.7:443");
        let reply = world.table.find(&original.translated.reversed(), Place::Outside).unwrap();
        let mut model = Model::new(world.now_s);
        for (is_reply, flags, sequence, seconds) in segments {
            world.pass(seconds);
            let is_over = model.ends_s() <= world.now_s;
            prop_assert_eq!(world.connections(), u32::from(!is_over));
            if is_over {
                return Ok(());
            }
            let (found, sender) = if is_reply { (reply, 'r') } else { (original, 'o') };
            let segment = Segment { tcp_flags: Some(flags), sequence: Some(sequence), ..Segment::default() };
            let tracked = world.table.track(&found, segment, world.now_s);
            model.sees(sender, flags, sequence, world.now_s);
            prop_assert_eq!(tracked.state.map(name), Some(model.state.clone()));
            let is_open = ["ESTABLISHED", "FIN_WAIT/o", "FIN_WAIT/r"].contains(&&*model.state);
            prop_assert_eq!(tracked.cacheable, is_open);
            let listed = world.table.list(&Filter::default(), world.now_s);
            prop_assert_eq!(listed[0].timeout_s, model.ends_s() - world.now_s);
        }
    }
}
