//! A snapshot of a folder: what the host would notice if anything in it changed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Everything about one name that must not change: kind, mode, owner, change time, content.
pub type Entry = String;

/// Every name below a folder, with its state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Entry>);

/// What goes into an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Also owner, inode and change time: nothing may have touched it.
    Exact,
    /// Kind, permissions and content: two trees made by different runs can be compared.
    Content,
}

impl Tree {
    /// Looks at everything below `root`, not following symlinks.
    pub fn of(root: &Path, depth: Depth) -> Self {
        let mut tree = Tree::default();
        walk(root, root, depth, &mut tree);
        tree
    }

    /// One line for each difference.
    pub fn diff(&self, after: &Tree) -> Vec<String> {
        let mut out = Vec::new();
        for (path, was) in &self.0 {
            match after.0.get(path) {
                None => out.push(format!("gone: {}", path.display())),
                Some(is) if is != was => {
                    out.push(format!("changed: {} ({was} -> {is})", path.display()))
                }
                Some(_) => {}
            }
        }
        for path in after.0.keys().filter(|p| !self.0.contains_key(*p)) {
            out.push(format!("new: {:?}", path));
        }
        out
    }
}

fn walk(root: &Path, dir: &Path, depth: Depth, tree: &mut Tree) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = meta.file_type();
        let mut state = if kind.is_dir() {
            format!("dir {:o}", meta.mode() & 0o7777)
        } else if kind.is_symlink() {
            format!(
                "link to {}",
                fs::read_link(&path).unwrap_or_default().display()
            )
        } else if kind.is_file() {
            let hash = fs::read(&path)
                .map(|b| Sha256::digest(&b))
                .unwrap_or_default();
            format!(
                "file {:o} {} bytes {:02x?}",
                meta.mode() & 0o7777,
                meta.size(),
                &hash[..6]
            )
        } else if kind.is_socket() {
            "socket".to_owned()
        } else {
            format!("special {:o} device {}", meta.mode(), meta.rdev())
        };
        if depth == Depth::Exact {
            state += &format!(" owner {}:{}", meta.uid(), meta.gid());
            if !kind.is_dir() {
                state += &format!(
                    " inode {} changed {}.{}",
                    meta.ino(),
                    meta.ctime(),
                    meta.ctime_nsec()
                );
            }
        }
        tree.0
            .insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), state);
        if kind.is_dir() {
            walk(root, &path, depth, tree);
        }
    }
}
