//! Docker's network driver: libnetwork's remote protocol, served by the switch itself.
//!
//! Theory of operation: the engine posts JSON to a unix socket in `/run/docker/plugins`, the name of which is the
//! name of the driver (`docker network create -d vswitch`). `message` has the protocol's types, `options` makes
//! of `docker network create`'s options what the switch understands or refuses, `driver` and `ipam` have one handler per
//! call, and [`server`] carries them. What the calls come to is decided where all commands are: in
//! [`super::desired`] and [`super::switch`].
//!
//! Three things about the engine shape the code:
//!
//! - It repeats a call whose connection was cut, and its buffer may be spent then, so that the repetition comes without
//!   contents. Connections are therefore used once: one that is kept alive may be closed at the moment of its use. A call
//!   that ends something is answered well without contents, too, and what it was about is found by asking the engine
//!   later (`forgotten`).
//! - It tolerates no field in an answer that it has filled itself, and takes an interface only by its name.
//! - It never reads back. The switch answers from its own books, and does not ask the engine while it is called: it
//!   holds a lock then.
//!
//! Sources: `libnetwork/drivers/remote` (`driver.go`, `api/api.go`), `libnetwork/ipams/remote`, `pkg/plugins/client.go`
//! and `daemon/network.go` of moby, as of 20.10.24, 28.2 and the main branch of August 2026.

mod driver;
mod forgotten;
pub(crate) mod fuzzing;
mod ipam;
mod known;
mod message;
mod options;
#[cfg(test)]
mod options_tests;
mod ports;
pub mod server;
pub mod socket;
mod values;

/// Where the engine looks for the driver `vswitch`.
pub const SOCKET_DEFAULT: &str = "/run/docker/plugins/vswitch.sock";
