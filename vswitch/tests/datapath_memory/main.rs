//! The whole datapath, driven from memory: no root, no device of the kernel, exact counters.
//!
//! Each scenario builds a small switch of devices in memory ([`fixture`]), lets ports receive
//! frames, and asserts what every port was sent, byte for byte, and why anything was not. After
//! every scenario the fixture asserts that each frame is accounted for and that none is leaked.

mod bridging;
mod failures;
mod fixture;
mod gateway;
mod limits;
mod loops;
mod model;
mod offloads;
mod path_mtu;
mod probe;
mod snapshots;
mod threads;
mod tunnels;
mod vlans;
#[path = "../wire_packets/mod.rs"]
mod wire_packets;
