/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* System calls as the monitor finds them when they return: numbers and arguments, which are the architecture's. */
#ifndef AGENTWALL_CALLS_H
#define AGENTWALL_CALLS_H

#include "types.h"
#include <bpf/bpf_core_read.h>

#if defined(__TARGET_ARCH_x86)

struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9, orig_ax;
} IN_KERNEL;

#define NUMBER(regs) ((long)(regs)->orig_ax)
#define ARG1(regs) ((regs)->di)
#define ARG2(regs) ((regs)->si)
#define ARG3(regs) ((regs)->dx)
#define ARG4(regs) ((regs)->r10)
#define ARG5(regs) ((regs)->r8)
#define ARG6(regs) ((regs)->r9)

#define TS_COMPAT 2u
#define X32 0x40000000

/* Whether the call is of another kind than the kernel's own, with numbers of its own: 32-bit or x32. */
static __always_inline bool is_foreign(struct task_struct *me, long number)
{
	return BPF_CORE_READ(me, thread_info.status) & TS_COMPAT || number & X32;
}

enum call {
	NR_OPEN = 2,
	NR_MMAP = 9,
	NR_MPROTECT = 10,
	NR_IOCTL = 16,
	NR_SOCKET = 41,
	NR_CONNECT = 42,
	NR_SENDTO = 44,
	NR_SENDMSG = 46,
	NR_RECVMSG = 47,
	NR_BIND = 49,
	NR_LISTEN = 50,
	NR_TRUNCATE = 76,
	NR_FTRUNCATE = 77,
	NR_RENAME = 82,
	NR_MKDIR = 83,
	NR_RMDIR = 84,
	NR_CREAT = 85,
	NR_LINK = 86,
	NR_UNLINK = 87,
	NR_SYMLINK = 88,
	NR_CHMOD = 90,
	NR_FCHMOD = 91,
	NR_CHOWN = 92,
	NR_FCHOWN = 93,
	NR_LCHOWN = 94,
	NR_PTRACE = 101,
	NR_SYSLOG = 103,
	NR_UTIME = 132,
	NR_MKNOD = 133,
	NR_PIVOT_ROOT = 155,
	NR_CHROOT = 161,
	NR_SETTIMEOFDAY = 164,
	NR_MOUNT = 165,
	NR_UMOUNT = 166,
	NR_INIT_MODULE = 175,
	NR_QUOTACTL = 179,
	NR_SETXATTR = 188,
	NR_LSETXATTR = 189,
	NR_FSETXATTR = 190,
	NR_REMOVEXATTR = 197,
	NR_LREMOVEXATTR = 198,
	NR_FREMOVEXATTR = 199,
	NR_CLOCK_SETTIME = 227,
	NR_UTIMES = 235,
	NR_MQ_OPEN = 240,
	NR_ADD_KEY = 248,
	NR_REQUEST_KEY = 249,
	NR_KEYCTL = 250,
	NR_OPENAT = 257,
	NR_MKDIRAT = 258,
	NR_MKNODAT = 259,
	NR_FCHOWNAT = 260,
	NR_FUTIMESAT = 261,
	NR_UNLINKAT = 263,
	NR_RENAMEAT = 264,
	NR_LINKAT = 265,
	NR_SYMLINKAT = 266,
	NR_FCHMODAT = 268,
	NR_UNSHARE = 272,
	NR_UTIMENSAT = 280,
	NR_PERF_EVENT_OPEN = 298,
	NR_RECVMMSG = 299,
	NR_OPEN_BY_HANDLE_AT = 304,
	NR_SENDMMSG = 307,
	NR_FINIT_MODULE = 313,
	NR_RENAMEAT2 = 316,
	NR_BPF = 321,
	NR_PKEY_MPROTECT = 329,
};

#elif defined(__TARGET_ARCH_arm64)

struct pt_regs {
	__u64 regs[31];
	__u64 orig_x0;
	int syscallno;
} IN_KERNEL;

#define NUMBER(r) ((long)(r)->syscallno)
#define ARG1(r) ((r)->orig_x0)
#define ARG2(r) ((r)->regs[1])
#define ARG3(r) ((r)->regs[2])
#define ARG4(r) ((r)->regs[3])
#define ARG5(r) ((r)->regs[4])
#define ARG6(r) ((r)->regs[5])

#define TIF_32BIT (1ul << 22)

static __always_inline bool is_foreign(struct task_struct *me, long number)
{
	return BPF_CORE_READ(me, thread_info.flags) & TIF_32BIT;
}

enum call {
	NR_SETXATTR = 5,
	NR_LSETXATTR = 6,
	NR_FSETXATTR = 7,
	NR_REMOVEXATTR = 14,
	NR_LREMOVEXATTR = 15,
	NR_FREMOVEXATTR = 16,
	NR_IOCTL = 29,
	NR_MKNODAT = 33,
	NR_MKDIRAT = 34,
	NR_UNLINKAT = 35,
	NR_SYMLINKAT = 36,
	NR_LINKAT = 37,
	NR_RENAMEAT = 38,
	NR_UMOUNT = 39,
	NR_MOUNT = 40,
	NR_PIVOT_ROOT = 41,
	NR_TRUNCATE = 45,
	NR_FTRUNCATE = 46,
	NR_CHROOT = 51,
	NR_FCHMOD = 52,
	NR_FCHMODAT = 53,
	NR_FCHOWNAT = 54,
	NR_FCHOWN = 55,
	NR_OPENAT = 56,
	NR_QUOTACTL = 60,
	NR_UTIMENSAT = 88,
	NR_UNSHARE = 97,
	NR_INIT_MODULE = 105,
	NR_CLOCK_SETTIME = 112,
	NR_SYSLOG = 116,
	NR_PTRACE = 117,
	NR_SETTIMEOFDAY = 170,
	NR_MQ_OPEN = 180,
	NR_SOCKET = 198,
	NR_BIND = 200,
	NR_LISTEN = 201,
	NR_CONNECT = 203,
	NR_SENDTO = 206,
	NR_SENDMSG = 211,
	NR_RECVMSG = 212,
	NR_ADD_KEY = 217,
	NR_REQUEST_KEY = 218,
	NR_KEYCTL = 219,
	NR_MMAP = 222,
	NR_MPROTECT = 226,
	NR_PERF_EVENT_OPEN = 241,
	NR_RECVMMSG = 243,
	NR_OPEN_BY_HANDLE_AT = 265,
	NR_SENDMMSG = 269,
	NR_FINIT_MODULE = 273,
	NR_RENAMEAT2 = 276,
	NR_BPF = 280,
	NR_PKEY_MPROTECT = 288,
};

#endif

/* Since there is one list for all architectures. */
enum common_call {
	NR_IO_URING_SETUP = 425,
	NR_IO_URING_ENTER = 426,
	NR_IO_URING_REGISTER = 427,
	NR_MOVE_MOUNT = 429,
	NR_FSCONFIG = 431,
	NR_OPENAT2 = 437,
	NR_PIDFD_GETFD = 438,
	NR_MOUNT_SETATTR = 442,
	NR_QUOTACTL_FD = 443,
	NR_FCHMODAT2 = 452,
	NR_SETXATTRAT = 463,
	NR_REMOVEXATTRAT = 466,
	NR_FILE_SETATTR = 469,
};

#endif
