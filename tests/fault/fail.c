/* Runs a command in which one system call fails: the N-th of one kind, counted over all its threads.
 *
 *   fail CALL N ERRNO COUNT-FILE COMMAND ...
 *
 * CALL is a name of the table below, ERRNO a number. How many calls of the kind there were is written to
 * COUNT-FILE, so that the caller knows when N is beyond the last. The calls are told to this process by a
 * seccomp filter (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)), which lets all but one go on: no change of the
 * command, no library before it. The exit status is the command's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct { const char *name; int number; } calls[] = {
    {"fsync", SYS_fsync}, {"fdatasync", SYS_fdatasync}, {"renameat2", SYS_renameat2},
    {"rename", SYS_rename}, {"openat2", SYS_openat2}, {"copy_file_range", SYS_copy_file_range},
    {"ftruncate", SYS_ftruncate}, {"fchmod", SYS_fchmod}, {"utimensat", SYS_utimensat},
    {"linkat", SYS_linkat}, {"unlinkat", SYS_unlinkat}, {"mkdirat", SYS_mkdirat},
    {"symlinkat", SYS_symlinkat}, {"write", SYS_write}, {"pread64", SYS_pread64},
    {"getdents64", SYS_getdents64}, {"flistxattr", SYS_flistxattr}, {"fsetxattr", SYS_fsetxattr},
};

static int command_of(int call, char **argv, volatile int *listener) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 125;
    int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    *listener = fd < 0 ? -errno : fd;
    if (fd < 0) return 125;
    execv(argv[0], argv); /* the descriptor is closed here, and open in the parent */
    return 127;
}

struct start { int call; char **argv; volatile int listener; };
static int child(void *given) {
    struct start *start = given;
    return command_of(start->call, start->argv, &start->listener);
}

int main(int argc, char **argv) {
    static char stack[1 << 18];
    struct start start = {-1, argv + 5, 0};
    if (argc < 6) return 2;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (strcmp(calls[i].name, argv[1]) == 0) start.call = calls[i].number;
    long n = atol(argv[2]), seen = 0;
    int error = atoi(argv[3]), status = 0;
    if (start.call < 0 || error <= 0) return 2;
    /* One table of descriptors until the command starts: so the listener is here as well. */
    pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, &start);
    if (pid < 0) return 125;
    while (start.listener == 0 && waitpid(pid, &status, WNOHANG) == 0) usleep(100);
    if (start.listener <= 0) {
        fprintf(stderr, "fail: no filter: %s\n", strerror(-start.listener));
        return 125;
    }
    struct pollfd ready = {.fd = start.listener, .events = POLLIN};
    while (poll(&ready, 1, -1) > 0 && !(ready.revents & POLLHUP)) {
        struct seccomp_notif asked = {0};
        if (ioctl(start.listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) continue;
        struct seccomp_notif_resp answer = {.id = asked.id};
        if (++seen == n) answer.error = -error;
        else answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        ioctl(start.listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    FILE *count = fopen(argv[4], "w");
    if (!count || fprintf(count, "%ld\n", seen) < 0 || fclose(count) != 0) return 125;
    if (waitpid(pid, &status, 0) != pid) return 125;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
