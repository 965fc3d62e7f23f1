//! open, openat, creat and memfd_create.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use agentwall_action::{Action, ObjectKind, Verb};
use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, openat};

use super::{Broker, Way, binding_of, kind_of, name_binding, wall_made};
use crate::{
    notify::Call,
    resolve::{Name, NamespaceIds, Object, is_plain},
    sys,
};

const MFD_CLOEXEC: u32 = 1;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;

/// The call's arguments in one shape.
#[derive(Debug, Clone, Copy)]
struct Request {
    flags: OFlags,
    mode: u32,
}

impl Request {
    fn has(self, flag: OFlags) -> bool {
        self.flags.contains(flag)
    }

    fn creates(self) -> bool {
        self.has(OFlags::CREATE) && !self.has(OFlags::TMPFILE)
    }

    /// What opening an existing object this way does to it.
    fn verbs(self) -> Vec<Verb> {
        let mode = self.flags.bits() & libc::O_ACCMODE as u32;
        let mut verbs = Vec::with_capacity(2);
        if mode == libc::O_RDONLY as u32 || mode == libc::O_RDWR as u32 {
            verbs.push(Verb::FileRead);
        }
        if mode != libc::O_RDONLY as u32 || self.has(OFlags::TRUNC) {
            verbs.push(Verb::FileWrite);
        }
        verbs
    }
}

pub(super) fn handle(broker: &Arc<Broker>, call: Call) {
    let args = call.data.args;
    let (dirfd, address, flags, mode) = match i64::from(call.data.nr) {
        libc::SYS_open => (libc::AT_FDCWD, args[0], args[1] as u32, args[2] as u32),
        libc::SYS_creat => (
            libc::AT_FDCWD,
            args[0],
            (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32,
            args[1] as u32,
        ),
        _ => (args[0] as i32, args[1], args[2] as u32, args[3] as u32),
    };
    let request = Request {
        flags: OFlags::from_bits_retain(flags),
        mode: mode & 0o7777,
    };
    let Some(path) = broker.text(&call, address) else {
        return;
    };
    let (path, held) = match plain(broker, &call, request, path) {
        Ok(()) => return,
        Err(not_plain) => not_plain,
    };
    let follow = !(request.has(OFlags::NOFOLLOW) || request.creates() && request.has(OFlags::EXCL));
    if request.creates() {
        let name = if follow {
            broker.resolver.name_to_create(call.pid, dirfd, &path)
        } else {
            broker.resolver.name(call.pid, dirfd, &path)
        };
        match name {
            Ok(name) if name.object.is_none() => return create(broker, call, request, name),
            Ok(name) => {
                if request.has(OFlags::EXCL) {
                    return broker.listener.fail(&call, libc::EEXIST);
                }
                if let Some(object) = name.object {
                    return open_object(broker, call, request, object, held);
                }
            }
            // "/", "." and ".." exist: they are opened below.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EBUSY | libc::EINVAL | libc::ENOTEMPTY)
                ) => {}
            Err(e) => return broker.unresolved(&call, &e),
        }
    }
    match broker.resolver.existing(call.pid, dirfd, &path, follow) {
        Ok(object) if request.has(OFlags::TMPFILE) => temporary(broker, call, request, object),
        Ok(object) => open_object(broker, call, request, object, held),
        Err(e) => broker.unresolved(&call, &e),
    }
}

/// The common case in few steps: a regular file by its own name. The name is decided on first;
/// opened without following any link, it is the object that was decided. Everything else (another
/// kind of object, an event to tell, an error) gives the path back, and what was opened of it: one
/// end of a FIFO must not be closed before the caller has its own.
fn plain(
    broker: &Arc<Broker>,
    call: &Call,
    request: Request,
    text: Vec<u8>,
) -> Result<(), (Vec<u8>, Option<OwnedFd>)> {
    const ELSEWHERE: OFlags = OFlags::CREATE
        .union(OFlags::TRUNC)
        .union(OFlags::PATH)
        .union(OFlags::DIRECTORY)
        .union(OFlags::TMPFILE);
    let path = Path::new(OsStr::from_bytes(&text));
    let ours = broker.view.trap_reads && is_plain(&text) && !wall_made(path);
    if !ours || request.flags.intersects(ELSEWHERE) {
        return Err((text, None));
    }
    let verbs = request.verbs();
    let held = broker.engine.hold();
    for verb in &verbs {
        let action = broker.path_action(*verb, path, ObjectKind::File);
        let decision = held.decide(&action);
        if !decision.effect.proceeds() || !decision.is_silent() {
            return Err((text, None));
        }
    }
    let writes = verbs.contains(&Verb::FileWrite);
    let Ok(opened) = open_plain(broker, path, request.flags, writes) else {
        return Err((text, None));
    };
    let regular = fstat(&opened)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let status = request.flags.difference(OFlags::NONBLOCK);
    if !regular || !request.has(OFlags::NONBLOCK) && fcntl_setfl(&opened, status).is_err() {
        return Err((text, Some(opened)));
    }
    broker
        .listener
        .install(call, opened.as_fd(), request.has(OFlags::CLOEXEC));
    // Several aspects of one operation count as the first.
    broker.engine.count_plain(verbs[0]);
    Ok(())
}

/// Opens a name in the agent's view, or for writing in the broker's writable one. They are the same
/// tree as long as no other node lies between the view's root and the name.
fn open_plain(broker: &Broker, path: &Path, flags: OFlags, writes: bool) -> io::Result<OwnedFd> {
    if !writes {
        return sys::open_plain(broker.resolver.root.as_fd(), &sys::c_path(path)?, flags);
    }
    match (broker.view.node(path), broker.writable(path)) {
        (Some(node), Some((view, inside)))
            if node.placement.brokered
                && node.path == view.root
                && !inside.as_os_str().is_empty() =>
        {
            sys::open_plain(view.mount.as_fd(), &sys::c_path(inside)?, flags)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn open_object(
    broker: &Arc<Broker>,
    call: Call,
    request: Request,
    object: Object,
    held: Option<OwnedFd>,
) {
    let kind = kind_of(&object);
    let file_type = object.file_type();
    if file_type == FileType::Symlink {
        return broker.listener.fail(&call, libc::ELOOP);
    }
    if request.has(OFlags::DIRECTORY) && !object.is_dir() {
        return broker.listener.fail(&call, libc::ENOTDIR);
    }
    let verbs = request.verbs();
    if object.is_dir() && (verbs.contains(&Verb::FileWrite) || request.creates()) {
        return broker.listener.fail(&call, libc::EISDIR);
    }
    let writes = verbs.contains(&Verb::FileWrite);
    let actions: Vec<Action> = verbs
        .iter()
        .map(|verb| broker.path_action(*verb, &object.path, kind))
        .collect();
    let decided = broker.decide(actions);
    let in_kernel = !broker.view.trap_reads && broker.way(&object.path) == Way::Kernel;
    let binding = binding_of(&object.stat);
    // Opening one end of a FIFO waits for the other.
    let may_block = file_type == FileType::Fifo && !request.has(OFlags::NONBLOCK) && !in_kernel;
    let act = move |broker: &Arc<Broker>, call: &Call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        if (writes || may_block) && !broker.listener.is_valid(call) {
            return;
        }
        match open_on_behalf(broker, call, request, &object, writes) {
            Ok(fd) => broker
                .listener
                .install(call, fd.as_fd(), request.has(OFlags::CLOEXEC)),
            Err(e) => broker.unresolved(call, &e),
        }
        drop(held);
    };
    if may_block {
        broker.later(move |broker| broker.conclude(call, decided, binding, act));
    } else {
        broker.conclude(call, decided, binding, act);
    }
}

fn open_on_behalf(
    broker: &Broker,
    call: &Call,
    request: Request,
    object: &Object,
    writes: bool,
) -> io::Result<OwnedFd> {
    let flags = request.flags.difference(OFlags::CREATE | OFlags::EXCL);
    if object.path.as_os_str() == "/dev/tty" {
        return controlling_terminal(broker, call, flags);
    }
    if writes && broker.way(&object.path) == Way::Broker {
        let writable = broker.writable_object(object)?;
        return broker.reopen(writable.as_fd(), flags);
    }
    broker.reopen(object.fd.as_fd(), flags)
}

/// `/dev/tty` means the caller's terminal, not the broker's: field 7 of `/proc/TID/stat`.
fn controlling_terminal(broker: &Broker, call: &Call, flags: OFlags) -> io::Result<OwnedFd> {
    let none = || io::Error::from_raw_os_error(libc::ENXIO);
    let file = openat(
        &broker.resolver.host_proc,
        format!("{}/stat", call.pid),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut buf = [0u8; 1024];
    let n = rustix::io::read(&file, &mut buf)?;
    let text = String::from_utf8_lossy(&buf[..n]);
    // The command may contain anything but is closed by the last parenthesis.
    let after = text.rsplit_once(')').ok_or_else(none)?.1;
    let device: u64 = after
        .split_ascii_whitespace()
        .nth(4)
        .and_then(|v| v.parse().ok())
        .ok_or_else(none)?;
    let (major, minor) = (libc::major(device), libc::minor(device));
    const UNIX98_PTY_SLAVE: u32 = 136;
    if major != UNIX98_PTY_SLAVE {
        return Err(none());
    }
    Ok(openat(
        &broker.resolver.root,
        format!("dev/pts/{minor}"),
        flags | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn create(broker: &Arc<Broker>, call: Call, request: Request, name: Name) {
    if name.must_be_dir {
        return broker.listener.fail(&call, libc::EISDIR);
    }
    let path = name.path();
    let decided = broker.decide(vec![broker.path_action(
        Verb::FileCreate,
        &path,
        ObjectKind::File,
    )]);
    let in_kernel = !broker.view.trap_reads && broker.way(&path) == Way::Kernel;
    let binding = name_binding(&name);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        if !broker.listener.is_valid(call) {
            return;
        }
        let created = (|| {
            let parent = if broker.way(&path) == Way::Broker {
                broker.writable_object(&name.parent)?
            } else {
                name.parent.fd.try_clone()?
            };
            let umask = NamespaceIds::of(broker.resolver.host_proc.as_fd(), call.pid)?.umask;
            Ok(openat(
                &parent,
                &name.name,
                request.flags | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(request.mode & !umask),
            )?)
        })();
        match created {
            Ok(fd) => broker
                .listener
                .install(call, fd.as_fd(), request.has(OFlags::CLOEXEC)),
            Err(e) => broker.unresolved(call, &e),
        }
    });
}

/// `O_TMPFILE`: a file without a name in a directory; naming it later is a link.
fn temporary(broker: &Arc<Broker>, call: Call, request: Request, dir: Object) {
    if !dir.is_dir() {
        return broker.listener.fail(&call, libc::ENOTDIR);
    }
    let path = dir.path.join("#tmpfile");
    let decided = broker.decide(vec![broker.path_action(
        Verb::FileCreate,
        &path,
        ObjectKind::File,
    )]);
    let in_kernel = !broker.view.trap_reads && broker.way(&path) == Way::Kernel;
    let binding = binding_of(&dir.stat);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        if !broker.listener.is_valid(call) {
            return;
        }
        let made = (|| {
            let parent = if broker.way(&path) == Way::Broker && !wall_made(&path) {
                broker.writable_object(&dir)?
            } else {
                dir.fd.try_clone()?
            };
            let umask = NamespaceIds::of(broker.resolver.host_proc.as_fd(), call.pid)?.umask;
            Ok(openat(
                &parent,
                ".",
                request.flags | OFlags::CLOEXEC,
                Mode::from_raw_mode(request.mode & !umask),
            )?)
        })();
        match made {
            Ok(fd) => broker
                .listener
                .install(call, fd.as_fd(), request.has(OFlags::CLOEXEC)),
            Err(e) => broker.unresolved(call, &e),
        }
    });
}

/// memfd_create(2) on behalf of the caller, without execute permission: code in memory files is
/// not a program anybody decided on. Kernels before 6.3 know no such seal; there the mode is taken
/// away, which the owner could undo (see THREAT_MODEL).
pub(super) fn memory_file(broker: &Broker, call: &Call) {
    let flags = call.data.args[1] as u32;
    if flags & MFD_EXEC != 0 {
        return broker.listener.fail(call, libc::EACCES);
    }
    let Some(name) = broker.string(call, call.data.args[0]) else {
        return;
    };
    let Ok(name) = std::ffi::CString::new(name) else {
        return broker.listener.fail(call, libc::EINVAL);
    };
    match sys::memfd(&name, flags | MFD_CLOEXEC | MFD_NOEXEC_SEAL) {
        Ok(fd) => broker
            .listener
            .install(call, fd.as_fd(), flags & MFD_CLOEXEC != 0),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            let made = sys::memfd(&name, flags | MFD_CLOEXEC).and_then(|fd| {
                let mode = fstat(&fd)?.st_mode & 0o666;
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
                Ok(fd)
            });
            match made {
                Ok(fd) => broker
                    .listener
                    .install(call, fd.as_fd(), flags & MFD_CLOEXEC != 0),
                Err(e) => broker.unresolved(call, &e),
            }
        }
        Err(e) => broker.unresolved(call, &e),
    }
}
