//! Links: the interfaces of a namespace.

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage, LinkMessageBuffer,
};
use rustix::io::Errno;

use super::{Netlink, Result, value};

/// The smallest MTU with which an interface can have IPv6 at all (RFC 8200 section 5).
pub const IPV6_MTU_MIN: u32 = 1280;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its index in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Its Ethernet address, if it is an Ethernet interface.
    pub mac: Option<[u8; 6]>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether somebody is at the other end; for a TAP: whether a process has its queue.
    pub carrier: bool,
    /// The kind of virtual interface (`tun`, `veth`, `bridge`), if it is one.
    pub kind: Option<String>,
    /// Its alias (`IFLA_IFALIAS`): a free text that stays with it; empty where there is none.
    pub alias: String,
    /// Whether it takes part in ARP (not `IFF_NOARP`).
    pub arp: bool,
    /// The index of the interface that it depends on, in that one's namespace; for a veth: the other end.
    pub peer_index: Option<u32>,
    /// The length of the transmit queue in packets.
    pub txqlen: u32,
    /// The longest super-frame that the stack hands to it, in bytes.
    pub gso_max_size: u32,
    /// Packets that the interface received; for a TAP: that the switch delivered.
    pub rx_packets: u64,
    /// The same in bytes.
    pub rx_bytes: u64,
    /// Packets that the interface sent; for a TAP: that the switch read.
    pub tx_packets: u64,
    /// The same in bytes.
    pub tx_bytes: u64,
    /// Received packets that the kernel dropped.
    pub rx_dropped: u64,
    /// Packets to be sent that the kernel dropped; for a TAP: because its queue was full.
    pub tx_dropped: u64,
}

/// What to change of a link, in one request where that is possible. The kernel works in the order
/// of the fields and keeps what it did if a later part fails.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet, in bytes.
    pub mtu: Option<u32>,
    /// Its name.
    pub name: Option<&'a str>,
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Whether it takes part in ARP.
    pub arp: Option<bool>,
    /// The length of the transmit queue in packets.
    pub txqlen: Option<u32>,
    /// The longest super-frame that the stack hands to it, in bytes; connections that exist keep theirs.
    pub gso_max_size: Option<u32>,
    /// Its alias, at most 255 bytes (`IFALIASZ`).
    pub alias: Option<&'a str>,
    /// Whether IPv6 gives it a link-local address (RFC 4291 section 2.5.6) when it comes up.
    /// Without one the interface starts no IPv6 traffic of its own.
    pub ipv6_link_local: Option<bool>,
}

impl Netlink {
    /// The interface named `name`.
    ///
    /// # Errors
    /// When the kernel cannot be asked; not when there is no such interface.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get(RouteNetlinkMessage::GetLink(message), &format!("find interface {name}"), parse)
    }

    /// The interface with the index `index`.
    ///
    /// # Errors
    /// As [`Netlink::link_by_name`].
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        self.get(RouteNetlinkMessage::GetLink(message_to(index)), &format!("find interface {index}"), parse)
    }

    /// All interfaces.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "list interfaces", parse)
    }

    /// Changes a link.
    ///
    /// # Errors
    /// What the kernel refuses: `EEXIST` for a name that is taken there, `EINVAL` for an MTU or an
    /// address that the interface cannot have, `ENODEV` if there is no such interface.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        if change.up == Some(true) && change.ipv6_link_local.is_some() {
            // The kernel would bring it up first, and make the address that is not wanted
            // (`do_setlink`: IFLA_AF_SPEC comes last).
            self.change_at_once(index, &LinkChange { up: None, ..change.clone() })?;
            return self.set_up(index);
        }
        self.change_at_once(index, change)
    }

    fn change_at_once(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        let what = describe(index, change);
        let has_ipv6 = change.mtu.is_none_or(|mtu| mtu >= IPV6_MTU_MIN);
        if let Some(on) = change.ipv6_link_local.filter(|_| has_ipv6) {
            let mut message = change_message(index, change);
            let mode = if on { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
            message
                .attributes
                .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])]));
            match self.request(RouteNetlinkMessage::SetLink(message), 0, &what) {
                // A kernel or an interface without IPv6, found before anything was changed
                // (`validate_linkmsg`): then there is nothing to switch off either.
                Err(error) if error.errno() == Some(Errno::AFNOSUPPORT) => {}
                result => return result,
            }
        }
        self.request(RouteNetlinkMessage::SetLink(change_message(index, change)), 0, &what)
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    /// Takes a link down, which removes its routes.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub fn set_down(&mut self, index: u32) -> Result<()> {
        self.change_link(index, &LinkChange { up: Some(false), ..LinkChange::default() })
    }

    /// Sets the largest IP packet, in bytes.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.change_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() })
    }

    /// Sets the Ethernet address.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<()> {
        self.change_link(index, &LinkChange { mac: Some(mac), ..LinkChange::default() })
    }

    /// Sets the length of the transmit queue in packets.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub fn set_txqlen(&mut self, index: u32, packets: u32) -> Result<()> {
        self.change_link(index, &LinkChange { txqlen: Some(packets), ..LinkChange::default() })
    }

    /// Renames a link.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        self.change_link(index, &LinkChange { name: Some(name), ..LinkChange::default() })
    }

    /// Removes a virtual link.
    ///
    /// # Errors
    /// `ENODEV` if it is gone already, `EOPNOTSUPP` if it is none that can be removed.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.request(RouteNetlinkMessage::DelLink(message_to(index)), 0, &format!("remove interface {index}"))
    }
}

fn message_to(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn change_message(index: u32, change: &LinkChange<'_>) -> LinkMessage {
    let mut message = message_to(index);
    for (flag, on) in [(LinkFlags::Up, change.up), (LinkFlags::Noarp, change.arp.map(|arp| !arp))] {
        message.header.change_mask.set(flag, on.is_some());
        message.header.flags.set(flag, on == Some(true));
    }
    let attributes = &mut message.attributes;
    attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.to_owned())));
    attributes.extend(change.txqlen.map(LinkAttribute::TxQueueLen));
    attributes.extend(change.gso_max_size.map(LinkAttribute::GsoMaxSize));
    attributes.extend(change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
    message
}

/// `change interface 7: mtu 70000, up`.
fn describe(index: u32, change: &LinkChange<'_>) -> String {
    let mut parts = Vec::new();
    parts.extend(change.mac.map(|[a, b, c, d, e, f]| format!("mac {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")));
    parts.extend(change.mtu.map(|mtu| format!("mtu {mtu}")));
    parts.extend(change.name.map(|name| format!("name {name}")));
    parts.extend(change.up.map(|up| if up { "up" } else { "down" }.to_owned()));
    parts.extend(change.arp.map(|arp| if arp { "arp" } else { "no arp" }.to_owned()));
    parts.extend(change.txqlen.map(|packets| format!("txqlen {packets}")));
    parts.extend(change.gso_max_size.map(|bytes| format!("gso_max_size {bytes}")));
    parts.extend(change.alias.map(|alias| format!("alias {alias:?}")));
    parts.extend(change.ipv6_link_local.map(|on| format!("IPv6 link-local {}", if on { "on" } else { "off" })));
    format!("change interface {index}: {}", parts.join(", "))
}

fn parse(payload: &[u8]) -> Option<Link> {
    let message = LinkMessageBuffer::new_checked(payload).ok()?;
    let flags = LinkFlags::from_bits_retain(message.flags());
    let mut link = Link {
        index: message.link_index(),
        up: flags.contains(LinkFlags::Up),
        arp: !flags.contains(LinkFlags::Noarp),
        ..Link::default()
    };
    for nla in message.attributes().flatten() {
        let value = nla.value();
        match nla.kind() {
            libc::IFLA_IFNAME => link.name = value::string(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MTU => link.mtu = value::u32(value)?,
            libc::IFLA_TXQLEN => link.txqlen = value::u32(value)?,
            libc::IFLA_GSO_MAX_SIZE => link.gso_max_size = value::u32(value)?,
            libc::IFLA_IFALIAS => link.alias = value::string(value),
            libc::IFLA_LINK => link.peer_index = Some(value::u32(value)?),
            libc::IFLA_CARRIER => link.carrier = *value.first()? != 0,
            libc::IFLA_LINKINFO => link.kind = parse_kind(value),
            libc::IFLA_STATS64 => parse_stats(value, &mut link)?,
            _ => {}
        }
    }
    Some(link)
}

fn parse_kind(info: &[u8]) -> Option<String> {
    let is_kind = |nla: &NlaBuffer<&[u8]>| nla.kind() == libc::IFLA_INFO_KIND;
    NlasIterator::new(info).flatten().find(is_kind).map(|nla| value::string(nla.value()))
}

/// `struct rtnl_link_stats64`, whose beginning never changes.
fn parse_stats(stats: &[u8], link: &mut Link) -> Option<()> {
    link.rx_packets = value::u64_at(stats, 0)?;
    link.tx_packets = value::u64_at(stats, 8)?;
    link.rx_bytes = value::u64_at(stats, 16)?;
    link.tx_bytes = value::u64_at(stats, 24)?;
    link.rx_dropped = value::u64_at(stats, 48)?;
    link.tx_dropped = value::u64_at(stats, 56)?;
    Some(())
}
