//! Tunnels: one bridge over several hosts.
//!
//! A remote end of a tunnel (a VTEP) is a port of the bridge like any other: it has an id, learned
//! addresses, counters, and a device that encapsulates what is sent to it. What arrives comes
//! through an *underlay*, one for many tunnels, which takes the outer headers off and asks the
//! [`TunnelTable`] which port a frame has come in through.

mod table;

pub use table::{TunnelEntry, TunnelTable};
