/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Takes from an interface of the host what belongs to the switch, and lets everything else pass untouched.
 *
 * The rules are written once, in classify(), and compiled twice: as a tc program and as an XDP program. model.rs says
 * the same in Rust and is compared with both. What is malformed, truncated or not understood passes.
 *
 * Most of what comes is the host's. So the question that nearly always has the answer "no" comes first: one or two
 * bytes, at the packet's destination port, in two arrays of 64 KB. Only a packet of which they say "perhaps" costs a
 * look-up in a hash.
 */
#include "maps.h"
#include "packet.h"

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2
#define PACKET_HOST 0

static __always_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		*counter += 1;
}

static __always_inline bool is_local(const struct address *address)
{
	return bpf_map_lookup_elem(&local_addresses, address);
}

static __always_inline __u8 bit_of(const struct packet *packet, __u8 bit)
{
	return 1 << (bit + (packet->ipv6 ? BITS_OF_FAMILY : 0));
}

static __always_inline bool is_translated(__u16 port, __u8 bit)
{
	__u32 zero = 0;
	struct port_bits *ports = bpf_map_lookup_elem(&translated, &zero);

	return ports && ports->of[port] & bit;
}

/* The rule by which a port of `address`, which is one of the host's, is ours, or PASSED. */
static __always_inline __u32 service_of(const struct packet *packet, const struct address *address, __u16 port,
					__u8 bit)
{
	struct service key = { .address = *address, .port = bpf_htons(port), .protocol = packet->protocol };
	__u32 zero = 0, *rule;
	struct port_bits *ports = bpf_map_lookup_elem(&service_ports, &zero);

	if (!ports || !(ports->of[port] & bit))
		return PASSED;
	rule = bpf_map_lookup_elem(&services, &key);
	if (rule)
		return *rule;
	key.address = (struct address){ { 0, 0, packet->ipv6 ? 0 : bpf_htonl(0xffff), 0 } };
	rule = bpf_map_lookup_elem(&services, &key);
	return rule ? *rule : PASSED;
}

/* The bit of a protocol with ports, and how many bytes its fixed header has; 0: another protocol. */
static __always_inline __u8 port_protocol(const struct packet *packet, __u32 *header_bytes)
{
	switch (packet->protocol) {
	case PROTOCOL_TCP:
		*header_bytes = 20;
		return bit_of(packet, BIT_TCP);
	case PROTOCOL_UDP:
		*header_bytes = 8;
		return bit_of(packet, BIT_UDP);
	case PROTOCOL_SCTP:
		*header_bytes = 12;
		return bit_of(packet, BIT_SCTP);
	default:
		return 0;
	}
}

struct ports {
	__be16 source;
	__be16 destination;
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 identifier;
	__be16 sequence;
};

enum icmp_kind {
	ICMP_OTHER,
	ICMP_ECHO_REQUEST,
	ICMP_IS_ECHO_REPLY,
	ICMP_IS_ERROR,
};

/* RFC 792 and RFC 4443. Source quench is no error that a host may act upon (RFC 6633). */
static __always_inline enum icmp_kind icmp_kind(const struct packet *packet, __u8 type)
{
	if (packet->ipv6) {
		if (type >= 1 && type <= 4)
			return ICMP_IS_ERROR;
		return type == 128 ? ICMP_ECHO_REQUEST : type == 129 ? ICMP_IS_ECHO_REPLY : ICMP_OTHER;
	}
	if (type == 3 || type == 11 || type == 12)
		return ICMP_IS_ERROR;
	return type == 8 ? ICMP_ECHO_REQUEST : type == 0 ? ICMP_IS_ECHO_REPLY : ICMP_OTHER;
}

static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->protocol == (packet->ipv6 ? PROTOCOL_ICMPV6 : PROTOCOL_ICMP);
}

/*
 * Whether the packet inside of an ICMP error, of which routers return at least eight bytes of transport header
 * (RFC 792), is one that the switch has sent. An error comes to the address that its packet came from.
 */
static __always_inline bool is_error_of_ours(void *context, const bool xdp, const struct packet *packet)
{
	struct packet inner;
	__u32 at = packet->transport + sizeof(struct icmp_header), header_bytes;
	__u8 bit;

	if (packet->ipv6 ? !parse_ipv6(context, xdp, at, packet->end, true, &inner) :
			   !parse_ipv4(context, xdp, at, packet->end, true, &inner))
		return false;
	if (inner.fragment == FRAGMENT_LATER || inner.transport + 8 > packet->end)
		return false;
	for (int i = 0; i < 4; i++)
		if (inner.source.word[i] != packet->destination.word[i])
			return false;
	if (is_icmp(&inner)) {
		struct icmp_header icmp;

		return load(context, xdp, inner.transport, &icmp, sizeof(icmp)) &&
		       icmp_kind(&inner, icmp.type) == ICMP_ECHO_REQUEST &&
		       is_translated(bpf_ntohs(icmp.identifier), bit_of(&inner, BIT_ICMP)) && is_local(&inner.source);
	}
	bit = port_protocol(&inner, &header_bytes);
	if (bit) {
		struct ports ports;

		if (!load(context, xdp, inner.transport, &ports, sizeof(ports)))
			return false;
		/* A tunnel's own port is the destination of what it sends (RFC 7348 section 5). */
		return (is_translated(bpf_ntohs(ports.source), bit) ||
			service_of(&inner, &inner.source, bpf_ntohs(ports.source), bit) != PASSED ||
			service_of(&inner, &inner.source, bpf_ntohs(ports.destination), bit) == VXLAN) &&
		       is_local(&inner.source);
	}
	return false;
}

/* The rule by which a packet with a transport header is ours. */
static __always_inline __u32 classify_transport(void *context, const bool xdp, const struct packet *packet)
{
	__u32 header_bytes, rule;
	__u8 bit;

	bit = port_protocol(packet, &header_bytes);
	if (bit) {
		struct ports ports;
		__u16 port;

		/* A first fragment without a whole header is an attack or a mistake (RFC 1858). */
		if (packet->transport + header_bytes > packet->end ||
		    !load(context, xdp, packet->transport, &ports, sizeof(ports)))
			return PASSED;
		port = bpf_ntohs(ports.destination);
		rule = service_of(packet, &packet->destination, port, bit);
		if (rule == PASSED && is_translated(port, bit))
			rule = TRANSLATED;
		return rule != PASSED && is_local(&packet->destination) ? rule : PASSED;
	}
	if (is_icmp(packet)) {
		struct icmp_header icmp;

		if (packet->transport + sizeof(icmp) > packet->end ||
		    !load(context, xdp, packet->transport, &icmp, sizeof(icmp)))
			return PASSED;
		switch (icmp_kind(packet, icmp.type)) {
		case ICMP_IS_ECHO_REPLY:
			return is_translated(bpf_ntohs(icmp.identifier), bit_of(packet, BIT_ICMP)) &&
					       is_local(&packet->destination) ?
				       ECHO_REPLY :
				       PASSED;
		case ICMP_IS_ERROR:
			return is_error_of_ours(context, xdp, packet) ? ICMP_ERROR : PASSED;
		default:
			return PASSED;
		}
	}
	return PASSED;
}

/*
 * The rules. `frame_bytes` is the whole length, also of what is not in the linear part.
 *
 * Fragments: the first one decides for the packet, and anew each time, since identifications come round again. A
 * later fragment that overtakes the first passes: nobody can know whose it is, and to hold it back would delay the
 * host's packets. Its datagram is lost, and both the kernel and the switch forget their halves after 30 s.
 */
static __always_inline __u32 classify(void *context, const bool xdp, __u32 frame_bytes)
{
	struct {
		__u8 destination[6];
		__u8 source[6];
		__be16 type;
	} ethernet;
	struct packet packet;
	struct fragment_key key = {};
	__u32 rule;

	if (!load(context, xdp, 0, &ethernet, sizeof(ethernet)))
		return PASSED;
	/* Multicast and broadcast: every host on the link has it, and it belongs to none of our flows. */
	if (ethernet.destination[0] & 1)
		return PASSED;
	if (ethernet.type == bpf_htons(ETHERTYPE_IPV4)) {
		if (!parse_ipv4(context, xdp, ETHERNET_BYTES, frame_bytes, false, &packet))
			return PASSED;
	} else if (ethernet.type == bpf_htons(ETHERTYPE_IPV6)) {
		if (!parse_ipv6(context, xdp, ETHERNET_BYTES, frame_bytes, false, &packet))
			return PASSED;
	} else {
		return PASSED;
	}
	if (packet.fragment == FRAGMENT_NONE)
		return classify_transport(context, xdp, &packet);

	key.source = packet.source;
	key.destination = packet.destination;
	key.identification = packet.identification;
	key.protocol = packet.ipv6 ? 0 : packet.protocol;
	if (packet.fragment == FRAGMENT_LATER) {
		__u64 *taken = bpf_map_lookup_elem(&fragments, &key);

		return taken && bpf_ktime_get_ns() - *taken < FRAGMENT_FRESH_NS ? LATER_FRAGMENT : PASSED;
	}
	rule = classify_transport(context, xdp, &packet);
	if (rule == PASSED) {
		bpf_map_delete_elem(&fragments, &key);
	} else {
		__u64 now = bpf_ktime_get_ns();

		bpf_map_update_elem(&fragments, &key, &now, BPF_ANY);
	}
	return rule;
}

/* Sends a frame to where this interface's frames go. */
static __always_inline int redirect(struct __sk_buff *skb, bool by_neighbour)
{
	__u32 interface = skb->ifindex, *target = bpf_map_lookup_elem(&targets, &interface);

	if (!target) {
		count(NO_TARGET);
		return TC_ACT_SHOT;
	}
	return by_neighbour ? bpf_redirect_neigh(*target, NULL, 0, 0) : bpf_redirect(*target, 0);
}

/* Ingress of an interface of the host. The kernel has coalesced by now: super-frames are taken whole. */
SEC("classifier")
int vswitch_tc(struct __sk_buff *skb)
{
	__u32 rule;

	/* A tag is in the metadata, not in the frame: another network, whose packets look the same. */
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	rule = classify(skb, false, skb->len);
	if (rule == PASSED)
		return TC_ACT_UNSPEC;
	count(rule);
	return redirect(skb, false);
}

/*
 * The same as an XDP program. A queue without a socket must not hand our packets to the host, which would reset their
 * connections.
 */
SEC("xdp.frags")
int vswitch_xdp(struct xdp_md *xdp)
{
	__u32 interface = xdp->ingress_ifindex, rule, *place;
	long action;

	rule = classify(xdp, true, bpf_xdp_get_buff_len(xdp));
	if (rule == PASSED)
		return XDP_PASS;
	count(rule);
	place = bpf_map_lookup_elem(&socket_places, &interface);
	if (!place) {
		count(NO_TARGET);
		return XDP_DROP;
	}
	action = bpf_redirect_map(&sockets, *place + xdp->rx_queue_index, XDP_DROP);
	if (action != XDP_REDIRECT)
		count(NO_SOCKET);
	return action;
}

/*
 * Ingress of the TAP that carries the shared uplink's packets: what the switch sends. The kernel finds the next hop and
 * its address; super-frames and unfinished checksums stay what they are. What has no route the kernel drops without
 * telling us (`__bpf_redirect_neigh`); an IPv4 destination without one is taken to be on the link, as for any socket
 * that is bound to an interface (`ip_route_output_key_hash_rcu`).
 */
SEC("classifier")
int vswitch_out(struct __sk_buff *skb)
{
	if (skb->protocol != bpf_htons(ETHERTYPE_IPV4) && skb->protocol != bpf_htons(ETHERTYPE_IPV6)) {
		count(NOT_IP);
		return TC_ACT_SHOT;
	}
	count(CARRIED);
	return redirect(skb, true);
}

/* Ingress of either end of an L2 uplink: every frame goes to the other end as it is. */
SEC("classifier")
int vswitch_l2(struct __sk_buff *skb)
{
	return redirect(skb, false);
}

/* bpf_ktime_get_ns() is only for programs under a licence that goes with the kernel's (kernel/bpf/helpers.c). */
char _license[] SEC("license") = "Dual MIT/GPL";
