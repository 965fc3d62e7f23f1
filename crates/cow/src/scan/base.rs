//! Whether an original is what it was when the session began: the one place that says "old".
//!
//! With a manifest the answer is by identity (all that `lstat` tells); what the manifest cannot know,
//! because it was changed while it was being taken or could not be read, falls back to the change
//! time, always towards "changed". Without one the change time alone decides. What an earlier commit
//! of the same layer did is explained by its record either way.

use super::ScanError;
use crate::dir::{EntryKind, Snapshot};
use crate::layer::{FileId, Layer, Timestamp};
use crate::manifest::{AtBase, Manifest};
use crate::portable::Differences;
use crate::record::{Here, Record, Rel};

/// What is known about the originals of a layer at its base.
#[derive(Debug)]
pub(crate) struct Base {
    moment: Timestamp,
    manifest: Option<Manifest>,
    /// Of an imported layer: what was another original here from the beginning.
    differences: Differences,
}

impl Base {
    pub(crate) fn of(layer: &Layer) -> Result<Base, ScanError> {
        Ok(Base {
            moment: layer.base,
            manifest: Manifest::of(layer)?.ok(),
            differences: Differences::of(layer)?,
        })
    }

    /// Whether nothing rests on change times: they may then be of a clock that was set back.
    pub(crate) fn is_exact(&self) -> bool {
        self.manifest.as_ref().is_some_and(Manifest::is_whole)
    }

    /// Someone else changed the original at `rel` since the session began, or since our own last step
    /// there.
    pub(crate) fn changed(&self, rel: &[u8], now: &Snapshot, record: &Record) -> bool {
        !record.own.explains(rel, now, || self.here(rel)) && self.differs(rel, now)
    }

    /// Which inode was at `rel` when the session began.
    fn here(&self, rel: &[u8]) -> Here {
        if self.differs_from_archive(rel) {
            return Here::Not;
        }
        match self.manifest.as_ref().map(|m| m.at(rel)) {
            Some(AtBase::There(was)) if was.in_place => Here::Is(was.seen.id),
            Some(AtBase::Absent { exact: true }) => Here::Not,
            _ => Here::Unknown,
        }
    }

    /// Whether this is the very object that was here at the base, and nobody else changed it. Not so what
    /// a commit of this layer put in its place.
    pub(crate) fn is_original(&self, rel: &[u8], now: &Snapshot, record: &Record) -> bool {
        if !self.differs(rel, now) {
            return true;
        }
        let at = self.manifest.as_ref().map(|m| m.at(rel));
        let same = matches!(at, Some(AtBase::There(was)) if was.known && was.seen.id == now.id);
        same && record.own.explains(rel, now, || self.here(rel)) && !self.differs_from_archive(rel)
    }

    fn differs(&self, rel: &[u8], now: &Snapshot) -> bool {
        if self.differs_from_archive(rel) {
            return true;
        }
        let stamped = now.ctime >= self.moment;
        let Some(manifest) = &self.manifest else {
            return stamped;
        };
        match manifest.at(rel) {
            AtBase::There(was) if was.known => was.seen != *now,
            AtBase::There(was) => was.late || stamped || was.seen != *now,
            AtBase::Absent { .. } => true,
            AtBase::Unread => stamped,
        }
    }

    fn differs_from_archive(&self, rel: &[u8]) -> bool {
        let Differences { changed, .. } = &self.differences;
        !changed.is_empty() && changed.contains(&Rel(rel.to_vec()))
    }

    /// The imported layer was made on an original at `rel`, and there was none here.
    fn lacked(&self, rel: &[u8]) -> bool {
        let Differences { missing, .. } = &self.differences;
        !missing.is_empty() && missing.contains(&Rel(rel.to_vec()))
    }

    /// Whether there was an object at `rel`, or our own work left one there; `None` when only change
    /// times could tell.
    pub(crate) fn had(&self, rel: &[u8], record: &Record) -> Option<bool> {
        if let Some(ours) = record.own.had(rel) {
            return Some(ours);
        }
        if self.lacked(rel) {
            return Some(true);
        }
        match self.manifest.as_ref()?.at(rel) {
            AtBase::There(_) => Some(true),
            AtBase::Absent { exact: true } => Some(false),
            AtBase::Absent { exact: false } | AtBase::Unread => None,
        }
    }

    /// What kind of object was at `rel` when the session began, if the manifest knows.
    pub(crate) fn kind(&self, rel: &[u8]) -> Option<EntryKind> {
        match self.manifest.as_ref()?.at(rel) {
            AtBase::There(was) => Some(was.seen.kind),
            AtBase::Absent { .. } | AtBase::Unread => None,
        }
    }

    /// Whether another directory than this one was at `rel`; `None` when that is not known. One that
    /// came where none was is no other one: what is in it is judged by itself.
    pub(crate) fn moved(&self, rel: &[u8], now: FileId, record: &Record) -> Option<bool> {
        if let Some(ours) = record.own.directory(rel) {
            return Some(ours != now);
        }
        if record.own.had(rel) == Some(false) {
            return Some(false);
        }
        match self.manifest.as_ref()?.at(rel) {
            AtBase::There(was) if was.in_place => {
                Some(was.seen.kind == EntryKind::Directory && was.seen.id != now)
            }
            AtBase::Absent { exact: true } => Some(false),
            _ => None,
        }
    }
}
