//! The control plane: what the switch was told to be, and everything that makes it so.
//!
//! [`desired`] decides, without touching the outside world; [`netns`] and [`netlink`] touch the
//! kernel.

pub mod desired;
pub mod ipam;
pub mod lock;
pub mod netlink;
pub mod netns;
pub mod refusal;
pub mod store;
