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
//! *Super-frames.* A TAP of Linux 6.17 and later takes a super-frame with outer headers in front of it, as the kernel's own
//! tunnels make it ([`Caps::tunnel`]): with the `tc` carry nothing is copied, cut or summed up for each segment then, down to
//! the driver, and what a neighbour's kernel or switch sends that way arrives whole. Elsewhere super-frames are cut before they get here;
//! then the trains of [`crate::io::udp`] are the better way for bulk traffic, and this is the shorter one for small packets.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::receive::UplinkRx;
use super::{NextHop, NextHops, Resolution};
use crate::frame::gro::PACKET_BYTES_MAX;
use crate::frame::{Csum, DropReason, Frame, Offload, Pool, checksum};
use crate::io::{Caps, Device, Piece, RxQueue, TxQueue, TxReport, Underlay, UnderlayRx, Unit};
use crate::tunnel::outer::Template;
use crate::tunnel::{RemoteConfig, overhead_bytes};
use crate::wire::ethernet;

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
        Ok(Box::new(UplinkRx::new(queue, Some((self.local, self.port)))))
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
        match self.tunnels.device.caps() {
            // What is no super-frame would need a device that finishes the checksum of an inner packet, which few can.
            caps if caps.tunnel => Caps { csum: false, scatter: false, ..caps },
            _ => Caps::NONE,
        }
    }

    fn super_frame_bytes_max(&self) -> usize {
        // With outer headers it is one IP packet.
        PACKET_BYTES_MAX + ethernet::HEADER_BYTES - overhead_bytes(&self.config.remote)
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
            let whole = offload.gso.is_some();
            let encapsulated = if whole { template.encapsulate_whole(frame) } else { template.encapsulate(frame) };
            if let Err(reason) = encapsulated {
                report.drop_unit(reason);
                continue;
            }
            if whole {
                // Every segment's checksums are its own: whoever cuts finishes them.
            } else if let Csum::Partial { start, offset } = frame.offload.csum
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
                (frame.offload, frame.encapsulation) = (offload, None);
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
