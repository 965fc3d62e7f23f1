//! What a policy says about places, as notes on objects: a name in a table is not all that leads to an object.
//!
//! Two things are told by device and inode. A *folder above* something that a rule refuses to read is pinned: moved
//! by a governed process, what is in it would have another name. A file in such a place that has *several
//! names* (hard links) is noted with the name that the rule is about, which is then asked as well.
//!
//! It is looked for where patterns have a fixed front; a place behind a wildcard, and a name that somebody makes
//! later, are not found (THREAT_MODEL.md).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agentwall_action::{Action, Facts, Resource, Subject, Verb};
use agentwall_policy::Policy;

use crate::wall::Note;

/// How many entries of refused trees are looked at for files with several names.
pub const MAX_ENTRIES: usize = 200_000;

/// The notes that a policy asks for on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Objects and what is to be noted of them.
    pub notes: BTreeMap<PathBuf, Note>,
    /// Refused trees had more than [`MAX_ENTRIES`] entries: not all were looked at.
    pub cut: bool,
}

impl Notes {
    /// Looks at the places of a policy, as the subject has it. What cannot be looked at is left out.
    pub fn of(policy: &Policy, subject: &Subject, facts: &Facts) -> Notes {
        let mut found = Notes::default();
        let mut left = MAX_ENTRIES;
        for anchor in policy.anchors() {
            let Ok(meta) = fs::symlink_metadata(&anchor) else {
                continue;
            };
            if !is_refused(policy, subject, facts, &anchor, meta.is_dir()) {
                continue;
            }
            for above in anchor.ancestors().skip(1) {
                if above.parent().is_some() {
                    found.pin(above);
                }
            }
            if meta.is_dir() {
                found.pin(&anchor);
            }
            found.cut |= !look(&anchor, &meta, &mut left, &mut found.notes);
        }
        found
    }

    fn pin(&mut self, folder: &Path) {
        self.notes.insert(folder.to_owned(), Note::Pinned);
    }
}

/// Whether a rule refuses to read it. A default needs no note: it is not asked about other names.
fn is_refused(
    policy: &Policy,
    subject: &Subject,
    facts: &Facts,
    path: &Path,
    is_dir: bool,
) -> bool {
    let resource = if is_dir {
        Resource::directory(path)
    } else {
        Resource::path(path)
    };
    let mut action = Action::new(subject.clone(), Verb::FileRead, resource);
    action.facts = facts.clone();
    let decision = policy.decide(&action);
    decision.rule.is_some() && !decision.effect.proceeds()
}

/// Notes the files of a tree that have several names; false if there was more than `left` allowed.
fn look(
    path: &Path,
    meta: &fs::Metadata,
    left: &mut usize,
    notes: &mut BTreeMap<PathBuf, Note>,
) -> bool {
    if *left == 0 {
        return false;
    }
    *left -= 1;
    if meta.is_dir() {
        let Ok(entries) = fs::read_dir(path) else {
            return true;
        };
        return entries.flatten().all(|entry| match entry.metadata() {
            Ok(meta) => look(&entry.path(), &meta, left, notes),
            Err(_) => true,
        });
    }
    if meta.is_file() && meta.nlink() > 1 {
        let name = path.as_os_str().as_bytes().to_vec();
        notes.insert(path.to_owned(), Note::Alias(name));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentwall_policy::{Layer, Source, Variables, load};

    #[test]
    fn folders_above_and_second_names_are_noted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/secret/deep")).unwrap();
        fs::create_dir_all(root.join("open")).unwrap();
        for file in ["a/secret/one", "a/secret/deep/two", "open/three"] {
            fs::write(root.join(file), "x").unwrap();
        }
        fs::hard_link(root.join("a/secret/deep/two"), root.join("open/link")).unwrap();
        fs::hard_link(root.join("open/three"), root.join("open/four")).unwrap();
        let text = format!(
            "agentwall: 1\ndefault: allow\nrules:\n  - {{ id: s, action: file.read, resource: \
             '{0}/a/secret/**', effect: deny }}\n  - {{ id: o, action: file.read, resource: \
             '{0}/open/**', effect: allow }}\n",
            root.display()
        );
        let policy = load(
            &[Source::new("p", text, Layer::User)],
            &Variables::default(),
        )
        .unwrap();
        let found = Notes::of(&policy, &Subject::agent("a"), &Facts::default());
        assert!(!found.cut);
        let two = root.join("a/secret/deep/two");
        let aliases: Vec<_> = (found.notes.iter())
            .filter(|(_, note)| **note != Note::Pinned)
            .collect();
        let name = Note::Alias(two.as_os_str().as_bytes().to_vec());
        assert_eq!(aliases, [(&two, &name)]);
        for pinned in ["a", "a/secret", ""] {
            let path = root.join(pinned).components().collect::<PathBuf>();
            assert_eq!(found.notes.get(&path), Some(&Note::Pinned), "{pinned}");
        }
        assert_eq!(found.notes.get(&root.join("open")), None);
        assert_eq!(found.notes.get(Path::new("/")), None);
    }
}
