// priv ROUTE: privileged requests, with arguments that are refused only *after* the permission
// check. "EFFECT" means that the permission check was passed; nothing is ever changed.
#include "kit.h"
#include <grp.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <linux/reboot.h>
#include <sys/io.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <sys/timex.h>

// The call passed the permission check when it failed for one of the harmless reasons.
static int passed(long ret, const char *r) {
    if (ret >= 0 || (errno != EPERM && errno != ENOSYS && errno != EACCES)) return effect(r);
    return refused(r);
}
// Opens for writing and writes back what is there.
static int rewrite(const char *path, const char *r) {
    char now[4096];
    int in = open(path, O_RDONLY);
    ssize_t n = in < 0 ? -1 : read(in, now, sizeof now);
    int out = open(path, O_WRONLY);
    if (out < 0) return refused(r);
    if (n > 0 && write(out, now, (size_t)n) != n) return refused(r);
    return effect(path);
}
int main(int c, char **v) {
    if (c < 2) return 2;
    const char *r = v[1];
    if (is(r, "core-pattern")) return rewrite("/proc/sys/kernel/core_pattern", r);
    if (is(r, "sysctl")) return rewrite("/proc/sys/kernel/printk", r);
    if (is(r, "uevent-helper")) return rewrite("/sys/kernel/uevent_helper", r) & rewrite("/sys/kernel/mm/transparent_hugepage/enabled", r);
    if (is(r, "open-write")) {
        int fd = open(v[2], O_WRONLY);
        return fd < 0 ? refused(r) : effect(v[2]);
    }
    if (is(r, "open-read")) {
        char b;
        int fd = open(v[2], O_RDONLY);
        return fd < 0 || read(fd, &b, 1) < 0 ? refused(r) : effect(v[2]);
    }
    if (is(r, "module")) return passed(syscall(SYS_init_module, "junk", 4UL, ""), r);
    if (is(r, "module-fd")) return passed(syscall(SYS_finit_module, open("/usr/bin/true", O_RDONLY), "", 0), r);
    if (is(r, "module-del")) return passed(syscall(SYS_delete_module, "no_such_module_agentwall", O_NONBLOCK), r);
    if (is(r, "bpf-map")) {
        union bpf_attr a = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
        return passed(syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a), r);
    }
    if (is(r, "bpf-prog")) {
        struct bpf_insn code[] = {{0xb7, 0, 0, 0, 0}, {0x95, 0, 0, 0, 0}};
        union bpf_attr a = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)code, .insn_cnt = 2, .license = (uintptr_t)"GPL"};
        return passed(syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof a), r);
    }
    if (is(r, "perf")) {
        struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_CPU_CLOCK};
        return passed(syscall(SYS_perf_event_open, &a, -1, 0, -1, 0), r);
    }
    if (is(r, "userfaultfd")) { // kernel faults too: what exploits use
        return passed(syscall(SYS_userfaultfd, 0), r);
    }
    if (is(r, "kexec")) return passed(syscall(SYS_kexec_load, 0, 0, 0, ~0UL), r);
    if (is(r, "kexec-file")) return passed(syscall(SYS_kexec_file_load, -1, -1, 0, 0, ~0UL), r);
    if (is(r, "reboot")) return passed(syscall(SYS_reboot, 1, 2, 3, 0), r); // wrong magic: EINVAL after the check
    if (is(r, "swapon")) return passed(swapon("/no/such/agentwall", 0), r);
    if (is(r, "swapoff")) return passed(swapoff("/no/such/agentwall"), r);
    if (is(r, "clock")) {
        struct timex t = {.modes = ADJ_TICK, .tick = 1};
        return passed(adjtimex(&t), r);
    }
    if (is(r, "ioperm")) return passed(ioperm(0x80, 1, 1), r);
    if (is(r, "iopl")) return passed(iopl(3), r);
    if (is(r, "acct")) return passed(acct("/no/such/agentwall"), r);
    if (is(r, "syslog")) return passed(syscall(SYS_syslog, 3, malloc(64), 64), r);
    if (is(r, "quota")) return passed(syscall(SYS_quotactl, 0x80000200 /* Q_QUOTAON */, "/no/such", 0, "x"), r);
    if (is(r, "hostname")) return passed(sethostname("agentwall-evil", 14), r);
    if (is(r, "setns")) {
        for (int pid = 1; pid < 3; pid++) {
            char p[64];
            snprintf(p, sizeof p, "/proc/%d/ns/mnt", pid);
            struct stat a, b;
            int fd = open(p, O_RDONLY);
            if (fd < 0 || fstat(fd, &a) || stat("/proc/self/ns/mnt", &b) || a.st_ino == b.st_ino) continue;
            if (setns(fd, CLONE_NEWNS) == 0) return effect(r);
        }
        errno = EPERM;
        return refused(r);
    }
    if (is(r, "disk")) { // a node for the root disk, made where SCRATCH is: reads its ext4 magic number
        struct stat st;
        char node[4096];
        unsigned char magic[2];
        if (c < 4 || stat(v[2], &st)) return refused("stat");
        snprintf(node, sizeof node, "%s/disk", v[3]);
        if (mknod(node, S_IFBLK | 0600, (dev_t)strtoul(v[4], 0, 10))) return refused("mknod");
        int fd = open(node, O_RDONLY);
        if (fd < 0 || pread(fd, magic, 2, 1024 + 56) != 2) return refused("open");
        return effect("read the raw disk");
    }
    if (is(r, "setuid")) { // becomes another user
        if (setgroups(0, 0) == 0 && setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0)
            return effect(r);
        return refused(r);
    }
    if (is(r, "caps")) { // any capability left, in any set?
        char line[256];
        FILE *f = fopen("/proc/self/status", "r");
        unsigned long set;
        while (f && fgets(line, sizeof line, f))
            if ((sscanf(line, "CapEff: %lx", &set) == 1 || sscanf(line, "CapBnd: %lx", &set) == 1) && set)
                effect(line);
        return done(r);
    }
    if (is(r, "nnp")) { // a set-user-ID program gains nothing
        return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? done(r) : effect("new privileges possible");
    }
    if (is(r, "binfmt")) {
        int fd = open("/proc/sys/fs/binfmt_misc/register", O_WRONLY);
        if (fd < 0) return refused(r);
        return effect("binfmt_misc can be written");
    }
    return 2;
}
