// race ROUTE GOOD BAD SECONDS [SCRATCH]: swaps what a name means while a system call looks at it.
#include "kit.h"
#include <linux/openat2.h>
#include <pthread.h>

static char name[4096], link_name[4200], other_name[4200];
static const char *good, *bad, *route;
static volatile int stop;

static void *swap_pointer(void *x) {
    while (!stop) {
        strcpy(name, bad);
        BARRIER;
        strcpy(name, good);
        BARRIER;
    }
    return x;
}
static void *swap_link(void *x) {
    while (!stop) syscall(SYS_renameat2, AT_FDCWD, link_name, AT_FDCWD, other_name, 2 /* EXCHANGE */);
    return x;
}
int main(int c, char **v) {
    if (c < 5) return 2;
    route = v[1], good = v[2], bad = v[3];
    const char *scratch = c > 5 ? v[5] : "/tmp";
    int links = strstr(route, "link") != 0, writing = strstr(route, "write") != 0;
    pthread_t t[2];
    snprintf(link_name, sizeof link_name, "%s/race-a", scratch);
    snprintf(other_name, sizeof other_name, "%s/race-b", scratch);
    unlink(link_name), unlink(other_name);
    if (links && (symlink(good, link_name) || symlink(bad, other_name))) return refused("symlink");
    strcpy(name, good);
    for (int i = 0; i < 2; i++) pthread_create(&t[i], 0, links ? swap_link : swap_pointer, 0);
    time_t end = time(0) + atoi(v[4]);
    long tries = 0, opened = 0, shown = 0;
    char last[256] = "";
    while (time(0) < end) {
        struct open_how how = {.flags = (uint64_t)(writing ? O_WRONLY : O_RDONLY)};
        const char *p = links ? link_name : name;
        int fd = strstr(route, "openat2") ? (int)syscall(SYS_openat2, AT_FDCWD, p, &how, sizeof how)
                                          : open(p, writing ? O_WRONLY : O_RDONLY);
        tries++;
        if (fd < 0) continue;
        opened++;
        if (writing) { if (write(fd, "EVIL", 4) < 0) {} }
        else {
            char buf[256] = "";
            ssize_t n = read(fd, buf, sizeof buf - 1);
            if (n > 0 && strcmp(buf, last)) { // every different content once
                if (shown++ < 50) printf("read: %s\n", buf);
                strcpy(last, buf);
            }
        }
        close(fd);
    }
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
    printf("raced %ld times, %ld opened\n", tries, opened);
    return opened > 0 ? done("race") : 1;
}
