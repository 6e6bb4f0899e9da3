//! What is done to the interface of a port that is there already, wherever that is.

use super::lent_link;
use crate::control::desired::PortRecord;
use crate::control::netlink::{Link, LinkChange, Netlink, NetlinkError};
use crate::control::switch::advertisements::ignore_routers;

/// Changes the MTU of the host's interface `name`. One that becomes large enough for IPv6 gets it
/// with the kernel's defaults, which are not ours.
pub(in crate::control::switch) fn set_host_mtu(name: &str, mtu: u32) -> Result<(), NetlinkError> {
    set_mtu_here(name, mtu)?;
    if let Err(error) = ignore_routers(name) {
        tracing::warn!(interface = name, %error, "the interface listens to routers");
    }
    Ok(())
}

/// The interface of a port in the calling thread's namespace, under whatever name.
pub(in crate::control::switch) fn link_here(port: &PortRecord) -> Result<Option<Link>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    if let Some(lent) = &port.lent {
        return lent_link(&mut netlink, port.ifindex, port.mac, lent);
    }
    if let Some(index) = port.ifindex
        && let Some(link) = netlink.link_by_index(index)?
        && (link.mac == Some(port.mac.0) || link.name == port.ifname)
    {
        return Ok(Some(link));
    }
    netlink.link_by_name(&port.ifname)
}

/// Changes the MTU of a port's interface in the calling thread's namespace.
pub(in crate::control::switch) fn set_port_mtu_here(port: &PortRecord, mtu: u32) -> Result<(), NetlinkError> {
    match link_here(port)? {
        Some(link) if link.mtu != mtu => Netlink::open()?.set_mtu(link.index, mtu),
        _ => Ok(()),
    }
}

/// Changes the longest super-frame of a port's interface in the calling thread's namespace.
pub(in crate::control::switch) fn set_gso_max_size_here(port: &PortRecord, bytes: u32) -> Result<(), NetlinkError> {
    match link_here(port)? {
        Some(link) if link.gso_max_size != bytes => {
            Netlink::open()?.change_link(link.index, &LinkChange { gso_max_size: Some(bytes), ..LinkChange::default() })
        }
        _ => Ok(()),
    }
}

fn set_mtu_here(name: &str, mtu: u32) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    match netlink.link_by_name(name)? {
        Some(link) if link.mtu != mtu => netlink.set_mtu(link.index, mtu),
        _ => Ok(()),
    }
}
