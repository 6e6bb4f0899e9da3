//! Uplinks: the host's own interfaces as ways out of the switch.
//!
//! There are two kinds. An *L2 uplink* gives its interface to a bridge: it is an ordinary
//! [`Device`](super::Device) of which the bridge has everything. The *shared uplink* leaves the
//! interface to the host and takes only the packets that belong to the switch; how they come and go
//! is its *carry* (`control::uplink`), and whoever sends through it asks [`NextHops`] for the way.

mod next_hop;
mod receive;
mod routed;
mod shared_tx;
mod tunnels;
mod way_back;

pub use next_hop::{NextHop, NextHops, Refusal, Resolution};
pub use routed::RoutedLink;
pub use shared_tx::SharedTx;
pub use tunnels::UplinkTunnels;
pub use way_back::WayBack;
