//! Making what exists equal to what was asked for: at the start, and later for what failed then.
//!
//! After a crash or an upgrade the interfaces are there and only want to be taken back. What
//! somebody changed meanwhile is put right, what is missing is made, and ports of namespaces that
//! are gone are dropped. Each of that is logged. A port that cannot be had now (another process
//! has its queue, say) is *failed*: it keeps its record and its addresses, and is tried again.

use std::sync::Arc;

use super::conntrack::Gone;
use super::identity::Lookup;
use super::interface::veth::remove_leftovers;
use super::interface::{Changes, Interface, lower_lo};
use super::live::LivePort;
use super::overlay::Overlay;
use super::port_link::{PortLink, XdpOpener};
use super::tunnels::derive_mtus;
use super::{Switch, host_interface, identity};
use crate::api::Error;
use crate::control::desired::{BridgeRecord, FoundInterface, LentRecord, PortRecord};
use crate::control::netns::Netns;
use crate::control::refusal::Result;

/// What became of a port's interface.
enum Found {
    /// It is open; and what is to be remembered of it.
    Open(PortLink, Option<FoundInterface>),
    /// Its namespace is gone, or another one has its name.
    NamespaceGone,
    /// It cannot be had now.
    Failed(Error),
}

impl Switch {
    /// Makes everything that was asked for, once, at the start.
    ///
    /// # Errors
    /// What is left of the state cannot be stored.
    pub fn reconcile(&mut self) -> Result<()> {
        let stored = self.desired.clone();
        self.notice_reboot();
        let desired = self.desired.clone();
        let mut next = desired.clone();
        let lookup = Lookup::default();
        if let Err(error) = remove_leftovers(self.owner, &desired) {
            tracing::warn!(%error, "interfaces of ports that were never attached may be left over");
        }
        for (name, record) in &desired.bridges {
            self.insert_bridge(name, record)?;
            let opener = self.xdp_opener(name)?;
            if let Some(interface) = host_interface(name, record) {
                match open_host(&interface) {
                    Ok(link) => self.attach_host(name, record, link)?,
                    Err(error) => {
                        tracing::warn!(bridge = %name, error = %error.message, "the bridge's interface cannot be had, trying again");
                        let port = self.failed_port(error)?;
                        self.live_bridge_mut(name)?.host = Some(port);
                    }
                }
            }
            for (port_name, port) in &record.ports {
                match open_port(&lookup, &self.port_interface(name, record, port_name), port_name, port, &opener) {
                    Found::Open(link, found) => {
                        self.attach(&desired, name, port_name, link)?;
                        self.introduce(record, name, port_name);
                        if let Some(found) = found {
                            next.note_interface(name, port_name, found);
                        }
                    }
                    Found::NamespaceGone => {
                        tracing::info!(bridge = %name, port = %port_name, netns = %port.netns, "the namespace or what was in it is gone, the port is dropped");
                        next.remove_port(name, port_name)?;
                        next.forget_docker_endpoint(name, port_name);
                    }
                    Found::Failed(error) => {
                        tracing::warn!(bridge = %name, port = %port_name, error = %error.message, "the port cannot be had, trying again");
                        let failed = self.failed_port(error)?;
                        self.live_bridge_mut(name)?.ports.insert(port_name.clone(), failed);
                    }
                }
            }
        }
        self.reconcile_uplinks(&mut next)?;
        let unused = self.apply_overlay(&next, &derive_mtus(&next), None)?;
        self.publish(&next);
        self.forget_overlay(unused);
        let gone = Gone::between(&stored, &next);
        // A state without bridges is not worth a file.
        if next.bridges != stored.bridges || (next != stored && !next.bridges.is_empty()) {
            self.commit(next)?;
        }
        self.program_services();
        self.resume_connections();
        self.end_connections(&gone);
        Ok(())
    }

    /// Finds the ports' namespaces by their names alone where the numbers are of another boot.
    fn notice_reboot(&mut self) {
        let boot_id = match identity::boot_id() {
            Ok(boot_id) => boot_id,
            Err(error) => {
                tracing::warn!(%error, "whether the machine was started anew cannot be found out");
                return;
            }
        };
        let host = self.host;
        let dropped = self.desired.reboot(&boot_id, |reference| {
            let netns = Netns::open(reference).ok().filter(|netns| netns.id() != host)?;
            Some((netns.id(), identity::cookie(&netns).ok()?))
        });
        for (bridge, name) in dropped {
            tracing::info!(%bridge, port = %name, "the machine was started anew, and the port has no namespace of its name");
        }
    }

    /// Tries again what failed; ports whose namespace is gone by now are dropped.
    pub fn retry_failed(&mut self) {
        let mut dropped = Vec::new();
        let mut next = self.desired.clone();
        let mut came = false;
        let lookup = Lookup::default();
        for (bridge, name) in self.failed() {
            let Ok(record) = self.desired.bridge(&bridge).cloned() else { continue };
            let outcome = if bridge == name {
                let Some(interface) = host_interface(&bridge, &record) else { continue };
                match open_host(&interface) {
                    Ok(link) => Found::Open(link, None),
                    Err(error) => Found::Failed(error),
                }
            } else {
                let Some(port) = record.ports.get(&name) else { continue };
                let Ok(opener) = self.xdp_opener(&bridge) else { continue };
                open_port(&lookup, &self.port_interface(&bridge, &record, &name), &name, port, &opener)
            };
            match outcome {
                Found::NamespaceGone => dropped.push((bridge, name)),
                Found::Failed(error) => self.note_failure(&bridge, &name, error),
                Found::Open(link, found) => {
                    tracing::info!(%bridge, port = %name, "the port is back");
                    if let Some(found) = found {
                        next.note_interface(&bridge, &name, found);
                    }
                    self.reattach(&record, &bridge, &name, link);
                    came = true;
                }
            }
        }
        if came {
            self.publish(&self.desired);
        }
        if next != self.desired
            && let Err(error) = self.commit(next.clone())
        {
            tracing::error!(error = %error.message, "what was found of interfaces is not in the state file for now");
            self.desired = next;
        }
        self.drop_ports(&dropped);
        if self.has_failed_uplinks() {
            self.follow_uplinks();
        }
    }

    /// Whether there is something for [`Switch::retry_failed`].
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.live.bridges.values().any(|bridge| bridge.all_ports().any(|port| port.attachment.is_err()))
            || self.has_failed_uplinks()
    }

    /// The failed ports; the host's have their bridge's name.
    fn failed(&self) -> Vec<(String, String)> {
        let mut failed = Vec::new();
        for (bridge, live) in &self.live.bridges {
            let host = live.host.iter().map(|port| (bridge, port));
            for (name, port) in host.chain(&live.ports) {
                if port.attachment.is_err() {
                    failed.push((bridge.clone(), name.clone()));
                }
            }
        }
        failed
    }

    /// Gives a failed port its interface. It becomes another port for the datapath, so that
    /// nothing of the old one is mistaken for its own.
    fn reattach(&mut self, record: &BridgeRecord, bridge: &str, name: &str, link: PortLink) {
        let Some(live) = self.live.bridges.get_mut(bridge) else { return };
        let fdb = Arc::clone(&live.fdb);
        let old = if bridge == name { live.host.take() } else { live.ports.remove(name) };
        self.forget(old.map(|port| (Some(fdb), port)));
        let attached = if bridge == name {
            self.attach_host(bridge, record, link)
        } else {
            let desired = self.desired.clone();
            self.attach(&desired, bridge, name, link).map(|()| self.introduce(record, bridge, name))
        };
        if let Err(error) = attached {
            tracing::error!(%bridge, port = %name, error = %error.message, "the port could not be attached again");
        }
    }

    fn note_failure(&mut self, bridge: &str, name: &str, error: Error) {
        let Some(live) = self.live.bridges.get_mut(bridge) else { return };
        let port = if bridge == name { live.host.as_mut() } else { live.ports.get_mut(name) };
        if let Some(port) = port {
            port.attachment = Err(error.message);
        }
    }

    /// A port without an interface.
    fn failed_port(&mut self, error: Error) -> Result<LivePort> {
        let (id, incarnation) = self.new_port_id()?;
        Ok(LivePort { id, incarnation, attachment: Err(error.message) })
    }

    /// Removes every interface that the switch made, here and in namespaces, and takes down the
    /// loopback interfaces that were down; the state stays.
    pub fn cleanup(&mut self) {
        self.restore_uplinks(&self.desired.bridges.keys().cloned().collect::<Vec<_>>());
        let lookup = Lookup::default();
        let ports = self.desired.bridges.values().flat_map(|record| record.ports.values());
        for netns in ports.filter(|port| port.lo_raised).filter_map(|port| lookup.open(port)) {
            lower_lo(&netns);
        }
        for (bridge, live) in &self.live.bridges {
            live.all_ports().for_each(|port| super::ports::set_persistent(bridge, port, false));
            if let Some(record) = self.desired.bridges.get(bridge) {
                self.discard_failed(bridge, record, live.named_ports(bridge));
            }
        }
        let bridges = std::mem::take(&mut self.live.bridges);
        let unused = self.restore_overlay(Overlay::default());
        self.publish(&self.desired);
        let ports = bridges.into_values().flat_map(|bridge| bridge.host.into_iter().chain(bridge.ports.into_values()));
        self.forget(ports.map(|port| (None, port)));
        self.forget_overlay(unused);
    }
}

/// Takes back the host's interface, or makes it.
fn open_host(interface: &Interface<'_>) -> Result<PortLink> {
    if let Some(taken) = interface.take_here()? {
        log_changes(interface.name, &taken.changes);
        return Ok(taken.link);
    }
    let made = interface.create_here()?;
    persist(&made.link)?;
    tracing::info!(interface = interface.name, "the bridge's interface was missing and is made");
    Ok(made.link)
}

/// Takes back a container's interface, or makes it.
fn open_port(lookup: &Lookup, interface: &Interface<'_>, name: &str, port: &PortRecord, opener: &XdpOpener) -> Found {
    if let Some(lent) = &port.lent {
        return take_lent(lookup, interface, name, (port, lent), opener);
    }
    let Some(netns) = lookup.open(port) else { return Found::NamespaceGone };
    let open = || match interface.take_in(&netns, opener)? {
        Some(taken) => {
            log_changes(name, &taken.changes);
            Ok(taken)
        }
        None => {
            let made = interface.create_in(&netns, opener)?;
            persist(&made.link)?;
            tracing::info!(port = name, interface = interface.name, "the interface was missing and is made");
            Ok(made)
        }
    };
    match open() {
        Ok(opened) => {
            let found = opened.found();
            Found::Open(opened.link, Some(found))
        }
        Err(error) => Found::Failed(error),
    }
}

/// Takes back the interface of a lent port, wherever it is; one that is gone is not made again, because nobody would
/// configure it.
fn take_lent(
    lookup: &Lookup,
    interface: &Interface<'_>,
    name: &str,
    (port, lent): (&PortRecord, &LentRecord),
    opener: &XdpOpener,
) -> Found {
    // The borrower may be moving it at this moment.
    for _ in 0..2 {
        let Some((netns, link)) = lookup.find_lent_anywhere(port, lent) else { continue };
        let here = Interface { name: &link.name, index: Some(link.index), ..interface.clone() };
        match here.take_in(&netns, opener) {
            Ok(Some(taken)) => {
                log_changes(name, &taken.changes);
                let cookie = identity::cookie(&netns).ok().flatten();
                let found = FoundInterface { netns: Some((netns.id(), cookie)), ..taken.found() };
                return Found::Open(taken.link, Some(found));
            }
            Ok(None) => {}
            Err(error) => return Found::Failed(error),
        }
    }
    Found::NamespaceGone
}

fn persist(link: &PortLink) -> Result<()> {
    link.set_persistent(true).map_err(|error| {
        crate::control::refusal::failed(format!("the interface went away while it was made: {error}"), "")
    })
}

/// Says what was put right of a port's interface, and what could not be.
pub(super) fn log_changes(name: &str, changes: &Changes) {
    if !changes.done.is_empty() {
        tracing::info!(
            port = name,
            changes = changes.done.join(", "),
            "the interface was changed meanwhile and is put right"
        );
    }
    if !changes.refused.is_empty() {
        tracing::info!(
            port = name,
            refused = changes.refused.join("; "),
            "the interface was changed meanwhile and stays so in part"
        );
    }
}
