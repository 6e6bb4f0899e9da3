//! The control protocol's types: what travels as JSON over the daemon's unix socket.
//!
//! This module imports no other module of the switch, so that a client needs nothing but these
//! types. Unknown fields in requests are refused: a misspelt option must not be silently ignored.
//! The OpenAPI document that the daemon serves is generated from these types.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/ping` | | [`Pong`] |
//! | `GET /v1/version` | | [`Version`] |
//! | `GET /v1/openapi.json` | | the OpenAPI document |
//! | `GET /v1/bridges` | | `[`[`Bridge`]`]` |
//! | `POST /v1/bridges` | [`BridgeSpec`] | [`Bridge`] |
//! | `GET /v1/bridges/{bridge}` | | [`Bridge`] |
//! | `PATCH /v1/bridges/{bridge}` | [`BridgeChange`] | [`Bridge`] |
//! | `DELETE /v1/bridges/{bridge}?force=true` | | 204 |
//! | `GET /v1/ports` | | `[`[`Port`]`]` |
//! | `GET /v1/bridges/{bridge}/ports` | | `[`[`Port`]`]` |
//! | `POST /v1/bridges/{bridge}/ports` | [`PortSpec`] | [`Port`] |
//! | `DELETE /v1/bridges/{bridge}/ports/{port}` | | 204 |
//! | `GET /v1/publications?bridge=NAME&port=NAME` | | `[`[`Publication`]`]` |
//! | `POST /v1/bridges/{bridge}/ports/{port}/publications` | [`Publish`] | `[`[`Publication`]`]` |
//! | `DELETE /v1/bridges/{bridge}/ports/{port}/publications?specs=SPEC,SPEC` | | [`Flushed`] |
//! | `GET /v1/vxlans` | | `[`[`Vxlan`]`]` |
//! | `GET /v1/bridges/{bridge}/vxlans` | | `[`[`Vxlan`]`]` |
//! | `POST /v1/bridges/{bridge}/vxlans` | [`VxlanSpec`] | [`Vxlan`] |
//! | `DELETE /v1/bridges/{bridge}/vxlans/{tunnel}` | | 204 |
//! | `POST /v1/bridges/{bridge}/vxlans/{tunnel}/remotes` | [`RemoteSpec`] | [`Vxlan`] |
//! | `DELETE /v1/bridges/{bridge}/vxlans/{tunnel}/remotes/{ip}` | | [`Vxlan`] |
//! | `POST /v1/bridges/{bridge}/uplinks` | [`UplinkSpec`] | [`Uplink`] |
//! | `DELETE /v1/bridges/{bridge}/uplinks/{interface}` | | 204 |
//! | `GET /v1/uplinks` | | [`Uplinks`] |
//! | `GET /v1/bridges/{bridge}/fdb` | | `[`[`FdbEntry`]`]` |
//! | `POST /v1/bridges/{bridge}/fdb` | [`FdbStatic`] | [`FdbEntry`] |
//! | `DELETE /v1/bridges/{bridge}/fdb/{mac}?vlan=N` | | [`Flushed`] |
//! | `DELETE /v1/bridges/{bridge}/fdb?port=NAME` | | [`Flushed`] |
//! | `GET /v1/conntrack?bridge=NAME&cursor=N` | | [`ConnectionPage`] |
//! | `DELETE /v1/conntrack?bridge=NAME` | | [`Flushed`] |
//! | `GET /v1/stats?bridge=NAME&port=NAME` | | [`Stats`] |
//! | `POST /v1/shutdown` | [`Shutdown`] | 202 |
//!
//! A refused request is answered with a 4xx or 5xx status and an [`Error`]; it changed nothing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod bridge;
mod conntrack;
mod fdb;
mod overlay;
mod port;
mod publish;
mod stats;
mod uplink;

pub use bridge::{Bridge, BridgeChange, BridgeSpec, Reservation};
pub use conntrack::{CONNECTION_PAGE_MAX, Connection, ConnectionEnd, ConnectionPage, GatewayStats, Tuple};
pub use fdb::{FdbEntry, FdbKind, FdbStatic};
pub use overlay::*;
pub use port::{Port, PortSpec, PortState, PortType, XdpMode, XdpStatus};
pub use publish::{
    ExposeSpec, HostPort, PortRange, Publication, Publish, PublishSpec, SpecError, Transport, any_address,
};
pub use stats::{Balance, Counters, PortStats, Stats, WorkerStats};
pub use uplink::{SharedUplink, Uplink, UplinkCarry, UplinkSpec, UplinkState, Uplinks};

/// The largest request body that the daemon reads, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The version of this protocol, in [`Version::api`]; grows with every incompatible change.
pub const API_VERSION: u32 = 1;

/// Why a request was refused: one sentence for a person, one word for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Error {
    /// The kind of refusal.
    pub code: ErrorCode,
    /// What was refused and why, naming the object.
    pub message: String,
    /// What to do about it; may be empty where there is nothing to add.
    #[serde(default)]
    pub remedy: String,
}

/// The kinds of refusal. A program may match on these; they only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request could not be understood, or a value is out of its range (400).
    Invalid,
    /// The caller may not use the socket (403).
    Forbidden,
    /// The named object does not exist (404).
    NotFound,
    /// The name, the address or the interface is taken, or the object is in use (409).
    Conflict,
    /// A limit was reached (429).
    Limit,
    /// The request body is larger than [`REQUEST_BYTES_MAX`] (413).
    TooLarge,
    /// The kernel refused something, or the daemon failed (500).
    Failed,
    /// The daemon is stopping (503).
    Stopping,
}

/// The answer of `GET /v1/ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pong {
    /// The daemon's process id.
    pub pid: u32,
}

/// The answer of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// The version of this protocol; grows with every incompatible change.
    pub api: u32,
    /// The daemon's process id.
    pub pid: u32,
    /// The number of datapath threads.
    pub workers: usize,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
}

/// How many entries were removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// The number of entries removed.
    pub removed: usize,
}

/// The body of `POST /v1/shutdown`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// Also remove every interface that the switch made; the configuration is kept.
    #[serde(default)]
    pub cleanup: bool,
}
