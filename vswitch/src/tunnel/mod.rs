//! Tunnels: one bridge over several hosts, by VXLAN (RFC 7348).
//!
//! # Theory of operation
//! A remote end of a tunnel (a VTEP) is a port of the bridge like any other: it has an id, learned
//! addresses, counters, and a device that encapsulates what is sent to it. What arrives comes
//! through an *underlay*, one for many tunnels, which takes the outer headers off and asks the
//! [`TunnelTable`] which port a frame has come in through.
//!
//! There are two underlays. [`crate::io::udp`] is a socket of the kernel, with its routes, neighbours
//! and firewall; the other is an uplink that is shared with the host, where the switch writes the
//! outer headers itself.
//!
//! This module is what both have in common, pure functions over bytes:
//!
//! - [`inner`]: what the outer headers take from the inner frame: hash of the flow, DSCP, ECN;
//! - [`ecn`]: RFC 6040, at both ends;
//! - [`decap`]: the checks on a received packet, each with the reason of its drop;
//! - [`train`]: segments of one flow that arrived together, put together again;
//! - [`outer`]: the outer headers, where the kernel does not write and read them;
//! - [`cut`]: super-frames inside of a tunnel, cut for those who cannot take them whole;
//! - [`whole`]: super-frames that arrived in one piece, which happens within one machine.
//!
//! # What is written into the outer headers
//! The source port is drawn from the inner flow's hash, out of 49152 to 65535 (RFC 7348, section 5), so
//! that networks which balance by ports spread flows and keep each in order. The UDP checksum is zero
//! where nothing needs it. IPv4 has DF set and no packet is ever fragmented (section 4.3): an inner
//! sender whose packets are too large is told so.

pub mod cut;
pub mod decap;
pub mod ecn;
pub mod inner;
pub mod outer;
mod remote;
mod table;
pub mod train;
pub mod whole;

pub use remote::{DscpPolicy, RemoteConfig, TTL_DEFAULT, overhead_bytes};
pub use table::{TunnelEntry, TunnelTable};
