/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The monitor: where the LSM programs cannot be loaded, these tell what they would have refused. They refuse
 * nothing, and hang on tracepoints, which see an operation when it is done, or not at all (docs/kernel.md, "The
 * monitor"). Policies, names, answers and events are those of the wall.
 *
 *   calls.h      numbers and arguments of system calls
 *   named.h      what a call did to a descriptor or under a name
 *   traffic.h    what calls about sockets did
 */
#define MONITOR

#include "adopt.h"
#include "calls.h"
#include "tasks.h"
#include "traffic.h"
#include <bpf/bpf_tracing.h>

#define CLONE_NEWUSER 0x10000000ul

/* Something from now on is not seen: told once for each task. */
static __attribute__((noinline)) int unseen(struct task *t, __u32 what)
{
	if (t->unseen & 1u << what)
		return 0;
	t->unseen |= 1u << what;
	begin(t);
	keep(t, EFFECT_ALLOW, NONE, WHY_UNSEEN);
	t->answer.never = what;
	t->event.audit = 1;
	return tell(t);
}

/* Every new task, also io_uring's workers, before it runs. */
SEC("tp_btf/task_newtask")
int BPF_PROG(mon_task, struct task_struct *task, unsigned long clone_flags)
{
	struct task *t;

	inherit(task);
	if (!(clone_flags & CLONE_NEWUSER))
		return 0;
	t = governed();
	return t ? never(t, NEVER_NAMESPACE) : 0;
}

/* A script is told by the name it was started by: its file is not held any more. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(mon_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct task *t = governed();
	struct file *file;

	if (!t)
		return 0;
	file = bprm->file;
	begin(t);
	consider(t, VERB_EXEC, as_number(t, file->f_path.mnt), as_number(t, file->f_path.dentry), CODE);
	conclude(t);
	if (bprm->filename != bprm->interp)
		on_named(t, VERB_EXEC, as_number(t, bprm->filename), AT_FDCWD, IN_KERNEL_MEMORY);
	return 0;
}

#define TCP_SYN_SENT 2
#define TCP_LISTEN 10

/* TCP by the socket itself, whichever call it comes from. Also who is not governed takes a port over. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(mon_tcp, const struct sock *sock, int oldstate, int newstate)
{
	struct sock *sk = (struct sock *)sock;
	struct task *t;

	if (newstate != TCP_SYN_SENT && newstate != TCP_LISTEN)
		return 0;
	t = governed();
	if (!t) {
		if (newstate == TCP_LISTEN)
			note_port(sk, IPPROTO_TCP, sk->__sk_common.skc_num, NO_SESSION);
		return 0;
	}
	begin(t);
	if (newstate == TCP_LISTEN) {
		set_bound(t, sk, IPPROTO_TCP);
		consider_endpoint(t, VERB_LISTEN, on_loopback(&t->work.question) ? SOFT_DEFAULT : 0);
		note_port(sk, IPPROTO_TCP, sk->__sk_common.skc_num, t->session);
		return conclude(t);
	}
	set_peer(t, sk, IPPROTO_TCP);
	if (is_own_port(t, sk))
		return 0;
	consider_endpoint(t, VERB_CONNECT, 0);
	conclude(t);
	return 0;
}

#define SI_USER 0
#define SI_QUEUE (-1)
#define SI_TKILL (-6)

/* A signal that a process sent; the kernel's own, and its timers', have other codes or no record. */
SEC("tp_btf/signal_generate")
int BPF_PROG(mon_signal, int sig, struct kernel_siginfo *info, struct task_struct *target)
{
	int code;

	if ((__u64)info <= 1)
		return 0;
	code = BPF_CORE_READ(info, si_code);
	if (code == SI_USER || code == SI_QUEUE || code == SI_TKILL)
		on_process(VERB_SIGNAL, target, false);
	return 0;
}

extern struct task_struct *bpf_task_from_pid(int pid) __ksym __attribute__((weak));
extern void bpf_task_release(struct task_struct *task) __ksym __attribute__((weak));

#define PTRACE_TRACEME 0
#define PTRACE_ATTACH 16
#define PTRACE_SEIZE 0x4206

/* The latest of those it traces, or who traces it. */
static __always_inline int on_ptrace(long request)
{
	struct task_struct *me = (struct task_struct *)bpf_get_current_task_btf(), *other;
	int pid;

	if (request == PTRACE_TRACEME) {
		pid = BPF_CORE_READ(me, real_parent, pid);
	} else if (request == PTRACE_ATTACH || request == PTRACE_SEIZE) {
		__u64 first = (__u64)BPF_CORE_READ(me, ptraced.next);

		other = (struct task_struct *)(first - bpf_core_field_offset(struct task_struct, ptrace_entry));
		pid = BPF_CORE_READ(other, pid);
	} else {
		return 0;
	}
	if (!bpf_ksym_exists(bpf_task_from_pid))
		return 0;
	other = bpf_task_from_pid(pid);
	if (!other)
		return 0;
	on_process(VERB_TRACE, other, false);
	bpf_task_release(other);
	return 0;
}

struct mapped {
	__u64 file;
};

static long file_of_vma(struct task_struct *task, struct vm_area_struct *vma, struct mapped *mapped)
{
	mapped->file = (__u64)BPF_CORE_READ(vma, vm_file);
	return 0;
}

#define PROT_EXEC 4
#define MAP_ANONYMOUS 0x20

static __always_inline int on_protect(struct task *t, __u64 address)
{
	struct mapped mapped = {};

	bpf_find_vma(bpf_get_current_task_btf(), address, file_of_vma, &mapped, 0);
	return mapped.file ? on_code(t, (struct file *)mapped.file) : 0;
}

/* The common calls about descriptors; 1: it was none of them. */
static __always_inline int on_descriptors(struct task *t, struct pt_regs *regs, long number, long ret)
{
	switch (number) {
#ifdef __TARGET_ARCH_x86
	case NR_OPEN:
	case NR_CREAT:
#endif
	case NR_OPENAT:
	case NR_OPENAT2:
	case NR_OPEN_BY_HANDLE_AT:
	case NR_PIDFD_GETFD:
	case NR_MQ_OPEN:
		return on_descriptor(t, ret);
	case NR_FCHMOD:
	case NR_FCHOWN:
	case NR_FSETXATTR:
	case NR_FREMOVEXATTR:
		return on_open(t, VERB_CHMOD, ARG1(regs));
#ifdef __TARGET_ARCH_x86
	case NR_FUTIMESAT:
#endif
	case NR_UTIMENSAT:
		return ARG2(regs) ? 1 : on_open(t, VERB_CHMOD, ARG1(regs)); /* without a name: of the descriptor */
	case NR_FTRUNCATE:
		return on_open(t, VERB_WRITE, ARG1(regs));
	case NR_MMAP:
		if (ARG3(regs) & PROT_EXEC && !(ARG4(regs) & MAP_ANONYMOUS)) {
			struct file *file = file_of((int)ARG5(regs));

			if (file)
				on_code(t, file);
		}
		return 0;
	case NR_MPROTECT:
	case NR_PKEY_MPROTECT:
		return ARG3(regs) & PROT_EXEC ? on_protect(t, ARG1(regs)) : 0;
	case NR_PTRACE:
		return on_ptrace(ARG1(regs));
	}
	return 1;
}

#define AT_REMOVEDIR 0x200u

/* Calls that leave nothing but a name. 1: it was none of them. */
static __attribute__((noinline)) int on_names(struct task *t, struct pt_regs *regs, long number)
{
	__u64 from = 0, to = 0;
	long from_fd = AT_FDCWD, to_fd = AT_FDCWD;

	switch (number) {
#ifdef __TARGET_ARCH_x86
	case NR_UNLINK:
	case NR_RMDIR:
		return on_named(t, VERB_DELETE, ARG1(regs), AT_FDCWD, number == NR_RMDIR ? OF_FOLDER : 0);
	case NR_MKDIR:
	case NR_MKNOD:
		return on_named(t, VERB_CREATE, ARG1(regs), AT_FDCWD, 0);
	case NR_SYMLINK:
		return on_named(t, VERB_CREATE, ARG2(regs), AT_FDCWD, 0);
	case NR_RENAME:
	case NR_LINK:
		from = ARG1(regs);
		to = ARG2(regs);
		break;
	case NR_CHMOD:
	case NR_CHOWN:
	case NR_LCHOWN:
	case NR_UTIME:
	case NR_UTIMES:
		return on_named(t, VERB_CHMOD, ARG1(regs), AT_FDCWD, 0);
	case NR_FUTIMESAT:
#endif
	case NR_UTIMENSAT:
	case NR_FCHMODAT:
	case NR_FCHMODAT2:
	case NR_FCHOWNAT:
	case NR_SETXATTRAT:
	case NR_REMOVEXATTRAT:
	case NR_FILE_SETATTR:
		return on_named(t, VERB_CHMOD, ARG2(regs), ARG1(regs), 0);
	case NR_SETXATTR:
	case NR_LSETXATTR:
	case NR_REMOVEXATTR:
	case NR_LREMOVEXATTR:
		return on_named(t, VERB_CHMOD, ARG1(regs), AT_FDCWD, 0);
	case NR_TRUNCATE:
		return on_named(t, VERB_WRITE, ARG1(regs), AT_FDCWD, 0);
	case NR_UNLINKAT:
		return on_named(t, VERB_DELETE, ARG2(regs), ARG1(regs),
				ARG3(regs) & AT_REMOVEDIR ? OF_FOLDER : 0);
	case NR_MKDIRAT:
	case NR_MKNODAT:
		return on_named(t, VERB_CREATE, ARG2(regs), ARG1(regs), 0);
	case NR_SYMLINKAT:
		return on_named(t, VERB_CREATE, ARG3(regs), ARG2(regs), 0);
	case NR_RENAMEAT:
	case NR_RENAMEAT2:
	case NR_LINKAT:
		from_fd = ARG1(regs);
		from = ARG2(regs);
		to_fd = ARG3(regs);
		to = ARG4(regs);
		break;
	default:
		return 1;
	}
	/* One name goes or stays, another comes; the file may be read by that as well. */
	if (number != NR_LINKAT
#ifdef __TARGET_ARCH_x86
	    && number != NR_LINK
#endif
	)
		on_named(t, VERB_RENAME, from, from_fd, 0);
	else
		on_named(t, VERB_WRITE, from, from_fd, 0);
	on_named(t, VERB_READ, from, from_fd, 0);
	return on_named(t, VERB_CREATE, to, to_fd, 0);
}

#define TIOCSTI 0x5412
#define TIOCLINUX 0x541c
#define TIOCSETD 0x5423

/* What no policy permits. 0: it is none of that. */
static __always_inline __u32 is_never(struct pt_regs *regs, long number)
{
	switch (number) {
	case NR_MOUNT:
	case NR_UMOUNT:
	case NR_PIVOT_ROOT:
	case NR_MOVE_MOUNT:
	case NR_FSCONFIG:
	case NR_MOUNT_SETATTR:
		return NEVER_MOUNT;
	case NR_CHROOT:
		return NEVER_NAMESPACE;
	case NR_UNSHARE:
		return ARG1(regs) & CLONE_NEWUSER ? NEVER_NAMESPACE : 0;
	case NR_BPF:
		return NEVER_BPF;
	case NR_PERF_EVENT_OPEN:
		return NEVER_PERF;
	case NR_INIT_MODULE:
	case NR_FINIT_MODULE:
		return NEVER_MODULE;
	case NR_ADD_KEY:
	case NR_REQUEST_KEY:
	case NR_KEYCTL:
		return NEVER_KEY;
	case NR_SETTIMEOFDAY:
	case NR_CLOCK_SETTIME:
	case NR_SYSLOG:
	case NR_QUOTACTL:
	case NR_QUOTACTL_FD:
		return NEVER_SYSTEM;
	case NR_SOCKET:
		return is_known_socket(ARG1(regs), ARG2(regs), ARG3(regs)) ? 0 : NEVER_FAMILY;
	case NR_IOCTL:
		switch ((__u32)ARG2(regs)) {
		case TIOCSTI:
		case TIOCLINUX:
		case TIOCSETD:
			return NEVER_TERMINAL;
		}
	}
	return 0;
}

/* The number of a call of the kernel's own kind that succeeded; else a negative one. */
static __always_inline long seen_call(struct pt_regs *regs, long ret)
{
	long number = NUMBER(regs);

	if (ret < 0 || is_foreign((struct task_struct *)bpf_get_current_task_btf(), number))
		return -1;
	return number; /* negative: the return from a signal's handler */
}

SEC("tp_btf/sys_exit")
int BPF_PROG(mon_call, struct pt_regs *regs, long ret)
{
	struct task *t = governed();
	long number;
	__u32 what;

	if (!t)
		return 0;
	number = NUMBER(regs);
	if (number >= 0 && is_foreign((struct task_struct *)bpf_get_current_task_btf(), number))
		return unseen(t, UNSEEN_CALLS);
	if (number < 0 || ret < 0)
		return 0;
	switch (number) {
	case NR_IO_URING_SETUP:
	case NR_IO_URING_ENTER:
	case NR_IO_URING_REGISTER:
		return unseen(t, UNSEEN_URING);
	}
	if (on_descriptors(t, regs, number, ret) != 1)
		return 0;
	if (on_names(t, regs, number) != 1)
		return 0;
	what = is_never(regs, number);
	return what ? never(t, what) : 0;
}

/* Messages that were sent. A program of its own, as is the next: its stack has room for no more. */
SEC("tp_btf/sys_exit")
int BPF_PROG(mon_sent, struct pt_regs *regs, long ret)
{
	struct task *t = governed();
	long number = t ? seen_call(regs, ret) : -1;
	__u32 count = ret;

	switch (number) {
	case NR_SENDTO:
		return on_sent(t, ARG1(regs), ARG5(regs), ARG6(regs));
	case NR_SENDMSG:
		return on_message_sent(t, ARG1(regs), ARG2(regs));
	case NR_SENDMMSG:
#pragma clang loop unroll(disable)
		for (__u32 i = 0; i < MESSAGES && i < count; i++) {
			on_message_sent(t, ARG1(regs), ARG2(regs) + i * MESSAGE);
			barrier_var(i); /* or the stack is filled with what it could be computed from */
		}
		return count > MESSAGES ? unseen(t, UNSEEN_MANY) : 0;
	}
	return 0;
}

/* Sockets that were connected or bound, and what was received. */
SEC("tp_btf/sys_exit")
int BPF_PROG(mon_socket, struct pt_regs *regs, long ret)
{
	struct task *t = governed();
	long number = t ? seen_call(regs, ret) : -1;

	switch (number) {
	case NR_CONNECT:
		return on_connected(t, ARG1(regs), ARG2(regs), ARG3(regs));
	case NR_BIND:
		return on_bound(t, ARG1(regs), ARG2(regs), ARG3(regs));
	case NR_LISTEN:
		return on_listening(t, ARG1(regs));
	case NR_RECVMSG:
	case NR_RECVMMSG:
		if (on_message_received(t, ARG2(regs)) && (number == NR_RECVMSG || ret <= 1))
			return 0;
		return unseen(t, UNSEEN_MANY);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
