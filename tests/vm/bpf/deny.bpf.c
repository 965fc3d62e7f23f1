// The smallest program that can show that LSM programs decide in this kernel: a folder of one name cannot be
// made, by anybody. Types are declared here as far as they are used; the loader relocates the fields by the
// kernel's own BTF (CO-RE), so no header of the running kernel is needed.

#define SEC(name) __attribute__((section(name), used))
#define EPERM 1

struct qstr {
    const unsigned char *name;
} __attribute__((preserve_access_index));

struct dentry {
    struct qstr d_name;
} __attribute__((preserve_access_index));

// Helper 115 of the kernel's list (include/uapi/linux/bpf.h): bpf_probe_read_kernel_str.
static long (*read_text)(void *to, unsigned int size, const void *from) = (void *)115;

static const char DENIED[] = "agentwall-denied";

// int inode_mkdir(struct inode *dir, struct dentry *dentry, umode_t mode): the arguments, then what the
// program before this one answered.
SEC("lsm/inode_mkdir")
int deny_mkdir(unsigned long long *arguments)
{
    const struct dentry *dentry = (const struct dentry *)arguments[1];
    int before = (int)arguments[3];
    char name[sizeof(DENIED) + 1] = {};

    if (before)
        return before;
    if (read_text(name, sizeof(name), dentry->d_name.name) != sizeof(DENIED))
        return 0;
    for (unsigned int i = 0; i < sizeof(DENIED); i++)
        if (name[i] != DENIED[i])
            return 0;
    return -EPERM;
}

// The kernel lends LSM programs to GPL-compatible ones only.
char LICENSE[] SEC("license") = "GPL";
