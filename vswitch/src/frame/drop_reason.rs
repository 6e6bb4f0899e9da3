//! Every drop has a named reason; a packet dropped for no reason is a bug.

macro_rules! reasons {
    ($( $(#[$doc:meta])* $variant:ident => $name:literal, )*) => {
        /// Why a frame was dropped. The names are part of the command-line contract (`stats`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $( $(#[$doc])* $variant, )* }

        impl DropReason {
            /// All reasons, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];
            /// The number of reasons.
            pub const COUNT: usize = Self::ALL.len();

            /// The name under which the reason is counted.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }
        }
    };
}

reasons! {
    // Found at ingress, counted on the port that received the frame.
    /// Shorter than an Ethernet header.
    Runt => "runt",
    /// A header that contradicts itself: a group source address, a truncated VLAN tag, offload
    /// metadata that points outside of the frame.
    Malformed => "malformed",
    /// The frame's VLAN is not allowed on the port it came in on.
    VlanIngress => "vlan-ingress",
    /// More than the port's ingress rate.
    IngressRate => "ingress-rate",
    /// More flooded frames than the bridge's storm limit allows one port.
    Storm => "storm",
    /// The source address keeps moving between ports: a loop.
    Loop => "loop",
    /// The source address is pinned to another port by a static entry.
    StaticMove => "static-move",
    /// The destination is behind the port that the frame came from.
    SamePort => "same-port",
    /// The bridge has `icc off` and the destination is not the host.
    Isolated => "isolated",
    /// A link-local control frame (IEEE 802.1Q table 8-1: STP, pause, LLDP), never forwarded.
    LinkLocal => "link-local",
    /// Flooded, but no other port of the bridge may have it.
    NoDestination => "no-destination",
    /// The port was detached between reception and processing.
    PortDetached => "port-detached",
    /// Between two remotes of one tunnel: they reach each other without us (split horizon).
    SplitHorizon => "split-horizon",
    /// The interface had to drop it before the switch could read it: no room in its receive ring.
    RxOverrun => "rx-overrun",
    /// The container's source MAC address is not its port's own.
    SpoofedMac => "spoofed-mac",
    /// The container speaks from an IP address that is not its port's own.
    SpoofedAddress => "spoofed-address",
    // Found by the gateway, counted on the port that the packet came from.
    /// Addresses that no packet may have on its way through a router (RFC 1812 section 5.3.7).
    Martian => "martian",
    /// The packet has made too many hops.
    TtlExceeded => "ttl-exceeded",
    /// For another bridge's container, or for the outside from a bridge that is `internal`.
    OtherNetwork => "other-network",
    /// From outside, for something that is not published.
    NotPublished => "not-published",
    /// From an address that the published port's `--from` does not have.
    NotAllowed => "not-allowed",
    /// From outside, for a mapping whose container never sent to that address (RFC 4787 REQ-8).
    Filtered => "filtered",
    /// In the middle of a connection that is not known.
    NoConnection => "no-connection",
    /// There is no external port left.
    PortsExhausted => "nat-ports-exhausted",
    /// The container has as many connections as it may have.
    ConnectionLimit => "connection-limit",
    /// The table of connections is full.
    ConntrackFull => "conntrack-full",
    /// A protocol, or an ICMP error, that cannot be translated.
    Untranslatable => "untranslatable",
    /// A fragment that overlaps another one of its packet (RFC 1858, RFC 5722).
    FragmentOverlap => "fragment-overlap",
    /// A fragment whose first one did not come in time.
    FragmentTimeout => "fragment-timeout",
    /// More fragments wait for their first one than may.
    FragmentsFull => "fragments-full",
    // Found on an underlay, counted on it, or on the tunnel's port where there is one.
    /// A tunnel packet whose headers are truncated or contradict themselves.
    TunnelMalformed => "tunnel-malformed",
    /// A tunnel packet with a wrong outer checksum.
    TunnelChecksum => "tunnel-checksum",
    /// A tunnel packet for a network identifier that no tunnel here has.
    UnknownVni => "unknown-vni",
    /// A tunnel packet from a host that is no remote of the tunnel.
    UnknownPeer => "unknown-peer",
    /// An inner VLAN tag on a tunnel that carries none (RFC 7348 section 6.1).
    TunnelTag => "tunnel-tag",
    /// Congestion was marked outside, but the inner packet cannot carry the mark (RFC 6040 section 4.2).
    TunnelEcn => "tunnel-ecn",
    /// A tunnel packet for a network of ours, inside of another: a loop, or somebody who wants in.
    TunnelNested => "tunnel-nested",
    /// Taken from the host's interface, but nothing here belongs to it.
    NotOurs => "not-ours",
    // Found at egress, counted on the port that the frame was for.
    /// The host has no route there.
    NoRoute => "no-route",
    /// The next hop, or the station itself, does not answer.
    NoNeighbour => "no-neighbour",
    /// The worker that serves the interface has too much to do to take more from other workers.
    HandoverFull => "handover-full",
    /// The destination's VLAN set does not include the frame's VLAN.
    VlanEgress => "vlan-egress",
    /// Larger than the MTU of the port that it was for.
    TooBig => "too-big",
    /// More than the port's egress rate.
    EgressRate => "egress-rate",
    /// The interface is administratively down.
    PortDown => "port-down",
    /// The interface or its namespace is gone.
    PortGone => "port-gone",
    /// The kernel had no memory or no room for the frame.
    NoBuffer => "no-buffer",
    /// The kernel refused the frame for another reason.
    TxError => "tx-error",
    /// A super-frame that the port cannot take and that could not be segmented.
    Unsegmentable => "unsegmentable",
    /// The worker's frame pool was empty when segments were to be made.
    PoolEmpty => "pool-empty",
}
