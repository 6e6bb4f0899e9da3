//! Lent ports: the switch makes the interface in the host's namespace, and somebody else moves it into a container,
//! gives it its name, its addresses and its routes, and brings it up.
//!
//! Docker works that way: a network driver names an interface of the host (`SrcName`) before the container's namespace
//! exists, and never learns when it was moved. So the record of such a port says in
//! [`netns`](PortRecord::netns) where the interface is expected, and in [`netns_id`](PortRecord::netns_id)
//! and [`ifname`](PortRecord::ifname) where and under what name it was last seen; at first that is the
//! host's namespace. What stays with the interface on all its ways, and tells it from others, is in [`LentRecord`].

use serde::{Deserialize, Serialize};

use super::{Desired, PortRecord, PortTarget};
use crate::api::PortSpec;
use crate::control::refusal::Result;

/// What the interface of a lent port is found by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LentRecord {
    /// Its name in the host's namespace: before it is borrowed, and when it is given back.
    pub ifname: String,
    /// Its alias, which goes with it from namespace to namespace. A veth pair's other end has another one.
    pub alias: String,
}

impl PortRecord {
    /// Whether both are one lent port, whose namespace is a matter of when one looks.
    #[must_use]
    pub fn is_lent_as(&self, other: &Self) -> bool {
        self.lent.is_some() && self.lent == other.lent && self.netns == other.netns
    }
}

impl Desired {
    /// As [`Desired::add_port`], for a port whose interface somebody else is to move from the namespace `target.id`,
    /// the host's, to `target.netns`. The interface's name there is that one's affair: the one in `spec` is
    /// not looked at.
    ///
    /// # Errors
    /// As [`Desired::add_port`].
    pub fn lend_port(&mut self, bridge: &str, spec: &PortSpec, target: &PortTarget) -> Result<String> {
        let name = spec.name.clone().unwrap_or_else(|| target.netns.default_port_name());
        let ifname = self.free_lent_ifname(target.owner, bridge, &name);
        let name = self.add_port(bridge, &PortSpec { ifname: Some(ifname.clone()), ..spec.clone() }, target)?;
        let alias = target.owner.lent_alias(bridge, &name);
        if let Some(port) = self.bridge_mut(bridge)?.ports.get_mut(&name) {
            port.lent = Some(LentRecord { ifname, alias });
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{dual, port, refused, target};
    use super::*;
    use crate::api::{ErrorCode, PortType};
    use crate::control::desired::FoundInterface;
    use crate::control::netns::NetnsId;

    fn spec(name: &str) -> PortSpec {
        PortSpec { name: Some(name.into()), ..port() }
    }

    #[test]
    fn a_lent_port_has_a_name_of_its_own_in_the_hosts_namespace() {
        let mut desired = dual();
        for name in ["web", "db"] {
            desired.lend_port("br0", &spec(name), &target(1)).expect("a port");
        }
        let xdp = PortSpec { port_type: PortType::Xdp, ..spec("fast") };
        desired.lend_port("br0", &xdp, &target(1)).expect("a port");
        let ports = &desired.bridges["br0"].ports;
        let lent = |name: &str| ports[name].lent.clone().expect("is lent");
        assert_eq!(ports["web"].ifname, lent("web").ifname);
        assert!(lent("web").ifname.starts_with("vsl") && lent("web").ifname.len() == 15, "{:?}", lent("web"));
        assert_ne!(lent("web").ifname, lent("db").ifname);
        assert!(lent("web").alias.ends_with("br0 web lent"), "{:?}", lent("web"));
        let end = ports["fast"].host_end.clone().expect("a pair");
        assert!(end.ifname.starts_with("vsx") && lent("fast").ifname != end.ifname);
        desired.check().expect("holds to the rules");
        refused(&desired, ErrorCode::Conflict, "\"web\"", |desired| desired.lend_port("br0", &spec("web"), &target(1)));
    }

    #[test]
    fn where_it_is_seen_is_remembered_until_the_next_boot() {
        let mut desired = dual();
        desired.reboot("a", |_| None);
        desired.lend_port("br0", &spec("web"), &target(1)).expect("a port");
        let seen = FoundInterface {
            ifname: "eth0".into(),
            ifindex: Some(7),
            lo_raised: false,
            host_end: None,
            netns: Some((NetnsId { dev: 4, ino: 5 }, Some(5))),
        };
        let before = desired.bridges["br0"].ports["web"].clone();
        desired.note_interface("br0", "web", seen);
        let port = &desired.bridges["br0"].ports["web"];
        assert_eq!((port.ifname.as_str(), port.netns_id.ino, port.netns_cookie), ("eth0", 5, Some(5)));
        assert!(port.is_lent_as(&before));
        desired.check().expect("holds to the rules");
        let again = serde_json::to_string(&desired).expect("is written");
        assert_eq!(serde_json::from_str::<Desired>(&again).expect("is read"), desired);
        // A name that would bring another port back brings none to whoever configured this one.
        let dropped = desired.reboot("b", |_| Some((NetnsId { dev: 4, ino: 9 }, Some(9))));
        assert_eq!(dropped, [("br0".to_owned(), "web".to_owned())]);
    }
}
