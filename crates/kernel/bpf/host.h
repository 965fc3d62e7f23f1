/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What no policy permits to a governed task: to change what names mean, to load or trace code in the
 * kernel, to act without the hooks seeing it. The list of the rootless wall (docs/wall.md, "Never").
 */
#ifndef AGENTWALL_HOST_H
#define AGENTWALL_HOST_H

#include "files.h"

#define NEVER_IF_GOVERNED(what)                                                                              \
	({                                                                                                   \
		struct task *governed_task = governed();                                                     \
		governed_task ? never(governed_task, what) : 0;                                              \
	})

SEC("lsm/sb_mount")
int BPF_PROG(aw_mount)
{
	return NEVER_IF_GOVERNED(NEVER_MOUNT);
}

SEC("lsm/sb_umount")
int BPF_PROG(aw_umount)
{
	return NEVER_IF_GOVERNED(NEVER_MOUNT);
}

SEC("lsm/sb_remount")
int BPF_PROG(aw_remount)
{
	return NEVER_IF_GOVERNED(NEVER_MOUNT);
}

SEC("lsm/sb_pivotroot")
int BPF_PROG(aw_pivot_root)
{
	return NEVER_IF_GOVERNED(NEVER_MOUNT);
}

SEC("lsm/move_mount")
int BPF_PROG(aw_move_mount)
{
	return NEVER_IF_GOVERNED(NEVER_MOUNT);
}

/* A file system that is being configured (fsconfig), which a mount call need not follow. */
SEC("lsm/fs_context_parse_param")
int BPF_PROG(aw_fs_context)
{
	struct task *t = governed();

	/* Not for us is the answer that lets others, and the file system itself, look at it. */
	return t && never(t, NEVER_MOUNT) ? -EPERM : -ENOPARAM;
}

SEC("lsm/userns_create")
int BPF_PROG(aw_userns)
{
	return NEVER_IF_GOVERNED(NEVER_NAMESPACE);
}

SEC("lsm/bpf")
int BPF_PROG(aw_bpf)
{
	return NEVER_IF_GOVERNED(NEVER_BPF);
}

SEC("lsm/perf_event_open")
int BPF_PROG(aw_perf)
{
	return NEVER_IF_GOVERNED(NEVER_PERF);
}

SEC("lsm/kernel_module_request")
int BPF_PROG(aw_module_request)
{
	return NEVER_IF_GOVERNED(NEVER_MODULE);
}

SEC("lsm/kernel_read_file")
int BPF_PROG(aw_kernel_read)
{
	return NEVER_IF_GOVERNED(NEVER_MODULE);
}

SEC("lsm/kernel_load_data")
int BPF_PROG(aw_kernel_load)
{
	return NEVER_IF_GOVERNED(NEVER_MODULE);
}

SEC("lsm/locked_down")
int BPF_PROG(aw_locked_down)
{
	return NEVER_IF_GOVERNED(NEVER_LOCKDOWN);
}

/* What is read and written through io_uring passes the hooks of files and sockets: its workers inherit. */
SEC("lsm/uring_override_creds")
int BPF_PROG(aw_uring_creds)
{
	return NEVER_IF_GOVERNED(NEVER_URING);
}

SEC("lsm/uring_cmd")
int BPF_PROG(aw_uring_cmd)
{
	return NEVER_IF_GOVERNED(NEVER_URING);
}

SEC("lsm/key_alloc")
int BPF_PROG(aw_key_alloc)
{
	return NEVER_IF_GOVERNED(NEVER_KEY);
}

SEC("lsm/key_permission")
int BPF_PROG(aw_key)
{
	return NEVER_IF_GOVERNED(NEVER_KEY);
}

SEC("lsm/settime")
int BPF_PROG(aw_settime)
{
	return NEVER_IF_GOVERNED(NEVER_SYSTEM);
}

SEC("lsm/syslog")
int BPF_PROG(aw_syslog)
{
	return NEVER_IF_GOVERNED(NEVER_SYSTEM);
}

SEC("lsm/quotactl")
int BPF_PROG(aw_quotactl)
{
	return NEVER_IF_GOVERNED(NEVER_SYSTEM);
}

/*
 * Capabilities over the whole host, for root that is governed: what they permit no other hook sees. Those
 * about files, users, ports and the process's own signals stay: each of their uses is decided where it happens.
 */
#define OVER_THE_HOST                                                                                        \
	(1ull << 9 /* LINUX_IMMUTABLE */ | 1ull << 12 /* NET_ADMIN */ | 1ull << 13 /* NET_RAW */ |            \
	 1ull << 16 /* SYS_MODULE */ | 1ull << 17 /* SYS_RAWIO */ | 1ull << 19 /* SYS_PTRACE */ |             \
	 1ull << 20 /* SYS_PACCT */ | 1ull << 21 /* SYS_ADMIN */ | 1ull << 22 /* SYS_BOOT */ |                \
	 1ull << 25 /* SYS_TIME */ | 1ull << 26 /* SYS_TTY_CONFIG */ | 1ull << 30 /* AUDIT_CONTROL */ |       \
	 1ull << 31 /* SETFCAP */ |                                                                            \
	 1ull << 32 /* MAC_OVERRIDE */ | 1ull << 33 /* MAC_ADMIN */ | 1ull << 34 /* SYSLOG */ |               \
	 1ull << 37 /* AUDIT_READ */ | 1ull << 38 /* PERFMON */ | 1ull << 39 /* BPF */ |                      \
	 1ull << 40 /* CHECKPOINT_RESTORE */)
#define CAP_OPT_NOAUDIT 2u

SEC("lsm/capable")
int BPF_PROG(aw_capable, const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)
{
	struct task *t;

	if (cap < 0 || cap > 63 || !(1ull << cap & OVER_THE_HOST))
		return 0;
	t = governed();
	if (!t || BPF_CORE_READ(ns, level) > 0)
		return 0;
	/* Other credentials than its own are lent by the kernel for work of its own (overlayfs). */
	if (as_number(t, cred) != (__u64)BPF_CORE_READ((struct task_struct *)bpf_get_current_task_btf(), real_cred))
		return 0;
	if (opts & CAP_OPT_NOAUDIT) {
		count(COUNT_REFUSED);
		return is_audit(t) ? 0 : -EPERM;
	}
	return never(t, NEVER_CAPABILITY);
}

#define TIOCSTI 0x5412
#define TIOCLINUX 0x541c
#define TIOCSETD 0x5423

/* Kinds of commands to file systems, by the letter of their number. */
#define IOCTL_TYPE(command) ((command) >> 8 & 0xff)
#define IOCTL_WRITES(command) ((command) & 0x40000000u)
#define FICLONE 0x40049409u
#define FICLONERANGE 0x4020940du

/*
 * Commands that change a file or a folder which is open for reading only: flags and projects ('f', 'X'),
 * subvolumes and snapshots of btrfs (0x94). Cloning needs a file that is open for writing.
 */
static __always_inline bool is_change(unsigned int command)
{
	__u32 type = IOCTL_TYPE(command);

	if (!IOCTL_WRITES(command) || command == FICLONE || command == FICLONERANGE)
		return false;
	return type == 'f' || type == 'X' || type == 0x94;
}

static __always_inline int on_ioctl(struct file *file, unsigned int command)
{
	struct task *t;

	if (command == TIOCSTI || command == TIOCLINUX || command == TIOCSETD)
		return NEVER_IF_GOVERNED(NEVER_TERMINAL);
	if (!is_change(command))
		return 0;
	t = governed();
	if (!t || is_device(file->f_inode->i_mode))
		return 0;
	begin(t);
	consider(t, VERB_CHMOD, as_number(t, file->f_path.mnt), as_number(t, file->f_path.dentry), 0);
	return conclude(t);
}

SEC("lsm/file_ioctl")
int BPF_PROG(aw_ioctl, struct file *file, unsigned int command)
{
	return on_ioctl(file, command);
}

/* The call of a 32-bit program, which has a hook of its own since Linux 6.8. */
SEC("lsm/file_ioctl_compat")
int BPF_PROG(aw_ioctl_compat, struct file *file, unsigned int command)
{
	return on_ioctl(file, command);
}

#endif
