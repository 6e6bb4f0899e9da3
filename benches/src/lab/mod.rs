//! Side by side: the same workload over the switch and over its peers, interleaved in one run.
//!
//! # Theory of operation
//!
//! A [`peer::Topology`] is a number of containers (network namespaces with an `eth0`) joined by one
//! kind of switch: ours, the kernel's bridge, or Open vSwitch in userspace. All topologies are set
//! up at the start and stay idle until it is their turn.
//!
//! Machines are noisy, and noise comes in waves of seconds to minutes. So the measurement goes in
//! *rounds*: in each, every workload runs once over every peer, one straight after the other, in an
//! order that rotates. What is reported is the ratio to the kernel bridge *of the same round*
//! ([`report`]): its median over the rounds, and its spread. Absolute numbers stand beside it.
//!
//! Each run also says what it cost ([`meter`]): CPU time of the switch's own process, busy time of
//! the whole machine (the kernel bridge has no process; its cost hides in the senders), and the
//! time that the hypervisor took away ("steal"), above five per cent of which a run is flagged.
//!
//! Further questions are asked with the same means. What does a switch that shares the host's interface
//! cost the host ([`peer::Uplink`])? There the "switches" are one wire with and without a classifier
//! on it. What becomes of traffic that is translated between a container and the world outside
//! ([`peer::Gateway`])? There the peers are Docker's rules in nftables, and Docker itself. What does a
//! container gain whose network Docker's own driver does not make ([`peer::Network`])? There everything is Docker's but
//! the driver. What do many ports cost in memory ([`memory`])? And which part of the difference to the kernel is the
//! price of leaving it, for whatever stands at the other side of a TAP ([`relay`])?
//!
//! Everything happens in namespaces with unique names, and is removed again, also on failure and
//! on SIGINT.

pub mod blast;
pub mod memory;
pub mod meter;
pub mod peer;
pub mod relay;
pub mod report;
pub mod run;
pub mod workload;
