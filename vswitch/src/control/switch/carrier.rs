//! What carries tunnels: a UDP socket of the kernel per local address and port.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::overlay::UnderlayKey;
use crate::api::Dscp;
use crate::control::desired::TunnelRecord;
use crate::control::netlink::Netlink;
use crate::control::refusal::{Result, conflict, failed};
use crate::io::udp::UdpUnderlay;
use crate::io::{Device, Underlay};
use crate::tunnel::{DscpPolicy, RemoteConfig};

/// An open underlay, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Carrier(Arc<UdpUnderlay>);

impl Carrier {
    /// Where the datapath receives.
    pub(super) fn underlay(&self) -> Arc<dyn Underlay> {
        Arc::clone(&self.0) as Arc<dyn Underlay>
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
        self.0.remote(config).map_err(|error| failed(format!("{remote} cannot be sent to: {error}"), ""))
    }
}

/// Opens the underlay of `key` in the calling thread's namespace.
///
/// # Errors
/// Somebody else has the UDP port, or the host does not have the address.
pub(super) fn open(key: UnderlayKey) -> Result<Carrier> {
    UdpUnderlay::bind(key.0, key.1).map(Carrier).map_err(|error| refused(key, &error))
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
