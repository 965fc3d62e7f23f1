/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Hooks about sockets. The kernel knows addresses and no names: a rule that names a host matches nothing
 * here, so what only it permits is refused, or goes to the session's door (names.h). What the session itself
 * listens on is its own.
 */
#ifndef AGENTWALL_SOCKETS_H
#define AGENTWALL_SOCKETS_H

#include "endpoints.h"
#include "files.h"
#include "names.h"

SEC("lsm/socket_create")
int BPF_PROG(aw_socket_create, int family, int type, int protocol, int kern)
{
	struct task *t;

	if (kern)
		return 0;
	t = governed();
	if (!t)
		return 0;
	return is_known_socket(family, type, protocol) ? 0 : never(t, NEVER_FAMILY);
}

/* Whether the question's address is one that stands for a name. */
static __always_inline bool names_a_host(const struct question *q)
{
	__u32 first, second;

	__builtin_memcpy(&first, q->address, 4);
	__builtin_memcpy(&second, q->address + 4, 4);
	if (q->address_len == 4)
		return names_a_host_v4(bpf_ntohl(first));
	return names_a_host_v6(bpf_ntohl(first), bpf_ntohl(second));
}

#define BY_ADDRESS 0
#define BY_NAME 1

/*
 * Who decides where the question's address leads: the table, or the session's door. Then the socket is marked, and
 * the programs of the cgroup, which run behind this hook with the same address, take it there. No policy leads
 * to a door without that.
 */
static __always_inline int way_of(struct task *t, struct socket *sock, __u32 verb)
{
	struct question *q = &t->work.question;
	struct table *table = table_of(t);
	struct sock *sk = sock->sk;
	struct door_port port = {};
	struct door *door;
	struct mark *mark;
	__u64 session;
	bool dns;

	port.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	port.port = q->port;
	if ((on_loopback(q) || is_any(q)) && bpf_map_lookup_elem(&door_ports, &port)) {
		refuse(t, verb, WHY_WALL);
		return BY_NAME;
	}
	dns = q->port == DNS_PORT;
	if (!table || !(table->words[TABLE_FLAGS] & TABLE_NAMES) || (!dns && !names_a_host(q)))
		return BY_ADDRESS;
	session = t->session;
	door = bpf_map_lookup_elem(&doors, &session);
	if (!door || door->netns != port.netns || (!dns && verb == VERB_SEND) ||
	    (q->protocol == IPPROTO_TCP && sk->sk_protocol != IPPROTO_TCP)) {
		refuse(t, verb, WHY_NAMES);
		return BY_NAME;
	}
	mark = bpf_sk_storage_get(&marks, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!mark) {
		refuse(t, verb, WHY_NAMES);
		return BY_NAME;
	}
	mark->session = session;
	mark->pid = bpf_get_current_pid_tgid() >> 32;
	return BY_NAME;
}

SEC("lsm/socket_connect")
int BPF_PROG(aw_socket_connect, struct socket *sock, struct sockaddr *address, int length)
{
	struct task *t = governed();

	if (!t)
		return 0;
	begin(t);
	if (length < 2 || !set_endpoint(t, address, protocol_of(sock)))
		return 0; /* Unix sockets have hooks of their own; AF_UNSPEC takes a connection back */
	if (way_of(t, sock, VERB_CONNECT) == BY_ADDRESS) {
		if (is_own_port(t, sock->sk))
			return 0;
		consider_endpoint(t, VERB_CONNECT, 0);
	}
	return conclude(t);
}

/* A question over a socket that was connected to the door: from where it will come. */
static __always_inline void note_question(struct socket *sock)
{
	struct source from = {};
	struct sock *sk = sock->sk;
	struct mark *mark = bpf_sk_storage_get(&marks, sk, NULL, 0);

	if (!mark || !mark->turned)
		return;
	from.port = sk->__sk_common.skc_num;
	from.protocol = IPPROTO_UDP;
	if (sk->__sk_common.skc_family == AF_INET6) {
		bpf_core_read(from.address, sizeof(from.address), &sk->__sk_common.skc_v6_rcv_saddr);
	} else {
		from.address[2] = bpf_htonl(0xffff);
		from.address[3] = sk->__sk_common.skc_rcv_saddr;
	}
	note_source(&from, mark);
}

SEC("lsm/socket_sendmsg")
int BPF_PROG(aw_socket_sendmsg, struct socket *sock, struct msghdr *msg, int size)
{
	struct task *t = governed();
	unsigned short family;

	if (!t)
		return 0;
	family = sock->sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (sock->type == SOCK_STREAM)
		/* Data in the first packet: a connection without connect(2). */
		return msg->msg_flags & MSG_FASTOPEN ? never(t, NEVER_FAST_OPEN) : 0;
	if (!msg->msg_name) {
		note_question(sock);
		return 0; /* to where it was connected */
	}
	begin(t);
	if (!set_endpoint(t, msg->msg_name, IPPROTO_UDP))
		return 0;
	if (way_of(t, sock, VERB_SEND) == BY_ADDRESS) {
		if (is_own_port(t, sock->sk))
			return 0;
		consider_endpoint(t, VERB_SEND, 0);
	}
	return conclude(t);
}

SEC("lsm/socket_listen")
int BPF_PROG(aw_socket_listen, struct socket *sock, int backlog)
{
	struct task *t = governed();
	struct sock *sk = sock->sk;
	unsigned short family = sk->__sk_common.skc_family;
	int denied;

	if (family == AF_UNIX) {
		note_socket((__u64)BPF_CORE_READ(sock, sk), t ? t->session : NO_SESSION);
		return 0;
	}
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (!t) {
		note_port(sk, IPPROTO_TCP, sk->__sk_common.skc_num, NO_SESSION);
		return 0;
	}
	begin(t);
	set_bound(t, sk, IPPROTO_TCP);
	consider_endpoint(t, VERB_LISTEN, on_loopback(&t->work.question) ? SOFT_DEFAULT : 0);
	denied = conclude(t);
	if (!denied)
		note_port(sk, IPPROTO_TCP, sk->__sk_common.skc_num, t->session);
	return denied;
}

/* A datagram socket receives as soon as it is bound; a stream socket only listens later. */
SEC("lsm/socket_bind")
int BPF_PROG(aw_socket_bind, struct socket *sock, struct sockaddr *address, int length)
{
	struct task *t = governed();
	struct sock *sk = sock->sk;
	unsigned short family = sk->__sk_common.skc_family;
	int denied;

	if (family == AF_UNIX) {
		note_socket((__u64)BPF_CORE_READ(sock, sk), t ? t->session : NO_SESSION);
		return 0;
	}
	if ((family != AF_INET && family != AF_INET6) || sock->type != SOCK_DGRAM || length < 4)
		return 0;
	if (!t) {
		struct sockaddr_in in = {};

		bpf_probe_read_kernel(&in, 4, address);
		note_port(sk, IPPROTO_UDP, bpf_ntohs(in.sin_port), NO_SESSION);
		return 0;
	}
	begin(t);
	if (!set_endpoint(t, address, IPPROTO_UDP))
		return 0;
	if (t->work.question.port == 0)
		return 0; /* any free port: that of a client */
	consider_endpoint(t, VERB_LISTEN, on_loopback(&t->work.question) ? SOFT_DEFAULT : 0);
	denied = conclude(t);
	if (!denied)
		note_port(sk, IPPROTO_UDP, t->work.question.port, t->session);
	return denied;
}

/* A datagram socket that was bound to any free port: whoever is to send to it asks for its number first. */
SEC("lsm/socket_getsockname")
int BPF_PROG(aw_socket_getsockname, struct socket *sock)
{
	struct task *t = governed();
	struct sock *sk = sock->sk;
	unsigned short family = sk->__sk_common.skc_family;

	if (t && sock->type == SOCK_DGRAM && (family == AF_INET || family == AF_INET6) && sk->__sk_common.skc_num)
		note_port(sk, IPPROTO_UDP, sk->__sk_common.skc_num, t->session);
	return 0;
}

/* Another end of a Unix socket, which is known by its address in the kernel. */
static __always_inline int on_peer(struct sock *other)
{
	struct task *t = governed();

	return t ? answer_peer(t, (__u64)other, as_number(t, other)) : 0;
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(aw_unix_connect, struct sock *sock, struct sock *other, struct sock *newsk)
{
	return on_peer(other);
}

SEC("lsm/unix_may_send")
int BPF_PROG(aw_unix_send, struct socket *sock, struct socket *other)
{
	return on_peer(BPF_CORE_READ(other, sk));
}

#endif
