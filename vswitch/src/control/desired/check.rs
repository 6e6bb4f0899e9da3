//! The invariants of the desired state, checked when it is loaded.
//!
//! A state file may have been edited by hand. What it says must hold to the same rules as what
//! commands say, or the daemon would carry out what it refuses elsewhere.

use std::collections::HashSet;

use super::addresses::{check_network, check_networks};
use super::bridge::check_port_mtu;
use super::limits::{PORT_ADDRESSES_MAX, STATIC_ADDRESSES_MAX, STATICS_MAX, VLAN_ID_MAX};
use super::names::{check_interface_name, check_port_name};
use super::port::{check_rate, check_vlans};
use super::{BridgeRecord, Desired};
use crate::api::PortType;
use crate::control::refusal::{Result, conflict, invalid, limit};
use crate::snapshot::{BRIDGES_MAX, PORTS_MAX};

impl Desired {
    /// Checks the whole state.
    ///
    /// # Errors
    /// The first violation that is found.
    pub fn check(&self) -> Result<()> {
        if self.bridges.len() > BRIDGES_MAX || self.ports_count() > PORTS_MAX {
            return Err(limit(format!("more than {BRIDGES_MAX} bridges or {PORTS_MAX} ports"), "remove some"));
        }
        let mut nets = Vec::new();
        let mut interfaces = HashSet::new();
        let mut host_ends = HashSet::new();
        let mut segments = HashSet::new();
        let mut uplinks = HashSet::new();
        self.check_publications()?;
        self.check_docker()?;
        for (name, bridge) in &self.bridges {
            bridge.check(name)?;
            for subnet in &bridge.subnets {
                if let Some((other, owner)) = nets.iter().find(|(other, _): &&(ipnet::IpNet, &str)| {
                    other.contains(&subnet.net) || subnet.net.contains(other)
                }) {
                    return Err(conflict(
                        format!("the subnet {} of bridge {name:?} overlaps {other} of bridge {owner:?}", subnet.net),
                        "",
                    ));
                }
            }
            for (uplink, record) in &bridge.uplinks {
                record.check(name, uplink)?;
                if !uplinks.insert(uplink) {
                    return Err(conflict(format!("the interface {uplink:?} is an uplink of two bridges"), ""));
                }
            }
            for (tunnel_name, tunnel) in &bridge.tunnels {
                if let Some(underlay) = tunnel.underlay()
                    && !segments.insert((underlay, tunnel.vni))
                {
                    return Err(conflict(
                        format!("the tunnel {tunnel_name:?} of bridge {name:?} shares its VNI with another"),
                        "",
                    ));
                }
            }
            nets.extend(bridge.subnets.iter().map(|subnet| (subnet.net, name.as_str())));
            for (port_name, port) in &bridge.ports {
                if !interfaces.insert((port.netns_id, &port.ifname)) {
                    return Err(conflict(
                        format!("port {port_name:?} of bridge {name:?} shares its interface with another port"),
                        "",
                    ));
                }
                let lent = port.lent.as_ref().map(|lent| &lent.ifname);
                let end = port.host_end.as_ref().map(|end| &end.ifname);
                for ifname in lent.into_iter().chain(end) {
                    if self.bridges.contains_key(ifname) || !host_ends.insert(ifname) {
                        return Err(conflict(
                            format!("port {port_name:?} of bridge {name:?}: the host's interface {ifname:?} is taken"),
                            "",
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

impl BridgeRecord {
    fn check(&self, name: &str) -> Result<()> {
        check_interface_name("bridge name", name)?;
        if self.l2 != self.subnets.is_empty() || self.l2 == self.mac.is_some() {
            return Err(invalid(format!("the bridge {name:?} has addresses and is l2, or neither"), ""));
        }
        if self.subnets.len() > 2
            || (self.subnets.len() == 2 && self.subnets[0].gateway.is_ipv4() == self.subnets[1].gateway.is_ipv4())
        {
            return Err(invalid(format!("the bridge {name:?} has several subnets of one family"), ""));
        }
        for subnet in &self.subnets {
            check_network(subnet.net)?;
        }
        check_networks(&self.subnets, &self.reserve)?;
        self.check_values(name)?;

        self.check_tunnels(name)?;
        let mut names = HashSet::from([name]);
        for tunnel in self.tunnels.keys() {
            check_port_name("tunnel name", tunnel)?;
            if !names.insert(tunnel) {
                return Err(conflict(format!("the name {tunnel:?} is taken twice on bridge {name:?}"), ""));
            }
        }
        names.extend(self.uplinks.keys().map(String::as_str));
        let mut macs: HashSet<_> = self.mac.into_iter().collect();
        let mut addresses = HashSet::new();
        for (port_name, port) in &self.ports {
            check_port_name("port name", port_name)?;
            check_interface_name("interface name", &port.ifname)?;
            if (port.port_type == PortType::Xdp) != port.host_end.is_some() {
                return Err(invalid(
                    format!("port {port_name:?}: its type and its interfaces contradict each other"),
                    "",
                ));
            }
            if let Some(end) = &port.host_end {
                check_interface_name("interface name", &end.ifname)?;
            }
            if let Some(lent) = &port.lent {
                check_interface_name("interface name", &lent.ifname)?;
            }
            for taken in std::iter::once(port_name).chain(&port.aliases) {
                check_port_name("alias", taken)?;
                if !names.insert(taken) {
                    return Err(conflict(format!("the name {taken:?} is taken twice on bridge {name:?}"), ""));
                }
            }
            if !port.mac.is_unicast() || !macs.insert(port.mac) {
                return Err(conflict(format!("port {port_name:?}: the MAC address {} is taken or bad", port.mac), ""));
            }
            if port.ips.len() > PORT_ADDRESSES_MAX {
                return Err(limit(format!("port {port_name:?} has more than {PORT_ADDRESSES_MAX} addresses"), ""));
            }
            for ip in &port.ips {
                self.explicit_address(name, ip.addr(), Some(ip.prefix_len()))?;
                if !addresses.insert(ip.addr()) {
                    return Err(conflict(format!("port {port_name:?}: the address {} is taken", ip.addr()), ""));
                }
            }
            check_vlans(port.vlan, &port.trunk)?;
            check_rate("ingress rate", port.ingress_rate_bps)?;
            check_rate("egress rate", port.egress_rate_bps)?;
            check_port_mtu(port_name, port, self.port_mtu(port))?;
        }
        self.check_statics(name)
    }

    fn check_statics(&self, name: &str) -> Result<()> {
        if self.statics.len() > STATICS_MAX {
            return Err(limit(format!("the bridge {name:?} has more than {STATICS_MAX} static entries"), ""));
        }
        let mut seen = HashSet::new();
        for entry in &self.statics {
            let is_port = self.ports.contains_key(&entry.port)
                || self.uplinks.contains_key(&entry.port)
                || (entry.port == name && !self.l2);
            let is_tunnel = self.tunnels.contains_key(&entry.port);
            let known = (is_port && entry.remote.is_none() && entry.ips.is_empty())
                || (is_tunnel && entry.remote.is_some() && entry.ips.len() <= STATIC_ADDRESSES_MAX);
            let owned_elsewhere = self.ports.iter().any(|(port, other)| other.mac == entry.mac && *port != entry.port);
            let bad = !known
                || owned_elsewhere
                || !entry.mac.is_unicast()
                || self.mac == Some(entry.mac)
                || entry.vlan > VLAN_ID_MAX
                || !seen.insert((entry.mac, entry.vlan));
            if bad {
                return Err(invalid(
                    format!("the static entry {} of bridge {name:?} is bad, doubled or for an unknown port", entry.mac),
                    "",
                ));
            }
        }
        Ok(())
    }
}
