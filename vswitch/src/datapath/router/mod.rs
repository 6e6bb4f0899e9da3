//! The gateway: what is sent to a bridge's gateway, or comes in from outside, is routed and translated here.
//!
//! Theory of operation. A frame gets here for one of three reasons: its destination is its bridge's gateway; it came
//! in through a routed port (a shared uplink, or the host's loopback interface); or it is the answer in a connection
//! between two containers of one bridge that goes through a published port, which must be translated back although
//! nobody sent it to the gateway ([`crate::snapshot::Hairpins`]).
//!
//! *Hit.* Each worker keeps what it did to a flow in a cache of its own ([`NatCache`]): the new addresses and ports,
//! the checksum deltas, the Ethernet addresses, the output. A hit costs a cache line and a few stores.
//!
//! *Miss.* The packet is parsed for good. What belongs to a connection is translated as the connection says; what
//! does not is decided by [`decide`]: delivered to the host, translated to a published port's container,
//! masqueraded on its way out, or refused. What the sender must be told is left in [`Pending`], and written when the
//! burst is done.
//!
//! *What invalidates.* The cache's epoch is made of the snapshot's generation, of the connection table's epoch and of
//! that of the host's routes, all read before the decision; the table forgets connections by time, and so does the cache.
//!
//! *Fragments.* What was decided for the first one of a packet holds for the others, which wait for it if they overtake it
//! ([`FragmentTable`]). At a shared uplink the classifier cannot tell whose those are, and marks them as undecided
//! ([`crate::bpf`]); what turns out to be the host's goes back through the port that it came in by, with its mark, and
//! what is not known after [`PATIENCE_S`] likewise: nothing that may be the host's is dropped here.
//!
//! The gateway answers address resolution and ping itself ([`answers`]); everything else that is for an address of
//! the host, and not for a published port, is the host's.

pub(super) mod answers;
mod decide;
mod errors;
mod fragments;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::egress;
use super::flow::FlowKey;
use super::pipeline::Source;
use crate::bits::Bits;
use crate::frame::checksum::update_u16;
use crate::frame::{BURST_FRAMES_MAX, DropReason, Frame};
use crate::nat::conntrack::{Conntrack, Segment};
use crate::nat::fragments::Limits;
use crate::nat::{Action, Fragment, FragmentTable, NatCache, Packet, Place, Quick, Rewrite, Upper, mss};
use crate::snapshot::{BridgeId, PortId, PortKind, Routing};
use crate::wire::icmp_error::Problem;
use crate::wire::tcp::Flags;
use crate::wire::{ipv4, sctp};
use decide::{Decision, Out};
use errors::{Told, tell};
pub(super) use fragments::HeldFragment;
use fragments::{FragmentAction, FragmentDecision, PATIENCE_S, is_undecided};

/// In the byte of an IPv4 header that has the flags (RFC 791 section 3.1).
const DONT_FRAGMENT: u8 = 0x40;
/// Questions for stations that one burst may cause.
const QUESTIONS_MAX: usize = 8;

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routed {
    /// It is what it shall be, and leaves through this port.
    Send(PortId),
    /// It is none of the router's, after all.
    Bridge,
    /// Nowhere.
    Drop(DropReason),
    /// A copy was kept until the fragment comes that says what it is.
    Held,
}

/// What is to be told to the sender of a frame that was dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused {
    /// Index into the burst.
    pub(super) frame: u16,
    told: Told,
    /// Who says so; none: whom it was for.
    source: Option<IpAddr>,
}

/// A station whose Ethernet address is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) bridge: BridgeId,
    pub(super) station: IpAddr,
}

/// What is left to be done when a burst was sent.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) refused: ArrayVec<Refused, BURST_FRAMES_MAX>,
    pub(super) questions: ArrayVec<Question, QUESTIONS_MAX>,
    /// Fragments whose first one came: they are to be routed again.
    pub(super) released: Vec<HeldFragment>,
    /// Fragments of the host's, to go back where they came from.
    pub(super) given_back: Vec<HeldFragment>,
    /// Fragments that are not to go on.
    pub(super) given_up: Vec<(HeldFragment, DropReason)>,
}

impl Pending {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.refused.is_empty()
            && self.questions.is_empty()
            && self.released.is_empty()
            && self.given_back.is_empty()
            && self.given_up.is_empty()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Router {
    conntrack: Arc<Conntrack>,
    cache: NatCache,
    quicks: Box<[Quick; BURST_FRAMES_MAX]>,
    /// Connections whose use is to be noted in the shared table when the burst was sent.
    used: ArrayVec<u32, BURST_FRAMES_MAX>,
    /// The station that was learned last on the hit path, where and when.
    learned: (PortId, [u8; 6], u32),
    fragments: FragmentTable<FragmentDecision, HeldFragment>,
    /// Those from outside: no stranger takes room from the containers.
    outside_fragments: FragmentTable<FragmentDecision, HeldFragment>,
    pub(super) pending: Pending,
    /// That of the last packet that was allowed to be fragmented.
    identification: u32,
}

/// Why a packet is not sent, and whether its sender is told.
type Refusal = (DropReason, Option<Told>);

impl Router {
    pub(super) fn new(seed: u64, conntrack: Arc<Conntrack>) -> std::io::Result<Self> {
        Ok(Self {
            conntrack,
            cache: NatCache::new(seed)?,
            quicks: Box::new([Quick::SLOW; BURST_FRAMES_MAX]),
            used: ArrayVec::new(),
            learned: (PortId(0), [0; 6], 0),
            fragments: FragmentTable::new(),
            outside_fragments: FragmentTable::with_limits(Limits { patience_s: PATIENCE_S, ..Limits::default() }),
            pending: Pending::default(),
            identification: seed as u32,
        })
    }

    /// What the cache's entries are valid under, to be read before the snapshot is confirmed to be the newest.
    #[inline]
    pub(super) fn epoch(&self, generation: u64, routing: &Routing) -> u64 {
        let routes = routing.routes.as_ref().map_or(0, |routes| routes.routes_generation());
        // Both only grow, so that their sum changes with either.
        generation << 32 | self.conntrack.epoch().wrapping_add(routes) & 0xffff_ffff
    }

    /// First of all: reads which flow the frame `at` is of.
    #[inline]
    pub(super) fn read(&mut self, at: usize, frame: &Frame, port: PortId) {
        self.quicks[at] = self.cache.read(frame, port);
    }

    /// Then, for frames that were read: asks for the tags of their buckets in the cache.
    #[inline]
    pub(super) fn prefetch_tags(&self, routed: Bits) {
        for at in routed {
            self.cache.prefetch_tags(&self.quicks[at]);
        }
    }

    /// As soon as those lines may be there: asks for the entries.
    #[inline]
    pub(super) fn prefetch_entries(&mut self, routed: Bits) {
        for at in routed {
            self.cache.prefetch_entry(&mut self.quicks[at]);
        }
    }

    /// At last: translates the frame `at` and says where it goes, and whether the cache knew. `to_gateway` is
    /// false for what is looked at only because of [`crate::snapshot::Hairpins`].
    #[inline]
    pub(super) fn route(
        &mut self,
        source: &Source<'_>,
        at: usize,
        frame: &mut Frame,
        key: FlowKey,
        to_gateway: bool,
    ) -> (Routed, bool) {
        if let Some(hit) = self.cache.lookup(&self.quicks[at], source.nat_epoch, source.now.s)
            && hit.fits(frame)
        {
            let out = hit.out();
            if out == NOT_ROUTED {
                return (Routed::Bridge, true);
            }
            if let Some(connection) = hit.touch {
                // Every few seconds and flow. Not more than the burst has frames.
                let _ = self.used.try_push(connection);
                learn_again(&mut self.learned, source, key);
            }
            hit.apply(frame);
            return (Routed::Send(out), true);
        }
        learn(source, key);
        (self.route_slowly(source, at, frame, to_gateway), false)
    }

    /// After the burst was decided: asks for what [`Self::note_uses`] will write, each a miss of all caches.
    #[inline]
    pub(super) fn prefetch_uses(&self) {
        for &connection in &self.used {
            self.conntrack.prefetch(connection);
        }
    }

    /// After the burst was sent: notes which connections were used.
    #[inline]
    pub(super) fn note_uses(&mut self, now_s: u32) {
        for connection in self.used.drain(..) {
            self.conntrack.touch(connection, now_s);
        }
    }

    #[inline(never)]
    fn route_slowly(&mut self, source: &Source<'_>, at: usize, frame: &mut Frame, to_gateway: bool) -> Routed {
        let gateway = source.bridge.gateway.as_deref().filter(|_| to_gateway);
        if let Some(gateway) = gateway
            && let Some(answered) = answers::to_gateway(source, gateway, frame)
        {
            return answered;
        }
        let is_undecided = is_undecided(source, frame);
        let packet = match Packet::parse(frame.data(), frame.len()) {
            Ok(packet) => packet,
            Err(_) if is_undecided => return Routed::Send(source.port.id),
            Err(_) if !to_gateway => return Routed::Bridge,
            Err(reason) => return Routed::Drop(reason),
        };
        if let Fragment::First { .. } = packet.fragment
            && is_undecided
        {
            return self.give_back(source, frame, &packet);
        }
        if let Some(gateway) = gateway
            && answers::echo(gateway, frame, &packet)
        {
            return Routed::Send(source.port.id);
        }
        let place = place_of(source);
        if !to_gateway && matches!(packet.fragment, Fragment::None) {
            // Not what hairpins are made of: the bridge's, and remembered as such.
            match self.conntrack.find(&packet.tuple, place) {
                Some(found) if found.hairpin => {}
                _ if packet.upper == Upper::IcmpError => {}
                _ => {
                    let same = Rewrite::new(&packet.tuple, &packet.tuple);
                    if let Some(rewrite) = same {
                        let out = Out { port: NOT_ROUTED, macs: None, hop: false };
                        self.remember(source, at, frame, &packet, &rewrite, &out, None);
                    }
                    return Routed::Bridge;
                }
            }
        }
        let routed = self.route_packet(source, at, frame, &packet, place);
        if let (Err((reason, _)), Fragment::First { .. }) = (&routed, packet.fragment) {
            // The others of the packet go the same way.
            let _ = self.decide_fragments(source, &packet, FragmentDecision::Drop(*reason));
        }
        match routed {
            Ok(routed) => routed,
            Err((reason, _)) if !to_gateway && reason == DropReason::NoConnection => Routed::Bridge,
            Err((reason, told)) => {
                if let Some(told) = told {
                    let source = errors::speaker(source, &packet);
                    // More than one burst has frames is more than anybody needs to be told.
                    let _ = self.pending.refused.try_push(Refused { frame: at as u16, told, source });
                }
                Routed::Drop(reason)
            }
        }
    }

    fn route_packet(
        &mut self,
        source: &Source<'_>,
        at: usize,
        frame: &mut Frame,
        packet: &Packet,
        place: Place,
    ) -> Result<Routed, Refusal> {
        if let Fragment::Later { .. } = packet.fragment {
            return self.route_later_fragment(source, frame, packet);
        }
        if packet.upper == Upper::IcmpError {
            return self.route_error(source, frame, packet, place);
        }
        let tuple = &packet.tuple;
        let segment = segment_of(packet);
        let decision = match self.conntrack.find(tuple, place) {
            Some(found) => Decision::from(found),
            None => decide::decide(source, &self.conntrack, packet, place, &segment, &mut self.pending.questions)?,
        };
        let (rewrite, out, index, cacheable) = match decision {
            Decision::Connection { found, routed } => {
                let tracked = self.conntrack.track(&found, segment, source.now.s);
                let out = decide::output(source, &found, routed, &mut self.pending.questions)?;
                let cacheable = tracked.cacheable;
                (Rewrite::new(tuple, &found.translated), out, Some(found.index), cacheable)
            }
            Decision::Forward(out) => (Rewrite::new(tuple, tuple), out, None, true),
        };
        let rewrite = rewrite.ok_or((DropReason::Untranslatable, None))?;
        if place == Place::Loopback {
            self.let_fragment(source, &out, frame, packet);
        }
        check_size(source, &out, frame, may_be_fragmented(packet, place))?;
        if out.hop && packet.hops <= 1 {
            return Err(tell(DropReason::TtlExceeded, Problem::TimeExceeded));
        }
        if let Upper::Tcp { flags, .. } = packet.upper
            && flags.0 & Flags::SYN.0 != 0
        {
            clamp_mss(source, &out, frame, packet);
        }
        if let Fragment::First { .. } = packet.fragment {
            self.decide_fragments(source, packet, FragmentDecision::Send(FragmentAction { rewrite, out, index }))
                .map_err(|reason| (reason, None))?;
        } else if cacheable {
            self.remember(source, at, frame, packet, &rewrite, &out, index);
        }
        apply(frame, packet, &rewrite, &out)?;
        Ok(Routed::Send(out.port))
    }

    /// A program of the host sends to its own loopback interface what fits through that, and knows of no way behind it:
    /// what is too big is fragmented, whatever it says. The identification is new, since that of a packet that must
    /// not be fragmented may be anything (RFC 6864 section 4.1).
    fn let_fragment(&mut self, source: &Source<'_>, out: &Out, frame: &mut Frame, packet: &Packet) {
        let is_too_big = mtu_of(source, out.port).is_some_and(|mtu| egress::exceeds(frame, mtu).is_some());
        if frame.offload.gso.is_some() || !is_too_big || !(packet.is_v6 || packet.dont_fragment) {
            return;
        }
        self.identification = self.identification.wrapping_add(1).max(1);
        if packet.is_v6 {
            // On behalf of the source, which this host is.
            frame.fragment_id = self.identification;
            return;
        }
        let identification = self.identification as u16;
        let header = frame.data_mut().get_mut(usize::from(packet.network)..);
        let Some(header) = header.and_then(<[u8]>::first_chunk_mut::<{ ipv4::HEADER_BYTES }>) else { return };
        let [_, _, _, _, i0, i1, f0, f1, _, _, c0, c1, ..] = *header;
        let flags = u16::from_be_bytes([f0 & !DONT_FRAGMENT, f1]);
        let sum = update_u16(u16::from_be_bytes([c0, c1]), u16::from_be_bytes([i0, i1]), identification);
        let sum = update_u16(sum, u16::from_be_bytes([f0, f1]), flags);
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    #[expect(clippy::too_many_arguments, reason = "what an entry of the cache is made of")]
    fn remember(
        &mut self,
        source: &Source<'_>,
        at: usize,
        frame: &Frame,
        packet: &Packet,
        rewrite: &Rewrite,
        out: &Out,
        connection: Option<u32>,
    ) {
        if self.quicks[at].is_slow() || packet.fragment != Fragment::None {
            return;
        }
        let macs = out.macs.or_else(|| frame.data().first_chunk().copied()).unwrap_or_default();
        let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
        let action = Action {
            rewrite: *rewrite,
            hops: out.hops(),
            destination: [a, b, c, d, e, f],
            source: [g, h, i, j, k, l],
            out: out.port,
            mtu: mtu_of(source, out.port).map_or(u16::MAX, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
            connection,
        };
        self.cache.insert(&self.quicks[at], source.nat_epoch, source.now.s, &action);
    }
}

/// A bridge learns also from what is not bridged: who only ever speaks to the gateway is still to be found.
fn learn(source: &Source<'_>, key: FlowKey) {
    if source.port.learning && source.port.kind != PortKind::Routed && key.source()[0] & 1 == 0 {
        let _ = source.bridge.fdb.resolve(key.source(), key.source(), 0, source.port.id, source.now.s);
    }
}

/// Keeps a station of an established flow from being forgotten; once a second suffices, however many flows it has.
#[inline]
fn learn_again(learned: &mut (PortId, [u8; 6], u32), source: &Source<'_>, key: FlowKey) {
    let station = (source.port.id, key.source(), source.now.s);
    if *learned != station {
        *learned = station;
        learn(source, key);
    }
}

/// The port of cached decisions that say that a frame is not the router's.
const NOT_ROUTED: PortId = PortId(u16::MAX);

/// Where a burst comes from, as connections have it.
fn place_of(source: &Source<'_>) -> Place {
    match source.port.kind {
        PortKind::Routed if source.snapshot.routing.loopback == Some(source.port.id) => Place::Loopback,
        PortKind::Routed => Place::Outside,
        _ => Place::Container,
    }
}

/// What the table of connections looks at.
fn segment_of(packet: &Packet) -> Segment {
    match packet.upper {
        Upper::Tcp { flags, sequence, .. } => {
            Segment { tcp_flags: Some(flags.0), sequence: Some(sequence), ..Segment::default() }
        }
        Upper::Sctp { chunk, .. } => Segment { ends_association: sctp::ends_association(chunk), ..Segment::default() },
        _ => Segment::default(),
    }
}

/// The largest IP packet that gets through a port.
fn mtu_of(source: &Source<'_>, out: PortId) -> Option<u32> {
    let port = source.snapshot.port(out)?;
    Some(port.device.path_mtu().map_or(port.mtu, |path| path.min(port.mtu)))
}

/// Whether routers may fragment the packet. What the host sends to itself they may: see [`Router::let_fragment`].
fn may_be_fragmented(packet: &Packet, place: Place) -> bool {
    place == Place::Loopback || (!packet.is_v6 && !packet.dont_fragment)
}

/// What is too big for its way is fragmented on the way out, if it allows that; if not, its sender is told, in words
/// of the packet that it has sent.
fn check_size(source: &Source<'_>, out: &Out, frame: &Frame, may_be_fragmented: bool) -> Result<(), Refusal> {
    let Some(mtu) = mtu_of(source, out.port) else { return Ok(()) };
    match egress::exceeds(frame, mtu) {
        Some(packet_bytes) if !may_be_fragmented || frame.offload.gso.is_some() => {
            let told = Told { problem: Problem::TooBig(mtu), packet_bytes: Some(packet_bytes) };
            Err((DropReason::TooBig, Some(told)))
        }
        _ => Ok(()),
    }
}

/// Translates the packet and addresses the frame.
fn apply(frame: &mut Frame, packet: &Packet, rewrite: &Rewrite, out: &Out) -> Result<(), Refusal> {
    let csum = frame.offload.csum;
    let data = frame.data_mut();
    if !rewrite.apply(data, packet, &csum, out.hops()) {
        return Err((DropReason::Untranslatable, None));
    }
    if let Some((ethernet, macs)) = data.first_chunk_mut::<12>().zip(out.macs) {
        *ethernet = macs;
    }
    Ok(())
}

/// Makes the MSS of a SYN fit the way in and the way out, where that is asked for.
fn clamp_mss(source: &Source<'_>, out: &Out, frame: &mut Frame, packet: &Packet) {
    let clamps = |port: PortId| {
        let gateway = source.snapshot.port(port).and_then(|port| source.snapshot.bridge(port.bridge)?.gateway.as_ref());
        gateway.is_some_and(|gateway| gateway.mss_clamp)
    };
    if !clamps(source.port.id) && !clamps(out.port) {
        return;
    }
    let mtus = [mtu_of(source, source.port.id), mtu_of(source, out.port)];
    if let Some(mtu) = mtus.into_iter().flatten().min() {
        let csum = frame.offload.csum;
        mss::clamp(frame.data_mut(), packet, csum, mtu);
    }
}

/// Whether what the port sends may be an answer that must be translated although it is bridged.
#[inline]
pub(super) fn has_hairpins(source: &Source<'_>) -> bool {
    source.port.hairpins.load(Ordering::Relaxed) != 0
}
