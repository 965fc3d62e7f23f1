/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The parts of kernel structures that the programs read. Offsets are relocated when the programs are
 * loaded (CO-RE, preserve_access_index), so only names and types of fields matter here.
 */
#ifndef AGENTWALL_TYPES_H
#define AGENTWALL_TYPES_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#ifndef NULL
#define NULL ((void *)0)
#endif

/* Values of kernel enums that bpf_helpers.h and the maps name. */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_INODE_STORAGE = 28,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
	BPF_F_NO_PREALLOC = 1U << 0,
	BPF_F_MMAPABLE = 1U << 10,
};
#define BPF_LOCAL_STORAGE_GET_F_CREATE (1ULL << 0)


#define IN_KERNEL __attribute__((preserve_access_index))

struct super_block;
struct mnt_namespace;

struct list_head {
	struct list_head *next;
} IN_KERNEL;

struct qstr {
	union {
		struct {
			__u32 hash;
			__u32 len;
		};
	};
	const unsigned char *name;
} IN_KERNEL;

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
} IN_KERNEL;

struct super_block {
	__u32 s_dev;
	struct dentry *s_root;
	struct list_head s_mounts;
	unsigned long s_magic;
} IN_KERNEL;

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

struct inode {
	unsigned short i_mode;
	kuid_t i_uid;
	struct super_block *i_sb;
	unsigned long i_ino;
	union {
		const unsigned int i_nlink;
	};
	__u32 i_rdev;
	__u32 i_generation;
} IN_KERNEL;

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
} IN_KERNEL;

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct list_head mnt_instance;
	struct mnt_namespace *mnt_ns;
} IN_KERNEL;

/* Since Linux 6.18 the mounts of a file system hang in a list of their own. */
struct mount___next {
	struct mount *mnt_next_for_sb;
} IN_KERNEL;

struct super_block___next {
	struct mount *s_mounts;
} IN_KERNEL;

struct ns_common {
	unsigned int inum;
} IN_KERNEL;

/* Since Linux 6.18 the number of a namespace, which was its seq, is here. */
struct ns_common___numbered {
	__u64 ns_id;
} IN_KERNEL;

struct mnt_namespace {
	struct ns_common ns;
	__u64 seq; /* 0: of mounts that are not attached anywhere */
} IN_KERNEL;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} IN_KERNEL;

struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
	unsigned int f_flags;
	unsigned int f_mode;
} IN_KERNEL;

struct mm_struct {
	struct file *exe_file;
} IN_KERNEL;

struct cred {
	kuid_t uid;
	kuid_t suid;
	kuid_t euid;
	kgid_t egid;
	kuid_t fsuid;
} IN_KERNEL;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} IN_KERNEL;

struct fs_struct {
	struct path root;
	struct path pwd;
} IN_KERNEL;

struct thread_info {
	unsigned long flags; /* arm64 */
	__u32 status; /* x86 */
} IN_KERNEL;

struct files_struct {
	struct fdtable *fdt;
} IN_KERNEL;

struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	const struct cred *real_cred;
	const struct cred *cred;
	struct files_struct *files;
	struct fs_struct *fs;
	struct list_head ptraced;
	struct list_head ptrace_entry;
	char comm[16];
	__u64 start_boottime;
} IN_KERNEL;

struct linux_binprm {
	struct file *file;
	struct cred *cred;
	const char *filename;
	const char *interp;
} IN_KERNEL;

struct vm_area_struct {
	unsigned long vm_flags;
	struct file *vm_file;
} IN_KERNEL;

struct iattr {
	unsigned int ia_valid;
} IN_KERNEL;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
} IN_KERNEL;

struct net {
	struct ns_common ns;
} IN_KERNEL;

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	unsigned short skc_family;
	possible_net_t skc_net;
	__u16 skc_num;
	__be16 skc_dport;
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} IN_KERNEL;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	__u16 sk_type;
} IN_KERNEL;

struct socket {
	short type;
	struct sock *sk;
} IN_KERNEL;

/* Addresses as they are on the wire and in system calls: no kernel structures. */
struct sockaddr {
	unsigned short sa_family;
	char sa_data[14];
};
struct sockaddr_in {
	unsigned short sin_family;
	__be16 sin_port;
	__be32 sin_addr;
	__u8 pad[8];
};
struct sockaddr_in6 {
	unsigned short sin6_family;
	__be16 sin6_port;
	__be32 sin6_flowinfo;
	__u8 sin6_addr[16];
	__u32 sin6_scope_id;
};
struct sockaddr_un {
	unsigned short sun_family;
	char sun_path[108];
};

struct unix_address {
	int len;
	struct sockaddr_un name[];
} IN_KERNEL;

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct path path;
	struct sock *peer;
} IN_KERNEL;

struct msghdr {
	void *msg_name;
	int msg_namelen;
	unsigned int msg_flags;
} IN_KERNEL;

struct user_namespace {
	int level;
} IN_KERNEL;

struct kernel_siginfo {
	int si_code;
} IN_KERNEL;

struct key;

#endif
