//! What is left to choose of an interface for a container that has others already.
//!
//! Whoever names a container, and not a namespace, has most often one that its engine has connected somewhere. There
//! `eth0` is taken and the default route leads elsewhere, and both are to stay: the port gets the next name, and no
//! default route, unless it was told otherwise.

use crate::api::PortSpec;
use crate::control::netlink::{Netlink, NetlinkError, RouteKind, TABLE_MAIN};
use crate::control::netns::{Netns, NetnsRef};

/// What the names of interfaces in containers begin with.
const IFNAME_PREFIX: &str = "eth";

/// What is taken in a namespace.
#[derive(Debug, Default)]
struct Taken {
    interfaces: Vec<String>,
    default_route: bool,
}

/// Chooses what `spec` leaves open so that it has room in `netns`. Where that cannot be looked at, everything stays open:
/// the refusal is for whoever attaches the port. Blocks.
pub fn find_room(spec: &mut PortSpec, netns: &NetnsRef) {
    match Netns::open(netns).map(|netns| netns.run(look)) {
        Ok(Ok(Ok(taken))) => choose(spec, &taken),
        outcome => tracing::debug!(%netns, ?outcome, "what a namespace has cannot be looked at"),
    }
}

fn look() -> Result<Taken, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let interfaces = netlink.links()?.into_iter().map(|link| link.name).collect();
    let routes = netlink.routes()?;
    let leads_out = |route: &crate::control::netlink::Route| {
        route.is_default() && route.kind == RouteKind::Unicast && route.table == TABLE_MAIN
    };
    Ok(Taken { interfaces, default_route: routes.iter().any(leads_out) })
}

fn choose(spec: &mut PortSpec, taken: &Taken) {
    if spec.ifname.is_none() {
        let is_free = |name: &String| !taken.interfaces.contains(name);
        // Ends: a namespace has fewer interfaces than there are numbers.
        spec.ifname = (0..=u32::MAX).map(|number| format!("{IFNAME_PREFIX}{number}")).find(is_free);
    }
    if taken.default_route && spec.default_route.is_none() {
        spec.default_route = Some(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_what_is_asked_for_is_done() {
        let taken = Taken { interfaces: vec!["lo".into(), "eth0".into(), "eth2".into()], default_route: true };
        let mut spec = PortSpec::default();
        choose(&mut spec, &taken);
        assert_eq!((spec.ifname.as_deref(), spec.default_route), (Some("eth1"), Some(false)));
        let mut spec = PortSpec { ifname: Some("eth0".into()), default_route: Some(true), ..PortSpec::default() };
        choose(&mut spec, &taken);
        assert_eq!((spec.ifname.as_deref(), spec.default_route), (Some("eth0"), Some(true)));
        let mut spec = PortSpec::default();
        choose(&mut spec, &Taken::default());
        assert_eq!((spec.ifname.as_deref(), spec.default_route), (Some("eth0"), None));
    }
}
