//! An interface of the host that packets are routed to and from: a shared uplink, or loopback.
//!
//! *In.* An underlay like that of tunnels, whose packets are all for the router.
//!
//! *Out.* With the `tc` carry the kernel finds the next hop, and what stands in the Ethernet header does not matter.
//! With AF_XDP each packet gets the addresses that [`NextHops`] gives for its destination; they are kept until the
//! generation changes, for so many destinations as are likely to be in use at a time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::receive::UplinkRx;
use super::{NextHop, NextHops, Resolution};
use crate::frame::{BURST_FRAMES_MAX, DropReason, Frame, Pool};
use crate::io::{Caps, Device, Piece, RxQueue, TxQueue, TxReport, Underlay, UnderlayRx, Unit};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{ipv4, ipv6};

/// Destinations whose next hops a worker keeps; all are forgotten when there are more.
const DESTINATIONS_MAX: usize = 4096;

/// See the module's documentation. As a [`Device`] it sends, as an [`Underlay`] it receives.
#[derive(Debug)]
pub struct RoutedLink {
    device: Arc<dyn Device>,
    next_hops: Option<Arc<dyn NextHops>>,
    /// The interface's index.
    index: u32,
}

impl RoutedLink {
    /// The interface with the index `index`, which `device` carries. Without `next_hops`, the kernel finds them.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, next_hops: Option<Arc<dyn NextHops>>, index: u32) -> Arc<Self> {
        Arc::new(Self { device, next_hops, index })
    }
}

impl Underlay for RoutedLink {
    fn home(&self) -> Option<u16> {
        self.device.home()
    }

    fn open_rx(&self, pool: &mut Pool) -> io::Result<Box<dyn UnderlayRx>> {
        Ok(Box::new(UplinkRx::new(self.device.open_rx(pool)?, None)))
    }
}

impl Device for RoutedLink {
    fn caps(&self) -> Caps {
        self.device.caps()
    }

    fn home(&self) -> Option<u16> {
        self.device.home()
    }

    fn path_mtu(&self) -> Option<u32> {
        self.device.path_mtu()
    }

    fn merges(&self) -> bool {
        self.device.merges()
    }

    fn open_rx(&self, _pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "what a routed interface receives arrives at its underlay"))
    }

    fn open_tx(&self, pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        let queue = self.device.open_tx(pool)?;
        Ok(match &self.next_hops {
            None => queue,
            Some(next_hops) => Box::new(Addressing {
                queue,
                next_hops: Arc::clone(next_hops),
                index: self.index,
                generation: u64::MAX,
                known: HashMap::new(),
            }),
        })
    }
}

/// A sending side that writes the Ethernet addresses.
struct Addressing {
    queue: Box<dyn TxQueue>,
    next_hops: Arc<dyn NextHops>,
    index: u32,
    /// The generation of the next hops that `known` are answers of.
    generation: u64,
    known: HashMap<IpAddr, Result<[u8; 12], DropReason>>,
}

impl Addressing {
    fn macs_to(&mut self, destination: IpAddr) -> Result<[u8; 12], DropReason> {
        if let Some(known) = self.known.get(&destination) {
            return *known;
        }
        let macs = match self.next_hops.resolve(destination, 0) {
            Resolution::Via(NextHop { oif, neighbour, mac, oif_mac, confirmed, .. }) if oif == self.index => {
                if !confirmed {
                    self.next_hops.solicit(oif, neighbour);
                }
                let mut macs = [0; 12];
                macs[..6].copy_from_slice(&mac);
                macs[6..].copy_from_slice(&oif_mac);
                Ok(macs)
            }
            Resolution::Unresolved { oif, neighbour, .. } if oif == self.index => {
                self.next_hops.solicit(oif, neighbour);
                Err(DropReason::NoNeighbour)
            }
            // Another interface leads there, or none.
            Resolution::Via(_) | Resolution::Unresolved { .. } | Resolution::Refused(_) => Err(DropReason::NoRoute),
        };
        if self.known.len() >= DESTINATIONS_MAX {
            self.known.clear();
        }
        self.known.insert(destination, macs);
        macs
    }
}

fn destination_of(frame: &[u8]) -> Option<IpAddr> {
    let (ethertype, at) = ethernet::skip_tags(frame).ok()?;
    let packet = frame.get(at..)?;
    match ethertype {
        EtherType::IPV4 => {
            let header = packet.first_chunk::<{ ipv4::HEADER_BYTES }>()?;
            Some(Ipv4Addr::new(header[16], header[17], header[18], header[19]).into())
        }
        EtherType::IPV6 => {
            let header = packet.first_chunk::<{ ipv6::HEADER_BYTES }>()?;
            let octets: [u8; 16] = header[24..40].try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

impl TxQueue for Addressing {
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece], report: &mut TxReport) {
        let generation = self.next_hops.generation();
        if self.generation != generation {
            self.known.clear();
            self.generation = generation;
        }
        let mut sent = arrayvec::ArrayVec::<Unit, BURST_FRAMES_MAX>::new();
        for unit in units {
            let frame = &mut frames[usize::from(unit.frame)];
            let macs = destination_of(frame.data()).ok_or(DropReason::Malformed).and_then(|to| self.macs_to(to));
            match (macs, frame.data_mut().first_chunk_mut::<12>()) {
                (Ok(macs), Some(header)) => {
                    *header = macs;
                    sent.push(*unit);
                }
                (Err(reason), _) => report.drop_unit(reason),
                (Ok(_), None) => report.drop_unit(DropReason::Malformed),
            }
        }
        self.queue.send(pool, frames, &sent, pieces, report);
    }

    fn close(&mut self, pool: &mut Pool) {
        self.queue.close(pool);
    }
}
