//! Defaults and limits of the configuration. Each limit has a name, a value and a reason.

/// The MTU of a bridge that was not given one, in bytes.
pub const MTU_DEFAULT: u32 = 1500;
/// The smallest MTU: every IPv4 host must take 68 bytes (RFC 791).
pub const MTU_MIN: u32 = 68;
/// The largest MTU that a TAP takes: `MAX_MTU` of `drivers/net/tun.c` less an Ethernet header.
pub const MTU_MAX: u32 = 65535 - 14;
/// The largest MTU of an `xdp` port. A received packet fills chunks of 4096 bytes behind a headroom of
/// 256 (`XDP_PACKET_HEADROOM`), one sent has at most 17 of them (`MAX_SKB_FRAGS`, `xsk_build_skb`), and
/// there are an Ethernet header and a VLAN tag.
pub const MTU_XDP_MAX: u32 = 17 * (4096 - 256) - 14 - 4;
/// The smallest MTU with IPv6 (RFC 8200 section 5).
pub const MTU_IPV6_MIN: u32 = 1280;
/// Seconds until a silent MAC address is forgotten (IEEE 802.1Q table 8-6).
pub const AGEING_S_DEFAULT: u32 = 300;
/// The longest ageing time, in seconds (IEEE 802.1Q table 8-6).
pub const AGEING_S_MAX: u32 = 1_000_000;
/// MAC addresses learned on one bridge.
pub const MAC_LIMIT_DEFAULT: u32 = 131_072;
/// The most that the limit of MAC addresses may be: bounds the memory of one bridge.
pub const MAC_LIMIT_MAX: u32 = 1_048_576;
/// MAC addresses learned on one port.
pub const PORT_MAC_LIMIT_DEFAULT: u32 = 16_384;
/// Flooded frames per second from one port.
pub const STORM_LIMIT_DEFAULT: u32 = 50_000;
/// VLAN ids that a port may have: 0 and 4095 are reserved (IEEE 802.1Q table 9-2).
pub const VLAN_ID_MAX: u16 = 4094;
/// The largest rate limit, in bits per second: beyond what memory moves, and far from overflow.
pub const RATE_BPS_MAX: u64 = 10_000_000_000_000;
/// The smallest rate limit, in bits per second: less would not pass one frame in a second.
pub const RATE_BPS_MIN: u64 = 8_000;
/// Labels of one bridge, and aliases of one port.
pub const LABELS_MAX: usize = 64;
/// Bytes of a label's key or value.
pub const LABEL_BYTES_MAX: usize = 255;
/// Reserved addresses of one bridge.
pub const RESERVATIONS_MAX: usize = 1024;
/// Static entries of one bridge's forwarding database.
pub const STATICS_MAX: usize = 4096;
/// Addresses of one port.
pub const PORT_ADDRESSES_MAX: usize = 16;
/// The UDP port of VXLAN (RFC 7348 section 8, assigned by IANA).
pub const VXLAN_PORT_DEFAULT: u16 = 4789;
/// The largest VXLAN network identifier: 24 bits. RFC 7348 reserves none, and Linux takes 0, too.
pub const VNI_MAX: u32 = (1 << 24) - 1;
/// The outer time to live (RFC 1700's recommendation, and the kernel's own default).
pub const TUNNEL_TTL_DEFAULT: u8 = 64;
/// The largest DSCP: 6 bits (RFC 2474).
pub const DSCP_MAX: u8 = 63;
/// VTEPs of one tunnel: each flooded frame is sent once to each.
pub const TUNNEL_REMOTES_MAX: usize = 1024;
/// Tunnels of one bridge.
pub const TUNNELS_MAX: usize = 256;
/// IP addresses of one static entry.
pub const STATIC_ADDRESSES_MAX: usize = 16;
/// Published ports and ranges of the whole switch: twice all ports of one protocol in both families, and about
/// 20 MB of state.
pub const PUBLICATIONS_MAX: usize = 4 * 65536;
/// Networks that may use a published port: each is tried for every new connection.
pub const PUBLISH_NETWORKS_MAX: usize = 256;
/// Exposed ports and ranges of one port.
pub const EXPOSED_MAX: usize = 1024;
/// Bytes of a network's or endpoint's id: Docker's have 64, and there is room for a longer digest.
pub const DOCKER_ID_BYTES_MAX: usize = 128;
