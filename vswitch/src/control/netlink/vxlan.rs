//! The kernel's own VXLAN devices, which may have what a tunnel of ours wants.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkMessage, LinkMessageBuffer};

use super::{Netlink, Result, value};

/// `IFLA_VXLAN_ID` and `IFLA_VXLAN_PORT` (`include/uapi/linux/if_link.h`).
const VXLAN_ID: u16 = 1;
const VXLAN_PORT: u16 = 15;

/// A VXLAN device of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanLink {
    /// The interface's name.
    pub name: String,
    /// Its network identifier.
    pub vni: u32,
    /// The UDP port that it receives on.
    pub port: u16,
}

impl Netlink {
    /// The kernel's VXLAN devices in this namespace.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn vxlan_links(&mut self) -> Result<Vec<VxlanLink>> {
        self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "list interfaces", parse)
    }
}

fn parse(payload: &[u8]) -> Option<VxlanLink> {
    let message = LinkMessageBuffer::new_checked(payload).ok()?;
    let (mut name, mut device) = (String::new(), None);
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::IFLA_IFNAME => name = value::string(nla.value()),
            libc::IFLA_LINKINFO => device = parse_info(nla.value()),
            _ => {}
        }
    }
    let (vni, port) = device?;
    Some(VxlanLink { name, vni, port })
}

fn parse_info(info: &[u8]) -> Option<(u32, u16)> {
    let attributes = || NlasIterator::new(info).flatten();
    attributes().find(|nla| nla.kind() == libc::IFLA_INFO_KIND && value::string(nla.value()) == "vxlan")?;
    let data = attributes().find(|nla| nla.kind() == libc::IFLA_INFO_DATA)?;
    let (mut vni, mut port) = (0, 0);
    for nla in NlasIterator::new(data.value()).flatten() {
        match nla.kind() {
            VXLAN_ID => vni = value::u32(nla.value())?,
            // In network byte order, as the only one.
            VXLAN_PORT => port = u16::from_be_bytes(*nla.value().first_chunk()?),
            _ => {}
        }
    }
    Some((vni, port))
}
