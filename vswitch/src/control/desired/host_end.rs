//! The host's end of a port's veth pair, and what else of a port is in the host's namespace: what it is called.
//!
//! The name is made from what the port is, so that the same port gets the same name again, and it
//! says whose it is: `vsx` (`vsl` for what is lent), four characters for the daemon's state directory, eight for the port. A
//! person reads the rest in the interface's alias; `ip link` prints both.
//!
//! The daemon looks for its own interfaces by the first seven characters, and checks the alias,
//! which no other daemon gives. That is how it finds what a crash left behind
//! before it was recorded.

use serde::{Deserialize, Serialize};

use super::{Desired, INTERFACE_NAME_BYTES_MAX, PortRecord};

/// What every such name begins with.
const PREFIX: &str = "vsx";
/// What the name of an interface that is lent begins with.
const LENT_PREFIX: &str = "vsl";
/// Characters that say whose the interface is.
const OWNER_CHARS: usize = 4;
/// Characters that say which port's it is.
const PORT_CHARS: usize = INTERFACE_NAME_BYTES_MAX - PREFIX.len() - OWNER_CHARS;
/// RFC 4648's alphabet in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Where the host's end of a port's veth pair is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEnd {
    /// Its name.
    pub ifname: String,
    /// Its index, by which it is found when somebody renames it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
}

/// A daemon, among those that run at one time: the file numbers of its state directory, of which it
/// has the lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

impl Owner {
    /// What the names of its interfaces begin with.
    #[must_use]
    pub fn name_prefix(&self) -> String {
        self.prefixed(PREFIX)
    }

    fn prefixed(&self, prefix: &str) -> String {
        let hash = hash(&[&self.dev.to_be_bytes(), &self.ino.to_be_bytes()]);
        format!("{prefix}{}", base32(hash, OWNER_CHARS))
    }

    /// A number for where there is no room for a name.
    #[must_use]
    pub fn number(&self) -> u32 {
        hash(&[&self.dev.to_be_bytes(), &self.ino.to_be_bytes()]) as u32
    }

    /// What the aliases of its interfaces begin with.
    #[must_use]
    pub fn alias_prefix(&self) -> String {
        format!("vswitch {:x}:{:x} ", self.dev, self.ino)
    }

    /// The alias of a port's interface.
    #[must_use]
    pub fn alias(&self, bridge: &str, port: &str) -> String {
        format!("{}{bridge} {port}", self.alias_prefix())
    }
}

impl Owner {
    /// The alias of a port's interface that is lent.
    #[must_use]
    pub fn lent_alias(&self, bridge: &str, port: &str) -> String {
        // No name has a blank in it.
        format!("{} lent", self.alias(bridge, port))
    }
}

impl Desired {
    /// A name for the host's end of a new port that no other port's has.
    pub(super) fn free_host_end(&self, owner: Owner, bridge: &str, port: &str) -> HostEnd {
        let taken = |port: &PortRecord, name: &str| port.host_end.as_ref().is_some_and(|end| end.ifname == name);
        HostEnd { ifname: self.free_ifname(&owner.name_prefix(), bridge, port, taken), ifindex: None }
    }

    /// A name for the interface of a new port, to be lent, that no other port's has.
    pub(super) fn free_lent_ifname(&self, owner: Owner, bridge: &str, port: &str) -> String {
        let taken = |port: &PortRecord, name: &str| port.lent.as_ref().is_some_and(|lent| lent.ifname == name);
        self.free_ifname(&owner.prefixed(LENT_PREFIX), bridge, port, taken)
    }

    fn free_ifname(&self, prefix: &str, bridge: &str, port: &str, taken: impl Fn(&PortRecord, &str) -> bool) -> String {
        let mut attempt: u32 = 0;
        loop {
            // Ends: there are far fewer ports than names.
            let hash = hash(&[bridge.as_bytes(), &[0], port.as_bytes(), &[0], &attempt.to_be_bytes()]);
            let ifname = format!("{prefix}{}", base32(hash, PORT_CHARS));
            let mut ports = self.bridges.values().flat_map(|record| record.ports.values());
            if !ports.any(|port| taken(port, &ifname)) {
                return ifname;
            }
            attempt = attempt.wrapping_add(1);
        }
    }
}

/// A hash that is the same in every process and version, unlike the standard library's: 64-bit FNV-1a
/// (draft-eastlake-fnv), whose last bytes reach few bits, and so MurmurHash3's finalizer.
fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The highest bits of `hash`, five to a character.
fn base32(hash: u64, chars: usize) -> String {
    (1..=chars).map(|index| char::from(BASE32[(hash >> (64 - 5 * index)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{port, target};
    use super::*;
    use crate::api::{BridgeChange, BridgeSpec, PortSpec, PortType};
    use crate::control::desired::{HostView, MTU_MAX, MTU_XDP_MAX};

    #[test]
    fn a_name_fits_and_is_the_same_again_for_the_same_port_of_the_same_daemon() {
        let owner = Owner { dev: 0xfe00, ino: 1234 };
        let desired = Desired::default();
        let name = |owner, bridge, port| desired.free_host_end(owner, bridge, port).ifname;
        let first = name(owner, "br0", "web");
        assert_eq!(first.len(), INTERFACE_NAME_BYTES_MAX);
        assert!(first.starts_with(&owner.name_prefix()));
        assert_eq!(first, name(owner, "br0", "web"));
        let other = Owner { ino: 1235, ..owner };
        let names = [&name(owner, "br0", "db"), &name(owner, "br1", "web"), &name(other, "br0", "web")];
        assert!(!names.contains(&&first), "{names:?}");
        assert_ne!(name(owner, "br", "0web"), name(owner, "br0", "web"));
    }

    #[test]
    fn two_ports_never_have_one_name() {
        let mut desired = Desired::default();
        let spec = BridgeSpec { name: "br0".into(), ..BridgeSpec::default() };
        desired.add_bridge(&spec, &HostView::default()).expect("a bridge");
        let spec = |name: &str| PortSpec { name: Some(name.into()), port_type: PortType::Xdp, ..port() };
        desired.add_port("br0", &spec("web"), &target(1)).expect("a port");
        desired.add_port("br0", &spec("db"), &target(2)).expect("a port");
        let end = |name: &str| desired.bridges["br0"].ports[name].host_end.clone().expect("a host end");
        assert_ne!(end("web"), end("db"));
        // The name of `web` is taken, by `web` itself.
        assert_ne!(desired.free_host_end(target(1).owner, "br0", "web"), end("web"));
    }

    #[test]
    fn an_xdp_port_has_a_largest_mtu_of_its_own_and_keeps_its_type() {
        let mut desired = Desired::default();
        let bridge = BridgeSpec { name: "br0".into(), mtu: Some(MTU_MAX), ..BridgeSpec::default() };
        desired.add_bridge(&bridge, &HostView::default()).expect("a bridge");
        let spec = |port_type, mtu| PortSpec { name: Some("web".into()), port_type, mtu, ..port() };
        let refused = desired.add_port("br0", &spec(PortType::Xdp, None), &target(1)).expect_err("too large");
        assert!(refused.remedy.contains("--type tap"), "{refused:?}");
        desired.add_port("br0", &spec(PortType::Xdp, Some(MTU_XDP_MAX)), &target(1)).expect("a port");
        let refused = desired.add_port("br0", &spec(PortType::Tap, None), &target(1)).expect_err("another type");
        assert!(refused.message.contains("type xdp") && refused.remedy.contains("del-port br0 web"), "{refused:?}");
        desired.remove_port("br0", "web").expect("removes");
        // A living bridge does not grow beyond what its ports can have.
        let change = |mtu| BridgeChange { mtu: Some(mtu), ..BridgeChange::default() };
        desired.change_bridge("br0", &change(1500)).expect("changes");
        desired.add_port("br0", &spec(PortType::Xdp, None), &target(1)).expect("a port");
        assert!(desired.change_bridge("br0", &change(MTU_MAX)).is_err());
        desired.change_bridge("br0", &change(MTU_XDP_MAX)).expect("changes");
        desired.check().expect("holds to the rules");
    }
}
