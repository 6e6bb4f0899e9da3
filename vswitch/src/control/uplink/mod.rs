//! Uplinks: the interfaces by which traffic leaves the host.
pub mod fib;
pub mod mirror;
pub mod options;
mod source;
pub mod watch;
