//! The programs that run in the kernel (eBPF): which packets of a host's interface are the switch's, and how they get
//! to it and back.
//!
//! # The classifier
//!
//! A *shared uplink* is an interface of the host through which containers reach the world, too. The host keeps it:
//! addresses, routes, traffic. A program on the interface's ingress takes exactly what belongs to the switch, and
//! passes everything else on untouched:
//!
//! | rule | what |
//! |---|---|
//! | published | a published port of one of the host's addresses, TCP, UDP, SCTP |
//! | translated | a port that a translated flow has on the way out |
//! | vxlan | the UDP port of a tunnel |
//! | echo reply | to an identifier that a translated flow has |
//! | ICMP error | about a packet that one of the above has sent: its source is looked up inside of the error |
//! | later fragment | of a packet whose first fragment was taken in the last 30 s |
//! | routed | whatever is for a network behind the switch to which others route |
//! | undecided | a fragment that overtook the first one of its packet: see below |
//!
//! The host's *loopback interface* is shared in the same way: what a program of the host sends to one of the host's own
//! addresses comes by there and never sees an uplink. There the loopback addresses count as well, and no network is
//! routed. What the switch answers arrives by that interface, too, as from any other program of the host.
//!
//! What is malformed, cut short, tagged, multicast, or behind more than eight extension headers passes: when in doubt,
//! a packet is the host's. Checksums are not verified; whoever takes the packet does that.
//!
//! The rules exist twice: in C for the kernel (`classifier.bpf.c`, compiled as a tc and as an XDP program), and in
//! Rust ([`model`]). `tests/classifier.rs` runs both on the same packets.
//!
//! *Fragments that overtake the first one.* Only the first fragment of a packet says whose it is. A later one that comes
//! before it to an address of the host is given to the switch, *undecided*: with a group's address as its source, which
//! no frame has. The switch holds it until the first one comes, for a second or two. When that is the switch's, all go
//! where it goes. When it is the host's, it is given to the switch as well, which gives all of them back; so it does
//! with what it has no room for and what has waited too long. What is given back arrives at the interface
//! once more, as though it had come only now, with the classifier told that it is the host's; the kernel puts packets
//! together in any order. Nothing of this concerns whole packets, nor fragments in order: the first one of a packet of
//! the host's is noted, and the others pass. So many are withheld in a while at an interface; beyond that they pass, and
//! if they were the switch's after all, their packet is lost.
//!
//! # Maps
//!
//! The control plane fills them ([`Classifier`]); the data plane writes only one, [`TranslatedPorts`], by plain stores
//! to shared memory. Nearly every packet is the host's, so three bytes per port, in arrays of 64 KB, answer "no" before
//! anything is hashed; what is published at all of the host's addresses costs a bit of one of them: about 15 ns as a tc program, and 20 to 25 ns as an XDP program.
//!
//! # Two ways of carrying what was taken
//!
//! *tc*: after the kernel's GRO, so that super-frames come whole, redirected to a TAP (the *carry TAP*) that the switch
//! reads; what the switch writes to that TAP is redirected to the uplink, where the kernel finds the next hop, its
//! address, and cuts super-frames as late as the driver allows. *XDP*: redirected to AF_XDP sockets, before the kernel
//! does anything.
//!
//! # Limits
//!
//! * Super-frames of more than 64 KB (BIG TCP, `gro_max_size` above 65536) say no length in their IP header and pass.
//! * A card that takes VLAN tags off hides them from XDP, which then sees an untagged packet: where the host has VLAN
//!   interfaces on an uplink that is served by XDP, `rxvlan` is to be off there.
//! * What has no route on the way out is dropped by the kernel, which does not tell.
//!
//! # Reserved ports
//!
//! What is published or translated is refused to programs of the host that want to bind it (`reserve.h`,
//! [`Classifier::reserve_ports`]).
//!
//! # Life
//!
//! Programs are attached by links, which end with the process: after `kill -9` none of them is left. Kernels before 6.6
//! have no such links for tc (TCX); there a filter on the interface's clsact hook stays behind, and is removed by the
//! next start. Programs of other people are named and left alone: [`attached_programs`].
//!
//! # The rear guard
//!
//! One filter does outlive the process, and for a minute it keeps from the host what is the switch's, without an answer
//! (`rear.rs`, [`Classifier::guard_uplink`]): so a restart resets no connection. Tunnels' packets it lets through. After
//! that minute it passes everything; the next start, or an orderly end with a clean-up, removes it.
//!
//! # The object
//!
//! `classifier.bpf.o` is committed, so that building the switch needs no clang. `make bpf` compiles it, and
//! `tests/classifier_object.rs` makes sure that it is what the source compiles to.

mod attach;
mod counters;
mod error;
mod loader;
pub mod model;
mod ports;
mod programs;
mod rear;
mod reserve;
mod service;
pub mod sys;

pub use self::attach::{Attachment, TcHook, XdpMode, XdpUplink};
pub use self::counters::Counter;
pub use self::error::ClassifierError;
pub use self::loader::{Classifier, Program};
pub use self::ports::{BoundPorts, Flow, SharedPorts, TranslatedPorts};
pub use self::programs::{AttachedProgram, attached_programs, remove_leftovers};
pub use self::rear::{GuardOwner, RearGuard, relieve};
pub use self::reserve::Reservation;
pub use self::service::{HostAddresses, Protocol};

/// A result of this module.
pub type Result<T> = std::result::Result<T, ClassifierError>;

/// The compiled programs: what `make bpf` makes of `classifier.bpf.c`.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!("classifier.bpf.o");
