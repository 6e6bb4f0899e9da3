//! The pure part of the datapath: a burst in, lists of outputs out. No I/O, no clock, no thread.
//!
//! A frame is *read* (of which flow is it?), *checked* (may the port send it?), the first lines of the tables
//! are asked for, then its entry, and it is *decided*: looked up, or resolved on the spot, so that a second
//! frame of a new flow in the same burst hits, and appended to its outputs. The burst goes through these
//! steps in groups, each one step behind the next one, so that memory is under way for one while the
//! others are worked on; `crate::prefetch` tells why by groups. The lines of one group and the entries of the
//! one before it are asked for together, after what is read and before what is decided. Frames are decided
//! in their order.

use std::ops::Range;
use std::sync::Arc;

use super::clock::Now;
use super::flow::{Actions, FlowKey, TagOp, Verdict};
use super::flow_cache::{FlowCache, Hit};
use super::guard;
use super::neighbours::Neighbours;
use super::rate::Bucket;
use super::resolve::{self, Loop, Resolution};
use super::router::{self, Routed, Router};
use super::scatter::Scatter;
use crate::bits::Bits;
use crate::frame::{BURST_FRAMES_MAX, Burst, DropReason, Frame, Offload};
use crate::nat::conntrack::Conntrack;
use crate::snapshot::{BridgeEntry, GatewayEntry, Guard, PortEntry, PortKind, Snapshot, VlanMode};
use crate::tunnel::whole;
use crate::wire::{MacAddr, resolution};

/// No bridge's epoch: nothing is cached under it.
const NO_EPOCH: u64 = u64::MAX;

/// The ingress state of one port at the worker that reads it.
#[derive(Debug, Default)]
pub struct Ingress {
    /// The port's ingress rate.
    pub rate: Option<Bucket>,
    /// The bridge's storm limit, applied to this port.
    pub storm: Option<Bucket>,
}

/// Where a burst comes from.
#[derive(Debug)]
pub struct Source<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The port that received the burst.
    pub port: &'a PortEntry,
    /// Its bridge.
    pub bridge: &'a BridgeEntry,
    /// The bridge's epoch, read before `snapshot` was confirmed to be the newest.
    pub epoch: u64,
    /// The router's epoch, read likewise.
    pub nat_epoch: u64,
    /// The time.
    pub now: Now,
}

/// What became of a burst, besides its outputs.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Frames that the cache decided.
    pub hits: u32,
    /// Frames that were resolved.
    pub misses: u32,
    /// Outputs beyond the first of flooded frames.
    pub flood_copies: u64,
    /// Drops by reason, found at ingress.
    pub drops: [u32; DropReason::COUNT],
    /// Whether `drops` has anything.
    pub any_drop: bool,
    /// The last loop that was detected.
    pub looped: Option<Loop>,
    /// Fragments that were kept until the first one of their packet comes.
    pub held: u32,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            hits: 0,
            misses: 0,
            flood_copies: 0,
            drops: [0; DropReason::COUNT],
            any_drop: false,
            looped: None,
            held: 0,
        }
    }
}

impl Tally {
    #[inline]
    fn drop_frame(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
        self.any_drop = true;
    }
}

/// How many frames take a step together: what they ask for is under way at a time, and one group's work lasts about as
/// long as memory takes. Four are slower with a million flows, sixteen in a model (docs/performance.md).
const GROUP: usize = 8;

/// The bits of the frames in `group`.
#[inline]
fn mask(group: &Range<usize>) -> u64 {
    (u64::MAX >> (64 - group.len())) << group.start
}

/// One burst on its way through the pipeline.
struct Pass<'a> {
    source: &'a Source<'a>,
    rules: Rules<'a>,
    ingress: &'a mut Ingress,
    out: &'a mut Scatter,
    ways: Ways,
    tally: Tally,
    /// What decisions are cached under, and looked up by.
    epoch: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) router: Router,
    cache: FlowCache,
    flows: Box<[(FlowKey, u64); BURST_FRAMES_MAX]>,
}

impl Pipeline {
    /// A pipeline with empty caches; `seed` is secret and random outside of tests.
    ///
    /// # Errors
    /// The kernel grants no address space.
    pub fn new(seed: u64, conntrack: Arc<Conntrack>) -> std::io::Result<Self> {
        let none = (FlowKey::default(), 0);
        Ok(Self {
            router: Router::new(seed, conntrack)?,
            cache: FlowCache::new(seed),
            flows: Box::new([none; BURST_FRAMES_MAX]),
        })
    }

    /// Decides for every frame of the burst. Frames that are appended to no list are dropped, and
    /// counted in the result; all frames stay in the burst, which owns them.
    pub fn process(
        &mut self,
        source: &Source<'_>,
        ingress: &mut Ingress,
        burst: &mut Burst,
        out: &mut Scatter,
    ) -> Tally {
        let rules = Rules::of(source);
        let (ways, tally, epoch) = (Ways::default(), Tally::default(), source.epoch);
        let mut pass = Pass { source, rules, ingress, out, ways, tally, epoch };
        let frames = burst.as_mut_slice();
        let count = frames.len();
        let group = |number: usize| number * GROUP..(number * GROUP + GROUP).min(count);
        let groups = count.div_ceil(GROUP);
        for step in 0..groups + 2 {
            if step < groups {
                let group = group(step);
                let mask = mask(&group);
                self.read(&mut pass, &mut frames[group.clone()], group.start);
                for at in Bits(pass.ways.bridged & mask) {
                    self.cache.prefetch(self.flows[at].1);
                }
                if pass.rules.has_checks() {
                    self.check(&mut pass, frames, mask);
                }
                self.router.prefetch_tags(Bits(pass.ways.routed & mask));
            }
            if (1..=groups).contains(&step) {
                self.router.prefetch_entries(Bits(pass.ways.routed & mask(&group(step - 1))));
            }
            if step >= 2 {
                let group = group(step - 2);
                for (at, frame) in (group.start..).zip(&mut frames[group]) {
                    self.decide(&mut pass, at, frame);
                }
            }
        }
        self.router.prefetch_uses();
        pass.tally
    }

    /// What the tables are to be asked for the `frames`, of which the first one is the burst's `first`.
    #[inline]
    fn read(&mut self, pass: &mut Pass<'_>, frames: &mut [Frame], first: usize) {
        let port = pass.source.port;
        for (at, frame) in (first..).zip(frames) {
            if port.kind == PortKind::Tunnel {
                whole::mark(frame, port.mtu);
            }
            match FlowKey::parse(frame, port.id) {
                Ok(key) => {
                    let way = pass.rules.way(key);
                    if way != Way::Bridged {
                        pass.ways.routed |= 1 << at;
                        self.router.read(at, frame, port.id);
                    }
                    let mut hash = 0;
                    if way != Way::Routed {
                        pass.ways.bridged |= 1 << at;
                        hash = self.cache.hash(key);
                    }
                    self.flows[at] = (key, hash);
                }
                Err(reason) => pass.tally.drop_frame(reason),
            }
        }
    }

    /// Who may not say this, of the frames in `mask`, and what is learned from it.
    #[inline]
    fn check(&self, pass: &mut Pass<'_>, frames: &[Frame], mask: u64) {
        let source = pass.source;
        for at in Bits(pass.ways.all() & mask) {
            let (key, frame) = (self.flows[at].0, &frames[at]);
            if let Err(reason) = pass.rules.check(source, key, frame) {
                pass.ways.drop_frame(at);
                pass.tally.drop_frame(reason);
            } else if let Some(neighbours) = pass.rules.heard
                && resolution::is_candidate(frame.data())
                && let Some(vlan) = resolve::ingress_vlan(&source.port.vlan, key.tag())
            {
                neighbours.hear(frame.data(), vlan, source.now.s);
            }
        }
    }

    /// Where the frame `at` goes.
    #[inline]
    fn decide(&mut self, pass: &mut Pass<'_>, at: usize, frame: &mut Frame) {
        let Pass { source, ingress, out, ways, tally, epoch, .. } = pass;
        let source = *source;
        if ways.all() & 1 << at == 0 {
            // Dropped already.
            return;
        }
        if let Some(rate) = &mut ingress.rate
            && !rate.admit_bytes(frame.len(), source.now.ns)
        {
            tally.drop_frame(DropReason::IngressRate);
            return;
        }
        if ways.routed & 1 << at != 0 {
            let to_gateway = ways.bridged & 1 << at == 0;
            let (verdict, hit) = self.router.route(source, at, frame, self.flows[at].0, to_gateway);
            if verdict != Routed::Bridge {
                *if hit { &mut tally.hits } else { &mut tally.misses } += 1;
            }
            match verdict {
                Routed::Send(port) => {
                    out.push(port, at as u16, TagOp::Keep, true);
                    return;
                }
                Routed::Drop(reason) => {
                    tally.drop_frame(reason);
                    return;
                }
                Routed::Held => {
                    tally.held += 1;
                    return;
                }
                Routed::Bridge => {}
            }
        }
        let (key, hash) = self.flows[at];
        let verdict = if let Some(hit) = self.cache.lookup(hash, key, *epoch) {
            tally.hits += 1;
            source.bridge.fdb.refresh(hit.stamp, source.now.s);
            hit.actions.unpack()
        } else {
            tally.misses += 1;
            let verdict = self.resolve(source, key, hash, tally);
            if source.bridge.fdb.epoch() != *epoch {
                // An address moved, perhaps because of this very frame: what is cached may be
                // wrong for the rest of the burst. The next burst has the new epoch.
                *epoch = NO_EPOCH;
            }
            verdict
        };
        match verdict {
            Verdict::Forward(port, tag) => out.push(port, at as u16, tag, true),
            Verdict::Drop(reason) => tally.drop_frame(reason),
            Verdict::Flood => {
                if let Some(storm) = &mut ingress.storm
                    && !storm.admit_frame(source.now.ns)
                {
                    tally.drop_frame(DropReason::Storm);
                    return;
                }
                if answers_to_all(source, key, frame) || is_answered(source, key, frame) {
                    // Back to who asked, with the tag that it came with.
                    out.push(source.port.id, at as u16, TagOp::Keep, true);
                    return;
                }
                match flood(source, key, at as u16, out) {
                    0 => tally.drop_frame(DropReason::NoDestination),
                    outputs => tally.flood_copies += outputs - 1,
                }
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn resolve(&mut self, source: &Source<'_>, key: FlowKey, hash: u64, tally: &mut Tally) -> Verdict {
        let Resolution { verdict, cache, looped } =
            resolve::resolve(source.snapshot, source.bridge, source.port, key, source.now);
        if let Some(stamp) = cache {
            self.cache.insert(hash, key, source.epoch, Hit { actions: Actions::pack(verdict), stamp });
        }
        tally.looped = looped.or(tally.looped);
        verdict
    }
}

/// How the frames of a burst go on, a bit for each: what is both routed and bridged is so perhaps, what is neither was
/// dropped.
#[derive(Debug, Default)]
struct Ways {
    routed: u64,
    bridged: u64,
}

impl Ways {
    /// The frames that go on.
    #[inline]
    fn all(&self) -> u64 {
        self.routed | self.bridged
    }

    #[inline]
    fn drop_frame(&mut self, at: usize) {
        self.routed &= !(1 << at);
        self.bridged &= !(1 << at);
    }
}

/// What a port's frames are looked at for, besides their Ethernet addresses.
struct Rules<'a> {
    guard: Option<&'a Guard>,
    /// Who learns from what is heard.
    heard: Option<&'a Neighbours>,
    gateway: Option<&'a GatewayEntry>,
    /// The address that frames for the gateway have; none on ports whose frames are not for it.
    gateway_mac: Option<[u8; 6]>,
    /// Everything that comes in through the port is routed.
    is_routed: bool,
    is_host: bool,
    has_hairpins: bool,
}

/// How a frame goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By its Ethernet address.
    Bridged,
    /// To the router.
    Routed,
    /// To the router, which may leave it to the bridge.
    Perhaps,
}

impl<'a> Rules<'a> {
    fn of(source: &Source<'a>) -> Self {
        let (kind, gateway) = (source.port.kind, source.bridge.gateway.as_deref());
        // The gateway is in the VLAN of untagged frames, which the host's interface is in, too.
        let reaches = kind != PortKind::Host && resolve::ingress_vlan(&source.port.vlan, None) == Some(0);
        let is_heard = kind == PortKind::Tunnel && source.port.learning;
        Self {
            guard: source.port.guard.as_deref(),
            heard: source.bridge.neighbours.as_deref().filter(|_| is_heard),
            gateway,
            gateway_mac: gateway.filter(|_| reaches).map(|gateway| gateway.mac),
            is_routed: kind == PortKind::Routed,
            is_host: kind == PortKind::Host,
            has_hairpins: reaches && gateway.is_some() && router::has_hairpins(source),
        }
    }

    /// Whether there is anything to be checked.
    #[inline]
    fn has_checks(&self) -> bool {
        self.guard.is_some() || self.heard.is_some() || self.is_host
    }

    #[inline]
    fn check(&self, source: &Source<'_>, key: FlowKey, frame: &Frame) -> Result<(), DropReason> {
        if let Some(guard) = self.guard {
            guard::check(guard, self.gateway, key, frame.data())?;
        }
        match self.gateway {
            Some(gateway) if self.is_host => {
                guard::check_host(gateway, &source.snapshot.routing.host_addresses, frame.data())
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn way(&self, key: FlowKey) -> Way {
        if self.is_routed || (self.gateway_mac == Some(key.destination()) && key.tag().is_none()) {
            Way::Routed
        } else if self.has_hairpins && key.destination()[0] & 1 == 0 && key.tag().is_none() {
            Way::Perhaps
        } else {
            Way::Bridged
        }
    }
}

/// Whether a question to everybody on the bridge was turned into the gateway's answer.
fn answers_to_all(source: &Source<'_>, key: FlowKey, frame: &mut Frame) -> bool {
    let Some(gateway) = source.bridge.gateway.as_deref().filter(|_| source.port.kind != PortKind::Host) else {
        return false;
    };
    resolve::ingress_vlan(&source.port.vlan, key.tag()) == Some(0) && router::answers::to_all(gateway, frame)
}

/// Whether a frame about to be flooded was turned into the answer to the question that it asked, on
/// behalf of a station behind a tunnel; see [`super::neighbours`].
fn is_answered(source: &Source<'_>, key: FlowKey, frame: &mut Frame) -> bool {
    let Source { snapshot, port, bridge, now, .. } = *source;
    let Some(neighbours) = bridge.neighbours.as_deref().filter(|_| port.kind != PortKind::Tunnel) else {
        return false;
    };
    let Some(vlan) = resolve::ingress_vlan(&port.vlan, key.tag()) else { return false };
    let is_remote = |mac: MacAddr| {
        let behind = bridge.fdb.lookup(mac.0, vlan).and_then(|id| snapshot.port(id));
        behind.is_some_and(|to| to.kind == PortKind::Tunnel && resolve::may_talk(bridge, port, to))
    };
    let answered = neighbours.answer(frame.data_mut(), vlan, now.s, is_remote);
    if answered {
        // It was written anew, checksum and all.
        frame.offload = Offload::NONE;
    }
    answered
}

/// Appends a frame to the lists of all ports that may have it; returns how many.
fn flood(source: &Source<'_>, key: FlowKey, frame: u16, out: &mut Scatter) -> u64 {
    let Source { snapshot, port, bridge, .. } = *source;
    // Without VLAN modes every port takes every frame as it came.
    let vlan = if bridge.vlan_aware { resolve::ingress_vlan(&port.vlan, key.tag()) } else { None };
    let mut outputs = 0;
    for &to in &bridge.ports {
        if to == port.id {
            continue;
        }
        let Some(to) = snapshot.port(to) else { continue };
        if !to.flooding || resolve::same_group(port, to) || !resolve::may_talk(bridge, port, to) {
            continue;
        }
        let tag = match vlan {
            None => TagOp::Keep,
            Some(vlan) => match resolve::egress_tag(&to.vlan, vlan, key.tag()) {
                // One copy of the frame serves all ports: say what is wanted, not what changes.
                Some(TagOp::Keep) => key.tag().map_or(TagOp::Untag, TagOp::Tag),
                Some(tag) => tag,
                None => continue,
            },
        };
        out.push(to.id, frame, tag, false);
        outputs += 1;
    }
    debug_assert!(port.vlan == VlanMode::Transparent || bridge.vlan_aware, "a VLAN mode makes its bridge aware");
    outputs
}
