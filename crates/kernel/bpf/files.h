/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Hooks about files: opening, names, content and metadata. Verbs are those of crates/wall/src/broker. */
#ifndef AGENTWALL_FILES_H
#define AGENTWALL_FILES_H

#include "objects.h"
#include <bpf/bpf_tracing.h>

#define FLAG_EXEC 0x20u /* __FMODE_EXEC, set by the kernel when it opens a program */

/* Sequence counters of the kernel: every rename of a cached name and every change of mounts moves them.
 * Where the kernel does not tell their place, nothing is cached. */
extern const void rename_lock __ksym __attribute__((weak));
extern const void mount_lock __ksym __attribute__((weak));

/* The decision cache: with the inode, so that it is gone when the inode is. */
struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct seen);
} seen SEC(".maps");

static __always_inline __u32 sequence(const void *lock)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), lock);
	return value;
}

static __always_inline void consider_file(struct task *t, struct file *file)
{
	t->opened.mount = as_number(t, file->f_path.mnt);
	t->opened.dentry = as_number(t, file->f_path.dentry);
	t->opened.mode = file->f_mode;
	t->opened.flags = file->f_flags;
	t->opened.kind = file->f_inode->i_mode;
	t->opened.rdev = file->f_inode->i_rdev;
	consider_opened(t);
}

static __always_inline __u32 wanted(__u32 mode)
{
	return (mode & FMODE_READ ? 1u << VERB_READ : 0) | (mode & FMODE_WRITE ? 1u << VERB_WRITE : 0);
}

static __always_inline __u64 last_name(struct dentry *dentry)
{
	return (__u64)dentry->d_name.len << 32 | dentry->d_name.hash;
}

/*
 * The decision cache. It holds plain allows of opens, with all that the answer depends on: the table's
 * generation, the name (dentry, its folder, last component, mount; and no rename anywhere since, which
 * moves rename_lock), the mounts (mount_lock). It is gone with the inode. Files with several names, devices, and
 * objects with a note of their own are never in it.
 */
static __always_inline bool was_seen(struct task *t, struct file *file, __u64 generation, __u32 verbs,
				     __u32 renames, __u32 mounts)
{
	struct seen *s = bpf_inode_storage_get(&seen, file->f_inode, NULL, 0);
	struct dentry *dentry = file->f_path.dentry;

	return s && s->view == t->view && s->generation == generation && s->renames == renames &&
	       s->mounts == mounts && s->dentry == as_number(t, dentry) &&
	       s->parent == as_number(t, dentry->d_parent) && s->mount == as_number(t, file->f_path.mnt) &&
	       s->name == last_name(dentry) && (s->verbs & verbs) == verbs;
}

static __always_inline void remember(struct task *t, struct file *file, __u64 generation, __u32 verbs,
				     __u32 renames, __u32 mounts)
{
	struct seen *s = bpf_inode_storage_get(&seen, file->f_inode, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct dentry *dentry = file->f_path.dentry;

	if (!s)
		return;
	/* Two that write at once: an entry is used only if all its fields fit, and verbs are added last. */
	s->verbs = 0;
	s->view = t->view;
	s->generation = generation;
	s->dentry = as_number(t, dentry);
	s->parent = as_number(t, dentry->d_parent);
	s->mount = as_number(t, file->f_path.mnt);
	s->name = last_name(dentry);
	s->renames = renames;
	s->mounts = mounts;
	s->verbs = verbs;
}

#define NAMES_TRIES 4

SEC("lsm/file_open")
int BPF_PROG(aw_file_open, struct file *file)
{
	struct task *t = governed();
	__u32 renames = 0, mounts = 0, verbs;
	__u64 generation;
	bool can_cache;

	if (!t || file->f_flags & FLAG_EXEC)
		return 0;
	can_cache = &rename_lock && &mount_lock && file->f_inode->i_nlink <= 1;
	verbs = wanted(file->f_mode);
	generation = generation_of(t);
	if (can_cache) {
		renames = sequence(&rename_lock);
		mounts = sequence(&mount_lock);
		if (!(file->f_mode & FMODE_CREATED) && was_seen(t, file, generation, verbs, renames, mounts)) {
			count(COUNT_CACHED);
			return 0;
		}
	}
	begin(t);
	consider_file(t, file);
	if (can_cache && t->answer.cacheable && t->answer.effect == EFFECT_ALLOW && !t->answer.marks &&
	    !((renames | mounts) & 1) && generation && generation == t->event.generation &&
	    renames == sequence(&rename_lock) && mounts == sequence(&mount_lock))
		remember(t, file, generation, verbs, renames, mounts);
	return conclude(t);
}

/* A descriptor from another process: what it can do is asked for as if it were opened. */
SEC("lsm/file_receive")
int BPF_PROG(aw_file_receive, struct file *file)
{
	struct task *t = governed();

	if (!t)
		return 0;
	begin(t);
	consider_file(t, file);
	return conclude(t);
}

/* A program that gives whoever starts it another user: also processes that nobody governs. */
static __always_inline bool is_set_id(__u32 mode)
{
	return (mode & S_IFMT) == S_IFREG && mode & (S_ISUID | S_ISGID);
}

/* An operation on one name in a folder. */
static __always_inline int on_name(__u32 verb, const struct path *dir, struct dentry *dentry)
{
	struct task *t = governed();

	if (!t)
		return 0;
	begin(t);
	consider(t, verb, as_number(t, dir->mnt), as_number(t, dentry), 0);
	return conclude(t);
}

SEC("lsm/path_mknod")
int BPF_PROG(aw_path_mknod, const struct path *dir, struct dentry *dentry, unsigned short mode, unsigned int dev)
{
	struct task *t = governed();

	if (!t)
		return 0;
	if (is_set_id(mode))
		return never(t, NEVER_SET_ID);
	begin(t);
	consider(t, VERB_CREATE, as_number(t, dir->mnt), as_number(t, dentry), 0);
	if (is_device(mode))
		consider(t, VERB_DEVICE, as_number(t, dir->mnt), as_number(t, dentry), 0);
	return conclude(t);
}

SEC("lsm/path_mkdir")
int BPF_PROG(aw_path_mkdir, const struct path *dir, struct dentry *dentry, unsigned short mode)
{
	return on_name(VERB_CREATE, dir, dentry);
}

SEC("lsm/path_symlink")
int BPF_PROG(aw_path_symlink, const struct path *dir, struct dentry *dentry, const char *old)
{
	return on_name(VERB_CREATE, dir, dentry);
}

SEC("lsm/path_unlink")
int BPF_PROG(aw_path_unlink, const struct path *dir, struct dentry *dentry)
{
	return on_name(VERB_DELETE, dir, dentry);
}

SEC("lsm/path_rmdir")
int BPF_PROG(aw_path_rmdir, const struct path *dir, struct dentry *dentry)
{
	return on_name(VERB_DELETE, dir, dentry);
}

/* A second name must not open a way around the rules about the first. */
SEC("lsm/path_link")
int BPF_PROG(aw_path_link, struct dentry *old, const struct path *dir, struct dentry *dentry)
{
	struct task *t = governed();
	__u64 mnt;

	if (!t)
		return 0;
	mnt = as_number(t, dir->mnt); /* a link never leaves its mount */
	begin(t);
	consider(t, VERB_CREATE, mnt, as_number(t, dentry), 0);
	/* A file without a name yet (O_TMPFILE) has no rules of its own. */
	if (old->d_inode->i_nlink) {
		consider(t, VERB_READ, mnt, as_number(t, old), 0);
		consider(t, VERB_WRITE, mnt, as_number(t, old), 0);
	}
	return conclude(t);
}

/* Taking a name away, and what the object may be read as, so that no other name opens it. */
static __always_inline void consider_moved(struct task *t, __u64 mnt, __u64 dentry)
{
	struct inode *inode = BPF_CORE_READ((struct dentry *)dentry, d_inode);

	consider(t, VERB_RENAME, mnt, dentry, 0);
	if (t->noted & OBJECT_PINNED && t->work.question.directory)
		refuse(t, VERB_RENAME, WHY_PINNED);
	if (inode && (BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFDIR)
		consider(t, VERB_READ, mnt, dentry, 0);
}

#define RENAME_EXCHANGE 2u

/* The hook's last argument came with Linux 5.19 (the oldest supported has it). */
SEC("lsm/path_rename")
int BPF_PROG(aw_path_rename, const struct path *from_dir, struct dentry *from, const struct path *to_dir,
	     struct dentry *to, unsigned int flags)
{
	struct task *t = governed();
	__u64 mnt;

	if (!t)
		return 0;
	mnt = as_number(t, from_dir->mnt);
	begin(t);
	consider_moved(t, mnt, as_number(t, from));
	consider(t, VERB_CREATE, mnt, as_number(t, to), 0);
	if (BPF_CORE_READ(to, d_inode)) {
		consider(t, VERB_WRITE, mnt, as_number(t, to), 0);
		if (flags & RENAME_EXCHANGE) {
			consider_moved(t, mnt, as_number(t, to));
			consider(t, VERB_CREATE, mnt, as_number(t, from), 0);
		}
	}
	return conclude(t);
}

static __always_inline int on_path(__u32 verb, const struct path *path)
{
	struct task *t = governed();

	if (!t)
		return 0;
	begin(t);
	consider(t, verb, as_number(t, path->mnt), as_number(t, path->dentry), 0);
	return conclude(t);
}

SEC("lsm/path_truncate")
int BPF_PROG(aw_path_truncate, const struct path *path)
{
	return on_path(VERB_WRITE, path);
}

/* Since Linux 6.2 shortening an open file has a hook of its own. */
SEC("lsm/file_truncate")
int BPF_PROG(aw_file_truncate, struct file *file)
{
	return on_path(VERB_WRITE, &file->f_path);
}

SEC("lsm/path_chmod")
int BPF_PROG(aw_path_chmod, const struct path *path, unsigned short mode)
{
	__u32 kind = path->dentry->d_inode->i_mode & S_IFMT;

	if (is_set_id(kind | (mode & ~S_IFMT))) {
		struct task *t = governed();

		return t ? never(t, NEVER_SET_ID) : 0;
	}
	return on_path(VERB_CHMOD, path);
}

SEC("lsm/path_chown")
int BPF_PROG(aw_path_chown, const struct path *path)
{
	return on_path(VERB_CHMOD, path);
}

/* A root folder of its own would not change names here, but what they mean to others it starts. */
SEC("lsm/path_chroot")
int BPF_PROG(aw_path_chroot, const struct path *path)
{
	struct task *t = governed();

	return t ? never(t, NEVER_NAMESPACE) : 0;
}

/* Metadata that only the inode hooks see, which have no mount. */
static __always_inline int on_inode(__u32 verb, struct dentry *dentry)
{
	struct task *t = governed();

	if (!t)
		return 0;
	begin(t);
	consider_inode(t, verb, as_number(t, dentry));
	return conclude(t);
}

#define ATTR_MODE (1u << 0)
#define ATTR_UID (1u << 1)
#define ATTR_GID (1u << 2)
#define ATTR_SIZE (1u << 3)
#define ATTR_ATIME (1u << 4)
#define ATTR_MTIME (1u << 5)

/* Times only: modes, owners and lengths have hooks with a path. */
static __always_inline int on_attributes(struct dentry *dentry, struct iattr *attr)
{
	__u32 valid = attr->ia_valid;

	if (!(valid & (ATTR_ATIME | ATTR_MTIME)) || valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE))
		return 0;
	return on_inode(VERB_CHMOD, dentry);
}

/* Which of the two is loaded depends on the hook's arguments: the mapping of ids came with Linux 6.10. */
SEC("lsm/inode_setattr")
int BPF_PROG(aw_setattr, struct dentry *dentry, struct iattr *attr)
{
	return on_attributes(dentry, attr);
}

SEC("lsm/inode_setattr")
int BPF_PROG(aw_setattr_idmap, void *idmap, struct dentry *dentry, struct iattr *attr)
{
	return on_attributes(dentry, attr);
}

SEC("lsm/inode_setxattr")
int BPF_PROG(aw_inode_setxattr, void *idmap, struct dentry *dentry)
{
	return on_inode(VERB_CHMOD, dentry);
}

/* Since Linux 6.2 access control lists have hooks of their own. */
SEC("lsm/inode_set_acl")
int BPF_PROG(aw_inode_set_acl, void *idmap, struct dentry *dentry)
{
	return on_inode(VERB_CHMOD, dentry);
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(aw_inode_remove_acl, void *idmap, struct dentry *dentry)
{
	return on_inode(VERB_CHMOD, dentry);
}

/* Since Linux 6.17: flags and projects of an inode. */
SEC("lsm/inode_file_setattr")
int BPF_PROG(aw_inode_file_setattr, struct dentry *dentry)
{
	return on_inode(VERB_CHMOD, dentry);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(aw_inode_removexattr, void *idmap, struct dentry *dentry)
{
	return on_inode(VERB_CHMOD, dentry);
}

#endif
