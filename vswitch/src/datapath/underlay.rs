//! The underlays that a worker reads: where tunnel packets become frames of many ports.

use std::sync::Arc;

use super::forwarder::Watcher;
use crate::frame::{BURST_FRAMES_MAX, Pool};
use crate::io::{Arrivals, RxStatus, UnderlayReport, UnderlayRx};
use crate::snapshot::{PortId, UnderlayEntry};

/// One underlay that is read here.
struct Lane {
    entry: Arc<UnderlayEntry>,
    rx: Option<Box<dyn UnderlayRx>>,
}

/// See the module's documentation. There are few: a list is searched.
#[derive(Default)]
pub(super) struct Underlays {
    lanes: Vec<Lane>,
    /// Scratch space of the forwarder.
    pub(super) arrivals: Arrivals,
}

impl Underlays {
    /// Whether the underlay is read here.
    #[inline]
    pub(super) fn reads(&self, id: PortId) -> bool {
        self.lanes.iter().any(|lane| lane.entry.id == id && lane.rx.is_some())
    }

    /// How many underlays are read here.
    pub(super) fn len(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.rx.is_some()).count()
    }

    /// Receives from an underlay.
    pub(super) fn recv(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        arrivals: &mut Arrivals,
        bytes_max: usize,
        report: &mut UnderlayReport,
    ) -> RxStatus {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.entry.id == id) else { return RxStatus::Drained };
        let Some(rx) = &mut lane.rx else { return RxStatus::Drained };
        arrivals.routed = lane.entry.routed;
        rx.recv(pool, &lane.entry.tunnels, arrivals, BURST_FRAMES_MAX, bytes_max, report)
    }

    /// Stops reading an underlay that is gone.
    pub(super) fn close(&mut self, id: PortId, pool: &mut Pool, watcher: &mut dyn Watcher) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.entry.id == id) {
            lane.close(pool, watcher);
        }
    }

    /// Takes over the underlays of a newer snapshot.
    pub(super) fn adopt(
        &mut self,
        wanted: &[Arc<UnderlayEntry>],
        number: usize,
        pool: &mut Pool,
        watcher: &mut dyn Watcher,
    ) {
        let is_ours = |entry: &UnderlayEntry| entry.reader.is_some_and(|reader| usize::from(reader) == number);
        self.lanes.retain_mut(|lane| {
            match wanted.iter().find(|entry| entry.incarnation == lane.entry.incarnation && is_ours(entry)) {
                Some(entry) => {
                    lane.entry = Arc::clone(entry);
                    true
                }
                None => {
                    lane.close(pool, watcher);
                    false
                }
            }
        });
        for entry in wanted.iter().filter(|entry| is_ours(entry)) {
            if self.lanes.iter().any(|lane| lane.entry.incarnation == entry.incarnation) {
                continue;
            }
            let opened = entry.device.open_rx(pool).and_then(|rx| {
                watcher.opened(entry.id, rx.event_fd())?;
                Ok(rx)
            });
            match opened {
                Ok(rx) => self.lanes.push(Lane { entry: Arc::clone(entry), rx: Some(rx) }),
                Err(error) => tracing::error!(underlay = entry.name, %error, "cannot read the underlay"),
            }
        }
    }
}

impl Lane {
    fn close(&mut self, pool: &mut Pool, watcher: &mut dyn Watcher) {
        if let Some(mut rx) = self.rx.take() {
            watcher.closed(self.entry.id, rx.event_fd());
            rx.close(pool);
        }
    }
}
