//! What is known of a frame's checksum and what segmentation it still needs.
//!
//! The contract: every frame carries what is known, nothing is computed on the way, and the
//! conversion happens at egress alone, and only for an output that cannot take it as it is.
//! The model is that of the kernel's `struct virtio_net_hdr` (`include/uapi/linux/virtio_net.h`).

/// What is known of the transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Csum {
    /// Nothing: the field holds what the sender wrote, to be verified by whoever cares.
    #[default]
    Unknown,
    /// Somebody trusted verified it (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Valid,
    /// The field holds the folded pseudo-header sum only; the sum from `start` to the end of the
    /// frame is still to be stored at `start + offset` (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Where summing starts, in bytes from the start of the frame.
        start: u16,
        /// Where the checksum field is, in bytes from `start`.
        offset: u16,
    },
}

/// The protocol by which a super-frame is segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    Tcp6,
    /// UDP over IPv4 or IPv6, cut into datagrams (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// The segmentation that a super-frame still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// By which protocol.
    pub kind: GsoKind,
    /// Whether the TCP header carries CWR, which only the first segment may keep (`GSO_ECN`).
    pub ecn: bool,
    /// Payload bytes of each segment but the last (the MSS for TCP); never zero.
    pub size: u16,
}

/// What stands in front of the inner packet of a super-frame that travels inside of a UDP tunnel: each segment gets a copy of
/// it, with lengths, identification and checksum of its own (`VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4`, `..._IPV6`; Linux
/// 6.17). The frame's [`Offload`] is then the inner packet's, with offsets from the start of the outer frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation {
    /// Whether the outer packet is IPv6.
    pub ipv6: bool,
    /// Whether each segment gets an outer UDP checksum, of which the field holds the folded pseudo-header sum
    /// (`VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM`). The field is zero otherwise.
    pub checksum: bool,
    /// Where the outer UDP header starts, in bytes from the start of the frame.
    pub transport_offset: u16,
    /// Where the inner IP header starts, in bytes from the start of the frame.
    pub inner_network_offset: u16,
}

/// Everything that is still to be done to a frame before a wire could carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum.
    pub csum: Csum,
    /// The segmentation; implies [`Csum::Partial`].
    pub gso: Option<Gso>,
}

impl Offload {
    /// Nothing known, nothing to do.
    pub const NONE: Self = Self { csum: Csum::Unknown, gso: None };

    /// The same for a frame whose front grew (`delta > 0`) or shrank by `delta` bytes.
    #[must_use]
    pub fn shifted(self, delta: i32) -> Self {
        match self.csum {
            Csum::Partial { start, offset } => {
                let start = (i32::from(start) + delta).clamp(0, i32::from(u16::MAX)) as u16;
                Self { csum: Csum::Partial { start, offset }, ..self }
            }
            Csum::Unknown | Csum::Valid => self,
        }
    }
}
