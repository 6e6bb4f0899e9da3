//! What decisions about published ports need to know of the host.

use std::net::IpAddr;

use crate::api::{HostPort, PortRange, Transport};
use crate::control::refusal::Result;

/// A port of the host that one of its programs has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenPort {
    /// The address at which it has it; unspecified: all.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The program, where it can be known.
    pub owner: Option<String>,
}

impl TakenPort {
    /// Who uses what, as a sentence.
    pub(super) fn describe(&self, protocol: Transport) -> String {
        let owner = self.owner.as_deref().unwrap_or("the kernel, or a process that cannot be seen,");
        if self.address.is_unspecified() {
            return format!("{owner} uses port {}/{protocol} of the host", self.port);
        }
        format!("{owner} uses {}/{protocol}", HostPort { ip: self.address, ports: PortRange::one(self.port) })
    }
}

/// What decisions about published ports need to know of the host.
pub struct PublishView<'a> {
    /// The host's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports that are chosen from where none is named: those that the kernel chooses from, too.
    pub ephemeral: PortRange,
    /// The lowest of the ports of an address (unspecified: of any of its family) that a program of the host has.
    pub in_use: &'a dyn Fn(Transport, IpAddr, PortRange) -> Result<Option<TakenPort>>,
}

impl std::fmt::Debug for PublishView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishView")
            .field("addresses", &self.addresses)
            .field("ephemeral", &self.ephemeral)
            .finish_non_exhaustive()
    }
}
