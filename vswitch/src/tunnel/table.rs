//! Which port a tunnel packet belongs to.
//!
//! A remote VTEP of a tunnel is a port, so a packet's virtual network and its sender's address name
//! one. Both must be known: a packet of a network that no tunnel is for, and one from an address
//! that is no remote of the tunnel, are dropped by different reasons, because they are different
//! mistakes. A table never changes; the control plane publishes another one.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};

use crate::frame::DropReason;
use crate::snapshot::PortId;
use crate::wire::vxlan::Vni;

/// What a tunnel lets in, beyond plain frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Admission {
    /// Inner frames with a VLAN tag, which RFC 7348, section 6.1, has dropped unless configured
    /// otherwise.
    pub tagged: bool,
    /// Inner frames that are themselves packets to the tunnel's UDP port: overlays within the overlay.
    pub nested: bool,
}

/// A remote VTEP of one tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelEntry {
    /// The tunnel's virtual network.
    pub vni: Vni,
    /// The remote's address.
    pub remote: IpAddr,
    /// The port that stands for the remote.
    pub port: PortId,
    /// What is let in from it.
    pub admission: Admission,
}

/// Where the packets of one known sender go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The port that stands for the sender.
    pub port: PortId,
    /// What is let in.
    pub admission: Admission,
}

/// The remotes of all tunnels of one underlay.
#[derive(Debug, Clone, Default)]
pub struct TunnelTable {
    origins: HashMap<(Vni, IpAddr), Origin, foldhash::fast::RandomState>,
    /// The virtual networks that some tunnel is for, also one without remotes.
    vnis: HashSet<Vni, foldhash::fast::RandomState>,
}

impl TunnelTable {
    /// A table of `entries`. Of two for the same network and remote the later one counts.
    pub fn new(entries: impl IntoIterator<Item = TunnelEntry>) -> Self {
        let mut table = Self::default();
        for TunnelEntry { vni, remote, port, admission } in entries {
            table.vnis.insert(vni);
            table.origins.insert((vni, remote.to_canonical()), Origin { port, admission });
        }
        table
    }

    /// The same table, which also knows the networks of tunnels that have no remotes yet.
    #[must_use]
    pub fn with_networks(mut self, vnis: impl IntoIterator<Item = Vni>) -> Self {
        self.vnis.extend(vnis);
        self
    }

    /// Where a packet of `vni` that `sender` sent goes. An IPv4 address must not be in its IPv6 form.
    ///
    /// # Errors
    /// [`DropReason::UnknownVni`], [`DropReason::UnknownPeer`].
    #[inline]
    pub fn origin(&self, vni: Vni, sender: IpAddr) -> Result<Origin, DropReason> {
        match self.origins.get(&(vni, sender)) {
            Some(origin) => Ok(*origin),
            None if self.vnis.contains(&vni) => Err(DropReason::UnknownPeer),
            None => Err(DropReason::UnknownVni),
        }
    }

    /// Whether no tunnel is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vnis.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_the_network_and_the_sender_must_be_known() {
        let vni = |number| Vni::new(number).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let entry = |number, remote, port| TunnelEntry {
            vni: vni(number),
            remote: ip(remote),
            port: PortId(port),
            admission: Admission::default(),
        };
        let table = TunnelTable::new([
            entry(7, "198.18.0.2", 1),
            entry(7, "2001:db8::2", 2),
            entry(8, "198.18.0.2", 3),
            entry(8, "::ffff:198.18.0.9", 4),
        ])
        .with_networks([vni(9)]);
        let port = |number, sender| table.origin(vni(number), ip(sender)).map(|origin| origin.port.0);
        assert_eq!(port(7, "198.18.0.2"), Ok(1));
        assert_eq!(port(7, "2001:db8::2"), Ok(2));
        assert_eq!(port(8, "198.18.0.2"), Ok(3));
        assert_eq!(port(8, "198.18.0.9"), Ok(4));
        assert_eq!(port(8, "2001:db8::2"), Err(DropReason::UnknownPeer));
        assert_eq!(port(9, "198.18.0.2"), Err(DropReason::UnknownPeer));
        assert_eq!(port(6, "198.18.0.2"), Err(DropReason::UnknownVni));
        assert!(TunnelTable::default().is_empty() && !table.is_empty());
    }
}
