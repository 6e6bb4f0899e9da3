//! The bits per port that the programs ask first, in memory that the kernel and this process share.

// An eBPF map is mapped, and its bytes are read as atomics; the kernel only reads them.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags};

/// One byte for each 16-bit port (`struct port_bits`).
const PORTS: usize = 1 << 16;

/// What a port, or an ICMP identifier, belongs to. The order is that of the bits in `maps.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Flow {
    /// A TCP port.
    Tcp,
    /// A UDP port.
    Udp,
    /// An SCTP port.
    Sctp,
    /// The identifier of ICMP or ICMPv6 echoes.
    Icmp,
}

impl Flow {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];
}

pub(super) fn bit(flow: Flow, ipv6: bool) -> u8 {
    1 << (flow as u8 + if ipv6 { 4 } else { 0 })
}

/// An array of port bits that programs read.
#[derive(Debug)]
pub(super) struct PortBits {
    base: NonNull<AtomicU8>,
    /// Programs that are loaded later name the map by its descriptor.
    _map: MapData,
}

// SAFETY: the mapping is valid from any thread until it is dropped, and is only accessed by atomic operations.
unsafe impl Send for PortBits {}
// SAFETY: as above.
unsafe impl Sync for PortBits {}

impl PortBits {
    /// Maps the array, a map of one value with `BPF_F_MMAPABLE`.
    pub(super) fn map(map: MapData) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing; `array_map_mmap` refuses one
        // that is longer than the map.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PORTS, prot, MapFlags::SHARED, map.fd(), 0) }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("a map cannot be at address zero"))?;
        Ok(Self { base, _map: map })
    }

    fn byte(&self, port: u16) -> &AtomicU8 {
        // SAFETY: `port` is below PORTS, the mapping's length; all bytes are initialized and accessed as atomics.
        unsafe { self.base.add(usize::from(port)).as_ref() }
    }

    pub(super) fn set(&self, port: u16, bits: u8) {
        self.byte(port).fetch_or(bits, Ordering::Release);
    }

    pub(super) fn clear(&self, port: u16, bits: u8) {
        self.byte(port).fetch_and(!bits, Ordering::Release);
    }

    pub(super) fn get(&self, port: u16) -> u8 {
        self.byte(port).load(Ordering::Acquire)
    }
}

impl Drop for PortBits {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives the value.
        // It can only fail for arguments that were never mapped.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), PORTS) };
    }
}

/// The ports and identifiers that translated flows have towards the outside, on any of the host's addresses.
///
/// Setting and clearing is one atomic operation on memory, for any thread; the next packet sees it. A port must
/// be set before the first packet of its flow leaves, or the answer might be taken for the host's.
#[derive(Debug, Clone)]
pub struct TranslatedPorts(pub(super) Arc<PortBits>);

impl TranslatedPorts {
    /// Packets to this port, or echo replies with this identifier, are the switch's from now on.
    #[inline]
    pub fn set(&self, flow: Flow, ipv6: bool, port: u16) {
        self.0.set(port, bit(flow, ipv6));
    }

    /// They are the host's again.
    #[inline]
    pub fn clear(&self, flow: Flow, ipv6: bool, port: u16) {
        self.0.clear(port, bit(flow, ipv6));
    }

    /// Whether they are the switch's.
    #[inline]
    #[must_use]
    pub fn is_set(&self, flow: Flow, ipv6: bool, port: u16) -> bool {
        self.0.get(port) & bit(flow, ipv6) != 0
    }
}

/// The ports of the host as its programs and the switch share them, for whoever has to find a free one.
#[derive(Debug, Clone)]
pub struct SharedPorts {
    /// Published at all addresses of a family.
    pub(super) published: Arc<PortBits>,
    /// Published at one address, and tunnels'.
    pub(super) services: Arc<PortBits>,
    /// Bound by programs of the host, while ports are reserved.
    pub(super) bound: Arc<PortBits>,
    pub(super) translated: TranslatedPorts,
}

impl SharedPorts {
    /// Whether the port is published, or a tunnel's, at any address.
    #[inline]
    #[must_use]
    pub fn is_served(&self, flow: Flow, ipv6: bool, port: u16) -> bool {
        (self.published.get(port) | self.services.get(port)) & bit(flow, ipv6) != 0
    }

    /// Whether a program of the host has bound the port since it was forgotten: see [`SharedPorts::forget_bound`].
    #[inline]
    #[must_use]
    pub fn is_bound(&self, flow: Flow, ipv6: bool, port: u16) -> bool {
        self.bound.get(port) & bit(flow, ipv6) != 0
    }

    /// The ports that programs of the host have bound, to be forgotten when their sockets have been listed.
    #[must_use]
    pub fn bound(&self) -> BoundPorts {
        BoundPorts((0..=u16::MAX).map(|port| self.bound.get(port)).collect())
    }

    /// Forgets those that were bound when `before` was taken. Whoever has bound one since stays.
    pub fn forget_bound(&self, before: &BoundPorts) {
        for (port, &bits) in (0..=u16::MAX).zip(&before.0) {
            if bits != 0 {
                self.bound.clear(port, bits);
            }
        }
    }

    /// The ports that translated flows have.
    #[must_use]
    pub fn translated(&self) -> &TranslatedPorts {
        &self.translated
    }
}

/// The ports that programs of the host had bound at one moment.
#[derive(Debug)]
pub struct BoundPorts(Vec<u8>);
