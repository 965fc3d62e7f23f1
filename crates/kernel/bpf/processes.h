/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Hooks about processes: how a policy is inherited, and what one process does to another. */
#ifndef AGENTWALL_PROCESSES_H
#define AGENTWALL_PROCESSES_H

#include "files.h"
#include "meant.h"
#include "tasks.h"

/*
 * A new task is governed as its parent is: fork, clone and threads, io_uring's workers, whatever it does
 * later (setsid, a second fork, another cgroup, exec). Without memory for that there is no new task.
 */
SEC("lsm/task_alloc")
int BPF_PROG(aw_task_alloc, struct task_struct *task, unsigned long clone_flags)
{
	return inherit(task) ? 0 : -ENOMEM;
}

#define PTRACE_MODE_NOAUDIT 4u

SEC("lsm/ptrace_access_check")
int BPF_PROG(aw_ptrace, struct task_struct *child, unsigned int mode)
{
	/* What /proc leaves out for want of this permission is no attempt of anybody. */
	return on_process(VERB_TRACE, child, mode & PTRACE_MODE_NOAUDIT);
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(aw_traceme, struct task_struct *parent)
{
	return on_process(VERB_TRACE, parent, false);
}

#define SEND_SIG_PRIV 1

SEC("lsm/task_kill")
int BPF_PROG(aw_task_kill, struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)
{
	/* A signal of the kernel's own, or one for input and output that was set up before. */
	if ((__u64)info == SEND_SIG_PRIV || cred)
		return 0;
	return on_process(VERB_SIGNAL, p, false);
}

/* Priorities and places of execution are signals in all but name. */
SEC("lsm/task_setnice")
int BPF_PROG(aw_setnice, struct task_struct *p, int nice)
{
	return on_process(VERB_SIGNAL, p, false);
}

SEC("lsm/task_setioprio")
int BPF_PROG(aw_setioprio, struct task_struct *p, int ioprio)
{
	return on_process(VERB_SIGNAL, p, false);
}

SEC("lsm/task_setscheduler")
int BPF_PROG(aw_setscheduler, struct task_struct *p)
{
	return on_process(VERB_SIGNAL, p, false);
}

SEC("lsm/task_movememory")
int BPF_PROG(aw_movememory, struct task_struct *p)
{
	return on_process(VERB_SIGNAL, p, false);
}

/* Limits of another process, by prlimit(2): what it could be ended with. Its own are a process's own affair. */
SEC("lsm/task_setrlimit")
int BPF_PROG(aw_setrlimit, struct task_struct *p, unsigned int resource, void *new)
{
	if (p->tgid == bpf_get_current_task_btf()->tgid)
		return 0;
	return on_process(VERB_SIGNAL, p, false);
}

/*
 * Whoever is not root does not become root. Whom nobody governs and who becomes a user without a way back may be
 * one that the configuration means; who only lends itself a user's rights for a while is not.
 */
SEC("lsm/task_fix_setuid")
int BPF_PROG(aw_setuid, struct cred *new, const struct cred *old, int flags)
{
	struct task *t = governed();
	__u32 user = new->uid.val;
	struct file *program;

	if (!t) {
		program = BPF_CORE_READ((struct task_struct *)bpf_get_current_task_btf(), mm, exe_file);
		if (!program || user != new->euid.val || user != new->suid.val ||
		    (user == old->uid.val && user == old->euid.val && user == old->suid.val))
			return 0;
		return select_start(program, user, user, false);
	}
	if (old->euid.val == 0)
		return 0;
	if (new->euid.val == 0 || new->uid.val == 0 || new->fsuid.val == 0)
		return never(t, NEVER_SET_ID);
	return 0;
}

#endif
