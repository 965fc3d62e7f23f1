//! Cloning originals: all that a merge could need while the session runs, and when it has ended those
//! that it changed, which alone can be merged.
//!
//! An original is opened beneath the root's descriptor, compared with the manifest, cloned, and compared
//! once more. Whatever is not as recorded is left out; it is no failure.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, fstat, fsync, ioctl_ficlone, openat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::{made, name_of, remove_folder};
use crate::copy::sync_folder;
use crate::dir::{EntryKind, Snapshot, Tree, join, list_all, open_in, split, stat_in};
use crate::layer::Layer;
use crate::manifest::{AtBase, Manifest};
use crate::scan::{open_root, open_upper};

/// Git's own folder, and what leads to one: git looks after that itself.
const GIT: &[u8] = b".git";
/// Set-user-id and set-group-id: such a file is never merged.
const SET_ID: u32 = 0o6000;
/// So many originals that cannot be cloned, before the first that can, are enough.
const REFUSALS: u64 = 64;
/// In so many directories a file is looked for to try it with.
const SEARCHED: usize = 64;
/// Up to so many clones are synced one by one, more by their file system.
const SINGLY: usize = 64;
/// How long an ended session is looked through.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much is kept of one tree while a session runs. When it has ended, what it changed is tried again,
/// within as much again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepLimits {
    /// Most originals; those that lie least deep come first.
    pub files: u64,
    /// Longest original, in bytes. A merge takes none that is longer.
    pub file: u64,
    /// Most bytes of all of them.
    pub bytes: u64,
    /// Longest time.
    pub time: Duration,
}

impl Default for KeepLimits {
    /// 10,000 files of 1 MiB, 1 GiB together, one minute.
    fn default() -> KeepLimits {
        KeepLimits {
            files: 10_000,
            file: 1 << 20,
            bytes: 1 << 30,
            time: Duration::from_secs(60),
        }
    }
}

impl KeepLimits {
    /// Whether a merge could use the content of an original. An empty one has none.
    pub(crate) fn wants(&self, seen: &Snapshot) -> bool {
        seen.kind == EntryKind::File
            && (1..=self.file).contains(&seen.size)
            && seen.mode & SET_ID == 0
            && seen.nlink == 1
    }
}

/// What is kept of one tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Clones that are there.
    pub files: u64,
    /// Everything was looked at: nothing was too much.
    pub whole: bool,
}

/// Why nothing is kept. A merge then has the base that git recorded, or none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotKept {
    /// Nobody wanted it.
    #[error("it was not asked for")]
    Unasked,
    /// The manifest says which version an original was.
    #[error("there is no base manifest")]
    NoManifest,
    /// `FICLONE` fails, or the session's folder is on another file system.
    #[error(
        "originals and the session's folder are not on one file system that shares blocks (reflink)"
    )]
    NoReflink,
    /// No original that a merge could use was as recorded.
    #[error("there was no original to keep")]
    Nothing,
    /// The session ended without changes.
    #[error("it was not needed any more")]
    Cancelled,
    /// A system call failed.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl From<Errno> for NotKept {
    fn from(e: Errno) -> NotKept {
        NotKept::Failed(e.into())
    }
}

/// Makes a clone: the new file, the original.
pub(crate) type Cloner<'a> = dyn Fn(&OwnedFd, &OwnedFd) -> Result<(), Errno> + Sync + 'a;

pub(crate) fn ficlone(to: &OwnedFd, from: &OwnedFd) -> Result<(), Errno> {
    ioctl_ficlone(to, from)
}

/// Whether originals can be cloned to where the layer is, by doing it once, to a file without a name. True,
/// too, when none was found to try it with.
pub(crate) fn can_clone(layer: &Layer) -> bool {
    let Some(from) = open_root(layer).ok().and_then(|root| any_file(&root)) else {
        return true;
    };
    let place = layer.upper.parent().unwrap_or(&layer.upper);
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let to = openat(CWD, place, flags, Mode::RUSR | Mode::WUSR);
    to.is_ok_and(|to| ficlone(&to, &from).is_ok())
}

/// A regular file with content near the root.
fn any_file(root: &Tree) -> Option<OwnedFd> {
    let mut queue = VecDeque::from([Vec::new()]);
    for _ in 0..SEARCHED {
        let rel = queue.pop_front()?;
        let Ok(dir) = root.dir(&rel) else { continue };
        for name in list_all(dir.as_fd()).unwrap_or_default() {
            match stat_in(&dir, &name) {
                Ok(Some(s)) if s.kind == EntryKind::Directory => queue.push_back(join(&rel, &name)),
                Ok(Some(s)) if s.kind == EntryKind::File && s.size > 0 => {
                    if let Ok(file) = open_in(&dir, &name, OFlags::RDONLY) {
                        return Some(file);
                    }
                }
                _ => {}
            }
        }
    }
    None
}

/// Shows the paths at which the session has a regular file, until `show` or the time ends it. Answers
/// whether all were shown.
fn each_copy(
    layer: &Layer,
    until: Option<Instant>,
    mut show: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<bool> {
    let upper = open_upper(layer).map_err(|e| io::Error::other(e.to_string()))?;
    let mut stack = vec![Vec::new()];
    while let Some(rel) = stack.pop() {
        // An agent can make a directory that nobody may read; no change is found there either.
        let listed = upper
            .dir(&rel)
            .and_then(|dir| Ok((list_all(dir.as_fd())?, dir)));
        let Ok((names, dir)) = listed else { continue };
        for name in names.iter().filter(|name| *name != GIT) {
            if until.is_some_and(|until| Instant::now() > until) {
                return Ok(false);
            }
            let path = join(&rel, name);
            let found = stat_in(&dir, name).ok().flatten();
            match found.map(|s| s.kind) {
                Some(EntryKind::Directory) => stack.push(path),
                Some(EntryKind::File) if show(&path).is_break() => return Ok(false),
                _ => {}
            }
        }
    }
    Ok(true)
}

/// Clones of one tree that are being made; without [`Keeping::finish`] they are none.
pub(crate) struct Keeping<'a> {
    layer: &'a Layer,
    limits: KeepLimits,
    clone: &'a Cloner<'a>,
    manifest: Arc<Manifest>,
    root: Tree,
    /// The folder that they are in until all is checked.
    folder: OwnedFd,
    /// The directory of the last original.
    dir: Option<(Vec<u8>, OwnedFd)>,
    /// How many are in the folder.
    present: u64,
    /// Those that were made now, and their bytes.
    names: HashSet<String>,
    bytes: u64,
    refused: u64,
    whole: bool,
    finished: bool,
}

impl<'a> Keeping<'a> {
    /// Begins, or goes on with what is kept.
    pub(crate) fn begin(
        layer: &'a Layer,
        limits: KeepLimits,
        clone: &'a Cloner<'a>,
    ) -> Result<Keeping<'a>, NotKept> {
        let manifest = Manifest::of(layer).map_err(|e| io::Error::other(e.to_string()))?;
        let manifest = manifest.map_err(|_| NotKept::NoManifest)?;
        let root = open_root(layer).map_err(|e| io::Error::other(e.to_string()))?;
        let (temporary, path) = (layer.originals_temporary(), layer.originals_path());
        remove_folder(&temporary)?;
        let folder = match std::fs::rename(&path, &temporary) {
            Ok(()) => Tree::open(&temporary, false)?.dir(b"")?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => made(&temporary)?,
            Err(e) => return Err(e.into()),
        };
        Ok(Keeping {
            present: list_all(folder.as_fd())?.len() as u64,
            layer,
            limits,
            clone,
            manifest: Arc::new(manifest),
            root,
            folder,
            dir: None,
            names: HashSet::new(),
            bytes: 0,
            refused: 0,
            whole: false,
            finished: false,
        })
    }

    /// All that a merge could use, until `stop`. Answers whether it came to its end or its limits.
    pub(crate) fn all(&mut self, stop: &AtomicBool) -> Result<bool, NotKept> {
        let until = Instant::now().checked_add(self.limits.time);
        let manifest = Arc::clone(&self.manifest);
        let (mut failed, mut stopped) = (None, false);
        self.whole = true;
        manifest.known_files(GIT, |rel, seen| {
            stopped = stop.load(Ordering::Relaxed);
            if stopped {
                return ControlFlow::Break(());
            }
            if !self.limits.wants(seen) {
                return ControlFlow::Continue(());
            }
            if self.is_full(seen) || until.is_some_and(|until| Instant::now() > until) {
                self.whole = false;
                return ControlFlow::Break(());
            }
            match self.one(rel, seen) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            }
        });
        match failed {
            Some(e) => Err(e),
            None => Ok(!stopped),
        }
    }

    /// The originals of what the ended session changed, as far as they still are as recorded, and no
    /// others any more: only these can be merged.
    pub(crate) fn changed(&mut self) -> Result<(), NotKept> {
        let until = Instant::now().checked_add(PATIENCE);
        let manifest = Arc::clone(&self.manifest);
        // As many again as before.
        self.limits.files = self.limits.files.saturating_add(self.names.len() as u64);
        self.limits.bytes = self.limits.bytes.saturating_add(self.bytes);
        let (mut failed, mut wanted) = (None, HashSet::new());
        self.whole = each_copy(self.layer, until, |rel| {
            let was = match manifest.at(rel) {
                AtBase::There(was) if was.known && self.limits.wants(&was.seen) => was.seen,
                _ => return ControlFlow::Continue(()),
            };
            wanted.insert(name_of(&was));
            if self.is_full(&was) {
                return ControlFlow::Break(());
            }
            match self.one(rel, &was) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        match self.whole {
            true => self.no_others(&wanted),
            false => Ok(()),
        }
    }

    fn no_others(&mut self, wanted: &HashSet<String>) -> Result<(), NotKept> {
        for name in list_all(self.folder.as_fd())? {
            if !std::str::from_utf8(&name).is_ok_and(|name| wanted.contains(name)) {
                unlinkat(&self.folder, name.as_slice(), AtFlags::empty())?;
                self.present = self.present.saturating_sub(1);
            }
        }
        self.names.retain(|name| wanted.contains(name));
        Ok(())
    }

    fn is_full(&self, next: &Snapshot) -> bool {
        self.names.len() as u64 >= self.limits.files
            || self.bytes.saturating_add(next.size) > self.limits.bytes
    }

    /// Clones one original, if it is what was seen before and after that.
    fn one(&mut self, rel: &[u8], seen: &Snapshot) -> Result<(), NotKept> {
        let is_seen = |fd: &OwnedFd| fstat(fd).is_ok_and(|st| Snapshot::new(&st) == *seen);
        let Ok(from) = self.open(rel) else {
            return Ok(());
        };
        if !is_seen(&from) {
            return Ok(());
        }
        let name = name_of(seen);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = match openat(&self.folder, &name, flags, Mode::RUSR) {
            // From an earlier pass.
            Err(Errno::EXIST) => return Ok(()),
            other => other?,
        };
        let cloned = (self.clone)(&to, &from);
        let size = Snapshot::new(&fstat(&to)?).size;
        if cloned.is_ok() && size == seen.size && is_seen(&from) {
            self.bytes += size;
            self.present += 1;
            self.names.insert(name);
            return Ok(());
        }
        unlinkat(&self.folder, &name, AtFlags::empty())?;
        let first = self.present == 0;
        match cloned {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::XDEV) if first => {
                Err(NotKept::NoReflink)
            }
            Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO)) => Err(e.into()),
            // Of this file alone: a swap file, one whose blocks have no checksums.
            Err(_) => {
                self.refused += 1;
                match first && self.refused >= REFUSALS {
                    true => Err(NotKept::NoReflink),
                    false => Ok(()),
                }
            }
        }
    }

    fn open(&mut self, rel: &[u8]) -> Result<OwnedFd, Errno> {
        let (parent, name) = split(rel);
        let dir = match self.dir.take() {
            Some((known, dir)) if known == parent => dir,
            _ => self.root.dir(parent)?,
        };
        let opened = open_in(&dir, name, OFlags::RDONLY);
        self.dir = Some((parent.to_vec(), dir));
        opened
    }

    /// Makes the clones durable and gives the folder its name.
    pub(crate) fn finish(mut self) -> Result<Kept, NotKept> {
        if self.present == 0 {
            return Err(NotKept::Nothing);
        }
        let singly = self.names.len() <= SINGLY;
        if singly {
            for name in &self.names {
                fsync(open_in(&self.folder, name.as_bytes(), OFlags::RDONLY)?)?;
            }
        }
        let folder = open_in(&self.folder, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        match singly {
            true => fsync(folder)?,
            false => syncfs(folder)?,
        }
        let path = self.layer.originals_path();
        std::fs::rename(self.layer.originals_temporary(), &path)?;
        self.finished = true;
        sync_folder(&path)?;
        Ok(Kept {
            files: self.present,
            whole: self.whole,
        })
    }
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // Its name says that it is nothing; the session's end removes it otherwise.
            let _ = remove_folder(&self.layer.originals_temporary());
        }
    }
}
