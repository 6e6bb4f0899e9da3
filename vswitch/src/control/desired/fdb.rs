//! Static entries of the forwarding database.

use std::net::IpAddr;

use super::limits::{STATIC_ADDRESSES_MAX, STATICS_MAX, VLAN_ID_MAX};
use super::port::parse_mac;
use super::{BridgeRecord, Desired, StaticRecord, UnderlayView};
use crate::api::FdbStatic;
use crate::control::refusal::{Result, conflict, invalid, limit};
use crate::wire::MacAddr;

impl Desired {
    /// Adds a static entry, and returns it as it was understood. `view` matters for an entry behind
    /// a tunnel only.
    ///
    /// # Errors
    /// There is no such bridge or port, the VLAN or the MAC address is bad, the MAC address
    /// belongs to another port, the remote can be none, or a limit is reached. The state is then
    /// unchanged.
    pub fn add_static(&mut self, bridge: &str, entry: &FdbStatic, view: &UnderlayView) -> Result<StaticRecord> {
        let record = self.bridge(bridge)?;
        let mac = parse_mac(&entry.mac)?;
        if entry.vlan > VLAN_ID_MAX {
            return Err(invalid(
                format!("the VLAN {} is out of range", entry.vlan),
                format!("choose from 1 to {VLAN_ID_MAX}, and 0 for untagged frames"),
            ));
        }
        let (port, remote) = record.place_of(bridge, entry, view)?;
        let ips = check_ips(mac, remote.is_some(), &entry.ips)?;
        if let Some(other) = record.statics.iter().find(|other| other.mac == mac && other.vlan == entry.vlan) {
            return Err(conflict(
                format!("{mac} in VLAN {} has a static entry already, for port {:?}", entry.vlan, other.port),
                "remove that first with `vswitchctl fdb-del`",
            ));
        }
        if record.mac == Some(mac) {
            return Err(conflict(format!("{mac} is the host's own address on bridge {bridge:?}"), "choose another"));
        }
        if let Some((owner, _)) = record.ports.iter().find(|(name, other)| other.mac == mac && **name != port) {
            return Err(conflict(
                format!("{mac} is the address of port {owner:?}, which would be cut off"),
                "choose another, or detach that port first",
            ));
        }
        if record.statics.len() >= STATICS_MAX {
            return Err(limit(
                format!("the bridge {bridge:?} has {STATICS_MAX} static entries, which is the limit"),
                "remove one first with `vswitchctl fdb-del`",
            ));
        }
        let taken = |ip: &IpAddr| {
            let same = |other: &&StaticRecord| other.vlan == entry.vlan && other.ips.contains(ip);
            Some((*ip, record.statics.iter().find(same)?.mac))
        };
        if let Some((ip, other)) = ips.iter().find_map(taken) {
            return Err(conflict(format!("{ip} is the address of {other} already"), "remove that entry first"));
        }
        let entry = StaticRecord { mac, vlan: entry.vlan, port, remote, ips };
        let mut next = self.clone();
        let record = next.bridge_mut(bridge)?;
        record.statics.push(entry.clone());
        if let Some(tunnel) = record.tunnels.get_mut(&entry.port)
            && tunnel.local.is_none()
        {
            tunnel.local = view.source;
        }
        next.check_room()?;
        *self = next;
        Ok(entry)
    }

    /// Removes the static entries of `mac`, in one VLAN or in all; returns how many there were.
    ///
    /// # Errors
    /// There is no such bridge, or the address is the host's own, without which the gateway would
    /// be unreachable.
    pub fn remove_static(&mut self, bridge: &str, mac: MacAddr, vlan: Option<u16>) -> Result<usize> {
        let record = self.bridge_mut(bridge)?;
        if record.mac == Some(mac) {
            return Err(conflict(
                format!("{mac} is the host's own address on bridge {bridge:?}; its entry belongs to the switch"),
                "",
            ));
        }
        let before = record.statics.len();
        record.statics.retain(|entry| entry.mac != mac || vlan.is_some_and(|vlan| vlan != entry.vlan));
        Ok(before - record.statics.len())
    }
}

impl BridgeRecord {
    /// The port, or the tunnel and the VTEP, that a static entry is for.
    fn place_of(&self, bridge: &str, entry: &FdbStatic, view: &UnderlayView) -> Result<(String, Option<IpAddr>)> {
        if let Some(tunnel) = self.tunnels.get(&entry.port) {
            let remote = match (entry.remote, tunnel.remotes.as_slice()) {
                (Some(remote), _) => remote,
                (None, [only]) => *only,
                (None, remotes) => {
                    return Err(invalid(
                        format!("the tunnel {:?} has {} remotes, and none is named", entry.port, remotes.len()),
                        "name the VTEP that the address is behind with --remote",
                    ));
                }
            };
            if !tunnel.remotes.contains(&remote) {
                tunnel.check_remote(&entry.port, remote, view)?;
                if tunnel.local.is_none() && view.source.is_none() {
                    return Err(invalid(
                        format!("the host has no route to {remote}"),
                        "add the route first, or make the tunnel with --local",
                    ));
                }
            }
            return Ok((entry.port.clone(), Some(remote)));
        }
        let port = if entry.port == bridge && !self.l2 {
            bridge.to_owned()
        } else {
            self.find_port(bridge, &entry.port)?.to_owned()
        };
        match entry.remote {
            None => Ok((port, None)),
            Some(remote) => Err(invalid(
                format!("{port:?} is not a tunnel, so that nothing is behind a remote {remote}"),
                "name a tunnel, or leave --remote out",
            )),
        }
    }
}

/// The IP addresses of a static entry, which only a station behind a tunnel may have: of the others
/// the switch knows better, or they answer themselves.
fn check_ips(mac: MacAddr, behind_tunnel: bool, ips: &[IpAddr]) -> Result<Vec<IpAddr>> {
    if !ips.is_empty() && !behind_tunnel {
        return Err(invalid(format!("{mac} is not behind a tunnel, and answers for itself"), "leave --ip out"));
    }
    if ips.len() > STATIC_ADDRESSES_MAX {
        return Err(limit(format!("{mac} would have more than {STATIC_ADDRESSES_MAX} addresses"), "name fewer"));
    }
    for (at, ip) in ips.iter().enumerate() {
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || is_broadcast {
            return Err(invalid(format!("{ip} is not the address of a station"), "name a unicast address"));
        }
        if ips[..at].contains(ip) {
            return Err(invalid(format!("{ip} is given twice"), "name it once"));
        }
    }
    Ok(ips.to_vec())
}
