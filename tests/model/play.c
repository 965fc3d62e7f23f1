/* Does file system operations as a list says, one a line, in the current folder, and prints for each
 * the errno (0: done). The model suite runs it behind the wall and natively, and compares.
 *
 *   play LIST           as it is
 *   play LIST ANSWERS   natively, beside what was answered behind the wall: where overlayfs cannot but
 *                       differ from another file system, the same is done here. These three, no others:
 *                       1. `rename(2)` of a folder of the original answers EXDEV (no redirect_dir): the
 *                          operation is left out here too, and `mv` copies. Only where the folder is one
 *                          of the original; anywhere else the answers differ and the suite fails.
 *                       2. A name of an original with several names leaves its group before it is first
 *                          changed (copy-up without index): it becomes a file of its own here, too.
 *                       3. `rename(2)` of a name of the original onto its own new second name answers ESTALE
 *                          (the two are still different objects to it); elsewhere that does nothing.
 *   play --age          gives everything below the current folder old times that differ, parents last
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MAX 4096
static struct { ino_t ino; int group; } original[MAX];
static int originals, native;
static char block[1 << 20];

static int was_original(const struct stat *s) {
    for (int i = 0; i < originals; i++) if (original[i].ino == s->st_ino) return i + 1;
    return 0;
}

static int note(const char *path, const struct stat *s, int type, struct FTW *at) {
    (void)type, (void)at;
    if (was_original(s)) return 0;
    /* Held, so that no new object gets its number. */
    if (originals == MAX || open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC) < 0) return -1;
    original[originals].ino = s->st_ino;
    original[originals++].group = S_ISREG(s->st_mode) && s->st_nlink > 1;
    return 0;
}

static const char *fill(long n, int seed) {
    for (long i = 0; i < n; i++) block[i] = 'a' + (seed + i / 7) % 26;
    return block;
}

static int write_all(int fd, long n, off_t at, int seed) {
    ssize_t done = pwrite(fd, fill(n, seed), n, at);
    return done == n ? 0 : done < 0 ? errno : EIO;
}

static void parent_of(const char *path, char *to) {
    const char *slash = strrchr(path, '/');
    if (slash) sprintf(to, "%.*s", (int)(slash - path), path);
    else strcpy(to, ".");
}

/* One object with all that belongs to it, under a name that is free. */
static int copy_one(const char *from, const char *to, const struct stat *s) {
    char names[4096], value[4096], target[PATH_MAX] = "";
    struct timespec times[2] = {s->st_atim, s->st_mtim};
    if (S_ISLNK(s->st_mode)) {
        if (readlink(from, target, sizeof target - 1) < 0 || symlink(target, to) != 0) return errno;
    } else if (S_ISFIFO(s->st_mode)) {
        if (mkfifo(to, s->st_mode & 07777) != 0) return errno;
    } else if (S_ISREG(s->st_mode)) {
        int in = open(from, O_RDONLY), out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL, 0600);
        int e = out < 0 ? errno : 0;
        off_t at = 0;
        if (!e && ftruncate(out, s->st_size) != 0) e = errno;
        while (!e && (at = lseek(in, at, SEEK_DATA)) >= 0) {
            off_t end = lseek(in, at, SEEK_HOLE);
            ssize_t n = pread(in, block, end - at < (off_t)sizeof block ? end - at : (off_t)sizeof block, at);
            if (n <= 0 || pwrite(out, block, n, at) != n) e = EIO;
            at += n;
        }
        if (in >= 0) close(in);
        if (out >= 0) close(out);
        if (e) return e;
    } else if (mkdir(to, 0700) != 0) return errno;
    if (S_ISLNK(s->st_mode)) goto times;
    ssize_t n = listxattr(from, names, sizeof names);
    for (char *p = names; n > 0 && p < names + n; p += strlen(p) + 1) {
        ssize_t len = getxattr(from, p, value, sizeof value);
        if (len >= 0 && strncmp(p, "user.", 5) == 0 && setxattr(to, p, value, len, 0) != 0) return errno;
    }
    if (S_ISDIR(s->st_mode)) return 0; /* mode and times come when it is full */
    if (chmod(to, s->st_mode & 07777) != 0) return errno;
times:
    return utimensat(AT_FDCWD, to, times, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
}

static int may_change(const char *path) {
    char parent[PATH_MAX];
    parent_of(path, parent);
    return faccessat(AT_FDCWD, parent, W_OK | X_OK, AT_EACCESS) == 0;
}

/* What a copy-up does to one of several names, done natively; `needs` are the owner's permissions without
 * which the call is refused before the copy-up. */
static void copy_up(const char *path, mode_t needs) {
    struct stat s, dir;
    char parent[PATH_MAX], temp[PATH_MAX + 8];
    if (!native || lstat(path, &s) != 0 || !S_ISREG(s.st_mode) || (s.st_mode & needs) != needs) return;
    int which = was_original(&s);
    if (!which || !original[which - 1].group) return;
    parent_of(path, parent);
    sprintf(temp, "%s/..copy", parent);
    if (stat(parent, &dir) != 0) return;
    /* The kernel may read and write here, whatever the modes say. */
    chmod(parent, 0700);
    if (!(s.st_mode & 0400)) chmod(path, 0600);
    int e = copy_one(path, temp, &s);
    if (!(s.st_mode & 0400)) chmod(path, s.st_mode & 07777);
    if (e || rename(temp, path) != 0) printf("# cannot separate %s: %d\n", path, e ? e : errno);
    struct timespec times[2] = {dir.st_atim, dir.st_mtim};
    utimensat(AT_FDCWD, parent, times, 0);
    chmod(parent, dir.st_mode & 07777);
}

static int each_in(const char *dir, int (*act)(const char *, const char *), const char *to) {
    char from_name[PATH_MAX], to_name[PATH_MAX];
    struct dirent **list;
    int n = scandir(dir, &list, NULL, alphasort), e = 0;
    if (n < 0) return errno;
    for (int i = 0; i < n; i++) {
        if (!e && strcmp(list[i]->d_name, ".") && strcmp(list[i]->d_name, "..")) {
            sprintf(from_name, "%s/%s", dir, list[i]->d_name);
            if (to) sprintf(to_name, "%s/%s", to, list[i]->d_name);
            e = act(from_name, to ? to_name : NULL);
        }
        free(list[i]);
    }
    free(list);
    return e;
}

static int remove_tree(const char *path, const char *unused) {
    struct stat s;
    (void)unused;
    if (lstat(path, &s) != 0) return errno;
    if (!S_ISDIR(s.st_mode)) return unlink(path) == 0 ? 0 : errno;
    int e = each_in(path, remove_tree, NULL);
    return e ? e : rmdir(path) == 0 ? 0 : errno;
}

/* As `cp -a`, but links between files are not kept. */
static int copy_tree(const char *from, const char *to) {
    struct stat s;
    if (lstat(from, &s) != 0) return errno;
    int e = copy_one(from, to, &s);
    if (e || !S_ISDIR(s.st_mode)) return e;
    e = each_in(from, copy_tree, to);
    struct timespec times[2] = {s.st_atim, s.st_mtim};
    if (!e && chmod(to, s.st_mode & 07777) != 0) e = errno;
    if (!e && utimensat(AT_FDCWD, to, times, 0) != 0) e = errno;
    return e;
}

static int is_stale(const char *from, const char *to, int answer) {
    struct stat s, t;
    return native && answer == ESTALE && lstat(from, &s) == 0 && lstat(to, &t) == 0 && s.st_ino == t.st_ino;
}

static int move_name(const char *from, const char *to, unsigned flags, int answer) {
    struct stat s, t;
    if (native && answer == EXDEV) {
        int first = lstat(from, &s) == 0 && S_ISDIR(s.st_mode) && was_original(&s);
        int second = flags & RENAME_EXCHANGE && lstat(to, &t) == 0 && S_ISDIR(t.st_mode) && was_original(&t);
        if (first || second) return EXDEV;
    }
    if (is_stale(from, to, answer)) return ESTALE;
    int onto_folder = lstat(to, &t) == 0 && S_ISDIR(t.st_mode);
    int passes = may_change(from) && may_change(to) && !(flags & RENAME_NOREPLACE && lstat(to, &t) == 0);
    if (passes && (flags & RENAME_EXCHANGE ? lstat(to, &t) == 0 : !onto_folder)) {
        copy_up(from, 0);
        if (flags & RENAME_EXCHANGE) copy_up(to, 0);
    }
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) == 0 ? 0 : errno;
}

/* As mv(1): where the name cannot move, the content does. */
static int mv(const char *from, const char *to, int answer) {
    int e = move_name(from, to, RENAME_NOREPLACE, native && answer >= 1000 ? EXDEV : answer);
    if (e != EXDEV) return e;
    e = copy_tree(from, to);
    if (!e) e = remove_tree(from, NULL);
    return 1000 + e;
}

static int with_file(const char *path, int flags, int (*act)(int, long, long, int), long a, long b, int c) {
    copy_up(path, flags & O_RDWR ? 0600 : flags & O_WRONLY ? 0200 : 0400);
    int fd = open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
    if (fd < 0) return errno;
    int e = act(fd, a, b, c);
    return close(fd) == 0 || e ? e : errno;
}

static int a_write(int fd, long at, long n, int seed) { return write_all(fd, n, at, seed); }
static int an_append(int fd, long unused, long n, int seed) {
    (void)unused;
    ssize_t done = write(fd, fill(n, seed), n);
    return done == n ? 0 : done < 0 ? errno : EIO;
}
static int a_cut(int fd, long n, long b, int c) { return (void)b, (void)c, ftruncate(fd, n) == 0 ? 0 : errno; }
static int a_mode(int fd, long m, long b, int c) { return (void)b, (void)c, fchmod(fd, m) == 0 ? 0 : errno; }
static int an_alloc(int fd, long at, long n, int mode) { return fallocate(fd, mode, at, n) == 0 ? 0 : errno; }
static int a_map(int fd, long at, long n, int seed) {
    struct stat s;
    if (fstat(fd, &s) != 0 || (s.st_size < at + n && ftruncate(fd, at + n) != 0)) return errno;
    char *p = mmap(NULL, at + n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return errno;
    memcpy(p + at, fill(n, seed), n);
    return munmap(p, at + n) == 0 ? 0 : errno;
}

static int unnamed(const char *dir, const char *path, long n, int seed) {
    char self[64];
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0640), e;
    if (fd < 0) return errno;
    e = write_all(fd, n, 0, seed);
    sprintf(self, "/proc/self/fd/%d", fd);
    if (!e && linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0) e = errno;
    close(fd);
    return e;
}

/* What was written through a descriptor after the name was gone, moved or made anew. */
static int late(const char *path, const char *to, long n, int seed, int answer) {
    copy_up(path, 0600);
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return errno;
    int e = is_stale(path, to, answer) ? ESTALE : rename(path, to) == 0 ? 0 : errno;
    if (!e) e = write_all(fd, n, 0, seed);
    close(fd);
    return e;
}

static int times(const char *path, long sec, long nsec) {
    struct timespec t[2] = {{.tv_sec = sec, .tv_nsec = nsec}, {.tv_sec = sec, .tv_nsec = nsec}};
    copy_up(path, 0);
    return utimensat(AT_FDCWD, path, t, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
}

#define IS(word, count) (strcmp(op, word) == 0 && words == 1 + count)
#define N(i) strtol(w[i], NULL, 0)
#define ERR(call) ((call) == 0 ? 0 : errno)

static int play(char *line, int answer) {
    char *w[8] = {0}, *op, *rest;
    int words = 0;
    for (char *p = strtok_r(line, " \n", &rest); p && words < 8; p = strtok_r(NULL, " \n", &rest)) w[words++] = p;
    if (!words) return -1;
    op = w[0];
    if (IS("create", 1)) {
        int fd = open(w[1], O_WRONLY | O_CREAT | O_EXCL, 0644);
        return fd < 0 ? errno : ERR(close(fd));
    }
    if (IS("write", 3)) return with_file(w[1], O_WRONLY | O_CREAT | O_TRUNC, a_write, 0, N(2), N(3));
    if (IS("pwrite", 4)) return with_file(w[1], O_WRONLY, a_write, N(2), N(3), N(4));
    if (IS("append", 3)) return with_file(w[1], O_WRONLY | O_CREAT | O_APPEND, an_append, 0, N(2), N(3));
    if (IS("cut", 2)) return with_file(w[1], O_RDWR, a_cut, N(2), 0, 0);
    if (IS("map", 4)) return with_file(w[1], O_RDWR, a_map, N(2), N(3), N(4));
    if (IS("alloc", 3)) return with_file(w[1], O_RDWR, an_alloc, N(2), N(3), 0);
    if (IS("punch", 3))
        return with_file(w[1], O_RDWR, an_alloc, N(2), N(3), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    if (IS("fchmod", 2)) return with_file(w[1], O_RDONLY, a_mode, N(2), 0, 0);
    if (IS("unnamed", 4)) return unnamed(w[1], w[2], N(3), N(4));
    if (IS("late", 4)) return late(w[1], w[2], N(3), N(4), answer);
    if (IS("rename", 2)) return move_name(w[1], w[2], 0, answer);
    if (IS("exchange", 2)) return move_name(w[1], w[2], RENAME_EXCHANGE, answer);
    if (IS("mv", 2)) return mv(w[1], w[2], answer);
    if (IS("link", 2)) {
        struct stat s;
        if (lstat(w[2], &s) == 0) return EEXIST;
        if (may_change(w[2])) copy_up(w[1], 0);
        return ERR(link(w[1], w[2]));
    }
    if (IS("symlink", 2)) return ERR(symlink(w[1], w[2]));
    if (IS("fifo", 1)) return ERR(mkfifo(w[1], 0640));
    if (IS("mkdir", 2)) return ERR(mkdir(w[1], N(2)));
    if (IS("unlink", 1)) return ERR(unlink(w[1]));
    if (IS("rmdir", 1)) return ERR(rmdir(w[1]));
    if (IS("rmtree", 1)) return remove_tree(w[1], NULL);
    if (IS("times", 3)) return times(w[1], N(2), N(3));
    /* The rest follows a link in the end: it works on what lies below. */
    struct stat s;
    if (words > 1 && lstat(w[1], &s) == 0 && S_ISLNK(s.st_mode)) return ELOOP;
    if (IS("truncate", 2)) return copy_up(w[1], 0200), ERR(truncate(w[1], N(2)));
    if (IS("chmod", 2)) return copy_up(w[1], 0), ERR(chmod(w[1], N(2)));
    if (IS("chown", 3)) {
        int own = (N(2) == -1 || N(2) == (long)getuid()) && (N(3) == -1 || N(3) == (long)getgid());
        if (own) copy_up(w[1], 0);
        int e = ERR(chown(w[1], N(2), N(3)));
        return e == EINVAL ? EPERM : e; /* an id that the namespace does not have */
    }
    if (IS("setattr", 3)) return copy_up(w[1], 0200), ERR(setxattr(w[1], w[2], w[3], strlen(w[3]), 0));
    if (IS("rmattr", 2)) {
        if (getxattr(w[1], w[2], NULL, 0) >= 0) copy_up(w[1], 0200);
        return ERR(removexattr(w[1], w[2]));
    }
    return -1;
}

static int aged;
static int age(const char *path, const struct stat *s, int type, struct FTW *at) {
    struct timespec t[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000 + aged, .tv_nsec = 1000 * aged + 1}};
    (void)s, (void)type, (void)at;
    aged++;
    return utimensat(AT_FDCWD, path, t, AT_SYMLINK_NOFOLLOW);
}

int main(int argc, char **argv) {
    char line[4096], answer[64];
    umask(022);
    if (argc == 2 && strcmp(argv[1], "--age") == 0)
        return nftw(".", age, 32, FTW_PHYS | FTW_DEPTH | FTW_MOUNT) == 0 ? 0 : 1;
    FILE *list = argc > 1 ? fopen(argv[1], "r") : NULL, *answers = argc > 2 ? fopen(argv[2], "r") : NULL;
    if (!list || (argc > 2 && !answers)) return 2;
    native = answers != NULL;
    if (native && nftw(".", note, 32, FTW_PHYS | FTW_MOUNT) != 0) return 3;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    while (fgets(line, sizeof line, list)) {
        int hint = 0;
        if (answers) hint = fgets(answer, sizeof answer, answers) ? atoi(answer) : -1;
        int e = play(line, hint);
        if (e < 0) return 4;
        printf("%d\n", e);
    }
    return ferror(stdout) || fflush(stdout) != 0 ? 5 : 0;
}
