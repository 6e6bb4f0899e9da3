//! The connections that pass the gateway, in the control protocol.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most connections of one [`ConnectionPage`]: about 1.5 MB of JSON.
pub const CONNECTION_PAGE_MAX: usize = 4096;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tuple {
    /// Who sends.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// The sender's port. The echoes of ICMP have their identifier here in a request, and in `destination_port` in a
    /// reply; what has neither has 0.
    pub source_port: u16,
    /// Who is sent to.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// The receiver's port.
    pub destination_port: u16,
}

/// Where an end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionEnd {
    /// A container of this host.
    Container,
    /// Another machine.
    Outside,
    /// A program of this host.
    Host,
}

/// A connection that passes the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or the IP protocol's number.
    pub protocol: String,
    /// What it has come to: `ESTABLISHED`, `SYN_SENT`, `UNREPLIED`, …
    pub state: String,
    /// The bridge of the container whose connection it is; absent where the bridge is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The container whose connection it is.
    #[schema(value_type = String)]
    pub container: IpAddr,
    /// What its initiator sends.
    pub original: Tuple,
    /// What the answers are before they are translated back.
    pub reply: Tuple,
    /// Where its initiator is.
    pub origin: ConnectionEnd,
    /// Where its responder is.
    pub responder: ConnectionEnd,
    /// Seconds until it is forgotten unless something passes.
    pub timeout_s: u32,
}

/// The answer of `GET /v1/conntrack`: some connections, and where the others are.
///
/// Connections that are made or end while pages are asked for may be on one of them or not; one that stays is on
/// exactly one page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionPage {
    /// The connections, in no order. There may be none although this is not the last page.
    pub connections: Vec<Connection>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// What the gateway has to do, and what it refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayStats {
    /// Connections now, those included whose time has just run out.
    pub connections: u32,
    /// External ports that connections use now.
    pub mappings: u32,
    /// External ports that are kept from others for a while after their use.
    pub held: u32,
    /// Connections that were refused since the start, by reason.
    pub refused: std::collections::BTreeMap<String, u64>,
}
