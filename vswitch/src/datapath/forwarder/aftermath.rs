//! What is left when a burst was sent: what senders are told, what the gateway asks for, and what waits.
//!
//! None of it is on the hit path. What the switch says itself is counted as injected and sent through the port that
//! the burst came from, and only so often per second.

use std::sync::Arc;

use super::{Forwarder, Watcher};
use crate::datapath::clock::Now;
use crate::datapath::counters::{Cell, INJECTED_ROW};
use crate::datapath::egress::{TooBig, count_sent};
use crate::datapath::flow::TagOp;
use crate::datapath::router::{self, HeldFragment, Pending, Question};
use crate::datapath::tag;
use crate::frame::{DropReason, Frame};
use crate::io::TxReport;
use crate::snapshot::PortId;
use crate::wire::too_big;

impl Forwarder {
    /// Whether something waits here that no descriptor will tell of: fragments for their first one, or packets for a
    /// neighbour's address.
    #[inline]
    pub(in crate::datapath) fn is_waiting(&self) -> bool {
        self.tx_waits || self.pipeline.router.holds_fragments()
    }

    /// Looks after what waits.
    pub(in crate::datapath) fn settle(&mut self, watcher: &mut dyn Watcher) {
        if std::mem::take(&mut self.tx_waits) {
            let counters = &self.shared.workers[self.number].counters;
            for lane in self.lanes.iter_mut().flatten().filter(|lane| lane.tx.waits()) {
                let mut report = TxReport::default();
                lane.tx.settle(&mut self.pool, &mut report);
                count_sent(counters, lane.entry.id.index(), &report);
                self.tx_waits |= lane.tx.waits();
            }
        }
        self.expire_fragments(watcher);
    }

    /// Does what the router has left to be done: tells senders why, asks for stations, goes on with fragments.
    #[cold]
    pub(super) fn finish_routing(&mut self, port: PortId, now: Now, watcher: &mut dyn Watcher) {
        let Pending { refused, questions, released, given_back, given_up } =
            std::mem::take(&mut self.pipeline.router.pending);
        for refusal in &refused {
            if !self.answers.admit_frame(now.ns) {
                break;
            }
            let Some(mut answer) = self.pool.alloc() else { break };
            let frame = &self.burst[usize::from(refusal.frame)];
            match refusal.write(frame, answer.area_mut(0)) {
                Some(bytes) => {
                    answer.set_len(bytes);
                    self.answer(port, answer);
                }
                None => self.pool.free(answer),
            }
        }
        self.pool.free_all(self.burst.drain(..));
        for held in given_back {
            self.give_back(&held);
        }
        for (HeldFragment { from, incarnation, .. }, reason) in given_up {
            let row = if self.is_same(from, incarnation) { from.index() } else { INJECTED_ROW };
            let counters = &self.shared.workers[self.number].counters;
            counters.add(row, Cell::RxFrames, 1);
            counters.add_drops(row, reason, 1);
        }
        for HeldFragment { from, incarnation, bytes, offload } in released {
            let frame = self.pool.alloc().filter(|_| self.is_same(from, incarnation));
            let Some(mut frame) = frame else {
                let counters = &self.shared.workers[self.number].counters;
                counters.add(INJECTED_ROW, Cell::RxFrames, 1);
                counters.add_drops(INJECTED_ROW, DropReason::PortDetached, 1);
                continue;
            };
            frame.copy_from(&bytes);
            frame.offload = offload;
            self.burst.push(frame);
            self.process_burst(from, from.index(), watcher);
        }
        for Question { bridge, station } in questions {
            let gateway = self.snapshot.bridge(bridge).and_then(|bridge| bridge.gateway.clone());
            let Some((gateway, host)) = gateway.and_then(|gateway| Some((Arc::clone(&gateway), gateway.host?))) else {
                continue;
            };
            // Questions are floods, and nobody may cause more of them than the gateway would answer.
            if self.answers.admit_frame(now.ns)
                && let Some(question) = router::answers::question(&gateway, station)
            {
                self.inject(host, &question, watcher);
            }
        }
    }

    /// Sends a fragment that may be the host's back to where it came from.
    fn give_back(&mut self, held: &HeldFragment) {
        let is_same = self.is_same(held.from, held.incarnation);
        let row = if is_same { held.from.index() } else { INJECTED_ROW };
        let counters = &self.shared.workers[self.number].counters;
        counters.add(row, Cell::RxFrames, 1);
        let lane = self.lanes.get_mut(held.from.index()).and_then(Option::as_mut).filter(|_| is_same);
        let (Some(lane), Some(mut frame)) = (lane, self.pool.alloc()) else {
            counters.add_drops(row, DropReason::PortDetached, 1);
            return;
        };
        frame.copy_from(&held.bytes);
        frame.offload = held.offload;
        lane.send_alone(frame, row, counters, &mut self.pool);
    }

    fn is_same(&self, port: PortId, incarnation: u64) -> bool {
        let lane = self.lanes.get(port.index()).and_then(Option::as_ref);
        lane.is_some_and(|lane| lane.entry.incarnation == incarnation)
    }

    /// Sends what the switch says itself through `port`.
    fn answer(&mut self, port: PortId, answer: Frame) {
        let Some(lane) = self.lanes.get_mut(port.index()).and_then(Option::as_mut) else {
            self.pool.free(answer);
            return;
        };
        let counters = &self.shared.workers[self.number].counters;
        counters.add(INJECTED_ROW, Cell::RxFrames, 1);
        counters.add(INJECTED_ROW, Cell::RxBytes, answer.len() as u64);
        lane.send_alone(answer, port.index(), counters, &mut self.pool);
    }

    /// Drops the fragments that have waited too long.
    fn expire_fragments(&mut self, watcher: &mut dyn Watcher) {
        let now = Now::read();
        self.pipeline.router.expire_fragments(now.s);
        if !self.pipeline.router.pending.is_empty() {
            self.finish_routing(PortId(u16::MAX), now, watcher);
        }
    }

    /// Tells the senders of frames of the burst that were too big, through the port that they came from.
    #[cold]
    pub(super) fn answer_too_big(&mut self, port: PortId, now: Now) {
        for TooBig { frame, tag, packet_bytes, mtu } in self.egress.take_too_big() {
            if !self.answers.admit_frame(now.ns) {
                return;
            }
            let Some(mut answer) = self.pool.alloc() else { return };
            let frame = &self.burst[usize::from(frame)];
            if let Some(bytes) = too_big::too_big(frame.data(), packet_bytes, mtu, answer.area_mut(0)) {
                answer.set_len(bytes);
                answer.tagged = frame.tagged;
                tag::apply(&mut answer, tag.map_or(TagOp::Untag, TagOp::Tag));
                self.answer(port, answer);
            } else {
                self.pool.free(answer);
            }
        }
    }
}
