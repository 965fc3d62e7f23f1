//! Files that a process names, opened as that process would: inside its root.
//!
//! `/proc/PID/root` leads to what the process takes for `/`, also in a container. Paths are opened
//! below it (`RESOLVE_IN_ROOT`: links and `..` cannot lead out), never through magic links, and only
//! regular files are read.

use std::{
    fs::File,
    io::Read as _,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};

use crate::{
    proc::parse,
    process::{Ecosystem, Package, Process, absolute, python_module},
};

/// Longest `package.json` that is read, in bytes.
const MAX_PACKAGE: u64 = 1 << 20;
/// How much of a script is read, in bytes.
const MAX_SCRIPT: u64 = 4096;
/// Most links that are followed from a script's name.
const MAX_LINKS: usize = 8;
/// Most folders above a script in which a `package.json` is looked for.
const MAX_FOLDERS: usize = 16;

/// Finds the script and the packages of an interpreter.
pub(super) fn look(process: &mut Process, folder: &Path) {
    let Some(given) = process.invocation().script else {
        return;
    };
    let Some(mut script) = absolute(given, process.cwd.as_deref()) else {
        return;
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = openat(CWD, folder.join("root"), flags, Mode::empty()) else {
        return;
    };
    // A name in a folder of programs is a link to the script proper.
    for _ in 0..MAX_LINKS {
        let Some(next) = link(&root, &script) else {
            break;
        };
        let folder = script
            .rsplitn(2, |b| *b == b'/')
            .nth(1)
            .unwrap_or_default()
            .to_vec();
        let folder = if folder.is_empty() {
            b"/".to_vec()
        } else {
            folder
        };
        let Some(next) = absolute(&next, Some(&folder)) else {
            break;
        };
        script = next;
    }
    process.script = Some(script.clone());
    let known = process.packages();
    if process.is_javascript() && !known.iter().any(|p| p.ecosystem == Ecosystem::Npm) {
        process.packages.extend(npm(&root, &script));
    }
    if process.is_python() && !script.ends_with(b".py") {
        let module = read(&root, &script, MAX_SCRIPT, false);
        let module = module
            .as_deref()
            .and_then(parse::entry_module)
            .and_then(python_module);
        process.packages.extend(module);
    }
}

/// The first `package.json` above a script that has a name.
fn npm(root: &OwnedFd, script: &[u8]) -> Option<Package> {
    let mut folder = script;
    for _ in 0..MAX_FOLDERS {
        let at = folder.iter().rposition(|b| *b == b'/')?;
        folder = &folder[..at];
        let file = [folder, b"/package.json"].concat();
        let name = read(root, &file, MAX_PACKAGE, true).and_then(|t| parse::package_name(&t));
        if let Some(name) = name {
            return Some(Package {
                ecosystem: Ecosystem::Npm,
                name,
            });
        }
    }
    None
}

/// Where a link leads; `None` if it is none.
fn link(root: &OwnedFd, path: &[u8]) -> Option<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let at = openat2(root, path, flags, Mode::empty(), resolve).ok()?;
    let to = readlinkat(&at, "", Vec::new()).ok()?.into_bytes();
    (!to.is_empty()).then_some(to)
}

/// The begin of a regular file; nothing if it is longer and `whole` is wanted.
fn read(root: &OwnedFd, path: &[u8], most: u64, whole: bool) -> Option<Vec<u8>> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |flags| openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).ok();
    // Looked at before it is opened: opening a device or a FIFO has effects.
    let regular = |file: &File| {
        let meta = file.metadata().ok()?;
        (meta.is_file() && (!whole || meta.len() <= most)).then(|| (meta.dev(), meta.ino()))
    };
    let looked = regular(&File::from(open(OFlags::PATH)?))?;
    let file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
    if regular(&file)? != looked {
        return None;
    }
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text).ok()?;
    Some(text)
}
