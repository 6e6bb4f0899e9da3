//! Adding and removing L2 uplinks: physical interfaces that are ports of a bridge.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::names::check_interface_name;
use super::port::check_vlans;
use super::{BridgeRecord, Desired};
use crate::api::{UplinkCarry, UplinkSpec};
use crate::control::refusal::{Result, conflict, invalid, not_found};
use crate::wire::MacAddr;

/// An L2 uplink as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkRecord {
    /// How its packets get to the switch.
    pub carry: UplinkCarry,
    /// The VLAN of an access port.
    pub vlan: Option<u16>,
    /// The interface's index when it was last attached, by which it is found under another name.
    pub ifindex: Option<u32>,
    /// Its MAC address then: an index alone may have become another interface's.
    pub mac: Option<MacAddr>,
    /// Whether large receive offload was on and the switch turned it off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lro_lowered: bool,
    /// Whether the interface took VLAN tags out of received frames and the switch turned that off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rxvlan_lowered: bool,
}

/// The interface that is to become an uplink, as it is.
#[derive(Debug, Clone)]
pub struct UplinkTarget {
    /// Its index.
    pub index: u32,
    /// Its MAC address; none if it is no Ethernet interface.
    pub mac: Option<MacAddr>,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// The interface that it is a part of (a kernel bridge, a bond), if it is.
    pub master: Option<String>,
    /// Its addresses, IPv6 link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// Whether the host's default route leads over it.
    pub has_default_route: bool,
    /// Whether it is one that the switch itself made.
    pub is_ours: bool,
    /// Whether it is shared with the host by `--uplink`.
    pub is_shared: bool,
}

impl Desired {
    /// Makes the interface that `spec` names a port of `bridge`.
    ///
    /// # Errors
    /// There is no such bridge; the interface cannot be a port, is one already, is a part of something
    /// else, or has addresses and `force` is not given; the VLAN or the name is bad or taken; a
    /// limit is reached. The state is then unchanged.
    pub fn add_uplink(&mut self, bridge: &str, spec: &UplinkSpec, target: &UplinkTarget) -> Result<()> {
        let name = &spec.interface;
        check_interface_name("interface name", name)?;
        let record = self.bridge(bridge)?;
        if let Some((owner, _)) = self.bridges.iter().find(|(_, record)| record.uplinks.contains_key(name)) {
            return Err(conflict(
                format!("the interface {name:?} is an uplink of bridge {owner:?} already"),
                format!("take it off there first with `vswitchctl del-uplink {owner} {name}`"),
            ));
        }
        check_vlans(spec.vlan, &[])?;
        self.check_room_for_port()?;
        let taken = record.ports.iter().find(|(port, record)| *port == name || record.aliases.contains(name));
        if let Some((port, _)) = taken {
            return Err(conflict(
                format!("the bridge {bridge:?} has a port {port:?} of the name {name:?}"),
                "detach that port first, or rename the interface with `ip link set dev`",
            ));
        }
        check_target(name, spec, target)?;
        let uplink = UplinkRecord {
            carry: spec.carry,
            vlan: spec.vlan,
            ifindex: Some(target.index),
            mac: target.mac,
            lro_lowered: false,
            rxvlan_lowered: false,
        };
        self.bridge_mut(bridge)?.uplinks.insert(name.clone(), uplink);
        Ok(())
    }

    /// Takes an uplink off its bridge, its static entries with it; returns what it was.
    ///
    /// # Errors
    /// There is no such bridge or uplink.
    pub fn remove_uplink(&mut self, bridge: &str, name: &str) -> Result<UplinkRecord> {
        let record = self.bridge_mut(bridge)?;
        let Some(uplink) = record.uplinks.remove(name) else {
            return Err(not_found(
                format!("the bridge {bridge:?} has no uplink {name:?}"),
                "`vswitchctl show` lists the uplinks",
            ));
        };
        record.statics.retain(|entry| entry.port != name);
        Ok(uplink)
    }

    /// The record of an uplink, to be brought up to date with what was found.
    pub fn uplink_mut(&mut self, bridge: &str, name: &str) -> Option<&mut UplinkRecord> {
        self.bridges.get_mut(bridge)?.uplinks.get_mut(name)
    }
}

impl BridgeRecord {
    /// The uplink `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn uplink(&self, bridge: &str, name: &str) -> Result<&UplinkRecord> {
        self.uplinks.get(name).ok_or_else(|| {
            not_found(format!("the bridge {bridge:?} has no uplink {name:?}"), "`vswitchctl show` lists the uplinks")
        })
    }
}

impl UplinkRecord {
    /// Checks what a state file says.
    pub(super) fn check(&self, bridge: &str, name: &str) -> Result<()> {
        check_interface_name(&format!("uplink of bridge {bridge:?}"), name)?;
        check_vlans(self.vlan, &[])
    }
}

fn check_target(name: &str, spec: &UplinkSpec, target: &UplinkTarget) -> Result<()> {
    if target.loopback || target.mac.is_none() {
        return Err(invalid(
            format!("the interface {name:?} is no Ethernet interface, which a bridge cannot have as a port"),
            "name a physical interface",
        ));
    }
    if target.is_ours {
        return Err(conflict(
            format!("the interface {name:?} belongs to the switch itself"),
            "name a physical interface",
        ));
    }
    if target.is_shared {
        return Err(conflict(
            format!("the interface {name:?} is shared with the host (--uplink {name}), and cannot be a bridge's alone"),
            "start the daemon without that option, or name another interface",
        ));
    }
    if let Some(master) = &target.master {
        return Err(conflict(
            format!("the interface {name:?} is a part of {master:?}, which has all its packets"),
            format!("take it out first with `ip link set dev {name} nomaster`, or name {master:?} itself"),
        ));
    }
    if !target.addresses.is_empty() && !spec.force {
        let addresses: Vec<_> = target.addresses.iter().map(ToString::to_string).collect();
        let route = if target.has_default_route { ", and the host's default route leads over it" } else { "" };
        return Err(conflict(
            format!(
                "the interface {name:?} has the addresses {}{route}: as a port of a bridge it takes the host off that network",
                addresses.join(", ")
            ),
            "move the addresses away first, or say --force if the host does not need them",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BridgeSpec, ErrorCode};
    use crate::control::desired::HostView;

    fn desired() -> Desired {
        let mut desired = Desired::default();
        for name in ["lan", "other"] {
            let spec = BridgeSpec { name: name.to_owned(), l2: true, ..BridgeSpec::default() };
            desired.add_bridge(&spec, &HostView::default()).expect("a bridge");
        }
        desired
    }

    fn target() -> UplinkTarget {
        UplinkTarget {
            index: 7,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 7])),
            loopback: false,
            master: None,
            addresses: Vec::new(),
            has_default_route: false,
            is_ours: false,
            is_shared: false,
        }
    }

    fn spec() -> UplinkSpec {
        UplinkSpec { interface: "eth7".to_owned(), ..UplinkSpec::default() }
    }

    #[test]
    fn an_uplink_is_a_port_with_a_name() {
        let mut desired = desired();
        desired.add_uplink("lan", &UplinkSpec { vlan: Some(10), ..spec() }, &target()).expect("adds");
        assert_eq!(desired.ports_count(), 1);
        desired.check().expect("is consistent");
        let text = serde_json::to_string(&desired).expect("serialises");
        assert_eq!(serde_json::from_str::<Desired>(&text).expect("parses"), desired);
        let twice = desired.clone().add_uplink("other", &spec(), &target()).unwrap_err();
        assert_eq!((twice.code, twice.message.contains("uplink of bridge \"lan\"")), (ErrorCode::Conflict, true));
        assert_eq!(desired.clone().remove_bridge("lan", false).unwrap_err().code, ErrorCode::Conflict);
        assert_eq!(desired.remove_uplink("lan", "eth8").unwrap_err().code, ErrorCode::NotFound);
        assert_eq!(desired.remove_uplink("lan", "eth7").expect("removes").vlan, Some(10));
        assert_eq!(desired.ports_count(), 0);
    }

    #[test]
    fn interfaces_that_would_be_missed_are_refused() {
        let table: [(UplinkTarget, &str); 6] = [
            (UplinkTarget { mac: None, ..target() }, "no Ethernet"),
            (UplinkTarget { loopback: true, ..target() }, "no Ethernet"),
            (UplinkTarget { is_ours: true, ..target() }, "belongs to the switch"),
            (UplinkTarget { is_shared: true, ..target() }, "shared with the host"),
            (UplinkTarget { master: Some("bond0".to_owned()), ..target() }, "part of \"bond0\""),
            (
                UplinkTarget {
                    addresses: vec!["192.0.2.1/24".parse().expect("a network")],
                    has_default_route: true,
                    ..target()
                },
                "default route",
            ),
        ];
        for (target, why) in table {
            let error = desired().add_uplink("lan", &spec(), &target).unwrap_err();
            assert!(error.message.contains(why) && !error.remedy.is_empty(), "{error:?}");
            let forced = desired().add_uplink("lan", &UplinkSpec { force: true, ..spec() }, &target);
            assert_eq!(forced.is_ok(), !target.addresses.is_empty(), "{why}: force is for addresses only");
        }
        for vlan in [0, 4095] {
            let spec = UplinkSpec { vlan: Some(vlan), ..spec() };
            assert_eq!(desired().add_uplink("lan", &spec, &target()).unwrap_err().code, ErrorCode::Invalid);
        }
    }
}
