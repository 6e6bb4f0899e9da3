//! UMEMs: memory that AF_XDP sockets share with the kernel.
//!
//! A worker's whole pool, slots and chunks, is one UMEM, which the sockets of all its ports share. So a frame that
//! one port received is sent by another as a descriptor, and a frame that came from a TAP is sent from the slot
//! that it was read into: nobody copies anything in between.
//!
//! The first socket *registers* the memory, which pins all of it; others bind by pointing at a socket that has it
//! (`XDP_SHARED_UMEM`). The kernel takes only a *bound* one for that (`EBADF`), and a socket whose interface
//! disappeared is not bound any more: so any living socket will do, and if none does, the memory is registered again.
//!
//! # What the kernel allows
//!
//! * Chunks of at most a page. *Unaligned*: a descriptor may point anywhere inside of the UMEM, which is what lets
//!   slots be sent from, and headers grow at the front of received frames.
//! * All sockets of a UMEM are in one mode: the first one's, copy or zero-copy. An interface that can do zero-copy
//!   therefore gets a registration of its own, of the same memory, so that the addresses stay the same. That costs
//!   page references, no memory.
//! * *Metadata* in front of a frame to be sent (kernel 6.8), by which the checksum is left to whoever is next. In
//!   zero-copy mode it is not asked for: there the kernel wants every descriptor *with the room for its metadata* inside
//!   of physically contiguous pages, and frames in slots are not.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::io::Errno;
use rustix::net::sockopt::set_xdp_umem_reg;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XdpUmemReg, XdpUmemRegFlags};

use super::socket::Socket;
use crate::frame::Pool;
use crate::frame::pool::{CHUNK_BYTES, Region, TX_METADATA_BYTES};

/// `XDP_UMEM_TX_METADATA_LEN`: without it the length is not looked at (since 6.11).
const TX_METADATA: XdpUmemRegFlags = XdpUmemRegFlags::from_bits_retain(libc::XDP_UMEM_TX_METADATA_LEN);

/// How often a queue that is still being let go by another socket is asked for again, and how long to wait each
/// time: the kernel frees it a moment after the socket's descriptor was closed (`xp_release_deferred`).
const BUSY_ATTEMPTS: u32 = 40;
const BUSY_WAIT: std::time::Duration = std::time::Duration::from_millis(5);

/// The UMEMs of a daemon: which sockets have which memory. Used by the control thread.
#[derive(Debug, Default)]
pub struct Umems {
    members: Mutex<Vec<Member>>,
}

/// A socket whose UMEM can be shared.
#[derive(Debug)]
struct Member {
    socket: Weak<Socket>,
    grant: Grant,
}

/// What the kernel granted to all sockets of a UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) zero_copy: bool,
    /// Metadata in front of frames to be sent.
    pub(super) tx_metadata: bool,
    /// Frames of several descriptors, in both directions (kernel 6.6).
    pub(super) scatter: bool,
}

impl Grant {
    /// What both have.
    pub(super) fn common(self, other: Self) -> Self {
        Self {
            zero_copy: self.zero_copy && other.zero_copy,
            tx_metadata: self.tx_metadata && other.tx_metadata,
            scatter: self.scatter && other.scatter,
        }
    }
}

/// Why a socket was not bound.
#[derive(Debug)]
pub(super) enum BindError {
    /// The memory was not registered.
    Register(Errno),
    /// The queue was not given.
    Bind(Errno),
}

impl BindError {
    /// In words, with the remedy.
    pub(super) fn explain(&self, interface: &str, queue: u32, region: &Region) -> io::Error {
        let (errno, text) = match self {
            Self::Register(errno @ Errno::NOBUFS) => (
                errno,
                format!(
                    "cannot pin {} KB for AF_XDP: over the limit of locked memory; raise it (ulimit -l, LimitMEMLOCK=) \
                     or give the daemon CAP_IPC_LOCK",
                    region.bytes() / 1024
                ),
            ),
            Self::Register(errno) => (errno, format!("cannot register memory for AF_XDP: {errno}")),
            Self::Bind(errno @ Errno::BUSY) => (
                errno,
                format!("queue {queue} of {interface} has an AF_XDP socket of another process; stop that one first"),
            ),
            Self::Bind(errno) => {
                (errno, format!("cannot bind an AF_XDP socket to queue {queue} of {interface}: {errno}"))
            }
        };
        io::Error::new(io::Error::from(*errno).kind(), text)
    }
}

impl Umems {
    /// Binds `socket` to a queue of an interface, with the memory that it was made for.
    pub(super) fn bind(
        &self,
        socket: &Arc<Socket>,
        ifindex: u32,
        queue: u32,
        zero_copy: bool,
    ) -> Result<Grant, BindError> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempts = 0;
        let grant = loop {
            match bind_once(&mut members, socket, ifindex, queue, zero_copy) {
                Err(BindError::Bind(Errno::BUSY)) if attempts < BUSY_ATTEMPTS => {
                    attempts += 1;
                    std::thread::sleep(BUSY_WAIT);
                }
                result => break result?,
            }
        };
        members.push(Member { socket: Arc::downgrade(socket), grant });
        Ok(grant)
    }
}

fn bind_once(
    members: &mut Vec<Member>,
    socket: &Arc<Socket>,
    ifindex: u32,
    queue: u32,
    zero_copy: bool,
) -> Result<Grant, BindError> {
    // A socket that has the memory itself cannot share any more.
    let tx_metadata = match socket.registered.get() {
        Some(&tx_metadata) => tx_metadata,
        None => {
            if let Some(result) = share(members, socket, ifindex, queue, zero_copy) {
                return result;
            }
            let tx_metadata = register(socket, !zero_copy).map_err(BindError::Register)?;
            *socket.registered.get_or_init(|| tx_metadata)
        }
    };
    let mode = if zero_copy { SocketAddrXdpFlags::XDP_ZEROCOPY } else { SocketAddrXdpFlags::XDP_COPY };
    let flags = mode | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    let bind = |flags| rustix::net::bind(socket.as_fd(), &SocketAddrXdp::new(flags, ifindex, queue));
    match bind(flags | SocketAddrXdpFlags::XDP_USE_SG) {
        Ok(()) => Ok(Grant { zero_copy, tx_metadata, scatter: true }),
        // Before 6.6 the kernel does not know the flag; a driver may have no zero-copy for more than one buffer.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            bind(flags).map_err(BindError::Bind).map(|()| Grant { zero_copy, tx_metadata, scatter: false })
        }
        Err(errno) => Err(BindError::Bind(errno)),
    }
}

/// Binds by pointing at a socket that has the memory; nothing if there is none.
fn share(
    members: &mut Vec<Member>,
    socket: &Arc<Socket>,
    ifindex: u32,
    queue: u32,
    zero_copy: bool,
) -> Option<Result<Grant, BindError>> {
    members.retain(|member| member.socket.strong_count() > 0);
    for member in members.iter().filter(|member| member.grant.zero_copy == zero_copy) {
        let Some(other) = member.socket.upgrade() else { continue };
        if !Arc::ptr_eq(other.region(), socket.region()) {
            continue;
        }
        let addr = SocketAddrXdpWithSharedUmem {
            addr: SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, ifindex, queue),
            shared_umem_fd: other.as_fd(),
        };
        match rustix::net::bind(socket.as_fd(), &addr) {
            Ok(()) => return Some(Ok(member.grant)),
            // Its interface is gone.
            Err(Errno::BADF) => {}
            Err(errno) => return Some(Err(BindError::Bind(errno))),
        }
    }
    None
}

/// Registers the socket's memory; whether with metadata.
fn register(socket: &Socket, want_tx_metadata: bool) -> Result<bool, Errno> {
    let region = socket.region();
    let request = |tx_metadata: bool| XdpUmemReg {
        addr: region.base() as u64,
        len: region.bytes() as u64,
        chunk_size: CHUNK_BYTES as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::XDP_UMEM_UNALIGNED_CHUNK_FLAG
            | if tx_metadata { TX_METADATA } else { XdpUmemRegFlags::empty() },
        tx_metadata_len: if tx_metadata { TX_METADATA_BYTES as u32 } else { 0 },
    };
    if want_tx_metadata {
        match set_xdp_umem_reg(socket, request(true)) {
            Ok(()) => return Ok(true),
            // A kernel that does not know the flag.
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    set_xdp_umem_reg(socket, request(false)).map(|()| false)
}

/// Whether a queue of an interface could be bound in zero-copy mode: tried with a little memory, because the
/// attempt with all of it pins all of it, and fails on most interfaces.
///
/// # Errors
/// Why it could not.
pub(super) fn probe_zero_copy(ifindex: u32, queue: u32) -> io::Result<()> {
    let pool = Pool::with_chunks(0, PROBE_CHUNKS)?;
    let (socket, _rings) = Socket::open(Arc::clone(pool.region()), None)?;
    let socket = Arc::new(socket);
    match Umems::default().bind(&socket, ifindex, queue, true) {
        Ok(_) => Ok(()),
        Err(BindError::Register(errno) | BindError::Bind(errno)) => Err(errno.into()),
    }
}

/// Chunks for a probe: drivers look at their size, not at their number.
const PROBE_CHUNKS: u32 = 16;
