//! The interface of a port: made, taken back after a restart, and configured.
//!
//! A new interface is not persistent: whatever fails before it is made so leaves nothing behind,
//! because the interface goes with what carries it ([`PortLink`]). It is created where it belongs and
//! not moved there: the kernel waits out several RCU grace periods for a move (25 ms against 0.3 ms,
//! two cores, Linux 6.18). The price, for a TAP, is that our descriptor keeps the namespace alive, see
//! [`crate::control::watch`]. What is particular about a veth pair is in [`veth`].
//!
//! Configuring is idempotent, so that the same function serves a new interface and one that was
//! changed while the daemon was away; it says what it had to change. A new interface is as it was
//! asked for or is not made. One that is taken back is kept whatever the kernel refuses: closing it
//! would cut off a container over a route that the container itself replaced.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustix::io::Errno;

use self::veth::HostSide;
use super::advertisements::ignore_routers;
use super::port_link::{PortLink, XdpOpener};
use crate::api::Error;
use crate::control::desired::{FoundInterface, LentRecord};
use crate::control::netlink::{IPV6_MTU_MIN, Link, LinkChange, Netlink, NetlinkError, RouteKind, TABLE_MAIN};
use crate::control::netns::Netns;
use crate::control::refusal::{Result, conflict, failed};
use crate::io::tap::{TX_QUEUE_LEN, TapDevice};
use crate::wire::MacAddr;

mod lent;
mod link;
pub(super) mod veth;

pub(super) use self::lent::{lent_link, lent_link_at_home};
pub(super) use self::link::{link_here, set_gso_max_size_here, set_host_mtu, set_port_mtu_here};

/// What an interface is to be.
#[derive(Debug, Clone)]
pub(super) struct Interface<'a> {
    pub(super) name: &'a str,
    /// Its index when it was last seen: it may have another name meanwhile.
    pub(super) index: Option<u32>,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    /// The longest super-frame that it is to send, in bytes, where that is less than usual.
    pub(super) gso_max_size: Option<u32>,
    pub(super) ips: Vec<IpNet>,
    /// Default routes lead through these.
    pub(super) gateways: Vec<IpAddr>,
    /// Whether this is the host's own interface: the host's loopback is none of our business.
    pub(super) is_host: bool,
    /// Whether it speaks IPv6; without, it gets no link-local address and sends nothing on its own.
    pub(super) ipv6: bool,
    /// Where its other end is; none for a TAP, whose other end is a descriptor.
    pub(super) host_side: Option<HostSide<'a>>,
    /// What it is found by, where somebody else moves and configures it.
    pub(super) lent: Option<&'a LentRecord>,
}

/// An interface that was made or taken back.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) link: PortLink,
    /// The name that it has, which may be another one than it was made with.
    ifname: String,
    pub(super) changes: Changes,
}

impl Opened {
    /// What of this is to be remembered.
    pub(super) fn found(&self) -> FoundInterface {
        FoundInterface {
            ifname: self.ifname.clone(),
            ifindex: self.changes.index,
            lo_raised: self.changes.lo_raised,
            host_end: self.link.host_end().cloned(),
            netns: None,
        }
    }

    /// The same, of a TAP that was opened in `netns`.
    fn opened_in(mut self, netns: &Netns) -> Self {
        let is_host = Netns::current().is_ok_and(|here| here.id() == netns.id());
        if let PortLink::Tap(_, holds) = &mut self.link {
            *holds = (!is_host).then_some(netns.id());
        }
        self
    }
}

/// What was done to an interface, and what could not be.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What was changed, in words.
    pub(super) done: Vec<String>,
    /// What the kernel refused, where that is no reason to give up.
    pub(super) refused: Vec<String>,
    /// The interface's index, once it was seen.
    pub(super) index: Option<u32>,
    /// Whether the loopback interface of the namespace was down and is up.
    pub(super) lo_raised: bool,
    /// Whether to go on after a refusal.
    lenient: bool,
}

impl Changes {
    /// For an interface that is kept whatever the kernel refuses.
    pub(super) fn lenient() -> Self {
        Self { lenient: true, ..Self::default() }
    }

    /// Notes a change that was tried, `what` in words.
    fn note(&mut self, what: String, result: Result<()>) -> Result<()> {
        match result {
            Ok(()) => self.done.push(what),
            Err(error) if self.lenient => self.refused.push(error.message),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Interface<'_> {
    /// Makes the interface in another namespace, and configures it.
    pub(super) fn create_in(&self, netns: &Netns, xdp: &XdpOpener) -> Result<Opened> {
        match &self.host_side {
            Some(side) => self.create_pair(side, netns, xdp),
            None => {
                let made = netns.run(|| self.create_here()).map_err(|error| enter_error(&error))?;
                made.map(|opened| opened.opened_in(netns))
            }
        }
    }

    /// Makes a TAP in the calling thread's namespace, and configures it.
    pub(super) fn create_here(&self) -> Result<Opened> {
        let device = TapDevice::create(self.name).map_err(|error| self.tap_error(&error))?;
        let mut changes = Changes::default();
        self.configure_new(&mut changes)?;
        Ok(Opened { link: PortLink::Tap(Arc::new(device), None), ifname: self.name.to_owned(), changes })
    }

    /// Configures a new interface, or leaves the namespace as it was.
    fn configure_new(&self, changes: &mut Changes) -> Result<()> {
        self.configure(changes).inspect_err(|_| {
            if changes.lo_raised {
                lower_lo_here();
            }
        })
    }

    /// Takes back the interface that an earlier daemon left in another namespace; nothing if it is
    /// not there. Only the loss of the interface itself is an error.
    pub(super) fn take_in(&self, netns: &Netns, xdp: &XdpOpener) -> Result<Option<Opened>> {
        match &self.host_side {
            Some(side) => self.take_pair(side, netns, xdp),
            None => {
                let taken = netns.run(|| self.take_here()).map_err(|error| enter_error(&error))?;
                taken.map(|taken| taken.map(|opened| opened.opened_in(netns)))
            }
        }
    }

    /// Takes back the TAP that an earlier daemon left in the calling thread's namespace.
    pub(super) fn take_here(&self) -> Result<Option<Opened>> {
        let renamed = self.renamed_here();
        let this = Interface { name: renamed.as_deref().unwrap_or(self.name), ..self.clone() };
        let device = match TapDevice::attach(this.name) {
            Ok(device) => device,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(this.tap_error(&error)),
        };
        let mut changes = Changes::lenient();
        if let Err(error) = this.configure(&mut changes) {
            changes.refused.push(error.message);
        }
        Ok(Some(Opened { link: PortLink::Tap(Arc::new(device), None), ifname: this.name.to_owned(), changes }))
    }

    /// Removes the interface that an earlier daemon left in another namespace, if it is there and
    /// nobody has it open; `netns` finds the namespace where that is needed.
    pub(super) fn discard_in(&self, netns: impl FnOnce() -> Option<Netns>) -> io::Result<()> {
        match &self.host_side {
            Some(side) => veth::discard_pair(side),
            None => netns().map_or(Ok(()), |netns| netns.run(|| self.discard_here())?),
        }
    }

    /// Removes the TAP that an earlier daemon left in the calling thread's namespace, if it is there
    /// and nobody has it open.
    pub(super) fn discard_here(&self) -> io::Result<()> {
        let renamed = self.renamed_here();
        match TapDevice::attach(renamed.as_deref().unwrap_or(self.name)) {
            Ok(device) => device.set_persistent(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The name that the interface has now, where that is another one. An index alone proves nothing
    /// (the namespace may be another one), so the MAC address has to be ours, too.
    fn renamed_here(&self) -> Option<String> {
        if let Some(lent) = self.lent {
            let found = lent_link(&mut Netlink::open().ok()?, self.index, self.mac, lent);
            return found.ok()?.map(|link| link.name);
        }
        let index = self.index?;
        let link = Netlink::open().ok()?.link_by_index(index).ok()??;
        (link.mac == Some(self.mac.0) && link.name != self.name).then_some(link.name)
    }

    /// Brings the interface of the calling thread's namespace into its shape.
    fn configure(&self, changes: &mut Changes) -> Result<()> {
        if let Some(lent) = self.lent {
            return self.configure_lent(lent, changes);
        }
        let mut netlink = Netlink::open().map_err(|error| self.refused(&error))?;
        if !self.is_host
            && let Some(lo) = netlink.link_by_name("lo").map_err(|error| self.refused(&error))?
            && !lo.up
        {
            let raised = netlink.set_up(lo.index).map_err(|error| self.refused(&error));
            changes.lo_raised = raised.is_ok();
            changes.note("lo up".to_owned(), raised)?;
        }
        let link = netlink.link_by_name(self.name).map_err(|error| self.refused(&error))?;
        let link = link.ok_or_else(|| self.vanished())?;
        changes.index = Some(link.index);
        if self.is_host {
            // Before it is up, so that not one advertisement is heard.
            self.ignore_routers(changes);
        }
        if self.host_side.is_some() {
            self.tag_in_place(changes)?;
        }
        self.configure_link(&mut netlink, &link, changes)?;
        if self.is_host && link.mtu < IPV6_MTU_MIN {
            // It had no IPv6, and may have got it with its defaults just now.
            self.ignore_routers(changes);
        }
        self.configure_addresses(&mut netlink, link.index, changes)?;
        self.configure_routes(&mut netlink, link.index, changes)
    }

    /// A refusal is no reason to be without a bridge: where `/proc/sys` is read-only, whoever made
    /// it so has the namespace's defaults in hand.
    fn ignore_routers(&self, changes: &mut Changes) {
        match ignore_routers(self.name) {
            Ok(changed) => changes.done.extend(changed.into_iter().map(|setting| format!("{setting} 0"))),
            Err(error) => tracing::warn!(
                interface = self.name,
                %error,
                "the host listens to router advertisements from containers; make /proc/sys writable to the daemon, \
                 or set accept_ra, autoconf and accept_redirects of net.ipv6.conf.default to 0"
            ),
        }
    }

    fn configure_link(&self, netlink: &mut Netlink, link: &Link, changes: &mut Changes) -> Result<()> {
        // What a veth pair's end sends is with the other end at once: its queue is always empty.
        let txqlen = self.host_side.is_none().then_some(TX_QUEUE_LEN);
        let change = LinkChange {
            mac: (link.mac != Some(self.mac.0)).then_some(self.mac.0),
            mtu: (link.mtu != self.mtu).then_some(self.mtu),
            txqlen: txqlen.filter(|length| *length != link.txqlen),
            gso_max_size: self.gso_max_size.filter(|bytes| *bytes < link.gso_max_size),
            ipv6_link_local: (!link.up && !self.ipv6).then_some(false),
            up: (!link.up).then_some(true),
            ..LinkChange::default()
        };
        let words = [
            change.mac.map(|_| format!("MAC {}", self.mac)),
            change.mtu.map(|mtu| format!("mtu {mtu}")),
            change.txqlen.map(|frames| format!("txqueuelen {frames}")),
            change.gso_max_size.map(|bytes| format!("gso_max_size {bytes}")),
            change.up.map(|_| "up".to_owned()),
        ];
        if words.iter().any(Option::is_some) {
            let changed = netlink.change_link(link.index, &change).map_err(|error| self.refused(&error));
            changes.note(words.into_iter().flatten().collect::<Vec<_>>().join(", "), changed)?;
        }
        Ok(())
    }

    fn configure_addresses(&self, netlink: &mut Netlink, index: u32, changes: &mut Changes) -> Result<()> {
        let present = netlink.addrs(Some(index)).map_err(|error| self.refused(&error))?;
        for ip in self.ips.iter().filter(|ip| !present.iter().any(|address| address.net == **ip)) {
            let added = netlink.add_addr(index, *ip).map_err(|error| match error.errno() {
                Some(Errno::ACCESS) => failed(
                    format!("the interface {:?} cannot have {ip}: IPv6 is switched off in the namespace", self.name),
                    "switch it on there with sysctl net.ipv6.conf.all.disable_ipv6=0, or use a bridge without IPv6",
                ),
                _ => self.refused(&error),
            });
            changes.note(format!("address {ip}"), added)?;
        }
        Ok(())
    }

    fn configure_routes(&self, netlink: &mut Netlink, index: u32, changes: &mut Changes) -> Result<()> {
        if self.gateways.is_empty() {
            return Ok(());
        }
        let routes = netlink.routes().map_err(|error| self.refused(&error))?;
        for gateway in &self.gateways {
            let mut defaults = routes.iter().filter(|route| {
                route.is_default()
                    && route.kind == RouteKind::Unicast
                    && route.table == TABLE_MAIN
                    && route.gateway.is_none_or(|other| other.is_ipv4() == gateway.is_ipv4())
            });
            if defaults.clone().any(|route| route.gateway == Some(*gateway) && route.oif == Some(index)) {
                continue;
            }
            let added =
                netlink.add_default_route(*gateway, index).map_err(|error| match (error.errno(), defaults.next()) {
                    (Some(Errno::EXIST), Some(other)) => conflict(
                        format!(
                            "the namespace has a default route already{}",
                            other.gateway.map(|via| format!(", via {via}")).unwrap_or_default()
                        ),
                        "leave it as it is with --default-route off, or remove it first",
                    ),
                    _ => self.refused(&error),
                });
            changes.note(format!("default via {gateway}"), added)?;
        }
        Ok(())
    }

    fn vanished(&self) -> Error {
        failed(format!("the interface {:?} vanished while it was set up", self.name), "repeat the command")
    }

    fn tap_error(&self, error: &io::Error) -> Error {
        let message = format!("the interface {:?} cannot be opened: {error}", self.name);
        match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy => {
                conflict(message, "choose another name, or remove that interface first")
            }
            _ => failed(message, "see the daemon's log"),
        }
    }

    fn refused(&self, error: &NetlinkError) -> Error {
        let message = format!("the interface {:?} cannot be set up: {error}", self.name);
        match error.errno() {
            Some(Errno::EXIST) => conflict(
                format!("{message}; there is one of that name, or with that address, already"),
                "choose another name with --ifname, or remove that interface first",
            ),
            _ => failed(message, "see the daemon's log"),
        }
    }
}

/// Takes the loopback interface of `netns` down again.
pub(super) fn lower_lo(netns: &Netns) {
    if let Err(error) = netns.run(lower_lo_here) {
        tracing::info!(%error, "a namespace cannot be entered, its loopback interface stays up");
    }
}

fn lower_lo_here() {
    let lower = || {
        let mut netlink = Netlink::open()?;
        match netlink.link_by_name("lo")? {
            Some(lo) => netlink.set_down(lo.index),
            None => Ok(()),
        }
    };
    if let Err(error) = lower() {
        tracing::info!(%error, "a loopback interface stays up");
    }
}

/// The refusal when a namespace cannot be entered.
pub(super) fn enter_error(error: &io::Error) -> Error {
    failed(format!("the namespace cannot be entered: {error}"), "the daemon needs CAP_SYS_ADMIN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_the_making_of_an_interface_and_not_the_taking_back() {
        let refusal = || Err(failed("no route", ""));
        assert!(Changes::default().note("default route".into(), refusal()).is_err());
        let mut changes = Changes::lenient();
        changes.note("default route".into(), refusal()).expect("goes on");
        changes.note("up".into(), Ok(())).expect("works");
        assert_eq!((changes.done, changes.refused), (vec!["up".to_owned()], vec!["no route".to_owned()]));
    }
}
