//! Calls that change names: rename, link, unlink, symlink, mkdir, rmdir, mknod.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use agentwall_action::{Action, ObjectKind, Verb};
use agentwall_engine::Held;
use rustix::fs::{
    AtFlags, FileType, Mode, RenameFlags, linkat, mkdirat, mknodat, renameat_with, symlinkat,
    unlinkat,
};

use super::{Broker, Way, kind_of, name_binding};
use crate::{
    notify::Call,
    resolve::{Name, NamespaceIds, Object},
};

pub(super) fn handle(broker: &Arc<Broker>, call: Call) {
    let a = call.data.args;
    let cwd = libc::AT_FDCWD;
    match i64::from(call.data.nr) {
        libc::SYS_rename => rename(broker, call, (cwd, a[0]), (cwd, a[1]), 0),
        libc::SYS_renameat => {
            rename(broker, call, (a[0] as i32, a[1]), (a[2] as i32, a[3]), 0);
        }
        libc::SYS_renameat2 => {
            rename(
                broker,
                call,
                (a[0] as i32, a[1]),
                (a[2] as i32, a[3]),
                a[4] as u32,
            );
        }
        libc::SYS_link => link(broker, call, (cwd, a[0]), (cwd, a[1]), 0),
        libc::SYS_linkat => {
            link(
                broker,
                call,
                (a[0] as i32, a[1]),
                (a[2] as i32, a[3]),
                a[4] as i32,
            );
        }
        libc::SYS_unlink => unlink(broker, call, cwd, a[0], false),
        libc::SYS_rmdir => unlink(broker, call, cwd, a[0], true),
        libc::SYS_unlinkat => {
            unlink(
                broker,
                call,
                a[0] as i32,
                a[1],
                a[2] as i32 & libc::AT_REMOVEDIR != 0,
            );
        }
        libc::SYS_symlink => symlink(broker, call, a[0], cwd, a[1]),
        libc::SYS_symlinkat => symlink(broker, call, a[0], a[1] as i32, a[2]),
        libc::SYS_mkdir => make(
            broker,
            call,
            cwd,
            a[0],
            libc::S_IFDIR | a[1] as u32 & 0o7777,
        ),
        libc::SYS_mkdirat => {
            make(
                broker,
                call,
                a[0] as i32,
                a[1],
                libc::S_IFDIR | a[2] as u32 & 0o7777,
            );
        }
        libc::SYS_mknod => make(broker, call, cwd, a[0], a[1] as u32),
        libc::SYS_mknodat => make(broker, call, a[0] as i32, a[1], a[2] as u32),
        // Routed here by the filter but unknown: never silently permitted.
        _ => broker.listener.fail(&call, libc::ENOSYS),
    }
}

fn name(broker: &Broker, call: &Call, dirfd: i32, address: u64) -> Option<Name> {
    let path = broker.string(call, address)?;
    match broker.resolver.name(call.pid, dirfd, &path) {
        Ok(name) => Some(name),
        Err(e) => {
            // mkdir("/") and friends: the name exists.
            let nr = i64::from(call.data.nr);
            let makes = matches!(
                nr,
                libc::SYS_mkdir
                    | libc::SYS_mkdirat
                    | libc::SYS_symlink
                    | libc::SYS_symlinkat
                    | libc::SYS_mknod
                    | libc::SYS_mknodat
                    | libc::SYS_link
                    | libc::SYS_linkat
            );
            match e.raw_os_error() {
                Some(libc::EBUSY | libc::EINVAL | libc::ENOTEMPTY) if makes => {
                    broker.listener.fail(call, libc::EEXIST);
                }
                // Only what removes says which of these it was (rename(2), ERRORS).
                Some(libc::EINVAL | libc::ENOTEMPTY) if is_rename(nr) => {
                    broker.listener.fail(call, libc::EBUSY);
                }
                _ => broker.unresolved(call, &e),
            }
            None
        }
    }
}

fn is_rename(nr: i64) -> bool {
    matches!(
        nr,
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2
    )
}

/// The directory of a name, writable.
fn writable_parent(broker: &Broker, name: &Name) -> io::Result<OwnedFd> {
    if broker.way(&name.path()) == Way::Broker {
        broker.writable_object(&name.parent)
    } else {
        name.parent.fd.try_clone()
    }
}

/// What taking a name away or putting one over it does to the thing that has it.
fn existing_kind(name: &Name) -> ObjectKind {
    name.object.as_ref().map_or(ObjectKind::File, kind_of)
}

fn rename(broker: &Arc<Broker>, call: Call, from: (i32, u64), to: (i32, u64), flags: u32) {
    let Some(from) = name(broker, &call, from.0, from.1) else {
        return;
    };
    let Some(to) = name(broker, &call, to.0, to.1) else {
        return;
    };
    let Some(object) = &from.object else {
        return broker.listener.fail(&call, libc::ENOENT);
    };
    let (from_path, to_path) = (from.path(), to.path());
    let kind = kind_of(object);
    let mut actions = vec![
        broker.path_action(Verb::FileRename, &from_path, kind),
        broker.path_action(Verb::FileCreate, &to_path, kind),
    ];
    actions.extend(alias_actions(broker, &from_path, kind));
    if to.object.is_some() {
        actions.push(broker.path_action(Verb::FileWrite, &to_path, existing_kind(&to)));
    }
    if flags & libc::RENAME_EXCHANGE != 0 {
        actions.push(broker.path_action(Verb::FileRename, &to_path, existing_kind(&to)));
        actions.extend(alias_actions(broker, &to_path, existing_kind(&to)));
        actions.push(broker.path_action(Verb::FileCreate, &from_path, kind));
    }
    // Moving a directory moves what is in it out of the reach of rules that name it.
    let held = broker.engine.hold();
    if holds_unreadable(broker, &held, object) {
        return broker.listener.fail(&call, libc::EXDEV);
    }
    let decided = broker.decide_by(&held, actions);
    drop(held);
    let in_kernel = broker.way(&from_path) == Way::Kernel && broker.way(&to_path) == Way::Kernel;
    let binding = name_binding(&from);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        // By another policy perhaps, if a person was asked in between.
        if let Some(object) = &from.object
            && holds_unreadable(broker, &broker.engine.hold(), object)
        {
            return broker.listener.fail(call, libc::EXDEV);
        }
        let outcome = (|| {
            let source = writable_parent(broker, &from)?;
            let target = writable_parent(broker, &to)?;
            renameat_with(
                &source,
                &from.name,
                &target,
                &to.name,
                RenameFlags::from_bits_retain(flags),
            )?;
            Ok(0)
        })();
        broker.listener.finish(call, outcome);
    });
}

/// A second or new name for an object must not open a way around the rules about its old name:
/// who may not read it under that name may not have it under another.
fn alias_actions(broker: &Broker, path: &Path, kind: ObjectKind) -> Vec<Action> {
    if kind == ObjectKind::Directory {
        return Vec::new();
    }
    vec![broker.path_action(Verb::FileRead, path, kind)]
}

/// Whether this is a directory and some rule could deny reading something below it.
fn holds_unreadable(broker: &Broker, held: &Held<'_>, dir: &Object) -> bool {
    if !dir.is_dir() || !broker.view.trap_reads {
        return false;
    }
    let region = held.policy().region(
        broker.engine.subject(),
        Verb::FileRead,
        &dir.path,
        &[],
        &broker.engine.facts_now(),
    );
    !(region.uniform && region.effects.iter().all(|e| e.proceeds()))
}

fn link(broker: &Arc<Broker>, call: Call, from: (i32, u64), to: (i32, u64), flags: i32) {
    let Some(path) = broker.string(&call, from.1) else {
        return;
    };
    let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
    let source = if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        broker
            .resolver
            .base(call.pid, from.0)
            .and_then(|fd| broker.resolver.adopt(fd))
    } else {
        broker.resolver.existing(call.pid, from.0, &path, follow)
    };
    let source = match source {
        Ok(source) => source,
        Err(e) => return broker.unresolved(&call, &e),
    };
    let Some(to) = name(broker, &call, to.0, to.1) else {
        return;
    };
    if to.object.is_some() {
        return broker.listener.fail(&call, libc::EEXIST);
    }
    // Only now, as the kernel: the new name is looked up before the old object is judged.
    if source.is_dir() {
        return broker.listener.fail(&call, libc::EPERM);
    }
    let to_path = to.path();
    let mut actions = vec![broker.path_action(Verb::FileCreate, &to_path, ObjectKind::File)];
    // A file without a name yet (O_TMPFILE) has no rules of its own.
    if source.stat.st_nlink > 0 {
        actions.extend(alias_actions(broker, &source.path, ObjectKind::File));
        actions.push(broker.path_action(Verb::FileWrite, &source.path, ObjectKind::File));
    }
    let decided = broker.decide(actions);
    let in_kernel = broker.way(&to_path) == Way::Kernel && broker.way(&source.path) == Way::Kernel;
    let binding = name_binding(&to);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        let outcome = (|| {
            use std::os::fd::AsRawFd;
            let target = writable_parent(broker, &to)?;
            // A nameless file is already in the writable view: the broker opened it there.
            let source = if source.stat.st_nlink == 0 {
                source.fd.try_clone()?
            } else {
                broker.writable_object(&source)?
            };
            linkat(
                &broker.resolver.self_fd,
                source.as_raw_fd().to_string(),
                &target,
                &to.name,
                AtFlags::SYMLINK_FOLLOW,
            )?;
            Ok(0)
        })();
        broker.listener.finish(call, outcome);
    });
}

fn unlink(broker: &Arc<Broker>, call: Call, dirfd: i32, address: u64, directory: bool) {
    let Some(name) = name(broker, &call, dirfd, address) else {
        return;
    };
    let Some(object) = &name.object else {
        return broker.listener.fail(&call, libc::ENOENT);
    };
    let path = name.path();
    let decided = broker.decide(vec![broker.path_action(
        Verb::FileDelete,
        &path,
        kind_of(object),
    )]);
    let in_kernel = broker.way(&path) == Way::Kernel;
    let binding = name_binding(&name);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let outcome = writable_parent(broker, &name)
            .and_then(|parent| Ok(unlinkat(&parent, &name.name, flags).map(|()| 0)?));
        broker.listener.finish(call, outcome);
    });
}

fn symlink(broker: &Arc<Broker>, call: Call, target: u64, dirfd: i32, address: u64) {
    let Some(target) = broker.string(&call, target) else {
        return;
    };
    let Some(name) = name(broker, &call, dirfd, address) else {
        return;
    };
    if name.object.is_some() {
        return broker.listener.fail(&call, libc::EEXIST);
    }
    let path = name.path();
    let decided = broker.decide(vec![broker.path_action(
        Verb::FileCreate,
        &path,
        ObjectKind::File,
    )]);
    let in_kernel = broker.way(&path) == Way::Kernel;
    let binding = name_binding(&name);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        let outcome = writable_parent(broker, &name)
            .and_then(|parent| Ok(symlinkat(&target[..], &parent, &name.name).map(|()| 0)?));
        broker.listener.finish(call, outcome);
    });
}

fn make(broker: &Arc<Broker>, call: Call, dirfd: i32, address: u64, mode: u32) {
    let file_type = match mode & libc::S_IFMT {
        0 => FileType::RegularFile,
        other => FileType::from_raw_mode(other),
    };
    if matches!(file_type, FileType::BlockDevice | FileType::CharacterDevice) {
        return broker.listener.fail(&call, libc::EPERM);
    }
    let Some(name) = name(broker, &call, dirfd, address) else {
        return;
    };
    if name.object.is_some() {
        return broker.listener.fail(&call, libc::EEXIST);
    }
    let kind = if file_type == FileType::Directory {
        ObjectKind::Directory
    } else {
        ObjectKind::File
    };
    let path = name.path();
    let decided = broker.decide(vec![broker.path_action(Verb::FileCreate, &path, kind)]);
    let in_kernel = broker.way(&path) == Way::Kernel;
    let binding = name_binding(&name);
    broker.conclude(call, decided, binding, move |broker, call| {
        if in_kernel {
            return broker.listener.proceed(call);
        }
        let outcome = (|| {
            let parent = writable_parent(broker, &name)?;
            let umask = NamespaceIds::of(broker.resolver.host_proc.as_fd(), call.pid)?.umask;
            let mode = Mode::from_raw_mode(mode & 0o7777 & !umask);
            if file_type == FileType::Directory {
                mkdirat(&parent, &name.name, mode)?;
            } else {
                mknodat(&parent, &name.name, file_type, mode, 0)?;
            }
            Ok(0)
        })();
        broker.listener.finish(call, outcome);
    });
}
