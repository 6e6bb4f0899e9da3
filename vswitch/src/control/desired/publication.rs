//! What is published: ranges of ports of the host, and what they lead to.
//!
//! Nothing is left open in a [`PublicationRecord`]: it is one range of one address, or of all addresses of one family. A
//! port that is published at all addresses has a record for each family in which the container has an address. A
//! range is one record however long it is; what is taken out of its middle leaves two.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::api::{PortRange, PublishSpec, Transport};

/// Published ports: each of the host's leads to its counterpart of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicationRecord {
    /// The protocol.
    pub protocol: Transport,
    /// The host's address; unspecified: all of its family.
    pub host: IpAddr,
    /// The host's first port.
    pub first: u16,
    /// The host's last port.
    pub last: u16,
    /// The container's port for `first`; the next ones follow.
    pub target: u16,
    /// The networks that may use it; everybody if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNet>,
}

impl PublicationRecord {
    /// The host's ports.
    #[must_use]
    pub fn host_ports(&self) -> PortRange {
        PortRange { first: self.first, last: self.last }
    }

    /// The container's ports.
    #[must_use]
    pub fn container_ports(&self) -> PortRange {
        PortRange { first: self.target, last: self.target.saturating_add(self.last.saturating_sub(self.first)) }
    }

    /// What means this and nothing else.
    pub(super) fn spec(&self) -> PublishSpec {
        PublishSpec {
            host_ip: Some(self.host),
            host: Some(self.host_ports()),
            container: self.container_ports(),
            protocol: self.protocol,
        }
    }

    /// The host's ports that `spec` means among these; none if it means none of them.
    pub(super) fn meant_by(&self, spec: &PublishSpec) -> Option<PortRange> {
        let host_matches = spec.host_ip.is_none_or(|ip| ip == self.host);
        if spec.protocol != self.protocol || !host_matches {
            return None;
        }
        let container = self.container_ports().intersection(spec.container)?;
        let at = |port: u16| self.first + (port - self.target);
        let by_container = PortRange { first: at(container.first), last: at(container.last) };
        let Some(host) = spec.host else { return Some(by_container) };
        // Ranges of several ports on both sides mean each port and its counterpart.
        let paired =
            spec.container.count() == 1 || i32::from(host.first) - i32::from(spec.container.first) == self.offset();
        by_container.intersection(host).filter(|_| paired)
    }

    fn offset(&self) -> i32 {
        i32::from(self.first) - i32::from(self.target)
    }

    /// What is left of it on both sides when `ports` of the host are taken out.
    pub(super) fn without(self, ports: PortRange) -> impl Iterator<Item = Self> {
        let below = (self.first < ports.first).then(|| Self { last: ports.first - 1, ..self.clone() });
        let above = (self.last > ports.last).then(|| {
            let first = ports.last + 1;
            Self { first, target: self.target + (first - self.first), ..self }
        });
        below.into_iter().chain(above)
    }
}

/// What of `range` is not in `other`.
pub(super) fn difference(range: PortRange, other: PortRange) -> impl Iterator<Item = PortRange> {
    let whole = (!range.overlaps(other)).then_some(range);
    let cut = range.overlaps(other);
    let below = (cut && range.first < other.first).then(|| PortRange { last: other.first - 1, ..range });
    let above = (cut && range.last > other.last).then(|| PortRange { first: other.last + 1, ..range });
    whole.into_iter().chain(below).chain(above)
}
