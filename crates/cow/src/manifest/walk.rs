//! The walk: two threads, directory by directory.
//!
//! Directories are opened beneath the root's descriptor (no symlink, no other mount: what the overlay
//! shows). Within one, names come first, then each object, and the directory itself last: if even then
//! its change time is before the base, what was listed is what was there at the base. A subdirectory
//! is opened by its path later; that it is the inode its parent listed is checked, not assumed.
//!
//! `fstatat` is used, not `statx`: it gives the same numbers through the same conversion as every
//! later comparison.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, RawDir, fstat, fstatfs, openat};
use rustix::io::Errno;

use super::format::{self, BlockHead, DOUBTFUL, Head, Object, UNREAD};
use super::take::{Limits, Refusal, TakeError, Wish};
use crate::dir::{EntryKind, Snapshot, Tree, join, stat_in};
use crate::layer::{Layer, Timestamp};
use crate::scan::open_root;

/// Threads that walk a tree.
const WALKERS: usize = 2;
/// Entries between two looks at the clock and at whether anybody still wants it.
const STRIDE: u64 = 1024;
/// `FUSE_SUPER_MAGIC`: such file systems may give an object another inode number when asked again.
const FUSE: i64 = 0x6573_5546;

/// A tree that was walked, to be written.
pub(super) struct Walked {
    pub outcome: Result<Trees, Refusal>,
    pub head: Head,
}

/// The blocks of a tree, by whoever walked them.
pub(super) struct Trees {
    pub outputs: Vec<Output>,
    pub objects: u64,
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

/// What one walker found.
#[derive(Default)]
pub(super) struct Output {
    pub bytes: Vec<u8>,
    pub done: Vec<Done>,
}

/// A directory that was walked: its number, where its block is, the numbers of its subdirectories.
pub(super) struct Done {
    pub block: u32,
    pub start: usize,
    pub end: usize,
    pub first_child: u32,
    pub children: u32,
}

struct Job {
    block: u32,
    rel: Vec<u8>,
    /// The directory as its parent listed it.
    listed: Snapshot,
    within: Within,
}

/// A directory and, by name, what is in it.
type Read = (Snapshot, Vec<(Vec<u8>, Snapshot)>);

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

    /// A directory and what is in it, sorted; `None` when it cannot be read, or is none of the layer's.
    fn read(&self, job: &Job, buffer: &mut Vec<u8>) -> Result<Option<Read>, End> {
        if self.layer.surface && !job.rel.is_empty() {
            return Ok(None);
        }
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
            let entry = match entry {
                Ok(entry) => entry,
                // Removed while it was read.
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(fail(e)),
            };
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
pub(super) fn rounded(base: Timestamp, stamp: Timestamp) -> Timestamp {
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
