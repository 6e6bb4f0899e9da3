/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs are told, and what they count. loader.rs fills and reads these maps by name.
 */
#ifndef MAPS_H
#define MAPS_H

#include "packet.h"

#define PORTS 65536

/* What is counted; the same order as `Counter` in counters.rs. The rules are also classify()'s result. */
enum counter {
	PASSED, /* never counted: one more write for each packet of the host */
	PUBLISHED,
	TRANSLATED,
	VXLAN,
	ECHO_REPLY,
	ICMP_ERROR,
	LATER_FRAGMENT,
	ROUTED,
	UNDECIDED,
	CARRIED,
	GIVEN_BACK,
	NOT_IP,
	NO_TARGET,
	NO_SOCKET,
	COUNTERS,
};

/*
 * A bit for each protocol of each family, at index `port` (for ICMP: the identifier of an echo) in host byte order.
 */
enum {
	BIT_TCP,
	BIT_UDP,
	BIT_SCTP,
	BIT_ICMP,
	BITS_OF_FAMILY,
};

struct port_bits {
	__u8 of[PORTS];
};

/*
 * Ports of one of the host's own addresses, or (the unspecified one) of any, in blocks of as many as a word has bits:
 * a range costs an entry for each block that it touches.
 */
struct service_key {
	struct address address;
	/* The port divided by SERVICE_BLOCK, in host byte order. */
	__u16 block;
	__u8 protocol;
	__u8 padding;
};

#define SERVICE_BLOCK 64

/* A bit for each port of the block. */
struct service_block {
	__u64 published;
	__u64 vxlan;
};

/* A network, as the kernel's tries have it. */
struct network {
	__u32 prefix_bits;
	struct address address;
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 identification;
	/* Zero for IPv6 (RFC 8200 section 4.5: only the first fragment's counts). */
	__u32 protocol;
};

#define SECOND_NS (1000ULL * 1000 * 1000)

/* How long after its first fragment a later one belongs to it: `IP_FRAG_TIME` in include/net/ip.h. */
#define FRAGMENT_FRESH_NS (30 * SECOND_NS)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u32);
} local_addresses SEC(".maps");

/* Ports and identifiers of translated flows: written by the data plane, without a system call. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_bits);
} translated SEC(".maps");

/* Ports that are published at all of the host's addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_bits);
} published SEC(".maps");

/* Ports that are published at one address or several, which `services` names. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_bits);
} published_at_one SEC(".maps");

/* Ports of which `services` has at least one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_bits);
} service_ports SEC(".maps");

/* What is published at one address only, and the ports of tunnels. An empty table of that size has 1 MB. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PORTS);
	__type(key, struct service_key);
	__type(value, struct service_block);
} services SEC(".maps");

/* Networks behind the switch to which others route: everything for them is the switch's. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct network);
	__type(value, __u32);
} routed SEC(".maps");

/* How many of them there are: seldom any, and then nobody need look. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} routed_count SEC(".maps");

/* The host's network namespace, whose ports are reserved, by its cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} host_netns SEC(".maps");

/* Ports that programs of the host have bound; cleared by whoever has listed their sockets since. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_bits);
} bound SEC(".maps");

/* When the first fragment of a packet was taken; entries nobody asks for any more make room for new ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, __u64);
} fragments SEC(".maps");

/* What is known of a packet in fragments that was not taken. */
struct host_fragment {
	/* Since when, in the time of bpf_ktime_get_ns(). */
	__u64 since;
	/* It is the host's; if not, later fragments are with the switch and wait for the first one. */
	__u64 is_hosts;
};

/* A map of its own: what strangers send to the host pushes nothing out of that of the switch's packets. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct host_fragment);
} host_fragments SEC(".maps");

/* How many fragments that overtook their first one an interface withholds from the host. */
struct withholding {
	/* The beginning of the window in which so many were withheld. */
	__u64 since;
	__u32 withheld;
	__u32 per_window;
};

/* Short, so that no burst is more than whoever receives them has room for. */
#define WITHHOLDING_WINDOW_NS (SECOND_NS / 32)

/* Interfaces, by their index, of which the switch gives the host back what turns out to be the host's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct withholding);
} withholding SEC(".maps");

/* What the rear guard is told. */
struct watch {
	/* Until when it stands, in the time of bpf_ktime_get_ns(). */
	__u64 until;
	/* What this classifier marks packets with that it has passed; no other one's mark. */
	__u32 classifier;
	__u32 padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct watch);
} rear_watch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Where a program that is attached to the interface `key` sends what it takes: another interface's index. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

/* The same for XDP: the place in `sockets` of the interface's receive queue 0. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} socket_places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

#endif
