//! What was found, beside what was expected.

use std::io;
use std::net::{IpAddr, SocketAddr};

use vswitch_tests::Namespace;
use vswitch_tests::contact::{Protocol, Server};
use vswitch_tests::docker::Container;

use super::expected::EXPECTED;
use crate::world::Driver;

/// What was seen of one driver, in the order of the table.
#[derive(Debug)]
pub(crate) struct Findings {
    driver: Driver,
    /// Behaviour, what was found, and the whole story.
    seen: Vec<(&'static str, String, String)>,
}

impl Findings {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { driver, seen: Vec::new() }
    }

    /// Records what `behaviour` gives: its phrase, or `no` with the error as the story.
    pub(crate) fn record(&mut self, behaviour: &'static str, result: io::Result<String>) {
        let (found, story) = match result {
            Ok(found) => (found, String::new()),
            Err(error) => ("no".to_owned(), error.to_string()),
        };
        self.seen.push((behaviour, found, story));
    }

    /// Records whether something worked.
    pub(crate) fn works<T>(&mut self, behaviour: &'static str, result: io::Result<T>) {
        self.record(behaviour, result.map(|_| "yes".to_owned()));
    }

    /// Does the steps of a group of behaviours; what could not be prepared is a finding, too.
    pub(crate) fn group(&mut self, behaviour: &'static str, steps: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(error) = steps(self) {
            self.seen.push((behaviour, "cannot be tried".to_owned(), error.to_string()));
        }
    }

    fn found(&self, behaviour: &str) -> Option<&str> {
        self.seen.iter().find(|one| one.0 == behaviour).map(|one| one.1.as_str())
    }

    /// What was not as expected, one line each.
    pub(crate) fn unexpected(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (behaviour, found, story) in &self.seen {
            let wanted =
                EXPECTED.iter().find(|row| row.0 == *behaviour).map_or("(not in the table)", |row| match self.driver {
                    Driver::Bridge => row.1,
                    Driver::Vswitch => row.2,
                });
            if wanted != found {
                lines
                    .push(format!("{}: {behaviour}: expected {wanted:?}, found {found:?} {story}", self.driver.name()));
            }
        }
        let missing = EXPECTED.iter().filter(|row| self.found(row.0).is_none());
        lines.extend(missing.map(|row| format!("{}: {}: was not tried", self.driver.name(), row.0)));
        lines
    }
}

/// The table in Markdown: a row for each behaviour, a column for each driver.
pub(crate) fn table(all: &[Findings]) -> String {
    let mut text = String::from("| behaviour |");
    for findings in all {
        text.push_str(&format!(" {} |", findings.driver.name()));
    }
    text.push_str(&format!("\n|---|{}", "---|".repeat(all.len())));
    let mut rows: Vec<&str> = EXPECTED.iter().map(|row| row.0).collect();
    for (behaviour, ..) in all.iter().flat_map(|findings| &findings.seen) {
        if !rows.contains(behaviour) {
            rows.push(behaviour);
        }
    }
    for row in rows {
        text.push_str(&format!("\n| {row} |"));
        for findings in all {
            text.push_str(&format!(" {} |", findings.found(row).unwrap_or("not tried")));
        }
    }
    text
}

/// The table of what is expected.
pub(crate) fn expected_table() -> String {
    let mut text = format!("| behaviour | {} | {} |\n|---|---|---|", Driver::Bridge.name(), Driver::Vswitch.name());
    for (behaviour, bridge, vswitch) in EXPECTED {
        text.push_str(&format!("\n| {behaviour} | {bridge} | {vswitch} |"));
    }
    text
}

/// Names for addresses, as findings put them.
#[derive(Debug)]
pub(crate) struct Names(Vec<(IpAddr, &'static str)>);

impl Names {
    pub(crate) fn new(names: Vec<(IpAddr, &'static str)>) -> Self {
        Self(names)
    }

    pub(crate) fn of(&self, ip: IpAddr) -> String {
        self.0.iter().find(|one| one.0 == ip).map_or_else(|| ip.to_string(), |one| one.1.to_owned())
    }
}

/// Whether `client` gets to a server on port `inside` of `container` at `target`, by TCP and by UDP, and whom the server
/// sees.
pub(crate) fn access(
    container: &Container,
    inside: u16,
    client: &Namespace,
    target: SocketAddr,
    names: &Names,
) -> io::Result<String> {
    // On `[::]`, as most servers are: that takes IPv4, too (ipv6(7), IPV6_V6ONLY).
    let attempt = |protocol| Server::any(protocol, &container.namespace, true, inside)?.try_meet(client, target);
    let phrase = |seen: SocketAddr| format!("yes, seen as {}", names.of(seen.ip().to_canonical()));
    // Both at once: what never comes is waited for.
    let attempts = std::thread::scope(|scope| {
        let running = Protocol::ALL.map(|protocol| scope.spawn(move || attempt(protocol)));
        running.map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    match attempts {
        [Err(error), Err(_)] => Err(error),
        attempts => {
            let [tcp, udp] = attempts.map(|one| one.map_or_else(|_| "no".to_owned(), phrase));
            Ok(if tcp == udp { tcp } else { format!("TCP: {tcp}; UDP: {udp}") })
        }
    }
}
