//! Lending directories of a private tree the permissions that their owner needs to walk them.
//!
//! An agent is root of its user namespace and can leave a directory that its owner may neither read nor
//! search. An ordinary caller could then look at nothing below it. Such a directory gets `u+rwx` while
//! somebody works in the tree, and its own mode back afterwards.
//!
//! # Invariants
//! * A mode is noted in `TREE.lent`, durably, before it changes. Whoever opens the tree next after a kill
//!   gives back what the note says before anything is looked at.
//! * Only directories of the caller are touched, through an `O_PATH` descriptor that was reached beneath
//!   the tree's root; on giving back the inode must be the one that was noted.
//! * Whoever reads the tree holds a shared lock, whoever lends an exclusive one: nobody takes a lent mode
//!   for the agent's. Within a process all trees on one path share one lender.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock, fstat};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::copy::sync_folder;
use crate::dir::{EntryKind, Snapshot, chmod_path_fd, dir_at, open_in};
use crate::layer::FileId;
use crate::record::Rel;

/// How long to wait for another process that works in the tree.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the owner needs to list a directory and to reach what is in it.
const WALK: u32 = 0o500;

/// What is lent: an entry may have to leave the directory, too.
const ALL: u32 = 0o700;

/// One directory whose mode is lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lent {
    /// Its path below the tree's root.
    rel: Rel,
    id: FileId,
    /// Its own mode.
    mode: u32,
    /// The mode that it has meanwhile.
    lent: u32,
}

#[derive(Debug, Default)]
struct State {
    /// The note, once something is lent; the lock is exclusive then.
    note: Option<File>,
    lent: Vec<Lent>,
    by_id: HashMap<FileId, usize>,
}

/// What is lent in one tree; gives everything back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lender {
    note: PathBuf,
    /// The folder whose lock says who works in the tree.
    lock: File,
    root: OwnedFd,
    state: Mutex<State>,
}

static OPEN: Mutex<Vec<(PathBuf, FileId, Weak<Lender>)>> = Mutex::new(Vec::new());

impl Lender {
    /// The lender of the tree at `path`, whose root is `root`. `lock` is a folder of the caller that lasts
    /// as long as the tree. What a process that was killed had lent is given back first. `None`: there is
    /// no such folder, so nothing can be lent.
    ///
    /// # Errors
    /// Another process lends for longer than [`PATIENCE`] (`EWOULDBLOCK`), or what a killed one left
    /// cannot be given back.
    pub(crate) fn of(path: &Path, root: &OwnedFd, lock: &Path) -> io::Result<Option<Arc<Lender>>> {
        let id = Snapshot::new(&fstat(root)?).id;
        let note = note_path(path);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(.., lender)| lender.strong_count() > 0);
        let found = open.iter().find(|(p, i, _)| p == path && *i == id);
        if let Some(lender) = found.and_then(|(.., lender)| lender.upgrade()) {
            return Ok(Some(lender));
        }
        let lock = match File::open(lock) {
            Ok(lock) => lock,
            Err(_) if !note.exists() => return Ok(None),
            Err(e) => return Err(e),
        };
        wait(&lock, FlockOperation::NonBlockingLockShared)?;
        if note.exists() {
            wait(&lock, FlockOperation::NonBlockingLockExclusive)?;
            give_back_noted(root, &note)?;
            wait(&lock, FlockOperation::NonBlockingLockShared)?;
        }
        let lender = Arc::new(Lender {
            note,
            lock,
            root: root.try_clone()?,
            state: Mutex::default(),
        });
        open.push((path.to_path_buf(), id, Arc::downgrade(&lender)));
        Ok(Some(lender))
    }

    /// Lends the directory `rel`, which `fd` holds, what it takes to walk it, if it lacks that and is the
    /// caller's.
    pub(crate) fn open_up(&self, rel: &[u8], fd: &OwnedFd) -> Result<(), Errno> {
        let found = Snapshot::new(&fstat(fd)?);
        if found.mode & WALK == WALK || found.kind != EntryKind::Directory {
            return Ok(());
        }
        // The superuser needs no permission.
        let may = open_in(fd, b".", OFlags::RDONLY | OFlags::DIRECTORY);
        if !matches!(may, Err(Errno::ACCESS)) || found.uid != geteuid().as_raw() {
            return Ok(());
        }
        let mut state = self.state();
        self.begin(&mut state)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        // Another process may have lent it and given it back while this one waited.
        let found = Snapshot::new(&fstat(fd)?);
        let lent = Lent {
            rel: Rel(rel.to_vec()),
            id: found.id,
            mode: found.mode,
            lent: found.mode | ALL,
        };
        let noted = state.note.as_mut().map(|note| write(note, &lent));
        noted
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        point!("lending noted");
        let at = state.lent.len();
        state.by_id.insert(lent.id, at);
        let mode = lent.lent;
        state.lent.push(lent);
        chmod_path_fd(fd, mode)?;
        point!("lent");
        Ok(())
    }

    /// What was found, with the mode that it has when nothing is lent.
    pub(crate) fn own(&self, mut found: Snapshot) -> Snapshot {
        let state = self.state();
        let lent = state
            .by_id
            .get(&found.id)
            .and_then(|at| state.lent.get(*at));
        if let Some(lent) = lent.filter(|l| l.lent == found.mode) {
            found.mode = lent.mode;
        }
        found
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock for itself and makes the note.
    fn begin(&self, state: &mut State) -> io::Result<()> {
        if state.note.is_some() {
            return Ok(());
        }
        wait(&self.lock, FlockOperation::NonBlockingLockExclusive)?;
        if self.note.exists() {
            // The lock was free for a moment, and whoever had it then was killed.
            give_back_noted(&self.root, &self.note)?;
        }
        let note = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&self.note)?;
        sync_folder(&self.note)?;
        state.note = Some(note);
        Ok(())
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        // A test's kill: see `fault`.
        #[cfg(test)]
        if std::thread::panicking() {
            return;
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.note.is_some() && give_back(&self.root, &state.lent).is_ok() {
            // Otherwise the next one tries again.
            let _ = std::fs::remove_file(&self.note);
        }
    }
}

/// Where it is noted what is lent in the tree at `path`.
pub(crate) fn note_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".lent");
    PathBuf::from(name)
}

fn write(note: &mut File, lent: &Lent) -> io::Result<()> {
    let mut line = serde_json::to_vec(lent)?;
    line.push(b'\n');
    note.write_all(&line)?;
    note.sync_data()
}

/// Gives back what a note says, and removes it.
fn give_back_noted(root: &OwnedFd, note: &Path) -> io::Result<()> {
    let text = match std::fs::read(note) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // A torn line is one whose mode was not changed yet.
    let lines = text.split(|b| *b == b'\n');
    let lent: Vec<Lent> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    give_back(root, &lent)?;
    std::fs::remove_file(note)
}

/// Gives directories their modes back, the last one first: what is below before what holds it. One that
/// is gone, or that somebody gave another mode, stays as it is.
fn give_back(root: &OwnedFd, all: &[Lent]) -> Result<(), Errno> {
    let mut result = Ok(());
    for lent in all.iter().rev() {
        let one = match dir_at(root.as_fd(), &lent.rel.0) {
            Ok(fd) => fstat(&fd).and_then(|stat| {
                let now = Snapshot::new(&stat);
                match now.id == lent.id && now.mode == lent.lent {
                    true => chmod_path_fd(&fd, lent.mode),
                    false => Ok(()),
                }
            }),
            // Something above it was given back already, which comes after it.
            Err(Errno::ACCESS) => Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(e) => Err(e),
        };
        point!("given back");
        result = result.and(one);
    }
    result
}

fn wait(lock: &File, how: FlockOperation) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match flock(lock, how) {
            Err(Errno::WOULDBLOCK) if since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
#[path = "lend_tests.rs"]
mod tests;
