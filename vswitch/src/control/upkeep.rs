//! What the switch does on its own: ageing, repeated announcements, another try for what failed,
//! reacting to what the datapath noticed, and moving ports between workers ([`placement`]).
//!
//! All of it goes through [`Service`], one at a time with the commands. The tick costs an idle
//! switch one look per second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::placement::{self, Move, PortKey, PortLoad, Samples, WorkerLoad};
use super::service::Service;
use crate::datapath::clock::now_s;
use crate::datapath::{Datapath, Event};

/// How often databases are aged and announcements repeated.
const TICK: Duration = Duration::from_secs(1);
/// After how many ticks a failed port is tried again.
const RETRY_TICKS: u32 = 3;
/// How long changes of the host are gathered before the uplinks follow them.
const HOST_CHANGES_WAIT: Duration = Duration::from_millis(20);
/// Events that are handled at one time: a thousand namespaces may go at once.
const EVENTS_MAX: usize = 4096;

/// Runs until the task is dropped.
pub async fn tick(service: Service) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count: u32 = 0;
    loop {
        ticks.tick().await;
        service.tick().await;
        count = count.wrapping_add(1);
        if count.is_multiple_of(RETRY_TICKS) {
            // A panic in there was logged by the service.
            let _ = service
                .change(|switch| {
                    if switch.has_failed() {
                        switch.retry_failed();
                    }
                    switch.collect_unclaimed(now_s());
                    Ok(())
                })
                .await;
        }
    }
}

/// Follows the host's interfaces and routes, while an uplink does, until the task is dropped.
pub async fn follow_host(service: Service, mut changes: watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        // What belongs together comes together: a link, its addresses, its routes.
        tokio::time::sleep(HOST_CHANGES_WAIT).await;
        changes.mark_unchanged();
        // A refusal means that the daemon is stopping, and a panic was logged by the service.
        let _ = service
            .change(|switch| {
                switch.follow_uplinks();
                Ok(())
            })
            .await;
    }
}

/// Brings the datapath's events, which a thread has to wait for, to the control plane's runtime.
///
/// # Errors
/// When the kernel grants no thread.
pub fn forward_events(events: Receiver<Event>) -> std::io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    std::thread::Builder::new().name("events".to_owned()).spawn(move || {
        while let Ok(event) = events.recv() {
            if sender.blocking_send(event).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

/// Handles the datapath's events until there are no more.
pub async fn handle_events(service: Service, mut events: mpsc::Receiver<Event>) {
    let mut batch = Vec::new();
    while events.recv_many(&mut batch, EVENTS_MAX).await > 0 {
        let batch = std::mem::take(&mut batch);
        // A refusal means that the daemon is stopping, and a panic was logged by the service.
        let _ = service
            .change(move |switch| {
                let mut gone = Vec::new();
                for event in batch {
                    match event {
                        Event::PortGone { port, incarnation } => gone.push((port, incarnation)),
                        Event::Loop { bridge, mac, vlan, ports } => switch.loop_noticed(bridge, mac, vlan, ports),
                    }
                }
                if !gone.is_empty() {
                    switch.interfaces_gone(&gone);
                }
                Ok(())
            })
            .await;
    }
}

/// Moves ports between workers as their load asks for it, until the task is dropped. A sample reads
/// the workers' own counters; ports are looked at only while a worker is hot.
pub async fn balance(service: Service, datapath: Arc<Datapath>) {
    let mut ticks = interval(placement::SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Samples::default();
    let (mut at, mut counters) = (Instant::now(), datapath.worker_counters());
    let mut ports_before: Option<Vec<PortLoad>> = None;
    loop {
        ticks.tick().await;
        let (now, after) = (Instant::now(), datapath.worker_counters());
        let elapsed = now - at;
        samples.push(counters.iter().zip(&after).map(|(one, two)| WorkerLoad::between(one, two, elapsed)).collect());
        (at, counters) = (now, after);

        let mut moves: Option<(Move, Vec<PortKey>)> = None;
        let before = ports_before.take();
        // A failure was logged by the service; the next sample tries again.
        if samples.may_spread()
            && let Ok(loads) = service.with(|switch| Ok(switch.port_loads())).await
        {
            if let (Some(spread), Some(before)) = (samples.spread(), before) {
                let received = placement::received_between(&before, &loads);
                moves = Some((spread, placement::ports_to_spread(&received, spread)));
            }
            ports_before = Some(loads);
        }
        let spreads = moves.as_ref().is_some_and(|(_, ports)| !ports.is_empty());
        if !spreads
            && let Some(gather) = samples.gather()
            && let Ok(loads) = service.with(|switch| Ok(switch.port_loads())).await
        {
            moves = Some((gather, placement::ports_to_gather(&loads, gather)));
        }
        if let Some((Move { from, to }, ports)) = moves.filter(|(_, ports)| !ports.is_empty()) {
            tracing::debug!(ports = ports.len(), from, to, "ports move to another worker");
            // A refusal means that the daemon is stopping.
            let _ = service
                .change(move |switch| {
                    switch.move_ports(&ports, to);
                    Ok(())
                })
                .await;
            samples.clear();
            ports_before = None;
            // The move itself is not a sample.
            (at, counters) = (Instant::now(), datapath.worker_counters());
        }
    }
}
