//! What a shared uplink receives: the packets of tunnels, which are checked and stripped of their outer headers, and
//! everything else, which is routed.
//!
//! There is one reader per uplink, so all tunnels over one uplink share a local address and a UDP port.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use crate::frame::gso::Segmenter;
use crate::frame::{Burst, Csum, DropReason, Frame, Offload, Pool, checksum};
use crate::io::{Arrivals, RxQueue, RxReport, RxStatus, UnderlayReport, UnderlayRx};
use crate::snapshot::PortId;
use crate::tunnel::cut::Cutter;
use crate::tunnel::{TunnelTable, decap, ecn, outer};
use crate::wire::ethernet;

/// The receiving side.
pub(super) struct UplinkRx {
    queue: Box<dyn RxQueue>,
    burst: Burst,
    /// The local address and UDP port of the tunnels, if there are any.
    tunnels: Option<(IpAddr, u16)>,
}

impl UplinkRx {
    pub(super) fn new(queue: Box<dyn RxQueue>, tunnels: Option<(IpAddr, u16)>) -> Self {
        Self { queue, burst: Burst::new(), tunnels }
    }

    /// Takes one frame: out of its tunnel, or as it is to where everything else goes.
    fn take(
        &self,
        frame: Frame,
        pool: &mut Pool,
        tunnels: &TunnelTable,
        arrivals: &mut Arrivals,
        report: &mut UnderlayReport,
    ) {
        let is_tunnels = self.tunnels.is_some_and(|(local, port)| outer::is_for(frame.data(), local, port));
        match arrivals.routed.filter(|_| !is_tunnels) {
            Some(port) if frame.encapsulation.is_some() => cut(&frame, port, pool, arrivals, report).free(frame),
            Some(port) if arrivals.room() > 0 => arrivals.push(frame, port),
            Some(_) => {
                report.drop_packet(DropReason::NoBuffer, frame.len());
                pool.free(frame);
            }
            None if frame.offload.gso.is_some() && frame.encapsulation.is_none() => {
                self.strip_segments(frame, pool, tunnels, arrivals, report);
            }
            None => self.strip(frame, pool, tunnels, arrivals, report),
        }
    }

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
    fn open(&self, frame: &mut Frame, tunnels: &TunnelTable) -> Result<PortId, DropReason> {
        let encapsulation = frame.encapsulation.take();
        let packet = outer::decapsulate(frame.data(), frame.offload.csum)?;
        if self.tunnels != Some((packet.local, packet.port)) {
            return Err(DropReason::NotOurs);
        }
        let payload = &frame.data()[packet.payload.clone()];
        let (port, inner) = decap::check(payload, packet.sender, packet.port, tunnels)?;
        let bytes = inner.len();
        let front = packet.payload.end - bytes;
        let inner_network = encapsulation.map(|encapsulation| usize::from(encapsulation.inner_network_offset));
        if inner_network.is_some_and(|at| at < front + ethernet::HEADER_BYTES) {
            return Err(DropReason::TunnelMalformed);
        }
        frame.pull_front(front);
        frame.set_len(bytes);
        if inner_network.is_none() {
            frame.offload = Offload { csum: checksum::detect_partial(frame.data()), gso: None };
        }
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

/// Hands on the segments of a super-frame inside of somebody else's tunnel: whoever routes or translates a packet looks at the
/// outer one only. Gives the pool back.
#[cold]
fn cut<'a>(
    frame: &Frame,
    port: PortId,
    pool: &'a mut Pool,
    arrivals: &mut Arrivals,
    report: &mut UnderlayReport,
) -> &'a mut Pool {
    let cutter = frame.encapsulation.and_then(|outer| Cutter::new(frame.data(), &frame.offload, outer).ok());
    let Some(cutter) = cutter.filter(|_| frame.is_linear()) else {
        report.drop_packet(DropReason::Unsegmentable, frame.len());
        return pool;
    };
    for index in 0..cutter.count() {
        if arrivals.room() == 0 {
            report.drop_packet(DropReason::NoBuffer, 0);
            continue;
        }
        let Some(mut segment) = pool.alloc() else {
            report.drop_packet(DropReason::PoolEmpty, 0);
            continue;
        };
        let bytes = cutter.write(index, segment.area_mut(0));
        segment.set_len(bytes);
        segment.offload = Offload { csum: Csum::Valid, gso: None };
        arrivals.push(segment, port);
    }
    pool
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
            self.take(frame, pool, tunnels, arrivals, report);
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
