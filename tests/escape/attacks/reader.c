// reader ROUTE PATH [SCRATCH]: reads PATH by an unusual road and prints what it finds.
#include "kit.h"
#include <dirent.h>
#include <libgen.h>
#include <linux/openat2.h>
#include <sys/sendfile.h>

static const char *path, *scratch;
static char dir_buf[4096], base_buf[4096], *dir, *base;

static int at(const char *prefix) {
    char full[9000];
    snprintf(full, sizeof full, "%s%s", prefix, path);
    return open(full, O_RDONLY);
}
static int in_scratch(const char *name) {
    char full[9000];
    snprintf(full, sizeof full, "%s/%s", scratch, name);
    return open(full, O_RDONLY);
}
static int fd_reopen(int fd) {
    char link[64];
    if (fd < 0) return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, O_RDONLY);
}
struct fh { struct file_handle h; unsigned char room[128]; };

// Opens the root directory of the file system by a made-up handle (the "shocker" attack), then walks.
static int handle_root(void) {
    struct fh f = {.h = {.handle_bytes = 8, .handle_type = 1}};
    uint32_t ino[2] = {2, 0};
    memcpy(f.h.f_handle, ino, sizeof ino);
    int mnt = open(dir, O_RDONLY | O_DIRECTORY);
    if (mnt < 0) mnt = open("/usr", O_RDONLY | O_DIRECTORY);
    int root = open_by_handle_at(mnt, &f.h, O_RDONLY | O_DIRECTORY);
    return root < 0 ? -1 : openat(root, path + 1, O_RDONLY);
}
static int handle_named(void) {
    struct fh f = {.h = {.handle_bytes = 128}};
    int id, mnt = open("/usr", O_RDONLY | O_DIRECTORY);
    if (name_to_handle_at(AT_FDCWD, path, &f.h, &id, 0) != 0) return -1;
    return open_by_handle_at(mnt, &f.h, O_RDONLY);
}
// Every process's root, cwd and open files.
static int other_processes(void) {
    DIR *proc = opendir("/proc");
    struct dirent *e;
    char p[9000];
    while (proc && (e = readdir(proc))) {
        if (e->d_name[0] < '0' || e->d_name[0] > '9') continue;
        snprintf(p, sizeof p, "/proc/%s/root%s", e->d_name, path);
        int fd = open(p, O_RDONLY);
        if (fd >= 0) dump(fd, p);
        snprintf(p, sizeof p, "/proc/%s/cwd/%s", e->d_name, base);
        fd = open(p, O_RDONLY);
        if (fd >= 0) dump(fd, p);
        for (int n = 0; n < 64; n++) {
            struct stat st;
            snprintf(p, sizeof p, "/proc/%s/fd/%d", e->d_name, n);
            if (stat(p, &st) == 0 && S_ISDIR(st.st_mode)) {
                int d = open(p, O_RDONLY | O_DIRECTORY);
                if (d >= 0 && (fd = openat(d, base, O_RDONLY)) >= 0) dump(fd, p);
                if (d >= 0 && (fd = openat(d, path + 1, O_RDONLY)) >= 0) dump(fd, p);
            } else if (stat(p, &st) == 0 && S_ISREG(st.st_mode) && (fd = open(p, O_RDONLY)) >= 0)
                dump(fd, p);
        }
    }
    return open(path, O_RDONLY);
}
static int compat_open(const char *file) {
    char *low = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) return -1;
    strcpy(low, file);
    long ret;
    __asm__ volatile("int $0x80" : "=a"(ret) : "a"(5L), "b"(low), "c"(0L), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
    if ((int)ret < 0) { errno = -(int)ret; return -1; }
    return (int)ret;
}
int main(int c, char **v) {
    if (c < 3) return 2;
    const char *r = v[1];
    path = v[2];
    scratch = c > 3 ? v[3] : "/tmp";
    dir = dirname(strcpy(dir_buf, path));
    base = basename(strcpy(base_buf, path));
    char buf[9000];
    struct open_how how = {.flags = O_RDONLY};
    int fd = -1;
    if (is(r, "open")) fd = (int)syscall(SYS_open, path, O_RDONLY, 0);
    else if (is(r, "openat")) fd = openat(AT_FDCWD, path, O_RDONLY);
    else if (is(r, "openat2")) fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    else if (is(r, "openat2-in-root")) {
        how.resolve = RESOLVE_IN_ROOT;
        int root = open("/", O_PATH);
        fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    } else if (is(r, "rdwr")) fd = open(path, O_RDWR);
    else if (is(r, "o-path")) fd = fd_reopen(open(path, O_PATH));
    else if (is(r, "o-path-dir")) {
        int d = open(dir, O_PATH | O_DIRECTORY);
        fd = openat(d, base, O_RDONLY);
    } else if (is(r, "proc-root")) fd = at("/proc/self/root");
    else if (is(r, "proc-thread-root")) fd = at("/proc/thread-self/root");
    else if (is(r, "proc-nested")) fd = at("/proc/self/root/proc/self/root");
    else if (is(r, "proc-1-root")) fd = at("/proc/1/root");
    else if (is(r, "proc-cwd")) {
        if (chdir(dir)) return refused("chdir");
        snprintf(buf, sizeof buf, "/proc/self/cwd/%s", base);
        fd = open(buf, O_RDONLY);
    } else if (is(r, "dotdot")) {
        snprintf(buf, sizeof buf, "/usr/bin/../..//.%s", path);
        fd = open(buf, O_RDONLY);
    } else if (is(r, "long")) {
        if (chdir(dir)) return refused("chdir");
        size_t used = 0;
        while (used + strlen(base) + 4 < 4090) used += (size_t)sprintf(buf + used, "./");
        strcpy(buf + used, base);
        fd = open(buf, O_RDONLY);
    } else if (is(r, "symlink")) {
        snprintf(buf, sizeof buf, "%s/ln", scratch);
        unlink(buf);
        if (symlink(path, buf)) return refused("symlink");
        fd = open(buf, O_RDONLY);
    } else if (is(r, "symlink-dir")) {
        snprintf(buf, sizeof buf, "%s/lnd", scratch);
        unlink(buf);
        if (symlink(dir, buf)) return refused("symlink");
        snprintf(buf, sizeof buf, "%s/lnd/%s", scratch, base);
        fd = open(buf, O_RDONLY);
    } else if (is(r, "hardlink")) {
        snprintf(buf, sizeof buf, "%s/hl", scratch);
        if (link(path, buf)) return refused("link");
        fd = open(buf, O_RDONLY);
    } else if (is(r, "hardlink-fd")) {
        int p = open(path, O_PATH);
        char self[64];
        snprintf(self, sizeof self, "/proc/self/fd/%d", p);
        snprintf(buf, sizeof buf, "%s/hl2", scratch);
        if (linkat(AT_FDCWD, self, AT_FDCWD, buf, AT_SYMLINK_FOLLOW)) return refused("linkat");
        fd = open(buf, O_RDONLY);
    } else if (is(r, "rename")) {
        snprintf(buf, sizeof buf, "%s/renamed", scratch);
        if (rename(path, buf)) return refused("rename");
        fd = open(buf, O_RDONLY);
    } else if (is(r, "rename-parent")) {
        snprintf(buf, sizeof buf, "%s/moved", scratch);
        if (rename(dir, buf)) return refused("rename");
        snprintf(buf, sizeof buf, "%s/moved/%s", scratch, base);
        fd = open(buf, O_RDONLY);
    } else if (is(r, "bind-dir") || is(r, "bind-parent")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        if (is(r, "bind-parent")) {
            snprintf(buf, sizeof buf, "%s/%s", basename(dir), base);
            dir = dirname(dir), base = buf;
        }
        if (mount(dir, scratch, 0, MS_BIND, 0)) return refused("bind");
        fd = in_scratch(base);
    } else if (is(r, "umount")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        umount2(path, MNT_DETACH);
        umount2(dir, MNT_DETACH);
        fd = open(path, O_RDONLY);
    } else if (is(r, "move-mount")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        mount(path, scratch, 0, MS_MOVE, 0);
        mount(dir, scratch, 0, MS_MOVE, 0);
        fd = open(path, O_RDONLY);
        if (fd >= 0) dump(fd, "under");
        fd = in_scratch(base);
    } else if (is(r, "open-tree")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        int tree = (int)syscall(SYS_open_tree, AT_FDCWD, dir, 1 /* OPEN_TREE_CLONE */);
        if (tree < 0) return refused("open_tree");
        fd = openat(tree, base, O_RDONLY);
    } else if (is(r, "open-tree-move")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        int tree = (int)syscall(SYS_open_tree, AT_FDCWD, dir, 1);
        if (tree < 0 || syscall(SYS_move_mount, tree, "", AT_FDCWD, scratch, 4)) return refused("move_mount");
        fd = in_scratch(base);
    } else if (is(r, "overlay")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        snprintf(buf, sizeof buf, "lowerdir=%s:/usr", dir);
        if (mount("o", scratch, "overlay", MS_RDONLY, buf)) return refused("overlay");
        fd = in_scratch(base);
    } else if (is(r, "fsopen-overlay")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        int fs = (int)syscall(SYS_fsopen, "overlay", 0);
        snprintf(buf, sizeof buf, "%s:/usr", dir);
        syscall(SYS_fsconfig, fs, 1, "lowerdir", buf, 0);
        syscall(SYS_fsconfig, fs, 6, 0, 0, 0);
        int m = (int)syscall(SYS_fsmount, fs, 0, 0);
        if (m < 0) return refused("fsmount");
        fd = openat(m, base, O_RDONLY);
    } else if (is(r, "chroot")) {
        if (become_root(0)) return refused("unshare");
        if (chroot(dir)) return refused("chroot");
        snprintf(buf, sizeof buf, "/%s", base);
        fd = open(buf, O_RDONLY);
    } else if (is(r, "pivot-root")) {
        if (become_root(CLONE_NEWNS)) return refused("unshare");
        if (mount(dir, scratch, 0, MS_BIND, 0) || chdir(scratch) ||
            syscall(SYS_pivot_root, ".", "."))
            return refused("pivot_root");
        snprintf(buf, sizeof buf, "/%s", base);
        fd = open(buf, O_RDONLY);
    } else if (is(r, "fresh-proc")) {
        if (become_root(CLONE_NEWNS | CLONE_NEWPID)) return refused("unshare");
        if (fork() == 0) {
            if (mount("p", scratch, "proc", 0, 0)) _exit(refused("mount proc"));
            snprintf(buf, sizeof buf, "%s/1/root%s", scratch, path);
            _exit(dump(open(buf, O_RDONLY), r));
        }
        wait(0);
        return 0;
    } else if (is(r, "handle")) fd = handle_named();
    else if (is(r, "handle-root")) fd = handle_root();
    else if (is(r, "uring")) {
        struct io_uring_sqe op = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD,
                                  .addr = (uintptr_t)path, .open_flags = O_RDONLY};
        fd = uring_one(op);
        if (fd < 0) errno = -fd;
    } else if (is(r, "mmap")) {
        fd = open(path, O_RDONLY);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) || st.st_size == 0) return refused("mmap");
        char *m = mmap(0, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (m == MAP_FAILED) return refused("mmap");
        fwrite(m, 1, (size_t)st.st_size, stdout);
        return 0;
    } else if (is(r, "sendfile")) {
        fd = open(path, O_RDONLY);
        fflush(stdout);
        return fd >= 0 && sendfile(1, fd, 0, 4096) >= 0 ? 0 : refused("sendfile");
    } else if (is(r, "splice")) {
        fd = open(path, O_RDONLY);
        int p[2];
        if (fd < 0 || pipe(p) || splice(fd, 0, p[1], 0, 4096, 0) < 0) return refused("splice");
        close(p[1]);
        fd = p[0];
    } else if (is(r, "copy-range")) {
        fd = open(path, O_RDONLY);
        snprintf(buf, sizeof buf, "%s/copied", scratch);
        int out = open(buf, O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0 || copy_file_range(fd, 0, out, 0, 4096, 0) < 0) return refused("copy_file_range");
        lseek(out, 0, SEEK_SET);
        fd = out;
    } else if (is(r, "processes")) fd = other_processes();
    else if (is(r, "int80")) fd = compat_open(path);
    else if (is(r, "x32")) fd = (int)syscall(0x40000000 | SYS_open, path, O_RDONLY, 0);
    else if (is(r, "list")) {
        DIR *d = opendir(path);
        struct dirent *e;
        if (!d) return refused("opendir");
        while ((e = readdir(d))) printf("entry %s\n", e->d_name);
        return 0;
    } else if (is(r, "inherited")) {
        for (int n = 3; n < 64; n++) {
            struct stat st;
            if (fstat(n, &st)) continue;
            printf("descriptor %d open, mode %o\n", n, st.st_mode);
            if (S_ISDIR(st.st_mode)) {
                int f = openat(n, base, O_RDONLY);
                if (f >= 0) dump(f, "openat");
                f = openat(n, path + 1, O_RDONLY);
                if (f >= 0) dump(f, "openat root");
            } else if (S_ISREG(st.st_mode)) {
                lseek(n, 0, SEEK_SET);
                dump(n, "read");
            }
        }
        return 0;
    } else return 2;
    return dump(fd, r);
}
