//! The way out: brings each frame of an output's list into a shape that the output can take, and
//! hands the list to the device in one call.
//!
//! Per frame, in order: the VLAN tag is put right; what is larger than the port's MTU is fragmented,
//! or dropped and its sender told; what is over the port's rate is dropped; what the device cannot take is segmented or has its checksum finished. A
//! super-frame is measured by the segments it will become, not by its own length. Segments need
//! buffers of their own: what was gathered before them is sent first, so that order is kept.

use arrayvec::ArrayVec;

use super::clock::Now;
use super::counters::{Cell, CounterTable};
use super::scatter::{Item, Scatter};
use super::tag;
use crate::frame::fragment::Fragmenter;
use crate::frame::gro::{Accept, Coalescer, Company};
use crate::frame::gso::Segmenter;
use crate::frame::{BURST_FRAMES_MAX, Burst, Csum, DropReason, Frame, GsoKind, Offload, Pool, checksum};
use crate::io::{Caps, Piece, TxQueue, TxReport, Unit};
use crate::snapshot::PortEntry;

/// One output being served.
pub(super) struct Output<'a> {
    pub(super) port: &'a PortEntry,
    pub(super) queue: &'a mut dyn TxQueue,
    pub(super) counters: &'a CounterTable,
    pub(super) now: Now,
}

impl Output<'_> {
    /// The largest IP packet that gets through: what the port takes, or the way behind it.
    fn mtu(&self) -> u32 {
        self.port.device.path_mtu().map_or(self.port.mtu, |path| path.min(self.port.mtu))
    }

    fn drop_frame(&self, reason: DropReason) {
        self.counters.add_drops(self.port.id.index(), reason, 1);
    }

    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece]) {
        send(self.queue, self.port.id.index(), self.counters, pool, frames, units, pieces);
    }
}

/// Sends, and counts what became of it in `row`.
pub(super) fn send(
    queue: &mut dyn TxQueue,
    row: usize,
    counters: &CounterTable,
    pool: &mut Pool,
    frames: &mut [Frame],
    units: &[Unit],
    pieces: &[Piece],
) {
    if units.is_empty() {
        return;
    }
    let mut report = TxReport::default();
    queue.send(pool, frames, units, pieces, &mut report);
    count_sent(counters, row, &report);
}

/// Counts what became of units in `row`.
pub(super) fn count_sent(counters: &CounterTable, row: usize, report: &TxReport) {
    counters.add(row, Cell::TxFrames, u64::from(report.sent));
    counters.add(row, Cell::TxBytes, report.bytes);
    for (reason, count) in report.drops() {
        counters.add_drops(row, reason, u64::from(count));
    }
}

/// A worker's scratch space for egress.
#[derive(Debug)]
pub(super) struct Egress {
    coalesces: bool,
    units: ArrayVec<Unit, BURST_FRAMES_MAX>,
    pieces: ArrayVec<Piece, BURST_FRAMES_MAX>,
    segments: Burst,
    company: Company,
    coalescer: Coalescer,
    too_big: ArrayVec<TooBig, BURST_FRAMES_MAX>,
}

/// A frame that did not fit through its output and could not be cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooBig {
    /// Index into the burst.
    pub(super) frame: u16,
    /// The VLAN id that it came with.
    pub(super) tag: Option<u16>,
    /// The length of its packet, or of a segment of it.
    pub(super) packet_bytes: usize,
    /// What fits.
    pub(super) mtu: u32,
}

/// What a frame needs before a device with given capabilities can take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Checksum,
    Segmentation,
}

fn need(frame: &Frame, caps: Caps, super_frame_bytes_max: usize) -> Need {
    match (frame.offload.gso, frame.offload.csum) {
        (Some(gso), _) => {
            let kind = match gso.kind {
                GsoKind::Tcp4 => caps.tso4,
                GsoKind::Tcp6 => caps.tso6,
                GsoKind::Udp => caps.uso,
            };
            let takes = kind && (caps.csum || caps.tunnel) && (caps.ecn || !gso.ecn);
            if takes && frame.len() <= super_frame_bytes_max { Need::Nothing } else { Need::Segmentation }
        }
        (None, Csum::Partial { .. }) if !caps.csum => Need::Checksum,
        (None, _) => Need::Nothing,
    }
}

/// The bytes in front of the IP packet: the Ethernet header and every VLAN tag.
pub(super) fn link_header_bytes(data: &[u8]) -> usize {
    let mut at = 12;
    while matches!(data.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00])) {
        at += 4;
    }
    at + 2
}

/// The length of the IP packet, or of a segment of it, if that is more than `mtu` bytes.
#[inline]
pub(super) fn exceeds(frame: &Frame, mtu: u32) -> Option<usize> {
    let mtu = mtu as usize;
    // Most frames are decided here, without a look at their bytes.
    if frame.len() <= mtu + super::flow::ETHERNET_BYTES {
        return None;
    }
    let link = link_header_bytes(frame.data());
    let packet = match (frame.offload.gso, frame.offload.csum) {
        (Some(gso), Csum::Partial { start, .. }) => {
            let start = usize::from(start);
            let transport = match gso.kind {
                GsoKind::Udp => 8,
                GsoKind::Tcp4 | GsoKind::Tcp6 => {
                    frame.data().get(start + 12).map_or(20, |&offset| usize::from(offset >> 4) * 4)
                }
            };
            start.saturating_sub(link) + transport + usize::from(gso.size)
        }
        _ => frame.len().saturating_sub(link),
    };
    (packet > mtu).then_some(packet)
}

impl Egress {
    /// An egress that merges neighbours, or does not.
    pub(super) fn new(coalesces: bool) -> Self {
        Self {
            coalesces,
            units: ArrayVec::new(),
            pieces: ArrayVec::new(),
            segments: Burst::new(),
            company: Company::default(),
            coalescer: Coalescer::default(),
            too_big: ArrayVec::new(),
        }
    }

    /// Serves one output of a burst.
    pub(super) fn serve(&mut self, output: &mut Output<'_>, frames: &mut [Frame], scatter: &Scatter, pool: &mut Pool) {
        let caps = output.port.device.caps();
        let super_frame_bytes_max = output.port.device.super_frame_bytes_max();
        let mtu = output.mtu();
        // Which units, and which frames, are this output's alone: the others must keep their bytes.
        let (mut soles, mut sole_frames) = (0u64, 0u64);
        for item in scatter.items(output.port.id) {
            let frame = &mut frames[usize::from(item.frame)];
            if let Some(packet_bytes) = exceeds(frame, mtu) {
                self.flush(output, frames, pool);
                (soles, sole_frames) = (0, 0);
                self.fragment(output, &mut frames[usize::from(item.frame)], item, packet_bytes, pool);
                continue;
            }
            tag::apply(frame, item.tag);
            if let Some(bucket) = &output.port.egress_bucket
                && !bucket.admit_bytes(frame.len(), output.now.ns)
            {
                output.drop_frame(DropReason::EgressRate);
                continue;
            }
            let need = need(frame, caps, super_frame_bytes_max);
            let may_stay_scattered = caps.scatter && need == Need::Nothing;
            if !(may_stay_scattered || pool.linearize(frame)) {
                output.drop_frame(DropReason::PoolEmpty);
                continue;
            }
            match need {
                Need::Nothing => {}
                Need::Checksum => {
                    if let Csum::Partial { start, offset } = frame.offload.csum {
                        if !checksum::complete_partial(frame.data_mut(), start, offset) {
                            output.drop_frame(DropReason::Malformed);
                            continue;
                        }
                        frame.offload.csum = Csum::Valid;
                    }
                }
                Need::Segmentation => {
                    self.flush(output, frames, pool);
                    soles = 0;
                    self.segment(output, &frames[usize::from(item.frame)], caps.csum, pool);
                    continue;
                }
            }
            soles |= u64::from(item.sole) << self.units.len();
            sole_frames |= u64::from(item.sole) << item.frame;
            let (offload, sole) = (frame.offload, item.sole);
            self.units.push(Unit { frame: item.frame, first_piece: 0, pieces_count: 0, offload, sole });
        }
        if soles.count_ones() > 1 && caps.csum && self.coalesces && output.port.device.merges() {
            let accept = Accept { tcp4: caps.tso4, tcp6: caps.tso6, udp: caps.uso };
            self.coalesce(output, frames, accept, soles, sole_frames);
        }
        self.flush(output, frames, pool);
    }

    fn flush(&mut self, output: &mut Output<'_>, frames: &mut [Frame], pool: &mut Pool) {
        output.send(pool, frames, &self.units, &self.pieces);
        self.units.clear();
        self.pieces.clear();
    }

    /// Merges neighbours of one flow into super-frames, of those units that `soles` has a bit for;
    /// `sole_frames` says the same by frame.
    fn coalesce(&mut self, output: &Output<'_>, frames: &mut [Frame], accept: Accept, soles: u64, sole_frames: u64) {
        if !accept.any() {
            return;
        }
        let places = (self.units.iter().enumerate())
            .filter(|(_, unit)| frames[usize::from(unit.frame)].is_linear())
            .fold(0, |places, (at, _)| places | 1 << at);
        let places = soles & places;
        let company = self.company.find(accept, places, |at| &frames[usize::from(self.units[at].frame)]);
        if company == 0 {
            return;
        }
        self.coalescer.begin(accept);
        let mut merged = 0;
        for (at, unit) in self.units.iter().enumerate() {
            if company & 1 << at != 0 {
                merged += u64::from(self.coalescer.push(frames, unit.frame));
            } else if places & 1 << at != 0 {
                self.coalescer.push_alone(unit.frame);
            } else {
                self.coalescer.push_apart(unit.frame);
            }
        }
        if merged == 0 {
            return;
        }
        output.counters.add(output.port.id.index(), Cell::Coalesced, merged);
        let (units, pieces) = (&mut self.units, &mut self.pieces);
        units.clear();
        self.coalescer.finish(frames, |unit| {
            let first_piece = pieces.len() as u16;
            pieces.extend(unit.pieces.map(|(frame, offset)| Piece { frame, offset }));
            let pieces_count = pieces.len() as u16 - first_piece;
            let sole = sole_frames & 1 << unit.frame != 0;
            units.push(Unit { frame: unit.frame, first_piece, pieces_count, offload: unit.offload, sole });
        });
    }

    /// What does not fit is fragmented if it allows that; if not, its sender is to be told.
    #[cold]
    fn fragment(
        &mut self,
        output: &mut Output<'_>,
        frame: &mut Frame,
        item: Item,
        packet_bytes: usize,
        pool: &mut Pool,
    ) {
        let mtu = output.mtu();
        let tag = tag::id(frame);
        tag::apply(frame, item.tag);
        let whole = frame.offload.gso.is_none() && pool.linearize(frame);
        if let Csum::Partial { start, offset } = frame.offload.csum
            && whole
            && checksum::complete_partial(frame.data_mut(), start, offset)
        {
            frame.offload.csum = Csum::Valid;
        }
        let finished = whole && !matches!(frame.offload.csum, Csum::Partial { .. });
        let fragmenter = match frame.fragment_id {
            0 => Fragmenter::new(frame.data(), mtu),
            id => Fragmenter::of_source(frame.data(), mtu, id),
        };
        let fragmenter = fragmenter.filter(|_| finished);
        let Some(fragmenter) = fragmenter else {
            output.drop_frame(DropReason::TooBig);
            if item.sole {
                // More than one burst has frames is more than any sender needs to be told.
                let _ = self.too_big.try_push(TooBig { frame: item.frame, tag, packet_bytes, mtu });
            }
            return;
        };
        if let Some(bucket) = &output.port.egress_bucket
            && !bucket.admit_bytes(frame.len(), output.now.ns)
        {
            output.drop_frame(DropReason::EgressRate);
            return;
        }
        self.send_parts(output, fragmenter.count(), Offload::NONE, pool, |index, out| fragmenter.write(index, out));
    }

    /// Frames that were too big since this was asked last.
    pub(super) fn take_too_big(&mut self) -> ArrayVec<TooBig, BURST_FRAMES_MAX> {
        std::mem::take(&mut self.too_big)
    }

    /// Whether a frame was too big.
    #[inline]
    pub(super) fn has_too_big(&self) -> bool {
        !self.too_big.is_empty()
    }

    /// Cuts a super-frame and sends the pieces, their checksums left to an output that has `csum`.
    fn segment(&mut self, output: &mut Output<'_>, frame: &Frame, csum: bool, pool: &mut Pool) {
        let Ok(mut segmenter) = Segmenter::new(frame.data(), &frame.offload) else {
            output.drop_frame(DropReason::Unsegmentable);
            return;
        };
        if csum {
            segmenter = segmenter.leave_checksum_partial();
        }
        let offload = segmenter.segment_offload();
        self.send_parts(output, segmenter.count(), offload, pool, |index, out| segmenter.write(index, out));
    }

    /// Sends the `count` parts that `write` makes of a frame.
    fn send_parts(
        &mut self,
        output: &mut Output<'_>,
        count: usize,
        offload: Offload,
        pool: &mut Pool,
        write: impl Fn(usize, &mut [u8]) -> usize,
    ) {
        output.counters.add(output.port.id.index(), Cell::Segments, count as u64 - 1);
        let mut next = 0;
        while next < count {
            let batch = (count - next).min(BURST_FRAMES_MAX);
            for index in next..next + batch {
                let Some(mut part) = pool.alloc() else {
                    output.drop_frame(DropReason::PoolEmpty);
                    continue;
                };
                let len = write(index, part.area_mut(0));
                part.set_len(len);
                part.offload = offload;
                let at = self.segments.len() as u16;
                self.units.push(Unit { frame: at, first_piece: 0, pieces_count: 0, offload, sole: true });
                self.segments.push(part);
            }
            next += batch;
            output.send(pool, &mut self.segments, &self.units, &[]);
            self.units.clear();
            pool.free_all(self.segments.drain(..));
        }
    }
}
