/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Host names: what the hooks, the programs of the root cgroup (names.bpf.c) and user space share. The other side
 * is src/names.rs.
 *
 * The resolver of a session gives each name an address of its own, which nobody routes (crates/egress). A hook
 * that sees such an address, or a question to a name server, marks the socket; the cgroup's programs, which run
 * behind the hook, turn what is marked to the session's door: listeners of the daemon on loopback. What is
 * marked goes there or nowhere.
 */
#ifndef AGENTWALL_NAMES_H
#define AGENTWALL_NAMES_H

#include "types.h"
#include <bpf/bpf_helpers.h>

#define DNS_PORT 53

/* The addresses of names: 198.18.0.0/15 and fd41:6777::/64 (crates/egress/src/addresses.rs). */
static __always_inline bool names_a_host_v4(__u32 address)
{
	return (address & 0xfffe0000) == 0xc6120000;
}

static __always_inline bool names_a_host_v6(__u32 first, __u32 second)
{
	return first == 0xfd416777 && second == 0;
}

/* The door of a session: ports of the daemon on the loopback of one network namespace. */
struct door {
	__u32 netns;
	__u16 tcp; /* in host order */
	__u16 dns;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct door);
} doors SEC(".maps");

/* The ports of all doors: no governed task connects there itself. */
struct door_port {
	__u32 netns;
	__u16 port;
	__u16 zero;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct door_port);
	__type(value, __u64);
} door_ports SEC(".maps");

/* The daemon's listeners, by socket, with the session whose door they are; gone when the daemon is. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} listening SEC(".maps");

/* A socket of a governed task that asked for a name. Addresses are of 16 bytes, IPv4 as ::ffff:a.b.c.d. */
struct mark {
	__u64 session;
	__u32 pid;
	__u16 turned; /* 1: it was turned to the door; then these are where it wanted to go */
	__u16 port;
	__u32 address[4];
};
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");

/* What arrives at a door, by where it comes from. What is not in here was not turned, and is not served. */
struct source {
	__u32 address[4];
	__u16 port;
	__u16 protocol;
};
struct captured {
	__u64 session;
	__u32 pid;
	__u16 port;
	__u16 zero;
	__u32 address[4];
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct source);
	__type(value, struct captured);
} captured SEC(".maps");

static __always_inline void note_source(const struct source *from, const struct mark *mark)
{
	struct captured c = {};

	c.session = mark->session;
	c.pid = mark->pid;
	c.port = mark->port;
	__builtin_memcpy(c.address, mark->address, 16);
	bpf_map_update_elem(&captured, from, &c, BPF_ANY);
}

#endif
