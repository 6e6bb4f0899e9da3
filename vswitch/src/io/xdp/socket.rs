//! An AF_XDP socket: a descriptor and four rings (`Documentation/networking/af_xdp.rst`).
//!
//! A socket serves one receive queue of one interface. It is made and bound on the control thread, because
//! that waits for the kernel's rtnetlink lock; its rings are then picked up by a worker. In the order of a frame's life:
//!
//! * *fill*: addresses of free chunks, from us to the kernel,
//! * *receive*: descriptors of received frames, from the kernel to us,
//! * *transmit*: descriptors of frames to be sent, from us to the kernel,
//! * *completion*: addresses of what was sent, from the kernel to us.
//!
//! Closing the descriptor ends everything that the kernel does with our memory, and waits for it
//! (`xsk_unbind_dev`); then the socket says so through a flag, for whoever lent chunks to it.

// Rings are mappings of the kernel's memory, and three socket options have no wrapper.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::sockopt::{
    set_socket_send_buffer_size_force, set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, xdp_mmap_offsets, xdp_statistics,
};
use rustix::net::xdp::{
    XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc,
    XdpRingOffset,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::ring::{Consumer, Parts, Producer};
use crate::frame::pool::Region;

/// Entries of the fill and receive rings: as many as a socket ever gets chunks ([`super::fill`]), so that the
/// receive ring never overflows.
pub(super) const RX_RING: u32 = 1024;
/// Entries of the transmit and completion rings: a burst of 64 of the longest frames fits.
pub(super) const TX_RING: u32 = 2048;

/// Descriptors that the kernel sends per call in copy mode; 32 if it is not told otherwise (kernel 6.18).
const TX_BUDGET: u32 = 1024;
/// `XDP_MAX_TX_SKB_BUDGET` (`include/uapi/linux/if_xdp.h`)
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

/// Bytes of buffers on their way in copy mode: a transmit ring of the longest frames. With the usual 208 KB the
/// kernel would stop after three frames of 60,000 bytes that the other end has not looked at yet.
const SEND_BUFFER_BYTES: usize = 16 << 20;

// `asm-generic/socket.h`
const SO_BUSY_POLL: c_int = 46;
const SO_PREFER_BUSY_POLL: c_int = 69;
const SO_BUSY_POLL_BUDGET: c_int = 70;

/// Busy polling: the worker runs the driver's receive path itself when it looks for frames, instead of waiting
/// for an interrupt. For workers that may use a core up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long one look may take, in microseconds (`SO_BUSY_POLL`).
    pub us: u32,
    /// The most frames of one look (`SO_BUSY_POLL_BUDGET`).
    pub budget: u32,
}

/// The four rings of a socket, each at the end that is ours.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) fill: Producer<u64>,
    pub(super) rx: Consumer<XdpDesc>,
    pub(super) tx: Producer<XdpDesc>,
    pub(super) completion: Consumer<u64>,
}

/// What the kernel counted for the sockets of a device (`XDP_STATISTICS`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XdpStatistics {
    /// Frames that were dropped because no chunk was free to receive them into.
    pub rx_no_chunk: u64,
    /// Frames that were dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// How often the kernel found the fill ring empty; not a number of frames.
    pub fill_ring_empty: u64,
    /// Descriptors that the kernel refused: a bug, or frames given up in the ring.
    pub tx_invalid: u64,
}

impl XdpStatistics {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            rx_no_chunk: self.rx_no_chunk + other.rx_no_chunk,
            rx_ring_full: self.rx_ring_full + other.rx_ring_full,
            fill_ring_empty: self.fill_ring_empty + other.fill_ring_empty,
            tx_invalid: self.tx_invalid + other.tx_invalid,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Socket {
    /// None only while it is being dropped.
    fd: Option<OwnedFd>,
    /// Set when the kernel has let go of the memory.
    closed: Arc<AtomicBool>,
    /// The memory that the kernel works in.
    region: Arc<Region>,
    /// Whether the memory was registered on this very socket, and then whether with metadata.
    pub(super) registered: OnceLock<bool>,
}

impl Socket {
    /// A socket in the calling thread's network namespace, with rings, not bound yet.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` without AF_XDP in the kernel, `EPERM` without `CAP_NET_RAW`, `ENOMEM`.
    pub(super) fn open(region: Arc<Region>, busy_poll: Option<BusyPoll>) -> io::Result<(Self, Rings)> {
        let fd = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_xdp_umem_fill_ring_size(&fd, RX_RING)?;
        set_xdp_umem_completion_ring_size(&fd, TX_RING)?;
        set_xdp_rx_ring_size(&fd, RX_RING)?;
        set_xdp_tx_ring_size(&fd, TX_RING)?;
        // Both only make it faster: without `CAP_NET_ADMIN`, or on an older kernel, it goes on in smaller steps.
        let _ = set_socket_send_buffer_size_force(&fd, SEND_BUFFER_BYTES);
        let _ = set_option(fd.as_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, TX_BUDGET);
        if let Some(busy_poll) = busy_poll {
            set_option(fd.as_fd(), libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)?;
            set_option(fd.as_fd(), libc::SOL_SOCKET, SO_BUSY_POLL, busy_poll.us)?;
            set_option(fd.as_fd(), libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, busy_poll.budget)?;
        }
        let at = xdp_mmap_offsets(&fd)?;
        // SAFETY: each ring is mapped once and used from one side; the kernel uses the other.
        let rings = unsafe {
            Rings {
                fill: Producer::new(map(fd.as_fd(), XDP_UMEM_PGOFF_FILL_RING, at.fr, RX_RING)?),
                rx: Consumer::new(map(fd.as_fd(), XDP_PGOFF_RX_RING, at.rx, RX_RING)?),
                tx: Producer::new(map(fd.as_fd(), XDP_PGOFF_TX_RING, at.tx, TX_RING)?),
                completion: Consumer::new(map(fd.as_fd(), XDP_UMEM_PGOFF_COMPLETION_RING, at.cr, TX_RING)?),
            }
        };
        let socket =
            Self { fd: Some(fd), closed: Arc::new(AtomicBool::new(false)), region, registered: OnceLock::new() };
        Ok((socket, rings))
    }

    /// The memory that the socket was made for.
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Becomes true once the kernel does nothing more with the memory.
    pub(super) fn closed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.closed)
    }

    /// Tells the kernel that there is something to be sent; in copy mode, sends it.
    #[inline]
    pub(super) fn kick(&self) -> Result<(), Errno> {
        rustix::net::send(self, &[], SendFlags::DONTWAIT).map(|_| ())
    }

    /// Tells the kernel that there is something to receive into; with busy polling, receives.
    #[inline]
    pub(super) fn poll(&self) -> Result<(), Errno> {
        rustix::net::recv(self, &mut [0_u8; 1], RecvFlags::DONTWAIT).map(|_| ())
    }

    /// What the kernel counted since the socket was made.
    pub(super) fn statistics(&self) -> io::Result<XdpStatistics> {
        let counted = xdp_statistics(self)?;
        Ok(XdpStatistics {
            rx_no_chunk: counted.rx_dropped,
            rx_ring_full: counted.rx_ring_full.unwrap_or(0),
            fill_ring_empty: counted.rx_fill_ring_empty_descs.unwrap_or(0),
            tx_invalid: counted.tx_invalid_descs,
        })
    }
}

impl AsFd for Socket {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("open until it is dropped").as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        drop(self.fd.take());
        self.closed.store(true, Ordering::Release);
    }
}

fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: u32) -> io::Result<()> {
    // SAFETY: the three options read one int.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A mapping of the kernel's memory.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is only unmapped, once.
unsafe impl Send for Mapping {}
// SAFETY: it has no methods.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; the ring that pointed into it had a reference.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Maps the ring at `page_offset` with `capacity` entries of `T`.
fn map<T>(fd: BorrowedFd<'_>, page_offset: u64, at: XdpRingOffset, capacity: u32) -> io::Result<Parts<T>> {
    let bytes = at.desc as usize + capacity as usize * size_of::<T>();
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { mmap(std::ptr::null_mut(), bytes, prot, flags, fd, page_offset) }?;
    let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
    let owner = Arc::new(Mapping { base, bytes });
    let index = |offset: u64| {
        // SAFETY: the kernel says where in the mapping the index is.
        unsafe { base.add(offset as usize) }.cast::<AtomicU32>()
    };
    Ok(Parts {
        producer: index(at.producer),
        consumer: index(at.consumer),
        flags: at.flags.map(index),
        // SAFETY: as above; the kernel aligns descriptors to a cache line.
        entries: unsafe { base.add(at.desc as usize) }.cast(),
        capacity,
        _owner: owner,
    })
}
