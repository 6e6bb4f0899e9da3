//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::{Error, MacAddr, be16, fixed};

/// A packet with Ethernet and IPv4 addresses.
pub const PACKET_BYTES: usize = 28;

const NAME: &str = "ARP";

/// What an ARP packet wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
    /// Another operation number.
    Other(u16),
}

/// A view of an ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    packet: &'a [u8; PACKET_BYTES],
}

impl<'a> Packet<'a> {
    /// A view of the payload of a frame of type ARP; what follows is padding.
    ///
    /// # Errors
    /// [`Error`] when the packet is not whole or is not about IPv4 over Ethernet.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let (packet, _) = fixed(NAME, bytes)?;
        // Hardware type 1, protocol type IPv4, address lengths 6 and 4.
        if packet[..6] != [0, 1, 8, 0, 6, 4] {
            return Err(Error::Malformed { header: NAME, what: "not about IPv4 over Ethernet" });
        }
        Ok(Self { packet })
    }

    /// What the packet wants.
    #[inline]
    #[must_use]
    pub fn operation(&self) -> Operation {
        match be16(self.packet, 6) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => Operation::Other(other),
        }
    }

    /// The sender's MAC address.
    #[inline]
    #[must_use]
    pub fn sender_mac(&self) -> MacAddr {
        self.mac::<8>()
    }

    /// The sender's IPv4 address; unspecified in a probe (RFC 5227).
    #[inline]
    #[must_use]
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.ip::<14>()
    }

    /// The target's MAC address; without meaning in a request.
    #[inline]
    #[must_use]
    pub fn target_mac(&self) -> MacAddr {
        self.mac::<18>()
    }

    /// The target's IPv4 address.
    #[inline]
    #[must_use]
    pub fn target_ip(&self) -> Ipv4Addr {
        self.ip::<24>()
    }

    /// Whether the packet announces the sender's own address (RFC 5227, section 2.3).
    #[inline]
    #[must_use]
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip() == self.target_ip() && !self.sender_ip().is_unspecified()
    }

    #[inline]
    fn mac<const AT: usize>(&self) -> MacAddr {
        let mut mac = [0; 6];
        mac.copy_from_slice(&self.packet[AT..AT + 6]);
        MacAddr(mac)
    }

    #[inline]
    fn ip<const AT: usize>(&self) -> Ipv4Addr {
        let mut ip = [0; 4];
        ip.copy_from_slice(&self.packet[AT..AT + 4]);
        Ipv4Addr::from(ip)
    }
}
