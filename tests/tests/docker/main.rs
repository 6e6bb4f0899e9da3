//! A real Docker with the switch as its network driver, and with its own bridge beside it to compare.
//!
//! Each test has a host of its own with a `dockerd` of its own (`vswitch_tests::docker`), and the world outside of
//! `vswitch_tests::outside`. Containers run a program that waits; what talks in their namespaces are the tests
//! themselves, and busybox where the container's own view is the question. Every test ends with the question whether
//! anything is left behind ([`world::World::finish`]).
//!
//! - [`behaviours`]: what Docker's own integration tests check of its bridge, of both drivers, as a table.
//! - [`networks`], [`containers`], [`addresses`], [`compose`], [`names`]: each option and verb.
//! - [`wires`]: a physical network and its VLANs, and options of one endpoint.
//! - [`restarts`], [`kills`], [`crowd`]: what may happen to one of the two programs, or to both; and many at once.

mod addresses;
mod behaviours;
mod compose;
mod containers;
mod crowd;
mod kills;
mod names;
mod networks;
mod restarts;
mod wires;
mod world;
