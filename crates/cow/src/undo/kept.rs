//! What an undo needs of a commit, as a file next to the upper directory: every step with the object
//! that it left and the original that it took away, which rests in the trash folder.
//!
//! The file is written once per commit and layer, durable before the session's entries leave the upper
//! directory, and replaced as a whole. It also tells a commit's outcome to whoever finds that it was
//! cut off before the outcome was recorded. Its originals are kept until the session's next commit, and
//! only up to [`Keeping::limit`] bytes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::amend::Amended;
use crate::apply::Trashed;
use crate::change::ChangeKind;
use crate::content::{FileDigest, Xattrs, xattr_digest};
use crate::dir::{EntryKind, Snapshot};
use crate::layer::{FileId, Layer, Timestamp};
use crate::record::{InPlace, Pair, Pairs, Rel, Temp};

/// How much an undo may keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keeping {
    /// Bytes of originals of one layer.
    pub limit: u64,
}

/// One step of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Overlay-relative path.
    #[serde(with = "crate::bytes::raw")]
    pub rel: Vec<u8>,
    /// The name of the step, under which the original lies in the trash folder.
    pub name: String,
    /// The directory that holds the path.
    pub parent: FileId,
    /// What the commit left there; `None` for a deletion.
    pub after: Option<Snapshot>,
    /// Its content, for a regular file.
    pub content: Option<FileDigest>,
    /// Digest of its travelling attributes.
    pub xattrs: Option<String>,
    /// The path of which it is meant to be a hard link.
    pub link_to: Option<Rel>,
    /// The original; `None` for an addition.
    pub before: Option<Snapshot>,
    /// Its content, where it could be read.
    pub old_content: Option<FileDigest>,
    /// Attributes that changed in place, before and after: there is nothing in the trash then.
    pub in_place: Option<(Pairs, Pairs)>,
    /// What was committed is not the session's copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amended: Option<Amended>,
    /// The original does not rest as it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<Aside>,
    /// The names of further steps that this one stands for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folded: Vec<String>,
}

/// An original whose attributes the commit changed before it took the original away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Aside {
    /// How it rests.
    pub was: Snapshot,
    /// The attributes that it gets back, with the mode and owner of `before`.
    pub xattrs: Pairs,
}

impl Kept {
    pub(crate) fn of_temp(temp: Temp, parent: FileId, old_content: Option<FileDigest>) -> Kept {
        Kept {
            rel: temp.rel,
            name: temp.name,
            parent,
            after: temp.made,
            content: temp.content,
            xattrs: temp.xattrs,
            link_to: temp.link_to,
            before: temp.old,
            old_content,
            in_place: None,
            amended: temp.amended,
            aside: None,
            folded: Vec::new(),
        }
    }

    pub(crate) fn of_attributes(step: InPlace, after: Snapshot, parent: FileId) -> Kept {
        Kept {
            xattrs: xattr_digest(&unpairs(&step.to_xattrs)),
            rel: step.rel,
            name: step.name,
            parent,
            after: Some(after),
            content: None,
            link_to: None,
            before: Some(step.was),
            old_content: None,
            in_place: Some((step.xattrs, step.to_xattrs)),
            amended: None,
            aside: None,
            folded: Vec::new(),
        }
    }

    /// What kind of change it was.
    pub(crate) fn kind(&self) -> ChangeKind {
        match (&self.before, &self.after) {
            _ if self.in_place.is_some() => ChangeKind::Meta,
            (None, _) => ChangeKind::Add,
            (_, None) => ChangeKind::Delete,
            (Some(before), Some(after)) if before.kind == after.kind => ChangeKind::Modify,
            _ => ChangeKind::Replace,
        }
    }

    /// Type of the new object, of the old one for a deletion.
    pub(crate) fn entry(&self) -> EntryKind {
        let object = self.after.as_ref().or(self.before.as_ref());
        object.map_or(EntryKind::File, |s| s.kind)
    }

    /// All names that it has in the journal.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.name).chain(&self.folded)
    }

    /// The original as it rests in the trash.
    pub(crate) fn resting(&self) -> Option<&Snapshot> {
        let aside = self.aside.as_ref().map(|a| &a.was);
        aside.or(self.before.as_ref())
    }

    /// Whether an original lies in the trash.
    pub(crate) fn has_original(&self) -> bool {
        self.before.is_some() && self.in_place.is_none()
    }
}

/// A directory in which the commit worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirTime {
    /// Overlay-relative path.
    pub rel: Rel,
    /// Which directory.
    pub id: FileId,
    /// Its time before the first step in it.
    pub before: Timestamp,
    /// Its time after the last one.
    pub after: Timestamp,
}

/// Whether the originals are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Originals {
    /// In the trash folder.
    Kept,
    /// They were more than was to be kept.
    TooLarge { bytes: u64, limit: u64 },
    /// The session's folder is on another file system than the tree.
    OtherFileSystem,
    /// Somebody gave them up.
    Dropped,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptCommit {
    /// Version of the form, 1.
    pub v: u32,
    /// The name of the commit, in all layers.
    pub commit: String,
    /// When it began, on the file system's clock.
    pub at: Timestamp,
    pub originals: Originals,
    /// It was cut off, and nothing was committed since: the next commit goes on with it, under its name.
    #[serde(default)]
    pub cut_off: bool,
    pub steps: Vec<Kept>,
    pub dirs: Vec<DirTime>,
    /// Names of steps that came to nothing when the commit went on after a cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nothing: Vec<String>,
    /// Originals of an earlier commit that are about to be removed.
    pub stale: Vec<Trashed>,
}

impl KeptCommit {
    fn path(layer: &Layer) -> PathBuf {
        let mut name = OsString::from(layer.upper.as_os_str());
        name.push(".undo");
        PathBuf::from(name)
    }

    /// Reads the file; `None` when there is none.
    pub(crate) fn read(layer: &Layer) -> io::Result<Option<KeptCommit>> {
        let text = match fs::read(Self::path(layer)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let found: KeptCommit = serde_json::from_slice(&text)?;
        if found.v != 1 {
            let v = found.v;
            return Err(io::Error::other(format!(
                "{} has version {v}, expected 1: another version of this program wrote it",
                Self::path(layer).display()
            )));
        }
        Ok(Some(found))
    }

    /// Notes that a run which only recovers found another layer of this very commit cut off.
    pub(crate) fn note_cut_off(&mut self, layer: &Layer, commit: &str) -> io::Result<()> {
        if self.commit != commit || self.cut_off {
            return Ok(());
        }
        self.cut_off = true;
        self.write(layer)
    }

    /// When the file was written, if there is one.
    pub(crate) fn since(layer: &Layer) -> io::Result<Option<std::time::SystemTime>> {
        match fs::symlink_metadata(Self::path(layer)) {
            Ok(meta) => meta.modified().map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces the file; durable on return.
    pub(crate) fn write(&self, layer: &Layer) -> io::Result<()> {
        let path = Self::path(layer);
        let mut temp = path.clone().into_os_string();
        temp.push(".new");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temp)?;
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&temp, &path)?;
        sync_folder(layer)
    }

    /// Removes the file; durable on return.
    pub(crate) fn remove(layer: &Layer) -> io::Result<()> {
        match fs::remove_file(Self::path(layer)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Err(_) => Ok(()),
            Ok(()) => sync_folder(layer),
        }
    }

    /// The originals that it keeps in the trash folder.
    pub(crate) fn trashed(&self) -> Vec<Trashed> {
        let held = self.originals == Originals::Kept;
        let of_step = |k: &Kept| {
            Some(Trashed {
                rel: Vec::new(),
                stored: Some(k.name.clone()),
                was: k.resting()?.clone(),
                of: k.rel.clone(),
            })
        };
        let steps = self.steps.iter().filter(|k| held && k.has_original());
        steps
            .filter_map(of_step)
            .chain(self.stale.iter().cloned())
            .collect()
    }
}

fn sync_folder(layer: &Layer) -> io::Result<()> {
    File::open(layer.upper.parent().unwrap_or(&layer.upper))?.sync_all()
}

/// Attributes as they are written to a file.
pub(crate) fn pairs(xattrs: &Xattrs) -> Pairs {
    let pair = |(name, value): (&Vec<u8>, &Vec<u8>)| Pair {
        name: name.clone(),
        value: value.clone(),
    };
    xattrs.iter().map(pair).collect()
}

/// The same back.
pub(crate) fn unpairs(pairs: &Pairs) -> Xattrs {
    let pair = |p: &Pair| (p.name.clone(), p.value.clone());
    pairs.iter().map(pair).collect::<BTreeMap<_, _>>()
}
