// What every attack program shares. A program prints "EFFECT what" when a forbidden thing worked,
// "done what" when a file operation went through, and "refused what: why" otherwise, so that the
// harness judges by effects and not by exit codes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

// Keeps the compiler from dropping a store that another thread is meant to see.
#define BARRIER __asm__ volatile("" ::: "memory")

static int __attribute__((unused)) effect(const char *what) {
    printf("EFFECT %s\n", what);
    fflush(stdout);
    return 0;
}
static int __attribute__((unused)) done(const char *what) {
    printf("done %s\n", what);
    fflush(stdout);
    return 0;
}
static int __attribute__((unused)) refused(const char *what) {
    printf("refused %s: %s\n", what, strerror(errno));
    fflush(stdout);
    return 1;
}
static int __attribute__((unused)) is(const char *a, const char *b) { return strcmp(a, b) == 0; }

// Prints what a descriptor yields.
static int __attribute__((unused)) dump(int fd, const char *what) {
    char buf[4096];
    ssize_t n, all = 0;
    if (fd < 0) return refused(what);
    while ((n = read(fd, buf, sizeof buf)) > 0) {
        fwrite(buf, 1, (size_t)n, stdout);
        all += n;
    }
    printf("\n[%s: %zd bytes]\n", what, all);
    fflush(stdout);
    return n < 0 ? refused(what) : 0;
}

static void __attribute__((unused)) put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0) perror(path);
        close(fd);
    }
}

// A new user namespace (and more) in which the caller is root.
static int __attribute__((unused)) become_root(int flags) {
    char map[64];
    unsigned uid = getuid(), gid = getgid();
    if (unshare(CLONE_NEWUSER | flags) != 0) return -1;
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", uid);
    put("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %u 1", gid);
    put("/proc/self/gid_map", map);
    return 0;
}

// One operation through io_uring; returns its result or -errno.
static int __attribute__((unused)) uring_one(struct io_uring_sqe op) {
    struct io_uring_params p = {0};
    int ring = (int)syscall(SYS_io_uring_setup, 4, &p);
    if (ring < 0) return -errno;
    size_t sq_len = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    size_t cq_len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(0, sq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(0, cq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqes = mmap(0, p.sq_entries * sizeof op, PROT_READ | PROT_WRITE,
                                     MAP_SHARED, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED) return -errno;
    sqes[0] = op;
    ((uint32_t *)(sq + p.sq_off.array))[0] = 0;
    __atomic_store_n((uint32_t *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0) return -errno;
    struct io_uring_cqe *cqe = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    return cqe->res;
}
