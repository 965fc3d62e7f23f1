/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What calls about sockets did, for the monitor. TCP is seen by the socket itself (monitor.bpf.c); a Unix socket by
 * its other end; a datagram's address is read where the call read it.
 */
#ifndef AGENTWALL_TRAFFIC_H
#define AGENTWALL_TRAFFIC_H

#include "named.h"

#define SOCKFS_MAGIC 0x534f434bul
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define MESSAGE 64 /* bytes of struct mmsghdr */
#define RIGHTS 16 /* descriptors of one message that are looked at */
#define MESSAGES 4 /* messages of one call that are looked at */

__attribute__((noinline)) __u64 open_socket(long fd)
{
	struct file *file = file_of((int)fd);

	if (!file || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return 0;
	return (__u64)BPF_CORE_READ(file, private_data);
}

static __always_inline struct socket *socket_of(long fd)
{
	return (struct socket *)open_socket(fd);
}

/* Copies an address of a call to the spare part, as much as its family has; 0: it cannot be read. */
static __always_inline int read_address(struct task *t, __u64 address)
{
	void *spare = &t->work.text[SPARE];
	__u16 family;

	if (bpf_probe_read_user(&family, sizeof(family), (void *)address))
		return 0;
	if (family == AF_INET)
		return !bpf_probe_read_user(spare, sizeof(struct sockaddr_in), (void *)address);
	return !bpf_probe_read_user(spare, sizeof(struct sockaddr_in6), (void *)address);
}

/* A datagram to an address, a socket's only peer from now on, or where it listens. */
__attribute__((noinline)) int on_address(struct task *t, __u32 verb, __u64 sk, __u64 address)
{
	__u32 how = 0;

	if (!t)
		return 0;
	begin(t);
	t->work.question.kind = KIND_ENDPOINT;
	if (!read_address(t, address))
		return unread(t, verb);
	if (!set_endpoint(t, &t->work.text[SPARE], IPPROTO_UDP))
		return 0;
	if (verb == VERB_LISTEN) {
		if (t->work.question.port == 0)
			return 0; /* any free port: that of a client */
		how = on_loopback(&t->work.question) ? SOFT_DEFAULT : 0;
	} else if (is_own_port(t, (struct sock *)sk)) {
		return 0;
	}
	consider_endpoint(t, verb, how);
	return conclude(t);
}

static __always_inline int on_connected(struct task *t, long fd, __u64 address, long length)
{
	struct socket *sock = socket_of(fd);
	struct sock *sk = BPF_CORE_READ(sock, sk);
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	struct unix_sock *peer;

	if (!t || !sock)
		return 0;
	if (family == AF_UNIX) {
		peer = (struct unix_sock *)BPF_CORE_READ((struct unix_sock *)sk, peer);
		return peer ? answer_peer(t, (__u64)peer, (__u64)BPF_CORE_READ(peer, addr)) : 0;
	}
	if ((family != AF_INET && family != AF_INET6) || BPF_CORE_READ(sock, type) != SOCK_DGRAM)
		return 0;
	return on_address(t, VERB_CONNECT, (__u64)sk, address);
}

/* A Unix socket that the session bound is its own; both ends of a connection share the address. */
static __always_inline int on_listening(struct task *t, long fd)
{
	struct socket *sock = socket_of(fd);
	struct unix_sock *sk = (struct unix_sock *)BPF_CORE_READ(sock, sk);
	__u64 key;

	if (!sock || BPF_CORE_READ(sk, sk.__sk_common.skc_family) != AF_UNIX)
		return 0;
	key = (__u64)BPF_CORE_READ(sk, addr);
	if (key)
		note_socket(key, t->session);
	return 0;
}

static __always_inline int on_bound(struct task *t, long fd, __u64 address, long length)
{
	struct socket *sock = socket_of(fd);
	struct sock *sk = BPF_CORE_READ(sock, sk);
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	if (!t || !sock)
		return 0;
	if (family == AF_UNIX) {
		/* What binds a path makes its file. */
		__u8 first = 0;

		bpf_probe_read_user(&first, 1, (void *)(address + 2));
		if (length > 2 && first)
			on_named(t, VERB_CREATE, address + 2, AT_FDCWD, 0);
		return on_listening(t, fd);
	}
	if ((family != AF_INET && family != AF_INET6) || BPF_CORE_READ(sock, type) != SOCK_DGRAM)
		return 0;
	return on_address(t, VERB_LISTEN, (__u64)sk, address);
}

static __always_inline int on_sent(struct task *t, long fd, __u64 address, long length)
{
	struct socket *sock = socket_of(fd);
	struct sock *sk = BPF_CORE_READ(sock, sk);
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	__u32 len = length - 2; /* without the family */
	__u8 first = 0;

	if (!t || !sock || !address || BPF_CORE_READ(sock, type) == SOCK_STREAM)
		return 0;
	if (family == AF_INET || family == AF_INET6)
		return on_address(t, VERB_SEND, (__u64)sk, address);
	if (family != AF_UNIX || length <= 2 || length > 110)
		return 0;
	if (bpf_probe_read_user(&first, 1, (void *)(address + 2)) || first)
		return on_named(t, VERB_IPC, address + 2, AT_FDCWD, OF_SOCKET);
	begin(t);
	barrier_var(len); /* or it is not bounded below, which the verifier needs */
	if (bpf_probe_read_user(&t->work.text[SPARE], len & 127, (void *)(address + 2)))
		return unread(t, VERB_IPC);
	consider_abstract(t, as_number(t, &t->work.text[SPARE]), len);
	return conclude(t);
}

/* As user space has it. */
struct message {
	__u64 name;
	__u32 name_len;
	__u32 pad;
	__u64 vectors, vectors_len;
	__u64 control, control_len;
};

struct control {
	__u64 len;
	int level;
	int type;
};

/* Messages and what is in them are read to the spare part, since the stack has no room for them. */
static __always_inline int on_message_sent(struct task *t, long fd, __u64 message)
{
	struct message *m = (struct message *)&t->work.text[SPARE];

	if (bpf_probe_read_user(m, sizeof(*m), (void *)message))
		return 0;
	return on_sent(t, fd, m->name, m->name_len);
}

/* Descriptors that came with a message; false: with more than are looked at. */
static __always_inline bool on_message_received(struct task *t, __u64 message)
{
	struct message *m = (struct message *)&t->work.text[SPARE];
	struct control *c = (struct control *)m;
	int *fd = (int *)m;
	struct received *r = &t->received;

	if (bpf_probe_read_user(m, sizeof(*m), (void *)message) || m->control_len < sizeof(*c))
		return true;
	r->at = m->control;
	r->room = m->control_len;
	if (bpf_probe_read_user(c, sizeof(*c), (void *)r->at))
		return true;
	r->len = c->len;
	if (c->level == SOL_SOCKET && c->type == SCM_RIGHTS) {
#pragma clang loop unroll(disable)
		for (__u32 k = 0; k < RIGHTS && sizeof(*c) + 4 * (k + 1ull) <= r->len; k++) {
			barrier_var(k);
			if (bpf_probe_read_user(fd, sizeof(*fd), (void *)(r->at + sizeof(*c) + 4 * k)))
				break;
			on_descriptor(t, *fd);
		}
		if (r->len > sizeof(*c) + 4 * RIGHTS)
			return false;
	}
	return ((r->len + 7) & ~7ull) >= r->room;
}

#endif
