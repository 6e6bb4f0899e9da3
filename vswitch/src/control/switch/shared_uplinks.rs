//! The shared uplinks: interfaces that stay the host's, and through which the switch's packets leave.
//!
//! Theory of operation: each `--uplink` is one [`LiveShared`]. What it should be attached to *now* is a
//! pure decision ([`wanted`]) from the option, from whether anything needs it, and from the mirror of
//! the host; [`Switch::follow_shared`] makes it so, and is called whenever one of these changes. An
//! interface that is named is attached at once; `auto` only while something has claimed the shared
//! uplink ([`Switch::claim_uplink`]).
//!
//! An interface that loses its carrier or its default route stays attached: it may come back with the
//! next advertisement, and packets for the switch are still told apart from the host's. Only another
//! default route, or the end of the interface, moves `auto`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::watch;

use super::live::Detached;
use super::loopback::LiveLoopback;
use super::{Switch, XdpContext};
use crate::api::{SharedUplink, UplinkCarry, UplinkState, Uplinks};
use crate::bpf::{Classifier, GuardOwner, attached_programs};
use crate::control::host_ports::HostPorts;
use crate::control::netlink::monitor::HostLink;
use crate::control::refusal::{Result, failed};
use crate::control::uplink::carry::{Carry, Means};
use crate::control::uplink::fib::Fib;
use crate::control::uplink::mirror::Mirror;
use crate::control::uplink::options::UplinkOption;
use crate::control::uplink::watch::{HostWatch, read_host};
use crate::datapath::Datapath;
use crate::io::Device;
use crate::io::uplink::NextHops;

/// What the names of our programs begin with.
const PROGRAM_PREFIX: &str = "vswitch_";

/// All uplinks' common means: the watch of the host, the classifier; and the shared uplinks.
#[derive(Debug)]
pub(super) struct UplinkPlane {
    options: Vec<UplinkOption>,
    changes: watch::Sender<u64>,
    watch: Option<HostWatch>,
    classifier: Option<Classifier>,
    /// Who needs the shared uplink, in words for people.
    claims: BTreeSet<String>,
    /// In the order of the options.
    shared: Vec<LiveShared>,
    /// The host's ports, once they are shared.
    pub(super) host_ports: Option<Arc<HostPorts>>,
    /// The host's loopback interface, which is carried in the same way.
    pub(super) loopback: LiveLoopback,
    /// Whose the rear guards are.
    owner: GuardOwner,
    /// Whether those of an earlier start may still be there.
    pub(super) relief_due: bool,
}

/// One `--uplink`.
#[derive(Debug)]
struct LiveShared {
    attachment: std::result::Result<SharedAttachment, Detached>,
}

#[derive(Debug)]
struct SharedAttachment {
    carry: Carry,
    index: u32,
}

/// A shared uplink as whoever sends and receives through it needs it.
#[derive(Debug, Clone)]
pub struct SharedCarry {
    /// The interface's index.
    pub index: u32,
    /// The interface's name.
    pub name: String,
    /// Its MTU: the largest IP packet, in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Where packets come from and go to.
    pub device: Arc<dyn Device>,
    /// Who knows the next hops. None with the `tc` carry: there the kernel finds them itself, and
    /// what stands in the Ethernet header does not matter.
    pub next_hops: Option<Arc<dyn NextHops>>,
    /// The TAP that carries it; none with AF_XDP.
    pub tap: Option<String>,
}

impl UplinkPlane {
    /// Nothing of it yet.
    pub(super) fn new(owner: GuardOwner) -> Self {
        Self {
            options: Vec::new(),
            changes: watch::Sender::new(0),
            watch: None,
            classifier: None,
            claims: BTreeSet::new(),
            shared: Vec::new(),
            host_ports: None,
            loopback: LiveLoopback::default(),
            owner,
            relief_due: true,
        }
    }

    /// Whose the rear guards are.
    pub(super) fn owner(&self) -> GuardOwner {
        self.owner
    }

    /// What `--uplink` said.
    pub(super) fn options(&self) -> &[UplinkOption] {
        &self.options
    }

    /// The watch of the host, which begins with the first who needs it.
    pub(super) fn watch(&mut self) -> Result<HostWatch> {
        if let Some(watch) = &self.watch {
            return Ok(watch.clone());
        }
        let watch = HostWatch::start(self.changes.clone()).map_err(|error| {
            failed(format!("the host's interfaces cannot be followed: {error}"), "see the daemon's log")
        })?;
        Ok(self.watch.insert(watch).clone())
    }

    /// Says who needs the shared uplink, and who the loopback interface; [`Switch::follow_shared`] has them attached.
    pub(super) fn claim(&mut self, uplink: Option<&str>, loopback: Option<&str>) {
        self.claims.extend(uplink.map(str::to_owned));
        self.loopback.claim(loopback);
    }

    /// Looks at the host, if it is watched.
    pub(super) fn look<T>(&self, f: impl FnOnce(&Mirror) -> T) -> Option<T> {
        Some(self.watch.as_ref()?.look(f))
    }

    /// Whether a shared uplink is attached to the interface with this index.
    pub(super) fn shares(&self, index: u32) -> bool {
        self.shared.iter().any(|shared| shared.attachment.as_ref().is_ok_and(|attached| attached.index == index))
    }

    /// Whether a shared uplink, or the loopback interface, could not be attached.
    pub(super) fn has_failed(&self) -> bool {
        self.loopback.has_failed()
            || self.shared.iter().any(|shared| matches!(shared.attachment, Err(Detached::Failed(_))))
    }

    /// The classifier, once something was attached.
    pub(super) fn classifier(&mut self) -> Option<&mut Classifier> {
        self.classifier.as_mut()
    }

    /// What interfaces are carried with.
    pub(super) fn means<'a>(&'a mut self, datapath: &'a Datapath, xdp: &'a XdpContext) -> Means<'a> {
        let Self { classifier, owner, .. } = self;
        Means { classifier, datapath, umems: &xdp.umems, busy_poll: xdp.busy_poll, owner: *owner }
    }

    /// Everything that is carried from an interface which stays the host's.
    pub(super) fn carries_mut(&mut self) -> impl Iterator<Item = &mut Carry> {
        let shared = self.shared.iter_mut().filter_map(|shared| Some(&mut shared.attachment.as_mut().ok()?.carry));
        shared.chain(self.loopback.carry_mut())
    }
}

/// What one `--uplink` should be attached to now; none where there is no such interface, or nothing
/// needs one.
fn wanted<'a>(option: &UplinkOption, claimed: bool, attached: Option<u32>, mirror: &'a Mirror) -> Option<&'a HostLink> {
    let current = attached.and_then(|index| mirror.link(index));
    match option {
        UplinkOption::None => None,
        UplinkOption::Auto if !claimed => None,
        UplinkOption::Auto => mirror.default_route_interface().and_then(|index| mirror.link(index)).or(current),
        // By index while it is there: it may have another name by now.
        UplinkOption::Interface { name, .. } => current.or_else(|| mirror.link_named(name)),
    }
}

fn carry_of(option: &UplinkOption) -> UplinkCarry {
    match option {
        UplinkOption::Interface { carry, .. } => *carry,
        UplinkOption::Auto | UplinkOption::None => UplinkCarry::Tc,
    }
}

impl Switch {
    /// Sets what `--uplink` said, and attaches what was named.
    ///
    /// # Errors
    /// The host cannot be watched. An interface that cannot be attached is no error: it is tried again.
    pub fn set_uplinks(&mut self, options: Vec<UplinkOption>) -> Result<()> {
        let named = options.iter().any(|option| matches!(option, UplinkOption::Interface { .. }));
        self.uplinks.shared = options.iter().map(|_| LiveShared { attachment: Err(Detached::Missing) }).collect();
        self.uplinks.options = options;
        if named {
            self.uplinks.watch()?;
            self.follow_shared();
        }
        Ok(())
    }

    /// Tells when the host's interfaces, addresses or routes changed, while anything follows them.
    #[must_use]
    pub fn host_changes(&self) -> watch::Receiver<u64> {
        self.uplinks.changes.subscribe()
    }

    /// Says that `who` needs the shared uplink, which is attached if it was not.
    ///
    /// # Errors
    /// The host cannot be watched.
    pub fn claim_uplink(&mut self, who: &str) -> Result<Vec<SharedCarry>> {
        self.uplinks.watch()?;
        self.uplinks.claim(Some(who), None);
        self.follow_shared();
        Ok(self.shared_carries())
    }

    /// Says that `who` does not need it any more. What was taken from the device must be out of the
    /// datapath by then.
    pub fn release_uplink(&mut self, who: &str) {
        if self.uplinks.claims.remove(who) {
            self.follow_shared();
        }
    }

    /// The shared uplinks that are attached now.
    #[must_use]
    pub fn shared_carries(&self) -> Vec<SharedCarry> {
        let attached = self.uplinks.shared.iter().filter_map(|shared| shared.attachment.as_ref().ok());
        let attached: Vec<_> = attached.collect();
        // Neighbours are watched only where somebody sends by himself.
        let by_itself = attached.iter().any(|attached| attached.carry.tap().is_none());
        let next_hops = self.uplinks.watch.as_ref().filter(|_| by_itself).map(HostWatch::next_hops);
        let carry = |attached: &SharedAttachment| {
            self.uplinks
                .look(|mirror| {
                    let link = mirror.link(attached.index)?;
                    Some(SharedCarry {
                        index: link.index,
                        name: link.name.clone(),
                        mtu: link.mtu,
                        addresses: mirror.addresses_of(link.index).map(|address| address.net.addr()).collect(),
                        device: attached.carry.device(),
                        next_hops: attached.carry.tap().is_none().then(|| next_hops.clone()).flatten(),
                        tap: attached.carry.tap().map(str::to_owned),
                    })
                })
                .flatten()
        };
        attached.into_iter().filter_map(carry).collect()
    }

    /// The classifier of the shared uplinks, to be told what is the switch's; none while nothing is
    /// attached.
    pub fn classifier(&mut self) -> Option<&mut Classifier> {
        self.uplinks.classifier()
    }

    /// Makes the shared uplinks what they should be now.
    pub(super) fn follow_shared(&mut self) {
        for at in 0..self.uplinks.shared.len() {
            self.follow_one(at);
        }
        self.follow_loopback();
        let shared = self.uplinks.shared.iter().any(|shared| shared.attachment.is_ok());
        let attached = shared || self.uplinks.loopback.is_attached();
        let addresses = attached.then(|| self.uplinks.look(Mirror::host_addresses)).flatten();
        if let Some((classifier, addresses)) = self.uplinks.classifier.as_mut().zip(addresses)
            && let Err(error) = classifier.set_local_addresses(addresses)
        {
            tracing::warn!(%error, "packets to some of the host's addresses are not told apart");
        }
        let routed = self.routed_networks();
        if let Some(Err(error)) =
            self.uplinks.classifier.as_mut().map(|classifier| classifier.set_routed_networks(routed))
        {
            tracing::warn!(%error, "packets to containers that are not masqueraded are the host's, which drops them");
        }
        self.program_services();
    }

    /// The networks whose containers speak to the outside with their own addresses: whoever is there routes them here.
    fn routed_networks(&self) -> Vec<IpNet> {
        let routed =
            self.desired.bridges.values().filter(|bridge| !bridge.l2 && !bridge.internal && !bridge.masquerade);
        routed.flat_map(|bridge| bridge.subnets.iter().map(|subnet| subnet.net)).collect()
    }

    fn follow_one(&mut self, at: usize) {
        let option = self.uplinks.options[at].clone();
        let claimed = !self.uplinks.claims.is_empty();
        let attached = self.uplinks.shared[at].attachment.as_ref().ok().map(|attached| attached.index);
        let link = self.uplinks.look(|mirror| wanted(&option, claimed, attached, mirror).cloned()).flatten();
        let taken = |index: u32| {
            let others = self.uplinks.shared.iter().enumerate().filter(|(other, _)| *other != at);
            others.filter_map(|(_, shared)| shared.attachment.as_ref().ok()).any(|other| other.index == index)
        };
        let next = match &link {
            Some(link) if Some(link.index) == attached && self.is_whole(at) => return,
            None => Err(Detached::Missing),
            Some(link) if taken(link.index) => Err(Detached::Missing),
            Some(link) if self.is_l2_uplink(link.index) => {
                Err(Detached::Failed(format!("the interface {:?} is an uplink of a bridge", link.name)))
            }
            Some(link) => Ok(link.clone()),
        };
        // The old one first: an interface that is there again has the old one's name for its TAP.
        if attached.is_some() {
            self.uplinks.shared[at].attachment = Err(Detached::Missing);
        }
        let attachment = next.and_then(|link| match Carry::shared(&mut self.uplinks.means(&self.datapath, &self.xdp), &link, carry_of(&option)) {
            Ok(carry) => {
                tracing::info!(uplink = %option, interface = %link.name, hook = %carry.hook(), "the uplink is shared");
                if let Some(why) = carry.unguarded() {
                    tracing::warn!(uplink = %option, %why, "the host will reset connections while no daemon runs");
                }
                Ok(SharedAttachment { carry, index: link.index })
            }
            Err(error) => Err(Detached::Failed(error.to_string())),
        });
        if let Err(Detached::Failed(why)) = &attachment
            && self.uplinks.shared[at].attachment.as_ref().err() != attachment.as_ref().err()
        {
            tracing::warn!(uplink = %option, %why, "the uplink cannot be shared, trying again");
        }
        self.uplinks.shared[at].attachment = attachment;
    }

    fn is_whole(&self, at: usize) -> bool {
        self.uplinks.shared[at].attachment.as_ref().is_ok_and(|attached| attached.carry.is_whole())
    }

    fn is_l2_uplink(&self, index: u32) -> bool {
        let attached = |uplink: &super::live::LiveUplink| {
            uplink.attachment.as_ref().is_ok_and(|attachment| attachment.index == index)
        };
        self.live.bridges.values().any(|bridge| bridge.uplinks.values().any(attached))
    }

    /// All uplinks as they are.
    ///
    /// # Errors
    /// The host's interfaces cannot be read.
    pub fn list_uplinks(&self) -> Result<Uplinks> {
        let describe = |mirror: &Mirror| -> Vec<SharedUplink> {
            let pairs = self.uplinks.options.iter().zip(&self.uplinks.shared);
            pairs.map(|(option, shared)| self.describe_shared(option, shared, mirror)).collect()
        };
        let shared = match &self.uplinks.watch {
            Some(watch) => watch.look(describe),
            None if self.uplinks.options.is_empty() => Vec::new(),
            // Where nothing is followed, the host is looked at for this once.
            None => describe(&read_host().map_err(|error| {
                failed(format!("the host's interfaces cannot be read: {error}"), "see the daemon's log")
            })?),
        };
        let mut l2 = Vec::new();
        for (bridge, record) in &self.desired.bridges {
            for name in record.uplinks.keys() {
                l2.push(self.describe_uplink(bridge, name)?);
            }
        }
        let counters = self.uplinks.classifier.as_ref().and_then(|classifier| classifier.counters().ok());
        let counters = counters.unwrap_or_default().into_iter().filter(|(_, count)| *count > 0);
        Ok(Uplinks { shared, l2, counters: counters.map(|(rule, count)| (rule.name().to_owned(), count)).collect() })
    }

    fn describe_shared(&self, option: &UplinkOption, shared: &LiveShared, mirror: &Mirror) -> SharedUplink {
        let attachment = shared.attachment.as_ref().ok();
        let claimed = !self.uplinks.claims.is_empty();
        let named = matches!(option, UplinkOption::Interface { .. });
        // What it is attached to, or would be.
        let link = wanted(option, true, attachment.map(|attached| attached.index), mirror);
        let mut details = Vec::new();
        let state = match (&shared.attachment, link) {
            (Ok(_), Some(link)) if link.running => UplinkState::Up,
            (Ok(_), _) => UplinkState::Down,
            (Err(Detached::Failed(why)), _) => {
                details.push(why.clone());
                UplinkState::Failed
            }
            (Err(Detached::Missing), None) => {
                let what = if named { "there is no such interface" } else { "the host has no default route" };
                details.push(format!("{what}; it is attached when there is one"));
                UplinkState::Waiting
            }
            (Err(Detached::Missing), Some(link)) if self.uplinks.shares(link.index) => {
                details.push("the interface is shared by another --uplink already".to_owned());
                UplinkState::Idle
            }
            (Err(Detached::Missing), Some(_)) if claimed || named => UplinkState::Waiting,
            (Err(Detached::Missing), Some(_)) => {
                details.push("nothing needs it, so the interface is left alone".to_owned());
                UplinkState::Idle
            }
        };
        if let (Some(attachment), Some(link)) = (attachment, link) {
            details.extend(attachment.carry.refused());
            match attached_programs(&link.name) {
                Ok(programs) => details.extend(
                    programs
                        .iter()
                        .filter(|program| !program.name.starts_with(PROGRAM_PREFIX))
                        .map(|program| format!("somebody else's program sees its packets, too: {program}")),
                ),
                Err(error) => details.push(error.to_string()),
            }
            if carry_of(option) != UplinkCarry::Tc {
                details.extend(Fib::new(mirror).caveats().iter().cloned());
            }
        }
        SharedUplink {
            asked: option.to_string(),
            interface: link.map(|link| link.name.clone()),
            state,
            carry: carry_of(option),
            hook: attachment.map(|attached| attached.carry.hook()),
            tap: attachment.and_then(|attached| attached.carry.tap().map(str::to_owned)),
            needed_by: self.uplinks.claims.iter().cloned().collect(),
            addresses: link
                .map(|link| mirror.addresses_of(link.index).map(|address| address.net.addr()).collect())
                .unwrap_or_default(),
            details,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::netlink::monitor::{Hop, HostChange, HostRoute, Position, RouteAction};

    fn link(index: u32, name: &str) -> HostLink {
        HostLink {
            index,
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            master: None,
            kind: None,
        }
    }

    fn default_over(oif: u32) -> HostRoute {
        HostRoute {
            dst: "0.0.0.0/0".parse().expect("a network"),
            tos: 0,
            table: 254,
            metric: 0,
            action: RouteAction::Unicast,
            prefsrc: None,
            hops: vec![Hop { oif, via: None, weight: 1, dead: false }],
            nexthop_object: None,
        }
    }

    #[test]
    fn the_interface_that_is_wanted_follows_the_host() {
        let named = UplinkOption::Interface { name: "eth1".to_owned(), carry: UplinkCarry::Tc };
        let mut mirror = Mirror::default();
        let index = |option: &UplinkOption, claimed, attached, mirror: &Mirror| {
            wanted(option, claimed, attached, mirror).map(|link| link.index)
        };
        assert_eq!(index(&named, false, None, &mirror), None, "not there");
        mirror.apply(HostChange::Link(link(1, "eth1")));
        mirror.apply(HostChange::Link(link(2, "eth2")));
        assert_eq!(index(&named, false, None, &mirror), Some(1), "a name needs no claim");
        assert_eq!(index(&UplinkOption::Auto, true, None, &mirror), None, "no default route");
        mirror.apply(HostChange::Route(default_over(2), Position::First));
        assert_eq!(index(&UplinkOption::Auto, true, None, &mirror), Some(2));
        assert_eq!(index(&UplinkOption::Auto, false, Some(2), &mirror), None, "nothing needs it");
        mirror.apply(HostChange::RouteGone(default_over(2)));
        assert_eq!(index(&UplinkOption::Auto, true, Some(2), &mirror), Some(2), "it may come back");
        mirror.apply(HostChange::Route(default_over(1), Position::First));
        assert_eq!(index(&UplinkOption::Auto, true, Some(2), &mirror), Some(1), "another one");
        mirror.apply(HostChange::Link(link(1, "renamed")));
        assert_eq!(index(&named, false, Some(1), &mirror), Some(1), "under another name");
        mirror.apply(HostChange::LinkGone(1));
        assert_eq!(index(&named, false, Some(1), &mirror), None);
        mirror.apply(HostChange::Link(link(9, "eth1")));
        assert_eq!(index(&named, false, Some(1), &mirror), Some(9), "back");
    }
}
