//! An interface whose receive queues have AF_XDP sockets of ours.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ethtool;
use super::mode::{Refused, XdpMode, why_not_zero_copy};
use super::program::{self, Attached};
use super::rx::{RxSide, XdpRx};
use super::socket::{BusyPoll, Rings, Socket, XdpStatistics};
use super::tx::{Ownership, TxSide, XdpTx};
use super::umem::{Grant, Umems, probe_zero_copy};
use crate::bpf::sys::Map;
use crate::frame::Pool;
use crate::frame::pool::Region;
use crate::io::{Caps, Device, RxQueue, TxQueue};

/// Drivers of which it is known that copy mode copies ([`super::tx`]). For others it is assumed that it does not.
const COPYING_DRIVERS: [&str; 3] = ["veth", "tun", "dummy"];

/// How packets get from the interface to the sockets.
#[derive(Debug, Clone)]
pub enum Steering {
    /// By our own program, which gives us all of them; in the best of these modes.
    Own(&'static [XdpMode]),
    /// By somebody else's program, which picks ours out. Who attaches that puts the sockets
    /// ([`XdpDevice::sockets`]) into its map first.
    Elsewhere {
        /// Where that program runs.
        mode: XdpMode,
    },
}

impl Steering {
    /// Our program, wherever it runs fastest.
    pub const AUTO: Self = Self::Own(&[XdpMode::Native, XdpMode::Generic]);
    /// Our program, in the driver.
    pub const NATIVE: Self = Self::Own(&[XdpMode::Native]);
    /// Our program, in the stack.
    pub const GENERIC: Self = Self::Own(&[XdpMode::Generic]);
}

/// How an interface is to be opened.
#[derive(Debug, Clone)]
pub struct XdpConfig {
    /// Its name, in the network namespace of the thread that opens it.
    pub interface: String,
    /// The worker that uses it, whose memory is given with it.
    pub home: u16,
    /// How packets get to the sockets.
    pub steering: Steering,
    /// Whether zero-copy is tried. It gives the interface memory references of its own, and resets queues of a network
    /// card while it is tried.
    pub zero_copy: bool,
    /// Whether unfinished checksums may be left to the interface, where the kernel can do that.
    pub tx_checksum: bool,
    /// Whether the worker receives by polling the driver.
    pub busy_poll: Option<BusyPoll>,
    /// Whether frames are left to the kernel until it gives them back even where it copies them: for tests of what
    /// zero-copy does.
    pub always_complete: bool,
}

impl XdpConfig {
    /// The usual: our own program, everything that works.
    #[must_use]
    pub fn new(interface: &str, home: u16) -> Self {
        Self {
            interface: interface.to_owned(),
            home,
            steering: Steering::AUTO,
            zero_copy: true,
            tx_checksum: true,
            busy_poll: None,
            always_complete: false,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct XdpDevice {
    interface: String,
    ifindex: u32,
    home: u16,
    mode: XdpMode,
    refused: Vec<Refused>,
    /// Our program, and where it is attached. Dropped before the sockets.
    program: Option<OwnedFd>,
    attached: Mutex<Option<Attached>>,
    /// Keeps the sockets reachable for the program.
    _map: Option<Map>,
    sockets: Vec<Arc<Socket>>,
    shared: Arc<Shared>,
}

/// What the device and its queues have in common.
#[derive(Debug)]
pub(super) struct Shared {
    grant: Grant,
    tx_metadata: bool,
    ownership: Ownership,
    busy_poll: bool,
    gone: AtomicBool,
    /// The rings while no worker has them.
    rx: Mutex<Option<Vec<RxSide>>>,
    tx: Mutex<Option<TxSide>>,
}

impl Shared {
    pub(super) fn ownership(&self) -> Ownership {
        self.ownership
    }

    pub(super) fn is_zero_copy(&self) -> bool {
        self.grant.zero_copy
    }

    /// Whether a descriptor must not cross a page.
    pub(super) fn is_page_bound(&self) -> bool {
        // Also where zero-copy is only practised.
        self.grant.zero_copy || self.ownership == Ownership::Completed && !self.tx_metadata
    }

    pub(super) fn takes_scattered(&self) -> bool {
        self.grant.scatter
    }

    pub(super) fn takes_metadata(&self) -> bool {
        self.tx_metadata
    }

    pub(super) fn polls_busily(&self) -> bool {
        self.busy_poll
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    pub(super) fn put_rx(&self, sides: Vec<RxSide>) {
        *self.rx.lock().unwrap_or_else(PoisonError::into_inner) = Some(sides);
    }

    pub(super) fn put_tx(&self, side: TxSide) {
        *self.tx.lock().unwrap_or_else(PoisonError::into_inner) = Some(side);
    }
}

impl XdpDevice {
    /// Opens an interface of the calling thread's network namespace, for the worker whose memory `region` is. Takes
    /// milliseconds, and the kernel's rtnetlink lock.
    ///
    /// # Errors
    /// `NotFound` without such an interface, `ResourceBusy` if it has a program or sockets of somebody else,
    /// `PermissionDenied`; each with what to do about it.
    pub fn open(config: &XdpConfig, region: &Arc<Region>, umems: &Umems) -> io::Result<Self> {
        let interface = config.interface.as_str();
        let name = |error: io::Error| io::Error::new(error.kind(), format!("cannot open {interface}: {error}"));
        let ifindex = interface_index(interface)?;
        // A driver that does not say who it is, is not one that is known.
        let driver = ethtool::driver(interface).unwrap_or_default();
        let queues = ethtool::receive_queues(interface).map_err(name)?;
        let mut refused = Vec::new();
        let zero_copy = wants_zero_copy(config, ifindex, &mut refused);

        let map = match &config.steering {
            Steering::Own(_) => Some(program::socket_map(queues)?),
            Steering::Elsewhere { .. } => None,
        };
        let (mut sockets, mut rings, mut granted) = (Vec::new(), Vec::new(), None);
        for queue in 0..queues {
            let (socket, ring) =
                Socket::open(Arc::clone(region), config.busy_poll).map_err(|error| no_socket(&error))?;
            let socket = Arc::new(socket);
            let grant = umems
                .bind(&socket, ifindex, queue, zero_copy)
                .map_err(|error| error.explain(interface, queue, region))?;
            // What all of them can do: registered at different times, they were granted the same by the same kernel.
            granted = Some(granted.map_or(grant, |before: Grant| before.common(grant)));
            if let Some(map) = &map {
                map.update(&queue.to_ne_bytes(), &(socket.as_fd().as_raw_fd() as u32).to_ne_bytes()).map_err(name)?;
            }
            sockets.push(socket);
            rings.push(ring);
        }
        let grant = granted.ok_or_else(|| name(io::Error::other("it has no receive queue")))?;

        let (program, attached, mode) = match (&config.steering, &map) {
            (Steering::Own(modes), Some(map)) => {
                let program = program::load(map)?;
                let modes: Vec<_> =
                    modes.iter().copied().filter(|&mode| !zero_copy || mode != XdpMode::Generic).collect();
                let attached = Attached::attach(program.as_fd(), interface, ifindex, &modes, &mut refused)?;
                let mode = attached.mode;
                (Some(program), Some(attached), mode)
            }
            (Steering::Own(_), None) => return Err(name(io::Error::other("it has no map of sockets"))),
            (Steering::Elsewhere { mode }, _) => (None, None, *mode),
        };
        let copies = !zero_copy && COPYING_DRIVERS.contains(&driver.as_str()) && !config.always_complete;
        let (rx, tx) = split(rings, &sockets);
        let shared = Shared {
            grant,
            tx_metadata: grant.tx_metadata && config.tx_checksum,
            ownership: if copies { Ownership::Copied } else { Ownership::Completed },
            busy_poll: config.busy_poll.is_some(),
            gone: AtomicBool::new(false),
            rx: Mutex::new(Some(rx)),
            tx: Mutex::new(tx),
        };
        Ok(Self {
            interface: interface.to_owned(),
            ifindex,
            home: config.home,
            mode: if zero_copy { XdpMode::ZeroCopy } else { mode },
            refused,
            program,
            attached: Mutex::new(attached),
            _map: map,
            sockets,
            shared: Arc::new(shared),
        })
    }

    /// The name under which the interface was opened; it may have been renamed since.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The interface's index.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// How frames get between the interface and our memory.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Why it is no better one.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// The number of receive queues, each with a socket.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.sockets.len()
    }

    /// The sockets, in the order of their queues.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|socket| socket.as_fd())
    }

    /// What the sockets counted, all queues together.
    #[must_use]
    pub fn statistics(&self) -> XdpStatistics {
        let all = self.sockets.iter().filter_map(|socket| socket.statistics().ok());
        all.fold(XdpStatistics::default(), XdpStatistics::plus)
    }

    /// Whether packets still come in: the interface exists, and our program was not detached by somebody else. For a
    /// device whose program is somebody else's, only the former is known.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_gone() && attached.as_ref().is_none_or(Attached::is_attached)
    }

    /// Attaches our program again after somebody else detached it.
    ///
    /// # Errors
    /// As [`XdpDevice::open`]; nothing happens if the program is attached, or is not ours.
    pub fn reattach(&self) -> io::Result<()> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(program), Some(old)) = (&self.program, attached.as_ref()) else { return Ok(()) };
        if !old.is_attached() {
            let mode = [old.mode];
            *attached = Some(Attached::attach(program.as_fd(), &self.interface, self.ifindex, &mode, &mut Vec::new())?);
        }
        Ok(())
    }

    /// Whether the interface is gone. The kernel does not tell by way of poll, so somebody has to ask.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        if self.sockets.iter().any(|socket| socket.poll() == Err(rustix::io::Errno::NXIO)) {
            self.shared.set_gone();
        }
        self.shared.is_gone()
    }
}

impl Drop for XdpDevice {
    fn drop(&mut self) {
        // First nothing comes in any more, then the sockets close: with the last of these references.
        *self.attached.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Device for XdpDevice {
    fn caps(&self) -> Caps {
        Caps { csum: self.shared.tx_metadata, scatter: self.shared.grant.scatter, ..Caps::NONE }
    }

    fn home(&self) -> Option<u16> {
        Some(self.home)
    }

    fn open_rx(&self, pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        self.check_memory(pool)?;
        let sides = self.shared.rx.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sides = sides.ok_or_else(|| in_use("receiving"))?;
        Ok(Box::new(XdpRx::open(Arc::clone(&self.shared), sides, pool)?))
    }

    fn open_tx(&self, pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        self.check_memory(pool)?;
        let side = self.shared.tx.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Box::new(XdpTx::new(Arc::clone(&self.shared), side.ok_or_else(|| in_use("sending"))?)))
    }
}

impl XdpDevice {
    /// Addresses of one worker's memory mean nothing in another's.
    fn check_memory(&self, pool: &Pool) -> io::Result<()> {
        if self.sockets.iter().all(|socket| Arc::ptr_eq(socket.region(), pool.region())) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "an AF_XDP port was opened by a worker that is not its home"))
    }
}

fn in_use(side: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, format!("the {side} side of the AF_XDP port is in use"))
}

/// Whether to bind in zero-copy mode; if not, `refused` says why.
fn wants_zero_copy(config: &XdpConfig, ifindex: u32, refused: &mut Vec<Refused>) -> bool {
    let native = match &config.steering {
        Steering::Own(modes) => modes.contains(&XdpMode::Native),
        Steering::Elsewhere { mode } => *mode != XdpMode::Generic,
    };
    let why = if !native {
        "the program runs in the stack".to_owned()
    } else if !config.zero_copy {
        "not asked for".to_owned()
    } else {
        match probe_zero_copy(ifindex, 0) {
            Ok(()) => return true,
            Err(error) => why_not_zero_copy(&error),
        }
    };
    refused.push(Refused { mode: XdpMode::ZeroCopy, why });
    false
}

fn split(rings: Vec<Rings>, sockets: &[Arc<Socket>]) -> (Vec<RxSide>, Option<TxSide>) {
    let (mut rx, mut tx) = (Vec::new(), None);
    for (rings, socket) in rings.into_iter().zip(sockets) {
        rx.push(RxSide::new(rings.fill, rings.rx, Arc::clone(socket)));
        // One queue to send on: a flow that changed between two would overtake itself.
        tx.get_or_insert_with(|| TxSide::new(rings.tx, rings.completion, Arc::clone(socket)));
    }
    (rx, tx)
}

fn interface_index(interface: &str) -> io::Result<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    name_to_index(&socket, interface).map_err(|_| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no interface {interface} in this network namespace (ip link shows those that there are)"),
        )
    })
}

fn no_socket(error: &io::Error) -> io::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => "; this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        Some(libc::EPERM | libc::EACCES) => "; CAP_NET_RAW and CAP_NET_ADMIN are needed",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot make an AF_XDP socket: {error}{remedy}"))
}
