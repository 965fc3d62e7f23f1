// writer ROUTE PATH [SCRATCH]: changes PATH, or its neighbourhood, by an unusual road.
#include "kit.h"
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/xattr.h>
#include <utime.h>

#define OK(x) ((x) == 0 ? done(r) : refused(r))
static int text(int fd, const char *r) {
    if (fd < 0) return refused(r);
    return write(fd, "EVIL\n", 5) == 5 && close(fd) == 0 ? done(r) : refused(r);
}
static int reopen(int fd, int flags) {
    char link[64];
    if (fd < 0) return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, flags);
}
int main(int c, char **v) {
    if (c < 3) return 2;
    const char *r = v[1], *p = v[2], *scratch = c > 3 ? v[3] : "/tmp";
    char beside[8192], tmp[8192];
    struct open_how how = {.flags = O_WRONLY | O_TRUNC};
    struct timespec old[2] = {{1, 0}, {1, 0}};
    snprintf(tmp, sizeof tmp, "%s/w", scratch);
#define BESIDE(suffix) (snprintf(beside, sizeof beside, "%s" suffix, p), beside)
    if (is(r, "write")) return text(open(p, O_WRONLY | O_TRUNC), r);
    if (is(r, "creat")) return text(creat(BESIDE(".new"), 0644), r);
    if (is(r, "create-excl")) return text(open(BESIDE(".excl"), O_CREAT | O_EXCL | O_RDWR, 0644), r);
    if (is(r, "create-readonly")) return open(BESIDE(".ro"), O_CREAT | O_RDONLY, 0644) >= 0 ? done(r) : refused(r);
    if (is(r, "append")) return text(open(p, O_WRONLY | O_APPEND), r);
    if (is(r, "openat2")) return text((int)syscall(SYS_openat2, AT_FDCWD, p, &how, sizeof how), r);
    if (is(r, "rdonly-trunc")) return open(p, O_RDONLY | O_TRUNC) >= 0 ? done(r) : refused(r);
    if (is(r, "truncate")) return OK(truncate(p, 1));
    if (is(r, "rename-over")) {
        text(creat(tmp, 0644), "scratch");
        if (rename(tmp, p) == 0) return done(r);
        return refused(r);
    }
    if (is(r, "rename-away")) return OK(rename(p, BESIDE(".away")));
    if (is(r, "exchange")) {
        text(creat(BESIDE(".x"), 0644), "scratch");
        return OK(syscall(SYS_renameat2, AT_FDCWD, beside, AT_FDCWD, p, RENAME_EXCHANGE));
    }
    if (is(r, "link-here")) return OK(link(p, BESIDE(".link")));
    if (is(r, "link-in")) {
        if (link(p, tmp)) return refused(r);
        return text(open(tmp, O_WRONLY | O_TRUNC), r);
    }
    if (is(r, "symlink-here")) return OK(symlink("/etc/passwd", BESIDE(".sym")));
    if (is(r, "through-symlink")) {
        unlink(tmp);
        if (symlink(p, tmp)) return refused("symlink");
        return text(open(tmp, O_WRONLY | O_TRUNC), r);
    }
    if (is(r, "through-dangling")) {
        unlink(tmp);
        if (symlink(BESIDE(".dangling"), tmp)) return refused("symlink");
        return text(open(tmp, O_WRONLY | O_CREAT, 0644), r);
    }
    if (is(r, "proc-root")) {
        snprintf(beside, sizeof beside, "/proc/self/root%s", p);
        return text(open(beside, O_WRONLY | O_TRUNC), r);
    }
    if (is(r, "proc-1-root")) {
        snprintf(beside, sizeof beside, "/proc/1/root%s", p);
        return text(open(beside, O_WRONLY | O_TRUNC), r);
    }
    if (is(r, "unlink")) return OK(unlink(p));
    if (is(r, "rmdir")) return OK(rmdir(BESIDE(".empty")));
    if (is(r, "mkdir")) return OK(mkdir(BESIDE(".dir"), 0755));
    if (is(r, "mkfifo")) return OK(mkfifo(BESIDE(".fifo"), 0644));
    if (is(r, "mknod-file")) return OK(mknod(BESIDE(".node"), S_IFREG | 0644, 0));
    if (is(r, "bind-socket")) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        snprintf(a.sun_path, sizeof a.sun_path, "%s.s", p);
        return OK(bind(s, (struct sockaddr *)&a, sizeof a));
    }
    if (is(r, "chmod")) return OK(chmod(p, 0777));
    if (is(r, "fchmodat2")) return OK(syscall(452, AT_FDCWD, p, 0777, 0));
    if (is(r, "fchmod-ro")) return OK(fchmod(open(p, O_RDONLY), 0777));
    if (is(r, "chmod-proc-fd")) {
        snprintf(beside, sizeof beside, "/proc/self/fd/%d", open(p, O_PATH));
        return OK(chmod(beside, 0777));
    }
    if (is(r, "chown")) return OK(chown(p, getuid(), getgid()));
    if (is(r, "lchown")) return OK(lchown(p, getuid(), getgid()));
    if (is(r, "fchown-ro")) return OK(fchown(open(p, O_RDONLY), getuid(), getgid()));
    if (is(r, "setxattr")) return OK(setxattr(p, "user.evil", "1", 1, 0));
    if (is(r, "lsetxattr")) return OK(lsetxattr(p, "user.evil", "1", 1, 0));
    if (is(r, "fsetxattr-ro")) return OK(fsetxattr(open(p, O_RDONLY), "user.evil", "1", 1, 0));
    if (is(r, "setxattrat")) {
        struct { uint64_t value; uint32_t size, flags; } a = {(uintptr_t)"1", 1, 0};
        return OK(syscall(463, AT_FDCWD, p, 0, "user.evil", &a, sizeof a));
    }
    if (is(r, "set-named-xattr")) return OK(setxattr(p, scratch, v[4], strlen(v[4]), 0));
    if (is(r, "utimes")) return OK(utimensat(AT_FDCWD, p, old, 0));
    if (is(r, "utime")) return OK(utime(p, &(struct utimbuf){1, 1}));
    if (is(r, "futimens-ro")) return OK(futimens(open(p, O_RDONLY), old));
    if (is(r, "setflags-ro") || is(r, "file-setattr")) {
        int flags = 0, fd = open(p, O_RDONLY);
        if (fd < 0) return refused(r);
        ioctl(fd, FS_IOC_GETFLAGS, &flags);
        flags |= 0x40; // FS_NODUMP_FL: any owner may set it
        if (is(r, "setflags-ro")) return OK(ioctl(fd, FS_IOC_SETFLAGS, &flags));
        struct { uint64_t x; uint32_t ext, next, proj, cow; } a = {0x80, 0, 0, 0, 0};
        return OK(syscall(469, AT_FDCWD, p, &a, sizeof a, 0));
    }
    if (is(r, "fallocate")) return OK(fallocate(open(p, O_RDWR), 0, 0, 65536));
    if (is(r, "reopen-ro")) return text(reopen(open(p, O_RDONLY), O_WRONLY | O_TRUNC), r);
    if (is(r, "reopen-path")) return text(reopen(open(p, O_PATH), O_RDWR), r);
    if (is(r, "tmpfile")) {
        char *slash = strrchr(strcpy(beside, p), '/');
        *slash = 0;
        int fd = open(beside, O_TMPFILE | O_RDWR, 0644);
        if (fd < 0) return refused(r);
        if (write(fd, "EVIL\n", 5) != 5) return refused(r);
        snprintf(tmp, sizeof tmp, "/proc/self/fd/%d", fd);
        return OK(linkat(AT_FDCWD, tmp, AT_FDCWD, BESIDE(".tmpfile"), AT_SYMLINK_FOLLOW));
    }
    if (is(r, "mmap")) {
        int fd = open(p, O_RDWR);
        char *m = mmap(0, 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || m == MAP_FAILED) return refused(r);
        memcpy(m, "EVIL", 4);
        return done(r);
    }
    if (is(r, "copy-range")) {
        int in = open("/etc/passwd", O_RDONLY), out = open(p, O_WRONLY);
        return out >= 0 && copy_file_range(in, 0, out, 0, 64, 0) > 0 ? done(r) : refused(r);
    }
    if (is(r, "uring-open")) {
        struct io_uring_sqe op = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD,
                                  .addr = (uintptr_t)p, .open_flags = O_WRONLY | O_TRUNC};
        int fd = uring_one(op);
        if (fd < 0) errno = -fd;
        return text(fd, r);
    }
    if (is(r, "uring-unlink") || is(r, "uring-mkdir")) {
        struct io_uring_sqe op = {.opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (uintptr_t)p};
        if (is(r, "uring-mkdir")) {
            op.opcode = IORING_OP_MKDIRAT, op.len = 0755;
            op.addr = (uintptr_t)BESIDE(".uring");
        }
        int n = uring_one(op);
        if (n < 0) errno = -n;
        return OK(n < 0 ? -1 : 0);
    }
    if (is(r, "int80-creat")) {
        char *low = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        snprintf(low, 8192, "%s.int80", p);
        long ret;
        __asm__ volatile("int $0x80" : "=a"(ret) : "a"(8L), "b"(low), "c"(0644L) : "memory", "r8", "r9", "r10", "r11");
        errno = -(int)ret;
        return (int)ret >= 0 ? done(r) : refused(r);
    }
    if (is(r, "x32-creat")) return OK(syscall(0x40000000 | SYS_creat, BESIDE(".x32"), 0644) < 0);
    if (is(r, "remount")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        mount(0, "/", 0, MS_REMOUNT | MS_BIND, 0);
        snprintf(beside, sizeof beside, "%s", p);
        *strrchr(beside, '/') = 0;
        mount(0, beside, 0, MS_REMOUNT | MS_BIND, 0);
        struct { uint64_t set, clr, prop, ns; } a = {0, 1 /* RDONLY */, 0, 0};
        syscall(442, AT_FDCWD, "/", 0x8000, &a, sizeof a);
        return text(open(p, O_WRONLY | O_TRUNC), r);
    }
    if (is(r, "bind-rw")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        snprintf(beside, sizeof beside, "%s", p);
        char *name = strrchr(beside, '/');
        *name++ = 0;
        if (mount(beside, scratch, 0, MS_BIND, 0)) return refused("bind");
        snprintf(tmp, sizeof tmp, "%s/%s", scratch, name);
        return text(open(tmp, O_WRONLY | O_TRUNC), r);
    }
    if (is(r, "mknod-char")) return OK(mknod(p, S_IFCHR | 0666, (dev_t)((1 << 8) | 3)));
    if (is(r, "mknod-whiteout")) return OK(mknod(p, S_IFCHR | 0666, 0));
    return 2;
}
