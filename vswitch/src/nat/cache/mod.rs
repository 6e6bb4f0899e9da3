//! A worker's own table of translations: the hit path of the gateway.
//!
//! Theory of operation. A plain packet in the middle of a flow is known by its addresses, ports, protocol and the port
//! that it came in through, all read at fixed offsets ([`Quick`]). The table says what to do with it: a fixed rewrite,
//! new Ethernet addresses, a way out. Whatever is not plain takes the slow path, which decides and inserts.
//!
//! *Memory.* Cost per packet has to be the same for a thousand connections and for a million, and what differs between
//! the two are misses of the CPU's caches and of its TLB; the latter cost more (`crate::prefetch` tells why). So a flow's
//! place is found with one miss of the TLB: its bucket is one page, with 63 entries for IPv4, a cache line each, and one
//! line of their tags, eight bits of each flow's hash. A directory says which bucket a hash belongs to; for a million
//! flows it has 256 KB, and the tags have 1.5 MB, which the second cache of a server holds for the most part. A bucket that
//! is full is split, so that memory grows page by page: about 95 bytes per flow, and no flow ever waits until a large table
//! was made larger. Bursts ask for their lines in two steps, tags and then entries.
//!
//! *Validity.* There is no removal. An entry is valid while its epoch is the current one, and for [`VALID_S`] seconds
//! after its last noted hit: what the shared table of connections forgot by time is forgotten here, because a connection
//! there lives longer than that without traffic. A hit is noted if the last note is [`NOTE_S`] seconds old; it says so,
//! and the caller touches the shared table, so that this other miss of the cache, and two lines that must be written
//! back to memory, come with a small part of a million flows' packets. Dead entries make room when their bucket is
//! full, before it is split.

use std::io;

use super::rewrite::{Family, Transport, transport_header};
use super::{Hops, Rewrite};
use crate::frame::{Csum, Frame, GsoKind};
use crate::snapshot::PortId;
use crate::wire::{ethernet, protocol, udp};

mod entry;
mod memory;
mod quick;
mod table;

use entry::{Common, EntryV4, EntryV6};
use quick::{Kind, V4_TRANSPORT, V6_TRANSPORT};
use table::Table;

pub use quick::Quick;

/// For how many seconds after its last noted hit an entry is valid.
pub const VALID_S: u32 = 10;
/// For how many seconds from a noted hit on no other one is noted. By so much less one the table's times may begin too
/// early, which is nothing against those of TCP and UDP; an echo's are the minimum that RFC 5508 asks for, and its hits
/// are noted every second.
pub const NOTE_S: u32 = 4;
/// The number of buckets for IPv4 flows that a worker has at most, 256 MB. They are filled to about 70 %: 2.8 million
/// flows. A million connections in both directions take 190 MB.
const BUCKETS_V4_MAX: usize = 1 << 16;
/// The number of those for IPv6, 128 MB: 700,000 flows.
const BUCKETS_V6_MAX: usize = 1 << 14;

/// What is to be done with the packets of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// The translation.
    pub rewrite: Rewrite,
    /// What happens to the time to live.
    pub hops: Hops,
    /// The Ethernet address of the next hop or station.
    pub destination: [u8; 6],
    /// The Ethernet address of the gateway on that side.
    pub source: [u8; 6],
    /// The way out.
    pub out: PortId,
    /// The longest IP packet that passes there, in bytes.
    pub mtu: u16,
    /// The connection in the shared table, below 2^31; none for what is routed without one.
    pub connection: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Found<'a> {
    V4(&'a EntryV4),
    V6(&'a EntryV6),
}

/// What a valid entry says.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'a> {
    entry: Found<'a>,
    /// The connection whose last use is to be noted now in the shared table.
    pub touch: Option<u32>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct NatCache {
    v4: Table<EntryV4>,
    v6: Table<EntryV6>,
    seed: u64,
}

impl NatCache {
    /// An empty cache whose hash is mixed with `seed`, a secret.
    ///
    /// # Errors
    /// When the kernel refuses the address space.
    pub fn new(seed: u64) -> io::Result<Self> {
        Ok(Self { v4: Table::new(BUCKETS_V4_MAX, seed)?, v6: Table::new(BUCKETS_V6_MAX, seed)?, seed })
    }

    /// Reads a frame that came in through `port`, and is to be routed. It is not tagged: a tagged one is
    /// [slow](Quick::is_slow).
    #[inline]
    #[must_use]
    pub fn read(&self, frame: &Frame, port: PortId) -> Quick {
        Quick::read(frame.data(), frame.len(), port, self.seed)
    }

    /// The first step, for all frames of a burst: asks the CPU for the lines of the tags.
    #[inline]
    pub fn prefetch_tags(&self, quick: &Quick) {
        match &quick.0 {
            Kind::V4(probe) => self.v4.prefetch_tags(probe.hash),
            Kind::V6(probe) => self.v6.prefetch_tags(probe.hash),
            Kind::Slow => {}
        }
    }

    /// The second step, for all frames of a burst: asks the CPU for the entries.
    #[inline]
    pub fn prefetch_entry(&self, quick: &mut Quick) {
        match &mut quick.0 {
            Kind::V4(probe) => self.v4.prefetch_entry(probe),
            Kind::V6(probe) => self.v6.prefetch_entry(probe),
            Kind::Slow => {}
        }
    }

    /// What was inserted for the flow under `epoch`, which is not zero, if it is valid.
    #[inline]
    pub fn lookup(&mut self, quick: &Quick, epoch: u64, now_s: u32) -> Option<Hit<'_>> {
        match &quick.0 {
            Kind::V4(probe) => {
                let number = self.v4.find(probe)?;
                let entry = self.v4.entry_mut(number);
                if !entry.common.is_valid(epoch, now_s) {
                    return None;
                }
                let touch = entry.common.stamp(now_s, if probe.key.is_echo() { 1 } else { NOTE_S });
                Some(Hit { entry: Found::V4(entry), touch })
            }
            Kind::V6(probe) => {
                let number = self.v6.find(probe)?;
                let entry = self.v6.entry_mut(number);
                if !entry.common.is_valid(epoch, now_s) {
                    return None;
                }
                let touch = entry.common.stamp(now_s, if probe.key.is_echo() { 1 } else { NOTE_S });
                Some(Hit { entry: Found::V6(entry), touch })
            }
            Kind::Slow => None,
        }
    }

    /// Remembers a decision that was made under `epoch` for the packets like the one that `quick` was read from.
    /// Nothing is done for what is slow, and where the rewrite is of another family.
    pub fn insert(&mut self, quick: &Quick, epoch: u64, now_s: u32, action: &Action) {
        let common = Common::new(action, epoch, now_s);
        match (&quick.0, action.rewrite.0) {
            (Kind::V4(probe), Family::V4(rewrite)) => {
                self.v4.insert(probe, EntryV4 { key: probe.key, rewrite, common }, epoch, now_s);
            }
            (Kind::V6(probe), Family::V6(rewrite)) => {
                self.v6.insert(probe, EntryV6 { key: probe.key, rewrite, common }, epoch, now_s);
            }
            _ => {}
        }
    }

    /// The number of flows that have a place, dead ones included; counted one by one.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.v4.entries() + self.v6.entries()
    }
}

impl Hit<'_> {
    #[inline]
    fn common(&self) -> &Common {
        match self.entry {
            Found::V4(entry) => &entry.common,
            Found::V6(entry) => &entry.common,
        }
    }

    /// The way out.
    #[inline]
    #[must_use]
    pub fn out(&self) -> PortId {
        PortId(self.common().out)
    }

    /// Whether the frame, as it came in, fits through the way out: itself, or each segment that it is to be cut into.
    #[inline]
    #[must_use]
    pub fn fits(&self, frame: &Frame) -> bool {
        let mtu = usize::from(self.common().mtu);
        frame.len() <= ethernet::HEADER_BYTES + mtu || segments_fit(frame, mtu)
    }

    /// Rewrites the frame that was read: Ethernet addresses, hops, IP addresses, ports, checksums.
    #[inline]
    pub fn apply(&self, frame: &mut Frame) {
        let csum = frame.offload.csum;
        let data = frame.data_mut();
        match self.entry {
            Found::V4(EntryV4 { rewrite, common, .. }) => {
                let Some((head, segment)) = data.split_first_chunk_mut::<V4_TRANSPORT>() else { return };
                let (link, header) = head.split_at_mut(ethernet::HEADER_BYTES);
                let Some(header) = header.first_chunk_mut() else { return };
                link[..12].copy_from_slice(&common.link);
                rewrite.network(header, common.hops());
                let kind = transport(header[9], false);
                transport_header(segment, kind, rewrite.ports, rewrite.deltas, is_partial(csum, V4_TRANSPORT));
            }
            Found::V6(EntryV6 { rewrite, common, .. }) => {
                let Some((head, segment)) = data.split_first_chunk_mut::<V6_TRANSPORT>() else { return };
                let (link, header) = head.split_at_mut(ethernet::HEADER_BYTES);
                let Some(header) = header.first_chunk_mut() else { return };
                link[..12].copy_from_slice(&common.link);
                rewrite.network(header, common.hops());
                let kind = transport(header[6], true);
                transport_header(segment, kind, rewrite.ports, rewrite.deltas, is_partial(csum, V6_TRANSPORT));
            }
        }
    }
}

/// Whether the transport checksum at `transport` is still to be computed.
#[inline]
fn is_partial(csum: Csum, transport: usize) -> bool {
    matches!(csum, Csum::Partial { start, .. } if usize::from(start) == transport)
}

/// Of the protocols that [`Quick`] reads.
#[inline]
fn transport(number: u8, is_v6: bool) -> Transport {
    match number {
        protocol::TCP => Transport::Tcp,
        protocol::UDP => Transport::Udp,
        _ => Transport::Echo { is_v6 },
    }
}

/// A super-frame's segments are what has to fit.
#[cold]
fn segments_fit(frame: &Frame, mtu: usize) -> bool {
    let (Some(gso), data) = (frame.offload.gso, frame.data()) else { return false };
    let is_v6 = data.get(ethernet::HEADER_BYTES).is_some_and(|byte| byte >> 4 == 6);
    let (at, network_bytes) = if is_v6 {
        (V6_TRANSPORT, V6_TRANSPORT - ethernet::HEADER_BYTES)
    } else {
        (V4_TRANSPORT, V4_TRANSPORT - ethernet::HEADER_BYTES)
    };
    let transport_bytes = match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => data.get(at + 12).map_or(usize::MAX, |offset| usize::from(offset >> 4) * 4),
        GsoKind::Udp => udp::HEADER_BYTES,
    };
    transport_bytes.saturating_add(network_bytes + usize::from(gso.size)) <= mtu
}

#[cfg(test)]
#[path = "../cache_tests.rs"]
mod tests;
