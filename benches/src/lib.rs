//! Measuring the switch against its peers: see [`lab`].
//!
//! The micro-benchmarks of the datapath, which need neither root nor a kernel, are in `benches/`.

pub mod allocations;
pub mod lab;
