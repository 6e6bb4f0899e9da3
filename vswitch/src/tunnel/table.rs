//! Which port a tunnel packet belongs to.

use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::frame::DropReason;
use crate::snapshot::PortId;

/// One tunnel of an underlay.
#[derive(Debug, Clone)]
pub struct TunnelEntry {
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// Whether frames with a VLAN tag may come through (RFC 7348 section 6.1 says: only if configured).
    pub inner_tags: bool,
    /// The remote ends, and their ports.
    pub remotes: Vec<(IpAddr, PortId)>,
}

/// The tunnels of one underlay by network identifier and remote. Immutable; a change makes a new one.
#[derive(Debug, Default)]
pub struct TunnelTable {
    /// Whether tags may come through, by network identifier.
    vnis: HashMap<u32, bool, RandomState>,
    remotes: HashMap<(u32, IpAddr), PortId, RandomState>,
}

impl TunnelTable {
    /// The table of `tunnels`; each identifier and each remote of it once.
    #[must_use]
    pub fn new(tunnels: &[TunnelEntry]) -> Self {
        let vnis = tunnels.iter().map(|tunnel| (tunnel.vni, tunnel.inner_tags)).collect();
        let remotes = tunnels
            .iter()
            .flat_map(|tunnel| tunnel.remotes.iter().map(|&(remote, port)| ((tunnel.vni, remote.to_canonical()), port)))
            .collect();
        Self { vnis, remotes }
    }

    /// The port of what `peer` sent under `vni`, and whether it may be tagged.
    ///
    /// # Errors
    /// [`DropReason::UnknownVni`] and [`DropReason::UnknownPeer`].
    #[inline]
    pub fn port(&self, vni: u32, peer: IpAddr) -> Result<(PortId, bool), DropReason> {
        let &tags = self.vnis.get(&vni).ok_or(DropReason::UnknownVni)?;
        let &port = self.remotes.get(&(vni, peer.to_canonical())).ok_or(DropReason::UnknownPeer)?;
        Ok((port, tags))
    }

    /// Whether some tunnel has the network identifier `vni`.
    #[inline]
    #[must_use]
    pub fn has_network(&self, vni: u32) -> bool {
        self.vnis.contains_key(&vni)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_known_per_network() {
        let [a, b]: [IpAddr; 2] = ["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let table = TunnelTable::new(&[
            TunnelEntry { vni: 1, inner_tags: false, remotes: vec![(a, PortId(3)), (b, PortId(4))] },
            TunnelEntry { vni: 0xff_ffff, inner_tags: true, remotes: vec![(a, PortId(5))] },
        ]);
        assert_eq!(table.port(1, a), Ok((PortId(3), false)));
        assert_eq!(table.port(1, "::ffff:198.51.100.1".parse().unwrap()), Ok((PortId(3), false)));
        assert_eq!(table.port(1, b), Ok((PortId(4), false)));
        assert_eq!(table.port(0xff_ffff, a), Ok((PortId(5), true)));
        assert_eq!(table.port(0xff_ffff, b), Err(DropReason::UnknownPeer));
        assert_eq!(table.port(2, a), Err(DropReason::UnknownVni));
        assert!(table.has_network(1) && !table.has_network(2));
    }
}
