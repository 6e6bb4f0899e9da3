/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The switch's ports against the host's programs: whoever binds one is told that it is in use.
 *
 * The programs are attached to a cgroup, and see the sockets that its processes bind, in whatever network namespace.
 * They run when the kernel has found the port to be free (`__inet_bind`), so that what is in use already is refused in
 * the usual way, and what SO_REUSEADDR and SO_REUSEPORT allow is refused all the same. The kernel does not ask them
 * when it chooses a port itself, without bind(2): it chooses from `ip_local_port_range`, and keeps off what is in
 * `ip_local_reserved_ports`. Nor does it ask for SCTP and for sockets of ICMP echoes, which have a bind of their own.
 */
#ifndef RESERVE_H
#define RESERVE_H

#define EADDRINUSE 98

/* Whether a port of the switch's is among those that a socket at `address` (or, if it is unspecified, at all) gets. */
static __always_inline bool is_reserved(const struct address *address, bool unspecified, bool ipv6, __u8 protocol,
					__u16 port, __u8 bit)
{
	struct service_key key = {
		.address = *address,
		.block = port / SERVICE_BLOCK,
		.protocol = protocol,
	};

	bit = family_bit(ipv6, bit);
	if (has_bit(&published, port, bit) || has_bit(&translated, port, bit))
		return true;
	return has_bit(&published_at_one, port, bit) && (unspecified || rule_of(&key, port, false) == PUBLISHED);
}

/* By how much a byte is shifted that is number `at` of a word in memory. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BYTE_SHIFT(at) (8 * (at))
#else
#define BYTE_SHIFT(at) (24 - 8 * (at))
#endif

/* Notes that a program of the host has a port. Several may bind at once, and only words can be changed atomically. */
static __always_inline void note_bound(__u16 port, __u32 bits)
{
	__u32 zero = 0;
	struct port_bits *ports = bpf_map_lookup_elem(&bound, &zero);

	if (ports)
		__sync_fetch_and_or((__u32 *)&ports->of[port & ~3U], bits << BYTE_SHIFT(port % 4));
}

static __always_inline int bind(struct bpf_sock *sk, const struct address *address, bool unspecified, const bool ipv4,
				const bool ipv6)
{
	__u32 zero = 0;
	__u64 *host = bpf_map_lookup_elem(&host_netns, &zero);
	__u8 bit, protocol = sk->protocol;
	__u16 port = sk->src_port;

	if (!host || bpf_get_netns_cookie(sk) != *host)
		return 1;
	if (protocol == PROTOCOL_TCP)
		bit = BIT_TCP;
	else if (protocol == PROTOCOL_UDP)
		bit = BIT_UDP;
	else
		return 1;
	/* Before looking: whoever is about to take the port for a flow sees it, or is seen here. */
	note_bound(port, (ipv4 ? family_bit(false, bit) : 0) | (ipv6 ? family_bit(true, bit) : 0));
	if ((ipv4 && is_reserved(address, unspecified, false, protocol, port, bit)) ||
	    (ipv6 && is_reserved(address, unspecified, true, protocol, port, bit))) {
		bpf_set_retval(-EADDRINUSE);
		return 0;
	}
	return 1;
}

SEC("cgroup/post_bind4")
int vswitch_bind4(struct bpf_sock *sk)
{
	struct address address = { { 0, 0, bpf_htonl(0xffff), sk->src_ip4 } };

	return bind(sk, &address, !address.word[3], true, false);
}

/*
 * A socket at :: gets IPv4 packets, too, unless it is for IPv6 alone, which is not to be seen here. It is refused in
 * either case if the port is the switch's for one family.
 */
SEC("cgroup/post_bind6")
int vswitch_bind6(struct bpf_sock *sk)
{
	struct address address = { { sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3] } };

	if (is_mapped(&address))
		return bind(sk, &address, !address.word[3], true, false);
	if (!(address.word[0] | address.word[1] | address.word[2] | address.word[3]))
		return bind(sk, &address, true, true, true);
	return bind(sk, &address, false, false, true);
}

#endif
