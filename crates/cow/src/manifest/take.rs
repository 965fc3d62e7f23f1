//! Taking a manifest: two threads walk the tree, and the file appears as a whole or not at all.
//!
//! Directories are opened beneath the root's descriptor (no symlink, no other mount: what the overlay
//! shows). Within one, names come first, then each object, and the directory itself last: if even then
//! its change time is before the base, what was listed is what was there at the base. A subdirectory
//! is opened by its path later; that it is the inode its parent listed is checked, not assumed.
//!
//! `fstatat` is used, not `statx`: it gives the same numbers through the same conversion as every
//! later comparison.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RawDir, fstat, fstatfs, fsync, openat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::format::{self, BlockHead, DOUBTFUL, Head, Object, UNREAD};
use crate::dir::{EntryKind, Snapshot, Tree, join, stat_in};
use crate::layer::{Layer, Timestamp};
use crate::scan::{ScanError, open_root};

/// Threads that walk a tree.
const WALKERS: usize = 2;
/// Entries between two looks at the clock and at whether anybody still wants it.
const STRIDE: u64 = 1024;
/// `FUSE_SUPER_MAGIC`: such file systems may give an object another inode number when asked again.
const FUSE: i64 = 0x6573_5546;

/// How large a tree may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most objects, the root included.
    pub objects: u64,
    /// Longest time for the walk of one tree.
    pub time: Duration,
}

impl Default for Limits {
    /// Two million objects, one minute.
    fn default() -> Limits {
        Limits {
            objects: 2_000_000,
            time: Duration::from_secs(60),
        }
    }
}

/// Why a layer has no manifest: originals are then judged by their change times alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// None was written: an older version, or the session was cut off first.
    #[error("none was finished when the session began")]
    None,
    /// More objects than [`Limits::objects`].
    #[error("the tree holds too many objects")]
    TooMany,
    /// More time than [`Limits::time`].
    #[error("walking the tree took too long")]
    TooLong,
    /// The file system's inode numbers do not last.
    #[error("the file system (FUSE) does not promise lasting inode numbers")]
    Inodes,
    /// The clock went back below the base while the tree was walked.
    #[error("the clock was set back while the tree was walked")]
    Clock,
}

impl Refusal {
    fn number(self) -> u16 {
        match self {
            Refusal::None => u16::MAX,
            Refusal::TooMany => 1,
            Refusal::TooLong => 2,
            Refusal::Inodes => 3,
            Refusal::Clock => 4,
        }
    }

    pub(super) fn of(number: u16) -> Option<Refusal> {
        [
            Refusal::TooMany,
            Refusal::TooLong,
            Refusal::Inodes,
            Refusal::Clock,
        ]
        .into_iter()
        .find(|r| r.number() == number)
    }
}

/// Why a manifest could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// The original tree cannot be opened.
    #[error(transparent)]
    Root(#[from] ScanError),
    /// Something in the original tree cannot be examined.
    #[error("cannot examine {path:?} for the base manifest: {source}")]
    Walk {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the base manifest {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Nobody wants it any more.
    #[error("the base manifest was not needed any more")]
    Cancelled,
}

/// Takes the manifest of a layer that has just begun; the file is durable on return. Answers the
/// number of objects, or why there is none; the file then says so too.
///
/// # Errors
/// See [`TakeError`]; no file is left.
pub fn take(layer: &Layer, limits: Limits) -> Result<Result<u64, Refusal>, TakeError> {
    let walked = walk(layer, limits, &Wish::default())?;
    write(layer, walked)
}

/// What whoever asked for a manifest wants by now.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// It is not needed any more.
    pub cancelled: AtomicBool,
    /// Somebody waited for it long enough: rather none.
    pub hurry: AtomicBool,
}

/// A tree that was walked, to be written.
pub(super) struct Walked {
    outcome: Result<Trees, Refusal>,
    head: Head,
}

struct Trees {
    outputs: Vec<Output>,
    objects: u64,
}

/// Walks the tree of a layer.
pub(super) fn walk(layer: &Layer, limits: Limits, wish: &Wish) -> Result<Walked, TakeError> {
    let tree = open_root(layer)?;
    let root = tree.stat(b"").map_err(|e| failed(layer, b"", e))?;
    let root = root.ok_or_else(|| failed(layer, b"", Errno::NOENT))?;
    let head = Head {
        state: 0,
        base: layer.base,
        root: root.id,
        objects: 0,
    };
    let refused = |refusal| Walked {
        outcome: Err(refusal),
        head,
    };
    let kind = tree.dir(b"").and_then(fstatfs);
    if kind.map_err(|e| failed(layer, b"", e))?.f_type as i64 == FUSE {
        return Ok(refused(Refusal::Inodes));
    }
    let shared = Shared {
        layer,
        tree,
        limits,
        until: Instant::now().checked_add(limits.time),
        wish,
        queue: Mutex::new(Queue {
            jobs: vec![Job {
                block: 0,
                rel: Vec::new(),
                listed: root,
                within: Within::Known,
            }],
            busy: 0,
            end: None,
        }),
        more: Condvar::new(),
        blocks: AtomicU32::new(1),
        objects: AtomicU64::new(1),
    };
    let outputs = std::thread::scope(|scope| {
        let others: Vec<_> = (1..WALKERS)
            .map(|_| scope.spawn(|| shared.work()))
            .collect();
        let mut outputs = vec![shared.work()];
        for other in others {
            // A walker that died left its directory out: the end below says so.
            match other.join() {
                Ok(output) => outputs.push(output),
                Err(_) => shared.stop(End::Failed(failed(layer, b"", Errno::IO))),
            }
        }
        outputs
    });
    match shared.lock().end.take() {
        None => {}
        Some(End::Refused(refusal)) => return Ok(refused(refusal)),
        Some(End::Failed(e)) => return Err(e),
    }
    let objects = shared.objects.load(Ordering::Relaxed);
    Ok(Walked {
        outcome: Ok(Trees { outputs, objects }),
        head: Head { objects, ..head },
    })
}

/// Writes what was walked: a temporary name, synced, renamed, and the folder synced.
pub(super) fn write(layer: &Layer, walked: Walked) -> Result<Result<u64, Refusal>, TakeError> {
    let path = layer.manifest_path();
    let temporary = layer.manifest_temporary();
    let fail = |source: io::Error| TakeError::Write {
        path: path.clone(),
        source,
    };
    let Walked { outcome, mut head } = walked;
    let done = || -> io::Result<Result<u64, Refusal>> {
        let mut result = outcome.as_ref().map(|t| t.objects).map_err(|r| *r);
        let file = head_of(&mut head, &result);
        let stamp = write_file(&temporary, file, outcome.as_ref().ok())?;
        if result.is_ok() && stamp < rounded(layer.base, stamp) {
            // Its own change time is a reading of the clock: all that was "before the base" is moot.
            result = Err(Refusal::Clock);
            write_file(&temporary, head_of(&mut head, &result), None)?;
        }
        std::fs::rename(&temporary, &path)?;
        let folder = path.parent().unwrap_or(&path);
        fsync(File::open(folder)?)?;
        Ok(result)
    }();
    done.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        fail(e)
    })
}

fn head_of(head: &mut Head, result: &Result<u64, Refusal>) -> Head {
    match result {
        Ok(objects) => (head.state, head.objects) = (0, *objects),
        Err(refusal) => (head.state, head.objects) = (refusal.number(), 0),
    }
    *head
}

/// Writes and syncs one file, and answers its change time.
fn write_file(path: &std::path::Path, head: Head, trees: Option<&Trees>) -> io::Result<Timestamp> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let mut out = Summed {
        file: BufWriter::with_capacity(1 << 16, file),
        sum: Sha256::new(),
    };
    out.put(&head.to_bytes())?;
    if let Some(trees) = trees {
        // Whoever walked which directory: the file has them in the order of the tree.
        let mut place = vec![(0usize, 0usize); trees.outputs.iter().map(|o| o.done.len()).sum()];
        for (walker, output) in trees.outputs.iter().enumerate() {
            for (n, done) in output.done.iter().enumerate() {
                let slot = place.get_mut(done.block as usize);
                *slot.ok_or_else(incomplete)? = (walker, n);
            }
        }
        let mut stack = vec![0u32];
        while let Some(block) = stack.pop() {
            let (walker, n) = *place.get(block as usize).ok_or_else(incomplete)?;
            let output = trees.outputs.get(walker).ok_or_else(incomplete)?;
            let done = output.done.get(n).filter(|done| done.block == block);
            let done = done.ok_or_else(incomplete)?;
            out.put(&output.bytes[done.start..done.end])?;
            stack.extend((done.first_child..done.first_child + done.children).rev());
        }
    }
    let sum = out.sum.finalize();
    out.file.write_all(&sum)?;
    let file = out
        .file
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(Snapshot::new(&fstat(&file)?).ctime)
}

fn incomplete() -> io::Error {
    io::Error::other("a directory was left out of the walk")
}

struct Summed {
    file: BufWriter<File>,
    sum: Sha256,
}

impl Summed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }
}

/// What one walker found.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    done: Vec<Done>,
}

struct Done {
    block: u32,
    start: usize,
    end: usize,
    first_child: u32,
    children: u32,
}

struct Job {
    block: u32,
    rel: Vec<u8>,
    /// The directory as its parent listed it.
    listed: Snapshot,
    within: Within,
}

/// What is known about where a directory lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Its parent was not changed since the base.
    Known,
    /// Its parent was: if it was, too, it may have been moved here.
    Late,
    /// It, or a directory above it, may have been moved here since the base.
    Doubtful,
}

struct Queue {
    jobs: Vec<Job>,
    busy: usize,
    end: Option<End>,
}

enum End {
    Refused(Refusal),
    Failed(TakeError),
}

struct Shared<'a> {
    layer: &'a Layer,
    tree: Tree,
    limits: Limits,
    until: Option<Instant>,
    wish: &'a Wish,
    queue: Mutex<Queue>,
    more: Condvar,
    blocks: AtomicU32,
    objects: AtomicU64,
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.more.notify_all();
    }

    /// One walker: directories until there are none, and none in work that may bring more.
    fn work(&self) -> Output {
        let mut out = Output::default();
        let mut found = Vec::new();
        let mut buffer = Vec::with_capacity(1 << 16);
        let mut queue = self.lock();
        loop {
            if queue.end.is_some() {
                break;
            }
            let Some(job) = queue.jobs.pop() else {
                if queue.busy == 0 {
                    break;
                }
                queue = self
                    .more
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.busy += 1;
            drop(queue);
            // Also when it panics: the others must not wait for it.
            let leave = Leave(self);
            if let Err(end) = self.directory(&job, &mut out, &mut found, &mut buffer) {
                self.stop(end);
            }
            queue = self.lock();
            queue.jobs.append(&mut found);
            drop(queue);
            drop(leave);
            queue = self.lock();
        }
        drop(queue);
        self.more.notify_all();
        out
    }

    fn check(&self) -> Result<(), End> {
        if self.wish.cancelled.load(Ordering::Relaxed) {
            return Err(End::Failed(TakeError::Cancelled));
        }
        let hurry = self.wish.hurry.load(Ordering::Relaxed);
        if hurry || self.until.is_some_and(|until| Instant::now() > until) {
            return Err(End::Refused(Refusal::TooLong));
        }
        Ok(())
    }

    fn directory(
        &self,
        job: &Job,
        out: &mut Output,
        found: &mut Vec<Job>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), End> {
        self.check()?;
        let base = self.layer.base;
        let start = out.bytes.len();
        let read = self.read(job, buffer)?;
        let (directory, mut marks, entries) = match read {
            Some((directory, entries)) => (directory, 0, entries),
            None => (job.listed.clone(), UNREAD, Vec::new()),
        };
        let directory = Object {
            late: late(&directory, base),
            seen: directory,
        };
        let here = match job.within {
            _ if directory.seen.id != job.listed.id => Within::Doubtful,
            Within::Late if directory.late => Within::Doubtful,
            Within::Doubtful => Within::Doubtful,
            _ if directory.late => Within::Late,
            _ => Within::Known,
        };
        if here == Within::Doubtful {
            marks |= DOUBTFUL;
        }
        let head = BlockHead {
            directory,
            marks,
            count: entries.len() as u64,
        };
        format::put_block_head(&mut out.bytes, &head);
        let is_dir = |s: &Snapshot| s.kind == EntryKind::Directory;
        let children = entries.iter().filter(|(_, s)| is_dir(s)).count();
        // Below the limit of objects, which is below 2^32.
        let children = u32::try_from(children).unwrap_or(u32::MAX);
        let first_child = self.blocks.fetch_add(children, Ordering::Relaxed);
        let mut next = first_child;
        for (name, seen) in entries {
            let is_dir = is_dir(&seen);
            let late = late(&seen, base);
            let object = Object { seen, late };
            format::put_entry(&mut out.bytes, &name, &object, &head.directory.seen);
            if is_dir {
                found.push(Job {
                    block: next,
                    rel: join(&job.rel, &name),
                    listed: object.seen,
                    within: here,
                });
                next += 1;
            }
        }
        out.done.push(Done {
            block: job.block,
            start,
            end: out.bytes.len(),
            first_child,
            children,
        });
        Ok(())
    }

    /// A directory and what is in it, sorted; `None` when it cannot be read.
    #[allow(clippy::type_complete)]
    fn read(
        &self,
        job: &Job,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<(Snapshot, Vec<(Vec<u8>, Snapshot)>)>, End> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = self.tree.dir(&job.rel).and_then(|dir| {
            let fd = openat(&dir, c".", flags, Mode::empty())?;
            Ok((dir, fd))
        });
        let (dir, fd): (OwnedFd, OwnedFd) = match opened {
            Ok(pair) => pair,
            // Another mount, no permission, or not there any more.
            Err(
                Errno::XDEV
                | Errno::ACCESS
                | Errno::PERM
                | Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP,
            ) => return Ok(None),
            Err(e) => return Err(End::Failed(failed(self.layer, &job.rel, e))),
        };
        let fail = |e| End::Failed(failed(self.layer, &job.rel, e));
        let mut names = Vec::new();
        buffer.clear();
        let mut entries = RawDir::new(fd.as_fd(), buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        // A name can come twice while others rename in the directory.
        names.dedup();
        let mut out = Vec::with_capacity(names.len());
        for name in names {
            let objects = self.objects.load(Ordering::Relaxed) + out.len() as u64;
            if objects.is_multiple_of(STRIDE) {
                self.check()?;
            }
            match stat_in(&dir, &name) {
                Ok(Some(seen)) => out.push((name, seen)),
                // Gone meanwhile: the directory is late.
                Ok(None) => {}
                // It may be listed and not entered.
                Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
                Err(e) => return Err(fail(e)),
            }
        }
        let all = self.objects.fetch_add(out.len() as u64, Ordering::Relaxed) + out.len() as u64;
        if all > self.limits.objects.min(u64::from(u32::MAX)) {
            return Err(End::Refused(Refusal::TooMany));
        }
        let directory = Snapshot::new(&fstat(&fd).map_err(fail)?);
        Ok(Some((directory, out)))
    }
}

/// A directory in work is done, however it ended.
struct Leave<'a, 'b>(&'a Shared<'b>);

impl Drop for Leave<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.more.notify_all();
    }
}

/// Whether an object's stamp allows that it changed since the base.
pub(super) fn late(seen: &Snapshot, base: Timestamp) -> bool {
    seen.ctime >= rounded(base, seen.ctime)
}

/// The base as a file system would store it whose stamps are as coarse as `stamp` looks: what was
/// changed right after the base may carry a stamp that was rounded down to before it.
fn rounded(base: Timestamp, stamp: Timestamp) -> Timestamp {
    let down = |unit: u32| Timestamp {
        sec: base.sec,
        nsec: base.nsec - base.nsec % unit,
    };
    match stamp.nsec {
        0 => Timestamp {
            sec: base.sec - base.sec.rem_euclid(2),
            nsec: 0,
        },
        n if n % 10_000_000 == 0 => down(10_000_000),
        n if n % 1_000_000 == 0 => down(1_000_000),
        n if n % 1000 == 0 => down(1000),
        n if n % 100 == 0 => down(100),
        _ => base,
    }
}

fn failed(layer: &Layer, rel: &[u8], e: Errno) -> TakeError {
    TakeError::Walk {
        path: crate::scan::absolute(&layer.root, rel),
        source: e.into(),
    }
}
