//! Tunnels over a shared uplink: the switch writes and reads the outer headers itself.
//!
//! *Out.* Each remote is a device. Its frames get the template of the remote's headers in front, in place, and go
//! out through the uplink's own queue. With the `tc` carry the kernel finds the next hop, and what stands
//! in the Ethernet header does not matter; with AF_XDP the template has the addresses that [`NextHops`]
//! gives, and is made again when that changes.
//!
//! *In.* What the classifier took for the tunnels' UDP port is read from the uplink's queue, checked, and stripped of
//! its outer headers. There is one reader per uplink, so all tunnels over one uplink share a UDP port.
//!
//! Super-frames are cut before they get here: a packet with two transport headers is one that few devices
//! can cut themselves. The UDP sockets of [`crate::io::udp`] send trains instead, and are the better way for bulk traffic;
//! this is the shorter way for small packets.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{NextHop, NextHops, Resolution};
use crate::frame::gso::Segmenter;
use crate::frame::{Burst, Csum, DropReason, Frame, Offload, Pool, checksum};
use crate::io::{
    Arrivals, Caps, Device, Piece, RxQueue, RxReport, RxStatus, TxQueue, TxReport, Underlay, UnderlayReport,
    UnderlayRx, Unit,
};
use crate::tunnel::outer::{self, Template};
use crate::tunnel::{RemoteConfig, TunnelTable, decap, ecn, overhead_bytes};

/// A shared uplink that carries tunnels from one local address and UDP port.
#[derive(Debug)]
pub struct UplinkTunnels {
    device: Arc<dyn Device>,
    /// Who knows the next hops; none where the kernel finds them.
    next_hops: Option<Arc<dyn NextHops>>,
    /// The index of the uplink's interface.
    index: u32,
    /// Its MTU.
    mtu: u32,
    local: IpAddr,
    port: u16,
}

impl UplinkTunnels {
    /// Tunnels from `local` and UDP port `port` over the uplink with the index `index`, whose `device` carries IP
    /// packets of `mtu` bytes.
    #[must_use]
    pub fn new(
        device: Arc<dyn Device>,
        next_hops: Option<Arc<dyn NextHops>>,
        (index, mtu): (u32, u32),
        (local, port): (IpAddr, u16),
    ) -> Arc<Self> {
        Arc::new(Self { device, next_hops, index, mtu, local, port })
    }

    /// The device of the port that stands for a remote.
    ///
    /// # Errors
    /// `InvalidInput` for a remote of a family that the local address is not of.
    pub fn remote(self: &Arc<Self>, config: RemoteConfig) -> io::Result<Arc<dyn Device>> {
        if config.remote.is_ipv4() != self.local.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} cannot be reached from {}: give both addresses of one family", config.remote, self.local),
            ));
        }
        Ok(Arc::new(Remote { tunnels: Arc::clone(self), config }))
    }
}

impl Underlay for UplinkTunnels {
    fn home(&self) -> Option<u16> {
        self.device.home()
    }

    fn open_rx(&self, pool: &mut Pool) -> io::Result<Box<dyn UnderlayRx>> {
        let queue = self.device.open_rx(pool)?;
        Ok(Box::new(UplinkRx { queue, burst: Burst::new(), local: self.local, port: self.port }))
    }
}

/// The receiving side.
struct UplinkRx {
    queue: Box<dyn RxQueue>,
    burst: Burst,
    local: IpAddr,
    port: u16,
}

impl UplinkRx {
    /// Takes the outer headers off one packet.
    fn strip(
        &self,
        mut frame: Frame,
        pool: &mut Pool,
        tunnels: &TunnelTable,
        arrivals: &mut Arrivals,
        report: &mut UnderlayReport,
    ) {
        let bytes = frame.len();
        let stripped = match () {
            () if !pool.linearize(&mut frame) => Err(DropReason::PoolEmpty),
            () if arrivals.room() == 0 => Err(DropReason::NoBuffer),
            () => self.open(&mut frame, tunnels),
        };
        match stripped {
            Ok(port) => arrivals.push(frame, port),
            Err(reason) => {
                report.drop_packet(reason, bytes);
                pool.free(frame);
            }
        }
    }

    /// Makes the frame the inner one; the port that it came in through.
    fn open(&self, frame: &mut Frame, tunnels: &TunnelTable) -> Result<crate::snapshot::PortId, DropReason> {
        let packet = outer::decapsulate(frame.data(), frame.offload.csum)?;
        if packet.port != self.port || packet.local != self.local {
            return Err(DropReason::NotOurs);
        }
        let payload = &frame.data()[packet.payload.clone()];
        let (port, inner) = decap::check(payload, packet.sender, self.port, tunnels)?;
        let bytes = inner.len();
        frame.pull_front(packet.payload.end - bytes);
        frame.set_len(bytes);
        frame.offload = Offload { csum: checksum::detect_partial(frame.data()), gso: None };
        ecn::decapsulate(frame.data_mut(), packet.ecn)?;
        Ok(port)
    }

    /// Cuts a super-frame of tunnel packets, as a host gives them that merges what it forwards
    /// (`rx-udp-gro-forwarding`).
    #[cold]
    fn strip_segments(
        &self,
        frame: Frame,
        pool: &mut Pool,
        tunnels: &TunnelTable,
        arrivals: &mut Arrivals,
        report: &mut UnderlayReport,
    ) {
        match Segmenter::new(frame.data(), &frame.offload).ok().filter(|_| frame.is_linear()) {
            None => report.drop_packet(DropReason::Unsegmentable, frame.len()),
            Some(segmenter) => {
                for index in 0..segmenter.count() {
                    let Some(mut segment) = pool.alloc() else {
                        report.drop_packet(DropReason::PoolEmpty, 0);
                        continue;
                    };
                    let bytes = segmenter.write(index, segment.area_mut(0));
                    segment.set_len(bytes);
                    segment.offload = segmenter.segment_offload();
                    self.strip(segment, pool, tunnels, arrivals, report);
                }
            }
        }
        pool.free(frame);
    }
}

impl UnderlayRx for UplinkRx {
    fn recv(
        &mut self,
        pool: &mut Pool,
        tunnels: &TunnelTable,
        arrivals: &mut Arrivals,
        frames_max: usize,
        bytes_max: usize,
        report: &mut UnderlayReport,
    ) -> RxStatus {
        let mut received = RxReport::default();
        let mut burst = std::mem::take(&mut self.burst);
        let status = self.queue.recv(pool, &mut burst, frames_max.min(arrivals.room()), bytes_max, &mut received);
        for (count, reason) in [
            (received.malformed, DropReason::Malformed),
            (received.runt, DropReason::Runt),
            (received.overrun, DropReason::RxOverrun),
        ] {
            (0..count).for_each(|_| report.drop_packet(reason, 0));
        }
        for frame in burst.drain(..) {
            if frame.offload.gso.is_some() {
                self.strip_segments(frame, pool, tunnels, arrivals, report);
            } else {
                self.strip(frame, pool, tunnels, arrivals, report);
            }
        }
        self.burst = burst;
        status
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.queue.event_fd()
    }

    fn close(&mut self, pool: &mut Pool) {
        self.queue.close(pool);
    }
}

/// A remote as a device.
#[derive(Debug)]
struct Remote {
    tunnels: Arc<UplinkTunnels>,
    config: RemoteConfig,
}

impl Device for Remote {
    fn caps(&self) -> Caps {
        Caps::NONE
    }

    fn home(&self) -> Option<u16> {
        self.tunnels.device.home()
    }

    fn path_mtu(&self) -> Option<u32> {
        self.tunnels.mtu.checked_sub(overhead_bytes(&self.config.remote) as u32)
    }

    fn merges(&self) -> bool {
        false
    }

    fn open_rx(&self, _pool: &mut Pool) -> io::Result<Box<dyn RxQueue>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "what a remote sends arrives at its underlay"))
    }

    fn open_tx(&self, pool: &mut Pool) -> io::Result<Box<dyn TxQueue>> {
        let queue = self.tunnels.device.open_tx(pool)?;
        let way = Way { generation: u64::MAX, template: Err(DropReason::NoRoute) };
        let completes = self.tunnels.device.caps().csum;
        Ok(Box::new(RemoteTx { tunnels: Arc::clone(&self.tunnels), config: self.config, queue, way, completes }))
    }
}

/// How the remote is reached now.
struct Way {
    /// The generation of the next hops that this is an answer of.
    generation: u64,
    template: Result<Template, DropReason>,
}

/// The sending side of a remote.
struct RemoteTx {
    tunnels: Arc<UplinkTunnels>,
    config: RemoteConfig,
    queue: Box<dyn TxQueue>,
    way: Way,
    /// Whether the uplink's device finishes checksums.
    completes: bool,
}

impl RemoteTx {
    /// Brings the template up to date.
    fn find_way(&mut self) {
        let Some(next_hops) = &self.tunnels.next_hops else {
            if self.way.generation == u64::MAX {
                // The kernel writes the Ethernet header.
                self.way = Way { generation: 0, template: self.template_to([0; 6], [0; 6]) };
            }
            return;
        };
        let generation = next_hops.generation();
        if self.way.generation == generation {
            return;
        }
        let template = match next_hops.resolve(self.config.remote, 0) {
            Resolution::Via(NextHop { oif, neighbour, mac, oif_mac, confirmed, .. }) if oif == self.tunnels.index => {
                if !confirmed {
                    next_hops.solicit(oif, neighbour);
                }
                self.template_to(mac, oif_mac)
            }
            Resolution::Unresolved { oif, neighbour, .. } if oif == self.tunnels.index => {
                next_hops.solicit(oif, neighbour);
                Err(DropReason::NoNeighbour)
            }
            // Another interface leads there, or none.
            Resolution::Via(_) | Resolution::Unresolved { .. } | Resolution::Refused(_) => Err(DropReason::NoRoute),
        };
        self.way = Way { generation, template };
    }

    fn template_to(&self, destination: [u8; 6], source: [u8; 6]) -> Result<Template, DropReason> {
        Template::new(self.config, self.tunnels.local, (destination, source)).ok_or(DropReason::NoRoute)
    }
}

impl TxQueue for RemoteTx {
    fn send(
        &mut self,
        pool: &mut Pool,
        frames: &mut [Frame],
        units: &[Unit],
        _pieces: &[Piece],
        report: &mut TxReport,
    ) {
        self.find_way();
        let template = match &self.way.template {
            Ok(template) => template,
            Err(reason) => {
                units.iter().for_each(|_| report.drop_unit(*reason));
                return;
            }
        };
        let headers_bytes = template.headers_bytes();
        let mut sent = arrayvec::ArrayVec::<Unit, { crate::frame::BURST_FRAMES_MAX }>::new();
        // A frame that goes to several remotes is as it was when it comes to the next.
        let mut before = arrayvec::ArrayVec::<Offload, { crate::frame::BURST_FRAMES_MAX }>::new();
        for unit in units {
            let frame = &mut frames[usize::from(unit.frame)];
            let offload = frame.offload;
            if let Err(reason) = template.encapsulate(frame) {
                report.drop_unit(reason);
                continue;
            }
            if let Csum::Partial { start, offset } = frame.offload.csum
                && !self.completes
            {
                checksum::complete_partial(frame.data_mut(), start, offset);
                frame.offload.csum = Csum::Valid;
            }
            sent.push(Unit { offload: frame.offload, ..*unit });
            before.push(offload);
        }
        self.queue.send(pool, frames, &sent, &[], report);
        for (unit, offload) in sent.iter().zip(before) {
            let frame = &mut frames[usize::from(unit.frame)];
            // A device that keeps what it was given has put another frame in its place.
            if frame.len() > headers_bytes {
                frame.pull_front(headers_bytes);
                frame.offload = offload;
            }
        }
    }

    fn close(&mut self, pool: &mut Pool) {
        self.queue.close(pool);
    }
}

#[cfg(test)]
#[path = "tunnels_tests.rs"]
mod tests;
