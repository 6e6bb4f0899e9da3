//! Uplinks: the interfaces by which traffic leaves the host.
//!
//! Theory of operation: there are two kinds. An *L2 uplink* is an interface that a bridge has for
//! itself (`add-uplink`); a *shared uplink* stays the host's, and the switch takes from it only what
//! its own maps name (`--uplink`). Both are carried to the switch and back in the same ways
//! ([`carry`]), and both follow the host: links that go down, are renamed, vanish and come back,
//! addresses and routes that change ([`watch`], which keeps a [`mirror`]).
//!
//! Who builds Ethernet headers for a shared uplink asks the forwarding table ([`fib`]); with the `tc`
//! carry the kernel does that itself.
//!
//! **Nothing is attached in vain.** An interface of the host is touched only when something needs it:
//! an L2 uplink, a tunnel or a published port that goes through the shared uplink, or the
//! administrator who names the interface with `--uplink IFACE`. With `auto`, the default, and nothing
//! that needs it, the host's interface is as it was, and is not even watched.

pub mod carry;
pub mod features;
pub mod fib;
pub mod mirror;
pub mod options;
mod source;
pub mod watch;
