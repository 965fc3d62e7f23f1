//! The system-call filter: which calls the kernel decides alone, which it refuses, and which it
//! hands to the broker.
//!
//! The filter is classic BPF over `struct seccomp_data` (seccomp(2)). It sees registers, never
//! memory, so it only routes. Three rules keep it sound:
//! * anything that is not the native x86-64 entry (32-bit `int 0x80`, the x32 bit) is refused;
//! * a system call newer than [`NEWEST`] is `ENOSYS`: callers fall back to one we know;
//! * calls whose arguments are structures behind a pointer and that have a plain fallback
//!   (`openat2`, `io_uring_setup`) are `ENOSYS` whenever a plain one would be trapped.
//!
//! seccompiler and libseccomp were looked at: the first has no user-notification action, the
//! second is a C library; the subset of BPF needed here is four instructions.

use std::io;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the system-call filter is written for x86-64; port seccomp.rs first");

/// The newest system call this filter was written against (Linux 6.18: `file_setattr` = 469).
pub const NEWEST: u32 = 469;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const X32_BIT: u32 = 0x4000_0000;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel goes on.
    Allow,
    /// The call fails with this errno.
    Errno(i32),
    /// The broker decides.
    Notify,
}

/// A test on the low 32 bits of one argument.
#[derive(Debug, Clone, Copy)]
enum Test {
    /// `arg & mask != 0`
    AnyBit(u8, u32),
    /// `arg & mask == value`
    Masked(u8, u32, u32),
    /// Two [`Test::Masked`] at once.
    Both((u8, u32, u32), (u8, u32, u32)),
    /// All 64 bits of the argument are zero.
    Zero(u8),
}

/// Per system call: tests in order, each with the verdict when it holds, then the verdict else.
#[derive(Debug, Clone)]
struct Route {
    call: libc::c_long,
    tests: Vec<(Test, Verdict)>,
    otherwise: Verdict,
}

/// What the policy needs trapped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traps {
    /// Some rule about reading needs a look at each open for reading.
    pub reads: bool,
    /// Some writable place is written only through the broker, so operations on descriptors that
    /// change metadata, and binding of socket files, have to be done there too.
    pub brokered: bool,
    /// Tracing inside the agent's own process tree is denied.
    pub no_trace: bool,
}

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filter {
    code: Vec<libc::sock_filter>,
}

// Numbers that the libc crate does not name on every version.
const SYS_FCHMODAT2: libc::c_long = 452;
const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_REMOVEXATTRAT: libc::c_long = 466;
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
const SYS_FILE_SETATTR: libc::c_long = 469;
const MSG_FASTOPEN: u32 = 0x2000_0000;

impl Filter {
    /// The filter for a set of traps.
    pub fn new(traps: Traps) -> Filter {
        compile(&routes(traps))
    }

    /// Installs the filter on the calling thread and returns the listener. `no_new_privs` must be
    /// set. With `wait_killable`, a call the broker has received is interrupted by fatal signals
    /// only (Linux 5.19), so that nothing done on behalf of the agent is done twice.
    pub fn install(&self) -> io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::FromRawFd;
        const NEW_LISTENER: u64 = 1 << 3;
        const WAIT_KILLABLE_RECV: u64 = 1 << 5;
        let program = libc::sock_fprog {
            len: self.code.len() as u16,
            filter: self.code.as_ptr().cast_mut(),
        };
        // SAFETY: `program` points at `len` instructions that outlive the call; the kernel
        // verifies and copies them.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                NEW_LISTENER | WAIT_KILLABLE_RECV,
                &raw const program,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: seccomp(2) has just returned this new descriptor.
        Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) })
    }
}

fn routes(traps: Traps) -> Vec<Route> {
    use Verdict::{Errno, Notify};
    let mut routes = Vec::new();
    let mut add = |call, tests: &[(Test, Verdict)], otherwise| {
        routes.push(Route {
            call,
            tests: tests.to_vec(),
            otherwise,
        });
    };

    // --- opening -------------------------------------------------------------------------------
    let write_flags = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u32;
    let path_only = libc::O_PATH as u32;
    let reads = if traps.reads { Notify } else { Verdict::Allow };
    for (call, flags) in [(libc::SYS_openat, 2u8), (libc::SYS_open, 1)] {
        add(
            call,
            &[
                (Test::AnyBit(flags, path_only), Verdict::Allow),
                (Test::AnyBit(flags, write_flags), Notify),
            ],
            reads,
        );
    }
    add(libc::SYS_creat, &[], Notify);
    add(libc::SYS_openat2, &[], Errno(libc::ENOSYS));
    add(libc::SYS_open_by_handle_at, &[], Errno(libc::EPERM));

    // --- changing names and metadata by path -----------------------------------------------------
    for call in [
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_link,
        libc::SYS_linkat,
        libc::SYS_unlink,
        libc::SYS_unlinkat,
        libc::SYS_symlink,
        libc::SYS_symlinkat,
        libc::SYS_mkdir,
        libc::SYS_mkdirat,
        libc::SYS_rmdir,
        libc::SYS_mknod,
        libc::SYS_mknodat,
        libc::SYS_chmod,
        libc::SYS_fchmodat,
        SYS_FCHMODAT2,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_fchownat,
        libc::SYS_truncate,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_utime,
        libc::SYS_utimes,
    ] {
        add(call, &[], Notify);
    }
    // A null path means "the descriptor itself" here.
    let by_descriptor = if traps.brokered {
        Notify
    } else {
        Verdict::Allow
    };
    for call in [libc::SYS_utimensat, libc::SYS_futimesat] {
        add(call, &[(Test::Zero(1), by_descriptor)], Notify);
    }
    if traps.brokered {
        for call in [
            libc::SYS_fchmod,
            libc::SYS_fchown,
            libc::SYS_fsetxattr,
            libc::SYS_fremovexattr,
            libc::SYS_bind,
        ] {
            add(call, &[], Notify);
        }
    }
    for call in [SYS_SETXATTRAT, SYS_REMOVEXATTRAT, SYS_FILE_SETATTR] {
        add(call, &[], Errno(libc::ENOSYS));
    }

    // --- programs --------------------------------------------------------------------------------
    add(libc::SYS_execve, &[], Notify);
    add(libc::SYS_execveat, &[], Notify);
    add(libc::SYS_memfd_create, &[], Notify);
    add(libc::SYS_memfd_secret, &[], Errno(libc::ENOSYS));
    if traps.no_trace {
        for call in [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
        ] {
            add(call, &[], Errno(libc::EPERM));
        }
    }

    // --- network and local sockets -----------------------------------------------------------------
    add(libc::SYS_connect, &[], Notify);
    add(
        libc::SYS_sendto,
        &[(Test::AnyBit(3, MSG_FASTOPEN), Errno(libc::EOPNOTSUPP))],
        Verdict::Allow,
    );
    add(
        libc::SYS_sendmsg,
        &[(Test::AnyBit(2, MSG_FASTOPEN), Errno(libc::EOPNOTSUPP))],
        Verdict::Allow,
    );
    add(
        libc::SYS_sendmmsg,
        &[(Test::AnyBit(3, MSG_FASTOPEN), Errno(libc::EOPNOTSUPP))],
        Verdict::Allow,
    );
    // Datagram Unix sockets name a peer with each message, behind a pointer that nobody could
    // check without a race; also after socketpair(2). Stream and seqpacket sockets connect first.
    const SOCK_TYPE_MASK: u32 = 0xf;
    let unix_datagrams = (
        Test::Both(
            (0, u32::MAX, libc::AF_UNIX as u32),
            (1, SOCK_TYPE_MASK, libc::SOCK_DGRAM as u32),
        ),
        Errno(libc::EACCES),
    );
    add(libc::SYS_socketpair, &[unix_datagrams], Verdict::Allow);
    add(
        libc::SYS_socket,
        &[
            unix_datagrams,
            (
                Test::Masked(0, u32::MAX, libc::AF_INET as u32),
                Verdict::Allow,
            ),
            (
                Test::Masked(0, u32::MAX, libc::AF_INET6 as u32),
                Verdict::Allow,
            ),
            (
                Test::Masked(0, u32::MAX, libc::AF_UNIX as u32),
                Verdict::Allow,
            ),
            (
                Test::Masked(0, u32::MAX, libc::AF_NETLINK as u32),
                Verdict::Allow,
            ),
        ],
        Errno(libc::EAFNOSUPPORT),
    );

    // --- doors that stay shut ------------------------------------------------------------------------
    for call in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        SYS_OPEN_TREE_ATTR,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_fanotify_init,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_ioperm,
        libc::SYS_iopl,
        libc::SYS_syslog,
        libc::SYS_lookup_dcookie,
        libc::SYS_vhangup,
        libc::SYS_nfsservctl,
        libc::SYS_uselib,
    ] {
        add(call, &[], Errno(libc::EPERM));
    }
    for call in [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ] {
        add(call, &[], Errno(libc::ENOSYS));
    }
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP) as u32;
    add(
        libc::SYS_unshare,
        &[(Test::AnyBit(0, namespaces | 0x80), Errno(libc::EPERM))],
        Verdict::Allow,
    );
    add(
        libc::SYS_ioctl,
        &[
            (
                Test::Masked(1, u32::MAX, libc::TIOCSTI as u32),
                Errno(libc::EPERM),
            ),
            (
                Test::Masked(1, u32::MAX, libc::TIOCLINUX as u32),
                Errno(libc::EPERM),
            ),
            (
                Test::Masked(1, u32::MAX, libc::TIOCSETD as u32),
                Errno(libc::EPERM),
            ),
        ],
        Verdict::Allow,
    );
    routes
}

fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JSET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06;

const NR: u32 = 0;
const ARCH: u32 = 4;
const fn low(arg: u8) -> u32 {
    16 + 8 * arg as u32
}
const fn high(arg: u8) -> u32 {
    low(arg) + 4
}

fn ret(verdict: Verdict) -> libc::sock_filter {
    statement(
        RETURN,
        match verdict {
            Verdict::Allow => RET_ALLOW,
            Verdict::Errno(errno) => RET_ERRNO | errno as u32,
            Verdict::Notify => RET_USER_NOTIF,
        },
    )
}

/// One block for each routed call: compare, tests, verdict. The kernel keeps a bitmap of calls
/// that are allowed whatever their arguments, so an unrouted call never runs this program.
fn compile(routes: &[Route]) -> Filter {
    let mut code = vec![
        statement(LOAD, ARCH),
        jump(JEQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(Verdict::Errno(libc::ENOSYS)),
        statement(LOAD, NR),
        jump(JGE, X32_BIT, 0, 1),
        ret(Verdict::Errno(libc::ENOSYS)),
        jump(JGE, NEWEST + 1, 0, 1),
        ret(Verdict::Errno(libc::ENOSYS)),
    ];
    for route in routes {
        let mut block = Vec::new();
        for (test, verdict) in &route.tests {
            match *test {
                Test::AnyBit(arg, mask) => {
                    block.push(statement(LOAD, low(arg)));
                    block.push(jump(JSET, mask, 0, 1));
                    block.push(ret(*verdict));
                }
                Test::Masked(arg, mask, value) => {
                    block.push(statement(LOAD, low(arg)));
                    block.push(statement(AND, mask));
                    block.push(jump(JEQ, value, 0, 1));
                    block.push(ret(*verdict));
                }
                Test::Both(first, second) => {
                    block.push(statement(LOAD, low(first.0)));
                    block.push(statement(AND, first.1));
                    block.push(jump(JEQ, first.2, 0, 4));
                    block.push(statement(LOAD, low(second.0)));
                    block.push(statement(AND, second.1));
                    block.push(jump(JEQ, second.2, 0, 1));
                    block.push(ret(*verdict));
                }
                Test::Zero(arg) => {
                    block.push(statement(LOAD, low(arg)));
                    block.push(jump(JEQ, 0, 0, 3));
                    block.push(statement(LOAD, high(arg)));
                    block.push(jump(JEQ, 0, 0, 1));
                    block.push(ret(*verdict));
                }
            }
        }
        block.push(ret(route.otherwise));
        // A block is far shorter than the 255 instructions a jump can span. It always returns,
        // so the accumulator still holds the call's number where the next comparison begins.
        code.push(jump(JEQ, route.call as u32, 0, block.len() as u8));
        code.extend(block);
    }
    code.push(ret(Verdict::Allow));
    Filter { code }
}
