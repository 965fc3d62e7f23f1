// runner ROUTE PROG [SCRATCH]: starts PROG, or runs its code, by an unusual road.
#include "kit.h"
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <spawn.h>

static char *none[] = {0};
static int fail(const char *r) { return refused(r); }
static int memfd_of(const char *prog) {
    int in = open(prog, O_RDONLY), out = (int)syscall(SYS_memfd_create, "kworker", 0);
    char buf[65536];
    ssize_t n;
    if (in < 0 || out < 0) return -1;
    while ((n = read(in, buf, sizeof buf)) > 0)
        if (write(out, buf, (size_t)n) != n) return -1;
    return out;
}
// exec in a child by the compat entry point.
static int int80_exec(const char *prog) {
    char *low = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    uint32_t *argv = (uint32_t *)(low + 4096);
    strcpy(low, prog);
    argv[0] = (uint32_t)(uintptr_t)low, argv[1] = 0;
    long ret;
    __asm__ volatile("int $0x80" : "=a"(ret) : "a"(11L), "b"(low), "c"(argv), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
    errno = -(int)ret;
    return -1;
}
// Two threads: one keeps swapping the name, the other execs it in forked children.
static char swapped[4096];
static const char *good, *bad;
static volatile int stop;
static void *swapper(void *x) {
    while (!stop) {
        strcpy(swapped, bad);
        BARRIER;
        strcpy(swapped, good);
        BARRIER;
    }
    return x;
}
int main(int c, char **v) {
    if (c < 3) return 2;
    const char *r = v[1], *p = v[2], *scratch = c > 3 ? v[3] : "/tmp";
    char *args[] = {(char *)p, c > 4 ? v[4] : 0, 0}, buf[8192];
    int fd;
    if (is(r, "execve")) { execve(p, args, environ); return fail(r); }
    if (is(r, "execveat")) { syscall(SYS_execveat, AT_FDCWD, p, args, environ, 0); return fail(r); }
    if (is(r, "execveat-fd")) {
        fd = open(p, O_RDONLY);
        syscall(SYS_execveat, fd, "", args, environ, AT_EMPTY_PATH);
        return fail(r);
    }
    if (is(r, "execveat-path-fd")) {
        fd = open(p, O_PATH);
        syscall(SYS_execveat, fd, "", args, environ, AT_EMPTY_PATH);
        return fail(r);
    }
    if (is(r, "execveat-dir")) {
        snprintf(buf, sizeof buf, "%s", p);
        char *name = strrchr(buf, '/');
        *name++ = 0;
        fd = open(buf, O_PATH | O_DIRECTORY);
        syscall(SYS_execveat, fd, name, args, environ, 0);
        return fail(r);
    }
    if (is(r, "proc-fd")) {
        snprintf(buf, sizeof buf, "/proc/self/fd/%d", open(p, O_PATH));
        execve(buf, args, environ);
        return fail(r);
    }
    if (is(r, "proc-root")) {
        snprintf(buf, sizeof buf, "/proc/self/root%s", p);
        execve(buf, args, environ);
        return fail(r);
    }
    if (is(r, "proc-cwd")) {
        snprintf(buf, sizeof buf, "%s", p);
        char *name = strrchr(buf, '/');
        *name++ = 0;
        if (chdir(buf)) return fail("chdir");
        snprintf(buf + 4096, 4096, "/proc/self/cwd/%s", name);
        execve(buf + 4096, args, environ);
        return fail(r);
    }
    if (is(r, "null-argv")) { execve(p, none, none); return fail(r); }
    if (is(r, "vfork")) {
        pid_t k = vfork();
        if (k == 0) { execve(p, args, environ); _exit(7); }
        int st;
        waitpid(k, &st, 0);
        return st ? fail(r) : 0;
    }
    if (is(r, "spawn")) {
        pid_t k;
        int st = 0;
        errno = posix_spawn(&k, p, 0, 0, args, environ);
        if (errno) return fail(r);
        waitpid(k, &st, 0);
        return st;
    }
    if (is(r, "symlink")) {
        snprintf(buf, sizeof buf, "%s/run-ln", scratch);
        unlink(buf);
        if (symlink(p, buf)) return fail("symlink");
        execve(buf, args, environ);
        return fail(r);
    }
    if (is(r, "hardlink")) {
        snprintf(buf, sizeof buf, "%s/run-hl", scratch);
        if (link(p, buf)) return fail("link");
        execve(buf, args, environ);
        return fail(r);
    }
    if (is(r, "rename")) {
        snprintf(buf, sizeof buf, "%s/run-mv", scratch);
        if (rename(p, buf)) return fail("rename");
        execve(buf, args, environ);
        return fail(r);
    }
    if (is(r, "memfd") || is(r, "memfd-proc")) {
        if ((fd = memfd_of(p)) < 0) return fail("memfd");
        snprintf(buf, sizeof buf, "/proc/self/fd/%d", fd);
        if (is(r, "memfd-proc")) execve(buf, args, environ);
        else syscall(SYS_execveat, fd, "", args, environ, AT_EMPTY_PATH);
        return fail(r);
    }
    if (is(r, "tmpfile")) { // O_TMPFILE copy, executed by descriptor
        int in = memfd_of(p), out = open(scratch, O_TMPFILE | O_RDWR, 0700);
        ssize_t n;
        lseek(in, 0, SEEK_SET);
        char big[65536];
        while (out >= 0 && (n = read(in, big, sizeof big)) > 0)
            if (write(out, big, (size_t)n) != n) return fail(r);
        snprintf(buf, sizeof buf, "/proc/self/fd/%d", out);
        fd = open(buf, O_RDONLY);
        close(out);
        syscall(SYS_execveat, fd, "", args, environ, AT_EMPTY_PATH);
        return fail(r);
    }
    if (is(r, "int80")) { int80_exec(p); return fail(r); }
    if (is(r, "x32")) { syscall(0x40000000 | 520, p, args, environ); return fail(r); }
    if (is(r, "bind")) {
        if (become_root(CLONE_NEWNS)) return fail("unshare");
        if (mount(p, "/usr/bin/true", 0, MS_BIND, 0)) return fail("bind");
        execve("/usr/bin/true", args, environ);
        return fail(r);
    }
    if (is(r, "binfmt")) { // binfmt PROG SCRATCH MAGIC: PROG becomes the interpreter of file MAGIC
        if (become_root(CLONE_NEWNS)) return fail("unshare");
        if (mount("b", scratch, "binfmt_misc", 0, 0)) return fail("mount");
        snprintf(buf, 4096, "%s/register", scratch);
        snprintf(buf + 4096, 4096, ":agentwall%d:M::AWMAGIC::%s:", getpid(), p);
        fd = open(buf, O_WRONLY);
        if (fd < 0 || write(fd, buf + 4096, strlen(buf + 4096)) < 0) return fail("register");
        execve(v[4], args, environ);
        return fail(r);
    }
    if (is(r, "dlopen")) {
        void *h = dlopen(p, RTLD_NOW);
        if (!h) { printf("refused dlopen: %s\n", dlerror()); return 1; }
        return 0;
    }
    if (is(r, "map-exec") || is(r, "mprotect-exec")) { // PROG's own pages made executable
        fd = open(p, O_RDONLY);
        if (fd < 0) return fail("open");
        int first = is(r, "map-exec") ? PROT_READ | PROT_EXEC : PROT_READ;
        void *m = mmap(0, 4096, first, MAP_PRIVATE, fd, 0);
        if (m == MAP_FAILED) return fail("mmap");
        if (is(r, "mprotect-exec") && mprotect(m, 4096, PROT_READ | PROT_EXEC)) return fail("mprotect");
        return effect("mapped executable");
    }
    if (is(r, "anonymous")) { // code copied into anonymous memory: a loader without files
        static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
        unsigned char *m = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (m == MAP_FAILED) return fail("mmap");
        fd = open(p, O_RDONLY);
        if (fd < 0 || read(fd, m + 64, 4000) <= 0) return fail("read");
        memcpy(m, code, sizeof code);
        return ((int (*)(void))m)() == 42 ? effect("ran anonymous code") : 1;
    }
    if (is(r, "race")) { // race PROG GOOD: swaps the path argument while execve runs
        pthread_t t;
        good = scratch, bad = p;
        strcpy(swapped, good);
        pthread_create(&t, 0, swapper, 0);
        for (int i = 0; i < 600; i++) {
            pid_t k = vfork();
            if (k == 0) { execve(swapped, args, environ); _exit(7); }
            int st;
            if (k > 0) waitpid(k, &st, 0);
        }
        stop = 1;
        pthread_join(t, 0);
        return done(r);
    }
    return 2;
}
