//! The commit of one layer, step by step. See [`crate::commit`] for the protocol.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agentwall_action::escape_bytes;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps, Uid,
    chownat, fchmod, fchown, fstat, fsync, futimens, linkat, mkdirat, mknodat, openat, readlinkat,
    renameat_with, statx, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::change::{Change, ChangeKind, Conflict};
use crate::commit::{CommitError, CommitReport, Disposition, HoldReason, Status, below_root};
use crate::content::{
    CAPABILITY, Xattrs, all_xattrs, content_hash, copy_sparse, set_xattrs, travelling, xattr_digest,
};
use crate::dir::{
    EntryKind, Snapshot, TEMP_PREFIX, Tree, join, open_in, open_private, random_hex, remove_tree,
    split, stat_in,
};
use crate::layer::{FileId, Layer, Timestamp};
use crate::record::{Record, Temp};
use crate::scan::{absolute, below, open_root, open_upper};
use crate::upper::{Removal, remove_applied};

/// One change with its index, its path below the root and what to do with it.
pub(crate) type Work<'a> = (usize, &'a Change, Vec<u8>, Disposition);

/// How one step ended when it did not succeed.
enum Stop {
    Conflict(Conflict),
    Failed(&'static str, Errno),
}

type Step<T> = Result<T, Stop>;

fn at(step: &'static str) -> impl FnOnce(Errno) -> Stop {
    move |e| Stop::Failed(step, e)
}

fn io_at(step: &'static str) -> impl FnOnce(std::io::Error) -> Stop {
    move |e| {
        let code = e
            .raw_os_error()
            .unwrap_or(rustix::io::Errno::IO.raw_os_error());
        Stop::Failed(step, Errno::from_raw_os_error(code))
    }
}

/// Where to find the changes that others depend on.
struct Index<'w> {
    by_rel: HashMap<&'w [u8], usize>,
    /// By source: the changes that probably are the targets of its rename.
    renamed: BTreeMap<&'w Path, Vec<(usize, &'w Path)>>,
}

impl<'w> Index<'w> {
    fn new(work: &'w [Work<'_>]) -> Self {
        let mut renamed: BTreeMap<&Path, Vec<_>> = BTreeMap::new();
        for w in work {
            if let Some(from) = &w.1.rename_from {
                renamed
                    .entry(from)
                    .or_default()
                    .push((w.0, w.1.path.as_path()));
            }
        }
        Index {
            by_rel: work.iter().map(|w| (w.2.as_slice(), w.0)).collect(),
            renamed,
        }
    }
}

/// An original that left its name.
struct Trashed {
    /// Directory and name below the root, while it lies in the original tree.
    rel: Vec<u8>,
    /// Name in the trash folder, once it lies there.
    stored: Option<String>,
    was: Snapshot,
    of: Vec<u8>,
}

pub(crate) struct LayerCommit<'a> {
    layer: &'a Layer,
    lower: Tree,
    upper: Tree,
    record: Record,
    id: String,
    counter: u64,
    trash: Option<Tree>,
    trashed: Vec<Trashed>,
    made_dirs: HashMap<Vec<u8>, FileId>,
    dirty: BTreeSet<Vec<u8>>,
    failed: Option<Vec<u8>>,
}

impl<'a> LayerCommit<'a> {
    pub(crate) fn open(layer: &'a Layer) -> Result<Self, CommitError> {
        let record_error = |source| CommitError::Record {
            path: layer.record_path(),
            source,
        };
        let upper = open_upper(layer)?;
        let lower = open_root(layer)?;
        let mut record = Record::read(layer).map_err(record_error)?;
        record.open(layer).map_err(record_error)?;
        Ok(LayerCommit {
            layer,
            lower,
            upper,
            record,
            id: random_hex().map_err(record_error)?,
            counter: 0,
            trash: None,
            trashed: Vec::new(),
            made_dirs: HashMap::new(),
            dirty: BTreeSet::new(),
            failed: None,
        })
    }

    pub(crate) fn run(
        mut self,
        work: Vec<Work<'_>>,
        statuses: &mut [Option<Status>],
        report: &mut CommitReport,
    ) -> Result<(), CommitError> {
        self.recover(report);
        let mut pending = Vec::new();
        for item in &work {
            match triage(item.1, item.3) {
                Some(status) => statuses[item.0] = Some(status),
                None => pending.push(item),
            }
        }
        let index = Index::new(&work);
        let mut deferred_meta = Vec::new();
        for phase in [
            Phase::Directories,
            Phase::Files,
            Phase::Others,
            Phase::Deletions,
        ] {
            for item in pending.iter().filter(|i| phase_of(i.1) == phase) {
                let (at, change, rel, _) = item;
                if let Some(status) = self.blocked(change, rel, &index, statuses) {
                    statuses[*at] = Some(status);
                    continue;
                }
                let status = self.status(rel, |s| s.apply(change, rel));
                if change.entry == EntryKind::Directory
                    && change.kind != ChangeKind::Delete
                    && status == Status::Committed
                {
                    deferred_meta.push((rel.clone(), *change));
                }
                statuses[*at] = Some(status);
            }
        }
        // Leaves first: a directory's times and a missing write permission come after its entries.
        let metas = pending
            .iter()
            .filter(|i| phase_of(i.1) == Phase::DirectoryMeta);
        let mut last: BTreeMap<Vec<u8>, (Option<usize>, &Change)> = BTreeMap::new();
        last.extend(deferred_meta.into_iter().map(|(rel, c)| (rel, (None, c))));
        last.extend(metas.map(|i| (i.2.clone(), (Some(i.0), i.1))));
        for (rel, (index, change)) in last.into_iter().rev() {
            let status = self.status(&rel, |s| s.directory_meta(change, &rel, index.is_none()));
            match index {
                Some(index) => statuses[index] = Some(status),
                None if status != Status::Committed => {
                    report.warnings.push(format!(
                        "the attributes of the new directory {} are not complete: {status:?}",
                        escape_bytes(change.path.as_os_str().as_bytes())
                    ));
                }
                None => {}
            }
        }
        self.finish(&work, statuses, report);
        Ok(())
    }

    /// Runs one change and turns its end into a status.
    fn status(&mut self, rel: &[u8], f: impl FnOnce(&mut Self) -> Step<Status>) -> Status {
        match f(self) {
            Ok(status) => status,
            Err(Stop::Conflict(conflict)) => Status::Conflict { conflict },
            Err(Stop::Failed(step, e)) => {
                self.failed.get_or_insert_with(|| rel.to_vec());
                Status::Failed {
                    step: step.to_owned(),
                    error: std::io::Error::from(e).to_string(),
                    errno: Some(e.raw_os_error()),
                }
            }
        }
    }

    /// Whether a change must wait because of what became of others.
    fn blocked(
        &self,
        change: &Change,
        rel: &[u8],
        index: &Index<'_>,
        statuses: &[Option<Status>],
    ) -> Option<Status> {
        let held = |reason| Some(Status::Held { reason });
        if change.kind == ChangeKind::Delete {
            if let Some(path) = &self.failed {
                let path = absolute(&self.layer.root, path);
                return held(HoldReason::DeletionWaits { path });
            }
            // Deleting the source of a rename whose target is not committed would leave the content
            // only in the upper directory; dropping the target is a decision to lose it.
            let waiting = index
                .renamed
                .range(change.path.as_path()..)
                .take_while(|(from, _)| from.starts_with(&change.path))
                .flat_map(|(_, targets)| targets)
                .find(|(at, _)| {
                    !matches!(
                        statuses[*at],
                        Some(Status::Committed | Status::AlreadyApplied | Status::Discarded)
                    )
                });
            return waiting.and_then(|(_, to)| {
                let path = to.to_path_buf();
                held(HoldReason::DeletionWaits { path })
            });
        }
        if change.parent.is_none() {
            let dir = split(rel).0;
            let parent = index.by_rel.get(dir)?;
            if !matches!(
                statuses[*parent],
                Some(Status::Committed | Status::AlreadyApplied)
            ) {
                let path = absolute(&self.layer.root, dir);
                return held(HoldReason::ParentHeld { path });
            }
        }
        None
    }

    fn apply(&mut self, change: &Change, rel: &[u8]) -> Step<Status> {
        let (dir, name) = split(rel);
        let parent = self.parent(change, dir)?;
        let now = stat_in(&parent, name).map_err(at("examine the original"))?;
        if !self.as_reviewed(change, now.as_ref()) {
            return if self.already(change, &parent, name, now.as_ref()) {
                Ok(Status::AlreadyApplied)
            } else {
                Err(Stop::Conflict(Conflict::ChangedSinceReview))
            };
        }
        let dir_now = Snapshot::new(&fstat(&parent).map_err(at("examine the directory"))?);
        self.record
            .touch(&dir_now)
            .map_err(io_at("write the commit record"))?;
        if let Some(old) = &now {
            self.record
                .touch_links(old)
                .map_err(io_at("write the commit record"))?;
        }
        self.dirty.insert(dir.to_vec());
        let meta_in_place =
            change.kind == ChangeKind::Meta && now.as_ref().is_some_and(|o| o.nlink == 1);
        if change.kind == ChangeKind::Delete {
            let old = now.ok_or(Stop::Conflict(Conflict::ChangedSinceReview))?;
            self.take_away(&parent, dir, rel, old)?;
        } else if meta_in_place && change.entry == EntryKind::File {
            self.file_meta(change, &parent, rel)?;
        } else {
            self.put(change, &parent, dir, rel, now)?;
        }
        Ok(Status::Committed)
    }

    /// The original directory, which must be the reviewed one or one made by this commit.
    fn parent(&self, change: &Change, dir: &[u8]) -> Step<OwnedFd> {
        let path = || absolute(&self.layer.root, dir);
        let parent = self.lower.dir(dir).map_err(|e| match e {
            Errno::NOENT => Stop::Conflict(Conflict::ParentVanished { path: path() }),
            Errno::NOTDIR | Errno::LOOP => {
                Stop::Conflict(Conflict::ParentNotDirectory { path: path() })
            }
            Errno::XDEV => Stop::Conflict(Conflict::MountPoint { path: path() }),
            e => Stop::Failed("open the directory", e),
        })?;
        let id = Snapshot::new(&fstat(&parent).map_err(at("examine the directory"))?).id;
        let expected = change.parent.or_else(|| self.made_dirs.get(dir).copied());
        if expected == Some(id) {
            Ok(parent)
        } else {
            Err(Stop::Conflict(Conflict::ChangedSinceReview))
        }
    }

    /// Whether the original is as the scan saw it, up to the traces of our own steps.
    fn as_reviewed(&self, change: &Change, now: Option<&Snapshot>) -> bool {
        match (&change.old, now) {
            (None, None) => true,
            (Some(old), Some(now)) => {
                old.same_object(now)
                    && (old.kind == EntryKind::Directory
                        || old.ctime == now.ctime
                        || self.record.explains(now))
            }
            _ => false,
        }
    }

    /// Whether the original already is what the change wants (a repeated run).
    fn already(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        name: &[u8],
        now: Option<&Snapshot>,
    ) -> bool {
        let (Some(new), Some(now)) = (&change.new, now) else {
            return change.kind == ChangeKind::Delete && now.is_none();
        };
        if new.kind != now.kind || (new.kind != EntryKind::Symlink && new.mode != now.mode) {
            return false;
        }
        match now.kind {
            EntryKind::File => {
                change.link_to.is_none()
                    && open_in(parent, name, OFlags::RDONLY)
                        .and_then(|fd| content_hash(fd.as_fd(), now.size))
                        .is_ok_and(|h| change.content.as_ref() == Some(&h))
            }
            EntryKind::Symlink => readlinkat(parent, name, Vec::new()).is_ok_and(|t| {
                change
                    .target
                    .as_ref()
                    .is_some_and(|c| c.as_os_str().as_bytes() == t.to_bytes())
            }),
            // A directory that someone else made meanwhile is not known to be ours.
            _ => false,
        }
    }

    fn temp_name(&mut self) -> String {
        self.counter += 1;
        format!("{TEMP_PREFIX}{}-{}", self.id, self.counter)
    }

    /// Builds the new object and gives it its name.
    fn put(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        dir: &[u8],
        rel: &[u8],
        old: Option<Snapshot>,
    ) -> Step<()> {
        let temp = self.temp_name();
        self.record
            .building(rel, &temp)
            .map_err(io_at("write the commit record"))?;
        if let Err(stop) = self.build(change, parent, rel, &temp) {
            let _ = remove_built(parent, &temp, None);
            return Err(stop);
        }
        let made = stat_in(parent, temp.as_bytes())
            .and_then(|s| s.ok_or(Errno::NOENT))
            .map_err(at("examine the new object"))?;
        let noted = self.record.temp(Temp {
            rel: rel.to_vec(),
            name: temp.clone(),
            new: Some(made.id),
            old: old.clone(),
        });
        let result = noted
            .map_err(io_at("write the commit record"))
            .and_then(|()| self.install(change, parent, dir, rel, &temp, &made, old));
        if result.is_err() {
            // After a failed exchange the name may hold the original, which recovery puts back.
            let _ = remove_built(parent, &temp, Some(made.id));
        }
        result
    }

    #[allow(clippy::too_many_arguments)] // one step of the protocol needs exactly these
    fn install(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        dir: &[u8],
        rel: &[u8],
        temp: &str,
        made: &Snapshot,
        old: Option<Snapshot>,
    ) -> Step<()> {
        let name = split(rel).1;
        match old {
            None => match renameat_with(parent, temp, parent, name, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(Stop::Conflict(Conflict::ChangedSinceReview)),
                Err(e) => return Err(Stop::Failed("give the new object its name", e)),
            },
            Some(old) => {
                match renameat_with(parent, temp, parent, name, RenameFlags::EXCHANGE) {
                    Ok(()) => {}
                    Err(Errno::NOENT) => return Err(Stop::Conflict(Conflict::ChangedSinceReview)),
                    Err(e) => return Err(Stop::Failed("swap with the original", e)),
                }
                let temp_rel = join(dir, temp.as_bytes());
                if !self.is_verified(parent, &temp_rel, &old) {
                    renameat_with(parent, temp, parent, name, RenameFlags::EXCHANGE)
                        .map_err(at("put the original back"))?;
                    // Someone may have replaced our object in between; then the temporary name holds
                    // theirs, which must not be removed.
                    let back = stat_in(parent, temp.as_bytes()).ok().flatten();
                    return Err(if back.is_some_and(|b| b.id == made.id) {
                        Stop::Conflict(Conflict::ChangedSinceReview)
                    } else {
                        Stop::Failed("put the original back", Errno::BUSY)
                    });
                }
                self.store(parent, temp_rel, temp, old, rel);
            }
        }
        if change.entry == EntryKind::Directory {
            self.made_dirs.insert(rel.to_vec(), made.id);
            if let Ok(Some(now)) = stat_in(parent, name) {
                self.record
                    .touch(&now)
                    .map_err(io_at("write the commit record"))?;
            }
        }
        Ok(())
    }

    /// Whether what was moved to a temporary name is the reviewed original, unchanged.
    fn is_verified(&self, parent: &OwnedFd, temp_rel: &[u8], old: &Snapshot) -> bool {
        let now = stat_in(parent, split(temp_rel).1).ok().flatten();
        now.is_some_and(|now| old.same_object(&now))
            && (old.kind != EntryKind::Directory
                || below(&self.lower, temp_rel, self.layer, &self.record)
                    .conflict
                    .is_none())
    }

    /// Deletes by moving aside, verifying, and moving to the trash.
    fn take_away(&mut self, parent: &OwnedFd, dir: &[u8], rel: &[u8], old: Snapshot) -> Step<()> {
        let name = split(rel).1;
        if old.kind == EntryKind::Directory
            && let Some(conflict) = below(&self.lower, rel, self.layer, &self.record).conflict
        {
            return Err(Stop::Conflict(conflict));
        }
        let temp = self.temp_name();
        let temp_rel = join(dir, temp.as_bytes());
        self.record
            .temp(Temp {
                rel: rel.to_vec(),
                name: temp.clone(),
                new: None,
                old: Some(old.clone()),
            })
            .map_err(io_at("write the commit record"))?;
        match renameat_with(parent, name, parent, &temp, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Stop::Failed("move the original aside", e)),
        }
        if !self.is_verified(parent, &temp_rel, &old) {
            renameat_with(parent, &temp, parent, name, RenameFlags::NOREPLACE)
                .map_err(at("put the original back"))?;
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        self.store(parent, temp_rel, &temp, old, rel);
        Ok(())
    }

    /// Moves a verified original to the trash folder if that is on the same file system.
    fn store(&mut self, parent: &OwnedFd, temp_rel: Vec<u8>, temp: &str, was: Snapshot, of: &[u8]) {
        if self.trash.is_none() {
            let path = self.layer.trash_path();
            match std::fs::create_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(_) => {
                    return self.trashed.push(Trashed {
                        rel: temp_rel,
                        stored: None,
                        was,
                        of: of.to_vec(),
                    });
                }
            }
            self.trash = Tree::open(&path, false).ok();
        }
        let moved = self
            .trash
            .as_ref()
            .and_then(|t| t.dir(b"").ok())
            .is_some_and(|fd| {
                renameat_with(parent, temp, &fd, temp, RenameFlags::NOREPLACE).is_ok()
            });
        let stored = moved.then(|| temp.to_owned());
        self.trashed.push(Trashed {
            rel: temp_rel,
            stored,
            was,
            of: of.to_vec(),
        });
    }

    /// Makes the new object under a temporary name, complete and synced.
    fn build(&mut self, change: &Change, parent: &OwnedFd, rel: &[u8], temp: &str) -> Step<()> {
        let updir = self
            .upper
            .parent(rel)
            .map_err(at("open the session's copy"))?;
        let name = split(rel).1;
        let new = stat_in(&updir, name).map_err(at("examine the session's copy"))?;
        let reviewed = change.new.as_ref();
        let (Some(new), Some(reviewed)) = (new, reviewed) else {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        };
        if !reviewed.same_object(&new) {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        }
        match new.kind {
            EntryKind::File => {
                if !self.link(change, parent, temp)? {
                    self.copy(change, &updir, name, &new, parent, temp)?;
                }
            }
            EntryKind::Directory => {
                mkdirat(parent, temp, Mode::RWXU).map_err(at("make the directory"))?;
                // Complete at once unless the mode would keep us from filling it.
                if new.mode & 0o700 == 0o700 {
                    let source =
                        open_private(&updir, name, true).map_err(at("open the session's copy"))?;
                    let fd = open_in(parent, temp.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)
                        .map_err(at("open the new directory"))?;
                    give_attributes(change, &source, &fd, &new)?;
                }
            }
            EntryKind::Symlink => {
                let target =
                    readlinkat(&updir, name, Vec::new()).map_err(at("read the session's link"))?;
                if change.target.as_ref().map(|t| t.as_os_str().as_bytes())
                    != Some(target.to_bytes())
                {
                    return Err(Stop::Conflict(Conflict::UpperChanged));
                }
                symlinkat(&target, parent, temp).map_err(at("make the link"))?;
                own(parent, temp, &new)?;
            }
            EntryKind::Fifo | EntryKind::Socket => {
                let kind = if new.kind == EntryKind::Fifo {
                    FileType::Fifo
                } else {
                    FileType::Socket
                };
                mknodat(parent, temp, kind, Mode::from_raw_mode(0o600), 0)
                    .map_err(at("make the node"))?;
                own(parent, temp, &new)?;
                let fd =
                    open_in(parent, temp.as_bytes(), OFlags::PATH).map_err(at("open the node"))?;
                crate::dir::chmod_path_fd(&fd, new.mode).map_err(at("set the mode"))?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                return Err(Stop::Failed("refuse a device", Errno::PERM));
            }
        }
        Ok(())
    }

    /// Links to the committed first name of a hard-link group, if it is what this name should be.
    fn link(&mut self, change: &Change, parent: &OwnedFd, temp: &str) -> Step<bool> {
        let Some(first) = &change.link_to else {
            return Ok(false);
        };
        let Some(rel) = below_root(&self.layer.root, first) else {
            return Ok(false);
        };
        let (Ok(dir), name) = (self.lower.parent(&rel), split(&rel).1) else {
            return Ok(false);
        };
        let Ok(fd) = open_in(&dir, name, OFlags::RDONLY) else {
            return Ok(false);
        };
        let (Ok(st), Some(new)) = (fstat(&fd), &change.new) else {
            return Ok(false);
        };
        let have = Snapshot::new(&st);
        let xattrs = all_xattrs(fd.as_fd()).map(|x| xattr_digest(&travelling(&x)));
        let same = have.kind == EntryKind::File
            && (have.mode, have.uid, have.gid) == (new.mode, new.uid, new.gid)
            && xattrs.is_ok_and(|x| x == change.xattrs)
            && content_hash(fd.as_fd(), have.size).ok() == change.content;
        if !same {
            return Ok(false);
        }
        // One more link changes the inode's ctime; its content is the session's, so that is ours.
        self.record
            .touch(&have)
            .map_err(io_at("write the commit record"))?;
        match linkat(&dir, name, parent, temp, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::MLINK | Errno::PERM | Errno::XDEV) => return Ok(false),
            Err(e) => return Err(Stop::Failed("make the hard link", e)),
        }
        let linked = stat_in(parent, temp.as_bytes()).ok().flatten();
        if linked.is_some_and(|l| l.id == have.id) {
            return Ok(true);
        }
        unlinkat(parent, temp, AtFlags::empty()).map_err(at("remove a stale link"))?;
        Ok(false)
    }

    fn copy(
        &self,
        change: &Change,
        updir: &OwnedFd,
        name: &[u8],
        new: &Snapshot,
        parent: &OwnedFd,
        temp: &str,
    ) -> Step<()> {
        let source = open_private(updir, name, false).map_err(at("open the session's copy"))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(parent, temp, flags, Mode::RUSR | Mode::WUSR)
            .map_err(at("create the temporary file"))?;
        copy_sparse(source.as_fd(), to.as_fd(), new.size)
            .map_err(at("write the temporary file"))?;
        let hash = content_hash(to.as_fd(), new.size).map_err(at("read the temporary file"))?;
        if change.content.as_ref() != Some(&hash) {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        }
        give_attributes(change, &source, &to, new)?;
        fsync(&to).map_err(at("sync the temporary file"))
    }

    /// Changes mode, owner and attributes of a file in place; the inode is checked by descriptor.
    fn file_meta(&mut self, change: &Change, parent: &OwnedFd, rel: &[u8]) -> Step<()> {
        let name = split(rel).1;
        let fd = open_in(parent, name, OFlags::RDONLY).map_err(at("open the original"))?;
        let now = Snapshot::new(&fstat(&fd).map_err(at("examine the original"))?);
        if !self.as_reviewed(change, Some(&now)) {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        let updir = self
            .upper
            .parent(rel)
            .map_err(at("open the session's copy"))?;
        let source = open_private(&updir, name, false).map_err(at("open the session's copy"))?;
        let new = Snapshot::new(&fstat(&source).map_err(at("examine the session's copy"))?);
        // The content is the same, so the original keeps its times.
        attributes(change, &source, &fd, &new)?;
        fsync(&fd).map_err(at("sync the original"))
    }

    /// Gives a directory its mode, owner and attributes; a new one also its times.
    fn directory_meta(&mut self, change: &Change, rel: &[u8], is_new: bool) -> Step<Status> {
        let (dir, name) = split(rel);
        let parent = if is_new {
            self.lower.dir(dir).map_err(at("open the directory"))?
        } else {
            self.parent(change, dir)?
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_in(&parent, name, flags).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                Stop::Conflict(Conflict::ChangedSinceReview)
            }
            e => Stop::Failed("open the directory", e),
        })?;
        let now = Snapshot::new(&fstat(&fd).map_err(at("examine the directory"))?);
        let ours = if is_new {
            self.made_dirs.get(rel) == Some(&now.id)
        } else {
            change.old.as_ref().is_some_and(|old| old.same_object(&now))
        };
        if !ours {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        let updir = self
            .upper
            .parent(rel)
            .map_err(at("open the session's copy"))?;
        let source = open_private(&updir, name, true).map_err(at("open the session's copy"))?;
        let new = Snapshot::new(&fstat(&source).map_err(at("examine the session's copy"))?);
        if change.new.as_ref().is_none_or(|c| !c.same_object(&new)) {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        }
        if is_new {
            give_attributes(change, &source, &fd, &new)?;
        } else {
            attributes(change, &source, &fd, &new)?;
        }
        fsync(&fd).map_err(at("sync the directory"))?;
        let end = Snapshot::new(&fstat(&fd).map_err(at("examine the directory"))?);
        self.record
            .touch(&end)
            .map_err(io_at("write the commit record"))?;
        Ok(Status::Committed)
    }

    /// Deals with temporary names of a run that was cut off.
    fn recover(&mut self, report: &mut CommitReport) {
        for temp in std::mem::take(&mut self.record.unfinished) {
            let (dir, name) = split(&temp.rel);
            let Ok(parent) = self.lower.dir(dir) else {
                continue;
            };
            let Ok(Some(found)) = stat_in(&parent, temp.name.as_bytes()) else {
                self.adopt(&temp);
                continue;
            };
            if Some(found.id) == temp.new {
                let _ = remove_built(&parent, &temp.name, temp.new);
                continue;
            }
            let temp_rel = join(dir, temp.name.as_bytes());
            if temp.new.is_none() && temp.old.is_none() {
                // Cut off while it was built. The record's tail may be lost in a power failure, so
                // what lies here could be an original after all: only an object born since that
                // commit began is ours.
                let born = born(&parent, &temp.name);
                if born.is_some() && born >= self.record.began {
                    let _ = remove_built(&parent, &temp.name, Some(found.id));
                } else {
                    report.kept.push(kept(self.layer, &temp_rel, &temp.rel));
                }
                continue;
            }
            let Some(old) = temp.old.filter(|old| old.id == found.id) else {
                report.kept.push(kept(self.layer, &temp_rel, &temp.rel));
                continue;
            };
            if self.is_verified(&parent, &temp_rel, &old) {
                // The swap or the deletion was complete: this is the reviewed original.
                self.store(&parent, temp_rel, &temp.name, old, &temp.rel);
                continue;
            }
            // Someone else was changing the original that was swapped or moved aside: undo it.
            let flags = if temp.new.is_some() {
                RenameFlags::EXCHANGE
            } else {
                RenameFlags::NOREPLACE
            };
            let ours = stat_in(&parent, name).ok().flatten().map(|s| s.id) == temp.new;
            let undone = ours && renameat_with(&parent, &temp.name, &parent, name, flags).is_ok();
            if !undone {
                report.kept.push(kept(self.layer, &temp_rel, &temp.rel));
            } else if temp.new.is_some() {
                let _ = remove_built(&parent, &temp.name, temp.new);
            }
        }
    }

    /// Takes over a verified original that a run which was cut off had moved to the trash folder.
    fn adopt(&mut self, temp: &Temp) {
        let Ok(trash) = Tree::open(&self.layer.trash_path(), false) else {
            return;
        };
        let stored = trash.stat(temp.name.as_bytes()).ok().flatten();
        if let (Some(old), Some(stored)) = (&temp.old, stored)
            && old.same_object(&stored)
        {
            self.trashed.push(Trashed {
                rel: join(split(&temp.rel).0, temp.name.as_bytes()),
                stored: Some(temp.name.clone()),
                was: old.clone(),
                of: temp.rel.clone(),
            });
            self.trash = Some(trash);
        }
    }

    /// Syncs, takes applied and discarded entries out of the upper directory, empties the trash.
    fn finish(mut self, work: &[Work<'_>], statuses: &[Option<Status>], report: &mut CommitReport) {
        let mut synced = true;
        for dir in &self.dirty {
            let result = self
                .lower
                .dir(dir)
                .and_then(|fd| open_in(fd, b".", OFlags::RDONLY | OFlags::DIRECTORY))
                .and_then(fsync);
            if let Err(e) = result {
                synced = false;
                report
                    .warnings
                    .push(format!("cannot sync {}: {e}", escape_bytes(dir)));
            }
        }
        if !synced {
            // Entries stay in the upper directory and originals in the trash: a repeated run is safe.
            return;
        }
        let done = |i: usize| {
            matches!(
                statuses[i],
                Some(Status::Committed | Status::AlreadyApplied | Status::Discarded)
            )
        };
        let removals: Vec<Removal<'_>> = work
            .iter()
            .map(|w| Removal {
                change: w.1,
                rel: &w.2,
                gone: done(w.0),
            })
            .collect();
        if let Err(e) = remove_applied(&self.upper, &removals) {
            report
                .warnings
                .push(format!("cannot clean the session's upper directory: {e}"));
        }
        if self.failed.is_none() {
            self.empty_trash(report);
        } else {
            for t in &self.trashed {
                report.kept.push(self.describe(t));
            }
        }
        if let Err(e) = self.record.finish() {
            report
                .warnings
                .push(format!("cannot write the commit record: {e}"));
        }
    }

    fn empty_trash(&mut self, report: &mut CommitReport) {
        for t in &self.trashed {
            let (tree, rel) = match (&t.stored, &self.trash) {
                (Some(name), Some(trash)) => (trash, name.as_bytes()),
                _ => (&self.lower, t.rel.as_slice()),
            };
            let now = tree.stat(rel).ok().flatten();
            // A program that had the original open may have written to it after the swap.
            let untouched = now.as_ref().is_some_and(|now| t.was.same_object(now))
                && (t.was.kind != EntryKind::Directory
                    || below(tree, rel, self.layer, &self.record)
                        .conflict
                        .is_none());
            if !untouched {
                report.kept.push(self.describe(t));
            } else if let Err(e) = remove_tree(tree, rel) {
                report
                    .warnings
                    .push(format!("cannot remove the replaced original: {e}"));
                report.kept.push(self.describe(t));
            }
        }
        // Only succeeds when empty.
        let _ = std::fs::remove_dir(self.layer.trash_path());
    }

    fn describe(&self, t: &Trashed) -> String {
        match &t.stored {
            Some(name) => format!(
                "{} keeps the original of {}",
                escape_bytes(self.layer.trash_path().join(name).as_os_str().as_bytes()),
                escape_bytes(&t.of)
            ),
            None => kept(self.layer, &t.rel, &t.of),
        }
    }
}

fn kept(layer: &Layer, at: &[u8], of: &[u8]) -> String {
    format!(
        "{} keeps the original of {}",
        escape_bytes(absolute(&layer.root, at).as_os_str().as_bytes()),
        escape_bytes(of)
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Directories,
    Files,
    Others,
    Deletions,
    DirectoryMeta,
}

fn phase_of(change: &Change) -> Phase {
    match (change.kind, change.entry) {
        (ChangeKind::Delete, _) => Phase::Deletions,
        (ChangeKind::Meta, EntryKind::Directory) => Phase::DirectoryMeta,
        (_, EntryKind::Directory) => Phase::Directories,
        (_, EntryKind::File) => Phase::Files,
        _ => Phase::Others,
    }
}

/// What is decided without touching anything.
fn triage(change: &Change, disposition: Disposition) -> Option<Status> {
    let held = |reason| Some(Status::Held { reason });
    match disposition {
        Disposition::Discard => return Some(Status::Discarded),
        Disposition::Hold => return held(HoldReason::Asked),
        Disposition::Commit | Disposition::CommitSpecial => {}
    }
    if change.kind == ChangeKind::Special {
        return held(HoldReason::Special);
    }
    if let Some(conflict) = &change.conflict {
        let conflict = conflict.clone();
        return Some(Status::Conflict { conflict });
    }
    if disposition == Disposition::Commit && !change.privileges.is_empty() {
        let privileges = change.privileges.clone();
        return held(HoldReason::Privileged { privileges });
    }
    None
}

/// Mode, owner and attributes of `source` for `to`, which must be what was reviewed.
fn attributes(change: &Change, source: &OwnedFd, to: &OwnedFd, new: &Snapshot) -> Step<()> {
    let all = all_xattrs(source.as_fd()).map_err(at("read the attributes"))?;
    let want: Xattrs = travelling(&all);
    if xattr_digest(&want) != change.xattrs {
        return Err(Stop::Conflict(Conflict::UpperChanged));
    }
    let have = Snapshot::new(&fstat(to).map_err(at("examine the new object"))?);
    if (have.uid, have.gid) != (new.uid, new.gid) {
        let uid = (have.uid != new.uid).then(|| Uid::from_raw(new.uid));
        let gid = (have.gid != new.gid).then(|| Gid::from_raw(new.gid));
        fchown(to, uid, gid).map_err(at("set the owner"))?;
    }
    // Capabilities last: changing the owner drops them, as it drops the set-id bits.
    let plain = want.iter().filter(|(k, _)| k.as_slice() != CAPABILITY);
    set_xattrs(to, &plain.map(|(k, v)| (k.clone(), v.clone())).collect())
        .map_err(at("set the attributes"))?;
    fchmod(to, Mode::from_raw_mode(new.mode)).map_err(at("set the mode"))?;
    set_xattrs(to, &want).map_err(at("set the attributes"))
}

fn give_attributes(change: &Change, source: &OwnedFd, to: &OwnedFd, new: &Snapshot) -> Step<()> {
    attributes(change, source, to, new)?;
    futimens(to, &times(new.mtime)).map_err(at("set the times"))
}

/// Owner and times of a symlink or node.
fn own(parent: &OwnedFd, temp: &str, new: &Snapshot) -> Step<()> {
    let have = stat_in(parent, temp.as_bytes()).map_err(at("examine the new object"))?;
    if have.is_some_and(|h| (h.uid, h.gid) != (new.uid, new.gid)) {
        let (uid, gid) = (Uid::from_raw(new.uid), Gid::from_raw(new.gid));
        chownat(
            parent,
            temp,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(at("set the owner"))?;
    }
    utimensat(parent, temp, &times(new.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(at("set the times"))
}

fn times(t: Timestamp) -> Timestamps {
    let t = Timespec {
        tv_sec: t.sec,
        tv_nsec: i64::from(t.nsec),
    };
    Timestamps {
        last_access: t,
        last_modification: t,
    }
}

/// When an object was made, where the file system knows.
fn born(dir: &OwnedFd, name: &str) -> Option<Timestamp> {
    let found = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok()?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    known.then_some(Timestamp {
        sec: found.stx_btime.tv_sec,
        nsec: found.stx_btime.tv_nsec,
    })
}

/// Removes a temporary object of ours, which is a file, a link or an empty directory; given its
/// identity, nothing else that took the name.
fn remove_built(parent: &OwnedFd, temp: &str, only: Option<FileId>) -> Result<(), Errno> {
    let found = stat_in(parent, temp.as_bytes())?.map(|s| s.id);
    if only.is_some() && found != only {
        return Ok(());
    }
    match unlinkat(parent, temp, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(parent, temp, AtFlags::REMOVEDIR),
        other => other,
    }
}
