//! The veth pair of an `xdp` port, from the host's side.
//!
//! The container's end is a port's interface like any other. The host's end belongs to the switch:
//! its XDP program takes every packet before the host's network stack sees it. While no daemon runs
//! there is no program, and the host must not hear the container either: it would route packets past
//! the switch, with none of its rules. So the interface is *deaf*: no ARP, no IPv6, no
//! forwarding, and nothing from a source that is not routed there, which is everything.
//!
//! Unlike a TAP, a pair does not go when its maker dies. What a crash leaves behind before the port
//! was recorded is removed at the next start ([`remove_leftovers`]), found by its name and alias. Nor does
//! it hold the container's namespace: when that ends, the pair goes, and our socket says so.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::super::settings::{Setting, set_in};
use super::{Changes, Interface, Opened, enter_error};
use crate::api::Error;
use crate::control::desired::{Desired, HostEnd, Owner};
use crate::control::netlink::{Link, LinkChange, Netlink, NetlinkError, NewVeth};
use crate::control::netns::Netns;
use crate::control::refusal::{Result, conflict, failed};
use crate::control::switch::port_link::{PortLink, XdpOpener};
use crate::io::xdp::turn_off_features;

/// What makes the host deaf on IPv4 (`Documentation/networking/ip-sysctl.rst`).
const DEAF_IPV4: [Setting; 3] = [("rp_filter", "1"), ("forwarding", "0"), ("drop_unicast_in_l2_multicast", "1")];
/// The same on IPv6: no address, no router advertisement, no packet.
const DEAF_IPV6: [Setting; 1] = [("disable_ipv6", "1")];

/// That an interface's driver adds VLAN tags (802.1Q and 802.1ad) to what it sends.
const TAG_FEATURES: [&str; 2] = ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];

/// The host's side of a port's interface.
#[derive(Debug, Clone)]
pub(in crate::control::switch) struct HostSide<'a> {
    pub(in crate::control::switch) end: &'a HostEnd,
    /// Says whose and which port's it is.
    pub(in crate::control::switch) alias: String,
}

/// A veth pair that goes with this value, unless it is persistent.
#[derive(Debug)]
pub(in crate::control::switch) struct VethPair {
    end: HostEnd,
    index: u32,
    persistent: AtomicBool,
}

impl VethPair {
    /// The pair of which `link` is the host's end, which is to be called `ifname`.
    fn new(link: &Link, ifname: &str, persistent: bool) -> Self {
        let end = HostEnd { ifname: ifname.to_owned(), ifindex: Some(link.index) };
        Self { end, index: link.index, persistent: AtomicBool::new(persistent) }
    }

    /// The host's end.
    pub(in crate::control::switch) fn end(&self) -> &HostEnd {
        &self.end
    }

    /// The index of the host's end.
    pub(in crate::control::switch) fn index(&self) -> u32 {
        self.index
    }

    /// Whether the pair stays when this value goes.
    ///
    /// # Errors
    /// `NotFound` when it is to stay and is gone already.
    pub(in crate::control::switch) fn set_persistent(&self, on: bool) -> io::Result<()> {
        self.persistent.store(on, Ordering::Relaxed);
        if on && Netlink::open()?.link_by_index(self.index)?.is_none() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is gone", self.end.ifname)));
        }
        Ok(())
    }

    /// Gives the host's end another MTU.
    pub(in crate::control::switch) fn set_mtu(&self, mtu: u32) -> std::result::Result<(), NetlinkError> {
        Netlink::open()?.set_mtu(self.index, mtu)?;
        // One that becomes large enough for IPv6 gets it with the kernel's defaults.
        make_deaf(&self.end.ifname, &mut Changes::default());
        Ok(())
    }
}

impl Drop for VethPair {
    fn drop(&mut self) {
        if *self.persistent.get_mut() {
            return;
        }
        if let Err(error) = Netlink::open().and_then(|mut netlink| netlink.delete_link(self.index))
            // It went with its namespace.
            && error.errno() != Some(Errno::NODEV)
        {
            tracing::warn!(interface = %self.end.ifname, %error, "an interface that is not needed any more stays");
        }
    }
}

impl Interface<'_> {
    /// Makes a pair with the container's end in `netns`, and configures both ends. The calling
    /// thread is in the host's namespace.
    pub(super) fn create_pair(&self, side: &HostSide<'_>, netns: &Netns, xdp: &XdpOpener) -> Result<Opened> {
        let mut netlink = Netlink::open().map_err(|error| self.refused(&error))?;
        let veth = NewVeth { name: &side.end.ifname, peer_name: self.name, peer_mac: self.mac.0, mtu: self.mtu };
        netlink.add_veth(&veth, netns).map_err(|error| self.veth_error(side, netns, &error))?;
        let link = netlink.link_by_name(&side.end.ifname).map_err(|error| self.refused(&error))?;
        let link = link.ok_or_else(|| self.vanished())?;
        let pair = VethPair::new(&link, &side.end.ifname, false);
        self.configure_host_end(&mut netlink, &link, side, &mut Changes::default())?;
        // Before the container's end is up: no packet finds the host without the program.
        let port = xdp.open(pair)?;
        let mut changes = Changes::default();
        netns.run(|| self.configure_new(&mut changes)).map_err(|error| enter_error(&error))??;
        Ok(Opened { link: PortLink::Xdp(port), ifname: self.name.to_owned(), changes })
    }

    /// Takes back the pair that an earlier daemon left, if its container's end is in `netns`. The
    /// calling thread is in the host's namespace.
    pub(super) fn take_pair(&self, side: &HostSide<'_>, netns: &Netns, xdp: &XdpOpener) -> Result<Option<Opened>> {
        let mut netlink = Netlink::open().map_err(|error| self.refused(&error))?;
        let Some(link) = find_host_end(&mut netlink, side).map_err(|error| self.refused(&error))? else {
            return Ok(None);
        };
        let far_end = || {
            let far = Netlink::open()?.link_by_index(link.peer_index.unwrap_or_default())?;
            Ok(far.filter(|far| far.kind.as_deref() == Some("veth") && far.peer_index == Some(link.index)))
        };
        let far = netns.run(far_end).map_err(|error| enter_error(&error))?.map_err(|error| self.refused(&error))?;
        let Some(far) = far else {
            if self.lent.is_some() {
                // It is just being moved.
                return Ok(None);
            }
            // Somebody moved it elsewhere, so it is not the container's any more.
            drop(VethPair::new(&link, &side.end.ifname, false));
            return Ok(None);
        };
        let this = Interface { name: &far.name, ..self.clone() };
        let mut changes = Changes::lenient();
        this.configure_host_end(&mut netlink, &link, side, &mut changes)?;
        let port = xdp.open(VethPair::new(&link, &side.end.ifname, true))?;
        if let Err(error) = netns.run(|| this.configure(&mut changes)).map_err(|error| enter_error(&error))? {
            changes.refused.push(error.message);
        }
        Ok(Some(Opened { link: PortLink::Xdp(port), ifname: far.name.clone(), changes }))
    }

    /// Brings the host's end of an open pair into its shape again.
    pub(in crate::control::switch) fn restore_host_end(
        &self,
        netlink: &mut Netlink,
        link: &Link,
        changes: &mut Changes,
    ) -> Result<()> {
        self.host_side.as_ref().map_or(Ok(()), |side| self.configure_host_end(netlink, link, side, changes))
    }

    fn configure_host_end(
        &self,
        netlink: &mut Netlink,
        link: &Link,
        side: &HostSide<'_>,
        changes: &mut Changes,
    ) -> Result<()> {
        let named = LinkChange { alias: (link.alias != side.alias).then_some(&side.alias), ..LinkChange::default() };
        if named.alias.is_some() {
            // First, and alone: it says whose the interface is, should this be the last thing done.
            netlink.change_link(link.index, &named).map_err(|error| self.refused(&error))?;
        }
        // Before it is up.
        make_deaf(&link.name, changes);
        let change = LinkChange {
            name: (link.name != side.end.ifname).then_some(&side.end.ifname),
            mtu: (link.mtu != self.mtu).then_some(self.mtu),
            arp: link.arp.then_some(false),
            ipv6_link_local: (!link.up).then_some(false),
            up: (!link.up).then_some(true),
            ..LinkChange::default()
        };
        let words = [
            change.name.map(|name| format!("name {name}")),
            change.mtu.map(|mtu| format!("mtu {mtu}")),
            change.arp.map(|_| "no ARP".to_owned()),
            change.up.map(|_| "up".to_owned()),
        ];
        if words.iter().any(Option::is_some) {
            let what = format!("{}: {}", link.name, words.into_iter().flatten().collect::<Vec<_>>().join(", "));
            let changed = netlink.change_link(link.index, &change).map_err(|error| self.refused(&error));
            changes.note(what, changed)?;
        }
        Ok(())
    }

    /// Has the kernel write VLAN tags into the frames that the container's end sends. It would keep them beside
    /// the frame, where a program in the other end's driver does not find them: the tag would be lost
    /// (`veth_xdp_rcv_skb`). This is the one setting of a container's interface that the switch depends on.
    pub(super) fn tag_in_place(&self, changes: &mut Changes) -> Result<()> {
        match turn_off_features(self.name, &TAG_FEATURES) {
            Ok(off) => changes.done.extend(off.into_iter().map(|feature| format!("{feature} off"))),
            Err(error) => {
                let refused = failed(
                    format!(
                        "the interface {:?} cannot be set up: VLAN tags stay beside its frames: {error}",
                        self.name
                    ),
                    "see the daemon's log, or attach the port with --type tap",
                );
                changes.note("VLAN tags in place".to_owned(), Err(refused))?;
            }
        }
        Ok(())
    }

    fn veth_error(&self, side: &HostSide<'_>, netns: &Netns, error: &NetlinkError) -> Error {
        match error.errno() {
            Some(Errno::EXIST) => {
                let here = || Netlink::open().and_then(|mut netlink| netlink.link_by_name(self.name));
                if matches!(netns.run(here), Ok(Ok(Some(_)))) {
                    conflict(
                        format!("the namespace has an interface {:?} already", self.name),
                        "choose another name with --ifname, or remove that interface first",
                    )
                } else {
                    conflict(
                        format!(
                            "the host has an interface {:?} already, as the port's other end would be called",
                            side.end.ifname
                        ),
                        "remove that interface, or choose another port name with --name",
                    )
                }
            }
            Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => failed(
                format!("the interface {:?} cannot be made: the kernel has no veth pairs: {error}", self.name),
                "load the kernel module veth (modprobe veth), or attach the port with --type tap",
            ),
            _ => self.refused(error),
        }
    }
}

/// Where `/proc/sys` is read-only the interface is made all the same: it matters while no daemon runs.
fn make_deaf(name: &str, changes: &mut Changes) {
    for (family, settings) in [("ipv4", &DEAF_IPV4[..]), ("ipv6", &DEAF_IPV6[..])] {
        match set_in(&Path::new("/proc/sys/net").join(family).join("conf").join(name), settings) {
            Ok(changed) => {
                changes.done.extend(changed.into_iter().map(|setting| format!("{name}: {family} {setting}")));
            }
            Err(error) => tracing::warn!(
                interface = name,
                %error,
                "while no daemon runs, the host hears the container past the switch; make /proc/sys writable to the daemon"
            ),
        }
    }
}

/// The host's end of a pair, by its index where that is known and the alias says that it is the one,
/// or by its name.
fn find_host_end(netlink: &mut Netlink, side: &HostSide<'_>) -> std::result::Result<Option<Link>, NetlinkError> {
    let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
    if let Some(index) = side.end.ifindex
        && let Some(link) = netlink.link_by_index(index)?
        && is_veth(&link)
        && (link.alias == side.alias || link.name == side.end.ifname)
    {
        return Ok(Some(link));
    }
    let link = netlink.link_by_name(&side.end.ifname)?;
    Ok(link.filter(|link| is_veth(link) && (link.alias.is_empty() || link.alias == side.alias)))
}

/// Removes the pair of a port that has none open, if it is there.
pub(super) fn discard_pair(side: &HostSide<'_>) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    if let Some(link) = find_host_end(&mut netlink, side)? {
        netlink.delete_link(link.index)?;
    }
    Ok(())
}

/// Removes the interfaces of this daemon, `owner`, that no port of `desired` has: a crash left them.
pub(in crate::control::switch) fn remove_leftovers(owner: Owner, desired: &Desired) -> io::Result<()> {
    let ports = || desired.bridges.values().flat_map(|record| record.ports.values());
    let ends: Vec<&HostEnd> = ports().filter_map(|port| port.host_end.as_ref()).collect();
    let lent = ports().filter_map(|port| port.lent.as_ref()).map(|lent| lent.ifname.as_str());
    let names: HashSet<_> = ends.iter().map(|end| end.ifname.as_str()).chain(lent).collect();
    let indices: HashSet<_> = ends.iter().filter_map(|end| end.ifindex).collect();
    let mut netlink = Netlink::open()?;
    for link in netlink.links()? {
        let kept = names.contains(link.name.as_str()) || indices.contains(&link.index);
        if is_ours(owner, &link) && !kept {
            tracing::info!(interface = %link.name, alias = %link.alias, "an interface that no port has is removed");
            netlink.delete_link(link.index)?;
        }
    }
    Ok(())
}

/// Whether `owner` made the interface; the alias may be missing, because it comes second.
fn is_ours(owner: Owner, link: &Link) -> bool {
    let named = link.alias.is_empty() && link.name.starts_with(&owner.name_prefix());
    let marked = link.alias.starts_with(&owner.alias_prefix());
    match link.kind.as_deref() {
        Some("veth") => named || marked,
        // Of the TAPs only those that are lent have an alias. One without a record was given back when nobody listened.
        Some("tun") => marked,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interfaces_with_the_daemons_own_marks_are_ours() {
        let owner = Owner { dev: 1, ino: 2 };
        let link = |name: &str, alias: &str, kind: &str| Link {
            name: name.into(),
            alias: alias.into(),
            kind: Some(kind.into()),
            ..Link::default()
        };
        let name = format!("{}abcdefgh", owner.name_prefix());
        let other = Owner { dev: 1, ino: 3 };
        assert!(is_ours(owner, &link(&name, "", "veth")), "a crash before the alias");
        assert!(is_ours(owner, &link(&name, &owner.alias("br0", "web"), "veth")));
        assert!(is_ours(owner, &link("renamed", &owner.alias("br0", "web"), "veth")));
        assert!(!is_ours(owner, &link(&name, &other.alias("br0", "web"), "veth")), "a name of the same beginning");
        assert!(is_ours(owner, &link("vsl", &owner.lent_alias("br0", "web"), "tun")));
        assert!(!is_ours(owner, &link("br0", "", "tun")), "a bridge's own");
        assert!(!is_ours(owner, &link(&name, "mine", "veth")));
        assert!(!is_ours(owner, &link("veth0", "", "veth")));
        assert!(!is_ours(owner, &link(&name, "", "bridge")));
    }
}
