/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Programs of the root cgroup: what a hook has marked (names.h) is turned to the door of its session, and told the
 * address it wanted. A socket without a mark leaves each of them after one look at its storage.
 *
 * Turned is only to a listener that is there and has the session's own number: when the daemon is dead, nobody who
 * takes its port gets anything.
 */
#include "names.h"
#include <bpf/bpf_endian.h>

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define AF_INET 2
#define ECONNREFUSED 111
#define BPF_F_CURRENT_NETNS (-1L)
#define BPF_SOCK_OPS_TCP_CONNECT_CB 3
#define LOOPBACK 0x7f000001
#define MAPPED bpf_htonl(0xffff) /* the third word of ::ffff:a.b.c.d */

#define ON 1
#define REFUSED 0

/* Contexts, as linux/bpf.h has them: a stable interface, not the kernel's own structures. */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; /* in host order */
};
struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	struct bpf_sock *sk;
};
struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port; /* in host order */
	__u32 between[24];
	__u64 bytes_received;
	__u64 bytes_acked;
	struct bpf_sock *sk;
};
struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};
_Static_assert(__builtin_offsetof(struct bpf_sock_addr, sk) == 64, "as in linux/bpf.h");
_Static_assert(__builtin_offsetof(struct bpf_sock_ops, sk) == 184, "as in linux/bpf.h");

static __always_inline int refused(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return REFUSED;
}

/* Whether the session's listener is there, in the namespace of the socket. */
static __always_inline bool is_open(struct bpf_sock_addr *ctx, __u64 session, __u32 protocol, __u16 port, bool v4)
{
	struct bpf_sock_tuple to = {};
	struct bpf_sock *found;
	__u32 size = v4 ? sizeof(to.ipv4) : sizeof(to.ipv6);
	__u64 *owner;
	bool own;

	if (v4) {
		to.ipv4.saddr = to.ipv4.daddr = bpf_htonl(LOOPBACK);
		to.ipv4.dport = bpf_htons(port);
	} else {
		to.ipv6.saddr[3] = to.ipv6.daddr[3] = bpf_htonl(1);
		to.ipv6.dport = bpf_htons(port);
	}
	if (protocol == IPPROTO_TCP)
		found = bpf_sk_lookup_tcp(ctx, &to, size, BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_sk_lookup_udp(ctx, &to, size, BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return false;
	owner = bpf_sk_storage_get(&listening, found, NULL, 0);
	own = owner && *owner == session;
	bpf_sk_release(found);
	return own;
}

/* A datagram without a connection: where it will come from is known here and not before. */
static __always_inline void note_datagram(struct bpf_sock *sk, const struct mark *mark, bool v4)
{
	struct source from = {};
	__u32 ip4 = sk->src_ip4;

	from.address[0] = sk->src_ip6[0];
	from.address[1] = sk->src_ip6[1];
	from.address[2] = sk->src_ip6[2];
	from.address[3] = sk->src_ip6[3];
	barrier();
	if (v4) {
		from.address[0] = 0;
		from.address[1] = 0;
		from.address[2] = MAPPED;
		from.address[3] = ip4 ? ip4 : bpf_htonl(LOOPBACK);
	} else {
		if (!from.address[0] && !from.address[1] && !from.address[2] && !from.address[3])
			from.address[3] = bpf_htonl(1);
	}
	from.port = sk->src_port;
	from.protocol = IPPROTO_UDP;
	note_source(&from, mark);
}

/* Puts a port of the loopback in the place of what was wanted. */
static __always_inline void lead_to(struct bpf_sock_addr *ctx, bool v6, bool v4, __u16 port)
{
	if (!v6) {
		ctx->user_ip4 = bpf_htonl(LOOPBACK);
	} else if (v4) {
		ctx->user_ip6[3] = bpf_htonl(LOOPBACK);
	} else {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = 0;
		ctx->user_ip6[3] = bpf_htonl(1);
	}
	ctx->user_port = bpf_htons(port);
}

/* Turns a connection, or a datagram, to the door. `wanted` is where it was to go. */
static __always_inline int turn(struct bpf_sock_addr *ctx, const __u32 *wanted, bool v6, bool datagram)
{
	struct bpf_sock *sk = ctx->sk;
	__u16 port = bpf_ntohs(ctx->user_port);
	__u32 protocol = ctx->protocol;
	bool v4 = !wanted[0] && !wanted[1] && wanted[2] == MAPPED;
	bool is_name;
	struct mark *mark;
	struct door *door;
	__u64 session;
	__u16 to;

	if (!sk)
		return ON;
	mark = bpf_sk_storage_get(&marks, sk, NULL, 0);
	if (!mark)
		return ON;
	if (!datagram)
		mark->turned = 0;
	is_name = v4 ? names_a_host_v4(bpf_ntohl(wanted[3])) :
		       names_a_host_v6(bpf_ntohl(wanted[0]), bpf_ntohl(wanted[1]));
	if (port != DNS_PORT && !is_name)
		return ON;
	if (port != DNS_PORT && protocol != IPPROTO_TCP) {
		if (datagram)
			return refused();
		/* How getaddrinfo(3) finds out whether there is a route. Nothing that is sent arrives anywhere. */
		lead_to(ctx, v6, v4, 0);
		return ON;
	}
	session = mark->session;
	door = bpf_map_lookup_elem(&doors, &session);
	if (!door)
		return refused();
	to = port == DNS_PORT ? door->dns : door->tcp;
	if (!is_open(ctx, session, protocol, to, v4))
		return refused();
	mark->port = port;
	__builtin_memcpy(mark->address, wanted, 16);
	mark->turned = 1;
	if (datagram)
		note_datagram(sk, mark, v4);
	lead_to(ctx, v6, v4, to);
	return ON;
}

static __always_inline int turn_v4(struct bpf_sock_addr *ctx, bool datagram)
{
	__u32 wanted[4] = { 0, 0, MAPPED, ctx->user_ip4 };

	return turn(ctx, wanted, false, datagram);
}

static __always_inline int turn_v6(struct bpf_sock_addr *ctx, bool datagram)
{
	__u32 wanted[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	return turn(ctx, wanted, true, datagram);
}

SEC("cgroup/connect4")
int aw_connect4(struct bpf_sock_addr *ctx)
{
	return turn_v4(ctx, false);
}

SEC("cgroup/connect6")
int aw_connect6(struct bpf_sock_addr *ctx)
{
	return turn_v6(ctx, false);
}

SEC("cgroup/sendmsg4")
int aw_sendmsg4(struct bpf_sock_addr *ctx)
{
	return turn_v4(ctx, true);
}

SEC("cgroup/sendmsg6")
int aw_sendmsg6(struct bpf_sock_addr *ctx)
{
	return turn_v6(ctx, true);
}

/* The address of the other end, as the task knows it. */
static __always_inline void tell_v4(struct bpf_sock_addr *ctx, const struct mark *mark)
{
	ctx->user_ip4 = mark->address[3];
	ctx->user_port = bpf_htons(mark->port);
}

static __always_inline void tell_v6(struct bpf_sock_addr *ctx, const struct mark *mark)
{
	ctx->user_ip6[0] = mark->address[0];
	ctx->user_ip6[1] = mark->address[1];
	ctx->user_ip6[2] = mark->address[2];
	ctx->user_ip6[3] = mark->address[3];
	ctx->user_port = bpf_htons(mark->port);
}

static __always_inline struct mark *turned(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct mark *mark;

	if (!sk)
		return NULL;
	mark = bpf_sk_storage_get(&marks, sk, NULL, 0);
	return mark && mark->turned ? mark : NULL;
}

/* The same, if the datagram that came is the resolver's. */
static __always_inline struct mark *answered(struct bpf_sock_addr *ctx)
{
	struct mark *mark = turned(ctx);
	struct door *door;
	__u64 session;

	if (!mark)
		return NULL;
	session = mark->session;
	door = bpf_map_lookup_elem(&doors, &session);
	return door && bpf_ntohs(ctx->user_port) == door->dns ? mark : NULL;
}

SEC("cgroup/getpeername4")
int aw_peername4(struct bpf_sock_addr *ctx)
{
	struct mark *mark = turned(ctx);

	if (mark)
		tell_v4(ctx, mark);
	return ON;
}

SEC("cgroup/getpeername6")
int aw_peername6(struct bpf_sock_addr *ctx)
{
	struct mark *mark = turned(ctx);

	if (mark)
		tell_v6(ctx, mark);
	return ON;
}

SEC("cgroup/recvmsg4")
int aw_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct mark *mark = answered(ctx);

	if (mark && ctx->user_ip4 == bpf_htonl(LOOPBACK))
		tell_v4(ctx, mark);
	return ON;
}

SEC("cgroup/recvmsg6")
int aw_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct mark *mark = answered(ctx);
	__u32 last = ctx->user_ip6[3];

	if (mark && !ctx->user_ip6[0] && !ctx->user_ip6[1] &&
	    ((!ctx->user_ip6[2] && last == bpf_htonl(1)) ||
	     (ctx->user_ip6[2] == MAPPED && last == bpf_htonl(LOOPBACK))))
		tell_v6(ctx, mark);
	return ON;
}

/* The first packet of a connection is about to leave: its source is known. */
SEC("sockops")
int aw_source(struct bpf_sock_ops *ctx)
{
	struct source from = {};
	struct bpf_sock *sk;
	struct mark *mark;
	__u32 v4;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return ON;
	sk = ctx->sk;
	if (!sk)
		return ON;
	mark = bpf_sk_storage_get(&marks, sk, NULL, 0);
	if (!mark || !mark->turned)
		return ON;
	/* All are read first: of two places in the context the compiler makes one pointer, which may not be. */
	v4 = ctx->local_ip4;
	from.address[0] = ctx->local_ip6[0];
	from.address[1] = ctx->local_ip6[1];
	from.address[2] = ctx->local_ip6[2];
	from.address[3] = ctx->local_ip6[3];
	barrier();
	if (ctx->family == AF_INET) {
		from.address[0] = 0;
		from.address[1] = 0;
		from.address[2] = MAPPED;
		from.address[3] = v4;
	}
	from.port = ctx->local_port;
	from.protocol = IPPROTO_TCP;
	note_source(&from, mark);
	return ON;
}

char LICENSE[] SEC("license") = "GPL";
