//! Lending ports: the interface is made in the host's namespace, and somebody else moves it into a container and
//! configures it, as Docker does with what a network driver names.
//!
//! To the datapath a lent port is as any other, and it is from the start: what is made here carries packets from the
//! moment that the borrower brings it up, wherever that is, and nobody tells us. So a lent port is *unclaimed* until it
//! is seen up in another namespace, and is looked for once a second; what is seen goes into its record, and its
//! addresses are announced once more. After that nobody looks until there is a reason.
//!
//! A lent port ends when whoever lent it takes it back ([`Switch::remove_port`]), or when its interface ends, with
//! the container's namespace or by somebody's hand. One that is given back to the host's namespace is kept there. One that
//! nobody ever came for is kept, too, as long as the namespace that it is for exists; without that, for
//! [`UNCLAIMED_S`]: the borrower may have died in between, and who knows whether it comes back to clean up.

use std::collections::BTreeSet;

use super::Switch;
use super::identity::{self, Lookup};
use super::ports::netns_refused;
use crate::api::{Port, PortSpec};
use crate::control::desired::{Desired, FoundInterface, PortRecord, PortTarget};
use crate::control::netns::{Netns, NetnsRef};
use crate::control::refusal::{Result, conflict, failed};
use crate::datapath::clock::now_s;
use crate::snapshot::PortId;
use crate::wire::MacAddr;

/// How long a lent interface waits in the host's namespace for a container whose namespace does not exist. Docker
/// moves it within a second, unless the machine is in trouble.
pub(super) const UNCLAIMED_S: u32 = 300;

/// An interface to be borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent {
    /// Its name in the host's namespace, which it has to have again when it is given back.
    pub ifname: String,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// A lent port whose interface nobody has brought up yet.
#[derive(Debug)]
pub(super) struct Unclaimed {
    id: PortId,
    incarnation: u64,
    /// When it was lent, in seconds of the datapath's clock.
    since_s: u32,
    /// Whether the namespace that it is for was missing at the last look.
    netns_missing: bool,
}

impl Switch {
    /// Makes a port's interface in the host's namespace, carrying and durable; whoever borrows it moves and
    /// configures it. `spec.netns` is the path that the container's namespace will have, which need not exist yet; the
    /// interface's name there and `spec.default_route` are the borrower's affair.
    ///
    /// # Errors
    /// As [`Switch::add_port`]. Nothing has changed then.
    pub fn lend_port(&mut self, bridge: &str, spec: &PortSpec) -> Result<Lent> {
        self.lend_port_with(bridge, spec, |_, _| Ok(()))
    }

    /// As [`Switch::lend_port`], with something else that becomes part of the state with the port, at once or not at
    /// all: `note` gets the state with the port, and the port's name.
    ///
    /// # Errors
    /// As [`Switch::lend_port`], or what `note` refuses.
    pub fn lend_port_with(
        &mut self,
        bridge: &str,
        spec: &PortSpec,
        note: impl FnOnce(&mut Desired, &str) -> Result<()>,
    ) -> Result<Lent> {
        self.desired.bridge(bridge)?;
        let (host, target) = self.lent_target(spec)?;
        let mut next = self.desired.clone();
        let name = next.lend_port(bridge, spec, &target)?;
        self.publish_new(&mut next, bridge, &name, spec)?;
        note(&mut next, &name)?;
        let record = next.bridge(bridge)?;
        let mac = record.ports[&name].mac;
        let opener = self.xdp_opener(bridge)?;
        let opened = self.port_interface(bridge, record, &name).create_in(&host, &opener)?;
        let found = opened.found();
        let ifname = found.ifname.clone();
        next.note_interface(bridge, &name, found);
        self.carry(bridge, &name, opened.link, next)?;
        // Early, so that who knows the address under another Ethernet address is corrected before the first packet.
        self.announce(bridge, &name);
        Ok(Lent { ifname, mac })
    }

    /// The host's namespace, open, and what decisions need to know of it and of the one that `spec` names.
    fn lent_target(&self, spec: &PortSpec) -> Result<(Netns, PortTarget)> {
        let reference: NetnsRef = spec.netns.parse().map_err(|error| netns_refused(&error))?;
        if Netns::open(&reference).is_ok_and(|netns| netns.id() == self.host) {
            return Err(conflict(
                format!("{reference} is the host's own namespace, which is on each bridge by the bridge's interface"),
                "name a container's namespace",
            ));
        }
        let host = Netns::current()
            .map_err(|error| failed(format!("the daemon's own network namespace cannot be opened: {error}"), ""))?;
        let cookie = identity::cookie(&host).map_err(|error| super::interface::enter_error(&error))?;
        let random = super::random_tail()?;
        let target = PortTarget { netns: reference, id: self.host, cookie, owner: self.owner, random };
        Ok((host, target))
    }

    /// Whether some bridge is a network of Docker's, so that its name and its containers' are another one's to know.
    #[must_use]
    pub fn serves_docker(&self) -> bool {
        self.desired.bridges.values().any(|record| record.docker.is_some())
    }

    /// The lent port of `bridge` that is one of `ports`, if that is one and nothing else of the bridge is called `key`.
    #[must_use]
    pub fn lent_among(&self, bridge: &str, key: &str, ports: &BTreeSet<String>) -> Option<String> {
        let record = self.desired.bridges.get(bridge)?;
        if key == bridge || record.tunnels.contains_key(key) || record.uplinks.contains_key(key) {
            return None;
        }
        let is_lent = |name: &&String| record.ports.get(*name).is_some_and(|port| port.lent.is_some());
        let mut candidates = ports.iter().filter(is_lent);
        let only = candidates.next()?;
        (candidates.next().is_none() && self.resolve_port(bridge, key).is_err()).then(|| only.clone())
    }

    /// Detaches the port that `key` names, as a person asks for it: a lent port only with `force`, because whoever
    /// borrowed it goes on to believe in it.
    ///
    /// # Errors
    /// As [`Switch::remove_port`], or the port is lent.
    pub fn detach_port(&mut self, bridge: &str, key: &str, force: bool) -> Result<()> {
        let name = self.resolve_port(bridge, key)?;
        if !force && self.record(bridge, &name).is_some_and(|(_, port)| port.lent.is_some()) {
            return Err(conflict(
                format!(
                    "the port {name:?} of bridge {bridge:?} was made for Docker, which would not hear that it is gone"
                ),
                "disconnect the container with `docker network disconnect`, or repeat the command with --force",
            ));
        }
        self.remove_port(bridge, &name)
    }

    /// Notes that the interface of a lent port is to be looked for, if it was last seen in the host's namespace.
    pub(super) fn await_borrower(&mut self, bridge: &str, name: &str, port: &PortRecord) {
        if port.netns_id != self.host {
            return;
        }
        let Some(live) = self.live_port(bridge, name) else { return };
        let (id, incarnation) = (live.id, live.incarnation);
        self.unclaimed.push(Unclaimed { id, incarnation, since_s: now_s(), netns_missing: false });
    }

    /// As [`Switch::ports`], with what became of those that were unclaimed a moment ago: whoever borrows one says that it
    /// is done, but not to us.
    ///
    /// # Errors
    /// There is no such bridge.
    pub fn found_ports(&mut self, bridge: Option<&str>) -> Result<Vec<Port>> {
        self.follow_lent(now_s());
        self.ports(bridge)
    }

    /// Looks for the interfaces of unclaimed ports, at `now_s`.
    pub fn follow_lent(&mut self, now_s: u32) {
        if self.unclaimed.is_empty() {
            return;
        }
        let lookup = Lookup::default();
        let mut next = self.desired.clone();
        let mut came = Vec::new();
        let mut unclaimed = std::mem::take(&mut self.unclaimed);
        unclaimed.retain_mut(|one| {
            let Some((bridge, name)) = self.live.find(one.id, one.incarnation) else { return false };
            let Some((_, port)) = self.record(&bridge, &name) else { return false };
            let is_early = now_s.saturating_sub(one.since_s) < UNCLAIMED_S;
            let Some((netns, link)) = port.lent.as_ref().and_then(|lent| lookup.find_lent(port, lent)) else {
                // It is about to be reported as gone, by the datapath; or it is where nobody told us of.
                return is_early;
            };
            one.netns_missing = netns.id() == self.host && Netns::open(&port.netns).is_err();
            if netns.id() == self.host {
                return true;
            }
            let cookie = identity::cookie(&netns).ok().flatten();
            let found = FoundInterface {
                ifname: link.name,
                ifindex: Some(link.index),
                lo_raised: false,
                host_end: None,
                netns: Some((netns.id(), cookie)),
            };
            next.note_interface(&bridge, &name, found);
            if link.up {
                came.push((bridge, name));
            }
            // Whoever has moved it and does not bring it up within that time has other plans.
            !link.up && is_early
        });
        self.unclaimed = unclaimed;
        if next != self.desired
            && let Err(error) = self.commit(next.clone())
        {
            // It is found again without.
            tracing::warn!(error = %error.message, "where lent interfaces are is not in the state file for now");
            self.desired = next;
        }
        for (bridge, name) in came {
            self.announce(&bridge, &name);
        }
    }

    /// Drops the ports that nobody came for.
    pub fn collect_unclaimed(&mut self, now_s: u32) {
        let overdue =
            self.unclaimed.iter().filter(|one| one.netns_missing && now_s.saturating_sub(one.since_s) >= UNCLAIMED_S);
        let ports: Vec<_> = overdue.filter_map(|one| self.live.find(one.id, one.incarnation)).collect();
        for (bridge, port) in &ports {
            tracing::warn!(%bridge, %port, "nobody came for the interface of a port, and there is no such container");
        }
        self.drop_ports(&ports);
    }
}
