/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The maps, and what is fixed when the programs are loaded. */
#ifndef AGENTWALL_MAPS_H
#define AGENTWALL_MAPS_H

#include "wire.h"
#include <bpf/bpf_helpers.h>

struct inner_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct table));
};

/*
 * Policy tables, exchanged whole: each view has two places, 2 * view and the next one, of which `chosen` says the one that
 * counts. An operation that asks several questions asks all of them of the place that counted when it began.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * VIEWS);
	__type(key, __u32);
	__array(values, struct inner_table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIEWS);
	__type(key, __u32);
	__type(value, __u32);
} chosen SEC(".maps");

/* Governed tasks. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct object_key);
	__type(value, struct object);
} objects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct grant_key);
	__type(value, struct grant);
} grants SEC(".maps");

/* Sockets that a governed session bound, by address of the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} sockets SEC(".maps");

/* Ports that a governed session listens on, by namespace, protocol and port. */
struct port_key {
	__u32 netns;
	__u16 protocol;
	__u16 port;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct port_key);
	__type(value, __u64);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* bytes; the loader may ask for more */
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Plain allows by view and verb. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VIEWS * COUNTED_VERBS);
	__type(key, __u32);
	__type(value, __u64);
} allows SEC(".maps");

/* The number of the next event. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

/* What the loader found on the host. */
struct host {
	__u32 mount_namespace; /* the inode number of the host's */
};
volatile const struct host host SEC(".rodata.host");

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		(*value)++;
}

/* Puts a task under a view, or takes it away. Not 0: there is no memory for it. */
static __always_inline int put_under(struct task_struct *task, __u64 session, __u32 view, __u32 flags)
{
	struct task *t = bpf_task_storage_get(&tasks, task, NULL, view || flags ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);

	if (!t) {
		if (!view && !flags)
			return 0;
		count(COUNT_NO_MEMORY);
		return 1;
	}
	t->session = session;
	t->flags = flags;
	t->view = view;
	return 0;
}

#endif
