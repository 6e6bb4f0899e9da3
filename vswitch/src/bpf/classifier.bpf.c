/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Takes from an interface of the host what belongs to the switch, and lets everything else pass untouched.
 *
 * The rules are written once, in classify(), and compiled twice: as a tc program and as an XDP program. model.rs says
 * the same in Rust and is compared with both. What is malformed, truncated or not understood passes.
 *
 * Most of what comes is the host's. So the question that nearly always has the answer "no" comes first: three
 * bytes, at the packet's destination port, in arrays of 64 KB. Only a packet of which they say "perhaps" costs a
 * look-up in a hash.
 */
#include "maps.h"
#include "packet.h"

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2
#define PACKET_HOST 0

/* The words of a packet that programs of one hook have in common, and what is in them: see pass() and guard(). */
#define CB_SEEN 0
#define CB_OURS 1

static __always_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		*counter += 1;
}

/* 127.0.0.0/8 and ::1 (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3). */
static __always_inline bool is_loopback(const struct address *address)
{
	if (address->word[0] | address->word[1])
		return false;
	if (address->word[2] == bpf_htonl(0xffff))
		return (address->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !address->word[2] && address->word[3] == bpf_htonl(1);
}

/*
 * Whether the host has this address. Its loopback addresses are nobody's but its own: what comes for them from
 * elsewhere (`lo` is false) is for the kernel to drop.
 */
static __always_inline bool is_local(const struct address *address, const bool lo)
{
	if (is_loopback(address))
		return lo;
	return bpf_map_lookup_elem(&local_addresses, address);
}

static __always_inline __u8 family_bit(bool ipv6, __u8 bit)
{
	return 1 << (bit + (ipv6 ? BITS_OF_FAMILY : 0));
}

static __always_inline __u8 bit_of(const struct packet *packet, __u8 bit)
{
	return family_bit(packet->ipv6, bit);
}

static __always_inline bool has_bit(void *map, __u16 port, __u8 bit)
{
	__u32 zero = 0;
	struct port_bits *ports = bpf_map_lookup_elem(map, &zero);

	return ports && ports->of[port] & bit;
}

static __always_inline bool is_translated(__u16 port, __u8 bit)
{
	return has_bit(&translated, port, bit);
}

/* The rule of a port in `services`, or PASSED; of tunnels only if they are asked for. */
static __always_inline __u32 rule_of(const struct service_key *key, __u16 port, const bool tunnels)
{
	struct service_block *block = bpf_map_lookup_elem(&services, key);
	__u64 bit = 1ULL << (port % SERVICE_BLOCK);

	if (!block)
		return PASSED;
	return block->published & bit ? PUBLISHED : tunnels && block->vxlan & bit ? VXLAN : PASSED;
}

/* The rule by which a port of `address`, which is one of the host's, is ours, or PASSED. */
static __always_inline __u32 service_of(const struct packet *packet, const struct address *address, __u16 port,
					__u8 bit, const bool tunnels)
{
	struct service_key key = {
		.address = *address,
		.block = port / SERVICE_BLOCK,
		.protocol = packet->protocol,
	};
	__u32 rule;

	if (has_bit(&service_ports, port, bit)) {
		rule = rule_of(&key, port, tunnels);
		if (rule != PASSED)
			return rule;
		key.address = (struct address){ { 0, 0, packet->ipv6 ? 0 : bpf_htonl(0xffff), 0 } };
		rule = rule_of(&key, port, tunnels);
		if (rule != PASSED)
			return rule;
	}
	return has_bit(&published, port, bit) ? PUBLISHED : PASSED;
}

/* Whether the packet is for a network behind the switch, and not for the host's own address in there. */
static __always_inline bool is_routed(const struct packet *packet)
{
	struct network network = { .prefix_bits = 8 * sizeof(struct address), .address = packet->destination };
	__u32 zero = 0, *count = bpf_map_lookup_elem(&routed_count, &zero);

	return count && *count && bpf_map_lookup_elem(&routed, &network) && !is_local(&packet->destination, true);
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
static __always_inline bool is_error_of_ours(void *context, const bool xdp, const bool lo, const bool tunnels,
					     const struct packet *packet)
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
		       is_translated(bpf_ntohs(icmp.identifier), bit_of(&inner, BIT_ICMP)) && is_local(&inner.source, lo);
	}
	bit = port_protocol(&inner, &header_bytes);
	if (bit) {
		struct ports ports;

		if (!load(context, xdp, inner.transport, &ports, sizeof(ports)))
			return false;
		/* A tunnel's own port is the destination of what it sends (RFC 7348 section 5). */
		return (is_translated(bpf_ntohs(ports.source), bit) ||
			service_of(&inner, &inner.source, bpf_ntohs(ports.source), bit, tunnels) != PASSED ||
			service_of(&inner, &inner.source, bpf_ntohs(ports.destination), bit, tunnels) == VXLAN) &&
		       is_local(&inner.source, lo);
	}
	return false;
}

/* The rule by which a packet with a transport header is ours. */
static __always_inline __u32 classify_transport(void *context, const bool xdp, const bool lo, const bool tunnels,
						const struct packet *packet)
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
		rule = service_of(packet, &packet->destination, port, bit, tunnels);
		if (rule == PASSED && is_translated(port, bit))
			rule = TRANSLATED;
		return rule != PASSED && is_local(&packet->destination, lo) ? rule : PASSED;
	}
	if (is_icmp(packet)) {
		struct icmp_header icmp;

		if (packet->transport + sizeof(icmp) > packet->end ||
		    !load(context, xdp, packet->transport, &icmp, sizeof(icmp)))
			return PASSED;
		switch (icmp_kind(packet, icmp.type)) {
		case ICMP_IS_ECHO_REPLY:
			return is_translated(bpf_ntohs(icmp.identifier), bit_of(packet, BIT_ICMP)) &&
					       is_local(&packet->destination, lo) ?
				       ECHO_REPLY :
				       PASSED;
		case ICMP_IS_ERROR:
			return is_error_of_ours(context, xdp, lo, tunnels, packet) ? ICMP_ERROR : PASSED;
		default:
			return PASSED;
		}
	}
	return PASSED;
}

static __always_inline struct fragment_key fragment_key(const struct packet *packet)
{
	return (struct fragment_key){
		.source = packet->source,
		.destination = packet->destination,
		.identification = packet->identification,
		.protocol = packet->ipv6 ? 0 : packet->protocol,
	};
}

/* Notes whose a packet in fragments is that is not taken; `flags`: BPF_NOEXIST, unless somebody has noted it. */
static __always_inline bool note_fragment(const struct fragment_key *key, __u64 now, bool is_hosts, __u64 flags)
{
	struct host_fragment value = { .since = now, .is_hosts = is_hosts };

	return !bpf_map_update_elem(&host_fragments, key, &value, flags);
}

/*
 * The rule for a later fragment of a packet whose first one was not seen. Nobody can know whose it is, so the switch
 * has it until the first one comes, which is soon: its packet was reordered on the way, or by the queues of this host's
 * card, which spread first fragments by their ports and later ones by their addresses. No more than a number in
 * a while: whoever sends a flood of them sends it to the host.
 */
static __always_inline __u32 withhold(const __u32 interface, const struct packet *packet,
				      const struct fragment_key *key)
{
	struct host_fragment *known = bpf_map_lookup_elem(&host_fragments, key);
	struct withholding *budget;
	__u64 now = bpf_ktime_get_ns();
	bool fresh = known && now - known->since < FRAGMENT_FRESH_NS;

	if (fresh && known->is_hosts)
		return PASSED;
	budget = bpf_map_lookup_elem(&withholding, &interface);
	if (!budget || !is_local(&packet->destination, false))
		return PASSED;
	/* Several processors may count at once; one more or less does not matter. */
	if (now - budget->since >= WITHHOLDING_WINDOW_NS) {
		budget->since = now;
		budget->withheld = 0;
	}
	if (budget->withheld >= budget->per_window)
		return PASSED;
	budget->withheld++;
	if (known) {
		if (!fresh)
			note_fragment(key, now, false, BPF_ANY);
	} else if (!note_fragment(key, now, false, BPF_NOEXIST)) {
		/* Another processor has just had one of its fragments, perhaps the first one. */
		known = bpf_map_lookup_elem(&host_fragments, key);
		if (known && known->is_hosts)
			return PASSED;
	}
	return UNDECIDED;
}

/*
 * The rule for the first fragment of a packet of the host's. If later ones are withheld, the switch has this one, too:
 * so it learns whose they are, and gives all of them back. Those that come from now on pass.
 */
static __always_inline __u32 pass_first(const __u32 interface, const struct packet *packet,
					const struct fragment_key *key)
{
	struct host_fragment *known;
	__u64 now;
	bool is_awaited;

	if (!bpf_map_lookup_elem(&withholding, &interface) || !is_local(&packet->destination, false))
		return PASSED;
	known = bpf_map_lookup_elem(&host_fragments, key);
	now = bpf_ktime_get_ns();
	is_awaited = known && !known->is_hosts && now - known->since < FRAGMENT_FRESH_NS;
	note_fragment(key, now, true, BPF_ANY);
	return is_awaited ? UNDECIDED : PASSED;
}

/* Who asks. */
enum hook {
	HOOK_UPLINK, /* the classifier of an uplink */
	HOOK_LO,     /* that of `lo`: the packet is the host's own, to itself */
	HOOK_REAR,   /* the rear guard of an uplink: what comes for a tunnel does not count, and nobody withholds */
	HOOK_LO_REAR /* that of `lo` */
};

/*
 * The rules. `frame_bytes` is the whole length, also of what is not in the linear part; `interface`: where the frame
 * came in.
 *
 * Fragments: the first one decides for the packet, and anew each time, since identifications come round again. Later
 * ones that overtake it from outside are withheld from the host until it comes; on `lo` nothing overtakes.
 */
static __always_inline __u32 classify(void *context, const bool xdp, const enum hook hook, const __u32 interface,
				      __u32 frame_bytes)
{
	const bool lo = hook == HOOK_LO || hook == HOOK_LO_REAR, tunnels = hook == HOOK_UPLINK || hook == HOOK_LO;
	struct {
		__u8 destination[6];
		__u8 source[6];
		__be16 type;
	} ethernet;
	struct packet packet;
	struct fragment_key key;
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
	if (!lo && is_routed(&packet))
		return ROUTED;
	if (packet.fragment == FRAGMENT_NONE)
		return classify_transport(context, xdp, lo, tunnels, &packet);

	/* A group's address is no sender's, and says something else to the switch: see mark_undecided(). */
	if (ethernet.source[0] & 1)
		return PASSED;
	key = fragment_key(&packet);
	if (packet.fragment == FRAGMENT_LATER) {
		__u64 *taken = bpf_map_lookup_elem(&fragments, &key);

		if (taken && bpf_ktime_get_ns() - *taken < FRAGMENT_FRESH_NS)
			return LATER_FRAGMENT;
		return hook == HOOK_UPLINK ? withhold(interface, &packet, &key) : PASSED;
	}
	rule = classify_transport(context, xdp, lo, tunnels, &packet);
	if (rule == PASSED) {
		bpf_map_delete_elem(&fragments, &key);
		if (hook == HOOK_UPLINK)
			rule = pass_first(interface, &packet, &key);
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

/*
 * Lets the host have a packet. The rear guard, if it is this classifier's, need not look at it again: the words that
 * the programs of one hook have in common stay with the packet until the last of them has run.
 */
static __always_inline int pass(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct watch *watch = bpf_map_lookup_elem(&rear_watch, &zero);

	if (watch)
		skb->cb[CB_SEEN] = watch->classifier;
	return TC_ACT_UNSPEC;
}

/* Where the first byte of the source address is in a frame, and the bit of it that makes a group's address. */
#define SOURCE_ADDRESS 6
#define GROUP_BIT 1

/*
 * Says to the switch that a frame is the host's unless it knows better: as a group's source address, which no frame
 * has on any wire (IEEE 802.3 section 3.2.3). In the same way the switch says which frames it gives back.
 */
static __always_inline bool mark_undecided(struct __sk_buff *skb, bool mark)
{
	__u8 byte;

	if (bpf_skb_load_bytes(skb, SOURCE_ADDRESS, &byte, sizeof(byte)))
		return false;
	byte = mark ? byte | GROUP_BIT : byte & ~GROUP_BIT;
	return !bpf_skb_store_bytes(skb, SOURCE_ADDRESS, &byte, sizeof(byte), 0);
}

/* Ingress of an interface of the host. The kernel has coalesced by now: super-frames are taken whole. */
SEC("classifier")
int vswitch_tc(struct __sk_buff *skb)
{
	__u32 rule;

	/* A tag is in the metadata, not in the frame: another network, whose packets look the same. */
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	rule = classify(skb, false, HOOK_UPLINK, skb->ifindex, skb->len);
	if (rule == PASSED || (rule == UNDECIDED && !mark_undecided(skb, true)))
		return pass(skb);
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

	rule = classify(xdp, true, HOOK_UPLINK, interface, bpf_xdp_get_buff_len(xdp));
	if (rule == PASSED)
		return XDP_PASS;
	if (rule == UNDECIDED) {
		__u8 *data = (void *)(long)xdp->data;

		if (data + SOURCE_ADDRESS + 1 > (__u8 *)(long)xdp->data_end)
			return XDP_PASS;
		data[SOURCE_ADDRESS] |= GROUP_BIT;
	}
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
 * Gives the host a fragment that the switch has had, as though the interface had received it now: what sees the
 * interface's packets sees it, firewalls among them. The classifier, which it passes once more, is told before.
 */
static __always_inline int give_back(struct __sk_buff *skb)
{
	__u32 interface = skb->ifindex, *target = bpf_map_lookup_elem(&targets, &interface);
	struct fragment_key key;
	struct packet packet;

	if (!target || !mark_undecided(skb, false)) {
		count(NO_TARGET);
		return TC_ACT_SHOT;
	}
	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4) ?
		    !parse_ipv4(skb, false, ETHERNET_BYTES, skb->len, false, &packet) :
		    !parse_ipv6(skb, false, ETHERNET_BYTES, skb->len, false, &packet)) {
		count(NOT_IP);
		return TC_ACT_SHOT;
	}
	key = fragment_key(&packet);
	note_fragment(&key, bpf_ktime_get_ns(), true, BPF_ANY);
	count(GIVEN_BACK);
	return bpf_redirect(*target, BPF_F_INGRESS);
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
	__u8 source;

	if (skb->protocol != bpf_htons(ETHERTYPE_IPV4) && skb->protocol != bpf_htons(ETHERTYPE_IPV6)) {
		count(NOT_IP);
		return TC_ACT_SHOT;
	}
	if (!load(skb, false, SOURCE_ADDRESS, &source, sizeof(source)))
		return TC_ACT_SHOT;
	if (source & GROUP_BIT)
		return give_back(skb);
	count(CARRIED);
	return redirect(skb, true);
}

/*
 * What the switch sends to a program of this host, on its way through `lo`. No socket can give its packets a `tc_index`,
 * and nothing in the kernel looks at it but the queueing disciplines that are told to. 'vs'.
 */
#define OURS_ON_LO 0x7673

/* Where a destination address is in a frame with an IPv4 header. */
#define IPV4_DESTINATION (ETHERNET_BYTES + 16)

/*
 * Ingress of `lo`: everything that the host sends to itself comes by here. What the switch sent is not taken again, so
 * there can be no loop, whatever its ports are.
 */
SEC("classifier")
int vswitch_lo(struct __sk_buff *skb)
{
	__u32 rule;

	if (skb->tc_index == OURS_ON_LO) {
		if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
			__be32 destination = skb->mark;

			if (bpf_skb_store_bytes(skb, IPV4_DESTINATION, &destination, sizeof(destination), 0))
				return TC_ACT_SHOT;
		}
		skb->mark = 0;
		skb->tc_index = 0;
		skb->cb[CB_OURS] = OURS_ON_LO;
		/* The TAP's address is not the one that the frame was sent to. */
		bpf_skb_change_type(skb, PACKET_HOST);
		return TC_ACT_UNSPEC;
	}
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	rule = classify(skb, false, HOOK_LO, 0, skb->len);
	if (rule == PASSED)
		return pass(skb);
	count(rule);
	return redirect(skb, false);
}

/*
 * Ingress of the TAP that carries the packets of `lo`: what the switch sends to programs of this host, from its
 * loopback addresses or from those of its other interfaces. A packet from outside must not have such a source, nor
 * 127.0.0.1 as its destination, and the kernel drops it (`ip_route_input_slow`, `fib_validate_source`) unless `lo` is
 * told otherwise by `route_localnet` and `accept_local`. A packet that has been routed on its way out is not asked
 * again: that is what the host's own have on `lo` (`skb_valid_dst` in `ip_rcv_finish_core`). So the kernel is made to
 * route ours, to 127.0.0.1, which it always finds at `lo` (the host's other addresses it would look for at their own
 * interfaces, `fib_lookup_good_nhc`); the destination proper goes along in the mark, and is put back at `lo`.
 * Checksums cover the destination, and are never looked at in between.
 *
 * IPv6 asks nothing of the kind: what comes in by `lo` may be from ::1 and to it (`ip6_rcv_core`).
 */
SEC("classifier")
int vswitch_lo_out(struct __sk_buff *skb)
{
	__be32 destination, loopback = bpf_htonl(0x7f000001);
	__u8 none[6] = {};

	if (skb->protocol == bpf_htons(ETHERTYPE_IPV4)) {
		if (bpf_skb_load_bytes(skb, IPV4_DESTINATION, &destination, sizeof(destination)) ||
		    bpf_skb_store_bytes(skb, IPV4_DESTINATION, &loopback, sizeof(loopback), 0))
			return TC_ACT_SHOT;
		skb->mark = destination;
	} else if (skb->protocol == bpf_htons(ETHERTYPE_IPV6)) {
		/* The address of `lo`. */
		if (bpf_skb_store_bytes(skb, 0, none, sizeof(none), 0))
			return TC_ACT_SHOT;
	} else {
		count(NOT_IP);
		return TC_ACT_SHOT;
	}
	skb->tc_index = OURS_ON_LO;
	count(CARRIED);
	return redirect(skb, skb->protocol == bpf_htons(ETHERTYPE_IPV4));
}

/* Ingress of either end of an L2 uplink: every frame goes to the other end as it is. */
SEC("classifier")
int vswitch_l2(struct __sk_buff *skb)
{
	return redirect(skb, false);
}

/*
 * The rear guard stands behind the classifier, as a filter that outlives the process: while nobody is there to take the
 * switch's packets, it keeps them from the host, which knows nothing of their connections and would reset them. For a
 * peer they are lost on the way, and sent again. It ends by itself: nobody is there for long, and the host has
 * all that is its own. What comes for a tunnel is let through, since nobody resets anything for it.
 *
 * While the switch lives, nothing is left for it to drop: either the classifier has taken a packet, or has passed it.
 */
static __always_inline int guard(struct __sk_buff *skb, const bool lo)
{
	__u32 zero = 0;
	struct watch *watch = bpf_map_lookup_elem(&rear_watch, &zero);

	if (!watch || skb->cb[CB_SEEN] == watch->classifier || watch->until < bpf_ktime_get_ns())
		return TC_ACT_UNSPEC;
	if (lo && skb->cb[CB_OURS] == OURS_ON_LO)
		return TC_ACT_UNSPEC;
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	return classify(skb, false, lo ? HOOK_LO_REAR : HOOK_REAR, 0, skb->len) == PASSED ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* Behind `vswitch_tc` and `vswitch_xdp`. */
SEC("classifier")
int vswitch_rear(struct __sk_buff *skb)
{
	return guard(skb, false);
}

/* Behind `vswitch_lo`. */
SEC("classifier")
int vswitch_lo_rear(struct __sk_buff *skb)
{
	return guard(skb, true);
}

#include "reserve.h"

/* bpf_ktime_get_ns() is only for programs under a licence that goes with the kernel's (kernel/bpf/helpers.c). */
char _license[] SEC("license") = "Dual MIT/GPL";
