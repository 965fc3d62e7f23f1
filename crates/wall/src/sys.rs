//! Thin, safe wrappers over the system calls that no crate offers in the form the wall needs.
//!
//! Everything unsafe that is not the notification protocol (`notify`) or process creation
//! (`launch`) lives here, so that the rest of the crate reads as ordinary Rust. Each wrapper takes
//! and returns owned or borrowed descriptors and reports the kernel's errno as [`io::Error`].

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::fs::OFlags;

/// `EINVAL` for a path with a NUL byte, which the kernel could never see.
pub fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `struct open_how` of openat2(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct OpenHow {
    /// `O_*` flags.
    pub flags: u64,
    /// Mode of a created file.
    pub mode: u64,
    /// `RESOLVE_*` flags.
    pub resolve: u64,
}

pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;

/// openat2(2).
pub fn openat2(dir: BorrowedFd<'_>, path: &CStr, how: OpenHow) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated and `how` lives across the call; the size is its own.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    })
}

/// Opens an object under its own name and does not wait, whatever it is. An error if any part of
/// the name is a link.
pub fn open_plain(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat2(
        dir,
        path,
        OpenHow {
            flags: u64::from(flags.bits()),
            mode: 0,
            resolve: RESOLVE_NO_SYMLINKS,
        },
    )
}

/// A path descriptor for `path` below `dir`, following no symlink at all.
pub fn open_path_exact(dir: BorrowedFd<'_>, path: &CStr, extra: i32) -> io::Result<OwnedFd> {
    openat2(
        dir,
        path,
        OpenHow {
            flags: (libc::O_PATH | libc::O_CLOEXEC | extra) as u64,
            mode: 0,
            resolve: RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH,
        },
    )
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct MountAttr {
    pub attr_set: u64,
    pub attr_clr: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// mount_setattr(2) on the mount behind `fd`.
pub fn mount_setattr(fd: BorrowedFd<'_>, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: set,
        attr_clr: clear,
        ..MountAttr::default()
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty NUL-terminated path with AT_EMPTY_PATH, and a struct of the stated size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Leaves the mount out of every recursive copy of a tree that it is attached in
/// (Documentation/filesystems/sharedsubtree.rst, "unbindable mount").
pub fn make_unbindable(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        propagation: libc::MS_UNBINDABLE,
        ..MountAttr::default()
    };
    // SAFETY: an empty NUL-terminated path with AT_EMPTY_PATH, and a struct of the stated size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// open_tree(2): a detached copy of the mount at `fd`.
pub fn clone_tree(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: i32 = 1;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: plain integers and an empty NUL-terminated path.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) })
}

/// move_mount(2): attaches the detached mount `from` on the object behind `to`.
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    const F_EMPTY: u32 = 0x04;
    const T_EMPTY: u32 = 0x40;
    // SAFETY: plain integers and empty NUL-terminated paths.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            F_EMPTY | T_EMPTY,
        )
    })
    .map(drop)
}

/// A new, detached mount of a file system type with the given string options (`None` = a flag).
/// The error names the option that was refused.
pub fn new_mount(
    kind: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    const FSCONFIG_SET_FLAG: u32 = 0;
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    // SAFETY: NUL-terminated file system name, flag FSOPEN_CLOEXEC.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })?;
    for (key, value) in options {
        let (command, value) = match value {
            Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
            None => (FSCONFIG_SET_FLAG, std::ptr::null()),
        };
        // SAFETY: key and value are NUL-terminated and live across the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                key.as_ptr(),
                value,
                0,
            )
        })
        .map_err(|e| io::Error::new(e.kind(), format!("option {}: {e}", key.to_string_lossy())))?;
    }
    // SAFETY: no pointers are passed for the create command.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_char>(),
            0,
        )
    })?;
    // SAFETY: plain integers; FSMOUNT_CLOEXEC.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, attributes) })
}

/// Makes `root` the root of every process in this mount namespace that used the old one, and
/// detaches the old tree (pivot_root(2), the `pivot_root(".", ".")` form of its manual page).
pub fn pivot_into(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // SAFETY: two NUL-terminated paths.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: a NUL-terminated path; "." is now the old root, stacked on the new one.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Makes every mount of this namespace private to it.
pub fn make_mounts_private() -> io::Result<()> {
    // SAFETY: NUL-terminated paths; no data.
    check(
        unsafe {
            libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
        }
        .into(),
    )
    .map(drop)
}

/// pidfd_open(2).
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// `PIDFD_THREAD` (Linux 6.9): a pidfd for one thread, whose descriptor table may be its own.
pub fn pidfd_open_thread(tid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; PIDFD_THREAD is O_EXCL.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, tid, libc::O_EXCL) })
}

/// pidfd_getfd(2): a duplicate of another process's descriptor.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

/// Reads up to `buf.len()` bytes of another process's memory; a short count means that the range
/// runs into an unmapped page.
pub fn read_memory(pid: u32, address: u64, buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: buf.len(),
    };
    // SAFETY: `local` describes exactly `buf`; `remote` is an address in another process, checked
    // by the kernel.
    let read = unsafe {
        libc::process_vm_readv(
            pid as libc::pid_t,
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        )
    };
    check(read as libc::c_long).map(|n| n as usize)
}

/// A NUL-terminated string in another process, without the NUL. Reads page by page so that a
/// string at the end of a mapping is read whole. `ENAMETOOLONG` past `limit`, as the kernel says.
pub fn read_string(pid: u32, address: u64, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = address;
    let mut chunk = [0u8; 256];
    loop {
        // Never cross a page in one read: the next one may be unmapped.
        let to_page = 4096 - (at as usize & 4095);
        let want = to_page.min(chunk.len());
        let got = read_memory(pid, at, &mut chunk[..want])?;
        if got == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        let end = chunk[..got].iter().position(|b| *b == 0);
        out.extend_from_slice(&chunk[..end.unwrap_or(got)]);
        if out.len() >= limit {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        if end.is_some() {
            return Ok(out);
        }
        at += got as u64;
    }
}

/// memfd_create(2) with flags that libraries do not name yet.
pub fn memfd(name: &CStr, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: a NUL-terminated name.
    owned(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) })
}

/// connect(2) with an address as raw bytes.
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`; the kernel validates its content.
    check(
        unsafe {
            libc::connect(
                socket.as_raw_fd(),
                address.as_ptr().cast(),
                address.len() as u32,
            )
        }
        .into(),
    )
    .map(drop)
}

/// bind(2) with an address as raw bytes.
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `address`; the kernel validates its content.
    check(
        unsafe {
            libc::bind(
                socket.as_raw_fd(),
                address.as_ptr().cast(),
                address.len() as u32,
            )
        }
        .into(),
    )
    .map(drop)
}

/// A `struct sockaddr_un` for a path.
pub fn unix_address(path: &[u8]) -> Vec<u8> {
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(path);
    address.push(0);
    address
}

/// Gives the calling thread a working directory of its own.
pub fn unshare_working_directory() -> io::Result<()> {
    // SAFETY: integers only; CLONE_FS affects this thread alone.
    check(unsafe { libc::unshare(libc::CLONE_FS) }.into()).map(drop)
}

/// Begins to trace thread `tid` up to the end of its execve(2).
pub fn trace_exec(tid: u32) -> io::Result<()> {
    let tid = tid as libc::pid_t;
    // SAFETY: PTRACE_SEIZE takes its options as the data word and no address.
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            tid,
            std::ptr::null_mut::<libc::c_void>(),
            libc::PTRACE_O_TRACEEXEC as usize as *mut libc::c_void,
        )
    })?;
    // Makes the thread report when it next returns to user mode, whether the call worked or not,
    // so that the wait below always ends.
    // SAFETY: no address, no data.
    let asked = check(unsafe {
        libc::ptrace(
            libc::PTRACE_INTERRUPT,
            tid,
            std::ptr::null_mut::<libc::c_void>(),
            std::ptr::null_mut::<libc::c_void>(),
        )
    });
    if asked.is_err() {
        // It ended between the two calls, as this thread's tracee.
        let _ = await_tracee();
    }
    asked.map(drop)
}

/// How a traced execve(2) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecOutcome {
    /// The new image runs.
    Started,
    /// The call failed; the old image runs on.
    Failed,
    /// The new image was not the decided one and was killed before its first instruction.
    Killed,
    /// The process ended meanwhile.
    Gone,
}

/// Waits for the end of an execve(2) begun under [`trace_exec`] on the same thread; `check` looks
/// at the new image while it stands still. When this returns, the thread has no tracee any more:
/// one that ends traced is a zombie that its parent hears of only after its tracer took notice
/// (ptrace(2), "Death under ptrace"), and one left over would be taken for the next.
pub fn await_exec(check: impl FnOnce(u32) -> bool) -> ExecOutcome {
    let mut check = Some(check);
    let mut outcome = ExecOutcome::Failed;
    while let Some((pid, status)) = await_tracee() {
        if !libc::WIFSTOPPED(status) {
            return match outcome {
                ExecOutcome::Killed => ExecOutcome::Killed,
                _ => ExecOutcome::Gone,
            };
        }
        let event = status >> 16;
        if event == libc::PTRACE_EVENT_EXEC
            && let Some(check) = check.take()
        {
            if check(pid as u32) {
                outcome = ExecOutcome::Started;
            } else {
                outcome = ExecOutcome::Killed;
                // SAFETY: kill(2) takes integers; a tracee's id is its own until it is waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                continue;
            }
        }
        // A stop for a signal hands the signal on; an event has none to hand on.
        let signal = if event == 0 {
            libc::WSTOPSIG(status)
        } else {
            0
        };
        // SAFETY: detaching takes the signal as the data word.
        let detached = unsafe {
            libc::ptrace(
                libc::PTRACE_DETACH,
                pid,
                std::ptr::null_mut::<libc::c_void>(),
                signal as usize as *mut libc::c_void,
            )
        };
        if detached == 0 {
            return outcome;
        }
        // It was killed where it stood, and is waited for again.
    }
    ExecOutcome::Gone
}

/// The next report of this thread's tracee, none when it has no tracee. execve(2) by a thread that
/// does not lead its group changes its id, so waiting for a number would miss it.
fn await_tracee() -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the wait status.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if pid >= 0 {
            return Some((pid, status));
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

/// prctl(2) with one argument.
pub fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // SAFETY: the options used by this crate take integers only.
    check(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into()).map(drop)
}

/// Drops every capability, the ambient and the bounding set, of the calling thread, so that no
/// later execve(2), even by user id 0, regains one.
pub fn drop_capabilities() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: integers only; EINVAL marks the end of the known capabilities.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result != 0 {
            break;
        }
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64)?;
    let header = CapHeader::this_thread();
    let data = [0u32; 6];
    // SAFETY: capset(2) version 3 takes a header and two records of three 32-bit sets.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Empties the effective set of the calling thread; the permitted set stays, for what is asked
/// for explicitly.
pub fn suspend_capabilities() -> io::Result<()> {
    let (header, mut data) = (CapHeader::this_thread(), [0u32; 6]);
    // SAFETY: capget(2) version 3 fills two records of three 32-bit sets.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    // Each record is effective, permitted, inheritable.
    (data[0], data[3]) = (0, 0);
    // SAFETY: as above, read only.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// `struct __user_cap_header_struct`, version 3.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

impl CapHeader {
    fn this_thread() -> CapHeader {
        CapHeader {
            version: 0x2008_0522,
            pid: 0,
        }
    }
}

/// The number of the terminal behind a pseudo-terminal's controlling end (`TIOCGPTN`).
pub fn terminal_number(controller: BorrowedFd<'_>) -> io::Result<u32> {
    let mut number = 0u32;
    // SAFETY: TIOCGPTN writes one unsigned int.
    check(unsafe { libc::ioctl(controller.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }.into())?;
    Ok(number)
}

/// The version of the kernel's Landlock interface.
pub fn landlock_abi() -> Option<i32> {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no attributes and returns the version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0,
            CREATE_RULESET_VERSION,
        )
    };
    (version > 0).then_some(version as i32)
}

/// close_range(2) from `first` on.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: integers only. Callers hold no Rust-owned descriptor at or above `first`.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Sends bytes and descriptors over a Unix socket.
pub fn send_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = vec![std::mem::MaybeUninit::uninit(); 64 + 8 * fds.len().max(1) + 64];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[io::IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one message with its descriptors, all close-on-exec.
pub fn recv_fds(socket: impl AsFd, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); 512];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket,
        &mut [io::IoSliceMut::new(buf)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            fds.extend(received);
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_of_this_process_reads_back() {
        let text = CString::new(vec![b'x'; 5000]).unwrap();
        let pid = std::process::id();
        let read = read_string(pid, text.as_ptr() as u64, 8192).unwrap();
        assert_eq!(read, text.as_bytes());
        let long = read_string(pid, text.as_ptr() as u64, 4096).unwrap_err();
        assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
        // The limit counts the NUL, wherever the pieces that are read end.
        for length in [4090, 4095, 4096, 4097, 4200] {
            let text = CString::new(vec![b'x'; length]).unwrap();
            let read = read_string(pid, text.as_ptr() as u64, 4096).ok();
            assert_eq!(read.is_some(), length < 4096, "{length}");
        }
        assert_eq!(
            read_string(pid, 8, 64).unwrap_err().raw_os_error(),
            Some(libc::EFAULT)
        );
    }

    #[test]
    fn descriptors_travel_over_a_socket() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        send_fds(&a, b"x", &[file.as_fd(), a.as_fd()]).unwrap();
        let mut buf = [0; 4];
        let (n, fds) = recv_fds(&b, &mut buf).unwrap();
        assert_eq!((n, fds.len()), (1, 2));
    }
}
