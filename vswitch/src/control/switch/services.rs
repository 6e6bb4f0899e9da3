//! Publishing ports, and keeping what stands outside of the snapshot in line with what is published.
//!
//! Theory of operation. The desired state says what is published. Three things outside of the snapshot follow from it:
//! the classifier of the shared uplinks, which takes the packets from the host's interface, the reservation
//! against the host's programs, and the connections that began through a published port. They are brought in line by
//! what is *wanted* and what is *there*, whatever the command was, so that every way in which a port comes or goes (a
//! command, its undoing, a namespace that ends, an uplink that is attached anew) is served by the same few lines.
//!
//! The order is that of all commands. What comes: the classifier first, so that no packet that the snapshot has a
//! service for is still the host's, and no program can bind the port any more; then the snapshot, then the store. What
//! goes: the snapshot first, until no worker makes connections any more; the store; then the classifier and the
//! reservation; and last the connections, so that whoever has the address or the port next gets the very next datagram.
//!
//! What is wanted follows from the records alone and not from which ports have an interface: the ports of a container
//! whose interface is gone for a moment are nobody else's meanwhile.

use std::net::IpAddr;

use super::conntrack::Gone;
use super::describe::{describe_publication, describe_publications};
use super::programs::Programs;
use super::taken::{Endpoint, Taken, kernel_addresses, kernel_protocol};
use super::{Switch, netlink_failed};
use crate::api::{self, Flushed, PortRange, Publish, PublishSpec};
use crate::bpf::{Classifier, ClassifierError};
use crate::control::desired::{Desired, PublishView};
use crate::control::host_ports::ephemeral_range;
use crate::control::netlink::{Netlink, NetlinkError};
use crate::control::refusal::{Result, failed, from_sentence, invalid};

/// What was told to whom.
#[derive(Debug, Default)]
pub(super) struct ServicePlane {
    /// What the classifier takes.
    taken: Taken,
    /// What is reserved against the host's programs.
    reserved: Taken,
}

impl Switch {
    /// Publishes ports of the port that `key` names, durably; returns what was asked for, with what was chosen.
    ///
    /// # Errors
    /// What [`Desired::publish`] refuses; the classifier or the store fails. Nothing has changed then.
    pub fn publish_ports(&mut self, bridge: &str, key: &str, request: &Publish) -> Result<Vec<api::Publication>> {
        if request.specs.is_empty() {
            return Err(invalid("nothing to publish was named", "name at least one port, such as 8080:80"));
        }
        let name = self.resolve_port(bridge, key)?;
        let mut next = self.desired.clone();
        let published = self.with_host(|host| next.publish(bridge, &name, &request.specs, &request.from, host))?;
        self.change_services(next)?;
        Ok(published.iter().map(|one| describe_publication(bridge, &name, one)).collect())
    }

    /// Takes back published ports of the port that `key` names; returns how many.
    ///
    /// # Errors
    /// What [`Desired::unpublish`] refuses; the store fails. Nothing has changed then.
    pub fn unpublish_ports(&mut self, bridge: &str, key: &str, specs: &[PublishSpec]) -> Result<Flushed> {
        if specs.is_empty() {
            return Err(invalid("nothing to take back was named", "name at least one port, such as 8080:80"));
        }
        let name = self.resolve_port(bridge, key)?;
        let mut next = self.desired.clone();
        next.unpublish(bridge, &name, specs)?;
        let count = |desired: &Desired| -> usize {
            let port = desired.bridges.get(bridge).and_then(|record| record.ports.get(&name));
            port.map_or(0, |port| port.publications.iter().map(|one| one.host_ports().count()).sum())
        };
        let removed = count(&self.desired).saturating_sub(count(&next));
        self.change_services(next)?;
        Ok(Flushed { removed })
    }

    /// What is published, by one port, by the ports of one bridge, or by all.
    ///
    /// # Errors
    /// There is no such bridge or port, or a port is named without its bridge.
    pub fn publications(&self, bridge: Option<&str>, port: Option<&str>) -> Result<Vec<api::Publication>> {
        let port = match (bridge, port) {
            (Some(bridge), Some(key)) => Some(self.resolve_port(bridge, key)?),
            (None, Some(key)) => {
                return Err(invalid(format!("the port {key:?} was named without its bridge"), "name the bridge, too"));
            }
            (Some(bridge), None) => self.desired.bridge(bridge).map(|_| None)?,
            (None, None) => None,
        };
        let bridges = self.desired.bridges.iter().filter(|(name, _)| bridge.is_none_or(|bridge| bridge == *name));
        let ports = bridges.flat_map(|(name, record)| record.ports.iter().map(move |(port, of)| (name, port, of)));
        let ports = ports.filter(|(_, name, _)| port.as_ref().is_none_or(|port| port == *name));
        Ok(ports.flat_map(|(bridge, name, of)| describe_publications(bridge, name, of)).collect())
    }

    /// Runs `decide` with what decisions about published ports need to know of the host.
    pub(super) fn with_host<T>(&self, decide: impl FnOnce(&PublishView<'_>) -> Result<T>) -> Result<T> {
        let look = || -> std::result::Result<Vec<IpAddr>, NetlinkError> {
            Ok(Netlink::open()?.addrs(None)?.iter().map(|address| address.net.addr()).collect())
        };
        let addresses = look().map_err(|error| netlink_failed("the host's addresses cannot be read", &error))?;
        let ephemeral = ephemeral_range().map_err(|error| {
            failed(format!("the range of ports that the kernel chooses from cannot be read: {error}"), "")
        })?;
        let ephemeral = PortRange { first: (*ephemeral.start()).max(1), last: *ephemeral.end() };
        let programs = Programs::default();
        let in_use = |protocol, host, ports| programs.lowest(protocol, host, ports);
        decide(&PublishView { addresses, ephemeral, in_use: &in_use })
    }

    /// Makes `next`, which differs in what is published, the state.
    pub(super) fn change_services(&mut self, next: Desired) -> Result<()> {
        if next == self.desired {
            return Ok(());
        }
        let gone = Gone::between(&self.desired, &next);
        let outcome = self.take_services(&Taken::by(&next)).and_then(|()| {
            self.publish(&next);
            self.commit(next)
        });
        match outcome {
            Ok(()) => self.release_gone(&gone),
            Err(_) => {
                self.publish(&self.desired);
                self.release_services();
            }
        }
        outcome
    }

    /// Makes the classifier take `wanted`; what else it takes stays.
    ///
    /// # Errors
    /// The kernel refuses, or a tunnel receives there. Everything else is taken then; it is the caller's to have it
    /// taken back, by [`Switch::release_services`].
    pub(super) fn take_services(&mut self, wanted: &Taken) -> Result<()> {
        if !wanted.is_empty() {
            // With the first published port the classifier is loaded.
            self.host_ports()?;
        }
        let Some(classifier) = self.uplinks.classifier() else { return Ok(()) };
        let mut outcome = Ok(());
        let missing: Vec<_> = wanted.without(&self.services.taken).collect();
        for (endpoint, ports) in missing {
            match take(classifier, endpoint, ports) {
                Ok(()) => self.services.taken.insert(endpoint, ports),
                Err(error) => outcome = Err(from_sentence(api::ErrorCode::Conflict, &error)),
            }
        }
        outcome
    }

    /// Leaves to the host and to its programs what the state does not publish, and nothing else.
    pub(super) fn release_services(&mut self) {
        self.release_all_but(Taken::by(&self.desired));
    }

    fn release_all_but(&mut self, wanted: Taken) {
        self.release_taken(&wanted);
        self.reserve(wanted);
    }

    fn release_taken(&mut self, wanted: &Taken) {
        let Some(classifier) = self.uplinks.classifier() else { return };
        let unwanted: Vec<_> = self.services.taken.without(wanted).collect();
        for (endpoint, ports) in unwanted {
            match release(classifier, endpoint, ports) {
                Ok(()) => self.services.taken.remove(endpoint, ports),
                Err(error) => {
                    tracing::warn!(%error, "packets of ports that are not published any more are taken from the host");
                }
            }
        }
    }

    /// Remembers that the host has all its ports again.
    pub(super) fn forget_reserved(&mut self) {
        self.services.reserved = Taken::default();
    }

    /// Makes `wanted` what the kernel does not choose for the host's programs.
    fn reserve(&mut self, wanted: Taken) {
        if wanted == self.services.reserved {
            return;
        }
        let published = wanted.published();
        let reserved = self.host_ports().and_then(|ports| {
            ports.set_published(published).map_err(|error| failed(error.to_string(), "see the daemon's log"))
        });
        match reserved {
            Ok(()) => self.services.reserved = wanted,
            Err(error) => {
                tracing::warn!(error = %error.message, "programs of the host may be given ports that are published");
            }
        }
    }

    /// Gives to the next owner what is gone from the state: ports of the host, and containers' addresses. No worker may
    /// know of it any more.
    pub(super) fn release_gone(&mut self, gone: &Gone) {
        self.release_services();
        self.end_connections(gone);
    }

    /// Brings the classifier in line with what is published: at the start, and when an uplink was attached.
    pub(super) fn program_services(&mut self) {
        let wanted = Taken::by(&self.desired);
        if let Err(error) = self.take_services(&wanted) {
            tracing::error!(error = %error.message, "some published ports cannot be reached from outside");
        }
        self.release_all_but(wanted);
    }
}

fn take(
    classifier: &mut Classifier,
    (protocol, host): Endpoint,
    ports: PortRange,
) -> std::result::Result<(), ClassifierError> {
    classifier.publish_range(kernel_protocol(protocol), kernel_addresses(host), ports.first..=ports.last)
}

fn release(
    classifier: &mut Classifier,
    (protocol, host): Endpoint,
    ports: PortRange,
) -> std::result::Result<(), ClassifierError> {
    classifier.unpublish_range(kernel_protocol(protocol), kernel_addresses(host), ports.first..=ports.last)
}
