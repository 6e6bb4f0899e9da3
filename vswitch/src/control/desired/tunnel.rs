//! Adding, changing and removing VXLAN tunnels.
//!
//! A tunnel is a port of its bridge with a VTEP at each of its other ends. There are two kinds of
//! VTEPs: *remotes*, which flooded frames are replicated to, and *unicast remotes*, which exist
//! because a static entry puts an address behind them. A packet of any other VTEP is not for us.
//!
//! The kernel's `vxlan` device knows multicast groups for flooding. This switch does not: networks
//! that carry containers seldom carry multicast, and every VTEP has to be named anyway for its
//! packets to be accepted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::bridge::check_mtu;
use super::limits::{
    DSCP_MAX, MTU_DEFAULT, MTU_IPV6_MIN, TUNNEL_REMOTES_MAX, TUNNEL_TTL_DEFAULT, TUNNELS_MAX, VNI_MAX,
    VXLAN_PORT_DEFAULT,
};
use super::names::check_port_name;
use super::port::check_vlans;
use super::{BridgeRecord, Desired, TunnelRecord, UnderlayView};
use crate::api::{Carrier, Dscp, VxlanSpec};
use crate::control::refusal::{Result, conflict, invalid, limit, not_found};
use crate::snapshot::PORTS_MAX;

/// What a tunnel's headers take of the underlay's MTU, in bytes: the outer IP header (20 or 40), UDP
/// (8), VXLAN (8) and the inner Ethernet header (14), RFC 7348 section 5.
#[must_use]
pub fn overhead(ipv6: bool) -> u32 {
    if ipv6 { 70 } else { 50 }
}

impl Desired {
    /// Adds a tunnel to `bridge`, and returns its name.
    ///
    /// # Errors
    /// There is no such bridge; the name is bad or taken; a value is out of its range; an address
    /// is none that a VTEP can have; the VNI has a tunnel on the same local address and UDP port
    /// already; a limit is reached. The state is then unchanged.
    pub fn add_tunnel(&mut self, bridge: &str, spec: &VxlanSpec, view: &UnderlayView) -> Result<String> {
        let record = self.bridge(bridge)?;
        let name = spec.name.clone().unwrap_or_else(|| format!("vxlan{}", spec.vni));
        check_port_name("tunnel name", &name)?;
        record.check_names_free(bridge, &name, &[])?;
        if record.tunnels.len() >= TUNNELS_MAX {
            return Err(limit(
                format!("the bridge {bridge:?} has {TUNNELS_MAX} tunnels, which is the limit"),
                "remove one first with `vswitchctl del-vxlan`",
            ));
        }
        let mut trunk = spec.trunk.clone();
        trunk.sort_unstable();
        trunk.dedup();
        let mut tunnel = TunnelRecord {
            vni: spec.vni,
            local: spec.local,
            dst_port: spec.dst_port.unwrap_or(VXLAN_PORT_DEFAULT),
            carrier: spec.carrier.unwrap_or_default(),
            remotes: Vec::new(),
            learning: spec.learning.unwrap_or(true),
            ttl: spec.ttl.unwrap_or(TUNNEL_TTL_DEFAULT),
            dscp: spec.dscp.unwrap_or_default(),
            mtu: spec.mtu,
            vlan: spec.vlan,
            trunk,
        };
        tunnel.check_values(&name)?;
        if let Some(local) = tunnel.local {
            check_address("the local address", local)?;
            if !view.addresses.contains(&local) {
                return Err(invalid(
                    format!("{local} is not an address of this host"),
                    "`ip address` lists them; leave --local out to have one chosen",
                ));
            }
        }
        for remote in &spec.remotes {
            tunnel.add_remote(&name, *remote, view)?;
        }
        self.check_vni_free(bridge, &name, &tunnel)?;
        let mut next = self.clone();
        next.bridge_mut(bridge)?.tunnels.insert(name.clone(), tunnel);
        next.check_room()?;
        *self = next;
        Ok(name)
    }

    /// Removes a tunnel, its static entries with it.
    ///
    /// # Errors
    /// There is no such bridge or tunnel.
    pub fn remove_tunnel(&mut self, bridge: &str, name: &str) -> Result<TunnelRecord> {
        let record = self.bridge_mut(bridge)?;
        let tunnel = record.tunnels.remove(name).ok_or_else(|| no_tunnel(bridge, name))?;
        record.statics.retain(|entry| entry.port != name);
        Ok(tunnel)
    }

    /// Adds a VTEP that flooded frames are replicated to.
    ///
    /// # Errors
    /// There is no such bridge or tunnel; the address is taken, or none that a VTEP can have; a
    /// limit is reached. The state is then unchanged.
    pub fn add_remote(&mut self, bridge: &str, name: &str, remote: IpAddr, view: &UnderlayView) -> Result<()> {
        let mut next = self.clone();
        let tunnel = next.tunnel_mut(bridge, name)?;
        tunnel.add_remote(name, remote, view)?;
        let tunnel = tunnel.clone();
        next.check_vni_free(bridge, name, &tunnel)?;
        next.check_room()?;
        *self = next;
        Ok(())
    }

    /// Removes a VTEP from those that flooded frames are replicated to. Static entries keep it as a
    /// unicast remote.
    ///
    /// # Errors
    /// There is no such bridge, tunnel or remote.
    pub fn remove_remote(&mut self, bridge: &str, name: &str, remote: IpAddr) -> Result<()> {
        let tunnel = self.tunnel_mut(bridge, name)?;
        let before = tunnel.remotes.len();
        tunnel.remotes.retain(|other| *other != remote);
        if tunnel.remotes.len() == before {
            return Err(not_found(
                format!("the tunnel {name:?} of bridge {bridge:?} floods to no remote {remote}"),
                format!("`vswitchctl show {bridge}` lists its remotes"),
            ));
        }
        Ok(())
    }

    /// Lets the bridge's MTU follow its tunnels, the smallest of which carries `smallest` bytes, unless
    /// somebody chose it. Whether it changed.
    pub fn follow_tunnels(&mut self, bridge: &str, smallest: Option<u32>) -> bool {
        let Ok(record) = self.bridge_mut(bridge) else { return false };
        if record.mtu_chosen {
            return false;
        }
        let ipv6 = record.subnets.iter().any(|subnet| subnet.gateway.is_ipv6())
            || record.ports.values().any(|port| port.ips.iter().any(|ip| ip.addr().is_ipv6()));
        let mut mtu = MTU_DEFAULT.min(smallest.unwrap_or(MTU_DEFAULT));
        if ipv6 {
            // IPv6 does without nothing less; larger packets are answered by ICMP.
            mtu = mtu.max(MTU_IPV6_MIN);
        }
        std::mem::replace(&mut record.mtu, mtu) != mtu
    }

    /// The number of VTEPs, and of the sockets that carry them.
    pub(super) fn vteps_count(&self) -> usize {
        let tunnels = || self.bridges.values().flat_map(|bridge| bridge.tunnels.iter().map(move |t| (bridge, t)));
        let vteps: usize = tunnels().map(|(bridge, (name, _))| bridge.vteps(name).len()).sum();
        let underlays: BTreeSet<_> = tunnels().filter_map(|(_, (_, tunnel))| tunnel.underlay()).collect();
        vteps + underlays.len()
    }

    /// Refuses what does not fit into the datapath's tables.
    pub(super) fn check_room(&self) -> Result<()> {
        if self.ports_count() > PORTS_MAX {
            return Err(limit(
                format!("there would be more than {PORTS_MAX} ports, remote VTEPs included, which is the limit"),
                "detach ports or remove remotes first",
            ));
        }
        Ok(())
    }

    fn tunnel_mut(&mut self, bridge: &str, name: &str) -> Result<&mut TunnelRecord> {
        self.bridge_mut(bridge)?.tunnels.get_mut(name).ok_or_else(|| no_tunnel(bridge, name))
    }

    /// One socket receives for all tunnels of a local address and UDP port; the VNI alone tells
    /// whose packet it is.
    fn check_vni_free(&self, bridge: &str, name: &str, tunnel: &TunnelRecord) -> Result<()> {
        let Some(underlay) = tunnel.underlay() else { return Ok(()) };
        self.check_unpublished(underlay.0, underlay.1)?;
        for (other_bridge, record) in &self.bridges {
            for (other_name, other) in &record.tunnels {
                let is_self = (other_bridge.as_str(), other_name.as_str()) == (bridge, name);
                if !is_self {
                    check_carriers((name, tunnel), (other_name, other))?;
                }
                if !is_self && other.vni == tunnel.vni && other.underlay() == Some(underlay) {
                    let (local, port) = underlay;
                    return Err(conflict(
                        format!(
                            "VNI {} on {local}, UDP port {port} belongs to the tunnel {other_name:?} of bridge \
                             {other_bridge:?}",
                            tunnel.vni
                        ),
                        "choose another VNI, another --dst-port or another --local",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What is taken from an uplink never reaches a socket; and an uplink has one reader, who looks for one local
/// address and port.
fn check_carriers((name, tunnel): (&str, &TunnelRecord), (other_name, other): (&str, &TunnelRecord)) -> Result<()> {
    let same = other.underlay() == tunnel.underlay();
    let uplinks = [tunnel, other].into_iter().filter(|tunnel| tunnel.carrier == Carrier::Uplink).count();
    if uplinks == 1 && same {
        return Err(conflict(
            format!(
                "the tunnels {name:?} and {other_name:?} have the same local address and UDP port, but one is carried by \
                 sockets and the other by the uplink"
            ),
            "give both the same --carrier, or choose another --dst-port",
        ));
    }
    if uplinks == 2 && !same && other.underlay().is_some() {
        return Err(conflict(
            format!("the uplink carries the tunnel {other_name:?} from another local address or UDP port"),
            "all tunnels over the uplink share both; use `--carrier socket` for the others",
        ));
    }
    Ok(())
}

impl BridgeRecord {
    /// The tunnel `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn tunnel(&self, bridge: &str, name: &str) -> Result<&TunnelRecord> {
        self.tunnels.get(name).ok_or_else(|| no_tunnel(bridge, name))
    }

    /// All VTEPs of the tunnel `name`, and whether flooded frames are replicated to them.
    #[must_use]
    pub fn vteps(&self, name: &str) -> Vec<(IpAddr, bool)> {
        let Some(tunnel) = self.tunnels.get(name) else { return Vec::new() };
        let mut vteps: Vec<_> = tunnel.remotes.iter().map(|remote| (*remote, true)).collect();
        vteps.extend(self.unicast_remotes(name).into_iter().map(|remote| (remote, false)));
        vteps
    }

    /// The VTEPs of the tunnel `name` that only static entries lead to.
    #[must_use]
    pub fn unicast_remotes(&self, name: &str) -> BTreeSet<IpAddr> {
        let Some(tunnel) = self.tunnels.get(name) else { return BTreeSet::new() };
        let remotes: BTreeSet<_> = tunnel.remotes.iter().collect();
        let entries = self.statics.iter().filter(|entry| entry.port == name);
        entries.filter_map(|entry| entry.remote).filter(|remote| !remotes.contains(remote)).collect()
    }

    /// Checks the tunnels of a state that was loaded.
    pub(super) fn check_tunnels(&self, bridge: &str) -> Result<()> {
        if self.tunnels.len() > TUNNELS_MAX {
            return Err(limit(format!("the bridge {bridge:?} has more than {TUNNELS_MAX} tunnels"), ""));
        }
        for (name, tunnel) in &self.tunnels {
            tunnel.check_values(name)?;
            if let Some(local) = tunnel.local {
                check_address("the local address", local)?;
            }
            let mut again = TunnelRecord { remotes: Vec::new(), ..tunnel.clone() };
            let view = UnderlayView { addresses: BTreeSet::new(), source: tunnel.local };
            for remote in &tunnel.remotes {
                again.add_remote(name, *remote, &view)?;
            }
            for remote in self.unicast_remotes(name) {
                tunnel.check_remote(name, remote, &view)?;
            }
        }
        Ok(())
    }
}

impl TunnelRecord {
    /// The local address and UDP port, once there is a local address.
    #[must_use]
    pub fn underlay(&self) -> Option<(IpAddr, u16)> {
        Some((self.local?, self.dst_port))
    }

    /// Whether frames with a VLAN tag pass (RFC 7348, section 6.1: only if that was asked for).
    #[must_use]
    pub fn carries_tags(&self) -> bool {
        self.trunk.iter().any(|vid| *vid != 0)
    }

    /// Checks every value that has a range of its own.
    fn check_values(&self, name: &str) -> Result<()> {
        if self.vni > VNI_MAX {
            return Err(invalid(
                format!("the VNI {} is out of range", self.vni),
                format!("choose one from 0 to {VNI_MAX} (24 bits, RFC 7348)"),
            ));
        }
        if self.dst_port == 0 {
            return Err(invalid("the UDP port 0 is none", format!("choose another, such as {VXLAN_PORT_DEFAULT}")));
        }
        if self.ttl == 0 {
            return Err(invalid("a time to live of 0 reaches nobody", "choose one from 1 to 255"));
        }
        if let Dscp::Fixed(dscp) = self.dscp
            && dscp > DSCP_MAX
        {
            return Err(invalid(
                format!("the DSCP {dscp} is out of range"),
                format!("choose one from 0 to {DSCP_MAX}"),
            ));
        }
        check_vlans(self.vlan, &self.trunk)?;
        match self.mtu {
            Some(mtu) => check_mtu(&format!("the tunnel {name:?}"), mtu, false),
            None => Ok(()),
        }
    }

    fn add_remote(&mut self, name: &str, remote: IpAddr, view: &UnderlayView) -> Result<()> {
        if self.remotes.contains(&remote) {
            return Err(conflict(format!("the tunnel {name:?} has the remote {remote} already"), "name it once"));
        }
        if self.remotes.len() >= TUNNEL_REMOTES_MAX {
            return Err(limit(
                format!("the tunnel {name:?} has {TUNNEL_REMOTES_MAX} remotes, which is the limit"),
                "remove one first with `vswitchctl del-remote`",
            ));
        }
        self.check_remote(name, remote, view)?;
        if self.local.is_none() {
            let local = view.source.ok_or_else(|| {
                invalid(
                    format!("the host has no route to {remote}, so that the local address of the tunnel is not known"),
                    "name it with --local, or add the route first",
                )
            })?;
            self.local = Some(local);
        }
        self.remotes.push(remote);
        Ok(())
    }

    /// Checks that `remote` can be a VTEP of this tunnel, named `name`.
    pub(super) fn check_remote(&self, name: &str, remote: IpAddr, view: &UnderlayView) -> Result<()> {
        check_address("the remote", remote)?;
        if self.local == Some(remote) || view.addresses.contains(&remote) {
            return Err(invalid(
                format!("the remote {remote} is this host itself, which would receive what it sent"),
                "name the other hosts' addresses",
            ));
        }
        let other = self.local.or(self.remotes.first().copied()).filter(|other| other.is_ipv4() != remote.is_ipv4());
        if let Some(other) = other {
            return Err(invalid(
                format!("the remote {remote} and {other} of tunnel {name:?} are of different address families"),
                "a tunnel has one underlay, IPv4 or IPv6: make a second tunnel for the other",
            ));
        }
        Ok(())
    }
}

/// Checks that a VTEP can have the address `ip`.
fn check_address(what: &str, ip: IpAddr) -> Result<()> {
    let unicast = "name the unicast address of a VTEP";
    if ip.is_multicast() {
        return Err(invalid(
            format!(
                "{what} {ip} is a multicast group; this switch replicates flooded frames itself, one to each remote"
            ),
            "name each VTEP with --remote or `vswitchctl add-remote`",
        ));
    }
    if ip.is_unspecified() {
        return Err(invalid(format!("{what} {ip} is nobody's address"), unicast));
    }
    match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => Err(invalid(format!("{what} {ip} is a broadcast address"), unicast)),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Err(invalid(format!("{what} {ip} is an IPv4 address in disguise"), "write it as an IPv4 address"))
        }
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Err(invalid(
            format!("{what} {ip} is a link-local address, which means nothing without its interface"),
            "use a global or a unique local address (fc00::/7)",
        )),
        _ => Ok(()),
    }
}

fn no_tunnel(bridge: &str, name: &str) -> crate::api::Error {
    not_found(
        format!("the bridge {bridge:?} has no tunnel {name:?}"),
        format!("`vswitchctl show {bridge}` lists its tunnels"),
    )
}
