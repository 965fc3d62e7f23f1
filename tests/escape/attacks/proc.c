// proc ROUTE ...: attacks on processes, keyrings, terminals and control groups.
#include "kit.h"
#include <dirent.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

static long key_search(const char *name, char *out, size_t room) {
    int rings[] = {-3 /* session */, -4 /* user */, -5 /* user session */, -2 /* process */, -1 /* thread */};
    for (int i = 0; i < 5; i++) {
        long id = syscall(SYS_keyctl, 10 /* SEARCH */, rings[i], "user", name, 0);
        if (id < 0) continue;
        long n = syscall(SYS_keyctl, 11 /* READ */, id, out, room);
        if (n >= 0) return n;
    }
    return -1;
}
static int cgroup_escape(void) {
    const char *roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/freezer",
                           "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/memory"};
    char p[256], me[32];
    snprintf(me, sizeof me, "%d", getpid());
    for (int i = 0; i < 6; i++) {
        snprintf(p, sizeof p, "%s/cgroup.procs", roots[i]);
        int fd = open(p, O_WRONLY);
        if (fd >= 0 && write(fd, me, strlen(me)) > 0) return effect("joined a control group by its mount");
        close(fd);
        mkdir("/tmp/cg", 0755);
        if (mount("c", "/tmp/cg", i ? "cgroup" : "cgroup2", 0, i == 5 ? "memory" : 0) == 0) {
            fd = open("/tmp/cg/cgroup.procs", O_WRONLY);
            int moved = fd >= 0 && write(fd, me, strlen(me)) > 0;
            close(fd);
            umount2("/tmp/cg", MNT_DETACH);
            if (moved) return effect("joined a control group by a fresh mount");
        }
    }
    return refused("cgroup");
}
int main(int c, char **v) {
    if (c < 2) return 2;
    const char *r = v[1];
    pid_t pid = c > 2 ? atoi(v[2]) : 0;
    char buf[4096];
    if (is(r, "victim")) { // holds a secret from standard input in memory, tells where
        static char held[256];
        if (read(0, held, sizeof held - 1) < 0) return 1;
        printf("%p\n", (void *)held);
        fflush(stdout);
        prctl(PR_SET_DUMPABLE, 1);
        for (;;) pause();
    }
    if (is(r, "kill")) return kill(pid, SIGKILL) ? refused(r) : done(r);
    if (is(r, "tgkill")) return syscall(SYS_tgkill, pid, pid, SIGKILL) ? refused(r) : done(r);
    if (is(r, "queue")) return syscall(SYS_rt_sigqueueinfo, pid, SIGKILL, &(siginfo_t){.si_code = SI_QUEUE}) ? refused(r) : done(r);
    if (is(r, "kill-all")) {
        signal(SIGTERM, SIG_IGN);
        int n = kill(-1, SIGKILL);
        return n ? refused(r) : done(r);
    }
    if (is(r, "kill-all-high")) { // every number there can be
        for (int p = 300; p < 70000; p++) if (p != getpid() && p != getppid()) kill(p, SIGKILL);
        return done(r);
    }
    if (is(r, "pidfd-kill")) {
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);
        return fd < 0 || syscall(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0) ? refused(r) : done(r);
    }
    if (is(r, "pidfd-getfd")) { // standard input of the victim holds the secret file
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);
        int got = fd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, fd, 0, 0);
        if (got >= 0) lseek(got, 0, SEEK_SET);
        return dump(got, r);
    }
    if (is(r, "ptrace")) {
        if (ptrace(PTRACE_SEIZE, pid, 0, 0)) return refused(r);
        return effect("traced");
    }
    if (is(r, "vm-read") || is(r, "proc-mem")) {
        void *addr = (void *)strtoul(v[3], 0, 16);
        ssize_t n;
        if (is(r, "vm-read")) {
            struct iovec mine = {buf, 64}, theirs = {addr, 64};
            n = process_vm_readv(pid, &mine, 1, &theirs, 1, 0);
        } else {
            snprintf(buf, sizeof buf, "/proc/%d/mem", pid);
            int fd = open(buf, O_RDONLY);
            n = pread(fd, buf, 64, (off_t)addr);
        }
        if (n < 0) return refused(r);
        fwrite(buf, 1, (size_t)n, stdout);
        return done(r);
    }
    if (is(r, "vm-write")) {
        char poison[] = "POISON";
        struct iovec mine = {poison, 6}, theirs = {(void *)strtoul(v[3], 0, 16), 6};
        return process_vm_writev(pid, &mine, 1, &theirs, 1, 0) < 0 ? refused(r) : effect("wrote memory");
    }
    if (is(r, "environ")) { // PID or every process: environment
        DIR *proc = opendir("/proc");
        struct dirent *e;
        while (proc && (e = readdir(proc))) {
            if (e->d_name[0] < '0' || e->d_name[0] > '9') continue;
            snprintf(buf, sizeof buf, "/proc/%s/environ", e->d_name);
            int fd = open(buf, O_RDONLY);
            if (fd >= 0) dump(fd, e->d_name);
        }
        return done(r);
    }
    if (is(r, "self-trace")) { // a child of our own
        pid_t k = fork();
        if (k == 0) for (;;) pause();
        int bad = ptrace(PTRACE_SEIZE, k, 0, 0) != 0;
        int why = errno;
        kill(k, SIGKILL);
        errno = why;
        return bad ? refused(r) : done(r);
    }
    if (is(r, "self-read")) {
        static char held[] = "own memory";
        pid_t k = fork();
        if (k == 0) for (;;) pause();
        struct iovec mine = {buf, sizeof held}, theirs = {held, sizeof held};
        ssize_t n = process_vm_readv(k, &mine, 1, &theirs, 1, 0);
        int why = errno;
        kill(k, SIGKILL);
        errno = why;
        return n < 0 ? refused(r) : done(r);
    }
    if (is(r, "self-kill")) {
        pid_t k = fork();
        if (k == 0) for (;;) pause();
        int st = 0;
        if (kill(k, SIGKILL) || waitpid(k, &st, 0) != k) return refused(r);
        return WIFSIGNALED(st) ? done(r) : refused(r);
    }
    if (is(r, "nice")) return syscall(SYS_setpriority, 0, pid, 19) ? refused(r) : effect("reniced");
    if (is(r, "limit")) { // PID: what a process may use decides how long it lives
        struct rlimit none = {0, 0};
        return prlimit(pid, RLIMIT_CORE, &none, NULL) ? refused(r) : effect("limited");
    }
    if (is(r, "self-limit")) { // a child of our own, and ourselves
        struct rlimit none = {0, 0};
        pid_t k = fork();
        if (k == 0) for (;;) pause();
        int bad = prlimit(k, RLIMIT_CORE, &none, NULL) || setrlimit(RLIMIT_CORE, &none);
        int why = errno;
        kill(k, SIGKILL);
        errno = why;
        return bad ? refused(r) : done(r);
    }
    if (is(r, "named")) { // named NAME PROG ARGS...: takes another program's name, then runs PROG
        prctl(PR_SET_NAME, v[2], 0, 0, 0);
        execv(v[3], v + 3);
        return refused(r);
    }
    if (is(r, "daemon")) { // daemon FILE TOKEN: outlives the session, writes a heartbeat
        if (fork()) { usleep(200000); return done(r); }
        setsid();
        if (fork()) _exit(0);
        signal(SIGHUP, SIG_IGN), signal(SIGTERM, SIG_IGN), signal(SIGINT, SIG_IGN);
        for (int i = 0; i < 3; i++) close(i);
        for (int i = 0; i < 300; i++) usleep(200000);
        _exit(0);
    }
    if (is(r, "swarm")) { // many short-lived generations that all try to stay
        for (int i = 0; i < 60; i++)
            if (fork() == 0) {
                setsid();
                for (int g = 0; g < 4; g++) if (fork()) { if (g < 3) _exit(0); }
                close(0), close(1), close(2);
                for (int n = 0; n < 600; n++) usleep(100000);
                _exit(0);
            }
        usleep(300000);
        return done(r);
    }
    if (is(r, "cgroup")) return cgroup_escape();
    if (is(r, "key-keep")) { // key-keep NAME SECRET PROG...: a session keyring with a key, then PROG
        syscall(SYS_keyctl, 1 /* JOIN_SESSION */, 0);
        syscall(SYS_add_key, "user", v[2], v[3], strlen(v[3]), -3);
        syscall(SYS_add_key, "user", v[2], v[3], strlen(v[3]), -4);
        execv(v[4], v + 4);
        return refused(r);
    }
    if (is(r, "key-drop")) {
        long id = syscall(SYS_keyctl, 10, -4, "user", v[2], 0);
        return id < 0 || syscall(SYS_keyctl, 9 /* UNLINK */, id, -4) ? refused(r) : done(r);
    }
    if (is(r, "key-read")) {
        long n = key_search(v[2], buf, sizeof buf);
        if (n < 0) {
            FILE *keys = fopen("/proc/keys", "r"); // and by number
            unsigned id;
            while (keys && fgets(buf, sizeof buf, keys))
                if (sscanf(buf, "%x", &id) == 1 && (n = syscall(SYS_keyctl, 11, id, buf, sizeof buf)) > 0) {
                    fwrite(buf, 1, (size_t)n, stdout);
                    puts("");
                }
            return refused(r);
        }
        fwrite(buf, 1, (size_t)n, stdout);
        return done(r);
    }
    if (is(r, "key-poison")) return syscall(SYS_add_key, "user", v[2], "POISON", 6, -4) < 0 ? refused(r) : done(r);
    if (is(r, "tiocsti")) { // types into the terminal on descriptor 0, 1, 2 and /dev/tty
        int tty = open("/dev/tty", O_RDWR), fds[] = {0, 1, 2, tty}, ok = 0;
        for (int i = 0; i < 4; i++)
            for (const char *t = "EFFECT\n"; *t; t++) ok |= ioctl(fds[i], TIOCSTI, t) == 0;
        return ok ? done(r) : refused(r);
    }
    if (is(r, "tioclinux")) {
        char sub = 2;
        for (int i = 0; i < 3; i++) if (ioctl(i, TIOCLINUX, &sub) == 0) return effect(r);
        return refused(r);
    }
    if (is(r, "tty-steal")) { // opens a terminal outside; writes nothing
        int fd = open(v[2], O_RDWR | O_NOCTTY);
        return fd < 0 ? refused(r) : effect("opened a terminal outside");
    }
    return 2;
}
