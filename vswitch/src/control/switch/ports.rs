//! Attaching and detaching ports.

use std::sync::Arc;

use super::conntrack::Gone;
use super::identity::Lookup;
use super::interface::{self, Opened};
use super::live::{Attachment, LivePort, port_entry, untagged_vlan};
use super::port_link::PortLink;
use super::taken::Taken;
use super::{Switch, host_interface, identity, random_tail};
use crate::api::{ErrorCode, Port, PortSpec};
use crate::control::desired::{BridgeRecord, Desired, PortTarget};
use crate::control::netns::{Netns, NetnsError, NetnsRef};
use crate::control::refusal::{Result, conflict, failed, from_sentence};
use crate::datapath::clock::now_s;
use crate::datapath::fdb::Fdb;

impl Switch {
    /// Attaches a port: an interface in a namespace, carrying packets, durable.
    ///
    /// # Errors
    /// What [`Desired::add_port`] refuses; the namespace or the interface cannot be had; the state
    /// cannot be stored. Nothing has changed then.
    pub fn add_port(&mut self, bridge: &str, spec: &PortSpec) -> Result<Port> {
        self.desired.bridge(bridge)?;
        let (netns, target) = self.target(spec)?;
        let mut next = self.desired.clone();
        let name = next.add_port(bridge, spec, &target)?;
        self.publish_new(&mut next, bridge, &name, spec)?;
        let record = next.bridge(bridge)?;
        let opener = self.xdp_opener(bridge)?;
        let opened = self.port_interface(bridge, record, &name).create_in(&netns, &opener)?;
        next.note_interface(bridge, &name, opened.found());
        let Opened { link, changes, .. } = opened;
        let outcome = self.carry(bridge, &name, link, next);
        if outcome.is_err() && changes.lo_raised {
            interface::lower_lo(&netns);
        }
        drop(netns);
        outcome?;
        self.announce(bridge, &name);
        self.describe_port(bridge, &name)
    }

    /// Publishes what `spec` asks for of a new port of `next`.
    pub(super) fn publish_new(&self, next: &mut Desired, bridge: &str, name: &str, spec: &PortSpec) -> Result<()> {
        if spec.publish.is_empty() && !spec.publish_all {
            return Ok(());
        }
        self.with_host(|host| {
            next.publish(bridge, name, &spec.publish, &[], host)?;
            if spec.publish_all {
                next.publish_exposed(bridge, name, host)?;
            }
            Ok(())
        })
    }

    /// Makes a port of `next` carry packets, `next` the state and `link` durable; or nothing of it.
    pub(super) fn carry(&mut self, bridge: &str, name: &str, link: PortLink, next: Desired) -> Result<()> {
        let taken = self.take_services(&Taken::by(&next));
        if let Err(error) = taken.and_then(|()| self.attach(&next, bridge, name, link.clone())) {
            self.release_services();
            return Err(error);
        }
        self.publish(&next);
        let before = self.desired.clone();
        if let Err(error) = self.commit(next) {
            self.withdraw(bridge, name);
            return Err(error);
        }
        if let Err(error) = link.set_persistent(true) {
            // Between the store and now somebody removed the interface.
            drop(link);
            self.revert(before);
            self.withdraw(bridge, name);
            return Err(failed(
                format!("the interface of port {name:?} went away while it was attached: {error}"),
                "see who removes interfaces in that namespace, and repeat the command",
            ));
        }
        if let Ok(record) = self.desired.bridge(bridge) {
            self.introduce(record, bridge, name);
        }
        Ok(())
    }

    /// The namespace that `spec` names, open, and what decisions need to know of it.
    fn target(&self, spec: &PortSpec) -> Result<(Netns, PortTarget)> {
        let reference: NetnsRef = spec.netns.parse().map_err(|error| netns_refused(&error))?;
        let netns = Netns::open(&reference).map_err(|error| netns_refused(&error))?;
        if netns.id() == self.host {
            return Err(conflict(
                format!("{reference} is the host's own namespace, which is on each bridge by the bridge's interface"),
                "name a container's namespace",
            ));
        }
        let cookie = identity::cookie(&netns).map_err(|error| super::interface::enter_error(&error))?;
        let target = PortTarget { netns: reference, id: netns.id(), cookie, owner: self.owner, random: random_tail()? };
        Ok((netns, target))
    }

    /// Makes a port of `next` live, with an open interface. The caller publishes.
    pub(super) fn attach(&mut self, next: &Desired, bridge: &str, name: &str, link: PortLink) -> Result<()> {
        let ids = self.new_port_id()?;
        let record = next.bridge(bridge)?;
        let port = &record.ports[name];
        let workers = self.datapath.workers();
        let live = self.live_bridge_mut(bridge)?;
        let entry = port_entry(ids, name, (live.id, record), port, &link, workers);
        let attachment = Attachment { entry: Arc::new(entry), link };
        live.ports.insert(name.to_owned(), LivePort { id: ids.0, incarnation: ids.1, attachment: Ok(attachment) });
        self.watch_changed = true;
        if port.lent.is_some() {
            self.await_borrower(bridge, name, port);
        }
        Ok(())
    }

    /// Tells the forwarding database of a live port what is known of it. Apart from attaching it,
    /// because what this replaces could not be put back if the command failed later.
    pub(super) fn introduce(&self, record: &BridgeRecord, bridge: &str, name: &str) {
        let Some(live) = self.live.bridges.get(bridge) else { return };
        let Some((port, id)) = record.ports.get(name).zip(live.ports.get(name).map(|port| port.id)) else { return };
        if let Some(vlan) = untagged_vlan(port) {
            // What is sent to it is not flooded even if it is silent, and what an earlier owner of
            // the address left behind is corrected.
            live.fdb.remove(port.mac.0, Some(vlan));
            live.fdb.learn(port.mac.0, vlan, id, now_s());
        }
        for entry in record.statics.iter().filter(|entry| entry.port == name) {
            live.fdb.insert_static(entry.mac.0, entry.vlan, id, now_s());
        }
    }

    /// Takes a port that is not in the state out of the datapath again, and its interface with it.
    fn withdraw(&mut self, bridge: &str, name: &str) {
        let Some(live) = self.live.bridges.get_mut(bridge) else { return };
        let fdb = Arc::clone(&live.fdb);
        let port = live.ports.remove(name);
        self.publish(&self.desired);
        self.release_services();
        self.forget(port.map(|port| (Some(fdb), port)));
        self.watch_changed = true;
    }

    /// Detaches the port that `key` names (a port, an alias or a namespace), and removes its interface.
    ///
    /// # Errors
    /// There is no such port, or the state cannot be stored. The port is then as it was.
    pub fn remove_port(&mut self, bridge: &str, key: &str) -> Result<()> {
        let key = self.resolve_port(bridge, key)?;
        let mut next = self.desired.clone();
        let name = next.remove_port(bridge, &key)?;
        let live = self.live_bridge_mut(bridge)?;
        let fdb = Arc::clone(&live.fdb);
        let ports: Vec<_> = live.ports.remove_entry(&name).into_iter().collect();
        self.take_down(bridge, next, ports, &fdb)
    }

    /// The name of the port that `key` names. One namespace has many names (`web`, `/run/netns/web`,
    /// `pid:N`): where no port was attached by this one, what it leads to decides.
    pub(super) fn resolve_port(&self, bridge: &str, key: &str) -> Result<String> {
        let record = self.desired.bridge(bridge)?;
        record.find_port(bridge, key).map(str::to_owned).or_else(|error| {
            if error.code != ErrorCode::NotFound {
                return Err(error);
            }
            let netns = key.parse().ok().and_then(|reference: NetnsRef| Netns::open(&reference).ok());
            let Some(netns) = netns else { return Err(error) };
            let cookie = identity::cookie(&netns).ok().flatten();
            record.find_port_in(bridge, key, netns.id(), cookie).map(str::to_owned)
        })
    }

    /// Removes `ports`, which are out of the live bridge already, makes `next` the state and lets
    /// the interfaces go; or puts everything back.
    pub(super) fn take_down(
        &mut self,
        bridge: &str,
        next: Desired,
        ports: Vec<(String, LivePort)>,
        fdb: &Arc<Fdb>,
    ) -> Result<()> {
        let before = self.desired.bridge(bridge)?.clone();
        let gone = Gone::between(&self.desired, &next);
        for (name, port) in &ports {
            set_persistent(name, port, false);
        }
        self.publish(&next);
        if let Err(error) = self.commit(next) {
            for (name, port) in ports {
                set_persistent(&name, &port, true);
                if let Some(live) = self.live.bridges.get_mut(bridge) {
                    live.ports.insert(name, port);
                }
            }
            self.publish(&self.desired);
            return Err(error);
        }
        self.release_gone(&gone);
        self.discard_failed(bridge, &before, ports.iter().map(|(name, port)| (name.as_str(), port)));
        self.forget(ports.into_iter().map(|(_, port)| (Some(Arc::clone(fdb)), port)));
        self.watch_changed = true;
        Ok(())
    }

    /// Removes the interfaces of the failed ones among `ports`: nobody has them open, so that they
    /// stay where nobody sees to it. The host's port has the bridge's name.
    pub(super) fn discard_failed<'a>(
        &self,
        bridge: &str,
        record: &BridgeRecord,
        ports: impl IntoIterator<Item = (&'a str, &'a LivePort)>,
    ) {
        let lookup = Lookup::default();
        for (name, _) in ports.into_iter().filter(|(_, port)| port.attachment.is_err()) {
            let discarded = if name == bridge {
                host_interface(bridge, record).map(|interface| interface.discard_here())
            } else {
                record
                    .ports
                    .get(name)
                    .map(|port| self.port_interface(bridge, record, name).discard_in(|| lookup.open(port)))
            };
            if let Some(Err(error)) = discarded {
                tracing::warn!(bridge, port = name, %error, "the interface of a failed port may be left behind");
            }
        }
    }
}

/// Says whether a port's interface outlives its descriptor. An interface that is gone has no
/// choice, and is no reason to stop.
pub(super) fn set_persistent(name: &str, port: &LivePort, on: bool) {
    if let Some(link) = port.link()
        && let Err(error) = link.set_persistent(on)
    {
        tracing::debug!(port = name, %error, "the interface is gone already");
    }
}

pub(super) fn netns_refused(error: &NetnsError) -> crate::api::Error {
    let code = match error {
        NetnsError::Invalid { .. } | NetnsError::NotNetns { .. } => ErrorCode::Invalid,
        NetnsError::NameNotFound { .. } | NetnsError::PathNotFound(_) | NetnsError::ProcessGone(_) => {
            ErrorCode::NotFound
        }
        NetnsError::Io { .. } => ErrorCode::Failed,
    };
    from_sentence(code, error)
}
