//! The way out: units of a burst become datagrams, datagrams become trains, trains go to the kernel.
//!
//! 1. *Plan*: which source port and TOS each unit has. Units are put in the order of their source ports,
//!    those of one port in the order in which they came: so a flow keeps its order, and everything of
//!    one socket is sent by one call.
//! 2. *Gather*: each unit becomes datagrams, a super-frame as many as it has segments. A datagram is one
//!    or two slices: headers in scratch memory, payload where it is. Datagrams of equal size, and a
//!    shorter last one, that follow one another are a train.
//! 3. *Send*: one `sendmmsg` for each socket.
//!
//! The scratch memory is a frame of the worker's pool, which is hot in the cache, and costs a remote
//! nothing while nothing is sent to it.

// Gather lists are pointers into frames.
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;

use super::socket::{Family, Senders};
use super::sys::{self, Address, Control};
use crate::frame::gso::Segmenter;
use crate::frame::{BURST_FRAMES_MAX, Csum, DropReason, Frame, Pool, checksum};
use crate::io::{Piece, TxQueue, TxReport, Unit};
use crate::tunnel::train::{TRAIN_BYTES_MAX, TRAIN_DATAGRAMS_MAX};
use crate::tunnel::{RemoteConfig, TTL_DEFAULT, inner, overhead_bytes};
use crate::wire::{ethernet, udp, vxlan};

/// Messages of one round; more make another.
const MESSAGES_MAX: usize = BURST_FRAMES_MAX;
/// Slices of one round.
const SLICES_MAX: usize = 512;
/// A frame whose headers are to be completed is copied whole if it is no longer than this: cheaper than
/// another slice.
const COPY_BYTES_MAX: usize = 256;
/// How long a learned path MTU is believed: RFC 1191, section 6.3, has ten minutes, as Linux does.
const PATH_MTU_SECONDS: u64 = 600;

/// What was learned of a path, shared by all that send to a remote.
#[derive(Debug, Default)]
pub(super) struct PathMtu {
    /// The largest inner IP packet in bytes; zero as long as nothing was learned.
    inner: AtomicU32,
    /// When that was learned, in seconds of the monotonic clock.
    learned_s: AtomicU64,
}

impl PathMtu {
    /// The largest inner IP packet, if the path was found to be narrow.
    #[inline]
    pub(super) fn get(&self) -> Option<u32> {
        match self.inner.load(Ordering::Relaxed) {
            0 => None,
            inner => self.unless_expired(inner, now_s()),
        }
    }

    #[cold]
    fn unless_expired(&self, inner: u32, now_s: u64) -> Option<u32> {
        if now_s.saturating_sub(self.learned_s.load(Ordering::Relaxed)) < PATH_MTU_SECONDS {
            return Some(inner);
        }
        // Try again what is larger; the kernel has forgotten, too.
        self.inner.store(0, Ordering::Relaxed);
        None
    }

    fn learn(&self, inner: u32, now_s: u64) {
        self.learned_s.store(now_s, Ordering::Relaxed);
        self.inner.store(inner.max(1), Ordering::Relaxed);
    }
}

fn now_s() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

/// The sending side of a remote, of one worker.
pub(super) struct RemoteTx {
    config: RemoteConfig,
    header: [u8; vxlan::HEADER_BYTES],
    destination: SocketAddr,
    senders: Arc<Senders>,
    trains: Arc<AtomicBool>,
    path: Arc<PathMtu>,
}

/// A unit on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Planned {
    /// Index of the source port.
    port: u8,
    /// Index of the unit.
    unit: u8,
    tos: u8,
}

/// Datagrams that go out by one call, or part of one.
#[derive(Debug)]
struct Message {
    port: u8,
    tos: u8,
    /// The size of each datagram but the last.
    size: u32,
    count: u16,
    bytes: u32,
    /// The message's slices: `slices[first_slice..]` up to the next message's.
    first_slice: u16,
    slices_count: u16,
    /// The units in it, by index; they follow one another in the plan.
    first_planned: u8,
    last_planned: u8,
    /// The last datagram was shorter: nothing may follow it.
    closed: bool,
}

/// One round of sending.
struct Round<'a> {
    tx: &'a RemoteTx,
    slices: ArrayVec<libc::iovec, SLICES_MAX>,
    messages: ArrayVec<Message, MESSAGES_MAX>,
    /// Headers, and small frames.
    scratch: &'a mut [u8],
    scratch_used: usize,
    /// What became of each planned unit.
    outcome: [Option<DropReason>; BURST_FRAMES_MAX],
}

impl RemoteTx {
    pub(super) fn new(
        config: RemoteConfig,
        senders: Arc<Senders>,
        trains: Arc<AtomicBool>,
        path: Arc<PathMtu>,
    ) -> Self {
        Self {
            header: vxlan::header(config.vni),
            destination: SocketAddr::new(config.remote, config.dst_port),
            config,
            senders,
            trains,
            path,
        }
    }

    fn send_chunk(&self, frames: &mut [Frame], units: &[Unit], scratch: &mut [u8], report: &mut TxReport) {
        let mut plan = ArrayVec::<Planned, BURST_FRAMES_MAX>::new();
        for (at, unit) in units.iter().enumerate() {
            let frame = &frames[usize::from(unit.frame)];
            if frame.tagged && !self.config.inner_tags {
                report.drop_unit(DropReason::TunnelTag);
                continue;
            }
            let inner = inner::examine(frame.data());
            plan.push(Planned { port: Senders::index_of(inner.hash), unit: at as u8, tos: self.config.tos(inner) });
        }
        plan.sort_unstable();
        let mut round = Round {
            tx: self,
            slices: ArrayVec::new(),
            messages: ArrayVec::new(),
            scratch,
            scratch_used: 0,
            outcome: [None; BURST_FRAMES_MAX],
        };
        for (at, planned) in plan.iter().enumerate() {
            let unit = &units[usize::from(planned.unit)];
            round.gather(&mut frames[usize::from(unit.frame)], unit, *planned, at as u8);
        }
        round.flush();
        for (planned, outcome) in plan.iter().zip(round.outcome) {
            match outcome {
                Some(reason) => report.drop_unit(reason),
                None => {
                    report.sent += 1;
                    report.bytes += frames[usize::from(units[usize::from(planned.unit)].frame)].len() as u64;
                }
            }
        }
    }

    /// Why the kernel did not take a message, and what follows from that.
    #[cold]
    fn refused(&self, message: &Message, error: &io::Error) -> DropReason {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::NoBuffer,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL) => DropReason::NoRoute,
            Some(libc::EMSGSIZE) => {
                self.learn_path_mtu(message);
                DropReason::TooBig
            }
            // Before Linux 6.13 a train whose datagrams are too large is EINVAL, too.
            Some(libc::EINVAL | libc::EIO) if message.count > 1 => {
                if self.learn_path_mtu(message) {
                    return DropReason::TooBig;
                }
                if self.trains.swap(false, Ordering::Relaxed) {
                    tracing::warn!(remote = %self.config.remote, %error, "the kernel sends no trains: packet by packet from now on");
                }
                DropReason::TxError
            }
            _ => DropReason::TxError,
        }
    }

    /// Asks the kernel what the path carries; whether that is less than the message's datagrams need.
    fn learn_path_mtu(&self, message: &Message) -> bool {
        let Ok(outer) = self.senders.path_mtu(self.destination) else { return false };
        let overhead = overhead_bytes(&self.config.remote) as u32;
        let inner_bytes = message.size.saturating_sub((vxlan::HEADER_BYTES + ethernet::HEADER_BYTES) as u32);
        if inner_bytes + overhead <= outer {
            return false;
        }
        let inner = outer.saturating_sub(overhead);
        tracing::info!(remote = %self.config.remote, outer, inner, "the path carries smaller packets only");
        self.path.learn(inner, now_s());
        true
    }
}

impl TxQueue for RemoteTx {
    fn send(&mut self, pool: &mut Pool, frames: &mut [Frame], units: &[Unit], pieces: &[Piece], report: &mut TxReport) {
        let Some(mut scratch) = pool.alloc() else {
            units.iter().for_each(|_| report.drop_unit(DropReason::PoolEmpty));
            return;
        };
        if units.iter().all(|unit| unit.pieces_count == 0) {
            for units in units.chunks(BURST_FRAMES_MAX) {
                self.send_chunk(frames, units, scratch.area_mut(0), report);
            }
        } else {
            // The egress leaves neighbours apart for this device; whoever does not gets a copy.
            for unit in units {
                let Some(mut whole) = join(pool, frames, unit, pieces) else {
                    report.drop_unit(DropReason::PoolEmpty);
                    continue;
                };
                let unit = Unit { frame: 0, first_piece: 0, pieces_count: 0, ..*unit };
                self.send_chunk(std::slice::from_mut(&mut whole), &[unit], scratch.area_mut(0), report);
                pool.free(whole);
            }
        }
        pool.free(scratch);
    }
}

/// Head and pieces of a unit in a frame of their own; nothing if there is none, or they do not fit.
fn join(pool: &mut Pool, frames: &[Frame], unit: &Unit, pieces: &[Piece]) -> Option<Frame> {
    let mut whole = pool.alloc()?;
    let head = &frames[usize::from(unit.frame)];
    let first = usize::from(unit.first_piece);
    let parts = pieces[first..first + usize::from(unit.pieces_count)].iter();
    let parts = parts.map(|piece| &frames[usize::from(piece.frame)].data()[usize::from(piece.offset)..]);
    let mut len = 0;
    for part in std::iter::once(head.data()).chain(parts) {
        let Some(space) = whole.area_mut(0).get_mut(len..len + part.len()) else {
            pool.free(whole);
            return None;
        };
        space.copy_from_slice(part);
        len += part.len();
    }
    whole.set_len(len);
    (whole.offload, whole.tagged) = (unit.offload, head.tagged);
    Some(whole)
}

impl Round<'_> {
    /// Makes datagrams of a unit.
    fn gather(&mut self, frame: &mut Frame, unit: &Unit, planned: Planned, at: u8) {
        match (unit.offload.gso, unit.offload.csum) {
            (Some(_), _) => self.gather_segments(frame, unit, planned, at),
            (None, Csum::Partial { start, offset }) => self.gather_unfinished(frame, (start, offset), planned, at),
            (None, Csum::Unknown | Csum::Valid) => {
                let header = self.tx.header;
                if frame.headroom() < header.len() {
                    return self.gather_without_headroom(frame, planned, at);
                }
                let bytes = frame.with_front_mut(header.len());
                bytes[..header.len()].copy_from_slice(&header);
                let slice = slice_of(bytes);
                self.make_room(1, 0);
                self.datagram(planned, at, 1, &[slice]);
            }
        }
    }

    fn gather_without_headroom(&mut self, frame: &Frame, planned: Planned, at: u8) {
        let header = self.tx.header;
        self.make_room(2, header.len());
        let slice = self.write(|out| {
            out[..header.len()].copy_from_slice(&header);
            header.len()
        });
        self.datagram(planned, at, 1, &[slice, slice_of(frame.data())]);
    }

    /// A frame whose checksum is still to be completed. Other outputs may have the frame, too, and
    /// complete it themselves: so it is done in a copy of the headers.
    fn gather_unfinished(&mut self, frame: &Frame, (start, offset): (u16, u16), planned: Planned, at: u8) {
        let (data, header) = (frame.data(), self.tx.header);
        let field_end = usize::from(start) + usize::from(offset) + 2;
        if field_end > data.len() {
            self.outcome[usize::from(at)] = Some(DropReason::Malformed);
            return;
        }
        let copied = if data.len() <= COPY_BYTES_MAX { data.len() } else { field_end };
        let value = !checksum::fold(checksum::sum(&data[usize::from(start)..]));
        let value = if offset == udp::CHECKSUM_OFFSET { checksum::udp_field(value) } else { value };
        self.make_room(2, header.len() + copied);
        let slice = self.write(|out| {
            let (front, rest) = out.split_at_mut(header.len());
            front.copy_from_slice(&header);
            rest[..copied].copy_from_slice(&data[..copied]);
            rest[field_end - 2..field_end].copy_from_slice(&value.to_be_bytes());
            header.len() + copied
        });
        if copied == data.len() {
            self.datagram(planned, at, 1, &[slice]);
        } else {
            self.datagram(planned, at, 1, &[slice, slice_of(&data[copied..])]);
        }
    }

    fn gather_segments(&mut self, frame: &Frame, unit: &Unit, planned: Planned, at: u8) {
        let Ok(segmenter) = Segmenter::new(frame.data(), &unit.offload) else {
            self.outcome[usize::from(at)] = Some(DropReason::Unsegmentable);
            return;
        };
        let (count, header) = (segmenter.count(), self.tx.header);
        let size = header.len() + segmenter.segment_bytes_max();
        let train_max = self.train_max(size);
        // Of several trains all are of about the same length, rather than the last one short.
        let per_train = count.div_ceil(count.div_ceil(train_max));
        let headers_bytes = header.len() + segmenter.headers_bytes();
        for index in 0..count {
            if index % per_train == 0 {
                self.make_room(2 * per_train.min(count - index), headers_bytes * per_train);
            }
            let mut payload = &[][..];
            let slice = self.write(|out| {
                let (front, rest) = out.split_at_mut(header.len());
                front.copy_from_slice(&header);
                // The index is below the count, and there is room.
                let Some((bytes, rest)) = segmenter.write_headers(index, rest) else { return 0 };
                payload = rest;
                header.len() + bytes
            });
            self.datagram(planned, at, per_train.min(count - index), &[slice, slice_of(payload)]);
        }
    }

    /// The most datagrams of `size` bytes that make a train.
    fn train_max(&self, size: usize) -> usize {
        if !self.tx.trains.load(Ordering::Relaxed) {
            return 1;
        }
        (TRAIN_BYTES_MAX / size.max(1)).clamp(1, TRAIN_DATAGRAMS_MAX)
    }

    /// Sends what was gathered if there is no room for as many slices and bytes of scratch memory.
    fn make_room(&mut self, slices: usize, scratch_bytes: usize) {
        let has_room = self.slices.remaining_capacity() >= slices
            && self.scratch.len() - self.scratch_used >= scratch_bytes
            && !self.messages.is_full();
        if !has_room {
            self.flush();
        }
    }

    /// Has `fill` write to scratch memory, and gives a slice of as many bytes as it says.
    fn write(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> libc::iovec {
        let out = &mut self.scratch[self.scratch_used..];
        let bytes = fill(out);
        self.scratch_used += bytes;
        slice_of(&out[..bytes])
    }

    /// Appends a datagram: to the train that is open, if it and those of the same unit that follow it at
    /// once, `following` in all, belong there.
    fn datagram(&mut self, planned: Planned, at: u8, following: usize, slices: &[libc::iovec]) {
        let size: usize = slices.iter().map(|slice| slice.iov_len).sum();
        let train_max = self.train_max(size);
        let first_slice = self.slices.len() as u16;
        self.slices.extend(slices.iter().copied().filter(|slice| slice.iov_len > 0));
        let slices_count = self.slices.len() as u16 - first_slice;
        if let Some(open) = self.messages.last_mut()
            && (open.port, open.tos, open.closed) == (planned.port, planned.tos, false)
            && size <= open.size as usize
            && usize::from(open.count) < train_max
            && open.bytes as usize + size <= TRAIN_BYTES_MAX
            // A unit that does not fit whole starts a train of its own.
            && (open.last_planned == at || usize::from(open.count) + following <= train_max)
        {
            open.count += 1;
            open.bytes += size as u32;
            open.slices_count += slices_count;
            open.last_planned = at;
            open.closed = size < open.size as usize;
            return;
        }
        if self.messages.is_full() {
            // The slices of this datagram are the last ones: they start the next round.
            let tail: ArrayVec<libc::iovec, 2> = self.slices.drain(usize::from(first_slice)..).collect();
            self.send_messages();
            self.slices.extend(tail);
        }
        self.messages.push(Message {
            port: planned.port,
            tos: planned.tos,
            size: size as u32,
            count: 1,
            bytes: size as u32,
            first_slice: self.slices.len() as u16 - slices_count,
            slices_count,
            first_planned: at,
            last_planned: at,
            closed: false,
        });
    }

    /// Sends everything that was gathered.
    fn flush(&mut self) {
        self.send_messages();
        self.scratch_used = 0;
    }

    fn send_messages(&mut self) {
        let (mut destination, destination_bytes) = Address::new(self.tx.destination);
        let mut controls = ArrayVec::<Control, MESSAGES_MAX>::new();
        let mut headers = ArrayVec::<libc::mmsghdr, MESSAGES_MAX>::new();
        for message in &self.messages {
            controls.push(self.tx.control_of(message));
        }
        for (message, control) in self.messages.iter().zip(&mut controls) {
            let slices = self.slices[usize::from(message.first_slice)..].as_mut_ptr();
            let control = (control.pointer(), control.len());
            let control = if control.1 == 0 { (std::ptr::null_mut(), 0) } else { control };
            let name = (&raw mut destination, destination_bytes);
            headers.push(sys::message(name, (slices, usize::from(message.slices_count)), control));
        }
        let socket = |message: &Message| self.tx.senders.socket(message.port, message.count > 1);
        let mut at = 0;
        while let Some(first) = self.messages.get(at) {
            let fd = socket(first);
            let same = self.messages[at..].iter().take_while(|message| socket(message) == fd).count();
            // SAFETY: the messages point to the slices, the controls and the address above, and the
            // slices to frames of the call and to the scratch memory: all of them outlive the call.
            match unsafe { sys::send(fd, &mut headers[at..at + same]) } {
                Ok(sent) => at += sent.max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let reason = self.tx.refused(first, &error);
                    let planned = usize::from(first.first_planned)..=usize::from(first.last_planned);
                    for outcome in &mut self.outcome[planned] {
                        outcome.get_or_insert(reason);
                    }
                    at += 1;
                }
            }
        }
        self.messages.clear();
        self.slices.clear();
    }
}

impl RemoteTx {
    /// What is told to the kernel beside the bytes of a message.
    fn control_of(&self, message: &Message) -> Control {
        let mut control = Control::new();
        if message.count > 1 {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &(message.size as u16).to_ne_bytes());
        }
        let (level, tos, ttl) = match self.senders.family() {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT),
        };
        if message.tos != 0 {
            control.push(level, tos, &i32::from(message.tos).to_ne_bytes());
        }
        if self.config.ttl != TTL_DEFAULT {
            control.push(level, ttl, &i32::from(self.config.ttl).to_ne_bytes());
        }
        control
    }
}

fn slice_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
