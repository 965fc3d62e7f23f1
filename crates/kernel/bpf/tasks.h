/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * How a policy is inherited, and what one process does to another, for the LSM hooks and for the monitor. The
 * processes of one session are each other's own; anybody else's is asked for by its program.
 */
#ifndef AGENTWALL_TASKS_H
#define AGENTWALL_TASKS_H

#include "judge.h"

/* Gives a new task what its parent has; false: there is no memory for that. */
static __always_inline bool inherit(struct task_struct *task)
{
	struct task *t = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), NULL, 0);
	struct task *child;

	if (!t || (!t->view && !t->flags))
		return true;
	child = bpf_task_storage_get(&tasks, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!child) {
		count(COUNT_NO_MEMORY);
		return false;
	}
	child->flags = t->flags;
	child->session = t->session;
	child->view = t->view;
	return true;
}

/*
 * What one process does to another: only inside a session, as where a session has its own pid namespace. A rule
 * says what of that is refused; no rule lets anybody out.
 */
static __always_inline int on_process(__u32 verb, struct task_struct *other, bool quiet)
{
	struct task *t = governed();
	struct task *o;
	struct file *program;

	if (!t)
		return 0;
	o = bpf_task_storage_get(&tasks, other, NULL, 0);
	begin(t);
	if (!o || o->session != t->session || t->session == NO_SESSION || o->flags & TASK_WALL) {
		if (quiet) {
			count(COUNT_REFUSED);
			return is_audit(t) ? 0 : -EACCES;
		}
		refuse(t, verb, o && o->flags & TASK_WALL ? WHY_WALL : WHY_FOREIGN);
		return conclude(t);
	}
	program = BPF_CORE_READ(other, mm, exe_file);
	if (!program)
		return 0; /* it has ended */
	consider(t, verb, (__u64)BPF_CORE_READ(program, f_path.mnt), (__u64)BPF_CORE_READ(program, f_path.dentry),
		 SOFT_DEFAULT);
	return conclude(t);
}

#endif
