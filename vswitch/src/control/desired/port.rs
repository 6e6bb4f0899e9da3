//! Adding, finding and removing ports.

use std::collections::HashSet;

use super::addresses::mac_of_tail;
use super::bridge::check_port_mtu;
use super::limits::{EXPOSED_MAX, LABELS_MAX, RATE_BPS_MAX, RATE_BPS_MIN, VLAN_ID_MAX};
use super::names::{check_interface_name, check_port_name};
use super::{BridgeRecord, Desired, FoundInterface, PortRecord, PortTarget};
use crate::api::{PortSpec, PortType};
use crate::control::netns::NetnsId;
use crate::control::refusal::{Result, conflict, invalid, limit, not_found};
use crate::wire::MacAddr;
use crate::wire::mac::ParseMacError;

/// The interface's name in a namespace where none is asked for: what a container expects.
const IFNAME_DEFAULT: &str = "eth0";

impl Desired {
    /// Adds a port to `bridge`, choosing what was left open, and returns its name. What it is to publish is left to
    /// [`Desired::publish`] and [`Desired::publish_exposed`].
    ///
    /// # Errors
    /// There is no such bridge; a name, an address, a MAC address or the interface is bad or
    /// taken; a value is out of its range; the networks or a limit are exhausted. The state is
    /// then unchanged.
    pub fn add_port(&mut self, bridge: &str, spec: &PortSpec, target: &PortTarget) -> Result<String> {
        self.bridge(bridge)?;
        self.check_room_for_port()?;
        let name = spec.name.clone().unwrap_or_else(|| target.netns.default_port_name());
        check_port_name("port name", &name)?;
        if let Some(container) = &spec.container {
            check_port_name("container's name", container)?;
        }
        self.bridge(bridge)?.check_type_stays(bridge, &name, spec.port_type, target)?;
        let ifname = spec.ifname.clone().unwrap_or_else(|| IFNAME_DEFAULT.to_owned());
        check_interface_name("interface name", &ifname)?;
        self.check_interface_free(&ifname, target)?;

        let record = self.bridge(bridge)?;
        record.check_names_free(bridge, &name, &spec.aliases)?;
        check_vlans(spec.vlan, &spec.trunk)?;
        check_rate("ingress rate", spec.ingress_rate_bps)?;
        check_rate("egress rate", spec.egress_rate_bps)?;
        if record.l2 && spec.default_route == Some(true) {
            return Err(invalid(
                format!("a default route needs a gateway, and the bridge {bridge:?} has no addresses"),
                "leave --default-route out",
            ));
        }
        if record.l2 && spec.guard == Some(true) {
            return Err(invalid(
                format!("a guard goes by addresses, and the bridge {bridge:?} has none"),
                "leave the guard out",
            ));
        }
        if spec.expose.len() > EXPOSED_MAX {
            return Err(limit(
                format!("the port {name:?} would have more than {EXPOSED_MAX} exposed ports and ranges"),
                "expose ranges instead of their ports",
            ));
        }
        let (ips, cursors) = record.port_addresses((bridge, &name), &spec.ips)?;
        let mac = match &spec.mac {
            Some(text) => record.explicit_mac((bridge, &name), text)?,
            None => record.automatic_mac(bridge, &ips, target.random)?,
        };
        let mut trunk = spec.trunk.clone();
        trunk.sort_unstable();
        trunk.dedup();
        let host_end = match spec.port_type {
            PortType::Tap => None,
            PortType::Xdp => Some(self.free_host_end(target.owner, bridge, &name)),
        };
        let port = PortRecord {
            netns: target.netns.clone(),
            container: spec.container.clone(),
            netns_id: target.id,
            netns_cookie: target.cookie,
            ifname,
            ifindex: None,
            lo_raised: false,
            port_type: spec.port_type,
            host_end,
            lent: None,
            mac,
            mtu: spec.mtu,
            // A network that leads nowhere is no place for a default route, as with Docker.
            default_route: spec.default_route.unwrap_or(!record.l2 && !record.internal),
            vlan: spec.vlan,
            trunk,
            aliases: spec.aliases.clone(),
            publications: Vec::new(),
            exposed: spec.expose.clone(),
            unguarded: spec.guard == Some(false),
            ingress_rate_bps: spec.ingress_rate_bps,
            egress_rate_bps: spec.egress_rate_bps,
            ips,
        };
        check_port_mtu(&name, &port, record.port_mtu(&port))?;

        // Nothing is refused from here on.
        let record = self.bridge_mut(bridge)?;
        for (subnet, last) in record.subnets.iter_mut().zip(cursors) {
            subnet.last = last;
        }
        record.ports.insert(name.clone(), port);
        Ok(name)
    }

    /// Removes the port that `key` names, its static entries with it; returns its name.
    ///
    /// # Errors
    /// There is no such bridge or port.
    pub fn remove_port(&mut self, bridge: &str, key: &str) -> Result<String> {
        let name = self.bridge(bridge)?.find_port(bridge, key)?.to_owned();
        let record = self.bridge_mut(bridge)?;
        record.ports.remove(&name);
        record.statics.retain(|entry| entry.port != name);
        Ok(name)
    }

    /// Remembers how the interface of a port was made or found.
    pub fn note_interface(&mut self, bridge: &str, name: &str, found: FoundInterface) {
        let FoundInterface { ifname, ifindex, lo_raised, host_end, netns } = found;
        if let Some((id, cookie)) = netns
            && let Some(port) = self.bridges.get_mut(bridge).and_then(|record| record.ports.get_mut(name))
        {
            (port.netns_id, port.netns_cookie) = (id, cookie);
        }
        let Some(netns) = self.bridges.get(bridge).and_then(|record| Some(record.ports.get(name)?.netns_id)) else {
            return;
        };
        // Another port's record may be behind the times, too. While it has the name, this one keeps
        // its own: the index leads to the interface all the same.
        let taken = self.bridges.iter().any(|(other_bridge, record)| {
            record.ports.iter().any(|(other, port)| {
                (other_bridge.as_str(), other.as_str()) != (bridge, name)
                    && port.netns_id == netns
                    && port.ifname == ifname
            })
        });
        let Some(port) = self.bridges.get_mut(bridge).and_then(|record| record.ports.get_mut(name)) else { return };
        if !taken && check_interface_name("interface name", &ifname).is_ok() {
            port.ifname = ifname;
        }
        port.ifindex = ifindex.or(port.ifindex);
        // One that is taken back has it up already, from the time when it was made.
        port.lo_raised |= lo_raised;
        port.host_end = host_end.or(port.host_end.take());
    }

    fn check_interface_free(&self, ifname: &str, target: &PortTarget) -> Result<()> {
        for (bridge, record) in &self.bridges {
            for (port, other) in &record.ports {
                if other.netns_id == target.id && other.ifname == ifname {
                    return Err(conflict(
                        format!(
                            "the interface {ifname:?} of namespace {} belongs to port {port:?} of bridge {bridge:?}",
                            target.netns
                        ),
                        "choose another interface name with --ifname, or detach that port first",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl BridgeRecord {
    /// The name of the port that `key` names: a port's name, its alias, its namespace or its container's name.
    ///
    /// # Errors
    /// There is none, or the namespace has several ports on the bridge.
    pub fn find_port(&self, bridge: &str, key: &str) -> Result<&str> {
        if self.tunnels.contains_key(key) {
            return Err(not_found(
                format!("{key:?} is a tunnel of bridge {bridge:?}, and not a port"),
                "`vswitchctl del-vxlan`, `add-remote` and `del-remote` are for tunnels",
            ));
        }
        if let Some((name, _)) = self.ports.get_key_value(key) {
            return Ok(name);
        }
        let alias = |port: &PortRecord| port.aliases.iter().any(|alias| alias == key);
        if let Some((name, _)) = self.ports.iter().find(|(_, port)| alias(port)) {
            return Ok(name);
        }
        let netns = key.parse().ok();
        let is_in = |port: &PortRecord| Some(&port.netns) == netns.as_ref() || port.container.as_deref() == Some(key);
        self.only_port(bridge, key, is_in)
    }

    /// The name of the port in the namespace with these identities, however that was spelled when
    /// the port was attached; `key` is how it is spelled now. A cookie that is not known decides
    /// nothing.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find_port_in(&self, bridge: &str, key: &str, id: NetnsId, cookie: Option<u64>) -> Result<&str> {
        self.only_port(bridge, key, |port| {
            port.netns_id == id && port.netns_cookie.zip(cookie).is_none_or(|(then, now)| then == now)
        })
    }

    /// The one port for which `is_in` holds: it is in the namespace that `key` names.
    fn only_port(&self, bridge: &str, key: &str, is_in: impl Fn(&PortRecord) -> bool) -> Result<&str> {
        let mut matches = self.ports.iter().filter(|(_, port)| is_in(port));
        match (matches.next(), matches.next()) {
            (Some((name, _)), None) => Ok(name),
            (Some((one, _)), Some((two, _))) => Err(conflict(
                format!("namespace {key:?} has several ports on bridge {bridge:?}, {one:?} and {two:?} among them"),
                "name the port itself",
            )),
            (None, _) => Err(not_found(
                format!("the bridge {bridge:?} has no port {key:?}, and no port in a namespace of that name"),
                format!("`vswitchctl list-ports {bridge}` lists its ports"),
            )),
        }
    }

    /// A port that is attached again under another type is not changed: the container's interface would
    /// have to go, and its connections with it.
    fn check_type_stays(&self, bridge: &str, name: &str, wanted: PortType, target: &PortTarget) -> Result<()> {
        match self.ports.get(name) {
            Some(port) if port.netns_id == target.id && port.port_type != wanted => Err(conflict(
                format!(
                    "the port {name:?} of bridge {bridge:?} is of type {}, and a port keeps its type",
                    port.port_type
                ),
                format!(
                    "detach it first with `vswitchctl del-port {bridge} {name}`, or choose another name with --name"
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn check_names_free(&self, bridge: &str, name: &str, aliases: &[String]) -> Result<()> {
        if aliases.len() > LABELS_MAX {
            return Err(limit(format!("the port {name:?} would have more than {LABELS_MAX} aliases"), "use fewer"));
        }
        let mut own = HashSet::from([name]);
        for alias in aliases {
            check_port_name("alias", alias)?;
            if !own.insert(alias) {
                return Err(invalid(
                    format!("the alias {alias:?} is given twice or is the port's name"),
                    "name it once",
                ));
            }
        }
        if own.contains(bridge) {
            return Err(conflict(
                format!("{bridge:?} is the bridge's own name and stands for the host's port"),
                "choose another port name with --name",
            ));
        }
        if let Some(taken) = self.tunnels.keys().find(|taken| own.contains(taken.as_str())) {
            return Err(conflict(
                format!("the bridge {bridge:?} has a tunnel {taken:?} already"),
                "choose another name with --name, or remove the tunnel first with `vswitchctl del-vxlan`",
            ));
        }
        if let Some(taken) = self.uplinks.keys().find(|name| own.contains(name.as_str())) {
            return Err(conflict(
                format!("the bridge {bridge:?} has an uplink {taken:?}"),
                "choose another name with --name",
            ));
        }
        for (other, port) in &self.ports {
            let taken = std::iter::once(other).chain(&port.aliases).find(|taken| own.contains(taken.as_str()));
            if let Some(taken) = taken {
                return Err(conflict(
                    format!("the bridge {bridge:?} has a port {taken:?} already, in namespace {}", port.netns),
                    "choose another name with --name, or detach that port first with `vswitchctl del-port`",
                ));
            }
        }
        Ok(())
    }

    fn explicit_mac(&self, (bridge, name): (&str, &str), text: &str) -> Result<MacAddr> {
        let mac = parse_mac(text)?;
        let endpoint = || self.docker_endpoint_with(name, |endpoint| endpoint.mac == mac);
        match self.mac_owner(bridge, mac).or_else(endpoint) {
            None => Ok(mac),
            Some(owner) => Err(conflict(
                format!("the MAC address {mac} is taken on bridge {bridge:?} by {owner}"),
                "choose another with --mac, or leave it out",
            )),
        }
    }

    fn automatic_mac(&self, bridge: &str, ips: &[ipnet::IpNet], random: [u8; 4]) -> Result<MacAddr> {
        let ipv4 = ips.iter().find_map(|ip| match ip.addr() {
            std::net::IpAddr::V4(ip) => Some(ip),
            std::net::IpAddr::V6(_) => None,
        });
        if let Some(ipv4) = ipv4 {
            let mac = MacAddr::from_ipv4(ipv4);
            return match self.mac_owner(bridge, mac) {
                None => Ok(mac),
                Some(owner) => Err(conflict(
                    format!("{mac}, the MAC address that goes with {ipv4}, is taken on bridge {bridge:?} by {owner}"),
                    "choose one with --mac",
                )),
            };
        }
        Ok(free_tail(random, |mac| self.mac_owner(bridge, mac).is_none()))
    }

    /// A free MAC address for an interface with `ips`: the one that goes with its IPv4 address, or any.
    pub(super) fn free_mac(ips: &[ipnet::IpNet], random: [u8; 4], is_free: impl Fn(MacAddr) -> bool) -> MacAddr {
        let ipv4 = ips.iter().find_map(|ip| match ip.addr() {
            std::net::IpAddr::V4(ip) => Some(MacAddr::from_ipv4(ip)),
            std::net::IpAddr::V6(_) => None,
        });
        ipv4.filter(|mac| is_free(*mac)).unwrap_or_else(|| free_tail(random, is_free))
    }

    /// Who has `mac` on this bridge, for a sentence.
    pub(super) fn mac_owner(&self, bridge: &str, mac: MacAddr) -> Option<String> {
        if self.mac == Some(mac) {
            return Some(format!("the host's interface {bridge:?}"));
        }
        if let Some((name, _)) = self.ports.iter().find(|(_, port)| port.mac == mac) {
            return Some(format!("port {name:?}"));
        }
        let entry = self.statics.iter().find(|entry| entry.mac == mac)?;
        Some(format!("a static entry for port {:?}", entry.port))
    }
}

/// The first free MAC address from the one with the tail `random` on.
fn free_tail(random: [u8; 4], is_free: impl Fn(MacAddr) -> bool) -> MacAddr {
    let mut tail = u32::from_be_bytes(random);
    loop {
        // Ends: a bridge has far fewer than 2^32 addresses.
        let mac = mac_of_tail(tail.to_be_bytes());
        if is_free(mac) {
            return mac;
        }
        tail = tail.wrapping_add(1);
    }
}

/// A MAC address that an interface may have, from its text.
pub(super) fn parse_mac(text: &str) -> Result<MacAddr> {
    let mac: MacAddr =
        text.parse().map_err(|why: ParseMacError| invalid(why.to_string(), "correct it, or leave it out"))?;
    if !mac.is_unicast() {
        return Err(invalid(
            format!("{mac} is a group address or all zero, which no interface may have"),
            "choose one whose first byte is even, such as 02:00:00:00:00:01",
        ));
    }
    Ok(mac)
}

pub(super) fn check_vlans(vlan: Option<u16>, trunk: &[u16]) -> Result<()> {
    if vlan.is_some() && !trunk.is_empty() {
        return Err(invalid("a port is an access port (vlan) or a trunk port, not both", "give --vlan or --trunk"));
    }
    if let Some(vid) = vlan
        && !(1..=VLAN_ID_MAX).contains(&vid)
    {
        return Err(invalid(format!("the VLAN {vid} is out of range"), format!("choose one from 1 to {VLAN_ID_MAX}")));
    }
    if let Some(vid) = trunk.iter().find(|&&vid| vid > VLAN_ID_MAX) {
        return Err(invalid(
            format!("the VLAN {vid} of the trunk is out of range"),
            format!("choose from 1 to {VLAN_ID_MAX}, and 0 for untagged frames"),
        ));
    }
    Ok(())
}

pub(super) fn check_rate(what: &str, rate: Option<u64>) -> Result<()> {
    match rate {
        Some(rate) if !(RATE_BPS_MIN..=RATE_BPS_MAX).contains(&rate) => Err(invalid(
            format!("the {what} of {rate} bit/s is out of range"),
            format!("choose one from {RATE_BPS_MIN} to {RATE_BPS_MAX} bit/s, or leave it out for no limit"),
        )),
        _ => Ok(()),
    }
}
