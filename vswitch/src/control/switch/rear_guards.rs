//! The rear guards' watch: when it begins, goes on and ends ([`crate::bpf::RearGuard`]).
//!
//! Theory of operation: guards come and go with what they stand behind. They begin to stand when the start is over:
//! connections are restored, services are known, the ways in and out are there. Until then the guards of the daemon
//! before keep from the host what the new one cannot tell yet. Every second they are told to stand another [`WATCH`].
//! An orderly stop leaves them, since the next start is near; a clean-up takes them off.

use std::time::Duration;

use super::Switch;
use crate::bpf::{Classifier, relieve};
use crate::control::uplink::carry::Carry;
use crate::datapath::clock::now_ns;

/// How long the host answers nothing in the place of a daemon that is gone. A restart takes a second, one with a
/// thousand containers several, and a service manager may wait before it tries again.
const WATCH: Duration = Duration::from_secs(60);

impl Switch {
    /// Makes the guards stand from now on for a minute, in the place of those of the daemon before. To be called when
    /// everything is in place, and every second.
    pub fn keep_watch(&mut self) {
        let deadline = Duration::from_nanos(now_ns()) + WATCH;
        if let Some(Err(error)) = self.uplinks.classifier().map(|classifier| classifier.stand_until(deadline)) {
            tracing::warn!(%error, "the host will reset connections while no daemon runs");
        }
        // On an interface that cannot be had now, nobody else stands.
        if self.uplinks.relief_due && !self.uplinks.has_failed() {
            self.uplinks.relief_due = false;
            self.relieve_others();
        }
    }

    /// Ends the watch with the daemon: the guards stay for the next one, or are taken off.
    pub fn end_watch(&mut self, stay: bool) {
        if !stay {
            self.uplinks.carries_mut().for_each(Carry::dismiss_guard);
            self.relieve_others();
            return;
        }
        self.keep_watch();
        if let Some(classifier) = self.uplinks.classifier() {
            classifier.leave_guards();
        }
    }

    fn relieve_others(&mut self) {
        let owner = self.uplinks.owner();
        match relieve(owner, self.uplinks.classifier().map(|classifier: &mut Classifier| &*classifier)) {
            Ok(removed) => tracing::debug!(removed, "the rear guards of an earlier start are removed"),
            Err(error) => {
                tracing::warn!(%error, "a filter of an earlier start stays on an interface, and passes everything");
            }
        }
    }
}
