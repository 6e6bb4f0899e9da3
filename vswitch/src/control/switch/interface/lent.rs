//! The interface of a lent port: made here, moved and configured by somebody else.
//!
//! It is made in the host's namespace, down and without addresses, and given its Ethernet address, its MTU and its
//! queue, all of which stay with it when it is moved. What does not stay is its index, if that is taken where it
//! goes, its name, and everything that belongs to IP. From then on whoever moved it has the say; only what the
//! datapath depends on is seen to when it is taken back.
//!
//! A TAP's descriptor goes on to carry it wherever it is moved. It was opened in the host's namespace and keeps
//! that one, so that the container's ends as if we were not there, and the TAP with it. After a restart of the
//! daemon there is no other way than to open it where it is, and the watch of namespaces has to look after it as
//! after any other ([`crate::control::watch`]). Of a veth pair the other end stays in the host's namespace, as always.

use super::{Changes, Interface};
use crate::control::desired::LentRecord;
use crate::control::netlink::{Link, LinkChange, Netlink, NetlinkError};
use crate::control::refusal::Result;
use crate::io::tap::TX_QUEUE_LEN;
use crate::wire::MacAddr;

impl Interface<'_> {
    /// Brings the interface of the calling thread's namespace into its shape, as far as that is not the borrower's.
    pub(super) fn configure_lent(&self, lent: &LentRecord, changes: &mut Changes) -> Result<()> {
        let mut netlink = Netlink::open().map_err(|error| self.refused(&error))?;
        let link = netlink.link_by_name(self.name).map_err(|error| self.refused(&error))?;
        let link = link.ok_or_else(|| self.vanished())?;
        changes.index = Some(link.index);
        if self.host_side.is_some() {
            self.tag_in_place(changes)?;
        }
        if link.up || link.name != lent.ifname {
            return Ok(());
        }
        let txqlen = self.host_side.is_none().then_some(TX_QUEUE_LEN);
        let change = LinkChange {
            alias: (link.alias != lent.alias).then_some(&lent.alias),
            mac: (link.mac != Some(self.mac.0)).then_some(self.mac.0),
            mtu: (link.mtu != self.mtu).then_some(self.mtu),
            txqlen: txqlen.filter(|length| *length != link.txqlen),
            gso_max_size: self.gso_max_size.filter(|bytes| *bytes < link.gso_max_size),
            // For the case that somebody brings it up while it is the host's.
            ipv6_link_local: Some(false),
            ..LinkChange::default()
        };
        let words = [
            change.alias.map(|alias| format!("alias {alias:?}")),
            change.mac.map(|_| format!("MAC {}", self.mac)),
            change.mtu.map(|mtu| format!("mtu {mtu}")),
            change.txqlen.map(|frames| format!("txqueuelen {frames}")),
            change.gso_max_size.map(|bytes| format!("gso_max_size {bytes}")),
        ];
        if words.iter().any(Option::is_some) {
            let changed = netlink.change_link(link.index, &change).map_err(|error| self.refused(&error));
            changes.note(words.into_iter().flatten().collect::<Vec<_>>().join(", "), changed)?;
        }
        Ok(())
    }
}

/// The interface of a lent port in the namespace of `netlink`, whatever it is called there: the one with its alias,
/// or, where somebody changed that, with its Ethernet address. `index` is where it was last seen.
pub(in crate::control::switch) fn lent_link(
    netlink: &mut Netlink,
    index: Option<u32>,
    mac: MacAddr,
    lent: &LentRecord,
) -> std::result::Result<Option<Link>, NetlinkError> {
    if let Some(index) = index
        && let Some(link) = netlink.link_by_index(index)?
        && is_lent(&link, lent)
    {
        return Ok(Some(link));
    }
    if let Some(link) = lent_link_at_home(netlink, mac, lent)? {
        return Ok(Some(link));
    }
    let mut links = netlink.links()?;
    links.retain(|link| is_lent(link, lent) || has_mac(link, mac));
    let best = links.iter().position(|link| is_lent(link, lent)).unwrap_or_default();
    Ok(links.into_iter().nth(best))
}

/// The same in the host's namespace, where it has a name of its own.
pub(in crate::control::switch) fn lent_link_at_home(
    netlink: &mut Netlink,
    mac: MacAddr,
    lent: &LentRecord,
) -> std::result::Result<Option<Link>, NetlinkError> {
    let link = netlink.link_by_name(&lent.ifname)?;
    Ok(link.filter(|link| is_lent(link, lent) || has_mac(link, mac)))
}

fn is_lent(link: &Link, lent: &LentRecord) -> bool {
    link.alias == lent.alias
}

fn has_mac(link: &Link, mac: MacAddr) -> bool {
    link.mac == Some(mac.0) && matches!(link.kind.as_deref(), Some("tun" | "veth"))
}
