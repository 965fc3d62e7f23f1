/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Iterators over all tasks, run by user space: adopt puts running processes under a policy, or takes it
 * away; list tells which are. A pidfd names the first thread only (before Linux 6.9), an iterator sees all.
 */
#ifndef AGENTWALL_ADOPT_H
#define AGENTWALL_ADOPT_H

#include "maps.h"
#include <bpf/bpf_core_read.h>

/* What to make of a process. */
struct adoption {
	__u64 session;
	__u64 born; /* its start_boottime in nanoseconds, so that no other gets it; 0: whoever it is */
	__u32 view;
	__u32 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct adoption);
} adopting SEC(".maps");

/* One governed process, as list writes it. */
struct listed {
	__u64 session;
	__u64 born;
	__u32 pid;
	__u32 view;
	__u32 flags;
	__u32 pad;
};

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
} IN_KERNEL;
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} IN_KERNEL;

SEC("iter/task")
int aw_adopt(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct adoption *a;
	__u32 tgid;

	if (!task)
		return 0;
	tgid = task->tgid;
	a = bpf_map_lookup_elem(&adopting, &tgid);
	if (a && (!a->born || a->born == task->group_leader->start_boottime))
		put_under(task, a->session, a->view, a->flags);
	return 0;
}

SEC("iter/task")
int aw_list(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct listed out = {};
	struct task *t;

	/* The type id keeps the type in the object, where a test compares it with the reader's. */
	if (!task || task->pid != task->tgid || !bpf_core_type_id_local(struct listed))
		return 0;
	t = bpf_task_storage_get(&tasks, task, NULL, 0);
	if (!t || (!t->view && !t->flags))
		return 0;
	out.session = t->session;
	out.view = t->view;
	out.flags = t->flags;
	out.pid = task->tgid;
	out.born = task->start_boottime;
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
	return 0;
}

#endif
