/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What is asked about addresses and sockets, by the LSM hooks and by the monitor. */
#ifndef AGENTWALL_ENDPOINTS_H
#define AGENTWALL_ENDPOINTS_H

#include "judge.h"
#include <bpf/bpf_endian.h>

#define AF_UNSPEC 0
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_SEQPACKET 5
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define MSG_FASTOPEN 0x20000000u

/* Unix, netlink, TCP, UDP. */
static __always_inline bool is_known_socket(int family, int type, int protocol)
{
	type &= 0xf;
	if (family == AF_UNIX || family == AF_NETLINK)
		return true;
	if (family != AF_INET && family != AF_INET6)
		return false;
	if (type == SOCK_STREAM)
		return protocol == 0 || protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
	return type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP);
}

static __always_inline bool is_zero(const __u8 *bytes, int from, int to)
{
	for (int i = from; i < to; i++)
		if (bytes[i])
			return false;
	return true;
}

/* An IPv4 address inside ::ffff:0:0/96 is that address. */
static __always_inline void set_v6(struct task *t, const __u8 *address)
{
	struct question *q = &t->work.question;

	if (is_zero(address, 0, 10) && address[10] == 0xff && address[11] == 0xff) {
		__builtin_memcpy(q->address, address + 12, 4);
		__builtin_memset(q->address + 4, 0, 12);
		q->address_len = 4;
	} else {
		__builtin_memcpy(q->address, address, 16);
		q->address_len = 16;
	}
}

/*
 * Puts an address as a system call has it into the question; false if it is none of IPv4 or IPv6. It is copied behind
 * the text of the question, since the stack has no room for it.
 */
static __always_inline bool set_endpoint(struct task *t, const void *address, __u32 protocol)
{
	struct question *q = &t->work.question;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&t->work.text[SPARE];
	struct sockaddr_in *v4 = (struct sockaddr_in *)v6;

	bpf_probe_read_kernel(&v4->sin_family, sizeof(v4->sin_family), address);
	q->kind = KIND_ENDPOINT;
	q->has_text = 0;
	q->directory = 0;
	q->protocol = protocol;
	if (v4->sin_family == AF_INET) {
		bpf_probe_read_kernel(v4, sizeof(*v4), address);
		__builtin_memset(q->address, 0, 16);
		__builtin_memcpy(q->address, &v4->sin_addr, 4);
		q->address_len = 4;
		q->port = bpf_ntohs(v4->sin_port);
	} else if (v4->sin_family == AF_INET6) {
		bpf_probe_read_kernel(v6, sizeof(*v6), address);
		q->port = bpf_ntohs(v6->sin6_port);
		set_v6(t, v6->sin6_addr);
	} else {
		return false;
	}
	t->identity.protocol = protocol;
	t->identity.port = q->port;
	__builtin_memcpy(t->identity.address, q->address, 16);
	return true;
}

static __always_inline bool on_loopback(const struct question *q)
{
	if (q->address_len == 4)
		return q->address[0] == 127;
	return is_zero(q->address, 0, 15) && q->address[15] == 1;
}

static __always_inline bool is_any(const struct question *q)
{
	return q->address_len == 4 ? is_zero(q->address, 0, 4) : is_zero(q->address, 0, 16);
}

static __always_inline struct port_key port_of(struct sock *sk, __u32 protocol, __u32 port)
{
	struct port_key key = {};

	key.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	key.protocol = protocol;
	key.port = port;
	return key;
}

/* Whether the session itself listens where this leads. */
static __always_inline bool is_own_port(struct task *t, struct sock *sk)
{
	struct question *q = &t->work.question;
	struct port_key key;
	__u64 *session;

	if (!on_loopback(q) && !is_any(q))
		return false;
	key = port_of(sk, q->protocol, q->port);
	session = bpf_map_lookup_elem(&ports, &key);
	return session && *session == t->session && t->session != NO_SESSION;
}

static __always_inline __u32 protocol_of(struct socket *sock)
{
	return sock->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
}

/* Asks for an endpoint; soft: only a rule refuses it. */
static __always_inline void consider_endpoint(struct task *t, __u32 verb, __u32 how)
{
	t->work.question.verb = verb;
	ask_table(t, how);
}

/* Puts one of a socket's two ends into the question. */
static __always_inline void set_end(struct task *t, __u32 protocol, __u32 port, const __u8 *address, bool v6)
{
	struct question *q = &t->work.question;

	q->kind = KIND_ENDPOINT;
	q->has_text = 0;
	q->protocol = protocol;
	q->port = port;
	if (v6) {
		set_v6(t, address);
	} else {
		__builtin_memcpy(q->address, address, 16);
		q->address_len = 4;
	}
	t->identity.protocol = protocol;
	t->identity.port = q->port;
	__builtin_memcpy(t->identity.address, q->address, 16);
}

/* Where a socket is bound. */
static __always_inline void set_bound(struct task *t, struct sock *sk, __u32 protocol)
{
	bool v6 = BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6;
	__u8 address[16] = {};

	if (v6)
		bpf_core_read(address, 16, &sk->__sk_common.skc_v6_rcv_saddr);
	else
		bpf_core_read(address, 4, &sk->__sk_common.skc_rcv_saddr);
	set_end(t, protocol, BPF_CORE_READ(sk, __sk_common.skc_num), address, v6);
}

/* Where a socket is connected to. */
static __always_inline void set_peer(struct task *t, struct sock *sk, __u32 protocol)
{
	bool v6 = BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6;
	__u8 address[16] = {};

	if (v6)
		bpf_core_read(address, 16, &sk->__sk_common.skc_v6_daddr);
	else
		bpf_core_read(address, 4, &sk->__sk_common.skc_daddr);
	set_end(t, protocol, bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport)), address, v6);
}

/* A port that is taken belongs to who took it last: also ungoverned tasks are noted, by taking a note away. */
static __always_inline void note_port(struct sock *sk, __u32 protocol, __u32 port, __u64 session)
{
	struct port_key key = port_of(sk, protocol, port);

	if (session != NO_SESSION)
		bpf_map_update_elem(&ports, &key, &session, BPF_ANY);
	else
		bpf_map_delete_elem(&ports, &key);
}

static __always_inline void note_socket(__u64 sk, __u64 session)
{
	if (session != NO_SESSION)
		bpf_map_update_elem(&sockets, &sk, &session, BPF_ANY);
	else
		bpf_map_delete_elem(&sockets, &sk);
}

/* An abstract name of `len` bytes, the first of which is 0, as it lies in the kernel. */
__attribute__((noinline)) int consider_abstract(struct task *t, __u64 name, __u32 len)
{
	struct question *q;

	if (!t || len > 108)
		return 0;
	q = &t->work.question;
	q->kind = KIND_ABSTRACT;
	q->verb = VERB_IPC;
	q->has_text = 1;
	q->start = TEXT_ROOM - 128;
	q->len = len;
	barrier_var(len); /* or it is not bounded below, which the verifier needs */
	bpf_probe_read_kernel(&t->work.text[TEXT_ROOM - 128], len & 127, (void *)name);
	t->work.text[TEXT_ROOM - 128] = '@';
	__builtin_memcpy(t->identity.address, &t->work.text[TEXT_ROOM - 128], 16);
	return ask_table(t, 0);
}

/*
 * Another end of a Unix socket; `own` is what the session's own sockets are known by. With a path it is asked for as the
 * socket's file; an abstract name by its bytes. One without a name was handed over or is a pair: its owner
 * gave it away.
 */
static __always_inline int answer_peer(struct task *t, __u64 other, __u64 own)
{
	struct unix_sock *peer = (struct unix_sock *)other;
	struct unix_address *name = BPF_CORE_READ(peer, addr);
	__u64 dentry, *session;
	int len;

	if (!name)
		return 0;
	session = bpf_map_lookup_elem(&sockets, &own);
	if (session && *session == t->session && t->session != NO_SESSION)
		return 0;
	begin(t);
	dentry = (__u64)BPF_CORE_READ(peer, path.dentry);
	if (dentry) {
		consider(t, VERB_IPC, (__u64)BPF_CORE_READ(peer, path.mnt), dentry, SOCKET);
		return conclude(t);
	}
	len = BPF_CORE_READ(name, len) - 2; /* the family; then a zero byte, then the name */
	if (len < 1 || len > 108)
		return 0;
	consider_abstract(t, (__u64)name + bpf_core_field_offset(struct unix_address, name) + 2, len);
	return conclude(t);
}

#endif
