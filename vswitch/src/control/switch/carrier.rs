//! What carries tunnels: UDP sockets of the kernel per local address and port, or the shared uplink.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::overlay::UnderlayKey;
use super::shared_uplinks::SharedCarry;
use crate::api::Dscp;
use crate::control::desired::TunnelRecord;
use crate::control::netlink::Netlink;
use crate::control::refusal::{Result, conflict, failed};
use crate::io::udp::UdpUnderlay;
use crate::io::uplink::UplinkTunnels;
use crate::io::{Device, Underlay};
use crate::tunnel::{DscpPolicy, RemoteConfig};

/// An open underlay, cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Carrier {
    /// Sockets of the kernel.
    Socket(Arc<UdpUnderlay>),
    /// A shared uplink, by its device.
    Uplink(Arc<UplinkTunnels>, Arc<dyn Device>),
}

impl Carrier {
    /// Where the datapath receives.
    pub(super) fn underlay(&self) -> Arc<dyn Underlay> {
        match self {
            Self::Socket(sockets) => Arc::clone(sockets) as Arc<dyn Underlay>,
            Self::Uplink(tunnels, _) => Arc::clone(tunnels) as Arc<dyn Underlay>,
        }
    }

    /// The uplink's device, if an uplink carries it.
    pub(super) fn uplink(&self) -> Option<&Arc<dyn Device>> {
        match self {
            Self::Socket(_) => None,
            Self::Uplink(_, device) => Some(device),
        }
    }

    /// Where the datapath sends what is for `remote`.
    ///
    /// # Errors
    /// The kernel gives no sockets to send from.
    pub(super) fn remote(&self, tunnel: &TunnelRecord, remote: IpAddr) -> Result<Arc<dyn Device>> {
        let dscp = match tunnel.dscp {
            Dscp::Inherit => DscpPolicy::Inherit,
            Dscp::Fixed(dscp) => DscpPolicy::Fixed(dscp),
        };
        let config = RemoteConfig {
            vni: tunnel.vni,
            remote,
            dst_port: tunnel.dst_port,
            ttl: tunnel.ttl,
            dscp,
            inner_tags: tunnel.carries_tags(),
        };
        let device = match self {
            Self::Socket(sockets) => sockets.remote(config),
            Self::Uplink(tunnels, _) => tunnels.remote(config),
        };
        device.map_err(|error| failed(format!("{remote} cannot be sent to: {error}"), ""))
    }
}

/// The underlay of `key` over that one of the shared uplinks `carries` that has its address.
///
/// # Errors
/// None has it.
pub(super) fn over_uplink((local, port): UnderlayKey, carries: &[SharedCarry]) -> Result<Carrier> {
    let carry = carries.iter().find(|carry| carry.addresses.contains(&local)).ok_or_else(|| {
        failed(
            format!("no uplink that the switch shares with the host has the address {local} now"),
            "name its interface when the daemon is started, `vswitch --uplink IFACE`, or use `--carrier socket`",
        )
    })?;
    let (device, next_hops) = (Arc::clone(&carry.device), carry.next_hops.clone());
    let tunnels = UplinkTunnels::new(Arc::clone(&device), next_hops, (carry.index, carry.mtu), (local, port));
    Ok(Carrier::Uplink(tunnels, device))
}

/// Opens the sockets of `key` in the calling thread's namespace.
///
/// # Errors
/// Somebody else has the UDP port, or the host does not have the address.
pub(super) fn open(key: UnderlayKey) -> Result<Carrier> {
    UdpUnderlay::bind(key.0, key.1).map(Carrier::Socket).map_err(|error| refused(key, &error))
}

fn refused((local, port): UnderlayKey, error: &io::Error) -> crate::api::Error {
    let socket = SocketAddr::new(local, port);
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let devices = Netlink::open().and_then(|mut netlink| netlink.vxlan_links()).unwrap_or_default();
            let device = devices.iter().find(|device| device.port == port);
            match device {
                Some(device) => conflict(
                    format!(
                        "the UDP port {port} belongs to the kernel's VXLAN device {:?} (VNI {})",
                        device.name, device.vni
                    ),
                    "remove that with `ip link del`, or choose another port with --dst-port on every VTEP",
                ),
                None => conflict(
                    format!("{socket} is in use by another program"),
                    format!("`ss -ulpn sport = :{port}` tells which; or choose another port with --dst-port"),
                ),
            }
        }
        io::ErrorKind::AddrNotAvailable => failed(
            format!("the host does not have the address {local} now"),
            "give it back to an interface; the tunnel is tried again by itself",
        ),
        _ => failed(format!("{socket} cannot be opened: {error}"), "see the daemon's log"),
    }
}
