// net ROUTE HOST PORT TOKEN: sends TOKEN to HOST by an unusual road and prints the answer.
#include "kit.h"
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>

static const char *token;
static struct sockaddr_storage to;
static socklen_t to_len;

static int talk(int s, const char *r) {
    char buf[512];
    struct pollfd p = {.fd = s, .events = POLLIN};
    if (token && send(s, token, strlen(token), MSG_NOSIGNAL) < 0) return refused(r);
    if (poll(&p, 1, 8000) <= 0) { errno = ETIMEDOUT; return refused(r); }
    ssize_t n = recv(s, buf, sizeof buf - 1, 0);
    if (n <= 0) { if (!n) errno = ECONNRESET; return refused(r); }
    buf[n] = 0;
    printf("answer %s\n", buf);
    return 0;
}
static void limit(int s) {
    struct timeval t = {2, 0};
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}
static int unix_addr(const char *name, struct sockaddr_un *a) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strncpy(a->sun_path, name, sizeof a->sun_path - 1);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    if (name[0] == '@') a->sun_path[0] = 0;
    else len++;
    return (int)len;
}
static struct sockaddr_in race_good, race_bad, race_now;
static volatile int stop;
static void *swapper(void *x) {
    while (!stop) {
        race_now = race_bad;
        BARRIER;
        race_now = race_good;
        BARRIER;
    }
    return x;
}
static int unix_route(const char *r, const char *name) {
    struct sockaddr_un a;
    socklen_t len = (socklen_t)unix_addr(name, &a);
    int dgram = strstr(r, "dgram") != 0;
    int s = socket(AF_UNIX, (dgram ? SOCK_DGRAM : strstr(r, "seq") ? SOCK_SEQPACKET : SOCK_STREAM), 0);
    if (s < 0) return refused("socket");
    limit(s);
    struct iovec iov = {(void *)token, strlen(token)};
    struct msghdr m = {.msg_name = &a, .msg_namelen = len, .msg_iov = &iov, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    if (is(r, "unix-dgram-sendto")) return sendto(s, token, strlen(token), 0, (void *)&a, len) > 0 ? done(r) : refused(r);
    if (is(r, "unix-dgram-sendmsg")) return sendmsg(s, &m, 0) > 0 ? done(r) : refused(r);
    if (is(r, "unix-dgram-sendmmsg")) return sendmmsg(s, &mm, 1, 0) == 1 ? done(r) : refused(r);
    if (is(r, "unix-uring")) {
        struct io_uring_sqe op = {.opcode = IORING_OP_CONNECT, .fd = s, .addr = (uintptr_t)&a, .off = len};
        int n = uring_one(op);
        if (n < 0) { errno = -n; return refused(r); }
        return talk(s, r);
    }
    if (connect(s, (void *)&a, len)) return refused(r);
    if (is(r, "unix-scm")) { // asks the server outside for a descriptor and reads through it
        char ctl[CMSG_SPACE(sizeof(int))], buf[64];
        struct iovec in = {buf, sizeof buf};
        struct msghdr g = {.msg_iov = &in, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
        if (send(s, "FD", 2, 0) < 0 || recvmsg(s, &g, 0) < 0 || !CMSG_FIRSTHDR(&g)) return refused(r);
        int fd;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&g)), sizeof fd);
        return dump(fd, r);
    }
    return talk(s, r);
}
static int icmp(const char *r, int type) {
    int s = socket(to.ss_family, type, to.ss_family == AF_INET6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
    char pkt[128] = {0};
    if (s < 0) return refused(r);
    limit(s);
    pkt[0] = to.ss_family == AF_INET6 ? (char)128 : 8;
    strncpy(pkt + 8, token, 100);
    uint32_t sum = 0;
    for (int i = 0; i < 128; i += 2) sum += *(uint16_t *)(pkt + i);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    *(uint16_t *)(pkt + 2) = (uint16_t)~sum;
    if (sendto(s, pkt, sizeof pkt, 0, (void *)&to, to_len) < 0) return refused(r);
    char back[512];
    ssize_t n;
    while ((n = recv(s, back, sizeof back, 0)) > 0) {
        char *icmp_part = type == SOCK_RAW && to.ss_family == AF_INET ? back + 20 : back;
        if (icmp_part[0] == 0 || icmp_part[0] == (char)129) return effect("icmp echo reply");
    }
    return refused(r);
}
int main(int c, char **v) {
    if (c < 5) return 2;
    const char *r = v[1], *host = v[2];
    unsigned port = (unsigned)atoi(v[3]);
    token = v[4];
    if (strncmp(r, "unix", 4) == 0) return unix_route(r, host);
    struct addrinfo want = {.ai_socktype = SOCK_STREAM}, *found;
    int bad = getaddrinfo(host, v[3], &want, &found);
    if (bad) { printf("refused resolve %s: %s\n", host, gai_strerror(bad)); return 1; }
    memcpy(&to, found->ai_addr, to_len = found->ai_addrlen);
    int s = -1;
    if (is(r, "tcp") || is(r, "tcp-nonblock") || is(r, "mptcp") || is(r, "tcp-uring") || is(r, "tcp-marked") || is(r, "tcp-device")) {
        s = socket(to.ss_family, SOCK_STREAM | (is(r, "tcp-nonblock") ? SOCK_NONBLOCK : 0), is(r, "mptcp") ? 262 : 0);
        if (s < 0) return refused("socket");
        limit(s);
        int one = 1;
        if (is(r, "tcp-marked")) setsockopt(s, SOL_SOCKET, SO_MARK, &one, sizeof one), setsockopt(s, SOL_IP, 19, &one, sizeof one);
        if (is(r, "tcp-device")) setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
        if (is(r, "tcp-uring")) {
            struct io_uring_sqe op = {.opcode = IORING_OP_CONNECT, .fd = s, .addr = (uintptr_t)&to, .off = to_len};
            int n = uring_one(op);
            if (n < 0) { errno = -n; return refused(r); }
            return talk(s, r);
        }
        if (connect(s, (void *)&to, to_len) && errno != EINPROGRESS) return refused(r);
        if (is(r, "tcp-nonblock")) {
            struct pollfd p = {.fd = s, .events = POLLOUT};
            poll(&p, 1, 1500);
        }
        return talk(s, r);
    }
    if (is(r, "fastopen")) {
        s = socket(to.ss_family, SOCK_STREAM, 0);
        limit(s);
        if (sendto(s, token, strlen(token), MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&to, to_len) < 0) return refused(r);
        token = 0;
        return talk(s, r);
    }
    if (is(r, "udp") || is(r, "udp-connected") || is(r, "udp-sendmsg") || is(r, "udp-sendmmsg") || is(r, "udplite")) {
        s = socket(to.ss_family, SOCK_DGRAM, is(r, "udplite") ? 136 : 0);
        if (s < 0) return refused("socket");
        limit(s);
        struct iovec iov = {(void *)token, strlen(token)};
        struct msghdr m = {.msg_name = &to, .msg_namelen = to_len, .msg_iov = &iov, .msg_iovlen = 1};
        struct mmsghdr mm = {.msg_hdr = m};
        ssize_t n = is(r, "udp-sendmsg") ? sendmsg(s, &m, 0) : is(r, "udp-sendmmsg") ? sendmmsg(s, &mm, 1, 0)
                  : is(r, "udp-connected") ? (connect(s, (void *)&to, to_len) ? -1 : send(s, token, strlen(token), 0))
                  : sendto(s, token, strlen(token), 0, (void *)&to, to_len);
        if (n < 0) return refused(r);
        char buf[512];
        n = recv(s, buf, sizeof buf - 1, 0);
        if (n <= 0) return refused(r);
        buf[n] = 0;
        printf("answer %s\n", buf);
        return 0;
    }
    if (is(r, "udp-self")) { // two sockets of the same program
        struct sockaddr_in me = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof me;
        int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0);
        limit(a);
        if (bind(a, (void *)&me, len) || getsockname(a, (void *)&me, &len)) return refused("bind");
        if (sendto(b, token, strlen(token), 0, (void *)&me, len) < 0) return refused("send");
        char buf[256];
        ssize_t n = recv(a, buf, sizeof buf, 0);
        return n > 0 ? done(r) : refused(r);
    }
    if (is(r, "tcp-self")) {
        struct sockaddr_in me = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof me;
        int a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0);
        limit(b);
        if (bind(a, (void *)&me, len) || listen(a, 4) || getsockname(a, (void *)&me, &len)) return refused("bind");
        if (connect(b, (void *)&me, len)) return refused("connect");
        int k = accept(a, 0, 0);
        char buf[256];
        if (send(b, token, strlen(token), 0) < 0 || recv(k, buf, sizeof buf, 0) <= 0) return refused(r);
        return done(r);
    }
    if (is(r, "icmp")) return icmp(r, SOCK_DGRAM);
    if (is(r, "icmp-raw")) return icmp(r, SOCK_RAW);
    if (is(r, "raw-udp")) {
        s = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
        if (s < 0) return refused(r);
        unsigned char pkt[256] = {0};
        size_t n = 8 + strlen(token);
        pkt[2] = (unsigned char)(port >> 8), pkt[3] = (unsigned char)port, pkt[5] = (unsigned char)n;
        memcpy(pkt + 8, token, strlen(token));
        return sendto(s, pkt, n, 0, (void *)&to, to_len) > 0 ? effect(r) : refused(r);
    }
    if (is(r, "packet")) {
        s = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
        return s >= 0 ? effect(r) : refused(r);
    }
    if (is(r, "sctp")) {
        s = socket(to.ss_family, SOCK_STREAM, 132);
        if (s < 0 || connect(s, (void *)&to, to_len)) return refused(r);
        return effect(r);
    }
    if (is(r, "vsock")) {
        struct { unsigned short family, zero; unsigned p, cid; unsigned char pad[4]; } a = {40, 0, port, 2, {0}};
        s = socket(40, SOCK_STREAM, 0);
        if (s < 0) return refused("socket");
        return connect(s, (void *)&a, sizeof a) == 0 || errno == ECONNRESET ? effect(r) : refused(r);
    }
    if (is(r, "netlink-flush") || is(r, "netlink-addr")) { // deletes a route or adds an address
        struct { struct nlmsghdr h; union { struct ifaddrmsg a; struct rtmsg t; } u; char attr[64]; } q = {0};
        s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
        if (s < 0) return refused("socket");
        q.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        q.h.nlmsg_type = RTM_NEWADDR;
        q.h.nlmsg_len = NLMSG_LENGTH(sizeof q.u.a);
        q.u.a.ifa_family = AF_INET, q.u.a.ifa_prefixlen = 32, q.u.a.ifa_index = if_nametoindex("lo");
        struct rtattr *at = (struct rtattr *)((char *)&q + NLMSG_ALIGN(q.h.nlmsg_len));
        at->rta_type = IFA_LOCAL, at->rta_len = RTA_LENGTH(4);
        inet_pton(AF_INET, "10.99.99.99", RTA_DATA(at));
        q.h.nlmsg_len += RTA_LENGTH(4);
        if (send(s, &q, q.h.nlmsg_len, 0) < 0) return refused(r);
        char back[4096];
        recv(s, back, sizeof back, 0);
        int err = ((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)back))->error;
        errno = -err;
        return err == 0 || err == -EEXIST ? effect(r) : refused(r);
    }
    if (is(r, "setns")) { // into the network namespace of any process in sight but our own
        struct stat mine, other;
        stat("/proc/self/ns/net", &mine);
        for (int pid = 1; pid < 70000; pid++) {
            char path[64];
            snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
            if (stat(path, &other) || other.st_ino == mine.st_ino) continue;
            int ns = open(path, O_RDONLY);
            if (ns >= 0 && setns(ns, CLONE_NEWNET) == 0) return effect(r);
        }
        errno = EPERM;
        return refused(r);
    }
    if (is(r, "race")) { // race GOODHOST GOODPORT TOKEN BADHOST BADPORT SECONDS
        memcpy(&race_good, &to, sizeof race_good);
        race_bad = race_good;
        inet_pton(AF_INET, v[5], &race_bad.sin_addr);
        race_bad.sin_port = htons((uint16_t)atoi(v[6]));
        race_now = race_good;
        pthread_t t;
        pthread_create(&t, 0, swapper, 0);
        time_t end = time(0) + atoi(v[7]);
        int tries = 0;
        while (time(0) < end) {
            s = socket(AF_INET, SOCK_STREAM, 0);
            limit(s);
            if (connect(s, (void *)&race_now, sizeof race_now) == 0)
                if (send(s, token, strlen(token), MSG_NOSIGNAL)) {}
            close(s);
            tries++;
        }
        stop = 1;
        pthread_join(t, 0);
        printf("raced %d times\n", tries);
        return 0;
    }
    return 2;
}
