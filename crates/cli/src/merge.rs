//! Three-way merge at a commit: a text file that both the session and somebody else changed.
//!
//! The base is what the file held when the session began. It is known where a reflink of that version is
//! kept beside the layer, else where git recorded it: where the index of the originals' repository has an
//! entry whose stat data is that of the session's base manifest. That is no base where the session's copy
//! was made of something else ([`CommonBases`]). Without a base there is no merge, only a person who looks
//! at the hunks. What overlaps, and what is no text, stays a conflict; the reason is said.

use std::path::Path;

use agentwall_cow::{
    AmendError, Amendment, AtBase, Change, ChangeKind, CommonBases, Conflict, DiffOptions,
    EntryKind, Manifest, Merged, Sides, Snapshot, kept_original, merge,
};

use crate::{output, session::Session};

mod git;

/// What a person wants where both sides changed a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlaps {
    /// They stay conflicts.
    Stay,
    /// They are committed with conflict markers.
    Marked,
}

/// How the merge of one change came out.
#[derive(Debug)]
pub enum Attempt {
    /// It can be committed.
    Merged(Amendment),
    /// It can be committed, with this many conflicts marked in the text.
    Marked(Amendment, usize),
    /// It stays a conflict; why, escaped.
    No(String),
}

/// What the files of a session were when it began.
#[derive(Debug)]
pub struct Bases<'s> {
    session: &'s Session,
    /// One for each layer; why there is none, escaped.
    manifests: Vec<Result<Manifest, String>>,
    /// One for each layer.
    common: Vec<Result<CommonBases, String>>,
}

impl<'s> Bases<'s> {
    /// Of a session.
    pub fn of(session: &'s Session) -> Bases<'s> {
        let manifest = |layer| match Manifest::of(layer) {
            Ok(Ok(manifest)) => Ok(manifest),
            Ok(Err(refusal)) => Err(output::tame(&refusal.to_string())),
            Err(e) => Err(output::tame(&e.to_string())),
        };
        let common = |layer| CommonBases::of(layer).map_err(|e| output::tame(&e.to_string()));
        Bases {
            session,
            common: session.record.layers.iter().map(common).collect(),
            manifests: session.record.layers.iter().map(manifest).collect(),
        }
    }

    /// The file as the manifest has it, and its content.
    fn base(&self, change: &Change) -> Result<(Snapshot, Vec<u8>), String> {
        let none = |why: &str| format!("what it was when the session began is not known ({why})");
        let layer = self.session.record.layers.get(change.layer);
        let (Some(layer), Some(manifest)) = (layer, self.manifests.get(change.layer)) else {
            return Err(none("it is in no layer"));
        };
        let manifest = manifest.as_ref().map_err(|why| none(why))?;
        let below = change.path.strip_prefix(&layer.root).ok();
        let rel = below.ok_or_else(|| none("it is in no layer"))?;
        let common = self.common.get(change.layer).map(Result::as_ref);
        match common.ok_or_else(|| none("it is in no layer"))? {
            Err(why) => return Err(none(why)),
            Ok(common) => {
                if let Some(why) = common.lacks(bytes(rel)) {
                    return Err(format!(
                        "no version is known of which both were made ({why})"
                    ));
                }
            }
        }
        let seen = match manifest.at(bytes(rel)) {
            AtBase::There(was) if was.known && was.seen.kind == EntryKind::File => was.seen,
            _ => return Err(none("the base manifest has no sure record of it")),
        };
        let kept = match kept_original(layer, &seen) {
            Ok(Some(content)) => return Ok((seen, content)),
            Ok(None) => "no reflink of it is kept".to_owned(),
            Err(e) => output::tame(&format!("the reflink of it cannot be read: {e}")),
        };
        let content = git::content(&change.path, &seen);
        let content = content.map_err(|why| none(&format!("{kept}, and {why}")))?;
        Ok((seen, content))
    }

    /// Merges one change, if it is one that both sides made of a text.
    pub fn attempt(&self, change: &Change, overlaps: Overlaps) -> Attempt {
        self.try_to(change, overlaps).unwrap_or_else(Attempt::No)
    }

    fn try_to(&self, change: &Change, overlaps: Overlaps) -> Result<Attempt, String> {
        if let Some(why) = never(change) {
            return Err(why);
        }
        let refused = |e: AmendError| format!("not merged: {}", output::tame(&e.to_string()));
        let max = DiffOptions::default().max_file;
        let sides = Sides::read(&self.session.record.layers, change, max).map_err(refused)?;
        let not = |why| format!("not merged: {why}; 'agentwall review' shows its hunks");
        let (seen, base) = self.base(change).map_err(not)?;
        let (content, places) = match merge(&base, &sides.original, &sides.copy) {
            Merged::Clean(content) => (content, 0),
            Merged::Overlap { places, marked } if overlaps == Overlaps::Marked => (marked, places),
            Merged::Overlap { places, .. } => {
                let places = output::count(places, "place");
                return Err(format!(
                    "not merged: both sides changed the same lines in {places}"
                ));
            }
        };
        let amendment = sides.merged(change, &seen, content).map_err(refused)?;
        Ok(match places {
            0 => Attempt::Merged(amendment),
            n => Attempt::Marked(amendment, n),
        })
    }
}

/// What happened to an original that is never merged; `None` where a merge may be tried.
fn never(change: &Change) -> Option<String> {
    let conflict = change.conflict.as_ref()?;
    let said = || output::tame(&conflict.to_string());
    match (conflict, change.kind) {
        (Conflict::Changed { .. }, ChangeKind::Modify) if change.entry == EntryKind::File => None,
        (Conflict::Changed { .. }, ChangeKind::Modify) => {
            Some("not merged: no regular file; the original changed after the session began".into())
        }
        (Conflict::Changed { .. }, ChangeKind::Delete) => {
            Some("not merged: the session deleted it, and the original was edited".into())
        }
        (Conflict::Changed { .. }, ChangeKind::Meta) => Some(
            "not merged: the session changed its mode, owner or attributes, and the original changed"
                .into(),
        ),
        (Conflict::Changed { .. }, ChangeKind::Replace) => {
            let kind = change.old.as_ref().map(|s| s.kind);
            Some(format!(
                "not merged: the original is {} now",
                match kind {
                    Some(EntryKind::Directory) => "a directory",
                    Some(EntryKind::Symlink) => "a symlink",
                    Some(EntryKind::File) => "another file",
                    _ => "no regular file",
                }
            ))
        }
        _ => Some(format!("not merged: {}", said())),
    }
}

fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}
