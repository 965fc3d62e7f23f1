/* One process that measures on request: started once natively and once behind the wall, it is asked
 * in turn, so that noise of the machine falls on both alike and no start-up cost is in the numbers.
 *
 * A request is a line on stdin, the answer the elapsed nanoseconds (or `error N`, an errno) on stdout:
 *   open PATH N    N times open, read up to 4 KiB, close
 *   write PATH N   N times open for writing and close
 *   stat PATH N    N times stat
 *   walk DIR N     read all directories below DIR; the answer is an error unless they have N files
 *   walkstat DIR N   the same, and stat of every file
 *   walkread DIR N   the same, and open, read up to 4 KiB, close of every file
 *   rewrite DIR N  write every file below DIR anew: two bytes more than before, the last of them new
 *   spawn N        N times posix_spawn of /bin/true and wait
 *   rename PATH N  N times rename to another name in the same folder, and back
 *   connect ADDR PORT N   N times connect and close
 *   protect N      N times mprotect of a page, never to be executed
 *   wake N         N round trips of a byte over two pipes with a child: what two wake-ups cost here
 *   recv ADDR PORT BYTES   connect and read BYTES
 *   until PATH E   open PATH again and again until that ends with errno E (0: it is open); answers the
 *                  moment of CLOCK_MONOTONIC at which it had. It must not do so at first, or longer than
 *                  ten seconds not.
 *   sh COMMAND     run a shell command; its status must be 0
 *   ready          answers 0
 * With the argument `serve BYTES` it listens on a loopback port, prints it, and sends BYTES of zeros
 * to every client.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char block[1 << 17];

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int opens(const char *path, long n, int flags) {
    char text[4096];
    while (n-- > 0) {
        int fd = open(path, flags | O_CLOEXEC);
        if (fd < 0) return errno;
        if (flags == O_RDONLY && read(fd, text, sizeof text) < 0) return errno;
        close(fd);
    }
    return 0;
}

static int until(const char *path, int wanted, long long *moment) {
    const struct timespec pause = {.tv_nsec = 50000};
    long long start = now();
    if (opens(path, 1, O_RDONLY) == wanted) return EALREADY;
    while (opens(path, 1, O_RDONLY) != wanted) {
        if (now() - start > 10000000000LL) return ETIMEDOUT;
        nanosleep(&pause, NULL);
    }
    *moment = now();
    return 0;
}

static int stats(const char *path, long n) {
    struct stat s;
    while (n-- > 0) if (stat(path, &s) != 0) return errno;
    return 0;
}

enum visit { WALK, STAT, READ, REWRITE };

static int rewrite(int at, const char *name) {
    char text[4096];
    int fd = openat(at, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno;
    ssize_t n = pread(fd, text, sizeof text - 2, 0);
    if (n < 0) return errno;
    memcpy(text + n, "!\n", 2);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, n + 2, 0) != n + 2) return errno;
    return close(fd) == 0 ? 0 : errno;
}

static int one_file(int at, const char *name, enum visit what) {
    char text[4096];
    struct stat s;
    if (what == STAT) return fstatat(at, name, &s, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
    if (what == REWRITE) return rewrite(at, name);
    if (what == WALK) return 0;
    int fd = openat(at, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text) < 0) return errno;
    return close(fd) == 0 ? 0 : errno;
}

static int below(int at, const char *name, enum visit what, long *files) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), e = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *d;
    if (!dir) return errno;
    while (e == 0 && (d = readdir(dir)) != NULL) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) continue;
        if (d->d_type == DT_DIR) e = below(fd, d->d_name, what, files);
        else {
            ++*files;
            e = one_file(fd, d->d_name, what);
        }
    }
    closedir(dir);
    return e;
}

static int all_below(const char *dir, long n, enum visit what) {
    long files = 0;
    int e = below(AT_FDCWD, dir, what, &files);
    return e ? e : files == n ? 0 : ENOMSG;
}

static int renames(const char *path, long n) {
    char other[4200];
    snprintf(other, sizeof other, "%s.other", path);
    while (n-- > 0)
        if (rename(path, other) != 0 || rename(other, path) != 0) return errno;
    return 0;
}

static int spawns(long n) {
    char *argv[] = {"/bin/true", NULL};
    while (n-- > 0) {
        pid_t pid;
        int status, e = posix_spawn(&pid, argv[0], NULL, NULL, argv, environ);
        if (e) return e;
        if (waitpid(pid, &status, 0) < 0 || status != 0) return ECHILD;
    }
    return 0;
}

static int wakes(long n) {
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) != 0 || pipe(back) != 0) return errno;
    pid_t pid = fork();
    if (pid < 0) return errno;
    if (pid == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1) if (write(back[1], &byte, 1) != 1) break;
        _exit(0);
    }
    close(there[0]);
    int e = 0;
    while (n-- > 0 && e == 0)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) e = errno;
    close(there[1]);
    close(back[0]);
    close(back[1]);
    waitpid(pid, NULL, 0);
    return e;
}

/* Where the answer is a reset, so that no connection waits for its end. */
static int connects(const char *address, int port, long n) {
    const struct linger reset = {.l_onoff = 1};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    while (n-- > 0) {
        int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to) != 0) return errno;
        setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(s);
    }
    return 0;
}

static int receive(const char *address, int port, long long bytes) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to) != 0) return errno;
    while (bytes > 0) {
        ssize_t n = read(s, block, sizeof block);
        if (n < 0) return errno;
        if (n == 0) return EPIPE;
        bytes -= n;
    }
    close(s);
    return 0;
}

static int protects(long n) {
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int e = page == MAP_FAILED ? errno : 0;
    while (e == 0 && n-- > 0)
        if (mprotect(page, 4096, n & 1 ? PROT_READ | PROT_WRITE : PROT_READ)) e = errno;
    if (page != MAP_FAILED) munmap(page, 4096);
    return e;
}

static int serve(long long bytes) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || bind(s, (struct sockaddr *)&at, sizeof at) || listen(s, 8) ||
        getsockname(s, (struct sockaddr *)&at, &size)) return 1;
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;) {
        int c = accept(s, NULL, NULL);
        if (c < 0) return 1;
        if (fork() == 0) {
            long long left = bytes;
            while (left > 0) {
                size_t want = left < (long long)sizeof block ? (size_t)left : sizeof block;
                ssize_t n = send(c, block, want, MSG_NOSIGNAL);
                if (n <= 0) _exit(1);
                left -= n;
            }
            _exit(0);
        }
        close(c);
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "serve") == 0) return serve(atoll(argv[2]));
    char *line = NULL, word[4096], host[64];
    size_t room = 0;
    long n;
    long long bytes;
    int port;
    while (getline(&line, &room, stdin) > 0) {
        int e = 0;
        long long start = now(), moment = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "open %4095s %ld", word, &n) == 2) e = opens(word, n, O_RDONLY);
        else if (sscanf(line, "write %4095s %ld", word, &n) == 2) e = opens(word, n, O_WRONLY);
        else if (sscanf(line, "stat %4095s %ld", word, &n) == 2) e = stats(word, n);
        else if (sscanf(line, "walk %4095s %ld", word, &n) == 2) e = all_below(word, n, WALK);
        else if (sscanf(line, "walkstat %4095s %ld", word, &n) == 2) e = all_below(word, n, STAT);
        else if (sscanf(line, "walkread %4095s %ld", word, &n) == 2) e = all_below(word, n, READ);
        else if (sscanf(line, "rewrite %4095s %ld", word, &n) == 2) e = all_below(word, n, REWRITE);
        else if (sscanf(line, "spawn %ld", &n) == 1) e = spawns(n);
        else if (sscanf(line, "rename %4095s %ld", word, &n) == 2) e = renames(word, n);
        else if (sscanf(line, "connect %63s %d %ld", host, &port, &n) == 3)
            e = connects(host, port, n);
        else if (sscanf(line, "protect %ld", &n) == 1) e = protects(n);
        else if (sscanf(line, "wake %ld", &n) == 1) e = wakes(n);
        else if (sscanf(line, "recv %63s %d %lld", host, &port, &bytes) == 3)
            e = receive(host, port, bytes);
        else if (sscanf(line, "until %4095s %d", word, &port) == 2)
            e = until(word, port, &moment);
        else if (strncmp(line, "sh ", 3) == 0) e = system(line + 3) == 0 ? 0 : ECANCELED;
        else if (strcmp(line, "ready") == 0) start = now();
        else e = EINVAL;
        if (e) printf("error %d\n", e);
        else printf("%lld\n", moment ? moment : now() - start);
        fflush(stdout);
    }
    return 0;
}
