//! Counters: what passed, what was dropped and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GatewayStats, NeighbourStats, TunnelStats, UnderlayStats};

/// Counters of a port, summed over the workers or of one worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Frames received from the port (a super-frame counts once).
    pub rx_frames: u64,
    /// Bytes received from the port.
    pub rx_bytes: u64,
    /// Frames delivered to the port.
    pub tx_frames: u64,
    /// Bytes delivered to the port.
    pub tx_bytes: u64,
    /// Extra copies that flooding made of frames received here (deliveries less one).
    pub flood_copies: u64,
    /// Extra frames that segmentation made on the way out of this port.
    pub segments: u64,
    /// Frames that were merged into a neighbour on the way out of this port.
    pub coalesced: u64,
    /// Dropped frames by named reason: on the port that received them, or, for reasons found at
    /// egress, on the port that they were for.
    pub drops: BTreeMap<String, u64>,
}

/// Counters of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortStats {
    /// The port; the bridge's own name for the host.
    pub port: String,
    /// The bridge.
    pub bridge: String,
    /// The sum over all workers.
    pub total: Counters,
    /// Each worker's share, by the worker's number; workers that never touched the port are absent.
    pub workers: BTreeMap<usize, Counters>,
    /// Frames that the kernel dropped because the switch did not take them in time (`tx_dropped` of
    /// the interface); absent where the namespace could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_tx_dropped: Option<u64>,
    /// Frames that the kernel dropped after the switch delivered them (`rx_dropped` of the interface).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_rx_dropped: Option<u64>,
}

/// Counters of one worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerStats {
    /// The worker's number.
    pub worker: usize,
    /// Frames that the flow cache decided.
    pub cache_hits: u64,
    /// Frames that had to be resolved.
    pub cache_misses: u64,
    /// Bursts processed.
    pub bursts: u64,
    /// Times that the worker went to sleep in the kernel.
    pub sleeps: u64,
    /// Frames of the worker's pool that are in use now.
    pub frames_outstanding: u64,
    /// Frames of the worker's pool.
    pub frames_total: u64,
    /// The ports that the worker reads.
    pub ports: usize,
}

/// Whether every frame is accounted for: `received + copies + segments = sent + coalesced + dropped`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Balance {
    /// Frames received from all ports, and injected by the switch itself.
    pub received: u64,
    /// Extra frames made by flooding.
    pub copies: u64,
    /// Extra frames made by segmentation.
    pub segments: u64,
    /// Frames merged into a neighbour.
    pub coalesced: u64,
    /// Frames delivered.
    pub sent: u64,
    /// Frames dropped, all reasons.
    pub dropped: u64,
    /// `received + copies + segments - sent - coalesced - dropped`: zero at rest.
    pub unexplained: i64,
}

/// The answer of `GET /v1/stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// The asked-for ports.
    pub ports: Vec<PortStats>,
    /// The asked-for tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<TunnelStats>,
    /// What carries those tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub underlays: Vec<UnderlayStats>,
    /// Answers in the name of stations behind those tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<NeighbourStats>,
    /// All workers.
    pub workers: Vec<WorkerStats>,
    /// The gateway's connections, of all bridges.
    #[serde(default)]
    pub gateway: GatewayStats,
    /// The accounting of the whole switch, ports that are gone included.
    pub balance: Balance,
    /// What the switch dropped since it started, by reason, ports that are gone included.
    pub drops: BTreeMap<String, u64>,
}
