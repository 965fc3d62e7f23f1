/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The canonical name of an object: from its dentry up to the root of its mount namespace, through mount
 * points, written from the end of the buffer to its front. bpf_d_path() would do in three hooks only, and is
 * relative to the caller's root.
 *
 * Pointers are numbers here and are read with bpf_probe_read_kernel(): they may come from where the verifier
 * knows no type (struct mount), and the functions are verified once for all programs (global functions take
 * numbers). Reading goes on under RCU; whoever calls looks at rename_lock and mount_lock before and after.
 */
#ifndef AGENTWALL_PATH_H
#define AGENTWALL_PATH_H

#include "maps.h"
#include <bpf/bpf_core_read.h>

#define MAX_DEPTH 96 /* components and mounts; deeper is "not decided" */
#define MAX_MOUNTS 24 /* of one file system that are looked at */

/* What a walk to the root came to. */
#define NAMED 0 /* by a mount of the host's namespace */
#define NAMED_INSIDE 1 /* by a mount of another namespace */
#define DETACHED 2 /* by a mount in no namespace or in one of its own (open_tree), or moved out of its mount */
#define INTERNAL 3 /* by a mount of the kernel's own: pipes, memfd, the layers of an overlay */
#define TOO_LONG 4
#define TOO_DEEP 5
#define UNDER_WAY 6 /* there are more steps */

#define ERROR_POINTERS ((__u64)-4095)

static __always_inline __u64 mount_of(__u64 vfsmount)
{
	return vfsmount - bpf_core_field_offset(struct mount, mnt);
}

/* Whether a namespace is that of detached mounts: it has no number. */
static __always_inline bool is_of_detached(struct mnt_namespace *ns)
{
	if (bpf_core_field_exists(struct mnt_namespace, seq))
		return BPF_CORE_READ(ns, seq) == 0;
	return BPF_CORE_READ((struct ns_common___numbered *)&ns->ns, ns_id) == 0;
}

/*
 * One step of name_of(): a component, or from the root of a mount to where it is mounted. A function of its own, with what
 * goes on over the calls in the task's memory, so that the verifier goes through it once and not for each of them.
 */
__attribute__((noinline)) int name_step(struct task *t)
{
	struct mount *mnt;
	struct dentry *here, *parent;
	struct qstr name;
	__u32 pos;

	if (!t)
		return TOO_DEEP;
	mnt = (struct mount *)t->walk.mount;
	here = (struct dentry *)t->walk.here;
	pos = t->work.question.start;
	if (t->walk.here == t->walk.root) {
		struct mount *above = BPF_CORE_READ(mnt, mnt_parent);

		if (above == mnt || !above) {
			struct mnt_namespace *ns = BPF_CORE_READ(mnt, mnt_ns);
			__u32 inum;

			if ((__u64)ns >= ERROR_POINTERS)
				return INTERNAL;
			if (!ns || is_of_detached(ns))
				return DETACHED;
			inum = BPF_CORE_READ(ns, ns.inum);
			if (pos == TEXT_ROOM) {
				pos = TEXT_ROOM - 1;
				t->work.text[TEXT_ROOM - 1] = '/';
			}
			t->work.question.start = pos;
			t->work.question.len = TEXT_ROOM - pos;
			return inum == host.mount_namespace ? NAMED : NAMED_INSIDE;
		}
		t->walk.here = (__u64)BPF_CORE_READ(mnt, mnt_mountpoint);
		t->walk.mount = (__u64)above;
		t->walk.root = (__u64)BPF_CORE_READ(above, mnt.mnt_root);
		return UNDER_WAY;
	}
	parent = BPF_CORE_READ(here, d_parent);
	if (parent == here)
		return DETACHED; /* not below the mount's root: it was moved out of it */
	bpf_core_read(&name, sizeof(name), &here->d_name);
	if (name.len == 0 || name.len >= COMPONENT || name.len + 1 > pos)
		return TOO_LONG;
	pos -= name.len;
	bpf_probe_read_kernel(&t->work.text[pos & TEXT_MASK], name.len & (COMPONENT - 1), name.name);
	pos -= 1;
	t->work.text[pos & TEXT_MASK] = '/';
	t->work.question.start = pos;
	t->walk.here = (__u64)parent;
	return UNDER_WAY;
}

/*
 * Writes the name of dentry as vfsmount shows it into work.text, and its place into the question.
 * Returns one of the above; after the first two there is a name.
 */
__attribute__((noinline)) int name_of(struct task *t, __u64 vfsmount, __u64 dentry)
{
	struct mount *mnt = (struct mount *)mount_of(vfsmount);
	int found = UNDER_WAY;

	if (!t)
		return TOO_DEEP;
	t->walk.mount = (__u64)mnt;
	t->walk.here = dentry;
	t->walk.root = (__u64)BPF_CORE_READ(mnt, mnt.mnt_root);
	t->work.question.start = TEXT_ROOM;
	for (int i = 0; i < MAX_DEPTH && found == UNDER_WAY; i++)
		found = name_step(t);
	return found == UNDER_WAY ? TOO_DEEP : found;
}

/* 1 if dentry is root or below it, 0 if not or too deep. */
__attribute__((noinline)) int is_below(__u64 dentry, __u64 root)
{
	struct dentry *here = (struct dentry *)dentry;

	for (int i = 0; i < MAX_DEPTH; i++) {
		struct dentry *parent;

		if ((__u64)here == root)
			return 1;
		parent = BPF_CORE_READ(here, d_parent);
		if (parent == here)
			return 0;
		here = parent;
	}
	return 0;
}

/* The first mount of a file system, and the next one after a mount; 0: there is none. */
static __always_inline __u64 first_mount(struct super_block *sb)
{
	__u64 entry;

	if (bpf_core_field_exists(struct mount___next, mnt_next_for_sb))
		return (__u64)BPF_CORE_READ((struct super_block___next *)sb, s_mounts);
	entry = (__u64)BPF_CORE_READ(sb, s_mounts.next);
	if (!entry || entry == (__u64)sb + bpf_core_field_offset(struct super_block, s_mounts))
		return 0;
	return entry - bpf_core_field_offset(struct mount, mnt_instance);
}

/* A function of its own: taken out of its branch, the place of what a kernel has no more would not load. */
__attribute__((noinline)) __u64 next_mount(__u64 super_block, __u64 mount)
{
	struct super_block *sb = (struct super_block *)super_block;
	struct mount *mnt = (struct mount *)mount;
	__u64 entry;

	if (bpf_core_field_exists(struct mount___next, mnt_next_for_sb))
		return (__u64)BPF_CORE_READ((struct mount___next *)mnt, mnt_next_for_sb);
	entry = (__u64)BPF_CORE_READ(mnt, mnt_instance.next);
	if (!entry || entry == (__u64)sb + bpf_core_field_offset(struct super_block, s_mounts))
		return 0;
	return entry - bpf_core_field_offset(struct mount, mnt_instance);
}

/*
 * A mount by which the host itself shows an object: of the mounts of its file system in the host's namespace
 * those that have it, after the first `skip`. Whatever bind mount or namespace a process comes through, they
 * are the same. Returns the address of its struct vfsmount, or 0.
 */
__attribute__((noinline)) __u64 host_mount(__u64 dentry, __u32 skip)
{
	struct super_block *sb = BPF_CORE_READ((struct dentry *)dentry, d_sb);
	__u64 whole = (__u64)BPF_CORE_READ(sb, s_root);
	__u64 mount = first_mount(sb);

	for (int i = 0; i < MAX_MOUNTS && mount; i++) {
		struct mount *mnt = (struct mount *)mount;
		struct mnt_namespace *ns = BPF_CORE_READ(mnt, mnt_ns);

		if (ns && (__u64)ns < ERROR_POINTERS && BPF_CORE_READ(ns, ns.inum) == host.mount_namespace) {
			__u64 root = (__u64)BPF_CORE_READ(mnt, mnt.mnt_root);

			if ((root == whole || is_below(dentry, root)) && !skip--)
				return mount + bpf_core_field_offset(struct mount, mnt);
		}
		mount = next_mount((__u64)sb, mount);
	}
	return 0;
}

#endif
