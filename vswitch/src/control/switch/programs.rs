//! What the host's programs have of its ports, as it is found during one command.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::taken::{Endpoint, kernel_addresses, kernel_protocol};
use crate::api::{PortRange, Transport};
use crate::control::desired::TakenPort;
use crate::control::host_ports::{Use, in_use, ports_in_use};
use crate::control::refusal::{Result, failed};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Programs(RefCell<BTreeMap<Endpoint, BTreeSet<u16>>>);

impl Programs {
    /// The lowest of `ports` that a program has at `host`. The switch's own sockets, which hold ports for it or carry
    /// its tunnels, are known from its state.
    pub(super) fn lowest(&self, protocol: Transport, host: IpAddr, ports: PortRange) -> Result<Option<TakenPort>> {
        let refused = |error: std::io::Error| failed(format!("the sockets of the host cannot be listed: {error}"), "");
        let (kernels, at) = (kernel_protocol(protocol), kernel_addresses(host));
        let mut known = self.0.borrow_mut();
        // Listing sockets takes the kernel a while, however few ports are asked for: that is done once.
        let used = match known.entry((protocol, host)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(ports_in_use(kernels, at).map_err(refused)?),
        };
        let us = std::process::id();
        for &port in used.range(ports.first..=ports.last) {
            let uses = in_use(kernels, at, port..=port).map_err(refused)?;
            let foreign = uses.into_iter().find(|one| one.owner.as_ref().is_none_or(|owner| owner.pid != us));
            if let Some(Use { port, address, owner }) = foreign {
                return Ok(Some(TakenPort { address, port, owner: owner.map(|owner| owner.to_string()) }));
            }
        }
        Ok(None)
    }
}
