//! Wire formats: one file per protocol, the same skeleton in each.
//!
//! A format is a *view*: a struct that borrows the bytes, made by a checked constructor
//! (`new_checked`) that proves once that everything the accessors touch is there. The fixed part
//! of a header is held as a reference to an array (`&[u8; 20]`), so the accessors' indices are
//! checked by the compiler, not at run time. Headers are written through `HeaderMut`, a view over
//! the same array.
//!
//! # The no-panic contract
//! Every function here is total: no input makes it panic, and a length or an offset that a packet
//! claims is compared with the bytes that are there before it is used. Constructors answer a
//! contradiction with an [`Error`]. After a constructor succeeded no accessor fails.
//!
//! Nothing here allocates, except [`announce`], which belongs to the control plane.

pub mod announce;
pub mod arp;
pub mod echo;
pub mod ethernet;
pub mod icmp;
pub mod icmp_error;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod layers;
pub mod mac;
pub mod neighbour;
pub mod resolution;
pub mod sctp;
pub mod tcp;
pub mod too_big;
pub mod udp;
pub mod vnet_hdr;
pub mod vxlan;

pub use ethernet::EtherType;
pub use layers::Layers;
pub use mac::MacAddr;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the header does.
    #[error("{header}: {have} bytes where at least {need} are needed")]
    Truncated {
        /// The header.
        header: &'static str,
        /// The bytes needed.
        need: usize,
        /// The bytes there are.
        have: usize,
    },
    /// The header contradicts itself or its surroundings.
    #[error("{header}: {what}")]
    Malformed {
        /// The header.
        header: &'static str,
        /// The contradiction.
        what: &'static str,
    },
}

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}

/// Splits the fixed part of a header off.
#[inline]
fn fixed<'a, const N: usize>(header: &'static str, bytes: &'a [u8]) -> Result<(&'a [u8; N], &'a [u8]), Error> {
    bytes.split_first_chunk::<N>().ok_or(Error::Truncated { header, need: N, have: bytes.len() })
}

/// The big-endian number at `at`; `at` is a constant wherever this is called, so the check folds away.
#[inline]
fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// As [`be16`], for four bytes.
#[inline]
fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Stores a big-endian number at the constant offset `at`.
#[inline]
fn put16<const N: usize>(header: &mut [u8; N], at: usize, value: u16) {
    [header[at], header[at + 1]] = value.to_be_bytes();
}
