//! Uplinks: the interfaces by which traffic leaves the host.
pub mod fib;
pub mod mirror;
mod source;
pub mod watch;
