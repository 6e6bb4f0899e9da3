//! An interface of the host that packets are routed to and from: a shared uplink, or loopback.
//!
//! *In.* An underlay like that of tunnels, whose packets are all for the router.
//!
//! *Out.* With the `tc` carry the kernel finds the next hop, and what stands in the Ethernet header does not matter.
//! With AF_XDP each packet gets the addresses that [`NextHops`] gives for its destination; they are kept until the
//! generation changes, for so many destinations as are likely to be in use at a time. What is for a neighbour that has
//! yet to answer waits for up to a second (RFC 1122 section 2.3.2.2); tc needs nothing of the kind, since the kernel
//! queues there.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::receive::UplinkRx;
use super::{NextHop, NextHops, Resolution};
use crate::datapath::clock::now_ns;
use crate::frame::{BURST_FRAMES_MAX, DropReason, Frame, Offload, Pool};
use crate::io::{Caps, Device, Piece, RxQueue, TxQueue, TxReport, Underlay, UnderlayRx, Unit};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::{ipv4, ipv6};

/// Destinations whose next hops a worker keeps; all are forgotten when there are more.
const DESTINATIONS_MAX: usize = 4096;
/// Packets that wait for neighbours.
const WAITING_MAX: usize = 64;
/// Their bytes.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// For how long they wait: the kernel asks three times in that time (`retrans_time_ms`).
const PATIENCE_NS: u64 = 3_000_000_000;

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
                waiting: Vec::new(),
                waiting_generation: 0,
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
    waiting: Vec<Waiting>,
    /// The generation in which the neighbours of those were looked for last.
    waiting_generation: u64,
}

/// A packet for a neighbour that has yet to answer.
struct Waiting {
    to: IpAddr,
    bytes: Vec<u8>,
    offload: Offload,
    since_ns: u64,
}

impl Addressing {
    /// Forgets answers that may have changed.
    fn refresh(&mut self) {
        let generation = self.next_hops.generation();
        if self.generation != generation {
            self.known.clear();
            self.generation = generation;
        }
    }

    /// Has a packet wait; whether there was room.
    fn hold(&mut self, to: IpAddr, frame: &Frame) -> bool {
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.bytes.len()).sum();
        let has_room = self.waiting.len() < WAITING_MAX && bytes + frame.len() <= WAITING_BYTES_MAX;
        if has_room && frame.is_linear() {
            let (bytes, offload) = (frame.data().to_vec(), frame.offload);
            self.waiting.push(Waiting { to, bytes, offload, since_ns: now_ns() });
            return true;
        }
        false
    }

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
        self.refresh();
        let mut sent = arrayvec::ArrayVec::<Unit, BURST_FRAMES_MAX>::new();
        for unit in units {
            let frame = &mut frames[usize::from(unit.frame)];
            if ethernet::has_group_source(frame.data()) {
                // It goes back to the host, with the addresses that it came with.
                sent.push(*unit);
                continue;
            }
            let Some(to) = destination_of(frame.data()) else {
                report.drop_unit(DropReason::Malformed);
                continue;
            };
            match self.macs_to(to) {
                // It has a destination, and so an Ethernet header.
                Ok(macs) => {
                    frame.data_mut()[..12].copy_from_slice(&macs);
                    sent.push(*unit);
                }
                Err(DropReason::NoNeighbour) if unit.pieces_count == 0 && self.hold(to, frame) => {}
                Err(reason) => report.drop_unit(reason),
            }
        }
        self.queue.send(pool, frames, &sent, pieces, report);
    }

    fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn settle(&mut self, pool: &mut Pool, report: &mut TxReport) {
        self.refresh();
        let now_ns = now_ns();
        let is_new = self.waiting_generation != self.generation;
        self.waiting_generation = self.generation;
        for waiting in std::mem::take(&mut self.waiting) {
            let macs = if is_new { self.macs_to(waiting.to) } else { Err(DropReason::NoNeighbour) };
            match (macs, pool.alloc()) {
                (Ok(macs), Some(mut frame)) => {
                    frame.copy_from(&waiting.bytes);
                    frame.offload = waiting.offload;
                    if let Some(header) = frame.data_mut().first_chunk_mut::<12>() {
                        *header = macs;
                    }
                    let offload = frame.offload;
                    let unit = Unit { frame: 0, first_piece: 0, pieces_count: 0, offload, sole: true };
                    let mut frames = [frame];
                    self.queue.send(pool, &mut frames, &[unit], &[], report);
                    pool.free_all(frames);
                }
                (macs, frame) => {
                    pool.free_all(frame);
                    match macs {
                        Err(DropReason::NoNeighbour) if now_ns.saturating_sub(waiting.since_ns) < PATIENCE_NS => {
                            self.waiting.push(waiting);
                        }
                        Err(reason) => report.drop_unit(reason),
                        Ok(_) => report.drop_unit(DropReason::PoolEmpty),
                    }
                }
            }
        }
    }

    fn close(&mut self, pool: &mut Pool) {
        self.waiting.clear();
        self.queue.close(pool);
    }
}

#[cfg(test)]
#[path = "routed_tests.rs"]
mod tests;
