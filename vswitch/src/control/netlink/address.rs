//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressMessageBuffer, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, Result, value};

/// An interface's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub index: u32,
    /// The address and the length of its network's prefix.
    pub net: IpNet,
    /// Whether duplicate address detection has not finished with it (RFC 4862 section 5.4).
    pub tentative: bool,
}

impl Netlink {
    /// Gives an interface an address, and with it the route to the address's network once it is
    /// up. An IPv6 address is usable at once: the allocator knows that it is no duplicate.
    ///
    /// # Errors
    /// `EEXIST` if the interface has it already, `ENODEV` if there is no such interface, `EACCES`
    /// where IPv6 is switched off for it.
    pub fn add_addr(&mut self, index: u32, net: IpNet) -> Result<()> {
        let mut message = message(index, net);
        if net.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        if let IpNet::V4(net) = net
            && net.prefix_len() <= 30
        {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        let what = format!("add address {net} to interface {index}");
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, &what)
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if the interface does not have it, `ENODEV` if there is no such interface.
    pub fn del_addr(&mut self, index: u32, net: IpNet) -> Result<()> {
        let what = format!("remove address {net} from interface {index}");
        self.request(RouteNetlinkMessage::DelAddress(message(index, net)), 0, &what)
    }

    /// The addresses of one interface, or of all.
    ///
    /// # Errors
    /// When the kernel cannot be asked; an interface that does not exist has no addresses.
    pub fn addrs(&mut self, index: Option<u32>) -> Result<Vec<Address>> {
        let mut message = AddressMessage::default();
        // Kernels before 4.20 do not filter, so the answers are filtered as well.
        message.header.index = index.unwrap_or(0);
        let wanted = |address: &Address| index.is_none_or(|index| index == address.index);
        let rows = self
            .dump(&RouteNetlinkMessage::GetAddress(message), "list addresses", |payload| parse(payload).filter(wanted));
        match rows {
            Err(error) if error.errno() == Some(rustix::io::Errno::NODEV) => Ok(Vec::new()),
            rows => rows,
        }
    }
}

fn message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

fn parse(payload: &[u8]) -> Option<Address> {
    let message = AddressMessageBuffer::new_checked(payload).ok()?;
    let (mut local, mut address) = (None::<IpAddr>, None::<IpAddr>);
    for nla in message.attributes().flatten() {
        match nla.kind() {
            libc::IFA_LOCAL => local = value::ip(nla.value()),
            libc::IFA_ADDRESS => address = value::ip(nla.value()),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end; IPv6 has no IFA_LOCAL otherwise.
    let net = IpNet::new(local.or(address)?, message.prefix_len()).ok()?;
    let flags = AddressHeaderFlags::from_bits_retain(message.flags());
    Some(Address { index: message.index(), net, tentative: flags.contains(AddressHeaderFlags::Tentative) })
}
