//! A userspace virtual switch for container hosts: learning bridges over TAP ports that live in
//! network namespaces, driven over a local socket.
//!
//! `ARCHITECTURE.md` at the top of the repository tells the two journeys, a packet's and a
//! command's, and where each part lives.

pub mod api;
mod bits;
pub mod bpf;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod frame;
pub mod fuzzing;
mod hash;
pub mod io;
pub mod nat;
mod prefetch;
pub mod snapshot;
pub mod tunnel;
pub mod units;
pub mod wire;
