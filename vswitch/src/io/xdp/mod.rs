//! AF_XDP: an interface's frames, received into and sent from a worker's own memory
//! (`Documentation/networking/af_xdp.rst`).
//!
//! # Theory of operation
//!
//! A small XDP `program` on the interface redirects what comes in to sockets, one per receive queue (`socket`). The
//! memory of the worker that serves the interface is shared with the kernel (`umem`), and rings (`ring`) carry
//! descriptors of it both ways. Received frames are used where the kernel put them (`rx`), sent ones are read from where they
//! are (`tx`); between two AF_XDP ports of a worker a frame is never copied by us. How much the kernel copies depends
//! on the interface (`mode`).
//!
//! # Threads
//!
//! [`XdpDevice::open`] does everything that waits: sockets, registration of memory, binding, the program. It runs on
//! the control thread, as does the end of the device. A worker takes the rings out of the device when it opens its queues and
//! puts them back when it closes them. Only the worker whose memory it is may do that ([`Device::home`]).
//!
//! # Memory
//!
//! The whole pool of a worker is pinned once it has its first AF_XDP port: 50 MB as workers have it. Each port then costs
//! 110 KB for its rings, the chunks that are lent to it (256 KB of the pool for a quiet one), and in the kernel 136
//! bytes for *every page of the pool* (`struct xdp_buff_xsk`, one per chunk of the UMEM for each socket): 1.7 MB.
//!
//! # Why no library
//!
//! The sockets need what the crates for AF_XDP do not have: metadata in front of sent frames, without which every checksum
//! has to be computed here, and again at the other end; chunks that are not aligned, without which nothing could be
//! sent from where a TAP was read into; a socket map, and a program that the process takes with it when it ends. What is
//! left is rings, and those are `ring`.
//!
//! # What AF_XDP cannot do
//!
//! There are no super-frames: the container's end of a veth sends none while a program is attached in native mode (in
//! generic mode it has to be told not to), and the egress segments what comes from elsewhere. An interface's checksum offload says nothing about what we receive; see `partial`.
//!
//! [`Device::home`]: super::Device::home

mod delivery;
mod device;
mod ethtool;
mod fill;
mod mode;
mod partial;
mod program;
mod ring;
mod rx;
mod socket;
mod tx;
mod umem;

pub use device::{Steering, XdpConfig, XdpDevice};
pub use ethtool::{receive_queues, turn_off_features};
pub use mode::{Refused, XdpMode};
pub use socket::{BusyPoll, XdpStatistics};
pub use umem::Umems;
