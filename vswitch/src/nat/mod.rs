//! Network address translation: connections, their mappings to external ports, and what is done to packets.
//!
//! Theory of operation. A *connection* is what conntrack of Linux calls one: the tuple that its initiator sends
//! (`original`) and the tuple of the answers before they are translated back (`reply`). A packet of the original
//! direction leaves with the reply's tuple reversed, and the other way round; source translation, destination
//! translation, both and none are all that. What is done to a packet of one direction is a fixed shape, the rewrite,
//! whose checksum deltas are computed once; each worker keeps the rewrites of its flows in a cache of its own, so that
//! an established flow costs one look-up and a few stores.
//!
//! A *mapping* is an external endpoint that a container's endpoint has been given; all connections from there share it
//! (endpoint-independent mapping, RFC 4787 REQ-1), and who may use it from outside is whoever the container has sent
//! to (address-dependent filtering, REQ-8).
//!
//! Everything here is pure: time is an argument, packets are slices, and the host's ports are behind [`ExternalPorts`].

pub mod cache;
pub mod conntrack;
mod external;
pub mod fragments;
pub mod icmp_error;
pub mod mss;
mod packet;
mod rewrite;
mod services;
#[cfg(test)]
mod test_packets;
mod tuple;

pub use cache::{Action, NatCache, Quick};
pub use external::{ExternalPorts, NobodysPorts};
pub use fragments::{FragmentKey, FragmentTable, Later};
pub use icmp_error::IcmpError;
pub use packet::{Fragment, Packet, Upper};
pub use rewrite::{Hops, Rewrite};
pub use services::{Publication, Services};
pub use tuple::{Place, Tuple};
