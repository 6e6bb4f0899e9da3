//! The hit path's reader: fixed offsets, and everything that is not plain is for the slow path.

use crate::frame::checksum::{fold, sum};
use crate::hash::folded_multiply as mix;
use crate::snapshot::PortId;
use crate::wire::{ethernet, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp};

/// Where the transport header of a plain IPv4 frame is.
pub(super) const V4_TRANSPORT: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
/// Where the transport header of a plain IPv6 frame is.
pub(super) const V6_TRANSPORT: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;
/// The headers of the shortest plain IPv4 frame: UDP and ICMP.
pub(super) const V4_BYTES: usize = V4_TRANSPORT + udp::HEADER_BYTES;
/// The headers of the shortest plain IPv6 frame.
pub(super) const V6_BYTES: usize = V6_TRANSPORT + udp::HEADER_BYTES;

/// Addresses (64 bits), ports (32), protocol (8), type of ICMP (8), ingress port (16), from the least significant
/// bit. Addresses and ports are in the machine's order, as they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct KeyV4(u128);

/// Addresses in four words, and the rest of [`KeyV4`] in the fifth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct KeyV6([u64; 5]);

/// Whether the part of a key behind the addresses is that of an echo.
#[inline]
fn is_echo(rest: u64) -> bool {
    matches!((rest >> 32) as u8, protocol::ICMP | protocol::ICMPV6)
}

impl KeyV4 {
    #[inline]
    pub(super) fn is_echo(self) -> bool {
        is_echo((self.0 >> 64) as u64)
    }
}

impl KeyV6 {
    #[inline]
    pub(super) fn is_echo(self) -> bool {
        is_echo(self.0[4])
    }
}

/// What a table is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe<K> {
    pub(super) key: K,
    pub(super) hash: u64,
    /// The entry that was prefetched, or zero.
    pub(super) entry: u32,
}

/// What a frame looks like to the hit path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quick(pub(super) Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    V4(Probe<KeyV4>),
    V6(Probe<KeyV6>),
    Slow,
}

/// A key's hash, mixed with a secret so that nobody chooses collisions.
pub(super) trait Key: Copy + Eq {
    fn hash(&self, seed: u64) -> u64;
}

impl Key for KeyV4 {
    #[inline]
    fn hash(&self, seed: u64) -> u64 {
        // As the flow cache has it: twice, because numbered addresses survive a single multiplication.
        let low = self.0 as u64 ^ seed ^ 0x9e37_79b9_7f4a_7c15;
        let high = (self.0 >> 64) as u64 ^ seed.rotate_left(32) ^ 0xa076_1d64_78bd_642f;
        mix(mix(low, high), 0xe703_7ed1_a0b4_28db)
    }
}

impl Key for KeyV6 {
    #[inline]
    fn hash(&self, seed: u64) -> u64 {
        let [a, b, c, d, e] = self.0;
        let source = mix(a ^ seed ^ 0x9e37_79b9_7f4a_7c15, b ^ seed.rotate_left(16) ^ 0xa076_1d64_78bd_642f);
        let destination = mix(c ^ seed.rotate_left(32) ^ 0xe703_7ed1_a0b4_28db, d ^ seed ^ 0x8ebc_6af0_9c88_c6e3);
        mix(source ^ e, destination.rotate_left(32) ^ seed.rotate_left(48) ^ 0x5899_65cc_7537_4cc3)
    }
}

impl Quick {
    /// What no frame was looked at for.
    pub const SLOW: Self = Self(Kind::Slow);

    /// Reads an untagged frame of `frame_bytes` bytes that starts with `head` (all of it, unless it is scattered) and
    /// came in through `port`.
    ///
    /// Plain is: IPv4 without options, IPv6 without extension headers, neither a fragment nor out of hops, with a right
    /// header checksum and lengths within the frame; TCP in the middle of a connection, UDP, an echo.
    #[inline]
    #[must_use]
    pub fn read(head: &[u8], frame_bytes: usize, port: PortId, seed: u64) -> Self {
        let Some(&[high, low]) = head.get(ethernet::TYPE_OFFSET..).and_then(<[u8]>::first_chunk) else {
            return Self(Kind::Slow);
        };
        let kind = match [high, low] {
            [0x08, 0x00] => {
                read_v4(head, frame_bytes, port).map(|key| Kind::V4(Probe { key, hash: key.hash(seed), entry: 0 }))
            }
            [0x86, 0xdd] => {
                read_v6(head, frame_bytes, port).map(|key| Kind::V6(Probe { key, hash: key.hash(seed), entry: 0 }))
            }
            _ => None,
        };
        Self(kind.unwrap_or(Kind::Slow))
    }

    /// Whether the frame is for the slow path whatever the cache knows.
    #[inline]
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.0 == Kind::Slow
    }
}

#[inline]
fn be16(head: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

#[inline]
fn read_v4(head: &[u8], frame_bytes: usize, port: PortId) -> Option<KeyV4> {
    const IP: usize = ethernet::HEADER_BYTES;
    let fixed: &[u8; V4_BYTES] = head.first_chunk()?;
    let total_bytes = usize::from(be16(fixed, IP + 2));
    // Neither a fragment, nor the reserved bit.
    let is_whole = be16(fixed, IP + 6) & 0xbfff == 0;
    let is_plain = fixed[IP] == 0x45
        && is_whole
        && fixed[IP + 8] > 1
        && IP + total_bytes <= frame_bytes
        && fold(sum(&fixed[IP..V4_TRANSPORT])) == 0xffff;
    if !is_plain {
        return None;
    }
    let segment_bytes = total_bytes.checked_sub(ipv4::HEADER_BYTES)?;
    let (ports, message) = read_transport(head, V4_TRANSPORT, fixed[IP + 9], false, segment_bytes)?;
    let addresses = u64::from_ne_bytes(*fixed[IP + 12..].first_chunk()?);
    let rest = rest(ports, fixed[IP + 9], message, port);
    Some(KeyV4(u128::from(addresses) | u128::from(rest) << 64))
}

#[inline]
fn read_v6(head: &[u8], frame_bytes: usize, port: PortId) -> Option<KeyV6> {
    const IP: usize = ethernet::HEADER_BYTES;
    let fixed: &[u8; V6_BYTES] = head.first_chunk()?;
    let payload_bytes = usize::from(be16(fixed, IP + 4));
    if fixed[IP] >> 4 != 6 || fixed[IP + 7] <= 1 || V6_TRANSPORT + payload_bytes > frame_bytes {
        return None;
    }
    let (ports, message) = read_transport(head, V6_TRANSPORT, fixed[IP + 6], true, payload_bytes)?;
    let word = |index: usize| fixed[IP + 8 + index * 8..].first_chunk().map(|word| u64::from_ne_bytes(*word));
    Some(KeyV6([word(0)?, word(1)?, word(2)?, word(3)?, rest(ports, fixed[IP + 6], message, port)]))
}

/// The part of the key behind the addresses.
#[inline]
fn rest(ports: u32, protocol: u8, message: u8, port: PortId) -> u64 {
    u64::from(ports) | u64::from(protocol) << 32 | u64::from(message) << 40 | u64::from(port.0) << 48
}

/// Ports and type of ICMP; for what the slow path has to see, nothing.
#[inline]
fn read_transport(head: &[u8], at: usize, number: u8, is_v6: bool, bytes: usize) -> Option<(u32, u8)> {
    let segment = head.get(at..)?;
    match number {
        protocol::TCP => {
            let header: &[u8; tcp::HEADER_BYTES] = segment.first_chunk()?;
            let header_bytes = usize::from(header[12] >> 4) * 4;
            // In the middle of a connection: ACK, but neither SYN, FIN nor RST.
            let is_plain = header[13] & 0x17 == 0x10 && header_bytes >= tcp::HEADER_BYTES && header_bytes <= bytes;
            is_plain.then(|| (u32::from_ne_bytes([header[0], header[1], header[2], header[3]]), 0))
        }
        protocol::UDP => {
            let header: &[u8; udp::HEADER_BYTES] = segment.first_chunk()?;
            let length = usize::from(be16(header, 4));
            let is_plain = length >= udp::HEADER_BYTES && length <= bytes;
            is_plain.then(|| (u32::from_ne_bytes([header[0], header[1], header[2], header[3]]), 0))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header: &[u8; icmp::HEADER_BYTES] = segment.first_chunk()?;
            let is_echo = match (number, is_v6) {
                (protocol::ICMP, false) => matches!(header[0], icmp::ECHO_REQUEST | icmp::ECHO_REPLY),
                (protocol::ICMPV6, true) => matches!(header[0], icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY),
                _ => false,
            };
            let is_plain = is_echo && header[1] == 0 && bytes >= icmp::HEADER_BYTES;
            is_plain.then(|| (u32::from(u16::from_ne_bytes([header[4], header[5]])), header[0]))
        }
        _ => None,
    }
}
