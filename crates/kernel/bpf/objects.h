/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What is asked about open files and code, by the LSM hooks and by the monitor. */
#ifndef AGENTWALL_OBJECTS_H
#define AGENTWALL_OBJECTS_H

#include "judge.h"

#define FMODE_READ 0x1u
#define FMODE_WRITE 0x2u
#define FMODE_CREATED 0x100000u
#define FLAG_TMPFILE 020000000u

static __always_inline bool is_device(__u32 mode)
{
	return (mode & S_IFMT) == S_IFCHR || (mode & S_IFMT) == S_IFBLK;
}

/*
 * Devices that every program has: null, zero, full, random, urandom, tty, ptmx, and terminals of its own
 * (pts). Refused by a rule that names them, not by a default.
 */
static __always_inline __u32 device_softness(__u32 mode, __u32 rdev)
{
	__u32 major = rdev >> 20, minor = rdev & 0xfffff;

	if ((mode & S_IFMT) != S_IFCHR)
		return 0;
	if (major == 1 && (minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9))
		return SOFT_DEFAULT;
	if (major == 5 && (minor == 0 || minor == 2))
		return SOFT_DEFAULT;
	return major >= 136 && major <= 143 ? SOFT_DEFAULT : 0;
}

/* What opening the file in t->opened does, asked for one after the other. Also for files that come from elsewhere. */
static __always_inline void consider_opened(struct task *t)
{
	struct opened *o = &t->opened;
	__u32 how = 0;

	if (is_device(o->kind)) {
		how = device_softness(o->kind, o->rdev);
		t->answer.cacheable = 0;
		consider(t, VERB_DEVICE, o->mount, o->dentry, how);
	}
	if (o->mode & FMODE_CREATED || o->flags & FLAG_TMPFILE) {
		/* Its name was asked for when it was made; a nameless one is asked for here. */
		t->answer.cacheable = 0;
		consider(t, VERB_CREATE, o->mount, o->dentry, how);
		return;
	}
	if (o->mode & FMODE_READ)
		consider(t, VERB_READ, o->mount, o->dentry, how);
	if (o->mode & FMODE_WRITE)
		consider(t, VERB_WRITE, o->mount, o->dentry, how);
}

/* A file that becomes code. The program itself was decided when it was started. */
static __always_inline int on_code(struct task *t, struct file *file)
{
	struct task_struct *me = (struct task_struct *)bpf_get_current_task_btf();
	struct file *program = BPF_CORE_READ(me, mm, exe_file);

	if (program && BPF_CORE_READ(program, f_inode) == BPF_CORE_READ(file, f_inode))
		return 0;
	begin(t);
	consider(t, VERB_MAP_EXEC, (__u64)BPF_CORE_READ(file, f_path.mnt), (__u64)BPF_CORE_READ(file, f_path.dentry),
		 CODE);
	return conclude(t);
}

#endif
