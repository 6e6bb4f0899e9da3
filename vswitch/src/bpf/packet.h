/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Reading a packet, for a tc and for an XDP program alike.
 *
 * Every function here takes the context as `void *` and `xdp`, a constant that says what it is. All are
 * inlined, so the compiler keeps the branch that applies and the verifier sees a context of one type.
 *
 * Nothing here trusts a length field further than the frame's end, and nothing is written.
 */
#ifndef PACKET_H
#define PACKET_H

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERNET_BYTES 14
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd

#define IPV4_BYTES 20
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET_MASK 0x1fff
#define IPV6_BYTES 40
/* The flag M of a fragment header, and the bits of its offset (RFC 8200 section 4.5). */
#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_OFFSET_MASK 0xfff8

#define EXTENSION_HOP_BY_HOP 0
#define EXTENSION_ROUTING 43
#define EXTENSION_FRAGMENT 44
#define EXTENSION_AUTHENTICATION 51
#define EXTENSION_DESTINATION 60
/* The most extension headers that are walked over; RFC 8200 has a use for seven. */
#define EXTENSIONS_MAX 8

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP 132

/* An IPv4 address is ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2): one kind of key for both families. */
struct address {
	__u32 word[4];
};

enum fragment {
	FRAGMENT_NONE,  /* the whole packet */
	FRAGMENT_FIRST, /* it begins here, and more follows */
	FRAGMENT_LATER, /* no transport header in it */
};

struct packet {
	struct address source;
	struct address destination;
	/* Offsets from the start of the frame: of the transport header, and behind the packet's last byte. */
	__u32 transport;
	__u32 end;
	/* What the fragments of one packet have in common. */
	__u32 identification;
	enum fragment fragment;
	/* The transport protocol; of a later IPv6 fragment: of no meaning (RFC 8200 section 4.5). */
	__u8 protocol;
	bool ipv6;
};

struct ipv4_header {
	__u8 version_length;
	__u8 tos;
	__be16 total_bytes;
	__be16 identification;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__u8 version_class;
	__u8 class_label[3];
	__be16 payload_bytes;
	__u8 next;
	__u8 hop_limit;
	struct address source;
	struct address destination;
};

/* The beginning of every extension header, and all of a fragment header. */
struct extension_header {
	__u8 next;
	__u8 length;
	union {
		struct {
			__u8 type;
			__u8 segments_left;
		} routing;
		__be16 fragment;
	};
	__be32 identification;
};

/*
 * Copies `bytes` from `offset`. The bytes that are in the frame's linear part, which is where headers are, are read
 * in place; others by a helper, which needs neither a clone nor a longer linear part.
 */
static __always_inline bool load(void *context, const bool xdp, __u32 offset, void *to, const __u32 bytes)
{
	void *data, *end;

	/* A bound for the verifier, and more than any chain of headers that makes sense. */
	if (offset > 0x3fff)
		return false;
	if (xdp) {
		data = (void *)(long)((struct xdp_md *)context)->data;
		end = (void *)(long)((struct xdp_md *)context)->data_end;
	} else {
		data = (void *)(long)((struct __sk_buff *)context)->data;
		end = (void *)(long)((struct __sk_buff *)context)->data_end;
	}
	if (data + offset + bytes <= end) {
		__builtin_memcpy(to, data + offset, bytes);
		return true;
	}
	if (xdp)
		return bpf_xdp_load_bytes(context, offset, to, bytes) == 0;
	return bpf_skb_load_bytes(context, offset, to, bytes) == 0;
}

/*
 * Reads the IPv4 header at `at`. A packet inside of an ICMP error is cut short, and some routers return its length
 * field changed: there it reaches to `end`, whatever that field says.
 */
static __always_inline bool parse_ipv4(void *context, const bool xdp, __u32 at, __u32 end, const bool embedded,
				       struct packet *packet)
{
	struct ipv4_header header;
	__u32 header_bytes, total_bytes;
	__u16 fragment;

	if (at + IPV4_BYTES > end || !load(context, xdp, at, &header, sizeof(header)))
		return false;
	header_bytes = (header.version_length & 0xf) * 4;
	total_bytes = bpf_ntohs(header.total_bytes);
	if (header.version_length >> 4 != 4 || header_bytes < IPV4_BYTES)
		return false;
	if (!embedded) {
		if (total_bytes < header_bytes || at + total_bytes > end)
			return false;
		end = at + total_bytes;
	}
	fragment = bpf_ntohs(header.fragment);
	if (fragment & IPV4_OFFSET_MASK)
		packet->fragment = FRAGMENT_LATER;
	else if (fragment & IPV4_MORE_FRAGMENTS)
		packet->fragment = FRAGMENT_FIRST;
	else
		packet->fragment = FRAGMENT_NONE;
	packet->source = (struct address){ { 0, 0, bpf_htonl(0xffff), header.source } };
	packet->destination = (struct address){ { 0, 0, bpf_htonl(0xffff), header.destination } };
	packet->transport = at + header_bytes;
	packet->end = end;
	packet->identification = header.identification;
	packet->protocol = header.protocol;
	packet->ipv6 = false;
	return true;
}

/* What a walk over extension headers finds, in one scalar: that is all a function verified on its own can return. */
union upper {
	__u64 scalar;
	struct {
		__be32 identification;
		__u16 transport;
		__u8 protocol;
		/* An enum fragment, or FAILED. */
		__u8 fragment;
	};
};

#define FAILED 0xff

static __always_inline bool is_extension(__u8 next)
{
	return next == EXTENSION_HOP_BY_HOP || next == EXTENSION_ROUTING || next == EXTENSION_FRAGMENT ||
	       next == EXTENSION_AUTHENTICATION || next == EXTENSION_DESTINATION;
}

/*
 * Walks over the extension headers from `at`, up to a header of another kind or to the fragment header of a later
 * fragment. What has a further router to visit is not for this host, whatever its destination address says at the
 * moment.
 */
static __always_inline __u64 walk_extensions(void *context, const bool xdp, __u32 at, const __u32 end, __u8 next)
{
	union upper upper = { .fragment = FRAGMENT_NONE }, failed = { .fragment = FAILED };
	struct extension_header extension;
	bool fragmented = false;
	__u32 bytes;

	for (int i = 0; i <= EXTENSIONS_MAX; i++) {
		if (!is_extension(next)) {
			upper.protocol = next;
			upper.transport = at;
			return upper.scalar;
		}
		/* The shortest of them has eight bytes. */
		if (i == EXTENSIONS_MAX || at + sizeof(extension) > end ||
		    !load(context, xdp, at, &extension, sizeof(extension)))
			return failed.scalar;
		bytes = (extension.length + 1) * 8;
		if (next == EXTENSION_FRAGMENT) {
			__u16 fragment = bpf_ntohs(extension.fragment);

			if (fragmented)
				return failed.scalar;
			fragmented = true;
			bytes = sizeof(extension);
			upper.identification = extension.identification;
			if (fragment & IPV6_OFFSET_MASK) {
				upper.fragment = FRAGMENT_LATER;
				upper.transport = at + bytes;
				return upper.scalar;
			}
			/* Neither: an atomic fragment, which is a whole packet (RFC 6946). */
			if (fragment & IPV6_MORE_FRAGMENTS)
				upper.fragment = FRAGMENT_FIRST;
		} else if (next == EXTENSION_AUTHENTICATION) {
			bytes = (extension.length + 2) * 4;
		} else if (next == EXTENSION_ROUTING && extension.routing.segments_left) {
			return failed.scalar;
		}
		next = extension.next;
		at += bytes;
	}
	return failed.scalar;
}

/*
 * The same as functions that the verifier looks at once, instead of once for each way that leads here; inlined, the
 * walk in an error within the walk around it is more than its million of steps.
 */
__noinline __u64 walk_extensions_tc(struct __sk_buff *skb, __u32 at, __u32 end, __u32 next)
{
	return walk_extensions(skb, false, at, end, next);
}

__noinline __u64 walk_extensions_xdp(struct xdp_md *xdp, __u32 at, __u32 end, __u32 next)
{
	return walk_extensions(xdp, true, at, end, next);
}

/* ::ffff:0:0/96 (RFC 4291 section 2.5.5.2). */
static __always_inline bool is_mapped(const struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff);
}

/*
 * Reads the IPv6 header at `at`, and what is behind its extension headers. Addresses that stand for IPv4's are for
 * programming interfaces, not for packets, in which they would pass for the IPv4 address (RFC 4942 section 2.2).
 */
static __always_inline bool parse_ipv6(void *context, const bool xdp, __u32 at, __u32 end, const bool embedded,
				       struct packet *packet)
{
	struct ipv6_header header;
	union upper upper;

	if (at + IPV6_BYTES > end || !load(context, xdp, at, &header, sizeof(header)))
		return false;
	if (header.version_class >> 4 != 6 || is_mapped(&header.source) || is_mapped(&header.destination))
		return false;
	at += IPV6_BYTES;
	if (!embedded) {
		if (at + bpf_ntohs(header.payload_bytes) > end)
			return false;
		end = at + bpf_ntohs(header.payload_bytes);
	}
	upper = (union upper){ .transport = at, .protocol = header.next, .fragment = FRAGMENT_NONE };
	/* Nearly no packet has any. */
	if (is_extension(header.next))
		upper.scalar = xdp ? walk_extensions_xdp(context, at, end, header.next) :
				     walk_extensions_tc(context, at, end, header.next);
	if (upper.fragment == FAILED)
		return false;
	packet->source = header.source;
	packet->destination = header.destination;
	packet->transport = upper.transport;
	packet->end = end;
	packet->identification = upper.identification;
	packet->fragment = upper.fragment;
	packet->protocol = upper.protocol;
	packet->ipv6 = true;
	return true;
}

#endif
