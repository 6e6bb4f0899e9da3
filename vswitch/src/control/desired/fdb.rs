//! Static entries of the forwarding database.

use super::limits::{STATICS_MAX, VLAN_ID_MAX};
use super::port::parse_mac;
use super::{Desired, StaticRecord};
use crate::api::FdbStatic;
use crate::control::refusal::{Result, conflict, invalid, limit};
use crate::wire::MacAddr;

impl Desired {
    /// Adds a static entry, and returns it as it was understood.
    ///
    /// # Errors
    /// There is no such bridge or port, the VLAN or the MAC address is bad, the MAC address
    /// belongs to another port, or a limit is reached. The state is then unchanged.
    pub fn add_static(&mut self, bridge: &str, entry: &FdbStatic) -> Result<StaticRecord> {
        let record = self.bridge(bridge)?;
        let mac = parse_mac(&entry.mac)?;
        if entry.vlan > VLAN_ID_MAX {
            return Err(invalid(
                format!("the VLAN {} is out of range", entry.vlan),
                format!("choose from 1 to {VLAN_ID_MAX}, and 0 for untagged frames"),
            ));
        }
        let port = if (entry.port == bridge && !record.l2) || record.uplinks.contains_key(&entry.port) {
            entry.port.clone()
        } else {
            record.find_port(bridge, &entry.port)?.to_owned()
        };
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
        let entry = StaticRecord { mac, vlan: entry.vlan, port };
        self.bridge_mut(bridge)?.statics.push(entry.clone());
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
