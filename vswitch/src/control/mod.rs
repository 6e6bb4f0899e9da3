//! The control plane: what the switch was told to be, and everything that makes it so.
//!
//! One command at a time changes the switch ([`switch`]), whoever it comes from: the control
//! socket ([`server`]) or the switch's own upkeep ([`upkeep`], [`watch`], [`host_ends`]). [`desired`] decides,
//! without touching the outside world; [`store`] remembers; [`netns`], [`netlink`] and
//! [`crate::io::tap`] touch the kernel; [`containers`] asks container engines for names.

pub mod connections;
pub mod containers;
pub mod desired;
pub mod docker;
pub mod host_ends;
pub mod host_ports;
pub mod ipam;
pub mod lock;
pub mod netlink;
pub mod netns;
pub mod placement;
pub mod refusal;
pub mod server;
pub mod service;
pub mod store;
pub mod switch;
pub mod upkeep;
pub mod uplink;
pub mod watch;
