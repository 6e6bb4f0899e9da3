//! The way in: trains from the kernel become super-frames of the tunnels' ports.
//!
//! One `recvmmsg` takes a few messages. Each is a datagram or a train of datagrams of equal size
//! (`UDP_GRO`), and lands in a frame of its own, VXLAN header in the headroom.
//!
//! *The guess.* For the first messages of a call the scatter list is laid out for a train like the last
//! one: of `size` bytes per datagram, of which `headers` are VXLAN and inner headers. The first datagram goes
//! to the frame as it is, then alternately headers to scratch memory and payload to the end of
//! the frame. A train that is what was guessed is a super-frame as soon as its headers were compared
//! ([`Run`]); no byte of payload was copied.
//!
//! *When it was wrong*, the message is brought into one piece and cut from there: each run of
//! segments into a frame of its own. What there is no room for waits until the next call.
//!
//! A single datagram is not affected by any of this: it lies in the first slice.

// Scatter lists are pointers into frames.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrayvec::ArrayVec;

use super::sys::{self, Address, Control};
use crate::frame::{DropReason, Frame, Offload, Pool, checksum};
use crate::io::{Arrivals, RxStatus, UnderlayReport, UnderlayRx};
use crate::snapshot::PortId;
use crate::tunnel::ecn::{self, Ecn};
use crate::tunnel::train::Run;
use crate::tunnel::{TunnelTable, decap};
use crate::wire::vxlan;

/// The most messages of one call.
const MESSAGES_MAX: usize = 32;
/// Messages of a call that may be trains as guessed. Two, because what a peer cuts from one
/// super-frame is up to two trains.
const GUESSED_MAX: usize = 2;
/// Datagrams of a train that the guess has room for; the kernel makes no longer ones (`UDP_GRO_CNT_MAX`).
const DATAGRAMS_MAX: usize = 64;
/// The longest headers that are guessed: tags, IPv6 and TCP with all options it can have.
const HEADERS_BYTES_MAX: usize = 160;
/// Payload below which scattering costs more than copying.
const PAYLOAD_BYTES_MIN: usize = 256;
/// Per message: the first datagram, two slices for each further one, and the rest.
const SLICES_MAX: usize = 2 * DATAGRAMS_MAX;
/// The longest message: a UDP payload.
const MESSAGE_BYTES_MAX: usize = 65535;
type Slices = ArrayVec<libc::iovec, { GUESSED_MAX * SLICES_MAX + MESSAGES_MAX }>;
/// Where a datagram starts in front of its inner frame.
const FRONT_BYTES: usize = vxlan::HEADER_BYTES;

/// What a train is expected to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Guess {
    /// Bytes of each datagram but the last.
    size: usize,
    /// Of those, VXLAN and inner headers.
    headers: usize,
}

impl Guess {
    /// A guess, if scattering pays for it.
    fn new(size: usize, headers: usize) -> Option<Self> {
        let pays = headers <= HEADERS_BYTES_MAX && size >= headers + PAYLOAD_BYTES_MIN;
        pays.then_some(Self { size, headers })
    }

    /// The parts of a message, in the order of its bytes: where each lands, and its length.
    fn parts(self) -> impl Iterator<Item = (Place, usize)> {
        let payload = self.size - self.headers;
        let count = MESSAGE_BYTES_MAX.div_ceil(self.size).min(DATAGRAMS_MAX);
        let first = std::iter::once((Place::Frame(0), self.size));
        let others = (0..count - 1).flat_map(move |at| {
            let headers = (Place::Headers(at * HEADERS_BYTES_MAX), self.headers);
            [headers, (Place::Frame(self.size + at * payload), payload)]
        });
        let end = self.size + (count - 1) * payload;
        let rest = (Place::Frame(end), MESSAGE_BYTES_MAX);
        // Cut off where the longest message ends.
        let mut left = MESSAGE_BYTES_MAX;
        first.chain(others).chain(std::iter::once(rest)).map_while(move |(place, bytes)| {
            let bytes = bytes.min(left);
            left -= bytes;
            (bytes > 0).then_some((place, bytes))
        })
    }
}

/// Where a part of a message lands: an offset into the frame, the first datagram's start being zero, or
/// into the room for headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Frame(usize),
    Headers(usize),
}

/// A message that was received.
#[derive(Debug, Clone, Copy)]
struct Message {
    bytes: usize,
    /// Bytes of each of its datagrams but the last.
    size: usize,
    sender: IpAddr,
    outer: Ecn,
}

/// A message in one piece, some of which was not handed on yet.
#[derive(Debug)]
struct Pending {
    /// The datagrams, one behind the other, the first in the frame's headroom.
    frame: Frame,
    message: Message,
    /// Where the next datagram starts, in bytes from the first.
    at: usize,
}

/// Where headers of guessed messages land: room for those of each datagram but the first.
#[derive(Debug)]
struct Landing(Box<[u8]>);

impl Landing {
    fn new() -> Self {
        Self(vec![0; GUESSED_MAX * DATAGRAMS_MAX * HEADERS_BYTES_MAX].into_boxed_slice())
    }

    /// The room of message `at`.
    fn of(&mut self, at: usize) -> &mut [u8] {
        let bytes = DATAGRAMS_MAX * HEADERS_BYTES_MAX;
        &mut self.0[at * bytes..(at + 1) * bytes]
    }
}

/// The receiving side of a UDP underlay.
#[derive(Debug)]
pub(super) struct UdpRx {
    socket: Arc<OwnedFd>,
    port: u16,
    guess: Option<Guess>,
    /// Messages that the next call asks for.
    expected: usize,
    /// Whether the last call brought a train.
    is_bulk: bool,
    landing: Landing,
    pending: VecDeque<Pending>,
    /// The kernel's count of what it had no room for, as it was last read; the next reader's, too.
    overruns: Arc<AtomicU32>,
}

/// What a call has at hand.
struct Call<'a> {
    pool: &'a mut Pool,
    tunnels: &'a TunnelTable,
    arrivals: &'a mut Arrivals,
    report: &'a mut UnderlayReport,
}

impl UdpRx {
    pub(super) fn new(socket: Arc<OwnedFd>, port: u16, overruns: Arc<AtomicU32>) -> Self {
        Self {
            socket,
            port,
            guess: None,
            expected: 1,
            is_bulk: false,
            landing: Landing::new(),
            pending: VecDeque::new(),
            overruns,
        }
    }

    /// One `recvmmsg` into new frames: how many messages came, and their bytes.
    fn receive(&mut self, call: &mut Call<'_>, messages_max: usize) -> (usize, usize) {
        let mut frames = ArrayVec::<Frame, MESSAGES_MAX>::new();
        frames.extend((0..messages_max).map_while(|_| call.pool.alloc()));
        let asked = frames.len();
        let guess = self.guess;
        let mut slices = Slices::new();
        let mut counts = [0; MESSAGES_MAX];
        for (at, frame) in frames.iter_mut().enumerate() {
            let before = slices.len();
            match guess.filter(|_| at < GUESSED_MAX) {
                Some(guess) => scatter(guess, frame, self.landing.of(at), &mut slices),
                None => slices.push(slice_of(frame.area_mut(FRONT_BYTES))),
            }
            counts[at] = slices.len() - before;
        }
        let mut names = [Address::empty(); MESSAGES_MAX];
        let mut controls = [Control::new(); MESSAGES_MAX];
        let mut headers = ArrayVec::<libc::mmsghdr, MESSAGES_MAX>::new();
        let mut first = slices.as_mut_ptr();
        for (count, (name, control)) in counts[..asked].iter().zip(names.iter_mut().zip(&mut controls)) {
            let name = (std::ptr::from_mut(name), size_of::<Address>() as libc::socklen_t);
            headers.push(sys::message(name, (first, *count), (control.pointer(), Control::BYTES_MAX)));
            first = first.wrapping_add(*count);
        }
        let got = loop {
            // SAFETY: the messages point to the arrays above; the slices to frames that are held here
            // and to the landing's headers, which nobody else uses; the lengths are theirs.
            match unsafe { sys::receive(self.socket.as_raw_fd(), &mut headers) } {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EAGAIN: nothing more. Errors that ICMP left behind are passed over, they are of packets sent.
                result => break result.unwrap_or(0),
            }
        };
        let mut received_bytes = 0;
        self.is_bulk = false;
        for (at, frame) in frames.into_iter().enumerate() {
            if at >= got {
                call.pool.free(frame);
                continue;
            }
            let bytes = headers[at].msg_len as usize;
            let control_bytes = sys::control_bytes(&headers[at]);
            let message = self.message(bytes, &names[at], &mut controls[at], control_bytes, call.report);
            received_bytes += message.bytes;
            self.is_bulk |= message.size < message.bytes;
            self.land(call, frame, at, guess.filter(|_| at < GUESSED_MAX), message);
        }
        self.expected = if got < asked { got.max(1) } else { (asked * 2).min(MESSAGES_MAX) };
        (got, received_bytes)
    }

    /// What the kernel said of a message.
    fn message(
        &mut self,
        bytes: usize,
        name: &Address,
        control: &mut Control,
        control_bytes: usize,
        report: &mut UnderlayReport,
    ) -> Message {
        let (mut size, mut tos, mut overflowed) = (bytes, 0, None);
        control.read(control_bytes, |level, kind, data| {
            let number = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => size = number.map_or(bytes, |size| size.max(1) as usize),
                (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => tos = number.unwrap_or(0) as u8,
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => overflowed = number.map(|count| count as u32),
                _ => {}
            }
        });
        if let Some(count) = overflowed {
            let more = count.wrapping_sub(self.overruns.swap(count, Ordering::Relaxed));
            report.dropped += more;
            report.drops[DropReason::RxOverrun as usize] += more;
        }
        let sender = name.ip().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Message { bytes, size: size.min(bytes), sender, outer: Ecn::of_tos(tos) }
    }

    /// Hands on what landed in `frame`, and in the headers' room of message `at` if it was guessed.
    fn land(&mut self, call: &mut Call<'_>, mut frame: Frame, at: usize, guess: Option<Guess>, message: Message) {
        let Some(guess) = guess.filter(|guess| message.bytes > guess.size) else {
            // In one piece already.
            return self.cut(call, Pending { frame, message, at: 0 });
        };
        let headers = self.landing.of(at);
        let followed = if guess.size == message.size && call.arrivals.room() > 0 {
            follow(&mut frame, headers, guess, &message, self.port, call.tunnels)
        } else {
            None
        };
        // What does not belong to the run, because the guess was wrong or the run ended: in the order of
        // the scatter list the bytes are as they were sent.
        let taken = followed.as_ref().map_or(0, |(run, _)| usize::from(run.count()) * guess.size).min(message.bytes);
        let rest = if taken == message.bytes {
            None
        } else {
            let rest = gather(call.pool, &mut frame, headers, guess, taken..message.bytes);
            if rest.is_none() {
                call.report.drop_packet(DropReason::PoolEmpty, message.bytes - taken);
            }
            rest
        };
        match followed {
            Some((run, port)) => finish(call, frame, run.frame_bytes(), Some(run), port, &message),
            None => call.pool.free(frame),
        }
        if let Some(frame) = rest {
            let message = Message { bytes: message.bytes - taken, ..message };
            let message = Message { size: message.size.min(message.bytes), ..message };
            self.cut(call, Pending { frame, message, at: 0 });
        }
    }

    /// Hands on the datagrams of a message in one piece, as far as there is room.
    fn cut(&mut self, call: &mut Call<'_>, mut pending: Pending) {
        let message = pending.message;
        if message.bytes == 0 {
            // UDP allows it (RFC 768), and there is not even a VXLAN header in it.
            call.report.drop_packet(DropReason::TunnelMalformed, 0);
        }
        while pending.at < message.bytes {
            if call.arrivals.room() == 0 {
                self.pending.push_back(pending);
                return;
            }
            let size = message.size.min(message.bytes - pending.at);
            let train = &pending.frame.area_mut(FRONT_BYTES)[pending.at..message.bytes];
            let (port, inner) = match decap::check(&train[..size], message.sender, self.port, call.tunnels) {
                Ok(accepted) => accepted,
                Err(reason) => {
                    call.report.drop_packet(reason, size);
                    pending.at += size;
                    continue;
                }
            };
            if size == message.bytes {
                // The only one: it is where it belongs.
                let bytes = inner.len();
                finish(call, pending.frame, bytes, None, port, &message);
                return;
            }
            let Some(mut frame) = call.pool.alloc() else {
                call.report.drop_packet(DropReason::PoolEmpty, size);
                pending.at += size;
                continue;
            };
            frame.copy_from(inner);
            let mut run = Run::open(frame.data());
            pending.at += size;
            if let Some(run) = &mut run {
                if let Some(guess) = Guess::new(message.size, FRONT_BYTES + run.headers_bytes()) {
                    self.guess = Some(guess);
                }
                let mut rest = &train[size..];
                while let Some((datagram, others)) = rest.split_at_checked(message.size.min(rest.len()))
                    && let Some(segment) = datagram.strip_prefix(&train[..FRONT_BYTES])
                    && let Some((headers, payload)) = segment.split_at_checked(run.headers_bytes())
                    && run.take(frame.data(), headers, payload)
                {
                    let end = frame.len() + payload.len();
                    frame.area_mut(0)[end - payload.len()..end].copy_from_slice(payload);
                    frame.set_len(end);
                    pending.at += datagram.len();
                    rest = others;
                }
            }
            let bytes = frame.len();
            finish(call, frame, bytes, run, port, &message);
        }
        call.pool.free(pending.frame);
    }
}

impl UnderlayRx for UdpRx {
    fn recv(
        &mut self,
        pool: &mut Pool,
        tunnels: &TunnelTable,
        arrivals: &mut Arrivals,
        frames_max: usize,
        bytes_max: usize,
        report: &mut UnderlayReport,
    ) -> RxStatus {
        let mut call = Call { pool, tunnels, arrivals, report };
        while let Some(pending) = self.pending.pop_front() {
            self.cut(&mut call, pending);
            if call.arrivals.room() == 0 {
                return RxStatus::More;
            }
        }
        let (mut frames_left, mut bytes_left) = (frames_max, bytes_max);
        loop {
            let room = call.arrivals.room().min(frames_left);
            if room == 0 || bytes_left == 0 || !self.pending.is_empty() {
                return RxStatus::More;
            }
            // One more than expected, so that the call itself says that it was the last. A train is as
            // long as a burst may be: not many of them at once.
            let at_once = if self.is_bulk { GUESSED_MAX } else { MESSAGES_MAX };
            let asked = (self.expected + 1).min(at_once).min(room);
            let (got, bytes) = self.receive(&mut call, asked);
            if got < asked {
                return RxStatus::Drained;
            }
            frames_left -= got;
            bytes_left = bytes_left.saturating_sub(bytes);
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn close(&mut self, pool: &mut Pool) {
        pool.free_all(self.pending.drain(..).map(|pending| pending.frame));
    }
}

/// Lays out the scatter list of a message.
fn scatter(guess: Guess, frame: &mut Frame, headers: &mut [u8], slices: &mut Slices) {
    let area = frame.area_mut(FRONT_BYTES);
    for (place, bytes) in guess.parts() {
        let (room, at) = match place {
            Place::Frame(at) => (&mut *area, at),
            Place::Headers(at) => (&mut *headers, at),
        };
        // The frame is as long as the longest message, and more.
        let end = (at + bytes).min(room.len());
        slices.push(slice_of(&mut room[at.min(end)..end]));
    }
}

/// Part of a message that was scattered, in one piece, in a frame of its own.
fn gather(pool: &mut Pool, frame: &mut Frame, headers: &[u8], guess: Guess, part: Range<usize>) -> Option<Frame> {
    let mut whole = pool.alloc()?;
    let (area, out) = (&*frame.area_mut(FRONT_BYTES), whole.area_mut(FRONT_BYTES));
    let (mut start, mut written) = (0, 0);
    for (place, bytes) in guess.parts() {
        let end = start + bytes;
        let (from, to) = (start.max(part.start), end.min(part.end));
        if from < to {
            let (room, at) = match place {
                Place::Frame(at) => (area, at),
                Place::Headers(at) => (headers, at),
            };
            let source = room.get(at + from - start..at + to - start).unwrap_or_default();
            out[written..written + source.len()].copy_from_slice(source);
            written += source.len();
        }
        start = end;
    }
    Some(whole)
}

/// Follows a train that was scattered as guessed: the run that its first segments make in `frame`, and
/// the port that they came in through. Nothing when the first must not pass, or the headers are of
/// another length.
fn follow(
    frame: &mut Frame,
    headers: &[u8],
    guess: Guess,
    message: &Message,
    tunnel_port: u16,
    tunnels: &TunnelTable,
) -> Option<(Run, PortId)> {
    let area = &*frame.area_mut(FRONT_BYTES);
    let (front, first) = area.split_at(FRONT_BYTES);
    let (port, inner) = decap::check(&area[..guess.size], message.sender, tunnel_port, tunnels).ok()?;
    let mut run = Run::open(inner).filter(|run| FRONT_BYTES + run.headers_bytes() == guess.headers)?;
    let payload_bytes = guess.size - guess.headers;
    for (at, headers) in headers.chunks(HEADERS_BYTES_MAX).enumerate() {
        let start = (at + 1) * guess.size;
        let bytes = message.bytes.saturating_sub(start).min(guess.size);
        let Some(bytes) = bytes.checked_sub(guess.headers) else { break };
        let payload = guess.size + at * payload_bytes;
        let is_next =
            headers.strip_prefix(front).and_then(|rest| rest.get(..run.headers_bytes())).is_some_and(|headers| {
                area.get(payload..payload + bytes).is_some_and(|payload| run.take(first, headers, payload))
            });
        if !is_next {
            break;
        }
    }
    Some((run, port))
}

/// Hands on a frame of `bytes` bytes, of one segment or of a run.
fn finish(call: &mut Call<'_>, mut frame: Frame, bytes: usize, run: Option<Run>, port: PortId, message: &Message) {
    frame.set_len(bytes);
    let segments = run.map_or(1, |run| run.count());
    frame.offload = match run {
        Some(run) => run.close(frame.data_mut()),
        None => Offload { csum: checksum::detect_partial(frame.data()), gso: None },
    };
    match ecn::decapsulate(frame.data_mut(), message.outer) {
        Ok(()) => call.arrivals.push(frame, port),
        Err(reason) => {
            (0..segments).for_each(|_| call.report.drop_packet(reason, message.size));
            call.pool.free(frame);
        }
    }
}

fn slice_of(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
