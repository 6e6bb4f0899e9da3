//! Coalescing: neighbours of one burst that are consecutive segments of one flow go out as one
//! super-frame. One system call instead of forty, and one trip through the receiver's stack.
//!
//! Nothing is copied: the first frame becomes the *head*, whose headers are patched, and the
//! payloads of the others follow it as *pieces* in a gathered write.
//!
//! # Order
//! A frame is merged only into the newest unit of its flow, and only within one burst towards one
//! output. Whatever of a flow cannot be merged closes the flow's open unit; whatever may belong to
//! any flow (a fragment, a damaged header) closes them all. Units leave in the order of their
//! heads. So no frame ever overtakes another of its flow, by construction.
//!
//! # What is merged
//! The rules are those of the kernel's GRO (`tcp_gro_receive`, `udp_gro_receive_segment`,
//! `inet_gro_receive`, `ipv6_gro_receive`), made strict enough that segmenting the result gives
//! back the very bytes that came in, each with its right checksum:
//!
//! - Equal MAC addresses, VLAN tags, IP addresses, ports; equal TOS, TTL and DF (traffic class,
//!   flow label and hop limit); no IPv4 options, no IPv6 extension headers, no fragments, no
//!   Ethernet padding; IPv4 identifications that count up.
//! - TCP: consecutive sequence numbers; equal acknowledgement, window, flags and options, the
//!   timestamps among them. SYN, FIN, RST, URG and CWR are never merged, PSH closes the unit.
//! - Equal payload sizes, except that the last may be shorter, which closes the unit.
//! - A frame whose checksum nobody vouched for is verified first, for merging it would hide the
//!   damage. Its IPv4 header is verified in any case.
//!
//! Super-frames take part like the segments they stand for.

mod company;
mod segment;

use arrayvec::ArrayVec;

pub use company::Company;

use segment::{Class, Segment, are_headers_equal, classify, is_same_flow};

use super::checksum;
use super::{BURST_FRAMES_MAX, Csum, Frame, Gso, GsoKind, Offload};
use crate::wire::layers::{Network, Transport};
use crate::wire::{ipv4, ipv6, tcp, udp};

/// The most flows with an open unit at a time. Of more, the one opened first is closed.
pub const FLOWS_MAX: usize = 8;
/// The most bytes of one IP packet.
pub const PACKET_BYTES_MAX: usize = 65535;
/// The most datagrams of one UDP unit: what every kernel since 4.18 takes (`UDP_MAX_SEGMENTS`).
pub const DATAGRAMS_MAX: u16 = 64;

/// Which super-frames the output takes, and so what may be merged for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accept {
    /// TCP over IPv4.
    pub tcp4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// UDP.
    pub udp: bool,
}

impl Accept {
    /// Everything.
    pub const ALL: Self = Self { tcp4: true, tcp6: true, udp: true };

    /// Whether there is anything to merge at all.
    #[inline]
    #[must_use]
    pub const fn any(self) -> bool {
        self.tcp4 || self.tcp6 || self.udp
    }

    #[inline]
    fn takes(self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::Tcp4 => self.tcp4,
            GsoKind::Tcp6 => self.tcp6,
            GsoKind::Udp => self.udp,
        }
    }
}

/// What goes out as one frame.
#[derive(Debug)]
pub struct Merged<'a> {
    /// The head's index into the frames of the call.
    pub frame: u16,
    /// What is still to be done to the whole; the head's own offload where nothing was merged.
    pub offload: Offload,
    /// The frames whose payload follows, with where it starts in each.
    pub pieces: Pieces<'a>,
}

/// The pieces of a unit: frame index and payload offset, in order.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    items: &'a [Item],
    next: Option<u16>,
}

impl Iterator for Pieces<'_> {
    type Item = (u16, u16);

    #[inline]
    fn next(&mut self) -> Option<(u16, u16)> {
        let item = self.items.get(usize::from(self.next?))?;
        self.next = item.next;
        Some((item.frame, item.offset))
    }
}

/// A frame of the burst, in order of arrival.
#[derive(Debug, Clone, Copy)]
struct Item {
    frame: u16,
    /// Where the payload starts; of a piece only.
    offset: u16,
    /// The unit's next piece.
    next: Option<u16>,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Goes out as it is.
    Alone,
    /// Heads the unit of that index.
    Head(u16),
    /// Follows a head.
    Piece,
}

/// A unit that is being built, or was.
#[derive(Debug, Clone, Copy)]
struct Unit {
    head: Segment,
    head_frame: u16,
    last_item: u16,
    /// Payload bytes of head and pieces.
    payload_bytes: u32,
    /// Segments of head and pieces.
    count: u16,
    /// The last segment has PSH.
    push: bool,
    merged: bool,
}

/// Finds what can be merged in one burst towards one output. Its memory is reused from burst to
/// burst; nothing is allocated once it has seen a full one.
///
/// ```text
/// begin(accept); for each frame in order: push(..), push_alone(..) or push_apart(..); finish(frames, |unit| ..)
/// ```
#[derive(Debug)]
pub struct Coalescer {
    accept: Accept,
    items: Vec<Item>,
    units: Vec<Unit>,
    /// Units that may still grow, oldest first.
    open: ArrayVec<u16, FLOWS_MAX>,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self {
            accept: Accept::default(),
            items: Vec::with_capacity(BURST_FRAMES_MAX),
            units: Vec::with_capacity(BURST_FRAMES_MAX),
            open: ArrayVec::new(),
        }
    }
}

impl Coalescer {
    /// Starts a burst towards an output that takes `accept`.
    #[inline]
    pub fn begin(&mut self, accept: Accept) {
        self.accept = accept;
        self.items.clear();
        self.units.clear();
        self.open.clear();
    }

    /// Takes the next frame, `frames[index]`; whether it was merged into an earlier one. The frame
    /// must be this output's alone, for if it becomes a head its headers are patched.
    ///
    /// An index beyond the frames is passed on as it is.
    pub fn push(&mut self, frames: &[Frame], index: u16) -> bool {
        let Some(frame) = frames.get(usize::from(index)) else {
            self.push_apart(index);
            return false;
        };
        let mut segment = match classify(frame.data(), &frame.offload, self.accept) {
            Class::Other => {
                self.item(index, Role::Alone);
                return false;
            }
            Class::Ambiguous => {
                self.push_apart(index);
                return false;
            }
            Class::Flow(segment) => segment,
        };
        if let Some(position) = self.position(frames, frame.data(), &segment) {
            let unit = self.open[position];
            if self.try_append(frames, frame.data(), index, unit, &mut segment) {
                if self.units[usize::from(unit)].is_complete() {
                    self.open.remove(position);
                }
                return true;
            }
            self.open.remove(position);
        }
        self.start(index, segment);
        false
    }

    /// Takes the next frame as one that has no [`Company`]: it is passed on, and no open unit is of its flow.
    #[inline]
    pub fn push_alone(&mut self, index: u16) {
        self.item(index, Role::Alone);
    }

    /// Takes the next frame as one that must not be merged, because other outputs have it too
    /// (flooding). It closes every open unit, since it was not looked at.
    #[inline]
    pub fn push_apart(&mut self, index: u16) {
        self.open.clear();
        self.item(index, Role::Alone);
    }

    /// Ends the burst: patches the heads of what was merged, and hands out all units in order.
    /// `frames` are those that were pushed.
    pub fn finish(&mut self, frames: &mut [Frame], mut emit: impl FnMut(Merged<'_>)) {
        for item in &self.items {
            let unit = match item.role {
                Role::Piece => continue,
                Role::Head(unit) => self.units.get(usize::from(unit)).filter(|unit| unit.merged),
                Role::Alone => None,
            };
            let Some(frame) = frames.get_mut(usize::from(item.frame)) else { continue };
            let offload = match unit {
                Some(unit) => {
                    unit.patch(frame.data_mut());
                    unit.offload()
                }
                None => frame.offload,
            };
            emit(Merged { frame: item.frame, offload, pieces: Pieces { items: &self.items, next: item.next } });
        }
        self.begin(self.accept);
    }

    #[inline]
    fn item(&mut self, frame: u16, role: Role) -> u16 {
        self.items.push(Item { frame, offset: 0, next: None, role });
        (self.items.len() - 1) as u16
    }

    /// Where in `open` the frame's flow is.
    #[inline]
    fn position(&self, frames: &[Frame], data: &[u8], segment: &Segment) -> Option<usize> {
        self.open.iter().position(|&unit| {
            let unit = &self.units[usize::from(unit)];
            unit.head.tag == segment.tag
                && frames
                    .get(usize::from(unit.head_frame))
                    .is_some_and(|head| is_same_flow(head.data(), &unit.head, data, segment))
        })
    }

    /// Passes a frame on that was not merged, and opens a unit if another could follow it.
    #[inline]
    fn start(&mut self, frame: u16, segment: Segment) {
        let unit = Unit {
            head: segment,
            head_frame: frame,
            last_item: self.items.len() as u16,
            payload_bytes: segment.layers.payload_bytes() as u32,
            count: segment.count,
            push: segment.push,
            merged: false,
        };
        if !segment.mergeable || unit.is_complete() {
            self.item(frame, Role::Alone);
            return;
        }
        let index = self.units.len() as u16;
        self.units.push(unit);
        self.item(frame, Role::Head(index));
        if self.open.is_full() {
            self.open.remove(0);
        }
        self.open.push(index);
    }

    /// Merges `data` into the unit if all rules allow it. If its own checksum proves wrong, the
    /// segment is marked so that nothing is merged into it either.
    fn try_append(&mut self, frames: &[Frame], data: &[u8], frame: u16, unit: u16, segment: &mut Segment) -> bool {
        let unit = &mut self.units[usize::from(unit)];
        let Some(head) = frames.get(usize::from(unit.head_frame)).map(Frame::data) else { return false };
        if !segment.mergeable || !unit.fits(segment) || !are_headers_equal(head, &unit.head, data, segment) {
            return false;
        }
        // Summing the payload is the expensive part: last, and for each frame at most once.
        if segment.unverified {
            segment.mergeable = checksum::is_transport_right(data, &segment.layers);
            segment.unverified = false;
            if !segment.mergeable {
                return false;
            }
        }
        if unit.head.unverified {
            if !checksum::is_transport_right(head, &unit.head.layers) {
                return false;
            }
            unit.head.unverified = false;
        }
        unit.payload_bytes += segment.layers.payload_bytes() as u32;
        unit.count += segment.count;
        unit.push = segment.push;
        unit.merged = true;
        let item = self.items.len() as u16;
        self.items[usize::from(unit.last_item)].next = Some(item);
        unit.last_item = item;
        self.items.push(Item { frame, offset: segment.layers.payload_offset, next: None, role: Role::Piece });
        true
    }
}

impl Unit {
    /// Whether nothing may follow: the last segment has PSH or is shorter than the others.
    #[inline]
    fn is_complete(&self) -> bool {
        self.push || !self.payload_bytes.is_multiple_of(u32::from(self.head.size))
    }

    /// Whether the segment continues the unit in number and size.
    #[inline]
    fn fits(&self, segment: &Segment) -> bool {
        let payload_bytes = segment.layers.payload_bytes();
        let total_bytes = usize::from(self.head.layers.payload_offset - self.head.layers.network_offset)
            + self.payload_bytes as usize
            + payload_bytes;
        let continues = match self.head.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => segment.sequence == self.head.sequence.wrapping_add(self.payload_bytes),
            GsoKind::Udp => self.count + segment.count <= DATAGRAMS_MAX,
        };
        let sizes = if segment.count > 1 {
            segment.size == self.head.size
        } else {
            payload_bytes <= usize::from(self.head.size)
        };
        let ids = self.head.layers.network == Network::V6 || segment.id == self.head.id.wrapping_add(self.count);
        continues && sizes && ids && total_bytes <= PACKET_BYTES_MAX
    }

    /// Makes the head's headers those of the whole.
    fn patch(&self, head: &mut [u8]) {
        let layers = &self.head.layers;
        let (network, transport) = (usize::from(layers.network_offset), usize::from(layers.transport_offset));
        let transport_bytes = usize::from(layers.payload_offset) - transport + self.payload_bytes as usize;
        let packet_bytes = transport - network + transport_bytes;
        let pseudo = checksum::fold(layers.pseudo_header_sum(head, transport_bytes));
        match layers.network {
            Network::V4 => {
                if let Some(mut header) = head.get_mut(network..).and_then(ipv4::HeaderMut::new_checked) {
                    header.set_total_bytes(packet_bytes as u16);
                    header.fill_checksum();
                }
            }
            Network::V6 => {
                if let Some(mut header) = head.get_mut(network..).and_then(ipv6::HeaderMut::new_checked) {
                    header.set_payload_bytes((packet_bytes - ipv6::HEADER_BYTES) as u16);
                }
            }
        }
        let Some(bytes) = head.get_mut(transport..) else { return };
        match layers.transport {
            Transport::Tcp => {
                if let Some(mut header) = tcp::HeaderMut::new_checked(bytes) {
                    if self.push {
                        header.set_flags(header.flags().with(tcp::Flags::PSH));
                    }
                    header.set_checksum(pseudo);
                }
            }
            Transport::Udp => {
                if let Some(mut header) = udp::HeaderMut::new_checked(bytes) {
                    header.set_length_bytes(transport_bytes as u16);
                    header.set_checksum(pseudo);
                }
            }
        }
    }

    /// What is still to be done to the whole.
    fn offload(&self) -> Offload {
        let layers = &self.head.layers;
        Offload {
            csum: Csum::Partial { start: layers.transport_offset, offset: layers.transport.checksum_offset() },
            gso: Some(Gso { kind: self.head.kind, ecn: false, size: self.head.size }),
        }
    }
}
