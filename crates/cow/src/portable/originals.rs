//! The originals that a layer touches, by what another machine can compare.
//!
//! An original that is not what the session began on is listed without what it was: nobody knows that
//! any more, and elsewhere it is a conflict.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{OFlags, fstat, readlinkat};
use rustix::io::Errno;

use super::contents::{Original, Target, Was, components};
use super::gather::Gather;
use super::{Entry, ExportError, Kind};
use crate::content::{all_xattrs, content_hash, travelling, xattr_digest};
use crate::dir::{EntryKind, Snapshot, join, list_sorted, open_in, split, stat_in};

impl Gather {
    /// What was at every path that the entries touch. `rewritten`: where the content is another.
    pub(super) fn originals(
        &mut self,
        entries: &[Entry],
        doubtful: &HashSet<Vec<u8>>,
        rewritten: &HashSet<Vec<u8>>,
    ) -> Result<(), ExportError> {
        let names: HashSet<&[u8]> = entries.iter().map(|e| e.rel.as_slice()).collect();
        // Directories whose originals show nothing of what is in them.
        let mut hiding: HashSet<&[u8]> = HashSet::new();
        for entry in entries {
            let rel = entry.rel.as_slice();
            if let Kind::Directory { opaque } = entry.kind
                && (opaque || hiding.contains(split(rel).0))
            {
                hiding.insert(rel);
            }
            let found = match &self.lower {
                Some(lower) => lower.stat(rel).map_err(|e| self.error(rel, e))?,
                None => None,
            };
            if doubtful.contains(rel) || self.lower.is_none() {
                self.push(rel, None);
            } else if let Some(found) = &found {
                let mut was = self.was(rel, found);
                if let (Some(was), Kind::File { .. } | Kind::Link { .. }) = (&mut was, &entry.kind)
                    && was.kind == EntryKind::File
                    && !rewritten.contains(rel)
                {
                    was.mtime = Some(found.mtime);
                }
                self.push(rel, was);
            }
            let is_dir = found.is_some_and(|f| f.kind == EntryKind::Directory);
            let goes = match entry.kind {
                Kind::Directory { .. } => hiding.contains(rel),
                _ => true,
            };
            if is_dir && goes {
                self.below(rel, &names)?;
            }
        }
        let key = |o: &Original| components(&o.path);
        self.originals.sort_by_cached_key(key);
        Ok(())
    }

    /// Everything below an original directory that is no entry itself.
    fn below(&mut self, rel: &[u8], names: &HashSet<&[u8]>) -> Result<(), ExportError> {
        let mut stack = vec![rel.to_vec()];
        while let Some(dir) = stack.pop() {
            let opened = self
                .lower
                .as_ref()
                .map_or(Err(Errno::NOENT), |l| l.dir(&dir));
            let listed = opened.and_then(|fd| Ok((list_sorted(fd.as_fd())?, fd)));
            let Ok((found, fd)) = listed else {
                // What cannot be looked into is not known, and so not what anybody else has.
                self.originals.retain(|o| o.path != dir);
                self.push(&dir, None);
                continue;
            };
            for name in found {
                let at = join(&dir, &name);
                if names.contains(at.as_slice()) {
                    continue;
                }
                let Some(seen) = stat_in(&fd, &name).map_err(|e| self.error(&at, e))? else {
                    continue;
                };
                let was = self.was(&at, &seen);
                self.push(&at, was);
                if seen.kind == EntryKind::Directory {
                    stack.push(at);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, rel: &[u8], was: Option<Was>) {
        self.originals.push(Original {
            layer: self.part,
            path: rel.to_vec(),
            was,
        });
    }

    /// An original as another machine compares it, if it is what the session began on.
    fn was(&self, rel: &[u8], seen: &Snapshot) -> Option<Was> {
        let is_dir = seen.kind == EntryKind::Directory;
        let in_layer = join(&self.prefix, rel);
        if !is_dir && self.base.changed(&in_layer, seen, &self.record) {
            return None;
        }
        let dir = self.lower.as_ref()?.parent(rel).ok()?;
        let was = Was::of(&dir, split(rel).1, seen)?;
        let after = stat_in(&dir, split(rel).1).ok()??;
        (is_dir || after == *seen).then_some(was)
    }
}

impl Was {
    /// What lies under a name; `None` if it cannot be read.
    pub(super) fn of(dir: &OwnedFd, name: &[u8], seen: &Snapshot) -> Option<Was> {
        let mut was = Was {
            kind: seen.kind,
            mode: seen.mode,
            owner: (seen.uid, seen.gid),
            size: None,
            content: None,
            xattrs: None,
            target: None,
            mtime: None,
        };
        match seen.kind {
            EntryKind::File | EntryKind::Directory => {
                let flags = match seen.kind {
                    EntryKind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
                    _ => OFlags::RDONLY,
                };
                let fd = open_in(dir, name, flags).ok()?;
                if Snapshot::new(&fstat(&fd).ok()?).id != seen.id {
                    return None;
                }
                let all = all_xattrs(fd.as_fd()).ok()?;
                was.xattrs = xattr_digest(&travelling(&all));
                if seen.kind == EntryKind::File {
                    was.size = Some(seen.size);
                    was.content = Some(content_hash(fd.as_fd(), seen.size).ok()?);
                }
            }
            EntryKind::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).ok()?;
                was.target = Some(Target(target.into_bytes()));
                was.mode = 0o777;
            }
            _ => {}
        }
        Some(was)
    }
}
