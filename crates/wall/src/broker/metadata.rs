//! Calls that change metadata or length: chmod, chown, truncate, extended attributes, times.
//!
//! By path they are decided on the resolved object. By descriptor they reach the broker only when
//! some tree is brokered: the agent's descriptors there come from a read-only mount.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use agentwall_action::Verb;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use super::{Broker, PATH_LIMIT, Way, binding_of, kind_of};
use crate::{notify::Call, resolve::Object, sys};

/// `XATTR_SIZE_MAX`.
const XATTR_LIMIT: usize = 65_536;
const SYS_FCHMODAT2: i64 = 452;

/// What to do to the object, read whole before deciding.
#[derive(Debug)]
enum Change {
    Mode(u32),
    Owner(u32, u32),
    Length(u64),
    SetAttribute(CString, Vec<u8>, u32),
    RemoveAttribute(CString),
    Times(Timestamps),
}

impl Change {
    fn verb(&self) -> Verb {
        match self {
            Change::Length(_) => Verb::FileWrite,
            _ => Verb::FileChmod,
        }
    }
}

pub(super) fn by_path(broker: &Arc<Broker>, call: Call) {
    let a = call.data.args;
    let cwd = libc::AT_FDCWD;
    let no_follow = |flags: u64| flags as i32 & libc::AT_SYMLINK_NOFOLLOW == 0;
    let nr = i64::from(call.data.nr);
    let (dirfd, address, follow, empty_ok) = match nr {
        libc::SYS_fchmodat => (a[0] as i32, a[1], true, false),
        SYS_FCHMODAT2 => (
            a[0] as i32,
            a[1],
            no_follow(a[3]),
            a[3] as i32 & libc::AT_EMPTY_PATH != 0,
        ),
        libc::SYS_fchownat => (
            a[0] as i32,
            a[1],
            no_follow(a[4]),
            a[4] as i32 & libc::AT_EMPTY_PATH != 0,
        ),
        libc::SYS_utimensat => (
            a[0] as i32,
            a[1],
            no_follow(a[3]),
            a[3] as i32 & libc::AT_EMPTY_PATH != 0,
        ),
        libc::SYS_futimesat => (a[0] as i32, a[1], true, false),
        libc::SYS_lchown | libc::SYS_lsetxattr | libc::SYS_lremovexattr => {
            (cwd, a[0], false, false)
        }
        _ => (cwd, a[0], true, false),
    };
    let change = match change(&call, nr) {
        Ok(change) => change,
        Err(e) => return broker.unresolved(&call, &e),
    };
    let object = if address == 0 {
        // utimensat with a null path: the descriptor itself.
        broker
            .resolver
            .base(call.pid, dirfd)
            .and_then(|fd| broker.resolver.adopt(fd))
    } else {
        let Some(path) = broker.string(&call, address) else {
            return;
        };
        if path.is_empty() && empty_ok {
            broker
                .resolver
                .base(call.pid, dirfd)
                .and_then(|fd| broker.resolver.adopt(fd))
        } else {
            broker.resolver.existing(call.pid, dirfd, &path, follow)
        }
    };
    match object {
        Ok(object) => decide(broker, call, object, change),
        Err(e) => broker.unresolved(&call, &e),
    }
}

pub(super) fn by_descriptor(broker: &Arc<Broker>, call: Call) {
    let change = match change(&call, i64::from(call.data.nr)) {
        Ok(change) => change,
        Err(e) => return broker.unresolved(&call, &e),
    };
    let object = broker
        .resolver
        .base(call.pid, call.data.args[0] as i32)
        .and_then(|fd| broker.resolver.adopt(fd));
    match object {
        Ok(object) => decide(broker, call, object, change),
        Err(e) => broker.unresolved(&call, &e),
    }
}

fn decide(broker: &Arc<Broker>, call: Call, object: Object, change: Change) {
    // Sockets, pipes and other objects without a place in the file tree.
    if !object.path.is_absolute() {
        return broker.listener.proceed(&call);
    }
    let action = broker.path_action(change.verb(), &object.path, kind_of(&object));
    let decided = broker.decide(vec![action]);
    let in_kernel = broker.way(&object.path) == Way::Kernel;
    let binding = binding_of(&object.stat);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        // A nameless file in the writable view is reached through its descriptor only.
        let outcome = if object.stat.st_nlink == 0 {
            object.fd.try_clone()
        } else {
            broker.writable_object(&object)
        }
        .and_then(|fd| apply(broker, &fd, &object, &change))
        .map(|()| 0);
        broker.listener.finish(call, outcome);
    });
}

fn apply(broker: &Broker, fd: &OwnedFd, object: &Object, change: &Change) -> io::Result<()> {
    let through = fd.as_raw_fd().to_string();
    let self_fd = &broker.resolver.self_fd;
    let is_link = object.file_type() == FileType::Symlink;
    match change {
        Change::Mode(_) if is_link => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        Change::Mode(mode) => Ok(rustix::fs::chmodat(
            self_fd,
            through,
            Mode::from_raw_mode(*mode),
            AtFlags::empty(),
        )?),
        Change::Owner(uid, gid) => {
            let uid = (*uid != u32::MAX).then(|| Uid::from_raw(*uid));
            let gid = (*gid != u32::MAX).then(|| Gid::from_raw(*gid));
            Ok(rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)?)
        }
        Change::Length(length) => {
            let file = rustix::fs::openat(
                self_fd,
                through,
                OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            Ok(rustix::fs::ftruncate(&file, *length)?)
        }
        Change::Times(times) if is_link => {
            Ok(rustix::fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH)?)
        }
        Change::Times(times) => Ok(rustix::fs::utimensat(
            self_fd,
            through,
            times,
            AtFlags::empty(),
        )?),
        Change::SetAttribute(..) | Change::RemoveAttribute(_) if is_link => {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        }
        Change::SetAttribute(name, value, flags) => {
            let file = attribute_target(broker, fd)?;
            Ok(rustix::fs::fsetxattr(
                &file,
                name,
                value,
                XattrFlags::from_bits_retain(*flags),
            )?)
        }
        Change::RemoveAttribute(name) => {
            let file = attribute_target(broker, fd)?;
            Ok(rustix::fs::fremovexattr(&file, name)?)
        }
    }
}

/// Attributes need an ordinary descriptor; reading rights suffice for the owner.
fn attribute_target(broker: &Broker, fd: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    broker.reopen(fd.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)
}

fn change(call: &Call, nr: i64) -> io::Result<Change> {
    let a = call.data.args;
    let pid = call.pid;
    let attribute = |address: u64| -> io::Result<CString> {
        let name = sys::read_string(pid, address, PATH_LIMIT)?;
        CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
    };
    let value = |address: u64, length: u64| -> io::Result<Vec<u8>> {
        let length = length as usize;
        if length > XATTR_LIMIT {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let mut value = vec![0; length];
        if length > 0 && sys::read_memory(pid, address, &mut value)? != length {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        Ok(value)
    };
    let change = match nr {
        libc::SYS_chmod | libc::SYS_fchmod => Change::Mode(a[1] as u32 & 0o7777),
        libc::SYS_fchmodat | SYS_FCHMODAT2 => Change::Mode(a[2] as u32 & 0o7777),
        libc::SYS_chown | libc::SYS_lchown | libc::SYS_fchown => {
            Change::Owner(a[1] as u32, a[2] as u32)
        }
        libc::SYS_fchownat => Change::Owner(a[2] as u32, a[3] as u32),
        libc::SYS_truncate => {
            if (a[1] as i64) < 0 {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            Change::Length(a[1])
        }
        libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr => {
            Change::SetAttribute(attribute(a[1])?, value(a[2], a[3])?, a[4] as u32)
        }
        libc::SYS_removexattr | libc::SYS_lremovexattr | libc::SYS_fremovexattr => {
            Change::RemoveAttribute(attribute(a[1])?)
        }
        libc::SYS_utimensat => Change::Times(read_times(pid, a[2], Unit::Nanoseconds)?),
        libc::SYS_utimes => Change::Times(read_times(pid, a[1], Unit::Microseconds)?),
        libc::SYS_futimesat => Change::Times(read_times(pid, a[2], Unit::Microseconds)?),
        libc::SYS_utime => Change::Times(read_times(pid, a[1], Unit::Seconds)?),
        _ => return Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    };
    Ok(change)
}

enum Unit {
    Seconds,
    Microseconds,
    Nanoseconds,
}

/// Access and modification time from the caller's memory; a null pointer means now.
fn read_times(pid: u32, address: u64, unit: Unit) -> io::Result<Timestamps> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: libc::UTIME_NOW,
    };
    if address == 0 {
        return Ok(Timestamps {
            last_access: now,
            last_modification: now,
        });
    }
    let words = if matches!(unit, Unit::Seconds) { 2 } else { 4 };
    let mut bytes = [0u8; 32];
    if sys::read_memory(pid, address, &mut bytes[..words * 8])? != words * 8 {
        return Err(io::Error::from_raw_os_error(libc::EFAULT));
    }
    let word = |i: usize| {
        let mut w = [0; 8];
        w.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
        i64::from_ne_bytes(w)
    };
    let time = |sec: i64, sub: i64| Timespec {
        tv_sec: sec,
        tv_nsec: sub,
    };
    Ok(match unit {
        Unit::Seconds => Timestamps {
            last_access: time(word(0), 0),
            last_modification: time(word(1), 0),
        },
        Unit::Microseconds => {
            if !(0..1_000_000).contains(&word(1)) || !(0..1_000_000).contains(&word(3)) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            Timestamps {
                last_access: time(word(0), word(1) * 1000),
                last_modification: time(word(2), word(3) * 1000),
            }
        }
        Unit::Nanoseconds => Timestamps {
            last_access: time(word(0), word(1)),
            last_modification: time(word(2), word(3)),
        },
    })
}
