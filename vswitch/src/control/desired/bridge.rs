//! Adding, changing and removing bridges.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::addresses::{check_networks, host_mac};
use super::limits::{
    AGEING_S_DEFAULT, AGEING_S_MAX, LABEL_BYTES_MAX, LABELS_MAX, MAC_LIMIT_DEFAULT, MAC_LIMIT_MAX, MTU_DEFAULT,
    MTU_IPV6_MIN, MTU_MAX, MTU_MIN, MTU_XDP_MAX, PORT_MAC_LIMIT_DEFAULT, STORM_LIMIT_DEFAULT,
};
use super::names::check_interface_name;
use super::{BridgeRecord, Desired, HostView, PortRecord};
use crate::api::{BridgeChange, BridgeSpec, PortType};
use crate::control::refusal::{Result, conflict, invalid, limit};
use crate::snapshot::{BRIDGES_MAX, PORTS_MAX};

impl Desired {
    /// Adds a bridge.
    ///
    /// # Errors
    /// The name is bad, or taken by a bridge or an interface of the host; a network overlaps
    /// another bridge's or a route of the host; an address is not in its network; a value is out
    /// of its range; a limit is reached. The state is then unchanged.
    pub fn add_bridge(&mut self, spec: &BridgeSpec, host: &HostView) -> Result<()> {
        let name = &spec.name;
        check_interface_name("bridge name", name)?;
        if self.bridges.contains_key(name) {
            return Err(conflict(
                format!("there is a bridge {name:?} already"),
                "choose another name, or remove it first with `vswitchctl del-br`",
            ));
        }
        if self.bridges.len() >= BRIDGES_MAX {
            return Err(limit(format!("there are {BRIDGES_MAX} bridges, which is the limit"), "remove one first"));
        }
        if !spec.l2 {
            if host.interfaces.contains(name) {
                return Err(conflict(
                    format!(
                        "the host has an interface {name:?} already, and the bridge's own would be called the same"
                    ),
                    "choose another name, or remove the interface with `ip link del`",
                ));
            }
            self.check_room_for_port()?;
        }
        let gateway_asked = spec.internal || spec.masquerade.is_some() || spec.mss_clamp.is_some();
        if spec.l2 && (gateway_asked || !spec.host_ips.is_empty()) {
            return Err(no_gateway(name));
        }
        let subnets = self.networks(spec, host)?;
        check_networks(&subnets, &spec.reserve)?;
        let record = BridgeRecord {
            mac: (!spec.l2).then(|| host_mac(&subnets, host.random)),
            subnets,
            reserve: spec.reserve.clone(),
            mtu: spec.mtu.unwrap_or(MTU_DEFAULT),
            mtu_chosen: spec.mtu.is_some(),
            icc: spec.icc.unwrap_or(true),
            l2: spec.l2,
            internal: spec.internal,
            masquerade: spec.masquerade.unwrap_or(true),
            host_ips: spec.host_ips.clone(),
            mss_clamp: spec.mss_clamp.unwrap_or(false),
            ageing_s: spec.ageing_s.unwrap_or(AGEING_S_DEFAULT),
            mac_limit: spec.mac_limit.unwrap_or(MAC_LIMIT_DEFAULT),
            port_mac_limit: spec.port_mac_limit.unwrap_or(PORT_MAC_LIMIT_DEFAULT),
            storm_limit: spec.storm_limit.unwrap_or(STORM_LIMIT_DEFAULT),
            labels: spec.labels.clone(),
            docker: None,
            ports: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            statics: Vec::new(),
        };
        record.check_values(name)?;
        self.bridges.insert(name.clone(), record);
        Ok(())
    }

    /// Changes a bridge; what `change` does not name stays.
    ///
    /// # Errors
    /// There is no such bridge, or a value is out of its range. The state is then unchanged.
    pub fn change_bridge(&mut self, name: &str, change: &BridgeChange) -> Result<()> {
        let bridge = self.bridge_mut(name)?;
        let gateway_asked = change.internal.is_some() || change.masquerade.is_some() || change.mss_clamp.is_some();
        if bridge.l2 && (gateway_asked || change.host_ips.is_some()) {
            return Err(no_gateway(name));
        }
        let mut labels = bridge.labels.clone();
        for (key, value) in &change.labels {
            if value.is_empty() {
                labels.remove(key);
            } else {
                labels.insert(key.clone(), value.clone());
            }
        }
        let changed = BridgeRecord {
            mtu: change.mtu.unwrap_or(bridge.mtu),
            mtu_chosen: change.mtu.is_some() || bridge.mtu_chosen,
            icc: change.icc.unwrap_or(bridge.icc),
            internal: change.internal.unwrap_or(bridge.internal),
            masquerade: change.masquerade.unwrap_or(bridge.masquerade),
            host_ips: change.host_ips.clone().unwrap_or_else(|| bridge.host_ips.clone()),
            mss_clamp: change.mss_clamp.unwrap_or(bridge.mss_clamp),
            ageing_s: change.ageing_s.unwrap_or(bridge.ageing_s),
            mac_limit: change.mac_limit.unwrap_or(bridge.mac_limit),
            port_mac_limit: change.port_mac_limit.unwrap_or(bridge.port_mac_limit),
            storm_limit: change.storm_limit.unwrap_or(bridge.storm_limit),
            labels,
            ..bridge.clone()
        };
        changed.check_values(name)?;
        *bridge = changed;
        Ok(())
    }

    /// Removes a bridge; with `force` also one that has ports or tunnels.
    ///
    /// # Errors
    /// There is no such bridge, or it has ports or tunnels or is a network of Docker's, and `force` is not given.
    pub fn remove_bridge(&mut self, name: &str, force: bool) -> Result<BridgeRecord> {
        let bridge = self.bridge(name)?;
        if !force {
            bridge.check_not_dockers(name)?;
        }
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let attached = [
            (bridge.ports.len(), "port", "`vswitchctl del-port`"),
            (bridge.tunnels.len(), "tunnel", "`vswitchctl del-vxlan`"),
            (bridge.uplinks.len(), "uplink", "`vswitchctl del-uplink`"),
        ];
        let attached: Vec<_> = attached.into_iter().filter(|(n, ..)| *n > 0).collect();
        if !attached.is_empty() && !force {
            let has = attached.iter().map(|(n, what, _)| count(*n, what)).collect::<Vec<_>>().join(" and ");
            let how = attached.iter().map(|(_, _, how)| *how).collect::<Vec<_>>().join(" and ");
            return Err(conflict(
                format!("the bridge {name:?} has {has}"),
                format!("detach them first with {how}, or remove all at once with --force"),
            ));
        }
        self.bridges.remove(name).ok_or_else(|| super::no_bridge(name))
    }

    /// Refuses one port more than the datapath has room for.
    pub(super) fn check_room_for_port(&self) -> Result<()> {
        if self.ports_count() >= PORTS_MAX {
            return Err(limit(
                format!("there are {PORTS_MAX} ports, the bridges' own included, which is the limit"),
                "detach one first",
            ));
        }
        Ok(())
    }
}

impl BridgeRecord {
    /// Checks every value that has a range of its own.
    pub(super) fn check_values(&self, name: &str) -> Result<()> {
        check_mtu(&format!("the bridge {name:?}"), self.mtu, self.subnets.iter().any(|s| s.gateway.is_ipv6()))?;
        for (port_name, port) in &self.ports {
            if port.mtu.is_none() {
                check_port_mtu(port_name, port, self.mtu)?;
            }
        }
        check_range("ageing time", self.ageing_s, 1..=AGEING_S_MAX, "seconds")?;
        check_range("limit of MAC addresses", self.mac_limit, 1..=MAC_LIMIT_MAX, "addresses")?;
        check_range("limit of MAC addresses per port", self.port_mac_limit, 1..=MAC_LIMIT_MAX, "addresses")?;
        self.check_host_ips(name)?;
        let publishing = self.ports.iter().find(|(_, port)| !port.publications.is_empty());
        if let Some((port, _)) = publishing.filter(|_| self.internal) {
            return Err(conflict(
                format!("the bridge {name:?} cannot be internal: its port {port:?} has published ports"),
                format!("`vswitchctl ports {name}` lists them; take them back first with `vswitchctl unpublish`"),
            ));
        }
        if self.labels.len() > LABELS_MAX {
            return Err(limit(format!("the bridge {name:?} would have more than {LABELS_MAX} labels"), "use fewer"));
        }
        for (key, value) in &self.labels {
            if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
                return Err(invalid(
                    format!("the label {key:?} is empty or longer than {LABEL_BYTES_MAX} bytes"),
                    "use shorter labels",
                ));
            }
        }
        Ok(())
    }
}

/// The refusal of what only a gateway does.
fn no_gateway(bridge: &str) -> crate::api::Error {
    invalid(
        format!("the bridge {bridge:?} is a bare learning switch (l2), which has no gateway"),
        "leave out --internal, --masquerade, --host-ip and --mss-clamp",
    )
}

impl BridgeRecord {
    /// Checks the addresses at which ports are published that name none.
    fn check_host_ips(&self, name: &str) -> Result<()> {
        for (at, ip) in self.host_ips.iter().enumerate() {
            let is_like = |other: &IpAddr| other.is_ipv4() == ip.is_ipv4();
            if ip.is_multicast() || *ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
                return Err(invalid(
                    format!("{ip} is no address that a host has"),
                    "name one of the host's with --host-ip",
                ));
            }
            let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            if self.host_ips[..at].iter().any(is_like) {
                return Err(invalid(
                    format!("{ip} is the second {family} address at which ports of {name:?} would be published"),
                    "name at most one per family with --host-ip; `publish` takes any other",
                ));
            }
            if !self.subnets.iter().any(|subnet| is_like(&subnet.gateway)) {
                return Err(invalid(
                    format!("ports cannot be published at {ip}: the bridge {name:?} has no {family} subnet"),
                    "leave it out, or make a bridge with such a --subnet",
                ));
            }
        }
        Ok(())
    }
}

/// Checks an MTU in bytes.
pub(super) fn check_mtu(of: &str, mtu: u32, ipv6: bool) -> Result<()> {
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(invalid(
            format!("the MTU {mtu} of {of} is out of range"),
            format!("choose one from {MTU_MIN} to {MTU_MAX} bytes"),
        ));
    }
    if ipv6 && mtu < MTU_IPV6_MIN {
        return Err(invalid(
            format!("the MTU {mtu} of {of} is too small for IPv6"),
            format!("choose at least {MTU_IPV6_MIN} bytes, or do without IPv6"),
        ));
    }
    Ok(())
}

/// The same for a port, whose type sets a limit of its own.
pub(super) fn check_port_mtu(name: &str, port: &PortRecord, mtu: u32) -> Result<()> {
    check_mtu(&format!("the port {name:?}"), mtu, port.ips.iter().any(|ip| ip.addr().is_ipv6()))?;
    if port.port_type == PortType::Xdp && mtu > MTU_XDP_MAX {
        return Err(invalid(
            format!("the MTU {mtu} of the port {name:?} is too large for AF_XDP"),
            format!("choose at most {MTU_XDP_MAX} bytes with --mtu, or attach the port with --type tap"),
        ));
    }
    Ok(())
}

fn check_range(what: &str, value: u32, range: RangeInclusive<u32>, unit: &str) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(invalid(
        format!("the {what} {value} is out of range"),
        format!("choose one from {} to {} {unit}", range.start(), range.end()),
    ))
}
