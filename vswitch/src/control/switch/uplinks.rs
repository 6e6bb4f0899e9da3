//! L2 uplinks: putting a physical interface on a bridge, following it, and letting it go.
//!
//! Theory of operation: an uplink is attached to whatever interface answers its description *now*
//! ([`find`]), and every change of the host's interfaces makes the switch look again
//! ([`Switch::follow_uplinks`], which does nothing where all is as it was). An interface that is
//! renamed keeps its index and its programs; one that vanished is waited for, and attached again when
//! one of that name appears. What could not be attached is tried again with every change, and every
//! few seconds.

use std::sync::Arc;

use super::Switch;
use super::live::{Detached, LiveUplink, UplinkAttachment, uplink_entry};
use crate::api::{Uplink, UplinkCarry, UplinkSpec};
use crate::control::desired::{Desired, UplinkRecord, UplinkTarget};
use crate::control::netlink::monitor::HostLink;
use crate::control::refusal::{Result, failed, not_found};
use crate::control::uplink::carry::{Carry, TAP_PREFIX};
use crate::control::uplink::features::Offload;
use crate::control::uplink::mirror::Mirror;
use crate::control::uplink::options::UplinkOption;
use crate::snapshot::{PortEntry, PortId};
use crate::wire::MacAddr;

impl Switch {
    /// Makes a physical interface a port of a bridge, carrying packets, durable.
    ///
    /// # Errors
    /// What [`Desired::add_uplink`] refuses; the interface cannot be attached; the state cannot be
    /// stored. Nothing has changed then.
    pub fn add_uplink(&mut self, bridge: &str, spec: &UplinkSpec) -> Result<Uplink> {
        self.desired.bridge(bridge)?;
        let name = spec.interface.as_str();
        let watch = self.uplinks.watch()?;
        let link = watch.look(|mirror| mirror.link_named(name).cloned()).ok_or_else(|| {
            not_found(format!("the host has no interface {name:?}"), "`ip link` lists its interfaces")
        })?;
        let target = watch.look(|mirror| self.uplink_target(mirror, &link));
        let mut next = self.desired.clone();
        next.add_uplink(bridge, spec, &target)?;
        let attached = self.attach_uplink(&mut next, bridge, name, &link)?;
        self.insert_uplink(bridge, name, Ok(attached))?;
        self.publish(&next);
        let added = next.bridge(bridge)?.uplink(bridge, name)?.clone();
        if let Err(error) = self.commit(next) {
            self.let_go(bridge, name);
            restore(&link.name, &added);
            return Err(error);
        }
        self.describe_uplink(bridge, name)
    }

    /// Gives a physical interface back to the host, as it was.
    ///
    /// # Errors
    /// There is no such bridge or uplink, or the state cannot be stored. The uplink is then as it was.
    pub fn remove_uplink(&mut self, bridge: &str, name: &str) -> Result<()> {
        let mut next = self.desired.clone();
        let record = next.remove_uplink(bridge, name)?;
        let link = self.link_of(bridge, name, &record);
        // A packet that arrives until the publication goes to the bridge, one that arrives later to the host.
        self.commit(next)?;
        self.let_go(bridge, name);
        if let Some(link) = link {
            restore(&link.name, &record);
        }
        Ok(())
    }

    /// What decisions need to know of an interface that is to become an uplink.
    fn uplink_target(&self, mirror: &Mirror, link: &HostLink) -> UplinkTarget {
        let is_ours = link.name.starts_with(TAP_PREFIX) && link.kind.as_deref() == Some("tun");
        let is_shared = self
            .uplinks
            .options()
            .iter()
            .any(|option| matches!(option, UplinkOption::Interface { name, .. } if *name == link.name))
            || self.uplinks.shares(link.index);
        UplinkTarget {
            index: link.index,
            mac: link.mac.map(MacAddr),
            loopback: link.loopback,
            master: link.master.map(|index| {
                mirror.link(index).map_or_else(|| format!("interface {index}"), |master| master.name.clone())
            }),
            addresses: mirror
                .addresses_of(link.index)
                .map(|address| address.net)
                .filter(|net| !matches!(net.addr(), std::net::IpAddr::V6(ip) if ip.is_unicast_link_local()))
                .collect(),
            has_default_route: mirror.default_route_interface() == Some(link.index),
            is_ours: is_ours || self.desired.bridges.contains_key(&link.name),
            is_shared,
        }
    }

    /// Attaches what `next` says of an uplink to the interface `link`, and notes there what was found.
    fn attach_uplink(
        &mut self,
        next: &mut Desired,
        bridge: &str,
        name: &str,
        link: &HostLink,
    ) -> Result<UplinkAttachment> {
        let record = next.bridge(bridge)?.uplink(bridge, name)?.clone();
        let ids = self.new_port_id()?;
        let lowered = lower(link, &record);
        let carry = match Carry::whole(&mut self.uplinks.means(&self.datapath, &self.xdp), link, record.carry) {
            Ok(carry) => carry,
            Err(error) => {
                self.live.port_ids.release(ids.0.0);
                restore(&link.name, &lowered);
                return Err(failed(
                    format!("the interface {:?} cannot be put on bridge {bridge:?}: {error}", link.name),
                    "see the daemon's log",
                ));
            }
        };
        if let Some(noted) = next.uplink_mut(bridge, name) {
            *noted = UplinkRecord { ifindex: Some(link.index), mac: link.mac.map(MacAddr), ..lowered };
        }
        let bridge_id = self.live_bridge(bridge)?.id;
        let entry = uplink_entry(ids, name, bridge_id, &record, link.mtu, carry.device(), self.datapath.workers());
        Ok(UplinkAttachment { carry, entry: Arc::new(entry), index: link.index })
    }

    fn insert_uplink(
        &mut self,
        bridge: &str,
        name: &str,
        attachment: std::result::Result<UplinkAttachment, Detached>,
    ) -> Result<()> {
        self.live_bridge_mut(bridge)?.uplinks.insert(name.to_owned(), LiveUplink { attachment });
        Ok(())
    }

    /// Takes an uplink out of the datapath and ends its carry.
    pub(super) fn let_go(&mut self, bridge: &str, name: &str) {
        let Some(live) = self.live.bridges.get_mut(bridge) else { return };
        let uplink = live.uplinks.remove(name);
        self.publish(&self.desired);
        self.forget_uplink(bridge, uplink.and_then(|uplink| uplink.attachment.ok()));
    }

    /// Ends the carry of an uplink that no worker uses any more.
    pub(super) fn forget_uplink(&mut self, bridge: &str, attachment: Option<UplinkAttachment>) {
        let Some(attachment) = attachment else { return };
        let id = attachment.entry.id;
        if let Some(live) = self.live.bridges.get(bridge) {
            live.fdb.remove_port(id);
        }
        self.datapath.retire_port_counters(id);
        self.live.port_ids.release(id.0);
    }

    /// The uplinks of the state, by bridge and name.
    fn uplink_names(&self) -> Vec<(String, String)> {
        let of = |(bridge, record): (&String, &crate::control::desired::BridgeRecord)| {
            record.uplinks.keys().map(|name| (bridge.clone(), name.clone())).collect::<Vec<_>>()
        };
        self.desired.bridges.iter().flat_map(of).collect()
    }

    /// The interface that an uplink is on, or would be.
    pub(super) fn link_of(&self, bridge: &str, name: &str, record: &UplinkRecord) -> Option<HostLink> {
        let live = self.live.bridges.get(bridge)?.uplinks.get(name);
        let index = live.and_then(|live| live.attachment.as_ref().ok()).map(|attachment| attachment.index);
        self.uplinks.look(|mirror| find(mirror, name, record, index).cloned()).flatten()
    }

    /// Attaches the uplinks of the state once, at the start. The caller publishes.
    pub(super) fn reconcile_uplinks(&mut self, next: &mut Desired) -> Result<()> {
        for (bridge, name) in self.uplink_names() {
            self.uplinks.watch()?;
            let record = self.desired.bridge(&bridge)?.uplink(&bridge, &name)?.clone();
            let attachment = match self.link_of(&bridge, &name, &record) {
                None => {
                    tracing::info!(%bridge, uplink = %name, "the interface is not there; it is attached when it appears");
                    Err(Detached::Missing)
                }
                Some(link) => self.attach_uplink(next, &bridge, &name, &link).map_err(|error| {
                    tracing::warn!(%bridge, uplink = %name, error = %error.message, "the uplink cannot be had, trying again");
                    Detached::Failed(error.message)
                }),
            };
            self.insert_uplink(&bridge, &name, attachment)?;
            self.introduce_uplink(&bridge, &name);
        }
        Ok(())
    }

    /// Tells the forwarding database which static entries an uplink has.
    fn introduce_uplink(&self, bridge: &str, name: &str) {
        let Some((record, live)) = self.desired.bridges.get(bridge).zip(self.live.bridges.get(bridge)) else { return };
        let Some(Ok(attachment)) = live.uplinks.get(name).map(|uplink| &uplink.attachment) else { return };
        for entry in record.statics.iter().filter(|entry| entry.port == name) {
            live.fdb.insert_static(entry.mac.0, entry.vlan, attachment.entry.id, crate::datapath::clock::now_s());
        }
    }

    /// Brings the uplinks up to date with the host's interfaces.
    pub fn follow_uplinks(&mut self) {
        let mut next = self.desired.clone();
        for (bridge, name) in self.uplink_names() {
            self.follow_uplink(&mut next, &bridge, &name);
        }
        if next != self.desired
            && let Err(error) = self.commit(next.clone())
        {
            tracing::error!(error = %error.message, "what was found of interfaces is not in the state file for now");
            self.desired = next;
        }
        self.follow_shared();
    }

    fn follow_uplink(&mut self, next: &mut Desired, bridge: &str, name: &str) {
        let Some(record) = self.desired.bridges.get(bridge).and_then(|record| record.uplinks.get(name)) else { return };
        let record = record.clone();
        let link = self.link_of(bridge, name, &record);
        let Some(live) = self.live.bridges.get_mut(bridge).and_then(|live| live.uplinks.get_mut(name)) else { return };
        match (&mut live.attachment, link) {
            (Ok(attachment), Some(link)) if attachment.index == link.index => {
                if attachment.entry.mtu != link.mtu {
                    attachment.entry = Arc::new(PortEntry { mtu: link.mtu, ..(*attachment.entry).clone() });
                    self.publish(&self.desired);
                } else {
                    match attachment.carry.mend() {
                        Ok(false) => {}
                        Ok(true) => {
                            tracing::info!(%bridge, uplink = name, "somebody detached the XDP program; it is attached again");
                        }
                        Err(error) => tracing::warn!(%bridge, uplink = name, %error, "the uplink receives nothing"),
                    }
                }
            }
            (Err(Detached::Missing), None) => {}
            (Err(Detached::Failed(_)), None) => live.attachment = Err(Detached::Missing),
            (Ok(_), None) => {
                tracing::info!(%bridge, uplink = name, "the interface is gone; it is attached when it comes back");
                self.detach_uplink(bridge, name, Detached::Missing);
            }
            (attachment, Some(link)) => {
                if attachment.is_ok() {
                    self.detach_uplink(bridge, name, Detached::Missing);
                }
                let attached = self.attach_uplink(next, bridge, name, &link);
                let Some(live) = self.live.bridges.get_mut(bridge).and_then(|live| live.uplinks.get_mut(name)) else {
                    return;
                };
                match attached {
                    Ok(attached) => {
                        tracing::info!(%bridge, uplink = name, interface = %link.name, "the uplink is attached");
                        live.attachment = Ok(attached);
                        self.introduce_uplink(bridge, name);
                        self.publish(&self.desired);
                    }
                    Err(error) => {
                        let failure = Detached::Failed(error.message);
                        if live.attachment.as_ref().err() != Some(&failure) {
                            tracing::info!(%bridge, uplink = name, why = %failure, "the uplink cannot be attached");
                        }
                        live.attachment = Err(failure);
                    }
                }
            }
        }
    }

    /// Takes an uplink out of the datapath, and ends its carry; its record stays.
    fn detach_uplink(&mut self, bridge: &str, name: &str, why: Detached) {
        let Some(live) = self.live.bridges.get_mut(bridge).and_then(|live| live.uplinks.get_mut(name)) else { return };
        let before = std::mem::replace(&mut live.attachment, Err(why));
        self.publish(&self.desired);
        self.forget_uplink(bridge, before.ok());
    }

    /// Of ports whose interfaces are gone, takes those that are uplinks: somebody removed their TAP.
    pub(super) fn uplinks_gone(&mut self, ports: &[(PortId, u64)]) -> Vec<(PortId, u64)> {
        let (uplinks, rest): (Vec<_>, Vec<_>) =
            ports.iter().copied().partition(|&(id, incarnation)| self.find_uplink(id, incarnation).is_some());
        for &(id, incarnation) in &uplinks {
            if let Some((bridge, name)) = self.find_uplink(id, incarnation) {
                tracing::info!(%bridge, uplink = %name, "the carry TAP was removed by somebody; it is made again");
                self.detach_uplink(&bridge, &name, Detached::Failed("its carry TAP was removed".to_owned()));
            }
        }
        if !uplinks.is_empty() {
            self.follow_uplinks();
        }
        rest
    }

    fn find_uplink(&self, id: PortId, incarnation: u64) -> Option<(String, String)> {
        self.live.bridges.iter().find_map(|(bridge, live)| {
            let is = |uplink: &&LiveUplink| {
                uplink.entry().is_some_and(|entry| (entry.id, entry.incarnation) == (id, incarnation))
            };
            let (name, _) = live.uplinks.iter().find(|(_, uplink)| is(uplink))?;
            Some((bridge.clone(), name.clone()))
        })
    }

    /// Whether there is an uplink that could not be attached.
    pub(super) fn has_failed_uplinks(&self) -> bool {
        let failed = |uplink: &LiveUplink| matches!(uplink.attachment, Err(Detached::Failed(_)));
        self.live.bridges.values().any(|bridge| bridge.uplinks.values().any(failed)) || self.uplinks.has_failed()
    }

    /// Removes a bridge that has uplinks: they go first, so that the host has its interfaces back
    /// whatever happens to the rest.
    pub(super) fn remove_bridge_with_uplinks(
        &mut self,
        name: &str,
        record: &crate::control::desired::BridgeRecord,
    ) -> Result<()> {
        for uplink in record.uplinks.keys() {
            self.remove_uplink(name, uplink)?;
        }
        self.remove_bridge(name, true)
    }

    /// Gives back what was changed of the interfaces of `bridges`' uplinks, and ends their carries.
    pub(super) fn restore_uplinks(&mut self, bridges: &[String]) {
        for (bridge, name) in self.uplink_names() {
            if !bridges.contains(&bridge) {
                continue;
            }
            let Some(record) = self.desired.bridges.get(&bridge).and_then(|record| record.uplinks.get(&name)) else {
                continue;
            };
            let record = record.clone();
            let link = self.link_of(&bridge, &name, &record);
            self.let_go(&bridge, &name);
            if let Some(link) = link {
                restore(&link.name, &record);
            }
        }
    }
}

/// The interface that an uplink is about: the one that it is attached to, under whatever name; else
/// the one with the index and the address that it had; else the one of its name.
fn find<'a>(mirror: &'a Mirror, name: &str, record: &UplinkRecord, attached: Option<u32>) -> Option<&'a HostLink> {
    if let Some(link) = attached.and_then(|index| mirror.link(index)) {
        return Some(link);
    }
    let same = |link: &&HostLink| link.mac.is_some() && link.mac == record.mac.map(|mac| mac.0);
    let seen = record.ifindex.and_then(|index| mirror.link(index)).filter(same);
    seen.or_else(|| mirror.link_named(name))
}

/// Turns off the receive offloads that forwarding cannot live with; says which were on.
fn lower(link: &HostLink, record: &UplinkRecord) -> UplinkRecord {
    let mut lowered = record.clone();
    let wanted = [
        (Offload::Lro, true, &mut lowered.lro_lowered),
        (Offload::RxVlan, record.carry != UplinkCarry::Tc, &mut lowered.rxvlan_lowered),
    ];
    for (offload, needed, noted) in wanted {
        if !needed {
            continue;
        }
        match offload
            .is_on(&link.name)
            .and_then(|on| if on { offload.set(&link.name, false).map(|()| on) } else { Ok(on) })
        {
            Ok(on) => *noted |= on,
            Err(error) => {
                tracing::warn!(interface = %link.name, ?offload, %error, "a receive offload that does not go with forwarding stays on");
            }
        }
    }
    lowered
}

/// Turns on again what was turned off.
fn restore(interface: &str, record: &UplinkRecord) {
    for (offload, lowered) in [(Offload::Lro, record.lro_lowered), (Offload::RxVlan, record.rxvlan_lowered)] {
        if lowered && let Err(error) = offload.set(interface, true) {
            tracing::warn!(interface, ?offload, %error, "a receive offload cannot be turned on again; use ethtool -K");
        }
    }
}
