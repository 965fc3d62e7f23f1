//! What a tree is, with all that a commit must carry over, and the first difference of two.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{lgetxattr, llistxattr};
use sha2::{Digest, Sha256};

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Type, mode, owner, size, content or target, attributes.
    text: String,
    /// All names that are this file, if there are more.
    names: Vec<PathBuf>,
    /// Seconds and nanoseconds of its last change.
    time: (i64, i64),
    /// Bytes that it occupies.
    occupied: u64,
    /// Which object it is.
    inode: u64,
    /// A regular file without other names.
    single: bool,
}

/// Every name below a folder.
#[derive(Debug, Clone, Default)]
pub struct Looked(BTreeMap<PathBuf, Seen>);

/// What a file may occupy more than natively: the rest of a page at either end of a piece.
const SLACK: u64 = 16 << 10;

/// Looks at everything below a folder, itself included.
pub fn look(root: &Path) -> Result<Looked, String> {
    let mut out = Looked::default();
    let mut groups = BTreeMap::new();
    below(root, Path::new(""), &mut out, &mut groups)
        .map_err(|e| format!("{}: {e}", root.display()))?;
    for names in groups
        .into_values()
        .filter(|names: &Vec<PathBuf>| names.len() > 1)
    {
        for name in &names {
            if let Some(seen) = out.0.get_mut(name) {
                seen.names.clone_from(&names);
            }
        }
    }
    Ok(out)
}

fn below(
    root: &Path,
    rel: &Path,
    out: &mut Looked,
    groups: &mut BTreeMap<u64, Vec<PathBuf>>,
) -> std::io::Result<()> {
    let path = root.join(rel);
    let meta = fs::symlink_metadata(&path)?;
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "folder".to_owned()
    } else if kind.is_symlink() {
        format!("symlink to {}", fs::read_link(&path)?.display())
    } else if kind.is_file() {
        groups.entry(meta.ino()).or_default().push(rel.to_owned());
        let content = fs::read(&path).map(|b| format!("{:02x?}", &Sha256::digest(&b)[..6]));
        let content = content.unwrap_or_else(|e| format!("{:?}", e.kind()));
        format!("file of {} bytes {content}", meta.size())
    } else if kind.is_fifo() {
        "pipe".to_owned()
    } else {
        format!("special {:?}", kind)
    };
    let text = format!(
        "{what} {:o} {}:{}{}",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        attributes(&path)
    );
    let seen = Seen {
        text,
        names: Vec::new(),
        time: (meta.mtime(), meta.mtime_nsec()),
        occupied: if kind.is_file() {
            meta.blocks() * 512
        } else {
            0
        },
        inode: meta.ino(),
        single: kind.is_file() && meta.nlink() == 1,
    };
    out.0.insert(rel.to_owned(), seen);
    if kind.is_dir()
        && let Ok(entries) = fs::read_dir(&path)
    {
        let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        names.sort();
        for name in names {
            below(root, &rel.join(name), out, groups)?;
        }
    }
    Ok(())
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0u8; 4096];
    let n = llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut out: Vec<String> = names[..n]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 4096];
            let name = std::ffi::OsStr::from_bytes(name);
            let n = lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            format!(" {}={}", name.display(), value[..n].escape_ascii())
        })
        .collect();
    out.sort();
    out.concat()
}

impl Looked {
    /// The first difference to the tree that the same work made natively; `begun` (seconds) is when both
    /// began: a time before it was given, not passing, and must be the same to the nanosecond.
    ///
    /// Two times are not compared:
    /// * that of a folder in which nothing but content changed. A commit puts each new object in the place of
    ///   the original, so the folder has the time of the commit, while a write in place does not touch it;
    /// * that of an original which still has its own, unless it is a file of one name that natively is the
    ///   object that it was (`untouched`: the native tree before the work). A time alone of anything else (a
    ///   file with the same content made anew or linked, a file that was made and removed again in a
    ///   folder) is no change that a commit carries over.
    pub fn differs_from(
        &self,
        native: &Looked,
        untouched: &Looked,
        original: &Looked,
        begun: i64,
    ) -> Option<String> {
        let names = self.0.keys().chain(native.0.keys());
        for name in names {
            let shown = name.display();
            let (here, there) = match (self.0.get(name), native.0.get(name)) {
                (Some(here), Some(there)) => (here, there),
                (Some(here), None) => {
                    return Some(format!("'{shown}' is there, natively not: {}", here.text));
                }
                (_, there) => {
                    let text = there.map_or("", |t| t.text.as_str());
                    return Some(format!("'{shown}' is not there, natively it is: {text}"));
                }
            };
            if here.text != there.text {
                return Some(format!(
                    "'{shown}' is {}, natively {}",
                    here.text, there.text
                ));
            }
            if here.names != there.names && !self.still_one(here, original) {
                let (a, b) = (&here.names, &there.names);
                return Some(format!("'{shown}' is one of {a:?}, natively of {b:?}"));
            }
            let given = here.time.0 < begun || there.time.0 < begun;
            let worked_in = here.time.0 >= begun && self.changed_in(name, original);
            // A new name of an original is that original, with its time.
            let mut all = here.names.iter().chain([name]);
            let arrives = [here, there].iter().all(|seen| seen.single)
                && original.0.get(name).is_some_and(|was| was.single)
                && (untouched.0.get(name)).is_some_and(|was| was.inode == there.inode);
            let keeps =
                !arrives && all.any(|n| original.0.get(n).is_some_and(|was| was.time == here.time));
            if given && here.time != there.time && !worked_in && !keeps {
                let (a, b) = (here.time, there.time);
                return Some(format!("'{shown}' has the time {a:?}, natively {b:?}"));
            }
            if here.occupied > there.occupied + SLACK {
                let (a, b) = (here.occupied, there.occupied);
                return Some(format!("'{shown}' occupies {a} bytes, natively {b}"));
            }
        }
        None
    }

    /// Whether a file is one of several of the original tree, and all its names are as it was: what was only
    /// opened for writing or linked once more is not changed, and leaves its group in the session alone.
    fn still_one(&self, file: &Seen, original: &Looked) -> bool {
        let of_group = |name: &PathBuf| original.0.get(name).filter(|s| s.names.len() > 1);
        let before = file.names.iter().find_map(of_group);
        before.is_some_and(|before| {
            let text = |name: &PathBuf| self.0.get(name).map(|now| &now.text);
            let mut names = file.names.iter();
            names.all(|name| text(name) == Some(&before.text))
        })
    }

    /// Whether an object in this folder is not as it was in the original tree.
    fn changed_in(&self, folder: &Path, original: &Looked) -> bool {
        let own = |name: &&PathBuf| name.parent() == Some(folder);
        let is = |tree: &Looked, name: &PathBuf| {
            let seen = tree.0.get(name);
            seen.map(|s| (s.text.clone(), s.names.clone()))
        };
        let mut names = self.0.keys().chain(original.0.keys()).filter(own);
        names.any(|name| is(self, name) != is(original, name))
    }
}
