//! Tunnels over UDP sockets of the host's kernel: its routes, neighbours and firewall apply, and no
//! interface is touched.
//!
//! # Theory of operation
//! One packet per system call would be the end of any throughput. The kernel carries *trains* instead:
//! `UDP_SEGMENT` sends up to 64 KB as datagrams of equal size in one call, and `UDP_GRO` receives such a
//! train as one. Between two hosts' stacks, and in a network card that segments UDP, a train is one
//! packet.
//!
//! *Sending* (`send.rs`). A TCP super-frame of a container is cut into segments without being copied: per
//! segment, VXLAN and inner headers are written to scratch memory, and the train's gather list alternates
//! between those and slices of the super-frame's payload. Frames of one burst that are of one size and
//! one flow's hash make a train, too.
//!
//! *Receiving* (`receive.rs`). The segments of a train are, nearly always, consecutive segments of one TCP
//! connection with headers of equal length. The scatter list is laid out for what the last train was:
//! headers into scratch memory, payloads one behind the other into a single frame. If the guess was
//! right, comparing headers and checking sums is all that it takes to have a super-frame again,
//! and the bridge handles one frame instead of 45; if it was wrong, the bytes are moved to where they
//! belong.
//!
//! # Sockets
//! - *One receiving socket* for each local address and port, read by one worker at a time, as every port
//!   is. A group of sockets (`SO_REUSEPORT`), one per worker, would spread peers over workers; with two
//!   cores a second worker costs more than it brings (see `ARCHITECTURE.md`), and a group would have to be
//!   drained and re-balanced whenever a reader moves.
//! - *Sending sockets*, because the source port must tell flows apart, and a socket has one: sixteen ports
//!   of 49152 to 65535 for each address family, shared by all workers (the kernel sends from one UDP
//!   socket on several threads without a lock). A filter drops whatever arrives on them. Each port has two
//!   sockets: trains cannot be sent without a checksum (`udp_send_skb` refuses `UDP_SEGMENT` with
//!   `SO_NO_CHECK`), single packets over IPv4 are, as RFC 7348 has it. Over IPv6 the checksum is always
//!   sent, because Linux' `vxlan` refuses packets without it unless told otherwise.
//!
//! # Fragments and path MTU
//! DF is set on all packets (`IP_PMTUDISC_DO`). The kernel learns from ICMP what a path carries, and
//! refuses what is larger; then the device says so ([`Device::path_mtu`]), and inner senders are told.

mod receive;
mod send;
mod socket;
mod sys;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket::{Family, Senders};

use super::{Caps, Device, RxQueue, TxQueue, Underlay, UnderlayRx};
use crate::frame::Pool;
use crate::tunnel::RemoteConfig;

pub use socket::SOURCE_PORTS;

/// The sockets of one local address and UDP port.
#[derive(Debug)]
pub struct UdpUnderlay {
    local: IpAddr,
    port: u16,
    receiver: Arc<OwnedFd>,
    /// Opened when the first remote of a family is added.
    senders: Mutex<[Option<Arc<Senders>>; 2]>,
    /// Whether the kernel sends trains; shared by all that send.
    trains: Arc<AtomicBool>,
    /// The kernel's count of received packets that it had no room for, as far as it was read.
    overruns: Arc<AtomicU32>,
}

impl UdpUnderlay {
    /// Binds UDP port `port` of `local` in the calling thread's network namespace. The unspecified
    /// IPv6 address stands for all addresses of both families, the IPv4 one for those of IPv4.
    ///
    /// # Errors
    /// `AddrInUse` when another program, or a `vxlan` interface of the kernel, has the port;
    /// `AddrNotAvailable` when the host does not have the address.
    pub fn bind(local: IpAddr, port: u16) -> io::Result<Arc<Self>> {
        let receiver = socket::open_receiver(local, port).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another program or a vxlan interface has it: remove that, or use another port"
                }
                io::ErrorKind::AddrNotAvailable => "; choose an address of this host",
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot bind UDP port {port} of {local}: {error}{remedy}"))
        })?;
        Ok(Arc::new(Self {
            local,
            port,
            receiver: Arc::new(receiver),
            senders: Mutex::default(),
            trains: Arc::new(AtomicBool::new(true)),
            overruns: Arc::default(),
        }))
    }

    /// The device of the port that stands for a remote. It takes super-frames whole and cuts them into
    /// trains itself; it receives nothing, what the remote sends arrives at the underlay.
    ///
    /// # Errors
    /// `InvalidInput` for a remote of a family that the local address is not of; what the kernel says
    /// about the sending sockets, which are opened in the calling thread's network namespace.
    pub fn remote(self: &Arc<Self>, config: RemoteConfig) -> io::Result<Arc<dyn Device>> {
        let family = Family::of(config.remote);
        if !self.local.is_unspecified() && Family::of(self.local) != family {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} cannot be reached from {}: give both addresses of one family", config.remote, self.local),
            ));
        }
        let senders = self.senders(family)?;
        Ok(Arc::new(Remote { config, senders, trains: Arc::clone(&self.trains), path: Arc::default() }))
    }

    /// The local address as it was asked for.
    #[must_use]
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// The UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the kernel sends trains of packets in one call; taken back when it refuses one.
    #[must_use]
    pub fn sends_trains(&self) -> bool {
        self.trains.load(Ordering::Relaxed)
    }

    fn senders(&self, family: Family) -> io::Result<Arc<Senders>> {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut senders[family as usize];
        if let Some(senders) = slot {
            return Ok(Arc::clone(senders));
        }
        let opened = Arc::new(Senders::open(self.local, family)?);
        *slot = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

impl Underlay for UdpUnderlay {
    fn open_rx(&self, _pool: &mut Pool) -> io::Result<Box<dyn UnderlayRx>> {
        Ok(Box::new(receive::UdpRx::new(Arc::clone(&self.receiver), self.port, Arc::clone(&self.overruns))))
    }
}

/// A remote as a device.
#[derive(Debug)]
struct Remote {
    config: RemoteConfig,
    senders: Arc<Senders>,
    trains: Arc<AtomicBool>,
    path: Arc<send::PathMtu>,
}

impl Device for Remote {
    fn caps(&self) -> Caps {
        Caps::ALL
    }

    fn path_mtu(&self) -> Option<u32> {
        self.path.get()
    }

    fn merges(&self) -> bool {
        false
    }

    fn open_rx(&self, _pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "what a remote sends arrives at its underlay"))
    }

    fn open_tx(&self, _pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        let trains = Arc::clone(&self.trains);
        Ok(Box::new(send::RemoteTx::new(self.config, Arc::clone(&self.senders), trains, Arc::clone(&self.path))))
    }
}
