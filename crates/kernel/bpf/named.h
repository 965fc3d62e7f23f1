/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a system call did, found out when it returns: by the descriptor it has or gave, else by the name that it was given.
 *
 * A name is told with that of the folder it is relative to, for user space to join and to ask the policy about: nothing
 * is left in the kernel that it could be made from. It is read where the call read it, and may have been changed meanwhile.
 */
#ifndef AGENTWALL_NAMED_H
#define AGENTWALL_NAMED_H

#include "endpoints.h"
#include "objects.h"

#define AT_FDCWD (-100)
#define FMODE_PATH 0x4000u

/* How a name is told. */
#define IN_KERNEL_MEMORY 1u
#define OF_FOLDER 2u
#define OF_SOCKET 4u

/* The open file behind a descriptor; it may be another's by now, if a thread closed it. */
__attribute__((noinline)) __u64 open_file(long fd)
{
	struct task_struct *me = (struct task_struct *)bpf_get_current_task_btf();
	struct fdtable *table = BPF_CORE_READ(me, files, fdt);
	struct file **slots, *file = NULL;

	if (fd < 0 || fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	slots = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), slots + fd);
	return (__u64)file;
}

static __always_inline struct file *file_of(long fd)
{
	return (struct file *)open_file(fd);
}

static __always_inline long read_name(void *to, __u32 room, __u64 name, __u32 how)
{
	return how & IN_KERNEL_MEMORY ? bpf_probe_read_kernel_str(to, room, (void *)name)
				      : bpf_probe_read_user_str(to, room, (void *)name);
}

/* Says that something happened which cannot be named. */
static __attribute__((noinline)) int unread(struct task *t, __u32 verb)
{
	t->work.question.has_text = 0;
	refuse(t, verb, WHY_UNREAD);
	return conclude(t);
}

/* Sends a name whose folder is in the question; `len` bytes of it, with the zero behind, are in the spare part. */
__attribute__((noinline)) int tell_name(struct task *t, __u32 verb, __u64 name, __u32 len, __u32 how)
{
	struct event *e;
	__u32 base;
	__u64 text;

	if (!t)
		return 0;
	e = &t->event;
	if (!sign(t))
		return 0;
	e->generation = generation_of(t);
	e->identity = t->identity;
	e->verb = verb;
	e->kind = how & OF_SOCKET ? KIND_SOCKET : KIND_PATH;
	e->directory = how & OF_FOLDER ? 1 : 0;
	e->effect = NONE;
	e->layer = 0;
	e->rank = NONE;
	e->why = WHY_CALL;
	e->never = 0;
	e->audit = 1;
	e->marks = 0;
	e->address_len = 0;
	base = t->work.question.len;
	if (base >= TEXT_ROOM || t->work.question.start > TEXT_ROOM)
		return 0;
	text = (__u64)t->work.text + t->work.question.start;
	e->base = base;
	if (base < SHORT_TEXT && len > 0 && len < COMPONENT) {
		struct {
			struct event head;
			__u8 text[SHORT_TEXT + COMPONENT];
		} *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);

		if (!record) {
			count(COUNT_DROPPED);
			return 0;
		}
		record->head = *e;
		barrier_var(base); /* or the next line is left out, which the verifier needs */
		base &= SHORT_TEXT - 1;
		bpf_probe_read_kernel(record->text, base, (void *)text);
		bpf_probe_read_kernel(record->text + base, COMPONENT, &t->work.text[SPARE]);
		record->head.len = base + len - 1;
		bpf_ringbuf_submit(record, 0);
	} else {
		struct {
			struct event head;
			__u8 text[2 * TEXT_ROOM];
		} *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
		long whole;

		if (!record) {
			count(COUNT_DROPPED);
			return 0;
		}
		record->head = *e;
		barrier_var(base);
		base &= TEXT_ROOM - 1;
		bpf_probe_read_kernel(record->text, base, (void *)text);
		whole = read_name(record->text + base, TEXT_ROOM, name, how);
		if (whole <= 0) {
			record->head.why = WHY_UNREAD;
			record->head.effect = EFFECT_DENY;
		}
		record->head.len = base + (whole > 0 ? whole - 1 : 0);
		bpf_ringbuf_submit(record, 0);
	}
	return 0;
}

/* A call that did something under a name: an absolute one is relative to the process's root folder. */
__attribute__((noinline)) int on_named(struct task *t, __u32 verb, __u64 name, long dirfd, __u32 how)
{
	struct task_struct *me = (struct task_struct *)bpf_get_current_task_btf();
	__u64 mnt, dentry;
	long len;
	int found;

	if (!t)
		return 0;
	begin(t);
	len = read_name(&t->work.text[SPARE], COMPONENT, name, how);
	if (len <= 0)
		return unread(t, verb);
	if (t->work.text[SPARE] == '/') {
		mnt = (__u64)BPF_CORE_READ(me, fs, root.mnt);
		dentry = (__u64)BPF_CORE_READ(me, fs, root.dentry);
	} else if ((int)dirfd == AT_FDCWD) {
		mnt = (__u64)BPF_CORE_READ(me, fs, pwd.mnt);
		dentry = (__u64)BPF_CORE_READ(me, fs, pwd.dentry);
	} else {
		struct file *file = file_of((int)dirfd);

		if (!file)
			return unread(t, verb);
		mnt = (__u64)BPF_CORE_READ(file, f_path.mnt);
		dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
	}
	look(t, dentry);
	found = name_of(t, mnt, dentry);
	if (found != NAMED && !names_are_inside(t)) {
		__u64 other = host_mount(dentry, 0);

		if (other)
			found = name_of(t, other, dentry);
	}
	if ((found != NAMED && found != NAMED_INSIDE) || t->work.question.len >= TEXT_ROOM)
		return unread(t, verb);
	return tell_name(t, verb, name, len, how);
}

/* A call that did something to what is open as a descriptor. */
static __always_inline int on_open(struct task *t, __u32 verb, long fd)
{
	struct file *file = file_of((int)fd);

	if (!t || !file)
		return 0;
	begin(t);
	consider(t, verb, (__u64)BPF_CORE_READ(file, f_path.mnt), (__u64)BPF_CORE_READ(file, f_path.dentry), 0);
	return conclude(t);
}

/* Looks at the open file behind a descriptor; 0: there is none that was opened for anything. */
__attribute__((noinline)) int look_opened(struct task *t, long fd)
{
	struct file *file = file_of((int)fd);

	if (!t || !file || BPF_CORE_READ(file, f_mode) & FMODE_PATH)
		return 0;
	t->opened.mount = (__u64)BPF_CORE_READ(file, f_path.mnt);
	t->opened.dentry = (__u64)BPF_CORE_READ(file, f_path.dentry);
	t->opened.mode = BPF_CORE_READ(file, f_mode);
	t->opened.flags = BPF_CORE_READ(file, f_flags);
	t->opened.kind = BPF_CORE_READ(file, f_inode, i_mode);
	t->opened.rdev = BPF_CORE_READ(file, f_inode, i_rdev);
	return 1;
}

/* A descriptor that is new to the process. */
static __always_inline int on_descriptor(struct task *t, long fd)
{
	if (!look_opened(t, fd))
		return 0;
	begin(t);
	consider_opened(t);
	return conclude(t);
}

#endif
