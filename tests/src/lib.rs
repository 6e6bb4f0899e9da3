//! The laboratory: everything a system test or a side-by-side measurement needs around the switch.
//!
//! # Theory of operation
//!
//! A [`Lab`] is one small world: a network namespace that plays the host, a daemon child started
//! in it with a socket and a state directory of its own, and any number of namespaces that play
//! containers. Nothing outside of these namespaces is touched, so several labs run side by side
//! (in threads of one test binary and in several binaries) without seeing one another.
//!
//! Every lab ends with the same questions, whatever the test was about (`Lab::finish`):
//!
//! - Is every frame accounted for? `received + copies + segments = sent + coalesced + dropped`,
//!   and no frame of any pool is still in use.
//! - Did the daemon log anything at WARN or above that the test did not announce?
//! - Did `shutdown --cleanup` leave the host and the containers exactly as they were found?
//! - Did the daemon exit with status 0?
//!
//! Everything has a bound in time, and everything is removed on drop, a panicking test included.
//! What a killed test process leaves behind is removed by the next one ([`namespace::sweep`]).
//!
//! # Threads and namespaces
//!
//! A socket belongs to the namespace in which it was made, for ever. So the harness makes sockets
//! in a short-lived thread that has entered the namespace ([`Namespace::enter`]) and uses them
//! anywhere; programs are started with [`Namespace::command`].

pub mod contact;
pub mod daemon;
pub mod docker;
pub mod frame;
pub mod http;
pub mod inventory;
pub mod lab;
pub mod namespace;
pub mod outside;
pub mod overlay;
pub mod packet;
pub mod process;
pub mod raw;
pub mod reach;
pub mod requirement;
pub mod stream;

pub use lab::{Lab, Options};
pub use namespace::Namespace;

/// Prints a line that the test runner's capture does not swallow: measured numbers, and the loud
/// note that a test did not run.
pub fn announce(line: &str) {
    use std::io::Write as _;
    // `eprintln!` is captured by the test runner, a direct write is not. A closed stderr is no
    // reason to fail a test.
    let _ = writeln!(std::io::stderr(), "{line}");
}
