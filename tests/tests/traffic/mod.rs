//! What the switch does for its containers, whatever type their ports are of.
//!
//! Each crate that includes this runs all of it over ports of its own choice, `crate::PORTS`: what
//! holds for one type holds for the others and for a mixture.

mod addresses;
mod chaos;
mod connectivity;
mod isolation;
mod l2;
mod lifetime;
mod offloads;
mod overload;
mod rates;
mod reconcile;
mod refusals;
mod vlan;

use vswitch_tests::{Lab, Options};

fn options() -> Options {
    Options { ports: crate::PORTS, ..Options::default() }
}

/// A lab with a daemon; see [`Lab::new`].
#[track_caller]
fn lab() -> Option<Lab> {
    Lab::with(options())
}

/// The same, whose containers may send frames that they have made up.
#[track_caller]
fn raw_lab() -> Option<Lab> {
    Lab::with(Options { unguarded: true, ..options() })
}

/// A lab whose daemon is not started yet.
#[track_caller]
fn lab_without_daemon() -> Option<Lab> {
    Lab::without_daemon(options())
}
